//! Filling an empty database.

use std::time::Instant;

use super::{Bench, settle::settle};
use crate::data::Shuffle;
use crate::engine::Result;
use crate::measure::{Metrics, Usage, allocated_bytes, per_second};

/// Entries of a batch of a load in ascending order: a bulk load.
const SORTED_BATCH_ENTRIES: usize = 1_000;
/// Entries of a batch of a load in random order: what an application collects.
const RANDOM_BATCH_ENTRIES: usize = 100;

/// Loads all keys, in ascending order or in one that looks random, without waiting for anything afterwards.
pub fn fill(bench: &Bench, sorted: bool) -> Result<()> {
    let shuffle = Shuffle::new(bench.data.keys);
    let batch_entries = if sorted { SORTED_BATCH_ENTRIES } else { RANDOM_BATCH_ENTRIES };
    let mut entries = bench.data.entries(batch_entries);
    for place in 0..bench.data.keys {
        let number = if sorted { place } else { shuffle.at(place) };
        bench.data.add(&mut entries, number, 0);
        if entries.len() == batch_entries || place + 1 == bench.data.keys {
            bench.engine.write_batch(&entries)?;
            entries.clear();
        }
    }
    Ok(())
}

/// `load_sorted`, `load_random`: the load, and then until all is flushed and compacted.
pub fn load(bench: &Bench, sorted: bool) -> Result<Metrics> {
    let keys = bench.data.keys;
    let (before, began) = (Usage::now()?, Instant::now());
    fill(bench, sorted)?;
    let loaded = began.elapsed();
    let settled = settle(bench)? - began;
    let written = Usage::now()?.write_bytes - before.write_bytes;
    let mut metrics = Metrics::from([
        ("ops_s".to_owned(), per_second(keys, loaded)),
        ("settled_ops_s".to_owned(), per_second(keys, settled)),
        ("settle_s".to_owned(), (settled - loaded).as_secs_f64()),
        ("write_amp".to_owned(), written as f64 / bench.data.user_bytes(keys)),
        ("space_amp".to_owned(), allocated_bytes(bench.dir) as f64 / bench.data.user_bytes(keys)),
    ]);
    metrics.extend(bench.engine.figures());
    Ok(metrics)
}
