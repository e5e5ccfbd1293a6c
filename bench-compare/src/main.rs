//! `compare`: storage engines side by side, on the same workloads, in processes of their own.
//!
//! The walk of a run: [`run`] starts a process for each engine, scenario and repetition; [`child`]
//! carries out its task, which [`scenario`] makes of the workloads in [`workload`] and the engine
//! behind [`engine::Engine`]; each workload becomes a line of [`results`], and [`table`] makes
//! tables of them, with the targets of [`targets`] at the end.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program beside the product: it measures real files, clocks and processes, of other engines too"
)]

mod child;
mod cli;
mod data;
mod engine;
mod measure;
mod memory_group;
mod one;
mod results;
mod run;
mod scenario;
mod summary;
mod table;
mod targets;
mod workload;
mod zipf;

fn main() -> std::process::ExitCode {
    match cli::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
