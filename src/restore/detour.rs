//! A file that turns out damaged is left out, where others lead to the same transaction: a snapshot before it, a
//! compacted file over it. Never to an older one, and never without a word in the log.

use super::{Options, list_for};
use crate::error::{Error, Result};
use crate::limits::RESTORE_DETOURS;
use crate::ltx::{FileInfo, Level, Span, Txid};
use crate::plan::{Plan, Target, plan, too_short};
use crate::store::Store;

/// Why a plan could not be carried out: this file is not what it should be.
pub(super) struct Damage {
    pub file: FileInfo,
    pub error: Error,
}

/// The next plan of a restore, and the next.
pub(super) struct Detours<'a> {
    store: &'a Store,
    target: Target,
    options: Options<'a>,
    /// Files that are damaged, and what was said of the last.
    without: Vec<(Level, Span)>,
    last: Option<Error>,
    /// Where the first plan led.
    reach: Txid,
}

impl<'a> Detours<'a> {
    pub fn new(store: &'a Store, target: Target, first: &Plan, options: Options<'a>) -> Detours<'a> {
        Detours { store, target, options, without: Vec::new(), last: None, reach: first.txid() }
    }

    /// A plan after one that failed: a file was gone, or is damaged. What was said of that where there is no other way.
    pub fn next(&mut self, before: &Plan, damage: Option<Damage>) -> Result<Plan> {
        let is_new = damage.is_some();
        if let Some(Damage { file, error }) = damage {
            (self.options.doubt)(&file);
            if !self.options.around_damage || self.without.len() == RESTORE_DETOURS {
                return Err(error);
            }
            self.without.push((file.level, file.span));
            self.last = Some(error);
        }
        let mut files = list_for(self.store, self.target, self.options)?;
        files.retain(|file| !self.without.contains(&(file.level, file.span)));
        let plan = decide(self.store, &files, self.target, self.options);
        let Some(said) = &self.last else { return plan };
        match plan {
            Ok(plan) if plan.txid() >= self.reach => {
                if is_new {
                    warn(self.store, said, before, &plan);
                }
                Ok(plan)
            }
            _ => Err(said.clone()),
        }
    }
}

/// Plans. A file that is too short to be one is known as damaged by the listing.
pub(super) fn decide(store: &Store, files: &[FileInfo], target: Target, options: Options<'_>) -> Result<Plan> {
    let said = match plan(files, target) {
        Err(said @ Error::Corrupt(_)) if options.around_damage => said,
        other => return other,
    };
    let (short, sound): (Vec<FileInfo>, Vec<FileInfo>) =
        files.iter().cloned().partition(|file| too_short(file).is_some());
    // Where the plan led if they were what they are named.
    let as_named: Vec<FileInfo> = files.iter().map(|file| FileInfo { size: u64::MAX, ..file.clone() }).collect();
    let wanted = plan(&as_named, target)?;
    match plan(&sound, target) {
        Ok(found) if found.txid() >= wanted.txid() => {
            let planned = |file: &&FileInfo| {
                wanted.files.iter().any(|other| (other.level, other.span) == (file.level, file.span))
            };
            for said in short.iter().filter(planned).filter_map(too_short) {
                warn(store, &said, &wanted, &found);
            }
            Ok(found)
        }
        _ => Err(said),
    }
}

fn warn(store: &Store, said: &Error, before: &Plan, plan: &Plan) {
    let is_new = |file: &&FileInfo| !before.files.iter().any(|old| (old.level, old.span) == (file.level, file.span));
    let instead: Vec<&FileInfo> = plan.files.iter().filter(is_new).collect();
    let instead = match &instead[..] {
        [] => "without it".to_string(),
        [one] => format!("instead by {}", one.name()),
        [first, .., last] => format!("instead by {} files, {} to {}", instead.len(), first.name(), last.name()),
    };
    log::warn!(target: "litestream", "{}: {said}; transaction {} is restored {instead}", store.url(), plan.txid());
}
