//! placeholder until the settings are merged
use crate::error::Result;
use crate::registry::Door;
use crate::store::ReplicaUrl;
use std::path::Path;
use std::time::Duration;
pub enum Choice { Off, Unreplicated(String), Replicate(Settings) }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source { Uri, EnvironmentPlain, EnvironmentTemplate }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict { Fail, KeepLocal, TakeReplica }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore { Missing, Never, Required }
#[derive(Debug, Clone)]
pub struct Settings { pub replica: ReplicaUrl, pub source: Source, pub restore: Restore, pub sync_interval: Duration, pub open_timeout: Duration, pub restore_timeout: Option<Duration>, pub shutdown_sync_timeout: Duration, pub spool_limit: Option<u64>, pub on_conflict: OnConflict }
impl Settings {
    pub fn resolve(_path: &Path, params: &[(String, String)], env: &dyn Fn(&str) -> Option<String>, _door: Door) -> Result<Choice> {
        let Some(url) = params.iter().find(|(k, _)| k == "replica").map(|(_, v)| v.clone()).or_else(|| env("LITESTREAM_REPLICA_URL")) else { return Ok(Choice::Off) };
        if url == "off" { return Ok(Choice::Off); }
        let si = params.iter().find(|(k, _)| k == "sync-interval").and_then(|(_, v)| v.parse().ok()).unwrap_or(1000);
        Ok(Choice::Replicate(Settings { replica: ReplicaUrl::parse(&url)?, source: Source::Uri, restore: Restore::Missing, sync_interval: Duration::from_millis(si), open_timeout: Duration::from_secs(10), restore_timeout: None, shutdown_sync_timeout: Duration::from_secs(30), spool_limit: None, on_conflict: OnConflict::Fail }))
    }
}
