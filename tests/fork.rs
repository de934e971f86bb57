//! Hosts that fork: gunicorn's and Puma's patterns in Debian's Python. No hang, no crash, no lost row.
//!
//! Every script is bounded in time. What it committed is counted here, in the database and in the replica.

#![allow(clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
#[path = "support/members.rs"]
mod members;
mod support;

use host::{Place, rows};
use std::time::{Duration, Instant};

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
