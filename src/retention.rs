//! Deletes what retention no longer keeps, and only after the files that stay were seen to lead to the same end.
//!
//! Which files may go is decided elsewhere; this is the last look before something is gone for good.

use crate::error::{Error, Result};
use crate::ltx::{FileInfo, Level, Span};
use crate::manifest::Manifest;
use crate::plan::{Target, plan};
use crate::store::Store;
use std::collections::HashSet;

/// Says why the files must not go: without them the newest state could not be restored.
pub fn check(manifest: &Manifest, files: &[(Level, Span)]) -> Result<()> {
    let Some(newest) = manifest.newest() else { return Ok(()) };
    let doomed: HashSet<&(Level, Span)> = files.iter().collect();
    let rest: Vec<FileInfo> = manifest
        .files()
        .filter(|held| held.is_usable() && !doomed.contains(&(held.info.level, held.span())))
        .map(|held| held.info.clone())
        .collect();
    let reached = plan(&rest, Target::Latest).map(|plan| plan.txid());
    match reached {
        Ok(txid) if txid == newest.span.max => Ok(()),
        Ok(txid) => Err(refused(&format!("they would lead to transaction {txid}, not to {}", newest.span.max))),
        Err(e) => Err(refused(&e.to_string())),
    }
}

/// Deletes the files, in batches where the store has them.
pub fn delete(store: &Store, files: &[(Level, Span)]) -> Result<()> {
    store.delete(files)
}

fn refused(why: &str) -> Error {
    Error::State(format!("nothing was deleted, for the files that stay must restore the database: {why}"))
}
