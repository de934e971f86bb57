//! `litestream-vfs restore`: a replica becomes a database.

use crate::args::{self, RestoreFlags};
use crate::check::Check;
use crate::follow;
use crate::older;
use crate::output::{Failure, Notes, print, print_json, table};
use crate::place::Place;
use crate::progress::Bar;
use crate::replica;
use chrono::DateTime;
use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::ltx::Txid;
use litestream_engine::plan::older::{Until, Wish};
use litestream_engine::plan::{Plan, Target};
use litestream_engine::restore::{self as engine, Either, Options, Progress, Rebuilt, Restored};
use litestream_engine::settings::duration;
use litestream_engine::store::Store;
use litestream_engine::v3::{Generation, Index, Moment};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

const EXAMPLE: &str = "litestream-vfs restore -o /path/to/db";

/// Restores, or says why not.
pub fn run(flags: &RestoreFlags) -> Result<(), Failure> {
    let notes = Notes { json: flags.json };
    let (target, wish) = target(flags)?;
    let check = Check::parse(&flags.integrity_check)?;
    let parallelism = parallelism(&flags.parallelism, EXAMPLE)?;
    let Some(url) = &flags.url else {
        let hint = format!("{EXAMPLE} s3://bucket/prefix");
        return Err(Failure::with_hint("database path or replica URL required", hint));
    };
    let Some(out) = &flags.output else {
        let hint = format!("{EXAMPLE} {}", args::text(url)?);
        return Err(Failure::with_hint("-o is required when restoring from a replica URL", hint));
    };
    if flags.follow {
        return follow_on(flags, url, out, parallelism, check);
    }
    if flags.if_db_not_exists && out.exists() {
        notes.info("database already exists, skipping");
        return Ok(());
    }
    let store = replica::open(url)?;
    let options = Options { parallelism, bounded: true, around_damage: true, ..Options::default() };
    let result = if flags.dry_run {
        match engine::choose(&store, target, &wish, options) {
            Ok(Either::Ltx(plan)) => show(&exact(&store, plan, options)?, &store, url, out, flags.json),
            Ok(Either::Older(plan)) => older::show(&plan, &store, url, out, flags.json).map_err(Stop::Here),
            Err(e) => Err(Stop::Engine(e)),
        }
    } else {
        restore(&store, (target, &wish), out, options, flags, check)
    };
    match result {
        Err(Stop::Engine(Error::NoBackup(_))) if flags.if_replica_exists => {
            notes.info("no matching backups found");
            Ok(())
        }
        Err(Stop::Engine(e)) => Err(replica::failed(&store, e)),
        Err(Stop::Here(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

/// `-f`: restores, checks where it was asked to, then stays and follows.
fn follow_on(flags: &RestoreFlags, url: &OsStr, out: &Path, parallelism: usize, check: Check) -> Result<(), Failure> {
    let mut barred = [
        ("-txid", flags.txid.is_some()),
        ("-timestamp", flags.timestamp.is_some()),
        ("-generation", flags.generation.is_some()),
        ("-index", flags.index.is_some()),
        ("-dry-run", flags.dry_run),
    ]
    .into_iter();
    if let Some((name, _)) = barred.find(|(_, given)| *given) {
        return Err(Failure::new(format!("cannot use -f with {name}: follow mode goes on from the newest state")));
    }
    let interval = duration(&flags.follow_interval).ok().filter(|interval| !interval.is_zero());
    let interval = interval.ok_or_else(|| {
        let text = format!("invalid value {:?} for flag -follow-interval: must be a duration", flags.follow_interval);
        Failure::with_hint(text, format!("{EXAMPLE} -f -follow-interval 1s s3://bucket/prefix"))
    })?;
    let store = replica::open(url)?;
    let options = Options { parallelism, around_damage: true, ..Options::default() };
    follow::run(&store, out, interval, options, (flags, check))
}

/// Who said no.
enum Stop {
    Engine(Error),
    Here(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Here(failure)
    }
}

fn restore(
    store: &Store,
    (target, wish): (Target, &Wish),
    out: &Path,
    options: Options<'_>,
    flags: &RestoreFlags,
    check: Check,
) -> Result<(), Stop> {
    let notes = Notes { json: flags.json };
    let began = Instant::now();
    let place = Place::new(out, flags.force)?;
    // Before any folder is made: a replica without a backup leaves no trace.
    let plan = engine::choose(store, target, wish, options).map_err(Stop::Engine)?;
    place.prepare()?;
    let bar = Bar::new();
    let progress = |progress: Progress| bar.show(progress);
    let options = Options { progress: &progress, ..options };
    let rebuilt = plan.carry_out(store, target, wish, place.temporary(), options);
    bar.clear();
    let rebuilt = rebuilt.map_err(Stop::Engine)?;
    let placed = check.run(place.temporary()).and_then(|()| place.put(notes));
    placed.inspect_err(|_| place.abandon())?;
    if check != Check::None {
        notes.info("post-restore integrity check passed");
    }
    let mut value = match &rebuilt {
        Rebuilt::Ltx(restored) => {
            if let Some(gap) = restored.gap {
                let time = restored.timestamp().rfc3339();
                notes.warn(&format!("the database is older than -timestamp asks for: {time} ({gap})"));
            }
            summary(restored, store, out, began)
        }
        Rebuilt::Older(restored) => older::summary(restored, store, out, began),
    };
    if check != Check::None {
        value["integrity_check"] = check.name().into();
    }
    if flags.json {
        print_json(&value)?;
    }
    Ok(())
}

fn summary(restored: &Restored, store: &Store, out: &Path, began: Instant) -> Value {
    let mut value = json!({
        "db_path": out.display().to_string(),
        "replica": replica::kind(store),
        "txid": restored.txid().to_string(),
        "timestamp": restored.timestamp().rfc3339(),
        "pages": restored.header.commit,
        "page_size": restored.header.page_size.get(),
        "files": restored.files,
        "bytes": restored.bytes,
        "duration_ms": began.elapsed().as_millis() as u64,
    });
    if let Some(gap) = restored.gap {
        value["gap"] = json!({ "have": gap.have.to_string(), "next": gap.next.to_string() });
    }
    value
}

/// The plan with the times of its files to the millisecond, whatever the store's listing shows.
fn exact(store: &Store, plan: Plan, options: Options<'_>) -> Result<Plan, Failure> {
    let files = engine::exact(store, &plan.files, options)?;
    Ok(if files.len() == plan.files.len() { Plan { files, ..plan } } else { plan })
}

/// `-dry-run`
fn show(plan: &Plan, store: &Store, url: &OsStr, out: &Path, as_json: bool) -> Result<(), Stop> {
    let (first, last) = (plan.files[0].span.min.to_string(), plan.txid().to_string());
    let (source, target) = (args::text(url)?, out.display().to_string());
    if as_json {
        let file = |file: &litestream_engine::store::FileInfo| {
            json!({
                "level": file.level.get(),
                "name": file.span.file_name(),
                "min_txid": file.span.min.to_string(),
                "max_txid": file.span.max.to_string(),
                "size": file.size,
                "timestamp": file.listed.rfc3339(),
            })
        };
        let mut value = json!({
            "source": source,
            "target_path": target,
            "replica": replica::kind(store),
            "min_txid": first,
            "max_txid": last,
            "timestamp": plan.time().rfc3339(),
            "bytes": plan.bytes(),
            "files": plan.files.iter().map(file).collect::<Vec<_>>(),
        });
        if let Some(gap) = plan.gap {
            value["gap"] = json!({ "have": gap.have.to_string(), "next": gap.next.to_string() });
        }
        return Ok(print_json(&value)?);
    }
    let rows: Vec<Vec<String>> = plan
        .files
        .iter()
        .map(|file| {
            let span = file.span;
            let text = [file.level.to_string(), span.file_name(), span.min.to_string(), span.max.to_string()];
            text.into_iter().chain([file.size.to_string(), file.listed.rfc3339()]).collect()
        })
        .collect();
    let table = table(&["level", "file", "min_txid", "max_txid", "size", "timestamp"], &rows);
    let kind = replica::kind(store);
    print(&format!(
        "Restore plan:\n  source: {source}\n  target: {target}\n  replica: {kind}\n  txid range: {first} - {last}\n  bytes: {}\n\nFiles to fetch:\n{table}",
        plan.bytes()
    ))?;
    if let Some(gap) = plan.gap {
        print(&format!("\nOlder than -timestamp asks for: {gap}\n"))?;
    }
    Ok(())
}

/// What is asked for, of LTX files and of 0.3's.
fn target(flags: &RestoreFlags) -> Result<(Target, Wish), Failure> {
    if flags.timestamp.is_some() && (flags.txid.is_some() || flags.index.is_some()) {
        return Err(Failure::new("cannot specify index & timestamp to restore"));
    }
    if flags.txid.is_some() && (flags.generation.is_some() || flags.index.is_some()) {
        return Err(Failure::new(
            "cannot specify -txid with -generation or -index: transactions are of LTX files, generations of Litestream 0.3",
        ));
    }
    let generation = flags.generation.as_deref().map(Generation::parse).transpose()?;
    let until = match (&flags.timestamp, &flags.index) {
        (Some(time), _) => Until::Time(Moment::parse(time).map_err(|_| no_time(time))?),
        (None, Some(index)) => Until::Index(index_of(index)?),
        (None, None) => Until::Latest,
    };
    let target = match (&flags.txid, &flags.timestamp) {
        (Some(txid), _) => Txid::parse(txid).map(Target::Txid).map_err(|_| {
            let text = format!("invalid value {txid:?} for flag -txid: invalid txid format");
            Failure::with_hint(text, "litestream-vfs restore -txid 000000000000002a -o /path/to/db s3://bucket/prefix")
        })?,
        (None, Some(time)) => Target::Time(before(time)?),
        (None, None) => Target::Latest,
    };
    Ok((target, Wish { generation, until }))
}

/// Up to eight hex digits.
fn index_of(text: &str) -> Result<Index, Failure> {
    let index = u32::from_str_radix(text, 16).ok().map(Index).filter(|index| *index <= Index::MAX);
    index.ok_or_else(|| {
        let text = format!("invalid value {text:?} for flag -index: invalid hexadecimal format");
        Failure::with_hint(text, "litestream-vfs restore -index 00000002 -o /path/to/db s3://bucket/prefix")
    })
}

/// Files have whole milliseconds: strictly before a finer time is strictly before the next of them.
fn before(text: &str) -> Result<Time, Failure> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| no_time(text))?;
    let finer = time.timestamp_subsec_nanos() % 1_000_000 > 0;
    Ok(Time(time.timestamp_millis() + i64::from(finer)))
}

fn no_time(text: &str) -> Failure {
    Failure::new(format!("invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z): {text:?}"))
}

/// A number of threads; `example` is a command that takes one.
pub fn parallelism(text: &str, example: &str) -> Result<usize, Failure> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
        let text = format!("invalid value {text:?} for flag -parallelism: must be a number from 1");
        Failure::with_hint(text, format!("{example} -parallelism 8 s3://bucket/prefix"))
    })
}
