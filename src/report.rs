//! What the worker tells the rest of the process: the state in one word, the stored Txid, the last error; and
//! who waits for a sync. One line is logged where the state changes, none otherwise.

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::ltx::Txid;
use crate::wal::Cursor;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// What `litestream_status` shows: one row.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Full path of the database.
    pub database: String,
    /// Replica URL without secrets.
    pub replica: String,
    /// The newest Txid made here, stored or about to be (`None` before the first image).
    pub txid_captured: Option<Txid>,
    /// The newest Txid that the store holds and `state` knows.
    pub txid_stored: Option<Txid>,
    /// Seconds since the oldest commit that is not stored; 0 when all is stored, `None` when unknown.
    pub lag: Option<f64>,
    /// Bytes of frames committed and not stored, as far as known.
    pub bytes_pending: u64,
    /// Bytes in the Spool.
    pub spool_bytes: u64,
    /// One word, [`Phase::word`]; behind a colon what an operator may do.
    pub state: String,
    /// The last error, if any.
    pub last_error: Option<String>,
    /// Since when `state` is what it is: RFC 3339.
    pub since: String,
    /// How the last validation of the replica ended, and when; `None` where there was none.
    pub validation: Option<String>,
}

/// What the worker is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nothing ran yet.
    Starting,
    /// This process replicates.
    Replicating,
    /// A first or new image is made.
    Imaging,
    /// Another process of this machine replicates.
    Following,
    /// The database is busy or in a mode that an image has to wait for.
    Waiting(String),
    /// The store does not answer as it should; tried again by itself.
    Retrying,
    /// The store holds what this database never stored; uploads stopped.
    Diverged(String),
    /// Replication ended by a fault of our own.
    Failed(String),
}

impl Phase {
    /// The status column.
    pub fn word(&self) -> String {
        match self {
            Phase::Starting => "starting".into(),
            Phase::Replicating => "replicating".into(),
            Phase::Imaging => "imaging".into(),
            Phase::Following => "follower".into(),
            Phase::Waiting(why) => format!("waiting: {why}"),
            Phase::Retrying => "retrying".into(),
            Phase::Diverged(what) => format!("diverged: {what}"),
            Phase::Failed(what) => format!("failed: {what}"),
        }
    }
}

/// The board that the worker writes and everybody reads.
pub struct Report {
    database: String,
    replica: String,
    board: Mutex<Board>,
    /// A fault of our own on an application's thread; set once.
    broken: OnceLock<String>,
    changed: Condvar,
}

/// How a validation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validated {
    /// Nothing is wrong.
    Right,
    /// The replica is not what it should be.
    Replica,
    /// The database is damaged, and its replica holds it as it is.
    Database,
    /// One of these two.
    Either,
}

impl Validated {
    /// What to do.
    fn advice(self) -> &'static str {
        match self {
            Validated::Right => "nothing is to be done",
            Validated::Replica => {
                "this database is whole; look at the replica with `litestream-vfs verify`, and give the database a new \
                 replica where it is damaged"
            }
            Validated::Database => {
                "the replica has it as it is: restore a time before the damage (`litestream-vfs restore -timestamp`) \
                 while that is kept, or repair the database"
            }
            Validated::Either => {
                "`PRAGMA quick_check` on the database says which of the two is damaged: repair it, or give it a new \
                 replica"
            }
        }
    }
}

struct Board {
    phase: Phase,
    since: Time,
    captured: Option<Txid>,
    stored: Option<Txid>,
    reached: Option<Cursor>,
    oldest: Option<Time>,
    error: Option<String>,
    trouble: Option<String>,
    asked: u64,
    done: u64,
    failed: Option<(u64, Error)>,
    unfenced: bool,
    journal: bool,
    /// Files of the replica that are damaged.
    damaged: Option<String>,
    /// How it ended, and what is to be said.
    validation: Option<(Validated, String)>,
}

impl Report {
    pub(crate) fn new(database: String, replica: String) -> Report {
        let board = Board {
            phase: Phase::Starting,
            since: Time::now(),
            captured: None,
            stored: None,
            reached: None,
            oldest: None,
            error: None,
            trouble: None,
            asked: 0,
            done: 0,
            failed: None,
            unfenced: false,
            journal: false,
            damaged: None,
            validation: None,
        };
        Report { database, replica, board: Mutex::new(board), broken: OnceLock::new(), changed: Condvar::new() }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The row, as of `now`.
    pub(crate) fn status(&self, now: Time) -> Status {
        let board = self.board();
        let mut state = match self.broken.get() {
            Some(what) => Phase::Failed(what.clone()).word(),
            None => board.phase.word(),
        };
        if board.unfenced {
            state.push_str("; not fenced: the store ignores conditional puts");
        }
        match board.validation {
            None | Some((Validated::Right, _)) => {}
            Some((Validated::Database, _)) => state.push_str("; the last validation found the database damaged"),
            Some(_) => state.push_str("; the last validation of the replica failed"),
        }
        if let Some(damaged) = &board.damaged {
            state.push_str("; ");
            state.push_str(damaged);
        }
        if board.journal {
            state.push_str("; journal_mode=WAL is recommended");
        }
        Status {
            database: self.database.clone(),
            replica: self.replica.clone(),
            txid_captured: board.captured.max(board.stored),
            txid_stored: board.stored,
            lag: match (board.oldest, board.stored) {
                (Some(oldest), _) => Some(now.seconds_since(oldest)),
                (None, Some(_)) => Some(0.0),
                (None, None) => None,
            },
            bytes_pending: 0,
            spool_bytes: 0,
            state,
            last_error: board.error.clone().or_else(|| board.trouble.clone()),
            since: board.since.rfc3339(),
            validation: board.validation.as_ref().map(|(_, said)| said.clone()),
        }
    }

    /// Another process of this machine replicates.
    pub(crate) fn is_following(&self) -> bool {
        self.board().phase == Phase::Following
    }

    /// Another writer's files stand in the way.
    pub(crate) fn is_diverged(&self) -> bool {
        matches!(self.board().phase, Phase::Diverged(_))
    }

    /// How far the store reaches.
    pub(crate) fn reached(&self) -> Option<Cursor> {
        self.board().reached
    }

    /// The worker's state changed, or stayed.
    pub(crate) fn phase(&self, phase: Phase) {
        let mut board = self.board();
        if board.phase == phase {
            return;
        }
        let error = board.error.clone().unwrap_or_default();
        let line = format!("{}: {}", self.database, phase.word());
        match &phase {
            Phase::Retrying => log::warn!(target: "litestream", "{line}: {error}; commits go on"),
            Phase::Diverged(_) | Phase::Failed(_) => log::error!(target: "litestream", "{line}"),
            Phase::Replicating if board.phase == Phase::Retrying => {
                log::info!(target: "litestream", "{line} again to {}", self.replica);
            }
            _ => log::debug!(target: "litestream", "{line}"),
        }
        board.phase = phase;
        board.since = Time::now();
        self.changed.notify_all();
    }

    /// A connection is forwarded only from now on.
    pub(crate) fn broken(&self, what: &str) {
        let _ = self.broken.set(what.to_string()); // the first one is the one to tell
    }

    /// A call to the store or to the disk failed; `None` when it went well.
    pub(crate) fn error(&self, error: Option<&Error>) {
        self.board().error = error.map(ToString::to_string);
    }

    /// Something went wrong on an application's thread: said once until it is another.
    pub(crate) fn trouble(&self, what: &str, e: &Error) {
        let text = format!("{what}: {e}");
        let mut board = self.board();
        if board.trouble.as_ref() != Some(&text) {
            log::warn!(target: "litestream", "{}: {text}", self.database);
            board.trouble = Some(text);
        }
    }

    /// What went wrong there is over.
    pub(crate) fn over(&self, what: &str) {
        let mut board = self.board();
        if board.trouble.take_if(|text| text.starts_with(what)).is_some() {
            log::info!(target: "litestream", "{}: {what} work again", self.database);
        }
    }

    /// The replica was restored and compared: what came of it.
    pub(crate) fn validated(&self, how: Validated, text: &str) {
        let mut board = self.board();
        let before = board.validation.as_ref().map_or(Validated::Right, |(how, _)| *how);
        let line = format!("{}: validation of the replica {}", self.database, self.replica);
        match how {
            _ if how == before => log::debug!(target: "litestream", "{line}: {text}"),
            Validated::Right => log::info!(target: "litestream", "{line} is right again: {text}"),
            _ => log::error!(target: "litestream", "{line} failed: {text}; {}", how.advice()),
        }
        let word = if how == Validated::Right { "ok" } else { "failed" };
        board.validation = Some((how, format!("{word} at {}: {text}", Time::now().rfc3339())));
    }

    /// A file was made.
    pub(crate) fn captured(&self, txid: Txid) {
        self.board().captured = Some(txid);
    }

    /// The store has it.
    pub(crate) fn stored(&self, txid: Txid, reached: Option<Cursor>, fenced: bool) {
        let mut board = self.board();
        board.stored = (txid > Txid(0)).then_some(txid);
        board.reached = reached;
        board.unfenced = !fenced;
        self.changed.notify_all();
    }

    /// The database is in a rollback-journal mode.
    pub(crate) fn journal(&self, journal: bool) {
        self.board().journal = journal;
    }

    /// What the replica holds and should not.
    pub(crate) fn damaged(&self, damaged: Option<String>) {
        self.board().damaged = damaged;
    }

    /// Since when something waits to be stored.
    pub(crate) fn oldest(&self, oldest: Option<Time>) {
        self.board().oldest = oldest;
    }

    /// Somebody wants everything stored: the ticket to wait for.
    pub(crate) fn ask(&self) -> u64 {
        let mut board = self.board();
        board.asked += 1;
        board.asked
    }

    /// The newest ticket: what was committed before it was drawn is seen by a look after this call.
    pub(crate) fn asked(&self) -> u64 {
        self.board().asked
    }

    /// True where somebody waits for a ticket that is not done.
    pub(crate) fn is_awaited(&self) -> bool {
        let board = self.board();
        board.asked > board.done
    }

    /// Everything committed before `ticket` is stored.
    pub(crate) fn done(&self, ticket: u64) {
        let mut board = self.board();
        board.done = board.done.max(ticket);
        self.changed.notify_all();
    }

    /// Waiting for `ticket` is in vain.
    pub(crate) fn fail(&self, ticket: u64, e: &Error) {
        let mut board = self.board();
        board.failed = Some((ticket, e.clone()));
        self.changed.notify_all();
    }

    /// Waits until `ticket` is done.
    pub(crate) fn wait(&self, ticket: u64, timeout: Duration) -> Result<Txid> {
        let deadline = Instant::now() + timeout;
        let mut board = self.board();
        loop {
            if board.done >= ticket {
                return Ok(board.stored.unwrap_or_default());
            }
            if let Some((failed, e)) = &board.failed
                && *failed >= ticket
            {
                return Err(e.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = board.error.clone().unwrap_or_else(|| board.phase.word());
                return Err(Error::Timeout(format!(
                    "not everything is stored after {:.1} s ({why}); commits are kept locally and go on being sent",
                    timeout.as_secs_f64()
                )));
            }
            board = match self.changed.wait_timeout(board, left) {
                Ok((board, _)) => board,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
