//! Where threads of one process meet: the hand-over from connections to the worker, the turns at the database, and what the
//! Leader saves ahead of a Gate. The engine's files as they are, in thousands of schedules.
//!
//! It can fail. Tried, each found among the first 1,000 schedules of a kind, from five seeds: a worker that ends without
//! looking once more (as it did: a commit that nobody stores; by priorities only), a close that does not call, a start that
//! does not hold its lock, a turn given back without a word, a reader that begins inside a checkpoint, a Gate that believes a
//! Segment of another life, or one that is gone, or that does not wait.

use schedules::explore::explore;
use schedules::{commits, readings, segments};

/// Goal: no commit waits for a wake-up that never comes, whoever connects, commits and leaves while a worker begins or ends.
/// Method: connections in all orders beside workers that never wake by themselves; channels with room for one.
#[test]
fn no_commit_and_no_wake_up_is_lost() {
    explore(commits::come_and_go);
}

/// Goal: nobody waits for a turn that is free, and the host never holds what the reader holds. Method: a reader that lets go
/// when it is asked, beside connections that want EXCLUSIVE, RESERVED and checkpoints.
#[test]
fn turns_are_given_back_and_never_held_twice() {
    explore(readings::take_turns);
}

/// Goal: a Gate leaves out nothing but what the Store or the Spool holds of the same life, and waits while the Leader saves
/// it. Method: commits, Gates and resets beside a Leader that saves ahead, stores Segments and loses continuity.
#[test]
fn a_gate_believes_what_was_saved_ahead_and_nothing_else() {
    let folder = tempfile::tempdir().expect("the system has room for a folder");
    let files = folder.path().to_path_buf();
    explore(move || segments::save_beside_each_other(&files));
}
