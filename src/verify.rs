//! Is a replica what it should be? Walks every file of it, proves every checksum, and says from where to where it can
//! still be restored.
//!
//! A file is damaged or sound by itself; whether sound files make a database is a plan's question, asked from every
//! snapshot. Writes nothing and deletes nothing. A real restore of each range is `restore`'s, for who wants more.

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::ltx::{Decoder, FileInfo, Level, Span, Txid};
use crate::page::{PageSize, Pgno};
use crate::plan::{Target, plan};
use crate::restore::{self, Options, Progress};
use crate::store::Store;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// LTX files that were read.
    pub files: usize,
    /// Bytes of those, and of the objects of 0.3.
    pub bytes: u64,
    /// Whole databases among them.
    pub snapshots: usize,
    /// Objects of Litestream 0.3 that were read.
    pub older: usize,
    /// What is wrong; empty where all is well.
    pub problems: Vec<Problem>,
    /// What can be restored with the sound files, oldest first.
    pub ranges: Vec<Range>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the replica's folder of LTX files (`1/…-….ltx`) or to the replica (`generations/…`);
    /// `None` where a file is missing.
    pub file: Option<String>,
    /// What.
    pub text: String,
}

/// Every transaction that ends a file from a snapshot on, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The snapshot's last transaction.
    pub from: Txid,
    /// The last that can be reached.
    pub to: Txid,
    /// When those were captured, by the headers.
    pub times: (Time, Time),
}

/// What a sound file holds.
struct Sound {
    page_size: PageSize,
    commit: u32,
    time: Time,
    /// Its pages, as runs.
    pages: Vec<RangeInclusive<u32>>,
}

/// Walks a replica. Memory: a run of page numbers for each piece of each file.
pub fn walk(store: &Store, options: Options<'_>) -> Result<Report> {
    let listing = restore::list(store, options)?;
    let objects = restore::older::list(store)?;
    if listing.is_empty() && objects.is_empty() {
        return Err(Error::NoBackup("no matching backup files available".into()));
    }
    let total = listing.iter().map(|file| file.size).chain(objects.iter().map(|object| object.size)).sum();
    let done = AtomicU64::new(0);
    let went = |bytes: u64| {
        let written = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (options.progress)(Progress { written, total, fetched: written });
    };
    let read = restore::in_parallel(&listing, options, |file| {
        let found = match read(store, file, &|| Ok(())) {
            Err(Error::NoBackup(_)) => Ok(None),
            Err(Error::Corrupt(text)) => Ok(Some(Err(text))),
            Err(e) => Err(e),
            Ok(sound) => Ok(Some(Ok(sound))),
        };
        went(file.size);
        found
    })?;
    let mut report = Report { files: listing.len(), bytes: total, older: objects.len(), ..Report::default() };
    let mut sound: HashMap<(Level, Span), Sound> = HashMap::new();
    let mut files: Vec<FileInfo> = Vec::new();
    for (file, found) in listing.iter().zip(read) {
        match found {
            // Deleted while we walked: retention is at work, and a plan does without it.
            None => report.files -= 1,
            Some(Err(text)) => report.problem(Some(name(file)), text),
            Some(Ok(about)) => {
                files.push(FileInfo { listed: about.time, ..file.clone() });
                sound.insert((file.level, file.span), about);
            }
        }
    }
    report.ltx(&listing, &files, &sound);
    for (file, text) in restore::older::check(store, &objects, options, &went)? {
        report.problem(file, text);
    }
    Ok(report)
}

impl Report {
    fn problem(&mut self, file: Option<String>, text: String) {
        self.problems.push(Problem { file, text });
    }

    /// Ranges over the sound files; what a snapshot does not lead to is a problem.
    fn ltx(&mut self, listing: &[FileInfo], files: &[FileInfo], sound: &HashMap<(Level, Span), Sound>) {
        let Some(newest) = listing.iter().map(|file| file.span.max).max() else { return };
        let mut snapshots: Vec<&FileInfo> = files.iter().filter(|file| file.span.is_snapshot()).collect();
        snapshots.sort_by_key(|file| (file.span, std::cmp::Reverse(file.level)));
        snapshots.dedup_by_key(|file| file.span);
        self.snapshots = snapshots.len();
        if snapshots.is_empty() {
            let text = "there is no sound snapshot and no sound file from transaction 1: nothing can be restored";
            return self.problem(None, text.into());
        }
        for snapshot in snapshots {
            let from = snapshot.span.max;
            let follows = |file: &&FileInfo| file.level != Level::SNAPSHOT && file.span.max > from;
            let mut candidates = vec![FileInfo { level: Level::SNAPSHOT, ..snapshot.clone() }];
            candidates.extend(files.iter().filter(follows).cloned());
            let Ok(plan) = plan(&candidates, Target::Time(Time(i64::MAX))) else { continue };
            let mut planned: Vec<&FileInfo> = plan.files.iter().collect();
            planned[0] = snapshot;
            let (to, why) = match uncovered(&planned, sound) {
                Some((txid, text)) => (txid, Some(text)),
                None if plan.txid() < newest => {
                    let next = plan.gap.map(|gap| format!("; the next sound file starts at {}", gap.next));
                    let reach = format!("from snapshot {from} only {} of {newest} can be reached", plan.txid());
                    (plan.txid(), Some(reach + &next.unwrap_or_default()))
                }
                None => (plan.txid(), None),
            };
            if let Some(why) = why {
                self.problem(None, why);
            }
            let end = planned.iter().find(|file| file.span.max == to).map_or(snapshot.listed, |file| file.listed);
            if !self.ranges.iter().any(|range| range.from <= from && to <= range.to) {
                self.ranges.push(Range { from, to, times: (snapshot.listed, end) });
            }
        }
    }
}

/// The last transaction of the plan before a file that makes no database with those before, and why.
fn uncovered(planned: &[&FileInfo], sound: &HashMap<(Level, Span), Sound>) -> Option<(Txid, String)> {
    let about = |file: &FileInfo| &sound[&(file.level, file.span)];
    let mut commit = about(planned[0]).commit;
    for pair in planned.windows(2) {
        let (before, file) = (pair[0], pair[1]);
        let now = about(file);
        if now.page_size != about(before).page_size {
            // A file with all pages needs none from before.
            if missing(&now.pages, 0, now.commit, now.page_size.lock_page()).is_some() {
                let text = format!("{}: its pages have another size than those of the files before", name(file));
                return Some((before.span.max, text));
            }
            commit = now.commit;
        }
        if let Some(page) = missing(&now.pages, commit, now.commit, now.page_size.lock_page()) {
            let text = format!(
                "{}: the database grows to {} pages there, but page {page} is not in it: its writer left it out",
                name(file),
                now.commit
            );
            return Some((before.span.max, text));
        }
        commit = now.commit;
    }
    None
}

/// The first page that a growth from `before` to `after` needs and the file does not hold.
fn missing(pages: &[RangeInclusive<u32>], before: u32, after: u32, lock: Pgno) -> Option<u32> {
    let mut need = before + 1;
    while need <= after {
        if need == lock.0 {
            need += 1;
            continue;
        }
        match pages.iter().find(|run| run.contains(&need)) {
            Some(run) => need = *run.end() + 1,
            None => return Some(need),
        }
    }
    None
}

/// Says what is wrong with one file; `go_on` is asked between pages.
pub fn prove(store: &Store, file: &FileInfo, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    read(store, file, go_on).map(drop)
}

/// Reads one file to its proven end.
fn read(store: &Store, file: &FileInfo, go_on: &dyn Fn() -> Result<()>) -> Result<Sound> {
    let mut decoder = Decoder::new(store.stream(file)?)?;
    let header = *decoder.header();
    if header.span != file.span {
        return Err(Error::Corrupt(format!("its header is that of {}", header.span.file_name())));
    }
    let mut page = Vec::new();
    let mut pages: Vec<RangeInclusive<u32>> = Vec::new();
    while let Some(Pgno(pgno)) = decoder.next_page(&mut page)? {
        go_on()?;
        match pages.last_mut() {
            Some(run) if *run.end() + 1 == pgno => *run = *run.start()..=pgno,
            _ => pages.push(pgno..=pgno),
        }
    }
    decoder.finish()?;
    if decoder.size() != file.size {
        return Err(Error::Corrupt(format!("{} bytes are listed, {} were read", file.size, decoder.size())));
    }
    Ok(Sound { page_size: header.page_size, commit: header.commit, time: header.timestamp, pages })
}

fn name(file: &FileInfo) -> String {
    format!("{}/{}", file.level, file.span.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a page left out of a growth is found, the lock page is not one. Method: runs around the growth.
    #[test]
    fn a_growth_without_a_page_is_found() {
        let lock = Pgno(100);
        assert_eq!(missing(&[1..=3, 5..=9], 4, 9, lock), None);
        assert_eq!(missing(&[1..=3, 5..=7, 9..=9], 4, 9, lock), Some(8));
        assert_eq!(missing(&[], 9, 4, lock), None, "shrinking needs none");
        assert_eq!(missing(&[90..=99, 101..=103], 95, 103, lock), None);
        assert_eq!(missing(&[], 0, 1, lock), Some(1));
    }
}
