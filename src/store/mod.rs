//! The remote home of one database: put, list, read and delete LTX files, whatever keeps them.
//!
//! Async stops here: every call blocks the caller (an own thread of ours, or the thread that restores),
//! never a tokio thread. Objects are written once and never changed.

mod replica_url;

pub use replica_url::ReplicaUrl;

use crate::clock::Time;
use crate::error::Result;
use crate::ltx::{Level, Span};
use bytes::Bytes;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// One LTX file of a replica, as a listing names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The level's folder that it stands in.
    pub level: Level,
    /// Its transactions, from its name.
    pub span: Span,
    /// Bytes.
    pub size: u64,
    /// Creation time as the listing gives it (file times, or the store's own clock): see [`Store::created`] for the exact one.
    pub listed: Time,
}

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

/// The store of one replica.
pub struct Store {}

impl Store {
    /// Every file of a level in (min, max) order; objects that are no LTX files are passed over.
    pub fn list(&self, _level: Level) -> Result<Vec<FileInfo>> {
        todo!()
    }

    /// The exact creation time: metadata where the listing does not carry it (S3), else `listed`.
    pub fn created(&self, _file: &FileInfo) -> Result<Time> {
        todo!()
    }

    /// Writes an object that does not exist yet. Other bytes under the name: `Error::Conflict`.
    pub fn put(&self, _level: Level, _span: Span, _created: Time, _body: Body<'_>) -> Result<Put> {
        todo!()
    }

    /// A range of an object, or all of it. Missing: `Error::NoBackup`.
    pub fn read(&self, _level: Level, _span: Span, _range: Option<Range<u64>>) -> Result<Bytes> {
        todo!()
    }

    /// An object from its start, fetched ahead in ranges; a dropped connection is taken up where it broke.
    pub fn stream(&self, _file: &FileInfo) -> Result<Box<dyn Read + Send>> {
        todo!()
    }

    /// Deletes objects, in batches where the store has them; one that is gone already is no error.
    pub fn delete(&self, _files: &[(Level, Span)]) -> Result<()> {
        todo!()
    }

    /// `Some(false)` once the probe found that the store ignores conditional puts (*not fenced*).
    pub fn is_fenced(&self) -> Option<bool> {
        todo!()
    }
}
