//! `cargo xtask prove`: every long proof of the engine from one seed, within a given time, as one table.
//!
//! Owns the list of stages ([`STAGES`]: another one is another row), how the time is divided among
//! them, and the verdict. A stage that fails does not keep the others from running. A stage that this
//! machine cannot run is SKIPPED with the reason and never counts as passed.

mod cuts;
mod fuzz;
mod kills;
mod ledger;
mod life;
mod mutants;
mod random;
mod report;
mod stage;
mod syscalls;
mod task_kills;
mod test_binary;
mod victim;
mod victims;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use report::Report;
pub(crate) use report::{commit, machine};
use stage::{Context, Outcome, Stop};
use test_binary::Tests;

/// One row of the table of stages.
struct Stage {
    name: &'static str,
    /// Its share of the time, against the others'.
    weight: u32,
    work: Work,
}

/// How a stage is done.
enum Work {
    /// By test binaries.
    Tests(Tests),
    /// Here: kills of the release binary and of an embedded database.
    Kills,
    /// Here: kills of a server and of workers amid tasks.
    TaskKills,
    /// Here: injected system calls.
    Syscalls,
    /// Here: power cuts on a real file system.
    Cuts,
    /// By test binaries with defects planted under them.
    Mutants,
    /// Here: libFuzzer over every target.
    Fuzz,
}

impl Work {
    /// What not every machine has.
    fn needs(&self) -> Option<&'static str> {
        match self {
            Work::Tests(tests) => tests.needs.map(|(_, what)| what),
            Work::Fuzz => Some(fuzz::NEEDS),
            Work::Syscalls => Some(syscalls::NEEDS),
            Work::Cuts => Some(cuts::NEEDS),
            Work::Mutants | Work::Kills | Work::TaskKills => None,
        }
    }

    /// Why this machine cannot do it, as far as that shows before it begins.
    fn lack(&self) -> Option<String> {
        match self {
            Work::Tests(tests) => tests.lack(),
            Work::Fuzz => fuzz::lack(),
            Work::Mutants | Work::Kills | Work::TaskKills | Work::Syscalls | Work::Cuts => None,
        }
    }

    /// Compiles what it needs beyond the release binaries.
    fn build(&self, root: &Path, target: &Path) -> Result<(), String> {
        match self {
            Work::Tests(tests) => tests.build(root),
            Work::Mutants => mutants::build(root, target).map(drop),
            Work::Fuzz => fuzz::build(root),
            Work::Kills | Work::TaskKills | Work::Syscalls | Work::Cuts => Ok(()),
        }
    }
}

const fn engine_test(
    name: &'static str,
    weight: u32,
    cargo: &'static [&'static str],
    figures: &'static [&'static str],
) -> Stage {
    Stage { name, weight, work: Work::Tests(Tests::of(cargo, figures)) }
}

/// The standard library is instrumented too: else its own synchronisation is taken for races.
const THREADS_INSTRUMENTED: &[&str] =
    &["+nightly", "test", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu", "-p", "cairn", "--test", "threads"];

const STAGES: &[Stage] = &[
    engine_test(
        "crash enumerated",
        16,
        &["test", "-p", "cairn", "--test", "crash_enumerated"],
        &["enumerated crash images", "enumerated second crashes", "enumerated distinct images"],
    ),
    engine_test(
        "crash",
        16,
        &["test", "-p", "cairn", "--test", "crash"],
        &["long workloads", "long crash images", "long second crashes"],
    ),
    engine_test("faults", 8, &["test", "-p", "cairn", "--test", "faults"], &["call sites", "call site injections"]),
    engine_test("model", 4, &["test", "-p", "cairn", "--test", "model"], &["option sets", "model operations"]),
    engine_test(
        "histories",
        8,
        &["test", "-p", "cairn", "--test", "histories"],
        &["known-bad histories rejected", "histories checked", "crashes in histories"],
    ),
    engine_test(
        "damage",
        3,
        &["test", "-p", "cairn", "--test", "damage"],
        &["damages to killed databases", "damages to closed databases"],
    ),
    engine_test(
        "check",
        3,
        &["test", "-p", "cairn", "--test", "check"],
        &["flipped bits, all of a small database", "flipped bits in larger databases"],
    ),
    engine_test("repair", 3, &["test", "-p", "cairn", "--test", "repair"], &["repairs of damaged databases"]),
    engine_test("golden", 1, &["test", "-p", "cairn", "--test", "golden"], &["golden databases opened"]),
    engine_test(
        "liveness",
        3,
        &["test", "-p", "cairn", "--test", "liveness"],
        &[
            "schedules of a sync among writers",
            "schedules of a failed sync and a close",
            "schedules of a leader that panics",
            "schedules of a close amid a flush",
        ],
    ),
    engine_test(
        "keyspaces",
        2,
        &["test", "-p", "cairn", "--test", "keyspaces"],
        &["schedules of writers and a drop", "schedules of a flush or compaction and a drop"],
    ),
    engine_test(
        "durable snapshots",
        3,
        &["test", "-p", "cairn", "--test", "durable_snapshots"],
        &["schedules of a snapshot and a flush"],
    ),
    Stage {
        name: "interleavings",
        weight: 3,
        work: Work::Tests(Tests {
            filter: &["interleavings"],
            // Without a bound on preemptions: every interleaving.
            environment: &[("RUSTFLAGS", "--cfg loom"), ("RUST_BACKTRACE", "0")],
            ..Tests::of(
                &["test", "-p", "cairn", "--lib"],
                &[
                    "loom executions, insert against read",
                    "loom executions, catalog and files",
                    "loom mutant twins of the memtable rejected",
                    "loom mutant twins of the catalog rejected",
                ],
            )
        }),
    },
    engine_test(
        "store",
        1,
        &["test", "-p", "cairn-store", "--test", "engine"],
        &["stores that keep the contract", "checks of the contract"],
    ),
    engine_test(
        "tasks",
        6,
        &["test", "-p", "cairn-durable", "--test", "simulation"],
        &["simulated worlds of tasks", "simulated tasks", "simulated steps", "crashes in simulated worlds"],
    ),
    engine_test(
        "task retention",
        1,
        &["test", "-p", "cairn-durable", "--test", "retention"],
        &["power cuts while a bucket goes"],
    ),
    engine_test(
        "task power cuts",
        1,
        &["test", "-p", "cairn-durable", "--test", "power_cuts"],
        &["power cuts while a queue is deleted", "power cuts while all who wait are told"],
    ),
    engine_test("schedules", 6, &["test", "-p", "cairn", "--test", "schedules"], &["lost wakes planted in the engine"]),
    Stage {
        name: "miri",
        weight: 4,
        work: Work::Tests(Tests {
            filter: &["memtable::tests"],
            environment: &[("RUST_BACKTRACE", "0"), ("MIRIFLAGS", "-Zmiri-disable-isolation")],
            needs: Some((&["cargo", "+nightly", "miri", "--version"], "nightly toolchain with miri")),
            ..Tests::of(&["+nightly", "miri", "test", "-p", "cairn", "--lib"], &[])
        }),
    },
    Stage {
        name: "thread sanitizer",
        weight: 4,
        work: Work::Tests(Tests {
            environment: &[("RUSTFLAGS", "-Zsanitizer=thread"), ("TSAN_OPTIONS", "halt_on_error=1")],
            needs: Some((
                &["sh", "-c", "test -d \"$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/std\""],
                "nightly toolchain with rust-src, to instrument the standard library too",
            )),
            ..Tests::of(THREADS_INSTRUMENTED, &["rounds of real threads"])
        }),
    },
    Stage { name: "fuzz", weight: 9, work: Work::Fuzz },
    Stage { name: "kills", weight: 12, work: Work::Kills },
    Stage { name: "task kills", weight: 6, work: Work::TaskKills },
    Stage { name: "syscalls", weight: 8, work: Work::Syscalls },
    Stage { name: "cuts", weight: 8, work: Work::Cuts },
    Stage { name: "mutants", weight: 8, work: Work::Mutants },
];

/// From so many minutes on a run is a long one, with its own least numbers.
const LONG_MINUTES: u64 = 60;

/// What to run.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// For everything, builds included; a stage that has a least number of rounds may go beyond.
    pub(crate) minutes: u64,
    /// Names of stages; all if empty.
    pub(crate) only: Vec<String>,
    pub(crate) scratch: PathBuf,
    /// Where the table goes as markdown.
    pub(crate) out: Option<PathBuf>,
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
}

impl Plan {
    fn is_long(&self) -> bool {
        self.minutes >= LONG_MINUTES
    }

    fn stages(&self) -> Result<Vec<&'static Stage>, String> {
        let has = |name: &str| STAGES.iter().any(|stage| stage.name == name);
        if let Some(unknown) = self.only.iter().find(|name| !has(name)) {
            let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
            return Err(format!("there is no stage {unknown}; there are {}", names.join(", ")));
        }
        let wanted = |stage: &&Stage| self.only.is_empty() || self.only.iter().any(|name| name == stage.name);
        Ok(STAGES.iter().filter(wanted).collect())
    }

    /// Whether any stage starts the release binaries.
    pub(crate) fn needs_release(&self) -> bool {
        let starts = |stage: &&Stage| matches!(stage.work, Work::Kills | Work::TaskKills | Work::Syscalls | Work::Cuts);
        self.stages().is_ok_and(|stages| stages.iter().any(starts))
    }
}

/// The stages by name, each with what it needs, for people to choose from.
pub(crate) fn stages_told() -> String {
    let told = |stage: &Stage| match stage.work.needs() {
        Some(needs) => format!("  {:18} needs: {needs}\n", stage.name),
        None => format!("  {}\n", stage.name),
    };
    STAGES.iter().map(told).collect()
}

/// What a victim does that a stage started: see [`victim`].
pub(crate) fn run_victim(arguments: &[&str]) -> Result<(), String> {
    victim::run(&victim::Orders::parse(arguments)?);
    Ok(())
}

/// A worker that the stage `task kills` started.
pub(crate) fn run_task_worker(arguments: &[&str]) -> Result<(), String> {
    task_kills::run_worker(arguments)
}

/// Builds the release binaries: `cairn`, and this program. The stages start both.
pub(crate) fn build_release(root: &Path) -> Result<(), String> {
    let arguments = ["build", "--release", "-p", "cairn-cli", "-p", "xtask"];
    let status = Command::new("cargo").args(arguments).current_dir(root).status().map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {}: {status}", arguments.join(" "))) }
}

/// Runs the plan. `Ok(false)` if a stage failed, or none ran.
pub(crate) fn run(plan: &Plan, began: Instant) -> Result<bool, String> {
    let stages = plan.stages()?;
    fs::create_dir_all(&plan.scratch).map_err(|e| format!("{}: {e}", plan.scratch.display()))?;
    let mut report = Report::new(&plan.root, &plan.scratch, plan.seed, plan.minutes);
    println!("{}", report.head());

    // All builds come first, so that what is left of the time is for proving.
    let mut ready = Vec::new();
    for stage in stages {
        println!("building {}", stage.name);
        if let Some(lack) = stage.work.lack() {
            println!("=== SKIPPED: {}: {lack}", stage.name);
            report.add(stage.name, 0, Outcome::Skipped(lack));
        } else if let Err(what) = stage.work.build(&plan.root, &plan.target) {
            println!("=== {} FAILED: {what}", stage.name);
            report.add(stage.name, 0, Outcome::Failed { figures: Vec::new(), what, replay: None });
        } else {
            ready.push(stage);
        }
    }
    println!("built after {} s", began.elapsed().as_secs());

    let total = Duration::from_secs(plan.minutes * 60);
    for (index, stage) in ready.iter().enumerate() {
        let rest: u32 = ready.iter().skip(index).map(|stage| stage.weight).sum();
        let share = total.saturating_sub(began.elapsed()) * stage.weight / rest.max(1);
        println!("\n=== {}, {} s", stage.name, share.as_secs());
        let started = Instant::now();
        let outcome = run_stage(plan, stage, share);
        let seconds = started.elapsed().as_secs();
        tell(plan, stage, seconds, &outcome);
        report.add(stage.name, seconds, outcome);
    }

    println!("\n{}", report.text());
    if let Some(out) = &plan.out {
        fs::write(out, report.markdown()).map_err(|e| format!("{}: {e}", out.display()))?;
    }
    let (failed, skipped) = (report.failed(), report.skipped());
    println!("{failed} failed, {skipped} SKIPPED, {} s", began.elapsed().as_secs());
    if report.passed() + failed == 0 {
        println!("NOTHING RAN, AND NOTHING IS PROVED: every stage was SKIPPED");
    }
    Ok(report.proves())
}

fn run_stage(plan: &Plan, stage: &Stage, share: Duration) -> Outcome {
    let scratch = plan.scratch.join(stage.name.replace(' ', "-"));
    if let Work::Cuts = stage.work {
        cuts::release(&scratch);
    }
    let made = match fs::remove_dir_all(&scratch) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => fs::create_dir_all(&scratch),
    };
    if let Err(e) = made {
        return Err(format!("{}: {e}", scratch.display())).into();
    }
    let binary = plan.target.join("release").join("cairn");
    let context = Context { seed: plan.seed, scratch: &scratch, binary: &binary };
    let outcome = match &stage.work {
        Work::Tests(tests) => tests.run(&plan.root, &scratch, plan.seed, share),
        Work::Kills => kills::run(&context, share, if plan.is_long() { 150 } else { 25 }).into(),
        Work::TaskKills => task_kills::run(&context, &Stop::after(share), if plan.is_long() { 150 } else { 10 }).into(),
        Work::Syscalls => syscalls::run(&context, &Stop::after(share)),
        Work::Cuts => cuts::run(&context, &Stop::after(share), if plan.is_long() { 200 } else { 10 }),
        Work::Mutants => match mutants::build(&plan.root, &plan.target) {
            Ok(built) => mutants::run(&built, &scratch, plan.seed, share),
            Err(what) => Err(what).into(),
        },
        Work::Fuzz => fuzz::run(&plan.root, &plan.target, &context, share),
    };
    if !matches!(outcome, Outcome::Failed { .. }) {
        // What a failed stage left is evidence.
        let _ = fs::remove_dir_all(&scratch);
    }
    outcome
}

fn tell(plan: &Plan, stage: &Stage, seconds: u64, outcome: &Outcome) {
    match outcome {
        Outcome::Passed(figures) => {
            for figure in figures {
                println!("  {} = {}", figure.name, figure.value);
            }
            println!("--- {} passed in {seconds} s", stage.name);
        }
        Outcome::Skipped(reason) => println!("--- {} SKIPPED: {reason}", stage.name),
        Outcome::Failed { what, replay, .. } => {
            println!("{what}");
            println!(
                "--- {} FAILED after {seconds} s: seed {}, commit {}",
                stage.name,
                plan.seed,
                report::commit(&plan.root)
            );
            let own =
                format!("cargo xtask prove --seed {} --minutes {} --only '{}'", plan.seed, plan.minutes, stage.name);
            println!("    again: {}", replay.as_deref().unwrap_or(&own));
        }
    }
}

#[cfg(test)]
mod rules {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn stages_have_names_of_their_own_and_shares() {
        let names: BTreeSet<&str> = STAGES.iter().map(|stage| stage.name).collect();
        assert_eq!(names.len(), STAGES.len());
        assert!(STAGES.iter().all(|stage| stage.weight > 0));
    }

    #[test]
    fn only_what_is_named_runs_and_what_is_unknown_is_refused() {
        let mut plan = Plan {
            seed: 1,
            minutes: 1,
            only: vec!["cuts".to_owned(), "crash".to_owned()],
            scratch: PathBuf::new(),
            out: None,
            root: PathBuf::new(),
            target: PathBuf::new(),
        };
        let names = |plan: &Plan| plan.stages().map(|stages| stages.iter().map(|stage| stage.name).collect::<Vec<_>>());
        assert_eq!(names(&plan), Ok(vec!["crash", "cuts"]));
        plan.only = vec!["cut".to_owned()];
        assert!(names(&plan).unwrap_err().starts_with("there is no stage cut; there are crash enumerated, crash, "));
        plan.only.clear();
        assert_eq!(names(&plan).unwrap().len(), STAGES.len());
    }
}
