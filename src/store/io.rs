//! The I/O thread of a process life.

/// The one thread that talks to object stores, started when the first call needs it.
#[derive(Clone, Default)]
pub struct Io {}

impl Io {
    /// No thread yet.
    pub fn new() -> Io {
        Io::default()
    }
}
