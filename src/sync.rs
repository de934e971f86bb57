//! The primitives by which threads of this process meet, under one name: the standard library's, and crossbeam's channel.
//!
//! What is written against these names alone is run by `tests/schedules.rs` under a scheduler of its own.

pub(crate) use crossbeam_channel as channel;
pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// A lock whose holder panicked still guards sound data: everything behind these is written in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
