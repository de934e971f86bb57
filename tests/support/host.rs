//! A host in Debian's Python: scripts that fork, write and end, on a replicated database in a folder of their own.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use crate::members::ledger;
use crate::members::remote::Remote;
use crate::support;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// What every script begins with.
const PRELUDE: &str = r#"
import signal, threading
signal.alarm(90)                                   # whatever hangs dies of it
load().close()
URI = 'file:app.db?vfs=litestream&replica=file://' + os.getcwd() + '/replica&sync-interval=100ms'
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
pub struct Place {
    pub folder: tempfile::TempDir,
    pub remote: Remote,
}

impl Place {
    /// An empty folder.
    pub fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote::folder(folder.path());
        Place { folder, remote }
    }

    /// The database that the scripts work on.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    /// What a script prints that ends well.
    #[track_caller]
    pub fn python(&self, script: &str) -> String {
        support::python(self.folder.path(), &format!("{PRELUDE}{script}")).ok()
    }

    /// Rows in the replica as it is now.
    #[track_caller]
    pub fn replicated(&self) -> i64 {
        let copy = self.folder.path().join("copy.db");
        let _ = std::fs::remove_file(&copy); // of a look before
        self.remote.restore(&copy).unwrap();
        rows(&copy)
    }

    /// The database holds `expected` rows, and so does its replica; page for page they are one.
    #[track_caller]
    pub fn assert_all(&self, expected: i64) {
        assert_eq!(rows(&self.database()), expected, "rows in the database");
        assert_eq!(self.replicated(), expected, "rows in the replica");
        let image = ledger::image(&self.database());
        let restored = std::fs::read(self.folder.path().join("copy.db")).unwrap();
        assert_eq!(ledger::difference(&image, &restored, false), Vec::<usize>::new(), "pages that differ");
    }
}

/// Rows of `t`, in a database that is whole.
#[track_caller]
pub fn rows(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}
