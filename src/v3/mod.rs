//! The replica of Litestream 0.3: generations of whole databases and pieces of their WALs. Read only.
//!
//! Owns names, times and the LZ4 frame around every object. The WAL's own bytes are `wal`'s; which objects rebuild a
//! database is a plan's question, and nothing of this format is ever written.

mod lz4;
mod name;

pub use lz4::Unpacked;
pub use name::{Generation, Index, Kind, Moment, Object, ROOT};
