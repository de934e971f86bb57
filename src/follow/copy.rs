//! The copy itself: a database in rollback-journal mode whose header says which transaction it is at.
//!
//! Its change counter is the low half of the Txid: it moves with every step, so that readers drop what they cached. The
//! version that every writing SQLite leaves in the header is one that none leaves, so that a foreign write shows. The
//! file is opened once and kept: closing any descriptor would drop the locks of the SQLite that the caller holds.

use super::change::Change;
use super::journal;
use crate::error::{Error, Result};
use crate::image::MAGIC;
use crate::ltx::Txid;
use crate::names::sync_folder;
use crate::page::{PageSize, Pgno};
use crate::reader::suffixed;
use crate::spool::random;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a database header.
const HEADER: usize = 100;
/// Stands where a SQLite that writes puts its version number; none that can be met today has this one.
const NOBODY: [u8; 4] = 3_007_000_u32.to_be_bytes();

/// A copy that is followed.
pub struct LocalCopy {
    file: File,
    path: PathBuf,
}

/// Makes a restored database, which nobody has opened yet, a copy at `txid`.
pub fn prepare(path: &Path, txid: Txid) -> Result<()> {
    let copy = LocalCopy::open(path)?;
    let page_size = copy.page_size()?;
    let mut first = vec![0u8; page_size.bytes()];
    copy.read(&mut first, 0)?;
    let commit = copy.size()? / u64::from(page_size.get());
    mark(&mut first, txid, commit as u32);
    copy.file.write_all_at(&first, 0).map_err(|e| Error::io("write", path, e))?;
    copy.file.sync_all().map_err(|e| Error::io("sync", path, e))
}

impl LocalCopy {
    /// Opens it; it must be a plain database.
    pub fn open(path: &Path) -> Result<LocalCopy> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io("open", path, e))?;
        let copy = LocalCopy { file, path: path.to_path_buf() };
        copy.page_size()?;
        Ok(copy)
    }

    /// The file, for comparisons. Not to be closed before the last lock is given back.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the pages, by the header.
    pub fn page_size(&self) -> Result<PageSize> {
        let header = self.header()?;
        PageSize::from_header([header[16], header[17]]).map_err(|e| e.about(&self.path))
    }

    /// The transaction that it is at, given one that it is not behind: a sidecar may be older than the file.
    pub fn txid(&self, at_least: Txid) -> Result<Txid> {
        let header = self.header()?;
        if header[18] != 1 || header[19] != 1 || header[96..100] != NOBODY {
            return Err(Error::State(format!(
                "{} was written by somebody else than this program's -f; remove it and its -txid file to begin anew",
                self.path.display()
            )));
        }
        let counter = u32::from_be_bytes(header[24..28].try_into().expect("four bytes of a longer array"));
        let ahead = counter.wrapping_sub(at_least.0 as u32);
        Ok(Txid(at_least.0 + u64::from(ahead)))
    }

    /// Makes a change one transaction. `exclusive` runs what it is given while it holds SQLite's EXCLUSIVE lock on this
    /// file, and gives the lock back whatever comes of it.
    ///
    /// Where this fails after the first write, the journal stands, and the next SQLite that looks puts the pages back.
    pub fn apply(
        &self,
        change: &Change,
        exclusive: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let page_size = self.page_size()?;
        if page_size != change.page_size {
            return Err(Error::State(format!(
                "the pages of the replica have another size now than those of {}; remove the copy and its -txid file to begin anew",
                self.path.display()
            )));
        }
        let before = (self.size()? / u64::from(page_size.get())) as u32;
        let lock = page_size.lock_page();
        let grown = (before + 1..=change.commit).map(Pgno).filter(|pgno| *pgno != lock);
        if let Some(missing) = grown.into_iter().find(|pgno| !change.pages.contains_key(pgno)) {
            return Err(Error::Corrupt(format!(
                "the replica grows to {} pages at {}, but page {} is in none of the files: its writer left it out; {} stays as it is, look at the replica with `litestream-vfs verify`",
                change.commit,
                change.txid,
                missing.0,
                self.path.display()
            )));
        }
        let first = std::iter::once(Pgno(1));
        let changed = first.chain(change.pages.keys().copied().filter(|pgno| *pgno != Pgno(1) && pgno.0 <= before));
        let cut = (change.commit + 1..=before).map(Pgno).filter(|pgno| *pgno != lock);
        let mut old: Vec<Pgno> = changed.chain(cut).collect();
        old.dedup();
        let prepared = suffixed(&self.path, "-journal.next");
        journal::write(&prepared, (&self.file, &self.path), page_size, before, &old, random() as u32)?;
        let journal = suffixed(&self.path, "-journal");
        let folder = self.path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let mut write = || {
            std::fs::rename(&prepared, &journal).map_err(|e| Error::io("rename", &journal, e))?;
            sync_folder(folder)?;
            self.write(change, page_size)?;
            std::fs::remove_file(&journal).map_err(|e| Error::io("remove", &journal, e))?;
            sync_folder(folder)
        };
        let applied = exclusive(&mut write);
        if prepared.exists() {
            // Never used: the lock was not to be had.
            std::fs::remove_file(&prepared).map_err(|e| Error::io("remove", &prepared, e))?;
        }
        applied
    }

    fn write(&self, change: &Change, page_size: PageSize) -> Result<()> {
        let failed = |e| Error::io("write", &self.path, e);
        let mut page = vec![0u8; page_size.bytes()];
        if !change.read(Pgno(1), &mut page)? {
            self.read(&mut page, 0)?;
        }
        mark(&mut page, change.txid, change.commit);
        self.file.write_all_at(&page, 0).map_err(failed)?;
        for pgno in change.pages.keys().copied().filter(|pgno| *pgno != Pgno(1)) {
            change.read(pgno, &mut page)?;
            self.file.write_all_at(&page, page_size.offset(pgno)).map_err(failed)?;
        }
        let size = u64::from(change.commit) * u64::from(page_size.get());
        self.file.set_len(size).and_then(|()| self.file.sync_all()).map_err(failed)
    }

    fn size(&self) -> Result<u64> {
        self.file.metadata().map(|about| about.len()).map_err(|e| Error::io("stat", &self.path, e))
    }

    fn header(&self) -> Result<[u8; HEADER]> {
        let mut header = [0u8; HEADER];
        // A file that is shorter than a header is no database either.
        if self.size()? < HEADER as u64 || self.read(&mut header, 0).map(|()| &header[..16] != MAGIC)? {
            return Err(Error::State(format!(
                "{} is no database that can be followed (it may be encrypted)",
                self.path.display()
            )));
        }
        Ok(header)
    }

    fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(buf, at).map_err(|e| Error::io("read", &self.path, e))
    }
}

/// Page 1 of a copy: rollback-journal mode, the transaction as change counter, the size in pages, written by nobody.
fn mark(page: &mut [u8], txid: Txid, commit: u32) {
    page[18..20].fill(1);
    let counter = (txid.0 as u32).to_be_bytes();
    page[24..28].copy_from_slice(&counter);
    page[28..32].copy_from_slice(&commit.to_be_bytes());
    page[92..96].copy_from_slice(&counter);
    page[96..100].copy_from_slice(&NOBODY);
}
