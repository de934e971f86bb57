//! What the Leader does in one turn: put what waits, find what is committed and not stored, make one file of
//! it, or a new image where continuity is lost.

use crate::base::BaseFile;
use crate::clock::Time;
use crate::copy::{Copying, Sliced};
use crate::db::{Db, Look, Target};
use crate::error::{Error, Result};
use crate::finding::{Found, journal_is_wal};
use crate::history::{self, History, Site};
use crate::image::{self, Snapshot};
use crate::limits;
use crate::ltx::Txid;
use crate::reader::{self, Pending, Start, Walk};
use crate::report::Phase;
use crate::settings::OnConflict;
use crate::spool::{Stat, State, kept, random, remove};
use crate::store::Store;
use crate::uploader::{Encoded, Outgoing, Source, encode, encode_image, needs_snapshot};
use crate::worker::Turn;
use std::sync::Arc;

/// The Leader of one database.
pub(crate) struct Leading<'a> {
    pub(crate) db: &'a Arc<Db>,
    store: Arc<Store>,
    pub(crate) base: Box<dyn BaseFile>,
    pub(crate) state: State,
    outgoing: Option<Outgoing>,
    /// The look after which everything was stored, and the file then.
    settled: Option<(Look, Option<Stat>)>,
    copying: Option<Copying>,
    history: History,
}

impl<'a> Leading<'a> {
    /// A Leader without eyes would replicate nothing: it needs the wal-index mapped, or a mode without one.
    pub(crate) fn may_compete(db: &Db) -> bool {
        db.look() != Look::Blind || !journal_is_wal(db)
    }

    /// True where the store holds everything that a look finds (for those that follow).
    pub(crate) fn all_is_stored(db: &Db, state: &State) -> Result<bool> {
        let Look::Commits(target) = db.look() else { return Ok(db.spool().segments()?.is_empty()) };
        Ok(state.cursor.is_some_and(|cursor| {
            cursor.same_point(&target.cursor)
                || (cursor.salt == target.cursor.salt && cursor.frame >= target.cursor.frame)
        }))
    }

    /// The lock was just granted: what did the Leader before leave?
    pub(crate) fn take_over(db: &'a Arc<Db>) -> Result<Leading<'a>> {
        let replica = db.replica().expect("only a database with a replica has a worker");
        let settings = &replica.settings;
        let store = Arc::new(replica.store(limits::NO_PROGRESS)?);
        let spool = db.spool();
        spool.sweep()?;
        let base = db.base().open_database(db.path(), false).map_err(|e| Error::io("open", db.path(), e))?;
        let written = spool.state()?;
        let history = db.upkeep(written.as_ref());
        let mut state = written.unwrap_or_default();
        let identity = settings.url.identity();
        let mut outgoing = Outgoing::found(spool)?;
        if !state.replica.is_empty() && state.replica != kept(&identity) {
            log::warn!(target: "litestream", "{}: replicated to {} before, now to {}: a new image starts there",
                db.path().display(), state.replica, settings.url);
            state = State { number: state.number, ..State::default() };
            for old in outgoing.drain(..) {
                remove(&old.path)?;
            }
        }
        outgoing.retain(|waiting| waiting.txid == state.txid.next());
        let history = match history {
            Some(history) => history,
            None => History::begin(db, &settings.schedule, history::list(&store)?)?,
        };
        let expected = outgoing.last().map_or(state.txid, |waiting| waiting.txid);
        let beyond = history.manifest().newest().filter(|newest| newest.span.max > expected);
        if let Some(beyond) = beyond {
            if state.txid > Txid(0) && settings.on_conflict != OnConflict::KeepLocal {
                return Err(Error::Conflict(format!(
                    "the replica {} reaches {}, this machine stored up to {}: another writer is or was at work; decide with on-conflict=keep-local or take-replica",
                    settings.url, beyond.span.max, state.txid
                )));
            }
            state.cursor = None;
            state.image = None;
            outgoing.clear();
            state.txid = beyond.span.max;
            state.time = state.time.max(beyond.listed);
        }
        let inode = Stat::of(db.path())?.map_or(0, |stat| stat.inode);
        if state.inode != 0 && state.inode != inode {
            state.cursor = None;
            state.image = None;
        }
        state.inode = inode;
        state.replica = kept(&identity).to_string();
        state.writer = random();
        db.report.stored(state.txid, state.cursor, store.is_fenced() != Some(false));
        db.report.phase(Phase::Replicating);
        Ok(Leading { db, store, base, state, outgoing: outgoing.pop(), settled: None, copying: None, history })
    }

    /// One turn. `woken` is false at a beat where nobody called. Upkeep begins where no file waits to be put.
    pub(crate) fn turn(&mut self, woken: bool) -> Result<Turn> {
        let turn = self.store_next(woken)?;
        if self.outgoing.is_none() && turn != Turn::Following {
            let database = u64::from(self.state.commit) * u64::from(self.state.page_size);
            let site = Site { db: self.db, store: &self.store, inode: self.state.inode, database };
            self.history.turn(&site, Time::now());
        }
        Ok(turn)
    }

    /// True while the replica's upkeep has something to do.
    pub(crate) fn is_busy(&self) -> bool {
        self.history.is_busy(Time::now())
    }

    /// Leaves: what is known of the replica serves the next Leader of this process.
    pub(crate) fn leave(self) -> Result<()> {
        let written = self.db.spool().state()?;
        self.db.keep_upkeep(written, self.history);
        Ok(())
    }

    fn store_next(&mut self, woken: bool) -> Result<Turn> {
        if self.outgoing.is_some() {
            if !self.put()? {
                return Ok(Turn::Following);
            }
            return Ok(Turn::More);
        }
        let look = self.db.look();
        if !woken && self.is_settled(look)? {
            return Ok(Turn::Stored);
        }
        let stat = Stat::of(self.db.path())?;
        match self.find()? {
            Found::Nothing => {
                self.settled = Some((look, stat));
                Ok(Turn::Stored)
            }
            Found::Pending(pending) => self.send(*pending),
            Found::Image(why) => self.image(&why),
            Found::Later => Ok(Turn::Later(limits::SHORT)),
        }
    }

    /// Nothing moved since everything was stored: one read of memory, and where no wal-index shows
    /// commits, one look at the file.
    fn is_settled(&self, look: Look) -> Result<bool> {
        let Some((settled, stat)) = &self.settled else { return Ok(false) };
        Ok(*settled == look && (matches!(look, Look::Commits(_)) || Stat::of(self.db.path())? == *stat))
    }

    // ---- storing ----

    /// Puts what waits; `false` where this process leads no more.
    fn put(&mut self) -> Result<bool> {
        if !self.still_leads()? {
            return Ok(false);
        }
        let outgoing = self.outgoing.as_ref().expect("the caller looked");
        self.db.report.captured(outgoing.txid);
        outgoing.put(&self.store)?;
        let mut state = self.state.clone();
        if let Some(written) = self.db.spool().state()? {
            if written.number != state.number {
                log::warn!(target: "litestream", "{}: another process wrote the state; this one stops leading", self.db.path().display());
                return Ok(false);
            }
        }
        state.txid = outgoing.txid;
        state.cursor = Some(outgoing.to);
        state.commit = outgoing.commit;
        state.page_size = outgoing.page_size.get();
        state.time = outgoing.time;
        state.image = None;
        self.db.spool().set_state(&mut state)?;
        self.state = state;
        self.history.stored(self.db, outgoing.info(), &outgoing.path, Time::now())?;
        self.outgoing = None;
        self.db.report.stored(self.state.txid, self.state.cursor, self.store.is_fenced() != Some(false));
        Ok(true)
    }

    /// The lock may be gone (a backup closed the file), the Spool or the database may be another.
    fn still_leads(&mut self) -> Result<bool> {
        let inode = Stat::of(self.db.path())?.map(|stat| stat.inode);
        Ok(self.db.spool().exists() && inode == Some(self.state.inode) && self.db.leadership.hold(self.db.spool())?)
    }

    /// Makes one file of what is pending and puts it.
    fn send(&mut self, mut pending: Pending) -> Result<Turn> {
        if needs_snapshot(&pending) {
            return self.send_by_snapshot();
        }
        pending.make_durable(self.db.spool())?;
        let time = self.next_time();
        let txid = self.state.txid.next();
        let source = Source::File(&*self.base);
        let encoded = encode(self.db.spool(), &pending, txid, time, self.state.commit, &source)?;
        self.take(encoded, &mut pending)
    }

    /// Pages whose contents were not kept come from one short read transaction, with everything up to it.
    fn send_by_snapshot(&mut self) -> Result<Turn> {
        let Some(snapshot) = Snapshot::begin(&*self.base, self.db.path(), self.db.wal())? else {
            return Ok(Turn::Later(limits::SHORT));
        };
        let target = Target { cursor: snapshot.cursor, commit: snapshot.commit, page_size: snapshot.page_size };
        let target = if snapshot.end.is_none() { Some(target) } else { None };
        let segments = reader::segments(self.db.spool())?;
        let links = self.db.spool().links()?;
        let walked = reader::walk(self.start(), segments, &links, target.as_ref(), self.db.wal())?;
        let Some(Walk::Reached(mut pending)) = walked else { return Ok(Turn::Later(limits::SHORT)) };
        if pending.more || target.is_some_and(|target| !pending.to.same_point(&target.cursor)) {
            self.state.cursor = None;
            return Ok(Turn::More);
        }
        pending.make_durable(self.db.spool())?;
        let guard = self.db.begin_image(true);
        let (time, txid) = (self.next_time(), self.state.txid.next());
        let encoded = encode(self.db.spool(), &pending, txid, time, self.state.commit, &Source::Snapshot(&snapshot))?;
        drop(snapshot);
        drop(guard);
        self.take(encoded, &mut pending)
    }

    fn take(&mut self, encoded: Encoded, pending: &mut Pending) -> Result<Turn> {
        match encoded {
            Encoded::Done(outgoing) => {
                self.outgoing = Some(outgoing);
                if !self.put()? {
                    return Ok(Turn::Following);
                }
                for segment in pending.segments.drain(..) {
                    remove(&segment.path)?;
                }
                Ok(Turn::More)
            }
            Encoded::Torn => Ok(Turn::More),
            Encoded::Cancelled => Ok(Turn::Later(limits::SHORT)),
        }
    }

    /// Header times never go back.
    fn next_time(&self) -> Time {
        Time::now().max(Time(self.state.time.0 + 1))
    }

    /// Where a walk begins.
    pub(crate) fn start(&self) -> Start {
        match self.state.cursor {
            Some(cursor) => Start::Stored {
                cursor,
                commit: self.state.commit,
                page_size: crate::page::PageSize::new(self.state.page_size).expect("state holds what a file had"),
            },
            None => Start::Whole,
        }
    }

    // ---- images ----

    fn image(&mut self, why: &str) -> Result<Turn> {
        let Some(header) = image::header(&*self.base)? else { return Ok(Turn::Stored) };
        self.db.report.phase(Phase::Imaging);
        self.db.report.journal(!header.wal);
        self.state.cursor = None;
        if !header.wal {
            return self.image_by_slices();
        }
        let Some(snapshot) = Snapshot::begin(&*self.base, self.db.path(), self.db.wal())? else {
            let why = "the database is locked or waits for recovery; an image follows as soon as it can be read (locking_mode=EXCLUSIVE has to be left once)";
            self.db.report.phase(Phase::Waiting(why.into()));
            return Ok(Turn::Later(limits::BEAT.0));
        };
        if self.state.txid > Txid(0) {
            log::info!(target: "litestream", "{}: a new image is made as {}: {why}", self.db.path().display(), self.state.txid.next());
        }
        self.state.image = Some(snapshot.cursor);
        self.state.end = snapshot.end;
        self.db.spool().set_state(&mut self.state)?;
        let guard = self.db.begin_image(true);
        let (time, txid) = (self.next_time(), self.state.txid.next());
        let what = (snapshot.page_size, snapshot.commit, snapshot.cursor);
        let db = self.db;
        let encoded = encode_image(db.spool(), txid, time, what, &Source::Snapshot(&snapshot), |_| {
            db.asked.load(std::sync::atomic::Ordering::Relaxed)
        })?;
        let held = snapshot.held(db.path())?;
        drop(snapshot);
        drop(guard);
        self.image_done(encoded, held)
    }

    /// Rollback modes: a reader blocks commits, so the file is copied in short slices.
    fn image_by_slices(&mut self) -> Result<Turn> {
        let mut copying = match self.copying.take() {
            Some(copying) => copying,
            None => match Copying::begin(self.db, &*self.base, &mut self.state)? {
                Some(copying) => copying,
                None => return Ok(Turn::Later(limits::SHORT)),
            },
        };
        match copying.slice(self.db, &*self.base)? {
            Sliced::More => {
                self.copying = Some(copying);
                Ok(Turn::Later(limits::BETWEEN_SLICES))
            }
            Sliced::Again => Ok(Turn::Later(limits::SHORT)),
            Sliced::Done => {
                let (time, txid) = (self.next_time(), self.state.txid.next());
                let what = (copying.page_size, copying.commit, copying.cursor);
                let source = Source::Copy(copying.file());
                let encoded = encode_image(self.db.spool(), txid, time, what, &source, |_| false)?;
                self.image_done(encoded, true)
            }
        }
    }

    fn image_done(&mut self, encoded: Encoded, held: bool) -> Result<Turn> {
        match encoded {
            Encoded::Done(outgoing) if held => {
                self.outgoing = Some(outgoing);
                Ok(Turn::More)
            }
            Encoded::Done(outgoing) => {
                remove(&outgoing.path)?;
                Ok(Turn::Later(limits::SHORT))
            }
            Encoded::Torn | Encoded::Cancelled => Ok(Turn::Later(limits::SHORT)),
        }
    }
}
