//! The hand-over from connections to the worker, and the turns at the database, in thousands of schedules: the files of the
//! engine as they are, on threads of which one runs at a time and the next is thrown by dice at every operation.
//!
//! `LITESTREAM_SEED` says where the seeds begin, `LITESTREAM_SCHEDULES` how many there are of each kind. Neither loom nor
//! shuttle: shuttle's `rand` switches on `std` of the getrandom below our TLS library, and tests must load the library that
//! ships; loom has no waits with a limit. Order of memory is not explored: all that counts here is sequentially consistent.
//!
//! It can fail. Tried, each found among the first 4,000 seeds: a worker that ends without looking once more (as it did:
//! seed 1155, a commit that nobody stores), a close that does not call, a start that does not hold its lock, a turn given
//! back without a word, a reader that begins inside a checkpoint.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/explorer.rs"]
mod explorer;
#[allow(dead_code)]
#[path = "../src/handover.rs"]
mod handover;
#[allow(dead_code)]
#[path = "../src/limits.rs"]
mod limits;
#[path = "support/primitives.rs"]
mod sync;
#[allow(dead_code)]
#[path = "../src/turns.rs"]
mod turns;

use handover::HandOver;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use turns::{Claim, Turns};

/// Reads of this look at nothing but the number: the wal-index, say.
#[derive(Default)]
struct World {
    committed: AtomicU64,
    stored: AtomicU64,
    workers: AtomicUsize,
}

type Thread = Box<dyn FnOnce() + Send>;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

/// Plays many schedules; `threads` makes them anew for each, with what must hold at the end.
fn explore(mut threads: impl FnMut(&mut dice::Dice) -> (Vec<Thread>, Box<dyn FnOnce() -> Result<(), String>>)) {
    let (first, count) = (number("LITESTREAM_SEED", 1), number("LITESTREAM_SCHEDULES", 4000));
    for seed in first..first + count {
        let (all, check) = threads(&mut dice::Dice::new(seed ^ 0x77));
        let played = explorer::play(seed, all).and_then(|()| check());
        assert!(played.is_ok(), "seed {seed}: {}", played.unwrap_err());
    }
}

/// A connection that commits, as `Conn` and `Db` do with the hand-over.
fn connection(hand: &Arc<HandOver<u64>>, world: &Arc<World>, commits: u64, stays: bool) -> Thread {
    let (hand, world) = (Arc::clone(hand), Arc::clone(world));
    let touched = |hand: &Arc<HandOver<u64>>, world: &Arc<World>| {
        if !hand.is_started() {
            let (theirs, there) = (Arc::clone(hand), Arc::clone(world));
            let begun = hand.start(|| {
                explorer::spawn(move || work(&theirs, &there));
                Ok::<(), ()>(())
            });
            begun.unwrap();
        }
    };
    Box::new(move || {
        hand.connected();
        for _ in 0..commits {
            touched(&hand, &world);
            explorer::point();
            let end = world.committed.fetch_add(1, Ordering::SeqCst) + 1;
            hand.commit(end);
            touched(&hand, &world);
        }
        if stays {
            // It says nothing more, and its last commit must not wait for it.
            explorer::wait_until(|| world.stored.load(Ordering::SeqCst) == world.committed.load(Ordering::SeqCst));
        }
        hand.disconnected();
    })
}

/// The worker's loop, without what it does in between.
fn work(hand: &HandOver<u64>, world: &World) {
    assert_eq!(world.workers.fetch_add(1, Ordering::SeqCst), 0, "two workers of one database");
    loop {
        while hand.take().is_some() {}
        explorer::point();
        let seen = world.committed.load(Ordering::SeqCst);
        explorer::point();
        world.stored.fetch_max(seen, Ordering::SeqCst);
        let last = || {
            world.workers.fetch_sub(1, Ordering::SeqCst);
            explorer::point();
        };
        if hand.connections() == 0 && hand.may_end(last) {
            return;
        }
        if world.workers.load(Ordering::SeqCst) == 0 {
            // It had given up its lead already.
            world.workers.fetch_add(1, Ordering::SeqCst);
        }
        loop {
            if hand.take_call() || hand.take().is_some() {
                break;
            }
            hand.wait(Instant::now() + Duration::from_secs(1), true);
        }
    }
}

/// Goal: no commit waits for a wake-up that never comes, whoever connects, commits and leaves while a worker begins or ends.
/// Method: connections in all orders beside workers that never wake by themselves; a channel with room for one.
#[test]
fn no_commit_and_no_wake_up_is_lost() {
    explore(|dice| {
        let (hand, world) = (Arc::new(HandOver::new()), Arc::new(World::default()));
        let connections = 1 + dice.below(3);
        let all = (0..connections).map(|_| connection(&hand, &world, 1 + dice.below(3), dice.one_in(2))).collect();
        let check = move || {
            let (stored, committed) = (world.stored.load(Ordering::SeqCst), world.committed.load(Ordering::SeqCst));
            if stored == committed { Ok(()) } else { Err(format!("{stored} of {committed} commits were stored")) }
        };
        (all, Box::new(check))
    });
}

/// Goal: nobody waits for a turn that is free, and the host never holds what the reader holds. Method: a reader that lets go
/// when it is asked, beside connections that want EXCLUSIVE, RESERVED and checkpoints.
#[test]
fn turns_are_given_back_and_never_held_twice() {
    explore(|dice| {
        let turns = Arc::new(Turns::default());
        // The locks of SQLite themselves: 1 for the reader, 2 for EXCLUSIVE.
        let lock = Arc::new(AtomicUsize::new(0));
        let mut all: Vec<Thread> = Vec::new();
        let (theirs, held) = (Arc::clone(&turns), Arc::clone(&lock));
        let readings = 1 + dice.below(3);
        all.push(Box::new(move || {
            for _ in 0..readings {
                explorer::point();
                let Some(reading) = theirs.read(1) else { continue };
                assert_eq!(held.fetch_or(1, Ordering::SeqCst) & 2, 0, "the reader begins under EXCLUSIVE");
                let reserves = reading.may_reserve();
                for _ in 0..4 {
                    explorer::point();
                    if theirs.is_asked() || reserves {
                        break;
                    }
                }
                held.fetch_and(!1, Ordering::SeqCst);
                drop(reading);
            }
        }));
        for _ in 0..1 + dice.below(3) {
            let (turns, held, wants) = (Arc::clone(&turns), Arc::clone(&lock), dice.below(3));
            all.push(Box::new(move || {
                let mut claim = Claim::default();
                match wants {
                    0 => {
                        claim.lock(&turns, true);
                        assert_eq!(held.load(Ordering::SeqCst) & 1, 0, "EXCLUSIVE meets the reader");
                        explorer::point();
                        claim.answered(&turns);
                    }
                    1 => {
                        claim.lock(&turns, false);
                        explorer::point();
                        claim.answered(&turns);
                    }
                    _ => {
                        if claim.checkpoint(&turns) {
                            assert_eq!(held.load(Ordering::SeqCst) & 1, 0, "a checkpoint meets the reader");
                        }
                        claim.checkpointed(&turns);
                    }
                }
            }));
        }
        let check = move || {
            let free = turns.read(1).is_some();
            if free { Ok(()) } else { Err("a turn was never given back".into()) }
        };
        (all, Box::new(check))
    });
}
