//! The data block: sorted entries, each of which can be reached without those before it.
//!
//! What all keys begin with stands once; the rest of each key, its suffix, stands whole. Where
//! suffixes or values are of one length, as they mostly are, an entry is found by arithmetic, otherwise
//! by where it ends. So a lookup touches the hash index, one suffix and one value, a seek bisects the
//! suffixes, and a scan goes either way at the same cost.
//!
//! ```text
//! contents   := header [suffix_end*] [value_end*] seq_delta* [kind*] bucket* suffix* value*
//! header     := flags:u8 count:varint prefix:prefixed base_seq:varint
//!               [kind:u8, if KIND] [suffix_len:varint, if KEYS] [value_len:varint, if VALUES] bucket_count:varint
//! prefixed   := length:varint bytes
//! flags      := 1 KIND: all entries have `kind`, and carry none of their own
//!               2 KEYS: all suffixes have `suffix_len` bytes, and there is no suffix_end
//!               4 VALUES: all values have `value_len` bytes, and there is no value_end
//!               8 WIDE: ends are u32, otherwise u16
//!               16 times the bytes of a seq_delta, 0 to 8
//! suffix_end := where a suffix ends among the suffixes      value_end := likewise among the values
//! bucket     := u8, the number of an entry that is the first of its key; 255: no key fell here
//! ```
//!
//! Integers are little-endian; there is one of each repeated part for each of the `count` entries, at
//! least one. The key of an entry is `prefix` and its suffix, its sequence number `base_seq + seq_delta`.
//! The bucket of a hash is its upper 32 bits scaled to `bucket_count`, which is four thirds of the distinct
//! keys, or 0 in a block of over 254 entries, and where an index is not wanted. Of the keys that fall into a bucket it names the first.
//!
//! [`Layout::parse`] checks all of this but the order of keys and what buckets say; after it nothing fails.

use std::ops::Range;

use cairn_codec::{DecodeError, Reader, Write, common_prefix, compare, same};

use crate::{KEY_BYTES_MAX, slot};

const KIND: u8 = 1;
const KEYS: u8 = 2;
const VALUES: u8 = 4;
const WIDE: u8 = 8;
const SEQ_BYTES_SHIFT: u8 = 4;
const BUCKET_NONE: u8 = 255;
/// More entries than this carry no buckets.
const BUCKETS_ENTRIES_MAX: usize = 254;

/// Sequence number, kind, ends, and share of the buckets of one entry, about.
const ENTRY_OVERHEAD_BYTES: usize = 8;

/// Collects the entries of one block, then encodes them; used again for the next block.
pub(crate) struct BlockBuilder {
    hash_index: bool,
    pending: Vec<Pending>,
    /// Key and value of each pending entry.
    bytes: Vec<u8>,
    /// How many bytes all pending keys begin with alike.
    prefix_len: usize,
    /// Bytes of all pending keys.
    keys_len: usize,
    /// Survives the block: the next key is compared with it for order.
    last_key: Vec<u8>,
    last_seq: u64,
    encoded: Vec<u8>,
}

struct Pending {
    key_len: usize,
    value_len: usize,
    seq: u64,
    kind: u8,
    hash: u64,
    /// The first version of its key in this block.
    first: bool,
}

impl BlockBuilder {
    pub(crate) fn new(hash_index: bool) -> BlockBuilder {
        BlockBuilder {
            hash_index,
            pending: Vec::new(),
            bytes: Vec::new(),
            prefix_len: 0,
            keys_len: 0,
            last_key: Vec::new(),
            last_seq: 0,
            encoded: Vec::new(),
        }
    }

    /// Adds an entry that sorts after the last.
    pub(crate) fn add(&mut self, key: &[u8], hash: u64, seq: u64, kind: u8, value: &[u8]) {
        let common = common_prefix(&self.last_key, key);
        let begins = self.pending.is_empty();
        let first = begins || common < key.len() || common < self.last_key.len();
        // Keys are sorted: what the first and the last have in common, all have.
        self.prefix_len = if begins { key.len() } else { self.prefix_len.min(common) };
        self.keys_len += key.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.pending.push(Pending { key_len: key.len(), value_len: value.len(), seq, kind, hash, first });
        self.last_key.truncate(common);
        self.last_key.extend_from_slice(key.get(common..).unwrap_or_default());
        self.last_seq = seq;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The key added last, in this block or the one before.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// About how long the contents are.
    pub(crate) fn estimated_bytes(&self) -> usize {
        let shared = self.prefix_len * self.pending.len().saturating_sub(1);
        (self.bytes.len() + self.pending.len() * ENTRY_OVERHEAD_BYTES).saturating_sub(shared)
    }

    /// About how much longer an entry makes them, at most, if it begins as the others do.
    pub(crate) fn estimated_entry_bytes(&self, key: &[u8], value: &[u8]) -> usize {
        key.len().saturating_sub(self.prefix_len) + value.len() + ENTRY_OVERHEAD_BYTES
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
            + self.bytes.capacity()
            + self.last_key.capacity()
            + self.encoded.capacity()
    }

    /// Encodes the entries added since the last call; there must be at least one.
    pub(crate) fn encode(&mut self) -> &[u8] {
        self.encoded.clear();
        let (count, prefix_len) = (self.pending.len(), self.prefix_len);
        let base = self.pending.iter().map(|e| e.seq).min().unwrap_or(0);
        let span = self.pending.iter().map(|e| e.seq).max().unwrap_or(0) - base;
        let seq_bytes = size_of::<u64>() - span.leading_zeros() as usize / 8;
        let one = |of: fn(&Pending) -> usize| {
            let first = self.pending.first().map_or(0, of);
            self.pending.iter().all(|e| of(e) == first).then_some(first)
        };
        let (kind, key_len, value_len) = (one(|e| usize::from(e.kind)), one(|e| e.key_len), one(|e| e.value_len));
        let suffixes_len = self.keys_len - count * prefix_len;
        let values_len = self.bytes.len() - self.keys_len;
        let ends = [(key_len, suffixes_len), (value_len, values_len)];
        let wide = ends.iter().any(|(one, len)| one.is_none() && *len > usize::from(u16::MAX));
        let buckets = if self.hash_index && (2..=BUCKETS_ENTRIES_MAX).contains(&count) {
            let keys = self.pending.iter().filter(|e| e.first).count();
            keys + keys / 3 + 1
        } else {
            0
        };

        let out = &mut self.encoded;
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        out.put_u8(
            flag(kind.is_some(), KIND)
                | flag(key_len.is_some(), KEYS)
                | flag(value_len.is_some(), VALUES)
                | flag(wide, WIDE)
                | (seq_bytes as u8) << SEQ_BYTES_SHIFT,
        );
        out.put_varint(count as u64);
        out.put_prefixed(self.bytes.get(..prefix_len).unwrap_or_default());
        out.put_varint(base);
        if let Some(kind) = kind {
            out.put_u8(kind as u8);
        }
        if let Some(key_len) = key_len {
            out.put_varint((key_len - prefix_len) as u64);
        }
        if let Some(value_len) = value_len {
            out.put_varint(value_len as u64);
        }
        out.put_varint(buckets as u64);
        if key_len.is_none() {
            put_ends(out, wide, self.pending.iter().map(|e| e.key_len - prefix_len));
        }
        if value_len.is_none() {
            put_ends(out, wide, self.pending.iter().map(|e| e.value_len));
        }
        for entry in &self.pending {
            out.extend_from_slice((entry.seq - base).to_le_bytes().get(..seq_bytes).unwrap_or_default());
        }
        if kind.is_none() {
            out.extend(self.pending.iter().map(|e| e.kind));
        }
        let buckets_at = out.len();
        out.resize(buckets_at + buckets, BUCKET_NONE);
        for (number, entry) in self.pending.iter().enumerate().filter(|(_, e)| e.first && buckets > 0) {
            let number = u8::try_from(number).unwrap_or(BUCKET_NONE);
            if let Some(bucket) = out.get_mut(buckets_at + slot(entry.hash, small(buckets)))
                && *bucket == BUCKET_NONE
            {
                *bucket = number;
            }
        }
        let mut rest = self.bytes.as_slice();
        for entry in &self.pending {
            let (key, after) = rest.split_at_checked(entry.key_len).unwrap_or_default();
            out.extend_from_slice(key.get(prefix_len..).unwrap_or_default());
            rest = after.get(entry.value_len..).unwrap_or_default();
        }
        let mut rest = self.bytes.as_slice();
        for entry in &self.pending {
            let (value, after) =
                rest.get(entry.key_len..).unwrap_or_default().split_at_checked(entry.value_len).unwrap_or_default();
            out.extend_from_slice(value);
            rest = after;
        }
        self.pending.clear();
        self.bytes.clear();
        self.keys_len = 0;
        &self.encoded
    }

    /// Gives back the memory a large entry took.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
        self.encoded.shrink_to(bytes);
    }
}

fn put_ends(out: &mut Vec<u8>, wide: bool, lens: impl Iterator<Item = usize>) {
    let mut end = 0;
    for len in lens {
        end += len;
        if wide {
            out.put_u32(small(end));
        } else {
            out.put_u16(u16::try_from(end).unwrap_or(u16::MAX));
        }
    }
}

/// Offsets within a block: limits of key, value and block keep them far under 4 GiB.
fn small(n: usize) -> u32 {
    debug_assert!(u32::try_from(n).is_ok());
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Where the parts of a data block lie; checked against its contents.
#[derive(Debug)]
pub(crate) struct Layout {
    count: usize,
    prefix_at: usize,
    prefix_len: usize,
    base_seq: u64,
    kind: Option<u8>,
    seq_bytes: usize,
    bucket_count: u32,
    buckets_at: usize,
    seqs_at: usize,
    kinds_at: usize,
    suffixes: Column,
    values: Column,
}

/// Strings one after the other.
#[derive(Debug)]
struct Column {
    at: usize,
    len: Length,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    /// All have this many bytes.
    One(usize),
    /// Where each ends stands from here on, in two bytes.
    Narrow(usize),
    /// In four bytes.
    Wide(usize),
}

impl Column {
    /// Where string `n` of the column begins and ends. The column is known to have it.
    #[inline]
    fn range(&self, contents: &[u8], n: usize) -> (usize, usize) {
        let before = n.checked_sub(1);
        match self.len {
            Length::One(len) => (self.at + n * len, self.at + n * len + len),
            Length::Narrow(ends) => {
                let end = |n: usize| {
                    let bytes = contents.get(ends + n * 2..).and_then(|rest| rest.first_chunk::<2>());
                    bytes.map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
                };
                (self.at + before.map_or(0, end), self.at + end(n))
            }
            Length::Wide(ends) => {
                let end = |n: usize| {
                    let bytes = contents.get(ends + n * 4..).and_then(|rest| rest.first_chunk::<4>());
                    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
                };
                (self.at + before.map_or(0, end), self.at + end(n))
            }
        }
    }

    /// Whether none of the `count` ends goes back, so that each string lies within the column.
    fn ends_ascend(&self, contents: &[u8], count: usize) -> bool {
        // Without a branch for each: several are compared at once.
        match self.len {
            Length::One(_) => true,
            Length::Narrow(ends) => {
                let ends = contents.get(ends..ends + count * 2).unwrap_or_default().as_chunks::<2>().0;
                let pairs = ends.iter().zip(ends.iter().skip(1));
                pairs.fold(true, |all, (a, b)| all & (u16::from_le_bytes(*a) <= u16::from_le_bytes(*b)))
            }
            Length::Wide(ends) => {
                let ends = contents.get(ends..ends + count * 4).unwrap_or_default().as_chunks::<4>().0;
                let pairs = ends.iter().zip(ends.iter().skip(1));
                pairs.fold(true, |all, (a, b)| all & (u32::from_le_bytes(*a) <= u32::from_le_bytes(*b)))
            }
        }
    }

    #[inline]
    fn get<'a>(&self, contents: &'a [u8], n: usize) -> &'a [u8] {
        let (start, end) = self.range(contents, n);
        contents.get(start..end).unwrap_or_default()
    }
}

/// Gives out what stands one after the other from an offset on.
struct Parts {
    at: usize,
    end: usize,
}

impl Parts {
    /// The next part of `count` times `each` bytes.
    fn take(&mut self, count: usize, each: usize) -> Result<usize, DecodeError> {
        let at = self.at;
        let short = DecodeError { offset: at, what: "data block too short for its entries" };
        self.at =
            count.checked_mul(each).and_then(|len| at.checked_add(len)).filter(|end| *end <= self.end).ok_or(short)?;
        Ok(at)
    }
}

impl Layout {
    pub(crate) fn parse(contents: &[u8]) -> Result<Layout, DecodeError> {
        let mut header = Reader::new(contents);
        let error = |offset, what| Err(DecodeError { offset, what });
        let flags = header.u8()?;
        let seq_bytes = usize::from(flags >> SEQ_BYTES_SHIFT);
        if seq_bytes > size_of::<u64>() {
            return error(0, "sequence numbers of over eight bytes");
        }
        // Two entries differ by a byte at least.
        let count = header.varint_len(contents.len())?;
        let prefix = header.prefixed()?;
        let (prefix_at, prefix_len) = (header.offset() - prefix.len(), prefix.len());
        let base_seq = header.varint()?;
        let kind = if flags & KIND != 0 { Some(header.u8()?) } else { None };
        let mut len_if =
            |flag: u8| if flags & flag != 0 { header.varint_len(contents.len()).map(Some) } else { Ok(None) };
        let (suffix_len, value_len) = (len_if(KEYS)?, len_if(VALUES)?);
        let bucket_count = header.varint_len(contents.len())?;
        if count == 0 {
            return error(0, "a data block without entries");
        }

        let mut parts = Parts { at: header.offset(), end: contents.len() };
        let end_bytes = if flags & WIDE != 0 { 4 } else { 2 };
        let mut lengths = |one: Option<usize>| -> Result<Length, DecodeError> {
            Ok(match one {
                Some(len) => Length::One(len),
                None if end_bytes == 4 => Length::Wide(parts.take(count, 4)?),
                None => Length::Narrow(parts.take(count, 2)?),
            })
        };
        let (suffix_lengths, value_lengths) = (lengths(suffix_len)?, lengths(value_len)?);
        let seqs_at = parts.take(count, seq_bytes)?;
        let kinds_at = parts.take(if kind.is_none() { count } else { 0 }, 1)?;
        let buckets_at = parts.take(bucket_count, 1)?;
        let mut column = |len: Length| -> Result<Column, DecodeError> {
            let column = Column { at: parts.at, len };
            if !column.ends_ascend(contents, count) {
                return Err(DecodeError { offset: parts.at, what: "ends out of order" });
            }
            let (_, end) = column.range(contents, count - 1);
            parts.take(1, end - parts.at)?;
            Ok(column)
        };
        let (suffixes, values) = (column(suffix_lengths)?, column(value_lengths)?);
        if parts.at != parts.end {
            return error(parts.at, "bytes behind the last value");
        }
        let layout = Layout {
            count,
            prefix_at,
            prefix_len,
            base_seq,
            kind,
            seq_bytes,
            bucket_count: small(bucket_count),
            buckets_at,
            seqs_at,
            kinds_at,
            suffixes,
            values,
        };
        let block = DataBlock { contents, layout: &layout };
        let lens = if suffix_len.is_some() { 0..1 } else { 0..count };
        for n in lens {
            let len = prefix_len + block.suffix(n).len();
            if len == 0 || len > KEY_BYTES_MAX {
                return error(prefix_at, "a key of impossible length");
            }
        }
        // Only where so large a delta could be does one have to look.
        let delta_max = u64::MAX.checked_shr(64 - 8 * seq_bytes as u32).unwrap_or(0);
        let overflows = |n: usize| base_seq.checked_add(block.seq_delta(n)).is_none();
        if base_seq.checked_add(delta_max).is_none() && (0..count).any(overflows) {
            return error(seqs_at, "sequence number over 64 bits");
        }
        let buckets = contents.get(buckets_at..buckets_at + bucket_count).unwrap_or_default();
        // One more than the largest number; 255, which is none, becomes 0. Branches would be guessed wrong.
        let named = buckets.iter().fold(0, |max, bucket| u8::max(max, bucket.wrapping_add(1)));
        if usize::from(named) > count {
            return error(buckets_at, "the hash index names an entry that does not exist");
        }
        Ok(layout)
    }
}

/// An entry, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number in the block.
    pub(crate) number: usize,
    pub(crate) seq: u64,
    pub(crate) kind: u8,
    /// Where its value begins and ends.
    pub(crate) value_at: usize,
    pub(crate) value_end: usize,
}

/// What the hash index says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    /// Nothing: bisect.
    Unknown,
    /// The key is not in this block.
    Absent,
    /// If this entry is not of the key, bisect.
    Entry(usize),
}

/// Reads a data block.
#[derive(Clone, Copy)]
pub(crate) struct DataBlock<'a> {
    pub(crate) contents: &'a [u8],
    pub(crate) layout: &'a Layout,
}

impl<'a> DataBlock<'a> {
    /// Number of entries, at least one.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.layout.count
    }

    pub(crate) fn bucket_count(&self) -> usize {
        self.layout.bucket_count as usize
    }

    /// What all keys begin with.
    #[inline]
    pub(crate) fn prefix(&self) -> &'a [u8] {
        let Layout { prefix_at, prefix_len, .. } = *self.layout;
        self.contents.get(prefix_at..prefix_at + prefix_len).unwrap_or_default()
    }

    /// The key of entry `number` behind the prefix.
    #[inline]
    pub(crate) fn suffix(&self, number: usize) -> &'a [u8] {
        self.layout.suffixes.get(self.contents, number)
    }

    #[inline]
    fn seq_delta(&self, number: usize) -> u64 {
        let len = self.layout.seq_bytes;
        let at = self.layout.seqs_at + number * len;
        // Most often there are eight bytes to load, of which some belong to others.
        match self.contents.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(_) if len == 0 => 0,
            Some(bytes) => u64::from_le_bytes(*bytes) & (u64::MAX >> (64 - 8 * len)),
            None => {
                let mut bytes = [0; 8];
                for (to, from) in bytes.iter_mut().zip(self.contents.get(at..at + len).unwrap_or_default()) {
                    *to = *from;
                }
                u64::from_le_bytes(bytes)
            }
        }
    }

    /// The sequence number of entry `number`.
    #[inline]
    pub(crate) fn seq(&self, number: usize) -> u64 {
        self.layout.base_seq.wrapping_add(self.seq_delta(number))
    }

    /// Entry `number`, if there is one.
    #[inline]
    pub(crate) fn entry(&self, number: usize) -> Option<Entry> {
        if number >= self.layout.count {
            return None;
        }
        let kind = self.kind(number);
        let (value_at, value_end) = self.layout.values.range(self.contents, number);
        Some(Entry { number, seq: self.seq(number), kind, value_at, value_end })
    }

    /// The kind of entry `number`, which there must be; 0 otherwise.
    #[inline]
    pub(crate) fn kind(&self, number: usize) -> u8 {
        match self.layout.kind {
            Some(kind) => kind,
            None => self.contents.get(self.layout.kinds_at + number).copied().unwrap_or(0),
        }
    }

    /// The value of entry `number`, which there must be.
    #[inline]
    pub(crate) fn value(&self, number: usize) -> &'a [u8] {
        self.layout.values.get(self.contents, number)
    }

    /// Where that value begins and ends.
    #[inline]
    pub(crate) fn value_range(&self, number: usize) -> Range<usize> {
        let (start, end) = self.layout.values.range(self.contents, number);
        start..end
    }

    /// Makes `key`, which is that of another entry of this block, that of entry `number`; whether they differ.
    #[inline]
    pub(crate) fn move_key(&self, key: &mut Vec<u8>, number: usize) -> bool {
        let suffix = self.suffix(number);
        match key.get_mut(self.layout.prefix_len..) {
            Some(before) if before.len() == suffix.len() => {
                let differs = !same(before, suffix);
                if differs {
                    before.copy_from_slice(suffix);
                }
                differs
            }
            _ => {
                key.truncate(self.layout.prefix_len);
                key.extend_from_slice(suffix);
                true
            }
        }
    }

    /// Makes `key` that of entry `number`.
    pub(crate) fn set_key(&self, key: &mut Vec<u8>, number: usize) {
        key.clear();
        key.extend_from_slice(self.prefix());
        key.extend_from_slice(self.suffix(number));
    }

    /// Whether entry `number` is of another key than the one before it; false for the first, of which it is not known.
    #[inline]
    pub(crate) fn begins_key(&self, number: usize) -> bool {
        number.checked_sub(1).is_some_and(|before| !same(self.suffix(before), self.suffix(number)))
    }

    /// Whether the hash index is what it must be for these entries that begin a key, given with their keys' hashes.
    pub(crate) fn hash_index_is(&self, firsts: &[(usize, u64)]) -> bool {
        let mut buckets = vec![BUCKET_NONE; self.bucket_count()];
        for (number, hash) in firsts {
            if let Some(bucket) = buckets.get_mut(slot(*hash, self.layout.bucket_count))
                && *bucket == BUCKET_NONE
            {
                *bucket = u8::try_from(*number).unwrap_or(BUCKET_NONE);
            }
        }
        let at = self.layout.buckets_at;
        self.contents.get(at..at + buckets.len()) == Some(&buckets)
    }

    /// What the hash index says of a key with this hash.
    #[inline]
    pub(crate) fn bucket(&self, hash: u64) -> Bucket {
        let Layout { bucket_count, buckets_at, .. } = *self.layout;
        if bucket_count == 0 {
            return Bucket::Unknown;
        }
        match self.contents.get(buckets_at + slot(hash, bucket_count)) {
            Some(&BUCKET_NONE) => Bucket::Absent,
            Some(&number) => Bucket::Entry(usize::from(number)),
            None => Bucket::Unknown,
        }
    }

    /// The number of the first entry at or after `(key, seq)`; past the last if there is none.
    pub(crate) fn at_or_after(&self, key: &[u8], seq: u64) -> usize {
        match self.behind_prefix(key) {
            Some(suffix) => self.bisect(suffix, seq),
            None if compare(key, self.prefix()).is_lt() => 0,
            None => self.layout.count,
        }
    }

    /// What follows the prefix in a key that begins with it.
    #[inline]
    pub(crate) fn behind_prefix<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let (start, rest) = key.split_at_checked(self.layout.prefix_len)?;
        same(start, self.prefix()).then_some(rest)
    }

    fn bisect(&self, suffix: &[u8], seq: u64) -> usize {
        let (mut low, mut high) = (0, self.layout.count);
        while low < high {
            let middle = low.midpoint(high);
            if compare(self.suffix(middle), suffix).then_with(|| seq.cmp(&self.seq(middle))).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The newest version of `key` in this block that is no newer than `max_seq`.
    pub(crate) fn find(&self, key: &[u8], hash: u64, max_seq: u64) -> Option<Entry> {
        let suffix = self.behind_prefix(key)?;
        let bucket = self.bucket(hash);
        if bucket == Bucket::Absent {
            return None;
        }
        if let Bucket::Entry(number) = bucket
            && same(self.suffix(number), suffix)
        {
            // The newest of its key here; most often the only one.
            if self.seq(number) <= max_seq {
                return self.entry(number);
            }
        }
        let number = self.bisect(suffix, max_seq);
        self.entry(number).filter(|_| same(self.suffix(number), suffix))
    }
}

#[cfg(test)]
mod tests;
