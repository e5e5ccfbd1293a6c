//! What a task is about to do, in words: for the commands that show tasks to people.

use cairn_client::wire::{Failure, Reason, Task};
use serde_json::{Number, Value};

use crate::text::{Escaped, escaped, plain, shortened};
use crate::when;

/// A message is cut at so many bytes where it shares its line.
const MESSAGE_BYTES_MAX: usize = 120;

/// Whether a task in this state may still change by itself.
pub(crate) fn is_open(status: &str) -> bool {
    !matches!(status, "completed" | "failed" | "cancelled")
}

/// How many attempts have begun. A task is spawned with its first one, which has not until a worker has the task.
pub(crate) fn begun(task: &Task) -> u32 {
    match (task.attempt, task.started_at_ms) {
        (1, None) => 0,
        (attempt, _) => attempt,
    }
}

/// What a task waits for, as the rest of the sentence "it waits".
pub(crate) fn waits(task: &Task, reason: &Reason, now_ms: u64) -> String {
    let name = plain(reason.name.as_deref().unwrap_or_default());
    let (queue, own) = (plain(&task.queue), plain(&task.name));
    let until = |before: &str| {
        reason.until_ms.map_or_else(String::new, |until_ms| format!("{before}{}", when::from_now(until_ms, now_ms)))
    };
    let at_most = until("; it gives up ");
    match reason.kind.as_str() {
        "due" if task.attempt > 1 => format!("for its next attempt{}", until(", ")),
        "due" => format!("for the time that it was spawned for{}", until(", ")),
        "timer" => format!("for its sleep to end{}", until(", ")),
        "event" => format!("for the event {name}{at_most}"),
        "task" => format!("for the end of task {name}{at_most}"),
        "queue_paused" => format!("for queue {queue}, which is paused: cairn queue resume {queue}"),
        "no_worker" => format!("for a worker: none that is there takes {own} from queue {queue}"),
        other => format!("for {} {name}{at_most}", plain(other)),
    }
}

/// A failure on a line that it shares: a long message is cut.
pub(crate) fn failure(failure: &Failure) -> String {
    said(failure, shortened(failure.message.as_bytes(), MESSAGE_BYTES_MAX))
}

/// A failure on a line, however long.
pub(crate) fn whole_failure(failure: &Failure) -> String {
    said(failure, escaped(failure.message.as_bytes()))
}

/// The kind and the message; of a task that was cancelled only why, as its status says the rest.
fn said(failure: &Failure, message: Escaped) -> String {
    match (failure.kind.as_str(), failure.message.as_str()) {
        ("cancelled", _) => message.to_string(),
        (kind, "") => plain(kind),
        (kind, _) => format!("{}: {message}", plain(kind)),
    }
}

/// How far a task says that it is: a text as it stands, `{"percent": 40}` and `{"done": 3, "total": 8}` as people say
/// them, anything else as JSON.
pub(crate) fn progress(json: &str) -> String {
    let as_json = || format!("progress {}", shortened(json.as_bytes(), MESSAGE_BYTES_MAX));
    let Ok(value) = serde_json::from_str::<Value>(json) else { return as_json() };
    let number = |name: &str| value.get(name).and_then(Value::as_number).map(Number::to_string);
    let fields = value.as_object().map_or(0, serde_json::Map::len);
    match (&value, number("percent"), number("done"), number("total")) {
        (Value::String(text), ..) => shortened(text.as_bytes(), MESSAGE_BYTES_MAX).to_string(),
        (_, Some(percent), ..) if fields == 1 => format!("{percent} %"),
        (_, _, Some(done), Some(total)) if fields == 2 => format!("{done} of {total}"),
        _ => as_json(),
    }
}

/// Why a task is as it is, on one line: what it waits for, how it failed, how long it took.
pub(crate) fn why(task: &Task, now_ms: u64) -> String {
    match (task.status.as_str(), task.waiting.as_slice(), &task.failure) {
        (_, _, Some(of_task)) => failure(of_task),
        ("completed", _, _) => {
            let took = task.ended_at_ms.map(|ended| when::span(ended.saturating_sub(task.created_at_ms)));
            took.map_or_else(String::new, |took| format!("took {took}"))
        }
        ("queued", [], _) => "for a free slot of a worker".to_owned(),
        (_, [], _) => String::new(),
        (_, [reason], _) => waits(task, reason, now_ms),
        (_, [reason, more @ ..], _) => format!("{}, or {} more", waits(task, reason, now_ms), more.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(attempt: u32, status: &str, waiting: &str) -> Task {
        let text = format!(
            r#"{{"id": "T", "queue": "mail", "name": "order", "status": "{status}", "run_id": "R", "attempt": {attempt},
            "max_attempts": 5, "lost": 0, "input": 1, "headers": {{}}, "created_at_ms": 1000, "waiting": [{waiting}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn progress_is_said_as_people_say_it() {
        for (json, words) in [
            ("\"half\\u001b\"", "half\\u{1b}"),
            (r#"{"percent": 40}"#, "40 %"),
            (r#"{"percent": 12.5}"#, "12.5 %"),
            (r#"{"done": 3, "total": 8}"#, "3 of 8"),
            (r#"{"percent": "40"}"#, r#"progress {"percent": "40"}"#),
            (r#"{"percent": 40, "eta": "soon"}"#, r#"progress {"percent": 40, "eta": "soon"}"#),
            ("40", "progress 40"),
            ("null", "progress null"),
        ] {
            assert_eq!(progress(json), words);
        }
    }

    #[test]
    fn every_reason_is_a_sentence() {
        for (reason, words) in [
            (r#"{"kind": "due", "until_ms": 65000}"#, "for the time that it was spawned for, in 1 m"),
            (r#"{"kind": "timer", "key": "nap", "until_ms": 8000}"#, "for its sleep to end, in 3 s"),
            (r#"{"kind": "event", "key": "k", "name": "packed:1\u001b[2J"}"#, "for the event packed:1\\u{1b}[2J"),
            (r#"{"kind": "event", "name": "e", "until_ms": 8000}"#, "for the event e; it gives up in 3 s"),
            (r#"{"kind": "task", "name": "C"}"#, "for the end of task C"),
            (r#"{"kind": "queue_paused"}"#, "for queue mail, which is paused: cairn queue resume mail"),
            (r#"{"kind": "no_worker"}"#, "for a worker: none that is there takes order from queue mail"),
            (r#"{"kind": "moon", "name": "full"}"#, "for moon full"),
        ] {
            let task = task(1, "waiting", reason);
            assert_eq!(why(&task, 5_000), words);
        }
        let again = task(2, "queued", r#"{"kind": "due", "until_ms": 8000}"#);
        assert_eq!(why(&again, 5_000), "for its next attempt, in 3 s");
        let two = task(1, "waiting", r#"{"kind": "event", "name": "e"}, {"kind": "timer", "until_ms": 8000}"#);
        assert_eq!(why(&two, 5_000), "for the event e, or 1 more");
        assert_eq!(why(&task(1, "queued", ""), 5_000), "for a free slot of a worker");
        assert_eq!(why(&task(1, "running", ""), 5_000), "");
    }
}
