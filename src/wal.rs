//! The write-ahead log's bytes: header, frames, checksums; and the Cursor that says how far into which WAL.

/// The two numbers that name one life of a WAL file, as the eight bytes at offset 16 of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salt(pub [u8; 8]);

/// Exactly how far into which WAL: `frame` frames of the life `salt`, and the running checksum there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The life.
    pub salt: Salt,
    /// Frames before this point; 0 is the start of the life.
    pub frame: u32,
    /// Running checksum after `frame` frames.
    pub checksum: [u32; 2],
}
