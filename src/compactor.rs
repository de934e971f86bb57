//! One compaction: stored files are merged into one local file, which is put create-only.
//!
//! Every input is read and proved to its end. Memory stays flat however many and however large the inputs are: they
//! are read in chunks whose size shrinks with their number, the largest one alone as a stream that runs ahead.
//! Knows nothing of levels' schedules; what is merged is decided elsewhere.

use crate::due::Merge;
use crate::error::{Error, Result};
use crate::limits::{COMPACTION_CHUNK, COMPACTION_MEMORY, DISK_RESERVE, SINGLE_PUT};
use crate::ltx::{self, Decoder, FileInfo, Header, Level};
use crate::page::PageSize;
use crate::spool::remove;
use crate::store::{Body, Store};
use bytes::Bytes;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Buffer between the encoder and the file.
const ENCODE_BUFFER: usize = 256 << 10;

/// Where the inputs are.
pub struct Inputs<'a> {
    /// The replica.
    pub store: &'a Store,
    /// The local copy of a file, if there is one.
    pub local: &'a dyn Fn(&FileInfo) -> Option<PathBuf>,
    /// Asked before each chunk: an error ends the merge with it.
    pub go_on: &'a dyn Fn() -> Result<()>,
    /// Told of an input that is not what it should be; the merge ends with an error then.
    pub doubt: &'a dyn Fn(&FileInfo),
}

/// A merged file, not yet stored.
#[derive(Debug)]
pub struct Merged {
    /// Where it is.
    pub path: PathBuf,
    /// Its header; its span may be shorter than what was asked for, where the page size changes.
    pub header: Header,
    /// Bytes.
    pub size: u64,
    /// The inputs that it was made of, each proved to its end: all, unless the page size changes among them.
    pub inputs: Range<usize>,
}

impl Merged {
    /// As the replica's listing will name it.
    pub fn info(&self, level: Level) -> FileInfo {
        FileInfo { level, span: self.header.span, size: self.size, listed: self.header.timestamp }
    }
}

/// Merges into a new file at `out`. Where it fails it leaves nothing there.
pub fn merge(from: &Inputs<'_>, merge: &Merge, out: &Path) -> Result<Merged> {
    let bytes = merge.inputs.iter().map(|info| info.size).sum();
    check_room("a compaction", out, bytes)?;
    let merged = write(from, merge, out);
    if merged.is_err() {
        // The reason of the failure says more than one about a temporary file.
        let _ = remove(out);
    }
    merged
}

/// Puts the file, create-only. Another file under the name is as good where it holds the same pages: an earlier try,
/// or another Leader, made it of other files. The file stays.
pub fn put(store: &Store, level: Level, merged: &Merged) -> Result<()> {
    let body = if merged.size <= SINGLE_PUT {
        Body::Bytes(std::fs::read(&merged.path).map_err(|e| Error::io("read", &merged.path, e))?.into())
    } else {
        Body::File(&merged.path)
    };
    match store.put(level, merged.header.span, merged.header.timestamp, body) {
        Err(Error::Conflict(why)) => match holds_same_pages(store, level, merged)? {
            true => Ok(()),
            false => Err(Error::Conflict(why)),
        },
        other => other.map(drop),
    }
}

fn write(from: &Inputs<'_>, merge: &Merge, out: &Path) -> Result<Merged> {
    let largest = merge.inputs.iter().map(|info| info.size).max().unwrap_or(0);
    let (least, most) = COMPACTION_CHUNK;
    let chunk = (COMPACTION_MEMORY / merge.inputs.len().max(1) as u64).clamp(least, most);
    let mut is_streamed = false;
    let mut inputs = Vec::with_capacity(merge.inputs.len());
    for info in &merge.inputs {
        let local = (from.local)(info);
        let ahead = !is_streamed && local.is_none() && info.size == largest && info.size > most;
        is_streamed |= ahead;
        let source = match local {
            Some(path) => Source::Local(path),
            None if ahead => Source::Ahead(from.store.stream(info)?),
            None => Source::Remote(from.store),
        };
        let decoder = Decoder::new(Chunks { info, source, chunk, next: 0, held: Bytes::new(), from });
        let decoder = decoder.and_then(|decoder| match decoder.header().span {
            span if span == info.span => Ok(decoder),
            span => Err(Error::Corrupt(format!("LTX header is that of {}", span.file_name()))),
        });
        inputs.push(decoder.map_err(|e| doubted(from, info, e))?);
    }
    let file = File::options().write(true).create_new(true).mode(0o600).open(out);
    let file = BufWriter::with_capacity(ENCODE_BUFFER, file.map_err(|e| Error::io("create", out, e))?);
    let sizes: Vec<PageSize> = inputs.iter().map(|input| input.header().page_size).collect();
    let same = one_page_size(&sizes, merge.level);
    let (infos, inputs) = (&merge.inputs[same.clone()], &mut inputs[same.clone()]);
    let merged = match merge.level {
        Level::SNAPSHOT => ltx::merge_whole(inputs, file),
        _ => ltx::merge(inputs, file),
    };
    let (header, _, size) = merged.map_err(|e| match inputs.iter().position(|input| input.failed().is_some()) {
        Some(at) => doubted(from, &infos[at], e),
        None if matches!(e, Error::Io { .. }) => e.about(out),
        None => e,
    })?;
    Ok(Merged { path: out.to_path_buf(), header, size, inputs: same })
}

/// An error that reading an input ended in: where it is about the input's bytes, it names it.
fn doubted(from: &Inputs<'_>, info: &FileInfo, e: Error) -> Error {
    match e {
        Error::Corrupt(_) => {
            (from.doubt)(info);
            e.about(info.name())
        }
        other => other,
    }
}

/// Files of different page sizes cannot become one: a level takes the first run, a whole database the last, for the
/// file after a change of the page size holds all pages.
fn one_page_size(sizes: &[PageSize], level: Level) -> Range<usize> {
    let changes = || (1..sizes.len()).filter(|&i| sizes[i] != sizes[i - 1]);
    match level {
        Level::SNAPSHOT => changes().next_back().unwrap_or(0)..sizes.len(),
        _ => 0..changes().next().unwrap_or(sizes.len()),
    }
}

/// The disk is the application's: refuses to begin `what`, which writes so many bytes to `out`, where the disk would get too full.
pub(crate) fn check_room(what: &str, out: &Path, bytes: u64) -> Result<()> {
    let folder = out.parent().unwrap_or(out);
    let disk = rustix::fs::statvfs(folder).map_err(|e| Error::io("look at the disk of", folder, e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes.saturating_add(DISK_RESERVE) {
        return Err(Error::Busy(format!(
            "{what} of {bytes} bytes waits for room on the disk of {}: {free} bytes are free; commits go on being stored",
            folder.display()
        )));
    }
    Ok(())
}

fn holds_same_pages(store: &Store, level: Level, merged: &Merged) -> Result<bool> {
    let listed = store.list(level)?.into_iter().find(|info| info.span == merged.header.span);
    let Some(info) = listed else {
        return Err(Error::Busy(format!("{} came and went", merged.header.span.file_name())));
    };
    let ours = File::open(&merged.path).map_err(|e| Error::io("open", &merged.path, e))?;
    let mut ours = Decoder::new(BufReader::new(ours)).map_err(|e| e.about(&merged.path))?;
    let named = |e: Error| e.about(info.name());
    let mut theirs = Decoder::new(store.stream(&info)?).map_err(named)?;
    let key = |header: &Header| (header.page_size, header.commit, header.span);
    if key(ours.header()) != key(theirs.header()) {
        return Ok(false);
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        let (mine, other) =
            (ours.next_page(&mut a).map_err(|e| e.about(&merged.path))?, theirs.next_page(&mut b).map_err(named)?);
        if mine != other || (mine.is_some() && a != b) {
            return Ok(false);
        }
        if mine.is_none() {
            return Ok(true);
        }
    }
}

enum Source<'a> {
    Local(PathBuf),
    Remote(&'a Store),
    /// Runs ahead of its reader.
    Ahead(Box<dyn Read + Send>),
}

/// An input, a chunk at a time; no descriptor stays open between two.
struct Chunks<'a> {
    info: &'a FileInfo,
    source: Source<'a>,
    chunk: u64,
    next: u64,
    held: Bytes,
    from: &'a Inputs<'a>,
}

impl Chunks<'_> {
    fn fetch(&mut self) -> Result<()> {
        (self.from.go_on)()?;
        let range = self.next..self.info.size.min(self.next + self.chunk);
        self.next = range.end;
        self.held = match &self.source {
            Source::Remote(store) => store.read(self.info.level, self.info.span, Some(range))?,
            Source::Local(path) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                match File::open(path).and_then(|file| file.read_exact_at(&mut bytes, range.start)) {
                    Ok(()) => Bytes::from(bytes),
                    // Only a copy, and gone: another Leader was here.
                    Err(_) => self.from.store.read(self.info.level, self.info.span, Some(range))?,
                }
            }
            Source::Ahead(_) => Bytes::new(),
        };
        Ok(())
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if let Source::Ahead(stream) = &mut self.source {
            (self.from.go_on)().map_err(std::io::Error::other)?;
            return stream.read(buf);
        }
        if self.held.is_empty() && self.next < self.info.size {
            self.fetch().map_err(std::io::Error::other)?;
        }
        let taken = self.held.split_to(self.held.len().min(buf.len()));
        buf[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
