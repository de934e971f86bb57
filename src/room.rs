//! How much a Spool may still take: its bytes, measured now and then, and its limit.
//!
//! A Gate asks while it holds SQLite's lock, so the folder is not listed each time; what is saved meanwhile is added.

use crate::limits;
use crate::spool::Spool;
use crate::sync::lock;
use std::sync::Mutex;
use std::time::Instant;

/// The room of one Spool.
#[derive(Default)]
pub(crate) struct Room {
    /// Bytes, and when they were measured.
    known: Mutex<(u64, Option<Instant>)>,
}

impl Room {
    /// Bytes that may be added. `limit` is what a person set; without it the larger of the default and `database`, the
    /// database's size in bytes, counts.
    pub(crate) fn left(&self, spool: &Spool, limit: Option<u64>, database: u64) -> u64 {
        limit.unwrap_or_else(|| limits::SPOOL.max(database)).saturating_sub(self.used(spool))
    }

    /// Bytes in the Spool, measured at most once in [`limits::MEASURE_SPOOL`]; where that fails, as known before.
    pub(crate) fn used(&self, spool: &Spool) -> u64 {
        let mut known = lock(&self.known);
        if known.1.is_none_or(|when| when.elapsed() > limits::MEASURE_SPOOL)
            && let Ok(bytes) = spool.bytes()
        {
            *known = (bytes, Some(Instant::now()));
        }
        known.0
    }

    /// So many bytes were written there.
    pub(crate) fn took(&self, bytes: u64) {
        lock(&self.known).0 += bytes;
    }
}
