//! The program as it is used: runs, goes on, records failures, prints tables.

#![allow(clippy::disallowed_methods, reason = "it drives a real process with real files")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("compare-run-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn compare(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(args).current_dir(dir).output().unwrap()
}

/// Runs in the directory `results`; returns what it said.
fn run(dir: &Path, more: &[&str]) -> String {
    let mut args = vec!["run", "--keys", "10000", "--seconds", "0.02", "--results", "results"];
    args.extend(["--idle-seconds", "0", "--steady-seconds", "1"]);
    args.extend(more);
    let output = compare(&args, dir);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn table(dir: &Path) -> String {
    let output = compare(&["table", "results"], dir);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_goes_on_where_it_was_stopped_and_ends_in_a_table() {
    let dir = Dir::new("resume");
    let args = ["--engines", "cairn", "--scenarios", "sorted,main,sync,delete,open,steady", "--reps", "1"];
    assert!(run(&dir.0, &args).contains("rep 1: main cairn"));
    let text = table(&dir.0);
    for workload in ["load_sorted", "ycsb_e", "put_sync_t64", "delete_half_scan_full", "steady"] {
        assert!(text.contains(&format!("| {workload} | ")), "{workload}: {text}");
    }
    assert!(text.contains("| open | open_after_kill | kept | 100k |"), "{text}");
    assert!(!text.contains("WRONG") && !text.contains("failed"), "{text}");
    assert!(!dir.0.join("results/work").exists(), "the databases are gone");

    assert_eq!(run(&dir.0, &args), "", "nothing is left to do");
    let file = std::fs::read_dir(dir.0.join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("main.cairn.1.jsonl"))
        .find(|path| path.exists())
        .unwrap();
    // As a stop in the middle leaves it.
    std::fs::rename(&file, file.with_extension("jsonl.partial")).unwrap();
    let said = run(&dir.0, &args);
    assert!(said.contains("rep 1: main cairn") && !said.contains("sorted cairn"), "{said}");
}

#[test]
fn a_process_that_fails_is_recorded_and_the_run_goes_on() {
    let dir = Dir::new("fails");
    let args = ["--engines", "cairn", "--scenarios", "sorted,main", "--reps", "1"];
    let said = run(&dir.0, &[&args[..], &["--timeout-s", "0"]].concat());
    assert!(said.contains("rep 1: sorted cairn") && said.contains("rep 1: main cairn"), "{said}");
    assert!(table(&dir.0).contains("- sorted of cairn, repetition 1: failed: not done after 0 s"));
    assert_eq!(run(&dir.0, &args), "", "a failure is a result");
    assert!(run(&dir.0, &[&args[..], &["--retry-failed"]].concat()).contains("load_sorted"));
    assert!(!table(&dir.0).contains("failed"));
}

#[test]
fn a_kept_database_is_used_again_and_not_mistaken_for_another() {
    let dir = Dir::new("one");
    let one = |keys: &str, workloads: &str| {
        compare(&["one", "--keys", keys, "--seconds", "0.02", "--dir", "kept", "--workloads", workloads], &dir.0)
    };
    let output = one("10000", "ycsb_d,scan_full");
    assert!(output.status.success(), "{output:?}");
    let before = std::fs::read_to_string(dir.0.join("kept/kept.json")).unwrap();
    let output = one("10000", "scan_full");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("\"bad\":0.0"), "{output:?}");
    assert_eq!(std::fs::read_to_string(dir.0.join("kept/kept.json")).unwrap(), before);
    let output = one("20000", "scan_full");
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds 10000 keys x 100 B of cairn"), "{output:?}");
}

#[test]
fn bad_input_gets_an_answer_that_helps() {
    let dir = Dir::new("bad");
    for (args, expected) in [
        (&["run", "--engines", "sled"][..], "no engine is called sled; built in are: cairn,"),
        (&["run", "--scenarios", "x"], "no scenario is called x; there are: sorted, main,"),
        (&["run", "--keys", "10"], "--keys 10: at least 10000 are needed"),
        (&["run", "--value", "10"], "--value 10: at least 24 bytes are needed"),
        (&["one", "--keys", "10000", "--workloads", "x"], "no workload is called x; there are: load_random,"),
        (&["table", "nowhere"], "nowhere: No such file"),
        (&["table", "."], "no results there; `compare run` makes some"),
    ] {
        let output = compare(args, &dir.0);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

/// A build while a run was under way took the program's file away, and the run ended at its next process.
#[test]
fn a_run_survives_that_its_program_is_replaced() {
    let dir = Dir::new("replaced");
    let program = dir.0.join("compare");
    std::fs::copy(env!("CARGO_BIN_EXE_compare"), &program).unwrap();
    let mut run = Command::new(&program)
        .args(["run", "--keys", "10000", "--seconds", "0.02", "--results", "results"])
        .args(["--engines", "cairn", "--scenarios", "sorted,main", "--reps", "1"])
        .current_dir(&dir.0)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::fs::remove_file(&program).unwrap();
    assert!(run.wait().unwrap().success());
    assert!(table(&dir.0).contains("| rww_20k | "));
}
