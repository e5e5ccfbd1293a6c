//! To the wire: tasks, steps, work and signals as clients and workers read them.

use std::time::Duration;

use cairn_api::tasks as wire;
use cairn_durable::View;
use cairn_durable::call::{Ack, Spawned, Work};
use cairn_durable::queue::{Queue, QueueStatus};
use cairn_durable::step::{Outcome, Step, StepId, StepKind};
use cairn_durable::task::{EndedRun, Ending, Failure, Fence, RunStatus, Status};
use cairn_durable::wait::{Target, Wait};
use cairn_durable::worker::{LEASE, Shown, Signal, WorkerInfo};

use crate::Refused;

pub(crate) fn raw(json: &[u8]) -> wire::Json {
    // It was parsed when it came; a damaged record is shown as nothing rather than as an answer that does not parse.
    let text = String::from_utf8_lossy(json).into_owned();
    serde_json::value::RawValue::from_string(text).unwrap_or_default()
}

pub(crate) fn fence_text(fence: Fence) -> String {
    format!("{:016x}-{:x}", fence.instance, fence.count)
}

pub(crate) fn failure_to(failure: &Failure) -> wire::Failure {
    let Failure { kind, message, detail, retryable } = failure.clone();
    wire::Failure { kind, message, detail: detail.as_deref().map(raw), retryable }
}

pub(crate) fn spawned_to(spawned: Spawned) -> wire::Spawned {
    wire::Spawned {
        id: spawned.id.to_string(),
        run_id: spawned.run.to_string(),
        created: spawned.created,
        status: spawned.state.name().to_owned(),
    }
}

pub(crate) fn kind_name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Step => "step",
        StepKind::Spawn => "spawn",
        StepKind::Emit => "emit",
        StepKind::Timer => "timer",
        StepKind::Event => "event",
        StepKind::Task => "task",
    }
}

pub(crate) fn step_to(id: &StepId, step: &Step) -> wire::Step {
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

pub(crate) fn steps_to(steps: &[(StepId, Step)]) -> Vec<wire::Step> {
    steps.iter().map(|(id, step)| step_to(id, step)).collect()
}

pub(crate) fn run_to(ended: &EndedRun) -> wire::Run {
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
        worker: Some(ended.worker.clone()).filter(|worker| !worker.is_empty()),
        failure,
    }
}

fn reasons(view: &View, now_ms: u64) -> Vec<wire::Reason> {
    let reason =
        |kind: &str, until_ms: Option<u64>| wire::Reason { kind: kind.to_owned(), key: None, name: None, until_ms };
    match view.task.status {
        Status::Queued { due_ms } if due_ms > now_ms => vec![reason("due", Some(due_ms))],
        Status::Queued { .. } if view.paused => vec![reason("queue_paused", None)],
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

pub(crate) fn failure_in(status: &Status) -> Option<wire::Failure> {
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

pub(crate) fn task_to(view: &View, now_ms: u64) -> wire::Task {
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
        version: task.version.clone(),
        created_at_ms: spec.created_ms,
        due_at_ms,
        started_at_ms: task.first_started_ms,
        ended_at_ms,
        waiting: reasons(view, now_ms),
        live: view.shown.as_ref().map(live_to),
    }
}

fn live_to(shown: &Shown) -> wire::Live {
    let Shown { worker, step, progress, spoken } = shown;
    wire::Live {
        worker: worker.clone(),
        step: step.as_ref().map(|step| step.as_str().to_owned()),
        progress: progress.as_deref().map(raw),
        beat_ms_ago: spoken.map(millis),
    }
}

pub(crate) fn queue_to(name: &str, queue: &Queue) -> wire::Queue {
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

pub(crate) fn work_to(work: &Work) -> wire::Work {
    wire::Work {
        task: work.id.to_string(),
        run_id: work.run.to_string(),
        attempt: work.attempt,
        fence: fence_text(work.fence),
        name: work.spec.name.clone(),
        version: work.version.clone(),
        queue: work.spec.queue.clone(),
        input: raw(&work.spec.input),
        headers: raw(&work.spec.headers),
        steps: steps_to(&work.steps),
        steps_next: work.steps_next.as_ref().map(|id| id.as_str().to_owned()),
        lease_ms: millis(LEASE),
    }
}

pub(crate) fn signal_to(signal: &Signal) -> wire::Signal {
    let kind = match signal.by {
        Ending::Cancelled => "cancel",
        Ending::Lost | Ending::Completed | Ending::Failed | Ending::Suspended | Ending::Released => "lost",
    };
    wire::Signal { task: signal.task.to_string(), fence: fence_text(signal.fence), kind: kind.to_owned() }
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn worker_to(info: WorkerInfo) -> wire::Worker {
    wire::Worker {
        name: info.hello.name,
        sdk: info.hello.sdk,
        tasks: info.hello.tasks.into_iter().collect(),
        queues: info.hello.queues.into_iter().collect(),
        slots: info.hello.slots,
        held: info.held.iter().map(ToString::to_string).collect(),
        silent_ms: millis(info.silent),
    }
}

pub(crate) fn ack_to(ack: Ack) -> wire::Ack {
    match ack {
        Ack::Done => wire::Ack { ok: true, ..Default::default() },
        Ack::Spawned(Spawned { id, created, .. }) => {
            wire::Ack { ok: true, id: Some(id.to_string()), created: Some(created), ..Default::default() }
        }
        Ack::Emitted { created } => wire::Ack { ok: true, created: Some(created), ..Default::default() },
        Ack::Suspended(resumed) => wire::Ack { ok: true, resumed: Some(steps_to(&resumed)), ..Default::default() },
    }
}

pub(crate) fn refused_to(refused: Refused) -> wire::Ack {
    wire::Ack { ok: false, error: Some(refused.into_body().into()), ..Default::default() }
}
