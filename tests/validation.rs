//! Validation: the Leader restores its own replica now and then and compares it with the live database, while it is
//! written to; a replica that was damaged behind our back is named in the status.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::ltx::Level;
use replicated::{Place, folder, status, sync, wait_for};
use rusqlite::Connection;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a validation may take to come round.
const ROUND: Duration = Duration::from_secs(30);

fn said(connection: &Connection, column: &str) -> String {
    let status: serde_json::Value = serde_json::from_str(&status(connection)).unwrap();
    status[column].as_str().unwrap_or_default().to_string()
}

fn begun(place: &Place) -> Connection {
    let connection = place.open_wal();
    connection
        .execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, b);
             INSERT INTO t(b) SELECT randomblob(500) FROM json_each('[1,2,3,4,5,6,7,8,9,10]') a, json_each('[1,2,3,4,5,6,7,8,9,10]') b, json_each('[1,2,3,4,5]') c",
        )
        .unwrap();
    sync(&connection);
    connection
}

fn write(connection: &Connection) {
    connection
        .execute_batch("INSERT INTO t(b) VALUES (randomblob(2000)); UPDATE t SET b = randomblob(300) WHERE id % 97 = abs(random()) % 97")
        .unwrap();
}

/// A place whose raw files are what is restored: a merge, made of what is kept here, would stand before a file that is
/// changed there.
fn with_raw_files(folder: &Path) -> Place {
    Place::in_folder(folder, "app.db").with("&validation-interval=300ms&levels=24h")
}

/// Files of a validation that are still there.
fn left(place: &Place) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place.spool().join("history")) else { return Vec::new() };
    let all = entries.map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("validation")).collect()
}

/// Goal: a replica in order is found right, again and again, also while its database is written to, checkpointed and
/// vacuumed, and nothing is left on the disk. Method: three rounds under load, one in silence.
#[test]
fn a_replica_in_order_is_found_right_under_load_and_in_silence() {
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db").with("&validation-interval=300ms");
    let connection = begun(&place);
    let mut seen = Vec::new();
    let began = Instant::now();
    let mut n = 0;
    while seen.len() < 3 {
        assert!(began.elapsed() < ROUND, "only {seen:?}: {}", status(&connection));
        n += 1;
        write(&connection);
        match n % 50 {
            20 => connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap(),
            40 => connection.execute_batch("DELETE FROM t WHERE id % 5 = 0; VACUUM").unwrap(),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(5));
        let now = said(&connection, "validation");
        assert!(!now.starts_with("failed"), "{now}");
        if !now.is_empty() && !seen.contains(&now) {
            seen.push(now);
        }
    }
    let right = |text: &String| text.starts_with("ok at") && text.ends_with("equal to the database, quick_check ok");
    assert!(seen.iter().all(right), "{seen:?}");
    let last = sync(&connection).to_string();
    wait_for("a validation of the end", ROUND, || said(&connection, "validation").contains(&last));
    drop(connection);
    wait_for("the file to be gone", ROUND, || left(&place).is_empty());
}

/// Goal: damage that nobody here did is noticed and named, and noticed to be over. Method: one byte of a stored file
/// turned; put back.
#[test]
fn a_replica_that_was_damaged_is_named_in_the_status() {
    let folder = folder();
    let place = with_raw_files(folder.path());
    let connection = begun(&place);
    wait_for("a first validation", ROUND, || said(&connection, "validation").starts_with("ok"));
    let file = place.listing().into_iter().max_by_key(|file| file.size).unwrap();
    let path = folder.path().join("app.db-replica/ltx").join(file.level.to_string()).join(file.span.file_name());
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    wait_for("the damage to be named", ROUND, || said(&connection, "validation").starts_with("failed"));
    let (validation, state) = (said(&connection, "validation"), said(&connection, "state"));
    assert!(validation.contains(&file.span.file_name()), "{validation}");
    assert!(state.contains("validation of the replica failed"), "{state}");
    write(&connection);
    sync(&connection);
    std::fs::write(&path, &whole).unwrap();
    wait_for("the end of the damage", ROUND, || said(&connection, "validation").starts_with("ok"));
    assert!(!said(&connection, "state").contains("failed"), "{}", said(&connection, "state"));
}

/// Goal: a replica that is sound in itself and is not this database is noticed by its pages. Method: the newest raw file
/// replaced by one that says something else.
#[test]
fn a_replica_of_other_pages_is_named_in_the_status() {
    let folder = folder();
    let place = with_raw_files(folder.path());
    let connection = begun(&place);
    write(&connection);
    sync(&connection);
    let raw = place.listing().into_iter().filter(|file| file.level == Level::RAW).max_by_key(|file| file.span).unwrap();
    let path = folder.path().join("app.db-replica/ltx/0").join(raw.span.file_name());
    let bytes = std::fs::read(&path).unwrap();
    let mut decoder = litestream_engine::ltx::Decoder::new(&bytes[..]).unwrap();
    let header = *decoder.header();
    let mut forged = litestream_engine::ltx::Encoder::new(Vec::new(), &header).unwrap();
    let mut page = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        let end = page.len() - 1;
        page[end] ^= 1;
        forged.page(pgno, &page).unwrap();
    }
    let (forged, _) = forged.finish().unwrap();
    std::fs::write(&path, forged).unwrap();
    wait_for("the difference to be named", ROUND, || said(&connection, "validation").contains("is another one"));
}

/// Goal: damage that was replicated faithfully, which no comparison can see, is named, and named as the database's own.
/// Method: a cell of an index, outside of its page, written into the file before replication begins; in WAL mode, and in
/// a rollback mode, where nothing is compared.
#[test]
fn a_database_that_is_damaged_itself_is_named_in_the_status() {
    for (mode, kind, state) in [
        (
            "WAL",
            "the database itself is damaged, quick_check finds: ",
            "the last validation found the database damaged",
        ),
        ("DELETE", "quick_check finds in it: ", "the last validation of the replica failed"),
    ] {
        let folder = folder();
        let place = Place::in_folder(folder.path(), "app.db").with("&validation-interval=300ms");
        let plain = Connection::open(&place.path).unwrap();
        plain
            .execute_batch(
                "CREATE TABLE t(a); CREATE INDEX i ON t(a); CREATE TABLE u(a); INSERT INTO t VALUES(1), (2), (3)",
            )
            .unwrap();
        let page = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0).map(u64::from);
        let root = plain.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'i'", [], page).unwrap();
        drop(plain);
        let file = std::fs::File::options().write(true).open(&place.path).unwrap();
        // The first cell pointer of a leaf page lies behind its 8 bytes of header.
        file.write_all_at(&[0, 1], (root - 1) * 4096 + 8).unwrap();
        drop(file);
        let connection = place.open();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection.execute_batch("INSERT INTO u VALUES(1)").unwrap();
        sync(&connection);
        wait_for("the damage to be named", ROUND, || said(&connection, "validation").contains(kind));
        let validation = said(&connection, "validation");
        assert!(validation.starts_with("failed") && validation.contains(&format!("page {root}")), "{validation}");
        assert!(said(&connection, "state").contains(state), "{}", said(&connection, "state"));
        connection.execute_batch("INSERT INTO u VALUES(2)").unwrap();
        sync(&connection);
    }
}

/// Goal: nobody pays who did not ask. Method: no setting; no validation.
#[test]
fn nothing_is_validated_unless_it_is_asked_for() {
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    let connection = begun(&place);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(said(&connection, "validation"), "");
    assert!(left(&place).is_empty());
}
