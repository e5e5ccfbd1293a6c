//! `cairn queue`, `cairn event` and `cairn worker`: what stands around the tasks of a server.

use std::process::ExitCode;

use cairn_client::wire::{Each, Emit, Queue, QueueRequest};
use clap::{Args, Subcommand};

use crate::cmd::task::{Session, json_text, json_value};
use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::target::ServerArgs;

/// List, make, pause and resume the queues of a server
#[derive(Args)]
pub(crate) struct Queues {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Subcommand)]
enum QueueCommand {
    /// List all queues
    List(Plain),
    /// Make a queue, or change what is set of it
    Set(SetQueue),
    /// Hand out no more of its tasks; those that run go on
    Pause(Named),
    /// Hand out its tasks again
    Resume(Named),
}

#[derive(Args)]
struct Plain {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
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
struct SetQueue {
    /// The queue
    name: String,
    /// How long a task is kept that has ended
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn told(queue: &Queue, json: bool) -> Result<String, Failure> {
    if json {
        return json_text(queue);
    }
    Ok(format!("{}: {}, keeps what has ended for {} days", queue.name, queue.status, queue.retention_days))
}

impl Queues {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let (queues, json) = match self.command {
            QueueCommand::List(command) => {
                let session = Session::open(&command.server)?;
                (session.call(async |client| client.queues().await)?, command.json)
            }
            QueueCommand::Set(command) => {
                let session = Session::open(&command.server)?;
                let request = QueueRequest { retention_days: command.retention_days, ..QueueRequest::default() };
                let queue = session.call(async |client| client.set_queue(&command.name, &request).await)?;
                (vec![queue], command.json)
            }
            QueueCommand::Pause(command) => pause(&command, true)?,
            QueueCommand::Resume(command) => pause(&command, false)?,
        };
        let mut lines = Lines::new();
        for queue in &queues {
            lines.text(&told(queue, json)?)?;
        }
        lines.finish()?;
        Ok(ExitCode::SUCCESS)
    }
}

fn pause(command: &Named, paused: bool) -> Result<(Vec<Queue>, bool), Failure> {
    let session = Session::open(&command.server)?;
    Ok((vec![session.call(async |client| client.pause_queue(&command.name, paused).await)?], command.json))
}

/// Emit events that tasks wait for, and look at them
#[derive(Args)]
pub(crate) struct Events {
    #[command(subcommand)]
    command: EventCommand,
}

#[derive(Subcommand)]
enum EventCommand {
    /// Emit an event: the first payload of a name stays, for all who wait for it now or later
    Emit(EmitEvent),
    /// Print the payload of an event
    Show(ShowEvent),
}

#[derive(Args)]
struct EmitEvent {
    /// The event
    name: String,
    /// What with, as JSON
    #[arg(default_value = "null")]
    payload: String,
    /// The queue
    #[arg(long, default_value = "default")]
    queue: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShowEvent {
    /// The event
    name: String,
    /// The queue
    #[arg(long, default_value = "default")]
    queue: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            EventCommand::Emit(command) => {
                let session = Session::open(&command.server)?;
                let emit = Emit { name: command.name, payload: json_value("the payload", &command.payload)? };
                match session.call(async |client| client.emit(&command.queue, emit).await)? {
                    Each::Done(emitted) if command.json => output::line(&json_text(&emitted)?)?,
                    Each::Done(emitted) if emitted.created => output::line("emitted")?,
                    Each::Done(_) => output::line("there was one before; that one stands")?,
                    Each::Refused(error) => return Err(Failure::new(error.message().to_owned())),
                }
            }
            EventCommand::Show(command) => {
                let session = Session::open(&command.server)?;
                let event = session.call(async |client| client.event(&command.queue, &command.name).await)?;
                output::line(&if command.json { json_text(&event)? } else { event.payload.get().to_owned() })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// List the workers of a server
#[derive(Args)]
pub(crate) struct Workers {
    #[command(subcommand)]
    command: WorkerCommand,
}

#[derive(Subcommand)]
enum WorkerCommand {
    /// List the workers that are there, with what they hold
    List(Plain),
}

impl Workers {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let WorkerCommand::List(command) = self.command;
        let session = Session::open(&command.server)?;
        let workers = session.call(async |client| client.workers().await)?;
        let mut lines = Lines::new();
        for worker in &workers {
            lines.text(&if command.json {
                json_text(worker)?
            } else {
                let (tasks, queues) = (worker.tasks.join(", "), worker.queues.join(", "));
                let (held, slots, silent_ms) = (worker.held.len(), worker.slots, worker.silent_ms);
                format!(
                    "{}: {tasks} from {queues}; {held} of {slots} slots taken; heard of {silent_ms} ms ago",
                    worker.name
                )
            })?;
        }
        if workers.is_empty() && !command.json {
            lines.text("no worker is there")?;
        }
        lines.finish()?;
        Ok(ExitCode::SUCCESS)
    }
}
