//! Writes one LTX file: header, pages in ascending order, index, trailer.
//!
//! Always without checksums of the database (Litestream refuses to merge others) and with each page as an
//! LZ4 block. Knows nothing of where the bytes go; the caller buffers, fsyncs and renames.

use super::checksum::Crc;
use super::frame::FrameWriter;
use super::header::Header;
use super::index::IndexWriter;
use super::trailer::Trailer;
use super::{END_MARKER, HEADER_SIZE, TRAILER_SIZE};
use crate::error::{Error, Result};
use crate::page::Pgno;
use std::io::Write;

/// Writes one file to `W`. Memory beside one page: about three bytes for each page written.
pub struct Encoder<W: Write> {
    out: W,
    header: Header,
    frames: FrameWriter,
    index: IndexWriter,
    crc: Crc,
    last: Pgno,
    size: u64,
    /// The writer failed: what it holds is no file.
    broken: bool,
}

impl<W: Write> Encoder<W> {
    /// Writes the header.
    pub fn new(mut out: W, header: &Header) -> Result<Encoder<W>> {
        if header.checksums.is_some() {
            return Err(Error::State("an LTX file with checksums of the database is not written".into()));
        }
        let raw = header.encode()?;
        out.write_all(&raw).map_err(write_error)?;
        let mut crc = Crc::new();
        crc.update(&raw);
        Ok(Encoder {
            out,
            header: *header,
            frames: FrameWriter::new(header.page_size),
            index: IndexWriter::default(),
            crc,
            last: Pgno(0),
            size: HEADER_SIZE as u64,
            broken: false,
        })
    }

    /// Writes the next page. Pages ascend, none is the lock page or above the commit; a snapshot leaves none out.
    pub fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        if self.broken {
            return Err(broken());
        }
        let lock = self.header.page_size.lock_page();
        if data.len() != self.header.page_size.bytes() {
            return Err(Error::State(format!(
                "page {} has {} bytes, not {}",
                pgno.0,
                data.len(),
                self.header.page_size.bytes()
            )));
        }
        if pgno == lock {
            return Err(Error::State(format!("page {} holds SQLite's locks and never travels", pgno.0)));
        }
        if pgno <= self.last || pgno.0 > self.header.commit {
            return Err(Error::State(format!(
                "page {} after page {} in a database of {} pages",
                pgno.0, self.last.0, self.header.commit
            )));
        }
        if self.header.is_snapshot() && pgno != following(self.last, lock) {
            return Err(Error::State(format!("a snapshot leaves out page {}", following(self.last, lock).0)));
        }
        let written = self.frames.write(&mut self.out, &mut self.crc, pgno, data);
        let size = written.map_err(|e| {
            self.broken = true;
            write_error(e)
        })?;
        self.index.push(pgno, size);
        self.last = pgno;
        self.size += size;
        Ok(())
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes end marker, index and trailer. The writer and the size of the file in bytes.
    pub fn finish(self) -> Result<(W, u64)> {
        if self.broken {
            return Err(broken());
        }
        let next = following(self.last, self.header.page_size.lock_page());
        if self.header.is_snapshot() && next.0 <= self.header.commit {
            return Err(Error::State(format!(
                "a snapshot of {} pages ends before page {}",
                self.header.commit, next.0
            )));
        }
        let Encoder { mut out, index, mut crc, mut size, .. } = self;
        let mut put = |bytes: &[u8]| -> Result<()> {
            crc.update(bytes);
            size += bytes.len() as u64;
            out.write_all(bytes).map_err(write_error)
        };
        put(&END_MARKER)?;
        index.write(&mut put)?;
        let mut trailer = Trailer { post_apply: 0, file: 0 };
        crc.update(&trailer.encode()[..8]);
        trailer.file = crc.flagged();
        out.write_all(&trailer.encode()).map_err(write_error)?;
        out.flush().map_err(write_error)?;
        Ok((out, size + TRAILER_SIZE as u64))
    }
}

/// The page that follows, the lock page left out.
pub(super) fn following(pgno: Pgno, lock: Pgno) -> Pgno {
    let next = pgno.0.saturating_add(1);
    Pgno(if next == lock.0 { next + 1 } else { next })
}

fn write_error(e: std::io::Error) -> Error {
    Error::unnamed("write LTX file", e)
}

fn broken() -> Error {
    Error::State("the LTX file could not be written; what there is of it is to be thrown away".into())
}
