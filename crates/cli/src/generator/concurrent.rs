//! Files whose blocks run in parallel: many writes to few keys, then reads of them.
//!
//! In a block of writes the order is the server's choice, so each of a key's writes may be the one
//! that stands: a read accepts the values written to its key in the last block that touched it, and
//! NOT_FOUND if that block deleted it, but nothing older. Some keys a block only deletes: their reads
//! accept NOT_FOUND alone. No block both writes and reads.

use std::collections::{BTreeMap, BTreeSet};

use cairn_bench::random::Random;

use super::{PROGRESS_LINES, Values, names};
use crate::script::{BARRIER, NOT_FOUND};

/// Requests of a block; the series has 50.
const BLOCK_LINES_MIN: usize = 50;
const BLOCK_LINES_MAX: usize = 600;
/// Keys that get most of a block's writes.
const HOT_KEYS_MAX: usize = 40;

struct Concurrent {
    random: Random,
    values: Values,
    /// What a read of each key ever written may answer.
    accepted: BTreeMap<String, BTreeSet<String>>,
    /// The keys of `accepted`, to draw from.
    known: Vec<String>,
}

pub(super) fn generate(seed: u64, lines: u64, out: &mut Vec<u8>, mut progress: impl FnMut(u64)) {
    let mut concurrent = Concurrent {
        random: Random::new(seed),
        values: Values::default(),
        accepted: BTreeMap::new(),
        known: Vec::new(),
    };
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut left = lines;
    let mut told = 0;
    while left > 0 {
        // Too short for a barrier with something on either side: writes only.
        if left < 3 {
            concurrent.write_block(left, out);
            break;
        }
        let writes = concurrent.random.between(BLOCK_LINES_MIN, BLOCK_LINES_MAX).min((left - 1) / 2);
        let mut reads = concurrent.random.between(BLOCK_LINES_MIN, BLOCK_LINES_MAX).min(left - writes - 1);
        left -= writes + 1 + reads;
        // What cannot hold a barrier and another pair of blocks goes to this one.
        if left < 4 {
            reads += left;
            left = 0;
        }
        let touched = concurrent.write_block(writes, out);
        push_line(out, BARRIER);
        concurrent.read_block(reads, touched, out);
        if left > 0 {
            push_line(out, BARRIER);
            left -= 1;
        }
        let written = (lines - left) as u64;
        if written - told >= PROGRESS_LINES {
            progress(written);
            told = written;
        }
    }
}

fn push_line(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

impl Concurrent {
    /// Writes so many PUTs and DELETEs; returns the keys they touch.
    fn write_block(&mut self, lines: usize, out: &mut Vec<u8>) -> Vec<String> {
        let hot_count = self.random.between(1, HOT_KEYS_MAX);
        let mut hot = Vec::new();
        for _ in 0..hot_count {
            let old = if self.random.percent(70) { self.random.pick(&self.known).cloned() } else { None };
            hot.push(old.unwrap_or_else(|| names::new_key(&mut self.random, &self.known)));
        }
        // Keys that are only deleted, by several at once: their reads accept nothing else.
        let condemned_count = self.random.between(1, hot_count);
        let condemned: Vec<String> =
            (0..condemned_count).filter_map(|_| self.random.pick(&self.known).cloned()).collect();
        let condemned: Vec<String> = condemned.into_iter().filter(|key| !hot.contains(key)).collect();
        let mut touched: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for _ in 0..lines {
            if self.random.percent(10)
                && let Some(key) = self.random.pick(&condemned)
            {
                push_line(out, &format!("DELETE {key}"));
                touched.entry(key.clone()).or_default().insert(NOT_FOUND.to_owned());
                continue;
            }
            let hot_key = if self.random.percent(85) { self.random.pick(&hot).cloned() } else { None };
            let key = hot_key.unwrap_or_else(|| names::new_key(&mut self.random, &self.known));
            let answer = if self.random.percent(12) {
                push_line(out, &format!("DELETE {key}"));
                NOT_FOUND.to_owned()
            } else {
                let value = self.values.next(&mut self.random);
                push_line(out, &format!("PUT {key} {value}"));
                value
            };
            touched.entry(key).or_default().insert(answer);
        }
        let keys = touched.keys().cloned().collect();
        for (key, answers) in touched {
            if self.accepted.insert(key.clone(), answers).is_none() {
                self.known.push(key);
            }
        }
        keys
    }

    /// Writes so many GETs: those of `touched` first among them, then older and missing keys.
    fn read_block(&mut self, lines: usize, touched: Vec<String>, out: &mut Vec<u8>) {
        let mut touched = touched;
        for _ in 0..lines {
            let fresh = if touched.is_empty() || self.random.percent(20) {
                None
            } else {
                Some(touched.swap_remove(self.random.index(touched.len())))
            };
            let key = match fresh {
                Some(key) => key,
                None if self.random.percent(10) => names::neighbour(&mut self.random, &self.known),
                None => self.random.pick(&self.known).cloned().unwrap_or_else(|| "a".to_owned()),
            };
            let answers: Vec<&str> = match self.accepted.get(&key) {
                Some(answers) => answers.iter().map(String::as_str).collect(),
                None => vec![NOT_FOUND],
            };
            push_line(out, &format!("GET {key} [{}]", answers.join(" ")));
        }
    }
}
