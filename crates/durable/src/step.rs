//! What a durable call of a task came to: the checkpoint.

use crate::id::Millis;
use crate::task::{Failure, Json};

/// An encoded step id is at most this long.
pub const STEP_ID_BYTES_MAX: usize = 512;

/// The id of a step within its task: scope path and name, as the SDKs encode them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(Box<str>);

impl StepId {
    /// Takes an encoded id.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(id: &str) -> Result<StepId, &'static str> {
        match id.len() {
            0 => Err("a step id is empty"),
            1..=STEP_ID_BYTES_MAX => Ok(StepId(id.into())),
            _ => Err("a step id is over 512 bytes"),
        }
    }

    /// The encoded id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A recorded step. A row exists only once it is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its place among the steps of the task, from 1.
    pub seq: u32,
    /// Which call it was.
    pub kind: StepKind,
    /// The attempt that recorded it.
    pub attempt: u32,
    /// When.
    pub at_ms: Millis,
    /// What it came to.
    pub outcome: Outcome,
}

/// The durable calls. All have one namespace in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// A piece of the user's own code.
    Step,
    /// A child was spawned; the value is its id.
    Spawn,
    /// An event was emitted.
    Emit,
    /// A sleep.
    Timer,
    /// A wait for an event.
    Event,
    /// A wait for another task's end.
    Task,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It returned.
    Value(Json),
    /// It failed.
    Failed {
        /// How.
        failure: Failure,
        /// When the step, not the task, is to be tried again. For good if there is none.
        retry_at_ms: Option<Millis>,
    },
    /// The task waited for was cancelled.
    Cancelled,
    /// What was waited for did not come in time. That is recorded too: a later event changes nothing.
    TimedOut,
}

impl Outcome {
    /// How large it is, about.
    pub fn bytes(&self) -> usize {
        match self {
            Outcome::Value(value) => value.len(),
            Outcome::Failed { failure, .. } => failure.bytes(),
            Outcome::Cancelled | Outcome::TimedOut => 0,
        }
    }
}

/// What comes of a step that is told although a row stands under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is written.
    Record,
    /// It is the same call once more: nothing changes.
    Same,
    /// The row stays, and the call is a mistake.
    Conflict(&'static str),
}

impl Step {
    /// Decides about a step that is told under the id of this one. A value or an outcome of a wait stays for
    /// good. A failure is replaced when the step is tried again: by its own policy, or because another
    /// attempt at the task tries everything that had failed.
    pub fn again(&self, kind: StepKind, attempt: u32, outcome: &Outcome) -> Again {
        if self.kind != kind {
            return Again::Conflict("another kind of call is recorded under this step id");
        }
        if cairn_env::mutant("step-recorded-anew") {
            return Again::Record;
        }
        if self.outcome == *outcome && (self.attempt == attempt || matches!(outcome, Outcome::Value(_))) {
            return Again::Same;
        }
        match &self.outcome {
            Outcome::Failed { retry_at_ms, .. } if retry_at_ms.is_some() || self.attempt < attempt => Again::Record,
            Outcome::Value(_) | Outcome::Failed { .. } | Outcome::Cancelled | Outcome::TimedOut => {
                Again::Conflict("something else is recorded under this step id")
            }
        }
    }

    /// Whether a run of this attempt is told of it: of failures, those of its own.
    pub fn replays_in(&self, attempt: u32) -> bool {
        match &self.outcome {
            // The user's code has failed; a wait's outcome came from elsewhere and stays.
            Outcome::Failed { .. } if self.kind == StepKind::Step => self.attempt == attempt,
            Outcome::Value(_) | Outcome::Failed { .. } | Outcome::Cancelled | Outcome::TimedOut => true,
        }
    }
}
