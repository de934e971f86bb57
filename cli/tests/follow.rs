//! `restore -f`: a copy that readers may trust at every moment, whoever writes and whatever dies.
//!
//! The writers are real: ours through the built library, and Litestream 0.5 (`LITESTREAM_05`; `make test` sets it).

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "../../tests/support/golden.rs"]
mod golden;
#[path = "../../tests/support/library.rs"]
mod library;

use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Rows of the invariant; their sum never changes.
const ROWS: i64 = 400;
/// How long a follower may need to be where it shall be.
const PATIENCE: Duration = Duration::from_secs(40);

/// A follower, killed where a test ends early.
struct Follower(Child);

impl Follower {
    fn start(copy: &Path, url: &str) -> Follower {
        Follower::start_with(copy, url, &[])
    }

    fn start_with(copy: &Path, url: &str, flags: &[&str]) -> Follower {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-vfs"));
        command.args(["restore", "-f", "-follow-interval", "50ms", "-o", copy.to_str().unwrap()]).args(flags).arg(url);
        let out = fs::File::options().create(true).append(true).open(copy.with_extension("log")).unwrap();
        Follower(command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// As a person would end it: exit code 0.
    fn stop(mut self) {
        Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().unwrap();
        let code = self.0.wait().unwrap().code();
        assert_eq!(code, Some(0));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Gone already where the test ended it itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A table whose sum is constant, a counter kept twice, and bulk that makes steps large.
fn create(db: &Connection) {
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE first(n); INSERT INTO first VALUES(0);
         CREATE TABLE bank(id INTEGER PRIMARY KEY, amount INTEGER, pad BLOB);
         WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<{ROWS}) INSERT INTO bank SELECT i, 100, randomblob(900) FROM c;
         CREATE TABLE bulk(id INTEGER PRIMARY KEY, x BLOB); CREATE TABLE last(n); INSERT INTO last VALUES(0)"
    ))
    .unwrap();
}

/// The same, replicated by the library under test to `replica` (a URL, and more parameters).
fn replicated(database: &Path, replica: &str) -> Connection {
    library::load();
    let db = Connection::open(format!("file:{}?vfs=litestream&replica={replica}", database.display())).unwrap();
    create(&db);
    db
}

/// One transaction that touches pages at both ends; now and then much, and sometimes the file shrinks.
fn commit(db: &Connection, n: i64) {
    let (from, to) = (1 + n * 7 % ROWS, 1 + n * 13 % ROWS);
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE; UPDATE first SET n={n}; UPDATE bank SET amount=amount-3 WHERE id={from}; UPDATE bank SET amount=amount+3 WHERE id={to};
         UPDATE bank SET pad=randomblob(900) WHERE id % 17 = {}; INSERT INTO bulk(x) SELECT randomblob(700) FROM bank WHERE id < {}; UPDATE last SET n={n}; COMMIT",
        n % 17,
        if n % 9 == 0 { ROWS } else { 12 }
    ))
    .unwrap();
    if n % 25 == 0 {
        db.execute_batch("DELETE FROM bulk WHERE id % 5 <> 0").unwrap();
        // A reader or Litestream may keep it out; then it comes another time.
        let _ = db.execute_batch("VACUUM");
    }
}

/// What one read finds: the counter. Everything of one transaction is there or nothing.
fn look(db: &Connection) -> rusqlite::Result<i64> {
    let (first, sum, count, last): (i64, i64, i64, i64) = db.query_row(
        "SELECT (SELECT n FROM first), (SELECT sum(amount) FROM bank), (SELECT count(*) FROM bank), (SELECT n FROM last)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    assert_eq!((first, sum, count), (last, 100 * ROWS, ROWS), "a reader saw half a transaction");
    Ok(first)
}

fn open_reader(copy: &Path) -> Connection {
    let db = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db
}

/// Reads on and on, by one connection and by new ones, and checks each read. The reads, and the newest counter.
fn read_until(copy: &Path, end: &AtomicBool, seen: &AtomicI64) -> u64 {
    let began = Instant::now();
    while !copy.exists() {
        assert!(began.elapsed() < PATIENCE, "no copy came");
        std::thread::sleep(Duration::from_millis(10));
    }
    let lasting = open_reader(copy);
    let (mut reads, mut newest) = (0, 0);
    while !end.load(Ordering::Relaxed) {
        let fresh = open_reader(copy);
        for db in [&lasting, &fresh] {
            let n = look(db).unwrap();
            assert!(n >= newest, "the copy went back from {newest} to {n}");
            newest = n;
            reads += 1;
        }
        if reads % 40 == 0 {
            let check: String = fresh.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
        seen.store(newest, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
    reads
}

fn await_counter(seen: &AtomicI64, wanted: i64, copy: &Path) {
    let began = Instant::now();
    while seen.load(Ordering::Relaxed) < wanted {
        assert!(
            began.elapsed() < PATIENCE,
            "the copy stays at {} of {wanted}: {}",
            seen.load(Ordering::Relaxed),
            fs::read_to_string(copy.with_extension("log")).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn rows(db: &Connection) -> (i64, i64, String) {
    let row = db.query_row(
        "SELECT count(*), coalesce(sum(id),0), coalesce(group_concat(hex(substr(x,1,4))),'') FROM (SELECT * FROM bulk ORDER BY id)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    );
    row.unwrap()
}

/// Goal: a reader of the copy sees whole transactions only, in order, while we write, compact and delete and while the
/// follower is killed at any moment; in the end the copy is the database. Method: a writer through the library with short
/// intervals, a reader that checks an invariant in every read, a follower killed and started again every few hundred ms.
#[test]
fn a_copy_of_ours_is_whole_at_every_read_though_the_follower_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = (folder.path().join("app.db"), folder.path().join("copy.db"));
    let url = format!("file://{}", folder.path().join("replica").display());
    let db = replicated(&database, &format!("{url}&sync-interval=30ms&levels=1s,3s&l0-retention=2s"));
    db.query_row("SELECT litestream_sync()", [], |_| Ok(())).unwrap();

    let (end, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let reader = {
        let (end, seen, copy) = (Arc::clone(&end), Arc::clone(&seen), copy.clone());
        std::thread::spawn(move || read_until(&copy, &end, &seen))
    };
    let mut follower = Follower::start(&copy, &url);
    let began = Instant::now();
    let (mut n, mut kills, mut next_kill) = (0, 0u64, Duration::from_millis(900));
    while began.elapsed() < Duration::from_secs(12) {
        n += 1;
        commit(&db, n);
        std::thread::sleep(Duration::from_millis(15));
        if began.elapsed() > next_kill {
            follower.kill();
            kills += 1;
            follower = Follower::start(&copy, &url);
            next_kill = began.elapsed() + Duration::from_millis(150 + kills * 97 % 500);
        }
    }
    db.query_row("SELECT litestream_sync()", [], |_| Ok(())).unwrap();
    await_counter(&seen, n, &copy);
    end.store(true, Ordering::Relaxed);
    let reads = reader.join().unwrap();
    follower.stop();
    assert!(kills > 10 && reads > 100, "{kills} kills, {reads} reads");
    let reader = open_reader(&copy);
    assert_eq!(rows(&reader), rows(&db));
    assert_eq!(reader.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)).unwrap(), "delete");
    let log = fs::read_to_string(copy.with_extension("log")).unwrap();
    assert!(log.contains("entering follow mode") && log.contains("follow mode stopped"), "{log}");
    for left in ["-journal", "-journal.next", "-follow", "-txid.tmp"] {
        assert!(!Path::new(&format!("{}{left}", copy.display())).exists(), "{left} is left");
    }
}

/// Goal: a replica that the real Litestream writes is followed through its compaction and retention, also after a pause
/// in which everything unread was deleted. Method: 0.5 with short intervals; the follower is stopped for seconds.
#[test]
fn a_copy_of_litestreams_replica_survives_its_retention() {
    let program = std::env::var("LITESTREAM_05").unwrap_or_default();
    assert!(Path::new(&program).is_file(), "LITESTREAM_05 does not name Litestream 0.5's program: run `make test`");
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = (folder.path().join("app.db"), folder.path().join("copy.db"));
    let replica = folder.path().join("replica");
    let url = format!("file://{}", replica.display());
    let config = folder.path().join("litestream.yml");
    fs::write(
        &config,
        format!(
            "levels: [{{interval: 1s}}, {{interval: 2s}}]\nsnapshot: {{interval: 3s, retention: 3s}}\nl0-retention: 1s\nl0-retention-check-interval: 500ms\ndbs:\n  - path: {}\n    monitor-interval: 100ms\n    replica: {{type: file, path: {}, sync-interval: 100ms}}\n",
            database.display(),
            replica.display()
        ),
    )
    .unwrap();
    let db = Connection::open(&database).unwrap();
    create(&db);
    let mut daemon = Command::new(&program);
    daemon.args(["replicate", "-config", config.to_str().unwrap()]).env_remove("AWS_CA_BUNDLE");
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !replica.join("ltx").exists() {
        assert!(began.elapsed() < PATIENCE, "Litestream wrote nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    let (end, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let reader = {
        let (end, seen, copy) = (Arc::clone(&end), Arc::clone(&seen), copy.clone());
        std::thread::spawn(move || read_until(&copy, &end, &seen))
    };
    let mut n = 0;
    for pause in [0, 6, 0] {
        let follower = (pause == 0).then(|| Follower::start(&copy, &url));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4 + pause) {
            n += 1;
            commit(&db, n);
            std::thread::sleep(Duration::from_millis(25));
        }
        if let Some(follower) = follower {
            await_counter(&seen, n, &copy);
            follower.stop();
        }
    }
    Command::new("kill").args(["-INT", &daemon.id().to_string()]).status().unwrap();
    daemon.wait().unwrap();
    end.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 100);
    let saved = fs::read_to_string(format!("{}-txid", copy.display())).unwrap();
    assert!(saved.len() == 17 && saved.ends_with('\n'), "{saved:?}");
    assert_eq!(rows(&open_reader(&copy)), rows(&db));
}

/// Goal: a step that was cut short is put back by any SQLite, also while nobody follows. Method: a follower that is killed
/// while it writes large steps, looked at after each kill by a plain connection, without a new follower.
#[test]
fn after_a_kill_any_reader_finds_a_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = (folder.path().join("app.db"), folder.path().join("copy.db"));
    let url = format!("file://{}", folder.path().join("replica").display());
    let db = replicated(&database, &format!("{url}&sync-interval=10ms"));
    db.execute_batch(
        "INSERT INTO bulk(x) SELECT randomblob(3000) FROM bank a, (VALUES(1),(2),(3),(4),(5),(6),(7),(8))",
    )
    .unwrap();
    db.query_row("SELECT litestream_sync()", [], |_| Ok(())).unwrap();
    let journal = PathBuf::from(format!("{}-journal", copy.display()));
    let (mut hot, mut newest) = (0, 0);
    for n in 1..=25 {
        let follower = Follower::start(&copy, &url);
        let began = Instant::now();
        while !copy.exists() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        commit(&db, n);
        db.execute_batch("UPDATE bulk SET x = randomblob(3000)").unwrap();
        let began = Instant::now();
        // The journal's name stands while pages are written: that is the moment.
        while !journal.exists() && began.elapsed() < Duration::from_secs(2) {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(n as u64 * 211 % 3000));
        follower.kill();
        hot += u32::from(journal.exists());
        let reader = open_reader(&copy);
        let found = look(&reader).unwrap();
        assert!(found >= newest && found <= n, "{found} after {newest}");
        newest = found;
        let check: String = reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
    assert!(hot >= 3, "only {hot} kills hit a step");
    let follower = Follower::start(&copy, &url);
    let began = Instant::now();
    while rows(&open_reader(&copy)) != rows(&db) {
        assert!(began.elapsed() < PATIENCE, "{}", fs::read_to_string(copy.with_extension("log")).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    follower.stop();
}

/// Goal: a copy that somebody wrote to is not mended silently. Method: a golden replica is followed, the follower stopped
/// and started, a table added, the follower started again.
#[test]
fn a_copy_that_was_written_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let url = format!("file://{}", golden::golden("ls-0.5-page512").display());
    for round in 0..2 {
        let follower = Follower::start(&copy, &url);
        let began = Instant::now();
        let log = || fs::read_to_string(copy.with_extension("log")).unwrap();
        while log().matches("entering follow mode").count() <= round {
            assert!(began.elapsed() < PATIENCE, "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        follower.stop();
    }
    open_reader(&copy).execute_batch("CREATE TABLE mine(x)").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-vfs"));
    let done = command.args(["restore", "-f", "-o", copy.to_str().unwrap(), &url]).output().unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(1) && text.contains("was written by somebody else"), "{text}");
}

/// Goal: `-integrity-check` counts here too. Method: the replica of a database with a damaged page; the golden one is sound.
#[test]
fn a_damaged_database_is_not_followed_where_a_check_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = (folder.path().join("app.db"), folder.path().join("copy.db"));
    create(&Connection::open(&database).unwrap());
    let damaged = fs::File::options().write(true).open(&database).unwrap();
    damaged.write_all_at(&[0xff; 64], 4096).unwrap();
    let url = format!("file://{}", folder.path().join("replica").display());
    library::load();
    let db = Connection::open(format!("file:{}?vfs=litestream&replica={url}", database.display())).unwrap();
    db.query_row("SELECT litestream_sync(30)", [], |row| row.get::<_, String>(0)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-vfs"));
    command.args(["restore", "-f", "-integrity-check", "full", "-o", copy.to_str().unwrap(), &url]);
    let done = command.output().unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(1) && text.contains("post-restore integrity check: "), "{text}");
    assert!(!copy.exists() && !folder.path().join("copy.db-txid").exists(), "something was left");

    let url = format!("file://{}", golden::golden("ls-0.5-page512").display());
    let follower = Follower::start_with(&copy, &url, &["-integrity-check", "quick"]);
    let began = Instant::now();
    let log = || fs::read_to_string(copy.with_extension("log")).unwrap();
    while !log().contains("entering follow mode") {
        assert!(began.elapsed() < PATIENCE, "{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(log().contains("post-restore integrity check passed"), "{}", log());
    follower.stop();
}

/// Goal: mistakes are refused with the reason. Method: each once.
#[test]
fn what_cannot_be_followed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let url = format!("file://{}", folder.path().join("replica").display());
    let refused = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-vfs"));
        let done =
            command.args(["restore", "-f", "-o", copy.to_str().unwrap()]).args(flags).arg(&url).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{flags:?}");
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(refused(&[]).starts_with("Error: no matching backup files available"));
    assert!(refused(&["-txid", "0000000000000001"]).contains("cannot use -f with -txid"));
    assert!(refused(&["-dry-run"]).contains("cannot use -f with -dry-run"));
    assert!(refused(&["-follow-interval", "x"]).contains("invalid value \"x\" for flag -follow-interval"));
    fs::write(&copy, "something").unwrap();
    assert!(refused(&[]).contains("output path already exists and is not empty"));
    fs::write(format!("{}-txid", copy.display()), "0000000000000003\n").unwrap();
    let text = refused(&[]);
    assert!(text.contains("copy.db") && text.contains("is no database"), "{text}");
}
