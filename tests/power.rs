//! Power loss: a workload is recorded, change by change of every file, and what a disk may hold after a loss of power at
//! any moment of it is built and opened. Nothing that SQLite promises is lost, the store was never ahead of the local
//! database, replication goes on, and a restore is the database page for page. The same when power is lost again meanwhile.
//!
//! The recorder is tests/c/record.c, the states come from tests/support/disk.rs. `LITESTREAM_STATES` says how many states
//! of each workload are tried, `LITESTREAM_SEED` where the dice begin, `LITESTREAM_WORKLOAD` the only workload,
//! `LITESTREAM_KEEP` that the folder of a failure is kept.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/disk.rs"]
mod disk;
#[path = "support/losses.rs"]
mod losses;
#[path = "support/recorded.rs"]
mod recorded;
mod support;

use dice::Dice;
use disk::{Crash, Disk, Log};
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use losses::{Promise, WORKLOADS, Workload};
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

/// Where a database's header says which mode it is in: 1 with a rollback journal, 2 with a WAL.
const HEADER_MODE: usize = 18;

/// One in so many losses of power is followed by another one, while the database is opened and goes on.
const AGAIN: u64 = 8;

/// How many transactions there may be: in the database, and at least in the replica.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    least: i64,
    most: i64,
    stored: i64,
}

/// What a disk and a store hold after a loss of power.
struct State {
    local: Disk,
    replica: Disk,
    /// Which file of `local` was the database's.
    database: Option<usize>,
    bounds: Bounds,
    /// After a loss of power the machine is booted again.
    boot: &'static str,
}

/// What was found when a state was opened.
struct Opened {
    /// What lay there.
    before: Disk,
    plain: i64,
    replica: i64,
    /// The last transaction after it.
    last: i64,
}

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
        let mut judge = recorded::driver("check");
        judge
            .env("LD_PRELOAD", recorder)
            .env("RECORD_ROOT", &folder)
            .env("RECORD_BOOT", folder.join("boot"))
            .env("RECORD_DATABASE", folder.join("w/app.db"))
            .env("RECORD_LOG", folder.with_extension("judged"));
        let judge = Answering::start(judge, &folder.join("judge.log"));
        Recording { workload, folder, log, database, store, judge }
    }

    /// Builds what a disk may hold after a loss of power at `at` and lets it be opened; now and then the power is lost
    /// again meanwhile. `Err`: what must not be.
    fn try_state(&mut self, at: usize, dice: &mut Dice) -> Result<(), String> {
        let Crash { disk: local, mut story, in_part } = self.log.crash(at, "w", dice);
        let (acknowledged, stored) = promised(&self.log, at, "ack");
        let least = match self.workload.promise {
            Promise::Kept => acknowledged,
            Promise::AllButLast => acknowledged - 1,
            Promise::Prefix | Promise::Nothing => stored,
        };
        story.push(format!("at change {at}: acknowledged {acknowledged}, called stored {stored}"));
        let replica = self.log.whole(at, "r");
        let bounds = Bounds { least, most: acknowledged + 1, stored };
        let state = State { local, replica, database: Some(self.database), bounds, boot: "another" };
        let told = |story: Vec<String>, what: String| Err(format!("{what}\n{}", story.join("\n")));
        if self.workload.promise == Promise::Nothing {
            let is_mixed = in_part.contains("w/app.db");
            return self.open_unsound(&state, is_mixed, dice, &mut story).or_else(|what| told(story, what));
        }
        let opened = match self.open(&state, dice, &mut story) {
            Ok(opened) => opened,
            Err(what) => return told(story, what),
        };
        if dice.one_in(AGAIN)
            && let Some(state) = self.lost_again(opened, dice, &mut story)
        {
            return self.open(&state, dice, &mut story).map(|_| ()).or_else(|what| told(story, what));
        }
        Ok(())
    }

    /// What a second loss of power leaves, during what followed the first.
    fn lost_again(&mut self, first: Opened, dice: &mut Dice, story: &mut Vec<String>) -> Option<State> {
        let log = Log::read(&self.folder.with_extension("judged"), first.before);
        let ours = log.after(&["w/.app.db-litestream", "r/"]);
        let at =
            if dice.one_in(2) && !ours.is_empty() { dice.of(&ours) } else { 1 + dice.below(log.len() as u64) as usize };
        let Crash { disk: local, story: lost, .. } = log.crash(at, "w", dice);
        let (acknowledged, stored) = promised(&log, at, "again");
        story.push(format!(
            "again at change {at} of what followed: acknowledged {acknowledged}, called stored {stored}"
        ));
        story.extend(lost);
        // What was found after the first is durable; afterwards it was written with FULL, which in a rollback mode does not
        // sync that the journal is deleted.
        let whole = log.whole(at, "w");
        let in_rollback_mode = |bytes: &Vec<u8>| bytes.get(HEADER_MODE) == Some(&1);
        let undone = i64::from(whole.files.get("w/app.db").is_some_and(|held| in_rollback_mode(&held.bytes)));
        let bounds = Bounds {
            least: first.plain.max(acknowledged - undone),
            most: first.last,
            stored: stored.max(first.replica),
        };
        let database = log.before("w/app.db");
        Some(State { local, replica: log.whole(at, "r"), database, bounds, boot: "a third" })
    }

    /// What a judge is asked about a state that was built.
    fn order(&self, dice: &mut Dice, restored: bool) -> serde_json::Value {
        let path = self.folder.join("w/app.db");
        let replica = self.folder.join("r");
        json!({
            "database": path, "copy": self.folder.join("plain.db"), "image": self.folder.join("image"),
            "uri": format!("file:{}?vfs=litestream&replica=file://{}&sync-interval=10ms", path.display(), replica.display()),
            "replica": restored.then(|| self.folder.join("before.db")), "commits": dice.below(3),
            "again": self.folder.join("again"), "sound": self.workload.promise != Promise::Nothing,
        })
    }

    /// Opens a state; what was found.
    fn open(&mut self, state: &State, dice: &mut Dice, story: &mut Vec<String>) -> Result<Opened, String> {
        let State { local, bounds, .. } = state;
        let before = self.build(state, dice, story);
        let restored = self.restore("before.db").map_err(|e| format!("the replica as it was does not restore: {e}"))?;
        let said = self.judge.ask(&self.order(dice, restored.is_some()));
        story.push(format!("then: {said}"));
        let number = |key: &str| said[key].as_i64().unwrap_or(-1);
        let (plain, replica, reopened) = (number("plain"), number("replica"), number("reopened"));
        if said["step"] != "done" {
            return Err("it did not get to the end".into());
        }
        let Bounds { least, most, stored } = *bounds;
        let is_there = local.files.get("w/app.db").is_some_and(|held| !held.bytes.is_empty());
        if is_there && (plain < least || plain > most) && self.workload.earlier.is_none() {
            return Err(format!("plain SQLite finds {plain} transactions, {least} are promised"));
        }
        if replica < stored {
            return Err(format!("the replica held {replica} transactions, {stored} were called stored"));
        }
        if is_there && plain < replica {
            return Err(format!("the replica held {replica} transactions, the database can only have {plain}"));
        }
        if reopened != plain && (is_there || reopened != replica) {
            return Err(format!("{reopened} transactions after the reopen, plain SQLite found {plain}"));
        }
        self.assert_same()?;
        if let Some(before) = restored {
            self.never_went_back(before, replica, reopened)?;
        }
        Ok(Opened { before, plain, replica, last: number("n") })
    }

    /// Where SQLite promises nothing, the database may be broken; what was stored is still there, and stays. A file that
    /// `is_mixed` may look sound and be what no transaction left, with the header of an older one: nothing can tell.
    fn open_unsound(
        &mut self,
        state: &State,
        is_mixed: bool,
        dice: &mut Dice,
        story: &mut Vec<String>,
    ) -> Result<(), String> {
        self.build(state, dice, story);
        let restored = self.restore("before.db").map_err(|e| format!("the replica as it was does not restore: {e}"))?;
        let said = self.judge.ask(&self.order(dice, restored.is_some()));
        story.push(format!("then: {said}"));
        if said["step"] != "done" {
            return Err("it did not get to the end".into());
        }
        let stored = state.bounds.stored;
        let replica = said["replica"].as_i64().unwrap_or(-1);
        if replica < stored {
            return Err(format!("the replica held {replica} transactions, {stored} were called stored"));
        }
        if let Some(txid) = restored {
            let again = self.folder.join("again.db");
            let _ = std::fs::remove_file(&again); // of the state before
            restore::run(&self.store, Target::Txid(txid), &again, Options::default())
                .map_err(|e| format!("{txid} was stored before and does not restore now: {e}"))?;
            if std::fs::read(&again).unwrap() != std::fs::read(self.folder.join("before.db")).unwrap() {
                return Err(format!("{txid} was stored before and is another database now"));
            }
        }
        if !said["txid"].is_string() {
            let says_why = said["broken"].as_array().is_some_and(|broken| !broken.is_empty());
            return if says_why { Ok(()) } else { Err("nothing was stored, and nothing said why".into()) };
        }
        self.restore("after.db").map_err(|e| format!("the replica does not restore after the sync: {e}"))?;
        // What went on from a sound database, and not from an older one than was stored, is sound.
        match (said["plain"].as_i64(), said["n"].as_i64()) {
            (Some(plain), Some(n)) if plain >= replica && n >= 0 && !is_mixed => {
                match transactions(&self.folder.join("after.db")) {
                    Ok(found) if found == n => Ok(()),
                    other => Err(format!("after the sync the replica should hold {n} transactions: {other:?}")),
                }
            }
            _ => Ok(()),
        }
    }

    /// After the sync the replica is the database.
    fn assert_same(&self) -> Result<(), String> {
        let read = |name: &str| std::fs::read(self.folder.join(name)).unwrap();
        let image = read("image");
        let restored =
            self.restore("after.db").map_err(|e| format!("the replica does not restore after the sync: {e}"))?;
        match restored {
            Some(_) => {}
            None if image.is_empty() => return Ok(()),
            None => return Err("nothing was stored by the sync".into()),
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
            return Err(format!("after the sync the replica differs from the database in pages {differ:?}"));
        }
        Ok(())
    }

    /// Nothing stored since `txid`, which holds `n` transactions, holds fewer than what was stored before it; but for those that
    /// the loss undid, beyond the `left`, when they waited to be stored.
    fn never_went_back(&self, txid: Txid, mut n: i64, left: i64) -> Result<(), String> {
        let files = Level::all().flat_map(|level| self.store.list(level).unwrap());
        let mut stored: Vec<Txid> = files.map(|file| file.span.max).filter(|end| *end > txid).collect();
        stored.sort_unstable();
        stored.dedup();
        for txid in stored {
            let out = self.folder.join("between.db");
            let _ = std::fs::remove_file(&out); // of the Txid before
            restore::run(&self.store, Target::Txid(txid), &out, Options::default())
                .map_err(|e| format!("{txid} does not restore: {e}"))?;
            let found = transactions(&out).map_err(|e| format!("{txid} restores to {e}"))?;
            if found < n.min(left) {
                return Err(format!("{txid} holds {found} transactions, and the one before it {n}"));
            }
            n = found;
        }
        Ok(())
    }

    /// Puts a state in its place; what is there now.
    fn build(&mut self, state: &State, dice: &mut Dice, story: &mut Vec<String>) -> Disk {
        // The inode of the database goes on to live in the next state.
        let (path, inode) = (self.folder.join("w/app.db"), self.folder.join("inode"));
        if path.exists() && !inode.exists() {
            std::fs::rename(&path, &inode).unwrap();
        }
        for name in ["w", "r"] {
            let _ = std::fs::remove_dir_all(self.folder.join(name)); // of the state before
            std::fs::create_dir(self.folder.join(name)).unwrap();
        }
        for name in ["plain.db", "plain.db-wal", "plain.db-shm", "plain.db-journal", "before.db", "after.db", "again"] {
            let _ = std::fs::remove_file(self.folder.join(name)); // of the state before
        }
        let is_database = |name: &str, file| name == "w/app.db" && Some(file) == state.database && inode.exists();
        state.local.write(&self.folder, |name, file| is_database(name, file).then(|| inode.clone()));
        state.replica.write(&self.folder, |_, _| None);
        if dice.one_in(3) && path.exists() {
            story.push("a stale wal-index".into());
            std::fs::write(self.folder.join("w/app.db-shm"), vec![7u8; STALE_INDEX]).unwrap();
        }
        std::fs::write(self.folder.join("boot"), state.boot).unwrap();
        std::fs::write(self.folder.with_extension("judged"), "").unwrap();
        Disk::read(&self.folder)
    }

    /// The replica as it is, restored to a file of that name: to which transaction; `None` where it holds nothing.
    fn restore(&self, name: &str) -> Result<Option<Txid>, String> {
        let out = self.folder.join(name);
        let _ = std::fs::remove_file(&out); // of the state before
        match restore::run(&self.store, Target::Latest, &out, Options::default()) {
            Ok(restored) => Ok(Some(restored.txid())),
            Err(litestream_engine::error::Error::NoBackup(_)) => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// How many transactions a database that SQLite finds sound holds; -1 where not even the first.
fn transactions(path: &Path) -> Result<i64, String> {
    let text = |e: rusqlite::Error| e.to_string();
    let db = rusqlite::Connection::open(path).map_err(text)?;
    let check: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(text)?;
    if check != "ok" {
        return Err(check);
    }
    if !db.table_exists(None, "head").map_err(text)? {
        return Ok(-1);
    }
    db.query_row("SELECT n FROM head", [], |row| row.get(0)).map_err(text)
}

/// The newest transaction that was acknowledged, and that was called stored, up to there; the file `name` says so.
fn promised(log: &Log, at: usize, name: &str) -> (i64, i64) {
    let mut promised = (-1, -1);
    if let Some(held) = log.whole(at, name).files.get(name) {
        for line in String::from_utf8_lossy(&held.bytes).lines() {
            let (what, n) = line.split_once(' ').unwrap();
            let n = n.parse().unwrap();
            *(if what == "c" { &mut promised.0 } else { &mut promised.1 }) = n;
        }
    }
    promised
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
