//! Histories as text, so that known ones can be read at a glance. A line each:
//!
//! ```text
//! 1-2 put #2 a=1 b=2          from 1 to 2 a batch was written that got the last number 2
//! 1-2 put #3 a=- if b<2       a is deleted if nothing after 2 has changed b
//! 1-2 put buffered #3 a=1     acknowledged before it is durable
//! 1-2 put? a=1                its outcome is unknown
//! 3-4 get a=1 b=-             a read; of one moment
//! 3-4 get durable #3 a=1      a read of the durable, at number 3
//! 3-4 get s1 a=1              a look at snapshot 1
//! 5-6 sync
//! 7 cut                       the power is cut; also `kill` and `close`
//! 8-9 found #2 a=1 b=2        what the next opening found
//! counter a                   the values of a count the batches that wrote it
//! ```
//!
//! Cells are letters. A counter's number stands after a colon: `a=7:1`.

use cairn::{Durability, Visibility};

use super::{Action, Call, Cell, Content, End, Era, History, Outcome, Read, Slot, Time, Write};

fn cell(text: &str) -> Cell {
    usize::from(text.as_bytes()[0] - b'a')
}

fn slot(text: &str) -> Slot {
    let (value, number) = text.split_once(':').unwrap_or((text, "0"));
    (value != "-").then(|| number.parse::<u64>().unwrap() << 32 | value.parse::<u64>().unwrap())
}

fn times(text: &str) -> (Time, Time) {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    (from.parse().unwrap(), to.parse().unwrap())
}

fn era(base: u64, found: Content, opened: std::ops::Range<Time>) -> Era {
    Era { base, found, opened, calls: Vec::new(), ended: Time::MAX, end: End::Closed }
}

/// Parses a history. It begins with an empty database; all cells that occur are absent at first.
pub fn parse(text: &str) -> History {
    let mut history = History { eras: vec![era(0, Content::new(), 0..0)], counters: Vec::new() };
    let mut cells: Vec<Cell> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        if first == "counter" {
            history.counters.push(cell(words.next().unwrap()));
            continue;
        }
        let (invoked, returned) = times(first);
        let verb = words.next().unwrap();
        let (mut seq, mut snapshot, mut weak) = (None, None, false);
        let mut slots = Vec::new();
        let mut required = Vec::new();
        for word in words {
            if let Some(number) = word.strip_prefix('#') {
                seq = Some(number.parse().unwrap());
            } else if let Some((name, since)) = word.split_once('<') {
                required.push((cell(name)..cell(name) + 1, since.parse().unwrap()));
            } else if let Some((name, value)) = word.split_once('=') {
                slots.push((cell(name), slot(value)));
            } else if let Some(id) = word.strip_prefix('s') {
                snapshot = Some(id.parse().unwrap());
            } else {
                weak |= word == "buffered" || word == "durable";
            }
        }
        cells.extend(slots.iter().map(|(cell, _)| *cell));
        let last = history.eras.last_mut().unwrap();
        let action = match verb {
            "put" | "put?" => {
                let durability = if weak { Durability::Buffered } else { Durability::Commit };
                let outcome = seq.map_or(Outcome::Unknown, Outcome::Committed);
                assert_eq!(verb == "put?", seq.is_none(), "{line}");
                Action::Write(Write { ops: slots, required, durability, outcome })
            }
            "get" => {
                let visibility = if weak { Visibility::Durable } else { Visibility::Applied };
                Action::Read(Read { visibility, seen: slots.into_iter().collect(), seq, snapshot })
            }
            "sync" => Action::Sync,
            "found" => {
                history.eras.push(era(seq.unwrap(), slots.into_iter().collect(), invoked..returned));
                continue;
            }
            end => {
                last.ended = invoked;
                last.end = match end {
                    "cut" => End::PowerCut,
                    "kill" => End::Killed,
                    _ => End::Closed,
                };
                continue;
            }
        };
        last.calls.push(Call { invoked, returned, action });
    }
    history.eras[0].found = cells.into_iter().map(|cell| (cell, None)).collect();
    history
}
