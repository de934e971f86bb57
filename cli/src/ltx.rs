//! `litestream-vfs ltx`: the files of a replica.

use crate::args::LtxFlags;
use crate::output::{Failure, print, print_json, table, warn};
use crate::replica;
use litestream_engine::ltx::Level;
use serde_json::{Value, json};

/// Lists.
pub fn run(flags: &LtxFlags) -> Result<(), Failure> {
    let levels = levels(&flags.level)?;
    let Some(url) = &flags.url else {
        return Err(Failure::with_hint(
            "database path or replica URL required",
            "litestream-vfs ltx s3://bucket/prefix",
        ));
    };
    let store = replica::open(url)?;
    replica::missing(&store).iter().for_each(|why| warn(why));
    let mut files = Vec::new();
    for level in levels {
        files.extend(store.list(level)?);
    }
    if flags.json {
        let value = |file: &litestream_engine::store::FileInfo| {
            json!({
                "level": file.level.get(),
                "min_txid": file.span.min.to_string(),
                "max_txid": file.span.max.to_string(),
                "size": file.size,
                "timestamp": file.listed.rfc3339(),
            })
        };
        return print_json(&Value::Array(files.iter().map(value).collect()));
    }
    let rows: Vec<Vec<String>> = files
        .iter()
        .map(|file| {
            let span = file.span;
            let text = [file.level.to_string(), span.min.to_string(), span.max.to_string(), file.size.to_string()];
            text.into_iter().chain([file.listed.rfc3339()]).collect()
        })
        .collect();
    print(&table(&["level", "min_txid", "max_txid", "size", "created"], &rows))
}

fn levels(text: &str) -> Result<Vec<Level>, Failure> {
    if text == "all" {
        return Ok(Level::all().collect());
    }
    match text.parse().ok().and_then(Level::new) {
        Some(level) => Ok(vec![level]),
        None => Err(Failure::with_hint(
            format!("invalid value {text:?} for flag -level: level must be between 0 and 9"),
            "litestream-vfs ltx -level all s3://bucket/prefix",
        )),
    }
}
