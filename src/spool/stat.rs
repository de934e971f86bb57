//! What a look at the database file from outside tells: identity, size and time of the last write.

use crate::error::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Identity of a database file at one moment. Two equal ones mean that nothing wrote to it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// The file.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last write, nanoseconds since the Unix epoch.
    pub modified: i64,
}

impl Stat {
    /// Stats a path; never opens it. `None` where nothing is there.
    pub fn of(path: &Path) -> Result<Option<Stat>> {
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(Stat {
                inode: meta.ino(),
                size: meta.size(),
                modified: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("stat", path, e)),
        }
    }
}
