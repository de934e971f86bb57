//! A Leader whose lock is gone without its knowledge, and another process that led meanwhile: the first writes nothing
//! from what it knew, and begins anew.
//!
//! POSIX locks go when a process closes any descriptor on the file, as a backup does, so this happens to real hosts.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/memory.rs"]
mod memory;
#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stand_in.rs"]
mod stand_in;
#[path = "support/mod.rs"]
mod support;

use litestream_engine::plan::Target;
use memory::{Conditions, Memory};
use process::Process;
use replicated::{Place, folder, load, same_pages, sync, wait_for};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long the store takes for an answer: less than an open waits for one.
const SLOW: Duration = Duration::from_millis(600);

/// True where another process could take the Leader's lock.
fn lock_is_free(place: &Place) -> bool {
    let script = "import fcntl, sys\nwith open(sys.argv[1], 'r+b') as f:\n try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n except OSError: sys.exit(3)";
    let lock = place.spool().join("lock");
    let code = Command::new("/usr/bin/python3").args(["-c", script]).arg(lock).status().unwrap().code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    code == Some(0)
}

/// Goal: what the other Leader stored is not taken back, and nothing of either is lost. Method: this process leads and
/// loses its lock; another leads, stores, resets the WAL and is killed; then this one stores again.
#[test]
fn a_leader_that_was_overtaken_begins_anew() {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db");
    let ours = place.open_wal();
    ours.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES('ours')").unwrap();
    sync(&ours);
    for round in 0..3 {
        assert!(!lock_is_free(&place), "this process leads");
        drop(std::fs::File::open(place.spool().join("lock")).unwrap());
        assert!(lock_is_free(&place), "and lost its lock");
        let mut other = Process::start(&place);
        for n in 0..4 {
            other.sql(&format!("INSERT INTO t VALUES('the other, {round}, {n}')"));
            other.sql("SELECT litestream_sync(30)");
            other.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        other.sql("INSERT INTO t VALUES('not asked for')");
        other.kill();
        ours.execute("INSERT INTO t VALUES('ours again')", []).unwrap();
        sync(&ours);
        same_pages(&place.image(), &place.restored(Target::Latest));
    }
    let rows: i64 = ours.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1 + 3 * 6);
}

/// Goal: while the first thread that opens a database looks at its replica, no other gets it: it could be brought forward,
/// and the look would take the lock from a worker that the other had begun. Method: a store that takes its time.
#[test]
fn a_thread_does_not_overtake_the_look_of_the_first() {
    load();
    let folder = folder();
    static IS_SLOW: AtomicBool = AtomicBool::new(false);
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static ANSWERED: AtomicUsize = AtomicUsize::new(0);
    let bucket = Memory::checking(Conditions::Kept, |_| {
        if IS_SLOW.load(Ordering::Relaxed) {
            ASKED.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(SLOW);
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let replica = format!("s3://bucket/app?endpoint={}&region=us-east-1", bucket.server.endpoint);
    let place = Place::new(folder.path(), "app.db", &replica);
    let mut before = Process::start(&place);
    before.sql("CREATE TABLE t(x)");
    before.sql("SELECT litestream_sync(30)");
    before.end();
    IS_SLOW.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| place.open());
        wait_for("the first thread looks", SLOW, || ASKED.load(Ordering::Relaxed) > 0);
        let connection = place.open();
        let (asked, answered) = (ASKED.load(Ordering::Relaxed), ANSWERED.load(Ordering::Relaxed));
        assert_eq!(asked, answered, "opened while the first still looked");
        drop(first.join().unwrap());
        connection.execute("INSERT INTO t VALUES(1)", []).unwrap();
        IS_SLOW.store(false, Ordering::Relaxed);
        sync(&connection);
    });
    assert!(!lock_is_free(&place), "nobody leads");
}
