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

    #[inline]
    fn valid(&self) -> bool {
        match self {
            Source::Memtable(cursor) => cursor.valid(),
            Source::Table(table) => table.cursor.valid(),
            Source::Level(level) => level.cursor.as_ref().is_some_and(TableCursor::valid),
        }
    }

    /// The key of its entry; empty without one.
    #[inline]
    fn key(&self) -> &[u8] {
        match self {
            Source::Memtable(cursor) => cursor.key(),
            Source::Table(table) => table.cursor.key(),
            Source::Level(level) => level.cursor.as_ref().map_or(&[], TableCursor::key),
        }
    }

    /// Number and kind of its entry; zeros without one.
    #[inline]
    fn version(&self) -> (u64, u8) {
        let of_table = |cursor: &TableCursor| (cursor.seq(), cursor.kind());
        match self {
            Source::Memtable(cursor) => (cursor.seq(), cursor.kind()),
            Source::Table(table) => of_table(&table.cursor),
            Source::Level(level) => level.cursor.as_ref().map_or((0, 0), of_table),
        }
    }

    /// The value of its entry; empty without one.
    #[inline]
    fn value(&self) -> &[u8] {
        match self {
            Source::Memtable(cursor) => cursor.value(),
            Source::Table(table) => table.cursor.value(),
            Source::Level(level) => level.cursor.as_ref().map_or(&[], TableCursor::value),
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
                let Some(cursor) = &mut level.cursor else { return Ok(()) };
                cursor.next().map_err(table_error)?;
                if cursor.valid() { Ok(()) } else { level.skip_forward() }
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
                let Some(cursor) = &mut level.cursor else { return Ok(()) };
                cursor.next_key().map_err(table_error)?;
                // No key stands in two tables of a level.
                if cursor.valid() { Ok(()) } else { level.skip_forward() }
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
                let Some(cursor) = &mut level.cursor else { return Ok(()) };
                cursor.prev().map_err(table_error)?;
                if cursor.valid() { Ok(()) } else { level.skip_back() }
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
    /// The sources that have an entry; the first is the next to come. While there is but one, its head is not kept.
    heap: Vec<Ranked>,
    backward: bool,
}

impl Merge {
    pub(crate) fn new(sources: Vec<Source>) -> Merge {
        Merge { heap: Vec::with_capacity(sources.len()), sources, backward: false }
    }

    #[inline]
    fn top(&self) -> Option<&Source> {
        self.sources.get(self.heap.first()?.source)
    }

    /// The entry at which it stands.
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        let top = self.top()?;
        let (seq, kind) = top.version();
        Some(Entry { key: top.key(), seq, kind, value: top.value() })
    }

    /// Key, number and kind of that entry.
    #[inline]
    pub(crate) fn version(&self) -> Option<(&[u8], u64, u8)> {
        let top = self.top()?;
        let (seq, kind) = top.version();
        Some((top.key(), seq, kind))
    }

    /// Key and value of that entry.
    #[inline]
    pub(crate) fn key_value(&self) -> Option<(&[u8], &[u8])> {
        let top = self.top()?;
        Some((top.key(), top.value()))
    }

    /// Which source that entry is from: an index into what [`Merge::new`] was given.
    pub(crate) fn source(&self) -> Option<usize> {
        self.heap.first().map(|ranked| ranked.source)
    }

    /// Whether it is known that no newer version of the entry's key is to come, going backwards.
    #[inline]
    pub(crate) fn is_newest(&self) -> bool {
        !self.has_rival() && self.top().is_some_and(Source::is_newest)
    }

    /// Whether another source may stand at the key of the entry.
    #[inline]
    fn has_rival(&self) -> bool {
        // It would come next: it would be one of the two below the top.
        match self.heap.as_slice() {
            [] | [_] => false,
            [top, next] => top.head == next.head,
            [top, next, other, ..] => top.head == next.head || top.head == other.head,
        }
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
        if self.backward { self.advance(Source::prev) } else { self.advance(Source::next) }
    }

    /// To the first entry of the next key; the last seek went forward.
    #[inline]
    pub(crate) fn next_key(&mut self) -> Result<()> {
        debug_assert!(!self.backward);
        if self.has_rival() { self.next_key_of_all() } else { self.advance(Source::next_key) }
    }

    /// Moves every source that stands at the key of the entry to its next key.
    fn next_key_of_all(&mut self) -> Result<()> {
        let Some(&first) = self.heap.first() else { return Ok(()) };
        // The top goes last: until then its key is the one that is passed.
        let mut at = 1;
        while let Some(&rival) = self.heap.get(at) {
            at += 1;
            if rival.head != first.head {
                continue;
            }
            let Ok([top, source]) = self.sources.get_disjoint_mut([first.source, rival.source]) else { continue };
            if same(top.key(), source.key()) {
                source.next_key()?;
                at -= usize::from(!self.rank(at - 1));
            }
        }
        if let Some(top) = self.sources.get_mut(first.source) {
            top.next_key()?;
            self.rank(0);
        }
        self.heapify();
        Ok(())
    }

    /// Ranks the source at heap place `at` by its entry, and takes it out if it has none; whether it has. The heap is
    /// left to be mended.
    #[inline]
    fn rank(&mut self, at: usize) -> bool {
        let Some(ranked) = self.heap.get_mut(at) else { return false };
        match self.sources.get(ranked.source).filter(|source| source.valid()) {
            Some(source) => {
                ranked.head = head(source.key(), self.backward);
                true
            }
            None => {
                self.heap.swap_remove(at);
                false
            }
        }
    }

    /// Moves the source at the top, and puts it in its new place.
    #[inline]
    fn advance(&mut self, go: impl FnOnce(&mut Source) -> Result<()>) -> Result<()> {
        let Some(top) = self.heap.first() else { return Ok(()) };
        let Some(source) = self.sources.get_mut(top.source) else { return Ok(()) };
        go(source)?;
        if self.heap.len() > 1 {
            self.rank(0);
            self.sift_down(0);
        } else if !source.valid() {
            self.heap.clear();
        }
        Ok(())
    }

    fn reposition(&mut self, backward: bool, mut seek: impl FnMut(&mut Source) -> Result<()>) -> Result<()> {
        self.heap.clear();
        self.backward = backward;
        for (index, source) in self.sources.iter_mut().enumerate() {
            seek(source)?;
            if source.valid() {
                self.heap.push(Ranked { head: head(source.key(), backward), source: index });
            }
        }
        self.heapify();
        Ok(())
    }

    #[inline]
    fn heapify(&mut self) {
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
    }

    #[inline]
    fn sift_down(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            let (Some(here), Some(mut child)) = (self.heap.get(at), self.heap.get(left)) else { return };
            let mut to = left;
            if let Some(right) = self.heap.get(left + 1)
                && self.before(right, child)
            {
                (child, to) = (right, left + 1);
            }
            if !self.before(child, here) {
                return;
            }
            self.heap.swap(to, at);
            at = to;
        }
    }

    /// Whether the entry of source `a` comes before that of `b`.
    #[inline]
    fn before(&self, a: &Ranked, b: &Ranked) -> bool {
        if a.head == b.head { self.before_by_key(a.source, b.source) } else { a.head < b.head }
    }

    /// As [`Merge::before`], where heads do not tell.
    fn before_by_key(&self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.sources.get(a), self.sources.get(b)) else { return false };
        let order = compare(a.key(), b.key()).then_with(|| {
            let ((a, _), (b, _)) = (a.version(), b.version());
            if cairn_env::mutant("merge-picks-older") { a.cmp(&b) } else { b.cmp(&a) }
        });
        order == if self.backward { Ordering::Greater } else { Ordering::Less }
    }
}
