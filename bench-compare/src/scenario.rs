//! Which workloads run on one database, in which order: a scenario is a process, or several that follow one another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::engine::{Engine, Kind, Result, Setup};
use crate::results::Config;
use crate::workload::get::{self, Pick};
use crate::workload::settle::settle;
use crate::workload::{Bench, Reporter, delete, load, open, rww, scan, steady, sync, write, ycsb};

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The engine's name.
    pub engine: String,
    /// The scenario's name.
    pub scenario: String,
    /// Which of the scenario's phases, from 0.
    pub phase: usize,
    /// The repetition, from 1.
    pub rep: u32,
    /// The run's configuration.
    pub config: Config,
    /// A directory of its own, on the device that is measured.
    pub dir: PathBuf,
    /// The commit of this tree, for the result lines.
    pub commit: String,
    /// A memory group to enter before anything else.
    pub memory_group: Option<PathBuf>,
}

/// How a phase's process is expected to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Exit,
    /// It kills itself.
    Kill,
}

/// A process of a scenario.
pub struct Phase {
    /// How it ends.
    pub ending: Ending,
    run: fn(&Run) -> Result<()>,
}

/// A scenario.
pub struct Scenario {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// Its processes, in order; they share a directory.
    pub phases: &'static [Phase],
    /// Whether its processes run in a memory group.
    pub in_memory_group: bool,
}

const fn plain(name: &'static str, phases: &'static [Phase]) -> Scenario {
    Scenario { name, phases, in_memory_group: false }
}

const fn exits(run: fn(&Run) -> Result<()>) -> Phase {
    Phase { ending: Ending::Exit, run }
}

/// All scenarios, in the order they run.
pub const SCENARIOS: &[Scenario] = &[
    plain("sorted", &[exits(sorted)]),
    plain("main", &[exits(main)]),
    plain("sync", &[exits(put_sync)]),
    plain("delete", &[exits(deletes), exits(delete_half)]),
    plain("open", &[exits(open_clean), Phase { ending: Ending::Kill, run: kill }, exits(open_after_kill)]),
    plain("steady", &[exits(steady)]),
    Scenario { name: "cgroup", phases: &[exits(cgroup)], in_memory_group: true },
];

/// The scenario of a name.
pub fn scenario(name: &str) -> Result<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        format!("no scenario is called {name}; there are: {}", names.join(", ")).into()
    })
}

/// How the engine is opened for a scenario.
pub fn setup(scenario: &str, config: &Config) -> Setup {
    let bounded = scenario == "cgroup";
    let cache_mib = if bounded { CGROUP_CACHE_MIB } else { config.cache_mib };
    Setup {
        cache_bytes: cache_mib << 20,
        durable: scenario == "sync",
        memory_bytes_max: bounded.then_some(config.mem_max_mb << 20),
    }
}

/// The cache of scenario `cgroup`, in MiB.
const CGROUP_CACHE_MIB: u64 = 32;
/// Its keys, unless fewer were asked for.
const CGROUP_KEYS_MAX: u64 = 1_000_000;
/// Callers of scenario `sync`.
const SYNC_CALLERS: [u64; 4] = [1, 4, 16, 64];

/// A phase under way.
pub struct Run<'a> {
    task: &'a Task,
    kind: &'static Kind,
    reporter: &'a Reporter,
    setup: Setup,
    data: Data,
    duration: Duration,
}

/// Carries out a task in this process.
pub fn carry_out(task: &Task, reporter: &Reporter) -> Result<()> {
    let scenario = scenario(&task.scenario)?;
    let phase = scenario.phases.get(task.phase).ok_or("there is no such phase")?;
    let keys = if scenario.in_memory_group { task.config.keys.min(CGROUP_KEYS_MAX) } else { task.config.keys };
    let run = Run {
        task,
        kind: crate::engine::kind(&task.engine)?,
        reporter,
        setup: setup(scenario.name, &task.config),
        data: Data::new(keys, task.config.value_bytes),
        duration: Duration::from_secs_f64(task.config.seconds),
    };
    (phase.run)(&run)
}

impl Run<'_> {
    /// A directory below the task's; created if it is not there.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.task.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>> {
        (self.kind.open)(dir, &self.setup)
    }

    /// Opens a database in the directory `db`, does something with it, and closes it.
    fn with_database(&self, run: impl FnOnce(&Bench) -> Result<()>) -> Result<()> {
        let dir = self.dir("db")?;
        let engine = self.open(&dir)?;
        run(&Bench { engine: engine.as_ref(), data: &self.data, dir: &dir, duration: self.duration })?;
        engine.close()
    }
}

fn sorted(run: &Run) -> Result<()> {
    run.with_database(|bench| run.reporter.measure("load_sorted", || load::load(bench, true)))
}

/// The workloads of scenario `main`, in order, as [`work`] names them.
pub const MAIN: &[&str] = &[
    "load_random",
    "get_hot",
    "get_uniform",
    "get_zipf",
    "get_missing",
    "multi_get",
    "get_uniform_t2",
    "scan100",
    "scan100_rev",
    "scan_full",
    "scan_full_rev",
    "overwrite",
    "ycsb_a",
    "ycsb_b",
    "ycsb_c",
    "ycsb_f",
    "ycsb_d",
    "ycsb_e",
    "rww_max",
    "rww_20k",
];

/// Runs and reports one workload of [`MAIN`] on a database; all but `load_random` need one that is loaded.
pub fn work(bench: &Bench, reporter: &Reporter, workload: &str) -> Result<()> {
    let measure = |run: &dyn Fn() -> Result<crate::measure::Metrics>| reporter.measure(workload, run);
    match workload {
        "load_random" => measure(&|| load::load(bench, false)),
        "get_hot" => measure(&|| get::get(bench, workload, Pick::Hot, 1)),
        "get_uniform" => measure(&|| get::get(bench, workload, Pick::Uniform, 1)),
        "get_zipf" => measure(&|| get::get(bench, workload, Pick::Zipf, 1)),
        "get_missing" => measure(&|| get::get(bench, workload, Pick::Missing, 1)),
        "get_uniform_t2" => measure(&|| get::get(bench, workload, Pick::Uniform, 2)),
        "multi_get" => measure(&|| get::multi_get(bench)),
        "scan100" => measure(&|| scan::scan100(bench, false)),
        "scan100_rev" => measure(&|| scan::scan100(bench, true)),
        "scan_full" => measure(&|| scan::scan_full(bench, false, bench.data.count())),
        "scan_full_rev" => measure(&|| scan::scan_full(bench, true, bench.data.count())),
        "overwrite" => {
            let mut overwritten = None;
            reporter.measure(workload, || {
                let (metrics, left) = write::overwrite(bench)?;
                overwritten = Some(left);
                Ok(metrics)
            })?;
            match &overwritten {
                Some(left) => reporter.measure("overwrite_settle", || write::overwrite_settle(bench, left)),
                None => Ok(()),
            }
        }
        "rww_max" => measure(&|| rww::read_while_writing(bench, workload, None)),
        "rww_20k" => measure(&|| rww::read_while_writing(bench, workload, Some(20_000))),
        _ => match ycsb::MIXES.iter().find(|mix| workload == format!("ycsb_{}", mix.letter)) {
            Some(mix) => measure(&|| ycsb::ycsb(bench, mix)),
            None => Err(format!("no workload is called {workload}; there are: {}", MAIN.join(", ")).into()),
        },
    }
}

fn main(run: &Run) -> Result<()> {
    run.with_database(|bench| MAIN.iter().try_for_each(|workload| work(bench, run.reporter, workload)))
}

fn put_sync(run: &Run) -> Result<()> {
    let device_dir = run.dir("device")?;
    run.with_database(|bench| {
        SYNC_CALLERS.iter().try_for_each(|&callers| {
            run.reporter.measure(&format!("put_sync_t{callers}"), || sync::put_sync(bench, &device_dir, callers))
        })
    })
}

fn cgroup(run: &Run) -> Result<()> {
    run.with_database(|bench| {
        ["load_random", "get_uniform", "get_uniform_t2", "scan100"]
            .iter()
            .try_for_each(|workload| work(bench, run.reporter, workload))
    })
}

fn deletes(run: &Run) -> Result<()> {
    let reporter = run.reporter;
    run.with_database(|bench| {
        load::fill(bench, true)?;
        settle(bench)?;
        let held = bench.engine.snapshot()?;
        reporter.measure("delete_runs", || delete::delete_runs(bench))?;
        reporter.measure("delete_scan10", || delete::scan_across(bench, "delete_scan10"))?;
        drop(held);
        std::thread::sleep(Duration::from_secs_f64(run.task.config.idle_seconds));
        reporter.measure("delete_scan10_idle", || delete::scan_across(bench, "delete_scan10_idle"))?;
        reporter.measure("compact", || delete::compact(bench, delete::left_after_runs(bench.data.keys)))?;
        reporter.measure("delete_scan10_compacted", || delete::scan_across(bench, "delete_scan10_compacted"))
    })
}

/// In a database of its own.
fn delete_half(run: &Run) -> Result<()> {
    let dir = run.dir("half")?;
    let engine = run.open(&dir)?;
    let bench = Bench { engine: engine.as_ref(), data: &run.data, dir: &dir, duration: run.duration };
    load::fill(&bench, true)?;
    settle(&bench)?;
    run.reporter.measure("delete_half", || delete::delete_half(&bench))?;
    let left = run.data.keys.div_ceil(2);
    run.reporter.measure("delete_half_scan_full", || scan::scan_full(&bench, false, left))?;
    engine.close()
}

fn open_clean(run: &Run) -> Result<()> {
    let dir = run.dir("clean")?;
    let engine = run.open(&dir)?;
    let bench = Bench { engine: engine.as_ref(), data: &run.data, dir: &dir, duration: run.duration };
    load::fill(&bench, false)?;
    settle(&bench)?;
    run.reporter.measure("close", || {
        let began = std::time::Instant::now();
        engine.close()?;
        Ok([("close_ms".to_owned(), began.elapsed().as_secs_f64() * 1e3)].into())
    })?;
    let mut opened = None;
    run.reporter.measure("open_clean", || {
        let (engine, metrics) = open::open(&run.data, || run.open(&dir))?;
        opened = Some(engine);
        Ok(metrics)
    })?;
    opened.map_or(Ok(()), Engine::close)
}

fn kill(run: &Run) -> Result<()> {
    run.with_database(|bench| {
        load::fill(bench, false)?;
        open::put_and_kill(bench)
    })
}

fn open_after_kill(run: &Run) -> Result<()> {
    let dir = run.dir("db")?;
    let mut opened = None;
    run.reporter.measure("open_after_kill", || {
        let (engine, mut metrics) = open::open(&run.data, || run.open(&dir))?;
        open::count_kept(engine.as_ref(), &run.data, &mut metrics)?;
        opened = Some(engine);
        Ok(metrics)
    })?;
    opened.map_or(Ok(()), Engine::close)
}

fn steady(run: &Run) -> Result<()> {
    let duration = Duration::from_secs_f64(run.task.config.steady_seconds);
    run.with_database(|bench| {
        load::fill(bench, false)?;
        settle(bench)?;
        run.reporter.measure("steady", || steady::steady(bench, duration))
    })
}
