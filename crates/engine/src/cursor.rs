//! What a reader sees of a merge: one entry per live key, as of one sequence number.
//!
//! Forward, the newest visible version of a key comes first and decides. Backward it comes last: where the sources know
//! that nothing newer is to come it decides as well, else key and value are copied until the key is complete.

use std::ops::Bound;
use std::sync::Arc;

use cairn_codec::{compare, same};

use crate::catalog::Tree;
use crate::error::{Error, Result};
use crate::memtable::MemtableCursor;
use crate::merge::{Merge, Source};
use crate::types::{SeqNo, kind};

/// The keys from `lower` on and before `upper`.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyRange {
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
}

/// The least key greater than `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

impl KeyRange {
    pub(crate) fn new(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> KeyRange {
        KeyRange {
            lower: match lower {
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => successor(key),
                Bound::Unbounded => Vec::new(),
            },
            upper: match upper {
                Bound::Included(key) => Some(successor(key)),
                Bound::Excluded(key) => Some(key.to_vec()),
                Bound::Unbounded => None,
            },
        }
    }

    /// All keys that begin with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> KeyRange {
        // The least key after all of them: the last byte that can grow, grown; none if all are 255.
        let kept = prefix.iter().rposition(|&byte| byte < u8::MAX).map(|at| prefix.get(..=at).unwrap_or_default());
        let upper = kept.map(|kept| {
            let mut upper = kept.to_vec();
            if let Some(last) = upper.last_mut() {
                *last += 1;
            }
            upper
        });
        KeyRange { lower: prefix.to_vec(), upper }
    }

    fn is_before(&self, key: &[u8]) -> bool {
        compare(key, &self.lower).is_lt()
    }

    fn is_past(&self, key: &[u8]) -> bool {
        self.upper.as_deref().is_some_and(|upper| compare(key, upper).is_ge())
    }
}

/// Room for sources of a cursor that are no tables of level 0.
const SOURCES_BESIDE_LEVEL0: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Stands nowhere.
    Invalid,
    /// At an entry of the merge, which goes forward.
    Forward,
    /// At an entry of the merge, which goes backward; no newer version of its key is to come.
    Backward,
    /// At `key` and `value`, which were copied; the merge is before them and goes backward.
    Passed,
}

/// A movable position in a keyspace as of one moment, lending keys and values without copying
/// them where it can. Pins what it reads: memtables, tables, and the block it stands in.
///
/// A new cursor stands nowhere; seek first.
pub struct Cursor {
    /// Kept so that nothing it reads goes away.
    _tree: Arc<Tree>,
    merge: Merge,
    range: KeyRange,
    seq: SeqNo,
    state: State,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("seq", &self.seq).field("key", &self.key()).finish_non_exhaustive()
    }
}

impl Cursor {
    pub(crate) fn new(tree: Arc<Tree>, seq: SeqNo, range: KeyRange) -> Cursor {
        let meets = |smallest: &[u8], largest: &[u8]| !range.is_past(smallest) && !range.is_before(largest);
        // Memtables, tables of level 0, and a few deeper levels: most often it need not grow.
        let mut sources: Vec<Source> = Vec::with_capacity(tree.levels.level(0).len() + SOURCES_BESIDE_LEVEL0);
        sources.extend(tree.buffers().map(|buffer| Source::Memtable(MemtableCursor::new(buffer.memtable.clone()))));
        for table in tree.levels.level(0) {
            if meets(&table.meta.smallest_key, &table.meta.largest_key) {
                sources.push(Source::table(table, true));
            }
        }
        for level in 1..crate::levels::LEVEL_COUNT {
            if tree.levels.level(level).iter().any(|t| meets(&t.meta.smallest_key, &t.meta.largest_key)) {
                sources.push(Source::level(tree.levels.level_shared(level), true));
            }
        }
        Cursor {
            _tree: tree,
            merge: Merge::new(sources),
            range,
            seq,
            state: State::Invalid,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// The number of the last write it sees.
    pub fn seq(&self) -> SeqNo {
        self.seq
    }

    /// Goes to the first key of its range.
    pub fn seek_to_first(&mut self) -> Result<()> {
        let lower = std::mem::take(&mut self.range.lower);
        let result = self.seek_forward(&lower);
        self.range.lower = lower;
        result
    }

    /// Goes to the first key of its range that is not before `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        if self.range.is_before(key) { self.seek_to_first() } else { self.seek_forward(key) }
    }

    fn seek_forward(&mut self, key: &[u8]) -> Result<()> {
        self.state = State::Invalid;
        self.merge.seek(key, self.seq.0)?;
        self.settle_forward()
    }

    /// Goes to the last key of its range.
    pub fn seek_to_last(&mut self) -> Result<()> {
        self.state = State::Invalid;
        match &self.range.upper {
            Some(upper) => self.merge.seek_for_prev(upper)?,
            None => self.merge.seek_to_last()?,
        }
        self.settle_backward()
    }

    /// Goes to the last key of its range that is before `key`.
    pub fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        if self.range.is_past(key) {
            return self.seek_to_last();
        }
        self.state = State::Invalid;
        self.merge.seek_for_prev(key)?;
        self.settle_backward()
    }

    /// Goes to the next key; past the last one it stands nowhere.
    #[allow(clippy::should_implement_trait, reason = "it lends and may fail: no Iterator")]
    pub fn next(&mut self) -> Result<()> {
        match self.state {
            State::Invalid => Ok(()),
            State::Forward => {
                self.state = State::Invalid;
                self.merge.next_key()?;
                self.settle_forward()
            }
            State::Backward | State::Passed => {
                self.copy_key();
                self.state = State::Invalid;
                // After every version of the key.
                self.merge.seek(&self.key, 0)?;
                if self.merge.version().is_some() && same(self.merge.key(), &self.key) {
                    self.merge.next_key()?;
                }
                self.settle_forward()
            }
        }
    }

    /// Goes to the key before; before the first one it stands nowhere.
    pub fn prev(&mut self) -> Result<()> {
        match self.state {
            State::Invalid => Ok(()),
            State::Forward => {
                self.copy_key();
                self.state = State::Invalid;
                self.merge.seek_for_prev(&self.key)?;
                self.settle_backward()
            }
            State::Backward => {
                self.state = State::Invalid;
                self.merge.step()?;
                self.settle_backward()
            }
            State::Passed => {
                self.state = State::Invalid;
                self.settle_backward()
            }
        }
    }

    /// The key and the value at which it stands; `None` if it stands nowhere.
    pub fn entry(&self) -> Option<(&[u8], &[u8])> {
        match self.state {
            State::Invalid => None,
            State::Forward | State::Backward => self.merge.key_value(),
            State::Passed => Some((&self.key, &self.value)),
        }
    }

    /// The key at which it stands.
    pub fn key(&self) -> Option<&[u8]> {
        self.entry().map(|(key, _)| key)
    }

    /// The value at which it stands.
    pub fn value(&self) -> Option<&[u8]> {
        self.entry().map(|(_, value)| value)
    }

    /// The key at which it stands, where it outlives a move of the merge.
    fn copy_key(&mut self) {
        if let State::Forward | State::Backward = self.state {
            self.key.clear();
            self.key.extend_from_slice(self.merge.key());
        }
    }

    /// From where the merge stands, forward to a live key.
    fn settle_forward(&mut self) -> Result<()> {
        let visible = self.seq.0;
        while let Some((seq, kind)) = self.merge.version() {
            if self.range.upper.is_some() && self.range.is_past(self.merge.key()) {
                return Ok(());
            }
            if seq > visible {
                self.merge.step()?;
            } else if kind == kind::PUT {
                self.state = State::Forward;
                return Ok(());
            } else {
                // A tombstone: what follows of this key is hidden. Many stand in a row where a queue was emptied.
                self.merge
                    .next_keys_while(self.range.upper.as_deref(), |seq, kind| seq <= visible && kind != kind::PUT)?;
            }
        }
        Ok(())
    }

    /// From where the merge stands, backward over all versions of a key until one is live.
    fn settle_backward(&mut self) -> Result<()> {
        // The newest visible version so far of `self.key`: a value or a tombstone.
        let mut candidate: Option<u8> = None;
        while let Some((seq, kind)) = self.merge.version() {
            if candidate.is_some() && !same(self.merge.key(), &self.key) {
                if candidate == Some(kind::PUT) {
                    break;
                }
                candidate = None;
            }
            if !self.range.lower.is_empty() && self.range.is_before(self.merge.key()) {
                break;
            }
            if seq <= self.seq.0 {
                if candidate.is_none() && self.merge.is_newest() {
                    // It decides at once, and where it stands.
                    if kind == kind::PUT {
                        self.state = State::Backward;
                        return Ok(());
                    }
                    self.merge.step()?;
                    continue;
                }
                if candidate.is_none() {
                    self.key.clear();
                    self.key.extend_from_slice(self.merge.key());
                }
                candidate = Some(kind);
                self.value.clear();
                self.value.extend_from_slice(self.merge.key_value().map_or(&[], |(_, value)| value));
            }
            self.merge.step()?;
        }
        if candidate == Some(kind::PUT) {
            self.state = State::Passed;
        }
        Ok(())
    }
}

/// Keys and values of a range, owned, in order; from the back with [`Iterator::rev`] or
/// [`DoubleEndedIterator::next_back`]. It sees one moment, may be moved between threads, and pins
/// what it reads until it is dropped. After an error it ends.
pub struct Iter {
    /// None once it has ended.
    tree: Option<Arc<Tree>>,
    seq: SeqNo,
    range: KeyRange,
    front: Option<Cursor>,
    back: Option<Cursor>,
    /// Why it could not begin; given out first.
    failed: Option<Error>,
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

impl std::fmt::Debug for Iter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Iter")
    }
}

impl Iter {
    pub(crate) fn new(tree: Arc<Tree>, seq: SeqNo, range: KeyRange) -> Iter {
        Iter { tree: Some(tree), seq, range, front: None, back: None, failed: None }
    }

    /// An iterator that gives one error.
    pub(crate) fn failed(error: Error) -> Iter {
        Iter { tree: None, seq: SeqNo(0), range: KeyRange::default(), front: None, back: None, failed: Some(error) }
    }

    fn advance(&mut self, from_back: bool) -> Result<Option<KeyValue>> {
        let Some(tree) = &self.tree else { return Ok(None) };
        let (here, there) = if from_back { (&mut self.back, &self.front) } else { (&mut self.front, &self.back) };
        let cursor = match here {
            Some(cursor) => {
                if from_back {
                    cursor.prev()?
                } else {
                    cursor.next()?
                };
                cursor
            }
            None => {
                let cursor = here.insert(Cursor::new(tree.clone(), self.seq, self.range.clone()));
                if from_back {
                    cursor.seek_to_last()?
                } else {
                    cursor.seek_to_first()?
                };
                cursor
            }
        };
        let Some((key, value)) = cursor.entry() else { return Ok(None) };
        // The other end has given out its key and everything beyond.
        let met = there.as_ref().and_then(Cursor::key).is_some_and(
            |other| {
                if from_back { key <= other } else { key >= other }
            },
        );
        if met { Ok(None) } else { Ok(Some((key.to_vec(), value.to_vec()))) }
    }

    fn give(&mut self, from_back: bool) -> Option<Result<KeyValue>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let next = self.advance(from_back).transpose();
        if !matches!(next, Some(Ok(_))) {
            // Ended: it pins nothing any more.
            (self.tree, self.front, self.back) = (None, None, None);
        }
        next
    }
}

impl Iterator for Iter {
    type Item = Result<KeyValue>;

    fn next(&mut self) -> Option<Self::Item> {
        self.give(false)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.give(true)
    }
}

impl std::iter::FusedIterator for Iter {}
