//! The table's functions for statements, and for a connection of our own.

use super::Api;
use super::slots::*;
use libsqlite3_sys::{
    SQLITE_NOMEM, SQLITE_OK, SQLITE_OPEN_FULLMUTEX, SQLITE_OPEN_PRIVATECACHE, SQLITE_OPEN_READONLY, SQLITE_OPEN_URI,
    SQLITE_ROW, sqlite3, sqlite3_mutex, sqlite3_stmt,
};
use std::ffi::{CStr, c_char, c_int, c_void};

impl Api {
    /// Runs one statement and gives a column of at most `max` rows to `row`. Else the result code.
    ///
    /// # Safety
    /// `db` is an open connection, used by this thread alone.
    pub unsafe fn rows(
        self,
        db: *mut sqlite3,
        sql: &CStr,
        column: c_int,
        max: usize,
        mut row: impl FnMut(Option<&CStr>),
    ) -> Result<(), c_int> {
        type Prepare = unsafe extern "C" fn(
            *mut sqlite3,
            *const c_char,
            c_int,
            *mut *mut sqlite3_stmt,
            *mut *const c_char,
        ) -> c_int;
        type Step = unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
        type Column = unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> *const c_char;
        let mut statement = std::ptr::null_mut();
        // SAFETY: the caller's promise; the statement is finalized below, its texts are used at once.
        unsafe {
            let rc = self.slot::<Prepare>(PREPARE_V2)(db, sql.as_ptr(), -1, &mut statement, std::ptr::null_mut());
            if rc != SQLITE_OK {
                return Err(rc);
            }
            for _ in 0..max {
                if self.slot::<Step>(STEP)(statement) != SQLITE_ROW {
                    break;
                }
                let text = self.slot::<Column>(COLUMN_TEXT)(statement, column);
                row((!text.is_null()).then(|| CStr::from_ptr(text)));
            }
            // It gives the code of the last step, where that failed.
            match self.slot::<Step>(FINALIZE)(statement) {
                SQLITE_OK => Ok(()),
                rc => Err(rc),
            }
        }
    }

    /// Ends what runs on a connection, soon.
    ///
    /// # Safety
    /// `db` is an open connection; it may be another thread's.
    pub unsafe fn interrupt(self, db: *mut sqlite3) {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3)>(INTERRUPT)(db) }
    }
}

/// A connection of our own for reading, used by one thread; closed when dropped.
pub struct Own {
    api: Api,
    db: *mut sqlite3,
}

impl Own {
    /// Opens a database by its URI through the VFS of this name, without a cache that others share. Else the code and text.
    pub fn open(api: Api, uri: &CStr, vfs: &CStr) -> Result<Own, (c_int, String)> {
        type Open = unsafe extern "C" fn(*const c_char, *mut *mut sqlite3, c_int, *const c_char) -> c_int;
        let flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_FULLMUTEX | SQLITE_OPEN_PRIVATECACHE;
        let mut db = std::ptr::null_mut();
        // SAFETY: two C strings and a place for the connection.
        let rc = unsafe { api.slot::<Open>(OPEN_V2)(uri.as_ptr(), &mut db, flags, vfs.as_ptr()) };
        if db.is_null() {
            return Err((SQLITE_NOMEM, "out of memory".into()));
        }
        let own = Own { api, db };
        if rc == SQLITE_OK { Ok(own) } else { Err((rc, own.message())) }
    }

    /// For `Api::interrupt`, until it is dropped.
    pub fn handle(&self) -> *mut sqlite3 {
        self.db
    }

    /// True where the connection has a mutex of its own, as was asked for: a SQLite that was set to a single thread gives
    /// none, also where it had mutexes before.
    pub fn has_mutex(&self) -> bool {
        // SAFETY: open.
        !unsafe { self.api.slot::<unsafe extern "C" fn(*mut sqlite3) -> *mut sqlite3_mutex>(DB_MUTEX)(self.db) }
            .is_null()
    }

    /// The first column of a statement's rows, at most `max`. Else the code and text.
    pub fn texts(&self, sql: &CStr, max: usize) -> Result<Vec<String>, (c_int, String)> {
        let mut texts = Vec::new();
        let row = |text: Option<&CStr>| texts.extend(text.map(|text| text.to_string_lossy().into_owned()));
        // SAFETY: open, and nobody else's.
        match unsafe { self.api.rows(self.db, sql, 0, max, row) } {
            Ok(()) => Ok(texts),
            Err(rc) => Err((rc, self.message())),
        }
    }

    /// Has SQLite call back every so many steps of a statement, from where it holds no mutex that others need; 1 ends the
    /// statement. Nothing where it was built without this.
    ///
    /// # Safety
    /// `argument` is what `call` wants, as long as statements run.
    pub unsafe fn call_back(
        &self,
        steps: c_int,
        call: unsafe extern "C" fn(*mut c_void) -> c_int,
        argument: *mut c_void,
    ) {
        type Call = unsafe extern "C" fn(*mut c_void) -> c_int;
        type Handler = Option<unsafe extern "C" fn(*mut sqlite3, c_int, Call, *mut c_void)>;
        // SAFETY: in the table of every version, perhaps empty.
        if let Some(handler) = unsafe { self.api.slot::<Handler>(PROGRESS_HANDLER) } {
            // SAFETY: open; the caller's promise.
            unsafe { handler(self.db, steps, call, argument) }
        }
    }

    fn message(&self) -> String {
        // SAFETY: open; the text stays until the next call on this connection.
        unsafe {
            let text = self.api.slot::<unsafe extern "C" fn(*mut sqlite3) -> *const c_char>(ERRMSG)(self.db);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: open, and every statement is finalized.
        unsafe { self.api.slot::<unsafe extern "C" fn(*mut sqlite3) -> c_int>(CLOSE)(self.db) };
    }
}
