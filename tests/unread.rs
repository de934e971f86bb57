//! Commits that no connection of this process has read: a sync, a close and the status count them all the same.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, folder, load, same_pages};

/// A process with commits that nothing stores before the hour is over.
fn with_commits(place: &Place) -> Process {
    let mut process = Process::start(place);
    process.sql("PRAGMA journal_mode=WAL");
    process.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)");
    process.sql("SELECT litestream_sync(60)");
    for n in 1..=5 {
        process.sql(&format!("INSERT INTO t(b) VALUES(randomblob({n}00))"));
    }
    process
}

fn scene() -> (tempfile::TempDir, Place) {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h");
    (folder, place)
}

/// Goal: a sync never says that all is stored while commits of a process that died wait in the WAL. Method: kill -9, and a
/// process whose first statement is a sync: by function, and by PRAGMA; with the wal-index of before, and without.
#[test]
fn a_sync_before_anything_is_read_stores_what_a_dead_process_left() {
    for (sync, lose_index) in [("SELECT litestream_sync(60)", false), ("PRAGMA litestream_sync", true)] {
        let (_folder, place) = scene();
        with_commits(&place).kill();
        if lose_index {
            std::fs::remove_file(place.path.with_file_name("app.db-shm")).unwrap();
        }
        let mut process = Process::start(&place);
        process.sql(sync);
        let restored = place.restored(Target::Latest);
        same_pages(&place.image(), &restored);
        process.sql("INSERT INTO t(b) VALUES(1)");
        process.is_stored(&place);
        process.end();
    }
}

/// Goal: nor while those of a process that goes on are not stored. Method: the same beside the Leader, whose seconds are not over.
#[test]
fn a_sync_before_anything_is_read_waits_for_what_the_leader_has_not_stored() {
    let (_folder, place) = scene();
    let place = place.every("3s");
    let leader = with_commits(&place);
    let mut process = Process::start(&place);
    process.is_stored(&place);
    process.end();
    leader.end();
}

/// Goal: a process that only reads stores at its end what a dead one left. Method: kill -9, and a process with one SELECT.
#[test]
fn a_reader_stores_at_its_end_what_a_dead_process_left() {
    let (folder, place) = scene();
    with_commits(&place).kill();
    let apart = place.elsewhere(&folder.path().join("copy.db"));
    for suffix in ["", "-wal"] {
        std::fs::copy(format!("{}{suffix}", place.path.display()), format!("{}{suffix}", apart.path.display()))
            .unwrap();
    }
    let image = apart.image();
    let mut process = Process::start(&place);
    process.sql("SELECT count(*) FROM t");
    process.end();
    same_pages(&image, &place.restored(Target::Latest));
}

/// Goal: nor while nobody has noticed what a process without the extension committed. Method: one that writes and closes last,
/// beside nobody.
#[test]
fn a_sync_before_anything_is_read_stores_what_a_foreign_process_left() {
    let (_folder, place) = scene();
    with_commits(&place).end();
    rusqlite::Connection::open(&place.path).unwrap().execute("INSERT INTO t(b) VALUES(randomblob(700))", []).unwrap();
    let mut process = Process::start(&place);
    process.is_stored(&place);
    process.end();
}

/// Goal: the same beside a Leader that has not noticed it yet. Method: a commit of a process without the extension, and at once
/// a process whose first statement is a sync; in WAL and in a rollback-journal mode.
#[test]
fn a_sync_before_anything_is_read_waits_for_what_the_leader_has_not_noticed() {
    for mode in ["WAL", "DELETE"] {
        let (_folder, place) = scene();
        let place = place.every("300ms");
        let mut leader = Process::start(&place);
        leader.sql(&format!("PRAGMA journal_mode={mode}"));
        leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)");
        leader.sql("SELECT litestream_sync(60)");
        for _ in 0..5 {
            let foreign = rusqlite::Connection::open(&place.path).unwrap();
            foreign.execute("INSERT INTO t(b) VALUES(randomblob(700))", []).unwrap();
            foreign.close().unwrap();
            let mut process = Process::start(&place);
            process.is_stored(&place);
            process.end();
        }
        leader.end();
    }
}
