//! Replicas that are damaged, mixed up or not there, and URLs that are none: always a sentence, never a panic,
//! never a file that SQLite would take for a database.
//!
//! Each damage meets an open of a missing database through the built library and the command line.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/process.rs"]
mod process;
#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use process::Process;
use replicated::{Place, command_line, folder, load, sync};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Damaged replicas tried at random; the seeds are 1, 2, …
const FLIPS: u64 = 400;

/// A replica with an image and raw files, and what it restores to.
struct Scene {
    folder: TempDir,
    place: Place,
    image: Vec<u8>,
    count: usize,
}

fn scene() -> Scene {
    load();
    let folder = folder();
    let place = Place::in_folder(folder.path(), "app.db").every("20ms");
    let connection = place.open_wal();
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, b)").unwrap();
    for n in 0..8 {
        connection.execute("INSERT INTO t(b) VALUES (randomblob(? * 4000))", [n]).unwrap();
        sync(&connection);
    }
    let image = place.image();
    Scene { folder, place, image, count: 0 }
}

/// The LTX files of a folder replica, in the order of their names.
fn files(replica: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for level in fs::read_dir(replica.join("ltx")).unwrap() {
        found.extend(fs::read_dir(level.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    found.sort();
    found
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() { copy_all(&from, &to) } else { fs::copy(from, to).map(|_| ()).unwrap() }
    }
}

impl Scene {
    /// A copy of the replica, for damage, and a place that has it.
    fn copy(&mut self) -> (PathBuf, Place) {
        self.count += 1;
        let replica = self.folder.path().join(format!("damaged-{}", self.count));
        copy_all(&self.folder.path().join("app.db-replica"), &replica);
        let path = self.folder.path().join(format!("new-{}.db", self.count));
        let place = Place { path, replica: format!("file://{}", replica.display()), ..self.place.clone() };
        (replica, place)
    }

    /// What a damaged replica says, at every door; nothing is left behind.
    fn refused(&self, place: &Place) -> String {
        let said = place.try_open().map(|_| ()).unwrap_err().to_string();
        is_a_sentence(&said);
        is_absent(&place.path);
        let out = place.path.with_extension("restored");
        let run = Command::new(command_line()).args(["restore", "-o"]).arg(&out).arg(&place.replica).output().unwrap();
        let (code, err) = (run.status.code(), String::from_utf8(run.stderr).unwrap());
        assert_eq!(code, Some(1), "{err}");
        is_a_sentence(&err);
        is_absent(&out);
        said
    }
}

fn is_a_sentence(said: &str) {
    let lower = said.to_lowercase();
    assert!(!lower.contains("panic") && !lower.contains("unwrap") && !lower.contains("defect"), "{said}");
    assert!(said.split_whitespace().count() > 4, "that says nothing: {said}");
}

fn is_absent(path: &Path) {
    for suffix in ["", "-wal", "-journal", "-shm", ".tmp"] {
        let file = format!("{}{suffix}", path.display());
        assert!(!Path::new(&file).exists(), "{file} was left");
    }
}

/// Goal: files that are shorter or longer than they were. Method: each file of the replica cut at telling lengths,
/// and one byte longer.
#[test]
fn files_of_a_wrong_length_are_refused() {
    let mut scene = scene();
    let originals = files(&scene.folder.path().join("app.db-replica"));
    for (n, original) in originals.iter().enumerate() {
        let whole = fs::read(original).unwrap();
        let lengths = [0, 1, 50, 99, 100, 101, 123, 124, whole.len() / 2, whole.len() - 17, whole.len() - 1];
        for length in lengths.into_iter().filter(|length| *length < whole.len()) {
            let (replica, place) = scene.copy();
            fs::write(&files(&replica)[n], &whole[..length]).unwrap();
            scene.refused(&place);
            fs::remove_dir_all(replica).unwrap();
        }
        let (replica, place) = scene.copy();
        fs::write(&files(&replica)[n], [&whole[..], b"x"].concat()).unwrap();
        scene.refused(&place);
        fs::remove_dir_all(replica).unwrap();
    }
}

/// Goal: no flipped bit ever reaches a database. Method: random bytes of random files changed; the engine's restore
/// is an error, or (where the byte counted for nothing) the very same pages.
#[test]
fn flipped_bits_are_refused() {
    let mut scene = scene();
    let (replica, place) = scene.copy();
    let files = files(&replica);
    let store = place.store();
    let mut refused = 0;
    for seed in 1..=FLIPS {
        let dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let file = &files[(dice >> 40) as usize % files.len()];
        let whole = fs::read(file).unwrap();
        let mut damaged = whole.clone();
        let at = (dice >> 8) as usize % whole.len();
        damaged[at] ^= 1 << (dice % 8);
        fs::write(file, &damaged).unwrap();
        let out = scene.folder.path().join("flipped.db");
        match restore::run(&store, Target::Latest, &out, Options::default()) {
            Ok(_) => assert_eq!(fs::read(&out).unwrap(), scene.image, "seed {seed}: byte {at} of {}", file.display()),
            Err(e) => {
                is_a_sentence(&e.to_string());
                refused += 1;
            }
        }
        if seed % 40 == 0 && refused > 0 && !out.exists() {
            scene.refused(&place);
        }
        let _ = fs::remove_file(&out); // there only where the restore went well
        fs::write(file, whole).unwrap();
    }
    assert!(refused > FLIPS * 9 / 10, "only {refused} of {FLIPS} were noticed");
}

/// Goal: a replica with holes. Method: each file but the newest gone, and all images.
#[test]
fn gaps_are_refused_and_named() {
    let mut scene = scene();
    let count = files(&scene.folder.path().join("app.db-replica")).len();
    for n in 0..count {
        let (replica, place) = scene.copy();
        let gone = files(&replica)[n].clone();
        let newest = n + 2 == count; // level 9 sorts behind the raw files
        fs::remove_file(gone).unwrap();
        if newest {
            let older = place.restored(Target::Latest);
            assert_ne!(older, scene.image);
            continue;
        }
        let said = scene.refused(&place);
        assert!(said.contains("non-contiguous") || said.contains("snapshot"), "{said}");
    }
}

/// Goal: files of another database, or of another name, in a replica. Method: raw files exchanged, one named as its
/// neighbour, and files of a database with another page size put among them.
#[test]
fn files_that_do_not_belong_are_refused() {
    let mut scene = scene();
    let (replica, place) = scene.copy();
    let names = files(&replica);
    fs::copy(&names[2], &names[3]).unwrap();
    scene.refused(&place);

    let other = Place::in_folder(scene.folder.path(), "other.db");
    let connection = other.open();
    connection.execute_batch("PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE o(a)").unwrap();
    for n in 0..8 {
        connection.execute("INSERT INTO o VALUES (?)", [n]).unwrap();
        sync(&connection);
    }
    let theirs = files(&scene.folder.path().join("other.db-replica"));
    let (replica, place) = scene.copy();
    let name = |path: &Path| path.file_name().unwrap().to_os_string();
    for file in files(&replica).iter().skip(4).take(2) {
        let same = theirs.iter().find(|other| name(other) == name(file)).expect("both have as many");
        fs::copy(same, file).unwrap();
    }
    let said = scene.refused(&place);
    assert!(said.contains("page"), "{said}");
}

/// Goal: a replica that is not one. Method: an empty folder is a new database; a file in place of the folder, LTX names with
/// rubbish inside, and foreign files beside.
#[test]
fn rubbish_is_refused_and_strangers_are_passed_over() {
    let mut scene = scene();
    let (replica, place) = scene.copy();
    fs::write(replica.join("ltx/0/notes.txt"), "hello").unwrap();
    fs::write(replica.join("ltx/0/0000000000000003-0000000000000003.ltx.tmp"), "half").unwrap();
    assert_eq!(place.restored(Target::Latest), scene.image);

    let (replica, place) = scene.copy();
    fs::write(replica.join("ltx/0/00000000000000ff-00000000000000ff.ltx"), vec![7u8; 5000]).unwrap();
    scene.refused(&place);

    let (replica, place) = scene.copy();
    fs::remove_dir_all(&replica).unwrap();
    fs::write(&replica, "not a folder").unwrap();
    let said = place.try_open().map(|_| ()).unwrap_err().to_string();
    is_a_sentence(&said);
    is_absent(&place.path);
}

/// Goal: URLs that are none. Method: a list of what people type; each open is an error that names the URL or what is
/// wrong with it, and leaves nothing.
#[test]
fn garbage_urls_are_refused_with_a_sentence() {
    load();
    let folder = folder();
    let mut process = Process::idle();
    let urls = [
        "s3://",
        "s3:///path",
        "s3:/bucket",
        "s4://bucket/path",
        "http://bucket/path",
        "https://s3.amazonaws.com/bucket",
        "://",
        "file://",
        "file://relative/path",
        "gs://",
        "abs://",
        "abs://@/x",
        "s3://bucket/../..",
        "s3://bucket/a%00b",
        "s3://bucket/a%zz?region=x&endpoint=http://127.0.0.1:1",
        "s3://bucket/p?endpoint=::::",
        "s3://bucket/p?endpoint=http://[::1",
        "s3://bucket/p?forcePathStyle=perhaps",
        "s3://user:secret@bucket/p?x=\u{1}",
        "sftp://host/path",
        "{name}://x",
        "s3://{nam}/x",
        " ",
    ];
    let mut opened = Vec::new();
    for (n, url) in urls.into_iter().enumerate() {
        let place = Place::new(folder.path(), &format!("app-{n}.db"), url).with("&open-timeout=1s");
        let Some(said) = process.open(&place.uri()) else {
            opened.push(url);
            continue;
        };
        is_a_sentence(&said);
        assert!(!said.contains("secret"), "a secret: {said}");
        is_absent(&place.path);
    }
    assert!(opened.is_empty(), "opened with {opened:?}");
}

/// Goal: damage in the replica does not keep an application from its own database. Method: the file is there, the
/// newest file of the replica is rubbish: it opens and works.
#[test]
fn a_database_that_is_there_opens_beside_a_damaged_replica() {
    let mut scene = scene();
    let (replica, place) = scene.copy();
    let all = files(&replica);
    fs::write(&all[all.len() - 2], "rubbish").unwrap();
    fs::write(&place.path, &scene.image).unwrap();
    let connection = place.open();
    connection.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 9);
}
