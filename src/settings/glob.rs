//! LITESTREAM_DB: a path, or a glob with `*` (within a folder), `**` (across folders) and `?`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// True where the pattern names the database. SQLite resolves symlinks in a database's path, so the folders of
/// the pattern before its first wildcard are also tried resolved.
pub(super) fn matches(pattern: &str, database: &Path) -> bool {
    let pattern = std::path::absolute(pattern).unwrap_or_else(|_| PathBuf::from(pattern));
    let literal = literal_folder(&pattern);
    let resolved =
        std::fs::canonicalize(&literal).ok().and_then(|real| Some(real.join(pattern.strip_prefix(&literal).ok()?)));
    let names = |pattern: &Path| is_match(pattern.as_os_str().as_bytes(), database.as_os_str().as_bytes());
    names(&pattern) || resolved.is_some_and(|resolved| names(&resolved))
}

/// The folders before the first part with a wildcard; the last part never counts as one.
fn literal_folder(pattern: &Path) -> PathBuf {
    let parts: Vec<_> = pattern.components().collect();
    let plain = parts.iter().take_while(|part| !part.as_os_str().as_bytes().iter().any(|b| matches!(b, b'*' | b'?')));
    let count = plain.count().min(parts.len().saturating_sub(1));
    parts[..count].iter().collect()
}

/// Matches all of `text`. `reached[i]` says whether the pattern so far can have taken the first `i` bytes.
fn is_match(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        match &pattern[at..] {
            // Any number of folders, none included.
            [b'*', b'*', b'/', ..] => {
                let mut inside = false;
                let before = reached.clone();
                for i in 0..=text.len() {
                    reached[i] = before[i] || (inside && i > 0 && text[i - 1] == b'/');
                    inside |= before[i];
                }
                at += 3;
            }
            [b'*', b'*', ..] => {
                spread(&mut reached, |_| true, text);
                at += 2;
            }
            [b'*', ..] => {
                spread(&mut reached, |byte| byte != b'/', text);
                at += 1;
            }
            [wanted, ..] => {
                let takes = |byte: u8| byte == *wanted || (*wanted == b'?' && byte != b'/');
                for i in (0..text.len()).rev() {
                    reached[i + 1] = reached[i] && takes(text[i]);
                }
                reached[0] = false;
                at += 1;
            }
            [] => {}
        }
    }
    reached[text.len()]
}

fn spread(reached: &mut [bool], may: impl Fn(u8) -> bool, text: &[u8]) {
    for i in 0..text.len() {
        reached[i + 1] |= reached[i] && may(text[i]);
    }
}
