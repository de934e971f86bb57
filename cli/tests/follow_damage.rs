//! `restore -f` beside damaged files: it goes around them as a restore does, and where nothing leads past one it keeps
//! the copy as it is, says which file is in the way, and goes on when something else comes.
//!
//! The files are a real database's, replicated through the built library; the follower sees them one by one.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "../../tests/support/library.rs"]
mod library;

use litestream_engine::compactor::{self, Inputs};
use litestream_engine::due::Merge;
use litestream_engine::ltx::{FileInfo, Level, Txid};
use litestream_engine::plan::{Target, plan};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long a follower may need to be where it shall be.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longer than it takes to try five times.
const A_WHILE: Duration = Duration::from_millis(1500);

/// A replica that is complete, and one that the follower sees.
struct Scene {
    folder: tempfile::TempDir,
    whole: Store,
    files: Vec<FileInfo>,
}

fn store(folder: &Path) -> Store {
    Store::open(&ReplicaUrl::parse(folder.to_str().unwrap()).unwrap(), &|_| None, &Io::new()).unwrap()
}

impl Scene {
    /// A database of so many transactions, each a raw file that counts one up; the first is the whole database.
    fn new(txids: u64) -> Scene {
        library::load();
        let folder = tempfile::tempdir().unwrap();
        let (database, replica) = (folder.path().join("app.db"), folder.path().join("whole"));
        let uri = format!("file:{}?vfs=litestream&replica={}&levels=24h", database.display(), replica.display());
        let db = Connection::open(uri).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(n, pad); INSERT INTO t VALUES(1, '')").unwrap();
        let sync = || db.query_row("SELECT litestream_sync(60)", [], |row| row.get::<_, String>(0)).unwrap();
        while sync() < Txid(txids).to_string() {
            db.execute_batch("UPDATE t SET n = n + 1, pad = hex(randomblob(3000))").unwrap();
        }
        let whole = store(&replica);
        let files = Level::all().flat_map(|level| whole.list(level).unwrap()).collect();
        Scene { folder, whole, files }
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("copy.db")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.copy().with_extension("log")).unwrap_or_default()
    }

    fn shown(&self, level: Level, name: &str) -> PathBuf {
        let folder = self.folder.path().join(format!("shown/ltx/{level}"));
        fs::create_dir_all(&folder).unwrap();
        folder.join(name)
    }

    /// The follower sees the file of this transaction from now on, as it is or with a byte turned.
    fn show(&self, txid: u64, is_damaged: bool) -> String {
        let file = self.files.iter().find(|file| file.span.max == Txid(txid)).unwrap();
        let name = file.span.file_name();
        let mut bytes = fs::read(self.folder.path().join(format!("whole/ltx/{}/{name}", file.level))).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= u8::from(is_damaged);
        let to = self.shown(file.level, &name);
        fs::write(to.with_extension("new"), bytes).unwrap();
        fs::rename(to.with_extension("new"), to).unwrap();
        name
    }

    /// The same for one made of the files from `first` to `last`.
    fn show_merged(&self, level: Level, first: u64, last: u64) -> String {
        let upto: Vec<FileInfo> = self.files.iter().filter(|file| file.span.max <= Txid(last)).cloned().collect();
        let mut inputs = plan(&upto, Target::Txid(Txid(last))).unwrap().files;
        inputs.retain(|file| file.span.max >= Txid(first));
        let from = Inputs { store: &self.whole, local: &|_| None, go_on: &|| Ok(()), doubt: &|_| {} };
        let merged = compactor::merge(&from, &Merge { level, inputs }, &self.folder.path().join("merged")).unwrap();
        let name = merged.header.span.file_name();
        fs::rename(merged.path, self.shown(level, &name)).unwrap();
        name
    }

    fn follow(&self) -> Child {
        let log = fs::File::create(self.copy().with_extension("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-vfs"));
        command.args(["restore", "-f", "-follow-interval", "50ms", "-o"]).arg(self.copy());
        command.arg(self.folder.path().join("shown")).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// The counter that a reader finds, in a database that is whole. A copy that is not there yet must not be made by this.
    fn counter(&self) -> Option<u64> {
        let db = Connection::open_with_flags(self.copy(), OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        let n = db.query_row("SELECT n FROM t", [], |row| row.get::<_, i64>(0)).ok()?;
        assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
        Some(n as u64)
    }

    /// A line may come after what it tells.
    #[track_caller]
    fn await_log(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "no line says {text}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn await_counter(&self, wanted: u64, follower: &mut Child) {
        let began = Instant::now();
        while self.counter() != Some(wanted) {
            let ended = follower.try_wait().unwrap();
            let now = began.elapsed() < PATIENCE && ended.is_none();
            assert!(now, "{:?} of {wanted}, {ended:?}: {}", self.counter(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Goal: damage neither ends a follower nor leads its copy astray. Method: a damaged raw file beside sound ones: the copy
/// goes as far as it can and stays, long after five tries, whole, and one line names the file; a compacted file over it
/// comes, then another damaged raw file with a snapshot over it, then one that is put right again.
#[test]
fn a_follower_goes_around_damage_or_waits_whole_before_it() {
    let scene = Scene::new(14);
    // Where the counter began is the library's: what the first file holds.
    (1..=4).for_each(|txid| _ = scene.show(txid, false));
    let mut follower = scene.follow();
    let began = Instant::now();
    while scene.counter().is_none() {
        assert!(began.elapsed() < PATIENCE, "no copy: {}", scene.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    let less = 4 - scene.counter().unwrap();
    let at = |txid: u64| txid - less;

    let bad = scene.show(6, true);
    for txid in [5, 7, 8] {
        scene.show(txid, false);
    }
    scene.await_counter(at(5), &mut follower);
    std::thread::sleep(A_WHILE);
    scene.await_counter(at(5), &mut follower);
    scene.await_log(&format!("level 0 {bad}: "));
    let lines = || scene.log().lines().filter(|line| line.contains("stays as it is")).count();
    assert_eq!(lines(), 1, "{}", scene.log());
    let copy = scene.copy().display().to_string();
    assert!(
        scene.log().contains(&format!("{copy} stays as it is, at transaction 0000000000000005")),
        "{}",
        scene.log()
    );

    let over = scene.show_merged(Level::new(1).unwrap(), 5, 8);
    scene.await_counter(at(8), &mut follower);
    scene.await_log(&format!("transaction 0000000000000008 was reached by level 1 {over}"));

    let bad = scene.show(9, true);
    scene.show(10, false);
    scene.show_merged(Level::SNAPSHOT, 1, 10);
    scene.show(11, false);
    scene.await_counter(at(11), &mut follower);
    scene.await_log(&format!("level 0 {bad}: "));
    scene.await_log("transaction 000000000000000b was reached by a restore of the whole database");

    scene.show(12, true);
    scene.show(13, false);
    std::thread::sleep(A_WHILE);
    scene.await_counter(at(11), &mut follower);
    scene.show(12, false);
    scene.await_counter(at(13), &mut follower);
    scene.await_log("follow mode goes on");
    follower.kill().unwrap();
    follower.wait().unwrap();
}
