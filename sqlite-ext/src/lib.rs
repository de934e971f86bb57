//! The SQLite extension.
