//! What the real Litestream 0.3.13 writes while the test runs, restored by it and by us; and its users' road to us, on
//! the same database and path.
//!
//! `LITESTREAM_03` names its program (`make test` sets it). Traffic stays on loopback.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use litestream_engine::plan::older::{Until, Wish};
use litestream_engine::restore::older;
use litestream_engine::store::{Io, ReplicaUrl, Store};
use litestream_engine::v3::{Kind, Object};
use rusqlite::Connection;
use servers::{S3_KEY, Seaweed};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::older::*;

fn litestream() -> String {
    let program = std::env::var("LITESTREAM_03").unwrap_or_default();
    assert!(Path::new(&program).is_file(), "LITESTREAM_03 does not name Litestream 0.3's program: run `make test`");
    program
}

/// A database that the real 0.3.13 replicates, in a folder of its own.
struct Older {
    folder: tempfile::TempDir,
    /// The part of the configuration that says where to.
    replica: String,
}

impl Older {
    fn new(replica: impl Fn(&Path) -> String) -> Older {
        let folder = tempfile::tempdir().unwrap();
        let replica = replica(folder.path());
        let older = Older { folder, replica };
        let text = format!(
            "dbs:\n  - path: {}\n    monitor-interval: 100ms\n    checkpoint-interval: 1s\n    min-checkpoint-page-count: 14\n    max-checkpoint-page-count: 200\n    replicas:\n      - {{{}, sync-interval: 150ms, snapshot-interval: 2s}}\n",
            older.database().display(),
            older.replica
        );
        fs::write(older.config(), text).unwrap();
        older
    }

    fn in_folder() -> Older {
        Older::new(|folder| format!("type: file, path: {}", folder.join("replica").display()))
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("litestream.yml")
    }

    fn replica(&self) -> PathBuf {
        self.folder.path().join("replica")
    }

    /// Replicates while an application writes, and stops as its users stop it.
    fn replicate(&self, seconds: u64) {
        let db = Connection::open(self.database()).unwrap();
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)").unwrap();
        let mut daemon = Command::new(litestream());
        daemon.args(["replicate", "-config", self.config().to_str().unwrap()]).env_remove("AWS_CA_BUNDLE");
        let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        let mut n = 0;
        while began.elapsed() < Duration::from_secs(seconds) {
            n += 1;
            db.execute_batch(&format!(
                "BEGIN; INSERT INTO t(x) SELECT randomblob(10 + abs(random()) % {}) FROM generate_series_of_ten; COMMIT",
                50 + n * 37 % 900
            ).replace("generate_series_of_ten", "(VALUES(1),(2),(3),(4),(5),(6),(7),(8),(9),(10))")).unwrap();
            if n % 13 == 0 {
                db.execute_batch("DELETE FROM t WHERE id % 3 = 1").unwrap();
            }
            if n % 40 == 0 {
                // The reader of the daemon may keep it out; then it comes another time.
                let _ = db.execute_batch("VACUUM");
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        std::thread::sleep(Duration::from_millis(800));
        Command::new("kill").args(["-INT", &daemon.id().to_string()]).status().unwrap();
        daemon.wait().unwrap();
    }

    /// The next run begins a new generation.
    fn forget(&self) {
        fs::remove_dir_all(self.folder.path().join(".app.db-litestream")).unwrap();
    }

    /// What 0.3.13 restores.
    fn theirs(&self, flags: &[String]) -> Option<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.db");
        let mut command = Command::new(litestream());
        command.args(["restore", "-config", self.config().to_str().unwrap(), "-o", out.to_str().unwrap()]);
        let done = command.args(flags).arg(self.database()).env_remove("AWS_CA_BUNDLE").output().unwrap();
        done.status.success().then(|| fs::read(out).unwrap())
    }

    /// Restores every generation, index and (where `times`) instant with both. How many could be restored.
    fn compare(&self, store: &Store, times: bool) -> usize {
        let objects = older::list(store).unwrap();
        let mut targets: Vec<(Vec<String>, Target, Wish)> = vec![(vec![], Target::Latest, Wish::LATEST)];
        let mut known = std::collections::BTreeSet::new();
        for (nth, object) in objects.iter().enumerate() {
            let generation = Some(object.generation);
            let named = vec!["-generation".to_string(), object.generation.to_string()];
            if known.insert((object.generation, None)) {
                targets.push((named.clone(), Target::Latest, Wish { generation, until: Until::Latest }));
            }
            if known.insert((object.generation, Some(object.index))) {
                let flags = [named, vec!["-index".to_string(), object.index.to_string()]].concat();
                targets.push((flags, Target::Latest, Wish { generation, until: Until::Index(object.index) }));
            }
            if times && nth % 3 == 0 && object.kind != Kind::Snapshot {
                let text = object.created.rfc3339();
                let (target, until) = time_target(&text);
                targets.push((vec!["-timestamp".to_string(), text], target, Wish { generation: None, until }));
            }
        }
        let mut restored = 0;
        for (flags, target, wish) in targets {
            let (theirs, mine) = (self.theirs(&flags), ours(store, target, &wish, true));
            match (theirs, mine) {
                (Some(theirs), Ok(mine)) => {
                    assert!(theirs == mine, "{flags:?}: {} and {} bytes", theirs.len(), mine.len());
                    restored += 1;
                }
                (None, Err(_)) => {}
                (theirs, mine) => {
                    panic!("{flags:?}: theirs {:?}, ours {:?}", theirs.map(|b| b.len()), mine.map(|b| b.len()))
                }
            }
        }
        restored
    }
}

/// Goal: what 0.3.13 replicates into a folder restores as it does, to every generation, index and instant. Method: three
/// generations with snapshots, deletes and VACUUM; both programs, byte for byte.
#[test]
fn a_folder_of_the_real_one_restores_as_there() {
    let older = Older::in_folder();
    older.replicate(5);
    older.forget();
    older.replicate(4);
    older.forget();
    older.replicate(4);
    let store = folder_store(&older.replica());
    let objects = older::list(&store).unwrap();
    let count = |kind: fn(&Object) -> bool| objects.iter().filter(|object| kind(object)).count();
    assert!(count(|object| object.kind == Kind::Snapshot) >= 4, "{objects:?}");
    assert!(older.compare(&store, true) > 20, "{} objects", objects.len());
    same_rows(&latest(&store).unwrap(), &older.database());
}

fn same_rows(restored: &[u8], live: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("restored.db");
    fs::write(&path, restored).unwrap();
    assert_eq!(sum(&Connection::open(path).unwrap()), sum(&Connection::open(live).unwrap()));
}

fn sum(db: &Connection) -> (i64, i64, i64) {
    let row = db.query_row("SELECT count(*), coalesce(sum(id), 0), coalesce(sum(length(x)), 0) FROM t", [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    });
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    row.unwrap()
}

/// Goal: the same on S3, and the road from there to us: restore-on-open from 0.3's data, then LTX beside it. Method:
/// SeaweedFS; two generations by 0.3.13; ours restores, writes, loses the file and comes back.
#[test]
fn a_bucket_of_the_real_one_restores_as_there_and_is_continued() {
    let seaweed = Seaweed::start();
    seaweed.bucket("older");
    let (key, secret) = S3_KEY;
    let place = format!(
        "type: s3, bucket: older, path: app, endpoint: '{}', force-path-style: true, region: us-east-1, access-key-id: {key}, secret-access-key: {secret}",
        seaweed.server.endpoint
    );
    let older = Older::new(|_| place.clone());
    older.replicate(4);
    older.forget();
    older.replicate(4);
    let url = format!("s3://older/app?endpoint={}&region=us-east-1&force-path-style=true", seaweed.server.endpoint);
    let store = Store::open(&ReplicaUrl::parse(&url).unwrap(), &seaweed.env(), &Io::new()).unwrap();
    assert!(older.compare(&store, false) > 5);
    let before = sum(&Connection::open(older.database()).unwrap());

    // SAFETY: the variables are set before the first connection of ours; no other test of this file reads them.
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", key);
        std::env::set_var("AWS_SECRET_ACCESS_KEY", secret);
    }
    let encoded = url.replace("%", "%25").replace('?', "%3f").replace('&', "%26");
    continued(&older, &encoded, &store, before);
}

// ---- with us ----

/// The file is lost and comes back from 0.3's data; then ours replicates, and it is lost twice more.
fn continued(older: &Older, replica: &str, store: &Store, before: (i64, i64, i64)) {
    lose(&older.database());
    let db = open(&older.database(), replica);
    assert_eq!(sum(&db), before, "restored at open from 0.3's data");
    db.execute_batch("PRAGMA journal_mode=WAL; INSERT INTO t(id, x) VALUES(1000001, 'after')").unwrap();
    sync(&db);
    let after = sum(&db);
    drop(db);
    let levels = |level: Level| store.list(level).unwrap();
    let image = &levels(Level::SNAPSHOT)[0];
    assert_eq!((image.span.min, image.span.max), (Txid(1), Txid(1)), "the first image is at level 9 as 1-1");
    for round in 0..2 {
        lose(&older.database());
        let db = open(&older.database(), replica);
        let mut wanted = after;
        (wanted.0, wanted.1) = (wanted.0 + round, wanted.1 + round * 1_000_002);
        assert_eq!((sum(&db).0, sum(&db).1), (wanted.0, wanted.1), "restored at open from our data, round {round}");
        db.execute_batch("INSERT OR IGNORE INTO t(id, x) VALUES(1000002, 'more')").unwrap();
        sync(&db);
    }
}

/// Goal: a user of 0.3 stops it and opens the same database and path with us; nothing is lost. Method: the real 0.3.13,
/// then ours in place (an image as 1-1, LTX beside the old files), the file lost; old instants still restore.
#[test]
fn an_upgrade_in_place_loses_nothing() {
    let older = Older::in_folder();
    older.replicate(4);
    let replica = format!("file://{}", older.replica().display());
    let store = folder_store(&older.replica());
    let old = latest(&store).unwrap();
    let last = older::list(&store).unwrap().into_iter().map(|object| object.created).max().unwrap();
    let db = open(&older.database(), &replica);
    db.execute_batch("INSERT INTO t(id, x) VALUES(1000001, 'after')").unwrap();
    sync(&db);
    let after = sum(&db);
    drop(db);
    lose(&older.database());
    let db = open(&older.database(), &replica);
    assert_eq!(sum(&db), after);
    drop(db);
    let (target, until) = time_target(&last.rfc3339());
    assert!(
        ours(&store, target, &Wish { generation: None, until }, true).unwrap() == old,
        "the old end is still there"
    );
    let only = Wish { generation: Some(older::list(&store).unwrap()[0].generation), until: Until::Latest };
    assert!(ours(&store, Target::Latest, &only, true).unwrap() == old);
}

/// Goal: restore-on-open from a folder, and LTX beside it. Method: the real 0.3.13, then the file is lost before we
/// ever saw it.
#[test]
fn a_lost_file_comes_back_from_the_old_data_and_is_continued() {
    let older = Older::in_folder();
    older.replicate(4);
    let before = sum(&Connection::open(older.database()).unwrap());
    let store = folder_store(&older.replica());
    continued(&older, &format!("file://{}", older.replica().display()), &store, before);
}
