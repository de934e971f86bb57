//! A replica that is damaged behind our back mends itself: what is damaged is found before anything goes on its word, the
//! status names it, and what is sound, or the database, gives a new snapshot from which anybody restores.
//!
//! Live, through the built library, in folders. The decisions are played at length in `tests/compaction.rs`.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/litestream.rs"]
mod litestream;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::ltx::{FileInfo, Level};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use replicated::{Place, same_pages, status, step, sync, wait_for};
use rusqlite::Connection;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a replica may need to be whole again.
const PATIENCE: Duration = Duration::from_secs(40);

fn path_of(folder: &Path, file: &FileInfo) -> PathBuf {
    folder.join(format!("app.db-replica/ltx/{}/{}", file.level, file.span.file_name()))
}

/// A byte in the middle turned; the file keeps its time.
fn damage(folder: &Path, file: &FileInfo) {
    let path = path_of(folder, file);
    let (mut bytes, time) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
}

/// Without any way around: as everybody restores.
fn restores(place: &Place) -> bool {
    let out = place.path.with_extension("tried");
    let restored = restore::run(&place.store(), Target::Latest, &out, Options::default());
    let _ = fs::remove_file(&out); // not there where it failed
    restored.is_ok()
}

/// Waits until the replica restores as it should; every state in between.
#[track_caller]
fn mended(place: &Place, connection: &Connection) -> String {
    let states = RefCell::new(String::new());
    wait_for("the replica to be whole again", PATIENCE, || {
        states.borrow_mut().push_str(&status(connection));
        restores(place)
    });
    sync(connection);
    same_pages(&place.image(), &place.restored(Target::Latest));
    let theirs = litestream::restored(&place.replica, &[], &place.path.with_extension("theirs"));
    same_pages(&place.image(), &theirs.unwrap());
    states.into_inner()
}

fn newest(place: &Place, level: u8) -> Option<FileInfo> {
    place.listing().into_iter().filter(|file| file.level.get() == level).max_by_key(|file| file.span)
}

/// Goal: a newest snapshot that rotted lets nothing older go, although nobody else ever reads it, and a new one is made.
/// Method: intervals of seconds; the snapshot that holds everything damaged as soon as it is there, and nothing written
/// any more, so that a new one needs another name.
#[test]
fn retention_finds_a_damaged_snapshot_before_it_relies_on_it() {
    let folder = replicated::folder();
    let quick = "&levels=1s,2s&snapshot-interval=4s&snapshot-retention=4s&l0-retention=1s";
    let place = Place::in_folder(folder.path(), "app.db").with(quick);
    let connection = place.open_wal();
    let mut n = 0;
    while newest(&place, 9).is_none_or(|file| file.span.max.0 < 5) {
        n += 1;
        step(&connection, n);
        sync(&connection);
        std::thread::sleep(Duration::from_millis(100));
        assert!(n < 400, "no second snapshot came: {:?}", place.listing());
    }
    let last = sync(&connection);
    wait_for("a snapshot of everything", PATIENCE, || newest(&place, 9).is_some_and(|file| file.span.max == last));
    let rotten = newest(&place, 9).unwrap();
    damage(folder.path(), &rotten);
    let states = mended(&place, &connection);
    let name = rotten.span.file_name();
    assert!(states.contains(&format!("damaged in the replica: level 9 {name}")), "{name}: {states}");
    wait_for("what is damaged to go in the end", PATIENCE, || !path_of(folder.path(), &rotten).exists());
    wait_for("the status to forget it", PATIENCE, || !status(&connection).contains("damaged in"));
}

/// Goal: a merge that meets damage stops nothing for long, also where what the damaged file was made of is gone: the
/// database gives a new image. Method: a file of the top level damaged before a snapshot is made of it, while rows come.
#[test]
fn a_merge_that_meets_damage_leads_to_a_new_image() {
    let folder = replicated::folder();
    let quick = "&levels=1s&snapshot-interval=8s&snapshot-retention=1h&l0-retention=1s";
    let place = Place::in_folder(folder.path(), "app.db").with(quick);
    let connection = place.open_wal();
    // Large beside what changes, so that no snapshot comes early.
    connection
        .execute_batch(
            "CREATE TABLE base(id INTEGER PRIMARY KEY, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
             INSERT INTO base(b) SELECT randomblob(1000) FROM n",
        )
        .unwrap();
    let raw_is_there =
        |file: &FileInfo| place.listing().iter().any(|raw| raw.level == Level::RAW && raw.span.max == file.span.max);
    let mut hit: Option<FileInfo> = None;
    for n in 1..400 {
        connection.execute("UPDATE base SET b = randomblob(1000) WHERE id = ?1", [n]).unwrap();
        sync(&connection);
        std::thread::sleep(Duration::from_millis(80));
        let snapshots = place.listing().into_iter().filter(|file| file.level == Level::SNAPSHOT);
        let covered = snapshots.map(|file| file.span.max).max();
        match &hit {
            None => {
                let level = place.listing().into_iter().filter(|file| file.level.get() == 1);
                hit = level.filter(|file| Some(file.span.max) > covered && !raw_is_there(file)).max_by_key(|f| f.span);
                hit.iter().for_each(|file| damage(folder.path(), file));
            }
            Some(file) if covered > Some(file.span.max) => break,
            Some(_) => {}
        }
    }
    let file = hit.expect("a file of level 1 whose raw files are gone");
    let states = mended(&place, &connection);
    assert!(newest(&place, 9).unwrap().span.max > file.span.max, "{states}");
    assert!(status(&connection).contains(&file.span.file_name()), "{}", status(&connection));
}

/// Goal: what a validation finds is mended, where nothing but the database holds it any more. Method: the first image
/// damaged, no second snapshot; nobody writes.
#[test]
fn what_a_validation_finds_is_mended_from_the_database() {
    let folder = replicated::folder();
    let place = Place::in_folder(folder.path(), "app.db").with("&validation-interval=300ms&levels=24h");
    let connection = place.open_wal();
    (1..6).for_each(|n| step(&connection, n));
    sync(&connection);
    let first = newest(&place, 9).unwrap();
    damage(folder.path(), &first);
    mended(&place, &connection);
    let said = || status(&connection).contains("equal to the database, quick_check ok");
    wait_for("a validation that is content", PATIENCE, said);
    assert!(path_of(folder.path(), &first).exists(), "nothing was written over");
}
