//! What the Leader saved of the running life of a WAL before its reset, so that the Gate finds less to do.
//!
//! A checkpoint announces that a reset may follow. While the host's thread waits for the disk there, the Leader of the
//! same process makes the Segment that the Gate would make. The Gate decides nothing by this but where it begins.

use crate::limits;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use crate::threads::Threads;
use crate::wal::Cursor;
use std::path::PathBuf;
use std::time::Instant;

/// Of one database, in one process.
#[derive(Default)]
pub(crate) struct Ahead {
    saving: AtomicBool,
    /// Where the newest Segment made ahead ends, and its file.
    saved: Mutex<Option<(Cursor, PathBuf)>>,
}

impl Ahead {
    /// The Leader saves by `save`, and a Gate waits for it meanwhile.
    pub(crate) fn save<E>(&self, save: impl FnOnce() -> Result<Option<(Cursor, PathBuf)>, E>) -> Result<(), E> {
        self.saving.store(true, Ordering::SeqCst);
        let saved = save();
        if let Ok(Some(saved)) = &saved {
            *lock(&self.saved) = Some(saved.clone());
        }
        self.saving.store(false, Ordering::SeqCst);
        saved.map(|_| ())
    }

    /// From where on the Gate has to save what is committed up to `end`, where everything up to `durable` is saved.
    pub(crate) fn from(&self, durable: Cursor, end: &Cursor, threads: &dyn Threads) -> Cursor {
        let until = Instant::now() + limits::AHEAD;
        while self.saving.load(Ordering::SeqCst) && Instant::now() < until {
            threads.pause(limits::AHEAD_LOOK);
        }
        self.newest(durable, end)
    }

    /// The same without waiting, for the Leader itself.
    pub(crate) fn newest(&self, durable: Cursor, end: &Cursor) -> Cursor {
        let saved = lock(&self.saved).clone();
        // A Segment that is gone was stored, folded with others, or moved away with all that is known of the database.
        let still = saved.filter(|(saved, path)| {
            saved.salt == end.salt && saved.frame > durable.frame && saved.frame <= end.frame && path.exists()
        });
        still.map_or(durable, |(saved, _)| saved)
    }
}
