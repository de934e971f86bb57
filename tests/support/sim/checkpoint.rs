//! The part of a simulated connection that makes room: checkpoints in SQLite's modes, resets, and the readers that stand
//! in their way.

use super::app::{App, FRAME, Index, PAGE};
use super::stage;
use litestream_engine::wal::{Cursor, Salt};
use litestream_engine::walindex::{CKPT, READ0, READ1, WRITE, mark_offset, pgno_place};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

const BACKFILL: usize = 96;
const UNUSED: u32 = u32::MAX;

/// How a checkpoint is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Passive,
    Restart,
    Truncate,
}

impl App {
    /// All is in the file: the next life begins where nobody reads. Whether it did.
    pub fn restart(&mut self, index: &mut Index) -> bool {
        if !self.shm_lock(READ1, 4, true) {
            return false;
        }
        self.next_life(index);
        self.shm_unlock(READ1, 4, true);
        self.world.stage.note(|| format!("restart, next life {}", index.salt));
        true
    }

    /// As walRestartHdr.
    fn next_life(&self, index: &mut Index) {
        let salt = u64::from_be_bytes(index.salt.0).wrapping_add(1 << 32) & !0xffff_ffff;
        index.salt = Salt((salt | (self.world.stage.below(1 << 32))).to_be_bytes());
        (index.frames, index.sum) = (0, [0, 0]);
        // At once: SQLite loses a commit by itself where a writer dies between the two and another process goes on.
        self.publish_and(index, || self.set_marks(0, 0));
    }

    /// A checkpoint; how far it got is nobody's business. Not while the engine of this process reads: it would be waited
    /// for by a lock that time cannot open here.
    pub fn checkpoint(&mut self, mode: Mode) -> bool {
        if self.machine().is_read_by_engine(self.world.life) || !self.shm_lock(CKPT, 1, true) {
            return false;
        }
        // The engine may have been told, and has time while SQLite syncs the WAL.
        self.world.stage.poke();
        stage::hook("checkpoint-begun");
        let writes = mode != Mode::Passive;
        let index = if writes { self.begin() } else { self.index() };
        let done = match index {
            Some(mut index) => {
                self.backfill(&index);
                if writes && index.frames > 0 && self.index.u32(BACKFILL) == index.frames {
                    if mode == Mode::Restart {
                        let got = self.shm_lock(READ1, 4, true);
                        if got {
                            self.shm_unlock(READ1, 4, true);
                        }
                    } else if self.shm_lock(READ1, 4, true) {
                        self.next_life(&mut index);
                        self.tell((), |conn, database, wal| conn.wal_truncating(0, database, wal));
                        self.wal.0.set_len(0).expect("a disk in memory");
                        stage::hook("wal-truncated");
                        self.shm_unlock(READ1, 4, true);
                        self.world.stage.note(|| "truncated".into());
                    }
                }
                true
            }
            None => false,
        };
        if writes && done {
            self.shm_unlock(WRITE, 1, true);
        }
        self.shm_unlock(CKPT, 1, true);
        done
    }

    /// As walCheckpoint: as far as no reader is in the way.
    fn backfill(&mut self, index: &Index) {
        let mut safe = index.frames;
        for reader in 1..5u8 {
            let mark = self.index.u32(mark_offset(reader));
            if safe > mark {
                if self.machine().shm_lock(self.number, READ0 + reader, 1, true) {
                    let new = if reader == 1 { safe } else { UNUSED };
                    self.index.store(mark_offset(reader), &new.to_ne_bytes());
                    self.machine().shm_unlock(self.number, READ0 + reader, 1);
                } else {
                    safe = mark;
                }
            }
        }
        let done = self.index.u32(BACKFILL);
        if done >= safe || !self.machine().shm_lock(self.number, READ0, 1, true) {
            return;
        }
        self.copy_frames(done, safe, index);
        self.index.store(BACKFILL, &safe.to_ne_bytes());
        self.machine().shm_unlock(self.number, READ0, 1);
    }

    /// The newest frame of each page in `done+1..=safe` into the file.
    pub fn copy_frames(&mut self, done: u32, safe: u32, index: &Index) {
        let mut newest = BTreeMap::new();
        let mut raw = [0u8; FRAME];
        for frame in done + 1..=safe {
            newest.insert(self.index.u32(pgno_place(frame).1), frame);
        }
        for (pgno, frame) in newest.into_iter().filter(|(pgno, _)| *pgno <= index.pages) {
            self.wal.0.read_exact_at(&mut raw, 32 + u64::from(frame - 1) * FRAME as u64).expect("it was written");
            let offset = u64::from(pgno - 1) * PAGE as u64;
            self.tell((), |conn, database, _| conn.database_writing(offset, PAGE, database));
            self.database.0.write_all_at(&raw[24..], offset).expect("a disk in memory");
            stage::hook("database-written");
        }
        if safe == index.frames {
            let size = u64::from(index.pages) * PAGE as u64;
            let is_newest = self.index().is_some_and(|now| now.frames == safe);
            if is_newest && self.database.0.metadata().is_ok_and(|meta| meta.len() > size) {
                self.database.0.set_len(size).expect("a disk in memory");
            }
            let cursor = Cursor { salt: index.salt, frame: safe, checksum: index.sum };
            self.oracle(|oracle| oracle.checkpointed(&cursor));
            self.world.stage.note(|| format!("checkpoint of {safe} complete"));
        }
        self.tell((), |conn, _, _| conn.checkpointed());
    }

    /// A reader's mark at what is committed now; its slot.
    pub fn read_begins(&mut self) -> Option<u8> {
        let index = self.index()?;
        if index.frames == 0 || self.index.u32(BACKFILL) == index.frames {
            return self.machine().shm_lock(self.number, READ0, 1, false).then_some(READ0);
        }
        for reader in 1..5u8 {
            let slot = READ0 + reader;
            if self.index.u32(mark_offset(reader)) != index.frames {
                if !self.machine().shm_lock(self.number, slot, 1, true) {
                    continue;
                }
                self.index.store(mark_offset(reader), &index.frames.to_ne_bytes());
                self.machine().shm_unlock(self.number, slot, 1);
            }
            if self.machine().shm_lock(self.number, slot, 1, false) {
                return Some(slot);
            }
        }
        None
    }

    pub fn read_ends(&mut self, slot: u8) {
        self.machine().shm_unlock(self.number, slot, 1);
    }
}
