//! Whether versions lie in the levels as reads expect: of two versions of a key, the newer one never
//! below the older. A read stops at the first level that has the key.
//!
//! All tables of a keyspace are merged into one stream, by key and within a key newest first. Within
//! a key the place in the order of reading (level 0 from the newest table to the oldest, then level
//! by level) may then only grow.

use std::path::PathBuf;

use crate::levels::{LEVEL_COUNT, Levels, TableRef};
use crate::merge::{Entry, Merge, Source};
use crate::types::{kind, shown};

use super::Check;

/// Progress is told every so many entries.
const ENTRIES_PER_STEP: u64 = 4096;

/// The version before, while the next may be of the same key.
struct Last {
    key: Vec<u8>,
    seq: u64,
    place: usize,
}

impl Check<'_> {
    /// Checks the order of versions in the sound tables of a keyspace.
    pub(super) fn order(&mut self, keyspace: &str, tables: Vec<(usize, TableRef)>) {
        let bytes: u64 = tables.iter().map(|(_, table)| table.meta.file_bytes).sum();
        let entries: u64 = tables.iter().map(|(_, table)| table.meta.entries).sum();
        let before = self.bytes_done;
        let dir = self.dir.to_path_buf();
        let levels = Levels::from_tables(tables);
        let mut sources: Vec<Source> = levels.level(0).iter().map(|table| Source::table(table, false)).collect();
        sources.extend((1..LEVEL_COUNT).map(|level| Source::level(levels.level_shared(level), false)));

        let mut merge = Merge::new(sources);
        let mut step = merge.seek_to_first();
        let mut last: Option<Last> = None;
        let mut seen = 0;
        let mut wrong: Option<(PathBuf, String)> = None;
        let mut wrong_count = 0_u64;
        loop {
            if let Err(e) = step {
                self.failed(&dir, &e);
                break;
            }
            let (Some(entry), Some(place)) = (merge.entry(), merge.source()) else { break };
            if let Some(what) = judge(&entry, place, last.as_ref(), &levels) {
                wrong_count += 1;
                wrong.get_or_insert_with(|| (path_at(&levels, place, entry.key).unwrap_or_else(|| dir.clone()), what));
            }
            match &mut last {
                Some(last) => {
                    if last.key != entry.key {
                        last.key.clear();
                        last.key.extend_from_slice(entry.key);
                    }
                    (last.seq, last.place) = (entry.seq, place);
                }
                None => last = Some(Last { key: entry.key.to_vec(), seq: entry.seq, place }),
            }
            seen += 1;
            if seen % ENTRIES_PER_STEP == 0 {
                let share = u128::from(bytes) * u128::from(seen) / u128::from(entries.max(1));
                self.reach(&dir, before.saturating_add(u64::try_from(share).unwrap_or(bytes)));
            }
            step = merge.step();
        }
        if let Some((path, what)) = wrong {
            let more = match wrong_count {
                1 => String::new(),
                n => format!("; {} more versions like it", n - 1),
            };
            self.damage(&path, None, format!("in keyspace \"{}\", {what}{more}", keyspace.escape_debug()));
        }
        self.reach(&dir, before.saturating_add(bytes));
    }
}

/// What is wrong with an entry, after the one before it.
fn judge(entry: &Entry<'_>, place: usize, last: Option<&Last>, levels: &Levels) -> Option<String> {
    let name = |place| path_at(levels, place, entry.key).map_or_else(String::new, |path| path.display().to_string());
    if !kind::is_known(entry.kind) {
        let key = shown(entry.key);
        return Some(format!("an entry of key {key} has kind {}, which this build does not know", entry.kind));
    }
    let last = last.filter(|last| last.key == entry.key)?;
    if entry.seq == last.seq {
        let (key, other) = (shown(entry.key), name(last.place));
        return Some(format!("version {} of key {key} stands also in {other}", entry.seq));
    }
    if place < last.place {
        let (key, other) = (shown(entry.key), name(last.place));
        let (older, newer) = (entry.seq, last.seq);
        return Some(format!("version {older} of key {key} lies above the newer version {newer} in {other}"));
    }
    None
}

/// The table at a place in the order of reading that holds `key`.
fn path_at(levels: &Levels, place: usize, key: &[u8]) -> Option<PathBuf> {
    let newest = levels.level(0);
    let table = match place.checked_sub(newest.len()) {
        None => newest.get(place),
        Some(below) => levels.find(below + 1, key),
    };
    table.map(|table| table.table.path().to_path_buf())
}
