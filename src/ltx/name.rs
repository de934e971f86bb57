//! What an LTX file is called: transaction numbers, the span of a file, its level; and its line in a listing.

use crate::clock::Time;
use crate::error::{Error, Result};

/// Number of an L0 file: from 1, shown as 16 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Txid(pub u64);

impl Txid {
    /// The number after this one.
    pub fn next(self) -> Txid {
        Txid(self.0 + 1)
    }

    /// Parses exactly 16 hex digits.
    pub fn parse(text: &str) -> Result<Txid> {
        if text.len() == 16
            && text.bytes().all(|b| b.is_ascii_hexdigit())
            && let Ok(number) = u64::from_str_radix(text, 16)
        {
            return Ok(Txid(number));
        }
        Err(Error::Usage(format!("`{text}` is not a Txid: 16 hex digits, for example 000000000000002a")))
    }
}

impl std::fmt::Display for Txid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The transactions that a file holds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first transaction.
    pub min: Txid,
    /// The last transaction.
    pub max: Txid,
}

impl Span {
    /// A span of one transaction.
    pub fn one(txid: Txid) -> Span {
        Span { min: txid, max: txid }
    }

    /// The file's name: `<min>-<max>.ltx`.
    pub fn file_name(self) -> String {
        format!("{}-{}.ltx", self.min, self.max)
    }

    /// Reads a file name back; `None` for anything that is not exactly an LTX file's name.
    pub fn from_file_name(name: &str) -> Option<Span> {
        let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
        let lower =
            |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !lower(min) || !lower(max) {
            return None;
        }
        let span = Span { min: Txid::parse(min).ok()?, max: Txid::parse(max).ok()? };
        (span.min.0 >= 1 && span.min <= span.max).then_some(span)
    }

    /// A file that begins at transaction 1 is a whole database.
    pub fn is_snapshot(self) -> bool {
        self.min == Txid(1)
    }
}

/// 0 raw, 1 to 8 compacted, 9 snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// Files as the worker writes them.
    pub const RAW: Level = Level(0);
    /// Whole databases.
    pub const SNAPSHOT: Level = Level(9);

    /// A level from its number, 0 to 9.
    pub fn new(number: u8) -> Option<Level> {
        (number <= 9).then_some(Level(number))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Every level, lowest first.
    pub fn all() -> impl DoubleEndedIterator<Item = Level> {
        (0..=9).map(Level)
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One LTX file of a replica, as a listing names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The level's folder that it stands in.
    pub level: Level,
    /// Its transactions, from its name.
    pub span: Span,
    /// Bytes.
    pub size: u64,
    /// Creation time as the listing gives it (file times, or the store's own clock): the store's `created` has the exact one.
    pub listed: Time,
}

impl FileInfo {
    /// What a person is told: `level 1 0000000000000002-0000000000000009.ltx`.
    pub fn name(&self) -> String {
        format!("level {} {}", self.level, self.span.file_name())
    }
}
