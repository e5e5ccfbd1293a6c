//! Closing and opening, in good order and after a kill.

use std::time::Instant;

use super::{Bench, settle::settle};
use crate::data::{Checker, Data};
use crate::engine::{Engine, Result};
use crate::measure::Metrics;

/// Puts that are not flushed when the process is killed.
const PUTS: u64 = 100_000;

/// Puts new keys, not synced, and kills this process with them in memory.
pub fn put_and_kill(bench: &Bench) -> Result<()> {
    settle(bench)?;
    let mut value = Vec::new();
    for number in bench.data.keys..bench.data.keys + PUTS {
        bench.data.value(number, 0, &mut value);
        bench.engine.put(&bench.data.key(number), &value, false)?;
    }
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("this process outlived its own SIGKILL".into())
}

/// Opens, and reads one key, which is when an engine that opens lazily must have done it.
pub fn open(data: &Data, open: impl FnOnce() -> Result<Box<dyn Engine>>) -> Result<(Box<dyn Engine>, Metrics)> {
    let mut checker = Checker::new(data);
    let began = Instant::now();
    let engine = open()?;
    let opened = began.elapsed();
    let found = engine.get(&data.key(data.keys / 2), &mut |value| checker.value(data.keys / 2, value))?;
    let answered = began.elapsed();
    checker.expect(found);
    let metrics = Metrics::from([
        ("bad".to_owned(), checker.bad as f64),
        ("open_ms".to_owned(), answered.as_secs_f64() * 1e3),
        ("open_call_ms".to_owned(), opened.as_secs_f64() * 1e3),
    ]);
    Ok((engine, metrics))
}

/// How many of the puts before the kill are there; they must be the first ones.
pub fn count_kept(engine: &dyn Engine, data: &Data, metrics: &mut Metrics) -> Result<()> {
    let mut checker = Checker::new(data);
    let (mut kept, mut lost) = (0, 0);
    for number in data.keys..data.keys + PUTS {
        if engine.get(&data.key(number), &mut |value| checker.value(number, value))? {
            checker.expect(lost == 0);
            kept += 1;
        } else {
            lost += 1;
        }
    }
    metrics.insert("kept".to_owned(), f64::from(kept));
    *metrics.entry("bad".to_owned()).or_default() += checker.bad as f64;
    Ok(())
}
