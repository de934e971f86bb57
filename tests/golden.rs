//! Replicas that the real Litestream 0.5 wrote: every file decodes, every target restores as it did there.
//!
//! `tests/golden/*/manifest.json` names files, their times, and for each target what Litestream answered.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/golden.rs"]
mod golden;

use golden::{golden, set_time};
use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::ltx::{Decoder, Encoder, Header, Span, Txid, checksum, merge};
use litestream_engine::page::{PageSize, Pgno};
use litestream_engine::plan::{self, Target};
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use litestream_engine::wal::Salt;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const SETS: [&str; 5] = ["ls-0.5-file-levels", "ls-0.5-s3", "ls-0.5-page512", "ls-0.5-page65536", "ls-0.5-autovacuum"];

fn ltx_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(ltx_files(&path));
        } else if path.extension().is_some_and(|e| e == "ltx") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A header and its pages.
type Decoded = (Header, Vec<(Pgno, Vec<u8>)>);

fn decode(bytes: &[u8]) -> Result<Decoded, Error> {
    let mut decoder = Decoder::new(bytes)?;
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page.clone()));
    }
    Ok((*decoder.header(), pages))
}

/// The independent decoder, on Debian's Python.
fn ltxcheck(arguments: &[&str]) -> String {
    let out = Command::new("/usr/bin/python3").arg(golden("ltxcheck.py")).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "ltxcheck.py {arguments:?}: {text}");
    text
}

/// A set copied into a folder replica with the times of its manifest. S3 sets get the names of a folder.
fn replica(set: &str, into: &Path) -> (Store, Value) {
    let manifest = golden::manifest(set);
    for file in manifest["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        let (folder, name) = path.rsplit_once('/').unwrap();
        let level = u8::from_str_radix(folder.rsplit('/').next().unwrap(), 16).unwrap();
        let copy = into.join("ltx").join(level.to_string()).join(name);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(golden(set).join(path), &copy).unwrap();
        let time = match file["mtime_ns"].as_u64() {
            Some(ns) => Duration::from_nanos(ns),
            None => {
                let (_, text) =
                    file["metadata"].as_object().unwrap().iter().find(|(key, _)| key.contains("timestamp")).unwrap();
                Duration::from_millis(Time::parse(text.as_str().unwrap()).unwrap().0 as u64)
            }
        };
        set_time(&copy, UNIX_EPOCH + time);
    }
    (store(into), manifest)
}

fn store(folder: &Path) -> Store {
    let url = ReplicaUrl::parse(folder.to_str().unwrap()).unwrap();
    Store::open(&url, &|_| None, &Io::new()).unwrap()
}

/// Goal: every file of the two page forms decodes. Method: all that Litestream 0.5.15, 0.5.16+ and the Go library
/// wrote, with checksums of the database and without; older layouts are refused with a sentence.
#[test]
fn every_golden_file_decodes() {
    let mut count = 0;
    for path in ltx_files(&golden("")) {
        let bytes = fs::read(&path).unwrap();
        let old = path.ends_with("v1-lz4.ltx") || path.ends_with("v2.ltx");
        match decode(&bytes) {
            Ok((header, _)) => {
                assert!(!old, "{} is of a layout that no released Litestream wrote", path.display());
                if let Some(span) = Span::from_file_name(path.file_name().unwrap().to_str().unwrap()) {
                    assert_eq!(header.span, span);
                }
                count += 1;
            }
            Err(Error::Corrupt(_)) if old => {}
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }
    assert!(count > 100, "only {count} golden files");
}

/// Goal: header, pages and checksums are those of the worked example. Method: the 359-byte file, field by field.
#[test]
fn the_worked_example_reads_as_documented() {
    let path = golden("replica-0.5.17/ltx/0/0000000000000001-0000000000000001.ltx");
    let bytes = fs::read(path).unwrap();
    let mut decoder = Decoder::new(&bytes[..]).unwrap();
    assert_eq!(decoder.finish().unwrap().file, 0xabdc_14bc_18bf_13c5);
    let (header, pages) = decode(&bytes).unwrap();
    let expected = Header::new(PageSize::new(4096).unwrap(), 2, Span::one(Txid(1)), Time(1_795_185_053_360));
    assert_eq!(header, expected);
    assert_eq!(header.timestamp.rfc3339(), "2026-11-20T14:30:53.36Z");
    let sums: Vec<u64> = pages.iter().map(|(pgno, page)| checksum::page(*pgno, page)).collect();
    assert_eq!(sums, [0xeaaf_5880_026e_780a, 0xa3bf_9c94_c1b7_b9db]);
    let all = checksum::database(pages.iter().map(|(_, page)| page.as_slice()), header.page_size.lock_page());
    assert_eq!(all, 0xc910_c414_c3d9_c1d1);
}

/// Goal: the restore of every target is Litestream's, byte for byte, and an error where it gave one. Method: each
/// entry of each manifest; the plan must be Litestream's as well.
#[test]
fn every_target_restores_as_litestream_did() {
    let mut count = 0;
    for set in SETS {
        let folder = tempfile::tempdir().unwrap();
        let (store, manifest) = replica(set, folder.path());
        for wanted in manifest["restores"].as_array().unwrap() {
            let text = |key: &str| wanted[key].as_str();
            let target = match (text("txid"), text("timestamp")) {
                (Some(txid), _) => Target::Txid(Txid::parse(txid).unwrap()),
                (_, Some(time)) => Target::Time(Time::parse(time).unwrap()),
                _ => Target::Latest,
            };
            let options = Options { bounded: text("via") == Some("url"), ..Options::default() };
            let out = folder.path().join(format!("out-{count}"));
            let result = restore::run(&store, target, &out, options);
            count += 1;
            let case = format!("{set} {target:?} {:?}", text("note"));
            if wanted["exit"] != 0 {
                let expected = text("error").unwrap().trim_start_matches("Error: ");
                let error = result.expect_err(&case).to_string();
                assert!(error.starts_with(expected), "{case}: {error}");
                assert!(!out.exists(), "{case}: a failed restore leaves nothing");
                continue;
            }
            let restored = result.unwrap_or_else(|e| panic!("{case}: {e}"));
            let plan = restore::prepare(&store, target, options).unwrap();
            let names: Vec<_> = plan.files.iter().map(|f| format!("{}/{}", f.level, f.span.file_name())).collect();
            let expected: Vec<_> = wanted["plan"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
            assert_eq!(names, expected, "{case}");
            assert_eq!((restored.files, restored.txid()), (names.len(), plan.txid()), "{case}");
            assert_eq!(Some(u64::from(restored.header.commit)), wanted["pages"].as_u64(), "{case}");
            assert_eq!(sha256(&out), text("sha256").unwrap(), "{case}");
            if let Some(db) = text("db") {
                assert!(fs::read(&out).unwrap() == fs::read(golden(set).join(db)).unwrap(), "{case}");
            }
        }
    }
    assert!(count >= 25, "only {count} targets");
}

fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(out.stdout).unwrap().split_whitespace().next().unwrap().to_string()
}

/// Goal: a replica written by Litestream's own VFS restores. Method: six raw files with growth and shrinking.
#[test]
fn a_replica_of_raw_files_restores() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("db");
    let restored = restore::run(&store(&golden("replica-0.5.17")), Target::Latest, &out, Options::default()).unwrap();
    assert_eq!((restored.txid(), restored.files), (Txid(6), 6));
    assert!(fs::read(&out).unwrap() == fs::read(golden("replica-0.5.17/expected-latest.db")).unwrap());
}

/// Goal: what we write is right in the eyes of a reader that shares nothing with ours. Method: every golden file
/// decoded and encoded again, a merge of a whole plan, and a header with a place in the WAL.
#[test]
fn what_we_write_passes_the_independent_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for (n, path) in ltx_files(&golden("")).iter().enumerate() {
        let Ok((header, pages)) = decode(&fs::read(path).unwrap()) else { continue };
        let header = Header { checksums: None, ..header }.with_wal(32, 4120, Salt([n as u8; 8]));
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        pages.iter().for_each(|(pgno, page)| encoder.page(*pgno, page).unwrap());
        let out = folder.path().join(format!("{n}.ltx"));
        fs::write(&out, encoder.finish().unwrap().0).unwrap();
        written.push(out.to_str().unwrap().to_string());
    }
    for batch in written.chunks(40) {
        let arguments: Vec<&str> = std::iter::once("-q").chain(batch.iter().map(String::as_str)).collect();
        ltxcheck(&arguments);
    }

    let replica_folder = folder.path().join("replica");
    let (store, _) = replica("ls-0.5-file-levels", &replica_folder);
    let plan = plan::plan(&restore::list(&store, Options::default()).unwrap(), Target::Latest).unwrap();
    let mut inputs: Vec<_> = plan.files.iter().map(|file| Decoder::new(store.stream(file).unwrap()).unwrap()).collect();
    let (header, bytes, _) = merge(&mut inputs, Vec::new()).unwrap();
    assert_eq!(header.span, Span { min: Txid(1), max: plan.txid() });
    let (file, db) = (folder.path().join("merged.ltx"), folder.path().join("merged.db"));
    fs::write(&file, bytes).unwrap();
    ltxcheck(&["--db", db.to_str().unwrap(), file.to_str().unwrap()]);
    assert!(fs::read(db).unwrap() == fs::read(golden("ls-0.5-file-levels/expected/latest.db")).unwrap());
}

/// Goal: a damaged file of a real replica is an error with its name, in both readers, and never a panic. Method: each
/// file cut at many lengths and with bits flipped, spread over it; the decoder for all of them, the restore for some.
#[test]
fn damaged_golden_files_are_errors() {
    let mut decoded = 0;
    for path in ltx_files(&golden("")) {
        let bytes = fs::read(&path).unwrap();
        let Ok(whole) = decode(&bytes) else { continue };
        let cuts =
            [0, 1, 50, 99, 100, 103, 106, 110, bytes.len() - 1, bytes.len() - 8, bytes.len() - 16, bytes.len() - 24];
        for cut in cuts.into_iter().chain((1..20).map(|n| n * bytes.len() / 20)).filter(|cut| *cut < bytes.len()) {
            assert!(decode(&bytes[..cut]).is_err(), "{} cut to {cut}", path.display());
        }
        for n in 0..120 {
            let mut bad = bytes.clone();
            let at = n * bytes.len() / 120;
            bad[at] ^= 1 << (n % 8);
            // A bit inside LZ4 may say the same in another way.
            assert!(decode(&bad).map_or(true, |found| found == whole), "{} changed at {at}", path.display());
            decoded += 1;
        }
    }
    assert!(decoded > 10_000);
}

/// Goal: a restore from a damaged replica fails, names the file and leaves nothing; one that could not matter succeeds.
/// Method: each planned file of a real replica damaged in turn, in every part.
#[test]
fn a_restore_from_a_damaged_replica_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = replica("ls-0.5-file-levels", folder.path());
    let good = fs::read(golden("ls-0.5-file-levels/expected/latest.db")).unwrap();
    let plan = restore::prepare(&store, Target::Latest, Options::default()).unwrap();
    for file in &plan.files {
        let path = folder.path().join(format!("ltx/{}/{}", file.level, file.span.file_name()));
        let bytes = fs::read(&path).unwrap();
        for n in 0..60 {
            let mut bad = bytes.clone();
            match n {
                0 => bad.truncate(1000.min(bytes.len() - 1)),
                1 => bad.truncate(bytes.len() - 10),
                2 => bad.push(0),
                3 => bad.truncate(50),
                _ => bad[(n - 4) * bytes.len() / 56] ^= 1 << (n % 8),
            }
            fs::write(&path, &bad).unwrap();
            let out = folder.path().join("out");
            match restore::run(&store, Target::Latest, &out, Options { parallelism: 2, ..Options::default() }) {
                Ok(_) => {
                    assert!(fs::read(&out).unwrap() == good, "{} damage {n} was taken for good", path.display());
                    fs::remove_file(&out).unwrap();
                }
                Err(e) => {
                    let text = e.to_string();
                    let named = text.contains(&file.span.file_name()) || text.contains(&file.span.max.to_string());
                    assert!(matches!(e, Error::Corrupt(_)) && named, "damage {n}: {text}");
                    assert!(!out.exists());
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
}
