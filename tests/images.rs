//! One full image for each database, its first: nothing that happens to processes and to the WAL costs another.
//!
//! A database that was there before its replica, real processes that close, restart, overlap and are killed. After
//! each event work goes on, the replica equals the database page for page, and full images are counted.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/recorded.rs"]
mod recorded;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::ltx::Txid;
use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, folder, load, same_pages, sync};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Time in which an image beside connections that come and go ends.
const ENDS: Duration = Duration::from_secs(60);

/// A database with content, not replicated yet.
fn scene() -> (TempDir, Place) {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    let plain = Connection::open(&place.path).unwrap();
    plain
        .execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE cold(b BLOB); CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, b BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
             INSERT INTO cold SELECT randomblob(900) FROM n",
        )
        .unwrap();
    (folder, place)
}

/// A machine that can be booted, as far as processes ask for the name of the boot.
struct Machine {
    folder: PathBuf,
    recorder: PathBuf,
}

impl Machine {
    fn new(folder: &Path) -> Machine {
        Machine { folder: folder.to_path_buf(), recorder: recorded::recorder(folder) }
    }

    /// The first process of a boot of that name.
    #[track_caller]
    fn boot(&self, name: &str, place: &Place) -> Process {
        let named = self.folder.join("boot");
        std::fs::write(&named, name).unwrap();
        let variables = [("LD_PRELOAD", &self.recorder), ("RECORD_ROOT", &self.folder), ("RECORD_BOOT", &named)];
        Process::start_with(&place.uri(), &variables.map(|(key, path)| (key, path.to_str().unwrap())))
    }
}

/// Work on a few pages, by a process.
fn work(process: &mut Process, times: u32) {
    for n in 0..times {
        process.sql(&format!("INSERT INTO t(n, b) VALUES ({n}, randomblob(600))"));
    }
}

/// Everything is stored and equal, with one full image so far.
#[track_caller]
fn is_stored_with_one_image(place: &Place, process: &mut Process) {
    process.is_stored(place);
    place.has_images(1..=1);
}

/// Goal: starting again costs nothing. Method: a process that works, closes, ends and starts again, five times;
/// the clean close deletes the WAL each time.
#[test]
fn a_restart_makes_no_image() {
    let (_folder, place) = scene();
    for _ in 0..5 {
        let mut process = Process::start(&place);
        work(&mut process, 20);
        is_stored_with_one_image(&place, &mut process);
        process.end();
        assert!(!place.path.with_file_name("app.db-wal").exists(), "the close left the WAL");
    }
}

/// Goal: the machine may be booted in between. Method: the same, with the name of the boot that the next process reads
/// another one each time; a boot without work is among them.
#[test]
fn a_boot_of_the_machine_makes_no_image() {
    let (folder, place) = scene();
    let machine = Machine::new(folder.path());
    for round in 0..6 {
        let mut process = machine.boot(&format!("boot {round}"), &place);
        process.sql("SELECT count(*) FROM t");
        work(&mut process, if round == 3 { 0 } else { 20 });
        is_stored_with_one_image(&place, &mut process);
        process.end();
    }
}

/// Goal: what others do to a closed database while the machine is down, or before, is noticed in the next boot. Method:
/// plain SQLite changes one row, in as many bytes; then the next boot as above.
#[test]
fn a_boot_after_others_wrote_makes_an_image_of_what_they_wrote() {
    let (folder, place) = scene();
    let machine = Machine::new(folder.path());
    let mut process = machine.boot("one", &place);
    work(&mut process, 5);
    is_stored_with_one_image(&place, &mut process);
    process.end();
    Connection::open(&place.path).unwrap().execute_batch("UPDATE t SET n = n + 1").unwrap();
    let mut process = machine.boot("two", &place);
    work(&mut process, 5);
    process.sql("SELECT litestream_sync(60)");
    same_pages(&place.image(), &place.restored(Target::Latest));
    place.has_images(2..=2);
}

/// Goal: the same when the end is right behind the work. Method: no sync before the close; the end of the process
/// waits until all is stored.
#[test]
fn a_restart_right_after_work_makes_no_image() {
    let (_folder, place) = scene();
    for round in 0..5 {
        let mut process = Process::start(&place);
        work(&mut process, 30);
        process.end();
        if round > 0 {
            same_pages(&place.image(), &place.restored(Target::Latest));
        }
    }
    let mut process = Process::start(&place);
    is_stored_with_one_image(&place, &mut process);
}

/// Goal: a rolling restart. Method: always two processes that write, the older of which ends, by turns.
#[test]
fn a_rolling_restart_of_two_processes_makes_no_image() {
    let (_folder, place) = scene();
    let mut older = Process::start(&place);
    work(&mut older, 10);
    for round in 0..6 {
        let mut newer = Process::start(&place);
        work(&mut newer, 5);
        work(&mut older, 5);
        work(&mut newer, 5);
        if round % 2 == 0 {
            is_stored_with_one_image(&place, &mut newer);
        }
        older.end();
        work(&mut newer, 5);
        older = newer;
    }
    is_stored_with_one_image(&place, &mut older);
}

/// Goal: kill -9. Method: a process killed with commits that are not stored, alone, and beside one that goes on; right
/// after a reset of the WAL too.
#[test]
fn kills_make_no_image() {
    let (_folder, place) = scene();
    for round in 0..8 {
        let mut process = Process::start(&place);
        work(&mut process, 15);
        if round == 0 {
            is_stored_with_one_image(&place, &mut process);
        }
        if round % 3 == 1 {
            process.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        if round % 3 == 2 {
            process.sql("PRAGMA wal_checkpoint(RESTART)");
            work(&mut process, 3);
        }
        process.kill();
    }
    let mut stays = Process::start(&place);
    is_stored_with_one_image(&place, &mut stays);
    for _ in 0..4 {
        let mut killed = Process::start(&place);
        work(&mut killed, 5);
        work(&mut stays, 5);
        work(&mut killed, 5);
        killed.kill();
        work(&mut stays, 5);
    }
    is_stored_with_one_image(&place, &mut stays);
    let rows = stays.sql("SELECT count(*) FROM t");
    let wanted = 8 * 15 + 2 * 3 + 4 * 20;
    assert_eq!(rows[0][0], wanted, "rows committed");
}

/// Goal: resets of the WAL. Method: each checkpoint mode, then the first write after it, after stores and without.
#[test]
fn the_first_write_after_a_checkpoint_makes_no_image() {
    let (_folder, place) = scene();
    let connection = place.open();
    for n in 0..24 {
        let mode = ["TRUNCATE", "RESTART", "FULL", "PASSIVE"][n % 4];
        connection.execute("INSERT INTO t(b) VALUES (randomblob(3000))", []).unwrap();
        if n % 3 == 0 {
            sync(&connection);
        }
        connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        connection.execute("UPDATE t SET n = n + 1 WHERE id = 1", []).unwrap();
        if n % 5 == 0 {
            place.is_replicated(&connection);
        }
    }
    place.is_replicated(&connection);
    place.has_images(1..=1);
}

/// Goal: a container with an empty disk. Method: everything local deleted, restored by opening, work; again.
#[test]
fn a_restore_into_an_empty_folder_makes_no_image() {
    let (_folder, place) = scene();
    for round in 0..4 {
        let mut process = Process::start(&place);
        let rows = process.sql("SELECT count(*) FROM t");
        assert_eq!(rows[0][0], round * 12);
        work(&mut process, 12);
        is_stored_with_one_image(&place, &mut process);
        process.end();
        place.lose();
    }
}

/// Goal: one full image where the application never uses the WAL. Method: the same events in rollback mode.
#[test]
fn a_rollback_mode_needs_one_image_too() {
    let (_folder, place) = scene();
    for round in 0..6 {
        let mut process = Process::start(&place);
        process.sql("PRAGMA journal_mode=DELETE");
        work(&mut process, 10);
        if round == 0 {
            is_stored_with_one_image(&place, &mut process);
        }
        if round % 2 == 0 { process.kill() } else { process.end() }
    }
    let mut process = Process::start(&place);
    is_stored_with_one_image(&place, &mut process);
}

/// Goal: an application that writes all the while its first image is made gets one image, not several. Method: a
/// database of some tens of megabytes and a writer at full speed.
#[test]
fn a_writer_at_full_speed_does_not_start_the_image_over() {
    let (_folder, place) = scene();
    let plain = Connection::open(&place.path).unwrap();
    plain
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
             INSERT INTO cold SELECT randomblob(900) FROM n",
        )
        .unwrap();
    drop(plain);
    let connection = place.open();
    connection.pragma_update(None, "synchronous", "NORMAL").unwrap();
    let mut insert = connection.prepare("INSERT INTO t(b) VALUES (randomblob(100))").unwrap();
    for _ in 0..20_000 {
        insert.execute([]).unwrap();
    }
    drop(insert);
    place.is_replicated(&connection);
    place.has_images(1..=1);
}

/// Some tens of megabytes beside the rows, so that an image takes a while.
fn grown() -> (TempDir, Place) {
    let (folder, place) = scene();
    let plain = Connection::open(&place.path).unwrap();
    plain
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
             INSERT INTO cold SELECT randomblob(1 << 20) FROM n",
        )
        .unwrap();
    (folder, place)
}

/// Opens, reads and closes until the image is stored, as a web application does with each request.
fn come_and_go(place: &Place) -> u32 {
    let began = Instant::now();
    let mut times = 0;
    while place.listing().is_empty() {
        assert!(began.elapsed() < ENDS, "after {times} connections the image is still not stored");
        place.open().query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        times += 1;
    }
    times
}

/// Goal: a first image ends where connections come and go all the while, and so does each of them. Method: a database of
/// some tens of megabytes with one connection that stays and others that do not.
#[test]
fn connections_that_come_and_go_do_not_start_the_image_over() {
    let (_folder, place) = grown();
    let stays = place.open();
    stays.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    let times = come_and_go(&place);
    assert!(times > 10, "{times} connections beside the image: it was too short to show anything");
    place.is_replicated(&stays);
    place.has_images(1..=1);
}

/// Goal: the same where each connection is the only one, whose close wants the database for itself. Method: the same without
/// one that stays; the image lets go a few times and then no more.
#[test]
fn closing_for_the_last_time_again_and_again_does_not_keep_the_image_from_its_end() {
    let (_folder, place) = grown();
    come_and_go(&place);
    let connection = place.open();
    connection.execute("INSERT INTO t(n) VALUES (1)", []).unwrap();
    place.is_replicated(&connection);
    place.has_images(1..=1);
}

/// Goal: a WAL that was left beside a file in another mode (a persistent WAL, a copy put back) is used by SQLite, and replicated
/// without one image after the other. Method: such a file is made by hand.
#[test]
fn a_wal_beside_a_file_of_another_mode_is_replicated() {
    let (_folder, place) = scene();
    let wal = place.path.with_file_name("app.db-wal");
    let plain = Connection::open(&place.path).unwrap();
    plain.execute("INSERT INTO t(n) VALUES (1)", []).unwrap();
    let kept = std::fs::read(&wal).unwrap();
    drop(plain);
    let plain = Connection::open(&place.path).unwrap();
    plain.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(plain);
    std::fs::write(&wal, kept).unwrap();
    let connection = place.open();
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal", "SQLite uses what it finds");
    for n in 0..20 {
        connection.execute("INSERT INTO t(n) VALUES (?)", [n]).unwrap();
        place.is_replicated(&connection);
    }
    place.has_images(1..=2);
}

/// Goal: pages that a full Spool did not keep are never taken from a later state than the one that they belong to: each
/// stored transaction restores to a state that was. Method: a Segment without contents is all that is left of some work,
/// when a process without the extension writes, closes last and leaves the file alone. Every commit's state is kept: the
/// first one maps the wal-index, which wakes the worker, and may be stored by itself long before the hour is over.
#[test]
fn a_foreign_write_behind_a_segment_without_contents_is_not_mixed_in() {
    let (_folder, place) = scene();
    let place = place.with("&spool-limit=1KB");
    let mut process = Process::start(&place.clone().every("1h"));
    process.sql("SELECT litestream_sync(60)");
    let mut states = vec![place.image()];
    for _ in 0..5 {
        work(&mut process, 1);
        states.push(place.image());
    }
    process.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    process.kill();
    let foreign = Connection::open(&place.path).unwrap();
    foreign
        .execute_batch("UPDATE t SET b = randomblob(700); UPDATE cold SET b = randomblob(900) WHERE rowid < 400")
        .unwrap();
    foreign.close().unwrap();
    states.push(place.image());
    let mut process = Process::start(&place);
    let newest = process.sql("SELECT litestream_sync(60)");
    let newest = Txid::parse(newest[0][0].as_str().unwrap()).unwrap();
    same_pages(states.last().unwrap(), &place.restored(Target::Latest));
    for txid in (1..=newest.0).map(Txid) {
        assert!(states.contains(&place.restored(Target::Txid(txid))), "{txid} is a mixture of two states");
    }
}
