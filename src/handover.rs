//! Between the connections of a database and its worker: what was committed, who calls, who is connected, and whether a
//! worker runs.
//!
//! Nothing here blocks a connection. The channel only wakes: what it says is looked up elsewhere, so a full one loses
//! nothing; but nobody may be left waiting for a wake-up that does not come. `tests/schedules/` runs this file as it is.

use crate::limits::CHANNEL_TXNS;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::channel::{Receiver, Select, Sender, bounded};
use crate::sync::{Mutex, lock};
use std::time::Instant;

/// The hand-over of one database.
pub(crate) struct HandOver<T> {
    txns: (Sender<T>, Receiver<T>),
    /// Requests that wake the worker at once.
    calls: (Sender<()>, Receiver<()>),
    /// Hints that the worker takes where it rests.
    hints: (Sender<()>, Receiver<()>),
    connections: AtomicUsize,
    running: Mutex<bool>,
    /// The same without a lock, for the way of each statement.
    started: AtomicBool,
}

impl<T> HandOver<T> {
    pub(crate) fn new() -> HandOver<T> {
        HandOver {
            txns: bounded(CHANNEL_TXNS),
            calls: bounded(1),
            hints: bounded(1),
            connections: AtomicUsize::new(0),
            running: Mutex::new(false),
            started: AtomicBool::new(false),
        }
    }

    // ---- what connections say ----

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
        self.call();
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Hands one over; a full channel has no room for it, and wakes all the same.
    pub(crate) fn commit(&self, txn: T) {
        let _ = self.txns.0.try_send(txn);
    }

    /// Wakes the worker.
    pub(crate) fn call(&self) {
        let _ = self.calls.0.try_send(()); // one that waits is enough
    }

    /// Tells the worker, where it rests, what it may do now and need not.
    pub(crate) fn hint(&self) {
        let _ = self.hints.0.try_send(());
    }

    /// True while a worker runs.
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    /// Begins a worker by `begin`, where none runs.
    pub(crate) fn start<E>(&self, begin: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut running = lock(&self.running);
        if !*running {
            begin()?;
            *running = true;
            self.started.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    // ---- what the worker does ----

    /// Takes the oldest that was handed over.
    pub(crate) fn take(&self) -> Option<T> {
        self.txns.1.try_recv().ok()
    }

    /// True where somebody called since this was asked last.
    pub(crate) fn take_call(&self) -> bool {
        self.calls.1.try_recv().is_ok()
    }

    /// True where there was a hint since this was asked last.
    pub(crate) fn take_hint(&self) -> bool {
        self.hints.1.try_recv().is_ok()
    }

    /// Blocks until somebody calls or hints, or, where that matters, commits; at the latest until then. Takes nothing.
    pub(crate) fn wait(&self, until: Instant, hears_commits: bool) {
        let mut select = Select::new();
        select.recv(&self.calls.1);
        select.recv(&self.hints.1);
        if hears_commits {
            select.recv(&self.txns.1);
        }
        let _ = select.ready_deadline(until); // what it was is looked at anew
    }

    /// The worker has nothing left: it does the `last` thing and ends, unless something came meanwhile.
    pub(crate) fn may_end(&self, last: impl FnOnce()) -> bool {
        let mut running = lock(&self.running);
        if self.is_needed() {
            return false;
        }
        last();
        self.started.store(false, Ordering::SeqCst);
        // Who came during the last thing saw a worker still, and began none: what it left is looked for once more, after
        // the word that none runs.
        let needed = self.is_needed();
        self.started.store(needed, Ordering::SeqCst);
        *running = needed;
        !needed
    }

    fn is_needed(&self) -> bool {
        self.connections() > 0 || !self.txns.1.is_empty() || !self.calls.1.is_empty()
    }
}
