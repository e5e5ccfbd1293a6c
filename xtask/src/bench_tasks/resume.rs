//! A task with many recorded steps, handed out again after the server was killed.

use std::time::Instant;

use super::client::{Client, VALUE, release, step};
use super::figure::Figure;
use super::{Bench, Result};

const STEPS: u32 = 1_000;
const BY_A_CALL: usize = 100;
const MILLIS_MAX: f64 = 100.0;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let dir = bench.fresh("resume")?;
    let server = bench.serve_on(&dir)?;
    let mut worker = Client::worker(&server.address(), 1)?;
    Client::open(&server.address())?.spawn(1)?;
    let work = worker.poll(1)?;
    let work = work.first().ok_or("the task that was spawned is not handed out")?;
    let numbers: Vec<u32> = (0..STEPS).collect();
    for numbers in numbers.chunks(BY_A_CALL) {
        worker.ops(numbers.iter().map(|number| step(work, *number)).collect(), 0)?;
    }
    worker.ops(vec![release(work)], 0)?;
    server.kill()?;
    let server = bench.serve_on(&dir)?;
    let mut worker = Client::worker(&server.address(), 1)?;
    let began = Instant::now();
    let work = worker.poll(1)?;
    let millis = began.elapsed().as_secs_f64() * 1e3;
    server.stop()?;
    let steps = work.first().map_or(0, |work| work.steps.len());
    if steps != numbers.len() {
        return Err(format!("the task came with {steps} of {STEPS} steps"));
    }
    let settings = format!("{STEPS} steps recorded, values {VALUE}, server killed before, poll to all steps");
    Ok(vec![Figure::new("resume", &settings, "hand-out", millis, "ms").at_most(MILLIS_MAX)])
}
