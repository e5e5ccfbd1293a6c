//! From the wire: what clients and workers say, as the tasks take it. Ids, fences and sessions are parsed here and
//! nowhere else. What is refused names its field within the part of the request that is read here.

use cairn_api::ErrorKind;
use cairn_api::tasks as wire;
use cairn_durable::call::{Op, OpKind, Spawn};
use cairn_durable::id::TaskId;
use cairn_durable::retry::Retry;
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::task::{Cancellation, Failure, Fence};
use cairn_durable::wait::{Target, Wait};
use cairn_durable::worker::{SessionId, Sign};

use crate::Refused;
use crate::refused::{invalid, not_built};

pub(crate) fn task_id(text: &str) -> Result<TaskId, Refused> {
    text.parse().map_err(|what| invalid(format!("the task's id \"{}\": {what}", text.escape_debug())).at("id"))
}

/// Refuses a request that has more of something than it may: all of it is one turn at the lock.
pub(crate) fn at_most(field: &str, what: &str, count: usize, max: usize) -> Result<(), Refused> {
    if count > max {
        return Err(invalid(format!("{count} {what}; at most {max} are allowed")).at(field));
    }
    Ok(())
}

/// The number of a run, where a page of them begins.
pub(crate) fn run_number(text: &str) -> Result<u32, Refused> {
    text.parse()
        .map_err(|_| invalid(format!("\"{}\" is no cursor that a list of runs gave", text.escape_debug())).at("after"))
}

/// The hand-outs that a worker says it has.
pub(crate) fn live_of(live: &[wire::Held]) -> Result<Vec<(TaskId, Fence)>, Refused> {
    at_most("live", "live hand-outs", live.len(), wire::LIVE_MAX)?;
    let held = |held: &wire::Held| Ok((task_id(&held.task).map_err(|e| e.at("task"))?, fence(&held.fence)?));
    let each = live.iter().enumerate().map(|(n, one)| held(one).map_err(|e: Refused| e.under(&format!("live[{n}]"))));
    each.collect()
}

/// What it shows of these.
pub(crate) fn signs_of(of: &[(TaskId, Fence)], live: Vec<wire::Held>) -> Result<Vec<Sign>, Refused> {
    let sign = |(n, (&(task, fence), held)): (usize, (&(TaskId, Fence), wire::Held))| {
        let step = held.step.as_deref().map(step_id).transpose().map_err(|e| e.at(format!("live[{n}].step")))?;
        let progress = held.progress.map(|progress| json("progress", progress)).transpose();
        let progress = progress.map_err(|e| e.under(&format!("live[{n}]")))?;
        let sign = Sign::new(task, fence, step, progress);
        Ok(sign.map_err(|e| e.at(format!("live[{n}].progress")))?)
    };
    of.iter().zip(live).enumerate().map(sign).collect()
}

fn fence(text: &str) -> Result<Fence, Refused> {
    let parse = || {
        let (instance, count) = text.split_once('-')?;
        Some(Fence { instance: u64::from_str_radix(instance, 16).ok()?, count: u64::from_str_radix(count, 16).ok()? })
    };
    parse().ok_or_else(|| invalid("the fence is none that a server gave").at("fence"))
}

pub(crate) fn session(text: &str) -> Result<SessionId, Refused> {
    let gone = |_| Refused::new(ErrorKind::Gone, "this session is none that a server gave; say hello");
    u128::from_str_radix(text, 16).map(SessionId).map_err(gone)
}

pub(crate) fn step_id(text: &str) -> Result<StepId, Refused> {
    StepId::new(text).map_err(|what| invalid(what).at("key"))
}

/// A value as it came. One that is nested deeper than common parsers follow would end whatever worker it is handed to.
///
/// # Errors
/// If it is, naming the field.
pub(crate) fn json(field: &str, value: wire::Json) -> Result<cairn_durable::task::Json, Refused> {
    if wire::depth(value.get()) > wire::DEPTH_MAX {
        let text = format!("{field} is nested deeper than {} levels", wire::DEPTH_MAX);
        return Err(invalid(text).at(field));
    }
    Ok(Box::<str>::from(value).into_boxed_bytes())
}

pub(crate) fn spawn_of(spawn: wire::Spawn, now_ms: u64) -> Result<Spawn, Refused> {
    if spawn.limit_key.is_some() {
        return Err(not_built("limits").at("limit_key"));
    }
    if spawn.pin.is_some() {
        return Err(not_built("pins").at("pin"));
    }
    let due_ms = match (spawn.due_at_ms, spawn.delay_ms) {
        (Some(_), Some(_)) => return Err(invalid("due_at_ms and delay_ms say the same in two ways; give one")),
        (due_at_ms, None) => due_at_ms,
        (None, Some(delay_ms)) => Some(now_ms.saturating_add(delay_ms)),
    };
    let headers = spawn.headers.map_or_else(|| Ok(Box::from(*b"{}")), |headers| json("headers", headers))?;
    if !headers.starts_with(b"{") {
        return Err(invalid("headers must be an object").at("headers"));
    }
    let base = Spawn::new(&spawn.name, &json("input", spawn.input)?);
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

pub(crate) fn retry_of(retry: wire::Retry) -> Retry {
    let wire::Retry { kind, base_ms, factor, max_ms, jitter } = retry;
    match kind {
        wire::RetryKind::None => Retry::None,
        wire::RetryKind::Fixed => Retry::Fixed { base_ms, jitter },
        wire::RetryKind::Exponential => Retry::Exponential { base_ms, factor, max_ms, jitter },
    }
}

pub(crate) fn failure_of(failure: wire::Failure) -> Result<Failure, Refused> {
    let wire::Failure { kind, message, detail, retryable } = failure;
    let detail = detail.map(|detail| json("detail", detail)).transpose().map_err(|e| e.under("failure"))?;
    Ok(Failure { kind, message, detail, retryable })
}

pub(crate) fn wait_of(wait: wire::Wait) -> Result<Wait, Refused> {
    let lacks = |field: &str| invalid(format!("a wait of kind {} needs {field}", wait.kind)).at(field);
    let target = match wait.kind.as_str() {
        "timer" => Target::Timer(wait.until_ms.ok_or_else(|| lacks("until_ms"))?),
        "event" => Target::Event(wait.name.clone().ok_or_else(|| lacks("name"))?),
        "task" => Target::Task(task_id(wait.id.as_deref().ok_or_else(|| lacks("id"))?)?),
        "promise" => return Err(not_built("promises").at("kind")),
        kind => return Err(invalid(format!("\"{}\" is no kind of wait", kind.escape_debug())).at("kind")),
    };
    Ok(Wait { id: step_id(&wait.key)?, group: wait.group, target, timeout_at_ms: wait.timeout_at_ms })
}

pub(crate) fn op_of(op: wire::Op, now_ms: u64) -> Result<Op, Refused> {
    let (task, fence) = (task_id(&op.task).map_err(|e| e.at("task"))?, fence(&op.fence)?);
    let lacks = |field: &str| invalid(format!("this op needs {field}")).at(field);
    let key = |key: Option<String>| step_id(&key.ok_or_else(|| lacks("key"))?);
    let what = match op.op {
        wire::OpKind::Step => OpKind::Step {
            id: key(op.key)?,
            outcome: match (op.value, op.failure) {
                (Some(value), None) => Outcome::Value(json("value", value)?),
                (None, Some(failure)) => Outcome::Failed { failure: failure_of(failure)?, retry_at_ms: op.retry_at_ms },
                _ => return Err(invalid("a step has a value or a failure, one of them")),
            },
        },
        wire::OpKind::Spawn => {
            let spawn = op.spawn.ok_or_else(|| lacks("spawn"))?;
            OpKind::Spawn { id: key(op.key)?, spawn: Box::new(spawn_of(*spawn, now_ms).map_err(|e| e.under("spawn"))?) }
        }
        wire::OpKind::Emit => OpKind::Emit {
            id: key(op.key)?,
            name: op.name.ok_or_else(|| lacks("name"))?,
            payload: json("payload", op.payload.ok_or_else(|| lacks("payload"))?)?,
        },
        wire::OpKind::Suspend => {
            let waits = op.waits.ok_or_else(|| lacks("waits"))?;
            let wait = |(n, wait)| wait_of(wait).map_err(|e| e.under(&format!("waits[{n}]")));
            OpKind::Suspend(waits.into_iter().enumerate().map(wait).collect::<Result<_, Refused>>()?)
        }
        wire::OpKind::Finish => match (op.output, op.failure) {
            (Some(output), None) => OpKind::Finish(json("output", output)?),
            (None, Some(failure)) => OpKind::Fail { failure: failure_of(failure)?, retry_at_ms: op.retry_at_ms },
            _ => return Err(invalid("a task ends with an output or a failure, one of them")),
        },
        wire::OpKind::Promise => return Err(not_built("promises").at("op")),
        wire::OpKind::Release => OpKind::Release { due_ms: op.due_at_ms },
    };
    Ok(Op { task, fence, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_nested_so_deep_and_no_deeper() {
        let nested = |levels: usize| {
            let text = "[".repeat(levels) + &"]".repeat(levels);
            json("input", serde_json::value::RawValue::from_string(text).unwrap())
        };
        assert!(nested(wire::DEPTH_MAX).is_ok());
        let refused = nested(wire::DEPTH_MAX + 1).unwrap_err();
        assert_eq!(refused.message, "input is nested deeper than 100 levels");
    }
}
