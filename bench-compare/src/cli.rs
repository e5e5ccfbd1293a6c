//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::data::VALUE_BYTES_MIN;
use crate::engine::{KINDS, Kind, Result};
use crate::results::Config;
use crate::scenario::{SCENARIOS, Scenario};
use crate::{child, engine, one, run, scenario, table};

#[derive(Parser)]
#[command(name = "compare", about = "Cairn and other storage engines, measured on the same workloads", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure; run again, it goes on where it was stopped
    Run(RunArgs),
    /// Print tables of results, and which targets are reached
    Table(TableArgs),
    /// Run workloads on one engine in this process, for a profiler; keeps the loaded database
    One(OneArgs),
    /// What `run` starts
    #[command(hide = true)]
    Child { task: String },
}

#[derive(Args)]
struct Sizes {
    /// Keys to load
    #[arg(long, default_value_t = 2_000_000)]
    keys: u64,
    /// Length of every value, in bytes
    #[arg(long, default_value_t = 100)]
    value: usize,
    /// Cache of every engine, in MiB
    #[arg(long, default_value_t = 64)]
    cache_mib: u64,
    /// How long a timed workload runs
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    sizes: Sizes,
    /// Which engines, by name
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Which scenarios: sorted, main, sync, delete, open, steady, cgroup
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// How often
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// Small and short, for development: 200,000 keys, workloads of half a second
    #[arg(long)]
    quick: bool,
    /// Idle time of scenario delete, in seconds
    #[arg(long, default_value_t = 10.0)]
    idle_seconds: f64,
    /// Length of scenario steady
    #[arg(long, default_value_t = 180.0)]
    steady_seconds: f64,
    /// Memory group of scenario cgroup, in MiB
    #[arg(long, default_value_t = 120)]
    mem_max_mb: u64,
    /// Where the result lines go
    #[arg(long, default_value = "target/results")]
    results: PathBuf,
    /// Where the databases go, on the device to measure; `work` below the results unless named. It is emptied.
    #[arg(long)]
    work: Option<PathBuf>,
    /// A process that runs longer than so many seconds has failed
    #[arg(long, default_value_t = 1_800)]
    timeout_s: u64,
    /// Run again what failed or was skipped
    #[arg(long)]
    retry_failed: bool,
}

#[derive(Args)]
struct TableArgs {
    /// Files of results, or directories of them
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// As JSON, with every figure
    #[arg(long)]
    json: bool,
    /// Every figure, not only those that matter most
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
struct OneArgs {
    #[command(flatten)]
    sizes: Sizes,
    /// Which engine
    #[arg(long, default_value = "cairn")]
    engine: String,
    /// Which workloads of scenario main, in order
    #[arg(long, value_delimiter = ',', required = true)]
    workloads: Vec<String>,
    /// Where the database is or will be; loaded if it is empty
    #[arg(long, default_value = "target/one")]
    dir: PathBuf,
}

/// Reads the command line and does what it says.
pub fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(&plan(args)?),
        Command::Table(args) => table::print(&args.results, args.json, args.all),
        Command::One(args) => {
            let sizes = check(args.sizes)?;
            let config = config(&sizes, 0.0, 0.0, 0);
            one::run(engine::kind(&args.engine)?, &args.workloads, &config, &args.dir)
        }
        Command::Child { task } => child::run(&serde_json::from_str(&task)?),
    }
}

fn config(sizes: &Sizes, idle_seconds: f64, steady_seconds: f64, mem_max_mb: u64) -> Config {
    Config {
        keys: sizes.keys,
        value_bytes: sizes.value,
        cache_mib: sizes.cache_mib,
        seconds: sizes.seconds,
        idle_seconds,
        steady_seconds,
        mem_max_mb,
    }
}

/// Sizes with which the workloads make sense.
fn check(sizes: Sizes) -> Result<Sizes> {
    if sizes.keys < 10_000 {
        return Err(format!("--keys {}: at least 10000 are needed", sizes.keys).into());
    }
    if sizes.value < VALUE_BYTES_MIN {
        return Err(format!("--value {}: at least {VALUE_BYTES_MIN} bytes are needed", sizes.value).into());
    }
    if sizes.cache_mib == 0 {
        return Err("--cache-mib 0: at least 1 is needed".into());
    }
    if !(0.01..=3_600.0).contains(&sizes.seconds) {
        return Err(format!("--seconds {}: 0.01 to 3600", sizes.seconds).into());
    }
    Ok(sizes)
}

fn plan(args: RunArgs) -> Result<run::Plan> {
    let mut sizes = args.sizes;
    let (mut idle_seconds, mut steady_seconds) = (args.idle_seconds, args.steady_seconds);
    if args.quick {
        (sizes.keys, sizes.seconds) = (200_000, 0.5);
        (idle_seconds, steady_seconds) = (2.0, 10.0);
    }
    let sizes = check(sizes)?;
    if !(0.0..=3_600.0).contains(&idle_seconds) || !(1.0..=86_400.0).contains(&steady_seconds) {
        return Err("--idle-seconds is 0 to 3600, --steady-seconds 1 to 86400".into());
    }
    let engines: Vec<&'static Kind> = match args.engines.as_slice() {
        [] => KINDS.iter().collect(),
        names => names.iter().map(|name| engine::kind(name)).collect::<Result<_>>()?,
    };
    let scenarios: Vec<&'static Scenario> = match args.scenarios.as_slice() {
        [] => SCENARIOS.iter().collect(),
        names => names.iter().map(|name| scenario::scenario(name)).collect::<Result<_>>()?,
    };
    Ok(run::Plan {
        engines,
        scenarios,
        reps: args.reps,
        config: config(&sizes, idle_seconds, steady_seconds, args.mem_max_mb),
        work: args.work.unwrap_or_else(|| args.results.join("work")),
        results: args.results,
        timeout: Duration::from_secs(args.timeout_s),
        retry_failed: args.retry_failed,
    })
}
