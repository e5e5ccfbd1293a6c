//! The atomics of the memtable, named once: a model checker (loom, shuttle) replaces them here
//! and nowhere else.

pub(super) use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
