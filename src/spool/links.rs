//! `links`: which life of the WAL continues which. A ring of checksummed records, one `pwrite` each,
//! written only by who holds SQLite's WAL_WRITE_LOCK or EXCLUSIVE.
//!
//! At a reset, and when the WAL is deleted, the database file alone is the image at the old end, and nothing
//! but a checkpoint writes it. So a life that begins while the file is still what it was then, continues it.

use super::Stat;
use super::codec::{In, Out, opened};
use crate::error::{Error, Result};
use crate::wal::{Cursor, Salt};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const RECORDS: u64 = 64;
const RECORD_BYTES: usize = 128;
const MAGIC: u32 = 0x4c56_4c32;
const END: u32 = 1;
const BEGIN: u32 = 2;
const DIRTY: u32 = 3;

/// The end of a life: the database file alone is the image at `cursor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How far that life went.
    pub cursor: Cursor,
    /// Database size in pages.
    pub commit: u32,
    /// The wal-index's iChange.
    pub change: u32,
    /// The database file at that moment.
    pub stat: Stat,
    /// Hash of the header's bytes 16..100, what rollback modes compare; 0 where it was not read.
    pub header: u64,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A life ended.
    End(End),
    /// A life began where another had ended.
    Begin {
        /// The new life.
        salt: Salt,
        /// What it continues.
        follows: Cursor,
    },
    /// A transaction writes the database without a journal: until the next End nothing is proven.
    Dirty,
}

/// The ring, oldest record first.
///
/// | off | field of a record (big-endian) |
/// |----:|---|
/// | 0 | magic, kind |
/// | 8 | number, from 1 |
/// | 16 | Cursor (20) |
/// | 36 | Commit, iChange |
/// | 44 | inode, size, mtime of the database, the boot |
/// | 76 | hash of the header |
/// | 84 | the new Salt (8) |
/// | 120 | CRC-64 of bytes 0..120 |
#[derive(Debug, Clone, Default)]
pub struct Links {
    records: Vec<(u64, Link)>,
}

impl Links {
    /// Reads the ring; records that a crash tore are passed over.
    pub fn read(path: &Path) -> Result<Links> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Links::default()),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let mut raw = vec![0u8; RECORDS as usize * RECORD_BYTES];
        let mut filled = 0;
        while filled < raw.len() {
            match file.read_at(&mut raw[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", path, e)),
            }
        }
        let mut records: Vec<(u64, Link)> = raw[..filled].chunks_exact(RECORD_BYTES).filter_map(decode).collect();
        records.sort_unstable_by_key(|(number, _)| *number);
        Ok(Links { records })
    }

    /// The newest End, unless a transaction without a journal came after it.
    pub fn newest_end(&self) -> Option<&End> {
        for (_, link) in self.records.iter().rev() {
            match link {
                Link::End(end) => return Some(end),
                Link::Dirty => return None,
                Link::Begin { .. } => {}
            }
        }
        None
    }

    /// The newest End, whatever came after it.
    pub fn last_end(&self) -> Option<&End> {
        self.records.iter().rev().find_map(|(_, link)| if let Link::End(end) = link { Some(end) } else { None })
    }

    /// Where the word on ends stands: the number of the newest End, or of a Dirty that came after it.
    pub fn newest_word(&self) -> u64 {
        let word = self.records.iter().rev().find(|(_, link)| !matches!(link, Link::Begin { .. }));
        word.map_or(0, |(number, _)| *number)
    }

    /// What a life continues, by the newest record that says so.
    pub fn begin_of(&self, salt: Salt) -> Option<Cursor> {
        self.records.iter().rev().find_map(|(_, link)| match link {
            Link::Begin { salt: new, follows } if *new == salt => Some(*follows),
            _ => None,
        })
    }

    /// The life that continues a point, by the newest record that says so.
    pub fn after(&self, point: &Cursor) -> Option<Salt> {
        self.records.iter().rev().find_map(|(_, link)| match link {
            // A record of a life that continues itself says nothing.
            Link::Begin { salt, follows } if follows.same_point(point) && *salt != point.salt => Some(*salt),
            _ => None,
        })
    }

    /// Points at which a life ended: those of Ends, and what Begins continue.
    pub fn points(&self) -> impl Iterator<Item = &Cursor> {
        self.records.iter().filter_map(|(_, link)| match link {
            Link::End(end) => Some(&end.cursor),
            Link::Begin { follows, .. } => Some(follows),
            Link::Dirty => None,
        })
    }

    /// True where some life's End is this very point.
    pub fn ends_at(&self, point: &Cursor) -> bool {
        self.records.iter().any(|(_, link)| matches!(link, Link::End(end) if end.cursor.same_point(point)))
    }

    /// Takes a record as given, in memory only.
    pub fn assume(&mut self, link: Link) {
        self.records.push((self.newest() + 1, link));
    }

    /// The number of the newest record; 0 where there is none.
    pub fn newest(&self) -> u64 {
        self.records.last().map_or(0, |(number, _)| *number)
    }

    /// Appends one record by a single write into its slot, without a sync: a kill cannot lose it.
    pub fn append(path: &PathBuf, after: u64, link: &Link) -> Result<u64> {
        let number = after + 1;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("open", path, e))?;
        file.write_all_at(&encode(number, link), (number % RECORDS) * RECORD_BYTES as u64)
            .map_err(|e| Error::io("write", path, e))?;
        Ok(number)
    }
}

fn encode(number: u64, link: &Link) -> Vec<u8> {
    let (kind, end, salt) = match link {
        Link::End(end) => (END, *end, Salt::default()),
        Link::Begin { salt, follows } => (BEGIN, bare(*follows), *salt),
        Link::Dirty => (DIRTY, bare(Cursor::default()), Salt::default()),
    };
    let mut out = Out::default();
    out.u32(MAGIC);
    out.u32(kind);
    out.u64(number);
    out.end(&end);
    out.0.extend_from_slice(&salt.0);
    out.sealed(RECORD_BYTES)
}

fn decode(raw: &[u8]) -> Option<(u64, Link)> {
    let mut fields = opened(raw)?;
    if fields.u32()? != MAGIC {
        return None;
    }
    let kind = fields.u32()?;
    let number = fields.u64()?;
    let end = fields.end()?;
    let salt = Salt(fields.bytes()?);
    let link = match kind {
        END => Link::End(end),
        BEGIN => Link::Begin { salt, follows: end.cursor },
        DIRTY => Link::Dirty,
        _ => return None,
    };
    Some((number, link))
}

fn bare(cursor: Cursor) -> End {
    End { cursor, commit: 0, change: 0, stat: Stat::default(), header: 0 }
}

impl Out {
    /// An End's fields, 68 bytes.
    pub(super) fn end(&mut self, end: &End) {
        self.cursor(&end.cursor);
        self.u32(end.commit);
        self.u32(end.change);
        self.stat(&end.stat);
        self.u64(end.header);
    }
}

impl In<'_> {
    /// What [`Out::end`] wrote.
    pub(super) fn end(&mut self) -> Option<End> {
        Some(End {
            cursor: self.cursor()?,
            commit: self.u32()?,
            change: self.u32()?,
            stat: self.stat()?,
            header: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(n: u8, frame: u32) -> Cursor {
        Cursor { salt: Salt([n; 8]), frame, checksum: [7, u32::from(n)] }
    }

    // Goal: the ring keeps its newest records in order, past its own length. Method: 200 appends, read back.
    #[test]
    fn the_ring_keeps_the_newest_records() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("links");
        let mut number = 0;
        for n in 0..100u8 {
            let stat = Stat { inode: 1, size: 2, modified: i64::from(n), boot: 4 };
            let end = End { cursor: cursor(n, 9), commit: 3, change: 4, stat, header: 5 };
            number = Links::append(&path, number, &Link::End(end)).expect("append");
            let begin = Link::Begin { salt: Salt([n + 1; 8]), follows: cursor(n, 9) };
            number = Links::append(&path, number, &begin).expect("append");
        }
        let links = Links::read(&path).expect("read");
        assert_eq!(links.newest(), 200);
        assert_eq!(links.records.len(), 64);
        assert_eq!(links.newest_end().expect("an end").cursor, cursor(99, 9));
        assert_eq!(links.begin_of(Salt([100; 8])), Some(cursor(99, 9)));
        assert_eq!(links.after(&cursor(99, 9)), Some(Salt([100; 8])));
        assert_eq!(links.after(&cursor(1, 9)), None);
        let mut links = links;
        links.assume(Link::Begin { salt: Salt([99; 8]), follows: cursor(99, 9) });
        assert_eq!(links.after(&cursor(99, 9)), Some(Salt([100; 8])), "a life does not continue itself");
    }

    // Goal: a torn record is not believed. Method: flip one byte of the newest.
    #[test]
    fn a_torn_record_is_passed_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("links");
        let begin = Link::Begin { salt: Salt([1; 8]), follows: cursor(0, 1) };
        Links::append(&path, 0, &begin).expect("append");
        Links::append(&path, 1, &Link::Dirty).expect("append");
        let mut raw = std::fs::read(&path).expect("read");
        raw[2 * RECORD_BYTES + 9] ^= 1;
        std::fs::write(&path, raw).expect("write");
        assert_eq!(Links::read(&path).expect("read").newest(), 1);
    }
}
