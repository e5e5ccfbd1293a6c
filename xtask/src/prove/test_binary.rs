//! Stages that are test binaries: built, given their depth by the environment, listened to.
//!
//! ```text
//! CAIRN_SEED=n              the seed to begin with
//! CAIRN_PROOF_SECONDS=n     repeat rounds, with seeds that follow from the first, until so long is over
//! proof: NAME = VALUE       a line of their output: a figure
//! ```
//!
//! The test profile is optimised, with assertions and overflow checks on: what is proved is the
//! code that watches itself, and CI has it built already.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::stage::{Figure, Outcome};
use crate::said::tail;

/// What a stage beyond its share gets before it is ended as hanging.
const GRACE: Duration = Duration::from_secs(600);

/// One stage's command, and what its output must show: that a test ran, and each figure that it is run for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tests {
    /// What cargo is given: the package and the test binary.
    pub(crate) cargo: &'static [&'static str],
    /// What the tests are filtered by, after `--`.
    pub(crate) filter: &'static [&'static str],
    /// More of the environment.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// The figures without which, or with a 0 as which, it has proved nothing.
    pub(crate) figures: &'static [&'static str],
    /// A command that succeeds where the stage can run, and what is missing where it does not.
    pub(crate) needs: Option<(&'static [&'static str], &'static str)>,
}

impl Tests {
    /// A test binary of a package, with nothing special.
    pub(crate) const fn of(cargo: &'static [&'static str], figures: &'static [&'static str]) -> Tests {
        Tests { cargo, filter: &[], environment: &[], figures, needs: None }
    }

    /// Why this machine cannot run them, if it cannot.
    pub(crate) fn lack(&self) -> Option<String> {
        let (probe, lack) = self.needs?;
        let (program, arguments) = probe.split_first()?;
        let there = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
        (!there).then(|| format!("there is no {lack}"))
    }

    fn command(&self, root: &Path, more: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(self.cargo).args(more).envs(self.environment.iter().copied()).current_dir(root);
        command
    }

    /// Compiles them.
    pub(crate) fn build(&self, root: &Path) -> Result<(), String> {
        let output = self.command(root, &["--no-run"]).output().map_err(|e| format!("cargo: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("they do not build:\n{}", tail(&text, 60))) }
    }

    /// Runs them for about so long.
    pub(crate) fn run(&self, root: &Path, scratch: &Path, seed: u64, share: Duration) -> Outcome {
        let seconds = share.as_secs().max(1);
        let variables = format!("CAIRN_SEED={seed} CAIRN_PROOF_SECONDS={seconds}");
        let replay: Vec<String> = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}='{value}'"))
            .chain([variables, "cargo".to_owned()])
            .chain(self.cargo.iter().chain(&["--", "--nocapture"]).chain(self.filter).map(|word| (*word).to_owned()))
            .collect();
        let log = scratch.join("output");
        let done = self.spawn_and_wait(root, &log, seed, seconds, share + GRACE);
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let mut figures: Vec<Figure> = text.lines().filter_map(figure).collect();
        let tests = text.lines().filter_map(passed).sum::<u64>();
        if figures.is_empty() {
            figures.push(Figure::new("tests passed", tests));
        }
        let what = match done {
            Ok(Some(status)) if status.success() => match self.shortfall(tests, &figures) {
                None => return Outcome::Passed(figures),
                Some(shortfall) => format!("{shortfall}\n{}", tail(&text, 60)),
            },
            Ok(Some(status)) => format!("{status}\n{}", tail(&text, 60)),
            Ok(None) => format!("it was not over {GRACE:?} after its share of the time\n{}", tail(&text, 60)),
            Err(e) => e,
        };
        Outcome::Failed { figures, what, replay: Some(replay.join(" ")) }
    }

    /// What keeps a run without a failure from being a proof.
    fn shortfall(&self, tests: u64, figures: &[Figure]) -> Option<String> {
        if tests == 0 {
            return Some("no test ran".to_owned());
        }
        let told = |name: &str| figures.iter().any(|figure| figure.name == name && !is_zero(&figure.value));
        let missing = self.figures.iter().find(|name| !told(name))?;
        Some(format!("no test printed the figure \"{missing}\" with a value above 0"))
    }

    /// `None` if the limit passed.
    fn spawn_and_wait(
        &self,
        root: &Path,
        log: &Path,
        seed: u64,
        seconds: u64,
        limit: Duration,
    ) -> Result<Option<ExitStatus>, String> {
        let mut command = self.command(root, &["--", "--nocapture"]);
        command.args(self.filter).env("CAIRN_SEED", seed.to_string()).env("CAIRN_PROOF_SECONDS", seconds.to_string());
        wait(command, log, limit)
    }
}

/// Runs a command with its output in `log`. `None` if it was not over within the limit, and was ended
/// with all that it had started.
pub(super) fn wait(mut command: Command, log: &Path, limit: Duration) -> Result<Option<ExitStatus>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", log.display());
    let out = File::create(log).map_err(failed)?;
    let err = out.try_clone().map_err(failed)?;
    let started = command.stdout(out).stderr(err).process_group(0).spawn();
    let mut child = started.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(Some(status));
        }
        if began.elapsed() > limit {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            child.wait().map_err(failed)?;
            return Ok(None);
        }
        sleep(Duration::from_millis(50));
    }
}

/// The figure of a line, which a test's name may stand before.
fn figure(line: &str) -> Option<Figure> {
    let (_, rest) = line.split_once("proof: ")?;
    let (name, value) = rest.split_once(" = ")?;
    Some(Figure::new(name.trim(), value.trim()))
}

fn is_zero(value: &str) -> bool {
    value.split_ascii_whitespace().next() == Some("0")
}

/// The tests that a summary line of the harness counts.
fn passed(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter that nothing matches any more, or a figure that was renamed, once went unseen.
    #[test]
    fn a_stage_without_tests_or_without_its_figures_proves_nothing() {
        let tests = Tests::of(&["test"], &["images", "histories"]);
        let figures = |images: &str| vec![Figure::new("histories", 7), Figure::new("images", images)];
        assert_eq!(tests.shortfall(1, &figures("12 of 12")), None);
        assert_eq!(tests.shortfall(0, &figures("12")).unwrap(), "no test ran");
        assert!(tests.shortfall(1, &figures("0 of 12")).unwrap().contains("\"images\""));
        assert!(tests.shortfall(1, &[Figure::new("images", 1)]).unwrap().contains("\"histories\""));
        let none = Tests::of(&["test"], &[]);
        assert_eq!(none.shortfall(3, &[]), None);
    }

    /// The whole way, with a test binary that has no such test: this one.
    #[test]
    fn a_filter_that_matches_nothing_fails_its_stage() {
        let scratch = std::env::temp_dir().join(format!("cairn-no-test-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let ran = |filter| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(filter);
            let log = scratch.join("output");
            let status = wait(command, &log, Duration::from_secs(60)).unwrap().unwrap();
            assert!(status.success());
            fs::read_to_string(&log).unwrap().lines().filter_map(passed).sum::<u64>()
        };
        assert_eq!(ran(["there_is_no_such_test"]), 0);
        assert_eq!(ran(["figures_are_read_and_nothing_else"]), 1);
        fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn figures_are_read_and_nothing_else_is() {
        assert_eq!(figure("proof: crash images = 12 of 12"), Some(Figure::new("crash images", "12 of 12")));
        assert_eq!(figure("test a_crash ... proof: images = 1"), Some(Figure::new("images", 1)));
        assert_eq!(figure("proof of nothing = 3"), None);
        assert_eq!(figure("the proof: is short"), None);
        assert_eq!(passed("test result: ok. 27 passed; 0 failed; 0 ignored"), Some(27));
        assert_eq!(passed("test result: FAILED. 26 passed; 1 failed"), None);
    }
}
