//! The check of a whole table, from its file alone.
//!
//! Reads everything anew, past the cache, and compares every part with every other: what the
//! lookups rely on (order, indexes, filters, hash index) and what the manifest relies on
//! (the summary). Footer and handles tile the file, so no byte is left out.

use std::cmp::Ordering;

use cairn_codec::hash64;

use crate::block::DataBlock;
use crate::filter::Filter;
use crate::footer::Handle;
use crate::table::{read_footer, read_index, read_properties};
use crate::{Error, Result, Table, TableSummary};

impl Table {
    /// Checks every byte and every promise of the format; returns at the first that is broken.
    ///
    /// `progress` is called after each block with how many bytes of the file are done.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place; [`Error::Io`].
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let (file, path) = (self.file(), self.path());
        let file_bytes = file.len()?;
        let footer = read_footer(file, file_bytes)?;
        let properties = read_properties(file, &footer, self.seal(), file_bytes)?;
        if footer != *self.footer() || properties.summary != *self.summary() || properties.options != *self.options() {
            return Err(Error::corrupt(path, footer.properties.offset, "the file changed while it was open"));
        }
        let found = TableSummary::new(self.id(), self.summary().owner);
        let mut walk = Walk { table: self, before: None, found, key: Vec::new(), seq: 0 };
        let index = read_index(file, &footer, self.seal())?;
        let filter = self.load_filter()?;
        let mut data_end = 0;
        for (number, at) in index.handles().enumerate() {
            let blocks = self.load_partition(at)?;
            if blocks.start() != data_end {
                return Err(Error::corrupt(path, at.offset, "the partition does not begin where the one before ends"));
            }
            for (number, handle) in blocks.handles().enumerate() {
                let block = self.load_data(handle)?;
                walk.block(handle, block.data().map_err(self.damaged(handle))?, filter.as_ref())?;
                walk.end_block(handle, blocks.separator(number), blocks.seq(number))?;
                progress(handle.end().unwrap_or(file_bytes));
            }
            if walk.before != Some((index.separator(number), index.seq(number))) {
                return Err(Error::corrupt(path, at.offset, "the partition does not end with its separator"));
            }
            data_end = blocks.end();
        }
        if data_end != footer.data_end {
            return Err(Error::corrupt(path, footer.index.offset, "the partitions do not cover the data"));
        }
        let Walk { found, key, .. } = walk;
        let found = TableSummary { file_bytes, largest_key: key, ..found };
        if found != *self.summary() {
            let what = format!("properties and data disagree: {:?} against {found:?}", self.summary());
            return Err(Error::corrupt(path, footer.properties.offset, what));
        }
        progress(file_bytes);
        Ok(())
    }
}

/// All entries in order, counted, with the last one seen.
struct Walk<'a> {
    table: &'a Table,
    /// The separator of the block before.
    before: Option<(Vec<u8>, u64)>,
    found: TableSummary,
    key: Vec<u8>,
    seq: u64,
}

/// The order of entries.
fn order(a: (&[u8], u64), b: (&[u8], u64)) -> Ordering {
    a.0.cmp(b.0).then(b.1.cmp(&a.1))
}

impl Walk<'_> {
    fn block(&mut self, handle: Handle, data: DataBlock<'_>, filter: Option<&Filter>) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::corrupt(self.table.path(), handle.offset, what));
        let mut key = Vec::new();
        let mut firsts = Vec::new();
        for number in 0..data.count() {
            let Some(entry) = data.entry(number) else { break };
            data.set_key(&mut key, number);
            let first = self.found.entries == 0;
            if !first && order((&self.key, self.seq), (&key, entry.seq)) != Ordering::Less {
                return wrong("entries are out of order");
            }
            let new_key = first || self.key != key;
            if number == 0 && self.before.as_ref().is_some_and(|(k, seq)| order((k, *seq), (&key, entry.seq)).is_ge()) {
                return wrong("the block begins before the separator of the block before");
            }
            if new_key || number == 0 {
                let hash = hash64(&key, self.table.options().hash_seed);
                if filter.is_some_and(|filter| !filter.may_contain(hash)) {
                    return wrong("the filter denies a key of this block");
                }
                firsts.push((number, hash));
            }
            if first {
                self.found.smallest_key.clone_from(&key);
            }
            let value_len = entry.value_end - entry.value_at;
            self.found.count(new_key, key.len(), entry.seq, entry.kind, value_len);
            self.key.clone_from(&key);
            self.seq = entry.seq;
        }
        if !data.hash_index_is(&firsts) {
            return wrong("the hash index misplaces a key");
        }
        self.found.data_blocks += 1;
        Ok(())
    }

    /// Compares where the block ended with its separator.
    fn end_block(&mut self, handle: Handle, key: Vec<u8>, seq: u64) -> Result<()> {
        if order((&self.key, self.seq), (&key, seq)) == Ordering::Greater {
            return Err(Error::corrupt(self.table.path(), handle.offset, "the block ends after its separator"));
        }
        self.before = Some((key, seq));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
