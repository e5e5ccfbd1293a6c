//! Tasks as a program holds them: one lock, one thread for time, and answers that wait for the disk.
//!
//! Every call runs under the lock of the [`Owner`], which reads and writes the store as applied. What it answers
//! is told only when all that it reveals is durable: an [`Answer`] resolves then. One sync of the store serves
//! all that wait meanwhile. A claim is the exception: it is written and not waited for, since a crash that
//! takes it away leaves the task queued; what the hand-out shows was durable before.
//!
//! Owns the lock, the thread and the wakers. Refuses to know of sockets and of JSON.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cairn_env::Env;
use cairn_env::sync::{Condvar, Mutex, Thread};
use cairn_store::{Store, Version};

use crate::call::{Ack, Op, OpKind, Spawn, Spawned, Told, Welcome, Work};
use crate::delete::Leaving;
use crate::desk::{Handed, unknown_session};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Millis, TaskId};
use crate::list::Page;
use crate::machine::Command;
use crate::owner::Owner;
use crate::queue::{Event, Queue};
use crate::retention::Going;
use crate::shelf::Stored;
use crate::step::{Step, StepId};
use crate::task::{EndedRun, Fence, Json, Spec, State, Status, Task};
use crate::trust::Trusted;
use crate::wait::Wait;
use crate::worker::{BEAT, Hello, LEASE, SessionId, Shown, Sign, Signal, WorkerInfo};

/// Timers are looked at so often at least, since the wall clock may be set.
const TICK: Duration = Duration::from_secs(1);
/// An errand that failed is tried again after so long.
const ERRAND_AGAIN: Duration = Duration::from_secs(60);
/// A page of steps or runs has so many bytes, or one entry.
const PAGE_BYTES: usize = 1 << 20;
/// Once the answer to a worker's calls has so many bytes of what had come already, further suspensions are refused.
const ANSWER_BYTES: usize = 64 << 20;
/// So many timers fire before other calls get their turn.
const TICKS_AT_ONCE: usize = 256;

/// The tasks of a store. Cheap to clone; all clones are one.
///
/// There may be one for a store at a time: it alone decides who gets which task.
#[derive(Debug)]
pub struct Tasks<S: Store> {
    shared: Arc<Shared<S>>,
}

impl<S: Store> Clone for Tasks<S> {
    fn clone(&self) -> Tasks<S> {
        Tasks { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<S: Store> {
    env: Env,
    store: S,
    owner: Mutex<Owner<S>>,
    /// Something may be due earlier than the thread thinks, or it is to end.
    changed: Condvar,
    closing: AtomicBool,
    /// How far the clock of the tasks is ahead of the wall clock: only tests set it.
    ahead_ms: AtomicI64,
    thread: Mutex<Option<Thread>>,
    /// The numbers of those who wait for the end of a task.
    watches: AtomicU64,
    /// Who waits no longer, since somebody last held the lock.
    dropped: Mutex<Vec<Dropped>>,
}

/// Something that was answered, once it may be told.
#[derive(Debug)]
pub struct Answer<S: Store, T> {
    value: Option<Result<T>>,
    durable: Option<S::Durable>,
}

impl<S: Store, T> Answer<S, T> {
    /// Makes durable on this thread what the answer waits for, if no other thread is at it. For who may block for a
    /// sync, and awaits the answer then: nothing is handed from thread to thread.
    pub fn help(self) -> Answer<S, T> {
        if let Some(durable) = &self.durable {
            S::help(durable);
        }
        self
    }

    fn failed(e: Error) -> Answer<S, T> {
        Answer { value: Some(Err(e)), durable: None }
    }
}

impl<S: Store, T: Unpin> Future for Answer<S, T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        if let Some(durable) = &mut self.durable {
            match Pin::new(durable).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => self.durable = None,
                Poll::Ready(Err(e)) => {
                    self.durable = None;
                    self.value = Some(Err(e.into()));
                }
            }
        }
        Poll::Ready(self.value.take().unwrap_or_else(|| Err(Error::invalid("an answer was asked for twice"))))
    }
}

/// A task, as it is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// Which.
    pub id: TaskId,
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// How far it is.
    pub task: Task,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// What it returned.
    pub output: Option<Json>,
    /// It is queued, and no worker that is there offers its name.
    pub no_worker: bool,
    /// Its queue is paused.
    pub paused: bool,
    /// Who has it and what was shown of it, if it runs and [`Tasks::get`] has made this view.
    pub shown: Option<Shown>,
}

impl<S: Store> Tasks<S> {
    /// The tasks of a store, with a thread that lets time pass for them.
    ///
    /// # Errors
    /// `Corrupt` if a record that is needed from the beginning is damaged; `Io`, `Closed`.
    pub fn open(env: &Env, store: S) -> Result<Tasks<S>> {
        let owner = Owner::open(env.clone(), store.clone())?;
        let shared = Arc::new(Shared {
            env: env.clone(),
            store,
            owner: env.mutex(owner),
            changed: env.condvar(),
            closing: AtomicBool::new(false),
            ahead_ms: AtomicI64::new(0),
            thread: env.mutex(None),
            watches: AtomicU64::new(0),
            dropped: env.mutex(Vec::new()),
        });
        let inner = shared.clone();
        let thread = env
            .spawn("cairn-tasks", move || inner.run())
            .map_err(|e| Error::new(ErrorKind::Io, format!("no thread for the tasks: {e}")))?;
        *shared.thread.lock() = Some(thread);
        Ok(Tasks { shared })
    }

    /// Ends the thread. What workers hold stays theirs: they say hello to the next one.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        drop(self.shared.owner.lock());
        self.shared.changed.notify_all();
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }

    /// Takes back at once what workers held when the store was closed or its process died, instead of after a lease: for
    /// who knows that none of them is left, since they lived in the same process. It counts as lost. What was lost before
    /// stays for the lease, so that a program that dies again and again does not use its tasks up.
    pub fn release_orphans(&self) -> Answer<S, ()> {
        self.answer(|owner, now_ms| owner.lose_orphans(now_ms, |task| task.lost == 0))
    }

    /// The time that the tasks go by.
    pub fn now_ms(&self) -> Millis {
        self.shared.now_ms()
    }

    /// Sets the clock of the tasks forward. For tests of those who use them.
    pub fn advance_clock(&self, by_ms: Millis) -> Millis {
        let by_ms = i64::try_from(by_ms).unwrap_or(i64::MAX);
        let ahead = |ms: i64| Some(ms.saturating_add(by_ms));
        let _ = self.shared.ahead_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ahead);
        drop(self.shared.owner.lock());
        self.shared.changed.notify_all();
        self.shared.now_ms()
    }

    /// Carries out a call under the lock. The answer may be told when everything that is written now is durable.
    fn answer<T>(&self, call: impl FnOnce(&mut Owner<S>, Millis) -> Result<T>) -> Answer<S, T> {
        self.answer_revealing(|owner, now_ms| {
            let value = call(owner, now_ms)?;
            Ok((value, Some(owner.shelf.store.version())))
        })
    }

    /// The same for a call that says up to which version it reveals what is written, if it does.
    fn answer_revealing<T>(
        &self,
        call: impl FnOnce(&mut Owner<S>, Millis) -> Result<(T, Option<Version>)>,
    ) -> Answer<S, T> {
        let shared = &self.shared;
        let (value, revealed, rung, due, gone) = {
            let mut owner = shared.owner.lock();
            let gone = shared.forget_dropped(&mut owner);
            let (value, revealed) = match call(&mut owner, shared.now_ms()) {
                Ok((value, revealed)) => (Ok(value), revealed),
                Err(e) => (Err(e), Some(shared.store.version())),
            };
            let due = owner.take_sooner();
            (value, revealed, std::mem::take(&mut owner.rung), due, gone)
        };
        drop(gone);
        if due {
            shared.changed.notify_all();
        }
        rung.into_iter().for_each(Waker::wake);
        match revealed {
            Some(version) => shared.revealing(value, version),
            None => Answer { value: Some(value), durable: None },
        }
    }

    /// One of several turns under the lock that a call takes, and that wakes nobody. What is seen may be told
    /// through [`Tasks::reveal`] only.
    pub(crate) fn locked<T>(&self, turn: impl FnOnce(&mut Owner<S>) -> Result<T>) -> Result<T> {
        turn(&mut self.shared.owner.lock())
    }

    /// The store and the lock, for work that comes in parts.
    pub(crate) fn in_parts<T>(&self, part: impl FnOnce(&S, &Mutex<Owner<S>>) -> T) -> T {
        part(&self.shared.store, &self.shared.owner)
    }

    /// Something that was read, to be told when everything that is written now is durable.
    pub(crate) fn reveal<T>(&self, value: Result<T>) -> Answer<S, T> {
        self.shared.revealing(value, self.shared.store.version())
    }

    /// Spawns tasks, each for itself.
    pub fn spawn(&self, spawns: &[Spawn]) -> Answer<S, Vec<Result<Spawned>>> {
        self.answer(|owner, now_ms| Ok(owner.spawn(spawns, now_ms)))
    }

    /// An empty batch of the store, for [`Tasks::spawn_with`].
    pub fn batch(&self) -> S::Batch {
        self.shared.store.batch()
    }

    /// Writes a batch, with its preconditions, and all of these tasks, in one: all of it is there or nothing.
    ///
    /// # Errors
    /// What refuses one of the tasks, or the batch; then nothing is written. `Unknown`: perhaps all of it is.
    pub fn spawn_with(&self, batch: S::Batch, spawns: &[Spawn]) -> Answer<S, Vec<Spawned>> {
        self.answer(|owner, now_ms| owner.spawn_with(batch, spawns, now_ms))
    }

    /// A task.
    pub fn get(&self, id: TaskId) -> Answer<S, View> {
        let now = self.shared.env.now();
        self.answer(|owner, _| {
            let stored = owner.load(id)?;
            let mut view = owner.view(stored)?;
            if let Status::Running { fence } = view.task.status {
                view.shown = owner.sessions.shown(id, fence, now);
            }
            Ok(view)
        })
    }

    /// Recorded steps of a task in the order of their ids, behind one of them, and whether there are more.
    pub fn steps(&self, id: TaskId, after: Option<&StepId>, limit: usize) -> Answer<S, (Vec<(StepId, Step)>, bool)> {
        self.answer(|owner, _| {
            let stored = owner.load(id)?;
            owner.shelf.steps(&stored, after, limit, PAGE_BYTES)
        })
    }

    /// The runs of a task that have ended, in order, behind the `after`th and at most `limit` of them.
    pub fn runs(&self, id: TaskId, after: u32, limit: usize) -> Answer<S, Page<EndedRun, u32>> {
        self.answer(|owner, _| {
            let stored = owner.load(id)?;
            let (items, more) = owner.shelf.runs(&stored, after, limit, PAGE_BYTES)?;
            let last = after.saturating_add(u32::try_from(items.len()).unwrap_or(u32::MAX));
            Ok(Page { items, next: more.then_some(last) })
        })
    }

    /// Cancels a task. One that has ended stays as it is.
    pub fn cancel(&self, id: TaskId, reason: &str) -> Answer<S, View> {
        self.answer(|owner, now_ms| {
            owner.run_if_changed(id, Command::Cancel { reason: reason.to_owned() }, now_ms)?;
            let stored = owner.load(id)?;
            owner.view(stored)
        })
    }

    /// Tries a failed task again, with the steps it has.
    pub fn retry(&self, id: TaskId, extra_attempts: u32) -> Answer<S, View> {
        self.answer(|owner, now_ms| {
            owner.check_kept(id)?;
            // It would wait for ever in a queue that is there no more.
            let stored = owner.load(id)?;
            owner.queue(&stored.spec.queue)?;
            owner.run(id, Command::Retry { extra_attempts }, now_ms)?;
            let stored = owner.load(id)?;
            owner.view(stored)
        })
    }

    /// Emits an event. Says whether it is the first of its name.
    pub fn emit(&self, queue: &str, name: &str, payload: &[u8]) -> Answer<S, bool> {
        self.answer(|owner, now_ms| owner.emit_event(queue, name, payload, now_ms))
    }

    /// An event that was emitted.
    pub fn event(&self, queue: &str, name: &str) -> Answer<S, Option<Event>> {
        self.answer(|owner, _| {
            owner.queue(queue)?;
            owner.event(queue, name)
        })
    }

    /// All queues.
    pub fn queues(&self) -> Answer<S, Vec<(String, Queue)>> {
        self.answer(|owner, _| Ok(owner.queues.iter().map(|(name, queue)| (name.clone(), *queue)).collect()))
    }

    /// Sets what is set of a queue, making it if there is none.
    pub fn set_queue(&self, name: &str, queue: Queue) -> Answer<S, Queue> {
        self.change_queue(name, |_| Ok(queue))
    }

    /// Sets what `change` makes of a queue, which is none if there is no such queue, and says what that is. Nobody else
    /// changes it in between.
    ///
    /// # Errors
    /// What `change` errs with; `Invalid`.
    pub fn change_queue(&self, name: &str, change: impl FnOnce(Option<Queue>) -> Result<Queue>) -> Answer<S, Queue> {
        self.answer(|owner, now_ms| {
            let queue = change(owner.queues.get(name).copied())?;
            owner.set_queue(name, queue, now_ms)?;
            Ok(queue)
        })
    }

    /// Deletes a queue with its events and idempotency keys, and says what was set of it. Its tasks, all of which have
    /// ended, are kept as long as they would have been. Looks at every task that is kept, without holding up others.
    /// Once anything of it is deleted all of it will be: what fails on the way, or a crash cuts short, is gone on with
    /// by itself.
    ///
    /// # Errors
    /// `Conflict` while it has a task that has not ended, or is being deleted; `NotFound`; `Invalid` for the queue that
    /// is always there; `Corrupt`, `Io`, `Full`, `Closed`.
    pub fn delete_queue(&self, name: &str) -> Answer<S, Queue> {
        self.reveal(self.delete(name))
    }

    /// Begins a session of a worker.
    pub fn hello(&self, hello: Hello, live: &[(TaskId, Fence)]) -> Answer<S, Welcome> {
        let now = self.shared.env.now();
        self.answer(|owner, _| owner.hello(hello, live, now))
    }

    /// Makes a worker heard of, which says what it holds, and says what of that it must stop. What it was handed two
    /// beats ago and has never spoken of goes back to its queue at no cost: the answer was lost. What it no longer
    /// speaks of is lost.
    pub fn beat(&self, session: SessionId, live: &[(TaskId, Fence)]) -> Answer<S, Vec<Signal>> {
        let now = self.shared.env.now();
        self.answer(|owner, now_ms| {
            if !owner.sessions.hear(session, now) {
                return Err(unknown_session());
            }
            owner.hear_of(session, live, now, now_ms);
            Ok(owner.signals(session, live))
        })
    }

    /// Keeps what a worker shows of the tasks that it has, for people: until it shows something else, or the hand-out
    /// is over. In memory only; at most 16 MiB of progress for a session, beyond which none is kept.
    pub fn show(&self, session: SessionId, signs: Vec<Sign>) {
        self.shared.owner.lock().sessions.show(session, signs);
    }

    /// Ends a session. What it held goes back, at no cost.
    pub fn bye(&self, session: SessionId) -> Answer<S, ()> {
        self.answer(|owner, now_ms| owner.bye(session, now_ms))
    }

    /// All workers that are there.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.shared.owner.lock().sessions.list(self.shared.env.now())
    }

    /// Hands a worker up to `free` tasks, and what it must be told. What it answers may be empty.
    pub fn take(&self, session: SessionId, free: usize) -> Answer<S, (Vec<Work>, Vec<Signal>)> {
        self.take_or_park(session, free, None)
    }

    /// The same; if there is nothing, the waker is woken when there may be.
    pub fn take_or_park(
        &self,
        session: SessionId,
        free: usize,
        waker: Option<&Waker>,
    ) -> Answer<S, (Vec<Work>, Vec<Signal>)> {
        let now = self.shared.env.now();
        self.answer_revealing(|owner, now_ms| {
            if !owner.sessions.hear(session, now) {
                return Err(unknown_session());
            }
            // What is shown was there before it was claimed.
            let Handed { work, signals, shown } = owner.hand_out(session, free, now_ms)?;
            let nothing = work.is_empty() && signals.is_empty();
            if nothing && let Some(waker) = waker {
                owner.sessions.park(session, waker);
            }
            Ok(((work, signals), (!nothing).then_some(shown)))
        })
    }

    /// Carries out the calls of a worker in order, then hands it up to `free` tasks. After one that was refused the
    /// later ones of that task are refused too; those of others are not.
    pub fn ops(&self, session: SessionId, ops: Vec<Op>, free: usize) -> Answer<S, Told> {
        let now = self.shared.env.now();
        self.answer_revealing(|owner, now_ms| {
            if !owner.sessions.hear(session, now) {
                return Err(unknown_session());
            }
            let mut refused: BTreeSet<TaskId> = BTreeSet::new();
            let mut resumed_bytes = 0;
            let mut acks = Vec::with_capacity(ops.len());
            for op in ops {
                let task = op.task;
                owner.sessions.spoken_of(session, task, op.fence, now);
                if refused.contains(&task) {
                    acks.push(Err(Error::conflict("an earlier call about this task was refused")));
                    continue;
                }
                let ack = if resumed_bytes >= ANSWER_BYTES && matches!(op.what, OpKind::Suspend(_)) {
                    Err(Error::new(ErrorKind::Busy, "so much has come already that the answer is full; say it again"))
                } else {
                    owner.op(op, now_ms)
                };
                match &ack {
                    Ok(Ack::Suspended(resumed)) => {
                        resumed_bytes += resumed.iter().map(|(_, step)| step.outcome.bytes()).sum::<usize>();
                    }
                    Ok(_) => {}
                    Err(_) => drop(refused.insert(task)),
                }
                acks.push(ack);
            }
            let revealed = owner.shelf.store.version();
            // Also what is shown was there before it was claimed: one sync answers for both. If nothing can be handed
            // out the calls are answered all the same.
            let handed = owner.hand_out(session, free, now_ms);
            let nothing = |_| Handed { work: Vec::new(), signals: Vec::new(), shown: revealed };
            let Handed { work, signals, shown } = handed.unwrap_or_else(nothing);
            Ok((Told { acks, work, signals }, Some(shown)))
        })
    }

    /// Resolves to a task when it has ended.
    pub fn ended(&self, id: TaskId) -> Ended<S> {
        Ended { watch: self.watch(id), answer: None }
    }

    /// A place to wait for the end of a task.
    pub fn watch(&self, id: TaskId) -> Watch<S> {
        Watch { tasks: self.clone(), id, number: self.shared.watches.fetch_add(1, Ordering::Relaxed) }
    }

    /// Takes back a waker that was left for work: nobody waits with it any more.
    pub fn unpark(&self, session: SessionId, waker: Waker) {
        self.shared.dropped.lock().push(Dropped::Parked(session, waker));
    }
}

/// A place to wait for the end of a task, until it is dropped.
#[derive(Debug)]
pub struct Watch<S: Store> {
    tasks: Tasks<S>,
    id: TaskId,
    number: u64,
}

impl<S: Store> Watch<S> {
    /// The task, if it has ended; else the waker is woken when it has.
    pub fn ended(&self, waker: &Waker) -> Answer<S, Option<View>> {
        self.tasks.answer_revealing(|owner, _| {
            let stored = owner.load(self.id)?;
            if stored.task.status.state().has_ended() {
                let version = owner.shelf.store.version();
                return Ok((Some(owner.view(stored)?), Some(version)));
            }
            owner.watch(self.id, self.number, waker);
            Ok((None, None))
        })
    }
}

impl<S: Store> Drop for Watch<S> {
    fn drop(&mut self) {
        self.tasks.shared.dropped.lock().push(Dropped::Watch(self.id, self.number));
    }
}

/// The end of a task.
#[derive(Debug)]
pub struct Ended<S: Store> {
    watch: Watch<S>,
    answer: Option<Answer<S, Option<View>>>,
}

impl<S: Store> Future for Ended<S> {
    type Output = Result<View>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<View>> {
        let Ended { watch, answer } = &mut *self;
        let asked = answer.get_or_insert_with(|| watch.ended(context.waker()));
        match Pin::new(asked).poll(context) {
            Poll::Ready(Ok(Some(view))) => Poll::Ready(Ok(view)),
            Poll::Ready(Ok(None)) => {
                *answer = None;
                Poll::Pending
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Long work of the thread of the clock, done in parts between which time passes.
enum Errand<S: Store> {
    /// Dropping a bucket.
    Bucket(Going<S>),
    /// Deleting a queue.
    Queue(Leaving),
}

impl<S: Store> Errand<S> {
    /// Does a part of it. Says whether it is done. What has failed is tried again.
    fn part(&mut self, store: &S, owner: &Mutex<Owner<S>>, now_ms: Millis) -> Result<bool> {
        match self {
            Errand::Bucket(going) => going.part(store, owner, now_ms),
            Errand::Queue(leaving) => leaving.part(store, owner, now_ms),
        }
    }
}

/// Who waits no longer. It is noted beside the lock, since that may be held by who waits for a disk.
#[derive(Debug)]
enum Dropped {
    /// For the end of a task.
    Watch(TaskId, u64),
    /// For work.
    Parked(SessionId, Waker),
}

impl<S: Store> Shared<S> {
    /// Forgets who waits no longer. Their wakers are for the caller to drop without the lock: whoever they are of may
    /// drop others.
    #[must_use]
    fn forget_dropped(&self, owner: &mut Owner<S>) -> Vec<Waker> {
        let dropped = std::mem::take(&mut *self.dropped.lock());
        let mut wakers = Vec::new();
        for dropped in dropped {
            match dropped {
                Dropped::Watch(id, number) => wakers.extend(owner.unwatch(id, number)),
                Dropped::Parked(session, waker) => {
                    wakers.extend(owner.sessions.unpark(session, &waker));
                    wakers.push(waker);
                }
            }
        }
        wakers
    }

    fn now_ms(&self) -> Millis {
        self.env.unix_time_ms().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn revealing<T>(&self, value: Result<T>, version: Version) -> Answer<S, T> {
        if cairn_env::mutant("task-answered-before-durable") {
            return Answer { value: Some(value), durable: None };
        }
        match self.store.durable(version) {
            Ok(durable) => Answer { value: Some(value), durable: Some(durable) },
            Err(e) => Answer::failed(e.into()),
        }
    }

    /// Lets time pass: fires timers, tells who was not told yet, takes what silent workers hold, wakes workers for what
    /// has become due, and does errands in parts.
    fn run(&self) {
        // What is being done in parts, and what of that has failed.
        let (mut errand, mut put_off) = (None, VecDeque::new());
        let mut turned = self.env.now();
        let mut trusted = Trusted::new(turned, self.env.unix_time_ms());
        let mut owner = self.owner.lock();
        owner.sessions.expect_orphans(turned + LEASE);
        while !self.closing.load(Ordering::Acquire) {
            let gone = self.forget_dropped(&mut owner);
            let (now, wall_ms, ahead_ms) =
                (self.env.now(), self.env.unix_time_ms(), self.ahead_ms.load(Ordering::Relaxed));
            let now_ms = wall_ms.saturating_add_signed(ahead_ms);
            let believed_ms = trusted.look(now, wall_ms).saturating_add_signed(ahead_ms);
            // While this stood still, nobody could be heard.
            owner.sessions.forgive(now.saturating_sub(turned).saturating_sub(BEAT), now);
            turned = now;
            let passed = owner.pass_time(now, now_ms, believed_ms);
            if errand.is_none() && put_off.front().is_some_and(|(from, _)| *from <= now) {
                errand = put_off.pop_front().map(|(_, errand)| errand);
            }
            errand = errand
                .or_else(|| owner.cut_short.pop().map(|queue| Errand::Queue(Leaving::new(queue))))
                .or_else(|| owner.close_past(believed_ms).map(Errand::Bucket));
            let rung = std::mem::take(&mut owner.rung);
            if errand.is_some() || !rung.is_empty() || !gone.is_empty() {
                drop(owner);
                drop(gone);
                rung.into_iter().for_each(Waker::wake);
                if let Some(mut under_way) = errand.take() {
                    match under_way.part(&self.store, &self.owner, now_ms) {
                        Ok(true) => {}
                        Ok(false) => errand = Some(under_way),
                        // The disk is full, perhaps, or a record is damaged: some time later again.
                        Err(_) => put_off.push_back((now + ERRAND_AGAIN, under_way)),
                    }
                }
                owner = self.owner.lock();
                continue;
            }
            let idle = Duration::from_millis(owner.idle_ms(now_ms, believed_ms)).min(TICK);
            let wait = match passed {
                // The others get their turn.
                Passed { more: true, .. } => Duration::from_millis(1),
                // The store takes no more writes, or a list is damaged: calls tell of it. What is due stays so.
                Passed { failed: true, .. } if idle.is_zero() => TICK,
                Passed { .. } => idle.max(Duration::from_millis(1)),
            };
            if !self.closing.load(Ordering::Acquire) {
                owner = self.changed.wait_for(owner, wait).0;
            }
        }
    }
}

/// What came of a round of what time alone brings about.
struct Passed {
    /// There is more of it at once.
    more: bool,
    /// Something could not be done. All else was.
    failed: bool,
}

impl<S: Store> Owner<S> {
    /// What time alone brings about: timers and leases by the clock, removal by `believed_ms` ([`Trusted`]). What fails
    /// keeps nothing else from being done.
    fn pass_time(&mut self, now: Duration, now_ms: Millis, believed_ms: Millis) -> Passed {
        let mut lost = Ok(());
        if self.sessions.orphans_are_lost(now) && !cairn_env::mutant("tasks-of-a-killed-server-kept") {
            lost = self.lose_orphans(now_ms, |_| true);
            if lost.is_err() {
                self.sessions.expect_orphans(now);
            }
        }
        if !cairn_env::mutant("silent-worker-kept") {
            lost = lost.and(self.lose_silent(now, now_ms));
        }
        let lived = self.live.len();
        let again = self.try_again(now, now_ms);
        // What could not be read until now has no worker any more.
        if self.live.len() > lived {
            self.sessions.expect_orphans(now);
        }
        let told = self.tell_more(now_ms);
        let next = self.tick(now_ms, TICKS_AT_ONCE);
        let expired = self.expire(believed_ms, TICKS_AT_ONCE);
        let woken = self.wake_due(now_ms);
        let next = next.map(|due_ms| due_ms.is_some_and(|due_ms| due_ms <= now_ms));
        let turns = [again, told, expired, next];
        Passed {
            more: turns.iter().any(|more| matches!(more, Ok(true))),
            failed: lost.is_err() || woken.is_err() || turns.iter().any(Result::is_err),
        }
    }

    pub(crate) fn view(&self, stored: Stored) -> Result<View> {
        let output = match stored.task.status.state() {
            State::Completed => self.shelf.output(stored.bucket, stored.id)?,
            State::Queued | State::Running | State::Waiting | State::Failed | State::Cancelled => None,
        };
        let queued = stored.task.status.state() == State::Queued;
        let no_worker = queued && !self.sessions.offers(&stored.spec.queue, &stored.spec.name);
        let paused = !self.is_active(&stored.spec.queue);
        let Stored { id, spec, task, waits, .. } = stored;
        Ok(View { id, spec, task, waits, output, no_worker, paused, shown: None })
    }
}

#[cfg(test)]
mod tests {
    use cairn_env::SimDisk;

    use super::*;
    use crate::task::Cancellation;

    /// The clock has jumped by forty days, which is not believed yet.
    #[test]
    fn what_is_due_goes_by_the_clock_and_what_ends_by_what_is_believed_of_it() {
        let env = Env::simulated(1, SimDisk::with_seed(1));
        let run = env.run(|| {
            let options = cairn::Options { memory_budget_bytes: 8 << 20, ..cairn::Options::default() };
            let db = cairn::Db::open_in(&env, "db", options).unwrap();
            let mut owner = Owner::open(env.clone(), db.clone()).unwrap();
            let begun_ms = env.unix_time_ms();
            let jumped_ms = begun_ms + 40 * 86_400_000;
            owner.emit_event("default", "e", b"1", begun_ms).unwrap();
            let cancellation = Cancellation { max_delay_ms: Some(1_000), max_duration_ms: None };
            let spawned = owner.spawn(&[Spawn { cancellation, ..Spawn::new("t", b"1") }], begun_ms).remove(0).unwrap();
            let after = |owner: &mut Owner<cairn::Db>, believed_ms: Millis| {
                assert!(!owner.pass_time(env.now(), jumped_ms, believed_ms).failed);
                let state = owner.load(spawned.id).unwrap().task.status.state();
                (state, owner.event("default", "e").unwrap().is_some(), owner.idle_ms(jumped_ms, believed_ms) > 0)
            };
            assert_eq!(after(&mut owner, begun_ms), (State::Cancelled, true, true));
            assert_eq!(after(&mut owner, jumped_ms), (State::Cancelled, false, false), "its day is to go");
            drop(owner);
            db.close().unwrap();
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    }
}
