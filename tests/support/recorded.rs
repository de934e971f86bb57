//! Programs under tests/c/record.c: a workload whose file operations are written down or made to fail, and the process
//! that judges what is left. Shared by the tests of power loss and of faults.
#![allow(dead_code, clippy::unwrap_used)]

use crate::support::{library, run};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The application (its own header says more).
const DRIVER: &str = include_str!("driver.py");
/// Seconds after which a driver is killed: a whole test of states runs in one.
const SECONDS_MAX: &str = "1200";

/// A folder for files that are written thousands of times: in memory where the system has such a place.
pub fn memory_folder() -> tempfile::TempDir {
    let place = Path::new("/dev/shm");
    let made = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Compiles the recorder into `folder`.
pub fn recorder(folder: &Path) -> PathBuf {
    let library = folder.join("record.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/record.c");
    let (out, source) = (library.to_str().unwrap(), source.to_str().unwrap());
    run(folder, "cc", &["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", out, source, "-lpthread"], "").ok();
    library
}

/// Debian's Python with the driver, bounded in time, without anything of the caller's configuration.
pub fn driver(role: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", SECONDS_MAX, "/usr/bin/python3", "-c", DRIVER, role])
        .env("LIBRARY", library())
        .env_remove("LITESTREAM_REPLICA_URL")
        .env_remove("LITESTREAM_DB")
        .env_remove("LITESTREAM_LOG");
    command
}

/// A driver that answers one line of JSON with another.
pub struct Answering {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Answering {
    /// What it logs goes to the file `log`: a pipe that nobody reads would stop it.
    pub fn start(mut command: Command, log: &Path) -> Answering {
        let log = std::fs::File::create(log).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut answering = Answering { child, input, output };
        assert_eq!(answering.line(), "ready");
        answering
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&mut self, order: &serde_json::Value) -> serde_json::Value {
        writeln!(self.input.as_mut().unwrap(), "{order}").unwrap();
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{order}: {line:?}: {e}"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_string()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait(); // it ends with its input, or by its time limit
    }
}
