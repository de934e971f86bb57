//! What a step writes into the copy: the newest contents of pages in a scratch file, and the size afterwards.

use super::copy::LocalCopy;
use crate::error::{Error, Result};
use crate::ltx::{Decoder, FileInfo, Txid};
use crate::page::{PageSize, Pgno};
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Pages and where their new contents are.
pub struct Change {
    /// The transaction that it leads to.
    pub txid: Txid,
    pub(super) page_size: PageSize,
    /// Pages of the database afterwards.
    pub(super) commit: u32,
    /// Page to its place in the scratch file.
    pub(super) pages: BTreeMap<Pgno, u64>,
    scratch: File,
    /// Where that is, or was, for who reads an error about it.
    at: PathBuf,
}

/// What fetching files came to.
pub enum Fetched {
    /// All of them, as one change.
    Whole(Change),
    /// Their pages have another size than the copy's.
    Resized,
    /// This file is damaged, in this way.
    Damaged(FileInfo, Error),
}

impl Change {
    /// Fetches files, oldest first, and keeps the newest copy of each page. Every file is proved to its end before this
    /// returns. `beside` names the scratch file, which has no name by the time that something is in it.
    pub fn of_files(store: &Store, files: &[FileInfo], page_size: PageSize, beside: &Path) -> Result<Fetched> {
        let newest = files.last().ok_or_else(|| Error::State("a step without files".into()))?;
        let (scratch, at) = (scratch(beside)?, beside.to_path_buf());
        let mut change =
            Change { txid: newest.span.max, page_size, commit: u32::MAX, pages: BTreeMap::new(), scratch, at };
        let mut end = 0;
        for (n, file) in files.iter().rev().enumerate() {
            match change.add(store, file, n == 0, &mut end) {
                Ok(true) => {}
                Ok(false) => return Ok(Fetched::Resized),
                Err(e @ Error::Corrupt(_)) => return Ok(Fetched::Damaged(file.clone(), e.about(file.name()))),
                Err(e) => return Err(e),
            }
        }
        Ok(Fetched::Whole(change))
    }

    /// Adds what no newer file has; `false` where the pages have another size.
    fn add(&mut self, store: &Store, file: &FileInfo, is_newest: bool, end: &mut u64) -> Result<bool> {
        let mut decoder = Decoder::new(store.stream(file)?)?;
        let header = *decoder.header();
        if header.span != file.span {
            return Err(Error::Corrupt(format!("its header is that of {}", header.span.file_name())));
        }
        if header.page_size != self.page_size {
            return Ok(false);
        }
        if is_newest {
            self.commit = header.commit;
        }
        let mut page = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            if pgno.0 <= self.commit && !self.pages.contains_key(&pgno) {
                self.scratch.write_all_at(&page, *end).map_err(|e| Error::io("write", &self.at, e))?;
                self.pages.insert(pgno, *end);
                *end += page.len() as u64;
            }
        }
        decoder.finish().map(|_| true)
    }

    /// A whole database that was restored to `path`, as the pages in which it differs from a copy. The file at `path`
    /// loses its name.
    pub fn of_database(path: &Path, txid: Txid, page_size: PageSize, copy: &LocalCopy) -> Result<Change> {
        let current = copy.file();
        let scratch = File::open(path).map_err(|e| Error::io("open", path, e))?;
        std::fs::remove_file(path).map_err(|e| Error::io("unlink", path, e))?;
        let length =
            |file: &File, path| file.metadata().map(|about| about.len()).map_err(|e| Error::io("stat", path, e));
        let (size, before) = (length(&scratch, path)?, length(current, copy.path())?);
        let commit = u32::try_from(size / u64::from(page_size.get()));
        let commit = commit.map_err(|_| Error::Corrupt(format!("{}: {size} bytes are no database", path.display())))?;
        let (mut new, mut old) = (vec![0; page_size.bytes()], vec![0; page_size.bytes()]);
        let mut pages = BTreeMap::new();
        for pgno in (1..=commit).map(Pgno).filter(|pgno| *pgno != page_size.lock_page()) {
            let at = page_size.offset(pgno);
            scratch.read_exact_at(&mut new, at).map_err(|e| Error::io("read", path, e))?;
            let there = at + new.len() as u64 <= before;
            if there {
                current.read_exact_at(&mut old, at).map_err(|e| Error::io("read", copy.path(), e))?;
            }
            if !there || old != new {
                pages.insert(pgno, at);
            }
        }
        Ok(Change { txid, page_size, commit, pages, scratch, at: path.to_path_buf() })
    }

    /// The new contents of a page; false where it does not change.
    pub(super) fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<bool> {
        let Some(at) = self.pages.get(&pgno) else { return Ok(false) };
        self.scratch.read_exact_at(page, *at).map_err(|e| Error::io("read", &self.at, e))?;
        Ok(true)
    }
}

fn scratch(beside: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(beside);
    let file = opened.map_err(|e| Error::io("create", beside, e))?;
    std::fs::remove_file(beside).map_err(|e| Error::io("unlink", beside, e))?;
    Ok(file)
}
