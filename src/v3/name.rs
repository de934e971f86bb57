//! What the objects of a 0.3 replica are called, and a line of their listing.
//!
//! ```text
//! generations/<generation>/snapshots/<index>.snapshot.lz4
//! generations/<generation>/wal/<index>_<offset>.wal.lz4
//! ```

use crate::clock::Time;
use crate::error::{Error, Result};
use chrono::{DateTime, SecondsFormat, Utc};

/// The folder that holds everything.
pub const ROOT: &str = "generations";

/// One life of a replica, 16 lower-case hex digits drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// Parses 16 hex digits.
    pub fn parse(text: &str) -> Result<Generation> {
        digits(text, 16..=16).map(Generation).ok_or_else(|| {
            Error::Usage(format!("`{text}` is not a generation: 16 hex digits, for example 8337f87af47d025b"))
        })
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Number of a WAL file in a generation: grows by one with each restart of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u32);

impl Index {
    /// The largest that 0.3 takes.
    pub const MAX: Index = Index(0x7fff_ffff);

    /// The number after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl std::fmt::Display for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Nanoseconds since the Unix epoch, UTC: the times of a 0.3 replica are those that its store gives, to their last digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub i64);

impl Moment {
    /// Parses RFC 3339 with any offset.
    pub fn parse(text: &str) -> Result<Moment> {
        let time = DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt());
        time.map(Moment).ok_or_else(|| {
            Error::Usage(format!("`{text}` is not a time in RFC 3339, for example 2026-11-20T14:30:53Z"))
        })
    }

    /// RFC 3339 in UTC with as many digits as the time has.
    pub fn rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_nanos(self.0).to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    /// RFC 3339 in UTC, the fraction cut off.
    pub fn seconds(self) -> String {
        DateTime::<Utc>::from_timestamp_nanos(self.0).to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// In milliseconds, rounded down.
    pub fn time(self) -> Time {
        Time(self.0.div_euclid(1_000_000))
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Moment {
        Moment(time.0.saturating_mul(1_000_000))
    }
}

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The database file; the WAL with this index continues it.
    Snapshot,
    /// Bytes of the WAL from this offset.
    Segment(u64),
}

/// One object of a replica, as a listing names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Whose life it belongs to.
    pub generation: Generation,
    /// The WAL file.
    pub index: Index,
    /// What it holds.
    pub kind: Kind,
    /// Bytes as stored.
    pub size: u64,
    /// When it was stored.
    pub created: Moment,
}

impl Object {
    /// Reads a name, relative to the replica; `None` for anything that 0.3 would not have written.
    pub fn of(name: &str, size: u64, created: Moment) -> Option<Object> {
        let mut parts = name.split('/');
        if parts.next()? != ROOT {
            return None;
        }
        let generation = Generation(digits(parts.next()?, 16..=16)?);
        let (folder, file) = (parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let (index, kind) = match folder {
            "snapshots" => (file.strip_suffix(".snapshot.lz4")?, Kind::Snapshot),
            "wal" => {
                let (index, offset) = file.strip_suffix(".wal.lz4")?.split_once('_')?;
                (index, Kind::Segment(digits(offset, 8..=16)?))
            }
            _ => return None,
        };
        let index = Index(digits(index, 8..=8)? as u32);
        (index <= Index::MAX).then_some(Object { generation, index, kind, size, created })
    }

    /// Its name, relative to the replica.
    pub fn name(&self) -> String {
        let Object { generation, index, .. } = self;
        match self.kind {
            Kind::Snapshot => format!("{ROOT}/{generation}/snapshots/{index}.snapshot.lz4"),
            Kind::Segment(offset) => format!("{ROOT}/{generation}/wal/{index}_{offset:08x}.wal.lz4"),
        }
    }
}

/// Lower-case hex digits, so many of them, and nothing else.
fn digits(text: &str, count: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !hex || !count.contains(&text.len()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what 0.3 writes is read, above 4 GiB too, and nothing else. Method: names both ways, and near misses.
    #[test]
    fn names_are_read_and_written() {
        for name in [
            "generations/8337f87af47d025b/snapshots/00000001.snapshot.lz4",
            "generations/0000000000000000/wal/7fffffff_00000000.wal.lz4",
            "generations/8337f87af47d025b/wal/00000002_1000010c0.wal.lz4",
        ] {
            assert_eq!(Object::of(name, 1, Moment(2)).map(|object| object.name()).as_deref(), Some(name));
        }
        for name in [
            "generations/8337f87af47d025b/snapshots/00000001.snapshot.lz4.tmp",
            "generations/8337f87af47d025b/snapshots/80000000.snapshot.lz4",
            "generations/8337F87AF47D025B/snapshots/00000001.snapshot.lz4",
            "generations/8337f87af47d025b/wal/00000002.wal.lz4",
            "generations/8337f87af47d025b/wal/00000002_+0000000.wal.lz4",
            "generations/8337f87af47d025b/wal/00000000/00000000_00000000.wal.lz4",
            "ltx/0/0000000000000001-0000000000000001.ltx",
        ] {
            assert_eq!(Object::of(name, 1, Moment(2)), None, "{name}");
        }
    }

    /// Goal: a time keeps its nanoseconds. Method: one read and written, one rounded.
    #[test]
    fn a_moment_keeps_its_nanoseconds() {
        let moment = Moment::parse("2026-11-21T02:33:11.080392978Z").unwrap();
        assert_eq!(moment.rfc3339(), "2026-11-21T02:33:11.080392978Z");
        assert_eq!(moment.seconds(), "2026-11-21T02:33:11Z");
        assert_eq!(moment.time().rfc3339(), "2026-11-21T02:33:11.08Z");
        assert_eq!(Moment::from(Time(5)), Moment(5_000_000));
    }
}
