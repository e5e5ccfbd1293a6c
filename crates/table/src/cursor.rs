//! A cursor over the entries of one table, in both directions.
//!
//! It owns what it needs (the table, the block it stands in) and may move between threads. The key
//! is put together in one buffer.
//!
//! Invariants
//! 1. `number` is set only while `block` has that entry and `key` is its key. Every move takes it away
//!    first, so that a failed move leaves the cursor invalid. `seq` and `kind` are that entry's then; where
//!    its value is, is looked up when it is asked for: many entries that a merge passes are hidden.
//! 2. `begins_key` may be false for the first entry of a key, and is never true for another.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use cairn_codec::same;

use crate::block::DataBlock;
use crate::footer::Handle;
use crate::index::Index;
use crate::seal::TRAILER_BYTES;
use crate::table::{Held, read_stored, read_stored_into};
use crate::{Block, BlockSlice, Charge, Error, Result, Table};

/// The first step of reading ahead.
const READAHEAD_BYTES_MIN: usize = 8 << 10;

/// Longer keys make the buffer grow.
const KEY_BYTES_EXPECTED: usize = 64;

/// A position among the entries of a table, which are sorted by key ascending, then by sequence
/// number descending. Starts, and ends, out of position: then it is not [`TableCursor::valid`], its
/// key and value are empty, and `next` and `prev` do nothing. An error leaves it so as well.
pub struct TableCursor {
    table: Arc<Table>,
    fill_cache: bool,
    /// The partition last visited, and its number.
    partition: Option<(usize, Held)>,
    /// The block last visited, and where it stands.
    block: Option<(Place, Handle, Arc<Block>)>,
    /// The entry's number in that block.
    number: Option<usize>,
    seq: u64,
    kind: u8,
    key: Vec<u8>,
    /// The entry is known to be the first of its key in the table.
    begins_key: bool,
    ahead: Ahead,
}

/// The number of a partition and of a block within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: usize,
    block: usize,
}

impl fmt::Debug for TableCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableCursor({}, at \"{}\" {})", self.table.path().display(), self.key().escape_ascii(), self.seq())
    }
}

impl TableCursor {
    pub(crate) fn new(table: Arc<Table>, fill_cache: bool, readahead_bytes_max: usize) -> TableCursor {
        TableCursor {
            table,
            fill_cache,
            partition: None,
            block: None,
            number: None,
            seq: 0,
            kind: 0,
            key: Vec::with_capacity(KEY_BYTES_EXPECTED),
            begins_key: false,
            ahead: Ahead {
                bytes: Vec::new(),
                at: 0,
                window: 0,
                window_max: readahead_bytes_max,
                charge: Charge::none(),
            },
        }
    }

    /// Whether it stands on an entry.
    #[inline]
    pub fn valid(&self) -> bool {
        self.number.is_some()
    }

    /// The user key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        if self.valid() { &self.key } else { &[] }
    }

    /// The sequence number.
    #[inline]
    pub fn seq(&self) -> u64 {
        if self.valid() { self.seq } else { 0 }
    }

    /// The kind.
    #[inline]
    pub fn kind(&self) -> u8 {
        if self.valid() { self.kind } else { 0 }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        self.here().map_or(&[], |(data, number)| data.value(number))
    }

    /// The block at hand and the number of the entry in it.
    #[inline]
    fn here(&self) -> Option<(DataBlock<'_>, usize)> {
        let (number, (_, _, block)) = (self.number?, self.block.as_ref()?);
        Some((block.data().ok()?, number))
    }

    /// Whether it is known that no newer version of the key stands in the table. Tells whoever walks backwards, most
    /// of the time, without a step further.
    pub fn is_newest(&self) -> bool {
        self.valid() && self.begins_key
    }

    /// The value, for keeping; `None` out of position.
    pub fn value_pinned(&self) -> Option<BlockSlice> {
        let ((data, number), (_, _, block)) = (self.here()?, self.block.as_ref()?);
        Some(BlockSlice::new(Arc::clone(block), data.value_range(number)))
    }

    /// Moves to the first entry.
    ///
    /// # Errors
    /// As every move: [`Error::Corrupt`] for damage it meets, [`Error::Io`].
    pub fn seek_to_first(&mut self) -> Result<()> {
        self.leave();
        self.enter(Place { partition: 0, block: 0 }, true)
    }

    /// Moves to the last entry.
    ///
    /// # Errors
    /// As every move.
    pub fn seek_to_last(&mut self) -> Result<()> {
        self.leave();
        let last = self.table.index().block_count().saturating_sub(1);
        self.enter_from_end(last, None)
    }

    /// Moves to the first entry at or after `(key, max_seq)`: the newest version of `key` that is no
    /// newer than `max_seq`, or else the first entry of the next key.
    ///
    /// # Errors
    /// As every move.
    pub fn seek(&mut self, key: &[u8], max_seq: u64) -> Result<()> {
        self.leave();
        let Some(partition) = self.table.index().find(key, max_seq) else { return Ok(()) };
        let Some(number) = self.partition(partition)?.find(key, max_seq) else { return Ok(()) };
        let at = Place { partition, block: number };
        if !self.load(at, true)? {
            return Ok(());
        }
        let found = self.data()?.map_or(0, |data| data.at_or_after(key, max_seq));
        if self.stand(found)? || cairn_env::mutant("seek-ends-with-its-block") {
            return Ok(());
        }
        // The separator may stand behind the last entry; then what is sought begins the next block.
        self.enter_after(at)
    }

    /// Moves to the last entry with a key below `key`: the oldest version of that key.
    ///
    /// # Errors
    /// As every move.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        self.seek(key, u64::MAX)?;
        if self.valid() { self.prev() } else { self.seek_to_last() }
    }

    /// Moves to the next entry.
    ///
    /// # Errors
    /// As every move.
    #[expect(clippy::should_implement_trait, reason = "entries are lent, which Iterator cannot say")]
    #[inline]
    pub fn next(&mut self) -> Result<()> {
        let Some(number) = self.number.take() else { return Ok(()) };
        let Some((at, handle, block)) = &self.block else { return Ok(()) };
        let (at, number) = (*at, number + 1);
        let data = match block.data() {
            Ok(data) => data,
            Err(error) => return Err(self.table.damaged(*handle)(error)),
        };
        if number == data.count() {
            return self.enter_after(at);
        }
        self.begins_key = data.move_key(&mut self.key, number);
        (self.seq, self.kind) = (data.seq(number), data.kind(number));
        self.number = Some(number);
        Ok(())
    }

    /// Moves to the first entry of the next key.
    ///
    /// # Errors
    /// As every move.
    #[inline]
    pub fn next_key(&mut self) -> Result<()> {
        loop {
            self.next()?;
            if !self.valid() || self.begins_key {
                return Ok(());
            }
        }
    }

    /// Moves to the entry before.
    ///
    /// # Errors
    /// As every move.
    #[inline]
    pub fn prev(&mut self) -> Result<()> {
        let Some(number) = self.number.take() else { return Ok(()) };
        let Some((at, handle, block)) = &self.block else { return Ok(()) };
        let Some(number) = number.checked_sub(1) else { return self.enter_before(*at) };
        let data = match block.data() {
            Ok(data) => data,
            Err(error) => return Err(self.table.damaged(*handle)(error)),
        };
        data.move_key(&mut self.key, number);
        self.begins_key = data.begins_key(number);
        (self.seq, self.kind) = (data.seq(number), data.kind(number));
        self.number = Some(number);
        Ok(())
    }

    /// Gives up the position, and reading ahead, for a jump elsewhere.
    fn leave(&mut self) {
        self.ahead.window = 0;
        self.key.clear();
        self.number = None;
    }

    /// The block at hand.
    fn data(&self) -> Result<Option<DataBlock<'_>>> {
        match &self.block {
            Some((_, handle, block)) => block.data().map(Some).map_err(self.table.damaged(*handle)),
            None => Ok(None),
        }
    }

    /// Stands on an entry of the block at hand, if it has that.
    fn stand(&mut self, number: usize) -> Result<bool> {
        let Some((_, handle, block)) = &self.block else { return Ok(false) };
        let data = block.data().map_err(|error| Error::decode(self.table.path(), handle.offset, error))?;
        if number >= data.count() {
            return Ok(false);
        }
        self.begins_key = data.begins_key(number);
        data.set_key(&mut self.key, number);
        (self.seq, self.kind) = (data.seq(number), data.kind(number));
        self.number = Some(number);
        Ok(true)
    }

    /// The partition with this number, which must be there, from wherever it lives.
    fn partition(&mut self, number: usize) -> Result<&Index> {
        let held = match self.partition.take() {
            Some((at, held)) if at == number => held,
            _ => self.table.partition(number)?,
        };
        let (_, held) = self.partition.insert((number, held));
        self.table.held(held)
    }

    /// Moves to the first entry of the block after `at`; out of position if that was the last.
    #[inline(never)]
    fn enter_after(&mut self, at: Place) -> Result<()> {
        let Place { partition, block } = at;
        if block + 1 < self.partition(partition)?.block_count() {
            self.enter(Place { partition, block: block + 1 }, true)
        } else if partition + 1 < self.table.index().block_count() {
            self.enter(Place { partition: partition + 1, block: 0 }, true)
        } else {
            Ok(())
        }
    }

    /// Moves to the last entry of the block before `at`; out of position if that was the first.
    #[inline(never)]
    fn enter_before(&mut self, at: Place) -> Result<()> {
        match at {
            Place { partition: 0, block: 0 } => Ok(()),
            Place { partition, block: 0 } => self.enter_from_end(partition - 1, None),
            Place { partition, block } => self.enter_from_end(partition, Some(block - 1)),
        }
    }

    /// Moves to the first entry of a block; out of position if there is no such block.
    fn enter(&mut self, at: Place, forward: bool) -> Result<()> {
        if !self.load(at, forward)? {
            return Ok(());
        }
        // Whoever jumped here left no key.
        let goes_on =
            |data: DataBlock<'_>| data.behind_prefix(&self.key).is_some_and(|rest| same(rest, data.suffix(0)));
        let goes_on = self.data()?.is_some_and(goes_on);
        self.stand(0)?;
        self.begins_key = !goes_on;
        Ok(())
    }

    /// Moves to the last entry of a block, of the last block of the partition for `None`.
    fn enter_from_end(&mut self, partition: usize, block: Option<usize>) -> Result<()> {
        let block = match block {
            Some(block) => block,
            None => self.partition(partition)?.block_count().saturating_sub(1),
        };
        if self.load(Place { partition, block }, false)? {
            let last = self.data()?.map_or(0, |data| data.count() - 1);
            self.stand(last)?;
        }
        Ok(())
    }

    /// Makes `block` the block at `place`; false if there is none.
    fn load(&mut self, place: Place, forward: bool) -> Result<bool> {
        if self.block.as_ref().is_some_and(|(at, _, _)| *at == place) {
            return Ok(true);
        }
        let Some(handle) = self.partition(place.partition)?.handle(place.block) else { return Ok(false) };
        let block = match self.table.cached(handle) {
            Some(block) => block,
            None => {
                let stored = self.ahead.read(&self.table, handle, forward)?;
                let block = self.table.decode_data(stored, handle)?;
                self.table.share(handle, block, self.fill_cache)
            }
        };
        self.block = Some((place, handle, block));
        Ok(true)
    }
}

/// A longer block is read into memory of its own, which becomes the block if it is stored raw and goes when the cursor
/// goes on.
const BUFFERED_BYTES_MAX: usize = 256 << 10;

/// Bytes of the file read before they are asked for.
struct Ahead {
    bytes: Vec<u8>,
    /// Where in the file they begin.
    at: u64,
    /// How much to read next time, 0 right after a jump.
    window: usize,
    window_max: usize,
    /// For `bytes`.
    charge: Charge,
}

impl Ahead {
    /// The block at `handle` as it is stored, read together with neighbours in the direction of travel.
    fn read(&mut self, table: &Table, handle: Handle, forward: bool) -> Result<Cow<'_, [u8]>> {
        let len = handle.len + TRAILER_BYTES;
        if self.held(handle.offset, len).is_some() {
            return self.lend(table, handle.offset, len);
        }
        if len > BUFFERED_BYTES_MAX {
            return read_stored(table.file(), handle.offset, len).map(Cow::Owned);
        }
        let window = self.window.min(self.window_max);
        self.window = window.saturating_mul(2).max(READAHEAD_BYTES_MIN);
        let data_end = table.footer().data_end;
        let (window, more) = (window.max(len) as u64, window.saturating_sub(len) as u64);
        let (at, end) = if forward {
            (handle.offset, data_end.min(handle.offset.saturating_add(window)))
        } else {
            (handle.offset.saturating_sub(more), handle.offset + len as u64)
        };
        let held = self.bytes.capacity();
        let read = read_stored_into(&mut self.bytes, table.file(), at, usize::try_from(end - at).unwrap_or(len));
        if self.bytes.capacity() != held {
            self.charge = table.charge(self.bytes.capacity());
        }
        read?;
        self.at = at;
        self.lend(table, handle.offset, len)
    }

    /// What is held of the file, or read now if it is not.
    fn lend(&self, table: &Table, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        match self.held(offset, len) {
            Some(stored) => Ok(Cow::Borrowed(stored)),
            None => read_stored(table.file(), offset, len).map(Cow::Owned),
        }
    }

    fn held(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.at)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

#[cfg(test)]
mod tests;
