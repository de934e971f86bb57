//! Faults in files: the N-th operation on a file fails, once or for good, with each error that a disk may give. Where it
//! is one of ours, the application sees nothing of it; where it is one of SQLite's, nothing is corrupt and the replica
//! never holds what was not committed. Afterwards everything is stored. In a restore on open it ends in a whole database or
//! in an error that says why. The wall clock jumps, too.
//!
//! The operations fail in tests/c/record.c, below SQLite and below the extension. `LITESTREAM_FAULTS` says how many N are
//! tried of each kind, `LITESTREAM_SEED` where the dice begin.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/recorded.rs"]
mod recorded;
mod support;

use dice::Dice;
use litestream_engine::ltx::{Decoder, Level};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use recorded::Answering;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Longest time for a commit, however the files are.
const COMMIT_SECONDS: f64 = 2.0;
/// Longest time for an open that restores, however the files are: `open-timeout` is 300 ms here.
const OPEN_SECONDS: f64 = 5.0;
/// Transactions more in a database that is lost: it is made of several files.
const LOST_COMMITS: u64 = 20;
/// An N that no operation reaches: the run only counts.
const NEVER: u64 = u64::MAX;
/// A year and a day, in seconds.
const FAR: i64 = 366 * 24 * 3600;
/// Bytes of the recorder's `struct control`.
const CONTROL_BYTES: usize = 48;

/// Whose files fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Spool = 1,
    Sqlite = 2,
    Replica = 4,
}

/// What fails, and when.
#[derive(Debug, Clone, Copy)]
struct Fault {
    whose: Whose,
    error: (&'static str, i32),
    at: u64,
    forever: bool,
    mode: &'static str,
    clock: i64,
    /// The process begins with it: its first open meets it, and its taking over from the one before.
    fresh: bool,
}

/// What a restore on open finds.
#[derive(Debug, Clone, Copy)]
struct Lost {
    /// The Spool is gone with the database.
    spool: bool,
    /// An empty file stands where the database was.
    empty: bool,
}

/// Numbers of Linux.
const ERRORS: [(&str, i32); 4] = [("ENOSPC", 28), ("EIO", 5), ("EACCES", 13), ("EMFILE", 24)];

/// A driver under the recorder, and the folders that its databases get.
struct Bench {
    root: tempfile::TempDir,
    driver: Answering,
    runs: u64,
    io: Io,
}

impl Bench {
    fn new() -> Bench {
        let root = recorded::memory_folder();
        let recorder = recorded::recorder(root.path());
        std::fs::write(root.path().join("control"), [0u8; CONTROL_BYTES]).unwrap();
        std::fs::create_dir(root.path().join("runs")).unwrap();
        let mut driver = recorded::driver("fault");
        driver
            .env("LD_PRELOAD", recorder)
            .env("RECORD_ROOT", root.path().join("runs"))
            .env("RECORD_CONTROL", root.path().join("control"));
        let driver = Answering::start(driver, &root.path().join("driver.log"));
        Bench { root, driver, runs: 0, io: Io::new() }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join(format!("runs/{}", self.runs))
    }

    /// One database through one fault; what the application saw. The replica is the database afterwards.
    #[track_caller]
    fn run(&mut self, fault: &Fault) -> Value {
        self.runs += 1;
        let folder = self.folder();
        std::fs::create_dir(&folder).unwrap();
        let (database, replica) = (folder.join("app.db"), folder.join("replica"));
        let then = (fault.whose == Whose::Sqlite).then(|| folder.join("then"));
        let mut order = self.order(fault, &database, &replica);
        (order["then"], order["restore"]) = (json!(then), json!(false));
        let said = self.driver.ask(&order);
        let tell = |what: &str| -> ! {
            let log = std::fs::read_to_string(self.root.path().join("driver.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(12).collect();
            panic!("{what}\n{fault:?}\n{said:#}\nthe log, newest first: {tail:#?}")
        };
        if said["step"] != "done" {
            tell("it did not get to the end");
        }
        if let Some(then) = then {
            // Some committed state: the restore proves every page, the ledger is judged by its own rules at the end.
            if let Err(e) = restored(&self.io, &then, &folder.join("then.db")) {
                tell(&format!("the replica during the fault does not restore: {e}"));
            }
            let count = ledger(&folder.join("then.db"));
            if count > said["n"].as_i64().unwrap() {
                tell(&format!("the replica held {count} transactions during the fault, more than were ever committed"));
            }
        }
        if let Err(e) = restored(&self.io, &replica, &folder.join("after.db")) {
            tell(&format!("the replica does not restore: {e}"));
        }
        if std::fs::read(folder.join("image")).unwrap() != std::fs::read(folder.join("after.db")).unwrap() {
            tell("after everything was stored the replica is not the database");
        }
        said
    }

    fn order(&self, fault: &Fault, database: &Path, replica: &Path) -> Value {
        let keys = "sync-interval=20ms&open-timeout=300ms";
        json!({
            "uri": format!("file:{}?vfs=litestream&replica=file://{}&{keys}", database.display(), replica.display()),
            "database": database, "replica": replica, "image": self.folder().join("image"), "mode": fault.mode,
            "synchronous": if fault.mode == "WAL" { "NORMAL" } else { "FULL" },
            "group": fault.whose as u32, "error": fault.error.1, "at": fault.at, "forever": u32::from(fault.forever),
            "clock": fault.clock, "fresh": fault.fresh,
        })
    }

    /// One lost database through one fault, and what its opens said. It is whole or not there, and the next open has it.
    #[track_caller]
    fn restore(&mut self, fault: &Fault, lost: Lost) -> Value {
        self.runs += 1;
        let folder = self.folder();
        std::fs::create_dir(&folder).unwrap();
        let mut order = self.order(fault, &folder.join("app.db"), &folder.join("replica"));
        order["restore"] = json!(true);
        order["spool"] = json!(if lost.spool { "lost" } else { "kept" });
        (order["empty"], order["more"]) = (json!(lost.empty), json!(LOST_COMMITS));
        let said = self.driver.ask(&order);
        let story = || format!("{fault:?}, {lost:?}\n{said:#}");
        assert_eq!(said["step"], "done", "it did not get to the end: {}", story());
        let n = said["n"].as_i64().unwrap();
        for found in said["found"].as_array().unwrap() {
            // -1 is nothing, -2 what SQLite refuses because its first bytes come last; both only for an open that failed.
            let is_fine = *found == n || *found == -1 || (lost.empty && *found == -2);
            assert!(is_fine, "a database that is not the one that was lost: {}", story());
        }
        let whole = said["found"].as_array().unwrap().iter().filter(|found| **found == n).count();
        let errors = said["errors"].as_array().unwrap();
        assert!(whole + errors.len() >= said["found"].as_array().unwrap().len(), "empty, and no error: {}", story());
        if fault.whose != Whose::Sqlite {
            let names = |e: &Value| e.as_str().unwrap().contains(folder.to_str().unwrap());
            assert!(errors.iter().all(names), "an error that does not say what is wrong: {}", story());
        }
        assert!(said["slowest"].as_f64().unwrap() < OPEN_SECONDS, "an open took too long: {}", story());
        assert_eq!(said["after"], said["n"], "the next open does not have it: {}", story());
        // A temporary file that could not be deleted is swept once the process whose name it bears is gone.
        let may_stay = |name: &Value| fault.error.0 == "EACCES" && !fault.fresh && name != "restoring";
        let left = said["left"].as_array().unwrap();
        assert!(left.iter().all(may_stay), "something stays in the Spool: {}", story());
        if let Err(e) = restored(&self.io, &folder.join("replica"), &folder.join("after.db")) {
            panic!("the replica does not restore: {e}: {}", story());
        }
        let same = std::fs::read(folder.join("image")).unwrap() == std::fs::read(folder.join("after.db")).unwrap();
        assert!(same, "after everything was stored the replica is not the database: {}", story());
        said
    }

    /// How many operations could fail that way in a run where none does.
    #[track_caller]
    fn count(&mut self, fault: &Fault) -> u64 {
        self.run(&Fault { at: NEVER, forever: false, ..*fault })["could"].as_u64().unwrap()
    }
}

/// Restores a replica's newest state.
fn restored(io: &Io, replica: &Path, out: &Path) -> Result<(), String> {
    let url = ReplicaUrl::parse(&format!("file://{}", replica.display())).unwrap();
    let store = Store::open(&url, &|_| None, io).unwrap();
    restore::run(&store, Target::Latest, out, Options::default()).map(|_| ()).map_err(|e| e.to_string())
}

/// Transactions in a ledger that is whole.
#[track_caller]
fn ledger(path: &Path) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok", "{}", path.display());
    let n = one("SELECT n FROM head");
    assert_eq!(one("SELECT count(*) FROM log"), n, "{}: no committed state", path.display());
    assert_eq!(one("SELECT max(v) FROM cell"), n, "{}: no committed state", path.display());
    n
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

/// Every error, once and for good, at some of the operations that it can happen to.
#[track_caller]
fn try_all(whose: Whose, modes: &[&'static str], judge: impl Fn(&Fault, &Value)) {
    let (each, seed) = (number("LITESTREAM_FAULTS", 4), number("LITESTREAM_SEED", 1));
    let (mut bench, mut dice) = (Bench::new(), Dice::new(seed));
    let (mut tried, mut hits) = (0, 0);
    for &mode in modes {
        for (error, fresh) in ERRORS.into_iter().flat_map(|error| [(error, false), (error, true)]) {
            let fault = Fault { whose, error, at: 0, forever: false, mode, clock: 0, fresh };
            let could = bench.count(&fault);
            assert!(could > 0, "{fault:?}: nothing that could fail");
            for n in 0..each {
                let fault = Fault { at: 1 + dice.below(could), forever: n % 2 == 0, ..fault };
                let said = bench.run(&fault);
                judge(&fault, &said);
                tried += 1;
                hits += said["hits"].as_u64().unwrap();
            }
        }
    }
    println!("{whose:?}: seed {seed}, {tried} faults tried, {hits} operations failed");
    assert!(hits > tried / 2, "{whose:?}: {hits} operations failed in {tried} runs: this shows little");
}

// Goal: what goes wrong with our own files costs the application nothing. Method: operations on the Spool fail, while it
// commits, checkpoints and reopens; the status names the trouble where it lasts, and afterwards everything is stored.
#[test]
fn faults_in_the_spool_are_not_seen_by_the_application() {
    try_all(Whose::Spool, &["WAL", "DELETE"], |fault, said| {
        assert_eq!(said["errors"], json!([]), "{fault:?}: the application saw an error\n{said:#}");
        let slowest = said["slowest"].as_f64().unwrap();
        assert!(slowest < COMMIT_SECONDS, "{fault:?}: a commit took {slowest} s");
        if fault.forever && said["hits"].as_u64().unwrap() > 0 {
            let status: Value = serde_json::from_str(said["status"].as_str().unwrap()).unwrap();
            assert!(status["last_error"].is_string(), "{fault:?}: the status says nothing\n{said:#}");
        }
    });
}

// Goal: a disk that fails under a folder replica is an outage like another. Method: as above, on the replica's files.
#[test]
fn faults_in_a_replicas_folder_are_not_seen_by_the_application() {
    try_all(Whose::Replica, &["WAL"], |fault, said| {
        assert_eq!(said["errors"], json!([]), "{fault:?}: the application saw an error\n{said:#}");
        let slowest = said["slowest"].as_f64().unwrap();
        assert!(slowest < COMMIT_SECONDS, "{fault:?}: a commit took {slowest} s");
    });
}

// Goal: what goes wrong with SQLite's files stays SQLite's affair: nothing is corrupt, and nothing is stored that was not
// committed. Method: operations on the database, its WAL and its journal fail; the application rolls back and goes on.
#[test]
fn faults_in_sqlites_files_corrupt_nothing_and_store_nothing_uncommitted() {
    try_all(Whose::Sqlite, &["WAL", "DELETE"], |_, _| {});
}

// Goal: a restore on open whose files fail ends in the whole database or in an error that says why, never in a half or an
// empty one, and nothing of it is in the way of the next open. Method: stored databases are lost, with and without their
// Spool, to nothing and to an empty file; while they come back, operations on the Spool, on the database's own place and
// on a folder replica fail; what each open leaves is read by plain SQLite, and then one opens without a fault.
#[test]
fn faults_in_a_restore_on_open_leave_the_whole_database_or_none() {
    let (each, seed) = (number("LITESTREAM_FAULTS", 3), number("LITESTREAM_SEED", 1));
    let (mut bench, mut dice) = (Bench::new(), Dice::new(seed));
    let (mut tried, mut hits, mut failed) = (0, 0, 0);
    for whose in [Whose::Spool, Whose::Sqlite, Whose::Replica] {
        for (error, empty) in ERRORS.into_iter().flat_map(|error| [(error, false), (error, true)]) {
            let lost = Lost { spool: dice.one_in(2), empty };
            let fault = Fault { whose, error, at: NEVER, forever: false, mode: "WAL", clock: 0, fresh: true };
            let could = bench.restore(&fault, lost)["could"].as_u64().unwrap();
            for n in 0..each.min(could) {
                let fault = Fault { at: 1 + dice.below(could), forever: n % 2 == 0, fresh: dice.one_in(2), ..fault };
                let said = bench.restore(&fault, lost);
                tried += 1;
                hits += u64::from(said["hits"].as_u64().unwrap() > 0);
                failed += said["errors"].as_array().unwrap().len();
            }
        }
    }
    println!("restores: seed {seed}, {tried} faults tried, {hits} hit, {failed} opens failed");
    assert!(hits > tried / 2, "{hits} faults hit in {tried} runs: this shows little");
    assert!(failed > 10, "{failed} opens failed in {tried} runs: this shows little");
}

// Goal: a wal-index that cannot be mapped is no worse. Method: mmap of the -shm fails, once.
#[test]
fn a_wal_index_that_cannot_be_mapped_once_costs_nothing_stored() {
    let (mut bench, mut hits) = (Bench::new(), 0);
    for at in 1..=3 {
        let error = ("ENOMEM", 12);
        let said =
            bench.run(&Fault { whose: Whose::Sqlite, error, at, forever: false, mode: "WAL", clock: 0, fresh: at > 1 });
        hits += said["hits"].as_u64().unwrap();
    }
    assert!(hits > 0, "no mapping failed: this shows nothing");
}

// Goal: a wall clock that jumps loses nothing, and times in the replica never go back. Method: a year forward, a year
// back, in the middle of the work.
#[test]
fn a_clock_that_jumps_loses_nothing_and_times_never_go_back() {
    let mut bench = Bench::new();
    for (clock, mode) in [(FAR, "WAL"), (-FAR, "WAL"), (-FAR, "DELETE"), (-90, "WAL")] {
        let fault =
            Fault { whose: Whose::Spool, error: ERRORS[0], at: NEVER, forever: false, mode, clock, fresh: false };
        let said = bench.run(&fault);
        assert_eq!(said["errors"], json!([]), "{clock} s: the application saw an error");
        let url = ReplicaUrl::parse(&format!("file://{}", bench.folder().join("replica").display())).unwrap();
        let store = Store::open(&url, &|_| None, &bench.io).unwrap();
        let files = store.list(Level::RAW).unwrap();
        let times: Vec<i64> =
            files.iter().map(|file| Decoder::new(store.stream(file).unwrap()).unwrap().header().timestamp.0).collect();
        assert!(times.len() > 2, "{clock} s: only {} files", times.len());
        assert!(times.is_sorted_by(|a, b| a < b), "{clock} s: {times:?}");
    }
}
