//! The host's SQLite, through the table of functions that it hands to an extension.
//!
//! Nothing of SQLite is linked: a process may hold several copies of it, each with its own allocator and its own
//! list of VFSes, so every registration keeps the table that it was made with. The table only ever grows at
//! its end; a slot that the running SQLite does not have is never read. It is an array of pointers, hence read
//! by number: `SLOTS` says which function stands where and since when, and a test compares it with `sqlite3ext.h`.

mod connection;
mod slots;
mod sql;

pub use connection::Own;
use libsqlite3_sys::{sqlite3, sqlite3_api_routines, sqlite3_mutex, sqlite3_vfs};
pub use slots::SLOTS;
use slots::*;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// A function of the table, before its type is known.
type Slot = Option<unsafe extern "C" fn()>;

/// The oldest SQLite that works: `sqlite3_uri_key` and `sqlite3_create_filename` came with it.
pub const OLDEST: c_int = 3_032_000;

/// One SQLite's functions. Made by [`Api::new`], which has looked at every slot that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api(*const Slot);

// SAFETY: the table is constant and lives as long as its SQLite, whose functions are safe from any thread
// (`Api::new` refuses one that was built without mutexes).
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl Api {
    /// The table of a SQLite that this library can work with, else the reason why not, in a sentence.
    ///
    /// # Safety
    /// `table` is what a SQLite gave to an entry point.
    pub unsafe fn new(table: *const sqlite3_api_routines) -> Result<Api, String> {
        if table.is_null() {
            return Err("this SQLite was built without loadable extensions".to_string());
        }
        let api = Api(table.cast());
        let version = api.version();
        if version < OLDEST {
            let running = api.version_text();
            return Err(format!("SQLite {running} is too old: litestream needs 3.32.0 or newer"));
        }
        for (name, index, since) in SLOTS {
            // SAFETY: the running version has this slot.
            if version >= *since && unsafe { *api.0.add(*index) }.is_none() {
                return Err(format!("this SQLite was built without sqlite3_{}", name.trim_start_matches('x')));
            }
        }
        // SAFETY: checked just above.
        if unsafe { api.slot::<unsafe extern "C" fn() -> c_int>(THREADSAFE)() } == 0 {
            return Err("this SQLite was built with SQLITE_THREADSAFE=0, but litestream replicates from a thread \
                        of its own: use a SQLite built with SQLITE_THREADSAFE=1 or 2"
                .to_string());
        }
        Ok(api)
    }

    /// A table that `new` refused, for `text` only; `None` where there is no table.
    ///
    /// # Safety
    /// As `new`.
    pub unsafe fn for_text_only(table: *const sqlite3_api_routines) -> Option<Api> {
        (!table.is_null()).then_some(Api(table.cast()))
    }

    /// A table that can only say its version.
    #[cfg(test)]
    pub fn pretended(version: unsafe extern "C" fn() -> c_int) -> Api {
        let mut table: Vec<Slot> = vec![None; DB_NAME + 1];
        // SAFETY: only the form of a pointer to a function counts here.
        table[LIBVERSION_NUMBER] =
            Some(unsafe { std::mem::transmute::<unsafe extern "C" fn() -> c_int, unsafe extern "C" fn()>(version) });
        Api(table.leak().as_ptr())
    }

    /// True for the API of this very SQLite.
    pub fn is(self, table: *const sqlite3_api_routines) -> bool {
        std::ptr::eq(self.0, table.cast())
    }

    /// # Safety
    /// `F` is the C type of the function in that slot, and the running SQLite has the slot.
    unsafe fn slot<F: Copy>(self, index: usize) -> F {
        const { assert!(size_of::<F>() == size_of::<Slot>()) };
        // SAFETY: `new` found a function there; a pointer to a function has the size and form of `Slot`.
        unsafe { std::mem::transmute_copy(&*self.0.add(index)) }
    }

    /// `sqlite3_libversion_number()`, for example 3040001.
    pub fn version(self) -> c_int {
        // SAFETY: in every version; no arguments.
        unsafe { self.slot::<unsafe extern "C" fn() -> c_int>(LIBVERSION_NUMBER)() }
    }

    fn version_text(self) -> String {
        // SAFETY: in every version; a constant text.
        unsafe {
            CStr::from_ptr(self.slot::<unsafe extern "C" fn() -> *const c_char>(LIBVERSION)())
                .to_string_lossy()
                .into_owned()
        }
    }

    /// A VFS by name; the default one for `None`.
    pub fn vfs_find(self, name: Option<&CStr>) -> *mut sqlite3_vfs {
        let name = name.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: a C string or null.
        unsafe { self.slot::<unsafe extern "C" fn(*const c_char) -> *mut sqlite3_vfs>(VFS_FIND)(name) }
    }

    /// Registers a VFS (again).
    ///
    /// # Safety
    /// `vfs` is filled in and never freed.
    pub unsafe fn vfs_register(self, vfs: *mut sqlite3_vfs, default: bool) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            self.slot::<unsafe extern "C" fn(*mut sqlite3_vfs, c_int) -> c_int>(VFS_REGISTER)(vfs, default.into())
        }
    }

    /// Runs `call` while holding one of SQLite's static mutexes for application VFSes.
    pub fn locked<R>(self, call: impl FnOnce() -> R) -> R {
        const STATIC_VFS3: c_int = 13;
        // SAFETY: the number names a static mutex, which is never freed.
        let mutex = unsafe { self.slot::<unsafe extern "C" fn(c_int) -> *mut sqlite3_mutex>(MUTEX_ALLOC)(STATIC_VFS3) };
        // SAFETY: from mutex_alloc; null is allowed. Left again below; `call` does not unwind past the border's guard.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3_mutex)>(MUTEX_ENTER)(mutex) };
        let result = call();
        // SAFETY: entered above.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3_mutex)>(MUTEX_LEAVE)(mutex) };
        result
    }

    /// True where this SQLite's mutexes keep threads apart: `SQLITE_CONFIG_SINGLETHREAD` makes every mutex the same one,
    /// which does nothing.
    pub fn keeps_threads_apart(self) -> bool {
        const STATIC_VFS2: c_int = 12;
        const STATIC_VFS3: c_int = 13;
        // SAFETY: the numbers name static mutexes, which are never freed.
        let mutex = |id| unsafe { self.slot::<unsafe extern "C" fn(c_int) -> *mut sqlite3_mutex>(MUTEX_ALLOC)(id) };
        mutex(STATIC_VFS2) != mutex(STATIC_VFS3)
    }

    /// `sqlite3_log`: the application's own log.
    pub fn log(self, code: c_int, text: &str) {
        let text = c_text(text);
        // SAFETY: the format takes one text.
        unsafe {
            self.slot::<unsafe extern "C" fn(c_int, *const c_char, ...)>(LOG)(code, c"%s".as_ptr(), text.as_ptr())
        }
    }

    /// A text in SQLite's own memory, for it to free. Null where there is no memory.
    pub fn text(self, text: &str) -> *mut c_char {
        let text = c_text(text);
        // SAFETY: the format takes one text.
        unsafe {
            self.slot::<unsafe extern "C" fn(*const c_char, ...) -> *mut c_char>(MPRINTF)(c"%s".as_ptr(), text.as_ptr())
        }
    }

    /// Frees SQLite's memory.
    ///
    /// # Safety
    /// `memory` came from this SQLite's allocator, or is null.
    pub unsafe fn free(self, memory: *mut c_void) {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*mut c_void)>(FREE)(memory) }
    }

    /// Has SQLite call `callback` on every connection that it opens from now on. Idempotent.
    pub fn auto_extension(
        self,
        callback: unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const sqlite3_api_routines) -> c_int,
    ) -> c_int {
        // SAFETY: SQLite declares the parameter as `void(*)(void)` and calls it with the three arguments.
        unsafe { self.slot::<unsafe extern "C" fn(usize) -> c_int>(AUTO_EXTENSION)(callback as usize) }
    }

    /// `sqlite3_file_control`; the name of the schema, `None` for `main`.
    ///
    /// # Safety
    /// `db` is an open connection, `argument` what the opcode wants.
    pub unsafe fn file_control(
        self,
        db: *mut sqlite3,
        schema: Option<&CStr>,
        op: c_int,
        argument: *mut c_void,
    ) -> c_int {
        type F = unsafe extern "C" fn(*mut sqlite3, *const c_char, c_int, *mut c_void) -> c_int;
        let schema = schema.unwrap_or(c"main");
        // SAFETY: the caller's promise.
        unsafe { self.slot::<F>(FILE_CONTROL)(db, schema.as_ptr(), op, argument) }
    }

    /// The key and value of the n-th URI parameter of a file name.
    ///
    /// # Safety
    /// `name` is a name that SQLite gave to `xOpen`.
    pub unsafe fn uri_parameter(self, name: *const c_char, n: c_int) -> Option<(String, String)> {
        type Key = unsafe extern "C" fn(*const c_char, c_int) -> *const c_char;
        type Value = unsafe extern "C" fn(*const c_char, *const c_char) -> *const c_char;
        // SAFETY: the caller's promise.
        let key = unsafe { self.slot::<Key>(URI_KEY)(name, n) };
        if key.is_null() {
            return None;
        }
        // SAFETY: as above; keys are C strings behind the name.
        let value = unsafe { self.slot::<Value>(URI_PARAMETER)(name, key) };
        // SAFETY: C strings, owned by the name.
        let own = |text: *const c_char| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        Some((own(key), if value.is_null() { String::new() } else { own(value) }))
    }

    /// The name of the database that a journal or WAL belongs to: the same pointer that its `xOpen` got.
    ///
    /// # Safety
    /// `name` is a name that SQLite gave to `xOpen` for a journal or a WAL.
    pub unsafe fn filename_database(self, name: *const c_char) -> *const c_char {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*const c_char) -> *const c_char>(FILENAME_DATABASE)(name) }
    }

    /// A file name in the form that `xOpen` wants; null where there is no memory.
    pub fn create_filename(self, database: &CStr, journal: &CStr, wal: &CStr) -> *const c_char {
        type F = unsafe extern "C" fn(
            *const c_char,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
        ) -> *const c_char;
        // SAFETY: three C strings and no parameters.
        unsafe {
            self.slot::<F>(CREATE_FILENAME)(database.as_ptr(), journal.as_ptr(), wal.as_ptr(), 0, std::ptr::null())
        }
    }

    /// Frees a file name.
    ///
    /// # Safety
    /// `name` came from `create_filename`.
    pub unsafe fn free_filename(self, name: *const c_char) {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*const c_char)>(FREE_FILENAME)(name) }
    }
}

/// A text for C; a NUL inside ends it.
pub fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).expect("bytes up to the first NUL hold none")
}
