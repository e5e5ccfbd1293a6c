//! Seeded validation files, stronger than the series' own: the same grammar (see `script.rs`), and
//! answers that a store which forgets, resurrects, confuses or reorders cannot give.
//!
//! What every file holds, as far as its kind has the requests for it and it has the lines
//! (from about a hundred on):
//! 1. reads of what was deleted, at once and long after, and deletes of what is not there;
//! 2. keys put again after a delete, and read;
//! 3. keys that are prefixes of one another, and reads of prefixes and extensions that do not exist;
//! 4. values of 1 to [`VALUE_BYTES_MAX`] bytes, no two alike, so that a stale one is seen;
//! 5. scans over runs of deleted keys, over nothing, and up to bounds that are keys and that are not;
//! 6. blocks of up to several hundred writes to a few keys, then of reads ([`concurrent`]).
//!
//! Invariants: a seed, a kind and a number of lines decide every byte, on every machine; the file
//! has exactly that many lines, ends in a newline, and does not end in a BARRIER.

mod concurrent;
mod names;
mod serial;

use cairn_bench::random::Random;

/// More would be no better test, and the expected answers have to fit into memory.
pub(crate) const LINES_MAX: u64 = 10_000_000;
/// Long enough for a value to need a block of its own.
pub(crate) const VALUE_BYTES_MAX: usize = 5_000;

/// Which requests a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// PUT and GET, in order
    Put,
    /// PUT, GET and DELETE, in order
    PutDelete,
    /// PUT, GET, DELETE and SCAN, in order
    PutDeleteScan,
    /// Blocks of parallel writes and of parallel reads, separated by BARRIER
    Concurrency,
}

/// Writes a file of `lines` lines to the end of `out`, telling `progress` now and then how many stand.
pub(crate) fn generate(kind: Kind, seed: u64, lines: u64, out: &mut Vec<u8>, progress: impl FnMut(u64)) {
    match kind {
        Kind::Put | Kind::PutDelete | Kind::PutDeleteScan => serial::generate(kind, seed, lines, out, progress),
        Kind::Concurrency => concurrent::generate(seed, lines, out, progress),
    }
}

/// How often `progress` is told.
const PROGRESS_LINES: u64 = 4_096;

/// Values that never repeat: a running number, and letters up to a random length.
#[derive(Debug, Default)]
struct Values {
    made: u64,
}

impl Values {
    fn next(&mut self, random: &mut Random) -> String {
        self.made += 1;
        let length = match random.below(100) {
            0..70 => random.between(1, 12),
            70..92 => random.between(13, 120),
            92..99 => random.between(121, 1_000),
            _ => random.between(1_001, VALUE_BYTES_MAX),
        };
        // The number ends where the letters begin, so that two values never meet.
        let mut value = self.made.to_string();
        while value.len() < length {
            value.push(names::letter(random));
        }
        value
    }
}
