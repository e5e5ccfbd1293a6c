//! The arena: raw bytes that are written once, handed out by increasing address, and freed together.
//!
//! Owns the chunks and the only pointers into them. Refuses to free or to move anything before the
//! whole arena goes, and to hand out a mutable reference to anything.
//!
//! An address ([`At`]) is 32 bits: 9 bits of chunk, 23 bits of eight-byte unit within the chunk.
//! A chunk therefore reaches 64 MiB, and 512 chunks reach 32 GiB. Only the first byte of a record
//! is ever addressed, so a record larger than that stands at the head of a chunk of its own.
//!
//! Chunks grow with the arena: each is a sixteenth of what is allocated already, between the first
//! chunk's size and the maximum, and a record larger than half of that gets its own. So an idle
//! arena is small, the rest of the newest chunk is at most a sixteenth of a large one, and the fixed
//! table, never reallocated under a reader, suffices: every chunk adds a thirty-second at least, and
//! from 1 GiB on 32 MiB at least, so that 6 GiB fit whatever the mix (small records reach 20 GiB).
//! Unit 0 of every chunk holds the chunk's length, which makes zero free to mean "none".
//!
//! Invariants
//! 1. A chunk, once in the table, stays at its address until the arena is dropped.
//! 2. Bytes are written only between the reservation of a record and the return of its [`At`];
//!    afterwards only atomics inside the record change.
//! 3. There is one [`Bump`] for an arena, and an `At` is only used with the arena that made it.

// Measured reason: records of mixed types at 32-bit addresses in one allocation, read without a
// copy, are what makes a lookup three to five loads. Safe alternatives (a Vec of boxed nodes behind
// a lock, or an index per type) either move under readers or double the loads.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc};
use std::array::from_fn;
use std::num::NonZeroU32;
use std::ptr;

use super::atomics::{AtomicPtr, AtomicU64, Ordering};
use super::publish::At;

const UNIT_BYTES: usize = 8;
const UNIT_BITS: u32 = 23;
const UNIT_MASK: u32 = (1 << UNIT_BITS) - 1;
const CHUNK_COUNT_MAX: usize = 512;

/// The largest chunk that is addressable throughout.
pub(super) const CHUNK_BYTES_MAX: usize = UNIT_BYTES << UNIT_BITS;
/// The smallest first chunk; below it the table would fill before growth sets in.
pub(super) const CHUNK_BYTES_MIN: usize = 64;

// Every 32-bit address falls into the table: the chunk number is what remains above the unit bits.
const _: () = assert!(CHUNK_COUNT_MAX << UNIT_BITS == 1 << 32);

/// A record type: a `repr(C)` header, then possibly bytes (the tail) whose number the header knows.
///
/// # Safety
/// `Self` is aligned to at most eight bytes and may be shared between threads; no field but
/// atomics ever changes; `TAIL_AT` is not before the end of the last field; `tail_len` answers the
/// same for as long as the record lives.
pub(super) unsafe trait Record: Sized + Sync + 'static {
    /// Offset of the tail. It may lie in the padding at the header's end.
    const TAIL_AT: usize = size_of::<Self>();

    /// Bytes in the tail.
    fn tail_len(&self) -> usize {
        0
    }
}

/// The arena has no address or the system no memory left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArenaFull;

/// The readers' side, shared.
pub(super) struct Arena {
    /// Filled from the front. A reader may load relaxed: it came by its `At` through an acquire
    /// load, and the chunk was stored before that `At` was published.
    chunks: [AtomicPtr<u64>; CHUNK_COUNT_MAX],
    allocated_bytes: AtomicU64,
    unused_bytes: AtomicU64,
    #[cfg(loom)]
    shadow: super::shadow::Shadow,
}

/// The writer's side: where the next record goes. Unique for its arena.
pub(super) struct Bump {
    /// Chunks in the table so far, those of single records included.
    chunk_count: u32,
    /// The chunk that is being filled.
    chunk: u32,
    next: u32,
    end: u32,
    chunk_bytes_first: usize,
    chunk_bytes_max: usize,
}

impl Arena {
    /// An arena without memory; chunks are allocated as records come.
    pub(super) fn new(chunk_bytes_first: usize, chunk_bytes_max: usize) -> (Arena, Bump) {
        let chunk_bytes_max = chunk_bytes_max.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let arena = Arena {
            chunks: from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            allocated_bytes: AtomicU64::new(0),
            unused_bytes: AtomicU64::new(0),
            #[cfg(loom)]
            shadow: super::shadow::Shadow::default(),
        };
        let bump = Bump {
            chunk_count: 0,
            chunk: 0,
            next: 0,
            end: 0,
            chunk_bytes_first: chunk_bytes_first.clamp(CHUNK_BYTES_MIN, chunk_bytes_max),
            chunk_bytes_max,
        };
        (arena, bump)
    }

    /// Bytes of all chunks.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    /// Bytes at the ends of chunks that were left because the next record did not fit.
    pub(super) fn unused_bytes(&self) -> u64 {
        self.unused_bytes.load(Ordering::Relaxed)
    }

    /// The record at an address.
    #[inline]
    pub(super) fn get<T: Record>(&self, at: At<T>) -> &T {
        #[cfg(loom)]
        self.shadow.read(at.unit());
        // SAFETY: an `At<T>` exists only for a finished `T` of this arena (`At::new`, invariant 3), which
        // stays where it is while `self` lives (invariant 1) and changes only in its atomics (2).
        unsafe { &*self.address(at.unit()).cast::<T>() }
    }

    /// The bytes behind a record's header.
    #[inline]
    pub(super) fn tail<T: Record>(&self, at: At<T>) -> &[u8] {
        let len = self.get(at).tail_len();
        // SAFETY: `push` reserved and wrote `tail_len` bytes at `TAIL_AT`, and `Record` promises that the
        // length is the same now; tails hold no atomics, so they never change (invariant 2).
        unsafe { std::slice::from_raw_parts(self.address(at.unit()).cast::<u8>().add(T::TAIL_AT), len) }
    }

    /// Writes a record and its tail. Nothing is visible to a reader until the answer is published.
    pub(super) fn push<T: Record>(&self, bump: &mut Bump, record: T, tail: &[u8]) -> Result<At<T>, ArenaFull> {
        const { assert!(align_of::<T>() <= UNIT_BYTES && !std::mem::needs_drop::<T>()) };
        assert_eq!(record.tail_len(), tail.len(), "a record knows the length of its tail");
        let bytes = size_of::<T>().max(T::TAIL_AT + tail.len());
        let unit = self.reserve(bump, bytes)?;
        let start = self.address(unit);
        #[cfg(loom)]
        self.shadow.write(unit);
        // SAFETY: `reserve` answered a unit that begins `bytes` bytes nobody else was given, aligned to
        // eight; header and tail lie within them, the tail not before the header's last field.
        unsafe {
            start.cast::<T>().write(record);
            ptr::copy_nonoverlapping(tail.as_ptr(), start.cast::<u8>().add(T::TAIL_AT), tail.len());
            Ok(At::new(unit))
        }
    }

    /// The memory of a unit that `reserve` answered.
    #[inline]
    fn address(&self, unit: NonZeroU32) -> *mut u64 {
        let unit = unit.get();
        let chunk = self.chunks[(unit >> UNIT_BITS) as usize].load(Ordering::Relaxed);
        // SAFETY: `reserve` answers only units inside a chunk that is in the table, and the table's entry
        // is visible to whoever holds the unit (see `chunks`).
        unsafe { chunk.add((unit & UNIT_MASK) as usize) }
    }

    fn reserve(&self, bump: &mut Bump, bytes: usize) -> Result<NonZeroU32, ArenaFull> {
        let units = bytes.div_ceil(UNIT_BYTES);
        if units > (bump.end - bump.next) as usize {
            let allocated = usize::try_from(self.allocated_bytes()).unwrap_or(usize::MAX);
            let chunk_bytes = (allocated / 16).clamp(bump.chunk_bytes_first, bump.chunk_bytes_max);
            // A record that would take most of a chunk gets its own, so that the rest of the current one
            // is not lost.
            if bytes > chunk_bytes / 2 {
                let chunk = self.add_chunk(bump, 1 + units)?;
                return unit(chunk, 1);
            }
            let chunk_units = u32::try_from(chunk_bytes / UNIT_BYTES).map_err(|_| ArenaFull)?;
            let chunk = self.add_chunk(bump, chunk_units as usize)?;
            let unused = u64::from(bump.end - bump.next) * UNIT_BYTES as u64;
            self.unused_bytes.store(self.unused_bytes() + unused, Ordering::Relaxed);
            (bump.chunk, bump.next, bump.end) = (chunk, 1, chunk_units);
        }
        let first = unit(bump.chunk, bump.next)?;
        bump.next += u32::try_from(units).map_err(|_| ArenaFull)?;
        Ok(first)
    }

    /// Allocates a chunk of so many units and enters it into the table.
    fn add_chunk(&self, bump: &mut Bump, units: usize) -> Result<u32, ArenaFull> {
        let number = bump.chunk_count;
        let entry = self.chunks.get(number as usize).ok_or(ArenaFull)?;
        let layout = Layout::array::<u64>(units).map_err(|_| ArenaFull)?;
        // SAFETY: `units` is at least one, so the layout is not empty. The length goes to unit 0, where
        // `drop` finds it.
        let chunk = unsafe {
            let chunk = alloc(layout).cast::<u64>();
            if chunk.is_null() {
                return Err(ArenaFull);
            }
            chunk.write(units as u64);
            chunk
        };
        entry.store(chunk, Ordering::Relaxed);
        bump.chunk_count += 1;
        self.allocated_bytes.store(self.allocated_bytes() + layout.size() as u64, Ordering::Relaxed);
        Ok(number)
    }
}

fn unit(chunk: u32, unit: u32) -> Result<NonZeroU32, ArenaFull> {
    NonZeroU32::new(chunk << UNIT_BITS | unit).ok_or(ArenaFull)
}

impl Drop for Arena {
    fn drop(&mut self) {
        for entry in &self.chunks {
            let chunk = entry.load(Ordering::Relaxed);
            if chunk.is_null() {
                break;
            }
            // SAFETY: `add_chunk` allocated it with this layout and wrote the number of units to its head;
            // records need no drop (`push` asserts it) and no reader is left, for `self` is exclusive.
            unsafe {
                let units = usize::try_from(chunk.read()).unwrap_or(0);
                if let Ok(layout) = Layout::array::<u64>(units) {
                    dealloc(chunk.cast::<u8>(), layout);
                }
            }
        }
    }
}
