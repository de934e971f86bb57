//! The LTX format by itself: known checksums, round trips, merging, and files that are not what they say.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::ltx::{
    Decoder, Encoder, Header, IndexReader, Span, TAIL_SIZE, Txid, checksum, index_range, merge,
};
use litestream_engine::page::{PageSize, Pgno};
use litestream_engine::wal::Salt;
use proptest::collection::btree_map;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Pages = BTreeMap<u32, Vec<u8>>;

fn header(page_size: u32, commit: u32, min: u64, max: u64) -> Header {
    let span = Span { min: Txid(min), max: Txid(max) };
    Header::new(PageSize::new(page_size).unwrap(), commit, span, Time(1_795_185_053_360))
}

fn encode(header: &Header, pages: &Pages) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (&pgno, data) in pages {
        encoder.page(Pgno(pgno), data).unwrap();
    }
    let (bytes, size) = encoder.finish().unwrap();
    assert_eq!(bytes.len() as u64, size, "the size that finish gives is the file's");
    bytes
}

fn decode(bytes: &[u8]) -> Result<(Header, Pages), Error> {
    let mut decoder = Decoder::new(bytes)?;
    let (mut pages, mut page) = (Pages::new(), Vec::new());
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.insert(pgno.0, page.clone());
    }
    decoder.finish()?;
    assert_eq!(decoder.size(), bytes.len() as u64);
    Ok((*decoder.header(), pages))
}

/// A page that compresses a little: half noise from a seed, half one byte.
fn page(page_size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = vec![seed as u8; page_size];
    for byte in &mut data[..page_size / 2] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    data
}

/// Goal: our CRC and database checksum are those of the format. Method: the published check value and vectors
/// of the Go library.
#[test]
fn checksums_equal_the_known_vectors() {
    let mut crc = checksum::Crc::new();
    crc.update(b"123456789");
    assert_eq!(crc.value(), 0xb909_56c7_75a4_1001);
    let vectors: [(usize, &[u8], u64); 6] = [
        (512, b"1", 0xeb1a_9992_3104_4ddd),
        (512, b"23", 0x8b87_423e_eeee_eeee),
        (1024, b"23", 0xe189_9b6d_587a_aaaa),
        (1024, &[0x81], 0xeb95_3fc4_7685_d740),
        (1024, &[0x81, 0x82, 0x83], 0x8a24_9272_ad9f_7dea),
        (512, &[1, 2, 3], 0xefff_ffff_ecd9_9000),
    ];
    for (size, bytes, expected) in vectors {
        let pages: Vec<Vec<u8>> = bytes.iter().map(|&b| vec![b; size]).collect();
        assert_eq!(
            checksum::database(pages.iter().map(Vec::as_slice), Pgno(u32::MAX)),
            expected,
            "{bytes:?} of {size}"
        );
    }
    assert_eq!(checksum::page(Pgno(1), &[0; 512]), 0xefb1_f44f_ecd9_9000);
}

/// Goal: parts of a file may be checksummed apart and joined. Method: every way to cut random bytes in three.
#[test]
fn joined_checksums_equal_the_checksum_of_the_whole() {
    let data = page(600, 7);
    let of = |bytes: &[u8]| {
        let mut crc = checksum::Crc::new();
        crc.update(bytes);
        crc
    };
    for a in (0..data.len()).step_by(7) {
        for b in (a..data.len()).step_by(61) {
            let mut joined = of(&data[..a]);
            joined.join(&of(&data[a..b]));
            joined.join(&of(&data[b..]));
            assert_eq!((joined.value(), joined.len()), (of(&data).value(), data.len() as u64), "cut at {a} and {b}");
        }
    }
}

/// Goal: header and page checksums of a file from a known WAL are what they should be. Method: the worked
/// example of three frames (page 1, page 2 with commit 2, page 2 again).
#[test]
fn header_of_a_file_from_a_known_wal() {
    let salt = Salt([0x48, 0x75, 0xa4, 0x0b, 0xa3, 0x8d, 0xe4, 0xf5]);
    let header = header(4096, 2, 1, 1).with_wal(32, 12360, salt);
    let raw = header.encode().unwrap();
    assert_eq!(
        &raw[48..72],
        &[0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0x30, 0x48, 0x48, 0x75, 0xa4, 0x0b, 0xa3, 0x8d, 0xe4, 0xf5]
    );
    assert_eq!(Header::decode(&raw).unwrap(), header);
    assert!(Header { wal_offset: 0, ..header }.encode().is_err(), "a salt without an offset");
}

/// Goal: every page size, incompressible pages and an empty file survive. Method: encode and decode.
#[test]
fn every_page_size_round_trips() {
    for shift in 9..=16 {
        let size = 1 << shift;
        let noise = (1..=4).map(|n| (n, page(size as usize, u64::from(n) + 99))).collect::<Pages>();
        let header = header(size, 4, 1, 1);
        assert_eq!(decode(&encode(&header, &noise)).unwrap(), (header, noise));
    }
    let empty = header(4096, 10, 2, 2).with_wal(32, 0, Salt::default());
    assert_eq!(decode(&encode(&empty, &Pages::new())).unwrap(), (empty, Pages::new()));
}

/// Goal: the encoder refuses what no reader accepts. Method: each rule broken once.
#[test]
fn the_encoder_refuses_what_would_be_no_file() {
    let start = |min| Encoder::new(Vec::new(), &header(65536, 20000, min, min)).unwrap();
    let data = vec![1; 65536];
    assert!(start(2).page(Pgno(16385), &data).is_err(), "the lock page");
    assert!(start(2).page(Pgno(20001), &data).is_err(), "above the commit");
    assert!(start(2).page(Pgno(0), &data).is_err(), "page 0");
    assert!(start(2).page(Pgno(1), &data[1..]).is_err(), "a short page");
    assert!(start(1).page(Pgno(2), &data).is_err(), "a snapshot without page 1");
    assert!(start(1).finish().is_err(), "a snapshot without pages");
    let mut twice = start(2);
    twice.page(Pgno(5), &data).unwrap();
    assert!(twice.page(Pgno(5), &data).is_err(), "the same page again");
    assert!(Encoder::new(Vec::new(), &header(4096, 0, 2, 2)).is_err(), "a database without pages");
    assert!(Encoder::new(Vec::new(), &header(4096, 1, 0, 1)).is_err(), "Txid 0");
    assert!(Encoder::new(Vec::new(), &header(4096, 1, 3, 2)).is_err(), "a span that goes backwards");
}

/// Goal: a snapshot over 1 GiB skips exactly the lock page. Method: 65536-byte pages around 16385, all but a few
/// of them zero, decoded again.
#[test]
fn a_snapshot_leaves_out_the_lock_page_alone() {
    let header = header(65536, 16386, 1, 3);
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    let zero = vec![0; 65536];
    for pgno in 1..=16384 {
        encoder.page(Pgno(pgno), &zero).unwrap();
    }
    encoder.page(Pgno(16386), &zero).unwrap();
    let (bytes, _) = encoder.finish().unwrap();
    let mut decoder = Decoder::new(&bytes[..]).unwrap();
    let (mut page, mut count, mut last) = (Vec::new(), 0, Pgno(0));
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        (count, last) = (count + 1, pgno);
    }
    assert_eq!((count, last), (16385, Pgno(16386)));
}

/// Goal: the index found by the tail names every frame. Method: fed in pieces of every small size.
#[test]
fn the_index_reads_back_in_pieces() {
    let pages: Pages = (1..=300).map(|n| (n * 3, page(512, u64::from(n)))).collect();
    let bytes = encode(&header(512, 1000, 5, 9), &pages);
    let size = bytes.len() as u64;
    let tail: &[u8; TAIL_SIZE] = bytes[bytes.len() - TAIL_SIZE..].try_into().unwrap();
    let range = index_range(size, tail).unwrap();
    let index = &bytes[range.start as usize..range.end as usize];
    for piece in [1, 2, 3, 7, 31, 4096] {
        let (mut reader, mut found) = (IndexReader::new(), Vec::new());
        for bytes in index.chunks(piece) {
            let mut keep = |entry| {
                found.push(entry);
                Ok(())
            };
            reader.feed(bytes, &mut keep).unwrap();
        }
        assert_eq!(reader.finish().unwrap() + 6, range.start, "the end marker stands between frames and index");
        assert_eq!(found.iter().map(|e| e.pgno.0).collect::<Vec<_>>(), pages.keys().copied().collect::<Vec<_>>());
        for entry in found {
            assert_eq!(bytes[entry.offset as usize..][..4], entry.pgno.0.to_be_bytes());
        }
    }
    assert!(index_range(size, &[0xff; TAIL_SIZE]).is_err());
    assert!(index_range(10, tail).is_err());
}

/// Goal: no damage goes unnoticed and none panics. Method: a small file cut at every length, every bit of it
/// flipped, and with a byte more. A bit inside LZ4 may mean the same bytes in another way: then they are the same.
#[test]
fn every_cut_and_every_flipped_bit_is_an_error() {
    let pages: Pages = (1..=3).map(|n| (n, page(512, u64::from(n)))).collect();
    let bytes = encode(&header(512, 3, 1, 2), &pages);
    for length in 0..bytes.len() {
        assert!(matches!(decode(&bytes[..length]), Err(Error::Corrupt(_))), "cut to {length} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        match decode(&bad) {
            Err(Error::Corrupt(_)) => {}
            Ok((_, found)) => assert_eq!(found, pages, "bit {bit} flipped"),
            Err(other) => panic!("bit {bit} flipped: {other}"),
        }
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(decode(&longer), Err(Error::Corrupt(_))), "a byte more");
}

/// Goal: a decoder that failed stays failed. Method: ask again after the error.
#[test]
fn an_error_is_given_again() {
    let pages: Pages = [(1, page(512, 1))].into();
    let bytes = encode(&header(512, 1, 1, 1), &pages);
    let mut decoder = Decoder::new(&bytes[..bytes.len() - 1]).unwrap();
    let mut page = Vec::new();
    assert_eq!(decoder.next_page(&mut page).unwrap(), Some(Pgno(1)));
    assert!(decoder.next_page(&mut page).is_err());
    assert!(decoder.next_page(&mut page).is_err());
    assert!(decoder.finish().is_err());
}

/// Goal: files that do not follow each other, or have different pages, are not merged. Method: each once.
#[test]
fn merging_refuses_gaps_and_other_page_sizes() {
    let file = |page_size, min, max| encode(&header(page_size, 9, min, max), &Pages::new());
    let merged = |files: &[Vec<u8>]| {
        let mut inputs: Vec<_> = files.iter().map(|file| Decoder::new(&file[..]).unwrap()).collect();
        merge(&mut inputs, Vec::new())
    };
    assert!(merged(&[file(512, 2, 3), file(512, 4, 4), file(512, 4, 6)]).is_ok());
    assert!(matches!(merged(&[file(512, 2, 3), file(512, 5, 5)]), Err(Error::Gap(_))));
    assert!(matches!(merged(&[file(512, 2, 5), file(512, 3, 5)]), Err(Error::State(_))));
    assert!(matches!(merged(&[file(512, 2, 3), file(1024, 4, 4)]), Err(Error::Corrupt(_))));
    assert!(matches!(merged(&[]), Err(Error::State(_))));
}

/// Goal: a damaged input never becomes a good output, and can be told from the others. Method: merge with one file's last
/// byte changed.
#[test]
fn merging_proves_every_input() {
    let pages: Pages = [(1, page(512, 1)), (2, page(512, 2))].into();
    let good = encode(&header(512, 2, 1, 1), &pages);
    let mut bad = encode(&header(512, 2, 2, 2), &pages);
    *bad.last_mut().unwrap() ^= 1;
    let mut inputs = [Decoder::new(&good[..]).unwrap(), Decoder::new(&bad[..]).unwrap()];
    assert!(matches!(merge(&mut inputs, Vec::new()), Err(Error::Corrupt(_))));
    assert_eq!(inputs.map(|input| input.failed().is_some()), [false, true]);
}

fn pages_of(page_size: usize, max: u32) -> impl Strategy<Value = Pages> {
    btree_map(1..=max, any::<u64>(), 0..24)
        .prop_map(move |seeds| seeds.into_iter().map(|(pgno, seed)| (pgno, page(page_size, seed))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: what is encoded is what is decoded. Method: random pages and headers.
    #[test]
    fn random_pages_round_trip(pages in pages_of(1024, 60), min in 2u64..1 << 40, more in 0u64..1000, time in any::<i64>()) {
        let header = Header { timestamp: Time(time), ..header(1024, 60, min, min + more) };
        prop_assert_eq!(decode(&encode(&header, &pages)).unwrap(), (header, pages));
    }

    /// Goal: random bytes are never a file and never a panic. Method: a valid start, then noise.
    #[test]
    fn noise_is_an_error(noise in proptest::collection::vec(any::<u8>(), 0..400), keep in 0usize..140) {
        let bytes = encode(&header(512, 3, 2, 2), &[(2, page(512, 5))].into());
        let mixed = [&bytes[..keep], &noise].concat();
        prop_assert!(matches!(decode(&mixed), Err(Error::Corrupt(_))));
    }

    /// Goal: a merge is what a map would be. Method: random files, a growing and shrinking commit, a plain map.
    #[test]
    fn a_merge_equals_a_plain_map(files in proptest::collection::vec((pages_of(512, 40), 1u32..50), 1..6), overlap in any::<bool>()) {
        let mut model = Pages::new();
        let mut encoded = Vec::new();
        let mut max = 4;
        for (pages, commit) in files {
            let pages: Pages = pages.into_iter().filter(|(pgno, _)| *pgno <= commit).collect();
            let min = if overlap && max > 4 { max } else { max + 1 };
            max += 2;
            encoded.push(encode(&header(512, commit, min, max), &pages));
            model.extend(pages);
        }
        let last = *Decoder::new(&encoded[encoded.len() - 1][..]).unwrap().header();
        model.retain(|pgno, _| *pgno <= last.commit);
        let mut inputs: Vec<_> = encoded.iter().map(|file| Decoder::new(&file[..]).unwrap()).collect();
        let (merged, bytes, size) = merge(&mut inputs, Vec::new()).unwrap();
        prop_assert_eq!(size, bytes.len() as u64);
        prop_assert_eq!((merged.span, merged.commit, merged.wal_offset), (Span { min: Txid(5), max: Txid(max) }, last.commit, 0));
        prop_assert_eq!(decode(&bytes).unwrap(), (merged, model));
    }
}
