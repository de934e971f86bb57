//! Segments that pile up while the store does not answer become one, each page once, so that the Spool grows with the
//! database and not with time.

use super::Leading;
use crate::error::Result;
use crate::limits;
use crate::names::remove;
use crate::page::Pgno;
use crate::reader::{self, Start, Walk};
use crate::spool::{Head, Segment};
use crate::uploader::needs_snapshot;

impl Leading<'_> {
    /// Folds where there are many; a put failed just now.
    pub(crate) fn fold(&mut self) -> Result<()> {
        let spool = self.db.spool();
        if spool.segments()?.len() < limits::FOLD_SEGMENTS {
            return Ok(());
        }
        let start = match &self.outgoing {
            Some(outgoing) => {
                Some(Start::Stored { cursor: outgoing.to, commit: outgoing.commit, page_size: outgoing.page_size })
            }
            None => self.start(),
        };
        let Some(start) = start else { return Ok(()) };
        let walked = reader::walk(start, &mut reader::segments(spool)?, &spool.links()?, None, self.db.wal())?;
        let Some(Walk::Reached(pending)) = walked else { return Ok(()) };
        let (Some(first), false) = (pending.segments.first(), needs_snapshot(&pending)) else { return Ok(()) };
        if pending.segments.len() < 2 {
            return Ok(());
        }
        let after = pending.segments.last().and_then(|last| last.head.after);
        let head = Head { to: pending.to, commit: pending.commit, page_size: pending.page_size, after, ..first.head };
        let pages: Vec<Pgno> = pending.pages.iter().map(|(pgno, _)| *pgno).collect();
        let mut places = pending.pages.iter().map(|(_, place)| *place);
        let folded = spool.save(&head, &pages, |_, page| {
            let place = places.next().expect("one place for each page");
            pending.read(place, page).map(|_| ())
        })?;
        Segment::open(&folded)?.sync()?;
        spool.sync()?;
        for segment in pending.segments.iter().filter(|segment| segment.path != folded) {
            remove(&segment.path)?;
        }
        Ok(())
    }
}
