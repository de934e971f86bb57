//! The databases of this process: which files are replicated, where to, and by which `Db`.
//!
//! One registry lives per process life: after a fork the extension makes a new one in the child and leaks
//! the parent's, so no lock that a parent's thread held is ever waited for.

use crate::base::BaseVfs;
use crate::conn::Conn;
use crate::db::{Db, Place};
use crate::error::{Error, Result};
use crate::opening;
use crate::settings::{Choice, Origin, Settings};
use crate::spool::{Spool, Stat};
use crate::store::Io;
use crate::sync::lock;
use crate::threads::{self, Threads};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use crate::settings::Door;

/// What `xOpen` of a main database asks.
pub struct Ask<'a> {
    /// Full path as SQLite made it (symlinks resolved).
    pub path: &'a Path,
    /// URI parameters in order, as SQLite decoded them.
    pub params: &'a [(String, String)],
    /// SQLITE_OPEN_READONLY.
    pub read_only: bool,
    /// SQLITE_OPEN_CREATE.
    pub create: bool,
    /// The entry point.
    pub door: Door,
    /// Why a database opened like this cannot be replicated (its locks do not hold between processes), as the
    /// beginning of a sentence. Where it would be replicated the open fails with it, before anything is restored.
    pub unsafe_locks: Option<String>,
    /// The VFS below.
    pub base: Arc<dyn BaseVfs>,
}

/// What becomes of an open.
pub enum Opening {
    /// Not replicated: the base VFS's own file, unwrapped.
    PassThrough,
    /// Open with the base VFS, then wrap: `connect` makes the connection.
    Replicated(Pending),
}

/// An open that the base VFS has yet to do. Dropped without `connect` when that fails.
pub struct Pending {
    db: Arc<Db>,
}

impl Pending {
    /// The base VFS opened the file.
    pub fn connect(self) -> Conn {
        if self.db.replicates()
            && let Err(e) = self.db.spool().create()
        {
            self.db.note("spool", &e);
        }
        if let Ok(Some(stat)) = Stat::of(self.db.path()) {
            self.db.opened(&stat);
        }
        Conn::new(self.db)
    }
}

/// The databases of this process life.
pub struct Registry {
    io: Io,
    threads: Arc<dyn Threads>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    dbs: HashMap<PathBuf, Arc<Db>>,
    /// Which file a replica belongs to.
    replicas: HashMap<String, PathBuf>,
    /// The one file that a replica URL without a placeholder, from the environment, belongs to.
    first: Option<PathBuf>,
    warned: bool,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::with(Io::new(), threads::system())
    }
}

impl Registry {
    /// One whose stores and threads the caller chooses.
    pub fn with(io: Io, threads: Arc<dyn Threads>) -> Registry {
        Registry { io, threads, known: Mutex::default() }
    }

    /// An empty registry; no thread is started.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Decides what an open is, restores a missing file, and says in one sentence why an open fails.
    pub fn open(&self, ask: Ask<'_>) -> Result<Opening> {
        let env: HashMap<String, String> = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let choice = Settings::resolve(ask.path, ask.params, &|key| env.get(key).cloned(), ask.door)?;
        let settings = match choice {
            Choice::Replicate(settings) => *settings,
            Choice::Off | Choice::Unreplicated(_) => return Ok(self.keep_gate(&ask)),
        };
        if let Some(why) = &ask.unsafe_locks {
            return Err(Error::Usage(format!(
                "{}: {why}, so it cannot be replicated safely; use the `unix` VFS, or say replica=off",
                ask.path.display()
            )));
        }
        let Some(db) = self.db(&ask, settings, env)? else { return Ok(self.keep_gate(&ask)) };
        opening::prepare(&db, &ask)?;
        if ask.read_only { Ok(Opening::PassThrough) } else { Ok(Opening::Replicated(Pending { db })) }
    }

    /// The `Db` of a file, made at its first open. `None` where the environment's replica belongs to another.
    fn db(&self, ask: &Ask<'_>, settings: Settings, env: HashMap<String, String>) -> Result<Option<Arc<Db>>> {
        let mut known = lock(&self.known);
        let identity = settings.url.identity();
        if settings.origin == Origin::EnvironmentFirst {
            let first = known.first.get_or_insert_with(|| ask.path.to_path_buf()).clone();
            if first != ask.path {
                if !known.warned {
                    known.warned = true;
                    log::warn!(target: "litestream",
                        "{} is not replicated: LITESTREAM_REPLICA_URL belongs to {}; give it {{name}} in the URL, or each database its own replica= parameter",
                        ask.path.display(), first.display());
                }
                return Ok(None);
            }
        }
        if let Some(owner) = known.replicas.get(&identity)
            && owner != ask.path
        {
            return Err(Error::Usage(format!(
                "the replica {} is in use by {}: {} needs a replica of its own",
                settings.url,
                owner.display(),
                ask.path.display()
            )));
        }
        if let Some(db) = known.dbs.get(ask.path) {
            let used = db.replica().map(|replica| replica.settings.url.identity());
            // Nobody holds it (a failed open, or closed and all stored): what is said now counts.
            let is_said_anew = Arc::strong_count(db) == 1
                && db.replica().is_none_or(|replica| replica.settings != settings || replica.env != env);
            if used.as_deref() == Some(identity.as_str()) && !is_said_anew {
                return Ok(Some(Arc::clone(db)));
            }
            if let Some(replica) = db.replica().filter(|_| db.connections() > 0) {
                return Err(Error::Usage(format!(
                    "{} is replicated to {} by this process: close it before it is given the replica {}",
                    ask.path.display(),
                    replica.settings.url,
                    settings.url
                )));
            }
            known.replicas.retain(|_, owner| owner != ask.path);
        }
        let replica = crate::db::Replica { settings, env, io: self.io.clone() };
        let place = self.place(ask, Some(replica));
        let db = Arc::new(Db::new(place));
        known.replicas.insert(identity, ask.path.to_path_buf());
        known.dbs.insert(ask.path.to_path_buf(), Arc::clone(&db));
        Ok(Some(db))
    }

    fn place(&self, ask: &Ask<'_>, replica: Option<crate::db::Replica>) -> Place {
        let (base, threads) = (Arc::clone(&ask.base), Arc::clone(&self.threads));
        Place { path: ask.path.to_path_buf(), base, replica, threads }
    }

    /// A connection without a replica of its own works Gate and links where another process replicates.
    fn keep_gate(&self, ask: &Ask<'_>) -> Opening {
        if ask.read_only || !matches!(Spool::of(ask.path).state(), Ok(Some(_))) {
            return Opening::PassThrough;
        }
        let mut known = lock(&self.known);
        let db = known.dbs.entry(ask.path.to_path_buf()).or_insert_with(|| Arc::new(Db::new(self.place(ask, None))));
        Opening::Replicated(Pending { db: Arc::clone(db) })
    }

    /// `xDelete` of a file whose name ends in `-wal`, before it is forwarded.
    pub fn wal_deleting(&self, wal: &Path) {
        let Some(database) = wal.to_str().and_then(|name| name.strip_suffix("-wal")) else { return };
        let db = lock(&self.known).dbs.get(Path::new(database)).cloned();
        if let Some(db) = db {
            db.wal_going();
        }
    }

    /// Syncs every database of the process and waits, at most `timeout` (or each database's own
    /// `shutdown-sync-timeout`). The number of databases that are not fully stored.
    pub fn shutdown(&self, timeout: Option<Duration>) -> usize {
        let dbs: Vec<Arc<Db>> =
            lock(&self.known).dbs.values().filter(|db| db.has_worked() || db.report.is_diverged()).cloned().collect();
        let began = Instant::now();
        let asked: Vec<_> = dbs.iter().map(|db| (db, db.ask())).collect();
        let mut left = 0;
        for (db, ticket) in asked {
            let own = db.replica().map_or(Duration::ZERO, |replica| replica.settings.shutdown_sync_timeout);
            let limit = timeout.unwrap_or(own).saturating_sub(began.elapsed());
            if let Err(e) = db.report.wait(ticket, limit) {
                log::warn!(target: "litestream", "{}: at shutdown: {e}", db.path().display());
                left += 1;
            }
        }
        left
    }

    /// The same at the end of the process, when nobody is left to finish a transaction: what only a lock of this
    /// process's own connections keeps from being stored is not waited for.
    pub fn leave(&self) {
        for db in lock(&self.known).dbs.values() {
            db.turns.process_ends();
        }
        self.shutdown(None);
    }
}
