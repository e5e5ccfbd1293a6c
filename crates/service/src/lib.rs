//! The task protocol, answered: what `cairn_api::tasks` says in, what it says out, on the tasks of a store.
//!
//! Owns what a call of the protocol means and how it reads and is shown ([`Service`]); the same answers whether they
//! leave by a socket or stay in the process. Refuses sockets, routes, statuses, timers, and to choose a thread: calls
//! that may wait for a disk run where the caller's [`Place`] says, and calls that wait for something to happen end
//! when the caller's future `until` does.

mod from_wire;
mod lists;
mod refused;
mod to_wire;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::{Wake, Waker};

use cairn_api::{ErrorKind, Paging, tasks as wire};
use cairn_durable::call::{Spawn, Told};
use cairn_durable::id::TaskId;
use cairn_durable::queue::{Event, Queue, QueueStatus};
use cairn_durable::task::State;
use cairn_durable::worker::{BEAT, Hello, LEASE, SessionId};
use cairn_durable::{Answer, Tasks, View};
use cairn_store::Store;
use tokio::sync::Notify;

use from_wire::{at_most, json, live_of, op_of, run_number, session, signs_of, spawn_of, step_id, task_id};
use refused::invalid;
pub use refused::{Refused, not_built};
use to_wire::{
    ack_to, failure_in, millis, queue_to, raw, refused_to, run_to, signal_to, spawned_to, steps_to, task_to, work_to,
    worker_to,
};

/// A list has so many entries if nothing else is said, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// Where calls run that may wait for a disk.
pub trait Place: Send + Sync + 'static {
    /// Runs `job` there.
    ///
    /// # Errors
    /// If it cannot be run, or did not come to its end.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Refused>> + Send;
}

/// The protocol on the tasks of a store.
///
/// Every call errs with what the tasks refuse it with, and with what [`Place::run`] errs with.
#[derive(Debug)]
pub struct Service<S: Store, P> {
    tasks: Tasks<S>,
    place: P,
    /// Where workers are heard: whatever else is asked must not make them look dead.
    hearing: P,
    /// The clock of the tasks may be set.
    test_clock: bool,
}

impl<S: Store, P: Place> Service<S, P> {
    /// Answers for these tasks. Hellos, beats and goodbyes run at `hearing`, all else at `place`, so that they wait for
    /// nothing else if these are two. `test_clock` lets [`Service::clock`] set the clock of the tasks.
    pub fn new(tasks: Tasks<S>, place: P, hearing: P, test_clock: bool) -> Service<S, P> {
        Service { tasks, place, hearing, test_clock }
    }

    /// The tasks that it answers for.
    pub fn tasks(&self) -> &Tasks<S> {
        &self.tasks
    }

    /// Makes a call where it may block, and waits until what it answers may be told.
    async fn call<T: Send + Unpin + 'static>(
        &self,
        call: impl FnOnce(&Tasks<S>) -> Answer<S, T> + Send + 'static,
    ) -> Result<T, Refused> {
        self.call_at(&self.place, call).await
    }

    async fn call_at<T: Send + Unpin + 'static>(
        &self,
        place: &P,
        call: impl FnOnce(&Tasks<S>) -> Answer<S, T> + Send + 'static,
    ) -> Result<T, Refused> {
        let tasks = self.tasks.clone();
        let answer = place.run(move || call(&tasks).help()).await?;
        Ok(answer.await?)
    }

    /// Spawns tasks: each for itself, or, if that is asked, all or none; then the first that is refused refuses them.
    pub async fn spawn(&self, request: wire::SpawnRequest) -> Result<wire::Results<wire::Spawned>, Refused> {
        at_most("tasks", "tasks", request.tasks.len(), wire::SPAWNS_MAX)?;
        if request.atomic {
            let spawned = self.spawn_with(self.tasks.batch(), request.tasks).await?;
            return Ok(wire::Results { results: spawned.into_iter().map(wire::Each::Done).collect() });
        }
        let now_ms = self.tasks.now_ms();
        // One that cannot be read is refused in its place; the others go on.
        let (mut spawns, mut places) = (Vec::new(), Vec::new());
        for spawn in request.tasks {
            match spawn_of(spawn, now_ms) {
                Ok(spawn) => {
                    spawns.push(spawn);
                    places.push(None);
                }
                Err(refused) => places.push(Some(refused)),
            }
        }
        let mut spawned = self.call(move |tasks| tasks.spawn(&spawns)).await?.into_iter();
        let each = |(n, place): (usize, Option<Refused>)| {
            let one = match place {
                Some(refused) => Err(refused),
                None => spawned.next()?.map_err(Refused::from),
            };
            Some(match one {
                Ok(spawned) => wire::Each::Done(spawned_to(spawned)),
                Err(refused) => wire::Each::Refused(refused.under(&format!("tasks[{n}]")).into_body()),
            })
        };
        Ok(wire::Results { results: places.into_iter().enumerate().filter_map(each).collect() })
    }

    /// Writes a batch and spawns tasks, all of it or nothing.
    pub async fn spawn_with(&self, batch: S::Batch, tasks: Vec<wire::Spawn>) -> Result<Vec<wire::Spawned>, Refused> {
        let now_ms = self.tasks.now_ms();
        let spawn = |(n, spawn)| spawn_of(spawn, now_ms).map_err(|e| e.under(&format!("tasks[{n}]")));
        let spawns = tasks.into_iter().enumerate().map(spawn).collect::<Result<Vec<_>, Refused>>()?;
        let spawned = self.call(move |tasks| tasks.spawn_with(batch, &spawns)).await?;
        Ok(spawned.into_iter().map(spawned_to).collect())
    }

    /// A task as it is.
    pub async fn task(&self, id: &str) -> Result<wire::Task, Refused> {
        self.show(task_id(id)?).await
    }

    pub(crate) fn shown(&self, view: &View) -> wire::Task {
        task_to(view, self.tasks.now_ms())
    }

    async fn show(&self, id: TaskId) -> Result<wire::Task, Refused> {
        let view = self.call(move |tasks| tasks.get(id)).await?;
        Ok(self.shown(&view))
    }

    /// Where a task stands when it has ended, or when `until` is done.
    pub async fn result(&self, id: &str, until: impl Future<Output = ()>) -> Result<wire::TaskResult, Refused> {
        let id = task_id(id)?;
        let (watch, bell) = (Arc::new(self.tasks.watch(id)), Arc::new(Bell(Notify::new())));
        let mut until = std::pin::pin!(until);
        let view = loop {
            let (watch, waker) = (watch.clone(), Waker::from(bell.clone()));
            if let Some(view) = self.call(move |_| watch.ended(&waker)).await? {
                break view;
            }
            tokio::select! {
                () = bell.0.notified() => {}
                () = &mut until => break self.call(move |tasks| tasks.get(id)).await?,
            }
        };
        Ok(wire::TaskResult {
            status: view.task.status.state().name().to_owned(),
            output: view.output.as_deref().map(raw),
            failure: failure_in(&view.task.status),
        })
    }

    /// A page of the recorded steps of a task, in the order of their ids.
    pub async fn steps(&self, id: &str, paging: Paging) -> Result<wire::Page<wire::Step>, Refused> {
        let id = task_id(id)?;
        let after = paging.after.as_deref().map(step_id).transpose().map_err(|e| e.at("after"))?;
        let limit = paging.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let (steps, more) = self.call(move |tasks| tasks.steps(id, after.as_ref(), limit)).await?;
        let next = steps.last().filter(|_| more).map(|(id, _)| id.as_str().to_owned());
        Ok(wire::Page { items: steps_to(&steps), next })
    }

    /// A page of the runs of a task that have ended, in order.
    pub async fn runs(&self, id: &str, paging: Paging) -> Result<wire::Page<wire::Run>, Refused> {
        let id = task_id(id)?;
        let after = paging.after.as_deref().map(run_number).transpose()?.unwrap_or(0);
        let limit = paging.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let page = self.call(move |tasks| tasks.runs(id, after, limit)).await?;
        let next = page.next.map(|number| number.to_string());
        Ok(wire::Page { items: page.items.iter().map(run_to).collect(), next })
    }

    /// Cancels a task; one that has ended stays as it is.
    pub async fn cancel(&self, id: &str, request: wire::CancelRequest) -> Result<wire::Task, Refused> {
        let id = task_id(id)?;
        let reason = request.reason.unwrap_or_else(|| "cancelled by request".to_owned());
        let view = self.call(move |tasks| tasks.cancel(id, &reason)).await?;
        Ok(self.shown(&view))
    }

    /// Tries a failed task again, in place or as a new one.
    pub async fn retry(&self, id: &str, request: wire::RetryRequest) -> Result<wire::Task, Refused> {
        let id = task_id(id)?;
        match request.mode {
            wire::RetryMode::InPlace => {
                let view = self.call(move |tasks| tasks.retry(id, request.extra_attempts)).await?;
                Ok(self.shown(&view))
            }
            wire::RetryMode::New => {
                let view = self.call(move |tasks| tasks.get(id)).await?;
                if view.task.status.state() != State::Failed {
                    let text = format!("task {id}: only a failed task can be retried");
                    return Err(Refused::new(ErrorKind::Conflict, text));
                }
                let spec = &view.spec;
                let spawn = Spawn {
                    queue: spec.queue.clone(),
                    headers: spec.headers.clone(),
                    tags: spec.tags.clone(),
                    priority: spec.priority,
                    retry: spec.retry,
                    max_attempts: view.task.max_attempts,
                    max_lost: spec.max_lost,
                    cancellation: spec.cancellation,
                    ..Spawn::new(&spec.name, &spec.input)
                };
                let spawned = self.call(move |tasks| tasks.spawn(&[spawn])).await?;
                match spawned.into_iter().next() {
                    // What is wrong with it stands in no field of this request.
                    Some(spawned) => self.show(spawned.map_err(|e| Refused { field: None, ..e.into() })?.id).await,
                    None => Err(Refused::new(ErrorKind::Internal, "a spawn without a result")),
                }
            }
        }
    }

    /// All queues.
    pub async fn queues(&self) -> Result<wire::Page<wire::Queue>, Refused> {
        let queues = self.call(Tasks::queues).await?;
        Ok(wire::Page { items: queues.iter().map(|(name, queue)| queue_to(name, queue)).collect(), next: None })
    }

    async fn find_queue(&self, name: &str) -> Result<Option<Queue>, Refused> {
        let queues = self.call(Tasks::queues).await?;
        Ok(queues.into_iter().find(|(known, _)| known == name).map(|(_, queue)| queue))
    }

    /// A queue.
    pub async fn queue(&self, name: &str) -> Result<wire::Queue, Refused> {
        let queue = self.find_queue(name).await?.ok_or_else(|| no_queue(name))?;
        Ok(queue_to(name, &queue))
    }

    /// Sets what is set of a queue, making it if there is none. What is not said stays as it is.
    pub async fn set_queue(&self, name: &str, request: wire::QueueRequest) -> Result<wire::Queue, Refused> {
        for (field, said) in [("limit", request.limit.is_some()), ("rate", request.rate.is_some())] {
            if said {
                return Err(not_built("limits").at(field));
            }
        }
        let change = move |before: Option<Queue>| {
            let before = before.unwrap_or_default();
            Ok(Queue {
                retention_days: request.retention_days.unwrap_or(before.retention_days),
                event_ttl_ms: request.event_ttl_ms.unwrap_or(before.event_ttl_ms),
                max_waiting: request.max_waiting.unwrap_or(before.max_waiting),
                ..before
            })
        };
        self.change_queue(name, change).await
    }

    /// Hands out no more tasks of a queue, or does so again.
    pub async fn pause(&self, name: &str, paused: bool) -> Result<wire::Queue, Refused> {
        let status = if paused { QueueStatus::Paused } else { QueueStatus::Active };
        let unknown = no_queue(name).message;
        let change = move |before: Option<Queue>| match before {
            Some(before) => Ok(Queue { status, ..before }),
            None => Err(cairn_durable::Error::not_found(unknown)),
        };
        self.change_queue(name, change).await
    }

    async fn change_queue(
        &self,
        name: &str,
        change: impl FnOnce(Option<Queue>) -> cairn_durable::Result<Queue> + Send + 'static,
    ) -> Result<wire::Queue, Refused> {
        let changed = name.to_owned();
        let queue = self.call(move |tasks| tasks.change_queue(&changed, change)).await?;
        Ok(queue_to(name, &queue))
    }

    /// Emits events, each for itself.
    pub async fn emit(&self, queue: &str, request: wire::EmitRequest) -> Result<wire::Results<wire::Emitted>, Refused> {
        at_most("events", "events", request.events.len(), wire::EVENTS_MAX)?;
        let mut results = Vec::with_capacity(request.events.len());
        for (n, event) in request.events.into_iter().enumerate() {
            let queue = queue.to_owned();
            let emitted = match json("payload", event.payload) {
                Ok(payload) => self.call(move |tasks| tasks.emit(&queue, &event.name, &payload)).await,
                Err(refused) => Err(refused),
            };
            results.push(match emitted {
                Ok(created) => wire::Each::Done(wire::Emitted { created }),
                Err(refused) => wire::Each::Refused(refused.under(&format!("events[{n}]")).into_body()),
            });
        }
        Ok(wire::Results { results })
    }

    /// An event that was emitted.
    pub async fn event(&self, queue: &str, name: &str) -> Result<wire::Event, Refused> {
        let (queue, asked) = (queue.to_owned(), name.to_owned());
        match self.call(move |tasks| tasks.event(&queue, &asked)).await? {
            Some(Event { at_ms, payload }) => Ok(wire::Event { name: name.to_owned(), payload: raw(&payload), at_ms }),
            None => {
                let text = format!("no event \"{}\" was emitted", name.escape_debug());
                Err(Refused::new(ErrorKind::NotFound, text))
            }
        }
    }

    /// The workers that are there.
    pub async fn workers(&self) -> Result<wire::Page<wire::Worker>, Refused> {
        let tasks = self.tasks.clone();
        // Who holds the lock may be waiting for a disk.
        let workers = self.place.run(move || tasks.workers()).await?;
        Ok(wire::Page { items: workers.into_iter().map(worker_to).collect(), next: None })
    }

    /// Begins a session of a worker.
    pub async fn hello(&self, request: wire::Hello) -> Result<wire::Welcome, Refused> {
        let live = live_of(&request.live)?;
        at_most("slots", "slots", usize::try_from(request.slots).unwrap_or(usize::MAX), wire::SLOTS_MAX)?;
        let offers = || request.tasks.iter();
        let version = |offer: &wire::Offer| Some((offer.name.clone(), offer.version.clone()?));
        let hello = Hello {
            name: request.name,
            sdk: request.sdk,
            tasks: offers().map(|offer| offer.name.clone()).collect(),
            versions: offers().filter_map(version).collect(),
            queues: request.queues.into_iter().collect(),
            slots: request.slots,
        };
        let welcome = self.call_at(&self.hearing, move |tasks| tasks.hello(hello, &live)).await?;
        Ok(wire::Welcome {
            session: format!("{:032x}", welcome.session.0),
            lease_ms: millis(LEASE),
            beat_ms: millis(BEAT),
            now_ms: self.tasks.now_ms(),
            kept: welcome.kept.iter().map(ToString::to_string).collect(),
            stop: welcome.stop.iter().map(ToString::to_string).collect(),
        })
    }

    /// Work and signals for a worker, as soon as there are any, or none when `until` is done.
    pub async fn poll(&self, request: wire::Poll, until: impl Future<Output = ()>) -> Result<wire::Polled, Refused> {
        let session = session(&request.session)?;
        let free = usize::try_from(request.free).unwrap_or(usize::MAX);
        if free == 0 {
            return Err(invalid("a poll asks for one task at least; a beat brings signals, too").at("free"));
        }
        let bell = Arc::new(Bell(Notify::new()));
        let mut until = std::pin::pin!(until);
        let parked = Arc::new(Parked { tasks: self.tasks.clone(), session, bell: bell.clone() });
        loop {
            let (parked, waker) = (parked.clone(), Waker::from(bell.clone()));
            // With the call, for that may come about after the caller has gone.
            let take = move |tasks: &Tasks<S>| {
                let taken = tasks.take_or_park(session, free, Some(&waker));
                drop(parked);
                taken
            };
            let (work, signals) = self.call(take).await?;
            let done = !work.is_empty()
                || !signals.is_empty()
                || tokio::select! {
                    () = bell.0.notified() => false,
                    () = &mut until => true,
                };
            if done {
                return Ok(wire::Polled {
                    work: work.iter().map(work_to).collect(),
                    signals: signals.iter().map(signal_to).collect(),
                    now_ms: self.tasks.now_ms(),
                });
            }
        }
    }

    /// Makes a worker heard of, and keeps what it shows of its tasks. It is heard also if what it shows is refused.
    pub async fn beat(&self, request: wire::Beat) -> Result<wire::Beaten, Refused> {
        let session = session(&request.session)?;
        let live = live_of(&request.live)?;
        let (signs, refused) = match signs_of(&live, request.live) {
            Ok(signs) => (signs, None),
            Err(refused) => (Vec::new(), Some(refused)),
        };
        let beat = move |tasks: &Tasks<S>| {
            let heard = tasks.beat(session, &live);
            tasks.show(session, signs);
            heard
        };
        let signals = self.call_at(&self.hearing, beat).await?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        Ok(wire::Beaten { signals: signals.iter().map(signal_to).collect(), now_ms: self.tasks.now_ms() })
    }

    /// Ends a session; what it held goes back at no cost.
    pub async fn bye(&self, request: wire::Bye) -> Result<(), Refused> {
        let session = session(&request.session)?;
        self.call_at(&self.hearing, move |tasks| tasks.bye(session)).await
    }

    /// What a worker says of its tasks, in one commit, and the next tasks for it. A call that cannot be read is refused
    /// like one that is refused otherwise: in its place, and later ones of its task with it.
    pub async fn ops(&self, request: wire::OpsRequest) -> Result<wire::OpsResponse, Refused> {
        let session = session(&request.session)?;
        at_most("ops", "operations", request.ops.len(), wire::OPS_MAX)?;
        let now_ms = self.tasks.now_ms();
        let (mut ops, mut places, mut unread) = (Vec::new(), Vec::new(), BTreeSet::new());
        for op in request.ops {
            let task = op.task.clone();
            let read = if unread.contains(&task) {
                Err(Refused::new(ErrorKind::Conflict, "an earlier call about this task was refused"))
            } else {
                op_of(op, now_ms)
            };
            match read {
                Ok(op) => {
                    ops.push(op);
                    places.push(None);
                }
                Err(refused) => {
                    unread.insert(task);
                    places.push(Some(refused));
                }
            }
        }
        let claim = usize::try_from(request.claim).unwrap_or(usize::MAX);
        let Told { acks, work, signals } = self.call(move |tasks| tasks.ops(session, ops, claim)).await?;
        let mut acks = acks.into_iter();
        let each = |(n, place): (usize, Option<Refused>)| {
            let ack = match place {
                Some(refused) => Err(refused),
                None => acks.next()?.map_err(Refused::from),
            };
            Some(ack.map_or_else(|refused| refused_to(refused.under(&format!("ops[{n}]"))), ack_to))
        };
        Ok(wire::OpsResponse {
            acks: places.into_iter().enumerate().filter_map(each).collect(),
            work: work.iter().map(work_to).collect(),
            signals: signals.iter().map(signal_to).collect(),
            now_ms: self.tasks.now_ms(),
        })
    }

    /// Sets the clock of the tasks forward, where that is allowed.
    pub async fn clock(&self, request: wire::ClockRequest) -> Result<wire::ClockNow, Refused> {
        if !self.test_clock {
            let text = "the clock can only be set of a server with --test-clock, and of tasks opened with a test clock";
            return Err(Refused::new(ErrorKind::NotFound, text));
        }
        let advance_ms = match (request.advance_ms, request.set_ms) {
            (Some(by_ms), None) => by_ms,
            (None, Some(to_ms)) => {
                let now_ms = self.tasks.now_ms();
                let behind = || invalid(format!("the clock only goes forward; it says {now_ms}")).at("set_ms");
                to_ms.checked_sub(now_ms).ok_or_else(behind)?
            }
            _ => return Err(invalid("give advance_ms or set_ms, one of them")),
        };
        Ok(wire::ClockNow { now_ms: self.tasks.advance_clock(advance_ms) })
    }
}

fn no_queue(name: &str) -> Refused {
    Refused::new(ErrorKind::NotFound, format!("there is no queue \"{}\"", name.escape_debug()))
}

/// A poll: if its caller goes away, nobody is woken for it any more.
struct Parked<S: Store> {
    tasks: Tasks<S>,
    session: SessionId,
    bell: Arc<Bell>,
}

impl<S: Store> Drop for Parked<S> {
    fn drop(&mut self) {
        self.tasks.unpark(self.session, Waker::from(self.bell.clone()));
    }
}

/// Rings for who waits.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}
