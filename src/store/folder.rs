//! A replica in a folder: `<root>/ltx/<level>/<min>-<max>.ltx`, the layout of Litestream's file replica.
//!
//! Synchronous, on the thread that calls. A file appears under its name complete and durable or not at all,
//! and never replaces another. A file's creation time is its mtime.

use super::requests::{Counts, Requests, one};
use super::{Body, FileInfo, Other, Put};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits::{FILE_BUFFER, STALE_TEMPORARY};
use crate::ltx::{Level, Span, Txid};
use crate::names::sync_folder;
use bytes::Bytes;
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How the temporary files of this process are told from others': `.NAME.<pid>-<number>.part`.
const TEMPORARY: &str = ".part";

pub(super) struct Folder {
    root: PathBuf,
    /// Levels whose folder exists and is durable, a bit each.
    ready: AtomicU16,
    /// The file system knows neither link nor rename without replacing.
    unfenced: AtomicBool,
    calls: Counts,
}

impl Folder {
    pub fn new(root: PathBuf) -> Folder {
        Folder { root, ready: AtomicU16::new(0), unfenced: AtomicBool::new(false), calls: Counts::default() }
    }

    pub fn is_there(&self, stored: Txid) -> Result<()> {
        match self.root.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Unreachable(format!(
                "the replica folder {} is not there, although {stored} was stored in it: mount its volume; where it was deleted on purpose, make the folder, and a new image starts in it",
                self.root.display()
            ))),
            Err(e) => Err(Error::io("look for the replica folder", &self.root, e)),
        }
    }

    pub fn holds_name(&self, level: Level, span: Span) -> Result<bool> {
        let path = self.path(level, span);
        path.try_exists().map_err(|e| Error::io("stat", &path, e))
    }

    pub fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        one(&self.calls.list);
        let folder = self.level(level);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list replica folder", &folder, e)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list replica folder", &folder, e))?;
            let Some(span) = entry.file_name().to_str().and_then(Span::from_file_name) else { continue };
            let about = match entry.metadata() {
                Ok(about) => about,
                // Deleted since the folder was read.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("stat", entry.path(), e)),
            };
            if about.is_file() {
                files.push(FileInfo { level, span, size: about.len(), listed: time_of(&about) });
            }
        }
        files.sort_by_key(|file| file.span);
        Ok(files)
    }

    pub fn put(&self, level: Level, span: Span, created: Time, body: &Body<'_>) -> Result<Put> {
        one(&self.calls.put);
        self.make_ready(level)?;
        let path = self.path(level, span);
        if self.holds(&path, body)? {
            return self.settled(level, &path);
        }
        let temporary = self.temporary(level, span);
        let written = write_temporary(&temporary, created, body).and_then(|lock| {
            let placed = self.place(&temporary, &path);
            drop(lock);
            placed
        });
        if !matches!(written, Ok(Placed::Renamed)) {
            // Where this fails the next sweep takes it; the put itself is decided already.
            let _ = fs::remove_file(&temporary);
        }
        match written? {
            Placed::Taken if self.holds(&path, body)? => self.settled(level, &path),
            Placed::Taken => {
                Err(Error::Busy(format!("{} came and went while it was being stored; try again", path.display())))
            }
            Placed::Linked | Placed::Renamed => {
                sync_folder(&self.level(level))?;
                Ok(Put::Stored)
            }
        }
    }

    pub fn read(&self, level: Level, span: Span, range: Option<Range<u64>>) -> Result<Bytes> {
        one(&self.calls.get);
        let path = self.path(level, span);
        let mut file = open(&path)?;
        let Some(range) = range else {
            let mut all = Vec::new();
            file.read_to_end(&mut all).map_err(|e| Error::io("read", &path, e))?;
            return Ok(Bytes::from(all));
        };
        let size = file.metadata().map_err(|e| Error::io("stat", &path, e))?.len();
        if range.end > size {
            return Err(super::shorter_than(&path.display(), &range, size));
        }
        let mut part = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut part, range.start).map_err(|e| Error::io("read", &path, e))?;
        Ok(Bytes::from(part))
    }

    pub fn stream(&self, file: &FileInfo) -> Result<Box<dyn Read + Send>> {
        one(&self.calls.get);
        let path = self.path(file.level, file.span);
        let file = BufReader::with_capacity(FILE_BUFFER, open(&path)?);
        Ok(Box::new(Named { file, path }))
    }

    pub fn list_others(&self, folder: &str) -> Result<Vec<Other>> {
        one(&self.calls.list);
        let mut found = Vec::new();
        let mut folders = vec![folder.to_string()];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(&folder);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("list replica folder", &path, e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| Error::io("list replica folder", &path, e))?;
                let file_name = entry.file_name();
                let Some(name) = file_name.to_str().map(|name| format!("{folder}/{name}")) else { continue };
                match entry.metadata() {
                    Ok(about) if about.is_dir() => folders.push(name),
                    Ok(about) if about.is_file() => {
                        let modified = about.mtime().saturating_mul(1_000_000_000).saturating_add(about.mtime_nsec());
                        found.push(Other { name, size: about.len(), modified });
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("stat", entry.path(), e)),
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    pub fn stream_other(&self, other: &Other) -> Result<Box<dyn Read + Send>> {
        one(&self.calls.get);
        Ok(Box::new(BufReader::with_capacity(FILE_BUFFER, open(&self.root.join(&other.name))?)))
    }

    pub fn delete(&self, files: &[(Level, Span)]) -> Result<()> {
        for &(level, span) in files {
            one(&self.calls.delete);
            let path = self.path(level, span);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("delete", &path, e)),
            }
        }
        Ok(())
    }

    pub fn is_fenced(&self) -> bool {
        !self.unfenced.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> Requests {
        self.calls.read()
    }

    fn level(&self, level: Level) -> PathBuf {
        self.root.join("ltx").join(level.to_string())
    }

    fn path(&self, level: Level, span: Span) -> PathBuf {
        self.level(level).join(span.file_name())
    }

    fn temporary(&self, level: Level, span: Span) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.level(level).join(format!(".{}.{}-{number}{TEMPORARY}", span.file_name(), std::process::id()))
    }

    /// Makes the level's folder durable and sweeps it, once for each store.
    fn make_ready(&self, level: Level) -> Result<()> {
        let bit = 1 << level.get();
        let folder = self.level(level);
        // Looked at each time: a folder may go away under a process that runs for months.
        if self.ready.load(Ordering::Acquire) & bit != 0 && folder.is_dir() {
            return Ok(());
        }
        make_durable(&folder)?;
        sweep(&folder)?;
        self.ready.fetch_or(bit, Ordering::Release);
        Ok(())
    }

    /// True where the name holds these bytes, false where it holds nothing, `Conflict` where it holds others.
    fn holds(&self, path: &Path, body: &Body<'_>) -> Result<bool> {
        let there = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let size = there.metadata().map_err(|e| Error::io("stat", path, e))?.len();
        let same = size == body.size()?
            && super::same_bytes(there, body.reader()?).map_err(|e| Error::io("compare", path, e))?;
        if same { Ok(true) } else { Err(super::conflict(&path.display())) }
    }

    /// A file found complete may be of a writer that died before it was durable.
    fn settled(&self, level: Level, path: &Path) -> Result<Put> {
        open(path)?.sync_all().map_err(|e| Error::io("sync", path, e))?;
        sync_folder(&self.level(level))?;
        Ok(Put::AlreadyThere)
    }

    /// Gives the temporary its name without replacing what may stand there.
    fn place(&self, temporary: &Path, path: &Path) -> Result<Placed> {
        match fs::hard_link(temporary, path) {
            Ok(()) => return Ok(Placed::Linked),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(Placed::Taken),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::StorageFull) => {
                return Err(Error::io("link", path, e));
            }
            // File systems without hard links say so in many ways.
            Err(_) => {}
        }
        match rustix::fs::renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Placed::Renamed),
            Err(rustix::io::Errno::EXIST) => return Ok(Placed::Taken),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {}
            Err(e) => return Err(Error::io("rename", path, e.into())),
        }
        self.unfenced.store(true, Ordering::Relaxed);
        match path.try_exists() {
            Ok(true) => Ok(Placed::Taken),
            Ok(false) => {
                fs::rename(temporary, path).map_err(|e| Error::io("rename", path, e))?;
                Ok(Placed::Renamed)
            }
            Err(e) => Err(Error::io("stat", path, e)),
        }
    }
}

enum Placed {
    /// Both names stand.
    Linked,
    /// The temporary name is gone.
    Renamed,
    /// Another file stands there.
    Taken,
}

/// Writes and syncs; the file comes back locked against the sweep of another process.
fn write_temporary(path: &Path, created: Time, body: &Body<'_>) -> Result<File> {
    let failed = |e| Error::io("write", path, e);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    // Without locks on this file system the sweep goes by age.
    let _ = rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
    match body {
        Body::Bytes(bytes) => file.write_all(bytes).map_err(failed)?,
        Body::File(source) => {
            let mut from = File::open(source).map_err(|e| Error::io("open", source, e))?;
            std::io::copy(&mut from, &mut file).map_err(failed)?;
        }
    }
    let time = UNIX_EPOCH + Duration::from_millis(created.0.max(0) as u64);
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(file)
}

/// Creates a folder and those above it, each entry synced in its parent.
fn make_durable(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_durable(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        // Another process was faster; its sync of the parent may still be on the way, so ours follows.
        Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(e) => return Err(Error::io("create replica folder", folder, e)),
    }
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Removes temporary files whose writer is gone.
fn sweep(folder: &Path) -> Result<()> {
    let own = format!(".{}-", std::process::id());
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list replica folder", folder, e))? {
        let entry = entry.map_err(|e| Error::io("list replica folder", folder, e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with('.') && name.ends_with(TEMPORARY)) else {
            continue;
        };
        if !name.contains(&own) && is_abandoned(&entry.path()) {
            // Swept by another process, or not ours to delete: either way it is only a leftover.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return false };
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => false,
        Err(_) => file
            .metadata()
            .and_then(|about| about.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > STALE_TEMPORARY)),
    }
}

/// A file whose errors name it.
struct Named {
    file: BufReader<File>,
    path: PathBuf,
}

impl Read for Named {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buf).map_err(|e| match e.kind() {
            ErrorKind::Interrupted => e,
            _ => std::io::Error::other(Error::io("read", &self.path, e)),
        })
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => super::missing(&path.display()),
        _ => Error::io("open", path, e),
    })
}

fn time_of(about: &fs::Metadata) -> Time {
    let modified = about.modified().unwrap_or(UNIX_EPOCH);
    Time(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
}
