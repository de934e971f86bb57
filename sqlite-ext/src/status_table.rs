//! `litestream_status`: a table with a row for each replicated database of the connection.
//!
//! Eponymous (nothing to create), read-only, and always as of now. Owns the columns' names and order, which the PRAGMA
//! of the same name shares.

use crate::register::Registration;
use crate::{border, sql};
use libsqlite3_sys::{
    SQLITE_ERROR, SQLITE_OK, sqlite3, sqlite3_context, sqlite3_index_info, sqlite3_module, sqlite3_value, sqlite3_vtab,
    sqlite3_vtab_cursor,
};
use litestream_engine::report::Status;
use serde_json::Value;
use std::ffi::{c_char, c_int, c_void};

/// The columns, in order. `lag` in seconds, sizes in bytes, Txids as 16 hex digits, `since` as RFC 3339.
pub const COLUMNS: [&str; 11] = [
    "database",
    "replica",
    "txid_captured",
    "txid_stored",
    "lag",
    "bytes_pending",
    "spool_bytes",
    "state",
    "last_error",
    "since",
    "validation",
];

const SCHEMA: &std::ffi::CStr = c"CREATE TABLE litestream_status(database TEXT, replica TEXT, txid_captured TEXT, \
    txid_stored TEXT, lag REAL, bytes_pending INTEGER, spool_bytes INTEGER, state TEXT, last_error TEXT, since TEXT, validation TEXT)";

/// A row, in the order of `COLUMNS`.
pub fn row(status: &Status) -> [Value; 11] {
    let hex = |txid: Option<litestream_engine::ltx::Txid>| txid.map(|txid| txid.to_string()).into();
    [
        status.database.as_str().into(),
        status.replica.as_str().into(),
        hex(status.txid_captured),
        hex(status.txid_stored),
        status.lag.into(),
        status.bytes_pending.into(),
        status.spool_bytes.into(),
        status.state.as_str().into(),
        status.last_error.as_deref().into(),
        status.since.as_str().into(),
        status.validation.as_deref().into(),
    ]
}

/// A row as a JSON object, its keys in the order of the columns.
pub fn json(status: &Status) -> String {
    let fields: Vec<String> =
        COLUMNS.iter().zip(row(status)).map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
    format!("{{{}}}", fields.join(","))
}

/// Adds the table to a connection.
///
/// # Safety
/// `db` is an open connection of this registration's SQLite.
pub unsafe fn add(registration: &'static Registration, db: *mut sqlite3) -> c_int {
    let data = std::ptr::from_ref(registration).cast_mut().cast::<c_void>();
    // SAFETY: the caller's promise; the module is a constant, registrations are never freed.
    unsafe { registration.api.create_module(db, c"litestream_status", &raw const MODULE.0, data) }
}

struct Module(sqlite3_module);
// SAFETY: constant.
unsafe impl Sync for Module {}

/// Without `xCreate`: the table is there under the module's name, and cannot be created under another.
static MODULE: Module = Module(sqlite3_module {
    xConnect: Some(x_connect),
    xBestIndex: Some(x_best_index),
    xDisconnect: Some(x_disconnect),
    xOpen: Some(x_open),
    xClose: Some(x_close),
    xFilter: Some(x_filter),
    xNext: Some(x_next),
    xEof: Some(x_eof),
    xColumn: Some(x_column),
    xRowid: Some(x_rowid),
    // SAFETY: every field is a number or an optional function, for which zeros are valid.
    ..unsafe { std::mem::zeroed() }
});

#[repr(C)]
struct Table {
    base: sqlite3_vtab,
    registration: &'static Registration,
    db: *mut sqlite3,
}

#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    rows: Vec<[Value; 11]>,
    at: usize,
}

unsafe extern "C" fn x_connect(
    db: *mut sqlite3,
    data: *mut c_void,
    _: c_int,
    _: *const *const c_char,
    table: *mut *mut sqlite3_vtab,
    _: *mut *mut c_char,
) -> c_int {
    // SAFETY: `add` gave a registration; SQLite gives the connection and a place for the answer.
    unsafe {
        let registration = &*data.cast::<Registration>();
        let rc = registration.api.declare_vtab(db, SCHEMA);
        if rc == SQLITE_OK {
            let base = std::mem::zeroed();
            *table = Box::into_raw(Box::new(Table { base, registration, db })).cast();
        }
        rc
    }
}

unsafe extern "C" fn x_best_index(_: *mut sqlite3_vtab, info: *mut sqlite3_index_info) -> c_int {
    // SAFETY: SQLite's own structure.
    unsafe { (*info).estimatedCost = 10.0 };
    SQLITE_OK
}

unsafe extern "C" fn x_disconnect(table: *mut sqlite3_vtab) -> c_int {
    // SAFETY: made by `x_connect`, freed once.
    drop(unsafe { Box::from_raw(table.cast::<Table>()) });
    SQLITE_OK
}

unsafe extern "C" fn x_open(_: *mut sqlite3_vtab, cursor: *mut *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite fills the base in; zeros are valid until then.
    unsafe {
        let base = std::mem::zeroed();
        *cursor = Box::into_raw(Box::new(Cursor { base, rows: Vec::new(), at: 0 })).cast();
    }
    SQLITE_OK
}

unsafe extern "C" fn x_close(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: made by `x_open`, freed once.
    drop(unsafe { Box::from_raw(cursor.cast::<Cursor>()) });
    SQLITE_OK
}

unsafe extern "C" fn x_filter(
    cursor: *mut sqlite3_vtab_cursor,
    _: c_int,
    _: *const c_char,
    _: c_int,
    _: *mut *mut sqlite3_value,
) -> c_int {
    // SAFETY: our own cursor and table, in one call at a time.
    unsafe {
        let cursor = &mut *cursor.cast::<Cursor>();
        let table = &*cursor.base.pVtab.cast::<Table>();
        border::shield("litestream_status", SQLITE_ERROR, || {
            cursor.at = 0;
            let databases = sql::attached(table.registration.api, table.db);
            cursor.rows = databases.iter().map(|one| row(&one.db.status())).collect();
            SQLITE_OK
        })
    }
}

unsafe extern "C" fn x_next(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: our own cursor.
    unsafe { (*cursor.cast::<Cursor>()).at += 1 };
    SQLITE_OK
}

unsafe extern "C" fn x_eof(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: our own cursor.
    let cursor = unsafe { &*cursor.cast::<Cursor>() };
    (cursor.at >= cursor.rows.len()).into()
}

unsafe extern "C" fn x_column(cursor: *mut sqlite3_vtab_cursor, context: *mut sqlite3_context, n: c_int) -> c_int {
    // SAFETY: our own cursor and its table; SQLite's context.
    unsafe {
        let cursor = &*cursor.cast::<Cursor>();
        let api = (*cursor.base.pVtab.cast::<Table>()).registration.api;
        let value = cursor.rows.get(cursor.at).and_then(|row| row.get(usize::try_from(n).ok()?));
        match value {
            Some(Value::String(text)) => api.result_text(context, text),
            Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => api.result_int(context, whole),
                (None, Some(real)) => api.result_double(context, real),
                (None, None) => api.result_null(context),
            },
            _ => api.result_null(context),
        }
    }
    SQLITE_OK
}

unsafe extern "C" fn x_rowid(cursor: *mut sqlite3_vtab_cursor, rowid: *mut i64) -> c_int {
    // SAFETY: our own cursor; SQLite's place for the answer.
    unsafe { *rowid = (*cursor.cast::<Cursor>()).at as i64 };
    SQLITE_OK
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a status reads as JSON, in the table's order, also where things are not known.
    #[test]
    fn a_status_is_json_in_the_order_of_the_columns() {
        let status = Status { database: "/a \"b\".db".to_string(), lag: Some(0.5), ..Status::default() };
        let text = json(&status);
        assert!(text.starts_with(r#"{"database":"/a \"b\".db","replica":"","txid_captured":null,"#), "{text}");
        let back: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back["lag"], 0.5);
        assert_eq!(back.as_object().map(serde_json::Map::len), Some(COLUMNS.len()));
    }
}
