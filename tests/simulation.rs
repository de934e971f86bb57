//! The engine under simulation: Worker, Leader, Spool, uploads, compaction and retention as they ship, with a clock, a
//! store, a SQLite and random numbers that follow from a seed. Histories of commits, checkpoints, kills at any step, lost
//! disks, processes beside it with and without the extension, a wall clock that is set, and a store that refuses, hangs,
//! forgets its answers and stores late.
//!
//! `LITESTREAM_SEED` says where the seeds begin, `LITESTREAM_SEEDS` how many there are, `LITESTREAM_TRACE` that each step
//! of them is told. A failure prints its seed. Power loss is not in it (tests/power.rs), nor is exclusive locking mode; in
//! DELETE, TRUNCATE and PERSIST there is one process at a time, with up to two connections.
//!
//! It can fail. Tried, each found by some of the first 100 seeds: `state` before the put; a refused put taken for done; a
//! Segment lost at a restart, or deleted before its file is written; a Gate that saves only sometimes; no End when the WAL
//! is deleted; a Begin without a proof; an older copy of a page; a WAL that is not looked at again after it was read; a
//! waiting file encoded anew; a newest file deleted by retention; Segments told apart by the times of files; compaction by a
//! wall clock that was set back.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/sim/mod.rs"]
mod sim;

use sim::{history, stage};
use std::path::Path;
use std::process::Command;

/// Processes at the same time; one has one clock.
const PROCESSES: u64 = 2;
/// Says to a child which seeds are its own: the first, and how many.
const CHILD: &str = "LITESTREAM_SIMULATED";

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

fn memory_folder() -> tempfile::TempDir {
    let place = Path::new("/dev/shm");
    let made = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Plays a seed on a thread whose name begins its clock and its random numbers.
fn play(seed: u64, root: &Path) -> Result<history::Outcome, String> {
    let folder = root.join(seed.to_string());
    std::fs::create_dir(&folder).unwrap();
    let place = folder.clone();
    let played = std::thread::Builder::new().name(format!("sim:{seed}")).spawn(move || history::play(seed, &place));
    let outcome = played.unwrap().join().unwrap_or_else(|_| Err("the simulation itself panicked".into()));
    std::fs::remove_dir_all(&folder).unwrap();
    outcome
}

fn simulate(said: &str) {
    let (first, count) = said.split_once(' ').unwrap();
    let (first, count): (u64, u64) = (first.parse().unwrap(), count.parse().unwrap());
    litestream_engine::fault::observe(stage::point);
    log::set_logger(&stage::Ear).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    // Names that differ from run to run would give hashed names another order.
    let root = memory_folder();
    std::env::set_current_dir(root.path()).unwrap();
    let mut total = history::Outcome::default();
    let mut failed = Vec::new();
    for seed in first..first + count {
        if std::env::var_os("LITESTREAM_TRACE").is_some() {
            println!("seed {seed}");
        }
        match play(seed, Path::new("")) {
            Ok(outcome) => total.add(&outcome),
            Err(what) => {
                println!("{what}\nseed {seed} failed");
                failed.push(seed);
            }
        }
    }
    println!("{total:?}");
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
}

// Goal: whatever the store does and whenever the process dies, what was called stored restores, nothing is lost, and
// nothing waits for ever. Method: see above; each child process plays its share of the seeds under a simulated clock.
#[test]
fn every_history_ends_with_a_replica_that_is_the_database() {
    if let Ok(said) = std::env::var(CHILD) {
        return simulate(&said);
    }
    let folder = memory_folder();
    let library = folder.path().join("simulated.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/simulated.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(compiled.unwrap().success());
    let (seed, count) = (number("LITESTREAM_SEED", 1), number("LITESTREAM_SEEDS", 400));
    let began = std::time::Instant::now();
    let share = count.div_ceil(PROCESSES);
    let children: Vec<_> = (0..PROCESSES)
        .filter(|n| n * share < count)
        .map(|n| {
            let first = seed + n * share;
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "every_history_ends_with_a_replica_that_is_the_database", "--nocapture"])
                .env(CHILD, format!("{first} {}", share.min(seed + count - first)))
                .env("LD_PRELOAD", &library)
                .env("LITESTREAM_CORE", n.to_string())
                .env_remove("LITESTREAM_REPLICA_URL")
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success(), "what failed is above");
    }
    println!("{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
}
