//! The tables of one keyspace, by level: an immutable value, replaced whole.
//!
//! Invariants
//! 1. Level 0 holds flushed tables, newest first; their ranges may overlap.
//! 2. From level 1 down the tables of a level are sorted and their key ranges are disjoint: no user
//!    key stands in two tables of one level.
//! 3. Of two versions of a key, the newer never lies below the older.
//! 4. A table file is removed only when the last value that refers to its [`TableHandle`] is gone
//!    *and* a durable manifest edit has made it obsolete.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_codec::{compare, head};
use cairn_table::{Table, TableSummary};

use crate::memory::Charge;
use crate::types::{KeyspaceId, SeqNo, TableId, shown};

/// The number of levels. With a factor of ten between them, seven hold more than a disk.
pub(crate) const LEVEL_COUNT: usize = 7;

/// What the manifest records of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    pub(crate) id: TableId,
    pub(crate) file_bytes: u64,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    /// Entries kept only because a snapshot needed them when the table was written.
    pub(crate) stale: u64,
    pub(crate) smallest_key: Vec<u8>,
    pub(crate) largest_key: Vec<u8>,
    pub(crate) smallest_seq: SeqNo,
    pub(crate) largest_seq: SeqNo,
    /// When it was written, in milliseconds since 1970.
    pub(crate) created_ms: u64,
}

impl TableMeta {
    /// Whether its range meets `[smallest, largest]`.
    pub(crate) fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        compare(&self.smallest_key, largest).is_le() && compare(&self.largest_key, smallest).is_ge()
    }

    /// Where a table and what the manifest says of it, in this keyspace, differ, if they do.
    pub(crate) fn disagreement(&self, keyspace: KeyspaceId, table: &TableSummary) -> Option<String> {
        if table.owner != u64::from(keyspace) {
            return Some(format!(
                "it belongs to keyspace {}, and the manifest says to keyspace {keyspace}",
                table.owner
            ));
        }
        let numbers = [
            ("bytes", self.file_bytes, table.file_bytes),
            ("entries", self.entries, table.entries),
            ("tombstones", self.tombstones, table.tombstones),
            ("as smallest sequence number", self.smallest_seq.0, table.smallest_seq),
            ("as largest sequence number", self.largest_seq.0, table.largest_seq),
        ];
        let keys =
            [("first", &self.smallest_key, &table.smallest_key), ("last", &self.largest_key, &table.largest_key)];
        let number = numbers.into_iter().find(|(_, said, holds)| said != holds);
        let key = keys.into_iter().find(|(_, said, holds)| said != holds);
        number.map(|(what, said, holds)| format!("it holds {holds} {what}, and the manifest says {said}")).or_else(
            || {
                key.map(|(what, said, holds)| {
                    format!("its {what} key is {}, and the manifest says {}", shown(holds), shown(said))
                })
            },
        )
    }

    /// Entries that a compaction may be able to drop.
    pub(crate) fn garbage(&self) -> u64 {
        self.tombstones + self.stale
    }
}

/// Files that nobody refers to any more, waiting to be removed by a background job.
#[derive(Debug, Default)]
pub(crate) struct RemovalQueue {
    paths: Mutex<Vec<PathBuf>>,
}

impl RemovalQueue {
    pub(crate) fn push(&self, path: PathBuf) {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    pub(crate) fn take(&self) -> Vec<PathBuf> {
        std::mem::take(&mut *self.paths.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An open table and its life: catalogs and iterators share it.
#[derive(Debug)]
pub(crate) struct TableHandle {
    pub(crate) meta: TableMeta,
    pub(crate) table: Arc<Table>,
    path: PathBuf,
    obsolete: AtomicBool,
    removals: Arc<RemovalQueue>,
    /// For the filter and the index it holds.
    _charge: Charge,
}

/// A shared table.
pub(crate) type TableRef = Arc<TableHandle>;

impl TableHandle {
    pub(crate) fn new(
        meta: TableMeta,
        table: Arc<Table>,
        path: PathBuf,
        removals: Arc<RemovalQueue>,
        charge: Charge,
    ) -> TableRef {
        Arc::new(TableHandle { meta, table, path, obsolete: AtomicBool::new(false), removals, _charge: charge })
    }

    /// Says that a durable edit no longer lists it: the file goes with the last reference.
    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
        if cairn_env::mutant("pinned-file-removed") {
            self.removals.push(self.path.clone());
        }
    }
}

impl Drop for TableHandle {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.removals.push(std::mem::take(&mut self.path));
        }
    }
}

/// The tables of one level, in its order.
#[derive(Clone, Debug)]
struct Level {
    tables: Arc<[TableRef]>,
    /// The heads of their largest keys: a search of a sorted level touches these alone unless heads are equal.
    heads: Arc<[u64]>,
}

impl Level {
    /// Of tables in any order.
    fn new(level: usize, mut tables: Vec<TableRef>) -> Level {
        sort(level, &mut tables);
        let heads = tables.iter().map(|table| head(&table.meta.largest_key)).collect();
        Level { tables: Arc::from(tables), heads }
    }

    /// The first of a sorted level's tables that ends at or after `key`.
    fn ending_from(&self, key: &[u8]) -> Option<&TableRef> {
        let wanted = head(key);
        let mut at = self.heads.partition_point(|head| *head < wanted);
        if self.heads.get(at) == Some(&wanted) {
            let misses = cairn_env::mutant("last-key-of-table-missed");
            at += self.tables.get(at..).unwrap_or_default().partition_point(|table| {
                let order = compare(&table.meta.largest_key, key);
                order.is_lt() || (misses && order.is_eq())
            });
        }
        self.tables.get(at)
    }
}

/// The tables of a keyspace.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    levels: [Level; LEVEL_COUNT],
    /// Levels below this one are empty.
    deepest: usize,
}

impl Levels {
    pub(crate) fn empty() -> Levels {
        Levels::new(std::array::from_fn(|level| Level::new(level, Vec::new())))
    }

    fn new(levels: [Level; LEVEL_COUNT]) -> Levels {
        let deepest = (0..LEVEL_COUNT).rev().find(|&level| levels.get(level).is_some_and(|l| !l.tables.is_empty()));
        Levels { levels, deepest: deepest.unwrap_or(0) }
    }

    /// Builds from tables in any order.
    pub(crate) fn from_tables(tables: impl IntoIterator<Item = (usize, TableRef)>) -> Levels {
        let mut lists: [Vec<TableRef>; LEVEL_COUNT] = std::array::from_fn(|_| Vec::new());
        for (level, table) in tables {
            if let Some(list) = lists.get_mut(level) {
                list.push(table);
            }
        }
        Levels::new(std::array::from_fn(|level| {
            Level::new(level, lists.get_mut(level).map(std::mem::take).unwrap_or_default())
        }))
    }

    /// A new value with some tables taken out and others put in. Levels not named are shared.
    pub(crate) fn with(&self, removed: &[TableId], added: &[(usize, TableRef)]) -> Levels {
        let mut levels = self.levels.clone();
        for (level, slot) in levels.iter_mut().enumerate() {
            let loses = slot.tables.iter().any(|t| removed.contains(&t.meta.id));
            let gains = added.iter().any(|(to, _)| *to == level);
            if loses || gains {
                let stay = slot.tables.iter().filter(|t| !removed.contains(&t.meta.id)).cloned();
                let come = added.iter().filter(|(to, _)| *to == level).map(|(_, t)| t.clone());
                *slot = Level::new(level, stay.chain(come).collect());
            }
        }
        Levels::new(levels)
    }

    /// The tables of one level; none for a level that does not exist.
    pub(crate) fn level(&self, level: usize) -> &[TableRef] {
        self.levels.get(level).map_or(&[], |level| &level.tables)
    }

    /// One level as a shared list, for cursors that outlive the borrow.
    pub(crate) fn level_shared(&self, level: usize) -> Arc<[TableRef]> {
        self.levels.get(level).map_or_else(|| Arc::from([]), |level| level.tables.clone())
    }

    /// Every table with its level.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &TableRef)> {
        self.levels.iter().enumerate().flat_map(|(level, list)| list.tables.iter().map(move |t| (level, t)))
    }

    /// The tables that a lookup of `key` asks, in this order, until one knows: all of level 0, and of each deeper
    /// level the one that may hold it. That `key` does not lie before the table's first is left to the table: its
    /// filter says sooner that it need not be searched.
    #[inline]
    pub(crate) fn asked_for(&self, key: &[u8]) -> impl Iterator<Item = &TableRef> {
        let deeper = self.levels.get(1..=self.deepest).unwrap_or_default();
        self.level(0).iter().chain(deeper.iter().filter_map(|level| level.ending_from(key)))
    }

    /// The table of a sorted level that may hold `key`.
    pub(crate) fn find(&self, level: usize, key: &[u8]) -> Option<&TableRef> {
        debug_assert!(level > 0);
        self.levels.get(level)?.ending_from(key).filter(|t| compare(&t.meta.smallest_key, key).is_le())
    }

    /// The tables of a level whose ranges meet `[smallest, largest]`.
    pub(crate) fn overlapping(&self, level: usize, smallest: &[u8], largest: &[u8]) -> Vec<TableRef> {
        self.level(level).iter().filter(|t| t.meta.overlaps(smallest, largest)).cloned().collect()
    }

    /// Whether any table below `level` may hold `key`.
    pub(crate) fn key_may_lie_below(&self, level: usize, key: &[u8]) -> bool {
        (level + 1..LEVEL_COUNT).any(|below| self.find(below, key).is_some())
    }

    /// The bytes of a level's files.
    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.level(level).iter().map(|t| t.meta.file_bytes).sum()
    }

    /// The deepest level that holds a table; 1 if only level 0 does, or none.
    pub(crate) fn bottom(&self) -> usize {
        self.deepest.max(1)
    }

    /// Whether there is no table.
    pub(crate) fn is_empty(&self) -> bool {
        self.deepest == 0 && self.level(0).is_empty()
    }
}

/// Restores a level's order: level 0 newest first, the others by key.
fn sort(level: usize, tables: &mut [TableRef]) {
    if level == 0 {
        // One memtable may become several tables with disjoint keys; their order does not matter.
        tables.sort_by_key(|table| std::cmp::Reverse((table.meta.largest_seq, table.meta.id)));
        if cairn_env::mutant("level0-oldest-first") {
            tables.reverse();
        }
    } else {
        tables.sort_by(|a, b| a.meta.smallest_key.cmp(&b.meta.smallest_key));
        debug_assert!(
            tables.iter().zip(tables.iter().skip(1)).all(|(a, b)| a.meta.largest_key < b.meta.smallest_key),
            "the tables of level {level} overlap"
        );
    }
}
