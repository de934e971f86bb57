//! The store of a test's database, which can fall and rise: a folder that is moved away, or a bucket in memory behind a
//! proxy that does what networks do.
#![allow(dead_code, clippy::unwrap_used)]

use super::dice::Dice;
use super::memory::{Conditions, Memory};
use super::proxy::{Fault, Proxy};
use litestream_engine::ltx::{Decoder, Level};
use litestream_engine::plan::Target;
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Io, ReplicaUrl, Store};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One replica's home.
pub enum Remote {
    Folder { place: PathBuf, away: PathBuf, down: bool },
    Bucket { memory: Memory, proxy: Proxy },
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Remote::Folder { .. } => "a folder",
            Remote::Bucket { .. } => "a bucket",
        })
    }
}

impl Remote {
    /// `replica` below `folder`.
    pub fn folder(folder: &Path) -> Remote {
        Remote::Folder { place: folder.join("replica"), away: folder.join("replica-away"), down: false }
    }

    pub fn bucket() -> Remote {
        let memory = Memory::start(Conditions::Kept);
        let proxy = Proxy::start(&memory.server.address);
        Remote::Bucket { memory, proxy }
    }

    /// The parameters of a database's URI that name it.
    pub fn parameters(&self) -> String {
        match self {
            Remote::Folder { place, .. } => format!("replica=file://{}", place.display()),
            Remote::Bucket { proxy, .. } => {
                format!("replica=s3://bucket/app&endpoint={}&region=us-east-1", proxy.server.endpoint)
            }
        }
    }

    /// What a process needs to reach it.
    pub fn credentials(&self, command: &mut Command) {
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    }

    /// It cannot be reached any more. The bucket may still do as it was asked, and only its answer is lost.
    pub fn fall(&mut self, dice: &mut Dice) {
        match self {
            Remote::Folder { place, away, down } if !*down && place.is_dir() => {
                std::fs::rename(&*place, &*away).unwrap();
                // A file in its place: nobody can make the folder anew.
                std::fs::write(&*place, "down").unwrap();
                *down = true;
            }
            Remote::Folder { .. } => {}
            Remote::Bucket { proxy, .. } => proxy.set(match dice.below(5) {
                0 => Fault::Close,
                1 => Fault::Hang,
                2 => Fault::Status(503, "SlowDown"),
                3 => Fault::LoseConnection,
                _ => Fault::LoseAnswer(500),
            }),
        }
    }

    /// It can be reached again.
    pub fn rise(&mut self) {
        match self {
            Remote::Folder { place, away, down } if *down => {
                std::fs::remove_file(&*place).unwrap();
                std::fs::rename(&*away, &*place).unwrap();
                *down = false;
            }
            Remote::Folder { .. } => {}
            Remote::Bucket { proxy, .. } => proxy.heal(),
        }
    }

    /// The store as it is, also while nobody else can reach it.
    pub fn store(&self) -> Store {
        let keys = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("key".to_string()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_string()),
            _ => None,
        };
        let url = match self {
            Remote::Folder { place, away, down } => (if *down { away } else { place }).display().to_string(),
            Remote::Bucket { memory, .. } => {
                format!("s3://bucket/app?endpoint={}&region=us-east-1", memory.server.endpoint)
            }
        };
        Store::open(&ReplicaUrl::parse(&url).unwrap(), &keys, &Io::new()).unwrap()
    }

    /// Restores what it holds; the Txid reached.
    pub fn restore(&self, out: &Path) -> Result<u64, String> {
        let restored =
            restore::run(&self.store(), Target::Latest, out, Options::default()).map_err(|e| e.to_string())?;
        Ok(restored.txid().0)
    }

    /// The newest Txid of its listing; 0 where it is empty.
    pub fn newest(&self) -> u64 {
        let store = self.store();
        Level::all().flat_map(|level| store.list(level).unwrap()).map(|file| file.span.max.0).max().unwrap_or(0)
    }

    /// Every raw file after `txid`: its number, the pages in it, the pages of the database.
    pub fn files_after(&self, txid: u64) -> Vec<(u64, u32, u32)> {
        let store = self.store();
        let files = store.list(Level::RAW).unwrap();
        let new = files.into_iter().filter(|file| file.span.max.0 > txid);
        new.map(|file| {
            let bytes = store.read(file.level, file.span, None).unwrap();
            let mut decoder = Decoder::new(&bytes[..]).unwrap();
            let (mut pages, mut page) = (0, Vec::new());
            while decoder.next_page(&mut page).unwrap().is_some() {
                pages += 1;
            }
            (file.span.max.0, pages, decoder.header().commit)
        })
        .collect()
    }
}
