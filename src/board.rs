//! `status` in the Spool: what the Leader does, for the status of the processes that follow it.
//!
//! Written by the Leader only, when its state changes; not synced, and worth nothing but to people.

use crate::error::Result;
use crate::report::Status;
use crate::spool::{Spool, rename};
use serde_json::{Value, json};

/// Leaves word for the others. `said` is what was left before.
pub(crate) fn leave(spool: &Spool, status: &Status, said: &mut String) -> Result<()> {
    let text = json!({
        "pid": std::process::id(),
        "replica": status.replica,
        "validation": status.validation,
        "state": status.state,
        "last_error": status.last_error,
        "since": status.since,
    })
    .to_string();
    if text == *said {
        return Ok(());
    }
    let new = spool.temporary("status");
    std::fs::write(&new, &text).map_err(|e| crate::error::Error::io("write", &new, e))?;
    rename(&new, &spool.path("status"))?;
    *said = text;
    Ok(())
}

/// What a follower's status says of its Leader.
pub(crate) fn of_leader(spool: &Spool, status: &mut Status) {
    let pid = std::fs::read_to_string(spool.path("lock")).ok();
    let Some(pid) = pid.as_deref().and_then(|pid| pid.trim().parse::<u32>().ok()) else { return };
    if is_stopped(pid) {
        status.state = format!("follower: process {pid} replicates and is stopped; continue it, or end it");
        return;
    }
    let Ok(text) = std::fs::read_to_string(spool.path("status")) else { return };
    let Ok(left) = serde_json::from_str::<Value>(&text) else { return };
    if left["pid"].as_u64() != Some(u64::from(pid)) {
        return;
    }
    if let Some(state) = left["state"].as_str() {
        status.state = format!("follower: process {pid} is {state}");
    }
    status.validation = left["validation"].as_str().map(str::to_string);
    status.last_error = left["last_error"].as_str().map(str::to_string).or(status.last_error.take());
}

/// Linux says so of a process in its third field.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['T', 't']))
}
