//! What a caller may set, its defaults and bounds, and how values that depend on one another settle.
//!
//! Plain values with their unit in the name. Everything else is a named constant with its reason
//! where it is used.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::types::Durability;

/// The most probes that a table's filter takes.
const FILTER_PROBES_MAX: u32 = 16;

/// Below it would be syncing without pause; above it is as good as never.
const SYNC_INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);

/// How blocks of tables are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4: about half the size for text-like values, at little cost.
    Lz4,
}

/// When tables are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionStyle {
    /// By the size of the levels, in the background: the production default.
    Leveled,
    /// The series' machine in small: after so many puts and deletes, all of level 0 and level 1
    /// become a new level 1.
    EveryUpdates(u64),
}

/// Settings of a database. Start from [`Options::default`] and change what you need:
///
/// ```
/// let options = cairn::Options { memory_budget_bytes: 64 << 20, ..cairn::Options::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// What `put`, `delete` and the convenience calls wait for. Default: [`Durability::Commit`].
    pub durability: Durability,
    /// Sync buffered writes in the background this often. Default: never (the system decides).
    pub sync_interval: Option<Duration>,
    /// Memory for cache, memtables, filters, indexes, pinned blocks and compaction together.
    /// Default 256 MiB, least 4 MiB.
    pub memory_budget_bytes: u64,
    /// The most that blocks, filters and indexes may take of the budget; least 64 KiB. Default: what the
    /// rest leaves of it. What iterators and values pin counts, and may go beyond.
    pub cache_bytes_max: Option<u64>,
    /// A memtable of this size is sealed and flushed. Default 64 MiB, but at most an eighth of the
    /// budget: 32 MiB of the default one.
    pub memtable_bytes_max: u64,
    /// Seal a memtable at this many keys too. Default: no such limit.
    pub memtable_entries_max: Option<u64>,
    /// The size at which a new table file is begun, from level 1 down; a memtable becomes one file. Default 32 MiB.
    pub table_bytes_max: u64,
    /// Begin a new table file at this many entries too. Default: no such limit.
    pub table_entries_max: Option<u64>,
    /// The uncompressed size of a data block, 64 bytes to 1 MiB. Default 4 KiB.
    pub block_bytes: u32,
    /// How blocks are stored. Default LZ4.
    pub compression: Compression,
    /// Bits of Bloom filter per key, at most 64; 0 for no filter. Default 10 (about 1 % false positives).
    pub filter_bits_per_key: u32,
    /// Number of probes of the filter, 1 to 16; `None` derives the best from the bits.
    pub filter_probes: Option<u32>,
    /// When tables are merged. Default [`CompactionStyle::Leveled`].
    pub compaction: CompactionStyle,
    /// Bound of the log that an open may have to replay. Default 256 MiB, but at most half the budget:
    /// 128 MiB of the default one.
    pub log_bytes_max: u64,
    /// Create the database if the directory is missing or empty. Default true.
    pub create_if_missing: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            durability: Durability::Commit,
            sync_interval: None,
            memory_budget_bytes: 256 << 20,
            cache_bytes_max: None,
            memtable_bytes_max: 64 << 20,
            memtable_entries_max: None,
            table_bytes_max: 32 << 20,
            table_entries_max: None,
            block_bytes: 4096,
            compression: Compression::Lz4,
            filter_bits_per_key: 10,
            filter_probes: None,
            compaction: CompactionStyle::Leveled,
            log_bytes_max: 256 << 20,
            create_if_missing: true,
        }
    }
}

impl Options {
    /// The figures of the series "Build Your Own Key-Value Storage Engine": memtables of 2,000
    /// entries, compaction after 10,000 updates, tables of at most 1,953 entries, a filter of five
    /// probes at 1 %. For watching the machine work in small, not for production.
    pub fn series() -> Options {
        Options {
            memtable_entries_max: Some(2_000),
            table_entries_max: Some(1_953),
            filter_bits_per_key: 10,
            filter_probes: Some(5),
            compaction: CompactionStyle::EveryUpdates(10_000),
            ..Options::default()
        }
    }

    /// Checks every value and settles those that depend on one another.
    pub(crate) fn settle(mut self) -> Result<Options> {
        let least = |name: &str, value: u64, min: u64| {
            if value < min {
                return Err(Error::invalid(format!("option {name} is {value}; the least is {min}")));
            }
            Ok(())
        };
        least("memory_budget_bytes", self.memory_budget_bytes, 4 << 20)?;
        least("cache_bytes_max", self.cache_bytes_max.unwrap_or(u64::MAX), 64 << 10)?;
        least("memtable_bytes_max", self.memtable_bytes_max, 4 << 10)?;
        least("table_bytes_max", self.table_bytes_max, 4 << 10)?;
        least("block_bytes", u64::from(self.block_bytes), 64)?;
        least("log_bytes_max", self.log_bytes_max, 16 << 10)?;
        least("memtable_entries_max", self.memtable_entries_max.unwrap_or(1), 1)?;
        least("table_entries_max", self.table_entries_max.unwrap_or(1), 1)?;
        if self.block_bytes > 1 << 20 {
            return Err(Error::invalid(format!("option block_bytes is {}; the most is 1 MiB", self.block_bytes)));
        }
        if self.filter_bits_per_key > 64 {
            return Err(Error::invalid("option filter_bits_per_key is over 64"));
        }
        if self.filter_probes.is_some_and(|probes| !(1..=FILTER_PROBES_MAX).contains(&probes)) {
            return Err(Error::invalid(format!("option filter_probes must be 1 to {FILTER_PROBES_MAX}")));
        }
        if self.sync_interval.is_some_and(|interval| !SYNC_INTERVALS.contains(&interval)) {
            let (least, most) = (SYNC_INTERVALS.start(), SYNC_INTERVALS.end());
            return Err(Error::invalid(format!("option sync_interval must be {least:?} to {most:?}")));
        }
        if let CompactionStyle::EveryUpdates(0) = self.compaction {
            return Err(Error::invalid("compaction after every 0 updates would never end"));
        }
        self.memtable_bytes_max = self.memtable_bytes_max.min(self.memory_budget_bytes / 8);
        self.log_bytes_max = self.log_bytes_max.min(self.memory_budget_bytes / 2);
        Ok(self)
    }

    /// The largest value or batch: the fixed limit, or a quarter of the budget.
    pub(crate) fn write_bytes_max(&self, fixed: usize) -> usize {
        usize::try_from(self.memory_budget_bytes / 4).unwrap_or(usize::MAX).min(fixed)
    }
}
