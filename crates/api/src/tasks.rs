//! Tasks on the wire: what clients and workers say, and what they are told.
//!
//! ```text
//! POST /v1/tasks {tasks:[Spawn],atomic:false} -> {results:[{id,run_id,created,status}|{error}]}
//! GET  /v1/tasks?queue&name&status&tag&after&limit -> {items:[Task],next?}
//! GET  /v1/tasks/{id} -> Task                  GET /v1/tasks/{id}/result?wait_ms -> {status,output?|failure?}
//! GET  /v1/tasks/{id}/steps?after&limit -> {items:[Step],next?}
//! GET  /v1/tasks/{id}/runs?after&limit -> {items:[Run],next?}
//! POST /v1/tasks/{id}/cancel {reason?} -> Task POST /v1/tasks/{id}/retry {mode,extra_attempts} -> Task
//! GET  /v1/queues      PUT|GET|DELETE /v1/queues/{q}      POST /v1/queues/{q}/pause|resume
//! POST /v1/queues/{q}/events {events:[{name,payload}]} -> {results:[{created}]}   GET /v1/queues/{q}/events/{name}
//! GET  /v1/queues/{q}/events?prefix&after&limit -> {items:[Event],next?}
//! POST /v1/workers/hello|poll|beat|ops|bye     GET /v1/workers
//! ```
//! Times and spans are integers named `*_ms`; fences, sessions and cursors are opaque strings. Payloads are
//! kept as the JSON bytes that came. A list of tasks has the newest first; a page of it may be short, or empty, and have a
//! `next` all the same. A field of a request that is not known is refused; a client ignores fields
//! of an answer that it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::{ErrorBody, ErrorDetail};

/// The header that names the version of this protocol.
pub const PROTOCOL_HEADER: &str = "cairn-protocol";
/// The version that this build speaks.
pub const PROTOCOL: &str = "1";
/// A poll waits at most so long.
pub const WAIT_MS_MAX: u64 = 25_000;

/// Values are nested so deep at most: what reads them in other programs follows no further than some hundred levels.
pub const DEPTH_MAX: usize = 100;
/// A request spawns at most so many tasks.
pub const SPAWNS_MAX: usize = 10_000;
/// A request emits at most so many events.
pub const EVENTS_MAX: usize = 10_000;
/// A worker has at most so many slots. It may hold some more for a while: what ends, and what came with that.
pub const SLOTS_MAX: usize = 8_000;
/// A hello or a beat names at most so many hand-outs.
pub const LIVE_MAX: usize = 10_000;
/// A request has at most so many operations of a worker.
pub const OPS_MAX: usize = 1_000;

/// A JSON value, as it came.
pub type Json = Box<RawValue>;

/// A value that is there, also if it is null.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(from).map(Some)
}

/// A number or null that is there.
fn also_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// `POST /v1/tasks`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnRequest {
    /// The tasks to be.
    pub tasks: Vec<Spawn>,
    /// All of them or none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub atomic: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A task to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// Its id, a UUIDv7, if the client makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// "default" if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The name that workers offer.
    pub name: String,
    /// What it is called with.
    pub input: Json,
    /// An object that hooks pass along.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub headers: Option<Json>,
    /// To find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// A second spawn with it is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at_ms: Option<u64>,
    /// Or: not before so long from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The larger goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Not built yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_key: Option<String>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// 5 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// 3 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lost: Option<u32>,
    /// When to give up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<Cancel>,
    /// Not built yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
}

/// A retry strategy. Of the fields each kind reads those that it needs, the others may be there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Which.
    pub kind: RetryKind,
    /// The first delay.
    #[serde(default = "second")]
    pub base_ms: u64,
    /// What each further attempt multiplies it by.
    #[serde(default = "two")]
    pub factor: f64,
    /// It grows no further.
    #[serde(default = "five_minutes")]
    pub max_ms: u64,
    /// Which part of it is drawn, 0 to 1.
    #[serde(default)]
    pub jitter: f64,
}

fn second() -> u64 {
    1_000
}

fn two() -> f64 {
    2.0
}

fn five_minutes() -> u64 {
    300_000
}

/// The kinds of [`Retry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryKind {
    /// At once.
    None,
    /// After the same delay every time.
    Fixed,
    /// After a delay that grows.
    Exponential,
}

/// When a task is cancelled without anybody's asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// If no worker has begun it so long after the spawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay_ms: Option<u64>,
    /// If it has not ended so long after a worker began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duration_ms: Option<u64>,
}

/// One of many results: what came of it, or an error.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Each<T> {
    /// It was refused.
    Refused(ErrorBody),
    /// It was done.
    Done(T),
}

/// A list of results, in the order of what was asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results<T> {
    /// One for each.
    pub results: Vec<Each<T>>,
}

/// What came of a spawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// The task.
    pub id: String,
    /// Its run.
    pub run_id: String,
    /// Whether there was none before.
    pub created: bool,
    /// Where it stands.
    pub status: String,
}

/// A task as it is shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// Which.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// The name that workers offer.
    pub name: String,
    /// queued, running, waiting, completed, failed, cancelled.
    pub status: String,
    /// The run under way, or the last.
    pub run_id: String,
    /// From 1.
    pub attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// Runs lost to vanished workers.
    pub lost: u32,
    /// What it is called with.
    pub input: Json,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub output: Option<Json>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// An object that hooks pass along.
    pub headers: Json,
    /// To find it by.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The task that spawned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The version of the code that runs it, or ran it last, if its worker said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it was spawned.
    pub created_at_ms: u64,
    /// When it is ready, if it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at_ms: Option<u64>,
    /// When a worker first began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// Why it does not go on.
    #[serde(default)]
    pub waiting: Vec<Reason>,
    /// Who has it, while it runs. In the answer to `GET /v1/tasks/{id}` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

/// The worker that has a task, and what its beats show of it. Kept in memory: after a restart of the server it is
/// there again once the worker has made itself heard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Live {
    /// The name of the worker.
    pub worker: String,
    /// The step that its last beat named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The last progress that it has shown.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub progress: Option<Json>,
    /// How long ago it last spoke of the task, by a beat or an op.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat_ms_ago: Option<u64>,
}

/// Why a task does not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// due, timer, event, task, queue_paused, no_worker.
    pub kind: String,
    /// The step that it will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The event or the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it is over at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// A short name, as of an exception's type.
    pub kind: String,
    /// For people.
    pub message: String,
    /// Anything more.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub detail: Option<Json>,
    /// Whether another attempt may help; true if left out.
    #[serde(default = "yes")]
    pub retryable: bool,
}

fn yes() -> bool {
    true
}

/// `GET /v1/tasks/{id}/result`.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskResult {
    /// Where it stands.
    pub status: String,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub output: Option<Json>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// A page of a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Where the next page begins; none after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A recorded step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Its id in the task.
    pub key: String,
    /// Its place among them.
    pub seq: u32,
    /// step, spawn, emit, timer, event, task.
    pub kind: String,
    /// done or failed.
    pub status: String,
    /// value, failed, cancelled, timed_out.
    pub outcome: String,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Json>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<u64>,
    /// The attempt that recorded it.
    pub attempt: u32,
    /// When.
    pub at_ms: u64,
}

/// A run that has ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub run_id: String,
    /// From 1.
    pub attempt: u32,
    /// done, failed, lost, cancelled.
    pub status: String,
    /// The name of the worker that had it last, if one had it and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// When a worker first began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// `POST /v1/tasks/{id}/cancel`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/tasks/{id}/retry`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// In place if left out.
    #[serde(default)]
    pub mode: RetryMode,
    /// 1 if left out.
    #[serde(default = "one")]
    pub extra_attempts: u32,
}

fn one() -> u32 {
    1
}

/// How a failed task is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMode {
    /// The same task goes on, with its steps.
    #[default]
    InPlace,
    /// A new one begins from nothing.
    New,
}

/// `PUT /v1/queues/{q}`; what is left out stays, or is as by default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRequest {
    /// How long a task is kept that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// How long an event is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_ttl_ms: Option<u64>,
    /// So many tasks may be queued; null: any number.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "also_null")]
    pub max_waiting: Option<Option<u64>>,
    /// Still to come.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub limit: Option<Json>,
    /// Still to come.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub rate: Option<Json>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// active or paused.
    pub status: String,
    /// How long a task is kept that has ended.
    pub retention_days: u32,
    /// How long an event is kept.
    pub event_ttl_ms: u64,
    /// So many tasks may be queued; any number if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<u64>,
}

/// `POST /v1/queues/{q}/events`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmitRequest {
    /// Each for itself.
    pub events: Vec<Emit>,
}

/// An event to be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emit {
    /// Its name.
    pub name: String,
    /// What with.
    pub payload: Json,
}

/// What came of an emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emitted {
    /// Whether it is the first of its name.
    pub created: bool,
}

/// An event.
#[derive(Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// What with.
    pub payload: Json,
    /// When.
    pub at_ms: u64,
}

/// `POST /v1/workers/hello`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// For people.
    pub name: String,
    /// Which library, for people.
    pub sdk: String,
    /// The tasks that it knows.
    pub tasks: Vec<Offer>,
    /// The queues that it takes them from.
    pub queues: Vec<String>,
    /// How many at once.
    pub slots: u32,
    /// What it holds, after a restart of the server.
    #[serde(default)]
    pub live: Vec<Held>,
}

/// A task that a worker knows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// The version of its code, 1 to 128 bytes. It is recorded in each task that is handed out; nothing is chosen by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A hand-out that a worker holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The task.
    pub task: String,
    /// The fence.
    pub fence: String,
    /// For people: the id of the step that it is at. One that is left out is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// For people: how far it is, at most 64 KiB. One that is left out stays as it was, so that a beat need carry only
    /// what is new. In a hello neither is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub progress: Option<Json>,
}

/// The answer to a hello.
#[derive(Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// To be shown with every call.
    pub session: String,
    /// A worker that is silent for so long is gone.
    pub lease_ms: u64,
    /// How often to be heard.
    pub beat_ms: u64,
    /// The clock of the server, which waits go by.
    pub now_ms: u64,
    /// What it may go on with.
    pub kept: Vec<String>,
    /// What it must stop.
    pub stop: Vec<String>,
}

/// `POST /v1/workers/poll`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// The session.
    pub session: String,
    /// How many tasks it takes.
    pub free: u32,
    /// How long the answer may be held back while there is nothing.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Work and signals.
#[derive(Debug, Serialize, Deserialize)]
pub struct Polled {
    /// Tasks.
    pub work: Vec<Work>,
    /// What to stop.
    pub signals: Vec<Signal>,
    /// The clock of the server, which waits go by.
    pub now_ms: u64,
}

/// A task in the hands of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    /// The task.
    pub task: String,
    /// The run.
    pub run_id: String,
    /// From 1.
    pub attempt: u32,
    /// To be shown with every call.
    pub fence: String,
    /// Its name.
    pub name: String,
    /// The version that the worker said of its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its queue.
    pub queue: String,
    /// What it is called with.
    pub input: Json,
    /// An object that hooks pass along.
    pub headers: Json,
    /// What is recorded.
    pub steps: Vec<Step>,
    /// Where the rest of it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_next: Option<String>,
    /// The lease.
    pub lease_ms: u64,
}

/// Something to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The task.
    pub task: String,
    /// The hand-out that is over.
    pub fence: String,
    /// cancel, lost.
    pub kind: String,
}

/// `POST /v1/workers/beat`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// The session.
    pub session: String,
    /// What it holds.
    #[serde(default)]
    pub live: Vec<Held>,
}

/// The answer to a beat.
#[derive(Debug, Serialize, Deserialize)]
pub struct Beaten {
    /// What to stop.
    pub signals: Vec<Signal>,
    /// The clock of the server, which waits go by.
    pub now_ms: u64,
}

/// `POST /v1/workers/bye`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bye {
    /// The session.
    pub session: String,
}

/// `POST /v1/workers/ops`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpsRequest {
    /// The session.
    pub session: String,
    /// In order.
    pub ops: Vec<Op>,
    /// How many tasks it takes besides.
    #[serde(default)]
    pub claim: u32,
}

/// What a worker says of a task. Which fields belong to which `op` stands at [`OpKind`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Which.
    pub op: OpKind,
    /// The task.
    pub task: String,
    /// The hand-out.
    pub fence: String,
    /// The step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What a step returned.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Json>,
    /// What the task returned.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub output: Option<Json>,
    /// Or why it failed, the step or the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// And when it is tried again, instead of what its strategy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<u64>,
    /// A child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawn: Option<Box<Spawn>>,
    /// An event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What with.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub payload: Option<Json>,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Vec<Wait>>,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at_ms: Option<u64>,
}

/// The kinds of [`Op`], with the fields that each has besides task and fence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// A step came to something: key, and value or failure, retry_at_ms.
    Step,
    /// A child: key, spawn.
    Spawn,
    /// An event: key, name, payload.
    Emit,
    /// It waits, and any of them will do: waits.
    Suspend,
    /// It has ended: output, or failure, retry_at_ms.
    #[default]
    Finish,
    /// It is given back unfinished: due_at_ms.
    Release,
    /// A promise: still to come.
    Promise,
}

/// Something that a task waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The step that it becomes.
    pub key: String,
    /// Of one group the first to come takes the others with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// timer, event, task.
    pub kind: String,
    /// Of an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of a timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// When it is over without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at_ms: Option<u64>,
}

/// What a call of a worker came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ack {
    /// It is recorded.
    pub ok: bool,
    /// Or why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
    /// Of a spawn: the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of a spawn or an emit: whether it is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
    /// Of a suspension: what has come already, or as much of it as goes into one answer; it is told again with the others
    /// then. Empty: the task waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Vec<Step>>,
}

/// The answer to ops.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpsResponse {
    /// One for each.
    pub acks: Vec<Ack>,
    /// Tasks.
    pub work: Vec<Work>,
    /// What to stop.
    pub signals: Vec<Signal>,
    /// The clock of the server, which waits go by.
    pub now_ms: u64,
}

/// `POST /v1/test/clock`: one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRequest {
    /// So much further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advance_ms: Option<u64>,
    /// To this moment, which must not have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_ms: Option<u64>,
}

/// What the clock says then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockNow {
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// A worker, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Which library.
    pub sdk: String,
    /// The tasks that it knows.
    pub tasks: Vec<String>,
    /// The queues that it takes them from.
    pub queues: Vec<String>,
    /// How many at once.
    pub slots: u32,
    /// The tasks that it has.
    pub held: Vec<String>,
    /// How long ago it was heard of.
    pub silent_ms: u64,
}

/// How deep arrays and objects are nested in what is known to be JSON; see [`DEPTH_MAX`].
pub fn depth(json: &str) -> usize {
    let (mut open, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                open += 1;
                deepest = deepest.max(open);
            }
            (false, b']' | b'}') => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_kept_as_they_came() {
        let text = r#"{"tasks":[{"name":"t","input":{"b":1,  "a":[1.0, 1e400]}}]}"#;
        let request: SpawnRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.tasks[0].input.get(), r#"{"b":1,  "a":[1.0, 1e400]}"#);
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            r#"{"tasks":[{"name":"t","input":1,"nmae":2}]}"#,
            r#"{"tasks":[{"input":1}]}"#,
            r#"{"tasks":[{"name":"t"}]}"#,
            r#"{"tasks":[{"name":"t","input":1,"retry":{"base_ms":1}}]}"#,
            r#"{"tasks":[{"name":"t","input":1,"retry":{"kind":"sometimes"}}]}"#,
            r#"{"tasks":[],"more":1}"#,
        ] {
            assert!(serde_json::from_str::<SpawnRequest>(text).is_err(), "{text}");
        }
        for text in [
            r#"{"session":"s","ops":[{"op":"fly","task":"t","fence":"f"}]}"#,
            r#"{"session":"s","ops":[{"task":"t","fence":"f"}]}"#,
            r#"{"session":"s","ops":[{"op":"step","task":"t","fence":"f","key":"k","valeu":1}]}"#,
        ] {
            assert!(serde_json::from_str::<OpsRequest>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            r#"{"session":"s","ops":[{"op":"step","task":"t","fence":"f","key":"k","value":[1, 2]}],"claim":1}"#,
            r#"{"session":"s","ops":[{"op":"finish","task":"t","fence":"f","output":null}],"claim":0}"#,
            r#"{"session":"s","ops":[{"op":"suspend","task":"t","fence":"f","waits":[{"key":"k","kind":"event","name":"e"}]}],"claim":0}"#,
            r#"{"session":"s","ops":[{"op":"release","task":"t","fence":"f"}],"claim":0}"#,
        ] {
            let request: OpsRequest = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
        let retry: Retry = serde_json::from_str(r#"{"kind":"none"}"#).unwrap();
        assert_eq!((retry.kind, retry.base_ms), (RetryKind::None, 1_000));
    }

    #[test]
    fn depth_counts_what_is_open() {
        for (json, levels) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}],"b":{}}"#, 3),
            (r#"["[[[\"[["]"#, 1),
            (r#"["\\",[]]"#, 2),
            ("[[],[]]", 2),
        ] {
            assert_eq!(depth(json), levels, "{json}");
        }
    }
}
