//! The restore by itself: large files in pieces, many files, the lock page, damage, files that vanish, giving up.
//!
//! Replicas are made here by the encoder, in folders; what Litestream wrote is in `tests/golden.rs`.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/made.rs"]
mod made;

use litestream_engine::clock::Time;
use litestream_engine::error::{Error, Result};
use litestream_engine::ltx::{Encoder, Header, Level, Span, Txid};
use litestream_engine::page::{PageSize, Pgno};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use made::{Random, Replica};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Goal: files of many pieces and small ones, overlapping, growing and shrinking, give what a plain map gives. Method:
/// noise, so that a snapshot and some files are larger than one piece; one thread and many.
#[test]
fn large_files_in_pieces_equal_a_plain_map() {
    for seed in 1..=4 {
        let mut random = Random(seed * 7919);
        let replica = Replica::new(4096);
        let mut commit = 3000;
        let mut model: BTreeMap<u32, Vec<u8>> = (1..=commit).map(|pgno| (pgno, random.page(4096))).collect();
        replica.put(9, 1, 5, commit, &model);
        for txid in 6..40 {
            let before = commit;
            commit = (i64::from(commit) + random.below(200) as i64 - 100) as u32;
            let count = if random.below(8) == 0 { 1500 } else { random.below(20) };
            let mut pages: BTreeMap<u32, Vec<u8>> =
                (0..count).map(|_| (random.below(u64::from(commit)) as u32 + 1, random.page(4096))).collect();
            (before + 1..=commit).for_each(|pgno| {
                pages.insert(pgno, random.page(4096));
            });
            replica.put(0, txid, txid, commit, &pages);
            model.extend(pages);
            model.retain(|pgno, _| *pgno <= commit);
        }
        println!("seed {seed}: {commit} pages");
        for parallelism in [1, 2, 16] {
            replica.check(commit, &model, parallelism);
        }
    }
}

/// Goal: damage anywhere in a file of many pieces is noticed, and nothing is left. Method: one bit after another, spread
/// over frames, index and trailer; a cut; pages of the index exchanged.
#[test]
fn damage_in_a_large_file_is_noticed() {
    let mut random = Random(11);
    let replica = Replica::new(4096);
    let pages: BTreeMap<u32, Vec<u8>> = (1..=2500).map(|pgno| (pgno, random.page(4096))).collect();
    replica.put(9, 1, 1, 2500, &pages);
    let path = replica.path(9, 1, 1);
    let good = fs::read(&path).unwrap();
    assert!(good.len() > 2 * (4 << 20), "the file is cut into pieces");
    let fails = |bad: &[u8], what: &str| {
        fs::write(&path, bad).unwrap();
        let result = restore::run(
            &replica.store(),
            Target::Latest,
            &replica.out(),
            Options { parallelism: 3, ..Options::default() },
        );
        match result {
            Err(Error::Corrupt(text)) => {
                assert!(text.contains("0000000000000001-0000000000000001.ltx"), "{what}: {text}")
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(!replica.out().exists());
    };
    let index = good.len() - 24 - u64::from_be_bytes(good[good.len() - 24..][..8].try_into().unwrap()) as usize;
    for n in 0..60 {
        // Noise is one literal run, so that no other bits mean the same bytes.
        let at = if n < 30 { n * index / 30 } else { index - 6 + (n - 30) * (good.len() - index + 6) / 30 };
        let mut bad = good.clone();
        bad[at] ^= 1 << (n % 8);
        fails(&bad, &format!("bit at {at}, index at {index}"));
    }
    fails(&good[..good.len() - 4096], "cut");
    let mut exchanged = good.clone();
    let (a, b) = (100..100 + 4124, 100 + 4124..100 + 2 * 4124);
    exchanged[a.clone()].copy_from_slice(&good[b.clone()]);
    exchanged[b].copy_from_slice(&good[a]);
    fails(&exchanged, "two frames exchanged");
    fs::write(&path, &good).unwrap();
    replica.check(2500, &pages, 3);
}

/// Goal: the lock page is zeros and everything around it is right, over 1 GiB. Method: 65536-byte pages, all zero but
/// some; the file is sparse.
#[test]
fn a_database_over_one_gibibyte_has_a_lock_page_of_zeros() {
    let replica = Replica::new(65536);
    let commit = 16388;
    let marked = [1, 2, 16384, 16386, 16387, 16388];
    let zero = vec![0; 65536];
    let span = Span::one(Txid(1));
    let mut encoder = Encoder::new(Vec::new(), &Header::new(replica.page_size, commit, span, Time(1))).unwrap();
    for pgno in (1..=commit).filter(|pgno| *pgno != 16385) {
        let page = if marked.contains(&pgno) { vec![pgno as u8; 65536] } else { zero.clone() };
        encoder.page(Pgno(pgno), &page).unwrap();
    }
    let path = replica.path(9, 1, 1);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, encoder.finish().unwrap().0).unwrap();
    replica.put(0, 2, 2, commit, &[(16386, vec![7; 65536])].into());
    restore::run(&replica.store(), Target::Latest, &replica.out(), Options::default()).unwrap();
    let file = fs::File::open(replica.out()).unwrap();
    assert_eq!(file.metadata().unwrap().len(), u64::from(commit) * 65536);
    let mut page = vec![0; 65536];
    for pgno in [1, 2, 3, 16383, 16384, 16385, 16386, 16387, 16388] {
        file.read_exact_at(&mut page, (u64::from(pgno) - 1) * 65536).unwrap();
        let expected = if pgno == 16386 {
            7
        } else if marked.contains(&pgno) {
            pgno as u8
        } else {
            0
        };
        assert!(page.iter().all(|byte| *byte == expected), "page {pgno}");
    }
}

/// Goal: a page that no file has is named, not left as zeros. Method: a file that grows the database without it.
#[test]
fn a_page_in_no_file_is_an_error() {
    let replica = Replica::new(512);
    replica.put(0, 1, 1, 2, &[(1, vec![1; 512]), (2, vec![2; 512])].into());
    replica.put(0, 2, 2, 5, &[(3, vec![3; 512]), (5, vec![5; 512])].into());
    let error = restore::run(&replica.store(), Target::Latest, &replica.out(), Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt(text) if text.contains("page 4 of 5")), "{error}");
    assert!(!replica.out().exists());
}

/// Goal: an empty file and one without winning pages do no harm. Method: both in one plan, another page size refused.
#[test]
fn files_without_pages_are_applied() {
    let replica = Replica::new(1024);
    let pages: BTreeMap<u32, Vec<u8>> = [(1, vec![1; 1024]), (2, vec![2; 1024])].into();
    replica.put(0, 1, 1, 2, &pages);
    replica.put(0, 2, 2, 2, &BTreeMap::new());
    replica.put(0, 3, 3, 2, &pages);
    replica.check(2, &pages, 4);
    let other = Replica { page_size: PageSize::new(512).unwrap(), folder: replica.folder };
    other.put(0, 4, 4, 2, &[(1, vec![1; 512])].into());
    let error = restore::run(&other.store(), Target::Latest, &other.out(), Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt(text) if text.contains("1024")), "{error}");
}

/// Goal: a file that holds all pages in another size needs none from before, wherever it stands in the plan. Method: raw
/// files of two sizes, without and with a file behind; a walk finds nothing wrong with them.
#[test]
fn a_whole_file_of_another_page_size_begins_anew() {
    let old = Replica::new(1024);
    let page = |n: u8, size: usize| vec![n; size];
    for txid in 1..=3 {
        old.put(0, txid, txid, 3, &(1..=3).map(|pgno| (pgno, page(txid as u8, 1024))).collect());
    }
    let new = Replica { page_size: PageSize::new(512).unwrap(), folder: old.folder };
    let mut pages: BTreeMap<u32, Vec<u8>> = (1..=5).map(|pgno| (pgno, page(7, 512))).collect();
    new.put(0, 4, 4, 5, &pages);
    new.check(5, &pages, 4);
    new.put(0, 5, 5, 5, &[(2, page(8, 512))].into());
    pages.insert(2, page(8, 512));
    new.check(5, &pages, 4);
    let report = litestream_engine::verify::walk(&new.store(), Options::default()).unwrap();
    assert_eq!((report.problems, report.ranges.len()), (Vec::new(), 1));
    new.put(0, 6, 6, 6, &[(6, page(9, 512))].into());
    let other = Replica { page_size: PageSize::new(1024).unwrap(), folder: new.folder };
    other.put(0, 7, 7, 6, &[(1, page(1, 1024))].into());
    let report = litestream_engine::verify::walk(&other.store(), Options::default()).unwrap();
    assert!(report.problems.iter().any(|problem| problem.text.contains("another size")), "{:?}", report.problems);
}

/// Goal: a file deleted under a running restore does not fail it where another plan does. Method: raw files are replaced
/// by a compacted one when the restore begins to fetch; then a hole that no plan can cross.
#[test]
fn a_vanished_file_is_planned_around() {
    let replica = Replica::new(512);
    let page = |n: u8| -> BTreeMap<u32, Vec<u8>> { [(1, vec![n; 512])].into() };
    for txid in 1..=4 {
        replica.put(0, txid, txid, 1, &page(txid as u8));
    }
    let calls = AtomicUsize::new(0);
    let compact = || -> Result<()> {
        // The first ten are the listings of the levels.
        if calls.fetch_add(1, Ordering::Relaxed) == 10 {
            replica.put(1, 1, 4, 1, &page(4));
            (1..=4).for_each(|txid| fs::remove_file(replica.path(0, txid, txid)).unwrap());
        }
        Ok(())
    };
    let options = Options { parallelism: 1, go_on: &compact, ..Options::default() };
    let restored = restore::run(&replica.store(), Target::Latest, &replica.out(), options).unwrap();
    assert_eq!((restored.files, restored.txid()), (1, Txid(4)));
    assert_eq!(fs::read(replica.out()).unwrap(), [4; 512]);
    fs::remove_file(replica.out()).unwrap();

    replica.put(0, 5, 5, 1, &page(5));
    let calls = AtomicUsize::new(0);
    let lose = || -> Result<()> {
        if calls.fetch_add(1, Ordering::Relaxed) == 10 {
            fs::remove_file(replica.path(1, 1, 4)).unwrap();
        }
        Ok(())
    };
    let options = Options { parallelism: 1, go_on: &lose, ..Options::default() };
    let error = restore::run(&replica.store(), Target::Latest, &replica.out(), options).unwrap_err();
    assert!(matches!(error, Error::Gap(_)), "not mistaken for an empty replica: {error}");
    assert!(!replica.out().exists());
}

/// Goal: who gives up gets his own error, and nothing is left. Method: refuse at every call in turn.
#[test]
fn giving_up_leaves_nothing() {
    let mut random = Random(5);
    let replica = Replica::new(4096);
    let pages: BTreeMap<u32, Vec<u8>> = (1..=2500).map(|pgno| (pgno, random.page(4096))).collect();
    replica.put(9, 1, 1, 2500, &pages);
    (2..10).for_each(|txid| replica.put(0, txid, txid, 2500, &[(7, random.page(4096))].into()));
    let mut stopped = 0;
    for limit in 0..40 {
        let calls = AtomicUsize::new(0);
        let go_on = || match calls.fetch_add(1, Ordering::Relaxed) {
            n if n >= limit => Err(Error::Timeout("enough".into())),
            _ => Ok(()),
        };
        let options = Options { parallelism: 3, go_on: &go_on, ..Options::default() };
        match restore::run(&replica.store(), Target::Latest, &replica.out(), options) {
            Ok(_) => fs::remove_file(replica.out()).unwrap(),
            Err(Error::Timeout(text)) => {
                assert_eq!(text, "enough");
                assert!(!replica.out().exists());
                stopped += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(stopped >= 19, "ten levels, nine files and the pieces: {stopped}");
}

/// Goal: what stands at the output is never touched. Method: a file there, and a folder that does not exist.
#[test]
fn the_output_must_be_free() {
    let replica = Replica::new(512);
    replica.put(0, 1, 1, 1, &[(1, vec![1; 512])].into());
    fs::write(replica.out(), "mine").unwrap();
    assert!(restore::run(&replica.store(), Target::Latest, &replica.out(), Options::default()).is_err());
    assert_eq!(fs::read(replica.out()).unwrap(), b"mine");
    let nowhere = Path::new("/nonexistent/folder/db");
    assert!(restore::run(&replica.store(), Target::Latest, nowhere, Options::default()).is_err());
    assert_eq!(replica.store().list(Level::RAW).unwrap().len(), 1);
}
