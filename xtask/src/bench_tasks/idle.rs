//! An idle server: how long from a spawn, or an event, until the worker that waits for it has the task.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, finish, wait_for_event};
use super::disk::Disk;
use super::figure::{Figure, quantile};
use super::{Bench, Result};

const WORKLOAD: &str = "idle";
/// After the worker's last call: then its poll is parked, and nothing is under way any more.
const QUIET: Duration = Duration::from_millis(5);
/// Nothing takes so long.
const ARRIVES: Duration = Duration::from_secs(30);
const BEGUN: usize = 20;
/// What a server may use that does nothing.
const RESIDENT_BYTES_MAX: f64 = 50e6;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let server = bench.serve("idle")?;
    let address = server.address();
    let resident = server.resident_bytes()?;
    let mut client = Client::open(&address)?;
    let (sender, arrived) = channel();
    let (told, polls) = channel();
    let mut worker = Client::worker(&address, 1)?;
    thread::spawn(move || -> Result<()> {
        let mut n = 0;
        loop {
            let work = worker.poll(1)?;
            let Some(task) = work.first() else { continue };
            if sender.send(Instant::now()).is_err() {
                return Ok(());
            }
            let op = if task.steps.is_empty() { wait_for_event(task, &format!("event{n}")) } else { finish(task) };
            n += usize::from(!task.steps.is_empty());
            worker.ops(vec![op], 0)?;
            // An event that came before the task waits for it would be the answer to that op.
            if told.send(()).is_err() {
                return Ok(());
            }
        }
    });
    let mut took = |call: &mut dyn FnMut(&mut Client) -> Result<()>| -> Result<f64> {
        thread::sleep(QUIET);
        let began = Instant::now();
        call(&mut client)?;
        let arrived = arrived.recv_timeout(ARRIVES).map_err(|e| format!("the worker got nothing: {e}"))?;
        polls.recv_timeout(ARRIVES).map_err(|e| format!("the worker does not poll again: {e}"))?;
        Ok(arrived.saturating_duration_since(began).as_secs_f64() * 1e3)
    };
    let mut disk = Disk::new(bench.scratch)?;
    let (mut spawns, mut emits) = (Vec::new(), Vec::new());
    let until = Instant::now() + bench.time;
    for n in 0.. {
        spawns.push(took(&mut |client| client.spawn(1))?);
        emits.push(took(&mut |client| client.emit(&format!("event{n}")))?);
        disk.ask()?;
        if Instant::now() >= until && n >= 2 * BEGUN {
            break;
        }
    }
    server.stop()?;
    let mut figures = vec![
        Figure::new(WORKLOAD, "resident, just started", "memory", resident as f64 / 1e6, "MB")
            .at_most(RESIDENT_BYTES_MAX / 1e6),
    ];
    for (name, mut values) in [("spawn to start", spawns), ("emit to continue", emits)] {
        let settings = format!(
            "{} times, one worker parked, F50 {:.2} ms, F99 {:.2} ms",
            values.len() - BEGUN,
            disk.p50(),
            disk.p99()
        );
        values.drain(..BEGUN);
        let mut figure = |part: f64, what: &str, bound: f64| {
            let value = quantile(&mut values, part);
            Figure::new(WORKLOAD, &settings, &format!("{name}, {what}"), value, "ms").at_most(bound)
        };
        figures.push(figure(0.5, "p50", 2.0 * disk.p50() + 1.0));
        figures.push(figure(0.99, "p99", 2.0 * disk.p99() + 2.0));
    }
    Ok(figures)
}
