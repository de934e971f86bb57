//! Compaction: several LTX files that follow each other become one.
//!
//! The newest copy of each page wins, pages above the last file's commit fall away, and every input is read
//! and proved to its end before the output is closed. Memory is one page and one read-ahead for each input.

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::header::Header;
use super::name::{Span, Txid};
use crate::error::{Error, Result};
use crate::page::Pgno;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

/// Checks that spans, oldest first, follow each other: overlaps are allowed, gaps are not.
pub fn check_order(spans: impl IntoIterator<Item = Span>) -> Result<()> {
    let mut last: Option<Span> = None;
    for span in spans {
        if let Some(last) = last {
            if span.min > last.max.next() {
                return Err(Error::Gap(format!("no file for Txid {} to {}", last.max.next(), Txid(span.min.0 - 1))));
            }
            if span.max <= last.max {
                return Err(Error::State(format!("{} adds nothing to {}", span.file_name(), last.file_name())));
            }
        }
        last = Some(span);
    }
    Ok(())
}

/// Merges files, oldest first, into one. The header, the writer and the size in bytes of what was written. Where it
/// fails, [`Decoder::failed`] says which input did.
pub fn merge<R: Read, W: Write>(inputs: &mut [Decoder<R>], out: W) -> Result<(Header, W, u64)> {
    let header = merged_header(inputs)?;
    merge_as(header, inputs, out)
}

/// Merges files, oldest first, into a whole database: what is older than the first of them is in none of its pages.
pub fn merge_whole<R: Read, W: Write>(inputs: &mut [Decoder<R>], out: W) -> Result<(Header, W, u64)> {
    let header = merged_header(inputs)?;
    merge_as(Header { span: Span { min: Txid(1), ..header.span }, ..header }, inputs, out)
}

fn merge_as<R: Read, W: Write>(header: Header, inputs: &mut [Decoder<R>], out: W) -> Result<(Header, W, u64)> {
    let mut encoder = Encoder::new(out, &header)?;
    let mut pages = vec![Vec::new(); inputs.len()];
    let mut heads = BinaryHeap::with_capacity(inputs.len());
    for (i, input) in inputs.iter_mut().enumerate() {
        advance(input, &mut pages[i], i, &mut heads)?;
    }
    while let Some(Reverse((pgno, newest))) = heads.pop() {
        let Reverse(i) = newest;
        if pgno.0 <= header.commit {
            encoder.page(pgno, &pages[i])?;
        }
        advance(&mut inputs[i], &mut pages[i], i, &mut heads)?;
        while let Some(&Reverse((same, Reverse(older)))) = heads.peek().filter(|head| head.0.0 == pgno) {
            debug_assert_eq!(same, pgno);
            heads.pop();
            advance(&mut inputs[older], &mut pages[older], older, &mut heads)?;
        }
    }
    let (out, size) = encoder.finish()?;
    Ok((header, out, size))
}

/// The next page of each input: lowest page first, of equal pages the newest file's first.
type Heads = BinaryHeap<Reverse<(Pgno, Reverse<usize>)>>;

fn advance<R: Read>(input: &mut Decoder<R>, page: &mut Vec<u8>, i: usize, heads: &mut Heads) -> Result<()> {
    if let Some(pgno) = input.next_page(page)? {
        heads.push(Reverse((pgno, Reverse(i))));
    }
    Ok(())
}

fn merged_header<R: Read>(inputs: &[Decoder<R>]) -> Result<Header> {
    let headers = || inputs.iter().map(Decoder::header);
    let (Some(first), Some(last)) = (headers().next(), headers().last()) else {
        return Err(Error::State("nothing to merge".into()));
    };
    check_order(headers().map(|header| header.span))?;
    if let Some(other) = headers().find(|header| header.page_size != first.page_size) {
        return Err(Error::Corrupt(format!(
            "{} has pages of {} bytes, {} of {}",
            first.span.file_name(),
            first.page_size.get(),
            other.span.file_name(),
            other.page_size.get()
        )));
    }
    let span = Span { min: first.span.min, max: last.span.max };
    Ok(Header::new(first.page_size, last.commit, span, last.timestamp))
}
