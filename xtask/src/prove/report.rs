//! The table at the end: stage, figure, value; as text for people and as markdown for a page.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::stage::{Figure, Outcome};

/// How all stages ended.
pub(crate) struct Report {
    /// One line each: what was run, where, from which seed.
    head: Vec<String>,
    rows: Vec<(String, u64, Outcome)>,
}

impl Report {
    pub(crate) fn new(root: &Path, scratch: &Path, seed: u64, minutes: u64) -> Report {
        Report {
            head: vec![
                format!("`cargo xtask prove --seed {seed} --minutes {minutes}`, commit {}", commit(root)),
                machine(scratch),
            ],
            rows: Vec::new(),
        }
    }

    pub(crate) fn head(&self) -> String {
        self.head.join("\n")
    }

    pub(crate) fn add(&mut self, stage: &str, seconds: u64, outcome: Outcome) {
        self.rows.push((stage.to_owned(), seconds, outcome));
    }

    pub(crate) fn failed(&self) -> usize {
        self.rows.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Failed { .. })).count()
    }

    pub(crate) fn skipped(&self) -> usize {
        self.rows.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Skipped(_))).count()
    }

    pub(crate) fn passed(&self) -> usize {
        self.rows.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Passed(_))).count()
    }

    /// Nothing failed, and something ran.
    pub(crate) fn proves(&self) -> bool {
        self.failed() == 0 && self.passed() > 0
    }

    /// Every line of the table.
    fn lines(&self) -> Vec<[String; 3]> {
        let mut lines = Vec::new();
        for (stage, seconds, outcome) in &self.rows {
            let (verdict, figures): (String, &[Figure]) = match outcome {
                Outcome::Passed(figures) => (format!("passed in {seconds} s"), figures),
                Outcome::Skipped(reason) => (format!("SKIPPED: {reason}"), &[]),
                Outcome::Failed { figures, .. } => ("FAILED".to_owned(), figures),
            };
            lines.push([stage.clone(), "verdict".to_owned(), verdict]);
            lines.extend(figures.iter().map(|figure| [stage.clone(), figure.name.clone(), grouped(&figure.value)]));
        }
        lines
    }

    pub(crate) fn text(&self) -> String {
        let mut lines = vec![["stage".to_owned(), "figure".to_owned(), "value".to_owned()]];
        lines.extend(self.lines());
        let width =
            |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let (first, second) = (width(0).unwrap_or_default(), width(1).unwrap_or_default());
        lines.iter().map(|[stage, figure, value]| format!("{stage:first$}  {figure:second$}  {value}\n")).collect()
    }

    pub(crate) fn markdown(&self) -> String {
        let mut page = format!("{}\n\n| stage | figure | value |\n|---|---|---|\n", self.head.join(". "));
        let mut before = String::new();
        for [stage, figure, value] in self.lines() {
            let shown = if stage == before { "" } else { &stage };
            page += &format!("| {shown} | {figure} | {} |\n", value.replace('|', "\\|"));
            before = stage;
        }
        page
    }
}

/// A number with commas between its thousands; anything after it stays as it is.
fn grouped(value: &str) -> String {
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = value.split_at(digits);
    if rest.starts_with(['.', '-', ':']) {
        return value.to_owned();
    }
    let mut grouped = String::new();
    for (index, digit) in number.chars().enumerate() {
        if index > 0 && (number.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// What a program prints, if it does.
fn output(program: &str, arguments: &[&str], dir: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(dir).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The commit that the tree is at, and whether the tree differs from it.
pub(crate) fn commit(root: &Path) -> String {
    let Some(commit) = output("git", &["rev-parse", "--short=10", "HEAD"], root) else {
        return "unknown".to_owned();
    };
    match output("git", &["status", "--porcelain"], root) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + " with changes",
    }
}

/// The machine that this runs on.
pub(crate) fn machine(scratch: &Path) -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or_default() >> 20;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let here = Path::new(".");
    let file_system = output("df", &["--output=fstype", &scratch.display().to_string()], here);
    let today = output("date", &["-u", "+%Y-%m-%d"], here);
    format!(
        "{}: {cores} cores of {}, {memory} GiB, kernel {}, {}, files on {}",
        today.unwrap_or_default(),
        field("/proc/cpuinfo", "model name"),
        kernel.trim(),
        output("rustc", &["--version"], here).unwrap_or_default(),
        file_system.as_deref().and_then(|table| table.lines().last()).unwrap_or("an unknown file system"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_stage_is_not_a_passed_one() {
        let mut report = Report { head: vec!["head".to_owned()], rows: Vec::new() };
        report.add("a", 3, Outcome::Passed(vec![Figure::new("images", 1_234_567)]));
        report.add("b", 0, Outcome::Skipped("no root".to_owned()));
        report.add("c", 9, Outcome::Failed { figures: Vec::new(), what: "lost".to_owned(), replay: None });
        assert_eq!((report.failed(), report.skipped()), (1, 1));
        let page = report.markdown();
        assert!(page.contains("| a | verdict | passed in 3 s |\n|  | images | 1,234,567 |\n"), "{page}");
        assert!(page.contains("| b | verdict | SKIPPED: no root |\n| c | verdict | FAILED |\n"), "{page}");
        assert!(report.text().contains("a      images   1,234,567\n"), "{}", report.text());
    }

    /// A run whose stages were all skipped once ended with success.
    #[test]
    fn a_run_proves_something_if_a_stage_passed_and_none_failed() {
        let mut report = Report { head: Vec::new(), rows: Vec::new() };
        assert!(!report.proves());
        report.add("a", 0, Outcome::Skipped("no root".to_owned()));
        assert!(!report.proves());
        report.add("b", 1, Outcome::Passed(Vec::new()));
        assert!(report.proves());
        report.add("c", 1, Outcome::Failed { figures: Vec::new(), what: "lost".to_owned(), replay: None });
        assert!(!report.proves());
    }

    #[test]
    fn numbers_are_grouped_and_words_are_not() {
        for (value, shown) in [
            ("999", "999"),
            ("1000", "1,000"),
            ("120000 of 120000", "120,000 of 120000"),
            ("1234.5", "1234.5"),
            ("no", "no"),
        ] {
            assert_eq!(grouped(value), shown);
        }
    }
}
