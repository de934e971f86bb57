//! The real Litestream 0.5 as a program: its restore, and its sidecar with intervals short enough for a test.
//!
//! Where it is comes from LITESTREAM_05, which `make test` sets. Knows nothing of our library.
#![allow(dead_code, clippy::unwrap_used)]

use crate::replicated::credentials;
use crate::support::Said;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds for one restore.
const SECONDS_MAX: &str = "60";
/// How long a sidecar may take to end after it was asked to.
const STOP: Duration = Duration::from_secs(20);

fn program() -> PathBuf {
    let named = std::env::var_os("LITESTREAM_05");
    let path = PathBuf::from(named.expect("LITESTREAM_05 must name the real Litestream 0.5.17: `make test` sets it"));
    assert!(path.is_file(), "LITESTREAM_05 names {}, which is not there: `make test` installs it", path.display());
    path
}

fn command(mut command: Command) -> Command {
    command.env_remove("AWS_CA_BUNDLE").envs(credentials()).stdin(Stdio::null());
    command
}

/// `litestream restore -o OUT ARGUMENTS URL`.
pub fn restore(url: &str, arguments: &[&str], out: &Path) -> Said {
    let mut run = Command::new("timeout");
    run.args(["-k", "5", SECONDS_MAX]).arg(program()).args(["restore", "-o"]).arg(out).args(arguments).arg(url);
    command(run).output().unwrap().into()
}

/// What its restore makes of a replica; nothing where it answers with an error.
pub fn restored(url: &str, arguments: &[&str], out: &Path) -> Result<Vec<u8>, String> {
    outcome(restore(url, arguments, out), out)
}

/// What a restore into `out` left there, which is taken away; what it said, where it failed.
pub fn outcome(said: Said, out: &Path) -> Result<Vec<u8>, String> {
    if said.code != Some(0) {
        assert!(!out.exists(), "it failed and left {}", out.display());
        return Err(said.err);
    }
    let bytes = std::fs::read(out).unwrap();
    std::fs::remove_file(out).unwrap();
    Ok(bytes)
}

/// What a sidecar does, and how often.
pub struct Intervals {
    pub levels: [&'static str; 2],
    pub snapshot: &'static str,
    pub snapshot_retention: &'static str,
    pub l0_retention: &'static str,
}

/// A running `litestream replicate`, stopped by its pid when dropped.
pub struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Sidecar {
    /// Replicates the database at `path` as the lines of `replica` say (YAML, a key each).
    pub fn start(path: &Path, replica: &[String], intervals: &Intervals) -> Sidecar {
        let [first, second] = intervals.levels;
        let lines: Vec<String> = replica.iter().map(|line| format!("      {line}")).collect();
        let config = format!(
            "levels:\n  - interval: {first}\n  - interval: {second}\n\
             snapshot:\n  interval: {}\n  retention: {}\n\
             l0-retention: {}\nl0-retention-check-interval: 1s\n\
             dbs:\n  - path: {}\n    monitor-interval: 150ms\n    min-checkpoint-page-count: 60\n    replica:\n      sync-interval: 200ms\n{}\n",
            intervals.snapshot,
            intervals.snapshot_retention,
            intervals.l0_retention,
            path.display(),
            lines.join("\n")
        );
        let (file, log) = (path.with_extension("yml"), path.with_extension("sidecar-log"));
        std::fs::write(&file, config).unwrap();
        let out = std::fs::File::create(&log).unwrap();
        let mut run = Command::new(program());
        run.args(["replicate", "-config"]).arg(&file).stdout(out.try_clone().unwrap()).stderr(out);
        Sidecar { child: command(run).spawn().unwrap(), log }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end and waits for that: it stores what is committed first.
    pub fn stop(mut self) -> String {
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself:\n{}", self.log());
        self.signal("-TERM");
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < STOP, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.log()
    }

    fn signal(&self, signal: &str) {
        // Where it is gone already, there is nobody to be told.
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).stderr(Stdio::null()).status();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("-KILL");
            // Killed and collected, so that no process is left.
            let _ = self.child.wait();
        }
    }
}
