//! Who is next, by priority: what a random choice at every call seldom tries.
//!
//! After Burckhardt, Kothari, Musuvathi and Nagarakatte, "A Randomized Scheduler with Probabilistic
//! Guarantees of Finding Bugs" (2010). Each thread draws a rank when it starts, and of those that
//! can run the highest does, for as long as it can; at a few points, drawn beforehand, the running
//! thread falls below all others. A mistake that needs d orderings of events is met in one run of
//! n^(d-1) or so of n calls, however unlikely it is when every step is drawn.
//!
//! A thread that polls would keep the turn for ever: after many calls in a row it falls too.

use super::state::TaskId;
use crate::rng::Rng;

/// So many calls in a row are taken for polling.
const PATIENCE: u64 = 3_000;
const RANK_FIRST: u64 = 1 << 32;

pub(super) struct Priorities {
    ranks: Vec<u64>,
    /// The numbers of the points at which the running thread falls, largest first.
    falls: Vec<u64>,
    /// The rank of the next that falls.
    lowest: u64,
    last: TaskId,
    in_a_row: u64,
    draws: Rng,
}

impl Priorities {
    pub(super) fn new(seed: u64) -> Priorities {
        let mut draws = Rng::new(seed);
        let points = 1 << (7 + draws.below(9));
        let mut falls: Vec<u64> = (0..draws.below(6)).map(|_| draws.below(points)).collect();
        falls.sort_unstable_by(|a, b| b.cmp(a));
        Priorities { ranks: Vec::new(), falls, lowest: RANK_FIRST, last: 0, in_a_row: 0, draws }
    }

    fn rank(&mut self, id: TaskId) -> u64 {
        while self.ranks.len() <= id {
            self.ranks.push(RANK_FIRST + 1 + self.draws.below(RANK_FIRST));
        }
        self.ranks.get(id).copied().unwrap_or_default()
    }

    fn highest(&mut self, ready: &[TaskId]) -> Option<TaskId> {
        ready.iter().copied().max_by_key(|id| self.rank(*id))
    }

    /// Of those who can run, at the point with this number.
    pub(super) fn pick(&mut self, ready: &[TaskId], point: u64) -> Option<TaskId> {
        let first = self.highest(ready)?;
        self.in_a_row = if first == self.last { self.in_a_row + 1 } else { 0 };
        self.last = first;
        let due = self.falls.pop_if(|at| *at <= point).is_some();
        if !due && self.in_a_row < PATIENCE {
            return Some(first);
        }
        self.in_a_row = 0;
        self.lowest -= 1;
        if let Some(rank) = self.ranks.get_mut(first) {
            *rank = self.lowest;
        }
        self.highest(ready)
    }
}
