//! How much of the log an open would have to replay, by segment.
//!
//! The leader adds what it appends; a flush takes away the segments before the log's new start.
//! The writer's own list is behind `lead`, which a stalled leader holds while it waits for that
//! very flush; hence this one, behind a leaf lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of groups by segment.
#[derive(Debug, Default)]
pub(crate) struct LogSpace {
    segments: Mutex<BTreeMap<u64, u64>>,
    current: AtomicU64,
    live: AtomicU64,
}

impl LogSpace {
    /// Counts a group.
    pub(crate) fn appended(&self, segment: u64, bytes: u64) {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        *segments.entry(segment).or_default() += bytes;
        self.live.fetch_add(bytes, Ordering::Relaxed);
        self.current.store(segment, Ordering::Release);
    }

    /// The segment of the last group.
    pub(crate) fn current_segment(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// The first segment that is still needed.
    pub(crate) fn start(&self) -> u64 {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.first_key_value().map_or(0, |(id, _)| *id)
    }

    /// Bytes from the log's start on.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Forgets the segments before `start` and returns their ids.
    pub(crate) fn release_before(&self, start: u64) -> Vec<u64> {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = segments.split_off(&start);
        let gone = std::mem::replace(&mut *segments, kept);
        self.live.fetch_sub(gone.values().sum(), Ordering::Relaxed);
        gone.into_keys().collect()
    }
}
