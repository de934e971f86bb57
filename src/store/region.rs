//! Where a bucket lives: endpoints by region, and the question to a bucket that names its own.

use super::job::Job;
use super::tls::{Clients, reason};
use crate::error::{Error, Result};
use std::sync::Arc;

/// What servers other than Amazon's take for granted.
pub(super) const DEFAULT: &str = "us-east-1";

/// The server that knows every bucket.
pub(super) const GLOBAL: &str = "https://s3.amazonaws.com";

/// Amazon's server of a region.
pub(super) fn endpoint(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://s3.{region}.{domain}")
}

/// Host and port of an endpoint.
pub(super) fn authority(endpoint: &str) -> String {
    let (_, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    rest.split('/').next().unwrap_or(rest).to_string()
}

/// Azure's own hosts name the account; anywhere else (an emulator) it is the first part of the path.
pub(super) fn with_account(endpoint: &str, account: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let has_account =
        authority(endpoint).starts_with(&format!("{account}.")) || endpoint.ends_with(&format!("/{account}"));
    if has_account { endpoint.to_string() } else { format!("{endpoint}/{account}") }
}

/// Asks `server` where a bucket lives. It says so whether or not it lets us in.
pub(super) async fn ask(clients: &Clients, server: &str, bucket: &str) -> Result<String> {
    let unreachable = |text: String| {
        Error::Unreachable(format!(
            "cannot ask {server} for the region of bucket `{bucket}`: {text}; give it as region=… or AWS_REGION"
        ))
    };
    let job: Arc<Job> = Job::current(crate::limits::NO_PROGRESS);
    let client = clients.of(server.split(':').next()).map_err(&unreachable)?;
    let asked = tokio::time::timeout(job.patience_left(), client.head(format!("{server}/{bucket}")).send()).await;
    let answer = match asked {
        Ok(answer) => answer.map_err(|e| unreachable(reason(&e.without_url())))?,
        Err(_) => return Err(unreachable("no answer".to_string())),
    };
    job.answered();
    let named = answer.headers().get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
    match named {
        Some(region) => Ok(region.to_string()),
        None if answer.status().as_u16() == 404 => {
            Err(Error::Refused(format!("bucket `{bucket}` does not exist; create it or correct the replica URL")))
        }
        None => Err(unreachable(format!("it answered {} without naming one", answer.status().as_u16()))),
    }
}
