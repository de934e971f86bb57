//! The engine's one error: a variant for each thing that a caller can do about it.
//!
//! The text of every variant says what failed, which file or parameter it was, and what to try. No text
//! holds a secret. Mapping to SQLite's result codes happens at the border, in the extension.

use std::path::{Path, PathBuf};

/// What went wrong, sorted by what the caller can do.
#[derive(Debug, Clone)]
pub enum Error {
    /// A parameter, variable, URL or flag is wrong: the person corrects it.
    Usage(String),
    /// The store holds no backup that fits the question.
    NoBackup(String),
    /// The store cannot be reached or asks to wait: the same call may succeed later.
    Unreachable(String),
    /// The store answered and refuses: credentials, permissions, a bucket that does not exist.
    Refused(String),
    /// Another object stands under the name that we were about to write.
    Conflict(String),
    /// Bytes are not what their format or checksum says.
    Corrupt(String),
    /// Files that are needed to reach the target are missing.
    Gap(String),
    /// A limit of time passed; what it was waiting for stands in the text.
    Timeout(String),
    /// A lock is held by another: try later.
    Busy(String),
    /// The database or its replica is not in the state that the call needs; the text says what to do.
    State(String),
    /// A call to the operating system failed.
    Io {
        /// What was being done, for example `write segment`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason that the system gave.
        kind: std::io::ErrorKind,
        /// The reason in words.
        reason: String,
    },
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the operating system, with what was being done to which file.
    pub fn io(what: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { what, path: path.as_ref().to_path_buf(), kind: source.kind(), reason: source.to_string() }
    }

    /// The error that a store's stream wrapped in its `read`; any other is an `Io` of `what` and `path`.
    pub fn from_read(what: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Error {
        match source.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => inner.clone(),
            None => Error::io(what, path, source),
        }
    }

    /// An error of the operating system where the file is not known: whoever knows it adds it by [`Error::about`].
    pub fn unnamed(what: &'static str, source: std::io::Error) -> Error {
        Error::io(what, "", source)
    }

    /// Names the file that an error is about: one of its bytes, or one that came without a name.
    pub fn about(self, file: impl AsRef<Path>) -> Error {
        match self {
            Error::Corrupt(text) => Error::Corrupt(format!("{}: {text}", file.as_ref().display())),
            Error::Io { what, path, kind, reason } if path.as_os_str().is_empty() => {
                Error::Io { what, path: file.as_ref().to_path_buf(), kind, reason }
            }
            other => other,
        }
    }

    /// True where the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unreachable(_) | Error::Timeout(_) | Error::Busy(_) | Error::Io { .. })
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Usage(text)
            | Error::NoBackup(text)
            | Error::Unreachable(text)
            | Error::Refused(text)
            | Error::Conflict(text)
            | Error::Corrupt(text)
            | Error::Gap(text)
            | Error::Timeout(text)
            | Error::Busy(text)
            | Error::State(text) => f.write_str(text),
            Error::Io { what, path, reason, .. } => write!(f, "{what} {}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for Error {}
