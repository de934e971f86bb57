//! Where the engine's messages go: into SQLite's own log (`SQLITE_CONFIG_LOG`) and to stderr.
//!
//! `LITESTREAM_LOG` (off, error, warn, info, debug; info unless set) says how much. stderr is written by one
//! system call without any lock, so that a child forked at a bad moment can still speak, and a closed
//! pipe there never raises SIGPIPE for the host. A Rust host's own logger, where one is set, is left in place.

use crate::register;
use libsqlite3_sys::{SQLITE_NOTICE, SQLITE_WARNING};
use log::{Level, LevelFilter, Log, Metadata, Record};

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
        for registration in register::all() {
            registration.api.log(code, &text);
        }
        stderr(&text);
    }

    fn flush(&self) {}
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

    /// Goal: the variable is read leniently and a typing error does not silence anything.
    #[test]
    fn an_unknown_level_means_info() {
        assert_eq!(level(None), LevelFilter::Info);
        assert_eq!(level(Some("nonsense")), LevelFilter::Info);
        assert_eq!(level(Some("WARN")), LevelFilter::Warn);
        assert_eq!(level(Some("off")), LevelFilter::Off);
    }
}
