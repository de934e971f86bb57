//! Lives of the process: a forked child is another one, and inherits nothing of its parent's replication.
//!
//! A handle remembers the life that opened it. In a child it passes straight through: no capture, no count, no
//! mutex that a thread of the parent may hold. The child's own opens make a new [`Life`]; the parent's is
//! leaked. A fork is told by a page that the kernel empties in the child (also after a bare `clone`) and by
//! `pthread_atfork` where it does not; never by pid, which is 1 in many containers and may come again.

use crate::check::Checks;
use crate::handle::Open;
use litestream_engine::registry::Registry;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// What belongs to one life of the process.
pub struct Life {
    number: u64,
    /// The databases.
    pub registry: Registry,
    /// The open handles on replicated databases, by the file name that SQLite gave.
    pub open: Open,
    /// The checks of restored files by the host's SQLite.
    pub checks: Checks,
    used: AtomicBool,
    warned: AtomicBool,
    /// Failed opens that were told on stderr, by path; at most [`TOLD_MAX`].
    told: Mutex<HashMap<String, String>>,
}

/// Paths of which the last failed open is remembered, so that a host that tries again and again is told once.
const TOLD_MAX: usize = 64;

/// Set once this library is registered for good.
static PREPARED: AtomicBool = AtomicBool::new(false);
/// Where the number of the present life stands, once `prepare` found a page for it.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// The number's place where there is no such page.
static PLAIN: AtomicU64 = AtomicU64::new(0);
/// Lives so far in this line of processes: a child counts on from its parent's.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// The newest life; a child finds its parent's here and replaces it.
static CURRENT: AtomicPtr<Life> = AtomicPtr::new(std::ptr::null_mut());

/// The number of the present life. A read of memory, but for the first time in a process.
pub fn life() -> u64 {
    match place().load(Ordering::Relaxed) {
        0 => begin(),
        number => number,
    }
}

/// The present life, if anything has begun in it.
pub fn current() -> Option<&'static Life> {
    let number = life();
    // SAFETY: lives are leaked, never freed.
    let life = unsafe { CURRENT.load(Ordering::Acquire).as_ref() }?;
    (life.number == number).then_some(life)
}

/// The present life, begun now if need be.
pub fn ensure() -> &'static Life {
    loop {
        if let Some(life) = current() {
            return life;
        }
        let stale = CURRENT.load(Ordering::Acquire);
        let fresh = Box::into_raw(Box::new(Life {
            number: life(),
            registry: Registry::new(),
            open: Open::default(),
            checks: Checks::default(),
            used: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            told: Mutex::default(),
        }));
        if CURRENT.compare_exchange(stale, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: made above and published nowhere.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
}

impl Life {
    /// A database was opened through us.
    pub fn use_it(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// True once a database was opened through us.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// True the first time that the warning about plain names is due.
    pub fn warn_once(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }

    /// True where this failed open has not been told on stderr yet.
    pub fn tell(&self, path: &str, text: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.get(path).is_some_and(|before| before == text) {
            return false;
        }
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(path.to_string(), text.to_string());
        true
    }
}

/// Once per process, when the library is there to stay: the page, the fork handler, the exit hook.
pub fn prepare() {
    if PREPARED.swap(true, Ordering::AcqRel) {
        return;
    }
    // Lives of before, if any, keep their number: the page begins with it.
    let number = PLAIN.load(Ordering::Relaxed);
    if let Some(page) = emptied_in_a_child() {
        page.store(number, Ordering::Relaxed);
        PAGE.store(std::ptr::from_ref(page).cast_mut(), Ordering::Release);
    }
    // SAFETY: plain functions of this library, which is never unloaded. Where the system has no room for a
    // handler, the page alone tells.
    unsafe {
        libc::pthread_atfork(Some(forks), Some(has_forked), Some(forked));
        libc::atexit(at_exit);
    }
}

fn place() -> &'static AtomicU64 {
    // SAFETY: a page that is never unmapped.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }.unwrap_or(&PLAIN)
}

/// A new number, unless another thread was faster.
fn begin() -> u64 {
    let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    match place().compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => number,
        Err(faster) => faster,
    }
}

/// A page of memory that reads as zeros in a forked child.
fn emptied_in_a_child() -> Option<&'static AtomicU64> {
    const PAGE_BYTES: usize = 4096;
    // SAFETY: a new private mapping, kept for good; it is aligned and zeroed, hence a valid AtomicU64.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut::<c_void>(),
            PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if memory == libc::MAP_FAILED {
            return None;
        }
        if libc::madvise(memory, PAGE_BYTES, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(memory, PAGE_BYTES);
            return None;
        }
        Some(&*memory.cast::<AtomicU64>())
    }
}

/// Before a fork: no thread of ours is inside SQLite for long, for the child would inherit the mutexes that it holds.
extern "C" fn forks() {
    crate::border::shield("a fork", (), || {
        if let Some(life) = current() {
            life.checks.fork();
        }
    });
}

/// In the parent, before `fork` returns.
extern "C" fn has_forked() {
    crate::border::shield("a fork", (), || {
        if let Some(life) = current() {
            life.checks.forked();
        }
    });
}

/// In the child, before `fork` returns.
extern "C" fn forked() {
    place().store(0, Ordering::Relaxed);
}

/// At normal exit: what is committed is stored, within each database's `shutdown-sync-timeout`. A child that
/// opened nothing of its own has no life here and leaves at once.
extern "C" fn at_exit() {
    crate::border::shield("the last sync at exit", (), || {
        if let Some(life) = current() {
            life.checks.rest();
            life.registry.leave();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a child is another life, with and without a fork handler. Method: fork, and a page emptied by hand.
    #[test]
    fn a_forked_child_is_another_life() {
        prepare();
        let mine = life();
        assert_eq!(life(), mine, "a life keeps its number");
        assert!(std::ptr::eq(ensure(), ensure()), "a life is made once");
        // SAFETY: the child only reads memory and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let other = life() != mine && current().is_none();
            // SAFETY: leaves without running exit handlers.
            unsafe { libc::_exit(i32::from(!other)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child saw the parent's life");
        assert_eq!(life(), mine, "the parent's life went on");
    }

    /// Goal: a failed open is told once per text. Method: the same path with two texts.
    #[test]
    fn a_failed_open_is_told_once() {
        let life = ensure();
        assert!(life.tell("/a", "one"));
        assert!(!life.tell("/a", "one"));
        assert!(life.tell("/a", "two"));
    }
}
