//! Beside the real Litestream 0.5: both command lines restore the same replicas to the same bytes.
//!
//! `LITESTREAM_05` names its program (`make test` sets it). Folders only; its traffic never leaves the machine.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use litestream_engine::clock::Time;
use litestream_engine::ltx::{Decoder, Encoder, Header, Span, Txid, merge};
use litestream_engine::page::{PageSize, Pgno};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How long the application writes while Litestream replicates, compacts and deletes.
const WORKLOAD: Duration = Duration::from_secs(14);

fn litestream() -> String {
    let program = std::env::var("LITESTREAM_05").unwrap_or_default();
    assert!(Path::new(&program).is_file(), "LITESTREAM_05 does not name Litestream 0.5's program: run `make test`");
    program
}

fn ours() -> String {
    env!("CARGO_BIN_EXE_litestream-vfs").to_string()
}

/// The database that a program restores, or `None` where it exits with 1.
fn restored(program: &str, replica: &Path, flags: &[String]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.db");
    let mut command = Command::new(program);
    command.args(["restore", "-o", out.to_str().unwrap()]).args(flags).arg(format!("file://{}", replica.display()));
    let done = command.env_remove("AWS_CA_BUNDLE").output().unwrap();
    match done.status.code() {
        Some(0) => Some(fs::read(out).unwrap()),
        Some(1) => None,
        other => panic!("{program} {flags:?} ended with {other:?}"),
    }
}

/// Restores every target of a replica with both programs. How many of them could be restored.
fn compare(replica: &Path) -> usize {
    let list =
        Command::new(ours()).args(["ltx", "-json", "-level", "all", replica.to_str().unwrap()]).output().unwrap();
    let files: Value = serde_json::from_slice(&list.stdout).unwrap();
    let all = |key: &str| -> BTreeSet<String> {
        files.as_array().unwrap().iter().map(|file| file[key].as_str().unwrap().to_string()).collect()
    };
    let last = Txid::parse(all("max_txid").last().unwrap()).unwrap();
    let inside = (1..=last.0 + 1).step_by(3).map(|n| Txid(n).to_string());
    let mut targets = vec![vec![]];
    targets.extend(all("max_txid").into_iter().chain(inside).map(|txid| vec!["-txid".to_string(), txid]));
    targets.extend(all("timestamp").into_iter().map(|time| vec!["-timestamp".to_string(), time]));
    let mut count = 0;
    for target in targets {
        let (theirs, mine) = (restored(&litestream(), replica, &target), restored(&ours(), replica, &target));
        assert!(theirs == mine, "{target:?}: {:?} and {:?} bytes", theirs.map(|b| b.len()), mine.map(|b| b.len()));
        count += usize::from(mine.is_some());
    }
    count
}

/// Goal: we restore what Litestream replicates, to every target, as it does. Method: a workload with deletes and VACUUM
/// while `litestream replicate` runs with short intervals, so that all kinds of files come and go; then both restore.
#[test]
fn ours_restores_what_litestream_replicates() {
    let folder = tempfile::tempdir().unwrap();
    let (database, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
    let config = folder.path().join("litestream.yml");
    let text = format!(
        "levels: [{{interval: 2s}}, {{interval: 5s}}]\nsnapshot: {{interval: 6s, retention: 20s}}\nl0-retention: 5s\ndbs:\n  - path: {}\n    monitor-interval: 200ms\n    replica: {{type: file, path: {}, sync-interval: 300ms}}\n",
        database.display(),
        replica.display()
    );
    fs::write(&config, text).unwrap();
    let db = Connection::open(&database).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let mut daemon = Command::new(litestream());
    daemon.args(["replicate", "-config", config.to_str().unwrap()]).env_remove("AWS_CA_BUNDLE");
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < WORKLOAD {
        n += 1;
        let rows = 1 + n * 7 % 40;
        let insert = format!(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<{rows}) INSERT INTO t(x) SELECT randomblob(10 + abs(random()) % 800) FROM c"
        );
        db.execute_batch(&insert).unwrap();
        if n % 11 == 0 {
            db.execute_batch(&format!("DELETE FROM t WHERE id % 3 = {}", n % 3)).unwrap();
        }
        if n % 97 == 0 {
            // Litestream's read lock may keep VACUUM out; then it comes another time.
            let _ = db.execute_batch("VACUUM");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    Command::new("kill").args(["-INT", &daemon.id().to_string()]).status().unwrap();
    daemon.wait().unwrap();
    let count = compare(&replica);
    assert!(count > 20, "only {count} targets");
    let latest = restored(&ours(), &replica, &[]).unwrap();
    fs::write(folder.path().join("latest.db"), latest).unwrap();
    let rows = |path: &Path| -> i64 {
        Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(&folder.path().join("latest.db")), rows(&database), "the last commit is there");
}

/// Goal: Litestream restores what we encode and merge, to every target. Method: noise with growth and shrinking, an image
/// at level 9, raw files, some merged into level 1; each state is known.
#[test]
fn litestream_restores_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let replica = folder.path();
    let page_size = PageSize::new(1024).unwrap();
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let path = |level: u8, span: Span| replica.join(format!("ltx/{level}/{}", span.file_name()));
    let put = |level: u8, header: &Header, bytes: &[u8]| {
        let path = path(level, header.span);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(header.timestamp.0 as u64);
        File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    };
    let mut model: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut states = BTreeMap::new();
    let mut commit = 0;
    for txid in 1..=30 {
        let before = commit;
        commit = if txid == 1 { 40 } else { (i64::from(commit) + (random() % 21) as i64 - 9).max(3) as u32 };
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut touched: Vec<u32> = (before + 1..=commit).collect();
        touched.extend((0..random() % 6).map(|_| (random() % u64::from(commit)) as u32 + 1));
        for pgno in touched {
            let words = (0..128).flat_map(|_| (random() % 5).wrapping_mul(random()).to_be_bytes());
            pages.insert(pgno, words.collect());
        }
        let span = Span::one(Txid(txid));
        let header = Header::new(page_size, commit, span, Time(1_795_000_000_000 + txid as i64 * 1000)).with_wal(
            32,
            0,
            Default::default(),
        );
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        pages.iter().for_each(|(pgno, page)| encoder.page(Pgno(*pgno), page).unwrap());
        put(if txid == 1 { 9 } else { 0 }, &header, &encoder.finish().unwrap().0);
        model.extend(pages);
        model.retain(|pgno, _| *pgno <= commit);
        states.insert(txid, model.values().flatten().copied().collect::<Vec<u8>>());
    }
    for (min, max) in [(2, 9), (10, 12), (13, 22)] {
        let files: Vec<Vec<u8>> = (min..=max).map(|txid| fs::read(path(0, Span::one(Txid(txid)))).unwrap()).collect();
        let mut inputs: Vec<_> = files.iter().map(|bytes| Decoder::new(&bytes[..]).unwrap()).collect();
        let (header, bytes, _) = merge(&mut inputs, Vec::new()).unwrap();
        put(1, &header, &bytes);
        (min..max.min(20)).for_each(|txid| fs::remove_file(path(0, Span::one(Txid(txid)))).unwrap());
    }
    assert!(compare(replica) > 20);
    for txid in [1, 9, 12, 22, 23, 30] {
        let theirs = restored(&litestream(), replica, &["-txid".to_string(), Txid(txid).to_string()]).unwrap();
        assert!(theirs == states[&txid], "state {txid}");
    }
}
