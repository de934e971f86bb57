//! A connection of a simulated application: a pager as small as it can be, which writes real WAL frames, a real
//! wal-index and real checkpoints, in SQLite's order of calls, and tells the engine of each as the shim does.

use super::machine::{Machine, Memory, Plain};
use super::oracle::{Image, Oracle};
use super::stage::{self, Life, Stage};
use super::store::Shop;
use litestream_engine::base::{BaseVfs, Lock, Region};
use litestream_engine::capture::chain;
use litestream_engine::conn::{Answer, Conn};
use litestream_engine::db::Db;
use litestream_engine::error::Error;
use litestream_engine::registry::{Ask, Door, Opening, Registry};
use litestream_engine::wal::{Cursor, Salt, checksum};
use litestream_engine::walindex::{CKPT, IndexHeader, READ0, WRITE, mark_offset, pgno_place};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

pub const PAGE: usize = 512;
pub const FRAME: usize = 24 + PAGE;
/// The wal-index has one block here: a writer checkpoints before it is full.
const FRAMES_MAX: u32 = 3000;
const RECOVER: u8 = 2;
const BACKFILL: usize = 96;
const UNUSED: u32 = u32::MAX;

/// What a process knows of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It replicates.
    Replicates,
    /// It has the extension, and no replica is meant: Gate and links only.
    KeepsGate,
    /// It has never heard of it.
    Foreign,
}

/// What a connection needs.
#[derive(Clone)]
pub struct World {
    pub kind: Kind,
    pub stage: Arc<Stage>,
    pub machine: Arc<Machine>,
    pub oracle: Arc<Mutex<Oracle>>,
    pub shop: Arc<Shop>,
    pub life: Life,
    pub registry: Arc<Registry>,
    pub params: Vec<(String, String)>,
    pub base: Arc<dyn BaseVfs>,
    /// Somebody sets the wall clock now and then.
    pub clock_steps: bool,
}

impl World {
    /// Asks the engine for the database, as the shim does in `xOpen`.
    pub fn ask(&self) -> Result<Opening, Error> {
        self.registry.open(Ask {
            path: &self.machine.database,
            params: &self.params,
            read_only: false,
            create: true,
            door: Door::Named,
            unsafe_locks: None,
            base: Arc::clone(&self.base),
        })
    }
}

pub struct App {
    pub world: World,
    pub number: u64,
    pub conn: Option<Conn>,
    pub database: Plain,
    pub wal: Plain,
    pub index: Arc<Memory>,
}

#[derive(Clone, Copy)]
pub struct Index {
    change: u32,
    pub frames: u32,
    pub pages: u32,
    pub sum: [u32; 2],
    pub salt: Salt,
}

/// A first database: a header and one empty leaf, then pages of noise.
pub fn first_image(pages: usize, dice: u64, wal: bool) -> Image {
    let mut image: Vec<Vec<u8>> = (0..pages).map(|n| noise(dice.wrapping_add(n as u64))).collect();
    let first = &mut image[0];
    first.fill(0);
    first[..16].copy_from_slice(b"SQLite format 3\0");
    first[16..18].copy_from_slice(&(PAGE as u16).to_be_bytes());
    let version = 1 + u8::from(wal);
    first[18..24].copy_from_slice(&[version, version, 0, 64, 32, 32]);
    first[56..60].copy_from_slice(&1u32.to_be_bytes());
    first[100] = 13;
    number_pages(&mut image);
    Arc::new(image)
}

pub fn number_pages(image: &mut [Vec<u8>]) {
    let (pages, change) = (image.len() as u32, &mut image[0]);
    change[28..32].copy_from_slice(&pages.to_be_bytes());
    let count = u32::from_be_bytes(change[24..28].try_into().unwrap()).wrapping_add(1);
    change[24..28].copy_from_slice(&count.to_be_bytes());
    change[92..96].copy_from_slice(&count.to_be_bytes());
}

pub fn noise(seed: u64) -> Vec<u8> {
    let mut dice = crate::dice::Dice::new(seed);
    let word = dice.below(1 << 31).to_be_bytes();
    (0..PAGE).map(|n| word[n % 8] ^ (n / 64) as u8).collect()
}

fn frame_header(at: usize, page: &[u8], commit: u32, salt: Salt, sum: [u32; 2]) -> [u8; 24] {
    let mut raw = [0u8; 24];
    raw[..4].copy_from_slice(&(at as u32 + 1).to_be_bytes());
    raw[4..8].copy_from_slice(&commit.to_be_bytes());
    raw[8..16].copy_from_slice(&salt.0);
    let sum = checksum(false, checksum(false, sum, &raw[..8]), page);
    raw[16..20].copy_from_slice(&sum[0].to_be_bytes());
    raw[20..24].copy_from_slice(&sum[1].to_be_bytes());
    raw
}

fn word(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(raw[at..at + 4].try_into().expect("four bytes of a longer slice"))
}

impl App {
    /// Opens the database, as SQLite does with its first statement.
    pub fn open(world: World) -> Result<App, Error> {
        let opening = match world.kind {
            Kind::Foreign => Opening::PassThrough,
            _ => world.ask()?,
        };
        let open = |path| File::options().read(true).write(true).create(true).truncate(false).open(path);
        let failed = |e| Error::io("open", &world.machine.database, e);
        let database = Plain(open(&world.machine.database).map_err(failed)?);
        let number = world.machine.open(world.life, false);
        let mut conn = match opening {
            Opening::Replicated(pending) => Some(pending.connect()),
            Opening::PassThrough => {
                // Nobody has replicated yet, or the process does not know the extension: it passes no Gate.
                world.oracle.lock().unwrap_or_else(PoisonError::into_inner).a_stranger_came();
                None
            }
        };
        while !world.machine.lock(number, Lock::Shared) {
            if let Some(conn) = &mut conn {
                conn.lock_answered();
            }
            stage::takes(std::time::Duration::from_millis(1));
        }
        let wal = Plain(open(&world.machine.wal).map_err(failed)?);
        let index = world.machine.map(number, true).expect("it is made");
        let mut app = App { world, number, conn, database, wal, index };
        let region = Arc::clone(&app.index) as Arc<dyn Region>;
        app.tell((), |conn, database, wal| {
            conn.locked(Lock::Shared, database, Some(wal));
            conn.shm_mapped(0, region);
        });
        app.look();
        Ok(app)
    }

    /// A statement: a wal-index that a writer left torn is recovered by the first one, and by nobody else.
    pub fn look(&mut self) {
        if self.index().is_none() && self.begin().is_some() {
            self.shm_unlock(WRITE, 1, true);
        }
    }

    /// Tells the engine, where this process has it.
    pub fn tell<R>(&mut self, otherwise: R, what: impl FnOnce(&mut Conn, &Plain, &Plain) -> R) -> R {
        let App { conn, database, wal, .. } = self;
        conn.as_mut().map_or(otherwise, |conn| what(conn, database, wal))
    }

    /// The engine's database.
    pub fn db(&self) -> &Arc<Db> {
        self.conn.as_ref().expect("only asked where it is replicated").db()
    }

    pub fn machine(&self) -> &Machine {
        &self.world.machine
    }

    pub fn oracle<R>(&self, ask: impl FnOnce(&mut Oracle) -> R) -> R {
        ask(&mut self.world.oracle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The shim's xShmLock.
    pub fn shm_lock(&mut self, slot: u8, n: u8, exclusive: bool) -> bool {
        let tells = exclusive && (slot < READ0 || n > 1);
        if tells && self.tell(Answer::Forward, |conn, _, _| conn.shm_locking(slot, n, exclusive)) == Answer::Busy {
            return false;
        }
        stage::hook("shm-lock");
        if !self.machine().shm_lock(self.number, slot, n, exclusive) {
            if tells {
                self.tell((), |conn, _, _| conn.shm_refused(slot));
            }
            return false;
        }
        let answer = |conn: &mut Conn, _: &Plain, wal: &Plain| conn.shm_locked(slot, n, exclusive, Some(wal));
        if tells && self.tell(Answer::Forward, answer) == Answer::Busy {
            self.tell((), |conn, _, _| conn.shm_refused(slot));
            self.machine().shm_unlock(self.number, slot, n);
            return false;
        }
        true
    }

    pub fn shm_unlock(&mut self, slot: u8, n: u8, exclusive: bool) {
        if exclusive && (slot < READ0 || n > 1) {
            self.tell((), |conn, _, wal| conn.shm_unlocking(slot, n, exclusive, Some(wal)));
        }
        stage::hook("shm-unlock");
        self.machine().shm_unlock(self.number, slot, n);
    }

    pub fn index(&self) -> Option<Index> {
        let header = IndexHeader::look(&*self.index)?;
        Some(Index {
            change: header.change,
            frames: header.mx_frame,
            pages: header.pages,
            sum: header.checksum,
            salt: header.salt,
        })
    }

    /// Both copies of the header, the second first.
    pub fn publish(&self, index: &Index) {
        self.publish_and(index, || {});
    }

    /// The same, and `then` in the moment in which it counts.
    pub fn publish_and(&self, index: &Index, then: impl FnOnce()) {
        let mut raw = [0u8; 48];
        let mut put = |at: usize, value: u32| raw[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(0, 3_007_000);
        put(8, index.change);
        put(16, index.frames);
        put(20, index.pages);
        put(24, index.sum[0]);
        put(28, index.sum[1]);
        raw[12] = 1;
        raw[14..16].copy_from_slice(&(PAGE as u16).to_ne_bytes());
        raw[32..40].copy_from_slice(&index.salt.0);
        let sum = checksum(false, [0, 0], &raw[..40]);
        raw[40..44].copy_from_slice(&sum[0].to_ne_bytes());
        raw[44..48].copy_from_slice(&sum[1].to_ne_bytes());
        self.index.store(48, &raw);
        stage::hook("index-half");
        self.index.store(0, &raw);
        then();
        stage::hook("index-whole");
    }

    pub fn set_marks(&self, backfill: u32, mark: u32) {
        self.index.store(BACKFILL, &backfill.to_ne_bytes());
        self.index.store(mark_offset(0), &0u32.to_ne_bytes());
        self.index.store(mark_offset(1), &mark.to_ne_bytes());
        for reader in 2..5 {
            self.index.store(mark_offset(reader), &UNUSED.to_ne_bytes());
        }
    }

    /// The wal-index made anew from the WAL, under WRITE.
    fn recover(&mut self) -> bool {
        if !self.machine().shm_lock(self.number, CKPT, 1, true) {
            return false;
        }
        if !self.machine().shm_lock(self.number, RECOVER, 1, true) {
            self.machine().shm_unlock(self.number, CKPT, 1);
            return false;
        }
        let end = chain(&self.wal, None).expect("it can be read");
        let mut index = Index { change: 0, frames: 0, pages: 0, sum: [0, 0], salt: Salt::default() };
        let mut raw = [0u8; FRAME];
        if let Some(end) = end {
            for frame in 1..=end.cursor.frame {
                let at = 32 + u64::from(frame - 1) * FRAME as u64;
                self.wal.0.read_exact_at(&mut raw, at).expect("the chain has it");
                let pgno = u32::from_be_bytes(raw[..4].try_into().unwrap());
                self.index.store(pgno_place(frame).1, &pgno.to_ne_bytes());
            }
            index.salt = end.cursor.salt;
            (index.frames, index.pages, index.sum) = (end.cursor.frame, end.commit, end.cursor.checksum);
        }
        let found = self.oracle(|oracle| oracle.recovered(end.map(|end| end.cursor)));
        if let Err(what) = found {
            self.world.stage.trouble(format!("the simulated SQLite itself: {what}"));
        }
        self.world.stage.note(|| format!("recovered {} frames", index.frames));
        self.index.store(BACKFILL, &0u32.to_ne_bytes());
        for reader in 1..5u8 {
            // A mark that somebody reads by stays.
            if self.machine().shm_lock(self.number, READ0 + reader, 1, true) {
                let mark = if reader == 1 && index.frames > 0 { index.frames } else { UNUSED };
                self.index.store(mark_offset(reader), &mark.to_ne_bytes());
                self.machine().shm_unlock(self.number, READ0 + reader, 1);
            }
        }
        self.publish(&index);
        for slot in [RECOVER, CKPT] {
            self.machine().shm_unlock(self.number, slot, 1);
        }
        true
    }

    /// WRITE, with a wal-index that can be trusted.
    pub fn begin(&mut self) -> Option<Index> {
        if !self.shm_lock(WRITE, 1, true) {
            return None;
        }
        if self.index().is_none() && !self.recover() {
            self.shm_unlock(WRITE, 1, true);
            return None;
        }
        self.index()
    }

    /// One transaction: `pages` of the database change, and it grows or shrinks to `size`. `publish` is false for one that
    /// is rolled back after its frames were written. `false` where it was busy.
    pub fn commit(&mut self, pages: &[u64], size: usize, publish: bool) -> bool {
        let Some(mut index) = self.begin() else { return false };
        let before = self.oracle(|oracle| oracle.newest());
        let mut image = (*before).clone();
        let salt = self.world.stage.below(u64::MAX >> 1);
        let mut changed: BTreeMap<usize, ()> = pages.iter().map(|page| (*page as usize % image.len(), ())).collect();
        for at in before.len()..size {
            changed.insert(at, ());
        }
        changed.retain(|at, ()| *at < size);
        if size != before.len() || changed.is_empty() {
            changed.insert(0, ());
        }
        image.resize(size, Vec::new());
        for at in changed.keys().filter(|at| **at > 0) {
            image[*at] = noise(salt.wrapping_add(*at as u64));
        }
        if changed.contains_key(&0) {
            number_pages(&mut image);
        }
        if index.frames > 0 && self.index.u32(BACKFILL) == index.frames {
            self.restart(&mut index);
        }
        if index.frames + changed.len() as u32 > FRAMES_MAX {
            self.shm_unlock(WRITE, 1, true);
            return false;
        }
        let (mut frames, mut sum) = (index.frames, index.sum);
        if frames == 0 {
            sum = self.write_header(&mut index);
        }
        let last = *changed.keys().next_back().expect("at least one");
        let image = Arc::new(image);
        for (at, ()) in &changed {
            let is_end = *at == last && (publish || salt.is_multiple_of(2));
            let commit = if is_end { size as u32 } else { 0 };
            let header = frame_header(*at, &image[*at], commit, index.salt, sum);
            sum = [word(&header, 16), word(&header, 20)];
            frames += 1;
            let offset = 32 + u64::from(frames - 1) * FRAME as u64;
            self.write_wal(offset, &header);
            if is_end {
                // Whoever has to recover from now on finds it, also one that is rolled back.
                let cursor = Cursor { salt: index.salt, frame: frames, checksum: sum };
                let image = Arc::clone(&image);
                self.oracle(|oracle| oracle.written(cursor, image));
            }
            self.write_wal(offset + 24, &image[*at]);
            self.index.store(pgno_place(frames).1, &(*at as u32 + 1).to_ne_bytes());
        }
        if publish {
            index = Index { change: index.change.wrapping_add(1), frames, pages: size as u32, sum, ..index };
            let cursor = Cursor { salt: index.salt, frame: frames, checksum: sum };
            self.publish_and(&index, || self.oracle(|oracle| oracle.committed(cursor)));
            self.world.stage.note(|| format!("commit {} at {}:{frames}", self.oracle(|o| o.commits()), index.salt));
        }
        self.shm_unlock(WRITE, 1, true);
        self.world.stage.poke();
        true
    }

    /// A header of a life, before its first frame.
    fn write_header(&mut self, index: &mut Index) -> [u32; 2] {
        let mut raw = [0u8; 32];
        let words = [0x377f_0682, 3_007_000, PAGE as u32, 0];
        for (n, word) in words.iter().enumerate() {
            raw[4 * n..4 * n + 4].copy_from_slice(&word.to_be_bytes());
        }
        if index.salt == Salt::default() {
            index.salt = Salt((self.world.stage.below(u64::MAX >> 1) << 1).to_be_bytes());
        }
        raw[16..24].copy_from_slice(&index.salt.0);
        let sum = checksum(false, [0, 0], &raw[..24]);
        raw[24..28].copy_from_slice(&sum[0].to_be_bytes());
        raw[28..32].copy_from_slice(&sum[1].to_be_bytes());
        self.write_wal(0, &raw);
        sum
    }

    fn write_wal(&mut self, offset: u64, data: &[u8]) {
        self.tell((), |conn, database, wal| conn.wal_writing(offset, data, database, wal));
        self.wal.0.write_all_at(data, offset).expect("a disk in memory");
        stage::hook("wal-written");
    }

    /// Closes: the last one checkpoints and deletes the WAL.
    pub fn close(mut self) {
        if !self.machine().is_read_by_engine(self.world.life) {
            self.tell((), |conn, _, _| conn.locking(Lock::Exclusive));
            let granted = self.machine().lock(self.number, Lock::Exclusive);
            self.tell((), |conn, _, _| conn.lock_answered());
            if granted {
                self.close_last();
            }
        }
        self.tell((), |conn, _, _| conn.shm_unmapping());
        self.machine().unmap(self.number, false);
        self.tell((), |conn, _, _| conn.unlocking(Lock::None));
        self.conn = None;
        self.machine().close(self.number);
        self.world.stage.poke();
    }

    fn close_last(&mut self) {
        let answer =
            self.tell(Answer::Forward, |conn, database, wal| conn.locked(Lock::Exclusive, database, Some(wal)));
        if answer == Answer::Busy {
            self.tell((), |conn, _, _| conn.unlocking(Lock::Shared));
            self.machine().unlock(self.number, Lock::Shared);
            return;
        }
        if self.index().is_none() && !self.recover() {
            return;
        }
        let Some(index) = self.index() else { return };
        let done = self.index.u32(BACKFILL);
        if done < index.frames {
            self.copy_frames(done, index.frames, &index);
        }
        self.tell((), |conn, _, _| conn.shm_unmapping());
        self.machine().unmap(self.number, true);
        stage::hook("closing");
        if self.conn.is_some() {
            self.world.registry.wal_deleting(&self.machine().wal);
        }
        std::fs::remove_file(&self.machine().wal).expect("it is there");
        stage::hook("wal-deleted");
        self.world.stage.note(|| "closed as the last".into());
    }

    /// How many pages there are now.
    pub fn pages(&self) -> usize {
        self.oracle(|oracle| oracle.newest().len())
    }
}
