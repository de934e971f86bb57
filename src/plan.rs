//! Which files of a replica, in which order, rebuild a database at its end, at a Txid or at a time.
//!
//! A pure decision over a listing: no store is asked, nothing is read. For times each file's `listed` must
//! be its exact creation time (the store's `created`).
//!
//! The rule is Litestream's: the newest snapshot that fits, then again and again the file that continues
//! without a gap and reaches furthest. Of files that reach equally far, the one that begins earliest, of those
//! the highest level, of those the oldest.

pub mod older;

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::ltx::{FileInfo, HEADER_SIZE, Level, Txid};
use std::cmp::Reverse;

/// How far a database shall be rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest state. A gap before the last file is an error.
    Latest,
    /// The state after exactly this transaction.
    Txid(Txid),
    /// The newest state created strictly before this time.
    Time(Time),
}

/// The files to apply, oldest first; together they hold transactions 1 to `txid()` without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Never empty; the first is a whole database.
    pub files: Vec<FileInfo>,
    /// For a time: files before it exist that cannot be reached.
    pub gap: Option<Gap>,
}

/// Missing transactions: there is everything up to `have`, and then again from `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last that can be reached.
    pub have: Txid,
    /// Where the next file begins.
    pub next: Txid,
}

impl Plan {
    /// The transaction that the plan reaches.
    pub fn txid(&self) -> Txid {
        self.last().span.max
    }

    /// Creation time of the newest file, as the listing gave it.
    pub fn time(&self) -> Time {
        self.last().listed
    }

    /// Bytes to fetch.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    fn last(&self) -> &FileInfo {
        self.files.last().expect("a plan has files")
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "non-contiguous ltx files: have up to {} but next file starts at {}", self.have, self.next)
    }
}

/// Decides over the files of all levels, in any order.
pub fn plan(listing: &[FileInfo], target: Target) -> Result<Plan> {
    let fits = |file: &&FileInfo| match target {
        Target::Latest => true,
        Target::Txid(txid) => file.span.max <= txid,
        Target::Time(before) => file.listed < before,
    };
    let snapshot = listing
        .iter()
        .filter(|file| file.level == Level::SNAPSHOT && file.span.is_snapshot())
        .filter(fits)
        .max_by_key(|file| file.span);
    let mut files: Vec<FileInfo> = snapshot.into_iter().cloned().collect();
    let have = files.last().map_or(Txid(0), |file| file.span.max);
    let rest = listing.iter().filter(|file| file.level != Level::SNAPSHOT).filter(fits).collect();
    let gap = continue_from(have, rest, &mut files);
    judge(listing, target, files, gap)
}

/// The files of levels 0 to 8 that continue a database at `have` without a gap, oldest first, as far as there are any.
pub fn onward(listing: &[FileInfo], have: Txid) -> Vec<FileInfo> {
    let mut files = Vec::new();
    continue_from(have, listing.iter().filter(|file| file.level != Level::SNAPSHOT).collect(), &mut files);
    files
}

/// Adds the fewest of `rest` that continue `have`; what they end before, where something follows.
fn continue_from(mut have: Txid, mut rest: Vec<&FileInfo>, files: &mut Vec<FileInfo>) -> Option<Gap> {
    rest.sort_by_key(|file| file.span.min);
    let mut coming = rest.iter().peekable();
    let mut best: Option<&FileInfo> = None;
    loop {
        while let Some(file) = coming.next_if(|file| file.span.min <= have.next()) {
            best = further(best, file);
        }
        match best.filter(|file| file.span.max > have) {
            Some(file) => {
                have = file.span.max;
                files.push(file.clone());
            }
            None => break,
        }
    }
    coming.peek().map(|file| Gap { have, next: file.span.min })
}

/// The earliest and the latest creation time of a replica; `None` where it is empty.
pub fn bounds(listing: &[FileInfo]) -> Option<(Time, Time)> {
    let times = || listing.iter().map(|file| file.listed);
    Some((times().min()?, times().max()?))
}

/// What is wrong with a file that the listing shows as too short to be one.
pub fn too_short(file: &FileInfo) -> Option<Error> {
    let FileInfo { level, span, size, .. } = file;
    let text = || {
        let (min, max) = (span.min, span.max);
        format!("invalid ltx file: level={level} min={min} max={max} has size {size} bytes (minimum {HEADER_SIZE})")
    };
    (*size < HEADER_SIZE as u64).then(|| Error::Corrupt(text()))
}

/// Turns what was found into a plan or a sentence.
fn judge(listing: &[FileInfo], target: Target, files: Vec<FileInfo>, gap: Option<Gap>) -> Result<Plan> {
    const NONE: &str = "no matching backup files available";
    let Some(last) = files.last() else {
        return Err(match target {
            _ if listing.is_empty() => Error::NoBackup(NONE.into()),
            // Not `NoBackup`: who finds a replica empty may begin a new one, and this one is not.
            Target::Latest => Error::Gap(format!(
                "{NONE}: the replica holds {} files, but neither a snapshot nor a file from transaction 1",
                listing.len()
            )),
            Target::Txid(txid) => Error::NoBackup(format!("{NONE}: nothing reaches back to transaction {txid}")),
            Target::Time(before) => Error::NoBackup(format!("{NONE}: no snapshot is older than {}", before.rfc3339())),
        });
    };
    if let Some(said) = files.iter().find_map(too_short) {
        return Err(said);
    }
    match (target, gap) {
        (Target::Latest, Some(gap)) => Err(Error::Gap(format!("cannot calc restore plan: {gap}"))),
        (Target::Txid(txid), Some(gap)) if last.span.max < txid => Err(Error::Gap(format!("{NONE}: {gap}"))),
        (Target::Txid(txid), None) if last.span.max < txid => Err(Error::NoBackup(not_reached(listing, last, txid))),
        (Target::Time(_), gap) => Ok(Plan { files, gap }),
        _ => Ok(Plan { files, gap: None }),
    }
}

/// Why a transaction cannot be had, and the nearest that can.
fn not_reached(listing: &[FileInfo], last: &FileInfo, txid: Txid) -> String {
    let around =
        listing.iter().filter(|file| file.span.min <= txid && txid < file.span.max).min_by_key(|file| file.span.max);
    let have = last.span.max;
    match around {
        Some(file) => format!(
            "no matching backup files available: transaction {txid} was compacted into {}; the nearest are {have} and {}",
            file.span.file_name(),
            file.span.max
        ),
        None => format!("no matching backup files available: the replica ends at transaction {have}, before {txid}"),
    }
}

/// Which of two files goes further.
fn further<'a>(best: Option<&'a FileInfo>, other: &'a FileInfo) -> Option<&'a FileInfo> {
    let rank = |file: &FileInfo| (file.span.max, Reverse(file.span.min), file.level, Reverse(file.listed));
    match best {
        Some(best) if rank(best) >= rank(other) => Some(best),
        _ => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Span;

    /// A file by level, first and last transaction; created at as many milliseconds as its last transaction.
    fn file(level: u8, min: u64, max: u64) -> FileInfo {
        let span = Span { min: Txid(min), max: Txid(max) };
        FileInfo { level: Level::new(level).unwrap(), span, size: 1000, listed: Time(max as i64) }
    }

    fn chosen(listing: &[FileInfo], target: Target) -> Vec<(u8, u64, u64)> {
        let plan = plan(listing, target).unwrap();
        plan.files.iter().map(|f| (f.level.get(), f.span.min.0, f.span.max.0)).collect()
    }

    /// Goal: overlaps are normal and the fewest files win. Method: the listing that the format's owner was tried with.
    #[test]
    fn overlapping_levels_give_the_fewest_files() {
        let listing = [file(9, 1, 2), file(1, 2, 4), file(1, 5, 5), file(0, 4, 4), file(0, 5, 5), file(0, 6, 6)];
        assert_eq!(chosen(&listing, Target::Latest), [(9, 1, 2), (1, 2, 4), (1, 5, 5), (0, 6, 6)]);
        assert_eq!(chosen(&listing, Target::Txid(Txid(4))), [(9, 1, 2), (1, 2, 4)]);
        assert_eq!(chosen(&listing, Target::Txid(Txid(2))), [(9, 1, 2)]);
        assert_eq!(chosen(&listing, Target::Time(Time(6))), [(9, 1, 2), (1, 2, 4), (1, 5, 5)]);
        assert_eq!(chosen(&listing, Target::Time(Time(7))), [(9, 1, 2), (1, 2, 4), (1, 5, 5), (0, 6, 6)]);
    }

    /// Goal: without a snapshot a file from transaction 1 starts the plan. Method: level 0 and level 1 alone.
    #[test]
    fn a_replica_without_a_snapshot_starts_at_transaction_one() {
        assert_eq!(chosen(&[file(0, 1, 1), file(0, 2, 2)], Target::Latest), [(0, 1, 1), (0, 2, 2)]);
        assert_eq!(chosen(&[file(1, 1, 3), file(0, 1, 1), file(0, 4, 4)], Target::Latest), [(1, 1, 3), (0, 4, 4)]);
    }

    /// Goal: a gap is named, and never mistaken for an empty replica. Method: file 3 missing, then the start missing.
    #[test]
    fn a_gap_is_named() {
        let listing = [file(9, 1, 2), file(0, 4, 4)];
        let text = plan(&listing, Target::Latest).unwrap_err().to_string();
        assert!(text.contains("have up to 0000000000000002 but next file starts at 0000000000000004"), "{text}");
        assert!(matches!(plan(&listing, Target::Txid(Txid(4))), Err(Error::Gap(_))));
        assert_eq!(chosen(&listing, Target::Txid(Txid(2))), [(9, 1, 2)], "before the gap all is well");
        let timed = plan(&listing, Target::Time(Time(9))).unwrap();
        assert_eq!(timed.gap, Some(Gap { have: Txid(2), next: Txid(4) }));
        assert!(matches!(plan(&listing[1..], Target::Latest), Err(Error::Gap(_))));
        assert!(matches!(plan(&[], Target::Latest), Err(Error::NoBackup(_))));
    }

    /// Goal: a transaction inside a compacted file, above the end or before the start is refused with the reason.
    #[test]
    fn an_unreachable_transaction_says_what_is_near() {
        let listing = [file(9, 1, 5), file(1, 6, 9)];
        let text = plan(&listing, Target::Txid(Txid(7))).unwrap_err().to_string();
        assert!(text.contains("compacted into") && text.contains("0000000000000009"), "{text}");
        assert!(matches!(plan(&listing, Target::Txid(Txid(10))), Err(Error::NoBackup(_))));
        assert!(matches!(plan(&listing, Target::Txid(Txid(3))), Err(Error::NoBackup(_))));
        assert!(matches!(plan(&listing, Target::Time(Time(5))), Err(Error::NoBackup(_))), "strictly before");
        assert_eq!(bounds(&listing), Some((Time(5), Time(9))));
    }

    /// Goal: a file too short to be one fails the plan that needs it, and no other. Method: 50 bytes at the end.
    #[test]
    fn a_short_file_is_refused_up_front() {
        let listing = [file(9, 1, 5), FileInfo { size: 50, ..file(0, 6, 6) }];
        assert!(matches!(plan(&listing, Target::Latest), Err(Error::Corrupt(_))));
        assert_eq!(chosen(&listing, Target::Txid(Txid(5))), [(9, 1, 5)]);
    }

    /// Goal: the plan does not slow down with the square of the files. Method: a day of one file a second.
    #[test]
    fn a_day_of_raw_files_is_planned_at_once() {
        let mut listing: Vec<FileInfo> = (1..=86_400).map(|n| file(0, n, n)).collect();
        listing.reverse();
        assert_eq!(plan(&listing, Target::Latest).unwrap().files.len(), 86_400);
    }
}
