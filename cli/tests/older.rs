//! What Litestream 0.3 left, by the command line: its listings, its flags, its texts; and `verify` on both layouts.
//!
//! Golden replicas, copied with the times of their manifests and damaged here.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/command.rs"]
mod command;
#[path = "../../tests/support/golden.rs"]
mod golden;

use command::{Run, run};
use golden::golden;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A golden set in `replica`, an empty folder `data` beside it.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(set: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        golden::copy(set, &folder.path().join("replica"));
        fs::create_dir(folder.path().join("data")).unwrap();
        Scene { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("replica").join(name)
    }

    fn url(&self) -> String {
        format!("file://{}", self.folder.path().join("replica").display())
    }

    fn flip(&self, name: &str) {
        let mut bytes = fs::read(self.file(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(self.file(name), bytes).unwrap();
    }

    fn restore(&self, flags: &[&str]) -> Run {
        let out = self.folder.path().join("data/app.db");
        run(&[&["restore", "-o", out.to_str().unwrap()], flags, &[&self.url()]].concat())
    }

    fn restored(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("data/app.db")).unwrap()
    }

    /// The report as JSON, whether it says "well" or not.
    fn verify(&self, flags: &[&str]) -> (i32, Value) {
        let done = run(&[&["verify", "-json"], flags, &[&self.url()]].concat());
        let value: Value = serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {}{}", done.out, done.err));
        assert_eq!(value["ok"].as_bool().unwrap(), done.code == 0, "{value:#}");
        assert_eq!(done.err.is_empty(), done.code == 0, "{}", done.err);
        (done.code, value)
    }
}

fn problems(value: &Value) -> String {
    value["problems"].to_string()
}

const NEWEST: &str = "generations/3f162aba3ae9b8d0";

/// Goal: the flags of 0.3 restore what they did. Method: `-generation`, `-index`, `-timestamp`, JSON, dry run, mistakes.
#[test]
fn the_flags_of_the_older_restore() {
    let expected = |name: &str| fs::read(golden("ls-0.3-file/expected").join(name)).unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&[], "latest.db"),
        (&["-integrity-check", "full"], "latest.db"),
        (&["-generation", "8337f87af47d025b"], "gen1.db"),
        (&["-generation", "8337f87af47d025b", "-index", "3"], "gen1-index.db"),
        (&["-timestamp", "2026-11-21T02:33:11.080392978Z"], "ts-equal.db"),
    ];
    for (flags, wanted) in cases {
        let scene = Scene::new("ls-0.3-file");
        let done = scene.restore(flags);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{flags:?}");
        assert!(scene.restored() == expected(wanted), "{flags:?}");
    }
    let scene = Scene::new("ls-0.3-file");
    let value: Value = serde_json::from_str(&scene.restore(&["-json", "-dry-run"]).out).unwrap();
    assert_eq!(
        (value["generation"].as_str(), value["files"].as_array().map(Vec::len)),
        (Some("3f162aba3ae9b8d0"), Some(6))
    );
    let value: Value = serde_json::from_str(&scene.restore(&["-json"]).out).unwrap();
    assert_eq!((value["index"].as_str(), value["pages"].as_u64()), (Some("00000003"), Some(7)));
    let refusals: [(&[&str], &str); 6] = [
        (
            &["-generation", "ffffffffffffffff"],
            "Error: no matching backups found: there is no generation ffffffffffffffff",
        ),
        (
            &["-generation", "8337f87af47d025b", "-index", "0"],
            "Error: cannot find snapshot index: no snapshots available",
        ),
        (&["-index", "zz"], "Error: invalid value \"zz\" for flag -index: invalid hexadecimal format"),
        (&["-index", "1", "-timestamp", "2026-11-21T02:33:11Z"], "Error: cannot specify index & timestamp to restore"),
        (&["-index", "1", "-txid", "0000000000000001"], "Error: cannot specify -txid with -generation or -index"),
        (&["-timestamp", "2026-11-21T02:33:33.293686125Z"], "Error: timestamp does not exist"),
    ];
    for (flags, wanted) in refusals {
        let done = scene.restore(&[&["-force"], flags].concat());
        assert!(done.code == 1 && done.err.starts_with(wanted), "{flags:?}: {}", done.err);
    }
    let done = scene.restore(&["-force", "-if-replica-exists", "-generation", "ffffffffffffffff"]);
    assert!(done.code == 0 && done.out.contains("no matching backups found"), "{}", done.err);
}

/// Goal: the listings are 0.3's. Method: its own lines; the lag depends on the day and is left out.
#[test]
fn the_listings_of_the_older() {
    let scene = Scene::new("ls-0.3-file");
    let list = |command: &str, flags: &[&str]| {
        let done = run(&[&[command], flags, &[&scene.url()]].concat());
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        done.out
    };
    let generations = list("generations", &[]);
    let words = |line: usize| -> Vec<String> {
        generations.lines().nth(line).unwrap().split_whitespace().map(str::to_string).collect()
    };
    assert_eq!(words(0), ["name", "generation", "lag", "start", "end"]);
    let second = words(2);
    assert_eq!(
        [&second[1], &second[3], &second[4]],
        ["8337f87af47d025b", "2026-11-21T02:33:06Z", "2026-11-21T02:33:14Z"]
    );
    assert!(second[2].ends_with('s'));
    let snapshots = list("snapshots", &[]);
    let lines: Vec<&str> = snapshots.lines().collect();
    assert_eq!(lines[0], "replica  generation        index  size  created");
    assert_eq!(lines[1], "file     3f162aba3ae9b8d0  0      7022  2026-11-21T02:33:26Z");
    assert_eq!(lines.len(), 7);
    let wal = list("wal", &["-generation", "8337f87af47d025b"]);
    let lines: Vec<&str> = wal.lines().collect();
    assert_eq!(lines[0], "replica  generation        index  offset  size  created");
    assert_eq!(lines[2], "file     8337f87af47d025b  1      4152    3956  2026-11-21T02:33:06Z");
    assert_eq!(lines.len(), 18);
    assert_eq!(
        list("wal", &["-generation", "ffffffffffffffff"]),
        "replica  generation  index  offset  size  created\n"
    );
    let value: Value = serde_json::from_str(&list("generations", &["-json"])).unwrap();
    assert_eq!(value[1]["end"], "2026-11-21T02:33:14.862717964Z");
}

/// Goal: a sound replica is found sound. Method: every golden set that is a folder, also with real restores.
#[test]
fn sound_replicas_have_no_problems() {
    for set in ["ls-0.5-file-levels", "ls-0.5-page512", "ls-0.5-page65536", "ls-0.5-autovacuum", "ls-0.3-file"] {
        let scene = Scene::new(set);
        let (code, value) = scene.verify(&["-full"]);
        assert_eq!((code, problems(&value).as_str()), (0, "[]"), "{set}: {value:#}");
        assert!(value["restored"].as_u64().unwrap() >= 1, "{set}: {value:#}");
    }
    let scene = Scene::new("ls-0.5-file-levels");
    let done = run(&["verify", &scene.url()]);
    assert!(done.code == 0 && done.out.contains("no problems") && done.out.contains("restorable: "), "{}", done.out);
    let nothing = run(&["verify", &format!("{}-none", scene.url())]);
    assert!(nothing.code == 1 && nothing.err.contains("no matching backup files available"), "{}", nothing.err);
}

/// Goal: damage is named and what can still be restored is told truly. Method: one damage at a time in Litestream's own
/// replica; each range that is promised is restored.
#[test]
fn damage_is_named_and_the_rest_is_promised_truly() {
    let level = |scene: &Scene, level: u8| -> Vec<String> {
        let folder = scene.file(&format!("ltx/{level}"));
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.into_iter().map(|name| format!("ltx/{level}/{name}")).collect()
    };
    type Damage = fn(&Scene, &str);
    let flip: Damage = |scene, name| scene.flip(name);
    let remove: Damage = |scene, name| fs::remove_file(scene.file(name)).unwrap();
    let cut: Damage = |scene, name| {
        let bytes = fs::read(scene.file(name)).unwrap();
        fs::write(scene.file(name), &bytes[..bytes.len() - 10]).unwrap();
    };
    for damage in [flip, cut, remove] {
        for pick in 0..4 {
            let scene = Scene::new("ls-0.5-file-levels");
            let name = match pick {
                0 => level(&scene, 9).last().unwrap().clone(),
                1 => level(&scene, 9)[0].clone(),
                2 => level(&scene, 0)[level(&scene, 0).len() - 2].clone(),
                _ => level(&scene, 1)[level(&scene, 1).len() / 2].clone(),
            };
            damage(&scene, &name);
            let (code, value) = scene.verify(&["-full"]);
            if scene.file(&name).exists() {
                assert_eq!(code, 1, "{name}: {value:#}");
                assert!(problems(&value).contains(name.trim_start_matches("ltx/")), "{name}: {value:#}");
            }
            assert!(!problems(&value).contains("does not restore"), "{name}: {value:#}");
            for range in value["restorable"].as_array().unwrap() {
                assert!(range["from"].as_str() <= range["to"].as_str(), "{value:#}");
            }
            assert!(!value["restorable"].as_array().unwrap().is_empty(), "{name}: {value:#}");
        }
    }
}

/// Goal: a hole is told with both of its ends. Method: the newest but one raw file removed, which nothing else covers.
#[test]
fn a_hole_is_told_with_both_ends() {
    let scene = Scene::new("ls-0.5-file-levels");
    fs::remove_file(scene.file("ltx/0/0000000000000049-0000000000000049.ltx")).unwrap();
    let (code, value) = scene.verify(&[]);
    assert_eq!(code, 1);
    let text = problems(&value);
    assert!(
        text.contains("0000000000000048 of 000000000000004a") && text.contains("starts at 000000000000004a"),
        "{text}"
    );
    let last = value["restorable"].as_array().unwrap().last().unwrap();
    assert_eq!(last["to"], "0000000000000048");
}

/// Goal: damage in 0.3's files is told as well. Method: a byte of a segment, a segment gone, all snapshots gone.
#[test]
fn damage_in_the_older_files_is_named() {
    let scene = Scene::new("ls-0.3-file");
    scene.flip(&format!("{NEWEST}/wal/00000002_00001038.wal.lz4"));
    let (code, value) = scene.verify(&[]);
    assert!(code == 1 && problems(&value).contains("00000002_00001038.wal.lz4"), "{value:#}");
    let scene = Scene::new("ls-0.3-file");
    fs::remove_file(scene.file(&format!("{NEWEST}/wal/00000002_00001038.wal.lz4"))).unwrap();
    let (code, value) = scene.verify(&[]);
    assert!(code == 1 && problems(&value).contains("expected 00000002/4152, got 00000002/45352"), "{value:#}");
    let scene = Scene::new("ls-0.3-file");
    fs::remove_dir_all(scene.file(&format!("{NEWEST}/snapshots"))).unwrap();
    let (code, value) = scene.verify(&["-full"]);
    assert!(code == 1 && problems(&value).contains("has none, only WAL segments"), "{value:#}");
}
