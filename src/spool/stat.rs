//! What a look at the database file from outside tells: identity, size and time of the last write.
//!
//! It proves something within one boot only. A power loss may keep what was written to the file and lose its new time
//! (SQLite syncs by fdatasync, which leaves the time out), and together with it the records that name what was written.

use super::codec::crc;
use crate::error::{Error, Result};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

/// Where Linux names the boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// An odd number without a pattern: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Identity of a database file at one moment. Two equal ones mean that nothing wrote to it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// The file: its inode, with its time of birth folded in where the file system keeps one. An inode alone comes
    /// again as soon as a file is deleted and another made.
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
                inode: meta.ino() ^ birth(&meta),
                size: meta.size(),
                modified: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
                boot: boot(),
            })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("stat", path, e)),
        }
    }

    /// The same as a look in this boot would have found it: only where a file is known to rest durably.
    pub fn in_this_boot(self) -> Stat {
        Stat { boot: boot(), ..self }
    }
}

/// The time of birth, spread over the bits so that an inode beside it stays distinct; 0 where there is none.
fn birth(meta: &Metadata) -> u64 {
    let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    born.map_or(0, |born| (born.as_nanos() as u64).wrapping_mul(SPREAD))
}

/// A number for this boot of the machine.
fn boot() -> u64 {
    static THIS: OnceLock<u64> = OnceLock::new();
    *THIS.get_or_init(|| std::fs::read(BOOT).map_or(0, |id| crc(&id).max(1)))
}
