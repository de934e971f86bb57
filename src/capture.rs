//! The Gate's work: what is committed in a WAL and not durable elsewhere becomes one Segment, each page once.
//!
//! Runs on the thread of whoever is about to reset the WAL, under SQLite's lock, so it does the least: no
//! sync, no network. It saves what it is told; when, and what the answer to SQLite is, `conn` decides.

use crate::base::ReadAt;
use crate::error::{Error, Result};
use crate::fault;
use crate::ltx::checksum::page;
use crate::page::{PageSize, Pgno};
use crate::spool::{Head, Spool};
use crate::wal::{
    Cursor, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Salt, WalHeader, frame_checksum, frame_offset,
};
use std::path::PathBuf;

/// Bytes of the WAL read at a time when its chain is followed.
const SCAN_BYTES: usize = 1 << 20;
/// Bytes of the WAL read at a time for a Segment, where its frames stand side by side.
const READ_BYTES: usize = 64 << 10;

/// A stretch of one life of a WAL that has to be saved.
pub struct Stretch {
    /// What is durable already.
    pub from: Cursor,
    /// The last commit.
    pub to: Cursor,
    /// What the life continues, where `from` is its start and it is known.
    pub follows: Option<Cursor>,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Database size in pages at `to`.
    pub commit: u32,
}

impl Stretch {
    /// Frames in it.
    pub fn frames(&self) -> u32 {
        self.to.frame - self.from.frame
    }
}

/// A Segment that was saved.
pub struct Saved {
    /// Its file.
    pub path: PathBuf,
    /// What it takes of the Spool's room.
    pub bytes: u64,
}

/// Saves a stretch as a Segment. `indexed` are its pages, frame by frame, as far as the wal-index at hand goes. `limit`
/// bounds the contents in bytes: beyond it only page numbers are saved, and the Leader reads the pages later. Errors about
/// the WAL do not name it.
pub fn save(spool: &Spool, stretch: &Stretch, indexed: &[Pgno], wal: &dyn ReadAt, limit: u64) -> Result<Saved> {
    let newest = newest_frames(stretch, indexed, wal)?;
    let contents = newest.len() as u64 * u64::from(stretch.page_size.get());
    let head = Head {
        from: stretch.from,
        to: stretch.to,
        follows: stretch.follows,
        page_size: stretch.page_size,
        commit: stretch.commit,
        without_contents: contents > limit,
        unlinked: false,
        after: None,
    };
    let (pages, frames): (Vec<Pgno>, Vec<u32>) = newest.into_iter().unzip();
    let mut frames = Frames::new(wal, stretch.page_size, &frames);
    let path = spool.save(&head, &pages, |pgno, page| {
        let (frame, raw) = frames.next()?;
        let header = FrameHeader::decode(raw);
        if header.pgno != pgno || header.salt != stretch.to.salt {
            return Err(Error::Corrupt(format!("frame {frame} of the WAL does not hold page {}", pgno.0)));
        }
        page.copy_from_slice(&raw[FRAME_HEADER_BYTES..]);
        frames.are_whole(stretch.to.salt)
    })?;
    Ok(Saved { path, bytes: if head.without_contents { 4 * pages.len() as u64 } else { contents } })
}

/// Frames of a WAL in a given order; those that stand side by side are read together.
struct Frames<'a> {
    wal: &'a dyn ReadAt,
    page_size: PageSize,
    /// Those that are still to come.
    order: &'a [u32],
    read: Vec<u8>,
    /// Bytes of `read` that were given out.
    given: usize,
}

impl<'a> Frames<'a> {
    fn new(wal: &'a dyn ReadAt, page_size: PageSize, order: &'a [u32]) -> Frames<'a> {
        Frames { wal, page_size, order, read: Vec::new(), given: 0 }
    }

    /// The next one's number, its header and its page.
    fn next(&mut self) -> Result<(u32, &[u8])> {
        let bytes = FRAME_HEADER_BYTES + self.page_size.bytes();
        let (&frame, after) = self.order.split_first().expect("one frame for each page");
        if self.given == self.read.len() {
            let side_by_side = self.order.iter().zip(frame..).take_while(|(one, expected)| **one == *expected).count();
            self.read.resize(bytes * side_by_side.min((READ_BYTES / bytes).max(1)), 0);
            self.given = 0;
            let at = frame_offset(self.page_size, frame);
            self.wal.read_at(&mut self.read, at).map_err(|e| Error::unnamed("read", e))?;
            fault::point("frames-read");
        }
        self.order = after;
        self.given += bytes;
        Ok((frame, &self.read[self.given - bytes..self.given]))
    }

    /// After the last one: a reset, which writes the WAL's header before any frame, has not come between.
    fn are_whole(&self, salt: Salt) -> Result<()> {
        if self.order.is_empty() && WalHeader::read(self.wal).is_none_or(|header| header.salt != salt) {
            return Err(Error::Corrupt("the WAL was reset while it was read".into()));
        }
        Ok(())
    }
}

/// The newest frame of each page in a stretch, ascending by frame; pages beyond the Commit are left out.
fn newest_frames(stretch: &Stretch, indexed: &[Pgno], wal: &dyn ReadAt) -> Result<Vec<(Pgno, u32)>> {
    let mut newest: Vec<(Pgno, u32)> = Vec::with_capacity(stretch.frames() as usize);
    let mut frame = stretch.from.frame;
    for pgno in indexed {
        frame += 1;
        newest.push((*pgno, frame));
    }
    // Blocks of the wal-index that were never mapped here: the frames name their pages themselves.
    let mut raw = [0u8; FRAME_HEADER_BYTES];
    while frame < stretch.to.frame {
        frame += 1;
        wal.read_at(&mut raw, frame_offset(stretch.page_size, frame)).map_err(|e| Error::unnamed("read", e))?;
        newest.push((FrameHeader::decode(&raw).pgno, frame));
    }
    newest.sort_unstable();
    let mut kept: Vec<(Pgno, u32)> = Vec::with_capacity(newest.len());
    for (pgno, frame) in newest {
        if pgno.0 == 0 || pgno.0 > stretch.commit {
            continue;
        }
        match kept.last_mut() {
            Some(last) if last.0 == pgno => last.1 = frame,
            _ => kept.push((pgno, frame)),
        }
    }
    kept.sort_unstable_by_key(|(_, frame)| *frame);
    Ok(kept)
}

/// Where a WAL's chain of checksums ends: its last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainEnd {
    /// The last commit frame, with the running checksum there.
    pub cursor: Cursor,
    /// Database size in pages there.
    pub commit: u32,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Commit frames.
    pub commits: u32,
    /// Those that repeat the frame before them byte for byte: padding up to a sector, or a commit that changed nothing.
    pub repeats: u32,
}

/// Follows the chain of checksums from `start` (the start of the file where it is of another life). Sound only where
/// nobody else can write: under EXCLUSIVE, or where the end is known to be committed. `None` where the file holds no
/// commit after `start`. Errors do not name the file.
pub fn chain(wal: &dyn ReadAt, start: Option<Cursor>) -> Result<Option<ChainEnd>> {
    chain_up_to(wal, start, u32::MAX)
}

/// [`chain`] of the first frames only: up to where the wal-index says that everything is committed.
pub fn chain_up_to(wal: &dyn ReadAt, start: Option<Cursor>, frames_max: u32) -> Result<Option<ChainEnd>> {
    let failed = |e| Error::unnamed("read", e);
    if wal.size().map_err(failed)? < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut raw = [0u8; HEADER_BYTES];
    wal.read_at(&mut raw, 0).map_err(failed)?;
    let Some(header) = WalHeader::decode(&raw) else { return Ok(None) };
    let mut at = match start {
        Some(cursor) if cursor.salt == header.salt && cursor.frame > 0 => cursor,
        _ => Cursor { salt: header.salt, frame: 0, checksum: header.checksum },
    };
    let frame_bytes = FRAME_HEADER_BYTES + header.page_size.bytes();
    let frames = ((wal.size().map_err(failed)? - HEADER_BYTES as u64) / frame_bytes as u64) as u32;
    let frames = frames.min(frames_max);
    let mut buf = vec![0u8; frame_bytes * (SCAN_BYTES / frame_bytes).max(1)];
    let mut end: Option<ChainEnd> = None;
    let mut last = None;
    while at.frame < frames {
        let count = (buf.len() / frame_bytes).min((frames - at.frame) as usize);
        let chunk = &mut buf[..count * frame_bytes];
        wal.read_at(chunk, frame_offset(header.page_size, at.frame + 1)).map_err(failed)?;
        for raw in chunk.chunks_exact(frame_bytes) {
            let frame = FrameHeader::decode(raw);
            let checksum = frame_checksum(header.big_endian, at.checksum, raw);
            if frame.pgno.0 == 0 || frame.salt != header.salt || frame.checksum != checksum {
                return Ok(end);
            }
            at = Cursor { salt: header.salt, frame: at.frame + 1, checksum };
            if frame.commit != 0 {
                let this = (frame.commit, page(frame.pgno, &raw[FRAME_HEADER_BYTES..]));
                let (commits, repeats) = end.map_or((0, 0), |end| (end.commits, end.repeats));
                end = Some(ChainEnd {
                    cursor: at,
                    commit: frame.commit,
                    page_size: header.page_size,
                    commits: commits + 1,
                    repeats: repeats + u32::from(last == Some(this)),
                });
                last = Some(this);
            } else {
                last = None;
            }
        }
    }
    Ok(end)
}
