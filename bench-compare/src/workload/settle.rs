//! Waiting until an engine has nothing left to do.
//!
//! After a flush an engine counts as settled when it says so itself and its process has used next to
//! no processor time and written nothing for a while; the while is not counted.

use std::time::{Duration, Instant};

use super::Bench;
use crate::engine::Result;
use crate::measure::{Usage, cpu_time};

/// So long it must be quiet.
const QUIET: Duration = Duration::from_millis(300);
/// How often to look.
const LOOK: Duration = Duration::from_millis(20);
/// Processor time in [`QUIET`] that threads which only wait may use.
const IDLE_CPU: Duration = Duration::from_millis(12);
/// An engine that works on for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Flushes and waits; returns when the work ended.
pub fn settle(bench: &Bench) -> Result<Instant> {
    bench.engine.flush()?;
    let began = Instant::now();
    loop {
        let quiet_from = Instant::now();
        let (cpu, written) = (cpu_time(), Usage::now()?.write_bytes);
        let mut busy = false;
        while !busy && quiet_from.elapsed() < QUIET {
            std::thread::sleep(LOOK);
            busy = bench.engine.is_busy()? || cpu_time() - cpu > IDLE_CPU || Usage::now()?.write_bytes != written;
        }
        if !busy {
            return Ok(quiet_from);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("not settled after {} s", PATIENCE.as_secs()).into());
        }
    }
}
