//! The plain bytes of the arena, as the model checker sees them: only built with `--cfg loom`.
//!
//! The checker knows its own cells, not raw memory. So each record has a cell beside it, which is
//! written with the record and read whenever the record is: a reader that comes by a record without
//! everything that the writer did before fails as a data race, whatever the bytes happen to be.

// The checker's cell leaves it to its user to say that it may be shared.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use loom::cell::UnsafeCell;

struct Watched(UnsafeCell<()>);

// SAFETY: there is no data in it, and the checker reports every access that is not ordered.
unsafe impl Sync for Watched {}

/// A cell for each record, by its unit. The map itself is no part of the model: its lock is the
/// system's, and nothing of the checker is called under it.
#[derive(Default)]
pub(super) struct Shadow(Mutex<BTreeMap<NonZeroU32, Arc<Watched>>>);

impl Shadow {
    fn cell(&self, unit: NonZeroU32) -> Arc<Watched> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cells.entry(unit).or_insert_with(|| Arc::new(Watched(UnsafeCell::new(())))))
    }

    /// The record is being written.
    pub(super) fn write(&self, unit: NonZeroU32) {
        self.cell(unit).0.with_mut(|_| ());
    }

    /// The record is being read.
    pub(super) fn read(&self, unit: NonZeroU32) {
        self.cell(unit).0.with(|_| ());
    }
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shadow")
    }
}
