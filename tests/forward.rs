//! A database that is there and a replica that is beyond it: a proven ancestor is brought to the replica's end when it
//! is opened, everything else waits for a person, and both answers of that person work.
//!
//! Each machine is a folder, each run of an application a process of its own with Debian's Python and its SQLite.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::compactor::{self, Inputs};
use litestream_engine::due::Merge;
use litestream_engine::ltx::{Level, Txid};
use litestream_engine::plan::Target;
use process::Process;
use replicated::{Place, command_line, folder, integrity, pages_of, same_pages, wait_for};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SYNC: &str = "SELECT litestream_sync(60)";

/// A machine: the same database and replica in a folder of its own.
fn machine(folder: &Path, name: &str) -> Place {
    std::fs::create_dir_all(folder.join(name)).unwrap();
    Place::new(&folder.join(name), "app.db", &format!("file://{}", folder.join("replica").display()))
}

fn rows(process: &mut Process) -> Vec<String> {
    let rows = process.sql("SELECT who FROM t ORDER BY id");
    rows.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_string()).collect()
}

fn insert(process: &mut Process, who: &str) {
    process.sql(&format!("INSERT INTO t(who, ballast) VALUES ('{who}', randomblob(3000))"));
}

/// A new database with a few hundred pages, stored.
fn first_day(place: &Place, mode: &str) {
    let mut process = Process::start(place);
    process.sql(&format!("PRAGMA journal_mode={mode}"));
    process.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, who, ballast); CREATE TABLE u(b)");
    process.sql("INSERT INTO u SELECT randomblob(300000)");
    insert(&mut process, "first");
    process.sql(SYNC);
    process.end();
}

/// One more run of the application somewhere: it writes one row, which is stored.
fn one_day(place: &Place, who: &str) {
    let mut process = Process::start(place);
    insert(&mut process, who);
    process.sql(SYNC);
    process.end();
}

fn newest(place: &Place) -> Txid {
    place.listing().iter().map(|file| file.span.max).max().unwrap()
}

/// Files beside a database whose names hold a word.
fn beside(place: &Place, word: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(word)).collect()
}

/// The machine `a` comes back and finds what `b` did; it goes on without a new image.
fn comes_forward(a: &Place, b: &Place) {
    one_day(b, "second");
    let mut process = Process::start(a);
    assert_eq!(rows(&mut process), ["first", "second"]);
    insert(&mut process, "third");
    process.sql(SYNC);
    process.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    assert_eq!(integrity(&a.path), "ok");
    let last = a.listing().into_iter().filter(|file| file.level == Level::RAW).max_by_key(|file| file.span).unwrap();
    let (pages, commit) = pages_of(a.store().stream(&last).unwrap());
    assert!(pages * 4 < commit, "the last file is a new image: {pages} of {commit} pages");
}

/// Goal: a machine whose database is an earlier state of the replica goes on from the replica's end. Method: it stops,
/// another one restores and writes, it opens again; in WAL mode and with a rollback journal.
#[test]
fn an_ancestor_is_brought_to_the_end_of_its_replica() {
    for mode in ["WAL", "DELETE"] {
        let folder = folder();
        let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
        first_day(&a, mode);
        comes_forward(&a, &b);
        assert_eq!(beside(&a, "-behind"), Vec::<PathBuf>::new(), "{mode}: a proven state is kept twice");
    }
}

/// Goal: the same where the process was killed and its WAL is still there. Method: kill -9 when all was stored.
#[test]
fn an_ancestor_with_a_wal_is_brought_to_the_end_of_its_replica() {
    let folder = folder();
    let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&a, "WAL");
    let mut process = Process::start(&a);
    process.sql("UPDATE t SET ballast = randomblob(100)");
    process.sql(SYNC);
    process.kill();
    assert!(beside(&a, "app.db-wal").iter().any(|wal| wal.metadata().unwrap().len() > 0), "no WAL was left");
    comes_forward(&a, &b);
}

/// Goal: a disk snapshot of a database with its Spool is an ancestor by its pages. Method: copied (other inodes, other
/// times) while a commit was not stored yet, which is stored later; the copy comes back.
#[test]
fn a_disk_snapshot_is_brought_forward_by_its_pages() {
    let folder = folder();
    let (a, copy) = (machine(folder.path(), "a"), folder.path().join("copy"));
    first_day(&a, "WAL");
    let slow = a.clone().every("3s");
    let mut process = Process::start(&slow);
    insert(&mut process, "in the snapshot");
    let copied = Command::new("cp").arg("-r").arg(a.path.parent().unwrap()).arg(&copy).status().unwrap();
    assert!(copied.success());
    process.sql(SYNC);
    insert(&mut process, "after it");
    process.sql(SYNC);
    process.end();
    std::fs::remove_dir_all(a.path.parent().unwrap()).unwrap();
    std::fs::rename(&copy, a.path.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(format!("{}-shm", a.path.display()));
    let mut process = Process::start(&a);
    assert_eq!(rows(&mut process), ["first", "in the snapshot", "after it"]);
    process.end();
}

/// Merges every raw file but the last into one, and deletes those.
fn merge_all(place: &Place, folder: &Path) {
    let store = place.store();
    let mut inputs: Vec<_> = place.listing().into_iter().filter(|file| file.level == Level::RAW).collect();
    inputs.sort_by_key(|file| file.span);
    let last = inputs.pop().unwrap();
    let level = Level::new(1).unwrap();
    let from = Inputs { store: &store, local: &|_| None, go_on: &|| Ok(()), doubt: &|_| {} };
    let merge = Merge { level, inputs: inputs.clone() };
    let merged = compactor::merge(&from, &merge, &folder.join("merged")).unwrap();
    compactor::put(&store, level, &merged).unwrap();
    store.delete(&inputs.iter().map(|file| (file.level, file.span)).collect::<Vec<_>>()).unwrap();
    assert!(last.span.max > merged.header.span.max);
}

/// Goal: where the state that was stored is part of a larger file by now, the Spool's records prove the ancestor, and
/// its file is kept. Method: raw files merged and deleted between two days.
#[test]
fn an_ancestor_inside_a_merged_file_is_brought_forward_and_kept() {
    let folder = folder();
    let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&a, "WAL");
    let stored = newest(&a);
    one_day(&b, "second");
    one_day(&b, "third");
    one_day(&b, "fourth");
    merge_all(&b, folder.path());
    assert!(!a.listing().iter().any(|file| file.span.max == stored), "the boundary is still there");
    let mut process = Process::start(&a);
    assert_eq!(rows(&mut process), ["first", "second", "third", "fourth"]);
    process.end();
    let kept = beside(&a, "-behind");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(integrity(&kept[0]), "ok");
}

/// A machine with a commit that is not stored, and a replica that went on by another machine.
fn two_lines(folder: &Path) -> (Place, Place, Txid) {
    let (a, b) = (machine(folder, "a"), machine(folder, "b"));
    first_day(&a, "WAL");
    let stored = newest(&a);
    // Its replica is away, so that nothing can be stored.
    let (replica, away) = (folder.join("replica"), folder.join("away"));
    std::fs::rename(&replica, &away).unwrap();
    let mut process = Process::start(&a);
    insert(&mut process, "only here");
    process.kill();
    std::fs::rename(&away, &replica).unwrap();
    one_day(&b, "there");
    (a, b, stored)
}

/// Goal: what is no ancestor is not opened, and nothing is touched. Method: a commit that was never stored; the error
/// names both sides; again and again.
#[test]
fn a_line_of_its_own_is_refused_with_both_sides_named() {
    let folder = folder();
    let (a, _, stored) = two_lines(folder.path());
    let end = newest(&a);
    for _ in 0..2 {
        let said = Process::idle().open_error(&a.uri());
        for word in [stored.to_string(), end.to_string(), a.path.display().to_string(), "keep-local".into()] {
            assert!(said.contains(&word), "{word} is not in: {said}");
        }
        assert!(said.contains("take-replica") && said.contains("commits that are not in the replica"), "{said}");
    }
    assert_eq!(newest(&a), end);
    let plain = Connection::open(&a.path).unwrap();
    let count: i64 = plain.query_row("SELECT count(*) FROM t WHERE who = 'only here'", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

/// Goal: a person keeps what is here. Method: keep-local; the replica's newest state is this database, and the other
/// line's last state still restores.
#[test]
fn keep_local_makes_this_database_the_newest_state() {
    let folder = folder();
    let (a, _, _) = two_lines(folder.path());
    let (end, there) = (newest(&a), a.restored(Target::Latest));
    let mut process = Process::start(&a.clone().with("&on-conflict=keep-local"));
    assert_eq!(rows(&mut process), ["first", "only here"]);
    insert(&mut process, "and on");
    process.sql(SYNC);
    process.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    same_pages(&there, &a.restored(Target::Txid(end)));
    one_day(&a, "without saying so again");
}

/// Goal: a person takes what is there. Method: take-replica; the file that was here opens under its new name with all
/// that it had.
#[test]
fn take_replica_sets_the_file_aside_whole() {
    let folder = folder();
    let (a, _, _) = two_lines(folder.path());
    let mut process = Process::start(&a.clone().with("&on-conflict=take-replica"));
    assert_eq!(rows(&mut process), ["first", "there"]);
    insert(&mut process, "and on");
    process.sql(SYNC);
    process.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    let aside: Vec<_> =
        beside(&a, "-conflict").into_iter().filter(|path| !path.display().to_string().ends_with("-wal")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    let kept = Connection::open(&aside[0]).unwrap();
    let last: String = kept.query_row("SELECT who FROM t ORDER BY id DESC LIMIT 1", [], |row| row.get(0)).unwrap();
    assert_eq!(last, "only here");
}

/// Goal: a database that somebody has open is never replaced below him. Method: a plain connection, then none.
#[test]
fn an_ancestor_that_is_in_use_is_not_replaced() {
    let folder = folder();
    let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&a, "WAL");
    one_day(&b, "second");
    let plain = Connection::open(&a.path).unwrap();
    plain.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    let said = Process::idle().open_error(&a.uri());
    assert!(said.contains("has it open"), "{said}");
    drop(plain);
    let mut process = Process::start(&a);
    assert_eq!(rows(&mut process), ["first", "second"]);
    process.end();
}

/// Goal: a replica that was emptied, or lost files, gets an image that needs none of them. Method: all files deleted,
/// or the last ones; then a commit.
#[test]
fn a_replica_that_lost_files_gets_a_new_image() {
    for all in [true, false] {
        let folder = folder();
        let a = machine(folder.path(), "a");
        first_day(&a, "WAL");
        one_day(&a, "second");
        one_day(&a, "third");
        let mut files = a.listing();
        files.sort_by_key(|file| file.span.max);
        let lost = if all { files.len() } else { 2 };
        let lost: Vec<_> = files.iter().rev().take(lost).map(|file| (file.level, file.span)).collect();
        a.store().delete(&lost).unwrap();
        one_day(&a, "fourth");
        same_pages(&a.image(), &a.restored(Target::Latest));
    }
}

/// Goal: a replica that was deleted and written anew by another machine, and has come exactly as far, is not continued.
/// Method: as many transactions there as here; the open is refused, and one word resolves it.
#[test]
fn a_replica_that_was_replaced_is_not_continued() {
    let folder = folder();
    let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&a, "WAL");
    let stored = newest(&a);
    std::fs::remove_dir_all(folder.path().join("replica/ltx")).unwrap();
    first_day(&b, "WAL");
    while newest(&b) < stored {
        one_day(&b, "more");
    }
    assert_eq!(newest(&b), stored, "it has come further");
    let there = b.restored(Target::Latest);
    let said = Process::idle().open_error(&a.uri());
    assert!(said.contains("take-replica"), "{said}");
    same_pages(&there, &b.restored(Target::Latest));
    one_day(&a.clone().with("&on-conflict=keep-local"), "mine");
    same_pages(&a.image(), &a.restored(Target::Latest));
    same_pages(&there, &a.restored(Target::Txid(stored)));
}

/// Goal: a process that dies while a file gives way leaves what the next one completes. Method: killed at each point of
/// the change; the next open has the rows of the replica's end.
#[test]
fn a_process_killed_while_it_comes_forward_is_completed_by_the_next() {
    for pass in 1..=5 {
        let folder = folder();
        let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
        first_day(&a, "WAL");
        one_day(&b, "second");
        let killed = Process::try_start(&a.uri(), &[("LITESTREAM_FAULT", &format!("swap:{pass}"))]);
        assert!(!killed, "pass {pass}: it was not killed");
        let mut process = Process::start(&a);
        assert_eq!(rows(&mut process), ["first", "second"], "pass {pass}");
        insert(&mut process, "third");
        process.sql(SYNC);
        process.end();
        same_pages(&a.image(), &a.restored(Target::Latest));
        assert_eq!(integrity(&a.path), "ok");
    }
}

/// Goal: a volume that is not mounted is no empty replica. Method: the folder is away: nothing is made in its place,
/// the status says so, a missing database is not opened as a new one; it comes back, and all goes on.
#[test]
fn a_replica_folder_that_is_away_is_waited_for() {
    let folder = folder();
    let a = machine(folder.path(), "a");
    first_day(&a, "WAL");
    let (replica, away) = (folder.path().join("replica"), folder.path().join("away"));
    std::fs::rename(&replica, &away).unwrap();
    let mut process = Process::start(&a);
    insert(&mut process, "meanwhile");
    let said = std::cell::RefCell::new(process);
    wait_for("the status", Duration::from_secs(20), || {
        let row = said.borrow_mut().sql("SELECT last_error FROM litestream_status");
        row[0][0].as_str().is_some_and(|text| text.contains("mount"))
    });
    assert!(!replica.exists(), "a folder was made in the volume's place");
    std::fs::rename(&away, &replica).unwrap();
    let mut process = said.into_inner();
    process.sql(SYNC);
    process.end();
    same_pages(&a.image(), &a.restored(Target::Latest));
    std::fs::rename(&replica, &away).unwrap();
    std::fs::remove_file(&a.path).unwrap();
    let refused = Process::idle().open_error(&a.clone().with("&open-timeout=1s").uri());
    assert!(refused.contains("mount"), "{refused}");
    assert!(!a.path.exists());
    std::fs::rename(&away, &replica).unwrap();
    let mut process = Process::start(&a);
    assert_eq!(rows(&mut process), ["first", "meanwhile"]);
    process.end();
}

/// Goal: the command line tells an operator. Method: a database in order, then one that met another writer.
#[test]
fn the_command_line_fails_where_a_person_has_to_act() {
    let folder = folder();
    let (a, b) = (machine(folder.path(), "a"), machine(folder.path(), "b"));
    first_day(&a, "WAL");
    let status = |place: &Place| {
        let out = Command::new(command_line()).args(["status", "-json"]).arg(&place.path).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    assert_eq!(status(&a).0, Some(0), "{}", status(&a).1);
    let mut ours = Process::start(&a);
    ours.sql("SELECT count(*) FROM t");
    one_day(&b, "second");
    insert(&mut ours, "too late");
    wait_for("the status", Duration::from_secs(20), || status(&a).0 == Some(1));
    assert!(status(&a).1.contains("diverged"), "{}", status(&a).1);
    insert(&mut ours, "commits go on");
    ours.kill();
}
