//! The stage `fuzz`: every target under libFuzzer, on the stable compiler.
//!
//! The compiler's own coverage pass is asked for by its flags, and libFuzzer comes as a library, so
//! neither a nightly nor another cargo command is needed; a C++ compiler is. Each target begins with
//! its seeds and its corpus in `fuzz/corpus/`. The seed of the run is libFuzzer's, but two runs of
//! one length still differ: what it found is the file that it names, which the plain binary runs again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::stage::{Context, Figure, Outcome};
use crate::said::tail;

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The corpora are small; what is longer finds little that is new.
const INPUT_BYTES_MAX: u32 = 8192;

pub(crate) const NEEDS: &str = "C++ compiler for libFuzzer";

/// Why this machine cannot.
pub(crate) fn lack() -> Option<String> {
    let there = Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success());
    (!there).then(|| format!("there is no {NEEDS}"))
}

/// The triple of this machine: with it named, the flags are not for build scripts.
fn triple() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not name its host".to_owned())
}

/// Builds the fuzzer of all targets.
pub(crate) fn build(root: &Path) -> Result<(), String> {
    let triple = triple()?;
    let arguments = ["build", "-p", "cairn-fuzz", "--profile", "fuzz", "--target", &triple];
    let output = Command::new("cargo").args(arguments).env("RUSTFLAGS", FLAGS).current_dir(root).output();
    let output = output.map_err(|e| format!("cargo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("the fuzzer does not build:\n{text}")) }
}

/// Runs each target for its part of the time.
pub(crate) fn run(root: &Path, target: &Path, context: &Context<'_>, share: Duration) -> Outcome {
    let mut figures = Vec::new();
    match run_all(root, target, context, share, &mut figures) {
        Ok(()) => Outcome::Passed(figures),
        Err((what, replay)) => Outcome::Failed { figures, what, replay },
    }
}

type Failure = (String, Option<String>);

fn run_all(
    root: &Path,
    target: &Path,
    context: &Context<'_>,
    share: Duration,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let plain = |what: String| (what, None);
    let binary = target.join(triple().map_err(plain)?).join("fuzz").join("cairn-fuzz");
    let corpora = root.join("fuzz").join("corpus");
    let entries = fs::read_dir(&corpora).map_err(|e| plain(format!("{}: {e}", corpora.display())))?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let seconds = (share.as_secs() / names.len().max(1) as u64).max(1);
    let mut executions = 0;
    for name in &names {
        let (new, seeds) = (context.scratch.join("new").join(name), context.scratch.join("seeds").join(name));
        for dir in [&new, &seeds] {
            fs::create_dir_all(dir).map_err(|e| plain(format!("{}: {e}", dir.display())))?;
        }
        let artifacts = context.scratch.join(format!("{name}-"));
        let output = Command::new(&binary)
            .env("CAIRN_FUZZ_TARGET", name)
            .env("CAIRN_FUZZ_SEEDS", &seeds)
            .args([&new, &seeds, &corpora.join(name)])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-seed={}", context.seed % (1 << 31) + 1))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg(format!("-artifact_prefix={}", artifacts.display()))
            .args(["-print_final_stats=1", "-timeout=25", "-rss_limit_mb=2048"])
            .current_dir(context.scratch)
            .output()
            .map_err(|e| plain(format!("{}: {e}", binary.display())))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            let replay = format!("cargo run -p cairn-fuzz -- {name} {}*", artifacts.display());
            return Err((format!("{name}: {}\n{}", output.status, tail(&text, 60)), Some(replay)));
        }
        let (count, edges) = stats(&text).ok_or_else(|| plain(format!("{name} told no figures:\n{text}")))?;
        executions += count;
        figures.push(Figure::new(&format!("{name}: executions / edges"), format!("{count} / {edges}")));
    }
    figures.push(Figure::new("targets", names.len()));
    figures.push(Figure::new("executions", executions));
    Ok(())
}

/// Executions, and edges that were reached.
fn stats(text: &str) -> Option<(u64, u64)> {
    let executions = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    let edges = text.lines().rev().find_map(|line| line.split_once(" cov: "))?.1.split_ascii_whitespace().next()?;
    Some((executions.trim().parse().ok()?, edges.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_last_ones() {
        let text = "#2 INITED cov: 7 ft: 8 corp: 1/1b\n#90 NEW    cov: 12 ft: 20\n\
                    Done 100 runs\nstat::number_of_executed_units: 100\n";
        assert_eq!(stats(text), Some((100, 12)));
        assert_eq!(stats("nothing"), None);
    }
}
