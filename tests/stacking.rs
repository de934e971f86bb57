//! Our VFS above and below another one, on each that SQLite brings, and on file systems of more than one machine:
//! replicated right, or not at all and said so.
//!
//! A C program registers a shim that passes everything on, or turns each byte, and works through both.

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
use support::{compile, run};
use tempfile::TempDir;

/// Rows that the program writes.
const ROWS: i64 = 101;

/// What the program said, after it wrote a database in `mode` in that layout.
fn work(layout: &str, key: &str, mode: &str) -> (TempDir, Place, String) {
    load();
    let folder = folder();
    let program = compile(folder.path(), "stacked");
    let said = run(folder.path(), &program, &[layout, key, mode], "").ok();
    let place = Place::new(folder.path(), "app.db", &format!("file://{}", folder.path().join("backup").display()));
    (folder, place, said)
}

fn files(place: &Place) -> usize {
    place.listing().len()
}

/// Goal: a shim that stores what it is given is no hindrance, wherever it is, nor is the VFS for exclusive use.
/// Method: write, wait until it is stored, restore elsewhere: page for page the same, in WAL and in DELETE mode.
#[test]
fn above_and_below_a_shim_that_changes_nothing_all_is_replicated() {
    for mode in ["PRAGMA journal_mode=WAL", "PRAGMA journal_mode=DELETE"] {
        for layout in ["under", "over", "unix-excl"] {
            let (_folder, place, said) = work(layout, "0", mode);
            assert!(said.starts_with("stored 0000"), "{layout}, {mode}: {said}");
            same_pages(&place.image(), &place.restored(Target::Latest));
            let rows: i64 = rusqlite::Connection::open(place.restore_to(Target::Latest))
                .unwrap()
                .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
                .unwrap();
            assert_eq!(rows, ROWS, "{layout}, {mode}");
        }
    }
}

/// Goal: what a VFS encrypts never reaches the store in the clear, and never looks stored. Method: a shim that turns
/// each byte, below and above ours; the application goes on, the status says why, and the replica has no file.
#[test]
fn beside_a_shim_that_encrypts_nothing_is_stored_and_the_status_says_why() {
    for mode in ["PRAGMA journal_mode=WAL", "PRAGMA journal_mode=DELETE"] {
        for (layout, why) in [("under", "stores other bytes than it is given"), ("over", "is no SQLite header")] {
            let (_folder, place, said) = work(layout, "90", mode);
            assert!(said.contains("not stored: ") && said.contains(why), "{layout}, {mode}: {said}");
            assert!(!said.contains("refused"), "{layout}, {mode}: the application is not disturbed: {said}");
            assert_eq!(files(&place), 0, "{layout}, {mode}: {said}");
        }
    }
}

/// Goal: a VFS without locks is no ground for replication. Method: as the default, an open through ours.
#[test]
fn on_a_vfs_without_locks_the_open_fails_with_the_reason() {
    for layout in ["unix-none", "unix-dotfile"] {
        let (_folder, place, said) = work(layout, "0", "PRAGMA journal_mode=DELETE");
        assert!(said.starts_with("refused") && said.contains(&format!("the default VFS is `{layout}`")), "{said}");
        assert!(said.contains("replica=off"), "{said}");
        assert_eq!(files(&place), 0);
    }
}

/// Goal: a database on a file system of more than one machine, where SQLite itself is not safe, is replicated and the status
/// warns. Method: a process whose kernel seems to tell of NFS, and of virtiofs; one that is told the truth has no warning.
#[test]
fn on_a_file_system_of_other_machines_the_status_warns() {
    load();
    for (kind, name) in [(0x6969, "NFS"), (0x6573_5546, "virtiofs")] {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db");
        let mut process = Process::start_on(kind, &place.uri());
        process.sql("CREATE TABLE t(x)");
        process.sql("SELECT litestream_sync(60)");
        let said = process.sql("SELECT state, last_error FROM litestream_status");
        assert!(said[0][0].as_str().is_some_and(|state| state.starts_with("replicating")), "{said}");
        let error = said[0][1].as_str().unwrap_or_default();
        assert!(error.contains(name) && error.contains(place.path.to_str().unwrap()), "{said}");
        process.end();
        let mut process = Process::start(&place);
        process.sql("SELECT litestream_sync(60)");
        assert_eq!(process.sql("SELECT last_error FROM litestream_status")[0][0], serde_json::Value::Null);
        process.end();
    }
}
