//! What applications do to a database: each shape of work is replicated, restored elsewhere, and equal page for page.
//!
//! Folder replicas, connections through the built library. Work of several processes and the count of full images
//! are in `images.rs`; random histories in `histories.rs`.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::ltx::Level;
use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, folder, integrity, load, page_size, same_pages, sync};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn scene() -> (TempDir, Place) {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    (folder, place)
}

fn batch(connection: &Connection, sql: &str) {
    connection.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// A table of `rows` rows of `bytes` random bytes each.
fn fill(connection: &Connection, rows: u32, bytes: u32) {
    batch(
        connection,
        &format!(
            "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a INT, b BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t(a, b) SELECT i, randomblob({bytes}) FROM n"
        ),
    );
}

/// Many pages that are stored before anything else and never touched again: a file with all of them is an image.
fn fill_cold(connection: &Connection) {
    batch(connection, "BEGIN; CREATE TABLE cold(b BLOB)");
    for _ in 0..400 {
        batch(connection, "INSERT INTO cold VALUES (randomblob(900))");
    }
    batch(connection, "COMMIT");
    sync(connection);
}

/// Transactions of many kinds, each small.
fn mixed(connection: &Connection, rounds: i64) {
    for n in 1..=rounds {
        match n % 7 {
            0 => batch(connection, "BEGIN; DELETE FROM t WHERE id % 3 = 0; ROLLBACK"),
            3 => batch(connection, &format!("DELETE FROM t WHERE id % 11 = {n} % 11 AND a < 100")),
            5 => batch(connection, &format!("UPDATE t SET b = randomblob(700) WHERE id % 13 = {n} % 13")),
            _ => batch(connection, &format!("INSERT INTO t(a, b) VALUES ({n}, randomblob({n} % 9 * 300))")),
        }
    }
}

/// Goal: a database may grow and shrink. Method: VACUUM and both kinds of auto_vacuum, compared after each step.
#[test]
fn growth_and_shrinking_are_replicated() {
    for auto_vacuum in 0..=2 {
        let (_folder, place) = scene();
        let connection = place.open();
        batch(&connection, &format!("PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=WAL"));
        fill(&connection, 3000, 900);
        place.is_replicated(&connection);
        let large = place.image().len();
        batch(&connection, "DELETE FROM t WHERE id > 300");
        place.is_replicated(&connection);
        batch(&connection, "PRAGMA incremental_vacuum(100)");
        place.is_replicated(&connection);
        batch(&connection, "VACUUM");
        place.is_replicated(&connection);
        assert!(place.image().len() < large / 4, "it did not shrink");
        fill(&connection, 2000, 900);
        place.is_replicated(&connection);
        batch(&connection, "PRAGMA page_size=8192; PRAGMA journal_mode=DELETE; VACUUM; PRAGMA journal_mode=WAL");
        fill(&connection, 10, 900);
        place.is_replicated(&connection);
        assert_eq!(page_size(&place.image()), 8192);
    }
}

/// Goal: every page size that SQLite has. Method: each, in WAL and rollback mode.
#[test]
fn every_page_size_is_replicated() {
    for power in 9..=16 {
        for mode in ["WAL", "DELETE"] {
            let (_folder, place) = scene();
            let connection = place.open();
            batch(&connection, &format!("PRAGMA page_size={}; PRAGMA journal_mode={mode}", 1 << power));
            fill(&connection, 100, 2000);
            mixed(&connection, 60);
            place.is_replicated(&connection);
            assert_eq!(page_size(&place.image()), 1 << power);
            batch(&connection, "DELETE FROM t WHERE id % 2 = 0; VACUUM");
            place.is_replicated(&connection);
        }
    }
}

/// Two files equal, without either in memory.
fn same_files(left: &std::path::Path, right: &std::path::Path) {
    let (_folder, place) = scene();
    let said =
        support::run(place.path.parent().unwrap(), "cmp", &[left.to_str().unwrap(), right.to_str().unwrap()], "");
    said.ok();
}

/// Goal: the page that SQLite never uses, at 1 GiB, is never written and never missed. Method: a database just below
/// it, which grows over it while replicated; then an image of what lies on both sides.
#[test]
fn a_database_over_one_gibibyte_goes_around_the_lock_page() {
    let (folder, place) = scene();
    let plain = Connection::open(&place.path).unwrap();
    batch(
        &plain,
        "PRAGMA page_size=65536; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)",
    );
    batch(&plain, "INSERT INTO t(b) VALUES (zeroblob(536000000)), (zeroblob(536000000)); PRAGMA journal_mode=WAL");
    drop(plain);
    let connection = place.open_wal();
    sync(&connection);
    let size = std::fs::metadata(&place.path).unwrap().len();
    assert!(size < 1 << 30, "{size} bytes: not below the lock page");
    fill(&connection, 60, 60_000);
    sync(&connection);
    batch(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    fill(&connection, 3, 60_000);
    sync(&connection);
    drop(connection);
    let size = std::fs::metadata(&place.path).unwrap().len();
    assert!(size > (1 << 30) + (1 << 20), "{size} bytes: not above the lock page");
    let grown = place.restore_to(Target::Latest);
    same_files(&place.path, &grown);
    std::fs::remove_file(grown).unwrap();

    let again = Place::new(folder.path(), "app.db", &format!("file://{}", folder.path().join("second").display()));
    std::fs::remove_dir_all(place.spool()).unwrap();
    let connection = again.open();
    fill(&connection, 1, 10);
    sync(&connection);
    drop(connection);
    let imaged = again.restore_to(Target::Latest);
    same_files(&place.path, &imaged);
}

/// Goal: pages that do not compress cost little more than themselves. Method: random bytes, the replica's size.
#[test]
fn incompressible_pages_are_replicated() {
    let (_folder, place) = scene();
    let connection = place.open_wal();
    fill(&connection, 5000, 4000);
    place.is_replicated(&connection);
    let (stored, size) = (place.listing().iter().map(|file| file.size).sum::<u64>(), place.image().len() as u64);
    assert!(stored < size + size / 20, "{stored} bytes store {size}");
}

/// Goal: one transaction may be of any size. Method: 60 MB at once, and many more commits between two uploads than
/// the channel holds.
#[test]
fn more_than_the_channel_holds_is_replicated() {
    let (_folder, place) = scene();
    let connection = place.open_wal();
    batch(&connection, "PRAGMA wal_autocheckpoint=0");
    fill(&connection, 15_000, 4000);
    place.is_replicated(&connection);
    let slow = Place::in_folder(place.path.parent().unwrap(), "many.db").every("1s");
    let connection = slow.open_wal();
    batch(&connection, "PRAGMA synchronous=OFF");
    fill(&connection, 1, 10);
    for n in 0..5000 {
        connection.execute("INSERT INTO t(a) VALUES (?)", [n]).unwrap();
    }
    slow.is_replicated(&connection);
}

/// Goal: what was rolled back after it had reached the WAL or the database is not replicated, what was committed
/// is. Method: a cache of few pages, so that SQLite spills; rollbacks, savepoints, and frames written again in place.
#[test]
fn spills_rollbacks_and_savepoints_are_replicated() {
    for mode in ["WAL", "DELETE", "PERSIST", "TRUNCATE"] {
        let (_folder, place) = scene();
        let connection = place.open();
        batch(&connection, &format!("PRAGMA journal_mode={mode}; PRAGMA cache_size=5"));
        fill(&connection, 200, 3000);
        place.is_replicated(&connection);
        batch(&connection, "BEGIN; UPDATE t SET b = randomblob(3000); DELETE FROM t WHERE id % 2 = 0; ROLLBACK");
        place.is_replicated(&connection);
        batch(&connection, "BEGIN; INSERT INTO t(a, b) VALUES (1, randomblob(500000)); ROLLBACK");
        batch(&connection, "UPDATE t SET a = a + 1 WHERE id < 20");
        place.is_replicated(&connection);
        batch(
            &connection,
            "BEGIN; SAVEPOINT one; UPDATE t SET b = randomblob(2500); SAVEPOINT two; DELETE FROM t; ROLLBACK TO two;
             INSERT INTO t(a, b) VALUES (2, randomblob(100000)); RELEASE two; ROLLBACK TO one;
             UPDATE t SET b = randomblob(100) WHERE id % 3 = 0; RELEASE one; COMMIT",
        );
        place.is_replicated(&connection);
        batch(&connection, "BEGIN");
        for n in 0..12 {
            batch(&connection, &format!("UPDATE t SET b = randomblob(2000 + {n})"));
        }
        batch(&connection, "COMMIT");
        place.is_replicated(&connection);
        assert_eq!(integrity(&place.restore_to(Target::Latest)), "ok");
    }
}

/// Goal: a busy day. Method: 100,000 transactions of one row.
#[test]
fn a_hundred_thousand_small_transactions_are_replicated() {
    let (_folder, place) = scene();
    let connection = place.open_wal();
    batch(&connection, "PRAGMA synchronous=NORMAL");
    fill(&connection, 1, 10);
    let mut insert = connection.prepare("INSERT INTO t(a, b) VALUES (?, randomblob(20))").unwrap();
    for n in 0..100_000 {
        insert.execute([n]).unwrap();
    }
    drop(insert);
    place.is_replicated(&connection);
    place.has_images(0..=1);
}

/// Goal: one raw file an interval, however busy the writer: each is a request that somebody pays for. Method: commits
/// without a pause for three seconds, in WAL mode and in DELETE mode; the files of level 0 are counted. What a first
/// use, the end and a sync store apart from that are a few more.
#[test]
fn a_writer_without_a_pause_makes_one_file_an_interval() {
    for mode in ["WAL", "DELETE"] {
        let (_folder, place) = scene();
        let place = place.every("1s");
        let connection = place.open();
        batch(&connection, &format!("PRAGMA journal_mode={mode}; PRAGMA synchronous=OFF"));
        fill(&connection, 1, 10);
        sync(&connection);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            batch(&connection, "INSERT INTO t(a, b) VALUES (1, randomblob(20))");
        }
        let intervals = began.elapsed().as_secs() as usize + 1;
        place.is_replicated(&connection);
        let files = place.listing().iter().filter(|file| file.level == Level::RAW).count();
        assert!((2..=intervals + 4).contains(&files), "{mode}: {files} files in {intervals} intervals");
    }
}

/// What a process with one transaction of a gigabyte needed at most, in KiB.
fn memory_of_a_gigabyte(process: &mut Process) -> u64 {
    process.sql("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t(id INTEGER PRIMARY KEY, b);");
    process.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20480)
         INSERT INTO t(b) SELECT CAST(randomblob(400) || zeroblob(49000) AS BLOB) FROM n",
    );
    process.memory("VmHWM")
}

/// Goal: a transaction of 1 GB, with memory that does not grow with it. Method: a process that does it with the
/// library, and one without.
#[test]
fn a_transaction_of_one_gigabyte_needs_little_memory() {
    let (folder, place) = scene();
    let mut plain = Process::start_uri(&format!("file:{}", folder.path().join("plain.db").display()));
    let without = memory_of_a_gigabyte(&mut plain);
    plain.end();
    std::fs::remove_file(folder.path().join("plain.db")).unwrap();
    let mut process = Process::start(&place);
    memory_of_a_gigabyte(&mut process);
    process.sql("SELECT litestream_sync(60)");
    let with = process.memory("VmHWM");
    process.end();
    assert!(with < without + (64 << 10), "{with} KiB with replication, {without} KiB without");
    let restored = place.restore_to(Target::Latest);
    assert!(std::fs::metadata(&restored).unwrap().len() > 1_000_000_000);
    same_files(&place.path, &restored);
}

/// Goal: checkpoints of every mode at any moment lose nothing. Method: four threads with connections of their own,
/// which write, checkpoint, close and open at random for two seconds.
#[test]
fn checkpoints_of_every_mode_by_several_connections_lose_nothing() {
    let (_folder, place) = scene();
    let connection = place.open_wal();
    fill_cold(&connection);
    fill(&connection, 100, 500);
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (1..=4u64)
        .map(|id| {
            let (place, stop) = (place.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (mut connection, mut n) = (place.open(), id * 7919);
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][(n >> 40) as usize % 4];
                    match (n >> 33) % 10 {
                        0..=1 => {
                            connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
                        }
                        2 => connection = place.open(),
                        3 => batch(&connection, "BEGIN IMMEDIATE; UPDATE t SET a = -a; ROLLBACK"),
                        _ => batch(&connection, "INSERT INTO t(a, b) VALUES (1, randomblob(700))"),
                    }
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    place.is_replicated(&connection);
    place.has_images(0..=1);
}

/// Goal: settings of SQLite that change what happens to the WAL. Method: the same work under each.
#[test]
fn settings_that_touch_the_wal_are_survived() {
    for pragmas in [
        "PRAGMA journal_size_limit=0",
        "PRAGMA journal_size_limit=20000; PRAGMA wal_autocheckpoint=5",
        "PRAGMA wal_autocheckpoint=1",
        "PRAGMA wal_autocheckpoint=0",
        "PRAGMA mmap_size=100000000; PRAGMA wal_autocheckpoint=20",
        "PRAGMA synchronous=FULL",
        "PRAGMA secure_delete=ON; PRAGMA temp_store=MEMORY",
    ] {
        let (_folder, place) = scene();
        let connection = place.open_wal();
        batch(&connection, pragmas);
        fill_cold(&connection);
        fill(&connection, 300, 500);
        mixed(&connection, 150);
        place.is_replicated(&connection);
        drop(connection);
        let connection = place.open();
        batch(&connection, pragmas);
        mixed(&connection, 50);
        place.is_replicated(&connection);
        place.has_images(0..=1);
    }
}

/// Goal: exclusive locking mode, which has no shared memory. Method: work in it, left by closing; then as ever.
#[test]
fn exclusive_locking_mode_is_replicated() {
    for order in [
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL",
        "PRAGMA journal_mode=WAL; PRAGMA locking_mode=EXCLUSIVE",
    ] {
        let (_folder, place) = scene();
        let connection = place.open();
        batch(&connection, order);
        fill(&connection, 300, 500);
        mixed(&connection, 100);
        sync(&connection);
        let rows: i64 = connection.query_row("SELECT sum(id * 31 + length(b)) FROM t", [], |row| row.get(0)).unwrap();
        let restored = place.restore_to(Target::Latest);
        let copy = Connection::open(&restored).unwrap();
        assert_eq!(copy.query_row("SELECT sum(id * 31 + length(b)) FROM t", [], |row| row.get(0)), Ok(rows));
        drop(copy);
        std::fs::remove_file(restored).unwrap();
        drop(connection);
        let connection = place.open();
        mixed(&connection, 20);
        place.is_replicated(&connection);
    }
}

/// Goal: transactions between two lives of the WAL in exclusive locking mode are stored. Method: WAL, DELETE and WAL again by one
/// connection that never lets go of the database but once, with and without a sync in each step.
#[test]
fn rollback_transactions_between_two_exclusive_lives_of_the_wal_are_replicated() {
    for synced in [[true, false, false], [true, true, false], [false, false, false], [true, true, true]] {
        let (_folder, place) = scene();
        let connection = place.open();
        let say = |sql: &str| batch(&connection, sql);
        let sync_if = |wanted: bool| {
            if wanted {
                let _ = sync(&connection);
            }
        };
        say("CREATE TABLE t1(x); INSERT INTO t1 VALUES (1)");
        sync(&connection);
        say("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; INSERT INTO t1 VALUES (2)");
        sync_if(synced[0]);
        say("PRAGMA journal_mode=DELETE; PRAGMA locking_mode=NORMAL; SELECT * FROM t1");
        sync_if(synced[1]);
        say("CREATE TABLE t2(x); INSERT INTO t2 VALUES (3)");
        sync_if(synced[2]);
        say(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; INSERT INTO t2 VALUES (4); INSERT INTO t1 VALUES (5)",
        );
        drop(connection);
        let connection = place.open();
        place.is_replicated(&connection);
    }
}

/// Goal: a connection with several replicated databases. Method: ATTACH with a URI, transactions over both.
#[test]
fn two_attached_databases_are_both_replicated() {
    let (folder, place) = scene();
    let second = Place::in_folder(folder.path(), "second.db");
    let connection = place.open_wal();
    connection.execute("ATTACH ? AS second", [second.uri()]).unwrap();
    batch(&connection, "PRAGMA second.journal_mode=WAL; CREATE TABLE second.s(a, b)");
    fill(&connection, 200, 300);
    for n in 0..50 {
        batch(
            &connection,
            &format!("BEGIN; INSERT INTO t(a) VALUES ({n}); INSERT INTO s VALUES ({n}, randomblob(400)); COMMIT"),
        );
    }
    place.is_replicated(&connection);
    same_pages(&second.image(), &second.restored(Target::Latest));
    let rows: i64 = connection.query_row("SELECT count(*) FROM litestream_status", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
}

/// Goal: SQLite's backup API, onto a replicated database and from one. Method: another database's content put in
/// place of ours in small steps; ours copied while it is written.
#[test]
fn backups_onto_and_from_a_replicated_database_are_right() {
    let (folder, place) = scene();
    let mut connection = place.open_wal();
    fill(&connection, 500, 700);
    place.is_replicated(&connection);
    let other = Connection::open(folder.path().join("other.db")).unwrap();
    fill(&other, 900, 600);
    batch(&other, "CREATE TABLE only_there(x); INSERT INTO only_there VALUES (42)");
    Backup::new(&other, &mut connection).unwrap().run_to_completion(37, Duration::ZERO, None).unwrap();
    place.is_replicated(&connection);
    assert_eq!(connection.query_row("SELECT x FROM only_there", [], |row| row.get(0)), Ok(42));

    let copied = folder.path().join("copied.db");
    let mut copy = Connection::open(&copied).unwrap();
    let backup = Backup::new(&connection, &mut copy).unwrap();
    let writer = place.open();
    for n in 0..5 {
        backup.step(29).unwrap();
        writer.execute("INSERT INTO only_there VALUES (?)", [n]).unwrap();
    }
    backup.run_to_completion(1000, Duration::ZERO, None).unwrap();
    drop(backup);
    drop(copy);
    place.is_replicated(&connection);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let copy = Connection::open_with_flags(&copied, flags).unwrap();
    let (there, here): (i64, i64) = (
        copy.query_row("SELECT count(*) FROM only_there", [], |row| row.get(0)).unwrap(),
        connection.query_row("SELECT count(*) FROM only_there", [], |row| row.get(0)).unwrap(),
    );
    assert_eq!(there, here);
}
