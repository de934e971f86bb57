//! Replicated databases driven through the built library with real connections: open, sync, restore elsewhere,
//! compare page for page, count full images. Shared by the test files about whole paths.
//!
//! Knows nothing of what a test writes.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use crate::servers::{AZURITE_KEY, S3_KEY};
use litestream_engine::ltx::{Decoder, Level, Txid};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{FileInfo, Io, ReplicaUrl, Store};
use rusqlite::{Connection, OpenFlags};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

/// Seconds that a sync may take on a busy machine.
pub const SYNC_SECONDS: u32 = 60;

/// Loads the library into this process, once, with the credentials of the tests' own servers.
pub fn load() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in ["AWS_CA_BUNDLE", "LITESTREAM_REPLICA_URL", "LITESTREAM_DB", "LITESTREAM_LOG"] {
            // SAFETY: every test begins here and waits, so nobody else reads the environment now.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in credentials() {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
        crate::support::load();
    });
}

/// A folder whose name tells the test, so that a line of the library's log does.
pub fn folder() -> tempfile::TempDir {
    let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
    tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().unwrap()
}

/// What the tests' servers let in, for this process and for programs that it starts.
pub fn credentials() -> [(&'static str, &'static str); 3] {
    [("AWS_ACCESS_KEY_ID", S3_KEY.0), ("AWS_SECRET_ACCESS_KEY", S3_KEY.1), ("AZURE_STORAGE_KEY", AZURITE_KEY)]
}

/// The built command line, which `make test` and `cargo build --release --workspace` leave beside the library.
pub fn command_line() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().unwrap().parent().unwrap().join("litestream-vfs");
    assert!(built.is_file(), "{} is missing: `cargo build --release --workspace` builds it", built.display());
    built
}

/// Escaped for a value in a URI.
pub fn escape(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A database and where it goes.
#[derive(Debug, Clone)]
pub struct Place {
    /// The database file.
    pub path: PathBuf,
    /// The replica's URL.
    pub replica: String,
    /// How often it is stored.
    pub interval: &'static str,
    /// More parameters for the URI, each with its `&`.
    pub more: String,
}

impl Place {
    /// `NAME` in `folder`, replicated to a folder beside it.
    pub fn in_folder(folder: &Path, name: &str) -> Place {
        Place::new(folder, name, &format!("file://{}", folder.join(format!("{name}-replica")).display()))
    }

    pub fn new(folder: &Path, name: &str, replica: &str) -> Place {
        Place { path: folder.join(name), replica: replica.to_string(), interval: "100ms", more: String::new() }
    }

    pub fn every(self, interval: &'static str) -> Place {
        Place { interval, ..self }
    }

    pub fn with(mut self, more: &str) -> Place {
        self.more.push_str(more);
        self
    }

    /// The same replica for a database of another name.
    pub fn elsewhere(&self, path: &Path) -> Place {
        Place { path: path.to_path_buf(), ..self.clone() }
    }

    pub fn uri(&self) -> String {
        let (path, replica) = (self.path.display(), escape(&self.replica));
        format!("file:{path}?vfs=litestream&replica={replica}&sync-interval={}{}", self.interval, self.more)
    }

    pub fn try_open(&self) -> rusqlite::Result<Connection> {
        load();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(self.uri(), flags)?;
        connection.busy_timeout(Duration::from_secs(20))?;
        Ok(connection)
    }

    #[track_caller]
    pub fn open(&self) -> Connection {
        self.try_open().unwrap_or_else(|e| panic!("{}: {e}", self.uri()))
    }

    /// Open, in WAL mode.
    #[track_caller]
    pub fn open_wal(&self) -> Connection {
        let connection = self.open();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection
    }

    pub fn store(&self) -> Store {
        let url = ReplicaUrl::parse(&self.replica).unwrap();
        Store::open(&url, &|name| std::env::var(name).ok(), &Io::new()).unwrap()
    }

    /// All files of the replica, level by level.
    pub fn listing(&self) -> Vec<FileInfo> {
        let store = self.store();
        Level::all().flat_map(|level| store.list(level).unwrap()).collect()
    }

    /// The database as a new reader sees it, page for page. (Not by a connection that wrote: its cache holds free
    /// pages as it left them, which SQLite never writes.)
    #[track_caller]
    pub fn image(&self) -> Vec<u8> {
        image(&self.path)
    }

    /// Restored by the engine into a fresh file, which is removed again.
    #[track_caller]
    pub fn restored(&self, target: Target) -> Vec<u8> {
        let out = self.restore_to(target);
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(out).unwrap();
        bytes
    }

    /// Restored by the engine into a fresh file.
    #[track_caller]
    pub fn restore_to(&self, target: Target) -> PathBuf {
        let out = self.path.with_extension("restored");
        restore::run(&self.store(), target, &out, Options::default()).unwrap_or_else(|e| panic!("{e}"));
        out
    }

    /// Syncs by `connection`, restores elsewhere, compares; the stored Txid.
    #[track_caller]
    pub fn is_replicated(&self, connection: &Connection) -> Txid {
        let txid = sync(connection);
        same_pages(&self.image(), &self.restored(Target::Latest));
        txid
    }

    /// So many files, not counting what was merged from others, carry every page of a database of more than 50 pages.
    #[track_caller]
    pub fn has_images(&self, wanted: std::ops::RangeInclusive<usize>) {
        let store = self.store();
        let read = |file: &FileInfo| (file.clone(), pages_of(store.stream(file).unwrap()));
        let own = |file: &&FileInfo| [Level::RAW, Level::SNAPSHOT].contains(&file.level);
        let files: Vec<_> = self.listing().iter().filter(own).map(read).collect();
        let full = files.iter().filter(|(_, (pages, commit))| *commit > 50 && pages == commit).count();
        let line = |(file, (pages, commit)): &(FileInfo, (u32, u32))| {
            format!("{} {}-{}: {pages} of {commit} pages", file.level, file.span.min, file.span.max)
        };
        let lines: Vec<String> = files.iter().map(line).collect();
        assert!(wanted.contains(&full), "{full} full images instead of {wanted:?}:\n{}", lines.join("\n"));
    }

    /// The database, what SQLite keeps beside it, and the Spool are gone, as with a new container.
    pub fn lose(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.path.display()));
        }
        let _ = std::fs::remove_dir_all(self.spool());
    }

    pub fn spool(&self) -> PathBuf {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        self.path.with_file_name(format!(".{name}-litestream"))
    }

    /// Segments that wait in the Spool.
    pub fn segments(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.spool()).unwrap().flatten().map(|file| file.path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect()
    }
}

#[track_caller]
pub fn wait_for(what: &str, limit: Duration, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that is committed is stored; the Txid.
#[track_caller]
pub fn sync(connection: &Connection) -> Txid {
    let synced: Result<String, _> =
        connection.query_row(&format!("SELECT litestream_sync({SYNC_SECONDS})"), [], |row| row.get(0));
    let txid = synced.unwrap_or_else(|e| panic!("{e}; status: {}", status(connection)));
    Txid::parse(&txid).unwrap()
}

/// The status as JSON.
pub fn status(connection: &Connection) -> String {
    connection.query_row("PRAGMA litestream_status", [], |row| row.get(0)).unwrap_or_else(|e| e.to_string())
}

/// What a new reader without the extension sees of the database at `path`.
#[track_caller]
pub fn image(path: &Path) -> Vec<u8> {
    let uri = format!("file:{}?vfs=unix&mode=ro", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let mut reader = Connection::open_with_flags(uri, flags).unwrap();
    reader.busy_timeout(Duration::from_secs(20)).unwrap();
    reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    reader.serialize("main").unwrap().to_vec()
}

/// Equal page for page, or a sentence that names the pages.
#[track_caller]
pub fn same_pages(wanted: &[u8], found: &[u8]) {
    if wanted == found {
        return;
    }
    let size = page_size(wanted);
    let count = wanted.len().max(found.len()) / size;
    let page = |bytes: &[u8], n: usize| bytes.get(n * size..(n + 1) * size).map(<[u8]>::to_vec);
    let differ: Vec<usize> = (0..count).filter(|n| page(wanted, *n) != page(found, *n)).map(|n| n + 1).collect();
    let (many, first) = (differ.len(), &differ[..differ.len().min(20)]);
    panic!("{many} of {count} pages differ ({} bytes wanted, {} found), first {first:?}", wanted.len(), found.len());
}

/// Of a database's first page.
pub fn page_size(database: &[u8]) -> usize {
    match u16::from_be_bytes([database[16], database[17]]) {
        1 => 65536,
        size => usize::from(size),
    }
}

/// Pages in an LTX file (the lock page counted where a whole database leaves it out), and in its database.
pub fn pages_of(file: impl Read) -> (u32, u32) {
    let mut decoder = Decoder::new(file).unwrap();
    let (commit, lock) = (decoder.header().commit, decoder.header().page_size.lock_page().0);
    let (mut page, mut count) = (Vec::new(), u32::from(commit >= lock));
    while decoder.next_page(&mut page).unwrap().is_some() {
        count += 1;
    }
    (count, commit)
}

/// `ok`, or what is wrong with the database at `path`.
pub fn integrity(path: &Path) -> String {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

/// Rows that come, change and go, so that each moment differs in several pages.
pub fn step(connection: &Connection, n: i64) {
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a, b); CREATE INDEX IF NOT EXISTS i ON t(a);
             INSERT INTO t(a, b) SELECT {n} * 7919 % 1000, hex(randomblob(300)) FROM json_each('[1,2,3,4,5,6,7,8,9]');
             UPDATE t SET b = hex(randomblob(200)) WHERE id % 17 = {n} % 17;
             DELETE FROM t WHERE id % 23 = {n} % 23 AND id < {n} * 5; COMMIT"
        ))
        .unwrap();
}
