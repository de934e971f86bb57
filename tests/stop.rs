//! Hosts that stop: an exit without a close, a container's SIGTERM and SIGKILL, the last close. No lost row where the host
//! says so, no thread without work.
//!
//! Scripts in Debian's Python, bounded in time. What they committed is counted here, in the database and in the replica.

#![allow(clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
#[path = "support/members.rs"]
mod members;
mod support;

use host::Place;

// Goal: a normal exit without any close stores everything. Method: a long interval, so that only the exit can have done it.
#[test]
fn an_exit_without_close_stores_everything() {
    for way in ["sys.exit(0)", "pass", "raise SystemExit(0)"] {
        let place = Place::new();
        place.python(&format!("URI = URI.replace('100ms', '60s')\nc = connect(URI)\nc.execute('PRAGMA journal_mode=WAL')\nc.execute('CREATE TABLE t(who, n)')\ninsert(c, 'x', 100)\n{way}\n"));
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
        let (before, handles) = match handler {
            "" => ("pass", "pass\n"),
            handler => (handler, "signal.signal(signal.SIGTERM, stop)\n"),
        };
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
