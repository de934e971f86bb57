//! A reader of the engine's beside connections that want SQLite's locks (`src/turns.rs`).

use crate::explore::below;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::turns::{Claim, Turns};
use shuttle::thread::{spawn, yield_now};
use std::sync::Arc;

/// The locks of SQLite themselves.
const READER: usize = 1;
const READER_RESERVED: usize = 2;
const EXCLUSIVE: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Exclusive,
    Reserved,
    Checkpoint,
}

const WANTS: [Want; 3] = [Want::Exclusive, Want::Reserved, Want::Checkpoint];

#[derive(Default)]
struct World {
    turns: Turns,
    held: AtomicUsize,
    /// Connections that are there.
    hosts: AtomicUsize,
}

impl World {
    /// Lets go when it is asked to. One that does not `stay` gives up soon by itself.
    fn reader(&self, readings: u64, stays: bool) {
        for _ in 0..readings {
            let Some(reading) = self.turns.read(1) else { continue };
            assert_eq!(self.held.fetch_or(READER, Ordering::SeqCst), 0, "the reader begins under EXCLUSIVE");
            if reading.may_reserve() {
                self.held.fetch_or(READER_RESERVED, Ordering::SeqCst);
            }
            let mut looks = 0;
            while !self.turns.is_asked() && if stays { self.hosts.load(Ordering::SeqCst) > 0 } else { looks < 3 } {
                looks += 1;
                yield_now();
            }
            self.held.fetch_and(!(READER | READER_RESERVED), Ordering::SeqCst);
            drop(reading);
        }
    }

    fn exclusive(&self) {
        let mut claim = Claim::default();
        claim.lock(&self.turns, true);
        assert_eq!(self.held.fetch_or(EXCLUSIVE, Ordering::SeqCst) & READER, 0, "EXCLUSIVE meets the reader");
        self.held.fetch_and(!EXCLUSIVE, Ordering::SeqCst);
        claim.answered(&self.turns);
    }

    fn reserved(&self) {
        let mut claim = Claim::default();
        claim.lock(&self.turns, false);
        assert_eq!(self.held.load(Ordering::SeqCst) & READER_RESERVED, 0, "RESERVED meets the reader's");
        claim.answered(&self.turns);
    }

    fn checkpoint(&self) {
        let mut claim = Claim::default();
        if claim.checkpoint(&self.turns) {
            assert_eq!(self.held.load(Ordering::SeqCst) & READER, 0, "a checkpoint meets the reader");
        }
        claim.checkpointed(&self.turns);
    }
}

/// One reader, and up to three connections.
pub fn take_turns() {
    let world = Arc::new(World::default());
    let wants: Vec<_> = (0..1 + below(3)).map(|_| WANTS[below(3) as usize]).collect();
    world.hosts.store(wants.len(), Ordering::SeqCst);
    // A checkpoint does not ask the reader to let go: it waits for a moment.
    let (readings, stays) = (1 + below(3), !wants.contains(&Want::Checkpoint) && below(2) == 0);
    let theirs = Arc::clone(&world);
    let mut threads = vec![spawn(move || theirs.reader(readings, stays))];
    for wants in wants {
        let theirs = Arc::clone(&world);
        threads.push(spawn(move || {
            match wants {
                Want::Exclusive => theirs.exclusive(),
                Want::Reserved => theirs.reserved(),
                Want::Checkpoint => theirs.checkpoint(),
            }
            theirs.hosts.fetch_sub(1, Ordering::SeqCst);
        }));
    }
    for thread in threads {
        thread.join().expect("a panic is the schedule's end");
    }
    assert!(world.turns.read(1).is_some(), "a turn was never given back");
}
