//! The block cache: one for all tables of a database, bounded by what the budget leaves it.
//!
//! Blocks are charged from the moment they are loaded until nobody holds them any more, so a block
//! that an iterator pins still counts after its eviction; the cache then holds less.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_table::{Block, BlockCache, Charge};
use quick_cache::Weighter;
use quick_cache::sync::{Cache as QuickCache, DefaultLifecycle};

use crate::memory::{Memory, Use};
use crate::stats::{Counters, add};

/// A table and an offset in it.
type Key = (u64, u64);

fn key(table: u64, offset: u64) -> Key {
    if cairn_env::mutant("cached-block-of-another-table") { (0, offset) } else { (table, offset) }
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Arc<Block>> for ByBytes {
    fn weight(&self, _: &Key, block: &Arc<Block>) -> u64 {
        block.memory_bytes() as u64
    }
}

/// Mixes table and offset; both are ours, so no defence against chosen keys is needed.
#[derive(Clone, Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        // The last steps of MurmurHash3's finaliser: every bit of the input moves every bit out.
        let mut x = self.0;
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ (x >> 33)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl BuildHasher for Mix {
    type Hasher = Mix;
    fn build_hasher(&self) -> Mix {
        Mix(0)
    }
}

/// The cache.
pub(crate) struct Cache {
    blocks: QuickCache<Key, Arc<Block>, ByBytes, Mix, DefaultLifecycle<Key, Arc<Block>>>,
    capacity: AtomicU64,
    /// Bytes put in since it last looked at the budget.
    unlooked: AtomicU64,
    memory: Arc<Memory>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("weight", &self.weight()).finish_non_exhaustive()
    }
}

impl Cache {
    pub(crate) fn new(memory: Arc<Memory>, counters: Arc<Counters>) -> Cache {
        let capacity = memory.cache_bytes_max();
        let blocks = usize::try_from(capacity / 4096).unwrap_or(usize::MAX).min(1 << 24);
        Cache {
            blocks: QuickCache::with(blocks, capacity, ByBytes, Mix::default(), DefaultLifecycle::default()),
            capacity: AtomicU64::new(capacity),
            unlooked: AtomicU64::new(0),
            memory,
            counters,
        }
    }

    /// The budget that it shares.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Bytes of the blocks in it.
    pub(crate) fn weight(&self) -> u64 {
        self.blocks.weight()
    }

    /// Follows the budget: others may have taken or given back memory.
    pub(crate) fn follow_budget(&self) {
        let pinned = self.memory.used(Use::Blocks).saturating_sub(self.weight());
        let target = self.memory.cache_bytes_max().saturating_sub(pinned).max(1);
        let now = self.capacity.load(Ordering::Relaxed);
        // Resizing takes every shard's lock: not for small change.
        if target.abs_diff(now) > now / 32 {
            self.capacity.store(target, Ordering::Relaxed);
            self.blocks.set_capacity(target);
        }
    }
}

impl BlockCache for Cache {
    fn get(&self, table: u64, offset: u64) -> Option<Arc<Block>> {
        let found = self.blocks.get(&key(table, offset));
        add(if found.is_some() { &self.counters.cache_hits_count } else { &self.counters.cache_misses_count }, 1);
        found
    }

    fn insert(&self, table: u64, offset: u64, block: Arc<Block>) {
        // To look costs a turn at every shard: not for each block, but for each hundredth of the whole.
        let bytes = block.memory_bytes() as u64;
        let unlooked = self.unlooked.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unlooked > self.capacity.load(Ordering::Relaxed) / 128 {
            self.unlooked.store(0, Ordering::Relaxed);
            self.follow_budget();
        }
        self.blocks.insert(key(table, offset), block);
    }

    fn charge(&self, bytes: usize) -> Charge {
        if cairn_env::mutant("pinned-blocks-not-counted") {
            return Charge::none();
        }
        Charge::new(self.memory.charge(Use::Blocks, bytes as u64))
    }
}
