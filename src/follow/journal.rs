//! A rollback journal as SQLite writes it: pages as they were, so that whoever opens the database next, any SQLite,
//! can put them back.
//!
//! | off | header, one sector (big-endian) |
//! |----:|---|
//! | 0 | `d9 d5 05 f9 20 a1 63 d7` |
//! | 8 | records that follow |
//! | 12 | nonce of the checksums |
//! | 16 | pages of the database before |
//! | 20 | sector size |
//! | 24 | page size |
//!
//! A record is a page number, the page, and its checksum: the nonce and every 200th byte from the end, added up.

use crate::error::{Error, Result};
use crate::page::{PageSize, Pgno};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of the header; the records begin behind it.
const SECTOR: u32 = 512;
/// Distance of the bytes that a checksum adds up.
const STRIDE: usize = 200;
const BUFFER: usize = 256 << 10;

/// Writes a durable journal of `pages` as `database` holds them now. `before` is its size in pages.
pub(super) fn write(
    path: &Path,
    (database, at): (&File, &Path),
    page_size: PageSize,
    before: u32,
    pages: &[Pgno],
    nonce: u32,
) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut out = BufWriter::with_capacity(BUFFER, opened.map_err(failed)?);
    let count = u32::try_from(pages.len()).map_err(|_| Error::State("more pages than a database can have".into()))?;
    let mut header = [0u8; SECTOR as usize];
    header[..8].copy_from_slice(&MAGIC);
    for (at, word) in [(8, count), (12, nonce), (16, before), (20, SECTOR), (24, page_size.get())] {
        header[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }
    out.write_all(&header).map_err(failed)?;
    let mut page = vec![0u8; page_size.bytes()];
    for pgno in pages {
        database.read_exact_at(&mut page, page_size.offset(*pgno)).map_err(|e| Error::io("read", at, e))?;
        out.write_all(&pgno.0.to_be_bytes()).map_err(failed)?;
        out.write_all(&page).map_err(failed)?;
        out.write_all(&checksum(nonce, &page).to_be_bytes()).map_err(failed)?;
    }
    let file = out.into_inner().map_err(|e| Error::io("write", path, e.into_error()))?;
    file.sync_all().map_err(|e| Error::io("sync", path, e))
}

fn checksum(nonce: u32, page: &[u8]) -> u32 {
    let mut sum = nonce;
    let mut at = page.len().saturating_sub(STRIDE);
    while at > 0 {
        sum = sum.wrapping_add(u32::from(page[at]));
        at = at.saturating_sub(STRIDE);
    }
    sum
}
