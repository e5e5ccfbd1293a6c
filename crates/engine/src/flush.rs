//! Flush: a sealed memtable becomes tables of level 0.
//!
//! What a crash between the steps leaves: before the edit, table files that nothing names (the
//! next open removes them; the log still has the entries); after it, the memtable's log segments
//! (replay skips what the manifest says is flushed, and the next open removes them).
//!
//! A keyspace may be dropped while its memtable is written: the flush ends without an edit.

use std::sync::Arc;

use crate::catalog::{Buffer, Tree};
use crate::core::{Core, closed_text};
use crate::edit::Change;
use crate::error::{Error, Result};
use crate::files::MANIFEST;
use crate::levels::TableRef;
use crate::manifest::{EditError, Manifest};
use crate::memtable::MemtableCursor;
use crate::output::Output;
use crate::stats::add;
use crate::types::{KeyspaceId, SeqNo};

/// A log segment with less than this is not worth beginning anew.
const TRIM_BYTES_MIN: u64 = 256 << 10;

impl Core {
    /// Flushes the oldest sealed memtable of a keyspace, if it has one.
    pub(crate) fn flush_oldest(&self, id: KeyspaceId) -> Result<()> {
        let Some(tree) = self.catalog.tree(id) else { return Ok(()) };
        let Some(buffer) = tree.sealed.last().cloned() else { return Ok(()) };
        let stale = cairn_env::mutant("dropped-keyspace-reinstalled").then(|| tree.clone());
        drop(tree);
        // A batch may span keyspaces: no part of it may be durable in a table while another part
        // could still be lost with the log. And before the list of snapshots is read: one of the
        // durable that is taken later is then at least as new as all that is flushed.
        let early = cairn_env::mutant("snapshots-listed-before-sync").then(|| self.snapshots.list());
        if let Some(largest) = buffer.memtable.largest_seq()
            && !cairn_env::mutant("flushed-before-log-synced")
        {
            self.sync_through(SeqNo(largest))?;
        }
        let mut output = Output::new(self, id, 0, early.unwrap_or_else(|| self.snapshots.list()));
        let tables = self.write_tables(&buffer, &mut output);
        let bytes = output.bytes();
        match tables.and_then(|tables| self.install_flush(id, &buffer, tables)) {
            Ok(()) => {
                add(&self.counters.flushes_count, 1);
                add(&self.counters.flush_bytes, bytes);
                Ok(())
            }
            Err(e) => {
                self.discard(output);
                if let Some(stale) = stale.filter(|_| self.is_dropped(id)) {
                    self.catalog.add(Tree::clone(&stale));
                }
                // Whatever it ended with: nobody misses the tables of a keyspace that was dropped.
                if self.is_dropped(id) { Ok(()) } else { Err(e) }
            }
        }
    }

    /// Removes the files of a job that failed; unless it closed the database, for then the edit
    /// that names them may have become durable, and only the next open can tell.
    pub(crate) fn discard(&self, output: Output<'_>) {
        if self.check_writable().is_ok() {
            output.discard();
        }
    }

    fn write_tables(&self, buffer: &Buffer, output: &mut Output<'_>) -> Result<Vec<TableRef>> {
        let mut cursor = MemtableCursor::new(buffer.memtable.clone());
        cursor.seek_to_first();
        while cursor.valid() {
            // A tombstone always stays: what it hides may lie in any table.
            output.add(cursor.key(), cursor.seq(), cursor.kind(), cursor.value(), || true)?;
            cursor.next();
        }
        output.finish()
    }

    fn install_flush(&self, id: KeyspaceId, buffer: &Arc<Buffer>, tables: Vec<TableRef>) -> Result<()> {
        let too_high = u64::from(cairn_env::mutant("flushed-one-too-high"));
        let flushed = SeqNo(buffer.memtable.largest_seq().unwrap_or(0) + too_high);
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().ok_or_else(|| Error::closed("the database is closed"))?;
        self.check_kept(id)?;
        let log_start = self.log_start(|other| Arc::ptr_eq(other, buffer)).max(manifest.state().log_start);
        let mut changes: Vec<Change> =
            tables.iter().map(|table| Change::AddTable { keyspace: id, level: 0, meta: table.meta.clone() }).collect();
        changes.push(Change::NextTable(self.next_table.load(std::sync::atomic::Ordering::Relaxed)));
        changes.push(Change::Flushed { keyspace: id, seq: flushed });
        changes.push(Change::LogStart(log_start));
        if cairn_env::mutant("log-removed-before-edit") {
            self.remove_log_before(log_start);
        }
        self.commit_edit(manifest, &changes)?;
        if cairn_env::mutant("memtable-gone-before-its-tables") {
            self.catalog.update(id, |tree| tree.sealed.retain(|sealed| !Arc::ptr_eq(sealed, buffer)));
            drop(self.jobs.lock());
        }
        // Before the first condition nobody misses the history: a memtable's worth of memory.
        let conditions = self.conditions_seen.load(std::sync::atomic::Ordering::Relaxed);
        let history_bytes_max = if conditions { self.options.memtable_bytes_max } else { 0 };
        self.catalog.update(id, |tree| {
            let added: Vec<(usize, TableRef)> = tables.into_iter().map(|table| (0, table)).collect();
            tree.levels = tree.levels.with(&[], &added);
            tree.sealed.retain(|sealed| !Arc::ptr_eq(sealed, buffer));
            tree.flushed = flushed;
            tree.keep_history(buffer.clone(), history_bytes_max);
        });
        self.remove_log_before(log_start);
        Ok(())
    }

    /// Lets go of the log's last segment too, if it is more than small change and nothing in it is
    /// still needed.
    pub(crate) fn trim_log(&self) -> Result<()> {
        {
            let mut lead = self.lead.lock();
            let position = lead.log()?.position();
            if position.offset < TRIM_BYTES_MIN || !lead.writers.is_empty() {
                return Ok(());
            }
            match lead.log()?.begin_segment() {
                Ok(()) => {}
                Err(cairn_wal::Error::NoSpace(e)) => return Err(e.into()),
                Err(e) => {
                    let why = format!("the log could not be continued: {e}");
                    drop(lead);
                    self.close_to_writes(&why);
                    return Err(Error::closed(why));
                }
            }
            let position = lead.log()?.position();
            self.log_space.appended(position.segment, 0);
        }
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().ok_or_else(|| Error::closed("the database is closed"))?;
        let log_start = self.log_start(|_| false);
        if log_start > manifest.state().log_start {
            self.commit_edit(manifest, &[Change::LogStart(log_start)])?;
            self.remove_log_before(log_start);
        }
        Ok(())
    }

    /// The first segment that still holds something no table has, once the memtables that are `gone`
    /// are in tables or dropped.
    pub(crate) fn log_start(&self, gone: impl Fn(&Arc<Buffer>) -> bool) -> u64 {
        // The segment first: a group appended after this look lies in it or in a later one, so a
        // memtable that the catalog does not show yet cannot need an earlier one.
        let current = self.log_space.current_segment();
        self.catalog
            .load()
            .trees()
            .flat_map(|tree| tree.buffers())
            .filter(|buffer| !gone(buffer))
            .map(|buffer| buffer.first_segment)
            .fold(current, u64::min)
    }

    /// Writes an edit; the caller installs what it says before it lets go of the manifest.
    pub(crate) fn commit_edit(&self, manifest: &mut Manifest, changes: &[Change]) -> Result<()> {
        // An earlier edit may have left it in doubt while this one waited for the lock: CURRENT may
        // name another file by now, which would never hear of this edit.
        self.check_writable()?;
        manifest.commit(changes).map_err(|e| self.edit_failed("the manifest could not be written", e))?;
        add(&self.counters.manifest_edits_count, 1);
        match manifest.roll_if_grown() {
            Ok(None) => {}
            Ok(Some(old)) => {
                // Not removed now, it is an orphan that the next open removes.
                if let Err(e) = self.env.remove(&MANIFEST.path(&self.dir, old)) {
                    self.note_background_error(&format!("an old manifest stays for now: {e}"));
                }
            }
            Err(e) => {
                // The edit itself is in force. If the old file goes on, the next edit tries again.
                let e = self.edit_failed("the manifest could not be begun anew", e);
                self.note_background_error(&e.to_string());
            }
        }
        Ok(())
    }

    /// What a failed edit means: nothing, or that the database takes no more writes.
    fn edit_failed(&self, what: &str, e: EditError) -> Error {
        match e {
            EditError::Refused(e) => e,
            EditError::InDoubt(e) => {
                let why = format!("{what}: {e}");
                self.close_to_writes(&why);
                Error::closed(closed_text(&why))
            }
        }
    }
}
