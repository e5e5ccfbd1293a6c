//! What the engine counts, and how it is shown.
//!
//! Each figure is declared once, with its name, kind and help; the statistics, the metrics of the
//! server and the command line derive from that list.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::{Core, Health};
use crate::levels::LEVEL_COUNT;
use crate::memory::Use;
use crate::picker::debt_bytes;
use crate::types::Visibility;

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

/// Adds to a counter that only who holds `lead` adds to: a load and a store, where all others take a locked addition.
pub(crate) fn add_alone(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
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

impl Core {
    /// What the database is doing and has done.
    pub(crate) fn stats(&self) -> Stats {
        let catalog = self.catalog.load();
        let mut levels = Vec::new();
        let (mut active, mut sealed, mut tables) = (0, 0, 0);
        let (mut debt, mut garbage) = (0, 0);
        for tree in catalog.trees() {
            active += tree.active.iter().map(|b| b.memtable.entries()).sum::<u64>();
            garbage += tree.active.iter().map(|b| b.memtable.garbage_bytes()).sum::<u64>();
            sealed += tree.sealed.len() as u64;
            debt += debt_bytes(&tree.levels, &self.options);
            for level in (0..LEVEL_COUNT).filter(|&level| !tree.levels.level(level).is_empty()) {
                let list = tree.levels.level(level);
                tables += list.len() as u64;
                levels.push(LevelStats {
                    keyspace: tree.name.to_string(),
                    level,
                    tables: list.len() as u64,
                    bytes: tree.levels.level_bytes(level),
                    entries: list.iter().map(|t| t.meta.entries).sum(),
                });
            }
        }
        let keyspaces = catalog.trees().count() as u64;
        drop(catalog);
        let oldest = self.snapshots.oldest();
        let now = self.env.now();
        let snapshot_age = oldest.map_or(0, |(_, since)| now.saturating_sub(since).as_secs());
        let gauges = [
            ("keyspaces_count", "Keyspaces.", keyspaces),
            ("memtable_entries", "Keys in active memtables.", active),
            ("memtable_garbage_bytes", "Bytes of active memtables that hold nothing any more.", garbage),
            ("sealed_memtables_count", "Sealed memtables that wait for their flush.", sealed),
            ("tables_count", "Table files.", tables),
            ("compaction_debt_bytes", "Bytes above the sizes of the levels.", debt),
            ("log_live_bytes", "Bytes of the log that an open would replay.", self.log_space.live_bytes()),
            ("disk_bytes", "Bytes of all files of the database.", self.disk_bytes()),
            ("applied_seq", "Number of the last applied write.", self.seq_at(Visibility::Applied).0),
            ("durable_seq", "Number of the last synced write.", self.seq_at(Visibility::Durable).0),
            ("snapshots_count", "Snapshots held.", self.snapshots.count()),
            ("oldest_snapshot_seq", "Number of the oldest snapshot; 0 if none.", oldest.map_or(0, |(seq, _)| seq.0)),
            ("oldest_snapshot_age_seconds", "Age of the oldest snapshot.", snapshot_age),
            ("memory_budget_bytes", "The memory budget.", self.memory.budget()),
            ("memory_memtables_bytes", "Memory of memtables.", self.memory.used(Use::Memtables)),
            ("memory_tables_bytes", "Memory of filters and indexes.", self.memory.used(Use::Tables)),
            ("memory_blocks_bytes", "Memory of blocks, cached or pinned.", self.memory.used(Use::Blocks)),
            ("memory_cache_bytes", "Memory of blocks in the cache.", self.cache.weight()),
            ("memory_compaction_bytes", "Memory of flush and compaction.", self.memory.used(Use::Compaction)),
            ("memory_queue_bytes", "Memory of batches that wait.", self.memory.used(Use::Queue)),
        ];
        let health = match self.health() {
            Health::Open => "open".to_owned(),
            Health::Full { why } => format!("full: {why}"),
            Health::ClosedToWrites { why } => format!("closed to writes: {why}"),
            Health::Closed => "closed".to_owned(),
        };
        let (stall, error) = {
            let jobs = self.jobs.lock();
            (jobs.stall_reason.clone(), jobs.last_error.clone())
        };
        Stats::new(&self.counters, &gauges, levels, health, stall, error)
    }
}
