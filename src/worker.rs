//! The thread of a `Db` while it has work: waits, looks, and as the Leader makes one L0 file per sync interval
//! with changes.
//!
//! The channel only wakes: after draining it, and at each beat, the worker looks at the wal-index itself. What
//! is in its memory counts for nobody; what was committed is found again from Spool and WAL.

use crate::backoff::Backoff;
use crate::board;
use crate::clock::Time;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::forget;
use crate::leading::Leading;
use crate::limits;
use crate::report::Phase;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Everything that a look found is stored.
    Stored,
    /// More is waiting already.
    More,
    /// What a look found is stored; what was committed since waits for the next interval, unless somebody waits for it.
    Sent,
    /// Another process leads.
    Following,
    /// The file that has the database's name by now is another one.
    Moved,
    /// The database file is gone: what the Spool holds is stored when it is opened again.
    Gone,
    /// Nothing can be done before this has passed.
    Later(Duration),
}

/// Runs until there is no connection and nothing to store. A panic ends replication, not the application.
pub(crate) fn run(db: &Arc<Db>) {
    if catch_unwind(AssertUnwindSafe(|| Worker::new(db).work())).is_err() {
        let what = "a fault in the replication thread; restart the process, and report this".to_string();
        db.report.phase(Phase::Failed(what.clone()));
        db.report.fail(u64::MAX, &Error::State(what));
    }
}

struct Worker<'a> {
    db: &'a Arc<Db>,
    interval: Duration,
    beat: Duration,
    leading: Option<Leading<'a>>,
    backoff: Backoff,
    oldest: Option<Time>,
    woken: bool,
    /// Since when every turn ended in a wait for somebody's lock.
    stuck: Option<Instant>,
    /// What was left for the followers.
    said: String,
}

impl<'a> Worker<'a> {
    fn new(db: &'a Arc<Db>) -> Worker<'a> {
        let interval = db.replica().map_or(limits::BEAT.1, |replica| replica.settings.sync_interval);
        let beat = interval.clamp(limits::BEAT.0, limits::BEAT.1);
        Worker {
            db,
            interval,
            beat,
            leading: None,
            backoff: Backoff::new(limits::BACKOFF),
            oldest: None,
            woken: true,
            stuck: None,
            said: String::new(),
        }
    }

    fn work(&mut self) {
        loop {
            let ticket = self.db.report.asked();
            let began = Instant::now();
            self.drain();
            let turn = self.turn(ticket);
            if !matches!(turn, Ok(Turn::Later(_)) | Err(Error::Corrupt(_))) {
                self.stuck = None;
            }
            let pause = match turn {
                Ok(Turn::More | Turn::Moved) => continue,
                Ok(Turn::Sent) => {
                    self.replicating();
                    if self.db.report.is_awaited() || self.db.connections() == 0 {
                        continue;
                    }
                    None
                }
                Ok(Turn::Stored) => {
                    self.replicating();
                    // Before anybody is told that all is stored: the process may end then.
                    self.rest();
                    self.db.report.done(ticket);
                    let is_busy = self.leading.as_ref().is_some_and(Leading::is_busy);
                    if !is_busy && !Leading::may_compete(self.db, false) {
                        // Blind: what others commit would be seen by nobody.
                        self.stop_leading();
                    }
                    if !is_busy && self.end() {
                        return;
                    }
                    None
                }
                Ok(Turn::Following) => {
                    if self.db.connections() == 0 && self.end() {
                        return;
                    }
                    None
                }
                Ok(Turn::Gone) => {
                    let gone = Error::State(format!("{} is gone", self.db.path().display()));
                    self.db.report.fail(ticket, &gone);
                    self.db.report.phase(Phase::Waiting("the database file is gone".into()));
                    if self.end() {
                        return;
                    }
                    None
                }
                Ok(Turn::Later(pause)) => {
                    self.give_up_in_vain(ticket);
                    Some(pause)
                }
                Err(e) => {
                    let pause = self.failed(ticket, &e);
                    if matches!(e, Error::Conflict(_)) && self.end() {
                        return;
                    }
                    // A file that a transaction was being written to, or a crash tore, heals by its journal only.
                    if matches!(e, Error::Corrupt(_)) {
                        self.give_up_in_vain(ticket);
                    }
                    if let Some(Err(e)) = self.leading.as_mut().map(Leading::fold) {
                        self.db.note("fold", &e);
                    }
                    Some(pause)
                }
            };
            self.leave_word();
            self.wait(began, pause);
        }
    }

    /// At the end of the process, where nothing more can be read: whoever waits is told so.
    fn give_up_in_vain(&mut self, ticket: u64) {
        let stuck = *self.stuck.get_or_insert_with(Instant::now);
        if let Some(why) = self.db.turns.waits_in_vain(stuck) {
            self.db.report.fail(ticket, &Error::State(why.into()));
        }
    }

    /// Everything that a look found is stored.
    fn replicating(&mut self) {
        self.backoff.over();
        self.oldest = None;
        self.db.report.oldest(None);
        self.db.report.error(None);
        self.db.report.phase(Phase::Replicating);
    }

    fn leave_word(&mut self) {
        // Who meets another writer when it takes over leads as well, and has the most to say.
        if self.leading.is_some() || self.db.report.is_diverged() {
            let left = board::leave(self.db.spool(), &self.db.report.status(Time::now()), &mut self.said);
            if let Err(e) = left {
                self.db.note("status", &e);
            }
        }
    }

    /// Takes what the channel holds: only the time of the oldest counts, for the lag that people see.
    fn drain(&mut self) {
        for txn in std::iter::from_fn(|| self.db.hand.take()).take(limits::CHANNEL_TXNS) {
            self.woken = true;
            self.oldest = Some(self.oldest.map_or(txn.time, |oldest| oldest.min(txn.time)));
        }
        self.db.report.oldest(self.oldest);
    }

    fn turn(&mut self, ticket: u64) -> Result<Turn> {
        let awaited = self.db.report.is_awaited();
        if self.db.forget.load(Ordering::Acquire) {
            self.leading = None;
            forget::by_leader(self.db)?;
        }
        if self.leading.is_none() {
            if !self.db.path().exists() {
                return Ok(Turn::Gone);
            }
            if !self.db.spool().exists() {
                self.db.spool().create()?;
            }
            // Somebody who waits for a sync may have read nothing yet: what is to be stored lies in the Spool then.
            if !awaited && !Leading::may_compete(self.db, self.woken) {
                self.woken = false;
                return self.follow(ticket, awaited);
            }
            if !self.db.leadership.hold(self.db.spool())? {
                self.db.report.phase(Phase::Following);
                return self.follow(ticket, awaited);
            }
            self.leading = Some(Leading::take_over(self.db)?);
            self.woken = true;
        }
        let leading = self.leading.as_mut().expect("set above, or returned");
        let turn = leading.turn(self.woken || awaited);
        match turn {
            Ok(Turn::Following | Turn::Moved) => self.leading = None,
            Ok(Turn::Stored) => self.woken = false,
            // Deleted in the middle of a turn.
            Err(Error::Io { kind: ErrorKind::NotFound, .. }) if !self.db.path().exists() => return Ok(Turn::Gone),
            _ => {}
        }
        turn
    }

    /// Another process replicates: what it stored is in `state`.
    fn follow(&mut self, ticket: u64, awaited: bool) -> Result<Turn> {
        if let Some(state) = self.db.spool().state()? {
            self.db.report.stored(state.txid, state.cursor, true);
            let stored = Leading::all_is_stored(self.db, &state, awaited)?;
            if awaited && stored {
                self.db.report.done(ticket);
            }
            // What others commit is noticed here, so that the lag counts for it too.
            self.oldest = if stored { None } else { self.oldest.or(Some(Time::now())) };
            self.db.report.oldest(self.oldest);
        }
        Ok(if awaited { Turn::Later(limits::FOLLOWER_LOOK) } else { Turn::Following })
    }

    /// The store or the disk refused: how long to wait before the next try.
    fn failed(&mut self, ticket: u64, e: &Error) -> Duration {
        let e = &self.db.spool().with_remedy(e.clone());
        self.db.report.error(Some(e));
        match e {
            Error::Conflict(what) => {
                self.db.report.phase(Phase::Diverged(what.clone()));
                self.db.report.fail(ticket, e);
                return limits::DIVERGED_LOOK;
            }
            _ => self.db.report.phase(Phase::Retrying),
        }
        self.backoff.failed(crate::spool::random())
    }

    /// Everything is stored: where the database is closed, the next boot is told so.
    fn rest(&mut self) {
        if let Some(Err(e)) = self.leading.as_mut().map(Leading::rest) {
            self.db.note("rest", &e);
        }
    }

    /// Ends the thread where nothing is left to do.
    fn end(&mut self) -> bool {
        if self.db.connections() > 0 {
            return false;
        }
        // The lock goes before the next worker of this process may begin: fcntl does not part the two.
        let db = self.db;
        db.hand.may_end(|| self.stop_leading())
    }

    /// Lets another process lead.
    fn stop_leading(&mut self) {
        if let Some(leading) = self.leading.take() {
            if let Err(e) = leading.leave() {
                self.db.note("state", &e);
            }
            self.db.leadership.resign();
        }
    }

    /// Waits for something to do.
    fn wait(&mut self, began: Instant, pause: Option<Duration>) {
        let mut rest = match pause {
            Some(pause) => Rest::Pause(Instant::now() + pause),
            None if self.db.report.is_awaited() => return,
            None => Rest::Beat(Instant::now() + self.beat),
        };
        self.db.hand.take_hint(); // of a checkpoint that is over by now
        while let Some(until) = self.rests(&mut rest, began) {
            if self.db.hand.take_hint() {
                self.save_ahead();
            }
            let (db, hears_commits) = (self.db, matches!(rest, Rest::Beat(_)));
            db.threads().rest(until, &mut || db.hand.wait(until, hears_commits));
        }
    }

    /// A checkpoint began: what its reset will ask for is saved while the host waits for the disk.
    fn save_ahead(&self) {
        if let Some(Err(e)) = self.leading.as_ref().map(Leading::save_ahead) {
            self.db.note("capture", &e);
        }
    }

    /// Until when the rest goes on; `None` where it is over. After a commit nothing more of the channel is taken until
    /// the interval has passed: a commit then costs no wake-up.
    fn rests(&mut self, rest: &mut Rest, began: Instant) -> Option<Instant> {
        // A call ends any rest, once: somebody asks for a sync, or a connection closed.
        let called = self.db.hand.take_call();
        if let Rest::Pause(until) = *rest {
            self.woken = called || until <= Instant::now();
            return (!self.woken).then_some(until);
        }
        if called {
            return None;
        }
        if let Rest::Beat(until) = *rest {
            match self.db.hand.take() {
                Some(txn) => {
                    self.woken = true;
                    self.oldest = Some(self.oldest.map_or(txn.time, |oldest| oldest.min(txn.time)));
                    self.db.report.oldest(self.oldest);
                }
                None if Instant::now() < until => return Some(until),
                None => {}
            }
            *rest = Rest::Interval(began + self.interval);
        }
        let Rest::Interval(due) = *rest else { return None };
        let waits = self.oldest.is_some() && !self.db.report.is_awaited() && Instant::now() < due;
        waits.then_some(due)
    }
}

/// What the worker waits for between two turns.
enum Rest {
    /// Nothing before then but a call.
    Pause(Instant),
    /// A commit, or the time of the next look.
    Beat(Instant),
    /// A commit was handed over: more may come until its file is due.
    Interval(Instant),
}
