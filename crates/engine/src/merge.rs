//! Merging sorted sources into one stream of entries, in either direction.
//!
//! Entries come by user key ascending and, within a key, newest version first; backwards in
//! exactly the opposite order. No two sources hold the same version, so ties do not arise.
//! The sources stand in a binary heap, ranked by the first bytes of their keys as a number; while the
//! winner stays smallest, a step costs one or two comparisons of such numbers.

use std::cmp::Ordering;
use std::sync::Arc;

use cairn_codec::{compare, same};
use cairn_table::TableCursor;

use crate::error::Result;
use crate::levels::TableRef;
use crate::memtable::MemtableCursor;
use crate::output::table_error;

/// How far a cursor that moves on reads ahead.
const READAHEAD_BYTES_MAX: usize = 256 << 10;

/// One version of one key, lent by its source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) kind: u8,
    pub(crate) value: &'a [u8],
}

/// A sorted source.
pub(crate) enum Source {
    Memtable(MemtableCursor),
    Table(TableSource),
    Level(LevelSource),
}

/// A table, kept from removal while it is read.
pub(crate) struct TableSource {
    _handle: TableRef,
    cursor: TableCursor,
}

/// The tables of a sorted level, one after the other.
pub(crate) struct LevelSource {
    tables: Arc<[TableRef]>,
    at: usize,
    cursor: Option<TableCursor>,
    fill_cache: bool,
}

impl Source {
    /// One table. `fill_cache` is false for those who read everything once.
    pub(crate) fn table(table: &TableRef, fill_cache: bool) -> Source {
        Source::Table(TableSource { _handle: table.clone(), cursor: open(table, fill_cache) })
    }

    /// A sorted level.
    pub(crate) fn level(tables: Arc<[TableRef]>, fill_cache: bool) -> Source {
        Source::Level(LevelSource { tables, at: 0, cursor: None, fill_cache })
    }

    fn entry(&self) -> Option<Entry<'_>> {
        match self {
            Source::Memtable(cursor) => cursor.valid().then(|| Entry {
                key: cursor.key(),
                seq: cursor.seq(),
                kind: cursor.kind(),
                value: cursor.value(),
            }),
            Source::Table(table) => table_entry(&table.cursor),
            Source::Level(level) => level.cursor.as_ref().and_then(table_entry),
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match self {
            Source::Memtable(cursor) => cursor.valid().then(|| cursor.key()),
            Source::Table(table) => table.cursor.valid().then(|| table.cursor.key()),
            Source::Level(level) => level.cursor.as_ref().filter(|cursor| cursor.valid()).map(TableCursor::key),
        }
    }

    /// Whether it is known that it has no newer version of the entry's key, going backwards.
    fn is_newest(&self) -> bool {
        match self {
            Source::Memtable(cursor) => cursor.is_newest(),
            Source::Table(table) => table.cursor.is_newest(),
            Source::Level(level) => level.cursor.as_ref().is_some_and(TableCursor::is_newest),
        }
    }

    fn seek_to_first(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek_to_first();
                Ok(())
            }
            Source::Table(table) => table.cursor.seek_to_first().map_err(table_error),
            Source::Level(level) => level.open_at(0, |cursor| cursor.seek_to_first()),
        }
    }

    fn seek_to_last(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek_to_last();
                Ok(())
            }
            Source::Table(table) => table.cursor.seek_to_last().map_err(table_error),
            Source::Level(level) => level.open_at(level.tables.len().wrapping_sub(1), |cursor| cursor.seek_to_last()),
        }
    }

    fn seek(&mut self, key: &[u8], seq_max: u64) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek(key, seq_max);
                Ok(())
            }
            Source::Table(table) => table.cursor.seek(key, seq_max).map_err(table_error),
            Source::Level(level) => {
                let at = level.tables.partition_point(|t| compare(&t.meta.largest_key, key).is_lt());
                level.open_at(at, |cursor| cursor.seek(key, seq_max))?;
                level.skip_forward()
            }
        }
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek_for_prev(key);
                Ok(())
            }
            Source::Table(table) => table.cursor.seek_for_prev(key).map_err(table_error),
            Source::Level(level) => {
                let after = level.tables.partition_point(|t| compare(&t.meta.smallest_key, key).is_lt());
                level.open_at(after.wrapping_sub(1), |cursor| cursor.seek_for_prev(key))?;
                level.skip_back()
            }
        }
    }

    fn next(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.next();
                Ok(())
            }
            Source::Table(table) => table.cursor.next().map_err(table_error),
            Source::Level(level) => {
                if let Some(cursor) = &mut level.cursor {
                    cursor.next().map_err(table_error)?;
                }
                level.skip_forward()
            }
        }
    }

    /// To the first entry of the next key, going forward.
    fn next_key(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.next_key();
                Ok(())
            }
            Source::Table(table) => table.cursor.next_key().map_err(table_error),
            Source::Level(level) => {
                if let Some(cursor) = &mut level.cursor {
                    cursor.next_key().map_err(table_error)?;
                }
                // No key stands in two tables of a level.
                level.skip_forward()
            }
        }
    }

    fn prev(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.prev();
                Ok(())
            }
            Source::Table(table) => table.cursor.prev().map_err(table_error),
            Source::Level(level) => {
                if let Some(cursor) = &mut level.cursor {
                    cursor.prev().map_err(table_error)?;
                }
                level.skip_back()
            }
        }
    }
}

impl LevelSource {
    /// Opens the table at `at` and positions in it; no table there: no entry.
    fn open_at(&mut self, at: usize, position: impl FnOnce(&mut TableCursor) -> cairn_table::Result<()>) -> Result<()> {
        self.cursor = None;
        let Some(table) = self.tables.get(at) else { return Ok(()) };
        let mut cursor = open(table, self.fill_cache);
        position(&mut cursor).map_err(table_error)?;
        self.at = at;
        self.cursor = Some(cursor);
        Ok(())
    }

    /// At the end of a table: goes to the first entry of the next.
    fn skip_forward(&mut self) -> Result<()> {
        while self.cursor.as_ref().is_some_and(|cursor| !cursor.valid()) {
            self.open_at(self.at + 1, |cursor| cursor.seek_to_first())?;
        }
        Ok(())
    }

    /// Before the beginning of a table: goes to the last entry of the one before.
    fn skip_back(&mut self) -> Result<()> {
        while self.cursor.as_ref().is_some_and(|cursor| !cursor.valid()) {
            self.open_at(self.at.wrapping_sub(1), |cursor| cursor.seek_to_last())?;
        }
        Ok(())
    }
}

fn open(table: &TableRef, fill_cache: bool) -> TableCursor {
    // A reader of everything reads far ahead; the others start small.
    table.table.cursor(fill_cache, READAHEAD_BYTES_MAX)
}

fn table_entry(cursor: &TableCursor) -> Option<Entry<'_>> {
    cursor.valid().then(|| Entry { key: cursor.key(), seq: cursor.seq(), kind: cursor.kind(), value: cursor.value() })
}

/// A source that has an entry, and how it ranks among the others.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    /// The first 16 bytes of the entry's key as a number, zeros for missing ones; its complement when going
    /// backwards. Less means sooner; the keys themselves decide between equals.
    head: u128,
    /// An index into the sources.
    source: usize,
}

fn head(key: &[u8], backward: bool) -> u128 {
    let head = match key.first_chunk::<16>() {
        Some(bytes) => u128::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip(key) {
                *to = *from;
            }
            u128::from_be_bytes(bytes)
        }
    };
    if backward { !head } else { head }
}

/// The merged stream.
pub(crate) struct Merge {
    sources: Vec<Source>,
    /// The sources that have an entry; the first is the next to come.
    heap: Vec<Ranked>,
    backward: bool,
    /// The key that is being passed.
    passed: Vec<u8>,
}

impl Merge {
    pub(crate) fn new(sources: Vec<Source>) -> Merge {
        Merge { sources, heap: Vec::new(), backward: false, passed: Vec::new() }
    }

    fn top(&self) -> Option<&Source> {
        self.sources.get(self.heap.first()?.source)
    }

    /// The entry at which it stands.
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        self.top()?.entry()
    }

    /// Which source that entry is from: an index into what [`Merge::new`] was given.
    pub(crate) fn source(&self) -> Option<usize> {
        self.heap.first().map(|ranked| ranked.source)
    }

    /// Whether it is known that no newer version of the entry's key is to come, going backwards.
    pub(crate) fn is_newest(&self) -> bool {
        // Another source with the same key would come next: it would be one of the two below the top.
        let Some(top) = self.heap.first() else { return false };
        let shared = self.heap.iter().skip(1).take(2).any(|next| next.head == top.head);
        !shared && self.top().is_some_and(Source::is_newest)
    }

    /// To the very first entry.
    pub(crate) fn seek_to_first(&mut self) -> Result<()> {
        self.reposition(false, Source::seek_to_first)
    }

    /// To the very last entry, going backwards.
    pub(crate) fn seek_to_last(&mut self) -> Result<()> {
        self.reposition(true, Source::seek_to_last)
    }

    /// To the first entry of `key` with a number up to `seq_max`, or the first of a later key.
    pub(crate) fn seek(&mut self, key: &[u8], seq_max: u64) -> Result<()> {
        self.reposition(false, |source| source.seek(key, seq_max))
    }

    /// To the last entry of a key before `key`, going backwards.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        self.reposition(true, |source| source.seek_for_prev(key))
    }

    /// One entry on, in the direction of the last seek.
    pub(crate) fn step(&mut self) -> Result<()> {
        let backward = self.backward;
        self.advance(|source| if backward { source.prev() } else { source.next() })
    }

    /// To the first entry of the next key; the last seek went forward.
    pub(crate) fn next_key(&mut self) -> Result<()> {
        debug_assert!(!self.backward);
        let Some(&first) = self.heap.first() else { return Ok(()) };
        if self.heap.len() == 1 {
            return self.advance(Source::next_key);
        }
        let mut passed = std::mem::take(&mut self.passed);
        passed.clear();
        passed.extend_from_slice(self.entry().map_or(&[], |entry| entry.key));
        let result = loop {
            if let Err(e) = self.advance(Source::next_key) {
                break Err(e);
            }
            // Nobody else holds a version of it, or the next key has come.
            let same_head = self.heap.first().is_some_and(|top| top.head == first.head);
            if !same_head || !self.entry().is_some_and(|entry| same(entry.key, &passed)) {
                break Ok(());
            }
        };
        self.passed = passed;
        result
    }

    /// Moves the source at the top, and puts it in its new place.
    fn advance(&mut self, go: impl FnOnce(&mut Source) -> Result<()>) -> Result<()> {
        let backward = self.backward;
        let Some(top) = self.heap.first_mut() else { return Ok(()) };
        let Some(source) = self.sources.get_mut(top.source) else { return Ok(()) };
        go(source)?;
        match source.key() {
            Some(key) => top.head = head(key, backward),
            None => drop(self.heap.swap_remove(0)),
        }
        self.sift_down(0);
        Ok(())
    }

    fn reposition(&mut self, backward: bool, mut seek: impl FnMut(&mut Source) -> Result<()>) -> Result<()> {
        self.heap.clear();
        self.backward = backward;
        for (index, source) in self.sources.iter_mut().enumerate() {
            seek(source)?;
            if let Some(key) = source.key() {
                self.heap.push(Ranked { head: head(key, backward), source: index });
            }
        }
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
        Ok(())
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            if left >= self.heap.len() {
                return;
            }
            let right = left + 1;
            let child = if right < self.heap.len() && self.before(right, left) { right } else { left };
            if !self.before(child, at) {
                return;
            }
            self.heap.swap(child, at);
            at = child;
        }
    }

    /// Whether the source at heap place `a` comes before that at `b`.
    fn before(&self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.heap.get(a), self.heap.get(b)) else { return false };
        if a.head != b.head {
            return a.head < b.head;
        }
        let entry = |ranked: &Ranked| self.sources.get(ranked.source).and_then(Source::entry);
        let (Some(a), Some(b)) = (entry(a), entry(b)) else { return false };
        let by_number = if cairn_env::mutant("merge-picks-older") { a.seq.cmp(&b.seq) } else { b.seq.cmp(&a.seq) };
        let order = compare(a.key, b.key).then(by_number);
        order == if self.backward { Ordering::Greater } else { Ordering::Less }
    }
}
