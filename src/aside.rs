//! What stands in the way and may still be wanted: moved to a name beside its own, with the time in it, and named in the
//! log. Nothing here is ever deleted but empty files.

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::names::remove;
use crate::reader::suffixed;
use crate::spool::{Spool, Stat};
use std::path::{Path, PathBuf};

/// Renames what stands in the way, and says so where it holds something.
pub(crate) fn set_aside(path: &Path, why: &str) -> Result<()> {
    if let Some(aside) = rename_aside(path, why)? {
        log::warn!(target: "litestream", "{} was moved aside to {}", path.display(), aside.display());
    }
    Ok(())
}

/// The new name of a file that holds something; an empty one is deleted.
fn rename_aside(path: &Path, why: &str) -> Result<Option<PathBuf>> {
    let Some(stat) = Stat::of(path)? else { return Ok(None) };
    if stat.size == 0 {
        return remove(path).map(|()| None);
    }
    let aside = suffixed(path, &format!("{why}-{}", Time::now().0));
    match std::fs::rename(path, &aside) {
        // Stored meanwhile, and removed by the Leader.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        moved => moved.map(|()| Some(aside)).map_err(|e| Error::io("move aside", path, e)),
    }
}

/// Segments of a database that is gone; how many.
pub(crate) fn set_segments_aside(spool: &Spool) -> Result<usize> {
    let mut count = 0;
    for path in spool.segments()? {
        count += usize::from(rename_aside(&path, "-aside")?.is_some());
    }
    Ok(count)
}
