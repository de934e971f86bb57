//! A database in a folder of its own with its replica: the orders for members that work on it, and the comparison of both.
#![allow(dead_code, clippy::unwrap_used)]

use super::crew::{Heard, Member, order, role};
use super::remote::Remote;
use super::{hand, ledger};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One database.
pub struct Home {
    pub folder: tempfile::TempDir,
    pub remote: Remote,
    pub test: &'static str,
    pub page_size: u64,
    pub interval: &'static str,
}

impl Home {
    /// `test` is the test of this program that plays the members' roles.
    pub fn new(test: &'static str) -> Home {
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote::folder(folder.path());
        Home { folder, remote, test, page_size: 4096, interval: "100ms" }
    }

    /// With a database in journal mode `mode` and its first image.
    pub fn begun(test: &'static str, mode: &str) -> Home {
        let home = Home::new(test);
        let mut command = home.order("begin", "up");
        command.env("CREW_MODE", mode);
        let heard = Member::start(command).leave();
        assert!(heard.wrong.is_empty(), "{heard:?}");
        home
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    pub fn uri(&self) -> String {
        format!(
            "file:{}?vfs=litestream&{}&sync-interval={}&shutdown-sync-timeout=5s&save-ahead=1",
            self.path().display(),
            self.remote.parameters(),
            self.interval
        )
    }

    /// `store`: `up`, or `none` for a process without the extension.
    pub fn order(&self, role: &str, store: &str) -> Command {
        let mut command = order(self.test, role);
        let uri = if store == "none" { format!("file:{}?cache=private", self.path().display()) } else { self.uri() };
        command
            .env("CREW_URI", uri)
            .env("CREW_SEED", "1")
            .env("CREW_CONNECTIONS", "3")
            .env("CREW_PAGE_SIZE", self.page_size.to_string())
            .env("CREW_STORE", store)
            .env("CREW_SLOWEST_MS", "30000")
            .env("CREW_IMAGE", self.folder.path().join("image"));
        self.remote.credentials(&mut command);
        command
    }

    /// A member that does what it is told, its connection open.
    pub fn serving(&self) -> Member {
        let mut member = Member::start(self.order("serve", "up"));
        member.ask("open").unwrap();
        member
    }

    /// The process that leads, by the name it left in the Spool.
    pub fn leader(&self) -> Option<u32> {
        let lock = std::fs::read_to_string(self.folder.path().join(".app.db-litestream/lock")).ok()?;
        lock.trim().parse().ok()
    }

    /// After everything was stored: restored elsewhere, it is what `image` holds, page for page.
    #[track_caller]
    pub fn assert_equal(&self, but_free: bool, story: &str) {
        let copy = self.folder.path().join("copy.db");
        let _ = std::fs::remove_file(&copy); // of a comparison before
        let txid = self.remote.restore(&copy).unwrap_or_else(|e| panic!("{story}: the replica does not restore: {e}"));
        let image = std::fs::read(self.folder.path().join("image")).unwrap();
        let differ = ledger::difference(&image, &std::fs::read(&copy).unwrap(), but_free);
        assert!(differ.is_empty(), "{story}: the replica at {txid:x} differs from the database in pages {differ:?}");
    }

    /// The replica as it is now: some committed state.
    #[track_caller]
    pub fn committed_prefix(&self, story: &str) -> i64 {
        let copy = self.folder.path().join("copy.db");
        let _ = std::fs::remove_file(&copy); // of a comparison before
        self.remote.restore(&copy).unwrap_or_else(|e| panic!("{story}: the replica does not restore: {e}"));
        ledger::judge_file(&copy).unwrap_or_else(|e| panic!("{story}: the replica is no committed state: {e}"))
    }
}

/// In a member of the crew: plays its role, one of those that all tests of members share, and never returns.
pub fn play() {
    match role().as_deref() {
        None => return,
        Some("begin") => hand::begin(),
        Some("work") => hand::work(),
        Some("serve") => hand::serve(),
        Some(role) => panic!("no role {role}"),
    }
    std::process::exit(0);
}

/// Waits until it is so, at most `limit`; how long it took.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < limit, "after {limit:?} still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// Everything that several members said.
pub fn all(heard: impl IntoIterator<Item = Heard>) -> Heard {
    let all = heard.into_iter().fold(Heard::default(), Heard::with);
    assert!(all.wrong.is_empty(), "{:?}\n{:?}", all.wrong, all.notes);
    all
}

/// The Salt of a WAL, by its file (it carries no locks); `None` while there is none.
pub fn salt(database: &Path) -> Option<Vec<u8>> {
    let wal = std::fs::read(format!("{}-wal", database.display())).ok()?;
    wal.get(16..24).map(<[u8]>::to_vec)
}
