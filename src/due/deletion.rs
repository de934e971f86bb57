//! Which files may go, and when the next ones may.
//!
//! What only a snapshot makes superfluous goes after that snapshot was read back. As a rule the next snapshot was made
//! of it by then, and nothing is read for this alone.

use super::{Due, Interval, Schedule, Work, later, milliseconds, settled};
use crate::clock::Time;
use crate::limits::{DELETE_BATCH, GRACE};
use crate::ltx::{FileInfo, Level, Span};
use crate::manifest::{Held, Manifest, Proof};

/// Everything whose time has come, at most a batch. Newest first in each level and snapshots last, so that after a
/// crash in the middle the ends of all files that are left still restore.
pub(super) fn due(manifest: &Manifest, schedule: &Schedule, now: Time) -> Due {
    if !schedule.retention_enabled {
        return Due::Never;
    }
    let mut doomed = Doomed { now, files: Vec::new(), next: None, unread: None };
    let window = milliseconds(schedule.snapshot_retention);
    let grace = window.min(milliseconds(GRACE));
    let snapshots: Vec<&Held> = manifest.snapshots().collect();
    let top = schedule.interval(schedule.top());
    // From when on a snapshot makes everything up to it superfluous.
    let rules = |snapshot: &Held| later(later(snapshot.created(), window).max(settled(snapshot, top)), grace);
    judge_snapshots(&snapshots, schedule, grace, rules, &mut doomed);
    let anchored = |span: Span| {
        let at = snapshots.partition_point(|snapshot| snapshot.span().max < span.max);
        snapshots.get(at).map(|snapshot| (rules(snapshot), *snapshot))
    };
    judge_damaged(manifest, anchored, &mut doomed);
    for level in (1..=8).filter_map(Level::new) {
        let Some((_newest, older)) = manifest.level(level).split_last() else { continue };
        for held in older {
            if !anchored(held.span()).is_some_and(|(at, anchor)| doomed.judge_by(held, at, anchor)) {
                break;
            }
        }
    }
    judge_raw(manifest, schedule, anchored, &mut doomed);
    match (doomed.files.is_empty(), doomed.unread, doomed.next) {
        (false, ..) => {
            doomed.files.reverse();
            doomed.files.truncate(DELETE_BATCH);
            Due::Now(Work::Delete(doomed.files))
        }
        (true, Some(anchor), _) => Due::Now(Work::Prove(anchor)),
        (true, None, Some(next)) => Due::At(next),
        (true, None, None) => Due::Never,
    }
}

/// A damaged snapshot goes when everything else that is as old does.
fn judge_damaged<'a>(manifest: &Manifest, anchored: impl Fn(Span) -> Option<(Time, &'a Held)>, doomed: &mut Doomed) {
    for held in manifest.level(Level::SNAPSHOT).iter().filter(|held| !held.is_usable()) {
        if let Some((at, anchor)) = anchored(held.span()) {
            doomed.judge_by(held, at, anchor);
        }
    }
}

/// A snapshot may go when the next one is older than the window; earlier, where it is neither the oldest nor the last of
/// its interval, for the levels lead from the one before to every time after it.
fn judge_snapshots(
    snapshots: &[&Held],
    schedule: &Schedule,
    grace: i64,
    rules: impl Fn(&Held) -> Time,
    doomed: &mut Doomed,
) {
    let interval = Interval::of(schedule.snapshot_interval);
    let top = schedule.interval(schedule.top());
    let mut is_oldest = true;
    for pair in snapshots.windows(2) {
        let (held, next) = (pair[0], pair[1]);
        let aged = rules(next);
        let in_between = !is_oldest && interval.start(held.created()) == interval.start(next.created());
        let goes = match later(settled(next, top), grace) {
            // The one before still leads past it, whatever the next one is.
            at if in_between && at < aged => doomed.judge(held, at),
            _ => doomed.judge_by(held, aged, next),
        };
        if !goes {
            is_oldest = false;
        }
    }
}

/// Raw files go in batches, at the boundaries of level 1, when they are old and level 1 has had what they hold for a
/// while; the newest stays.
fn judge_raw<'a>(
    manifest: &Manifest,
    schedule: &Schedule,
    anchored: impl Fn(Span) -> Option<(Time, &'a Held)>,
    doomed: &mut Doomed,
) {
    let Some((_newest, older)) = manifest.level(Level::RAW).split_last() else { return };
    let first = Level::new(1).expect("a level");
    let (interval, retention) = (schedule.interval(first), milliseconds(schedule.l0_retention));
    if retention == 0 {
        return;
    }
    let covered_to = manifest.reach(first).max(manifest.reach(Level::SNAPSHOT));
    for held in older.iter().take_while(|held| held.span().max <= covered_to) {
        let goes = match manifest.cover(first, held.span()) {
            Some(cover) => {
                let kept = later(settled(cover, interval), retention.min(milliseconds(GRACE)));
                doomed.judge(held, interval.round_up(kept.max(later(interval.end(held.created()), retention))))
            }
            None => match anchored(held.span()) {
                Some((at, anchor)) => doomed.judge_by(held, at, anchor),
                None => continue,
            },
        };
        if !goes {
            break;
        }
    }
}

/// What goes now, and when the next goes.
struct Doomed {
    now: Time,
    files: Vec<(Level, Span)>,
    next: Option<Time>,
    /// A snapshot on whose word something would go, and that nobody read back.
    unread: Option<FileInfo>,
}

impl Doomed {
    /// The same for a file that goes on the word of a snapshot.
    fn judge_by(&mut self, held: &Held, at: Time, anchor: &Held) -> bool {
        if at > self.now || anchor.proof == Proof::Sound {
            return self.judge(held, at);
        }
        self.unread.get_or_insert_with(|| anchor.info.clone());
        false
    }

    /// True where the file's time has come.
    fn judge(&mut self, held: &Held, at: Time) -> bool {
        let is_due = at <= self.now;
        if is_due {
            self.files.push((held.info.level, held.span()));
        } else {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
        is_due
    }
}
