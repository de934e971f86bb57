//! Hosts whose SQLite checks a restored copy on a thread of ours: what its connection cannot know, a close, a fork and an
//! exit in the middle, a SQLite that knows no threads.
//!
//! Scripts in Debian's Python, bounded in time. Verdicts on sound and damaged databases are `tests/validation.rs`'s.

#![allow(clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
#[path = "support/members.rs"]
mod members;
mod support;

use host::Place;
use std::time::{SystemTime, UNIX_EPOCH};

/// What every script begins with: `slow` makes a database whose check takes `rows` times some 25 µs, and small pieces of
/// SQLite's memory all the time: columns that are computed, behind the back of SQLite, which would check them at once.
const PRELUDE: &str = "plain, VALIDATED = connect, URI + '&validation-interval=300ms'\n\
    def connect():\n\
    \x20   return plain(VALIDATED)\n\
    def said(c):\n\
    \x20   return c.execute('SELECT validation FROM litestream_status').fetchone()[0] or ''\n\
    def validated(c):\n\
    \x20   c.execute('SELECT litestream_sync(20)').fetchall()\n\
    \x20   last = c.execute('SELECT litestream_txid()').fetchone()[0]\n\
    \x20   while last not in said(c): time.sleep(0.01)\n\
    \x20   return said(c)\n\
    def slow(rows):\n\
    \x20   c = connect()\n\
    \x20   c.execute('PRAGMA journal_mode=WAL')\n\
    \x20   c.execute('CREATE TABLE t(x)')\n\
    \x20   c.execute('PRAGMA writable_schema = ON')\n\
    \x20   c.execute('BEGIN')\n\
    \x20   c.execute('WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT %d) INSERT INTO t SELECT x FROM n' % rows)\n\
    \x20   slow = ', '.join(['c%d AS (length(hex(zeroblob(x %% %d)))) NOT NULL' % (n, n) for n in range(2, 52)])\n\
    \x20   c.execute('UPDATE sqlite_schema SET sql = ?', ['CREATE TABLE t(x, %s)' % slow])\n\
    \x20   c.execute('COMMIT')\n\
    \x20   while 'litestream-sql' not in threads(): time.sleep(0.01)\n\
    \x20   time.sleep(0.1)\n\
    \x20   return c\n";

fn python(script: &str) -> String {
    Place::new().python(&format!("{PRELUDE}{script}"))
}

/// Goal: what only the application's own connection knows is not called damage. Method: an index and a column
/// with its functions, a collation of its own.
#[test]
fn what_only_the_application_knows_is_no_damage() {
    let said = python(
        "c = begin()\n\
         c.create_function('mine', 1, lambda x: x, deterministic=True)\n\
         c.create_collation('theirs', lambda a, b: (a > b) - (a < b))\n\
         for sql in ['CREATE TABLE e(x)', 'CREATE INDEX ei ON e(mine(x))', 'INSERT INTO e VALUES(1)']: c.execute(sql)\n\
         print(validated(c))\n\
         for sql in ['CREATE TABLE f(x, y AS (mine(x)) NOT NULL)', 'INSERT INTO f(x) VALUES(1)']: c.execute(sql)\n\
         print(validated(c))\n\
         for sql in ['DROP TABLE f', 'CREATE TABLE g(x COLLATE theirs)', 'CREATE INDEX gi ON g(x)', \"INSERT INTO g VALUES('a')\"]: c.execute(sql)\n\
         print(validated(c))\n\
         c.execute('DROP TABLE g')\n\
         print(validated(c))\n",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 4 && lines.iter().all(|line| line.starts_with("ok at")), "{said}");
    let unknown = "equal to the database, not checked by quick_check: ";
    assert!(lines[1].ends_with(&format!("{unknown}unknown function: mine()")), "{said}");
    assert!(lines[2].ends_with(&format!("{unknown}no such collation sequence: theirs")), "{said}");
    assert!(lines[3].ends_with("quick_check ok"), "{said}");
}

/// Goal: after its last close a host may shut SQLite down, whatever was being checked. Method: a close in the middle of a
/// check of half a minute; no thread is left inside SQLite, which is shut down and used again.
#[test]
fn a_last_close_ends_a_check_at_once() {
    python(
        "import ctypes\n\
         c = slow(1000000)\n\
         other = connect()\n\
         c.close()\n\
         assert 'litestream-sql' in threads(), 'the last close counts'\n\
         began = time.time()\n\
         other.execute('SELECT 1 FROM t LIMIT 1').fetchall()\n\
         other.close()\n\
         took = time.time() - began\n\
         time.sleep(0.05)\n\
         assert 'litestream-sql' not in threads(), threads()\n\
         assert took < 1, took\n\
         sqlite = ctypes.CDLL('libsqlite3.so.0')\n\
         assert sqlite.sqlite3_shutdown() == 0\n\
         time.sleep(1)\n\
         c = sqlite3.connect('app.db')\n\
         assert c.execute('SELECT count(*) FROM t').fetchone()[0] == 1000000\n",
    );
}

/// Goal: a child of a fork finds SQLite's mutexes free, and the check goes on in the parent. Method: 200 forks while a
/// check allocates all the time; each child opens a database of its own and writes.
#[test]
fn a_fork_in_the_middle_of_a_check_harms_neither_side() {
    let said = python(
        "c = slow(200000)\n\
         during = slowest = 0\n\
         def work():\n\
         \x20   d = sqlite3.connect(':memory:')\n\
         \x20   d.execute('CREATE TABLE t(x)')\n\
         \x20   d.execute('INSERT INTO t VALUES(1)')\n\
         end = time.time() + 20\n\
         while during < 200 and time.time() < end:\n\
         \x20   during += 'litestream-sql' in threads()\n\
         \x20   began = time.time()\n\
         \x20   pid = child(work)\n\
         \x20   slowest = max(slowest, time.time() - began)\n\
         \x20   ended(pid, 5)\n\
         assert during > 30, during\n\
         assert slowest < 0.5, slowest\n\
         print(validated(c))\n",
    );
    assert!(said.trim_end().ends_with("quick_check ok"), "{said}");
}

/// Goal: a process that ends does not wait for a check. Method: an exit in the middle of one of half a minute.
#[test]
fn an_exit_in_the_middle_of_a_check_is_quick() {
    let at = python("c = slow(1000000)\nprint(time.time())\n");
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let took = ended - at.trim().parse::<f64>().unwrap();
    assert!(took < 3.0, "{took} s");
}

/// Goal: a SQLite that the application set to one thread is not called on ours. Method: `SQLITE_CONFIG_SINGLETHREAD`, before
/// SQLite was first initialized (in a process that begins once more) and after a shutdown.
#[test]
fn a_sqlite_of_one_thread_is_left_alone() {
    let before = "if 'ONE' not in os.environ:\n\
        \x20   os.environ['ONE'] = '1'\n\
        \x20   first = 'import ctypes\\nassert ctypes.CDLL(\"libsqlite3.so.0\").sqlite3_config(1) == 0\\n'\n\
        \x20   os.execv(sys.executable, [sys.executable, '-c', first + sys.orig_argv[2]])\n";
    let after = "import ctypes\n\
         sqlite = ctypes.CDLL('libsqlite3.so.0')\n\
         assert sqlite.sqlite3_shutdown() == 0\n\
         assert sqlite.sqlite3_config(1) == 0\n\
         assert sqlite.sqlite3_initialize() == 0\n\
         load().close()\n";
    let unknown = "not checked by quick_check: the application has set SQLite to a single thread";
    for way in [before, after] {
        let said = python(&format!("{way}c = begin()\nprint(validated(c))\n"));
        assert!(said.trim_end().ends_with(unknown), "{way}: {said}");
    }
}
