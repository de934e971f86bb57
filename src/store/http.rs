//! The HTTP layer below object_store: one request at a time, counted, watched for silence, its failure kept.
//!
//! object_store signs and retries; what it lacks is added here: no limit on the whole of a body but one on
//! silence, and the condition on the completion of a multipart upload.

use super::job::{Failure, Job, What};
use super::requests::{self, Counts};
use super::tls::{Clients, reason};
use crate::limits::{ERROR_BODY, METADATA_TIMEOUT};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, IF_NONE_MATCH};
use http::{HeaderName, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider};
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

/// How a multipart upload is completed without replacing anything.
#[derive(Debug)]
pub(super) enum Completion {
    /// `If-None-Match: *`, which S3 takes unsigned.
    S3,
    /// `x-goog-if-generation-match: 0`.
    Gcs,
    /// `If-None-Match: *`, signed again where the account's key signs.
    Azure { account: String, credentials: OnceLock<AzureCredentialProvider> },
}

/// What all requests of one store share.
#[derive(Debug)]
pub(super) struct Wire {
    pub clients: Arc<Clients>,
    pub counts: Arc<Counts>,
    /// Host and port of the store itself, as against those that give credentials.
    pub home: String,
    /// Longest silence of a request.
    pub silence: Duration,
    pub completion: Completion,
    /// Off once the store is known to ignore it or to refuse it.
    pub conditional_completion: AtomicBool,
}

/// Makes object_store's clients.
#[derive(Debug, Clone)]
pub(super) struct Connector(pub Arc<Wire>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // object_store marks the metadata services of machines by their connect timeout.
        let is_metadata = options.get_config_value(&ClientConfigKey::ConnectTimeout).as_deref() == Some("1s");
        let silence = if is_metadata { METADATA_TIMEOUT } else { self.0.silence };
        Ok(HttpClient::new(Service { wire: Arc::clone(&self.0), silence: silence.min(self.0.silence) }))
    }
}

#[derive(Debug)]
struct Service {
    wire: Arc<Wire>,
    silence: Duration,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let job = Job::current(self.silence);
        let host = request.uri().authority().map(|a| a.as_str().to_string()).unwrap_or_default();
        self.wire.counts.note(&request, host == self.wire.home);
        let is_listing = host == self.wire.home && requests::is_listing(&request);
        self.wire.condition(&mut request).await?;
        let is_head = request.method() == Method::HEAD;
        let answer = self.send(request, &job).await;
        let (parts, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err((error, text)) => {
                job.failed(Failure { host, what: What::Connection(text) });
                return Err(error);
            }
        };
        job.answered();
        let watched = HttpResponseBody::new(Watched::new(body, Arc::clone(&job), self.silence, &host));
        if parts.status.as_u16() < 300 {
            job.succeeded();
            let body = if is_listing { listing(watched, &job, host).await? } else { watched };
            return Ok(HttpResponse::from_parts(parts, body));
        }
        // The error's body is read here, for its code, and passed on as bytes.
        let text = if is_head { Bytes::new() } else { head_of(watched).await };
        let (code, message) = code_and_message(&String::from_utf8_lossy(&text));
        let code = parts.headers.get("x-ms-error-code").and_then(|c| c.to_str().ok()).map_or(code, str::to_string);
        job.failed(Failure { host, what: What::Status { status: parts.status.as_u16(), code, message } });
        Ok(HttpResponse::from_parts(parts, text.into()))
    }
}

impl Service {
    async fn send(
        &self,
        request: HttpRequest,
        job: &Arc<Job>,
    ) -> Result<http::Response<reqwest::Body>, (HttpError, String)> {
        let (parts, body) = request.into_parts();
        let unknown = |text: String| (HttpError::new(HttpErrorKind::Unknown, Text(text.clone())), text);
        let client = self.wire.clients.of(parts.uri.scheme_str()).map_err(unknown)?;
        let url = parts.uri.to_string().parse().map_err(|e| unknown(format!("not a URL: {e}")))?;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        let watch = Job::new(self.silence);
        *outgoing.body_mut() = Some(match body.as_bytes() {
            Some(bytes) => bytes.clone().into(),
            None => {
                reqwest::Body::wrap(Outgoing { inner: body, sent: 0, job: Arc::clone(job), watch: Arc::clone(&watch) })
            }
        });
        let sending = client.execute(outgoing);
        tokio::pin!(sending);
        loop {
            match tokio::time::timeout(watch.patience_left(), &mut sending).await {
                Ok(Ok(answer)) => return Ok(answer.into()),
                Ok(Err(e)) => {
                    let e = e.without_url();
                    return Err((HttpError::new(kind(&e), Text(reason(&e))), reason(&e)));
                }
                Err(_) if watch.is_stalled() => {
                    let text = silent(self.silence);
                    return Err((HttpError::new(HttpErrorKind::Timeout, Text(text.clone())), text));
                }
                Err(_) => {}
            }
        }
    }
}

impl Wire {
    /// Adds the condition to the completion of a multipart upload.
    async fn condition(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        if !self.conditional_completion.load(Ordering::Relaxed) {
            return Ok(());
        }
        let query = request.uri().query().unwrap_or("");
        let completes = request.method() == Method::POST && query.contains("uploadId=");
        let star = HeaderValue::from_static("*");
        match &self.completion {
            Completion::S3 if completes => {
                request.headers_mut().insert(IF_NONE_MATCH, star);
            }
            Completion::Gcs if completes => {
                let name = HeaderName::from_static("x-goog-if-generation-match");
                request.headers_mut().insert(name, HeaderValue::from_static("0"));
            }
            Completion::Azure { account, credentials } if query.contains("comp=blocklist") => {
                request.headers_mut().insert(IF_NONE_MATCH, star);
                let Some(credentials) = credentials.get() else { return Ok(()) };
                let failed = |e: object_store::Error| HttpError::new(HttpErrorKind::Unknown, e);
                let credential = credentials.get_credential().await.map_err(failed)?;
                if matches!(*credential, AzureCredential::AccessKey(_)) {
                    request.headers_mut().remove(AUTHORIZATION);
                    AzureAuthorizer::new(&credential, account).try_authorize(request).map_err(failed)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A body on its way out, telling the job how far it has got.
struct Outgoing {
    inner: object_store::client::HttpRequestBody,
    sent: u64,
    job: Arc<Job>,
    watch: Arc<Job>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            self.job.handed_over(self.sent);
            self.watch.handed_over(self.sent);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body on its way in, which fails when it falls silent.
struct Watched {
    inner: reqwest::Body,
    job: Arc<Job>,
    host: String,
    silence: Duration,
    alarm: Pin<Box<tokio::time::Sleep>>,
}

impl Watched {
    fn new(inner: reqwest::Body, job: Arc<Job>, silence: Duration, host: &str) -> Watched {
        Watched { inner, job, host: host.to_string(), silence, alarm: Box::pin(tokio::time::sleep(silence)) }
    }

    fn failed(&self, kind: HttpErrorKind, text: String) -> HttpError {
        self.job.failed(Failure { host: self.host.clone(), what: What::Connection(text.clone()) });
        HttpError::new(kind, Text(text))
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.job.touch();
                let next = tokio::time::Instant::now() + self.silence;
                self.alarm.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                let e = e.without_url();
                Poll::Ready(Some(Err(self.failed(HttpErrorKind::Interrupted, reason(&e)))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.alarm.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    let text = silent(self.silence);
                    Poll::Ready(Some(Err(self.failed(HttpErrorKind::Timeout, text))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A page of a listing, looked at before it is believed: any well-formed XML without objects in it would pass
/// for an empty replica further up, also the page of some other server that answers 200 to everything.
async fn listing(body: HttpResponseBody, job: &Job, host: String) -> Result<HttpResponseBody, HttpError> {
    let page = body.bytes().await?;
    let head = String::from_utf8_lossy(&page[..page.len().min(1024)]);
    if head.contains("<ListBucketResult") || head.contains("<EnumerationResults") {
        return Ok(page.into());
    }
    let text = "its answer is no listing: this is not the store that is meant".to_string();
    job.failed(Failure { host, what: What::Connection(text.clone()) });
    Err(HttpError::new(HttpErrorKind::Decode, Text(text)))
}

/// The first bytes of a body; an error ends it.
async fn head_of(body: HttpResponseBody) -> Bytes {
    let mut head = BytesMut::new();
    let mut stream = body.bytes_stream();
    while let Some(Ok(part)) = stream.next().await {
        head.extend_from_slice(&part[..part.len().min(ERROR_BODY - head.len())]);
        if head.len() == ERROR_BODY {
            break;
        }
    }
    head.freeze()
}

/// `<Code>` and `<Message>` of an error in XML: the words that all three stores use.
fn code_and_message(text: &str) -> (String, String) {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inner, _) = rest.split_once(&format!("</{name}>"))?;
        Some(inner.lines().next().unwrap_or("").trim().to_string())
    };
    (element("Code").unwrap_or_default(), element("Message").unwrap_or_default())
}

fn silent(limit: Duration) -> String {
    format!("no answer and no progress for {:.0} s", limit.as_secs_f64().max(1.0))
}

/// How object_store treats it: all but a timeout is sent again, which a put that creates only survives.
fn kind(error: &reqwest::Error) -> HttpErrorKind {
    if error.is_timeout() && !error.is_connect() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Request
    }
}

/// An error that is a sentence.
#[derive(Debug)]
struct Text(String);

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Text {}
