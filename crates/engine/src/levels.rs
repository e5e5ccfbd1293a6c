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

use cairn_codec::compare;
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

/// The tables of a keyspace.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    levels: [Arc<[TableRef]>; LEVEL_COUNT],
}

impl Levels {
    pub(crate) fn empty() -> Levels {
        Levels { levels: std::array::from_fn(|_| Arc::from([])) }
    }

    /// Builds from tables in any order.
    pub(crate) fn from_tables(tables: impl IntoIterator<Item = (usize, TableRef)>) -> Levels {
        let mut lists: [Vec<TableRef>; LEVEL_COUNT] = std::array::from_fn(|_| Vec::new());
        for (level, table) in tables {
            if let Some(list) = lists.get_mut(level) {
                list.push(table);
            }
        }
        for (level, list) in lists.iter_mut().enumerate() {
            sort(level, list);
        }
        Levels { levels: lists.map(Arc::from) }
    }

    /// A new value with some tables taken out and others put in. Levels not named are shared.
    pub(crate) fn with(&self, removed: &[TableId], added: &[(usize, TableRef)]) -> Levels {
        let mut levels = self.levels.clone();
        for (level, slot) in levels.iter_mut().enumerate() {
            let loses = slot.iter().any(|t| removed.contains(&t.meta.id));
            let gains = added.iter().any(|(to, _)| *to == level);
            if loses || gains {
                let mut list: Vec<TableRef> = slot.iter().filter(|t| !removed.contains(&t.meta.id)).cloned().collect();
                list.extend(added.iter().filter(|(to, _)| *to == level).map(|(_, t)| t.clone()));
                sort(level, &mut list);
                *slot = Arc::from(list);
            }
        }
        Levels { levels }
    }

    /// The tables of one level; none for a level that does not exist.
    pub(crate) fn level(&self, level: usize) -> &[TableRef] {
        self.levels.get(level).map_or(&[], |tables| tables)
    }

    /// One level as a shared list, for cursors that outlive the borrow.
    pub(crate) fn level_shared(&self, level: usize) -> Arc<[TableRef]> {
        self.levels.get(level).cloned().unwrap_or_else(|| Arc::from([]))
    }

    /// Every table with its level.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &TableRef)> {
        self.levels.iter().enumerate().flat_map(|(level, tables)| tables.iter().map(move |t| (level, t)))
    }

    /// The table of a sorted level that may hold `key`.
    #[inline]
    pub(crate) fn find(&self, level: usize, key: &[u8]) -> Option<&TableRef> {
        debug_assert!(level > 0);
        // Most levels of most databases: every lookup comes by.
        let tables = self.level(level);
        if tables.is_empty() { None } else { find_sorted(tables, key) }
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
        (1..LEVEL_COUNT).rev().find(|&level| !self.level(level).is_empty()).unwrap_or(1)
    }

    /// The number of tables.
    pub(crate) fn table_count(&self) -> usize {
        self.levels.iter().map(|tables| tables.len()).sum()
    }
}

/// The one of a sorted level's tables that may hold `key`.
fn find_sorted<'a>(tables: &'a [TableRef], key: &[u8]) -> Option<&'a TableRef> {
    let misses = cairn_env::mutant("last-key-of-table-missed");
    let at = tables.partition_point(|t| {
        let order = compare(&t.meta.largest_key, key);
        order.is_lt() || (misses && order.is_eq())
    });
    tables.get(at).filter(|t| compare(&t.meta.smallest_key, key).is_le())
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
