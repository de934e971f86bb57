//! What went wrong at an object store, in one sentence: what, which, what to try.
//!
//! The one place where object_store's errors become ours. Codes and messages come from the answer's body;
//! URLs of requests, which may be signed, never do.

use super::cloud::Cloud;
use super::io::Lost;
use super::job::{Failure, Job, What};
use super::replica_url::ReplicaUrl;
use super::tls::reason;
use crate::error::Error;

/// Longest message of a store that is repeated.
const MESSAGE: usize = 200;

/// What is needed to explain.
pub(super) struct Context<'a> {
    pub url: &'a ReplicaUrl,
    pub cloud: &'a Cloud,
    /// Host and port of the store.
    pub home: &'a str,
    pub job: &'a Job,
}

impl Context<'_> {
    /// An error of object_store while doing `what` to `name`.
    pub fn error(&self, what: &str, name: &str, error: object_store::Error) -> Error {
        let url = self.url;
        match self.job.failure() {
            Some(Failure { host, what: What::Connection(text) }) if host != self.home => Error::Refused(format!(
                "replica {url}: no credentials: {} ({host} was asked: {text})",
                self.cloud.credentials_hint()
            )),
            Some(Failure { host, what: What::Connection(text) }) => {
                Error::Unreachable(format!("replica {url}: cannot {what}: {host}: {text}; it may be tried again"))
            }
            Some(Failure { host, what: What::Status { status, code, message } }) => {
                let message: String = message.chars().take(MESSAGE).collect();
                let said = [status.to_string(), code.clone(), message].into_iter().filter(|s| !s.is_empty());
                let said = said.collect::<Vec<_>>().join(" ");
                if host != self.home {
                    let text = format!(
                        "replica {url}: no credentials: {host} answered {said}; {}",
                        self.cloud.credentials_hint()
                    );
                    return if status >= 500 { Error::Unreachable(text) } else { Error::Refused(text) };
                }
                self.status(what, name, status, &code, &said)
            }
            None => {
                let text: String = reason(&error).chars().take(2 * MESSAGE).collect();
                match error {
                    object_store::Error::NotFound { .. } => super::missing(&name),
                    object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                        Error::Refused(format!("replica {url}: cannot {what}: {text}"))
                    }
                    // Its own look at a range, where a server does not say 416.
                    _ if text.contains("Wanted range") => cut_short(name),
                    _ => Error::Unreachable(format!("replica {url}: cannot {what}: {text}")),
                }
            }
        }
    }

    /// No answer at all.
    pub fn lost(&self, what: &str, lost: Lost) -> Error {
        let url = self.url;
        match (lost, self.job.failure()) {
            (Lost::Died, _) => {
                Error::State(format!("replica {url}: cannot {what}: the I/O thread stopped; open the database again"))
            }
            (Lost::Stalled, Some(Failure { host, what: What::Connection(text) })) => {
                Error::Unreachable(format!("replica {url}: cannot {what}: {host}: {text}; it may be tried again"))
            }
            (Lost::Stalled, Some(Failure { host, what: What::Status { status, code, .. } })) => {
                Error::Unreachable(format!(
                    "replica {url}: cannot {what}: {host} answered {status} {code} and then fell silent; it may be tried again"
                ))
            }
            (Lost::Stalled, None) => Error::Unreachable(format!(
                "replica {url}: cannot {what}: {} does not answer; it may be tried again",
                self.home
            )),
        }
    }

    fn status(&self, what: &str, name: &str, status: u16, code: &str, said: &str) -> Error {
        let (url, bucket) = (self.url, &self.cloud.bucket);
        match (status, code) {
            (404, "NoSuchBucket" | "ContainerNotFound") => {
                Error::Refused(format!("replica {url}: bucket `{bucket}` does not exist; create it or correct the URL"))
            }
            (404, _) => super::missing(&name),
            (400, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") | (401 | 403, _) => {
                let hint = match code {
                    "RequestTimeTooSkewed" => "this machine's clock is wrong",
                    "ExpiredToken" | "TokenRefreshRequired" => "the session token has expired: set a new one",
                    "AccessDenied" | "AuthorizationPermissionMismatch" => {
                        "the credentials must allow listing the bucket, reading, writing and deleting below the path"
                    }
                    _ => self.cloud.credentials_hint(),
                };
                Error::Refused(format!("replica {url}: cannot {what}: refused ({said}); {hint}"))
            }
            (301 | 302 | 307 | 308, _)
            | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => Error::Refused(format!(
                "replica {url}: cannot {what}: another region ({said}); give the bucket's as region=…"
            )),
            (416, _) => cut_short(name),
            (408 | 429, _) | (400, "RequestTimeout" | "SlowDown") => Error::Unreachable(format!(
                "replica {url}: cannot {what}: asked to wait ({said}); it may be tried again"
            )),
            (501, _) => Error::Refused(format!("replica {url}: cannot {what}: the store does not know how ({said})")),
            (500.., _) => {
                Error::Unreachable(format!("replica {url}: cannot {what}: it answered {said}; it may be tried again"))
            }
            _ => Error::Refused(format!("replica {url}: cannot {what}: it answered {said}")),
        }
    }
}

fn cut_short(name: &str) -> Error {
    Error::Corrupt(format!("{name} ends before the bytes that are needed: it was cut short"))
}
