//! A new database under the name of a deleted one: nothing that the Spool or a Leader knows of the old one may prove
//! anything of the new one. What is in the Store stays restorable.

use crate::aside::set_segments_aside;
use crate::db::Db;
use crate::error::Result;
use crate::spool::{Link, State};
use std::sync::atomic::Ordering;

/// A new database begins under this name: what `state` and `links` say is another's. An inode may come again, and
/// a header, too; so nothing of the old one may count as proof.
pub(crate) fn forget(db: &Db) -> Result<()> {
    let spool = db.spool();
    if !spool.state()?.is_some_and(|state| knows(&state)) && db.report.reached().is_none() {
        return Ok(());
    }
    // A Leader of this process writes `state` itself, before its next look; what it writes until then is older than
    // the Dirty. One of another process notices that `state` is not its own any more.
    db.forget.store(true, Ordering::Release);
    if !db.has_worked() {
        by_leader(db)?;
    }
    spool.link(spool.links()?.newest(), &Link::Dirty)?;
    let count = set_segments_aside(spool)?;
    log::debug!(target: "litestream", "{}: a new database begins; {count} Segments of the old one were moved aside", db.path().display());
    Ok(())
}

fn knows(state: &State) -> bool {
    state.cursor.is_some() || state.image.is_some() || state.end.is_some()
}

/// The part of `forget` that is the Leader's, where there is one.
pub(crate) fn by_leader(db: &Db) -> Result<()> {
    // Before the write: a file that is deleted meanwhile asks again.
    db.forget.store(false, Ordering::Release);
    let written = (|| {
        let Some(mut state) = db.spool().state()?.filter(knows) else { return Ok(()) };
        (state.cursor, state.image, state.end, state.inode) = (None, None, None, 0);
        db.spool().set_state(&mut state)
    })();
    if written.is_err() {
        db.forget.store(true, Ordering::Release);
    }
    written
}
