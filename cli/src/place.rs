//! Where a restored database goes: what may stand there, the temporary file beside it, and the moment of the rename.
//!
//! The old database stays until the new one is complete and durable. A `-wal`, `-shm` or `-journal` of a database
//! that is gone is moved aside: SQLite would replay it over the restored file.

use crate::output::{Failure, Notes};
use litestream_engine::clock::Time;
use litestream_engine::reader::suffixed;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Between a database's name and the rest of a temporary file's.
const TEMPORARY: &str = ".restoring-";

/// Age without a write after which a temporary file's writer is taken for dead.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// A path that a database may be restored to.
pub struct Place {
    path: PathBuf,
    /// What stands there and will be replaced.
    old: Option<Metadata>,
    temporary: PathBuf,
}

impl Place {
    /// Looks at the path and refuses where Litestream does.
    pub fn new(path: &Path, force: bool) -> Result<Place, Failure> {
        // A link stays, and the database that it leads to is meant.
        let resolved = fs::canonicalize(path);
        let path = resolved.as_deref().unwrap_or(path);
        if resolved.is_err() && path.is_symlink() {
            return Err(Failure::new(format!("cannot restore, {} is a link that leads nowhere", path.display())));
        }
        let old = match fs::metadata(path) {
            Ok(old) => Some(old),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(Failure::new(format!("stat {}: {e}", path.display()))),
        };
        if old.as_ref().is_some_and(Metadata::is_dir) {
            return Err(Failure::new(format!("cannot restore, output path is a directory: {}", path.display())));
        }
        if let (Some(old), false) = (&old, force) {
            if old.len() > 0 {
                return Err(Failure::new(format!(
                    "cannot restore, output path already exists and is not empty: {}. Use -force to overwrite",
                    path.display()
                )));
            }
            if let Some(sidecar) = sidecars(path).into_iter().find(|sidecar| sidecar.exists()) {
                return Err(Failure::new(format!(
                    "cannot restore, SQLite sidecar path already exists: {}. Use -force to overwrite",
                    sidecar.display()
                )));
            }
        }
        let temporary = suffixed(path, &format!("{TEMPORARY}{:016x}", RandomState::new().hash_one(std::process::id())));
        Ok(Place { path: path.to_path_buf(), old, temporary })
    }

    /// The file to restore into: nothing stands there, and it is on the same file system.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Makes the folders above, and removes what killed restores left behind.
    pub fn prepare(&self) -> Result<(), Failure> {
        let folder = self.folder();
        fs::create_dir_all(folder).map_err(|e| Failure::new(format!("create {}: {e}", folder.display())))?;
        let Some(name) = self.path.file_name() else {
            return Err(Failure::new(format!("cannot restore, output path is a directory: {}", self.path.display())));
        };
        let mut start = name.to_os_string();
        start.push(TEMPORARY);
        let entries = fs::read_dir(folder).map_err(|e| Failure::new(format!("read {}: {e}", folder.display())))?;
        for entry in entries.flatten() {
            let ours = entry.file_name().as_encoded_bytes().starts_with(start.as_encoded_bytes());
            let written = entry.metadata().and_then(|about| about.modified());
            let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
            if ours && age.is_some_and(|age| age > STALE) {
                // Left over from a restore that was killed: where it cannot be removed it only takes room.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Gives the temporary file the database's name. Without `-force` nothing that has appeared meanwhile is replaced.
    pub fn put(&self, notes: Notes) -> Result<(), Failure> {
        let stale = self.move_sidecars_aside()?;
        if let Some(old) = self.old.as_ref() {
            self.like(old);
            fs::rename(&self.temporary, &self.path).map_err(|e| self.failed("rename", &e))?;
        } else {
            self.link()?;
        }
        let synced = File::open(self.folder()).and_then(|folder| folder.sync_all());
        synced.map_err(|e| self.failed("sync the folder of", &e))?;
        for (from, to) in stale {
            // With the database that they belonged to they are replaced, as `-force` asks.
            if self.old.is_some() && fs::remove_file(&to).is_ok() {
                continue;
            }
            notes.warn(&format!(
                "{} belonged to a database that is gone; it was moved to {}",
                from.display(),
                to.display()
            ));
        }
        Ok(())
    }

    /// Removes the temporary file, if there is one.
    pub fn abandon(&self) {
        // The failure that led here is what the person must read.
        let _ = fs::remove_file(&self.temporary);
    }

    /// A new name that replaces nothing: a hard link, or where the file system has none a look and a rename.
    fn link(&self) -> Result<(), Failure> {
        let appeared = || {
            Failure::new(format!(
                "cannot restore, {} appeared while the restore ran; it was left as it is",
                self.path.display()
            ))
        };
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => {
                self.abandon();
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(appeared()),
            Err(_) if self.path.symlink_metadata().is_ok() => Err(appeared()),
            Err(_) => fs::rename(&self.temporary, &self.path).map_err(|e| self.failed("rename", &e)),
        }
    }

    fn move_sidecars_aside(&self) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
        let mut moved = Vec::new();
        for from in sidecars(&self.path).into_iter().filter(|sidecar| sidecar.symlink_metadata().is_ok()) {
            let to = suffixed(&from, &format!("-stale-{}", Time::now().0));
            fs::rename(&from, &to).map_err(|e| Failure::new(format!("move {} aside: {e}", from.display())))?;
            moved.push((from, to));
        }
        Ok(moved)
    }

    /// Owner and mode of the database that is replaced, as far as this process may give them.
    fn like(&self, old: &Metadata) {
        // Without the right to give files away the new database is the caller's own, as any file that it makes.
        let _ = chown(&self.temporary, Some(old.uid()), Some(old.gid()));
        let _ = fs::set_permissions(&self.temporary, fs::Permissions::from_mode(old.mode() & 0o7777));
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }

    fn failed(&self, what: &str, e: &std::io::Error) -> Failure {
        Failure::new(format!("{what} {}: {e}", self.path.display()))
    }
}

fn sidecars(path: &Path) -> [PathBuf; 3] {
    SIDECARS.map(|suffix| suffixed(path, suffix))
}
