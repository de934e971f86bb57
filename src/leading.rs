//! What the Leader does in one turn: put what waits, find what is committed and not stored, make one file of
//! it, or a new image where continuity is lost.

mod beginning;
mod folding;
mod foresight;
mod imaging;
mod meeting;
mod undone;

use crate::below;
use crate::clock::Time;
use crate::copy::Copying;
use crate::db::{Db, Look};
use crate::error::Result;
use crate::fault;
use crate::finding::{Found, journal_is_wal};
use crate::held::Held;
use crate::history::{self, History, Site};
use crate::image::{self, Pace, Snapshot};
use crate::limits;
use crate::link;
use crate::ltx::{Level, Txid};
use crate::reader::Target;
use crate::reader::{self, Pending, Start, Walk};
use crate::report::Phase;
use crate::spool::{Link, Segment, Stat, State, kept, random, remove};
use crate::store::Store;
use crate::unread::{self, Unread};
use crate::uploader::{Encoded, Outgoing, Source, encode, grows_unwritten, keep_next, needs_snapshot};
use crate::validation::Validation;
use crate::worker::Turn;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The Leader of one database.
pub(crate) struct Leading<'a> {
    pub(crate) db: &'a Arc<Db>,
    store: Arc<Store>,
    pub(crate) state: State,
    outgoing: Option<Outgoing>,
    /// Where that is an image which no older file leads to.
    beginning: Option<beginning::Beginning>,
    /// The look after which everything was stored, and the file then.
    settled: Option<(Look, Option<Stat>)>,
    copying: Option<Copying>,
    /// Segments read in a look before and not taken yet.
    pub(crate) segments: Vec<Segment>,
    pace: Pace,
    /// The waiting file is of a database that another has replaced: it is stored, and leads to no Cursor here.
    adrift: bool,
    /// The newest file is a snapshot: a raw one follows at once, for Litestream goes on from raw files.
    pub(crate) lone_snapshot: bool,
    history: History,
    validation: Validation,
    /// When the store was last known to end with what was stored from here.
    met: Instant,
    /// Begins that are on no record: proven here, later than at the first frame.
    pub(crate) begun: Vec<Link>,
}

impl<'a> Leading<'a> {
    /// A Leader without eyes would replicate nothing: it needs the wal-index mapped, or a mode without one. Where
    /// the last connection is closed, what is left to store lies in the Spool and in the file.
    /// The file is asked for its mode only where somebody `called`.
    pub(crate) fn may_compete(db: &Db, called: bool) -> bool {
        if db.look() != Look::Blind || db.connections() == 0 {
            return true;
        }
        if called {
            db.set_journal(!journal_is_wal(db));
        }
        db.is_journal()
    }

    /// True where the store holds everything that a look finds (for those that follow). Where somebody is told so, who may have
    /// read nothing yet, the WAL and the file are looked at too.
    pub(crate) fn all_is_stored(db: &Db, state: &State, awaited: bool) -> Result<bool> {
        let holds = |target: &Target| {
            state.cursor.is_some_and(|cursor| {
                let is_beyond = cursor.salt == target.cursor.salt && cursor.frame > target.cursor.frame;
                cursor.same_point(&target.cursor) || is_beyond
            })
        };
        match db.look() {
            Look::Commits(target) => return Ok(holds(&target)),
            Look::Blind if awaited => {
                let Some(held) = Held::read(db, state.inode)? else { return Ok(false) };
                match unread::look(&*held.base, db.path(), db.wal())? {
                    Unread::Commits(target) => return Ok(holds(&target)),
                    Unread::Busy => return Ok(false),
                    Unread::Nothing => {}
                }
                let Some(header) = image::header(&*held.base, db.path())? else { return Ok(true) };
                let Some(end) = link::newest_end(Some(state), &db.spool().links()?) else { return Ok(false) };
                let is_known = Some(end.stat) == Stat::of(db.path())? || (!header.wal && end.header == header.hash);
                if !is_known || !state.cursor.is_some_and(|cursor| cursor.same_point(&end.cursor)) {
                    return Ok(false);
                }
            }
            Look::Blind | Look::Empty | Look::Untrusted => {}
        }
        Ok(db.spool().segments()?.is_empty())
    }

    /// The lock was just granted: what did the Leader before leave?
    pub(crate) fn take_over(db: &'a Arc<Db>) -> Result<Leading<'a>> {
        let replica = db.replica().expect("only a database with a replica has a worker");
        let settings = &replica.settings;
        let store = Arc::new(replica.store(limits::NO_PROGRESS)?);
        let spool = db.spool();
        spool.sweep()?;
        reader::sweep_torn(spool)?;
        db.leadership.sign(spool)?;
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
        keep_next(&mut outgoing, state.txid)?;
        if state.txid > Txid(0) {
            store.is_there(state.txid)?;
        }
        let is_fresh = history.is_none();
        let history = match history {
            Some(history) => history,
            None => History::begin(db, &settings.schedule, history::list(&store)?)?,
        };
        if state.txid == Txid(0) {
            // Beside files of Litestream 0.3 ours are dated later: a restore takes the newest of both.
            let older = crate::restore::older::list(&store)?.into_iter().map(|object| object.created.time()).max();
            state.time = older.map_or(state.time, |older| state.time.max(older));
        }
        meeting::meet(db, &store, settings, (&history, is_fresh), &mut state, &mut outgoing)?;
        let inode = Stat::of(db.path())?.map_or(0, |stat| stat.inode);
        let adrift = state.inode != inode && (state.inode != 0 || !outgoing.is_empty());
        if adrift {
            state.cursor = None;
            state.image = None;
        }
        state.inode = inode;
        state.replica = kept(&identity).to_string();
        state.writer = random();
        db.report.stored(state.txid, state.cursor, store.is_fenced() != Some(false));
        db.report.phase(Phase::Replicating);
        let lone_snapshot = state.txid == Txid(1);
        let outgoing = outgoing.pop();
        Ok(Leading {
            db,
            store,
            state,
            adrift: adrift && outgoing.is_some(),
            outgoing,
            beginning: None,
            settled: None,
            copying: None,
            segments: Vec::new(),
            pace: Pace::default(),
            lone_snapshot,
            history,
            validation: Validation::new(settings.validation_interval),
            met: Instant::now(),
            begun: Vec::new(),
        })
    }

    /// One turn. `woken` is false at a beat where nobody called. Upkeep begins where no file waits to be put.
    pub(crate) fn turn(&mut self, woken: bool) -> Result<Turn> {
        below::check(self.db)?;
        let turn = self.store_next(woken)?;
        if self.outgoing.is_none() && !matches!(turn, Turn::Following | Turn::Gone | Turn::Moved) {
            let database = u64::from(self.state.commit) * u64::from(self.state.page_size);
            let site = Site { db: self.db, store: &self.store, inode: self.state.inode, database };
            let now = self.history.now(self.state.time);
            self.history.turn(&site, now);
            self.validation.turn(&site);
            if self.heals() {
                return Ok(Turn::More);
            }
        }
        Ok(turn)
    }

    /// True while the replica's upkeep has something to do.
    pub(crate) fn is_busy(&self) -> bool {
        self.history.is_busy(self.history.now(self.state.time))
    }

    /// Leaves, before the lock is given back. What is known of the replica serves the next Leader of this process.
    pub(crate) fn leave(self) -> Result<()> {
        let written = self.db.spool().state()?;
        self.db.keep_upkeep(written, self.history);
        Ok(())
    }

    fn store_next(&mut self, woken: bool) -> Result<Turn> {
        let look = self.db.look();
        if self.outgoing.is_none() && !woken && self.is_settled(look)? {
            return Ok(Turn::Stored);
        }
        let stat = Stat::of(self.db.path())?;
        match &stat {
            None => return Ok(Turn::Gone),
            Some(stat) if stat.inode != self.state.inode => return Ok(Turn::Moved),
            Some(_) => {}
        }
        if self.outgoing.is_some() {
            return Ok(if self.put()? { Turn::More } else { Turn::Following });
        }
        match self.find()? {
            Found::Nothing => {
                self.pace.settled();
                self.settled = Some((look, stat));
                Ok(Turn::Stored)
            }
            Found::Pending(pending) => {
                fault::point("pending-found");
                self.send(*pending)
            }
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
        if !self.put_outgoing()? {
            return Ok(false);
        }
        fault::point("put-done");
        if self.db.forget.load(Ordering::Acquire) {
            return Ok(false);
        }
        let outgoing = self.outgoing.as_ref().expect("it was put");
        if !self.still_leads()? {
            return Ok(false);
        }
        let mut state = self.state.clone();
        outgoing.enter(&mut state);
        if std::mem::take(&mut self.adrift) {
            state.cursor = None;
        }
        self.db.spool().set_state(&mut state)?;
        self.state = state;
        self.lone_snapshot = outgoing.level() == Level::SNAPSHOT;
        let now = self.history.now(self.state.time);
        self.history.stored(self.db, outgoing.info(), &outgoing.path, now)?;
        if let Some(begun) = self.beginning.take() {
            self.history.stored(self.db, begun.whole.info(Level::SNAPSHOT), &begun.whole.path, now)?;
        }
        fault::point("ltx-removed");
        self.outgoing = None;
        self.db.report.stored(self.state.txid, self.state.cursor, self.store.is_fenced() != Some(false));
        Ok(true)
    }

    /// The lock may be gone (a backup closed the file), the Spool or the database may be another, and another process may
    /// have led since: nothing is put or written to `state` without this.
    pub(crate) fn still_leads(&self) -> Result<bool> {
        let spool = self.db.spool();
        let inode = Stat::of(self.db.path())?.map(|stat| stat.inode);
        if !spool.exists() || inode != Some(self.state.inode) || !self.db.leadership.hold(spool)? {
            return Ok(false);
        }
        let overtaken = spool.state()?.is_some_and(|written| written.number != self.state.number);
        if overtaken {
            log::warn!(target: "litestream", "{}: another process wrote the state; this one leads anew", self.db.path().display());
        }
        Ok(!overtaken)
    }

    /// A handle of our own on the database, and the turn to read through it: none while the host needs its locks,
    /// or where another file has this name by now.
    pub(crate) fn reading(&self) -> Result<Option<Held<'a>>> {
        Held::read(self.db, self.state.inode)
    }

    /// Makes one file of what is pending and puts it.
    fn send(&mut self, mut pending: Pending) -> Result<Turn> {
        if needs_snapshot(&pending) {
            return self.send_by_snapshot();
        }
        self.make_durable(&pending)?;
        let time = self.next_time();
        let txid = self.state.txid.next();
        let before = self.state.commit;
        let held = if grows_unwritten(&pending, before) { self.reading()? } else { None };
        let source = match &held {
            Some(held) => Source::File(&*held.base, self.db.path()),
            None if grows_unwritten(&pending, before) => return Ok(Turn::Later(limits::SHORT)),
            None => Source::Zeros,
        };
        let encoded = encode(self.db.spool(), &pending, txid, time, before, &source)?;
        drop(held);
        self.take(encoded, &mut pending)
    }

    /// What is stored must be a part of what a loss of power would leave here.
    fn make_durable(&self, pending: &Pending) -> Result<()> {
        pending.make_durable()?;
        let journal = pending.segments.iter().any(|segment| segment.head.after.is_some());
        if journal { crate::copy::make_durable(self.db) } else { Ok(()) }
    }

    /// Pages whose contents were not kept come from one short read transaction, with everything up to it.
    fn send_by_snapshot(&mut self) -> Result<Turn> {
        let Some(held) = self.reading()? else { return Ok(Turn::Later(limits::SHORT)) };
        let Some(snapshot) = Snapshot::begin(&*held.base, self.db.path(), self.db.wal())? else {
            return Ok(Turn::Later(limits::SHORT));
        };
        let target = Target { cursor: snapshot.cursor, commit: snapshot.commit, page_size: snapshot.page_size };
        let target = if snapshot.end.is_none() { Some(target) } else { None };
        reader::refresh(self.db.spool(), &mut self.segments, &HashSet::new())?;
        let links = self.db.spool().links()?;
        let Some(start) = self.start() else { return Ok(Turn::More) };
        let walked = reader::walk(start, &mut self.segments, &links, target.as_ref(), self.db.wal())?;
        let Some(Walk::Reached(mut pending)) = walked else { return Ok(Turn::Later(limits::SHORT)) };
        // Of a later state than the walk leads to, only some pages would be stored.
        if pending.more || !self.is_held_at(&held, &links, &snapshot, &pending.to)? {
            drop(snapshot);
            drop(held);
            return self.image("pages that the Spool had no room for belong to an earlier state");
        }
        self.make_durable(&pending)?;
        snapshot.make_durable(self.db.path())?;
        let (time, txid) = (self.next_time(), self.state.txid.next());
        let encoded = encode(self.db.spool(), &pending, txid, time, self.state.commit, &Source::Snapshot(&snapshot))?;
        drop(snapshot);
        drop(held);
        self.take(encoded, &mut pending)
    }

    fn take(&mut self, encoded: Encoded, pending: &mut Pending) -> Result<Turn> {
        match encoded {
            Encoded::Done(outgoing) => {
                // The Segments go after this, so what the last of them says of the file is kept here; unless an End is on
                // record that none of them leads to: a loss of power undid what is stored now, and another took its place.
                let last = pending.segments.last().and_then(|segment| segment.head.end());
                let last = last.filter(|end| end.cursor.same_point(&outgoing.to));
                let links = self.db.spool().links()?;
                let is_newest = links.last_end().is_none_or(|known| pending.passes(&known.cursor));
                if let Some(end) = last.filter(|end| is_newest && !links.ends_at(&end.cursor)) {
                    self.state.end = Some(end);
                    self.state.end_after = links.newest();
                }
                self.outgoing = Some(outgoing);
                if !self.put()? {
                    return Ok(Turn::Following);
                }
                for segment in pending.segments.drain(..) {
                    remove(&segment.path)?;
                    fault::point("segment-removed");
                }
                Ok(if pending.more { Turn::More } else { Turn::Sent })
            }
            Encoded::Torn => Ok(Turn::More),
        }
    }

    /// Header times never go back.
    fn next_time(&self) -> Time {
        self.history.now(self.state.time).max(Time(self.state.time.0 + 1))
    }

    /// Where a walk begins. `None` where only an image can go on from what is stored: a Segment that holds every page
    /// may be older than that.
    pub(crate) fn start(&self) -> Option<Start> {
        match self.state.cursor {
            Some(cursor) => Some(Start::Stored {
                cursor,
                commit: self.state.commit,
                page_size: crate::page::PageSize::new(self.state.page_size).expect("state holds what a file had"),
            }),
            None => (self.state.txid == Txid(0)).then_some(Start::Whole),
        }
    }
}
