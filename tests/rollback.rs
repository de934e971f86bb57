//! Rollback-journal modes beside other processes, deleted files and the end of a process: what plain SQLite grants is
//! granted, and nobody waits for what cannot come.

#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;
mod support;

use members::crew::{self, Member};
use members::home::{self, Home, until};
use members::{hand, ledger};
use std::io::{Seek, Write};
use std::time::{Duration, Instant};

/// Blobs of a megabyte in a database whose image takes many slices.
const MEGABYTES: u32 = 128;
/// A commit beside an image: long for it, short beside the image.
const SLOW: Duration = Duration::from_secs(3);
/// Deleted files.
const FILES: u32 = 150;
/// An end that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(8);

/// In a member of the crew: plays its role and never returns.
fn play() {
    match crew::role().as_deref() {
        None => {}
        Some("leave-inside") => leave_inside(),
        Some(_) => home::play(),
    }
}

/// A database that has content before it is replicated, so that its first image has to be read from the file.
fn with_content(home: &Home, megabytes: u32) {
    let mut plain = Member::start(home.order("serve", "none"));
    for order in [
        "open",
        "PRAGMA journal_mode = DELETE",
        "CREATE TABLE bulk(data)",
        "CREATE TABLE note(n)",
        "INSERT INTO note VALUES (0)",
        &format!(
            "WITH RECURSIVE one(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM one WHERE n < {megabytes}) \
             INSERT INTO bulk SELECT zeroblob(1 << 20) FROM one"
        ),
    ] {
        plain.ask(order).unwrap();
    }
    plain.leave();
}

// Goal: the Leader's image, for which it holds SHARED, gives a writer of another process no BUSY, and no long wait either.
// Method: one process makes the first image of a large database, another commits meanwhile, without a busy handler.
#[test]
fn a_writer_in_another_process_never_meets_the_reading_leader() {
    play();
    let home = Home::new("a_writer_in_another_process_never_meets_the_reading_leader");
    with_content(&home, MEGABYTES);
    let (mut leader, mut writer) = (home.serving(), home.serving());
    writer.ask("PRAGMA busy_timeout = 0").unwrap();
    leader.ask("SELECT n FROM note").unwrap();
    until("the first process leads", Duration::from_secs(10), || home.leader() == Some(leader.pid()));
    let (mut beside, mut longest) = (0, Duration::ZERO);
    loop {
        let stored = leader.ask("SELECT txid_stored FROM litestream_status").unwrap() != "Null";
        let began = Instant::now();
        writer.ask("UPDATE note SET n = n + 1").unwrap_or_else(|e| panic!("after {beside} commits: {e}"));
        longest = longest.max(began.elapsed());
        if stored {
            break;
        }
        beside += 1;
        assert!(beside < 100_000, "the image does not end: {:?}", leader.ask("status"));
    }
    println!("{beside} commits beside the image, the longest took {longest:?}");
    assert!(beside > 10, "{beside} commits beside the image: it was too short to show anything");
    assert!(longest < SLOW, "a commit took {longest:?}");
    leader.ask("sync").unwrap();
    leader.ask("image").unwrap();
    home.assert_equal(false, "written to beside its first image");
}

// Goal: a database under the name of one just deleted opens, whatever the Leader does with the old one's Segments at
// that moment, and its replica is the new one. Method: hundreds of short lives under one name, each with commits.
#[test]
fn a_deleted_database_makes_room_for_the_next_at_once() {
    let home = Home::new("a_deleted_database_makes_room_for_the_next_at_once");
    hand::load();
    let uri = format!("{}&restore=never", home.uri().replace("sync-interval=100ms", "sync-interval=1ms"));
    for n in 0..FILES {
        let db = hand::open(&uri).unwrap_or_else(|e| panic!("file {n}: {e}"));
        db.execute_batch("CREATE TABLE t(n, data)").unwrap();
        for row in 0..8 {
            db.execute("INSERT INTO t VALUES (?, randomblob(900))", [row]).unwrap();
        }
        if n + 1 < FILES {
            drop(db);
            std::fs::remove_file(home.path()).unwrap();
        } else {
            hand::sync(&db, 30).unwrap();
            std::fs::write(home.folder.path().join("image"), ledger::image(&home.path())).unwrap();
            home.assert_equal(false, "the last of many");
        }
    }
}

/// Ends inside a transaction, with a first page that is none: what a file looks like that is being written to, or was
/// when the power went.
fn leave_inside() -> ! {
    hand::load();
    let db = hand::open(&crew::setting("CREW_URI")).unwrap();
    db.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; UPDATE note SET n = n + 1; BEGIN IMMEDIATE; UPDATE note SET n = n + 1",
    )
    .unwrap();
    let mut file = std::fs::File::options().write(true).open(db.path().unwrap()).unwrap();
    file.seek(std::io::SeekFrom::Start(16)).and_then(|_| file.write_all(&[0x6b; 2])).unwrap();
    std::mem::forget(file); // closing it would drop SQLite's locks
    std::mem::forget(db);
    crew::say("C", 1);
    std::process::exit(0);
}

// Goal: a process that ends inside a transaction does not wait for what nobody can finish. Method: exclusive locking, so
// that no image could be made, a transaction that is open, a header that cannot be read; then exit.
#[test]
fn a_process_that_ends_inside_a_transaction_ends_at_once() {
    play();
    let home = Home::new("a_process_that_ends_inside_a_transaction_ends_at_once");
    with_content(&home, 1);
    let mut order = home.order("leave-inside", "up");
    order.env("CREW_URI", home.uri().replace("shutdown-sync-timeout=5s", "shutdown-sync-timeout=30s"));
    let began = Instant::now();
    let member = Member::start(order);
    until("it is inside its transaction", Duration::from_secs(20), || member.heard().committed > 0);
    let heard = member.leave();
    assert!(heard.wrong.is_empty(), "{heard:?}");
    assert!(began.elapsed() < AT_ONCE, "it took {:?} to end: {:?}", began.elapsed(), heard.notes);
}
