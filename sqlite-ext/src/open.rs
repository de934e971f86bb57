//! `xOpen`: which file is whose. Only a replicated database and its WAL are wrapped; every other file is opened
//! straight into SQLite's memory and is the base VFS's own from then on.

use crate::database::Database;
use crate::fork::{self, Life};
use crate::handle::{self, as_real, real};
use crate::register::Registration;
use crate::wal_file::{self, Wal};
use crate::{border, failed, file as database_file, log, sql};
use libsqlite3_sys::{
    SQLITE_CANTOPEN, SQLITE_OK, SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_READONLY, SQLITE_OPEN_WAL,
    sqlite3_file,
};
use litestream_engine::conn::Conn;
use litestream_engine::registry::{Ask, Door, Opening, Pending};
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// URI parameters that are looked at; SQLite itself knows fewer than ten.
const PARAMS_MAX: c_int = 256;

/// Opens one file.
///
/// # Safety
/// The arguments are those of SQLite's `xOpen`, with memory of our `szOsFile`.
pub unsafe fn file(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
) -> c_int {
    // SAFETY: SQLite looks at this also where the open fails or does not return.
    unsafe { (*file).pMethods = std::ptr::null() };
    if name.is_null() {
        // SAFETY: the caller's promise.
        return unsafe { base_open(registration, name, file, flags, got) };
    }
    // SAFETY: the caller's promise, in each arm.
    unsafe {
        if flags & SQLITE_OPEN_MAIN_DB != 0 {
            open_database(registration, name, file, flags, got)
        } else if flags & SQLITE_OPEN_WAL != 0 {
            open_wal(registration, name, file, flags, got)
        } else {
            base_open(registration, name, file, flags, got)
        }
    }
}

/// # Safety
/// As [`file`].
unsafe fn base_open(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
) -> c_int {
    let base = registration.base;
    // SAFETY: the caller's promise; a registered VFS has an `xOpen`.
    unsafe { (*base).xOpen.map_or(SQLITE_CANTOPEN, |open| open(base, name, file, flags, got)) }
}

/// # Safety
/// As [`file`].
unsafe fn open_database(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
) -> c_int {
    // Also what a `sqlite3_shutdown` since the library was loaded has taken away.
    registration.api.auto_extension(sql::connected);
    // SAFETY: a C string.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    // SAFETY: a name from SQLite.
    let params: Vec<_> = (0..PARAMS_MAX).map_while(|n| unsafe { registration.api.uri_parameter(name, n) }).collect();
    let door = door(registration, &params);
    let ask = Ask {
        path,
        params: &params,
        read_only: flags & SQLITE_OPEN_READONLY != 0 || is_on(&params, "immutable"),
        create: flags & SQLITE_OPEN_CREATE != 0,
        door,
        unsafe_locks: unsafe_locks(registration.base_name(), &params),
        base: Arc::clone(&registration.base_vfs),
    };
    let read_only = ask.read_only;
    let opening = border::guard(|| fork::ensure().registry.open(ask))
        .map_err(|panic| format!("{panic} (a defect of litestream: please report it)"))
        .and_then(|opening| opening.map_err(|error| error.to_string()));
    if opening.is_ok() {
        fork::ensure().use_it();
    }
    // SAFETY: the caller's promise, in each arm.
    unsafe {
        match opening {
            Ok(Opening::PassThrough) => {
                let unasked = door == Door::Default && registration.door() == Door::Named && !read_only;
                if unasked && fork::ensure().warn_once() {
                    ::log::warn!(target: "litestream", "{} is not replicated: it was opened by a plain name (ATTACH, VACUUM \
                          INTO, sqlite3_open_v2); where it should be, give vfs=litestream&replica=URL in its URI; \
                          this is said once", path.display());
                }
                base_open(registration, name, file, flags, got)
            }
            Ok(Opening::Replicated(pending)) => wrap_database(registration, name, file, flags, got, pending),
            Err(reason) => {
                report(registration, path, &reason);
                failed::wrap(file, reason);
                if !got.is_null() {
                    *got = flags;
                }
                SQLITE_OK
            }
        }
    }
}

/// # Safety
/// As [`file`].
unsafe fn wrap_database(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
    pending: Pending,
) -> c_int {
    // SAFETY: our header's memory comes first; the base's file lies behind it.
    let real = unsafe { real(file) };
    let mut flags_got = flags;
    // SAFETY: the caller's promise.
    let rc = unsafe {
        (*real.0).pMethods = std::ptr::null();
        base_open(registration, name, real.0, flags, &mut flags_got)
    };
    // SAFETY: SQLite's place for an answer, or null.
    if let Some(got) = unsafe { got.as_mut() } {
        *got = flags_got;
    }
    // SAFETY: set by the base where there is a file, which SQLite then closes also after an error.
    if unsafe { (*real.0).pMethods }.is_null() {
        return if rc == SQLITE_OK { SQLITE_CANTOPEN } else { rc };
    }
    // A file that only opens for reading is never replicated.
    let writable = rc == SQLITE_OK && flags_got & SQLITE_OPEN_READONLY == 0;
    // A panic in there costs the replication of this connection, and is logged.
    let connect = || border::shield("connecting a database", None, || Some(pending.connect()));
    let conn: Option<Conn> = writable.then(connect).flatten();
    let watched = conn.is_some();
    // SAFETY: an open file; SQLite's memory.
    let database = unsafe {
        let methods = as_real(database_file::METHODS, real.methods());
        handle::wrap(file, methods, Database::new(registration, real, name, conn))
    };
    if watched {
        fork::ensure().open.insert(name, database, registration.api);
    }
    rc
}

/// # Safety
/// As [`file`].
unsafe fn open_wal(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
) -> c_int {
    // SAFETY: a WAL's name from SQLite; the handle that is found belongs to this connection.
    let Some(database) = (unsafe { owner(registration, name) }) else {
        // SAFETY: the caller's promise.
        return unsafe { base_open(registration, name, file, flags, got) };
    };
    // SAFETY: as in `wrap_database`.
    unsafe {
        let real = real(file);
        (*real.0).pMethods = std::ptr::null();
        let rc = base_open(registration, name, real.0, flags, got);
        if (*real.0).pMethods.is_null() {
            return rc;
        }
        let methods = as_real(wal_file::METHODS, real.methods());
        let wal = handle::wrap(file, methods, Wal { real, database });
        if rc == SQLITE_OK {
            (*database).wal = wal;
        }
        rc
    }
}

/// The replicated database that a WAL or journal belongs to.
///
/// # Safety
/// `name` is a WAL's or journal's name from SQLite.
unsafe fn owner(registration: &'static Registration, name: *const c_char) -> Option<*mut Database> {
    let life = fork::current()?;
    // SAFETY: the caller's promise.
    life.open.find(unsafe { registration.api.filename_database(name) })
}

/// The entry point whose rules hold for an open. `vfs=litestream` in the URI asks for replication whichever one made
/// us the default. ATTACH and VACUUM INTO of a plain name come through the VFS of their connection without anybody
/// asking for replication: nothing here tells them from `sqlite3_open_v2`, but they are never the first.
fn door(registration: &Registration, params: &[(String, String)]) -> Door {
    if params.iter().any(|(key, value)| key == "vfs" && value == "litestream") {
        return Door::Named;
    }
    let asked = params.iter().any(|(key, _)| key.to_ascii_lowercase().starts_with("replica"))
        || std::env::var_os("LITESTREAM_REPLICA_URL").is_some();
    if !asked && fork::current().is_some_and(Life::is_used) { Door::Default } else { registration.door() }
}

/// Why a database opened like this cannot be replicated: its locks do not keep other processes out, or keep
/// replication's own reader out.
fn unsafe_locks(base: &str, params: &[(String, String)]) -> Option<String> {
    if is_on(params, "nolock") {
        return Some("`nolock=1` takes no locks".to_string());
    }
    match base {
        "unix-none" => Some("the default VFS is `unix-none`, which takes no locks".to_string()),
        "unix-dotfile" => {
            Some("the default VFS is `unix-dotfile`, whose lock files keep replication's reader out".to_string())
        }
        _ => None,
    }
}

/// SQLite's own reading of a boolean URI parameter, whose default is off.
fn is_on(params: &[(String, String)], key: &str) -> bool {
    params.iter().find(|(name, _)| name == key).is_some_and(|(_, value)| {
        let word = value.to_ascii_lowercase();
        matches!(word.as_str(), "yes" | "true" | "on") || word.parse::<i64>().is_ok_and(|number| number != 0)
    })
}

/// A failed open: into SQLite's log each time, on stderr once, and for this thread's `xGetLastError`.
fn report(registration: &Registration, path: &Path, reason: &str) {
    let place = path.display().to_string();
    let text = if reason.contains(&place) {
        format!("litestream: {reason}")
    } else {
        format!("litestream: cannot open {place}: {reason}")
    };
    border::remember(reason);
    registration.api.log(SQLITE_CANTOPEN, &text);
    if fork::ensure().tell(&place, reason) {
        log::stderr(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    }

    /// Goal: opens without locks between processes are known. Method: the parameter's spellings and the bases.
    #[test]
    fn opens_without_locks_are_told_apart() {
        assert!(unsafe_locks("unix", &params(&[("nolock", "1")])).is_some());
        assert!(unsafe_locks("unix", &params(&[("nolock", "YES")])).is_some());
        assert!(unsafe_locks("unix", &params(&[("nolock", "0")])).is_none());
        assert!(unsafe_locks("unix-none", &[]).is_some());
        assert!(unsafe_locks("unix-dotfile", &[]).is_some());
        assert!(unsafe_locks("unix", &[]).is_none());
        assert!(unsafe_locks("unix-excl", &[]).is_none());
    }
}
