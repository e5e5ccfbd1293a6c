//! `cargo xtask tidy`: what the compiler and clippy cannot see, about the text of the tree.
//!
//! 1. Every module of a crate opens with a head (`//!`), and no file has tabs or spaces at the end
//!    of a line.
//! 2. No leftovers in the sources: notes to oneself, debugging macros.
//! 3. Every name between backticks in ARCHITECTURE.md exists, and every path in any page (see
//!    [`crate::names`]).
//! 4. Every relative link of a page leads to a file.
//! 5. Every `cargo` command of README.md runs in CI, word for word.
//!
//! Long files are noted, not refused: whether a file is about one concept is for people to judge.

use crate::names::{Names, backticked, has_path, is_path};
use crate::tree::Tree;

/// Longer files are noted.
const LINES_NOTED: usize = 900;

/// The map whose names must exist.
const MAP: &str = "ARCHITECTURE.md";
/// The page whose commands must run.
const README: &str = "README.md";
/// Where they must run.
const CI: &str = ".ci/run";

/// What stands in no source. Written in parts, so that this list does not find itself.
const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("dbg", "!("),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Wrong: the run fails.
    pub(crate) problems: Vec<String>,
    /// For people to judge.
    pub(crate) notes: Vec<String>,
}

/// Checks everything.
pub(crate) fn check(tree: &Tree) -> Report {
    let mut report = Report::default();
    heads(tree, &mut report);
    spaces(tree, &mut report);
    leftovers(tree, &mut report);
    map(tree, &mut report);
    links(tree, &mut report);
    commands(tree, &mut report);
    report
}

fn heads(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.sources() {
        let is_module = path.starts_with("xtask/src/") || (path.starts_with("crates/") && path.contains("/src/"));
        if is_module && !text.starts_with("//!") {
            report.problems.push(format!("{path}:1: no head: begin with //! and what the module owns"));
        }
        let lines = text.lines().count();
        if lines > LINES_NOTED {
            report.notes.push(format!("{path} has {lines} lines; is it still about one concept?"));
        }
    }
}

fn spaces(tree: &Tree, report: &mut Report) {
    let is_checked = |path: &str| path == CI || [".rs", ".md", ".toml"].iter().any(|end| path.ends_with(end));
    for (path, text) in tree.files.iter().filter(|(path, _)| is_checked(path)) {
        for (index, line) in text.lines().enumerate() {
            if line.contains('\t') {
                report.problems.push(format!("{path}:{}: a tab", index + 1));
            }
            if line.ends_with([' ', '\t', '\r']) {
                report.problems.push(format!("{path}:{}: space at the end of the line", index + 1));
            }
        }
    }
}

fn leftovers(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.sources() {
        for (index, line) in text.lines().enumerate() {
            if let Some(found) = LEFTOVERS.iter().find(|leftover| line.contains(**leftover)) {
                report.problems.push(format!("{path}:{}: {found} was left behind", index + 1));
            }
        }
    }
}

fn map(tree: &Tree, report: &mut Report) {
    let Some(page) = tree.text(MAP) else {
        report.problems.push(format!("{MAP} is missing"));
        return;
    };
    let names = Names::of(tree);
    for (line, name) in backticked(page) {
        if names.has(tree, name) == Some(false) {
            report.problems.push(format!("{MAP}:{line}: `{name}` is not in the tree"));
        }
    }
    for (path, text) in tree.pages().filter(|(path, _)| *path != MAP) {
        for (line, name) in backticked(text) {
            if is_path(name) && !has_path(tree, name) {
                report.problems.push(format!("{path}:{line}: `{name}` is not in the tree"));
            }
        }
    }
}

fn links(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.pages() {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (index, line) in text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                if file.is_empty() || file.contains("://") {
                    continue;
                }
                if resolve(dir, file).is_none_or(|file| !tree.has(&file)) {
                    report.problems.push(format!("{path}:{}: the link to {target} leads nowhere", index + 1));
                }
            }
        }
    }
}

/// A link's path from the root; `None` if it leads out of the tree.
fn resolve(dir: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn commands(tree: &Tree, report: &mut Report) {
    let (Some(readme), Some(ci)) = (tree.text(README), tree.text(CI)) else {
        report.problems.push(format!("{README} or {CI} is missing"));
        return;
    };
    let runs = |command: &str| ci.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(command));
    let mut fenced = false;
    let mut count = 0;
    for (index, line) in readme.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced && line.starts_with("cargo ") {
            count += 1;
            let command = line.split(" #").next().unwrap_or(line).trim_end();
            if !runs(command) {
                report.problems.push(format!("{README}:{}: `{command}` does not run in {CI}", index + 1));
            }
        }
    }
    if count == 0 {
        report.problems.push(format!("{README} names no cargo command"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in which nothing is wrong, with `changes` made to it.
    fn problems(changes: &[(&str, &str)]) -> Vec<String> {
        let sound = [
            ("README.md", "# A\n```sh\ncargo test --workspace   # all\n```\n[map](ARCHITECTURE.md#top)\n"),
            ("ARCHITECTURE.md", "The `Engine` of `crates/a/src/lib.rs`.\n"),
            (".ci/run", "cargo test --workspace\n"),
            ("crates/a/src/lib.rs", "//! A.\nstruct Engine;\n"),
            ("docs/decisions/0001-a.md", "[up](../../README.md) [out](https://example.org)\n"),
        ];
        let mut tree = Tree::default();
        for (path, text) in sound.iter().chain(changes) {
            tree.files.insert((*path).to_owned(), (*text).to_owned());
        }
        check(&tree).problems
    }

    #[test]
    fn a_sound_tree_has_no_problems() {
        assert_eq!(problems(&[]), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        let leftover = format!("//! B.\n// {}: later\n", LEFTOVERS[0]);
        for (path, text, problem) in [
            ("crates/a/src/b.rs", "struct B;\n", "crates/a/src/b.rs:1: no head"),
            ("crates/a/src/b.rs", "//! B.\n\tfn b() {}\n", "crates/a/src/b.rs:2: a tab"),
            ("docs/b.md", "one \ntwo\n", "docs/b.md:1: space at the end"),
            ("crates/a/src/b.rs", leftover.as_str(), "crates/a/src/b.rs:2: "),
            ("ARCHITECTURE.md", "The `Motor`.\n", "ARCHITECTURE.md:1: `Motor` is not in the tree"),
            ("ARCHITECTURE.md", "In `crates/b`.\n", "ARCHITECTURE.md:1: `crates/b` is not in the tree"),
            ("docs/b.md", "In `crates/b/src/lib.rs`.\n", "docs/b.md:1: `crates/b/src/lib.rs` is not in the tree"),
            ("docs/b.md", "[gone](gone.md)\n", "docs/b.md:1: the link to gone.md leads nowhere"),
            ("docs/b.md", "[out](../../README.md)\n", "docs/b.md:1: the link to ../../README.md leads nowhere"),
            (".ci/run", "# cargo test --workspace\n", "README.md:3: `cargo test --workspace` does not run"),
            ("README.md", "nothing\n", "README.md names no cargo command"),
        ] {
            let found = problems(&[(path, text)]);
            assert!(found.len() == 1 && found[0].starts_with(problem), "{path}: {found:?}, expected {problem}");
        }
    }
}
