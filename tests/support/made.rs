//! Replicas made by the encoder, in folders, and a restore of one against a plain map of pages.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part of this

use litestream_engine::clock::Time;
use litestream_engine::ltx::{Encoder, Header, Span, Txid};
use litestream_engine::page::{PageSize, Pgno};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A small generator, so that a failing run can be repeated by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A page of noise, which makes files large.
    pub fn page(&mut self, size: usize) -> Vec<u8> {
        (0..size / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

pub struct Replica {
    pub folder: TempDir,
    pub page_size: PageSize,
}

impl Replica {
    pub fn new(page_size: u32) -> Replica {
        Replica { folder: tempfile::tempdir().unwrap(), page_size: PageSize::new(page_size).unwrap() }
    }

    pub fn store(&self) -> Store {
        let url = ReplicaUrl::parse(self.folder.path().to_str().unwrap()).unwrap();
        Store::open(&url, &|_| None, &Io::new()).unwrap()
    }

    pub fn path(&self, level: u8, min: u64, max: u64) -> PathBuf {
        let span = Span { min: Txid(min), max: Txid(max) };
        self.folder.path().join(format!("ltx/{level}/{}", span.file_name()))
    }

    pub fn put(&self, level: u8, min: u64, max: u64, commit: u32, pages: &BTreeMap<u32, Vec<u8>>) {
        let span = Span { min: Txid(min), max: Txid(max) };
        let header = Header::new(self.page_size, commit, span, Time(max as i64));
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        pages.iter().for_each(|(pgno, page)| encoder.page(Pgno(*pgno), page).unwrap());
        let path = self.path(level, min, max);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, encoder.finish().unwrap().0).unwrap();
        dated(&path, UNIX_EPOCH + Duration::from_millis(max));
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("restored")
    }

    /// Restores to the end and compares with the pages that should be there.
    pub fn check(&self, commit: u32, model: &BTreeMap<u32, Vec<u8>>, parallelism: usize) {
        let out = self.out();
        let written = AtomicU64::new(0);
        let progress = |progress: restore::Progress| {
            written.fetch_max(progress.written, Ordering::Relaxed);
        };
        let options = Options { parallelism, progress: &progress, ..Options::default() };
        let restored = restore::run(&self.store(), Target::Latest, &out, options).unwrap();
        assert_eq!(restored.header.commit, commit);
        let bytes = fs::read(&out).unwrap();
        assert_eq!(bytes.len(), commit as usize * self.page_size.bytes());
        for (pgno, page) in (1..).zip(bytes.chunks(self.page_size.bytes())) {
            assert!(page == model[&pgno], "page {pgno} of {commit}");
        }
        assert_eq!(written.into_inner(), bytes.len() as u64, "each page is written once");
        fs::remove_file(out).unwrap();
    }
}

/// Sets a file's time.
pub fn dated(path: &Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}
