//! Restore: a database rebuilt from its replica into a file of the caller's choice.
//!
//! Lists, plans, fetches in parallel, decodes and proves every planned file, and writes the newest copy of each
//! page. What comes back is complete, verified and durable, or an error and no file. Names, renames, locks and
//! what stood there before are the caller's.

mod claims;
mod detour;
mod either;
mod moments;
pub mod older;
mod piece;
mod source;
mod team;

pub use either::{Either, Rebuilt, choose, newest};

use self::detour::{Damage, Detours, decide};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits::{MAX_RESTORE_THREADS, RESTORE_PLANS, RESTORE_THREADS};
use crate::ltx::{Header, Txid};
use crate::plan::{self, Gap, Plan, Target};
use crate::store::{FileInfo, Store};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes that a file of a listing counts as progress.
const LISTED_FILE: u64 = 200;

/// How a restore goes about its work.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Threads, the caller's own among them; each needs about 3 MiB.
    pub parallelism: usize,
    /// A time outside of what the replica covers is an error instead of its nearest state.
    pub bounded: bool,
    /// A damaged file is left out where others lead to the same transaction, and the log says so; else it is an error.
    pub around_damage: bool,
    /// Told of each damaged file that is met, whether it is gone around or not.
    pub doubt: &'a (dyn Fn(&FileInfo) + Sync),
    /// Told after every write, by whichever thread wrote.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Asked between requests: an error ends the restore with it (a deadline, a person who gave up).
    pub go_on: &'a (dyn Fn() -> Result<()> + Sync),
}

impl Default for Options<'_> {
    fn default() -> Self {
        let (progress, go_on) = (&|_| {}, &|| Ok(()));
        let parallelism = RESTORE_THREADS;
        Options { parallelism, bounded: false, around_damage: false, doubt: &|_| {}, progress, go_on }
    }
}

impl Options<'_> {
    fn threads(&self) -> usize {
        self.parallelism.clamp(1, MAX_RESTORE_THREADS)
    }
}

/// How far a restore is. `written` begins anew where the restore does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the database that have been written.
    pub written: u64,
    /// Bytes that the database will have.
    pub total: u64,
    /// Bytes fetched from the store; before the first file it grows with the answers of the listing.
    pub fetched: u64,
}

/// What a restore made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Header of the newest file: Txid, size in pages, page size, time and place in the WAL.
    pub header: Header,
    /// Files that were applied.
    pub files: usize,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// Only for a time: older than asked for, because files between are missing.
    pub gap: Option<Gap>,
}

impl Restored {
    /// The transaction that the database is at.
    pub fn txid(&self) -> Txid {
        self.header.span.max
    }

    /// When that transaction was captured.
    pub fn timestamp(&self) -> Time {
        self.header.timestamp
    }
}

/// Restores into `out`, a path where nothing stands. Where it fails it leaves nothing there.
///
/// Every page but the lock page (zeros) is written and the file is durable; its folder is not. While it works, the
/// file has its full length early, and its blocks and its mtime change with each write.
pub fn run(store: &Store, target: Target, out: &Path, options: Options<'_>) -> Result<Restored> {
    let plan = prepare(store, target, options)?;
    carry_out(store, target, plan, out, options)
}

/// [`run`] by a plan that was just made; where one of its files is gone, or damaged, a new plan is.
pub fn carry_out(store: &Store, target: Target, plan: Plan, out: &Path, options: Options<'_>) -> Result<Restored> {
    let mut detours = Detours::new(store, target, &plan, options);
    let next = |before: &Plan, damage| detours.next(before, damage);
    by_plans(plan, out, |plan, file| fill(store, plan, file, out, options), next)
}

/// Fills `out`, a path where nothing stands, by a plan, and by the next one where an object of it is gone or damaged.
fn by_plans<P, R>(
    mut plan: P,
    out: &Path,
    fill: impl Fn(&P, &File) -> std::result::Result<R, Failure>,
    mut next: impl FnMut(&P, Option<Damage>) -> Result<P>,
) -> Result<R> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(out);
    let file = file.map_err(|e| Error::io("create", out, e))?;
    let mut left = RESTORE_PLANS;
    let result = loop {
        let damage = match fill(&plan, &file) {
            Err(Failure::Vanished(_)) if left > 1 => {
                left -= 1;
                None
            }
            Err(Failure::Damaged(damage)) => Some(damage),
            Err(Failure::Vanished(text)) => {
                break Err(Error::Gap(format!("listed but not there, {RESTORE_PLANS} times: {text}")));
            }
            Err(Failure::Other(e)) => break Err(e),
            Ok(restored) => break Ok(restored),
        };
        match next(&plan, damage) {
            Ok(next) => plan = next,
            Err(e) => break Err(e),
        }
    };
    if result.is_err() {
        // The error that made the restore fail says more than one about a temporary file.
        let _ = std::fs::remove_file(out);
    }
    result
}

/// Lists and plans.
pub fn prepare(store: &Store, target: Target, options: Options<'_>) -> Result<Plan> {
    decide(store, &list_for(store, target, options)?, target, options)
}

/// Every file of a replica, for a time with times that are right around it.
fn list_for(store: &Store, target: Target, options: Options<'_>) -> Result<Vec<FileInfo>> {
    let listed = list(store, options)?;
    let Target::Time(time) = target else { return Ok(listed) };
    let files = moments::dated(store, &listed, time, options)?;
    if options.bounded {
        let Some((oldest, newest)) = plan::bounds(&files) else {
            return Err(Error::Usage("no backups found".into()));
        };
        // The store's own clock counts too: it is what a person reads in listings.
        let newest = plan::bounds(&listed).map_or(newest, |(_, last)| last.max(newest));
        if time < oldest || time > newest {
            let (oldest, newest) = (oldest.rfc3339(), newest.rfc3339());
            return Err(Error::Usage(format!("timestamp does not exist: the replica covers {oldest} to {newest}")));
        }
    }
    Ok(files)
}

/// Every file of a replica, with the times of the listing.
pub fn list(store: &Store, options: Options<'_>) -> Result<Vec<FileInfo>> {
    let levels = store.levels()?;
    let heard = AtomicU64::new(0);
    hear(&heard, 0, options);
    let listed =
        in_parallel(&levels, options, |&level| store.list(level).inspect(|files| hear(&heard, files.len(), options)))?;
    Ok(listed.into_iter().flatten().collect())
}

/// The same files with their exact creation times, which may cost a request each. Those deleted meanwhile are left out.
pub fn exact(store: &Store, files: &[FileInfo], options: Options<'_>) -> Result<Vec<FileInfo>> {
    let heard = AtomicU64::new(0);
    let created = in_parallel(files, options, |file| {
        let created = store.created(file);
        hear(&heard, 1, options);
        match created {
            Err(Error::NoBackup(_)) => Ok(None),
            other => other.map(|listed| Some(FileInfo { listed, ..file.clone() })),
        }
    })?;
    Ok(created.into_iter().flatten().collect())
}

/// An answer came: that is progress.
fn hear(heard: &AtomicU64, files: usize, options: Options<'_>) {
    let step = LISTED_FILE * (1 + files as u64);
    let fetched = heard.fetch_add(step, Ordering::Relaxed) + step;
    (options.progress)(Progress { fetched, ..Progress::default() });
}

/// Why a plan was not carried out.
enum Failure {
    /// A planned file is gone: another plan may do.
    Vanished(String),
    /// One is damaged: perhaps another plan does without it.
    Damaged(Damage),
    Other(Error),
}

impl Failure {
    /// An error that reading `file` ended in.
    fn of(error: Error, file: Option<&FileInfo>) -> Failure {
        match (error, file) {
            (error @ Error::Corrupt(_), Some(file)) => Failure::Damaged(Damage { file: file.clone(), error }),
            (other, _) => other.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        match e {
            Error::NoBackup(text) => Failure::Vanished(text),
            other => Failure::Other(other),
        }
    }
}

fn fill(
    store: &Store,
    plan: &Plan,
    file: &File,
    path: &Path,
    options: Options<'_>,
) -> std::result::Result<Restored, Failure> {
    let newest_first: Vec<FileInfo> = plan.files.iter().rev().cloned().collect();
    let newest = &newest_first[0];
    let header = source::header(store, newest).map_err(|e| Failure::of(e, Some(newest)))?;
    let size = u64::from(header.commit) * u64::from(header.page_size.get());
    let sized = file.set_len(0).and_then(|()| file.set_len(size));
    sized.map_err(|e| Error::io("extend", path, e))?;
    let bytes = team::run(store, &newest_first, header, file, path, options)?;
    file.sync_all().map_err(|e| Error::io("sync", path, e))?;
    Ok(Restored { header, files: plan.files.len(), bytes, gap: plan.gap })
}

/// Runs `job` over all items on the caller's thread and others, and gives the results in order.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    options: Options<'_>,
    job: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let work = || loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(i) else { return Ok(()) };
        let result =
            (options.go_on)().and_then(|()| job(item)).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
        lock(&done).push((i, result));
    };
    with_threads(options.threads().min(items.len()), &work)?;
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// Runs `work` on this thread and on `threads - 1` others and waits for all of them. The first error counts.
fn with_threads(threads: usize, work: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
    std::thread::scope(|scope| {
        // Where the system gives no more threads, fewer do the same work.
        let spawn = |n| std::thread::Builder::new().name(format!("restore-{n}")).spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(spawn).collect();
        let mut result = work();
        for other in others {
            let theirs = other.join().unwrap_or_else(|_| {
                Err(Error::State("a thread of the restore panicked (a defect: please report it)".into()))
            });
            result = result.and(theirs);
        }
        result
    })
}

/// A lock whose holder cannot leave half-made state behind, also if it panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
