//! Points in time, in milliseconds, as LTX headers and object metadata hold them.
//!
//! Decisions and formats take a `Time` as an argument; only what acts reads the clock, by [`Time::now`].

use crate::error::{Error, Result};
use chrono::{DateTime, SecondsFormat, Utc};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// The system's clock.
    pub fn now() -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Time(since.map_or(0, |since| since.as_millis() as i64))
    }

    /// RFC 3339 in UTC, whole seconds without a fraction, otherwise with trailing zeros cut:
    /// `2026-11-20T14:30:53.36Z`.
    pub fn rfc3339(self) -> String {
        let Some(time) = DateTime::<Utc>::from_timestamp_millis(self.0) else { return format!("{} ms", self.0) };
        let text = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let Some((seconds, fraction)) = text.trim_end_matches('Z').split_once('.') else { return text };
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { format!("{seconds}Z") } else { format!("{seconds}.{fraction}Z") }
    }

    /// Parses RFC 3339 with any offset; finer than a millisecond is rounded down.
    pub fn parse(text: &str) -> Result<Time> {
        DateTime::parse_from_rfc3339(text).map(|time| Time(time.timestamp_millis())).map_err(|e| {
            Error::Usage(format!("`{text}` is not a time in RFC 3339, for example 2026-11-20T14:30:53Z: {e}"))
        })
    }

    /// Seconds from `earlier` to this, never negative.
    pub fn seconds_since(self, earlier: Time) -> f64 {
        (self.0 - earlier.0).max(0) as f64 / 1000.0
    }
}
