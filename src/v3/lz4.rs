//! The LZ4 frame around every object of a 0.3 replica, read to its proven end.
//!
//! The decoder beneath takes a missing end mark for the end: a file cut between two blocks would pass. Here it does
//! not, and nothing may follow the frame.

use crate::limits::FILE_BUFFER;
use lz4_flex::frame::FrameDecoder;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};

/// What every file that age encrypted begins with.
const AGE: &[u8] = b"age-encryption.org/";

/// The content of an object, as a reader. Memory: two blocks of the frame, 8 MiB as 0.3 writes it.
pub struct Unpacked<R: Read> {
    frame: FrameDecoder<Ended<BufReader<R>>>,
    begun: bool,
    done: bool,
}

impl<R: Read> Unpacked<R> {
    /// Reads nothing yet.
    pub fn new(packed: R) -> Unpacked<R> {
        let packed = Ended { inner: BufReader::with_capacity(FILE_BUFFER, packed), ended: false };
        Unpacked { frame: FrameDecoder::new(packed), begun: false, done: false }
    }

    /// The decoder says that the frame is complete: is it, and is it all?
    fn prove_end(&mut self) -> Result<()> {
        let packed = self.frame.get_mut();
        if packed.ended {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the LZ4 frame was cut short"));
        }
        if !packed.inner.fill_buf()?.is_empty() {
            return Err(Error::new(ErrorKind::InvalidData, "bytes follow the LZ4 frame"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.done || buf.is_empty() {
            return Ok(0);
        }
        if !self.begun {
            self.begun = true;
            if self.frame.get_mut().inner.fill_buf()?.starts_with(AGE) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "it is encrypted with age, which is not supported: restore it with Litestream 0.3 and its identity",
                ));
            }
        }
        let own = |e: &Error| e.get_ref().is_some_and(|inner| inner.is::<lz4_flex::frame::Error>());
        let n = match self.frame.read(buf) {
            Err(e) if own(&e) => return Err(Error::new(ErrorKind::InvalidData, format!("LZ4: {e}"))),
            other => other?,
        };
        if n == 0 {
            self.prove_end()?;
            self.done = true;
        }
        Ok(n)
    }
}

/// A reader that remembers whether somebody met its end.
struct Ended<R> {
    inner: R,
    ended: bool,
}

impl<R: Read> Read for Ended<R> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = self.inner.read(buf)?;
        self.ended |= n == 0 && !buf.is_empty();
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;

    fn packed(content: &[u8]) -> Vec<u8> {
        let info = FrameInfo::new().block_size(BlockSize::Max64KB).content_checksum(true);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: &[u8]) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        Unpacked::new(packed).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Goal: a frame is read whole or refused. Method: several blocks, cut at every length, each byte of the end flipped,
    /// one byte more, and what age writes.
    #[test]
    fn a_cut_or_changed_frame_is_refused() {
        let content: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 20) as u8).collect();
        let whole = packed(&content);
        assert_eq!(unpacked(&whole).unwrap(), content);
        assert_eq!(unpacked(&packed(b"")).unwrap(), b"");
        for cut in (0..whole.len()).rev().take(500).chain((0..whole.len()).step_by(997)) {
            assert!(unpacked(&whole[..cut]).is_err(), "cut at {cut} of {}", whole.len());
        }
        // Also exactly between two blocks, where the decoder beneath sees no fault.
        let first = 7 + 4 + u32::from_le_bytes(whole[7..11].try_into().unwrap()) as usize % (1 << 31);
        assert!(unpacked(&whole[..first]).is_err());
        for at in whole.len() - 8..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(unpacked(&changed).is_err(), "byte {at}");
        }
        assert!(unpacked(&[whole, vec![0]].concat()).is_err());
        assert!(unpacked(b"age-encryption.org/v1\n-> X25519 ").unwrap_err().to_string().contains("age"));
    }
}
