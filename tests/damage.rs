//! A restore beside damaged files: another way to the same transaction where there is one, and never an older state.
//!
//! Replicas are made here by the encoder, in folders; one is a real database's, opened through the built library.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/made.rs"]
mod made;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::clock::Time;
use litestream_engine::compactor::{self, Inputs};
use litestream_engine::due::Merge;
use litestream_engine::error::Error;
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::{Target, plan};
use litestream_engine::restore::{self, Options};
use made::{Random, Replica, dated};
use replicated::{Place, folder, same_pages, step, sync, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// What this file's restores logged, each line with its thread's name.
static LOGGED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let thread = std::thread::current().name().unwrap_or_default().to_string();
        LOGGED.lock().unwrap().push((thread, record.args().to_string()));
    }

    fn flush(&self) {}
}

/// What this test's thread logged since it last asked.
fn logged() -> Vec<String> {
    let mine = std::thread::current().name().unwrap_or_default().to_string();
    let mut all = LOGGED.lock().unwrap();
    let (found, others) = all.drain(..).partition(|(thread, _)| *thread == mine);
    *all = others;
    found.into_iter().map(|(_, line): (String, String)| line).collect()
}

const AROUND: Options<'_> = Options {
    parallelism: 3,
    bounded: false,
    around_damage: true,
    doubt: &|_| {},
    progress: &|_| {},
    go_on: &|| Ok(()),
};

/// A replica of two snapshots and three levels up to 12, each file of noise; the newest state.
fn layered(random: &mut Random) -> (Replica, BTreeMap<u32, Vec<u8>>) {
    let replica = Replica::new(4096);
    let mut model: BTreeMap<u32, Vec<u8>> = (1..=600).map(|pgno| (pgno, random.page(4096))).collect();
    replica.put(9, 1, 4, 600, &model);
    let mut folded = [BTreeMap::new(), BTreeMap::new()];
    for txid in 5..=12 {
        let pages: BTreeMap<u32, Vec<u8>> =
            (0..20).map(|_| (1 + random.below(600) as u32, random.page(4096))).collect();
        model.extend(pages.clone());
        folded.iter_mut().for_each(|folded| folded.extend(pages.clone()));
        replica.put(0, txid, txid, 600, &pages);
        if txid % 2 == 0 && txid <= 10 {
            replica.put(1, txid - 1, txid, 600, &std::mem::take(&mut folded[0]));
        }
        if txid == 8 {
            replica.put(2, 5, 8, 600, &std::mem::take(&mut folded[1]));
            replica.put(9, 1, 8, 600, &model);
        }
    }
    (replica, model)
}

/// Other bytes that keep the file's time.
fn rewrite(path: &Path, bytes: &[u8]) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    dated(path, time);
}

/// Ways in which a file can be damaged.
fn damages(good: &[u8]) -> Vec<Vec<u8>> {
    let flipped = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let flips = [0, 40, good.len() / 2, good.len() - 30, good.len() - 1].map(flipped);
    let cuts = [good.len() - 10, good.len() / 2, 50, 0].map(|len| good[..len].to_vec());
    flips.into_iter().chain(cuts).collect()
}

/// A complaint about the file of this name, before it says what is used instead.
fn begins_with(line: &str, name: &str) -> bool {
    let said = line.split("; ").next().unwrap();
    said.contains(name) || said.contains(&name.replace('-', " max=").replace(".ltx", ""))
}

/// Goal: damage does not keep anybody from a state that other files lead to, and is not kept quiet. Method: the newest
/// snapshot, a compacted file, and both at once, damaged in every way; each restore equals the model, and one line of the
/// log for each file names it and what was used. Who asks for no way around is told of the damage.
#[test]
fn a_damaged_file_is_left_out_where_others_lead_to_the_same_transaction() {
    let _ = log::set_logger(&Log).map(|()| log::set_max_level(log::LevelFilter::Warn));
    let (replica, model) = layered(&mut Random(77));
    let snapshot = (replica.path(9, 1, 8), "0000000000000001-0000000000000008.ltx");
    let level = (replica.path(1, 9, 10), "0000000000000009-000000000000000a.ltx");
    for hit in [vec![&snapshot], vec![&level], vec![&snapshot, &level]] {
        let good: Vec<Vec<u8>> = hit.iter().map(|(path, _)| fs::read(path).unwrap()).collect();
        let ways = damages(&good[0]).len();
        for way in 0..ways {
            hit.iter().zip(&good).for_each(|((path, _), good)| rewrite(path, &damages(good)[way]));
            let strict = restore::run(&replica.store(), Target::Latest, &replica.out(), Options::default());
            assert!(matches!(strict, Err(Error::Corrupt(_))), "{hit:?} way {way}: {strict:?}");
            logged();
            for target in [Target::Latest, Target::Txid(Txid(12)), Target::Time(Time(13))] {
                let restored = restore::run(&replica.store(), target, &replica.out(), AROUND).unwrap();
                assert_eq!((restored.txid(), restored.gap), (Txid(12), None), "{hit:?} way {way} {target:?}");
                let bytes = fs::read(replica.out()).unwrap();
                let right = (1..).zip(bytes.chunks(4096)).all(|(pgno, page)| page == model[&pgno]);
                assert!(right && bytes.len() == 600 * 4096, "{hit:?} way {way} {target:?}");
                fs::remove_file(replica.out()).unwrap();
                let lines = logged();
                let named = |name: &str| lines.iter().filter(|line| begins_with(line, name)).count();
                assert!(hit.iter().all(|(_, name)| named(name) == 1), "{hit:?} way {way}: {lines:?}");
                assert!(lines.len() == hit.len() && lines.iter().all(|line| line.contains("instead")), "{lines:?}");
            }
        }
        hit.iter().zip(&good).for_each(|((path, _), good)| rewrite(path, good));
    }
    replica.check(600, &model, 3);
    assert_eq!(logged(), [""; 0]);
}

/// Goal: where nothing else leads to the transaction, the damage is the error, and an older state is no answer. Method: the
/// newest raw file; a raw file below a compacted one that reaches further; all ways from the beginning.
#[test]
fn damage_without_a_way_around_is_the_error_and_never_an_older_state() {
    let (replica, _) = layered(&mut Random(78));
    // Of two, the one whose damage is met last; too short files are seen before.
    let no_way = |hit: &[PathBuf], target: Target, name: &str| {
        let good: Vec<Vec<u8>> = hit.iter().map(|path| fs::read(path).unwrap()).collect();
        for way in 0..damages(&good[0]).len() {
            hit.iter().zip(&good).for_each(|(path, good)| rewrite(path, &damages(good)[way]));
            let said = restore::run(&replica.store(), target, &replica.out(), AROUND).unwrap_err();
            let Error::Corrupt(text) = &said else { panic!("{name} way {way}: {said:?}") };
            assert!(begins_with(text, name), "{name} way {way}: {text}");
            assert!(!replica.out().exists());
        }
        hit.iter().zip(&good).for_each(|(path, good)| rewrite(path, good));
    };
    let newest = "000000000000000c-000000000000000c.ltx";
    for target in [Target::Latest, Target::Txid(Txid(12)), Target::Time(Time(13))] {
        no_way(&[replica.path(0, 12, 12)], target, newest);
    }
    let inner = "0000000000000009-0000000000000009.ltx";
    no_way(&[replica.path(0, 9, 9)], Target::Txid(Txid(9)), inner);
    let both = [replica.path(9, 1, 8), replica.path(9, 1, 4)];
    no_way(&both, Target::Latest, "0000000000000001-000000000000000");
}

/// Goal: a damaged raw file that a compacted one covers is in nobody's way, and a walk says what is true: it is named, no
/// damaged snapshot is a start, and what is called restorable restores. Method: both damaged; the walk, and its ranges.
#[test]
fn what_a_walk_calls_restorable_restores_beside_damage() {
    let (replica, model) = layered(&mut Random(79));
    for path in [replica.path(0, 9, 9), replica.path(9, 1, 8)] {
        let bytes = fs::read(&path).unwrap();
        rewrite(&path, &damages(&bytes)[2]);
    }
    let report = litestream_engine::verify::walk(&replica.store(), Options::default()).unwrap();
    let named: Vec<&str> = report.problems.iter().filter_map(|problem| problem.file.as_deref()).collect();
    assert_eq!(named, ["0/0000000000000009-0000000000000009.ltx", "9/0000000000000001-0000000000000008.ltx"]);
    let ranges: Vec<(Txid, Txid)> = report.ranges.iter().map(|range| (range.from, range.to)).collect();
    assert_eq!((report.snapshots, ranges), (1, vec![(Txid(4), Txid(12))]));
    for txid in [4, 12] {
        restore::run(&replica.store(), Target::Txid(Txid(txid)), &replica.out(), AROUND).unwrap();
        let bytes = fs::read(replica.out()).unwrap();
        assert!(txid < 12 || (1..).zip(bytes.chunks(4096)).all(|(pgno, page)| page == model[&pgno]));
        fs::remove_file(replica.out()).unwrap();
    }
}

/// Goal: a missing database is restored on open beside a damaged snapshot, goes on from there and gives the replica a new
/// one; where there is no other way the open fails, names the file, and makes no database. Method: a replica with a second
/// snapshot, then none sound.
#[test]
fn an_open_restores_beside_a_damaged_snapshot() {
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    let connection = place.open_wal();
    for n in 0..6 {
        step(&connection, n);
        sync(&connection);
    }
    drop(connection);
    let (store, listing) = (place.store(), place.listing());
    let inputs = plan(&listing, Target::Latest).unwrap().files;
    let from = Inputs { store: &store, local: &|_| None, go_on: &|| Ok(()), doubt: &|_| {} };
    let merge = Merge { level: Level::SNAPSHOT, inputs };
    let merged = compactor::merge(&from, &merge, &folder.path().join("merged")).unwrap();
    compactor::put(&store, Level::SNAPSHOT, &merged).unwrap();
    let (before, replica) = (place.image(), folder.path().join("app.db-replica/ltx/9"));
    let damage = |name: &str| {
        let bytes = fs::read(replica.join(name)).unwrap();
        rewrite(&replica.join(name), &damages(&bytes)[2]);
    };
    let newest = merged.header.span.file_name();
    damage(&newest);
    place.lose();
    let connection = place.open();
    assert_eq!(connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    same_pages(&before, &place.image());
    step(&connection, 7);
    sync(&connection);
    let snapshots = || -> Vec<String> {
        let listed = place.listing().into_iter().filter(|file| file.level == Level::SNAPSHOT);
        listed.map(|file| file.span.file_name()).collect()
    };
    wait_for("a new snapshot", Duration::from_secs(30), || snapshots().len() == 3);
    same_pages(&place.image(), &place.restored(Target::Latest));
    drop(connection);
    snapshots().iter().filter(|name| **name != newest).for_each(|name| damage(name));
    place.lose();
    let said = place.try_open().unwrap_err().to_string();
    assert!(snapshots().iter().any(|name| said.contains(name)), "{said}");
    assert!(!place.path.exists());
}
