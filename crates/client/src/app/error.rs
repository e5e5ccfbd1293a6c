//! What can go wrong: of a call ([`AppError`]), and in a task ([`TaskError`]).
//!
//! Three families of the first: what was refused, a server out of reach, and outcomes that were recorded in a task
//! and come again in every replay. The second is what the code of a task or a step ends with: any error will do.

use std::any::type_name;
use std::error::Error as StdError;
use std::fmt;

use cairn_api::ErrorKind;
use cairn_api::tasks::{Ack, DEPTH_MAX, Failure, Json, Step, depth};
use serde::Serialize;

use crate::Error;

/// One value has at most so many bytes as JSON.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// A failure is recorded with at most so much of each part, which together are less than a value may have.
const KIND_CHARS_MAX: usize = 200;
const MESSAGE_CHARS_MAX: usize = 16_000;
const DETAIL_BYTES_MAX: usize = VALUE_BYTES_MAX / 2;
const _: () = assert!(4 * (KIND_CHARS_MAX + MESSAGE_CHARS_MAX) + DETAIL_BYTES_MAX <= VALUE_BYTES_MAX);

/// Why a call of an [`App`](crate::App) or a [`Ctx`](crate::Ctx) gave no value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AppError {
    /// It was answered with an error, or never sent because it makes no sense. `kind` says what to do.
    Refused {
        /// What can be done.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// No answer. What is repeated here by itself is safe to repeat; after that, the call was done or not.
    Unreachable {
        /// For people.
        message: String,
    },
    /// A value cannot be written as JSON, or what is there does not read as the type that is asked for.
    Value {
        /// Of what.
        what: String,
        /// For people.
        message: String,
    },
    /// A step has failed.
    StepFailed {
        /// Its id.
        step: String,
        /// The failure of its last attempt.
        failure: Failure,
        /// A step with a policy of its own has failed for good, and every replay of this attempt sees it again. One
        /// without is left to the policy of the task: the next attempt tries it anew.
        recorded: bool,
    },
    /// The task whose result was asked for has failed. Recorded where a task asked.
    TaskFailed {
        /// Its id.
        task: String,
        /// The failure of its last attempt.
        failure: Failure,
    },
    /// The task whose result was asked for was cancelled. Recorded where a task asked.
    TaskCancelled {
        /// Its id.
        task: String,
    },
    /// What was waited for did not come in time. In a task it is recorded: what comes later changes nothing. Elsewhere
    /// it says nothing about the task.
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// Two unfinished durable calls of one name in one scope: which is which would depend on chance. Give them names
    /// of their own, or scopes of their own ([`Ctx::scope`](crate::Ctx::scope)).
    AmbiguousStep {
        /// The id that both would have.
        step: String,
    },
    /// The run of the task is over: it was suspended, cancelled or lost. Every call on its context says so from then
    /// on; the code of the task itself is dropped and does not see it.
    Over {
        /// Why.
        why: String,
    },
}

/// What calls of this module return.
pub type Result<T, E = AppError> = std::result::Result<T, E>;

impl AppError {
    /// The kind of a refusal.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            AppError::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> AppError {
        AppError::Refused { kind: ErrorKind::Invalid, message: message.into() }
    }

    /// Whether the same call may succeed when it is sent again.
    pub(crate) fn is_transient(&self) -> bool {
        use ErrorKind::{Busy, Closed, Full, Io, Timeout, Unknown};
        match self {
            AppError::Unreachable { .. } => true,
            AppError::Refused { kind, .. } => matches!(kind, Busy | Closed | Full | Io | Timeout | Unknown),
            _ => false,
        }
    }

    /// Whether a refused operation means that the task is not ours any more.
    pub(crate) fn ends_run(&self) -> bool {
        matches!(self.kind(), Some(ErrorKind::StaleFence | ErrorKind::Cancelled | ErrorKind::Gone))
    }

    /// Whether a refused request means that the session is not known any more.
    pub(crate) fn ends_session(&self) -> bool {
        matches!(self.kind(), Some(ErrorKind::Gone | ErrorKind::NotFound))
    }

    /// The refusal in an ack.
    pub(crate) fn of_ack(ack: &Ack) -> Option<AppError> {
        if ack.ok {
            return None;
        }
        let (kind, message) = match &ack.error {
            Some(error) => (error.kind().unwrap_or(ErrorKind::Invalid), error.message().to_owned()),
            None => (ErrorKind::Internal, "an operation was refused without a word".to_owned()),
        };
        Some(AppError::Refused { kind, message })
    }

    /// What a task ends with that ends with this.
    fn failure(&self) -> Failure {
        let (kind, retryable) = match self {
            AppError::Refused { kind, .. } => (kind.name(), *kind != ErrorKind::Conflict),
            AppError::Unreachable { .. } => ("unreachable", true),
            AppError::Value { .. } => ("value", true),
            // Recorded outcomes stay what they are: another attempt meets them again.
            AppError::StepFailed { failure, recorded: false, .. } => return failure.clone(),
            AppError::StepFailed { failure, .. } | AppError::TaskFailed { failure, .. } => {
                (failure.kind.as_str(), false)
            }
            AppError::TaskCancelled { .. } => ("cancelled", false),
            AppError::TimedOut { .. } => ("timed_out", false),
            AppError::AmbiguousStep { .. } => ("ambiguous_step", false),
            AppError::Over { .. } => ("over", true),
        };
        let detail = match self {
            AppError::StepFailed { failure, .. } | AppError::TaskFailed { failure, .. } => failure.detail.clone(),
            _ => None,
        };
        Failure { kind: kind.to_owned(), message: self.to_string(), detail, retryable }
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppError::Refused { kind, message } => write!(f, "{message} ({})", kind.name()),
            AppError::Unreachable { message } => f.write_str(message),
            AppError::Value { what, message } => write!(f, "{what}: {message}"),
            AppError::StepFailed { step, failure, .. } => {
                write!(f, "step \"{step}\" failed: {}: {}", failure.kind, failure.message)
            }
            AppError::TaskFailed { task, failure } => {
                write!(f, "task {task} failed: {}: {}", failure.kind, failure.message)
            }
            AppError::TaskCancelled { task } => write!(f, "task {task} was cancelled"),
            AppError::TimedOut { what } => write!(f, "{what} did not come in time"),
            AppError::AmbiguousStep { step } => {
                write!(
                    f,
                    "\"{step}\" is called again before its first call has finished; give them scopes of their own"
                )
            }
            AppError::Over { why } => write!(f, "the run of this task is over: {why}"),
        }
    }
}

impl StdError for AppError {}

impl From<Error> for AppError {
    fn from(error: Error) -> AppError {
        match error {
            Error::Http { kind, message, .. } => AppError::Refused { kind, message },
            Error::Url { .. } | Error::Request { .. } => AppError::invalid(error.to_string()),
            Error::Connect { .. } | Error::Unanswered { .. } | Error::Timeout { .. } | Error::Answer { .. } => {
                AppError::Unreachable { message: error.to_string() }
            }
        }
    }
}

#[cfg(feature = "embedded")]
impl From<cairn_service::Refused> for AppError {
    fn from(refused: cairn_service::Refused) -> AppError {
        AppError::Refused { kind: refused.kind, message: refused.message }
    }
}

/// What a wait or a step came to, as a value or the error it stands for.
pub(crate) fn outcome<T: serde::de::DeserializeOwned>(
    step: &Step,
    what: impl FnOnce() -> String,
    failed: impl FnOnce(Failure) -> AppError,
    cancelled: impl FnOnce() -> AppError,
) -> Result<T> {
    match step.outcome.as_str() {
        "value" => read(step.value.as_deref(), what),
        "cancelled" => Err(cancelled()),
        "timed_out" => Err(AppError::TimedOut { what: what() }),
        _ => Err(failed(step.failure.clone().unwrap_or_else(unsaid))),
    }
}

/// The failure of something whose failure was not told.
pub(crate) fn unsaid() -> Failure {
    Failure { kind: "unknown".to_owned(), message: "it was not said why".to_owned(), detail: None, retryable: false }
}

/// A value out of its JSON; what is not there is null.
pub(crate) fn read<T: serde::de::DeserializeOwned>(
    json: Option<&serde_json::value::RawValue>,
    what: impl FnOnce() -> String,
) -> Result<T> {
    let text = json.map_or("null", serde_json::value::RawValue::get);
    serde_json::from_str(text).map_err(|e| AppError::Value { what: what(), message: e.to_string() })
}

/// A value as JSON, of at most 1 MiB.
pub(crate) fn write(value: &impl Serialize, what: impl FnOnce() -> String) -> Result<Json> {
    write_within(value, VALUE_BYTES_MAX, what)
}

/// The same with another bound. What is too large is refused here, before anybody is asked.
pub(crate) fn write_within(value: &impl Serialize, bytes_max: usize, what: impl FnOnce() -> String) -> Result<Json> {
    match serde_json::value::to_raw_value(value) {
        Err(e) => Err(AppError::Value { what: what(), message: e.to_string() }),
        Ok(json) if json.get().len() > bytes_max => {
            let message = format!("{} has {} bytes as JSON; the limit is {bytes_max}", what(), json.get().len());
            Err(AppError::Refused { kind: ErrorKind::TooLarge, message })
        }
        Ok(json) if depth(json.get()) > DEPTH_MAX => {
            Err(AppError::invalid(format!("{} is nested deeper than {DEPTH_MAX} levels", what())))
        }
        Ok(json) => Ok(json),
    }
}

/// What the code of a task or a step ends with when it fails.
///
/// `?` makes one of every error; its kind is then the name of the error's type. An attempt that ends with one is tried
/// again as the task's, or the step's, policy says, unless it is [`TaskError::fatal`] or an outcome that is recorded.
///
/// What is recorded of it is bounded: 200 characters of the kind, 16 000 of the message, and the detail if it has at most
/// 512 KiB and 100 levels.
pub struct TaskError {
    failure: Failure,
}

impl TaskError {
    /// A failure that another attempt may mend.
    pub fn new(kind: impl Into<String>, message: impl fmt::Display) -> TaskError {
        let (kind, message) = (kind.into(), message.to_string());
        TaskError::of(Failure { kind, message, detail: None, retryable: true })
    }

    /// Every failure comes by here, so that none is refused for its size or its depth.
    fn of(mut failure: Failure) -> TaskError {
        cut(&mut failure.kind, KIND_CHARS_MAX);
        cut(&mut failure.message, MESSAGE_CHARS_MAX);
        let fits = |detail: &Json| detail.get().len() <= DETAIL_BYTES_MAX && depth(detail.get()) <= DEPTH_MAX;
        failure.detail = failure.detail.filter(fits);
        TaskError { failure }
    }

    /// A failure that trying again cannot help.
    pub fn fatal(message: impl fmt::Display) -> TaskError {
        let mut error = TaskError::new("fatal", message);
        error.failure.retryable = false;
        error
    }

    /// Adds anything more, which is shown with the failure. What cannot be written as JSON, or is too large or
    /// nested too deep, is left out.
    #[must_use]
    pub fn detail(mut self, detail: &impl Serialize) -> TaskError {
        self.failure.detail = serde_json::value::to_raw_value(detail).ok();
        TaskError::of(self.failure)
    }

    /// As it is recorded.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(crate) fn into_failure(self) -> Failure {
        self.failure
    }
}

fn cut(text: &mut String, chars_max: usize) {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
}

// Not an error itself, so that every error can become one.
impl<E: StdError + 'static> From<E> for TaskError {
    fn from(error: E) -> TaskError {
        let any: &(dyn StdError + 'static) = &error;
        match any.downcast_ref::<AppError>() {
            Some(error) => TaskError::of(error.failure()),
            None => {
                let path = type_name::<E>().split('<').next().unwrap_or_default();
                let mut message = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    message = format!("{message}: {cause}");
                    source = cause.source();
                }
                TaskError::new(path.rsplit("::").next().unwrap_or(path), message)
            }
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.failure.kind, self.failure.message)
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
