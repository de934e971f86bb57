//! A database that is deleted and made again under its name is another one, even where nothing that SQLite writes shows
//! it: the same inode, the same size, the same header.
//!
//! The replica must hold the new content, whoever made it: a process without the extension, or the same one as before.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::plan::Target;
use replicated::{Place, folder, load, same_pages, sync};
use rusqlite::Connection;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Times that a file is deleted and made again until it gets its old inode; some file systems never give it.
const TRIES: usize = 20;

/// The same transactions each time, with another value.
fn make(connection: &Connection, value: &str) {
    connection.execute_batch("CREATE TABLE t(x, y); CREATE TABLE u(x, y);").unwrap();
    connection.execute("INSERT INTO u VALUES (1, ?)", [value]).unwrap();
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display())); // most are not there
    }
}

/// What a rollback mode has to tell transactions apart.
fn header(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()[16..100].to_vec()
}

#[track_caller]
fn replica_holds(place: &Place, value: &str) {
    let connection = place.open();
    sync(&connection);
    same_pages(&place.image(), &place.restored(Target::Latest));
    let held: String = Connection::open(place.restore_to(Target::Latest))
        .unwrap()
        .query_row("SELECT y FROM u", [], |row| row.get(0))
        .unwrap();
    assert_eq!(held, value);
}

/// Goal: what others made anew is stored. Method: ours fills a database in DELETE mode and closes it; it is deleted and
/// made by plain SQLite with as many transactions, until the inode is the old one; ours opens it again.
#[test]
fn a_database_made_anew_by_others_is_not_taken_for_the_old_one() {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    let ours = place.open();
    make(&ours, "old");
    sync(&ours);
    drop(ours);
    let (inode, old) = (std::fs::metadata(&place.path).unwrap().ino(), header(&place.path));
    for _ in 0..TRIES {
        remove(&place.path);
        make(&Connection::open(&place.path).unwrap(), "new");
        if std::fs::metadata(&place.path).unwrap().ino() == inode {
            break;
        }
    }
    assert_eq!(header(&place.path), old, "the header alone cannot tell the two apart");
    replica_holds(&place, "new");
}

/// Goal: the same where we make it anew ourselves. Method: one process that writes a database, deletes it and makes it
/// again, with no restore wanted.
#[test]
fn a_database_made_anew_by_ourselves_is_not_taken_for_the_old_one() {
    load();
    for pause in [0, 300] {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").with("&restore=never");
        for value in ["old", "new"] {
            let ours = place.open();
            make(&ours, value);
            if value == "old" {
                sync(&ours);
            }
            drop(ours);
            std::thread::sleep(std::time::Duration::from_millis(pause));
            if value == "old" {
                remove(&place.path);
            }
        }
        replica_holds(&place, "new");
    }
}
