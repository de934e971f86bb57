//! A Spool that cannot be written, and disks that are full: commits go on, the status says the remedy, and once it is
//! followed everything is stored.
//!
//! The application is a member of the crew that runs as nobody: to root every folder is writable.

#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;
mod support;

use members::crew::Member;
use members::home::{Home, all, play, until};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Who owns nothing.
const NOBODY: u32 = 65534;
/// Longest time for one commit, however the disk is.
const COMMIT: Duration = Duration::from_secs(2);

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn spool(home: &Home) -> PathBuf {
    home.folder.path().join(".app.db-litestream")
}

/// Everything below `folder` belongs to nobody.
fn give(folder: &Path) {
    if is_root() {
        let given = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(folder).status().unwrap();
        assert!(given.success());
    }
}

/// A member with an open connection that runs as nobody (or as whoever runs the tests, where that is not root).
fn serving(home: &Home) -> Member {
    let command = home.order("serve", "up");
    let mut member = Member::start(if is_root() { as_nobody(home, &command) } else { command });
    member.ask("open").unwrap();
    member.ask("PRAGMA busy_timeout=200").unwrap();
    member
}

fn as_nobody(home: &Home, command: &Command) -> Command {
    // Nobody may not look into the folder that the tests were built in.
    let programs = home.folder.path().join("programs");
    if !programs.exists() {
        std::fs::create_dir(&programs).unwrap();
        for file in [std::env::current_exe().unwrap(), support::library()] {
            std::fs::copy(&file, programs.join(file.file_name().unwrap())).unwrap();
        }
        std::fs::set_permissions(home.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = programs.join(std::env::current_exe().unwrap().file_name().unwrap());
    let mut other = Command::new("setpriv");
    other.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
    other.arg(program).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Commits go on as if nothing were, with checkpoints that want to reset the WAL.
#[track_caller]
fn assert_commits_go_on(member: &mut Member) {
    for n in 0..30 {
        let began = Instant::now();
        member.ask("transact").unwrap();
        assert!(began.elapsed() < COMMIT, "a commit took {:?}", began.elapsed());
        if n % 10 == 9 {
            member.ask("PRAGMA wal_checkpoint(RESTART)").unwrap();
        }
    }
}

/// The status names what is wrong in these words, soon.
#[track_caller]
fn assert_status_says(member: &mut Member, words: &[&str]) {
    let mut last = String::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !words.iter().all(|word| last.contains(word)) {
        assert!(Instant::now() < deadline, "the status does not say {words:?}: {last}");
        std::thread::sleep(Duration::from_millis(50));
        last = member.ask("status").unwrap();
    }
}

#[track_caller]
fn assert_all_is_stored(home: &Home, member: &mut Member, story: &str) {
    member.ask("sync").unwrap_or_else(|e| panic!("{story}: {e}"));
    member.ask("judge").unwrap_or_else(|e| panic!("{story}: {e}"));
    member.ask("image").unwrap();
    home.assert_equal(false, story);
}

// Goal: a Spool that belongs to somebody else (left by root, say) is a sentence with the remedy, not a failed commit.
// Method: the folder is taken away before the application starts, and while it runs; then given back.
#[test]
fn a_spool_of_somebody_else_is_said_and_commits_go_on() {
    play();
    for running in [false, true] {
        let home = Home::begun("a_spool_of_somebody_else_is_said_and_commits_go_on", "WAL");
        give(home.folder.path());
        let story = format!("taken away while it runs: {running}");
        let mut early = running.then(|| serving(&home));
        if let Some(member) = &mut early {
            member.ask("transact").unwrap();
            member.ask("sync").unwrap();
        }
        if is_root() {
            for entry in std::fs::read_dir(spool(&home)).unwrap() {
                chown(entry.unwrap().path(), Some(0), Some(0)).unwrap();
            }
            chown(spool(&home), Some(0), Some(0)).unwrap();
        }
        std::fs::set_permissions(spool(&home), std::fs::Permissions::from_mode(0o500)).unwrap();
        let mut member = early.unwrap_or_else(|| serving(&home));
        assert_commits_go_on(&mut member);
        assert_status_says(&mut member, &[".app.db-litestream", "ermission", "chown"]);
        std::fs::set_permissions(spool(&home), std::fs::Permissions::from_mode(0o700)).unwrap();
        give(home.folder.path());
        assert_all_is_stored(&home, &mut member, &story);
        all([member.leave()]);
    }
}

// Goal: the same where the folder cannot be made at all. Method: a file stands in its place, at the start and later.
#[test]
fn a_file_in_the_place_of_the_spool_is_said_and_commits_go_on() {
    play();
    for running in [false, true] {
        let home = Home::begun("a_file_in_the_place_of_the_spool_is_said_and_commits_go_on", "WAL");
        give(home.folder.path());
        let mut early = running.then(|| serving(&home));
        if let Some(member) = &mut early {
            member.ask("transact").unwrap();
            member.ask("sync").unwrap();
        }
        let aside = home.folder.path().join("aside");
        std::fs::rename(spool(&home), &aside).unwrap();
        std::fs::write(spool(&home), "in the way").unwrap();
        let mut member = early.unwrap_or_else(|| serving(&home));
        assert_commits_go_on(&mut member);
        assert_status_says(&mut member, &[".app.db-litestream", "move away the file"]);
        std::fs::remove_file(spool(&home)).unwrap();
        std::fs::rename(&aside, spool(&home)).unwrap();
        assert_all_is_stored(&home, &mut member, &format!("in place while it runs: {running}"));
        all([member.leave()]);
    }
}

/// A small disk of its own, where the system lets us have one.
struct Disk(PathBuf);

impl Disk {
    fn of(place: PathBuf, kilobytes: u32) -> Option<Disk> {
        std::fs::create_dir_all(&place).unwrap();
        let size = format!("size={kilobytes}k,mode=0777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&place).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Disk(place));
        }
        println!("NOT RUN: mounting a small tmpfs needs root and CAP_SYS_ADMIN");
        None
    }

    /// Nothing more fits; the file that fills it is the answer.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let full = std::fs::write(&filler, vec![0u8; 64 << 20]);
        assert!(full.is_err(), "the disk is small");
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status(); // the folder below it goes with the test
    }
}

// Goal: a full disk below the Spool alone costs no commit; nothing is lost, and all is stored once there is room. Method:
// the Spool on a small tmpfs, filled up at different moments.
#[test]
fn a_full_disk_below_the_spool_costs_no_commit() {
    play();
    let home = Home::begun("a_full_disk_below_the_spool_costs_no_commit", "WAL");
    let Some(disk) = Disk::of(home.folder.path().join("small"), 2048) else { return };
    let moved = disk.0.join("spool");
    let done = Command::new("cp").arg("-a").arg(spool(&home)).arg(&moved).status().unwrap();
    assert!(done.success());
    std::fs::remove_dir_all(spool(&home)).unwrap();
    symlink(&moved, spool(&home)).unwrap();
    let mut member = home.serving();
    member.ask("PRAGMA busy_timeout=200").unwrap();
    member.ask("transact").unwrap();
    assert_all_is_stored(&home, &mut member, "before");
    let filler = disk.fill();
    assert_commits_go_on(&mut member);
    assert_status_says(&mut member, &["No space left", "make room"]);
    std::fs::remove_file(filler).unwrap();
    assert_all_is_stored(&home, &mut member, "there is room again");
    for (txid, pages, commit) in home.remote.files_after(2) {
        assert!(pages + 2 <= commit, "file {txid:x} is a whole image ({pages} of {commit} pages)");
    }
    // And again, with the application killed while it is full.
    let filler = disk.fill();
    assert_commits_go_on(&mut member);
    let n: i64 = member.ask("judge").unwrap().parse().unwrap();
    all([member.kill()]);
    let mut member = home.serving();
    member.ask("PRAGMA busy_timeout=200").unwrap();
    assert_eq!(member.ask("judge").unwrap(), n.to_string());
    assert_commits_go_on(&mut member);
    std::fs::remove_file(filler).unwrap();
    assert_all_is_stored(&home, &mut member, "there is room again after a kill");
    all([member.leave()]);
}

// Goal: a disk that is full below everything fails commits as it does without us, corrupts nothing, and all that did
// commit is stored once there is room. Method: database and Spool on a small tmpfs, the replica elsewhere.
#[test]
fn a_full_disk_below_the_database_fails_as_it_does_without_us() {
    play();
    for mode in ["WAL", "DELETE"] {
        let home = Home::new("a_full_disk_below_the_database_fails_as_it_does_without_us");
        let Some(disk) = Disk::of(home.folder.path().join("small"), 2048) else { return };
        symlink(disk.0.join("app.db"), home.path()).unwrap();
        let mut begin = home.order("begin", "up");
        begin.env("CREW_MODE", mode);
        all([Member::start(begin).leave()]);
        let mut member = home.serving();
        for _ in 0..5 {
            member.ask("transact").unwrap();
        }
        let filler = disk.fill();
        let (mut failed, began) = (0, Instant::now());
        while failed < 3 && began.elapsed() < Duration::from_secs(30) {
            match member.ask("transact") {
                Ok(_) => {}
                Err(e) => {
                    assert!(e.contains("full") || e.contains("disk I/O"), "{mode}: {e}");
                    failed += 1;
                }
            }
        }
        assert_eq!(failed, 3, "{mode}: the disk is full");
        std::fs::remove_file(filler).unwrap();
        until("a commit works again", Duration::from_secs(20), || member.ask("transact").is_ok());
        assert_all_is_stored(&home, &mut member, &format!("{mode}: there is room again"));
        all([member.leave()]);
    }
}

/// Opens, which fails in these words; the database is not there, half or empty.
#[track_caller]
fn assert_not_restored(home: &Home, member: &mut Member, words: &[&str]) {
    for _ in 0..2 {
        let said = member.ask("open").expect_err("it was restored");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!home.path().exists(), "something stands where the database was, after: {said}");
    }
    let names: Vec<_> = std::fs::read_dir(spool(home)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let left = names.iter().any(|name| name.to_string_lossy().contains("restore-"));
    assert!(!left, "a restore that failed takes room: {names:?}");
}

/// Opens, restores all of it, and goes on.
#[track_caller]
fn assert_restores(home: &Home, member: &mut Member, n: &str, story: &str) {
    member.ask("open").unwrap_or_else(|e| panic!("{story}: {e}"));
    assert_eq!(member.ask("judge").unwrap(), n, "{story}");
    member.ask("transact").unwrap();
    assert_all_is_stored(home, member, story);
}

/// Some transactions, all stored, by a process that is gone with its database; the number that says how many.
fn lost(home: &Home) -> String {
    let mut member = home.serving();
    for _ in 0..20 {
        member.ask("transact").unwrap();
    }
    member.ask("sync").unwrap();
    let n = member.ask("judge").unwrap();
    all([member.leave()]);
    std::fs::remove_file(home.path().canonicalize().unwrap()).unwrap();
    n
}

/// A member without a connection, as nobody where the tests run as root.
fn closed(home: &Home) -> Member {
    let command = home.order("serve", "up");
    Member::start(if is_root() { as_nobody(home, &command) } else { command })
}

// Goal: where a restored database cannot get its name, the open says so and leaves nothing, and the next one restores.
// Method: the folder takes no new name while the Spool in it can be written, and then it does.
#[test]
fn a_folder_that_takes_no_name_fails_the_restore_and_the_next_open_has_it() {
    play();
    let home = Home::begun("a_folder_that_takes_no_name_fails_the_restore_and_the_next_open_has_it", "WAL");
    let n = lost(&home);
    give(home.folder.path());
    let mut member = closed(&home);
    std::fs::set_permissions(home.folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    assert_not_restored(&home, &mut member, &["rename into place", "app.db", "ermission"]);
    std::fs::set_permissions(home.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_restores(&home, &mut member, &n, "the folder takes names again");
    all([member.leave()]);
}

// Goal: a disk that has no room for what is restored fails the open with the reason, is not fuller afterwards, and is no
// hindrance once there is room. Method: the database and its Spool on a small tmpfs, lost, and the disk filled up.
#[test]
fn a_full_disk_fails_the_restore_and_the_next_open_has_it() {
    play();
    let home = Home::new("a_full_disk_fails_the_restore_and_the_next_open_has_it");
    let Some(disk) = Disk::of(home.folder.path().join("small"), 2048) else { return };
    symlink(disk.0.join("app.db"), home.path()).unwrap();
    symlink(disk.0.join(".app.db-litestream"), spool(&home)).unwrap();
    std::fs::create_dir(disk.0.join(".app.db-litestream")).unwrap();
    let mut begin = home.order("begin", "up");
    begin.env("CREW_MODE", "WAL");
    all([Member::start(begin).leave()]);
    let n = lost(&home);
    let filler = disk.fill();
    let mut member = Member::start(home.order("serve", "up"));
    assert_not_restored(&home, &mut member, &["No space left", "restore-"]);
    std::fs::remove_file(filler).unwrap();
    assert_restores(&home, &mut member, &n, "there is room again");
    all([member.leave()]);
}
