//! Golden sets: replicas that Litestream wrote, with a manifest of their files and of the times that those had.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use serde_json::Value;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A set, or a file of one.
pub fn golden(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sets = here.ancestors().map(|folder| folder.join("tests/golden")).find(|sets| sets.is_dir());
    sets.expect("the repository holds tests/golden").join(name)
}

/// The manifest of a set.
pub fn manifest(set: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(set).join("manifest.json")).unwrap()).unwrap()
}

/// Gives a file a time.
pub fn set_time(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
}

/// Copies the files of a set that was a folder, each with the time of its manifest.
pub fn copy(set: &str, into: &Path) -> Value {
    let manifest = manifest(set);
    for file in manifest["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        let copy = into.join(path);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(golden(set).join(path), &copy).unwrap();
        set_time(&copy, UNIX_EPOCH + Duration::from_nanos(file["mtime_ns"].as_u64().unwrap()));
    }
    manifest
}
