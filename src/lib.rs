//! The engine of litestream-vfs: replication of SQLite databases as LTX files, without any C.
//!
//! `docs/design.md` has the words and the way of a commit; the floors are listed there and held by
//! `tests/tidy.rs`: a file uses its own floor's types and the floors below.

#![forbid(unsafe_code)]

// ground
pub mod clock;
pub mod error;
pub mod limits;

// formats
pub mod ltx;
pub mod page;
pub mod wal;

// places
pub mod base;
pub mod store;

// life
pub mod conn;
pub mod db;
pub mod registry;
pub mod settings;
