//! Reads one LTX file from its first byte to its last and believes nothing.
//!
//! Everything is proved by the time that [`Decoder::next_page`] says that there are no more pages: order, bounds,
//! the length of each page, the index, the file's checksum, a snapshot's completeness and, where the file
//! carries it, the database's checksum. Whoever stops earlier knows nothing.

use super::checksum::{self, Crc, Rolling};
use super::encoder::following;
use super::frame::{Found, FrameReader, read_error};
use super::header::Header;
use super::index::{Entry, IndexSum};
use super::trailer::Trailer;
use super::{HEADER_SIZE, TRAILER_SIZE};
use crate::error::{Error, Result};
use crate::page::Pgno;
use std::io::{BufReader, Read};

/// Bytes read ahead of the decoder.
const READ_AHEAD: usize = 16 * 1024;

/// Reads one file from `R`. Memory: a few pages, however large the file.
pub struct Decoder<R: Read> {
    frames: FrameReader<BufReader<R>>,
    header: Header,
    crc: Crc,
    index: IndexSum,
    rolling: Rolling,
    last: Pgno,
    offset: u64,
    state: State,
}

enum State {
    Pages,
    Done(Trailer),
    /// An error was given; asking again gives it again.
    Failed(Error),
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    pub fn new(input: R) -> Result<Decoder<R>> {
        let mut input = BufReader::with_capacity(READ_AHEAD, input);
        let mut raw = [0; HEADER_SIZE];
        input.read_exact(&mut raw).map_err(|e| read_error(e, "in its header"))?;
        let header = Header::decode(&raw)?;
        let mut crc = Crc::new();
        crc.update(&raw);
        Ok(Decoder {
            frames: FrameReader::new(input, header.page_size),
            header,
            crc,
            index: IndexSum::default(),
            rolling: Rolling::new(),
            last: Pgno(0),
            offset: HEADER_SIZE as u64,
            state: State::Pages,
        })
    }

    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Fills `page` (resized to one page) and says which it is; `None` when the whole file has been read and proved.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<Option<Pgno>> {
        match &self.state {
            State::Done(_) => return Ok(None),
            State::Failed(e) => return Err(e.clone()),
            State::Pages => {}
        }
        page.resize(self.header.page_size.bytes(), 0);
        let result = self.step(page);
        if let Err(e) = &result {
            self.state = State::Failed(e.clone());
        }
        result
    }

    /// Reads what is left and gives the trailer of a file that is wholly proved.
    pub fn finish(&mut self) -> Result<Trailer> {
        let mut page = Vec::new();
        while self.next_page(&mut page)?.is_some() {}
        match &self.state {
            State::Done(trailer) => Ok(*trailer),
            State::Failed(e) => Err(e.clone()),
            State::Pages => Err(Error::State("LTX file has pages left".into())),
        }
    }

    /// What reading it ended in, where that was an error.
    pub fn failed(&self) -> Option<&Error> {
        match &self.state {
            State::Failed(e) => Some(e),
            _ => None,
        }
    }

    /// Size of the file in bytes, as far as it was read.
    pub fn size(&self) -> u64 {
        HEADER_SIZE as u64 + self.frames.count()
    }

    fn step(&mut self, page: &mut [u8]) -> Result<Option<Pgno>> {
        match self.frames.next(page, &mut self.crc)? {
            Found::Page(pgno, size) => {
                check_page(&self.header, self.last, pgno)?;
                if self.header.checksums.is_some() && self.header.is_snapshot() {
                    self.rolling.toggle(checksum::page(pgno, page));
                }
                self.index.push(Entry { pgno, offset: self.offset, size });
                self.offset += size;
                self.last = pgno;
                Ok(Some(pgno))
            }
            Found::EndMarker => {
                check_end(&self.header, self.last)?;
                let trailer = self.tail(page)?;
                self.state = State::Done(trailer);
                Ok(None)
            }
        }
    }

    /// Index, trailer and the end of the file. `buffer` is any scratch space.
    fn tail(&mut self, buffer: &mut [u8]) -> Result<Trailer> {
        let mut stored = Crc::new();
        let mut left = self.index.len();
        while left > 0 {
            let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.frames.fill(&mut buffer[..n], "in its page index")?;
            stored.update(&buffer[..n]);
            left -= n as u64;
        }
        if !self.index.matches(&stored) {
            return Err(Error::Corrupt("LTX page index does not name the pages that the file holds".into()));
        }
        let mut end = [0; 9];
        self.frames.fill(&mut end, "in its page index")?;
        let size = u64::from_be_bytes(end[1..].try_into().expect("eight bytes"));
        if end[0] != 0 || size != stored.len() + 1 {
            return Err(Error::Corrupt(
                "LTX page index is longer or shorter than the pages that the file holds".into(),
            ));
        }
        let mut raw = [0; TRAILER_SIZE];
        self.frames.fill(&mut raw, "in its trailer")?;
        let trailer = Trailer::decode(&raw, &self.header)?;
        self.crc.join(&stored);
        self.crc.update(&end);
        self.crc.update(&raw[..8]);
        if self.crc.flagged() != trailer.file {
            return Err(checksum_mismatch(trailer.file, self.crc.flagged()));
        }
        if self.header.checksums.is_some() && self.header.is_snapshot() && self.rolling.value() != trailer.post_apply {
            return Err(Error::Corrupt(format!(
                "LTX database checksum is {:016x}, stored is {:016x}",
                self.rolling.value(),
                trailer.post_apply
            )));
        }
        if self.frames.read_some(&mut buffer[..1])? != 0 {
            return Err(Error::Corrupt("LTX file goes on after its trailer".into()));
        }
        Ok(trailer)
    }
}

/// A page may stand after `last` in a file with this header.
pub(crate) fn check_page(header: &Header, last: Pgno, pgno: Pgno) -> Result<()> {
    let lock = header.page_size.lock_page();
    if pgno == lock {
        return Err(Error::Corrupt(format!("LTX file holds page {}, the lock page", pgno.0)));
    }
    if pgno <= last || pgno.0 > header.commit {
        return Err(Error::Corrupt(format!(
            "LTX page {} after page {} in a database of {} pages",
            pgno.0, last.0, header.commit
        )));
    }
    if header.is_snapshot() && pgno != following(last, lock) {
        return Err(Error::Corrupt(format!("LTX snapshot leaves out page {}", following(last, lock).0)));
    }
    Ok(())
}

/// Pages may end after `last` in a file with this header.
pub(crate) fn check_end(header: &Header, last: Pgno) -> Result<()> {
    let next = following(last, header.page_size.lock_page());
    if header.is_snapshot() && next.0 <= header.commit {
        return Err(Error::Corrupt(format!("LTX snapshot of {} pages ends before page {}", header.commit, next.0)));
    }
    Ok(())
}

pub(crate) fn checksum_mismatch(stored: u64, computed: u64) -> Error {
    Error::Corrupt(format!("LTX file checksum is {computed:016x}, stored is {stored:016x}: the file is damaged"))
}
