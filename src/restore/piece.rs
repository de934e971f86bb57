//! One thread's part: decode a run of page frames and write those that win.
//!
//! Every page is decoded and counted, also those that lose: only so the file is proved. Pages that follow each
//! other in the database are written together.

use super::source::{Piece, Sums};
use crate::error::{Error, Result};
use crate::limits::RESTORE_WRITE;
use crate::ltx::checksum::{self, Crc, Rolling};
use crate::ltx::{Entry, FrameReader, Header, IndexSum};
use crate::page::Pgno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where pages go.
pub(super) struct Output<'a> {
    pub file: &'a File,
    pub path: &'a Path,
    /// Pages of the finished database.
    pub commit: u32,
    /// Told the bytes of every write.
    pub wrote: &'a (dyn Fn(u64) + Sync),
}

/// A thread's buffer, used for piece after piece: pages from `first` on that are decoded and not yet written.
pub(super) struct Writer {
    buffer: Vec<u8>,
    filled: usize,
    first: Pgno,
}

impl Writer {
    pub fn new() -> Writer {
        Writer { buffer: Vec::new(), filled: 0, first: Pgno(0) }
    }

    /// Decodes `bytes`, all of the piece, and writes the pages that win.
    pub fn piece(&mut self, header: &Header, piece: &Piece, bytes: &[u8], out: &Output<'_>) -> Result<Sums> {
        let page_size = header.page_size.bytes();
        self.buffer.resize(RESTORE_WRITE.max(page_size), 0);
        self.filled = 0;
        let mut sums = Sums { crc: Crc::new(), index: IndexSum::default(), rolling: Rolling::new() };
        let mut frames = FrameReader::new(bytes, header.page_size);
        let mut offset = piece.range.start;
        for n in 0..piece.pages {
            if self.filled + page_size > self.buffer.len() {
                self.flush(header, out)?;
            }
            let page = &mut self.buffer[self.filled..self.filled + page_size];
            let (pgno, size) = frames.page(page, &mut sums.crc)?;
            sums.index.push(Entry { pgno, offset, size });
            offset += size;
            if header.checksums.is_some() {
                sums.rolling.toggle(checksum::page(pgno, page));
            }
            if piece.wins(n) {
                self.take(pgno, header, out)?;
            }
        }
        self.flush(header, out)?;
        if offset != piece.range.end {
            return Err(Error::Corrupt("LTX page index does not name the pages that the file holds".into()));
        }
        Ok(sums)
    }

    /// Keeps the page just decoded behind the filled part, to be written with its neighbours.
    fn take(&mut self, pgno: Pgno, header: &Header, out: &Output<'_>) -> Result<()> {
        let page_size = header.page_size.bytes();
        if pgno.0 > out.commit || pgno == header.page_size.lock_page() {
            return Err(Error::Corrupt(format!("LTX page {} is not the one that the page index names", pgno.0)));
        }
        let run = (self.filled / page_size) as u32;
        if run > 0 && pgno.0 != self.first.0 + run {
            let page = self.filled..self.filled + page_size;
            self.flush(header, out)?;
            self.buffer.copy_within(page, 0);
        }
        if self.filled == 0 {
            self.first = pgno;
        }
        self.filled += page_size;
        Ok(())
    }

    fn flush(&mut self, header: &Header, out: &Output<'_>) -> Result<()> {
        if self.filled > 0 {
            let offset = header.page_size.offset(self.first);
            out.file.write_all_at(&self.buffer[..self.filled], offset).map_err(|e| Error::io("write", out.path, e))?;
            (out.wrote)(self.filled as u64);
            self.filled = 0;
        }
        Ok(())
    }
}
