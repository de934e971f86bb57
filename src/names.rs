//! Names of files: made durable, changed and removed, with the path in every error.
//!
//! A name is durable once the folder that holds it is synced. What the files hold is their owners' business.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|e| Error::io("sync", folder, e))
}

/// Makes the names beside a database durable. A folder that this user may not read cannot be synced: SQLite, too, goes on.
pub fn sync_beside(database: &Path) -> Result<()> {
    match sync_folder(database.parent().unwrap_or(Path::new("/"))) {
        Err(Error::Io { kind: ErrorKind::PermissionDenied, .. }) => Ok(()),
        synced => synced,
    }
}

/// Deletes a file; one that is gone is no error.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Renames within a folder; what has that name is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}
