//! While a checkpoint runs: the Segment that the Gate after it would make.

use super::Leading;
use crate::capture::{self, Stretch};
use crate::db::Look;
use crate::error::{Error, Result};
use crate::link;
use crate::reader::{WalFile, open_wal};
use crate::wal::Cursor;
use std::collections::HashSet;
use std::path::PathBuf;

impl Leading<'_> {
    /// Saves what is committed in the WAL, where it is worth a file of its own.
    pub(crate) fn save_ahead(&self) -> Result<()> {
        self.db.ahead.save(|| self.saved_ahead())
    }

    fn saved_ahead(&self) -> Result<Option<(Cursor, PathBuf)>> {
        let (db, spool) = (self.db, self.db.spool());
        let Look::Commits(target) = db.look() else { return Ok(None) };
        let to = target.cursor;
        // Where no continuity is known, an image is made, for which a Segment of before counts nothing.
        if self.state.cursor.is_none() || self.state.image.is_some() {
            return Ok(None);
        }
        let links = spool.links()?;
        let from = db.ahead.newest(link::durable_in(to.salt, Some(&self.state), &links), &to);
        if from.frame >= to.frame {
            return Ok(None);
        }
        // Few pages, written again and again, are saved by the Gate in less time than this takes.
        let indexed = db.pages_of_wal(from.frame, to.frame);
        let pages = indexed.iter().collect::<HashSet<_>>().len() as u32;
        if !db.is_worth_ahead(pages, target.page_size) || !self.still_leads()? {
            return Ok(None);
        }
        let follows = if from.frame == 0 { links.begin_of(to.salt) } else { None };
        if from.frame == 0 && follows.is_none() {
            return Ok(None);
        }
        let Some((file, _)) = open_wal(db.wal())?.filter(|(_, header)| header.salt == to.salt) else { return Ok(None) };
        // A Segment must not hold what a loss of power would take from the WAL; the checkpoint waits for the same.
        file.sync_data().map_err(|e| Error::io("sync", db.wal(), e))?;
        let stretch = Stretch { from, to, follows, page_size: target.page_size, commit: target.commit };
        let room = db.room(u64::from(target.commit) * u64::from(target.page_size.get()));
        let saved = match capture::save(spool, &stretch, &indexed, &WalFile(file), room).map_err(|e| e.about(db.wal()))
        {
            Err(Error::Corrupt(_)) => return Ok(None), // a reset came first, and its Gate saved it
            saved => saved?,
        };
        db.saved(saved.bytes);
        Ok(Some((to, saved.path)))
    }
}
