//! Reads of ranges.

use cairn_bench::Histogram;

use super::Bench;
use crate::data::{Checker, Data, Key};
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, add_rate, per_second};

/// Entries of a short scan.
const ENTRIES: u64 = 100;

/// Checks that the entries of one scan follow one another.
pub struct Order<'a, 'b> {
    checker: &'b mut Checker<'a>,
    reverse: bool,
    last_key: Option<Key>,
    /// The number of the next key, if only loaded keys exist.
    next: Option<u64>,
}

impl<'a, 'b> Order<'a, 'b> {
    /// A scan that begins at the key `first`; that no key is left out is checked while all are as loaded.
    pub fn new(data: &Data, checker: &'b mut Checker<'a>, first: u64, reverse: bool) -> Order<'a, 'b> {
        Order { checker, reverse, last_key: None, next: data.is_as_loaded().then_some(first) }
    }

    /// A scan over keys of which many are missing.
    pub fn with_gaps(checker: &'b mut Checker<'a>, reverse: bool) -> Order<'a, 'b> {
        Order { checker, reverse, last_key: None, next: None }
    }

    /// The next entry.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) {
        let number = self.checker.entry(key, value);
        if let Some(next) = self.next {
            self.checker.expect(number == next);
            self.next = Some(if self.reverse { next.wrapping_sub(1) } else { next + 1 });
        }
        let Ok(key) = Key::try_from(key) else { return };
        let in_order = self.last_key.is_none_or(|last| if self.reverse { key < last } else { key > last });
        self.checker.expect(in_order);
        self.last_key = Some(key);
    }
}

/// `scan100`, `scan100_rev`: a hundred entries from any key on; `ops_s` counts scans.
pub fn scan100(bench: &Bench, reverse: bool) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut random = bench.random(if reverse { "scan100_rev" } else { "scan100" }, 0);
    let mut checker = Checker::new(data);
    let mut latencies = Histogram::new();
    let mut watch = Stopwatch::start(bench.duration);
    while !watch.is_over() {
        let first = random.below(data.keys.saturating_sub(ENTRIES - 1).max(1)) + if reverse { ENTRIES - 1 } else { 0 };
        let first = first.min(data.keys - 1);
        let key = data.key(first);
        let mut order = Order::new(data, &mut checker, first, reverse);
        let count = watch.time(&mut latencies, || {
            engine.scan(Some(&key), ENTRIES, reverse, &mut |key, value| order.entry(key, value))
        })?;
        checker.expect(count == ENTRIES.min(data.keys));
    }
    let mut metrics = Metrics::from([("bad".to_owned(), checker.bad as f64)]);
    add_rate(&mut metrics, "", &latencies, watch.elapsed());
    Ok(metrics)
}

/// `scan_full`, `scan_full_rev`: all entries, again until the time is over; `ops_s` counts entries.
/// `expected`: how many there are.
pub fn scan_full(bench: &Bench, reverse: bool, expected: u64) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut checker = Checker::new(data);
    let mut latencies = Histogram::new();
    let mut watch = Stopwatch::start(bench.duration);
    let mut entries = 0;
    while !watch.is_over() {
        let mut order = if expected == data.keys {
            Order::new(data, &mut checker, if reverse { data.keys - 1 } else { 0 }, reverse)
        } else {
            Order::with_gaps(&mut checker, reverse)
        };
        let count = watch
            .time(&mut latencies, || engine.scan(None, u64::MAX, reverse, &mut |key, value| order.entry(key, value)))?;
        checker.expect(count == expected);
        entries += count;
    }
    Ok(Metrics::from([
        ("bad".to_owned(), checker.bad as f64),
        ("ops_s".to_owned(), per_second(entries, watch.elapsed())),
        ("passes".to_owned(), latencies.count() as f64),
    ]))
}
