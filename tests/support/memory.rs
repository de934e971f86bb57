//! A bucket in memory that speaks just enough of S3's and of Google's XML dialect.
//!
//! For what real servers on loopback cannot show: conditions that are ignored, credentials that change, Google's
//! names and headers. No signature is checked; a test may look at every request first.
#![allow(dead_code)]

use super::stand_in::{Act, Request, Response, StandIn, decode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Whether conditions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    Kept,
    /// Accepted and ignored.
    Ignored,
    /// Ignored on the completion of a multipart upload only.
    IgnoredOnParts,
    /// Answered with 501.
    Unknown,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, (Object, BTreeMap<u32, Vec<u8>>)>,
    next_upload: u32,
}

#[derive(Clone, Default)]
struct Object {
    body: Vec<u8>,
    /// User metadata, as headers.
    metadata: Vec<(String, String)>,
}

/// The server. Its bucket is called `bucket`.
pub struct Memory {
    pub server: StandIn,
    bucket: Arc<Mutex<Bucket>>,
}

impl Memory {
    pub fn start(conditions: Conditions) -> Memory {
        Memory::checking(conditions, |_| None)
    }

    /// `check` may answer before the bucket does.
    pub fn checking(
        conditions: Conditions,
        check: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
    ) -> Memory {
        let bucket: Arc<Mutex<Bucket>> = Arc::default();
        let kept = Arc::clone(&bucket);
        let server = StandIn::start(move |request| {
            Act::Answer(check(request).unwrap_or_else(|| kept.lock().expect("whole").answer(request, conditions)))
        });
        Memory { server, bucket }
    }

    /// Names in the bucket.
    pub fn names(&self) -> Vec<String> {
        self.bucket.lock().expect("whole").objects.keys().cloned().collect()
    }

    pub fn body(&self, name: &str) -> Option<Vec<u8>> {
        self.bucket.lock().expect("whole").objects.get(name).map(|object| object.body.clone())
    }

    pub fn metadata(&self, name: &str) -> Vec<(String, String)> {
        self.bucket.lock().expect("whole").objects.get(name).map(|object| object.metadata.clone()).unwrap_or_default()
    }
}

impl Bucket {
    fn answer(&mut self, request: &Request, conditions: Conditions) -> Response {
        let Some(name) = request.path().strip_prefix("/bucket") else { return Response::error(404, "NoSuchBucket") };
        let name = decode(name.trim_start_matches('/'));
        match (request.method.as_str(), request.query("uploadId")) {
            ("GET", None) if name.is_empty() => self.list(request),
            ("GET" | "HEAD", None) => self.get(&name, request),
            ("PUT", Some(id)) => self.part(&id, request),
            ("PUT", None) => self.put(&name, request, conditions),
            ("POST", Some(id)) => self.complete(&name, &id, request, conditions),
            ("POST", None) if request.query("uploads").is_some() => self.begin(request),
            ("POST", None) if request.query("delete").is_some() => self.delete_batch(request),
            ("DELETE", Some(id)) => {
                self.uploads.remove(&id);
                Response::new(204, "")
            }
            ("DELETE", None) => match self.objects.remove(&name) {
                Some(_) => Response::new(204, ""),
                None => Response::error(404, "NoSuchKey"),
            },
            _ => Response::error(405, "MethodNotAllowed"),
        }
    }

    fn forbids(&self, name: &str, request: &Request, conditions: Conditions) -> Option<Response> {
        let conditional =
            request.header("if-none-match") == Some("*") || request.header("x-goog-if-generation-match") == Some("0");
        match conditions {
            _ if !conditional => None,
            Conditions::Unknown => Some(Response::error(501, "NotImplemented")),
            Conditions::Kept | Conditions::IgnoredOnParts if self.objects.contains_key(name) => {
                Some(Response::error(412, "PreconditionFailed"))
            }
            _ => None,
        }
    }

    fn put(&mut self, name: &str, request: &Request, conditions: Conditions) -> Response {
        if let Some(refused) = self.forbids(name, request, conditions) {
            return refused;
        }
        self.objects.insert(name.to_string(), Object { body: request.body.clone(), metadata: metadata(request) });
        Response::new(200, "").with("ETag", etag(&request.body)).with("x-goog-generation", "1")
    }

    fn begin(&mut self, request: &Request) -> Response {
        self.next_upload += 1;
        let id = format!("upload-{}", self.next_upload);
        let object = Object { body: Vec::new(), metadata: metadata(request) };
        self.uploads.insert(id.clone(), (object, BTreeMap::new()));
        let text = format!(
            "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        );
        Response::new(200, text)
    }

    fn part(&mut self, id: &str, request: &Request) -> Response {
        let number = request.query("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
        let Some((_, parts)) = self.uploads.get_mut(id) else { return Response::error(404, "NoSuchUpload") };
        parts.insert(number, request.body.clone());
        Response::new(200, "").with("ETag", etag(&request.body))
    }

    fn complete(&mut self, name: &str, id: &str, request: &Request, conditions: Conditions) -> Response {
        let relaxed = if conditions == Conditions::IgnoredOnParts { Conditions::Ignored } else { conditions };
        if let Some(refused) = self.forbids(name, request, relaxed) {
            return refused;
        }
        let Some((mut object, parts)) = self.uploads.remove(id) else { return Response::error(404, "NoSuchUpload") };
        object.body = parts.into_values().flatten().collect();
        let tag = etag(&object.body);
        self.objects.insert(name.to_string(), object);
        let text = format!(
            "<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>{name}</Key><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
        );
        Response::new(200, text).with("x-goog-generation", "1")
    }

    fn get(&self, name: &str, request: &Request) -> Response {
        let Some(object) = self.objects.get(name) else { return Response::error(404, "NoSuchKey") };
        let size = object.body.len();
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (from, to) = match range {
            Some((from, to)) => (from.parse().unwrap_or(0), to.parse::<usize>().map_or(size, |to| size.min(to + 1))),
            None => (0, size),
        };
        if range.is_some() && from >= size {
            return Response::error(416, "InvalidRange");
        }
        let body = object.body[from..to].to_vec();
        let mut answer = Response::new(if range.is_some() { 206 } else { 200 }, body)
            .with("ETag", etag(&object.body))
            .with("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
            .with("x-goog-generation", "1");
        if range.is_some() {
            answer = answer.with("Content-Range", format!("bytes {from}-{}/{size}", to - 1));
        }
        answer.headers.extend(object.metadata.iter().cloned());
        answer
    }

    /// Knows no delimiter and names every object, as some servers do.
    fn list(&self, request: &Request) -> Response {
        let prefix = request.query("prefix").unwrap_or_default();
        let mut text = "<ListBucketResult>".to_string();
        for (name, object) in self.objects.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            text.push_str(&format!(
                "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2026-11-21T12:00:00.000Z</LastModified><ETag>{}</ETag></Contents>",
                object.body.len(),
                etag(&object.body)
            ));
        }
        Response::new(200, text + "</ListBucketResult>")
    }

    fn delete_batch(&mut self, request: &Request) -> Response {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let mut answer = "<DeleteResult>".to_string();
        for name in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            self.objects.remove(name);
            answer.push_str(&format!("<Deleted><Key>{name}</Key></Deleted>"));
        }
        Response::new(200, answer + "</DeleteResult>")
    }
}

fn metadata(request: &Request) -> Vec<(String, String)> {
    let is_meta = |name: &str| name.starts_with("x-amz-meta-") || name.starts_with("x-goog-meta-");
    request.headers.iter().filter(|(name, _)| is_meta(name)).cloned().collect()
}

fn etag(body: &[u8]) -> String {
    let sum =
        body.iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("\"{sum:016x}\"")
}
