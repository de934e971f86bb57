//! What happens before the base VFS opens a database: a missing file is restored. A file that is there is `existing`'s,
//! what a missing one left in its Spool is `remains`'.
//!
//! A restored database is complete and verified, or absent. An unreachable replica is never an empty database.

use crate::aside::set_aside;
use crate::backoff::Backoff;
use crate::base::Lock;
use crate::clock::Time;
use crate::db::{Db, Replica};
use crate::error::{Error, Result};
use crate::existing::existing;
use crate::forget::forget;
use crate::history;
use crate::image::MAGIC;
use crate::leader::Leadership;
use crate::limits;
use crate::ltx::{FileInfo, Txid};
use crate::mount;
use crate::names::{remove, sync_folder};
use crate::reader::suffixed;
use crate::registry::Ask;
use crate::remains;
use crate::restore::{self, Options, Rebuilt};
use crate::settings::Restore;
use crate::spool::{End, Link, Spool, Stat, State, header_hash, kept, random};
use crate::store::Store;
use crate::sync::{lock, try_lock};
use crate::wal::{Cursor, Salt};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Name of the marker that stands while an empty file is being filled.
const FILLING: &str = "restoring";
/// Time after which a restore is worth a line on stderr.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
/// Bytes copied at a time into an empty file.
const FILL_BYTES: usize = 1 << 20;

/// Restores what is missing, and refuses what must not be opened.
pub(crate) fn prepare(db: &Arc<Db>, ask: &Ask<'_>) -> Result<()> {
    let replica = db.replica().expect("only databases with a replica are prepared");
    db.mount.get_or_init(|| warn_of_mount(db));
    let filling = db.spool().path(FILLING).exists();
    match Stat::of(db.path())? {
        Some(stat) if stat.size > 0 && !filling => match db.spool().state() {
            Ok(state) => existing(db, replica, state),
            // A Spool that cannot be read keeps nobody from a file that is there; the status says what to do.
            Err(e) => {
                db.note("spool", &e);
                Ok(())
            }
        },
        _ if replica.settings.restore == Restore::Never => forget(db),
        _ => missing(db, replica, ask),
    }
}

/// Where SQLite itself is not safe, nothing that is built on it is.
fn warn_of_mount(db: &Db) {
    if let Some(kind) = mount::shared(db.path().parent().unwrap_or(Path::new("/"))) {
        let what = format!(
            "{} lies on {kind}, where locks and the memory that a WAL shares may not hold: used from two machines at once it can be damaged, and \
             what the other one commits may not be replicated; keep it on a disk of this machine, and restore it from its replica elsewhere",
            db.path().display()
        );
        db.note("file system", &Error::State(what));
    }
}

// ---- a file that is missing, or empty ----

fn missing(db: &Arc<Db>, replica: &Replica, ask: &Ask<'_>) -> Result<()> {
    db.spool().create()?;
    let timeout = replica.settings.open_timeout;
    let _restoring = elect(&db.restoring, db.spool(), timeout)?;
    not_unmounted(db, replica)?;
    let mut patience = Patience::new(timeout);
    let restored = loop {
        let filling = db.spool().path(FILLING).exists();
        let restored = match Stat::of(db.path())? {
            Some(stat) if stat.size > 0 && !filling => return Ok(()),
            Some(_) => fill(db, replica, ask, &mut patience),
            None => restore_here(db, replica, &mut patience),
        };
        match restored {
            Err(Error::Unreachable(why)) if patience.goes_on(db, &why) => {}
            other => break other,
        }
    };
    match restored {
        Err(Error::NoBackup(_)) if replica.settings.restore != Restore::Required => forget(db),
        Err(Error::NoBackup(why)) => Err(Error::NoBackup(format!(
            "restore=required, and the replica {} has nothing to restore {} from: {why}",
            replica.settings.url,
            db.path().display()
        ))),
        other => other,
    }
}

/// A folder that is gone although something was stored there is a volume that is not mounted, and no empty replica.
fn not_unmounted(db: &Db, replica: &Replica) -> Result<()> {
    let Some(state) = db.spool().state()? else { return Ok(()) };
    let settings = &replica.settings;
    if state.txid > Txid(0) && state.replica == kept(&settings.url.identity()) {
        replica.store(settings.open_timeout)?.is_there(state.txid)?;
    }
    Ok(())
}

/// How long a store that makes no progress is waited for, over all tries.
pub(crate) struct Patience {
    limit: Duration,
    best: u64,
    moved: Instant,
    backoff: Backoff,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience { limit, best: 0, moved: Instant::now(), backoff: Backoff::new(limits::BACKOFF) }
    }

    /// So many bytes came in one try: more than in any before is progress.
    fn hear(&mut self, bytes: u64) {
        if bytes > self.best {
            (self.best, self.moved) = (bytes, Instant::now());
            self.backoff.over();
        }
    }

    /// Waits a little before the next try; `false` where there is no time for one.
    fn goes_on(&mut self, db: &Db, why: &str) -> bool {
        let pause = self.backoff.failed(random());
        if self.moved.elapsed() + pause >= self.limit {
            return false;
        }
        log::warn!(target: "litestream", "{}: the store does not answer as it should, tried again: {why}", db.path().display());
        std::thread::sleep(pause);
        true
    }
}

/// One restores, the others wait as long as it advances.
pub(crate) fn elect<'a>(who: &'a Mutex<Leadership>, spool: &Spool, timeout: Duration) -> Result<Elected<'a>> {
    let mut seen = None;
    let mut moved = Instant::now();
    loop {
        if let Some(held) = try_lock(who)
            && held.hold(spool)?
        {
            return Ok(Elected(held));
        }
        let now = progress_of_others(spool);
        if now != seen {
            seen = now;
            moved = Instant::now();
        }
        if moved.elapsed() > timeout {
            return Err(Error::Timeout(format!(
                "another process restores into {} and made no progress for {:.0} s",
                spool.folder().display(),
                timeout.as_secs_f64()
            )));
        }
        std::thread::sleep(limits::SHORT);
    }
}

/// Elected to restore; gives the lock back.
pub(crate) struct Elected<'a>(std::sync::MutexGuard<'a, Leadership>);

impl Drop for Elected<'_> {
    fn drop(&mut self) {
        self.0.resign();
    }
}

fn progress_of_others(spool: &Spool) -> Option<(u64, i64)> {
    let files = spool.files().ok()?;
    let temporary = files.iter().filter(|(name, _)| name.contains("restore-"));
    temporary
        .filter_map(|(name, _)| std::fs::metadata(spool.path(name)).ok())
        .map(|meta| (meta.blocks(), meta.mtime_nsec()))
        .max()
}

/// Restores to the path of the database, where nothing stands.
fn restore_here(db: &Db, replica: &Replica, patience: &mut Patience) -> Result<()> {
    let store = replica.store(replica.settings.open_timeout)?;
    remains::store(db, &store)?;
    let (new, restored) = fetch(db, replica, &store, patience)?;
    let placed = (|| {
        for suffix in ["-wal", "-shm", "-journal"] {
            set_aside(&suffixed(db.path(), suffix), "-stale")?;
        }
        remember(db, replica, &store, &new, &restored)?;
        renameat_with(CWD, &new, CWD, db.path(), RenameFlags::NOREPLACE)
            .map_err(|e| Error::io("rename into place", db.path(), e.into()))?;
        sync_folder(db.path().parent().unwrap_or(Path::new("/")))
    })();
    if placed.is_err() {
        remove(&new)?;
    }
    db.looked.store(true, Ordering::Relaxed);
    placed
}

/// Restores into a file of the Spool.
pub(crate) fn fetch(db: &Db, replica: &Replica, store: &Store, patience: &mut Patience) -> Result<(PathBuf, Rebuilt)> {
    let settings = &replica.settings;
    let new = db.spool().temporary("restore");
    let began = Instant::now();
    let moved = Mutex::new((0u64, Instant::now()));
    let patience = Mutex::new(patience);
    let go_on = || {
        let idle = lock(&moved).1.elapsed();
        if idle > settings.open_timeout {
            return Err(Error::Timeout(format!(
                "restoring {} from {}: no progress for {:.0} s (open-timeout)",
                db.path().display(),
                settings.url,
                settings.open_timeout.as_secs_f64()
            )));
        }
        match settings.restore_timeout {
            Some(limit) if began.elapsed() > limit => Err(Error::Timeout(format!(
                "restoring {} from {} took longer than restore-timeout ({:.0} s)",
                db.path().display(),
                settings.url,
                limit.as_secs_f64()
            ))),
            _ => Ok(()),
        }
    };
    let said = std::sync::atomic::AtomicBool::new(false);
    let progress = |progress: restore::Progress| {
        let mut moved = lock(&moved);
        if progress.written + progress.fetched != moved.0 {
            *moved = (progress.written + progress.fetched, Instant::now());
            lock(&patience).hear(moved.0);
        }
        if began.elapsed() > WORTH_A_LINE && !said.swap(true, Ordering::Relaxed) {
            eprintln!(
                "litestream: restoring {} from {} ({} MB)",
                db.path().display(),
                settings.url,
                progress.total >> 20
            );
        }
    };
    let doubt = |file: &FileInfo| db.doubt(file);
    let options =
        Options { progress: &progress, go_on: &go_on, around_damage: true, doubt: &doubt, ..Options::default() };
    let restored = restore::newest(store, &new, options)?;
    if said.into_inner() {
        eprintln!(
            "litestream: restored {} to {} in {:.1} s",
            db.path().display(),
            restored,
            began.elapsed().as_secs_f64()
        );
    }
    Ok((new, restored))
}

/// `state` and an End with the file's stat, before it is in place: afterwards a foreign commit could hide in it.
pub(crate) fn remember(db: &Db, replica: &Replica, store: &Store, file: &Path, rebuilt: &Rebuilt) -> Result<()> {
    let stat = Stat::of(file)?.ok_or_else(|| Error::State(format!("{} is gone", file.display())))?;
    let number = db.spool().state()?.map_or(0, |state| state.number);
    let replica = kept(&replica.settings.url.identity()).to_string();
    let state = State { number, writer: random(), inode: stat.inode, replica, ..State::default() };
    let restored = match rebuilt {
        Rebuilt::Ltx(restored) => restored,
        Rebuilt::Older(restored) => {
            // No LTX file holds this state: an image comes next, dated later than what it was restored from.
            let beside = history::list(store)?.into_iter().max_by_key(|file| file.span.max);
            let txid = beside.as_ref().map_or(Txid(0), |file| file.span.max);
            let time = beside.map_or(Time::default(), |file| file.listed).max(restored.created.time());
            db.spool().set_state(&mut State { txid, time, ..state })?;
            return db.spool().sync();
        }
    };
    let mut header = [0u8; 100];
    let read = File::open(file).and_then(|file| file.read_exact_at(&mut header, 0));
    read.map_err(|e| Error::io("read", file, e))?;
    let cursor = Cursor::start(Salt(random().to_be_bytes()));
    let commit = restored.header.commit;
    let end = End { cursor, commit, change: 0, stat, header: header_hash(&header) };
    let page_size = restored.header.page_size.get();
    let (txid, time) = (restored.txid(), restored.timestamp());
    let mut state = State { txid, cursor: Some(cursor), commit, page_size, time, end: Some(end), ..state };
    db.spool().set_state(&mut state)?;
    db.spool().link(db.spool().links()?.newest(), &Link::End(end))?;
    db.spool().sync()
}

/// An empty file cannot be replaced (another process may have it open), so it is filled under EXCLUSIVE: all but
/// its first 16 bytes, then those.
fn fill(db: &Db, replica: &Replica, ask: &Ask<'_>, patience: &mut Patience) -> Result<()> {
    let store = replica.store(replica.settings.open_timeout)?;
    let failed = |e| Error::io("lock", db.path(), e);
    let base = ask.base.open_database(db.path(), false).map_err(|e| Error::io("open", db.path(), e))?;
    if !base.lock(Lock::Shared).map_err(failed)? || !base.lock(Lock::Exclusive).map_err(failed)? {
        return Err(Error::Busy(format!(
            "{} is empty and in use, so it cannot be restored; close it elsewhere",
            db.path().display()
        )));
    }
    let marker = db.spool().path(FILLING);
    let mut magic = [0u8; 16];
    let begun = base.read_at(&mut magic, 0).is_ok() && &magic == MAGIC;
    if begun {
        // Filled by one who died before saying so; whether anybody wrote since is not known, so nothing is claimed.
        return remove(&marker);
    }
    let (new, restored) = fetch(db, replica, &store, patience)?;
    let filled = (|| {
        let io = |what| move |e| Error::io(what, db.path(), e);
        std::fs::write(&marker, restored.to_string())
            .and_then(|()| File::open(&marker)?.sync_all())
            .map_err(|e| Error::io("write", &marker, e))?;
        db.spool().sync()?;
        let mut from = File::open(&new).map_err(|e| Error::io("open", &new, e))?;
        let mut first = [0u8; 16];
        from.read_exact(&mut first).map_err(|e| Error::io("read", &new, e))?;
        let mut at = first.len() as u64;
        let mut buf = vec![0u8; FILL_BYTES];
        loop {
            let n = from.read(&mut buf).map_err(|e| Error::io("read", &new, e))?;
            if n == 0 {
                break;
            }
            base.write_at(&buf[..n], at).map_err(io("write"))?;
            at += n as u64;
        }
        base.sync().map_err(io("sync"))?;
        base.write_at(&first, 0).map_err(io("write"))?;
        base.sync().map_err(io("sync"))?;
        remember(db, replica, &store, db.path(), &restored)?;
        remove(&marker)
    })();
    remove(&new)?;
    base.unlock(Lock::None).map_err(failed)?;
    db.looked.store(true, Ordering::Relaxed);
    filled
}
