//! Locks of the wal-index that fail with an I/O error, below SQLite and the extension: the application is told what the base
//! VFS answered, as without the extension, nothing that was committed is lost, and afterwards everything is stored.
//!
//! The base is a shim of tests/c/shmlock.c, since SQLite's own answers BUSY whatever the system says. `LITESTREAM_FAULTS` says
//! how many calls of each kind fail, `LITESTREAM_SEED` where the dice begin.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/recorded.rs"]
mod recorded;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use dice::Dice;
use litestream_engine::plan::Target;
use recorded::memory_folder;
use replicated::{Place, load, same_pages};
use std::path::Path;
use support::{compile, run};

/// A call that is never reached.
const NEVER: u64 = 1_000_000;
/// SQLITE_IOERR_SHMLOCK.
const SHMLOCK: &str = "5130";

/// What one run of the program said.
#[derive(Debug)]
struct Told {
    at: u64,
    calls: u64,
    hits: u64,
    rows: u64,
    right: bool,
    /// What each call answered, while locks failed and then; empty where all were OK.
    answers: String,
    then: String,
}

impl Told {
    fn of(line: &str) -> Told {
        let (numbers, answers) = line.split_once(" answers").unwrap_or_else(|| panic!("{line:?}?"));
        let (answers, then) = answers.split_once(" then").unwrap();
        let words: Vec<&str> = numbers.split(' ').collect();
        let number = |at: usize| words[at].parse().unwrap();
        Told {
            at: number(0),
            calls: number(1),
            hits: number(2),
            rows: number(3),
            right: words[4] == "right",
            answers: answers.trim().to_string(),
            then: then.trim().to_string(),
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

/// Databases in a folder of their own, the locks of one after the other failing at these calls.
#[track_caller]
fn play(program: &str, place: &Path, vfs: &str, whose: &str, lasts: &str, calls: &[u64]) -> Vec<Told> {
    let place = place.join(format!("{vfs}-{whose}-{lasts}-{}", calls[0]));
    std::fs::create_dir(&place).unwrap();
    let numbers: Vec<String> = calls.iter().map(u64::to_string).collect();
    let mut words = vec![vfs, whose, lasts];
    words.extend(numbers.iter().map(String::as_str));
    let told: Vec<Told> = run(&place, program, &words, "").ok().lines().map(Told::of).collect();
    assert_eq!(told.iter().map(|told| told.at).collect::<Vec<_>>(), calls, "not all came to an end");
    for told in &told {
        assert!(told.right, "{vfs}, {whose}, {lasts}: committed rows are not what is there: {told:?}");
        assert_eq!(told.then, "", "{vfs}, {whose}, {lasts}: errors after the fault: {told:?}");
        if vfs == "litestream" {
            let url = format!("file://{}", place.join(format!("{}.backup", told.at)).display());
            let database = Place::new(&place, &format!("{}.db", told.at), &url);
            same_pages(&database.image(), &database.restored(Target::Latest));
        }
    }
    told
}

// Goal: a lock that the base fails for an application fails as it does without us, and costs nothing else. Method: the same
// work with and without the extension, the same call of the application's failing, once or from then on: the same answers,
// the same rows, and a replica that is the database afterwards.
#[test]
fn a_lock_that_fails_for_the_application_fails_as_without_the_extension() {
    load();
    let folder = memory_folder();
    let program = compile(folder.path(), "shmlock");
    let (each, seed) = (number("LITESTREAM_FAULTS", 20), number("LITESTREAM_SEED", 1));
    let could = play(&program, folder.path(), "shim", "host", "once", &[NEVER])[0].calls;
    assert!(could > 100, "{could} calls that could fail: this shows little");
    let mut dice = Dice::new(seed);
    let mut seen = 0;
    for lasts in ["once", "on"] {
        let mut calls: Vec<u64> = (0..each).map(|_| 1 + dice.below(could)).collect();
        calls.sort_unstable();
        calls.dedup();
        let plain = play(&program, folder.path(), "shim", "host", lasts, &calls);
        let ours = play(&program, folder.path(), "litestream", "host", lasts, &calls);
        for (plain, ours) in plain.iter().zip(&ours) {
            assert!(ours.hits > 0, "seed {seed}, {lasts}: nothing failed: {ours:?}");
            assert_eq!((&ours.answers, ours.rows), (&plain.answers, plain.rows), "seed {seed}, {lasts}: {ours:?}");
            seen += usize::from(ours.answers.contains(SHMLOCK));
        }
    }
    println!("seed {seed}: {could} calls, {seen} times the application saw it");
    assert!(seen > 5, "seed {seed}: the application saw {seen} failures: this shows little");
}

// Goal: a lock that the base fails for the engine's own handle is no error of the application's, and the image that needs it
// is made afterwards. Method: each call of the threads that are not the application's fails, once or from then on, beside a
// database whose first image is due.
#[test]
fn a_lock_that_fails_for_the_engine_is_not_seen_by_the_application() {
    load();
    let folder = memory_folder();
    let program = compile(folder.path(), "shmlock");
    let could = play(&program, folder.path(), "litestream", "engine", "once", &[NEVER])[0].calls;
    assert!(could > 0, "the engine took no lock: this shows nothing");
    let calls: Vec<u64> = (1..=could).collect();
    for lasts in ["once", "on"] {
        for told in play(&program, folder.path(), "litestream", "engine", lasts, &calls) {
            assert!(told.hits > 0, "{lasts}: nothing failed: {told:?}");
            assert_eq!(told.answers, "", "{lasts}: the application saw it: {told:?}");
        }
    }
}
