//! The memtable: the newest writes of one keyspace, in memory and in key order.
//!
//! Owns an adaptive radix trie (Leis et al., 2013) in an arena, with every version of every key.
//! One writer; any number of readers that take no lock, wait for nothing and register nowhere.
//! Refuses to know what a kind of entry means, which sequence number may be seen, when to be
//! sealed, and how entries reach the disk: those are the read path's, the commit's and the flush's.
//!
//! Parts, from the bottom: `atomics` (named once) · `publish` (places, and how they become visible)
//! · `arena` (raw bytes) · `record` (what stands in them) · `node` (children) · `trie` (descent and
//! insertion) · `path` (from key to key) · `cursor`. Only `arena`, `record` and one function of
//! `publish` are unsafe.
//!
//! Invariants
//! 1. One writer: [`MemtableWriter`] is unique for its memtable and cannot be cloned.
//! 2. What has been published is neither changed nor freed before the memtable goes: a reader may
//!    keep slices as long as it borrows the memtable, and a node that was replaced stays valid.
//! 3. A record is complete before one release store makes it reachable (`publish`); an insertion
//!    is seen whole or not at all, and one that fails has changed nothing.
//! 4. Within a key, versions are chained from the newest to the oldest; sequence numbers only grow.
//! 5. No operation recurses; none but a cursor and a range query allocates outside the arena.
//!
//! Locked: not at all. In the life of a write: after the log, before its number is published. In
//! the life of a read: first, active memtable before sealed ones.

mod arena;
mod atomics;
mod cursor;
#[cfg(test)]
#[cfg(loom)]
mod interleavings;
mod node;
mod path;
mod publish;
mod record;
#[cfg(loom)]
mod shadow;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod trie;

pub(crate) use cursor::MemtableCursor;

use std::fmt;
use std::sync::Arc;

use arena::{Arena, Bump};
use atomics::{AtomicU64, Needed, Ordering, order};
use path::Path;
use publish::{At, Slot};
use record::{Leaf, VersionRecord};
use trie::{NewVersion, Trie};

use crate::types::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

// A leaf stores the length of its key as a u16.
const _: () = assert!(KEY_BYTES_MAX == u16::MAX as usize);

/// How a memtable takes its memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemtableOptions {
    /// Bytes of the first chunk, allocated at the first write. From 64 to `chunk_bytes_max`.
    pub chunk_bytes_first: usize,
    /// Bytes of the largest chunk; each is a sixteenth of all before it until then. At most 64 MiB.
    /// There are at most 512 chunks, so a small maximum bounds the memtable.
    pub chunk_bytes_max: usize,
}

impl Default for MemtableOptions {
    /// 4 KiB at first, so that many idle keyspaces cost little; 64 MiB at most.
    fn default() -> MemtableOptions {
        MemtableOptions { chunk_bytes_first: 4 << 10, chunk_bytes_max: arena::CHUNK_BYTES_MAX }
    }
}

/// Why an insertion was refused. The memtable holds what it held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsertError {
    /// The key is empty or longer than [`KEY_BYTES_MAX`].
    KeyLength {
        /// Its length in bytes.
        found: usize,
    },
    /// The value is longer than [`VALUE_BYTES_MAX`].
    ValueLength {
        /// Its length in bytes.
        found: usize,
    },
    /// The sequence number is not larger than all before.
    SequenceOrder {
        /// The largest so far.
        last: u64,
        /// The refused one.
        found: u64,
    },
    /// The arena has no address or the system no memory left: seal this memtable.
    Full,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InsertError::KeyLength { found } => write!(f, "key of {found} bytes: 1 to {KEY_BYTES_MAX} are possible"),
            InsertError::ValueLength { found } => write!(f, "value of {found} bytes: at most {VALUE_BYTES_MAX} fit"),
            InsertError::SequenceOrder { last, found } => write!(f, "sequence number {found} after {last}"),
            InsertError::Full => f.write_str("memtable full"),
        }
    }
}

impl std::error::Error for InsertError {}

/// One version of a key, borrowed from the memtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version<'a> {
    /// Its sequence number.
    pub seq: u64,
    /// What kind of entry it is; open, the memtable does not interpret it.
    pub kind: u8,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// The readers' side of a memtable; see the module's head.
pub(crate) struct Memtable {
    trie: Trie,
    entries: AtomicU64,
    versions: AtomicU64,
    replaced_bytes: AtomicU64,
    seq_smallest: AtomicU64,
    seq_largest: AtomicU64,
}

/// The writer's side of a memtable. There is one.
pub(crate) struct MemtableWriter {
    table: Arc<Memtable>,
    bump: Bump,
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable")
            .field("entries", &self.entries())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MemtableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemtableWriter({:?})", self.table)
    }
}

impl Memtable {
    /// An empty memtable and its writer. Takes about 4 KiB; chunks are allocated as entries come.
    #[allow(clippy::new_ret_no_self)] // The two sides are made together: that is what makes the writer unique.
    pub(crate) fn new(options: MemtableOptions) -> (Arc<Memtable>, MemtableWriter) {
        let (arena, bump) = Arena::new(options.chunk_bytes_first, options.chunk_bytes_max);
        let table = Arc::new(Memtable {
            trie: Trie { arena, root: Slot::empty() },
            entries: AtomicU64::new(0),
            versions: AtomicU64::new(0),
            replaced_bytes: AtomicU64::new(0),
            seq_smallest: AtomicU64::new(0),
            seq_largest: AtomicU64::new(0),
        });
        (Arc::clone(&table), MemtableWriter { table, bump })
    }

    /// The newest version of `key` whose sequence number is at most `seq_max`, tombstones included.
    pub(crate) fn get(&self, key: &[u8], seq_max: u64) -> Option<Version<'_>> {
        let mut next = self.newest(self.trie.find(key)?);
        while let Some(at) = next {
            let version = self.trie.arena.get(at);
            if version.seq <= seq_max {
                return Some(self.version(at));
            }
            next = version.older;
        }
        None
    }

    /// The sequence number of the newest version of `key`.
    pub(crate) fn latest_seq(&self, key: &[u8]) -> Option<u64> {
        let newest = self.newest(self.trie.find(key)?)?;
        Some(self.trie.arena.get(newest).seq)
    }

    /// The largest sequence number of any version whose key is in `start..end`, without `end` in
    /// `start..`. Takes time in proportion to the keys in the range.
    pub(crate) fn max_seq_in_range(&self, start: &[u8], end: Option<&[u8]>) -> Option<u64> {
        let mut path = Path::default();
        let mut largest = None;
        path.seek(&self.trie, start);
        while let Some(leaf) = path.leaf()
            && end.is_none_or(|end| self.trie.arena.tail(leaf) < end)
        {
            largest = largest.max(self.newest(leaf).map(|at| self.trie.arena.get(at).seq));
            path.next(&self.trie);
        }
        largest
    }

    /// Distinct keys; one whose newest version is a tombstone counts.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Versions of all keys.
    pub(crate) fn versions(&self) -> u64 {
        self.versions.load(Ordering::Relaxed)
    }

    /// Bytes that the arena has taken from the system.
    pub(crate) fn bytes(&self) -> u64 {
        self.trie.arena.allocated_bytes()
    }

    /// Of these, bytes that hold nothing any more: nodes that were replaced, and the ends of chunks
    /// into which the next record did not fit.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.replaced_bytes.load(Ordering::Relaxed) + self.trie.arena.unused_bytes()
    }

    /// The smallest sequence number inserted, if any was.
    pub(crate) fn smallest_seq(&self) -> Option<u64> {
        // The count is stored last, with release: who sees it sees the numbers.
        let any = self.versions.load(order(Needed::VersionsLoad)) > 0;
        any.then(|| self.seq_smallest.load(Ordering::Relaxed))
    }

    /// The largest sequence number inserted, if any was.
    pub(crate) fn largest_seq(&self) -> Option<u64> {
        let any = self.versions.load(order(Needed::VersionsLoad)) > 0;
        any.then(|| self.seq_largest.load(Ordering::Relaxed))
    }

    fn newest(&self, leaf: At<Leaf>) -> Option<At<VersionRecord>> {
        self.trie.arena.get(leaf).newest.load()
    }

    fn version(&self, at: At<VersionRecord>) -> Version<'_> {
        let version = self.trie.arena.get(at);
        Version { seq: version.seq, kind: version.kind, value: self.trie.arena.tail(at) }
    }
}

impl MemtableWriter {
    /// Adds a version. Readers find it from then on; they are to ignore it until its sequence
    /// number is published to them.
    ///
    /// # Errors
    /// By variant, see [`InsertError`]. What the memtable holds has not changed then.
    pub(crate) fn insert(&mut self, key: &[u8], seq: u64, kind: u8, value: &[u8]) -> Result<(), InsertError> {
        let table = &*self.table;
        let (version, last) = (parse(key, seq, kind, value)?, table.largest_seq());
        if let Some(last) = last
            && seq <= last
        {
            return Err(InsertError::SequenceOrder { last, found: seq });
        }
        let inserted = table.trie.insert(&mut self.bump, key, version).map_err(|_| InsertError::Full)?;

        // Counters have one writer too: load and store suffice.
        if inserted.new_key {
            table.entries.store(table.entries() + 1, Ordering::Relaxed);
        }
        if inserted.garbage_bytes > 0 {
            let replaced = table.replaced_bytes.load(Ordering::Relaxed) + inserted.garbage_bytes as u64;
            table.replaced_bytes.store(replaced, Ordering::Relaxed);
        }
        if last.is_none() {
            table.seq_smallest.store(seq, Ordering::Relaxed);
        }
        table.seq_largest.store(seq, Ordering::Relaxed);
        table.versions.store(table.versions() + 1, order(Needed::VersionsPublish));
        Ok(())
    }
}

fn parse<'a>(key: &[u8], seq: u64, kind: u8, value: &'a [u8]) -> Result<NewVersion<'a>, InsertError> {
    let key_len = u16::try_from(key.len()).ok().filter(|len| *len > 0);
    let key_len = key_len.ok_or(InsertError::KeyLength { found: key.len() })?;
    let value_len = u32::try_from(value.len()).ok().filter(|_| value.len() <= VALUE_BYTES_MAX);
    let value_len = value_len.ok_or(InsertError::ValueLength { found: value.len() })?;
    Ok(NewVersion { seq, kind, value, value_len, key_len })
}
