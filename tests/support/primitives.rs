//! The names of `src/sync.rs` for threads of an explorer: each operation is a point at which another thread may be next. A
//! wait never ends by its time in there, so that a wake-up that is missing shows.
#![allow(dead_code)]

use crate::explorer::{is_played, point, wait_until};
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Any of them is sequentially consistent here: what is explored is the order of steps, not of memory.
const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::SeqCst;

pub struct Mutex<T>(std::sync::Mutex<T>);

pub struct MutexGuard<'a, T> {
    of: &'a Mutex<T>,
    held: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    point();
    let mut held = None;
    wait_until(|| {
        held = match mutex.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        };
        held.is_some()
    });
    MutexGuard { of: mutex, held }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("until it is dropped")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("until it is dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.held.take().is_some() && !std::thread::panicking() {
            point();
        }
    }
}

#[derive(Default)]
pub struct Condvar(AtomicU64);

impl Condvar {
    pub fn notify_all(&self) {
        self.0.fetch_add(1, ORDER);
        point();
    }

    #[expect(clippy::type_complexity, reason = "the standard library's")]
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        time: Duration,
        mut goes_on: impl FnMut(&mut T) -> bool,
    ) -> Result<(MutexGuard<'a, T>, bool), PoisonError<(MutexGuard<'a, T>, bool)>> {
        let deadline = Instant::now() + time;
        let is_late = || !is_played() && Instant::now() >= deadline;
        while goes_on(&mut guard) {
            if time.is_zero() || is_late() {
                return Ok((guard, true));
            }
            let (heard, of) = (self.0.load(ORDER), guard.of);
            drop(guard);
            wait_until(|| self.0.load(ORDER) != heard || is_late());
            guard = lock(of);
        }
        Ok((guard, false))
    }
}

pub mod atomic {
    use super::ORDER;
    use crate::explorer::point;
    pub use std::sync::atomic::Ordering;

    #[derive(Default)]
    pub struct AtomicBool(std::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub fn new(value: bool) -> AtomicBool {
            AtomicBool(std::sync::atomic::AtomicBool::new(value))
        }

        pub fn load(&self, _: Ordering) -> bool {
            point();
            self.0.load(ORDER)
        }

        pub fn store(&self, value: bool, _: Ordering) {
            point();
            self.0.store(value, ORDER);
        }

        pub fn fetch_or(&self, value: bool, _: Ordering) -> bool {
            point();
            self.0.fetch_or(value, ORDER)
        }
    }

    #[derive(Default)]
    pub struct AtomicUsize(std::sync::atomic::AtomicUsize);

    impl AtomicUsize {
        pub fn new(value: usize) -> AtomicUsize {
            AtomicUsize(std::sync::atomic::AtomicUsize::new(value))
        }

        pub fn load(&self, _: Ordering) -> usize {
            point();
            self.0.load(ORDER)
        }

        pub fn store(&self, value: usize, _: Ordering) {
            point();
            self.0.store(value, ORDER);
        }

        pub fn fetch_add(&self, value: usize, _: Ordering) -> usize {
            point();
            self.0.fetch_add(value, ORDER)
        }

        pub fn fetch_sub(&self, value: usize, _: Ordering) -> usize {
            point();
            self.0.fetch_sub(value, ORDER)
        }
    }
}

pub mod channel {
    use crate::explorer::{point, wait_until};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    struct Queue<T> {
        items: Mutex<VecDeque<T>>,
        room: usize,
    }

    pub struct Sender<T>(Arc<Queue<T>>);
    pub struct Receiver<T>(Arc<Queue<T>>);

    pub fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Queue { items: Mutex::new(VecDeque::new()), room });
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }

    impl<T> Sender<T> {
        pub fn try_send(&self, item: T) -> Result<(), T> {
            point();
            let mut items = self.0.items.lock().unwrap();
            if items.len() >= self.0.room {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub fn try_recv(&self) -> Result<T, ()> {
            point();
            self.0.items.lock().unwrap().pop_front().ok_or(())
        }

        pub fn is_empty(&self) -> bool {
            point();
            self.0.items.lock().unwrap().is_empty()
        }
    }

    #[derive(Default)]
    pub struct Select<'a>(Vec<Box<dyn Fn() -> bool + 'a>>);

    impl<'a> Select<'a> {
        pub fn new() -> Select<'a> {
            Select::default()
        }

        pub fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
            self.0.push(Box::new(|| !receiver.0.items.lock().unwrap().is_empty()));
            self.0.len() - 1
        }

        pub fn ready_deadline(&mut self, _: Instant) -> Result<usize, ()> {
            let mut ready = None;
            wait_until(|| {
                ready = self.0.iter().position(|is_ready| is_ready());
                ready.is_some()
            });
            ready.ok_or(())
        }
    }
}
