//! One planned file: its header, and by its page index the pieces that threads decode apart.
//!
//! A piece is a run of whole page frames. The file is proved at the end from what its pieces found: their
//! checksums join to the file's, and the entries that they saw join to the index.

use crate::error::{Error, Result};
use crate::limits::RESTORE_PIECE;
use crate::ltx::checksum::{Crc, Rolling};
use crate::ltx::{
    END_MARKER, HEADER_SIZE, Header, IndexReader, IndexSum, MIN_FILE_SIZE, TAIL_SIZE, TRAILER_SIZE, Trailer, check_end,
    check_page, checksum_mismatch, index_range,
};
use crate::page::Pgno;
use crate::store::{FileInfo, Store};
use bytes::Bytes;
use std::ops::Range;

/// A run of page frames of one file.
pub(super) struct Piece {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// How many pages it holds.
    pub pages: usize,
    /// A bit for each: the file has the newest copy.
    pub wins: Vec<u64>,
}

impl Piece {
    fn new(start: u64) -> Piece {
        Piece { range: start..start, pages: 0, wins: Vec::new() }
    }

    fn push(&mut self, size: u64, win: bool) {
        if self.pages.is_multiple_of(64) {
            self.wins.push(0);
        }
        *self.wins.last_mut().expect("pushed before") |= u64::from(win) << (self.pages % 64);
        self.pages += 1;
        self.range.end += size;
    }

    /// Whether the `n`th page of the piece is the newest copy.
    pub fn wins(&self, n: usize) -> bool {
        self.wins[n / 64] >> (n % 64) & 1 == 1
    }
}

/// What a piece turned out to hold.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// CRC of the frames as a file counts them.
    pub crc: Crc,
    /// The index entries that they should have.
    pub index: IndexSum,
    /// Their part of the database's checksum, where the file carries one.
    pub rolling: Rolling,
}

/// A file whose header has been read.
pub(super) struct Source<'a> {
    store: &'a Store,
    /// The file.
    pub info: &'a FileInfo,
    /// Its header.
    pub header: Header,
    start: Bytes,
    /// The whole file, where it is small.
    pub whole: Option<Bytes>,
    tail: Bytes,
}

/// What of a file is left to compare when its pieces are done.
pub(super) struct Expected {
    head: Crc,
    index: Crc,
    rest: Crc,
    trailer: Trailer,
}

/// The header of a file alone.
pub(super) fn header(store: &Store, info: &FileInfo) -> Result<Header> {
    let raw = store.read(info.level, info.span, Some(0..HEADER_SIZE as u64))?;
    named(info, decode(&raw, info))
}

impl<'a> Source<'a> {
    /// Fetches the file where it is small, otherwise its header and its last bytes.
    pub fn open(store: &'a Store, info: &'a FileInfo) -> Result<Source<'a>> {
        if info.size < MIN_FILE_SIZE {
            return Err(Error::Corrupt(format!("{}: {} bytes are no LTX file", info.span.file_name(), info.size)));
        }
        let read = |range| store.read(info.level, info.span, range);
        let (start, tail, whole) = if info.size <= RESTORE_PIECE {
            let whole = read(None)?;
            if whole.len() as u64 != info.size {
                return Err(Error::Corrupt(format!(
                    "{} has {} bytes, listed with {}",
                    info.span.file_name(),
                    whole.len(),
                    info.size
                )));
            }
            (whole.slice(..HEADER_SIZE), whole.slice(whole.len() - TAIL_SIZE..), Some(whole))
        } else {
            (read(Some(0..HEADER_SIZE as u64))?, read(Some(info.size - TAIL_SIZE as u64..info.size))?, None)
        };
        let header = named(info, decode(&start, info))?;
        Ok(Source { store, info, header, start, whole, tail })
    }

    /// Bytes fetched for header and tail.
    pub fn fetched(&self) -> u64 {
        self.whole.as_ref().map_or((HEADER_SIZE + TAIL_SIZE) as u64, |whole| whole.len() as u64)
    }

    /// Walks the page index: `claim` says for each page whether this file has its newest copy. The pieces, and what to
    /// compare when they are done.
    pub fn index(&self, claim: impl FnMut(Pgno) -> bool) -> Result<(Vec<Piece>, Expected)> {
        named(self.info, self.walk(claim))
    }

    /// Bytes of the file, from memory where it is small.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes> {
        match &self.whole {
            Some(whole) => Ok(whole.slice(range.start as usize..range.end as usize)),
            None => self.store.read(self.info.level, self.info.span, Some(range)),
        }
    }

    fn walk(&self, mut claim: impl FnMut(Pgno) -> bool) -> Result<(Vec<Piece>, Expected)> {
        let tail: &[u8; TAIL_SIZE] = self.tail[..].try_into().expect("read with this length");
        let entries = index_range(self.info.size, tail)?;
        let frames_end = entries.start - END_MARKER.len() as u64;
        let mut rest = Crc::new();
        rest.update(&[0]);
        rest.update(&tail[..8 + 8]);

        let mut pieces: Vec<Piece> = Vec::new();
        let mut last = Pgno(0);
        let mut reader = IndexReader::new();
        let (mut index, mut marker) = (Crc::new(), Crc::new());
        let mut at = frames_end;
        while at < entries.end {
            let end = entries.end.min(at + RESTORE_PIECE);
            let bytes = self.read(at..end)?;
            let (stored_marker, stored) =
                bytes.split_at(if at == frames_end { END_MARKER.len().min(bytes.len()) } else { 0 });
            marker.update(stored_marker);
            if stored_marker.iter().any(|&byte| byte != 0) {
                return Err(Error::Corrupt("LTX page index begins before the pages end".into()));
            }
            // The closing zero belongs to the index, not to its entries.
            index.update(&stored[..stored.len() - usize::from(end == entries.end)]);
            reader.feed(stored, |entry| {
                check_page(&self.header, last, entry.pgno)?;
                last = entry.pgno;
                let full = |piece: &Piece| piece.range.end - piece.range.start + entry.size > RESTORE_PIECE;
                if pieces.last().is_none_or(full) {
                    pieces.push(Piece::new(entry.offset));
                }
                pieces.last_mut().expect("pushed before").push(entry.size, claim(entry.pgno));
                Ok(())
            })?;
            at = end;
        }
        if reader.finish()? != frames_end {
            return Err(Error::Corrupt("LTX page index does not name all pages that the file holds".into()));
        }
        check_end(&self.header, last)?;
        marker.join(&index);
        marker.join(&rest);
        let trailer: &[u8; TRAILER_SIZE] = tail[8..].try_into().expect("what follows the size");
        let trailer = Trailer::decode(trailer, &self.header)?;
        let mut head = Crc::new();
        head.update(&self.start);
        Ok((pieces, Expected { head, index, rest: marker, trailer }))
    }
}

impl Expected {
    /// Proves the file by what its pieces found, in order.
    pub fn prove(&self, header: &Header, info: &FileInfo, sums: &[Sums]) -> Result<()> {
        let (mut crc, mut index, mut rolling) = (self.head, IndexSum::default(), Rolling::new());
        for sum in sums {
            crc.join(&sum.crc);
            index.join(&sum.index);
            rolling.toggle(sum.rolling.value());
        }
        crc.join(&self.rest);
        let result = if crc.flagged() != self.trailer.file {
            Err(checksum_mismatch(self.trailer.file, crc.flagged()))
        } else if !index.matches(&self.index) {
            Err(Error::Corrupt("LTX page index does not name the pages that the file holds".into()))
        } else if header.checksums.is_some() && header.is_snapshot() && rolling.value() != self.trailer.post_apply {
            Err(Error::Corrupt("LTX database checksum does not match its pages".into()))
        } else {
            Ok(())
        };
        named(info, result)
    }
}

/// Puts the file's name before a complaint about its bytes.
pub(super) fn named<T>(info: &FileInfo, result: Result<T>) -> Result<T> {
    result.map_err(|e| e.about(info.name()))
}

fn decode(raw: &[u8], info: &FileInfo) -> Result<Header> {
    let raw = raw.try_into().map_err(|_| Error::Corrupt("LTX file ends in its header".into()))?;
    let header = Header::decode(raw)?;
    if header.span != info.span {
        return Err(Error::Corrupt(format!("LTX header is that of {}", header.span.file_name())));
    }
    Ok(header)
}
