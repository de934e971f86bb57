//! One connection through the shim: what its file handle tells the engine, call by call.
//!
//! The shim forwards to the base VFS and calls here before or after, as each name says. SQLite uses a
//! handle from one thread at a time, so everything takes `&mut self`. Nothing here can fail towards SQLite:
//! the only answers of our own are `Busy` where a method returns [`Answer`].

use crate::base::{Lock, ReadAt, Region};
use crate::capture::{self, ChainEnd, Stretch};
use crate::db::Db;
use crate::error::Result;
use crate::fault;
use crate::limits;
use crate::link;
use crate::reader::Target;
use crate::rest;
use crate::rollback::Rollback;
use crate::spool::{Link, Stat};
use crate::turns::Claim;
use crate::wal::{Cursor, HEADER_BYTES, Salt, WalHeader};
use crate::walindex::{CKPT, IndexHeader, READ1, WRITE, pages_of};
use crate::way::Wait;
use std::sync::Arc;

/// Slots from READ1 that a reset locks at once.
const RESET_SLOTS: u8 = 4;

/// What the shim does with a call of SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go on as the base VFS did.
    Forward,
    /// Undo what the base granted (release the lock just taken) and answer SQLITE_BUSY.
    Busy,
}

/// One open handle on a replicated database. Dropped by the shim in `xClose`, before it is forwarded.
pub struct Conn {
    db: Arc<Db>,
    id: u64,
    regions: Vec<Option<Arc<dyn Region>>>,
    lock: Lock,
    /// The end of what this connection last handed over.
    seen: Cursor,
    /// A life whose Begin is on record, or for which none can be proven.
    known: Salt,
    /// A life without a Begin, and how often a proof was looked for: an image's own End may be written meanwhile.
    unproven: (Salt, u32),
    /// In exclusive locking mode: how far the chain of the WAL was followed.
    chain: Option<ChainEnd>,
    /// What a checkpoint announced last.
    announced: Cursor,
    rollback: Rollback,
    claim: Claim,
    wait: Wait,
}

impl Conn {
    pub(crate) fn new(db: Arc<Db>) -> Conn {
        let id = db.connected();
        Conn {
            db,
            id,
            regions: Vec::new(),
            lock: Lock::None,
            seen: Cursor::default(),
            known: Salt::default(),
            unproven: (Salt::default(), 0),
            chain: None,
            announced: Cursor::default(),
            rollback: Rollback::default(),
            claim: Claim::default(),
            wait: Wait::default(),
        }
    }

    /// The database that this connection belongs to.
    pub fn db(&self) -> &Arc<Db> {
        &self.db
    }

    /// Before `xLock` is forwarded.
    pub fn locking(&mut self, level: Lock) {
        let is_claimed = matches!(level, Lock::Reserved | Lock::Exclusive);
        if is_claimed && !self.is_one_of_many() {
            self.claim.lock(&self.db.turns, level == Lock::Exclusive);
        }
    }

    /// In WAL mode with others of this process: their SHARED refuses EXCLUSIVE anyway, as at each close but the last.
    fn is_one_of_many(&self) -> bool {
        !self.regions.is_empty() && self.db.viewers() > 1
    }

    /// The base answered BUSY to `xLock(level)`: `true` where it is to be asked again, because a Leader of another process
    /// may read. Waits a moment then.
    pub fn lock_refused(&mut self, level: Lock) -> bool {
        if self.regions.is_empty() {
            return self.wait.refused(&self.db.way, self.db.spool());
        }
        level == Lock::Exclusive && !self.is_one_of_many() && self.wait.closing(&self.db.way, self.db.spool())
    }

    /// The base has answered what `locking` announced, whatever it said; before `locked`.
    pub fn lock_answered(&mut self) {
        self.claim.answered(&self.db.turns);
        self.wait.over(&self.db.way);
    }

    /// After the base granted `xLock(level)`. `wal` is this connection's `-wal` handle, where one is open.
    pub fn locked(&mut self, level: Lock, database: &dyn ReadAt, wal: Option<&dyn ReadAt>) -> Answer {
        if level == Lock::Exclusive && self.lock < level {
            self.db.turns.exclusive_held();
        }
        self.lock = self.lock.max(level);
        if level == Lock::Shared {
            self.db.touched();
        }
        if level == Lock::Reserved {
            self.rollback.reserved(&self.db, database);
        }
        if level == Lock::Exclusive
            && let Some(wal) = wal
        {
            return self.exclusive_edge(wal);
        }
        Answer::Forward
    }

    /// Before `xUnlock(level)` is forwarded.
    pub fn unlocking(&mut self, level: Lock) {
        fault::point("unlocking");
        if self.lock == Lock::Exclusive && level < Lock::Exclusive {
            self.db.turns.exclusive_over();
            self.db.set_closing(None);
            self.db.set_exclusive(None);
            self.rollback.unlocked();
        }
        self.lock = level;
    }

    /// After `xShmMap` gave a region (also when it gave the same one again).
    pub fn shm_mapped(&mut self, index: u32, region: Arc<dyn Region>) {
        let index = index as usize;
        if self.regions.len() <= index {
            self.regions.resize(index + 1, None);
        }
        if index == 0 {
            self.db.show(self.id, Arc::clone(&region));
        }
        self.regions[index] = Some(region);
    }

    /// Before `xShmUnmap` is forwarded: after this call no region of this connection is touched again.
    pub fn shm_unmapping(&mut self) {
        self.db.hide(self.id);
        self.regions.clear();
    }

    /// Before `xShmLock(LOCK)` is forwarded. While a large image is read, checkpoints can gain nothing: they are told so.
    pub fn shm_locking(&mut self, slot: u8, n: u8, exclusive: bool) -> Answer {
        let checkpoint = slot == CKPT && n == 1 && exclusive;
        if checkpoint && !self.claim.checkpoint(&self.db.turns) { Answer::Busy } else { Answer::Forward }
    }

    /// What `shm_locking` announced was not granted, or was taken back.
    pub fn shm_refused(&mut self, slot: u8) {
        if slot == CKPT {
            self.claim.checkpointed(&self.db.turns);
        }
    }

    /// After the base granted `xShmLock(LOCK)`.
    pub fn shm_locked(&mut self, slot: u8, n: u8, exclusive: bool, wal: Option<&dyn ReadAt>) -> Answer {
        match (slot, n, exclusive, wal) {
            (WRITE, 1, true, wal) => self.edge(wal),
            (READ1, RESET_SLOTS, true, Some(wal)) => return self.gate(wal),
            (CKPT, 1, true, _) => self.announce(),
            _ => {}
        }
        Answer::Forward
    }

    /// Before `xShmLock(UNLOCK)` is forwarded.
    pub fn shm_unlocking(&mut self, slot: u8, n: u8, exclusive: bool, wal: Option<&dyn ReadAt>) {
        if slot == WRITE && n == 1 && exclusive {
            self.edge(wal);
        }
        if slot == CKPT && exclusive {
            self.claim.checkpointed(&self.db.turns);
        }
    }

    /// Before `xWrite` on the `-wal` is forwarded. `wal` reads the file as it is now.
    pub fn wal_writing(&mut self, offset: u64, data: &[u8], _database: &dyn ReadAt, wal: &dyn ReadAt) {
        fault::point("wal-writing");
        if offset != 0 {
            return;
        }
        if self.in_exclusive_mode() {
            self.last_chance(wal);
        }
        if let Some(header) = data.first_chunk::<HEADER_BYTES>().and_then(WalHeader::decode) {
            self.begin(header.salt);
        }
    }

    /// Before `xTruncate` on the `-wal` is forwarded.
    pub fn wal_truncating(&mut self, size: u64, _database: &dyn ReadAt, wal: &dyn ReadAt) {
        fault::point("wal-truncating");
        if size > 0 {
            return;
        }
        if self.in_exclusive_mode() {
            self.last_chance(wal);
        }
        self.db.wal_going();
    }

    /// Before `xWrite` on the database is forwarded (rollback modes and checkpoints).
    pub fn database_writing(&mut self, offset: u64, len: usize, database: &dyn ReadAt) {
        fault::point("database-writing");
        if self.regions.is_empty() {
            self.rollback.writing(&self.db, offset, len, database);
        }
    }

    /// SQLITE_FCNTL_SYNC, before it is forwarded: in rollback modes the transaction is all in the file.
    pub fn sync_coming(&mut self, database: &dyn ReadAt) {
        if self.regions.is_empty() {
            self.rollback.prepare(&self.db, database);
        }
    }

    /// SQLITE_FCNTL_COMMIT_PHASETWO, before it is forwarded.
    pub fn committed(&mut self, database: &dyn ReadAt, wal: Option<&dyn ReadAt>) {
        fault::point("committed");
        match wal {
            Some(wal) if self.in_exclusive_mode() => self.exclusive_commit(wal),
            Some(_) => {}
            None => self.rollback.publish(&self.db, database),
        }
    }

    /// SQLITE_FCNTL_CKPT_DONE: what was written to the database since was no commit.
    pub fn checkpointed(&mut self) {
        fault::point("checkpointed");
        self.rollback.forget();
    }

    /// No shared memory while EXCLUSIVE is held: the heap's wal-index is SQLite's own.
    fn in_exclusive_mode(&self) -> bool {
        self.regions.is_empty() && self.lock == Lock::Exclusive
    }

    fn look(&self) -> Option<IndexHeader> {
        self.regions.first().and_then(Option::as_deref).and_then(IndexHeader::look)
    }

    /// Both edges of WAL_WRITE_LOCK: what the wal-index says is committed is handed over.
    fn edge(&mut self, wal: Option<&dyn ReadAt>) {
        fault::point("edge");
        let Some(header) = self.look() else { return };
        let Some(cursor) = header.cursor() else { return };
        if cursor == self.seen {
            return;
        }
        self.seen = cursor;
        self.db.hand_over(cursor, header.pages);
        if cursor.salt != self.known {
            self.learn(&header, wal);
        }
    }

    /// A life met for the first time: its Begin is on record, or is proven late, or cannot be.
    fn learn(&mut self, header: &IndexHeader, wal: Option<&dyn ReadAt>) {
        let tries = if self.unproven.0 == header.salt { self.unproven.1 + 1 } else { 1 };
        self.unproven = (header.salt, tries);
        if !self.db.spool().exists() {
            self.known = header.salt;
            return;
        }
        match self.prove(header, wal) {
            Ok(proven) if proven || tries >= limits::PROOFS_A_LIFE => self.known = header.salt,
            Ok(_) => {}
            Err(e) => {
                self.known = header.salt;
                self.db.note("links", &e);
            }
        }
    }

    fn prove(&self, header: &IndexHeader, wal: Option<&dyn ReadAt>) -> Result<bool> {
        let (spool, Some(wal)) = (self.db.spool(), wal) else { return Ok(false) };
        let links = spool.links()?;
        let state = spool.state()?;
        let here = |cursor: Option<&Cursor>| cursor.is_some_and(|cursor| cursor.salt == header.salt);
        if links.begin_of(header.salt).is_some() || here(state.as_ref().and_then(|state| state.durable())) {
            return Ok(true);
        }
        let Some(stat) = Stat::of(self.db.path())? else { return Ok(false) };
        let Some(end) = link::newest_end(state.as_ref(), &links) else { return Ok(false) };
        let Some(chain) = self.chain_after(wal, None)? else { return Ok(false) };
        if chain.cursor.salt == header.salt
            && link::began(&end, header.salt, &stat, header.change, chain.commits, chain.repeats)
        {
            spool.link(links.newest(), &Link::Begin { salt: header.salt, follows: end.cursor })?;
            return Ok(true);
        }
        Ok(false)
    }

    /// A checkpoint begins: what a Gate after it would save may be saved meanwhile.
    fn announce(&mut self) {
        let Some(header) = self.look() else { return };
        let (Some(cursor), Some(page_size)) = (header.cursor(), header.page_size) else { return };
        let before = if cursor.salt == self.announced.salt { self.announced.frame } else { 0 };
        if self.db.is_worth_ahead(cursor.frame.saturating_sub(before), page_size) {
            self.announced = cursor;
            self.db.announce_reset();
        }
    }

    /// READ1..4 were granted: SQLite may now discard every frame. What is not durable elsewhere is saved.
    fn gate(&mut self, wal: &dyn ReadAt) -> Answer {
        fault::point("gate");
        let Some(header) = self.look() else { return Answer::Forward };
        let (Some(cursor), Some(page_size)) = (header.cursor(), header.page_size) else { return Answer::Forward };
        self.edge(Some(wal));
        let end = ChainEnd { cursor, commit: header.pages, page_size, commits: 0, repeats: 0 };
        match self.save(&end, wal) {
            Ok(()) => {
                self.db.end(cursor, header.pages, header.change);
                Answer::Forward
            }
            Err(e) => self.db.cannot_save(&e, wal.size().unwrap_or(0)),
        }
    }

    /// EXCLUSIVE was granted with a WAL open: it is about to be checkpointed and deleted, or to leave WAL mode.
    fn exclusive_edge(&mut self, wal: &dyn ReadAt) -> Answer {
        fault::point("exclusive-edge");
        let (end, change) = match self.look() {
            Some(header) => match (header.cursor(), header.page_size) {
                (Some(cursor), Some(page_size)) => {
                    (ChainEnd { cursor, commit: header.pages, page_size, commits: 0, repeats: 0 }, header.change)
                }
                _ => return Answer::Forward,
            },
            // Not trusted, or no shared memory: SQLite recovers from the chain without a further call.
            None => match self.chain_after(wal, None) {
                Ok(Some(end)) => (end, 0),
                Ok(None) => return Answer::Forward,
                Err(e) => return self.db.cannot_save(&e, wal.size().unwrap_or(0)),
            },
        };
        self.chain = Some(end);
        self.db.set_closing(Some((end.cursor, end.commit, change)));
        if end.cursor != self.seen {
            self.seen = end.cursor;
            self.db.hand_over(end.cursor, end.commit);
        }
        if self.in_exclusive_mode() {
            self.db.set_exclusive(Some(Target { cursor: end.cursor, commit: end.commit, page_size: end.page_size }));
        }
        match self.save(&end, wal) {
            Ok(()) => Answer::Forward,
            Err(e) => self.db.cannot_save(&e, wal.size().unwrap_or(0)),
        }
    }

    /// Where the chain of the WAL ends, followed on from where it was.
    fn chain_after(&self, wal: &dyn ReadAt, known: Option<ChainEnd>) -> Result<Option<ChainEnd>> {
        capture::chain(wal, known.map(|chain| chain.cursor)).map_err(|e| e.about(self.db.wal()))
    }

    /// COMMIT_PHASETWO in exclusive locking mode: the chain is sound, for nobody else can write.
    fn exclusive_commit(&mut self, wal: &dyn ReadAt) {
        match self.chain_after(wal, self.chain) {
            Ok(Some(end)) => {
                self.chain = Some(end);
                self.db.set_closing(Some((end.cursor, end.commit, 0)));
                self.db.set_exclusive(Some(Target {
                    cursor: end.cursor,
                    commit: end.commit,
                    page_size: end.page_size,
                }));
                self.db.hand_over(end.cursor, end.commit);
            }
            Ok(None) => {}
            Err(e) => self.db.note("capture", &e),
        }
    }

    /// Exclusive locking mode has no Gate to ask: the frames are saved before the header or the file goes.
    fn last_chance(&mut self, wal: &dyn ReadAt) {
        // A WAL that was deleted meanwhile had its End then; with what the file is now it would hide what came after.
        let here = WalHeader::read(wal).map(|header| header.salt);
        let known = self.chain.filter(|chain| here == Some(chain.cursor.salt));
        let end = match self.chain_after(wal, known) {
            Ok(end) => end.or(known),
            Err(e) => return self.db.note("capture", &e),
        };
        let Some(end) = end else { return };
        if let Err(e) = self.save(&end, wal) {
            return self.db.note("capture", &e);
        }
        self.db.end(end.cursor, end.commit, 0);
        self.db.set_closing(Some((end.cursor, end.commit, 0)));
        self.chain = None;
    }

    /// Saves what is committed up to `end` and not durable elsewhere.
    fn save(&mut self, end: &ChainEnd, wal: &dyn ReadAt) -> Result<()> {
        let spool = self.db.spool();
        if !spool.exists() {
            return Ok(());
        }
        let state = spool.state()?;
        let links = spool.links()?;
        let durable = link::durable_in(end.cursor.salt, state.as_ref(), &links);
        let is_imaging = state.as_ref().is_some_and(|state| state.image.is_some());
        let from = if is_imaging { durable } else { self.db.ahead.from(durable, &end.cursor, self.db.threads()) };
        if from.frame >= end.cursor.frame || (state.is_none() && !self.db.replicates()) {
            return Ok(());
        }
        let follows = if from.frame == 0 { links.begin_of(from.salt) } else { None };
        let stretch = Stretch { from, to: end.cursor, follows, page_size: end.page_size, commit: end.commit };
        let room = self.db.room(u64::from(end.commit) * u64::from(end.page_size.get()));
        let indexed = pages_of(&self.regions, stretch.from.frame, stretch.to.frame);
        let saved = capture::save(spool, &stretch, &indexed, wal, room).map_err(|e| e.about(self.db.wal()))?;
        self.db.saved(saved.bytes);
        Ok(())
    }

    /// A new life is about to begin: the record that it continues the newest End, where that is proven.
    fn begin(&mut self, salt: Salt) {
        let spool = self.db.spool();
        if !spool.exists() {
            self.known = salt;
            return;
        }
        let change = self.look().map(|header| header.change);
        let written = (|| {
            let (state, links) = (spool.state()?, spool.links()?);
            let follows = Stat::of(self.db.path())?.zip(link::newest_end(state.as_ref(), &links));
            let follows = follows.filter(|(stat, end)| link::begins(end, stat, change) && end.cursor.salt != salt);
            if let Some((_, end)) = follows {
                spool.link(links.newest(), &Link::Begin { salt, follows: end.cursor })?;
            }
            if link::at_rest(state.as_ref(), &links) {
                rest::end(spool, &links, follows.is_some())?;
            }
            Ok(follows.is_some())
        })();
        match written {
            Ok(true) => self.known = salt,
            Ok(false) => {} // looked for again at the first commits
            Err(e) => self.db.note("links", &e),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.lock == Lock::Exclusive {
            self.db.turns.exclusive_over();
        }
        self.lock_answered();
        self.claim.checkpointed(&self.db.turns);
        self.db.hide(self.id);
        self.db.disconnected();
    }
}
