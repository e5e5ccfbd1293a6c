//! `cairn task show`: one task, why it is as it is, and what happened to it when.

use std::process::ExitCode;

use cairn_client::Client;
use cairn_client::wire::{Run, Step, Task, Worker};
use cairn_env::Env;
use clap::Args;
use serde::Serialize;

use crate::cmd::task::words::{self, begun, is_open};
use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::session::{Session, json_text};
use crate::table::{Side, aligned};
use crate::target::ServerArgs;
use crate::text::{plain, shortened};
use crate::when;

/// How many columns the bars have.
const COLUMNS: usize = 24;
/// Of an input or an output so many bytes are shown, of the value of a step so many.
const PAYLOAD_BYTES_MAX: usize = 200;
const VALUE_BYTES_MAX: usize = 60;

/// Show a task: what it waits for, and what happened to it when
#[derive(Args)]
pub(crate) struct Show {
    /// The task's id
    id: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object: the task, its steps, its ended runs, and the worker that has it
    #[arg(long)]
    json: bool,
}

/// All that is known of a task.
#[derive(Serialize)]
struct Whole {
    task: Task,
    steps: Vec<Step>,
    runs: Vec<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<Worker>,
}

impl Show {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let whole = session.call(async |client| read(client, &self.id).await)?;
        if self.json {
            output::line(&json_text(&whole)?)?;
        } else {
            let mut lines = Lines::new();
            drawn(&whole, Env::real().unix_time_ms()).iter().try_for_each(|line| lines.text(line))?;
            lines.finish()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn read(client: &Client, id: &str) -> Result<Whole, cairn_client::Error> {
    let task = client.task(id).await?;
    let (mut steps, mut after) = (Vec::new(), None);
    loop {
        let page = client.task_steps(id, after.as_deref()).await?;
        steps.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    steps.sort_by_key(|step| step.seq);
    let runs = client.task_runs(id).await?;
    let workers = if task.status == "running" { client.workers().await? } else { Vec::new() };
    let worker = workers.into_iter().find(|worker| worker.held.contains(&task.id));
    Ok(Whole { task, steps, runs, worker })
}

/// A task in lines.
fn drawn(whole: &Whole, now_ms: u64) -> Vec<String> {
    let mut lines = facts(whole, now_ms);
    lines.push(String::new());
    lines.extend(timeline(whole, now_ms));
    lines
}

/// What there is to say of it, a line each.
fn facts(whole: &Whole, now_ms: u64) -> Vec<String> {
    let task = &whole.task;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut say = |what: &str, text: String| rows.push(vec![what.to_owned(), text]);
    say("task", task.id.clone());
    say("name", format!("{} in queue {}", plain(&task.name), plain(&task.queue)));
    task.version.iter().for_each(|version| say("version", plain(version)));
    let lost = match task.lost {
        0 => String::new(),
        lost => format!("; {} lost to vanished workers", crate::text::counted(u64::from(lost), "run", "runs")),
    };
    say("status", format!("{}, attempt {} of {}{lost}", task.status, begun(task), task.max_attempts));
    say("made", format!("{}, {}", when::moment(task.created_at_ms), when::from_now(task.created_at_ms, now_ms)));
    if let Some(ended_ms) = task.ended_at_ms {
        let took = when::span(ended_ms.saturating_sub(task.created_at_ms));
        say("ended", format!("{}, {}, after {took}", when::moment(ended_ms), when::from_now(ended_ms, now_ms)));
    }
    task.parent.iter().for_each(|parent| say("child of", parent.clone()));
    for (tag, value) in &task.tags {
        say("tag", format!("{}={}", plain(tag), plain(value)));
    }
    say("input", shortened(task.input.get().as_bytes(), PAYLOAD_BYTES_MAX).to_string());
    if let Some(output) = &task.output {
        say("output", shortened(output.get().as_bytes(), PAYLOAD_BYTES_MAX).to_string());
    }
    if let Some(failure) = &task.failure {
        say(if task.status == "cancelled" { "because" } else { "failure" }, words::failure(failure));
    }
    for reason in &task.waiting {
        let until = reason.until_ms.map_or_else(String::new, |until_ms| format!(" ({})", when::moment(until_ms)));
        let step = reason.key.as_ref().map_or_else(String::new, |key| format!("; step {}", plain(key)));
        say("waits", format!("{}{until}{step}", words::waits(task, reason, now_ms)));
    }
    match task.status.as_str() {
        "queued" if task.waiting.is_empty() => say("waits", words::why(task, now_ms)),
        "running" => say("running", running(whole)),
        _ => {}
    }
    aligned(&rows, &[])
}

/// On which worker a task runs, how far it is there, and how fresh that is.
fn running(whole: &Whole) -> String {
    let Some(live) = &whole.task.live else {
        return "but no worker has said hello for it since the server began".to_owned();
    };
    let sdk = whole.worker.as_ref().map_or_else(String::new, |worker| format!(" ({})", plain(&worker.sdk)));
    let step = live.step.as_ref().map_or_else(String::new, |step| format!(", at step \"{}\"", plain(step)));
    let far = live.progress.as_ref().map_or_else(String::new, |far| format!(", {}", words::progress(far.get())));
    let heard = live.beat_ms_ago.map_or_else(
        || "; it has not spoken of it yet".to_owned(),
        |ago_ms| format!("; it spoke of it {} ago", when::span(ago_ms)),
    );
    format!("on {}{sdk}{step}{far}{heard}", plain(&live.worker))
}

/// Something that happened.
struct Mark {
    at_ms: u64,
    /// Marks of one moment stand in the order in which they must have happened: by attempt, then by place.
    attempt: u32,
    place: u32,
    what: String,
    name: String,
    outcome: String,
    detail: String,
}

/// What happened, in order: when, how long after what came before, as a bar from then to then.
fn timeline(whole: &Whole, now_ms: u64) -> Vec<String> {
    let task = &whole.task;
    let marks = marks(whole, now_ms);
    let begin = task.created_at_ms;
    let total = marks.iter().map(|mark| mark.at_ms.saturating_sub(begin)).max().unwrap_or(0).max(1);
    let column = |ms: u64| {
        let column = u128::from(ms) * (COLUMNS as u128 - 1) / u128::from(total);
        usize::try_from(column).unwrap_or(COLUMNS - 1)
    };
    let mut rows = vec![["AT", "AFTER", "", "WHAT", "NAME", "TRY", "OUTCOME"].map(str::to_owned).to_vec()];
    let mut before = 0;
    for mark in marks {
        let at = mark.at_ms.saturating_sub(begin);
        let (from, to) = (column(before), column(at));
        let bar = (0..COLUMNS).map(|place| match place {
            _ if place == to => '#',
            _ if (from..to).contains(&place) => '=',
            _ => '.',
        });
        let attempt = if mark.attempt == 0 { String::new() } else { mark.attempt.to_string() };
        let outcome = format!("{}  {}", mark.outcome, mark.detail);
        rows.push(vec![
            when::span(at),
            format!("+{}", when::span(at.saturating_sub(before))),
            bar.collect(),
            mark.what,
            mark.name,
            attempt,
            outcome,
        ]);
        before = at;
    }
    aligned(&rows, &[Side::Right, Side::Right, Side::Left, Side::Left, Side::Left, Side::Right])
}

fn marks(whole: &Whole, now_ms: u64) -> Vec<Mark> {
    let Whole { task, steps, runs, .. } = whole;
    let mark = |at_ms, attempt, place, what: &str, outcome: &str| Mark {
        at_ms,
        attempt,
        place,
        what: what.to_owned(),
        name: String::new(),
        outcome: outcome.to_owned(),
        detail: String::new(),
    };
    let mut marks = vec![mark(task.created_at_ms, 0, 0, "task", "spawned")];
    for run in runs {
        marks.extend(run.started_at_ms.map(|at_ms| mark(at_ms, run.attempt, 0, "run", "begun")));
        let by = run.worker.as_ref().map_or_else(String::new, |worker| format!("by {}", plain(worker)));
        let why = run.failure.as_ref().map_or_else(String::new, words::failure);
        let detail = [by, why].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        marks.push(Mark { detail, ..mark(run.ended_at_ms, run.attempt, u32::MAX, "run", &run.status) });
    }
    // Of the run under way nobody says when it began, unless it is the first.
    if let Some(at_ms) = task.started_at_ms.filter(|_| runs.is_empty()) {
        marks.push(mark(at_ms, 1, 0, "run", "begun"));
    }
    for step in steps {
        let detail = match (&step.value, &step.failure) {
            (Some(value), _) => shortened(value.get().as_bytes(), VALUE_BYTES_MAX).to_string(),
            (None, Some(failure)) => words::failure(failure),
            (None, None) => String::new(),
        };
        let again = step.retry_at_ms.map_or_else(String::new, |at| format!("; again {}", when::from_now(at, now_ms)));
        let outcome = if step.outcome == "value" { "done" } else { step.outcome.as_str() };
        marks.push(Mark {
            name: plain(&step.key),
            detail: format!("{detail}{again}"),
            ..mark(step.at_ms, step.attempt, step.seq, &step.kind, &outcome.replace('_', " "))
        });
    }
    let ended_without_run = |at_ms: &u64| runs.iter().all(|run| run.ended_at_ms != *at_ms);
    if let Some(at_ms) = task.ended_at_ms.filter(ended_without_run) {
        marks.push(mark(at_ms, begun(task), u32::MAX, "task", &task.status));
    }
    marks.sort_by_key(|mark| (mark.at_ms, mark.attempt, mark.place));
    if is_open(&task.status) {
        let last_ms = marks.last().map_or(now_ms, |mark| mark.at_ms.max(now_ms));
        marks.push(mark(last_ms, 0, 0, "now", &task.status));
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(task: &str, steps: &str, runs: &str) -> Whole {
        let task = format!(
            r#"{{"id": "T", "queue": "default", "name": "order", "run_id": "R", "max_attempts": 5, "input": {{"n": 1}},
            "headers": {{}}, "created_at_ms": 1763842500000, {task}}}"#
        );
        Whole {
            task: serde_json::from_str(&task).unwrap(),
            steps: serde_json::from_str(steps).unwrap(),
            runs: serde_json::from_str(runs).unwrap(),
            worker: None,
        }
    }

    #[test]
    fn a_running_task_says_where_and_how_far() {
        for (live, words) in [
            ("", "but no worker has said hello for it since the server began"),
            (r#", "live": {"worker": "w1"}"#, "on w1; it has not spoken of it yet"),
            (
                r#", "live": {"worker": "w\u001b1", "step": "charge", "progress": {"percent": 40}, "beat_ms_ago": 3290}"#,
                "on w\\u{1b}1, at step \"charge\", 40 %; it spoke of it 3.2 s ago",
            ),
        ] {
            let whole = whole(&format!(r#""status": "running", "attempt": 1, "lost": 0{live}"#), "[]", "[]");
            assert_eq!(running(&whole), words);
        }
    }

    #[test]
    fn a_waiting_task_is_drawn_from_its_spawn_until_now() {
        let whole = whole(
            r#""status": "waiting", "attempt": 2, "lost": 1, "started_at_ms": 1763842500005, "tags": {"customer": "17"},
               "version": "2\u001b",
               "waiting": [{"kind": "event", "key": "packed", "name": "packed:1", "until_ms": 1763846100000}]"#,
            r#"[{"key": "charge", "seq": 1, "kind": "step", "status": "done", "outcome": "value", "value": 17, "attempt": 1, "at_ms": 1763842501000},
                {"key": "nap", "seq": 2, "kind": "timer", "status": "done", "outcome": "value", "value": null, "attempt": 2, "at_ms": 1763842561000},
                {"key": "late", "seq": 3, "kind": "event", "status": "failed", "outcome": "timed_out", "attempt": 2, "at_ms": 1763842561000}]"#,
            r#"[{"run_id": "R", "attempt": 1, "status": "failed", "started_at_ms": 1763842500005, "ended_at_ms": 1763842501000,
                 "failure": {"kind": "Oops", "message": "it broke"}}]"#,
        );
        let expected = "\
task     T
name     order in queue default
version  2\\u{1b}
status   waiting, attempt 2 of 5; 1 run lost to vanished workers
made     2025-11-22T20:15:00Z, 2 m ago
tag      customer=17
input    {\"n\": 1}
waits    for the event packed:1; it gives up in 58 m (2025-11-22T21:15:00Z); step packed

     AT    AFTER                            WHAT   NAME    TRY  OUTCOME
   0 ms    +0 ms  #.......................  task                spawned
   5 ms    +5 ms  #.......................  run              1  begun
    1 s  +995 ms  #.......................  step   charge    1  done  17
    1 s    +0 ms  #.......................  run              1  failed  Oops: it broke
1 m 1 s     +1 m  ===========#............  timer  nap       2  done  null
1 m 1 s    +0 ms  ...........#............  event  late      2  timed out
    2 m    +59 s  ...........============#  now                 waiting";
        let lines = drawn(&whole, 1_763_842_620_000).join("\n");
        assert_eq!(lines, expected);
    }
}
