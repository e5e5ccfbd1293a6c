//! How a table is written, and the limits of what it holds.

use crate::{Error, Result};

/// Longest user key, in bytes; the shortest has one.
pub const KEY_BYTES_MAX: usize = 65_535;

/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The one kind of entry a table knows by its number: it is counted as a tombstone.
pub const KIND_TOMBSTONE: u8 = 0;

/// How the payload of data blocks is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4, for each block where it saves at least an eighth.
    #[default]
    Lz4,
}

/// How a table is written. Readers need none of it: a table says itself how it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Aim for the content of a data block, 64 B to 1 MiB. An entry beyond it gets a block of its own.
    pub block_bytes: usize,
    /// Compression of data blocks.
    pub compression: Compression,
    /// Size of the filter, 0 (no filter) to 64 bits a key.
    pub filter_bits_per_key: u32,
    /// Probes of the filter a key, 1 to 16; `None` picks what suits the bits. Of a table read: what was picked.
    pub filter_hashes: Option<u32>,
    /// Whether data blocks carry a hash index, which spares point lookups the search within a block.
    pub hash_index: bool,
    /// The database's seed for [`cairn_codec::hash64`]; the same for all its tables.
    pub hash_seed: u64,
}

impl Default for TableOptions {
    fn default() -> TableOptions {
        TableOptions {
            block_bytes: 4096,
            compression: Compression::default(),
            filter_bits_per_key: 10,
            filter_hashes: None,
            hash_index: true,
            hash_seed: 0,
        }
    }
}

const BLOCK_BYTES: std::ops::RangeInclusive<usize> = 64..=1 << 20;
const FILTER_BITS_MAX: u32 = 64;

impl TableOptions {
    pub(crate) fn check(&self) -> Result<()> {
        if !BLOCK_BYTES.contains(&self.block_bytes) {
            return Err(Error::Invalid { what: "block_bytes must be 64 to 1048576" });
        }
        if self.filter_bits_per_key > FILTER_BITS_MAX {
            return Err(Error::Invalid { what: "filter_bits_per_key must be at most 64" });
        }
        if self.filter_hashes.is_some_and(|k| !(1..=crate::filter::HASHES_MAX).contains(&k)) {
            return Err(Error::Invalid { what: "filter_hashes must be 1 to 16" });
        }
        Ok(())
    }
}
