//! Mistakes at the command line: each ends with 1 and one sentence that says what is wrong, with which, and what to try;
//! none panics, and none is taken for something else. What Litestream lets pass, passes.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/command.rs"]
mod command;
#[path = "../../tests/support/golden.rs"]
mod golden;

use command::run;
use std::fs;
use std::process::Command;

/// A replica that Litestream wrote, an empty folder, a file, and the names of things that are not there.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        golden::copy("ls-0.5-file-levels", &folder.path().join("replica"));
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::write(folder.path().join("file"), "no folder").unwrap();
        Scene(folder)
    }

    /// `@name` in an argument is a path here.
    fn path(&self, argument: &str) -> String {
        match argument.strip_prefix('@') {
            Some(name) => self.0.path().join(name).to_str().unwrap().to_string(),
            None => argument.to_string(),
        }
    }

    /// Code, first line on stderr, and stdout.
    fn said(&self, arguments: &str) -> (i32, String, String) {
        let arguments: Vec<String> = arguments.split_whitespace().map(|argument| self.path(argument)).collect();
        let done = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!done.err.contains("panicked"), "{arguments:?}: {}", done.err);
        (done.code, done.err.lines().next().unwrap_or_default().to_string(), done.out)
    }
}

/// Goal: a wrong flag or value is named as it was typed, also one that begins with a dash. Method: each command with each
/// kind of mistake; nothing is on stdout and nothing was restored.
#[test]
fn a_wrong_flag_or_value_is_named_as_it_was_typed() {
    let scene = Scene::new();
    for (arguments, wanted) in [
        ("restore -o @out -parallelism -3 @replica", "invalid value \"-3\" for flag -parallelism"),
        ("restore -o @out -parallelism x @replica", "invalid value \"x\" for flag -parallelism"),
        ("restore -o @out -parallelism= @replica", "invalid value \"\" for flag -parallelism"),
        ("restore -o @out @replica -parallelism", "flag needs an argument: -parallelism"),
        ("restore -o @out -txid -1 @replica", "invalid value \"-1\" for flag -txid: invalid txid format"),
        ("restore -o @out -txid 5 @replica", "invalid value \"5\" for flag -txid: invalid txid format"),
        ("restore -o @out -timestamp -1 @replica", "invalid -timestamp, must specify in ISO 8601 format"),
        ("restore -o @out -timestamp 2020-13-01T00:00:00Z @replica", ": \"2020-13-01T00:00:00Z\""),
        ("restore -o @out -index -1 @replica", "invalid value \"-1\" for flag -index"),
        ("restore -o @out -f -follow-interval -1s @replica", "invalid value \"-1s\" for flag -follow-interval"),
        ("restore -o @out -force=maybe @replica", "invalid boolean value \"maybe\" for -force: parse error"),
        ("restore -o @out -bogus @replica", "flag provided but not defined: -bogus"),
        ("restore -o @out -paralelism 2 @replica", "(did you mean -parallelism?)"),
        ("ltx -level -1 @replica", "invalid value \"-1\" for flag -level: level must be between 0 and 9"),
        ("verify -parallelism 0 @replica", "invalid value \"0\" for flag -parallelism"),
        ("wal -generation zz @replica", "`zz` is not a generation"),
        ("status @file more", "too many arguments: more"),
    ] {
        let (code, err, out) = scene.said(arguments);
        assert!(code == 1 && out.is_empty() && err.contains(wanted), "{arguments}: {code} {err} {out}");
        assert!(!err.contains("mean -o?"), "{err}");
        assert!(!scene.0.path().join("out").exists(), "{arguments}");
    }
    let hint = Command::new(env!("CARGO_BIN_EXE_litestream-vfs")).args(["verify", "-parallelism", "0", "x"]).output();
    assert!(String::from_utf8(hint.unwrap().stderr).unwrap().contains("Try: litestream-vfs verify -parallelism 8"));
}

/// Goal: where there is no replica the sentence names the place that was looked at and says what is wrong with it. Method:
/// a folder that is missing, empty, or one below the replica; a file in its place; databases that are none.
#[test]
fn a_place_without_a_replica_is_named() {
    let scene = Scene::new();
    for (arguments, wanted) in [
        (
            "restore -o @out @missing",
            "no matching backup files available (replica file://@missing: there is no folder @missing)",
        ),
        ("restore -dry-run -json -o @out @missing", "there is no folder @missing"),
        ("restore -f -o @out @missing", "there is no folder @missing"),
        ("restore -o @out @empty", "no matching backup files available (replica file://@empty)"),
        ("restore -o @out @replica/ltx", "(replica file://@replica/ltx)"),
        ("verify @empty", "no matching backup files available (replica file://@empty)"),
        ("restore -o @out -index 0 @replica", "(replica file://@replica)"),
        ("restore -o @out @file", "@file is a file, and a replica is a folder"),
        ("ltx @file", "@file is a file, and a replica is a folder"),
        ("verify @file/below", "@file is a file, and a replica is a folder"),
        ("generations @file", "@file is a file, and a replica is a folder"),
        ("status @missing", "@missing is not replicated by this library from here: there is no such file"),
        ("status @empty", "@empty is not replicated by this library from here: it is a folder"),
        ("status @file", "@file is not replicated by this library from here: it was never opened with vfs=litestream"),
    ] {
        let (code, err, out) = scene.said(arguments);
        let root = scene.path("@");
        let wanted = wanted.replace('@', &root);
        assert!(code == 1 && out.is_empty() && err.contains(&wanted), "{arguments}: {code} {err} {out}");
    }
    let done = run(&["restore", "-o", &scene.path("@out"), &scene.path("@replica/ltx/0")]);
    let hint = format!("Try: {}, the folder that holds the replica", scene.path("@replica"));
    assert!(done.err.contains(&hint), "{}", done.err);
}

/// Goal: what Litestream lets pass is no mistake here. Method: a flag given twice, of which the last one counts; listings of
/// a folder that is not there, with a word about it beside the empty table.
#[test]
fn what_litestream_lets_pass_passes() {
    let scene = Scene::new();
    let twice = "restore -o @other -o @out -txid 0000000000000001 -txid 000000000000004a @replica";
    let (code, err, _) = scene.said(twice);
    assert!(code == 0 && scene.0.path().join("out").exists() && !scene.0.path().join("other").exists(), "{err}");
    for (arguments, wanted) in [("ltx -json @missing", "[]\n"), ("snapshots -json @missing", "[]\n")] {
        let (code, err, out) = scene.said(arguments);
        assert!(code == 0 && out == wanted && err.contains("there is no folder"), "{arguments}: {code} {err} {out}");
    }
}

/// Goal: `verify -full` without room for its restores says so before it reads the replica. Method: a TMPDIR that is missing,
/// and a replica that is missing too: the first is told.
#[test]
fn verify_full_looks_for_its_room_first() {
    let scene = Scene::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_litestream-vfs"));
    command.args(["verify", "-full", &scene.path("@missing")]).env("TMPDIR", scene.path("@nowhere"));
    let done = command.output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(
        done.status.code() == Some(1) && err.contains("where -full restores to") && err.contains("TMPDIR"),
        "{err}"
    );
}
