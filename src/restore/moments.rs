//! Which files are older than a time, without asking each for its creation time.
//!
//! A listing of most stores does not carry the exact times, and one request for each of thousands of files would take
//! longer than the restore. Times ascend with the transactions of a level, so the boundary is found by halving; the
//! files around it are all asked, and where they do not ascend, every file of the level is.

use super::{Options, exact, hear, in_parallel};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::ltx::Level;
use crate::store::{FileInfo, Store};
use std::sync::atomic::AtomicU64;

/// Files on each side of the boundary that are asked for their exact time.
const AROUND: usize = 8;

/// Files of a level up to which all are asked.
const FEW: usize = 4 * AROUND;

/// The files with creation times that are right as to before or after `time`, and exact around it and at both ends of each
/// level. Those deleted meanwhile may be left out.
pub(super) fn dated(store: &Store, listed: &[FileInfo], time: Time, options: Options<'_>) -> Result<Vec<FileInfo>> {
    let levels: Vec<Vec<FileInfo>> = Level::all()
        .map(|level| {
            let mut files: Vec<FileInfo> = listed.iter().filter(|file| file.level == level).cloned().collect();
            files.sort_by_key(|file| (file.span.max, file.span.min));
            files
        })
        .collect();
    let (few, many): (Vec<_>, Vec<_>) = levels.into_iter().partition(|files| files.len() <= FEW);
    let mut dated = exact(store, &few.concat(), options)?;
    let heard = AtomicU64::new(0);
    let ask = |file: &FileInfo| {
        let created = store.created(file);
        hear(&heard, 1, options);
        created
    };
    let halved = in_parallel(&many, options, |files| match halve(files, time, &ask) {
        Err(Error::NoBackup(_)) => Ok(None),
        other => other,
    })?;
    for (files, halved) in many.iter().zip(halved) {
        dated.extend(match halved {
            Some(files) => files,
            None => exact(store, files, options)?,
        });
    }
    Ok(dated)
}

/// One level's files, dated; `None` where the times around the boundary do not ascend.
fn halve(files: &[FileInfo], time: Time, ask: &dyn Fn(&FileInfo) -> Result<Time>) -> Result<Option<Vec<FileInfo>>> {
    let (mut least, mut most) = (0, files.len());
    while least < most {
        let middle = least + (most - least) / 2;
        if ask(&files[middle])? < time { least = middle + 1 } else { most = middle }
    }
    let boundary = least;
    let around = boundary.saturating_sub(AROUND)..(boundary + AROUND).min(files.len());
    let ends = [0, files.len() - 1];
    let mut dated = files.to_vec();
    for i in around.clone().chain(ends.into_iter().filter(|i| !around.contains(i))) {
        dated[i].listed = ask(&files[i])?;
    }
    let is_parted = around.clone().all(|i| (dated[i].listed < time) == (i < boundary));
    let ascends = dated[around.clone()].windows(2).all(|pair| pair[0].listed <= pair[1].listed);
    if !is_parted || !ascends {
        return Ok(None);
    }
    for (i, file) in dated.iter_mut().enumerate().filter(|(i, _)| !around.contains(i) && !ends.contains(i)) {
        // What matters of these is only on which side they are.
        file.listed = if i < boundary { file.listed.min(Time(time.0 - 1)) } else { file.listed.max(time) };
    }
    Ok(Some(dated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::{Span, Txid};
    use std::cell::Cell;

    fn listing(count: u64) -> Vec<FileInfo> {
        let file = |n| FileInfo { level: Level::RAW, span: Span::one(Txid(n)), size: 1, listed: Time(1_000_000) };
        (1..=count).map(file).collect()
    }

    /// Goal: every file is on its right side of any time, with few requests. Method: a thousand files whose listing shows
    /// one time for all, as after a copy of the bucket; times at, around and between the exact ones.
    #[test]
    fn the_boundary_is_found_with_few_requests() {
        let files = listing(1000);
        for time in [0, 1, 10, 11, 4990, 5000, 5001, 9999, 10_000, 10_001, 2_000_000] {
            let asked = Cell::new(0);
            let ask = |file: &FileInfo| {
                asked.set(asked.get() + 1);
                Ok(Time(file.span.max.0 as i64 * 10))
            };
            let dated = halve(&files, Time(time), &ask).unwrap().expect("they ascend");
            for file in &dated {
                assert_eq!(file.listed < Time(time), (file.span.max.0 as i64 * 10) < time, "{file:?} at {time}");
            }
            assert_eq!((dated[0].listed, dated[999].listed), (Time(10), Time(10_000)), "both ends are exact");
            assert!(asked.get() < 40, "{} requests", asked.get());
        }
    }

    /// Goal: times that do not ascend are not believed. Method: a clock that went back by some files at the boundary.
    #[test]
    fn a_clock_that_went_back_makes_every_file_be_asked() {
        let files = listing(1000);
        let ask = |file: &FileInfo| {
            let n = file.span.max.0 as i64;
            Ok(Time(if (500..503).contains(&n) { n * 10 - 200 } else { n * 10 }))
        };
        assert!(halve(&files, Time(4995), &ask).unwrap().is_none());
    }
}
