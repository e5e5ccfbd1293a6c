//! Result lines: one JSON object for each workload of each run.
//!
//! A run (engine, scenario, repetition) has a file of its own below a directory named for the
//! configuration. While it is under way the file's name ends in `.partial`; a file without that is
//! complete, its last line being the run's [`Status`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::Result;
use crate::measure::Metrics;

/// What decides whether results can be held beside each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Keys loaded.
    pub keys: u64,
    /// The length of every value, in bytes.
    pub value_bytes: usize,
    /// Cache of every engine, in MiB.
    pub cache_mib: u64,
    /// How long a timed workload runs.
    pub seconds: f64,
    /// Idle time of scenario `delete`.
    pub idle_seconds: f64,
    /// Length of scenario `steady`.
    pub steady_seconds: f64,
    /// The memory group of scenario `cgroup`, in MiB.
    pub mem_max_mb: u64,
}

impl Config {
    /// The name of the directory of results with this configuration.
    pub fn name(&self) -> String {
        let Config { keys, value_bytes, cache_mib, seconds, idle_seconds, steady_seconds, mem_max_mb } = self;
        format!("k{keys}-v{value_bytes}-c{cache_mib}-s{seconds}-i{idle_seconds}-t{steady_seconds}-m{mem_max_mb}")
    }

    /// What a reader wants to know of it.
    pub fn title(&self) -> String {
        format!("{} keys x {} B, cache {} MiB", self.keys, self.value_bytes, self.cache_mib)
    }
}

/// How a run, or one of its workloads, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Measured.
    Ok,
    /// The engine, or the run, came to grief; the note says how.
    Failed,
    /// It could not be tried here; the note says why.
    Skipped,
}

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The engine's name.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// The commit of this tree.
    pub commit: String,
    /// The scenario.
    pub scenario: String,
    /// The workload; [`END`] for the run's last line.
    pub workload: String,
    /// The repetition, from 1.
    pub rep: u32,
    /// How it ended.
    pub status: Status,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Its figures.
    pub metrics: Metrics,
    /// The engine's settings.
    pub settings: String,
    /// The run's configuration.
    pub config: Config,
    /// Load average before it.
    pub load_before: f64,
    /// Cores that other processes kept busy meanwhile.
    pub other_cores: f64,
    /// Cores that the hypervisor took meanwhile.
    pub stolen_cores: f64,
    /// When it ended, in seconds since 1970.
    pub unix_seconds: u64,
}

/// The workload of the last line of a run.
pub const END: &str = "end";

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// The file of a run.
pub fn file_of(results: &Path, config: &Config, scenario: &str, engine: &str, rep: u32) -> PathBuf {
    results.join(config.name()).join(format!("{scenario}.{engine}.{rep}.jsonl"))
}

/// Every line below the given files and directories, and the lines that are none.
pub fn read(paths: &[PathBuf]) -> Result<(Vec<Record>, Vec<String>)> {
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    let mut left: Vec<PathBuf> = paths.to_vec();
    while let Some(path) = left.pop() {
        let named = |error: std::io::Error| format!("{}: {error}", path.display());
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(named)? {
                left.push(entry?.path());
            }
        } else if paths.contains(&path) || path.extension().is_some_and(|end| end == "jsonl") {
            for (index, line) in std::fs::read_to_string(&path).map_err(named)?.lines().enumerate() {
                match serde_json::from_str(line) {
                    Ok(record) => records.push(record),
                    Err(error) => problems.push(format!("{}:{}: {error}", path.display(), index + 1)),
                }
            }
        }
    }
    Ok((records, problems))
}
