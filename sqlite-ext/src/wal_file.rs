//! The method table of a replicated database's `-wal` file: one short function per slot, in SQLite's order.
//!
//! A WAL has no locks, no shared memory and no file controls of its own, but what the real file has stays there.

use crate::database::Database;
use crate::handle::{self, forward, state};
use crate::real::Real;
use libsqlite3_sys::{SQLITE_IOERR, SQLITE_NOTFOUND, sqlite3_file, sqlite3_io_methods};
use std::ffi::{c_int, c_void};

/// One open `-wal` of a replicated database.
pub struct Wal {
    /// The base VFS's file.
    pub real: Real,
    /// The handle on the database, until that is closed.
    pub database: *mut Database,
}

/// The table, before it is cut to what the real file has.
pub const METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: Some(x_fetch),
    xUnfetch: Some(x_unfetch),
};

/// This file's database handle.
fn database<'a>(file: *mut sqlite3_file) -> Option<(&'a mut Database, Real)> {
    // SAFETY: wrapped with a `Wal`; its database's handle clears the pointer when it is closed; one call of SQLite at
    // a time per connection.
    unsafe {
        let wal = state::<Wal>(file);
        wal.database.as_mut().map(|database| (database, wal.real))
    }
}

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once and uses it no more.
    let wal = unsafe { handle::unwrap::<Wal>(file) };
    // SAFETY: null once the database's handle is closed.
    if let Some(database) = unsafe { wal.database.as_mut() } {
        database.wal = std::ptr::null_mut();
    }
    forward!(file, xClose => SQLITE_IOERR)
}

unsafe extern "C" fn x_read(file: *mut sqlite3_file, buf: *mut c_void, n: c_int, offset: i64) -> c_int {
    forward!(file, xRead, buf, n, offset => SQLITE_IOERR)
}

unsafe extern "C" fn x_write(file: *mut sqlite3_file, buf: *const c_void, n: c_int, offset: i64) -> c_int {
    if let Some((database, wal)) = database(file) {
        // SAFETY: SQLite gives `n` bytes to write.
        let data = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), n.max(0) as usize) };
        database.tell((), |conn, real, _| conn.wal_writing(offset.max(0) as u64, data, real, &wal));
    }
    forward!(file, xWrite, buf, n, offset => SQLITE_IOERR)
}

unsafe extern "C" fn x_truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    if let Some((database, wal)) = database(file) {
        database.tell((), |conn, real, _| conn.wal_truncating(size.max(0) as u64, real, &wal));
    }
    forward!(file, xTruncate, size => SQLITE_IOERR)
}

unsafe extern "C" fn x_sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    forward!(file, xSync, flags => SQLITE_IOERR)
}

unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    forward!(file, xFileSize, size => SQLITE_IOERR)
}

unsafe extern "C" fn x_lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(file, xLock, level => SQLITE_IOERR)
}

unsafe extern "C" fn x_unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(file, xUnlock, level => SQLITE_IOERR)
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut sqlite3_file, result: *mut c_int) -> c_int {
    forward!(file, xCheckReservedLock, result => SQLITE_IOERR)
}

unsafe extern "C" fn x_file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    forward!(file, xFileControl, op, argument => SQLITE_NOTFOUND)
}

unsafe extern "C" fn x_sector_size(file: *mut sqlite3_file) -> c_int {
    forward!(file, xSectorSize => 0)
}

unsafe extern "C" fn x_device_characteristics(file: *mut sqlite3_file) -> c_int {
    forward!(file, xDeviceCharacteristics => 0)
}

unsafe extern "C" fn x_fetch(file: *mut sqlite3_file, offset: i64, n: c_int, page: *mut *mut c_void) -> c_int {
    forward!(file, xFetch, offset, n, page => SQLITE_IOERR)
}

unsafe extern "C" fn x_unfetch(file: *mut sqlite3_file, offset: i64, page: *mut c_void) -> c_int {
    forward!(file, xUnfetch, offset, page => SQLITE_IOERR)
}
