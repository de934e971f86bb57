//! Whether a store keeps its promise not to replace: asked once, with an object that no reader takes for a backup.
//!
//! Some servers accept the condition and ignore it. Where one does, every put looks first, and the status says
//! that the replica is not fenced against a second writer.

use super::object::{Link, key};
use super::upload::{Sent, Target};
use crate::clock::Time;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The object of the probe.
const PROBE: &str = "litestream-vfs.probe";

const CONTENT: &[u8] = b"litestream-vfs asks whether conditions are kept";

/// What is known of a store's conditions. Asking is serialized; looking (for a status) never waits for it.
#[derive(Default)]
pub(super) struct Fence {
    asking: Mutex<()>,
    single: OnceLock<bool>,
    multipart: OnceLock<bool>,
}

impl Fence {
    /// `None` before the first put.
    pub fn is_fenced(&self) -> Option<bool> {
        match (self.single.get(), self.multipart.get()) {
            (None, None) => None,
            (single, multipart) => Some(*single.unwrap_or(&true) && *multipart.unwrap_or(&true)),
        }
    }

    /// True where a put of this kind never replaces. Probes at the first question; a second thread waits.
    pub fn is_honest(&self, link: &Link, multipart: bool) -> Result<bool> {
        let known = if multipart { &self.multipart } else { &self.single };
        let _asking = match known.get() {
            Some(honest) => return Ok(*honest),
            None => self.asking.lock().unwrap_or_else(PoisonError::into_inner),
        };
        if let Some(honest) = known.get() {
            return Ok(*honest);
        }
        let name = link.cloud.inside(PROBE);
        let honest = if multipart { probe_multipart(link, &name) } else { probe_single(link, &name) }?;
        if multipart {
            link.wire.conditional_completion.store(honest, Ordering::Relaxed);
        }
        if !honest {
            log::warn!(
                target: "litestream",
                "replica {} replaces objects although told not to: it is not fenced against a second writer",
                link.url
            );
        }
        Ok(*known.get_or_init(|| honest))
    }
}

/// Creates twice. Another process may delete the probe in between, so a store is called a liar only when it
/// lies about a name of this process alone.
fn probe_single(link: &Link, name: &str) -> Result<bool> {
    let honest = refuses_second(link, name)?;
    forget(link, name)?;
    if honest {
        return Ok(true);
    }
    let own = format!("{name}.{:x}.{}", std::process::id(), Time::now().0);
    let honest = refuses_second(link, &own)?;
    forget(link, &own)?;
    Ok(honest)
}

fn refuses_second(link: &Link, name: &str) -> Result<bool> {
    for _ in 0..2 {
        match link.send_single(&probe(name), Bytes::from_static(CONTENT), true)? {
            Sent::Exists => return Ok(true),
            Sent::Unknown => return Ok(false),
            Sent::Stored => {}
        }
    }
    Ok(false)
}

/// Completes a multipart upload over an object that is there.
fn probe_multipart(link: &Link, name: &str) -> Result<bool> {
    let own = format!("{name}.{:x}.{}", std::process::id(), Time::now().0);
    link.send_single(&probe(&own), Bytes::from_static(CONTENT), false)?;
    let sent = link.send_parts(&probe(&own), &mut &CONTENT[..], CONTENT.len() as u64);
    forget(link, &own)?;
    match sent {
        Ok(Sent::Exists) => Ok(true),
        Ok(Sent::Stored | Sent::Unknown) => Ok(false),
        Err(e @ (Error::Unreachable(_) | Error::Timeout(_) | Error::State(_))) => Err(e),
        // It refuses the condition, or multipart uploads altogether; the upload itself will tell.
        Err(_) => Ok(false),
    }
}

/// Left behind where deleting is not allowed: the next probe finds it and asks the less.
fn forget(link: &Link, name: &str) -> Result<()> {
    if let Err(e) = link.delete(vec![key(name)?]) {
        log::debug!(target: "litestream", "the probe {name} stays: {e}");
    }
    Ok(())
}

fn probe(name: &str) -> Target<'_> {
    Target { name, created: Time(0) }
}
