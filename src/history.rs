//! The upkeep of one replica by its Leader: does what is due, one thing at a time, on a thread that exists only
//! while it works. Uploads of new commits never wait for it.
//!
//! What the replica holds was listed once, when the Leader took over; from then on every file that is stored or
//! deleted is noted, so that nothing is asked of the store while nothing is due.

mod task;

pub(crate) use self::task::list;

use self::task::{Done, Permit, Task};
use crate::backoff::Backoff;
use crate::clock::{Onward, Time};
use crate::compactor::Merged;
use crate::db::Db;
use crate::due::{Due, Merge, Remedy, Schedule, Work, due, is_ailing, remedy};
use crate::error::{Error, Result};
use crate::limits::{GRACE, UPKEEP_BACKOFF};
use crate::ltx::{FileInfo, Level, Span};
use crate::manifest::{Manifest, Proof};
use crate::plan::too_short;
use crate::retention;
use crate::spool::{Kept, remove};
use crate::store::Store;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

/// What the status names as the place of an error.
const WHAT: &str = "compaction and retention";

/// The upkeep.
pub(crate) struct History {
    clock: Onward,
    schedule: Schedule,
    manifest: Manifest,
    kept: Kept,
    job: Option<Job>,
    /// Nothing is due before this; `None` until something is stored.
    next: Option<Time>,
    backoff: Backoff,
    /// Levels that cannot be made for now, and until when.
    barred: Vec<(Level, Time)>,
    /// Files that were doubted and are sound, and until when no merge's doubt counts again.
    acquitted: Vec<((Level, Span), Time)>,
    /// What the database has to do for a replica with damaged files.
    remedy: Remedy,
    /// The newest state is restored from a damaged file, unless one goes around it.
    ailing: bool,
}

/// Whose upkeep.
pub(crate) struct Site<'a> {
    pub(crate) db: &'a Arc<Db>,
    pub(crate) store: &'a Arc<Store>,
    /// The database that this Leader leads.
    pub(crate) inode: u64,
    /// Bytes of the database, 0 where unknown.
    pub(crate) database: u64,
}

/// Something is being done.
struct Job {
    work: Work,
    permit: Arc<Permit>,
    /// What its thread will say; gone without a word where that panicked.
    done: Receiver<Result<Done>>,
}

impl History {
    /// Begins with what a listing showed.
    pub(crate) fn begin(db: &Db, schedule: &Schedule, listing: Vec<FileInfo>) -> Result<History> {
        let history = History {
            clock: Onward::new(),
            schedule: schedule.clone(),
            manifest: Manifest::learnt(listing),
            kept: Kept::begin(db.spool())?,
            job: None,
            next: Some(Time(i64::MIN)),
            backoff: Backoff::new(UPKEEP_BACKOFF),
            barred: Vec::new(),
            acquitted: Vec::new(),
            remedy: Remedy::Nothing,
            ailing: false,
        };
        for short in history.manifest.damaged() {
            let why = too_short(&short.info).unwrap_or_else(|| Error::Corrupt("damaged".into()));
            history.name(db, &short.info, &why);
        }
        Ok(history)
    }

    /// The replica's time. `dated` is the newest header's.
    pub(crate) fn now(&self, dated: Time) -> Time {
        self.clock.now(dated)
    }

    /// What the replica holds.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What a replica with damaged files needs from its database.
    pub(crate) fn remedy(&self) -> Remedy {
        self.remedy
    }

    /// A file was stored; its local copy is kept for the next compaction.
    pub(crate) fn stored(&mut self, db: &Db, info: FileInfo, path: &Path, now: Time) -> Result<()> {
        let (level, span, size) = (info.level, info.span, info.size);
        self.manifest.add(info, now);
        self.remedy = Remedy::Nothing;
        if !self.backoff.is_failing() {
            self.next = Some(Time(i64::MIN));
        }
        if level == Level::RAW {
            match self.kept.take(level, span, size, path) {
                Ok(()) => return Ok(()),
                Err(e) => db.note(WHAT, &e),
            }
        }
        remove(path)
    }

    /// True where nothing is under way: it may serve another Leader of this process.
    pub(crate) fn is_idle(&self) -> bool {
        self.job.is_none()
    }

    /// True while something is being done, or is due and not merely waiting for a better time.
    pub(crate) fn is_busy(&self, now: Time) -> bool {
        self.job.is_some() || (!self.backoff.is_failing() && self.next.is_some_and(|next| next <= now))
    }

    /// Takes up what was done and begins what is due. Costs nothing where it is not time.
    pub(crate) fn turn(&mut self, site: &Site<'_>, now: Time) {
        let said = self.job.as_ref().map_or(Err(TryRecvError::Empty), |job| job.done.try_recv());
        let result = match said {
            Ok(result) => Some(result),
            Err(TryRecvError::Disconnected) => Some(Err(Error::State("its thread panicked".into()))),
            Err(TryRecvError::Empty) => None,
        };
        if let Some((job, result)) = result.and_then(|result| Some((self.job.take()?, result))) {
            self.take_up(site, &job.work, result, now);
        }
        for file in site.db.doubts() {
            self.doubt(site.db, file, now);
        }
        if self.job.is_some() || self.next.is_none_or(|next| now < next) {
            return;
        }
        self.look_after(site.db);
        self.barred.retain(|(_, until)| now < *until);
        let barred: Vec<Level> = self.barred.iter().map(|(level, _)| *level).collect();
        self.next = match due(&self.manifest, &self.schedule, site.database, &barred, now) {
            Due::Now(work) => match self.start(site, work.clone()) {
                Ok(()) => Some(now),
                Err(e) => {
                    self.take_up(site, &work, Err(e), now);
                    return;
                }
            },
            Due::At(time) => Some(self.barred.iter().map(|(_, until)| *until).fold(time, Time::min)),
            Due::Never => self.barred.iter().map(|(_, until)| *until).min(),
        };
    }

    fn start(&mut self, site: &Site<'_>, work: Work) -> Result<()> {
        let permit = Arc::new(Permit::default());
        let task = Task {
            db: Arc::clone(site.db),
            store: Arc::clone(site.store),
            inode: site.inode,
            permit: Arc::clone(&permit),
        };
        let todo: Box<dyn FnOnce() -> Result<Done> + Send> = match work.clone() {
            Work::Merge(merge) => {
                let path = |info: &FileInfo| Some((info.span, self.kept.path(info.level, info.span)?));
                let local: HashMap<Span, PathBuf> = merge.inputs.iter().filter_map(path).collect();
                let out = self.kept.folder()?.join(format!("new-{:016x}", crate::spool::random()));
                Box::new(move || task.merge(&merge, &local, &out))
            }
            Work::Delete(files) => {
                retention::check(&self.manifest, &files)?;
                Box::new(move || task.delete(&files))
            }
            Work::Prove(file) => Box::new(move || task.prove(&file)),
        };
        let db = Arc::clone(site.db);
        let (say, done) = sync_channel(1);
        let body = Box::new(move || {
            let _ = say.send(todo()); // a Leader that has left wants no answer
            db.call();
        });
        site.db.threads().run("litestream-upkeep", body).map_err(|e| Error::Busy(format!("no thread: {e}")))?;
        self.job = Some(Job { work, permit, done });
        Ok(())
    }

    fn take_up(&mut self, site: &Site<'_>, work: &Work, result: Result<Done>, now: Time) {
        let noted = result.and_then(|done| {
            match (work, done) {
                (_, Done::Learnt(listing)) => {
                    let before = std::mem::replace(&mut self.manifest, Manifest::learnt(listing));
                    self.manifest.inherit(&before);
                    // What was stored while the listing was under way.
                    let newest = self.manifest.newest().map(|info| info.span.max).unwrap_or_default();
                    for held in before.files().filter(|held| held.span().min > newest) {
                        self.manifest.add(held.info.clone(), held.known);
                    }
                }
                (Work::Merge(merge), Done::Merged(merged, read)) => {
                    read.into_iter().for_each(|file| self.manifest.judge(file, Proof::Sound));
                    self.merged(merge, &merged, now)?;
                }
                (_, Done::Doubted(file, e)) => {
                    if self.acquitted.iter().any(|(other, until)| *other == file && now < *until) {
                        return Err(e);
                    }
                    self.doubt(site.db, file, now);
                }
                (Work::Prove(file), Done::Proved(why)) => self.proved(site.db, file, why, now),
                (Work::Delete(files), _) => self.manifest.remove(files),
                (Work::Merge(_) | Work::Prove(_), _) => {}
            }
            Ok(())
        });
        match noted {
            Ok(()) => {
                if self.backoff.is_failing() {
                    site.db.report.over(WHAT);
                }
                self.backoff.over();
                self.next = Some(now);
            }
            Err(e) => self.failed(site, work, &e, now),
        }
    }

    fn merged(&mut self, merge: &Merge, merged: &Merged, now: Time) -> Result<()> {
        let info = merged.info(merge.level);
        let reached = info.span.max;
        self.manifest.add(info.clone(), now);
        if merge.level < self.schedule.top() {
            self.kept.take(merge.level, info.span, info.size, &merged.path)?;
        } else {
            remove(&merged.path)?;
        }
        match merge.level.get().checked_sub(1).and_then(Level::new) {
            Some(below) if merge.level != Level::SNAPSHOT => self.kept.release(below, reached),
            _ => Ok(()),
        }
    }

    // ---- damage ----

    /// Something that read a file complained. Its local copy may be what is wrong.
    fn doubt(&mut self, db: &Db, (level, span): (Level, Span), now: Time) {
        self.manifest.judge((level, span), Proof::Doubted);
        self.next = Some(now);
        if let Err(e) = self.kept.forget(level, span) {
            db.note(WHAT, &e);
        }
    }

    /// A file was read once more.
    fn proved(&mut self, db: &Db, file: &FileInfo, why: Option<Error>, now: Time) {
        let name = (file.level, file.span);
        self.acquitted.retain(|(_, until)| now < *until);
        match why {
            None => {
                if self.manifest.doubted().is_some_and(|held| (held.info.level, held.span()) == name) {
                    self.acquitted.push((name, now.later(GRACE)));
                }
                self.manifest.judge(name, Proof::Sound);
            }
            Some(why) => {
                self.manifest.judge(name, Proof::Damaged);
                self.name(db, file, &why);
            }
        }
    }

    fn name(&self, db: &Db, file: &FileInfo, why: &Error) {
        let next = match (remedy(&self.manifest), is_ailing(&self.manifest)) {
            (Remedy::Image, _) => "the other files do not lead to the newest state, and a new image follows",
            (_, true) => "restores go around it, and a new snapshot follows without it",
            (_, false) => "the newest state does not need it",
        };
        log::error!(target: "litestream", "{}: damaged in the replica {}: {}: {why}; {next}",
            db.path().display(), db.replica().map(|replica| replica.settings.url.to_string()).unwrap_or_default(),
            file.name());
    }

    /// What damage means now, for the database and for who reads the status.
    fn look_after(&mut self, db: &Db) {
        let was_ailing = std::mem::replace(&mut self.ailing, is_ailing(&self.manifest));
        self.remedy = remedy(&self.manifest);
        if was_ailing && !self.ailing {
            log::info!(target: "litestream", "{}: the replica's newest state needs no damaged file any more", db.path().display());
        }
        let mut damaged = self.manifest.damaged();
        db.report.damaged(damaged.next().map(|first| {
            let more = match damaged.count() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let next = if self.ailing { "a new snapshot follows" } else { "the newest state does not need it" };
            format!("damaged in the replica: {}{more}; {next}", first.info.name())
        }));
    }

    /// What may be better later is tried again soon; a file that is damaged, or in the way, only much later, and
    /// without holding up the other levels.
    fn failed(&mut self, site: &Site<'_>, work: &Work, e: &Error, now: Time) {
        site.db.note(WHAT, e);
        let level = match work {
            Work::Merge(merge) => Some(merge.level),
            Work::Delete(_) | Work::Prove(_) => None,
        };
        match level.filter(|_| !e.is_transient()) {
            Some(level) => {
                self.barred.push((level, now.later(GRACE)));
                self.next = Some(now);
                self.backoff.over();
            }
            None => self.next = Some(now.later(self.backoff.failed(crate::spool::random()))),
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            *job.permit.taken_back() = true;
        }
    }
}
