//! A read of several cells shows one moment: all of a batch or nothing of it, and a snapshot shows the
//! same each time.
//!
//! Without the engine's numbers. Of two batches that both wrote two cells one is later, so it shows in
//! both or in neither; and a cell that some batch has put and nobody ever deletes is there wherever
//! another cell shows that batch.

use std::collections::BTreeMap;

use super::{Anomaly, Cell, Content, Finding, History, Value, Verdict, Write};

pub fn check(history: &History) -> Verdict {
    let mut writers: BTreeMap<(Cell, Value), &Write> = BTreeMap::new();
    let mut deleted: Vec<Cell> = Vec::new();
    for (_, write) in history.eras.iter().flat_map(|era| era.writes()) {
        for (cell, slot) in &write.ops {
            match slot {
                Some(value) => drop(writers.insert((*cell, *value), write)),
                None => deleted.push(*cell),
            }
        }
    }
    for era in &history.eras {
        one_moment(&era.found, &writers, &deleted)?;
        let mut snapshots: BTreeMap<u64, &Content> = BTreeMap::new();
        for (_, read) in era.reads() {
            one_moment(&read.seen, &writers, &deleted)?;
            let Some(id) = read.snapshot else { continue };
            let first = *snapshots.entry(id).or_insert(&read.seen);
            let differs = |(cell, slot): &(&Cell, _)| first.get(cell).is_some_and(|before| before != *slot);
            if let Some((cell, slot)) = read.seen.iter().find(differs) {
                let text = format!("snapshot {id} showed {:?} in cell {cell}, then {slot:?}", first[cell]);
                return Err(Finding::new(Anomaly::ChangedSnapshot, text));
            }
        }
    }
    Ok(())
}

fn one_moment(seen: &Content, writers: &BTreeMap<(Cell, Value), &Write>, deleted: &[Cell]) -> Verdict {
    let batches = seen.iter().filter_map(|(cell, slot)| Some((*cell, *writers.get(&(*cell, (*slot)?))?)));
    for (cell, batch) in batches {
        for (other, put) in &batch.ops {
            let Some(slot) = seen.get(other).filter(|slot| *slot != put) else { continue };
            let torn = match slot {
                // Who replaced the batch there has replaced it here as well.
                Some(value) => writers.get(&(*other, *value)).is_some_and(|later| later.slot(cell).is_some()),
                None => put.is_some() && !deleted.contains(other),
            };
            if torn {
                let text = format!("cell {cell} shows {batch:?}, cell {other} shows {slot:?}");
                return Err(Finding::new(Anomaly::TornBatch, text));
            }
        }
    }
    Ok(())
}
