//! The orchestrator: every engine, scenario and repetition in a process of its own, one after the other.
//!
//! Repetitions are outermost, so that all engines see the same hour; within one, the engine that
//! begins changes. What is complete in the results is not run again, so the same command goes on
//! where it was stopped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::child::template;
use crate::engine::{Kind, Result};
use crate::memory_group::MemoryGroup;
use crate::results::{Config, END, Record, Status, file_of, unix_seconds};
use crate::scenario::{Ending, Scenario, Task, setup};

/// An engine that leaves less than this is stopped, before the disk is full for everybody.
const FREE_BYTES_MIN: u64 = 4 << 30;

/// What to run.
pub struct Plan {
    /// In the order of the first repetition.
    pub engines: Vec<&'static Kind>,
    /// In order.
    pub scenarios: Vec<&'static Scenario>,
    /// How often.
    pub reps: u32,
    /// How.
    pub config: Config,
    /// Where the result lines go.
    pub results: PathBuf,
    /// Where the databases go.
    pub work: PathBuf,
    /// A process that runs longer has failed.
    pub timeout: Duration,
    /// Run again what failed or was skipped.
    pub retry_failed: bool,
}

/// Runs what is not complete.
pub fn run(plan: &Plan) -> Result<()> {
    std::fs::create_dir_all(plan.results.join(plan.config.name()))?;
    let _lock = lock(&plan.results)?;
    let commit = commit();
    for rep in 1..=plan.reps {
        for (index, scenario) in plan.scenarios.iter().enumerate() {
            let mut engines = plan.engines.clone();
            let first = (rep as usize - 1 + index) % engines.len().max(1);
            engines.rotate_left(first);
            for kind in engines {
                let file = file_of(&plan.results, &plan.config, scenario.name, kind.name, rep);
                match last_status(&file) {
                    Some(Status::Ok) => continue,
                    Some(_) if !plan.retry_failed => continue,
                    _ => {}
                }
                let settings = (kind.settings)(&setup(scenario.name, &plan.config));
                eprintln!("rep {rep}: {} {} ({settings})", scenario.name, kind.name);
                let task = Task {
                    engine: kind.name.to_owned(),
                    scenario: scenario.name.to_owned(),
                    phase: 0,
                    rep,
                    config: plan.config.clone(),
                    dir: plan.work.clone(),
                    commit: commit.clone(),
                    memory_group: None,
                };
                run_one(plan, scenario, task, &file)?;
            }
        }
    }
    Ok(())
}

/// One run, in a fresh directory that is removed afterwards.
fn run_one(plan: &Plan, scenario: &Scenario, mut task: Task, file: &Path) -> Result<()> {
    remove_dir(&plan.work)?;
    std::fs::create_dir_all(&plan.work)?;
    // What the run before left to be written or discarded is no burden of this one.
    rustix::fs::syncfs(File::open(&plan.work)?)?;
    let partial = file.with_extension("jsonl.partial");
    let lines = File::create(&partial)?;
    let group = if scenario.in_memory_group { Some(MemoryGroup::create(plan.config.mem_max_mb)) } else { None };
    let (mut status, mut note) = (Status::Ok, String::new());
    match &group {
        Some(Err(why)) => (status, note) = (Status::Skipped, format!("no memory group: {why}")),
        Some(Ok(group)) => task.memory_group = Some(group.dir().to_owned()),
        None => {}
    }
    if status == Status::Ok {
        for (phase, expected) in scenario.phases.iter().enumerate() {
            task.phase = phase;
            if let Some(mut problem) = run_phase(plan, &task, expected.ending, &lines)? {
                if matches!(&group, Some(Ok(group)) if group.kills() > 0) {
                    problem = format!("{problem}: out of the {} MiB of its memory group", plan.config.mem_max_mb);
                }
                (status, note) = (Status::Failed, problem);
                break;
            }
            if last_status(&partial).is_some() {
                break;
            }
        }
    }
    // What a process itself said of its failure stands.
    if last_status(&partial).is_none() {
        let end = Record { workload: END.to_owned(), status, note, unix_seconds: unix_seconds(), ..template(&task)? };
        writeln!(&lines, "{}", serde_json::to_string(&end)?)?;
    }
    if let Some(end) = last_line(&partial).filter(|end| end.status != Status::Ok) {
        eprintln!("    {:<10} {:?}: {}", end.engine, end.status, end.note);
    }
    std::fs::rename(&partial, file)?;
    remove_dir(&plan.work)
}

/// One process; returns what went wrong with it, beside what it says itself.
fn run_phase(plan: &Plan, task: &Task, ending: Ending, lines: &File) -> Result<Option<String>> {
    // This very program, though a build may have put another in its place since.
    let mut child = Command::new("/proc/self/exe")
        .arg("child")
        .arg(serde_json::to_string(task)?)
        .stdin(Stdio::null())
        .stdout(lines.try_clone()?)
        .spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(problem_of(status, ending));
        }
        if began.elapsed() > plan.timeout {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("not done after {} s", plan.timeout.as_secs())));
        }
        if free_bytes(&plan.work) < FREE_BYTES_MIN {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("stopped with less than {} GiB free on the disk", FREE_BYTES_MIN >> 30)));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn problem_of(status: ExitStatus, ending: Ending) -> Option<String> {
    match (status.signal(), ending) {
        (None, Ending::Exit) if status.success() => None,
        (Some(signal), Ending::Kill) if signal == rustix::process::Signal::KILL.as_raw() => None,
        (Some(signal), _) => Some(format!("killed by signal {signal}")),
        (None, _) => Some(format!("{status}")),
    }
}

/// Bytes free on the disk of a directory; if it cannot tell, there is room.
fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The last whole line of a file of results.
fn last_line(file: &Path) -> Option<Record> {
    let text = std::fs::read_to_string(file).ok()?;
    serde_json::from_str(text.lines().next_back()?).ok()
}

/// How a run ended, if its file says so.
fn last_status(file: &Path) -> Option<Status> {
    last_line(file).filter(|record| record.workload == END).map(|record| record.status)
}

fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", dir.display()).into()),
        _ => Ok(()),
    }
}

/// Two orchestrators would disturb each other's figures and files.
fn lock(results: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(results.join("lock"))?;
    if file.try_lock().is_err() {
        let results = results.display();
        return Err(format!("another run is writing to {results}; wait for it, or name other results").into());
    }
    Ok(file)
}

/// The commit of this tree, with a plus if it was changed since; empty outside a repository.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", ".."]).is_some_and(|text| !text.is_empty());
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default() + if changed { "+" } else { "" }
}
