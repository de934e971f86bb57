//! The I/O thread: the one thread of a process life that talks to object stores.
//!
//! Started when the first call needs it, joined when the last store that used it is dropped. Its runtime is
//! never entered on a thread of the host: callers hand over a future and wait on a channel. After a fork the
//! registry is new, so this is too; the parent's is leaked with the parent's stores.

use super::home::Home;
use super::job::{JOB, Job};
use super::tls::{Clients, Roots};
use crate::error::{Error, Result};
use crate::limits::BLOCKING_THREADS;
use std::collections::HashMap;
use std::future::Future;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The I/O thread, or the promise of one. Clones share it.
#[derive(Clone, Default)]
pub struct Io {
    running: Arc<Mutex<Weak<Running>>>,
    /// Keeps all replicas, where the caller brings it: no thread is started then.
    home: Option<Arc<dyn Home>>,
}

impl Io {
    /// No thread yet.
    pub fn new() -> Io {
        Io::default()
    }

    /// Every store is kept by `home`, whatever its URL says.
    pub fn kept_by(home: Arc<dyn Home>) -> Io {
        Io { home: Some(home), ..Io::default() }
    }

    pub(super) fn home(&self) -> Option<Arc<dyn Home>> {
        self.home.clone()
    }

    /// True while the thread lives.
    pub fn is_running(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    /// The thread, started if need be. It lives as long as somebody holds this.
    pub(super) fn running(&self) -> Result<Arc<Running>> {
        let mut slot = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = slot.upgrade() {
            return Ok(running);
        }
        let running = Arc::new(Running::start()?);
        *slot = Arc::downgrade(&running);
        Ok(running)
    }
}

/// A living I/O thread and the HTTP clients that belong to its runtime.
pub(super) struct Running {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    clients: Mutex<HashMap<Roots, Arc<Clients>>>,
}

impl Running {
    fn start() -> Result<Running> {
        let failed = |e| {
            Error::Busy(format!(
                "the thread litestream-io does not start ({e}): the process may be at a limit of threads or files"
            ))
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(Duration::from_secs(1))
            .thread_name("litestream-dns")
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            // An error here is the sender gone, which means the same.
            let _ = runtime.block_on(stopped);
            // A name lookup that hangs must not hold up who drops the last store.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("litestream-io".to_string()).spawn(body).map_err(failed)?;
        Ok(Running { handle, stop: Some(stop), thread: Some(thread), clients: Mutex::new(HashMap::new()) })
    }

    /// The HTTP clients that trust `roots`.
    pub fn clients(&self, roots: &Roots) -> Arc<Clients> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clients.entry(roots.clone()).or_insert_with(|| Arc::new(Clients::new(roots.clone()))))
    }

    /// Runs a future on the I/O thread.
    pub fn spawn<T: Send + 'static>(&self, job: Arc<Job>, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let (answer, answered) = sync_channel(1);
        let running = JOB.scope(Arc::clone(&job), async move {
            // Nobody waits any more: the answer is of no use.
            let _ = answer.send(future.await);
        });
        let abort = self.handle.spawn(running).abort_handle();
        Task { answered, abort, job }
    }

    /// Runs a future on the I/O thread and waits for it, as long as bytes move.
    pub fn call<T: Send + 'static>(
        &self,
        job: &Arc<Job>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> std::result::Result<T, Lost> {
        self.spawn(Arc::clone(job), future).wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was seen by whoever waited for an answer.
            let _ = thread.join();
        }
    }
}

/// A future on the I/O thread. Dropped, it is cancelled.
pub(super) struct Task<T> {
    answered: Receiver<T>,
    abort: tokio::task::AbortHandle,
    job: Arc<Job>,
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// No byte moved for as long as the store's patience lasts.
    Stalled,
    /// The future panicked, or the thread is gone.
    Died,
}

impl<T> Task<T> {
    /// Waits for the answer, as long as bytes move.
    pub fn wait(&self) -> std::result::Result<T, Lost> {
        loop {
            match self.answered.recv_timeout(self.job.patience_left()) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(Lost::Died),
                Err(RecvTimeoutError::Timeout) if self.job.is_stalled() => return Err(Lost::Stalled),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
