//! How many requests a store was sent: what a bill counts, and what a test of idleness looks at.

use http::Method;
use object_store::client::HttpRequest;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests since the store was opened, those sent again included. For a folder: calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Objects, parts of objects, and the requests around them.
    pub put: u64,
    /// Bodies of objects.
    pub get: u64,
    /// Pages of listings.
    pub list: u64,
    /// Metadata of objects.
    pub head: u64,
    /// Batches, or objects one by one.
    pub delete: u64,
    /// Credentials, and the region of a bucket.
    pub other: u64,
}

impl Requests {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.put + self.get + self.list + self.head + self.delete + self.other
    }
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub put: AtomicU64,
    pub get: AtomicU64,
    pub list: AtomicU64,
    pub head: AtomicU64,
    pub delete: AtomicU64,
    pub other: AtomicU64,
}

impl Counts {
    /// Counts a request by what it does at the store; one to another host gives credentials.
    pub fn note(&self, request: &HttpRequest, at_home: bool) {
        let query = request.uri().query().unwrap_or("");
        let asks = |key: &str| query.split('&').any(|pair| pair.split('=').next() == Some(key));
        let counter = match *request.method() {
            _ if !at_home => &self.other,
            Method::HEAD => &self.head,
            Method::GET if is_listing(request) => &self.list,
            Method::GET => &self.get,
            Method::POST if asks("delete") || query.contains("comp=batch") => &self.delete,
            Method::DELETE => &self.delete,
            _ => &self.put,
        };
        one(counter);
    }

    pub fn read(&self) -> Requests {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            put: get(&self.put),
            get: get(&self.get),
            list: get(&self.list),
            head: get(&self.head),
            delete: get(&self.delete),
            other: get(&self.other),
        }
    }
}

/// True for a page of a listing, in S3's, Google's and Azure's words.
pub(super) fn is_listing(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or("");
    request.method() == Method::GET && (query.contains("list-type=2") || query.contains("comp=list"))
}

pub(super) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
