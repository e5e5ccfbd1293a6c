//! Merging sorted sources into one stream of entries, in either direction.
//!
//! Entries come by user key ascending and, within a key, newest version first; backwards in
//! exactly the opposite order. No two sources hold the same version, so ties do not arise.
//! The sources stand in a binary heap, ranked by what is kept of each one's entry: the first bytes of its key as a
//! number, its own number and its kind. While the winner stays smallest, a step costs one or two comparisons, and asks
//! no source but the one that moves. Runs of tombstones over what they hide are passed without the heap.

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
    Run(RunSource),
}

/// Tables with ascending keys, one after the other; kept from removal while they are read.
pub(crate) struct RunSource {
    tables: Run,
    /// In the table `at`, if it stands in one.
    cursor: Option<TableCursor>,
    at: usize,
    fill_cache: bool,
}

enum Run {
    One(TableRef),
    Level(Arc<[TableRef]>),
}

impl Run {
    fn tables(&self) -> &[TableRef] {
        match self {
            Run::One(table) => std::slice::from_ref(table),
            Run::Level(tables) => tables,
        }
    }
}

impl Source {
    /// One table. `fill_cache` is false for those who read everything once.
    pub(crate) fn table(table: &TableRef, fill_cache: bool) -> Source {
        Source::run(Run::One(table.clone()), fill_cache)
    }

    /// A sorted level.
    pub(crate) fn level(tables: Arc<[TableRef]>, fill_cache: bool) -> Source {
        Source::run(Run::Level(tables), fill_cache)
    }

    fn run(tables: Run, fill_cache: bool) -> Source {
        Source::Run(RunSource { tables, cursor: None, at: 0, fill_cache })
    }

    /// The key of its entry; empty without one.
    #[inline]
    fn key(&self) -> &[u8] {
        match self {
            Source::Memtable(cursor) => cursor.key(),
            Source::Run(run) => run.cursor.as_ref().map_or(&[], TableCursor::key),
        }
    }

    /// The value of its entry; empty without one.
    #[inline]
    fn value(&self) -> &[u8] {
        match self {
            Source::Memtable(cursor) => cursor.value(),
            Source::Run(run) => run.cursor.as_ref().map_or(&[], TableCursor::value),
        }
    }

    /// How its entry ranks among those of other sources; `None` without one.
    #[inline]
    fn rank(&self, source: usize, backward: bool) -> Option<Ranked> {
        match self {
            Source::Memtable(cursor) => {
                let ranked = || Ranked::new(cursor.key(), cursor.seq(), cursor.kind(), source, backward);
                cursor.valid().then(ranked)
            }
            Source::Run(run) => {
                let cursor = run.cursor.as_ref().filter(|cursor| cursor.valid())?;
                Some(Ranked::new(cursor.key(), cursor.seq(), cursor.kind(), source, backward))
            }
        }
    }

    /// Whether it is known that it has no newer version of the entry's key, going backwards.
    #[inline]
    fn is_newest(&self) -> bool {
        match self {
            Source::Memtable(cursor) => cursor.is_newest(),
            Source::Run(run) => run.cursor.as_ref().is_some_and(TableCursor::is_newest),
        }
    }

    fn seek_to_first(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek_to_first();
                Ok(())
            }
            Source::Run(run) => run.open_at(0, TableCursor::seek_to_first),
        }
    }

    fn seek_to_last(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek_to_last();
                Ok(())
            }
            Source::Run(run) => run.open_at(run.tables.tables().len().wrapping_sub(1), TableCursor::seek_to_last),
        }
    }

    fn seek(&mut self, key: &[u8], seq_max: u64) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek(key, seq_max);
                Ok(())
            }
            Source::Run(run) => {
                let at = run.tables.tables().partition_point(|t| compare(&t.meta.largest_key, key).is_lt());
                run.open_at(at, |cursor| cursor.seek(key, seq_max))?;
                run.skip_forward()
            }
        }
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek_for_prev(key);
                Ok(())
            }
            Source::Run(run) => {
                let after = run.tables.tables().partition_point(|t| compare(&t.meta.smallest_key, key).is_lt());
                run.open_at(after.wrapping_sub(1), |cursor| cursor.seek_for_prev(key))?;
                run.skip_back()
            }
        }
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.next();
                Ok(())
            }
            Source::Run(run) => {
                run.go(TableCursor::next)?;
                if run.ended() { run.skip_forward() } else { Ok(()) }
            }
        }
    }

    /// To the first entry of the next key, going forward.
    #[inline]
    fn next_key(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.next_key();
                Ok(())
            }
            Source::Run(run) => {
                run.go(TableCursor::next_key)?;
                // No key stands in two tables of a level.
                if run.ended() { run.skip_forward() } else { Ok(()) }
            }
        }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        match self {
            Source::Memtable(cursor) => {
                cursor.prev();
                Ok(())
            }
            Source::Run(run) => {
                run.go(TableCursor::prev)?;
                if run.ended() { run.skip_back() } else { Ok(()) }
            }
        }
    }
}

impl RunSource {
    /// Moves within the table at hand.
    #[inline]
    fn go(&mut self, go: impl FnOnce(&mut TableCursor) -> cairn_table::Result<()>) -> Result<()> {
        match &mut self.cursor {
            Some(cursor) => go(cursor).map_err(table_error),
            None => Ok(()),
        }
    }

    /// Whether it stands at an end of the table at hand.
    #[inline]
    fn ended(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| !cursor.valid())
    }

    /// Opens the table at `at` and positions in it; no table there: no entry.
    fn open_at(&mut self, at: usize, position: impl FnOnce(&mut TableCursor) -> cairn_table::Result<()>) -> Result<()> {
        let cursor = self.cursor.take().filter(|_| self.at == at);
        let Some(table) = self.tables.tables().get(at) else { return Ok(()) };
        // A reader of everything reads far ahead; the others start small.
        let open = || table.table.cursor(self.fill_cache, READAHEAD_BYTES_MAX);
        let mut cursor = cursor.unwrap_or_else(open);
        position(&mut cursor).map_err(table_error)?;
        self.at = at;
        self.cursor = Some(cursor);
        Ok(())
    }

    /// At the end of a table: goes to the first entry of the next.
    #[inline(never)]
    fn skip_forward(&mut self) -> Result<()> {
        while self.ended() {
            self.open_at(self.at + 1, TableCursor::seek_to_first)?;
        }
        Ok(())
    }

    /// Before the beginning of a table: goes to the last entry of the one before.
    #[inline(never)]
    fn skip_back(&mut self) -> Result<()> {
        while self.ended() {
            self.open_at(self.at.wrapping_sub(1), TableCursor::seek_to_last)?;
        }
        Ok(())
    }
}

/// A source that has an entry, with all of that entry that ranks it among the others.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    /// The first 16 bytes of the entry's key as a number, zeros for missing ones; its complement when going
    /// backwards. Less means sooner.
    head: u128,
    seq: u64,
    key_len: usize,
    /// An index into the sources.
    source: usize,
    kind: u8,
}

/// Bytes of a key in a head.
const HEAD_BYTES: usize = size_of::<u128>();

impl Ranked {
    #[inline]
    fn new(key: &[u8], seq: u64, kind: u8, source: usize, backward: bool) -> Ranked {
        Ranked { head: head(key, backward), seq, key_len: key.len(), source, kind }
    }
}

#[inline]
fn head(key: &[u8], backward: bool) -> u128 {
    let head = match key.first_chunk::<HEAD_BYTES>() {
        Some(bytes) => u128::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; HEAD_BYTES];
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
}

impl Merge {
    pub(crate) fn new(sources: Vec<Source>) -> Merge {
        Merge { heap: Vec::with_capacity(sources.len()), sources, backward: false }
    }

    /// The entry at which it stands.
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        let (top, (key, value)) = (self.heap.first()?, self.key_value()?);
        Some(Entry { key, seq: top.seq, kind: top.kind, value })
    }

    /// Number and kind of that entry.
    #[inline]
    pub(crate) fn version(&self) -> Option<(u64, u8)> {
        self.heap.first().map(|top| (top.seq, top.kind))
    }

    /// Its key; empty without an entry.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.top().map_or(&[], Source::key)
    }

    /// Its key and value.
    #[inline]
    pub(crate) fn key_value(&self) -> Option<(&[u8], &[u8])> {
        self.top().map(|top| (top.key(), top.value()))
    }

    #[inline]
    fn top(&self) -> Option<&Source> {
        self.sources.get(self.heap.first()?.source)
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

    fn reposition(&mut self, backward: bool, mut seek: impl FnMut(&mut Source) -> Result<()>) -> Result<()> {
        self.heap.clear();
        self.backward = backward;
        for (index, source) in self.sources.iter_mut().enumerate() {
            seek(source)?;
            self.heap.extend(source.rank(index, backward));
        }
        self.heapify();
        Ok(())
    }

    /// One entry on, in the direction of the last seek.
    #[inline]
    pub(crate) fn step(&mut self) -> Result<()> {
        if self.backward { self.advance(Source::prev) } else { self.advance(Source::next) }
    }

    /// To the first entry of the next key; the last seek went forward.
    #[inline]
    pub(crate) fn next_key(&mut self) -> Result<()> {
        debug_assert!(!self.backward);
        if self.has_rival() { self.next_key_of_all() } else { self.advance(Source::next_key) }
    }

    /// Passes this entry, which hides all others of its key, and each following key whose newest version `hides` accepts
    /// by number and kind, while at most two sources hold them and all others, and `upper`, lie beyond. Ends early where
    /// telling would take more than heads. The last seek went forward.
    pub(crate) fn next_keys_while(&mut self, upper: Option<&[u8]>, hides: impl Fn(u64, u8) -> bool) -> Result<()> {
        debug_assert!(!self.backward);
        let Some((first, others)) = self.heap.split_first() else { return Ok(()) };
        let (mut rival, mut end) = (None, upper.map_or(u128::MAX, |upper| head(upper, false)));
        for (other, at) in others.iter().zip(1..) {
            if !self.is_same_key(first, other) {
                end = end.min(other.head);
            } else if rival.replace((at, other.source)).is_some() {
                return self.next_key_of_all();
            }
        }
        // One or two sources at the key, and all others at later ones: until then no heap is needed to merge them.
        let blind = cairn_env::mutant("tombstones-passed-beyond-another-source");
        let hides = |first: &Ranked| (first.head < end || blind) && hides(first.seq, first.kind);
        let number = first.source;
        if let Some((place, rival)) = rival {
            let Ok([newer, older]) = self.sources.get_disjoint_mut([number, rival]) else { return Ok(()) };
            let (newer_at, older_at) = loop {
                newer.next_key()?;
                older.next_key()?;
                let moved = (newer.rank(number, false), older.rank(rival, false));
                let (Some(a), Some(b)) = &moved else { break moved };
                let same_key = a.head == b.head
                    && a.key_len == b.key_len
                    && (a.key_len <= HEAD_BYTES || same(newer.key(), older.key()));
                // Mostly one source has all newer versions; where not, the heap decides.
                if !(same_key && a.seq > b.seq && hides(a)) {
                    break moved;
                }
            };
            self.replace(place, older_at);
            self.replace(0, newer_at);
        } else {
            let Some(source) = self.sources.get_mut(number) else { return Ok(()) };
            let moved = loop {
                source.next_key()?;
                let moved = source.rank(number, false);
                if !moved.as_ref().is_some_and(hides) {
                    break moved;
                }
            };
            self.replace(0, moved);
        }
        self.heapify();
        Ok(())
    }

    /// Puts `by` at heap place `at`, or takes that place out; says whether it stays. The caller restores the order.
    #[inline]
    fn replace(&mut self, at: usize, by: Option<Ranked>) -> bool {
        match (by, self.heap.get_mut(at)) {
            (Some(by), Some(ranked)) => *ranked = by,
            (None, Some(_)) => drop(self.heap.swap_remove(at)),
            (_, None) => {}
        }
        by.is_some()
    }

    /// Moves every source that stands at the key of the entry to its next key.
    fn next_key_of_all(&mut self) -> Result<()> {
        let Some(&first) = self.heap.first() else { return Ok(()) };
        // The top goes last: until then its key is the one that is passed.
        let mut at = 1;
        while let Some(&rival) = self.heap.get(at) {
            if self.is_same_key(&first, &rival) && !self.go(at, Source::next_key)? {
                // Another has taken its place.
                continue;
            }
            at += 1;
        }
        self.go(0, Source::next_key)?;
        self.heapify();
        Ok(())
    }

    #[inline]
    fn is_same_key(&self, a: &Ranked, b: &Ranked) -> bool {
        let key = |ranked: &Ranked| self.sources.get(ranked.source).map_or(&[][..], Source::key);
        a.head == b.head && a.key_len == b.key_len && (a.key_len <= HEAD_BYTES || same(key(a), key(b)))
    }

    /// Moves the source at the top, and puts it in its new place.
    #[inline]
    fn advance(&mut self, go: impl FnOnce(&mut Source) -> Result<()>) -> Result<()> {
        self.go(0, go)?;
        if self.heap.len() > 1 {
            self.sift_down(0);
        }
        Ok(())
    }

    /// Moves the source at heap place `at`; as [`Merge::replace`].
    #[inline]
    fn go(&mut self, at: usize, go: impl FnOnce(&mut Source) -> Result<()>) -> Result<bool> {
        let Some(&Ranked { source: number, .. }) = self.heap.get(at) else { return Ok(false) };
        let Some(source) = self.sources.get_mut(number) else { return Ok(false) };
        go(source)?;
        let moved = source.rank(number, self.backward);
        Ok(self.replace(at, moved))
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

    /// Whether entry `a` comes before `b`.
    #[inline]
    fn before(&self, a: &Ranked, b: &Ranked) -> bool {
        if a.head != b.head {
            return a.head < b.head;
        }
        let by_key = if a.key_len <= HEAD_BYTES && b.key_len <= HEAD_BYTES {
            // They differ in zeros at the end, if at all.
            a.key_len.cmp(&b.key_len)
        } else {
            self.compare_keys(a, b)
        };
        let by_number = || if cairn_env::mutant("merge-picks-older") { a.seq.cmp(&b.seq) } else { b.seq.cmp(&a.seq) };
        by_key.then_with(by_number) == if self.backward { Ordering::Greater } else { Ordering::Less }
    }

    #[inline(never)]
    fn compare_keys(&self, a: &Ranked, b: &Ranked) -> Ordering {
        let key = |ranked: &Ranked| self.sources.get(ranked.source).map_or(&[][..], Source::key);
        compare(key(a), key(b))
    }
}
