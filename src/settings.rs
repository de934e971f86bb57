//! What a person asked for, for one database: its URI's parameters, then the environment.
//!
//! Decides and does nothing: no file is made, no store is reached. A word that is nearly one of ours is an
//! error, because a typing mistake must never leave a database unreplicated; all other words pass.

mod glob;
mod spelling;
mod template;
mod values;

use crate::due::Schedule;
use crate::error::{Error, Result};
use crate::limits::{OPEN_TIMEOUT, SAVE_AHEAD, SHUTDOWN_SYNC_TIMEOUT, SYNC_INTERVAL};
use crate::store::{ReplicaUrl, store_key};
use std::path::Path;
use std::time::Duration;

pub use values::{bytes, duration};

/// Through which entry point the VFS was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `vfs=litestream`: a database without a replica is an error.
    Named,
    /// The default VFS: a database without a configured replica passes straight through.
    Default,
}

/// What becomes of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// `replica=off`: none is wanted.
    Off,
    /// No replica is meant for this one (the default entry point only); the sentence says why.
    Unreplicated(String),
    /// Replicated so.
    Replicate(Box<Settings>),
}

/// How a database is replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where to.
    pub url: ReplicaUrl,
    /// Who said so.
    pub origin: Origin,
    /// What a missing file means.
    pub restore: Restore,
    /// Longest time that a commit waits for its upload to begin; zero: at once.
    pub sync_interval: Duration,
    /// How long an open waits for a store that makes no progress.
    pub open_timeout: Duration,
    /// Limit on a whole restore; `None`: as long as it advances.
    pub restore_timeout: Option<Duration>,
    /// How long the end of the process waits for what is not yet stored.
    pub shutdown_sync_timeout: Duration,
    /// Bytes that the Spool may hold; `None`: the larger of 256 MiB and the database's size.
    pub spool_limit: Option<u64>,
    /// Bytes of changed pages for which a Segment is made beside a checkpoint and not by the reset after it.
    pub save_ahead: u64,
    /// What to do where the store is beyond what this machine stored.
    pub on_conflict: OnConflict,
    /// How the replica is kept small.
    pub schedule: Schedule,
    /// How often the replica is restored and compared with the database; `None`: never.
    pub validation_interval: Option<Duration>,
}

/// Where the URL of a replica came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The database's own URI.
    Uri,
    /// LITESTREAM_REPLICA_URL with `{name}` or `{path}`: each database has its own replica.
    EnvironmentPerDatabase,
    /// LITESTREAM_REPLICA_URL without a placeholder: it belongs to the first database of the process.
    EnvironmentFirst,
}

/// What a missing file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore {
    /// Restored where there is a replica, else a new database.
    Missing,
    /// A new database, whose image is the next Txid.
    Never,
    /// Restored; no replica is an error.
    Required,
}

/// What to do where the store is beyond what this machine stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// The open fails and says what each side has.
    Fail,
    /// This machine's database goes on, as the next Txid.
    KeepLocal,
    /// The replica's replaces it.
    TakeReplica,
}

/// Our parameters in their hyphen form; as a variable `sync-interval` is LITESTREAM_SYNC_INTERVAL.
const NAMES: [&str; 18] = [
    "replica",
    "replica-url",
    "restore",
    "sync-interval",
    "open-timeout",
    "restore-timeout",
    "shutdown-sync-timeout",
    "spool-limit",
    "save-ahead",
    "on-conflict",
    "durability",
    "levels",
    "snapshot-interval",
    "snapshot-retention",
    "retention",
    "l0-retention",
    "retention-enabled",
    "validation-interval",
];

impl Settings {
    /// Decides for the database at `path` (full, as SQLite made it). A URI beats the environment.
    pub fn resolve(
        path: &Path,
        params: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
        door: Door,
    ) -> Result<Choice> {
        let has_replica = params.iter().any(|(key, _)| matches!(our_name(key), Some("replica" | "replica-url")));
        spelling::check(params, has_replica)?;
        let source = Source { params, env };
        let named = match source.param("replica").or_else(|| source.param("replica-url")) {
            Some(given) => given,
            None => match (env("LITESTREAM_REPLICA_URL").filter(|url| !url.is_empty()), door) {
                (Some(value), Door::Named) => {
                    Given { name: "LITESTREAM_REPLICA_URL".to_string(), value, in_uri: false }
                }
                (url, Door::Default) => match named_by_environment(path, url, env)? {
                    Ok(given) => given,
                    Err(reason) => return Ok(Choice::Unreplicated(reason)),
                },
                (None, Door::Named) => return Err(no_replica(path)),
            },
        };
        if named.value.eq_ignore_ascii_case("off") {
            return Ok(Choice::Off);
        }
        let filled =
            template::fill(&named.value, path).map_err(|problem| Error::Usage(format!("{}: {problem}", named.name)))?;
        let extra: Vec<(String, String)> = params.iter().filter(|(key, _)| store_key(key).is_some()).cloned().collect();
        let url = ReplicaUrl::parse_with(&filled.text, &extra)?;
        let origin = match (named.in_uri, filled.has_placeholder) {
            (true, _) => Origin::Uri,
            (false, true) => Origin::EnvironmentPerDatabase,
            (false, false) => Origin::EnvironmentFirst,
        };
        source.settings(url, origin).map(|settings| Choice::Replicate(Box::new(settings)))
    }
}

/// The environment's replica for the default entry point: never any file that the process happens to open.
fn named_by_environment(
    path: &Path,
    url: Option<String>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<std::result::Result<Given, String>> {
    let pattern = env("LITESTREAM_DB").filter(|pattern| !pattern.is_empty());
    Ok(match (url, pattern) {
        (None, None) => Err("no replica is configured".to_string()),
        (Some(_), None) => Err(format!(
            "LITESTREAM_REPLICA_URL is set, but LITESTREAM_DB does not name a database: {} is not replicated",
            path.display()
        )),
        (_, Some(pattern)) if !glob::matches(&pattern, path) => {
            Err(format!("LITESTREAM_DB={pattern} does not name {}", path.display()))
        }
        (None, Some(pattern)) => {
            return Err(Error::Usage(format!(
                "LITESTREAM_DB={pattern} names {}, but LITESTREAM_REPLICA_URL is not set; set it, for example to s3://bucket/{{name}}",
                path.display()
            )));
        }
        (Some(value), Some(_)) => Ok(Given { name: "LITESTREAM_REPLICA_URL".to_string(), value, in_uri: false }),
    })
}

fn no_replica(path: &Path) -> Error {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Error::Usage(format!(
        "no replica for {}: name one in the URI, for example file:{name}?vfs=litestream&replica=s3://bucket/app, \
         or set LITESTREAM_REPLICA_URL; replica=off says that none is wanted",
        path.display()
    ))
}

/// Which of our parameters a key is; hyphens, underscores and camelCase count the same.
fn our_name(key: &str) -> Option<&'static str> {
    let asked = spelling::plain(key);
    NAMES.into_iter().find(|name| spelling::plain(name) == asked)
}

/// A value and where it stood.
struct Given {
    name: String,
    value: String,
    in_uri: bool,
}

impl Given {
    fn wrong(&self, problem: &str) -> Error {
        Error::Usage(format!("{}={}: {problem}", self.name, self.value))
    }
}

/// URI and environment.
struct Source<'a> {
    params: &'a [(String, String)],
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl Source<'_> {
    /// The URI's parameter; of several the first, as SQLite does it.
    fn param(&self, name: &str) -> Option<Given> {
        let (key, value) = self.params.iter().find(|(key, _)| our_name(key) == Some(name))?;
        Some(Given { name: key.clone(), value: value.clone(), in_uri: true })
    }

    fn get(&self, name: &str) -> Option<Given> {
        self.param(name).or_else(|| {
            let variable = format!("LITESTREAM_{}", name.replace('-', "_").to_ascii_uppercase());
            let value = (self.env)(&variable).filter(|value| !value.is_empty())?;
            Some(Given { name: variable, value, in_uri: false })
        })
    }

    fn settings(&self, url: ReplicaUrl, origin: Origin) -> Result<Settings> {
        let words = |name, words: &[&str]| self.one_of(name, words);
        let restore = match words("restore", &["missing", "never", "required"])? {
            Some(1) => Restore::Never,
            Some(2) => Restore::Required,
            _ => Restore::Missing,
        };
        let on_conflict = match words("on-conflict", &["fail", "keep-local", "take-replica"])? {
            Some(1) => OnConflict::KeepLocal,
            Some(2) => OnConflict::TakeReplica,
            _ => OnConflict::Fail,
        };
        // Waiting for the store at each commit is not offered; who asks for it must not get less in silence.
        words("durability", &["async"])?;
        let open_timeout = self.parsed("open-timeout", duration)?.unwrap_or(OPEN_TIMEOUT);
        if open_timeout.is_zero() {
            return Err(Error::Usage(
                "open-timeout must be above zero: it is how long a silent store is waited for".into(),
            ));
        }
        Ok(Settings {
            url,
            origin,
            restore,
            on_conflict,
            open_timeout,
            sync_interval: self.parsed("sync-interval", duration)?.unwrap_or(SYNC_INTERVAL),
            restore_timeout: self.parsed("restore-timeout", values::duration_or_off)?.flatten(),
            shutdown_sync_timeout: self.parsed("shutdown-sync-timeout", duration)?.unwrap_or(SHUTDOWN_SYNC_TIMEOUT),
            spool_limit: self.parsed("spool-limit", bytes)?,
            save_ahead: self.parsed("save-ahead", bytes)?.unwrap_or(SAVE_AHEAD),
            schedule: self.schedule()?,
            validation_interval: self.parsed("validation-interval", values::duration_or_off)?.flatten(),
        })
    }

    /// `retention` is the short name of `snapshot-retention`.
    fn schedule(&self) -> Result<Schedule> {
        let usual = Schedule::default();
        let given = Schedule {
            levels: self.parsed("levels", values::levels)?.unwrap_or(usual.levels),
            snapshot_interval: self.parsed("snapshot-interval", duration)?.unwrap_or(usual.snapshot_interval),
            snapshot_retention: match self.parsed("snapshot-retention", duration)? {
                Some(retention) => retention,
                None => self.parsed("retention", duration)?.unwrap_or(usual.snapshot_retention),
            },
            l0_retention: self.parsed("l0-retention", duration)?.unwrap_or(usual.l0_retention),
            retention_enabled: self.parsed("retention-enabled", values::yes)?.unwrap_or(usual.retention_enabled),
        };
        if given.snapshot_interval.is_zero() {
            let text = "snapshot-interval must be above zero: without snapshots a restore would read all history";
            return Err(Error::Usage(text.into()));
        }
        Ok(given)
    }

    fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> std::result::Result<T, String>) -> Result<Option<T>> {
        let Some(given) = self.get(name) else { return Ok(None) };
        parse(&given.value).map(Some).map_err(|problem| given.wrong(&problem))
    }

    fn one_of(&self, name: &str, words: &[&str]) -> Result<Option<usize>> {
        self.parsed(name, |value| {
            let asked = value.to_ascii_lowercase().replace('_', "-");
            words.iter().position(|word| *word == asked).ok_or_else(|| format!("must be {}", words.join(", ")))
        })
    }
}
