//! `cargo xtask bench-http`: PUT and GET over HTTP beside SET and GET of redis-server.
//!
//! Each repetition starts each server once for each durability, in a fresh directory and on a port of its own, loads
//! the keys, lets it warm up, and measures writes, then reads: Cairn by `cairn bench`, Redis by redis-benchmark. Both loads are
//! one thread on the same machine, with the same connections, 16-byte keys, values of the same length and no pipelining;
//! one speaks HTTP, the other RESP. The order changes with each repetition. A table of medians at the end, with the
//! processor time that each server took for a request: that is compared more safely than throughput, where other
//! work shares the machine.
//!
//! Owns what is asked of both, the figures and their table. Refuses to judge: no figure fails.

mod redis;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::bench_tasks::disk::Disk;
use crate::bench_tasks::figure::{number, quantile};
use crate::http::Connection;
use crate::prove::{commit, machine};
use crate::server::{Server, cpu_seconds};
use redis::Redis;

type Result<T> = std::result::Result<T, String>;

/// What to measure.
pub(crate) struct Plan {
    /// For each measurement.
    pub(crate) seconds: u64,
    pub(crate) repetitions: u64,
    pub(crate) connections: u64,
    pub(crate) keys: u64,
    pub(crate) value_bytes: u64,
    /// Where each measurement goes as a line of JSON.
    pub(crate) json: Option<PathBuf>,
    /// Where databases go.
    pub(crate) scratch: PathBuf,
    pub(crate) root: PathBuf,
    /// The release binary `cairn`.
    pub(crate) binary: PathBuf,
}

/// What both understand by a durability.
struct Promise {
    /// In the table.
    name: &'static str,
    /// `cairn serve --durability`.
    cairn: &'static str,
    /// `redis-server --appendfsync`.
    redis: &'static str,
}

const PROMISES: [Promise; 2] = [
    Promise { name: "synced before the answer", cairn: "commit", redis: "always" },
    Promise { name: "synced every second", cairn: "interval:1s", redis: "everysec" },
];

/// A workload by its name here, to `cairn bench`, and to redis-benchmark.
const WORKLOADS: [(&str, &str, &str); 2] = [("put", "put-random", "set"), ("get", "get-uniform", "get")];

const SERVERS: [&str; 2] = ["cairn", "redis"];

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
struct Measured {
    server: &'static str,
    promise: usize,
    workload: usize,
    repetition: u64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// The server's processor time for a request, in microseconds.
    cpu_us: f64,
    /// How many requests had one sync together; where writes wait for one, and the server counts them.
    per_sync: Option<f64>,
}

/// What a load saw.
struct Seen {
    requests: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Measures and tells.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    fs::create_dir_all(&plan.scratch).map_err(|e| format!("{}: {e}", plan.scratch.display()))?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut disk = Disk::asked(&plan.scratch)?;
    let head = [
        format!("Cairn {}, {}", commit(&plan.root), redis::version()?),
        format!("{}; load before: {}", machine(&plan.scratch), load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        format!("fdatasync after a small write: F50 {:.2} ms, F99 {:.2} ms", disk.p50(), disk.p99()),
        format!(
            "{} connections, {} keys of 16 bytes, values of {} bytes, {} repetitions of {} s, no pipelining, loads of one \
             thread on the same machine; Cairn over HTTP by cairn bench, Redis over RESP by redis-benchmark",
            plan.connections, plan.keys, plan.value_bytes, plan.repetitions, plan.seconds
        ),
    ];
    println!("{}\n", head.join("\n"));
    let mut all = Vec::new();
    for repetition in 1..=plan.repetitions {
        for (promise, how) in PROMISES.iter().enumerate() {
            // Neither is always the first.
            let turn = usize::from(repetition % 2 == 0);
            for server in [SERVERS[turn], SERVERS[1 - turn]] {
                eprintln!("{repetition} of {}: {server}, {}", plan.repetitions, how.name);
                let measure = if server == "cairn" { measure_cairn } else { measure_redis };
                let measured = measure(plan, promise, repetition).map_err(|e| format!("{server}: {e}"))?;
                all.extend(measured);
            }
        }
    }
    println!("{}", table(&all));
    match &plan.json {
        Some(file) => fs::write(file, to_lines(&head, &all)).map_err(|e| format!("{}: {e}", file.display())),
        None => Ok(()),
    }
}

/// A directory that does not exist yet.
fn fresh(plan: &Plan, name: &str) -> Result<PathBuf> {
    let dir = plan.scratch.join(name);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", dir.display())),
        _ => Ok(dir),
    }
}

fn measure_cairn(plan: &Plan, promise: usize, repetition: u64) -> Result<Vec<Measured>> {
    let dir = fresh(plan, "cairn")?;
    let server = Server::start(&plan.binary, &dir, "127.0.0.1:0", &["--durability", PROMISES[promise].cairn])?;
    cairn_load(plan, server.url(), WORKLOADS[1].1, 1)?;
    let mut all = Vec::new();
    for (workload, (_, name, _)) in WORKLOADS.iter().enumerate() {
        let (cpu, syncs) = (server.cpu_seconds()?, syncs(&server)?);
        let seen = cairn_load(plan, server.url(), name, plan.seconds)?;
        let (cpu, syncs) = (server.cpu_seconds()? - cpu, syncs_since(&server, syncs)?);
        let waits = workload == 0 && PROMISES[promise].cairn == "commit";
        let per_sync = (waits && syncs > 0.0).then(|| seen.requests / syncs);
        all.push(measured("cairn", (promise, workload, repetition), &seen, cpu, per_sync));
    }
    server.stop()?;
    fresh(plan, "cairn")?;
    Ok(all)
}

fn measure_redis(plan: &Plan, promise: usize, repetition: u64) -> Result<Vec<Measured>> {
    let dir = fresh(plan, "redis")?;
    let mut server = Redis::start(&dir, PROMISES[promise].redis)?;
    server.load(plan.keys, plan.value_bytes)?;
    let mut all = Vec::new();
    for (workload, (_, _, name)) in WORKLOADS.iter().enumerate() {
        // It takes a number of requests, not a time: a short run says how many there are in that.
        let warm = server.benchmark(plan, name, 20_000)?;
        let requests = (warm.per_second * plan.seconds as f64).max(20_000.0);
        let cpu = cpu_seconds(server.id())?;
        let seen = server.benchmark(plan, name, requests as u64)?;
        let cpu = cpu_seconds(server.id())? - cpu;
        all.push(measured("redis", (promise, workload, repetition), &seen, cpu, None));
    }
    let misses = server.info("keyspace_misses")?;
    if misses != "0" {
        return Err(format!("{misses} reads met no key"));
    }
    server.stop()?;
    fresh(plan, "redis")?;
    Ok(all)
}

fn measured(
    server: &'static str,
    (promise, workload, repetition): (usize, usize, u64),
    seen: &Seen,
    cpu_seconds: f64,
    per_sync: Option<f64>,
) -> Measured {
    let Seen { requests, per_second, p50_us, p99_us } = *seen;
    let cpu_us = cpu_seconds * 1e6 / requests.max(1.0);
    Measured { server, promise, workload, repetition, per_second, p50_us, p99_us, cpu_us, per_sync }
}

/// Runs `cairn bench`; the first run on a server loads the keys.
fn cairn_load(plan: &Plan, url: &str, workload: &str, seconds: u64) -> Result<Seen> {
    let numbers = [plan.connections, plan.keys, plan.value_bytes, seconds].map(|number| number.to_string());
    let mut command = Command::new(&plan.binary);
    command.args(["bench", "--url", url, "--workload", workload, "--threads", "1", "--json"]);
    for (flag, number) in ["--connections", "--keys", "--value-bytes", "--seconds"].iter().zip(&numbers) {
        command.args([flag, &number.as_str()]);
    }
    let told = output(&mut command)?;
    let told: Value = serde_json::from_str(&told).map_err(|e| format!("cairn bench said {told:?}: {e}"))?;
    let figure = |name: &str| {
        told.pointer(&format!("/results/0/{name}")).and_then(Value::as_f64).ok_or(format!("cairn bench told no {name}"))
    };
    Ok(Seen {
        requests: figure("operations")?,
        per_second: figure("operations_per_second")?,
        p50_us: figure("p50_ns")? / 1e3,
        p99_us: figure("p99_ns")? / 1e3,
    })
}

/// Syncs of the log so far.
fn syncs(server: &Server) -> Result<f64> {
    let mut connection = Connection::open(&server.address()).map_err(|e| format!("{e:?}"))?;
    let metrics = connection.ask("GET", "/v1/metrics", "").map_err(|e| format!("{e:?}"))?.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("cairn_log_syncs_count "));
    line.and_then(|count| count.parse().ok()).ok_or_else(|| "the server does not count its syncs".to_owned())
}

fn syncs_since(server: &Server, before: f64) -> Result<f64> {
    Ok(syncs(server)? - before)
}

/// What a command that ends well has said.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let done = command.output().map_err(|e| format!("cannot start {program}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{program} ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()));
    }
    String::from_utf8(done.stdout).map_err(|e| format!("{program}: {e}"))
}

/// Those of one server, durability and workload, by repetition.
fn of<'a>(all: &'a [Measured], server: &str, promise: usize, workload: usize) -> Vec<&'a Measured> {
    all.iter().filter(|m| (m.server, m.promise, m.workload) == (server, promise, workload)).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&mut values.collect::<Vec<_>>(), 0.5)
}

/// Medians, as a table of a page in Markdown.
fn table(all: &[Measured]) -> String {
    let mut text = "| | Cairn, a second | Redis | ratio | p50, us | Redis | p99, us | Redis | server's us a request | Redis | requests a sync |\n"
        .to_owned();
    text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for (promise, how) in PROMISES.iter().enumerate() {
        for (workload, (name, ..)) in WORKLOADS.iter().enumerate() {
            let [cairn, redis] = SERVERS.map(|server| of(all, server, promise, workload));
            let both = |figure: fn(&Measured) -> f64| {
                [&cairn, &redis].map(|side| number(median(side.iter().map(|measured| figure(measured)))))
            };
            let ([rate, theirs], [p50, their50]) = (both(|m| m.per_second), both(|m| m.p50_us));
            let ([p99, their99], [cpu, their_cpu]) = (both(|m| m.p99_us), both(|m| m.cpu_us));
            let ratio = median(cairn.iter().zip(&redis).map(|(ours, theirs)| ours.per_second / theirs.per_second));
            let syncs: Vec<f64> = cairn.iter().filter_map(|m| m.per_sync).collect();
            let syncs = if syncs.is_empty() { String::new() } else { number(median(syncs.into_iter())) };
            let _ = writeln!(
                text,
                "| {name}, {} | {rate} | {theirs} | {ratio:.2} | {p50} | {their50} | {p99} | {their99} | {cpu} | {their_cpu} | {syncs} |",
                how.name
            );
        }
    }
    text
}

/// The same for machines: what it was measured on, then a line for each measurement.
fn to_lines(head: &[String], all: &[Measured]) -> String {
    let mut text = format!("{}\n", json!({ "head": head }));
    for m in all {
        let Promise { cairn, redis, .. } = &PROMISES[m.promise];
        let line = json!({
            "server": m.server, "workload": WORKLOADS[m.workload].0, "repetition": m.repetition,
            "durability": if m.server == "cairn" { cairn } else { redis },
            "per_second": m.per_second, "p50_us": m.p50_us, "p99_us": m.p99_us,
            "server_cpu_us": m.cpu_us, "requests_per_sync": m.per_sync,
        });
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ratio is the median of ratios within a repetition, not the ratio of medians.
    #[test]
    fn a_row_has_medians_and_the_ratio_within_a_repetition() {
        let rates = [("cairn", [10.0, 200.0, 90.0]), ("redis", [10.0, 50.0, 100.0])];
        let mut all = Vec::new();
        for (server, rates) in rates {
            for (repetition, per_second) in (1..).zip(rates) {
                let seen = Seen { requests: 1_000.0, per_second, p50_us: per_second, p99_us: 300.0 };
                all.push(measured(server, (0, 0, repetition), &seen, 0.01, (server == "cairn").then_some(per_second)));
            }
        }
        let text = table(&all);
        let row = text.lines().find(|line| line.contains("put, synced before the answer")).unwrap();
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).skip(1).collect();
        assert_eq!(cells, ["90.0", "50.0", "1.00", "90.0", "50.0", "300", "300", "10.0", "10.0", "90.0"]);
        assert_eq!(to_lines(&["head".to_owned()], &all).lines().count(), 7);
    }
}
