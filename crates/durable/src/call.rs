//! What is asked of the tasks, and what is answered: the calls of clients and workers as values.

use std::sync::Arc;

use crate::error::Result;
use crate::id::{Millis, RunId, TaskId};
use crate::retry::Retry;
use crate::step::{Outcome, Step, StepId};
use crate::task::{Cancellation, Failure, Fence, Json, Spec, State};
use crate::wait::Wait;
use crate::worker::{SessionId, Signal};

/// A value has at most so many bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The name of a task, an event, a tag or an idempotency key has at most so many bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// A task has at most so many tags.
pub const TAGS_MAX: usize = 64;

/// A task to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Spawn {
    /// Its id, if who spawns it made one, so that it can be spawned again without doubling.
    pub id: Option<TaskId>,
    /// The queue.
    pub queue: String,
    /// The name that workers offer.
    pub name: String,
    /// What it is called with.
    pub input: Json,
    /// A JSON object that hooks pass along.
    pub headers: Json,
    /// To find it by.
    pub tags: Vec<(String, String)>,
    /// Of two spawns in a queue with the same key the second is the first.
    pub idempotency_key: Option<String>,
    /// Not before.
    pub due_ms: Option<Millis>,
    /// The larger goes first.
    pub priority: i32,
    /// When to try again.
    pub retry: Retry,
    /// How often, from 1.
    pub max_attempts: u32,
    /// How many runs may be lost.
    pub max_lost: u32,
    /// When to give up.
    pub cancellation: Cancellation,
}

impl Spawn {
    /// A task of this name with everything else as it is by default.
    pub fn new(name: &str, input: &[u8]) -> Spawn {
        Spawn {
            id: None,
            queue: crate::queue::DEFAULT_QUEUE.to_owned(),
            name: name.to_owned(),
            input: input.into(),
            headers: Box::from(*b"{}"),
            tags: Vec::new(),
            idempotency_key: None,
            due_ms: None,
            priority: 0,
            retry: Retry::default(),
            max_attempts: 5,
            max_lost: 3,
            cancellation: Cancellation::default(),
        }
    }
}

/// What came of a spawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spawned {
    /// The task.
    pub id: TaskId,
    /// Its run.
    pub run: RunId,
    /// Whether there was none before.
    pub created: bool,
    /// Where it stands.
    pub state: State,
}

/// A task in the hands of a worker.
#[derive(Clone, Debug)]
pub struct Work {
    /// The task.
    pub id: TaskId,
    /// The run.
    pub run: RunId,
    /// From 1.
    pub attempt: u32,
    /// What to show with every call.
    pub fence: Fence,
    /// The version that its worker said of the code.
    pub version: Option<String>,
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// What is recorded already, in the order of ids, without the failures that this attempt tries anew.
    pub steps: Vec<(StepId, Step)>,
    /// There are more, behind this one.
    pub steps_next: Option<StepId>,
}

/// A call of a worker about a task that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The task.
    pub task: TaskId,
    /// The hand-out.
    pub fence: Fence,
    /// What.
    pub what: OpKind,
}

/// What a worker says of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum OpKind {
    /// A step came to something: a value or a failure.
    Step {
        /// Which.
        id: StepId,
        /// What it came to.
        outcome: Outcome,
    },
    /// It spawns a child; the step is the child's id.
    Spawn {
        /// The step.
        id: StepId,
        /// The child.
        spawn: Box<Spawn>,
    },
    /// It emits an event in its queue.
    Emit {
        /// The step.
        id: StepId,
        /// The event.
        name: String,
        /// What with.
        payload: Json,
    },
    /// It waits; any of them will do.
    Suspend(Vec<Wait>),
    /// It returned.
    Finish(Json),
    /// It failed.
    Fail {
        /// How.
        failure: Failure,
        /// When to try again, instead of what the retry strategy says.
        retry_at_ms: Option<Millis>,
    },
    /// It is given back unfinished.
    Release {
        /// Not before.
        due_ms: Option<Millis>,
    },
}

/// What a call of a worker came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Ack {
    /// It is recorded, now or before.
    Done,
    /// The child.
    Spawned(Spawned),
    /// Whether the event is the first of its name.
    Emitted {
        /// It is.
        created: bool,
    },
    /// What had come already, or the first 4 MiB of it: the task goes on with that, and is suspended again if it still
    /// has to wait for others. Nothing: the task waits, and the hand-out is over.
    Suspended(Vec<(StepId, Step)>),
}

/// What came of the calls of a worker, and what it has to do next.
#[derive(Debug)]
pub struct Told {
    /// For each call, in order.
    pub acks: Vec<Result<Ack>>,
    /// Tasks.
    pub work: Vec<Work>,
    /// What to stop.
    pub signals: Vec<Signal>,
}

/// The answer to a worker's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// To be shown with every call.
    pub session: SessionId,
    /// Of the tasks that the worker holds, those that it may go on with.
    pub kept: Vec<TaskId>,
    /// And those that it must stop.
    pub stop: Vec<TaskId>,
}
