//! A file on which everything fails: what an open of ours that failed gives to SQLite, so that the reason is seen.
//!
//! SQLite has one fixed text for an error from `xOpen`. So `xOpen` succeeds with this file, and the auto-extension
//! callback, which SQLite runs at the end of every `sqlite3_open`, fails the open with the reason. ATTACH
//! runs no such callback: there the first lock fails with CANTOPEN, and the log has the reason.

use crate::handle;
use crate::sql::{ASK, Answer, Question};
use libsqlite3_sys::{
    SQLITE_CANTOPEN, SQLITE_IOERR_SHORT_READ, SQLITE_NOTFOUND, SQLITE_OK, sqlite3_file, sqlite3_io_methods,
};
use std::ffi::{c_int, c_void};

/// Why the open failed.
struct Failed(String);

const METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
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
    xFetch: None,
    xUnfetch: None,
};

/// Makes `file` such a file.
///
/// # Safety
/// `file` is the memory that SQLite gave to `xOpen`.
pub unsafe fn wrap(file: *mut sqlite3_file, reason: String) {
    // SAFETY: the caller's promise.
    unsafe { handle::wrap(file, METHODS, Failed(reason)) };
}

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: wrapped with a `Failed`, closed once.
    drop(unsafe { handle::unwrap::<Failed>(file) });
    SQLITE_OK
}

/// SQLite reads the header while it opens, before any callback: an empty file lets it go on.
unsafe extern "C" fn x_read(_: *mut sqlite3_file, buf: *mut c_void, n: c_int, _: i64) -> c_int {
    // SAFETY: SQLite gives `n` bytes.
    unsafe { buf.cast::<u8>().write_bytes(0, n.max(0) as usize) };
    SQLITE_IOERR_SHORT_READ
}

unsafe extern "C" fn x_write(_: *mut sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    SQLITE_CANTOPEN
}

unsafe extern "C" fn x_truncate(_: *mut sqlite3_file, _: i64) -> c_int {
    SQLITE_CANTOPEN
}

unsafe extern "C" fn x_sync(_: *mut sqlite3_file, _: c_int) -> c_int {
    SQLITE_CANTOPEN
}

unsafe extern "C" fn x_file_size(_: *mut sqlite3_file, _: *mut i64) -> c_int {
    SQLITE_CANTOPEN
}

unsafe extern "C" fn x_lock(_: *mut sqlite3_file, _: c_int) -> c_int {
    SQLITE_CANTOPEN
}

unsafe extern "C" fn x_unlock(_: *mut sqlite3_file, _: c_int) -> c_int {
    SQLITE_OK
}

unsafe extern "C" fn x_check_reserved_lock(_: *mut sqlite3_file, _: *mut c_int) -> c_int {
    SQLITE_CANTOPEN
}

unsafe extern "C" fn x_file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: the opcode is private to this library, and `is_ours` looks at a tag of it first.
    if op == ASK && unsafe { Question::is_ours(argument.cast()) } {
        // SAFETY: wrapped with a `Failed`; the question is ours.
        unsafe {
            let reason = handle::state::<Failed>(file).0.clone();
            Question::answer(argument.cast(), Answer::Failed(reason));
        }
        return SQLITE_OK;
    }
    SQLITE_NOTFOUND
}

unsafe extern "C" fn x_sector_size(_: *mut sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn x_device_characteristics(_: *mut sqlite3_file) -> c_int {
    0
}
