//! The last 16 bytes of an LTX file.
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 8 | checksum of the database after this file, 0 without checksums |
//! | 8 | 8 | checksum of the file, bit 63 set |

use super::checksum::FLAG;
use super::header::Header;
use crate::error::{Error, Result};

/// Bytes of a trailer.
pub const TRAILER_SIZE: usize = 16;

/// What an LTX file says about itself after its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Checksum of the whole database after this file, or 0.
    pub post_apply: u64,
    /// Checksum of the file.
    pub file: u64,
}

impl Trailer {
    /// The bytes.
    pub fn encode(self) -> [u8; TRAILER_SIZE] {
        let mut raw = [0; TRAILER_SIZE];
        raw[..8].copy_from_slice(&self.post_apply.to_be_bytes());
        raw[8..].copy_from_slice(&self.file.to_be_bytes());
        raw
    }

    /// Reads the bytes back, checked against what the header promises.
    pub fn decode(raw: &[u8; TRAILER_SIZE], header: &Header) -> Result<Trailer> {
        let half = |at: usize| u64::from_be_bytes(raw[at..at + 8].try_into().expect("eight bytes"));
        let trailer = Trailer { post_apply: half(0), file: half(8) };
        if trailer.file & FLAG == 0 {
            return Err(Error::Corrupt("LTX trailer: the file's checksum is missing".into()));
        }
        match header.checksums {
            None if trailer.post_apply != 0 => Err(Error::Corrupt(
                "LTX trailer holds a checksum of the database, and the header says that there is none".into(),
            )),
            Some(_) if trailer.post_apply & FLAG == 0 => {
                Err(Error::Corrupt("LTX trailer: the checksum of the database is missing".into()))
            }
            _ => Ok(trailer),
        }
    }
}
