//! What every stage is given, and what it gives back.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where a stage works, and from which seed.
pub(crate) struct Context<'a> {
    pub(crate) seed: u64,
    /// For the stage alone; empty when it begins.
    pub(crate) scratch: &'a Path,
    /// The release binary `cairn`.
    pub(crate) binary: &'a Path,
}

impl Context<'_> {
    /// A directory that does not exist yet.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf, String> {
        let dir = self.scratch.join(name);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", dir.display())),
            _ => Ok(dir),
        }
    }

    /// `cairn check`: must find the directory sound.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), String> {
        let output =
            Command::new(self.binary).arg("check").arg(dir).output().map_err(|e| format!("cairn check: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Err(format!("cairn check {}: {}\n{out}{err}", dir.display(), output.status))
    }
}

/// When a stage's share of the time is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop(Instant);

impl Stop {
    pub(crate) fn after(time: Duration) -> Stop {
        Stop(Instant::now() + time)
    }

    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}

/// Where in a stage something happened.
#[derive(Clone, Debug)]
pub(crate) struct Scene(pub(crate) String);

impl Scene {
    /// Puts the scene before an error.
    pub(crate) fn at(&self) -> impl FnOnce(String) -> String {
        move |error| format!("{self}: {error}")
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name and a value for the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Figure {
    pub(crate) fn new(name: &str, value: impl fmt::Display) -> Figure {
        Figure { name: name.to_owned(), value: value.to_string() }
    }
}

/// How a stage ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Passed(Vec<Figure>),
    /// This machine lacks what the stage needs. Never counted as passed.
    Skipped(String),
    /// What happened, and the command that does it again if it is not the stage's own.
    Failed {
        figures: Vec<Figure>,
        what: String,
        replay: Option<String>,
    },
}

impl From<Result<Vec<Figure>, String>> for Outcome {
    fn from(result: Result<Vec<Figure>, String>) -> Outcome {
        match result {
            Ok(figures) => Outcome::Passed(figures),
            Err(what) => Outcome::Failed { figures: Vec::new(), what, replay: None },
        }
    }
}
