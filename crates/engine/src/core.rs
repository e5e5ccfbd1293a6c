//! What the handles and the background threads of one open database share.
//!
//! Owns nothing but the parts; each part's rules stand in its module. The order of taking locks,
//! outermost first:
//!
//! 1. `lead` (held across the log's writes): who holds it is the one writer of log and memtables.
//! 2. `manifest` (held across the manifest's writes and syncs). Only the drop of a keyspace takes it under
//!    `lead`, so that no write is under way; who holds it never waits for `lead`.
//! 3. `commit` or `jobs` (short; released while waiting). Never both.
//! 4. the catalog's swap lock, the snapshot list, the health, a ticket, the log's space, the queue
//!    of removals: leaves, no I/O under them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_codec::hash64;
use cairn_env::sync::{self, Condvar};
use cairn_env::{Env, FileLock};

use crate::cache::Cache;
use crate::catalog::CatalogCell;
use crate::commit::{CommitState, Lead};
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::levels::RemovalQueue;
use crate::log_space::LogSpace;
use crate::manifest::Manifest;
use crate::memory::Memory;
use crate::options::Options;
use crate::snapshot::Snapshots;
use crate::stats::Counters;
use crate::types::{SeqNo, Visibility};

/// One open database.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// Tells the handles of one open database from those of another.
    pub(crate) instance: u64,
    pub(crate) hash_seed: u64,
    pub(crate) catalog: CatalogCell,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) removals: Arc<RemovalQueue>,
    /// The last number that readers of the latest see. Stored with release after everything up to
    /// it is in the memtables.
    pub(crate) visible: AtomicU64,
    /// The last number known to be synced.
    pub(crate) durable: AtomicU64,
    pub(crate) next_table: AtomicU64,
    pub(crate) log_space: LogSpace,
    /// A batch with conditions was seen: flushed memtables are kept to decide more of them.
    pub(crate) conditions_seen: AtomicBool,

    pub(crate) lead: sync::Mutex<Lead>,
    pub(crate) syncer: cairn_wal::LogSyncer,
    pub(crate) commit: sync::Mutex<CommitState>,
    /// Something about the commit state changed other than a ticket: leadership free, queue shorter, more synced.
    pub(crate) commit_changed: Condvar,
    /// There is something to append and nobody who waits for it.
    pub(crate) append_wanted: Condvar,
    /// There is something to sync and nobody who waits for it.
    pub(crate) sync_wanted: Condvar,

    /// None before it is begun and after it is closed.
    pub(crate) manifest: sync::Mutex<Option<Manifest>>,

    pub(crate) jobs: sync::Mutex<Jobs>,
    /// There may be something to flush, to remove or to tidy.
    pub(crate) flush_wanted: Condvar,
    /// There may be something to compact.
    pub(crate) compaction_wanted: Condvar,
    /// A flush or compaction ended, or the health changed: who waits for room looks again.
    pub(crate) jobs_changed: Condvar,

    /// Set once, when the database is being closed: long jobs give up.
    pub(crate) closing: AtomicBool,
    pub(crate) health: Mutex<Health>,
    pub(crate) lock_file: Mutex<Option<FileLock>>,
}

/// Whether the database takes writes: its one status.
#[derive(Clone, Debug)]
pub(crate) enum Health {
    /// It does.
    Open,
    /// No space: deletes only, until space returns.
    Full { why: String },
    /// A write or sync of log or manifest failed, or a worker died: none until it is reopened.
    ClosedToWrites { why: String },
    /// Closed by its user.
    Closed,
}

impl Core {
    pub(crate) fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails if nothing may be written at all.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_health().map(drop)
    }

    /// As [`Core::check_writable`]; and why the disk is full, if it is.
    pub(crate) fn check_health(&self) -> Result<Option<String>> {
        match &*self.health.lock().unwrap_or_else(PoisonError::into_inner) {
            Health::Open => Ok(None),
            Health::Full { why } => Ok(Some(why.clone())),
            Health::ClosedToWrites { why } => Err(Error::closed(closed_text(why))),
            Health::Closed => Err(Error::closed("the database is closed")),
        }
    }

    /// Fails if the database was closed by its user.
    pub(crate) fn check_open(&self) -> Result<()> {
        // Every read comes here: no lock.
        if self.is_closing() { Err(Error::closed("the database is closed")) } else { Ok(()) }
    }

    /// Closes the database to writes for good, unless it is already. From here on every read sees
    /// only what is durable.
    pub(crate) fn close_to_writes(&self, why: &str) {
        {
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            match *health {
                Health::Open | Health::Full { .. } => *health = Health::ClosedToWrites { why: why.to_owned() },
                Health::ClosedToWrites { .. } => return,
                // By its user, and somebody may still wait for a sync that has failed.
                Health::Closed => {}
            }
        }
        self.fail_pending(why);
        drop(self.jobs.lock());
        self.jobs_changed.notify_all();
        self.flush_wanted.notify_all();
        self.compaction_wanted.notify_all();
    }

    /// The last number a reader of this visibility sees. Load the catalog first.
    pub(crate) fn seq_at(&self, visibility: Visibility) -> SeqNo {
        let number = match visibility {
            Visibility::Applied => &self.visible,
            Visibility::Durable => &self.durable,
        };
        SeqNo(number.load(Ordering::Acquire))
    }

    /// The one hash of a key.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        hash64(key, self.hash_seed)
    }

    /// The oldest number at which anybody may read.
    pub(crate) fn oldest_reader(&self) -> SeqNo {
        let durable = self.seq_at(Visibility::Durable);
        self.snapshots.oldest().map_or(durable, |(seq, _)| seq.min(durable))
    }
}

/// What a refused writer is told.
pub(crate) fn closed_text(why: &str) -> String {
    format!("the database is closed to writes until it is reopened: {why}")
}

/// Closes the database to writes if what it guards panics; forgotten when all went well.
pub(crate) struct PanicGuard<'a> {
    pub(crate) core: &'a Core,
    pub(crate) what: &'static str,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.core.close_to_writes(&format!("{} panicked", self.what));
    }
}
