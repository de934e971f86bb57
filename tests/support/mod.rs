//! What the integration tests share: the built library, golden sets, and the programs of the system that load it.
//!
//! Every program runs in a folder of the test's own and for a bounded time.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

pub mod golden;
mod library;
pub mod older;
pub mod other_sqlite;

pub use library::{library, load};

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Seconds after which a program that a test started is killed.
const SECONDS_MAX: &str = "120";

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Its output, where it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program in `folder`, bounded in time, without any configuration of the caller's environment.
pub fn run(folder: &Path, program: &str, arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new("timeout")
        .args(["-k", "5", SECONDS_MAX, program])
        .args(arguments)
        .current_dir(folder)
        .env("LIBRARY", library())
        .env_remove("LITESTREAM_REPLICA_URL")
        .env_remove("LITESTREAM_DB")
        .env_remove("LITESTREAM_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends before it has read everything is judged by what it says.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Debian's `sqlite3` shell, with the extension loaded.
pub fn shell(folder: &Path, script: &str) -> Said {
    run(folder, "sqlite3", &["-batch", ":memory:"], &format!(".load {}\n{script}", library().display()))
}

/// Debian's Python, whose `sqlite3` module uses Debian's SQLite. `load(entry=None)` loads the extension.
pub fn python(folder: &Path, script: &str) -> Said {
    let prelude = "import os, sqlite3, sys, time\n\
        def load(entry=None, path=os.environ['LIBRARY']):\n\
        \x20   c = sqlite3.connect(':memory:')\n\
        \x20   c.enable_load_extension(True)\n\
        \x20   c.execute('SELECT load_extension(?, ?)' if entry else 'SELECT load_extension(?)', [path, entry][:1 + bool(entry)])\n\
        \x20   return c\n";
    run(folder, "/usr/bin/python3", &["-c", &format!("{prelude}{script}")], "")
}

/// Compiles `tests/c/NAME.c` against the system's SQLite into `folder`.
pub fn compile(folder: &Path, name: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"));
    let program = folder.join(name);
    let program = program.to_str().unwrap();
    let source = source.to_str().unwrap();
    run(folder, "cc", &["-O1", "-Wall", "-o", program, source, "-lsqlite3", "-lpthread", "-ldl"], "").ok();
    program.to_string()
}
