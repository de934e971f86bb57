//! CRC-64/GO-ISO and what LTX builds from it: file checksums, page checksums, the rolling checksum of a
//! whole database.
//!
//! Every stored checksum has bit 63 set, so that 0 can mean "none".

use crate::page::Pgno;
use crc_fast::{CrcAlgorithm, Digest};

/// The bit that marks a checksum as present.
pub const FLAG: u64 = 1 << 63;

/// The checksum of a database without pages.
pub const EMPTY: u64 = FLAG;

/// A running CRC that can be joined with the CRC of the bytes that follow.
#[derive(Clone, Copy)]
pub struct Crc(Digest);

impl Crc {
    /// The CRC of nothing.
    pub fn new() -> Crc {
        Crc(Digest::new(CrcAlgorithm::Crc64GoIso))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds bytes whose CRC somebody else computed.
    pub fn join(&mut self, following: &Crc) {
        if following.0.get_amount() > 0 {
            self.0.combine(&following.0);
        }
    }

    /// The CRC so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }

    /// The CRC so far with bit 63 set, as files store it.
    pub fn flagged(&self) -> u64 {
        self.value() | FLAG
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.0.get_amount()
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Crc {
    fn default() -> Crc {
        Crc::new()
    }
}

/// Checksum of one page: its number (big-endian) and its bytes.
pub fn page(pgno: Pgno, data: &[u8]) -> u64 {
    let mut crc = Crc::new();
    crc.update(&pgno.0.to_be_bytes());
    crc.update(data);
    crc.flagged()
}

/// Checksum of a whole database, kept page by page. The lock page is never part of it: the caller leaves it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling(u64);

impl Rolling {
    /// A database without pages.
    pub fn new() -> Rolling {
        Rolling(EMPTY)
    }

    /// Adds a page by its checksum, or takes it out again: the operation is its own inverse.
    pub fn toggle(&mut self, page_checksum: u64) {
        self.0 = (self.0 ^ page_checksum) | FLAG;
    }

    /// The value, bit 63 set.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Default for Rolling {
    fn default() -> Rolling {
        Rolling::new()
    }
}

/// Checksum of a database given as a whole, `pages` in order from page 1; `lock` is left out.
pub fn database<'a>(pages: impl Iterator<Item = &'a [u8]>, lock: Pgno) -> u64 {
    let mut rolling = Rolling::new();
    for (pgno, data) in (1..).map(Pgno).zip(pages) {
        if pgno != lock {
            rolling.toggle(page(pgno, data));
        }
    }
    rolling.value()
}
