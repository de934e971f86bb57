//! Fixed records of the Spool's own files: big-endian fields in a row, a CRC-64 behind them.

use super::Stat;
use crate::wal::{Cursor, Salt};

/// Writes fields.
#[derive(Default)]
pub(super) struct Out(pub Vec<u8>);

impl Out {
    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn cursor(&mut self, cursor: &Cursor) {
        self.0.extend_from_slice(&cursor.salt.0);
        self.u32(cursor.frame);
        self.u32(cursor.checksum[0]);
        self.u32(cursor.checksum[1]);
    }

    /// 32 bytes.
    pub(super) fn stat(&mut self, stat: &Stat) {
        self.u64(stat.inode);
        self.u64(stat.size);
        self.i64(stat.modified);
        self.u64(stat.boot);
    }

    /// Pads to `size - 8` and closes with the checksum of all before it.
    pub(super) fn sealed(mut self, size: usize) -> Vec<u8> {
        assert!(self.0.len() + 8 <= size, "a record outgrew its slot");
        self.0.resize(size - 8, 0);
        let sum = crc(&self.0);
        self.u64(sum);
        self.0
    }
}

/// Reads fields back in the same order.
pub(super) struct In<'a>(pub &'a [u8]);

impl In<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.bytes().map(i64::from_be_bytes)
    }

    pub(super) fn cursor(&mut self) -> Option<Cursor> {
        Some(Cursor { salt: Salt(self.bytes()?), frame: self.u32()?, checksum: [self.u32()?, self.u32()?] })
    }

    pub(super) fn stat(&mut self) -> Option<Stat> {
        Some(Stat { inode: self.u64()?, size: self.u64()?, modified: self.i64()?, boot: self.u64()? })
    }
}

/// The record without its checksum, where that holds.
pub(super) fn opened(record: &[u8]) -> Option<In<'_>> {
    let (body, sum) = record.split_at_checked(record.len().checked_sub(8)?)?;
    (crc(body) == u64::from_be_bytes(sum.try_into().ok()?)).then_some(In(body))
}

/// CRC-64 of bytes.
pub(super) fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, bytes)
}
