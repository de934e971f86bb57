//! One full image for each database, its first: nothing that happens to processes and to the WAL costs another.
//!
//! A database that was there before its replica, real processes that close, restart, overlap and are killed. After
//! each event work goes on, the replica equals the database page for page, and full images are counted.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/mod.rs"]
mod support;

use litestream_engine::ltx::Txid;
use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, folder, load, same_pages, sync};
use rusqlite::Connection;
use tempfile::TempDir;

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

/// Work on a few pages, by a process.
fn work(process: &mut Process, times: u32) {
    for n in 0..times {
        process.sql(&format!("INSERT INTO t(n, b) VALUES ({n}, randomblob(600))"));
    }
}

/// Everything is stored and equal, with one full image so far.
#[track_caller]
fn is_stored_with_one_image(place: &Place, process: &mut Process) {
    process.sql("SELECT litestream_sync(60)");
    same_pages(&place.image(), &place.restored(Target::Latest));
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

/// Goal: pages that a full Spool did not keep are never taken from a later state than the one that they belong to: each
/// stored transaction restores to a state that was. Method: a Segment without contents is all that is left of some work,
/// when a process without the extension writes, closes last and leaves the file alone.
#[test]
fn a_foreign_write_behind_a_segment_without_contents_is_not_mixed_in() {
    let (_folder, place) = scene();
    let place = place.with("&spool-limit=1KB");
    let mut process = Process::start(&place.clone().every("1h"));
    process.sql("SELECT litestream_sync(60)");
    let mut states = vec![place.image()];
    work(&mut process, 5);
    states.push(place.image());
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
    same_pages(&states[2], &place.restored(Target::Latest));
    for txid in (1..=newest.0).map(Txid) {
        assert!(states.contains(&place.restored(Target::Txid(txid))), "{txid} is a mixture of two states");
    }
}
