//! Segments of commits that the database does not have any more. A Segment is saved without waiting for the disk, so a loss of
//! power may leave it and take its frames from the WAL, or the WAL as a whole; other commits come in their place.
//!
//! Only lives of the WAL: in rollback-journal modes the header of the file says which transaction it is at. Nothing hangs on a
//! Segment that is deleted here wrongly but a new image.

use super::Leading;
use crate::base::ReadAt;
use crate::capture;
use crate::db::Look;
use crate::error::Result;
use crate::names::remove;
use crate::reader::{self, WalFile};
use crate::spool::Segment;
use crate::wal::{Cursor, FrameHeader, Salt, WalHeader};
use std::path::PathBuf;

impl Leading<'_> {
    /// Deletes them, of those that were listed; `false` where that cannot be told at this moment.
    pub(crate) fn drop_undone(&mut self) -> Result<bool> {
        if !self.segments.iter().any(|segment| self.is_ahead(segment)) {
            return Ok(true);
        }
        // Looked at after the Segments were listed, and the links last: an End is on record before its WAL is reset or deleted.
        let wal = reader::open_wal(self.db.wal())?.map(|(file, header)| (WalFile(file), header));
        let wal_salt = wal.as_ref().map(|(_, header)| header.salt);
        let (life, committed) = match self.db.look() {
            Look::Untrusted => return Ok(false),
            Look::Empty => (None, None),
            Look::Commits(now) => (Some(now.cursor.salt), Some(now.cursor.frame)),
            Look::Blind => (wal_salt, None),
        };
        let mut undone = self.dead_ends(life)?;
        if let Some((file, header)) = wal.as_ref().filter(|_| wal_salt == life) {
            match self.lost_by(file, header, committed)? {
                Some(lost) => undone.extend(lost),
                None => return Ok(false),
            }
        }
        self.segments.retain(|segment| !undone.contains(&segment.path));
        for path in undone {
            log::warn!(target: "litestream", "{}: {} holds commits that the database has no more, as after a loss of power: it is deleted",
                self.db.path().display(), path.display());
            remove(&path)?;
        }
        Ok(true)
    }

    /// A stretch of the WAL that is not stored.
    fn is_ahead(&self, segment: &Segment) -> bool {
        let to = segment.head.to;
        let is_stored = self.state.cursor.is_some_and(|cursor| cursor.salt == to.salt && cursor.frame >= to.frame);
        segment.head.after.is_none() && !is_stored
    }

    /// Of the life that the WAL has now: what it does not hold. `committed` are its frames, where the wal-index says so. `None`
    /// where it was reset meanwhile.
    fn lost_by(&self, wal: &WalFile, header: &WalHeader, committed: Option<u32>) -> Result<Option<Vec<PathBuf>>> {
        let WalHeader { salt, page_size, .. } = *header;
        let mut mine = self.segments.iter().filter(|one| one.head.to.salt == salt && self.is_ahead(one)).peekable();
        if mine.peek().is_none() {
            return Ok(Some(Vec::new()));
        }
        let committed = match committed {
            Some(committed) => committed,
            None => {
                let known = self.state.cursor.filter(|cursor| cursor.salt == salt);
                let end = capture::chain(wal, known).map_err(|e| e.about(self.db.wal()))?;
                end.map(|end| end.cursor).or(known).map_or(0, |cursor| cursor.frame)
            }
        };
        let holds = |to: Cursor| {
            let frame = FrameHeader::read(wal, page_size, to.frame);
            to.frame <= committed && frame.is_some_and(|frame| frame.checksum == to.checksum)
        };
        let lost: Vec<PathBuf> = mine.filter(|one| !holds(one.head.to)).map(|one| one.path.clone()).collect();
        let is_reset = || WalHeader::read(wal as &dyn ReadAt).is_none_or(|header| header.salt != salt);
        Ok(if !lost.is_empty() && is_reset() { None } else { Some(lost) })
    }

    /// Of lives that are over, all but `life`: those that nothing goes on from, though each such life has its End on record.
    fn dead_ends(&self, life: Option<Salt>) -> Result<Vec<PathBuf>> {
        let is_over = |segment: &&Segment| life != Some(segment.head.to.salt) && self.is_ahead(segment);
        let over: Vec<&Segment> = self.segments.iter().filter(is_over).collect();
        if over.is_empty() {
            return Ok(Vec::new());
        }
        let links = self.db.spool().links()?;
        let goes_on = |to: &Cursor| {
            let next = |other: &Segment| {
                other.covers(to) || other.head.follows.is_some_and(|follows| follows.same_point(to))
            };
            links.ends_at(to) || links.after(to).is_some() || self.segments.iter().any(next)
        };
        Ok(over.iter().filter(|segment| !goes_on(&segment.head.to)).map(|segment| segment.path.clone()).collect())
    }
}
