//! The first entries of a sorted list that is too long to hold: the list is in a store, this is in memory.
//!
//! A claim, or a timer, wants the first entry and nothing else. What is inserted before the horizon goes into
//! the window, what is inserted behind it only into the store; when the window runs empty it is filled from the
//! horizon on. So a million waiting entries cost as much as a thousand, and what was deleted before the
//! horizon is not met again.
//!
//! Invariant: the window holds exactly the entries of the list up to its horizon.

use std::collections::BTreeSet;
use std::ops::Bound;

/// A window keeps so many entries when it grows too long.
const KEPT: usize = 512;
/// And is cut to that when it has so many.
const HELD_MAX: usize = 2 * KEPT;

/// How far a window reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Horizon<K> {
    /// Nothing is known of the list.
    Nothing,
    /// Up to this entry.
    At(K),
    /// The whole list.
    End,
}

/// The first entries of a list.
#[derive(Debug)]
pub(crate) struct Window<K> {
    held: BTreeSet<K>,
    horizon: Horizon<K>,
}

impl<K: Ord + Copy> Window<K> {
    /// A window on a list of which nothing is known.
    pub(crate) fn new() -> Window<K> {
        Window { held: BTreeSet::new(), horizon: Horizon::Nothing }
    }

    /// How many entries a filling should bring.
    pub(crate) const FILL: usize = KEPT;

    /// The first entry, if it is known.
    pub(crate) fn first(&self) -> Option<K> {
        self.held.first().copied()
    }

    /// The first that is held behind an entry, there or not.
    pub(crate) fn first_behind(&self, entry: K) -> Option<K> {
        self.held.range((Bound::Excluded(entry), Bound::Unbounded)).next().copied()
    }

    /// Where the next filling begins, if one is needed to know the first entry.
    pub(crate) fn wants(&self) -> Option<Horizon<K>> {
        (self.held.is_empty() && self.horizon != Horizon::End).then_some(self.horizon)
    }

    /// Brings the entries behind the horizon, in order; `all` if there are no more.
    pub(crate) fn fill(&mut self, entries: Vec<K>, all: bool) {
        self.horizon = match entries.last() {
            _ if all => Horizon::End,
            Some(last) => Horizon::At(*last),
            None => self.horizon,
        };
        self.held.extend(entries);
    }

    /// Notes an entry that was put into the list.
    pub(crate) fn insert(&mut self, entry: K) {
        let covered = match self.horizon {
            Horizon::Nothing => false,
            Horizon::At(last) => entry <= last && !cairn_env::mutant("window-skips-an-entry"),
            Horizon::End => true,
        };
        if !covered {
            return;
        }
        self.held.insert(entry);
        if self.held.len() > HELD_MAX {
            while self.held.len() > KEPT {
                self.held.pop_last();
            }
            if let Some(last) = self.held.last() {
                self.horizon = Horizon::At(*last);
            }
        }
    }

    /// Notes that an entry was taken out of the list.
    pub(crate) fn remove(&mut self, entry: K) {
        self.held.remove(&entry);
    }

    /// Whether the list is known to be empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.horizon == Horizon::End
    }
}

#[cfg(test)]
mod tests {
    use cairn_env::testing::Rng;

    use super::*;

    /// A list in a store, and the window on it.
    #[derive(Default)]
    struct List(BTreeSet<u64>);

    impl List {
        fn first(&self, window: &mut Window<u64>) -> Option<u64> {
            while let Some(from) = window.wants() {
                let behind = self.0.iter().copied().filter(|entry| match from {
                    Horizon::Nothing => true,
                    Horizon::At(last) => *entry > last,
                    Horizon::End => false,
                });
                let entries: Vec<u64> = behind.take(Window::<u64>::FILL).collect();
                let all = entries.len() < Window::<u64>::FILL;
                window.fill(entries, all);
            }
            window.first()
        }
    }

    #[test]
    fn the_first_is_always_the_first_of_the_list() {
        for seed in 0..40 {
            let random = &mut Rng::new(seed);
            let (mut list, mut window) = (List::default(), Window::new());
            let wide = [50, 5_000, 1 << 40][random.index(3)];
            let grows = 2 + random.below(3);
            for _ in 0..6_000 {
                if random.below(4) < grows {
                    let entry = random.below(wide);
                    list.0.insert(entry);
                    window.insert(entry);
                } else if random.one_in(2) {
                    let first = list.first(&mut window);
                    assert_eq!(first, list.0.first().copied(), "seed {seed}");
                    if let Some(first) = first {
                        list.0.remove(&first);
                        window.remove(first);
                    }
                } else {
                    let any = random.below(wide);
                    list.0.remove(&any);
                    window.remove(any);
                }
                assert!(window.held.len() <= HELD_MAX);
            }
        }
    }
}
