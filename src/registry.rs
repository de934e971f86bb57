//! The databases of this process: which files are replicated, where to, and by which `Db`.
//!
//! One registry lives per process life: after a fork the extension makes a new one in the child and leaks
//! the parent's, so no lock that a parent's thread held is ever waited for.

use crate::base::BaseVfs;
use crate::conn::Conn;
use crate::error::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Through which entry point the VFS was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `vfs=litestream`: a database without a replica is an error.
    Named,
    /// The default VFS: a database without a configured replica passes straight through.
    Default,
}

/// What `xOpen` of a main database asks.
pub struct Ask<'a> {
    /// Full path as SQLite made it (symlinks resolved).
    pub path: &'a Path,
    /// URI parameters in order, as SQLite decoded them.
    pub params: &'a [(String, String)],
    /// SQLITE_OPEN_READONLY.
    pub read_only: bool,
    /// SQLITE_OPEN_CREATE.
    pub create: bool,
    /// The entry point.
    pub door: Door,
    /// Why a database opened like this cannot be replicated (its locks do not hold between processes), as the
    /// beginning of a sentence. Where it would be replicated the open fails with it, before anything is restored.
    pub unsafe_locks: Option<String>,
    /// The VFS below.
    pub base: Arc<dyn BaseVfs>,
}

/// What becomes of an open.
pub enum Opening {
    /// Not replicated: the base VFS's own file, unwrapped.
    PassThrough,
    /// Open with the base VFS, then wrap: `connect` makes the connection.
    Replicated(Pending),
}

/// An open that the base VFS has yet to do. Dropped without `connect` when that fails.
pub struct Pending {
    path: PathBuf,
}

impl Pending {
    /// The base VFS opened the file.
    pub fn connect(self, _database: &dyn crate::base::ReadAt) -> Conn {
        Conn::new(Arc::new(crate::db::Db::new(self.path)))
    }
}

/// The databases of this process life.
#[derive(Default)]
pub struct Registry {}

impl Registry {
    /// An empty registry; no thread is started.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Decides what an open is, restores a missing file, and says in one sentence why an open fails.
    pub fn open(&self, ask: Ask<'_>) -> Result<Opening> {
        if ask.params.iter().any(|(key, value)| key == "replica" && value == "off") {
            return Ok(Opening::PassThrough);
        }
        if ask.read_only {
            return Ok(Opening::PassThrough);
        }
        if !ask.params.iter().any(|(key, _)| key == "replica") {
            // VACUUM INTO and ATTACH of a plain name come through the VFS of their connection.
            let inherited = !ask.params.iter().any(|(key, _)| key == "vfs");
            return match ask.door {
                Door::Default => Ok(Opening::PassThrough),
                Door::Named if inherited => Ok(Opening::PassThrough),
                Door::Named => Err(crate::error::Error::Usage(format!(
                    "{}: no replica is configured; add replica=URL to the database's URI",
                    ask.path.display()
                ))),
            };
        }
        if let Some(why) = ask.unsafe_locks {
            return Err(crate::error::Error::Usage(format!(
                "{}: {why}, so it cannot be replicated safely; use the `unix` VFS, or say replica=off",
                ask.path.display()
            )));
        }
        Ok(Opening::Replicated(Pending { path: ask.path.to_path_buf() }))
    }

    /// `xDelete` of a file whose name ends in `-wal`, before it is forwarded.
    pub fn wal_deleting(&self, _wal: &Path) {}

    /// Syncs every database of the process and waits, at most `timeout` (or each database's own
    /// `shutdown-sync-timeout`). The number of databases that are not fully stored.
    pub fn shutdown(&self, _timeout: Option<Duration>) -> usize {
        0
    }
}
