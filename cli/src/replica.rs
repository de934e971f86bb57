//! The replica that an argument names.

use crate::args;
use crate::output::Failure;
use litestream_engine::error::Error;
use litestream_engine::store::{Io, ReplicaUrl, Store};
use std::ffi::OsStr;
use std::path::Path;

/// Opens the store. Asks nobody yet; a file is no folder.
pub fn open(url: &OsStr) -> Result<Store, Failure> {
    let url = ReplicaUrl::parse(args::text(url)?)?;
    let there = url.folder().and_then(|folder| folder.ancestors().find(|above| above.exists()));
    if let Some(file) = there.filter(|file| !file.is_dir()) {
        let text = format!("replica {url}: {} is a file, and a replica is a folder", file.display());
        return Err(Failure::with_hint(
            text,
            "the folder that was given as `replica=`; `litestream-vfs status DATABASE` names it",
        ));
    }
    Ok(Store::open(&url, &|name| std::env::var(name).ok(), &Io::new())?)
}

/// A folder that is not there, where that is worth a word.
pub fn missing(store: &Store) -> Option<String> {
    let folder = store.url().folder().filter(|folder| !folder.exists())?;
    Some(format!("there is no folder {}", folder.display()))
}

/// An error of the engine as a person reads it: where there is no backup, which replica that is, and what may be meant.
pub fn failed(store: &Store, e: Error) -> Failure {
    let Error::NoBackup(text) = e else { return e.into() };
    let why = missing(store).map_or_else(String::new, |why| format!(": {why}"));
    let text = format!("{text} (replica {}{why})", store.url());
    // One folder, or two, too deep.
    let is_ltx = |folder: &&Path| folder.file_name().is_some_and(|name| name == "ltx" || name == "generations");
    let inside = store.url().folder().and_then(|folder| folder.ancestors().take(2).find(is_ltx)).and_then(Path::parent);
    match inside {
        Some(above) => Failure::with_hint(text, format!("{}, the folder that holds the replica", above.display())),
        None => Failure::new(text),
    }
}

/// The type of a replica, as Litestream names it: `file`, `s3`, `gs`, `abs`.
pub fn kind(store: &Store) -> String {
    let url = store.url().to_string();
    match url.split_once("://") {
        Some((scheme, _)) => scheme.to_string(),
        None => "file".to_string(),
    }
}
