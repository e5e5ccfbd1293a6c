//! An allocator that counts what a test's process holds of the heap.
// The allocator's trait is unsafe to implement; this one only counts and passes on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, with a count of the bytes that are allocated and of the most there were.
/// For a test binary's `#[global_allocator]`.
#[derive(Debug, Default)]
pub struct CountingAllocator {
    live: AtomicU64,
    peak: AtomicU64,
}

impl CountingAllocator {
    /// Nothing counted yet.
    pub const fn new() -> CountingAllocator {
        CountingAllocator { live: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// Bytes allocated now.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The most bytes that were allocated at a time, since the last [`CountingAllocator::reset_peak`].
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Begins the peak anew with what is allocated now, and says how much that is.
    pub fn reset_peak(&self) -> u64 {
        let live = self.live();
        self.peak.store(live, Ordering::Relaxed);
        live
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bytes = layout.size() as u64;
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as above; `pointer` came from `alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
