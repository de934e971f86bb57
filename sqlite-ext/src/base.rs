//! The base VFS as the engine sees it: handles of our own on a database, with their locks and shared memory.
//!
//! A handle is opened through the base VFS, never by path through the system: the base knows which of its descriptors
//! share SQLite's POSIX locks and closes none of them too early.

use crate::api::Api;
use crate::fork;
use crate::real::{Mapped, Real, outcome, required};
use libsqlite3_sys::{
    SQLITE_BUSY, SQLITE_FCNTL_HAS_MOVED, SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_NONE, SQLITE_LOCK_PENDING,
    SQLITE_LOCK_RESERVED, SQLITE_LOCK_SHARED, SQLITE_NOTFOUND, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_READONLY,
    SQLITE_OPEN_READWRITE, SQLITE_SHM_EXCLUSIVE, SQLITE_SHM_LOCK, SQLITE_SHM_SHARED, SQLITE_SHM_UNLOCK,
    SQLITE_SYNC_NORMAL, sqlite3_file, sqlite3_vfs,
};
use litestream_engine::base::{BaseFile, BaseVfs, Lock, Opinion, ReadAt, Region};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The VFS below the shim.
pub struct Base {
    api: Api,
    vfs: *mut sqlite3_vfs,
    name: String,
    /// One of SQLite's own for Unix: they share one `xOpen`. Looked up once: to find a VFS, SQLite initialises itself where it
    /// is shut down, and our threads must not.
    is_native: bool,
}

// SAFETY: a registered VFS is constant and may be called from any thread.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Base {
    /// # Safety
    /// `vfs` is registered with the SQLite of `api` and never freed.
    pub unsafe fn new(api: Api, vfs: *mut sqlite3_vfs) -> Base {
        // SAFETY: the caller's promise; a VFS has a name.
        let name = unsafe { CStr::from_ptr((*vfs).zName) }.to_string_lossy().into_owned();
        let unix = api.vfs_find(Some(c"unix"));
        // SAFETY: both are registered, and constant.
        let is_native = unsafe {
            unix.as_ref().is_some_and(|unix| unix.xOpen.map(|f| f as usize) == (*vfs).xOpen.map(|f| f as usize))
        };
        Base { api, vfs, name, is_native }
    }
}

impl BaseVfs for Base {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_native(&self) -> bool {
        self.is_native
    }

    fn open_database(&self, path: &Path, read_only: bool) -> io::Result<Box<dyn BaseFile>> {
        // A base that finds no file says so in SQLite's log, on a thread that is not the host's.
        if !path.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = OwnName::new(self.api, path)?;
        // SAFETY: the VFS is valid; see `new`.
        let bytes = usize::try_from(unsafe { (*self.vfs).szOsFile }).unwrap_or(0).max(size_of::<sqlite3_file>());
        let mut memory = vec![0u128; bytes.div_ceil(size_of::<u128>())];
        let file = memory.as_mut_ptr().cast::<sqlite3_file>();
        let access = if read_only { SQLITE_OPEN_READONLY } else { SQLITE_OPEN_READWRITE };
        let mut got = 0;
        // SAFETY: zeroed memory of the size that the base asks for, and a name that stays until the file is closed.
        let rc =
            unsafe { required((*self.vfs).xOpen)?(self.vfs, name.text, file, access | SQLITE_OPEN_MAIN_DB, &mut got) };
        // SAFETY: the base has set this where there is a file to close.
        if unsafe { (*file).pMethods }.is_null() {
            outcome(rc, "xOpen")?;
            return Err(io::Error::other("xOpen of the base VFS opened no file"));
        }
        // From here on the file is closed by dropping `Own`.
        let own = Own { real: Real(file), regions: Mutex::default(), _memory: memory, _name: name };
        outcome(rc, "xOpen")?;
        if !read_only && got & SQLITE_OPEN_READONLY != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the database can only be opened for reading"));
        }
        Ok(Box::new(own))
    }

    fn quick_check(&self, path: &Path, go_on: &dyn Fn() -> bool) -> Opinion {
        let named = self.api.vfs_find(CString::new(self.name.as_str()).ok().as_deref());
        if named != self.vfs {
            return Opinion::Unknown(format!("another VFS is called `{}` by now", self.name));
        }
        match fork::current() {
            Some(life) => life.checks.run(self.api, &self.name, path, go_on),
            None => Opinion::Stopped,
        }
    }
}

/// A file name in the form that `xOpen` wants.
struct OwnName {
    api: Api,
    text: *const c_char,
}

// SAFETY: constant text until it is dropped.
unsafe impl Send for OwnName {}

impl OwnName {
    fn new(api: Api, path: &Path) -> io::Result<OwnName> {
        let bytes = path.as_os_str().as_bytes();
        let with = |suffix: &str| {
            CString::new([bytes, suffix.as_bytes()].concat())
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL in it"))
        };
        let text = api.create_filename(&with("")?, &with("-journal")?, &with("-wal")?);
        if text.is_null() { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(OwnName { api, text }) }
    }
}

impl Drop for OwnName {
    fn drop(&mut self) {
        // SAFETY: from create_filename.
        unsafe { self.api.free_filename(self.text) }
    }
}

/// A handle of our own. Fields are dropped in this order, after the file is closed.
struct Own {
    real: Real,
    regions: Mutex<Vec<(u32, Arc<Mapped>)>>,
    _memory: Vec<u128>,
    _name: OwnName,
}

impl Own {
    fn end_regions(&self) {
        for (_, region) in self.regions.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            region.end();
        }
    }

    /// BUSY is `false`; anything else that is not OK an error.
    fn granted(rc: c_int, what: &str) -> io::Result<bool> {
        if rc & 0xff == SQLITE_BUSY { Ok(false) } else { outcome(rc, what).map(|()| true) }
    }
}

impl ReadAt for Own {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.real.read(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.real.size()
    }
}

impl BaseFile for Own {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.real.write(buf, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let size = i64::try_from(size).map_err(|_| io::Error::other("a size beyond what a file can have"))?;
        // SAFETY: open until dropped, as everywhere in this impl.
        outcome(unsafe { required(self.real.methods().xTruncate)?(self.real.0, size) }, "xTruncate")
    }

    fn has_moved(&self) -> io::Result<bool> {
        let mut moved: c_int = 0;
        // SAFETY: open; this opcode fills in an int.
        let rc = unsafe {
            required(self.real.methods().xFileControl)?(
                self.real.0,
                SQLITE_FCNTL_HAS_MOVED,
                (&raw mut moved).cast::<c_void>(),
            )
        };
        if rc == SQLITE_NOTFOUND { Ok(false) } else { outcome(rc, "xFileControl").map(|()| moved != 0) }
    }

    fn sync(&self) -> io::Result<()> {
        // SAFETY: open.
        outcome(unsafe { required(self.real.methods().xSync)?(self.real.0, SQLITE_SYNC_NORMAL) }, "xSync")
    }

    fn lock(&self, level: Lock) -> io::Result<bool> {
        // SAFETY: open.
        Own::granted(unsafe { required(self.real.methods().xLock)?(self.real.0, number(level)) }, "xLock")
    }

    fn unlock(&self, level: Lock) -> io::Result<()> {
        // SAFETY: open.
        outcome(unsafe { required(self.real.methods().xUnlock)?(self.real.0, number(level)) }, "xUnlock")
    }

    fn shm_map(&self, index: u32, extend: bool) -> io::Result<Option<Arc<dyn Region>>> {
        let number = c_int::try_from(index).map_err(|_| io::Error::other("no such region"))?;
        let Some(memory) = self.real.map(number, extend)? else { return Ok(None) };
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = regions.iter().find(|(at, region)| *at == index && region.is(memory)) {
            return Ok(Some(Arc::clone(known) as Arc<dyn Region>));
        }
        // SAFETY: mapped by the base until xShmUnmap or xClose, before which `end_regions` is called.
        let region = Arc::new(unsafe { Mapped::new(memory) });
        regions.push((index, Arc::clone(&region)));
        Ok(Some(region))
    }

    fn shm_lock(&self, slot: u8, n: u8, exclusive: bool) -> io::Result<bool> {
        let flags = SQLITE_SHM_LOCK | if exclusive { SQLITE_SHM_EXCLUSIVE } else { SQLITE_SHM_SHARED };
        // SAFETY: open.
        let Some(methods) = (unsafe { self.real.shm_methods() }) else { return Ok(false) };
        // SAFETY: open.
        let rc = unsafe { required(methods.xShmLock)?(self.real.0, slot.into(), n.into(), flags) };
        Own::granted(rc, "xShmLock")
    }

    fn shm_unlock(&self, slot: u8, n: u8, exclusive: bool) -> io::Result<()> {
        let flags = SQLITE_SHM_UNLOCK | if exclusive { SQLITE_SHM_EXCLUSIVE } else { SQLITE_SHM_SHARED };
        // SAFETY: open.
        let Some(methods) = (unsafe { self.real.shm_methods() }) else { return Ok(()) };
        // SAFETY: open.
        outcome(unsafe { required(methods.xShmLock)?(self.real.0, slot.into(), n.into(), flags) }, "xShmLock")
    }

    fn shm_barrier(&self) {
        // SAFETY: open.
        if let Some(barrier) = unsafe { self.real.shm_methods() }.and_then(|methods| methods.xShmBarrier) {
            // SAFETY: open.
            unsafe { barrier(self.real.0) }
        }
    }

    fn shm_unmap(&self) -> io::Result<()> {
        self.end_regions();
        // SAFETY: open.
        match unsafe { self.real.shm_methods() }.and_then(|methods| methods.xShmUnmap) {
            // SAFETY: open; zero keeps the file.
            Some(unmap) => outcome(unsafe { unmap(self.real.0, 0) }, "xShmUnmap"),
            None => Ok(()),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.regions.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty() {
            // Nothing can be done about an error here: the file is closed next.
            let _ = self.shm_unmap();
        }
        // SAFETY: open, and closed once; its memory and name are dropped afterwards.
        if let Some(close) = unsafe { self.real.methods() }.xClose {
            // SAFETY: as above.
            unsafe { close(self.real.0) };
        }
    }
}

fn number(level: Lock) -> c_int {
    match level {
        Lock::None => SQLITE_LOCK_NONE,
        Lock::Shared => SQLITE_LOCK_SHARED,
        Lock::Reserved => SQLITE_LOCK_RESERVED,
        Lock::Pending => SQLITE_LOCK_PENDING,
        Lock::Exclusive => SQLITE_LOCK_EXCLUSIVE,
    }
}
