//! The write-ahead log's bytes: header, frame headers, running checksum; and the Cursor that says exactly
//! how far into which WAL. Which frames are committed is not decided here: only the wal-index knows.

use crate::base::ReadAt;
use crate::page::{PageSize, Pgno};

/// Bytes of a WAL header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of a frame's header, before its page.
pub const FRAME_HEADER_BYTES: usize = 24;

/// The two numbers that name one life of a WAL file, as the eight bytes at offset 16 of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Salt(pub [u8; 8]);

impl std::fmt::Display for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Exactly how far into which WAL: `frame` frames of the life `salt`, and the running checksum there.
///
/// Frame 0 is the start of a life; its checksum is not compared. In rollback-journal modes the salt is drawn
/// at random, frames count commits, and the checksum is the Segment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    /// The life.
    pub salt: Salt,
    /// Frames before this point.
    pub frame: u32,
    /// Running checksum after `frame` frames.
    pub checksum: [u32; 2],
}

impl Cursor {
    /// The start of a life.
    pub fn start(salt: Salt) -> Cursor {
        Cursor { salt, frame: 0, checksum: [0, 0] }
    }

    /// True where both name the same point of the same history.
    pub fn same_point(&self, other: &Cursor) -> bool {
        self.salt == other.salt && self.frame == other.frame && (self.frame == 0 || self.checksum == other.checksum)
    }
}

/// The header of a WAL file.
///
/// | off | field (big-endian) |
/// |----:|---|
/// | 0 | magic 0x377f0682, or 0x377f0683 where checksums run over big-endian words |
/// | 4 | version 3007000 |
/// | 8 | page size |
/// | 12 | checkpoint sequence number |
/// | 16 | salt, 8 bytes |
/// | 24 | checksum of bytes 0..24 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Size of the pages.
    pub page_size: PageSize,
    /// The life.
    pub salt: Salt,
    /// Checksums run over big-endian words.
    pub big_endian: bool,
    /// The running checksum before frame 1.
    pub checksum: [u32; 2],
}

impl WalHeader {
    /// Reads the header of a WAL; `None` where there is none.
    pub fn read(wal: &dyn ReadAt) -> Option<WalHeader> {
        let mut raw = [0u8; HEADER_BYTES];
        wal.read_at(&mut raw, 0).ok()?;
        WalHeader::decode(&raw)
    }

    /// Decodes a header; `None` for anything that SQLite would not take as one.
    pub fn decode(raw: &[u8; HEADER_BYTES]) -> Option<WalHeader> {
        let magic = be32(raw, 0);
        if magic & !1 != 0x377f_0682 || be32(raw, 4) != 3_007_000 {
            return None;
        }
        let big_endian = magic & 1 == 1;
        let checksum = checksum(big_endian, [0, 0], &raw[..24]);
        if checksum != [be32(raw, 24), be32(raw, 28)] {
            return None;
        }
        let salt = Salt(raw[16..24].try_into().expect("eight bytes of a longer array"));
        Some(WalHeader { page_size: PageSize::new(be32(raw, 8)).ok()?, salt, big_endian, checksum })
    }
}

/// The header of a frame.
///
/// | off | field (big-endian) |
/// |----:|---|
/// | 0 | page number |
/// | 4 | database size in pages after a commit, else 0 |
/// | 8 | salt, 8 bytes |
/// | 16 | running checksum, two words |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page that follows.
    pub pgno: Pgno,
    /// Database size in pages where this frame commits, else 0.
    pub commit: u32,
    /// Must be the WAL header's.
    pub salt: Salt,
    /// Running checksum with this frame.
    pub checksum: [u32; 2],
}

impl FrameHeader {
    /// That of frame `frame` (from 1) of a WAL; `None` where the file ends before it.
    pub fn read(wal: &dyn ReadAt, page_size: PageSize, frame: u32) -> Option<FrameHeader> {
        let mut raw = [0u8; FRAME_HEADER_BYTES];
        wal.read_at(&mut raw, frame_offset(page_size, frame)).ok()?;
        Some(FrameHeader::decode(&raw))
    }

    /// Decodes the 24 bytes; validity is the caller's question.
    pub fn decode(raw: &[u8]) -> FrameHeader {
        FrameHeader {
            pgno: Pgno(be32(raw, 0)),
            commit: be32(raw, 4),
            salt: Salt(raw[8..16].try_into().expect("eight bytes of a longer slice")),
            checksum: [be32(raw, 16), be32(raw, 20)],
        }
    }
}

/// Where frame `frame` (from 1) begins.
pub fn frame_offset(page_size: PageSize, frame: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(frame - 1) * (FRAME_HEADER_BYTES + page_size.bytes()) as u64
}

/// The running checksum after `frame` (header and page as one slice) is added.
pub fn frame_checksum(big_endian: bool, before: [u32; 2], frame: &[u8]) -> [u32; 2] {
    checksum(big_endian, checksum(big_endian, before, &frame[..8]), &frame[FRAME_HEADER_BYTES..])
}

/// SQLite's running checksum over pairs of 32-bit words; `data` is a multiple of eight bytes.
pub fn checksum(big_endian: bool, before: [u32; 2], data: &[u8]) -> [u32; 2] {
    debug_assert_eq!(data.len() % 8, 0, "checksums run over pairs of words");
    let [mut s0, mut s1] = before;
    let word = |raw: &[u8]| {
        let raw: [u8; 4] = raw.try_into().expect("chunks of eight are two words");
        if big_endian { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) }
    };
    for pair in data.chunks_exact(8) {
        s0 = s0.wrapping_add(word(&pair[..4])).wrapping_add(s1);
        s1 = s1.wrapping_add(word(&pair[4..])).wrapping_add(s0);
    }
    [s0, s1]
}

fn be32(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(raw[at..at + 4].try_into().expect("four bytes of a longer slice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: the checksum chain is SQLite's. Method: a header whose checksum was computed by hand of its rule.
    #[test]
    fn a_header_is_taken_only_with_its_checksum() {
        let mut raw = [0u8; HEADER_BYTES];
        raw[..4].copy_from_slice(&0x377f_0682u32.to_be_bytes());
        raw[4..8].copy_from_slice(&3_007_000u32.to_be_bytes());
        raw[8..12].copy_from_slice(&4096u32.to_be_bytes());
        raw[16..24].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let sum = checksum(false, [0, 0], &raw[..24]);
        raw[24..28].copy_from_slice(&sum[0].to_be_bytes());
        raw[28..32].copy_from_slice(&sum[1].to_be_bytes());
        let header = WalHeader::decode(&raw).expect("a valid header");
        assert_eq!(header.salt, Salt([1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(header.page_size.get(), 4096);
        raw[20] ^= 1;
        assert!(WalHeader::decode(&raw).is_none());
    }

    // Goal: word order matters and sums wrap. Method: one pair computed by hand.
    #[test]
    fn the_checksum_of_one_pair() {
        let data = [0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(checksum(true, [0, 0], &data), [1, 3]);
        assert_eq!(checksum(false, [0, 0], &data), [0x0100_0000, 0x0300_0000]);
        assert_eq!(checksum(true, [u32::MAX, 0], &data), [0, 2]);
    }
}
