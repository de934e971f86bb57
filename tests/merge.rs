//! One merge of stored files by hand: what counts as done, what ends it, where it stops, and what it costs in memory.
//!
//! The real merge on a replica in a folder. When something is merged, and what, is `tests/compaction.rs`.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/dice.rs"]
mod dice;

use dice::Dice;
use litestream_engine::clock::Time;
use litestream_engine::compactor::{self, Inputs, Merged};
use litestream_engine::due::Merge;
use litestream_engine::error::{Error, Result};
use litestream_engine::ltx::{Encoder, FileInfo, Header, Level, Span, Txid};
use litestream_engine::page::{PageSize, Pgno};
use litestream_engine::store::{Body, Io, ReplicaUrl, Store};
use tempfile::TempDir;

const SECOND: i64 = 1000;

/// Files of a replica that a test makes by hand.
struct Hand {
    folder: TempDir,
    store: Store,
}

impl Hand {
    fn new() -> Hand {
        let folder = tempfile::tempdir().unwrap();
        let url = ReplicaUrl::parse(folder.path().join("replica").to_str().unwrap()).unwrap();
        Hand { store: Store::open(&url, &|_| None, &Io::new()).unwrap(), folder }
    }

    /// Puts a file whose pages are all filled with one byte each.
    fn put(&self, level: u8, (min, max): (u64, u64), page_size: u32, pages: &[(u32, u8)], commit: u32) -> FileInfo {
        let (level, span) = (Level::new(level).unwrap(), Span { min: Txid(min), max: Txid(max) });
        let time = Time(max as i64 * SECOND);
        let header = Header::new(PageSize::new(page_size).unwrap(), commit, span, time);
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        for (pgno, byte) in pages {
            encoder.page(Pgno(*pgno), &vec![*byte; page_size as usize]).unwrap();
        }
        let (bytes, size) = encoder.finish().unwrap();
        self.store.put(level, span, time, Body::Bytes(bytes.into())).unwrap();
        FileInfo { level, span, size, listed: time }
    }

    fn merge(&self, level: u8, inputs: &[FileInfo]) -> Result<Merged> {
        let merge = Merge { level: Level::new(level).unwrap(), inputs: inputs.to_vec() };
        let from = Inputs { store: &self.store, local: &|_| None, go_on: &|| Ok(()), doubt: &|_| {} };
        let out = self.folder.path().join(format!("merged-{}", std::fs::read_dir(self.folder.path()).unwrap().count()));
        compactor::merge(&from, &merge, &out)
    }
}

/// Goal: a file that stands there already is done where it holds the same pages, however it was made, and in the way where
/// it does not. Method: an earlier file of the same span with another time, then one with another page.
#[test]
fn a_file_made_of_other_inputs_counts_by_its_pages() {
    for (byte, is_same) in [(3, true), (4, false)] {
        let hand = Hand::new();
        let inputs = [hand.put(0, (2, 2), 512, &[(1, 1), (2, 9)], 2), hand.put(0, (3, 3), 512, &[(2, byte)], 2)];
        let span = Span { min: Txid(2), max: Txid(3) };
        let header = Header::new(PageSize::new(512).unwrap(), 2, span, Time(77));
        let mut earlier = Encoder::new(Vec::new(), &header).unwrap();
        earlier.page(Pgno(1), &[1; 512]).unwrap();
        earlier.page(Pgno(2), &[3; 512]).unwrap();
        let level = Level::new(1).unwrap();
        hand.store.put(level, span, Time(77), Body::Bytes(earlier.finish().unwrap().0.into())).unwrap();
        let merged = hand.merge(1, &inputs).unwrap();
        let put = compactor::put(&hand.store, level, &merged);
        match is_same {
            true => put.unwrap(),
            false => assert!(matches!(put, Err(Error::Conflict(_))), "{put:?}"),
        }
        assert!(compactor::put(&hand.store, Level::new(2).unwrap(), &merged).is_ok());
        assert!(compactor::put(&hand.store, Level::new(2).unwrap(), &merged).is_ok(), "the same bytes again are done");
    }
}

/// Goal: files of different page sizes never become one: a level stops before the change, a snapshot begins behind it.
/// Method: a database that changed from 512 to 1024 bytes a page.
#[test]
fn a_change_of_the_page_size_parts_what_is_merged() {
    let hand = Hand::new();
    let whole = hand.put(9, (1, 2), 512, &[(1, 1), (2, 2)], 2);
    let old = [hand.put(0, (3, 3), 512, &[(1, 3)], 2), hand.put(0, (4, 4), 512, &[(2, 4)], 2)];
    let new = [hand.put(0, (5, 5), 1024, &[(1, 5), (2, 5)], 2), hand.put(0, (6, 6), 1024, &[(2, 6)], 2)];
    let all: Vec<FileInfo> = [&old[..], &new[..]].concat();
    let level = hand.merge(1, &all).unwrap();
    assert_eq!((level.header.span, level.header.page_size.get()), (Span { min: Txid(3), max: Txid(4) }, 512));
    let snapshot = hand.merge(9, &[&[whole][..], &all[..]].concat()).unwrap();
    assert_eq!((snapshot.header.span, snapshot.header.page_size.get()), (Span { min: Txid(1), max: Txid(6) }, 1024));
    assert_eq!((snapshot.header.commit, snapshot.header.timestamp), (2, Time(6 * SECOND)));
}

/// Goal: a damaged, misnamed or missing input ends a merge and leaves no file. Method: one byte turned; another file under
/// the name; none.
#[test]
fn a_damaged_input_ends_the_merge_and_leaves_nothing() {
    let hand = Hand::new();
    let inputs = [hand.put(0, (2, 2), 512, &[(1, 1)], 1), hand.put(0, (3, 3), 512, &[(1, 3)], 1)];
    let path = hand.folder.path().join("replica/ltx/0").join(inputs[1].span.file_name());
    let whole = std::fs::read(&path).unwrap();
    for at in [20, 105, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let files = || std::fs::read_dir(hand.folder.path()).unwrap().count();
        let before = files();
        let merged = hand.merge(1, &inputs);
        assert!(matches!(merged, Err(Error::Corrupt(_))), "byte {at}: {merged:?}");
        assert_eq!(files(), before, "byte {at}");
    }
    std::fs::copy(path.with_file_name(inputs[0].span.file_name()), &path).unwrap();
    let merged = hand.merge(1, &inputs);
    assert!(matches!(merged, Err(Error::Corrupt(_))), "another file under this name: {merged:?}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(hand.merge(1, &inputs), Err(Error::NoBackup(_))));
}

fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Goal: memory stays flat however large the inputs are. Method: a snapshot of 200 MB and 60 files of 1 MB of noise are
/// merged; the process's highest memory hardly grows.
#[test]
fn memory_stays_flat_however_large_the_inputs_are() {
    let hand = Hand::new();
    let page_size = PageSize::new(4096).unwrap();
    let mut dice = Dice::new(77);
    let mut noise = |page: &mut Vec<u8>| {
        page.chunks_mut(8).for_each(|part| {
            part.copy_from_slice(&(dice.below(1 << 31) << 31 | dice.below(1 << 31)).to_le_bytes());
        })
    };
    let mut page = vec![0; 4096];
    let mut write = |level: Level, span: Span, pages: u32| {
        let header = Header::new(page_size, 50_000, span, Time(span.max.0 as i64));
        let path = hand.folder.path().join(format!("replica/ltx/{level}"));
        std::fs::create_dir_all(&path).unwrap();
        let file = std::io::BufWriter::new(std::fs::File::create(path.join(span.file_name())).unwrap());
        let mut encoder = Encoder::new(file, &header).unwrap();
        for n in 1..=pages {
            noise(&mut page);
            encoder.page(Pgno(n * (50_000 / pages)), &page).unwrap();
        }
        let (_, size) = encoder.finish().unwrap();
        FileInfo { level, span, size, listed: header.timestamp }
    };
    let mut inputs = vec![write(Level::SNAPSHOT, Span { min: Txid(1), max: Txid(1) }, 50_000)];
    inputs.extend((2..62).map(|n| write(Level::new(3).unwrap(), Span::one(Txid(n)), 250)));
    let before = high_water();
    let merged = hand.merge(9, &inputs).unwrap();
    let grown = high_water() - before;
    println!("merged {} bytes in {} MiB more", merged.size, grown >> 20);
    assert!(merged.size > 200_000_000 && grown < 48 << 20, "{} bytes, {} MiB", merged.size, grown >> 20);
}
