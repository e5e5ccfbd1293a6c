//! `cargo xtask bench-tasks`: how fast tasks are, and whether that is as fast as they should be.
//!
//! Each workload starts the release binary on a fresh directory and speaks the worker protocol to it, or opens
//! the database in this process ("embedded"). What waits for the disk is held against what the same disk took
//! for a small durable write in the same run. One table at the end; the figures of the system whose model
//! these tasks follow stand below it, measured on a machine of the same kind.
//!
//! Owns the workloads and their targets. Refuses to judge by exit code: a figure that is not met is told.

mod backlog;
mod client;
pub(crate) mod disk;
mod embedded;
pub(crate) mod figure;
mod flight;
mod idle;
mod resume;
mod retention;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use backlog::run_claims;

use crate::prove::{commit, machine};
use crate::server::Server;
use figure::Figure;

type Result<T> = std::result::Result<T, String>;

/// What to measure.
pub(crate) struct Plan {
    /// For each measurement that can last as long as one likes.
    pub(crate) seconds: u64,
    /// Only these workloads, if any are named.
    pub(crate) only: Vec<String>,
    /// How many "a million" is.
    pub(crate) waiting: usize,
    /// Where the figures go for machines.
    pub(crate) json: Option<PathBuf>,
    /// Where databases go.
    pub(crate) scratch: PathBuf,
    pub(crate) root: PathBuf,
    /// The release binary `cairn`.
    pub(crate) binary: PathBuf,
}

/// What every workload is given.
struct Bench<'a> {
    time: Duration,
    waiting: usize,
    scratch: &'a Path,
    binary: &'a Path,
}

impl Bench<'_> {
    /// A directory that does not exist yet.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", dir.display())),
            _ => Ok(dir),
        }
    }

    fn serve(&self, name: &str) -> Result<Server> {
        self.serve_on(&self.fresh(name)?)
    }

    fn serve_on(&self, dir: &Path) -> Result<Server> {
        Server::start(self.binary, dir, "127.0.0.1:0", &[])
    }
}

/// A workload's name, what it shows, and how it is measured.
type Workload = (&'static str, &'static str, fn(&Bench<'_>) -> Result<Vec<Figure>>);

const WORKLOADS: &[Workload] = &[
    ("idle", "an idle server: spawn to start, emit to continue, memory", idle::run),
    ("embedded", "one task alone in this process: time, syncs, bytes of log", embedded::run),
    ("empty", "32 empty tasks in flight over HTTP", flight::empty),
    ("steps", "32 tasks of 10 steps in flight over HTTP", flight::steps),
    ("spawns", "spawns in batches of 100 over HTTP", flight::spawns),
    ("claims", "what a claim costs beside many that wait", backlog::claims),
    ("restart", "a restart with many that wait", backlog::restart),
    ("resume", "a task of 1,000 recorded steps is handed out again", resume::run),
    ("retention", "what has expired goes, with its disk space", retention::run),
];

/// The system whose model this one follows, at 32 in flight but for the last two; and how its figure is compared.
const MODEL: &[(&str, &str, f64, &str)] = &[
    ("empty tasks", "rate", 1_021.0, "/s"),
    ("10-step tasks", "steps", 1_341.0, "/s"),
    ("spawns", "rate", 2_599.0, "/s"),
    ("idle", "spawn to start, p50", 134.0, "ms, spawn to complete"),
    ("claims", "many wait in its lane, p50", 42_000.0, "us, with 50,000 waiting"),
];

/// A line for each workload.
pub(crate) fn told() -> String {
    WORKLOADS.iter().map(|(name, what, _)| format!("{name:10} {what}\n")).collect()
}

fn compared(figures: &[Figure]) -> String {
    let mut text = "the model system on PostgreSQL 15, on a machine of this kind, best of several passes:\n".to_owned();
    for (workload, name, theirs, unit) in MODEL {
        let ours = figures.iter().find(|figure| figure.workload == *workload && figure.name == *name);
        let factor = ours
            .and_then(|figure| figure.value)
            .map(|ours| if unit.starts_with("/s") { ours / theirs } else { theirs / ours });
        let factor = factor.map_or_else(String::new, |factor| format!("; ours is {factor:.1} times as good"));
        text.push_str(&format!("  {workload}, {name}: {theirs} {unit}{factor}\n"));
    }
    text
}

/// Measures and tells.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    if let Some(unknown) = plan.only.iter().find(|name| !WORKLOADS.iter().any(|(known, ..)| known == name)) {
        return Err(format!("there is no workload {unknown}; there are\n{}", told()));
    }
    fs::create_dir_all(&plan.scratch).map_err(|e| format!("{}: {e}", plan.scratch.display()))?;
    let mut disk = disk::Disk::asked(&plan.scratch)?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let head = vec![
        format!("commit {}", commit(&plan.root)),
        machine(&plan.scratch),
        format!("load before: {}", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        format!("fdatasync after a small write: F50 {:.2} ms, F99 {:.2} ms", disk.p50(), disk.p99()),
    ];
    println!("{}\n", head.join("\n"));
    let time = Duration::from_secs(plan.seconds);
    let bench = Bench { time, waiting: plan.waiting, scratch: &plan.scratch, binary: &plan.binary };
    let mut figures = Vec::new();
    for (name, what, measure) in WORKLOADS {
        if plan.only.is_empty() || plan.only.iter().any(|only| only == name) {
            eprintln!("{name}: {what}");
            figures.extend(measure(&bench).map_err(|e| format!("{name}: {e}"))?);
        }
    }
    println!("{}", figure::table(&figures));
    print!("{}", compared(&figures));
    match &plan.json {
        Some(file) => fs::write(file, figure::to_json(&head, &figures)).map_err(|e| format!("{}: {e}", file.display())),
        None => Ok(()),
    }
}
