//! What several clients asked of a database and what they were answered, and the checkers of it.
//!
//! A [`History`] is plain data. Each checker is a function of it and of nothing else: `linear` (every
//! key by itself behaves like one register), `conditions` (what a batch required held when it was
//! written), `moments` (a read of several keys shows one moment), `replay` (the batches in the order
//! of their numbers give what each read saw). `clients` make histories on a real database, `text`
//! reads them from text.
//!
//! Time is a count of events: two calls of which one returned before the other was made have
//! happened in that order, and of two that overlap nothing is said.

pub mod clients;
pub mod conditions;
pub mod linear;
pub mod moments;
pub mod replay;
pub mod text;

use std::collections::BTreeMap;
use std::ops::Range;

use cairn::{Durability, Visibility};

pub type Time = u64;

/// A call that never returned.
pub const NEVER: Time = u64::MAX;

/// A key of one of the keyspaces.
pub type Cell = usize;

/// What a put stores: no two batches store the same. The upper half may count something.
pub type Value = u64;

/// What a cell holds, if anything.
pub type Slot = Option<Value>;

/// What every cell holds, or some of them.
pub type Content = BTreeMap<Cell, Slot>;

/// The upper half of a value.
pub fn number(value: Value) -> u64 {
    value >> 32
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged; the number of its last operation.
    Committed(u64),
    /// A condition did not hold: nothing was written.
    Refused,
    /// Any error, or no answer: it may be there or not.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Write {
    /// A put, or a delete (none), of distinct cells.
    pub ops: Vec<(Cell, Slot)>,
    /// Cells in which nothing may have been written after the number.
    pub required: Vec<(Range<Cell>, u64)>,
    pub durability: Durability,
    pub outcome: Outcome,
}

impl Write {
    /// The number of its last operation, if it was acknowledged.
    pub fn last(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Committed(last) => Some(last),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// The numbers of its operations, if it was acknowledged.
    pub fn numbers(&self) -> Option<Range<u64>> {
        let last = self.last()?;
        Some((last + 1).saturating_sub(self.ops.len() as u64)..last + 1)
    }

    /// What it leaves in a cell, if it writes it.
    pub fn slot(&self, cell: Cell) -> Option<Slot> {
        self.ops.iter().find(|(written, _)| *written == cell).map(|(_, slot)| *slot)
    }
}

/// What was seen as of one moment, which lies between invocation and return. What a snapshot, a pinned
/// reader or an iterator shows later is of the moment when it was made.
#[derive(Clone, Debug)]
pub struct Read {
    pub visibility: Visibility,
    pub seen: Content,
    /// The number that the moment had, where the engine tells it.
    pub seq: Option<u64>,
    /// Looks at the same snapshot share this.
    pub snapshot: Option<u64>,
}

#[derive(Clone, Debug)]
pub enum Action {
    Write(Write),
    Read(Read),
    /// Everything applied was made durable.
    Sync,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub invoked: Time,
    pub returned: Time,
    pub action: Action,
}

/// How the life of one open database ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    /// The process died: what was handed to the system stays.
    Killed,
    /// What was not synced may be lost.
    PowerCut,
}

/// One open database, from what it found to its end.
#[derive(Clone, Debug)]
pub struct Era {
    /// The number of the last write that it found.
    pub base: u64,
    /// What the cells held before any client came. Its time is when that was read.
    pub found: Content,
    pub opened: Range<Time>,
    pub calls: Vec<Call>,
    pub ended: Time,
    pub end: End,
}

impl Era {
    pub fn writes(&self) -> impl Iterator<Item = (&Call, &Write)> {
        self.calls.iter().filter_map(|call| match &call.action {
            Action::Write(write) => Some((call, write)),
            Action::Read(_) | Action::Sync => None,
        })
    }

    pub fn reads(&self) -> impl Iterator<Item = (&Call, &Read)> {
        self.calls.iter().filter_map(|call| match &call.action {
            Action::Read(read) => Some((call, read)),
            Action::Write(_) | Action::Sync => None,
        })
    }

    /// Those acknowledged, with the numbers of their operations, in that order.
    pub fn committed(&self) -> Vec<(Range<u64>, &Call, &Write)> {
        let all = self.writes().filter_map(|(call, write)| Some((write.numbers()?, call, write)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(numbers, ..)| numbers.end);
        all
    }
}

/// All that happened to one directory. The last era is only what was found in the end.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub eras: Vec<Era>,
    /// Cells whose values count the batches that wrote them.
    pub counters: Vec<Cell>,
}

/// What cannot have happened if the engine keeps its promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A value was read that nobody has written.
    NeverWritten,
    /// A value was read before its write was invoked, or numbers run against time.
    TimeTravel,
    /// A value was read that had been replaced before.
    StaleRead,
    /// A value was read that had been deleted before.
    ResurrectedDelete,
    /// What was acknowledged, or seen as durable, is not there.
    LostWrite,
    /// No order of the calls on one key explains what was read.
    NotLinearizable,
    /// Two batches that decided on the same state of a cell have both written it.
    LostUpdate,
    /// A batch was written although a cell that it required unchanged, and did not write, had changed.
    WriteSkew,
    /// Some of a batch was seen and some of it not.
    TornBatch,
    /// A snapshot showed something else than before.
    ChangedSnapshot,
    /// Two batches were given the same number.
    SharedNumber,
    /// The search was given up: no verdict.
    Undecided,
}

/// An anomaly and where it shows.
#[derive(Clone, Debug)]
pub struct Finding {
    pub anomaly: Anomaly,
    pub text: String,
}

impl Finding {
    pub fn new(anomaly: Anomaly, text: impl Into<String>) -> Finding {
        Finding { anomaly, text: text.into() }
    }
}

pub type Verdict = Result<(), Finding>;

/// A checker by name.
pub type Checker = (&'static str, fn(&History) -> Verdict);

pub const CHECKERS: [Checker; 4] = [
    ("linear", linear::check),
    ("conditions", conditions::check),
    ("moments", moments::check),
    ("replay", replay::check),
];

/// The first thing that any checker finds.
pub fn check(history: &History) -> Verdict {
    CHECKERS.iter().try_for_each(|(name, checker)| {
        checker(history).map_err(|finding| Finding::new(finding.anomaly, format!("{name}: {}", finding.text)))
    })
}
