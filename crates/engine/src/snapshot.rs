//! Registered snapshots: the numbers at which somebody may still read.
//!
//! A snapshot pins no memtable and no table; it only keeps flush and compaction from dropping the
//! newest version at or before its number. The list is guarded by one lock that is never held
//! across I/O; a number is chosen and registered under it, so that a flush or compaction that
//! reads the list afterwards either sees the snapshot or knows that its number is newer than
//! everything it merges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::types::SeqNo;

/// The registered numbers and how often each is held.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    held: Mutex<BTreeMap<SeqNo, Holders>>,
}

#[derive(Debug)]
struct Holders {
    count: u64,
    since: Duration,
}

/// A view of the database at one moment. Everything committed before is visible through it and
/// nothing after, for as long as it lives; while it lives, compaction keeps the versions it needs. A
/// keyspace that is dropped is gone for it too. Read through [`crate::Keyspace::at`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    registration: Arc<Registration>,
}

#[derive(Debug)]
struct Registration {
    seq: SeqNo,
    database: u64,
    snapshots: Arc<Snapshots>,
    released: Box<dyn ReleaseHook>,
}

/// Told when a snapshot goes, so that what only it needed can be compacted away.
pub(crate) trait ReleaseHook: Send + Sync + std::fmt::Debug {
    fn released(&self);
}

impl Snapshots {
    /// Registers the number that `choose` gives; it is called under the list's lock.
    pub(crate) fn register(
        self: &Arc<Self>,
        database: u64,
        now: Duration,
        released: Box<dyn ReleaseHook>,
        choose: impl FnOnce() -> SeqNo,
    ) -> Snapshot {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = choose();
        held.entry(seq).or_insert(Holders { count: 0, since: now }).count += 1;
        drop(held);
        Snapshot { registration: Arc::new(Registration { seq, database, snapshots: self.clone(), released }) }
    }

    /// The registered numbers, ascending.
    pub(crate) fn list(&self) -> Vec<SeqNo> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// The oldest registered number and when it was taken.
    pub(crate) fn oldest(&self) -> Option<(SeqNo, Duration)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.first_key_value().map(|(seq, holders)| (*seq, holders.since))
    }

    /// How many are held.
    pub(crate) fn count(&self) -> u64 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().map(|h| h.count).sum()
    }
}

impl Snapshot {
    /// The number of the last write it sees.
    pub fn seq(&self) -> SeqNo {
        self.registration.seq
    }

    pub(crate) fn database(&self) -> u64 {
        self.registration.database
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut held = self.snapshots.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = false;
        if let Some(holders) = held.get_mut(&self.seq) {
            holders.count -= 1;
            gone = holders.count == 0;
        }
        if gone {
            held.remove(&self.seq);
        }
        drop(held);
        if gone {
            self.released.released();
        }
    }
}
