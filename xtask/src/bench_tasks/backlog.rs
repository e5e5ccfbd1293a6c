//! Many tasks that wait: what a claim costs beside them, and how soon a server serves that has them.
//!
//! The instructions of a claim are counted by valgrind, on this program started anew ([`run_claims`]): once it
//! opens the database and claims nothing, once it claims, and the difference is what the claims cost.

use std::path::Path;
use std::time::Instant;

use cairn_durable::call::Spawn;
use cairn_durable::queue::{Queue, QueueStatus};

use super::client::Client;
use super::embedded::{Embedded, block_on, spawn};
use super::figure::{Figure, quantile};
use super::{Bench, Result};
use crate::callgrind;

/// Claims that are measured.
const CLAIMS: u64 = 1_000;
/// Beside as many as are claimed, none wait.
const FEW: usize = 1_100;
const BATCH: usize = 1_000;
/// A claim beside a million costs so much of one beside none.
const FLAT: f64 = 1.2;
/// A server serves after so many seconds.
const SERVES: f64 = 2.0;
const PAUSED: &str = "paused";

/// Fills a queue with waiting tasks.
fn fill(embedded: &Embedded, queue: &str, count: usize) -> Result<()> {
    let batch = vec![Spawn { queue: queue.to_owned(), ..spawn() }; BATCH];
    (0..count).step_by(BATCH).try_for_each(|at| embedded.spawn(&batch[..BATCH.min(count - at)]))
}

fn filled(bench: &Bench, name: &str, waiting: usize, paused: usize) -> Result<std::path::PathBuf> {
    let dir = bench.fresh(name)?;
    let embedded = Embedded::open(&dir)?;
    let settings = Queue { status: QueueStatus::Paused, ..Queue::default() };
    block_on(embedded.tasks.set_queue(PAUSED, settings)).map_err(|e| e.to_string())?;
    fill(&embedded, PAUSED, paused)?;
    fill(&embedded, "default", waiting)?;
    embedded.close()?;
    Ok(dir)
}

/// All of it goes to tables, as it is when nothing was spawned for a while.
fn settle(dir: &Path) -> Result<()> {
    let embedded = Embedded::open(dir)?;
    embedded.db.flush().and_then(|()| embedded.db.compact()).map_err(|e| e.to_string())?;
    embedded.close()
}

/// A server that is killed with so many tasks waiting, and started again.
pub(crate) fn restart(bench: &Bench) -> Result<Vec<Figure>> {
    let dir = filled(bench, "restart", bench.waiting, 0)?;
    let idle = bench.serve("restart-idle")?;
    let idle_bytes = idle.resident_bytes()?;
    idle.stop()?;
    bench.serve_on(&dir)?.kill()?;
    let began = Instant::now();
    let server = bench.serve_on(&dir)?;
    let listens = began.elapsed().as_secs_f64();
    let work = Client::worker(&server.address(), 1)?.poll(1)?;
    let serves = began.elapsed().as_secs_f64();
    if work.len() != 1 {
        return Err("there is no work after a restart".to_owned());
    }
    let more = server.resident_bytes()?.saturating_sub(idle_bytes) as f64;
    server.stop()?;
    let settings = format!("{} waiting, killed before", bench.waiting);
    let figure = |name: &str, value: f64, unit| Figure::new("restart", &settings, name, value, unit);
    Ok(vec![
        figure("process to listening", listens, "s"),
        figure("process to first task", serves, "s").at_most(SERVES),
        figure("memory beyond an idle server's", more / bench.waiting as f64, "B/task"),
    ])
}

/// Claims beside nothing, beside many in the same lane, beside many in a queue that is paused.
pub(crate) fn claims(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut alone = None;
    for (name, waiting, paused) in [
        ("no other waits", FEW, 0),
        ("many wait in its lane", bench.waiting, 0),
        ("many wait in a paused queue", FEW, bench.waiting),
    ] {
        let dir = filled(bench, "claims", waiting, paused)?;
        settle(&dir)?;
        let settings = format!("{CLAIMS} claims one by one, {waiting} waiting, {paused} in a paused queue");
        let figure =
            |what: &str, value: f64, unit| Figure::new("claims", &settings, &format!("{name}, {what}"), value, unit);
        let copy = bench.fresh("claims-counted")?;
        copy_files(&dir, &copy)?;
        match counted(&copy, 0)?.zip(counted(&copy, CLAIMS)?) {
            Some((without, with)) => {
                let instructions = with.saturating_sub(without) as f64 / CLAIMS as f64;
                let told = figure("instructions", instructions, "/claim");
                figures.push(match alone {
                    Some(alone) => told.at_most(alone * FLAT),
                    None => told,
                });
                alone.get_or_insert(instructions);
            }
            None => figures.push(Figure::skipped("claims", &format!("{name}, instructions"), "valgrind is not there")),
        }
        let claimed = claim(&dir, CLAIMS)?;
        figures.push(figure("p50", claimed.p50_micros, "us"));
        figures.push(figure("blocks read", claimed.blocks_read, "/claim"));
    }
    Ok(figures)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let told = |e: std::io::Error| format!("{} to {}: {e}", from.display(), to.display());
    std::fs::create_dir_all(to).map_err(told)?;
    for entry in std::fs::read_dir(from).map_err(told)? {
        let entry = entry.map_err(told)?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(told)?;
    }
    Ok(())
}

struct Claimed {
    p50_micros: f64,
    blocks_read: f64,
}

fn claim(dir: &Path, claims: u64) -> Result<Claimed> {
    let embedded = Embedded::open(dir)?;
    let session = embedded.hello()?;
    let blocks_read = embedded.stat("cache_misses_count");
    let mut took = Vec::new();
    for _ in 0..claims {
        let began = Instant::now();
        embedded.take(session)?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let blocks_read = (embedded.stat("cache_misses_count") - blocks_read) as f64 / claims.max(1) as f64;
    embedded.close()?;
    Ok(Claimed { p50_micros: quantile(&mut took, 0.5), blocks_read })
}

/// `xtask claims DIR COUNT`, for valgrind: claims and does nothing else.
pub(crate) fn run_claims(arguments: &[&str]) -> Result<()> {
    match arguments {
        [dir, count] => {
            let count = count.parse().map_err(|e| format!("{count}: {e}"))?;
            claim(Path::new(dir), count).map(drop)
        }
        _ => Err("xtask claims DIR COUNT".to_owned()),
    }
}

/// The instructions of so many claims and all around them; None without valgrind.
fn counted(dir: &Path, claims: u64) -> Result<Option<u64>> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let dir = dir.to_str().ok_or_else(|| format!("{}: not UTF-8", dir.display()))?;
    let counted = callgrind::count(&program, &["claims", dir, &claims.to_string()], None)?;
    Ok(counted.map(|counted| counted.instructions))
}
