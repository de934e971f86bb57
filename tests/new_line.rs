//! An image that no older file leads to (another page size, files missing in the replica) beside another writer: both
//! have the same name in their way, and whoever comes later stores nothing.
//!
//! Each machine is a folder, each run of an application a process of its own. LITESTREAM_05 names the real Litestream.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/litestream.rs"]
mod litestream;
#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream::{Intervals, Sidecar};
use litestream_engine::compactor::{self, Inputs};
use litestream_engine::due::Merge;
use litestream_engine::ltx::{Level, Span, Txid};
use litestream_engine::plan::Target;
use litestream_engine::restore::Options;
use litestream_engine::verify;
use process::Process;
use replicated::{Place, folder, integrity, load, page_size, same_pages};
use rusqlite::Connection;
use servers::Seaweed;
use std::path::Path;
use std::time::Duration;

const SYNC: &str = "SELECT litestream_sync(60)";
/// By a tool that knows nothing of replication, so that the image is all that there is to be stored.
fn resize(place: &Place) {
    let plain = Connection::open(&place.path).unwrap();
    plain.busy_timeout(Duration::from_secs(10)).unwrap();
    plain.execute_batch("PRAGMA page_size=8192; VACUUM").unwrap();
}

/// Stored only when it is asked for, so that what one statement did is one transaction of the replica.
fn machine(folder: &Path, name: &str) -> Place {
    std::fs::create_dir_all(folder.join(name)).unwrap();
    Place::new(&folder.join(name), "app.db", &format!("file://{}", folder.join("replica").display())).every("1h")
}

fn first_day(place: &Place) -> Txid {
    let mut process = Process::start(place);
    process.sql("PRAGMA journal_mode=DELETE");
    process.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, who, ballast)");
    let stored = store(&mut process, "first").unwrap();
    process.end();
    stored
}

/// Inserts a row and waits until it is stored: the Txid, or what was said.
fn store(process: &mut Process, who: &str) -> Result<Txid, String> {
    process.sql(&format!("INSERT INTO t(who, ballast) VALUES ('{who}', randomblob(9000))"));
    process.say(SYNC);
    let answer = process.answer();
    match answer["error"].as_str() {
        Some(error) => Err(error.to_string()),
        None => Ok(Txid::parse(answer[0][0].as_str().unwrap()).unwrap()),
    }
}

/// Waits until everything is stored.
fn stored_alone(process: &mut Process) -> Txid {
    Txid::parse(process.sql(SYNC)[0][0].as_str().unwrap()).unwrap()
}

/// The page size and the rows of a state of the replica.
fn restored(place: &Place, target: Target) -> (usize, Vec<String>) {
    let at = place.elsewhere(&place.path.with_file_name("restored.db"));
    let bytes = place.restored(target);
    std::fs::write(&at.path, &bytes).unwrap();
    assert_eq!(integrity(&at.path), "ok");
    let plain = Connection::open(&at.path).unwrap();
    let mut statement = plain.prepare("SELECT who FROM t ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    (page_size(&bytes), rows)
}

/// The same by the real Litestream.
fn theirs(place: &Place) -> Result<Vec<u8>, String> {
    litestream::restored(&place.replica, &[], &place.path.with_file_name("theirs.db"))
}

fn no_problems(place: &Place) {
    let report = verify::walk(&place.store(), Options::default()).unwrap();
    assert_eq!(report.problems, [], "{:?}", report.ranges);
}

/// Goal: a writer whose page size changes, and one that commits as ever: the later one stores nothing, in both orders,
/// nothing that was called stored is lost, and one word resolves it. Method: two machines at the same transaction; each
/// goes on from there; in a folder and on S3.
#[test]
fn another_page_size_meets_another_writer_in_both_orders() {
    load();
    let seaweed = Seaweed::start();
    seaweed.bucket("sizes");
    for resized_first in [true, false] {
        for (n, answer) in ["keep-local", "take-replica"].into_iter().enumerate() {
            let (folder, s3) = (folder(), format!("{resized_first}-{answer}"));
            let (mut a, mut b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
            if n == usize::from(resized_first) {
                let endpoint = &seaweed.server.endpoint;
                a.replica = format!("s3://sizes/{s3}?endpoint={endpoint}&region=us-east-1&forcePathStyle=true");
                b.replica.clone_from(&a.replica);
            }
            sizes_meet(a, b, resized_first, answer);
        }
    }
}

fn sizes_meet(a: Place, b: Place, resized_first: bool, answer: &str) {
    first_day(&a);
    let (mut resizing, mut usual) = (Process::start(&a), Process::start(&b));
    for process in [&mut resizing, &mut usual] {
        process.sql("SELECT count(*) FROM t");
    }
    // What is committed before the size changes would be stored as ever, and meet the other writer for it.
    let said = if resized_first {
        resize(&a);
        let first = stored_alone(&mut resizing);
        assert_eq!(restored(&a, Target::Txid(first)), (8192, vec!["first".into()]));
        let said = store(&mut usual, "loser");
        store(&mut resizing, "winner").unwrap();
        said
    } else {
        store(&mut usual, "winner").unwrap();
        resize(&a);
        store(&mut resizing, "loser")
    };
    let said = said.expect_err("both were told that they are stored");
    assert!(said.contains("another writer") && said.contains("on-conflict"), "{said}");
    let (mut winner, mut loser, size) = if resized_first { (resizing, usual, 8192) } else { (usual, resizing, 4096) };
    let state = loser.sql("SELECT state FROM litestream_status")[0][0].to_string();
    assert!(state.contains("diverged"), "{state}");
    assert_eq!(restored(&a, Target::Latest), (size, vec!["first".into(), "winner".into()]));
    same_pages(&a.restored(Target::Latest), &theirs(&a).unwrap());
    let last = store(&mut winner, "winner again").unwrap();
    let won = (size, vec!["first".into(), "winner".into(), "winner again".into()]);
    assert_eq!(restored(&a, Target::Latest), won);
    no_problems(&a);
    winner.kill();
    loser.kill();
    let loser = if resized_first { b } else { a };
    let mut again = Process::start(&loser.clone().with(&format!("&on-conflict={answer}")));
    store(&mut again, "resolved").unwrap();
    again.end();
    same_pages(&loser.image(), &loser.restored(Target::Latest));
    same_pages(&loser.image(), &theirs(&loser).unwrap());
    assert_eq!(restored(&loser, Target::Txid(last)), won);
    no_problems(&loser);
}

/// Goal: the same where files are missing in the replica. Method: one machine finds its last file gone and makes an image
/// that needs none; the other, at work since before, stores under the same name.
#[test]
fn an_image_that_needs_no_older_file_meets_another_writer() {
    for image_first in [true, false] {
        let folder = folder();
        let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
        let stored = first_day(&a);
        let mut usual = Process::start(&b);
        stored_alone(&mut usual);
        let lost: Vec<_> = a.listing().iter().filter(|file| file.level == Level::SNAPSHOT).cloned().collect();
        a.store().delete(&lost.iter().map(|file| (file.level, file.span)).collect::<Vec<_>>()).unwrap();
        let mut imaging = Process::start(&a);
        // With its first statement it begins to lead, and to look.
        let (first, second) = if image_first { (&mut imaging, &mut usual) } else { (&mut usual, &mut imaging) };
        assert!(store(first, "winner").unwrap() > stored);
        let said = store(second, "loser").expect_err("both were told that they are stored");
        assert!(said.contains("another writer"), "{said}");
        if image_first {
            assert_eq!(restored(&a, Target::Latest).1, ["first", "winner"]);
        } else {
            let snapshots = a.listing().iter().filter(|file| file.span.is_snapshot()).count();
            assert_eq!(snapshots, 0, "{:?}", a.listing());
        }
        imaging.kill();
        usual.kill();
    }
}

/// Goal: a process that dies between the two puts leaves a replica that restores to the image, and the next one
/// completes it without another image. Method: killed at each step of it; then a commit, both restores and a walk.
#[test]
fn a_kill_between_the_raw_file_and_the_snapshot_is_completed() {
    for point in ["ltx-saved", "fenced", "put-done", "state-written"] {
        let folder = folder();
        let a = machine(folder.path(), "a");
        let stored = first_day(&a);
        resize(&a);
        let mut dying = Process::start_with(&a.uri(), &[("LITESTREAM_FAULT", &format!("{point}:1"))]);
        dying.say("SELECT count(*) FROM t");
        dying.say(SYNC);
        dying.dies();
        let end = a.listing().iter().map(|file| file.span.max).max().unwrap();
        let (size, rows) = restored(&a, Target::Latest);
        assert_eq!((size, rows), (if end > stored { 8192 } else { 4096 }, vec!["first".into()]), "{point}");
        no_problems(&a);
        let mut again = Process::start(&a);
        store(&mut again, "second").unwrap();
        again.end();
        same_pages(&a.image(), &a.restored(Target::Latest));
        same_pages(&a.image(), &theirs(&a).unwrap());
        no_problems(&a);
        let images = a.listing().iter().filter(|file| file.span.min == Txid(1)).count();
        assert_eq!(images, 2, "{point}: {:?}", a.listing());
    }
}

/// Goal: a store that fails between the two puts is tried again, by the same process, and nothing is stored twice. Method: a
/// folder stands where the snapshot shall be; meanwhile the image restores; then it goes away.
#[test]
fn a_store_that_fails_between_the_two_puts_is_tried_again() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    let stored = first_day(&a);
    let mut process = Process::start(&a);
    stored_alone(&mut process);
    let name = Span { min: Txid(1), max: stored.next() }.file_name();
    let in_the_way = folder.path().join(format!("replica/ltx/9/{name}"));
    std::fs::create_dir(&in_the_way).unwrap();
    resize(&a);
    process.say("SELECT litestream_sync(3)");
    let said = process.answer();
    assert!(said["error"].is_string(), "{said}");
    assert_eq!(restored(&a, Target::Latest), (8192, vec!["first".into()]));
    std::fs::remove_dir(&in_the_way).unwrap();
    store(&mut process, "second").unwrap();
    process.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    same_pages(&a.image(), &theirs(&a).unwrap());
    let newest = a.listing().iter().map(|file| file.span.max).max();
    assert_eq!(newest, Some(stored.next().next()));
    let left = a.spool().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.contains("whole") || name.ends_with(".ltx")).collect();
    assert_eq!(left, [""; 0]);
    no_problems(&a);
}

/// Goal: the same where files are missing: what waits is taken up and not made anew, for its name is taken. Method: killed
/// between the two puts; the next process is not its own conflict.
#[test]
fn a_kill_between_the_two_puts_of_an_image_that_needs_no_older_file_is_completed() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    let all: Vec<_> = a.listing().iter().map(|file| (file.level, file.span)).collect();
    a.store().delete(&all).unwrap();
    let mut dying = Process::start_with(&a.uri(), &[("LITESTREAM_FAULT", "fenced:1")]);
    dying.say("SELECT count(*) FROM t");
    dying.say(SYNC);
    dying.dies();
    assert_eq!(a.listing().len(), 1, "{:?}", a.listing());
    let mut again = Process::start(&a);
    store(&mut again, "second").unwrap();
    again.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    same_pages(&a.image(), &theirs(&a).unwrap());
    no_problems(&a);
}

/// Goal: a database whose machine is lost between the two puts is restored from the raw file, and its replica becomes one
/// that Litestream restores with the next snapshot. Method: a new machine; the merge that upkeep makes of all files.
#[test]
fn a_machine_lost_between_the_two_puts_is_replaced() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    resize(&a);
    let mut dying = Process::start_with(&a.uri(), &[("LITESTREAM_FAULT", "fenced:1")]);
    dying.say("SELECT count(*) FROM t");
    dying.say(SYNC);
    dying.dies();
    a.lose();
    let mut again = Process::start(&a);
    store(&mut again, "second").unwrap();
    again.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    let store = a.store();
    let inputs = litestream_engine::plan::plan(&a.listing(), Target::Latest).unwrap().files;
    let from = Inputs { store: &store, local: &|_| None, go_on: &|| Ok(()), doubt: &|_| {} };
    let merge = Merge { level: Level::SNAPSHOT, inputs };
    let merged = compactor::merge(&from, &merge, &folder.path().join("merged")).unwrap();
    compactor::put(&store, Level::SNAPSHOT, &merged).unwrap();
    same_pages(&a.image(), &theirs(&a).unwrap());
    no_problems(&a);
}

const INTERVALS: Intervals =
    Intervals { levels: ["1s", "3s"], snapshot: "60s", snapshot_retention: "24h", l0_retention: "1s" };

/// Goal: Litestream takes over where the page size changed, and its restore has everything; so has ours, and we go on
/// from there. Method: the real sidecar for a few of its intervals, with rows by a plain connection.
#[test]
fn litestream_takes_over_after_another_page_size() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    resize(&a);
    let mut process = Process::start(&a);
    store(&mut process, "second").unwrap();
    process.end();
    let lines = ["type: file".to_string(), format!("path: {}", folder.path().join("replica").display())];
    let sidecar = Sidecar::start(&a.path, &lines, &INTERVALS);
    let plain = Connection::open(&a.path).unwrap();
    for n in 0..40 {
        plain.execute("INSERT INTO t(who) VALUES (?1)", [format!("plain {n}")]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(plain);
    sidecar.stop();
    same_pages(&theirs(&a).unwrap(), &a.restored(Target::Latest));
    assert_eq!(restored(&a, Target::Latest).1.len(), 42);
    let mut process = Process::start(&a);
    store(&mut process, "third").unwrap();
    process.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    same_pages(&a.image(), &theirs(&a).unwrap());
}
