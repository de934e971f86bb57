//! What a look at the database file from outside tells: identity, size and time of the last write.
//!
//! It proves something within one boot only. A power loss may keep what was written to the file and lose its new time
//! (SQLite syncs by fdatasync, which leaves the time out), and together with it the records that name what was written.

use super::codec::crc;
use crate::error::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

/// Where Linux names the boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Identity of a database file at one moment. Two equal ones mean that nothing wrote to it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// The file.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last write, nanoseconds since the Unix epoch.
    pub modified: i64,
    /// The boot in which somebody looked; 0 where the system does not name it.
    pub boot: u64,
}

impl Stat {
    /// Stats a path; never opens it. `None` where nothing is there.
    pub fn of(path: &Path) -> Result<Option<Stat>> {
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(Stat {
                inode: meta.ino(),
                size: meta.size(),
                modified: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
                boot: boot(),
            })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("stat", path, e)),
        }
    }
}

/// A number for this boot of the machine.
fn boot() -> u64 {
    static THIS: OnceLock<u64> = OnceLock::new();
    *THIS.get_or_init(|| std::fs::read(BOOT).map_or(0, |id| crc(&id).max(1)))
}
