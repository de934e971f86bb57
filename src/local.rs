//! A database that nobody else uses, page by page as SQLite would recover it: the committed frames of its WAL, else
//! its file. For comparisons with what a replica holds.
//!
//! The caller holds EXCLUSIVE on the handle. Reads only; what follows from a comparison is decided elsewhere.

use crate::base::BaseFile;
use crate::capture::{self, ChainEnd};
use crate::error::{Error, Result};
use crate::image::journal_is_hot;
use crate::image::{self, Header, read_page};
use crate::ltx::Decoder;
use crate::page::{PageSize, Pgno};
use crate::reader::{self, Pending, Place, Start, Target, WalFile, Walk};
use crate::spool::Links;
use crate::store::{FileInfo, Store};
use crate::wal::Cursor;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The database.
pub(crate) struct Local<'a> {
    base: &'a dyn BaseFile,
    path: PathBuf,
    frames: Option<(Pending, HashMap<Pgno, Place>)>,
    /// What the file's own header says.
    pub(crate) header: Header,
    /// The WAL's last commit, where it holds any.
    pub(crate) newest: Option<Target>,
}

impl<'a> Local<'a> {
    /// `None` where it is no database, or where a journal has to be rolled back first.
    pub(crate) fn open(base: &'a dyn BaseFile, path: &Path, wal: &Path) -> Result<Option<Local<'a>>> {
        let Some(header) = image::header(base, path)? else { return Ok(None) };
        if journal_is_hot(path) {
            return Ok(None);
        }
        let mut local = Local { base, path: path.to_path_buf(), frames: None, header, newest: None };
        let Some((file, wal_header)) = reader::open_wal(wal)? else { return Ok(Some(local)) };
        let Some(ChainEnd { cursor, commit, page_size, .. }) =
            capture::chain(&WalFile(file), None).map_err(|e| e.about(wal))?
        else {
            return Ok(Some(local));
        };
        let target = Target { cursor, commit, page_size };
        let start = Start::Stored { cursor: Cursor::start(wal_header.salt), commit: 0, page_size };
        match reader::walk(start, &mut Vec::new(), &Links::default(), Some(&target), wal)? {
            Some(Walk::Reached(pending)) if pending.to.same_point(&cursor) => {
                let places = pending.pages.iter().copied().collect();
                local.frames = Some((pending, places));
                local.newest = Some(target);
                Ok(Some(local))
            }
            _ => Ok(None),
        }
    }

    /// Size of the pages.
    pub(crate) fn page_size(&self) -> PageSize {
        self.newest.map_or(self.header.page_size, |newest| newest.page_size)
    }

    /// Database size in pages.
    pub(crate) fn commit(&self) -> u32 {
        self.newest.map_or(self.header.commit, |newest| newest.commit)
    }

    /// Reads one page.
    fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        if let Some((pending, places)) = &self.frames
            && let Some(place) = places.get(&pgno)
            && pending.read(*place, page)?
        {
            return Ok(());
        }
        read_page((self.base, &self.path), self.page_size(), pgno, page)
    }

    /// True where a file of the replica holds no page that is another one here: what a database at that file's last
    /// transaction must fulfil, found out at the price of one file.
    pub(crate) fn agrees(&self, store: &Store, file: &FileInfo) -> Result<bool> {
        let mut decoder = Decoder::new(store.stream(file)?)?;
        if decoder.header().page_size != self.page_size() || decoder.header().commit != self.commit() {
            return Ok(false);
        }
        let (mut theirs, mut ours) = (Vec::new(), vec![0u8; self.page_size().bytes()]);
        while let Some(pgno) = decoder.next_page(&mut theirs)? {
            self.read(pgno, &mut ours)?;
            if ours != theirs {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True where a restored database is this one, page for page.
    pub(crate) fn is(&self, restored: &Path) -> Result<bool> {
        let io = |e| Error::io("read", restored, e);
        let file = File::open(restored).map_err(io)?;
        let page_size = self.page_size();
        let size = u64::from(self.commit()) * u64::from(page_size.get());
        if file.metadata().map_err(io)?.len() != size {
            return Ok(false);
        }
        let (mut theirs, mut ours) = (vec![0u8; page_size.bytes()], vec![0u8; page_size.bytes()]);
        for pgno in (1..=self.commit()).map(Pgno).filter(|pgno| *pgno != page_size.lock_page()) {
            file.read_exact_at(&mut theirs, page_size.offset(pgno)).map_err(io)?;
            self.read(pgno, &mut ours)?;
            if ours != theirs {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
