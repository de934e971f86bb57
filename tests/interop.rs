//! The real Litestream 0.5.17 and this library share a replica, in both directions, on a folder and on S3.
//!
//! What we wrote Litestream restores; what Litestream wrote we restore and continue; what we left Litestream takes
//! over. Every comparison is byte for byte. LITESTREAM_05 names the program; without it these tests fail.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/litestream.rs"]
mod litestream;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream::{Intervals, Sidecar};
use litestream_engine::clock::Time;
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use replicated::{Place, command_line, credentials, folder, image, integrity, load, pages_of, same_pages, step, sync};
use rusqlite::Connection;
use servers::Seaweed;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::Said;

/// Intervals of the golden files: everything that the sidecar does happens within seconds.
const SHORT: Intervals =
    Intervals { levels: ["2s", "6s"], snapshot: "8s", snapshot_retention: "14s", l0_retention: "6s" };

/// A take-over that throws raw files away as soon as they are compacted, and keeps snapshots.
const HASTY: Intervals =
    Intervals { levels: ["2s", "6s"], snapshot: "6s", snapshot_retention: "24h", l0_retention: "1s" };

static S3: LazyLock<Seaweed> = LazyLock::new(|| {
    let seaweed = Seaweed::start();
    seaweed.bucket("interop");
    seaweed
});

/// A replica's home: its URL, which both understand, and the lines of a sidecar's configuration.
struct Home {
    url: String,
    lines: Vec<String>,
}

fn in_folder(folder: &Path) -> Home {
    let path = folder.join("replica").display().to_string();
    Home { url: format!("file://{path}"), lines: vec!["type: file".into(), format!("path: {path}")] }
}

fn on_s3(name: &str) -> Home {
    let endpoint = &S3.server.endpoint;
    let lines = [
        "type: s3".to_string(),
        "bucket: interop".to_string(),
        format!("path: {name}"),
        "region: us-east-1".to_string(),
        format!("endpoint: {endpoint}"),
        "force-path-style: true".to_string(),
    ];
    let url = format!("s3://interop/{name}?endpoint={endpoint}&region=us-east-1&forcePathStyle=true");
    Home { url, lines: lines.to_vec() }
}

/// What a person sees after a restore by our command line.
fn by_command_line(url: &str, arguments: &[&str], out: &Path) -> Result<Vec<u8>, String> {
    let mut run = Command::new("timeout");
    run.args(["-k", "5", "60"]).arg(command_line()).args(["restore", "-o"]).arg(out).args(arguments).arg(url);
    let said: Said = run.env_remove("AWS_CA_BUNDLE").envs(credentials()).output().unwrap().into();
    litestream::outcome(said, out)
}

/// Both restore the same bytes to a target, or neither does. (On S3 Litestream refuses a time by when the objects
/// came, not by the times that it gave them; ours has no need to.)
#[track_caller]
fn both_restore(url: &str, arguments: &[&str], folder: &Path) -> Option<Vec<u8>> {
    let theirs = litestream::restored(url, arguments, &folder.join("theirs.db"));
    let ours = by_command_line(url, arguments, &folder.join("ours.db"));
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) => {
            same_pages(&theirs, &ours);
            Some(theirs)
        }
        (Err(_), Err(_)) => None,
        (Err(theirs), Ok(_)) if url.starts_with("s3:") && theirs.contains("timestamp does not exist") => None,
        (theirs, ours) => panic!(
            "{arguments:?}: Litestream {}, ours {}",
            theirs.map_or_else(|e| e, |_| "restores".into()),
            ours.map_or_else(|e| e, |_| "restores".into())
        ),
    }
}

/// Every Txid at which a file ends, oldest first.
fn boundaries(place: &Place) -> BTreeSet<Txid> {
    place.listing().iter().map(|file| file.span.max).collect()
}

/// A state that was stored: after this Txid, and at this time.
struct Moment {
    txid: Txid,
    time: Time,
    image: Vec<u8>,
}

/// Commits of ours, each stored for itself, with what the database was at some of them.
fn write_moments(place: &Place, connection: &Connection, first: i64, count: i64) -> Vec<Moment> {
    let mut moments = Vec::new();
    for n in first..first + count {
        step(connection, n);
        match n % 12 {
            5 => connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap(),
            9 => connection.execute_batch("DELETE FROM t WHERE id % 3 = 0; VACUUM").unwrap(),
            _ => {}
        }
        let txid = sync(connection);
        if n % 4 == 0 {
            std::thread::sleep(Duration::from_millis(20));
            let time = Time::now();
            std::thread::sleep(Duration::from_millis(1100));
            moments.push(Moment { txid, time, image: place.image() });
        }
    }
    moments
}

fn litestream_restores_what_we_wrote(home: &Home, folder: &Path) {
    let place = Place::new(folder, "app.db", &home.url).every("20ms");
    let connection = place.open_wal();
    let moments = write_moments(&place, &connection, 1, 40);
    assert!(place.listing().len() >= 40, "{} files", place.listing().len());
    let out = folder.join("theirs.db");
    let latest = litestream::restored(&home.url, &["-integrity-check", "full"], &out).unwrap();
    same_pages(&place.image(), &latest);
    for moment in &moments[..moments.len() - 1] {
        let txid = litestream::restored(&home.url, &["-txid", &moment.txid.to_string()], &out).unwrap();
        same_pages(&moment.image, &txid);
        let time = litestream::restored(&home.url, &["-timestamp", &moment.time.rfc3339()], &out).unwrap();
        same_pages(&moment.image, &time);
    }
}

/// Goal: people can go back to Litestream at any time. Method: many raw files by us, restored by Litestream to
/// the latest state, to Txids and to times, each equal to what the database was then.
#[test]
fn litestream_restores_a_folder_replica_that_we_wrote() {
    load();
    let folder = folder();
    litestream_restores_what_we_wrote(&in_folder(folder.path()), folder.path());
}

/// The same on S3, where names and times of objects are kept otherwise.
#[test]
fn litestream_restores_an_s3_replica_that_we_wrote() {
    load();
    let folder = folder();
    litestream_restores_what_we_wrote(&on_s3("ours"), folder.path());
}

/// Litestream replicates while an application that knows nothing of us writes, for `seconds`; the database then.
fn sidecar_writes(path: &Path, home: &Home, intervals: &Intervals, first: i64, seconds: u64) -> Vec<u8> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    step(&connection, first);
    let sidecar = Sidecar::start(path, &home.lines, intervals);
    let began = Instant::now();
    let mut n = first;
    while began.elapsed() < Duration::from_secs(seconds) {
        n += 1;
        step(&connection, n);
        if n % 40 == 0 {
            connection.execute_batch("DELETE FROM t WHERE id % 3 = 0; VACUUM").unwrap();
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    drop(connection);
    // Its last sync comes with its end.
    let log = sidecar.stop();
    assert!(!log.contains("level=ERROR"), "{log}");
    image(path)
}

/// Boundaries of a replica, the oldest and the newest among them, restored by both to the same bytes.
fn some_boundaries(place: &Place, folder: &Path) -> BTreeMap<Txid, Vec<u8>> {
    let restored = |txid: Txid| both_restore(&place.replica, &["-txid", &txid.to_string()], folder);
    let all: Vec<Txid> = boundaries(place).into_iter().collect();
    let every = (all.len() / 20).max(1);
    let chosen = all.iter().rev().step_by(every).chain(all.first()).copied();
    chosen.filter_map(|txid| Some((txid, restored(txid)?))).collect()
}

/// Times between the files of a replica, restored by both to the same bytes; how many were.
fn some_times(place: &Place, folder: &Path) -> usize {
    let store = place.store();
    let times: BTreeSet<Time> = place.listing().iter().map(|file| store.created(file).unwrap()).collect();
    let times: Vec<Time> = times.into_iter().collect();
    let every = (times.len() / 8).max(1);
    let wanted = times.iter().skip(1).step_by(every).map(|time| time.rfc3339());
    wanted.filter(|time| both_restore(&place.replica, &["-timestamp", time], folder).is_some()).count()
}

fn we_restore_and_continue(home: &Home, folder: &Path, in_place: bool) {
    let theirs = folder.join("app.db");
    let last = sidecar_writes(&theirs, home, &SHORT, 1, 22);
    let place = Place::new(folder, "app.db", &home.url);
    let levels: BTreeSet<Level> = place.listing().iter().map(|file| file.level).collect();
    let wanted = [0, 1, 2, 9].map(|level| Level::new(level).unwrap());
    assert!(wanted.iter().all(|level| levels.contains(level)), "only levels {levels:?} were written");
    same_pages(&last, &both_restore(&home.url, &[], folder).unwrap());
    let before = some_boundaries(&place, folder);
    assert!(before.len() > 8, "{} boundaries can be restored", before.len());
    assert!(some_times(&place, folder) > 3);

    let ours = if in_place { place.clone() } else { place.elsewhere(&folder.join("moved.db")) };
    let connection = ours.open_wal();
    same_pages(&last, &ours.image());
    let moments = write_moments(&ours, &connection, 1000, 9);
    same_pages(&ours.image(), &both_restore(&home.url, &["-integrity-check", "full"], folder).unwrap());
    for moment in &moments {
        same_pages(&moment.image, &both_restore(&home.url, &["-txid", &moment.txid.to_string()], folder).unwrap());
    }
    for (txid, image) in before {
        same_pages(&image, &litestream::restored(&home.url, &["-txid", &txid.to_string()], &folder.join("o")).unwrap());
    }
    drop(connection);
    assert_eq!(integrity(&ours.path), "ok");
}

/// Goal: who used Litestream moves to us with all history. Method: its sidecar writes levels and snapshots under a
/// workload; both restore its boundaries and times to the same bytes; ours restores by opening, goes on, and
/// Litestream restores what came then, and what was before.
#[test]
fn a_folder_replica_of_litestream_is_restored_by_open_and_continued() {
    load();
    let folder = folder();
    we_restore_and_continue(&in_folder(folder.path()), folder.path(), false);
}

/// The same on S3.
#[test]
fn an_s3_replica_of_litestream_is_restored_by_open_and_continued() {
    load();
    let folder = folder();
    we_restore_and_continue(&on_s3("theirs"), folder.path(), false);
}

/// Goal: an upgrade in place, the database and Litestream's own folder beside it staying where they are. Method: as
/// before, but the database is opened where it is.
#[test]
fn a_database_of_litestream_is_continued_where_it_is_to_a_folder() {
    load();
    let folder = folder();
    we_restore_and_continue(&in_folder(folder.path()), folder.path(), true);
}

/// The same on S3.
#[test]
fn a_database_of_litestream_is_continued_where_it_is_to_s3() {
    load();
    let folder = folder();
    we_restore_and_continue(&on_s3("upgraded"), folder.path(), true);
}

fn litestream_takes_over(home: &Home, folder: &Path) {
    let place = Place::new(folder, "app.db", &home.url).every("20ms");
    let connection = place.open_wal();
    let moments = write_moments(&place, &connection, 1, 24);
    let last = sync(&connection);
    drop(connection);
    let path: PathBuf = place.path.clone();
    let left = sidecar_writes(&path, home, &HASTY, 100, 12);
    same_pages(&left, &both_restore(&home.url, &["-integrity-check", "full"], folder).unwrap());
    let known: BTreeMap<Txid, &Vec<u8>> = moments.iter().map(|moment| (moment.txid, &moment.image)).collect();
    let after = some_boundaries(&place, folder);
    assert!(after.contains_key(&Txid(1)), "our first image is gone");
    assert!(after.keys().any(|txid| *txid > last), "nothing of theirs can be restored");
    for (txid, image) in &after {
        if let Some(wanted) = known.get(txid) {
            same_pages(wanted, image);
        }
    }
    some_times(&place, folder);

    // And back again: the database is what Litestream stored last, so it goes on without a new image.
    let connection = place.open();
    step(&connection, 1500);
    place.is_replicated(&connection);
    drop(connection);
    let raw = place.listing().into_iter().filter(|file| file.level == Level::RAW).max_by_key(|file| file.span).unwrap();
    let (pages, commit) = pages_of(place.store().stream(&raw).unwrap());
    assert!(pages < commit, "a new image was made");

    // Litestream once more, and then a commit that nobody stores: a person has to decide.
    sidecar_writes(&path, home, &HASTY, 1600, 4);
    let plain = Connection::open(&path).unwrap();
    step(&plain, 1700);
    drop(plain);
    let refused = place.clone().with("&open-timeout=11s").try_open().map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("on-conflict"), "{refused}");
    let back = place.clone().with("&on-conflict=keep-local");
    let connection = back.open();
    step(&connection, 2000);
    back.is_replicated(&connection);
    same_pages(&back.image(), &both_restore(&home.url, &[], folder).unwrap());
    // Litestream threw more raw files away meanwhile; what still ends a file restores as before.
    let left = boundaries(&place);
    assert!(left.contains(&Txid(1)), "our first image is gone");
    for (txid, image) in after.into_iter().filter(|(txid, _)| left.contains(txid)) {
        same_pages(&image, &both_restore(&home.url, &["-txid", &txid.to_string()], folder).unwrap());
    }
    assert_eq!(place.restored(Target::Latest), back.image());
}

/// Goal: leaving us loses no history. Method: Litestream's sidecar goes on with our database and replica, throwing
/// raw files away after a second; the latest state and every boundary that is left restore, ours among them.
#[test]
fn litestream_takes_over_a_folder_replica() {
    load();
    let folder = folder();
    litestream_takes_over(&in_folder(folder.path()), folder.path());
}

/// The same on S3.
#[test]
fn litestream_takes_over_an_s3_replica() {
    load();
    let folder = folder();
    litestream_takes_over(&on_s3("taken"), folder.path());
}
