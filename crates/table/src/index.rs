//! An index: for each block a separator that sorts at or after its last entry and before the first
//! entry of the next block. A partition has one over its data blocks; the table has one over its
//! partitions, whose separators are the last of each.
//!
//! ```text
//! index := prefix:prefixed count:varint block*           prefixed := length:varint bytes
//! block := suffix:prefixed seq:varint payload_len:varint
//! ```
//!
//! `prefix` is common to all separators; a separator is prefix and suffix. Between different user
//! keys it is the shortest string that separates them, and `seq` is 0: it stands after every
//! version of its key. Where versions of one key run on into the next block, the separator is that
//! key, and `seq` (then at least 1) is that of the block's last entry. Separators are strictly
//! ascending by (key, seq descending). Blocks lie end to end, so their lengths and where the first
//! begins give their offsets.
//!
//! In memory the first 8 bytes of each suffix, its head, stand as numbers in one array, each beside where its block begins: a search
//! touches that array alone unless heads are equal.

use std::cmp::Ordering;

use cairn_codec::{DecodeError, Reader, Write, common_prefix, compare, head, same};

use crate::footer::Handle;

/// Collects separators while a table is written.
#[derive(Default)]
pub(crate) struct IndexBuilder {
    keys: Vec<u8>,
    blocks: Vec<Separator>,
}

struct Separator {
    key_end: usize,
    seq: u64,
    payload_len: usize,
}

impl IndexBuilder {
    /// Adds the block whose last entry is `(last_key, last_seq)`; `next_key` is the first user key
    /// of the block after it.
    pub(crate) fn add(&mut self, last_key: &[u8], last_seq: u64, next_key: Option<&[u8]>, payload_len: usize) {
        let next = next_key.unwrap_or_default();
        let common = common_prefix(last_key, next);
        let goes_on = next_key == Some(last_key);
        match (last_key.get(common), next.get(common)) {
            // Cut behind the byte where the next key departs, if more of it follows.
            (Some(_), Some(_)) if next.len() > common + usize::from(!cairn_env::mutant("separator-off-by-one")) => {
                self.keys.extend_from_slice(next.get(..=common).unwrap_or_default());
            }
            (Some(ours), Some(theirs)) if theirs - ours > 1 => {
                self.keys.extend_from_slice(last_key.get(..common).unwrap_or_default());
                self.keys.push(ours + 1);
            }
            _ => self.keys.extend_from_slice(last_key),
        }
        let seq = if goes_on && !cairn_env::mutant("split-versions-not-separated") { last_seq } else { 0 };
        self.blocks.push(Separator { key_end: self.keys.len(), seq, payload_len });
    }

    /// Adds a partition of `payload_len` that ends with the last separator of `blocks`.
    pub(crate) fn add_partition(&mut self, blocks: &IndexBuilder, payload_len: usize) {
        let Some(last) = blocks.blocks.len().checked_sub(1) else { return };
        self.keys.extend_from_slice(blocks.key(last));
        let seq = blocks.blocks.get(last).map_or(0, |block| block.seq);
        self.blocks.push(Separator { key_end: self.keys.len(), seq, payload_len });
    }

    /// Blocks added.
    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The payload length of each block.
    pub(crate) fn payload_lens(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(|block| block.payload_len)
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.blocks.clear();
    }

    /// About how long the encoding is.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.keys.len() + self.blocks.len() * 5
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.keys.capacity() + self.blocks.capacity() * size_of::<Separator>()
    }

    fn key(&self, i: usize) -> &[u8] {
        let end = |i: usize| self.blocks.get(i).map_or(0, |b| b.key_end);
        let start = i.checked_sub(1).map_or(0, end);
        self.keys.get(start..end(i)).unwrap_or_default()
    }

    /// Appends the encoding to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let last = self.key(self.blocks.len().saturating_sub(1));
        let prefix = common_prefix(self.key(0), last);
        out.put_prefixed(last.get(..prefix).unwrap_or_default());
        out.put_varint(self.blocks.len() as u64);
        for (i, block) in self.blocks.iter().enumerate() {
            out.put_prefixed(self.key(i).get(prefix..).unwrap_or_default());
            out.put_varint(block.seq);
            out.put_varint(block.payload_len as u64);
        }
    }
}

/// What a search compares, and what it is for: where the block begins.
struct BlockStart {
    /// Of the suffix of its separator.
    head: u64,
    offset: u64,
}

/// So many blocks and fewer are searched without bisecting: those of a partition are.
const SWEPT_MAX: usize = 64;

/// How many blocks have a head below `wanted`.
///
/// Bisecting waits for one line of memory after the other. Among few blocks every eighth is compared instead, then the eight
/// between: lines that do not depend on one another come at the same time.
#[inline]
fn count_below(mut blocks: &[BlockStart], wanted: u64) -> usize {
    let mut below = 0;
    while blocks.len() > SWEPT_MAX {
        let (left, right) = blocks.split_at(blocks.len() / 2);
        match right.first() {
            Some(first) if first.head < wanted => {
                below += left.len();
                blocks = right;
            }
            _ => blocks = left,
        }
    }
    let among = |blocks: &[BlockStart]| blocks.iter().map(|block| usize::from(block.head < wanted)).sum::<usize>();
    let (eights, rest) = blocks.as_chunks::<8>();
    let whole = eights.iter().map(|[.., last]| usize::from(last.head < wanted)).sum::<usize>();
    below + whole * 8 + eights.get(whole).map_or_else(|| among(rest), |eight| among(eight))
}

/// The index in memory, in flat arrays.
pub(crate) struct Index {
    prefix: Vec<u8>,
    blocks: Vec<BlockStart>,
    /// Where the suffix of each separator ends in `suffixes`.
    ends: Vec<u32>,
    suffixes: Vec<u8>,
    /// Where the last block ends.
    end: u64,
    /// Number of the block and `seq` of the separators whose `seq` is not 0: few, if any.
    splits: Vec<(usize, u64)>,
}

impl Index {
    /// Decodes an index over blocks of which the first begins at `start`, and leaves what follows.
    pub(crate) fn decode(reader: &mut Reader<'_>, start: u64) -> Result<Index, DecodeError> {
        let prefix = reader.prefixed()?.to_vec();
        // Each block takes at least three bytes.
        let count = reader.varint_len(reader.remaining() / 3)?;
        let mut index = Index {
            prefix,
            blocks: Vec::with_capacity(count),
            ends: Vec::with_capacity(count),
            suffixes: Vec::with_capacity(reader.remaining() - count * 2),
            end: start,
            splits: Vec::new(),
        };
        for i in 0..count {
            let error = |what| reader.error(what);
            let (beyond, order, long) = (
                error("blocks of the index run over the end of the file"),
                error("separators of the index are out of order"),
                error("index over 4 GiB"),
            );
            let suffix = reader.prefixed()?;
            let seq = reader.varint()?;
            let len = usize::try_from(reader.varint()?).map_err(|_| beyond)?;
            if i > 0 && index.compare(i - 1, suffix, seq) != Ordering::Less {
                return Err(order);
            }
            index.blocks.push(BlockStart { head: head(suffix), offset: index.end });
            index.suffixes.extend_from_slice(suffix);
            index.ends.push(u32::try_from(index.suffixes.len()).map_err(|_| long)?);
            if seq > 0 {
                index.splits.push((i, seq));
            }
            index.end = Handle { offset: index.end, len }.end().ok_or(beyond)?;
        }
        if count == 0 {
            return Err(reader.error("an index of no blocks"));
        }
        index.suffixes.shrink_to_fit();
        Ok(index)
    }

    fn suffix(&self, i: usize) -> &[u8] {
        let end = |i: usize| self.ends.get(i).map_or(0, |end| *end as usize);
        let start = i.checked_sub(1).map_or(0, end);
        self.suffixes.get(start..end(i)).unwrap_or_default()
    }

    /// The sequence number of separator `i`; 0 stands after all versions of its key.
    pub(crate) fn seq(&self, i: usize) -> u64 {
        let at = self.splits.binary_search_by_key(&i, |(block, _)| *block);
        at.ok().and_then(|at| self.splits.get(at)).map_or(0, |(_, seq)| *seq)
    }

    /// How separator `i` sorts against (`prefix` and `suffix`, `seq`).
    fn compare(&self, i: usize, suffix: &[u8], seq: u64) -> Ordering {
        compare(self.suffix(i), suffix).then_with(|| seq.cmp(&self.seq(i)))
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The key of separator `i`.
    pub(crate) fn separator(&self, i: usize) -> Vec<u8> {
        [self.prefix.as_slice(), self.suffix(i)].concat()
    }

    /// Where the first block begins.
    pub(crate) fn start(&self) -> u64 {
        self.blocks.first().map_or(self.end, |block| block.offset)
    }

    /// Where the last block ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where the blocks lie.
    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> {
        (0..self.block_count()).map_while(|i| self.handle(i))
    }

    /// Where block `i` lies.
    pub(crate) fn handle(&self, i: usize) -> Option<Handle> {
        let offset = self.blocks.get(i)?.offset;
        let end = self.blocks.get(i + 1).map_or(self.end, |next| next.offset);
        let stored = usize::try_from(end.checked_sub(offset)?).ok()?;
        Some(Handle { offset, len: stored.checked_sub(crate::seal::TRAILER_BYTES)? })
    }

    /// The only block that may hold a version of `key` no newer than `seq`; also the first that
    /// may hold any entry at or after `(key, seq)`. None if every entry sorts before it.
    pub(crate) fn find(&self, key: &[u8], seq: u64) -> Option<usize> {
        let prefix = self.prefix.as_slice();
        let suffix = match key.split_at_checked(prefix.len()) {
            Some((start, suffix)) if same(start, prefix) => suffix,
            _ => return compare(key, prefix).is_lt().then_some(0),
        };
        let wanted = head(suffix);
        let low = count_below(&self.blocks, wanted);
        match self.blocks.get(low) {
            // Heads are mostly as good as the whole: few separators have the same.
            Some(block) if block.head == wanted => self.find_among_equals(low, suffix, seq),
            other => other.map(|_| low),
        }
    }

    /// As [`Index::find`], among the separators from `low` on, of which the first has the head of `suffix`.
    #[cold]
    fn find_among_equals(&self, mut low: usize, suffix: &[u8], seq: u64) -> Option<usize> {
        let wanted = head(suffix);
        let rest = self.blocks.get(low..).unwrap_or_default();
        let mut high = low + rest.partition_point(|block| block.head == wanted);
        while low < high {
            let middle = low.midpoint(high);
            if self.compare(middle, suffix, seq) == Ordering::Less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < self.blocks.len()).then_some(low)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.prefix.capacity()
            + self.suffixes.capacity()
            + self.blocks.capacity() * size_of::<BlockStart>()
            + self.ends.capacity() * size_of::<u32>()
            + self.splits.capacity() * size_of::<(usize, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(separators: &[(&[u8], u64)]) -> Result<Index, DecodeError> {
        let builder = IndexBuilder {
            keys: separators.iter().flat_map(|(key, _)| key.iter().copied()).collect(),
            blocks: separators
                .iter()
                .scan(0, |end, (key, seq)| {
                    *end += key.len();
                    Some(Separator { key_end: *end, seq: *seq, payload_len: 91 })
                })
                .collect(),
        };
        decode(&builder, 1000)
    }

    fn decode(builder: &IndexBuilder, start: u64) -> Result<Index, DecodeError> {
        let mut bytes = Vec::new();
        builder.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let index = Index::decode(&mut reader, start)?;
        reader.finish()?;
        Ok(index)
    }

    #[test]
    fn separators_are_short_and_between() {
        type Case<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8], u64);
        let cases: [Case<'_>; 8] = [
            (b"apple", Some(b"banana"), b"b", 0),
            (b"key0099", Some(b"key0100"), b"key01", 0),
            (b"ab", Some(b"ad"), b"ac", 0),
            (b"abxyz", Some(b"ac"), b"abxyz", 0),
            (b"ab", Some(b"abc"), b"ab", 0),
            (b"k", Some(b"k"), b"k", 7),
            (b"\xff", Some(b"\xff\x00"), b"\xff", 0),
            (b"last", None, b"last", 0),
        ];
        for (last, next, separator, seq) in cases {
            let mut builder = IndexBuilder::default();
            builder.add(last, 7, next, 10);
            assert_eq!((builder.key(0), builder.blocks[0].seq), (separator, seq), "{last:?} {next:?}");
            assert!(last <= separator && next.is_none_or(|next| separator < next || last == next));
        }
    }

    #[test]
    fn finds_the_first_block_at_or_after() {
        let index = index(&[
            (b"pre.b", 0),
            (b"pre.long-head-1", 0),
            (b"pre.long-head-2", 0),
            (b"pre.m", 9),
            (b"pre.m", 4),
            (b"pre.m", 0),
            (b"pre.m\x00", 0),
        ])
        .unwrap();
        let cases: [(&[u8], u64, Option<usize>); 14] = [
            (b"", 5, Some(0)),
            (b"pr", 5, Some(0)),
            (b"pre.", 5, Some(0)),
            (b"pre.b", 0, Some(0)),
            (b"pre.b\x00", 5, Some(1)),
            (b"pre.long-head-10", 5, Some(2)),
            (b"pre.long-head-2", 0, Some(2)),
            (b"pre.m", u64::MAX, Some(3)),
            (b"pre.m", 9, Some(3)),
            (b"pre.m", 8, Some(4)),
            (b"pre.m", 3, Some(5)),
            (b"pre.m\x00", 3, Some(6)),
            (b"pre.z", 5, None),
            (b"q", 5, None),
        ];
        for (key, seq, block) in cases {
            assert_eq!(index.find(key, seq), block, "{:?} {seq}", key.escape_ascii().to_string());
        }
        assert_eq!(index.handle(6), Some(Handle { offset: 1600, len: 91 }));
        assert_eq!(index.handle(7), None);
        assert_eq!((index.start(), index.end()), (1000, 1700));
    }

    #[test]
    fn heads_are_counted_as_they_would_be_one_by_one() {
        for count in (0..40).chain([63, 64, 65, 127, 128, 129, 130, 500]) {
            for repeats in [1, 3, 200] {
                let blocks: Vec<BlockStart> =
                    (0..count).map(|i| BlockStart { head: 10 + i / repeats * 10, offset: i }).collect();
                for wanted in (0..=count * 10 + 20).step_by(5).chain([u64::MAX]) {
                    let expected = blocks.iter().filter(|block| block.head < wanted).count();
                    assert_eq!(count_below(&blocks, wanted), expected, "{wanted} among {count}, {repeats} alike");
                }
            }
        }
    }

    #[test]
    fn disorder_cuts_and_overflow_are_refused() {
        assert!(index(&[(b"b", 0), (b"a", 0)]).is_err());
        assert!(index(&[(b"a", 0), (b"a", 0)]).is_err());
        assert!(index(&[(b"a", 3), (b"a", 5)]).is_err());
        assert!(index(&[]).is_err());
        let mut builder = IndexBuilder::default();
        builder.add(b"k", 1, None, 91);
        assert!(decode(&builder, u64::MAX - 100).is_ok());
        assert!(decode(&builder, u64::MAX - 99).is_err());
        let mut good = Vec::new();
        builder.encode(&mut good);
        for cut in 0..good.len() {
            assert!(Index::decode(&mut Reader::new(&good[..cut]), 0).is_err());
        }
    }
}
