//! `cargo xtask counts`: whether the engine's hot paths still take the instructions that they took.
//!
//! Owns the table of what they took ([`Table`], committed as `xtask/counts.txt`) and the verdict. The paths are
//! `crates/bench/examples/hot_paths.rs`. More than a few percent above the table fails; below, it is to be
//! accepted, or the next regression hides in the gap. Counts follow from the compiler, the processor's features
//! and the C library too: where these are others than the table's, the comparison is SKIPPED and has passed nothing.
//!
//! ```text
//! table     := condition+ "\n" path+        lines that begin with # are comments
//! condition := name ": " value "\n"         under which the counts hold
//! path      := name instructions "\n"       of one operation, with one decimal
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::callgrind;

type Result<T> = std::result::Result<T, String>;

/// The committed table, from the root.
const TABLE: &str = "xtask/counts.txt";
/// Of the counts committed, so much more or less is the same. Two runs of one build are equal to the instruction;
/// this leaves room for what a change elsewhere does to inlining.
const TOLERANCE: f64 = 0.03;
const HEAD: &str = "\
# Instructions of one operation on each hot path: crates/bench/examples/hot_paths.rs.
# `cargo xtask counts` compares, `cargo xtask counts --accept` writes this file.
";
const ACCEPT: &str = "if that is meant: `cargo xtask counts --accept` writes the counts; commit them with the reason";

/// What the paths take, and where that holds.
#[derive(Debug, Default, PartialEq)]
struct Table {
    conditions: Vec<(String, String)>,
    counts: BTreeMap<String, f64>,
}

impl Table {
    fn parse(text: &str) -> Result<Table> {
        let mut table = Table::default();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (index, line) in lines {
            let mut words = line.split_ascii_whitespace();
            if let Some((name, value)) = line.split_once(": ") {
                table.conditions.push((name.to_owned(), value.to_owned()));
            } else if let (Some(name), Some(count), None) = (words.next(), words.next(), words.next()) {
                let count = count.parse().map_err(|e| format!("{TABLE}:{}: {count}: {e}", index + 1))?;
                table.counts.insert(name.to_owned(), count);
            } else {
                return Err(format!("{TABLE}:{}: neither a condition nor a path: {line}", index + 1));
            }
        }
        Ok(table)
    }

    fn to_text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (name, value) in &self.conditions {
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push('\n');
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name:<16} {count:>10.1}");
        }
        text
    }

    /// What is not as it was when the table was written.
    fn other_conditions(&self, here: &[(String, String)]) -> Option<String> {
        let value = |of: &[(String, String)], name: &str| {
            of.iter().find(|(other, _)| other == name).map_or("nothing", |(_, value)| value).to_owned()
        };
        let differs = here.iter().find(|(name, there)| value(&self.conditions, name) != *there);
        differs.map(|(name, there)| format!("{name} is {there}; the table is for {}", value(&self.conditions, name)))
    }
}

/// How a path's count stands to the committed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    More,
    Less,
    /// Only the program has it, or only the table.
    Unpaired,
}

fn verdict(was: Option<f64>, is: Option<f64>) -> Verdict {
    match was.zip(is) {
        None => Verdict::Unpaired,
        Some((was, is)) if is > was * (1.0 + TOLERANCE) => Verdict::More,
        Some((was, is)) if is < was * (1.0 - TOLERANCE) => Verdict::Less,
        Some(_) => Verdict::Same,
    }
}

/// The lines of the comparison, and whether it is passed.
fn compare(was: &Table, is: &Table) -> (String, bool) {
    let names: BTreeSet<&String> = was.counts.keys().chain(is.counts.keys()).collect();
    let mut verdicts = Vec::new();
    let mut text = format!("{:<16} {:>10} {:>10}\n", "instructions", "committed", "now");
    for name in names {
        let (was, is) = (was.counts.get(name).copied(), is.counts.get(name).copied());
        let shown = |count: Option<f64>| count.map_or_else(|| "-".to_owned(), |count| format!("{count:.1}"));
        let change = was.zip(is).map_or_else(String::new, |(was, is)| format!("{:+.1} %", (is / was - 1.0) * 100.0));
        let verdict = verdict(was, is);
        let told = match verdict {
            Verdict::Same => "",
            Verdict::More => "MORE",
            Verdict::Less => "less",
            Verdict::Unpaired => "NOT IN BOTH",
        };
        let line = format!("{name:<16} {:>10} {:>10} {change:>9}  {told}", shown(was), shown(is));
        let _ = writeln!(text, "{}", line.trim_end());
        verdicts.push(verdict);
    }
    if verdicts.iter().any(|verdict| *verdict != Verdict::Same) {
        let _ = writeln!(text, "{ACCEPT}");
    }
    (text, verdicts.iter().all(|verdict| matches!(verdict, Verdict::Same | Verdict::Less)))
}

/// The paths with the operations of a run, and the processor as the program sees it under valgrind.
struct Program {
    paths: Vec<(String, u64)>,
    processor: String,
}

impl Program {
    fn parse(said: &str) -> Option<Program> {
        let path = |line: &str| {
            let (name, operations) = line.strip_prefix("path ")?.split_once(' ')?;
            Some((name.to_owned(), operations.parse().ok()?))
        };
        let processor = said.lines().find_map(|line| line.strip_prefix("processor "))?.to_owned();
        Some(Program { paths: said.lines().filter_map(path).collect(), processor })
    }
}

/// Counts and compares, or writes the table. `Ok(false)` if a path takes more than it did.
pub(crate) fn run(root: &Path, target: &Path, accept: bool) -> Result<bool> {
    let file = root.join(TABLE);
    let failed = |e: std::io::Error| format!("{}: {e}", file.display());
    let was = match fs::read_to_string(&file) {
        Ok(text) => Table::parse(&text)?,
        Err(e) if accept && e.kind() == std::io::ErrorKind::NotFound => Table::default(),
        Err(e) => return Err(format!("{}; {ACCEPT}", failed(e))),
    };
    let mut conditions = vec![
        ("compiler".to_owned(), said_by("rustc", "--version")),
        ("C library".to_owned(), said_by("getconf", "GNU_LIBC_VERSION")),
    ];
    // What can be told without the program is, before it is built.
    if let Some(why) = was.other_conditions(&conditions).filter(|_| !accept) {
        return Ok(skip(&why, accept));
    }
    let program = build(root, target)?;
    let Some(listed) = callgrind::count(&program, &[], None)? else { return Ok(skip("there is no valgrind", accept)) };
    let listed = Program::parse(&listed.said).ok_or_else(|| format!("it lists no paths: {}", listed.said))?;
    conditions.push(("processor".to_owned(), listed.processor));
    if let Some(why) = was.other_conditions(&conditions).filter(|_| !accept) {
        return Ok(skip(&why, accept));
    }
    let is = Table { conditions, counts: count_all(&program, &listed.paths)? };
    let (text, passed) = compare(&was, &is);
    print!("{text}");
    if accept {
        fs::write(&file, is.to_text()).map_err(failed)?;
        println!("{} is written", file.display());
    }
    Ok(passed || accept)
}

/// Builds the program that has the paths.
fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    // The binary is named for its features only: with them, what `cargo build --release` has built need not be built
    // anew.
    let packages = ["--package", "cairn-cli", "--package", "cairn-bench"];
    let arguments = [&["build", "--release", "--example", "hot_paths"][..], &packages].concat();
    let status = Command::new("cargo").args(&arguments).current_dir(root).status();
    let status = status.map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err(format!("cargo {}: {status}", arguments.join(" ")));
    }
    Ok(target.join("release").join("examples").join("hot_paths"))
}

/// Nothing was compared; that is no failure, unless it was to be written.
fn skip(why: &str, accept: bool) -> bool {
    println!("counts SKIPPED: {why}");
    !accept
}

fn said_by(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.ok().filter(|said| !said.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Each path in a process of its own, as many at a time as there are processors: that changes no count.
fn count_all(program: &Path, paths: &[(String, u64)]) -> Result<BTreeMap<String, f64>> {
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(Ok(BTreeMap::new())));
    let work = || {
        while let Some((name, operations)) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            // The name of the function that runs a path, in hot_paths.rs.
            let counted = callgrind::count(program, &[name], Some("hot_paths::counted"));
            let counted = counted.and_then(|counted| counted.ok_or_else(|| "valgrind is gone".to_owned()));
            let mut counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match (&mut *counts, counted) {
                (Ok(counts), Ok(counted)) => {
                    let each = counted.instructions as f64 / *operations as f64;
                    // As the table has it, so that what is accepted compares as equal.
                    counts.insert(name.clone(), (each * 10.0).round() / 10.0);
                }
                (Ok(_), Err(e)) => *counts = Err(format!("{name}: {e}")),
                (Err(_), _) => {}
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(paths.len()) {
            scope.spawn(work);
        }
    });
    counts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: &[(&str, f64)]) -> Table {
        Table {
            conditions: vec![("compiler".to_owned(), "rustc 1.95.0 (a: b)".to_owned())],
            counts: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }

    #[test]
    fn the_table_is_read_as_it_was_written() {
        let written = table(&[("get", 1234.5), ("a-path-with-a-long-name", 9_876_543_210.1)]);
        assert_eq!(Table::parse(&written.to_text()), Ok(written));
        assert_eq!(
            Table::parse("get 1.0 2.0").unwrap_err(),
            "xtask/counts.txt:1: neither a condition nor a path: get 1.0 2.0"
        );
        assert!(Table::parse("# a\nget x").unwrap_err().starts_with("xtask/counts.txt:2: x: "));
    }

    #[test]
    fn more_fails_and_less_is_told() {
        let was = table(&[("a", 1000.0), ("b", 1000.0)]);
        let compared = |a, b| compare(&was, &table(&[("a", a), ("b", b)]));
        let (text, passed) = compared(1030.0, 970.0);
        assert!(passed && text.ends_with("+3.0 %\nb                    1000.0      970.0    -3.0 %\n"), "{text}");
        let (text, passed) = compared(1000.0, 1031.0);
        assert!(!passed && text.contains("\nb                    1000.0     1031.0    +3.1 %  MORE\nif "), "{text}");
        let (text, passed) = compared(969.0, 1000.0);
        assert!(passed && text.contains("\na                    1000.0      969.0    -3.1 %  less\n"), "{text}");
        assert!(text.contains("--accept"), "{text}");
    }

    #[test]
    fn a_path_that_only_one_has_fails() {
        let (one, two) = (table(&[("a", 1.0)]), table(&[("a", 1.0), ("b", 2.0)]));
        for (was, is) in [(&one, &two), (&two, &one)] {
            let (text, passed) = compare(was, is);
            assert!(!passed && text.contains("NOT IN BOTH"), "{text}");
        }
    }

    #[test]
    fn another_compiler_is_not_compared() {
        let was = table(&[]);
        assert_eq!(was.other_conditions(&was.conditions), None);
        let here = [("compiler".to_owned(), "rustc 1.96.0".to_owned())];
        assert_eq!(
            was.other_conditions(&here).unwrap(),
            "compiler is rustc 1.96.0; the table is for rustc 1.95.0 (a: b)"
        );
        let unknown = [was.conditions[0].clone(), ("C library".to_owned(), "glibc 2.36".to_owned())];
        assert_eq!(was.other_conditions(&unknown).unwrap(), "C library is glibc 2.36; the table is for nothing");
    }

    #[test]
    fn the_list_of_paths_is_read() {
        let listed = Program::parse("path get 20000\npath put 10\nprocessor x86_64: compiled for sse2\n").unwrap();
        assert_eq!(listed.paths, [("get".to_owned(), 20_000), ("put".to_owned(), 10)]);
        assert_eq!(listed.processor, "x86_64: compiled for sse2");
        assert!(Program::parse("").is_none());
    }
}
