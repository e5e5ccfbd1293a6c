//! What the engine counts, and how it is shown.
//!
//! Each figure is declared once, with its name, kind and help; the statistics, the metrics of the
//! server and the command line derive from that list.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a figure only grows, or goes up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Counts since the database was opened.
    Counter,
    /// A state of this moment.
    Gauge,
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// In snake case, unit last.
    pub name: &'static str,
    /// What it means, in one sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// Its value.
    pub value: u64,
}

macro_rules! counters {
    ($($name:ident: $help:literal;)*) => {
        /// The engine's counters, updated without order between them.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            fn metrics(&self) -> Vec<Metric> {
                vec![$(Metric {
                    name: stringify!($name),
                    help: $help,
                    kind: MetricKind::Counter,
                    value: self.$name.load(Ordering::Relaxed),
                },)*]
            }
        }
    };
}

counters! {
    puts_count: "Puts applied.";
    deletes_count: "Deletes applied.";
    batches_count: "Batches applied.";
    conflicts_count: "Batches refused because a condition did not hold.";
    groups_count: "Groups written to the log; a group holds the batches that waited together.";
    log_bytes: "Bytes written to the log.";
    log_syncs_count: "Syncs of the log.";
    flushes_count: "Memtables flushed.";
    flush_bytes: "Bytes of tables written by flushes.";
    compactions_count: "Compactions done, moves not counted.";
    compaction_moves_count: "Tables moved to the next level without being read.";
    compaction_read_bytes: "Bytes of tables read by compactions.";
    compaction_write_bytes: "Bytes of tables written by compactions.";
    compaction_dropped_entries: "Entries that compactions dropped.";
    tables_removed_count: "Table files removed.";
    manifest_edits_count: "Edits written to the manifest.";
    stalls_count: "Times a group of writes had to wait for flush or compaction.";
    stall_micros: "Microseconds that groups of writes waited.";
    busy_refusals_count: "Writes refused because too much was waiting, or pinned by readers.";
    cache_hits_count: "Blocks found in the cache.";
    cache_misses_count: "Blocks read from files.";
    background_errors_count: "Failures of background work.";
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// The size of one level of one keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelStats {
    /// The keyspace's name.
    pub keyspace: String,
    /// The level; 0 holds what was flushed last.
    pub level: usize,
    /// Tables in it.
    pub tables: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Entries in them, tombstones and old versions included.
    pub entries: u64,
}

/// The state and the counts of a database at one moment.
#[derive(Clone, Debug)]
pub struct Stats {
    metrics: Vec<Metric>,
    levels: Vec<LevelStats>,
    health: String,
    stall_reason: Option<String>,
    last_error: Option<String>,
}

impl Stats {
    pub(crate) fn new(
        counters: &Counters,
        gauges: &[(&'static str, &'static str, u64)],
        levels: Vec<LevelStats>,
        health: String,
        stall_reason: Option<String>,
        last_error: Option<String>,
    ) -> Stats {
        let mut metrics = counters.metrics();
        metrics.extend(gauges.iter().map(|&(name, help, value)| Metric { name, help, kind: MetricKind::Gauge, value }));
        Stats { metrics, levels, health, stall_reason, last_error }
    }

    /// Every figure, in a fixed order.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// One figure by name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.metrics.iter().find(|m| m.name == name).map(|m| m.value)
    }

    /// The levels that hold tables.
    pub fn levels(&self) -> &[LevelStats] {
        &self.levels
    }

    /// `open`, `full: why`, `closed to writes: why`, or `closed`.
    pub fn health(&self) -> &str {
        &self.health
    }

    /// Why writes wait at this moment, if they do.
    pub fn stall_reason(&self) -> Option<&str> {
        self.stall_reason.as_deref()
    }

    /// The last failure of background work, if there was one.
    pub fn last_background_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
