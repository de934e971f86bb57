//! One connection through the shim: what its file handle tells the engine, call by call.
//!
//! The shim forwards to the base VFS and calls here before or after, as each name says. SQLite uses a
//! handle from one thread at a time, so everything takes `&mut self`. Nothing here can fail towards SQLite:
//! the only answers of our own are `Busy` where a method returns [`Answer`].

use crate::base::{Lock, ReadAt, Region};
use crate::db::Db;
use std::sync::Arc;

/// What the shim does with a call of SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go on as the base VFS did.
    Forward,
    /// Undo what the base granted (release the lock just taken) and answer SQLITE_BUSY.
    Busy,
}

/// One open handle on a replicated database. Dropped by the shim in `xClose`, before it is forwarded.
pub struct Conn {
    db: Arc<Db>,
}

impl Conn {
    pub(crate) fn new(db: Arc<Db>) -> Conn {
        Conn { db }
    }

    /// The database that this connection belongs to.
    pub fn db(&self) -> &Arc<Db> {
        &self.db
    }

    /// Before `xLock` is forwarded.
    pub fn locking(&mut self, _level: Lock) {}

    /// After the base granted `xLock(level)`. `wal` is this connection's `-wal` handle, where one is open.
    pub fn locked(&mut self, _level: Lock, _database: &dyn ReadAt, _wal: Option<&dyn ReadAt>) -> Answer {
        Answer::Forward
    }

    /// Before `xUnlock(level)` is forwarded.
    pub fn unlocking(&mut self, _level: Lock) {}

    /// After `xShmMap` gave a region (also when it gave the same one again).
    pub fn shm_mapped(&mut self, _index: u32, _region: Arc<dyn Region>) {}

    /// Before `xShmUnmap` is forwarded: after this call no region of this connection is touched again.
    pub fn shm_unmapping(&mut self) {}

    /// Before `xShmLock(LOCK)` is forwarded.
    pub fn shm_locking(&mut self, _slot: u8, _n: u8, _exclusive: bool) -> Answer {
        Answer::Forward
    }

    /// After the base granted `xShmLock(LOCK)`.
    pub fn shm_locked(&mut self, _slot: u8, _n: u8, _exclusive: bool, _wal: Option<&dyn ReadAt>) -> Answer {
        Answer::Forward
    }

    /// Before `xShmLock(UNLOCK)` is forwarded.
    pub fn shm_unlocking(&mut self, _slot: u8, _n: u8, _exclusive: bool, _wal: Option<&dyn ReadAt>) {}

    /// Before `xWrite` on the `-wal` is forwarded. `wal` reads the file as it is now.
    pub fn wal_writing(&mut self, _offset: u64, _data: &[u8], _database: &dyn ReadAt, _wal: &dyn ReadAt) {}

    /// Before `xTruncate` on the `-wal` is forwarded.
    pub fn wal_truncating(&mut self, _size: u64, _database: &dyn ReadAt, _wal: &dyn ReadAt) {}

    /// Before `xWrite` on the database is forwarded (rollback modes and checkpoints).
    pub fn database_writing(&mut self, _offset: u64, _len: usize) {}

    /// Before `xTruncate` on the database is forwarded.
    pub fn database_truncating(&mut self, _size: u64) {}

    /// `xOpen` of this database's rollback journal went by (a hot journal or a new one).
    pub fn journal_opened(&mut self) {}

    /// SQLITE_FCNTL_SYNC, before it is forwarded: in rollback modes the transaction is all in the file.
    pub fn sync_coming(&mut self, _database: &dyn ReadAt) {}

    /// SQLITE_FCNTL_COMMIT_PHASETWO, before it is forwarded.
    pub fn committed(&mut self, _database: &dyn ReadAt, _wal: Option<&dyn ReadAt>) {}

    /// SQLITE_FCNTL_CKPT_DONE: what was written to the database since was no commit.
    pub fn checkpointed(&mut self) {}

    /// What this handle learns of `PRAGMA synchronous` does not reach a VFS; `xSync` on the database does.
    pub fn database_syncing(&mut self) {}
}
