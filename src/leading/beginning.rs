//! An image that no older file leads to: its pages have another size, or files are missing in the replica.
//!
//! It needs a snapshot to begin a plan, and a snapshot alone would have no other writer's file in its way: two would
//! store one transaction, and a restore would choose. So it is put as a raw file first, under the name that any
//! writer's next file has, and then as the snapshot. Between the two a restore finds every page in the raw file.

use super::Leading;
use crate::compactor::{self, Inputs, Merged};
use crate::due::Merge;
use crate::error::{Error, Result};
use crate::fault;
use crate::ltx::Level;
use crate::names::remove;
use crate::uploader::Outgoing;

/// The snapshot of an image that waits as a raw file. Its local file goes with it.
pub(super) struct Beginning {
    pub(super) whole: Merged,
    /// The raw file is stored.
    is_fenced: bool,
}

impl Beginning {
    fn is_of(&self, outgoing: &Outgoing) -> bool {
        (self.whole.header.span.max, self.whole.header.timestamp) == (outgoing.txid, outgoing.time)
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        let _ = remove(&self.whole.path); // the next Leader sweeps what is left
    }
}

impl Leading<'_> {
    /// True where no file before `outgoing` can be merged with it.
    pub(super) fn begins_anew(&self, outgoing: &Outgoing) -> bool {
        outgoing.level() == Level::RAW && self.is_resized(outgoing.page_size)
    }

    /// Puts an image under both names. Both of its files are whole before the first is put, so that only a put lies
    /// between. `false` where this process leads no more.
    pub(super) fn put_beginning(&mut self) -> Result<bool> {
        let outgoing = self.outgoing.as_ref().expect("the caller looked");
        let mut beginning = match self.beginning.take() {
            Some(begun) if begun.is_of(outgoing) => begun,
            _ => Beginning { whole: self.whole(outgoing)?, is_fenced: false },
        };
        let put = (|| {
            if !beginning.is_fenced {
                self.put_one(outgoing)?;
                beginning.is_fenced = true;
            }
            fault::point("fenced");
            if !self.still_leads()? {
                return Ok(false);
            }
            compactor::put(&self.store, Level::SNAPSHOT, &beginning.whole).map(|()| true)
        })();
        if !matches!(put, Err(Error::Conflict(_))) {
            self.beginning = Some(beginning);
        }
        put
    }

    fn whole(&self, outgoing: &Outgoing) -> Result<Merged> {
        let from =
            Inputs { store: &self.store, local: &|_| Some(outgoing.path.clone()), go_on: &|| Ok(()), doubt: &|_| {} };
        let merge = Merge { level: Level::SNAPSHOT, inputs: vec![outgoing.info()] };
        let whole = compactor::merge(&from, &merge, &self.db.spool().temporary("whole"));
        whole.map_err(|e| match e {
            Error::Busy(_) => Error::Busy(format!(
                "an image that no older file leads to is stored under two names, and its second file of {} bytes waits for room on the disk of {}; commits go on and stay on this machine",
                outgoing.size,
                self.db.spool().folder().display()
            )),
            other => other,
        })
    }
}
