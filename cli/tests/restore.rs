//! The command line as scripts use it: texts, exit codes, what stands on disk afterwards.
//!
//! Replicas are those that Litestream wrote (`tests/golden`), copied with the times of their manifest, or made here.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/command.rs"]
mod command;
#[path = "../../tests/support/golden.rs"]
mod golden;

use command::{Run, refused, run};
use golden::golden;
use litestream_engine::clock::Time;
use litestream_engine::ltx::{Encoder, Header, Span, Txid};
use litestream_engine::page::{PageSize, Pgno};
use serde_json::Value;
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

const SET: &str = "ls-0.5-file-levels";

struct Scene {
    folder: TempDir,
}

impl Scene {
    /// Litestream's replica in `replica`, an empty folder beside it.
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        golden::copy(SET, &folder.path().join("replica"));
        fs::create_dir(folder.path().join("data")).unwrap();
        Scene { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("replica"))
    }

    /// What stands in the folder of the database.
    fn data(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("data")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn restore(&self, flags: &[&str]) -> Run {
        let (out, url) = (self.path("data/app.db"), self.url());
        run(&[&["restore", "-o", &out], flags, &[&url]].concat())
    }

    fn is_latest(&self) -> bool {
        fs::read(self.path("data/app.db")).unwrap() == fs::read(golden(SET).join("expected/latest.db")).unwrap()
    }
}

/// Goal: a plain restore is silent and leaves the database alone in its folder. Method: the golden replica, also with
/// two dashes, with values after `=`, and with one thread and many.
#[test]
fn a_plain_restore_prints_nothing() {
    let flags: [&[&str]; 5] =
        [&[], &["--parallelism", "1"], &["-parallelism=32", "-json=false"], &["--integrity-check=full"], &["--force"]];
    for flags in flags {
        let scene = Scene::new();
        let done = scene.restore(flags);
        let said = if flags.contains(&"--integrity-check=full") { "post-restore integrity check passed" } else { "" };
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{flags:?}");
        assert!(if said.is_empty() { done.out.is_empty() } else { done.out.contains(said) }, "{}", done.out);
        assert_eq!(scene.data(), ["app.db"]);
        assert!(scene.is_latest());
    }
}

/// Goal: folders on the way to the database are made, and a replica may be a plain path. Method: a deeper output.
#[test]
fn missing_folders_are_made() {
    let scene = Scene::new();
    let deep = scene.path("data/a/b/app.db");
    assert_eq!(run(&["restore", "-o", &deep, &scene.path("replica")]).code, 0);
    assert!(fs::read(&deep).unwrap() == fs::read(golden(SET).join("expected/latest.db")).unwrap());
    let nothing = scene.path("data/c/app.db");
    assert_eq!(run(&["restore", "-if-replica-exists", "-o", &nothing, &scene.path("none")]).code, 0);
    assert!(!Path::new(&scene.path("data/c")).exists(), "no backup, no trace");
}

/// Goal: mistakes are refused in Litestream's words with exit code 1. Method: each once.
#[test]
fn mistakes_are_refused_in_known_words() {
    let scene = Scene::new();
    let (out, url) = (scene.path("data/app.db"), scene.url());
    let with = |flags: &[&str]| refused(&[&["restore", "-o", &out], flags, &[&url]].concat());
    assert_eq!(refused(&["restore"]), "Error: database path or replica URL required");
    assert_eq!(refused(&["restore", &url]), "Error: -o is required when restoring from a replica URL");
    let hint = run(&["restore", &url]).err;
    assert!(hint.contains(&format!("Try: litestream-vfs restore -o /path/to/db {url}")), "{hint}");
    assert_eq!(with(&["-txid", "3"]), "Error: invalid value \"3\" for flag -txid: invalid txid format");
    assert_eq!(
        with(&["-txid", "0000000000000001", "-timestamp", "2026-01-01T00:00:00Z"]),
        "Error: cannot specify index & timestamp to restore"
    );
    assert_eq!(
        with(&["-timestamp", "yesterday"]),
        "Error: invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z): \"yesterday\""
    );
    assert!(with(&["-timestamp", "2000-01-01T00:00:00Z"]).starts_with("Error: timestamp does not exist"));
    assert!(with(&["-timestamp", "2100-01-01T00:00:00Z"]).starts_with("Error: timestamp does not exist"));
    assert!(with(&["-txid", "0000000000000039"]).starts_with("Error: no matching backup files available"));
    assert!(with(&["-txid", "000000000000004b"]).starts_with("Error: no matching backup files available"));
    assert!(with(&["-integrity-check", "half"]).contains("for flag -integrity-check"));
    assert!(with(&["-parallelism", "0"]).contains("for flag -parallelism"));
    assert!(with(&["-paralelism", "2"]).starts_with("Error: flag provided but not defined: -paralelism"));
    assert!(refused(&["restore", "-o"]).contains("argument: -o"));
    assert_eq!(refused(&["resore"]), "Error: litestream-vfs resore: unknown command");
    let text = refused(&["restore", "-o", &out, "ftp://host/x"]);
    assert!(text.starts_with("Error: ") && text.contains("ftp"), "{text}");
    let text = refused(&[]);
    assert!(text.starts_with("Error: ") && text.contains("command"), "{text}");
    assert_eq!(scene.data(), [""; 0]);
    for help in [&["help"][..], &["-h"], &["--help"], &["restore", "-h"], &["-help"]] {
        let done = run(help);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{help:?}");
        assert!(done.out.contains("Usage"), "{help:?}");
    }
    assert_eq!(run(&["version"]).out, format!("{}\n", env!("CARGO_PKG_VERSION")));
}

/// Goal: where there is no backup the two flags say whether that is a failure. Method: an empty replica and an
/// unreachable transaction.
#[test]
fn no_backup_is_a_failure_unless_it_was_asked_about() {
    let scene = Scene::new();
    let (out, empty) = (scene.path("data/app.db"), scene.path("empty"));
    assert!(refused(&["restore", "-o", &out, &empty]).starts_with("Error: no matching backup files available"));
    assert_eq!(
        refused(&["restore", "-if-replica-exists", "-timestamp", "2026-01-01T00:00:00Z", "-o", &out, &empty]),
        "Error: no backups found"
    );
    for done in [
        run(&["restore", "-if-replica-exists", "-o", &out, &empty]),
        scene.restore(&["-if-replica-exists", "-txid", "0000000000000039"]),
    ] {
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        assert!(done.out.contains("level=INFO msg=\"no matching backups found\""), "{}", done.out);
    }
    let json = run(&["restore", "-json", "-if-replica-exists", "-o", &out, &empty]);
    assert_eq!((json.code, json.out.as_str()), (0, ""), "stdout is for JSON");
    assert_eq!(scene.data(), [""; 0]);
}

/// Goal: nothing that has content is overwritten unasked. Method: a full file, an empty one, an empty one with a WAL, a
/// folder, and the flag that skips.
#[test]
fn existing_files_are_left_alone() {
    let scene = Scene::new();
    let out = scene.path("data/app.db");
    let write = |name: &str, text: &str| fs::write(scene.path(name), text).unwrap();
    write("data/app.db", "mine");
    let full = scene.restore(&[]);
    assert_eq!(full.code, 1);
    assert!(full.err.starts_with(&format!(
        "Error: cannot restore, output path already exists and is not empty: {out}. Use -force"
    )));
    let skipped = scene.restore(&["-if-db-not-exists"]);
    assert_eq!(skipped.code, 0);
    assert!(skipped.out.contains("msg=\"database already exists, skipping\""));
    assert_eq!(fs::read(&out).unwrap(), b"mine");

    write("data/app.db", "");
    write("data/app.db-wal", "something");
    let sidecar = scene.restore(&[]);
    assert!(sidecar.err.starts_with(&format!("Error: cannot restore, SQLite sidecar path already exists: {out}-wal")));
    fs::remove_file(scene.path("data/app.db-wal")).unwrap();
    assert_eq!(scene.restore(&[]).code, 0, "an empty file is replaced");
    assert!(scene.is_latest());

    fs::create_dir(scene.path("data/folder")).unwrap();
    let folder = refused(&["restore", "-force", "-o", &scene.path("data/folder"), &scene.url()]);
    assert!(folder.starts_with("Error: cannot restore, output path is a directory: "), "{folder}");
}

/// Goal: a link to a database stays a link. Method: `-force` through one; one that leads nowhere is refused.
#[test]
fn a_link_is_followed() {
    let scene = Scene::new();
    fs::create_dir(scene.path("elsewhere")).unwrap();
    fs::write(scene.path("elsewhere/real.db"), "old").unwrap();
    std::os::unix::fs::symlink(scene.path("elsewhere/real.db"), scene.path("data/app.db")).unwrap();
    assert_eq!(scene.restore(&["-force"]).code, 0);
    assert!(scene.is_latest());
    assert!(Path::new(&scene.path("data/app.db")).is_symlink());
    assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 1, "nothing is left beside it");
    fs::remove_file(scene.path("elsewhere/real.db")).unwrap();
    assert!(scene.restore(&[]).err.contains("a link that leads nowhere"));
}

/// Goal: `-force` keeps the old database until the new one is there. Method: a replica that turns out damaged, then
/// a good one; the old file's mode is kept and its WAL goes.
#[test]
fn force_replaces_only_by_a_complete_database() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    fs::write(scene.path("data/app.db"), "old").unwrap();
    fs::write(scene.path("data/app.db-wal"), "old wal").unwrap();
    fs::set_permissions(scene.path("data/app.db"), fs::Permissions::from_mode(0o640)).unwrap();
    let newest = scene.path("replica/ltx/0/000000000000004a-000000000000004a.ltx");
    let good = fs::read(&newest).unwrap();
    fs::write(&newest, &good[..good.len() - 10]).unwrap();
    let damaged = scene.restore(&["-force"]);
    assert_eq!(damaged.code, 1);
    assert!(damaged.err.contains("000000000000004a"), "{}", damaged.err);
    assert_eq!(scene.data(), ["app.db", "app.db-wal"]);
    assert_eq!(fs::read(scene.path("data/app.db-wal")).unwrap(), b"old wal");

    fs::write(&newest, &good).unwrap();
    let done = scene.restore(&["-force"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(scene.data(), ["app.db"]);
    assert!(scene.is_latest());
    let mode = fs::metadata(scene.path("data/app.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

/// Goal: a damaged snapshot does not keep anybody from the newest state, and one line on stderr says so. Method: the
/// newest snapshot of Litestream's own replica, damaged in three ways; also with JSON, to a transaction and to a time.
#[test]
fn a_damaged_snapshot_is_gone_around_and_named() {
    let flags: [&[&str]; 4] =
        [&[], &["-json"], &["-txid", "000000000000004a"], &["-parallelism", "1", "-integrity-check", "full"]];
    for way in 0..3 {
        for flags in flags {
            let scene = Scene::new();
            let name = "0000000000000001-0000000000000041.ltx";
            let path = scene.path(&format!("replica/ltx/9/{name}"));
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            match way {
                0 => bytes[middle] ^= 1,
                1 => bytes.truncate(middle),
                _ => bytes.truncate(20),
            }
            fs::write(&path, bytes).unwrap();
            let done = scene.restore(flags);
            assert_eq!(done.code, 0, "{way} {flags:?}: {}", done.err);
            assert!(scene.is_latest());
            let lines: Vec<&str> = done.err.lines().collect();
            assert_eq!(lines.len(), 1, "{way} {flags:?}: {lines:?}");
            let said = if way == 2 { "max=0000000000000041" } else { name };
            assert!(lines[0].contains(said) && lines[0].contains("level=WARN"), "{lines:?}");
            assert!(lines[0].contains("level 9 0000000000000001-0000000000000033.ltx"), "{lines:?}");
        }
    }
}

/// Goal: a WAL left by a database that is gone is not replayed over the restored one, and not lost. Method: a real WAL of
/// another life, without its database; afterwards SQLite must read exactly the replica's state.
#[test]
fn a_stale_wal_is_moved_aside() {
    let scene = Scene::new();
    assert_eq!(scene.restore(&[]).code, 0);
    let out = scene.path("data/app.db");
    let db = rusqlite::Connection::open(&out).unwrap();
    let rows =
        |db: &rusqlite::Connection| db.query_row("SELECT count(*) FROM step", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = rows(&db);
    db.execute_batch("PRAGMA journal_mode=WAL; DELETE FROM step;").unwrap();
    assert_eq!(rows(&db), 0);
    fs::copy(format!("{out}-wal"), scene.path("kept")).unwrap();
    drop(db);
    fs::remove_file(&out).unwrap();
    fs::rename(scene.path("kept"), format!("{out}-wal")).unwrap();

    let done = scene.restore(&[]);
    assert_eq!(done.code, 0);
    assert!(done.err.contains("app.db-wal") && done.err.contains("moved"), "{}", done.err);
    let names = scene.data();
    assert!(names.len() == 2 && names[1].starts_with("app.db-wal-stale-"), "{names:?}");
    assert_eq!(rows(&rusqlite::Connection::open(&out).unwrap()), before);
}

/// Goal: `-integrity-check` finds what checksums cannot, before anything is in place. Method: a replica of a database
/// with a broken tree, rightly encoded; one that is no database at all.
#[test]
fn an_integrity_check_keeps_a_broken_database_out() {
    let scene = Scene::new();
    let mut pages: Vec<Vec<u8>> = Vec::new();
    for chunk in fs::read(golden(SET).join("expected/latest.db")).unwrap().chunks(4096) {
        pages.push(chunk.to_vec());
    }
    pages[2][100..2000].fill(0xff);
    let broken = scene.path("broken");
    fs::create_dir_all(scene.path("broken/ltx/9")).unwrap();
    let header = Header::new(PageSize::new(4096).unwrap(), pages.len() as u32, Span::one(Txid(1)), Time(1));
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    for (pgno, page) in (1..).zip(&pages) {
        encoder.page(Pgno(pgno), page).unwrap();
    }
    fs::write(scene.path("broken/ltx/9").to_string() + "/" + &header.span.file_name(), encoder.finish().unwrap().0)
        .unwrap();
    let out = scene.path("data/app.db");
    for mode in ["quick", "full"] {
        let text = refused(&["restore", "-integrity-check", mode, "-o", &out, &broken]);
        assert!(text.starts_with("Error: post-restore integrity check: "), "{mode}: {text}");
        assert_eq!(scene.data(), [""; 0], "{mode}");
    }
    assert_eq!(run(&["restore", "-integrity-check", "none", "-o", &out, &broken]).code, 0);
}

/// Goal: `-json` gives one object that scripts can read, and nothing else on stdout. Method: with a check, and a target.
#[test]
fn json_tells_what_was_restored() {
    let scene = Scene::new();
    let done = scene.restore(&["-json", "-integrity-check", "quick", "-txid", "0000000000000048"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let value: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(value["db_path"], scene.path("data/app.db"));
    assert_eq!(
        (&value["replica"], &value["txid"], &value["integrity_check"]),
        (&"file".into(), &"0000000000000048".into(), &"quick".into())
    );
    assert!(value["duration_ms"].is_u64() && value["bytes"].as_u64() > Some(1000));
    assert!(done.err.contains("post-restore integrity check passed"));
    assert!(done.out.starts_with("{\n  \"") && done.out.ends_with("}\n"), "indented by two: {}", done.out);
}

/// Goal: `-dry-run` shows Litestream's plan in Litestream's form and writes nothing. Method: text and JSON.
#[test]
fn a_dry_run_shows_the_plan() {
    let scene = Scene::new();
    let done = scene.restore(&["-dry-run"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let lines: Vec<&str> = done.out.lines().collect();
    let (source, target) = (format!("  source: {}", scene.url()), format!("  target: {}", scene.path("data/app.db")));
    assert_eq!(lines[..4], ["Restore plan:", &source, &target, "  replica: file"]);
    assert_eq!(lines[4], "  txid range: 0000000000000001 - 000000000000004a");
    assert_eq!(
        lines[6..9],
        [
            "",
            "Files to fetch:",
            "level  file                                   min_txid          max_txid          size  timestamp",
        ]
    );
    assert!(lines[9].starts_with(
        "9      0000000000000001-0000000000000041.ltx  0000000000000001  0000000000000041  6516  2026-11-21T02:34:0"
    ));
    assert_eq!(lines.len(), 14);
    let json: Value = serde_json::from_str(&scene.restore(&["-dry-run", "-json"]).out).unwrap();
    assert_eq!(json["files"].as_array().unwrap().len(), 5);
    assert_eq!((&json["min_txid"], &json["max_txid"]), (&"0000000000000001".into(), &"000000000000004a".into()));
    assert_eq!(json["files"][1]["name"], "0000000000000041-0000000000000045.ltx");
    assert_eq!(
        json["bytes"].as_u64(),
        json["files"].as_array().unwrap().iter().map(|file| file["size"].as_u64()).sum()
    );
    assert_eq!(scene.data(), [""; 0]);
}

/// Goal: a time is strictly before, to the millisecond and finer. Method: the time of a file, a nanosecond later, a
/// millisecond later.
#[test]
fn a_timestamp_is_strictly_before() {
    let scene = Scene::new();
    let reached = |time: &str| {
        let done = scene.restore(&["-dry-run", "-json", "-timestamp", time]);
        let json: Value = serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{time}: {}", done.err));
        json["max_txid"].as_str().unwrap().trim_start_matches('0').to_string()
    };
    assert_eq!(reached("2026-11-21T02:34:01.189Z"), "43");
    assert_eq!(reached("2026-11-21T02:34:01.189000001Z"), "44");
    assert_eq!(reached("2026-11-21T02:34:01.19Z"), "44");
    assert_eq!(reached("2026-11-21T03:34:01.19+01:00"), "44");
}

/// Goal: a gap is an error for the latest state, and said for a time. Method: one raw file removed.
#[test]
fn a_gap_is_said() {
    let scene = Scene::new();
    fs::remove_file(scene.path("replica/ltx/0/0000000000000049-0000000000000049.ltx")).unwrap();
    let latest = scene.restore(&[]);
    let text = "non-contiguous ltx files: have up to 0000000000000048 but next file starts at 000000000000004a";
    assert_eq!((latest.code, latest.err.trim_end()), (1, format!("Error: cannot calc restore plan: {text}").as_str()));
    let newest = scene.path("replica/ltx/0/000000000000004a-000000000000004a.ltx");
    let later = UNIX_EPOCH + Duration::from_secs(1_795_300_000);
    fs::copy(&newest, scene.path("replica/ltx/0/000000000000004b-000000000000004b.ltx")).unwrap();
    let last =
        File::options().write(true).open(scene.path("replica/ltx/0/000000000000004b-000000000000004b.ltx")).unwrap();
    last.set_times(FileTimes::new().set_modified(later)).unwrap();
    let timed = scene.restore(&["-timestamp", "2026-11-21T20:00:00Z"]);
    assert_eq!(timed.code, 0, "{}", timed.err);
    assert!(timed.err.contains(text), "{}", timed.err);
}

/// Goal: `ltx` lists as Litestream's does. Method: one level, all levels, JSON, a wrong level, an empty replica.
#[test]
fn ltx_lists_the_files_of_a_replica() {
    let scene = Scene::new();
    let url = scene.url();
    let raw = run(&["ltx", &url]);
    let lines: Vec<&str> = raw.out.lines().collect();
    assert_eq!((raw.code, lines.len()), (0, 13), "{}", raw.err);
    assert_eq!(lines[0], "level  min_txid          max_txid          size  created");
    assert_eq!(lines[1], "0      000000000000003f  000000000000003f  1681  2026-11-21T02:33:58.589Z");
    assert_eq!(run(&["ltx", "-level", "all", &url]).out.lines().count(), 29);
    assert_eq!(run(&["ltx", "-level=9", &url]).out.lines().count(), 3);
    let json: Value = serde_json::from_str(&run(&["ltx", "-json", "-level", "1", &url]).out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 11);
    assert_eq!((&json[0]["level"], &json[0]["min_txid"]), (&1.into(), &"0000000000000024".into()));
    assert_eq!(
        refused(&["ltx", "-level", "12", &url]),
        "Error: invalid value \"12\" for flag -level: level must be between 0 and 9"
    );
    assert_eq!(run(&["ltx", "-json", &scene.path("none")]).out, "[]\n");
    assert_eq!(run(&["ltx", &scene.path("none")]).out, "level  min_txid  max_txid  size  created\n");
}
