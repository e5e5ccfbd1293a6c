//! `cairn task`: spawn, look at and act on tasks of a server.
//!
//! The commands that show tasks to people have a file each; they share what there is to say of one (`words`).

mod list;
mod show;
mod tail;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use cairn_client::wire::{Each, RetryMode, Spawn, TaskResult, WAIT_MS_MAX};
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output;
use crate::session::{Session, json_text, json_value};
use crate::target::ServerArgs;
use crate::text;

/// Spawn, look at and act on tasks of a server
///
///     cairn task spawn order '{"id": 42}'
///     cairn task list --status running
///     cairn task tail
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
    List(list::List),
    Tail(tail::Tail),
    Show(show::Show),
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
    /// A second spawn with the same key in this queue spawns nothing: it answers with the first task
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
    /// How many workers may vanish with it; 3 unless said otherwise
    #[arg(long, value_name = "N")]
    max_lost: Option<u32>,
    /// To find it by; may be given again
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
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
    /// Wait for its end, for so long at most, such as 30s
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
    #[arg(long = "new", conflicts_with = "attempts")]
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

impl Tasks {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Spawn(command) => command.run(),
            Command::List(command) => command.run(),
            Command::Tail(command) => command.run(),
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
        let tags = self.tags.iter().map(|tag| match tag.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Failure::new(format!("the tag \"{tag}\" is not of the form NAME=VALUE"))),
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
            max_lost: self.max_lost,
            cancel: None,
            pin: None,
        };
        let spawned = session.call(async |client| client.spawn(vec![spawn]).await)?;
        match spawned.into_iter().next() {
            Some(Each::Done(spawned)) => {
                if !self.json && !spawned.created {
                    output::message("there was one before; that one stands");
                }
                output::line(&if self.json { json_text(&spawned)? } else { spawned.id })?;
                Ok(ExitCode::SUCCESS)
            }
            Some(Each::Refused(error)) => Err(error.into()),
            None => Err(Failure::new("the server answered nothing about the task")),
        }
    }
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
            let why = words::whole_failure(failure);
            let colon = if why.is_empty() { "" } else { ": " };
            output::message(&format!("{status}{colon}{why}"));
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
