//! Points in time, in milliseconds, as LTX headers and object metadata hold them.
//!
//! Decisions and formats take a `Time` as an argument; only what acts reads the clock, by [`Time::now`].

use crate::error::{Error, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use std::cell::Cell;
use std::time::{Duration, Instant};

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

    /// So much later.
    pub fn later(self, pause: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Seconds from `earlier` to this, never negative.
    pub fn seconds_since(self, earlier: Time) -> f64 {
        (self.0 - earlier.0).max(0) as f64 / 1000.0
    }
}

/// A replica's clock, which never goes back: the system's. While that is behind what was dated already, because somebody
/// set it, it goes on half as fast as time goes by: intervals end all the same, and the system's clock catches up.
#[derive(Debug)]
pub(crate) struct Onward(Cell<(Time, Instant)>);

impl Onward {
    /// Begins where the system's clock is.
    pub(crate) fn new() -> Onward {
        Onward(Cell::new((Time::now(), Instant::now())))
    }

    /// The time now, not before `dated`, the newest time that is in use.
    pub(crate) fn now(&self, dated: Time) -> Time {
        let now = Instant::now();
        let (time, since) = onward(self.0.get(), (Time::now(), now), dated);
        self.0.set((time, since));
        slowly(time, since, now)
    }
}

/// Where the clock goes on from: what it said, unless the system's clock or something dated is beyond that.
fn onward(before: (Time, Instant), system: (Time, Instant), dated: Time) -> (Time, Instant) {
    let beyond = system.0.max(dated);
    if beyond >= slowly(before.0, before.1, system.1) { (beyond, system.1) } else { before }
}

fn slowly(time: Time, since: Instant, now: Instant) -> Time {
    let passed = now.saturating_duration_since(since).as_millis() / 2;
    Time(time.0.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Goal: a clock that is set back stops nothing and takes nothing back. Method: an hour after it was set back by a day
    /// it went on by half an hour; when the system's clock is beyond it, that counts, and so does a file dated later.
    #[test]
    fn a_clock_that_is_set_back_goes_on_at_half_its_pace() {
        const HOUR: i64 = 3_600_000;
        let began = Instant::now();
        let after = |hours: i64| began + Duration::from_millis((hours * HOUR) as u64);
        let day = (Time(24 * HOUR), began);
        let an_hour_later = onward(day, (Time(HOUR), after(1)), Time(24 * HOUR - 1));
        assert_eq!(an_hour_later, day, "it goes on from there");
        assert_eq!(slowly(day.0, day.1, after(1)), Time(24 * HOUR + HOUR / 2));
        assert_eq!(
            onward(day, (Time(49 * HOUR), after(49)), day.0),
            (Time(49 * HOUR), after(49)),
            "it was caught up with"
        );
        assert_eq!(onward(day, (Time(HOUR), after(1)), Time(30 * HOUR)), (Time(30 * HOUR), after(1)));
    }
}
