//! The SQLite extension `liblitestream_vfs`: a VFS named `litestream` over the default one.
//!
//! This crate holds all the unsafe code of the project: C's types, the entry points, one short function for each slot
//! of SQLite's tables. What a call means for replication is decided in `litestream_engine`, which knows no C.
//! Nothing of SQLite is linked; nothing starts a thread before there is something to replicate or restore.

mod api;
mod base;
mod border;
mod check;
mod database;
mod failed;
mod file;
mod fork;
mod guard;
mod handle;
mod log;
mod open;
mod pragma;
mod real;
mod register;
mod sql;
mod status_table;
mod vfs;
mod wal_file;

pub use api::SLOTS;

use libsqlite3_sys::{SQLITE_ERROR, SQLITE_OK_LOAD_PERMANENTLY, sqlite3, sqlite3_api_routines};
use std::ffi::{c_char, c_int};
use std::time::Duration;

/// The entry point that SQLite derives from the file name `liblitestream_vfs`: registers the VFS `litestream`.
///
/// # Safety
/// Called by SQLite, or with what SQLite would give.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_litestreamvfs_init(
    db: *mut sqlite3,
    error: *mut *mut c_char,
    table: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { load(db, error, table, false) }
}

/// The entry point that SQLite tries first, and the only one that it finds in a renamed file.
///
/// # Safety
/// As [`sqlite3_litestreamvfs_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_extension_init(
    db: *mut sqlite3,
    error: *mut *mut c_char,
    table: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { load(db, error, table, false) }
}

/// For hosts that cannot name a VFS: makes `litestream` the default VFS. Databases that no URI and no `LITESTREAM_DB`
/// names pass straight through.
///
/// # Safety
/// As [`sqlite3_litestreamvfs_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_litestreamdefault_init(
    db: *mut sqlite3,
    error: *mut *mut c_char,
    table: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { load(db, error, table, true) }
}

/// Stores what every database of this process has committed, for a program that is told to stop: waits at most
/// `timeout_ms`, or each database's `shutdown-sync-timeout` where it is negative. The number of databases that
/// are not fully stored, 0 when all are. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn litestream_shutdown(timeout_ms: c_int) -> c_int {
    border::shield("litestream_shutdown", -1, || {
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let missing = fork::current().map_or(0, |life| life.registry.shutdown(timeout));
        c_int::try_from(missing).unwrap_or(c_int::MAX)
    })
}

/// # Safety
/// As [`sqlite3_litestreamvfs_init`].
unsafe fn load(db: *mut sqlite3, error: *mut *mut c_char, table: *const sqlite3_api_routines, default: bool) -> c_int {
    // SAFETY: the caller's promise.
    let api = match unsafe { api::Api::new(table) } {
        Ok(api) => api,
        Err(reason) => {
            // SAFETY: every SQLite has the function that makes this text.
            return unsafe { refuse(error, api::Api::for_text_only(table), &reason) };
        }
    };
    match register::register(api, default) {
        Ok(registration) => {
            if !db.is_null() {
                // SAFETY: the connection that loads the library. It may be running a statement that calls one of
                // the functions, which then cannot be replaced: it has them, and the library must stay loaded.
                let _ = unsafe { sql::add(registration, db) };
            }
            SQLITE_OK_LOAD_PERMANENTLY
        }
        // SAFETY: the caller's promise.
        Err(reason) => unsafe { refuse(error, Some(api), &reason) },
    }
}

/// # Safety
/// `error` is null or SQLite's place for a text.
unsafe fn refuse(error: *mut *mut c_char, api: Option<api::Api>, reason: &str) -> c_int {
    if let Some(api) = api.filter(|_| !error.is_null()) {
        // SAFETY: the caller's promise.
        unsafe { *error = api.text(&format!("litestream: {reason}")) };
    }
    SQLITE_ERROR
}
