//! Who runs the engine's own threads and lets them rest: the system, or a caller that runs one step after another
//! under a clock of its own.
//!
//! Not its business: what the threads do, and the I/O thread of object stores.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a thread of the engine does.
pub type Body = Box<dyn FnOnce() + Send>;

/// Runs threads of the engine.
pub trait Threads: Send + Sync {
    /// Begins a thread.
    fn run(&self, name: &'static str, body: Body) -> io::Result<()>;

    /// The calling thread has nothing to do before `until`, unless something comes: `wait` blocks for as long. Whoever
    /// called looks again afterwards, so this may return early.
    fn rest(&self, until: Instant, wait: &mut dyn FnMut());

    /// Leaves the others so much time before the calling thread looks again; none at all: their turn.
    fn pause(&self, time: Duration);
}

/// The system's threads.
pub struct System;

impl Threads for System {
    fn run(&self, name: &'static str, body: Body) -> io::Result<()> {
        std::thread::Builder::new().name(name.into()).spawn(body).map(drop)
    }

    fn rest(&self, _until: Instant, wait: &mut dyn FnMut()) {
        wait();
    }

    fn pause(&self, time: Duration) {
        if time.is_zero() { std::thread::yield_now() } else { std::thread::sleep(time) }
    }
}

/// The usual choice.
pub fn system() -> Arc<dyn Threads> {
    Arc::new(System)
}
