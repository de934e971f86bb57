//! Several processes with the extension on one database: whoever leads, is killed, stopped or leaves, nothing is lost,
//! nobody stalls, and the replica is the database in the end.

#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;
mod support;

use litestream_engine::ltx::Level;
use members::crew::{Heard, Member};
use members::dice::Dice;
use members::home::{Home, all, play, salt, until};
use members::remote::Remote;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Flock, FlockType, Signal, fcntl_getlk};
use std::fs::File;
use std::time::{Duration, Instant};

/// A hand-over takes at most 2 s; more than that only on a machine that is busy with other things.
const HAND_OVER: Duration = Duration::from_secs(4);
/// Processes, and how long they work while their Leader is killed again and again.
const PROCESSES: usize = 4;
const WORK: Duration = Duration::from_secs(12);
/// Last closes beside a Leader that reads, and for how long it does.
const LAST_CLOSES: u32 = 20;
const MOMENT: Duration = Duration::from_millis(20);
/// Size of a database whose image takes long enough to be stopped in.
const IMAGED_MIB: u32 = 64;

/// The longest time in which nobody committed.
struct Pulse {
    committed: i64,
    moved: Instant,
    longest: Duration,
}

impl Pulse {
    fn feel(&mut self, crew: &[Member]) {
        let committed = crew.iter().map(|member| member.heard().committed).max().unwrap_or_default();
        if committed > self.committed {
            self.committed = committed;
            self.moved = Instant::now();
        }
        self.longest = self.longest.max(self.moved.elapsed());
    }
}

// Goal: killing whoever leads, again and again, loses nothing, stalls nobody, and another takes over in time. Method: 4
// processes with 3 connections, the one named in `lock` killed every second and a half, a new one in its place.
#[test]
fn leaders_are_killed_and_others_take_over() {
    play();
    let home = Home::begun("leaders_are_killed_and_others_take_over", "WAL");
    let seed = std::env::var("LITESTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut dice = Dice::new(seed);
    let mut start = || {
        let mut command = home.order("work", "up");
        command.env("CREW_SEED", dice.below(1 << 30).to_string());
        Member::start(command)
    };
    let mut crew: Vec<Member> = (0..PROCESSES).map(|_| start()).collect();
    until("somebody commits", Duration::from_secs(20), || crew.iter().any(|member| member.heard().committed > 0));
    let (mut dead, mut hand_overs): (Vec<Heard>, Vec<Duration>) = (Vec::new(), Vec::new());
    let mut pulse = Pulse { committed: 0, moved: Instant::now(), longest: Duration::ZERO };
    let began = Instant::now();
    while began.elapsed() < WORK {
        let round = Instant::now();
        while round.elapsed() < Duration::from_millis(1500) {
            pulse.feel(&crew);
            std::thread::sleep(Duration::from_millis(5));
        }
        let Some(at) = crew.iter().position(|member| Some(member.pid()) == home.leader()) else { continue };
        let victim = crew.swap_remove(at);
        let (pid, stored) = (victim.pid(), home.remote.newest());
        dead.push(victim.kill());
        crew.push(start());
        hand_overs.push(until("another process replicates", HAND_OVER, || {
            pulse.feel(&crew);
            home.leader() != Some(pid) && home.remote.newest() > stored
        }));
        let n = home.committed_prefix(&format!("seed {seed}, after a hand-over"));
        let called = dead.iter().map(|heard| heard.stored).max().unwrap_or_default();
        assert!(n >= called, "seed {seed}: the replica holds {n} transactions, {called} were called stored");
    }
    assert!(hand_overs.len() >= 4, "seed {seed}: only {} Leaders were found and killed", hand_overs.len());
    assert!(pulse.longest < HAND_OVER, "seed {seed}: nobody committed for {:?}", pulse.longest);
    let heard = all(dead.into_iter().chain(crew.into_iter().map(Member::leave)));
    println!(
        "seed {seed}: {} transactions, {} Leaders killed, hand-overs {:?}, longest time without a commit {:?}",
        heard.committed,
        hand_overs.len(),
        hand_overs,
        pulse.longest
    );
    let mut last = home.serving();
    let n: i64 = last.ask("judge").unwrap().parse().unwrap();
    assert!(n >= heard.committed, "seed {seed}: {n} of {} transactions are there", heard.committed);
    last.ask("sync").unwrap();
    last.ask("image").unwrap();
    home.assert_equal(false, &format!("seed {seed}"));
}

// Goal: a stopped Leader pauses replication, and nothing else: the others commit and reset the WAL, their status says who
// is stopped; once it goes on, everything is stored. Method: SIGSTOP to the process that leads and does nothing.
#[test]
fn a_stopped_leader_pauses_replication_only() {
    play();
    let home = Home::begun("a_stopped_leader_pauses_replication_only", "WAL");
    let mut leader = home.serving();
    leader.ask("judge").unwrap();
    leader.ask("sync").unwrap();
    assert_eq!(home.leader(), Some(leader.pid()));
    let mut other = home.serving();
    other.ask("transact").unwrap();
    leader.signal(Signal::STOP);
    let stored = home.remote.newest();
    let (mut lives, began) = (std::collections::BTreeSet::new(), Instant::now());
    for n in 0..40 {
        other.ask("transact").unwrap();
        if n % 10 == 9 {
            other.ask("PRAGMA wal_checkpoint(RESTART)").unwrap();
        }
        lives.extend(salt(&home.path()));
    }
    assert!(began.elapsed() < Duration::from_secs(20), "40 commits took {:?}", began.elapsed());
    assert!(lives.len() >= 3, "the WAL was reset by the others: {} lives", lives.len());
    assert!(home.remote.newest() <= stored + 1, "nobody else replicates meanwhile");
    let status = other.ask("status").unwrap();
    assert!(status.contains(&leader.pid().to_string()) && status.contains("stopped"), "{status}");
    leader.signal(Signal::CONT);
    other.ask("sync").unwrap();
    other.ask("image").unwrap();
    home.assert_equal(false, "after the Leader went on");
    all([leader.leave(), other.leave()]);
}

// Goal: a Leader that closes its last connection hands over while others go on. Method: the process stays, its
// connection goes; the other's commits are stored in time.
#[test]
fn a_leader_without_connection_hands_over() {
    play();
    let home = Home::begun("a_leader_without_connection_hands_over", "WAL");
    let mut first = home.serving();
    first.ask("transact").unwrap();
    first.ask("sync").unwrap();
    assert_eq!(home.leader(), Some(first.pid()));
    let mut second = home.serving();
    second.ask("transact").unwrap();
    first.ask("close").unwrap();
    let stored = home.remote.newest();
    second.ask("transact").unwrap();
    let took = until("the other process replicates", HAND_OVER, || home.remote.newest() > stored);
    println!("hand-over after a close: {took:?}");
    for _ in 0..10 {
        second.ask("transact").unwrap();
    }
    second.ask("sync").unwrap();
    second.ask("image").unwrap();
    home.assert_equal(false, "after the hand-over");
    // And back: the first one opens again, the second one leaves.
    first.ask("open").unwrap();
    first.ask("transact").unwrap();
    all([second.leave()]);
    first.ask("transact").unwrap();
    first.ask("sync").unwrap();
    first.ask("image").unwrap();
    home.assert_equal(false, "after the way back");
    all([first.leave()]);
}

// Goal: of many processes that open a missing database one restores, and all see its rows. Method: ten at once, and a
// bucket that counts how often the image is fetched.
#[test]
fn one_process_restores_for_ten() {
    play();
    let mut home = Home::new("one_process_restores_for_ten");
    home.remote = Remote::bucket();
    let mut command = home.order("begin", "up");
    command.env("CREW_MODE", "WAL");
    all([Member::start(command).leave()]);
    let mut last = home.serving();
    for _ in 0..5 {
        last.ask("transact").unwrap();
    }
    last.ask("sync").unwrap();
    all([last.leave()]);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(home.folder.path().join(name)); // a clean close leaves the first one only
    }
    std::fs::remove_dir_all(home.folder.path().join(".app.db-litestream")).unwrap();
    let fetches = |home: &Home| {
        let Remote::Bucket { proxy, .. } = &home.remote else { panic!("a bucket") };
        let seen = proxy.server.seen();
        seen.iter().filter(|request| request.method == "GET" && request.target.contains("/0009/")).count()
    };
    let before = fetches(&home);
    let mut crew: Vec<Member> = (0..10).map(|_| Member::start(home.order("serve", "up"))).collect();
    std::thread::scope(|scope| {
        for member in &mut crew {
            scope.spawn(|| {
                member.ask("open").unwrap();
                let n: i64 = member.ask("judge").unwrap().parse().unwrap();
                assert!((5..15).contains(&n), "{n} transactions");
                member.ask("transact").unwrap();
            });
        }
    });
    assert_eq!(fetches(&home) - before, 1, "the image is fetched once");
    let last = &mut crew[0];
    assert_eq!(last.ask("judge").unwrap(), "15");
    last.ask("sync").unwrap();
    last.ask("image").unwrap();
    home.assert_equal(false, "after ten openers");
    all(crew.into_iter().map(Member::leave));
}

// Goal: the last close of a WAL database takes its WAL with it, as plain SQLite's does, although the Leader of another process
// reads for a moment. Method: this process stands in for that Leader, with its two locks, while a member closes; a machine that
// is busy may stretch the moment, so not every round counts.
#[test]
fn the_last_close_waits_for_a_leader_that_reads_for_a_moment() {
    play();
    let home = Home::new("the_last_close_waits_for_a_leader_that_reads_for_a_moment");
    let mut member = Member::start(home.order("serve", "up"));
    let mut gone = 0;
    for _ in 0..LAST_CLOSES {
        member.ask("open").unwrap();
        member.ask("PRAGMA journal_mode = WAL").unwrap();
        member.ask("CREATE TABLE IF NOT EXISTS t(n)").unwrap();
        member.ask("INSERT INTO t VALUES (1)").unwrap();
        member.ask("sync").unwrap();
        let open = |path: std::path::PathBuf| {
            File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
        };
        let reading = open(home.folder.path().join(".app.db-litestream/reading"));
        let database = open(home.path());
        let take = |file: &File, how| fcntl_lock(file, how).is_ok();
        until("nobody reads", HAND_OVER, || take(&reading, FlockOperation::NonBlockingLockExclusive));
        assert!(take(&database, FlockOperation::NonBlockingLockShared));
        let moment = std::thread::spawn(move || {
            std::thread::sleep(MOMENT);
            drop((database, reading));
        });
        member.ask("close").unwrap();
        let is_left = home.folder.path().join("app.db-wal").exists();
        moment.join().unwrap();
        gone += u32::from(!is_left);
        if gone == 3 {
            return;
        }
    }
    panic!("only {gone} of {LAST_CLOSES} closes took the WAL with them");
}

/// A lock file of the Spool, as a process that stands in for a Leader has it open.
fn lock_file(home: &Home, name: &str) -> File {
    let path = home.folder.path().join(".app.db-litestream").join(name);
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

// Goal: a new database does not find the wal-index of a deleted one of its name, which the Leader of another process still has
// mapped while it reads: SQLite would go on in the old WAL's numbers, write no header, and nobody could recover what it commits.
// Method: this process stands in for that Leader (a reader, and the lock that says so) until it is asked to let go. Meanwhile the
// file is deleted, a member begins a new one, and its file and WAL are copied, as a crash would leave them.
#[test]
fn a_new_database_does_not_share_the_wal_index_of_a_deleted_one() {
    play();
    let home = Home::new("a_new_database_does_not_share_the_wal_index_of_a_deleted_one");
    let mut order = home.order("serve", "up");
    order.env("CREW_URI", format!("{}&restore=never", home.uri()));
    let mut member = Member::start(order);
    for step in ["open", "PRAGMA journal_mode = WAL", "CREATE TABLE t(n)", "INSERT INTO t VALUES (1)", "sync"] {
        member.ask(step).unwrap();
    }
    let reader = rusqlite::Connection::open(home.path()).unwrap();
    assert_eq!(reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
    let (reading, asking) = (lock_file(&home, "reading"), lock_file(&home, "asking"));
    until("nobody reads", HAND_OVER, || fcntl_lock(&reading, FlockOperation::NonBlockingLockExclusive).is_ok());
    member.ask("close").unwrap();
    let beside = |suffix: &str| home.folder.path().join(format!("app.db{suffix}"));
    assert!(beside("-wal").exists() && beside("-shm").exists(), "the reader keeps both");
    std::fs::remove_file(home.path()).unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    let stand_in = std::thread::spawn(move || {
        let is_asked = || fcntl_getlk(&asking, &Flock::from(FlockType::WriteLock)).unwrap().is_some();
        let mut asked = false;
        while !asked && is_done.try_recv().is_err() {
            asked = is_asked();
            std::thread::sleep(Duration::from_millis(1));
        }
        drop((reader, reading));
        asked
    });
    for step in ["open", "PRAGMA journal_mode = WAL", "CREATE TABLE t(n)", "INSERT INTO t VALUES (2)"] {
        member.ask(step).unwrap();
    }
    let copy = |suffix: &str| home.folder.path().join(format!("copy.db{suffix}"));
    for suffix in ["", "-wal"] {
        std::fs::copy(beside(suffix), copy(suffix)).unwrap();
    }
    let copied = rusqlite::Connection::open(copy("")).unwrap().query_row("SELECT n FROM t", [], |row| row.get(0));
    let _ = done.send(()); // it has left already where it was asked
    assert!(stand_in.join().unwrap(), "nobody asked the reader to let go");
    assert_eq!(copied, Ok(2), "what was committed can be recovered");
    member.ask("sync").unwrap();
    member.ask("image").unwrap();
    home.assert_equal(false, "after the new database began");
    all([member.leave()]);
}

// Goal: the image of a deleted file goes on as long as nothing else has its name (it may be all that is left), and ends where a new
// file has: processes without the extension ask nobody. Method: the Leader is stopped inside an image, plain SQLite puts another
// database there, and the Leader goes on: nothing of the deleted one is stored.
#[test]
fn the_image_of_a_deleted_file_ends_where_another_has_its_name() {
    play();
    for replaced in [false, true] {
        let home = Home::new("the_image_of_a_deleted_file_ends_where_another_has_its_name");
        let plain = rusqlite::Connection::open(home.path()).unwrap();
        let rows = format!(
            "PRAGMA journal_mode = WAL; CREATE TABLE t(b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
             WHERE i < {IMAGED_MIB}) INSERT INTO t SELECT randomblob(1 << 20) FROM n"
        );
        plain.execute_batch(&rows).unwrap();
        drop(plain);
        let mut order = home.order("serve", "up");
        order.env("CREW_URI", format!("{}&restore=never", home.uri()));
        let mut member = Member::start(order);
        member.ask("open").unwrap();
        member.ask("SELECT count(*) FROM t").unwrap();
        let spool = home.folder.path().join(".app.db-litestream");
        let is_begun = || {
            let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
            files
                .filter(|file| file.file_name().to_string_lossy().starts_with("new-ltx-"))
                .any(|file| file.metadata().is_ok_and(|meta| meta.len() > 1 << 20))
        };
        until("the image begins", HAND_OVER, is_begun);
        member.signal(Signal::STOP);
        assert!(is_begun(), "the image was made already");
        std::fs::remove_file(home.path()).unwrap();
        if replaced {
            rusqlite::Connection::open(home.path()).unwrap().execute_batch("CREATE TABLE t(b)").unwrap();
        }
        member.signal(Signal::CONT);
        let reading = lock_file(&home, "reading");
        until("nobody reads", HAND_OVER, || fcntl_lock(&reading, FlockOperation::NonBlockingLockExclusive).is_ok());
        drop(reading);
        member.ask("close").unwrap();
        member.ask("open").unwrap();
        member.ask("CREATE TABLE u(b)").unwrap();
        member.ask("sync").unwrap();
        let store = home.remote.store();
        let largest = Level::all().flat_map(|level| store.list(level).unwrap()).map(|file| file.size).max().unwrap();
        assert_eq!(largest > u64::from(IMAGED_MIB) << 20, !replaced, "the largest file has {largest} bytes");
        all([member.leave()]);
    }
}
