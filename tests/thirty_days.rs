//! Thirty days under a false clock, over sizes only: a replica stays small and quick to restore, and silent when idle.
//!
//! The decisions are the real ones; `make simulate` prints the same runs as a table of costs.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/simulator.rs"]
mod simulator;

use litestream_engine::due::Schedule;
use simulator::{Outcome, Scene, run};

fn thirty_days(name: &'static str, gib: u64, pace: i64) -> Outcome {
    let scene = Scene { name, database: gib << 30, pace, together: 1, days: 30, schedule: Schedule::default() };
    let outcome = run(scene.clone());
    let ratio = |bytes: u64| bytes as f64 / scene.database as f64;
    println!(
        "{name}: {} objects, {} snapshots, {:.2} of the database stored, a restore reads {:.3} in {} files, at most {:.3}; a day: {:?}",
        outcome.objects,
        outcome.snapshots,
        ratio(outcome.stored_most),
        ratio(outcome.restore),
        outcome.restore_files,
        ratio(outcome.restore_most),
        outcome.day
    );
    assert!(ratio(outcome.restore) <= 1.2 && ratio(outcome.restore_most) <= 1.2, "{name}: a restore reads too much");
    assert!(outcome.restore_files <= 100, "{name}: a restore reads {} files", outcome.restore_files);
    assert_eq!(outcome.copies_in_first_hour, 1, "{name}: a new database is uploaded once in its first hour");
    assert_eq!(outcome.proofs, 0, "{name}: what a snapshot makes superfluous waits for the next one, which reads it");
    assert_eq!(outcome.idle_requests, 0, "{name}: an idle database asks for nothing");
    assert!(outcome.snapshots >= 2, "{name}: more than one snapshot is kept inside the window");
    outcome
}

/// Goal: a busy small database: the number of objects and the bytes are bounded, a restore is short. Method: 30 days at
/// a commit a second, one gigabyte, every hour looked at.
#[test]
fn a_gigabyte_with_a_commit_a_second() {
    let outcome = thirty_days("1 GB, 1/s", 1, 1000);
    assert!(outcome.objects < 12_000, "{} objects", outcome.objects);
    assert!(outcome.stored_most < 10 << 30, "{} bytes", outcome.stored_most);
    assert!(outcome.day.puts < 86_400 + 2 * 86_400 / 30 + 4_000, "{} PUTs a day", outcome.day.puts);
}

/// Goal: a quiet small database costs next to nothing. Method: 30 days at a commit an hour.
#[test]
fn a_gigabyte_with_a_commit_an_hour() {
    let outcome = thirty_days("1 GB, 1/h", 1, 3_600_000);
    assert!(outcome.objects < 300, "{} objects", outcome.objects);
    assert!(outcome.day.requests() < 1_500, "{} requests a day", outcome.day.requests());
}

/// Goal: the same for a large database. Method: 30 days at a commit a second and at one an hour, a hundred gigabytes.
#[test]
fn a_hundred_gigabytes() {
    for (name, pace) in [("100 GB, 1/s", 1000), ("100 GB, 1/h", 3_600_000)] {
        let outcome = thirty_days(name, 100, pace);
        assert!(outcome.objects < 12_000, "{} objects", outcome.objects);
        assert!(outcome.stored_most < 340 << 30, "{} bytes", outcome.stored_most);
    }
}
