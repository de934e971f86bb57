//! The pause before the next try of what failed: doubles from a first one to a longest, each with a part that is left to
//! chance, so that many processes do not come back at once.
//!
//! Not its business: what failed, and whether it is tried again.

use std::time::Duration;

/// Doublings after which the longest pause is reached in any case.
const DOUBLINGS: u32 = 16;

/// How often in a row something failed, and the pauses that follow from it.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first and the longest pause.
    pub(crate) fn new((first, longest): (Duration, Duration)) -> Backoff {
        Backoff { first, longest, failures: 0 }
    }

    /// It went well: the next pause is a first one.
    pub(crate) fn over(&mut self) {
        self.failures = 0;
    }

    /// The last try failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// It failed: how long to wait, between half of the pause and all of it, as `chance` says.
    pub(crate) fn failed(&mut self, chance: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doubled = self.first.saturating_mul(1 << (self.failures - 1).min(DOUBLINGS));
        doubled.min(self.longest).mul_f64(0.5 + (chance % 1000) as f64 / 2000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: pauses double up to the longest, stay within their half, and begin anew. Method: every chance's ends.
    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let limits = (Duration::from_millis(100), Duration::from_millis(500));
        let (mut least, mut most) = (Backoff::new(limits), Backoff::new(limits));
        assert!(!least.is_failing());
        for expected in [100, 200, 400, 500, 500] {
            let expected = Duration::from_millis(expected);
            assert_eq!(least.failed(0), expected / 2);
            let pause = most.failed(999);
            assert!(pause > expected.mul_f64(0.99) && pause <= expected, "{pause:?} of {expected:?}");
        }
        assert!(least.is_failing());
        for _ in 0..100 {
            assert_eq!(least.failed(0), limits.1 / 2, "also after more failures than a number has bits");
        }
        least.over();
        assert!(!least.is_failing());
        assert_eq!(least.failed(0), limits.0 / 2);
    }
}
