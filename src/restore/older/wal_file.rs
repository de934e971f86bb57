//! One WAL of a 0.3 replica, put together from its segments, and its transactions written into the database.
//!
//! What SQLite's checkpoint would do, without SQLite: the newest committed copy of each page, then the size of the last
//! commit. Unlike SQLite, a frame that is wrong is an error, not the end: 0.3 stores only frames that it has checked.

use crate::error::{Error, Result};
use crate::page::{PageSize, Pgno};
use crate::wal::{FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, WalHeader, frame_checksum, frame_offset};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// A WAL on disk that nobody else sees: its name is gone before the first byte is in it.
pub(super) struct WalFile {
    file: File,
    path: PathBuf,
    size: u64,
}

/// What the transactions of a WAL wrote.
struct Committed {
    /// Size of the pages.
    page_size: PageSize,
    /// Page to its newest frame.
    pages: BTreeMap<Pgno, u32>,
    /// Database size in pages after the last transaction; `None` where there is no transaction.
    commit: Option<u32>,
}

impl WalFile {
    /// An empty one, in the folder of the database.
    pub fn create(database: &Path) -> Result<WalFile> {
        let mut path = database.as_os_str().to_owned();
        path.push(".frames");
        let path = PathBuf::from(path);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|e| Error::io("create", &path, e))?;
        std::fs::remove_file(&path).map_err(|e| Error::io("unlink", &path, e))?;
        Ok(WalFile { file, path, size: 0 })
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the content of a segment; errors of reading it are `explain`'s.
    pub fn append(&mut self, content: &mut dyn Read, explain: &dyn Fn(std::io::Error) -> Error) -> Result<()> {
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let n = content.read(&mut buffer).map_err(explain)?;
            if n == 0 {
                return Ok(());
            }
            self.file.write_all(&buffer[..n]).map_err(|e| Error::io("write", &self.path, e))?;
            self.size += n as u64;
        }
    }

    /// Writes what was committed into the database, and is empty again. `name` is the WAL's, for errors.
    pub fn apply(&mut self, name: &str, database: &File, path: &Path, page_size: PageSize) -> Result<()> {
        let committed = self.committed(name)?;
        if committed.page_size != page_size {
            return Err(Error::Corrupt(format!(
                "WAL {name} has pages of {} bytes, its database of {}",
                committed.page_size.get(),
                page_size.get()
            )));
        }
        if let Some(commit) = committed.commit {
            let mut page = vec![0u8; page_size.bytes()];
            for (&pgno, &frame) in committed.pages.range(..=Pgno(commit)) {
                let at = frame_offset(page_size, frame) + FRAME_HEADER_BYTES as u64;
                self.file.read_exact_at(&mut page, at).map_err(|e| Error::io("read", &self.path, e))?;
                database.write_all_at(&page, page_size.offset(pgno)).map_err(|e| Error::io("write", path, e))?;
            }
            let size = u64::from(commit) * u64::from(page_size.get());
            database.set_len(size).map_err(|e| Error::io("truncate", path, e))?;
        }
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|e| Error::io("truncate", &self.path, e))?;
        self.size = 0;
        Ok(())
    }

    /// Checks every frame and takes those of transactions.
    fn committed(&mut self, name: &str) -> Result<Committed> {
        let wrong = |what: String| Error::Corrupt(format!("WAL {name}: {what}"));
        let unreadable = |e| Error::io("read", &self.path, e);
        (&self.file).seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let mut bytes = BufReader::with_capacity(BUFFER, &self.file);
        let mut raw = [0u8; HEADER_BYTES];
        if self.size < HEADER_BYTES as u64 {
            return Err(wrong(format!("{} bytes are less than its header", self.size)));
        }
        bytes.read_exact(&mut raw).map_err(unreadable)?;
        let Some(header) = WalHeader::decode(&raw) else { return Err(wrong("its header is none".into())) };
        let frame_bytes = (FRAME_HEADER_BYTES + header.page_size.bytes()) as u64;
        let (frames, rest) =
            ((self.size - raw.len() as u64) / frame_bytes, (self.size - raw.len() as u64) % frame_bytes);
        if rest != 0 {
            return Err(wrong(format!("{rest} bytes of a frame stand at its end")));
        }
        let mut found = Committed { page_size: header.page_size, pages: BTreeMap::new(), commit: None };
        let mut open = Vec::new();
        let mut checksum = header.checksum;
        let mut raw = vec![0u8; frame_bytes as usize];
        for number in 1..=frames as u32 {
            bytes.read_exact(&mut raw).map_err(unreadable)?;
            let frame = FrameHeader::decode(&raw);
            checksum = frame_checksum(header.big_endian, checksum, &raw);
            if frame.salt != header.salt || frame.checksum != checksum || frame.pgno == Pgno(0) {
                return Err(wrong(format!("frame {number} of {frames} has another checksum than its bytes")));
            }
            open.push((frame.pgno, number));
            if frame.commit > 0 {
                found.pages.extend(open.drain(..));
                found.commit = Some(frame.commit);
            }
        }
        Ok(found)
    }
}
