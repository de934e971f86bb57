//! The method table of the VFS `litestream`: one short function per slot, in SQLite's order.
//!
//! All but `xOpen` and `xDelete` are the base VFS's, called with its own pointer.

use crate::handle::REAL_AT;
use crate::register::{NAME, Registration};
use crate::{border, fork, log, open};
use libsqlite3_sys::{SQLITE_CANTOPEN, SQLITE_ERROR, sqlite3_file, sqlite3_syscall_ptr, sqlite3_vfs};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A symbol of a shared library, as `xDlSym` gives it.
type Symbol = Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)>;

/// A VFS over `base`, with only those methods that `base` has.
///
/// # Safety
/// `base` is a registered VFS.
pub unsafe fn over(base: *mut sqlite3_vfs, registration: &'static Registration) -> sqlite3_vfs {
    // SAFETY: the caller's promise.
    let base = unsafe { &*base };
    let version = base.iVersion.min(3);
    let (time, calls) = (version >= 2, version >= 3);
    sqlite3_vfs {
        iVersion: version,
        szOsFile: base.szOsFile.saturating_add(REAL_AT as c_int),
        mxPathname: base.mxPathname,
        pNext: std::ptr::null_mut(),
        zName: NAME.as_ptr(),
        pAppData: std::ptr::from_ref(registration).cast_mut().cast(),
        xOpen: Some(x_open),
        xDelete: Some(x_delete),
        xAccess: Some(x_access),
        xFullPathname: Some(x_full_pathname),
        xDlOpen: base.xDlOpen.map(|_| x_dl_open as _),
        xDlError: base.xDlError.map(|_| x_dl_error as _),
        xDlSym: base.xDlSym.map(|_| x_dl_sym as _),
        xDlClose: base.xDlClose.map(|_| x_dl_close as _),
        xRandomness: base.xRandomness.map(|_| x_randomness as _),
        xSleep: base.xSleep.map(|_| x_sleep as _),
        xCurrentTime: base.xCurrentTime.map(|_| x_current_time as _),
        xGetLastError: Some(x_get_last_error),
        xCurrentTimeInt64: base.xCurrentTimeInt64.filter(|_| time).map(|_| x_current_time_int64 as _),
        xSetSystemCall: base.xSetSystemCall.filter(|_| calls).map(|_| x_set_system_call as _),
        xGetSystemCall: base.xGetSystemCall.filter(|_| calls).map(|_| x_get_system_call as _),
        xNextSystemCall: base.xNextSystemCall.filter(|_| calls).map(|_| x_next_system_call as _),
    }
}

/// The registration of a VFS, if it is ours.
///
/// # Safety
/// `vfs` is a registered VFS.
pub unsafe fn registration_of(vfs: *const sqlite3_vfs) -> Option<&'static Registration> {
    // SAFETY: the caller's promise; our own VFS has its registration there, which is never freed.
    unsafe {
        let ours = (*vfs).xOpen.is_some_and(|open| std::ptr::fn_addr_eq(open, x_open as OpenFn));
        if ours { (*vfs).pAppData.cast::<Registration>().as_ref() } else { None }
    }
}

type OpenFn = unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, *mut sqlite3_file, c_int, *mut c_int) -> c_int;

fn ours(vfs: *mut sqlite3_vfs) -> &'static Registration {
    // SAFETY: SQLite calls these functions with our own VFS only.
    unsafe { &*(*vfs).pAppData.cast::<Registration>() }
}

/// Calls a method of the base VFS, which has it: else it is not in our table (see `over`).
macro_rules! forward {
    ($vfs:expr, $method:ident $(, $argument:expr)* => $absent:expr) => {{
        let base = ours($vfs).base;
        // SAFETY: a registered VFS; the arguments are SQLite's own.
        unsafe {
            match (*base).$method {
                Some(method) => method(base $(, $argument)*),
                None => $absent,
            }
        }
    }};
}

unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
) -> c_int {
    border::shield("logging", (), log::deliver);
    // SAFETY: SQLite's arguments, with the memory that `szOsFile` asks for.
    border::shield("an open", SQLITE_CANTOPEN, || unsafe { open::file(ours(vfs), name, file, flags, got) })
}

unsafe extern "C" fn x_delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: a C string.
    let path = unsafe { CStr::from_ptr(name) }.to_bytes();
    if path.ends_with(b"-wal") {
        border::shield("saving a WAL that is deleted", (), || {
            if let Some(life) = fork::current() {
                life.registry.wal_deleting(Path::new(OsStr::from_bytes(path)));
            }
        });
    }
    forward!(vfs, xDelete, name, sync => SQLITE_ERROR)
}

unsafe extern "C" fn x_access(vfs: *mut sqlite3_vfs, name: *const c_char, flags: c_int, result: *mut c_int) -> c_int {
    forward!(vfs, xAccess, name, flags, result => SQLITE_ERROR)
}

unsafe extern "C" fn x_full_pathname(vfs: *mut sqlite3_vfs, name: *const c_char, n: c_int, out: *mut c_char) -> c_int {
    forward!(vfs, xFullPathname, name, n, out => SQLITE_ERROR)
}

unsafe extern "C" fn x_dl_open(vfs: *mut sqlite3_vfs, name: *const c_char) -> *mut c_void {
    forward!(vfs, xDlOpen, name => std::ptr::null_mut())
}

unsafe extern "C" fn x_dl_error(vfs: *mut sqlite3_vfs, n: c_int, text: *mut c_char) {
    forward!(vfs, xDlError, n, text => ())
}

unsafe extern "C" fn x_dl_sym(vfs: *mut sqlite3_vfs, library: *mut c_void, name: *const c_char) -> Symbol {
    forward!(vfs, xDlSym, library, name => None)
}

unsafe extern "C" fn x_dl_close(vfs: *mut sqlite3_vfs, library: *mut c_void) {
    forward!(vfs, xDlClose, library => ())
}

unsafe extern "C" fn x_randomness(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    forward!(vfs, xRandomness, n, out => 0)
}

unsafe extern "C" fn x_sleep(vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    forward!(vfs, xSleep, microseconds => 0)
}

unsafe extern "C" fn x_current_time(vfs: *mut sqlite3_vfs, now: *mut f64) -> c_int {
    forward!(vfs, xCurrentTime, now => SQLITE_ERROR)
}

/// SQLite asks right after a failed call on the same thread; the text of an open that we refused goes first.
unsafe extern "C" fn x_get_last_error(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    let Some(text) = border::last_error() else {
        return forward!(vfs, xGetLastError, n, out => 0);
    };
    let room = usize::try_from(n).unwrap_or(0);
    if room > 0 && !out.is_null() {
        let length = text.len().min(room - 1);
        // SAFETY: SQLite gives `n` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast::<u8>(), length);
            *out.add(length) = 0;
        }
    }
    0
}

unsafe extern "C" fn x_current_time_int64(vfs: *mut sqlite3_vfs, now: *mut i64) -> c_int {
    forward!(vfs, xCurrentTimeInt64, now => SQLITE_ERROR)
}

unsafe extern "C" fn x_set_system_call(vfs: *mut sqlite3_vfs, name: *const c_char, call: sqlite3_syscall_ptr) -> c_int {
    forward!(vfs, xSetSystemCall, name, call => SQLITE_ERROR)
}

unsafe extern "C" fn x_get_system_call(vfs: *mut sqlite3_vfs, name: *const c_char) -> sqlite3_syscall_ptr {
    forward!(vfs, xGetSystemCall, name => None)
}

unsafe extern "C" fn x_next_system_call(vfs: *mut sqlite3_vfs, name: *const c_char) -> *const c_char {
    forward!(vfs, xNextSystemCall, name => std::ptr::null())
}
