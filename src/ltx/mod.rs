//! LTX, the file format of Litestream 0.5: one file holds the newest copy of each page that a range of
//! transactions changed.
//!
//! Owns the bytes of one file and how files merge. Knows nothing of stores, folders or plans.

mod name;

pub use name::{Level, Span, Txid};
