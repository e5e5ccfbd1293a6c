//! The tables that a flush or a compaction writes: retention, splitting, naming, opening.
//!
//! Invariants
//! 1. A table never ends between two versions of one key.
//! 2. Until [`Output::finish`] has returned, nothing durable names the files; a job that fails or
//!    gives up removes them ([`Output::discard`]). After a crash the next open does.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use cairn_table::{TableBuilder, TableOptions};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::table_path;
use crate::levels::{TableMeta, TableRef};
use crate::memory::{Charge, Use};
use crate::options::{Compression, Options};
use crate::retain::{Retainer, Verdict};
use crate::types::{KeyspaceId, SeqNo, TableId};

/// Every so many entries a job looks whether it is still wanted.
const CHECK_EVERY: u64 = 64;

/// Tables in the making.
pub(crate) struct Output<'a> {
    core: &'a Core,
    keyspace: KeyspaceId,
    level: usize,
    retainer: Retainer,
    current: Option<Current>,
    finished: Vec<(TableMeta, PathBuf)>,
    charge: Charge,
    /// Entries that came.
    taken: u64,
    /// Entries that were not kept.
    pub(crate) dropped: u64,
}

struct Current {
    id: TableId,
    path: PathBuf,
    builder: TableBuilder,
    stale: u64,
}

/// How tables of a level are written.
pub(crate) fn table_options(options: &Options, hash_seed: u64) -> TableOptions {
    let compression = match options.compression {
        Compression::Lz4 => cairn_table::Compression::Lz4,
        Compression::None => cairn_table::Compression::None,
    };
    TableOptions {
        block_bytes: options.block_bytes as usize,
        compression,
        filter_bits_per_key: options.filter_bits_per_key,
        filter_hashes: options.filter_probes,
        hash_seed,
        ..TableOptions::default()
    }
}

impl<'a> Output<'a> {
    /// Begins output into `level` of a keyspace, keeping what `snapshots` (ascending) and the latest reader see.
    pub(crate) fn new(core: &'a Core, keyspace: KeyspaceId, level: usize, snapshots: Vec<SeqNo>) -> Output<'a> {
        Output {
            core,
            keyspace,
            level,
            retainer: Retainer::new(if cairn_env::mutant("snapshots-forgotten") { Vec::new() } else { snapshots }),
            current: None,
            finished: Vec::new(),
            charge: core.memory.charge(Use::Compaction, 0),
            taken: 0,
            dropped: 0,
        }
    }

    /// Takes the next entry, unless the job is to end; `may_lie_below` tells whether older versions of a key may stand
    /// below the output.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        seq: u64,
        kind: u8,
        value: &[u8],
        may_lie_below: impl FnOnce() -> bool,
    ) -> Result<()> {
        if self.taken.is_multiple_of(CHECK_EVERY) {
            self.core.check_job(self.keyspace)?;
            self.charge_current();
        }
        self.taken += 1;
        let begins_key = self.retainer.begins_key(key);
        let verdict = self.retainer.decide(key, SeqNo(seq), kind, may_lie_below);
        if begins_key && self.is_full() {
            self.finish_current()?;
        }
        let stale = match verdict {
            Verdict::Drop => {
                self.dropped += 1;
                return Ok(());
            }
            Verdict::Keep => 0,
            Verdict::KeepStale => 1,
        };
        let current = match &mut self.current {
            Some(current) => current,
            None => self.current.insert(Current::begin(self.core, self.keyspace)?),
        };
        current.stale += stale;
        current.builder.add(key, seq, kind, value).map_err(table_error)
    }

    fn is_full(&self) -> bool {
        let options = &self.core.options;
        self.current.as_ref().is_some_and(|current| {
            // A memtable makes one table of level 0, whose tables are counted as memtables are.
            (self.level > 0 && current.builder.bytes_so_far() >= options.table_bytes_max)
                || options.table_entries_max.is_some_and(|max| current.builder.entries() >= max)
        })
    }

    /// The table in the making grows with its keys, which its filter takes until the end.
    fn charge_current(&mut self) {
        if let Some(current) = &self.current {
            self.charge.resize(current.builder.memory_bytes() as u64);
        }
    }

    fn finish_current(&mut self) -> Result<()> {
        self.charge_current();
        let Some(current) = self.current.take() else { return Ok(()) };
        let Current { id, path, builder, stale } = current;
        let summary = match builder.finish() {
            Ok(summary) => summary,
            Err(e) => {
                let _ = self.core.env.remove(&path);
                return Err(table_error(e));
            }
        };
        let meta = TableMeta {
            id,
            file_bytes: summary.file_bytes,
            entries: summary.entries,
            tombstones: summary.tombstones,
            stale,
            smallest_key: summary.smallest_key,
            largest_key: summary.largest_key,
            smallest_seq: SeqNo(summary.smallest_seq),
            largest_seq: SeqNo(summary.largest_seq),
            created_ms: self.core.env.unix_time_ms(),
        };
        self.finished.push((meta, path));
        Ok(())
    }

    /// Ends the last table, makes the names durable and opens the tables for reading.
    pub(crate) fn finish(&mut self) -> Result<Vec<TableRef>> {
        self.finish_current()?;
        if self.finished.is_empty() {
            return Ok(Vec::new());
        }
        if !cairn_env::mutant("directory-not-synced") {
            self.core.env.sync_dir(&self.core.dir).inspect_err(|e| {
                // It may have thrown away names that others made and take for durable soon.
                if !e.is_no_space() {
                    self.core.close_to_writes(&format!("the directory could not be synced: {e}"));
                }
            })?;
        }
        self.finished.iter().map(|(meta, _)| self.core.open_table(self.keyspace, meta.clone())).collect()
    }

    /// The bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.finished.iter().map(|(meta, _)| meta.file_bytes).sum()
    }

    /// Removes what was written.
    pub(crate) fn discard(self) {
        let Output { core, current, finished, .. } = self;
        let paths = current.map(|current| current.path).into_iter().chain(finished.into_iter().map(|(_, path)| path));
        for path in paths {
            // What stays is an orphan, which the next open removes.
            let _ = core.env.remove(&path);
        }
    }
}

impl Current {
    fn begin(core: &Core, keyspace: KeyspaceId) -> Result<Current> {
        let id = core.next_table.fetch_add(1, Ordering::Relaxed);
        let path = table_path(&core.dir, id);
        let file = core.env.create(&path)?;
        let options = table_options(&core.options, core.hash_seed);
        let builder = TableBuilder::new(file, id, u64::from(keyspace), options).map_err(table_error)?;
        Ok(Current { id, path, builder, stale: 0 })
    }
}

impl Core {
    /// Opens a table that the manifest lists, or is about to.
    pub(crate) fn open_table(&self, keyspace: KeyspaceId, meta: TableMeta) -> Result<TableRef> {
        crate::recovery::open_table(
            &self.env,
            &self.dir,
            keyspace,
            meta,
            self.hash_seed,
            &self.cache,
            self.removals.clone(),
        )
    }
}

/// A failure of a table, as the engine reports it.
pub(crate) fn table_error(e: cairn_table::Error) -> Error {
    match e {
        cairn_table::Error::Io(e) => e.into(),
        cairn_table::Error::Corrupt { path, offset, what } => Error::corrupt(path, Some(offset), what),
        cairn_table::Error::Newer { path, version } => {
            Error::newer(path, format!("it has table format version {version}, which a newer cairn wrote: use that"))
        }
        e => Error::invalid(e.to_string()),
    }
}
