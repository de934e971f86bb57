//! The SQL functions, and how a function finds the replicated databases of its connection.
//!
//! A connection is asked through `sqlite3_file_control` with an opcode of our own, schema by schema: this also works
//! through other VFSes stacked above ours. The functions are added when a connection is opened through our VFS, by
//! the auto-extension callback; on every other connection that callback does nothing.

use crate::api::Api;
use crate::register::{self, Registration};
use crate::{border, fork, status_table, vfs};
use libsqlite3_sys::{
    SQLITE_CANTOPEN, SQLITE_ERROR, SQLITE_FCNTL_FILE_POINTER, SQLITE_FCNTL_VFS_POINTER, SQLITE_MISUSE, SQLITE_OK,
    SQLITE_UTF8, sqlite3, sqlite3_api_routines, sqlite3_context, sqlite3_file, sqlite3_value, sqlite3_vfs,
};
use litestream_engine::db::Db;
use litestream_engine::error::{Error, Result};
use litestream_engine::ltx::Txid;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

/// The private opcode: far from SQLite's own numbers.
pub const ASK: c_int = 0x4c53_7601;
/// How long `litestream_sync()` waits where it is not told.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// SQLITE_DIRECTONLY (3.30): not from a trigger or view, so that a hostile schema cannot make a reader wait.
const DIRECTONLY: c_int = 0x0008_0000;

/// What a file answers to `ASK`.
pub enum Answer {
    /// It is a replicated database.
    Replicated {
        /// Which one.
        db: Arc<Db>,
        /// A write transaction is open on this handle, as far as the file sees.
        writing: bool,
    },
    /// Its open failed, for this reason.
    Failed(String),
}

/// The argument of `ASK`.
#[repr(C)]
pub struct Question {
    tag: *const AtomicU8,
    answer: Option<Answer>,
}

/// Its address tells this library's questions from those of another copy of it in the same process.
static TAG: AtomicU8 = AtomicU8::new(1);

impl Question {
    fn new() -> Question {
        Question { tag: &raw const TAG, answer: None }
    }

    /// True for a question of this very library.
    ///
    /// # Safety
    /// `question` is null or points at 8 bytes at least.
    pub unsafe fn is_ours(question: *const Question) -> bool {
        // SAFETY: the caller's promise.
        !question.is_null() && std::ptr::eq(unsafe { (*question).tag }, &raw const TAG)
    }

    /// # Safety
    /// `is_ours` said yes.
    pub unsafe fn answer(question: *mut Question, answer: Answer) {
        // SAFETY: made by `new` in this library.
        unsafe { (*question).answer = Some(answer) };
    }
}

/// One replicated database of a connection.
pub struct Attached {
    /// `main`, or the name it was attached under.
    pub schema: CString,
    /// The database.
    pub db: Arc<Db>,
    /// The connection is in a write transaction on it.
    pub writing: bool,
}

/// SQLite's callback for every new connection: adds the functions to ours, gives the reason of a failed open.
///
/// # Safety
/// Called by SQLite.
pub unsafe extern "C" fn connected(
    db: *mut sqlite3,
    error: *mut *mut c_char,
    table: *const sqlite3_api_routines,
) -> c_int {
    border::shield("a new connection", SQLITE_OK, || {
        let Some(registration) = register::all().find(|registration| registration.api.is(table)) else {
            return SQLITE_OK;
        };
        // SAFETY: SQLite's own connection and place for a text.
        unsafe {
            if !is_file_of_some_vfs(registration.api, db) {
                return SQLITE_OK;
            }
            match ask(registration.api, db, c"main") {
                Some(Answer::Failed(reason)) => {
                    if !error.is_null() {
                        *error = registration.api.text(&format!("litestream: {reason}"));
                    }
                    SQLITE_CANTOPEN
                }
                Some(Answer::Replicated { .. }) => add(registration, db),
                None if is_ours(registration.api, db) => add(registration, db),
                None => SQLITE_OK,
            }
        }
    })
}

/// Adds the functions and the status table to a connection.
///
/// # Safety
/// `db` is an open connection of this registration's SQLite.
pub unsafe fn add(registration: &'static Registration, db: *mut sqlite3) -> c_int {
    // SAFETY: the caller's promise, in each arm. A function is told its copy of SQLite by its own address: what
    // lies behind a context differs between versions, so it can only be read with the right one's API.
    unsafe {
        match registration.copy {
            0 => add_for::<0>(registration, db),
            1 => add_for::<1>(registration, db),
            2 => add_for::<2>(registration, db),
            3 => add_for::<3>(registration, db),
            // A fifth SQLite in one process replicates all the same, and has the PRAGMAs.
            _ => SQLITE_OK,
        }
    }
}

/// # Safety
/// As [`add`], for the copy of SQLite with this number.
unsafe fn add_for<const COPY: usize>(registration: &'static Registration, db: *mut sqlite3) -> c_int {
    let api = registration.api;
    let waits = SQLITE_UTF8 | DIRECTONLY;
    // SAFETY: the caller's promise; nothing is passed along.
    let results = unsafe {
        [
            api.create_function(db, c"litestream_version", 0, SQLITE_UTF8, version::<COPY>),
            api.create_function(db, c"litestream_txid", 0, SQLITE_UTF8, txid::<COPY>),
            api.create_function(db, c"litestream_lag", 0, SQLITE_UTF8, lag::<COPY>),
            api.create_function(db, c"litestream_sync", 0, waits, sync::<COPY>),
            api.create_function(db, c"litestream_sync", 1, waits, sync::<COPY>),
            api.create_function(db, c"litestream_shutdown", 0, waits, shutdown::<COPY>),
            api.create_function(db, c"litestream_shutdown", 1, waits, shutdown::<COPY>),
            status_table::add(registration, db),
        ]
    };
    results.into_iter().find(|rc| *rc != SQLITE_OK).unwrap_or(SQLITE_OK)
}

/// The replicated databases of a connection, each once.
///
/// # Safety
/// `db` is an open connection.
pub unsafe fn attached(api: Api, db: *mut sqlite3) -> Vec<Attached> {
    let mut found: Vec<Attached> = Vec::new();
    // SAFETY: the caller's promise, here and below.
    for schema in unsafe { api.schemas(db) } {
        // SAFETY: as above.
        let answer = unsafe { ask(api, db, &schema) };
        if let Some(Answer::Replicated { db: database, writing }) = answer
            && found.iter().all(|one| !Arc::ptr_eq(&one.db, &database))
        {
            // SAFETY: as above.
            let writing = unsafe { api.in_write_transaction(db, &schema) }.unwrap_or(writing);
            found.push(Attached { schema, db: database, writing });
        }
    }
    found
}

/// # Safety
/// `db` is an open connection.
unsafe fn ask(api: Api, db: *mut sqlite3, schema: &CStr) -> Option<Answer> {
    let mut question = Question::new();
    // SAFETY: the caller's promise; the question lives until the call returns.
    let rc = unsafe { api.file_control(db, Some(schema), ASK, (&raw mut question).cast()) };
    if rc == SQLITE_OK { question.answer } else { None }
}

/// An in-memory or temporary database has no file that any VFS opened.
///
/// # Safety
/// `db` is an open connection.
unsafe fn is_file_of_some_vfs(api: Api, db: *mut sqlite3) -> bool {
    let mut file: *mut sqlite3_file = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe {
        let rc = api.file_control(db, None, SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast());
        rc == SQLITE_OK && !file.is_null() && !(*file).pMethods.is_null()
    }
}

/// A connection that was opened through our VFS and passes straight through.
///
/// # Safety
/// `db` is an open connection.
unsafe fn is_ours(api: Api, db: *mut sqlite3) -> bool {
    let mut found: *mut sqlite3_vfs = std::ptr::null_mut();
    // SAFETY: the caller's promise; SQLite gives a registered VFS.
    unsafe {
        let rc = api.file_control(db, None, SQLITE_FCNTL_VFS_POINTER, (&raw mut found).cast());
        rc == SQLITE_OK && !found.is_null() && vfs::registration_of(found).is_some()
    }
}

/// Waits until everything that was committed before the call is stored; the stored Txid of the first database.
pub fn sync_all(databases: &[Attached], timeout: Duration) -> Result<Txid> {
    let begun = Instant::now();
    let mut first = None;
    for one in databases {
        if one.writing {
            return Err(Error::Busy(format!(
                "litestream_sync: this connection is in a write transaction on `{}` and would keep every other \
                 writer waiting: COMMIT first",
                one.schema.to_string_lossy()
            )));
        }
    }
    for one in databases {
        let txid = one.db.sync(timeout.saturating_sub(begun.elapsed()))?;
        first.get_or_insert(txid);
    }
    first.ok_or_else(|| Error::State("litestream_sync: no database of this connection is replicated".to_string()))
}

/// Seconds as a person gives them.
pub fn seconds(value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Error::Usage(format!("`{value}` is not a time: give seconds, for example 5 or 0.5")))
}

/// Runs the body of a function; its error becomes the function's.
///
/// # Safety
/// `context` is the one of a running function that `add_for` made for this copy of SQLite.
unsafe fn function<const COPY: usize>(
    context: *mut sqlite3_context,
    body: impl FnOnce(&'static Registration, *mut sqlite3) -> Result<()>,
) {
    let Some(registration) = register::all().find(|registration| registration.copy == COPY) else { return };
    let api = registration.api;
    // SAFETY: the caller's promise.
    let db = unsafe { api.context_db(context) };
    let (text, code) = match border::guard(|| body(registration, db)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => (error.to_string(), border::code(&error)),
        Err(panic) => (format!("litestream: {panic} (a defect: please report it)"), SQLITE_ERROR),
    };
    // SAFETY: as above.
    unsafe { api.result_error(context, &text, if code == SQLITE_MISUSE { SQLITE_ERROR } else { code }) };
}

/// The one optional argument, in seconds.
///
/// # Safety
/// The arguments of a running function.
unsafe fn time(api: Api, n: c_int, arguments: *mut *mut sqlite3_value) -> Result<Option<Duration>> {
    if n < 1 {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    match unsafe { api.number(*arguments) } {
        Some(value) => seconds(value).map(Some),
        None => Err(Error::Usage("the timeout must be a number of seconds, for example 5 or 0.5".to_string())),
    }
}

unsafe extern "C" fn version<const COPY: usize>(context: *mut sqlite3_context, _: c_int, _: *mut *mut sqlite3_value) {
    // SAFETY: SQLite calls functions that `add_for` made.
    unsafe {
        function::<COPY>(context, |registration, _| {
            registration.api.result_text(context, env!("CARGO_PKG_VERSION"));
            Ok(())
        });
    }
}

unsafe extern "C" fn txid<const COPY: usize>(context: *mut sqlite3_context, _: c_int, _: *mut *mut sqlite3_value) {
    // SAFETY: SQLite calls functions that `add_for` made.
    unsafe {
        function::<COPY>(context, |registration, db| {
            let first = attached(registration.api, db).into_iter().next();
            match first.and_then(|one| one.db.status().txid_captured) {
                Some(txid) => registration.api.result_text(context, &txid.to_string()),
                None => registration.api.result_null(context),
            }
            Ok(())
        });
    }
}

unsafe extern "C" fn lag<const COPY: usize>(context: *mut sqlite3_context, _: c_int, _: *mut *mut sqlite3_value) {
    // SAFETY: SQLite calls functions that `add_for` made.
    unsafe {
        function::<COPY>(context, |registration, db| {
            let first = attached(registration.api, db).into_iter().next();
            match first.and_then(|one| one.db.status().lag) {
                Some(lag) => registration.api.result_double(context, lag),
                None => registration.api.result_null(context),
            }
            Ok(())
        });
    }
}

unsafe extern "C" fn sync<const COPY: usize>(
    context: *mut sqlite3_context,
    n: c_int,
    arguments: *mut *mut sqlite3_value,
) {
    // SAFETY: SQLite calls functions that `add_for` made.
    unsafe {
        function::<COPY>(context, |registration, db| {
            let timeout = time(registration.api, n, arguments)?.unwrap_or(SYNC_TIMEOUT);
            let stored = sync_all(&attached(registration.api, db), timeout)?;
            registration.api.result_text(context, &stored.to_string());
            Ok(())
        });
    }
}

unsafe extern "C" fn shutdown<const COPY: usize>(
    context: *mut sqlite3_context,
    n: c_int,
    arguments: *mut *mut sqlite3_value,
) {
    // SAFETY: SQLite calls functions that `add_for` made.
    unsafe {
        function::<COPY>(context, |registration, db| {
            let timeout = time(registration.api, n, arguments)?;
            if attached(registration.api, db).iter().any(|one| one.writing) {
                let text = "litestream_shutdown: this connection is in a write transaction: COMMIT first";
                return Err(Error::Busy(text.to_string()));
            }
            let missing = fork::current().map_or(0, |life| life.registry.shutdown(timeout));
            registration.api.result_int(context, i64::try_from(missing).unwrap_or(i64::MAX));
            Ok(())
        });
    }
}
