//! What writers were promised, and whether what a recovery found keeps it.
//!
//! Owns the judgement of every run that ends a process: the least and the most that each writer may
//! be found with, the number that the whole database may not end before, and that what is found is
//! a prefix of all writes in the order of their numbers. Knows neither processes nor sockets.

use super::random::Random;

/// What an end takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Only the process: all that was acknowledged or shown must be there.
    Process,
    /// The machine: what was acknowledged as durable, or shown as durable.
    Machine,
}

/// The notes on one database.
#[derive(Debug)]
pub(crate) struct Ledger {
    end: End,
    /// Steps that each writer must be found with at least.
    floors: Vec<u64>,
    /// The last step of each writer that was acknowledged at all.
    last: Vec<u64>,
    /// Steps acknowledged in this life and their sequence numbers.
    numbers: Vec<Vec<(u64, u64)>>,
    /// The sequence number that the database must not end before.
    seq_floor: u64,
    /// The power has begun to go: what is said from now on nobody would have heard.
    late: bool,
    /// Steps that were acknowledged as durable in that time.
    late_floors: Vec<u64>,
    /// What a victim last said went wrong.
    last_error: Option<String>,
    pub(crate) counts: Counts,
}

/// For the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) reads: u64,
    pub(crate) recoveries: u64,
    /// Acknowledged steps that a recovery was compared with.
    pub(crate) checked: u64,
    /// Steps that were acknowledged as buffered and went with the machine, as they may.
    pub(crate) gone_with_machine: u64,
    /// Writers who lost steps that were acknowledged as durable only after the cut had begun.
    pub(crate) late_and_gone: u64,
    pub(crate) refused: u64,
    pub(crate) errors: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.recoveries += other.recoveries;
        self.checked += other.checked;
        self.gone_with_machine += other.gone_with_machine;
        self.late_and_gone += other.late_and_gone;
        self.refused += other.refused;
        self.errors += other.errors;
    }
}

impl Ledger {
    pub(crate) fn new(writers: usize, end: End) -> Ledger {
        Ledger {
            end,
            floors: vec![0; writers],
            last: vec![0; writers],
            numbers: vec![Vec::new(); writers],
            seq_floor: 0,
            late: false,
            late_floors: vec![0; writers],
            last_error: None,
            counts: Counts::default(),
        }
    }

    pub(crate) fn floors(&self) -> &[u64] {
        &self.floors
    }

    /// The most that each writer can be found with.
    pub(crate) fn ceilings(&self) -> Vec<u64> {
        let most = |(last, floor): (&u64, &u64)| last.max(floor) + super::writer::WINDOW;
        self.last.iter().zip(&self.floors).map(most).collect()
    }

    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(crate) fn forget_errors(&mut self) {
        self.last_error = None;
    }

    fn binds(&self, durable: bool) -> bool {
        !self.late && (durable || self.end == End::Process)
    }

    /// The power begins to go. A real cut takes the machine with it, and nothing that it says afterwards is
    /// heard; a file system that is shut down lets its processes live on for a while, and its kernel
    /// answers some of their syncs with Ok though it wrote nothing any more.
    pub(crate) fn cut_begins(&mut self) {
        self.late = true;
    }

    /// A writer's step was acknowledged under this sequence number.
    pub(crate) fn acknowledged(&mut self, writer: usize, step: u64, seq: u64, durable: bool) -> Result<(), String> {
        let binds = self.binds(durable);
        let (Some(last), Some(floor), Some(numbers)) =
            (self.last.get_mut(writer), self.floors.get_mut(writer), self.numbers.get_mut(writer))
        else {
            return Err(format!("there is no writer {writer}"));
        };
        *last = step.max(*last);
        numbers.push((step, seq));
        self.counts.acknowledged += 1;
        if binds {
            *floor = step.max(*floor);
            self.seq_floor = seq.max(self.seq_floor);
        } else if durable && let Some(late) = self.late_floors.get_mut(writer) {
            *late = step.max(*late);
        }
        Ok(())
    }

    /// A read at this sequence number showed a value of a writer's step, or none.
    pub(crate) fn shown(&mut self, shown: Option<(usize, u64)>, seq: u64, durable: bool) -> Result<(), String> {
        self.counts.reads += 1;
        if !self.binds(durable) {
            return Ok(());
        }
        self.seq_floor = seq.max(self.seq_floor);
        if let Some((writer, step)) = shown {
            let floor = self.floors.get_mut(writer).ok_or_else(|| format!("there is no writer {writer}"))?;
            *floor = step.max(*floor);
        }
        Ok(())
    }

    /// A recovery found the database at `seq`, and each writer with so many steps. From here on
    /// that is the least: what a recovery showed never changes later.
    pub(crate) fn found(&mut self, seq: u64, steps: &[u64]) -> Result<(), String> {
        if steps.len() != self.floors.len() {
            return Err(format!("{} writers were found, and there are {}", steps.len(), self.floors.len()));
        }
        if seq < self.seq_floor {
            return Err(format!("LOST: number {} was durable, and the database ends at {seq}", self.seq_floor));
        }
        for (writer, (found, (floor, ceiling))) in steps.iter().zip(self.floors.iter().zip(self.ceilings())).enumerate()
        {
            if found < floor {
                return Err(format!("LOST: writer {writer} was promised step {floor}, and ends at {found}"));
            }
            if *found > ceiling {
                return Err(format!("writer {writer} ends at step {found}, and never went beyond {ceiling}"));
            }
        }
        for (writer, (found, numbers)) in steps.iter().zip(&self.numbers).enumerate() {
            for (step, number) in numbers {
                let there = step <= found;
                if there != (*number <= seq) {
                    let is = if there { "there" } else { "gone" };
                    return Err(format!(
                        "A HOLE: the database ends at number {seq}, and step {step} of writer {writer}, \
                         which has number {number}, is {is}"
                    ));
                }
                self.counts.checked += 1;
                self.counts.gone_with_machine += u64::from(!there);
            }
        }
        let late_and_gone = steps.iter().zip(&self.late_floors).filter(|(found, late)| found < late);
        self.counts.late_and_gone += late_and_gone.count() as u64;
        self.late = false;
        self.late_floors.fill(0);
        self.counts.recoveries += 1;
        self.floors = steps.to_vec();
        self.last = steps.to_vec();
        self.numbers.iter_mut().for_each(Vec::clear);
        self.seq_floor = seq;
        Ok(())
    }

    /// Takes a line that a victim printed: see [`super::victim`] for their forms.
    pub(crate) fn note(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("a victim said {line:?}"));
        let index = |word: &str| word.parse::<usize>().map_err(|_| format!("a victim said {line:?}"));
        match words.as_slice() {
            ["ack", writer, step, seq, how] => {
                self.acknowledged(index(writer)?, number(step)?, number(seq)?, *how == "durable")
            }
            ["read", writer, step, seq, how] => {
                self.shown(Some((index(writer)?, number(step)?)), number(seq)?, *how == "durable")
            }
            ["read", seq, how] => self.shown(None, number(seq)?, *how == "durable"),
            ["found", seq, steps @ ..] => {
                let steps: Vec<u64> = steps.iter().map(|step| number(step)).collect::<Result<_, _>>()?;
                self.found(number(seq)?, &steps)
            }
            ["refused"] => {
                self.counts.refused += 1;
                Ok(())
            }
            ["error", ..] => {
                self.counts.errors += 1;
                self.last_error = Some(line.to_owned());
                Ok(())
            }
            ["closed"] => Ok(()),
            _ => Err(line.to_owned()),
        }
    }
}

/// A pause of up to `ms`, most of them short.
pub(crate) fn pause_ms(random: &mut Random, ms: u64) -> u64 {
    let bound = 1 + random.below(ms);
    random.below(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(end: End) -> Ledger {
        let mut ledger = Ledger::new(2, end);
        for line in [
            "ack 0 1 10 durable",
            "ack 1 1 11 buffered",
            "ack 1 2 12 durable",
            "ack 0 2 13 buffered",
            "read 1 2 12 durable",
            "read 13 applied",
        ] {
            ledger.note(line).unwrap();
        }
        ledger
    }

    #[test]
    fn a_kill_keeps_all_and_a_power_cut_what_was_durable() {
        assert_eq!(ledger(End::Process).note("found 13 2 2"), Ok(()));
        assert!(ledger(End::Process).note("found 12 1 2").unwrap_err().contains("LOST"));
        assert_eq!(ledger(End::Machine).note("found 12 1 2"), Ok(()));
        assert!(ledger(End::Machine).note("found 11 1 1").unwrap_err().contains("LOST"));
        assert!(ledger(End::Machine).note("found 12 1 1").unwrap_err().contains("LOST"));
    }

    #[test]
    fn what_is_said_after_the_cut_binds_nobody() {
        let mut ledger = ledger(End::Machine);
        ledger.cut_begins();
        ledger.note("ack 1 3 14 durable").unwrap();
        ledger.note("read 1 3 14 durable").unwrap();
        assert!(ledger.note("found 11 1 1").unwrap_err().contains("LOST"));
        assert_eq!(ledger.note("found 12 1 2"), Ok(()));
        assert_eq!(ledger.counts.late_and_gone, 1);
        ledger.note("ack 1 3 15 durable").unwrap();
        assert!(ledger.note("found 12 1 2").unwrap_err().contains("LOST"));
    }

    #[test]
    fn a_hole_is_found() {
        // The step with number 13 is there, the one with number 12 was only buffered and is not.
        let mut ledger = Ledger::new(2, End::Machine);
        ledger.note("ack 0 1 12 buffered").unwrap();
        ledger.note("ack 1 1 13 buffered").unwrap();
        assert!(ledger.note("found 13 0 1").unwrap_err().contains("A HOLE"));
        assert!(ledger.note("found 12 1 1").unwrap_err().contains("A HOLE"));
        assert_eq!(ledger.note("found 12 1 0"), Ok(()));
    }

    #[test]
    fn what_a_recovery_showed_stays() {
        let mut ledger = ledger(End::Process);
        ledger.note("found 16 4 2").unwrap();
        assert!(ledger.note("found 16 3 2").unwrap_err().contains("LOST"));
        assert!(ledger.note("found 15 4 2").unwrap_err().contains("LOST"));
        assert!(ledger.note("found 30 9 2").unwrap_err().contains("never went beyond 8"));
        assert!(ledger.note("lost: all of it").is_err());
    }
}
