//! Is what the VFS below stores what it is given? One that encrypts would be undone by every file that we make.
//!
//! SQLite's own VFSes need no question. Of another, the file's first bytes are compared with what it reads there, once
//! for each database and before anything of it is stored.

use crate::db::Db;
use crate::error::{Error, Result};
use crate::image::MAGIC;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// An error where the VFS below turns pages into something else.
pub(crate) fn check(db: &Db) -> Result<()> {
    if db.base().is_native() {
        return Ok(());
    }
    let is_plain = match db.stored_as_given.get() {
        Some(known) => *known,
        None => match compare(db)? {
            Some(found) => *db.stored_as_given.get_or_init(|| found),
            None => return Ok(()),
        },
    };
    if is_plain {
        return Ok(());
    }
    Err(Error::State(format!(
        "the VFS `{}` below stores other bytes than it is given (it encrypts?), and the replica would hold them in the clear: \
         nothing is stored; give replica=off",
        db.base().name()
    )))
}

/// `None` where there is nothing to compare yet.
fn compare(db: &Db) -> Result<Option<bool>> {
    let path = db.path();
    let (mut given, mut stored) = ([0u8; MAGIC.len()], [0u8; MAGIC.len()]);
    let base = db.base().open_database(path, true).map_err(|e| Error::io("open", path, e))?;
    if base.read_at(&mut given, 0).is_err() {
        return Ok(None);
    }
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let read = file.read_exact_at(&mut stored, 0);
    // Never closed: closing any descriptor of a file gives up all locks that this process has on it.
    std::mem::forget(file);
    Ok(read.is_ok().then_some(given == stored))
}
