//! The acknowledged batches, replayed in the order of their numbers, give what each read saw at its
//! number, and what the next opening found.
//!
//! This trusts the engine's numbers, and so finds what the others cannot: numbers that are given
//! twice, that run against time, that lie within a batch, or behind what was acknowledged. A batch
//! of unknown outcome may stand wherever acknowledged ones leave as many numbers free as it needs.

use std::ops::Range;

use cairn::{Durability, Visibility};

use super::{Anomaly, Call, Cell, Content, End, Era, Finding, History, Outcome, Read, Slot, Time, Verdict, Write};

pub fn check(history: &History) -> Verdict {
    for (index, era) in history.eras.iter().enumerate() {
        let at = |finding: Finding| Finding::new(finding.anomaly, format!("era {index}: {}", finding.text));
        let replay = Replay { era, history, committed: era.committed() };
        replay.numbers().map_err(at)?;
        replay.reads().map_err(at)?;
        if let Some(next) = history.eras.get(index + 1) {
            replay.found(next).map_err(at)?;
        }
    }
    Ok(())
}

struct Replay<'a> {
    era: &'a Era,
    history: &'a History,
    committed: Vec<(Range<u64>, &'a Call, &'a Write)>,
}

impl Replay<'_> {
    /// No number twice, and none against time.
    fn numbers(&self) -> Verdict {
        let mut last = self.era.base;
        let mut invoked: Time = 0;
        for (numbers, call, write) in &self.committed {
            if numbers.start <= last {
                let text = format!("{numbers:?} of {write:?} begins before {last}");
                return Err(Finding::new(Anomaly::SharedNumber, text));
            }
            if call.returned < invoked {
                let text = format!("{numbers:?} of {write:?} returned before an earlier number was asked for");
                return Err(Finding::new(Anomaly::TimeTravel, text));
            }
            last = numbers.end - 1;
            invoked = invoked.max(call.invoked);
        }
        Ok(())
    }

    fn reads(&self) -> Verdict {
        let mut reads: Vec<(u64, &Call, &Read)> =
            self.era.reads().filter_map(|(call, read)| Some((read.seq?, call, read))).collect();
        reads.sort_by_key(|(seq, ..)| *seq);
        for visibility in [Visibility::Applied, Visibility::Durable] {
            let mut invoked = 0;
            let seen: Vec<_> = reads.iter().filter(|(.., read)| read.visibility == visibility).collect();
            for same in seen.chunk_by(|(one, ..), (other, ..)| one == other) {
                if let Some((seq, ..)) = same.iter().find(|(_, call, _)| call.returned < invoked) {
                    let text = format!("a read at {seq} returned before one at a lower number was made");
                    return Err(Finding::new(Anomaly::TimeTravel, text));
                }
                invoked = same.iter().map(|(_, call, _)| call.invoked).fold(invoked, Time::max);
            }
        }
        for (seq, call, read) in reads {
            let all = |write: &Write| read.visibility == Visibility::Applied || write.durability == Durability::Commit;
            let missed = |(numbers, before, write): &&(Range<u64>, &Call, &Write)| {
                before.returned < call.invoked && all(write) && numbers.end - 1 > seq
            };
            if let Some((numbers, ..)) = self.committed.iter().find(missed) {
                let text = format!("a read at {seq} does not cover {numbers:?}, acknowledged before");
                return Err(Finding::new(Anomaly::StaleRead, text));
            }
            self.content(seq, &read.seen)?;
        }
        Ok(())
    }

    /// What the next opening found: nothing is lost that was acknowledged or seen as durable.
    fn found(&self, next: &Era) -> Verdict {
        let kept = |write: &Write| self.era.end != End::PowerCut || write.durability == Durability::Commit;
        let written = self.committed.iter().filter(|(.., write)| kept(write)).map(|(numbers, ..)| numbers.end - 1);
        let durable = self.era.reads().filter(|(_, read)| read.visibility == Visibility::Durable);
        let promised = written.chain(durable.filter_map(|(_, read)| read.seq)).chain([self.era.base]).max();
        if promised > Some(next.base) {
            let text = format!("{promised:?} was promised, {} was found", next.base);
            return Err(Finding::new(Anomaly::LostWrite, text));
        }
        self.content(next.base, &next.found).map_err(|finding| match finding.anomaly {
            Anomaly::StaleRead => Finding::new(Anomaly::LostWrite, finding.text),
            _ => finding,
        })
    }

    fn content(&self, seq: u64, seen: &Content) -> Verdict {
        // Behind its last number nothing of a batch is left to see.
        let within = |numbers: &Range<u64>| numbers.contains(&seq) && seq + 1 < numbers.end;
        if let Some((numbers, ..)) = self.committed.iter().find(|(numbers, ..)| within(numbers)) {
            return Err(Finding::new(Anomaly::TornBatch, format!("a read at {seq}, within {numbers:?}")));
        }
        seen.iter().try_for_each(|(&cell, &slot)| self.slot(seq, cell, slot))
    }

    fn slot(&self, seq: u64, cell: Cell, seen: Slot) -> Verdict {
        let start = (self.era.base, self.era.found.get(&cell).copied().flatten());
        let writes = self.committed.iter().filter(|(numbers, ..)| numbers.end - 1 <= seq);
        let mut writes = writes.filter_map(|(numbers, _, write)| Some((numbers.end - 1, write.slot(cell)?)));
        let (last, expected) = writes.next_back().unwrap_or(start);
        if seen == expected || self.is_of_unknown(last, seq, cell, seen) {
            return Ok(());
        }
        let later = self.committed.iter().any(|(_, _, write)| seen.is_some() && write.slot(cell) == Some(seen))
            && !self
                .committed
                .iter()
                .any(|(numbers, _, write)| numbers.end - 1 <= seq && write.slot(cell) == Some(seen));
        let known = |write: &Write| write.slot(cell) == Some(seen);
        let ever = self.history.eras.iter().flat_map(Era::writes).any(|(_, write)| known(write));
        let anomaly = match (seen, expected) {
            (Some(_), _) if !ever => Anomaly::NeverWritten,
            (Some(_), _) if later => Anomaly::TimeTravel,
            (Some(_), None) => Anomaly::ResurrectedDelete,
            (None, Some(_)) => Anomaly::LostWrite,
            (Some(_), Some(_)) | (None, None) => Anomaly::StaleRead,
        };
        let text = format!("cell {cell} at {seq} shows {seen:?}, and {last} left {expected:?}");
        Err(Finding::new(anomaly, text))
    }

    /// Whether a batch of unknown outcome that leaves this fits between the two numbers.
    fn is_of_unknown(&self, last: u64, seq: u64, cell: Cell, seen: Slot) -> bool {
        let between = self.committed.iter().filter(|(numbers, ..)| numbers.start > last && numbers.end - 1 <= seq);
        let taken: u64 = between.map(|(numbers, ..)| numbers.end - numbers.start).sum();
        let free = (seq - last).saturating_sub(taken);
        self.era.writes().any(|(_, write)| {
            write.outcome == Outcome::Unknown && write.slot(cell) == Some(seen) && write.ops.len() as u64 <= free
        })
    }
}
