//! An object store as URL and environment describe it, and how object_store is told.
//!
//! The environment is read once, when the store is opened. Keys live in object_store's builders and nowhere
//! else: nothing here is printed.

use super::http::{Completion, Connector, Wire};
use super::io::Running;
use super::region;
use super::replica_url::{Options, Place, ReplicaUrl};
use super::requests::Counts;
use super::tls::Roots;
use crate::error::{Error, Result};
use crate::limits::{REQUEST_BACKOFF, REQUEST_RETRIES};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All that is needed to reach a store.
#[derive(Clone)]
pub(super) struct Cloud {
    kind: Kind,
    pub bucket: String,
    /// Path of the replica inside the bucket; may be empty.
    pub path: String,
    pub roots: Roots,
    pub storage_class: Option<String>,
}

#[derive(Clone)]
enum Kind {
    S3 { builder: Box<AmazonS3Builder>, endpoint: Option<String>, region: Option<String>, path_style: Option<bool> },
    Gcs { builder: Box<GoogleCloudStorageBuilder>, endpoint: String },
    Azure { builder: Box<MicrosoftAzureBuilder>, endpoint: String, account: String },
}

impl Cloud {
    pub fn new(url: &ReplicaUrl, env: Env<'_>) -> Result<Cloud> {
        let env = &|name: &str| env(name).filter(|value| !value.is_empty());
        let options = &url.options;
        let roots = match env("AWS_CA_BUNDLE") {
            _ if options.skip_verify => Roots::Any,
            Some(path) => Roots::File(path.into()),
            None => Roots::System,
        };
        let (kind, bucket, path) = match &url.place {
            Place::S3 { bucket, path } => (s3(options, bucket, env)?, bucket, path),
            Place::Gcs { bucket, path } => (gcs(options, bucket, env), bucket, path),
            Place::Azure { account, container, path } => {
                (azure(url, options, account.as_deref(), container, env)?, container, path)
            }
            Place::Folder(path) => {
                return Err(Error::State(format!("{} is a folder, not an object store", path.display())));
            }
        };
        let storage_class = options.storage_class.clone();
        Ok(Cloud { kind, bucket: bucket.clone(), path: path.clone(), roots, storage_class })
    }

    /// Where the files of a level stand: S3 differs from all others.
    pub fn level(&self, level: crate::ltx::Level) -> String {
        let folder = match self.kind {
            Kind::S3 { .. } => format!("{:04x}", level.get()),
            _ => format!("ltx/{level}"),
        };
        self.inside(&folder)
    }

    /// The folder of all levels; empty where that is the bucket itself.
    pub fn levels_root(&self) -> String {
        match self.kind {
            Kind::S3 { .. } => self.path.clone(),
            _ => self.inside("ltx"),
        }
    }

    /// A name inside the replica's path.
    pub fn inside(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}/{name}", self.path) }
    }

    /// The metadata key that holds the creation time; Azure allows no hyphen.
    pub fn timestamp_key(&self) -> &'static str {
        match self.kind {
            Kind::Azure { .. } => "litestreamtimestamp",
            _ => "litestream-timestamp",
        }
    }

    /// What a person without credentials should set.
    pub fn credentials_hint(&self) -> &'static str {
        match self.kind {
            Kind::S3 { .. } => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or LITESTREAM_…); profiles in ~/.aws are not read"
            }
            Kind::Gcs { .. } => "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
            Kind::Azure { .. } => "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or LITESTREAM_AZURE_ACCOUNT_KEY",
        }
    }

    /// True where the region must be asked of the bucket.
    pub fn region_is_unknown(&self) -> bool {
        matches!(&self.kind, Kind::S3 { endpoint: None, region: None, .. })
    }

    /// Fills in the region that the bucket named.
    pub fn set_region(&mut self, found: String) {
        if let Kind::S3 { region, .. } = &mut self.kind {
            *region = Some(found);
        }
    }

    /// The client, once the region is known.
    pub fn build(
        &self,
        running: &Running,
        counts: &Arc<Counts>,
        silence: Duration,
    ) -> Result<(Arc<dyn ObjectStore>, Arc<Wire>)> {
        let (endpoint, completion) = match &self.kind {
            Kind::S3 { .. } => (self.s3_endpoint(), Completion::S3),
            Kind::Gcs { endpoint, .. } => (endpoint.clone(), Completion::Gcs),
            Kind::Azure { endpoint, account, .. } => {
                (endpoint.clone(), Completion::Azure { account: account.clone(), credentials: OnceLock::new() })
            }
        };
        let wire = Arc::new(Wire {
            clients: running.clients(&self.roots),
            counts: Arc::clone(counts),
            home: region::authority(&endpoint),
            silence,
            completion,
            conditional_completion: AtomicBool::new(true),
        });
        let connector = Connector(Arc::clone(&wire));
        let options = ClientOptions::new().with_allow_http(true);
        let (init_backoff, max_backoff) = REQUEST_BACKOFF;
        // A silence that used up the patience is not waited for twice; quick refusals are tried again.
        let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
        let retry = RetryConfig { backoff, max_retries: REQUEST_RETRIES, retry_timeout: silence / 2 };
        let store: object_store::Result<Arc<dyn ObjectStore>> = match &self.kind {
            Kind::S3 { builder, region, .. } => (**builder)
                .clone()
                .with_region(region.as_deref().unwrap_or(region::DEFAULT))
                .with_virtual_hosted_style_request(!self.is_path_style())
                .with_endpoint(endpoint)
                .with_client_options(options)
                .with_retry(retry)
                .with_http_connector(connector)
                .build()
                .map(|store| Arc::new(store) as _),
            Kind::Gcs { builder, .. } => (**builder)
                .clone()
                .with_client_options(options)
                .with_retry(retry)
                .with_http_connector(connector)
                .build()
                .map(|store| Arc::new(store) as _),
            Kind::Azure { builder, .. } => {
                let store = (**builder)
                    .clone()
                    .with_client_options(options)
                    .with_retry(retry)
                    .with_http_connector(connector)
                    .build();
                if let (Ok(store), Completion::Azure { credentials, .. }) = (&store, &wire.completion) {
                    credentials.get_or_init(|| Arc::clone(store.credentials()));
                }
                store.map(|store| Arc::new(store) as _)
            }
        };
        let store =
            store.map_err(|e| Error::Refused(format!("the store cannot be used: {}", super::tls::reason(&e))))?;
        Ok((store, wire))
    }

    /// Path style is what other servers than Amazon's understand, and what names with dots need.
    fn is_path_style(&self) -> bool {
        match &self.kind {
            Kind::S3 { endpoint, path_style, .. } => {
                path_style.unwrap_or(endpoint.is_some() || self.bucket.contains('.'))
            }
            _ => true,
        }
    }

    fn s3_endpoint(&self) -> String {
        let Kind::S3 { endpoint, region, .. } = &self.kind else { return String::new() };
        let server = match endpoint {
            Some(endpoint) => endpoint.clone(),
            None => region::endpoint(region.as_deref().unwrap_or(region::DEFAULT)),
        };
        match server.split_once("://") {
            Some((scheme, host)) if !self.is_path_style() => format!("{scheme}://{}.{host}", self.bucket),
            _ => server,
        }
    }
}

fn s3(options: &Options, bucket: &str, env: Env<'_>) -> Result<Kind> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_unsigned_payload(options.sign_payload == Some(false))
        .with_imdsv1_fallback();
    let aws = env("AWS_ACCESS_KEY_ID").zip(env("AWS_SECRET_ACCESS_KEY"));
    if let Some((id, secret)) = aws {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        if let Some(token) = env("AWS_SESSION_TOKEN") {
            builder = builder.with_token(token);
        }
    } else if let Some((id, secret)) = env("LITESTREAM_ACCESS_KEY_ID").zip(env("LITESTREAM_SECRET_ACCESS_KEY")) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    // Each beside the variable that it is read from; where several are set, the last counts.
    let keys = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
        ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
        ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
        ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", AmazonS3ConfigKey::MetadataEndpoint),
        ("AWS_METADATA_ENDPOINT", AmazonS3ConfigKey::MetadataEndpoint),
        ("AWS_SKIP_SIGNATURE", AmazonS3ConfigKey::SkipSignature),
        ("AWS_REQUEST_PAYER", AmazonS3ConfigKey::RequestPayer),
    ];
    for (name, key) in keys {
        if let Some(value) = env(name) {
            builder = builder.with_config(key, value.trim_end_matches('/'));
        }
    }
    let set = |names: [&str; 3]| names.into_iter().find_map(env);
    let endpoint = match &options.endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => set(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "LITESTREAM_S3_ENDPOINT"])
            .map(|found| super::provider::endpoint(&found))
            .transpose()?,
    };
    let region = options.region.clone().or_else(|| set(["AWS_REGION", "AWS_DEFAULT_REGION", "LITESTREAM_S3_REGION"]));
    Ok(Kind::S3 { builder: Box::new(builder), endpoint, region, path_style: options.path_style })
}

fn gcs(options: &Options, bucket: &str, env: Env<'_>) -> Kind {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
    let keys = [
        ("GOOGLE_SERVICE_ACCOUNT", GoogleConfigKey::ServiceAccount),
        ("GOOGLE_SERVICE_ACCOUNT_PATH", GoogleConfigKey::ServiceAccount),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", GoogleConfigKey::ServiceAccountKey),
        ("GOOGLE_APPLICATION_CREDENTIALS", GoogleConfigKey::ApplicationCredentials),
        ("GOOGLE_SKIP_SIGNATURE", GoogleConfigKey::SkipSignature),
    ];
    for (name, key) in keys {
        if let Some(value) = env(name) {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(token) = env("GOOGLE_OAUTH_ACCESS_TOKEN") {
        builder = builder.with_bearer_token(token);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let endpoint = options.endpoint.clone().unwrap_or_else(|| "https://storage.googleapis.com".to_string());
    Kind::Gcs { builder: Box::new(builder), endpoint }
}

fn azure(url: &ReplicaUrl, options: &Options, account: Option<&str>, container: &str, env: Env<'_>) -> Result<Kind> {
    let connection = env("AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default();
    let connected = |name: &str| {
        let pairs = connection.split(';').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_string())
    };
    let account = account
        .map(str::to_string)
        .or_else(|| ["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME", "LITESTREAM_AZURE_ACCOUNT_NAME"].into_iter().find_map(env))
        .or_else(|| connected("AccountName"))
        .ok_or_else(|| {
            Error::Usage(format!("replica {url} names no storage account: write abs://ACCOUNT@{container}/path or set AZURE_STORAGE_ACCOUNT"))
        })?;
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| connected("BlobEndpoint"))
        .map(|endpoint| region::with_account(&endpoint, &account))
        .unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&account)
        .with_container_name(container)
        .with_endpoint(endpoint.clone());
    let key =
        ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "LITESTREAM_AZURE_ACCOUNT_KEY"];
    let sas = ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", "LITESTREAM_AZURE_SAS_TOKEN"];
    if let Some(key) = key.into_iter().find_map(env).or_else(|| connected("AccountKey")) {
        builder = builder.with_access_key(key);
    } else if let Some(sas) = sas.into_iter().find_map(env).or_else(|| connected("SharedAccessSignature")) {
        builder = builder.with_config(AzureConfigKey::SasKey, sas);
    }
    let keys = [
        ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
        ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
        ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
        ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
        ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
        ("AZURE_STORAGE_TOKEN", AzureConfigKey::Token),
        ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
    ];
    for (name, key) in keys {
        if let Some(value) = env(name) {
            builder = builder.with_config(key, value);
        }
    }
    Ok(Kind::Azure { builder: Box::new(builder), endpoint, account })
}
