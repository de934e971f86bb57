//! A replica in an object store: the calls, each handed to the I/O thread and waited for.
//!
//! How things are put is `upload`'s, how they are read ahead `stream`'s, and what an error means `explain`'s.

use super::cloud::Cloud;
use super::explain::Context;
use super::fence::Fence;
use super::http::Wire;
use super::io::{Io, Lost, Running, Task};
use super::job::Job;
use super::replica_url::ReplicaUrl;
use super::requests::{Counts, Requests, one};
use super::stream::Stream;
use super::{FileInfo, Other, region};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits::{DELETE_BATCH, NO_PROGRESS};
use crate::ltx::{Level, Span};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{Attribute, GetOptions, GetRange, ObjectMeta, ObjectStore};
use std::future::Future;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(super) struct Object {
    url: ReplicaUrl,
    cloud: Cloud,
    io: Io,
    pub(super) patience: Duration,
    link: Mutex<Option<Arc<Link>>>,
    pub(super) fence: Fence,
    counts: Arc<Counts>,
}

/// A store that can be talked to, with the thread that talks.
pub(super) struct Link {
    pub store: Arc<dyn ObjectStore>,
    pub wire: Arc<Wire>,
    pub cloud: Cloud,
    pub url: ReplicaUrl,
    pub patience: Duration,
    pub running: Arc<Running>,
}

/// How a future on the I/O thread ended, and what its job saw.
pub(super) struct Attempt<T> {
    pub job: Arc<Job>,
    pub outcome: std::result::Result<object_store::Result<T>, Lost>,
}

impl Object {
    pub fn new(url: &ReplicaUrl, env: &dyn Fn(&str) -> Option<String>, io: &Io) -> Result<Object> {
        Ok(Object {
            url: url.clone(),
            cloud: Cloud::new(url, env)?,
            io: io.clone(),
            patience: NO_PROGRESS,
            link: Mutex::new(None),
            fence: Fence::default(),
            counts: Arc::default(),
        })
    }

    pub fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        let link = self.link()?;
        let folder = link.cloud.level(level);
        let found = self.below(&link, &folder)?;
        let mut files: Vec<FileInfo> = found
            .into_iter()
            .filter_map(|meta| {
                let name = meta.location.as_ref().strip_prefix(&folder)?.strip_prefix('/')?;
                let span = Span::from_file_name(name)?;
                Some(FileInfo { level, span, size: meta.size, listed: Time(meta.last_modified.timestamp_millis()) })
            })
            .collect();
        files.sort_by_key(|file| file.span);
        Ok(files)
    }

    /// One look at the folders instead of a listing of each level that there could be.
    pub fn levels(&self) -> Result<Vec<Level>> {
        let link = self.link()?;
        let root = link.cloud.levels_root();
        let prefix = if root.is_empty() { None } else { Some(key(&root)?) };
        let store = Arc::clone(&link.store);
        let found = link.call("list", &root, async move { store.list_with_delimiter(prefix.as_ref()).await });
        let found = self.no_404(&link, found)?;
        // A store that knows no delimiter names all objects instead.
        let mut names: Vec<String> = found.common_prefixes.into_iter().map(|folder| folder.to_string()).collect();
        names.extend(
            found
                .objects
                .into_iter()
                .filter_map(|object| object.location.as_ref().rsplit_once('/').map(|(folder, _)| folder.to_string())),
        );
        Ok(Level::all().filter(|level| names.contains(&link.cloud.level(*level))).collect())
    }

    /// True where there is such an object.
    pub fn holds(&self, level: Level, span: Span) -> Result<bool> {
        let link = self.link()?;
        Ok(link.head(&link.name(level, span))?.is_some())
    }

    /// What stands below a prefix.
    fn below(&self, link: &Link, folder: &str) -> Result<Vec<ObjectMeta>> {
        let prefix = key(folder)?;
        let store = Arc::clone(&link.store);
        let found = link.call("list", folder, async move { store.list(Some(&prefix)).try_collect::<Vec<_>>().await });
        self.no_404(link, found)
    }

    /// A prefix without objects is an empty answer. Whoever says 404 is not the store that is meant, and must
    /// never be taken for an empty replica.
    fn no_404<T>(&self, link: &Link, found: Result<T>) -> Result<T> {
        found.map_err(|e| match e {
            Error::NoBackup(_) => Error::Refused(format!(
                "replica {}: cannot list: {} answered 404; correct bucket or endpoint",
                self.url, link.wire.home
            )),
            other => other,
        })
    }

    pub fn list_others(&self, folder: &str) -> Result<Vec<Other>> {
        let link = self.link()?;
        let root = link.cloud.inside(folder);
        let mut others: Vec<Other> = self
            .below(&link, &root)?
            .into_iter()
            .filter_map(|meta| {
                let name = format!("{folder}{}", meta.location.as_ref().strip_prefix(&root)?);
                let modified = meta.last_modified.timestamp_nanos_opt()?;
                Some(Other { name, size: meta.size, modified })
            })
            .collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(others)
    }

    pub fn stream_other(&self, other: &Other) -> Result<Box<dyn Read + Send>> {
        let link = self.link()?;
        let name = link.cloud.inside(&other.name);
        Ok(Box::new(Stream::new(link, name, other.size)?))
    }

    pub fn created(&self, file: &FileInfo) -> Result<Time> {
        let link = self.link()?;
        let name = link.name(file.level, file.span);
        let (_, created) = link.head(&name)?.ok_or_else(|| super::missing(&name))?;
        Ok(created.unwrap_or(file.listed))
    }

    pub fn read(&self, level: Level, span: Span, range: Option<Range<u64>>) -> Result<Bytes> {
        if range.as_ref().is_some_and(|range| range.start >= range.end) {
            return Ok(Bytes::new());
        }
        let link = self.link()?;
        let name = link.name(level, span);
        let (store, at) = (Arc::clone(&link.store), key(&name)?);
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let body = link.call("read", &name, async move { store.get_opts(&at, options).await?.bytes().await })?;
        match range {
            Some(range) if body.len() as u64 != range.end - range.start => {
                Err(super::shorter_than(&name, &range, range.start + body.len() as u64))
            }
            _ => Ok(body),
        }
    }

    pub fn stream(&self, file: &FileInfo) -> Result<Box<dyn Read + Send>> {
        let link = self.link()?;
        let name = link.name(file.level, file.span);
        Ok(Box::new(Stream::new(link, name, file.size)?))
    }

    pub fn delete(&self, files: &[(Level, Span)]) -> Result<()> {
        let link = self.link()?;
        for batch in files.chunks(DELETE_BATCH) {
            let names = batch.iter().map(|&(level, span)| key(&link.name(level, span))).collect::<Result<Vec<_>>>()?;
            link.delete(names)?;
        }
        Ok(())
    }

    pub fn is_fenced(&self) -> Option<bool> {
        self.fence.is_fenced()
    }

    pub fn requests(&self) -> Requests {
        self.counts.read()
    }

    /// The way to the store, made at the first call: the thread, the bucket's region, the client.
    pub(super) fn link(&self) -> Result<Arc<Link>> {
        let mut slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = &*slot {
            return Ok(Arc::clone(link));
        }
        let running = self.io.running()?;
        let mut cloud = self.cloud.clone();
        if cloud.region_is_unknown() {
            let (clients, bucket) = (running.clients(&cloud.roots), cloud.bucket.clone());
            one(&self.counts.other);
            let job = Job::new(self.patience);
            let asked = running.call(&job, async move { region::ask(&clients, region::GLOBAL, &bucket).await });
            let context = Context { url: &self.url, cloud: &cloud, home: region::GLOBAL, job: &job };
            let found = asked.map_err(|lost| context.lost("ask for its region", lost))??;
            cloud.set_region(found);
        }
        // A request fails a little before who waits for it loses patience, so that the reason is known.
        let (store, wire) = cloud.build(&running, &self.counts, self.patience * 4 / 5)?;
        let (url, patience) = (self.url.clone(), self.patience);
        let link = Arc::new(Link { store, wire, cloud, url, patience, running });
        *slot = Some(Arc::clone(&link));
        Ok(link)
    }
}

impl Link {
    /// Full name of a file in the bucket.
    pub fn name(&self, level: Level, span: Span) -> String {
        format!("{}/{}", self.cloud.level(level), span.file_name())
    }

    /// Runs `future` on the I/O thread and explains what went wrong while doing `what` to `name`.
    pub fn call<T: Send + 'static>(
        &self,
        what: &str,
        name: &str,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.explain(what, name, self.attempt(future))
    }

    /// Runs `future` on the I/O thread and waits for it.
    pub fn attempt<T: Send + 'static>(
        &self,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Attempt<T> {
        let (job, task) = self.spawn(future);
        Attempt { job, outcome: task.wait() }
    }

    /// Starts `future` on the I/O thread.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> (Arc<Job>, Task<object_store::Result<T>>) {
        let job = Job::new(self.patience);
        let task = self.running.spawn(Arc::clone(&job), future);
        (job, task)
    }

    /// An attempt in our own words.
    pub fn explain<T>(&self, what: &str, name: &str, attempt: Attempt<T>) -> Result<T> {
        let context = Context { url: &self.url, cloud: &self.cloud, home: &self.wire.home, job: &attempt.job };
        match attempt.outcome {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(context.error(what, name, error)),
            Err(lost) => Err(context.lost(what, lost)),
        }
    }

    /// Size and creation time by metadata; `None` where there is no such object.
    pub fn head(&self, name: &str) -> Result<Option<(u64, Option<Time>)>> {
        let (store, at) = (Arc::clone(&self.store), key(name)?);
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.call("look up", name, async move { store.get_opts(&at, options).await }) {
            Ok(found) => {
                let stamp = found.attributes.get(&Attribute::Metadata(self.cloud.timestamp_key().into()));
                Ok(Some((found.meta.size, stamp.and_then(|text| Time::parse(text).ok()))))
            }
            Err(Error::NoBackup(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Deletes; what is gone already is no error.
    pub fn delete(&self, names: Vec<Key>) -> Result<()> {
        let store = Arc::clone(&self.store);
        let first = names.first().map(|name| name.to_string()).unwrap_or_default();
        self.call("delete", &first, async move {
            let mut answers = store.delete_stream(futures_util::stream::iter(names.into_iter().map(Ok)).boxed());
            let mut failed = None;
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => failed = Some(e),
                }
            }
            failed.map_or(Ok(()), Err)
        })
    }
}

/// A name as object_store wants it, byte for byte as given.
pub(super) fn key(name: &str) -> Result<Key> {
    Key::parse(name).map_err(|e| Error::Usage(format!("`{name}` cannot be the name of an object: {e}")))
}
