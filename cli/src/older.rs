//! `litestream-vfs generations | snapshots | wal`: what Litestream 0.3 left in a replica, listed as it did; and how a
//! restore from there is shown.

use crate::args::{self, OlderFlags};
use crate::output::{Failure, print, print_json, table, warn};
use crate::replica;
use litestream_engine::clock::Time;
use litestream_engine::plan::older::Plan;
use litestream_engine::restore::older::{Restored, list};
use litestream_engine::store::Store;
use litestream_engine::v3::{Generation, Kind, Object};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Each generation, with its first and last time.
    Generations,
    /// Each snapshot.
    Snapshots,
    /// Each WAL segment.
    Wal,
}

/// Lists.
pub fn run(what: What, flags: &OlderFlags) -> Result<(), Failure> {
    let Some(url) = &flags.url else {
        let hint = match what {
            What::Generations => "litestream-vfs generations s3://bucket/prefix",
            What::Snapshots => "litestream-vfs snapshots s3://bucket/prefix",
            What::Wal => "litestream-vfs wal s3://bucket/prefix",
        };
        return Err(Failure::with_hint("database path or replica URL required", hint));
    };
    let only = flags.generation.as_deref().map(Generation::parse).transpose()?;
    let store = replica::open(url)?;
    replica::missing(&store).iter().for_each(|why| warn(why));
    let mut objects = list(&store)?;
    objects.retain(|object| only.is_none_or(|only| only == object.generation));
    objects.sort_by_key(|object| (object.generation, object.index, object.kind));
    let name = replica::kind(&store);
    match what {
        What::Generations => generations(&objects, &name, flags.json),
        What::Snapshots => snapshots(&objects, &name, flags.json),
        What::Wal => wal(&objects, &name, flags.json),
    }
}

fn generations(objects: &[Object], name: &str, as_json: bool) -> Result<(), Failure> {
    let lives: Vec<&[Object]> = objects.chunk_by(|a, b| a.generation == b.generation).collect();
    let bounds = |life: &[Object]| {
        let times = || life.iter().map(|object| object.created);
        let (first, last) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
        (life[0].generation.to_string(), first, last)
    };
    if as_json {
        let value = |life: &&[Object]| {
            let (generation, first, last) = bounds(life);
            json!({ "name": name, "generation": generation, "start": first.rfc3339(), "end": last.rfc3339() })
        };
        return print_json(&Value::Array(lives.iter().map(value).collect()));
    }
    let row = |life: &&[Object]| {
        let (generation, first, last) = bounds(life);
        let lag = duration((Time::now().0 - last.time().0).max(0) / 1000);
        vec![name.to_string(), generation, lag, first.seconds(), last.seconds()]
    };
    let rows: Vec<Vec<String>> = lives.iter().map(row).collect();
    print(&table(&["name", "generation", "lag", "start", "end"], &rows))
}

fn snapshots(objects: &[Object], name: &str, as_json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for object in objects.iter().filter(|object| object.kind == Kind::Snapshot) {
        let (generation, index, size) = (object.generation.to_string(), object.index.0, object.size);
        values.push(json!({ "replica": name, "generation": generation, "index": index, "size": size, "created": object.created.rfc3339() }));
        rows.push(vec![name.to_string(), generation, index.to_string(), size.to_string(), object.created.seconds()]);
    }
    if as_json {
        return print_json(&Value::Array(values));
    }
    print(&table(&["replica", "generation", "index", "size", "created"], &rows))
}

fn wal(objects: &[Object], name: &str, as_json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for object in objects {
        let Kind::Segment(offset) = object.kind else { continue };
        let (generation, index, size) = (object.generation.to_string(), object.index.0, object.size);
        values.push(json!({ "replica": name, "generation": generation, "index": index, "offset": offset, "size": size, "created": object.created.rfc3339() }));
        let [index, offset, size] = [index.to_string(), offset.to_string(), size.to_string()];
        rows.push(vec![name.to_string(), generation, index, offset, size, object.created.seconds()]);
    }
    if as_json {
        return print_json(&Value::Array(values));
    }
    print(&table(&["replica", "generation", "index", "offset", "size", "created"], &rows))
}

/// `12h18m52s`, without what is zero in front.
fn duration(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// The result of a restore.
pub fn summary(restored: &Restored, store: &Store, out: &Path, began: Instant) -> Value {
    json!({
        "db_path": out.display().to_string(),
        "replica": replica::kind(store),
        "generation": restored.generation.to_string(),
        "index": restored.index.to_string(),
        "timestamp": restored.created.rfc3339(),
        "pages": restored.pages,
        "page_size": restored.page_size.get(),
        "files": restored.files,
        "bytes": restored.bytes,
        "duration_ms": began.elapsed().as_millis() as u64,
    })
}

/// `-dry-run`
pub fn show(plan: &Plan, store: &Store, url: &OsStr, out: &Path, as_json: bool) -> Result<(), Failure> {
    let (source, target, kind) = (args::text(url)?, out.display().to_string(), replica::kind(store));
    let objects = || std::iter::once(&plan.snapshot).chain(&plan.segments);
    let (generation, first, last) = (plan.snapshot.generation.to_string(), plan.snapshot.index, plan.last().index);
    if as_json {
        let file = |object: &Object| json!({ "name": object.name(), "size": object.size, "timestamp": object.created.rfc3339() });
        return print_json(&json!({
            "source": source,
            "target_path": target,
            "replica": kind,
            "generation": generation,
            "min_index": first.to_string(),
            "max_index": last.to_string(),
            "timestamp": plan.last().created.rfc3339(),
            "bytes": plan.bytes(),
            "files": objects().map(file).collect::<Vec<_>>(),
        }));
    }
    let row = |object: &Object| vec![object.name(), object.size.to_string(), object.created.rfc3339()];
    let table = table(&["file", "size", "timestamp"], &objects().map(row).collect::<Vec<_>>());
    print(&format!(
        "Restore plan (files of Litestream 0.3):\n  source: {source}\n  target: {target}\n  replica: {kind}\n  generation: {generation}\n  index range: {first} - {last}\n  bytes: {}\n\nFiles to fetch:\n{table}",
        plan.bytes()
    ))
}
