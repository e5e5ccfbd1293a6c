//! The cursor: every version of every key, forwards and backwards.
//!
//! Owns the place within a key's versions; the place between keys is the path's. Order: user key
//! ascending, sequence number descending within a key. Holds the memtable, so it may outlive
//! whoever made it, and may move to another thread.
//!
//! Runs beside the writer: it meets everything published before the seek, and may meet what is
//! published later; whoever reads at a sequence number filters by it.
//!
//! The chain of versions leads from new to old. A step backwards within a key needs the newer
//! ones: they are collected once per key (four bytes each), not searched anew at every step.

use std::sync::Arc;

use super::Memtable;
use super::path::Path;
use super::publish::At;
use super::record::VersionRecord;

/// Moves over all versions in a [`Memtable`]; invalid until the first seek.
pub(crate) struct MemtableCursor {
    table: Arc<Memtable>,
    path: Path,
    version: Option<At<VersionRecord>>,
    /// The versions newer than this one, newest first; `None` when not known.
    newer: Option<Vec<At<VersionRecord>>>,
}

impl MemtableCursor {
    /// A cursor that is nowhere yet.
    pub(crate) fn new(table: Arc<Memtable>) -> MemtableCursor {
        MemtableCursor { table, path: Path::default(), version: None, newer: None }
    }

    /// To the newest version of the smallest key.
    pub(crate) fn seek_to_first(&mut self) {
        self.path.first(&self.table.trie);
        self.enter_newest();
    }

    /// To the oldest version of the largest key.
    pub(crate) fn seek_to_last(&mut self) {
        self.path.last(&self.table.trie);
        self.enter_oldest();
    }

    /// To the newest version of `key` whose sequence number is at most `seq_max`, or else to the
    /// newest version of the next larger key.
    pub(crate) fn seek(&mut self, key: &[u8], seq_max: u64) {
        let found = self.path.seek(&self.table.trie, key);
        self.enter_newest();
        if !found {
            return;
        }
        while let Some(at) = self.version {
            let version = self.table.trie.arena.get(at);
            if version.seq <= seq_max {
                return;
            }
            self.version = version.older;
        }
        self.next_key();
    }

    /// To the oldest version of the largest key that is less than `key`.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) {
        self.path.seek_before(&self.table.trie, key);
        self.enter_oldest();
    }

    /// To the next older version of this key, or else to the newest of the next larger key.
    /// Stays invalid where it is invalid.
    #[inline]
    pub(crate) fn next(&mut self) {
        let Some(at) = self.version else { return };
        self.newer = None;
        match self.table.trie.arena.get(at).older {
            Some(older) => self.version = Some(older),
            None => self.next_key(),
        }
    }

    /// To the newest version of the next larger key. Stays invalid where it is invalid.
    #[inline]
    pub(crate) fn next_key(&mut self) {
        self.path.next(&self.table.trie);
        self.enter_newest();
    }

    /// To the next newer version of this key, or else to the oldest of the next smaller key.
    /// Stays invalid where it is invalid.
    pub(crate) fn prev(&mut self) {
        if self.version.is_none() {
            return;
        }
        if self.newer.is_none() {
            self.collect_newer();
        }
        match self.newer.as_mut().and_then(Vec::pop) {
            Some(newer) => self.version = Some(newer),
            None => {
                self.path.prev(&self.table.trie);
                self.enter_oldest();
            }
        }
    }

    /// Whether it is known that this is the newest version of its key, of those that were there when the
    /// cursor came to it going backwards.
    #[inline]
    pub(crate) fn is_newest(&self) -> bool {
        self.newer.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether the cursor is at an entry.
    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.version.is_some()
    }

    /// The user key; empty where invalid.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.path.leaf().map_or(&[], |leaf| self.table.trie.arena.tail(leaf))
    }

    /// The sequence number; zero where invalid.
    #[inline]
    pub(crate) fn seq(&self) -> u64 {
        self.version.map_or(0, |at| self.table.trie.arena.get(at).seq)
    }

    /// The kind of the entry; zero where invalid.
    #[inline]
    pub(crate) fn kind(&self) -> u8 {
        self.version.map_or(0, |at| self.table.trie.arena.get(at).kind)
    }

    /// The value; empty where invalid.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        self.version.map_or(&[], |at| self.table.trie.arena.tail(at))
    }

    #[inline]
    fn enter_newest(&mut self) {
        self.newer = None;
        self.version = self.path.leaf().and_then(|leaf| self.table.trie.arena.get(leaf).newest.load());
    }

    fn enter_oldest(&mut self) {
        self.enter_newest();
        let mut newer = self.newer.take().unwrap_or_default();
        while let Some(at) = self.version
            && let Some(older) = self.table.trie.arena.get(at).older
        {
            newer.push(at);
            self.version = Some(older);
        }
        self.newer = Some(newer);
    }

    fn collect_newer(&mut self) {
        let mut newer = Vec::new();
        let mut at = self.path.leaf().and_then(|leaf| self.table.trie.arena.get(leaf).newest.load());
        while let Some(version) = at
            && at != self.version
        {
            newer.push(version);
            at = self.table.trie.arena.get(version).older;
        }
        self.newer = Some(newer);
    }
}
