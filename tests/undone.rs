//! What a loss of power undid, and the Spool still knows: Segments are saved without waiting for the disk, so one may be there of
//! commits that the database has lost, and one that was deleted may be there again.
//!
//! Made by hand: files are put back to what a disk held before. tests/power.rs finds such states by itself.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::ltx::Txid;
use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, folder, load, same_pages};
use std::path::PathBuf;

/// A process in a rollback-journal mode.
fn start(place: &Place) -> Process {
    let mut process = Process::start(place);
    process.sql("PRAGMA journal_mode=DELETE");
    process
}

/// A process that stores nothing: what it commits stays in the Spool.
fn start_without_replica(place: &Place) -> Process {
    Process::start_uri(&format!("file:{}?vfs=litestream&replica=off", place.path.display()))
}

fn fill(process: &mut Process) {
    process.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO t(b) SELECT randomblob(900) FROM n",
    );
}

/// Files as they are now, to be put back.
struct Kept(Vec<(PathBuf, Vec<u8>)>);

impl Kept {
    fn now(paths: &[PathBuf]) -> Kept {
        Kept(paths.iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect())
    }

    fn put_back(self) {
        for (path, bytes) in self.0 {
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// Goal: a transaction that a loss of power undid does not stand for the one that took its place, though both leave the same
/// header. Method: what such a loss leaves: the file and the records of before, and the transaction still in the Spool. Another
/// one is committed by a process that stores nothing, and then one that stores goes on. Which of the two it meets first is
/// chance, so this is done several times. The one that is on record is stored, and no image is needed.
#[test]
fn a_transaction_that_was_undone_does_not_hide_the_next_one() {
    load();
    for round in 0..8 {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").every("1h");
        let mut process = start(&place);
        fill(&mut process);
        process.is_stored(&place);
        process.end();
        let before = Kept::now(&[place.path.clone(), place.spool().join("links")]);
        let update = |id: u32| {
            let mut process = start_without_replica(&place);
            process.sql(&format!("UPDATE t SET b = randomblob(900) WHERE id = {id}"));
            process.end();
        };
        update(7);
        let segments = || place.segments().len();
        assert_eq!(segments(), 1, "it waits in the Spool");
        before.put_back();
        update(399);
        assert_eq!(segments(), 2, "both wait");
        let mut process = start(&place);
        process.is_stored(&place);
        process.sql("UPDATE t SET b = randomblob(300) WHERE id = 200");
        process.is_stored(&place);
        process.end();
        place.has_images(1..=1);
        assert_eq!(segments(), 0, "nothing is left behind");
        println!("round {round}: equal");
    }
}

/// Goal: a database's first transaction holds every page there was, but is no image of it later: while a new image is made,
/// the replica never goes back to what was stored long ago. Method: what a loss of power leaves that undoes the deletion of
/// stored Segments, a write that nobody saw, and an image that takes several slices. Each state of the replica is looked at.
#[test]
fn a_segment_that_was_stored_before_is_no_new_image() {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h");
    let mut process = start(&place);
    process.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)");
    let first = place.segments().pop().unwrap();
    let kept = folder.path().join("kept");
    std::fs::copy(&first, &kept).unwrap();
    process.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
         INSERT INTO t(b) SELECT zeroblob(3000) FROM n",
    );
    process.is_stored(&place);
    process.end();
    assert!(!first.exists(), "the transaction is stored");
    std::fs::rename(&kept, &first).unwrap();
    rusqlite::Connection::open(&place.path).unwrap().execute("INSERT INTO t(b) VALUES(zeroblob(3000))", []).unwrap();

    let mut process = start(&place);
    process.is_stored(&place);
    process.end();
    let mut ends: Vec<_> = place.listing().iter().map(|file| file.span.max).collect();
    ends.sort_unstable();
    ends.dedup();
    let rows = |txid: &Txid| -> u32 {
        let restored = place.restore_to(Target::Txid(*txid));
        let db = rusqlite::Connection::open(&restored).unwrap();
        let rows = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        std::fs::remove_file(restored).unwrap();
        rows
    };
    let stored: Vec<u32> = ends.iter().map(rows).collect();
    assert!(stored.is_sorted(), "rows in the replica's states: {stored:?}");
    assert_eq!(stored.last(), Some(&50_001));
}

/// Goal: commits that a loss of power took from the WAL are not stored for those that came after, in the same life of the WAL
/// and with the same numbers of frames. Method: a last close saves a Segment before it has synced the WAL; the files are put
/// back to what they were before these commits, and others follow: fewer, as many, more. No image is needed.
#[test]
fn what_the_wal_has_lost_is_not_taken_from_a_segment() {
    load();
    for commits in 0..5 {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").every("1h");
        let mut process = Process::start(&place);
        process.sql("PRAGMA journal_mode=WAL");
        fill(&mut process);
        process.is_stored(&place);
        process.kill();
        let wal = place.path.with_file_name("app.db-wal");
        let before = Kept::now(&[place.path.clone(), wal, place.spool().join("links"), place.spool().join("state")]);
        let work = |process: &mut Process, times: u32| {
            for id in 1..=times {
                process.sql(&format!("UPDATE t SET b = randomblob(900) WHERE id = {}", 30 * id));
            }
        };
        let mut process = start_without_replica(&place);
        work(&mut process, 2);
        process.end();
        assert_eq!(place.segments().len(), 1, "{commits}: they wait in the Spool");
        before.put_back();
        let mut process = Process::start(&place);
        work(&mut process, commits);
        process.is_stored(&place);
        work(&mut process, 1);
        process.is_stored(&place);
        process.end();
        place.has_images(1..=1);
        assert_eq!(place.segments().len(), 0, "{commits}: nothing is left behind");
    }
}

/// Goal: nor is what went with the WAL as a whole stored, not even for a moment. Method: the same with the first commits of a
/// WAL, of which nothing is left but their Segment. Each stored transaction restores to a state of the database.
#[test]
fn what_went_with_the_whole_wal_is_not_stored() {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h");
    let mut process = Process::start(&place);
    process.sql("PRAGMA journal_mode=WAL");
    fill(&mut process);
    process.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    process.is_stored(&place);
    process.kill();
    let before = Kept::now(&[place.path.clone(), place.spool().join("links"), place.spool().join("state")]);
    let stored = place.listing().iter().map(|file| file.span.max).max().unwrap();
    let mut process = start_without_replica(&place);
    process.sql("UPDATE t SET b = randomblob(900) WHERE id IN (7, 77)");
    process.end();
    assert_eq!(place.segments().len(), 1, "it waits in the Spool");
    before.put_back();
    let image = place.image();
    let mut process = Process::start(&place);
    process.is_stored(&place);
    let newest = place.listing().iter().map(|file| file.span.max).max().unwrap();
    for txid in (stored.0..=newest.0).map(Txid) {
        same_pages(&image, &place.restored(Target::Txid(txid)));
    }
    process.sql("UPDATE t SET b = randomblob(900) WHERE id = 7");
    process.is_stored(&place);
    process.end();
    assert_eq!(place.segments().len(), 0, "nothing is left behind");
}
