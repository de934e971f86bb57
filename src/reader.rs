//! From a Cursor to the newest commit: Segments by cover, lives by Begin, then the WAL itself, merged into
//! Pending (page → newest copy). Contents are read only when an LTX file is encoded, so memory stays flat.
//!
//! Trusts nothing but the wal-index for what is committed, and the chain of checksums for what it reads.

use crate::base::ReadAt;
use crate::error::{Error, Result};
use crate::page::{PageSize, Pgno};
use crate::spool::{Head, Links, Segment, Spool, remove};
use crate::wal::{
    Cursor, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Salt, WalHeader, frame_checksum, frame_offset,
};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Segments that one LTX file is made of at most.
pub const SEGMENTS_A_FILE: usize = 4096;
/// Of these, as many keep their file open; the others open it for each page.
const SEGMENTS_OPEN: usize = 128;
/// Segments looked at in one walk.
const SEGMENTS_SEEN: usize = 1 << 16;
/// Entries collected before older copies of the same page are dropped.
const FOLD_ENTRIES: usize = 1 << 20;
/// Bytes of the WAL read at a time.
const READ_BYTES: usize = 1 << 20;

/// The newest commit that a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its end.
    pub cursor: Cursor,
    /// Database size in pages there.
    pub commit: u32,
    /// Size of the pages.
    pub page_size: PageSize,
}

/// Where the newest copy of a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A frame of the WAL.
    Wal(u32),
    /// A page of the Segment with this number in the list.
    Segment(u16, u32),
    /// Named by a Segment without contents: read from the database.
    Database,
}

/// The frames of the WAL that belong to Pending.
pub struct WalPart {
    file: File,
    path: PathBuf,
    /// Their life.
    pub salt: Salt,
    /// Frames before them.
    pub from: u32,
    /// Frames up to their last.
    pub to: u32,
}

/// What is committed and not in an LTX file.
pub struct Pending {
    /// Where it starts.
    pub from: Cursor,
    /// Where it ends: a commit.
    pub to: Cursor,
    /// Database size in pages there.
    pub commit: u32,
    /// Size of the pages.
    pub page_size: PageSize,
    /// The newest copy of each page, ascending.
    pub pages: Vec<(Pgno, Place)>,
    /// What it was taken from, in order.
    pub segments: Vec<Segment>,
    /// The part that is still in the WAL.
    pub wal: Option<WalPart>,
    /// More Segments follow than one file takes.
    pub more: bool,
    order: Vec<(Pgno, u32, Place)>,
}

/// Where a walk along the lives ended.
pub enum Walk {
    /// Everything up to the newest commit that could be proven.
    Reached(Pending),
    /// The WAL was reset while it was read: the same walk now finds Segments.
    Torn,
}

impl Pending {
    fn new(from: Cursor, page_size: PageSize, commit: u32) -> Pending {
        Pending {
            from,
            to: from,
            commit,
            page_size,
            pages: Vec::new(),
            segments: Vec::new(),
            wal: None,
            more: false,
            order: Vec::new(),
        }
    }

    /// True where nothing was committed since `from`.
    pub fn is_empty(&self) -> bool {
        self.to == self.from && self.segments.is_empty()
    }

    /// True where `point` is its start, or one at which a Segment of it begins or ends.
    pub fn passes(&self, point: &Cursor) -> bool {
        let touches = |head: &Head| head.to.same_point(point) || head.follows.is_some_and(|at| at.same_point(point));
        self.from.same_point(point) || self.segments.iter().any(|segment| touches(&segment.head))
    }

    /// Reads one page's newest copy; `false` for one that only the database has.
    pub fn read(&self, place: Place, page: &mut [u8]) -> Result<bool> {
        match place {
            Place::Database => Ok(false),
            Place::Segment(segment, slot) => {
                self.segments[usize::from(segment)].read(slot as usize, page)?;
                Ok(true)
            }
            Place::Wal(frame) => {
                let wal = self.wal.as_ref().expect("a frame's place comes with its WAL");
                let at = frame_offset(self.page_size, frame) + FRAME_HEADER_BYTES as u64;
                wal.file.read_exact_at(page, at).map_err(|e| Error::io("read", &wal.path, e))?;
                Ok(true)
            }
        }
    }

    /// After contents were read: is the WAL still the life that they were read from?
    pub fn still_whole(&self) -> bool {
        self.wal.as_ref().is_none_or(|wal| header_of(&wal.file).is_some_and(|header| header.salt == wal.salt))
    }

    /// Makes the frames durable here, before any of them may be in the store: a WAL that a power loss shortens would be
    /// written anew from there. Segments need none: their pages are in the database too, and the LTX file made of them
    /// is durable before it is put.
    pub fn make_durable(&self) -> Result<()> {
        match &self.wal {
            Some(wal) => wal.file.sync_data().map_err(|e| Error::io("sync", &wal.path, e)),
            None => Ok(()),
        }
    }

    fn add(&mut self, pgno: Pgno, place: Place) {
        let age = self.order.len() as u32;
        self.order.push((pgno, age, place));
        if self.order.len() >= FOLD_ENTRIES.max(2 * self.pages.len()) {
            self.fold();
        }
    }

    /// Keeps the newest copy of each page.
    fn fold(&mut self) {
        let mut order = std::mem::take(&mut self.order);
        order.sort_by_key(|(pgno, age, _)| (*pgno, *age));
        let mut newest: Vec<(Pgno, Place)> = Vec::with_capacity(self.pages.len() + order.len());
        let mut old = std::mem::take(&mut self.pages).into_iter().peekable();
        let mut fresh = order.into_iter().peekable();
        while let Some((pgno, _, mut place)) = fresh.next() {
            while let Some((_, _, newer)) = fresh.next_if(|(next, _, _)| *next == pgno) {
                place = newer;
            }
            while let Some(kept) = old.next_if(|(before, _)| *before < pgno) {
                newest.push(kept);
            }
            old.next_if(|(same, _)| *same == pgno);
            newest.push((pgno, place));
        }
        newest.extend(old);
        self.pages = newest;
    }

    fn finish(&mut self) {
        self.fold();
        let (commit, lock) = (self.commit, self.page_size.lock_page());
        self.pages.retain(|(pgno, _)| pgno.0 <= commit && *pgno != lock);
    }
}

/// What a walk starts from.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// What the store has.
    Stored {
        /// Its end.
        cursor: Cursor,
        /// Database size in pages there.
        commit: u32,
        /// Size of the pages.
        page_size: PageSize,
    },
    /// Nothing: a Segment that holds every page is the first image.
    Whole,
}

/// Deletes Segments that a loss of power tore, so that no later look stumbles over them again; the caller is the Leader.
pub fn sweep_torn(spool: &Spool) -> Result<()> {
    for path in spool.segments()? {
        if let Err(Error::Corrupt(what)) = Segment::open(&path) {
            log::warn!(target: "litestream", "{what}: a loss of power tore it; what it held is stored by a new image");
            remove(&path)?;
        }
    }
    Ok(())
}

/// The Segments of a Spool; torn ones (a power loss) are left out, and named.
pub fn segments(spool: &Spool) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    refresh(spool, &mut segments, &HashSet::new())?;
    Ok(segments)
}

/// The same, where some of them were read before (their files never change), but for those that are `past`.
pub fn refresh(spool: &Spool, segments: &mut Vec<Segment>, past: &HashSet<PathBuf>) -> Result<()> {
    let new = spool.segments()?.into_iter().filter(|path| !past.contains(path));
    let mut listed: HashSet<PathBuf> = new.take(SEGMENTS_SEEN).collect();
    segments.retain(|segment| listed.remove(&segment.path));
    for path in listed {
        match Segment::open(&path) {
            Ok(segment) => segments.push(segment),
            Err(Error::Io { kind: std::io::ErrorKind::NotFound, .. }) => {}
            Err(e) => log::warn!(target: "litestream", "{e}; it is passed over"),
        }
    }
    Ok(())
}

/// Whether the contents are what was written; a Segment that a loss of power tore is named.
fn is_sound(segment: &Segment) -> bool {
    match segment.verify() {
        Ok(()) => true,
        Err(Error::Io { kind: std::io::ErrorKind::NotFound, .. }) => false,
        Err(e) => {
            log::warn!(target: "litestream", "{e}; it is passed over");
            false
        }
    }
}

/// Walks from `start` to the newest commit: `target` where the wal-index names one. `None` where nothing
/// can start there (no whole Segment). Segments that it does not take stay in `available`.
pub fn walk(
    start: Start,
    available: &mut Vec<Segment>,
    links: &Links,
    target: Option<&Target>,
    wal_path: &Path,
) -> Result<Option<Walk>> {
    let mut pending = match start {
        Start::Stored { cursor, commit, page_size } => Pending::new(cursor, page_size, commit),
        Start::Whole => {
            let segment = loop {
                let whole = |segment: &Segment| segment.is_whole() && segment.head.unlinked;
                let Some(index) = available.iter().rposition(whole) else { return Ok(None) };
                let segment = available.swap_remove(index);
                if is_sound(&segment) {
                    break segment;
                }
            };
            let mut pending = Pending::new(segment.head.from, segment.head.page_size, 0);
            take(&mut pending, segment);
            pending
        }
    };
    // Where the last life ended: a step into one of which nothing is taken yet is no progress.
    let mut ended = pending.to;
    loop {
        if pending.to.frame > 0 {
            ended = pending.to;
        }
        if pending.segments.len() >= SEGMENTS_A_FILE {
            pending.more = true;
            break;
        }
        let at = pending.to;
        // Pages of another size cannot go into the same file: the walk ends before them, and an image follows.
        let fits = |segment: &Segment| segment.head.page_size == pending.page_size;
        let continues = |one: &Segment| {
            fits(one) && one.head.from.frame == 0 && one.head.follows.is_some_and(|follows| follows.same_point(&at))
        };
        let find = |is_next: &dyn Fn(&Segment) -> bool| available.iter().position(is_next);
        // Two continue the same point where a loss of power undid one: the other one is on record.
        let covers = |one: &Segment| fits(one) && one.covers(&at) && !one.head.unlinked;
        let next = find(&|one| covers(one) && links.ends_at(&one.head.to))
            .or_else(|| find(&covers))
            .or_else(|| find(&|one| continues(one) && links.ends_at(&one.head.to)))
            .or_else(|| find(&continues));
        if let Some(index) = next {
            let segment = available.swap_remove(index);
            if is_sound(&segment) {
                take(&mut pending, segment);
            }
            continue;
        }
        match open_wal(wal_path)? {
            Some((file, header)) if header.salt == at.salt && header.page_size == pending.page_size => {
                let Some(target) = target.filter(|target| target.cursor.salt == at.salt) else { break };
                if target.cursor.frame <= at.frame {
                    break;
                }
                if !read_wal(&mut pending, (file, wal_path), &header, target)? {
                    return Ok(Some(Walk::Torn));
                }
                break;
            }
            _ => {}
        }
        match links.after(&at) {
            Some(salt) if salt != at.salt => pending.to = Cursor::start(salt),
            _ => break,
        }
    }
    if pending.to.frame == 0 {
        pending.to = ended;
    }
    pending.finish();
    Ok(Some(Walk::Reached(pending)))
}

fn take(pending: &mut Pending, mut segment: Segment) {
    let number = pending.segments.len() as u16;
    segment.keep_open(pending.segments.len() < SEGMENTS_OPEN);
    for (slot, pgno) in segment.pages.iter().enumerate() {
        let place = if segment.head.without_contents { Place::Database } else { Place::Segment(number, slot as u32) };
        pending.add(*pgno, place);
    }
    pending.to = segment.head.to;
    pending.commit = segment.head.commit;
    pending.page_size = segment.head.page_size;
    pending.segments.push(segment);
}

/// Adds the frames up to `target`, verified along their chain; `false` where it breaks (a reset).
fn read_wal(pending: &mut Pending, (file, path): (File, &Path), header: &WalHeader, target: &Target) -> Result<bool> {
    let from = pending.to.frame;
    let mut checksum = if from == 0 { header.checksum } else { pending.to.checksum };
    let frame_bytes = FRAME_HEADER_BYTES + header.page_size.bytes();
    let mut buf = vec![0u8; frame_bytes * (READ_BYTES / frame_bytes).max(1)];
    let mut frame = from;
    while frame < target.cursor.frame {
        let count = (buf.len() / frame_bytes).min((target.cursor.frame - frame) as usize);
        let chunk = &mut buf[..count * frame_bytes];
        if file.read_exact_at(chunk, frame_offset(header.page_size, frame + 1)).is_err() {
            return Ok(false);
        }
        for raw in chunk.chunks_exact(frame_bytes) {
            let head = FrameHeader::decode(raw);
            checksum = frame_checksum(header.big_endian, checksum, raw);
            if head.salt != header.salt || head.checksum != checksum {
                return Ok(false);
            }
            frame += 1;
            pending.add(head.pgno, Place::Wal(frame));
        }
    }
    if checksum != target.cursor.checksum {
        return Ok(false);
    }
    pending.to = target.cursor;
    pending.commit = target.commit;
    pending.page_size = header.page_size;
    pending.wal = Some(WalPart { file, path: path.to_path_buf(), salt: header.salt, from, to: frame });
    Ok(true)
}

/// Opens the `-wal` (it carries no locks) and reads its header; `None` where there is none.
pub fn open_wal(path: &Path) -> Result<Option<(File, WalHeader)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    // A deleted WAL keeps its inode: what was opened must still be what stands there.
    let same = match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino(),
        _ => false,
    };
    Ok(header_of(&file).filter(|_| same).map(|header| (file, header)))
}

fn header_of(file: &File) -> Option<WalHeader> {
    let mut raw = [0u8; HEADER_BYTES];
    file.read_exact_at(&mut raw, 0).ok()?;
    WalHeader::decode(&raw)
}

/// The `-wal` by a descriptor of our own.
pub struct WalFile(pub File);

impl ReadAt for WalFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        FileExt::read_exact_at(&self.0, buf, offset)
    }

    fn size(&self) -> std::io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// The `-wal` of a database.
pub fn wal_path(database: &Path) -> PathBuf {
    suffixed(database, "-wal")
}

/// A file beside another, by the suffix to its name.
pub fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageSize;
    use crate::wal::Salt;

    // Goal: a Segment that a loss of power tore is passed over, also where a walk would begin with it; an error would
    // come again at every look. Method: one that holds a whole database, then with one byte of it flipped.
    #[test]
    fn a_walk_does_not_begin_with_a_torn_segment() {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = Spool::of(&dir.path().join("app.db"));
        spool.create().expect("the Spool");
        let life = Salt([2; 8]);
        let head = Head {
            from: Cursor::start(life),
            to: Cursor { salt: life, frame: 1, checksum: [3, 4] },
            follows: None,
            page_size: PageSize::new(512).expect("a size"),
            commit: 1,
            without_contents: false,
            unlinked: true,
            after: None,
        };
        let path = spool
            .save(&head, &[Pgno(1)], |_, page| {
                page.fill(7);
                Ok(())
            })
            .expect("a Segment");
        let walk = || {
            let mut found = segments(&spool).expect("Segments");
            super::walk(Start::Whole, &mut found, &Links::default(), None, &dir.path().join("app.db-wal"))
        };
        assert!(matches!(walk(), Ok(Some(Walk::Reached(pending))) if pending.to == head.to));
        let mut raw = std::fs::read(&path).expect("read");
        let last_of_the_page = raw.len() - 9;
        raw[last_of_the_page] ^= 1;
        std::fs::write(&path, raw).expect("write");
        assert!(matches!(walk(), Ok(None)));
    }
}
