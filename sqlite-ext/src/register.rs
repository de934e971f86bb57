//! Registrations: one per copy of SQLite in this process, each with its API table, its VFS and the VFS below.
//!
//! They are made while SQLite's own mutex is held, kept in a list that is only added to, and never freed.

use crate::api::Api;
use crate::base::Base;
use crate::{fork, log, vfs};
use libsqlite3_sys::{SQLITE_OK, sqlite3_vfs};
use litestream_engine::base::BaseVfs;
use litestream_engine::registry::Door;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// The name of our VFS.
pub const NAME: &CStr = c"litestream";

/// What a copy of SQLite was given.
pub struct Registration {
    /// Which copy of SQLite in this process it is, from 0.
    pub copy: usize,
    /// Its functions.
    pub api: Api,
    /// The VFS that was the default before us.
    pub base: *mut sqlite3_vfs,
    /// The same, as the engine sees it.
    pub base_vfs: Arc<dyn BaseVfs>,
    default: AtomicBool,
    next: *const Registration,
}

// SAFETY: constant but for an atomic; what it points at is never freed.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// The entry point that counts for opens that do not name a VFS.
    pub fn door(&self) -> Door {
        if self.default.load(Ordering::Acquire) { Door::Default } else { Door::Named }
    }

    /// The name of the VFS below.
    pub fn base_name(&self) -> &str {
        self.base_vfs.name()
    }
}

/// The newest registration; each knows the one before.
static NEWEST: AtomicPtr<Registration> = AtomicPtr::new(std::ptr::null_mut());

/// Every registration of this process.
pub fn all() -> impl Iterator<Item = &'static Registration> {
    // SAFETY: registrations are never freed.
    std::iter::successors(unsafe { NEWEST.load(Ordering::Acquire).as_ref() }, |one| unsafe { one.next.as_ref() })
}

/// Registers the VFS with this SQLite, again or for the first time; `default` makes it the default VFS, for good.
/// Else the reason why not, in a sentence.
pub fn register(api: Api, default: bool) -> Result<&'static Registration, String> {
    api.locked(|| crate::border::guard(|| register_alone(api, default)))
        .unwrap_or_else(|panic| Err(format!("registering failed inside litestream: {panic}; please report this")))
}

fn register_alone(api: Api, default: bool) -> Result<&'static Registration, String> {
    let found = api.vfs_find(Some(NAME));
    let (vfs, registration) = if found.is_null() {
        let base = api.vfs_find(None);
        if base.is_null() {
            return Err("this SQLite has no VFS to build on".to_string());
        }
        create(api, base)
    } else {
        // SAFETY: a registered VFS.
        let registration = unsafe { vfs::registration_of(found) }.ok_or_else(|| {
            "a VFS named `litestream` is registered already, but not by this library: load only one of the two \
             (Litestream's own extension uses the same name)"
                .to_string()
        })?;
        (found, registration)
    };
    // Also where it is registered: sqlite3_initialize makes `unix` the default again.
    let first = found.is_null();
    if default {
        registration.default.store(true, Ordering::Release);
    }
    // SAFETY: filled in, never freed.
    if (first || default) && unsafe { api.vfs_register(vfs, default) } != SQLITE_OK {
        return Err("SQLite refused to register the VFS `litestream`: out of memory".to_string());
    }
    fork::prepare();
    log::prepare();
    Ok(registration)
}

fn create(api: Api, base: *mut sqlite3_vfs) -> (*mut sqlite3_vfs, &'static Registration) {
    // SAFETY: `base` is registered with this SQLite.
    let base_vfs = Arc::new(unsafe { Base::new(api, base) });
    let registration: &'static mut Registration = Box::leak(Box::new(Registration {
        copy: 0,
        api,
        base,
        base_vfs,
        default: AtomicBool::new(false),
        next: std::ptr::null(),
    }));
    let mut newest = NEWEST.load(Ordering::Acquire);
    loop {
        registration.next = newest;
        // SAFETY: registrations are never freed.
        registration.copy = unsafe { newest.as_ref() }.map_or(0, |before| before.copy + 1);
        match NEWEST.compare_exchange(newest, registration, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(other) => newest = other,
        }
    }
    // SAFETY: `base` is a registered VFS.
    let vfs = Box::leak(Box::new(unsafe { vfs::over(base, registration) }));
    (vfs, registration)
}

/// A registration with a SQLite that can only say its version, for unit tests.
#[cfg(test)]
pub fn pretended(version: unsafe extern "C" fn() -> std::ffi::c_int) -> &'static Registration {
    struct NoBase;
    impl BaseVfs for NoBase {
        fn name(&self) -> &str {
            "unix"
        }
        fn is_native(&self) -> bool {
            true
        }
        fn open_database(
            &self,
            _: &std::path::Path,
            _: bool,
        ) -> std::io::Result<Box<dyn litestream_engine::base::BaseFile>> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }
    Box::leak(Box::new(Registration {
        copy: 0,
        api: Api::pretended(version),
        base: std::ptr::null_mut(),
        base_vfs: Arc::new(NoBase),
        default: AtomicBool::new(false),
        next: std::ptr::null(),
    }))
}
