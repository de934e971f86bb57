//! One LTX file: encoded into the Spool, made durable there, put create-only, then gone from the Spool.
//!
//! The Spool knows every byte that the store may hold, also after a power loss: a file is put again, by the same
//! bytes, until the store has it. `state` moves only after that; the worker writes it.

use crate::base::BaseFile;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::fault;
use crate::image::{Snapshot, read_page};
use crate::limits::{PAGES_A_LOOK, SINGLE_PUT};
use crate::ltx::{Decoder, Encoder, FileInfo, HEADER_SIZE, Header, Level, Span, Txid};
use crate::page::{PageSize, Pgno};
use crate::reader::{Pending, Place};
use crate::spool::{Spool, State, remove, rename};
use crate::store::{Body, Put, Store};
use crate::wal::{Cursor, FRAME_HEADER_BYTES, HEADER_BYTES, Salt};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Buffer between the encoder and the file.
const ENCODE_BUFFER: usize = 256 << 10;

/// A file that waits to be stored.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its number.
    pub txid: Txid,
    /// The transactions that it holds: a snapshot begins at 1.
    pub span: Span,
    /// Its header's time.
    pub time: Time,
    /// What it reaches.
    pub to: Cursor,
    /// Database size in pages there.
    pub commit: u32,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

impl Outgoing {
    /// Where it goes: a database's first image is a snapshot, everything else is raw.
    pub fn level(&self) -> Level {
        if self.span.is_snapshot() { Level::SNAPSHOT } else { Level::RAW }
    }

    /// As the replica's listing will name it.
    pub fn info(&self) -> FileInfo {
        FileInfo { level: self.level(), span: self.span, size: self.size, listed: self.time }
    }

    /// Puts it, create-only.
    pub fn put(&self, store: &Store) -> Result<Put> {
        let body = if self.size <= SINGLE_PUT {
            Body::Bytes(std::fs::read(&self.path).map_err(|e| Error::io("read", &self.path, e))?.into())
        } else {
            Body::File(&self.path)
        };
        store.put(self.level(), self.span, self.time, body)
    }

    /// Makes `state` what it is once this file is stored.
    pub fn enter(&self, state: &mut State) {
        state.txid = self.txid;
        state.cursor = Some(self.to);
        state.commit = self.commit;
        state.page_size = self.page_size.get();
        state.time = self.time;
        state.image = None;
    }

    /// Takes up a file that an earlier Leader left; torn ones (a power loss before they could be put) are deleted.
    pub fn found(spool: &Spool) -> Result<Vec<Outgoing>> {
        let mut found = Vec::new();
        for path in spool.waiting()? {
            let checked = File::open(&path)
                .map_err(|e| Error::io("open", &path, e))
                .and_then(|file| Decoder::new(BufReader::new(file)))
                .and_then(|mut decoder| {
                    decoder.finish()?;
                    Ok(*decoder.header())
                });
            match checked {
                Ok(header) => {
                    let Some(to) = reach(&path) else { continue };
                    let Ok(size) = std::fs::metadata(&path).map(|meta| meta.len()) else { continue };
                    let Header { page_size, commit, timestamp: time, .. } = header;
                    let span = header.span;
                    found.push(Outgoing { txid: span.max, span, time, to, commit, page_size, path, size });
                }
                Err(Error::Corrupt(reason)) => {
                    log::warn!(target: "litestream", "{} was torn and is written anew: {reason}", path.display());
                    remove(&path)?;
                }
                Err(Error::Io { kind: std::io::ErrorKind::NotFound, .. }) => {}
                Err(e) => return Err(e),
            }
        }
        found.sort_by_key(|outgoing| outgoing.txid);
        Ok(found)
    }
}

/// Of files that an earlier Leader left, the one that comes after `stored`; those up to there are in the store, and only
/// their deletion was cut off.
pub fn keep_next(found: &mut Vec<Outgoing>, stored: Txid) -> Result<()> {
    for done in found.iter().filter(|waiting| waiting.txid <= stored) {
        remove(&done.path)?;
    }
    found.retain(|waiting| waiting.txid == stored.next());
    Ok(())
}

/// How far a store is beyond what was stored from here, where it is: its last Txid. A waiting file counts as stored where
/// the store has these very bytes under its name: then only the answer was lost.
pub fn beyond(store: &Store, listing: &[FileInfo], stored: Txid, waiting: Option<&Outgoing>) -> Result<Option<Txid>> {
    let Some(newest) = listing.iter().map(|file| file.span.max).max() else { return Ok(None) };
    let Some(waiting) = waiting.filter(|waiting| waiting.txid == newest) else {
        return Ok((newest > stored).then_some(newest));
    };
    let ours = waiting.info();
    if !listing.iter().any(|file| (file.level, file.span, file.size) == (ours.level, ours.span, ours.size)) {
        return Ok(Some(newest));
    }
    // What stands there is compared, and nothing is written.
    match waiting.put(store) {
        Ok(_) => Ok(None),
        Err(Error::Conflict(_)) => Ok(Some(newest)),
        Err(e) => Err(e),
    }
}

/// True where the file that ends at `stored` is another one than what was stored from here, with `time` in its header: the
/// replica was replaced, and has come as far. A file that cannot be read says nothing.
pub fn is_replaced(store: &Store, listing: &[FileInfo], stored: Txid, time: Time) -> Result<bool> {
    Ok(header_at(store, listing, stored)?.is_some_and(|header| header.timestamp != time))
}

/// The header of the rawest file that ends at `end`, where there is one that can be read.
pub fn header_at(store: &Store, listing: &[FileInfo], end: Txid) -> Result<Option<Header>> {
    let ends = listing.iter().filter(|file| file.span.max == end);
    let Some(file) = ends.min_by_key(|file| file.level) else { return Ok(None) };
    let raw = match store.read(file.level, file.span, Some(0..HEADER_SIZE as u64)) {
        Err(Error::NoBackup(_) | Error::Corrupt(_)) => return Ok(None),
        other => other?,
    };
    Ok(raw[..].try_into().ok().and_then(|raw| Header::decode(raw).ok()))
}

/// Where pages come from that are neither in the WAL nor in a Segment.
pub enum Source<'a> {
    /// The file as it is: pages that no transaction wrote (free pages of a growth).
    File(&'a dyn BaseFile, &'a Path),
    /// A state that is held still.
    Snapshot(&'a Snapshot<'a>),
    /// A copy in the Spool.
    Copy(&'a File, &'a Path),
    /// Nothing: the database is gone, and pages that no transaction wrote were zero.
    Zeros,
}

impl Source<'_> {
    fn read(&self, page_size: PageSize, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        match self {
            Source::File(base, path) => read_page((*base, path), page_size, pgno, page),
            Source::Snapshot(snapshot) => snapshot.read(pgno, page),
            Source::Zeros => {
                page.fill(0);
                Ok(())
            }
            Source::Copy(file, path) => {
                use std::os::unix::fs::FileExt;
                file.read_exact_at(page, page_size.offset(pgno)).map_err(|e| Error::io("read", path, e))
            }
        }
    }
}

/// Why an encode ended without a file.
pub enum Encoded {
    /// Written, durable, under its name.
    Done(Outgoing),
    /// The WAL was reset meanwhile: walk again.
    Torn,
}

/// An image whose last page is written: what it was read from may go, before the disk is waited for.
pub struct Unfinished {
    out: Encoder<BufWriter<File>>,
    path: PathBuf,
    header: Header,
    to: Cursor,
}

impl Unfinished {
    /// Makes it durable under its name.
    pub fn finish(self, spool: &Spool) -> Result<Outgoing> {
        finish(spool, self.out, &self.path, &self.header, self.to)
    }

    /// Deletes it.
    pub fn discard(self) -> Result<()> {
        remove(&self.path)
    }
}

/// Encodes what is pending as one L0 file. `before` is the database size of the file before it.
pub fn encode(
    spool: &Spool,
    pending: &Pending,
    txid: Txid,
    time: Time,
    before: u32,
    source: &Source<'_>,
) -> Result<Encoded> {
    let (offset, size, salt) = wal_place(pending);
    let header = Header::new(pending.page_size, pending.commit, Span::one(txid), time).with_wal(offset, size, salt);
    let lock = pending.page_size.lock_page();
    let mut grown = (before + 1..=pending.commit).map(Pgno).filter(|pgno| *pgno != lock).peekable();
    let new = spool.temporary("ltx");
    let mut out = start(&new, &header)?;
    let mut page = vec![0u8; pending.page_size.bytes()];
    let mut written = || -> Result<()> {
        for (pgno, place) in &pending.pages {
            while let Some(missing) = grown.next_if(|missing| missing < pgno) {
                source.read(pending.page_size, missing, &mut page)?;
                out.page(missing, &page).map_err(|e| e.about(&new))?;
            }
            grown.next_if_eq(pgno);
            if !pending.read(*place, &mut page)? {
                source.read(pending.page_size, *pgno, &mut page)?;
            }
            out.page(*pgno, &page).map_err(|e| e.about(&new))?;
        }
        for missing in grown.by_ref() {
            source.read(pending.page_size, missing, &mut page)?;
            out.page(missing, &page).map_err(|e| e.about(&new))?;
        }
        Ok(())
    };
    let written = written();
    fault::point("pages-read");
    if !pending.still_whole() {
        remove(&new)?;
        return Ok(Encoded::Torn);
    }
    if let Err(e) = written {
        remove(&new)?;
        return Err(e);
    }
    finish(spool, out, &new, &header, pending.to).map(Encoded::Done)
}

/// Encodes a whole database as one file. `stop` is asked now and then: where it says so, `None`.
pub fn encode_image(
    spool: &Spool,
    span: Span,
    time: Time,
    (page_size, commit, at): (PageSize, u32, Cursor),
    source: &Source<'_>,
    mut stop: impl FnMut(u32) -> bool,
) -> Result<Option<Unfinished>> {
    let header = Header::new(page_size, commit, span, time).with_wal(HEADER_BYTES as u64, 0, Salt::default());
    let new = spool.temporary("ltx");
    let mut out = start(&new, &header)?;
    let mut page = vec![0u8; page_size.bytes()];
    for pgno in (1..=commit).map(Pgno).filter(|pgno| *pgno != page_size.lock_page()) {
        if pgno.0.is_multiple_of(PAGES_A_LOOK) && stop(pgno.0) {
            remove(&new)?;
            return Ok(None);
        }
        if let Err(e) =
            source.read(page_size, pgno, &mut page).and_then(|()| out.page(pgno, &page)).map_err(|e| e.about(&new))
        {
            remove(&new)?;
            return Err(e);
        }
    }
    Ok(Some(Unfinished { out, path: new, header, to: at }))
}

fn start(path: &Path, header: &Header) -> Result<Encoder<BufWriter<File>>> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("create", path, e))?;
    Encoder::new(BufWriter::with_capacity(ENCODE_BUFFER, file), header).map_err(|e| e.about(path))
}

fn finish(spool: &Spool, out: Encoder<BufWriter<File>>, new: &Path, header: &Header, to: Cursor) -> Result<Outgoing> {
    let Header { page_size, commit, timestamp: time, .. } = *header;
    let txid = header.span.max;
    let path = spool.path(&name(txid, &to));
    let finished = (|| {
        let (mut writer, size) = out.finish().map_err(|e| e.about(new))?;
        writer.flush().map_err(|e| Error::io("write", new, e))?;
        writer.get_ref().sync_data().map_err(|e| Error::io("sync", new, e))?;
        fault::point("ltx-written");
        rename(new, &path)?;
        fault::point("ltx-saved");
        spool.sync()?;
        Ok(size)
    })();
    match finished {
        Ok(size) => Ok(Outgoing { txid, span: header.span, time, to, commit, page_size, path, size }),
        Err(e) => {
            remove(new)?;
            Err(e)
        }
    }
}

/// A waiting file's name says what it reaches: `TXID_SALT_FRAME_CHECKSUM.ltx`.
fn name(txid: Txid, to: &Cursor) -> String {
    format!("{txid}_{}_{:08x}_{:08x}{:08x}.ltx", to.salt, to.frame, to.checksum[0], to.checksum[1])
}

fn reach(path: &Path) -> Option<Cursor> {
    let mut parts = path.file_name()?.to_str()?.strip_suffix(".ltx")?.split('_').skip(1);
    let salt = Salt(u64::from_str_radix(parts.next()?, 16).ok()?.to_be_bytes());
    let frame = u32::from_str_radix(parts.next()?, 16).ok()?;
    let sum = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some(Cursor { salt, frame, checksum: [(sum >> 32) as u32, sum as u32] })
}

/// What the header says of the WAL: Litestream goes on from there where it takes over.
fn wal_place(pending: &Pending) -> (u64, u64, Salt) {
    match &pending.wal {
        Some(wal) => {
            let frame = (FRAME_HEADER_BYTES + pending.page_size.bytes()) as u64;
            (HEADER_BYTES as u64 + u64::from(wal.from) * frame, u64::from(wal.to - wal.from) * frame, wal.salt)
        }
        None => (HEADER_BYTES as u64, 0, Salt::default()),
    }
}

/// True where a page's contents were not kept: they have to come from a state that is held still.
pub fn needs_snapshot(pending: &Pending) -> bool {
    pending.pages.iter().any(|(_, place)| *place == Place::Database)
}

/// True where the database grew by pages that no transaction wrote: the file is asked for what they hold.
pub fn grows_unwritten(pending: &Pending, before: u32) -> bool {
    let lock = pending.page_size.lock_page();
    let grown = (before + 1..=pending.commit).filter(|pgno| Pgno(*pgno) != lock).count();
    grown > pending.pages.iter().filter(|(pgno, _)| pgno.0 > before && pgno.0 <= pending.commit).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: a file that was stored leaves the Spool, also where its Leader died right after writing `state`. Method: the
    // files of three transactions, of which the first is stored.
    #[test]
    fn a_stored_file_that_a_kill_left_is_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::of(&folder.path().join("app.db"));
        spool.create().expect("made");
        let left = |txid| {
            let to = Cursor::start(Salt([7; 8]));
            let path = spool.path(&name(Txid(txid), &to));
            std::fs::write(&path, b"a file").expect("written");
            let (page_size, span) = (PageSize::new(512).expect("a size"), Span::one(Txid(txid)));
            Outgoing { txid: Txid(txid), span, time: Time(1), to, commit: 1, page_size, path, size: 6 }
        };
        let mut found = vec![left(1), left(2)];
        keep_next(&mut found, Txid(1)).expect("kept");
        assert_eq!(found.iter().map(|waiting| waiting.txid).collect::<Vec<_>>(), [Txid(2)]);
        assert_eq!(spool.waiting().expect("listed"), [found[0].path.clone()]);
    }
}
