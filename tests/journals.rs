//! Rollback-journal modes, those without a journal on disk included: every commit is captured, and after a kill inside a
//! transaction the replica holds what SQLite makes of the file.
//!
//! A kill in the modes OFF and MEMORY leaves a half-written transaction that nothing undoes; SQLite takes it for the
//! database, and so must the replica. Switching while connected belongs to the random histories.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use process::Process;
use replicated::{Place, folder, load, status, sync};

const MODES: [&str; 5] = ["OFF", "MEMORY", "DELETE", "TRUNCATE", "PERSIST"];

/// A process with a cache so small that a large transaction is in the file before it is committed.
fn start(place: &Place, mode: &str) -> Process {
    let mut process = Process::start(place);
    let rows = process.sql(&format!("PRAGMA journal_mode={mode}"));
    assert_eq!(rows[0][0], mode.to_lowercase());
    process.sql("PRAGMA cache_size=5");
    process
}

fn fill(process: &mut Process) {
    process.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO t(b) SELECT randomblob(900) FROM n",
    );
}

/// Goal: each mode's commits are captured, one by one and without a new image. Method: small and large transactions,
/// stored and compared now and then, by processes that end and start again.
#[test]
fn commits_of_every_mode_are_captured() {
    load();
    for mode in MODES {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").every("20ms");
        fill(&mut start(&place, mode));
        for round in 0..4 {
            let mut process = start(&place, mode);
            for n in 1..=5 {
                process.sql(&format!("UPDATE t SET b = randomblob({n} * 100) WHERE id % 50 = {round}"));
            }
            process.sql("BEGIN; UPDATE t SET b = randomblob(700) WHERE id > 200; COMMIT");
            process.is_stored(&place);
            process.end();
        }
        place.has_images(0..=1);
    }
}

/// Goal: after a kill inside a transaction the replica is what the file is. Method: a transaction that has spilled into
/// the file, kill -9, and another process that opens it, works and stores.
#[test]
fn a_kill_inside_a_transaction_leaves_replica_and_file_equal() {
    load();
    for mode in MODES {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").every("20ms");
        let mut process = start(&place, mode);
        fill(&mut process);
        process.is_stored(&place);
        let before = std::fs::read(&place.path).unwrap();
        process.sql("BEGIN; UPDATE t SET b = zeroblob(900)");
        process.kill();
        let after = std::fs::read(&place.path).unwrap();
        assert_ne!(before, after, "{mode}: the transaction is not in the file, and this shows nothing");

        let mut process = start(&place, mode);
        let undone = process.sql("SELECT count(*) FROM t WHERE b = zeroblob(900)")[0][0] == 0;
        assert_eq!(undone, !["OFF", "MEMORY"].contains(&mode), "{mode}: as SQLite has it");
        process.is_stored(&place);
        process.sql("UPDATE t SET b = randomblob(300) WHERE id = 7");
        process.is_stored(&place);
        process.end();
    }
}

/// Goal: the status recommends WAL to a database that is not in WAL mode, and to no other. Method: from DELETE to WAL and
/// back while connected, without a new image in between; what is committed in each mode is stored.
#[test]
fn the_status_recommends_wal_only_where_it_is_not_the_mode() {
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    let connection = place.open();
    let recommended = || status(&connection).contains("journal_mode=WAL is recommended");
    for mode in ["delete", "wal", "truncate", "wal"] {
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)").unwrap();
        place.is_replicated(&connection);
        assert_eq!(recommended(), mode != "wal", "{mode}: {}", status(&connection));
    }
    connection.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    sync(&connection);
    assert!(!recommended(), "{}", status(&connection));
}

/// Goal: what was not kept, because the Spool has no room, is read from the database and stored, also where a journal without
/// content lies beside it for good (PERSIST). Method: a Spool of 1 KB, and transactions that are larger.
#[test]
fn what_the_spool_has_no_room_for_is_stored_from_the_database() {
    load();
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").every("20ms").with("&spool-limit=1KB");
        let mut process = start(&place, mode);
        fill(&mut process);
        process.is_stored(&place);
        for n in 1..=3 {
            process.sql(&format!("UPDATE t SET b = randomblob(700) WHERE id % 50 = {n}"));
            process.is_stored(&place);
        }
        process.end();
    }
}

/// Goal: where nothing is stored yet, pages that were not kept and are lost to a write that nobody saw lead to an image, and
/// not to one look after another. Method: a first transaction that is kept, one that the Spool has no room for, a kill, a
/// foreign write.
#[test]
fn what_was_not_kept_before_anything_was_stored_leads_to_an_image() {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h").with("&spool-limit=20KB");
    let mut process = start(&place, "DELETE");
    fill(&mut process);
    process.kill();
    assert_eq!((place.listing().len(), place.segments().len()), (0, 2), "all of it waits");
    rusqlite::Connection::open(&place.path)
        .unwrap()
        .execute("UPDATE t SET b = randomblob(800) WHERE id < 300", [])
        .unwrap();
    let mut process = start(&place, "DELETE");
    process.is_stored(&place);
    process.end();
    assert_eq!(place.segments().len(), 0, "nothing is left behind");
}
