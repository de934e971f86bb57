//! The remote home of one database: put, list, read and delete LTX files, whatever keeps them.
//!
//! Async stops here: every call blocks the caller (an own thread of ours, or the thread that restores),
//! never a tokio thread. Objects are written once and never changed.

mod cloud;
mod explain;
mod fence;
mod folder;
mod home;
mod http;
mod io;
mod job;
mod object;
mod provider;
mod region;
mod replica_url;
mod requests;
mod stream;
mod tls;
mod upload;

pub use crate::ltx::FileInfo;
pub use home::Home;
pub use io::Io;
pub use replica_url::{ReplicaUrl, STORE_KEYS};
pub(crate) use replica_url::{encode_bytes, store_key};
pub use requests::Requests;

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits::FILE_BUFFER;
use crate::ltx::{Level, Span, Txid};
use bytes::Bytes;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What to put.
pub enum Body<'a> {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A local file, read as it is sent.
    File(&'a Path),
}

/// How a put ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is new.
    Stored,
    /// The same bytes stood there already.
    AlreadyThere,
}

impl Body<'_> {
    /// Bytes of the whole.
    pub fn size(&self) -> Result<u64> {
        match self {
            Body::Bytes(bytes) => Ok(bytes.len() as u64),
            Body::File(path) => path.metadata().map(|about| about.len()).map_err(|e| Error::io("stat", path, e)),
        }
    }

    fn reader(&self) -> Result<Box<dyn Read + '_>> {
        match self {
            Body::Bytes(bytes) => Ok(Box::new(&bytes[..])),
            Body::File(path) => Ok(Box::new(std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?)),
        }
    }
}

/// An object of a replica that is no LTX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name, relative to the replica.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was stored, by the store's own clock (file times), in nanoseconds since the Unix epoch.
    pub modified: i64,
}

/// The store of one replica.
pub struct Store {
    url: ReplicaUrl,
    home: Place,
}

/// What keeps the files.
enum Place {
    Folder(folder::Folder),
    Object(Box<object::Object>),
    Brought(Arc<dyn Home>),
}

impl Store {
    /// A store at `url`. Asks no network and starts no thread before the first call. `env` gives credentials
    /// and a region where the URL has none; it is read here and not again.
    pub fn open(url: &ReplicaUrl, env: &dyn Fn(&str) -> Option<String>, io: &Io) -> Result<Store> {
        let home = match (io.home(), url.folder()) {
            (Some(home), _) => Place::Brought(home),
            (None, Some(root)) => Place::Folder(folder::Folder::new(root.to_path_buf())),
            (None, None) => Place::Object(Box::new(object::Object::new(url, env, io)?)),
        };
        Ok(Store { url: url.clone(), home })
    }

    /// Sets how long a call waits while no byte moves (default [`crate::limits::NO_PROGRESS`]). A call that
    /// advances is never cut. To be set before the first call.
    pub fn with_patience(mut self, patience: Duration) -> Store {
        if let Place::Object(object) = &mut self.home {
            object.patience = patience;
        }
        self
    }

    /// Where it is. Holds no secret.
    pub fn url(&self) -> &ReplicaUrl {
        &self.url
    }

    /// An error where the place of a replica that holds something is gone as a whole: a folder on a volume that is not
    /// mounted. `stored` is what was stored there.
    pub fn is_there(&self, stored: Txid) -> Result<()> {
        match &self.home {
            Place::Folder(folder) => folder.is_there(stored),
            Place::Object(_) => Ok(()),
            Place::Brought(_) => Ok(()),
        }
    }

    /// True where there is such a file.
    pub fn holds(&self, level: Level, span: Span) -> Result<bool> {
        match &self.home {
            Place::Folder(folder) => folder.holds_name(level, span),
            Place::Object(object) => object.holds(level, span),
            Place::Brought(home) => home.holds(level, span),
        }
    }

    /// True where a look at one file costs no request.
    pub fn is_near(&self) -> bool {
        matches!(self.home, Place::Folder(_))
    }

    /// The levels that hold anything, lowest first, by one request where that saves some.
    pub fn levels(&self) -> Result<Vec<Level>> {
        match &self.home {
            Place::Folder(_) | Place::Brought(_) => Ok(Level::all().collect()),
            Place::Object(object) => object.levels(),
        }
    }

    /// Every file of a level in (min, max) order; objects that are no LTX files are passed over. A prefix
    /// that does not exist holds none.
    pub fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        match &self.home {
            Place::Folder(folder) => folder.list(level),
            Place::Object(object) => object.list(level),
            Place::Brought(home) => home.list(level),
        }
    }

    /// The exact creation time: metadata where the listing does not carry it, else `listed`.
    pub fn created(&self, file: &FileInfo) -> Result<Time> {
        match &self.home {
            Place::Folder(_) | Place::Brought(_) => Ok(file.listed),
            Place::Object(object) => object.created(file),
        }
    }

    /// Writes an object that does not exist yet. Other bytes under the name: `Error::Conflict`. An answer that
    /// was lost does no harm: the same put again is `AlreadyThere`.
    pub fn put(&self, level: Level, span: Span, created: Time, body: Body<'_>) -> Result<Put> {
        match &self.home {
            Place::Folder(folder) => folder.put(level, span, created, &body),
            Place::Object(object) => object.put(level, span, created, &body),
            Place::Brought(home) => home.put(level, span, created, &body),
        }
    }

    /// A range of an object, or all of it. Missing: `Error::NoBackup`; shorter than the range: `Error::Corrupt`.
    pub fn read(&self, level: Level, span: Span, range: Option<Range<u64>>) -> Result<Bytes> {
        match &self.home {
            Place::Folder(folder) => folder.read(level, span, range),
            Place::Object(object) => object.read(level, span, range),
            Place::Brought(home) => home.read(level, span, range),
        }
    }

    /// An object from its start, fetched ahead in ranges; a dropped connection is taken up where it broke.
    /// An error of `read` holds an [`Error`]: see [`Error::from_read`].
    pub fn stream(&self, file: &FileInfo) -> Result<Box<dyn Read + Send>> {
        match &self.home {
            Place::Folder(folder) => folder.stream(file),
            Place::Object(object) => object.stream(file),
            Place::Brought(home) => home.stream(file),
        }
    }

    /// Every object below `folder` (a path inside the replica), in order of names; of a folder that does not exist, none.
    /// For formats that are only read.
    pub fn list_others(&self, folder: &str) -> Result<Vec<Other>> {
        match &self.home {
            Place::Folder(home) => home.list_others(folder),
            Place::Object(object) => object.list_others(folder),
            Place::Brought(_) => Ok(Vec::new()),
        }
    }

    /// Such an object from its start, as [`Store::stream`]. Missing: `Error::NoBackup`, now or by its first `read`.
    pub fn stream_other(&self, other: &Other) -> Result<Box<dyn Read + Send>> {
        match &self.home {
            Place::Folder(folder) => folder.stream_other(other),
            Place::Object(object) => object.stream_other(other),
            Place::Brought(_) => Err(missing(&other.name)),
        }
    }

    /// Deletes objects, in batches where the store has them; one that is gone already is no error.
    pub fn delete(&self, files: &[(Level, Span)]) -> Result<()> {
        match &self.home {
            Place::Folder(folder) => folder.delete(files),
            Place::Object(object) => object.delete(files),
            Place::Brought(home) => home.delete(files),
        }
    }

    /// `Some(false)` once the probe found that the store ignores conditional puts (*not fenced*); `None`
    /// before the first put.
    pub fn is_fenced(&self) -> Option<bool> {
        match &self.home {
            Place::Folder(folder) => Some(folder.is_fenced()),
            Place::Object(object) => object.is_fenced(),
            Place::Brought(_) => Some(true),
        }
    }

    /// Requests since it was opened.
    pub fn requests(&self) -> Requests {
        match &self.home {
            Place::Folder(folder) => folder.requests(),
            Place::Object(object) => object.requests(),
            Place::Brought(_) => Requests::default(),
        }
    }
}

fn missing(name: &dyn std::fmt::Display) -> Error {
    Error::NoBackup(format!("{name} does not exist in the replica"))
}

fn conflict(name: &dyn std::fmt::Display) -> Error {
    Error::Conflict(format!(
        "{name} exists already with other bytes: another writer uses this replica; nothing was replaced"
    ))
}

fn shorter_than(name: &dyn std::fmt::Display, range: &Range<u64>, size: u64) -> Error {
    Error::Corrupt(format!(
        "{name} has {size} bytes, but bytes {} to {} are needed: it was cut short",
        range.start, range.end
    ))
}

/// True where both give the same bytes to their ends.
fn same_bytes(a: impl Read, b: impl Read) -> std::io::Result<bool> {
    let (mut a, mut b) = (BufReader::with_capacity(FILE_BUFFER, a), BufReader::with_capacity(FILE_BUFFER, b));
    loop {
        let (x, y) = (a.fill_buf()?, b.fill_buf()?);
        let n = x.len().min(y.len());
        if n == 0 {
            return Ok(x.len() == y.len());
        }
        if x[..n] != y[..n] {
            return Ok(false);
        }
        a.consume(n);
        b.consume(n);
    }
}
