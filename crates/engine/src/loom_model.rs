//! What the models for loom share: a run over every interleaving that counts them, and what they saw.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What a model was seen to do.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    executions: Arc<AtomicU64>,
    outcomes: Arc<Mutex<BTreeSet<u64>>>,
}

impl Seen {
    /// Notes how an interleaving ended.
    pub(crate) fn outcome(&self, outcome: u64) {
        self.outcomes.lock().unwrap().insert(outcome);
    }

    /// How the interleavings ended, each once.
    pub(crate) fn outcomes(&self) -> BTreeSet<u64> {
        self.outcomes.lock().unwrap().clone()
    }

    /// How many interleavings there were.
    pub(crate) fn executions(&self) -> u64 {
        self.executions.load(Relaxed)
    }
}

/// Explores a model: `body` runs once for each interleaving.
pub(crate) fn model(body: impl Fn(&Seen) + Sync + Send + 'static) -> Seen {
    let seen = Seen::default();
    let inner = seen.clone();
    loom::model(move || {
        inner.executions.fetch_add(1, Relaxed);
        body(&inner);
    });
    seen
}
