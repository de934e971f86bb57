//! Rollback-journal modes: each committed transaction becomes a Segment of its own.
//!
//! Which bytes changed comes from `xWrite` on the database; their contents are read back when the transaction
//! is all in the file and the journal still stands (prepared), and count once SQLite says that it committed
//! (published). Neither is synced: a kill cannot lose it, and after a power loss what is missing of a Segment, by
//! its checksum, costs a new image. No journal mode is ever changed for the application.

use crate::base::ReadAt;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::image::journal_path;
use crate::leftover;
use crate::link;
use crate::page::{PageSize, Pgno};
use crate::rest;
use crate::spool::{After, End, Head, Link, Stat, header_hash, random, remove};
use crate::wal::{Cursor, Salt};
use std::path::PathBuf;
use std::sync::Arc;

/// Ranges collected before equal ones are folded.
const FOLD_RANGES: usize = 4096;
/// Bytes of a database header that this looks at.
const HEADER_BYTES: usize = 100;

/// What a transaction continues.
#[derive(Debug, Clone, Copy, Default)]
enum Tip {
    /// Not looked at yet in this transaction.
    #[default]
    Unknown,
    /// The file holds exactly what this End left.
    Proven(Cursor),
    /// Somebody else wrote in between, or nothing is known.
    Unproven,
}

/// A transaction that is in the file and not yet committed.
struct Prepared {
    head: Head,
    path: PathBuf,
}

/// One connection's part in rollback-journal modes.
#[derive(Default)]
pub(crate) struct Rollback {
    ranges: Vec<(u64, usize)>,
    tip: Tip,
    prepared: Option<Prepared>,
    dirty: bool,
    /// The database was at rest when it was looked at.
    at_rest: bool,
}

impl Rollback {
    /// RESERVED was granted: a transaction begins, and the file still is what the last one left.
    pub(crate) fn reserved(&mut self, db: &Arc<Db>, database: &dyn ReadAt) {
        self.drop_prepared();
        self.tip = match self.look(db, database) {
            Tip::Unproven => resolved(db, database),
            tip => tip,
        };
    }

    /// Before `xWrite` on the database.
    pub(crate) fn writing(&mut self, db: &Arc<Db>, offset: u64, len: usize, database: &dyn ReadAt) {
        self.drop_prepared();
        if self.ranges.is_empty() || matches!(self.tip, Tip::Unknown) {
            if matches!(self.tip, Tip::Unknown) {
                self.tip = self.look(db, database);
            }
            self.end_rest(db);
            self.mark_dirty(db);
        }
        self.ranges.push((offset, len));
        if self.ranges.len().is_multiple_of(FOLD_RANGES) {
            self.ranges.sort_unstable();
            self.ranges.dedup();
        }
    }

    /// A checkpoint is done: what was written was no commit. What comes next continues the WAL's end, and not what the file
    /// was before the checkpoint.
    pub(crate) fn forget(&mut self) {
        self.ranges.clear();
        self.tip = Tip::Unknown;
        self.drop_prepared();
    }

    /// The lock falls below EXCLUSIVE: what is prepared and not published never happened.
    pub(crate) fn unlocked(&mut self) {
        self.drop_prepared();
        self.tip = Tip::Unknown;
    }

    /// FCNTL_SYNC: the contents are saved while the journal still stands.
    pub(crate) fn prepare(&mut self, db: &Arc<Db>, database: &dyn ReadAt) {
        self.drop_prepared();
        if self.ranges.is_empty() || !db.spool().exists() {
            return;
        }
        match self.save(db, database) {
            Ok(prepared) => self.prepared = prepared,
            Err(e) => db.note("capture", &e),
        }
    }

    /// COMMIT_PHASETWO: the transaction is committed.
    pub(crate) fn publish(&mut self, db: &Arc<Db>, _database: &dyn ReadAt) {
        let wrote = !self.ranges.is_empty();
        self.ranges.clear();
        let Some(prepared) = self.prepared.take() else {
            if wrote {
                self.tip = Tip::Unknown;
                db.hand_over(Cursor::start(Salt(random().to_be_bytes())), 0);
            }
            return;
        };
        let published = (|| {
            let spool = db.spool();
            spool.publish(&prepared.head, &prepared.path)?;
            let stat = Stat::of(db.path())?.ok_or_else(|| Error::State(format!("{} is gone", db.path().display())))?;
            if let Some(end) = prepared.head.end() {
                spool.link(spool.links()?.newest(), &Link::End(End { stat, ..end }))?;
            }
            Ok(prepared.head)
        })();
        self.dirty = false;
        match published {
            Ok(head) => {
                self.tip = Tip::Proven(head.to);
                db.hand_over(head.to, head.commit);
            }
            Err(e) => {
                self.tip = Tip::Unproven;
                db.note("capture", &e);
            }
        }
    }

    /// Does the file hold what the newest End left?
    fn look(&mut self, db: &Arc<Db>, database: &dyn ReadAt) -> Tip {
        self.at_rest = false;
        let looked = (|| -> Result<Tip> {
            if !db.spool().exists() {
                return Ok(Tip::Unproven);
            }
            let Some(header) = header(database) else { return Ok(Tip::Unproven) };
            let hash = header_hash(&header);
            let stat = Stat::of(db.path())?;
            let (state, links) = (db.spool().state()?, db.spool().links()?);
            self.at_rest = link::at_rest(state.as_ref(), &links);
            let end = link::newest_end(state.as_ref(), &links)
                .filter(|end| end.header == hash || (end.header == 0 && Some(end.stat) == stat));
            Ok(end.map_or(Tip::Unproven, |end| Tip::Proven(end.cursor)))
        })();
        looked.unwrap_or(Tip::Unproven)
    }

    /// The mode was WAL when the database came to rest: the first transaction in another is told first.
    fn end_rest(&mut self, db: &Arc<Db>) {
        if !std::mem::take(&mut self.at_rest) {
            return;
        }
        let ended = db.spool().links().and_then(|links| rest::end(db.spool(), &links, false));
        if let Err(e) = ended {
            db.note("links", &e);
        }
    }

    /// Journal modes OFF and MEMORY leave nothing that would undo a half-written transaction after a kill:
    /// until its End nothing is proven.
    fn mark_dirty(&mut self, db: &Arc<Db>) {
        if self.dirty || !db.spool().exists() {
            return;
        }
        if std::fs::metadata(journal_path(db.path())).is_ok_and(|meta| meta.len() > 0) {
            return;
        }
        self.dirty = true;
        let spool = db.spool();
        let marked = spool.links().and_then(|links| spool.link(links.newest(), &Link::Dirty));
        if let Err(e) = marked {
            db.note("links", &e);
        }
    }

    fn save(&self, db: &Arc<Db>, database: &dyn ReadAt) -> Result<Option<Prepared>> {
        let Some(header) = header(database) else { return Ok(None) };
        let page_size = PageSize::from_header([header[16], header[17]]).map_err(|e| e.about(db.path()))?;
        let commit = u32::from_be_bytes(header[28..32].try_into().expect("four bytes of a longer array"));
        let change = u32::from_be_bytes(header[24..28].try_into().expect("four bytes of a longer array"));
        let stat = Stat::of(db.path())?.unwrap_or_default();
        let pages = self.pages(page_size, commit);
        let life = Salt(random().to_be_bytes());
        let follows = match self.tip {
            Tip::Proven(cursor) => Some(cursor),
            Tip::Unknown | Tip::Unproven => None,
        };
        let contents = pages.len() as u64 * u64::from(page_size.get());
        let room = db.room(u64::from(commit) * u64::from(page_size.get()));
        let head = Head {
            from: Cursor::start(life),
            to: Cursor { salt: life, frame: 1, checksum: [0, 0] },
            follows,
            page_size,
            commit,
            without_contents: contents > room,
            unlinked: follows.is_none(),
            after: Some(After { change, stat, header: header_hash(&header) }),
        };
        let (head, path) = db.spool().prepare(head, &pages, |pgno, page| {
            database.read_at(page, page_size.offset(pgno)).or_else(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Ok(()),
                _ => Err(Error::io("read", db.path(), e)),
            })
        })?;
        db.saved(contents);
        Ok(Some(Prepared { head, path }))
    }

    /// The pages of the collected ranges, ascending.
    fn pages(&self, page_size: PageSize, commit: u32) -> Vec<Pgno> {
        let size = page_size.bytes() as u64;
        let mut pages = Vec::with_capacity(self.ranges.len());
        for &(offset, len) in &self.ranges {
            let last = (offset + (len as u64).max(1) - 1) / size;
            pages.extend((offset / size..=last).map(|index| Pgno(index as u32 + 1)));
        }
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|pgno| pgno.0 <= commit && *pgno != page_size.lock_page());
        pages
    }

    fn drop_prepared(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            let _ = remove(&prepared.path); // what is left is swept at the next open
        }
    }
}

/// Nothing on record fits the file: was it left by a writer that died after its commit? RESERVED is held.
fn resolved(db: &Arc<Db>, database: &dyn ReadAt) -> Tip {
    let found = (|| -> Result<Option<End>> {
        let (Some(header), Some(stat)) = (header(database), Stat::of(db.path())?) else { return Ok(None) };
        let end = link::newest_end(db.spool().state()?.as_ref(), &db.spool().links()?);
        leftover::resolve(db.spool(), database, &stat, header_hash(&header), end)
    })();
    match found {
        Ok(Some(end)) => Tip::Proven(end.cursor),
        Ok(None) => Tip::Unproven,
        Err(e) => {
            db.note("links", &e);
            Tip::Unproven
        }
    }
}

fn header(database: &dyn ReadAt) -> Option<[u8; HEADER_BYTES]> {
    let mut header = [0u8; HEADER_BYTES];
    database.read_at(&mut header, 0).ok()?;
    Some(header)
}
