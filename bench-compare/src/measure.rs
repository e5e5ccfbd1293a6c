//! What a workload cost: time, latencies, processor, memory, device, and who else was busy.
//!
//! Owns the reading of `/proc`. Latencies are of one call each, from before it to after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_bench::Histogram;

use crate::engine::Result;

/// Figures by name; the unit is the end of the name.
pub type Metrics = BTreeMap<String, f64>;

/// Times calls until a deadline.
pub struct Stopwatch {
    started: Instant,
    now: Instant,
    deadline: Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start(duration: Duration) -> Stopwatch {
        let now = Instant::now();
        Stopwatch { started: now, now, deadline: now + duration }
    }

    /// Makes one call and counts how long it took.
    pub fn time<T>(&mut self, latencies: &mut Histogram, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let answer = call();
        self.now = Instant::now();
        latencies.record(nanos(self.now - began));
        answer
    }

    /// Whether the last call ended at or after the deadline.
    pub fn is_over(&self) -> bool {
        self.now >= self.deadline
    }

    /// From the start to the end of the last call.
    pub fn elapsed(&self) -> Duration {
        self.now - self.started
    }
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Operations of one kind: how many, how fast, and their latencies.
pub fn add_rate(metrics: &mut Metrics, prefix: &str, latencies: &Histogram, elapsed: Duration) {
    metrics.insert(format!("{prefix}ops_s"), per_second(latencies.count(), elapsed));
    add_latencies(metrics, prefix, latencies);
}

/// The latencies of operations of one kind.
pub fn add_latencies(metrics: &mut Metrics, prefix: &str, latencies: &Histogram) {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    for (name, per_mille) in [("p50_us", 500), ("p99_us", 990), ("p999_us", 999)] {
        metrics.insert(format!("{prefix}{name}"), micros(latencies.quantile(per_mille)));
    }
    metrics.insert(format!("{prefix}max_us"), micros(latencies.max()));
}

/// A count per second.
pub fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}

/// What this process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// Bytes read from the device for it.
    pub read_bytes: u64,
    /// Bytes of the page cache that it made dirty, or wrote directly.
    pub write_bytes: u64,
}

impl Usage {
    /// As of now.
    pub fn now() -> Result<Usage> {
        let io = std::fs::read_to_string("/proc/self/io")?;
        Ok(Usage {
            cpu: cpu_time(),
            read_bytes: field(&io, "read_bytes:").unwrap_or(0),
            write_bytes: field(&io, "write_bytes:").unwrap_or(0),
        })
    }
}

/// Processor time of all threads of this process.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The most memory this process held since [`reset_peak_rss`], in MiB.
pub fn peak_rss_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(field(&status, "VmHWM:").unwrap_or(0) as f64 / 1024.0)
}

/// Begins a new peak at what is held now.
pub fn reset_peak_rss() -> Result<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// Bytes of the device that the files below a directory occupy. Files that vanish meanwhile count as nothing.
pub fn allocated_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// How busy the machine is.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    at: Instant,
    own_cpu: Duration,
    busy: Duration,
    stolen: Duration,
}

/// The unit of `/proc/stat`.
const TICK: Duration = Duration::from_millis(10);

impl Machine {
    /// As of now.
    pub fn now() -> Result<Machine> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u32> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
        let tick = |at: usize| TICK * ticks.get(at).copied().unwrap_or(0);
        // user, nice, system, (idle, iowait,) irq, softirq
        let busy = tick(0) + tick(1) + tick(2) + tick(5) + tick(6);
        Ok(Machine { at: Instant::now(), own_cpu: cpu_time(), busy, stolen: tick(7) })
    }

    /// Since an earlier moment: cores that others kept busy, and cores that the hypervisor took.
    pub fn others_since(&self, before: &Machine) -> (f64, f64) {
        let elapsed = (self.at - before.at).as_secs_f64().max(1e-9);
        let busy = (self.busy.saturating_sub(before.busy)).as_secs_f64();
        let own = (self.own_cpu.saturating_sub(before.own_cpu)).as_secs_f64();
        let stolen = (self.stolen.saturating_sub(before.stolen)).as_secs_f64();
        ((busy - own).max(0.0) / elapsed, stolen / elapsed)
    }
}

/// The load average over one minute.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}
