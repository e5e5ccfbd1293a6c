//! The one memory budget: who uses how much, and what has to give.
//!
//! Owns the count of every kind of memory the engine holds. Memtables, filters, indexes and
//! compaction take what they need; the cache lives on the rest and is shrunk first. Blocks are
//! counted while anybody holds them, cached or pinned. When even an empty cache leaves no room,
//! writes wait or get Busy. A sixteenth of the budget is left to what the system's allocator loses
//! between pieces.
//!
//! The counts are relaxed atomics: exact in sum, not in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Memtables: active, sealed, and kept to decide conditions.
    Memtables,
    /// Indexes, and the partitions and filters that tables hold.
    Tables,
    /// Blocks, cached or pinned by somebody.
    Blocks,
    /// Buffers of flush and compaction.
    Compaction,
    /// Batches that wait to be written.
    Queue,
}

const USES: usize = 5;

/// The budget and its counts.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: u64,
    /// The most for blocks and tables together.
    cache: u64,
    used: [AtomicU64; USES],
}

impl Memory {
    /// A budget, and how much of it blocks and tables may take; `None` for what the rest leaves.
    pub(crate) fn new(budget: u64, cache: Option<u64>) -> Arc<Memory> {
        Arc::new(Memory { budget, cache: cache.map_or(budget, |cache| cache.min(budget)), used: Default::default() })
    }

    fn count(&self, kind: Use) -> &AtomicU64 {
        match kind {
            Use::Memtables => &self.used[0],
            Use::Tables => &self.used[1],
            Use::Blocks => &self.used[2],
            Use::Compaction => &self.used[3],
            Use::Queue => &self.used[4],
        }
    }

    /// Counts `bytes` until the charge is dropped.
    pub(crate) fn charge(self: &Arc<Self>, kind: Use, bytes: u64) -> Charge {
        self.count(kind).fetch_add(bytes, Ordering::Relaxed);
        Charge { memory: self.clone(), kind, bytes }
    }

    /// What one kind uses.
    pub(crate) fn used(&self, kind: Use) -> u64 {
        self.count(kind).load(Ordering::Relaxed)
    }

    /// What is held and cannot be given back at once, when `cached` bytes of blocks can.
    pub(crate) fn held(&self, cached: u64) -> u64 {
        self.used.iter().map(|used| used.load(Ordering::Relaxed)).sum::<u64>().saturating_sub(cached)
    }

    /// What may be held: the budget less what the system's allocator loses between pieces.
    pub(crate) fn usable(&self) -> u64 {
        self.budget - self.budget / ALLOCATOR_SHARE
    }

    /// The whole budget.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// What the cache may hold now: the budget less all that is not blocks, and no more than was set.
    pub(crate) fn cache_bytes_max(&self) -> u64 {
        let tables = self.used(Use::Tables);
        let others = self.used(Use::Memtables) + tables + self.used(Use::Compaction) + self.used(Use::Queue);
        let left = self.usable().saturating_sub(others).max(self.budget / CACHE_SHARE_MIN);
        left.min(self.cache.saturating_sub(tables).max(self.cache / CACHE_SHARE_MIN))
    }

    /// What tables may hold of the budget; beyond it partitions and filters load on demand.
    pub(crate) fn tables_bytes_max(&self) -> u64 {
        (self.budget / 4).min(self.cache / 2)
    }
}

/// What the system's allocator loses between pieces: one part in sixteen of the budget.
const ALLOCATOR_SHARE: u64 = 16;

/// The cache keeps at least this part of the budget, and of what was set for it: one in sixteen.
const CACHE_SHARE_MIN: u64 = 16;

/// Counted memory; gives it back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    memory: Arc<Memory>,
    kind: Use,
    bytes: u64,
}

impl Charge {
    /// The amount.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the amount.
    pub(crate) fn resize(&mut self, bytes: u64) {
        let count = self.memory.count(self.kind);
        if bytes >= self.bytes {
            count.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            count.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.count(self.kind).fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
