//! What a task waits for.

use crate::id::{Millis, TaskId};
use crate::step::{Outcome, Step, StepId, StepKind};

/// A task has at most so many open waits; beyond it a suspension is refused.
pub const WAITS_MAX: usize = 1_000;
/// And so many of one event or task: all of them are told at once, each the whole of it.
pub const WAITS_OF_ONE_MAX: usize = 50;

/// An open wait: it is there as long as nothing has resolved it. What resolves it becomes the step of this
/// id. A wait that is told again under its id keeps the deadline that it had at first, so that a
/// replay does not begin to wait anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// The step that its resolution is recorded as.
    pub id: StepId,
    /// Of the waits of one group the first to be resolved takes the others with it.
    pub group: Option<String>,
    /// What for.
    pub target: Target,
    /// When it is over without that.
    pub timeout_at_ms: Option<Millis>,
}

/// What a wait is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A moment.
    Timer(Millis),
    /// An event of the task's own queue, by name.
    Event(String),
    /// The end of another task.
    Task(TaskId),
}

impl Target {
    /// The kind of step that it becomes.
    pub fn kind(&self) -> StepKind {
        match self {
            Target::Timer(_) => StepKind::Timer,
            Target::Event(_) => StepKind::Event,
            Target::Task(_) => StepKind::Task,
        }
    }
}

impl Wait {
    /// What the clock alone makes of it.
    pub fn due(&self, now_ms: Millis) -> Option<Outcome> {
        match self.target {
            Target::Timer(until_ms) if until_ms <= now_ms => Some(Outcome::Value(Box::from(*b"null"))),
            _ if self.timeout_at_ms.is_some_and(|at| at <= now_ms) => Some(Outcome::TimedOut),
            _ => None,
        }
    }

    /// When the clock next makes something of it.
    pub fn due_ms(&self) -> Option<Millis> {
        match self.target {
            Target::Timer(until_ms) => Some(self.timeout_at_ms.map_or(until_ms, |at| at.min(until_ms))),
            Target::Event(_) | Target::Task(_) => self.timeout_at_ms,
        }
    }

    /// The step that it becomes.
    pub fn step(&self, seq: u32, attempt: u32, at_ms: Millis, outcome: Outcome) -> Step {
        Step { seq, kind: self.target.kind(), attempt, at_ms, outcome }
    }
}
