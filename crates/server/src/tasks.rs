//! The routes of tasks: from the wire to [`cairn_durable::Tasks`] and back.
//!
//! Every call that touches the store runs on a blocking thread; waiting for the disk, for work and for ends is
//! done on the runtime. A call that waits is answered early when the server stops.

use std::future::Future;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use cairn::Db;
use cairn_api::tasks as wire;
use cairn_api::{ErrorBody, ErrorKind, Route};
use cairn_durable::call::{Ack, Op, OpKind, Spawn, Spawned, Work};
use cairn_durable::id::TaskId;
use cairn_durable::queue::{Event, Queue, QueueStatus};
use cairn_durable::retry::Retry;
use cairn_durable::step::{Outcome, Step, StepId, StepKind};
use cairn_durable::task::{Cancellation, EndedRun, Ending, Failure, Fence, RunStatus, State, Status};
use cairn_durable::wait::{Target, Wait};
use cairn_durable::worker::{BEAT, Hello, LEASE, SessionId, Signal, WorkerInfo};
use cairn_durable::{Answer, Tasks, View};
use hyper::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::body::Upload;
use crate::dispatch::App;
use crate::reply::{Refusal, Reply};

/// A body has at most so many bytes.
const BODY_BYTES_MAX: usize = 16 << 20;
/// A list has so many entries if nothing else is said, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// Answers a request about tasks.
pub(crate) async fn route(
    app: &Arc<App>,
    method: &Method,
    headers: &HeaderMap,
    route: Route,
    upload: &mut Upload,
) -> Result<Reply, Refusal> {
    if let Some(version) = headers.get(wire::PROTOCOL_HEADER)
        && version != wire::PROTOCOL
    {
        let text = format!("this server speaks protocol {}, not {version:?}", wire::PROTOCOL);
        return Err(Refusal::new(ErrorKind::UnsupportedProtocol, text));
    }
    let (gets, puts, posts) = (*method == Method::GET, *method == Method::PUT, *method == Method::POST);
    match route {
        Route::Tasks(_) if posts => spawn(app, body(app, upload).await?).await,
        Route::Tasks(_) if gets => Err(not_built("lists of tasks")),
        Route::Tasks(_) => Err(Refusal::method("GET, POST")),
        Route::Task(id) if gets => show(app, task_id(&id)?).await,
        Route::Result(id, wait_ms) if gets => result(app, task_id(&id)?, wait_ms).await,
        Route::Steps(id, paging) if gets => steps(app, task_id(&id)?, paging).await,
        Route::Runs(id) if gets => runs(app, task_id(&id)?).await,
        Route::Queues if gets => queues(app).await,
        Route::Queue(name) if gets => queue(app, name).await,
        Route::Queue(name) if puts => set_queue(app, name, body(app, upload).await?).await,
        Route::Queue(_) => Err(Refusal::method("GET, PUT")),
        Route::Event(queue, name) if gets => event(app, queue, name).await,
        Route::Workers if gets => workers(app).await,
        Route::Task(_)
        | Route::Result(..)
        | Route::Steps(..)
        | Route::Runs(_)
        | Route::Queues
        | Route::Event(..)
        | Route::Workers => Err(Refusal::method("GET")),
        Route::NotBuilt(what) => Err(not_built(what)),
        Route::Cancel(_)
        | Route::Retry(_)
        | Route::Pause(_)
        | Route::Resume(_)
        | Route::Events(_)
        | Route::Hello
        | Route::Poll
        | Route::Beat
        | Route::Ops
        | Route::Bye
        | Route::Clock
            if !posts =>
        {
            Err(Refusal::method("POST"))
        }
        Route::Cancel(id) => cancel(app, task_id(&id)?, body(app, upload).await?).await,
        Route::Retry(id) => retry(app, task_id(&id)?, body(app, upload).await?).await,
        Route::Pause(name) => pause(app, name, QueueStatus::Paused).await,
        Route::Resume(name) => pause(app, name, QueueStatus::Active).await,
        Route::Events(queue) => emit(app, queue, body(app, upload).await?).await,
        Route::Hello => hello(app, body(app, upload).await?).await,
        Route::Poll => poll(app, body(app, upload).await?).await,
        Route::Beat => beat(app, body(app, upload).await?).await,
        Route::Ops => ops(app, body(app, upload).await?).await,
        Route::Bye => bye(app, body(app, upload).await?).await,
        Route::Clock => clock(app, body(app, upload).await?).await,
    }
}

fn not_built(what: &str) -> Refusal {
    Refusal::new(ErrorKind::NotBuilt, format!("this build has no {what} yet"))
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorKind::Invalid, message)
}

/// A body of JSON; one that is empty is an empty object.
async fn body<T: DeserializeOwned>(app: &App, upload: &mut Upload) -> Result<T, Refusal> {
    let body = upload.read(BODY_BYTES_MAX.min(app.limits.body_bytes_max), &app.budget).await?;
    let bytes: &[u8] = if body.bytes.is_empty() { b"{}" } else { &body.bytes };
    serde_json::from_slice(bytes).map_err(|e| invalid(format!("the body cannot be read: {e}")))
}

/// Makes a call on a blocking thread, and waits until what it answers may be told.
async fn call<T: Send + Unpin + 'static>(
    app: &App,
    call: impl FnOnce(&Tasks<Db>) -> Answer<Db, T> + Send + 'static,
) -> Result<T, Refusal> {
    let tasks = app.tasks.clone();
    let answer = app.blocking.run(move || call(&tasks)).await?;
    Ok(answer.await?)
}

impl From<cairn_durable::Error> for Refusal {
    fn from(error: cairn_durable::Error) -> Refusal {
        Refusal::new(kind_of(&error), error.to_string())
    }
}

fn kind_of(error: &cairn_durable::Error) -> ErrorKind {
    use cairn_durable::ErrorKind as Kind;
    match error.kind() {
        Kind::Invalid => ErrorKind::Invalid,
        Kind::NotFound => ErrorKind::NotFound,
        Kind::Conflict => ErrorKind::Conflict,
        Kind::TooLarge => ErrorKind::TooLarge,
        Kind::StaleFence => ErrorKind::StaleFence,
        Kind::Cancelled => ErrorKind::Cancelled,
        Kind::Gone => ErrorKind::Gone,
        Kind::Busy => ErrorKind::Busy,
        Kind::Full => ErrorKind::Full,
        Kind::Closed => ErrorKind::Closed,
        Kind::Unknown => ErrorKind::Unknown,
        Kind::Corrupt => ErrorKind::Corrupt,
        Kind::Io => ErrorKind::Io,
    }
}

fn error_body(error: &cairn_durable::Error) -> ErrorBody {
    ErrorBody::new(kind_of(error), error.to_string())
}

// From the wire.

fn task_id(text: &str) -> Result<TaskId, Refusal> {
    text.parse().map_err(|what| invalid(format!("the task's id \"{}\": {what}", text.escape_debug())))
}

fn fence(text: &str) -> Result<Fence, Refusal> {
    let parse = || {
        let (instance, count) = text.split_once('-')?;
        Some(Fence { instance: u64::from_str_radix(instance, 16).ok()?, count: u64::from_str_radix(count, 16).ok()? })
    };
    parse().ok_or_else(|| invalid("the fence is none that a server gave"))
}

fn session(text: &str) -> Result<SessionId, Refusal> {
    let gone = |_| Refusal::new(ErrorKind::Gone, "this session is none that a server gave; say hello");
    u128::from_str_radix(text, 16).map(SessionId).map_err(gone)
}

fn step_id(text: &str) -> Result<StepId, Refusal> {
    StepId::new(text).map_err(invalid)
}

fn json(value: wire::Json) -> cairn_durable::task::Json {
    Box::<str>::from(value).into_boxed_bytes()
}

fn spawn_of(spawn: wire::Spawn, now_ms: u64) -> Result<Spawn, Refusal> {
    if spawn.limit_key.is_some() {
        return Err(not_built("limits"));
    }
    if spawn.pin.is_some() {
        return Err(not_built("pins"));
    }
    let due_ms = match (spawn.due_at_ms, spawn.delay_ms) {
        (Some(_), Some(_)) => return Err(invalid("due_at_ms and delay_ms say the same in two ways; give one")),
        (due_at_ms, None) => due_at_ms,
        (None, Some(delay_ms)) => Some(now_ms.saturating_add(delay_ms)),
    };
    let headers = spawn.headers.map_or_else(|| Box::from(*b"{}"), json);
    if !headers.starts_with(b"{") {
        return Err(invalid("headers must be an object"));
    }
    let base = Spawn::new(&spawn.name, &json(spawn.input));
    let cancel = spawn.cancel.unwrap_or_default();
    Ok(Spawn {
        id: spawn.id.as_deref().map(task_id).transpose()?,
        queue: spawn.queue.unwrap_or_else(|| base.queue.clone()),
        headers,
        tags: spawn.tags.into_iter().collect(),
        idempotency_key: spawn.idempotency_key,
        due_ms,
        priority: spawn.priority.unwrap_or(base.priority),
        retry: spawn.retry.map_or(base.retry, retry_of),
        max_attempts: spawn.max_attempts.unwrap_or(base.max_attempts),
        max_lost: spawn.max_lost.unwrap_or(base.max_lost),
        cancellation: Cancellation { max_delay_ms: cancel.max_delay_ms, max_duration_ms: cancel.max_duration_ms },
        ..base
    })
}

fn retry_of(retry: wire::Retry) -> Retry {
    let wire::Retry { kind, base_ms, factor, max_ms, jitter } = retry;
    match kind {
        wire::RetryKind::None => Retry::None,
        wire::RetryKind::Fixed => Retry::Fixed { base_ms, jitter },
        wire::RetryKind::Exponential => Retry::Exponential { base_ms, factor, max_ms, jitter },
    }
}

fn failure_of(failure: wire::Failure) -> Failure {
    let wire::Failure { kind, message, detail, retryable } = failure;
    Failure { kind, message, detail: detail.map(json), retryable }
}

fn wait_of(wait: wire::Wait) -> Result<Wait, Refusal> {
    let lacks = |field: &str| invalid(format!("a wait of kind {} needs {field}", wait.kind));
    let target = match wait.kind.as_str() {
        "timer" => Target::Timer(wait.until_ms.ok_or_else(|| lacks("until_ms"))?),
        "event" => Target::Event(wait.name.clone().ok_or_else(|| lacks("name"))?),
        "task" => Target::Task(task_id(wait.id.as_deref().ok_or_else(|| lacks("id"))?)?),
        "promise" => return Err(not_built("promises")),
        _ => return Err(invalid(format!("\"{}\" is no kind of wait", wait.kind.escape_debug()))),
    };
    Ok(Wait { id: step_id(&wait.key)?, group: wait.group, target, timeout_at_ms: wait.timeout_at_ms })
}

fn op_of(op: wire::Op, now_ms: u64) -> Result<Op, Refusal> {
    let (task, fence) = (task_id(&op.task)?, fence(&op.fence)?);
    let key = |key: Option<String>| {
        let key = key.ok_or_else(|| invalid("this op needs key"))?;
        step_id(&key)
    };
    let lacks = |field: &str| invalid(format!("this op needs {field}"));
    let what = match op.op {
        wire::OpKind::Step => OpKind::Step {
            id: key(op.key)?,
            outcome: match (op.value, op.failure) {
                (Some(value), None) => Outcome::Value(json(value)),
                (None, Some(failure)) => Outcome::Failed { failure: failure_of(failure), retry_at_ms: op.retry_at_ms },
                _ => return Err(invalid("a step has a value or a failure, one of them")),
            },
        },
        wire::OpKind::Spawn => {
            let spawn = op.spawn.ok_or_else(|| lacks("spawn"))?;
            OpKind::Spawn { id: key(op.key)?, spawn: Box::new(spawn_of(*spawn, now_ms)?) }
        }
        wire::OpKind::Emit => OpKind::Emit {
            id: key(op.key)?,
            name: op.name.ok_or_else(|| lacks("name"))?,
            payload: json(op.payload.ok_or_else(|| lacks("payload"))?),
        },
        wire::OpKind::Suspend => {
            let waits = op.waits.ok_or_else(|| lacks("waits"))?;
            OpKind::Suspend(waits.into_iter().map(wait_of).collect::<Result<_, Refusal>>()?)
        }
        wire::OpKind::Finish => match (op.output, op.failure) {
            (Some(output), None) => OpKind::Finish(json(output)),
            (None, Some(failure)) => OpKind::Fail { failure: failure_of(failure), retry_at_ms: op.retry_at_ms },
            _ => return Err(invalid("a task ends with an output or a failure, one of them")),
        },
        wire::OpKind::Release => OpKind::Release { due_ms: op.due_at_ms },
    };
    Ok(Op { task, fence, what })
}

// To the wire.

fn raw(json: &[u8]) -> wire::Json {
    // It was parsed when it came; a damaged record is shown as nothing rather than as an answer that does not parse.
    let text = String::from_utf8_lossy(json).into_owned();
    serde_json::value::RawValue::from_string(text).unwrap_or_default()
}

fn fence_text(fence: Fence) -> String {
    format!("{:016x}-{:x}", fence.instance, fence.count)
}

fn failure_to(failure: &Failure) -> wire::Failure {
    let Failure { kind, message, detail, retryable } = failure.clone();
    wire::Failure { kind, message, detail: detail.as_deref().map(raw), retryable }
}

fn spawned_to(spawned: Spawned) -> wire::Spawned {
    wire::Spawned {
        id: spawned.id.to_string(),
        run_id: spawned.run.to_string(),
        created: spawned.created,
        status: spawned.state.name().to_owned(),
    }
}

fn kind_name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Step => "step",
        StepKind::Spawn => "spawn",
        StepKind::Emit => "emit",
        StepKind::Timer => "timer",
        StepKind::Event => "event",
        StepKind::Task => "task",
    }
}

fn step_to(id: &StepId, step: &Step) -> wire::Step {
    let (outcome, value, failure, retry_at_ms) = match &step.outcome {
        Outcome::Value(value) => ("value", Some(raw(value)), None, None),
        Outcome::Failed { failure, retry_at_ms } => ("failed", None, Some(failure_to(failure)), *retry_at_ms),
        Outcome::Cancelled => ("cancelled", None, None, None),
        Outcome::TimedOut => ("timed_out", None, None, None),
    };
    wire::Step {
        key: id.as_str().to_owned(),
        seq: step.seq,
        kind: kind_name(step.kind).to_owned(),
        status: if outcome == "value" { "done" } else { "failed" }.to_owned(),
        outcome: outcome.to_owned(),
        value,
        failure,
        retry_at_ms,
        attempt: step.attempt,
        at_ms: step.at_ms,
    }
}

fn steps_to(steps: &[(StepId, Step)]) -> Vec<wire::Step> {
    steps.iter().map(|(id, step)| step_to(id, step)).collect()
}

fn run_to(ended: &EndedRun) -> wire::Run {
    let (status, failure) = match &ended.status {
        RunStatus::Done => ("done", None),
        RunStatus::Failed(failure) => ("failed", Some(failure_to(failure))),
        RunStatus::Lost => ("lost", None),
        RunStatus::Cancelled => ("cancelled", None),
    };
    wire::Run {
        run_id: ended.run.id.to_string(),
        attempt: ended.run.attempt,
        status: status.to_owned(),
        started_at_ms: ended.run.started_ms,
        ended_at_ms: ended.ended_ms,
        failure,
    }
}

fn reasons(view: &View, now_ms: u64, paused: bool) -> Vec<wire::Reason> {
    let reason =
        |kind: &str, until_ms: Option<u64>| wire::Reason { kind: kind.to_owned(), key: None, name: None, until_ms };
    match view.task.status {
        Status::Queued { due_ms } if due_ms > now_ms => vec![reason("due", Some(due_ms))],
        Status::Queued { .. } if paused => vec![reason("queue_paused", None)],
        Status::Queued { .. } if view.no_worker => vec![reason("no_worker", None)],
        Status::Waiting { .. } => {
            let of = |wait: &Wait| {
                let (kind, name, until_ms) = match &wait.target {
                    Target::Timer(until_ms) => ("timer", None, Some(*until_ms)),
                    Target::Event(name) => ("event", Some(name.clone()), wait.timeout_at_ms),
                    Target::Task(id) => ("task", Some(id.to_string()), wait.timeout_at_ms),
                };
                wire::Reason { kind: kind.to_owned(), key: Some(wait.id.as_str().to_owned()), name, until_ms }
            };
            view.waits.iter().map(of).collect()
        }
        Status::Queued { .. }
        | Status::Running { .. }
        | Status::Completed { .. }
        | Status::Failed { .. }
        | Status::Cancelled { .. } => Vec::new(),
    }
}

fn failure_in(status: &Status) -> Option<wire::Failure> {
    match status {
        Status::Failed { failure, .. } => Some(failure_to(failure)),
        Status::Cancelled { reason, .. } => Some(wire::Failure {
            kind: "cancelled".to_owned(),
            message: reason.clone(),
            detail: None,
            retryable: false,
        }),
        Status::Queued { .. } | Status::Running { .. } | Status::Waiting { .. } | Status::Completed { .. } => None,
    }
}

fn task_to(view: &View, now_ms: u64, paused: bool) -> wire::Task {
    let (spec, task) = (&view.spec, &view.task);
    let (due_at_ms, ended_at_ms) = match task.status {
        Status::Queued { due_ms } => (Some(due_ms), None),
        Status::Completed { ended_ms } | Status::Failed { ended_ms, .. } | Status::Cancelled { ended_ms, .. } => {
            (None, Some(ended_ms))
        }
        Status::Running { .. } | Status::Waiting { .. } => (None, None),
    };
    wire::Task {
        id: view.id.to_string(),
        queue: spec.queue.clone(),
        name: spec.name.clone(),
        status: task.status.state().name().to_owned(),
        run_id: task.run.id.to_string(),
        attempt: task.run.attempt,
        max_attempts: task.max_attempts,
        lost: task.lost,
        input: raw(&spec.input),
        output: view.output.as_deref().map(raw),
        failure: failure_in(&task.status),
        headers: raw(&spec.headers),
        tags: spec.tags.iter().cloned().collect(),
        parent: spec.parent.map(|parent| parent.to_string()),
        created_at_ms: spec.created_ms,
        due_at_ms,
        started_at_ms: task.first_started_ms,
        ended_at_ms,
        waiting: reasons(view, now_ms, paused),
    }
}

fn queue_to(name: &str, queue: &Queue) -> wire::Queue {
    wire::Queue {
        name: name.to_owned(),
        status: match queue.status {
            QueueStatus::Active => "active",
            QueueStatus::Paused => "paused",
        }
        .to_owned(),
        retention_days: queue.retention_days,
        event_ttl_ms: queue.event_ttl_ms,
        max_waiting: queue.max_waiting,
    }
}

fn work_to(work: &Work) -> wire::Work {
    wire::Work {
        task: work.id.to_string(),
        run_id: work.run.to_string(),
        attempt: work.attempt,
        fence: fence_text(work.fence),
        name: work.spec.name.clone(),
        queue: work.spec.queue.clone(),
        input: raw(&work.spec.input),
        headers: raw(&work.spec.headers),
        steps: steps_to(&work.steps),
        steps_next: work.steps.last().filter(|_| work.more_steps).map(|(id, _)| id.as_str().to_owned()),
        lease_ms: millis(LEASE),
    }
}

fn signal_to(signal: &Signal) -> wire::Signal {
    let kind = match signal.by {
        Ending::Cancelled => "cancel",
        Ending::Lost | Ending::Completed | Ending::Failed | Ending::Suspended | Ending::Released => "lost",
    };
    wire::Signal { task: signal.task.to_string(), fence: fence_text(signal.fence), kind: kind.to_owned() }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

// The calls.

async fn spawn(app: &App, request: wire::SpawnRequest) -> Result<Reply, Refusal> {
    if request.atomic {
        return Err(not_built("atomic spawns"));
    }
    let now_ms = app.tasks.now_ms();
    let parsed: Vec<Result<Spawn, Refusal>> = request.tasks.into_iter().map(|spawn| spawn_of(spawn, now_ms)).collect();
    // One that cannot be read is refused in its place; the others go on.
    let (spawns, places): (Vec<Spawn>, Vec<Option<Refusal>>) = {
        let mut spawns = Vec::new();
        let mut places = Vec::new();
        for spawn in parsed {
            match spawn {
                Ok(spawn) => {
                    spawns.push(spawn);
                    places.push(None);
                }
                Err(refusal) => places.push(Some(refusal)),
            }
        }
        (spawns, places)
    };
    let mut spawned = call(app, move |tasks| tasks.spawn(&spawns)).await?.into_iter();
    let each = |place: Option<Refusal>| match place {
        Some(refusal) => Some(wire::Each::Refused(refusal.into_body())),
        None => spawned.next().map(|spawned| match spawned {
            Ok(spawned) => wire::Each::Done(spawned_to(spawned)),
            Err(e) => wire::Each::Refused(error_body(&e)),
        }),
    };
    Reply::json(&wire::Results { results: places.into_iter().filter_map(each).collect::<Vec<_>>() })
}

async fn show(app: &App, id: TaskId) -> Result<Reply, Refusal> {
    let view = call(app, move |tasks| tasks.get(id)).await?;
    show_view(app, view).await
}

async fn show_view(app: &App, view: View) -> Result<Reply, Refusal> {
    let queues = call(app, Tasks::queues).await?;
    let paused = queues.iter().any(|(name, queue)| *name == view.spec.queue && queue.status == QueueStatus::Paused);
    Reply::json(&task_to(&view, app.tasks.now_ms(), paused))
}

async fn result(app: &App, id: TaskId, wait_ms: u64) -> Result<Reply, Refusal> {
    let until = Instant::now() + Duration::from_millis(wait_ms.min(wire::WAIT_MS_MAX));
    let ended = until_stopped(app, timeout_at(until, app.tasks.ended(id))).await;
    let view = match ended {
        Some(Ok(view)) => view?,
        Some(Err(_)) | None => call(app, move |tasks| tasks.get(id)).await?,
    };
    Reply::json(&wire::TaskResult {
        status: view.task.status.state().name().to_owned(),
        output: view.output.as_deref().map(raw),
        failure: failure_in(&view.task.status),
    })
}

/// What a future comes to, or nothing if the server stops first.
async fn until_stopped<F: Future>(app: &App, future: F) -> Option<F::Output> {
    let mut stopping = app.stopping.clone();
    tokio::select! {
        output = future => Some(output),
        _ = stopping.wait_for(|stopping| *stopping) => None,
    }
}

async fn steps(app: &App, id: TaskId, paging: cairn_api::Paging) -> Result<Reply, Refusal> {
    let after = paging.after.as_deref().map(step_id).transpose()?;
    let limit = paging.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let (steps, more) = call(app, move |tasks| tasks.steps(id, after.as_ref(), limit)).await?;
    let next = steps.last().filter(|_| more).map(|(id, _)| id.as_str().to_owned());
    Reply::json(&wire::Page { items: steps_to(&steps), next })
}

async fn runs(app: &App, id: TaskId) -> Result<Reply, Refusal> {
    let runs = call(app, move |tasks| tasks.runs(id)).await?;
    Reply::json(&wire::Page { items: runs.iter().map(run_to).collect::<Vec<_>>(), next: None })
}

async fn cancel(app: &App, id: TaskId, request: wire::CancelRequest) -> Result<Reply, Refusal> {
    let reason = request.reason.unwrap_or_else(|| "cancelled by request".to_owned());
    let view = call(app, move |tasks| tasks.cancel(id, &reason)).await?;
    show_view(app, view).await
}

async fn retry(app: &App, id: TaskId, request: wire::RetryRequest) -> Result<Reply, Refusal> {
    match request.mode {
        wire::RetryMode::InPlace => {
            let view = call(app, move |tasks| tasks.retry(id, request.extra_attempts)).await?;
            show_view(app, view).await
        }
        wire::RetryMode::New => {
            let view = call(app, move |tasks| tasks.get(id)).await?;
            if view.task.status.state() != State::Failed {
                return Err(Refusal::new(ErrorKind::Conflict, format!("task {id}: only a failed task can be retried")));
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
            let spawned = call(app, move |tasks| tasks.spawn(&[spawn])).await?;
            match spawned.into_iter().next() {
                Some(spawned) => show(app, spawned?.id).await,
                None => Err(Refusal::new(ErrorKind::Internal, "a spawn without a result")),
            }
        }
    }
}

async fn queues(app: &App) -> Result<Reply, Refusal> {
    let queues = call(app, Tasks::queues).await?;
    let items = queues.iter().map(|(name, queue)| queue_to(name, queue)).collect::<Vec<_>>();
    Reply::json(&wire::Page { items, next: None })
}

async fn find_queue(app: &App, name: &str) -> Result<Option<Queue>, Refusal> {
    let queues = call(app, Tasks::queues).await?;
    Ok(queues.into_iter().find(|(known, _)| known == name).map(|(_, queue)| queue))
}

async fn queue(app: &App, name: String) -> Result<Reply, Refusal> {
    match find_queue(app, &name).await? {
        Some(queue) => Reply::json(&queue_to(&name, &queue)),
        None => Err(no_queue(&name)),
    }
}

fn no_queue(name: &str) -> Refusal {
    Refusal::new(ErrorKind::NotFound, format!("there is no queue \"{}\"", name.escape_debug()))
}

async fn set_queue(app: &App, name: String, request: wire::QueueRequest) -> Result<Reply, Refusal> {
    let before = find_queue(app, &name).await?.unwrap_or_default();
    let queue = Queue {
        retention_days: request.retention_days.unwrap_or(before.retention_days),
        event_ttl_ms: request.event_ttl_ms.unwrap_or(before.event_ttl_ms),
        max_waiting: request.max_waiting.or(before.max_waiting),
        ..before
    };
    keep_queue(app, name, queue).await
}

async fn pause(app: &App, name: String, status: QueueStatus) -> Result<Reply, Refusal> {
    let before = find_queue(app, &name).await?.ok_or_else(|| no_queue(&name))?;
    keep_queue(app, name, Queue { status, ..before }).await
}

async fn keep_queue(app: &App, name: String, queue: Queue) -> Result<Reply, Refusal> {
    let reply = Reply::json(&queue_to(&name, &queue))?;
    call(app, move |tasks| tasks.set_queue(&name, queue)).await?;
    Ok(reply)
}

async fn emit(app: &App, queue: String, request: wire::EmitRequest) -> Result<Reply, Refusal> {
    let mut results = Vec::with_capacity(request.events.len());
    for event in request.events {
        let queue = queue.clone();
        let emitted = call(app, move |tasks| tasks.emit(&queue, &event.name, event.payload.get().as_bytes())).await;
        results.push(match emitted {
            Ok(created) => wire::Each::Done(wire::Emitted { created }),
            Err(refusal) => wire::Each::Refused(refusal.into_body()),
        });
    }
    Reply::json(&wire::Results { results })
}

async fn event(app: &App, queue: String, name: String) -> Result<Reply, Refusal> {
    let asked = name.clone();
    match call(app, move |tasks| tasks.event(&queue, &asked)).await? {
        Some(Event { at_ms, payload }) => Reply::json(&wire::Event { name, payload: raw(&payload), at_ms }),
        None => Err(Refusal::new(ErrorKind::NotFound, format!("no event \"{}\" was emitted", name.escape_debug()))),
    }
}

async fn workers(app: &App) -> Result<Reply, Refusal> {
    let worker = |info: WorkerInfo| wire::Worker {
        name: info.hello.name,
        sdk: info.hello.sdk,
        tasks: info.hello.tasks.into_iter().collect(),
        queues: info.hello.queues.into_iter().collect(),
        slots: info.hello.slots,
        held: info.held.iter().map(ToString::to_string).collect(),
        silent_ms: millis(info.silent),
    };
    let items = app.tasks.workers().into_iter().map(worker).collect::<Vec<_>>();
    Reply::json(&wire::Page { items, next: None })
}

async fn hello(app: &App, request: wire::Hello) -> Result<Reply, Refusal> {
    let live = request.live.iter().map(|held| Ok((task_id(&held.task)?, fence(&held.fence)?)));
    let live = live.collect::<Result<Vec<_>, Refusal>>()?;
    let hello = Hello {
        name: request.name,
        sdk: request.sdk,
        tasks: request.tasks.into_iter().map(|offer| offer.name).collect(),
        queues: request.queues.into_iter().collect(),
        slots: request.slots,
    };
    let welcome = call(app, move |tasks| tasks.hello(hello, &live)).await?;
    Reply::json(&wire::Welcome {
        session: format!("{:032x}", welcome.session.0),
        lease_ms: millis(LEASE),
        beat_ms: millis(BEAT),
        now_ms: app.tasks.now_ms(),
        kept: welcome.kept.iter().map(ToString::to_string).collect(),
        stop: welcome.stop.iter().map(ToString::to_string).collect(),
    })
}

/// Rings on the runtime.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

async fn poll(app: &App, request: wire::Poll) -> Result<Reply, Refusal> {
    let session = session(&request.session)?;
    let free = usize::try_from(request.free).unwrap_or(usize::MAX);
    let until = Instant::now() + Duration::from_millis(request.wait_ms.min(wire::WAIT_MS_MAX));
    let bell = Arc::new(Bell(Notify::new()));
    loop {
        let waker = Waker::from(bell.clone());
        let (work, signals) = call(app, move |tasks| tasks.take_or_park(session, free, Some(&waker))).await?;
        let rung = !work.is_empty()
            || !signals.is_empty()
            || !matches!(until_stopped(app, timeout_at(until, bell.0.notified())).await, Some(Ok(())));
        if rung {
            return Reply::json(&wire::Polled {
                work: work.iter().map(work_to).collect(),
                signals: signals.iter().map(signal_to).collect(),
                now_ms: app.tasks.now_ms(),
            });
        }
    }
}

async fn beat(app: &App, request: wire::Beat) -> Result<Reply, Refusal> {
    let session = session(&request.session)?;
    let signals = call(app, move |tasks| tasks.beat(session)).await?;
    Reply::json(&wire::Beaten { signals: signals.iter().map(signal_to).collect(), now_ms: app.tasks.now_ms() })
}

async fn bye(app: &App, request: wire::Bye) -> Result<Reply, Refusal> {
    let session = session(&request.session)?;
    call(app, move |tasks| tasks.bye(session)).await?;
    Reply::json(&serde_json::json!({}))
}

async fn ops(app: &App, request: wire::OpsRequest) -> Result<Reply, Refusal> {
    let session = session(&request.session)?;
    let now_ms = app.tasks.now_ms();
    let ops = request.ops.into_iter().map(|op| op_of(op, now_ms)).collect::<Result<Vec<_>, Refusal>>()?;
    let acks = call(app, move |tasks| tasks.ops(session, ops)).await?;
    let claim = usize::try_from(request.claim).unwrap_or(usize::MAX);
    let (work, signals) = call(app, move |tasks| tasks.take(session, claim)).await?;
    let ack = |ack: cairn_durable::Result<Ack>| match ack {
        Ok(Ack::Done) => wire::Ack { ok: true, ..Default::default() },
        Ok(Ack::Spawned(Spawned { id, created, .. })) => {
            wire::Ack { ok: true, id: Some(id.to_string()), created: Some(created), ..Default::default() }
        }
        Ok(Ack::Emitted { created }) => wire::Ack { ok: true, created: Some(created), ..Default::default() },
        Ok(Ack::Suspended(resumed)) => wire::Ack { ok: true, resumed: Some(steps_to(&resumed)), ..Default::default() },
        Err(e) => wire::Ack { ok: false, error: Some(error_body(&e).into()), ..Default::default() },
    };
    Reply::json(&wire::OpsResponse {
        acks: acks.into_iter().map(ack).collect(),
        work: work.iter().map(work_to).collect(),
        signals: signals.iter().map(signal_to).collect(),
        now_ms: app.tasks.now_ms(),
    })
}

/// `POST /v1/test/clock`.
#[derive(Debug, Default)]
struct Clock {
    advance_ms: u64,
}

async fn clock(app: &App, request: serde_json::Value) -> Result<Reply, Refusal> {
    if !app.test_clock {
        return Err(Refusal::new(ErrorKind::NotFound, "the clock can only be set of a server with --test-clock"));
    }
    let clock = match (request.get("advance_ms"), request.get("set_ms")) {
        (Some(by), None) => Clock { advance_ms: by.as_u64().ok_or_else(|| invalid("advance_ms must be a number"))? },
        (None, Some(to)) => {
            let to_ms = to.as_u64().ok_or_else(|| invalid("set_ms must be a number"))?;
            let now_ms = app.tasks.now_ms();
            let behind = || invalid(format!("the clock only goes forward; it says {now_ms}"));
            Clock { advance_ms: to_ms.checked_sub(now_ms).ok_or_else(behind)? }
        }
        _ => return Err(invalid("give advance_ms or set_ms, one of them")),
    };
    let now_ms = app.tasks.advance_clock(clock.advance_ms);
    Reply::json(&serde_json::json!({ "now_ms": now_ms }))
}
