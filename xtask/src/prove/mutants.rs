//! Planted defects: the tests are tested.
//!
//! A build with `--cfg mutants` holds the defects of [`list`], of which `CAIRN_MUTANT` picks one. Each
//! must be caught: one of the tests named for it says that it failed, and why. First every test passes
//! without one. A defect that nobody catches is a hole in the tests, and fails the stage; so does a test
//! of the list that there is none of, and a test that ends in any other way, by a signal or not at all:
//! a machine out of memory or space would look like that, and no test is meant to hang.
//!
//! As many as the time allows, in a seeded order, two at once; never fewer than a sample.

mod list;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::random::Random;
use super::stage::{Figure, Outcome, Stop};
use super::test_binary::wait;
use crate::said::{self, tail};
use list::{BUILD, Catcher, MUTANTS, Mutant};

/// However little time there is.
const SAMPLE: usize = 6;
/// As many at once.
const WORKERS: usize = 2;
/// The longest that a test may take without a defect.
const SOUND_LIMIT: Duration = Duration::from_secs(900);
/// With a defect it hangs when it has taken so many times as long, and half a minute.
const HANGS_AFTER: u32 = 8;
/// What the test harness exits with if tests failed.
const TESTS_FAILED: i32 = 101;
/// So much is shown of what a test said.
const WHY_CHARS: usize = 120;

/// The test binaries by name.
pub(crate) struct Built {
    binaries: BTreeMap<String, PathBuf>,
}

/// Builds the test binaries, in a target directory of their own.
pub(crate) fn build(root: &Path, target: &Path) -> Result<Built, String> {
    let output = Command::new("cargo")
        .args(BUILD)
        .env("RUSTFLAGS", "--cfg mutants")
        .env("CARGO_TARGET_DIR", target.join("mutants"))
        .current_dir(root)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("they do not build:\n{}", tail(&text, 60)));
    }
    let mut binaries = BTreeMap::new();
    for (name, path) in text.lines().filter_map(executable) {
        if let Some(other) = binaries.insert(name, root.join(&path)) {
            return Err(format!("{} and {} have the same name", other.display(), path.display()));
        }
    }
    Ok(Built { binaries })
}

/// The binary that a line of cargo's names: `  Executable tests/traps.rs (target/debug/deps/traps-0123)`.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let (_, path) = line.trim().strip_prefix("Executable ")?.rsplit_once(" (")?;
    let path = PathBuf::from(path.strip_suffix(')')?);
    let (name, _) = path.file_name()?.to_str()?.rsplit_once('-')?;
    Some((name.to_owned(), path))
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Passed,
    /// The test that failed, and what it said.
    Failed {
        test: String,
        why: String,
    },
}

/// What became of a defect.
struct Verdict {
    mutant: &'static str,
    /// The test, and what it said.
    caught: Option<(String, String)>,
    time: Duration,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (test, why) = self.caught.as_ref().map_or(("NOBODY", ""), |(test, why)| (test, why));
        write!(f, "| {} | {test} | {:.1} | {} |", self.mutant, self.time.as_secs_f64(), why.replace('|', "\\|"))
    }
}

/// A run over some of the defects.
struct Run<'a> {
    built: &'a Built,
    scratch: &'a Path,
    /// How long each test takes without a defect, or that it does not pass.
    sound: BTreeMap<Catcher, OnceLock<Result<Duration, String>>>,
}

/// Plants them.
pub(crate) fn run(built: &Built, scratch: &Path, seed: u64, share: Duration) -> Outcome {
    let stop = Stop::after(share);
    let mut order: Vec<&Mutant> = MUTANTS.iter().collect();
    Random::of(&[seed]).shuffle(&mut order);
    let catchers = MUTANTS.iter().flat_map(|mutant| mutant.catchers);
    let sound = catchers.map(|catcher| (*catcher, OnceLock::new())).collect();
    let run = Run { built, scratch, sound };
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    println!("| planted defect | caught by | seconds | it said |\n|---|---|---|---|");
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = order.get(index) else { break };
                    if index >= SAMPLE && stop.is_over() {
                        break;
                    }
                    let verdict = run.plant(mutant);
                    if let Ok(verdict) = &verdict {
                        println!("{verdict}");
                    }
                    verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
                }
            });
        }
    });
    let verdicts: Result<Vec<Verdict>, String> =
        verdicts.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect();
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(what) => return Err(what).into(),
    };
    let missed: Vec<&str> = verdicts.iter().filter(|v| v.caught.is_none()).map(|v| v.mutant).collect();
    let caught = format!("{} of {}", verdicts.len() - missed.len(), verdicts.len());
    let sound = run.sound.values().filter(|sound| sound.get().is_some()).count();
    let figures = vec![
        Figure::new("mutants caught", caught),
        Figure::new("mutants there are", MUTANTS.len()),
        Figure::new("tests that passed without one", sound),
    ];
    if missed.is_empty() {
        return Outcome::Passed(figures);
    }
    let what = format!("no test caught {}", missed.join(", "));
    Outcome::Failed { figures, what, replay: None }
}

impl Run<'_> {
    fn plant(&self, mutant: &Mutant) -> Result<Verdict, String> {
        let began = Instant::now();
        let mut waited = Duration::ZERO;
        for &catcher in mutant.catchers {
            let before = Instant::now();
            let sound = self.sound(catcher)?;
            waited += before.elapsed();
            let limit = sound * HANGS_AFTER + Duration::from_secs(30);
            let (binary, _) = catcher;
            let caught = match self.test(catcher, Some(mutant.name), limit)? {
                Ended::Passed => continue,
                Ended::Failed { test, why } => (format!("`{binary}`: {test}"), why),
            };
            return Ok(Verdict { mutant: mutant.name, caught: Some(caught), time: began.elapsed() - waited });
        }
        Ok(Verdict { mutant: mutant.name, caught: None, time: began.elapsed() - waited })
    }

    /// How long a test takes without a defect; it must pass.
    fn sound(&self, catcher: Catcher) -> Result<Duration, String> {
        let run = || {
            let began = Instant::now();
            match self.test(catcher, None, SOUND_LIMIT)? {
                Ended::Passed => Ok(began.elapsed()),
                Ended::Failed { test, why } => Err(format!("{}: {test} fails without a defect: {why}", catcher.0)),
            }
        };
        self.sound.get(&catcher).map_or_else(run, |once| once.get_or_init(run).clone())
    }

    fn test(&self, (binary, filter): Catcher, mutant: Option<&str>, limit: Duration) -> Result<Ended, String> {
        let program = self.built.binaries.get(binary).ok_or_else(|| format!("cargo built no test binary {binary}"))?;
        let log = self.scratch.join(format!("{}-{binary}-{filter}", mutant.unwrap_or("sound")));
        let mut command = Command::new(program);
        // Their own seed: what they catch does not depend on the order of the defects.
        command.env("CAIRN_SHRINK", "0");
        command.arg(filter).env_remove("CAIRN_SEED").env_remove("CAIRN_PROOF_SECONDS").env_remove("CAIRN_MUTANT");
        if let Some(mutant) = mutant {
            command.env("CAIRN_MUTANT", mutant);
        }
        let status = wait(command, &log, limit)?;
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let how = status.map_or_else(|| format!("hangs, for {limit:?}"), |status| format!("ended with {status}"));
        let code = status.and_then(|status| status.code());
        let at = mutant.map_or_else(String::new, |mutant| format!("{mutant}: "));
        judge(code, &text, filter)
            .map_err(|what| format!("{at}{binary} {filter} {how}, and {what}\n{}", tail(&text, 20)))
    }
}

/// How a test binary ended, with its exit code if it has one and all that it said; an error if that is neither
/// success nor the failure of a test that was asked for.
fn judge(code: Option<i32>, text: &str, filter: &str) -> Result<Ended, String> {
    if text.contains("running 0 tests") {
        return Err("has no such test".to_owned());
    }
    match (code, text.contains("test result: ok. "), text.contains("test result: FAILED. ")) {
        (Some(0), true, false) => return Ok(Ended::Passed),
        (Some(TESTS_FAILED), false, true) => {}
        _ => return Err("the harness did not sum up".to_owned()),
    }
    let test = failed(text).find(|name| name.contains(filter)).ok_or("names no failed test of these")?;
    let said = said::panic(text).ok_or("no test said why")?;
    let why = said.lines().nth(1).unwrap_or_default().chars().take(WHY_CHARS).collect();
    Ok(Ended::Failed { test: test.rsplit("::").next().unwrap_or(test).replace('_', " "), why })
}

/// The tests that the harness lists as failed at the end. (Its lines `... FAILED` may be torn by what
/// threads print meanwhile.)
fn failed(text: &str) -> impl Iterator<Item = &str> {
    let list = text.rsplit_once("\nfailures:\n").map_or("", |(_, list)| list);
    list.lines().map_while(|line| line.strip_prefix("    "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    #[test]
    fn the_list_names_what_stands_in_the_sources_once() {
        let tree = Tree::read(&crate::root()).unwrap();
        let mut planted: Vec<&str> = Vec::new();
        for (path, text) in tree.sources().filter(|(path, _)| path.starts_with("crates/")) {
            let mut parts = text.split("mutant(\"");
            parts.next();
            for part in parts {
                planted.push(part.split_once('"').unwrap_or_else(|| panic!("{path}: a name without an end")).0);
            }
        }
        planted.sort_unstable();
        let mut listed: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        listed.sort_unstable();
        assert_eq!(planted, listed);
        assert!(MUTANTS.iter().all(|mutant| !mutant.catchers.is_empty()));
    }

    #[test]
    fn lines_of_cargo_and_of_tests_are_read() {
        let line = "  Executable tests/traps.rs (/t/debug/deps/traps-00ff)";
        assert_eq!(executable(line), Some(("traps".to_owned(), PathBuf::from("/t/debug/deps/traps-00ff"))));
        let line = "  Executable unittests src/lib.rs (target/debug/deps/cairn_wal-1f)";
        assert_eq!(executable(line).map(|(name, _)| name).as_deref(), Some("cairn_wal"));
        assert_eq!(executable("   Compiling cairn v0.1.0 (/x)"), None);
    }

    const CAUGHT: &str = "running 2 tests\ntest a_b ... ok\ntest tests::c_d ... FAILED\n\nfailures:\n\n\
        ---- tests::c_d stdout ----\nthread 'tests::c_d' (7) panicked at x.rs:1:2:\nit ends at 3\nframes\n\n\
        failures:\n    tests::c_d\n\ntest result: FAILED. 1 passed; 1 failed\n";

    #[test]
    fn a_test_that_says_it_failed_has_caught_the_defect() {
        let passed = "running 1 test\ntest a_b ... ok\n\ntest result: ok. 1 passed; 0 failed\n";
        assert_eq!(judge(Some(0), passed, "a_b"), Ok(Ended::Passed));
        let caught = Ended::Failed { test: "c d".to_owned(), why: "it ends at 3".to_owned() };
        assert_eq!(judge(Some(101), CAUGHT, "c_d"), Ok(caught));
    }

    /// Once any end but success was one: a test killed for want of memory had caught its defect.
    #[test]
    fn no_other_end_has_caught_it() {
        let cut = CAUGHT.split_once("test result").unwrap().0;
        for (code, text, filter) in [
            (None, "running 1 test\n", "c_d"),
            (None, CAUGHT, "c_d"),
            (Some(101), cut, "c_d"),
            (Some(1), CAUGHT, "c_d"),
            (Some(101), CAUGHT, "a_b"),
            (Some(0), "running 0 tests\ntest result: ok. 0 passed\n", "c_d"),
            (Some(101), &CAUGHT.replace("panicked at", "stopped at"), "c_d"),
        ] {
            assert!(judge(code, text, filter).is_err(), "{code:?} {text} {filter}");
        }
    }
}
