//! A connection of a simulated application in a rollback-journal mode: a pager as small as it can be, with a real journal,
//! hot journals that the next one rolls back, and SQLite's order of locks and calls, told to the engine as the shim does.

use super::app::{PAGE, World, noise, number_pages};
use super::machine::Plain;
use super::oracle::Image;
use super::stage;
use litestream_engine::base::Lock;
use litestream_engine::conn::{Answer, Conn};
use litestream_engine::db::Db;
use litestream_engine::error::Error;
use litestream_engine::registry::Opening;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// First bytes of a journal that is whole: from then on it is hot until they are gone.
const HOT: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The same, with the size of the database in pages.
const HEADER: u64 = 16;
/// Times that a lock is asked for, a millisecond apart.
const ASKS: u32 = 5000;

/// What becomes of a journal at a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Delete,
    Truncate,
    Persist,
}

pub struct Writer {
    pub world: World,
    number: u64,
    conn: Option<Conn>,
    database: Plain,
    journal: PathBuf,
    end: End,
}

impl Writer {
    pub fn open(world: World, end: End) -> Result<Writer, Error> {
        let opening = world.ask()?;
        let database =
            File::options().read(true).write(true).create(true).truncate(false).open(&world.machine.database);
        let database = Plain(database.map_err(|e| Error::io("open", &world.machine.database, e))?);
        let Opening::Replicated(pending) = opening else { panic!("it replicates") };
        let number = world.machine.open(world.life, false);
        let journal = world.machine.database.with_file_name("app.db-journal");
        let mut writer = Writer { conn: Some(pending.connect()), number, database, journal, end, world };
        writer.look();
        Ok(writer)
    }

    pub fn db(&self) -> &Arc<Db> {
        self.conn.as_ref().expect("open").db()
    }

    fn tell<R>(&mut self, what: impl FnOnce(&mut Conn, &Plain) -> R) -> R {
        let Writer { conn, database, .. } = self;
        what(conn.as_mut().expect("open"), database)
    }

    /// The shim's xLock, with a busy handler. The engine of this process would be waited for by a lock that time cannot
    /// open here.
    fn lock(&mut self, level: Lock) -> bool {
        for _ in 0..ASKS {
            if level > Lock::Shared && self.world.machine.is_read_by_engine(self.world.life) {
                stage::takes(Duration::from_millis(1));
                continue;
            }
            self.tell(|conn, _| conn.locking(level));
            let granted = self.world.machine.lock(self.number, level);
            if level > Lock::Shared {
                self.tell(|conn, _| conn.lock_answered());
            }
            if granted {
                let answer = self.tell(|conn, database| conn.locked(level, database, None));
                assert!(answer == Answer::Forward, "without a WAL nothing is refused");
                stage::hook("locked");
                return true;
            }
            stage::takes(Duration::from_millis(1));
        }
        false
    }

    fn unlock(&mut self, level: Lock) {
        self.tell(|conn, _| conn.unlocking(level));
        self.world.machine.unlock(self.number, level);
        stage::hook("unlocked");
    }

    /// A statement that reads: whoever died inside a transaction is rolled back.
    pub fn look(&mut self) -> bool {
        if !self.lock(Lock::Shared) {
            return false;
        }
        let fine = !self.is_hot() || self.roll_back_hot();
        self.unlock(Lock::None);
        fine
    }

    fn is_hot(&self) -> bool {
        if self.world.machine.is_reserved(self.number) {
            return false;
        }
        let mut first = [0u8; 8];
        File::open(&self.journal).and_then(|journal| journal.read_exact_at(&mut first, 0)).is_ok() && first == HOT
    }

    fn roll_back_hot(&mut self) -> bool {
        if !self.lock(Lock::Exclusive) {
            return false;
        }
        if self.is_hot() {
            self.play_back();
            self.world.stage.note(|| "a hot journal was rolled back".into());
        }
        self.unlock(Lock::Shared);
        true
    }

    /// As pager_playback: the old pages, the old size, a sync, and the journal's end without a commit.
    fn play_back(&mut self) {
        let raw = std::fs::read(&self.journal).expect("it is there");
        let pages = u64::from_be_bytes(raw[8..16].try_into().expect("eight bytes"));
        for page in raw[HEADER as usize..].chunks_exact(8 + PAGE) {
            let index = u64::from_be_bytes(page[..8].try_into().expect("eight bytes"));
            self.write_page(index, &page[8..]);
        }
        self.database.0.set_len(pages * PAGE as u64).expect("a disk in memory");
        self.tell(|conn, database| conn.sync_coming(database));
        self.end_journal();
    }

    fn write_page(&mut self, index: u64, page: &[u8]) {
        let offset = index * PAGE as u64;
        self.tell(|conn, database| conn.database_writing(offset, PAGE, database));
        self.database.0.write_all_at(page, offset).expect("a disk in memory");
        stage::hook("page-written");
    }

    /// The moment of a commit.
    fn end_journal(&self) {
        let open = || File::options().write(true).open(&self.journal).expect("it is there");
        match self.end {
            End::Delete => std::fs::remove_file(&self.journal),
            End::Truncate => open().set_len(0),
            End::Persist => open().write_all_at(&[0; HEADER as usize], 0),
        }
        .expect("a disk in memory");
    }

    /// What the transaction overwrites, whole before it is hot.
    fn write_journal(&self, before: &[Vec<u8>], changed: &BTreeSet<usize>) {
        let journal = File::options().write(true).create(true).truncate(false).open(&self.journal);
        let journal = journal.expect("a disk in memory");
        let mut raw = Vec::new();
        for index in changed.iter().filter(|index| **index < before.len()) {
            raw.extend_from_slice(&(*index as u64).to_be_bytes());
            raw.extend_from_slice(&before[*index]);
        }
        journal.write_all_at(&[0; HEADER as usize], 0).expect("a disk in memory");
        journal.write_all_at(&raw, HEADER).expect("a disk in memory");
        journal.set_len(HEADER + raw.len() as u64).expect("a disk in memory");
        stage::hook("journal-written");
        let header = [HOT, (before.len() as u64).to_be_bytes()].concat();
        journal.write_all_at(&header, 0).expect("a disk in memory");
        stage::hook("journal-hot");
    }

    /// One transaction, as [`super::app::App::commit`].
    pub fn commit(&mut self, pages: &[u64], size: usize, publish: bool) -> bool {
        if !self.look() || !self.lock(Lock::Shared) {
            return false;
        }
        let done = self.lock(Lock::Reserved) && self.transact(pages, size, publish);
        self.unlock(Lock::None);
        self.world.stage.poke();
        done
    }

    fn transact(&mut self, pages: &[u64], size: usize, publish: bool) -> bool {
        let before = self.newest();
        let mut image = (*before).clone();
        let salt = self.world.stage.below(u64::MAX >> 1);
        let mut changed: BTreeSet<usize> = pages.iter().map(|page| *page as usize % image.len()).collect();
        changed.extend(before.len()..size);
        changed.insert(0);
        image.resize(size, Vec::new());
        for at in changed.iter().filter(|at| **at > 0 && **at < size) {
            image[*at] = noise(salt.wrapping_add(*at as u64));
        }
        number_pages(&mut image);
        // What is cut off comes back, too.
        let journalled: BTreeSet<usize> = changed.iter().copied().chain(size..before.len()).collect();
        self.write_journal(&before, &journalled);
        if !self.lock(Lock::Exclusive) {
            self.end_journal();
            return false;
        }
        for at in changed.iter().filter(|at| **at < size) {
            self.write_page(*at as u64, &image[*at]);
        }
        if !publish {
            self.play_back();
            self.unlock(Lock::Shared);
            return true;
        }
        self.tell(|conn, database| conn.sync_coming(database));
        stage::hook("synced");
        self.end_journal();
        let number = {
            let mut oracle = self.world.oracle.lock().unwrap_or_else(PoisonError::into_inner);
            oracle.is_committed(Arc::new(image));
            oracle.commits()
        };
        self.world.stage.note(|| format!("commit {number} in {:?}", self.end));
        stage::hook("journal-ended");
        if size < before.len() {
            self.database.0.set_len((size * PAGE) as u64).expect("a disk in memory");
        }
        self.tell(|conn, database| conn.committed(database, None));
        self.unlock(Lock::Shared);
        true
    }

    fn newest(&self) -> Image {
        self.world.oracle.lock().unwrap_or_else(PoisonError::into_inner).newest()
    }

    pub fn pages(&self) -> usize {
        self.newest().len()
    }

    pub fn close(mut self) {
        self.tell(|conn, _| conn.unlocking(Lock::None));
        self.conn = None;
        self.world.machine.close(self.number);
        self.world.stage.poke();
    }
}
