//! What to compact next: a pure decision over the tables of one keyspace.
//!
//! Leveled: level 0 may hold a few tables, level 1 a few memtables' worth, each deeper one ten
//! times more. The fullest level gives a table to the next. When no level is over its size, tables
//! that hold much garbage (tombstones, versions kept for snapshots that are gone) are rewritten so
//! that deletes give disk back; old garbage goes even where it is sparse. When nobody writes, level 0 goes
//! down however small it is, if that costs little, or not more than readers have been paying.
//!
//! Every plan keeps the invariants of [`crate::levels`]: from level 0 all tables go together, so
//! that no older version stays above a newer one.

use crate::levels::{LEVEL_COUNT, Levels, TableRef};
use crate::options::{CompactionStyle, Options};
use crate::types::SeqNo;

/// Tables in level 0 that start a compaction.
pub(crate) const LEVEL0_TABLES_START: usize = 4;
/// Tables in level 0 from which writers are slowed, and at which they wait.
pub(crate) const LEVEL0_TABLES_SLOW: usize = 12;
/// See [`LEVEL0_TABLES_SLOW`].
pub(crate) const LEVEL0_TABLES_STOP: usize = 20;
const _: () = assert!(LEVEL0_TABLES_START < LEVEL0_TABLES_SLOW && LEVEL0_TABLES_SLOW < LEVEL0_TABLES_STOP);

/// How much larger each level is than the one above.
const LEVEL_FACTOR: u64 = 10;
/// A table with this share of garbage is rewritten when nothing presses: one part in four.
pub(crate) const GARBAGE_SHARE: u64 = 4;
/// Garbage of this age is rewritten however sparse it is: an hour.
const GARBAGE_AGE_MS: u64 = 60 * 60 * 1000;

/// One compaction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What is merged, with the level it stands in.
    pub(crate) inputs: Vec<(usize, TableRef)>,
    /// Where the result goes.
    pub(crate) output_level: usize,
    /// The inputs can change their level without being read.
    pub(crate) trivial_move: bool,
}

impl Plan {
    /// Bytes of the tables that it merges.
    pub(crate) fn bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, table)| table.meta.file_bytes).sum()
    }
}

/// What a decision depends on besides the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// The oldest number at which anybody may read.
    pub(crate) oldest_reader: SeqNo,
    pub(crate) now_ms: u64,
    /// Nobody has written for a while: bytes of blocks that were read since.
    pub(crate) quiet_read_bytes: Option<u64>,
    /// The size at which a new table is begun.
    pub(crate) table_bytes_max: u64,
}

/// The bytes that level `level` (from 1) may hold.
pub(crate) fn level_bytes_max(options: &Options, level: usize) -> u64 {
    let base = options.memtable_bytes_max.saturating_mul(LEVEL0_TABLES_START as u64);
    (1..level).fold(base, |bytes, _| bytes.saturating_mul(LEVEL_FACTOR))
}

/// Bytes above the sizes that the levels may have: what is still to be merged.
pub(crate) fn debt_bytes(levels: &Levels, options: &Options) -> u64 {
    let level0 = if levels.level(0).len() >= LEVEL0_TABLES_START { levels.level_bytes(0) } else { 0 };
    (1..LEVEL_COUNT - 1)
        .fold(level0, |sum, level| sum + levels.level_bytes(level).saturating_sub(level_bytes_max(options, level)))
}

/// The next compaction in the background, if any is due.
pub(crate) fn pick(levels: &Levels, options: &Options, at: Circumstances) -> Option<Plan> {
    if options.compaction != CompactionStyle::Leveled {
        return None;
    }
    if let Some(level) = fullest_level(levels, options) {
        return Some(push_down(levels, level, at));
    }
    let pressing = |table: &&TableRef| {
        let garbage = table.meta.garbage();
        garbage * GARBAGE_SHARE >= table.meta.entries
            || (garbage > 0 && table.meta.created_ms.saturating_add(GARBAGE_AGE_MS) <= at.now_ms)
    };
    let quiet = at.quiet_read_bytes.is_some_and(|read_bytes| level0_is_worth_merging(levels, read_bytes));
    clean(levels, at, pressing).or_else(|| quiet.then(|| push_down(levels, 0, at)))
}

/// Whether a quiet time should be used to merge level 0, so that reads find one table where they found some: where
/// that writes at most three bytes for each that came, or no more than was read since nobody writes (not merging has
/// then cost as much as merging would; LevelDB's compaction after many seeks is the same idea).
pub(crate) fn level0_is_worth_merging(levels: &Levels, read_bytes: u64) -> bool {
    let (upper, lower) = (levels.level_bytes(0), levels.level_bytes(1));
    upper > 0 && (lower <= 2 * upper || upper + lower <= read_bytes)
}

/// The next step of a full compaction: everything moves to the bottom, then what garbage is left
/// there goes. Tables written after `target` are left alone, so that it ends under load. `None`
/// when the keyspace is as small as its readers allow.
pub(crate) fn pick_full(levels: &Levels, at: Circumstances, target: SeqNo) -> Option<Plan> {
    let bottom = levels.bottom();
    let old = |table: &TableRef| table.meta.smallest_seq <= target;
    if let Some(level) = (0..bottom).find(|&level| levels.level(level).iter().any(old)) {
        return Some(push_down(levels, level, at));
    }
    clean(levels, at, |table| table.meta.garbage() > 0 && old(table))
}

/// The series' compaction: all of level 0 and level 1 become a new level 1.
pub(crate) fn pick_series(levels: &Levels) -> Option<Plan> {
    if levels.level(0).is_empty() {
        return None;
    }
    let inputs = levels.iter().filter(|(level, _)| *level <= 1).map(|(level, t)| (level, t.clone())).collect();
    Some(Plan { inputs, output_level: 1, trivial_move: false })
}

/// The level that is most over its size; none if none is.
fn fullest_level(levels: &Levels, options: &Options) -> Option<usize> {
    // In thousandths, so that the comparison is exact and cannot overflow.
    let mut best: Option<(u64, usize)> = None;
    for level in 0..LEVEL_COUNT - 1 {
        let score = if level == 0 {
            levels.level(0).len() as u64 * 1000 / LEVEL0_TABLES_START as u64
        } else {
            levels.level_bytes(level).saturating_mul(1000) / level_bytes_max(options, level)
        };
        if score >= 1000 && best.is_none_or(|(most, _)| score > most) {
            best = Some((score, level));
        }
    }
    best.map(|(_, level)| level)
}

/// Merges from `level` into the next one: all of level 0, or the table that overlaps least below.
fn push_down(levels: &Levels, level: usize, at: Circumstances) -> Plan {
    let output_level = level + 1;
    let chosen: Vec<TableRef> = if level == 0 {
        levels.level(0).to_vec()
    } else {
        let cost = |table: &&TableRef| {
            let below = levels.overlapping(output_level, &table.meta.smallest_key, &table.meta.largest_key);
            let bytes: u64 = below.iter().map(|t| t.meta.file_bytes).sum();
            bytes.saturating_mul(1000) / table.meta.file_bytes.max(1)
        };
        levels.level(level).iter().min_by_key(cost).cloned().into_iter().collect()
    };
    merge_into(levels, level, chosen, output_level, at)
}

fn merge_into(levels: &Levels, level: usize, chosen: Vec<TableRef>, output_level: usize, at: Circumstances) -> Plan {
    let smallest = chosen.iter().map(|t| t.meta.smallest_key.as_slice()).min().unwrap_or_default();
    let largest = chosen.iter().map(|t| t.meta.largest_key.as_slice()).max().unwrap_or_default();
    let alone = output_level == level || cairn_env::mutant("overlapping-tables-not-merged");
    let below = if alone { Vec::new() } else { levels.overlapping(output_level, smallest, largest) };
    // Several small ones are made into one instead, or there would be ever more of them.
    let bytes: u64 = chosen.iter().map(|t| t.meta.file_bytes).sum();
    let small = chosen.len() > 1 && bytes / (chosen.len() as u64) < at.table_bytes_max / 2;
    let trivial_move = below.is_empty()
        && !small
        && output_level != level
        && chosen.iter().all(|t| t.meta.garbage() == 0)
        && are_disjoint(chosen.iter().collect());
    let inputs = chosen.into_iter().map(|t| (level, t)).chain(below.into_iter().map(|t| (output_level, t))).collect();
    Plan { inputs, output_level, trivial_move }
}

/// Whether no key lies in the ranges of two of these tables.
fn are_disjoint(mut tables: Vec<&TableRef>) -> bool {
    tables.sort_unstable_by(|a, b| a.meta.smallest_key.cmp(&b.meta.smallest_key));
    let may_touch = cairn_env::mutant("touching-tables-moved");
    tables.is_sorted_by(|a, b| {
        let order = a.meta.largest_key.cmp(&b.meta.smallest_key);
        order.is_lt() || (may_touch && order.is_eq())
    })
}

/// Rewrites the table with the largest share of garbage among those that `wanted` accepts, if
/// that can drop any.
fn clean(levels: &Levels, at: Circumstances, wanted: impl Fn(&&TableRef) -> bool) -> Option<Plan> {
    let share = |table: &TableRef| table.meta.garbage().saturating_mul(1000) / table.meta.entries.max(1);
    let (level, table) = levels
        .iter()
        .filter(|(_, table)| wanted(table))
        // What a reader may still need cannot be dropped: rewriting it would change nothing.
        .filter(|(_, table)| table.meta.largest_seq <= at.oldest_reader)
        .max_by_key(|(_, table)| share(table))?;
    let overlapping_below = (level + 1..LEVEL_COUNT)
        .find(|&below| !levels.overlapping(below, &table.meta.smallest_key, &table.meta.largest_key).is_empty());
    Some(match (level, overlapping_below) {
        (0, _) => push_down(levels, 0, at),
        // Something older may lie below: the garbage must first meet it.
        (_, Some(_)) => merge_into(levels, level, vec![table.clone()], level + 1, at),
        // Nothing below: rewritten in place, without it.
        (_, None) => merge_into(levels, level, vec![table.clone()], level, at),
    })
}
