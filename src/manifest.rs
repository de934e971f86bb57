//! What the replica holds, as far as its Leader knows: learnt by one listing, then kept by what it writes and deletes.
//!
//! An idle database asks its store nothing because of this. Holds names, sizes and times; no file's contents.

use crate::clock::Time;
use crate::ltx::{FileInfo, Level, Span, Txid};
use crate::plan::too_short;
use std::collections::BTreeSet;

/// Levels, the snapshots' among them.
const LEVELS: usize = 10;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name and size; `listed` is its creation time: the header time of its last transaction.
    pub info: FileInfo,
    /// Since when it is there for everybody, as far as known: never later than it appeared to us.
    pub known: Time,
    /// What is known of its bytes.
    pub proof: Proof,
}

/// What is known of a stored file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Nobody read it back.
    Unread,
    /// Something that read it complained: it is to be read once more before that counts.
    Doubted,
    /// It was read to its proven end.
    Sound,
    /// It is not what it should be. Nothing relies on it any more.
    Damaged,
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

    /// False where it is known as damaged.
    pub fn is_usable(&self) -> bool {
        self.proof != Proof::Damaged
    }

    fn new(info: FileInfo, known: Time) -> Held {
        let proof = if too_short(&info).is_some() { Proof::Damaged } else { Proof::Unread };
        Held { info, known, proof }
    }
}

/// The files of all levels, each level in order of their spans.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    levels: [Vec<Held>; LEVELS],
    /// Those that are doubted or damaged: mostly none, and asked for often.
    troubled: BTreeSet<(Level, Span)>,
}

impl Manifest {
    /// From a listing.
    pub fn learnt(files: impl IntoIterator<Item = FileInfo>) -> Manifest {
        let mut manifest = Manifest::default();
        for info in files {
            let (level, known) = (usize::from(info.level.get()), info.listed);
            let held = Held::new(info, known);
            if !held.is_usable() {
                manifest.troubled.insert((held.info.level, held.span()));
            }
            manifest.levels[level].push(held);
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
            let held = Held::new(info, known);
            if !held.is_usable() {
                self.troubled.insert((held.info.level, held.span()));
            }
            level.insert(at, held);
        }
    }

    /// What is known of a file's bytes by now. A doubt changes nothing about one that is known as damaged.
    pub fn judge(&mut self, (level, span): (Level, Span), proof: Proof) {
        let files = &mut self.levels[usize::from(level.get())];
        if let Ok(at) = files.binary_search_by_key(&span, Held::span)
            && (proof != Proof::Doubted || files[at].is_usable())
        {
            files[at].proof = proof;
            match proof {
                Proof::Doubted | Proof::Damaged => self.troubled.insert((level, span)),
                Proof::Unread | Proof::Sound => self.troubled.remove(&(level, span)),
            };
        }
    }

    /// A new listing of the same replica: what was known of the files that are still there stays known.
    pub fn inherit(&mut self, before: &Manifest) {
        for old in before.files().filter(|old| old.proof != Proof::Unread) {
            let files = self.level(old.info.level);
            let same = files.binary_search_by_key(&old.span(), Held::span).map(|at| files[at].info.size);
            if same == Ok(old.info.size) {
                self.judge((old.info.level, old.span()), old.proof);
            }
        }
    }

    /// The first file that is to be read once more.
    pub fn doubted(&self) -> Option<&Held> {
        self.troubled().find(|held| held.proof == Proof::Doubted)
    }

    /// Files that are not what they should be.
    pub fn damaged(&self) -> impl Iterator<Item = &Held> {
        self.troubled().filter(|held| !held.is_usable())
    }

    fn troubled(&self) -> impl Iterator<Item = &Held> {
        self.troubled.iter().filter_map(|(level, span)| {
            let files = self.level(*level);
            files.binary_search_by_key(span, Held::span).ok().map(|at| &files[at])
        })
    }

    /// Files were deleted.
    pub fn remove(&mut self, files: &[(Level, Span)]) {
        files.iter().for_each(|file| _ = self.troubled.remove(file));
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

    /// Whole databases at the level for them, oldest first, but for damaged ones.
    pub fn snapshots(&self) -> impl DoubleEndedIterator<Item = &Held> {
        self.level(Level::SNAPSHOT).iter().filter(|held| held.span().is_snapshot() && held.is_usable())
    }

    /// How far a level reaches; 0 where it is empty.
    pub fn reach(&self, level: Level) -> Txid {
        self.level(level).last().map_or(Txid(0), |held| held.span().max)
    }

    /// The file of a level that holds all of a span, unless it is damaged.
    pub fn cover(&self, level: Level, span: Span) -> Option<&Held> {
        let files = self.level(level);
        let at = files.partition_point(|held| held.span().max < span.max);
        files.get(at).filter(|held| held.span().min <= span.min && held.is_usable())
    }

    /// Every file, damaged or not.
    pub fn files(&self) -> impl Iterator<Item = &Held> {
        self.levels.iter().flatten()
    }

    /// Those that are not known as damaged, as a listing has them.
    pub fn usable(&self) -> Vec<FileInfo> {
        self.files().filter(|held| held.is_usable()).map(|held| held.info.clone()).collect()
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
