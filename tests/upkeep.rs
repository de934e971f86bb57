//! Compaction, snapshots and retention live, through the built library, with intervals of seconds.
//!
//! A workload runs while files are merged and deleted below it; every boundary that is left restores to what the
//! database was, by us and by the real Litestream 0.5 (LITESTREAM_05); and when it ends, silence follows.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/litestream.rs"]
mod litestream;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stand_in.rs"]
mod stand_in;
mod support;

use litestream_engine::clock::Time;
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use memory::{Conditions, Memory};
use replicated::{Place, same_pages, status, sync, wait_for};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A day in seconds.
const QUICK: &str = "&levels=1s,3s&snapshot-interval=5s&snapshot-retention=6s&l0-retention=2s";

/// Rows that come, change and go; the database grows, shrinks and is checkpointed.
fn step(connection: &Connection, n: i64) {
    replicated::step(connection, n);
    if n % 40 == 25 {
        connection.execute_batch("DELETE FROM t WHERE id % 3 = 0; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    }
}

/// Every Txid that a file of the replica ends at restores, and to what the database was.
fn check_boundaries(place: &Place, images: &BTreeMap<Txid, Vec<u8>>) -> usize {
    let listing = place.listing();
    let oldest = listing.iter().filter(|file| file.level == Level::SNAPSHOT).map(|file| file.span.max).min();
    let mut checked = 0;
    for txid in listing.iter().map(|file| file.span.max).filter(|max| Some(*max) >= oldest) {
        let out = place.path.with_extension(format!("at-{txid}"));
        match restore::run(&place.store(), Target::Txid(txid), &out, Options::default()) {
            Ok(restored) => assert_eq!(restored.txid(), txid),
            // Its time came between the listing and the restore.
            Err(_) if !place.listing().iter().any(|file| file.span.max == txid) => continue,
            Err(e) => panic!("{txid}: {e}\n{listing:#?}"),
        }
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        if let Some(image) = images.get(&txid) {
            same_pages(image, &bytes);
            checked += 1;
        }
    }
    checked
}

/// Goal: below a workload the replica stays small, and everything that is left restores to what it was. Method: 20 s of
/// commits with a day of five seconds in a folder; boundaries during the run and after it; both programs restore.
#[test]
fn a_replica_stays_small_below_a_workload_and_every_boundary_restores() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::in_folder(folder.path(), "app.db").with(QUICK);
    let connection = place.open_wal();
    let mut images = BTreeMap::new();
    let (began, mut n, mut most, mut checked) = (Instant::now(), 0, 0, 0);
    while began.elapsed() < Duration::from_secs(20) {
        n += 1;
        step(&connection, n);
        images.insert(sync(&connection), place.image());
        most = most.max(place.listing().len());
        if n % 25 == 0 {
            checked += check_boundaries(&place, &images);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{n} commits, at most {most} files, {checked} boundaries compared");
    assert!(most < 250, "{most} files at once after {n} commits");
    assert!(checked > 20, "{checked} boundaries were compared");
    let listing = place.listing();
    for level in [1, 2, 9].map(|level| Level::new(level).unwrap()) {
        assert!(listing.iter().any(|file| file.level == level), "level {level} is empty: {listing:#?}");
    }

    let last = place.image();
    let url = place.replica.clone();
    for (txid, image) in images.iter().rev().take(3) {
        let theirs = litestream::restored(&url, &["-txid", &txid.to_string()], &folder.path().join("theirs.db"));
        same_pages(image, &theirs.unwrap_or_else(|e| panic!("{txid}: {e}")));
    }
    // The newest of each level and one snapshot.
    wait_for("everything due to be done", Duration::from_secs(60), || place.listing().len() <= 4);
    let quiet = place.listing();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(place.listing(), quiet, "after that nothing changes");
    assert!(check_boundaries(&place, &images) > 0);
    same_pages(&last, &place.restored(Target::Latest));
    same_pages(&last, &litestream::restored(&url, &[], &folder.path().join("theirs.db")).unwrap());
    let status = status(&connection);
    assert!(!status.contains("compaction"), "no trouble is reported: {status}");
}

/// A bucket in memory, and a database that goes there.
fn in_memory(folder: &std::path::Path, server: &Memory, more: &str) -> Place {
    let url = format!("s3://bucket/app?endpoint={}&region=us-east-1&forcePathStyle=true", server.server.endpoint);
    Place::new(folder, "app.db", &url).with(more)
}

/// Goal: an idle database makes no request at all, also after it was busy. Method: a bucket that counts requests; what is
/// due after the last write is waited for, then seconds pass that hold several of every interval.
#[test]
fn after_the_last_due_work_no_request_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let server = Memory::start(Conditions::Kept);
    let quick = "&levels=1s,2s&snapshot-interval=3s&snapshot-retention=2s&l0-retention=1s";
    let place = in_memory(folder.path(), &server, quick);
    let connection = place.open_wal();
    for n in 1..30 {
        step(&connection, n);
        sync(&connection);
        std::thread::sleep(Duration::from_millis(120));
    }
    let requests = || server.server.seen().len();
    let mut last = (requests(), Instant::now());
    let limit = Instant::now() + Duration::from_secs(60);
    while last.1.elapsed() < Duration::from_secs(6) {
        assert!(Instant::now() < limit, "requests do not end: {:?}", server.server.seen().last());
        std::thread::sleep(Duration::from_millis(100));
        if requests() != last.0 {
            last = (requests(), Instant::now());
        }
    }
    let names = server.names();
    assert!(names.len() <= 6, "what is left: {names:?}");
    assert!(names.iter().any(|name| name.contains("/0009/")), "a snapshot: {names:?}");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(requests(), last.0, "an idle database asks for nothing: {:?}", server.server.seen().last());
    same_pages(&place.image(), &place.restored(Target::Latest));
    // And a write wakes everything up again.
    step(&connection, 31);
    sync(&connection);
    assert!(requests() > last.0);
    same_pages(&place.image(), &place.restored(Target::Latest));
}

/// Goal: uploads never wait for compaction. Method: the bucket keeps compacted files waiting for seconds; commits are
/// stored meanwhile.
#[test]
fn a_slow_compaction_does_not_delay_what_is_committed() {
    const SLOW: Duration = Duration::from_secs(4);
    let folder = tempfile::tempdir().unwrap();
    let server = Memory::checking(Conditions::Kept, |request| {
        if request.method == "PUT" && request.path().contains("/0001/") {
            std::thread::sleep(SLOW);
        }
        None
    });
    let place = in_memory(folder.path(), &server, "&levels=1s,3600s");
    let connection = place.open_wal();
    let begun = || server.server.seen().iter().any(|request| request.path().contains("/0001/"));
    let (mut n, mut during, mut slowest) = (0, 0, Duration::ZERO);
    let limit = Instant::now() + Duration::from_secs(40);
    while !server.names().iter().any(|name| name.contains("/0001/")) {
        assert!(Instant::now() < limit, "no compaction was done: {:?}", server.names());
        n += 1;
        step(&connection, n);
        let before = Instant::now();
        sync(&connection);
        if begun() {
            during += 1;
            slowest = slowest.max(before.elapsed());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{during} syncs during a compaction, the slowest took {slowest:?}");
    assert!(during > 10 && slowest < SLOW / 2, "{during} syncs, the slowest took {slowest:?}");
    same_pages(&place.image(), &place.restored(Target::Latest));
}

/// Goal: `retention-enabled=false` never deletes, for buckets that forbid it; and any time restores exactly, with few
/// requests, although the listing shows other times. Method: a workload with short retention goes on without trouble; every
/// raw file is still there; just before and just after the times of some, the state is what it was then.
#[test]
fn without_retention_nothing_is_ever_deleted_and_every_time_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let server = Memory::start(Conditions::Kept);
    let place = in_memory(folder.path(), &server, &format!("{QUICK}&retention-enabled=false"));
    let connection = place.open_wal();
    let mut images = BTreeMap::new();
    for n in 1..60 {
        step(&connection, n);
        images.insert(sync(&connection), place.image());
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for("a snapshot", Duration::from_secs(20), || {
        server.names().iter().filter(|name| name.contains("/0009/")).count() > 1
    });
    let is_deletion = |request: &stand_in::Request| request.method == "DELETE" || request.query("delete").is_some();
    let deletions = server.server.seen().into_iter().filter(is_deletion).map(|request| request.target);
    let ours: Vec<_> = deletions.filter(|target| target.contains("/000")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    let raw: Vec<_> = place.listing().into_iter().filter(|file| file.level == Level::RAW).collect();
    assert!(raw.len() >= 59, "{} raw files", raw.len());

    // On a busy machine an interval may pass within a step: what is stored then is a state that nobody looked at.
    let is_known = |txid: u64| images.contains_key(&Txid(txid));
    let known = raw.iter().skip(3).filter(|file| is_known(file.span.max.0) && is_known(file.span.max.0 - 1));
    let some: Vec<_> = known.step_by(11).collect();
    assert!(some.len() > 2, "{} of {} raw files can be compared", some.len(), raw.len());
    for file in some {
        let created = place.store().created(file).unwrap();
        let before = server.server.count("HEAD");
        same_pages(&images[&file.span.max], &place.restored(Target::Time(Time(created.0 + 1))));
        let asked = server.server.count("HEAD") - before;
        assert!(asked < 100, "{asked} requests for times");
        let earlier = place.restored(Target::Time(created));
        same_pages(&images[&Txid(file.span.max.0 - 1)], &earlier);
    }
    same_pages(&place.image(), &place.restored(Target::Latest));
}
