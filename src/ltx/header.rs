//! The first 100 bytes of an LTX file.
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 4 | `LTX1` |
//! | 4 | 4 | flags: 2 = no checksums; any other bit is refused |
//! | 8 | 4 | page size in bytes |
//! | 12 | 4 | commit: size of the database in pages after this file |
//! | 16, 24 | 8 each | first and last Txid |
//! | 32 | 8 | time in ms since 1970 |
//! | 40 | 8 | checksum of the database before this file, 0 for a snapshot or without checksums |
//! | 48, 56 | 8 each | offset and bytes of the WAL that it covers; 0 where it comes from no WAL |
//! | 64 | 8 | salt of that WAL |
//! | 72 | 8 | node, 0 from Litestream and from us |
//! | 80 | 20 | reserved: written as zero, read as whatever is there |
//!
//! All numbers are big-endian.

use super::checksum::FLAG;
use super::name::{Span, Txid};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::page::PageSize;
use crate::wal::Salt;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 100;

const MAGIC: [u8; 4] = *b"LTX1";
const NO_CHECKSUM: u32 = 2;

/// What an LTX file says about itself before its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Page size of the database.
    pub page_size: PageSize,
    /// Pages of the database after this file.
    pub commit: u32,
    /// Transactions in the file.
    pub span: Span,
    /// When the last of them was captured.
    pub timestamp: Time,
    /// Byte offset in the WAL where the file begins; at least 32 where Litestream shall be able to go on from here, 0 for no WAL.
    pub wal_offset: u64,
    /// Bytes of WAL that the file covers.
    pub wal_size: u64,
    /// Which life of the WAL.
    pub salt: Salt,
    /// 0 unless LiteFS wrote the file.
    pub node_id: u64,
    /// Where the file carries checksums of the database: the one before it (0 for a snapshot). Never in what we write.
    pub checksums: Option<u64>,
}

impl Header {
    /// A header without a place in a WAL and without checksums of the database.
    pub fn new(page_size: PageSize, commit: u32, span: Span, timestamp: Time) -> Header {
        Header {
            page_size,
            commit,
            span,
            timestamp,
            wal_offset: 0,
            wal_size: 0,
            salt: Salt::default(),
            node_id: 0,
            checksums: None,
        }
    }

    /// Names the place in the WAL: from byte `offset`, `size` bytes of the life `salt`.
    pub fn with_wal(self, offset: u64, size: u64, salt: Salt) -> Header {
        Header { wal_offset: offset, wal_size: size, salt, ..self }
    }

    /// True where the file holds a whole database.
    pub fn is_snapshot(&self) -> bool {
        self.span.is_snapshot()
    }

    /// The bytes, checked.
    pub fn encode(&self) -> Result<[u8; HEADER_SIZE]> {
        self.check().map_err(|reason| Error::State(format!("LTX header not written: {reason}")))?;
        let mut raw = [0; HEADER_SIZE];
        raw[0..4].copy_from_slice(&MAGIC);
        raw[4..8].copy_from_slice(&if self.checksums.is_none() { NO_CHECKSUM } else { 0 }.to_be_bytes());
        raw[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        raw[12..16].copy_from_slice(&self.commit.to_be_bytes());
        raw[16..24].copy_from_slice(&self.span.min.0.to_be_bytes());
        raw[24..32].copy_from_slice(&self.span.max.0.to_be_bytes());
        raw[32..40].copy_from_slice(&self.timestamp.0.to_be_bytes());
        raw[40..48].copy_from_slice(&self.checksums.unwrap_or(0).to_be_bytes());
        raw[48..56].copy_from_slice(&self.wal_offset.to_be_bytes());
        raw[56..64].copy_from_slice(&self.wal_size.to_be_bytes());
        raw[64..72].copy_from_slice(&self.salt.0);
        raw[72..80].copy_from_slice(&self.node_id.to_be_bytes());
        Ok(raw)
    }

    /// Reads the bytes back; everything that a header can get wrong is an error.
    pub fn decode(raw: &[u8; HEADER_SIZE]) -> Result<Header> {
        if raw[0..4] != MAGIC {
            return Err(Error::Corrupt(format!(
                "not an LTX file: it begins with {:02x?}, not with `LTX1`",
                &raw[0..4]
            )));
        }
        let flags = be32(raw, 4);
        if flags & !NO_CHECKSUM != 0 {
            return Err(Error::Corrupt(format!(
                "LTX header flags {flags:#x} are unknown: the file was written by an older or newer format than Litestream 0.5's"
            )));
        }
        let pre_apply = be64(raw, 40);
        if flags & NO_CHECKSUM != 0 && pre_apply != 0 {
            return Err(Error::Corrupt("LTX header says that it has no checksums, and holds one".into()));
        }
        let header = Header {
            page_size: PageSize::new(be32(raw, 8))?,
            commit: be32(raw, 12),
            span: Span { min: Txid(be64(raw, 16)), max: Txid(be64(raw, 24)) },
            timestamp: Time(be64(raw, 32) as i64),
            wal_offset: be64(raw, 48),
            wal_size: be64(raw, 56),
            salt: Salt(raw[64..72].try_into().expect("eight bytes")),
            node_id: be64(raw, 72),
            checksums: (flags & NO_CHECKSUM == 0).then_some(pre_apply),
        };
        header.check().map_err(|reason| Error::Corrupt(format!("LTX header: {reason}")))?;
        Ok(header)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let Span { min, max } = self.span;
        if min.0 == 0 || max < min {
            return Err(format!("Txid {min} to {max} is no span"));
        }
        if self.commit == 0 && self.checksums.is_none() {
            return Err("a database of 0 pages cannot be written without checksums".into());
        }
        if self.wal_offset > i64::MAX as u64 || self.wal_size > i64::MAX as u64 {
            return Err(format!("WAL offset {} or size {} is negative", self.wal_offset, self.wal_size));
        }
        if self.wal_offset == 0 && (self.wal_size != 0 || self.salt != Salt::default()) {
            return Err("a WAL size or salt without a WAL offset".into());
        }
        match self.checksums {
            Some(pre) if self.is_snapshot() && pre != 0 => {
                Err("a snapshot cannot have a checksum of what was before it".into())
            }
            Some(pre) if !self.is_snapshot() && pre & FLAG == 0 => {
                Err("the checksum of the database before the file is missing".into())
            }
            _ => Ok(()),
        }
    }
}

fn be32(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

fn be64(raw: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}
