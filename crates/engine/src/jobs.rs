//! Background work: what is asked for, who does it, and who waits for it.
//!
//! Two threads take jobs: one flushes memtables, removes files and tidies; one compacts. At most
//! one flush and one compaction run at a time. Requests stand in [`Jobs`] behind one short lock;
//! a job runs without it. Every wait is on a condition.
//!
//! A full disk makes a job end with `Full`: what it had written is removed, the database takes
//! deletes only, the reserve file is given back so that there is something to work with, and the
//! job is tried again when space returns. Any other failure that leaves the manifest or the log
//! in doubt closes the database to writes, and so does a memtable that cannot be written to a
//! table; a failure to read a damaged table stops compaction of that keyspace until it is reopened
//! or compacted by request, and is shown in the statistics. A compaction that fails otherwise is
//! tried again, after those of all other keyspaces. Writers who must wait for one that fails close
//! the database instead: they would wait without end. A job on a keyspace that is dropped meanwhile
//! ends early, and whatever it ended with counts as done.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::core::{Core, Health};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{FileKind, LOG, RESERVE, classify};
use crate::options::CompactionStyle;
use crate::picker::{Circumstances, Plan, level0_is_worth_merging, pick, pick_full, pick_series};
use crate::stats::add;
use crate::types::{KeyspaceId, SeqNo, Visibility};

/// Space kept aside for deletes and compaction on a full disk.
const RESERVE_BYTES: usize = 1 << 20;
/// How often to see whether a full disk has space again, and to tidy.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle database looks for old garbage to compact.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// How long nobody writes before memtables are tidied.
const QUIET_INTERVAL: Duration = Duration::from_secs(2);

/// What was written last, when, and the count of blocks asked of the cache by then.
struct Activity {
    seq: SeqNo,
    since: Duration,
    blocks_read: u64,
}

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    /// Keyspaces with sealed memtables, in the order of sealing.
    pub(crate) flush_queue: VecDeque<KeyspaceId>,
    flushing: bool,
    /// Something changed that may make a compaction due.
    pub(crate) compaction_due: bool,
    /// Keyspaces that the series' compaction after so many updates has not done yet.
    pub(crate) series_due: BTreeSet<KeyspaceId>,
    compacting: bool,
    /// Set once nobody has written for a while: bytes of the blocks asked of the cache since, found or read.
    quiet_read_bytes: Option<u64>,
    /// Bytes of tables that compactions have read in that time: they are paid for.
    quiet_merged_bytes: u64,
    /// A full compaction of everything written up to this number.
    manual: Option<SeqNo>,
    manual_rounds_done: u64,
    /// Keyspaces whose compaction failed on a damaged file.
    damaged: BTreeSet<KeyspaceId>,
    /// Keyspaces whose last compaction failed, other than for lack of space.
    pub(crate) failing: BTreeMap<KeyspaceId, Error>,
    /// Keyspaces whose last compaction failed, for whatever reason, and the count of failures by then: they
    /// come after all others, the one that failed last at the end.
    failed: BTreeMap<KeyspaceId, u64>,
    failures: u64,
    /// Keyspaces of which somebody waits to drop them: no writer waits for their jobs.
    pub(crate) dropping: BTreeSet<KeyspaceId>,
    /// What the last full compaction failed with.
    manual_error: Option<Error>,
    /// The last failure of background work, for the statistics.
    pub(crate) last_error: Option<String>,
    /// Why writers wait now.
    pub(crate) stall_reason: Option<String>,
    pub(crate) closing: bool,
}

impl Jobs {
    /// Nothing more is to be done for a keyspace that was dropped.
    pub(crate) fn forget(&mut self, id: KeyspaceId) {
        self.series_due.remove(&id);
        self.damaged.remove(&id);
        self.failing.remove(&id);
        self.failed.remove(&id);
    }
}

impl Core {
    /// The thread that flushes, removes and tidies.
    pub(crate) fn run_flush_thread(&self) {
        let mut last = self.activity();
        let mut jobs = self.jobs.lock();
        loop {
            if jobs.closing {
                return;
            }
            let writable = self.check_writable().is_ok();
            if writable && !jobs.flush_queue.is_empty() {
                jobs.flushing = true;
                let id = jobs.flush_queue.front().copied().unwrap_or_default();
                drop(jobs);
                let result = self.flush_oldest(id);
                self.remove_obsolete();
                jobs = self.jobs.lock();
                jobs.flushing = false;
                match result {
                    Ok(()) => {
                        jobs.flush_queue.pop_front();
                        jobs.compaction_due = true;
                        self.compaction_wanted.notify_one();
                    }
                    Err(e) => {
                        if !matches!(e.kind(), ErrorKind::Full | ErrorKind::Closed) {
                            // Nobody could write much longer, and would wait without end. A table that
                            // reads back damaged is no better than one that cannot be written.
                            drop(jobs);
                            self.close_to_writes(&format!("a memtable could not be written to a table: {e}"));
                            jobs = self.jobs.lock();
                        }
                        jobs = self.job_failed(jobs, "a flush", &e);
                        // Given up because of a close, it has missed the call to end.
                        if !jobs.closing {
                            jobs = self.flush_wanted.wait_for(jobs, TIDY_INTERVAL).0;
                        }
                    }
                }
                if !cairn_env::mutant("end-of-flush-not-told") {
                    self.jobs_changed.notify_all();
                }
            } else {
                drop(jobs);
                self.remove_obsolete();
                self.look_for_space();
                self.tidy_when_quiet(&mut last);
                jobs = self.jobs.lock();
                if jobs.closing || (!jobs.flush_queue.is_empty() && self.check_writable().is_ok()) {
                    continue;
                }
                jobs = self.flush_wanted.wait_for(jobs, TIDY_INTERVAL).0;
            }
        }
    }

    fn activity(&self) -> Activity {
        let counters = &self.counters;
        let blocks = [&counters.cache_hits_count, &counters.cache_misses_count];
        Activity {
            seq: self.seq_at(Visibility::Applied),
            since: self.env.now(),
            blocks_read: blocks.map(|count| count.load(Ordering::Relaxed)).iter().sum(),
        }
    }

    /// Once nobody has written for a while: asks the leader to seal memtables that are mostly tombstones, and compaction
    /// to merge level 0.
    fn tidy_when_quiet(&self, last: &mut Activity) {
        let now = self.activity();
        if now.seq != last.seq {
            *last = now;
            let mut jobs = self.jobs.lock();
            (jobs.quiet_read_bytes, jobs.quiet_merged_bytes) = (None, 0);
            return;
        }
        if now.since.saturating_sub(last.since) < QUIET_INTERVAL {
            return;
        }
        let read_bytes = (now.blocks_read - last.blocks_read).saturating_mul(u64::from(self.options.block_bytes));
        let read_bytes = {
            let mut jobs = self.jobs.lock();
            let left = read_bytes.saturating_sub(jobs.quiet_merged_bytes);
            jobs.quiet_read_bytes = Some(left);
            left
        };
        let catalog = self.catalog.load();
        if catalog.trees().any(|tree| tree.active.as_ref().is_some_and(|buffer| buffer.is_garbage())) {
            self.commit.lock().room_wanted = true;
            self.append_wanted.notify_one();
        }
        let leveled = self.options.compaction == CompactionStyle::Leveled;
        if leveled && catalog.trees().any(|tree| level0_is_worth_merging(&tree.levels, read_bytes)) {
            self.jobs.lock().compaction_due = true;
            self.compaction_wanted.notify_one();
        }
    }

    /// The thread that compacts.
    pub(crate) fn run_compaction_thread(&self) {
        let mut jobs = self.jobs.lock();
        loop {
            if jobs.closing {
                return;
            }
            let (skip, failed) = (jobs.damaged.clone(), jobs.failed.clone());
            let (manual, quiet) = (jobs.manual, jobs.quiet_read_bytes);
            let series = if manual.is_some() { None } else { jobs.series_due.pop_first() };
            jobs.compaction_due = false;
            jobs.compacting = true;
            drop(jobs);
            let picked =
                if self.check_writable().is_ok() { self.pick_any(&skip, &failed, quiet, manual, series) } else { None };
            let result = picked.as_ref().map(|(id, plan)| (*id, self.compact(*id, plan)));
            let merged_bytes = picked.as_ref().map_or(0, |(_, plan)| plan.bytes());
            // The plan holds tables that the compaction has made obsolete.
            drop(picked);
            if result.is_some() {
                self.remove_obsolete();
            }
            jobs = self.jobs.lock();
            jobs.compacting = false;
            match result {
                Some((id, Ok(()))) => {
                    if let Some(read_bytes) = &mut jobs.quiet_read_bytes {
                        *read_bytes = read_bytes.saturating_sub(merged_bytes);
                        jobs.quiet_merged_bytes += merged_bytes;
                    }
                    jobs.failing.remove(&id);
                    jobs.failed.remove(&id);
                    jobs.compaction_due = true;
                    self.jobs_changed.notify_all();
                    continue;
                }
                Some((id, Err(e))) => {
                    jobs.failures += 1;
                    let failures = jobs.failures;
                    jobs.failed.insert(id, failures);
                    match e.kind() {
                        ErrorKind::Full | ErrorKind::Closed => {}
                        ErrorKind::Corrupt => {
                            jobs.damaged.insert(id);
                            jobs.failing.insert(id, e.clone());
                        }
                        _ => {
                            jobs.failing.insert(id, e.clone());
                        }
                    }
                    if jobs.manual.take().is_some() {
                        jobs.manual_error = Some(e.clone());
                        jobs.manual_rounds_done += 1;
                    }
                    if e.kind() == ErrorKind::Full {
                        jobs.series_due.extend(series);
                    }
                    jobs = self.job_failed(jobs, "a compaction", &e);
                    self.jobs_changed.notify_all();
                    if !jobs.closing {
                        jobs = self.compaction_wanted.wait_for(jobs, TIDY_INTERVAL).0;
                    }
                    continue;
                }
                None => {}
            }
            if manual.is_some() && jobs.manual == manual {
                jobs.manual = None;
                jobs.manual_error = self.check_writable().err();
                jobs.manual_rounds_done += 1;
                self.jobs_changed.notify_all();
            }
            if !(jobs.closing || jobs.compaction_due || !jobs.series_due.is_empty() || jobs.manual.is_some()) {
                let (again, timed_out) = self.compaction_wanted.wait_for(jobs, IDLE_INTERVAL);
                jobs = again;
                jobs.compaction_due |= timed_out;
            }
        }
    }

    /// Notes a failure: a full disk, or one that closes the database, or one to be shown only.
    fn job_failed<'a>(
        &'a self,
        mut jobs: cairn_env::sync::MutexGuard<'a, Jobs>,
        what: &str,
        e: &Error,
    ) -> cairn_env::sync::MutexGuard<'a, Jobs> {
        add(&self.counters.background_errors_count, 1);
        jobs.last_error = Some(format!("{what} failed: {e}"));
        if e.kind() == ErrorKind::Full {
            drop(jobs);
            self.set_full(&e.to_string());
            jobs = self.jobs.lock();
        }
        jobs
    }

    /// The next compaction over all keyspaces. The one with the most in level 0 comes first, since its writers
    /// would wait; those whose last one failed come last, or one that fails for ever would hold up all.
    fn pick_any(
        &self,
        skip: &BTreeSet<KeyspaceId>,
        failed: &BTreeMap<KeyspaceId, u64>,
        quiet_read_bytes: Option<u64>,
        manual: Option<SeqNo>,
        series: Option<KeyspaceId>,
    ) -> Option<(KeyspaceId, Plan)> {
        let at = Circumstances {
            oldest_reader: self.oldest_reader(),
            now_ms: self.env.unix_time_ms(),
            quiet_read_bytes,
            table_bytes_max: self.options.table_bytes_max,
        };
        let mut trees: Vec<_> = self.catalog.load().trees().filter(|tree| !skip.contains(&tree.id)).cloned().collect();
        trees.sort_by_key(|tree| (failed.get(&tree.id), Reverse(tree.levels.level(0).len())));
        if let Some(target) = manual
            && let Some(found) = trees.iter().find_map(|tree| Some((tree.id, pick_full(&tree.levels, at, target)?)))
        {
            return Some(found);
        }
        if let Some(id) = series {
            return trees.iter().find(|tree| tree.id == id).and_then(|tree| Some((id, pick_series(&tree.levels)?)));
        }
        trees.iter().find_map(|tree| Some((tree.id, pick(&tree.levels, &self.options, at)?)))
    }

    /// Seals every memtable and waits until all that was sealed is flushed.
    pub(crate) fn flush_all(&self) -> Result<()> {
        self.check_writable()?;
        {
            let mut lead = self.lead.lock();
            let ids: Vec<KeyspaceId> = lead.writers.keys().copied().collect();
            for id in ids {
                self.seal(&mut lead, id);
            }
        }
        let target = self.seq_at(Visibility::Applied);
        let mut jobs = self.jobs.lock();
        loop {
            let waiting = |core: &Core| {
                core.catalog.load().trees().any(|tree| {
                    tree.sealed.iter().any(|b| b.memtable.smallest_seq().is_some_and(|seq| SeqNo(seq) <= target))
                })
            };
            if !waiting(self) {
                return Ok(());
            }
            self.check_writable()?;
            if let Health::Full { why } = self.health() {
                return Err(Error::full(why));
            }
            if jobs.closing {
                return Err(Error::closed("the database was closed while it flushed"));
            }
            jobs = self.jobs_changed.wait(jobs);
        }
    }

    /// Compacts everything that is written now, and waits for it.
    pub(crate) fn compact_all(&self) -> Result<()> {
        self.flush_all()?;
        self.trim_log()?;
        let target = self.seq_at(Visibility::Applied);
        let mut jobs = self.jobs.lock();
        while jobs.manual.is_some() && !jobs.closing {
            self.check_writable()?;
            jobs = self.jobs_changed.wait(jobs);
        }
        jobs.manual = Some(target);
        jobs.damaged.clear();
        let round = jobs.manual_rounds_done;
        self.compaction_wanted.notify_one();
        while jobs.manual_rounds_done == round {
            if jobs.closing {
                return Err(Error::closed("the database was closed while it compacted"));
            }
            // Nobody may be left to do it: the thread that compacts may have panicked.
            self.check_writable()?;
            jobs = self.jobs_changed.wait(jobs);
        }
        match jobs.manual_error.take() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Removes the files of tables that nobody refers to any more.
    pub(crate) fn remove_obsolete(&self) {
        let paths = self.removals.take();
        if paths.is_empty() {
            return;
        }
        for path in paths {
            match self.env.remove(&path) {
                Ok(()) => add(&self.counters.tables_removed_count, 1),
                Err(e) if e.is_not_found() => {}
                // It is an orphan now; the next open removes it.
                Err(e) => self.note_background_error(&format!("an obsolete file stays for now: {e}")),
            }
        }
    }

    /// Removes the log's segments before its start, which a durable edit has moved.
    pub(crate) fn remove_log_before(&self, start: u64) {
        for segment in self.log_space.release_before(start) {
            if let Err(e) = self.env.remove(&LOG.path(&self.dir, segment))
                && !e.is_not_found()
            {
                self.note_background_error(&format!("an old log segment stays for now: {e}"));
            }
        }
    }

    pub(crate) fn note_background_error(&self, text: &str) {
        add(&self.counters.background_errors_count, 1);
        self.jobs.lock().last_error = Some(text.to_owned());
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join(RESERVE)
    }

    /// The disk is full: only deletes from now on, and the reserve is given back for them.
    pub(crate) fn set_full(&self, why: &str) {
        // Before anybody can look for space again, who would make it anew. Not being there is as
        // good as being removed.
        let _ = self.env.remove(&self.reserve_path());
        {
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*health, Health::Open) {
                return;
            }
            *health = Health::Full { why: why.to_owned() };
        }
        // Nobody stands between a look at the health and the wait that this must end.
        drop(self.jobs.lock());
        self.jobs_changed.notify_all();
    }

    /// Makes the reserve, zeros and all; on a full disk that is the test whether space is back. One
    /// that an earlier opening left whole is as good.
    pub(crate) fn make_reserve(&self) -> cairn_env::Result<()> {
        let path = self.reserve_path();
        if self.env.open(&path).and_then(|file| file.len()).is_ok_and(|len| len == RESERVE_BYTES as u64) {
            return Ok(());
        }
        match self.env.remove(&path) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        let made = self.env.create(&path).and_then(|file| {
            file.write_all_at(&vec![0; RESERVE_BYTES], 0)?;
            file.sync_all()
        });
        if made.is_err() {
            // Half a reserve would hold the space that something else may need.
            let _ = self.env.remove(&path);
        }
        made
    }

    /// On a full disk: looks whether there is space again.
    fn look_for_space(&self) {
        if !matches!(self.health(), Health::Full { .. }) || self.make_reserve().is_err() {
            return;
        }
        {
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*health, Health::Full { .. }) {
                *health = Health::Open;
            }
        }
        drop(self.jobs.lock());
        self.jobs_changed.notify_all();
        self.compaction_wanted.notify_all();
    }

    /// A snapshot went: what only it needed may be compacted away.
    pub(crate) fn snapshot_released(&self) {
        self.jobs.lock().compaction_due = true;
        self.compaction_wanted.notify_one();
    }

    /// Bytes of all files in the directory.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let ours = |name: &str| !matches!(classify(name), FileKind::Foreign);
        self.env
            .list(&self.dir)
            .map_or(0, |entries| entries.iter().filter(|entry| ours(&entry.name)).map(|entry| entry.len).sum())
    }

    /// Stops the background threads: they end after the job at hand, which gives up early.
    pub(crate) fn stop_jobs(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.jobs.lock().closing = true;
        self.flush_wanted.notify_all();
        self.compaction_wanted.notify_all();
        self.jobs_changed.notify_all();
    }

    /// Whether a long job should give up.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends a job on a keyspace if the database is being closed, or the keyspace was dropped meanwhile.
    pub(crate) fn check_job(&self, id: KeyspaceId) -> Result<()> {
        if self.is_closing() {
            return Err(Error::closed("the database is being closed"));
        }
        self.check_kept(id)
    }
}
