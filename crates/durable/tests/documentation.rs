//! The drawing of the states in docs/tasks.md is the table of transitions, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test of a file in the repository, whose helpers can do nothing better than panic"
)]

use std::collections::BTreeMap;
use std::fmt::Write;

use cairn_durable::machine::TRANSITIONS;
use cairn_durable::task::State;

const BEGIN: &str = "<!-- transitions: drawn by crates/durable/tests/documentation.rs -->\n";
const END: &str = "<!-- end of transitions -->";

/// A diagram of what leads where, and a table of what each command may do.
fn drawn() -> String {
    let mut arrows: BTreeMap<(State, State), Vec<String>> = BTreeMap::new();
    let mut rows: BTreeMap<_, BTreeMap<State, String>> = BTreeMap::new();
    for (from, by, to) in TRANSITIONS {
        let name = format!("{by:?}").to_lowercase();
        for to in to.iter().filter(|to| *to != from) {
            arrows.entry((*from, *to)).or_default().push(name.clone());
        }
        let to: Vec<&str> = to.iter().map(|state| state.name()).collect();
        rows.entry((*by, name)).or_default().insert(*from, to.join(", "));
    }
    let mut text = String::from("```mermaid\nstateDiagram-v2\n    [*] --> queued: spawn\n");
    for ((from, to), by) in arrows {
        writeln!(text, "    {} --> {}: {}", from.name(), to.name(), by.join(", ")).unwrap();
    }
    text.push_str("```\n\n| by \\ from |");
    for state in State::ALL {
        write!(text, " {} |", state.name()).unwrap();
    }
    text.push_str("\n|---|---|---|---|---|---|---|\n");
    for ((_, name), from) in rows {
        write!(text, "| {name} |").unwrap();
        for state in State::ALL {
            write!(text, " {} |", from.get(&state).map_or("", String::as_str)).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_states_are_drawn_as_they_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tasks.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (there, after) = rest.split_once(END).unwrap();
    let drawn = format!("\n{}\n", drawn());
    if std::env::var("CAIRN_DRAW").is_ok() {
        std::fs::write(path, format!("{before}{BEGIN}{drawn}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(there, drawn, "draw it anew: CAIRN_DRAW=1 cargo test -p cairn-durable --test documentation");
}
