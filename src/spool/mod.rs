//! The Spool: the local folder `.NAME-litestream/` beside the database, with lock, state, links, Segments and
//! the LTX file being stored. Each file has one writer at a time.
//!
//! Owns the names and bytes of these files; who may write which, and when, is decided above.

mod codec;
mod kept;
mod links;
mod segment;
mod stat;
mod state;

pub use kept::Kept;
pub use links::{End, Link, Links};
pub use segment::{After, Head, Segment};
pub use stat::Stat;
pub use state::{State, kept};

use crate::error::{Error, Result};
use crate::fault;
use crate::page::Pgno;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Prefix of what is being written here. Never ending in `.tmp`: Litestream, whose folder this also is,
/// deletes those at its start.
const TEMPORARY: &str = "new-";
/// Prefix of a rollback transaction that is in the file and not yet committed.
const PREPARED: &str = "prepared-";
/// Suffix of a Segment.
const SEGMENT: &str = ".segment";

/// The folder beside one database.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
    links: PathBuf,
    state: PathBuf,
}

impl Spool {
    /// The Spool of a database; nothing is created.
    pub fn of(database: &Path) -> Spool {
        let name = database.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = database.with_file_name(format!(".{name}-litestream"));
        Spool { links: folder.join("links"), state: folder.join("state"), folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// True where the folder exists.
    pub fn exists(&self) -> bool {
        self.folder.is_dir()
    }

    /// Makes the folder, readable by its owner only.
    pub fn create(&self) -> Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Ok(()) => {
                if let Some(parent) = self.folder.parent() {
                    sync_folder(parent)?;
                }
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && !self.exists() => {
                Err(self.with_remedy(Error::io("open", &self.folder, std::io::ErrorKind::NotADirectory.into())))
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(Error::State(format!(
                "the folder {} cannot be made ({e}): replication keeps its state there; give this user write permission on {}",
                self.folder.display(),
                self.folder.parent().unwrap_or(Path::new("/")).display()
            ))),
        }
    }

    /// An error of the system about a file in here, with what a person can do about it.
    pub fn with_remedy(&self, e: Error) -> Error {
        let Error::Io { path, kind, .. } = &e else { return e };
        // An LTX file that is being encoded has no path where its writer fails: it stands in here.
        let full = *kind == std::io::ErrorKind::StorageFull && path.is_relative();
        if !path.starts_with(&self.folder) && !full {
            return e;
        }
        let remedy = match kind {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "give this process's user the folder and all in it (chown -R)"
            }
            std::io::ErrorKind::NotADirectory => "move away the file that stands where the folder should be",
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "make room on its disk",
            _ => return e,
        };
        let folder = self.folder.display();
        Error::State(format!("{e}; replication keeps its state in {folder}: {remedy}, and it goes on by itself"))
    }

    /// The path of a file in here.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A name of its own for a file that is being written.
    pub fn temporary(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{TEMPORARY}{what}-{}-{:016x}", std::process::id(), random()))
    }

    /// Reads `links`.
    pub fn links(&self) -> Result<Links> {
        Links::read(&self.links)
    }

    /// Appends to `links`; the caller holds SQLite's lock.
    pub fn link(&self, after: u64, link: &Link) -> Result<u64> {
        fault::point("link-coming");
        let number = Links::append(&self.links, after, link)?;
        fault::point("link-written");
        Ok(number)
    }

    /// Reads `state`.
    pub fn state(&self) -> Result<Option<State>> {
        State::read(&self.state)
    }

    /// Writes `state` durably, and that the database is not at rest; the caller is the Leader.
    pub fn set_state(&self, state: &mut State) -> Result<()> {
        self.set_rest(state, None)
    }

    /// Writes `state` durably, with the record of `links` at which the database rests.
    pub fn set_rest(&self, state: &mut State, rest: Option<u64>) -> Result<()> {
        fault::point("state-coming");
        state.rest = rest;
        state.write(&self.state)?;
        fault::point("state-written");
        Ok(())
    }

    /// Writes a Segment under its name.
    pub fn save(
        &self,
        head: &Head,
        pages: &[Pgno],
        read: impl FnMut(Pgno, &mut [u8]) -> Result<()>,
    ) -> Result<PathBuf> {
        let new = self.temporary("segment");
        let written = segment::write(&new, head, pages, read).and_then(|_| {
            let path = self.folder.join(segment::name(head));
            fault::point("segment-written");
            rename(&new, &path)?;
            fault::point("segment-saved");
            Ok(path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&new); // what is left is swept at the next open
        }
        written
    }

    /// Writes a rollback transaction as a prepared Segment: the Cursor that it ends at takes the checksum of
    /// its contents. `publish` makes it count.
    pub fn prepare(
        &self,
        mut head: Head,
        pages: &[Pgno],
        read: impl FnMut(Pgno, &mut [u8]) -> Result<()>,
    ) -> Result<(Head, PathBuf)> {
        let new = self.folder.join(format!("{PREPARED}{}-{:016x}", std::process::id(), random()));
        let sum = random();
        head.to.checksum = [(sum >> 32) as u32, sum as u32];
        match segment::write(&new, &head, pages, read) {
            Ok(_) => {
                fault::point("segment-prepared");
                Ok((head, new))
            }
            Err(e) => {
                let _ = std::fs::remove_file(&new); // what is left is swept at the next open
                Err(e)
            }
        }
    }

    /// Renames a prepared Segment to its name.
    pub fn publish(&self, head: &Head, prepared: &Path) -> Result<PathBuf> {
        let path = self.folder.join(segment::name(head));
        fault::point("segment-publishing");
        rename(prepared, &path)?;
        fault::point("segment-published");
        Ok(path)
    }

    /// Every file of the folder with its size.
    pub fn files(&self) -> Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(files),
            Err(e) => return Err(Error::io("list", &self.folder, e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &self.folder, e))?;
            // A file that another process deletes meanwhile is not there.
            let Ok(meta) = std::fs::symlink_metadata(entry.path()) else { continue };
            if meta.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), meta.size()));
            }
        }
        Ok(files)
    }

    /// Names of the Segments.
    pub fn segments(&self) -> Result<Vec<PathBuf>> {
        let files = self.files()?;
        Ok(files.iter().filter(|(name, _)| name.ends_with(SEGMENT)).map(|(name, _)| self.folder.join(name)).collect())
    }

    /// Bytes in the folder.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.files()?.iter().map(|(_, size)| size).sum())
    }

    /// Names of LTX files that wait to be stored.
    pub fn waiting(&self) -> Result<Vec<PathBuf>> {
        let files = self.files()?;
        Ok(files.iter().filter(|(name, _)| name.ends_with(".ltx")).map(|(name, _)| self.folder.join(name)).collect())
    }

    /// Deletes what writers that died left half-written; the caller is the Leader.
    pub fn sweep(&self) -> Result<()> {
        for (name, _) in self.files()? {
            if name.starts_with(TEMPORARY) && !writer_lives(&name) {
                remove(&self.folder.join(&name))?;
            }
        }
        Ok(())
    }

    /// Prepared Segments. Nobody writes one while the caller holds SHARED on the database.
    pub fn prepared(&self) -> Result<Vec<PathBuf>> {
        let files = self.files()?;
        Ok(files
            .iter()
            .filter(|(name, _)| name.starts_with(PREPARED))
            .map(|(name, _)| self.folder.join(name))
            .collect())
    }

    /// Makes the records of `links` durable, where there are any.
    pub fn sync_links(&self) -> Result<()> {
        match std::fs::File::open(&self.links).and_then(|file| file.sync_data()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("sync", &self.links, e)),
            _ => self.sync(),
        }
    }

    /// Makes names in here durable.
    pub fn sync(&self) -> Result<()> {
        sync_folder(&self.folder)
    }
}

/// Is the process that a temporary name speaks of alive?
fn writer_lives(name: &str) -> bool {
    let writer =
        name.rsplit('-').nth(1).and_then(|pid| pid.parse::<i32>().ok()).and_then(rustix::process::Pid::from_raw);
    writer.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder).and_then(|file| file.sync_all()).map_err(|e| Error::io("sync", folder, e))
}

/// Makes the names beside a database durable. A folder that this user may not read cannot be synced: SQLite, too, goes on.
pub fn sync_beside(database: &Path) -> Result<()> {
    match sync_folder(database.parent().unwrap_or(Path::new("/"))) {
        Err(Error::Io { kind: std::io::ErrorKind::PermissionDenied, .. }) => Ok(()),
        synced => synced,
    }
}

/// Deletes a file; one that is gone is no error.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Renames within a folder.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

/// A number that nobody else draws.
pub fn random() -> u64 {
    let mut raw = [0u8; 8];
    getrandom::fill(&mut raw).expect("the system has random numbers once it runs programs");
    u64::from_be_bytes(raw)
}

/// What rollback modes compare of a database header: everything from the page size on (bytes 16..100), which
/// the change counter makes new with each transaction. Never 0.
pub fn header_hash(header: &[u8; 100]) -> u64 {
    codec::crc(&header[16..]).max(1)
}
