//! What a task holds: the durable calls.
//!
//! Everything here that is awaited is recorded under the id of its name, or suspends the task. What a call returns has
//! been through JSON in the first run as in every replay, so both see the same.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cairn_api::tasks::{Json, Op, OpKind, Step, Wait};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::App;
use super::error::{AppError, Result, TaskError, outcome, read, write, write_within};
use super::ids::{Calling, Scope, extend};
use super::policy::Retry;
use super::run::{Run, in_step};
use super::spawn::Spawning;

/// A longer pause between two attempts of a step is a durable wait: it holds no slot and outlives the worker.
const PAUSE_IN_PLACE_MAX: Duration = Duration::from_secs(5);
/// A step with a retry and no bound tries so often.
const MAX_ATTEMPTS: u32 = 5;
const PROGRESS_BYTES_MAX: usize = 64 << 10;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The durable calls of a task. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Ctx {
    run: Arc<Run>,
    scope: Arc<Scope>,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("task", &self.run.task).field("scope", &self.scope).finish()
    }
}

impl Ctx {
    pub(crate) fn new(run: Arc<Run>) -> Ctx {
        let scope = run.root.clone();
        Ctx { run, scope }
    }

    /// The task.
    pub fn task_id(&self) -> &str {
        &self.run.task
    }

    /// The name that it was spawned under.
    pub fn task_name(&self) -> &str {
        &self.run.name
    }

    /// Its queue.
    pub fn queue(&self) -> &str {
        &self.run.queue
    }

    /// From 1. Never make a key for another system of it: use [`Ctx::key`].
    pub fn attempt(&self) -> u32 {
        self.run.attempt
    }

    /// The version that its code was registered with ([`Options::version`](crate::Options::version)).
    pub fn version(&self) -> Option<&str> {
        self.run.worker.tasks.get(&self.run.name)?.defaults.get_version()
    }

    /// What its spawn sent along for hooks.
    pub fn headers(&self) -> &Map<String, Value> {
        &self.run.headers
    }

    /// The app that it runs in.
    pub fn app(&self) -> &App {
        &self.run.worker.app
    }

    /// The same in every attempt, for systems that drop repeats: {task id}/{step id}, the step being the unfinished one
    /// of this name or the next.
    ///
    /// # Errors
    /// For a name that is empty or too long.
    pub fn key(&self, name: &str) -> Result<String> {
        Ok(format!("{}/{}", self.run.task, self.scope.peek(name)?))
    }

    /// A context whose names are its own, for one branch of several.
    ///
    /// # Errors
    /// For a name that is empty or too long.
    pub fn scope(&self, name: &str) -> Result<Ctx> {
        let path = self.scope.call(name)?.id.clone();
        Ok(Ctx { run: self.run.clone(), scope: Scope::new(path) })
    }

    /// `each(ctx, item)` for every item at a time; results in the order of the items. The first failure drops the others.
    ///
    /// Each item has a scope of its own, named by its key, so that their order may change between attempts. For some
    /// thousands of items at most: all are looked at whenever one goes on.
    ///
    /// # Errors
    /// The first failure of an item; [`AppError::Refused`] if two items have the same key.
    pub async fn map<I, O, K, F, Fut>(
        &self,
        name: &str,
        items: impl IntoIterator<Item = I>,
        key: impl Fn(&I) -> K,
        each: F,
    ) -> Result<Vec<O>, TaskError>
    where
        K: fmt::Display,
        F: Fn(Ctx, I) -> Fut,
        Fut: Future<Output = Result<O, TaskError>>,
    {
        let path = self.scope.call(name)?.id.clone();
        let (mut keys, mut branches) = (BTreeSet::new(), Vec::new());
        for item in items {
            let key = key(&item).to_string();
            let scope = Scope::new(extend(&path, &key, 1)?);
            if !keys.insert(key.clone()) {
                return Err(AppError::invalid(format!("two items of map \"{path}\" have the key \"{key}\"")).into());
            }
            branches.push(Some(Box::pin(each(Ctx { run: self.run.clone(), scope }, item))));
        }
        let mut results: Vec<Option<O>> = branches.iter().map(|_| None).collect();
        poll_fn(move |context| {
            let mut pending = false;
            for (branch, result) in branches.iter_mut().zip(&mut results) {
                match branch.as_mut().map(|branch| branch.as_mut().poll(context)) {
                    Some(Poll::Ready(done)) => {
                        *result = Some(done?);
                        *branch = None;
                    }
                    Some(Poll::Pending) => pending = true,
                    None => {}
                }
            }
            if pending { Poll::Pending } else { Poll::Ready(Ok(results.drain(..).flatten().collect())) }
        })
        .await
    }

    // Steps.

    /// What `body` returns, recorded once: replays return what was recorded.
    ///
    /// Without a policy a failure passes through unrecorded, and the task's decides when all is tried again. With
    /// [`StepCall::retry`] or [`StepCall::max_attempts`] the step tries again by itself, and the failure of the last
    /// attempt is recorded.
    ///
    /// # Errors
    /// Awaited: [`AppError::StepFailed`] if `body` failed; [`AppError::Value`] if its value is not JSON, or what is
    /// recorded is no `T`; and what all durable calls err with.
    pub fn step<T, F, Fut>(&self, name: &str, body: F) -> StepCall<'_, F>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<T, TaskError>> + Send,
        T: Serialize + DeserializeOwned + Send,
    {
        let policy = StepPolicy { retry: None, max_attempts: None, timeout: None, may_rerun: false };
        StepCall { ctx: self, name: name.to_owned(), body, policy }
    }

    /// The same in two halves, for code that cannot be a closure: what was recorded, or a step to complete.
    ///
    /// # Errors
    /// What all durable calls err with.
    pub async fn begin_step<T: DeserializeOwned>(&self, name: &str) -> Result<Begun<T>> {
        self.run.enter().await?;
        let calling = self.scope.call(name)?;
        match self.run.recall(&calling.id, "step")? {
            Some(step) => Ok(Begun::Done(step_value(&calling.id, &step)?)),
            None => Ok(Begun::Open(OpenStep { ctx: self.clone(), calling, may_rerun: false, value: PhantomData })),
        }
    }

    // Waits: the task is suspended and holds no slot.

    /// At least so long after this was first reached.
    ///
    /// # Errors
    /// What all durable calls err with.
    pub async fn sleep(&self, name: &str, span: Duration) -> Result<()> {
        self.run.enter().await?;
        self.timer(name, self.now_after(span)).await
    }

    /// Not before this moment, in milliseconds since 1970.
    ///
    /// # Errors
    /// What all durable calls err with.
    pub async fn sleep_until(&self, name: &str, at_ms: u64) -> Result<()> {
        self.run.enter().await?;
        self.timer(name, at_ms).await
    }

    async fn timer(&self, name: &str, until_ms: u64) -> Result<()> {
        let calling = self.scope.call(name)?;
        self.run.wait("timer", timer(calling.id.clone(), until_ms)).await?;
        Ok(())
    }

    /// The payload of the first event of this name in the task's queue, emitted before or after.
    ///
    /// # Errors
    /// Awaited: [`AppError::TimedOut`] after [`Waiting::timeout`], in every replay too; [`AppError::Value`] if the
    /// payload is no `T`; and what all durable calls err with.
    pub fn event<T: DeserializeOwned + Send + 'static>(&self, name: &str) -> Waiting<T> {
        let what = For::Event { event: name.to_owned(), step: format!("event:{name}") };
        Waiting { ctx: self.clone(), what, timeout: None, value: PhantomData }
    }

    // Other tasks and events.

    /// A child, spawned once by [`Spawning::send`].
    pub fn spawn(&self, name: &str, input: &(impl Serialize + ?Sized)) -> Spawning<Parent> {
        Spawning::of(Parent { ctx: self.clone(), step: format!("spawn:{name}") }, name, input)
    }

    /// Emits in the task's queue, once; of several events of one name the first stands.
    ///
    /// # Errors
    /// [`AppError::Value`] if the payload is not JSON; and what all durable calls err with.
    pub async fn emit(&self, name: &str, payload: &(impl Serialize + Sync + ?Sized)) -> Result<()> {
        self.run.enter().await?;
        let calling = self.scope.call(&format!("emit:{name}"))?;
        if self.run.recall(&calling.id, "emit")?.is_none() {
            let payload = Some(write(&payload, || format!("the payload of event \"{name}\""))?);
            let mut op = self.run.op(OpKind::Emit, Some(calling.id.clone()));
            (op.name, op.payload) = (Some(name.to_owned()), payload);
            self.run.record(op).await?;
        }
        Ok(())
    }

    // Signs of life.

    /// Lets a cancellation in. Not needed to keep the task: the worker beats by itself.
    ///
    /// # Errors
    /// [`AppError::Over`].
    pub async fn heartbeat(&self) -> Result<()> {
        self.show(None).await
    }

    /// Shows `progress` to who looks at the task while it runs: at most 64 KiB as JSON. `cairn task show` says a text as it
    /// is, `{"percent": 40}` and `{"done": 3, "total": 8}` as people say them.
    ///
    /// # Errors
    /// [`AppError::Value`] if it is not JSON; [`AppError::Refused`] of kind `TooLarge`; [`AppError::Over`].
    pub async fn progress(&self, progress: &(impl Serialize + Sync + ?Sized)) -> Result<()> {
        self.show(Some(write_within(&progress, PROGRESS_BYTES_MAX, || "progress".to_owned())?)).await
    }

    async fn show(&self, progress: Option<Json>) -> Result<()> {
        self.run.check()?;
        self.run.worker.pulse.progress(&self.run.task, &self.run.fence, progress);
        tokio::task::yield_now().await;
        self.run.check()
    }

    fn now_after(&self, span: Duration) -> u64 {
        self.app().clock_of_server().after(span)
    }
}

fn timer(key: String, until_ms: u64) -> Wait {
    Wait {
        key,
        group: None,
        kind: "timer".to_owned(),
        name: None,
        id: None,
        until_ms: Some(until_ms),
        timeout_at_ms: None,
    }
}

fn step_json(id: &str, value: &impl Serialize) -> Result<Json> {
    write(value, || format!("the value of step \"{id}\""))
}

fn step_value<T: DeserializeOwned>(id: &str, step: &Step) -> Result<T> {
    let failed = |failure| AppError::StepFailed { step: id.to_owned(), failure, recorded: true };
    outcome(step, || format!("step \"{id}\""), failed, || AppError::Over { why: "cancelled".to_owned() })
}

/// When a step is tried again, how long it may take, and whether its value is waited for.
#[derive(Clone, Copy, Debug)]
struct StepPolicy {
    retry: Option<Retry>,
    max_attempts: Option<u32>,
    timeout: Option<Duration>,
    may_rerun: bool,
}

/// A step to be awaited, from [`Ctx::step`].
#[must_use = "a step runs when it is awaited"]
pub struct StepCall<'a, F> {
    ctx: &'a Ctx,
    name: String,
    body: F,
    policy: StepPolicy,
}

impl<F> fmt::Debug for StepCall<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepCall").field("name", &self.name).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<'a, F> StepCall<'a, F> {
    /// It tries again by itself, 5 times in all unless said otherwise. A pause of more than five seconds suspends the
    /// task.
    pub fn retry(mut self, retry: Retry) -> StepCall<'a, F> {
        self.policy.retry = Some(retry);
        self
    }

    /// It tries so often by itself, from 1.
    pub fn max_attempts(mut self, max_attempts: u32) -> StepCall<'a, F> {
        self.policy.max_attempts = Some(max_attempts);
        self
    }

    /// An attempt that takes longer is dropped, and has failed.
    pub fn timeout(mut self, timeout: Duration) -> StepCall<'a, F> {
        self.policy.timeout = Some(timeout);
        self
    }

    /// The task goes on before the value is recorded. It goes in one request with the task's next durable call, or with
    /// its end: on the last step this spares one wait for the disk.
    ///
    /// What it gives up: if the worker or the server dies before that next call is answered, the step runs again,
    /// although it had returned and the task had gone on; so do all such steps since the last call that was answered, at
    /// most 16 of 1 MiB together. Their values may then be others. A refusal of the value by the server is an error of
    /// that next call. Of a failure under a policy nothing is given up.
    pub fn may_rerun(mut self) -> StepCall<'a, F> {
        self.policy.may_rerun = true;
        self
    }
}

impl<'a, T, F, Fut> IntoFuture for StepCall<'a, F>
where
    F: FnMut() -> Fut + Send + 'a,
    Fut: Future<Output = Result<T, TaskError>> + Send + 'a,
    T: Serialize + DeserializeOwned + Send + 'a,
{
    type Output = Result<T>;
    type IntoFuture = Boxed<'a, Result<T>>;

    fn into_future(self) -> Boxed<'a, Result<T>> {
        let StepCall { ctx, name, body, policy } = self;
        Box::pin(async move { ctx.run_step(&name, body, policy).await })
    }
}

impl Ctx {
    async fn run_step<T, F, Fut>(&self, name: &str, mut body: F, policy: StepPolicy) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, TaskError>>,
        T: Serialize + DeserializeOwned,
    {
        let run = &self.run;
        run.enter().await?;
        let StepPolicy { retry, max_attempts, timeout, may_rerun } = policy;
        if max_attempts == Some(0) {
            return Err(AppError::invalid("max_attempts of a step is at least 1"));
        }
        let by_itself = retry.is_some() || max_attempts.is_some();
        let (retry, max_attempts) = (retry.unwrap_or_default(), max_attempts.unwrap_or(MAX_ATTEMPTS));
        let calling = self.scope.call(name)?;
        let id = calling.id.as_str();
        if let Some(step) = run.recall(id, "step")? {
            return step_value(id, &step);
        }
        // Attempts before a durable pause are remembered by it; those of a worker that died in between are not. The next
        // attempt of the task begins to count again.
        let mut failed = run.last_pause(id);
        loop {
            if failed > 0 {
                self.pause(id, failed, retry).await?;
            }
            let working = run.working();
            run.worker.pulse.note(&run.task, &run.fence, id);
            let outcome = match timeout {
                Some(span) => tokio::time::timeout(span, in_step(id, body()))
                    .await
                    .unwrap_or_else(|_| Err(TaskError::new("timed_out", format!("it took longer than {span:?}")))),
                None => in_step(id, body()).await,
            };
            let failure = match outcome {
                Ok(value) => {
                    let value = step_json(id, &value)?;
                    return self.complete(id, value, may_rerun).await;
                }
                Err(error) => error.into_failure(),
            };
            failed += 1;
            let recorded = by_itself && (failed >= max_attempts || !failure.retryable);
            if recorded {
                let mut op = run.op(OpKind::Step, Some(id.to_owned()));
                op.failure = Some(failure.clone());
                run.record(op).await?;
            }
            if recorded || !by_itself {
                return Err(AppError::StepFailed { step: id.to_owned(), failure, recorded });
            }
            drop(working);
        }
    }

    /// Records the value of a step, now or with the next operation, and returns what replays will see of it.
    async fn complete<T: DeserializeOwned>(&self, id: &str, value: Json, may_rerun: bool) -> Result<T> {
        let run = &self.run;
        let op = Op { value: Some(value.clone()), ..run.op(OpKind::Step, Some(id.to_owned())) };
        if may_rerun {
            run.record_with_next(op).await?;
        } else {
            run.record(op).await?;
        }
        read(Some(&value), || format!("step \"{id}\""))
    }

    async fn pause(&self, id: &str, failed: u32, retry: Retry) -> Result<()> {
        let run = &self.run;
        let key = extend(id, &format!("retry:{}.{failed}", run.attempt), 1)?;
        let delay = retry.delay(failed, self.app().clock_of_server().env().random_u64());
        if run.recall(&key, "timer")?.is_none() && delay <= PAUSE_IN_PLACE_MAX {
            let _working = run.working();
            tokio::time::sleep(delay).await;
        } else {
            run.wait("timer", timer(key, self.now_after(delay))).await?;
        }
        run.check()
    }
}

/// What [`Ctx::begin_step`] comes to.
#[derive(Debug)]
pub enum Begun<T> {
    /// What was recorded: skip the body.
    Done(T),
    /// Nothing yet: do it, and complete this.
    Open(OpenStep<T>),
}

/// A step between its halves.
#[derive(Debug)]
pub struct OpenStep<T> {
    ctx: Ctx,
    calling: Calling,
    may_rerun: bool,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> OpenStep<T> {
    /// As [`StepCall::may_rerun`].
    pub fn may_rerun(mut self) -> OpenStep<T> {
        self.may_rerun = true;
        self
    }

    /// Records the value, and returns what replays will see of it.
    ///
    /// # Errors
    /// [`AppError::Value`] if it is not JSON; and what all durable calls err with.
    pub async fn complete(self, value: &T) -> Result<T> {
        let id = self.calling.id.as_str();
        let value = step_json(id, value)?;
        self.ctx.run.enter().await?;
        self.ctx.complete(id, value, self.may_rerun).await
    }
}

/// Something that a task waits for, to be awaited.
#[derive(Debug)]
#[must_use = "a task waits when this is awaited"]
pub struct Waiting<T> {
    ctx: Ctx,
    what: For,
    timeout: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

#[derive(Debug)]
enum For {
    Event { event: String, step: String },
    Child { id: String, key: String },
}

impl<T> Waiting<T> {
    /// Not longer than this. That it was too long is recorded.
    pub fn timeout(mut self, timeout: Duration) -> Waiting<T> {
        self.timeout = Some(timeout);
        self
    }
}

impl<T: DeserializeOwned + Send + 'static> IntoFuture for Waiting<T> {
    type Output = Result<T>;
    type IntoFuture = Boxed<'static, Result<T>>;

    fn into_future(self) -> Boxed<'static, Result<T>> {
        Box::pin(async move {
            let run = &self.ctx.run;
            run.enter().await?;
            let timeout_at_ms = self.timeout.map(|timeout| self.ctx.now_after(timeout));
            match self.what {
                For::Event { event, step } => {
                    let calling = self.ctx.scope.call(&step)?;
                    let wait = Wait {
                        kind: "event".to_owned(),
                        name: Some(event.clone()),
                        until_ms: None,
                        timeout_at_ms,
                        ..timer(calling.id.clone(), 0)
                    };
                    let step = run.wait("event", wait).await?;
                    let failed = |failure| AppError::StepFailed { step: event.clone(), failure, recorded: true };
                    let cancelled = || AppError::TimedOut { what: event.clone() };
                    outcome(&step, || format!("event \"{event}\""), failed, cancelled)
                }
                For::Child { id, key } => {
                    let wait = Wait {
                        kind: "task".to_owned(),
                        id: Some(id.clone()),
                        until_ms: None,
                        timeout_at_ms,
                        ..timer(key, 0)
                    };
                    let step = run.wait("task", wait).await?;
                    let failed = |failure| AppError::TaskFailed { task: id.clone(), failure };
                    let cancelled = || AppError::TaskCancelled { task: id.clone() };
                    outcome(&step, || format!("the result of task {id}"), failed, cancelled)
                }
            }
        })
    }
}

/// A task that spawns another.
#[derive(Clone, Debug)]
pub struct Parent {
    ctx: Ctx,
    step: String,
}

impl Spawning<Parent> {
    /// The name of the durable call; "spawn:{task}" unless said otherwise.
    pub fn named(mut self, step: impl Into<String>) -> Self {
        self.by.step = step.into();
        self
    }

    /// Spawns it, once, however often the task is replayed.
    ///
    /// # Errors
    /// [`AppError::Value`] if the input is not JSON; [`AppError::Refused`], as for a queue that does not exist; and
    /// what all durable calls err with.
    pub async fn send(self) -> Result<Child> {
        let (Parent { ctx, step }, options) = self.split();
        let run = &ctx.run;
        run.enter().await?;
        let calling = ctx.scope.call(&step)?;
        let key = calling.id.clone();
        if let Some(found) = run.recall(&key, "spawn")? {
            let id = read(found.value.as_deref(), || format!("the child of \"{key}\""))?;
            return Ok(Child { id, key, ctx: ctx.clone() });
        }
        let (id, spawn) = ctx.app().outgoing(options)?;
        let mut op = run.op(OpKind::Spawn, Some(key.clone()));
        op.spawn = Some(Box::new(spawn));
        let ack = run.record(op).await?;
        Ok(Child { id: ack.id.unwrap_or(id), key, ctx: ctx.clone() })
    }
}

/// A task that was spawned by this one.
#[derive(Clone, Debug)]
pub struct Child {
    id: String,
    key: String,
    ctx: Ctx,
}

impl Child {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its output. Until then the task is suspended and holds no slot.
    ///
    /// # Errors
    /// Awaited: [`AppError::TaskFailed`], [`AppError::TaskCancelled`]; [`AppError::TimedOut`], and the child itself
    /// runs on then; [`AppError::Value`] if the output is no `T`; and what all durable calls err with.
    pub fn result<T: DeserializeOwned + Send + 'static>(&self) -> Waiting<T> {
        let what = For::Child { id: self.id.clone(), key: format!("{}/result", self.key) };
        Waiting { ctx: self.ctx.clone(), what, timeout: None, value: PhantomData }
    }
}
