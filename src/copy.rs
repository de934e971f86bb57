//! The image of a database in a rollback-journal mode: copied into the Spool in short slices, because a
//! reader's SHARED blocks commits there. What commits in between is patched in from its Segments.

use crate::base::{BaseFile, Lock};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::image::{self, Header, header, journal_is_hot, journal_path, read_page};
use crate::limits;
use crate::link;
use crate::page::{PageSize, Pgno};
use crate::reader::{self, Start, Walk};
use crate::spool::{End, Segment, Stat, State, random, sync_beside};
use crate::wal::{Cursor, Salt};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A copy that is being made. Its file goes with it.
pub(crate) struct Copying {
    file: File,
    path: PathBuf,
    /// The header that the copy agrees with, and the file when that was read.
    hash: u64,
    stat: Stat,
    next: Pgno,
    /// Segments read and not taken in yet.
    segments: Vec<Segment>,
    /// Those that are in the copy.
    patched: HashSet<PathBuf>,
    /// What the copy is the image at, once it is complete.
    pub(crate) cursor: Cursor,
    /// Database size in pages there.
    pub(crate) commit: u32,
    /// Size of the pages.
    pub(crate) page_size: PageSize,
}

/// How a slice ended.
pub(crate) enum Sliced {
    /// More pages wait.
    More,
    /// The copy is the image at its Cursor.
    Done,
    /// Begin anew: somebody wrote whom we did not see, or the database is busy.
    Again,
}

impl Copying {
    /// Begins: the Cursor of the image goes into `state`, so that commits from now on link to it. `None` where
    /// the database is busy.
    pub(crate) fn begin(db: &Db, base: &dyn BaseFile, state: &mut State) -> Result<Option<Copying>> {
        let Some(header) = still(db, base)? else { return Ok(None) };
        let begun = (|| {
            let stat = Stat::of(db.path())?.ok_or_else(|| Error::State(format!("{} is gone", db.path().display())))?;
            let links = db.spool().links()?;
            let known = link::newest_end(Some(state), &links).filter(|end| end.header == header.hash);
            if image::recent(&stat) && known.is_none_or(|end| end.stat != stat) {
                // Perhaps a copy that is being put over it, which would go on unseen within this tick.
                return Ok(None);
            }
            let known = known.map(|end| end.cursor);
            let cursor = known.unwrap_or_else(|| Cursor::start(Salt(random().to_be_bytes())));
            state.image = Some(cursor);
            state.end = Some(End { cursor, commit: header.commit, change: 0, stat, header: header.hash });
            state.end_after = links.newest();
            db.spool().set_state(state)?;
            let path = db.spool().temporary("copy");
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(|e| Error::io("create", &path, e))?;
            let Header { page_size, commit, hash, .. } = header;
            Ok(Some(Copying {
                file,
                path,
                hash,
                stat,
                next: Pgno(1),
                segments: Vec::new(),
                patched: HashSet::new(),
                cursor,
                commit,
                page_size,
            }))
        })();
        base.unlock(Lock::None).map_err(|e| Error::io("unlock", db.path(), e))?;
        begun
    }

    /// Copies pages under SHARED for a short time.
    pub(crate) fn slice(&mut self, db: &Db, base: &dyn BaseFile) -> Result<Sliced> {
        let Some(header) = still(db, base)? else { return Ok(Sliced::More) };
        let sliced = self.under_shared(db, base, &header);
        base.unlock(Lock::None).map_err(|e| Error::io("unlock", db.path(), e))?;
        sliced
    }

    fn under_shared(&mut self, db: &Db, base: &dyn BaseFile, header: &Header) -> Result<Sliced> {
        let Some(stat) = Stat::of(db.path())? else { return Ok(Sliced::Again) };
        let goes_on = if header.hash == self.hash {
            // Untouched: a copy of a file put over this one may have the very same header, and be half there.
            stat == self.stat
        } else {
            stat.inode == self.stat.inode && self.patch(db, header)?
        };
        if !goes_on {
            return Ok(Sliced::Again);
        }
        self.stat = stat;
        let sliced = self.pages(db, base)?;
        // Whoever wrote meanwhile does not know SQLite's locks.
        Ok(if Stat::of(db.path())? == Some(stat) { sliced } else { Sliced::Again })
    }

    fn pages(&mut self, db: &Db, base: &dyn BaseFile) -> Result<Sliced> {
        let began = Instant::now();
        let (mut page, mut pages) = (vec![0u8; self.page_size.bytes()], 0u32);
        while self.next.0 <= self.commit {
            let asked = db.turns.is_asked() || (pages.is_multiple_of(limits::PAGES_A_SLICE) && db.reader_is_asked());
            if pages > 0 && (asked || began.elapsed() > limits::SLICE) {
                return Ok(Sliced::More);
            }
            pages += 1;
            read_page((base, db.path()), self.page_size, self.next, &mut page)?;
            self.write(self.next, &page)?;
            self.next = Pgno(self.next.0 + 1);
        }
        Ok(Sliced::Done)
    }

    /// Takes in the transactions that committed since the last slice; `false` where one is not known.
    fn patch(&mut self, db: &Db, header: &Header) -> Result<bool> {
        if header.page_size != self.page_size {
            return Ok(false);
        }
        let start = Start::Stored { cursor: self.cursor, commit: self.commit, page_size: self.page_size };
        let links = db.spool().links()?;
        let known = links.newest_end().filter(|end| end.header == header.hash).map(|end| end.cursor);
        reader::refresh(db.spool(), &mut self.segments, &self.patched)?;
        let walked = reader::walk(start, &mut self.segments, &links, None, db.wal())?;
        let (Some(known), Some(Walk::Reached(pending))) = (known, walked) else { return Ok(false) };
        if !pending.to.same_point(&known) {
            return Ok(false);
        }
        let mut page = vec![0u8; self.page_size.bytes()];
        for (pgno, place) in &pending.pages {
            if !pending.read(*place, &mut page)? {
                return Ok(false);
            }
            self.write(*pgno, &page)?;
        }
        self.patched.extend(pending.segments.into_iter().map(|segment| segment.path));
        self.cursor = pending.to;
        self.commit = pending.commit;
        self.hash = header.hash;
        Ok(true)
    }

    fn write(&self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.file.write_all_at(page, self.page_size.offset(pgno)).map_err(|e| Error::io("write", &self.path, e))
    }

    /// The copy.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // what is left is swept at the next open
    }
}

/// SHARED, granted, with nothing half-written below it; the header as it is then.
fn still(db: &Db, base: &dyn BaseFile) -> Result<Option<Header>> {
    let failed = |e| Error::io("lock", db.path(), e);
    if !base.lock(Lock::Shared).map_err(failed)? {
        return Ok(None);
    }
    match header(base, db.path()) {
        Ok(Some(header)) if !journal_is_hot(db.path()) => Ok(Some(header)),
        other => {
            base.unlock(Lock::None).map_err(failed)?;
            other.map(|_| None)
        }
    }
}

/// Before anything of a rollback-journal transaction may be in the store: the file, and the end of its journal, which
/// SQLite does not sync. A journal that comes back after a loss of power would undo here what the store has.
pub(crate) fn make_durable(db: &Db) -> Result<()> {
    let base = db.base().open_database(db.path(), false).map_err(|e| Error::io("open", db.path(), e))?;
    base.sync().map_err(|e| Error::io("sync", db.path(), e))?;
    drop(base);
    let journal = journal_path(db.path());
    match File::open(&journal).and_then(|file| file.sync_data()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("sync", &journal, e)),
        _ => {}
    }
    sync_beside(db.path())
}
