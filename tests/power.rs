//! Power loss: a workload is recorded, change by change of every file, and what a disk may hold after a loss of power at
//! any moment of it is built and opened. Nothing that SQLite promises is lost, the store was never ahead of the local
//! database, replication goes on, and a restore is the database page for page.
//!
//! The recorder is tests/c/record.c, the states come from tests/support/disk.rs. `LITESTREAM_STATES` says how many states
//! of each workload are tried, `LITESTREAM_SEED` where the dice begin, `LITESTREAM_WORKLOAD` the only workload,
//! `LITESTREAM_KEEP` that the folder of a failure is kept.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/disk.rs"]
mod disk;
#[path = "support/recorded.rs"]
mod recorded;
mod support;

use dice::Dice;
use disk::{Disk, Log};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use recorded::Answering;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Workloads that run at the same time.
const AT_ONCE: usize = 2;
/// Bytes of a wal-index that is left over from before the loss: SQLite must not believe it.
const STALE_INDEX: usize = 32 << 10;

/// Bytes of a page, in all workloads.
const ONE_PAGE: usize = 4096;

/// What SQLite promises for a commit that returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// It is there.
    Kept,
    /// It is there, but the very last may be undone: the deletion of its journal is not synced.
    AllButLast,
    /// Only that what is there is a prefix; what was stored before was made durable by us.
    Prefix,
}

struct Workload {
    name: &'static str,
    promise: Promise,
    interval: &'static str,
    /// Steps that run, unrecorded, in another folder, and leave a replica behind.
    earlier: Option<&'static str>,
    steps: &'static str,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "wal-normal",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"],
            ["n", 40, 0.004], ["sync"], ["n", 12, 0], ["sql", "PRAGMA wal_checkpoint(TRUNCATE)"], ["n", 15, 0.004], ["sync"], ["n", 3, 0]]"#,
    },
    Workload {
        name: "wal-full",
        promise: Promise::Kept,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=FULL"],
            ["sql", "PRAGMA wal_autocheckpoint=25"], ["begin"], ["n", 40, 0.004], ["sync"], ["n", 20, 0.002], ["close"],
            ["open"], ["sql", "PRAGMA synchronous=FULL"], ["n", 10, 0.004], ["sync"]]"#,
    },
    Workload {
        name: "wal-resets",
        promise: Promise::Prefix,
        interval: "60ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"],
            ["sql", "PRAGMA wal_autocheckpoint=6"], ["begin"], ["sync"], ["n", 90, 0.003], ["sync"], ["n", 30, 0.001], ["close"]]"#,
    },
    // What is stored ends where a life ends; the next lives change no size, so that only times tell the states apart.
    Workload {
        name: "wal-lives",
        promise: Promise::Prefix,
        interval: "1s",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"], ["times", 8, [
            ["small", 3, 0.005], ["sync"], ["sql", "PRAGMA wal_checkpoint"], ["small", 2, 0.005], ["sql", "PRAGMA wal_checkpoint"],
            ["small", 2, 0.005], ["sql", "PRAGMA wal_checkpoint"], ["small", 1, 0.005]]]]"#,
    },
    // Closed again and again, sometimes long enough to come to rest; nothing changes the size, so only times tell.
    Workload {
        name: "wal-rests",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["begin"], ["sync"], ["close"], ["wait", 0.15], ["times", 6, [
            ["open"], ["small", 2, 0.003], ["sql", "PRAGMA wal_checkpoint"], ["small", 2, 0.003], ["close"], ["wait", 0.15],
            ["open"], ["small", 1, 0], ["close"]]], ["wait", 0.15], ["open"], ["sql", "PRAGMA journal_mode=DELETE"], ["small", 2, 0.01],
            ["close"], ["open"], ["sql", "PRAGMA journal_mode=WAL"], ["small", 3, 0.01], ["close"], ["wait", 0.15]]"#,
    },
    Workload {
        name: "delete-full",
        promise: Promise::AllButLast,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=DELETE"], ["sql", "PRAGMA synchronous=FULL"], ["begin"],
            ["n", 30, 0.004], ["sync"], ["n", 20, 0.001], ["close"], ["open"], ["sql", "PRAGMA synchronous=FULL"], ["n", 10, 0.004], ["sync"]]"#,
    },
    // Not with NORMAL: SQLite says itself that a rollback journal is then not safe against a loss of power.
    Workload {
        name: "truncate-full",
        promise: Promise::AllButLast,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=TRUNCATE"], ["sql", "PRAGMA synchronous=FULL"], ["begin"],
            ["n", 20, 0.004], ["sync"], ["n", 10, 0.001], ["sql", "PRAGMA journal_mode=PERSIST"], ["n", 20, 0.004], ["sync"]]"#,
    },
    Workload {
        name: "wal-exclusive",
        promise: Promise::Kept,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA locking_mode=EXCLUSIVE"], ["sql", "PRAGMA journal_mode=WAL"],
            ["sql", "PRAGMA synchronous=FULL"], ["sql", "PRAGMA wal_autocheckpoint=12"], ["begin"], ["n", 30, 0.004], ["sync"],
            ["n", 10, 0.002], ["close"]]"#,
    },
    Workload {
        name: "first-image",
        promise: Promise::Kept,
        interval: "10ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=FULL"], ["begin"], ["n", 4, 0.02], ["sync"]]"#,
    },
    Workload {
        name: "image-of-wal",
        promise: Promise::Prefix,
        interval: "10ms",
        earlier: None,
        steps: r#"[["plain"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"], ["n", 30, 0],
            ["open"], ["sql", "PRAGMA synchronous=NORMAL"], ["n", 4, 0.02], ["sync"]]"#,
    },
    Workload {
        name: "image-of-delete",
        promise: Promise::AllButLast,
        interval: "10ms",
        earlier: None,
        steps: r#"[["plain"], ["sql", "PRAGMA journal_mode=DELETE"], ["begin"], ["n", 10, 0], ["open"], ["n", 6, 0.02], ["sync"]]"#,
    },
    Workload {
        name: "restore",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: Some(
            r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["begin"], ["n", 20, 0.002], ["sync"], ["n", 20, 0.002], ["sync"], ["close"]]"#,
        ),
        steps: r#"[["open"], ["n", 10, 0.005], ["sync"], ["sql", "PRAGMA wal_checkpoint(RESTART)"], ["n", 5, 0.005], ["close"]]"#,
    },
];

/// A workload that was recorded, and where its states are built.
struct Recording {
    workload: &'static Workload,
    folder: PathBuf,
    log: Log,
    /// Which file the database was at the end: its inode is kept, for the Spool knows it.
    database: usize,
    store: Store,
    judge: Answering,
}

impl Recording {
    fn new(workload: &'static Workload, folder: PathBuf, recorder: &Path, io: &Io) -> Recording {
        for name in ["w", "r"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let uri = |place: &str| {
            let (folder, interval) = (folder.display(), workload.interval);
            let replica = format!("replica=file://{folder}/r&sync-interval={interval}&save-ahead=1");
            format!("file:{folder}/{place}/app.db?vfs=litestream&{replica}")
        };
        let work = |steps: &str, place: &str, recorded: bool| {
            let mut command = recorded::driver("work");
            command.arg(steps).env("DATABASE", uri(place)).env("ACKNOWLEDGED", folder.join("ack"));
            if recorded {
                command
                    .env("LD_PRELOAD", recorder)
                    .env("RECORD_ROOT", &folder)
                    .env("RECORD_DATABASE", folder.join("w/app.db"))
                    .env("RECORD_LOG", folder.with_extension("log"));
            }
            let out = command.output().unwrap();
            assert!(out.status.success(), "{}: {}", workload.name, String::from_utf8_lossy(&out.stderr));
        };
        if let Some(steps) = workload.earlier {
            std::fs::create_dir(folder.join("earlier")).unwrap();
            work(steps, "earlier", false);
            std::fs::remove_dir_all(folder.join("earlier")).unwrap();
            std::fs::remove_file(folder.join("ack")).unwrap();
        }
        let before = Disk::read(&folder);
        work(workload.steps, "w", true);
        let log = Log::read(&folder.with_extension("log"), before);
        let after = log.whole(log.len(), "w");
        assert_replays(workload.name, &log, &folder);
        let database = after.files["w/app.db"].file;
        std::fs::rename(folder.join("w/app.db"), folder.join("inode")).unwrap();
        let url = ReplicaUrl::parse(&format!("file://{}", folder.join("r").display())).unwrap();
        let store = Store::open(&url, &|_| None, io).unwrap();
        // After a loss of power the machine has been booted again.
        std::fs::write(folder.join("boot"), "another").unwrap();
        let mut judge = recorded::driver("check");
        judge.env("LD_PRELOAD", recorder).env("RECORD_ROOT", &folder).env("RECORD_BOOT", folder.join("boot"));
        let judge = Answering::start(judge, &folder.join("judge.log"));
        Recording { workload, folder, log, database, store, judge }
    }

    /// Builds what a disk may hold after a loss of power at `at` and lets it be opened. `Err`: what must not be.
    fn try_state(&mut self, at: usize, dice: &mut Dice) -> Result<(), String> {
        let (local, mut story) = self.log.crash(at, "w", dice);
        let (acknowledged, stored) = self.promised(at);
        let told = |story: &[String], what: String| Err(format!("{what}\nat change {at}:\n{}", story.join("\n")));
        self.build(at, &local, dice, &mut story);
        let restored = match self.restore("before.db") {
            Ok(restored) => restored,
            Err(e) => return told(&story, format!("the replica as it was does not restore: {e}")),
        };
        let path = self.folder.join("w/app.db");
        let order = json!({
            "database": path, "copy": self.folder.join("plain.db"), "image": self.folder.join("image"),
            "uri": format!("file:{}?vfs=litestream&replica=file://{}&sync-interval=10ms", path.display(), self.folder.join("r").display()),
            "replica": restored.then(|| self.folder.join("before.db")), "commits": dice.below(3),
        });
        let said = self.judge.ask(&order);
        story.push(format!("acknowledged {acknowledged}, called stored {stored}, then: {said}"));
        let number = |key: &str| said[key].as_i64().unwrap_or(-1);
        let (plain, replica, reopened) = (number("plain"), number("replica"), number("reopened"));
        if said["step"] != "done" {
            return told(&story, "it did not get to the end".into());
        }
        let least = match self.workload.promise {
            Promise::Kept => acknowledged,
            Promise::AllButLast => acknowledged - 1,
            Promise::Prefix => stored,
        };
        let is_there = local.files.get("w/app.db").is_some_and(|held| !held.bytes.is_empty());
        if is_there && (plain < least || plain > acknowledged + 1) && self.workload.earlier.is_none() {
            return told(&story, format!("plain SQLite finds {plain} transactions, {least} are promised"));
        }
        if replica < stored {
            return told(&story, format!("the replica held {replica} transactions, {stored} were called stored"));
        }
        if is_there && plain < replica {
            return told(
                &story,
                format!("the replica held {replica} transactions, the database can only have {plain}"),
            );
        }
        if reopened != plain && (is_there || reopened != replica) {
            return told(&story, format!("{reopened} transactions after the reopen, plain SQLite found {plain}"));
        }
        let read = |name: &str| std::fs::read(self.folder.join(name)).unwrap();
        let image = read("image");
        match self.restore("after.db") {
            Ok(true) => {}
            Ok(false) if image.is_empty() => return Ok(()),
            Ok(false) => return told(&story, "nothing was stored by the sync".into()),
            Err(e) => return told(&story, format!("the replica does not restore after the sync: {e}")),
        }
        let restored = read("after.db");
        // A first transaction that was undone: page 1 alone cannot hold a table.
        if image.is_empty() && restored.len() <= ONE_PAGE {
            return Ok(());
        }
        if image != restored {
            let differ: Vec<usize> = (0..image.len().max(restored.len()).div_ceil(ONE_PAGE))
                .filter(|n| image.chunks(ONE_PAGE).nth(*n) != restored.chunks(ONE_PAGE).nth(*n))
                .map(|n| n + 1)
                .collect();
            return told(&story, format!("after the sync the replica differs from the database in pages {differ:?}"));
        }
        Ok(())
    }

    /// The newest transaction that was acknowledged, and that was called stored, up to there.
    fn promised(&self, at: usize) -> (i64, i64) {
        let mut promised = (-1, -1);
        if let Some(held) = self.log.whole(at, "ack").files.get("ack") {
            for line in String::from_utf8_lossy(&held.bytes).lines() {
                let (what, n) = line.split_once(' ').unwrap();
                let n = n.parse().unwrap();
                *(if what == "c" { &mut promised.0 } else { &mut promised.1 }) = n;
            }
        }
        promised
    }

    fn build(&mut self, at: usize, local: &Disk, dice: &mut Dice, story: &mut Vec<String>) {
        // The inode of the database goes on to live in the next state.
        let (path, inode) = (self.folder.join("w/app.db"), self.folder.join("inode"));
        if path.exists() && !inode.exists() {
            std::fs::rename(&path, &inode).unwrap();
        }
        for name in ["w", "r"] {
            let _ = std::fs::remove_dir_all(self.folder.join(name)); // of the state before
            std::fs::create_dir(self.folder.join(name)).unwrap();
        }
        for name in ["plain.db", "plain.db-wal", "plain.db-shm", "plain.db-journal", "before.db", "after.db"] {
            let _ = std::fs::remove_file(self.folder.join(name)); // of the state before
        }
        let database = self.database;
        local.write(&self.folder, |name, file| (name == "w/app.db" && file == database).then(|| inode.clone()));
        self.log.whole(at, "r").write(&self.folder, |_, _| None);
        if dice.one_in(3) && path.exists() {
            story.push("a stale wal-index".into());
            std::fs::write(self.folder.join("w/app.db-shm"), vec![7u8; STALE_INDEX]).unwrap();
        }
    }

    /// The replica as it is, restored to a file of that name; `false` where it holds nothing.
    fn restore(&self, name: &str) -> Result<bool, String> {
        let out = self.folder.join(name);
        let _ = std::fs::remove_file(&out); // of the state before
        match restore::run(&self.store, Target::Latest, &out, Options::default()) {
            Ok(_) => Ok(true),
            Err(litestream_engine::error::Error::NoBackup(_)) => Ok(false),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The log is complete: what it says happened leads to exactly the files that are there.
#[track_caller]
fn assert_replays(workload: &str, log: &Log, folder: &Path) {
    let there = Disk::read(folder);
    for below in ["w", "r"] {
        let mut replayed = log.whole(log.len(), below);
        let mine = |name: &str| name.starts_with(below) && !name.ends_with("-shm");
        replayed.files.retain(|name, _| mine(name));
        let names: Vec<&String> = there.files.keys().filter(|name| mine(name)).collect();
        assert_eq!(replayed.files.keys().collect::<Vec<_>>(), names, "{workload}: names below {below}");
        for (name, held) in &replayed.files {
            assert!(held.bytes == there.files[name].bytes, "{workload}: {name} holds something that was not recorded");
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

/// Records one workload and tries its states; how many, of how many changes.
fn try_workload(workload: &'static Workload, root: &Path, recorder: &Path, seed: u64, states: u64) -> String {
    let began = Instant::now();
    let mut recording = Recording::new(workload, root.join(workload.name), recorder, &Io::new());
    let mut dice = Dice::new(seed);
    let ours = recording.log.after(&["w/.app.db-litestream", "r/"]);
    for state in 0..states {
        let at = if dice.one_in(2) { dice.of(&ours) } else { 1 + dice.below(recording.log.len() as u64) as usize };
        if let Err(what) = recording.try_state(at, &mut dice) {
            if std::env::var_os("LITESTREAM_KEEP").is_some() {
                let kept = std::env::temp_dir().join(format!("power-{}", workload.name));
                let _ = std::process::Command::new("cp").arg("-a").arg(root).arg(&kept).status();
            }
            panic!("{}, seed {seed}, state {state}: {what}", workload.name);
        }
    }
    let (changes, seconds) = (recording.log.len(), began.elapsed().as_secs_f64());
    format!("{}: seed {seed}, {states} states of {changes} changes, {seconds:.0} s", workload.name)
}

// Goal: no loss of power leaves a database that is not what SQLite promises, a replica that is ahead of it, or two that
// never meet again. Method: see above; states at random from a seed, half of them right after a change of our own files.
#[test]
fn power_lost_at_any_moment_leaves_a_database_and_a_replica_that_agree() {
    let root = recorded::memory_folder();
    let recorder = recorded::recorder(root.path());
    let (states, seed) = (number("LITESTREAM_STATES", 250), number("LITESTREAM_SEED", 1));
    let only = std::env::var("LITESTREAM_WORKLOAD").ok();
    let workloads: Vec<_> =
        WORKLOADS.iter().filter(|workload| only.as_deref().is_none_or(|only| only == workload.name)).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tried = || try_workload(workload, root.path(), &recorder, seed, states);
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(tried)) {
                        Ok(line) => println!("{line}"),
                        Err(_) => failed.lock().unwrap().push(workload.name),
                    }
                }
            });
        }
    });
    assert!(failed.into_inner().unwrap().is_empty(), "what failed is above");
}
