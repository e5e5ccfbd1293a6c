//! Every cell by itself behaves like one register: there is an order of the calls, which respects that
//! some returned before others were made, in which each read sees the last write before it.
//!
//! The search is Wing and Gong's with Lowe's memory of the states it has seen ("Testing for
//! linearizability", 2017). A cell is judged twice. As applied: era by era, what was found at its
//! opening is the start. As durable: over all eras, with every read of the durable and all that was
//! found at an opening; there a write may take its place until it was durable, and one whose outcome
//! nobody knows has its place before the end of its era or nowhere, so what an opening has shown
//! cannot change later.

use std::collections::BTreeSet;

use cairn::{Durability, Visibility};

use super::{Action, Anomaly, Cell, Content, End, Era, Finding, History, NEVER, Outcome, Slot, Time, Verdict};

/// More operations on one cell are not searched.
const OPS_MAX: usize = 2_000;

/// The search is given up after so many states.
const STATES_MAX: usize = 500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    /// A write that may not have happened.
    MaybeWrite,
}

/// An operation on one cell.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: Kind,
    pub invoked: Time,
    pub returned: Time,
    /// What was read, or is written.
    pub slot: Slot,
}

pub fn check(history: &History) -> Verdict {
    let cells: BTreeSet<Cell> = history.eras.iter().flat_map(|era| era.found.keys().copied()).collect();
    for &cell in &cells {
        for (index, era) in history.eras.iter().enumerate() {
            let start = slot(&era.found, cell).flatten();
            judge(start, applied(era, cell)).map_err(|f| at(f, cell, &format!("applied, era {index}")))?;
        }
        judge(None, durable(history, cell)).map_err(|f| at(f, cell, "durable"))?;
    }
    Ok(())
}

fn at(finding: Finding, cell: Cell, view: &str) -> Finding {
    Finding::new(finding.anomaly, format!("cell {cell} ({view}): {}", finding.text))
}

fn slot(content: &Content, cell: Cell) -> Option<Slot> {
    content.get(&cell).copied()
}

/// What happened to a cell as readers of the applied see it.
fn applied(era: &Era, cell: Cell) -> Vec<Op> {
    let op = |kind, invoked, returned, slot| Op { kind, invoked, returned, slot };
    let writes = era.writes().filter_map(|(call, write)| {
        let slot = write.slot(cell)?;
        match write.outcome {
            Outcome::Committed(_) => Some(op(Kind::Write, call.invoked, call.returned, slot)),
            Outcome::Unknown => Some(op(Kind::MaybeWrite, call.invoked, era.ended, slot)),
            Outcome::Refused => None,
        }
    });
    let reads = era.reads().filter(|(_, read)| read.visibility == Visibility::Applied);
    let reads =
        reads.filter_map(|(call, read)| Some(op(Kind::Read, call.invoked, call.returned, slot(&read.seen, cell)?)));
    writes.chain(reads).collect()
}

/// What happened to a cell as readers of the durable see it.
fn durable(history: &History, cell: Cell) -> Vec<Op> {
    let op = |kind, invoked, returned, slot| Op { kind, invoked, returned, slot };
    let mut ops = Vec::new();
    for era in &history.eras {
        if let Some(slot) = slot(&era.found, cell) {
            ops.push(op(Kind::Read, era.opened.start, era.opened.end, slot));
        }
        for (call, write) in era.writes() {
            let Some(slot) = write.slot(cell) else { continue };
            match (write.outcome, durable_by(era, call.returned, write)) {
                (Outcome::Refused, _) => {}
                (Outcome::Committed(_), Some(returned)) => ops.push(op(Kind::Write, call.invoked, returned, slot)),
                (Outcome::Committed(_) | Outcome::Unknown, _) => {
                    ops.push(op(Kind::MaybeWrite, call.invoked, era.ended, slot));
                }
            }
        }
        for (call, read) in era.reads().filter(|(_, read)| read.visibility == Visibility::Durable) {
            if let Some(slot) = slot(&read.seen, cell) {
                ops.push(op(Kind::Read, call.invoked, call.returned, slot));
            }
        }
    }
    ops
}

/// When an acknowledged write was durable at the latest: it waited for that itself, a later one did, or a
/// sync; or nothing was lost at the end. None if it may have been lost.
fn durable_by(era: &Era, returned: Time, write: &super::Write) -> Option<Time> {
    let last = write.last()?;
    if write.durability == Durability::Commit {
        return Some(returned);
    }
    let covered = era.calls.iter().filter(|call| match &call.action {
        Action::Write(other) => other.durability == Durability::Commit && other.last() > Some(last),
        Action::Sync => call.invoked > returned,
        Action::Read(_) => false,
    });
    let kept = (era.end != End::PowerCut).then_some(era.ended);
    covered.map(|call| call.returned.max(returned)).chain(kept).min()
}

/// Judges one cell that held `start` at first.
pub fn judge(start: Slot, mut ops: Vec<Op>) -> Verdict {
    ops.sort_by_key(|op| op.invoked);
    if ops.len() > OPS_MAX {
        return Err(Finding::new(Anomaly::Undecided, format!("{} operations are too many", ops.len())));
    }
    let mut search = Search { ops: &ops, done: vec![0; ops.len().div_ceil(64)], seen: BTreeSet::new() };
    let explained = search.explain(0, start, 0);
    let states = search.seen.len();
    match explained {
        Some(true) => Ok(()),
        Some(false) => Err(name(start, &ops)),
        None => Err(Finding::new(Anomaly::Undecided, format!("no verdict after {states} states"))),
    }
}

/// A depth-first search for an order that explains every read.
struct Search<'a> {
    /// By invocation.
    ops: &'a [Op],
    /// A bit for each operation that has its place.
    done: Vec<u64>,
    /// The states from which nothing was found.
    seen: BTreeSet<(Vec<u64>, Slot)>,
}

impl Search<'_> {
    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] >> (index % 64) & 1 == 1
    }

    fn flip(&mut self, index: usize) {
        self.done[index / 64] ^= 1 << (index % 64);
    }

    /// Whether the operations without a place can follow when the cell holds `state`. Before `from` is
    /// none; `latest` is the latest invocation among those with a place. None: given up.
    fn explain(&mut self, mut from: usize, state: Slot, mut latest: Time) -> Option<bool> {
        let mut placed = Vec::new();
        let found = loop {
            let missed = |op: &Op| op.kind == Kind::MaybeWrite && op.returned < latest;
            while from < self.ops.len() && (self.is_done(from) || missed(&self.ops[from])) {
                from += 1;
            }
            let next = self.next(from, latest);
            let Some(next) = next else { break Some(true) };
            // A read that fits may always come first: it changes nothing.
            let fits = |&&index: &&usize| self.ops[index].kind == Kind::Read && self.ops[index].slot == state;
            if let Some(&read) = next.iter().find(fits) {
                self.flip(read);
                placed.push(read);
                latest = latest.max(self.ops[read].invoked);
                continue;
            }
            break self.explain_by_write(from, state, latest, &next);
        };
        if found != Some(true) {
            placed.into_iter().for_each(|index| self.flip(index));
        }
        found
    }

    fn explain_by_write(&mut self, from: usize, state: Slot, latest: Time, next: &[usize]) -> Option<bool> {
        if self.seen.len() >= STATES_MAX {
            return None;
        }
        if !self.seen.insert((self.done.clone(), state)) {
            return Some(false);
        }
        let mut writes: Vec<usize> = next.iter().copied().filter(|&i| self.ops[i].kind != Kind::Read).collect();
        writes.sort_by_key(|&index| self.ops[index].returned);
        for index in writes {
            let op = self.ops[index];
            self.flip(index);
            match self.explain(from, op.slot, latest.max(op.invoked)) {
                Some(false) => self.flip(index),
                verdict => return verdict,
            }
        }
        Some(false)
    }

    /// The operations that may come next: no other without a place returned before they were invoked.
    /// None if all that must have a place have one.
    fn next(&self, from: usize, latest: Time) -> Option<Vec<usize>> {
        let mut first_return = None;
        let mut next = Vec::new();
        for (index, op) in self.ops.iter().enumerate().skip(from) {
            if first_return.is_some_and(|time| op.invoked > time) {
                break;
            }
            if self.is_done(index) {
                continue;
            }
            if op.kind != Kind::MaybeWrite {
                first_return = Some(first_return.unwrap_or(NEVER).min(op.returned));
            } else if op.returned < latest {
                continue;
            }
            next.push(index);
        }
        first_return.map(|_| next)
    }
}

/// Says what is wrong with calls that no order explains, where one read by itself shows it.
fn name(start: Slot, ops: &[Op]) -> Finding {
    for read in ops.iter().filter(|op| op.kind == Kind::Read) {
        // The writes that surely came before the read, the latest of them.
        let before = ops.iter().filter(|op| op.kind == Kind::Write && op.returned < read.invoked);
        let newer = before.max_by_key(|op| op.invoked);
        let replaced = |source: &Op| newer.is_some_and(|newer| source.returned < newer.invoked);
        let first = Op { kind: Kind::Write, invoked: 0, returned: 0, slot: start };
        let all = ops.iter().chain([&first]).filter(|op| op.kind != Kind::Read && op.slot == read.slot);
        let sources: Vec<&Op> = all.collect();
        let anomaly = if sources.is_empty() && read.slot.is_some() {
            Anomaly::NeverWritten
        } else if !sources.is_empty() && sources.iter().all(|source| source.invoked > read.returned) {
            Anomaly::TimeTravel
        } else if sources.iter().all(|source| replaced(source)) {
            match (read.slot, newer.and_then(|newer| newer.slot)) {
                (None, _) => Anomaly::LostWrite,
                (Some(_), None) => Anomaly::ResurrectedDelete,
                (Some(_), Some(_)) => Anomaly::StaleRead,
            }
        } else {
            continue;
        };
        return Finding::new(anomaly, format!("{read:?} after {newer:?}, with sources {sources:?}"));
    }
    Finding::new(Anomaly::NotLinearizable, format!("{ops:#?}"))
}
