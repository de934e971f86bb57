//! The Leader's reading of the database: its turn among the connections of this process, the way announced to the others,
//! and a handle of our own.

use crate::base::BaseFile;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::spool::Stat;
use crate::turns::Reading;
use crate::way::Announced;

/// The database through a handle of our own. Open only as long as it is read: a file that its application deletes
/// meanwhile is deleted, and SQLite's log has nothing to say about it.
pub(crate) struct Held<'a> {
    pub(crate) base: Box<dyn BaseFile>,
    pub(crate) turn: Reading<'a>,
    _way: Announced<'a>,
}

impl<'a> Held<'a> {
    /// The database with this inode. `None` while the host needs its locks, or where another file has its name by now.
    pub(crate) fn read(db: &'a Db, inode: u64) -> Result<Option<Held<'a>>> {
        let path = db.path();
        let Some(turn) = db.turns.read(inode) else { return Ok(None) };
        let Some(way) = db.way.read(db.spool())? else { return Ok(None) };
        let is_ours = || Ok(Stat::of(path)?.is_some_and(|stat| stat.inode == inode));
        if !is_ours()? {
            return Ok(None);
        }
        let base = db.base().open_database(path, false).map_err(|e| Error::io("open", path, e))?;
        let moved = base.has_moved().map_err(|e| Error::io("stat", path, e))? || !is_ours()?;
        Ok(if moved { None } else { Some(Held { base, turn, _way: way }) })
    }
}
