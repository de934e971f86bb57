//! The Leader meets its replica: what the store holds must be what was stored from here. Looked at when a Leader takes
//! over, and before a put after a pause.

use super::Leading;
use crate::db::Db;
use crate::due::Remedy;
use crate::error::{Error, Result};
use crate::history::{self, History};
use crate::image::Snapshot;
use crate::limits;
use crate::link;
use crate::ltx::{FileInfo, Txid};
use crate::plan::{Target, plan};
use crate::settings::{OnConflict, Settings};
use crate::spool::{State, remove};
use crate::store::Store;
use crate::uploader::{self, Outgoing};
use std::time::Instant;

/// What a person does about two writers.
const ADVICE: &str = "commits go on and stay on this machine; end the other writer, then open the database with on-conflict=keep-local (its content becomes the newest state) or on-conflict=take-replica (the file is set aside and restored)";

/// What a Leader that takes over makes of the files that its replica holds: the point in `state` from which it goes on.
/// `history` is fresh where it was listed just now.
pub(super) fn meet(
    db: &Db,
    store: &Store,
    settings: &Settings,
    (history, is_fresh): (&History, bool),
    state: &mut State,
    outgoing: &mut Vec<Outgoing>,
) -> Result<()> {
    let listing: Vec<FileInfo> = history.manifest().files().map(|held| held.info.clone()).collect();
    let mut other = uploader::beyond(store, &listing, state.txid, outgoing.last())?;
    if is_fresh && other.is_none() && state.cursor.is_some() {
        let replaced = uploader::is_replaced(store, &listing, state.txid, state.time)?;
        other = replaced.then(|| listing.iter().map(|file| file.span.max).max().unwrap_or(state.txid));
    }
    if let Some(end) = other {
        if state.txid > Txid(0) {
            if settings.on_conflict != OnConflict::KeepLocal {
                return Err(other_writer(settings, end, state.txid));
            }
            log::warn!(target: "litestream", "{}: the replica {} reaches {end} by another writer; this database, stored up to {}, becomes its newest state (on-conflict=keep-local)",
                db.path().display(), settings.url, state.txid);
        }
        let listed = listing.iter().filter(|file| file.span.max == end).map(|file| file.listed).max();
        // On pages of the same size the image is a raw file: its name is the fence against the other writer.
        let header = uploader::header_at(store, &listing, end)?;
        state.txid = end;
        state.page_size = header.map_or(0, |header| header.page_size.get());
        state.time = listed.map_or(state.time, |listed| state.time.max(listed));
        return image_comes(state, outgoing);
    }
    let reach = plan(&history.manifest().usable(), Target::Latest).map(|plan| plan.txid());
    // An image that needs none of them may be under way, and in the store under the first of its two names.
    let is_under_way = state.page_size == 0 && !outgoing.is_empty();
    if state.txid > Txid(0) && !is_under_way && !reach.as_ref().is_ok_and(|reach| *reach >= state.txid) {
        let found = reach.map_or_else(|e| e.to_string(), |reach| format!("it leads to {reach} only"));
        log::warn!(target: "litestream", "{}: files are missing or damaged in the replica {}: {} was stored there, but {found}; a new image follows",
            db.path().display(), settings.url, state.txid);
        // A snapshot, which needs no file before it.
        state.page_size = 0;
        return image_comes(state, outgoing);
    }
    Ok(())
}

/// Nothing that was stored from here is continued: an image follows.
fn image_comes(state: &mut State, outgoing: &mut Vec<Outgoing>) -> Result<()> {
    (state.cursor, state.image) = (None, None);
    for waiting in outgoing.drain(..) {
        remove(&waiting.path)?;
    }
    Ok(())
}

fn other_writer(settings: &Settings, end: Txid, stored: Txid) -> Error {
    Error::Conflict(format!(
        "the replica {} reaches {end} in another way than this machine, which stored up to {stored}: another writer is or was at work; {ADVICE}",
        settings.url
    ))
}

impl Leading<'_> {
    /// Does for a replica with damaged files what only its database can do; true where that begins now.
    pub(super) fn heals(&mut self) -> bool {
        match self.history.remedy() {
            Remedy::Transaction if !self.lone_snapshot => self.lone_snapshot = true,
            // An image that needs none of the files before it.
            Remedy::Image if self.state.page_size != 0 => {
                self.state.page_size = 0;
                (self.state.cursor, self.state.image) = (None, None);
            }
            _ => return false,
        }
        self.settled = None;
        true
    }

    /// Before a put. Another writer's file stands in its way only as long as it is not merged and deleted; so after a
    /// pause the newest file from here is looked for, which no writer deletes before its own. `false` where what the
    /// replica holds has to be looked at anew.
    pub(super) fn goes_on(&self) -> Result<bool> {
        if !self.store.is_near() && self.met.elapsed() < limits::FENCE {
            return Ok(true);
        }
        let ends = self.history.manifest().files().filter(|held| held.span().max == self.state.txid);
        let Some(last) = ends.min_by_key(|held| held.info.level) else { return Ok(true) };
        if self.store.holds(last.info.level, last.span())? {
            return Ok(true);
        }
        self.store.is_there(self.state.txid)?;
        let listing = history::list(&self.store)?;
        match uploader::beyond(&self.store, &listing, self.state.txid, self.outgoing.as_ref())? {
            Some(end) => Err(other_writer(self.settings(), end, self.state.txid)),
            None => Ok(listing.iter().any(|file| file.span.max >= self.state.txid)),
        }
    }

    /// Puts what waits, where the replica is as it was left.
    pub(super) fn put_outgoing(&mut self) -> Result<bool> {
        if !self.goes_on()? {
            return Ok(false);
        }
        let outgoing = self.outgoing.as_ref().expect("the caller looked");
        if self.begins_anew(outgoing) {
            if !self.put_beginning()? {
                return Ok(false);
            }
        } else {
            self.put_one(outgoing)?;
        }
        self.met = Instant::now();
        Ok(true)
    }

    pub(super) fn put_one(&self, outgoing: &Outgoing) -> Result<()> {
        let put = outgoing.put(&self.store).map_err(|e| match e {
            Error::Conflict(text) => Error::Conflict(format!("{text}; {ADVICE}")),
            other => other,
        });
        put.map(drop)
    }

    /// A file that still is what the newest End says: an image of it is at that End's Cursor, for lives that begin from
    /// now on may follow that already.
    pub(super) fn end_as_known(&self, snapshot: &mut Snapshot<'_>) -> Result<()> {
        let known = link::newest_end(Some(&self.state), &self.db.spool().links()?);
        if let (Some(end), Some(known)) = (&mut snapshot.end, known)
            && (known.stat, known.commit) == (end.stat, end.commit)
        {
            (end.cursor, snapshot.cursor) = (known.cursor, known.cursor);
        }
        Ok(())
    }

    fn settings(&self) -> &Settings {
        &self.db.replica().expect("only a database with a replica has a worker").settings
    }
}
