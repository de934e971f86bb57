//! Connections that come, commit and go beside workers that begin and end (`src/handover.rs`).

use crate::explore::below;
use crate::handover::HandOver;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, lock};
use shuttle::thread::{JoinHandle, spawn};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

struct World {
    hand: HandOver<u64>,
    /// What looks see, whatever was handed over: the wal-index, say.
    committed: AtomicU64,
    stored: Mutex<u64>,
    grown: Condvar,
    workers: AtomicUsize,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl World {
    fn begin(self: &Arc<World>, body: impl FnOnce(&Arc<World>) + Send + 'static) {
        let world = Arc::clone(self);
        let thread = spawn(move || body(&world));
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    fn next_thread(&self) -> Option<JoinHandle<()>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// A connection that commits, as `Conn` and `Db` do with the hand-over.
    fn connection(self: &Arc<World>, commits: u64, stays: bool) {
        self.hand.connected();
        for _ in 0..commits {
            self.touched();
            let end = self.committed.fetch_add(1, Ordering::SeqCst) + 1;
            self.hand.commit(end);
            self.touched();
        }
        if stays {
            // It says nothing more, and its last commit must not wait for it.
            let all = self.committed.load(Ordering::SeqCst);
            drop(self.grown.wait_while(lock(&self.stored), |stored| *stored < all));
        }
        self.hand.disconnected();
    }

    fn touched(self: &Arc<World>) {
        if self.hand.is_started() {
            return;
        }
        let begun = self.hand.start(|| {
            self.begin(|world| world.work());
            Ok::<(), ()>(())
        });
        begun.expect("threads begin here");
    }

    /// The worker's loop, without what it does in between.
    fn work(&self) {
        assert_eq!(self.workers.fetch_add(1, Ordering::SeqCst), 0, "two workers of one database");
        loop {
            while self.hand.take().is_some() {}
            let seen = self.committed.load(Ordering::SeqCst);
            let mut stored = lock(&self.stored);
            *stored = seen.max(*stored);
            drop(stored);
            self.grown.notify_all();
            let last = || {
                self.workers.fetch_sub(1, Ordering::SeqCst);
            };
            if self.hand.connections() == 0 && self.hand.may_end(last) {
                return;
            }
            if self.workers.load(Ordering::SeqCst) == 0 {
                // It had given up its lead already.
                self.workers.fetch_add(1, Ordering::SeqCst);
            }
            while !self.hand.take_call() && self.hand.take().is_none() {
                self.hand.wait(Instant::now() + Duration::from_secs(1), true);
            }
        }
    }
}

/// Up to three connections.
pub fn come_and_go() {
    let world = Arc::new(World {
        hand: HandOver::new(),
        committed: AtomicU64::default(),
        stored: Mutex::default(),
        grown: Condvar::default(),
        workers: AtomicUsize::default(),
        threads: std::sync::Mutex::default(),
    });
    for _ in 0..1 + below(3) {
        let (commits, stays) = (1 + below(3), below(2) == 0);
        world.begin(move |world| world.connection(commits, stays));
    }
    while let Some(thread) = world.next_thread() {
        thread.join().expect("a panic is the schedule's end");
    }
    let (stored, committed) = (*lock(&world.stored), world.committed.load(Ordering::SeqCst));
    assert_eq!(stored, committed, "not every commit was stored");
}
