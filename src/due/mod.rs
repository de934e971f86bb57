//! What of the replica's upkeep is due now: a compaction, a snapshot, a deletion; else when the next one is.
//!
//! A pure decision over what the replica holds. No store is asked: an idle database gets `Never` and stays silent.
//!
//! What is promised, at each moment `now`, whatever was compacted and deleted before:
//!
//! - The newest state restores.
//! - Each Txid that is the end of a kept file restores; all of the last `l0-retention` are.
//! - A time T within the last `snapshot-retention` restores to a state older than T, and no older than the newest
//!   one before the interval of level 1 that T lies in; within the last `l0-retention` to the newest before T.
//!
//! So a compaction merges only what lies in one interval, the newest snapshot from before the window is kept, and all
//! compacted files from there on. A file that another one makes superfluous stays for a grace period, for the
//! sake of restores that planned with it.

mod compaction;
mod deletion;

use crate::clock::Time;
use crate::limits;
use crate::ltx::{FileInfo, Level, Span};
use crate::manifest::{Held, Manifest};
use std::time::Duration;

/// How a replica is kept small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Intervals of level 1, 2, …; at least one, at most eight, ascending.
    pub levels: Vec<Duration>,
    /// Time between two snapshots.
    pub snapshot_interval: Duration,
    /// How far back every time can be restored.
    pub snapshot_retention: Duration,
    /// How long raw files stay that level 1 covers; zero: for ever.
    pub l0_retention: Duration,
    /// False: nothing is ever deleted.
    pub retention_enabled: bool,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            levels: limits::LEVELS.to_vec(),
            snapshot_interval: limits::SNAPSHOT_INTERVAL,
            snapshot_retention: limits::SNAPSHOT_RETENTION,
            l0_retention: limits::L0_RETENTION,
            retention_enabled: true,
        }
    }
}

impl Schedule {
    /// The highest level that compaction fills.
    pub fn top(&self) -> Level {
        Level::new(self.levels.len().min(8) as u8).expect("at most 8")
    }

    fn interval(&self, level: Level) -> Interval {
        Interval::of(self.levels[usize::from(level.get()) - 1])
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Several files become one.
    Merge(Merge),
    /// Superfluous files go, at most a batch.
    Delete(Vec<(Level, Span)>),
}

/// Files that become one; they stay until their retention has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// Where the result goes.
    pub level: Level,
    /// Oldest first, without a gap.
    pub inputs: Vec<FileInfo>,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// This, first of all.
    Now(Work),
    /// Nothing before this time, unless something is written.
    At(Time),
    /// Nothing until something is written.
    Never,
}

impl Due {
    /// The earlier of two waits.
    fn or(self, other: Due) -> Due {
        match (self, other) {
            (Due::At(a), Due::At(b)) => Due::At(a.min(b)),
            (Due::Never, other) => other,
            (this, _) => this,
        }
    }
}

/// Decides. `database` is the database's size in bytes, 0 where unknown; nothing is made for the levels in `barred`.
/// Lower levels come first, for higher ones are made of them, and deletions last.
pub fn due(manifest: &Manifest, schedule: &Schedule, database: u64, barred: &[Level], now: Time) -> Due {
    let mut wait = Due::Never;
    let levels = (1..=schedule.top().get()).filter_map(Level::new).chain([Level::SNAPSHOT]);
    for level in levels.filter(|level| !barred.contains(level)) {
        let found = match level {
            Level::SNAPSHOT => compaction::snapshot(manifest, schedule, database, now),
            level => compaction::level(manifest, schedule, level, now),
        };
        match found {
            Due::Now(work) => return Due::Now(work),
            other => wait = wait.or(other),
        }
    }
    match deletion::due(manifest, schedule, now) {
        Due::Now(work) => Due::Now(work),
        other => wait.or(other),
    }
}

/// Multiples of a duration since 1970 in UTC, which every process agrees on.
#[derive(Debug, Clone, Copy)]
struct Interval(i64);

impl Interval {
    fn of(duration: Duration) -> Interval {
        Interval(milliseconds(duration).max(1))
    }

    /// The boundary at or before a time.
    fn start(self, time: Time) -> Time {
        Time(time.0.div_euclid(self.0) * self.0)
    }

    /// The boundary after a time.
    fn end(self, time: Time) -> Time {
        later(self.start(time), self.0)
    }

    /// The boundary at or after a time.
    fn round_up(self, time: Time) -> Time {
        self.end(later(time, -1))
    }
}

/// Since when a file surely stands where another machine may have put it: not before its interval was over.
fn settled(held: &Held, interval: Interval) -> Time {
    held.known.max(interval.end(held.created()))
}

fn later(time: Time, milliseconds: i64) -> Time {
    Time(time.0.saturating_add(milliseconds))
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
