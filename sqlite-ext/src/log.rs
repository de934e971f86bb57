//! Where the engine's messages go: into SQLite's own log (`SQLITE_CONFIG_LOG`) and to stderr.
//!
//! `LITESTREAM_LOG` (off, error, warn, info, debug; info unless set) says how much. stderr is written by one
//! system call without any lock, so that a child forked at a bad moment can still speak, and a closed
//! pipe there never raises SIGPIPE for the host. A Rust host's own logger, where one is set, is left in place.
//!
//! A host with one thread may have a log callback that stands no other (SQLite's own testfixture crashes): what threads of
//! ours say goes to stderr at once, and into SQLite's log when the host next opens or closes a database.

use crate::register;
use libsqlite3_sys::{SQLITE_NOTICE, SQLITE_WARNING};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};

/// Messages of our threads that wait for a thread of the host; of more, the newest go to stderr only.
const WAITING_MAX: usize = 32;
/// Beginnings of the names of our threads.
const OURS: [&str; 2] = ["litestream", "restore-"];

static WAITING: Mutex<Vec<(c_int, String)>> = Mutex::new(Vec::new());
static SOME_WAIT: AtomicBool = AtomicBool::new(false);

struct Sink;

/// Once per process: becomes the `log` crate's sink, if there is none yet.
pub fn prepare() {
    if log::set_logger(&Sink).is_ok() {
        log::set_max_level(level(std::env::var("LITESTREAM_LOG").ok().as_deref()));
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "litestream"
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = format!("litestream: {}", record.args());
        let code = if record.level() <= Level::Warn { SQLITE_WARNING } else { SQLITE_NOTICE };
        stderr(&text);
        let ours = std::thread::current().name().is_some_and(|name| OURS.iter().any(|start| name.starts_with(start)));
        if ours {
            keep(code, text);
        } else {
            deliver();
            say(code, &text);
        }
    }

    fn flush(&self) {}
}

fn say(code: c_int, text: &str) {
    for registration in register::all() {
        registration.api.log(code, text);
    }
}

/// Nothing is waited for here: in a forked child a thread that is gone may hold this.
fn waiting<R>(call: impl FnOnce(&mut Vec<(c_int, String)>) -> R) -> Option<R> {
    match WAITING.try_lock() {
        Ok(mut waiting) => Some(call(&mut waiting)),
        Err(TryLockError::Poisoned(poisoned)) => Some(call(&mut poisoned.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn keep(code: c_int, text: String) {
    waiting(|waiting| {
        if waiting.len() < WAITING_MAX {
            waiting.push((code, text));
            SOME_WAIT.store(true, Ordering::Release);
        }
    });
}

/// On a thread of the host: what our threads said goes into SQLite's log.
pub fn deliver() {
    if SOME_WAIT.load(Ordering::Acquire)
        && let Some(waiting) = waiting(|waiting| {
            SOME_WAIT.store(false, Ordering::Release);
            std::mem::take(waiting)
        })
    {
        for (code, text) in waiting {
            say(code, &text);
        }
    }
}

fn level(text: Option<&str>) -> LevelFilter {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(LevelFilter::Info)
}

/// One line on stderr. Nothing is done where it cannot be written: there is nowhere left to say so.
pub fn stderr(text: &str) {
    let line = format!("{text}\n");
    // SAFETY: a set of signals of our own, filled before it is used; the thread's mask is put back.
    unsafe {
        let mut pipe: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        let mut pending: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut pipe);
        libc::sigaddset(&mut pipe, libc::SIGPIPE);
        libc::sigpending(&mut pending);
        let theirs = libc::sigismember(&pending, libc::SIGPIPE) == 1;
        libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut before);
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        if !theirs {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&pipe, std::ptr::null_mut(), &now);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a thread of ours never calls the host's log callback. Method: a message from one waits until it is asked for.
    #[test]
    fn what_our_threads_say_waits_for_a_thread_of_the_host() {
        let say =
            || Sink.log(&Record::builder().target("litestream").level(Level::Warn).args(format_args!("x")).build());
        let named =
            std::thread::Builder::new().name("litestream-test".into()).spawn(move || (0..100).for_each(|_| say()));
        named.expect("a thread").join().expect("no panic");
        assert_eq!(waiting(|waiting| waiting.len()), Some(WAITING_MAX), "kept, and no more than the limit");
        deliver();
        assert!(!SOME_WAIT.load(Ordering::Acquire), "delivered");
    }

    /// Goal: the variable is read leniently and a typing error does not silence anything.
    #[test]
    fn an_unknown_level_means_info() {
        assert_eq!(level(None), LevelFilter::Info);
        assert_eq!(level(Some("nonsense")), LevelFilter::Info);
        assert_eq!(level(Some("WARN")), LevelFilter::Warn);
        assert_eq!(level(Some("off")), LevelFilter::Off);
    }
}
