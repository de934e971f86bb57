//! Putting an object without ever replacing one: one request up to `SINGLE_PUT`, parts above it.
//!
//! Memory stays flat: parts are read as they are sent, `PARTS_IN_FLIGHT` at a time. What is found to be there
//! already is compared byte for byte.

use super::io::Task;
use super::job::{Job, What};
use super::object::{Attempt, Link, Object, key};
use super::stream::Stream;
use super::{Body, Put};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits::{MAX_PARTS, PART, PARTS_IN_FLIGHT, SINGLE_PUT, UPLOAD_FRAME};
use crate::ltx::{Level, Span};
use bytes::Bytes;
use object_store::{Attribute, Attributes, MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutPayload};
use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

/// What became of bytes that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Stored,
    /// Something stands under the name: ours, where an answer was lost, or another's.
    Exists,
    /// The store does not know such a condition.
    Unknown,
}

/// Where to put what.
pub(super) struct Target<'a> {
    pub name: &'a str,
    pub created: Time,
}

impl Object {
    pub fn put(&self, level: Level, span: Span, created: Time, body: &Body<'_>) -> Result<Put> {
        let link = self.link()?;
        let size = body.size()?;
        let name = link.name(level, span);
        let target = Target { name: &name, created };
        let is_large = size > SINGLE_PUT;
        let honest = self.fence.is_honest(&link, is_large)?;
        // Without honest conditions this look is all there is; before many parts it may save them.
        if (!honest || is_large) && link.holds(&name, size, body)? {
            return Ok(Put::AlreadyThere);
        }
        let sent = if is_large {
            link.send_parts(&target, &mut body.reader()?, size)?
        } else {
            link.send_single(&target, whole(body, size)?, honest)?
        };
        match sent {
            Sent::Stored => Ok(Put::Stored),
            Sent::Exists if link.holds(&name, size, body)? => Ok(Put::AlreadyThere),
            Sent::Exists => Err(Error::Busy(format!("{name} came and went while it was being stored; try again"))),
            Sent::Unknown => Err(Error::Refused(format!("replica {}: the store refuses conditional puts", link.url))),
        }
    }
}

impl Link {
    /// One request. `create` refuses to replace.
    pub fn send_single(&self, target: &Target<'_>, body: Bytes, create: bool) -> Result<Sent> {
        let (store, at) = (Arc::clone(&self.store), key(target.name)?);
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions { mode, attributes: self.attributes(target), ..PutOptions::default() };
        let attempt = self.attempt(async move { store.put_opts(&at, payload(body), options).await });
        self.sent(target.name, attempt)
    }

    /// Parts, then a completion that refuses to replace where the store knows how.
    pub fn send_parts(&self, target: &Target<'_>, from: &mut dyn Read, size: u64) -> Result<Sent> {
        let (store, at) = (Arc::clone(&self.store), key(target.name)?);
        let options = PutMultipartOptions { attributes: self.attributes(target), ..PutMultipartOptions::default() };
        let begun = self.attempt(async move { store.put_multipart_opts(&at, options).await });
        let mut upload = self.explain("begin an upload of parts", target.name, begun)?;
        let parts = self.send_each(upload.as_mut(), target.name, from, size);
        let sent = match parts {
            Ok(()) => {
                let completed = self.attempt(async move {
                    let completed = upload.complete().await.map(drop);
                    Ok((upload, completed))
                });
                let job = Arc::clone(&completed.job);
                let (back, outcome) = self.explain("complete", target.name, completed)?;
                upload = back;
                self.sent(target.name, Attempt { job, outcome: Ok(outcome) })
            }
            Err(e) => Err(e),
        };
        if !matches!(sent, Ok(Sent::Stored)) {
            // Parts without a completion are what a lifecycle rule of the bucket is for, should this fail too.
            let _ = self.attempt(async move { upload.abort().await });
        }
        sent
    }

    fn send_each(&self, upload: &mut dyn MultipartUpload, name: &str, from: &mut dyn Read, size: u64) -> Result<()> {
        let part = part_size(size);
        let mut in_flight = VecDeque::new();
        let mut left = size;
        while left > 0 {
            while in_flight.len() >= PARTS_IN_FLIGHT {
                let Some((job, task)) = in_flight.pop_front() else { break };
                self.finish(name, job, &task)?;
            }
            let length = part.min(left);
            let mut bytes = vec![0; length as usize];
            from.read_exact(&mut bytes).map_err(|e| Error::io("read what is to be stored", name, e))?;
            in_flight.push_back(self.spawn(upload.put_part(payload(Bytes::from(bytes)))));
            left -= length;
        }
        in_flight.into_iter().try_for_each(|(job, task)| self.finish(name, job, &task))
    }

    fn finish(&self, name: &str, job: Arc<Job>, task: &Task<object_store::Result<()>>) -> Result<()> {
        self.explain("store a part", name, Attempt { job, outcome: task.wait() })
    }

    /// True where the name holds these bytes, false where it holds nothing, `Conflict` where it holds others.
    fn holds(self: &Arc<Link>, name: &str, size: u64, body: &Body<'_>) -> Result<bool> {
        let Some((there, _)) = self.head(name)? else { return Ok(false) };
        let same = there == size && {
            let stream = Stream::new(Arc::clone(self), name.to_string(), size)?;
            super::same_bytes(stream, body.reader()?).map_err(|e| Error::from_read("compare", name, e))?
        };
        if same { Ok(true) } else { Err(super::conflict(&format!("{} in {}", name, self.cloud.bucket))) }
    }

    fn sent<T>(&self, name: &str, attempt: Attempt<T>) -> Result<Sent> {
        use object_store::Error::{AlreadyExists, NotImplemented, NotModified, Precondition};
        let failure = attempt.job.failure();
        match attempt.outcome {
            Ok(Ok(_)) => Ok(Sent::Stored),
            Ok(Err(AlreadyExists { .. } | Precondition { .. } | NotModified { .. })) => Ok(Sent::Exists),
            Ok(Err(NotImplemented { .. })) => Ok(Sent::Unknown),
            other => match failure.map(|failure| failure.what) {
                Some(What::Status { status: 501, .. }) => Ok(Sent::Unknown),
                // object_store has no word for this at Google's completion.
                Some(What::Status { status: 409 | 412, .. }) => Ok(Sent::Exists),
                // The upload is gone because its completion was accepted and the answer lost.
                Some(What::Status { status: 404, code, .. }) if code == "NoSuchUpload" => Ok(Sent::Exists),
                _ => self.explain("store", name, Attempt { job: attempt.job, outcome: other }).map(|_| Sent::Stored),
            },
        }
    }

    fn attributes(&self, target: &Target<'_>) -> Attributes {
        let mut attributes = Attributes::new();
        let stamp = Attribute::Metadata(self.cloud.timestamp_key().into());
        attributes.insert(stamp, target.created.rfc3339().into());
        if let Some(class) = &self.cloud.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        attributes
    }
}

/// Parts grow where an object would need more of them than stores take.
fn part_size(size: u64) -> u64 {
    PART.max(size.div_ceil(MAX_PARTS))
}

/// A body in frames small enough to see it move.
fn payload(body: Bytes) -> PutPayload {
    let frames = (0..body.len()).step_by(UPLOAD_FRAME);
    frames.map(|at| body.slice(at..body.len().min(at + UPLOAD_FRAME))).collect()
}

fn whole(body: &Body<'_>, size: u64) -> Result<Bytes> {
    match body {
        Body::Bytes(bytes) => Ok(bytes.clone()),
        Body::File(path) => {
            let mut all = Vec::with_capacity(size as usize);
            body.reader()?.read_to_end(&mut all).map_err(|e| Error::io("read", path, e))?;
            Ok(Bytes::from(all))
        }
    }
}
