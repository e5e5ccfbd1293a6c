//! The tables of a keyspace, merged: of each key the newest version that can be read.
//!
//! Tables that do not overlap stand in one chain, of which one table is open at a time: as many files
//! are open as tables overlap at one key, which in a sound database is level 0 and one for each level
//! below.

use std::cmp::Ordering;
use std::path::Path;
use std::vec;

use cairn_table::Salvage;

use crate::error::{Error, Result};
use crate::types::{KeyspaceId, kind};

use super::{Lost, Part, Repair, Space, Target};

/// Tables in the order of their keys, none overlapping the next.
struct Chain {
    waiting: vec::IntoIter<Part>,
    at: Option<Reading>,
}

/// The table at which a chain stands.
struct Reading {
    part: Part,
    salvage: Salvage,
    /// Which loss was told of it last.
    last_loss: Option<usize>,
}

impl Chain {
    fn salvage(&self) -> Option<&Salvage> {
        self.at.as_ref().map(|reading| &reading.salvage)
    }
}

/// The order of a merge: by key, and within a key the newest first.
fn order(a: &Salvage, b: &Salvage) -> Ordering {
    a.key().cmp(b.key()).then(b.seq().cmp(&a.seq()))
}

/// Sorts tables into as few chains as they can stand in.
fn chains(parts: &[Part]) -> Vec<Chain> {
    let mut sorted = parts.to_vec();
    sorted.sort_by(|a, b| a.smallest_key.cmp(&b.smallest_key));
    let mut chains: Vec<Vec<Part>> = Vec::new();
    for part in sorted {
        let before = |chain: &&mut Vec<Part>| chain.last().is_some_and(|last| last.largest_key < part.smallest_key);
        match chains.iter_mut().find(before) {
            Some(chain) => chain.push(part),
            None => chains.push(vec![part]),
        }
    }
    chains.into_iter().map(|parts| Chain { waiting: parts.into_iter(), at: None }).collect()
}

impl Repair<'_> {
    /// Writes the newest readable version of every key that is in a table.
    pub(super) fn tables(&mut self, id: KeyspaceId, space: &mut Space, target: &mut Target) -> Result<()> {
        let mut chains = chains(&space.parts);
        for chain in &mut chains {
            self.step(chain, space);
        }
        let mut key: Option<Vec<u8>> = None;
        loop {
            let standing = chains.iter().enumerate().filter_map(|(i, chain)| Some((i, chain.salvage()?)));
            let Some((first, entry)) = standing.min_by(|a, b| order(a.1, b.1)) else { break };
            if key.as_deref() != Some(entry.key()) {
                match entry.kind() {
                    kind::PUT => {
                        target.write(id, entry.key(), Some(entry.value()))?;
                        self.done.table_entries += 1;
                    }
                    kind::DELETE => {}
                    other => {
                        let path =
                            chains.get(first).and_then(|chain| chain.at.as_ref()).map(|reading| &reading.part.path);
                        let what = format!("it holds an entry of kind {other}: use a newer cairn");
                        return Err(Error::newer(path.map_or(self.dir, |path| path), what));
                    }
                }
                let key = key.get_or_insert_default();
                key.clear();
                key.extend_from_slice(entry.key());
            }
            if let Some(chain) = chains.get_mut(first) {
                self.step(chain, space);
            }
        }
        Ok(())
    }

    /// Moves a chain to its next entry, or to its end.
    fn step(&mut self, chain: &mut Chain, space: &mut Space) {
        loop {
            if let Some(Reading { part, salvage, last_loss }) = &mut chain.at {
                salvage.step(&mut |lost| self.lose_block(&part.path, space, last_loss, lost));
                if salvage.valid() {
                    return;
                }
                self.done.tables += 1;
                self.reach(&part.path, part.file_bytes);
                chain.at = None;
            }
            let Some(part) = chain.waiting.next() else { return };
            match self.open(&part) {
                Ok(table) => chain.at = Some(Reading { part, salvage: Salvage::new(table), last_loss: None }),
                // It could be opened a moment ago.
                Err(e) => {
                    space.lost.add(&part.smallest_key, &part.largest_key);
                    self.lose(&part.path, &e, Some(&space.name), Some((part.smallest_key, part.largest_key)));
                }
            }
        }
    }

    fn lose_block(&mut self, path: &Path, space: &mut Space, last_loss: &mut Option<usize>, lost: cairn_table::Lost) {
        let cairn_table::Lost { offset, what, from, to } = lost;
        space.lost.add(&from, &to);
        if let Some(last) = last_loss.and_then(|at| self.done.lost.get_mut(at))
            && let Some((_, end)) = &mut last.range
            && *end == from
        {
            *end = to;
            last.blocks += 1;
            return;
        }
        *last_loss = Some(self.done.lost.len());
        let (path, keyspace) = (path.to_path_buf(), Some(space.name.clone()));
        self.done.lost.push(Lost { path, offset: Some(offset), what, blocks: 1, keyspace, range: Some((from, to)) });
    }
}
