//! Validation: now and then the Leader restores its replica for real and compares it page for page with the live
//! database. Off unless a person asks for it.
//!
//! On a thread of its own, in a file of the Spool that goes with it. The database is held still for moments only: what
//! was committed and is not stored yet is left out of the comparison, and in between the copy is brought forward. Then
//! the host's SQLite checks the copy (`quick_check`): a database that is damaged has a replica that is equal to it.

use crate::base::Opinion;
use crate::compactor::check_room;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::history::{self, Site};
use crate::image::Snapshot;
use crate::limits;
use crate::link;
use crate::ltx::{Decoder, FileInfo, Txid};
use crate::page::{PageSize, Pgno};
use crate::plan::{Target, onward};
use crate::reader::{self, Start, Walk};
use crate::report::Validated;
use crate::restore::{self, Options};
use crate::spool::{Kept, random, remove};
use crate::store::Store;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where a database's header says whether it is written through a WAL (2) or not.
const WRITE_VERSION_AT: u64 = 18;
/// What the status names as the place of an error.
const WHAT: &str = "validation";

/// When it is due, and the one that is at work.
pub(crate) struct Validation {
    interval: Option<Duration>,
    next: Instant,
    job: Option<JoinHandle<Result<Checked>>>,
    stop: Arc<AtomicBool>,
}

/// What was restored, and found equal where it was compared.
struct Checked {
    txid: Txid,
    pages: u32,
    compared: bool,
    opinion: Opinion,
}

impl Checked {
    fn said(self) -> (Validated, String) {
        let how = if self.compared { "equal to the database" } else { "restored, not compared (rollback journal)" };
        let begin = format!("{}, {} pages, {how}", self.txid, self.pages);
        match self.opinion {
            Opinion::Sound => (Validated::Right, format!("{begin}, quick_check ok")),
            Opinion::Unknown(why) => (Validated::Right, format!("{begin}, not checked by quick_check: {why}")),
            Opinion::Stopped => {
                let tries = limits::CHECK_TRIES.0;
                (Validated::Right, format!("{begin}, not checked by quick_check: interrupted {tries} times"))
            }
            Opinion::Damaged(what) if self.compared => {
                (Validated::Database, format!("{begin}: the database itself is damaged, quick_check finds: {what}"))
            }
            Opinion::Damaged(what) => (Validated::Either, format!("{begin}: quick_check finds in it: {what}")),
        }
    }
}

impl Validation {
    /// The first one is due after one interval.
    pub(crate) fn new(interval: Option<Duration>) -> Validation {
        let next = Instant::now() + interval.unwrap_or_default();
        Validation { interval, next, job: None, stop: Arc::default() }
    }

    /// Takes up what was found, and begins when it is time. Costs nothing where it is not.
    pub(crate) fn turn(&mut self, site: &Site<'_>) {
        let Some(interval) = self.interval else { return };
        if let Some(job) = self.job.take_if(|job| job.is_finished()) {
            self.next = Instant::now() + interval;
            let found = job
                .join()
                .unwrap_or_else(|_| Err(Error::State("its thread panicked (a defect: please report it)".into())));
            take_up(site.db, found);
        }
        if self.job.is_some() || Instant::now() < self.next {
            return;
        }
        let task = Task {
            db: Arc::clone(site.db),
            store: Arc::clone(site.store),
            inode: site.inode,
            database: site.database,
            stop: Arc::clone(&self.stop),
        };
        match std::thread::Builder::new().name("litestream-check".into()).spawn(move || task.run()) {
            Ok(job) => self.job = Some(job),
            Err(e) => {
                self.next = Instant::now() + interval;
                site.db.note(WHAT, &Error::Busy(format!("no thread: {e}")));
            }
        }
    }
}

impl Drop for Validation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn take_up(db: &Db, found: Result<Checked>) {
    match found {
        Ok(checked) => {
            db.report.over(WHAT);
            let (how, text) = checked.said();
            db.report.validated(how, &text);
        }
        Err(e @ (Error::Corrupt(_) | Error::Gap(_) | Error::NoBackup(_))) => {
            db.report.validated(Validated::Replica, &e.to_string());
        }
        // It says nothing about the replica: the next one may.
        Err(e) => db.note(WHAT, &e),
    }
}

/// What the thread needs.
struct Task {
    db: Arc<Db>,
    store: Arc<Store>,
    inode: u64,
    database: u64,
    stop: Arc<AtomicBool>,
}

/// How a moment of comparing ended.
enum Slice {
    Done,
    More,
    /// Nothing can be compared now.
    Later,
}

impl Task {
    fn run(&self) -> Result<Checked> {
        let out = Kept::folder_of(self.db.spool())?.join(format!("validation-{:016x}", random()));
        check_room("a validation", &out, self.database)?;
        let checked = self.check(&out);
        remove(&out)?;
        checked
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Busy("this process leads no more".into())) } else { Ok(()) }
    }

    fn check(&self, out: &Path) -> Result<Checked> {
        let go_on = || self.go_on();
        let doubt = |file: &FileInfo| self.db.doubt(file);
        let parallelism = limits::VALIDATION_THREADS;
        let options = Options { parallelism, doubt: &doubt, go_on: &go_on, ..Options::default() };
        let restored = restore::run(&self.store, Target::Latest, out, options)?;
        let file = File::options().read(true).write(true).open(out).map_err(|e| Error::io("open", out, e))?;
        let (page_size, commit) = (restored.header.page_size, restored.header.commit);
        let mut copy = Copy { file, path: out.to_path_buf(), page_size, commit, txid: restored.txid() };
        let compared = copy.is_wal()?;
        if compared {
            self.compare(&mut copy)?;
        }
        let opinion = self.opinion(out)?;
        Ok(Checked { txid: copy.txid, pages: copy.commit, compared, opinion })
    }

    /// SQLite's, on the copy, which nobody else has. A fork may come between.
    fn opinion(&self, out: &Path) -> Result<Opinion> {
        let began = Instant::now();
        let go_on = || began.elapsed() < limits::VALIDATION_TIME && self.go_on().is_ok();
        let (tries, pause) = limits::CHECK_TRIES;
        for _ in 0..tries {
            match self.db.base().quick_check(out, &go_on) {
                Opinion::Stopped => self.go_on()?,
                opinion => return Ok(opinion),
            }
            if !go_on() {
                return Ok(Opinion::Unknown("it took too long".into()));
            }
            std::thread::sleep(pause);
        }
        Ok(Opinion::Stopped)
    }

    /// Compares every page, a moment at a time.
    fn compare(&self, copy: &mut Copy) -> Result<()> {
        let (mut next, began) = (Pgno(1), Instant::now());
        loop {
            self.go_on()?;
            if began.elapsed() > limits::VALIDATION_TIME {
                let text = "the comparison with the database did not come to its end: it is written to all the time";
                return Err(Error::Timeout(text.into()));
            }
            match self.slice(copy, &mut next)? {
                Slice::Done => return Ok(()),
                Slice::More => {}
                Slice::Later => std::thread::sleep(limits::VALIDATION_SLICE.1),
            }
        }
    }

    /// Compares from `next` on for a moment. Every page that is not waiting to be stored must be the copy's.
    fn slice(&self, copy: &mut Copy, next: &mut Pgno) -> Result<Slice> {
        let db = &*self.db;
        // What is stored, then a state that is not older.
        let Some(state) = db.spool().state()? else { return Ok(Slice::Later) };
        if state.txid > copy.txid {
            copy.follow(&self.store, db)?;
        }
        let Some(cursor) = state.cursor.filter(|_| state.txid == copy.txid) else { return Ok(Slice::Later) };
        let Some(held) = Held::read(db, self.inode)? else { return Ok(Slice::Later) };
        let Some(snapshot) = Snapshot::begin(&*held.base, db.path(), db.wal())? else { return Ok(Slice::Later) };
        let (page_size, commit) = (snapshot.page_size, snapshot.commit);
        let target = reader::Target { cursor: snapshot.cursor, commit, page_size };
        let target = snapshot.end.is_none().then_some(target);
        let start = Start::Stored { cursor, commit: state.commit, page_size: copy.page_size };
        let links = db.spool().links()?;
        let walked = reader::walk(start, &mut reader::segments(db.spool())?, &links, target.as_ref(), db.wal())?;
        let Some(Walk::Reached(pending)) = walked else { return Ok(Slice::Later) };
        let reached = match (&target, &snapshot.end) {
            (Some(target), _) => pending.to.same_point(&target.cursor),
            (None, Some(end)) => link::newest_end(Some(&state), &links)
                .is_some_and(|known| known.cursor.same_point(&pending.to) && known.stat == end.stat),
            (None, None) => false,
        };
        if !reached || pending.more || page_size != copy.page_size {
            return Ok(Slice::Later);
        }
        let waiting: HashSet<Pgno> = pending.pages.iter().map(|(pgno, _)| *pgno).collect();
        if waiting.is_empty() && commit != copy.commit {
            return Err(Error::Corrupt(format!(
                "the database has {commit} pages, its replica at {} has {}",
                copy.txid, copy.commit
            )));
        }
        let (mut live, mut stored) = (vec![0u8; page_size.bytes()], vec![0u8; page_size.bytes()]);
        let began = Instant::now();
        while next.0 <= commit.min(copy.commit) {
            if next.0.is_multiple_of(limits::PAGES_A_LOOK) {
                self.go_on()?;
                if db.turns.is_asked() {
                    return Ok(Slice::Later);
                }
                if began.elapsed() > limits::VALIDATION_SLICE.0 {
                    return Ok(Slice::More);
                }
            }
            if *next != page_size.lock_page() && !waiting.contains(next) {
                snapshot.read(*next, &mut live)?;
                copy.read(*next, &mut stored)?;
                if live != stored {
                    return Err(Error::Corrupt(format!(
                        "page {} of the database is another one than its replica holds at {}",
                        next.0, copy.txid
                    )));
                }
            }
            *next = Pgno(next.0 + 1);
        }
        Ok(Slice::Done)
    }
}

/// The restored database.
struct Copy {
    file: File,
    path: PathBuf,
    page_size: PageSize,
    commit: u32,
    txid: Txid,
}

impl Copy {
    /// The database was in WAL mode then.
    fn is_wal(&self) -> Result<bool> {
        let mut version = [0u8; 1];
        self.file.read_exact_at(&mut version, WRITE_VERSION_AT).map_err(|e| Error::io("read", &self.path, e))?;
        Ok(version[0] == 2)
    }

    fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        let at = self.page_size.offset(pgno);
        self.file.read_exact_at(page, at).map_err(|e| Error::io("read", &self.path, e))
    }

    /// Takes in what was stored since.
    fn follow(&mut self, store: &Store, db: &Db) -> Result<()> {
        for file in onward(&history::list(store)?, self.txid) {
            self.apply(store, &file).map_err(|e| match e {
                Error::Corrupt(_) => {
                    db.doubt(&file);
                    e.about(file.name())
                }
                other => other,
            })?;
        }
        Ok(())
    }

    fn apply(&mut self, store: &Store, file: &FileInfo) -> Result<()> {
        let mut page = Vec::new();
        let mut decoder = Decoder::new(store.stream(file)?)?;
        let header = *decoder.header();
        if header.page_size != self.page_size {
            return Err(Error::Busy("the page size changed meanwhile".into()));
        }
        while let Some(pgno) = decoder.next_page(&mut page)? {
            let at = self.page_size.offset(pgno);
            self.file.write_all_at(&page, at).map_err(|e| Error::io("write", &self.path, e))?;
        }
        let size = u64::from(header.commit) * u64::from(self.page_size.get());
        self.file.set_len(size).map_err(|e| Error::io("extend", &self.path, e))?;
        (self.commit, self.txid) = (header.commit, header.span.max);
        Ok(())
    }
}
