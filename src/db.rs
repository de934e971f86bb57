//! One replicated database in this process, shared by its connections and its worker.
//!
//! Holds what crosses threads: the channel of Txns, the mapped wal-indexes (`views`), the Spool's room, the report that
//! status shows.
//! Lives as long as the process: closing the last connection does not end it.

use crate::ahead::Ahead;
use crate::base::{BaseVfs, Region};
use crate::board;
use crate::clock::Time;
use crate::conn::Answer;
use crate::error::{Error, Result};
use crate::handover::HandOver;
use crate::history::History;
use crate::leader::Leadership;
use crate::limits;
use crate::ltx::{FileInfo, Level, Span, Txid};
use crate::page::{PageSize, Pgno};
use crate::reader::{Target, wal_path};
use crate::report::{Report, Status};
use crate::room::Room;
use crate::settings::Settings;
use crate::spool::{End, Link, Spool, Stat, State};
use crate::store::{Io, Store};
use crate::sync::lock;
use crate::threads::Threads;
use crate::turns::Turns;
use crate::views::Views;
use crate::wal::Cursor;
use crate::way::Way;
use crate::worker;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub use crate::views::Look;

/// One committed transaction, or several: Cursors are cumulative.
#[derive(Debug, Clone, Copy)]
pub struct Txn {
    /// Its end.
    pub cursor: Cursor,
    /// Database size in pages there.
    pub commit: u32,
    /// When it was handed over.
    pub time: Time,
}

/// Where the database and its replica are, and how both are reached.
pub struct Place {
    /// Full path of the database.
    pub path: PathBuf,
    /// The VFS below.
    pub base: Arc<dyn BaseVfs>,
    /// How it is replicated; `None` for a connection that only keeps Gate and links for others.
    pub replica: Option<Replica>,
    /// Who runs its worker.
    pub threads: Arc<dyn Threads>,
}

/// How a database is replicated, and how its store is reached.
pub struct Replica {
    /// What the person said.
    pub settings: Settings,
    /// The environment at the open: it may hold credentials, so it is never shown.
    pub env: HashMap<String, String>,
    /// The process's I/O thread, or the promise of one.
    pub io: Io,
}

impl Replica {
    /// The store, which keeps the I/O thread alive as long as it lives.
    pub fn store(&self, patience: Duration) -> Result<Store> {
        let store = Store::open(&self.settings.url, &|key| self.env.get(key).cloned(), &self.io)?;
        Ok(store.with_patience(patience))
    }
}

/// A replicated database.
pub struct Db {
    place: Place,
    wal: PathBuf,
    spool: Spool,
    /// The lock of the Leader.
    pub(crate) leadership: Leadership,
    /// Who restores: a lock between processes, in a lock between threads.
    pub(crate) restoring: Mutex<Leadership>,
    /// This process has looked once whether the store is beyond what is stored from here.
    pub(crate) looked: AtomicBool,
    /// Who looks.
    pub(crate) looking: Mutex<()>,
    /// A new database began under this name: what the Leader knows is of another.
    pub(crate) forget: AtomicBool,
    /// Who is connected, what they committed, and who works for them.
    pub(crate) hand: HandOver<Txn>,
    /// Once it was looked at what file system the database lies on; see `mount`.
    pub(crate) mount: OnceLock<()>,
    /// What a look at the file by itself said of the VFS below; see `below`.
    pub(crate) stored_as_given: OnceLock<bool>,
    views: Views,
    closing: Mutex<Option<(Cursor, u32, u32)>>,
    next_connection: AtomicU64,
    /// In a rollback-journal mode, when it was last looked at.
    journal: AtomicBool,
    /// Who may take SQLite's locks now: the host, or the engine's reader.
    pub(crate) turns: Turns,
    /// The same between processes, in rollback-journal modes.
    pub(crate) way: Way,
    pub(crate) report: Report,
    room: Room,
    /// What was saved before a Gate asks for it.
    pub(crate) ahead: Ahead,
    /// What the last Leader of this process knew of the replica, and the `state` then.
    upkeep: Mutex<Option<(Option<State>, History)>>,
    /// Files of the replica that something here read and complained about.
    doubts: Mutex<Vec<(Level, Span)>>,
}

impl Db {
    pub(crate) fn new(place: Place) -> Db {
        Db {
            wal: wal_path(&place.path),
            spool: Spool::of(&place.path),
            report: Report::new(
                place.path.display().to_string(),
                place.replica.as_ref().map_or_else(String::new, |replica| replica.settings.url.to_string()),
            ),
            place,
            leadership: Leadership::of("lock"),
            restoring: Mutex::new(Leadership::of("restore.lock")),
            looked: AtomicBool::new(false),
            looking: Mutex::default(),
            mount: OnceLock::new(),
            stored_as_given: OnceLock::new(),
            forget: AtomicBool::new(false),
            hand: HandOver::new(),
            views: Views::default(),
            closing: Mutex::default(),
            next_connection: AtomicU64::new(0),
            journal: AtomicBool::new(false),
            turns: Turns::default(),
            way: Way::new(),
            room: Room::default(),
            ahead: Ahead::default(),
            upkeep: Mutex::default(),
            doubts: Mutex::default(),
        }
    }

    /// Full path of the database file.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// The `-wal` file.
    pub(crate) fn wal(&self) -> &Path {
        &self.wal
    }

    /// The folder beside the database.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// The VFS below.
    pub(crate) fn base(&self) -> &Arc<dyn BaseVfs> {
        &self.place.base
    }

    /// Who runs threads for it.
    pub(crate) fn threads(&self) -> &dyn Threads {
        &*self.place.threads
    }

    /// How it is replicated, and to which store.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        self.place.replica.as_ref()
    }

    /// True where this process may lead; false where it only keeps Gate and links.
    pub(crate) fn replicates(&self) -> bool {
        self.place.replica.is_some()
    }

    // ---- what connections tell ----

    pub(crate) fn connected(&self) -> u64 {
        self.hand.connected();
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// This file was opened by the database's name: whoever reads another one under it lets go first.
    pub(crate) fn opened(&self, stat: &Stat) {
        self.turns.opened(stat.inode);
        let is_new = || {
            stat.size == 0 || self.spool.state().is_ok_and(|known| known.is_some_and(|known| known.inode != stat.inode))
        };
        if is_new() {
            self.way.opened(&self.spool);
        }
    }

    pub(crate) fn disconnected(&self) {
        self.hand.disconnected();
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> usize {
        self.hand.connections()
    }

    /// A connection has the wal-index mapped.
    pub(crate) fn show(&self, connection: u64, region: Arc<dyn Region>) {
        if self.views.show(connection, region) {
            self.call();
        }
    }

    /// Connections of this process that have the wal-index mapped; each holds SHARED.
    pub(crate) fn viewers(&self) -> usize {
        self.views.count()
    }

    /// A connection is about to unmap.
    pub(crate) fn hide(&self, connection: u64) {
        self.views.hide(connection);
    }

    /// A statement ran: there may be something to replicate.
    pub(crate) fn touched(self: &Arc<Db>) {
        if !self.hand.is_started() && self.replicates() && self.spool.exists() {
            self.start();
        }
    }

    fn start(self: &Arc<Db>) {
        let begun = self.hand.start(|| {
            let db = Arc::clone(self);
            self.threads().run("litestream", Box::new(move || worker::run(&db)))
        });
        if let Err(e) = begun {
            self.note("start", &Error::State(format!("no thread for replication: {e}")));
        }
    }

    /// True while a worker runs, and after one that broke.
    pub(crate) fn has_worked(&self) -> bool {
        self.hand.is_started()
    }

    /// Hands a commit over. Never blocks; a full channel loses nothing, for Cursors are cumulative.
    pub(crate) fn hand_over(self: &Arc<Db>, cursor: Cursor, commit: u32) {
        if !self.replicates() {
            return;
        }
        self.hand.commit(Txn { cursor, commit, time: Time::now() });
        self.touched();
    }

    /// True where so many pages are saved beside a checkpoint, and not by the reset after it.
    pub(crate) fn is_worth_ahead(&self, pages: u32, page_size: PageSize) -> bool {
        let least = self.replica().map_or(u64::MAX, |replica| replica.settings.save_ahead);
        pages > 0 && u64::from(pages) * u64::from(page_size.get()) >= least
    }

    /// A checkpoint begins, and a reset may follow: there is something to be saved before that.
    pub(crate) fn announce_reset(&self) {
        if self.has_worked() {
            self.hand.hint();
        }
    }

    /// Wakes the worker.
    pub(crate) fn call(&self) {
        self.hand.call();
    }

    /// Exclusive locking mode has no wal-index: its connection says how far it is.
    pub(crate) fn set_exclusive(&self, target: Option<Target>) {
        self.views.set_exclusive(target);
    }

    /// What EXCLUSIVE found at the WAL's end: the End that is written when the WAL goes.
    pub(crate) fn set_closing(&self, closing: Option<(Cursor, u32, u32)>) {
        *lock(&self.closing) = closing;
    }

    /// Before the `-wal` is deleted or cut to nothing, under EXCLUSIVE.
    pub(crate) fn wal_going(&self) {
        // Once: the file may be another by the next time that this is told.
        let closing = lock(&self.closing).take();
        if let Some((cursor, commit, change)) = closing {
            self.end(cursor, commit, change);
        }
    }

    /// Writes an End: from here on the database file alone is the image at `cursor`.
    pub(crate) fn end(&self, cursor: Cursor, commit: u32, change: u32) {
        if !self.spool.exists() {
            return;
        }
        let written = Stat::of(self.path()).and_then(|stat| {
            let stat = stat.ok_or_else(|| Error::State(format!("{} is gone", self.path().display())))?;
            let links = self.spool.links()?;
            self.spool.link(links.newest(), &Link::End(End { cursor, commit, change, stat, header: 0 }))
        });
        if let Err(e) = written {
            self.note("links", &e);
        }
    }

    /// What the wal-index says now.
    pub(crate) fn look(&self) -> Look {
        self.views.look()
    }

    /// The pages of the WAL's frames `from+1 ..= to`, as far as its first block names them.
    pub(crate) fn pages_of_wal(&self, from: u32, to: u32) -> Vec<Pgno> {
        self.views.pages(from, to)
    }

    /// The wal-index's count of commits and the frame up to which it counts, for proofs of continuity.
    pub(crate) fn change(&self) -> Option<(u32, u32)> {
        self.views.change()
    }

    /// True where the database was in a rollback-journal mode when it was last looked at.
    pub(crate) fn is_journal(&self) -> bool {
        self.journal.load(Ordering::Relaxed)
    }

    /// What a look at the header said.
    pub(crate) fn set_journal(&self, journal: bool) {
        self.journal.store(journal, Ordering::Relaxed);
    }

    /// Somebody of this process or another waits for the engine's reader to let go.
    pub(crate) fn reader_is_asked(&self) -> bool {
        self.turns.is_asked() || self.way.is_asked(&self.spool)
    }

    // ---- the Spool's room ----

    /// Bytes that a Segment may take now; `database` is the database's size in bytes.
    pub(crate) fn room(&self, database: u64) -> u64 {
        let set = self.replica().and_then(|replica| replica.settings.spool_limit);
        self.room.left(&self.spool, set, database)
    }

    /// Bytes in the Spool, measured at most once a second.
    pub(crate) fn spool_bytes(&self) -> u64 {
        self.room.used(&self.spool)
    }

    /// A Segment was written.
    pub(crate) fn saved(&self, bytes: u64) {
        self.room.took(bytes);
    }

    /// What a WAL reset would lose cannot be saved: the reset has to wait, up to a hard limit on the WAL.
    pub(crate) fn cannot_save(&self, e: &Error, wal_bytes: u64) -> Answer {
        self.note("capture", e);
        if self.replicates() && wal_bytes < limits::HARD_WAL { Answer::Busy } else { Answer::Forward }
    }

    // ---- from one Leader of this process to the next ----

    /// What is known of the replica, where `state` is still what this process wrote last: then nobody else stored
    /// anything, and nothing need be listed.
    pub(crate) fn upkeep(&self, state: Option<&State>) -> Option<History> {
        let (then, history) = lock(&self.upkeep).take()?;
        (then.is_some() && then.as_ref() == state).then_some(history)
    }

    /// Keeps it for the next Leader.
    pub(crate) fn keep_upkeep(&self, state: Option<State>, history: History) {
        if history.is_idle() {
            *lock(&self.upkeep) = Some((state, history));
        }
    }

    /// A file of the replica is not what it should be, says who read it: the upkeep looks.
    pub(crate) fn doubt(&self, file: &FileInfo) {
        let mut doubts = lock(&self.doubts);
        if doubts.len() < limits::DOUBTS {
            doubts.push((file.level, file.span));
        }
    }

    /// Takes them.
    pub(crate) fn doubts(&self) -> Vec<(Level, Span)> {
        std::mem::take(&mut lock(&self.doubts))
    }

    // ---- what people see ----

    /// Something went wrong where SQLite must not be told: said once, shown in the status.
    pub(crate) fn note(&self, what: &str, e: &Error) {
        self.report.trouble(what, &self.spool.with_remedy(e.clone()));
    }

    /// What an operator wants to know.
    pub fn status(&self) -> Status {
        let mut status = self.report.status(Time::now());
        if self.report.is_following() {
            board::of_leader(&self.spool, &mut status);
        }
        status.spool_bytes = self.spool_bytes();
        if let (Look::Commits(target), Some(from)) = (self.look(), self.report.reached()) {
            let frames = if from.salt == target.cursor.salt {
                target.cursor.frame.saturating_sub(from.frame)
            } else {
                target.cursor.frame
            };
            status.bytes_pending = u64::from(frames) * u64::from(target.page_size.get());
        }
        status
    }

    /// The extension caught a panic on one of this database's connections and forwards that connection only from
    /// now on: the status says `failed` and why. Takes no lock that the panic may have left held.
    pub fn failed(&self, panic: &str) {
        self.report.broken(panic);
    }

    /// Returns the stored Txid when everything committed before the call is stored.
    pub fn sync(self: &Arc<Db>, timeout: Duration) -> Result<Txid> {
        if !self.replicates() {
            return Err(Error::State(format!("{} is not replicated", self.path().display())));
        }
        self.report.wait(self.ask(), timeout)
    }

    /// Asks for everything committed so far to be stored; the ticket to wait for in the report.
    pub(crate) fn ask(self: &Arc<Db>) -> u64 {
        let ticket = self.report.ask();
        self.start();
        self.call();
        ticket
    }
}
