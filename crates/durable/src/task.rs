//! What is known of a task: what was asked for, and how far it is.
//!
//! A task is two records. [`Spec`] is what the spawn said and never changes; [`Task`] is small and is
//! written anew at every transition. Its one [`Status`] carries what exists only in that state. Why a
//! task waits is its waits ([`crate::wait::Wait`]); what its steps came to, its steps
//! ([`crate::step::Step`]); what it returned stands in a record of its own.

use crate::id::{Millis, RunId, TaskId};
use crate::retry::Retry;

/// The bytes of a JSON value, as they were received. Whoever takes them from outside has parsed them.
pub type Json = Box<[u8]>;

/// What a spawn asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The queue it is in.
    pub queue: String,
    /// The name that workers offer.
    pub name: String,
    /// What the function is called with.
    pub input: Json,
    /// A JSON object that the hooks of an SDK pass along.
    pub headers: Json,
    /// To find it by.
    pub tags: Vec<(String, String)>,
    /// Of two ready tasks the one with the larger number goes first.
    pub priority: i32,
    /// When to try again after a failure.
    pub retry: Retry,
    /// How many runs may be lost to vanished workers.
    pub max_lost: u32,
    /// When to give up.
    pub cancellation: Cancellation,
    /// When it was spawned.
    pub created_ms: Millis,
    /// The task that spawned it.
    pub parent: Option<TaskId>,
}

/// When a task is cancelled without anybody's asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancellation {
    /// So long after the spawn, if no worker has begun it.
    pub max_delay_ms: Option<Millis>,
    /// So long after the first worker has begun it: all attempts, sleeps and waits together.
    pub max_duration_ms: Option<Millis>,
}

/// How far a task is.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Where it stands. Nothing else says so.
    pub status: Status,
    /// The attempt that is under way, comes next, or was the last.
    pub run: Run,
    /// Attempts there may be. A retry in place adds to those of the spawn.
    pub max_attempts: u32,
    /// Runs lost so far.
    pub lost: u32,
    /// Runs that have ended so far, each with a row of its own.
    pub runs_ended: u32,
    /// Steps recorded so far. While it runs, the stored row may say fewer.
    pub steps: u32,
    /// When a worker first began it.
    pub first_started_ms: Option<Millis>,
    /// How the last hand-out ended: who repeats its last call gets the same answer.
    pub handed_back: Option<HandedBack>,
    /// The version of the code that has it, or had it last, if its worker said one.
    pub version: Option<String>,
}

impl Task {
    /// Whether a worker has ever had it. If not, it has no steps and no waits.
    pub fn was_begun(&self) -> bool {
        // A retry in place forgets when it began, and is another attempt.
        self.first_started_ms.is_some() || self.run.attempt > 1
    }
}

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Stays the same while the run sleeps and waits.
    pub id: RunId,
    /// From 1.
    pub attempt: u32,
    /// When a worker first began it.
    pub started_ms: Option<Millis>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// For any worker, not before `due_ms`.
    Queued {
        /// Later than now after a delayed spawn, or before another attempt.
        due_ms: Millis,
    },
    /// A worker has it.
    Running {
        /// What the worker must show with every call.
        fence: Fence,
    },
    /// Nobody has it; one of its waits will queue it again.
    Waiting {
        /// Since when.
        since_ms: Millis,
    },
    /// It returned. For good.
    Completed {
        /// When.
        ended_ms: Millis,
    },
    /// No attempts are left, or the failure was none to retry. Only a retry in place goes on.
    Failed {
        /// When.
        ended_ms: Millis,
        /// The failure of the last run.
        failure: Failure,
    },
    /// Somebody or its own policy gave it up. For good.
    Cancelled {
        /// When.
        ended_ms: Millis,
        /// What was said.
        reason: String,
    },
}

/// The kinds of [`Status`], without what they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// [`Status::Queued`].
    Queued,
    /// [`Status::Running`].
    Running,
    /// [`Status::Waiting`].
    Waiting,
    /// [`Status::Completed`].
    Completed,
    /// [`Status::Failed`].
    Failed,
    /// [`Status::Cancelled`].
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] =
        [State::Queued, State::Running, State::Waiting, State::Completed, State::Failed, State::Cancelled];

    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Waiting => "waiting",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether the task has ended. A failed one may be retried all the same.
    pub fn has_ended(self) -> bool {
        matches!(self, State::Completed | State::Failed | State::Cancelled)
    }
}

impl Status {
    /// Which of them it is.
    pub fn state(&self) -> State {
        match self {
            Status::Queued { .. } => State::Queued,
            Status::Running { .. } => State::Running,
            Status::Waiting { .. } => State::Waiting,
            Status::Completed { .. } => State::Completed,
            Status::Failed { .. } => State::Failed,
            Status::Cancelled { .. } => State::Cancelled,
        }
    }

    /// When it ended, if it has.
    pub fn ended_ms(&self) -> Option<Millis> {
        match self {
            Status::Completed { ended_ms } | Status::Failed { ended_ms, .. } | Status::Cancelled { ended_ms, .. } => {
                Some(*ended_ms)
            }
            Status::Queued { .. } | Status::Running { .. } | Status::Waiting { .. } => None,
        }
    }
}

/// Who may speak for a running task: the instance of the server that handed it out, and a count. Drawn
/// anew at every hand-out and compared for equality, so that a late worker is told apart for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// Drawn at random when the server began.
    pub instance: u64,
    /// Hand-outs since.
    pub count: u64,
}

/// A hand-out that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedBack {
    /// Its fence.
    pub fence: Fence,
    /// How it ended.
    pub by: Ending,
}

/// How a hand-out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The worker finished the task.
    Completed,
    /// The worker told a failure.
    Failed,
    /// The worker waits for something.
    Suspended,
    /// The worker gave it back unfinished.
    Released,
    /// The worker vanished, or seems never to have got it.
    Lost,
    /// The task was cancelled meanwhile.
    Cancelled,
}

/// Why a run, a step or a task failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A short name, as of an exception's type.
    pub kind: String,
    /// For people.
    pub message: String,
    /// Anything more, as JSON: a stack trace, say.
    pub detail: Option<Json>,
    /// Whether another attempt may help.
    pub retryable: bool,
}

impl Failure {
    /// How large it is, about.
    pub fn bytes(&self) -> usize {
        self.kind.len() + self.message.len() + self.detail.as_deref().map_or(0, <[u8]>::len)
    }
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedRun {
    /// Which.
    pub run: Run,
    /// When.
    pub ended_ms: Millis,
    /// The name of the worker that had it last, if one had it and is known: after a restart it is not until it says
    /// hello.
    pub worker: String,
    /// How.
    pub status: RunStatus,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunStatus {
    /// The task returned.
    Done,
    /// It told a failure.
    Failed(Failure),
    /// Its worker vanished.
    Lost,
    /// The task was cancelled.
    Cancelled,
}
