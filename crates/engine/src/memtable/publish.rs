//! Publication: how one writer shows finished bytes to readers that take no lock.
//!
//! Owns the three things through which a reader can find something new: [`Slot`] (the place of a
//! record), [`Mark`] (a small number that validates what was stored before it) and [`KeyWord`]
//! (key bytes, validated by a mark). Knows nothing of chunks or of what a record holds.
//!
//! The protocol
//! 1. The writer fills a record wholly, then stores its place with release ([`Slot::publish`]).
//!    A reader loads with acquire, so it sees the whole record and everything older.
//! 2. Where several stores make one change, the last is a release store of a [`Mark`], and a
//!    reader loads the mark first, with acquire.
//! 3. There is one writer, so a store never depends on a compare-and-swap.

// `At::new` is an unsafe function: an `At` stands for a finished record, and `Arena::get` relies on it.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

use super::atomics::{AtomicU8, AtomicU32, Needed, Ordering, order};

/// The place of a record of type `T` in its arena, in units of eight bytes.
pub(super) struct At<T> {
    unit: NonZeroU32,
    of: PhantomData<fn() -> T>,
}

impl<T> At<T> {
    /// # Safety
    /// A wholly written record of type `T` stands at `unit` of the one arena this value is used with.
    #[inline]
    pub(super) unsafe fn new(unit: NonZeroU32) -> At<T> {
        At { unit, of: PhantomData }
    }

    #[inline]
    pub(super) fn unit(self) -> NonZeroU32 {
        self.unit
    }
}

impl<T> Clone for At<T> {
    fn clone(&self) -> At<T> {
        *self
    }
}

impl<T> Copy for At<T> {}

impl<T> PartialEq for At<T> {
    fn eq(&self, other: &At<T>) -> bool {
        self.unit == other.unit
    }
}

impl<T> fmt::Debug for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:x}", self.unit)
    }
}

/// Where a reader finds a record, or that there is none yet.
#[repr(transparent)]
pub(super) struct Slot<T> {
    /// Zero for none; else the unit of an [`At<T>`] that was given to [`Slot::publish`] or [`Slot::of`].
    unit: AtomicU32,
    of: PhantomData<fn() -> T>,
}

impl<T> Slot<T> {
    pub(super) fn empty() -> Slot<T> {
        Slot { unit: AtomicU32::new(0), of: PhantomData }
    }

    /// A slot in a record that is not yet published itself.
    pub(super) fn of(at: Option<At<T>>) -> Slot<T> {
        Slot { unit: AtomicU32::new(at.map_or(0, |at| at.unit.get())), of: PhantomData }
    }

    #[inline]
    pub(super) fn load(&self) -> Option<At<T>> {
        NonZeroU32::new(self.unit.load(order(Needed::SlotLoad))).map(|unit| At { unit, of: PhantomData })
    }

    #[inline]
    pub(super) fn publish(&self, at: At<T>) {
        self.unit.store(at.unit.get(), order(Needed::SlotPublish));
    }
}

/// A count or an index plus one, stored after all that it makes valid.
#[repr(transparent)]
pub(super) struct Mark(AtomicU8);

impl Mark {
    pub(super) fn new(value: u8) -> Mark {
        Mark(AtomicU8::new(value))
    }

    #[inline]
    pub(super) fn load(&self) -> u8 {
        self.0.load(order(Needed::MarkLoad))
    }

    #[inline]
    pub(super) fn publish(&self, value: u8) {
        self.0.store(value, order(Needed::MarkPublish));
    }
}

/// Four key bytes, the first in the lowest bits; those below a [`Mark`] loaded before are valid.
#[repr(transparent)]
pub(super) struct KeyWord(AtomicU32);

impl KeyWord {
    pub(super) fn new(word: u32) -> KeyWord {
        KeyWord(AtomicU32::new(word))
    }

    #[inline]
    pub(super) fn load(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Visible to a reader only once a mark has been published.
    #[inline]
    pub(super) fn store(&self, word: u32) {
        self.0.store(word, Ordering::Relaxed);
    }
}
