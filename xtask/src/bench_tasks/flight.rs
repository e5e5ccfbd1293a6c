//! 32 tasks in flight over HTTP, and spawns in batches.
//!
//! Two workers of 16 slots, a connection each. What its tasks come to at the same time a worker tells in one
//! call, as an SDK does whose functions do nothing else, and takes as many new ones with it.

use std::thread;
use std::time::{Duration, Instant};

use cairn_api::tasks::Work;

use super::client::{Client, VALUE, finish, step};
use super::disk::Disk;
use super::figure::Figure;
use super::{Bench, Result};

const WORKERS: u32 = 2;
const SLOTS: u32 = 16;
const STEPS: u32 = 10;
/// Connections that spawn, and how many tasks by one call.
const SPAWNERS: usize = 4;
const BATCH: usize = 100;

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    steps: u64,
    tasks: u64,
}

pub(crate) fn empty(bench: &Bench) -> Result<Vec<Figure>> {
    let run = flight(bench, "empty tasks", 0)?;
    let rate = run.done.tasks as f64 / run.seconds;
    Ok(vec![
        run.figure("rate", rate, "/s").at_least(10_000.0),
        run.figure("the server's processor time", run.cpu_seconds * 1e6 / run.done.tasks as f64, "us/task"),
        run.figure("syncs", run.syncs as f64 / run.done.tasks as f64, "/task"),
        run.figure("log", run.log_bytes as f64 / run.done.tasks as f64, "B/task"),
    ])
}

pub(crate) fn steps(bench: &Bench) -> Result<Vec<Figure>> {
    let f50 = Disk::asked(bench.scratch)?.p50();
    let run = flight(bench, "10-step tasks", STEPS)?;
    let rate = run.done.steps as f64 / run.seconds;
    let possible = f64::from(WORKERS * SLOTS) / (f50 / 1e3);
    let figure = run.figure("steps", rate, "/s");
    Ok(vec![
        if possible >= 40_000.0 { figure.at_least(20_000.0) } else { figure },
        run.figure("the server's processor time", run.cpu_seconds * 1e6 / run.done.steps as f64, "us/step"),
        run.figure("syncs", run.syncs as f64 / run.done.steps as f64, "/step"),
    ])
}

/// What came of a flight.
struct Run {
    workload: &'static str,
    settings: String,
    done: Done,
    seconds: f64,
    cpu_seconds: f64,
    syncs: u64,
    log_bytes: u64,
}

impl Run {
    fn figure(&self, name: &str, value: f64, unit: &'static str) -> Figure {
        Figure::new(self.workload, &self.settings, name, value, unit)
    }
}

/// Spawns for as long as will be measured, then lets the workers loose on that.
fn flight(bench: &Bench, workload: &'static str, steps: u32) -> Result<Run> {
    let server = bench.serve(&workload.replace(' ', "-"))?;
    let address = server.address();
    let tasks_max = (bench.time.as_secs_f64() * if steps == 0 { 40_000.0 } else { 8_000.0 }) as usize;
    let (waiting, _) = spawn_all(&address, bench.time, tasks_max)?;
    let mut client = Client::open(&address)?;
    let (syncs, log_bytes) = (client.stat("log_syncs_count")?, client.stat("log_bytes")?);
    let cpu_seconds = server.cpu_seconds()?;
    let began = Instant::now();
    let until = began + bench.time;
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let address = address.clone();
            thread::spawn(move || work(&address, steps, until))
        })
        .collect();
    let mut done = Done::default();
    for worker in workers {
        let part = worker.join().map_err(|_| "a worker panicked".to_owned())??;
        done = Done { steps: done.steps + part.steps, tasks: done.tasks + part.tasks };
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = server.cpu_seconds()? - cpu_seconds;
    let (syncs, log_bytes) = (client.stat("log_syncs_count")? - syncs, client.stat("log_bytes")? - log_bytes);
    server.stop()?;
    let settings = format!(
        "{WORKERS} workers of {SLOTS} slots, a call tells of all {SLOTS}; {waiting} waiting at first; values {VALUE}; {} done in {seconds:.1} s",
        done.tasks
    );
    Ok(Run { workload, settings, done, seconds, cpu_seconds, syncs, log_bytes })
}

/// Works until there is nothing left or the time is over. All that it holds are equally far.
fn work(address: &str, steps: u32, until: Instant) -> Result<Done> {
    let mut worker = Client::worker(address, SLOTS)?;
    let mut done = Done::default();
    let mut held: Vec<Work> = worker.ops(Vec::new(), SLOTS)?;
    while !held.is_empty() && Instant::now() < until {
        for number in 0..steps {
            worker.ops(held.iter().map(|work| step(work, number)).collect(), 0)?;
            done.steps += held.len() as u64;
        }
        let next = worker.ops(held.iter().map(finish).collect(), SLOTS)?;
        done.tasks += held.len() as u64;
        held = next;
    }
    Ok(done)
}

pub(crate) fn spawns(bench: &Bench) -> Result<Vec<Figure>> {
    let server = bench.serve("spawns")?;
    let address = server.address();
    let mut client = Client::open(&address)?;
    let (syncs, log_bytes) = (client.stat("log_syncs_count")?, client.stat("log_bytes")?);
    let cpu_seconds = server.cpu_seconds()?;
    let (count, took) = spawn_all(&address, bench.time, usize::MAX)?;
    let cpu_seconds = server.cpu_seconds()? - cpu_seconds;
    let (syncs, log_bytes) = (client.stat("log_syncs_count")? - syncs, client.stat("log_bytes")? - log_bytes);
    server.stop()?;
    let settings = format!("{SPAWNERS} connections, {BATCH} tasks by a call; input {VALUE}; {count} spawned");
    let figure = |name: &str, value: f64, unit| Figure::new("spawns", &settings, name, value, unit);
    Ok(vec![
        figure("rate", count as f64 / took.as_secs_f64(), "/s").at_least(50_000.0),
        figure("the server's processor time", cpu_seconds * 1e6 / count as f64, "us/task"),
        figure("syncs", syncs as f64 / count as f64, "/task"),
        figure("log", log_bytes as f64 / count as f64, "B/task"),
    ])
}

/// Spawns for so long, or about so many tasks; says how many and how long it took.
fn spawn_all(address: &str, time: Duration, tasks_max: usize) -> Result<(usize, Duration)> {
    let began = Instant::now();
    let spawner = |address: String| {
        thread::spawn(move || -> Result<usize> {
            let mut client = Client::open(&address)?;
            let mut count = 0;
            while began.elapsed() < time && count < tasks_max / SPAWNERS {
                client.spawn(BATCH)?;
                count += BATCH;
            }
            Ok(count)
        })
    };
    let spawners: Vec<_> = (0..SPAWNERS).map(|_| spawner(address.to_owned())).collect();
    let mut count = 0;
    for spawner in spawners {
        count += spawner.join().map_err(|_| "a spawner panicked".to_owned())??;
    }
    Ok((count, began.elapsed()))
}
