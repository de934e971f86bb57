//! Follow: a local copy of a replica, kept up to date file by file, that any SQLite reads while it changes.
//!
//! One step takes everything that the replica has and the copy has not, and makes it one transaction of SQLite's
//! rollback-journal mode: a reader sees the state before or the state after, also when the follower dies between two
//! of its writes. Whose lock that is, and when to look again, is the caller's.

mod change;
mod copy;
mod journal;

pub use change::{Change, Fetched};
pub use copy::{LocalCopy, prepare};

use crate::error::{Error, Result};
use crate::ltx::{FileInfo, Level, Txid};
use crate::plan::{Plan, Target, onward, plan, too_short};
use crate::restore::{self, Options};
use crate::store::Store;

/// What is to be done next.
#[derive(Debug, Clone)]
pub enum Step {
    /// The copy is at the replica's end.
    Nothing,
    /// Files that continue the copy without a gap, oldest first: to the replica's end, or to where only damaged ones follow.
    Files(Vec<FileInfo>),
    /// What the copy has not read yet is gone: the whole database anew.
    Anew(Plan),
    /// A damaged file is in the way, and no other leads past it: what is wrong with it.
    Stuck(Error),
}

/// Looks for what follows `have`, `without` files that are damaged. While nothing is missing, that is one request.
pub fn next(store: &Store, have: Txid, without: &[(FileInfo, Error)], options: Options<'_>) -> Result<Step> {
    let same = |a: &FileInfo, b: &FileInfo| (a.level, a.span) == (b.level, b.span);
    let why = |file: &FileInfo| {
        let known = without.iter().find(|(damaged, _)| same(damaged, file)).map(|(_, e)| e.clone());
        known.or_else(|| too_short(file))
    };
    let usable =
        |files: &[FileInfo]| -> Vec<FileInfo> { files.iter().filter(|file| why(file).is_none()).cloned().collect() };
    let end_of = |files: &[FileInfo]| files.iter().map(|file| file.span.max).max();
    let raw = store.list(Level::RAW)?;
    let end = end_of(&raw);
    if end == Some(have) {
        return Ok(Step::Nothing);
    }
    let files = onward(&usable(&raw), have);
    if end_of(&files) == end && !files.is_empty() {
        return Ok(Step::Files(files));
    }
    let all = restore::list(store, options)?;
    let Some(end) = end_of(&all) else {
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
    let sound = usable(&all);
    let files = onward(&sound, have);
    if end_of(&files) == Some(end) {
        return Ok(Step::Files(files));
    }
    let damaged = all.iter().filter(|file| file.span.max > have).min_by_key(|file| (why(file).is_none(), file.span));
    match (plan(&sound, Target::Latest), damaged.and_then(why)) {
        (Ok(plan), _) if plan.txid() == end => Ok(Step::Anew(plan)),
        (_, Some(_)) if !files.is_empty() => Ok(Step::Files(files)),
        (Ok(plan), Some(_)) if plan.txid() > have => Ok(Step::Anew(plan)),
        (_, Some(why)) => Ok(Step::Stuck(why)),
        (Ok(plan), None) if plan.txid() > have => Ok(Step::Anew(plan)),
        (Ok(_), None) => Err(Error::Gap(format!("the replica {} has nothing between {have} and {end}", store.url()))),
        (Err(e), None) => Err(e),
    }
}
