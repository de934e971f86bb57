//! What lies in the memory that SQLite gives to `xOpen`: our header, then the base VFS's own file.
//!
//! A file that is not wrapped starts at the header's place instead, so that SQLite calls the base directly. The
//! method table is made per file: its version and its optional methods are the real file's.

use crate::api::Api;
use crate::real::Real;
use libsqlite3_sys::{sqlite3_file, sqlite3_io_methods};
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The header of a wrapped file.
#[repr(C)]
struct Header {
    file: sqlite3_file,
    methods: sqlite3_io_methods,
    state: *mut c_void,
}

/// Where the base VFS's file begins: as an allocator would align it.
pub const REAL_AT: usize = size_of::<Header>().next_multiple_of(16);

/// The base VFS's file behind one of our headers.
///
/// # Safety
/// `file` has our header.
pub unsafe fn real(file: *mut sqlite3_file) -> Real {
    // SAFETY: the caller's promise.
    Real(unsafe { file.byte_add(REAL_AT) })
}

/// What we know about a wrapped file.
///
/// # Safety
/// `file` was wrapped with a `T`, and nothing else refers to it during this call of SQLite.
pub unsafe fn state<'a, T>(file: *mut sqlite3_file) -> &'a mut T {
    // SAFETY: the caller's promise; the box lives until `unwrap`.
    unsafe { &mut *(*file.cast::<Header>()).state.cast::<T>() }
}

/// Writes the header: from now on SQLite calls `methods`. A pointer to the state, which stays where it is.
///
/// # Safety
/// `file` is the memory that SQLite gave to `xOpen`, of our `szOsFile` bytes.
pub unsafe fn wrap<T>(file: *mut sqlite3_file, methods: sqlite3_io_methods, state: T) -> *mut T {
    let state = Box::into_raw(Box::new(state));
    let header = file.cast::<Header>();
    // SAFETY: the caller's promise; the table lies beside the file that points at it and moves no more than it.
    unsafe {
        header.write(Header { file: sqlite3_file { pMethods: std::ptr::null() }, methods, state: state.cast() });
        (*header).file.pMethods = &raw const (*header).methods;
    }
    state
}

/// Takes the state out, in `xClose`. SQLite uses the file no more.
///
/// # Safety
/// As `state`; called once.
pub unsafe fn unwrap<T>(file: *mut sqlite3_file) -> Box<T> {
    // SAFETY: made by `wrap`; the caller's promise.
    unsafe {
        let header = file.cast::<Header>();
        (*header).file.pMethods = std::ptr::null();
        Box::from_raw((*header).state.cast::<T>())
    }
}

/// Our table with only those methods that the real file has.
pub fn as_real(ours: sqlite3_io_methods, real: &sqlite3_io_methods) -> sqlite3_io_methods {
    let version: c_int = real.iVersion.min(3);
    let (shm, fetch) = (version >= 2, version >= 3);
    sqlite3_io_methods {
        iVersion: version,
        xClose: ours.xClose.filter(|_| real.xClose.is_some()),
        xRead: ours.xRead.filter(|_| real.xRead.is_some()),
        xWrite: ours.xWrite.filter(|_| real.xWrite.is_some()),
        xTruncate: ours.xTruncate.filter(|_| real.xTruncate.is_some()),
        xSync: ours.xSync.filter(|_| real.xSync.is_some()),
        xFileSize: ours.xFileSize.filter(|_| real.xFileSize.is_some()),
        xLock: ours.xLock.filter(|_| real.xLock.is_some()),
        xUnlock: ours.xUnlock.filter(|_| real.xUnlock.is_some()),
        xCheckReservedLock: ours.xCheckReservedLock.filter(|_| real.xCheckReservedLock.is_some()),
        xFileControl: ours.xFileControl.filter(|_| real.xFileControl.is_some()),
        xSectorSize: ours.xSectorSize.filter(|_| real.xSectorSize.is_some()),
        xDeviceCharacteristics: ours.xDeviceCharacteristics.filter(|_| real.xDeviceCharacteristics.is_some()),
        xShmMap: ours.xShmMap.filter(|_| shm && real.xShmMap.is_some()),
        xShmLock: ours.xShmLock.filter(|_| shm && real.xShmLock.is_some()),
        xShmBarrier: ours.xShmBarrier.filter(|_| shm && real.xShmBarrier.is_some()),
        xShmUnmap: ours.xShmUnmap.filter(|_| shm && real.xShmUnmap.is_some()),
        xFetch: ours.xFetch.filter(|_| fetch && real.xFetch.is_some()),
        xUnfetch: ours.xUnfetch.filter(|_| fetch && real.xUnfetch.is_some()),
    }
}

/// The handles on replicated databases, by the pointer to the file name that SQLite gave to `xOpen`: a journal's or
/// WAL's name leads back to that very pointer. One per connection, also where several have the same path.
#[derive(Default)]
pub struct Open(Mutex<HashMap<usize, (usize, Api)>>);

impl Open {
    /// A database's handle is open, by the SQLite of `api`.
    pub fn insert(&self, name: *const c_char, database: *mut crate::database::Database, api: Api) {
        self.all().insert(name as usize, (database as usize, api));
    }

    /// A database's handle is closed.
    pub fn remove(&self, name: *const c_char) {
        self.all().remove(&(name as usize));
    }

    /// The handle whose file has this name. The connection that asks owns it, so it is not closed meanwhile.
    pub fn find(&self, name: *const c_char) -> Option<*mut crate::database::Database> {
        self.all().get(&(name as usize)).map(|(database, _)| *database as *mut crate::database::Database)
    }

    /// True while this SQLite has a replicated database open.
    pub fn has(&self, api: Api) -> bool {
        self.all().values().any(|(_, of)| *of == api)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<usize, (usize, Api)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls a method of the real file. Only methods that it has are in our table (see `handle::as_real`).
macro_rules! forward {
    ($file:expr, $method:ident $(, $argument:expr)* => $absent:expr) => {{
        // SAFETY: SQLite calls with an open file of ours, whose real file is open too.
        unsafe {
            let real = $crate::handle::real($file);
            match real.methods().$method {
                Some(method) => method(real.0 $(, $argument)*),
                None => $absent,
            }
        }
    }};
}
pub(crate) use forward;
