//! A replica may hold both layouts: LTX files, and what Litestream 0.3 left there. The newest of both wins.

use super::detour::decide;
use super::{Options, Restored, carry_out, exact, list, moments, older, prepare, source};
use crate::error::{Error, Result};
use crate::limits::SAME_TIME;
use crate::ltx::FileInfo;
use crate::plan::older::{self as older_plan, Until, Wish};
use crate::plan::{Plan, Target};
use crate::store::Store;
use crate::v3::{Moment, Object};
use std::path::Path;

/// What will be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Either {
    /// LTX files.
    Ltx(Plan),
    /// Objects of 0.3.
    Older(older_plan::Plan),
}

/// What was restored, of one layout or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebuilt {
    /// LTX files.
    Ltx(Restored),
    /// Objects of 0.3.
    Older(older::Restored),
}

impl Either {
    /// Restores into `out`, a path where nothing stands, by this plan for `target` and `wish`.
    pub fn carry_out(
        self,
        store: &Store,
        target: Target,
        wish: &Wish,
        out: &Path,
        options: Options<'_>,
    ) -> Result<Rebuilt> {
        match self {
            Either::Ltx(plan) => carry_out(store, target, plan, out, options).map(Rebuilt::Ltx),
            Either::Older(plan) => older::carry_out(store, wish, plan, out, options).map(Rebuilt::Older),
        }
    }
}

impl std::fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rebuilt::Ltx(restored) => restored.txid().fmt(f),
            Rebuilt::Older(restored) => write!(f, "{}/{}", restored.generation, restored.index),
        }
    }
}

/// Restores the newest of both layouts into `out`, a path where nothing stands.
pub fn newest(store: &Store, out: &Path, options: Options<'_>) -> Result<Rebuilt> {
    let plan = choose(store, Target::Latest, &Wish::LATEST, options)?;
    plan.carry_out(store, Target::Latest, &Wish::LATEST, out, options)
}

/// Plans over both layouts. `wish` says for 0.3 what `target` says for LTX; a transaction is looked for in LTX only, a
/// generation or an index in 0.3 only.
pub fn choose(store: &Store, target: Target, wish: &Wish, options: Options<'_>) -> Result<Either> {
    if wish.generation.is_some() || matches!(wish.until, Until::Index(_)) {
        return older_plan::plan(&older::list(store)?, wish).map(Either::Older);
    }
    if matches!(target, Target::Txid(_)) {
        return prepare(store, target, options).map(Either::Ltx);
    }
    let objects = older::list(store)?;
    if objects.is_empty() {
        return prepare(store, target, options).map(Either::Ltx);
    }
    let listed = list(store, options)?;
    match target {
        Target::Time(_) => at_time(store, target, wish, &objects, &listed, options),
        _ => latest(store, &objects, &listed, options),
    }
}

fn latest(store: &Store, objects: &[Object], listed: &[FileInfo], options: Options<'_>) -> Result<Either> {
    let older = older_plan::newest(objects, &Wish::LATEST).map(|newest| newest.created);
    let ltx = listed.iter().map(|file| file.listed).max().map(Moment::from);
    if ltx >= older.map(|older| Moment::from(older.time())) {
        return decide(store, listed, Target::Latest, options).map(Either::Ltx);
    }
    if let (Some(last), Some(older)) =
        (listed.iter().max_by_key(|file| (file.span.max, std::cmp::Reverse(file.level))), older)
    {
        // 0.3's files look newer. A copy that did not keep the times of files makes them look so too.
        let written = source::header(store, last)?.timestamp;
        let delay = last.listed.0 - written.0;
        if written < older.time() && delay > SAME_TIME.as_millis() as i64 {
            return Err(Error::State(format!(
                "replica {} holds LTX files (written until {}) and files of Litestream 0.3 (dated {}), and its dates are those of a copy, so they do not tell which are newer: restore one of them with -txid {} or -generation, and move the other away",
                store.url(),
                written.rfc3339(),
                older.rfc3339(),
                last.span.max
            )));
        }
    }
    older_plan::plan(objects, &Wish::LATEST).map(Either::Older)
}

fn at_time(
    store: &Store,
    target: Target,
    wish: &Wish,
    objects: &[Object],
    listed: &[FileInfo],
    options: Options<'_>,
) -> Result<Either> {
    let files = match target {
        Target::Time(time) => moments::dated(store, listed, time, options)?,
        _ => exact(store, listed, options)?,
    };
    if let (Until::Time(time), true) = (wish.until, options.bounded) {
        let times = || {
            let ltx = files.iter().chain(listed).map(|file| Moment::from(file.listed));
            ltx.chain(objects.iter().map(|object| object.created))
        };
        let (oldest, newest) = (times().min().unwrap_or(time), times().max().unwrap_or(time));
        if time < oldest || time > newest {
            let (oldest, newest) = (oldest.rfc3339(), newest.rfc3339());
            return Err(Error::Usage(format!("timestamp does not exist: the replica covers {oldest} to {newest}")));
        }
    }
    let ltx = match decide(store, &files, target, options) {
        Err(Error::NoBackup(_)) => None,
        other => Some(other?),
    };
    let older = older_plan::newest(objects, wish).map(|newest| newest.created);
    match ltx {
        Some(plan) if older.is_none_or(|older| plan.time() >= older.time()) => Ok(Either::Ltx(plan)),
        _ => older_plan::plan(objects, wish).map(Either::Older),
    }
}
