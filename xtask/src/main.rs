//! Every automation of the project that is more than a command line: `cargo xtask tidy`,
//! `cargo xtask accept`, `cargo xtask bench-tasks`, `cargo xtask bench-http`, `cargo xtask counts` and `cargo xtask prove`.
//!
//! Owns checks that the compiler and clippy cannot make, about the text of the tree ([`tidy`]), the
//! acceptance runs against the real binary ([`accept`]), measurements of tasks ([`bench_tasks`]) and of the
//! server beside another ([`bench_http`]), the instructions of the engine's hot paths ([`counts`]), and the long
//! proofs of the engine and their table ([`prove`]). Refuses dependencies, but for what it drives and speaks, and
//! changes to the tree, but for the counts that it is told to accept: it reads, runs and reports.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool of the repository, not of the product: it reads the tree with std"
)]

mod accept;
mod bench_http;
mod bench_tasks;
mod callgrind;
mod counts;
mod http;
mod names;
mod prove;
mod said;
mod server;
mod tidy;
mod tree;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: cargo xtask <command>

  tidy    checks the text of the tree: module heads, spaces, leftovers, the names in
          ARCHITECTURE.md, the links of every page, the commands of README.md in CI
  accept [--files DIR] [--generated N] [--lines N] [--kills N] [--durability D] [--seed N]
         [--scratch DIR]
          runs target/release/cairn (build it first) against validation files, through kills,
          restarts, compaction and deletion, and prints a line of figures for each
  bench-tasks [--seconds N] [--only WORKLOAD,...] [--waiting N] [--json FILE] [--scratch DIR]
          builds the release program and measures tasks on it for N seconds (5) each; a million that wait
          are --waiting. Prints a table of figures and targets, and of what the model system does. The workloads:
WORKLOADS
  bench-http [--seconds N] [--reps N] [--connections N] [--keys N] [--value-bytes N] [--json FILE] [--scratch DIR]
          builds the release program and measures PUT and GET over HTTP from 50 connections beside SET and GET of an
          installed redis-server, with writes synced and not: 3 repetitions of 4 s, two and a half minutes in all
  counts [--accept]
          builds the release program and counts the instructions of the engine's hot paths under valgrind, against
          xtask/counts.txt; 3 % more fails. --accept writes that file. SKIPPED without valgrind, or with another
          compiler, processor or C library than the file names
  prove [--seed N] [--minutes M] [--only STAGE,...] [--scratch DIR] [--out FILE]
          builds and runs every long proof of the engine within M minutes (12), builds included, and
          prints a table of figures; --out writes it as markdown. A stage that needs what the machine
          has not is SKIPPED. 60 minutes or more make a long run. The stages:
";

fn usage() -> String {
    let stages: String = prove::stages_told().lines().map(|line| format!("          {line}\n")).collect();
    let workloads: String = bench_tasks::told().lines().map(|line| format!("            {line}\n")).collect();
    format!("{}{stages}", USAGE.replace("WORKLOADS\n", &workloads))
}

fn is_call_for_help(argument: &&str) -> bool {
    matches!(*argument, "--help" | "-h")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] | ["help"] => {
            print!("{}", usage());
            ExitCode::SUCCESS
        }
        asked if asked.iter().any(is_call_for_help) => {
            print!("{}", usage());
            ExitCode::SUCCESS
        }
        ["tidy"] => run_tidy(),
        ["accept", rest @ ..] => run_accept(rest),
        ["bench-tasks", rest @ ..] => run_bench_tasks(rest),
        ["bench-http", rest @ ..] => run_bench_http(rest),
        ["counts"] => told("counts", counts::run(&root(), &target(), false)),
        ["counts", "--accept"] => told("counts", counts::run(&root(), &target(), true)),
        ["claims", rest @ ..] => told("claims", bench_tasks::run_claims(rest).map(|()| true)),
        ["prove", rest @ ..] => run_prove(rest),
        ["victim", rest @ ..] => told("victim", prove::run_victim(rest).map(|()| true)),
        ["task-worker", rest @ ..] => told("task-worker", prove::run_task_worker(rest).map(|()| true)),
        _ => {
            eprint!("{}", usage());
            ExitCode::from(2)
        }
    }
}

/// Where this package stands, one up: right from any directory.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

fn run_accept(arguments: &[&str]) -> ExitCode {
    let mut plan = accept::Plan {
        files: None,
        generated: 4,
        lines: 20_000,
        kills: 3,
        durability: "commit".to_owned(),
        seed: 1,
        scratch: std::env::temp_dir().join("cairn-accept"),
    };
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|value| value.parse::<u64>().ok());
        match (pair, number) {
            (["--files", dir], _) => plan.files = Some(dir.into()),
            (["--scratch", dir], _) => plan.scratch = dir.into(),
            (["--durability", durability], _) => plan.durability = (*durability).to_owned(),
            (["--generated", _], Some(n)) => plan.generated = n,
            (["--lines", _], Some(n)) => plan.lines = n,
            (["--seed", _], Some(n)) => plan.seed = n,
            (["--kills", _], Some(n)) => plan.kills = u32::try_from(n).unwrap_or(u32::MAX),
            _ => {
                eprint!("accept: cannot read {pair:?}\n\n{}", usage());
                return ExitCode::from(2);
            }
        }
    }
    told("accept", accept::run(&target().join("release").join("cairn"), &plan).map(|()| true))
}

fn run_bench_tasks(arguments: &[&str]) -> ExitCode {
    let mut plan = bench_tasks::Plan {
        seconds: 5,
        only: Vec::new(),
        waiting: 1_000_000,
        json: None,
        scratch: target().join("bench-tasks"),
        root: root(),
        binary: target().join("release").join("cairn"),
    };
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|value| value.parse::<u64>().ok());
        match (pair, number) {
            (["--only", names], _) => plan.only = names.split(',').map(str::to_owned).collect(),
            (["--scratch", dir], _) => plan.scratch = dir.into(),
            (["--json", file], _) => plan.json = Some(file.into()),
            (["--seconds", _], Some(n)) => plan.seconds = n,
            (["--waiting", _], Some(n)) => plan.waiting = usize::try_from(n).unwrap_or(usize::MAX),
            _ => {
                eprint!("bench-tasks: cannot read {pair:?}\n\n{}", usage());
                return ExitCode::from(2);
            }
        }
    }
    if cfg!(debug_assertions) {
        return told("bench-tasks", hand_over("bench-tasks", arguments, |_| {}));
    }
    told("bench-tasks", bench_tasks::run(&plan).map(|()| true))
}

fn run_bench_http(arguments: &[&str]) -> ExitCode {
    let mut plan = bench_http::Plan {
        seconds: 4,
        repetitions: 3,
        connections: 50,
        keys: 100_000,
        value_bytes: 100,
        json: None,
        scratch: target().join("bench-http"),
        root: root(),
        binary: target().join("release").join("cairn"),
    };
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|value| value.parse::<u64>().ok()).filter(|&number| number > 0);
        match (pair, number) {
            (["--scratch", dir], _) => plan.scratch = dir.into(),
            (["--json", file], _) => plan.json = Some(file.into()),
            (["--seconds", _], Some(n)) => plan.seconds = n,
            (["--reps", _], Some(n)) => plan.repetitions = n,
            (["--connections", _], Some(n)) => plan.connections = n,
            (["--keys", _], Some(n)) => plan.keys = n,
            (["--value-bytes", _], Some(n)) => plan.value_bytes = n,
            _ => {
                eprint!("bench-http: cannot read {pair:?}\n\n{}", usage());
                return ExitCode::from(2);
            }
        }
    }
    if cfg!(debug_assertions) {
        return told("bench-http", hand_over("bench-http", arguments, |_| {}));
    }
    told("bench-http", bench_http::run(&plan).map(|()| true))
}

/// A debug build of this program builds the release one, and hands over to it.
fn hand_over(command: &str, arguments: &[&str], more: impl FnOnce(&mut Command)) -> Result<bool, String> {
    prove::build_release(&root())?;
    let program = target().join("release").join("xtask");
    let mut run = Command::new(&program);
    run.arg(command).args(arguments);
    more(&mut run);
    run.status().map(|status| status.success()).map_err(|e| format!("{}: {e}", program.display()))
}

/// Seconds of the minutes that building the release program has taken already.
const SPENT: &str = "--spent";

fn run_prove(arguments: &[&str]) -> ExitCode {
    let mut began = Instant::now();
    let mut plan = prove::Plan {
        seed: 1,
        minutes: 12,
        only: Vec::new(),
        scratch: target().join("prove"),
        out: None,
        root: root(),
        target: target(),
    };
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|value| value.parse::<u64>().ok());
        match (pair, number) {
            (["--only", names], _) => plan.only = names.split(',').map(str::to_owned).collect(),
            (["--scratch", dir], _) => plan.scratch = dir.into(),
            (["--out", file], _) => plan.out = Some(file.into()),
            (["--seed", _], Some(n)) => plan.seed = n,
            (["--minutes", _], Some(n)) => plan.minutes = n,
            // What a debug build hands over, last of all.
            ([SPENT, _], Some(n)) => began = began.checked_sub(Duration::from_secs(n)).unwrap_or(began),
            _ => {
                eprint!("prove: cannot read {pair:?}\n\n{}", usage());
                return ExitCode::from(2);
            }
        }
    }
    // The processes that are killed are release builds of the engine.
    if cfg!(debug_assertions) && plan.needs_release() {
        return told(
            "prove",
            hand_over("prove", arguments, |program| {
                program.args([SPENT, &began.elapsed().as_secs().to_string()]);
            }),
        );
    }
    told("prove", prove::run(&plan, began))
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The exit code of a run: what could not be done is told, what failed has been.
fn told(command: &str, result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{command}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_tidy() -> ExitCode {
    let tree = match tree::Tree::read(&root()) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("tidy: {error}");
            return ExitCode::FAILURE;
        }
    };
    let report = tidy::check(&tree);
    for note in &report.notes {
        println!("note: {note}");
    }
    for problem in &report.problems {
        println!("{problem}");
    }
    println!("tidy: {} files read, {} problems", tree.files.len(), report.problems.len());
    if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
