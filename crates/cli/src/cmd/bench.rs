//! `cairn bench`: measures our own workloads, in this process or over HTTP.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cairn::Db;
use cairn_bench::{Data, Measurement, Peer, Settings, Workload};
use cairn_env::Env;
use clap::Args;
use clap::builder::PossibleValue;
use serde_json::json;

use crate::cmd::serve::{Durability, Profile};
use crate::failure::Failure;
use crate::output;
use crate::target::{self, read_token};
use crate::text;

/// Measure reads, writes and scans of this machine's disk and processor
///
/// Loads --keys keys, then runs each workload for --seconds from each number of --callers, and
/// prints operations per second and how long they took (half, 99 in 100, 999 in 1,000, all).
/// Every answer is checked. The keys begin with `bench-` and stay: a second run need not load them.
///
///     cairn bench                                      in this process, in ./cairn-bench
///     cairn bench --callers 1,4 --durability os        threads; without waiting for the disk
///     cairn bench --url http://127.0.0.1:8080          over HTTP, 1 and 64 connections
///     cairn bench --url URL --connections 50 --threads 2 --workload put-random,get-uniform
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Bench {
    /// Measure the engine in this process, in this directory [default: ./cairn-bench]
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    dir: Option<PathBuf>,
    /// Measure this server over HTTP
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A file that holds the server's token
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// Which workloads, comma-separated [default: all]
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',', hide_default_value = true)]
    workload: Vec<Named>,
    /// How many threads (--dir) or connections (--url) ask at once, comma-separated
    /// [default: --dir 1,4, --url 1,64]
    #[arg(long, visible_alias = "connections", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4096))]
    callers: Vec<u16>,
    /// How many threads the connections share: more take more of a machine that the server is on as well
    #[arg(long, value_name = "N", default_value_t = 1, requires = "url", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How many keys there are
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// How long every value is
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = text::parse_bytes)]
    value_bytes: u64,
    /// How long each workload runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// What keys and values are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// When a write is done: commit, interval:TIME or os, as for serve (a server has its own)
    #[arg(long, default_value = "commit", value_parser = Durability::parse, conflicts_with = "url")]
    durability: Durability,
    /// Sizes and triggers, as for serve
    #[arg(long, value_enum, default_value_t = Profile::Default, conflicts_with = "url")]
    profile: Profile,
    /// The memory budget, such as 256MiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = text::parse_bytes, conflicts_with = "url")]
    memory: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A workload as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named(Workload);

/// Every workload as a possible value, in order.
static NAMED: [Named; Workload::ALL.len()] = {
    let mut named = [Named(Workload::PutSequential); Workload::ALL.len()];
    let mut index = 0;
    while index < named.len() {
        named[index] = Named(Workload::ALL[index]);
        index += 1;
    }
    named
};

impl clap::ValueEnum for Named {
    fn value_variants<'a>() -> &'a [Named] {
        &NAMED
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()).help(self.0.summary()))
    }
}

/// One line of the result.
struct Row {
    workload: Workload,
    callers: usize,
    measured: Measurement,
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let limit = cairn::VALUE_BYTES_MAX;
        let value_bytes = usize::try_from(self.value_bytes).ok().filter(|&bytes| bytes <= limit);
        let settings = Settings {
            keys: self.keys,
            value_bytes: value_bytes
                .ok_or_else(|| Failure::new(format!("a value has at most {}", text::human_bytes(limit as u64))))?,
            duration: Duration::from_secs(self.seconds),
            seed: self.seed,
        };
        let env = Env::real();
        let data = Arc::new(Data::new(&settings));
        let rows = match &self.url {
            Some(url) => self.over_http(&env, url, &data, &settings)?,
            None => self.embedded(&env, &data, &settings)?,
        };
        let (machine, how) = (cairn_bench::machine(&env), self.settings_line());
        output::line(&if self.json { as_json(&rows, &machine, &how) } else { as_text(&rows, &machine, &how) })?;
        Ok(ExitCode::SUCCESS)
    }

    fn embedded(&self, env: &Env, data: &Arc<Data>, settings: &Settings) -> Result<Vec<Row>, Failure> {
        let dir = self.dir.clone().unwrap_or_else(|| "cairn-bench".into());
        let db = Db::open_in(env, &dir, self.durability.apply(self.profile.options(), self.memory))?;
        let bar = output::progress_bar(settings.keys);
        cairn_bench::load_embedded(&db, data, |keys| bar.set_position(keys))?;
        bar.finish_and_clear();
        let mut rows = Vec::new();
        for workload in self.workloads() {
            for callers in self.callers(&[1, 4]) {
                let spinner = output::spinner(workload.name());
                let measured = cairn_bench::run_embedded(env, &db, data, settings, workload, callers)?;
                spinner.finish_and_clear();
                rows.push(Row { workload, callers, measured });
            }
        }
        db.close()?;
        Ok(rows)
    }

    fn over_http(&self, env: &Env, url: &str, data: &Arc<Data>, settings: &Settings) -> Result<Vec<Row>, Failure> {
        let token = self.token_file.as_deref().map(|path| read_token(env, path)).transpose()?;
        let peer = Peer { url: url.to_owned(), token };
        target::runtime_of(usize::from(self.threads))?.block_on(async {
            let bar = output::progress_bar(settings.keys);
            cairn_bench::load_http(&peer.client()?, data, |keys| bar.set_position(keys)).await?;
            bar.finish_and_clear();
            let mut rows = Vec::new();
            for workload in self.workloads() {
                for callers in self.callers(&[1, 64]) {
                    let spinner = output::spinner(workload.name());
                    let measured = cairn_bench::run_http(env, &peer, data, settings, workload, callers).await?;
                    spinner.finish_and_clear();
                    rows.push(Row { workload, callers, measured });
                }
            }
            Ok(rows)
        })
    }

    fn workloads(&self) -> Vec<Workload> {
        if self.workload.is_empty() {
            return Workload::ALL.to_vec();
        }
        self.workload.iter().map(|named| named.0).collect()
    }

    fn callers(&self, default: &[usize]) -> Vec<usize> {
        let mut callers: Vec<usize> = self.callers.iter().copied().map(usize::from).collect();
        if callers.is_empty() {
            callers = default.to_vec();
        }
        callers.dedup();
        callers
    }

    fn settings_line(&self) -> String {
        let data = format!(
            "{} keys, {} byte values, {} s each, seed {}",
            self.keys, self.value_bytes, self.seconds, self.seed
        );
        match &self.url {
            Some(url) => format!("{data}, HTTP {url}, threads of load: {}", self.threads),
            None => format!(
                "{data}, embedded, durability {}, profile {}, memory {}",
                self.durability,
                self.profile,
                text::human_bytes(self.memory)
            ),
        }
    }
}

/// A time as people read it.
fn human_time(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} us", ns / 1e3),
        ..1e9 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

fn as_text(rows: &[Row], machine: &str, how: &str) -> String {
    let mut lines = vec![format!("cairn {}, {machine}", env!("CARGO_PKG_VERSION")), how.to_owned()];
    lines.push(format!(
        "{:<12} {:>7} {:>12} {:>13} {:>10} {:>10} {:>10} {:>10}",
        "workload", "callers", "ops/s", "entries/s", "p50", "p99", "p99.9", "max"
    ));
    for Row { workload, callers, measured } in rows {
        lines.push(format!(
            "{:<12} {callers:>7} {:>12.0} {:>13.0} {:>10} {:>10} {:>10} {:>10}",
            workload.name(),
            measured.operations_per_second(),
            measured.entries_per_second(),
            human_time(measured.p50_ns),
            human_time(measured.p99_ns),
            human_time(measured.p999_ns),
            human_time(measured.max_ns),
        ));
    }
    lines.join("\n")
}

fn as_json(rows: &[Row], machine: &str, how: &str) -> String {
    let results: Vec<_> = rows
        .iter()
        .map(|Row { workload, callers, measured }| {
            json!({
                "workload": workload.name(),
                "callers": callers,
                "operations": measured.operations,
                "entries": measured.entries,
                "elapsed_ms": u64::try_from(measured.elapsed.as_millis()).unwrap_or(u64::MAX),
                "operations_per_second": measured.operations_per_second(),
                "p50_ns": measured.p50_ns,
                "p99_ns": measured.p99_ns,
                "p999_ns": measured.p999_ns,
                "max_ns": measured.max_ns,
            })
        })
        .collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "machine": machine, "settings": how, "results": results }).to_string()
}
