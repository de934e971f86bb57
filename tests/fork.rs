//! Hosts that fork, and hosts that stop: gunicorn's and Puma's patterns in Debian's Python, signals, exits without a
//! close. No hang, no crash, no lost row, no thread without work.
//!
//! Every script is bounded in time. What it committed is counted here, in the database and in the replica.

#![allow(clippy::unwrap_used)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/remote.rs"]
mod remote;
#[path = "support/stand_in.rs"]
mod stand_in;
mod support;

use remote::Remote;
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What every script begins with.
const PRELUDE: &str = r#"
import signal, threading
signal.alarm(90)                                   # whatever hangs dies of it
load().close()
URI = 'file:app.db?vfs=litestream&replica=file://' + os.getcwd() + '/replica&sync-interval=' + os.environ.get('INTERVAL', '100ms')
def connect(uri=URI):
    c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20, check_same_thread=False)
    return c
def begin():
    c = connect()
    c.execute('PRAGMA journal_mode=WAL')
    c.execute('CREATE TABLE t(who, n)')
    c.execute('SELECT litestream_sync(20)').fetchall()
    return c
def insert(c, who, count):
    for n in range(count):
        c.execute('INSERT INTO t VALUES(?, ?)', (who, n))
def child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback; traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid
def ended(pid, seconds=30):
    for _ in range(seconds * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, 'child %d: %d' % (pid, status)
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    raise Exception('child %d hangs' % pid)
def threads():
    names = []
    for t in os.listdir('/proc/self/task'):
        try:
            names.append(open('/proc/self/task/%s/comm' % t).read().strip())
        except OSError:
            pass  # ended since the list was read
    return sorted(names)
"#;

/// A folder with a database, a replica, and scripts that work on both.
struct Place {
    folder: tempfile::TempDir,
    remote: Remote,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote::folder(folder.path());
        Place { folder, remote }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    #[track_caller]
    fn python(&self, script: &str) -> String {
        support::python(self.folder.path(), &format!("{PRELUDE}{script}")).ok()
    }

    /// Rows in the replica as it is now.
    #[track_caller]
    fn replicated(&self) -> i64 {
        let copy = self.folder.path().join("copy.db");
        let _ = std::fs::remove_file(&copy); // of a look before
        self.remote.restore(&copy).unwrap();
        rows(&copy)
    }

    /// The database holds `expected` rows, and so does its replica; page for page they are one.
    #[track_caller]
    fn assert_all(&self, expected: i64) {
        assert_eq!(rows(&self.database()), expected, "rows in the database");
        assert_eq!(self.replicated(), expected, "rows in the replica");
        let image = ledger::image(&self.database());
        let restored = std::fs::read(self.folder.path().join("copy.db")).unwrap();
        assert_eq!(ledger::difference(&image, &restored, false), Vec::<usize>::new(), "pages that differ");
    }
}

/// Rows of `t`, in a database that is whole.
#[track_caller]
fn rows(path: &std::path::Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

// Goal: gunicorn with preload: loaded and opened before the fork, each worker opens its own. Method: 4 workers write at
// the same time as the parent, and leave with their connection open, closed, or after a sync.
#[test]
fn workers_that_open_their_own_connections_lose_nothing() {
    let place = Place::new();
    place.python(
        "c = begin()\n\
         insert(c, 'before', 10)\n\
         def worker(n):\n\
         \x20   mine = connect()\n\
         \x20   insert(mine, n, 50)\n\
         \x20   if n % 2: mine.execute('SELECT litestream_sync(20)').fetchall()\n\
         \x20   if n == 2: mine.close()\n\
         pids = [child(lambda: worker(n)) for n in range(4)]\n\
         insert(c, 'parent', 50)\n\
         for pid in pids: ended(pid)\n\
         c.execute('SELECT litestream_sync(20)').fetchall()\n",
    );
    place.assert_all(260);
}

// Goal: the parent that leads may go first. Method: it exits while two workers, whose parent it was, commit on; one of
// them takes over. (They close what they inherited before they open their own: SQLite takes no new locks beside it.)
#[test]
fn a_parent_that_exits_first_hands_over() {
    let place = Place::new();
    place.python(
        "c = begin()\n\
         def worker(n):\n\
         \x20   c.close()\n\
         \x20   mine = connect()\n\
         \x20   for k in range(40):\n\
         \x20       insert(mine, n, 1)\n\
         \x20       time.sleep(0.05)\n\
         \x20   mine.execute('SELECT litestream_sync(20)').fetchall()\n\
         \x20   open('done-%d' % n, 'w').close()\n\
         pids = [child(lambda: worker(n)) for n in range(2)]\n\
         insert(c, 'parent', 20)\n\
         time.sleep(0.3)\n\
         sys.exit(0)\n",
    );
    let deadline = Instant::now() + Duration::from_secs(40);
    while !["done-0", "done-1"].iter().all(|name| place.folder.path().join(name).exists()) {
        assert!(Instant::now() < deadline, "the workers did not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    place.assert_all(100);
}

// Goal: where a host carries a connection across a fork beside its own, SQLite itself deletes the WAL under it at the
// parent's end (and loses rows, with any VFS): that is said, and the store is not flooded with images. Method: just that.
#[test]
fn a_wal_that_was_deleted_under_a_worker_is_said_and_floods_nothing() {
    let place = Place::new();
    place.python(
        "c = begin()\n\
         def worker():\n\
         \x20   mine = connect()\n\
         \x20   for k in range(40):\n\
         \x20       insert(mine, 'worker', 1)\n\
         \x20       time.sleep(0.05)\n\
         \x20   for _ in range(300):\n\
         \x20       state = mine.execute('SELECT state FROM litestream_status').fetchone()[0]\n\
         \x20       if 'deleted while this process has it open' in state: break\n\
         \x20       time.sleep(0.02)\n\
         \x20   open('said', 'w').write(state)\n\
         child(worker)\n\
         insert(c, 'parent', 20)\n\
         time.sleep(0.3)\n",
    );
    let said = place.folder.path().join("said");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !said.exists() {
        assert!(Instant::now() < deadline, "the worker did not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let state = std::fs::read_to_string(said).unwrap();
    assert!(state.starts_with("failed: ") && state.contains("deleted while this process has it open"), "{state}");
    assert!(place.remote.newest() < 30, "{} files", place.remote.newest());
    // Opened anew all is well.
    place.python("c = connect()\ninsert(c, 'later', 10)\nc.execute('SELECT litestream_sync(20)').fetchall()\n");
    let rows = rows(&place.database());
    assert!(rows >= 30, "{rows} rows");
    place.assert_all(rows);
}

// Goal: what a child does with an inherited connection harms nobody: reads, a close, a garbage collection, also when the
// parent has ended. Method: each in a child while the parent commits on; then again after the parent's end.
#[test]
fn inherited_connections_may_be_read_and_closed() {
    let place = Place::new();
    place.python(
        "c = begin()\n\
         insert(c, 'before', 10)\n\
         def reads(): assert c.execute('SELECT count(*) FROM t').fetchone()[0] >= 10\n\
         def closes(): c.close()\n\
         def collects():\n\
         \x20   global c\n\
         \x20   c = None\n\
         \x20   import gc; gc.collect()\n\
         def opens_after():\n\
         \x20   c.close()\n\
         \x20   mine = connect()\n\
         \x20   insert(mine, 'child', 5)\n\
         \x20   mine.execute('SELECT litestream_sync(20)').fetchall()\n\
         for work in [reads, closes, collects, opens_after]:\n\
         \x20   pid = child(work)\n\
         \x20   insert(c, 'parent', 10)\n\
         \x20   ended(pid)\n\
         def outlives():\n\
         \x20   time.sleep(1)\n\
         \x20   c.close()\n\
         \x20   open('outlived', 'w').close()\n\
         child(outlives)\n\
         insert(c, 'parent', 10)\n",
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    while !place.folder.path().join("outlived").exists() {
        assert!(Instant::now() < deadline, "the last child did not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    place.python("c = connect()\ninsert(c, 'later', 10)\nc.execute('SELECT litestream_sync(20)').fetchall()\n");
    place.assert_all(75);
}

// Goal: a fork in the middle of other threads' commits: the child that only leaves or execs never hangs, and nothing is
// lost. Method: three threads commit while 30 children leave by os._exit, by exit handlers, and by exec.
#[test]
fn a_fork_in_the_middle_of_commits_hangs_nobody() {
    let place = Place::new();
    let said = place.python(
        "begin().close()\n\
         stop, done = threading.Event(), []\n\
         def commits(n):\n\
         \x20   mine, k = connect(), 0\n\
         \x20   while not stop.is_set():\n\
         \x20       insert(mine, n, 1)\n\
         \x20       k += 1\n\
         \x20   done.append(k)\n\
         writers = [threading.Thread(target=commits, args=(n,)) for n in range(3)]\n\
         for writer in writers: writer.start()\n\
         for n in range(30):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid == 0:\n\
         \x20       if n % 3 == 0: os._exit(0)\n\
         \x20       if n % 3 == 1: os.execv('/bin/true', ['true'])\n\
         \x20       import ctypes; ctypes.CDLL(None).exit(0)\n\
         \x20   ended(pid, 20)\n\
         stop.set()\n\
         for writer in writers: writer.join()\n\
         connect().execute('SELECT litestream_sync(20)').fetchall()\n\
         print(sum(done))\n",
    );
    place.assert_all(said.trim().parse().unwrap());
}

// Goal: `multiprocessing` with fork, pools included. Method: a pool of three whose tasks open, write and close, twice.
#[test]
fn a_pool_of_forked_processes_writes() {
    let place = Place::new();
    place.python(
        "import multiprocessing\n\
         c = begin()\n\
         def task(n):\n\
         \x20   mine = connect()\n\
         \x20   insert(mine, n, 10)\n\
         \x20   mine.close()\n\
         \x20   return n\n\
         for turn in range(2):\n\
         \x20   with multiprocessing.get_context('fork').Pool(3) as pool:\n\
         \x20       assert pool.map(task, range(6)) == list(range(6))\n\
         \x20   insert(c, 'parent', 10)\n\
         c.execute('SELECT litestream_sync(20)').fetchall()\n",
    );
    place.assert_all(140);
}

// Goal: workers that are killed and forked anew, as Puma's and gunicorn's masters do. Method: 10 generations of two
// workers, each killed in its work; what each of them acknowledged is there.
#[test]
fn workers_that_are_killed_and_forked_anew_lose_nothing() {
    let place = Place::new();
    let said = place.python(
        "c = begin()\n\
         def worker(n, out):\n\
         \x20   mine = connect()\n\
         \x20   while True:\n\
         \x20       insert(mine, n, 1)\n\
         \x20       os.write(out, b'.')\n\
         kept = 0\n\
         for turn in range(10):\n\
         \x20   reader, writer = os.pipe()\n\
         \x20   pids = [child(lambda: worker(n, writer)) for n in range(2)]\n\
         \x20   os.close(writer)\n\
         \x20   insert(c, 'parent', 5)\n\
         \x20   time.sleep(0.15)\n\
         \x20   for pid in pids: os.kill(pid, signal.SIGKILL)\n\
         \x20   for pid in pids: os.waitpid(pid, 0)\n\
         \x20   acknowledged = b''\n\
         \x20   while True:\n\
         \x20       more = os.read(reader, 65536)\n\
         \x20       if not more: break\n\
         \x20       acknowledged += more\n\
         \x20   os.close(reader)\n\
         \x20   kept += len(acknowledged) + 5\n\
         \x20   assert c.execute('SELECT count(*) FROM t').fetchone()[0] >= kept\n\
         c.execute('SELECT litestream_sync(20)').fetchall()\n\
         print(c.execute('SELECT count(*) FROM t').fetchone()[0])\n",
    );
    place.assert_all(said.trim().parse().unwrap());
}

// Goal: a normal exit without any close stores everything. Method: a long interval, so that only the exit can have done it.
#[test]
fn an_exit_without_close_stores_everything() {
    for way in ["sys.exit(0)", "pass", "raise SystemExit(0)"] {
        let place = Place::new();
        place.python(&format!("os.environ['INTERVAL'] = '60s'\nURI = URI.replace('100ms', '60s')\nc = connect(URI)\nc.execute('PRAGMA journal_mode=WAL')\nc.execute('CREATE TABLE t(who, n)')\ninsert(c, 'x', 100)\n{way}\n"));
        place.assert_all(100);
    }
}

// Goal: how a container stops: SIGTERM, some seconds, SIGKILL, its disk gone. With `litestream_shutdown` in the host's own
// handler nothing is lost; without it at most one interval and one upload. Method: a writer that says when what was
// committed; the replica alone is left.
#[test]
fn a_container_that_stops_loses_nothing_where_it_says_so() {
    for handler in [
        "c.execute('SELECT litestream_shutdown(8)').fetchall()",
        "import ctypes; ctypes.CDLL(os.environ['LIBRARY']).litestream_shutdown(8000)",
        "",
    ] {
        let place = Place::new();
        let (before, handles) =
            if handler.is_empty() { ("", "pass\n") } else { (handler, "signal.signal(signal.SIGTERM, stop)\n") };
        let before = if before.is_empty() { "pass" } else { before };
        let said = place.python(&format!(
            "reader, writer = os.pipe()\n\
             def serves():\n\
             \x20   URI_ = URI.replace('100ms', '1s')\n\
             \x20   c = connect(URI_)\n\
             \x20   c.execute('PRAGMA journal_mode=WAL')\n\
             \x20   c.execute('CREATE TABLE t(who, n)')\n\
             \x20   going = True\n\
             \x20   def stop(*_):\n\
             \x20       nonlocal going\n\
             \x20       going = False\n\
             \x20   {handles}\
             \x20   while going:\n\
             \x20       insert(c, 'x', 1)\n\
             \x20       os.write(writer, b'%.3f\\n' % time.time())\n\
             \x20       time.sleep(0.002)\n\
             \x20   {before}\n\
             \x20   time.sleep(30)\n\
             pid = child(serves)\n\
             time.sleep(2.6)\n\
             terminated = time.time()\n\
             os.kill(pid, signal.SIGTERM)\n\
             if {waits}: time.sleep(2)\n\
             try: os.kill(pid, signal.SIGKILL)\n\
             except ProcessLookupError: pass\n\
             os.waitpid(pid, 0)\n\
             os.close(writer)\n\
             said = b''\n\
             while True:\n\
             \x20   more = os.read(reader, 65536)\n\
             \x20   if not more: break\n\
             \x20   said += more\n\
             times = [float(t) for t in said.split()]\n\
             print(len(times), len([t for t in times if t < terminated - 2]))\n",
            waits = if handler.is_empty() { "False" } else { "True" },
        ));
        let (all, old) = said.trim().split_once(' ').unwrap();
        let (all, old): (i64, i64) = (all.parse().unwrap(), old.parse().unwrap());
        for name in ["app.db", "app.db-wal", "app.db-shm"] {
            std::fs::remove_file(place.folder.path().join(name)).unwrap();
        }
        std::fs::remove_dir_all(place.folder.path().join(".app.db-litestream")).unwrap();
        let left = place.replicated();
        if handler.is_empty() {
            assert!(left >= old && old > 0, "{left} rows of {all} are left; {old} were older than 2 s");
        } else {
            // The kill may come between a commit and its word.
            assert!(left >= all, "{left} rows of {all} are left after {handler}");
        }
    }
}

// Goal: no thread without work: none after the load and an open, none left by a restore, none for a reader that cannot
// write, none soon after the last close. Method: the process's own list of threads.
#[test]
fn a_thread_lives_only_while_there_is_work() {
    let place = Place::new();
    place.python("c = begin()\ninsert(c, 'x', 10)\n");
    place.python(
        "alone = threads()\n\
         assert len(alone) == 1, alone\n\
         c = connect()\n\
         assert threads() == alone, ('after an open', threads())\n\
         c.close()\n\
         c = connect(URI + '&mode=ro')\n\
         c.execute('SELECT count(*) FROM t').fetchall()\n\
         assert threads() == alone, ('a reader that cannot write', threads())\n\
         c.close()\n",
    );
    for name in ["app.db", ".app.db-litestream"] {
        let path = place.folder.path().join(name);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    place.python(
        "alone = threads()\n\
         c = connect()\n\
         assert os.path.getsize('app.db') > 0, 'restored by the open'\n\
         assert threads() == alone, ('after a restore', threads())\n\
         assert c.execute('SELECT count(*) FROM t').fetchone()[0] == 10\n\
         insert(c, 'y', 10)\n\
         c.execute('SELECT litestream_sync(20)').fetchall()\n\
         assert len(threads()) > 1, 'somebody works'\n\
         c.close()\n\
         for _ in range(500):\n\
         \x20   if threads() == alone: break\n\
         \x20   time.sleep(0.01)\n\
         assert threads() == alone, ('5 s after the last close', threads())\n",
    );
    place.assert_all(20);
}
