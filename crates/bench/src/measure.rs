//! Counting: operations, entries, and how long each operation took.

use std::time::Duration;

use cairn_env::Env;

use crate::histogram::Histogram;

/// What one caller saw, from its first operation to its last.
pub(crate) struct Tally {
    latencies_ns: Histogram,
    entries: u64,
    started: Duration,
    ended: Duration,
}

/// What a workload did, over all its callers.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Operations done.
    pub operations: u64,
    /// Entries read or written by them.
    pub entries: u64,
    /// From the first operation's start to the last one's end.
    pub elapsed: Duration,
    /// Half of all operations took at most this, in nanoseconds.
    pub p50_ns: u64,
    /// 99 in 100 took at most this.
    pub p99_ns: u64,
    /// 999 in 1,000 took at most this.
    pub p999_ns: u64,
    /// The slowest took this.
    pub max_ns: u64,
}

impl Measurement {
    /// Operations per second, all callers together.
    pub fn operations_per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Entries per second, all callers together.
    pub fn entries_per_second(&self) -> f64 {
        self.entries as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(crate) fn of(tallies: Vec<Tally>) -> Measurement {
        let mut all = Histogram::new();
        let mut entries = 0;
        let started = tallies.iter().map(|tally| tally.started).min().unwrap_or_default();
        let ended = tallies.iter().map(|tally| tally.ended).max().unwrap_or_default();
        for tally in tallies {
            entries += tally.entries;
            all.add(&tally.latencies_ns);
        }
        Measurement {
            operations: all.count(),
            entries,
            elapsed: ended.saturating_sub(started),
            p50_ns: all.quantile(500),
            p99_ns: all.quantile(990),
            p999_ns: all.quantile(999),
            max_ns: all.max(),
        }
    }
}

impl Tally {
    pub(crate) fn start(env: &Env) -> Tally {
        let now = env.now();
        Tally { latencies_ns: Histogram::new(), entries: 0, started: now, ended: now }
    }

    /// Counts one operation.
    pub(crate) fn operation(&mut self, began: Duration, ended: Duration, entries: u64) {
        let latency = u64::try_from(ended.saturating_sub(began).as_nanos()).unwrap_or(u64::MAX);
        self.latencies_ns.record(latency);
        self.entries += entries;
        self.ended = ended;
    }
}
