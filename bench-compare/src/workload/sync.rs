//! Durable puts from many threads, beside what the device does in the same moment.

use std::path::Path;
use std::time::Duration;

use cairn_bench::Histogram;

use super::Bench;
use super::device::Device;
use crate::data::Checker;
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, add_latencies, add_rate};

/// The device is probed for this part of the workload's time, before and after it.
const PROBE: f64 = 0.25;

/// `put_sync_t*`: each of so many threads puts a key and waits until it is durable.
/// `device_dir`: a directory on the same device, outside the database's.
pub fn put_sync(bench: &Bench, device_dir: &Path, callers: u64) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut device = Device::new(device_dir)?;
    let mut device_latencies = Histogram::new();
    let probe = bench.duration.mul_f64(PROBE);
    device.probe(probe, &mut device_latencies)?;

    let generation = data.begin_generation();
    let workload = format!("put_sync_t{callers}");
    let run = |caller: u64| -> Result<(Histogram, Duration, u64)> {
        let mut random = bench.random(&workload, caller);
        let mut latencies = Histogram::new();
        let mut value = Vec::new();
        let mut number = 0;
        let mut watch = Stopwatch::start(bench.duration);
        while !watch.is_over() {
            number = random.below(data.keys);
            data.value(number, generation, &mut value);
            let key = data.key(number);
            watch.time(&mut latencies, || engine.put(&key, &value, true))?;
        }
        Ok((latencies, watch.elapsed(), number))
    };
    let run = &run;
    let seen: Vec<(Histogram, Duration, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers).map(|caller| scope.spawn(move || run(caller))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a writer panicked".into())))
            .collect::<Result<_>>()
    })?;
    device.probe(probe, &mut device_latencies)?;

    let (mut latencies, mut elapsed) = (Histogram::new(), Duration::ZERO);
    let mut checker = Checker::new(data);
    for (one, took, last) in &seen {
        latencies.add(one);
        elapsed = elapsed.max(*took);
        let found = engine.get(&data.key(*last), &mut |value| checker.value(*last, value))?;
        checker.expect(found);
    }
    let mut metrics = Metrics::from([("bad".to_owned(), checker.bad as f64)]);
    add_rate(&mut metrics, "", &latencies, elapsed);
    add_latencies(&mut metrics, "device_", &device_latencies);
    let ratio = latencies.quantile(500) as f64 / device_latencies.quantile(500).max(1) as f64;
    metrics.insert("p50_of_device".to_owned(), ratio);
    Ok(metrics)
}
