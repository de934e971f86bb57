//! Stored files that are kept locally until the next level is made of them, so that a compaction need not fetch them.
//!
//! A cache and nothing else: what is in its folder when a Leader takes over is deleted. It has its own limit and does
//! not count as the Spool's bytes, for a Gate must never find the Spool full of copies.

use super::{Spool, remove};
use crate::error::{Error, Result};
use crate::limits::KEPT_LOCALLY;
use crate::ltx::{Level, Span, Txid};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder's name in the Spool.
const FOLDER: &str = "history";

/// The copies of one database, and the folder for what a compaction writes.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    files: BTreeMap<(Level, Span), u64>,
    bytes: u64,
}

impl Kept {
    /// An empty folder, whatever an earlier Leader left in it.
    pub fn begin(spool: &Spool) -> Result<Kept> {
        let folder = spool.path(FOLDER);
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("empty", &folder, e)),
            _ => {}
        }
        Ok(Kept { folder, files: BTreeMap::new(), bytes: 0 })
    }

    /// The folder, made where it is missing.
    pub fn folder(&self) -> Result<&Path> {
        make(&self.folder).map(|()| self.folder.as_path())
    }

    /// The folder of a Spool, made where it is missing, for other files that may go when a Leader takes over.
    pub fn folder_of(spool: &Spool) -> Result<PathBuf> {
        let folder = spool.path(FOLDER);
        make(&folder).map(|()| folder)
    }

    /// Takes a file that was stored; where there is no room it is deleted.
    pub fn take(&mut self, level: Level, span: Span, size: u64, from: &Path) -> Result<()> {
        if self.bytes + size > KEPT_LOCALLY {
            return remove(from);
        }
        let to = self.folder()?.join(name(level, span));
        std::fs::rename(from, &to).map_err(|e| Error::io("rename", from, e))?;
        self.bytes += size - self.files.insert((level, span), size).unwrap_or(0);
        Ok(())
    }

    /// The copy of a file.
    pub fn path(&self, level: Level, span: Span) -> Option<PathBuf> {
        self.files.contains_key(&(level, span)).then(|| self.folder.join(name(level, span)))
    }

    /// Lets go of one copy: something is wrong with it, or with what it is a copy of.
    pub fn forget(&mut self, level: Level, span: Span) -> Result<()> {
        match self.files.remove(&(level, span)) {
            Some(size) => {
                self.bytes -= size;
                remove(&self.folder.join(name(level, span)))
            }
            None => Ok(()),
        }
    }

    /// Lets go of a level's copies up to a transaction: the next level has them.
    pub fn release(&mut self, level: Level, up_to: Txid) -> Result<()> {
        let done: Vec<(Level, Span)> =
            self.files.keys().filter(|(of, span)| *of == level && span.max <= up_to).copied().collect();
        for (level, span) in done {
            self.bytes -= self.files.remove(&(level, span)).unwrap_or(0);
            remove(&self.folder.join(name(level, span)))?;
        }
        Ok(())
    }
}

fn make(folder: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("create", folder, e)),
        _ => Ok(()),
    }
}

fn name(level: Level, span: Span) -> String {
    format!("{level}-{}", span.file_name())
}
