//! Hosts of S3's many providers: which bucket, endpoint and region a host name stands for.
//!
//! The same forms that Litestream takes. Knows names only; nothing here asks a network.

use super::replica_url::Options;
use crate::error::{Error, Result};

/// What a host name says.
pub(super) struct Found {
    pub bucket: String,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
}

impl Found {
    /// Fills in what the query leaves open.
    pub fn apply(self, mut options: Options) -> Options {
        options.endpoint = options.endpoint.or(self.endpoint);
        options.region = options.region.or(self.region);
        options.path_style = options.path_style.or(self.path_style);
        options
    }
}

/// Reads `bucket.host`; `None` where the whole is a bucket's name.
pub(super) fn from_host(host: &str) -> Option<Found> {
    if let Some((name, port)) = host.rsplit_once(':') {
        let (bucket, server) = name.split_once('.')?;
        port.parse::<u16>().ok()?;
        let endpoint = Some(format!("http://{server}:{port}"));
        return Some(Found { bucket: bucket.to_string(), endpoint, region: None, path_style: Some(true) });
    }
    let found = |bucket: &str, endpoint: Option<String>, region: Option<&str>, path_style| {
        (!bucket.is_empty()).then(|| Found {
            bucket: bucket.to_string(),
            endpoint,
            region: region.map(str::to_string),
            path_style,
        })
    };
    if let Some(name) = host.strip_suffix(".amazonaws.com") {
        return match name.strip_suffix(".s3") {
            Some(bucket) => found(bucket, None, None, None),
            None => {
                let (bucket, region) = name.rsplit_once(".s3.").or_else(|| name.rsplit_once(".s3-"))?;
                found(bucket, None, Some(region), None)
            }
        };
    }
    if let Some(bucket) = host.strip_suffix(".s3.filebase.com") {
        return found(bucket, Some("https://s3.filebase.com".to_string()), Some("us-east-1"), Some(false));
    }
    if let Some((bucket, region)) = host.strip_suffix(".digitaloceanspaces.com").and_then(|name| name.rsplit_once('.'))
    {
        return found(bucket, Some(format!("https://{region}.digitaloceanspaces.com")), Some(region), Some(false));
    }
    for (domain, path_style) in [("backblazeb2.com", true), ("scw.cloud", false)] {
        let name = host.strip_suffix(domain).and_then(|name| name.strip_suffix('.'));
        if let Some((bucket, region)) = name.and_then(|name| name.rsplit_once(".s3.")) {
            return found(bucket, Some(format!("https://s3.{region}.{domain}")), Some(region), Some(path_style));
        }
    }
    None
}

/// Reads `arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/path`; `None` where it is no ARN.
pub(super) fn access_point(rest: &str) -> Option<(std::result::Result<Found, String>, &str)> {
    let arn = rest.strip_prefix("arn:")?;
    let mut parts = arn.splitn(5, ':').skip(2);
    let (region, account, resource) =
        (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let name_and_path = resource.strip_prefix("accesspoint/").unwrap_or("");
    let (name, path) = name_and_path.split_once('/').unwrap_or((name_and_path, ""));
    if region.is_empty() || account.is_empty() || name.is_empty() {
        return Some((Err("is an ARN, but not arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/path".to_string()), ""));
    }
    // The bucket of an access point is a host of its own; asked virtual-hosted, the endpoint loses this name again.
    let bucket = format!("{name}-{account}");
    let endpoint = Some(format!("https://s3-accesspoint.{region}.amazonaws.com"));
    Some((Ok(Found { bucket, endpoint, region: Some(region.to_string()), path_style: Some(false) }), path))
}

/// An endpoint with its scheme: a bare one is https, or http on loopback and in private networks.
pub(super) fn endpoint(text: &str) -> Result<String> {
    let full = if text.contains("://") {
        text.to_string()
    } else {
        let near = url::Url::parse(&format!("http://{text}")).ok().is_some_and(|url| is_near(&url));
        format!("{}://{text}", if near { "http" } else { "https" })
    };
    let shown = text.rsplit_once('@').map_or(text, |(_, after)| after);
    let example = "for example endpoint=https://s3.example.com or endpoint=localhost:9000";
    let url =
        url::Url::parse(&full).map_err(|e| Error::Usage(format!("`endpoint={shown}` is no URL ({e}); {example}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(Error::Usage(format!("`endpoint={shown}` is neither http nor https; {example}")));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(Error::Usage(format!(
            "`endpoint={shown}` holds more than a host and a path; keys belong in the environment"
        )));
    }
    Ok(full.trim_end_matches('/').to_string())
}

fn is_near(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
