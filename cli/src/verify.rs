//! `litestream-vfs verify`: is a replica whole, and what can be restored from it?

use crate::args::VerifyFlags;
use crate::check::Check;
use crate::output::{Failure, print, print_json};
use crate::progress::Bar;
use crate::replica;
use crate::restore::parallelism;
use litestream_engine::plan::Target;
use litestream_engine::plan::older::{Until, Wish};
use litestream_engine::restore::{self, Options};
use litestream_engine::store::Store;
use litestream_engine::v3::{Generation, Object};
use litestream_engine::verify::{self, Problem, Report};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a database that is not encrypted begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Walks the replica and says what it found; problems end in exit code 1.
pub fn run(flags: &VerifyFlags) -> Result<(), Failure> {
    let Some(url) = &flags.url else {
        return Err(Failure::with_hint("replica URL required", "litestream-vfs verify s3://bucket/prefix"));
    };
    let store = replica::open(url)?;
    let bar = Bar::new();
    let progress = |progress| bar.show(progress);
    let parallelism = parallelism(&flags.parallelism, "litestream-vfs verify")?;
    let options = Options { parallelism, progress: &progress, ..Options::default() };
    // Before anything is read: where there is no room for the restores, nobody waits to be told.
    let scratch = if flags.full { Some(Scratch::new()?) } else { None };
    let walked = verify::walk(&store, options);
    bar.clear();
    let mut report = walked.map_err(|e| replica::failed(&store, e))?;
    let restored = match &scratch {
        Some(scratch) => restore_each(&store, &mut report, options, scratch)?,
        None => 0,
    };
    bar.clear();
    if flags.json {
        print_json(&value(&report, &store, flags.full, restored))?;
    } else {
        print(&text(&report, &store, flags.full, restored))?;
    }
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::new(format!("1 problem found in replica {}", store.url()))),
        n => Err(Failure::new(format!("{n} problems found in replica {}", store.url()))),
    }
}

/// Restores the ends of every range and every generation into a folder that goes away. How many were restored.
fn restore_each(store: &Store, report: &mut Report, options: Options<'_>, folder: &Scratch) -> Result<usize, Failure> {
    let mut goals: Vec<(String, Target, Wish)> = Vec::new();
    let txids: BTreeSet<_> = report.ranges.iter().flat_map(|range| [range.from, range.to]).collect();
    goals.extend(txids.into_iter().map(|txid| (format!("transaction {txid}"), Target::Txid(txid), Wish::LATEST)));
    if report.older > 0 {
        let objects: Vec<Object> = restore::older::list(store)?;
        let generations: BTreeSet<Generation> = objects.iter().map(|object| object.generation).collect();
        let wish = |generation| Wish { generation: Some(generation), until: Until::Latest };
        goals.extend(generations.into_iter().map(|g| (format!("generation {g}"), Target::Latest, wish(g))));
    }
    // As `restore` does it: what is damaged was named by the walk.
    let options = Options { around_damage: true, ..options };
    let out = folder.0.join("restored.db");
    let mut count = 0;
    for (name, target, wish) in goals {
        let restored = restore::choose(store, target, &wish, options)
            .and_then(|plan| plan.carry_out(store, target, &wish, &out, options));
        let checked = match restored {
            Err(e) => Err(e.to_string()),
            Ok(_) if is_plain(&out) => Check::Full.run(&out).map_err(|failure| failure.text),
            Ok(_) => Ok(()),
        };
        match checked {
            Ok(()) => count += 1,
            Err(e) => report.problems.push(Problem { file: None, text: format!("{name} does not restore: {e}") }),
        }
        // Where it cannot be removed, the next restore says so.
        let _ = fs::remove_file(&out);
    }
    Ok(count)
}

/// SQLite can check what is not encrypted.
fn is_plain(path: &Path) -> bool {
    let mut first = [0u8; 16];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && &first == MAGIC
}

/// A folder of our own among the temporary files, gone with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Failure> {
        let path = std::env::temp_dir().join(format!("litestream-verify-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| {
            let text = format!("create {}, where -full restores to: {e}", path.display());
            Failure::with_hint(text, "TMPDIR=/a/folder/with/room litestream-vfs verify -full …")
        })?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left over in the system's folder for such things at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn value(report: &Report, store: &Store, full: bool, restored: usize) -> Value {
    let range = |range: &verify::Range| {
        json!({
            "from": range.from.to_string(),
            "to": range.to.to_string(),
            "from_timestamp": range.times.0.rfc3339(),
            "to_timestamp": range.times.1.rfc3339(),
        })
    };
    let mut value = json!({
        "ok": report.problems.is_empty(),
        "replica": store.url().to_string(),
        "files": report.files,
        "bytes": report.bytes,
        "snapshots": report.snapshots,
        "older_files": report.older,
        "problems": report.problems.iter().map(|p| json!({ "file": p.file, "problem": p.text })).collect::<Vec<_>>(),
        "restorable": report.ranges.iter().map(range).collect::<Vec<_>>(),
    });
    if full {
        value["restored"] = restored.into();
    }
    value
}

fn text(report: &Report, store: &Store, full: bool, restored: usize) -> String {
    let mut text = format!("replica: {}\n", store.url());
    text += &format!("LTX files: {}, {} of them whole databases\n", report.files, report.snapshots);
    if report.older > 0 {
        text += &format!("files of Litestream 0.3: {}\n", report.older);
    }
    text += &format!("bytes read: {}\n", report.bytes);
    for range in &report.ranges {
        let (from, to) = (range.times.0.rfc3339(), range.times.1.rfc3339());
        text += &format!("restorable: {} ({from}) to {} ({to})\n", range.from, range.to);
    }
    if full {
        text += &format!("restored and checked: {restored}\n");
    }
    for problem in &report.problems {
        match &problem.file {
            Some(file) => text += &format!("problem: {file}: {}\n", problem.text),
            None => text += &format!("problem: {}\n", problem.text),
        }
    }
    if report.problems.is_empty() {
        text += "no problems\n";
    }
    text
}
