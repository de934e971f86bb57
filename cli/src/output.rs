//! What the person reads: results on stdout, complaints on stderr.
//!
//! Lines about the course of things look as Litestream's do. They go to stdout, where its users look for them,
//! except where stdout is JSON.

use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use serde_json::Value;
use std::io::Write;

/// Why the program ends with 1.
pub struct Failure {
    /// After `Error: `.
    pub text: String,
    /// After `Try: `.
    pub hint: Option<String>,
}

impl Failure {
    /// Without a hint.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), hint: None }
    }

    /// With a command that would work.
    pub fn with_hint(text: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { text: text.into(), hint: Some(hint.into()) }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::new(e.to_string())
    }
}

/// A result on stdout. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(format!("write to stdout: {e}"))),
        _ => Ok(()),
    }
}

/// A result as JSON, indented by two.
pub fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Where a line about the course of things goes.
#[derive(Clone, Copy)]
pub struct Notes {
    /// stdout is for JSON alone.
    pub json: bool,
}

impl Notes {
    /// A line that something happened as it should.
    pub fn info(self, message: &str) {
        let line = line("INFO", message);
        // The line is a courtesy: where nobody reads it, nothing is lost.
        let _ = if self.json {
            std::io::stderr().write_all(line.as_bytes())
        } else {
            std::io::stdout().write_all(line.as_bytes())
        };
    }

    /// A line that the person should think about, always on stderr.
    pub fn warn(self, message: &str) {
        warn(message);
    }
}

/// The same without a choice: always on stderr.
pub fn warn(message: &str) {
    // Nothing is left to say it to where stderr is closed.
    let _ = std::io::stderr().write_all(line("WARN", message).as_bytes());
}

fn line(level: &str, message: &str) -> String {
    format!("time={} level={level} msg={message:?}\n", Time::now().rfc3339())
}

/// Rows below a head, columns as wide as they need to be and two spaces between.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(head[column].len());
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let format = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = format(&mut head.iter().copied());
    for row in rows {
        text += &format(&mut row.iter().map(String::as_str));
    }
    text
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, about: &log::Metadata<'_>) -> bool {
        about.level() <= log::Level::Warn && about.target().starts_with("litestream")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            warn(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The engine's warnings go to stderr.
pub fn install_log() {
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}
