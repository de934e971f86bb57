//! Replicas of Litestream 0.3: the golden ones to every target and error of their manifest, and what the real 0.3.13
//! writes while the test runs; then its users' road to us, on the same database and path.
//!
//! `LITESTREAM_03` names its program (`make test` sets it). Traffic stays on loopback.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use litestream_engine::plan::older::{Until, Wish};
use litestream_engine::restore::{self, Either, Options, older};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use litestream_engine::v3::{Generation, Index, Kind, Moment, Object};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use servers::{S3_KEY, Seaweed};
use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SET: &str = "ls-0.3-file";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn set_time(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
}

/// The golden set with the times of its manifest.
fn golden_copy(into: &Path) -> Value {
    let manifest: Value = serde_json::from_slice(&fs::read(golden(SET).join("manifest.json")).unwrap()).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        let copy = into.join(path);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(golden(SET).join(path), &copy).unwrap();
        set_time(&copy, UNIX_EPOCH + Duration::from_nanos(file["mtime_ns"].as_u64().unwrap()));
    }
    manifest
}

fn folder_store(folder: &Path) -> Store {
    let url = ReplicaUrl::parse(&format!("file://{}", folder.display())).unwrap();
    Store::open(&url, &|_| None, &Io::new()).unwrap()
}

/// What we restore, or the error.
fn ours(store: &Store, target: Target, wish: &Wish, bounded: bool) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.db");
    let options = Options { bounded, ..Options::default() };
    let result = match restore::choose(store, target, wish, options) {
        Ok(Either::Ltx(plan)) => restore::carry_out(store, target, plan, &out, options).map(|_| ()),
        Ok(Either::Older(plan)) => older::carry_out(store, wish, plan, &out, options).map(|_| ()),
        Err(e) => Err(e),
    };
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    match result {
        Ok(()) => {
            assert_eq!(left, ["out.db"]);
            Ok(fs::read(out).unwrap())
        }
        Err(e) => {
            assert!(left.is_empty(), "{left:?} was left behind: {e}");
            Err(e)
        }
    }
}

fn latest(store: &Store) -> Result<Vec<u8>, Error> {
    ours(store, Target::Latest, &Wish::LATEST, false)
}

/// Strictly before for LTX, inclusive for 0.3.
fn time_target(text: &str) -> (Target, Until) {
    let moment = Moment::parse(text).unwrap();
    (Target::Time(Time(moment.time().0 + 1)), Until::Time(moment))
}

fn digest(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), bytes).unwrap();
    let sum = Command::new("sha256sum").arg(folder.path().join("x")).output().unwrap();
    String::from_utf8(sum.stdout).unwrap()[..64].to_string()
}

/// Goal: every target of the golden set is what Litestream made of it, byte for byte, and an error where no version
/// answered. Method: the manifest's targets; where 0.3.13 and 0.5 differ, the one that answered counts.
#[test]
fn every_golden_target_restores_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = golden_copy(folder.path());
    let store = folder_store(folder.path());
    let mut wanted: BTreeMap<String, (&Value, Option<String>)> = BTreeMap::new();
    for entry in manifest["restores"].as_array().unwrap() {
        let key = format!("{} {} {}", entry["generation"], entry["index"], entry["timestamp"]);
        let answered = (entry["exit"] == 0).then(|| entry["sha256"].as_str().unwrap().to_string());
        let known = wanted.entry(key).or_insert((entry, None));
        known.1 = known.1.take().or(answered);
    }
    assert!(wanted.len() >= 14, "{wanted:?}");
    for (key, (entry, sha256)) in wanted {
        let text = |field: &str| entry[field].as_str();
        let generation = text("generation").map(|text| Generation::parse(text).unwrap());
        let (target, until) = match (text("timestamp"), text("index")) {
            (Some(time), _) => time_target(time),
            (_, Some(index)) => (Target::Latest, Until::Index(Index(u32::from_str_radix(index, 16).unwrap()))),
            _ => (Target::Latest, Until::Latest),
        };
        let result = ours(&store, target, &Wish { generation, until }, true);
        match sha256 {
            Some(sha256) => assert_eq!(digest(&result.unwrap()), sha256, "{key}: {}", entry["note"]),
            None => assert!(matches!(result, Err(Error::NoBackup(_) | Error::Usage(_))), "{key}: {result:?}"),
        }
    }
}

/// Goal: split segments, two indexes and small LZ4 frames of another writer restore exactly. Method: the synthetic set.
#[test]
fn the_synthetic_replica_restores_to_the_same_bytes() {
    let expected = fs::read(golden("replica-v3-synthetic/expected-latest.db")).unwrap();
    assert!(latest(&folder_store(&golden("replica-v3-synthetic"))).unwrap() == expected);
}

/// Goal: damage is named, and no state comes of it. Method: each kind once on the newest generation, which begins at its
/// snapshot 2.
#[test]
fn damage_is_named_and_restores_nothing() {
    type Damage = fn(&Path);
    fn flip(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(path, bytes).unwrap();
    }
    fn cut(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
    }
    let remove: Damage = |path| fs::remove_file(path).unwrap();
    let cases: [(&[&str], Damage, &str); 8] = [
        (&["snapshots/00000002.snapshot.lz4"], flip, "snapshots/00000002.snapshot.lz4: LZ4"),
        (&["snapshots/00000002.snapshot.lz4"], cut, "snapshots/00000002.snapshot.lz4: "),
        (&["wal/00000002_00001038.wal.lz4"], flip, "wal/00000002_00001038.wal.lz4: LZ4"),
        (&["wal/00000003_00003068.wal.lz4"], cut, "wal/00000003_00003068.wal.lz4: "),
        (&["wal/00000002_00001038.wal.lz4"], remove, "missing WAL segment: expected 00000002/4152, got 00000002/45352"),
        (
            &["wal/00000003_00000000.wal.lz4"],
            remove,
            "missing initial wal segment: generation=3f162aba3ae9b8d0 index=00000003 offset=12392",
        ),
        (
            &["wal/00000002_00000000.wal.lz4", "wal/00000002_00001038.wal.lz4", "wal/00000002_0000b128.wal.lz4"],
            remove,
            "missing WAL index: 3f162aba3ae9b8d0/00000002",
        ),
        (
            &["snapshots/00000000.snapshot.lz4", "snapshots/00000002.snapshot.lz4"],
            remove,
            "no snapshots available: generation 3f162aba3ae9b8d0 has none",
        ),
    ];
    for (files, damage, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        golden_copy(folder.path());
        for file in files {
            let path = folder.path().join("generations/3f162aba3ae9b8d0").join(file);
            let time = path.metadata().unwrap().modified().unwrap();
            damage(&path);
            if path.exists() {
                set_time(&path, time);
            }
        }
        let refused = latest(&folder_store(folder.path()));
        let Err(e @ (Error::Corrupt(_) | Error::Gap(_))) = refused else { panic!("{files:?}: {refused:?}") };
        assert!(e.to_string().contains(wanted), "{files:?}: {e}");
    }
    let folder = tempfile::tempdir().unwrap();
    golden_copy(folder.path());
    fs::remove_file(folder.path().join("generations/3f162aba3ae9b8d0/wal/00000003_00003068.wal.lz4")).unwrap();
    assert!(latest(&folder_store(folder.path())).is_ok(), "without its last segment it ends before that");
}

// ---- the real 0.3.13 ----

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
        for object in &objects {
            let generation = Some(object.generation);
            let named = vec!["-generation".to_string(), object.generation.to_string()];
            if known.insert((object.generation, None)) {
                targets.push((named.clone(), Target::Latest, Wish { generation, until: Until::Latest }));
            }
            if known.insert((object.generation, Some(object.index))) {
                let flags = [named, vec!["-index".to_string(), object.index.to_string()]].concat();
                targets.push((flags, Target::Latest, Wish { generation, until: Until::Index(object.index) }));
            }
            if times && object.kind != Kind::Snapshot {
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

/// Opens with ours, the replica's URL percent-encoded.
fn open(database: &Path, replica: &str) -> Connection {
    let loader = Connection::open_in_memory().unwrap();
    // SAFETY: the library under test; nothing else is loaded.
    unsafe {
        loader.load_extension_enable().unwrap();
        loader.load_extension(support::library(), None::<&str>).unwrap();
    }
    let uri = format!("file:{}?vfs=litestream&replica={replica}&sync-interval=50ms", database.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(uri, flags).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db
}

fn sync(db: &Connection) {
    db.query_row("SELECT litestream_sync()", [], |_| Ok(())).unwrap();
}

/// The file is lost, and everything of it but the replica.
fn lose(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", database.display()));
    }
    let folder = database.parent().unwrap().join(".app.db-litestream");
    let _ = fs::remove_dir_all(folder);
}

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

/// Goal: a clock that went ahead under 0.3 costs nothing later: ours is the newest. Method: the old files are dated an
/// hour from now; upgrade in place and restore-on-open, each lost afterwards.
#[test]
fn old_files_from_the_future_do_not_win() {
    for in_place in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let replica = folder.path().join("replica");
        golden_copy(&replica);
        for object in older::list(&folder_store(&replica)).unwrap() {
            let ahead = Duration::from_nanos(object.created.0 as u64 % 3_600_000_000_000);
            set_time(&replica.join(object.name()), SystemTime::now() + Duration::from_secs(3600) + ahead);
        }
        let database = folder.path().join("app.db");
        if in_place {
            fs::write(&database, latest(&folder_store(&replica)).unwrap()).unwrap();
        }
        let url = format!("file://{}", replica.display());
        let db = open(&database, &url);
        db.execute_batch("CREATE TABLE ours(x); INSERT INTO ours VALUES(7)").unwrap();
        sync(&db);
        drop(db);
        lose(&database);
        let db = open(&database, &url);
        assert_eq!(db.query_row("SELECT x FROM ours", [], |row| row.get::<_, i64>(0)).unwrap(), 7, "{in_place}");
    }
}

/// Goal: dates of a copy never decide. Method: a replica of both layouts whose old files got younger dates: refused, by
/// the engine and at open; with a generation or a transaction it restores; with dates in order it restores the newest.
#[test]
fn a_copy_without_its_dates_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (replica, database) = (folder.path().join("replica"), folder.path().join("app.db"));
    golden_copy(&replica);
    let url = format!("file://{}", replica.display());
    let db = open(&database, &url);
    db.execute_batch("CREATE TABLE ours(x)").unwrap();
    sync(&db);
    drop(db);
    lose(&database);
    let store = folder_store(&replica);
    let newest = latest(&store).unwrap();
    // As `cp -r` an hour later would leave it: all files dated by the copy, the old ones last.
    let copied = SystemTime::now() + Duration::from_secs(3600);
    let listing = restore::list(&store, Options::default()).unwrap();
    for file in &listing {
        set_time(&replica.join(format!("ltx/{}/{}", file.level, file.span.file_name())), copied);
    }
    for object in older::list(&store).unwrap() {
        set_time(&replica.join(object.name()), copied + Duration::from_secs(1));
    }
    let refused = latest(&store).unwrap_err().to_string();
    assert!(refused.contains("-generation") && refused.contains("-txid"), "{refused}");
    let uri = format!("file:{}?vfs=litestream&replica={url}", database.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    assert!(
        Connection::open_with_flags(uri, flags).is_err() && !database.exists(),
        "the open fails, and makes nothing"
    );
    let last = listing.iter().map(|file| file.span.max).max().unwrap();
    assert!(ours(&store, Target::Txid(last), &Wish::LATEST, false).unwrap() == newest);
    let old = Wish { generation: Some(Generation::parse("3f162aba3ae9b8d0").unwrap()), until: Until::Latest };
    assert!(ours(&store, Target::Latest, &old, false).is_ok());
}
