//! Within this process, SQLite's locks are the host's first: the engine's own reader takes its turn only while no
//! connection is about to take what the reader would refuse, and hands it back when one comes.
//!
//! Between processes the locks themselves decide; inside one they would let the host see BUSY (EXCLUSIVE at a commit or
//! a close, a checkpoint) where it is alone with its database.

use crate::limits;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, lock};
use std::time::{Duration, Instant};

/// The turns at one database in this process.
#[derive(Default)]
pub(crate) struct Turns {
    held: Mutex<Held>,
    over: Condvar,
    asked: AtomicBool,
    /// Connections of this process that hold EXCLUSIVE.
    exclusive: AtomicUsize,
    /// Since when the process ends.
    ending: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Held {
    /// Connections between asking for a lock and the base's answer, or inside a checkpoint.
    hosts: u32,
    /// The file that is read, by inode, and since when.
    reading: Option<(u64, Instant)>,
    /// The reader holds RESERVED.
    reserved: bool,
    /// The reader goes on, whoever comes: it was sent away too often.
    insists: bool,
}

impl Held {
    /// What is left of a time that began with the reading.
    fn left_of(&self, time: Duration) -> Duration {
        self.reading.map_or(Duration::ZERO, |(_, since)| time.saturating_sub(since.elapsed()))
    }
}

impl Turns {
    /// The reader's turn at the file with this inode; `None` while the host has it.
    pub(crate) fn read(&self, inode: u64) -> Option<Reading<'_>> {
        let mut held = lock(&self.held);
        if held.hosts > 0 || held.reading.is_some() {
            return None;
        }
        held.reading = Some((inode, Instant::now()));
        self.asked.store(false, Ordering::Relaxed);
        Some(Reading(self))
    }

    /// Somebody waits for the reader to let go.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Before EXCLUSIVE is asked for, or RESERVED: a reader that would refuse it lets go, within a bounded time. Paired
    /// with `leave`.
    pub(crate) fn enter(&self, exclusive: bool) {
        let stands_in_the_way = |held: &mut Held| held.reading.is_some() && (exclusive || held.reserved);
        let mut held = lock(&self.held);
        held.hosts += 1;
        if stands_in_the_way(&mut held) {
            let patience = if held.insists { held.left_of(limits::CHECKPOINT_WAITS) } else { limits::GIVE_WAY };
            self.asked.fetch_or(!held.insists, Ordering::Relaxed);
            drop(self.over.wait_timeout_while(held, patience, stands_in_the_way));
        }
    }

    /// Before a checkpoint's lock: a short reading is waited for; while a long one lasts the checkpoint could gain
    /// little, and `false` says so at once. Paired with `leave` where it is true.
    pub(crate) fn enter_checkpoint(&self) -> bool {
        let mut held = lock(&self.held);
        held.hosts += 1;
        if held.reading.is_some() {
            let patience = held.left_of(limits::CHECKPOINT_WAITS);
            let waited = self.over.wait_timeout_while(held, patience, |held| held.reading.is_some());
            held = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            if held.reading.is_some() {
                held.hosts -= 1;
                return false;
            }
        }
        true
    }

    /// The base has answered, or the checkpoint is over.
    pub(crate) fn leave(&self) {
        let mut held = lock(&self.held);
        held.hosts = held.hosts.saturating_sub(1);
    }

    /// A file of this inode was opened by the database's name. A reader of another file, deleted since, holds that one's
    /// wal-index, which is found by name too: it is gone before the new file's is made.
    pub(crate) fn opened(&self, inode: u64) {
        let other = |held: &mut Held| held.reading.is_some_and(|(read, _)| read != inode);
        let mut held = lock(&self.held);
        if other(&mut held) {
            self.asked.store(true, Ordering::Relaxed);
            drop(self.over.wait_timeout_while(held, limits::GIVE_WAY, other));
        }
    }

    /// A connection of this process got EXCLUSIVE.
    pub(crate) fn exclusive_held(&self) {
        self.exclusive.fetch_add(1, Ordering::Relaxed);
    }

    /// It gave EXCLUSIVE back.
    pub(crate) fn exclusive_over(&self) {
        self.exclusive.fetch_sub(1, Ordering::Relaxed);
    }

    /// The process ends: nobody is left to finish a transaction.
    pub(crate) fn process_ends(&self) {
        lock(&self.ending).get_or_insert_with(Instant::now);
    }

    /// At the end of the process: why a lock, waited for since then, is waited for in vain.
    pub(crate) fn waits_in_vain(&self, stuck: Instant) -> Option<&'static str> {
        let since = (*lock(&self.ending))?.max(stuck);
        if self.exclusive.load(Ordering::Relaxed) > 0 {
            return Some("the process ends inside a transaction, and what is new cannot be read");
        }
        (since.elapsed() > limits::LEAVING).then_some("the database is locked, or the process that leads is silent")
    }

    fn over(&self) {
        let mut held = lock(&self.held);
        (held.reading, held.reserved, held.insists) = (None, false, false);
        drop(held);
        self.over.notify_all();
    }
}

/// The reader's turn; given back when dropped, after the locks.
pub(crate) struct Reading<'a>(&'a Turns);

impl Reading<'_> {
    /// Before the reader takes RESERVED: `false` where a connection is about to.
    pub(crate) fn may_reserve(&self) -> bool {
        let mut held = lock(&self.0.held);
        held.reserved = held.hosts == 0;
        held.reserved
    }

    /// From here on only a new file under the database's name ends the reading early.
    pub(crate) fn insist(&self) {
        lock(&self.0.held).insists = true;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

/// What one connection has claimed.
#[derive(Default)]
pub(crate) struct Claim {
    locking: bool,
    checkpoint: bool,
}

impl Claim {
    /// See [`Turns::enter`].
    pub(crate) fn lock(&mut self, turns: &Turns, exclusive: bool) {
        if !self.locking {
            turns.enter(exclusive);
            self.locking = true;
        }
    }

    /// The base has answered.
    pub(crate) fn answered(&mut self, turns: &Turns) {
        if std::mem::take(&mut self.locking) {
            turns.leave();
        }
    }

    /// See [`Turns::enter_checkpoint`].
    pub(crate) fn checkpoint(&mut self, turns: &Turns) -> bool {
        self.checkpoint = self.checkpoint || turns.enter_checkpoint();
        self.checkpoint
    }

    /// The checkpoint is over, or did not begin.
    pub(crate) fn checkpointed(&mut self, turns: &Turns) {
        if std::mem::take(&mut self.checkpoint) {
            turns.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = limits::GIVE_WAY;

    /// Opens the file of inode 2 beside a reading of another one, which ends when it is asked to; then reads it.
    fn read_beside<'a>(turns: &'a Turns, reading: impl Send + 'a) -> Option<Reading<'a>> {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !turns.is_asked() {
                    std::thread::yield_now();
                }
                drop(reading);
            });
            turns.opened(2);
            turns.read(2)
        })
    }

    /// Goal: who asks for EXCLUSIVE never meets the reader. Method: a reader on another thread that lets go when asked.
    #[test]
    fn exclusive_waits_until_the_reader_has_let_go() {
        let turns = Turns::default();
        std::thread::scope(|scope| {
            let reading = turns.read(1).expect("nobody is there");
            scope.spawn(|| {
                while !turns.is_asked() {
                    std::thread::yield_now();
                }
                drop(reading);
            });
            let began = Instant::now();
            turns.enter(true);
            assert!(began.elapsed() < LONGEST, "the reader was asked and let go");
            assert!(turns.read(1).is_none(), "no reader begins while the host asks for its lock");
            turns.leave();
            assert!(turns.read(1).is_some(), "then it may");
        });
    }

    /// Goal: a writer that begins waits for a reader with RESERVED only. Method: a reader before and after it has that.
    #[test]
    fn reserved_waits_for_a_reader_that_has_it_only() {
        let turns = Turns::default();
        let reading = turns.read(1).expect("nobody is there");
        turns.enter(false);
        assert!(!turns.is_asked(), "SHARED does not refuse RESERVED");
        assert!(!reading.may_reserve(), "a writer is about to begin");
        turns.leave();
        assert!(reading.may_reserve());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !turns.is_asked() {
                    std::thread::yield_now();
                }
                drop(reading);
            });
            let began = Instant::now();
            turns.enter(false);
            assert!(began.elapsed() < LONGEST, "the reader was asked and let go");
        });
    }

    /// Goal: a checkpoint waits for a short reading and not for a long one. Method: a reading that does not end.
    #[test]
    fn a_checkpoint_waits_a_moment_only() {
        let turns = Turns::default();
        let reading = turns.read(1);
        assert!(!turns.enter_checkpoint(), "the reading goes on");
        let began = Instant::now();
        assert!(!turns.enter_checkpoint(), "and on");
        assert!(began.elapsed() < limits::CHECKPOINT_WAITS, "it is long by now: nobody waits for it again");
        drop(reading);
        assert!(turns.enter_checkpoint());
        assert!(turns.read(1).is_none(), "no reader begins inside a checkpoint");
        turns.leave();
    }

    /// Goal: a reader that was sent away too often stays, and costs a moment only. Method: EXCLUSIVE beside one that insists.
    #[test]
    fn nobody_sends_away_a_reader_that_insists() {
        let turns = Turns::default();
        let reading = turns.read(1).expect("nobody is there");
        reading.insist();
        let began = Instant::now();
        turns.enter(true);
        assert!(!turns.is_asked(), "it goes on");
        assert!(began.elapsed() < LONGEST, "nobody waits for its end");
        turns.leave();
        assert!(
            read_beside(&turns, reading).is_some_and(|_next| !lock(&turns.held).insists),
            "the next one begins as any other"
        );
    }

    /// Goal: a reader of a deleted file is gone before the next file of that name is used. Method: two inodes.
    #[test]
    fn a_new_file_waits_for_the_reader_of_the_old_one() {
        let turns = Turns::default();
        let reading = turns.read(1);
        let began = Instant::now();
        turns.opened(1);
        assert!(began.elapsed() < LONGEST, "the same file: nothing to wait for");
        assert!(read_beside(&turns, reading).is_some(), "the reader of the old file is gone");
    }
}
