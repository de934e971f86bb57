//! `restore -f`: the restored database stays beside its replica, step by step, until somebody says stop.
//!
//! The steps are the engine's; here are the lock of a SQLite of our own, the pause between two looks, the `-txid` file
//! that says where to go on, and the words.

use crate::args::RestoreFlags;
use crate::check::Check;
use crate::output::{Failure, Notes};
use crate::place::Place;
use crate::progress::Bar;
use crate::replica;
use litestream_engine::error::{Error, Result as Answer};
use litestream_engine::follow::{Change, Fetched, LocalCopy, Step, next, prepare};
use litestream_engine::limits::RESTORE_DETOURS;
use litestream_engine::ltx::{FileInfo, Txid};
use litestream_engine::plan::{Plan, Target};
use litestream_engine::reader::suffixed;
use litestream_engine::restore::{self as engine, Options, Progress};
use litestream_engine::store::Store;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long new readers are kept out while the lock is waited for; then they have a turn.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The pause for them.
const READERS_TURN: Duration = Duration::from_millis(100);
/// Looks in a row that may fail for a reason that should pass.
const TRIES: u32 = 5;
/// Longest pause after a look that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a pause looks whether it shall end.
const BLINK: Duration = Duration::from_millis(50);

/// Follows until a signal comes. What is restored first is checked; later steps are not.
pub fn run(
    store: &Store,
    out: &Path,
    interval: Duration,
    options: Options<'_>,
    (flags, check): (&RestoreFlags, Check),
) -> Result<(), Failure> {
    let notes = Notes { json: flags.json };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&stop));
        registered.map_err(|e| Failure::new(format!("handle signal {signal}: {e}")))?;
    }
    let go_on = || match stop.load(Ordering::Relaxed) {
        true => Err(Error::State("follow mode was stopped".into())),
        false => Ok(()),
    };
    let options = Options { go_on: &go_on, ..options };
    let saved = saved(&suffixed(out, "-txid"))?;
    let begun = match saved {
        Some(txid) if out.exists() => Ok(Some(txid)),
        None if flags.if_db_not_exists && out.exists() => {
            notes.info("database already exists, skipping");
            return Ok(());
        }
        _ => begin(store, out, options, (flags, check), notes),
    };
    let txid = match begun {
        Ok(Some(txid)) => txid,
        Ok(None) => return Ok(()),
        Err(_) if stop.load(Ordering::Relaxed) => return stopped(store, notes),
        Err(failure) => return Err(failure),
    };
    let mut following = Following::open(store, out, txid, options, &stop, notes)?;
    notes.info(&format!(
        "entering follow mode replica={} output={} txid={} interval={interval:?}",
        replica::kind(store),
        out.display(),
        following.txid
    ));
    following.run(interval)?;
    stopped(store, notes)
}

fn stopped(store: &Store, notes: Notes) -> Result<(), Failure> {
    notes.info(&format!("follow mode stopped replica={}", replica::kind(store)));
    Ok(())
}

/// Restores the first time. `None` where there is no replica and that is no failure.
fn begin(
    store: &Store,
    out: &Path,
    options: Options<'_>,
    (flags, check): (&RestoreFlags, Check),
    notes: Notes,
) -> Result<Option<Txid>, Failure> {
    let place = Place::new(out, flags.force)?;
    let plan = match engine::prepare(store, Target::Latest, options) {
        Err(Error::NoBackup(_)) if flags.if_replica_exists => {
            notes.info("no matching backups found");
            return Ok(None);
        }
        other => other.map_err(|e| replica::failed(store, e))?,
    };
    place.prepare()?;
    let bar = Bar::new();
    let progress = |progress: Progress| bar.show(progress);
    let options = Options { progress: &progress, ..options };
    let restored = engine::carry_out(store, Target::Latest, plan, place.temporary(), options);
    bar.clear();
    let txid = restored?.txid();
    // First where it will be, then the database: a `-txid` without its database begins anew.
    let placed = check.run(place.temporary()).and_then(|()| {
        prepare(place.temporary(), txid).and_then(|()| save(&suffixed(out, "-txid"), txid))?;
        place.put(notes)
    });
    placed.inspect_err(|_| place.abandon())?;
    if check != Check::None {
        notes.info("post-restore integrity check passed");
    }
    Ok(Some(txid))
}

/// A copy that is being followed.
struct Following<'a> {
    store: &'a Store,
    path: &'a Path,
    options: Options<'a>,
    stop: &'a AtomicBool,
    notes: Notes,
    txid: Txid,
    /// Files that turned out damaged and are gone around, each with what is wrong.
    without: Vec<(FileInfo, Error)>,
    /// One is in the way: nothing else leads on, until something new comes.
    stuck: bool,
    sqlite: Connection,
    /// After the connection: its descriptor must not be closed while that holds a lock.
    copy: LocalCopy,
}

impl<'a> Following<'a> {
    fn open(
        store: &'a Store,
        path: &'a Path,
        txid: Txid,
        options: Options<'a>,
        stop: &'a AtomicBool,
        notes: Notes,
    ) -> Result<Following<'a>, Failure> {
        if suffixed(path, "-wal").exists() {
            return Err(Failure::new(format!(
                "{} has a -wal: somebody wrote to this copy; remove it and its -txid file to begin anew",
                path.display()
            )));
        }
        let failed = |e: rusqlite::Error| Failure::new(format!("open {}: {e}", path.display()));
        match fs::remove_file(suffixed(path, "-follow")) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Failure::new(format!("remove {}-follow, left by an earlier run: {e}", path.display())));
            }
            _ => {}
        }
        let copy = LocalCopy::open(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sqlite = Connection::open_with_flags(path, flags).map_err(failed)?;
        sqlite.busy_timeout(LOCK_PATIENCE).map_err(failed)?;
        let (without, stuck) = (Vec::new(), false);
        let mut following = Following { store, path, options, stop, notes, txid, without, stuck, sqlite, copy };
        // A step that was cut short is put back by the first lock that SQLite takes.
        following.exclusive(&mut || Ok(()))?;
        following.txid = following.copy.txid(txid)?;
        Ok(following)
    }

    fn run(&mut self, interval: Duration) -> Result<(), Failure> {
        let mut failures = 0u32;
        while !self.stop.load(Ordering::Relaxed) {
            match self.step() {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => {
                    failures = 0;
                    self.pause(interval);
                }
                Err(_) if self.stop.load(Ordering::Relaxed) => break,
                Err(e) => {
                    failures += 1;
                    // What was listed may be gone a moment later, compacted or past its retention.
                    let passing =
                        matches!(e, Error::NoBackup(_) | Error::Gap(_) | Error::Corrupt(_)) && failures < TRIES;
                    if !(self.stuck || passing || e.is_transient()) {
                        return Err(e.into());
                    }
                    if failures == 1 {
                        self.notes.warn(&format!("follow: {e}"));
                    }
                    self.pause(interval.saturating_mul(failures).min(LONGEST_PAUSE).max(READERS_TURN));
                }
            }
        }
        Ok(())
    }

    /// One look, and what it found; true where the copy moved.
    fn step(&mut self) -> Answer<bool> {
        let scratch = suffixed(self.path, "-follow");
        if self.copy.txid(self.txid)? != self.txid {
            let path = self.path.display();
            return Err(Error::State(format!("another follower moved {path}; only one may follow a copy")));
        }
        let was_stuck = std::mem::take(&mut self.stuck);
        let Some((change, how)) = self.look(&scratch)? else { return Ok(false) };
        self.copy.apply(&change, |write| self.exclusive(write))?;
        self.txid = change.txid;
        save(&suffixed(self.path, "-txid"), self.txid)?;
        for (_, said) in self.without.extract_if(.., |(file, _)| file.span.max <= change.txid) {
            self.notes.warn(&format!("follow: {said}; transaction {} was reached {how}", change.txid));
        }
        if was_stuck {
            self.notes.info(&format!("follow mode goes on output={} txid={}", self.path.display(), self.txid));
        }
        Ok(true)
    }

    /// What comes next, around files that are damaged, and by what.
    fn look(&mut self, scratch: &Path) -> Answer<Option<(Change, String)>> {
        let page_size = self.copy.page_size()?;
        loop {
            let files = match next(self.store, self.txid, &self.without, self.options)? {
                Step::Nothing => return Ok(None),
                Step::Anew(plan) => return self.anew(Some(plan), scratch).map(Some),
                Step::Stuck(said) => {
                    self.stuck = true;
                    // It may be put right, or have been read wrongly: the next look reads it again.
                    self.without.clear();
                    return Err(Error::Corrupt(format!(
                        "{said}; no other file leads past it: {} stays as it is, at transaction {}, until one does",
                        self.path.display(),
                        self.txid
                    )));
                }
                Step::Files(files) => files,
            };
            match Change::of_files(self.store, &files, page_size, scratch)? {
                Fetched::Whole(change) => {
                    let how = match &files[..] {
                        [one] => format!("by {}", one.name()),
                        [first, .., last] => format!("by {} files, {} to {}", files.len(), first.name(), last.name()),
                        [] => "without it".into(),
                    };
                    return Ok(Some((change, how)));
                }
                Fetched::Resized => return self.anew(None, scratch).map(Some),
                Fetched::Damaged(_, said) if self.without.len() == RESTORE_DETOURS => return Err(said),
                Fetched::Damaged(file, said) => self.without.push((file, said)),
            }
        }
    }

    /// The whole database, as the pages in which it differs.
    fn anew(&self, plan: Option<Plan>, scratch: &Path) -> Answer<(Change, String)> {
        let plan = match plan {
            Some(plan) => plan,
            None => engine::prepare(self.store, Target::Latest, self.options)?,
        };
        let restored = engine::carry_out(self.store, Target::Latest, plan, scratch, self.options)?;
        let change = Change::of_database(scratch, restored.txid(), restored.header.page_size, &self.copy)?;
        Ok((change, "by a restore of the whole database".into()))
    }

    /// Runs `what` while nobody reads.
    fn exclusive(&self, what: &mut dyn FnMut() -> Answer<()>) -> Answer<()> {
        let failed = |e: rusqlite::Error| Error::State(format!("lock {}: {e}", self.path.display()));
        let began = Instant::now();
        let mut told = false;
        loop {
            match self.sqlite.execute_batch("BEGIN EXCLUSIVE") {
                Ok(()) => break,
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    (self.options.go_on)()?;
                    if !told && began.elapsed() > LONGEST_PAUSE {
                        told = true;
                        self.notes.warn(&format!(
                            "follow: a reader has held {} for {} s, and nothing can be applied meanwhile",
                            self.path.display(),
                            began.elapsed().as_secs()
                        ));
                    }
                    std::thread::sleep(READERS_TURN);
                }
                Err(e) => return Err(failed(e)),
            }
        }
        let done = what();
        let ended = self.sqlite.execute_batch("ROLLBACK").map_err(failed);
        done.and(ended)
    }

    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(BLINK));
        }
    }
}

/// Where an earlier run stopped.
fn saved(path: &Path) -> Result<Option<Txid>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => {
            Ok(Some(Txid::parse(text.trim()).map_err(|_| {
                Failure::new(format!("{} holds no transaction; remove it to begin anew", path.display()))
            })?))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::new(format!("read {}: {e}", path.display()))),
    }
}

/// Replaces the file that says where to go on.
fn save(path: &Path, txid: Txid) -> Answer<()> {
    let new = suffixed(path, ".tmp");
    fs::write(&new, format!("{txid}\n"))
        .and_then(|()| fs::File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| Error::io("write", path, e))
}
