//! The calls of clients and workers, carried out by the owner.
//!
//! Each call checks what it is given, reads, and makes one turn. Nothing here waits and nothing is told to
//! anybody: that is for [`crate::tasks`], once what the answer reveals is durable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_store::{Batch, Store, Version};

use crate::call::{Ack, NAME_BYTES_MAX, Op, OpKind, Spawn, Spawned, TAGS_MAX, VALUE_BYTES_MAX, Welcome, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Millis, RunId, TaskId};
use crate::key::{self, Entry, Lane, Part};
use crate::machine::{self, Command, Decision, Won};
use crate::owner::{Due, Live, Owner, Turn, refused};
use crate::queue::{Event, QUEUE_BYTES_MAX, Queue, QueueStatus};
use crate::shelf::{Shelf, Stored};
use crate::step::{Outcome, Step, StepId, StepKind};
use crate::task::{Ending, Fence, Run, Spec, State, Status, Task};
use crate::wait::{Target, Wait};
use crate::worker::{Hello, SessionId, Signal, VERSION_BYTES_MAX};

/// The id of a task may be so far ahead of the clock.
const AHEAD_MS_MAX: Millis = 86_400_000;
/// A worker is sent so much of the recorded steps with a task, and fetches the rest.
const STEPS_BYTES: usize = 1 << 20;

/// A suspension of which so much is recorded already, or has come, opens no further wait: the task goes on with that.
/// What is recorded of it goes in one batch, and into one answer.
const RESUMED_BYTES: usize = 4 << 20;

/// What is recorded of the waits of a suspension, and what has come of them.
type WaitsRead = (Vec<Option<Step>>, Vec<Option<Outcome>>);

/// The tasks of one answer are at most so many,
const WORK_MAX: usize = 256;
/// and once they have so many bytes there are no more.
const WORK_BYTES: usize = 8 << 20;

/// Spawns that come together are written together, up to about so many bytes.
const TURN_BYTES: usize = 1 << 20;
/// What a spawn is counted as beside its input.
const SPAWN_BYTES: usize = 256;

/// Checks a name of one to so many bytes, in this field of a call.
fn check_name(field: &str, what: &str, name: &str, bytes_max: usize) -> Result<()> {
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > bytes_max {
        format!("has {} bytes; at most {bytes_max} are allowed", name.len())
    } else if name.contains('\0') {
        "has a zero byte in it".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("{what} {wrong}")).at(field))
}

fn check_value(field: &str, what: &str, value: &[u8]) -> Result<()> {
    if value.len() > VALUE_BYTES_MAX {
        let text = format!("{what} has {} bytes; at most {VALUE_BYTES_MAX} are allowed", value.len());
        return Err(Error::new(ErrorKind::TooLarge, text).at(field));
    }
    Ok(())
}

fn check_spawn(spawn: &Spawn, now_ms: Millis) -> Result<()> {
    check_name("queue", "the queue's name", &spawn.queue, QUEUE_BYTES_MAX)?;
    check_name("name", "the task's name", &spawn.name, NAME_BYTES_MAX)?;
    check_value("input", "the input", &spawn.input)?;
    check_value("headers", "the headers", &spawn.headers)?;
    if spawn.tags.len() > TAGS_MAX {
        return Err(Error::invalid(format!("{} tags; at most {TAGS_MAX} are allowed", spawn.tags.len())).at("tags"));
    }
    for (tag, value) in &spawn.tags {
        check_name("tags", "a tag", tag, NAME_BYTES_MAX)?;
        check_value("tags", "the value of a tag", value.as_bytes())?;
    }
    if let Some(key) = &spawn.idempotency_key {
        check_name("idempotency_key", "the idempotency key", key, NAME_BYTES_MAX)?;
    }
    let wrong =
        |(field, what)| Error::invalid(format!("the retry strategy: {field} {what}")).at(format!("retry.{field}"));
    spawn.retry.check().map_err(wrong)?;
    if spawn.max_attempts == 0 {
        return Err(Error::invalid("max_attempts must be at least 1").at("max_attempts"));
    }
    if let Some(id) = spawn.id
        && id.made_ms() > now_ms.saturating_add(AHEAD_MS_MAX)
    {
        let text = format!("the id {id} was made more than a day from now; look at the clock");
        return Err(Error::invalid(text).at("id"));
    }
    Ok(())
}

/// What a worker says of itself is kept with every run of its tasks.
fn check_hello(hello: &Hello) -> Result<()> {
    for (field, what, text) in [("name", "the worker's name", &hello.name), ("sdk", "sdk", &hello.sdk)] {
        if !text.is_empty() {
            check_name(field, what, text, NAME_BYTES_MAX)?;
        }
    }
    hello.tasks.iter().try_for_each(|name| check_name("tasks", "the task's name", name, NAME_BYTES_MAX))?;
    let check = |version: &String| check_name("tasks", "the version of a task", version, VERSION_BYTES_MAX);
    hello.versions.values().try_for_each(check)
}

fn check_outcome(outcome: &Outcome) -> Result<()> {
    match outcome {
        Outcome::Value(value) => check_value("value", "the value of the step", value),
        Outcome::Failed { failure, .. } => check_failure(failure),
        Outcome::Cancelled | Outcome::TimedOut => Ok(()),
    }
}

fn check_failure(failure: &crate::task::Failure) -> Result<()> {
    let bytes = failure.bytes();
    if bytes > VALUE_BYTES_MAX {
        let text = format!("the failure has {bytes} bytes; at most {VALUE_BYTES_MAX} are allowed");
        return Err(Error::new(ErrorKind::TooLarge, text).at("failure"));
    }
    Ok(())
}

impl<S: Store> Owner<S> {
    /// Spawns tasks, unless they are there already, each for itself; what comes together is written together.
    pub(crate) fn spawn(&mut self, spawns: &[Spawn], now_ms: Millis) -> Vec<Result<Spawned>> {
        let mut results = Vec::with_capacity(spawns.len());
        let mut rest = spawns;
        while !rest.is_empty() {
            let mut turn = self.turn(now_ms);
            let (before, mut bytes) = (results.len(), 0);
            while let Some((spawn, behind)) = rest.split_first()
                && bytes < TURN_BYTES
            {
                bytes += SPAWN_BYTES + spawn.input.len() + spawn.headers.len();
                results.push(self.spawn_in(&mut turn, spawn, None, now_ms));
                rest = behind;
            }
            if !turn.changes.is_empty()
                && let Err(e) = self.commit(turn)
            {
                // What was there before is as good as what could not be written: nobody knows of it.
                results[before..]
                    .iter_mut()
                    .filter(|result| result.is_ok())
                    .for_each(|result| *result = Err(e.clone()));
            }
        }
        results
    }

    /// Spawns all of these tasks in one with a batch, or none.
    pub(crate) fn spawn_with(&mut self, batch: S::Batch, spawns: &[Spawn], now_ms: Millis) -> Result<Vec<Spawned>> {
        let mut turn = self.turn(now_ms);
        turn.batch = batch;
        let mut spawned = Vec::with_capacity(spawns.len());
        for (n, spawn) in spawns.iter().enumerate() {
            let one = self.spawn_in(&mut turn, spawn, None, now_ms);
            spawned.push(one.map_err(|e| e.under(&format!("tasks[{n}]")))?);
        }
        self.commit(turn)?;
        Ok(spawned)
    }

    fn spawn_in(
        &mut self,
        turn: &mut Turn<S>,
        spawn: &Spawn,
        parent: Option<TaskId>,
        now_ms: Millis,
    ) -> Result<Spawned> {
        check_spawn(spawn, now_ms)?;
        let Queue { retention_days, max_waiting, .. } = *self.queue(&spawn.queue).map_err(|e| e.at("queue"))?;
        let there = |stored: Stored| Spawned {
            id: stored.id,
            run: stored.task.run.id,
            created: false,
            state: stored.task.status.state(),
        };
        if let Some(id) = spawn.id
            && let Some(stored) = self.find_in(turn, id)?
        {
            return Ok(there(stored));
        }
        let key = spawn.idempotency_key.as_ref().map(|key| key::of_idempotency(&spawn.queue, key));
        if let Some(key) = &key
            && let Some(id) = self.spawned_with(turn, key)?
            && let Some(stored) = self.find_in(turn, id)?
        {
            return Ok(there(stored));
        }
        // A task that runs is not kept waiting for a place that its own end may have to make.
        if let Some(max_waiting) = max_waiting.filter(|_| parent.is_none()) {
            self.check_room(turn, &spawn.queue, max_waiting)?;
        }
        let id = spawn.id.unwrap_or_else(|| self.next_id(now_ms));
        let spec = Spec {
            queue: spawn.queue.clone(),
            name: spawn.name.clone(),
            input: spawn.input.clone(),
            headers: spawn.headers.clone(),
            tags: spawn.tags.clone(),
            priority: spawn.priority,
            retry: spawn.retry,
            max_lost: spawn.max_lost,
            cancellation: spawn.cancellation,
            created_ms: now_ms,
            parent,
        };
        let task = Task {
            status: Status::Queued { due_ms: spawn.due_ms.unwrap_or(now_ms).max(now_ms) },
            run: Run { id: RunId::new(now_ms, self.random_bytes()), attempt: 1, started_ms: None },
            max_attempts: spawn.max_attempts,
            lost: 0,
            runs_ended: 0,
            steps: 0,
            first_started_ms: None,
            handed_back: None,
            version: None,
        };
        let bucket = self.shelf.bucket_for(id, retention_days, now_ms);
        let stored = Stored { id, bucket, spec: Arc::new(spec), task, waits: Vec::new() };
        turn.changes.push(self.shelf.insert(&mut turn.batch, &stored)?);
        if let Some(key) = key {
            turn.batch.put(&self.shelf.index, &key, id.as_bytes());
            turn.batch.put(self.shelf.bucket(bucket)?, &key::of_task(Part::Idempotency, id), &key);
            turn.keys.insert(key, id);
        }
        let spawned = Spawned { id, run: stored.task.run.id, created: true, state: State::Queued };
        turn.tasks.insert(id, stored);
        Ok(spawned)
    }

    /// The task that was spawned with an idempotency key, of which only the key may be left.
    fn spawned_with(&self, turn: &Turn<S>, key: &[u8]) -> Result<Option<TaskId>> {
        if let Some(id) = turn.keys.get(key) {
            return Ok(Some(*id));
        }
        let Shelf { store, index, .. } = &self.shelf;
        let id = store.get(index, key, |id| <[u8; 16]>::try_from(id).ok())?.flatten();
        Ok(id.map(TaskId::from_bytes))
    }

    fn find_in(&self, turn: &Turn<S>, id: TaskId) -> Result<Option<Stored>> {
        turn.tasks.get(&id).map_or_else(|| self.find(id), |stored| Ok(Some(stored.clone())))
    }

    /// A task, if it is kept.
    pub(crate) fn find(&self, id: TaskId) -> Result<Option<Stored>> {
        match self.live.get(&id) {
            Some(live) => Ok(Some(live.stored.clone())),
            None => self.shelf.load(id),
        }
    }

    /// Emits an event.
    pub(crate) fn emit_event(&mut self, queue: &str, name: &str, payload: &[u8], now_ms: Millis) -> Result<bool> {
        self.queue(queue)?;
        check_name("name", "the event's name", name, NAME_BYTES_MAX)?;
        check_value("payload", "the payload", payload)?;
        let mut turn = self.turn(now_ms);
        let created = self.emit(&mut turn, queue, name, &Event { at_ms: now_ms, payload: payload.into() })?;
        if created {
            self.commit(turn)?;
        }
        Ok(created)
    }

    /// Sets what is set of a queue, making it if there is none.
    pub(crate) fn set_queue(&mut self, name: &str, queue: Queue, now_ms: Millis) -> Result<()> {
        check_name("queue", "the queue's name", name, QUEUE_BYTES_MAX)?;
        if queue.retention_days == 0 {
            return Err(Error::invalid("retention_days must be at least 1").at("retention_days"));
        }
        if queue.event_ttl_ms == 0 {
            return Err(Error::invalid("event_ttl_ms must be at least 1").at("event_ttl_ms"));
        }
        self.not_leaving(name)?;
        let mut turn = self.turn(now_ms);
        turn.batch.put(&self.shelf.index, &key::of_queue(name), &queue.encode());
        self.commit(turn)?;
        self.queues.insert(name.to_owned(), queue);
        match queue.max_waiting {
            Some(_) => self.count_queued(name)?,
            None => self.uncount_queued(name),
        }
        if queue.status == QueueStatus::Active {
            self.rung.extend(self.sessions.waiting_in(name));
        }
        Ok(())
    }

    /// Begins a session of a worker, which says what it holds.
    pub(crate) fn hello(&mut self, hello: Hello, live: &[(TaskId, Fence)], now: Duration) -> Result<Welcome> {
        check_hello(&hello)?;
        if let Some(queue) = hello.queues.iter().find(|queue| !self.queues.contains_key(*queue)) {
            self.queue(queue).map_err(|e| e.at("queues"))?;
        }
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.env.random_u64().to_le_bytes());
        id[8..].copy_from_slice(&self.env.random_u64().to_le_bytes());
        let session = SessionId(u128::from_le_bytes(id));
        self.sessions.begin(session, hello, now);
        let (mut kept, mut stop) = (Vec::new(), Vec::new());
        for (task, fence) in live {
            if self.adopt(session, *task, *fence, now) { &mut kept } else { &mut stop }.push(*task);
        }
        Ok(Welcome { session, kept, stop })
    }

    /// Notes that a worker has spoken of a hand-out, which is its session's from then on: one before may have been made
    /// by a hello whose answer was lost. False if the hand-out is over.
    fn adopt(&mut self, session: SessionId, task: TaskId, fence: Fence, now: Duration) -> bool {
        let Some(live) = self.live.get_mut(&task).filter(|live| live.fence() == Some(fence)) else { return false };
        if live.session != Some(session) {
            if let Some(before) = live.session.replace(session) {
                self.sessions.drop_task(before, task);
            }
            self.sessions.give(session, task, fence, now);
        }
        self.sessions.spoken_of(session, task, fence, now);
        true
    }

    /// Ends a session. What it held goes back to its queue, at no cost.
    pub(crate) fn bye(&mut self, session: SessionId, now_ms: Millis) -> Result<()> {
        let release = |(task, fence)| (task, Command::Release { fence, due_ms: None, asked: true });
        let held = self.sessions.held(session).into_iter().map(release);
        self.hand_back(held, now_ms)?;
        self.end_session(session);
        Ok(())
    }

    /// Takes hand-outs back, each by its command. One that cannot be taken back keeps no other from it.
    fn hand_back(&mut self, held: impl IntoIterator<Item = (TaskId, Command)>, now_ms: Millis) -> Result<()> {
        let mut all = Ok(());
        for (task, command) in held {
            match self.run(task, command, now_ms) {
                Err(e) if e.kind() != ErrorKind::StaleFence => all = all.and(Err(e)),
                _ => {}
            }
        }
        all
    }

    /// Notes what a worker says that it holds. What it was handed some time ago and has never spoken of goes back to
    /// its queue, for the answer was lost; what it has forgotten meanwhile is lost. What cannot be taken back now is
    /// tried at a later beat.
    pub(crate) fn hear_of(&mut self, session: SessionId, live: &[(TaskId, Fence)], now: Duration, now_ms: Millis) {
        for (task, fence) in live.iter().filter(|_| !cairn_env::mutant("beat-keeps-nothing")) {
            self.adopt(session, *task, *fence, now);
        }
        let forgotten = self.sessions.forgotten(session, now).into_iter().map(|(task, fence, known)| {
            (task, if known { Command::Lose { fence } } else { Command::Release { fence, due_ms: None, asked: false } })
        });
        let _ = self.hand_back(forgotten, now_ms);
    }

    /// What a session must be told: what has happened since, and, since that may have got lost, again of what it
    /// says that it holds and does not.
    pub(crate) fn signals(&mut self, session: SessionId, live: &[(TaskId, Fence)]) -> Vec<Signal> {
        let mut signals = self.sessions.take_signals(session);
        let mut told: BTreeSet<Fence> = signals.iter().map(|signal| signal.fence).collect();
        for (task, fence) in live {
            let holds = self.live.get(task).and_then(Live::fence) == Some(*fence);
            if holds || !told.insert(*fence) {
                continue;
            }
            // What cannot be read is not told of: whoever works on it will see.
            let Ok(kept) = self.shelf.task(*task) else { continue };
            let over = kept.and_then(|(_, task)| task.handed_back);
            let by = over.filter(|over| over.fence == *fence).map_or(Ending::Lost, |over| over.by);
            // What it ended itself it knows, or will.
            if matches!(by, Ending::Lost | Ending::Cancelled) {
                signals.push(Signal { task: *task, fence: *fence, by });
            }
        }
        signals
    }

    /// Takes what silent workers held. One that could not be taken is tried again.
    pub(crate) fn lose_silent(&mut self, now: Duration, now_ms: Millis) -> Result<()> {
        let mut all = Ok(());
        for session in self.sessions.silent(now) {
            let held = self.sessions.held(session);
            let lost = self.hand_back(held.into_iter().map(|(task, fence)| (task, Command::Lose { fence })), now_ms);
            if lost.is_ok() {
                self.end_session(session);
            }
            all = all.and(lost);
        }
        all
    }

    /// Takes what nobody has said hello for since the server began, of the tasks that are asked for.
    pub(crate) fn lose_orphans(&mut self, now_ms: Millis, of: impl Fn(&Task) -> bool) -> Result<()> {
        let orphans = self.live.iter().filter(|(_, live)| live.session.is_none() && of(&live.stored.task));
        let lost = orphans.filter_map(|(id, live)| Some((*id, Command::Lose { fence: live.fence()? })));
        let lost: Vec<(TaskId, Command)> = lost.collect();
        self.hand_back(lost, now_ms)
    }

    /// Hands a session up to `free` tasks, as many as go into one answer, and what it must be told. What fails after
    /// the first is left to the next call.
    pub(crate) fn hand_out(&mut self, session: SessionId, free: usize, now_ms: Millis) -> Result<Handed> {
        let mut shown = self.shelf.store.version();
        let (mut work, mut bytes) = (Vec::new(), 0);
        while work.len() < free.min(WORK_MAX) && bytes < WORK_BYTES {
            match self.claim(session, now_ms, &mut shown) {
                Ok(Some(next)) => {
                    bytes += bytes_of(&next);
                    work.push(next);
                }
                Ok(None) => break,
                Err(e) if work.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(Handed { work, signals: self.sessions.take_signals(session), shown })
    }

    /// Hands a session the next task that is ready for it. What cannot be read keeps nothing else from being handed
    /// out. What was written up to `shown` is revealed by that.
    fn claim(&mut self, session: SessionId, now_ms: Millis, shown: &mut Version) -> Result<Option<Work>> {
        while let Some((lane, due)) = self.next_for(session, now_ms)? {
            match self.claim_one(session, &lane, due, now_ms, shown) {
                Ok(None) => {}
                // Invalid: what it brings about does not go into a batch.
                Err(e) if e.is_unreadable() || e.kind() == ErrorKind::Invalid => self.pass_over(&lane, due),
                claimed => return claimed,
            }
        }
        Ok(None)
    }

    /// Hands a session this task, unless its own policy gives it up, or it is not ready at all.
    fn claim_one(
        &mut self,
        session: SessionId,
        lane: &Lane,
        (due_ms, id): Due,
        now_ms: Millis,
        shown: &mut Version,
    ) -> Result<Option<Work>> {
        let before = self.load(id)?;
        let entry = Entry::Ready { lane: lane.clone(), due_ms, task: id };
        if !before.entries().contains(&entry) {
            return self.take_away(entry, now_ms).map(|()| None);
        }
        let fence = self.next_fence();
        // All that is shown is read before anybody has it.
        let (mut steps, more) = match before.task.was_begun() {
            true => self.shelf.steps(&before, None, usize::MAX, STEPS_BYTES)?,
            false => (Vec::new(), false),
        };
        let versions = self.sessions.hello(session).map(|hello| &hello.versions);
        let version = versions.and_then(|versions| versions.get(&before.spec.name)).cloned();
        let mut turn = self.turn(now_ms);
        turn.tasks.insert(id, before);
        let decision = self.decide(&mut turn, id, Command::Claim { fence, version }, now_ms)?;
        let written = self.commit(turn)?;
        if decision.task.status.state() != State::Running {
            // Who waited for it may be handed out next, with what came of it.
            *shown = written;
            return Ok(None);
        }
        let Some(live) = self.live.get_mut(&id) else { return Ok(None) };
        live.session = Some(session);
        self.sessions.give(session, id, fence, self.env.now());
        let Stored { task, spec, .. } = &live.stored;
        let (run, attempt, version, spec) = (task.run.id, task.run.attempt, task.version.clone(), spec.clone());
        let steps_next = steps.last().filter(|_| more).map(|(id, _)| id.clone());
        steps.retain(|(_, step)| step.replays_in(attempt));
        Ok(Some(Work { id, run, attempt, fence, version, spec, steps, steps_next }))
    }

    /// The first task that is due and that a session takes, by priority and then by how long it is due; and its lane.
    fn next_for(&mut self, session: SessionId, now_ms: Millis) -> Result<Option<(Lane, Due)>> {
        let Some(hello) = self.sessions.hello(session) else { return Err(unknown_session()) };
        let takes = |lane: &&Lane| {
            hello.queues.contains(&lane.queue)
                && hello.tasks.contains(&lane.name)
                && self.queues.get(&lane.queue).is_some_and(|queue| queue.status == QueueStatus::Active)
        };
        let lanes: Vec<Lane> = self.lanes.keys().filter(takes).cloned().collect();
        let (mut best, mut listed) = (None::<(Lane, Due)>, Ok(()));
        for lane in lanes {
            match self.first_of(&lane) {
                Ok(Some(first)) if first.0 <= now_ms => {
                    if best.as_ref().is_none_or(|(of, due)| (lane.rank, first) < (of.rank, *due)) {
                        best = Some((lane, first));
                    }
                }
                Ok(_) => {}
                // A lane that cannot be listed holds up no other, and is told of when there is nothing else.
                Err(e) => listed = Err(e),
            }
        }
        match best {
            Some(best) => Ok(Some(best)),
            None => listed.map(|()| None),
        }
    }

    /// Carries out one call of a worker.
    pub(crate) fn op(&mut self, op: Op, now_ms: Millis) -> Result<Ack> {
        let Op { task, fence, what } = op;
        match what {
            OpKind::Step { id, outcome } => {
                check_outcome(&outcome)?;
                let recorded = self.shelf.step(&self.load(task)?, &id)?;
                let command = Command::Step { fence, id, kind: StepKind::Step, outcome, recorded };
                self.run_if_changed(task, command, now_ms).map(|_| Ack::Done)
            }
            OpKind::Spawn { id, spawn } => self.spawn_child(task, fence, id, &spawn, now_ms),
            OpKind::Emit { id, name, payload } => self.emit_of(task, fence, id, &name, &payload, now_ms),
            OpKind::Suspend(waits) => self.suspend(task, fence, waits, now_ms),
            OpKind::Finish(output) => {
                check_value("output", "the output", &output)?;
                self.run_if_changed(task, Command::Finish { fence, output }, now_ms).map(|_| Ack::Done)
            }
            OpKind::Fail { failure, retry_at_ms } => {
                check_failure(&failure)?;
                self.run_if_changed(task, Command::Fail { fence, failure, retry_at_ms }, now_ms).map(|_| Ack::Done)
            }
            OpKind::Release { due_ms } => {
                self.run_if_changed(task, Command::Release { fence, due_ms, asked: true }, now_ms).map(|_| Ack::Done)
            }
        }
    }

    /// Runs a command; what changes nothing is not written.
    pub(crate) fn run_if_changed(&mut self, id: TaskId, command: Command, now_ms: Millis) -> Result<Decision> {
        let before = self.load(id)?;
        let mut turn = self.turn(now_ms);
        let decision = self.decide(&mut turn, id, command, now_ms)?;
        let changed = decision.task != before.task || decision.waits != before.waits || !decision.steps.is_empty();
        if changed {
            self.commit(turn)?;
        }
        Ok(decision)
    }

    fn suspend(&mut self, task: TaskId, fence: Fence, waits: Vec<Wait>, now_ms: Millis) -> Result<Ack> {
        let stored = self.load(task)?;
        let may = machine::may_suspend(&stored.task, fence, &waits).map_err(|e| refused(task, e))?;
        if !may {
            return Ok(Ack::Suspended(Vec::new()));
        }
        for (n, wait) in waits.iter().enumerate() {
            let checked = match &wait.target {
                Target::Event(name) => check_name("name", "the event's name", name, NAME_BYTES_MAX),
                Target::Task(id) if *id == task => Err(Error::invalid("a task cannot wait for its own end").at("id")),
                Target::Task(_) | Target::Timer(_) => Ok(()),
            };
            checked.map_err(|e| e.under(&format!("waits[{n}]")))?;
        }
        let (recorded, come) = self.read_waits(&stored, &waits)?;
        let command = Command::Suspend { fence, waits, recorded, come };
        Ok(Ack::Suspended(self.run_if_changed(task, command, now_ms)?.resumed))
    }

    /// Reads what is recorded of waits, and what has come of the others: of all of them, or of the first if that has so
    /// many bytes that the task should go on with it first.
    fn read_waits(&self, stored: &Stored, waits: &[Wait]) -> Result<WaitsRead> {
        let (mut recorded, mut come) = (Vec::with_capacity(waits.len()), Vec::with_capacity(waits.len()));
        let (mut won, mut bytes) = (Won::default(), 0);
        for wait in waits {
            let step = self.shelf.step(stored, &wait.id)?;
            if let Some(step) = &step {
                won.by(wait);
                bytes += step.outcome.bytes();
            }
            recorded.push(step);
            if bytes >= RESUMED_BYTES {
                // Which of a group has won is known only when all of it was looked at: nothing is opened.
                return Ok((recorded, come));
            }
        }
        for wait in waits {
            let outcome = if won.takes(wait) { None } else { self.come(&stored.spec.queue, &wait.target)? };
            if let Some(outcome) = &outcome {
                won.by(wait);
                bytes += outcome.bytes();
            }
            come.push(outcome);
            if bytes >= RESUMED_BYTES {
                break;
            }
        }
        Ok((recorded, come))
    }

    fn spawn_child(&mut self, task: TaskId, fence: Fence, id: StepId, spawn: &Spawn, now_ms: Millis) -> Result<Ack> {
        let stored = self.load(task)?;
        let recorded = self.shelf.step(&stored, &id)?;
        if let Some(step) = &recorded
            && let Some(child) = child_of(step)
        {
            // Told before: the child is there, whatever id this call would give it.
            let child = self.load(child)?;
            let (run, state) = (child.task.run.id, child.task.status.state());
            return Ok(Ack::Spawned(Spawned { id: child.id, run, created: false, state }));
        }
        let mut turn = self.turn(now_ms);
        let spawned = self.spawn_in(&mut turn, spawn, Some(task), now_ms).map_err(|e| e.under("spawn"))?;
        let outcome = Outcome::Value(format!("\"{}\"", spawned.id).into_bytes().into());
        let command = Command::Step { fence, id, kind: StepKind::Spawn, outcome, recorded };
        self.decide(&mut turn, task, command, now_ms)?;
        self.commit(turn)?;
        Ok(Ack::Spawned(spawned))
    }

    fn emit_of(
        &mut self,
        task: TaskId,
        fence: Fence,
        id: StepId,
        name: &str,
        payload: &[u8],
        now_ms: Millis,
    ) -> Result<Ack> {
        check_name("name", "the event's name", name, NAME_BYTES_MAX)?;
        check_value("payload", "the payload", payload)?;
        let stored = self.load(task)?;
        let recorded = self.shelf.step(&stored, &id)?;
        if let Some(step) = &recorded
            && step.kind == StepKind::Emit
        {
            let created = step.outcome == emitted(true);
            let command = Command::Step { fence, id, kind: StepKind::Emit, outcome: emitted(created), recorded };
            self.run_if_changed(task, command, now_ms)?;
            return Ok(Ack::Emitted { created });
        }
        let created = self.event(&stored.spec.queue, name)?.is_none();
        let mut turn = self.turn(now_ms);
        let command = Command::Step { fence, id, kind: StepKind::Emit, outcome: emitted(created), recorded };
        self.decide(&mut turn, task, command, now_ms)?;
        self.emit(&mut turn, &stored.spec.queue, name, &Event { at_ms: now_ms, payload: payload.into() })?;
        self.commit(turn)?;
        Ok(Ack::Emitted { created })
    }
}

/// What a session is handed.
pub(crate) struct Handed {
    pub(crate) work: Vec<Work>,
    pub(crate) signals: Vec<Signal>,
    /// All that it reveals was written up to this.
    pub(crate) shown: Version,
}

/// How large a task is in an answer, about.
fn bytes_of(work: &Work) -> usize {
    let steps = work.steps.iter().map(|(id, step)| id.as_str().len() + step.outcome.bytes());
    work.spec.input.len() + work.spec.headers.len() + steps.sum::<usize>()
}

/// The child that a recorded step spawned.
fn child_of(step: &Step) -> Option<TaskId> {
    match &step.outcome {
        Outcome::Value(value) if step.kind == StepKind::Spawn => {
            std::str::from_utf8(value).ok()?.trim_matches('"').parse().ok()
        }
        _ => None,
    }
}

fn emitted(created: bool) -> Outcome {
    Outcome::Value(created.to_string().into_bytes().into())
}

pub(crate) fn unknown_session() -> Error {
    Error::new(ErrorKind::Gone, "this session is not known, or not any more; say hello again")
}
