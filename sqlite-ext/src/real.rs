//! A file of the base VFS: calls through its method table, in Rust's words.
//!
//! Used for the file below each of our handles and for the engine's own handles. Owns no memory and closes
//! nothing.

use libsqlite3_sys::{
    SQLITE_BUSY, SQLITE_IOERR_SHORT_READ, SQLITE_OK, SQLITE_READONLY, sqlite3_file, sqlite3_io_methods,
};
use litestream_engine::base::{ReadAt, Region};
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// SQLite's size of one region of the wal-index.
pub const REGION_BYTES: usize = 32 * 1024;
/// Longest single call: SQLite's lengths are `int`.
const CALL_MAX: usize = 1 << 30;

/// An open file of the base VFS. Valid as long as the memory that it lies in, which its owner sees to.
#[derive(Debug, Clone, Copy)]
pub struct Real(pub *mut sqlite3_file);

// SAFETY: VFS files may be used from any thread, by one at a time; the owner of the memory sees to that.
unsafe impl Send for Real {}

impl Real {
    /// The file's method table.
    ///
    /// # Safety
    /// The file is open.
    pub unsafe fn methods<'a>(self) -> &'a sqlite3_io_methods {
        // SAFETY: an open file has a table, which stays as long as the file is open.
        unsafe { &*(*self.0).pMethods }
    }

    /// Reads at an offset: the number of the outcome as SQLite has it.
    pub fn read(self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let length = buf.len();
        for (n, part) in buf.chunks_mut(CALL_MAX).enumerate() {
            let at = offset_of(offset, n)?;
            // SAFETY: open; the length fits, see CALL_MAX.
            let rc = unsafe {
                required(self.methods().xRead)?(self.0, part.as_mut_ptr().cast::<c_void>(), part.len() as c_int, at)
            };
            if rc == SQLITE_IOERR_SHORT_READ {
                let end = n.saturating_add(1).saturating_mul(CALL_MAX).min(length);
                buf[end..].fill(0);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            outcome(rc, "xRead")?;
        }
        Ok(())
    }

    /// Writes at an offset.
    pub fn write(self, buf: &[u8], offset: u64) -> io::Result<()> {
        for (n, part) in buf.chunks(CALL_MAX).enumerate() {
            let at = offset_of(offset, n)?;
            // SAFETY: open; the length fits, see CALL_MAX.
            let rc = unsafe {
                required(self.methods().xWrite)?(self.0, part.as_ptr().cast::<c_void>(), part.len() as c_int, at)
            };
            outcome(rc, "xWrite")?;
        }
        Ok(())
    }

    /// A region of the wal-index as `xShmMap` gives it; `None` where there is none.
    pub fn map(self, index: c_int, extend: bool) -> io::Result<Option<*mut c_void>> {
        // SAFETY: open.
        let Some(map) = (unsafe { self.shm_methods().and_then(|methods| methods.xShmMap) }) else { return Ok(None) };
        let mut memory = std::ptr::null_mut();
        // SAFETY: open; the region's size is SQLite's.
        let rc = unsafe { map(self.0, index, REGION_BYTES as c_int, extend.into(), &mut memory) };
        // Memory that may only be read is good enough to look at.
        let seen = rc & 0xff == SQLITE_READONLY && !memory.is_null();
        outcome(if seen { SQLITE_OK } else { rc }, "xShmMap").map(|()| (!memory.is_null()).then_some(memory))
    }

    /// The method table where it has the part for shared memory.
    ///
    /// # Safety
    /// The file is open.
    pub unsafe fn shm_methods<'a>(self) -> Option<&'a sqlite3_io_methods> {
        // SAFETY: the caller's promise.
        let methods = unsafe { self.methods() };
        (methods.iVersion >= 2).then_some(methods)
    }
}

impl ReadAt for Real {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        let mut size = 0;
        // SAFETY: open.
        let rc = unsafe { required(self.methods().xFileSize)?(self.0, &mut size) };
        outcome(rc, "xFileSize")?;
        u64::try_from(size).map_err(|_| io::Error::other("the base VFS reports a negative size"))
    }
}

fn offset_of(offset: u64, call: usize) -> io::Result<i64> {
    (call as u64)
        .checked_mul(CALL_MAX as u64)
        .and_then(|more| offset.checked_add(more))
        .and_then(|at| i64::try_from(at).ok())
        .ok_or_else(|| io::Error::other("an offset beyond what a file can have"))
}

/// A method that every VFS must have.
pub fn required<F>(method: Option<F>) -> io::Result<F> {
    method.ok_or_else(|| io::Error::other("the base VFS lacks a method that SQLite requires"))
}

/// A result code as Rust's result.
pub fn outcome(rc: c_int, what: &str) -> io::Result<()> {
    match rc {
        SQLITE_OK => Ok(()),
        SQLITE_BUSY => Err(io::ErrorKind::WouldBlock.into()),
        _ => Err(io::Error::other(format!("{what} of the base VFS answered {rc}"))),
    }
}

/// A mapped region of the wal-index. The engine holds clones of it on other threads, so it can be ended: from then on
/// it reads as zeros, which no wal-index header is.
#[derive(Debug)]
pub struct Mapped {
    memory: RwLock<*mut c_void>,
}

// SAFETY: the memory is shared between processes and only touched by atomic operations, under the lock.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// A region as `xShmMap` gave it.
    ///
    /// # Safety
    /// `memory` is [`REGION_BYTES`] long and stays mapped until `end`.
    pub unsafe fn new(memory: *mut c_void) -> Mapped {
        Mapped { memory: RwLock::new(memory) }
    }

    /// True for the region at this address.
    pub fn is(&self, memory: *mut c_void) -> bool {
        *self.memory.read().unwrap_or_else(std::sync::PoisonError::into_inner) == memory
    }

    /// Before the memory goes away: waits for who is reading just now.
    pub fn end(&self) {
        *self.memory.write().unwrap_or_else(std::sync::PoisonError::into_inner) = std::ptr::null_mut();
    }
}

impl Region for Mapped {
    fn load(&self, offset: usize, buf: &mut [u8]) {
        let memory = self.memory.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let inside = offset.checked_add(buf.len()).is_some_and(|end| end <= REGION_BYTES);
        if memory.is_null() || !inside {
            buf.fill(0);
            return;
        }
        if offset.is_multiple_of(4) && buf.len().is_multiple_of(4) {
            for (index, bytes) in buf.chunks_exact_mut(4).enumerate() {
                // SAFETY: inside the region, see above, and aligned.
                let word = unsafe { &*(*memory).byte_add(offset + 4 * index).cast::<AtomicU32>() };
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
        } else {
            for (index, byte) in buf.iter_mut().enumerate() {
                // SAFETY: inside the region, see above.
                *byte = unsafe { &*(*memory).byte_add(offset + index).cast::<AtomicU8>() }.load(Ordering::Relaxed);
            }
        }
        // What was read counts only where its own checksum holds; nothing later may be read before it.
        std::sync::atomic::fence(Ordering::Acquire);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let memory = self.memory.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if memory.is_null() || !offset.is_multiple_of(4) || offset > REGION_BYTES - 4 {
            return;
        }
        // SAFETY: inside the region and aligned.
        unsafe { (*(*memory).byte_add(offset).cast::<AtomicU32>()).store(value, Ordering::Release) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a region reads what is in memory, at any alignment, and zeros once it has ended. Method: a region of ours.
    #[test]
    fn a_region_reads_until_it_ends() {
        let mut memory = vec![0u32; REGION_BYTES / 4];
        memory[0] = u32::from_ne_bytes([1, 2, 3, 4]);
        memory[1] = u32::from_ne_bytes([5, 6, 7, 8]);
        // SAFETY: as long as a region, and outlives it.
        let region = unsafe { Mapped::new(memory.as_mut_ptr().cast()) };
        let mut buf = [0xff; 6];
        region.load(1, &mut buf);
        assert_eq!(buf, [2, 3, 4, 5, 6, 7]);
        region.store_u32(4, 9);
        region.load(4, &mut buf[..4]);
        assert_eq!(u32::from_ne_bytes([buf[0], buf[1], buf[2], buf[3]]), 9);
        region.load(REGION_BYTES - 2, &mut buf[..4]);
        assert_eq!(buf[..4], [0; 4], "beyond the end nothing is read");
        region.end();
        region.load(0, &mut buf);
        assert_eq!(buf, [0; 6]);
    }
}
