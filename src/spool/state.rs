//! `state`: how far the store is, written by the Leader only. Two slots, numbered and checksummed, so a
//! torn write leaves the one before.

use super::codec::{In, Out, opened};
use super::links::End;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::ltx::Txid;
use crate::wal::Cursor;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const MAGIC: u32 = 0x4c56_5333;
const SLOT_BYTES: usize = 1024;
const SLOT_DISTANCE: u64 = 4096;
/// Longest identity of a replica that is kept; a longer one is kept by its end.
const REPLICA_BYTES: usize = 512;

/// What the Leader knows and every process may read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Grows with each write.
    pub number: u64,
    /// Drawn by each Leader: who wrote this last.
    pub writer: u64,
    /// The newest stored file; 0 before the first.
    pub txid: Txid,
    /// What it reaches; `None` while the database has no stored image or lost continuity.
    pub cursor: Option<Cursor>,
    /// Database size in pages at `cursor`.
    pub commit: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// Inode of the database.
    pub inode: u64,
    /// Header time of the newest file: the next one is later.
    pub time: Time,
    /// The Cursor of an image being made: Gates save from it.
    pub image: Option<Cursor>,
    /// Where an image's Cursor has no WAL: the file as it was then, an End of its own.
    pub end: Option<End>,
    /// Number of the newest record of `links` when `end` was taken: the order of the two.
    pub end_after: u64,
    /// Which replica, without keys.
    pub replica: String,
    /// The database is closed and all of it is stored and durable: the number of the newest record of `links` then.
    pub rest: Option<u64>,
}

impl State {
    /// The newest whole slot; `None` where there is no state.
    pub fn read(path: &Path) -> Result<Option<State>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let mut newest: Option<State> = None;
        for slot in 0..2 {
            let mut raw = [0u8; SLOT_BYTES];
            match file.read_exact_at(&mut raw, slot * SLOT_DISTANCE) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                Err(e) => return Err(Error::io("read", path, e)),
            }
            if let Some(state) = decode(&raw)
                && newest.as_ref().is_none_or(|other| other.number < state.number)
            {
                newest = Some(state);
            }
        }
        Ok(newest)
    }

    /// Writes the next slot and makes it durable.
    pub fn write(&mut self, path: &Path) -> Result<()> {
        self.number += 1;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("open", path, e))?;
        file.write_all_at(&encode(self), (self.number % 2) * SLOT_DISTANCE)
            .and_then(|()| file.sync_data())
            .map_err(|e| Error::io("write", path, e))
    }

    /// The point from which Gates save: the image being made, else what is stored.
    pub fn durable(&self) -> Option<&Cursor> {
        self.image.as_ref().or(self.cursor.as_ref())
    }
}

/// | field | bytes |
/// |---|---|
/// | magic, flags (1 cursor, 2 image, 4 end, 8 rest) | 8 |
/// | number, writer, txid | 24 |
/// | cursor, image | 40 |
/// | commit, page size | 8 |
/// | inode, time | 16 |
/// | End, number of the newest link then | 76 |
/// | length of the replica's identity, its bytes | 4 + up to 512 |
/// | rest | 8 |
/// | CRC-64 | last 8 of 1024 |
fn encode(state: &State) -> Vec<u8> {
    let mut out = Out::default();
    out.u32(MAGIC);
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    out.u32(
        flag(state.cursor.is_some(), 1)
            | flag(state.image.is_some(), 2)
            | flag(state.end.is_some(), 4)
            | flag(state.rest.is_some(), 8),
    );
    out.u64(state.number);
    out.u64(state.writer);
    out.u64(state.txid.0);
    out.cursor(&state.cursor.unwrap_or_default());
    out.cursor(&state.image.unwrap_or_default());
    out.u32(state.commit);
    out.u32(state.page_size);
    out.u64(state.inode);
    out.i64(state.time.0);
    out.end(&state.end.unwrap_or(End {
        cursor: Cursor::default(),
        commit: 0,
        change: 0,
        stat: super::Stat::default(),
        header: 0,
    }));
    out.u64(state.end_after);
    let replica = kept(&state.replica);
    out.u32(replica.len() as u32);
    out.0.extend_from_slice(replica.as_bytes());
    out.u64(state.rest.unwrap_or_default());
    out.sealed(SLOT_BYTES)
}

fn decode(raw: &[u8]) -> Option<State> {
    let mut fields = opened(raw)?;
    if fields.u32()? != MAGIC {
        return None;
    }
    let flags = fields.u32()?;
    let (number, writer, txid) = (fields.u64()?, fields.u64()?, Txid(fields.u64()?));
    let (cursor, image) = (fields.cursor()?, fields.cursor()?);
    let (commit, page_size) = (fields.u32()?, fields.u32()?);
    let (inode, time) = (fields.u64()?, Time(fields.i64()?));
    let end = fields.end()?;
    let end_after = fields.u64()?;
    let length = fields.u32()? as usize;
    let (replica, after) = fields.0.split_at_checked(length)?;
    let replica = String::from_utf8(replica.to_vec()).ok()?;
    let rest = In(after).u64()?;
    Some(State {
        number,
        writer,
        txid,
        cursor: (flags & 1 != 0).then_some(cursor),
        commit,
        page_size,
        inode,
        time,
        image: (flags & 2 != 0).then_some(image),
        end: (flags & 4 != 0).then_some(end),
        end_after,
        replica,
        rest: (flags & 8 != 0).then_some(rest),
    })
}

/// The identity as it is kept and compared.
pub fn kept(replica: &str) -> &str {
    let mut start = replica.len().saturating_sub(REPLICA_BYTES);
    while !replica.is_char_boundary(start) {
        start += 1;
    }
    &replica[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Stat;
    use crate::wal::Salt;

    // Goal: state survives a torn write. Method: two writes, tear the second, read the first.
    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state");
        assert_eq!(State::read(&path).expect("read"), None);
        let cursor = Cursor { salt: Salt([3; 8]), frame: 8, checksum: [1, 2] };
        let end =
            End { cursor, commit: 1, change: 2, stat: Stat { inode: 1, size: 2, modified: 3, boot: 4 }, header: 9 };
        let mut state = State {
            txid: Txid(7),
            cursor: Some(cursor),
            end: Some(end),
            replica: "s3://bucket/db".into(),
            rest: Some(0),
            time: Time(5),
            ..State::default()
        };
        state.write(&path).expect("write");
        let first = state.clone();
        state.txid = Txid(8);
        state.write(&path).expect("write");
        assert_eq!(State::read(&path).expect("read"), Some(state.clone()));
        let mut raw = std::fs::read(&path).expect("read");
        let at = (state.number % 2) as usize * SLOT_DISTANCE as usize + 30;
        raw[at] ^= 1;
        std::fs::write(&path, raw).expect("write");
        assert_eq!(State::read(&path).expect("read"), Some(first));
    }
}
