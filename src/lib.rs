//! The engine of litestream-vfs: replication of SQLite databases as LTX files, without any C.
//!
//! `docs/design.md` has the words and the way of a commit; the floors are listed there and held by
//! `tests/tidy.rs`: a file uses its own floor's types and the floors below.

#![forbid(unsafe_code)]

// ground
mod backoff;
pub mod base;
pub mod clock;
pub mod error;
pub mod fault;
pub mod limits;
mod mount;
mod names;
mod sync;
pub mod threads;

// formats
pub mod ltx;
pub mod page;
pub mod v3;
pub mod wal;
pub mod walindex;

// places
pub mod spool;
pub mod store;

// decisions
pub mod due;
pub mod link;
pub mod manifest;
pub mod plan;
pub mod settings;

// jobs
mod ahead;
mod aside;
pub mod capture;
pub mod compactor;
pub mod follow;
pub mod image;
mod kinship;
mod leftover;
pub mod reader;
pub mod restore;
pub mod retention;
mod unread;
pub mod uploader;
pub mod verify;

// life
mod below;
mod board;
pub mod conn;
mod copy;
pub mod db;
mod existing;
mod finding;
mod forget;
mod handover;
mod held;
mod history;
pub mod leader;
mod leading;
mod local;
mod opening;
pub mod registry;
mod remains;
pub mod report;
mod rest;
mod rollback;
mod room;
mod turns;
mod validation;
mod views;
mod way;
mod worker;
