//! `cairn queue`: the queues that tasks stand in.

use std::process::ExitCode;
use std::time::Duration;

use cairn_client::wire::{Queue, QueueRequest};
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::session::{Session, json_text};
use crate::table::aligned;
use crate::target::ServerArgs;
use crate::text::{self, plain};
use crate::when;

/// List, make, change, pause, resume and delete the queues of a server
#[derive(Args)]
pub(crate) struct Queues {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List all queues
    List(Plain),
    /// Show a queue
    Show(Named),
    /// Make a queue, or change what is set of it
    Set(Set),
    /// Hand out no more of its tasks; those that run go on
    Pause(Named),
    /// Hand out its tasks again
    Resume(Named),
    /// Delete a queue and its events, once all its tasks have ended; those are kept as long as they would have been
    Delete(Named),
}

#[derive(Args)]
struct Plain {
    #[command(flatten)]
    server: ServerArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Named {
    /// The queue
    name: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Set {
    /// The queue
    name: String,
    /// How long a task is kept that has ended
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// How long an event is kept, such as 720h
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration)]
    event_ttl: Option<Duration>,
    /// So many of its tasks may be queued, or "any"; beyond that a spawn is refused, unless a running task makes it
    #[arg(long, value_name = "N", value_parser = number_or_any)]
    max_waiting: Option<MaxWaiting>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How many tasks may be queued; any number if there is none.
#[derive(Clone, Copy)]
struct MaxWaiting(Option<u64>);

fn number_or_any(text: &str) -> Result<MaxWaiting, String> {
    match text {
        "any" => Ok(MaxWaiting(None)),
        number => number.parse().map(|max| MaxWaiting(Some(max))).map_err(|_| "a number, or any".to_owned()),
    }
}

impl Queues {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(command) => command.run(),
            Command::Show(command) => command.run(async |client, name| client.queue(name).await),
            Command::Set(command) => command.run(),
            Command::Pause(command) => command.run(async |client, name| client.pause_queue(name, true).await),
            Command::Resume(command) => command.run(async |client, name| client.pause_queue(name, false).await),
            Command::Delete(command) => command.delete(),
        }
    }
}

impl Plain {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let queues = session.call(async |client| client.queues().await)?;
        print(&queues, self.json)
    }
}

impl Named {
    fn run(
        self,
        call: impl AsyncFnOnce(&cairn_client::Client, &str) -> Result<Queue, cairn_client::Error>,
    ) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let queue = session.call(async |client| call(client, &self.name).await)?;
        print(&[queue], self.json)
    }

    fn delete(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let queue = session.call(async |client| client.delete_queue(&self.name).await)?;
        output::line(&if self.json { json_text(&queue)? } else { format!("deleted {}", plain(&queue.name)) })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Set {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let event_ttl_ms = self.event_ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let Set { retention_days, max_waiting, .. } = self;
        let max_waiting = max_waiting.map(|max| max.0);
        let request = QueueRequest { retention_days, event_ttl_ms, max_waiting, ..QueueRequest::default() };
        let queue = session.call(async |client| client.set_queue(&self.name, &request).await)?;
        print(&[queue], self.json)
    }
}

/// Queues, for people in columns.
fn print(queues: &[Queue], json: bool) -> Result<ExitCode, Failure> {
    let mut lines = Lines::new();
    if json {
        queues.iter().try_for_each(|queue| lines.text(&json_text(queue)?))?;
    } else {
        table(queues).iter().try_for_each(|line| lines.text(line))?;
    }
    lines.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn table(queues: &[Queue]) -> Vec<String> {
    let head = ["NAME", "STATUS", "KEEPS TASKS", "KEEPS EVENTS", "MAY QUEUE"].map(str::to_owned).to_vec();
    let row = |queue: &Queue| {
        let kept = format!("{} d", queue.retention_days);
        let may_queue = queue.max_waiting.map_or_else(|| "any".to_owned(), |max| max.to_string());
        vec![plain(&queue.name), queue.status.clone(), kept, when::span(queue.event_ttl_ms), may_queue]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(queues.iter().map(row)).collect();
    aligned(&rows, &[])
}
