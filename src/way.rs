//! Between processes: the Leader's SHARED or RESERVED must not give a writer elsewhere a BUSY that plain SQLite would not
//! give, in rollback-journal modes, and the last close of a WAL database no reason to leave the WAL behind. And a reader of a
//! file that was deleted must not share that one's wal-index with a new file.
//!
//! The Leader announces its reading, a writer that the base refused asks for the way, each by a lock on a file of the
//! Spool. Each takes its own lock before it looks at the other's, so one of the two sees the other. Nothing of this
//! is touched where the base grants. Within one process `turns` does the same without locks.

use crate::error::Result;
use crate::leader::Leadership;
use crate::limits;
use crate::spool::Spool;
use crate::sync::lock;
use std::sync::Mutex;
use std::time::Instant;

/// The way to one database, as this process sees it.
pub(crate) struct Way {
    /// Held alone by the Leader while it reads.
    reading: Leadership,
    /// Shared by the processes in which somebody waits.
    asking: Leadership,
    /// Connections of this process that wait.
    askers: Mutex<usize>,
}

impl Way {
    pub(crate) fn new() -> Way {
        Way { reading: Leadership::of("reading"), asking: Leadership::of("asking"), askers: Mutex::default() }
    }

    /// Announces a reading; `None` where somebody of another process waits for the way.
    pub(crate) fn read<'a>(&'a self, spool: &'a Spool) -> Result<Option<Announced<'a>>> {
        if !self.reading.hold(spool)? {
            return Ok(None);
        }
        let announced = Announced(self);
        Ok(if self.asking.is_held_elsewhere(spool)? { None } else { Some(announced) })
    }

    /// A new file has the database's name. A reader of the one before, in another process, holds that one's wal-index, which is
    /// found by name too: it is gone before the new file's is made. See [`Turns::opened`](crate::turns::Turns::opened).
    pub(crate) fn opened(&self, spool: &Spool) {
        let mut wait = Wait::default();
        while wait.refused(self, spool) {}
        wait.over(self);
    }

    /// Somebody of another process waits for the reader to let go.
    pub(crate) fn is_asked(&self, spool: &Spool) -> bool {
        self.asking.is_held_elsewhere(spool).unwrap_or(false)
    }
}

/// An announced reading; over when dropped, after SQLite's locks.
pub(crate) struct Announced<'a>(&'a Way);

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.0.reading.resign();
    }
}

/// One connection's wait for the way.
#[derive(Default)]
pub(crate) struct Wait {
    since: Option<Instant>,
    /// Counted among the askers.
    asks: bool,
    /// Nobody reads any more: what the base answers now is its own word.
    last: bool,
}

impl Wait {
    /// The base answered BUSY: `true` where it is to be asked once more, since a Leader of another process read.
    pub(crate) fn refused(&mut self, way: &Way, spool: &Spool) -> bool {
        if self.last {
            return false;
        }
        let since = match self.since {
            Some(since) => since,
            None => {
                // Without a Spool, or where it cannot be written to, nobody leads.
                let mut askers = lock(&way.askers);
                if !matches!(way.asking.share(spool), Ok(true)) {
                    return false;
                }
                *askers += 1;
                self.asks = true;
                *self.since.insert(Instant::now())
            }
        };
        self.look(since.elapsed() < limits::GIVE_WAY, way, spool)
    }

    /// The same for EXCLUSIVE in WAL mode, which mostly other connections refuse: nobody is asked to let go, for an image
    /// would never be finished where connections come and go, and only a short reading is waited for.
    pub(crate) fn closing(&mut self, way: &Way, spool: &Spool) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        !self.last && self.look(since.elapsed() < limits::CHECKPOINT_WAITS, way, spool)
    }

    fn look(&mut self, in_time: bool, way: &Way, spool: &Spool) -> bool {
        let is_read = in_time && way.reading.is_held_elsewhere(spool).unwrap_or(false);
        if is_read {
            std::thread::sleep(limits::WAY_LOOK);
        }
        self.last = !is_read;
        true
    }

    /// The base has given its last answer.
    pub(crate) fn over(&mut self, way: &Way) {
        if std::mem::take(self).asks {
            let mut askers = lock(&way.askers);
            *askers -= 1;
            if *askers == 0 {
                way.asking.resign();
            }
        }
    }
}
