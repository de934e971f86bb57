//! Commits in a WAL that no connection of this process has read: of processes that go on beside it, or that died. Read by
//! hand on a handle of the base VFS, as SQLite would: by the wal-index, and where that waits for a recovery, by what the
//! recovery would find.

use crate::base::{BaseFile, Lock};
use crate::capture;
use crate::error::{Error, Result};
use crate::image::shm_path;
use crate::reader::{Target, WalFile, open_wal};
use crate::walindex::{IndexHeader, WRITE};
use std::path::Path;

/// What a WAL holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Nothing: the file alone is the database.
    Nothing,
    /// Commits up to here.
    Commits(Target),
    /// Somebody has the database for himself, or is about to recover it.
    Busy,
}

/// Looks at the WAL of a database whose mode is WAL, under SHARED.
pub(crate) fn look(base: &dyn BaseFile, path: &Path, wal_path: &Path) -> Result<Unread> {
    if std::fs::metadata(wal_path).is_ok_and(|meta| meta.len() == 0) || open_wal(wal_path)?.is_none() {
        return Ok(Unread::Nothing);
    }
    let failed = |e| Error::io("lock", path, e);
    if !base.lock(Lock::Shared).map_err(failed)? {
        return Ok(Unread::Busy);
    }
    let found = under_shared(base, path, wal_path);
    let _ = base.shm_unmap(); // it was only read
    base.unlock(Lock::None).map_err(failed)?;
    found
}

fn under_shared(base: &dyn BaseFile, path: &Path, wal_path: &Path) -> Result<Unread> {
    let shm = shm_path(path);
    let failed = |e| Error::io("lock", &shm, e);
    let Some(region) = base.shm_map(0, true).map_err(|e| Error::io("map", &shm, e))? else { return Ok(Unread::Busy) };
    if let Some(header) = IndexHeader::look(&*region) {
        return Ok(of_header(&header));
    }
    // As a recovery: nobody writes the WAL meanwhile, and readers ask again.
    if !base.shm_lock(WRITE, 1, true).map_err(failed)? {
        return Ok(Unread::Busy);
    }
    let found = match IndexHeader::look(&*region) {
        Some(header) => Ok(of_header(&header)),
        None => recovered(wal_path),
    };
    base.shm_unlock(WRITE, 1, true).map_err(failed)?;
    found
}

fn of_header(header: &IndexHeader) -> Unread {
    match (header.cursor(), header.page_size) {
        (Some(cursor), Some(page_size)) => Unread::Commits(Target { cursor, commit: header.pages, page_size }),
        _ => Unread::Nothing,
    }
}

/// What SQLite's recovery would find; the caller holds the lock that it would take.
fn recovered(wal_path: &Path) -> Result<Unread> {
    let Some((file, _)) = open_wal(wal_path)? else { return Ok(Unread::Nothing) };
    let end = capture::chain(&WalFile(file), None).map_err(|e| e.about(wal_path))?;
    Ok(end.map_or(Unread::Nothing, |end| {
        Unread::Commits(Target { cursor: end.cursor, commit: end.commit, page_size: end.page_size })
    }))
}
