//! The one binary `cairn`: reads the command line, runs one command, makes its outcome an exit code.
//!
//! A command is one file under `cmd/`: its arguments with their help, and `run`. Adding one is that
//! file and a line in [`Command`]. What commands share stands beside them: where requests go
//! (`target`, `session`), the grammar of validation files (`script`), what is printed (`output`,
//! `text`, `table`, `when`).
//!
//! Exit codes: 0 done; 1 it failed, or the answer is no (a missing key, a failed validation);
//! 2 the command line is wrong. Results go to standard output, all else to standard error.

mod cmd;
mod failure;
mod generator;
mod output;
mod script;
mod session;
mod table;
mod target;
mod text;
mod validator;
mod when;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Cairn: a key-value store that keeps what it acknowledged, in one binary.
///
/// Start a server, then talk to it from another terminal:
///
///     cairn serve
///     cairn put greeting hello
///     cairn get greeting
///
/// Every command takes --help. Results go to standard output and messages to standard error;
/// exit code 0 is success, 1 failure or a missing key, 2 a wrong command line.
#[derive(Parser)]
#[command(name = "cairn", version, verbatim_doc_comment, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Every command, in the order `--help` lists them.
#[derive(Subcommand)]
enum Command {
    Serve(cmd::serve::Serve),
    Put(cmd::put::Put),
    Get(cmd::get::Get),
    Delete(cmd::delete::Delete),
    Scan(cmd::scan::Scan),
    Task(cmd::task::Tasks),
    Queue(cmd::queue::Queues),
    Event(cmd::event::Events),
    Worker(cmd::worker::Workers),
    Stats(cmd::stats::Stats),
    Compact(cmd::compact::Compact),
    Check(cmd::check::Check),
    Inspect(cmd::inspect::Inspect),
    Repair(cmd::repair::Repair),
    Validate(cmd::validate::Validate),
    Generate(cmd::generate::Generate),
    Bench(cmd::bench::Bench),
}

impl Command {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Command::Serve(command) => command.run(),
            Command::Put(command) => command.run(),
            Command::Get(command) => command.run(),
            Command::Delete(command) => command.run(),
            Command::Scan(command) => command.run(),
            Command::Task(command) => command.run(),
            Command::Queue(command) => command.run(),
            Command::Event(command) => command.run(),
            Command::Worker(command) => command.run(),
            Command::Stats(command) => command.run(),
            Command::Compact(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Repair(command) => command.run(),
            Command::Validate(command) => command.run(),
            Command::Generate(command) => command.run(),
            Command::Bench(command) => command.run(),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        // Whoever read our output has seen enough (`cairn scan | head`): nothing failed.
        Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            output::message(&format!("cairn: {failure}"));
            ExitCode::FAILURE
        }
    }
}
