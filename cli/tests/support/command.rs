//! The built command line, run as a script runs it.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use std::process::Command;

/// How a run ended and what it said.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Run {
    let done = Command::new(env!("CARGO_BIN_EXE_litestream-vfs")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: done.status.code().unwrap(), out: text(done.stdout), err: text(done.stderr) }
}

/// The first line on stderr of a run that must fail with 1 and print nothing.
pub fn refused(arguments: &[&str]) -> String {
    let run = run(arguments);
    assert_eq!((run.code, run.out.as_str()), (1, ""), "{arguments:?}: {}", run.err);
    run.err.lines().next().unwrap_or_default().to_string()
}
