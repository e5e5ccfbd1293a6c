//! What a batch required held when it was written; and counters that are raised by compare and set
//! count exactly the batches that raised them.

use super::{Anomaly, Era, Finding, History, Outcome, Slot, Verdict, number};

pub fn check(history: &History) -> Verdict {
    history.eras.iter().try_for_each(required)?;
    let Some(end) = history.eras.last() else { return Ok(()) };
    for &cell in &history.counters {
        let found: Slot = end.found.get(&cell).copied().flatten();
        let count = |outcome: fn(Outcome) -> bool| {
            let writes = history.eras.iter().flat_map(Era::writes);
            writes.filter(|(_, write)| write.slot(cell).is_some() && outcome(write.outcome)).count() as u64
        };
        let raised = count(|outcome| matches!(outcome, Outcome::Committed(_)));
        let unknown = count(|outcome| outcome == Outcome::Unknown);
        let found = found.map_or(0, number);
        let text = format!("counter {cell} is {found} after {raised} increments and {unknown} of unknown outcome");
        if found < raised {
            return Err(Finding::new(Anomaly::LostUpdate, text));
        }
        if found > raised + unknown {
            return Err(Finding::new(Anomaly::NeverWritten, text));
        }
    }
    Ok(())
}

/// Between what a batch decided on and the batch itself nobody else has written there.
fn required(era: &Era) -> Verdict {
    let committed = era.committed();
    for (numbers, _, write) in &committed {
        for (cells, since) in &write.required {
            let between = since + 1..numbers.start;
            for (others, _, other) in &committed {
                let theirs = others.clone().zip(&other.ops);
                for (seq, (cell, _)) in theirs {
                    if !between.contains(&seq) || !cells.contains(cell) {
                        continue;
                    }
                    let text = format!("{write:?} required {cells:?} unchanged since {since}; {seq} changed {cell}");
                    let writes_it = write.slot(*cell).is_some();
                    let anomaly = if writes_it { Anomaly::LostUpdate } else { Anomaly::WriteSkew };
                    return Err(Finding::new(anomaly, text));
                }
            }
        }
    }
    Ok(())
}
