//! Could this file and this replica be one database? A look at page 1 of both, for a file without `state`
//! beside a replica with history: people come from the sidecar, and now and then one URL is given to two files.
//!
//! Says "another database" only where that is sure.

use crate::error::Result;
use crate::ltx::Decoder;
use crate::page::{PageSize, Pgno};
use crate::plan::{Target, plan};
use crate::store::{FileInfo, Store};
use std::collections::BTreeSet;

/// Files looked into for page 1 before the snapshot, which begins with it.
const FILES_SEEN: usize = 16;
/// Bytes of a database header.
const HEADER_BYTES: usize = 100;

/// Why a file and a replica are two databases; `None` where they may be one.
pub(crate) fn strangers(local: &[u8], replica: &[u8]) -> Option<String> {
    if local.len() < HEADER_BYTES || replica.len() < HEADER_BYTES {
        return None;
    }
    let number = |page: &[u8], at: usize| u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let (mine, theirs) = (number(local, 56), number(replica, 56));
    if mine != 0 && theirs != 0 && mine != theirs {
        return Some(format!("the file's text encoding is {mine}, the replica's {theirs}"));
    }
    let (mine, theirs) = (number(local, 68), number(replica, 68));
    if mine != theirs {
        return Some(format!("the file's application_id is {mine}, the replica's {theirs}"));
    }
    let (mine, theirs) = (objects(local)?, objects(replica)?);
    if !mine.is_empty() && !theirs.is_empty() && mine.is_disjoint(&theirs) {
        let some = |names: &BTreeSet<String>| names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        return Some(format!(
            "no table or index is in both (the file has {}; the replica {})",
            some(&mine),
            some(&theirs)
        ));
    }
    None
}

/// Page 1 of a replica's newest state, as far as a few small reads find it.
pub(crate) fn first_page(store: &Store, listing: &[FileInfo]) -> Result<Option<(PageSize, Vec<u8>)>> {
    let plan = plan(listing, Target::Latest)?;
    let newest = plan.files.iter().rev().take(FILES_SEEN);
    for file in newest.chain(plan.files.first()) {
        let mut decoder = Decoder::new(store.stream(file)?)?;
        let mut page = Vec::new();
        if decoder.next_page(&mut page)? == Some(Pgno(1)) {
            return Ok(Some((decoder.header().page_size, page)));
        }
    }
    Ok(None)
}

/// Names in `sqlite_schema`, where it is one leaf page; `None` where it is more, or not readable (encrypted).
fn objects(page: &[u8]) -> Option<BTreeSet<String>> {
    if page.get(HEADER_BYTES) != Some(&13) {
        return None;
    }
    let count = usize::from(u16::from_be_bytes([*page.get(103)?, *page.get(104)?]));
    let mut names = BTreeSet::new();
    for index in 0..count {
        let at = 108 + 2 * index;
        let cell = usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?]));
        names.insert(name_of(page.get(cell..)?)?);
    }
    Some(names)
}

/// The second column of a row: payload size, rowid, then the record's header (sizes by column) and its body.
fn name_of(cell: &[u8]) -> Option<String> {
    let (_, cell) = varint(cell)?;
    let (_, cell) = varint(cell)?;
    let (header, columns) = varint(cell)?;
    let body = cell.get(usize::try_from(header).ok()?..)?;
    let (kind, columns) = varint(columns)?;
    let (name, _) = varint(columns)?;
    let length = |code: u64| code.checked_sub(13).map(|code| (code / 2) as usize);
    let (kind, name) = (length(kind)?, length(name)?);
    let raw = body.get(kind..kind.checked_add(name)?)?;
    Some(String::from_utf8_lossy(raw).into_owned())
}

fn varint(raw: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in raw.iter().take(9).enumerate() {
        if index == 8 {
            return Some((value << 8 | u64::from(*byte), &raw[9..]));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, &raw[index + 1..]));
        }
    }
    None
}
