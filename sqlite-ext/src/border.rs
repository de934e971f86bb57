//! The border between Rust and C: no panic crosses it, and errors become result codes in one place.
//!
//! What SQLite calls forwards to the base VFS outside of these guards, so that a panic of the engine costs the
//! replication of one connection and never an answer of the database.

use libsqlite3_sys::{SQLITE_BUSY, SQLITE_CANTOPEN, SQLITE_CORRUPT, SQLITE_ERROR, SQLITE_IOERR, SQLITE_MISUSE};
use litestream_engine::error::Error;
use std::cell::RefCell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// The text of this thread's last failed open, for `xGetLastError`.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs Rust code that C waits for. A panic becomes its text.
pub fn guard<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_string());
        // Dropping a payload may itself panic; a few bytes are the smaller loss.
        std::mem::forget(payload);
        text
    })
}

/// Runs Rust code that C waits for; a panic is logged and answered with `otherwise`.
pub fn shield<R>(what: &str, otherwise: R, call: impl FnOnce() -> R) -> R {
    guard(call).unwrap_or_else(|panic| {
        log::error!(target: "litestream", "{what} failed inside litestream: {panic}; please report this");
        otherwise
    })
}

/// SQLite's result code for an error of the engine.
pub fn code(error: &Error) -> c_int {
    match error {
        Error::Usage(_) => SQLITE_MISUSE,
        Error::NoBackup(_) | Error::Unreachable(_) | Error::Refused(_) | Error::Gap(_) => SQLITE_CANTOPEN,
        Error::Conflict(_) | Error::State(_) => SQLITE_ERROR,
        Error::Corrupt(_) => SQLITE_CORRUPT,
        Error::Timeout(_) | Error::Busy(_) => SQLITE_BUSY,
        Error::Io { .. } => SQLITE_IOERR,
    }
}

/// Keeps the reason of a failed open for this thread's `xGetLastError`.
pub fn remember(text: &str) {
    // A thread that is ending has no place for the text any more, and nobody to read it.
    let _ = LAST.try_with(|last| text.clone_into(&mut last.borrow_mut()));
}

/// Takes the reason of this thread's last failed open.
pub fn last_error() -> Option<String> {
    LAST.try_with(|last| std::mem::take(&mut *last.borrow_mut())).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a panic stops here, with its words. Method: both kinds of payload.
    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(guard(|| panic!("plain")), Err::<(), _>("plain".to_string()));
        assert_eq!(guard(|| panic!("with {}", 1)), Err::<(), _>("with 1".to_string()));
        assert_eq!(shield("a test", 7, || panic!("logged")), 7);
        assert_eq!(guard(|| 5), Ok(5));
    }

    /// Goal: the text of a failed open is given once. Method: remember, take, take.
    #[test]
    fn the_last_error_is_taken_once() {
        assert_eq!(last_error(), None);
        remember("no replica");
        assert_eq!(last_error().as_deref(), Some("no replica"));
        assert_eq!(last_error(), None);
    }
}
