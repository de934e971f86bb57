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
//!
//! A damaged file is no file, as far as known: nothing is made of it, and nothing goes on its word. Where the newest
//! state would be restored from one, a snapshot of the sound files is due at once; where they do not lead there, the
//! database itself has to help, which is `remedy`.

mod compaction;
mod deletion;

use crate::clock::Time;
use crate::limits;
use crate::ltx::{FileInfo, Level, Span};
use crate::manifest::{Held, Manifest};
use crate::plan::{Target, plan};
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
    /// A file is read to its end: is it what it should be?
    Prove(FileInfo),
}

/// What a replica with damaged files needs from its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: it is whole, or the sound files are enough.
    Nothing,
    /// A next transaction, however small: the sound files lead to the end, but a snapshot of them would have the name of a
    /// damaged one.
    Transaction,
    /// A new image: the sound files do not lead to the end.
    Image,
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
    if let Some(doubted) = manifest.doubted() {
        return Due::Now(Work::Prove(doubted.info.clone()));
    }
    if !barred.contains(&Level::SNAPSHOT)
        && is_ailing(manifest)
        && let Some(work) = compaction::snapshot_of(manifest, |_| true)
    {
        return Due::Now(work);
    }
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

/// What the database has to do for its replica.
pub fn remedy(manifest: &Manifest) -> Remedy {
    if manifest.doubted().is_some() || !is_ailing(manifest) {
        return Remedy::Nothing;
    }
    let end = manifest.newest().map(|newest| newest.span.max);
    match plan(&manifest.usable(), Target::Latest) {
        Ok(plan) if Some(plan.txid()) == end => match compaction::snapshot_of(manifest, |_| true) {
            Some(_) => Remedy::Nothing,
            None => Remedy::Transaction,
        },
        _ => Remedy::Image,
    }
}

/// True where whoever goes by the names alone would restore the newest state from a damaged file.
pub fn is_ailing(manifest: &Manifest) -> bool {
    if manifest.damaged().next().is_none() {
        return false;
    }
    let as_named = |held: &Held| FileInfo { size: u64::MAX, ..held.info.clone() };
    let files: Vec<FileInfo> = manifest.files().map(as_named).collect();
    let planned =
        |file: &FileInfo| manifest.damaged().any(|held| (held.info.level, held.span()) == (file.level, file.span));
    plan(&files, Target::Latest).is_ok_and(|plan| plan.files.iter().any(planned))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Txid;
    use crate::manifest::Proof;

    const SECOND: i64 = 1000;
    const HOUR: i64 = 3600 * SECOND;
    const DAY: i64 = 24 * HOUR;

    fn add(manifest: &mut Manifest, level: u8, min: u64, max: u64, time: i64, size: u64) {
        let span = Span { min: Txid(min), max: Txid(max) };
        let info = FileInfo { level: Level::new(level).unwrap(), span, size, listed: Time(time) };
        manifest.add(info, Time(time));
    }

    fn name(level: u8, min: u64, max: u64) -> (Level, Span) {
        (Level::new(level).unwrap(), Span { min: Txid(min), max: Txid(max) })
    }

    fn ask(manifest: &Manifest, now: i64) -> Due {
        due(manifest, &Schedule::default(), 0, &[], Time(now))
    }

    fn spans(due: Due) -> (u8, Vec<(u64, u64)>) {
        let Due::Now(Work::Merge(merge)) = due else { panic!("{due:?} is no merge") };
        (merge.level.get(), merge.inputs.iter().map(|info| (info.span.min.0, info.span.max.0)).collect())
    }

    /// A new database: the image at level 9, a raw file at once, one more a while later.
    fn young(time: i64) -> Manifest {
        let mut manifest = Manifest::default();
        add(&mut manifest, 9, 1, 1, time, 1000);
        add(&mut manifest, 0, 2, 2, time + 10, 100);
        add(&mut manifest, 0, 3, 3, time + 31 * SECOND, 100);
        manifest
    }

    /// Goal: a level is due exactly at the end of the interval, and takes only what lies in it. Method: two raw files in
    /// two intervals of 30 s.
    #[test]
    fn a_level_is_due_at_the_end_of_its_interval() {
        let manifest = young(DAY);
        assert_eq!(ask(&manifest, DAY + 29_999), Due::At(Time(DAY + 30 * SECOND)));
        assert_eq!(spans(ask(&manifest, DAY + 30 * SECOND)), (1, vec![(2, 2)]));
        assert_eq!(spans(ask(&manifest, DAY + 900 * SECOND)), (1, vec![(2, 2)]), "late, and still one interval");
    }

    /// Goal: a new database is not copied again within its first hour, wherever midnight lies. Method: born ten minutes
    /// before midnight, everything due done for an hour.
    #[test]
    fn a_new_database_is_not_copied_again_within_an_hour() {
        let born = DAY - 600 * SECOND;
        let mut manifest = young(born);
        let mut now = born;
        while now < born + HOUR {
            match ask(&manifest, now) {
                Due::Now(Work::Merge(merge)) => {
                    assert_ne!(merge.level, Level::SNAPSHOT, "at {now}");
                    let (first, last) = (&merge.inputs[0], merge.inputs.last().unwrap());
                    let (min, max) = (first.span.min.0, last.span.max.0);
                    add(&mut manifest, merge.level.get(), min, max, last.listed.0, 100);
                }
                Due::Now(Work::Delete(files)) => manifest.remove(&files),
                Due::Now(Work::Prove(file)) => manifest.judge((file.level, file.span), Proof::Sound),
                Due::At(time) => now = time.0,
                Due::Never => break,
            }
        }
    }

    /// Goal: levels stop at a gap and go on behind it. Method: raw files 2, 3, 5 of one interval.
    #[test]
    fn a_gap_parts_what_is_merged() {
        let mut manifest = Manifest::default();
        for txid in [2, 3, 5] {
            add(&mut manifest, 0, txid, txid, txid as i64, 100);
        }
        assert_eq!(spans(ask(&manifest, HOUR)), (1, vec![(2, 2), (3, 3)]));
        add(&mut manifest, 1, 2, 3, 3, 100);
        assert_eq!(spans(ask(&manifest, HOUR)), (1, vec![(5, 5)]));
    }

    /// Goal: a snapshot is made at its boundary, of what is older, once. Method: a day with one file of the top level.
    #[test]
    fn a_snapshot_is_due_at_the_boundary_and_holds_what_is_older() {
        let mut manifest = Manifest::default();
        add(&mut manifest, 9, 1, 1, DAY + HOUR, 1000);
        for level in 0..=3 {
            add(&mut manifest, level, 2, 9, DAY + 2 * HOUR, 100);
        }
        assert_eq!(ask(&manifest, DAY + 5 * HOUR), Due::At(Time(2 * DAY)));
        assert_eq!(spans(ask(&manifest, 2 * DAY)), (9, vec![(1, 1), (2, 9)]));
        add(&mut manifest, 9, 1, 9, DAY + 2 * HOUR, 1000);
        assert!(matches!(ask(&manifest, 2 * DAY), Due::At(_)), "only the deletion of the first snapshot is to come");
    }

    /// Goal: a restore never has to read much more than the database. Method: an hour's file as large as a fifth of it.
    #[test]
    fn a_snapshot_comes_early_where_a_restore_would_read_too_much() {
        let mut manifest = Manifest::default();
        add(&mut manifest, 9, 1, 1, DAY, 1000);
        for level in 0..=3 {
            add(&mut manifest, level, 2, 9, DAY + 2 * HOUR - 1, 200);
        }
        let ask = |database| due(&manifest, &Schedule::default(), database, &[], Time(DAY + 2 * HOUR));
        assert_eq!(spans(ask(1000)), (9, vec![(1, 1), (2, 9)]));
        assert!(matches!(ask(2000), Due::At(_)), "compressed files are small enough");
    }

    /// Goal: what another writer put where Litestream's own retention would lose it, stays. Method: the first image raw,
    /// level 1 beginning behind it; it may go when a snapshot from before the window holds it.
    #[test]
    fn a_raw_image_that_no_level_holds_stays_until_a_snapshot_does() {
        let mut manifest = Manifest::default();
        add(&mut manifest, 0, 1, 1, DAY, 1000);
        for (level, max) in [(0, 2), (1, 2), (2, 2), (3, 2), (0, 3)] {
            add(&mut manifest, level, max, max, DAY + 1, 100);
        }
        add(&mut manifest, 1, 3, 3, DAY + 1, 100);
        add(&mut manifest, 2, 3, 3, DAY + 1, 100);
        add(&mut manifest, 3, 3, 3, DAY + 1, 100);
        let doomed = |manifest: &Manifest, now| match due(manifest, &Schedule::default(), 0, &[Level::SNAPSHOT], now) {
            Due::Now(Work::Delete(files)) => files.iter().map(|(level, span)| (level.get(), span.max.0)).collect(),
            _ => Vec::new(),
        };
        assert_eq!(doomed(&manifest, Time(3 * DAY)), [(0, 2)], "raw 1 is in no level");
        add(&mut manifest, 9, 1, 3, DAY + 1, 1000);
        manifest.judge(name(9, 1, 3), Proof::Sound);
        let gone = doomed(&manifest, Time(4 * DAY));
        assert!(gone.contains(&(0, 1)) && gone.contains(&(1, 2)) && !gone.contains(&(0, 3)), "{gone:?}");
    }

    /// Goal: without retention nothing is ever deleted. Method: the same files, a year later.
    #[test]
    fn without_retention_nothing_is_due_for_deletion() {
        let mut manifest = young(DAY);
        add(&mut manifest, 9, 1, 3, DAY + 40 * SECOND, 1000);
        manifest.judge(name(9, 1, 3), Proof::Sound);
        let schedule = Schedule { retention_enabled: false, ..Schedule::default() };
        let barred: Vec<Level> = Level::all().collect();
        assert_eq!(due(&manifest, &schedule, 0, &barred, Time(400 * DAY)), Due::Never);
        assert!(matches!(due(&manifest, &Schedule::default(), 0, &barred, Time(400 * DAY)), Due::Now(Work::Delete(_))));
    }

    /// Two snapshots, all levels, and what came after.
    fn two_days() -> Manifest {
        let mut manifest = young(DAY);
        for level in 0..=3 {
            add(&mut manifest, level, 2, 9, DAY + 40 * SECOND, 100);
        }
        add(&mut manifest, 9, 1, 9, DAY + 40 * SECOND, 1000);
        manifest
    }

    /// Goal: nothing goes on the word of a snapshot that nobody read back, and nothing on that of a damaged one. Method: a
    /// second snapshot long after its window: unread, sound, damaged.
    #[test]
    fn what_a_snapshot_makes_superfluous_waits_for_its_proof() {
        let (mut manifest, last) = (two_days(), name(9, 1, 9));
        add(&mut manifest, 0, 9, 9, DAY + 40 * SECOND, 100);
        let late = 9 * DAY;
        // Raw files go on the word of level 1.
        let Due::Now(Work::Delete(raw)) = ask(&manifest, late) else { panic!("{:?}", ask(&manifest, late)) };
        assert!(raw.iter().all(|(level, _)| *level == Level::RAW), "{raw:?}");
        manifest.remove(&raw);
        let Due::Now(Work::Prove(file)) = ask(&manifest, late) else { panic!("{:?}", ask(&manifest, late)) };
        assert_eq!((file.level, file.span), last);
        manifest.judge(last, Proof::Sound);
        let Due::Now(Work::Delete(gone)) = ask(&manifest, late) else { panic!("{:?}", ask(&manifest, late)) };
        assert!(gone.contains(&name(9, 1, 1)), "{gone:?}");
        manifest.judge(last, Proof::Damaged);
        let due = ask(&manifest, late);
        assert!(!matches!(due, Due::Now(Work::Delete(_) | Work::Prove(_))), "{due:?}");
    }

    /// Goal: a replica whose newest state would be restored from a damaged file is mended by what is sound, else by its
    /// database. Method: the newest snapshot damaged, with and without something after it; then what it was made of; then a
    /// new whole database.
    #[test]
    fn damage_to_the_newest_state_is_mended_by_what_is_sound_or_by_the_database() {
        let (mut manifest, now) = (two_days(), DAY + 50 * SECOND);
        assert_eq!(remedy(&manifest), Remedy::Nothing);
        manifest.judge(name(9, 1, 9), Proof::Damaged);
        assert!(is_ailing(&manifest));
        assert_eq!(remedy(&manifest), Remedy::Transaction, "the sound files end where the damaged one does");
        assert!(!matches!(ask(&manifest, now), Due::Now(_)), "and its name is taken");
        add(&mut manifest, 0, 10, 10, now, 100);
        assert_eq!(remedy(&manifest), Remedy::Nothing);
        assert_eq!(spans(ask(&manifest, now)), (9, vec![(1, 1), (2, 9), (10, 10)]), "at once");
        for level in 0..=3 {
            manifest.judge(name(level, 2, 9), Proof::Damaged);
        }
        assert_eq!(remedy(&manifest), Remedy::Image);
        add(&mut manifest, 0, 11, 11, now, 1000);
        add(&mut manifest, 9, 1, 11, now, 1000);
        assert!(!is_ailing(&manifest) && remedy(&manifest) == Remedy::Nothing);
        manifest.judge(name(9, 1, 11), Proof::Doubted);
        assert!(matches!(ask(&manifest, now), Due::Now(Work::Prove(_))), "a doubt is looked into first of all");
    }

    /// Goal: a damaged file is a gap for what is made of its level, and covers nothing below it. Method: a raw file damaged,
    /// then the file of level 1 over others.
    #[test]
    fn a_damaged_file_is_a_gap_and_covers_nothing() {
        let mut manifest = Manifest::default();
        add(&mut manifest, 9, 1, 1, 1, 100);
        for txid in 2..=5 {
            add(&mut manifest, 0, txid, txid, txid as i64, 100);
        }
        manifest.judge(name(0, 3, 3), Proof::Damaged);
        assert_eq!(spans(ask(&manifest, 30 * SECOND)), (1, vec![(2, 2)]));
        add(&mut manifest, 1, 2, 2, 2, 100);
        assert_eq!(spans(ask(&manifest, 30 * SECOND)), (1, vec![(4, 4), (5, 5)]));
        add(&mut manifest, 1, 4, 5, 5, 100);
        let raw = |manifest: &Manifest| match due(
            manifest,
            &Schedule::default(),
            0,
            &[1, 2, 3, 9].map(|n| Level::new(n).unwrap()),
            Time(HOUR),
        ) {
            Due::Now(Work::Delete(files)) => {
                files.iter().filter(|(level, _)| level.get() == 0).map(|(_, span)| span.max.0).collect()
            }
            _ => Vec::new(),
        };
        assert_eq!(raw(&manifest), [4, 2], "one that nothing covers stays, and holds up nothing");
        manifest.judge(name(1, 4, 5), Proof::Damaged);
        assert_eq!(raw(&manifest), [2]);
    }
}
