//! Two writers on one replica, in both orders: nothing that either was told is stored is overwritten or lost, the later
//! one stops uploading and says so, its commits go on, and one word resolves it.
//!
//! Each machine is a folder, each writer a process of its own. LITESTREAM_05 names the real Litestream.

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
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, folder, load, same_pages};
use rusqlite::Connection;
use servers::Seaweed;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SYNC: &str = "SELECT litestream_sync(60)";
/// How long the later writer may take to notice.
const NOTICED: Duration = Duration::from_secs(20);

fn machine(folder: &Path, name: &str) -> Place {
    std::fs::create_dir_all(folder.join(name)).unwrap();
    Place::new(&folder.join(name), "app.db", &format!("file://{}", folder.join("replica").display()))
}

fn insert(process: &mut Process, who: &str) {
    process.sql(&format!("INSERT INTO t(who, ballast) VALUES ('{who}', randomblob(500))"));
}

fn first_day(place: &Place) {
    let mut process = Process::start(place);
    process.sql("PRAGMA journal_mode=WAL");
    process.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, who, ballast)");
    insert(&mut process, "first");
    process.sql(SYNC);
    process.end();
}

/// Inserts a row and waits until it is stored: the Txid, or what was said.
fn store(process: &mut Process, who: &str) -> Result<Txid, String> {
    insert(process, who);
    process.say(SYNC);
    let answer = process.answer();
    match answer["error"].as_str() {
        Some(error) => Err(error.to_string()),
        None => Ok(Txid::parse(answer[0][0].as_str().unwrap()).unwrap()),
    }
}

fn state(process: &mut Process) -> String {
    process.sql("SELECT state FROM litestream_status")[0][0].as_str().unwrap().to_string()
}

/// What a restore of the newest state holds.
fn restored_rows(place: &Place) -> Vec<String> {
    let out = place.restore_to(Target::Latest);
    let rows = rows_of(&out);
    std::fs::remove_file(&out).unwrap();
    let _ = std::fs::remove_file(out.with_extension("restored-shm"));
    let _ = std::fs::remove_file(out.with_extension("restored-wal"));
    rows
}

fn rows_of(path: &Path) -> Vec<String> {
    let plain = Connection::open(path).unwrap();
    let mut statement = plain.prepare("SELECT who FROM t ORDER BY id").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// `first` stores, `second` then tries: it diverges, its commits go on, and the replica holds what was called stored.
/// One word on the next open resolves it, either way.
fn the_later_one_diverges(first: (&Place, &mut Process), mut second: (&Place, Process), answer: &str) {
    store(first.1, "winner").unwrap();
    let said = store(&mut second.1, "loser").expect_err("both were told that they are stored");
    assert!(said.contains("another writer") && said.contains("on-conflict"), "{said}");
    assert!(state(&mut second.1).starts_with("diverged"), "{}", state(&mut second.1));
    for n in 0..5 {
        let began = Instant::now();
        insert(&mut second.1, &format!("loser {n}"));
        assert!(began.elapsed() < Duration::from_secs(1), "a commit waited {:?}", began.elapsed());
    }
    let last = store(first.1, "winner again").unwrap();
    assert_eq!(restored_rows(first.0), ["first", "winner", "winner again"]);
    second.1.kill();
    let refused = Process::idle().open_error(&second.0.uri());
    assert!(refused.contains("keep-local"), "{refused}");
    let mut again = Process::start(&second.0.clone().with(&format!("&on-conflict={answer}")));
    store(&mut again, "resolved").unwrap();
    again.end();
    same_pages(&second.0.image(), &second.0.restored(Target::Latest));
    let rows = restored_rows(second.0);
    match answer {
        "keep-local" => assert_eq!(rows[1], "loser"),
        _ => assert_eq!(rows, ["first", "winner", "winner again", "resolved"]),
    }
    let at = first.0.elsewhere(&first.0.path.with_file_name("at"));
    std::fs::write(&at.path, at.restored(Target::Txid(last))).unwrap();
    assert_eq!(rows_of(&at.path), ["first", "winner", "winner again"], "what was called stored is lost");
}

fn copied(from: &Place, to: &Place) {
    std::fs::remove_dir_all(to.path.parent().unwrap()).unwrap();
    let done = Command::new("cp").arg("-a").arg(from.path.parent().unwrap()).arg(to.path.parent().unwrap()).status();
    assert!(done.unwrap().success());
}

/// Goal: a volume copied with its Spool, both open, the copy ahead. Method: the copy knows itself for another file and
/// stores an image as soon as it is opened; the original, which was open before, comes later.
#[test]
fn a_copied_volume_that_is_ahead_leaves_the_original_behind() {
    let folder = folder();
    let (original, copy) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&original);
    copied(&original, &copy);
    let (mut at_original, mut at_copy) = (Process::start(&original), Process::start(&copy));
    at_original.sql("SELECT count(*) FROM t");
    at_copy.sql("SELECT litestream_sync(30)");
    the_later_one_diverges((&copy, &mut at_copy), (&original, at_original), "take-replica");
    at_copy.end();
}

/// Goal: the other order: the original stored something before the copy is opened. Method: the copy's open is refused
/// with what each side has, keeps its own on demand, and the original then diverges.
#[test]
fn a_copied_volume_that_comes_later_is_refused_until_somebody_decides() {
    let folder = folder();
    let (original, copy) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&original);
    copied(&original, &copy);
    insert(&mut Process::start(&copy.clone().with("&replica=off")), "on the copy");
    let mut at_original = Process::start(&original);
    let last = store(&mut at_original, "winner").unwrap();
    let refused = Process::idle().open_error(&copy.uri());
    assert!(refused.contains("keep-local") && refused.contains("take-replica"), "{refused}");
    let mut at_copy = Process::start(&copy.clone().with("&on-conflict=keep-local"));
    store(&mut at_copy, "kept").unwrap();
    assert_eq!(restored_rows(&copy), ["first", "on the copy", "kept"]);
    let said = store(&mut at_original, "loser").expect_err("both were told that they are stored");
    assert!(said.contains("another writer"), "{said}");
    let at = copy.elsewhere(&copy.path.with_file_name("at"));
    std::fs::write(&at.path, at.restored(Target::Txid(last))).unwrap();
    assert_eq!(rows_of(&at.path), ["first", "winner"], "what was called stored is lost");
    at_copy.end();
    at_original.kill();
}

/// Goal: another machine that restored from the replica, while the first goes on. Method: both orders, both answers.
#[test]
fn another_machine_diverges_in_both_orders() {
    for (turned, answer) in [(false, "take-replica"), (true, "keep-local")] {
        let folder = folder();
        let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
        first_day(&a);
        let (mut at_a, mut at_b) = (Process::start(&a), Process::start(&b));
        for process in [&mut at_a, &mut at_b] {
            process.sql("SELECT count(*) FROM t");
        }
        if turned {
            the_later_one_diverges((&b, &mut at_b), (&a, at_a), answer);
            at_b.end();
        } else {
            the_later_one_diverges((&a, &mut at_a), (&b, at_b), answer);
            at_a.end();
        }
    }
}

/// Goal: a writer that was idle while another one's raw files came, were merged and deleted: their names are free
/// again, and nothing may be stored there. Method: all of them merged into level 1 and deleted below the idle one, in
/// a folder and on S3.
#[test]
fn an_idle_writer_meets_another_one_whose_raw_files_are_gone() {
    let seaweed = Seaweed::start();
    seaweed.bucket("idle");
    let s3 = format!("s3://idle/app?endpoint={}&region=us-east-1", seaweed.server.endpoint);
    for replica in [None, Some(s3)] {
        idle_meets_another(replica);
    }
}

fn idle_meets_another(replica: Option<String>) {
    load();
    let folder = folder();
    let (mut a, mut b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    if let Some(replica) = replica {
        (a.replica, b.replica) = (replica.clone(), replica);
    }
    first_day(&a);
    let mut idle = Process::start(&a);
    idle.sql("SELECT count(*) FROM t");
    let mut other = Process::start(&b);
    for n in 0..4 {
        store(&mut other, &format!("winner {n}")).unwrap();
    }
    other.end();
    // A store is asked only after a pause.
    std::thread::sleep(Duration::from_secs(3));
    let (replica, mut raw) = (b.store(), b.listing());
    raw.retain(|file| file.level == Level::RAW);
    raw.sort_by_key(|file| file.span);
    let level = Level::new(1).unwrap();
    let from = Inputs { store: &replica, local: &|_| None, go_on: &|| Ok(()), doubt: &|_| {} };
    let merged = compactor::merge(&from, &Merge { level, inputs: raw.clone() }, &folder.path().join("merged")).unwrap();
    compactor::put(&replica, level, &merged).unwrap();
    replica.delete(&raw.iter().map(|file| (file.level, file.span)).collect::<Vec<_>>()).unwrap();
    let said = store(&mut idle, "loser").expect_err("it was told that it is stored");
    assert!(said.contains("another writer"), "{said}");
    assert!(!a.listing().iter().any(|file| file.level == Level::RAW), "it stored beside the other's history");
    assert_eq!(restored_rows(&a), ["first", "winner 0", "winner 1", "winner 2", "winner 3"]);
    idle.kill();
}

/// Goal: one database under two names by a symlink is one database; by a hard link it is said. Method: written through
/// both; the Spool is one, and the status names the link.
#[test]
fn a_symlink_is_the_same_database_and_a_hard_link_is_named() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    let link = a.elsewhere(&folder.path().join("link.db"));
    std::os::unix::fs::symlink(&a.path, &link.path).unwrap();
    let (mut one, mut two) = (Process::start(&a), Process::start(&link));
    store(&mut one, "by its name").unwrap();
    store(&mut two, "by the link").unwrap();
    two.end();
    one.end();
    assert!(!link.spool().exists(), "the symlink has a Spool of its own");
    assert_eq!(restored_rows(&a), ["first", "by its name", "by the link"]);
    std::fs::hard_link(&a.path, folder.path().join("second.db")).unwrap();
    let mut one = Process::start(&a);
    let said = one.sql("SELECT last_error FROM litestream_status");
    assert!(said[0][0].as_str().is_some_and(|text| text.contains("2 names")), "{said}");
    one.end();
}

const INTERVALS: Intervals =
    Intervals { levels: ["2s", "6s"], snapshot: "60s", snapshot_retention: "24h", l0_retention: "1s" };

fn sidecar(place: &Place, folder: &Path) -> Sidecar {
    let lines = ["type: file".to_string(), format!("path: {}", folder.join("replica").display())];
    Sidecar::start(&place.path, &lines, &INTERVALS)
}

/// Goal: the real Litestream beside us on the same database and replica, started while we run. Method: an application
/// writes through us all the time; what we call stored is in the replica, commits go on, and after both have ended we
/// go on with all rows.
#[test]
fn litestream_that_comes_beside_us_loses_nothing() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    let mut ours = Process::start(&a);
    insert(&mut ours, "begin");
    let other = sidecar(&a, folder.path());
    let (began, mut n, mut stored) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(6) {
        n += 1;
        let one = Instant::now();
        insert(&mut ours, &format!("row {n}"));
        assert!(one.elapsed() < Duration::from_secs(2), "a commit waited {:?}", one.elapsed());
        if n % 10 == 0 && store(&mut ours, "asked").is_ok() {
            stored = n;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    other.stop();
    let rows = restored_rows(&a);
    assert!(stored == 0 || rows.contains(&format!("row {stored}")), "row {stored} was called stored: {rows:?}");
    ours.kill();
    let mut again = Process::start(&a.clone().with("&on-conflict=keep-local"));
    store(&mut again, "end").unwrap();
    again.end();
    let rows = restored_rows(&a);
    assert!((1..=n).all(|n| rows.contains(&format!("row {n}"))), "{} rows of {n} are there", rows.len());
    same_pages(&a.image(), &a.restored(Target::Latest));
}

/// Goal: the other order. Method: Litestream replicates, an application without us writes; we are refused while it runs,
/// for the replica is beyond us and the database in use; when it has ended, the database is the replica's end, and we go
/// on from there without anybody saying a word.
#[test]
fn we_that_come_beside_litestream_are_refused_until_it_has_ended() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    let other = sidecar(&a, folder.path());
    let plain = Connection::open(&a.path).unwrap();
    for n in 0..20 {
        plain.execute("INSERT INTO t(who) VALUES (?1)", [format!("plain {n}")]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let refused = Process::idle().open_error(&a.uri());
    assert!(refused.contains("on-conflict") && refused.contains("has it open"), "{refused}");
    plain.execute("INSERT INTO t(who) VALUES ('last')", []).unwrap();
    drop(plain);
    other.stop();
    let mut ours = Process::start(&a);
    store(&mut ours, "ours").unwrap();
    ours.end();
    let rows = restored_rows(&a);
    assert_eq!((rows.len(), rows[20].as_str(), rows[22].as_str()), (23, "plain 19", "ours"), "{rows:?}");
    same_pages(&a.image(), &a.restored(Target::Latest));
}

/// Goal: two containers (PID namespaces) with one volume are one machine: one leads. Method: a process in a namespace
/// of its own beside one of ours; both are told that they are stored, and all rows are there.
#[test]
fn two_pid_namespaces_share_one_leader() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a);
    let mut one = Process::start(&a);
    store(&mut one, "outside").unwrap();
    let mut two = Process::start_in_namespace(&a.uri());
    for n in 0..5 {
        store(&mut one, &format!("outside {n}")).unwrap();
        store(&mut two, &format!("inside {n}")).unwrap();
    }
    one.kill();
    let began = Instant::now();
    store(&mut two, "inside, alone").unwrap();
    assert!(began.elapsed() < NOTICED, "the hand-over took {:?}", began.elapsed());
    two.end();
    assert_eq!(restored_rows(&a).len(), 13);
}
