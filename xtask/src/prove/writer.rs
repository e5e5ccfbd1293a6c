//! What a writer writes: an endless numbered list of steps that follows from its seed alone.
//!
//! Each writer has its own few keys and writes one step after the other, so what it has written is
//! a number: the count of its steps. Whoever knows the seed can say what the database must hold
//! after so many of them, and can tell from what a database holds how many there were, without
//! having seen a single write. A value begins with the number of the step that wrote it.
//!
//! Invariant: no two states of a writer are alike. The newest step whose value still stands never
//! becomes older, because a delete that is a step by itself spares the newest values and every other
//! step puts one; and between two states with the same newest step there were only such deletes, so
//! the later one has fewer keys.

use std::collections::BTreeMap;

use super::random::Random;

/// Keys of each writer. Few, so that nearly every step replaces or deletes what an older one wrote.
pub(crate) const KEYS: u64 = 64;

/// A writer has at most so many steps in flight.
pub(crate) const WINDOW: u64 = 4;

/// What a database holds of one writer.
pub(crate) type Content = BTreeMap<String, String>;

/// One numbered step: applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) number: u64,
    /// Indexes of the keys to put.
    pub(crate) puts: Vec<u64>,
    /// Indexes of the keys to delete.
    pub(crate) deletes: Vec<u64>,
    /// A key that does not exist before the step, as its condition.
    pub(crate) absent: Option<u64>,
    /// A draw for whoever executes the step, to vary how.
    pub(crate) draw: u64,
}

impl Step {
    /// The only put or delete of a step that is no batch: its key, and whether it is put.
    pub(crate) fn single(&self) -> Option<(u64, bool)> {
        match (self.puts.as_slice(), self.deletes.as_slice(), self.absent) {
            ([key], [], None) => Some((*key, true)),
            ([], [key], None) => Some((*key, false)),
            _ => None,
        }
    }
}

/// A writer after some count of steps.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    seed: u64,
    name: u64,
    /// Steps made.
    count: u64,
    /// The key indexes that exist, and the number of the step that put each.
    standing: BTreeMap<u64, u64>,
}

impl Writer {
    /// The writer `name` after `count` steps.
    pub(crate) fn at(seed: u64, name: u64, count: u64) -> Writer {
        let mut writer = Writer { seed, name, count: 0, standing: BTreeMap::new() };
        while writer.count < count {
            let step = writer.next();
            writer.apply(&step);
        }
        writer
    }

    pub(crate) fn name(&self) -> u64 {
        self.name
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The step after the last.
    pub(crate) fn next(&self) -> Step {
        let number = self.count + 1;
        let mut random = Random::of(&[self.seed, self.name, number]);
        let newest = self.standing.values().max().copied().unwrap_or(0);
        let old: Vec<u64> = self.standing.iter().filter(|(_, put)| **put < newest).map(|(key, _)| *key).collect();
        let mut step = Step { number, puts: Vec::new(), deletes: Vec::new(), absent: None, draw: random.next() };
        match (random.below(10), pick(&old, &mut random)) {
            (0..2, Some(key)) => step.deletes.push(key),
            (0..6, _) => step.puts.push(random.below(KEYS)),
            _ => {
                for _ in 0..=random.below(4) {
                    let key = random.below(KEYS);
                    if !step.puts.contains(&key) {
                        step.puts.push(key);
                    }
                }
                step.deletes.extend(pick(&old, &mut random).filter(|key| !step.puts.contains(key)));
                let absent = random.below(KEYS);
                step.absent = (!self.standing.contains_key(&absent)).then_some(absent);
            }
        }
        step
    }

    /// Makes the step that [`Writer::next`] gave.
    pub(crate) fn apply(&mut self, step: &Step) {
        for key in &step.puts {
            self.standing.insert(*key, step.number);
        }
        for key in &step.deletes {
            self.standing.remove(key);
        }
        self.count = step.number;
    }

    /// A key that exists, if any does: for conditions that must not hold.
    pub(crate) fn existing(&self) -> Option<u64> {
        self.standing.keys().next().copied()
    }

    pub(crate) fn key(&self, index: u64) -> String {
        key(self.name, index)
    }

    pub(crate) fn value(&self, index: u64, number: u64) -> String {
        let mut random = Random::of(&[self.seed, self.name, number, index]);
        let len = if random.chance(20) { random.below(3000) } else { random.below(200) };
        let letter = char::from(b'a' + u8::try_from(random.below(26)).unwrap_or_default());
        let mut value = format!("{number}:{}", self.key(index));
        value.extend(std::iter::repeat_n(letter, usize::try_from(len).unwrap_or_default()));
        value
    }

    /// What the database holds of this writer.
    pub(crate) fn content(&self) -> Content {
        self.standing.iter().map(|(key, number)| (self.key(*key), self.value(*key, *number))).collect()
    }

    /// The writer whose state `content` is, with at least `floor` and at most `ceiling` steps.
    pub(crate) fn find(seed: u64, name: u64, floor: u64, ceiling: u64, content: &Content) -> Result<Writer, String> {
        let least = Writer::at(seed, name, floor);
        let mut writer = least.clone();
        loop {
            if writer.content() == *content {
                return Ok(writer);
            }
            if writer.count >= ceiling {
                return Err(least.unlike(ceiling, content));
            }
            let step = writer.next();
            writer.apply(&step);
        }
    }

    /// Says how `content` differs from this state, which it should be or follow.
    fn unlike(&self, ceiling: u64, content: &Content) -> String {
        let want = self.content();
        let short = |value: Option<&String>| match value {
            Some(value) => format!("{} ({} bytes)", value.chars().take(20).collect::<String>(), value.len()),
            None => "nothing".to_owned(),
        };
        let keys: std::collections::BTreeSet<&String> = want.keys().chain(content.keys()).collect();
        let lines = keys
            .into_iter()
            .filter(|key| want.get(*key) != content.get(*key))
            .take(8)
            .map(|key| format!("{key} holds {}, and held {}", short(content.get(key)), short(want.get(key))));
        format!(
            "writer {}: what is there is no state from step {} to {ceiling}; against step {}: {}",
            self.name,
            self.count,
            self.count,
            lines.collect::<Vec<_>>().join("; ")
        )
    }
}

fn pick(keys: &[u64], random: &mut Random) -> Option<u64> {
    let index = usize::try_from(random.below(keys.len() as u64)).ok()?;
    keys.get(index).copied()
}

/// The key with this index of the writer with this name.
pub(crate) fn key(writer: u64, index: u64) -> String {
    format!("w{writer:02}k{index:02}")
}

/// The number of the step that wrote a value; `None` for what no writer wrote.
pub(crate) fn number(value: &str) -> Option<u64> {
    value.split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_states_are_alike() {
        for seed in 1..20 {
            let mut writer = Writer::at(seed, 3, 0);
            let mut seen = BTreeSet::new();
            for _ in 0..2_000 {
                assert!(seen.insert(writer.standing.clone()), "seed {seed}, step {}", writer.count);
                let step = writer.next();
                assert!(step.absent.is_none_or(|key| !writer.standing.contains_key(&key)));
                writer.apply(&step);
            }
        }
    }

    #[test]
    fn a_state_is_found_and_what_is_none_is_refused() {
        let content = Writer::at(7, 1, 500).content();
        let found = |floor, ceiling, content: &Content| {
            Writer::find(7, 1, floor, ceiling, content).map(|writer| writer.count())
        };
        assert_eq!(found(490, 510, &content), Ok(500));
        assert_eq!(found(500, 500, &content), Ok(500));
        // Lost: what is there is older than what was acknowledged. Invented: newer than what was sent.
        assert!(found(501, 510, &content).is_err());
        assert!(found(490, 499, &content).is_err());
        // A batch of which a part is missing, and a value of another time.
        let mut torn = content.clone();
        torn.pop_last();
        assert!(found(490, 510, &torn).is_err());
        let mut old = content;
        let first = old.first_entry().map(|entry| entry.key().clone()).unwrap();
        old.insert(first, "1:w01k00".to_owned());
        assert!(found(490, 510, &old).unwrap_err().contains("writer 1"));
    }

    #[test]
    fn every_form_of_step_is_there() {
        let mut writer = Writer::at(1, 0, 0);
        let mut forms = [0; 4];
        for _ in 0..1000 {
            let step = writer.next();
            let form = match step.single() {
                Some((_, true)) => 0,
                Some((_, false)) => 1,
                None if step.absent.is_some() => 2,
                None => 3,
            };
            forms[form] += 1;
            writer.apply(&step);
        }
        assert!(forms.iter().all(|count| *count > 50), "{forms:?}");
    }
}
