//! The base VFS and the memory it shares, as the engine sees them.
//!
//! The engine forbids unsafe code, so the extension implements these traits over C. Nothing here opens or
//! closes the database or its `-shm` by path: within a process that has the database open, that would
//! drop SQLite's POSIX locks.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// SQLite's locks on a database file, in their order of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    /// No lock.
    None,
    /// May read.
    Shared,
    /// Will write; others still read.
    Reserved,
    /// Waits for the readers to leave.
    Pending,
    /// Alone.
    Exclusive,
}

/// A file that can be read at an offset: a handle of the base VFS.
pub trait ReadAt {
    /// Fills `buf` from `offset`; a short read is `UnexpectedEof` (what was there has been filled in, the rest is zero).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A 32 KiB region of the wal-index as `xShmMap` returned it. Shared with other processes, so it is read
/// by copies; it stays valid until the handle that mapped it is told to unmap.
pub trait Region: Send + Sync {
    /// Copies bytes out.
    fn load(&self, offset: usize, buf: &mut [u8]);
    /// Stores a number in the host's byte order (a read mark).
    fn store_u32(&self, offset: usize, value: u32);
}

/// A handle of the base VFS on the database file, opened for the engine itself.
pub trait BaseFile: ReadAt + Send {
    /// Writes all of `buf` at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// True where the file of this name is another one by now, or none.
    fn has_moved(&self) -> io::Result<bool>;
    /// Makes it durable.
    fn sync(&self) -> io::Result<()>;
    /// Takes a lock; `false` is BUSY.
    fn lock(&self, level: Lock) -> io::Result<bool>;
    /// Goes back to `Shared` or `None`.
    fn unlock(&self, level: Lock) -> io::Result<()>;
    /// Maps a region of the wal-index; `None` where there is none and `extend` is false, or where the base has no shared memory.
    fn shm_map(&self, index: u32, extend: bool) -> io::Result<Option<Arc<dyn Region>>>;
    /// Locks `n` slots from `slot` (0 WRITE, 1 CKPT, 2 RECOVER, 3 to 7 READ0 to READ4); `false` is BUSY.
    fn shm_lock(&self, slot: u8, n: u8, exclusive: bool) -> io::Result<bool>;
    /// Releases what `shm_lock` took, with the same words.
    fn shm_unlock(&self, slot: u8, n: u8, exclusive: bool) -> io::Result<()>;
    /// A memory barrier between processes.
    fn shm_barrier(&self);
    /// Unmaps the wal-index without deleting it.
    fn shm_unmap(&self) -> io::Result<()>;
}

/// What SQLite's `quick_check` says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// Nothing wrong.
    Sound,
    /// What it found.
    Damaged(String),
    /// Why it says nothing: there is no SQLite, or it cannot judge this file without its application.
    Unknown(String),
    /// It was told to end, or had to before the file's end; the same call may go on later.
    Stopped,
}

/// The VFS below the shim.
pub trait BaseVfs: Send + Sync {
    /// Its name, for example `unix`.
    fn name(&self) -> &str;
    /// One of those that SQLite brings: what it stores is what it is given.
    fn is_native(&self) -> bool;
    /// Opens a handle of our own on an existing database.
    fn open_database(&self, path: &Path, read_only: bool) -> io::Result<Box<dyn BaseFile>>;
    /// Has the host's SQLite check a whole file that is ours alone. Asks `go_on` every [`crate::limits::CHECK_LOOK`].
    fn quick_check(&self, _path: &Path, _go_on: &dyn Fn() -> bool) -> Opinion {
        Opinion::Unknown("there is no SQLite here".into())
    }
}
