//! The commit pipeline: two-stage group commit.
//!
//! Callers encode and checksum their batches outside any lock and queue them. The first in becomes
//! the leader: it takes what is queued as one group, makes room, decides the conditions, gives the
//! numbers, appends the group to the log with one write, applies it to the memtables and publishes
//! its last number. Syncing is the second stage with a leader of its own: while one sync runs the
//! next group is appended, and one later sync covers all of them. Nobody sleeps to make groups
//! larger; whoever syncs next lets others run for some turns, until as many wait as the last sync
//! released. Without that, callers would fall into two halves, each waiting for the other's sync.
//! (The shape is Pebble's commit pipeline with LevelDB's leader; a memtable here has one writer, so
//! applying stays with the leader.)
//!
//! Invariants
//! 1. The order of the log, of the numbers and of the application to memtables is one order.
//! 2. A ticket asked for as durable is resolved only after a sync that began after its append.
//! 3. `visible` is stored only when every entry up to it is in the memtables; `durable` only when
//!    the log up to it is synced. Neither goes back, but for `visible` when a sync fails: then it
//!    becomes `durable`, for good.
//! 4. A memtable is sealed only by who holds `lead`, and only between groups: a sealed memtable
//!    holds nothing that is not published.
//! 5. A batch with conditions begins its group, so that they are decided on what is applied.
//! 6. A keyspace is dropped only by who holds `lead`, between groups: a batch is wholly before a drop,
//!    and gone with it as far as it wrote there, or wholly after it, and refused.
//!
//! Who leads: a caller that waits does it itself, without a change of thread; for batches that
//! nobody waits for (`submit`, `durable`), the append and the sync thread do, or who helps. Who drops a keyspace leads too, and
//! goes before every group that is not begun: writers without pause cannot keep it waiting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_env::sync::MutexGuard;
use cairn_wal::{LogWriter, Position};

use crate::batch::{Batch, EncodedBatch, Op, Ops};
use crate::catalog::{Buffer, Catalog};
use crate::core::{Core, PanicGuard, closed_text};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Charge, Use};
use crate::memtable::{InsertError, Memtable, MemtableOptions, MemtableWriter};
use crate::stats::{add, add_alone};
use crate::ticket::{Commit, Promise, TicketCell};
use crate::types::{Durability, KeyspaceId, SeqNo, Visibility, kind};

/// The kind of the log's groups of batches.
pub(crate) const GROUP_KIND: u8 = 1;

/// A group takes batches up to this many bytes: beyond it the write costs more than the turn.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// And up to this many batches.
const GROUP_BATCHES_MAX: usize = 4096;

/// Who is to sync lets others run at most so often ...
const TURNS_MAX: u32 = 16;
/// ... and no more once so much time has gone: less than half of a sync of 0.1 ms.
const TURNS_TIME_MAX: Duration = Duration::from_micros(40);

/// Where others take the processor for so long and none of them comes, which takes a program that computes beside
/// this one, ...
const TURN_TIME_LOST: Duration = Duration::from_millis(1);
/// ... so many syncs come without giving it away.
const SYNCS_WITHOUT_TURNS: u32 = 64;

/// Of the list of a group's batches, room for so many is kept.
const GROUP_BATCHES_KEPT: usize = 64;
/// Of the list of keyspaces that a group touches, so much memory is kept.
const TOUCHED_KEPT: usize = 1024;

/// A batch in the queue.
#[derive(Debug)]
struct Pending {
    batch: EncodedBatch,
    durability: Durability,
    ticket: Promise,
    /// Somebody waits for it and will lead if need be.
    attended: bool,
    _charge: Charge,
}

/// Appended groups up to `end` whose sync is still to come.
#[derive(Debug)]
struct Unsynced {
    end: Position,
    seq: SeqNo,
    tickets: Vec<(Promise, SeqNo)>,
    unattended: usize,
    /// A sync that began later covers it: nothing more is merged into it, or that sync would end
    /// before its end, and so would every later one while writes go on.
    covered: bool,
}

impl Unsynced {
    fn holds(&self, ticket: &TicketCell) -> bool {
        self.tickets.iter().any(|(promise, _)| promise.is_of(ticket))
    }
}

/// The queues of both stages.
#[derive(Debug)]
pub(crate) struct CommitState {
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    pending_unattended: usize,
    /// The list of the last group, empty: its memory is kept.
    last_group: Vec<Pending>,
    leading: bool,
    /// So many wait to work between two groups: no further group is begun before them.
    interrupting: usize,
    /// Writes are refused for lack of memory: memtables must be sealed without a group to write.
    pub(crate) room_wanted: bool,
    unsynced: VecDeque<Unsynced>,
    syncing: bool,
    /// Tickets that the last sync resolved: so many may come again.
    released: usize,
    /// So many syncs are to come without letting others run.
    without_turns: u32,
    /// Why nothing can be synced any more.
    failed: Option<String>,
    /// No more batches are taken.
    pub(crate) closing: bool,
}

impl CommitState {
    pub(crate) fn new() -> CommitState {
        CommitState {
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_unattended: 0,
            last_group: Vec::new(),
            leading: false,
            interrupting: 0,
            room_wanted: false,
            unsynced: VecDeque::new(),
            syncing: false,
            released: 0,
            without_turns: 0,
            failed: None,
            closing: false,
        }
    }

    fn unsynced_unattended(&self) -> bool {
        self.unsynced.iter().any(|u| u.unattended > 0)
    }

    /// Whether whoever has something to write may lead.
    fn may_lead(&self) -> bool {
        !self.leading && self.interrupting == 0
    }

    /// What is queued, as far as it goes together.
    fn take_group(&mut self) -> Vec<Pending> {
        self.room_wanted = false;
        let mut group = std::mem::take(&mut self.last_group);
        let mut bytes = 0;
        while let Some(next) = self.pending.front() {
            let len = next.batch.queue_bytes();
            let begins_its_own = !group.is_empty()
                && !next.batch.conditions.is_empty()
                && !cairn_env::mutant("condition-decided-within-its-group");
            let too_much = !group.is_empty() && (bytes + len > GROUP_BYTES_MAX || group.len() >= GROUP_BATCHES_MAX);
            if begins_its_own || too_much {
                break;
            }
            let Some(next) = self.pending.pop_front() else { break };
            bytes += len;
            self.pending_bytes -= len;
            self.pending_unattended -= usize::from(!next.attended);
            group.push(next);
        }
        group
    }

    /// Tickets that the next sync would resolve.
    fn awaiting_sync(&self) -> usize {
        self.unsynced.iter().map(|unsynced| unsynced.tickets.len()).sum()
    }
}

/// A keyspace's active memtable and the one who writes to it.
pub(crate) type ActiveMemtable = (Arc<Buffer>, MemtableWriter);

/// What only the leader touches: log and memtables.
#[derive(Debug)]
pub(crate) struct Lead {
    /// None once the log is closed.
    log: Option<LogWriter>,
    pub(crate) writers: BTreeMap<KeyspaceId, ActiveMemtable>,
    pub(crate) next_seq: u64,
    /// Delay owed for slowing down, in nanoseconds.
    pub(crate) delay_owed_nanos: u64,
    /// Puts and deletes since the last compaction by count.
    pub(crate) updates: u64,
    /// Memtables to seal before the next group.
    pub(crate) full: BTreeSet<KeyspaceId>,
    /// Bytes of all active memtables.
    pub(crate) active_bytes: u64,
    /// Keyspaces of the group under way, some perhaps more than once; its memory is kept.
    touched: Vec<KeyspaceId>,
}

impl Lead {
    pub(crate) fn new(log: LogWriter) -> Lead {
        Lead {
            log: Some(log),
            writers: BTreeMap::new(),
            next_seq: 1,
            delay_owed_nanos: 0,
            updates: 0,
            full: BTreeSet::new(),
            active_bytes: 0,
            touched: Vec::new(),
        }
    }

    /// The log's writer.
    pub(crate) fn log(&mut self) -> Result<&mut LogWriter> {
        self.log.as_mut().ok_or_else(|| Error::closed("the database is closed"))
    }

    /// Takes out a keyspace's active memtable, to be sealed or dropped.
    pub(crate) fn take(&mut self, id: KeyspaceId) -> Option<ActiveMemtable> {
        self.full.remove(&id);
        let active = self.writers.remove(&id);
        if let Some((buffer, _)) = &active {
            self.active_bytes = self.active_bytes.saturating_sub(buffer.charged());
        }
        active
    }

    /// Ends the log.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.log.take().map_or(Ok(()), |log| log.close().map_err(crate::manifest::wal_error))
    }
}

/// Tickets whose outcome is known, and still to be told.
struct Done {
    tickets: Vec<(Promise, SeqNo)>,
    /// What they end with, if not well.
    error: Option<Error>,
}

impl Done {
    fn tell(self) {
        for (mut ticket, seq) in self.tickets {
            ticket.resolve(self.error.as_ref().map_or(Ok(Commit { seq }), |error| Err(error.clone())));
        }
    }
}

/// Calls who goes on when it is dropped, also by a panic.
struct HandOver<'a>(&'a Core);

impl Drop for HandOver<'_> {
    fn drop(&mut self) {
        self.0.hand_over(&self.0.commit.lock());
    }
}

/// A group that was written, to be published.
struct Written {
    end: Position,
    seq: SeqNo,
    tickets: Vec<(Promise, SeqNo)>,
    unattended: usize,
    done: Vec<(Promise, SeqNo)>,
}

impl Core {
    /// Queues a batch that nobody waits for yet; refuses beyond the bound.
    pub(crate) fn submit(&self, batch: EncodedBatch, durability: Durability) -> Result<Arc<TicketCell>> {
        self.check_memory()?;
        let bytes = batch.queue_bytes();
        let mut state = self.commit.lock();
        if self.queue_is_full(&state, bytes) {
            add(&self.counters.busy_refusals_count, 1);
            let text = format!("{} bytes of writes are waiting already; retry later", state.pending_bytes);
            return Err(Error::busy(text));
        }
        let ticket = self.push(&mut state, batch, durability, false)?;
        if !state.leading && !cairn_env::mutant("submitted-batch-not-told") {
            self.append_wanted.notify_one();
        }
        Ok(ticket)
    }

    /// A batch as it is queued, or what is wrong with it. That a key required absent was found while the
    /// batch was made refuses it like a condition that the leader decides, and is counted with those.
    pub(crate) fn finish(&self, batch: Batch) -> Result<EncodedBatch> {
        let mut batch = batch.finish(self.instance).inspect_err(|e| {
            if e.kind() == ErrorKind::Conflict {
                add(&self.counters.conflicts_count, 1);
            }
        })?;
        if !batch.conditions.is_empty() {
            self.conditions_seen.store(true, Ordering::Relaxed);
        }
        if cairn_env::mutant("condition-decided-too-early") {
            batch.conditions.drain(..).try_for_each(|condition| self.check_condition(&condition))?;
        }
        Ok(batch)
    }

    /// Queues a batch and waits for it.
    pub(crate) fn write(&self, batch: EncodedBatch, durability: Durability) -> Result<Commit> {
        self.check_memory()?;
        let bytes = batch.queue_bytes();
        let mut state = self.commit.lock();
        while self.queue_is_full(&state, bytes) && state.failed.is_none() && !state.closing {
            state = self.commit_changed.wait(state);
        }
        let ticket = self.push(&mut state, batch, durability, true)?;
        if state.may_lead() {
            self.lead_group(state);
        } else {
            drop(state);
        }
        self.wait_for(&ticket, durability)
    }

    fn queue_is_full(&self, state: &CommitState, bytes: usize) -> bool {
        let bound = usize::try_from(self.options.memory_budget_bytes / 16).unwrap_or(usize::MAX);
        !state.pending.is_empty() && state.pending_bytes + bytes > bound
    }

    fn push(
        &self,
        state: &mut CommitState,
        batch: EncodedBatch,
        durability: Durability,
        attended: bool,
    ) -> Result<Arc<TicketCell>> {
        if state.closing {
            return Err(Error::closed("the database is closed"));
        }
        if let Some(why) = &state.failed {
            return Err(Error::closed(closed_text(why)));
        }
        let bytes = batch.queue_bytes();
        let ticket = Arc::new(TicketCell::new(&self.env));
        let charge = self.memory.charge(Use::Queue, bytes as u64);
        state.pending_bytes += bytes;
        state.pending_unattended += usize::from(!attended);
        state.pending.push_back(Pending {
            batch,
            durability,
            ticket: Promise::new(ticket.clone()),
            attended,
            _charge: charge,
        });
        Ok(ticket)
    }

    /// Waits for a ticket, leading where nobody does. Who did not ask for a sync leads none.
    pub(crate) fn wait_for(&self, ticket: &TicketCell, durability: Durability) -> Result<Commit> {
        let syncs = durability == Durability::Commit;
        let mut outcome = ticket.outcome();
        loop {
            if let Some(outcome) = outcome {
                return outcome;
            }
            let state = self.commit.lock();
            if state.may_lead() && !state.pending.is_empty() {
                self.lead_group(state);
                outcome = ticket.outcome();
            } else if syncs && !state.syncing && state.unsynced.iter().any(|u| !u.tickets.is_empty()) {
                self.sync_log(state);
                outcome = ticket.outcome();
            } else {
                drop(state);
                outcome = ticket.wait();
            }
        }
    }

    /// A ticket that resolves when everything up to `seq`, which is applied, is durable.
    pub(crate) fn ticket_for(&self, seq: SeqNo) -> Result<Arc<TicketCell>> {
        let cell = Arc::new(TicketCell::new(&self.env));
        let mut state = self.commit.lock();
        if state.closing {
            return Err(Error::closed("the database is closed"));
        }
        if let Some(why) = &state.failed {
            return Err(Error::closed(closed_text(why)));
        }
        if seq > self.seq_at(Visibility::Applied) {
            return Err(Error::invalid(format!("nothing was written under the number {} yet", seq.0)));
        }
        if seq <= self.seq_at(Visibility::Durable) || cairn_env::mutant("applied-taken-for-durable") {
            cell.resolve(Ok(Commit { seq }));
            return Ok(cell);
        }
        // What is applied and not durable is in here.
        let Some(unsynced) = state.unsynced.iter_mut().find(|unsynced| unsynced.seq >= seq) else {
            return Err(Error::unknown(unknown_text("it is applied, and nothing knows when it will be synced")));
        };
        unsynced.tickets.push((Promise::new(cell.clone()), seq));
        unsynced.unattended += 1;
        if !state.syncing {
            self.sync_wanted.notify_one();
        }
        Ok(cell)
    }

    /// Syncs for a ticket if nobody does. The thread that syncs what nobody waits for may have been woken; it finds
    /// nothing left to do.
    pub(crate) fn help(&self, ticket: &TicketCell) {
        let state = self.commit.lock();
        let appended = state.unsynced.iter().any(|unsynced| unsynced.holds(ticket));
        if appended && !state.syncing && state.failed.is_none() {
            self.sync_log(state);
        }
    }

    /// Makes everything up to `seq` durable. The caller knows that it is applied.
    pub(crate) fn sync_through(&self, seq: SeqNo) -> Result<()> {
        let mut state = self.commit.lock();
        loop {
            if self.seq_at(Visibility::Durable) >= seq {
                return Ok(());
            }
            if let Some(why) = &state.failed {
                return Err(Error::closed(closed_text(why)));
            }
            if state.syncing {
                state = self.commit_changed.wait(state);
            } else {
                self.sync_log(state);
                state = self.commit.lock();
            }
        }
    }

    /// The thread that appends what nobody waits for. Ends when closing and everything is written.
    pub(crate) fn run_append_thread(&self) {
        let mut state = self.commit.lock();
        loop {
            if state.may_lead() && (state.pending_unattended > 0 || state.room_wanted) {
                self.lead_group(state);
                state = self.commit.lock();
            } else if state.closing && state.pending.is_empty() {
                return;
            } else {
                state = self.append_wanted.wait(state);
            }
        }
    }

    /// The thread that syncs what nobody waits for, and by interval if asked to.
    pub(crate) fn run_sync_thread(&self) {
        let mut due = self.options.sync_interval.map(|interval| self.env.now() + interval);
        let mut state = self.commit.lock();
        loop {
            let now = if due.is_some() { self.env.now() } else { Duration::ZERO };
            let by_interval = due.is_some_and(|at| at <= now) && !state.unsynced.is_empty();
            if !state.syncing && (state.unsynced_unattended() || by_interval) && state.failed.is_none() {
                self.sync_log(state);
                due = self.options.sync_interval.map(|interval| self.env.now() + interval);
                state = self.commit.lock();
            } else if state.closing
                && state.pending.is_empty()
                // A leader that panicked leads for ever; after a failure nobody has to be waited for.
                && (!state.leading || state.failed.is_some())
                && !state.unsynced_unattended()
            {
                return;
            } else if let (Some(at), Some(interval)) = (due, self.options.sync_interval) {
                let left = if at > now { at - now } else { interval };
                if at <= now {
                    due = Some(now + interval);
                }
                state = self.sync_wanted.wait_for(state, left).0;
            } else {
                state = self.sync_wanted.wait(state);
            }
        }
    }

    /// Takes a group, writes it, publishes it. The caller has seen that it may lead.
    fn lead_group(&self, mut state: MutexGuard<'_, CommitState>) {
        state.leading = true;
        let mut group = state.take_group();
        drop(state);
        let guard = PanicGuard { core: self, what: "the commit leader" };
        let mut lead = self.lead.lock();
        let written = if group.is_empty() {
            // What stands in the way of room is noted where it arises.
            let _ = self.make_room(&mut lead, 0).and_then(|()| self.seal_garbage(&mut lead));
            None
        } else {
            self.write_group(&mut lead, &mut group)
        };
        std::mem::forget(guard);
        let mut state = self.commit.lock();
        state.leading = false;
        group.shrink_to(GROUP_BATCHES_KEPT);
        state.last_group = group;
        let done = written.map(|written| self.publish(&mut state, written));
        drop(lead);
        self.hand_over(&state);
        drop(state);
        done.into_iter().for_each(Done::tell);
    }

    /// Works between two groups: after the one under way, if there is one, and before all that are not
    /// begun. Nothing is appended or applied meanwhile, and all that is appended is published.
    pub(crate) fn between_groups<R>(&self, work: impl FnOnce(&mut Lead) -> Result<R>) -> Result<R> {
        let mut state = self.commit.lock();
        state.interrupting += 1;
        // A leader that panicked leads for ever.
        while state.leading && state.failed.is_none() {
            state = self.commit_changed.wait(state);
        }
        state.interrupting -= 1;
        if let Some(why) = &state.failed {
            return Err(Error::closed(closed_text(why)));
        }
        state.leading = true;
        drop(state);
        let guard = PanicGuard { core: self, what: "work between two groups of writes" };
        let result = work(&mut self.lead.lock());
        std::mem::forget(guard);
        let mut state = self.commit.lock();
        state.leading = false;
        self.hand_over(&state);
        result
    }

    /// Nobody leads, or nobody syncs any more: calls who goes on with it, and wakes who waits for the end of that.
    /// Each stage has one who is called: the background thread if there is something that nobody waits for, or else
    /// who waits for the first that is to be done.
    fn hand_over(&self, state: &CommitState) {
        if state.pending_unattended > 0 || state.room_wanted || state.closing {
            self.append_wanted.notify_one();
        }
        if state.may_lead()
            && let Some(first) = state.pending.front().filter(|first| first.attended)
            && !cairn_env::mutant("group-follower-not-woken")
        {
            first.ticket.call();
        }
        if state.unsynced_unattended() || state.closing {
            self.sync_wanted.notify_one();
        }
        if !state.syncing
            && let Some((first, _)) = state.unsynced.iter().find_map(|unsynced| unsynced.tickets.first())
            && !cairn_env::mutant("sync-waiter-not-woken")
        {
            first.call();
        }
        self.commit_changed.notify_all();
    }

    /// Writes a group: room, conditions, log, memtables. Tickets of refused batches are resolved
    /// here; `None` if no batch is left. The list is empty afterwards.
    fn write_group(&self, lead: &mut Lead, group: &mut Vec<Pending>) -> Option<Written> {
        let bytes: usize = group.iter().map(|p| p.batch.queue_bytes()).sum();
        if let Err(e) = self.make_room(lead, bytes as u64) {
            return refuse(group, &e);
        }
        // Deletes free space in the end, so on a full disk they may go on; everything else must wait.
        let full = match self.check_health() {
            Ok(full) => full.map(|why| Error::full(full_text(&why))),
            Err(e) => return refuse(group, &e),
        };
        let catalog = self.catalog.load();
        let check = |p: &Pending| {
            check_keyspaces(&catalog, &p.batch)?;
            if let Some(full) = full.as_ref().filter(|_| !p.batch.only_deletes) {
                return Err(full.clone());
            }
            p.batch.conditions.iter().try_for_each(|condition| {
                let result = self.check_condition(condition);
                if result.is_err() {
                    add(&self.counters.conflicts_count, 1);
                }
                result
            })
        };
        group.retain_mut(|pending| match check(pending) {
            Ok(()) => true,
            Err(e) => {
                pending.ticket.resolve(Err(e));
                false
            }
        });
        drop(catalog);
        if group.is_empty() {
            return None;
        }

        let first = lead.next_seq;
        if cairn_env::mutant("visible-before-applied") {
            let count: u64 = group.iter().map(|p| u64::from(p.batch.count)).sum();
            self.visible.store(first - 1 + count, Ordering::Release);
        }
        let appended = if group.iter().all(|p| p.batch.count == 0) {
            lead.log().map(|log| log.position())
        } else {
            self.append(lead, first, group)
        };
        let end = match appended {
            Ok(end) => end,
            Err(e) => return refuse(group, &e),
        };
        if end.segment != self.log_space.current_segment()
            && let Ok(log) = lead.log()
        {
            // The writer's own list of segments follows the log's start.
            log.forget_before(self.log_space.start());
        }
        self.log_space.appended(end.segment, bytes as u64);
        add_alone(&self.counters.groups_count, 1);
        add_alone(&self.counters.log_bytes, bytes as u64);

        if let Err(e) = self.apply(lead, first, group, end.segment) {
            // The log has it and memory does not: only reopening brings them together again.
            self.close_to_writes(&format!("a written batch could not be applied: {e}"));
            return refuse(group, &Error::unknown(unknown_text(&e.to_string())));
        }

        let mut seq = first - 1;
        let mut written = Written { end, seq: SeqNo(seq), tickets: Vec::new(), unattended: 0, done: Vec::new() };
        for pending in group.drain(..) {
            seq += u64::from(pending.batch.count);
            match pending.durability {
                Durability::Commit if cairn_env::mutant("acknowledged-before-sync") => {
                    written.done.push((pending.ticket, SeqNo(seq)));
                }
                Durability::Buffered => written.done.push((pending.ticket, SeqNo(seq))),
                Durability::Commit => {
                    written.tickets.push((pending.ticket, SeqNo(seq)));
                    written.unattended += usize::from(!pending.attended);
                }
            }
        }
        written.seq = SeqNo(seq);
        lead.next_seq = seq + 1;
        lead.updates += seq + 1 - first;
        self.request_series_compaction(lead);
        Some(written)
    }

    fn append(&self, lead: &mut Lead, first: u64, group: &[Pending]) -> Result<Position> {
        let log = lead.log()?;
        let (one, many);
        let bodies: &[cairn_wal::Body<'_>] = match group {
            // Most have one batch: it needs no list.
            [only] => {
                one = [only.batch.body.body()];
                &one
            }
            _ => {
                let written = group.iter().filter(|p| p.batch.count > 0);
                many = written.map(|p| p.batch.body.body()).collect::<Vec<_>>();
                &many
            }
        };
        let mut appended = log.append(GROUP_KIND, first, bodies);
        if let Err(cairn_wal::Error::NoSpace(e)) = &appended {
            self.set_full(&e.to_string());
            if group.iter().all(|p| p.batch.only_deletes) {
                // The reserve has just been given back.
                appended = log.append(GROUP_KIND, first, bodies);
            }
        }
        appended.map_err(|e| match e {
            cairn_wal::Error::NoSpace(e) => Error::full(full_text(&e.to_string())),
            cairn_wal::Error::TooLarge { .. } | cairn_wal::Error::Invalid(_) => Error::invalid(e.to_string()),
            e => {
                let why = format!("the log could not be written: {e}");
                self.close_to_writes(&why);
                Error::unknown(unknown_text(&why))
            }
        })
    }

    /// Puts a group's entries into the memtables, in order.
    fn apply(&self, lead: &mut Lead, first: u64, group: &[Pending], segment: u64) -> Result<()> {
        let mut seq = first;
        let (mut puts, mut deletes) = (0, 0);
        let mut touched = std::mem::take(&mut lead.touched);
        for pending in group {
            let broken = |e: cairn_codec::DecodeError| Error::invalid(format!("the batch does not decode: {e}"));
            let mut ops = Ops::new(pending.batch.body.bytes());
            while let Some(op) = ops.next().map_err(broken)? {
                if touched.last() != Some(&op.keyspace) {
                    touched.push(op.keyspace);
                }
                self.insert(lead, segment, seq, &op)
                    .map_err(|e| Error::invalid(format!("the memtable takes no more: {e}")))?;
                if op.kind == kind::PUT {
                    puts += 1;
                } else {
                    deletes += 1;
                }
                seq += 1;
            }
        }
        self.settle(lead, &touched);
        touched.clear();
        touched.shrink_to(TOUCHED_KEPT);
        lead.touched = touched;
        add_alone(&self.counters.batches_count, group.len() as u64);
        add_alone(&self.counters.puts_count, puts);
        add_alone(&self.counters.deletes_count, deletes);
        Ok(())
    }

    /// Counts what the touched memtables have grown by, and notes which are full.
    pub(crate) fn settle(&self, lead: &mut Lead, touched: &[KeyspaceId]) {
        for id in touched {
            let Some((buffer, _)) = lead.writers.get(id) else { continue };
            lead.active_bytes += buffer.settle_charge();
            let memtable = &buffer.memtable;
            let many = self.options.memtable_entries_max.is_some_and(|max| memtable.entries() >= max);
            if many || memtable.bytes() >= self.options.memtable_bytes_max {
                lead.full.insert(*id);
            }
        }
    }

    /// Puts an operation into its keyspace's active memtable, which is made and put into the catalog on first use.
    pub(crate) fn insert(
        &self,
        lead: &mut Lead,
        segment: u64,
        seq: u64,
        op: &Op<'_>,
    ) -> std::result::Result<(), InsertError> {
        let (buffer, writer) = lead.writers.entry(op.keyspace).or_insert_with(|| {
            let (buffer, writer) = self.new_buffer(segment);
            self.catalog.update(op.keyspace, |tree| tree.active = Some(buffer.clone()));
            (buffer, writer)
        });
        writer.insert(op.key, seq, op.kind, op.value)?;
        if op.kind == kind::DELETE {
            buffer.count_tombstone();
        }
        Ok(())
    }

    pub(crate) fn new_buffer(&self, segment: u64) -> (Arc<Buffer>, MemtableWriter) {
        let (memtable, writer) = Memtable::new(MemtableOptions::default());
        let charge = self.memory.charge(Use::Memtables, memtable.bytes());
        (Arc::new(Buffer::new(memtable, segment, charge)), writer)
    }

    /// Makes a written group visible and queues its tickets; returns those that are done, to be told without the lock.
    fn publish(&self, state: &mut CommitState, mut written: Written) -> Done {
        if let Some(why) = &state.failed {
            // A sync failed meanwhile: what was just appended may or may not be found again.
            written.done.append(&mut written.tickets);
            return Done { tickets: written.done, error: Some(Error::unknown(unknown_text(why))) };
        }
        self.visible.store(written.seq.0, Ordering::Release);
        let mut done = Done { tickets: written.done, error: None };
        if written.seq <= self.seq_at(Visibility::Durable) {
            // Nothing was appended and everything before is synced.
            done.tickets.append(&mut written.tickets);
            return done;
        }
        match state.unsynced.back_mut() {
            // Nobody waits for the last one: they become one.
            Some(last) if last.tickets.is_empty() && !last.covered => {
                last.end = written.end;
                last.seq = written.seq;
                last.tickets = written.tickets;
                last.unattended = written.unattended;
            }
            _ => state.unsynced.push_back(Unsynced {
                end: written.end,
                seq: written.seq,
                tickets: written.tickets,
                unattended: written.unattended,
                covered: false,
            }),
        }
        done
    }

    /// Gives those whom the last sync released a chance to be part of the next.
    fn let_others_run<'a>(&'a self, mut state: MutexGuard<'a, CommitState>) -> MutexGuard<'a, CommitState> {
        if state.without_turns > 0 {
            state.without_turns -= 1;
            return state;
        }
        let began = self.env.now();
        for _ in 0..TURNS_MAX {
            let awaiting = state.awaiting_sync();
            if awaiting >= state.released {
                break;
            }
            drop(state);
            self.env.yield_now();
            state = self.commit.lock();
            let taken = self.env.now().saturating_sub(began);
            if taken > TURN_TIME_LOST && state.awaiting_sync() == awaiting {
                state.without_turns = SYNCS_WITHOUT_TURNS;
            }
            if taken > TURNS_TIME_MAX {
                break;
            }
        }
        state
    }

    /// Syncs the log and resolves what that covers. The caller has seen that nobody else does.
    fn sync_log<'a>(&'a self, mut state: MutexGuard<'a, CommitState>) {
        state.syncing = true;
        state = self.let_others_run(state);
        if let Some(last) = state.unsynced.back_mut() {
            last.covered = true;
        }
        drop(state);
        add(&self.counters.log_syncs_count, 1);
        if cairn_env::mutant("durable-before-sync") {
            self.durable.store(self.visible.load(Ordering::Acquire), Ordering::Release);
        }
        let result = if cairn_env::mutant("log-not-synced") {
            Ok(self.syncer.appended())
        } else if cairn_env::mutant("failed-sync-acknowledged") {
            self.syncer.sync().or_else(|_| Ok(self.syncer.appended()))
        } else {
            self.syncer.sync()
        };
        let mut state = self.commit.lock();
        state.syncing = false;
        match result {
            Ok(end) => {
                let mut done = Done { tickets: Vec::new(), error: None };
                while state.unsynced.front().is_some_and(|u| u.end <= end) {
                    let Some(mut synced) = state.unsynced.pop_front() else { break };
                    self.durable.store(synced.seq.0, Ordering::Release);
                    if done.tickets.is_empty() {
                        done.tickets = synced.tickets;
                    } else {
                        done.tickets.append(&mut synced.tickets);
                    }
                }
                state.released = done.tickets.len();
                drop(state);
                // First those who may come again, then who is to sync for the next: it finds more of them. Told on the
                // way out, too: a waker is the caller's code, and may panic.
                let hand_over = HandOver(self);
                done.tell();
                drop(hand_over);
            }
            Err(e) => {
                drop(state);
                self.close_to_writes(&format!("the log could not be synced: {e}"));
            }
        }
    }

    /// After a failure: every waiting ticket ends, and reads see only what is durable.
    pub(crate) fn fail_pending(&self, why: &str) {
        let mut state = self.commit.lock();
        state.failed = Some(why.to_owned());
        if !cairn_env::mutant("lost-writes-stay-visible") {
            self.visible.store(self.durable.load(Ordering::Acquire), Ordering::Release);
        }
        let unknown = Error::unknown(unknown_text(why));
        for unsynced in state.unsynced.drain(..) {
            for (mut ticket, _) in unsynced.tickets {
                ticket.resolve(Err(unknown.clone()));
            }
        }
        let closed = Error::closed(closed_text(why));
        for mut pending in state.pending.drain(..) {
            pending.ticket.resolve(Err(closed.clone()));
        }
        state.pending_bytes = 0;
        state.pending_unattended = 0;
        self.commit_changed.notify_all();
        self.append_wanted.notify_all();
        self.sync_wanted.notify_all();
    }
}

pub(crate) fn full_text(why: &str) -> String {
    format!("the disk is full; deletes and compaction still work, other writes resume when there is space: {why}")
}

fn unknown_text(why: &str) -> String {
    format!("the write may or may not exist after the database is reopened: {why}")
}

/// Fails if a batch names a keyspace that was dropped.
fn check_keyspaces(catalog: &Catalog, batch: &EncodedBatch) -> Result<()> {
    let dropped = batch.keyspaces.iter().find(|(id, _)| catalog.tree(*id).is_none());
    match dropped {
        Some((_, name)) if !cairn_env::mutant("write-to-a-dropped-keyspace-taken") => Err(Error::no_keyspace(name)),
        _ => Ok(()),
    }
}

/// Ends every ticket of a group with one error.
fn refuse(group: &mut Vec<Pending>, error: &Error) -> Option<Written> {
    debug_assert_ne!(error.kind(), ErrorKind::Conflict);
    for mut pending in group.drain(..) {
        pending.ticket.resolve(Err(error.clone()));
    }
    None
}
