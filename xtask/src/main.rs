//! Every automation of the project that is more than a command line: `cargo xtask tidy` and
//! `cargo xtask accept`.
//!
//! Owns checks that the compiler and clippy cannot make, about the text of the tree ([`tidy`]), and
//! the acceptance runs against the real binary ([`accept`]). Refuses dependencies and changes to the
//! tree: it reads, runs and reports.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool of the repository, not of the product: it reads the tree with std"
)]

mod accept;
mod names;
mod tidy;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  tidy    checks the text of the tree: module heads, spaces, leftovers, the names in
          ARCHITECTURE.md, the links of every page, the commands of README.md in CI
  accept [--files DIR] [--generated N] [--lines N] [--kills N] [--durability D] [--seed N]
         [--scratch DIR]
          runs target/release/cairn (build it first) against validation files, through kills,
          restarts, compaction and deletion, and prints a line of figures for each
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["tidy"] => run_tidy(),
        ["accept", rest @ ..] => run_accept(rest),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
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
                eprint!("accept: cannot read {pair:?}\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    match accept::run(&target.join("release").join("cairn"), &plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("accept: {error}");
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
