//! Durations as Go writes them, and bytes with a unit.

use std::time::Duration;

/// Longest duration that makes sense to anybody: a hundred years.
const LONGEST: f64 = 100.0 * 365.0 * 24.0 * 3600.0;

const DURATION_EXAMPLE: &str = "is not a duration: write it with a unit, for example 500ms, 1s, 1m30s or 1h";
const BYTES_EXAMPLE: &str = "is not a number of bytes: write for example 268435456, 256MiB or 1GB";

/// A duration: `1s`, `500ms`, `1m30s`, `1.5h`, `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(DURATION_EXAMPLE.to_string()),
        };
        let number: f64 = number.parse().map_err(|_| DURATION_EXAMPLE.to_string())?;
        seconds += number * unit;
        rest = tail;
    }
    if text.is_empty() {
        return Err(DURATION_EXAMPLE.to_string());
    }
    if seconds > LONGEST {
        return Err("is longer than a hundred years".to_string());
    }
    // Whole nanoseconds, so that 1.1s is 1.1 s.
    Ok(Duration::from_nanos((seconds * 1e9).round() as u64))
}

/// A duration, or `off` or zero for none.
pub fn duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    match text.eq_ignore_ascii_case("off") {
        true => Ok(None),
        false => Ok(Some(duration(text)?).filter(|duration| !duration.is_zero())),
    }
}

/// Intervals of the compaction levels: `30s,5m,1h`; at most eight, each longer than the one before.
pub fn levels(text: &str) -> Result<Vec<Duration>, String> {
    let levels = text.split(',').map(|part| duration(part.trim())).collect::<Result<Vec<_>, _>>()?;
    let ascends =
        levels.windows(2).all(|pair| pair[0] < pair[1]) && levels.first().is_some_and(|first| !first.is_zero());
    if levels.len() > 8 || !ascends {
        return Err(
            "must be one to eight intervals, each longer than the one before, for example 30s,5m,1h".to_string()
        );
    }
    Ok(levels)
}

/// Yes or no, as people write it.
pub fn yes(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false".to_string()),
    }
}

/// Bytes: plain, or with `KB`, `MB`, `GB`, `TB` (thousands) or `KiB`, `MiB`, `GiB`, `TiB` (1024s).
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000 * 1000,
        "g" | "gb" => 1000 * 1000 * 1000,
        "t" | "tb" => 1000 * 1000 * 1000 * 1000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return Err(BYTES_EXAMPLE.to_string()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| BYTES_EXAMPLE.to_string());
    }
    let part: f64 = number.parse().map_err(|_| BYTES_EXAMPLE.to_string())?;
    let total = part * factor as f64;
    if total < u64::MAX as f64 { Ok(total as u64) } else { Err(BYTES_EXAMPLE.to_string()) }
}
