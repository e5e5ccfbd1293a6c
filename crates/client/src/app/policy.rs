//! Spans of time and the policies made of them. The wire has whole milliseconds; what is not whole is rounded up,
//! because a timer means "not before".

use std::time::Duration;

use cairn_api::tasks::{self as wire, RetryKind};
use cairn_env::Env;

/// No delay is longer than a day.
const DELAY_MAX: Duration = Duration::from_secs(86_400);

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// How long to wait after a failed attempt; how often is `max_attempts`. For a task the server keeps it, for a step
/// the worker. Delays end at one day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry(pub(crate) wire::Retry);

impl Retry {
    /// Again at once.
    pub fn none() -> Retry {
        Retry(wire::Retry { kind: RetryKind::None, base_ms: 0, factor: 1.0, max_ms: 0, jitter: 0.0 })
    }

    /// Always after the same delay.
    pub fn fixed(delay: Duration) -> Retry {
        let max_ms = millis(DELAY_MAX);
        Retry(wire::Retry { kind: RetryKind::Fixed, base_ms: millis(delay), factor: 1.0, max_ms, jitter: 0.0 })
    }

    /// `base`, then twice as long each time, up to a day.
    pub fn exponential(base: Duration) -> Retry {
        let max_ms = millis(DELAY_MAX);
        Retry(wire::Retry { kind: RetryKind::Exponential, base_ms: millis(base), factor: 2.0, max_ms, jitter: 0.0 })
    }

    /// What each further attempt multiplies the delay by; from 1 on.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Retry {
        self.0.factor = factor;
        self
    }

    /// The delay does not grow beyond this.
    #[must_use]
    pub fn max(mut self, max: Duration) -> Retry {
        self.0.max_ms = millis(max);
        self
    }

    /// The part of a delay that is left to chance, 0 to 1; it only shortens.
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Retry {
        self.0.jitter = part;
        self
    }

    /// The delay after the attempt number `failed`, from 1. The same as the server's for a task, which a test compares.
    pub(crate) fn delay(&self, failed: u32, random: u64) -> Duration {
        let wire::Retry { kind, base_ms, factor, max_ms, jitter } = self.0;
        let longest = match kind {
            RetryKind::None => return Duration::ZERO,
            RetryKind::Fixed => base_ms as f64,
            RetryKind::Exponential => {
                (base_ms as f64 * factor.powf(f64::from(failed.saturating_sub(1)))).min(max_ms as f64)
            }
        };
        let drawn = random as f64 / u64::MAX as f64;
        let delay = longest.min(millis(DELAY_MAX) as f64) * (1.0 - jitter * drawn);
        // A cast from a float saturates, and makes 0 of what is no number.
        Duration::from_millis(delay as u64).min(DELAY_MAX)
    }
}

impl Default for Retry {
    /// As the server retries a task of which nothing is said: from one second to five minutes, doubling, with a fifth left
    /// to chance.
    fn default() -> Retry {
        Retry::exponential(Duration::from_secs(1)).max(Duration::from_secs(300)).jitter(0.2)
    }
}

/// Growing pauses between calls to a server that does not answer, half of each by chance.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);

    pub(crate) fn new() -> Backoff {
        Backoff::up_to(Duration::from_secs(5))
    }

    pub(crate) fn up_to(max: Duration) -> Backoff {
        Backoff { next: Backoff::FIRST, max }
    }

    pub(crate) fn next(&mut self, env: &Env) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause.mul_f64(0.5 + env.random_u64() as f64 / u64::MAX as f64 / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        self.next = Backoff::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_up() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_millis(2)), 2);
        assert_eq!(millis(Duration::MAX), u64::MAX);
    }

    /// The step's delays are made here, the task's by the server: two copies of one rule.
    #[cfg(feature = "embedded")]
    #[test]
    fn delays_are_those_of_the_server() {
        use cairn_durable::retry::Retry as Theirs;
        let s = Duration::from_secs;
        let mine = Retry::exponential(s(3)).factor(3.5).max(s(100)).jitter(0.3);
        let theirs = Theirs::Exponential { base_ms: 3_000, factor: 3.5, max_ms: 100_000, jitter: 0.3 };
        let wild = Retry::exponential(Duration::MAX).factor(f64::INFINITY).jitter(f64::NAN);
        let wild_too = Theirs::Exponential {
            base_ms: u64::MAX,
            factor: f64::INFINITY,
            max_ms: millis(DELAY_MAX),
            jitter: f64::NAN,
        };
        for failed in [1, 2, 3, 10, 1_000, u32::MAX] {
            for random in [0, 1 << 40, u64::MAX / 3, u64::MAX] {
                for (mine, theirs) in [
                    (mine, theirs),
                    (wild, wild_too),
                    (Retry::none(), Theirs::None),
                    (Retry::fixed(s(7)).jitter(1.0), Theirs::Fixed { base_ms: 7_000, jitter: 1.0 }),
                ] {
                    assert_eq!(millis(mine.delay(failed, random)), theirs.delay_ms(failed, random), "{mine:?}");
                }
            }
        }
    }
}
