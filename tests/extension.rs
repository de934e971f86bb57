//! The extension through its own door: the built library, loaded by Debian's `sqlite3` shell, by Debian's Python and
//! by a Rust program with a SQLite of its own.
//!
//! Owns what a host sees of the shim: opening, errors, SQL, other connections left in peace, forks, and the guard against
//! the WAL-reset bug. Loading is in `tests/doors.rs`; what is replicated is tested elsewhere.
#![allow(clippy::unwrap_used)]

mod support;

use rusqlite::Connection;
use std::path::Path;
use support::{compile, python, run, shell};

/// A folder of the test's own, and the URI of a database in it that is replicated to a folder beside it.
fn place() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let uri = uri(folder.path(), "app");
    (folder, uri)
}

fn uri(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    format!("file:{folder}/{name}.db?vfs=litestream&replica=file://{folder}/replica-{name}")
}

/// Goal: the shell's first minute works. Method: load, open, write, look at everything that SQL offers.
#[test]
fn the_shell_loads_opens_writes_and_asks() {
    let (folder, uri) = place();
    let said = shell(
        folder.path(),
        &format!(
            "SELECT 'version', litestream_version();\n.open '{uri}'\n.vfsname\nPRAGMA journal_mode=WAL;\n\
             CREATE TABLE t(a); INSERT INTO t VALUES(1),(2);\nSELECT 'synced', length(litestream_sync(20));\n\
             SELECT 'rows', count(*), group_concat(substr(database, -6)) FROM litestream_status;\n\
             SELECT 'lag', litestream_lag() IS NULL OR litestream_lag() >= 0;\nPRAGMA litestream_sync=20;\n\
             PRAGMA litestream_status;\nSELECT 'sum', sum(a) FROM t;\n"
        ),
    );
    assert_eq!(said.err, "");
    let out = said.ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("version|0."), "{out}");
    assert_eq!(lines[1..6], ["litestream/unix", "wal", "synced|16", "rows|1|app.db", "lag|1"], "{out}");
    assert_eq!(lines[6].len(), 16, "{out}");
    assert!(lines[7].starts_with("{\"database\":\"") && lines[7].contains("\"txid_stored\":"), "{out}");
    assert_eq!(lines[8], "sum|3");
}

/// Goal: the table's columns are what is promised. Method: ask SQLite for them.
#[test]
fn the_status_table_has_its_columns() {
    let (folder, _) = place();
    let out = shell(folder.path(), "SELECT group_concat(name) FROM pragma_table_info('litestream_status');\n").ok();
    let columns =
        "database,replica,txid_captured,txid_stored,lag,bytes_pending,spool_bytes,state,last_error,since,validation";
    assert_eq!(out.trim(), columns);
}

/// Goal: a wait never holds the write lock, by function and by PRAGMA. Method: ask inside BEGIN IMMEDIATE, then after.
#[test]
fn a_sync_inside_a_write_transaction_is_an_error_at_once() {
    let (folder, uri) = place();
    let script = format!(
        "load()\nfor mode in ['wal', 'delete']:\n\
         \x20 c = sqlite3.connect('{uri}', uri=True, isolation_level=None)\n\
         \x20 c.execute('PRAGMA journal_mode=' + mode); c.execute('CREATE TABLE IF NOT EXISTS t(a)')\n\
         \x20 for sql in ['SELECT litestream_sync()', 'PRAGMA litestream_sync', 'SELECT litestream_shutdown(1)']:\n\
         \x20   c.execute('BEGIN IMMEDIATE'); c.execute('INSERT INTO t VALUES(1)')\n\
         \x20   began = time.time()\n\
         \x20   try: c.execute(sql).fetchall(); print('no error', mode, sql)\n\
         \x20   except sqlite3.Error as e: print('COMMIT first' in str(e), time.time() - began < 1)\n\
         \x20   c.execute('COMMIT')\n\
         \x20 print(len(c.execute('SELECT litestream_sync(20)').fetchall()[0][0]), len(c.execute('PRAGMA litestream_sync').fetchall()[0][0]))\n\
         \x20 c.close()\n"
    );
    let one = "True True\nTrue True\nTrue True\n16 16\n";
    assert_eq!(python(folder.path(), &script).ok(), format!("{one}{one}"));
}

/// Goal: wrong arguments are sentences. Method: a text, a negative time, an unknown PRAGMA, no replica to sync.
#[test]
fn wrong_arguments_are_answered_with_a_sentence() {
    let (folder, uri) = place();
    let script = format!(
        "p = load()\nc = sqlite3.connect('{uri}', uri=True)\n\
         for db, sql in [(c, \"SELECT litestream_sync('soon')\"), (c, 'SELECT litestream_sync(-1)'), \
         (c, 'PRAGMA litestream_stauts'), (p, 'SELECT litestream_sync()')]:\n\
         \x20 try: print(db.execute(sql).fetchall())\n\
         \x20 except sqlite3.Error as e: print(e)\n"
    );
    let out = python(folder.path(), &script).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("must be a number of seconds"), "{out}");
    assert!(lines[1].contains("`-1` is not a time"), "{out}");
    assert!(lines[2].contains("no PRAGMA litestream_stauts") && lines[2].contains("litestream_status"), "{out}");
    assert!(lines[3].contains("no database of this connection is replicated"), "{out}");
}

/// Goal: why an open failed reaches the person, everywhere a person looks. Method: an open without locks, by the shell,
/// by Python twice (stderr once), and by ATTACH, which has no text of ours but must fail and be logged.
#[test]
fn a_failed_open_says_why() {
    let (folder, uri) = place();
    let bad = format!("{uri}&nolock=1");
    let said = shell(folder.path(), &format!(".open '{bad}'\n"));
    let sentence = "automatic extension loading failed: litestream: ";
    assert!(said.err.contains(sentence) && said.err.contains("`nolock=1` takes no locks"), "{said:?}");

    let script = format!(
        "load()\nfor n in range(2):\n\
         \x20 try: sqlite3.connect('{bad}', uri=True); print('opened')\n\
         \x20 except sqlite3.OperationalError as e: print(e)\n\
         c = sqlite3.connect(':memory:')\n\
         try: c.execute(\"ATTACH '{bad}' AS x\"); print('attached')\n\
         except sqlite3.OperationalError as e: print(e)\n\
         print(c.execute('PRAGMA database_list').fetchall(), os.path.exists('app.db'))\n"
    );
    let said = python(folder.path(), &script);
    let told = said.err.matches("`nolock=1` takes no locks").count();
    let out = said.ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with(sentence) && lines[0] == lines[1], "{out}");
    assert!(lines[2].contains("unable to open database"), "{out}");
    assert_eq!(lines[3], "[(0, 'main', '')] False");
    assert_eq!(told, 1, "once on stderr");
}

/// Goal: `vfs=litestream` without a replica is an error with its remedy, and `replica=off` is the way to want none.
#[test]
fn a_database_without_a_replica_is_an_error_unless_none_is_wanted() {
    let (folder, _) = place();
    let script = "load()\n\
        try: sqlite3.connect('file:a.db?vfs=litestream', uri=True); print('opened')\n\
        except sqlite3.OperationalError as e: print('replica' in str(e), os.path.exists('a.db'))\n\
        c = sqlite3.connect('file:a.db?vfs=litestream&replica=off', uri=True); c.execute('CREATE TABLE t(a)')\n\
        print(c.execute('SELECT count(*) FROM litestream_status').fetchone(), os.path.exists('a.db'))\n\
        c = sqlite3.connect('file:b.db?vfs=litestream&replica=off&nolock=1', uri=True); c.execute('CREATE TABLE t(a)')\n\
        print(os.path.exists('b.db'))\n";
    assert_eq!(python(folder.path(), script).ok(), "True False\n(0,) True\nTrue\n");
}

/// Goal: no other connection is disturbed. Method: the same script before and after the load, by every other kind of
/// open; nothing of ours is seen there, and no thread is started.
#[test]
fn other_connections_open_exactly_as_before() {
    let (folder, _) = place();
    let script = "def others():\n\
        \x20 told = []\n\
        \x20 for name in [':memory:', '', 'plain.db', 'file:plain.db?vfs=unix', 'file:ro.db?mode=ro', 'file:m?mode=memory&cache=shared',\n\
        \x20              'file:plain.db?vfs=unix-dotfile', 'file:plain.db?vfs=unix-none&immutable=1', 'file:x.db?vfs=nonsense', 'no/such/dir.db']:\n\
        \x20   try:\n\
        \x20     c = sqlite3.connect(name, uri=True)\n\
        \x20     c.execute('CREATE TABLE IF NOT EXISTS t(a)'); c.execute('SELECT * FROM t').fetchall()\n\
        \x20     told.append((name, [m[0] for m in c.execute('PRAGMA module_list')], c.execute('PRAGMA journal_mode').fetchall(),\n\
        \x20       c.execute(\"SELECT name FROM pragma_function_list WHERE name LIKE 'litestream%'\").fetchall(), c.execute('PRAGMA litestream_status').fetchall()))\n\
        \x20   except sqlite3.Error as e: told.append((name, str(e)))\n\
        \x20 return told\n\
        before = others(); l = load(); after = others()\n\
        print(before == after, len(before), len(os.listdir('/proc/self/task')))\n\
        if before != after: print(before, after)\n";
    assert_eq!(python(folder.path(), script).ok(), "True 10 1\n");
}

/// Goal: files beside a replicated database are the base's own. Method: temporary tables and indexes, a rollback journal,
/// a super-journal over two databases, VACUUM and VACUUM INTO.
#[test]
fn every_kind_of_file_works_beside_a_replicated_one() {
    let (folder, first) = place();
    let second = uri(folder.path(), "second");
    let script = format!(
        "load()\nc = sqlite3.connect('{first}', uri=True, isolation_level=None)\n\
         c.execute('PRAGMA cache_size=5'); c.execute('PRAGMA temp_store=1')\n\
         c.execute(\"ATTACH '{second}' AS b\")\n\
         c.execute('CREATE TABLE t(a)'); c.execute('CREATE TABLE b.t(a)'); c.execute('CREATE TEMP TABLE s(a)')\n\
         c.execute('BEGIN')\n\
         for n in range(2000): c.execute('INSERT INTO t VALUES(randomblob(500))')\n\
         c.execute('INSERT INTO b.t SELECT a FROM t'); c.execute('INSERT INTO s SELECT a FROM t ORDER BY a'); c.execute('COMMIT')\n\
         c.execute('BEGIN'); c.execute('DELETE FROM t'); c.execute('DELETE FROM b.t'); c.execute('ROLLBACK')\n\
         c.execute('VACUUM'); c.execute(\"VACUUM INTO 'into.db'\")\n\
         print([c.execute('SELECT count(*) FROM ' + t).fetchone()[0] for t in ['t', 'b.t', 's']], c.execute('SELECT count(*) FROM litestream_status').fetchone())\n\
         print(c.execute('PRAGMA integrity_check').fetchall(), sqlite3.connect('into.db').execute('SELECT count(*) FROM t').fetchall())\n\
         c.close()\n\
         print(sorted(name for name in os.listdir('.') if 'journal' in name or '-mj' in name))\n"
    );
    assert_eq!(python(folder.path(), &script).ok(), "[2000, 2000, 2000] (2,)\n[('ok',)] [(2000,)]\n[]\n");
}

/// Goal: reads through memory-mapped pages work. Method: mmap on, in WAL and after a checkpoint, from two connections.
#[test]
fn mapped_reads_see_what_was_written() {
    let (folder, uri) = place();
    let script = format!(
        "load()\na = sqlite3.connect('{uri}', uri=True, isolation_level=None); b = sqlite3.connect('{uri}', uri=True)\n\
         for c in (a, b): print(c.execute('PRAGMA mmap_size=100000000').fetchall())\n\
         a.execute('PRAGMA journal_mode=WAL'); a.execute('CREATE TABLE t(a)')\n\
         for n in range(300):\n\
         \x20 a.execute('INSERT INTO t VALUES(zeroblob(3000))')\n\
         \x20 if n % 50 == 0: a.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n\
         \x20 assert b.execute('SELECT count(*), sum(length(a)) FROM t').fetchone() == (n + 1, 3000 * (n + 1))\n\
         print('mapped', any('app.db' in l and 'app.db-' not in l for l in open('/proc/self/maps')))\n"
    );
    assert_eq!(python(folder.path(), &script).ok(), "[(100000000,)]\n[(100000000,)]\nmapped True\n");
}

/// Goal: two copies of SQLite in one process each work with their own functions. Method: this program's own (bundled)
/// and Debian's shared library, loaded side by side; both open replicated databases and call the SQL functions.
#[test]
fn two_copies_of_sqlite_in_one_process_each_work() {
    let (folder, uri_of_first) = place();
    let loader = support::load();
    let other = support::other_sqlite::Other::load();
    let second = uri(folder.path(), "second");
    let first = Connection::open(&uri_of_first).unwrap();
    assert_eq!(other.texts(&second, "CREATE TABLE t(a); INSERT INTO t VALUES(7)"), Vec::<String>::new());
    first.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(5)").unwrap();
    let versions = first.query_row("SELECT sqlite_version(), litestream_version()", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    });
    let (bundled, ours) = versions.unwrap();
    let told = other.texts(
        &second,
        "SELECT litestream_version(); SELECT sqlite_version(); SELECT a FROM t; \
                                     SELECT count(*) FROM litestream_status; SELECT length(litestream_sync(20))",
    );
    assert_eq!((told[0].as_str(), &told[2..]), (ours.as_str(), &["7".to_string(), "1".into(), "16".into()][..]));
    assert_ne!(told[1], bundled, "the two are the same copy: this test shows nothing");
    let rows: i64 = first.query_row("SELECT count(*) FROM litestream_status", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
    first.close().unwrap();
    // Both copies share one replication: what is left is stored before the folder goes.
    let left: i64 = loader.query_row("SELECT litestream_shutdown(20)", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// Goal: application servers that fork. Method: 12 children while no commit runs discard the inherited connections as
/// sqlite3-ruby does and commit by their own; 12 children in the middle of commits only leave.
#[test]
fn a_forked_child_leaves_or_starts_afresh_and_the_parent_goes_on() {
    for mode in ["quiet", "busy"] {
        let (folder, uri) = place();
        let discard = compile(folder.path(), "discard");
        let out = run(folder.path(), &discard, &[&uri, "12", mode], "").ok();
        let inserted: i64 = out.split_whitespace().next().unwrap().parse().unwrap();
        let children = if mode == "quiet" { 12 } else { 0 };
        let found = run(
            folder.path(),
            "sqlite3",
            &[
                "app.db",
                "SELECT count(*) FILTER (WHERE who='parent'), count(*) FILTER (WHERE who='child') FROM t; PRAGMA integrity_check",
            ],
            "",
        );
        assert_eq!(found.ok(), format!("{inserted}|{children}\nok\n"), "{mode}");
    }
}

/// Goal: a connection that is used and closed by Python in the child does no harm. Method: read and close there, with
/// the collector's help; then the parent writes on, and a new child of a new connection writes too.
#[test]
fn python_may_close_an_inherited_connection_in_the_child() {
    let (folder, uri) = place();
    let script = format!(
        "load()\nc = sqlite3.connect('{uri}', uri=True, isolation_level=None)\n\
         c.execute('PRAGMA journal_mode=WAL'); c.execute('CREATE TABLE t(a)'); c.execute('INSERT INTO t VALUES(1)')\n\
         for n in range(5):\n\
         \x20 pid = os.fork()\n\
         \x20 if pid == 0:\n\
         \x20   assert c.execute('SELECT count(*) FROM t').fetchone()[0] >= 1\n\
         \x20   del c\n\
         \x20   os._exit(0) if n % 2 else sys.exit(0)\n\
         \x20 assert os.waitpid(pid, 0)[1] == 0\n\
         \x20 c.execute('INSERT INTO t VALUES(2)')\n\
         print(c.execute('SELECT count(*), (SELECT count(*) FROM litestream_status) FROM t').fetchall(), c.execute('PRAGMA integrity_check').fetchall())\n"
    );
    assert_eq!(python(folder.path(), &script).ok(), "[(6, 1)] [('ok',)]\n");
}

/// Goal: a script that writes and ends at once stores what it wrote, without waiting for a time limit. Method: 12 such
/// scripts, closing or not; then the database is deleted and opened again.
#[test]
fn a_short_script_stores_everything_at_its_exit() {
    for n in 0..12 {
        let (folder, uri) = place();
        let close = if n % 2 == 0 { "c.close()" } else { "pass" };
        let script = format!(
            "load()\nc = sqlite3.connect('{uri}', uri=True, isolation_level=None)\n\
             c.execute('PRAGMA journal_mode=WAL'); c.execute('CREATE TABLE t(a)'); c.execute('INSERT INTO t VALUES({n})')\n{close}\n"
        );
        let began = std::time::Instant::now();
        let said = python(folder.path(), &script);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
        assert!(began.elapsed() < std::time::Duration::from_secs(15), "{:?}", began.elapsed());
        std::fs::remove_file(folder.path().join("app.db")).unwrap();
        std::fs::remove_dir_all(folder.path().join(".app.db-litestream")).unwrap();
        let again =
            format!("load()\nprint(sqlite3.connect('{uri}', uri=True).execute('SELECT a FROM t').fetchall())\n");
        assert_eq!(python(folder.path(), &again).ok(), format!("[({n},)]\n"));
    }
}

/// Goal: the WAL-reset bug happens in this SQLite, and not above the shim. Method: a VFS above both holds a checkpointer
/// between reading the wal-index and using it, while another connection resets the WAL (tests/c/reset.c).
#[test]
fn the_wal_reset_bug_is_stopped_where_sqlite_has_it() {
    let (folder, uri) = place();
    let reset = compile(folder.path(), "reset");
    let plain = run(folder.path(), &reset, &["file:plain.db?x=1", "unix"], "").ok();
    let guarded = run(folder.path(), &reset, &[&uri.replace("vfs=litestream&", ""), "litestream"], "").ok();
    let version: u32 = plain.trim_start_matches("version=").split(' ').next().unwrap().parse().unwrap();
    if version < 3_051_003 && !(3_044_006..3_045_000).contains(&version) && !(3_050_007..3_051_000).contains(&version) {
        assert!(!plain.contains("found=163") && !plain.contains("integrity=ok"), "the bug did not happen: {plain}");
        assert!(guarded.contains("refused=1"), "{guarded}");
    }
    assert!(guarded.contains("found=163") && guarded.ends_with("replicated=1 integrity=ok\n"), "{guarded}");
}
