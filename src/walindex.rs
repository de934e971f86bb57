//! The wal-index (`-shm`): which frames are committed, and the page of each.
//!
//! Reads what other processes write at the same time, so nothing is believed that is not proven: both copies
//! of the header equal, its checksum right. It never repairs; SQLite's own recovery does.

use crate::base::Region;
use crate::page::{PageSize, Pgno};
use crate::wal::{Cursor, Salt, checksum};
use std::sync::Arc;

/// Lock slots, as `xShmLock` counts them.
pub const WRITE: u8 = 0;
/// The checkpointer's slot.
pub const CKPT: u8 = 1;
/// The first reader's slot; a reader there ignores the WAL.
pub const READ0: u8 = 3;
/// The first slot with a read mark of its own.
pub const READ1: u8 = 4;
/// Readers' slots, with READ0.
pub const READERS: u8 = 5;

const COPY_BYTES: usize = 48;
const BACKFILL: usize = 96;
const MARKS: usize = 100;
/// Frames whose page numbers stand in the first block, behind the header.
const FIRST_BLOCK_FRAMES: u32 = 4062;
const BLOCK_FRAMES: u32 = 4096;
const FIRST_PGNO: usize = 136;

/// The header of the wal-index, proven.
///
/// | off | field (native order; two copies, at 0 and 48) |
/// |----:|---|
/// | 0 | version 3007000 |
/// | 8 | iChange |
/// | 12 | isInit, big-endian checksums, page size as u16 (1 is 65536) |
/// | 16 | mxFrame |
/// | 20 | nPage |
/// | 24 | checksum of frame mxFrame, two words |
/// | 32 | salt, raw |
/// | 40 | checksum of bytes 0..40 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    /// Grows by one with each commit; starts at 0 after a recovery.
    pub change: u32,
    /// Size of the pages (`None` before the first frame of a new WAL).
    pub page_size: Option<PageSize>,
    /// Committed frames.
    pub mx_frame: u32,
    /// Database size in pages.
    pub pages: u32,
    /// The last committed frame's running checksum.
    pub checksum: [u32; 2],
    /// The WAL's life; still changes while `mx_frame` is 0.
    pub salt: Salt,
}

impl IndexHeader {
    /// The header, where both copies agree and their checksum holds; `None` where SQLite has to recover first.
    pub fn look(region: &dyn Region) -> Option<IndexHeader> {
        let mut raw = [0u8; 2 * COPY_BYTES];
        region.load(0, &mut raw);
        let (first, second) = raw.split_at(COPY_BYTES);
        if first != second || first[12] == 0 || native(first, 0) != 3_007_000 {
            return None;
        }
        let sum = checksum(cfg!(target_endian = "big"), [0, 0], &first[..40]);
        if sum != [native(first, 40), native(first, 44)] {
            return None;
        }
        let size = u16::from_ne_bytes([first[14], first[15]]);
        let size = if size == 1 { 65536 } else { u32::from(size) };
        Some(IndexHeader {
            change: native(first, 8),
            page_size: PageSize::new(size).ok(),
            mx_frame: native(first, 16),
            pages: native(first, 20),
            checksum: [native(first, 24), native(first, 28)],
            salt: Salt(first[32..40].try_into().expect("eight bytes of a longer slice")),
        })
    }

    /// The end of what is committed; `None` while the WAL holds nothing.
    pub fn cursor(&self) -> Option<Cursor> {
        (self.mx_frame > 0).then_some(Cursor { salt: self.salt, frame: self.mx_frame, checksum: self.checksum })
    }
}

/// Frames that a checkpoint has copied into the database.
pub fn backfill(region: &dyn Region) -> u32 {
    load(region, BACKFILL)
}

/// The read mark of slot `READ0 + reader`.
pub fn read_mark(region: &dyn Region, reader: u8) -> u32 {
    load(region, mark_offset(reader))
}

/// Where `read_mark` stands.
pub fn mark_offset(reader: u8) -> usize {
    MARKS + 4 * usize::from(reader)
}

/// Which block holds the page number of a frame, and where in it.
pub fn pgno_place(frame: u32) -> (u32, usize) {
    let index = frame - 1;
    if index < FIRST_BLOCK_FRAMES {
        (0, FIRST_PGNO + 4 * index as usize)
    } else {
        let index = index - FIRST_BLOCK_FRAMES;
        (1 + index / BLOCK_FRAMES, 4 * (index % BLOCK_FRAMES) as usize)
    }
}

/// The pages of frames `from+1 ..= to`, as far as their blocks are among `regions`; the frame after the last
/// one found is where the caller goes on by the frame headers.
pub fn pages_of(regions: &[Option<Arc<dyn Region>>], from: u32, to: u32) -> Vec<Pgno> {
    let mut pages = Vec::with_capacity((to - from) as usize);
    let mut frame = from + 1;
    while frame <= to {
        let (block, offset) = pgno_place(frame);
        let Some(Some(region)) = regions.get(block as usize) else { break };
        let first = if block == 0 { FIRST_BLOCK_FRAMES } else { BLOCK_FRAMES };
        let start = if block == 0 { FIRST_PGNO } else { 0 };
        let left = first - ((offset - start) / 4) as u32;
        let count = left.min(to - frame + 1);
        let mut raw = vec![0u8; 4 * count as usize];
        region.load(offset, &mut raw);
        pages.extend(raw.chunks_exact(4).map(|raw| Pgno(native(raw, 0))));
        frame += count;
    }
    pages
}

fn load(region: &dyn Region, at: usize) -> u32 {
    let mut raw = [0u8; 4];
    region.load(at, &mut raw);
    u32::from_ne_bytes(raw)
}

fn native(raw: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(raw[at..at + 4].try_into().expect("four bytes of a longer slice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: frames find their block. Method: the edges of the first and second block.
    #[test]
    fn page_numbers_stand_behind_the_header_then_block_by_block() {
        assert_eq!(pgno_place(1), (0, 136));
        assert_eq!(pgno_place(4062), (0, 136 + 4 * 4061));
        assert_eq!(pgno_place(4063), (1, 0));
        assert_eq!(pgno_place(4062 + 4096), (1, 4 * 4095));
        assert_eq!(pgno_place(4062 + 4097), (2, 0));
    }
}
