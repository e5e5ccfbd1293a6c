//! Calls at a steady pace.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use cairn_bench::Histogram;

use crate::measure::nanos;

/// Says when the next call is due.
pub struct Pace {
    due: Instant,
    interval: Duration,
}

impl Pace {
    /// So many calls a second, from now on, by this thread.
    pub fn start(per_second: u64) -> Pace {
        // So that a sleep ends some microseconds late and not some ten; where that is refused, all engines wait alike.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let interval = Duration::from_secs(1) / u32::try_from(per_second).unwrap_or(u32::MAX).max(1);
        Pace { due: Instant::now(), interval }
    }

    /// Waits until a call is due, makes it, and counts the time from when it was due: whoever falls behind makes
    /// up for it, and a stall is counted for every call that it delays.
    pub fn time_from_due<T>(&mut self, latencies: &mut Histogram, call: impl FnOnce() -> T) -> T {
        std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
        let answer = call();
        latencies.record(nanos(self.due.elapsed()));
        self.due += self.interval;
        answer
    }

    /// Waits until a call is due. Calls that fell due meanwhile are left out.
    pub fn wait(&mut self) {
        std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
        self.due = Instant::now().max(self.due + self.interval);
    }
}
