//! Where a replica lives, as a person writes it: the one place that parses replica URLs.
//!
//! Nothing secret fits into a `ReplicaUrl`: keys come from the environment, so a URL may be logged as it is.
//! Does not know how a store is reached; that is `cloud`'s and `folder`'s.

use super::provider;
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A parsed replica URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaUrl {
    pub(super) place: Place,
    pub(super) options: Options,
}

/// What keeps the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder on this machine, absolute.
    Folder(PathBuf),
    /// Amazon S3 or a server that speaks it.
    S3 { bucket: String, path: String },
    /// Google Cloud Storage.
    Gcs { bucket: String, path: String },
    /// Azure Blob Storage; the account may come from the environment.
    Azure { account: Option<String>, container: String, path: String },
}

/// What the query of a URL says about a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Scheme and host, without a slash at the end.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    /// Accept any TLS certificate.
    pub skip_verify: bool,
    /// `Some(false)`: bodies go unsigned.
    pub sign_payload: Option<bool>,
    pub storage_class: Option<String>,
}

/// The keys that a query may hold, in their hyphen form.
pub const STORE_KEYS: [&str; 9] = [
    "endpoint",
    "region",
    "force-path-style",
    "skip-verify",
    "sign-payload",
    "storage-class",
    // Tuning of Litestream's own client: accepted, so that a URL may be carried over, and without effect here.
    "part-size",
    "concurrency",
    "require-content-md5",
];

const EXAMPLES: &str =
    "for example s3://bucket/app, gs://bucket/app, abs://account@container/app, file:///backup/app or /backup/app";

impl ReplicaUrl {
    /// Parses `s3://`, `gs://`, `abs://` (or `az://`), `file://` and plain paths; relative ones count from the current directory.
    pub fn parse(text: &str) -> Result<ReplicaUrl> {
        ReplicaUrl::parse_with(text, &[])
    }

    /// As [`ReplicaUrl::parse`], with more query keys: what SQLite split off an unescaped URL at its `&`.
    pub fn parse_with(text: &str, extra: &[(String, String)]) -> Result<ReplicaUrl> {
        if text.trim().is_empty() {
            return Err(Error::Usage(format!("the replica URL is empty; {EXAMPLES}")));
        }
        if text.chars().any(char::is_control) {
            return Err(usage(text, "holds a control character"));
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            if text.contains("://") && !text.starts_with(['/', '.']) {
                return Err(usage(text, "has no scheme before `://`"));
            }
            no_store_keys(text, extra)?;
            return folder(PathBuf::from(text));
        };
        if rest.contains('#') {
            return Err(usage(text, "holds `#`, which ends a URL; write it as %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode_text(text, key)?, decode_text(text, &value.replace('+', " "))?));
        }
        pairs.extend(extra.iter().cloned());
        let place = match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                if let Some((key, _)) = pairs.first() {
                    return Err(usage(text, &format!("is a folder and takes no `{key}`")));
                }
                return folder(file_path(text, rest)?);
            }
            "s3" => return s3(text, rest, Options::parse(text, &pairs)?),
            "gs" | "gcs" => {
                let (bucket, path) = bucket_and_path(text, rest)?;
                Place::Gcs { bucket, path }
            }
            "abs" | "az" | "azblob" => azure(text, rest)?,
            "sftp" | "nats" | "webdav" | "webdavs" | "oss" | "http" | "https" => {
                return Err(Error::Usage(format!("replicas at `{scheme}://` are not supported; {EXAMPLES}")));
            }
            _ => return Err(Error::Usage(format!("`{scheme}` is no scheme of a replica URL; {EXAMPLES}"))),
        };
        Ok(ReplicaUrl { place, options: Options::parse(text, &pairs)? })
    }

    /// What tells one replica from another: scheme, endpoint, bucket and path; no keys, no options. Stable between versions.
    pub fn identity(&self) -> String {
        let endpoint = self.options.endpoint.as_deref().map(|e| format!("?endpoint={e}")).unwrap_or_default();
        format!("{}{endpoint}", self.base())
    }

    /// The folder, where the replica is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(path) => Some(path),
            _ => None,
        }
    }

    fn base(&self) -> String {
        let join = |head: String, path: &str| if path.is_empty() { head } else { format!("{head}/{}", encode(path)) };
        match &self.place {
            Place::Folder(path) => format!("file://{}", encode_bytes(path.as_os_str().as_encoded_bytes())),
            Place::S3 { bucket, path } => join(format!("s3://{bucket}"), path),
            Place::Gcs { bucket, path } => join(format!("gs://{bucket}"), path),
            Place::Azure { account: None, container, path } => join(format!("abs://{container}"), path),
            Place::Azure { account: Some(account), container, path } => {
                join(format!("abs://{account}@{container}"), path)
            }
        }
    }
}

impl std::fmt::Display for ReplicaUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options = &self.options;
        let mut query = Vec::new();
        query.extend(options.endpoint.as_ref().map(|e| format!("endpoint={e}")));
        query.extend(options.region.as_ref().map(|r| format!("region={r}")));
        query.extend(options.path_style.map(|p| format!("force-path-style={p}")));
        query.extend(options.skip_verify.then(|| "skip-verify=true".to_string()));
        query.extend(options.sign_payload.map(|s| format!("sign-payload={s}")));
        query.extend(options.storage_class.as_ref().map(|s| format!("storage-class={s}")));
        f.write_str(&self.base())?;
        if query.is_empty() { Ok(()) } else { write!(f, "?{}", query.join("&")) }
    }
}

impl std::str::FromStr for ReplicaUrl {
    type Err = Error;
    fn from_str(text: &str) -> Result<ReplicaUrl> {
        ReplicaUrl::parse(text)
    }
}

impl Options {
    fn parse(url: &str, pairs: &[(String, String)]) -> Result<Options> {
        let mut options = Options::default();
        for (key, value) in pairs {
            let Some(known) = store_key(key) else {
                let text =
                    format!("holds the parameter `{key}`, which no store has; known are {}", STORE_KEYS.join(", "));
                return Err(usage(url, &text));
            };
            match known {
                "endpoint" if value.is_empty() => {}
                "endpoint" => options.endpoint = Some(provider::endpoint(value)?),
                "region" if value.is_empty() => {}
                "region" => options.region = Some(value.clone()),
                "force-path-style" => options.path_style = Some(boolean(key, value)?),
                "skip-verify" => options.skip_verify = boolean(key, value)?,
                "sign-payload" => options.sign_payload = Some(boolean(key, value)?),
                "storage-class" => options.storage_class = Some(value.clone()),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// The hyphen form of a query key that a store knows; hyphens, underscores and camelCase count the same.
pub fn store_key(key: &str) -> Option<&'static str> {
    let plain = |key: &str| key.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase();
    let asked = plain(key);
    STORE_KEYS.into_iter().find(|known| plain(known) == asked)
}

fn usage(url: &str, problem: &str) -> Error {
    // What stands before an `@` may be a key that someone put there by mistake: it is not repeated.
    let shown = match url.split_once("://") {
        Some((scheme, rest)) => match rest.split('?').next().unwrap_or(rest).rsplit_once('@') {
            Some((_, after)) => format!("{scheme}://…@{after}"),
            None => format!("{scheme}://{}", rest.split('?').next().unwrap_or(rest)),
        },
        None => url.to_string(),
    };
    Error::Usage(format!("replica URL `{}` {problem}; {EXAMPLES}", shown.escape_debug()))
}

/// Scheme and the rest behind `://`; `None` for a plain path. A scheme without slashes is taken as one, so that it is refused.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme =
        scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    if !is_scheme || !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    Some((scheme, rest.strip_prefix("//").unwrap_or(rest)))
}

fn no_store_keys(url: &str, extra: &[(String, String)]) -> Result<()> {
    match extra.first() {
        Some((key, _)) => Err(usage(url, &format!("is a folder and takes no `{key}`"))),
        None => Ok(()),
    }
}

fn folder(path: PathBuf) -> Result<ReplicaUrl> {
    let path = std::path::absolute(&path).map_err(|e| Error::io("resolve replica folder", &path, e))?;
    Ok(ReplicaUrl { place: Place::Folder(path.components().collect()), options: Options::default() })
}

fn file_path(url: &str, rest: &str) -> Result<PathBuf> {
    let path = rest.strip_prefix("localhost/").map(|path| format!("/{path}"));
    let path = path.as_deref().unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(usage(url, "names no absolute path: `file:` takes three slashes, file:///backup/app"));
    }
    Ok(PathBuf::from(OsString::from_vec(decode(path))))
}

/// Splits `bucket/path`; the path loses its empty segments.
fn bucket_and_path(url: &str, rest: &str) -> Result<(String, String)> {
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err(usage(url, "holds `@`: keys do not belong in a URL, give them in the environment"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err(usage(url, "names no bucket"));
    }
    Ok((bucket.to_string(), clean(url, path)?))
}

fn clean(url: &str, path: &str) -> Result<String> {
    let path = decode_text(url, path)?;
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty() && *s != ".").collect();
    if segments.contains(&"..") {
        return Err(usage(url, "holds `..`"));
    }
    if path.chars().any(char::is_control) {
        return Err(usage(url, "holds a control character"));
    }
    Ok(segments.join("/"))
}

fn s3(url: &str, rest: &str, options: Options) -> Result<ReplicaUrl> {
    let (place, options) = match provider::access_point(rest) {
        Some((found, path)) => {
            let found = found.map_err(|problem| usage(url, &problem))?;
            (Place::S3 { bucket: found.bucket.clone(), path: clean(url, path)? }, found.apply(options))
        }
        None => {
            let (host, path) = bucket_and_path(url, rest)?;
            match provider::from_host(&host) {
                Some(found) => (Place::S3 { bucket: found.bucket.clone(), path }, found.apply(options)),
                None if host.contains(':') => return Err(usage(url, "names no bucket before its host")),
                None => (Place::S3 { bucket: host, path }, options),
            }
        }
    };
    match &place {
        // Litestream's keys would begin with a slash, which no tool lists well: a path keeps the two together.
        Place::S3 { path, .. } if path.is_empty() => Err(usage(url, "needs a path inside the bucket")),
        _ => Ok(ReplicaUrl { place, options }),
    }
}

fn azure(url: &str, rest: &str) -> Result<Place> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (account, container) = match authority.rsplit_once('@') {
        Some((account, container)) => (Some(account), container),
        None => (None, authority),
    };
    let plain =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '$'));
    if account.is_some_and(|account| !plain(account)) {
        return Err(usage(url, "names no storage account before its `@`; a key belongs in the environment"));
    }
    if !plain(container) {
        return Err(usage(url, "names no container"));
    }
    Ok(Place::Azure { account: account.map(str::to_string), container: container.to_string(), path: clean(url, path)? })
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "" | "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Error::Usage(format!("`{key}={value}` in the replica URL is neither true nor false"))),
    }
}

/// Percent-encodes what would end or confuse a URL; slashes stay.
fn encode(text: &str) -> String {
    encode_bytes(text.as_bytes())
}

pub(crate) fn encode_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~/=:,@+$!*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes percent-encoding; a `%` that is none stays as it is.
fn decode(text: &str) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1).copied().and_then(hex).zip(bytes.get(at + 2).copied().and_then(hex));
        match pair {
            Some((high, low)) if bytes[at] == b'%' => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn decode_text(url: &str, text: &str) -> Result<String> {
    String::from_utf8(decode(text)).map_err(|_| usage(url, "is not UTF-8 once its %XX are decoded"))
}
