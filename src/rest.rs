//! A closed WAL database at rest: all of it is stored and durable, and `state` says so durably. By that the next boot of
//! the machine, for which a time of last write alone proves nothing, goes on without a new image.
//!
//! Whoever writes first afterwards makes a durable record before. Neither can miss the other: the Leader looks for the
//! `-wal` once its word is durable, and a writer, whose `-wal` stands by then, reads that word before its first frame.

use crate::error::{Error, Result};
use crate::fault;
use crate::image::journal_path;
use crate::leading::Leading;
use crate::link;
use crate::spool::{Link, Links, Spool, Stat, sync_beside};

impl Leading<'_> {
    /// Everything is stored. Where the database is closed as well, it is at rest.
    pub(crate) fn rest(&mut self) -> Result<()> {
        if self.db.connections() > 0 || self.db.is_journal() {
            return Ok(());
        }
        let spool = self.db.spool();
        let links = spool.links()?;
        if link::at_rest(Some(&self.state), &links) || !self.is_closed(&links)? {
            return Ok(());
        }
        let Some(held) = self.reading()? else { return Ok(()) };
        held.base.sync().map_err(|e| Error::io("sync", self.db.path(), e))?;
        drop(held);
        sync_beside(self.db.path())?;
        spool.sync_links()?;
        spool.set_rest(&mut self.state, Some(links.newest()))?;
        fault::point("rest");
        let now = spool.links()?;
        if now.newest() != links.newest() || !self.is_closed(&now)? {
            spool.set_state(&mut self.state)?;
        }
        Ok(())
    }

    /// Nobody writes it, and the file is what the newest End left, which is stored.
    fn is_closed(&self, links: &Links) -> Result<bool> {
        if self.db.wal().exists() || journal_path(self.db.path()).exists() {
            return Ok(false);
        }
        let stat = Stat::of(self.db.path())?;
        let end = link::newest_end(Some(&self.state), links).filter(|end| Some(end.stat) == stat);
        let stored = self.state.cursor;
        Ok(end.is_some_and(|end| stored.is_some_and(|stored| stored.same_point(&end.cursor))))
    }
}

/// Before the first change of a database at rest: what is written from now on is on durable record, by its Begin where
/// that was just appended to `links`, else by a word that nothing is proven.
pub(crate) fn end(spool: &Spool, links: &Links, begun: bool) -> Result<()> {
    if !begun {
        spool.link(links.newest(), &Link::Dirty)?;
    }
    spool.sync_links()
}
