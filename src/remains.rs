//! What a database that is gone left in its Spool and its WAL: commits that were never stored. They are stored before
//! the database is restored; what does not continue the replica is set aside and named.

use crate::aside::{set_aside, set_segments_aside};
use crate::capture;
use crate::clock::Time;
use crate::db::Db;
use crate::error::Result;
use crate::history;
use crate::limits;
use crate::names::remove;
use crate::page::PageSize;
use crate::reader::{self, Start, Target, Walk};
use crate::spool::{Spool, State};
use crate::store::Store;
use crate::uploader::{self, Encoded, Outgoing, Source, encode, needs_snapshot};
use std::time::Instant;

/// What the Spool still holds of a database that is gone is stored first, or set aside and named.
pub(crate) fn store(db: &Db, store: &Store) -> Result<()> {
    let spool = db.spool();
    let Some(state) = spool.state()? else { return name_segments_aside(spool) };
    // This process's own worker notices that the file is gone, and ends.
    let began = Instant::now();
    while db.has_worked() && began.elapsed() < limits::GIVE_WAY {
        db.call();
        std::thread::sleep(limits::BLINK);
    }
    if db.has_worked() || !db.leadership.hold(spool)? {
        return Ok(()); // a Leader with the deleted file still open stores what it has
    }
    let stored = store_what_waits(db, store, state);
    db.leadership.resign();
    stored.and_then(|()| name_segments_aside(spool))
}

/// LTX files that wait, then what comes after them; as the Leader.
fn store_what_waits(db: &Db, store: &Store, mut state: State) -> Result<()> {
    let spool = db.spool();
    let found = Outgoing::found(spool)?;
    let next = found.iter().rfind(|waiting| waiting.txid == state.txid.next());
    let listing = history::list(store)?;
    let beyond = uploader::beyond(store, &listing, state.txid, next)?;
    if beyond.is_some() || !listing.iter().any(|file| file.span.max >= state.txid) {
        // Another writer went on from what this machine stored, or the replica was emptied: its line ends here.
        log::warn!(target: "litestream", "{}: what {} holds and was never stored does not continue the replica, which is another one by now: it is set aside there",
            db.path().display(), spool.folder().display());
        for waiting in found {
            set_aside(&waiting.path, "-aside")?;
        }
        return Ok(());
    }
    for waiting in found {
        if waiting.txid == state.txid.next() {
            waiting.put(store)?;
            waiting.enter(&mut state);
            spool.set_state(&mut state)?;
        }
        remove(&waiting.path)?;
    }
    if let (Some(cursor), Ok(page_size)) = (state.cursor, PageSize::new(state.page_size)) {
        let start = Start::Stored { cursor, commit: state.commit, page_size };
        store_tail(db, store, &mut state, start)?;
    }
    Ok(())
}

/// Segments, and the WAL that was left: all who wrote it are gone, so its chain is what SQLite would recover.
fn store_tail(db: &Db, store: &Store, state: &mut State, start: Start) -> Result<()> {
    let wal = reader::open_wal(db.wal())?.map(|(file, _)| file);
    let chain = match wal {
        Some(file) => capture::chain(&reader::WalFile(file), None).map_err(|e| e.about(db.wal()))?,
        None => None,
    };
    let target = chain.map(|end| Target { cursor: end.cursor, commit: end.commit, page_size: end.page_size });
    let mut segments = reader::segments(db.spool())?;
    let walked = reader::walk(start, &mut segments, &db.spool().links()?, target.as_ref(), db.wal())?;
    let Some(Walk::Reached(pending)) = walked else { return Ok(()) };
    if pending.is_empty() || pending.more || needs_snapshot(&pending) {
        return Ok(());
    }
    let time = Time::now().max(Time(state.time.0 + 1));
    let encoded = encode(db.spool(), &pending, state.txid.next(), time, state.commit, &Source::Zeros)?;
    if let Encoded::Done(outgoing) = encoded {
        outgoing.put(store)?;
        log::warn!(target: "litestream", "{}: {} held commits that were not stored yet; they are now, as {}",
            db.path().display(), db.spool().folder().display(), outgoing.txid);
        outgoing.enter(state);
        db.spool().set_state(state)?;
        for segment in &pending.segments {
            remove(&segment.path)?;
        }
        remove(&outgoing.path)?;
    }
    Ok(())
}

/// One line for all of them.
fn name_segments_aside(spool: &Spool) -> Result<()> {
    let count = set_segments_aside(spool)?;
    if count > 0 {
        log::warn!(target: "litestream", "{}: {count} Segments of a database that is gone were moved aside there (*-aside-*): they continue nothing that is stored", spool.folder().display());
    }
    Ok(())
}
