//! The names of the engine's `src/sync.rs` for threads under shuttle. No wait ends by its time, so that a wake-up that is
//! missing shows as a deadlock.

pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};

use std::sync::PoisonError;

/// As the engine's.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's channel, with a wait for several of them, which shuttle's has not. Each operation is one step.
pub(crate) mod channel {
    use shuttle::thread::{Thread, current, park, sleep};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, Instant};

    /// Items that a channel holds, whatever its user asked for: a full one is the rule here, and must lose nothing.
    const ROOM: usize = 1;

    struct Queue<T>(Mutex<Inner<T>>);

    struct Inner<T> {
        items: VecDeque<T>,
        waits: Option<Thread>,
    }

    impl<T> Queue<T> {
        /// As a step of its own.
        fn step(&self) -> MutexGuard<'_, Inner<T>> {
            sleep(Duration::ZERO); // a place where another thread may be next, and no more
            self.now()
        }

        /// As part of a step. Nobody ever waits for this lock.
        fn now(&self) -> MutexGuard<'_, Inner<T>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(crate) struct Sender<T>(Arc<Queue<T>>);
    pub(crate) struct Receiver<T>(Arc<Queue<T>>);

    pub(crate) fn bounded<T>(_: usize) -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Queue(Mutex::new(Inner { items: VecDeque::new(), waits: None })));
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, item: T) -> Result<(), T> {
            let mut inner = self.0.step();
            if inner.items.len() >= ROOM {
                return Err(item);
            }
            inner.items.push_back(item);
            let waits = inner.waits.take();
            drop(inner);
            if let Some(waits) = waits {
                waits.unpark();
            }
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, ()> {
            self.0.step().items.pop_front().ok_or(())
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.step().items.is_empty()
        }
    }

    /// Looks at several channels, and is woken by each of them.
    #[derive(Default)]
    pub(crate) struct Select<'a>(Vec<Box<dyn Fn() -> bool + 'a>>);

    impl<'a> Select<'a> {
        pub(crate) fn new() -> Select<'a> {
            Select::default()
        }

        pub(crate) fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
            self.0.push(Box::new(|| {
                let mut inner = receiver.0.now();
                inner.waits = Some(current());
                !inner.items.is_empty()
            }));
            self.0.len() - 1
        }

        pub(crate) fn ready_deadline(&mut self, _: Instant) -> Result<usize, ()> {
            sleep(Duration::ZERO);
            loop {
                if let Some(ready) = self.0.iter().position(|is_ready| is_ready()) {
                    return Ok(ready);
                }
                park();
            }
        }
    }
}
