//! What is stored of tasks: rows and keys, as the store gives them back.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use cairn_durable::id::{RunId, TaskId};
use cairn_durable::key::{self, Entry, Expiring, Lane};
use cairn_durable::queue::{Event, Queue, QueueStatus};
use cairn_durable::retry::Retry;
use cairn_durable::rows::{Row, decode_wait, encode_wait};
use cairn_durable::step::{Outcome, Step, StepId, StepKind};
use cairn_durable::task::{
    Cancellation, EndedRun, Ending, Failure, Fence, HandedBack, Run, RunStatus, Spec, Status, Task,
};
use cairn_durable::wait::{Target, Wait};

/// A row: the first byte says of which record.
///
/// ```text
/// input := record:u8 row
/// ```
pub(crate) fn rows(input: &[u8]) {
    let Some((record, row)) = input.split_first() else { return };
    let again = match record % 8 {
        0 => Spec::decode(row).ok().map(|spec| spec.encode()),
        1 => Task::decode(row).ok().map(|task| task.encode()),
        2 => EndedRun::decode(row).ok().map(|run| run.encode()),
        3 => Step::decode(row).ok().map(|step| step.encode()),
        4 => decode_wait(step_id(), row).ok().map(|wait| encode_wait(&wait)),
        5 => Queue::decode(row).ok().map(|queue| queue.encode()),
        6 => Event::decode(row).ok().map(|event| event.encode()),
        _ => Outcome::decode(row).ok().map(|outcome| outcome.encode()),
    };
    if let Some(again) = again {
        assert_eq!(again, row, "a record has one encoding");
    }
}

/// A key, and two keys one behind the other.
pub(crate) fn keys(input: &[u8]) {
    let parsed = Entry::parse(input);
    if let Some(entry) = &parsed {
        assert_eq!(entry.key(), input, "an entry has one key");
    }
    for at in [input.len() / 2, 17.min(input.len())] {
        let (first, second) = input.split_at(at);
        if let (Some(a), Some(b)) = (Entry::parse(first), Entry::parse(second)) {
            assert_eq!(a.cmp(&b), first.cmp(second), "entries sort as their keys do");
        }
    }
    if let Some((queue, target)) = key::unfinished(input) {
        assert_eq!(key::of_unfinished(&queue, &target).as_deref(), Some(input));
    }
    if let Some((task, target)) = key::untold(input) {
        assert_eq!(key::of_untold(task, &target).as_deref(), Some(input));
    }
    if let (Some(task), Some(step), [tag, ..]) =
        (input.get(1..17).and_then(|id| <[u8; 16]>::try_from(id).ok()), key::step_id(input), input)
    {
        let task = TaskId::from_bytes(task);
        let again = if *tag == b'w' { key::of_wait(task, &step) } else { key::of_step(task, &step) };
        assert_eq!(again.get(1..), input.get(1..), "a step has one key");
    }
    if let Some(task) = key::task_of(input) {
        assert_eq!(key::of_task(key::Part::Task, task).get(1..), input.get(1..), "a task has one key");
    }
}

fn step_id() -> StepId {
    StepId::new("ship/a%2Fb#2").expect("one of its own")
}

pub(crate) fn rows_seeds() -> Vec<Vec<u8>> {
    let json = |text: &str| text.as_bytes().into();
    let failure =
        Failure { kind: "Oops".to_owned(), message: "it broke".to_owned(), detail: Some(json("[1]")), retryable: true };
    let id = TaskId::new(1_763_800_000_000, [7; 10]);
    let run = Run { id: RunId::new(1_763_800_000_000, [9; 10]), attempt: 2, started_ms: Some(1_763_800_000_300) };
    let fence = Fence { instance: 0x0102_0304_0506_0708, count: 300 };
    let spec = |retry, parent| Spec {
        queue: "default".to_owned(),
        name: "order".to_owned(),
        input: json("{\"n\":1}"),
        headers: json("{}"),
        tags: vec![("customer".to_owned(), "17".to_owned()), ("\u{e9}".to_owned(), String::new())],
        priority: -3,
        retry,
        max_lost: 3,
        cancellation: Cancellation { max_delay_ms: Some(60_000), max_duration_ms: None },
        created_ms: 1_763_800_000_000,
        parent,
    };
    let task = |status, handed_back: Option<HandedBack>| Task {
        status,
        run,
        max_attempts: 5,
        lost: 1,
        runs_ended: 1,
        steps: 300,
        first_started_ms: Some(1_763_800_000_300),
        version: handed_back.map(|_| "2.1".to_owned()),
        handed_back,
    };
    let step = |kind, outcome| Step { seq: 1, kind, attempt: 2, at_ms: 1_763_800_000_400, outcome };
    let failed = |retry_at_ms| Outcome::Failed { failure: failure.clone(), retry_at_ms };
    let wait = |target, group: Option<&str>| Wait {
        id: step_id(),
        group: group.map(str::to_owned),
        target,
        timeout_at_ms: group.map(|_| 1_763_800_009_000),
    };
    let mut seeds = Vec::new();
    let mut seed = |record: u8, row: Vec<u8>| seeds.push([vec![record], row].concat());
    seed(0, spec(Retry::None, None).encode());
    seed(0, spec(Retry::Fixed { base_ms: 1_000, jitter: 0.5 }, Some(id)).encode());
    seed(0, spec(Retry::Exponential { base_ms: 1_000, factor: 2.0, max_ms: 300_000, jitter: 0.0 }, None).encode());
    let ended_ms = 1_763_800_001_000;
    for status in [
        Status::Queued { due_ms: ended_ms },
        Status::Running { fence },
        Status::Waiting { since_ms: ended_ms },
        Status::Completed { ended_ms },
        Status::Failed { ended_ms, failure: failure.clone() },
        Status::Cancelled { ended_ms, reason: "enough".to_owned() },
    ] {
        seed(1, task(status.clone(), None).encode());
        seed(1, task(status, Some(HandedBack { fence, by: Ending::Suspended })).encode());
    }
    for status in [RunStatus::Done, RunStatus::Failed(failure.clone()), RunStatus::Lost, RunStatus::Cancelled] {
        seed(2, EndedRun { run, ended_ms, worker: "w1".to_owned(), status }.encode());
    }
    for outcome in
        [Outcome::Value(json("17")), failed(None), failed(Some(ended_ms)), Outcome::Cancelled, Outcome::TimedOut]
    {
        seed(3, step(StepKind::Task, outcome.clone()).encode());
        seed(7, outcome.encode());
    }
    seed(4, encode_wait(&wait(Target::Timer(ended_ms), None)));
    seed(4, encode_wait(&wait(Target::Event("packed:1".to_owned()), Some("any"))));
    seed(4, encode_wait(&wait(Target::Task(id), None)));
    seed(5, Queue::default().encode());
    seed(5, Queue { status: QueueStatus::Paused, max_waiting: Some(u64::MAX - 1), ..Queue::default() }.encode());
    seed(6, Event { at_ms: ended_ms, payload: json("{\"ok\":true}") }.encode());
    seeds
}

pub(crate) fn keys_seeds() -> Vec<Vec<u8>> {
    let (id, other) = (TaskId::new(1_763_800_000_000, [7; 10]), TaskId::new(1_763_800_000_001, [0; 10]));
    let lane = Lane { queue: "default".to_owned(), name: "order".to_owned(), rank: 0x7fff_ffff };
    let (live, timer) = (Entry::Live(id), Entry::Timer { due_ms: 1_763_800_000_300, task: id });
    let entries = [
        Entry::Ready { lane, due_ms: 1_763_800_000_300, task: id },
        Entry::ForEvent { queue: "default".to_owned(), event: "packed:1".to_owned(), task: id },
        Entry::ForTask { target: id, task: other },
        Entry::Expiry { due_ms: 1_763_800_000_300, of: Expiring::Task(id) },
        Entry::Expiry {
            due_ms: 300,
            of: Expiring::Event { queue: "default".to_owned(), event: "packed:1".to_owned() },
        },
    ];
    let mut seeds: Vec<Vec<u8>> = entries.iter().map(Entry::key).collect();
    seeds.push([live.key(), timer.key()].concat());
    seeds.extend([live.key(), timer.key()]);
    seeds.extend(key::of_unfinished("default", &Target::Event("packed:1".to_owned())));
    seeds.extend(key::of_unfinished("", &Target::Task(id)));
    seeds.push(key::of_step(id, &step_id()));
    seeds.push(key::of_wait(id, &step_id()));
    seeds.push(key::of_task(key::Part::Output, id));
    seeds
}
