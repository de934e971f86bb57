//! Stores on bad days, seen by an application: commits go on as fast, the status says what is wrong, everything is
//! stored within ten seconds of its end, and a missing database is never opened as an empty one.
//!
//! SeaweedFS behind the fault proxy. Damaged replicas are in `bad_input.rs`, the stores' own faults in
//! `store_faults.rs`.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stand_in.rs"]
mod stand_in;
mod support;

use litestream_engine::plan::Target;
use process::Process;
use proxy::{Fault, Proxy};
use replicated::{Place, folder, load, same_pages, status, sync, wait_for};
use rusqlite::Connection;
use servers::{S3_KEY, Seaweed};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No commit takes longer while the store is ill: a disk may, on a busy machine.
const COMMIT: Duration = Duration::from_secs(1);
/// Everything is stored this long after a fault has ended.
const HEALED: Duration = Duration::from_secs(10);
/// How long a worker may take to notice a store that hangs (its patience) and to say so.
const NOTICED: Duration = Duration::from_secs(25);

static S3: LazyLock<Seaweed> = LazyLock::new(|| {
    let seaweed = Seaweed::start();
    seaweed.bucket("outages");
    seaweed
});

/// A database whose store is behind a proxy; the same replica without it.
struct Scene {
    proxy: Proxy,
    place: Place,
    direct: Place,
    _folder: TempDir,
}

fn url(endpoint: &str, bucket: &str, name: &str) -> String {
    format!("s3://{bucket}/{name}?endpoint={endpoint}&region=us-east-1")
}

fn scene(name: &str) -> Scene {
    load();
    let folder = folder();
    let proxy = Proxy::start(&S3.server.address);
    let place = Place::new(folder.path(), "app.db", &url(&proxy.server.endpoint, "outages", name));
    let direct = Place { replica: url(&S3.server.endpoint, "outages", name), ..place.clone() };
    Scene { proxy, place, direct, _folder: folder }
}

/// Commits for a while; the median and the longest.
fn commit_for(connection: &Connection, time: Duration) -> (Duration, Duration) {
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, b)").unwrap();
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < time {
        let one = Instant::now();
        connection.execute("INSERT INTO t(b) VALUES (randomblob(300))", []).unwrap();
        took.push(one.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    took.sort();
    (took[took.len() / 2], took[took.len() - 1])
}

fn last_error(connection: &Connection) -> Option<String> {
    let status: serde_json::Value = serde_json::from_str(&status(connection)).unwrap();
    status["last_error"].as_str().map(str::to_string)
}

/// The whole of one bad day, which the status calls one of these words.
fn survives(name: &str, fault: &Fault, words: &[&str]) {
    let scene = scene(name);
    let connection = scene.place.open_wal();
    connection.pragma_update(None, "synchronous", "NORMAL").unwrap();
    let (before, _) = commit_for(&connection, Duration::from_millis(500));
    sync(&connection);
    scene.proxy.set(fault.clone());
    let (median, longest) = commit_for(&connection, Duration::from_secs(2));
    assert!(longest < COMMIT, "{fault:?}: a commit took {longest:?}");
    assert!(median < before * 10 + Duration::from_millis(5), "{fault:?}: {median:?} instead of {before:?}");
    wait_for("the status", NOTICED, || last_error(&connection).is_some());
    let said = last_error(&connection).unwrap();
    println!("{fault:?}: {said}");
    assert!(words.iter().any(|word| said.contains(word)), "{fault:?} is not named: {said}");
    assert!(!said.contains(S3_KEY.1), "a secret: {said}");
    commit_for(&connection, Duration::from_millis(200));
    scene.proxy.heal();
    let healed = Instant::now();
    sync(&connection);
    assert!(healed.elapsed() < HEALED, "{fault:?}: stored {:?} after its end", healed.elapsed());
    assert_eq!(last_error(&connection), None, "the status still shows what is over");
    same_pages(&scene.direct.image(), &scene.direct.restored(Target::Latest));
}

/// Goal: whatever happens between here and the store, the application does not feel it. Method: each fault while
/// commits are timed; the status; its end.
#[test]
fn a_store_that_closes_connections_is_survived() {
    survives("close", &Fault::Close, &["connect", "closed"]);
}

/// The same with a store that hangs.
#[test]
fn a_store_that_hangs_is_survived() {
    survives("hang", &Fault::Hang, &["no answer", "timed out", "no progress", "silent"]);
}

/// Goal: a short silence is over soon. Method: the store hangs for a second, in which requests begin that will never be
/// answered.
#[test]
fn a_request_that_is_lost_for_ever_is_given_up_in_time() {
    let scene = scene("silence");
    let connection = scene.place.open_wal();
    commit_for(&connection, Duration::from_millis(300));
    sync(&connection);
    scene.proxy.set(Fault::Hang);
    commit_for(&connection, Duration::from_secs(1));
    scene.proxy.heal();
    let healed = Instant::now();
    sync(&connection);
    assert!(healed.elapsed() < HEALED, "stored {:?} after the silence", healed.elapsed());
}

/// The same with a store that fails.
#[test]
fn a_store_with_internal_errors_is_survived() {
    survives("500", &Fault::Status(500, "InternalError"), &["InternalError", "500"]);
}

/// The same with a store that asks for patience.
#[test]
fn a_store_that_says_slow_down_is_survived() {
    survives("503", &Fault::Status(503, "SlowDown"), &["SlowDown", "503"]);
}

/// The same with answers that end in the middle.
#[test]
fn answers_cut_in_the_middle_are_survived() {
    let scene = scene("cut");
    let connection = scene.place.open_wal();
    commit_for(&connection, Duration::from_millis(300));
    sync(&connection);
    scene.proxy.set(Fault::CutBody(1));
    let (_, longest) = commit_for(&connection, Duration::from_secs(2));
    assert!(longest < COMMIT, "a commit took {longest:?}");
    scene.proxy.heal();
    let healed = Instant::now();
    sync(&connection);
    assert!(healed.elapsed() < HEALED);
    same_pages(&scene.direct.image(), &scene.direct.restored(Target::Latest));
}

/// Goal: a put that succeeded and answered an error, or nothing, is neither repeated as another file nor taken for
/// somebody else's. Method: both, for some puts in a row, under a database that goes on.
#[test]
fn a_put_whose_answer_is_lost_is_stored_once() {
    for fault in [Fault::LoseAnswer(500), Fault::LoseConnection] {
        let scene = scene(if matches!(fault, Fault::LoseConnection) { "lost-connection" } else { "lost-answer" });
        let connection = scene.place.open_wal();
        commit_for(&connection, Duration::from_millis(200));
        sync(&connection);
        for _ in 0..3 {
            scene.proxy.set_for(fault.clone(), "PUT", "", 4);
            let (_, longest) = commit_for(&connection, Duration::from_millis(700));
            assert!(longest < COMMIT, "{fault:?}: a commit took {longest:?}");
        }
        scene.proxy.heal();
        let healed = Instant::now();
        sync(&connection);
        assert!(healed.elapsed() < HEALED, "{fault:?}");
        let said = status(&connection);
        assert!(!said.contains("diverged"), "{said}");
        same_pages(&scene.direct.image(), &scene.direct.restored(Target::Latest));
    }
}

/// Goal: credentials that are refused. Method: a process with a wrong secret opens a database that is there: it
/// works, and the status says what is wrong; with the right secret all is stored.
#[test]
fn wrong_credentials_are_named_and_lose_nothing() {
    let scene = scene("credentials");
    let wrong = [("AWS_SECRET_ACCESS_KEY", "not-the-secret")];
    Connection::open(&scene.direct.path).unwrap().execute_batch("CREATE TABLE t(b)").unwrap();
    let mut process = Process::start_with(&scene.direct.uri(), &wrong);
    process.sql("PRAGMA journal_mode=WAL");
    process.sql("INSERT INTO t VALUES (1)");
    let mut said = String::new();
    let began = Instant::now();
    while !said.contains("SignatureDoesNotMatch") && began.elapsed() < NOTICED {
        process.sql("INSERT INTO t VALUES (2)");
        said = process.sql("SELECT last_error FROM litestream_status")[0][0].as_str().unwrap_or("").to_string();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(said.contains("SignatureDoesNotMatch"), "{said}");
    assert!(said.contains("AWS_SECRET_ACCESS_KEY"), "it does not say what to try: {said}");
    process.kill();
    let connection = scene.direct.open();
    scene.direct.is_replicated(&connection);
}

/// Goal: a bucket that is made after the application was started. Method: a database there, no bucket; then the bucket.
#[test]
fn a_missing_bucket_is_named_and_used_once_it_is_there() {
    load();
    let folder = folder();
    let place = Place::new(folder.path(), "app.db", &url(&S3.server.endpoint, "made-later", "app"));
    Connection::open(&place.path).unwrap().execute_batch("CREATE TABLE t(b)").unwrap();
    let connection = place.open_wal();
    connection.execute("INSERT INTO t VALUES (1)", []).unwrap();
    wait_for("the status", NOTICED, || last_error(&connection).is_some());
    let said = last_error(&connection).unwrap();
    assert!(said.contains("NoSuchBucket") || said.contains("made-later"), "{said}");
    S3.bucket("made-later");
    let made = Instant::now();
    place.is_replicated(&connection);
    assert!(made.elapsed() < HEALED, "{:?}", made.elapsed());
}

/// Goal: a first deploy is the good case. Method: an empty bucket and no file: a new database, unless a restore
/// is required.
#[test]
fn an_empty_bucket_is_a_first_deploy() {
    let scene = scene("first");
    let required = scene.place.clone().with("&restore=required");
    let refused = required.try_open().unwrap_err().to_string();
    assert!(refused.contains("outages/first"), "{refused}");
    assert!(!scene.place.path.exists());
    let connection = scene.place.open_wal();
    commit_for(&connection, Duration::from_millis(200));
    scene.place.is_replicated(&connection);
}

/// Nothing stands at a database's path that SQLite would open.
fn is_absent(path: &Path) {
    for suffix in ["", "-wal", "-journal", "-shm"] {
        let file = format!("{}{suffix}", path.display());
        assert!(!Path::new(&file).exists(), "{file} was left");
    }
}

/// Goal: a missing database that cannot be restored is never an empty one. Method: each fault from the start, and
/// after the listing; the open fails in time, says why and leaves nothing; healed, the rows are back.
#[test]
fn a_missing_database_is_not_opened_while_its_store_is_ill() {
    let scene = scene("missing");
    let connection = scene.place.open_wal();
    connection.execute_batch("CREATE TABLE t(b); INSERT INTO t VALUES (randomblob(200000))").unwrap();
    scene.place.is_replicated(&connection);
    let before = scene.place.image();
    drop(connection);
    let faults: [(Fault, &'static str, &[&str]); 8] = [
        (Fault::Close, "", &["connect", "closed"]),
        (Fault::Hang, "", &["no answer", "timed out", "no progress", "silent"]),
        (Fault::Status(500, "InternalError"), "", &["InternalError", "500"]),
        (Fault::Status(503, "SlowDown"), "", &["SlowDown", "503"]),
        (Fault::Status(403, "AccessDenied"), "", &["AccessDenied"]),
        (Fault::CutBody(10), ".ltx", &["ended", "cut", "incomplete", "connection", "body"]),
        (Fault::HangAfter(10), ".ltx", &["no answer", "timed out", "no progress", "silent"]),
        (Fault::Status(404, "NoSuchBucket"), "", &["bucket `outages` does not exist"]),
    ];
    for (n, (fault, about, words)) in faults.into_iter().enumerate() {
        let path = scene.place.path.with_file_name(format!("again-{n}.db"));
        let again = scene.place.elsewhere(&path).with("&open-timeout=2s");
        scene.place.lose();
        scene.proxy.set_for(fault.clone(), "", about, usize::MAX);
        let mut process = Process::idle();
        let began = Instant::now();
        let said = process.open_error(&again.uri());
        let took = began.elapsed();
        println!("{fault:?}: {took:?} {said}");
        assert!(took < Duration::from_secs(6), "{fault:?}: it took {took:?} to fail");
        assert!(words.iter().any(|word| said.contains(word)), "{fault:?} is not named: {said}");
        is_absent(&path);
        scene.proxy.heal();
        drop(process);
        let mut process = Process::start(&again);
        process.sql("SELECT count(*) FROM t");
        same_pages(&before, &again.image());
        process.end();
    }
}

/// Goal: a store that is ill for a while when an application starts costs time, not a failed start. Method: the file is
/// missing, the store refuses its first requests (503, closed connections), the open waits and gets its rows.
#[test]
fn a_missing_database_waits_for_its_store_as_long_as_it_may() {
    let scene = scene("patience");
    let connection = scene.place.open_wal();
    connection.execute_batch("CREATE TABLE t(b); INSERT INTO t VALUES (randomblob(2000))").unwrap();
    scene.place.is_replicated(&connection);
    let before = scene.place.image();
    drop(connection);
    for (n, fault) in [Fault::Status(503, "SlowDown"), Fault::Close].into_iter().enumerate() {
        let again = scene.place.elsewhere(&scene.place.path.with_file_name(format!("patient-{n}.db")));
        scene.place.lose();
        scene.proxy.set_for(fault.clone(), "", "", 12);
        let began = Instant::now();
        let mut process = Process::start(&again);
        process.sql("SELECT count(*) FROM t");
        println!("{fault:?}: {:?}", began.elapsed());
        assert!(began.elapsed() > Duration::from_millis(500), "{fault:?}: the fault was over before it was met");
        same_pages(&before, &again.image());
        process.end();
        scene.proxy.heal();
    }
}
