//! What is committed and not stored? The Leader's look: lives, Segments and the WAL walked to the newest commit,
//! and the proof that nothing else was written. Where there is none, continuity is lost, and says why.

use crate::base::Lock;
use crate::capture;
use crate::db::{Db, Look};
use crate::error::{Error, Result};
use crate::held::Held;
use crate::image::{self, Snapshot};
use crate::leading::Leading;
use crate::leftover;
use crate::limits;
use crate::link;
use crate::ltx::Txid;
use crate::reader::Target;
use crate::reader::{self, Pending, Walk};
use crate::spool::{Link, Links, Segment, Stat, remove};
use crate::unread::{self, Unread};
use crate::wal::Cursor;
use std::collections::HashSet;
use std::time::Duration;

/// Looks in a row that may disagree with what was read before continuity counts as lost.
const LOOKS: u32 = 5;
/// Looks at a life that began beside an image, while commits go on.
const LOOKS_AT_A_LIFE: u32 = 32;
/// Lives proven late that are remembered.
const BEGUN: usize = 8;

/// What is there to be stored.
pub(crate) enum Found {
    Nothing,
    Pending(Box<Pending>),
    /// Continuity is lost, or there never was an image.
    Image(String),
    Later,
}

impl Leading<'_> {
    /// What is committed and not stored.
    pub(crate) fn find(&mut self) -> Result<Found> {
        let (mut lost, mut unread) = (String::new(), None);
        for _ in 0..LOOKS {
            let look = self.db.look();
            if look == Look::Untrusted {
                return Ok(Found::Later);
            }
            if look != Look::Blind {
                // There is a wal-index: whatever the mode was before, it is WAL now.
                self.is_in_wal_mode(true);
            }
            let target = match look {
                Look::Commits(target) => Some(target),
                Look::Blind => unread,
                Look::Empty | Look::Untrusted => None,
            };
            reader::refresh(self.db.spool(), &mut self.segments, &HashSet::new())?;
            let mut links = self.db.spool().links()?;
            let stat = Stat::of(self.db.path())?;
            if let (Some(target), Some(stat)) = (&target, &stat) {
                self.begin_late(&mut links, target, stat)?;
            }
            if !self.drop_lost()? {
                return Ok(Found::Later);
            }
            let walked = match self.start() {
                Some(start) => reader::walk(start, &mut self.segments, &links, target.as_ref(), self.db.wal())?,
                None => None,
            };
            match walked {
                None if self.state.txid == Txid(0) => lost = "no image is stored yet".into(),
                None => lost = "what was stored is not continued".into(),
                Some(Walk::Torn) => continue,
                Some(Walk::Reached(pending)) if self.drop_dead_end(&pending)? => {
                    lost = "what was committed last is lost".into();
                }
                Some(Walk::Reached(pending)) => {
                    if !pending.is_empty() && self.is_resized(pending.page_size) {
                        return Ok(Found::Image("the page size is another".into()));
                    }
                    if !pending.is_empty() || self.lone_snapshot {
                        return Ok(Found::Pending(Box::new(pending)));
                    }
                    match self.prove(&look, &links, stat, &pending.to)? {
                        Proof::Whole => {
                            self.sweep_segments(&pending.to)?;
                            return Ok(Found::Nothing);
                        }
                        Proof::Busy => return Ok(Found::Later),
                        Proof::Unread(target) => {
                            lost = "the WAL holds commits of others that do not continue what is stored".into();
                            unread = Some(target);
                            continue;
                        }
                        Proof::Lost(why) => lost = why,
                    }
                }
            }
            if self.db.look() == look && !matches!(look, Look::Blind) && self.state.cursor.is_none() {
                break;
            }
            self.db.threads().pause(limits::BLINK);
        }
        // At the end of this process no image can be made of what waits for SQLite to recover it: whoever opens it next does.
        let is_for_others = unread.is_some() && self.db.connections() == 0;
        Ok(if is_for_others { Found::Nothing } else { Found::Image(lost) })
    }

    /// Everything that was committed up to now is in `to`?
    fn prove(&mut self, look: &Look, links: &Links, stat: Option<Stat>, to: &Cursor) -> Result<Proof> {
        match look {
            Look::Commits(target) => Ok(if to.same_point(&target.cursor) {
                Proof::Whole
            } else {
                Proof::Lost("the WAL was reset or written unseen".into())
            }),
            Look::Empty => Ok(self.prove_by_end(links, stat, to)),
            Look::Blind => self.prove_by_header(links, to),
            Look::Untrusted => Ok(Proof::Busy),
        }
    }

    /// The WAL holds nothing: the file is as the newest End left it?
    fn prove_by_end(&self, links: &Links, stat: Option<Stat>, to: &Cursor) -> Proof {
        let end = link::newest_end(Some(&self.state), links);
        let same = end.is_some_and(|end| end.cursor.same_point(to) && Some(end.stat) == stat);
        if same { Proof::Whole } else { Proof::Lost("the database was written unseen".into()) }
    }

    /// Without a wal-index: in rollback modes the header shows each transaction, in WAL mode the WAL is looked at.
    fn prove_by_header(&mut self, links: &Links, to: &Cursor) -> Result<Proof> {
        // A closed WAL database is not opened once more to be asked: a host may shut SQLite down now.
        let is_end = self.db.connections() == 0;
        let wal = (is_end && !self.db.is_journal()) || journal_is_wal(self.db);
        // Somebody changed the mode: without the wal-index mapped this process sees nothing, and lets another lead.
        self.is_in_wal_mode(wal);
        if wal {
            return self.prove_by_wal(links, to);
        }
        let failed = |e| Error::io("lock", self.db.path(), e);
        let Some(held) = self.reading()? else { return Ok(Proof::Busy) };
        if !held.base.lock(Lock::Shared).map_err(failed)? {
            // A writer is at work, or exclusive locking mode holds on: what returned to its application was published.
            let end = link::newest_end(Some(&self.state), links);
            let published = end.is_some_and(|end| end.cursor.same_point(to));
            return Ok(if published { Proof::Whole } else { Proof::Busy });
        }
        let proven = self.prove_under_shared(&held, links, to);
        held.base.unlock(Lock::None).map_err(failed)?;
        proven
    }

    /// A WAL database that nobody here has read yet, or any more: others may have written it, or do, or left commits in its WAL
    /// when they died. At the end of this process what others do to the file is theirs.
    fn prove_by_wal(&mut self, links: &Links, to: &Cursor) -> Result<Proof> {
        if self.state.cursor.is_none() {
            return Ok(Proof::Lost("no image".into()));
        }
        let is_end = self.db.connections() == 0;
        if is_end && !self.db.wal().exists() {
            return Ok(Proof::Whole);
        }
        let Some(held) = self.reading()? else { return Ok(Proof::Busy) };
        Ok(match unread::look(&*held.base, self.db.path(), self.db.wal())? {
            Unread::Commits(target) if target.cursor.same_point(to) => Proof::Whole,
            Unread::Commits(target) => Proof::Unread(target),
            Unread::Nothing | Unread::Busy if is_end => Proof::Whole,
            Unread::Nothing => self.prove_by_end(links, Stat::of(self.db.path())?, to),
            Unread::Busy => Proof::Busy,
        })
    }

    /// What a look found, for who decides by it and for who reads the status.
    fn is_in_wal_mode(&self, wal: bool) {
        self.db.set_journal(!wal);
        self.db.report.journal(!wal);
    }

    fn prove_under_shared(&mut self, held: &Held<'_>, links: &Links, to: &Cursor) -> Result<Proof> {
        let base = &*held.base;
        let Some(header) = image::header(base, self.db.path())? else { return Ok(Proof::Whole) };
        self.is_in_wal_mode(header.wal);
        if image::journal_is_hot(self.db.path()) {
            return Ok(Proof::Busy);
        }
        let end = link::newest_end(Some(&self.state), links);
        let Some(stat) = Stat::of(self.db.path())? else { return Ok(Proof::Busy) };
        let proven = end.is_some_and(|end| {
            end.cursor.same_point(to) && (end.header == header.hash || (end.header == 0 && end.stat == stat))
        });
        if proven {
            // Nobody is inside a commit, and the file is something else than what these would have made of it.
            for left in self.db.spool().prepared()? {
                remove(&left)?;
            }
            return Ok(Proof::Whole);
        }
        // Left by a writer that died after its commit? Under RESERVED, as whoever writes next would find it.
        if !held.turn.may_reserve() || !base.lock(Lock::Reserved).map_err(|e| Error::io("lock", self.db.path(), e))? {
            return Ok(Proof::Busy);
        }
        let found = leftover::resolve(self.db.spool(), base, &stat, header.hash, end)?;
        Ok(if found.is_some() { Proof::Busy } else { Proof::Lost("the database was written unseen".into()) })
    }

    /// The database that is held still is at `to`: by its wal-index, or because the file is as the newest End left it.
    pub(crate) fn is_held_at(&self, held: &Held<'_>, links: &Links, now: &Snapshot<'_>, to: &Cursor) -> Result<bool> {
        let Some(now) = &now.end else { return Ok(to.same_point(&now.cursor)) };
        let end = link::newest_end(Some(&self.state), links).filter(|end| end.cursor.same_point(to));
        let Some(end) = end else { return Ok(false) };
        // In rollback modes each transaction shows in the header.
        let by_header = || {
            Ok(image::header(&*held.base, self.db.path())?.is_some_and(|header| !header.wal)
                && end.header == now.header)
        };
        if end.stat == now.stat { Ok(true) } else { by_header() }
    }

    /// A life that began while an image's End was being written, and found none: its proof is taken while the image's
    /// mark still keeps everybody from changing the file.
    pub(crate) fn prove_life(&mut self) -> Result<()> {
        for _ in 0..LOOKS_AT_A_LIFE {
            let mut links = self.db.spool().links()?;
            match (self.db.look(), Stat::of(self.db.path())?) {
                (Look::Commits(target), Some(stat)) => {
                    self.begin_late(&mut links, &target, &stat)?;
                    if links.begin_of(target.cursor.salt).is_some() {
                        return Ok(());
                    }
                }
                // Between two commits' copies of the header nothing can be read.
                (Look::Untrusted, Some(_)) => {}
                _ => return Ok(()),
            }
            self.db.threads().pause(Duration::ZERO);
        }
        Ok(())
    }

    /// A life without a Begin that provably continues the newest End: in memory only, for the Leader holds no
    /// lock of SQLite's. Once proven it stays so, though a checkpoint changes the file.
    fn begin_late(&mut self, links: &mut Links, target: &Target, stat: &Stat) -> Result<()> {
        let salt = target.cursor.salt;
        for begin in &self.begun {
            links.assume(*begin);
        }
        if links.begin_of(salt).is_some() || self.state.cursor.is_some_and(|cursor| cursor.salt == salt) {
            return Ok(());
        }
        let Some(end) = link::newest_end(Some(&self.state), links) else { return Ok(()) };
        let Some((file, header)) = reader::open_wal(self.db.wal())? else { return Ok(()) };
        if header.salt != salt || end.stat != *stat {
            return Ok(());
        }
        let Some((change, frames)) = self.db.change() else { return Ok(()) };
        let chain = capture::chain_up_to(&reader::WalFile(file), None, frames).map_err(|e| e.about(self.db.wal()))?;
        // A reset in between cuts the chain short of the frames that were counted.
        if let Some(chain) = chain.filter(|chain| chain.cursor.frame == frames)
            && link::began(&end, salt, stat, change, chain.commits, chain.repeats)
        {
            let begin = Link::Begin { salt, follows: end.cursor };
            links.assume(begin);
            self.begun.push(begin);
            let surplus = self.begun.len().saturating_sub(BEGUN);
            self.begun.drain(..surplus);
        }
        Ok(())
    }

    /// Segments that a crash left behind after `state` had moved past them, and those of lives before an image. Everything
    /// that was committed is in `at`; what else was saved since that was looked up must not go with them.
    fn sweep_segments(&mut self, at: &Cursor) -> Result<()> {
        let mut others = Vec::new();
        for Segment { path, head, .. } in &self.segments {
            if head.from.salt == at.salt && head.to.salt == at.salt && head.to.frame <= at.frame {
                remove(path)?;
            }
            if head.from.salt != at.salt && !head.follows.is_some_and(|follows| follows.same_point(at)) {
                others.push(path.clone());
            }
        }
        if !others.is_empty() && self.is_still_whole(at)? {
            for path in others {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Asked after the Segments were listed, so that it is true of all of them. No time of a file tells: clocks are set.
    fn is_still_whole(&mut self, at: &Cursor) -> Result<bool> {
        let look = match self.db.look() {
            // Closed, as far as this process sees. Without a WAL nobody has committed anything since the End.
            Look::Blind if journal_is_wal(self.db) => {
                if self.db.wal().exists() {
                    return Ok(false);
                }
                Look::Empty
            }
            look => look,
        };
        let (links, stat) = (self.db.spool().links()?, Stat::of(self.db.path())?);
        Ok(matches!(self.prove(&look, &links, stat, at)?, Proof::Whole))
    }
}

/// What a look at the end of the walk says.
enum Proof {
    Whole,
    Busy,
    /// Commits up to here, in a WAL that this process does not have open.
    Unread(Target),
    Lost(String),
}

/// Journal mode WAL, by the header. Read through a handle of the base VFS.
pub(crate) fn journal_is_wal(db: &Db) -> bool {
    let opened = db.base().open_database(db.path(), true);
    opened.ok().and_then(|base| image::header(&*base, db.path()).ok().flatten()).is_none_or(|header| header.wal)
}
