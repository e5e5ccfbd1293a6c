//! A reader at full speed while a writer writes, at full speed or so many puts a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_bench::Histogram;

use super::{Bench, pace::Pace};
use crate::data::Checker;
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, add_latencies, add_rate, per_second};

/// `rww_*`: reads are `ops_s` and the latencies without a prefix. A paced put's latency counts from
/// when it was due, so a stall is counted for every put that it delays.
pub fn read_while_writing(bench: &Bench, workload: &str, writes_per_second: Option<u64>) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let stop = AtomicBool::new(false);
    let write = || -> Result<(Histogram, Duration)> {
        let generation = data.begin_generation();
        let mut random = bench.random(workload, 1);
        let mut latencies = Histogram::new();
        let mut value = Vec::new();
        let mut pace = writes_per_second.map(Pace::start);
        let mut watch = Stopwatch::start(bench.duration);
        let began = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let number = random.below(data.keys);
            let key = data.key(number);
            data.value(number, generation, &mut value);
            match &mut pace {
                Some(pace) => pace.time_from_due(&mut latencies, || engine.put(&key, &value, false))?,
                None => watch.time(&mut latencies, || engine.put(&key, &value, false))?,
            }
        }
        Ok((latencies, began.elapsed()))
    };
    let read = || -> Result<(Histogram, Duration, u64)> {
        let mut random = bench.random(workload, 0);
        let mut checker = Checker::new(data);
        let mut latencies = Histogram::new();
        let mut watch = Stopwatch::start(bench.duration);
        while !watch.is_over() {
            let number = random.below(data.keys);
            let key = data.key(number);
            let found = watch.time(&mut latencies, || engine.get(&key, &mut |value| checker.value(number, value)))?;
            checker.expect(found);
        }
        Ok((latencies, watch.elapsed(), checker.bad))
    };
    let (written, read) = std::thread::scope(|scope| {
        let writer = scope.spawn(write);
        let read = read();
        stop.store(true, Ordering::Relaxed);
        (writer.join().unwrap_or_else(|_| Err("the writer panicked".into())), read)
    });
    let ((writes, write_time), (reads, read_time, bad)) = (written?, read?);
    let mut metrics = Metrics::from([("bad".to_owned(), bad as f64)]);
    add_rate(&mut metrics, "", &reads, read_time);
    metrics.insert("writes_s".to_owned(), per_second(writes.count(), write_time));
    add_latencies(&mut metrics, "write_", &writes);
    Ok(metrics)
}
