//! What the shim knows about one open handle on a replicated database, and how it tells the engine.
//!
//! Owns the engine's [`Conn`] and the regions of the wal-index that the handle mapped. Two cases silence it: the
//! process forked (the handle belongs to the parent), and a panic of the engine on this handle.

use crate::border;
use crate::fork;
use crate::guard::{ResetGuard, Salts};
use crate::real::{Mapped, Real};
use crate::register::Registration;
use crate::wal_file::Wal;
use libsqlite3_sys::{SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_NONE, SQLITE_LOCK_RESERVED, SQLITE_LOCK_SHARED};
use litestream_engine::base::{Lock, ReadAt, Region};
use litestream_engine::conn::Conn;
use litestream_engine::db::Db;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// Regions of one wal-index; SQLite's page numbers are 32 bits, hence about a million regions.
const REGIONS_MAX: usize = 1 << 20;

/// One open handle on a replicated database.
pub struct Database {
    /// The SQLite that opened it.
    pub registration: &'static Registration,
    /// The base VFS's file.
    pub real: Real,
    /// The name that SQLite gave; it stays as long as the handle.
    pub name: *const c_char,
    /// This connection's open `-wal`.
    pub wal: *mut Wal,
    /// The lock held on the database file.
    pub level: c_int,
    /// A write transaction is open, as far as the calls show it.
    pub writing: bool,
    conn: Option<Conn>,
    life: u64,
    regions: Vec<Option<Arc<Mapped>>>,
    guard: ResetGuard,
}

impl Database {
    /// A handle that the base VFS has just opened; without `conn` it is forwarded only.
    pub fn new(registration: &'static Registration, real: Real, name: *const c_char, conn: Option<Conn>) -> Database {
        Database {
            registration,
            real,
            name,
            wal: std::ptr::null_mut(),
            level: SQLITE_LOCK_NONE,
            writing: false,
            conn,
            life: fork::life(),
            regions: Vec::new(),
            guard: ResetGuard::new(registration.api.version()),
        }
    }

    /// Opened by this process, not by the one that it was forked from.
    pub fn is_ours(&self) -> bool {
        self.life == fork::life()
    }

    /// Handles whose calls the engine sees.
    pub fn is_watched(&self) -> bool {
        self.conn.is_some() && self.is_ours()
    }

    /// The replicated database, where the engine sees this handle.
    pub fn db(&self) -> Option<&Arc<Db>> {
        if self.is_ours() { self.conn.as_ref().map(Conn::db) } else { None }
    }

    /// Tells the engine, unless this handle is silenced. After a panic in there it is.
    pub fn tell<R>(&mut self, otherwise: R, call: impl FnOnce(&mut Conn, &Real, Option<&dyn ReadAt>) -> R) -> R {
        if !self.is_ours() {
            return otherwise;
        }
        let Some(conn) = &mut self.conn else { return otherwise };
        // SAFETY: set while this connection's `-wal` is open.
        let wal = unsafe { self.wal.as_ref() }.map(|wal| wal.real);
        match border::guard(|| call(conn, &self.real, wal.as_ref().map(|wal| wal as &dyn ReadAt))) {
            Ok(answer) => answer,
            Err(panic) => {
                self.silence(&panic);
                otherwise
            }
        }
    }

    /// The engine panicked on this handle: it is forwarded only from now on, and the status says so.
    fn silence(&mut self, panic: &str) {
        let Some(conn) = self.conn.take() else { return };
        log::error!(target: "litestream", "replication of {} failed inside litestream: {panic}; the database \
                    itself goes on; please report this", conn.db().path().display());
        border::shield("reporting a failure", (), || conn.db().failed(panic));
        border::shield("leaving a failed connection", (), || drop(conn));
    }

    /// In `xClose`, before it is forwarded.
    pub fn leave(&mut self) {
        if let Some(conn) = self.conn.take() {
            if self.is_ours() {
                border::shield("closing a connection", (), || drop(conn));
            } else {
                // The parent's: dropping it here would count down and lock what belongs to its threads.
                std::mem::forget(conn);
            }
        }
        if self.is_ours() {
            self.end_regions();
        } else {
            std::mem::forget(std::mem::take(&mut self.regions));
        }
        // SAFETY: this connection's `-wal` handle, still open (sqlite3-ruby closes the database's first in a child).
        if let Some(wal) = unsafe { self.wal.as_mut() } {
            wal.database = std::ptr::null_mut();
        }
    }

    /// After `xLock` was granted.
    pub fn lock_granted(&mut self, level: c_int) {
        self.level = level;
        if level == SQLITE_LOCK_RESERVED {
            self.writing = true;
        }
    }

    /// Before `xUnlock`.
    pub fn lock_falls(&mut self, level: c_int) {
        self.level = level;
        self.writing = false;
    }

    /// Whether a refused EXCLUSIVE can be undone: the unix VFS goes down to SHARED or nothing only, so a
    /// RESERVED lock from before would be lost without SQLite's knowledge.
    pub fn can_refuse(before: c_int) -> bool {
        before <= SQLITE_LOCK_SHARED
    }

    /// Before the base is asked for a slot; after it granted one (`true`: take it back, see [`ResetGuard`]).
    pub fn slot_granted(&mut self, slot: c_int, n: c_int, exclusive: bool) -> bool {
        if !self.is_watched() {
            return false;
        }
        let regions = &self.regions;
        let refused = self.guard.granted(slot, n, exclusive, || {
            let mut salts = Salts::default();
            regions.first()?.as_ref()?.load(SALTS_AT, &mut salts);
            Some(salts)
        });
        if slot == WRITE_SLOT && exclusive {
            self.writing = true;
        }
        refused
    }

    /// Before a slot is released.
    pub fn slot_falls(&mut self, slot: c_int, exclusive: bool) {
        self.guard.released(slot, exclusive);
        if slot == WRITE_SLOT && exclusive {
            self.writing = false;
        }
    }

    /// `xShmMap` gave a region: the same one is the same `Arc`.
    pub fn mapped(&mut self, index: c_int, memory: *mut c_void) {
        let Ok(index) = usize::try_from(index) else { return };
        if !self.is_watched() || index >= REGIONS_MAX {
            return;
        }
        if self.regions.len() <= index {
            self.regions.resize(index + 1, None);
        }
        let region = match &self.regions[index] {
            Some(region) if region.is(memory) => Arc::clone(region),
            old => {
                if let Some(old) = old {
                    old.end();
                }
                // SAFETY: mapped by the base until xShmUnmap, before which `end_regions` is called.
                Arc::new(unsafe { Mapped::new(memory) })
            }
        };
        self.regions[index] = Some(Arc::clone(&region));
        self.tell((), |conn, _, _| conn.shm_mapped(index as u32, region));
    }

    /// Before `xShmUnmap` is forwarded.
    pub fn unmapping(&mut self) {
        self.tell((), |conn, _, _| conn.shm_unmapping());
        if self.is_ours() {
            self.end_regions();
        }
    }

    fn end_regions(&mut self) {
        for region in self.regions.drain(..).flatten() {
            region.end();
        }
    }
}

/// WAL_WRITE_LOCK.
pub const WRITE_SLOT: c_int = 0;
/// Offset of the salts in the wal-index header.
const SALTS_AT: usize = 32;

/// SQLite's number for a lock on the database, in the engine's words.
pub fn lock(level: c_int) -> Lock {
    match level {
        SQLITE_LOCK_NONE => Lock::None,
        SQLITE_LOCK_SHARED => Lock::Shared,
        SQLITE_LOCK_RESERVED => Lock::Reserved,
        SQLITE_LOCK_EXCLUSIVE => Lock::Exclusive,
        _ => Lock::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register;
    use litestream_engine::registry::{Ask, Door, Opening, Registry};

    unsafe extern "C" fn version() -> c_int {
        3_053_000
    }

    /// Goal: a panic of the engine ends the replication of one handle, is told in the status, and leaves SQLite its
    /// answer. Method: a real connection whose call panics.
    #[test]
    fn a_panic_of_the_engine_silences_one_handle_and_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let registration = register::pretended(version);
        let replica = format!("file://{}/replica", folder.path().display());
        let ask = Ask {
            path: &folder.path().join("app.db"),
            params: &[("replica".to_string(), replica)],
            read_only: false,
            create: true,
            door: Door::Named,
            unsafe_locks: None,
            base: Arc::clone(&registration.base_vfs),
        };
        let Ok(Opening::Replicated(pending)) = Registry::new().open(ask) else { panic!("not replicated") };
        let conn = pending.connect();
        let real = Real(std::ptr::null_mut());
        let mut database = Database::new(registration, real, c"app.db".as_ptr(), Some(conn));
        let db = Arc::clone(database.db().expect("watched"));
        assert_eq!(database.tell(1, |_, _, _| 2), 2, "before");
        assert_eq!(database.tell(1, |_, _, _| panic!("a defect for the test")), 1, "SQLite's answer stands");
        assert!(!database.is_watched());
        assert_eq!(database.tell(1, |_, _, _| panic!("never called")), 1);
        let status = db.status();
        assert!(status.state.starts_with("failed"), "{}", status.state);
        assert!(format!("{status:?}").contains("a defect for the test"), "{status:?}");
    }
}
