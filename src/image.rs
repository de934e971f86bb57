//! A whole database read as SQLite's own reader would, by hand on a handle of the base VFS: SHARED, a read
//! mark, pages by the wal-index, else from the file.
//!
//! No SQL connection of ours: none needs a key, runs the host's auto-extensions on our thread, or closes last
//! past the Gate. Order of release: the mark, `xShmUnmap`, only then SHARED; the other order has cost committed rows.

use crate::base::{BaseFile, Lock, Region};
use crate::error::{Error, Result};
use crate::limits;
use crate::page::{PageSize, Pgno};
use crate::reader::{open_wal, suffixed};
use crate::spool::{End, Stat, header_hash, random, sync_beside};
use crate::threads::Threads;
use crate::wal::{Cursor, FRAME_HEADER_BYTES, Salt, frame_offset};
use crate::walindex::{IndexHeader, READ0, READERS, backfill, mark_offset, pages_of, pgno_place, read_mark};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tries to take a read mark before the image is left for later.
const MARK_TRIES: usize = 16;
/// A file written within this time may be written again without its time changing.
const TICK: Duration = Duration::from_millis(10);

/// What every database begins with.
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How the pages of an image are protected while they are read.
enum Guard {
    /// SHARED and a read mark: slot, and the wal-index that it is in.
    Mark(u8),
    /// SHARED only: the database was closed, nobody has the wal-index.
    Closed(Stat),
}

/// A committed state of a database, held still while it is read.
pub struct Snapshot<'a> {
    base: &'a dyn BaseFile,
    path: PathBuf,
    guard: Guard,
    wal: Option<File>,
    wal_path: PathBuf,
    frames: HashMap<Pgno, u32>,
    /// Where it stands.
    pub cursor: Cursor,
    /// Database size in pages.
    pub commit: u32,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Where no WAL holds anything: the file as it is, an End of its own.
    pub end: Option<End>,
}

/// What a database's header says, read without a lock of its own.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Size of the pages.
    pub page_size: PageSize,
    /// Database size in pages.
    pub commit: u32,
    /// Journal mode WAL.
    pub wal: bool,
    /// What rollback modes compare.
    pub hash: u64,
}

/// Reads the header; `None` for a file without one (a new database).
pub fn header(base: &dyn BaseFile, path: &Path) -> Result<Option<Header>> {
    let mut raw = [0u8; 100];
    match base.read_at(&mut raw, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    }
    // A first transaction that is not committed, or a backup that is not complete.
    if raw == [0u8; 100] {
        return Ok(None);
    }
    if !raw.starts_with(MAGIC) {
        return Err(Error::Corrupt(format!(
            "{}: its first page is no SQLite header (a VFS above `litestream` encrypts it?): such pages cannot be replicated, and nothing is stored; give replica=off",
            path.display()
        )));
    }
    let page_size = PageSize::from_header([raw[16], raw[17]]).map_err(|e| e.about(path))?;
    let commit = u32::from_be_bytes(raw[28..32].try_into().expect("four bytes of a longer array"));
    let by_size = base.size().map_err(|e| Error::io("stat", path, e))? / u64::from(page_size.get());
    let commit = if commit == 0 { by_size as u32 } else { commit };
    Ok(Some(Header { page_size, commit, wal: raw[18] == 2 && raw[19] == 2, hash: header_hash(&raw) }))
}

/// Images after which continuity is lost at once are made ever more seldom: whatever goes on there, it must not fill
/// the store.
#[derive(Default)]
pub(crate) struct Pace {
    in_vain: u32,
    began: Option<Instant>,
    took: Duration,
}

impl Pace {
    /// Everything is stored: continuity holds.
    pub(crate) fn settled(&mut self) {
        self.in_vain = 0;
    }

    /// How long the next image has to wait: not at all, unless the last one was in vain.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let pause = limits::IMAGE_PAUSE.0.saturating_mul(1 << self.in_vain.min(16)).min(limits::IMAGE_PAUSE.1);
        let over = self.began? + self.took + pause.max(self.took);
        (self.in_vain > 0 && now < over).then(|| over - now)
    }

    /// So often sent away by connections that close: the next image stays to its end.
    pub(crate) fn insists(&self) -> bool {
        self.in_vain >= limits::IMAGES_IN_VAIN
    }

    /// An image begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.in_vain += 1;
        (self.began, self.took) = (Some(now), Duration::ZERO);
    }

    /// It was made.
    pub(crate) fn end(&mut self, now: Instant) {
        self.took = self.began.map_or(Duration::ZERO, |began| now - began);
    }
}

impl<'a> Snapshot<'a> {
    /// Holds a database in WAL mode still. `None` where it is busy: later.
    pub fn begin(base: &'a dyn BaseFile, path: &Path, wal_path: &Path) -> Result<Option<Snapshot<'a>>> {
        let failed = |e| Error::io("lock", path, e);
        if !base.lock(Lock::Shared).map_err(failed)? {
            return Ok(None);
        }
        let begun = Snapshot::under_shared(base, path, wal_path);
        // -wal and -shm were found by name: a file deleted meanwhile may have left them to the next one of its name.
        if matches!(begun, Ok(Some(_))) && base.has_moved().map_err(|e| Error::io("stat", path, e))? {
            return Ok(None); // what was begun gives its locks back
        }
        if !matches!(begun, Ok(Some(_))) {
            let _ = base.unlock(Lock::None); // nothing to do about a lock that cannot be given back
        }
        begun
    }

    fn under_shared(base: &'a dyn BaseFile, path: &Path, wal_path: &Path) -> Result<Option<Snapshot<'a>>> {
        let shm_is_there = std::fs::metadata(shm_path(path)).is_ok_and(|meta| meta.len() > 3);
        if shm_is_there && let Some(region) = base.shm_map(0, false).map_err(|e| Error::io("map", path, e))? {
            let marked = Snapshot::at_mark(base, path, wal_path, &region);
            if !matches!(marked, Ok(Some(_))) {
                let _ = base.shm_unmap(); // nothing to do about it
            }
            return marked;
        }
        Snapshot::closed(base, path, wal_path)
    }

    /// As walTryBeginRead: a mark at mxFrame, or READ0 where the file holds everything.
    fn at_mark(
        base: &'a dyn BaseFile,
        path: &Path,
        wal_path: &Path,
        region: &Arc<dyn Region>,
    ) -> Result<Option<Snapshot<'a>>> {
        let failed = |e| Error::io("lock", path, e);
        for _ in 0..MARK_TRIES {
            let Some(header) = IndexHeader::look(&**region) else { return Ok(None) };
            let Some(reader) = choose_mark(base, &**region, header.mx_frame).map_err(failed)? else { continue };
            base.shm_barrier();
            let unmoved = reader == 0 || read_mark(&**region, reader) == header.mx_frame;
            let complete = reader != 0 || backfill(&**region) == header.mx_frame;
            if !unmoved || !complete || IndexHeader::look(&**region) != Some(header) {
                base.shm_unlock(READ0 + reader, 1, false).map_err(failed)?;
                continue;
            }
            let snapshot = Snapshot::of_header(base, path, wal_path, region, &header, reader);
            if !matches!(snapshot, Ok(Some(_))) {
                base.shm_unlock(READ0 + reader, 1, false).map_err(failed)?;
            }
            return snapshot;
        }
        Ok(None)
    }

    fn of_header(
        base: &'a dyn BaseFile,
        path: &Path,
        wal_path: &Path,
        region: &Arc<dyn Region>,
        index: &IndexHeader,
        reader: u8,
    ) -> Result<Option<Snapshot<'a>>> {
        let Some(file) = header(base, path)? else { return Ok(None) };
        let stat = Stat::of(path)?.ok_or_else(|| Error::State(format!("{} is gone", path.display())))?;
        let mut snapshot = Snapshot {
            base,
            path: path.to_path_buf(),
            guard: Guard::Mark(reader),
            wal: None,
            wal_path: wal_path.to_path_buf(),
            frames: HashMap::new(),
            cursor: Cursor::start(Salt(random().to_be_bytes())),
            commit: file.commit,
            page_size: file.page_size,
            end: None,
        };
        match index.cursor() {
            Some(cursor) => {
                snapshot.cursor = cursor;
                snapshot.commit = index.pages;
                snapshot.page_size = index.page_size.unwrap_or(file.page_size);
            }
            // The file alone is the database: a copy that is being put over it must show.
            None if recent(&stat) => return Ok(None),
            None => {
                snapshot.end = Some(End {
                    cursor: snapshot.cursor,
                    commit: snapshot.commit,
                    change: index.change,
                    stat,
                    header: file.hash,
                });
            }
        }
        if reader == 0 || index.mx_frame == 0 {
            return Ok(Some(snapshot));
        }
        let Some((wal, wal_header)) = open_wal(wal_path)? else { return Ok(None) };
        if wal_header.salt != index.salt {
            return Ok(None);
        }
        let last_block = pgno_place(index.mx_frame).0;
        let mut regions = vec![Some(Arc::clone(region))];
        for block in 1..=last_block {
            let Some(mapped) = base.shm_map(block, false).map_err(|e| Error::io("map", path, e))? else {
                return Ok(None);
            };
            regions.push(Some(mapped));
        }
        for (index, pgno) in pages_of(&regions, 0, index.mx_frame).into_iter().enumerate() {
            snapshot.frames.insert(pgno, index as u32 + 1);
        }
        snapshot.wal = Some(wal);
        Ok(Some(snapshot))
    }

    /// Nobody has the wal-index: the file alone is the database, unless a WAL or a journal waits for recovery.
    fn closed(base: &'a dyn BaseFile, path: &Path, wal_path: &Path) -> Result<Option<Snapshot<'a>>> {
        let waits = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
        let Some(stat) = Stat::of(path)? else { return Ok(None) };
        if waits(wal_path) || journal_is_hot(path) || recent(&stat) {
            return Ok(None);
        }
        let Some(file) = header(base, path)? else { return Ok(None) };
        let cursor = Cursor::start(Salt(random().to_be_bytes()));
        let end = End { cursor, commit: file.commit, change: 0, stat, header: file.hash };
        Ok(Some(Snapshot {
            base,
            path: path.to_path_buf(),
            guard: Guard::Closed(stat),
            wal: None,
            wal_path: wal_path.to_path_buf(),
            frames: HashMap::new(),
            cursor,
            commit: file.commit,
            page_size: file.page_size,
            end: Some(end),
        }))
    }

    /// Reads one page as it is in this state; what lies beyond the file is zero.
    pub fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        if let (Some(frame), Some(wal)) = (self.frames.get(&pgno), &self.wal) {
            let at = frame_offset(self.page_size, *frame) + FRAME_HEADER_BYTES as u64;
            return wal.read_exact_at(page, at).map_err(|e| Error::io("read", &self.wal_path, e));
        }
        read_page((self.base, &self.path), self.page_size, pgno, page)
    }

    /// What is stored must be a part of what a loss of power would leave here: the WAL, the file, and their names.
    pub fn make_durable(&self, path: &Path) -> Result<()> {
        if let Some(wal) = &self.wal {
            wal.sync_data().map_err(|e| Error::io("sync", &self.wal_path, e))?;
        }
        self.base.sync().map_err(|e| Error::io("sync", path, e))?;
        sync_beside(path)
    }

    /// After the last page: was it held still all the time?
    pub fn held(&self, path: &Path) -> Result<bool> {
        match self.guard {
            Guard::Mark(_) => Ok(true),
            Guard::Closed(stat) => Ok(Stat::of(path)? == Some(stat)),
        }
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // Errors while giving locks back have no remedy; the handle's close releases them too.
        if let Guard::Mark(reader) = self.guard {
            let _ = self.base.shm_unlock(READ0 + reader, 1, false);
            let _ = self.base.shm_unmap();
        }
        let _ = self.base.unlock(Lock::None);
    }
}

/// Reads a page of the database file; what lies beyond its end is zero.
pub fn read_page((base, path): (&dyn BaseFile, &Path), page_size: PageSize, pgno: Pgno, page: &mut [u8]) -> Result<()> {
    match base.read_at(page, page_size.offset(pgno)) {
        Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Err(Error::io("read", path, e)),
        _ => Ok(()),
    }
}

/// Takes a read lock: READ0 where everything is in the file, else a slot whose mark is (made) mxFrame.
fn choose_mark(base: &dyn BaseFile, region: &dyn Region, mx_frame: u32) -> std::io::Result<Option<u8>> {
    if backfill(region) == mx_frame && base.shm_lock(READ0, 1, false)? {
        return Ok(Some(0));
    }
    if mx_frame == 0 {
        return Ok(None);
    }
    for reader in 1..READERS {
        if read_mark(region, reader) != mx_frame {
            if !base.shm_lock(READ0 + reader, 1, true)? {
                continue;
            }
            region.store_u32(mark_offset(reader), mx_frame);
            base.shm_unlock(READ0 + reader, 1, true)?;
        }
        if base.shm_lock(READ0 + reader, 1, false)? {
            return Ok(Some(reader));
        }
    }
    Ok(None)
}

/// Was it written so lately that what is written next may leave its time as it is?
pub(crate) fn recent(stat: &Stat) -> bool {
    let now = crate::clock::Time::now().0.saturating_mul(1_000_000);
    now.abs_diff(stat.modified) < TICK.as_nanos() as u64
}

/// Lets the tick pass in which a file was written, so that whoever writes to it past SQLite (a copy put over it) from
/// now on is seen by its time. On a thread of ours, and before anything is locked.
pub(crate) fn let_tick_pass(path: &Path, threads: &dyn Threads) -> Result<()> {
    if Stat::of(path)?.is_some_and(|stat| recent(&stat)) {
        threads.pause(TICK);
    }
    Ok(())
}

/// True where no wal-index stands beside the database.
pub(crate) fn shm_is_gone(database: &Path) -> bool {
    std::fs::metadata(shm_path(database)).is_err()
}

pub(crate) fn shm_path(database: &Path) -> std::path::PathBuf {
    suffixed(database, "-shm")
}

/// The rollback journal of a database.
pub fn journal_path(database: &Path) -> std::path::PathBuf {
    suffixed(database, "-journal")
}

/// A journal with something in it: a transaction that is being written, or one that has to be rolled back.
pub fn journal_is_hot(database: &Path) -> bool {
    let mut first = [0u8; 8];
    let Ok(file) = File::open(journal_path(database)) else { return false };
    file.read_exact_at(&mut first, 0).is_ok() && first != [0u8; 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: a storm of images dies down, and a single one never waits. Method: images in vain on an imagined clock.
    #[test]
    fn images_in_vain_become_seldom() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace.wait(now), None, "the first one");
        let (mut images, start) = (0, now);
        while now - start < Duration::from_secs(600) {
            match pace.wait(now) {
                Some(pause) => now += pause,
                None => {
                    pace.begin(now);
                    now += Duration::from_millis(10);
                    pace.end(now);
                    images += 1;
                }
            }
        }
        assert!((1000..1300).contains(&images), "{images} in ten minutes");
        pace.settled();
        assert_eq!(pace.wait(now), None, "after continuity held");
    }
}
