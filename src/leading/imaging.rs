//! A new image, where there is none yet or continuity is lost: one road for all reasons. What an image is and how it is held
//! still is `image`'s; how it is copied in a rollback-journal mode is `copy`'s.

use super::Leading;
use crate::copy::{Copying, Sliced};
use crate::db::Look;
use crate::error::Result;
use crate::held::Held;
use crate::image::{self, Snapshot};
use crate::limits;
use crate::ltx::{Span, Txid};
use crate::page::PageSize;
use crate::report::Phase;
use crate::spool::Stat;
use crate::uploader::{Source, Unfinished, encode_image};
use crate::worker::Turn;
use std::time::Instant;

impl Leading<'_> {
    /// Makes one, or goes on with it; `why` is for the log.
    pub(super) fn image(&mut self, why: &str) -> Result<Turn> {
        if !self.still_leads()? {
            return Ok(Turn::Following);
        }
        if self.copying.is_none() {
            image::let_tick_pass(self.db.path(), self.db.threads())?;
        }
        let Some(held) = self.reading()? else { return Ok(Turn::Later(limits::SHORT)) };
        let Some(header) = image::header(&*held.base, self.db.path())? else { return Ok(Turn::Stored) };
        // A WAL that stands beside a file whose header names another mode is used all the same: it was left behind there.
        let is_wal = header.wal || self.db.look() != Look::Blind;
        self.db.report.journal(!is_wal);
        if !is_wal {
            self.state.cursor = None;
            self.db.report.phase(Phase::Imaging);
            return self.image_by_slices(held);
        }
        if self.db.change().is_some() && image::shm_is_gone(self.db.path()) {
            let why = "its -wal and -shm were deleted while this process has it open (a connection was carried across a fork, or somebody removed them): what is written to them now is lost to everybody; close it and open it again";
            self.db.report.phase(Phase::Failed(why.into()));
            return Ok(Turn::Later(limits::BEAT.1));
        }
        if !self.db.report.is_awaited()
            && let Some(pause) = self.pace.wait(Instant::now())
        {
            return Ok(Turn::Later(pause));
        }
        let Some(mut snapshot) = Snapshot::begin(&*held.base, self.db.path(), self.db.wal())? else {
            let why = "the database is locked or waits for recovery; an image follows as soon as it can be read (locking_mode=EXCLUSIVE has to be left once)";
            self.db.report.phase(Phase::Waiting(why.into()));
            return Ok(Turn::Later(limits::BEAT.0));
        };
        if self.state.txid > Txid(0) {
            log::info!(target: "litestream", "{}: a new image is made as {}: {why}", self.db.path().display(), self.state.txid.next());
        }
        if self.pace.insists() {
            held.turn.insist();
        }
        self.end_as_known(&mut snapshot)?;
        self.db.report.phase(Phase::Imaging);
        self.pace.begin(Instant::now());
        self.state.cursor = None;
        self.state.image = Some(snapshot.cursor);
        self.state.end = snapshot.end;
        self.state.end_after = self.db.spool().links()?.newest();
        self.db.spool().set_state(&mut self.state)?;
        if snapshot.end.is_some() {
            self.prove_life()?;
        }
        let (time, txid) = (self.next_time(), self.state.txid.next());
        let what = (snapshot.page_size, snapshot.commit, snapshot.cursor);
        let (db, inode) = (self.db, self.state.inode);
        // Of a deleted file an image is worth something, until another one has its name: that finds this one's wal-index.
        let is_replaced = || matches!(Stat::of(db.path()), Ok(Some(stat)) if stat.inode != inode);
        let image = encode_image(db.spool(), Span::one(txid), time, what, &Source::Snapshot(&snapshot), |_| {
            db.reader_is_asked() || is_replaced()
        })?;
        let still = snapshot.held(db.path())?;
        if image.is_some() {
            snapshot.make_durable(self.db.path())?; // where it was sent away, somebody waits
        }
        self.pace.end(Instant::now());
        drop(snapshot);
        drop(held);
        self.image_done(image, still)
    }

    /// True where no file of these pages can be merged with what is stored.
    pub(crate) fn is_resized(&self, page_size: PageSize) -> bool {
        self.state.txid > Txid(0) && self.state.page_size != page_size.get()
    }

    /// Rollback modes: a reader blocks commits, so the file is copied in short slices.
    fn image_by_slices(&mut self, held: Held<'_>) -> Result<Turn> {
        let mut copying = match self.copying.take() {
            Some(copying) => copying,
            None => match Copying::begin(self.db, &*held.base, &mut self.state)? {
                Some(copying) => copying,
                None => return Ok(Turn::Later(limits::SHORT)),
            },
        };
        let sliced = copying.slice(self.db, &*held.base)?;
        drop(held);
        match sliced {
            Sliced::More => {
                self.copying = Some(copying);
                Ok(Turn::Later(limits::BETWEEN_SLICES))
            }
            Sliced::Again => Ok(Turn::Later(limits::SHORT)),
            Sliced::Done => {
                crate::copy::make_durable(self.db)?;
                let (time, txid) = (self.next_time(), self.state.txid.next());
                let what = (copying.page_size, copying.commit, copying.cursor);
                let source = Source::Copy(copying.file(), copying.path());
                let image = encode_image(self.db.spool(), Span::one(txid), time, what, &source, |_| false)?;
                self.image_done(image, true)
            }
        }
    }

    fn image_done(&mut self, image: Option<Unfinished>, held: bool) -> Result<Turn> {
        match image {
            Some(image) if held => {
                self.outgoing = Some(image.finish(self.db.spool())?);
                Ok(Turn::More)
            }
            Some(image) => {
                image.discard()?;
                Ok(Turn::Later(limits::SHORT))
            }
            None => Ok(Turn::Later(limits::SHORT)),
        }
    }
}
