//! `cairn worker`: who takes the tasks of a server.

use std::process::ExitCode;

use cairn_client::wire::Worker;
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::session::{Session, json_text};
use crate::table::{Side, aligned};
use crate::target::ServerArgs;
use crate::text::plain;
use crate::when;

/// List the workers of a server
#[derive(Args)]
pub(crate) struct Workers {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
}

/// List the workers that are there, with what they hold
#[derive(Args)]
struct List {
    #[command(flatten)]
    server: ServerArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl Workers {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let Command::List(command) = self.command;
        let session = Session::open(&command.server)?;
        let workers = session.call(async |client| client.workers().await)?;
        let mut lines = Lines::new();
        if command.json {
            workers.iter().try_for_each(|worker| lines.text(&json_text(worker)?))?;
        } else {
            table(&workers).iter().try_for_each(|line| lines.text(line))?;
        }
        lines.finish()?;
        if workers.is_empty() {
            output::message("no worker is there");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(workers: &[Worker]) -> Vec<String> {
    if workers.is_empty() {
        return Vec::new();
    }
    let head = ["NAME", "SDK", "SLOTS", "HEARD OF", "QUEUES", "TASKS"].map(str::to_owned).to_vec();
    let row = |worker: &Worker| {
        vec![
            plain(&worker.name),
            plain(&worker.sdk),
            format!("{}/{}", worker.held.len(), worker.slots),
            format!("{} ago", when::span(worker.silent_ms)),
            plain(&worker.queues.join(", ")),
            plain(&worker.tasks.join(", ")),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(workers.iter().map(row)).collect();
    aligned(&rows, &[Side::Left, Side::Left, Side::Right, Side::Right])
}
