//! Deleting, and reading across what was deleted.

use std::time::Instant;

use cairn_bench::Histogram;

use super::scan::Order;
use super::{Bench, settle::settle};
use crate::data::{Checker, Key};
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, add_rate, allocated_bytes, per_second};

/// Of so many keys in a row ...
const PERIOD: u64 = 500;
/// ... so many are kept.
const KEPT: u64 = 10;
/// Keys of a batch of deletes.
const BATCH_KEYS: usize = 100;

/// Keys that are left after [`delete_runs`].
pub fn left_after_runs(keys: u64) -> u64 {
    keys / PERIOD * KEPT + (keys % PERIOD).min(KEPT)
}

/// `delete_runs`: runs of 490 keys, in ascending order, so that 10 are left between them. In batches: with a
/// snapshot held, each commit of a copy-on-write tree leaves the pages that it replaced, and a million commits fill the disk.
pub fn delete_runs(bench: &Bench) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut latencies = Histogram::new();
    let mut keys: Vec<Key> = Vec::with_capacity(BATCH_KEYS);
    let mut deleted = 0;
    let mut watch = Stopwatch::start(bench.duration);
    for number in (0..data.keys).filter(|number| number % PERIOD >= KEPT) {
        keys.push(data.key(number));
        deleted += 1;
        if keys.len() == BATCH_KEYS {
            watch.time(&mut latencies, || engine.delete_batch(&keys))?;
            keys.clear();
        }
    }
    watch.time(&mut latencies, || engine.delete_batch(&keys))?;
    Ok(Metrics::from([("ops_s".to_owned(), per_second(deleted, watch.elapsed()))]))
}

/// `delete_half`: every second key, one by one, in ascending order.
pub fn delete_half(bench: &Bench) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut latencies = Histogram::new();
    let mut watch = Stopwatch::start(bench.duration);
    for number in (1..data.keys).step_by(2) {
        let key = data.key(number);
        watch.time(&mut latencies, || engine.delete(&key))?;
    }
    let mut metrics = Metrics::new();
    add_rate(&mut metrics, "", &latencies, watch.elapsed());
    Ok(metrics)
}

/// `delete_scan10*`: ten entries from the first deleted key of a run on: across all of the run.
pub fn scan_across(bench: &Bench, workload: &str) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut random = bench.random(workload, 0);
    let mut checker = Checker::new(data);
    let mut latencies = Histogram::new();
    let runs = (data.keys / PERIOD).saturating_sub(1).max(1);
    let mut watch = Stopwatch::start(bench.duration);
    while !watch.is_over() {
        let run = random.below(runs) * PERIOD;
        let key = data.key(run + KEPT);
        let mut order = Order::new(data, &mut checker, run + PERIOD, false);
        let count = watch
            .time(&mut latencies, || engine.scan(Some(&key), KEPT, false, &mut |key, value| order.entry(key, value)))?;
        checker.expect(count == KEPT);
    }
    let mut metrics = Metrics::from([
        ("bad".to_owned(), checker.bad as f64),
        ("space_mib".to_owned(), allocated_bytes(bench.dir) as f64 / f64::from(1 << 20)),
    ]);
    add_rate(&mut metrics, "", &latencies, watch.elapsed());
    Ok(metrics)
}

/// `compact`: everything, and what it occupies then for each byte of `left` live keys.
pub fn compact(bench: &Bench, left: u64) -> Result<Metrics> {
    let began = Instant::now();
    bench.engine.compact()?;
    let settled = settle(bench)? - began;
    let space = allocated_bytes(bench.dir) as f64;
    Ok(Metrics::from([
        ("compact_s".to_owned(), settled.as_secs_f64()),
        ("space_mib".to_owned(), space / f64::from(1 << 20)),
        ("space_amp".to_owned(), space / bench.data.user_bytes(left)),
    ]))
}
