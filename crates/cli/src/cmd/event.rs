//! `cairn event`: what tasks wait for.

use std::process::ExitCode;

use cairn_client::EventListing;
use cairn_client::wire::{Each, Emit, Event};
use cairn_env::Env;
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::session::{Session, json_text, json_value};
use crate::table::{Side, aligned};
use crate::target::ServerArgs;
use crate::text::{plain, shortened};
use crate::when;

/// Of a payload so many bytes are shown in a list.
const PAYLOAD_BYTES_MAX: usize = 60;

/// Emit events that tasks wait for, and look at them
#[derive(Args)]
pub(crate) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Emit(EmitEvent),
    Show(ShowEvent),
    List(List),
}

/// Emit an event: the first payload of a name stays, for all who wait for it now or later
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

/// Print the payload of an event
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

/// List the events of a queue, in the order of their names
#[derive(Args)]
struct List {
    /// The queue
    #[arg(long, default_value = "default")]
    queue: String,
    /// Only those whose names begin so
    #[arg(long)]
    prefix: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// From behind this one on: what a list that was cut says at its end
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Emit(command) => command.run(),
            Command::Show(command) => command.run(),
            Command::List(command) => command.run(),
        }
    }
}

impl EmitEvent {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let emit = Emit { name: self.name, payload: json_value("the payload", &self.payload)? };
        match session.call(async |client| client.emit(&self.queue, emit).await)? {
            Each::Done(emitted) if self.json => output::line(&json_text(&emitted)?)?,
            Each::Done(emitted) if emitted.created => output::line("emitted")?,
            Each::Done(_) => output::line("there was one before; that one stands")?,
            Each::Refused(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ShowEvent {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let event = session.call(async |client| client.event(&self.queue, &self.name).await)?;
        output::line(&if self.json { json_text(&event)? } else { event.payload.get().to_owned() })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let List { queue, prefix, after, .. } = self;
        let (events, after) = session.list(self.limit, after, async |client, paging| {
            client.events(&queue, &EventListing { prefix: prefix.clone(), paging }).await
        })?;
        let mut lines = Lines::new();
        if self.json {
            events.iter().try_for_each(|event| lines.text(&json_text(event)?))?;
        } else {
            table(&events, Env::real().unix_time_ms()).iter().try_for_each(|line| lines.text(line))?;
        }
        lines.finish()?;
        match after {
            Some(after) => output::message(&format!("there are more: --after '{}'", plain(&after))),
            None if events.is_empty() => output::message("there is no such event"),
            None => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(events: &[Event], now_ms: u64) -> Vec<String> {
    if events.is_empty() {
        return Vec::new();
    }
    let head = ["NAME", "EMITTED", "PAYLOAD"].map(str::to_owned).to_vec();
    let row = |event: &Event| {
        let payload = shortened(event.payload.get().as_bytes(), PAYLOAD_BYTES_MAX).to_string();
        vec![plain(&event.name), when::from_now(event.at_ms, now_ms), payload]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(events.iter().map(row)).collect();
    aligned(&rows, &[Side::Left, Side::Right])
}
