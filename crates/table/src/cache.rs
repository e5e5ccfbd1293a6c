//! Blocks in memory, how they are shared, and what the engine's cache must offer.
//!
//! A block is immutable and lives as long as someone holds it: the cache, a cursor, or a value
//! handed out. Each carries a [`Charge`] from the cache it was loaded through, which ends with the
//! block, not with its eviction: so the engine's budget counts what is pinned.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use cairn_codec::DecodeError;

use crate::block::{DataBlock, Layout};
use crate::filter::Piece;
use crate::index::Index;

/// A cache of blocks, shared by all tables of a database.
pub trait BlockCache: Send + Sync {
    /// The block of `table` at `offset`, if it is at hand. Must not wait for I/O.
    fn get(&self, table: u64, offset: u64) -> Option<Arc<Block>>;
    /// Offers a block for keeping. Whether and how long is the cache's affair.
    fn insert(&self, table: u64, offset: u64, block: Arc<Block>);
    /// Called for each block loaded, kept or not, and for what a cursor reads ahead: the guard
    /// returned is dropped with the memory it stands for.
    fn charge(&self, bytes: usize) -> Charge {
        let _ = bytes;
        Charge::none()
    }
}

/// A guard that lives as long as the memory it was taken for.
#[derive(Default)]
pub struct Charge(Option<Box<dyn Send + Sync>>);

impl Charge {
    /// A guard whose drop gives back what was charged.
    pub fn new(guard: impl Send + Sync + 'static) -> Charge {
        Charge(Some(Box::new(guard)))
    }

    /// Nothing to give back.
    pub fn none() -> Charge {
        Charge(None)
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Charge" } else { "Charge::none" })
    }
}

enum Content {
    Data {
        contents: Vec<u8>,
        layout: Layout,
    },
    /// Boxed: it is large and rare, and every data block would pay for its room.
    Partition(Box<Index>),
    Filter(Piece),
}

/// A part of a table in memory: a data block, a partition of its index, or a piece of its filter.
pub struct Block {
    content: Content,
    memory_bytes: usize,
    charge: Charge,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.content {
            Content::Data { .. } => "data",
            Content::Partition(_) => "partition",
            Content::Filter(_) => "filter",
        };
        write!(f, "Block({part}, {} bytes, {:?})", self.memory_bytes, self.charge)
    }
}

const MISFILED: DecodeError = DecodeError { offset: 0, what: "the cache returned another kind of block" };

impl Block {
    pub(crate) fn of_data(contents: Vec<u8>) -> Result<Block, DecodeError> {
        let layout = Layout::parse(&contents)?;
        let held = contents.capacity();
        Ok(Block::new(Content::Data { contents, layout }, held))
    }

    pub(crate) fn of_partition(partition: Index) -> Block {
        let held = size_of::<Index>() + partition.memory_bytes();
        Block::new(Content::Partition(Box::new(partition)), held)
    }

    pub(crate) fn of_filter(piece: Piece) -> Block {
        let held = piece.memory_bytes();
        Block::new(Content::Filter(piece), held)
    }

    fn new(content: Content, held: usize) -> Block {
        Block { content, memory_bytes: held + size_of::<Block>(), charge: Charge::none() }
    }

    pub(crate) fn charged(mut self, charge: Charge) -> Block {
        self.charge = charge;
        self
    }

    /// Memory it holds.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(crate) fn data(&self) -> Result<DataBlock<'_>, DecodeError> {
        match &self.content {
            Content::Data { contents, layout } => Ok(DataBlock { contents, layout }),
            _ => Err(MISFILED),
        }
    }

    pub(crate) fn partition(&self) -> Result<&Index, DecodeError> {
        match &self.content {
            Content::Partition(partition) => Ok(partition),
            _ => Err(MISFILED),
        }
    }

    pub(crate) fn filter(&self) -> Result<&Piece, DecodeError> {
        match &self.content {
            Content::Filter(piece) => Ok(piece),
            _ => Err(MISFILED),
        }
    }

    fn contents(&self) -> &[u8] {
        match &self.content {
            Content::Data { contents, .. } => contents,
            _ => &[],
        }
    }
}

/// A value within its block, which it keeps in memory. Cheap to clone.
#[derive(Clone)]
pub struct BlockSlice {
    block: Arc<Block>,
    range: Range<usize>,
}

impl BlockSlice {
    pub(crate) fn new(block: Arc<Block>, range: Range<usize>) -> BlockSlice {
        BlockSlice { block, range }
    }

    /// Memory this value keeps from being freed, its block's others included.
    pub fn pinned_bytes(&self) -> usize {
        self.block.memory_bytes
    }
}

impl Deref for BlockSlice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.block.contents().get(self.range.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for BlockSlice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for BlockSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}
