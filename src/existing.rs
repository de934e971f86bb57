//! A database that is there is held against its replica once, before it is opened: is the store beyond what this
//! machine stored? Then a proven ancestor is brought up to the replica's end, and where there is no proof a person
//! decides. The older data is never chosen in silence.
//!
//! A store that cannot be reached keeps nobody from a file that is there.

use crate::aside::{set_aside, set_segments_aside};
use crate::base::{BaseFile, Lock};
use crate::db::{Db, Replica};
use crate::error::{Error, Result};
use crate::fault;
use crate::history;
use crate::kinship::{first_page, strangers};
use crate::limits;
use crate::local::Local;
use crate::ltx::{Decoder, FileInfo, Txid};
use crate::names::{remove, sync_folder};
use crate::opening::{Patience, elect, fetch, remember};
use crate::page::PageSize;
use crate::plan::{Target, plan};
use crate::reader::{self, Start, Walk, suffixed};
use crate::restore::{self, Options, Rebuilt};
use crate::settings::{OnConflict, Restore};
use crate::spool::{End, Link, Stat, State, kept, random};
use crate::store::Store;
use crate::sync::try_lock;
use crate::uploader::{self, Outgoing};
use crate::wal::{Cursor, Salt};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Boundaries of a replica from the stored Txid on at which a file without proof is looked for, each by one small file.
const BOUNDARIES: usize = 32;

/// Once for each process: a file that is there.
pub(crate) fn existing(db: &Arc<Db>, replica: &Replica, state: Option<State>) -> Result<()> {
    // A worker of this process leads or follows already; fcntl would not even notice if the lock were asked for twice.
    let is_done = || db.looked.load(Ordering::Relaxed) || db.has_worked();
    if is_done() {
        return Ok(());
    }
    // Whoever opens it meanwhile waits: the file may be another one after this.
    let _looking = loop {
        match try_lock(&db.looking) {
            Some(turn) => break turn,
            None => db.threads().pause(limits::BLINK),
        }
    };
    if is_done() {
        return Ok(());
    }
    warn_of_links(db);
    let looked = match state {
        None => first_use(db, replica),
        Some(state) if state.txid == Txid(0) || state.replica != kept(&replica.settings.url.identity()) => Ok(()),
        Some(state) => look(db, replica, &state),
    };
    db.looked.store(looked.is_ok(), Ordering::Relaxed);
    looked
}

/// Two names have two `-wal` files: SQLite itself loses what one of them holds.
fn warn_of_links(db: &Db) {
    let names = std::fs::metadata(db.path()).map_or(1, |meta| meta.nlink());
    if names > 1 {
        let what = format!(
            "{} has {names} names (hard links): opened by another one it is damaged, for SQLite looks for its -wal beside the name; remove the others",
            db.path().display()
        );
        db.note("hard links", &Error::State(what));
    }
}

/// What the replica has beyond this machine.
struct Ahead {
    listing: Vec<FileInfo>,
    end: Txid,
}

fn look(db: &Arc<Db>, replica: &Replica, state: &State) -> Result<()> {
    let (spool, settings) = (db.spool(), &replica.settings);
    match is_led_elsewhere(db) {
        Some(false) => {}
        // What the store has is that process's. Or it brings this file forward: that is waited for.
        Some(true) => return elect(&db.restoring, spool, settings.open_timeout).map(drop),
        None => return Ok(()),
    }
    if ahead(db, replica, state)?.is_none() || settings.on_conflict == OnConflict::KeepLocal {
        return Ok(());
    }
    let _restoring = elect(&db.restoring, spool, settings.open_timeout)?;
    // Another process may have decided meanwhile.
    let Some(state) = spool.state()? else { return Ok(()) };
    if !db.leadership.hold(spool)? {
        return Ok(());
    }
    let resolved = match ahead(db, replica, &state) {
        Ok(Some(ahead)) => resolve(db, replica, &state, &ahead),
        other => other.map(|_| ()),
    };
    db.leadership.resign();
    resolved
}

fn ahead(db: &Db, replica: &Replica, state: &State) -> Result<Option<Ahead>> {
    let waiting = Outgoing::found(db.spool())?.into_iter().rfind(|waiting| waiting.txid == state.txid.next());
    let looked = replica.store(limits::OPEN_LOOK).and_then(|store| {
        let listing = history::list(&store)?;
        let mut end = uploader::beyond(&store, &listing, state.txid, waiting.as_ref())?;
        if end.is_none() && state.cursor.is_some() && uploader::is_replaced(&store, &listing, state.txid, state.time)? {
            end = listing.iter().map(|file| file.span.max).max();
        }
        Ok(end.map(|end| Ahead { listing, end }))
    });
    Ok(looked.unwrap_or_else(|e| {
        log::warn!(target: "litestream", "{}: opened without a look at its replica: {e}", db.path().display());
        None
    }))
}

fn resolve(db: &Db, replica: &Replica, state: &State, ahead: &Ahead) -> Result<()> {
    let settings = &replica.settings;
    let store = replica.store(settings.open_timeout)?;
    if settings.on_conflict == OnConflict::TakeReplica {
        let base = alone(db)?;
        let (new, rebuilt) = fetch(db, replica, &store, &mut Patience::new(settings.open_timeout))?;
        let aside = swap(db, replica, &store, &new, &rebuilt, "-conflict")?;
        log::warn!(target: "litestream", "{} was taken from its replica {} at {rebuilt}; what stood there is {}",
            db.path().display(), settings.url, aside.display());
        return unlock(db, &*base);
    }
    let why = if settings.restore == Restore::Never {
        "restore=never forbids to bring it forward".to_string()
    } else {
        match forward(db, replica, &store, state, &ahead.listing) {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => why.to_string(),
            Err(Error::Busy(why)) => why,
            Err(e) => return Err(e),
        }
    };
    let newest = ahead.listing.iter().filter(|file| file.span.max == ahead.end).map(|file| file.listed).min();
    Err(Error::Conflict(format!(
        "the replica {} reaches {} (of {}), but {} on this machine was stored up to {} (of {}), and {why}: another writer went on, or this file is an older copy; open it with on-conflict=keep-local (its content becomes the newest state) or on-conflict=take-replica (the file is set aside and restored)",
        settings.url,
        ahead.end,
        newest.unwrap_or_default().rfc3339(),
        db.path().display(),
        state.txid,
        state.time.rfc3339()
    )))
}

// ---- a proven ancestor ----

/// Brings the file to the replica's end, where it is proven to be one of its states. Why not, otherwise.
fn forward(
    db: &Db,
    replica: &Replica,
    store: &Store,
    state: &State,
    listing: &[FileInfo],
) -> Result<Option<&'static str>> {
    let base = alone(db)?;
    let Some(local) = Local::open(&*base, db.path(), db.wal())? else {
        return Ok(Some("a transaction that was cut off has to be rolled back first"));
    };
    let kin = kin(db, store, state, listing, &local)?;
    if kin == Kin::Stranger {
        return Ok(Some("it has commits that are not in the replica as they are here"));
    }
    let mut patience = Patience::new(replica.settings.open_timeout);
    let (new, rebuilt) = fetch(db, replica, store, &mut patience)?;
    match (&kin, &rebuilt) {
        (Kin::End, Rebuilt::Ltx(restored)) if local.is(&new)? => {
            adopt(db, replica, &local, restored)?;
            remove(&new)?;
            log::info!(target: "litestream", "{} is what its replica {} holds at {rebuilt}: it goes on from there",
                db.path().display(), replica.settings.url);
        }
        (Kin::End, _) => {
            remove(&new)?;
            return Ok(Some("it has commits that are not in the replica as they are here"));
        }
        (Kin::Before(proof), _) => {
            let aside = swap(db, replica, store, &new, &rebuilt, "-behind")?;
            if *proof == Proof::Whole {
                for suffix in ["", "-wal", "-journal"] {
                    remove(&suffixed(&aside, suffix))?;
                }
            }
            log::info!(target: "litestream", "{} was brought from {} to {rebuilt}, the end of its replica {}",
                db.path().display(), state.txid, replica.settings.url);
        }
        (Kin::Stranger, _) => {}
    }
    unlock(db, &*base)?;
    Ok(None)
}

/// How a file stands to its replica.
#[derive(PartialEq, Eq)]
enum Kin {
    /// It may be the replica's end: the last file's pages are its.
    End,
    /// It is an earlier state.
    Before(Proof),
    Stranger,
}

#[derive(PartialEq, Eq)]
enum Proof {
    /// This state is in the replica, and the file is it.
    Whole,
    /// The Spool says that nothing was committed since it was stored; by now it is part of a larger file.
    Records,
}

fn kin(db: &Db, store: &Store, state: &State, listing: &[FileInfo], local: &Local<'_>) -> Result<Kin> {
    let boundary = listing.iter().filter(|file| file.span.max == state.txid).min_by_key(|file| file.level);
    if nothing_since(db, state, local)? {
        match boundary {
            None => return Ok(Kin::Before(Proof::Records)),
            // Another replica under the same name would have another time here.
            Some(file) if Decoder::new(store.stream(file)?)?.header().timestamp == state.time => {
                return Ok(Kin::Before(Proof::Whole));
            }
            Some(_) => {}
        }
    }
    let last = |target| plan(listing, target).ok()?.files.pop();
    if let Some(file) = last(Target::Latest)
        && local.agrees(store, &file)?
    {
        return Ok(Kin::End);
    }
    let ends: BTreeSet<Txid> = listing.iter().map(|file| file.span.max).filter(|max| *max >= state.txid).collect();
    for txid in ends.into_iter().take(BOUNDARIES) {
        let Some(file) = last(Target::Txid(txid)) else { continue };
        if local.agrees(store, &file)? {
            let then = db.spool().temporary("restore");
            let doubt = |file: &FileInfo| db.doubt(file);
            let options = Options { around_damage: true, doubt: &doubt, ..Options::default() };
            restore::run(store, Target::Txid(txid), &then, options)?;
            let same = local.is(&then);
            remove(&then)?;
            if same? {
                return Ok(Kin::Before(Proof::Whole));
            }
        }
    }
    Ok(Kin::Stranger)
}

/// True where the Spool's records prove that nothing was committed since `state`.
fn nothing_since(db: &Db, state: &State, local: &Local<'_>) -> Result<bool> {
    let (Some(cursor), Ok(page_size)) = (state.cursor, PageSize::new(state.page_size)) else { return Ok(false) };
    let start = Start::Stored { cursor, commit: state.commit, page_size };
    let links = db.spool().links()?;
    let walked = reader::walk(start, &mut reader::segments(db.spool())?, &links, local.newest.as_ref(), db.wal())?;
    let (Some(Walk::Reached(pending)), Some(stat)) = (walked, Stat::of(db.path())?) else { return Ok(false) };
    if !pending.is_empty() || stat.inode != state.inode {
        return Ok(false);
    }
    if let Some(newest) = &local.newest {
        return Ok(pending.to.same_point(&newest.cursor));
    }
    let end = crate::link::newest_end(Some(state), &links).filter(|end| end.cursor.same_point(&pending.to));
    Ok(end.is_some_and(|end| end.stat == stat || (!local.header.wal && end.header == local.header.hash)))
}

/// The file is the replica's end: `state` says so, and commits go on from here.
fn adopt(db: &Db, replica: &Replica, local: &Local<'_>, restored: &restore::Restored) -> Result<()> {
    let spool = db.spool();
    let stat = Stat::of(db.path())?.ok_or_else(|| Error::State(format!("{} is gone", db.path().display())))?;
    let number = spool.state()?.map_or(0, |state| state.number);
    let commit = local.commit();
    let end = local.newest.is_none().then(|| {
        let cursor = Cursor::start(Salt(random().to_be_bytes()));
        End { cursor, commit, change: 0, stat, header: local.header.hash }
    });
    drop_waiting(db)?;
    let mut state = State {
        number,
        writer: random(),
        txid: restored.txid(),
        cursor: local.newest.map(|newest| newest.cursor).or(end.map(|end| end.cursor)),
        commit,
        page_size: local.page_size().get(),
        inode: stat.inode,
        time: restored.timestamp(),
        end,
        replica: kept(&replica.settings.url.identity()).to_string(),
        ..State::default()
    };
    spool.set_state(&mut state)?;
    if let Some(end) = end {
        spool.link(spool.links()?.newest(), &Link::End(end))?;
    }
    spool.sync()
}

// ---- a file that gives way ----

/// EXCLUSIVE on the file, so that nobody reads or writes it while it is judged and replaced.
fn alone(db: &Db) -> Result<Box<dyn BaseFile>> {
    let failed = |e| Error::io("lock", db.path(), e);
    let base = db.base().open_database(db.path(), false);
    let base = base.map_err(|e| Error::Busy(format!("it cannot be opened for writing here ({e})")))?;
    if base.lock(Lock::Shared).map_err(failed)? && base.lock(Lock::Exclusive).map_err(failed)? {
        return Ok(base);
    }
    unlock(db, &*base)?;
    Err(Error::Busy("another process has it open".into()))
}

fn unlock(db: &Db, base: &dyn BaseFile) -> Result<()> {
    base.unlock(Lock::None).map_err(|e| Error::io("unlock", db.path(), e))
}

/// Puts a restored file in the place of the one that is there, which moves aside with what belongs to it: opened under
/// its new name it is what it was. A process that dies in between leaves a missing database, which is restored.
fn swap(db: &Db, replica: &Replica, store: &Store, new: &Path, rebuilt: &Rebuilt, word: &str) -> Result<PathBuf> {
    let aside = suffixed(db.path(), &format!("{word}-{}", crate::clock::Time::now().0));
    let placed = (|| {
        for suffix in ["", "-wal", "-journal"] {
            fault::point("swap");
            let (from, to) = (suffixed(db.path(), suffix), suffixed(&aside, suffix));
            match std::fs::rename(&from, &to) {
                Err(e) if suffix.is_empty() || e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("move aside", &from, e));
                }
                _ => {}
            }
        }
        remove(&suffixed(db.path(), "-shm"))?;
        drop_waiting(db)?;
        fault::point("swap");
        remember(db, replica, store, new, rebuilt)?;
        fault::point("swap");
        renameat_with(CWD, new, CWD, db.path(), RenameFlags::NOREPLACE)
            .map_err(|e| Error::io("rename into place", db.path(), e.into()))?;
        sync_folder(db.path().parent().unwrap_or(Path::new("/")))
    })();
    if placed.is_err() {
        remove(new)?;
    }
    placed.map(|()| aside)
}

/// Files and Segments of a line that ends here.
fn drop_waiting(db: &Db) -> Result<()> {
    for waiting in db.spool().waiting()? {
        set_aside(&waiting, "-aside")?;
    }
    set_segments_aside(db.spool()).map(drop)
}

// ---- a file without `state` ----

/// A replica with history may be this database's, from another tool or another disk, but never another database's.
fn first_use(db: &Arc<Db>, replica: &Replica) -> Result<()> {
    let looked = replica.store(limits::OPEN_LOOK).and_then(|store| {
        let listing = history::list(&store)?;
        if listing.is_empty() { Ok(None) } else { first_page(&store, &listing) }
    });
    let (page_size, theirs) = match looked {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(()),
        Err(e) => {
            log::warn!(target: "litestream", "{}: opened without a look at its replica: {e}", db.path().display());
            return Ok(());
        }
    };
    // Somebody of this machine began meanwhile: leads, or has left word.
    let spool = db.spool();
    if db.has_worked() || (spool.exists() && (is_led_elsewhere(db) != Some(false) || spool.state()?.is_some())) {
        return Ok(());
    }
    let base = db.base().open_database(db.path(), true).map_err(|e| Error::io("open", db.path(), e))?;
    let mut mine = vec![0u8; page_size.bytes()];
    let _ = base.read_at(&mut mine, 0); // a shorter file leaves zeros, which say nothing
    let url = &replica.settings.url;
    if let Some(why) = strangers(&mine, &theirs)
        && replica.settings.on_conflict != OnConflict::KeepLocal
    {
        return Err(Error::Conflict(format!(
            "the replica {url} holds another database than {}: {why}; give each database a URL of its own, or say on-conflict=keep-local to store this one there as the newest state",
            db.path().display()
        )));
    }
    log::warn!(target: "litestream", "{}: {url} has a history that this machine did not write; the file's content becomes its next state, and what was there stays restorable", db.path().display());
    Ok(())
}

/// Does another process lead? `None` where the Spool cannot tell, which the status says then.
fn is_led_elsewhere(db: &Db) -> Option<bool> {
    let led = db.leadership.is_held_elsewhere(db.spool());
    led.inspect_err(|e| db.note("spool", e)).ok()
}
