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
        let _over = Over(&self.saving);
        if let Some(saved) = save()? {
            *lock(&self.saved) = Some(saved);
        }
        Ok(())
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

/// The word that nobody saves any more, also where a panic ends it: no Gate waits for a worker that died.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::System;
    use crate::wal::Salt;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    fn at(frame: u32) -> Cursor {
        Cursor { frame, ..Cursor::start(Salt::default()) }
    }

    /// Goal: no Gate waits for ever. Method: a Gate that comes inside a saving, which cannot end before it.
    #[test]
    fn a_gate_goes_on_without_a_leader_that_does_not_come_to_an_end() {
        let (ahead, came) = (Ahead::default(), Instant::now());
        let saved = ahead.save(|| {
            assert_eq!(ahead.from(at(1), &at(5), &System), at(1));
            Ok::<_, ()>(None)
        });
        assert_eq!(saved, Ok(()));
        assert!(came.elapsed() >= limits::AHEAD, "it waited as long as it may");
    }

    /// Goal: no Gate waits for a worker that died. Method: a saving that panics, and one that fails, before a Gate.
    #[test]
    fn a_gate_does_not_wait_for_a_saving_that_broke_off() {
        let ahead = Ahead::default();
        assert_eq!(ahead.save(|| Err("no room")), Err("no room"));
        let died = catch_unwind(AssertUnwindSafe(|| ahead.save::<()>(|| resume_unwind(Box::new("a fault")))));
        assert!(died.is_err());
        assert!(!ahead.saving.load(Ordering::SeqCst));
        assert_eq!(ahead.from(at(1), &at(5), &System), at(1));
    }
}
