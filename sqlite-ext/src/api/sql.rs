//! The table's functions that an SQL function or a virtual table needs.

use super::slots::*;
use super::{Api, c_text};
use libsqlite3_sys::{sqlite3, sqlite3_context, sqlite3_module, sqlite3_value};
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// Schemas that a connection can have: 125 attached, `main` and `temp`.
const MAX_SCHEMAS: c_int = 127;

/// `SQLITE_TRANSIENT`: SQLite copies the text before the call returns.
const TRANSIENT: isize = -1;

/// A scalar SQL function.
pub type ScalarFn = unsafe extern "C" fn(*mut sqlite3_context, c_int, *mut *mut sqlite3_value);

impl Api {
    /// Whether the connection is in a write transaction on a schema; `None` before SQLite 3.34.
    ///
    /// # Safety
    /// `db` is an open connection.
    pub unsafe fn in_write_transaction(self, db: *mut sqlite3, schema: &CStr) -> Option<bool> {
        const TXN_WRITE: c_int = 2;
        if self.version() < 3_034_000 {
            return None;
        }
        // SAFETY: the caller's promise; the version has it.
        let state = unsafe {
            self.slot::<unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int>(TXN_STATE)(db, schema.as_ptr())
        };
        Some(state == TXN_WRITE)
    }

    /// The names of the connection's schemas: `main`, `temp`, and what is attached.
    ///
    /// # Safety
    /// `db` is an open connection.
    pub unsafe fn schemas(self, db: *mut sqlite3) -> Vec<CString> {
        if self.version() < 3_039_000 {
            // SAFETY: the caller's promise.
            return unsafe { self.schemas_by_pragma(db) };
        }
        let mut names = Vec::new();
        for n in 0..MAX_SCHEMAS {
            // SAFETY: the caller's promise; the version has it.
            let name =
                unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3, c_int) -> *const c_char>(DB_NAME)(db, n) };
            if name.is_null() {
                break;
            }
            // SAFETY: a C string that stays until the schema is detached.
            names.push(unsafe { CStr::from_ptr(name) }.to_owned());
        }
        names
    }

    /// # Safety
    /// `db` is an open connection.
    unsafe fn schemas_by_pragma(self, db: *mut sqlite3) -> Vec<CString> {
        let mut names = Vec::new();
        let name = |name: Option<&CStr>| names.extend(name.map(CStr::to_owned));
        // SAFETY: the caller's promise. Where it fails there are fewer names.
        let _ = unsafe { self.rows(db, c"PRAGMA database_list", 1, MAX_SCHEMAS as usize, name) };
        names
    }

    /// Adds a scalar function to a connection.
    ///
    /// # Safety
    /// `db` is an open connection; `function` is called with this SQLite's values only.
    pub unsafe fn create_function(
        self,
        db: *mut sqlite3,
        name: &CStr,
        arguments: c_int,
        flags: c_int,
        function: ScalarFn,
    ) -> c_int {
        type Unused = Option<unsafe extern "C" fn()>;
        type F = unsafe extern "C" fn(
            *mut sqlite3,
            *const c_char,
            c_int,
            c_int,
            *mut c_void,
            ScalarFn,
            Unused,
            Unused,
            Unused,
        ) -> c_int;
        let null = std::ptr::null_mut();
        // SAFETY: the caller's promise.
        unsafe {
            self.slot::<F>(CREATE_FUNCTION_V2)(db, name.as_ptr(), arguments, flags, null, function, None, None, None)
        }
    }

    /// Adds a virtual table's module to a connection.
    ///
    /// # Safety
    /// `db` is an open connection; `module` and `data` stay valid for good.
    pub unsafe fn create_module(
        self,
        db: *mut sqlite3,
        name: &CStr,
        module: *const sqlite3_module,
        data: *mut c_void,
    ) -> c_int {
        type F = unsafe extern "C" fn(
            *mut sqlite3,
            *const c_char,
            *const sqlite3_module,
            *mut c_void,
            Option<unsafe extern "C" fn()>,
        ) -> c_int;
        // SAFETY: the caller's promise.
        unsafe { self.slot::<F>(CREATE_MODULE_V2)(db, name.as_ptr(), module, data, None) }
    }

    /// Says which columns a virtual table has.
    ///
    /// # Safety
    /// Called from `xConnect` of that connection.
    pub unsafe fn declare_vtab(self, db: *mut sqlite3, sql: &CStr) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            self.slot::<unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int>(DECLARE_VTAB)(db, sql.as_ptr())
        }
    }

    /// The connection that runs the function.
    ///
    /// # Safety
    /// `context` is the one of a running function.
    pub unsafe fn context_db(self, context: *mut sqlite3_context) -> *mut sqlite3 {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3_context) -> *mut sqlite3>(CONTEXT_DB_HANDLE)(context) }
    }

    /// A function's argument as a number; `None` for NULL and for texts and blobs.
    ///
    /// # Safety
    /// `value` is an argument of a running function.
    pub unsafe fn number(self, value: *mut sqlite3_value) -> Option<f64> {
        const INTEGER: c_int = 1;
        const FLOAT: c_int = 2;
        // SAFETY: the caller's promise.
        unsafe {
            let kind = self.slot::<unsafe extern "C" fn(*mut sqlite3_value) -> c_int>(VALUE_TYPE)(value);
            matches!(kind, INTEGER | FLOAT)
                .then(|| self.slot::<unsafe extern "C" fn(*mut sqlite3_value) -> f64>(VALUE_DOUBLE)(value))
        }
    }

    /// # Safety
    /// `context` is the one of a running function or column.
    pub unsafe fn result_text(self, context: *mut sqlite3_context, text: &str) {
        type F = unsafe extern "C" fn(*mut sqlite3_context, *const c_char, c_int, isize);
        let length = c_int::try_from(text.len()).unwrap_or(0);
        // SAFETY: the caller's promise; SQLite copies the bytes.
        unsafe { self.slot::<F>(RESULT_TEXT)(context, text.as_ptr().cast(), length, TRANSIENT) }
    }

    /// # Safety
    /// `context` is the one of a running function or column.
    pub unsafe fn result_int(self, context: *mut sqlite3_context, value: i64) {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3_context, i64)>(RESULT_INT64)(context, value) }
    }

    /// # Safety
    /// `context` is the one of a running function or column.
    pub unsafe fn result_double(self, context: *mut sqlite3_context, value: f64) {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3_context, f64)>(RESULT_DOUBLE)(context, value) }
    }

    /// # Safety
    /// `context` is the one of a running function or column.
    pub unsafe fn result_null(self, context: *mut sqlite3_context) {
        // SAFETY: the caller's promise.
        unsafe { self.slot::<unsafe extern "C" fn(*mut sqlite3_context)>(RESULT_NULL)(context) }
    }

    /// An error with its text and its code.
    ///
    /// # Safety
    /// `context` is the one of a running function.
    pub unsafe fn result_error(self, context: *mut sqlite3_context, text: &str, code: c_int) {
        type Text = unsafe extern "C" fn(*mut sqlite3_context, *const c_char, c_int);
        type Code = unsafe extern "C" fn(*mut sqlite3_context, c_int);
        let text = c_text(text);
        // SAFETY: the caller's promise. The text first: a code alone would bring its own text.
        unsafe {
            self.slot::<Text>(RESULT_ERROR)(context, text.as_ptr(), -1);
            self.slot::<Code>(RESULT_ERROR_CODE)(context, code);
        }
    }
}
