//! Processes that a test starts, listens to and kills: this test program itself, run again with a role.
//!
//! A member says on its standard output what it may count on (`@C 12`: transaction 12 committed; `@S 12`: everything up
//! to it is stored; `@T 1f`: the status calls this Txid stored; `@E …`: what must not happen), one line in one write, so
//! what it said before a SIGKILL counts. It leaves when its standard input ends, hence also with the test.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest that a member may take to leave after it was asked to.
const LEAVE: Duration = Duration::from_secs(60);

/// What a member said.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    pub committed: i64,
    pub stored: i64,
    pub txid: u64,
    pub wrong: Vec<String>,
    pub notes: Vec<String>,
    pub answers: Vec<String>,
    pub said: u64,
}

/// A running process.
pub struct Member {
    child: Child,
    input: Option<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// A member in the making: `test` is the test of this program that plays the role.
pub fn order(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("CREW_ROLE", role);
    for name in ["LITESTREAM_FAULT", "LITESTREAM_REPLICA_URL", "LITESTREAM_DB", "LITESTREAM_LOG"] {
        command.env_remove(name);
    }
    command
}

impl Member {
    pub fn start(mut command: Command) -> Member {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (noted, told) = (Arc::clone(&heard), Arc::clone(&heard));
        let errors = std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                told.lock().unwrap().notes.push(line);
            }
        });
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                noted.lock().unwrap().take(&line);
            }
            errors.join().unwrap();
        });
        let input = child.stdin.take();
        Member { child, input, heard, reader: Some(reader) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// SIGKILL. What it said before counts.
    pub fn kill(mut self) -> Heard {
        let _ = self.child.kill(); // it may have died by itself, as faults do
        self.end()
    }

    /// Asks it to leave, and waits for that.
    pub fn leave(mut self) -> Heard {
        self.input = None;
        let deadline = Instant::now() + LEAVE;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let stacks = stacks(self.pid());
                let _ = self.child.kill();
                let mut heard = self.end();
                heard.wrong.push(format!("it did not leave within {LEAVE:?}; its threads: {stacks}"));
                return heard;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.end()
    }

    /// Has a member with the role `serve` do something; its answer.
    pub fn ask(&mut self, what: &str) -> Result<String, String> {
        let before = self.heard().answers.len();
        self.input.as_mut().unwrap().write_all(format!("{what}\n").as_bytes()).unwrap();
        let deadline = Instant::now() + LEAVE;
        loop {
            if let Some(answer) = self.heard().answers.get(before) {
                return match answer.split_once(' ') {
                    Some(("ok", text)) => Ok(text.to_string()),
                    _ => Err(answer.clone()),
                };
            }
            assert!(Instant::now() < deadline && self.lives(), "no answer to {what}: {:?}", self.heard());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A signal by its number.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Is it running?
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn end(mut self) -> Heard {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let mut heard = self.heard();
        if status.signal().is_some_and(|signal| signal != 9) || status.code().is_some_and(|code| code != 0) {
            heard.wrong.push(format!("it ended with {status}: {}", heard.notes.join("\n")));
        }
        heard
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill(); // usually it has ended
        let _ = self.child.wait();
    }
}

impl Heard {
    fn take(&mut self, line: &str) {
        self.said += 1;
        let Some((kind, rest)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) else { return };
        match kind {
            "C" => self.committed = self.committed.max(rest.parse().unwrap()),
            "S" => self.stored = self.stored.max(rest.parse().unwrap()),
            "T" => self.txid = self.txid.max(u64::from_str_radix(rest, 16).unwrap()),
            "R" => self.answers.push(rest.to_string()),
            "E" => self.wrong.push(rest.to_string()),
            _ => self.notes.push(format!("{kind} {rest}")),
        }
    }

    /// All that was heard from both.
    pub fn with(mut self, other: Heard) -> Heard {
        self.committed = self.committed.max(other.committed);
        self.stored = self.stored.max(other.stored);
        self.txid = self.txid.max(other.txid);
        self.wrong.extend(other.wrong);
        self.notes.extend(other.notes);
        self.said += other.said;
        self
    }
}

/// What each thread of a process waits in.
fn stacks(pid: u32) -> String {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    let about = |path: &std::path::Path, what| std::fs::read_to_string(path.join(what)).unwrap_or_default();
    threads
        .flatten()
        .map(|entry| format!("{} {}", about(&entry.path(), "comm").trim(), about(&entry.path(), "wchan")))
        .collect::<Vec<_>>()
        .join(", ")
}

// ---- the member's side ----

/// Set when the test wants this member to leave.
pub static LEAVING: AtomicBool = AtomicBool::new(false);

/// Says one line.
pub fn say(kind: &str, what: impl std::fmt::Display) {
    let line = format!("@{kind} {what}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush()); // nobody listens any more: the test is over
}

/// The role that this process was started for; it then knows when to leave.
pub fn role() -> Option<String> {
    let role = std::env::var("CREW_ROLE").ok()?;
    // The harness has begun a line of its own.
    let _ = std::io::stdout().write_all(b"\n"); // nobody listens any more: the test is over
    if role == "serve" {
        return Some(role);
    }
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()); // ends when the test says so, or is gone
        LEAVING.store(true, Ordering::Relaxed);
    });
    Some(role)
}

/// A setting of this member.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// True until the test wants this member to leave.
pub fn goes_on() -> bool {
    !LEAVING.load(Ordering::Relaxed)
}
