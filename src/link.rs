//! Does one life of the WAL continue another? The rules, without any I/O.
//!
//! The proof is the database file itself: unchanged since the End, and only a checkpoint changes it. Salt
//! arithmetic and the header's checkpoint number prove nothing.

use crate::spool::{End, Links, Stat, State};
use crate::wal::{Cursor, Salt};

/// The newest End: of the ring, or an image's own in `state` where none was written since. Only the newest counts:
/// in exclusive locking mode several transactions may leave the same header.
pub fn newest_end(state: Option<&State>, links: &Links) -> Option<End> {
    let own = state.and_then(|state| state.end.filter(|_| links.newest_word() <= state.end_after));
    let end = own.or_else(|| links.newest_end().copied())?;
    Some(if at_rest(state, links) { End { stat: end.stat.in_this_boot(), ..end } } else { end })
}

/// The database was closed with all of it stored and durable, and nobody wrote since: every writer makes a durable
/// record before its first change.
pub fn at_rest(state: Option<&State>, links: &Links) -> bool {
    state.is_some_and(|state| state.rest == Some(links.newest()))
}

/// A life that begins now continues `end`: nothing wrote the database since, and no commit was missed.
/// `change` is the wal-index's iChange, 0 after a recovery, `None` without shared memory.
pub fn begins(end: &End, stat: &Stat, change: Option<u32>) -> bool {
    end.stat == *stat && change.is_none_or(|change| change == 0 || change == end.change)
}

/// The life `salt`, with `commits` commit frames in it and met without its Begin, continues `end`. `stat` was taken after the
/// wal-index was read. Of those frames `repeats` are each the one before again: all of them are padding, or none. An End
/// of this very life (a Gate before any reset, at first use) is no end that it could continue.
pub fn began(end: &End, salt: Salt, stat: &Stat, change: u32, commits: u32, repeats: u32) -> bool {
    if end.cursor.salt == salt {
        return false;
    }
    let counted = |commits| change == end.change.wrapping_add(commits);
    end.stat == *stat && (counted(commits) || counted(commits - repeats) || change <= commits)
}

/// The newest point of this life that is durable elsewhere: a Gate saves what comes after it.
pub fn durable_in(salt: Salt, state: Option<&State>, links: &Links) -> Cursor {
    let stored = state.and_then(State::durable).filter(|cursor| cursor.salt == salt);
    // While an image is made, Segments written before its Cursor do not count: they belong to what was lost.
    let image = state.is_some_and(|state| state.image.is_some());
    let ended = links.newest_end().map(|end| &end.cursor).filter(|cursor| cursor.salt == salt);
    match (stored, ended) {
        (Some(stored), Some(ended)) if ended.frame >= stored.frame => *ended,
        (Some(stored), _) => *stored,
        (None, Some(ended)) if !image => *ended,
        _ => Cursor::start(salt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(life: u8, frame: u32) -> Cursor {
        Cursor { salt: Salt([life; 8]), frame, checksum: [frame, 0] }
    }

    fn end(modified: i64) -> End {
        let stat = Stat { inode: 1, size: 4096, modified, boot: 1 };
        End { cursor: cursor(1, 5), commit: 1, change: 10, stat, header: 0 }
    }

    // Goal: only an untouched file and an unbroken count prove continuity. Method: each condition broken in turn.
    #[test]
    fn a_life_continues_an_end_only_where_nothing_wrote_in_between() {
        let old = end(7);
        assert!(begins(&old, &old.stat, Some(10)));
        assert!(begins(&old, &old.stat, Some(0)), "after a recovery the count starts anew");
        assert!(begins(&old, &old.stat, None));
        let rebooted = Stat { boot: 2, ..old.stat };
        assert!(!begins(&old, &rebooted, Some(10)), "a power loss may keep the time and lose what it stood for");
        assert!(!begins(&old, &old.stat, Some(11)), "a commit that nobody saw");
        assert!(!begins(&old, &end(8).stat, Some(10)), "somebody wrote the file");
        let next = Salt([2; 8]);
        assert!(began(&old, next, &old.stat, 12, 2, 0));
        assert!(!began(&old, old.cursor.salt, &old.stat, 12, 2, 0), "a life does not continue itself");
        assert!(began(&old, next, &old.stat, 2, 2, 0), "recovered since");
        assert!(!began(&old, next, &old.stat, 13, 2, 0));
        assert!(!began(&old, next, &end(8).stat, 12, 2, 0));
        assert!(began(&old, next, &old.stat, 13, 9, 6), "padding");
        assert!(began(&old, next, &old.stat, 19, 9, 6), "commits that changed nothing");
        assert!(!began(&old, next, &old.stat, 16, 9, 6), "neither");
    }

    // Goal: a Gate saves no more than it must and never too little. Method: combinations of state and End.
    #[test]
    fn a_gate_saves_from_the_newest_durable_point_of_this_life() {
        let salt = Salt([1; 8]);
        let links = Links::default();
        let mut state = State { cursor: Some(cursor(1, 3)), ..State::default() };
        assert_eq!(durable_in(salt, None, &links), Cursor::start(salt));
        assert_eq!(durable_in(salt, Some(&state), &links), cursor(1, 3));
        state.cursor = Some(cursor(9, 3));
        assert_eq!(durable_in(salt, Some(&state), &links), Cursor::start(salt));
        state.image = Some(cursor(1, 8));
        assert_eq!(durable_in(salt, Some(&state), &links), cursor(1, 8));
    }
}
