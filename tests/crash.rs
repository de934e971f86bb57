//! kill -9 at random moments and at named calls: nothing that was acknowledged is lost here, replication goes on without
//! a gap and without a new image, and what the replica held at the kill is a committed prefix with everything in it
//! that was called stored.
//!
//! Each history is a database with a replica; each trial in it starts processes, kills them and compares. Seeds are
//! printed. `LITESTREAM_TRIALS` says how many trials, `LITESTREAM_SEED` where the seeds begin, `LITESTREAM_JOURNAL` the
//! only journal mode, `LITESTREAM_KEEP` that the folder of a failed history is kept.

#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;
mod support;

use members::crew::{self, Heard, Member, order, say, setting};
use members::dice::Dice;
use members::remote::Remote;
use members::{hand, ledger};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Trials in one history at most.
const TRIALS_A_HISTORY: u64 = 6;
/// Histories that run at the same time.
const AT_ONCE: usize = 3;
/// The test that plays the members' roles, too.
const TEST: &str = "killed_processes_lose_nothing_and_replication_goes_on";

/// What happened, for the summary.
#[derive(Default)]
struct Tally {
    trials: AtomicU64,
    kills: AtomicU64,
    at_points: AtomicU64,
    commits: AtomicU64,
    down: AtomicU64,
}

/// One database with its replica, through several trials.
struct History {
    seed: u64,
    dice: Dice,
    folder: tempfile::TempDir,
    remote: Remote,
    page_size: u64,
    mode: &'static str,
    interval: &'static str,
    /// Everything that was acknowledged so far.
    heard: Heard,
    /// Files of the replica that were looked at: none of the later ones may be a whole image.
    seen: u64,
    log: Vec<String>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut dice = Dice::new(seed);
        let folder = tempfile::tempdir().unwrap();
        let remote = if dice.one_in(4) { Remote::bucket() } else { Remote::folder(folder.path()) };
        let page_size = dice.of(&[512, 1024, 4096, 4096, 4096, 65536]);
        let modes = ["WAL", "WAL", "WAL", "WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"];
        let wanted = std::env::var("LITESTREAM_JOURNAL").unwrap_or_default();
        let mode = modes.into_iter().find(|mode| *mode == wanted).unwrap_or_else(|| dice.of(&modes));
        let interval = dice.of(&["0", "20ms", "100ms", "1s"]);
        let log = vec![format!("seed {seed}: page size {page_size}, {mode}, sync-interval {interval}, {remote:?}")];
        let heard = Heard::default();
        History { seed, dice, folder, remote, page_size, mode, interval, heard, seen: 0, log }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn order(&mut self, role: &str, store: &str) -> Command {
        let mut command = order(TEST, role);
        let uri = format!(
            "file:{}?vfs=litestream&{}&sync-interval={}&shutdown-sync-timeout=2s&save-ahead={}",
            self.path().display(),
            self.remote.parameters(),
            self.interval,
            if self.seed.is_multiple_of(2) { "1" } else { "1MiB" }
        );
        command
            .env("CREW_URI", uri)
            .env("CREW_SEED", self.dice.below(1 << 30).to_string())
            .env("CREW_PAGE_SIZE", self.page_size.to_string())
            .env("CREW_MODE", self.mode)
            .env("CREW_STORE", store)
            .env("CREW_SLOWEST_MS", "20000")
            .env("CREW_IMAGE", self.folder.path().join("image"));
        self.remote.credentials(&mut command);
        command
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let listing = Command::new("ls").args(["-laR", "--time-style=full-iso"]).arg(self.folder.path()).output();
        let files = listing.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        if std::env::var_os("LITESTREAM_KEEP").is_some() {
            let kept = std::env::temp_dir().join(format!("crash-{}", self.seed));
            let _ = Command::new("cp").arg("-a").arg(self.folder.path()).arg(&kept).status();
        }
        panic!("seed {}: {what}\n{}\nheard: {:?}\n{files}", self.seed, self.log.join("\n"), self.heard)
    }

    fn listen(&mut self, heard: Heard) {
        let before = std::mem::take(&mut self.heard);
        self.heard = before.with(heard);
        if !self.heard.wrong.is_empty() {
            self.fail("a process met what must not happen");
        }
    }

    /// Makes the database and its first image.
    fn begin(&mut self) {
        let command = self.order("begin", "up");
        let heard = Member::start(command).leave();
        self.listen(heard);
        self.seen = self.remote.newest();
        self.note(format!("begun, the replica is at {:x}", self.seen));
    }

    /// Starts processes, kills them, compares.
    fn trial(&mut self, tally: &Tally) {
        let down_at_first = self.dice.one_in(4);
        let turns = down_at_first || self.dice.one_in(3);
        let members = 1 + self.dice.below(4);
        self.note(format!("trial: {members} processes, store down first: {down_at_first}, turns: {turns}"));
        if turns {
            tally.down.fetch_add(1, Ordering::Relaxed);
        }
        if down_at_first {
            self.remote.fall(&mut self.dice);
        }
        let mut crew: Vec<Member> = (0..members).map(|_| self.start(turns, tally)).collect();
        self.wait_for_work(&mut crew);
        self.pause();
        if turns && self.dice.one_in(2) {
            if down_at_first {
                self.remote.rise()
            } else {
                self.remote.fall(&mut self.dice)
            }
            self.note("the store turned");
            self.pause();
        }
        if self.dice.one_in(2) {
            // One by one: the others go on, and one of them takes over.
            while crew.len() > 1 {
                let victim = crew.swap_remove(self.dice.below(crew.len() as u64) as usize);
                self.note(format!("kill of {}, {} live", victim.pid(), crew.len()));
                let heard = victim.kill();
                self.listen(heard);
                self.pause();
                if self.dice.one_in(3) {
                    let member = self.start(turns, tally);
                    crew.push(member);
                    self.pause();
                }
            }
        }
        let killed: Vec<Heard> = crew.into_iter().map(Member::kill).collect();
        tally.kills.fetch_add(members, Ordering::Relaxed);
        for heard in killed {
            self.listen(heard);
        }
        self.note(format!("all are dead, {} committed, {} stored", self.heard.committed, self.heard.stored));
        let replica = self.compare_replica();
        self.remote.rise();
        self.compare_database(replica);
        tally.trials.fetch_add(1, Ordering::Relaxed);
    }

    fn start(&mut self, turns: bool, tally: &Tally) -> Member {
        let connections = 1 + self.dice.below(3);
        let mut command = self.order("work", if turns { "turns" } else { "up" });
        command.env("CREW_CONNECTIONS", connections.to_string());
        let mut what = String::new();
        if self.dice.one_in(2) {
            let longest = 1 << (2 + self.dice.below(10));
            let pass = 1 + self.dice.below(longest);
            let point = self.dice.of(&[
                "any",
                "any",
                "any",
                "gate",
                "frames-read",
                "segment-written",
                "segment-saved",
                "link-coming",
                "link-written",
                "ltx-written",
                "ltx-saved",
                "put-done",
                "state-coming",
                "state-written",
                "ltx-removed",
                "segment-removed",
                "segment-prepared",
                "segment-publishing",
                "segment-published",
                "wal-writing",
                "exclusive-edge",
            ]);
            // Most points are passed less often than an edge.
            let pass = if point == "any" { pass } else { 1 + pass % 8 };
            what = format!(", dies at {point}:{pass}");
            command.env("LITESTREAM_FAULT", format!("{point}:{pass}"));
            tally.at_points.fetch_add(1, Ordering::Relaxed);
        }
        let member = Member::start(command);
        self.note(format!("process {} with {connections} connections{what}", member.pid()));
        member
    }

    /// Until somebody committed, or all died by themselves.
    fn wait_for_work(&self, crew: &mut [Member]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if crew.iter().any(|member| member.heard().committed > 0) || !crew.iter_mut().any(Member::lives) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.fail("nobody committed anything within 20 s");
    }

    fn pause(&mut self) {
        let longest = 1 << (3 + self.dice.below(6));
        std::thread::sleep(Duration::from_micros(self.dice.below(longest * 1000)));
    }

    /// What the replica holds right after the kill: a committed prefix with everything that was called stored.
    fn compare_replica(&mut self) -> i64 {
        let copy = self.folder.path().join("copy.db");
        let txid = match self.remote.restore(&copy) {
            Ok(txid) => txid,
            Err(e) => self.fail(&format!("the replica does not restore after the kill: {e}")),
        };
        let newest = self.remote.newest();
        if txid != newest || txid < self.heard.txid {
            let called = self.heard.txid;
            self.fail(&format!(
                "restored to {txid:x}; the listing ends at {newest:x}, the status called {called:x} stored"
            ));
        }
        let n = match ledger::judge_file(&copy) {
            Ok(n) => n,
            Err(e) => self.fail(&format!("the replica at {txid:x} is no committed state: {e}")),
        };
        std::fs::remove_file(&copy).unwrap();
        if n < self.heard.stored {
            let called = self.heard.stored;
            self.fail(&format!("the replica holds {n} transactions, but {called} were called stored"));
        }
        n
    }

    /// Reopened: everything acknowledged is there, and after a sync the replica is the database.
    fn compare_database(&mut self, replica: i64) {
        let mut command = self.order("check", "up");
        command.env("CREW_LEAVE", self.dice.of(&["close", "exit", "kill"]));
        let member = Member::start(command);
        let heard = member.leave();
        let (committed, stored) = (heard.committed, heard.stored);
        let acknowledged = self.heard.committed;
        self.listen(heard);
        if committed < acknowledged || committed < replica {
            self.fail(&format!(
                "{committed} transactions after the reopen; {acknowledged} acknowledged, {replica} stored"
            ));
        }
        if stored != committed {
            self.fail(&format!("the check did not get as far as its sync ({stored} of {committed})"));
        }
        let copy = self.folder.path().join("copy.db");
        if let Err(e) = self.remote.restore(&copy) {
            self.fail(&format!("the replica does not restore after the sync: {e}"));
        }
        let restored = std::fs::read(&copy).unwrap();
        std::fs::remove_file(&copy).unwrap();
        let image = std::fs::read(self.folder.path().join("image")).unwrap();
        let differ = ledger::difference(&image, &restored, self.mode != "WAL");
        if !differ.is_empty() {
            self.fail(&format!("after the sync the replica differs from the database in pages {differ:?}"));
        }
        for (txid, pages, commit) in self.remote.files_after(self.seen) {
            if pages + 2 > commit && commit > ledger::STILL_PAGES {
                self.fail(&format!("file {txid:x} is a whole image ({pages} of {commit} pages)"));
            }
            self.seen = self.seen.max(txid);
        }
        let tip = self.remote.newest();
        self.note(format!("compared: {committed} transactions, the replica is at {tip:x}"));
    }
}

// ---- the members ----

fn play(role: &str) {
    match role {
        "begin" => hand::begin(),
        "check" => check(),
        "work" => hand::work(),
        other => panic!("no role {other}"),
    }
    std::process::exit(0);
}

fn check() {
    hand::load();
    let connection = match hand::open(&setting("CREW_URI")) {
        Ok(connection) => connection,
        Err(e) => return say("E", format!("the reopen: {e}")),
    };
    match ledger::judge(&connection) {
        Ok(n) => {
            say("C", n);
            match hand::sync(&connection, 30) {
                Ok(_) => {
                    std::fs::write(setting("CREW_IMAGE"), ledger::image(&connection_path(&connection))).unwrap();
                    say("S", n);
                }
                Err(e) => say("E", format!("the sync: {e}; {}", hand::status(&connection))),
            }
        }
        Err(e) => say("E", format!("the database after the kill: {e}")),
    }
    match setting("CREW_LEAVE").as_str() {
        "kill" => {
            let kill = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            kill.unwrap();
        }
        "exit" => std::process::exit(0),
        _ => drop(connection),
    }
}

fn connection_path(connection: &rusqlite::Connection) -> PathBuf {
    PathBuf::from(connection.path().unwrap())
}

// Goal: no kill loses what was acknowledged, makes the replica wrong, or needs a new image. Method: random workloads in
// up to four processes, killed at random moments and at named calls, all at once or one by one, with the store up,
// down or turning; everything compared after each trial.
#[test]
fn killed_processes_lose_nothing_and_replication_goes_on() {
    if let Some(role) = crew::role() {
        return play(&role);
    }
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
    };
    let (trials, first) = (number("LITESTREAM_TRIALS", 200), number("LITESTREAM_SEED", 1));
    let (tally, next, failed) =
        (Arc::new(Tally::default()), Arc::new(AtomicU64::new(first)), Arc::new(Mutex::new(None)));
    let began = Instant::now();
    let histories: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (tally, next, failed) = (Arc::clone(&tally), Arc::clone(&next), Arc::clone(&failed));
            std::thread::spawn(move || {
                while tally.trials.load(Ordering::Relaxed) < trials && failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, trials, &tally)));
                    if ended.is_err() {
                        *failed.lock().unwrap() = Some(seed);
                    }
                }
            })
        })
        .collect();
    for history in histories {
        history.join().unwrap();
    }
    let count = |tally: &AtomicU64| tally.load(Ordering::Relaxed);
    println!(
        "seeds {first}..{}: {} trials, {} processes killed ({} told to die at a named call), store down or turning in {}, \
         {} transactions, {:.0} s",
        count(&next),
        count(&tally.trials),
        count(&tally.kills),
        count(&tally.at_points),
        count(&tally.down),
        count(&tally.commits),
        began.elapsed().as_secs_f64()
    );
    if let Some(seed) = *failed.lock().unwrap() {
        panic!("seed {seed} failed: its story is above");
    }
}

fn run(seed: u64, trials: u64, tally: &Tally) {
    let mut history = History::new(seed);
    history.begin();
    for _ in 0..TRIALS_A_HISTORY {
        if tally.trials.load(Ordering::Relaxed) >= trials {
            break;
        }
        history.trial(tally);
    }
    tally.commits.fetch_add(history.heard.committed.unsigned_abs(), Ordering::Relaxed);
}
