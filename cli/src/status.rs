//! `litestream-vfs status`: how far a database is stored, by what the process that replicates it left beside it.
//!
//! Asks no store. Ends with 1 where a person has to do something: two writers, a fault, a replica that is not right.

use crate::args::StatusFlags;
use crate::output::{Failure, print, print_json};
use litestream_engine::spool::Spool;
use serde_json::{Value, json};
use std::path::Path;

/// Shows it.
pub fn run(flags: &StatusFlags) -> Result<(), Failure> {
    let Some(given) = &flags.database else {
        return Err(Failure::with_hint("database path required", "litestream-vfs status app.db"));
    };
    let path = std::fs::canonicalize(given).or_else(|_| std::path::absolute(given));
    let path = path.map_err(|e| Failure::new(format!("{}: {e}", given.display())))?;
    let spool = Spool::of(&path);
    let Some(state) = spool.state()? else {
        let why = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => "there is no such file",
            Ok(about) if about.is_dir() => "it is a folder",
            _ => "it was never opened with vfs=litestream and a replica, or not by this name",
        };
        let text = format!("{} is not replicated by this library from here: {why}", path.display());
        return Err(Failure::with_hint(text, "litestream-vfs status /path/to/app.db"));
    };
    let said = std::fs::read_to_string(spool.path("status")).unwrap_or_default();
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    let word = said["state"].as_str().unwrap_or("unknown");
    let runs = said["pid"].as_u64().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
    let row = json!({
        "database": path.display().to_string(),
        "replica": state.replica,
        "txid_stored": state.txid.to_string(),
        "state": word,
        "running": runs,
        "last_error": said["last_error"],
        "since": said["since"],
        "validation": said["validation"],
    });
    if flags.json {
        print_json(&row)?;
    } else {
        let line = |(name, value): (&String, &Value)| {
            format!("{name:<12} {}\n", value.as_str().map_or_else(|| value.to_string(), str::to_string))
        };
        print(&row.as_object().into_iter().flatten().map(line).collect::<String>())?;
    }
    let failed = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("failed"));
    if word.starts_with("diverged") || word.starts_with("failed") || failed(&said["validation"]) {
        return Err(Failure::new(format!("{}: {word}", path.display())));
    }
    Ok(())
}
