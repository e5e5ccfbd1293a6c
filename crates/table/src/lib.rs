//! The sorted string table: an immutable file of versioned entries in order, and its readers.
//!
//! Owns: the file format (data blocks, partitions, filter, index, properties, footer), [`TableBuilder`] that
//! writes one, [`Table`] that opens it, answers lookups and hands out a [`TableCursor`], and the
//! check of a whole file ([`Table::verify`]), and [`Salvage`], which reads what damage has left of
//! one. Each grammar stands at the head of the module that
//! encodes and decodes it: `footer` (the file as a whole), `seal` (the envelope of every block),
//! `block`, `partition` with its `index`, `filter`, `properties`.
//! Refuses: names and lifetimes of files, caches and their budgets (the engine implements
//! [`BlockCache`]), and the meaning of an entry's kind, except that kind 0 counts as a tombstone.
//!
//! Invariants
//! 1. Entries are sorted by user key ascending, then by sequence number descending, and no two
//!    share both. [`TableBuilder::add`] refuses anything else.
//! 2. Every byte of a file lies under a checksum, and every checksum is bound to the table, the
//!    database and the offset, so that a stale or misdirected block is not taken for another.
//! 3. For a key and a sequence number the index names the one partition, and that the one data block,
//!    that can hold the newest version no newer than that number; for a key alone its hash names the one
//!    line of the filter, and the one piece that holds it. A lookup reads at most one of each.
//! 4. Bytes read are hostile until checked: damage is [`Error::Corrupt`] with file and offset,
//!    never a wrong value, a panic, or an allocation that the file's length does not warrant.
//! 5. A table never changes, so readers share it without locks.

mod block;
mod builder;
mod cache;
mod cursor;
mod describe;
mod error;
mod filter;
mod footer;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod options;
mod partition;
mod properties;
mod salvage;
mod seal;
mod table;
mod verify;

#[cfg(test)]
mod testing;

pub use builder::TableBuilder;
pub use cache::{Block, BlockCache, BlockSlice, Charge};
pub use cursor::TableCursor;
pub use error::{Error, Result};
pub use footer::FORMAT_VERSION;
pub use options::{Compression, KEY_BYTES_MAX, KIND_TOMBSTONE, TableOptions, VALUE_BYTES_MAX};
pub use properties::TableSummary;
pub use salvage::{Lost, Salvage};
pub use table::{Identity, Load, Lookup, Read, Table};

/// A bijection that spreads every input bit over the whole word (the finaliser of SplitMix64).
#[inline]
fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Maps the upper 32 bits of `hash` evenly to `0..count` without a division.
#[inline]
fn slot(hash: u64, count: u32) -> usize {
    let slot = ((hash >> 32) * u64::from(count)) >> 32;
    usize::try_from(slot).unwrap_or(usize::MAX)
}
