//! Who replicates, who restores, who reads and who waits: an fcntl lock on a file of the Spool, on a descriptor that
//! is never closed.
//!
//! It vanishes with its process and is not inherited by fork. fcntl does not exclude threads: within a process
//! there is one `Db` for a file, and its one worker (or a mutex) asks here.

use crate::error::{Error, Result};
use crate::spool::Spool;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Flock, FlockType, fcntl_getlk};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;

/// A lock file of one database in this process.
pub struct Leadership {
    name: &'static str,
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    path: PathBuf,
    inode: u64,
    file: File,
}

impl Leadership {
    /// The lock on the Spool's file of this name.
    pub fn of(name: &'static str) -> Leadership {
        Leadership { name, kept: Mutex::default() }
    }

    /// Tries to become, or to stay, the Leader. Also right before each put: a backup that opened and closed the
    /// file dropped the lock, a removed Spool has another inode.
    pub fn hold(&self, spool: &Spool) -> Result<bool> {
        self.take(spool, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock beside others that share it; `false` where one holds it alone.
    pub fn share(&self, spool: &Spool) -> Result<bool> {
        self.take(spool, FlockOperation::NonBlockingLockShared)
    }

    /// True where another process holds the lock, alone or shared.
    pub fn is_held_elsewhere(&self, spool: &Spool) -> Result<bool> {
        let asked = |file: &File| fcntl_getlk(file, &Flock::from(FlockType::WriteLock));
        self.on_file(spool, asked).map(|holder| holder.is_some())
    }

    fn take(&self, spool: &Spool, how: FlockOperation) -> Result<bool> {
        self.on_file(spool, |file| match fcntl_lock(file, how) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(false),
            Err(e) => Err(e),
        })
    }

    /// Calls with the lock file that the Spool has now.
    fn on_file<R>(&self, spool: &Spool, call: impl FnOnce(&File) -> rustix::io::Result<R>) -> Result<R> {
        let path = spool.path(self.name);
        let mut kept = self.kept.lock().expect("no thread panics while it holds this");
        let inode = std::fs::metadata(&path).map(|meta| meta.ino()).ok();
        let known = kept.iter().position(|kept| kept.path == path && Some(kept.inode) == inode);
        let index = match known {
            Some(index) => index,
            None => {
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(&path)
                    .map_err(|e| Error::io("open", &path, e))?;
                let inode = file.metadata().map_err(|e| Error::io("stat", &path, e))?.ino();
                // Descriptors of earlier lock files stay open: closing one could drop a lock on it.
                kept.push(Kept { path, inode, file });
                kept.len() - 1
            }
        };
        call(&kept[index].file).map_err(|e| Error::io("lock", spool.path(self.name), e.into()))
    }

    /// Leaves this process's number in the lock file, for people and for the status of the others.
    pub fn sign(&self, spool: &Spool) -> Result<()> {
        let path = spool.path(self.name);
        let kept = self.kept.lock().expect("no thread panics while it holds this");
        let Some(kept) = kept.iter().rev().find(|kept| kept.path == path) else { return Ok(()) };
        let signed = kept
            .file
            .set_len(0)
            .and_then(|()| kept.file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
        signed.map_err(|e| Error::io("write", &path, e))
    }

    /// Gives the lock back: another process may lead.
    pub fn resign(&self) {
        let kept = self.kept.lock().expect("no thread panics while it holds this");
        for kept in kept.iter() {
            let _ = fcntl_lock(&kept.file, FlockOperation::NonBlockingUnlock); // a lock that is gone is what we want
        }
    }
}
