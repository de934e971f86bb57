//! The bar of a restore that a person waits for: on a terminal, after a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use litestream_engine::restore::Progress;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Restores that are quicker show nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that may yet appear.
pub struct Bar {
    began: Instant,
    terminal: bool,
    bar: OnceLock<ProgressBar>,
}

impl Bar {
    /// Nothing is drawn yet, and nothing ever where stderr is no terminal.
    pub fn new() -> Bar {
        Bar { began: Instant::now(), terminal: std::io::stderr().is_terminal(), bar: OnceLock::new() }
    }

    /// The restore went on.
    pub fn show(&self, progress: Progress) {
        if !self.terminal || progress.total == 0 || self.began.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_init(|| {
            let style = ProgressStyle::with_template(
                "restoring {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            );
            let bar = ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_length(progress.total);
        bar.set_position(progress.written);
    }

    /// Takes the bar away, so that what is said next stands alone.
    pub fn clear(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
