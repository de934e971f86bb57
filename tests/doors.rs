//! How the library gets into a host: its entry points, the hosts that it refuses, what it exports and needs, its size.
//!
//! The built library, loaded by Debian's Python and shell and by small C programs. What a loaded one does is
//! `tests/extension.rs`.
#![allow(clippy::unwrap_used)]

mod support;

use support::{compile, library, python, run};

/// Goal: SQLite keeps the library, and loading it again changes nothing. Method: load three times, close the loader,
/// look into the process's map, open.
#[test]
fn a_second_load_is_a_no_op_and_the_library_stays() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().display();
    let uri = format!("file:{here}/app.db?vfs=litestream&replica=file://{here}/replica");
    let script = format!(
        "a = load(); b = load(); a.close(); b.close(); load('sqlite3_litestreamvfs_init').close()\n\
         d = load(); d.execute('SELECT load_extension(?), litestream_version()', [os.environ['LIBRARY']]).fetchall(); d.close()\n\
         print('liblitestream_vfs' in open('/proc/self/maps').read(), len(os.listdir('/proc/self/task')))\n\
         c = sqlite3.connect('{uri}', uri=True); c.execute('CREATE TABLE t(a)')\n\
         print(c.execute('SELECT count(*) FROM litestream_status').fetchone())\n"
    );
    assert_eq!(python(folder.path(), &script).ok(), "True 1\n(1,)\n");
}

/// Goal: the file may be renamed. Method: a copy under another name.
#[test]
fn a_renamed_file_loads() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(library(), folder.path().join("other_name.so")).unwrap();
    let out =
        run(folder.path(), "sqlite3", &[":memory:"], ".load ./other_name\nSELECT litestream_version() IS NOT NULL;\n");
    assert_eq!(out.ok(), "1\n");
}

/// Goal: the two doors in either order, and after a shutdown of SQLite. Method: a C program that shows the list of VFSes.
#[test]
fn the_doors_register_one_vfs_and_the_default_one_makes_it_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let doors = compile(folder.path(), "doors");
    let expected = "before: default unix, litestream 0\n\
        named: default unix, litestream 1\n\
        plain: no such table: litestream_status\n\
        again: default unix, litestream 1\n\
        default: default litestream, litestream 1\n\
        plain: 0 rows\n\
        named after default: default litestream, litestream 1\n\
        initialized: default unix, litestream 1\n\
        default again: default litestream, litestream 1\n\
        plain: 0 rows\n";
    assert_eq!(run(folder.path(), &doors, &[], "").ok(), expected);
}

/// Goal: another VFS of this name is never replaced. Method: a C program that registers one first.
#[test]
fn a_foreign_vfs_of_our_name_stops_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let doors = compile(folder.path(), "doors");
    let out = run(folder.path(), &doors, &["foreign"], "").ok();
    let lines: Vec<&str> = out.lines().collect();
    for line in &lines[..2] {
        assert!(line.contains("a VFS named `litestream` is registered already"), "{out}");
    }
    assert_eq!(lines[2], "foreign: default unix, litestream 1");
}

/// Goal: hosts that cannot work are refused with the reason, and nothing of theirs is called. Method: tables of
/// functions that pretend to be an old SQLite, one without mutexes, one that lacks a function.
#[test]
fn a_host_that_cannot_work_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = compile(folder.path(), "refused");
    let told = |arguments: &[&str]| run(folder.path(), &refused, arguments, "").ok();
    assert_eq!(
        told(&["3031001", "1"]),
        "1 litestream: SQLite 3.31.1 is too old: litestream needs 3.32.0 or newer\n1\n"
    );
    let unsafe_threads = told(&["3040001", "0"]);
    assert!(unsafe_threads.contains("built with SQLITE_THREADSAFE=0"), "{unsafe_threads}");
    let lacking = told(&["3040001", "1", "lacking"]);
    assert!(lacking.contains("built without sqlite3_create_filename"), "{lacking}");
}

/// Goal: every number of `SLOTS` is the function of that name. Method: the C compiler and `sqlite3ext.h`.
#[test]
fn the_table_of_functions_is_read_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let list: String = litestream_vfs::SLOTS.iter().map(|(name, ..)| format!("P({name});\n")).collect();
    std::fs::write(folder.path().join("slots.inc"), list).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/offsets.c");
    run(folder.path(), "cc", &["-I.", "-o", "offsets", source], "").ok();
    let expected: String = litestream_vfs::SLOTS.iter().map(|(name, at, _)| format!("{name} {at}\n")).collect();
    assert_eq!(run(folder.path(), "./offsets", &[], "").ok(), expected);
}

/// Goal: the library shows nothing but its doors, needs nothing but the C library, and holds no SQLite.
#[test]
fn the_library_exports_its_doors_and_needs_only_the_c_library() {
    let folder = tempfile::tempdir().unwrap();
    let library = library();
    let path = library.to_str().unwrap();
    let exports = run(folder.path(), "nm", &["-D", "--defined-only", path], "").ok();
    let names: Vec<&str> = exports.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let doors = ["sqlite3_extension_init", "sqlite3_litestreamdefault_init", "sqlite3_litestreamvfs_init"];
    assert_eq!(names, [&["litestream_shutdown"], &doors[..]].concat());
    let undefined = run(folder.path(), "nm", &["-D", "--undefined-only", path], "").ok();
    assert!(!undefined.contains("sqlite3_"), "calls a linked SQLite: {undefined}");
    let dynamic = run(folder.path(), "readelf", &["-d", path], "").ok();
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let known = ["libc.so", "libgcc_s.so", "libm.so", "ld-linux"].iter().any(|name| line.contains(name));
        assert!(known, "{line}");
    }
    let bytes = std::fs::read(&library).unwrap();
    for text in ["no such savepoint: %s", "CREATE TABLE sqlite_master("] {
        assert!(!bytes.windows(text.len()).any(|part| part == text.as_bytes()), "a SQLite is inside: {text}");
    }
}

/// Goal: small and quick to load. Method: the stripped size; the quickest of 15 loads, each in a process of its own.
#[test]
fn the_library_is_small_and_loads_quickly() {
    let folder = tempfile::tempdir().unwrap();
    let library = library();
    run(folder.path(), "strip", &["-o", "stripped.so", library.to_str().unwrap()], "").ok();
    let bytes = std::fs::metadata(folder.path().join("stripped.so")).unwrap().len();
    assert!(bytes <= 10_000_000, "{bytes} bytes");
    let script = "c = sqlite3.connect(':memory:'); c.enable_load_extension(True)\n\
        t = time.perf_counter(); c.load_extension(os.environ['LIBRARY']); print((time.perf_counter() - t) * 1000)\n";
    let load = || python(folder.path(), script).ok().trim().parse::<f64>().unwrap();
    let quickest = (0..15).map(|_| load()).fold(f64::INFINITY, f64::min);
    println!("{bytes} bytes stripped, {quickest:.2} ms to load");
    assert!(quickest <= 3.0, "{quickest} ms");
}
