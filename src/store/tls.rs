//! HTTP clients and what they trust.
//!
//! TLS is rustls with ring. Two clients for each set of roots: the one for plain HTTP loads no certificates,
//! which a container may not even have.

use crate::limits::{CONNECT_TIMEOUT, IDLE_CONNECTION_TIME, IDLE_CONNECTIONS};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Which certificates are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Roots {
    /// The system's.
    System,
    /// Only those of this file (AWS_CA_BUNDLE).
    File(PathBuf),
    /// Any (`skip-verify`).
    Any,
}

/// The clients of one set of roots, made when first needed.
#[derive(Debug)]
pub(super) struct Clients {
    roots: Roots,
    plain: OnceLock<Result<reqwest::Client, String>>,
    secure: OnceLock<Result<reqwest::Client, String>>,
}

impl Clients {
    pub fn new(roots: Roots) -> Clients {
        Clients { roots, plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// The client for a URL's scheme, or why there is none.
    pub fn of(&self, scheme: Option<&str>) -> Result<reqwest::Client, String> {
        match scheme {
            Some("http") => self.plain.get_or_init(|| client(base().tls_certs_only([]))).clone(),
            _ => self.secure.get_or_init(|| self.make_secure()).clone(),
        }
    }

    fn make_secure(&self) -> Result<reqwest::Client, String> {
        match &self.roots {
            Roots::System => client(base()),
            Roots::Any => client(base().tls_danger_accept_invalid_certs(true)),
            Roots::File(path) => {
                let pem = std::fs::read(path).map_err(|e| format!("AWS_CA_BUNDLE {}: {e}", path.display()))?;
                let roots = reqwest::Certificate::from_pem_bundle(&pem)
                    .map_err(|e| format!("AWS_CA_BUNDLE {}: {}", path.display(), reason(&e)))?;
                client(base().tls_certs_only(roots))
            }
        }
    }
}

fn base() -> reqwest::ClientBuilder {
    // The provider of this library's own copy of rustls; an error means that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("litestream-vfs/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_CONNECTION_TIME)
        .tcp_nodelay(true)
}

fn client(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    builder.build().map_err(|e| reason(&e))
}

/// An error and what caused it, in one line. URLs are left out: a query may be signed.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        source = inner.source();
    }
    parts.join(": ")
}
