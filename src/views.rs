//! What this process sees of a database's commits: the wal-indexes that its connections have mapped, or what the one
//! connection in exclusive locking mode says.
//!
//! Looks at memory only. What a look means for continuity is decided elsewhere.

use crate::base::Region;
use crate::page::Pgno;
use crate::reader::Target;
use crate::sync::lock;
use crate::walindex::{IndexHeader, pages_of};
use std::sync::{Arc, Mutex};

/// What the wal-index says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No connection of this process has it mapped.
    Blind,
    /// SQLite has to recover it first, or it is being written.
    Untrusted,
    /// The WAL holds nothing: the file alone is the database.
    Empty,
    /// Commits up to here.
    Commits(Target),
}

/// The views of one database.
#[derive(Default)]
pub(crate) struct Views {
    /// The first region of each connection's wal-index, by the connection's number; the newest is looked at.
    mapped: Mutex<Vec<(u64, Arc<dyn Region>)>>,
    exclusive: Mutex<Option<Target>>,
}

impl Views {
    /// A connection has the wal-index mapped; true where nobody had.
    pub(crate) fn show(&self, connection: u64, region: Arc<dyn Region>) -> bool {
        let mut mapped = lock(&self.mapped);
        let is_first = mapped.is_empty();
        mapped.retain(|(id, _)| *id != connection);
        mapped.push((connection, region));
        is_first
    }

    /// A connection is about to unmap.
    pub(crate) fn hide(&self, connection: u64) {
        lock(&self.mapped).retain(|(id, _)| *id != connection);
    }

    /// Connections that have it mapped.
    pub(crate) fn count(&self) -> usize {
        lock(&self.mapped).len()
    }

    /// Exclusive locking mode has no wal-index: its connection says how far it is.
    pub(crate) fn set_exclusive(&self, target: Option<Target>) {
        *lock(&self.exclusive) = target;
    }

    /// What the wal-index says now.
    pub(crate) fn look(&self) -> Look {
        if let Some(target) = *lock(&self.exclusive) {
            return Look::Commits(target);
        }
        let mapped = lock(&self.mapped);
        let Some((_, region)) = mapped.last() else { return Look::Blind };
        let Some(header) = IndexHeader::look(&**region) else { return Look::Untrusted };
        match (header.cursor(), header.page_size) {
            (Some(cursor), Some(page_size)) => Look::Commits(Target { cursor, commit: header.pages, page_size }),
            _ => Look::Empty,
        }
    }

    /// The pages of the frames `from+1 ..= to`, as far as the first region names them.
    pub(crate) fn pages(&self, from: u32, to: u32) -> Vec<Pgno> {
        let mapped = lock(&self.mapped);
        mapped.last().map_or_else(Vec::new, |(_, region)| pages_of(&[Some(Arc::clone(region))], from, to))
    }

    /// The count of commits and the frame up to which it counts.
    pub(crate) fn change(&self) -> Option<(u32, u32)> {
        let mapped = lock(&self.mapped);
        let header = mapped.last().and_then(|(_, region)| IndexHeader::look(&**region));
        header.map(|header| (header.change, header.mx_frame))
    }
}
