//! `PRAGMA litestream_*`: the SQL functions' answers for one database, also where functions are not at hand.
//!
//! SQLite asks the file before it looks at a PRAGMA itself. It takes one text as the answer; a missing text makes some
//! hosts run out of memory, so there is always one, if empty. SQLite asks anew at each run of a statement.

use crate::database::Database;
use crate::sql::{self, Attached, SYNC_TIMEOUT};
use crate::{border, status_table};
use libsqlite3_sys::{SQLITE_ERROR, SQLITE_OK};
use litestream_engine::db::Db;
use litestream_engine::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

/// What the names of ours begin with.
const PREFIX: &str = "litestream_";

/// Answers a PRAGMA that is ours; `None` for every other.
///
/// # Safety
/// `texts` are the three of SQLITE_FCNTL_PRAGMA: the answer's place, the PRAGMA's name, its argument or null.
pub unsafe fn answer(database: &Database, texts: *mut *mut c_char) -> Option<c_int> {
    // SAFETY: the caller's promise.
    let (name, argument) = unsafe {
        let text = |at: usize| {
            let text = *texts.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        (text(1)?.to_ascii_lowercase(), text(2))
    };
    let word = name.strip_prefix(PREFIX)?;
    let db = database.db()?;
    let (text, code) = match border::guard(|| run(db, database.writing, word, argument.as_deref())) {
        Ok(Ok(text)) => (text, SQLITE_OK),
        Ok(Err(error)) => (error.to_string(), SQLITE_ERROR),
        Err(panic) => (format!("litestream: {panic} (a defect: please report it)"), SQLITE_ERROR),
    };
    // SAFETY: SQLite frees what stands there.
    unsafe { *texts = database.registration.api.text(&text) };
    Some(code)
}

fn run(db: &Arc<Db>, writing: bool, word: &str, argument: Option<&str>) -> Result<String> {
    match word {
        "status" => Ok(status_table::json(&db.status())),
        "txid" => Ok(db.status().txid_captured.map(|txid| txid.to_string()).unwrap_or_default()),
        "lag" => Ok(db.status().lag.map(|lag| lag.to_string()).unwrap_or_default()),
        "sync" => {
            let timeout = match argument {
                None => SYNC_TIMEOUT,
                Some(text) => sql::seconds(text.trim().parse().unwrap_or(f64::NAN))?,
            };
            let one = Attached { schema: c"main".to_owned(), db: Arc::clone(db), writing };
            Ok(sql::sync_all(&[one], timeout)?.to_string())
        }
        _ => Err(Error::Usage(format!(
            "there is no PRAGMA {PREFIX}{word}: there are {PREFIX}status, {PREFIX}txid, {PREFIX}lag and {PREFIX}sync"
        ))),
    }
}
