//! A cursor over the entries of one table, in both directions.
//!
//! It owns what it needs (the table, the block it stands in) and may move between threads. The key
//! is rebuilt in one buffer. Keys can only be decoded forwards from a restart, so to step back it
//! decodes the entries between a restart and where it stands once, and then pops them one by one.
//!
//! Invariants
//! 1. `entry` is set only while `block` holds it and `key` is its key. Every move takes it away
//!    first, so that a failed move leaves the cursor invalid.
//! 2. `back` holds the entries between the nearest restart before `entry` and `entry`, or nothing.
//! 3. `begins_key` may be false for the first entry of a key, and is never true for another.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use cairn_codec::{DecodeError, compare, same};

use crate::block::Entry;
use crate::footer::Handle;
use crate::index::Index;
use crate::seal::TRAILER_BYTES;
use crate::table::{Held, read_stored, read_stored_into};
use crate::{Block, BlockSlice, Charge, Error, Result, Table};

/// The first step of reading ahead.
const READAHEAD_BYTES_MIN: usize = 16 << 10;

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
    entry: Option<Entry>,
    key: Vec<u8>,
    /// The entry is known to be the first of its key in the table.
    begins_key: bool,
    back: Vec<Passed>,
    /// The keys of `back`, one after the other.
    back_keys: Vec<u8>,
    ahead: Ahead,
}

/// The number of a partition and of a block within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: usize,
    block: usize,
}

/// An entry to step back to.
struct Passed {
    entry: Entry,
    begins_key: bool,
    key_end: usize,
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
            entry: None,
            key: Vec::new(),
            begins_key: false,
            back: Vec::new(),
            back_keys: Vec::new(),
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
            (Some(entry), Some((_, _, block))) => block.data().map_or(&[], |data| data.value(entry)),
            _ => &[],
        }
    }

    /// Whether it is known that no newer version of the key stands in the table. Tells whoever walks backwards, most
    /// of the time, without a step further.
    pub fn is_newest(&self) -> bool {
        self.valid() && self.begins_key
    }

    /// The value, for keeping; `None` out of position.
    pub fn value_pinned(&self) -> Option<BlockSlice> {
        let (entry, (_, _, block)) = (self.entry?, self.block.as_ref()?);
        Some(BlockSlice::new(Arc::clone(block), entry.value_at..entry.value_end))
    }

    /// Moves to the first entry.
    ///
    /// # Errors
    /// As every move: [`Error::Corrupt`] for damage it meets, [`Error::Io`].
    pub fn seek_to_first(&mut self) -> Result<()> {
        self.leave(true);
        self.enter(Place { partition: 0, block: 0 }, true)
    }

    /// Moves to the last entry.
    ///
    /// # Errors
    /// As every move.
    pub fn seek_to_last(&mut self) -> Result<()> {
        self.leave(true);
        let last = self.table.index().block_count().saturating_sub(1);
        self.enter_from_end(last, None)
    }

    /// Moves to the first entry at or after `(key, max_seq)`: the newest version of `key` that is no
    /// newer than `max_seq`, or else the first entry of the next key.
    ///
    /// # Errors
    /// As every move.
    pub fn seek(&mut self, key: &[u8], max_seq: u64) -> Result<()> {
        self.leave(true);
        let Some(partition) = self.table.index().find(key, max_seq) else { return Ok(()) };
        let Some(number) = self.partition(partition)?.find(key, max_seq) else { return Ok(()) };
        let at = Place { partition, block: number };
        if !self.load(at, true)? {
            return Ok(());
        }
        let Some((_, handle, block)) = &self.block else { return Ok(()) };
        let damaged = |error| Error::decode(self.table.path(), handle.offset, error);
        let data = block.data().map_err(damaged)?;
        let restart = data.restart_before(key, max_seq).map_err(damaged)?;
        let mut place = data.restart(restart).unwrap_or(data.start());
        self.key.clear();
        while place.at < data.end() {
            let entry = data.entry(place).map_err(damaged)?;
            data.step_key(&mut self.key, &entry).map_err(damaged)?;
            if compare(&self.key, key).then(max_seq.cmp(&entry.seq)).is_ge() {
                self.begins_key = false;
                self.entry = Some(entry);
                return Ok(());
            }
            place = entry.next();
        }
        if cairn_env::mutant("seek-ends-with-its-block") {
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
    pub fn next(&mut self) -> Result<()> {
        let Some(from) = self.leave(false) else { return Ok(()) };
        let Some((at, handle, block)) = &self.block else { return Ok(()) };
        let damaged = |error| Error::decode(self.table.path(), handle.offset, error);
        let data = block.data().map_err(damaged)?;
        if from.next().at < data.end() {
            let entry = data.entry(from.next()).map_err(damaged)?;
            self.begins_key = begins_key(&self.key, &entry, data.suffix(&entry));
            data.step_key(&mut self.key, &entry).map_err(damaged)?;
            self.entry = Some(entry);
            return Ok(());
        }
        let at = *at;
        self.enter_after(at)
    }

    /// Moves to the first entry of the next key.
    ///
    /// # Errors
    /// As every move.
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
    pub fn prev(&mut self) -> Result<()> {
        let Some(from) = self.entry.take() else { return Ok(()) };
        if let Some(passed) = self.back.pop() {
            let start = self.back.last().map_or(0, |before| before.key_end);
            self.key.clear();
            self.key.extend_from_slice(self.back_keys.get(start..passed.key_end).unwrap_or_default());
            self.back_keys.truncate(start);
            self.begins_key = passed.begins_key;
            self.entry = Some(passed.entry);
            return Ok(());
        }
        let Some((at, handle, block)) = &self.block else { return Ok(()) };
        let data = block.data().map_err(self.table.damaged(*handle))?;
        match (data.restart_under(from.at), *at) {
            (Some(restart), _) => self.decode_up_to(restart, from.at),
            (None, Place { partition: 0, block: 0 }) => Ok(()),
            (None, Place { partition, block: 0 }) => self.enter_from_end(partition - 1, None),
            (None, Place { partition, block }) => self.enter_from_end(partition, Some(block - 1)),
        }
    }

    /// Gives up the position; a jump also gives up reading ahead.
    fn leave(&mut self, jump: bool) -> Option<Entry> {
        self.back.clear();
        self.back_keys.clear();
        if jump {
            self.ahead.window = 0;
            self.key.clear();
        }
        self.entry.take()
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

    /// Moves to the first entry of a block; out of position if there is no such block.
    fn enter(&mut self, at: Place, forward: bool) -> Result<()> {
        if !self.load(at, forward)? {
            return Ok(());
        }
        let Some((_, handle, block)) = &self.block else { return Ok(()) };
        let damaged = |error| Error::decode(self.table.path(), handle.offset, error);
        let data = block.data().map_err(damaged)?;
        let entry = data.entry(data.start()).map_err(damaged)?;
        // Whoever jumped here left no key.
        self.begins_key = begins_key(&self.key, &entry, data.suffix(&entry));
        self.key.clear();
        data.step_key(&mut self.key, &entry).map_err(damaged)?;
        self.entry = Some(entry);
        Ok(())
    }

    /// Moves to the last entry of a block, of the last block of the partition for `None`.
    fn enter_from_end(&mut self, partition: usize, block: Option<usize>) -> Result<()> {
        let block = match block {
            Some(block) => block,
            None => self.partition(partition)?.block_count().saturating_sub(1),
        };
        if !self.load(Place { partition, block }, false)? {
            return Ok(());
        }
        let Some((_, handle, block)) = &self.block else { return Ok(()) };
        let data = block.data().map_err(self.table.damaged(*handle))?;
        let (restart, end) = (data.restart_count() - 1, data.end());
        self.decode_up_to(restart, end)
    }

    /// Decodes the entries from a restart up to `end`, moves to the last and keeps the others.
    fn decode_up_to(&mut self, restart: usize, end: usize) -> Result<()> {
        self.back.clear();
        self.back_keys.clear();
        self.key.clear();
        let Some((_, handle, block)) = &self.block else { return Ok(()) };
        let damaged = |error| Error::decode(self.table.path(), handle.offset, error);
        let data = block.data().map_err(damaged)?;
        let mut place = data.restart(restart).unwrap_or(data.start());
        let mut last: Option<Entry> = None;
        while place.at < end {
            let entry = data.entry(place).map_err(damaged)?;
            if let Some(entry) = last {
                self.back_keys.extend_from_slice(&self.key);
                self.back.push(Passed { entry, begins_key: self.begins_key, key_end: self.back_keys.len() });
            }
            // Also bounds what keys that share everything could unpack to.
            if self.back.len() >= self.table.options().restart_interval {
                return Err(damaged(DecodeError { offset: entry.at, what: "more entries than the restart interval" }));
            }
            // What comes before the restart is not known here.
            self.begins_key = last.is_some() && begins_key(&self.key, &entry, data.suffix(&entry));
            data.step_key(&mut self.key, &entry).map_err(damaged)?;
            last = Some(entry);
            place = entry.next();
        }
        self.entry = last;
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

/// Whether `entry`, with this suffix, is of another key than the entry before it, whose key is `before`.
fn begins_key(before: &[u8], entry: &Entry, suffix: &[u8]) -> bool {
    if entry.shared == 0 { !same(before, suffix) } else { !suffix.is_empty() || entry.shared < before.len() }
}

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
        let window = self.window.min(self.window_max);
        self.window = window.saturating_mul(2).max(READAHEAD_BYTES_MIN);
        if len >= window {
            return read_stored(table.file(), handle.offset, len).map(Cow::Owned);
        }
        let data_end = table.footer().data_end;
        let (window, more) = (window as u64, (window - len) as u64);
        let (at, end) = if forward {
            (handle.offset, data_end.min(handle.offset.saturating_add(window)))
        } else {
            (handle.offset.saturating_sub(more), handle.offset + len as u64)
        };
        let held = self.bytes.capacity();
        read_stored_into(&mut self.bytes, table.file(), at, usize::try_from(end - at).unwrap_or(len))?;
        if self.bytes.capacity() != held {
            self.charge = table.charge(self.bytes.capacity());
        }
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
