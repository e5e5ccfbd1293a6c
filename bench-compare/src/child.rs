//! The process of one run: carries out its task, and says on standard output what came of it.

use std::panic::AssertUnwindSafe;

use crate::engine::{Result, kind};
use crate::results::{Record, Status};
use crate::scenario::{Task, carry_out, setup};
use crate::workload::Reporter;

/// Carries out a task; an error or a panic of the engine becomes the last result line.
pub fn run(task: &Task) -> Result<()> {
    die_with_parent();
    if let Some(group) = &task.memory_group {
        std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
    }
    let reporter = Reporter::new(template(task)?);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| carry_out(task, &reporter)));
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => reporter.failed(error.to_string()),
        Err(_) => reporter.failed("the engine panicked".to_owned()),
    }
}

/// A line without figures, for a task.
pub fn template(task: &Task) -> Result<Record> {
    let kind = kind(&task.engine)?;
    Ok(Record {
        engine: kind.name.to_owned(),
        version: kind.version.to_owned(),
        commit: task.commit.clone(),
        scenario: task.scenario.clone(),
        workload: String::new(),
        rep: task.rep,
        status: Status::Ok,
        note: String::new(),
        metrics: Default::default(),
        settings: (kind.settings)(&setup(&task.scenario, &task.config)),
        config: task.config.clone(),
        load_before: 0.0,
        other_cores: 0.0,
        stolen_cores: 0.0,
        unix_seconds: 0,
    })
}

/// Whoever ends the orchestrator ends this process too.
fn die_with_parent() {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        eprintln!("compare: this process may outlive the run: {error}");
    }
}
