//! The atomics of the memtable, named once: built with `--cfg loom`, they are a model checker's
//! (see `interleavings`).
//!
//! So are the orderings that publication rests on: there each can be weakened, one at a time, to see
//! that the checker finds what comes of it.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Where an acquire or a release is needed, and not merely atomicity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    SlotLoad,
    SlotPublish,
    MarkLoad,
    MarkPublish,
    VersionsLoad,
    VersionsPublish,
}

/// The ordering of a place.
#[cfg(not(loom))]
#[inline(always)]
pub(super) const fn order(needed: Needed) -> Ordering {
    needed.order()
}

#[cfg(loom)]
thread_local! {
    /// The one that a mutant weakens. The model's threads all run on the thread that explores it.
    pub(super) static WEAKENED: std::cell::Cell<Option<Needed>> = const { std::cell::Cell::new(None) };
}

/// The ordering of a place, or the weakest in a mutant of it.
#[cfg(loom)]
pub(super) fn order(needed: Needed) -> Ordering {
    if WEAKENED.get() == Some(needed) { Ordering::Relaxed } else { needed.order() }
}

impl Needed {
    #[inline(always)]
    const fn order(self) -> Ordering {
        match self {
            Needed::SlotLoad | Needed::MarkLoad | Needed::VersionsLoad => Ordering::Acquire,
            Needed::SlotPublish | Needed::MarkPublish | Needed::VersionsPublish => Ordering::Release,
        }
    }

    #[cfg(all(test, loom))]
    pub(super) const ALL: [Needed; 6] = [
        Needed::SlotLoad,
        Needed::SlotPublish,
        Needed::MarkLoad,
        Needed::MarkPublish,
        Needed::VersionsLoad,
        Needed::VersionsPublish,
    ];
}
