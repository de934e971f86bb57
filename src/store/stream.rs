//! Reading an object from its start: ranged GETs that run ahead of the reader and are taken up where they broke.
//!
//! Memory is bounded by `STREAM_AHEAD` chunks of `STREAM_CHUNK`. Dropped, it cancels what runs ahead.

use super::io::Task;
use super::job::{JOB, Job, What};
use super::object::{Attempt, Link, key};
use crate::error::{Error, Result};
use crate::limits::{STREAM_AHEAD, STREAM_BACKOFF, STREAM_CHUNK, STREAM_RETRIES};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore};
use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

pub(super) struct Stream {
    link: Arc<Link>,
    name: String,
    key: Key,
    size: u64,
    /// Where the next chunk to ask for begins.
    next: u64,
    ahead: VecDeque<Chunk>,
    current: Bytes,
    /// What ended it: the answer to every further read, rather than bytes from behind the hole or an end.
    failed: Option<Error>,
}

struct Chunk {
    range: Range<u64>,
    job: Arc<Job>,
    task: Task<object_store::Result<Bytes>>,
}

impl Stream {
    pub fn new(link: Arc<Link>, name: String, size: u64) -> Result<Stream> {
        let key = key(&name)?;
        Ok(Stream { link, name, key, size, next: 0, ahead: VecDeque::new(), current: Bytes::new(), failed: None })
    }

    fn run_ahead(&mut self) {
        while self.ahead.len() < STREAM_AHEAD && self.next < self.size {
            let range = self.next..self.size.min(self.next + STREAM_CHUNK);
            self.next = range.end;
            let (store, key) = (Arc::clone(&self.link.store), self.key.clone());
            let (job, task) = self.link.spawn(fetch(store, key, range.clone()));
            self.ahead.push_back(Chunk { range, job, task });
        }
    }

    /// The next chunk; `None` at the end.
    fn advance(&mut self) -> Result<Option<Bytes>> {
        self.run_ahead();
        let Some(chunk) = self.ahead.pop_front() else { return Ok(None) };
        let outcome = chunk.task.wait();
        let bytes = self.link.explain("read", &self.name, Attempt { job: chunk.job, outcome })?;
        if (bytes.len() as u64) < chunk.range.end - chunk.range.start {
            return Err(super::shorter_than(&self.name, &chunk.range, chunk.range.start + bytes.len() as u64));
        }
        self.run_ahead();
        Ok(Some(bytes))
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            if let Some(e) = &self.failed {
                return Err(std::io::Error::other(e.clone()));
            }
            match self.advance() {
                Ok(Some(bytes)) => self.current = bytes,
                Ok(None) => return Ok(0),
                Err(e) => {
                    self.ahead.clear();
                    self.failed = Some(e);
                }
            }
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// One chunk, taken up again behind the last byte that came.
async fn fetch(store: Arc<dyn ObjectStore>, key: Key, range: Range<u64>) -> object_store::Result<Bytes> {
    let mut got = BytesMut::with_capacity((range.end - range.start) as usize);
    let mut fruitless = 0;
    loop {
        let before = got.len();
        let failed = match fetch_into(&store, &key, range.start + got.len() as u64..range.end, &mut got).await {
            Ok(()) => return Ok(got.freeze()),
            Err(e) => e,
        };
        fruitless = if got.len() > before { 1 } else { fruitless + 1 };
        if fruitless > STREAM_RETRIES || !matches!(failed, object_store::Error::Generic { .. }) || is_final() {
            return Err(failed);
        }
        tokio::time::sleep(STREAM_BACKOFF * 2u32.pow(fruitless - 1)).await;
    }
}

async fn fetch_into(
    store: &Arc<dyn ObjectStore>,
    key: &Key,
    range: Range<u64>,
    got: &mut BytesMut,
) -> object_store::Result<()> {
    if range.start >= range.end {
        return Ok(());
    }
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let mut body = store.get_opts(key, options).await?.into_stream();
    while let Some(part) = body.next().await {
        got.extend_from_slice(&part?);
    }
    Ok(())
}

/// True where the last answer says that asking again is of no use.
fn is_final() -> bool {
    let failure = JOB.try_with(|job| job.failure()).ok().flatten();
    matches!(failure.map(|f| f.what), Some(What::Status { status, .. }) if (400..500).contains(&status) && status != 408 && status != 429)
}
