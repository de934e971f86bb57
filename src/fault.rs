//! Named points at which a test lets this process die, as `kill -9` would at that very call.
//!
//! `LITESTREAM_FAULT=NAME:N` kills at the N-th pass of the point NAME, `any:N` at the N-th pass of any point.
//! It is read once. Without it a point is one relaxed read of memory. For tests only; nobody else sets it. A simulation
//! of several lives in one process is told of each pass instead, and ends the life itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// False once it is known that no fault is wanted.
static ARMED: AtomicBool = AtomicBool::new(true);
/// Passes so far of what is counted.
static PASSES: AtomicU64 = AtomicU64::new(0);

/// What the variable said: the point's name, and at which pass.
static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();

/// Who is told.
static OBSERVER: OnceLock<fn(&str)> = OnceLock::new();

/// From now on `observer` is told of each pass, before anything else passes; the first one stays.
pub fn observe(observer: fn(&str)) {
    let _ = OBSERVER.set(observer);
    ARMED.store(true, Ordering::Relaxed);
}

/// Passes the point `name`: the process ends here where a test asked for it.
#[inline]
pub fn point(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        armed(name);
    }
}

#[cold]
fn armed(name: &str) {
    if let Some(observer) = OBSERVER.get() {
        return observer(name);
    }
    let wanted = WANTED.get_or_init(|| {
        let said = std::env::var("LITESTREAM_FAULT").ok()?;
        let (point, pass) = said.split_once(':')?;
        Some((point.to_string(), pass.parse().ok()?))
    });
    let Some((wanted, pass)) = wanted else { return ARMED.store(false, Ordering::Relaxed) };
    if (wanted == "any" || wanted == name) && PASSES.fetch_add(1, Ordering::Relaxed) + 1 == *pass {
        // No destructor, no handler, no exit hook: what a kill from outside does. It cannot fail for ourselves.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
