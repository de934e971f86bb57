//! What is saved beside a checkpoint, so that the WAL's reset after it has nothing to save: through the built library,
//! by the files of the Spool.
//!
//! Whether anything is lost by it is tried elsewhere: by histories, kills, losses of power and the simulation, each of
//! which runs with `save-ahead=1`, too.

#![allow(clippy::unwrap_used)]

#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use replicated::{Place, sync, wait_for};
use rusqlite::Connection;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for the other thread.
const WAIT: Duration = Duration::from_secs(20);

/// Segments and their inodes: one that is made again has another.
fn segments(place: &Place) -> Vec<(PathBuf, u64)> {
    let found = std::fs::read_dir(place.spool()).unwrap().map(|entry| entry.unwrap().path());
    let found = found.filter(|path| path.extension().is_some_and(|kind| kind == "segment"));
    let mut found: Vec<_> = found.map(|path| (path.clone(), path.metadata().unwrap().ino())).collect();
    found.sort();
    found
}

/// The salts in the WAL's header: another life has others.
fn life(place: &Place) -> Vec<u8> {
    std::fs::read(format!("{}-wal", place.path.display())).unwrap()[16..24].to_vec()
}

/// A replicated database of 400 rows that is written to by `connection` alone, and stored only where a sync asks for it.
fn stored(place: &Place) -> Connection {
    let connection = place.open_wal();
    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, body)").unwrap();
    write(&connection, 400);
    sync(&connection);
    connection
}

/// Rows of three to a page.
fn write(connection: &Connection, rows: u32) {
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t(body) SELECT hex(randomblob(600)) FROM n"
    );
    connection.execute_batch(&sql).unwrap();
}

fn checkpoint(connection: &Connection) {
    let (busy, wal, done): (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!((busy, wal), (0, done), "a whole checkpoint");
    assert!(wal > 0);
}

/// Goal: the reset saves nothing that was saved beside the checkpoint, and nothing is missing. Method: many pages, a
/// checkpoint, a wait for the Segment, then a commit that resets the WAL; twice, so that the next life counts too.
#[test]
fn the_reset_after_a_checkpoint_finds_the_segment_made() {
    let folder = replicated::folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h").with("&save-ahead=64KiB");
    let connection = stored(&place);
    for round in 1..=2 {
        write(&connection, 400);
        let before = life(&place);
        checkpoint(&connection);
        wait_for("a Segment beside the checkpoint", WAIT, || segments(&place).len() == round);
        assert_eq!(life(&place), before, "no reset yet");
        let made = segments(&place);
        write(&connection, 1);
        assert_ne!(life(&place), before, "the commit reset the WAL");
        assert_eq!(segments(&place), made, "and made no Segment of its own");
    }
    place.is_replicated(&connection);
}

/// Goal: what is committed after the Segment was made ahead is saved by the reset. Method: commits between the two.
#[test]
fn the_reset_saves_what_came_after_the_segment() {
    let folder = replicated::folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h").with("&save-ahead=64KiB");
    let connection = stored(&place);
    write(&connection, 400);
    checkpoint(&connection);
    wait_for("a Segment beside the checkpoint", WAIT, || segments(&place).len() == 1);
    connection.execute_batch("UPDATE t SET body = 'changed' WHERE id % 100 = 0").unwrap();
    // Fewer pages than are worth it: this checkpoint makes none.
    checkpoint(&connection);
    write(&connection, 1);
    assert_eq!(segments(&place).len(), 2);
    place.is_replicated(&connection);
}

/// Goal: a Segment that was made ahead and is gone is not relied on. Method: the Spool loses it before the reset.
#[test]
fn a_segment_that_is_gone_is_made_again_by_the_reset() {
    let folder = replicated::folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h").with("&save-ahead=64KiB");
    let connection = stored(&place);
    write(&connection, 400);
    checkpoint(&connection);
    wait_for("a Segment beside the checkpoint", WAIT, || segments(&place).len() == 1);
    std::fs::remove_file(&segments(&place)[0].0).unwrap();
    write(&connection, 1);
    assert_eq!(segments(&place).len(), 1, "the reset made it");
    place.is_replicated(&connection);
}

/// Goal: where few pages changed, nobody is woken for them. Method: the usual setting, a few pages, a checkpoint.
#[test]
fn few_pages_are_left_to_the_reset() {
    let folder = replicated::folder();
    let place = Place::in_folder(folder.path(), "app.db").every("1h");
    let connection = stored(&place);
    write(&connection, 3);
    checkpoint(&connection);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(segments(&place).len(), 0);
    write(&connection, 1);
    assert_eq!(segments(&place).len(), 1);
    place.is_replicated(&connection);
}
