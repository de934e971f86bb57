//! The guard against SQLite's WAL-reset bug (3.7.0 to 3.51.2), seen from the calls for locks.
//!
//! In those versions a checkpointer without the write lock may work from a wal-index header that it read before
//! another connection reset the WAL: it then marks frames of the new WAL as copied which nobody has copied, and
//! commits are lost. SQLite's own fix compares the salts once READ0 is held exclusively; this does the same from
//! below. BUSY there means "no work to do" to a checkpoint. Pure: the salts are handed in.

use std::ffi::c_int;

const WRITE: c_int = 0;
const CKPT: c_int = 1;
const READ0: c_int = 3;

/// The salts of the WAL as the wal-index names them.
pub type Salts = [u8; 8];

/// What one connection's checkpoint began with.
#[derive(Debug, Default)]
pub struct ResetGuard {
    affected: bool,
    write: bool,
    checkpoint: Option<Salts>,
}

impl ResetGuard {
    /// A guard for a SQLite of this version; does nothing for a version that has the fix.
    pub fn new(version: c_int) -> ResetGuard {
        ResetGuard { affected: affected(version), ..ResetGuard::default() }
    }

    /// The base granted a lock. True: a reset happened since this checkpoint began, so release it and answer BUSY.
    pub fn granted(&mut self, slot: c_int, n: c_int, exclusive: bool, salts: impl FnOnce() -> Option<Salts>) -> bool {
        if !self.affected || !exclusive {
            return false;
        }
        match (slot, n) {
            (WRITE, 1) => self.write = true,
            (CKPT, 1) => self.checkpoint = salts(),
            (READ0, 1) if !self.write => return self.checkpoint.is_some_and(|began| salts() != Some(began)),
            _ => {}
        }
        false
    }

    /// A lock is about to be released.
    pub fn released(&mut self, slot: c_int, exclusive: bool) {
        match slot {
            WRITE if exclusive => self.write = false,
            CKPT if exclusive => self.checkpoint = None,
            _ => {}
        }
    }
}

/// Fixed in 3.51.3; taken back to 3.50.7 and 3.44.6.
pub fn affected(version: c_int) -> bool {
    let fixed = (3_044_006..3_045_000).contains(&version) || (3_050_007..3_051_000).contains(&version);
    (3_007_000..=3_051_002).contains(&version) && !fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Salts = [1; 8];
    const NEW: Salts = [2; 8];

    /// Goal: the bug's sequence is refused. Method: CKPT at the old salts, READ0 at the new ones.
    #[test]
    fn a_checkpoint_that_slept_through_a_reset_is_refused() {
        let mut guard = ResetGuard::new(3_040_001);
        assert!(!guard.granted(CKPT, 1, true, || Some(OLD)));
        assert!(guard.granted(READ0, 1, true, || Some(NEW)));
        guard.released(CKPT, true);
        assert!(!guard.granted(CKPT, 1, true, || Some(NEW)));
        assert!(!guard.granted(READ0, 1, true, || Some(NEW)), "the next checkpoint goes through");
    }

    /// Goal: nothing else is refused. Method: with the write lock, as a reader, in a recovery, on a fixed version.
    #[test]
    fn other_uses_of_the_lock_pass() {
        let mut guard = ResetGuard::new(3_040_001);
        assert!(!guard.granted(WRITE, 1, true, || None));
        assert!(!guard.granted(CKPT, 1, true, || Some(OLD)));
        assert!(!guard.granted(READ0, 1, true, || Some(NEW)), "holds WRITE: no reset can happen");
        guard.released(WRITE, true);
        assert!(!guard.granted(READ0, 1, false, || Some(NEW)), "a reader");
        assert!(!guard.granted(READ0, 5, true, || Some(NEW)), "a recovery");
        let mut fixed = ResetGuard::new(3_051_003);
        assert!(!fixed.granted(CKPT, 1, true, || Some(OLD)));
        assert!(!fixed.granted(READ0, 1, true, || Some(NEW)));
    }

    /// Goal: exactly the affected versions. Method: both sides of each border.
    #[test]
    fn versions_with_the_fix_are_known() {
        for version in [3_007_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_000, 3_051_002] {
            assert!(affected(version), "{version}");
        }
        for version in [3_006_023, 3_044_006, 3_044_007, 3_050_007, 3_051_003, 3_053_000] {
            assert!(!affected(version), "{version}");
        }
    }
}
