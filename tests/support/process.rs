//! Another process with a replicated database: Debian's Python, which runs one statement a line as it is told.
//!
//! Killed, or asked to end, when the test says so; killed by its pid where a test ends without saying.
#![allow(dead_code, clippy::unwrap_used)]

use crate::replicated::{Place, credentials, same_pages};
use crate::support::library;
use litestream_engine::plan::Target;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after it was asked to.
const END: Duration = Duration::from_secs(40);

const DRIVER: &str = r#"
import json, os, sqlite3, sys
loader = sqlite3.connect(':memory:')
loader.enable_load_extension(True)
loader.execute('SELECT load_extension(?)', [os.environ['LIBRARY']])
db = None
def open_database(uri):
    global db
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20)
if os.environ['DATABASE']:
    open_database(os.environ['DATABASE'])
print('ready', flush=True)
for line in sys.stdin:
    try:
        sql = json.loads(line)
        if sql.startswith('open '):
            open_database(sql[5:])
            db.execute('SELECT count(*) FROM sqlite_master')
            print(json.dumps([]), flush=True)
        elif ';' in sql:
            db.executescript(sql)
            print(json.dumps([]), flush=True)
        else:
            print(json.dumps(db.execute(sql).fetchall()), flush=True)
    except sqlite3.Error as e:
        print(json.dumps({'error': str(e)}), flush=True)
if db:
    db.close()
"#;

/// A running process with one connection.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Opens the database of a place in a process of its own.
    #[track_caller]
    pub fn start(place: &Place) -> Process {
        Process::start_uri(&place.uri())
    }

    #[track_caller]
    pub fn start_uri(uri: &str) -> Process {
        Process::start_with(uri, &[])
    }

    /// After a sync the replica is the database. It is restored before anybody else reads the database.
    #[track_caller]
    pub fn is_stored(&mut self, place: &Place) {
        self.sql("SELECT litestream_sync(60)");
        let restored = place.restored(Target::Latest);
        same_pages(&place.image(), &restored);
    }

    /// A process that has the library loaded and opened nothing.
    pub fn idle() -> Process {
        Process::start_with("", &[])
    }

    /// Opens a database: the error that this ends in, if it does.
    pub fn open(&mut self, uri: &str) -> Option<String> {
        self.say(&format!("open {uri}"));
        let answer: serde_json::Value = serde_json::from_str(&self.line()).unwrap();
        answer["error"].as_str().map(str::to_string)
    }

    /// Opens a database and gives the error that this must end in.
    #[track_caller]
    pub fn open_error(&mut self, uri: &str) -> String {
        self.open(uri).unwrap_or_else(|| panic!("{uri} was opened"))
    }

    /// With variables of its own.
    #[track_caller]
    pub fn start_with(uri: &str, variables: &[(&str, &str)]) -> Process {
        Process::spawn(Command::new("/usr/bin/python3"), uri, variables)
    }

    /// In a PID namespace of its own, as in a container. The process that is killed is `unshare`, and all with it.
    #[track_caller]
    pub fn start_in_namespace(uri: &str) -> Process {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg("/usr/bin/python3");
        Process::spawn(command, uri, &[])
    }

    /// As if `statfs` told of another kind of file system: its number in `linux/magic.h`.
    pub fn start_on(kind: u32, uri: &str) -> Process {
        let number = u64::from(kind).swap_bytes();
        let mut command = Command::new("strace");
        let poke = format!("inject=statfs:poke_exit=@arg2={number:016x}");
        command.args(["--quiet=all", "-f", "-o", "/dev/null", "-e", "trace=statfs", "-e", &poke, "/usr/bin/python3"]);
        Process::spawn(command, uri, &[])
    }

    /// True where it opened the database; `false` where it was killed in there.
    pub fn try_start(uri: &str, variables: &[(&str, &str)]) -> bool {
        let mut process = Process::start_with("", variables);
        process.say(&format!("open {uri}"));
        !process.line().is_empty()
    }

    #[track_caller]
    fn spawn(mut command: Command, uri: &str, variables: &[(&str, &str)]) -> Process {
        let mut child = command
            .args(["-c", DRIVER])
            .envs(credentials())
            .envs(variables.iter().copied())
            .env("LIBRARY", library())
            .env("DATABASE", uri)
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("LITESTREAM_REPLICA_URL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Process { child, input, output };
        assert_eq!(process.line(), "ready", "{uri}");
        process
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_string()
    }

    /// Runs a statement (several where it has a `;`), and gives its rows.
    #[track_caller]
    pub fn sql(&mut self, sql: &str) -> serde_json::Value {
        self.say(sql);
        let answer = self.line();
        let rows: serde_json::Value =
            serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{sql}: {answer:?}: {e}"));
        assert!(rows.is_array(), "{sql}: {rows}");
        rows
    }

    /// The answer to what was said: rows, or an object with `error`.
    #[track_caller]
    pub fn answer(&mut self) -> serde_json::Value {
        let answer = self.line();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{answer:?}: {e}"))
    }

    /// Tells it a statement and does not wait.
    pub fn say(&mut self, sql: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{}", serde_json::Value::from(sql)).unwrap();
    }

    /// One line of `/proc/PID/status`, in KiB.
    pub fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Asks it to close its connection and end, and waits: it must end well.
    #[track_caller]
    pub fn end(mut self) {
        drop(self.input.take());
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < END, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "it ended with {status}");
    }

    /// Waits until a fault that it was started with has killed it.
    #[track_caller]
    pub fn dies(mut self) {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < END, "it lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nobody asks a process that its test forgot.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
