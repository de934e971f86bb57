//! Words that are nearly ours: a typing mistake must not pass as another program's parameter.

use super::{NAMES, our_name};
use crate::error::{Error, Result};
use crate::store::{STORE_KEYS, store_key};

/// SQLite's own URI parameters; none of them is ever taken for a mistake.
const SQLITE: [&str; 8] = ["vfs", "mode", "cache", "psow", "nolock", "immutable", "modeof", "hexkey"];

/// Refuses a parameter that is nearly one of ours; a store's keys count where a replica is named.
pub(super) fn check(params: &[(String, String)], has_replica: bool) -> Result<()> {
    for (key, value) in params {
        if our_name(key).is_some() || store_key(key).is_some() || SQLITE.contains(&key.as_str()) {
            continue;
        }
        let ours = NAMES.into_iter().chain(STORE_KEYS.into_iter().filter(|_| has_replica));
        if let Some(meant) = ours.into_iter().find(|name| is_near(&plain(key), &plain(name))) {
            return Err(Error::Usage(format!("unknown parameter `{key}={value}`: did you mean `{meant}`?")));
        }
    }
    Ok(())
}

/// A name without what does not count.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase()
}

/// Two mistakes apart at most; one where the name is short.
fn is_near(a: &str, b: &str) -> bool {
    let allowed = if b.len() <= 6 { 1 } else { 2 };
    a.len().abs_diff(b.len()) <= allowed && distance(a.as_bytes(), b.as_bytes()) <= allowed
}

/// Insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
