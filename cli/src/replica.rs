//! The replica that an argument names.

use crate::args;
use crate::output::Failure;
use litestream_engine::store::{Io, ReplicaUrl, Store};
use std::ffi::OsStr;

/// Opens the store. Asks nobody yet.
pub fn open(url: &OsStr) -> Result<Store, Failure> {
    let url = ReplicaUrl::parse(args::text(url)?)?;
    Ok(Store::open(&url, &|name| std::env::var(name).ok(), &Io::new())?)
}

/// The type of a replica, as Litestream names it: `file`, `s3`, `gs`, `abs`.
pub fn kind(store: &Store) -> String {
    let url = store.url().to_string();
    match url.split_once("://") {
        Some((scheme, _)) => scheme.to_string(),
        None => "file".to_string(),
    }
}
