//! What the thread of the upkeep does: one merge, one batch of deletions, one proof of a file.
//!
//! What is to be done was decided before; what follows from it is `history`'s.

use crate::compactor::{self, Inputs, Merged};
use crate::db::Db;
use crate::due::Merge;
use crate::error::{Error, Result};
use crate::ltx::{FileInfo, Level, Span};
use crate::retention;
use crate::spool::remove;
use crate::store::Store;
use crate::verify;
use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What was done.
pub(super) enum Done {
    /// With the inputs that were read from the store for it.
    Merged(Merged, Vec<(Level, Span)>),
    Deleted,
    /// A planned file was gone: the replica was listed anew.
    Learnt(Vec<FileInfo>),
    /// An input is not what it should be, or its local copy is not.
    Doubted((Level, Span), Error),
    /// A file is what it should be, or why not.
    Proved(Option<Error>),
}

/// Taken back when the Leader leaves: a thread that is still at work then neither puts nor deletes.
#[derive(Default)]
pub(super) struct Permit(Mutex<bool>);

impl Permit {
    pub(super) fn taken_back(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn check(&self) -> Result<()> {
        if *self.taken_back() { Err(Error::Busy("this process leads no more".into())) } else { Ok(()) }
    }
}

/// What the thread needs.
pub(super) struct Task {
    pub(super) db: Arc<Db>,
    pub(super) store: Arc<Store>,
    pub(super) inode: u64,
    pub(super) permit: Arc<Permit>,
}

impl Task {
    pub(super) fn merge(&self, merge: &Merge, local: &HashMap<Span, PathBuf>, out: &Path) -> Result<Done> {
        let doubted = Cell::new(None);
        let inputs = Inputs {
            store: &self.store,
            local: &|info| local.get(&info.span).cloned(),
            go_on: &|| self.permit.check(),
            doubt: &|info| doubted.set(Some((info.level, info.span))),
        };
        let merged = match (compactor::merge(&inputs, merge, out), doubted.get()) {
            (Err(Error::NoBackup(_)), _) => return Ok(Done::Learnt(list(&self.store)?)),
            (Err(e), Some(file)) => return Ok(Done::Doubted(file, e)),
            (other, _) => other?,
        };
        let put = self.still_leads().and_then(|()| compactor::put(&self.store, merge.level, &merged));
        if put.is_err() {
            // The reason of the failure says more than one about a temporary file.
            let _ = remove(out);
        }
        let read = merge.inputs[merged.inputs.clone()].iter().filter(|info| !local.contains_key(&info.span));
        let read = read.map(|info| (info.level, info.span)).collect();
        put.map(|()| Done::Merged(merged, read))
    }

    pub(super) fn prove(&self, file: &FileInfo) -> Result<Done> {
        match verify::prove(&self.store, file, &|| self.permit.check()) {
            Ok(()) => Ok(Done::Proved(None)),
            Err(e @ Error::Corrupt(_)) => Ok(Done::Proved(Some(e))),
            Err(Error::NoBackup(_)) => Ok(Done::Learnt(list(&self.store)?)),
            Err(e) => Err(e),
        }
    }

    pub(super) fn delete(&self, files: &[(Level, Span)]) -> Result<Done> {
        self.still_leads()?;
        retention::delete(&self.store, files).map(|()| Done::Deleted)
    }

    /// As before each put of the Leader. Asked under the permit: a lock that was given back is never taken again here.
    fn still_leads(&self) -> Result<()> {
        let taken_back = self.permit.taken_back();
        let inode = crate::spool::Stat::of(self.db.path())?.map(|stat| stat.inode);
        let spool = self.db.spool();
        let leads = !*taken_back && spool.exists() && inode == Some(self.inode) && self.db.leadership.hold(spool)?;
        if leads { Ok(()) } else { Err(Error::Busy("another process leads".into())) }
    }
}

/// Every file of a replica.
pub(crate) fn list(store: &Store) -> Result<Vec<FileInfo>> {
    let mut listing = Vec::new();
    for level in store.levels()? {
        listing.extend(store.list(level)?);
    }
    Ok(listing)
}
