//! A partition: the index of a run of data blocks, small enough to be fetched alone, so that a table
//! whose index does not fit in memory is looked up with one small read for it.
//!
//! ```text
//! partition := start:varint index
//! ```
//!
//! `start` is the offset of the first data block; `index` is that of its module. The partitions of a
//! table lie end to end behind its data, their runs end to end from the start of the file. Each is of at
//! most 64 data blocks, and about as long as one of them at most.

use std::mem::take;

use cairn_codec::{DecodeError, Reader, Write};

use crate::index::{Index, IndexBuilder};

/// Data blocks of a partition: what a search compares are 16 lines of the processor's cache, of which it touches
/// nine or so, nearly all at the same time. Those of 450 blocks, which 4 KiB hold and which are bisected, made a get of a hot key an eighth slower: the index
/// over the partitions, where a search begins, is in the processor's cache, and they mostly are not.
const PARTITION_BLOCKS_MAX: usize = 64;

/// Collects the partitions of a table while its data is written.
pub(crate) struct PartitionsBuilder {
    partition_bytes: usize,
    /// Where the run of the current partition begins.
    start: u64,
    blocks: IndexBuilder,
    /// The finished ones, one after the other.
    finished: Vec<u8>,
    /// Over the finished ones.
    index: IndexBuilder,
    data_blocks: u64,
}

impl PartitionsBuilder {
    pub(crate) fn new(options: &crate::TableOptions) -> PartitionsBuilder {
        PartitionsBuilder {
            partition_bytes: options.block_bytes,
            start: 0,
            blocks: IndexBuilder::default(),
            finished: Vec::new(),
            index: IndexBuilder::default(),
            data_blocks: 0,
        }
    }

    /// Adds a data block, as [`IndexBuilder::add`]; `end` is where it ends in the file.
    pub(crate) fn add_block(&mut self, last: (&[u8], u64), next_key: Option<&[u8]>, payload_len: usize, end: u64) {
        self.blocks.add(last.0, last.1, next_key, payload_len);
        self.data_blocks += 1;
        let full =
            self.blocks.block_count() >= PARTITION_BLOCKS_MAX || self.blocks.estimated_bytes() >= self.partition_bytes;
        if full || next_key.is_none() {
            self.end_partition(end);
        }
    }

    fn end_partition(&mut self, end: u64) {
        let began = self.finished.len();
        self.finished.put_varint(self.start);
        self.blocks.encode(&mut self.finished);
        self.index.add_partition(&self.blocks, self.finished.len() - began);
        self.blocks.clear();
        self.start = end;
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
        self.finished.len() + self.index.estimated_bytes() + self.blocks.estimated_bytes()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.finished.capacity() + self.index.memory_bytes() + self.blocks.memory_bytes()
    }
}

/// Decodes a partition of a table whose data ends at `data_end`: the index of its run.
pub(crate) fn decode(bytes: &[u8], data_end: u64) -> Result<Index, DecodeError> {
    let mut reader = Reader::new(bytes);
    let start = reader.varint()?;
    let index = Index::decode(&mut reader, start)?;
    if index.end() > data_end {
        return Err(reader.error("blocks of the partition run over the end of the data"));
    }
    reader.finish()?;
    Ok(index)
}
