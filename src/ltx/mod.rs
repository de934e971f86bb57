//! LTX, the file format of Litestream 0.5: one file holds the newest copy of each page that a range of
//! transactions changed.
//!
//! Owns the bytes of one file and how files merge. Knows nothing of stores, folders or plans.
//!
//! ```text
//! header (100) | page frame * n | end marker (6 zero bytes) | page index | trailer (16)
//! ```

pub mod checksum;
mod decoder;
mod encoder;
mod frame;
mod header;
mod index;
mod merge;
mod name;
mod trailer;

pub use decoder::Decoder;
pub(crate) use decoder::{check_end, check_page, checksum_mismatch};
pub use encoder::Encoder;
pub use frame::{FrameReader, MAX_FRAME_HEADER, max_payload};
pub use header::{HEADER_SIZE, Header};
pub use index::{Entry, IndexReader, IndexSum, TAIL_SIZE, index_range};
pub use merge::{check_order, merge, merge_whole};
pub use name::{FileInfo, Level, Span, Txid};
pub use trailer::{TRAILER_SIZE, Trailer};

/// Smallest file that can be one: header, end marker, empty index and trailer.
pub const MIN_FILE_SIZE: u64 = (HEADER_SIZE + END_MARKER.len() + 9 + TRAILER_SIZE) as u64;

/// What stands where the next page frame would: page number 0 and no flags.
pub const END_MARKER: [u8; 6] = [0; 6];
