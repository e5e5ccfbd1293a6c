//! The names a document speaks of, and whether the tree has them.
//!
//! A name is what stands between single backticks, outside code fences, and looks like one of
//!
//! ```text
//! path     crates/engine/src/core.rs   memtable/publish.rs   core.rs   crates/engine/
//! item     Catalog   Db::open   memtable::publish   lead_group()
//! package  cairn-env   arc-swap   env (a directory of crates/)
//! ```
//!
//! Everything else (a command, an option, a formula, what is of `std`) is no name. An item counts as there if every
//! part of it is defined somewhere: as an item, a module, a variant, or a field. That is text, not
//! resolution: it finds what was renamed or removed, which is what makes a map untrue.

use std::collections::BTreeSet;

use crate::tree::Tree;

/// Everything the tree defines.
#[derive(Debug, Default)]
pub(crate) struct Names {
    items: BTreeSet<String>,
    packages: BTreeSet<String>,
}

/// Words after which a definition's name stands.
const KEYWORDS: [&str; 9] = ["struct", "enum", "trait", "fn", "mod", "const", "static", "type", "macro_rules!"];

impl Names {
    pub(crate) fn of(tree: &Tree) -> Names {
        let mut names = Names::default();
        for (path, text) in tree.sources() {
            if let Some(name) = path.strip_prefix("crates/").and_then(|path| path.split('/').next()) {
                names.packages.insert(name.to_owned());
            }
            if let Some(stem) = path.rsplit('/').next().and_then(|file| file.strip_suffix(".rs")) {
                names.items.insert(stem.to_owned());
            }
            text.lines().for_each(|line| names.take_from(line));
        }
        for (_, text) in tree.ending("Cargo.toml") {
            for line in text.lines() {
                let Some((key, value)) = line.split_once('=') else { continue };
                let key = key.trim();
                let key = key.strip_suffix(".workspace").unwrap_or(key);
                let name = if key == "name" { value.trim().trim_matches('"') } else { key };
                names.packages.insert(name.to_owned());
            }
        }
        names
    }

    /// Takes the names that a line of Rust defines.
    fn take_from(&mut self, line: &str) {
        let code = line.trim_start();
        if code.starts_with("//") {
            return;
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        for pair in words.windows(2) {
            if let [keyword, name] = pair
                && KEYWORDS.contains(keyword)
            {
                self.items.insert(identifier(name).to_owned());
            }
        }
        // A variant or a field: the line's first name, followed by what may follow one.
        let code = ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|p| code.strip_prefix(p)).unwrap_or(code);
        let name = identifier(code);
        let rest = code.strip_prefix(name).unwrap_or_default();
        let is_variant = name.starts_with(char::is_uppercase)
            && (rest.is_empty() || [",", "(", " {", " ="].iter().any(|after| rest.starts_with(after)));
        if !name.is_empty() && (is_variant || rest.starts_with(": ")) {
            self.items.insert(name.to_owned());
        }
    }

    /// Whether the tree has what `name` says; `None` if it is no name.
    pub(crate) fn has(&self, tree: &Tree, name: &str) -> Option<bool> {
        if is_path(name) {
            return Some(has_path(tree, name));
        }
        if is_package(name) {
            return Some(self.packages.contains(name));
        }
        let item = name.strip_suffix("()").unwrap_or(name);
        let parts: Vec<&str> = item.split("::").collect();
        if parts.iter().all(|part| is_identifier(part)) && parts.first() != Some(&"std") {
            return Some(parts.iter().all(|part| self.items.contains(*part) || self.packages.contains(*part)));
        }
        None
    }
}

/// Whether a file or directory has this path, from the root or from anywhere below.
pub(crate) fn has_path(tree: &Tree, name: &str) -> bool {
    let below = format!("/{name}");
    tree.has(name) || tree.files.keys().any(|file| file.ends_with(&below))
}

/// The identifier that `text` begins with; empty if it begins with none.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && identifier(text) == text && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether `name` is meant as a path of this tree; what cargo builds is not.
pub(crate) fn is_path(name: &str) -> bool {
    let clean = name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let has_ending = [".rs", ".md", ".toml"].iter().any(|ending| name.ends_with(ending));
    let elsewhere = ["/", "-", "./", "target/"].iter().any(|start| name.starts_with(start));
    clean && !elsewhere && (has_ending || name.contains('/'))
}

fn is_package(name: &str) -> bool {
    name.contains('-') && !name.starts_with('-') && name.split('-').all(is_identifier)
}

/// What stands between single backticks in a page, with the number of its line.
pub(crate) fn backticked(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(|name| (index + 1, name)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let files = [
            ("Cargo.toml", "[dependencies]\narc-swap = \"1\"\ncairn-codec.workspace = true\n"),
            ("crates/env/Cargo.toml", "[package]\nname = \"cairn-env\"\n"),
            ("crates/env/src/lib.rs", ""),
            (
                "crates/engine/src/core.rs",
                "pub(crate) struct Core {\n    pub(crate) lead: Mutex,\n}\nenum Health {\n    Open,\n    Full { why: String },\n}\n\
                 impl Core {\n    fn close_to_writes(&self) {}\n}\n// struct Gone;\n",
            ),
        ];
        Tree { files: files.map(|(path, text)| (path.to_owned(), text.to_owned())).into() }
    }

    #[test]
    fn names_are_found_where_they_are_defined() {
        let tree = tree();
        let names = Names::of(&tree);
        for (name, there) in [
            ("crates/engine/src/core.rs", Some(true)),
            ("engine/src/core.rs", Some(true)),
            ("src/core.rs", Some(true)),
            ("rc/core.rs", Some(false)),
            ("target/release", None),
            ("core.rs", Some(true)),
            ("crates/engine", Some(true)),
            ("crates/engine/", Some(true)),
            ("engine/src/corn.rs", Some(false)),
            ("corn.rs", Some(false)),
            ("Core", Some(true)),
            ("core::Core", Some(true)),
            ("lead", Some(true)),
            ("Health::Full", Some(true)),
            ("Health::Empty", Some(false)),
            ("close_to_writes()", Some(true)),
            ("open_to_writes()", Some(false)),
            ("Gone", Some(false)),
            ("cairn-env", Some(true)),
            ("cairn-codec", Some(true)),
            ("arc-swap", Some(true)),
            ("cairn-envy", Some(false)),
            ("cairn serve", None),
            ("--durability", None),
            ("/v1/batch", None),
            ("env", Some(true)),
            ("std::thread", None),
            ("k <= n", None),
        ] {
            assert_eq!(names.has(&tree, name), there, "{name}");
        }
    }

    #[test]
    fn fenced_code_holds_no_names() {
        let page = "see `A` and `b::C`\n```text\n`D`\n```\nthen `E`\n";
        assert_eq!(backticked(page), [(1, "A"), (1, "b::C"), (5, "E")]);
    }
}
