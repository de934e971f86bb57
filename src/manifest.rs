//! What the replica holds, as far as its Leader knows: learnt by one listing, then kept by what it writes and deletes.
//!
//! An idle database asks its store nothing because of this. Holds names, sizes and times; no file's contents.

use crate::clock::Time;
use crate::ltx::{FileInfo, Level, Span, Txid};

/// Levels, the snapshots' among them.
const LEVELS: usize = 10;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name and size; `listed` is its creation time: the header time of its last transaction.
    pub info: FileInfo,
    /// Since when it is there for everybody, as far as known: never later than it appeared to us.
    pub known: Time,
}

impl Held {
    /// When its last transaction was captured.
    pub fn created(&self) -> Time {
        self.info.listed
    }

    /// Its transactions.
    pub fn span(&self) -> Span {
        self.info.span
    }
}

/// The files of all levels, each level in order of their spans.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    levels: [Vec<Held>; LEVELS],
}

impl Manifest {
    /// From a listing.
    pub fn learnt(files: impl IntoIterator<Item = FileInfo>) -> Manifest {
        let mut manifest = Manifest::default();
        for info in files {
            let known = info.listed;
            manifest.levels[usize::from(info.level.get())].push(Held { info, known });
        }
        for level in &mut manifest.levels {
            level.sort_by_key(Held::span);
        }
        manifest
    }

    /// A file was stored. One that is known already stays as it is.
    pub fn add(&mut self, info: FileInfo, known: Time) {
        let level = &mut self.levels[usize::from(info.level.get())];
        if let Err(at) = level.binary_search_by_key(&info.span, Held::span) {
            level.insert(at, Held { info, known });
        }
    }

    /// Files were deleted.
    pub fn remove(&mut self, files: &[(Level, Span)]) {
        for level in Level::all() {
            let mut gone: Vec<Span> = files.iter().filter(|(of, _)| *of == level).map(|(_, span)| *span).collect();
            if !gone.is_empty() {
                gone.sort_unstable();
                self.levels[usize::from(level.get())].retain(|held| gone.binary_search(&held.span()).is_err());
            }
        }
    }

    /// The files of a level, oldest first.
    pub fn level(&self, level: Level) -> &[Held] {
        &self.levels[usize::from(level.get())]
    }

    /// Whole databases at the level for them, oldest first.
    pub fn snapshots(&self) -> impl DoubleEndedIterator<Item = &Held> {
        self.level(Level::SNAPSHOT).iter().filter(|held| held.span().is_snapshot())
    }

    /// How far a level reaches; 0 where it is empty.
    pub fn reach(&self, level: Level) -> Txid {
        self.level(level).last().map_or(Txid(0), |held| held.span().max)
    }

    /// The file of a level that holds all of a span.
    pub fn cover(&self, level: Level, span: Span) -> Option<&Held> {
        let files = self.level(level);
        let at = files.partition_point(|held| held.span().max < span.max);
        files.get(at).filter(|held| held.span().min <= span.min)
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &Held> {
        self.levels.iter().flatten()
    }

    /// The file that reaches furthest; of equals the lowest level's.
    pub fn newest(&self) -> Option<&FileInfo> {
        let mut newest: Option<&FileInfo> = None;
        for held in self.levels.iter().filter_map(|level| level.iter().max_by_key(|held| held.span().max)) {
            if newest.is_none_or(|newest| newest.span.max < held.span().max) {
                newest = Some(&held.info);
            }
        }
        newest
    }
}
