//! The engine of litestream-vfs: replication of SQLite databases as LTX files, without any C.
//!
//! `docs/design.md` has the words and the way of a commit; the floors are listed there and held by
//! `tests/tidy.rs`: a file uses its own floor's types and the floors below.

#![forbid(unsafe_code)]

// ground
pub mod clock;
pub mod error;
pub mod fault;
pub mod limits;
mod sync;
pub mod threads;

// formats
pub mod ltx;
pub mod page;
pub mod v3;
pub mod wal;
pub mod walindex;

// places
pub mod base;
pub mod spool;
pub mod store;

// decisions
pub mod due;
pub mod link;
pub mod manifest;
pub mod plan;
pub mod settings;

// jobs
pub mod capture;
pub mod compactor;
mod copy;
pub mod follow;
pub mod image;
mod kinship;
pub mod leader;
mod leftover;
pub mod reader;
pub mod restore;
pub mod retention;
mod rollback;
pub mod uploader;
pub mod verify;

// life
mod below;
mod board;
pub mod conn;
pub mod db;
mod existing;
mod finding;
mod forget;
mod handover;
mod held;
mod history;
mod leading;
mod local;
mod opening;
pub mod registry;
pub mod report;
mod turns;
mod validation;
mod way;
mod worker;
