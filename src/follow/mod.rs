//! Follow: a local copy of a replica, kept up to date file by file, that any SQLite reads while it changes.
//!
//! One step takes everything that the replica has and the copy has not, and makes it one transaction of SQLite's
//! rollback-journal mode: a reader sees the state before or the state after, also when the follower dies between two
//! of its writes. Whose lock that is, and when to look again, is the caller's.

mod change;
mod copy;
mod journal;

pub use change::Change;
pub use copy::{LocalCopy, prepare};

use crate::error::{Error, Result};
use crate::ltx::{FileInfo, Level, Txid};
use crate::plan::{Plan, Target, onward, plan};
use crate::restore::{self, Options};
use crate::store::Store;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The copy is at the replica's end.
    Nothing,
    /// Files that continue the copy without a gap, oldest first, to the replica's end.
    Files(Vec<FileInfo>),
    /// What the copy has not read yet is gone: the whole database anew.
    Anew(Plan),
}

/// Looks for what follows `have`. While nothing is missing, that is one request.
pub fn next(store: &Store, have: Txid, options: Options<'_>) -> Result<Step> {
    let raw = store.list(Level::RAW)?;
    let end = raw.iter().map(|file| file.span.max).max();
    if end == Some(have) {
        return Ok(Step::Nothing);
    }
    let files = onward(&raw, have);
    if files.last().map(|file| file.span.max) == end && !files.is_empty() {
        return Ok(Step::Files(files));
    }
    let all = restore::list(store, options)?;
    let Some(end) = all.iter().map(|file| file.span.max).max() else {
        return Err(Error::NoBackup(format!("the replica {} is empty", store.url())));
    };
    if end == have {
        return Ok(Step::Nothing);
    }
    if end < have {
        return Err(Error::State(format!(
            "the replica {} ends at {end}, before {have}, which this copy has: it was replaced by an older one; remove the copy and its -txid file to begin anew",
            store.url()
        )));
    }
    let files = onward(&all, have);
    if files.last().is_some_and(|file| file.span.max == end) {
        return Ok(Step::Files(files));
    }
    let plan = plan(&all, Target::Latest)?;
    if plan.txid() <= have {
        return Err(Error::Gap(format!("the replica {} has nothing between {have} and {end}", store.url())));
    }
    Ok(Step::Anew(plan))
}
