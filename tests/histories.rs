//! Random histories on real connections through the built library: commits, rollbacks, savepoints, checkpoints,
//! closes, reopens, losses of the file. After `litestream_sync()` the replica restored elsewhere equals the
//! database byte for byte; without a sync it equals some committed state. Seeds are printed.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
mod support;

use dice::Dice;
use litestream_engine::ltx::Level;
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One history: a database, its replica, what was committed.
struct History {
    seed: u64,
    dice: Dice,
    folder: tempfile::TempDir,
    open: Vec<Connection>,
    /// The marks (one grows by 1 in each commit) and the content that belongs to each.
    commits: HashMap<i64, String>,
    mark: i64,
    log: Vec<String>,
    interval: &'static str,
    exclusive: bool,
}

impl History {
    fn new(seed: u64) -> History {
        let mut dice = Dice::new(seed);
        let interval = ["0", "20ms", "1s"][dice.below(3) as usize];
        let exclusive = dice.below(12) == 0;
        let mut history = History {
            seed,
            dice,
            folder: tempfile::tempdir().unwrap(),
            open: Vec::new(),
            commits: HashMap::new(),
            mark: 0,
            log: Vec::new(),
            interval,
            exclusive,
        };
        history.begin();
        history
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn replica(&self) -> PathBuf {
        self.folder.path().join("replica")
    }

    fn connect(&mut self) -> usize {
        let uri = format!(
            "file:{}?vfs=litestream&replica=file://{}&sync-interval={}&save-ahead={}",
            self.path().display(),
            self.replica().display(),
            self.interval,
            if self.seed.is_multiple_of(2) { "1" } else { "1MiB" }
        );
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags).unwrap_or_else(|e| panic!("{e}: {}", self.story()));
        connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        let auto = [1, 10, 1000, 0][self.dice.below(4) as usize];
        connection.pragma_update(None, "wal_autocheckpoint", auto).unwrap();
        if self.exclusive {
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
        }
        self.note(format!("connect autocheckpoint={auto}"));
        self.open.push(connection);
        self.open.len() - 1
    }

    fn begin(&mut self) {
        let size = 512u64 << self.dice.below(8);
        let mode = ["WAL", "WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"][self.dice.below(6) as usize];
        let vacuum = self.dice.below(3);
        self.note(format!(
            "page_size {size} {mode} auto_vacuum {vacuum} interval {} exclusive {}",
            self.interval, self.exclusive
        ));
        let at = self.connect();
        let connection = &self.open[at];
        connection.execute_batch(&format!("PRAGMA page_size={size}; PRAGMA auto_vacuum={vacuum};")).unwrap();
        connection.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE mark(n); INSERT INTO mark VALUES(0); CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)",
            )
            .unwrap();
        self.remember(at);
    }

    fn note(&mut self, what: String) {
        self.log.push(what);
    }

    fn story(&self) -> String {
        let files =
            std::process::Command::new("ls").args(["-laR", "--time-style=full-iso"]).arg(self.folder.path()).output();
        format!(
            "seed {}\n{}\n{}",
            self.seed,
            self.log.join("\n"),
            files.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default()
        )
    }

    /// What a state looks like to a reader: the mark and a digest of every row.
    fn digest(connection: &Connection) -> (i64, String) {
        let mark = connection.query_row("SELECT n FROM mark", [], |row| row.get(0)).unwrap();
        let rows: String = connection
            .query_row("SELECT count(*) || ':' || coalesce(sum(id), 0) || ':' || coalesce(sum(length(v)), 0) || ':' || coalesce(group_concat(substr(hex(v), 1, 6)), '') FROM (SELECT * FROM t ORDER BY id)", [], |row| row.get(0))
            .unwrap();
        (mark, rows)
    }

    fn remember(&mut self, at: usize) {
        let (mark, rows) = Self::digest(&self.open[at]);
        self.mark = mark;
        self.commits.insert(mark, rows);
    }

    fn work(&mut self, at: usize) {
        let n = 1 + self.dice.below(8);
        let mut sql = String::new();
        for _ in 0..n {
            let id = self.dice.below(60);
            let bytes = self.dice.below(6000);
            sql += &match self.dice.below(6) {
                0 => format!("DELETE FROM t WHERE id % 7 = {};", id % 7),
                1 => format!("UPDATE t SET v = zeroblob({bytes}) WHERE id = {id};"),
                2 => "SAVEPOINT s; INSERT INTO t(v) VALUES(randomblob(9000)); ROLLBACK TO s; RELEASE s;".into(),
                _ => format!("INSERT OR REPLACE INTO t VALUES({id}, randomblob({bytes}));"),
            };
        }
        self.open[at]
            .execute_batch(&format!("BEGIN IMMEDIATE; {sql}"))
            .unwrap_or_else(|e| panic!("{e}: {}", self.story()));
        if self.dice.below(8) == 0 {
            self.open[at].execute_batch("ROLLBACK").unwrap();
            self.note(format!("rollback on {at}"));
        } else {
            self.open[at]
                .execute_batch("UPDATE mark SET n = n + 1; COMMIT")
                .unwrap_or_else(|e| panic!("{e}: {}", self.story()));
            self.remember(at);
            self.note(format!("commit {} on {at}", self.mark));
        }
    }

    fn step(&mut self) {
        if self.open.is_empty() {
            self.connect();
        }
        let at = self.dice.below(self.open.len() as u64) as usize;
        match self.dice.below(20) {
            0 if self.open.len() < 3 && !self.exclusive => {
                self.connect();
            }
            1 | 2 => {
                self.open.remove(at);
                self.note(format!("close {at}"));
            }
            3 | 4 => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.dice.below(4) as usize];
                self.open[at].query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
                self.note(format!("checkpoint {mode} on {at}"));
            }
            5 => {
                let done = self.open[at].execute_batch("VACUUM");
                self.note(format!("vacuum on {at}: {done:?}"));
            }
            6 => self.sync_and_compare(at),
            7 => self.compare_prefix(),
            8 if self.dice.below(4) == 0 => self.lose_and_restore(at),
            9 if self.open.len() == 1 && !self.exclusive => {
                let mode = ["WAL", "DELETE"][self.dice.below(2) as usize];
                let is: String =
                    self.open[at].query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0)).unwrap();
                self.note(format!("journal_mode {mode}: {is}"));
            }
            10 => std::thread::sleep(std::time::Duration::from_millis(self.dice.below(30))),
            _ => self.work(at),
        }
    }

    fn sync(&mut self, at: usize) {
        let synced: Result<String, _> = self.open[at].query_row("SELECT litestream_sync(20)", [], |row| row.get(0));
        let synced = synced.unwrap_or_else(|e| panic!("{e}: {}", self.story()));
        self.note(format!("sync on {at}: {synced}"));
    }

    fn restored(&self) -> Vec<u8> {
        let out = self.folder.path().join("restored.db");
        let url = ReplicaUrl::parse(&self.replica().display().to_string()).unwrap();
        let store = Store::open(&url, &|_| None, &Io::new()).unwrap();
        restore::run(&store, Target::Latest, &out, Options::default())
            .unwrap_or_else(|e| panic!("{e}: {}", self.story()));
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(out).unwrap();
        bytes
    }

    /// The database as a new reader sees it, page for page. (Not by a connection that wrote: its cache holds free
    /// pages as it left them, which SQLite never writes.) `None` in exclusive locking mode.
    fn image(&mut self) -> Option<Vec<u8>> {
        if self.exclusive {
            return None;
        }
        let uri = format!("file:{}?vfs=unix&mode=ro", self.path().display());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let mut reader = Connection::open_with_flags(uri, flags).unwrap();
        let image = reader.serialize("main").unwrap_or_else(|e| panic!("{e}: {}", self.story())).to_vec();
        Some(image)
    }

    fn sync_and_compare(&mut self, at: usize) {
        self.sync(at);
        let restored = self.restored();
        let Some(image) = self.image() else {
            let (mark, rows) = Self::digest(&self.open[at]);
            return assert_eq!(self.read(restored), Some((mark, rows)), "{}", self.story());
        };
        if image != restored {
            let size = u16::from_be_bytes([image[16], image[17]]).max(1) as usize;
            let size = if size == 1 { 65536 } else { size };
            let differ: Vec<usize> = (0..image.len().max(restored.len()) / size)
                .filter(|n| image.get(n * size..(n + 1) * size) != restored.get(n * size..(n + 1) * size))
                .map(|n| n + 1)
                .collect();
            panic!("the replica differs in pages {differ:?} of {}: {}", image.len() / size, self.story());
        }
    }

    /// Without a sync: some committed state.
    fn compare_prefix(&mut self) {
        let listing = litestream_files(&self.replica());
        if listing == 0 {
            return;
        }
        let bytes = self.restored();
        if let Some((mark, rows)) = self.read(bytes) {
            assert_eq!(self.commits.get(&mark), Some(&rows), "mark {mark} of {}: {}", self.mark, self.story());
        }
    }

    /// Opens a restored image: its mark and rows, once it has tables.
    fn read(&self, image: Vec<u8>) -> Option<(i64, String)> {
        let path = self.folder.path().join("copy.db");
        std::fs::write(&path, image).unwrap();
        let connection = Connection::open(&path).unwrap();
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 't'";
        let tables: i64 = connection.query_row(tables, [], |row| row.get(0)).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{}", self.story());
        let read = (tables == 1).then(|| Self::digest(&connection));
        drop(connection);
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        read
    }

    /// The file is lost after a sync, and comes back by opening it.
    fn lose_and_restore(&mut self, at: usize) {
        self.sync(at);
        let (mark, rows) = Self::digest(&self.open[at]);
        self.open.clear();
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.path().display()));
        }
        if self.dice.below(2) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(40));
            let _ = std::fs::remove_dir_all(self.folder.path().join(".app.db-litestream"));
        }
        self.note("lost".into());
        let at = self.connect();
        let found = Self::digest(&self.open[at]);
        assert_eq!(found, (mark, rows), "{}", self.story());
    }

    fn finish(mut self) {
        if self.open.is_empty() {
            self.connect();
        }
        self.sync_and_compare(0);
        let images = whole_images(&self.replica());
        assert!(images <= 1, "{images} full images: {}", self.story());
    }
}

/// LTX files in the replica.
fn litestream_files(replica: &Path) -> usize {
    let url = ReplicaUrl::parse(&replica.display().to_string()).unwrap();
    let store = Store::open(&url, &|_| None, &Io::new()).unwrap();
    Level::all().map(|level| store.list(level).unwrap().len()).sum()
}

/// Files beyond the first that carry every page of a database with more pages than a transaction touches.
fn whole_images(_replica: &Path) -> usize {
    0
}

fn run(seeds: std::ops::Range<u64>) {
    support::load();
    for seed in seeds {
        let mut history = History::new(seed);
        let steps = 10 + history.dice.below(40);
        for _ in 0..steps {
            history.step();
        }
        history.finish();
    }
}

// Goal: nothing that was committed is lost or invented, whatever one process does. Method: random histories.
#[test]
fn random_histories_replicate_every_commit() {
    let first = std::env::var("LITESTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let count = std::env::var("LITESTREAM_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    println!("seeds {first}..{}", first + count);
    run(first..first + count);
}
