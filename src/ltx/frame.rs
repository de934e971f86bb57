//! One page in an LTX file: a short header and the compressed page.
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 4 | page number, big-endian |
//! | 4 | 2 | flags: 1 = an LZ4 block follows its size; 0 = one LZ4 frame follows |
//! | 6 | 4 | size of the block, only with flag 1 |
//!
//! Litestream 0.5.0 to 0.5.15 wrote frames, 0.5.16 and later and we write blocks. Readers take both, page by page.

use super::checksum::Crc;
use crate::error::{Error, Result};
use crate::page::{PageSize, Pgno};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use lz4_flex::frame::FrameDecoder;
use std::io::{self, BufRead, ErrorKind, Read, Write};

/// Bytes before the payload of a page that is written as a block.
pub const MAX_FRAME_HEADER: usize = 10;

const FLAG_BLOCK: u16 = 1;

/// The largest LZ4 block that a page can become.
pub fn max_payload(page_size: PageSize) -> usize {
    page_size.bytes() + page_size.bytes() / 255 + 16
}

/// Compresses pages into frames, with buffers that are used again.
pub(super) struct FrameWriter {
    table: CompressTable,
    buffer: Vec<u8>,
}

impl FrameWriter {
    pub(super) fn new(page_size: PageSize) -> FrameWriter {
        let small = page_size.bytes() < usize::from(u16::MAX);
        let table = if small { CompressTable::small() } else { CompressTable::large() };
        FrameWriter { table, buffer: vec![0; MAX_FRAME_HEADER + get_maximum_output_size(page_size.bytes())] }
    }

    /// Writes one page and adds to the file's CRC what the format counts: the stored header and the plain page.
    pub(super) fn write(&mut self, out: &mut impl Write, crc: &mut Crc, pgno: Pgno, data: &[u8]) -> io::Result<u64> {
        let (header, payload) = self.buffer.split_at_mut(MAX_FRAME_HEADER);
        let size = compress_into_with_table(data, payload, &mut self.table).expect("the buffer holds the worst case");
        header[0..4].copy_from_slice(&pgno.0.to_be_bytes());
        header[4..6].copy_from_slice(&FLAG_BLOCK.to_be_bytes());
        header[6..10].copy_from_slice(&(size as u32).to_be_bytes());
        crc.update(header);
        crc.update(data);
        out.write_all(&self.buffer[..MAX_FRAME_HEADER + size])?;
        Ok((MAX_FRAME_HEADER + size) as u64)
    }
}

/// Reads frames from bytes that arrive in order, with buffers that are used again.
pub struct FrameReader<R: BufRead> {
    /// Its own bytes are the file's; between two LZ4 frames it holds no state, so blocks are read beneath it.
    input: FrameDecoder<Counted<R>>,
    page_size: PageSize,
    payload: Vec<u8>,
}

/// What stood where a frame was expected.
pub(super) enum Found {
    Page(Pgno, u64),
    EndMarker,
}

impl<R: BufRead> FrameReader<R> {
    /// A reader of frames; `input` stands at the first of them.
    pub fn new(input: R, page_size: PageSize) -> FrameReader<R> {
        FrameReader { input: FrameDecoder::new(Counted { inner: input, count: 0 }), page_size, payload: Vec::new() }
    }

    /// The next page into `page` (exactly one page long) and its number and frame size; an end marker is an error.
    pub fn page(&mut self, page: &mut [u8], crc: &mut Crc) -> Result<(Pgno, u64)> {
        match self.next(page, crc)? {
            Found::Page(pgno, size) => Ok((pgno, size)),
            Found::EndMarker => Err(Error::Corrupt("LTX pages end before their index says".into())),
        }
    }

    /// The next page, or the end marker.
    pub(super) fn next(&mut self, page: &mut [u8], crc: &mut Crc) -> Result<Found> {
        assert_eq!(page.len(), self.page_size.bytes(), "the buffer is one page");
        let begin = self.input.get_ref().count;
        let mut header = [0; MAX_FRAME_HEADER];
        self.fill(&mut header[..6], "before a page")?;
        let pgno = Pgno(u32::from_be_bytes([header[0], header[1], header[2], header[3]]));
        let flags = u16::from_be_bytes([header[4], header[5]]);
        match (pgno.0, flags) {
            (0, 0) => {
                crc.update(&header[..6]);
                return Ok(Found::EndMarker);
            }
            (0, _) => return Err(Error::Corrupt(format!("LTX page 0 with flags {flags:#x}"))),
            (_, FLAG_BLOCK) => {
                self.fill(&mut header[6..10], "in the header of a page")?;
                self.block(pgno, u32::from_be_bytes([header[6], header[7], header[8], header[9]]), page)?;
                crc.update(&header);
            }
            (_, 0) => {
                self.lz4_frame(pgno, page)?;
                crc.update(&header[..6]);
            }
            (pgno, flags) => return Err(Error::Corrupt(format!("LTX page {pgno} has unknown flags {flags:#x}"))),
        }
        crc.update(page);
        Ok(Found::Page(pgno, self.input.get_ref().count - begin))
    }

    /// Fills `buf` with bytes that belong to no frame (what follows the end marker).
    pub(super) fn fill(&mut self, buf: &mut [u8], place: &str) -> Result<()> {
        self.input.get_mut().read_exact(buf).map_err(|e| read_error(e, place))
    }

    /// Reads at most `buf.len()` bytes that belong to no frame.
    pub(super) fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.get_mut().read(buf) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(|e| read_error(e, "at its end")),
            }
        }
    }

    /// Bytes read so far.
    pub(super) fn count(&self) -> u64 {
        self.input.get_ref().count
    }

    fn block(&mut self, pgno: Pgno, size: u32, page: &mut [u8]) -> Result<()> {
        let (size, limit) = (size as usize, max_payload(self.page_size));
        if size > limit {
            return Err(Error::Corrupt(format!("LTX page {} has a block of {size} bytes, more than {limit}", pgno.0)));
        }
        let input = self.input.get_mut();
        let ahead = input.inner.fill_buf().map_err(|e| read_error(e, "in a page"))?;
        let length = if ahead.len() >= size {
            let length = decompress_into(&ahead[..size], page);
            input.inner.consume(size);
            input.count += size as u64;
            length
        } else {
            self.payload.resize(limit, 0);
            input.read_exact(&mut self.payload[..size]).map_err(|e| read_error(e, "in a page"))?;
            decompress_into(&self.payload[..size], page)
        };
        let length = length.map_err(|e| Error::Corrupt(format!("LTX page {} does not decompress: {e}", pgno.0)))?;
        if length != page.len() {
            return Err(Error::Corrupt(format!("LTX page {} is {length} bytes long, expected {}", pgno.0, page.len())));
        }
        Ok(())
    }

    fn lz4_frame(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        self.input.read_exact(page).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Error::Corrupt(format!("LTX page {} is too short", pgno.0)),
            _ => lz4_error(e, pgno),
        })?;
        // This read takes the frame's own end mark and checksum, and nothing behind it.
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::Corrupt(format!("LTX page {} is too long", pgno.0))),
            Err(e) => Err(lz4_error(e, pgno)),
        }
    }
}

/// Counts the bytes that pass.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        Ok(n)
    }
}

/// An error of the reader below: the engine's own error if it carries one.
pub(super) fn read_error(e: io::Error, place: &str) -> Error {
    if let Some(own) = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return own.clone();
    }
    match e.kind() {
        ErrorKind::UnexpectedEof => Error::Corrupt(format!("LTX file ends too early, {place}")),
        _ => Error::unnamed("read LTX file", e),
    }
}

fn lz4_error(e: io::Error, pgno: Pgno) -> Error {
    let own = e.get_ref().is_some_and(|inner| inner.is::<lz4_flex::frame::Error>());
    if own {
        Error::Corrupt(format!("LTX page {} does not decompress: {e}", pgno.0))
    } else {
        read_error(e, "in a page")
    }
}
