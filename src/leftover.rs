//! What a writer that died left in rollback-journal modes: transactions that are committed and were not published, or
//! published without their End. Found again by what the database file says, so that no new image is needed.
//!
//! Works under RESERVED, where SQLite has dealt with a hot journal and nobody is inside a commit. What was rolled back
//! stays where it is; the Leader deletes it once the file is proven to be something else.

use crate::base::ReadAt;
use crate::error::Result;
use crate::page::PageSize;
use crate::spool::{After, End, Link, Segment, Spool, Stat};
use std::path::PathBuf;

/// The transaction that made the file what it is, where the newest End does not say so: published and on record now.
/// `newest` is the newest End, `hash` the header's.
pub(crate) fn resolve(
    spool: &Spool,
    database: &dyn ReadAt,
    stat: &Stat,
    hash: u64,
    newest: Option<End>,
) -> Result<Option<End>> {
    let links = spool.links()?;
    let continues = |segment: &Segment| {
        let follows = segment.head.follows.filter(|_| !segment.head.unlinked);
        follows.is_some_and(|follows| newest.is_some_and(|end| end.cursor.same_point(&follows)))
            && segment.head.after.is_some_and(|after| after.header == hash)
    };
    let published = opened(spool.segments()?).find(|segment| continues(segment));
    let found = match published {
        Some(segment) => Some(segment),
        None => {
            let mut prepared = opened(spool.prepared()?);
            // What a loss of power tore is as good as absent: an image follows.
            let committed = prepared.find(|segment| {
                continues(segment) && is_committed(segment, database, stat) && segment.verify().is_ok()
            });
            if let Some(segment) = &committed {
                spool.publish(&segment.head, &segment.path)?;
            }
            committed
        }
    };
    let Some(end) = found.and_then(|segment| segment.head.end()) else { return Ok(None) };
    let end = End { stat: *stat, ..end };
    spool.link(links.newest(), &Link::End(end))?;
    Ok(Some(end))
}

/// Segments that open; one that is torn cannot be believed anyway.
fn opened(paths: Vec<PathBuf>) -> impl Iterator<Item = Segment> {
    paths.into_iter().filter_map(|path| Segment::open(&path).ok())
}

/// Untouched since it was prepared, and its journal is gone: committed. Touched since: only by its own shrinking, which
/// comes after the commit; a rollback, or another writer, leaves other pages.
fn is_committed(segment: &Segment, database: &dyn ReadAt, stat: &Stat) -> bool {
    let (head, after) = (&segment.head, segment.head.after.unwrap_or_default());
    if after.stat == *stat {
        return true;
    }
    let size = u64::from(head.commit) * u64::from(head.page_size.get());
    let After { stat: before, .. } = after;
    before.inode == stat.inode && before.size > size && stat.size == size && holds(segment, database, head.page_size)
}

/// Every page of the Segment is in the file.
fn holds(segment: &Segment, database: &dyn ReadAt, page_size: PageSize) -> bool {
    if segment.head.without_contents {
        return false;
    }
    let (mut saved, mut page) = (vec![0u8; page_size.bytes()], vec![0u8; page_size.bytes()]);
    segment.pages.iter().enumerate().all(|(index, pgno)| {
        let read =
            segment.read(index, &mut saved).is_ok() && database.read_at(&mut page, page_size.offset(*pgno)).is_ok();
        read && saved == page
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Pgno;
    use crate::spool::Head;
    use crate::wal::{Cursor, Salt};
    use std::io;

    struct Bytes(Vec<u8>);

    impl ReadAt for Bytes {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let from = offset as usize;
            buf.copy_from_slice(self.0.get(from..from + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn size(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }
    }

    fn cursor(life: u8) -> Cursor {
        Cursor { salt: Salt([life; 8]), frame: 1, checksum: [1, 1] }
    }

    fn stat(size: u64, modified: i64) -> Stat {
        Stat { inode: 7, size, modified, boot: 1 }
    }

    /// A Spool whose newest End is `cursor(1)`, with one prepared transaction of page 2 in a database of 2 pages.
    fn prepared(spool: &Spool, before: Stat) {
        spool.create().expect("a folder");
        let end = End { cursor: cursor(1), commit: 2, change: 1, stat: stat(1024, 1), header: 11 };
        spool.link(0, &Link::End(end)).expect("an End");
        let head = Head {
            from: Cursor::start(Salt([2; 8])),
            to: cursor(2),
            follows: Some(cursor(1)),
            page_size: PageSize::new(512).expect("a size"),
            commit: 2,
            without_contents: false,
            unlinked: false,
            after: Some(After { change: 2, stat: before, header: 22 }),
        };
        let fill = |_, page: &mut [u8]| {
            page.fill(5);
            Ok(())
        };
        spool.prepare(head, &[Pgno(2)], fill).expect("prepared");
    }

    fn ask(before: Stat, now: Stat, hash: u64, page: u8) -> Option<Cursor> {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = Spool::of(&dir.path().join("app.db"));
        prepared(&spool, before);
        let file = Bytes(vec![page; 1024]);
        let newest = spool.links().expect("links").newest_end().copied();
        let found = resolve(&spool, &file, &now, hash, newest).expect("resolved").map(|end| end.cursor);
        let on_record = spool.links().expect("links").newest_end().expect("an End").cursor;
        assert_eq!(found.is_some(), on_record.salt == Salt([2; 8]), "what is found is on record");
        assert_eq!(found.is_some(), spool.segments().expect("a list").len() == 1, "and published");
        found.map(|found| Cursor { checksum: [1, 1], ..found })
    }

    // Goal: a loss of power may tear the contents of what was prepared, and then it counts for nothing. Method: one byte.
    #[test]
    fn a_torn_prepared_transaction_does_not_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = Spool::of(&dir.path().join("app.db"));
        prepared(&spool, stat(1024, 5));
        let path = spool.prepared().expect("a list").remove(0);
        let mut raw = std::fs::read(&path).expect("read");
        let last_of_the_page = raw.len() - 9;
        raw[last_of_the_page] ^= 1;
        std::fs::write(&path, raw).expect("write");
        let newest = spool.links().expect("links").newest_end().copied();
        let found = resolve(&spool, &Bytes(vec![5; 1024]), &stat(1024, 5), 22, newest).expect("no error for ever");
        assert_eq!(found, None);
    }

    // Goal: a dead writer's transaction counts only if the file proves that it committed. Method: each sign in turn.
    #[test]
    fn a_prepared_transaction_counts_where_the_file_is_what_it_left() {
        assert_eq!(ask(stat(1024, 5), stat(1024, 5), 22, 5), Some(cursor(2)), "untouched since");
        assert_eq!(ask(stat(1024, 5), stat(1024, 6), 22, 5), None, "somebody wrote since");
        assert_eq!(ask(stat(1024, 5), stat(1024, 5), 11, 5), None, "rolled back: the header is the old one");
        assert_eq!(ask(stat(4096, 5), stat(1024, 6), 22, 5), Some(cursor(2)), "cut to its size after the commit");
        assert_eq!(ask(stat(4096, 5), stat(1024, 6), 22, 6), None, "cut, with other pages");
    }
}
