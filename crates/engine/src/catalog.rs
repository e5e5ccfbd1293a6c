//! The catalog: one immutable, shared version of all that a reader needs.
//!
//! Owns: for every keyspace the active memtable, the sealed ones (newest first) and the tables by
//! level. A change builds a new catalog that shares all that stayed, and swaps it in.
//!
//! Invariants
//! 1. A catalog never changes once it is current. Readers load it without a lock and keep what
//!    they pinned for as long as they like.
//! 2. A sealed memtable leaves the catalog in the same swap in which its tables enter: no reader
//!    finds neither, none finds both.
//! 3. Every change applies to the catalog of that moment, under the swap lock; nothing is derived
//!    from an older one. No I/O and no call into `env` happens under that lock. Ids are never used
//!    again: one that was there and is not any more was dropped, and no change brings it back.
//! 4. Who reads loads the catalog first and the sequence number second. Flush and compaction may
//!    therefore drop versions that are hidden from every registered snapshot and from everyone
//!    who loads the number later.

#[cfg(test)]
#[cfg(loom)]
mod interleavings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::levels::Levels;
use crate::memory::Charge;
use crate::memtable::Memtable;
use crate::picker::GARBAGE_SHARE;
use crate::types::{KeyspaceId, SeqNo};

/// A memtable, the first log segment that holds entries of it, and its part of the budget.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) memtable: Arc<Memtable>,
    pub(crate) first_segment: u64,
    /// Tombstones among its versions; only the leader counts.
    tombstones: AtomicU64,
    charge: Mutex<Charge>,
}

/// Fewer versions than this are not worth a flush of their own.
const GARBAGE_VERSIONS_MIN: u64 = 1000;

impl Buffer {
    pub(crate) fn new(memtable: Arc<Memtable>, first_segment: u64, charge: Charge) -> Buffer {
        Buffer { memtable, first_segment, tombstones: AtomicU64::new(0), charge: Mutex::new(charge) }
    }

    /// Counts a tombstone.
    pub(crate) fn count_tombstone(&self) {
        self.tombstones.store(self.tombstones.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether so much of it are tombstones that scans and the disk gain by its flush: a quarter, as of tables.
    pub(crate) fn is_garbage(&self) -> bool {
        let (tombstones, versions) = (self.tombstones.load(Ordering::Relaxed), self.memtable.versions());
        versions >= GARBAGE_VERSIONS_MIN && tombstones * GARBAGE_SHARE >= versions
    }

    fn charge(&self) -> std::sync::MutexGuard<'_, Charge> {
        self.charge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the memtable counts for.
    pub(crate) fn charged(&self) -> u64 {
        self.charge().bytes()
    }

    /// Counts what the memtable holds now; returns by how much it has grown.
    pub(crate) fn settle_charge(&self) -> u64 {
        let mut charge = self.charge();
        let before = charge.bytes();
        let now = self.memtable.bytes();
        if now != before {
            charge.resize(now);
        }
        now.saturating_sub(before)
    }
}

/// One keyspace's part of a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) id: KeyspaceId,
    pub(crate) name: Arc<str>,
    /// None until the first write since the last seal: an idle keyspace costs no memory.
    pub(crate) active: Option<Arc<Buffer>>,
    /// Waiting for their flush, newest first.
    pub(crate) sealed: Vec<Arc<Buffer>>,
    pub(crate) levels: Levels,
    /// Everything of this keyspace up to here is in tables.
    pub(crate) flushed: SeqNo,
    /// Flushed memtables kept to decide conditions, newest first.
    pub(crate) history: Vec<Arc<Buffer>>,
    /// Conditions about anything at or before this cannot be decided from memory.
    pub(crate) history_floor: SeqNo,
}

impl Tree {
    pub(crate) fn new(id: KeyspaceId, name: Arc<str>, levels: Levels, flushed: SeqNo) -> Tree {
        Tree {
            id,
            name,
            active: None,
            sealed: Vec::new(),
            levels,
            flushed,
            history: Vec::new(),
            history_floor: flushed,
        }
    }

    /// Keeps a flushed memtable to decide conditions, and lets go of older ones beyond the bound.
    pub(crate) fn keep_history(&mut self, flushed: Arc<Buffer>, bytes_max: u64) {
        self.history.insert(0, flushed);
        let bytes = |history: &[Arc<Buffer>]| history.iter().map(|b| b.memtable.bytes()).sum::<u64>();
        while bytes(&self.history) > bytes_max {
            self.forget_oldest();
        }
    }

    /// Lets go of every flushed memtable kept.
    pub(crate) fn forget_history(&mut self) {
        while !self.history.is_empty() {
            self.forget_oldest();
        }
    }

    /// Lets go of the oldest flushed memtable kept.
    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.history.pop() {
            let largest = SeqNo(oldest.memtable.largest_seq().unwrap_or(0));
            self.history_floor = self.history_floor.max(largest);
        }
    }

    /// The memtables that hold what no table has, newest first.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &Arc<Buffer>> {
        self.active.iter().chain(&self.sealed)
    }
}

/// Keyspaces of one chunk of ids: a change copies one chunk and the list of chunks, so that idle
/// keyspaces cost a swap next to nothing.
const CHUNK: usize = 64;

type Chunk = Arc<[Option<Arc<Tree>>; CHUNK]>;

/// One version of everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    chunks: Vec<Chunk>,
}

fn place(id: KeyspaceId) -> (usize, usize) {
    (id as usize / CHUNK, id as usize % CHUNK)
}

impl Catalog {
    /// A keyspace's part.
    pub(crate) fn tree(&self, id: KeyspaceId) -> Option<&Arc<Tree>> {
        let (chunk, slot) = place(id);
        self.chunks.get(chunk)?.get(slot)?.as_ref()
    }

    /// All keyspaces, by id.
    pub(crate) fn trees(&self) -> impl Iterator<Item = &Arc<Tree>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }

    /// Puts a keyspace's part in place.
    pub(crate) fn set(&mut self, tree: Tree) {
        let (chunk, slot) = place(tree.id);
        if self.chunks.len() <= chunk {
            // Shared, so that a gap costs next to nothing.
            self.chunks.resize(chunk + 1, Arc::new(std::array::from_fn(|_| None)));
        }
        if let Some(chunk) = self.chunks.get_mut(chunk)
            && let Some(slot) = Arc::make_mut(chunk).get_mut(slot)
        {
            *slot = Some(Arc::new(tree));
        }
    }

    /// Takes a keyspace's part out.
    fn unset(&mut self, id: KeyspaceId) {
        let (chunk, slot) = place(id);
        if let Some(chunk) = self.chunks.get_mut(chunk)
            && let Some(slot) = Arc::make_mut(chunk).get_mut(slot)
        {
            *slot = None;
        }
    }
}

/// The current catalog.
#[derive(Debug)]
pub(crate) struct CatalogCell {
    current: ArcSwap<Catalog>,
    swap: Mutex<()>,
}

impl CatalogCell {
    pub(crate) fn new(catalog: Catalog) -> CatalogCell {
        CatalogCell { current: ArcSwap::from_pointee(catalog), swap: Mutex::new(()) }
    }

    /// The current catalog, without a lock; for short use.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.current.load()
    }

    /// A keyspace's current part, to keep.
    pub(crate) fn tree(&self, id: KeyspaceId) -> Option<Arc<Tree>> {
        self.load().tree(id).cloned()
    }

    /// Changes one keyspace: `change` gets its part of this moment.
    pub(crate) fn update(&self, id: KeyspaceId, change: impl FnOnce(&mut Tree)) {
        let old = {
            let _swap = self.swap.lock().unwrap_or_else(PoisonError::into_inner);
            let mut catalog = Catalog::clone(&self.current.load());
            let Some(tree) = catalog.tree(id) else { return };
            let mut tree = Tree::clone(tree);
            change(&mut tree);
            catalog.set(tree);
            self.current.swap(Arc::new(catalog))
        };
        // Out of the lock: dropping the last reference to a table queues its removal.
        drop(old);
    }

    /// Adds a keyspace.
    pub(crate) fn add(&self, tree: Tree) {
        let _swap = self.swap.lock().unwrap_or_else(PoisonError::into_inner);
        let mut catalog = Catalog::clone(&self.current.load());
        catalog.set(tree);
        self.current.store(Arc::new(catalog));
    }

    /// Takes a keyspace out; what readers have pinned of it they keep.
    pub(crate) fn remove(&self, id: KeyspaceId) {
        let old = {
            let _swap = self.swap.lock().unwrap_or_else(PoisonError::into_inner);
            let mut catalog = Catalog::clone(&self.current.load());
            catalog.unset(id);
            self.current.swap(Arc::new(catalog))
        };
        // Out of the lock, as above.
        drop(old);
    }
}
