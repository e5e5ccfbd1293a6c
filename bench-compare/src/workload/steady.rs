//! Minutes of overwriting at full speed: what an engine can keep up, and what a durable put takes meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_bench::Histogram;

use super::{Bench, pace::Pace, settle::settle};
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, Usage, add_rate, allocated_bytes};

/// Durable puts in a second.
const DURABLE_PER_SECOND: u64 = 200;
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Mean and standard deviation, and the least.
fn spread(counts: &[u64]) -> (f64, f64, f64) {
    let n = counts.len().max(1) as f64;
    let mean = counts.iter().sum::<u64>() as f64 / n;
    let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt(), counts.iter().copied().min().unwrap_or(0) as f64)
}

/// `steady`: one thread overwrites, another puts durably, 200 times a second, or as often as the engine can.
pub fn steady(bench: &Bench, duration: Duration) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let written_before = Usage::now()?.write_bytes;
    let generation = data.begin_generation();
    let (puts, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let overwrite = || -> Result<(Histogram, Duration)> {
        let mut random = bench.random("steady", 0);
        let mut latencies = Histogram::new();
        let mut value = Vec::new();
        let mut watch = Stopwatch::start(duration);
        while !watch.is_over() {
            let number = random.below(data.keys);
            let key = data.key(number);
            data.value(number, generation, &mut value);
            watch.time(&mut latencies, || engine.put(&key, &value, false))?;
            puts.fetch_add(1, Ordering::Relaxed);
        }
        Ok((latencies, watch.elapsed()))
    };
    let put_durably = || -> Result<(Histogram, Duration)> {
        let mut random = bench.random("steady", 1);
        let mut latencies = Histogram::new();
        let mut value = Vec::new();
        let mut watch = Stopwatch::start(duration);
        let mut pace = Pace::start(DURABLE_PER_SECOND);
        while !stop.load(Ordering::Relaxed) {
            let number = random.below(data.keys);
            let key = data.key(number);
            data.value(number, generation, &mut value);
            pace.wait();
            watch.time(&mut latencies, || engine.put(&key, &value, true))?;
        }
        Ok((latencies, watch.elapsed()))
    };
    let watch_disk = || {
        let (mut seconds, mut peak, mut before) = (Vec::new(), 0, 0);
        let mut next = Instant::now() + Duration::from_secs(1);
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK.min(next.saturating_duration_since(Instant::now())));
            if Instant::now() >= next {
                let now = puts.load(Ordering::Relaxed);
                seconds.push(now - before);
                before = now;
                next += Duration::from_secs(1);
            }
            peak = peak.max(allocated_bytes(bench.dir));
        }
        (seconds, peak)
    };
    let (overwritten, durable, (seconds, peak)) = std::thread::scope(|scope| {
        let durable = scope.spawn(put_durably);
        let disk = scope.spawn(watch_disk);
        let overwritten = overwrite();
        stop.store(true, Ordering::Relaxed);
        let durable = durable.join().unwrap_or_else(|_| Err("the durable writer panicked".into()));
        (overwritten, durable, disk.join().unwrap_or_default())
    });
    let ((latencies, elapsed), (durable, durable_elapsed)) = (overwritten?, durable?);
    let began = Instant::now();
    let settled = settle(bench)? - began;
    let written = Usage::now()?.write_bytes - written_before;
    let (_, deviation, worst) = spread(&seconds);
    let mut metrics = Metrics::from([
        ("worst_second_ops_s".to_owned(), worst),
        ("deviation_ops_s".to_owned(), deviation),
        ("disk_peak_mib".to_owned(), peak as f64 / f64::from(1 << 20)),
        ("disk_peak_amp".to_owned(), peak as f64 / data.user_bytes(data.keys)),
        ("settle_s".to_owned(), settled.as_secs_f64()),
        ("write_amp".to_owned(), written as f64 / data.user_bytes(latencies.count() + durable.count())),
        ("space_amp".to_owned(), allocated_bytes(bench.dir) as f64 / data.user_bytes(data.keys)),
    ]);
    add_rate(&mut metrics, "", &latencies, elapsed);
    add_rate(&mut metrics, "durable_", &durable, durable_elapsed);
    for (second, count) in seconds.iter().enumerate() {
        metrics.insert(format!("second_{second:04}_ops_s"), *count as f64);
    }
    Ok(metrics)
}
