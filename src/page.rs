//! Pages of a database: their numbers and their size.
//!
//! Owns what every format shares about pages, above all the lock page, which never travels.

use crate::error::{Error, Result};

/// Page number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(pub u32);

/// Size of a page in bytes: a power of two from 512 to 65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// The size in bytes, checked.
    pub fn new(bytes: u32) -> Result<PageSize> {
        if (512..=65536).contains(&bytes) && bytes.is_power_of_two() {
            Ok(PageSize(bytes))
        } else {
            Err(Error::Corrupt(format!("page size {bytes} is not a power of two from 512 to 65536")))
        }
    }

    /// From the two bytes at offset 16 of a database header, where 1 stands for 65536.
    pub fn from_header(raw: [u8; 2]) -> Result<PageSize> {
        match u16::from_be_bytes(raw) {
            1 => PageSize::new(65536),
            n => PageSize::new(u32::from(n)),
        }
    }

    /// Bytes, as the type that buffers want.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Bytes, as headers store them.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The page that holds SQLite's lock bytes (at 1 GiB): never in a WAL, never in an LTX file.
    pub fn lock_page(self) -> Pgno {
        Pgno(0x4000_0000 / self.0 + 1)
    }

    /// Where a page begins in a database file.
    pub fn offset(self, pgno: Pgno) -> u64 {
        (u64::from(pgno.0) - 1) * u64::from(self.0)
    }
}
