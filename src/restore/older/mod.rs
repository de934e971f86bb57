//! Restore from a replica of Litestream 0.3: the snapshot unpacked, then WAL after WAL written into it.
//!
//! As for LTX, what comes back is complete, verified (every LZ4 checksum, every frame of every WAL, no hole) and
//! durable, or an error and no file.

mod wal_file;

use super::{Failure, Options, Progress, by_plans, in_parallel};
use crate::error::{Error, Result};
use crate::limits::{FILE_BUFFER, OLDER_BATCH, OLDER_BATCH_BYTES};
use crate::page::PageSize;
use crate::plan::older::{self, Plan, Until, Wish};
use crate::store::{Other, Store};
use crate::v3::{Generation, Index, Kind, Moment, Object, ROOT, Unpacked};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use wal_file::WalFile;

/// What a restore made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Whose life.
    pub generation: Generation,
    /// The last WAL that was applied, or the snapshot's index.
    pub index: Index,
    /// When the newest object was stored.
    pub created: Moment,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Size of the database in pages.
    pub pages: u32,
    /// Objects that were applied.
    pub files: usize,
    /// Bytes that were fetched.
    pub bytes: u64,
}

/// Every object of a replica in 0.3's layout; none for most.
pub fn list(store: &Store) -> Result<Vec<Object>> {
    let named = |other: Other| Object::of(&other.name, other.size, Moment(other.modified));
    Ok(store.list_others(ROOT)?.into_iter().filter_map(named).collect())
}

/// Restores by a plan into `out`, a path where nothing stands; where an object is gone, by a new plan.
pub fn carry_out(store: &Store, wish: &Wish, plan: Plan, out: &Path, options: Options<'_>) -> Result<Restored> {
    let next = |_: &Plan, _| list(store).and_then(|listing| older::plan(&listing, wish));
    by_plans(plan, out, |plan, file| fill(store, plan, file, out, options), next)
}

fn fill(
    store: &Store,
    plan: &Plan,
    file: &File,
    path: &Path,
    options: Options<'_>,
) -> std::result::Result<Restored, Failure> {
    let mut fetched = 0;
    let moved = |object: &Object, fetched: &mut u64| {
        *fetched += object.size;
        (options.progress)(Progress { written: *fetched, total: plan.bytes(), fetched: *fetched });
    };
    let page_size = unpack_snapshot(store, &plan.snapshot, file, path, options)?;
    moved(&plan.snapshot, &mut fetched);
    let mut wal = WalFile::create(path)?;
    let mut index = plan.snapshot.index;
    let name = |index| format!("{}/{index}", plan.snapshot.generation);
    for batch in batches(&plan.segments) {
        let bodies = in_parallel(batch, options, |segment| fetch(store, segment))?;
        for (segment, body) in batch.iter().zip(bodies) {
            if segment.index != index {
                wal.apply(&name(index), file, path, page_size)?;
                index = segment.index;
            }
            let Kind::Segment(offset) = segment.kind else { continue };
            if offset != wal.size() {
                return Err(Failure::Other(Error::Gap(format!(
                    "missing WAL segment: expected {index}/{}, got {index}/{offset} (generation {})",
                    wal.size(),
                    segment.generation
                ))));
            }
            let packed: Box<dyn Read> = match body {
                Some(body) => Box::new(std::io::Cursor::new(body)),
                None => stream(store, segment)?,
            };
            wal.append(&mut Unpacked::new(packed), &|e| explain(segment, e))?;
            moved(segment, &mut fetched);
        }
    }
    if wal.size() > 0 {
        wal.apply(&name(index), file, path, page_size)?;
    }
    file.sync_all().map_err(|e| Error::io("sync", path, e))?;
    let size = file.metadata().map_err(|e| Error::io("stat", path, e))?.len();
    let last = plan.last();
    Ok(Restored {
        generation: last.generation,
        index,
        created: last.created,
        page_size,
        pages: (size / u64::from(page_size.get())) as u32,
        files: 1 + plan.segments.len(),
        bytes: fetched,
    })
}

/// Unpacks every object and looks for holes: what is wrong, and with which object. Each is reported to `went` by its size.
pub fn check(
    store: &Store,
    objects: &[Object],
    options: Options<'_>,
    went: &(dyn Fn(u64) + Sync),
) -> Result<Vec<(Option<String>, String)>> {
    let unpacked = in_parallel(objects, options, |object| {
        let counted = stream(store, object).and_then(|packed| {
            std::io::copy(&mut Unpacked::new(packed), &mut std::io::sink()).map_err(|e| explain(object, e))
        });
        went(object.size);
        match counted {
            Err(e @ (Error::Corrupt(_) | Error::Usage(_))) => Ok(Some(Err(e.to_string()))),
            Err(Error::NoBackup(_)) => Ok(None), // deleted while we walked
            other => other.map(|size| Some(Ok(size))),
        }
    })?;
    let mut problems = Vec::new();
    let mut sizes = BTreeMap::new();
    for (object, found) in objects.iter().zip(unpacked) {
        match found {
            Some(Ok(size)) => drop(sizes.insert(object.name(), size)),
            Some(Err(text)) => problems.push((Some(object.name()), text)),
            None => {}
        }
    }
    let generations: BTreeSet<Generation> = objects.iter().map(|object| object.generation).collect();
    for generation in generations {
        let plan = match older::plan(objects, &Wish { generation: Some(generation), until: Until::Latest }) {
            Ok(plan) => plan,
            Err(e) => {
                problems.push((None, e.to_string()));
                continue;
            }
        };
        let mut end = (plan.snapshot.index, 0);
        for segment in &plan.segments {
            let (Kind::Segment(offset), Some(size)) = (segment.kind, sizes.get(&segment.name())) else { break };
            let expected = if segment.index == end.0 { end.1 } else { 0 };
            if offset != expected {
                let index = segment.index;
                let text = format!(
                    "missing WAL segment: expected {index}/{expected}, got {index}/{offset} (generation {generation})"
                );
                problems.push((None, text));
                break;
            }
            end = (segment.index, offset + size);
        }
    }
    Ok(problems)
}

/// The database of a snapshot, and the size of its pages.
fn unpack_snapshot(
    store: &Store,
    snapshot: &Object,
    file: &File,
    path: &Path,
    options: Options<'_>,
) -> Result<PageSize> {
    file.set_len(0).map_err(|e| Error::io("truncate", path, e))?;
    let mut content = Unpacked::new(stream(store, snapshot)?);
    let mut buffer = vec![0u8; FILE_BUFFER];
    let mut size = 0;
    loop {
        (options.go_on)()?;
        let n = content.read(&mut buffer).map_err(|e| explain(snapshot, e))?;
        if n == 0 {
            break;
        }
        file.write_all_at(&buffer[..n], size).map_err(|e| Error::io("write", path, e))?;
        size += n as u64;
        (options.progress)(Progress { written: 0, total: 0, fetched: size });
    }
    let mut header = [0u8; 18];
    if size < 512 {
        return Err(Error::Corrupt(format!("{}: {size} bytes are no database", snapshot.name())));
    }
    file.read_exact_at(&mut header, 0).map_err(|e| Error::io("read", path, e))?;
    let page_size = PageSize::from_header([header[16], header[17]]).map_err(|e| e.about(snapshot.name()))?;
    if !size.is_multiple_of(u64::from(page_size.get())) {
        return Err(Error::Corrupt(format!(
            "{}: {size} bytes are no whole number of pages of {}",
            snapshot.name(),
            page_size.get()
        )));
    }
    Ok(page_size)
}

/// A small segment, packed; `None` for one that is streamed when its turn comes.
fn fetch(store: &Store, segment: &Object) -> Result<Option<Vec<u8>>> {
    if segment.size > OLDER_BATCH_BYTES {
        return Ok(None);
    }
    let mut body = Vec::with_capacity(segment.size as usize);
    stream(store, segment)?.read_to_end(&mut body).map_err(|e| explain(segment, e))?;
    Ok(Some(body))
}

fn stream(store: &Store, object: &Object) -> Result<Box<dyn Read + Send>> {
    store.stream_other(&Other { name: object.name(), size: object.size, modified: object.created.0 })
}

/// What went wrong while an object was read.
fn explain(object: &Object, e: std::io::Error) -> Error {
    use std::io::ErrorKind;
    match e.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Error::Corrupt(format!("{}: {e}", object.name())),
        ErrorKind::Unsupported => Error::Usage(format!("{}: {e}", object.name())),
        _ => Error::from_read("read", object.name(), e),
    }
}

/// Runs of segments that are fetched together: few enough to be held in memory.
fn batches(mut segments: &[Object]) -> Vec<&[Object]> {
    let mut batches = Vec::new();
    while !segments.is_empty() {
        let mut bytes = 0;
        let fits = |segment: &&Object| {
            bytes += segment.size;
            bytes <= OLDER_BATCH_BYTES
        };
        let count = segments.iter().take(OLDER_BATCH).take_while(fits).count().max(1);
        let (batch, rest) = segments.split_at(count);
        batches.push(batch);
        segments = rest;
    }
    batches
}
