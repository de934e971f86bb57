//! What a step writes into the copy: the newest contents of pages in a scratch file, and the size afterwards.

use crate::error::{Error, Result};
use crate::ltx::{Decoder, FileInfo, Txid};
use crate::page::{PageSize, Pgno};
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

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
}

impl Change {
    /// Fetches files, oldest first, and keeps the newest copy of each page. Every file is proved to its end before this
    /// returns. `None` where their pages have another size than the copy's. `beside` names the scratch file, which has
    /// no name by the time that something is in it.
    pub fn of_files(store: &Store, files: &[FileInfo], page_size: PageSize, beside: &Path) -> Result<Option<Change>> {
        let scratch = scratch(beside)?;
        let newest = files.last().ok_or_else(|| Error::State("a step without files".into()))?;
        let mut pages = BTreeMap::new();
        let mut end = 0;
        let mut commit = None;
        for file in files.iter().rev() {
            let mut decoder = Decoder::new(store.stream(file)?)?;
            let header = *decoder.header();
            if header.span != file.span {
                return Err(Error::Corrupt(format!("{}: its header is another file's", file.span.file_name())));
            }
            if header.page_size != page_size {
                return Ok(None);
            }
            let commit = *commit.get_or_insert(header.commit);
            let mut page = Vec::new();
            while let Some(pgno) = decoder.next_page(&mut page)? {
                if pgno.0 <= commit && !pages.contains_key(&pgno) {
                    scratch.write_all_at(&page, end).map_err(|e| Error::io("write", beside, e))?;
                    pages.insert(pgno, end);
                    end += page.len() as u64;
                }
            }
            decoder.finish()?;
        }
        let commit = commit.expect("there was a file");
        Ok(Some(Change { txid: newest.span.max, page_size, commit, pages, scratch }))
    }

    /// A whole database that was restored to `path`, as the pages in which it differs from `current`. The file at `path`
    /// loses its name.
    pub fn of_database(path: &Path, txid: Txid, page_size: PageSize, current: &File) -> Result<Change> {
        let scratch = File::open(path).map_err(|e| Error::io("open", path, e))?;
        std::fs::remove_file(path).map_err(|e| Error::io("unlink", path, e))?;
        let length = |file: &File| file.metadata().map(|about| about.len()).map_err(|e| Error::io("stat", path, e));
        let (size, before) = (length(&scratch)?, length(current)?);
        let commit = u32::try_from(size / u64::from(page_size.get()));
        let commit = commit.map_err(|_| Error::Corrupt(format!("{}: {size} bytes are no database", path.display())))?;
        let (mut new, mut old) = (vec![0; page_size.bytes()], vec![0; page_size.bytes()]);
        let mut pages = BTreeMap::new();
        for pgno in (1..=commit).map(Pgno).filter(|pgno| *pgno != page_size.lock_page()) {
            let at = page_size.offset(pgno);
            scratch.read_exact_at(&mut new, at).map_err(|e| Error::io("read", path, e))?;
            let there = at + new.len() as u64 <= before;
            if there {
                current.read_exact_at(&mut old, at).map_err(|e| Error::io("read", "the copy", e))?;
            }
            if !there || old != new {
                pages.insert(pgno, at);
            }
        }
        Ok(Change { txid, page_size, commit, pages, scratch })
    }

    /// The new contents of a page; false where it does not change.
    pub(super) fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<bool> {
        let Some(at) = self.pages.get(&pgno) else { return Ok(false) };
        self.scratch.read_exact_at(page, *at).map_err(|e| Error::io("read", "the scratch file of a step", e))?;
        Ok(true)
    }
}

fn scratch(beside: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(beside);
    let file = opened.map_err(|e| Error::io("create", beside, e))?;
    std::fs::remove_file(beside).map_err(|e| Error::io("unlink", beside, e))?;
    Ok(file)
}
