//! What the tests of 0.3's replicas share: golden copies with their dates, restores of both layouts, databases opened
//! with us and lost.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use super::golden;
use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::plan::Target;
use litestream_engine::plan::older::{Until, Wish};
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use litestream_engine::v3::Moment;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const SET: &str = "ls-0.3-file";

/// The golden set with the times of its manifest.
pub fn golden_copy(into: &Path) -> Value {
    golden::copy(SET, into)
}

pub fn folder_store(folder: &Path) -> Store {
    let url = ReplicaUrl::parse(&format!("file://{}", folder.display())).unwrap();
    Store::open(&url, &|_| None, &Io::new()).unwrap()
}

/// What we restore, or the error.
pub fn ours(store: &Store, target: Target, wish: &Wish, bounded: bool) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.db");
    let options = Options { bounded, ..Options::default() };
    let result = restore::choose(store, target, wish, options)
        .and_then(|plan| plan.carry_out(store, target, wish, &out, options));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    match result {
        Ok(_) => {
            assert_eq!(left, ["out.db"]);
            Ok(fs::read(out).unwrap())
        }
        Err(e) => {
            assert!(left.is_empty(), "{left:?} was left behind: {e}");
            Err(e)
        }
    }
}

pub fn latest(store: &Store) -> Result<Vec<u8>, Error> {
    ours(store, Target::Latest, &Wish::LATEST, false)
}

/// Strictly before for LTX, inclusive for 0.3.
pub fn time_target(text: &str) -> (Target, Until) {
    let moment = Moment::parse(text).unwrap();
    (Target::Time(Time(moment.time().0 + 1)), Until::Time(moment))
}

pub fn digest(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), bytes).unwrap();
    let sum = Command::new("sha256sum").arg(folder.path().join("x")).output().unwrap();
    String::from_utf8(sum.stdout).unwrap()[..64].to_string()
}

/// Opens with ours, the replica's URL percent-encoded.
pub fn open(database: &Path, replica: &str) -> Connection {
    super::load();
    let uri = format!("file:{}?vfs=litestream&replica={replica}&sync-interval=50ms", database.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(uri, flags).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db
}

pub fn sync(db: &Connection) {
    db.query_row("SELECT litestream_sync()", [], |_| Ok(())).unwrap();
}

/// The file is lost, and everything of it but the replica.
pub fn lose(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", database.display()));
    }
    let folder = database.parent().unwrap().join(".app.db-litestream");
    let _ = fs::remove_dir_all(folder);
}
