//! Segments of commits that the database does not have any more. A Segment is saved without waiting for the disk, so a loss of
//! power may leave it and take its frames from the WAL, or the WAL as a whole; other commits come in their place.
//!
//! Only lives of the WAL: in rollback-journal modes the header of the file says which transaction it is at. Nothing hangs on a
//! Segment that is deleted here wrongly but a new image.

use super::Leading;
use crate::capture;
use crate::db::Look;
use crate::error::Result;
use crate::names::remove;
use crate::reader::{self, Pending, WalFile};
use crate::spool::Segment;
use crate::wal::{Cursor, FrameHeader, WalHeader};
use std::path::{Path, PathBuf};

impl Leading<'_> {
    /// Before a walk: of the life that the WAL has now, deletes Segments of what it does not hold. `false` where that cannot be
    /// told at this moment.
    pub(crate) fn drop_lost(&mut self) -> Result<bool> {
        if !self.segments.iter().any(|segment| self.is_ahead(segment)) {
            return Ok(true);
        }
        let Some((file, WalHeader { salt, page_size, .. })) = reader::open_wal(self.db.wal())? else { return Ok(true) };
        let mut mine = self.segments.iter().filter(|one| one.head.to.salt == salt && self.is_ahead(one)).peekable();
        if mine.peek().is_none() {
            return Ok(true);
        }
        let wal = WalFile(file);
        // Looked at after the Segments were listed: what is in them was committed by then.
        let committed = match self.db.look() {
            Look::Commits(now) if now.cursor.salt == salt => now.cursor.frame,
            Look::Blind => {
                let known = self.state.cursor.filter(|cursor| cursor.salt == salt);
                let end = capture::chain(&wal, known).map_err(|e| e.about(self.db.wal()))?;
                end.map(|end| end.cursor).or(known).map_or(0, |cursor| cursor.frame)
            }
            Look::Untrusted => return Ok(false),
            Look::Commits(_) | Look::Empty => return Ok(true), // reset, when it held what the Segments hold
        };
        let holds = |to: Cursor| {
            let frame = FrameHeader::read(&wal, page_size, to.frame);
            to.frame <= committed && frame.is_some_and(|frame| frame.checksum == to.checksum)
        };
        let lost: Vec<PathBuf> = mine.filter(|one| !holds(one.head.to)).map(|one| one.path.clone()).collect();
        if !lost.is_empty() && WalHeader::read(&wal).is_none_or(|header| header.salt != salt) {
            return Ok(false);
        }
        self.segments.retain(|segment| !lost.contains(&segment.path));
        lost.iter().try_for_each(|path| self.drop(path))?;
        Ok(true)
    }

    /// After a walk: deletes the Segment that it ends with, where that went with the WAL as a whole. Its life is over, and nothing
    /// of that life is on record so far on, though an End is before a WAL is reset or deleted. `true` where one was deleted.
    pub(crate) fn drop_dead_end(&self, pending: &Pending) -> Result<bool> {
        let is_cut = pending.more || pending.wal.is_some();
        let Some(last) = pending.segments.last().filter(|last| !is_cut && self.is_ahead(last)) else {
            return Ok(false);
        };
        // The links are read last: the End is on record before the WAL goes.
        let to = last.head.to;
        let wal = reader::open_wal(self.db.wal())?.map(|(_, header)| header.salt);
        let life = match self.db.look() {
            Look::Commits(now) => Some(now.cursor.salt),
            Look::Blind => wal,
            Look::Empty => None,
            Look::Untrusted => return Ok(false),
        };
        let is_recorded = |at: &Cursor| at.salt == to.salt && at.frame >= to.frame;
        let is_followed = |other: &Segment| other.head.follows.is_some_and(|at| is_recorded(&at));
        let goes_on = self.segments.iter().any(is_followed) || self.db.spool().links()?.points().any(is_recorded);
        if life == Some(to.salt) || goes_on {
            return Ok(false);
        }
        self.drop(&last.path).map(|()| true)
    }

    /// A stretch of the WAL that is not stored.
    fn is_ahead(&self, segment: &Segment) -> bool {
        let to = segment.head.to;
        let is_stored = self.state.cursor.is_some_and(|cursor| cursor.salt == to.salt && cursor.frame >= to.frame);
        segment.head.after.is_none() && !is_stored
    }

    fn drop(&self, segment: &Path) -> Result<()> {
        log::warn!(target: "litestream", "{}: {} holds commits that the database has no more, as after a loss of power: it is deleted",
            self.db.path().display(), segment.display());
        remove(segment)
    }
}
