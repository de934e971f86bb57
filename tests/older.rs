//! Replicas of Litestream 0.3: the golden ones to every target and error of their manifest, beside LTX files too.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod support;

use litestream_engine::error::Error;
use litestream_engine::plan::Target;
use litestream_engine::plan::older::{Until, Wish};
use litestream_engine::restore::{self, Options, older};
use litestream_engine::v3::{Generation, Index};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};
use support::golden::{golden, set_time};
use support::older::*;

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
