//! A home of replicas that is neither a folder nor an object store known here: whoever uses the engine as a library
//! brings it, and every store of its registry is that one.

use super::{Body, FileInfo, Put};
use crate::clock::Time;
use crate::error::Result;
use crate::ltx::{Level, Span};
use bytes::Bytes;
use std::io::Read;
use std::ops::Range;

/// What a [`super::Store`] asks of it, with the same promises: objects are written once, and each call blocks.
pub trait Home: Send + Sync {
    /// True where there is such a file.
    fn holds(&self, level: Level, span: Span) -> Result<bool>;
    /// Every file of a level in (min, max) order.
    fn list(&self, level: Level) -> Result<Vec<FileInfo>>;
    /// Writes an object that does not exist yet; the same bytes there: `AlreadyThere`, others: `Error::Conflict`.
    fn put(&self, level: Level, span: Span, created: Time, body: &Body<'_>) -> Result<Put>;
    /// A range of an object, or all of it. Missing: `Error::NoBackup`.
    fn read(&self, level: Level, span: Span, range: Option<Range<u64>>) -> Result<Bytes>;
    /// An object from its start.
    fn stream(&self, file: &FileInfo) -> Result<Box<dyn Read + Send>>;
    /// Deletes objects; one that is gone already is no error.
    fn delete(&self, files: &[(Level, Span)]) -> Result<()>;
}
