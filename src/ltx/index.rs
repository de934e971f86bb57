//! The page index near the end of an LTX file: where each page's frame stands.
//!
//! ```text
//! entry: pgno, offset of the frame, size of the frame     three LEB128 numbers, ascending
//! ...
//! 0x00                                                    end of entries
//! size                                                    8 bytes, big-endian: bytes before it, the 0x00 included
//! ```
//!
//! Frames stand back to back from byte 100, so the writer keeps page steps and sizes only (about three
//! bytes a page), and a reader that walks the frames proves the index by the CRC of the entries that it expects.

use super::checksum::Crc;
use super::header::HEADER_SIZE;
use super::trailer::TRAILER_SIZE;
use super::{END_MARKER, MIN_FILE_SIZE};
use crate::error::{Error, Result};
use crate::page::Pgno;
use std::ops::Range;

/// Bytes at the end of a file that say how large the index is: its size field and the trailer.
pub const TAIL_SIZE: usize = 8 + TRAILER_SIZE;

/// Longest LEB128 form of a 64-bit number.
const MAX_VARINT: usize = 10;

/// Longest entry.
const MAX_ENTRY: usize = 3 * MAX_VARINT;

/// Where one page's frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The page.
    pub pgno: Pgno,
    /// Offset of the frame's first byte in the file.
    pub offset: u64,
    /// Bytes of the frame: header and payload.
    pub size: u64,
}

/// Where the entries of a file of `file_size` bytes stand (the closing 0x00 included), by the last
/// [`TAIL_SIZE`] bytes of it.
pub fn index_range(file_size: u64, tail: &[u8; TAIL_SIZE]) -> Result<Range<u64>> {
    let size = u64::from_be_bytes(tail[..8].try_into().expect("eight bytes"));
    let end = file_size.saturating_sub(TAIL_SIZE as u64);
    let first = (HEADER_SIZE + END_MARKER.len()) as u64;
    match end.checked_sub(size) {
        Some(start) if file_size >= MIN_FILE_SIZE && size >= 1 && start >= first => Ok(start..end),
        _ => {
            Err(Error::Corrupt(format!("LTX page index of {size} bytes does not fit into a file of {file_size} bytes")))
        }
    }
}

/// Entries kept small until a file ends.
#[derive(Default)]
pub(super) struct IndexWriter {
    steps: Vec<u8>,
    last: u32,
}

impl IndexWriter {
    pub(super) fn push(&mut self, pgno: Pgno, size: u64) {
        let (mut raw, mut len) = ([0; MAX_ENTRY], 0);
        put_varint(&mut raw, &mut len, u64::from(pgno.0 - self.last));
        put_varint(&mut raw, &mut len, size);
        self.steps.extend_from_slice(&raw[..len]);
        self.last = pgno.0;
    }

    /// The index as it stands in the file, handed out in pieces.
    pub(super) fn write(self, mut out: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rest = self.steps.as_slice();
        let (mut pgno, mut offset, mut total) = (0, HEADER_SIZE as u64, 0);
        let mut buffer = Vec::with_capacity(4096);
        while !rest.is_empty() {
            let step = take_varint(&mut rest).expect("written by push");
            let size = take_varint(&mut rest).expect("written by push");
            pgno += step;
            let (mut raw, mut len) = ([0; MAX_ENTRY], 0);
            put_entry(&mut raw, &mut len, pgno, offset, size);
            buffer.extend_from_slice(&raw[..len]);
            total += len as u64;
            offset += size;
            if buffer.len() > 4096 - MAX_ENTRY {
                out(&buffer)?;
                buffer.clear();
            }
        }
        buffer.push(0);
        buffer.extend_from_slice(&(total + 1).to_be_bytes());
        out(&buffer)
    }
}

/// The CRC of the entries that a run of frames should have.
#[derive(Clone, Copy, Default)]
pub struct IndexSum(Crc);

impl IndexSum {
    /// Adds the next frame.
    pub fn push(&mut self, entry: Entry) {
        let (mut raw, mut len) = ([0; MAX_ENTRY], 0);
        put_entry(&mut raw, &mut len, u64::from(entry.pgno.0), entry.offset, entry.size);
        self.0.update(&raw[..len]);
    }

    /// Adds the frames of the part of the file that follows.
    pub fn join(&mut self, following: &IndexSum) {
        self.0.join(&following.0);
    }

    /// Bytes of the entries, without the closing 0x00.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// True without an entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where the stored entries (without the closing 0x00) have this CRC and length.
    pub fn matches(&self, stored: &Crc) -> bool {
        self.0.len() == stored.len() && self.0.value() == stored.value()
    }
}

/// Reads entries from the bytes of an index that arrive in pieces, checking that they ascend and that
/// frames stand back to back.
pub struct IndexReader {
    kept: Vec<u8>,
    last: Pgno,
    next_offset: u64,
    closed: bool,
}

impl IndexReader {
    /// A reader at the first entry.
    pub fn new() -> IndexReader {
        IndexReader { kept: Vec::new(), last: Pgno(0), next_offset: HEADER_SIZE as u64, closed: false }
    }

    /// Takes the next bytes and hands out every entry that is complete.
    pub fn feed(&mut self, bytes: &[u8], mut entry: impl FnMut(Entry) -> Result<()>) -> Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let joined;
        let mut rest = if kept.is_empty() {
            bytes
        } else {
            joined = [kept.as_slice(), bytes].concat();
            &joined
        };
        while !rest.is_empty() {
            if self.closed {
                return Err(Error::Corrupt("LTX page index goes on after its end".into()));
            }
            match self.next(&mut rest)? {
                Some(found) => entry(found)?,
                None if self.closed => {}
                None if rest.len() >= MAX_ENTRY => {
                    return Err(Error::Corrupt("LTX page index holds a number of more than 64 bits".into()));
                }
                None => {
                    self.kept = rest.to_vec();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// After the last bytes: where the frames end, which is where the end marker must stand.
    pub fn finish(self) -> Result<u64> {
        if self.closed { Ok(self.next_offset) } else { Err(Error::Corrupt("LTX page index does not end".into())) }
    }

    fn next(&mut self, rest: &mut &[u8]) -> Result<Option<Entry>> {
        let mut ahead = *rest;
        let Some(pgno) = take_varint(&mut ahead) else { return Ok(None) };
        if pgno == 0 {
            self.closed = true;
            *rest = ahead;
            return Ok(None);
        }
        let (Some(offset), Some(size)) = (take_varint(&mut ahead), take_varint(&mut ahead)) else { return Ok(None) };
        let pgno = u32::try_from(pgno).map_err(|_| Error::Corrupt(format!("LTX page index: page {pgno}")))?;
        if pgno <= self.last.0 {
            return Err(Error::Corrupt(format!("LTX page index: page {pgno} after page {}", self.last.0)));
        }
        let end = offset.checked_add(size).filter(|_| offset == self.next_offset);
        let Some(end) = end else {
            return Err(Error::Corrupt(format!(
                "LTX page index: page {pgno} at byte {offset}, expected {}",
                self.next_offset
            )));
        };
        (self.last, self.next_offset, *rest) = (Pgno(pgno), end, ahead);
        Ok(Some(Entry { pgno: Pgno(pgno), offset, size }))
    }
}

impl Default for IndexReader {
    fn default() -> IndexReader {
        IndexReader::new()
    }
}

fn put_entry(raw: &mut [u8; MAX_ENTRY], len: &mut usize, pgno: u64, offset: u64, size: u64) {
    put_varint(raw, len, pgno);
    put_varint(raw, len, offset);
    put_varint(raw, len, size);
}

fn put_varint(raw: &mut [u8; MAX_ENTRY], len: &mut usize, mut value: u64) {
    while value >= 0x80 {
        raw[*len] = value as u8 | 0x80;
        *len += 1;
        value >>= 7;
    }
    raw[*len] = value as u8;
    *len += 1;
}

/// The next number; `None` where the bytes end before it does, or where it is longer than 64 bits.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, &byte) in rest.iter().enumerate().take(MAX_VARINT) {
        let bits = u64::from(byte & 0x7f);
        if i == MAX_VARINT - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Some(value);
        }
    }
    None
}
