//! What a replica in a folder looks like to others, and what a writer that died leaves.

use bytes::Bytes;
use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::ltx::{Level, Span, Txid};
use litestream_engine::store::{Body, Io, Put, ReplicaUrl, Store};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CREATED: Time = Time(1_795_185_053_360);

fn open(root: &Path) -> Store {
    let url = ReplicaUrl::parse(root.to_str().expect("UTF-8")).expect("a path is a URL");
    Store::open(&url, &|_| None, &Io::new()).expect("opened")
}

fn put(store: &Store, txid: u64, bytes: &'static [u8]) -> Result<Put, Error> {
    store.put(Level::RAW, Span::one(Txid(txid)), CREATED, Body::Bytes(Bytes::from_static(bytes)))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it exists");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Goal: Litestream's layout, to the letter: names, modes, times. Method: look at the folder.
#[test]
fn the_layout_is_litestreams() {
    let temporary = tempfile::tempdir().expect("a folder");
    let root = temporary.path().join("new/replica");
    let store = open(&root);
    assert!(!root.exists(), "opening makes nothing");
    assert_eq!(store.list(Level::RAW).expect("listed"), []);
    assert!(!root.exists(), "listing makes nothing");
    put(&store, 0x2a, b"bytes").expect("stored");
    let image = Span { min: Txid(1), max: Txid(9) };
    store.put(Level::SNAPSHOT, image, CREATED, Body::Bytes(Bytes::from_static(b"image"))).expect("stored");
    assert_eq!(names(&root.join("ltx")), ["0", "9"]);
    assert_eq!(names(&root.join("ltx/9")), ["0000000000000001-0000000000000009.ltx"]);
    let level = root.join("ltx/0");
    assert_eq!(names(&level), ["000000000000002a-000000000000002a.ltx"], "and no temporary file");
    let about = fs::metadata(level.join(&names(&level)[0])).expect("it is there");
    assert_eq!(about.mode() & 0o777, 0o600);
    assert_eq!(about.nlink(), 1);
    assert_eq!((about.mtime(), about.mtime_nsec()), (1_795_185_053, 360_000_000));
    for folder in [&root, &root.join("ltx"), &level] {
        assert_eq!(fs::metadata(folder).expect("it is there").mode() & 0o777, 0o700, "{}", folder.display());
    }
}

/// Goal: what others keep in the folder stays theirs. Method: names that are nearly those of LTX files, listed and left.
#[test]
fn foreign_names_are_passed_over_and_never_touched() {
    let root = tempfile::tempdir().expect("a folder");
    let level = root.path().join("ltx/0");
    fs::create_dir_all(level.join("0000000000000007-0000000000000007.ltx")).expect("a folder with a file's name");
    let foreign = [
        "readme.txt",
        "0000000000000001-0000000000000001.ltx.tmp",
        "000000000000000A-000000000000000A.ltx",
        "0000000000000002-0000000000000001.ltx",
        "0000000000000000-0000000000000001.ltx",
        ".0000000000000001-0000000000000001.ltx",
        "x.part",
    ];
    for name in foreign {
        fs::write(level.join(name), "theirs").expect("written");
    }
    let store = open(root.path());
    assert_eq!(store.list(Level::RAW).expect("listed"), []);
    put(&store, 1, b"ours").expect("stored");
    assert_eq!(store.list(Level::RAW).expect("listed").len(), 1);
    for name in foreign {
        assert_eq!(fs::read_to_string(level.join(name)).expect("still there"), "theirs", "{name}");
    }
}

/// Another process that holds a file as a writer does: a Python that locks it and waits for its input to end.
fn writer(file: &Path) -> Child {
    let script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()";
    let mut child = Command::new("python3")
        .args(["-c", script, file.to_str().expect("UTF-8")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it locks");
    assert_eq!(line, "locked\n");
    child
}

/// Goal: what a writer that died left is swept, what one that lives is writing is not. Method: three temporary
/// files, one held by another process.
#[test]
fn leftovers_of_dead_writers_are_swept_and_those_of_living_ones_stay() {
    let root = tempfile::tempdir().expect("a folder");
    let level = root.path().join("ltx/0");
    fs::create_dir_all(&level).expect("made");
    let name = "0000000000000001-0000000000000001.ltx";
    let (dead, living) = (level.join(format!(".{name}.1-0.part")), level.join(format!(".{name}.2-0.part")));
    fs::write(&dead, "half").expect("written");
    let mut child = writer(&living);
    put(&open(root.path()), 5, b"ours").expect("stored");
    assert!(!dead.exists());
    assert!(living.exists(), "its writer lives");
    drop(child.stdin.take());
    child.wait().expect("it ends");
    put(&open(root.path()), 6, b"ours").expect("stored");
    assert!(!living.exists(), "its writer is gone");
    assert_eq!(names(&level).len(), 2);
}

/// Goal: a disk that says no is an error with the file's name, and nothing half is left. Method: a folder
/// that may not be written (as a user without privileges), and a file where the folder should be.
#[test]
fn what_cannot_be_written_is_said_and_leaves_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("file");
    fs::write(&file, "x").expect("written");
    let ended = put(&open(&file), 1, b"bytes");
    let Err(error @ Error::Io { .. }) = &ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    let listed = open(&file).list(Level::RAW);
    assert!(listed.is_err(), "a file is no empty replica: {listed:?}");

    let closed = root.path().join("closed");
    let store = open(&closed);
    put(&store, 1, b"bytes").expect("stored");
    let level = closed.join("ltx/0");
    fs::set_permissions(&level, fs::Permissions::from_mode(0o500)).expect("closed");
    let is_root = fs::metadata("/proc/self").expect("it exists").uid() == 0;
    let ended = put(&store, 2, b"bytes");
    assert_eq!(ended.is_ok(), is_root, "only root may: {ended:?}");
    fs::set_permissions(&level, fs::Permissions::from_mode(0o700)).expect("opened again");
    put(&store, 2, b"bytes").expect("stored, or there already");
    let missing = Body::File(&root.path().join("nothing"));
    assert!(store.put(Level::RAW, Span::one(Txid(3)), CREATED, missing).is_err());
    assert_eq!(names(&level).len(), 2, "nothing half is left");
}

/// Goal: a folder removed under a store that runs (a volume mounted anew) comes back by itself. Method: remove it, put.
#[test]
fn a_folder_that_went_away_is_made_again() {
    let root = tempfile::tempdir().expect("a folder");
    let store = open(&root.path().join("replica"));
    put(&store, 1, b"bytes").expect("stored");
    fs::remove_dir_all(root.path().join("replica")).expect("removed");
    assert_eq!(put(&store, 2, b"bytes").expect("stored"), Put::Stored);
    assert_eq!(store.list(Level::RAW).expect("listed").len(), 1);
}
