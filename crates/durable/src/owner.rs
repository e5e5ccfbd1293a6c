//! The owner of the queues: runs commands against the records, and keeps in memory what need not be read
//! for each of them.
//!
//! A command reads a task, lets [`machine::decide`] decide, and writes one batch: records, index, and what the
//! decision means for other tasks. Only when that is written does memory follow. All of it happens under
//! one lock, held by who calls; so whatever memory says is what the store says.
//!
//! In memory are: the settings of the queues; of each lane and of the timers the first entries ([`Window`]); the
//! tasks that workers have; who watches a task for its end. A task that waits costs nothing here.
//!
//! Owns the order of commands. Refuses threads and sockets: it is told what time it is, and it leaves what
//! must be woken in [`Owner::rung`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::task::Waker;

use cairn_env::Env;
use cairn_store::{Batch, Store, Version};

use crate::aside::Aside;
use crate::delete::Leave;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Millis, RunId, TaskId};
use crate::key::{self, Entry, Expiring, Lane};
use crate::machine::{self, Command, Decision, Effect, Fresh, Refusal};
use crate::queue::{DEFAULT_QUEUE, Event, Queue, QueueStatus};
use crate::retention::Expiries;
use crate::rows::Row;
use crate::shelf::{Change, Shelf, Stored};
use crate::step::Outcome;
use crate::task::{Ending, Fence, State, Status};
use crate::wait::Target;
use crate::window::{Horizon, Window};
use crate::worker::{SessionId, Sessions};

/// So many waiting tasks are told of an event or an end in one batch; the others in further ones.
const TOLD_AT_ONCE: usize = 256;
/// And so many bytes of it.
const TOLD_BYTES: usize = 4 << 20;

/// An entry of a lane, or a timer: when, and which task.
pub(crate) type Due = (Millis, TaskId);

/// A task that a worker has, and who.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) stored: Stored,
    /// None after a restart, until its worker says hello.
    pub(crate) session: Option<SessionId>,
}

impl Live {
    pub(crate) fn fence(&self) -> Option<Fence> {
        match self.stored.task.status {
            Status::Running { fence } => Some(fence),
            _ => None,
        }
    }
}

/// One batch on its way: what it writes, and what memory must follow once it is written.
pub(crate) struct Turn<S: Store> {
    /// When it is made.
    now_ms: Millis,
    pub(crate) batch: S::Batch,
    /// The tasks that it concerns, as they will be.
    pub(crate) tasks: BTreeMap<TaskId, Stored>,
    pub(crate) changes: Vec<Change>,
    /// Idempotency keys that it brings.
    pub(crate) keys: BTreeMap<Vec<u8>, TaskId>,
    stopped: Vec<(Fence, Ending)>,
    unfinished: BTreeSet<(String, Target)>,
    /// Somebody who waits could not be read, and is told later.
    pub(crate) untold: bool,
}

/// All that is kept in memory, and the records.
#[derive(Debug)]
pub(crate) struct Owner<S: Store> {
    pub(crate) env: Env,
    pub(crate) shelf: Shelf<S>,
    /// Tells this process's fences from those of every other.
    instance: u64,
    fences: u64,
    /// When the last id of a task was made, and its count within that millisecond.
    last_made: (Millis, u32),
    pub(crate) queues: BTreeMap<String, Queue>,
    /// Those of them that are being deleted: nothing new enters them.
    pub(crate) leaving: BTreeMap<String, Leave>,
    /// Those of these whose deletion was cut short, and that nobody is at.
    pub(crate) cut_short: Vec<String>,
    pub(crate) lanes: BTreeMap<Lane, Window<Due>>,
    timers: Window<Due>,
    pub(crate) expiries: Expiries,
    /// How many tasks are queued, of each queue that limits that.
    queued: BTreeMap<String, u64>,
    pub(crate) live: BTreeMap<TaskId, Live>,
    pub(crate) sessions: Sessions,
    /// Who is woken when a task ends.
    watchers: BTreeMap<TaskId, BTreeMap<u64, Waker>>,
    /// Targets of which not all waiters have been told. What they are told is kept with the mark: the event or task
    /// itself may have gone by then.
    unfinished: BTreeSet<(String, Target)>,
    pub(crate) aside: Aside,
    /// To be woken when the lock is free.
    pub(crate) rung: Vec<Waker>,
    /// When the clock is next needed, as far as its thread knows.
    expected_ms: Millis,
    /// Something is due before that.
    sooner: bool,
}

impl<S: Store> Owner<S> {
    /// Reads what is kept in memory. Costs a look per lane and per running task, however many wait.
    pub(crate) fn open(env: Env, store: S) -> Result<Owner<S>> {
        let shelf = Shelf::open(store)?;
        let mut owner = Owner {
            instance: env.random_u64(),
            env,
            shelf,
            fences: 0,
            last_made: (0, 0),
            queues: BTreeMap::new(),
            leaving: BTreeMap::new(),
            cut_short: Vec::new(),
            lanes: BTreeMap::new(),
            timers: Window::new(),
            expiries: Expiries::new(),
            queued: BTreeMap::new(),
            live: BTreeMap::new(),
            sessions: Sessions::default(),
            watchers: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            aside: Aside::new(),
            rung: Vec::new(),
            expected_ms: 0,
            sooner: false,
        };
        owner.read_queues()?;
        owner.read_unfinished()?;
        owner.read_lanes()?;
        owner.read_live()?;
        let limited = owner.queues.iter().filter(|(_, queue)| queue.max_waiting.is_some());
        for name in limited.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            owner.count_queued(&name)?;
        }
        Ok(owner)
    }

    fn read_queues(&mut self) -> Result<()> {
        let Owner { shelf, queues, leaving, cut_short, .. } = self;
        let name_in = |key: &[u8]| String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        queues.insert(DEFAULT_QUEUE.to_owned(), Queue::default());
        shelf.visit(&shelf.index, key::QUEUES, &[], |key, row| {
            let name = name_in(key);
            let damaged = |e| Error::new(ErrorKind::Corrupt, format!("queue \"{name}\" is damaged: {e}"));
            let queue = Queue::decode(row).map_err(damaged)?;
            queues.insert(name, queue);
            Ok(ControlFlow::Continue(()))
        })?;
        shelf.visit(&shelf.index, key::LEAVING, &[], |key, _| {
            leaving.insert(name_in(key), Leave::Marked);
            Ok(ControlFlow::Continue(()))
        })?;
        cut_short.extend(leaving.keys().cloned());
        Ok(())
    }

    fn read_unfinished(&mut self) -> Result<()> {
        let Owner { shelf, unfinished, .. } = self;
        shelf.visit(&shelf.index, key::UNFINISHED, &[], |key, _| {
            if !cairn_env::mutant("further-waiters-forgotten-at-open") {
                unfinished.extend(key::unfinished(key));
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Reads anew, from their beginning, the lists on which something was passed over. Until a list has been
    /// read, what memory knows of it holds.
    pub(crate) fn read_lists(&mut self) -> Result<()> {
        self.timers = Window::new();
        self.expiries = Expiries::new();
        self.read_unfinished()?;
        self.read_lanes()?;
        self.read_live()
    }

    fn read_lanes(&mut self) -> Result<()> {
        let Owner { shelf, lanes, .. } = self;
        let mut after = Vec::new();
        loop {
            let mut lane = None;
            shelf.visit(&shelf.index, key::LANES, &after, |key, _| {
                lane = Some(parse(key)?);
                Ok(ControlFlow::Break(()))
            })?;
            let Some(Entry::Ready { lane, .. }) = lane else { return Ok(()) };
            after = lane.prefix();
            // Behind every entry of this lane.
            after.extend_from_slice(&[u8::MAX; 25]);
            lanes.insert(lane, Window::new());
        }
    }

    fn read_live(&mut self) -> Result<()> {
        let mut ids = Vec::new();
        self.shelf.visit(&self.shelf.index, key::LIVE, &[], |key, _| {
            if let Entry::Live(id) = parse(key)? {
                ids.push(id);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for id in ids {
            if self.live.contains_key(&id) {
                continue;
            }
            match self.load_running(id) {
                Ok(stored) if stored.task.status.state() != State::Running => {}
                Ok(stored) => drop(self.live.insert(id, Live { stored, session: None })),
                Err(e) if e.is_unreadable() => self.aside.passed_over(),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A task that a worker has, of which memory knows nothing.
    fn load_running(&self, id: TaskId) -> Result<Stored> {
        let mut stored = self.shelf.load(id)?.ok_or_else(|| not_kept(id))?;
        // The row of a running task does not count its steps.
        if !cairn_env::mutant("steps-not-counted-at-open") {
            stored.task.steps = stored.task.steps.max(self.shelf.last_seq(&stored)?);
        }
        Ok(stored)
    }

    /// Counts the queued tasks of a queue that limits them from now on; costs a look at each of them.
    pub(crate) fn count_queued(&mut self, queue: &str) -> Result<()> {
        if self.queued.contains_key(queue) {
            return Ok(());
        }
        let mut count = 0;
        self.shelf.visit(&self.shelf.index, &key::lanes_of(queue), &[], |_, _| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        self.queued.insert(queue.to_owned(), count);
        Ok(())
    }

    /// Counts no longer.
    pub(crate) fn uncount_queued(&mut self, queue: &str) {
        self.queued.remove(queue);
    }

    /// Refuses another task in a queue that has as many as it may, those of this turn counted.
    pub(crate) fn check_room(&self, turn: &Turn<S>, queue: &str, max_waiting: u64) -> Result<()> {
        let added = turn.changes.iter().flat_map(|change| &change.added);
        let added = added.filter(|entry| matches!(entry, Entry::Ready { lane, .. } if lane.queue == queue)).count();
        let queued = self.queued.get(queue).copied().unwrap_or(0).saturating_add(added as u64);
        if queued >= max_waiting {
            let text =
                format!("queue \"{queue}\" has {queued} tasks queued, and may have {max_waiting}; try again later");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        Ok(())
    }

    /// A task as it is.
    pub(crate) fn load(&self, id: TaskId) -> Result<Stored> {
        match self.live.get(&id) {
            Some(live) => Ok(live.stored.clone()),
            None => self.shelf.load(id)?.ok_or_else(|| not_kept(id)),
        }
    }

    pub(crate) fn fresh(&self, now_ms: Millis) -> Fresh {
        Fresh { run: RunId::new(now_ms, self.random_bytes()), random: self.env.random_u64() }
    }

    pub(crate) fn random_bytes(&self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.env.random_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.env.random_u64().to_le_bytes()[..2]);
        bytes
    }

    /// A new id. Those of one millisecond sort in the order in which they were made: what was spawned first is
    /// handed out first.
    pub(crate) fn next_id(&mut self, now_ms: Millis) -> TaskId {
        let mut random = self.random_bytes();
        // 26 bits behind the time; drawn from the lower half, so that there is room to count.
        let count = match self.last_made {
            (last_ms, count) if last_ms == now_ms => count + 1,
            _ => u32::from_be_bytes([random[0], random[1], random[2], random[3]]) >> 7,
        };
        self.last_made = (now_ms, count);
        // Where a UUID has its version and variant the bytes give four and six bits.
        [random[0], random[1], random[2], random[3]] =
            [count >> 22, count >> 14, count >> 8 & 0x3f, count].map(|bits| bits as u8);
        TaskId::new(now_ms, random)
    }

    pub(crate) fn next_fence(&mut self) -> Fence {
        self.fences += 1;
        Fence { instance: self.instance, count: self.fences }
    }

    /// A batch to be, without anything in it yet.
    pub(crate) fn turn(&self, now_ms: Millis) -> Turn<S> {
        Turn {
            now_ms,
            batch: self.shelf.store.batch(),
            tasks: BTreeMap::new(),
            changes: Vec::new(),
            keys: BTreeMap::new(),
            stopped: Vec::new(),
            unfinished: BTreeSet::new(),
            untold: false,
        }
    }

    /// A task as it will be after this turn.
    pub(crate) fn load_in(&self, turn: &Turn<S>, id: TaskId) -> Result<Stored> {
        turn.tasks.get(&id).map_or_else(|| self.load(id), |stored| Ok(stored.clone()))
    }

    /// Decides a command on a task, and adds to the turn what comes of it: for the task, and for those who
    /// wait for its end.
    pub(crate) fn decide(&self, turn: &mut Turn<S>, id: TaskId, command: Command, now_ms: Millis) -> Result<Decision> {
        let mut stored = self.load_in(turn, id)?;
        let mut decision =
            machine::decide(stored.record(), command, now_ms, self.fresh(now_ms)).map_err(|e| refused(id, e))?;
        if let Some(run) = &mut decision.ended_run {
            let session = self.live.get(&id).and_then(|live| live.session);
            let worker = session.and_then(|session| self.sessions.hello(session));
            run.worker = worker.map_or_else(String::new, |worker| worker.name.clone());
        }
        turn.changes.push(self.shelf.apply(&mut turn.batch, &mut stored, &decision)?);
        let outcome = outcome_of(&stored.task.status, decision.output.as_deref());
        turn.tasks.insert(id, stored);
        for effect in &decision.effects {
            match effect {
                Effect::Ended if cairn_env::mutant("end-of-a-child-not-told") => {}
                Effect::Ended => drop(self.tell(turn, "", &Target::Task(id), &outcome, now_ms)?),
                Effect::Stop { fence, by } => turn.stopped.push((*fence, *by)),
            }
        }
        Ok(decision)
    }

    /// Resolves the waits for a target of the first who wait, and says of how many; if there are more, that is marked.
    /// Who cannot be read is told later.
    fn tell(
        &self,
        turn: &mut Turn<S>,
        queue: &str,
        target: &Target,
        outcome: &Outcome,
        now_ms: Millis,
    ) -> Result<usize> {
        let prefix = match target {
            Target::Timer(_) => return Ok(0),
            Target::Event(event) => key::waiters_for_event(queue, event),
            Target::Task(task) => key::waiters_for_task(*task),
        };
        let (mut waiting, mut more) = (Vec::new(), false);
        let listed = self.shelf.visit(&self.shelf.index, &prefix, &[], |key, _| {
            if waiting.len() == TOLD_AT_ONCE {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            if let Some(Entry::ForEvent { task, .. } | Entry::ForTask { task, .. }) = Entry::parse(key) {
                waiting.push(task);
            }
            Ok(ControlFlow::Continue(()))
        });
        match listed {
            // Whoever else waits is told when the list can be read.
            Err(e) if e.is_unreadable() => more = true,
            listed => listed?,
        }
        if cairn_env::mutant("last-waiter-not-told") {
            waiting.pop();
        }
        let (mut count, mut bytes) = (0, 0);
        for id in waiting {
            if bytes >= TOLD_BYTES {
                more = true;
                break;
            }
            count += 1;
            let command = Command::Resolve { target: target.clone(), outcome: outcome.clone() };
            match self.decide(turn, id, command, now_ms) {
                // Under each of the ids that it waits at it is told the whole of it.
                Ok(told) if !told.steps.is_empty() => bytes += told.steps.len() * (1 + outcome.bytes()),
                Ok(_) => self.wait_no_longer(turn, queue, target, id),
                Err(e) if e.is_unreadable() => {
                    bytes += outcome.bytes();
                    self.leave_untold(turn, queue, target, id, outcome, &e);
                }
                Err(e) => return Err(e),
            }
        }
        if more
            && !cairn_env::mutant("further-waiters-forgotten")
            && let Some(key) = key::of_unfinished(queue, target)
        {
            turn.batch.put(&self.shelf.index, &key, &outcome.encode());
            turn.unfinished.insert((queue.to_owned(), target.clone()));
        }
        Ok(count)
    }

    /// Writes a turn, and brings memory to what is written.
    pub(crate) fn commit(&mut self, turn: Turn<S>) -> Result<Version> {
        let version = self.shelf.store.write(turn.batch)?;
        self.unfinished.extend(turn.unfinished);
        if turn.untold {
            self.aside.left_untold();
        }
        for (fence, by) in turn.stopped {
            self.stop(fence, by);
        }
        self.settle(turn.changes, turn.tasks, turn.now_ms);
        Ok(version)
    }

    /// Decides a command on a task, and writes it.
    pub(crate) fn run(&mut self, id: TaskId, command: Command, now_ms: Millis) -> Result<(Decision, Version)> {
        let mut turn = self.turn(now_ms);
        let decision = self.decide(&mut turn, id, command, now_ms)?;
        Ok((decision, self.commit(turn)?))
    }

    /// Adds an event to the turn: the first payload of a name stays. Says whether this one is it.
    pub(crate) fn emit(&self, turn: &mut Turn<S>, queue: &str, name: &str, event: &Event) -> Result<bool> {
        let key = key::of_event(queue, name);
        if self.shelf.store.get(&self.shelf.index, &key, |_| ())?.is_some() {
            return Ok(false);
        }
        turn.batch.put(&self.shelf.index, &key, &event.encode());
        let due_ms = event.at_ms.saturating_add(self.queue(queue)?.event_ttl_ms);
        let of = Expiring::Event { queue: queue.to_owned(), event: name.to_owned() };
        let expiry = Entry::Expiry { due_ms, of };
        turn.batch.put(&self.shelf.index, &expiry.key(), &[]);
        turn.changes.push(Change { removed: Vec::new(), added: vec![expiry] });
        let outcome = Outcome::Value(event.payload.clone());
        self.tell(turn, queue, &Target::Event(name.to_owned()), &outcome, event.at_ms)?;
        Ok(true)
    }

    /// An event that was emitted.
    pub(crate) fn event(&self, queue: &str, name: &str) -> Result<Option<Event>> {
        let row = self.shelf.store.get(&self.shelf.index, &key::of_event(queue, name), Event::decode)?;
        let damaged =
            |e| Error::new(ErrorKind::Corrupt, format!("event \"{name}\" of queue \"{queue}\" is damaged: {e}"));
        row.transpose().map_err(damaged)
    }

    /// What has come of a target already.
    pub(crate) fn come(&self, queue: &str, target: &Target) -> Result<Option<Outcome>> {
        match target {
            Target::Timer(_) => Ok(None),
            Target::Event(name) => Ok(self.event(queue, name)?.map(|event| Outcome::Value(event.payload))),
            Target::Task(id) => {
                let (bucket, task) = self.shelf.task(*id)?.ok_or_else(|| not_kept(*id))?;
                if !task.status.state().has_ended() {
                    return Ok(None);
                }
                let output = self.shelf.output(bucket, *id)?;
                Ok(Some(outcome_of(&task.status, output.as_deref())))
            }
        }
    }

    /// Brings memory to what was written.
    fn settle(&mut self, changes: Vec<Change>, tasks: BTreeMap<TaskId, Stored>, now_ms: Millis) {
        for change in changes {
            for entry in change.removed {
                self.forget(entry);
            }
            for entry in change.added {
                match entry {
                    Entry::Ready { lane, due_ms, task } => {
                        self.sooner |= now_ms < due_ms && due_ms < self.expected_ms;
                        if let Some(queued) = self.queued.get_mut(&lane.queue) {
                            *queued += 1;
                        }
                        self.ready(lane, (due_ms, task), now_ms);
                    }
                    Entry::Expiry { due_ms, .. } => {
                        self.sooner |= due_ms < self.expected_ms;
                        self.expiries.note(due_ms, &entry);
                    }
                    Entry::Timer { due_ms, task } => {
                        self.sooner |= due_ms < self.expected_ms;
                        self.timers.insert((due_ms, task));
                    }
                    Entry::Live(_) | Entry::ForEvent { .. } | Entry::ForTask { .. } => {}
                }
            }
        }
        for (id, stored) in tasks {
            match stored.task.status.state() {
                State::Running => match self.live.get_mut(&id) {
                    Some(live) => live.stored = stored,
                    None => drop(self.live.insert(id, Live { stored, session: None })),
                },
                State::Completed | State::Failed | State::Cancelled => {
                    self.rung.extend(self.watchers.remove(&id).into_iter().flat_map(BTreeMap::into_values));
                }
                State::Queued | State::Waiting => {}
            }
        }
    }

    fn forget(&mut self, entry: Entry) {
        match entry {
            Entry::Ready { lane, due_ms, task } => {
                if let Some(queued) = self.queued.get_mut(&lane.queue) {
                    *queued = queued.saturating_sub(1);
                }
                if let Some(window) = self.lanes.get_mut(&lane) {
                    window.remove((due_ms, task));
                    if window.is_empty() {
                        self.lanes.remove(&lane);
                    }
                }
            }
            Entry::Timer { due_ms, task } => self.timers.remove((due_ms, task)),
            Entry::Live(id) => {
                if let Some(live) = self.live.remove(&id)
                    && let Some(session) = live.session
                {
                    self.sessions.drop_task(session, id);
                }
            }
            Entry::ForEvent { .. } | Entry::ForTask { .. } | Entry::Expiry { .. } => {}
        }
    }

    /// Notes a ready task, and wakes a worker that would take it. If it is not due yet, the clock will wake one.
    pub(crate) fn ready(&mut self, lane: Lane, entry: Due, now_ms: Millis) {
        if entry.0 <= now_ms
            && self.is_active(&lane.queue)
            && let Some(waker) = self.sessions.waiting_for(&lane)
        {
            self.rung.push(waker);
        }
        let window = self.lanes.entry(lane).or_insert_with(|| {
            // A lane that memory does not know has no entry in the store.
            let mut window = Window::new();
            window.fill(Vec::new(), true);
            window
        });
        window.insert(entry);
    }

    /// Tells the worker of a hand-out that it is over.
    fn stop(&mut self, fence: Fence, by: Ending) {
        if let Some(waker) = self.sessions.signal(fence, by) {
            self.rung.push(waker);
        }
    }

    /// The first entry of a lane.
    pub(crate) fn first_of(&mut self, lane: &Lane) -> Result<Option<Due>> {
        let Owner { shelf, lanes, .. } = self;
        let Some(window) = lanes.get_mut(lane) else { return Ok(None) };
        fill(shelf, window, &lane.prefix())?;
        let first = window.first();
        if first.is_none() {
            lanes.remove(lane);
        }
        Ok(first)
    }

    /// Passes over a task that is not to be read now.
    pub(crate) fn pass_over(&mut self, lane: &Lane, entry: Due) {
        if let Some(window) = self.lanes.get_mut(lane) {
            window.remove(entry);
        }
        self.aside.passed_over();
    }

    /// The first timer.
    pub(crate) fn first_timer(&mut self) -> Result<Option<Due>> {
        fill(&self.shelf, &mut self.timers, key::TIMERS)?;
        Ok(self.timers.first())
    }

    /// Lets the clock make of the tasks what is due, at most so many; says when the next is due.
    pub(crate) fn tick(&mut self, now_ms: Millis, mut at_most: usize) -> Result<Option<Millis>> {
        while let Some((due_ms, id)) = self.first_timer()? {
            if due_ms > now_ms || at_most == 0 {
                return Ok(Some(due_ms));
            }
            at_most -= 1;
            match self.tick_one(id, due_ms, now_ms) {
                // One that cannot be read keeps no other from its time.
                Err(e) if e.is_unreadable() => {
                    self.timers.remove((due_ms, id));
                    self.aside.passed_over();
                }
                ticked => ticked?,
            }
        }
        Ok(None)
    }

    fn tick_one(&mut self, id: TaskId, due_ms: Millis, now_ms: Millis) -> Result<()> {
        let stored = self.load(id)?;
        let entry = Entry::Timer { due_ms, task: id };
        if !stored.entries().contains(&entry) {
            return self.take_away(entry, now_ms);
        }
        let mut turn = self.turn(now_ms);
        turn.tasks.insert(id, stored);
        self.decide(&mut turn, id, Command::Tick, now_ms)?;
        self.commit(turn).map(drop)
    }

    /// Takes away an entry that does not follow from the record of its task: a repair may have brought it back.
    pub(crate) fn take_away(&mut self, entry: Entry, now_ms: Millis) -> Result<()> {
        let mut turn = self.turn(now_ms);
        turn.batch.delete(&self.shelf.index, &entry.key());
        turn.changes.push(Change { removed: vec![entry], added: Vec::new() });
        self.commit(turn).map(drop)
    }

    /// Wakes workers for what has become due.
    pub(crate) fn wake_due(&mut self, now_ms: Millis) -> Result<()> {
        if !self.sessions.any_waits() {
            return Ok(());
        }
        let lanes: Vec<Lane> = self.lanes.keys().filter(|lane| self.is_active(&lane.queue)).cloned().collect();
        let mut listed = Ok(());
        for lane in lanes {
            match self.first_of(&lane) {
                Ok(Some((due_ms, _))) if due_ms <= now_ms => self.rung.extend(self.sessions.waiting_for(&lane)),
                Ok(_) => {}
                // A lane that cannot be listed holds up no other.
                Err(e) => listed = Err(e),
            }
        }
        listed
    }

    /// For how long the clock is not needed: until a timer, a task that becomes ready, or an end, by the time
    /// `believed_ms`. What is ready already needs a worker, not the clock.
    pub(crate) fn idle_ms(&mut self, now_ms: Millis, believed_ms: Millis) -> Millis {
        let behind = (now_ms, TaskId::from_bytes([u8::MAX; 16]));
        let ready = self.lanes.values().filter_map(|window| window.first_behind(behind));
        let due = ready.chain(self.timers.first()).map(|(due_ms, _)| due_ms.saturating_sub(now_ms));
        let end = self.next_end_ms(believed_ms).saturating_sub(believed_ms);
        let idle_ms = due.fold(end, Millis::min);
        self.expected_ms = now_ms.saturating_add(idle_ms);
        self.sooner = false;
        idle_ms
    }

    /// Whether something is due before the thread of the clock expects it. Asked once.
    pub(crate) fn take_sooner(&mut self) -> bool {
        std::mem::take(&mut self.sooner)
    }

    /// Tells the next of those who wait for a target of which not all have been told. Says whether there was one.
    pub(crate) fn tell_more(&mut self, now_ms: Millis) -> Result<bool> {
        let Some(first) = self.unfinished.first().cloned() else { return Ok(false) };
        let (queue, target) = &first;
        match self.tell_next(queue, target, now_ms) {
            Ok(true) => {}
            Ok(false) => drop(self.unfinished.remove(&first)),
            // The mark or the list cannot be read, and keeps nobody else from being told.
            Err(e) if e.is_unreadable() => {
                self.unfinished.remove(&first);
                self.aside.passed_over();
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Tells the next of those who wait for a target. Says whether there are more.
    fn tell_next(&mut self, queue: &str, target: &Target, now_ms: Millis) -> Result<bool> {
        let Some(mark) = key::of_unfinished(queue, target) else { return Ok(false) };
        let Some(row) = self.shelf.store.get(&self.shelf.index, &mark, Outcome::decode)? else { return Ok(false) };
        let damaged = |e| Error::new(ErrorKind::Corrupt, format!("what waiting tasks are to be told is damaged: {e}"));
        let outcome = row.map_err(damaged)?;
        let mut turn = self.turn(now_ms);
        turn.batch.delete(&self.shelf.index, &mark);
        // Marks it again if there are still more.
        let count = self.tell(&mut turn, queue, target, &outcome, now_ms)?;
        let more = !turn.unfinished.is_empty();
        if more && count == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "who waits cannot be listed"));
        }
        self.commit(turn)?;
        Ok(more)
    }

    /// Wakes somebody, known by a number, when a task ends.
    pub(crate) fn watch(&mut self, id: TaskId, number: u64, waker: &Waker) {
        self.watchers.entry(id).or_default().insert(number, waker.clone());
    }

    /// Nobody of this number waits any more.
    pub(crate) fn unwatch(&mut self, id: TaskId, number: u64) -> Option<Waker> {
        let watchers = self.watchers.get_mut(&id)?;
        let waker = watchers.remove(&number);
        if watchers.is_empty() {
            self.watchers.remove(&id);
        }
        waker
    }

    /// Ends a session that holds nothing.
    pub(crate) fn end_session(&mut self, session: SessionId) {
        self.rung.extend(self.sessions.end(session));
    }

    /// Whether tasks of a queue are handed out.
    pub(crate) fn is_active(&self, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.status == QueueStatus::Active)
    }

    /// The settings of a queue that something may enter.
    pub(crate) fn queue(&self, name: &str) -> Result<&Queue> {
        self.not_leaving(name)?;
        self.queues.get(name).ok_or_else(|| {
            Error::not_found(format!("there is no queue \"{}\"; `cairn queue set` makes it", name.escape_debug()))
        })
    }
}

/// Brings the first entries of a list of which the window knows none.
fn fill<S: Store>(shelf: &Shelf<S>, window: &mut Window<Due>, prefix: &[u8]) -> Result<()> {
    while let Some(from) = window.wants() {
        let after = match from {
            Horizon::Nothing | Horizon::End => Vec::new(),
            Horizon::At((due_ms, id)) => {
                let mut after = prefix.to_vec();
                after.extend_from_slice(&due_ms.to_be_bytes());
                after.extend_from_slice(id.as_bytes());
                after
            }
        };
        let mut entries = Vec::new();
        let listed = shelf.visit(&shelf.index, prefix, &after, |key, _| {
            if let Some(Entry::Ready { due_ms, task, .. } | Entry::Timer { due_ms, task }) = Entry::parse(key) {
                entries.push((due_ms, task));
            }
            let full = entries.len() == Window::<Due>::FILL;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        // What stands before damage has its turn before it is told of.
        if entries.is_empty() {
            listed.clone()?;
        }
        let all = listed.is_ok() && entries.len() < Window::<Due>::FILL;
        window.fill(entries, all);
    }
    Ok(())
}

pub(crate) fn parse(key: &[u8]) -> Result<Entry> {
    Entry::parse(key)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("an index of the tasks holds what is none: {key:02x?}")))
}

fn not_kept(id: TaskId) -> Error {
    Error::not_found(format!("there is no task {id}, or not any more"))
}

/// What the end of a task is to those who wait for it.
fn outcome_of(status: &Status, output: Option<&[u8]>) -> Outcome {
    match status {
        Status::Failed { failure, .. } => Outcome::Failed { failure: failure.clone(), retry_at_ms: None },
        Status::Cancelled { .. } => Outcome::Cancelled,
        Status::Completed { .. } | Status::Queued { .. } | Status::Running { .. } | Status::Waiting { .. } => {
            Outcome::Value(output.unwrap_or(b"null").into())
        }
    }
}

pub(crate) fn refused(id: TaskId, refusal: Refusal) -> Error {
    match refusal {
        Refusal::StaleFence => Error::new(
            ErrorKind::StaleFence,
            format!("task {id} was taken from this worker, which had not been heard of, or has been handed back"),
        ),
        Refusal::Cancelled => Error::new(ErrorKind::Cancelled, format!("task {id} was cancelled")),
        Refusal::Conflict(what) => Error::conflict(format!("task {id}: {what}")),
        Refusal::Invalid(what) => Error::invalid(format!("task {id}: {what}")),
    }
}
