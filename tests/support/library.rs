//! The built library: where it is, and loaded into this process's own SQLite.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use rusqlite::Connection;
use std::path::PathBuf;

/// The built extension: `cargo test` leaves it beside the test programs.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let library = program.parent().unwrap().join("liblitestream_vfs.so");
    assert!(library.is_file(), "{} is missing: `cargo test --release` builds it", library.display());
    library
}

/// Loads it into this process: databases may be opened with `vfs=litestream` from now on. The connection that loaded it.
pub fn load() -> Connection {
    let loader = Connection::open_in_memory().unwrap();
    // SAFETY: the library under test; nothing else is loaded.
    unsafe {
        loader.load_extension_enable().unwrap();
        loader.load_extension(library(), None::<&str>).unwrap();
    }
    loader
}
