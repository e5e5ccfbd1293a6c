//! When to try again after a failure.

use crate::id::Millis;

/// No delay is longer than a day: a retry strategy is no calendar, and a wild number in one must not
/// put a task out of everybody's sight.
pub const DELAY_MS_MAX: Millis = 86_400_000;

/// A retry strategy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Retry {
    /// At once.
    None,
    /// After the same delay every time.
    Fixed {
        /// The delay.
        base_ms: Millis,
        /// Which part of the delay is drawn at random, from 0 to 1.
        jitter: f64,
    },
    /// After a delay that grows with each attempt.
    Exponential {
        /// The delay after the first attempt.
        base_ms: Millis,
        /// What each further attempt multiplies it by; at least 1.
        factor: f64,
        /// It does not grow beyond this.
        max_ms: Millis,
        /// Which part of the delay is drawn at random, from 0 to 1.
        jitter: f64,
    },
}

impl Default for Retry {
    /// From a second to five minutes, doubling, with a fifth of it drawn at random, so that what failed
    /// together is not tried again together.
    fn default() -> Retry {
        Retry::Exponential { base_ms: 1_000, factor: 2.0, max_ms: 300_000, jitter: 0.2 }
    }
}

impl Retry {
    /// Which field of it is wrong and what must hold of it, for who spawned the task with it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let (factor, jitter) = match *self {
            Retry::None => (1.0, 0.0),
            Retry::Fixed { jitter, .. } => (1.0, jitter),
            Retry::Exponential { factor, jitter, .. } => (factor, jitter),
        };
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(("factor", "must be a number from 1 on"));
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(("jitter", "must be a number from 0 to 1"));
        }
        Ok(())
    }

    /// How long to wait after an attempt (from 1) that failed. `random` decides the jitter, which only
    /// ever shortens the delay. At most [`DELAY_MS_MAX`], whatever the numbers.
    pub fn delay_ms(&self, attempt: u32, random: u64) -> Millis {
        let (longest, jitter) = match *self {
            Retry::None => return 0,
            Retry::Fixed { base_ms, jitter } => (base_ms as f64, jitter),
            Retry::Exponential { base_ms, factor, max_ms, jitter } => {
                let grown = base_ms as f64 * factor.powf(f64::from(attempt.saturating_sub(1)));
                (grown.min(max_ms as f64), jitter)
            }
        };
        let drawn = random as f64 / u64::MAX as f64;
        let delay = longest.min(DELAY_MS_MAX as f64) * (1.0 - jitter * drawn);
        // A cast from a float saturates, and makes 0 of what is no number.
        (delay as Millis).min(DELAY_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Retry = Retry::Exponential { base_ms: 1_000, factor: 2.0, max_ms: 10_000, jitter: 0.0 };

    #[test]
    fn delays_grow_to_their_bound() {
        let delays = |retry: Retry| [1, 2, 3, 4, 5, u32::MAX].map(|attempt| retry.delay_ms(attempt, 0));
        assert_eq!(delays(Retry::None), [0; 6]);
        assert_eq!(delays(Retry::Fixed { base_ms: 700, jitter: 0.0 }), [700; 6]);
        assert_eq!(delays(PLAIN), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    }

    #[test]
    fn jitter_only_shortens_and_by_its_part() {
        let retry = Retry::Fixed { base_ms: 1_000, jitter: 0.25 };
        assert_eq!(retry.delay_ms(1, 0), 1_000);
        assert_eq!(retry.delay_ms(1, u64::MAX), 750);
        assert_eq!(retry.delay_ms(1, u64::MAX / 2), 875);
    }

    /// In the model system one delay of 1e18 seconds broke every claim of its queue.
    #[test]
    fn wild_numbers_come_to_a_day_at_most() {
        let wild = [Millis::MAX, 1 << 60, 0];
        let factors = [1.0, 1e300, f64::MAX, f64::INFINITY, f64::NAN, -5.0];
        for base_ms in wild {
            assert!(Retry::Fixed { base_ms, jitter: f64::NAN }.delay_ms(1, 7) <= DELAY_MS_MAX);
            for factor in factors {
                for max_ms in wild {
                    for jitter in [0.0, 1.0, -1e9, f64::NAN] {
                        let retry = Retry::Exponential { base_ms, factor, max_ms, jitter };
                        for attempt in [0, 1, 2, 60, u32::MAX] {
                            assert!(retry.delay_ms(attempt, u64::MAX) <= DELAY_MS_MAX, "{retry:?}");
                        }
                    }
                }
            }
        }
        assert!(Retry::Exponential { base_ms: 1, factor: f64::NAN, max_ms: 1, jitter: 0.0 }.check().is_err());
        assert!(Retry::Exponential { base_ms: 1, factor: 0.5, max_ms: 1, jitter: 0.0 }.check().is_err());
        assert!(Retry::Fixed { base_ms: 1, jitter: 1.5 }.check().is_err());
        assert!(Retry::default().check().is_ok() && PLAIN.check().is_ok());
    }
}
