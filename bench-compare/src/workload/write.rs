//! Overwriting keys that exist, one by one, not synced.

use cairn_bench::Histogram;

use super::{Bench, settle::settle};
use crate::data::Checker;
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, Usage, add_rate, allocated_bytes};

/// What was overwritten is read again, so many keys of it.
const VERIFIED: u64 = 100_000;

/// What an overwriting left for [`overwrite_settle`].
pub struct Overwritten {
    generation: u32,
    puts: u64,
    written_before: u64,
}

/// `overwrite`: keys drawn evenly.
pub fn overwrite(bench: &Bench) -> Result<(Metrics, Overwritten)> {
    let (engine, data) = (bench.engine, bench.data);
    let written_before = Usage::now()?.write_bytes;
    let generation = data.begin_generation();
    let mut random = bench.random("overwrite", 0);
    let mut latencies = Histogram::new();
    let mut value = Vec::new();
    let mut watch = Stopwatch::start(bench.duration);
    while !watch.is_over() {
        let number = random.below(data.keys);
        let key = data.key(number);
        data.value(number, generation, &mut value);
        watch.time(&mut latencies, || engine.put(&key, &value, false))?;
    }
    let mut metrics = Metrics::new();
    add_rate(&mut metrics, "", &latencies, watch.elapsed());
    Ok((metrics, Overwritten { generation, puts: latencies.count(), written_before }))
}

/// `overwrite_settle`: until all is flushed and compacted; then the first of what was overwritten must be there.
pub fn overwrite_settle(bench: &Bench, overwritten: &Overwritten) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let began = std::time::Instant::now();
    let settled = settle(bench)? - began;
    let written = Usage::now()?.write_bytes - overwritten.written_before;
    let space = allocated_bytes(bench.dir);
    let mut random = bench.random("overwrite", 0);
    let mut checker = Checker::new(data);
    for _ in 0..overwritten.puts.min(VERIFIED) {
        let number = random.below(data.keys);
        let mut generation = None;
        engine.get(&data.key(number), &mut |value| {
            checker.value(number, value);
            generation = Checker::says(value).map(|(_, generation)| generation);
        })?;
        checker.expect(generation == Some(overwritten.generation));
    }
    Ok(Metrics::from([
        ("bad".to_owned(), checker.bad as f64),
        ("settle_s".to_owned(), settled.as_secs_f64()),
        ("write_amp".to_owned(), written as f64 / data.user_bytes(overwritten.puts)),
        ("space_amp".to_owned(), space as f64 / data.user_bytes(data.count())),
    ]))
}
