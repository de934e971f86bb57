//! What one call to a store is doing: when bytes last moved, and what last went wrong.
//!
//! Shared between the thread that waits and the HTTP layer below object_store, which passes on neither.

use crate::limits::{SEND_BUFFER, SLOWEST_LINE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// The job that the running task belongs to.
    pub(super) static JOB: Arc<Job>;
}

pub(super) struct Job {
    began: Instant,
    patience: Duration,
    /// Milliseconds after `began` at which a byte last moved.
    moved: AtomicU64,
    /// Milliseconds that bytes already handed to the system may still need.
    slack: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// The last answer or connection that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Host and port that were asked.
    pub host: String,
    pub what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// No connection, or it broke; in words.
    Connection(String),
    /// An answer: its status, and code and message of its body.
    Status { status: u16, code: String, message: String },
}

impl Job {
    pub fn new(patience: Duration) -> Arc<Job> {
        let (moved, slack) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Job { began: Instant::now(), patience, moved, slack, failure: Mutex::new(None) })
    }

    /// The job of the running task; a new one outside of any.
    pub fn current(patience: Duration) -> Arc<Job> {
        JOB.try_with(Arc::clone).unwrap_or_else(|_| Job::new(patience))
    }

    /// A byte moved.
    pub fn touch(&self) {
        self.moved.fetch_max(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// So many bytes of a body went to the system, which sends them in its own time.
    pub fn handed_over(&self, bytes: u64) {
        self.slack.store(bytes.min(SEND_BUFFER) * 1000 / SLOWEST_LINE, Ordering::Relaxed);
        self.touch();
    }

    /// An answer came: nothing is on its way any more.
    pub fn answered(&self) {
        self.slack.store(0, Ordering::Relaxed);
        self.touch();
    }

    /// How long it may still be silent. A little over nothing when that is used up.
    pub fn patience_left(&self) -> Duration {
        (self.limit().saturating_sub(self.silence())).max(Duration::from_millis(5))
    }

    pub fn is_stalled(&self) -> bool {
        self.silence() >= self.limit()
    }

    pub fn failed(&self, failure: Failure) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub fn succeeded(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn silence(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    fn limit(&self) -> Duration {
        self.patience + Duration::from_millis(self.slack.load(Ordering::Relaxed))
    }
}
