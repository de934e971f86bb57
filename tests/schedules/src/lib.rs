//! The engine's files in which threads meet, as they are, under shuttle: `sync` gives its primitives the names of
//! `src/sync.rs`, and each operation on one is a place where another thread may be next.
//!
//! The order of memory is not explored: whatever the engine asks for, all is sequentially consistent here. Nor does a wait
//! end by its time. What is played is in `commits`, `readings` and `segments`, and what for in `tests/schedules.rs`.

#[allow(dead_code)]
#[path = "../../../src/ahead.rs"]
mod ahead;
#[allow(dead_code)]
#[path = "../../../src/base.rs"]
mod base;
#[allow(dead_code)]
#[path = "../../../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../../src/handover.rs"]
mod handover;
#[allow(dead_code)]
#[path = "../../../src/limits.rs"]
mod limits;
#[allow(dead_code)]
#[path = "../../../src/page.rs"]
mod page;
mod sync;
#[allow(dead_code)]
#[path = "../../../src/threads.rs"]
mod threads;
#[allow(dead_code)]
#[path = "../../../src/turns.rs"]
mod turns;
#[allow(dead_code)]
#[path = "../../../src/wal.rs"]
mod wal;

pub mod commits;
pub mod explore;
pub mod readings;
pub mod segments;
