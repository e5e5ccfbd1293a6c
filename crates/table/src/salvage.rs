//! What can still be read of a damaged table: all its entries in order, less those of the data
//! blocks and partitions that are damaged.
//!
//! Owns the judgement of what is lost with a block: the index that leads to it also tells the range
//! of its keys. A block is judged whole before any entry of it is given out: its checksum, that it
//! decodes, and that its entries are in order and lie where the index says. What the file system
//! cannot read is as good as damaged. The filter is not asked, and damage in it costs nothing. Refuses a table without a sound footer, properties and index:
//! [`Table::open`] does not open it, and it is lost whole.
//!
//! Invariant: `entry` stands in `block`, and `key` is its key; the rest of the block has been judged.

use std::fmt;
use std::sync::Arc;

use crate::block::Entry;
use crate::footer::Handle;
use crate::index::Index;
use crate::{Block, Error, Result, Table};

/// Entries of a table that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where the damaged block begins.
    pub offset: u64,
    /// What is wrong with it.
    pub what: String,
    /// The keys of the lost entries lie from here
    pub from: Vec<u8>,
    /// to here, both included.
    pub to: Vec<u8>,
}

/// A walk over the readable entries, in the order of the table; begins before the first.
pub struct Salvage {
    table: Arc<Table>,
    /// The partition at hand, and the numbers of what comes after it and after the block at hand.
    partition: Option<Index>,
    next_partition: usize,
    next_block: usize,
    block: Option<Block>,
    entry: Option<Entry>,
    key: Vec<u8>,
    /// The separator before the next block; the entries behind it sort after it. None at the start.
    before: Option<(Vec<u8>, u64)>,
}

impl fmt::Debug for Salvage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salvage({}, at \"{}\" {})", self.table.path().display(), self.key().escape_ascii(), self.seq())
    }
}

impl Salvage {
    /// Begins before the first entry of `table`.
    pub fn new(table: Arc<Table>) -> Salvage {
        Salvage {
            table,
            partition: None,
            next_partition: 0,
            next_block: 0,
            block: None,
            entry: None,
            key: Vec::new(),
            before: None,
        }
    }

    /// Whether it stands on an entry.
    pub fn valid(&self) -> bool {
        self.entry.is_some()
    }

    /// The user key.
    pub fn key(&self) -> &[u8] {
        if self.valid() { &self.key } else { &[] }
    }

    /// The sequence number.
    pub fn seq(&self) -> u64 {
        self.entry.map_or(0, |entry| entry.seq)
    }

    /// The kind.
    pub fn kind(&self) -> u8 {
        self.entry.map_or(0, |entry| entry.kind)
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        match (&self.entry, &self.block) {
            (Some(entry), Some(block)) => block.data().map_or(&[], |data| data.value(entry.number)),
            _ => &[],
        }
    }

    /// Moves to the next entry that can be read; not valid behind the last. Tells `lost` what it
    /// passes over.
    pub fn step(&mut self, lost: &mut dyn FnMut(Lost)) {
        if self.step_in_block() {
            return;
        }
        self.block = None;
        while let Some((handle, to)) = self.next_handle(lost) {
            let from = self.before.take();
            match self.judged(handle, from.as_ref(), &to) {
                Ok(block) => {
                    self.block = Some(block);
                    self.before = Some(to);
                    if self.take(0) {
                        return;
                    }
                }
                Err(e) => {
                    lost(self.lost(&e, handle, from, to.0.clone()));
                    self.before = Some(to);
                }
            }
        }
    }

    fn step_in_block(&mut self) -> bool {
        let Some(entry) = self.entry.take() else { return false };
        self.take(entry.number + 1)
    }

    /// Moves to an entry of the block, if it has that.
    fn take(&mut self, number: usize) -> bool {
        let Some(Ok(data)) = self.block.as_ref().map(Block::data) else { return false };
        self.entry = data.entry(number);
        if self.entry.is_some() {
            data.set_key(&mut self.key, number);
        }
        self.entry.is_some()
    }

    /// Where the next data block lies, and the separator that ends it.
    fn next_handle(&mut self, lost: &mut dyn FnMut(Lost)) -> Option<(Handle, (Vec<u8>, u64))> {
        loop {
            if let Some(index) = &self.partition {
                if let Some(handle) = index.handle(self.next_block) {
                    let to = (index.separator(self.next_block), index.seq(self.next_block));
                    self.next_block += 1;
                    return Some((handle, to));
                }
                self.partition = None;
            }
            let number = self.next_partition;
            let handle = self.table.index().handle(number)?;
            self.next_partition += 1;
            self.next_block = 0;
            match self.table.load_partition(handle) {
                Ok(partition) => self.partition = Some(partition),
                Err(e) => {
                    let index = self.table.index();
                    let to = (index.separator(number), index.seq(number));
                    let from = self.before.replace(to.clone());
                    lost(self.lost(&e, handle, from, to.0));
                }
            }
        }
    }

    /// The block at `handle` if all of it is as it must be.
    fn judged(&self, handle: Handle, from: Option<&(Vec<u8>, u64)>, to: &(Vec<u8>, u64)) -> Result<Block> {
        let table = &self.table;
        let wrong = |what: &'static str| Error::corrupt(table.path(), handle.offset, what);
        let block = table.load_data(handle)?;
        let data = block.data().map_err(table.damaged(handle))?;
        let (mut key, mut last) = (Vec::new(), from.cloned());
        for number in 0..data.count() {
            let entry_seq = data.seq(number);
            data.set_key(&mut key, number);
            let after = |(k, seq): &(Vec<u8>, u64)| k.as_slice().cmp(&key).then(entry_seq.cmp(seq)).is_lt();
            if !last.as_ref().is_none_or(after) {
                return Err(wrong("entries are out of order"));
            }
            let (last_key, last_seq) = last.get_or_insert_default();
            last_key.clone_from(&key);
            *last_seq = entry_seq;
        }
        match last {
            Some((key, seq)) if key.cmp(&to.0).then(to.1.cmp(&seq)).is_gt() => {
                Err(wrong("the block ends after its separator"))
            }
            _ => Ok(block),
        }
    }

    fn lost(&self, e: &Error, handle: Handle, from: Option<(Vec<u8>, u64)>, to: Vec<u8>) -> Lost {
        let (offset, what) = match e {
            Error::Corrupt { offset, what, .. } => (*offset, what.to_string()),
            e => (handle.offset, e.to_string()),
        };
        let summary = self.table.summary();
        Lost {
            offset,
            what,
            from: from.map_or_else(|| summary.smallest_key.clone(), |(key, _)| key),
            to: to.min(summary.largest_key.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
