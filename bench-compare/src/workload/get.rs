//! Reads of single keys, and of many keys in one call.

use std::time::Duration;

use cairn_bench::Histogram;
use cairn_bench::random::Random;

use super::Bench;
use crate::data::{Checker, Key};
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, add_rate, per_second};
use crate::zipf::Zipf;

/// Which keys are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// One hundredth of all, side by side: they fit any cache.
    Hot,
    /// Any.
    Uniform,
    /// Some far more often than others.
    Zipf,
    /// None that exists.
    Missing,
}

/// Keys in one call of [`multi_get`].
const KEYS_PER_CALL: usize = 100;
/// Before it is timed, a workload runs for this part of its time.
const WARM_UP: f64 = 0.25;

/// Draws numbers of keys.
struct Source {
    pick: Pick,
    keys: u64,
    zipf: Zipf,
}

impl Source {
    fn new(pick: Pick, keys: u64) -> Source {
        Source { pick, keys, zipf: Zipf::new(keys) }
    }

    fn number(&self, random: &mut Random) -> u64 {
        match self.pick {
            Pick::Hot => self.keys / 2 + random.below((self.keys / 100).max(1)),
            Pick::Uniform | Pick::Missing => random.below(self.keys),
            Pick::Zipf => self.zipf.scrambled(random),
        }
    }
}

/// What one caller saw.
#[derive(Default)]
struct Seen {
    latencies: Histogram,
    elapsed: Duration,
    bad: u64,
}

fn call(bench: &Bench, source: &Source, random: &mut Random, duration: Duration) -> Result<Seen> {
    let (engine, data) = (bench.engine, bench.data);
    let mut checker = Checker::new(data);
    let mut latencies = Histogram::new();
    let mut watch = Stopwatch::start(duration);
    let exists = !matches!(source.pick, Pick::Missing);
    while !watch.is_over() {
        let number = source.number(random);
        let key = if exists { data.key(number) } else { data.missing_key(number) };
        let found = watch.time(&mut latencies, || engine.get(&key, &mut |value| checker.value(number, value)))?;
        checker.expect(found == exists);
    }
    Ok(Seen { latencies, elapsed: watch.elapsed(), bad: checker.bad })
}

/// `get_*`: single reads from so many threads.
pub fn get(bench: &Bench, workload: &str, pick: Pick, callers: u64) -> Result<Metrics> {
    let source = Source::new(pick, bench.data.keys);
    let warm_up = bench.duration.mul_f64(WARM_UP);
    let run = |caller: u64| -> Result<Seen> {
        let mut random = bench.random(workload, caller);
        let warm = call(bench, &source, &mut random, warm_up)?;
        let mut seen = call(bench, &source, &mut random, bench.duration)?;
        seen.bad += warm.bad;
        Ok(seen)
    };
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers).map(|caller| scope.spawn(move || run(caller))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a reader panicked".into())))
            .collect::<Result<_>>()
    })?;
    let mut all = Seen::default();
    for one in &seen {
        all.latencies.add(&one.latencies);
        all.elapsed = all.elapsed.max(one.elapsed);
        all.bad += one.bad;
    }
    let mut metrics = Metrics::from([("bad".to_owned(), all.bad as f64)]);
    add_rate(&mut metrics, "", &all.latencies, all.elapsed);
    Ok(metrics)
}

/// `multi_get`: a hundred keys in one call; `ops_s` counts keys, the latencies calls.
pub fn multi_get(bench: &Bench) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut random = bench.random("multi_get", 0);
    let mut checker = Checker::new(data);
    let mut latencies = Histogram::new();
    let mut watch = Stopwatch::start(bench.duration);
    let mut numbers = [0; KEYS_PER_CALL];
    let mut keys: [Key; KEYS_PER_CALL] = [[0; 16]; KEYS_PER_CALL];
    while !watch.is_over() {
        for (number, key) in numbers.iter_mut().zip(&mut keys) {
            *number = random.below(data.keys);
            *key = data.key(*number);
        }
        let mut answered = 0;
        watch.time(&mut latencies, || {
            engine.multi_get(&keys, &mut |at, value| match value {
                Some(value) => {
                    checker.value(numbers[at], value);
                    answered += 1;
                }
                None => checker.expect(false),
            })
        })?;
        checker.expect(answered == KEYS_PER_CALL);
    }
    let mut metrics = Metrics::from([("bad".to_owned(), checker.bad as f64)]);
    add_rate(&mut metrics, "", &latencies, watch.elapsed());
    metrics.insert("ops_s".to_owned(), per_second(latencies.count() * KEYS_PER_CALL as u64, watch.elapsed()));
    Ok(metrics)
}
