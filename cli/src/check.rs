//! SQLite's own opinion on a restored file, by a SQLite that this program brings with it.

use crate::output::Failure;
use rusqlite::{Connection, OpenFlags};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How thoroughly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Not at all.
    None,
    /// `PRAGMA quick_check`
    Quick,
    /// `PRAGMA integrity_check`
    Full,
}

impl Check {
    /// From the flag.
    pub fn parse(text: &str) -> Result<Check, Failure> {
        match text {
            "none" => Ok(Check::None),
            "quick" => Ok(Check::Quick),
            "full" => Ok(Check::Full),
            _ => Err(Failure::with_hint(
                format!("invalid value {text:?} for flag -integrity-check: must be none, quick, or full"),
                "litestream-vfs restore -integrity-check quick -o /path/to/db s3://bucket/prefix",
            )),
        }
    }

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Check::None => "none",
            Check::Quick => "quick",
            Check::Full => "full",
        }
    }

    /// Checks a file that nobody else knows. Opened as immutable: no `-wal` or `-shm` appears beside it.
    pub fn run(self, path: &Path) -> Result<(), Failure> {
        let pragma = match self {
            Check::None => return Ok(()),
            Check::Quick => "PRAGMA quick_check",
            Check::Full => "PRAGMA integrity_check",
        };
        let failed = |e: &dyn std::fmt::Display| Failure::new(format!("post-restore integrity check: {e}"));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(uri(path), flags).map_err(|e| failed(&e))?;
        let mut statement = db.prepare(pragma).map_err(|e| failed(&e))?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(|e| failed(&e))?;
        let found: Vec<String> = rows.take(10).collect::<Result<_, _>>().map_err(|e| failed(&e))?;
        if found == ["ok"] { Ok(()) } else { Err(failed(&found.join("; "))) }
    }
}

/// A path as SQLite's URI, whatever bytes it holds.
fn uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri += &format!("%{byte:02x}");
        }
    }
    uri + "?immutable=1"
}
