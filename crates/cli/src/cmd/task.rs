//! `cairn task`: spawn, look at and act on tasks of a server.

use std::process::ExitCode;
use std::time::Duration;

use cairn_client::wire::{Each, Reason, RetryMode, Run, Spawn, Step, Task, TaskResult, WAIT_MS_MAX};
use cairn_client::{Client, Error};
use cairn_env::Env;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::target::{self, ServerArgs};
use crate::text;

/// Spawn, look at and act on tasks of a server
///
///     cairn task spawn order '{"id": 42}'
///     cairn task show ID
///     cairn task result ID --wait 30s
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Tasks {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Spawn(SpawnTask),
    Show(Show),
    Result(ResultOf),
    Cancel(Cancel),
    Retry(Retry),
}

/// Spawn a task: a worker that offers NAME takes it
#[derive(Args)]
struct SpawnTask {
    /// What workers know it by
    name: String,
    /// What it is called with, as JSON
    #[arg(default_value = "null")]
    input: String,
    /// The queue
    #[arg(long, default_value = "default")]
    queue: String,
    /// A second spawn with the same key in this queue is the first
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Not before so long from now, such as 10m
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration)]
    delay: Option<Duration>,
    /// The larger goes first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// How often to try
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// To find it by; may be given again
    #[arg(long = "tag", value_name = "NAME:VALUE")]
    tags: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Show a task: what it waits for, and its steps as a timeline
#[derive(Args)]
struct Show {
    /// The task's id
    id: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object: task, steps and runs
    #[arg(long)]
    json: bool,
}

/// Print what a task returned
///
/// Exit code 0: it completed; 1: it failed, was cancelled, or has not ended.
#[derive(Args)]
struct ResultOf {
    /// The task's id
    id: String,
    /// Wait for its end, for so long at most
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration, default_value = "0s")]
    wait: Duration,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Cancel a task; one that has ended stays as it is
#[derive(Args)]
struct Cancel {
    /// The task's id
    id: String,
    /// For whoever asks why
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Try a failed task again, with the steps it has
#[derive(Args)]
struct Retry {
    /// The task's id
    id: String,
    /// As a new task, from nothing
    #[arg(long = "new")]
    anew: bool,
    /// How many attempts more
    #[arg(long, value_name = "N", default_value_t = 1)]
    attempts: u32,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A server, and what waits for its answers.
pub(crate) struct Session {
    client: Client,
    runtime: Runtime,
}

impl Session {
    pub(crate) fn open(server: &ServerArgs) -> Result<Session, Failure> {
        let address = server.address(&Env::real())?;
        Ok(Session { client: Client::new(&address.url, address.token.as_deref())?, runtime: target::runtime()? })
    }

    pub(crate) fn call<T>(&self, call: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Failure> {
        Ok(self.runtime.block_on(call(&self.client))?)
    }
}

pub(crate) fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::new(format!("cannot write JSON: {e}")))
}

pub(crate) fn json_value(what: &str, text: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::new(format!("{what} is not JSON: {e}; write a text as '\"text\"'")))
}

impl Tasks {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Spawn(command) => command.run(),
            Command::Show(command) => command.run(),
            Command::Result(command) => command.run(),
            Command::Cancel(command) => command.run(),
            Command::Retry(command) => command.run(),
        }
    }
}

impl SpawnTask {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let tags = self.tags.iter().map(|tag| match tag.split_once(':') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Failure::new(format!("the tag \"{tag}\" is not of the form NAME:VALUE"))),
        });
        let spawn = Spawn {
            id: None,
            queue: Some(self.queue),
            name: self.name,
            input: json_value("the input", &self.input)?,
            headers: None,
            tags: tags.collect::<Result<_, Failure>>()?,
            idempotency_key: self.key,
            due_at_ms: None,
            delay_ms: self.delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            priority: self.priority,
            limit_key: None,
            retry: None,
            max_attempts: self.max_attempts,
            max_lost: None,
            cancel: None,
            pin: None,
        };
        let spawned = session.call(async |client| client.spawn(vec![spawn]).await)?;
        match spawned.into_iter().next() {
            Some(Each::Done(spawned)) => {
                output::line(&if self.json { json_text(&spawned)? } else { spawned.id })?;
                Ok(ExitCode::SUCCESS)
            }
            Some(Each::Refused(error)) => Err(Failure::new(error.message().to_owned())),
            None => Err(Failure::new("the server answered nothing about the task")),
        }
    }
}

#[derive(Serialize)]
struct Whole {
    task: Task,
    steps: Vec<Step>,
    runs: Vec<Run>,
}

impl Show {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let id = &self.id;
        let whole = session.call(async |client| {
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
            Ok(Whole { task, steps, runs: client.task_runs(id).await? })
        })?;
        if self.json {
            output::line(&json_text(&whole)?)?;
        } else {
            let mut lines = Lines::new();
            for line in drawn(&whole) {
                lines.text(&line)?;
            }
            lines.finish()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How many columns a timeline has.
const COLUMNS: u64 = 40;

/// A task, what it waits for, and its steps on a line of time.
fn drawn(whole: &Whole) -> Vec<String> {
    let Whole { task, steps, runs } = whole;
    let mut lines = vec![
        format!("task     {}", task.id),
        format!("name     {} in queue {}", task.name, task.queue),
        format!("status   {}, attempt {} of {}", task.status, task.attempt, task.max_attempts),
        format!("input    {}", text::shortened(task.input.get().as_bytes(), 200)),
    ];
    lines
        .extend(task.output.iter().map(|output| format!("output   {}", text::shortened(output.get().as_bytes(), 200))));
    lines.extend(task.failure.iter().map(|failure| format!("failure  {}: {}", failure.kind, failure.message)));
    lines.extend(task.waiting.iter().map(|reason| format!("waits    {}", waits_for(reason))));
    let begin = task.created_at_ms;
    let last = steps.iter().map(|step| step.at_ms).chain(task.ended_at_ms).max().unwrap_or(begin);
    let span = last.saturating_sub(begin).max(1);
    let width = steps.iter().map(|step| step.key.chars().count()).max().unwrap_or(0).min(32);
    for step in steps {
        let after = step.at_ms.saturating_sub(begin);
        let column = usize::try_from(after.saturating_mul(COLUMNS - 1) / span).unwrap_or(0);
        let line: String = (0..COLUMNS as usize).map(|at| if at == column { '#' } else { '.' }).collect();
        let what = match (&step.value, &step.failure) {
            (Some(value), _) => text::shortened(value.get().as_bytes(), 60).to_string(),
            (None, Some(failure)) => format!("{}: {}", failure.kind, failure.message),
            (None, None) => step.outcome.clone(),
        };
        lines.push(format!("{:>4} {:width$} {line} +{} {} {what}", step.seq, step.key, span_text(after), step.kind));
    }
    for run in runs {
        let failure = run.failure.as_ref().map_or_else(String::new, |f| format!(": {}: {}", f.kind, f.message));
        let ended = span_text(run.ended_at_ms.saturating_sub(begin));
        lines.push(format!("run      attempt {} {} after {ended}{failure}", run.attempt, run.status));
    }
    lines
}

fn span_text(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

fn waits_for(reason: &Reason) -> String {
    let name = reason.name.as_deref().unwrap_or_default();
    let what = match reason.kind.as_str() {
        "due" => "for its time".to_owned(),
        "timer" => "for a moment".to_owned(),
        "event" => format!("for the event {name}"),
        "task" => format!("for the end of task {name}"),
        "queue_paused" => "because its queue is paused".to_owned(),
        "no_worker" => "for a worker that offers its name; none is there".to_owned(),
        other => format!("for {other} {name}"),
    };
    let until =
        reason.until_ms.map_or_else(String::new, |until_ms| format!(", until {until_ms} ms since 1970 at the latest"));
    let step = reason.key.as_ref().map_or_else(String::new, |key| format!(" (step {key})"));
    format!("{what}{until}{step}")
}

impl ResultOf {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let mut left = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        let result = loop {
            let wait_ms = left.min(WAIT_MS_MAX);
            left -= wait_ms;
            let id = &self.id;
            let result = session.call(async |client| client.task_result(id, wait_ms).await)?;
            let ended = matches!(result.status.as_str(), "completed" | "failed" | "cancelled");
            if ended || left == 0 {
                break result;
            }
        };
        let TaskResult { status, output, failure } = &result;
        if self.json {
            output::line(&json_text(&result)?)?;
        } else if let Some(output) = output {
            output::line(output.get())?;
        } else if let Some(failure) = failure {
            output::message(&format!("{status}: {}: {}", failure.kind, failure.message));
        } else {
            output::message(&format!("it is {status} and has not ended"));
        }
        Ok(if status == "completed" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Cancel {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let task = session.call(async |client| client.cancel_task(&self.id, self.reason.as_deref()).await)?;
        output::line(&if self.json { json_text(&task)? } else { task.status })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Retry {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let mode = if self.anew { RetryMode::New } else { RetryMode::InPlace };
        let task = session.call(async |client| client.retry_task(&self.id, mode, self.attempts).await)?;
        output::line(&if self.json { json_text(&task)? } else { task.id })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_drawn_on_a_line_of_time() {
        let text = r#"{"task": {"id": "T", "queue": "default", "name": "order", "status": "waiting", "run_id": "R", "attempt": 1,
            "max_attempts": 5, "lost": 0, "input": {"n": 1}, "headers": {}, "created_at_ms": 1000,
            "waiting": [{"kind": "event", "key": "packed", "name": "packed:1"}]},
            "steps": [{"key": "charge", "seq": 1, "kind": "step", "status": "done", "outcome": "value", "value": 17, "attempt": 1, "at_ms": 1000},
                      {"key": "nap", "seq": 2, "kind": "timer", "status": "done", "outcome": "value", "value": null, "attempt": 1, "at_ms": 61000}],
            "runs": []}"#;
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let whole = Whole {
            task: serde_json::from_str(&value["task"].to_string()).unwrap(),
            steps: serde_json::from_str(&value["steps"].to_string()).unwrap(),
            runs: Vec::new(),
        };
        assert_eq!(
            drawn(&whole),
            [
                "task     T",
                "name     order in queue default",
                "status   waiting, attempt 1 of 5",
                "input    {\"n\":1}",
                "waits    for the event packed:1 (step packed)",
                "   1 charge #....................................... +0ms step 17",
                "   2 nap    .......................................# +60.0s timer null",
            ]
        );
    }
}
