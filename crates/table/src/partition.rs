//! A partition: what leads to the entries of a run of data blocks, small enough to be fetched alone.
//!
//! One block holds the index of the run and the filter of its keys, so that a table whose index and
//! filter do not fit in memory is looked up with one small read for both (after RocksDB's
//! partitioned index filters). A key whose versions run on into the next partition is in both
//! filters.
//!
//! ```text
//! partition := start:varint index filter?
//! ```
//!
//! `start` is the offset of the first data block; `index` and `filter` are those of their modules,
//! and the filter takes the rest. The partitions of a table lie end to end behind its data, their
//! runs end to end from the start of the file, and each is about as long as a data block.

use std::mem::take;

use cairn_codec::{DecodeError, Reader, Write};

use crate::filter::Filter;
use crate::index::{Index, IndexBuilder};

/// Collects the partitions of a table while its data is written.
pub(crate) struct PartitionsBuilder {
    table_id: u64,
    partition_bytes: usize,
    filter_bits_per_key: u32,
    filter_hashes: Option<u32>,
    /// Where the run of the current partition begins.
    start: u64,
    blocks: IndexBuilder,
    /// The hash of each distinct user key of the run.
    hashes: Vec<u64>,
    /// The finished ones, one after the other.
    finished: Vec<u8>,
    /// Over the finished ones.
    index: IndexBuilder,
    data_blocks: u64,
}

impl PartitionsBuilder {
    pub(crate) fn new(table_id: u64, options: &crate::TableOptions) -> PartitionsBuilder {
        PartitionsBuilder {
            table_id,
            partition_bytes: options.block_bytes,
            filter_bits_per_key: options.filter_bits_per_key,
            filter_hashes: options.filter_hashes,
            start: 0,
            blocks: IndexBuilder::default(),
            hashes: Vec::new(),
            finished: Vec::new(),
            index: IndexBuilder::default(),
            data_blocks: 0,
        }
    }

    /// Adds the key of the next entry, which is `new` or that of the entry before.
    pub(crate) fn add_key(&mut self, hash: u64, new: bool) {
        if self.filter_bits_per_key > 0 && (new || self.hashes.is_empty()) {
            self.hashes.push(hash);
        }
    }

    /// Adds a data block, as [`IndexBuilder::add`]; `end` is where it ends in the file. Its keys have
    /// been added; those of the next have not.
    pub(crate) fn add_block(&mut self, last: (&[u8], u64), next_key: Option<&[u8]>, payload_len: usize, end: u64) {
        self.blocks.add(last.0, last.1, next_key, payload_len);
        self.data_blocks += 1;
        if next_key.is_none() || self.blocks.estimated_bytes() + self.filter_bytes() >= self.partition_bytes {
            self.end_partition(end);
        }
    }

    fn end_partition(&mut self, end: u64) {
        let began = self.finished.len();
        self.finished.put_varint(self.start);
        self.blocks.encode(&mut self.finished);
        if self.filter_bits_per_key > 0 {
            Filter::build(&self.hashes, self.filter_bits_per_key, self.filter_hashes, self.table_id)
                .encode(&mut self.finished);
        }
        self.index.add_partition(&self.blocks, self.finished.len() - began);
        self.blocks.clear();
        self.hashes.clear();
        self.start = end;
    }

    fn filter_bytes(&self) -> usize {
        self.hashes.len() * self.filter_bits_per_key as usize / 8
    }

    /// Data blocks added.
    pub(crate) fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Takes the finished partitions, and the index over them.
    pub(crate) fn finish(&mut self) -> (Vec<u8>, IndexBuilder) {
        (take(&mut self.finished), take(&mut self.index))
    }

    /// About how long partitions and index would be if they were finished now.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.finished.len() + self.index.estimated_bytes() + self.blocks.estimated_bytes() + self.filter_bytes()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.finished.capacity()
            + self.index.memory_bytes()
            + self.blocks.memory_bytes()
            + self.hashes.capacity() * size_of::<u64>()
    }
}

/// A partition in memory.
pub(crate) struct Partition {
    index: Index,
    filter: Option<Filter>,
}

impl Partition {
    /// Decodes a partition of a table whose data ends at `data_end`; `filter_of` is its id if it has
    /// filters.
    pub(crate) fn decode(bytes: &[u8], data_end: u64, filter_of: Option<u64>) -> Result<Partition, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.varint()?;
        let index = Index::decode(&mut reader, start)?;
        if index.end() > data_end {
            return Err(reader.error("blocks of the partition run over the end of the data"));
        }
        let filter = match filter_of {
            Some(table_id) => Some(Filter::decode(reader.bytes(reader.remaining())?, table_id)?),
            None => None,
        };
        reader.finish()?;
        Ok(Partition { index, filter })
    }

    /// The index of the run.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// False only if no key of the run has this hash.
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }

    /// Memory it holds, itself not counted.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.filter.as_ref().map_or(0, Filter::memory_bytes)
    }
}
