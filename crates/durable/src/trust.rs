//! The wall clock, as far as it is believed when it comes to removing something.
//!
//! A clock set days ahead by mistake must not remove at once what is to be kept for days. So whoever removes goes
//! by [`Trusted`]: when the wall clock jumps forward by more than [`JUMP_MS`] against the monotonic one, time passes
//! here as the monotonic one says until that has gone on for [`PATIENCE`] without another jump. A clock that is set
//! back meanwhile has cost nothing. A clock that is set back is believed at once: what is removed later is not lost.
//!
//! Refuses to know better at the start: what the clock says then is believed: nobody knows for how long nothing ran.

use std::time::Duration;

use crate::id::Millis;

/// More than that is a jump.
const JUMP_MS: Millis = 3_600_000;
/// A jump is believed after so long.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What is believed.
#[derive(Debug)]
pub(crate) struct Trusted {
    /// When the clock was last looked at,
    at: Duration,
    /// what it said,
    wall_ms: Millis,
    /// and what was believed.
    believed_ms: Millis,
    /// It has jumped, and is not believed before.
    doubted_until: Option<Duration>,
}

impl Trusted {
    /// The clock as it stands.
    pub(crate) fn new(now: Duration, wall_ms: Millis) -> Trusted {
        Trusted { at: now, wall_ms, believed_ms: wall_ms, doubted_until: None }
    }

    /// Looks at the clock. The time by which is removed; it is never ahead of the clock.
    pub(crate) fn look(&mut self, now: Duration, wall_ms: Millis) -> Millis {
        let passed_ms = Millis::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(Millis::MAX);
        let jumped = wall_ms > self.wall_ms.saturating_add(passed_ms).saturating_add(JUMP_MS);
        if jumped && !cairn_env::mutant("clock-jump-believed") {
            self.doubted_until = Some(now + PATIENCE);
        }
        self.doubted_until = self.doubted_until.filter(|until| now < *until);
        self.believed_ms = match self.doubted_until {
            Some(_) => self.believed_ms.saturating_add(passed_ms).min(wall_ms),
            None => wall_ms,
        };
        (self.at, self.wall_ms) = (now, wall_ms);
        self.believed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: Millis = 24 * JUMP_MS;

    fn at(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_jump_is_believed_after_an_hour() {
        let mut trusted = Trusted::new(at(0), DAY_MS);
        assert_eq!(trusted.look(at(10), DAY_MS + 600_000), DAY_MS + 600_000);
        // An hour's jump is none; one of forty days is.
        assert_eq!(trusted.look(at(10), DAY_MS + 600_000 + JUMP_MS), DAY_MS + 600_000 + JUMP_MS);
        let ahead_ms = 40 * DAY_MS;
        let before_ms = DAY_MS + 600_000 + JUMP_MS;
        for minutes in 0..60 {
            let believed_ms = trusted.look(at(10 + minutes), before_ms + ahead_ms + 60_000 * minutes);
            assert_eq!(believed_ms, before_ms + 60_000 * minutes);
        }
        assert_eq!(trusted.look(at(70), before_ms + ahead_ms + JUMP_MS), before_ms + ahead_ms + JUMP_MS);
    }

    #[test]
    fn a_clock_that_is_set_right_again_has_cost_nothing() {
        let mut trusted = Trusted::new(at(0), DAY_MS);
        assert_eq!(trusted.look(at(1), 41 * DAY_MS), DAY_MS + 60_000);
        assert_eq!(trusted.look(at(30), DAY_MS + 1_800_000), DAY_MS + 1_800_000);
        assert_eq!(trusted.look(at(90), DAY_MS + 5_400_000), DAY_MS + 5_400_000);
    }

    /// Each jump has its own hour.
    #[test]
    fn another_jump_is_not_believed_for_the_sake_of_the_first() {
        let mut trusted = Trusted::new(at(0), DAY_MS);
        assert_eq!(trusted.look(at(0), DAY_MS + 2 * JUMP_MS), DAY_MS);
        assert_eq!(trusted.look(at(59), 41 * DAY_MS), DAY_MS + 59 * 60_000);
        assert_eq!(trusted.look(at(61), 41 * DAY_MS + 120_000), DAY_MS + 61 * 60_000);
        assert_eq!(trusted.look(at(119), 41 * DAY_MS + JUMP_MS), 41 * DAY_MS + JUMP_MS);
    }

    #[test]
    fn a_clock_that_is_set_back_is_believed_at_once() {
        let mut trusted = Trusted::new(at(0), 41 * DAY_MS);
        assert_eq!(trusted.look(at(1), DAY_MS), DAY_MS);
        // So what it says when it is set right is a jump.
        assert_eq!(trusted.look(at(2), 41 * DAY_MS), DAY_MS + 60_000);
        assert_eq!(trusted.look(at(62), 41 * DAY_MS + JUMP_MS), 41 * DAY_MS + JUMP_MS);
    }

    /// Nobody looks while a disk is slow: the time of both clocks has passed.
    #[test]
    fn a_long_silence_is_no_jump() {
        let mut trusted = Trusted::new(at(0), DAY_MS);
        assert_eq!(trusted.look(at(60 * 24 * 9), 10 * DAY_MS), 10 * DAY_MS);
    }
}
