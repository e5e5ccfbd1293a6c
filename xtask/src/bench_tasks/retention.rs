//! What has expired goes: a day's tasks, with their files.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_durable::call::{Op, OpKind};
use cairn_durable::queue::Queue;

use super::client::VALUE;
use super::embedded::{Embedded, block_on, spawn};
use super::figure::Figure;
use super::{Bench, Result};

const TASKS: usize = 100_000;
/// Fewer than one answer hands out.
const BATCH: usize = 200;
/// They are gone after so many milliseconds.
const GONE_MS: f64 = 100.0;
const DAY_MS: u64 = 86_400_000;
/// It does not take longer than this, or it does not happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tasks that are spawned, worked on and ended, all of one day, and flushed to tables; then the clock is set on.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let dir = bench.fresh("retention")?;
    let embedded = Embedded::open(&dir)?;
    let told = |e: cairn_durable::Error| e.to_string();
    let keep = Queue { retention_days: 1, ..Queue::default() };
    block_on(embedded.tasks.set_queue("default", keep)).map_err(told)?;
    let session = embedded.hello()?;
    let batch = vec![spawn(); BATCH];
    for _ in 0..TASKS / BATCH {
        embedded.spawn(&batch)?;
        let (work, _) = block_on(embedded.tasks.take(session, BATCH)).map_err(told)?;
        let finish = |work: cairn_durable::call::Work| Op {
            task: work.id,
            fence: work.fence,
            what: OpKind::Finish(VALUE.as_bytes().into()),
        };
        let ended = block_on(embedded.tasks.ops(session, work.into_iter().map(finish).collect(), 0)).map_err(told)?;
        if ended.acks.len() != BATCH || ended.acks.iter().any(std::result::Result::is_err) {
            return Err("not all tasks ended".to_owned());
        }
    }
    embedded.db.flush().and_then(|()| embedded.db.compact()).map_err(|e| e.to_string())?;
    let before = table_bytes(&dir)?;
    let buckets = || embedded.db.keyspaces().into_iter().filter(|name| name.starts_with("tasks-")).count();
    let began = Instant::now();
    embedded.tasks.advance_clock(3 * DAY_MS);
    // Of the tables only the index is left, whose entries the tasks have used up.
    while buckets() > 0 || table_bytes(&dir)? > before / 10 {
        if began.elapsed() > PATIENCE {
            return Err(format!("after {PATIENCE:?} there are {} bytes of {before}", table_bytes(&dir)?));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let gone_ms = began.elapsed().as_secs_f64() * 1e3;
    let after = table_bytes(&dir)?;
    embedded.close()?;
    let settings = format!("{TASKS} tasks of one day, in tables, embedded");
    let figure = |name: &str, value: f64, unit| Figure::new("retention", &settings, name, value, unit);
    Ok(vec![
        figure("gone, with their files", gone_ms, "ms").at_most(GONE_MS),
        figure("tables before", before as f64 / 1e6, "MB"),
        figure("tables after", after as f64 / 1e6, "MB"),
    ])
}

fn table_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let is_table = entry.path().extension().is_some_and(|extension| extension == "sst");
        // One that goes while it is looked at is gone.
        bytes += if is_table { entry.metadata().map_or(0, |data| data.len()) } else { 0 };
    }
    Ok(bytes)
}
