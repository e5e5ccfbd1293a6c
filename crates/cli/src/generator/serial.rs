//! Files that run in order, one request at a time: a model of the store, and stories told to it.
//!
//! A step says what is asked; what it expects is taken from the model when its line is written. So
//! stories (delete a run of keys, scan over it, put some again, ...) may be interleaved freely with
//! everything else and stay right.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use cairn_bench::random::Random;

use super::{Kind, PROGRESS_LINES, Values, names};
use crate::script::NOT_FOUND;

/// Beyond so many planned steps, stories are finished before new ones begin.
const PLANNED_MAX: usize = 200;
/// Keys in the answer of the largest scans.
const SCAN_KEYS_MAX: usize = 300;

/// Something to ask.
enum Step {
    Put(String),
    Get(String),
    Delete(String),
    Scan(String, String),
}

struct Serial {
    kind: Kind,
    random: Random,
    values: Values,
    /// Every key ever written; None: deleted.
    model: BTreeMap<String, Option<String>>,
    /// The keys of `model`, to draw from.
    known: Vec<String>,
    /// Steps that stories have yet to take, in their order.
    planned: VecDeque<Step>,
    /// So many of them come before anything else.
    opening_left: usize,
}

pub(super) fn generate(kind: Kind, seed: u64, lines: u64, out: &mut Vec<u8>, mut progress: impl FnMut(u64)) {
    let mut serial = Serial {
        kind,
        random: Random::new(seed),
        values: Values::default(),
        model: BTreeMap::new(),
        known: Vec::new(),
        planned: VecDeque::new(),
        opening_left: 0,
    };
    serial.plan_opening();
    for line in 0..lines {
        let step = serial.next_step();
        serial.write(step, out);
        if line % PROGRESS_LINES == 0 {
            progress(line);
        }
    }
}

impl Serial {
    fn deletes(&self) -> bool {
        self.kind != Kind::Put
    }

    fn scans(&self) -> bool {
        self.kind == Kind::PutDeleteScan
    }

    /// The features that chance could leave out of a short file, each once.
    fn plan_opening(&mut self) {
        let key = names::new_key(&mut self.random, &[]);
        let (longer, longest) = (format!("{key}a"), format!("{key}ab"));
        let put = |key: &String| Step::Put(key.clone());
        let get = |key: &String| Step::Get(key.clone());
        let delete = |key: &String| Step::Delete(key.clone());
        let mut steps = vec![get(&key), put(&longest), get(&longer), put(&key), get(&longer), put(&longer)];
        steps.extend([get(&key), get(&longer), get(&longest), put(&longer), get(&longer)]);
        if self.deletes() {
            steps.extend([delete(&longer), get(&longer), get(&key), get(&longest), delete(&longer), put(&longer)]);
            steps.extend([get(&longer), delete(&key), get(&key), get(&longer)]);
        }
        if self.scans() {
            let end = names::above(&key);
            let scan = |start: &String, end: &String| Step::Scan(start.clone(), end.clone());
            steps.extend([scan(&key, &end), scan(&key, &longer), scan(&longer, &longest), scan(&key, &key)]);
            steps.extend([scan(&end, &key), delete(&longer), delete(&longest), scan(&key, &end), put(&longest)]);
            steps.extend([scan(&key, &end), get(&longest)]);
        }
        self.opening_left = steps.len();
        self.planned.extend(steps);
    }

    fn next_step(&mut self) -> Step {
        let opening = self.opening_left > 0;
        self.opening_left = self.opening_left.saturating_sub(1);
        let go_on = opening || self.planned.len() > PLANNED_MAX || self.random.percent(60);
        if go_on && let Some(step) = self.planned.pop_front() {
            return step;
        }
        match self.random.below(100) {
            0..20 => self.draw_get(),
            20..32 if self.deletes() => self.draw_delete(),
            32..36 if self.deletes() => self.draw_after_delete(),
            36..40 if self.scans() => self.draw_scan(),
            40 if self.scans() => self.draw_run_delete(),
            _ => self.draw_put(),
        }
    }

    fn draw_put(&mut self) -> Step {
        let updated = if self.random.percent(50) { self.random.pick(&self.known).cloned() } else { None };
        let key = updated.unwrap_or_else(|| names::new_key(&mut self.random, &self.known));
        if self.random.percent(15) {
            self.planned.push_back(Step::Get(key.clone()));
        }
        Step::Put(key)
    }

    fn draw_get(&mut self) -> Step {
        match self.random.below(10) {
            // Seldom written: most of these expect NOT_FOUND although a key close by exists.
            0 => Step::Get(names::neighbour(&mut self.random, &self.known)),
            1 => Step::Get(names::new_key(&mut self.random, &[])),
            _ => Step::Get(self.any_key()),
        }
    }

    /// Deletes a key, then asks what a store may get wrong about it.
    fn draw_delete(&mut self) -> Step {
        let key = self.any_key();
        if self.random.percent(50) {
            self.planned.push_back(Step::Get(key.clone()));
        }
        if self.random.percent(15) {
            self.planned.push_back(Step::Delete(key.clone()));
            self.planned.push_back(Step::Get(key.clone()));
        }
        if self.random.percent(35) {
            self.planned.push_back(Step::Put(key.clone()));
            self.planned.push_back(Step::Get(key.clone()));
        }
        Step::Delete(key)
    }

    /// Comes back to a key deleted some time ago: it is still gone, or is put again.
    fn draw_after_delete(&mut self) -> Step {
        let start = self.any_key();
        let deleted = self.model.range(start..).find(|(_, value)| value.is_none()).map(|(key, _)| key.clone());
        let Some(key) = deleted else { return self.draw_delete() };
        if self.random.percent(40) {
            self.planned.push_back(Step::Get(key.clone()));
            return Step::Put(key);
        }
        Step::Get(key)
    }

    fn draw_scan(&mut self) -> Step {
        let start = self.any_key();
        let count = if self.random.percent(5) { SCAN_KEYS_MAX } else { 20 };
        let count = self.random.between(0, count);
        let last = self.live_from(&start, count).pop();
        let start = match self.random.below(10) {
            0 => names::new_key(&mut self.random, &[]),
            1 => format!("{start}a"),
            _ => start,
        };
        match last {
            // Half-open: the first leaves the last key out, the second lets it in.
            Some(last) if self.random.percent(50) => Step::Scan(start, last),
            Some(last) => Step::Scan(start, format!("{last}a")),
            None => Step::Scan(start.clone(), start),
        }
    }

    /// Deletes a run of neighbours, scans over the tombstones alone and with what lies around
    /// them, puts every third key again, and scans again.
    fn draw_run_delete(&mut self) -> Step {
        let start = self.any_key();
        let run_length = self.random.between(3, 40);
        let run = self.live_from(&start, run_length);
        let (Some(first), Some(last)) = (run.first().cloned(), run.last().cloned()) else { return self.draw_scan() };
        let before = self.model.range::<str, _>((Bound::Unbounded, Bound::Excluded(first.as_str())));
        let from = before.rev().take(10).last().map_or_else(|| first.clone(), |(key, _)| key.clone());
        let to = self.live_from(&last, 10).pop().unwrap_or_else(|| names::above(&last));
        let just_above = format!("{last}a");
        self.planned.extend(run.iter().cloned().map(Step::Delete));
        self.planned.push_back(Step::Scan(first.clone(), just_above.clone()));
        self.planned.push_back(Step::Scan(from.clone(), to.clone()));
        self.planned.push_back(Step::Get(first.clone()));
        self.planned.extend(run.iter().step_by(3).cloned().map(Step::Put));
        self.planned.push_back(Step::Scan(first, just_above));
        self.planned.push_back(Step::Scan(from, to));
        Step::Get(last)
    }

    /// A key that was written once; it may be deleted.
    fn any_key(&mut self) -> String {
        match self.random.pick(&self.known) {
            Some(key) => key.clone(),
            None => names::new_key(&mut self.random, &[]),
        }
    }

    /// Up to `count` existing keys, ascending from `start`.
    fn live_from(&self, start: &str, count: usize) -> Vec<String> {
        let range = self.model.range::<str, _>((Bound::Included(start), Bound::Unbounded));
        range.filter(|(_, value)| value.is_some()).take(count).map(|(key, _)| key.clone()).collect()
    }

    /// Writes a step's line with what it expects, and lets the model do it.
    fn write(&mut self, step: Step, out: &mut Vec<u8>) {
        let line = match step {
            Step::Put(key) => {
                let value = self.values.next(&mut self.random);
                let line = format!("PUT {key} {value}\n");
                if self.model.insert(key.clone(), Some(value)).is_none() {
                    self.known.push(key);
                }
                line
            }
            Step::Get(key) => {
                let value = self.model.get(&key).and_then(Option::as_deref).unwrap_or(NOT_FOUND);
                format!("GET {key} {value}\n")
            }
            Step::Delete(key) => {
                let line = format!("DELETE {key}\n");
                if self.model.insert(key.clone(), None).is_none() {
                    self.known.push(key);
                }
                line
            }
            Step::Scan(start, end) => {
                let mut line = format!("SCAN {start} {end} ");
                if start < end {
                    let range =
                        self.model.range::<str, _>((Bound::Included(start.as_str()), Bound::Excluded(end.as_str())));
                    let keys = range.filter(|(_, value)| value.is_some()).map(|(key, _)| key.as_str());
                    line.push_str(&keys.collect::<Vec<_>>().join(","));
                }
                line.push('\n');
                line
            }
        };
        out.extend_from_slice(line.as_bytes());
    }
}
