//! The primitives by which threads of this process meet, under one name: the standard library's, and crossbeam's channel.
//!
//! What is written against these names alone is run by `tests/schedules/` with shuttle's.

pub(crate) use crossbeam_channel as channel;
pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

use std::sync::{PoisonError, TryLockError};

/// A lock whose holder panicked still guards sound data: everything behind these is written in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same without waiting: `None` where another thread has it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
