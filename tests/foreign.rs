//! Processes without the extension on a replicated database: whatever they do, it is noticed and healed, and a replica
//! never silently differs.
//!
//! Foreign work is done by Debian's `sqlite3` shell and by this program without the library; ours is a member of the crew.

#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;
mod support;

use members::crew::Member;
use members::dice::Dice;
use members::home::{Home, all, play};
use std::time::{Duration, Instant};

/// One transaction on the ledger, in SQL.
const TRANSACT: &str = "BEGIN IMMEDIATE; UPDATE counter SET n = n + 1; INSERT INTO entry SELECT n, 'shell' FROM counter; \
     INSERT OR REPLACE INTO junk VALUES(7, 7, randomblob(9000)); \
     UPDATE counter SET sum = (SELECT sum(weight) FROM junk) + n; COMMIT;";

/// Debian's shell, without the extension.
fn shell(home: &Home, sql: &str) -> String {
    let sql = format!(".bail on\n.timeout 10000\n{sql}\n");
    support::run(home.folder.path(), "sqlite3", &["-batch", "app.db"], &sql).ok()
}

/// The program `sh`, for what people do to files.
fn files(home: &Home, script: &str) {
    support::run(home.folder.path(), "sh", &["-ec", script], "").ok();
}

/// What somebody does to the database of a home.
type Deed = fn(&Home);

/// What can be done while ours has the database open in WAL mode.
const BESIDE_US: &[(&str, Deed)] = &[
    ("one write", |home| {
        shell(home, TRANSACT);
    }),
    ("a write and a PASSIVE checkpoint", |home| {
        shell(home, &format!("{TRANSACT} PRAGMA wal_checkpoint(PASSIVE);"));
    }),
    ("a write and a FULL checkpoint", |home| {
        shell(home, &format!("{TRANSACT} PRAGMA wal_checkpoint(FULL);"));
    }),
    ("a write, a RESTART checkpoint and a write into the new life", |home| {
        shell(home, &format!("{TRANSACT} PRAGMA wal_checkpoint(RESTART); {TRANSACT}"));
    }),
    ("a write and a TRUNCATE checkpoint", |home| {
        shell(home, &format!("{TRANSACT} PRAGMA wal_checkpoint(TRUNCATE);"));
    }),
    ("a TRUNCATE checkpoint and a write", |home| {
        shell(home, &format!("PRAGMA wal_checkpoint(TRUNCATE); {TRANSACT}"));
    }),
    ("a hundred writes with checkpoints all the time", |home| {
        shell(home, &format!("PRAGMA wal_autocheckpoint=3; {}", TRANSACT.repeat(100)));
    }),
    ("VACUUM", |home| {
        shell(home, "DELETE FROM junk; UPDATE counter SET sum = n; VACUUM;");
    }),
    ("a table comes and goes", |home| {
        shell(home, &format!("CREATE TABLE foreign_table(x); {TRANSACT} DROP TABLE foreign_table;"));
    }),
];

/// What needs the database closed by everybody else.
const WITHOUT_US: &[(&str, Deed)] = &[
    ("a write and the last close", |home| {
        shell(home, TRANSACT);
    }),
    ("writes, a checkpoint and a close that leaves the WAL", |home| {
        shell(home, &format!("{TRANSACT} PRAGMA wal_checkpoint(TRUNCATE); {TRANSACT}\n.filectrl persist_wal 1\n"));
    }),
    ("journal_mode=DELETE and a write", |home| {
        shell(home, &format!("PRAGMA journal_mode=DELETE; {TRANSACT}"));
    }),
    ("journal_mode=WAL and a write", |home| {
        shell(home, &format!("PRAGMA journal_mode=WAL; {TRANSACT}"));
    }),
    ("to DELETE and back with a write between", |home| {
        shell(home, &format!("PRAGMA journal_mode=DELETE; {TRANSACT} PRAGMA journal_mode=WAL;"));
    }),
    ("another page size", |home| {
        shell(home, "PRAGMA journal_mode=DELETE; PRAGMA page_size=8192; VACUUM; PRAGMA journal_mode=WAL;");
    }),
    ("VACUUM", |home| {
        shell(home, "DELETE FROM junk; UPDATE counter SET sum = n; VACUUM;");
    }),
    ("replaced by rename", |home| {
        files(home, "cp app.db new.db");
        support::run(home.folder.path(), "sqlite3", &["new.db"], TRANSACT).ok();
        files(home, "mv new.db app.db; rm -f app.db-wal app.db-shm");
    }),
    ("replaced by an equal file", |home| {
        files(home, "cp app.db new.db; mv new.db app.db; rm -f app.db-wal app.db-shm");
    }),
    ("an older copy put back over it", |home| {
        files(home, "cp app.db old.db");
        shell(home, &TRANSACT.repeat(3));
        files(home, "cp old.db app.db; rm -f app.db-wal app.db-shm");
    }),
    ("an older copy of the same size, times kept, put back over it", |home| {
        files(home, "cp -p app.db old.db");
        shell(home, "UPDATE entry SET who = 'nobody' WHERE n = 1;");
        files(home, "cat old.db > app.db; touch -r old.db app.db; rm -f app.db-wal app.db-shm");
    }),
    ("a restore by the shell", |home| {
        shell(home, ".backup copy-of-app.db");
        shell(home, TRANSACT);
        shell(home, ".restore copy-of-app.db");
    }),
];

/// Ours looks again: after a sync the replica is the database.
#[track_caller]
fn assert_healed(home: &Home, ours: &mut Member, story: &str) {
    let judged = ours.ask("judge").unwrap_or_else(|e| panic!("{story}: {e}"));
    ours.ask("sync").unwrap_or_else(|e| panic!("{story} ({judged} transactions): {e}"));
    ours.ask("image").unwrap();
    // Only SQLite's own free pages may differ where no WAL was in between.
    home.assert_equal(true, story);
}

// Goal: what a process without the extension does beside ours is in the replica after our next sync. Method: each deed
// of Debian's shell while our connection is open, in three states of ours; then ours goes on.
#[test]
fn what_the_shell_does_beside_us_is_replicated() {
    play();
    let home = Home::begun("what_the_shell_does_beside_us_is_replicated", "WAL");
    let mut ours = home.serving();
    for (what, deed) in BESIDE_US {
        for state in ["stored", "ahead of the store", "right after a reset"] {
            ours.ask("transact").unwrap();
            match state {
                "stored" => drop(ours.ask("sync").unwrap()),
                "right after a reset" => drop(ours.ask("PRAGMA wal_checkpoint(TRUNCATE)").unwrap()),
                _ => {}
            }
            deed(&home);
            assert_healed(&home, &mut ours, &format!("{what}, ours was {state}"));
            ours.ask("transact").unwrap();
            assert_healed(&home, &mut ours, &format!("{what}, ours was {state} and went on"));
        }
    }
    all([ours.leave()]);
}

// Goal: the same for what happens while ours has it closed. Method: each deed between a close and an open, with the
// process of ours alive or ended in between, its last work stored or not; then ours goes on.
#[test]
fn what_happens_while_we_have_it_closed_is_replicated() {
    play();
    for (what, deed) in WITHOUT_US {
        let home = Home::begun("what_happens_while_we_have_it_closed_is_replicated", "WAL");
        for (alive, stored) in [(true, true), (true, false), (false, true), (false, false)] {
            let story = format!("{what}; process alive: {alive}, all stored before: {stored}");
            let mut ours = home.serving();
            ours.ask("PRAGMA journal_mode=WAL").unwrap();
            ours.ask("transact").unwrap();
            if stored {
                ours.ask("sync").unwrap();
            }
            ours.ask("close").unwrap();
            if !alive {
                all([ours.leave()]);
                deed(&home);
                ours = home.serving();
            } else {
                deed(&home);
                ours.ask("open").unwrap_or_else(|e| panic!("{story}: {e}"));
            }
            assert_healed(&home, &mut ours, &story);
            ours.ask("transact").unwrap();
            assert_healed(&home, &mut ours, &format!("{story}; ours went on"));
            all([ours.leave()]);
        }
    }
}

// Goal: one process in four without the extension changes nothing about the end. Method: three processes with it and one
// without work at random at the same time; at every end the replica is the database, byte for byte.
#[test]
fn one_foreign_process_in_four_is_healed() {
    play();
    let first = std::env::var("LITESTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rounds = std::env::var("LITESTREAM_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4);
    println!("seeds {first}..{}", first + rounds);
    for seed in first..first + rounds {
        let mut dice = Dice::new(seed);
        let mut home = Home::new("one_foreign_process_in_four_is_healed");
        home.interval = dice.of(&["0", "20ms", "100ms", "1s"]);
        let mut begin = home.order("begin", "up");
        begin.env("CREW_MODE", "WAL");
        all([Member::start(begin).leave()]);
        for life in 0..2 {
            let story = format!("seed {seed}, life {life}, sync-interval {}", home.interval);
            let crew: Vec<Member> = ["up", "up", "up", "none"]
                .map(|store| {
                    let mut command = home.order("work", store);
                    command.env("CREW_SEED", dice.below(1 << 30).to_string());
                    command.env("CREW_CONNECTIONS", (1 + dice.below(2)).to_string());
                    Member::start(command)
                })
                .into();
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(300 + dice.below(500)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let heard = all(crew.into_iter().map(Member::leave));
            let mut ours = home.serving();
            let n: i64 = ours.ask("judge").unwrap_or_else(|e| panic!("{story}: {e}")).parse().unwrap();
            assert!(n >= heard.committed, "{story}: {n} of {} transactions are there", heard.committed);
            ours.ask("sync").unwrap_or_else(|e| panic!("{story}: {e}"));
            ours.ask("image").unwrap();
            home.assert_equal(false, &story);
            all([ours.leave()]);
        }
    }
}
