//! What the processes of a simulated machine share below the engine: a database file with its `-wal` (real files), the
//! wal-index (memory) and SQLite's locks. The base VFS of the engine, and the handles of the simulated applications.

use super::stage::{self, Life};
use litestream_engine::base::{BaseFile, BaseVfs, Lock, ReadAt, Region};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a region of the wal-index.
const REGION: usize = 32 << 10;
const SLOTS: usize = 8;

/// A region of the wal-index.
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn store(&self, offset: usize, bytes: &[u8]) {
        self.bytes()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.bytes()[offset..offset + 4].try_into().unwrap())
    }
}

impl Region for Memory {
    fn load(&self, offset: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.bytes()[offset..offset + buf.len()]);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.store(offset, &value.to_ne_bytes());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Shared,
    Exclusive,
}

struct Handle {
    life: Life,
    level: Lock,
    slots: [Slot; SLOTS],
    maps: bool,
    /// The engine's own.
    engine: bool,
}

#[derive(Default)]
struct Shared {
    next: u64,
    handles: BTreeMap<u64, Handle>,
    index: Option<Arc<Memory>>,
}

/// The machine.
pub struct Machine {
    pub database: PathBuf,
    pub wal: PathBuf,
    shm: PathBuf,
    shared: Mutex<Shared>,
}

impl Machine {
    pub fn new(folder: &Path) -> Arc<Machine> {
        let database = folder.join("app.db");
        let beside = |suffix: &str| folder.join(format!("app.db{suffix}"));
        Arc::new(Machine { database, wal: beside("-wal"), shm: beside("-shm"), shared: Mutex::default() })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process opens the database; the handle's number.
    pub fn open(&self, life: Life, engine: bool) -> u64 {
        let mut shared = self.shared();
        shared.next += 1;
        let number = shared.next;
        let handle = Handle { life, level: Lock::None, slots: [Slot::Free; SLOTS], maps: false, engine };
        shared.handles.insert(number, handle);
        number
    }

    pub fn close(&self, number: u64) {
        self.unmap(number, false);
        self.shared().handles.remove(&number);
    }

    /// A process is gone, and with it all that it held.
    pub fn buried(&self, life: Life) {
        self.shared().handles.retain(|_, handle| handle.life != life);
    }

    /// True while the engine of that process has the file open: its connections would wait for it.
    pub fn is_read_by_engine(&self, life: Life) -> bool {
        self.shared().handles.values().any(|handle| handle.engine && handle.life == life)
    }

    pub fn handles(&self) -> usize {
        self.shared().handles.len()
    }

    /// As the unix VFS between its handles; PENDING is passed over.
    pub fn lock(&self, number: u64, level: Lock) -> bool {
        let mut shared = self.shared();
        let others = |test: &dyn Fn(Lock) -> bool| shared.handles.iter().any(|(n, h)| *n != number && test(h.level));
        let refused = match level {
            Lock::Shared => others(&|held| held >= Lock::Pending),
            Lock::Reserved => others(&|held| held >= Lock::Reserved),
            _ => others(&|held| held > Lock::None),
        };
        if !refused && let Some(handle) = shared.handles.get_mut(&number) {
            handle.level = handle.level.max(level);
        }
        !refused
    }

    /// xCheckReservedLock, of others.
    pub fn is_reserved(&self, number: u64) -> bool {
        self.shared().handles.iter().any(|(n, handle)| *n != number && handle.level >= Lock::Reserved)
    }

    pub fn unlock(&self, number: u64, level: Lock) {
        if let Some(handle) = self.shared().handles.get_mut(&number) {
            handle.level = handle.level.min(level);
        }
    }

    pub fn shm_lock(&self, number: u64, slot: u8, n: u8, exclusive: bool) -> bool {
        let mut shared = self.shared();
        let range = usize::from(slot)..usize::from(slot + n);
        let stands = |held: &Slot| if exclusive { *held != Slot::Free } else { *held == Slot::Exclusive };
        if shared.handles.iter().any(|(other, held)| *other != number && held.slots[range.clone()].iter().any(stands)) {
            return false;
        }
        if let Some(handle) = shared.handles.get_mut(&number) {
            handle.slots[range].fill(if exclusive { Slot::Exclusive } else { Slot::Shared });
        }
        true
    }

    pub fn shm_unlock(&self, number: u64, slot: u8, n: u8) {
        if let Some(handle) = self.shared().handles.get_mut(&number) {
            handle.slots[usize::from(slot)..usize::from(slot + n)].fill(Slot::Free);
        }
    }

    /// The wal-index; who maps it first after everybody was gone gets an empty one, as the unix VFS makes it.
    pub fn map(&self, number: u64, extend: bool) -> Option<Arc<Memory>> {
        let mut shared = self.shared();
        if !shared.handles.values().any(|handle| handle.maps) {
            shared.index = None;
        }
        if shared.index.is_none() {
            if !extend {
                return None;
            }
            std::fs::write(&self.shm, [0u8; 8]).unwrap();
            shared.index = Some(Arc::new(Memory(Mutex::new(vec![0; REGION]))));
        }
        shared.handles.get_mut(&number)?.maps = true;
        shared.index.clone()
    }

    pub fn unmap(&self, number: u64, delete: bool) {
        let mut shared = self.shared();
        let Some(handle) = shared.handles.get_mut(&number) else { return };
        (handle.maps, handle.slots) = (false, [Slot::Free; SLOTS]);
        if delete && !shared.handles.values().any(|handle| handle.maps) {
            shared.index = None;
            let _ = std::fs::remove_file(&self.shm);
        }
    }
}

/// A real file.
pub struct Plain(pub File);

impl ReadAt for Plain {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64)? {
                0 => {
                    buf[filled..].fill(0);
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                n => filled += n,
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// The VFS below, as one process sees it.
pub struct Base {
    pub machine: Arc<Machine>,
    pub life: Life,
}

impl BaseVfs for Base {
    fn name(&self) -> &str {
        "simulated"
    }

    fn is_native(&self) -> bool {
        true
    }

    fn open_database(&self, path: &Path, read_only: bool) -> io::Result<Box<dyn BaseFile>> {
        let file = File::options().read(true).write(!read_only).open(path)?;
        let number = self.machine.open(self.life, true);
        let handle = Engine { file: Plain(file), number, machine: Arc::clone(&self.machine), path: path.to_path_buf() };
        stage::hook("base-open");
        Ok(Box::new(handle))
    }
}

/// A handle of the engine's own.
struct Engine {
    file: Plain,
    number: u64,
    machine: Arc<Machine>,
    path: PathBuf,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.machine.close(self.number);
    }
}

impl ReadAt for Engine {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        stage::hook("base-read");
        self.file.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

impl BaseFile for Engine {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        stage::hook("base-write");
        self.file.0.write_all_at(buf, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.0.set_len(size)
    }

    fn has_moved(&self) -> io::Result<bool> {
        let named = std::fs::metadata(&self.path).ok();
        Ok(named.is_none_or(|named| Some(named.ino()) != self.file.0.metadata().ok().map(|open| open.ino())))
    }

    fn sync(&self) -> io::Result<()> {
        stage::hook("base-sync");
        Ok(())
    }

    fn lock(&self, level: Lock) -> io::Result<bool> {
        stage::hook("base-lock");
        Ok(self.machine.lock(self.number, level))
    }

    fn unlock(&self, level: Lock) -> io::Result<()> {
        self.machine.unlock(self.number, level);
        Ok(())
    }

    fn shm_map(&self, index: u32, extend: bool) -> io::Result<Option<Arc<dyn Region>>> {
        stage::hook("base-map");
        let region = if index == 0 { self.machine.map(self.number, extend) } else { None };
        Ok(region.map(|region| region as Arc<dyn Region>))
    }

    fn shm_lock(&self, slot: u8, n: u8, exclusive: bool) -> io::Result<bool> {
        stage::hook("base-shm-lock");
        Ok(self.machine.shm_lock(self.number, slot, n, exclusive))
    }

    fn shm_unlock(&self, slot: u8, n: u8, _exclusive: bool) -> io::Result<()> {
        self.machine.shm_unlock(self.number, slot, n);
        Ok(())
    }

    fn shm_barrier(&self) {}

    fn shm_unmap(&self) -> io::Result<()> {
        self.machine.unmap(self.number, false);
        Ok(())
    }
}
