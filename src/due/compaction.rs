//! When a level, or a snapshot, is due, and what goes into it.

use super::{Due, Interval, Merge, Schedule, Work, later};
use crate::clock::Time;
use crate::limits::{COMPACTION_INPUTS, RESTORE_PERCENT, SNAPSHOT_INPUTS};
use crate::ltx::{FileInfo, Level};
use crate::manifest::{Held, Manifest};
use crate::plan::{Target, plan};

/// The oldest files of the level below that this one lacks, as far as they lie in one interval: due when it is over.
///
/// Late ones make a further file in the same interval. So files of this level never know times worse than its
/// interval, also after a night without a process.
pub(super) fn level(manifest: &Manifest, schedule: &Schedule, level: Level, now: Time) -> Due {
    let interval = schedule.interval(level);
    let below = manifest.level(Level::new(level.get() - 1).expect("one less than a level above 0"));
    let mut reached = manifest.reach(level);
    // A damaged file is a gap.
    let below = &below[below.partition_point(|held| held.span().max <= reached)..];
    let below = || below.iter().filter(|held| held.is_usable());
    let Some(first) = below().next() else { return Due::Never };
    let end = interval.end(first.created());
    if now < end {
        return Due::At(end);
    }
    let mut inputs: Vec<FileInfo> = Vec::new();
    for held in below() {
        let continues = inputs.is_empty() || held.span().min <= reached.next();
        if !continues || held.created() >= end || inputs.len() == COMPACTION_INPUTS {
            break;
        }
        if held.span().max > reached {
            reached = held.span().max;
            inputs.push(held.info.clone());
        }
    }
    Due::Now(Work::Merge(Merge { level, inputs }))
}

/// A snapshot is due at a boundary of its interval when something older than the boundary lies above the last one, and
/// that is not almost new; and early, at a boundary of the top level, where a restore would read too much.
pub(super) fn snapshot(manifest: &Manifest, schedule: &Schedule, database: u64, now: Time) -> Due {
    let last = manifest.snapshots().next_back();
    let Some(first) = first_above(manifest, last) else { return Due::Never };
    let interval = Interval::of(schedule.snapshot_interval);
    let not_before = match last {
        Some(last) => interval.round_up(later(last.created(), interval.0 / 2)),
        None => Time(i64::MIN),
    };
    let due = interval.end(first.created()).max(not_before);
    let early = last.and_then(|last| early(manifest, schedule, last, database));
    let boundary = match early {
        _ if due <= now => interval.start(now),
        Some(boundary) => boundary,
        None => return Due::At(due),
    };
    snapshot_of(manifest, |held| held.created() < boundary).map_or(Due::Never, Due::Now)
}

/// A snapshot of the sound files among some, where they lead beyond the last one and nothing has its name yet: a
/// damaged file is never written over.
pub(super) fn snapshot_of(manifest: &Manifest, which: impl Fn(&Held) -> bool) -> Option<Work> {
    let usable = manifest.files().filter(|held| held.is_usable() && which(held));
    let files: Vec<FileInfo> = usable.map(|held| held.info.clone()).collect();
    // A replica with a gap has no newest state to make a snapshot of.
    let mut plan = plan(&files, Target::Latest).ok()?;
    plan.files.truncate(SNAPSHOT_INPUTS);
    let is_new = manifest.snapshots().next_back().is_none_or(|last| plan.txid() > last.span().max);
    let is_free = !manifest.level(Level::SNAPSHOT).iter().any(|held| held.span().max == plan.txid());
    (is_new && is_free).then_some(Work::Merge(Merge { level: Level::SNAPSHOT, inputs: plan.files }))
}

/// The oldest file that goes beyond the last snapshot.
fn first_above<'a>(manifest: &'a Manifest, last: Option<&Held>) -> Option<&'a Held> {
    let have = last.map(|last| last.span().max).unwrap_or_default();
    let first = |level| {
        let files = manifest.level(level);
        files.get(files.partition_point(|held| held.span().max <= have))
    };
    (0..=8).filter_map(Level::new).filter_map(first).min_by_key(|held| held.created())
}

/// Where the last snapshot and the top level's files above it are together too large for the database, the end of the
/// newest one's interval. Never within one interval of the last snapshot.
fn early(manifest: &Manifest, schedule: &Schedule, last: &Held, database: u64) -> Option<Time> {
    let interval = schedule.interval(schedule.top());
    let files = manifest.level(schedule.top());
    let above = &files[files.partition_point(|held| held.span().max <= last.span().max)..];
    let newest = above.last()?;
    let bytes = last.info.size + above.iter().map(|held| held.info.size).sum::<u64>();
    let too_much = database > 0 && bytes > database / 100 * RESTORE_PERCENT;
    (too_much && newest.created() >= later(last.created(), interval.0)).then(|| interval.end(newest.created()))
}
