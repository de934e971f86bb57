//! Which objects of a 0.3 replica rebuild a database at its end, at a time or at an index.
//!
//! A pure decision over a listing. The rule is Litestream's: a snapshot, then the segments of its WAL and of those
//! that follow, without a hole. Whether segments join inside of an index shows when they are unpacked.

use crate::error::{Error, Result};
use crate::v3::{Generation, Index, Kind, Moment, Object};

/// How far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The newest state.
    Latest,
    /// What was stored at this time or before.
    Time(Moment),
    /// The end of this WAL, or of the last one where there are fewer.
    Index(Index),
}

/// What shall be rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Only this generation; otherwise the one with the newest object that fits.
    pub generation: Option<Generation>,
    /// How far.
    pub until: Until,
}

impl Wish {
    /// The newest state of all.
    pub const LATEST: Wish = Wish { generation: None, until: Until::Latest };

    fn fits(&self, object: &Object) -> bool {
        let of_generation = self.generation.is_none_or(|generation| generation == object.generation);
        let in_time = match self.until {
            Until::Time(last) => object.created <= last,
            Until::Latest | Until::Index(_) => true,
        };
        of_generation && in_time
    }
}

/// The objects to apply: a database, then pieces of its WALs, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The database.
    pub snapshot: Object,
    /// In the order of index and offset; no index is left out, each begins at offset 0.
    pub segments: Vec<Object>,
}

impl Plan {
    /// The newest object.
    pub fn last(&self) -> &Object {
        self.segments.last().unwrap_or(&self.snapshot)
    }

    /// Bytes to fetch.
    pub fn bytes(&self) -> u64 {
        self.snapshot.size + self.segments.iter().map(|segment| segment.size).sum::<u64>()
    }
}

/// The newest object that fits: it says how new a plan can be, before there is one.
pub fn newest<'a>(listing: &'a [Object], wish: &Wish) -> Option<&'a Object> {
    listing.iter().filter(|object| wish.fits(object)).max_by_key(|object| (object.created, object.index, object.kind))
}

/// Decides over all objects, in any order.
pub fn plan(listing: &[Object], wish: &Wish) -> Result<Plan> {
    let Some(newest) = newest(listing, wish) else {
        const NONE: &str = "no matching backups found";
        return Err(Error::NoBackup(match (wish.generation, wish.until) {
            (Some(generation), Until::Time(last)) => {
                format!("{NONE}: nothing of generation {generation} is as old as {}", last.rfc3339())
            }
            (Some(generation), _) => format!("{NONE}: there is no generation {generation}"),
            (None, Until::Time(last)) => format!("{NONE}: nothing is as old as {}", last.rfc3339()),
            (None, _) => NONE.into(),
        }));
    };
    let generation = newest.generation;
    let snapshot = snapshot(listing, generation, wish)?;
    let mut segments: Vec<Object> = listing
        .iter()
        .filter(|object| object.generation == generation && object.kind != Kind::Snapshot)
        .filter(|object| object.index >= snapshot.index)
        .filter(|object| !matches!(wish.until, Until::Index(last) if object.index > last))
        .cloned()
        .collect();
    segments.sort_by_key(|segment| (segment.index, segment.kind));
    if let Until::Time(last) = wish.until {
        let end = segments.iter().position(|segment| segment.created > last).unwrap_or(segments.len());
        segments.truncate(end);
    }
    let mut have = None;
    for segment in &segments {
        let expected = have.map_or(snapshot.index, Index::next);
        if have == Some(segment.index) {
            continue;
        }
        if segment.index != expected {
            return Err(Error::Gap(format!(
                "missing WAL index: {generation}/{expected} (the next segment is of index {})",
                segment.index
            )));
        }
        if let Kind::Segment(offset @ 1..) = segment.kind {
            return Err(Error::Gap(format!(
                "missing initial wal segment: generation={generation} index={expected} offset={offset}"
            )));
        }
        have = Some(segment.index);
    }
    Ok(Plan { snapshot, segments })
}

/// The newest snapshot that fits.
fn snapshot(listing: &[Object], generation: Generation, wish: &Wish) -> Result<Object> {
    let all = || listing.iter().filter(|object| object.generation == generation && object.kind == Kind::Snapshot);
    let found = match wish.until {
        Until::Latest => all().max_by_key(|snapshot| snapshot.index),
        Until::Time(last) => {
            all().filter(|snapshot| snapshot.created <= last).max_by_key(|snapshot| (snapshot.created, snapshot.index))
        }
        Until::Index(last) => all().filter(|snapshot| snapshot.index <= last).max_by_key(|snapshot| snapshot.index),
    };
    if let Some(found) = found {
        return Ok(found.clone());
    }
    let first = all().min_by_key(|snapshot| snapshot.index);
    let what = match first {
        Some(first) => format!("the first of generation {generation} has index {}", first.index),
        None => format!("generation {generation} has none, only WAL segments"),
    };
    Err(match (wish.until, first) {
        (Until::Index(last), _) => {
            Error::NoBackup(format!("cannot find snapshot index: no snapshots available up to index {last}: {what}"))
        }
        (Until::Time(last), Some(first)) => Error::NoBackup(format!(
            "no snapshots available at {}: {what} and is of {}",
            last.rfc3339(),
            first.created.rfc3339()
        )),
        // Not `NoBackup`: who finds a replica empty may begin a new one, and this one is not.
        _ => Error::Gap(format!("no snapshots available: {what}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(generation: u64, index: u32, at: i64) -> Object {
        let (generation, index) = (Generation(generation), Index(index));
        Object { generation, index, kind: Kind::Snapshot, size: 10, created: Moment(at) }
    }

    fn segment(generation: u64, index: u32, offset: u64, at: i64) -> Object {
        Object { kind: Kind::Segment(offset), ..snapshot(generation, index, at) }
    }

    /// Two generations, the second with two snapshots.
    fn listing() -> Vec<Object> {
        vec![
            snapshot(7, 1, 10),
            segment(7, 1, 0, 11),
            segment(7, 2, 0, 12),
            snapshot(3, 0, 20),
            segment(3, 0, 0, 21),
            segment(3, 0, 4152, 22),
            segment(3, 1, 0, 23),
            snapshot(3, 1, 24),
            segment(3, 1, 8272, 25),
            segment(3, 2, 0, 26),
        ]
    }

    fn chosen(generation: Option<u64>, until: Until) -> (u64, u32, Vec<(u32, u64)>) {
        let plan = plan(&listing(), &Wish { generation: generation.map(Generation), until }).unwrap();
        let at = |object: &Object| match object.kind {
            Kind::Segment(offset) => (object.index.0, offset),
            Kind::Snapshot => panic!("a snapshot among segments"),
        };
        (plan.snapshot.generation.0, plan.snapshot.index.0, plan.segments.iter().map(at).collect())
    }

    /// Goal: each wish gets its objects. Method: two generations; between them the older one's end.
    #[test]
    fn a_wish_finds_generation_snapshot_and_segments() {
        assert_eq!(chosen(None, Until::Latest), (3, 1, vec![(1, 0), (1, 8272), (2, 0)]));
        assert_eq!(chosen(Some(7), Until::Latest), (7, 1, vec![(1, 0), (2, 0)]));
        assert_eq!(chosen(None, Until::Time(Moment(15))), (7, 1, vec![(1, 0), (2, 0)]));
        assert_eq!(chosen(None, Until::Time(Moment(11))), (7, 1, vec![(1, 0)]), "inclusive");
        assert_eq!(chosen(None, Until::Time(Moment(23))), (3, 0, vec![(0, 0), (0, 4152), (1, 0)]));
        assert_eq!(chosen(None, Until::Time(Moment(24))), (3, 1, vec![(1, 0)]));
        assert_eq!(chosen(Some(3), Until::Index(Index(0))), (3, 0, vec![(0, 0), (0, 4152)]));
        assert_eq!(chosen(None, Until::Index(Index(9))), (3, 1, vec![(1, 0), (1, 8272), (2, 0)]));
        assert_eq!(newest(&listing(), &Wish::LATEST).unwrap().created, Moment(26));
    }

    fn refused(listing: &[Object], generation: Option<u64>, until: Until) -> Error {
        plan(listing, &Wish { generation: generation.map(Generation), until }).unwrap_err()
    }

    /// Goal: what is missing is named, and only an empty replica is an empty one. Method: one object left out at a time.
    #[test]
    fn what_is_missing_is_named() {
        let all = listing();
        let without = |left: &Object| -> Vec<Object> { all.iter().filter(|object| *object != left).cloned().collect() };
        let text = |objects: &[Object]| match refused(objects, None, Until::Latest) {
            Error::Gap(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(text(&without(&segment(3, 1, 0, 23))).contains("index=00000001 offset=8272"));
        let no_first: Vec<Object> =
            all.iter().filter(|o| o.index != Index(1) || o.kind == Kind::Snapshot).cloned().collect();
        assert!(text(&no_first).contains("missing WAL index: 0000000000000003/00000001"));
        let only_wal: Vec<Object> = all.iter().filter(|o| o.kind != Kind::Snapshot).cloned().collect();
        assert!(text(&only_wal).contains("has none"));
        assert!(matches!(refused(&[], None, Until::Latest), Error::NoBackup(_)));
        assert!(matches!(refused(&all, Some(9), Until::Latest), Error::NoBackup(_)));
        assert!(matches!(refused(&all, None, Until::Time(Moment(9))), Error::NoBackup(_)));
        assert!(matches!(refused(&all, Some(7), Until::Index(Index(0))), Error::NoBackup(_)));
        let rewritten = [segment(3, 1, 0, 23), snapshot(3, 1, 24)];
        assert!(refused(&rewritten, None, Until::Time(Moment(23))).to_string().contains("no snapshots available"));
    }
}
