//! A Segment: the newest copy of each page changed between two Cursors, saved because the WAL that held them
//! is about to be reset, or because a rollback-journal transaction committed.
//!
//! Written under a temporary name and renamed, so whole or absent after a kill; the checksum of all its bytes
//! answers a power loss. Never changed afterwards.

use super::Stat;
use super::codec::{In, Out, crc};
use super::links::End;
use crate::error::{Error, Result};
use crate::page::{PageSize, Pgno};
use crate::wal::Cursor;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const MAGIC: &[u8; 8] = b"LSVSEG2\n";
const HEADER_BYTES: usize = 136;
const WITHOUT_CONTENTS: u32 = 1;
const FOLLOWS: u32 = 2;
const UNLINKED: u32 = 4;
const ROLLBACK: u32 = 8;
/// Bytes read at a time when a Segment is verified.
const VERIFY_CHUNK: usize = 1 << 20;
/// Bytes written at a time.
const WRITE_BYTES: usize = 64 << 10;

/// What a Segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Where it starts.
    pub from: Cursor,
    /// Where it ends: a commit.
    pub to: Cursor,
    /// What the life of `from` continues, where `from` is its start.
    pub follows: Option<Cursor>,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Database size in pages at `to`.
    pub commit: u32,
    /// Page numbers only: the contents did not fit, and are read later from the database.
    pub without_contents: bool,
    /// Continuity with what came before is not proven.
    pub unlinked: bool,
    /// Made of a rollback-journal transaction: the file with that transaction in it.
    pub after: Option<After>,
}

/// The database file at the moment when a rollback-journal transaction was all in it and not yet committed: by this it
/// is told later whether one whose writer died was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct After {
    /// The change counter.
    pub change: u32,
    /// The file.
    pub stat: Stat,
    /// Hash of the header, as an [`End`] has it.
    pub header: u64,
}

impl Head {
    /// The End that a committed rollback-journal transaction is.
    pub fn end(&self) -> Option<End> {
        let After { change, stat, header } = self.after?;
        Some(End { cursor: self.to, commit: self.commit, change, stat, header })
    }
}

/// An existing Segment.
///
/// | off | field (big-endian) |
/// |----:|---|
/// | 0 | magic `LSVSEG2\n` |
/// | 8 | flags: 1 without contents, 2 follows, 4 unlinked, 8 rollback |
/// | 12 | page size, Commit, count of pages |
/// | 24 | from, to, follows (20 each) |
/// | 84 | rollback: change counter (4); inode, size, mtime of the database, the boot (8 each); hash of its header (8) |
/// | 128 | CRC-64 of bytes 0..128 |
/// | 136 | page numbers, each once, 4 bytes each |
/// | … | contents in the same order |
/// | end-8 | CRC-64 of everything from 136 on |
#[derive(Debug)]
pub struct Segment {
    /// What it says of itself.
    pub head: Head,
    /// Its pages, each once, in the order of their contents.
    pub pages: Vec<Pgno>,
    /// Its file.
    pub path: PathBuf,
    /// Opened for the contents only, and kept open only where `keeps_open`: there may be more Segments than descriptors.
    file: OnceLock<File>,
    keeps_open: bool,
}

impl Segment {
    /// True where this holds everything between `cursor` and its own end.
    pub fn covers(&self, cursor: &Cursor) -> bool {
        let (from, to) = (&self.head.from, &self.head.to);
        from.salt == cursor.salt
            && from.frame <= cursor.frame
            && (from.frame < cursor.frame || from.same_point(cursor))
            && (to.salt != cursor.salt || cursor.frame < to.frame)
    }

    /// True where every page of the database is in here: an image of its own.
    pub fn is_whole(&self) -> bool {
        let lock = self.head.page_size.lock_page().0;
        let all = self.head.commit - u32::from(lock <= self.head.commit);
        !self.head.without_contents && self.pages.len() == all as usize
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        let contents = if self.head.without_contents { 0 } else { self.pages.len() * self.head.page_size.bytes() };
        (HEADER_BYTES + 4 * self.pages.len() + contents + 8) as u64
    }

    /// Opens a Segment and reads its table; contents are checked by [`Segment::verify`].
    pub fn open(path: &Path) -> Result<Segment> {
        let file = File::open(path).map_err(|e| Error::io("open segment", path, e))?;
        let torn = |what: &str| Error::Corrupt(format!("segment {}: {what}", path.display()));
        let mut raw = [0u8; HEADER_BYTES];
        file.read_exact_at(&mut raw, 0).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => torn("shorter than its header"),
            _ => Error::io("read segment", path, e),
        })?;
        let (head, count) = decode(&raw).ok_or_else(|| torn("its header is torn"))?;
        let length = file.metadata().map_err(|e| Error::io("stat segment", path, e))?.len();
        let contents = if head.without_contents { 0 } else { u64::from(head.page_size.get()) };
        if length != HEADER_BYTES as u64 + u64::from(count) * (4 + contents) + 8 {
            return Err(torn("its length is not what its header says"));
        }
        let mut table = vec![0u8; 4 * count as usize];
        file.read_exact_at(&mut table, HEADER_BYTES as u64).map_err(|e| Error::io("read segment", path, e))?;
        let pages = table
            .chunks_exact(4)
            .map(|raw| Pgno(u32::from_be_bytes(raw.try_into().expect("chunks of four"))))
            .collect();
        Ok(Segment { head, pages, path: path.to_path_buf(), file: OnceLock::new(), keeps_open: false })
    }

    /// Whether its file stays open between reads.
    pub fn keep_open(&mut self, keeps_open: bool) {
        self.keeps_open = keeps_open;
        if !keeps_open {
            self.file = OnceLock::new();
        }
    }

    fn with_file<T>(&self, work: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        if let Some(file) = self.file.get() {
            return work(file);
        }
        let file = File::open(&self.path).map_err(|e| Error::io("open segment", &self.path, e))?;
        if self.keeps_open { work(self.file.get_or_init(|| file)) } else { work(&file) }
    }

    /// Checks the checksum of everything behind the header.
    pub fn verify(&self) -> Result<()> {
        let read = |e| Error::io("read segment", &self.path, e);
        self.with_file(|file| {
            let end = self.bytes() - 8;
            let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
            let mut at = HEADER_BYTES as u64;
            let mut buf = vec![0u8; VERIFY_CHUNK.min((end - at) as usize)];
            while at < end {
                let n = buf.len().min((end - at) as usize);
                file.read_exact_at(&mut buf[..n], at).map_err(read)?;
                digest.update(&buf[..n]);
                at += n as u64;
            }
            let mut sum = [0u8; 8];
            file.read_exact_at(&mut sum, end).map_err(read)?;
            if u64::from_be_bytes(sum) == digest.finalize() {
                Ok(())
            } else {
                Err(Error::Corrupt(format!("segment {}: its checksum does not hold", self.path.display())))
            }
        })
    }

    /// Reads the contents of the `index`-th page.
    pub fn read(&self, index: usize, buf: &mut [u8]) -> Result<()> {
        let at = (HEADER_BYTES + 4 * self.pages.len() + index * buf.len()) as u64;
        self.with_file(|file| file.read_exact_at(buf, at).map_err(|e| Error::io("read segment", &self.path, e)))
    }

    /// Makes it durable.
    pub fn sync(&self) -> Result<()> {
        self.with_file(|file| file.sync_data().map_err(|e| Error::io("sync segment", &self.path, e)))
    }
}

/// The name of a Segment: where it starts, where it ends.
pub fn name(head: &Head) -> String {
    let Head { from, to, .. } = head;
    format!("{}-{:08x}-{:08x}-{:08x}{:08x}.segment", from.salt, from.frame, to.frame, to.checksum[0], to.checksum[1])
}

/// Writes a Segment to `path` (a temporary name that the caller renames), calling `read` for the contents of
/// each page in the order of `pages`. Not synced: a kill cannot lose it, and the Leader makes it durable.
/// The checksum of everything behind the header.
pub fn write(
    path: &Path,
    head: &Head,
    pages: &[Pgno],
    mut read: impl FnMut(Pgno, &mut [u8]) -> Result<()>,
) -> Result<u64> {
    let failed = |e| Error::io("write segment", path, e);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
    let mut out = encode(head, pages.len() as u32);
    let table = out.len();
    out.extend(pages.iter().flat_map(|pgno| pgno.0.to_be_bytes()));
    digest.update(&out[table..]);
    if !head.without_contents {
        for pgno in pages {
            // Read to where it is written from: a Gate waits for each copy.
            let at = out.len();
            out.resize(at + head.page_size.bytes(), 0);
            read(*pgno, &mut out[at..])?;
            digest.update(&out[at..]);
            if out.len() >= WRITE_BYTES {
                file.write_all(&out).map_err(failed)?;
                out.clear();
            }
        }
    }
    let sum = digest.finalize();
    out.extend(sum.to_be_bytes());
    file.write_all(&out).map_err(failed)?;
    Ok(sum)
}

fn encode(head: &Head, count: u32) -> Vec<u8> {
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let mut out = Out::default();
    out.0.extend_from_slice(MAGIC);
    out.u32(
        flag(head.without_contents, WITHOUT_CONTENTS)
            | flag(head.follows.is_some(), FOLLOWS)
            | flag(head.unlinked, UNLINKED)
            | flag(head.after.is_some(), ROLLBACK),
    );
    out.u32(head.page_size.get());
    out.u32(head.commit);
    out.u32(count);
    out.cursor(&head.from);
    out.cursor(&head.to);
    out.cursor(&head.follows.unwrap_or_default());
    let After { change, stat, header } = head.after.unwrap_or_default();
    out.u32(change);
    out.stat(&stat);
    out.u64(header);
    out.sealed(HEADER_BYTES)
}

fn decode(raw: &[u8; HEADER_BYTES]) -> Option<(Head, u32)> {
    if crc(&raw[..HEADER_BYTES - 8]).to_be_bytes() != raw[HEADER_BYTES - 8..] {
        return None;
    }
    let mut fields = In(raw);
    if &fields.bytes::<8>()? != MAGIC {
        return None;
    }
    let flags = fields.u32()?;
    let page_size = PageSize::new(fields.u32()?).ok()?;
    let (commit, count) = (fields.u32()?, fields.u32()?);
    let (from, to, follows) = (fields.cursor()?, fields.cursor()?, fields.cursor()?);
    let change = fields.u32()?;
    let stat = fields.stat()?;
    let after = After { change, stat, header: fields.u64()? };
    let head = Head {
        from,
        to,
        follows: (flags & FOLLOWS != 0).then_some(follows),
        page_size,
        commit,
        without_contents: flags & WITHOUT_CONTENTS != 0,
        unlinked: flags & UNLINKED != 0,
        after: (flags & ROLLBACK != 0).then_some(after),
    };
    Some((head, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Salt;

    fn head() -> Head {
        let from = Cursor { salt: Salt([1; 8]), frame: 4, checksum: [1, 1] };
        let to = Cursor { salt: Salt([1; 8]), frame: 9, checksum: [2, 2] };
        let page_size = PageSize::new(512).expect("a size");
        Head {
            from,
            to,
            follows: None,
            page_size,
            commit: 9,
            without_contents: false,
            unlinked: false,
            after: Some(After { change: 3, stat: Stat { inode: 1, size: 2, modified: 3, boot: 4 }, header: 4 }),
        }
    }

    // Goal: a Segment reads back what was written and notices every flipped byte. Method: flip each in turn.
    #[test]
    fn a_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let pages = [Pgno(2), Pgno(7)];
        write(&path, &head(), &pages, |pgno, page| {
            page.fill(pgno.0 as u8);
            Ok(())
        })
        .expect("write");
        let segment = Segment::open(&path).expect("open");
        segment.verify().expect("verify");
        assert_eq!((segment.head, &segment.pages[..]), (head(), &pages[..]));
        let mut page = [0u8; 512];
        segment.read(1, &mut page).expect("read");
        assert_eq!(page, [7u8; 512]);
        let raw = std::fs::read(&path).expect("read");
        assert_eq!(raw.len() as u64, segment.bytes());
        for at in (0..raw.len()).step_by(13) {
            let mut bad = raw.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, bad).expect("write");
            assert!(Segment::open(&path).and_then(|s| s.verify()).is_err(), "byte {at}");
        }
    }

    // Goal: covering is by life, frame and, where frames meet, checksum. Method: cursors around the edges.
    #[test]
    fn a_segment_covers_cursors_from_its_start_to_before_its_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        write(&path, &head(), &[], |_, _| Ok(())).expect("write");
        let segment = Segment::open(&path).expect("open");
        let at = |frame, sum| Cursor { salt: Salt([1; 8]), frame, checksum: [sum, sum] };
        assert!(segment.covers(&at(4, 1)));
        assert!(!segment.covers(&at(4, 9)), "another history with the same frame number");
        assert!(segment.covers(&at(8, 9)), "inside: an upload moved the state into its middle");
        assert!(!segment.covers(&at(9, 2)));
        assert!(!segment.covers(&at(3, 1)));
        assert!(!segment.covers(&Cursor { salt: Salt([2; 8]), frame: 5, checksum: [1, 1] }));
    }
}
