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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;
    use crate::register::{self, Registration};
    use crate::wal_file::{self, Wal};
    use crate::{file as database_file, real};
    use libsqlite3_sys::{SQLITE_LOCK_SHARED, SQLITE_NOTFOUND, SQLITE_OK, SQLITE_SHM_LOCK, SQLITE_SHM_SHARED};
    use std::ffi::CStr;

    const NAME: &CStr = c"app.db";

    /// A file of a VFS below, with its bytes and its wal-index in its own memory.
    #[repr(C)]
    struct Below {
        file: sqlite3_file,
        bytes: [u8; 32],
        shared: [u32; real::REGION_BYTES / 4],
        is_closed: bool,
    }

    fn below<'a>(file: *mut sqlite3_file) -> &'a mut Below {
        // SAFETY: the tests make each file below with a `Below`.
        unsafe { &mut *file.cast::<Below>() }
    }

    unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
        below(file).is_closed = true;
        SQLITE_OK
    }

    unsafe extern "C" fn read(file: *mut sqlite3_file, to: *mut c_void, n: c_int, at: i64) -> c_int {
        // SAFETY: as many bytes as the test gives, inside of the file.
        unsafe { below(file).bytes.as_ptr().add(at as usize).copy_to(to.cast(), n as usize) };
        SQLITE_OK
    }

    unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, n: c_int, at: i64) -> c_int {
        // SAFETY: as above.
        unsafe { below(file).bytes.as_mut_ptr().add(at as usize).copy_from(from.cast(), n as usize) };
        SQLITE_OK
    }

    unsafe extern "C" fn lock(_: *mut sqlite3_file, _: c_int) -> c_int {
        SQLITE_OK
    }

    unsafe extern "C" fn control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
        SQLITE_NOTFOUND
    }

    unsafe extern "C" fn map(file: *mut sqlite3_file, _: c_int, _: c_int, _: c_int, to: *mut *mut c_void) -> c_int {
        // SAFETY: SQLite's place for an answer.
        unsafe { *to = below(file).shared.as_mut_ptr().cast() };
        SQLITE_OK
    }

    unsafe extern "C" fn slots(_: *mut sqlite3_file, _: c_int, _: c_int, _: c_int) -> c_int {
        SQLITE_OK
    }

    unsafe extern "C" fn unmap(_: *mut sqlite3_file, _: c_int) -> c_int {
        SQLITE_OK
    }

    /// What such a file has, in a table of that version.
    const fn table(version: c_int) -> sqlite3_io_methods {
        sqlite3_io_methods {
            iVersion: version,
            xClose: Some(close),
            xRead: Some(read),
            xWrite: Some(write),
            xTruncate: None,
            xSync: None,
            xFileSize: None,
            xLock: Some(lock),
            xUnlock: Some(lock),
            xCheckReservedLock: None,
            xFileControl: Some(control),
            xSectorSize: None,
            xDeviceCharacteristics: None,
            xShmMap: Some(map),
            xShmLock: Some(slots),
            xShmBarrier: None,
            xShmUnmap: Some(unmap),
            xFetch: None,
            xUnfetch: None,
        }
    }

    static WHOLE: sqlite3_io_methods = table(2);
    static WITHOUT_SHARED_MEMORY: sqlite3_io_methods = table(1);

    /// The memory that SQLite gives to `xOpen`, with an open file of the VFS below behind the room for our header.
    struct Opened(Vec<u128>);

    impl Opened {
        fn new(methods: &'static sqlite3_io_methods) -> Opened {
            let mut opened = Opened(vec![0; (REAL_AT + size_of::<Below>()).div_ceil(16)]);
            let file = sqlite3_file { pMethods: methods };
            let below = Below { file, bytes: [0; 32], shared: [0; real::REGION_BYTES / 4], is_closed: false };
            // SAFETY: there is room for it.
            unsafe { super::real(opened.file()).0.cast::<Below>().write(below) };
            opened
        }

        fn file(&mut self) -> *mut sqlite3_file {
            self.0.as_mut_ptr().cast()
        }

        fn below(&mut self) -> &mut Below {
            // SAFETY: written by `new`.
            below(unsafe { super::real(self.file()) }.0)
        }

        /// Our table over it.
        fn wrap<T>(&mut self, ours: sqlite3_io_methods, state: impl FnOnce(Real) -> T) -> *mut T {
            // SAFETY: an open file behind the room for our header.
            unsafe {
                let real = super::real(self.file());
                super::wrap(self.file(), as_real(ours, real.methods()), state(real))
            }
        }

        /// The table that SQLite calls.
        fn methods(&mut self) -> sqlite3_io_methods {
            // SAFETY: wrapped, and not closed.
            unsafe { *(*self.file()).pMethods }
        }
    }

    unsafe extern "C" fn version() -> c_int {
        3_053_000
    }

    fn registration() -> &'static Registration {
        register::pretended(version)
    }

    /// Goal: SQLite gets the real file's answers through our table, and no method that the real file lacks. Method: a file
    /// below in the same memory, called by the table; run under Miri, which judges each access.
    #[test]
    fn a_wrapped_file_forwards_what_the_real_one_has() {
        for (below, has_shared_memory) in [(&WHOLE, true), (&WITHOUT_SHARED_MEMORY, false)] {
            let mut opened = Opened::new(below);
            opened.wrap(database_file::METHODS, |real| Database::new(registration(), real, NAME.as_ptr(), None));
            let (file, methods) = (opened.file(), opened.methods());
            assert_eq!((methods.iVersion, methods.xSync.is_some()), (below.iVersion, false));
            assert_eq!(methods.xShmMap.is_some(), has_shared_memory, "cut to its version");
            let mut found = [0u8; 3];
            // SAFETY: a wrapped file, called as SQLite does.
            unsafe {
                assert_eq!(methods.xWrite.unwrap()(file, b"abc".as_ptr().cast(), 3, 5), SQLITE_OK);
                assert_eq!(methods.xRead.unwrap()(file, found.as_mut_ptr().cast(), 3, 5), SQLITE_OK);
                assert_eq!(methods.xLock.unwrap()(file, SQLITE_LOCK_SHARED), SQLITE_OK);
                assert_eq!(methods.xFileControl.unwrap()(file, 4711, std::ptr::null_mut()), SQLITE_NOTFOUND);
                if has_shared_memory {
                    let mut memory = std::ptr::null_mut();
                    assert_eq!(
                        methods.xShmMap.unwrap()(file, 0, real::REGION_BYTES as c_int, 1, &mut memory),
                        SQLITE_OK
                    );
                    assert!(!memory.is_null());
                    assert_eq!(methods.xShmLock.unwrap()(file, 3, 1, SQLITE_SHM_LOCK | SQLITE_SHM_SHARED), SQLITE_OK);
                    assert_eq!(methods.xShmUnmap.unwrap()(file, 0), SQLITE_OK);
                }
                assert_eq!(methods.xClose.unwrap()(file), SQLITE_OK);
            }
            assert_eq!(&found, b"abc");
            assert!(opened.below().is_closed && opened.below().bytes[5..8] == found);
        }
    }

    /// Goal: a `-wal` and its database may be closed in either order: sqlite3-ruby closes the database first in a forked
    /// child. Method: both orders, with a write to each before and, to the `-wal`, after.
    #[test]
    fn a_wal_and_its_database_are_closed_in_either_order() {
        for database_first in [false, true] {
            let (mut main, mut beside) = (Opened::new(&WHOLE), Opened::new(&WHOLE));
            let state = |real| Database::new(registration(), real, NAME.as_ptr(), None);
            let database = main.wrap(database_file::METHODS, state);
            let wal = beside.wrap(wal_file::METHODS, |real| Wal { real, database });
            // SAFETY: made just now.
            unsafe { (*database).wal = wal };
            let write = |opened: &mut Opened| {
                let (file, methods) = (opened.file(), opened.methods());
                // SAFETY: a wrapped file, called as SQLite does.
                assert_eq!(unsafe { methods.xWrite.unwrap()(file, b"x".as_ptr().cast(), 1, 0) }, SQLITE_OK);
            };
            let close = |opened: &mut Opened| {
                let (file, methods) = (opened.file(), opened.methods());
                // SAFETY: as above; once.
                assert_eq!(unsafe { methods.xClose.unwrap()(file) }, SQLITE_OK);
                assert!(opened.below().is_closed);
            };
            write(&mut main);
            write(&mut beside);
            if database_first {
                close(&mut main);
                write(&mut beside);
                close(&mut beside);
            } else {
                close(&mut beside);
                // SAFETY: the database is open.
                assert!(unsafe { (*database).wal.is_null() }, "it knows no -wal any more");
                write(&mut main);
                close(&mut main);
            }
        }
    }
}
