//! What the workloads share: the database they run on, and how they are measured and told.

pub mod delete;
pub mod device;
pub mod get;
pub mod load;
pub mod open;
mod pace;
pub mod rww;
pub mod scan;
pub mod settle;
pub mod steady;
pub mod sync;
pub mod write;
pub mod ycsb;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_bench::random::Random;

use crate::data::Data;
use crate::engine::{Engine, Result};
use crate::measure::{Machine, Metrics, Usage, load_average, peak_rss_mib, reset_peak_rss};
use crate::results::{END, Record, Status, unix_seconds};

/// Decides which keys are asked for. One seed for all runs: every engine gets the same requests.
const SEED: u64 = 20_261_123;

/// An open database and its data.
pub struct Bench<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// The keys and values in it.
    pub data: &'a Data,
    /// Where it is.
    pub dir: &'a Path,
    /// How long a timed workload runs.
    pub duration: Duration,
}

impl Bench<'_> {
    /// The requests of one caller of a workload.
    pub fn random(&self, workload: &str, caller: u64) -> Random {
        let name = workload.bytes().fold(0u64, |hash, byte| crate::data::mix(hash ^ u64::from(byte)));
        Random::new(SEED ^ name ^ caller << 48)
    }
}

/// Measures workloads and writes a line for each.
pub struct Reporter {
    template: Record,
}

impl Reporter {
    /// Lines like `template`.
    pub fn new(template: Record) -> Reporter {
        Reporter { template }
    }

    /// Runs a workload and writes its line to standard output, and a word to standard error.
    pub fn measure(&self, workload: &str, run: impl FnOnce() -> Result<Metrics>) -> Result<()> {
        let load_before = load_average();
        reset_peak_rss()?;
        let (machine, usage, began) = (Machine::now()?, Usage::now()?, Instant::now());
        let mut metrics = run().map_err(|error| format!("{workload}: {error}"))?;
        let wall = began.elapsed();
        let (usage_after, machine_after) = (Usage::now()?, Machine::now()?);
        let (other_cores, stolen_cores) = machine_after.others_since(&machine);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for (name, value) in [
            ("wall_s", wall.as_secs_f64()),
            ("cpu_s", (usage_after.cpu - usage.cpu).as_secs_f64()),
            ("io_read_mib", mib(usage_after.read_bytes - usage.read_bytes)),
            ("io_write_mib", mib(usage_after.write_bytes - usage.write_bytes)),
            ("rss_peak_mib", peak_rss_mib()?),
        ] {
            metrics.entry(name.to_owned()).or_insert(value);
        }
        self.write(&Record {
            workload: workload.to_owned(),
            metrics,
            load_before,
            other_cores,
            stolen_cores,
            unix_seconds: unix_seconds(),
            ..self.template.clone()
        })
    }

    /// Writes the last line of a run that failed.
    pub fn failed(&self, note: String) -> Result<()> {
        self.write(&Record {
            workload: END.to_owned(),
            status: Status::Failed,
            note,
            unix_seconds: unix_seconds(),
            ..self.template.clone()
        })
    }

    fn write(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.flush()?;
        if let Some(rate) = record.metrics.get("ops_s") {
            eprintln!("    {:<10} {:<26} {rate:>12.0} /s", record.engine, record.workload);
        } else {
            eprintln!("    {:<10} {:<26} {:?}", record.engine, record.workload, record.status);
        }
        Ok(())
    }
}
