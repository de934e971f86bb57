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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Io;
    use crate::store::tls::Roots;
    use std::io::{Read, Write};
    use std::time::Duration;

    /// Goal: a bucket names its region whether or not it lets us in. Method: a server of one answer.
    #[test]
    fn a_bucket_names_its_region_even_to_strangers() {
        let running = Io::new().running().expect("a thread");
        let asked = |answer: &'static str| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let server = format!("http://{}", listener.local_addr().expect("an address"));
            let served = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("asked");
                let mut head = [0; 4096];
                let length = stream.read(&mut head).expect("a request");
                stream.write_all(answer.as_bytes()).expect("answered");
                String::from_utf8_lossy(&head[..length]).into_owned()
            });
            let clients = running.clients(&Roots::System);
            let job = Job::new(Duration::from_secs(5));
            let found = running.call(&job, async move { ask(&clients, &server, "my.bucket").await });
            assert!(served.join().expect("served").starts_with("HEAD /my.bucket HTTP/1.1"));
            found.expect("an answer")
        };
        let named = "x-amz-bucket-region: eu-west-3\r\ncontent-length: 0\r\n\r\n";
        for status in ["200 OK", "403 Forbidden", "301 Moved Permanently"] {
            let answer: &'static str = format!("HTTP/1.1 {status}\r\n{named}").leak();
            assert_eq!(asked(answer).expect("named"), "eu-west-3", "{status}");
        }
        assert!(matches!(asked("HTTP/1.1 404 Not Found\r\n\r\n"), Err(Error::Refused(_))));
        assert!(matches!(asked("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), Err(Error::Unreachable(_))));
    }

    #[test]
    fn an_account_is_named_once() {
        assert_eq!(with_account("https://a.blob.core.windows.net", "a"), "https://a.blob.core.windows.net");
        assert_eq!(with_account("http://127.0.0.1:10000/", "a"), "http://127.0.0.1:10000/a");
        assert_eq!(with_account("http://127.0.0.1:10000/a", "a"), "http://127.0.0.1:10000/a");
    }
}
