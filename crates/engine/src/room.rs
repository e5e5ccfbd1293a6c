//! Room for writes: sealing memtables, and holding writers back while flush and compaction are behind.
//!
//! Everything that waits, waits on a condition, with the reason in the statistics. The bounds:
//! active memtables together as large as one may be, the sealed ones less than that and the one
//! sealed last (more on a full disk), the log by what an open would replay, level 0 by its tables,
//! and all memory by the budget. Writers are slowed in small steps before they must stop. For a
//! keyspace that is being dropped nobody waits.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Buffer, Catalog, Tree};
use crate::commit::{Lead, full_text};
use crate::core::{Core, Health};
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::memtable::MemtableWriter;
use crate::picker::{LEVEL0_TABLES_SLOW, LEVEL0_TABLES_STOP};
use crate::stats::add;
use crate::types::KeyspaceId;

/// Sealed memtables of one keyspace that may wait for their flush.
const SEALED_MAX: usize = 8;
/// The rate to which writers are slowed when level 0 fills up, at first; less as it fills.
const SLOW_BYTES_PER_SECOND: u64 = 64 << 20;
/// Owed delay is slept off in pieces of at least this.
const DELAY_NANOS_MIN: u64 = 1_000_000;

impl Core {
    /// Refuses writes when what readers pin leaves no room: blocks, and memtables that are flushed
    /// long since but for an iterator that began before.
    pub(crate) fn check_memory(&self) -> Result<()> {
        let usable = self.memory.usable();
        // Every write comes here: the sum first, and only if it is too much, what the cache could give back of it.
        if self.memory.held(0) <= usable {
            return Ok(());
        }
        let cached = self.cache.weight();
        if self.memory.held(cached) <= usable {
            return Ok(());
        }
        // Flushed memtables that only conditions would use go first.
        let keyspaces: Vec<KeyspaceId> = self.catalog.load().trees().map(|tree| tree.id).collect();
        for id in keyspaces {
            self.catalog.update(id, |tree| tree.forget_history());
        }
        let held = self.memory.held(cached);
        if held <= usable {
            return Ok(());
        }
        // Memtables are sealed before a group is written, and now there will be none.
        self.commit.lock().room_wanted = true;
        self.append_wanted.notify_one();
        add(&self.counters.busy_refusals_count, 1);
        Err(Error::busy(format!(
            "{held} bytes are held, of the memory budget {usable} may be: values, iterators and cursors in use pin the rest; \
             drop some, or raise memory_budget_bytes"
        )))
    }

    /// Seals what is full, slows down or waits while flush and compaction are behind.
    pub(crate) fn make_room(&self, lead: &mut Lead, bytes: u64) -> Result<()> {
        while let Some(id) = lead.full.first().copied() {
            self.wait_for_room(id)?;
            self.seal(lead, id);
        }
        // Many keyspaces may each be far from full and yet too much together.
        while lead.active_bytes > self.options.memtable_bytes_max {
            let bytes_of = |(_, (buffer, _)): &(&KeyspaceId, &(Arc<Buffer>, MemtableWriter))| buffer.memtable.bytes();
            let Some((&id, _)) = lead.writers.iter().max_by_key(bytes_of) else { break };
            self.wait_for_room(id)?;
            self.seal(lead, id);
        }
        if self.log_space.live_bytes() > self.options.log_bytes_max {
            self.release_log(lead)?;
        }
        self.slow_down(lead, bytes);
        Ok(())
    }

    /// Nobody writes: seals what is mostly tombstones, so that it and what it hides leave the disk and the way
    /// of scans.
    pub(crate) fn seal_garbage(&self, lead: &mut Lead) -> Result<()> {
        let garbage =
            |(id, (buffer, _)): (&KeyspaceId, &(Arc<Buffer>, MemtableWriter))| buffer.is_garbage().then_some(*id);
        let ids: Vec<KeyspaceId> = lead.writers.iter().filter_map(garbage).collect();
        for id in ids {
            self.wait_for_room(id)?;
            self.seal(lead, id);
        }
        Ok(())
    }

    /// The log is at its bound: seals the memtable that pins its oldest segment.
    fn release_log(&self, lead: &mut Lead) -> Result<()> {
        let oldest = lead.writers.iter().min_by_key(|(_, (buffer, _))| buffer.first_segment);
        if let Some((&id, (buffer, _))) = oldest
            // A memtable of the current segment cannot release it.
            && buffer.first_segment < self.log_space.current_segment()
        {
            self.wait_for_room(id)?;
            self.seal(lead, id);
        }
        Ok(())
    }

    /// Waits until a keyspace may seal one more memtable.
    fn wait_for_room(&self, id: KeyspaceId) -> Result<()> {
        let mut jobs = self.jobs.lock();
        let mut began = None;
        let result = loop {
            if jobs.closing {
                break Err(Error::closed("the database is being closed"));
            }
            if let Err(e) = self.check_writable() {
                break Err(e);
            }
            if jobs.dropping.contains(&id) {
                // Who drops it waits for the leader, and gives back more than the wait would.
                break Ok(());
            }
            let catalog = self.catalog.load();
            let Some(tree) = catalog.tree(id) else { break Ok(()) };
            // One look: what follows from it must agree.
            let health = self.health();
            let Some(reason) = self.stall_reason_of(&catalog, tree, &jobs, &health) else { break Ok(()) };
            let failing = jobs.failing.get(&id).filter(|_| self.level0_is_full(tree));
            let failing = failing.map(|e| format!("{reason}, which fails: {e}"));
            drop(catalog);
            if let Health::Full { why } = health {
                break Err(Error::full(full_text(&why)));
            }
            if let Some(why) = failing {
                // Whoever waited would wait without end.
                drop(jobs);
                self.close_to_writes(&why);
                jobs = self.jobs.lock();
                continue;
            }
            if began.is_none() {
                began = Some(self.env.now());
                add(&self.counters.stalls_count, 1);
            }
            jobs.stall_reason = Some(reason);
            jobs = self.jobs_changed.wait(jobs);
        };
        jobs.stall_reason = None;
        drop(jobs);
        if let Some(began) = began {
            let waited = self.env.now().saturating_sub(began);
            add(&self.counters.stall_micros, u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        }
        result
    }

    fn stall_reason_of(&self, catalog: &Catalog, tree: &Tree, jobs: &Jobs, health: &Health) -> Option<String> {
        let staying = catalog.trees().filter(|tree| !jobs.dropping.contains(&tree.id));
        let sealed_bytes: u64 = staying.flat_map(|tree| &tree.sealed).map(|buffer| buffer.memtable.bytes()).sum();
        // On a full disk nothing is flushed, and the deletes that may give space go on in memory.
        let full = matches!(health, Health::Full { .. });
        let bytes_max = if full { self.memory.budget() / 4 } else { self.options.memtable_bytes_max };
        if tree.sealed.len() >= SEALED_MAX || sealed_bytes >= bytes_max {
            return Some(format!("sealed memtables ({sealed_bytes} bytes) wait for their flush"));
        }
        if self.level0_is_full(tree) {
            let level0 = tree.levels.level(0).len();
            return Some(format!("{level0} tables in level 0 of keyspace \"{}\" wait for compaction", tree.name));
        }
        None
    }

    fn level0_is_full(&self, tree: &Tree) -> bool {
        tree.levels.level(0).len() >= LEVEL0_TABLES_STOP && self.options.compaction == crate::CompactionStyle::Leveled
    }

    /// Pays for compaction debt: the fuller level 0, the slower the writes, in small steps rather
    /// than one long stop.
    fn slow_down(&self, lead: &mut Lead, bytes: u64) {
        if self.options.compaction != crate::CompactionStyle::Leveled {
            return;
        }
        let level0 = {
            let catalog = self.catalog.load();
            lead.writers
                .keys()
                .filter_map(|&id| catalog.tree(id))
                .map(|tree| tree.levels.level(0).len())
                .max()
                .unwrap_or(0)
        };
        if level0 < LEVEL0_TABLES_SLOW {
            lead.delay_owed_nanos = 0;
            return;
        }
        let steps = (level0 - LEVEL0_TABLES_SLOW + 1) as u64;
        lead.delay_owed_nanos += bytes.saturating_mul(1_000_000_000 / SLOW_BYTES_PER_SECOND).saturating_mul(steps);
        if lead.delay_owed_nanos < DELAY_NANOS_MIN {
            return;
        }
        let delay = Duration::from_nanos(std::mem::take(&mut lead.delay_owed_nanos));
        let mut jobs = self.jobs.lock();
        jobs.stall_reason = Some(format!("writes are slowed: {level0} tables in level 0 wait for compaction"));
        let (mut jobs, _) = self.jobs_changed.wait_for(jobs, delay);
        jobs.stall_reason = None;
        add(&self.counters.stalls_count, 1);
        add(&self.counters.stall_micros, u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
    }

    /// Seals a keyspace's active memtable, if it has one, and asks for its flush. The caller holds
    /// `lead`, between groups.
    pub(crate) fn seal(&self, lead: &mut Lead, id: KeyspaceId) {
        if lead.take(id).is_none() {
            return;
        }
        self.catalog.update(id, |tree| {
            if let Some(active) = tree.active.take() {
                tree.sealed.insert(0, active);
            }
        });
        let mut jobs = self.jobs.lock();
        jobs.flush_queue.push_back(id);
        self.flush_wanted.notify_one();
    }

    /// In the series' style: asks for a compaction after so many updates.
    pub(crate) fn request_series_compaction(&self, lead: &mut Lead) {
        if let crate::CompactionStyle::EveryUpdates(every) = self.options.compaction
            && lead.updates >= every
        {
            lead.updates -= every;
            let keyspaces: Vec<KeyspaceId> = self.catalog.load().trees().map(|tree| tree.id).collect();
            self.jobs.lock().series_due.extend(keyspaces);
            self.compaction_wanted.notify_one();
        }
    }
}
