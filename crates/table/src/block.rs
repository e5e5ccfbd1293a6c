//! The data block: sorted entries whose keys are stored as what differs from the key before.
//!
//! Neighbouring keys share long prefixes, so an entry holds only how many bytes it shares and the
//! rest. Every `restart_interval` entries a key is stored whole: a restart, where decoding can
//! begin. Restarts are searched by bisection, or found at once through the hash index, which maps
//! the hash of a user key to the restart at or after which its first version lies.
//!
//! Values stand apart, after all keys: a search passes a handful of entries, and this way they
//! share a cache line or two, where values between them would make each a miss of its own.
//!
//! ```text
//! contents := header entry+ value+ restart+ bucket* restart_count:u32 bucket_count:u16
//! header   := flags:u8 base_seq:varint [kind:u8, if flag 2]
//! flags    := 1: all entries have base_seq, and carry no seq_delta
//!             2: all entries have kind, and carry none of their own
//! entry    := shared:varint suffix_len:varint value_len:varint
//!             suffix [seq_delta:varint] [kind:u8]
//! value    := value_len bytes, in the order of the entries
//! restart  := entry_at:u32 value_at:u32, where in the contents an entry with shared = 0 begins, and
//!             its value; entry_at strictly ascending, the first restart is the first entry
//! bucket   := u8, number of a restart; 254: keys of several restarts fell here; 255: none did
//! ```
//!
//! Integers are little-endian. The sequence number of an entry is `base_seq + seq_delta`; an entry's
//! key is the first `shared` bytes of the key before, then `suffix`. A block of only one restart,
//! or of more than 253, carries no buckets. The bucket of a hash is its upper 32 bits scaled to
//! `bucket_count`; buckets number four thirds of the distinct user keys.

use cairn_codec::{DecodeError, Reader, Write, common_prefix, compare};

use crate::{KEY_BYTES_MAX, slot};

const UNIFORM_SEQ: u8 = 1;
const UNIFORM_KIND: u8 = 2;
const TAIL_BYTES: usize = 6;
const RESTART_BYTES: usize = 8;
const BUCKET_MANY: u8 = 254;
const BUCKET_NONE: u8 = 255;

/// Lengths, sequence number, and shares of restart and buckets of one entry, about.
const ENTRY_OVERHEAD_BYTES: usize = 8;

/// Collects the entries of one block, then encodes them; used again for the next block.
pub(crate) struct BlockBuilder {
    restart_interval: usize,
    hash_index: bool,
    pending: Vec<Pending>,
    /// Suffix and value of each pending entry.
    bytes: Vec<u8>,
    /// Survives the block: the next key is compared with it for order.
    last_key: Vec<u8>,
    last_seq: u64,
    encoded: Vec<u8>,
    restarts: Vec<(u32, u32)>,
}

struct Pending {
    shared: usize,
    suffix_len: usize,
    value_len: usize,
    seq: u64,
    kind: u8,
    hash: u64,
    /// The first version of its key in this block.
    first: bool,
}

impl BlockBuilder {
    pub(crate) fn new(restart_interval: usize, hash_index: bool) -> BlockBuilder {
        BlockBuilder {
            restart_interval,
            hash_index,
            pending: Vec::new(),
            bytes: Vec::new(),
            last_key: Vec::new(),
            last_seq: 0,
            encoded: Vec::new(),
            restarts: Vec::new(),
        }
    }

    /// Adds an entry that sorts after the last.
    pub(crate) fn add(&mut self, key: &[u8], hash: u64, seq: u64, kind: u8, value: &[u8]) {
        let common = if self.pending.is_empty() { 0 } else { common_prefix(&self.last_key, key) };
        let first = self.pending.is_empty() || common < key.len() || common < self.last_key.len();
        let shared = if self.pending.len().is_multiple_of(self.restart_interval) { 0 } else { common };
        let suffix = key.get(shared..).unwrap_or_default();
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(value);
        self.pending.push(Pending { shared, suffix_len: suffix.len(), value_len: value.len(), seq, kind, hash, first });
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
        self.bytes.len() + self.pending.len() * ENTRY_OVERHEAD_BYTES
    }

    /// About how much longer an entry makes them, at most.
    pub(crate) fn estimated_entry_bytes(key: &[u8], value: &[u8]) -> usize {
        key.len() + value.len() + ENTRY_OVERHEAD_BYTES
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
            + self.bytes.capacity()
            + self.last_key.capacity()
            + self.encoded.capacity()
            + self.restarts.capacity() * size_of::<(u32, u32)>()
    }

    /// Encodes the entries added since the last call; there must be at least one.
    pub(crate) fn encode(&mut self) -> &[u8] {
        self.encoded.clear();
        self.restarts.clear();
        let base = self.pending.iter().map(|e| e.seq).min().unwrap_or(0);
        let kind = self.pending.first().map_or(0, |e| e.kind);
        let uniform_seq = self.pending.iter().all(|e| e.seq == base);
        let uniform_kind = self.pending.iter().all(|e| e.kind == kind);
        let out = &mut self.encoded;
        out.put_u8(if uniform_seq { UNIFORM_SEQ } else { 0 } | if uniform_kind { UNIFORM_KIND } else { 0 });
        out.put_varint(base);
        if uniform_kind {
            out.put_u8(kind);
        }
        let mut rest = self.bytes.as_slice();
        let mut value_at = 0;
        for (i, entry) in self.pending.iter().enumerate() {
            if i.is_multiple_of(self.restart_interval) {
                self.restarts.push((small(out.len()), small(value_at)));
            }
            out.put_varint(entry.shared as u64);
            out.put_varint(entry.suffix_len as u64);
            out.put_varint(entry.value_len as u64);
            let (suffix, after) = rest.split_at_checked(entry.suffix_len).unwrap_or_default();
            rest = after.get(entry.value_len..).unwrap_or_default();
            value_at += entry.value_len;
            out.extend_from_slice(suffix);
            if !uniform_seq {
                out.put_varint(entry.seq - base);
            }
            if !uniform_kind {
                out.put_u8(entry.kind);
            }
        }
        let values_at = small(out.len());
        let mut rest = self.bytes.as_slice();
        for entry in &self.pending {
            let value = rest.get(entry.suffix_len..).unwrap_or_default();
            let (value, after) = value.split_at_checked(entry.value_len).unwrap_or_default();
            out.extend_from_slice(value);
            rest = after;
        }
        for (entry_at, value_at) in &self.restarts {
            out.put_u32(*entry_at);
            out.put_u32(values_at + *value_at);
        }
        let restarts = small(self.restarts.len());
        let bucket_count = self.encode_buckets();
        self.encoded.put_u32(restarts);
        self.encoded.put_u16(bucket_count);
        self.pending.clear();
        self.bytes.clear();
        &self.encoded
    }

    fn encode_buckets(&mut self) -> u16 {
        if !self.hash_index || !(2..=usize::from(BUCKET_MANY)).contains(&self.restarts.len()) {
            return 0;
        }
        let keys = self.pending.iter().filter(|e| e.first).count();
        let count = u16::try_from(keys + keys / 3 + 1).unwrap_or(u16::MAX);
        let start = self.encoded.len();
        self.encoded.resize(start + usize::from(count), BUCKET_NONE);
        for (i, entry) in self.pending.iter().enumerate().filter(|(_, e)| e.first) {
            let restart = u8::try_from(i / self.restart_interval).unwrap_or(BUCKET_MANY);
            if let Some(bucket) = self.encoded.get_mut(start + slot(entry.hash, u32::from(count))) {
                let free = *bucket == BUCKET_NONE || *bucket == restart;
                *bucket = if free { restart } else { BUCKET_MANY };
            }
        }
        count
    }

    /// Gives back the memory a large entry took.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
        self.encoded.shrink_to(bytes);
    }
}

/// Offsets within a block: limits of key, value and block keep them far under 4 GiB.
fn small(n: usize) -> u32 {
    debug_assert!(u32::try_from(n).is_ok());
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Where the parts of a data block lie; checked against its contents.
pub(crate) struct Layout {
    base_seq: u64,
    uniform_seq: bool,
    uniform_kind: Option<u8>,
    /// Where the entries end and the values begin.
    entries_end: usize,
    /// Where the values end and the restarts begin.
    values_end: usize,
    restart_count: usize,
    bucket_count: u16,
}

impl Layout {
    pub(crate) fn parse(contents: &[u8]) -> Result<Layout, DecodeError> {
        let no_room = DecodeError { offset: contents.len(), what: "data block too short for its tail" };
        let tail_at = contents.len().checked_sub(TAIL_BYTES).ok_or(no_room)?;
        let mut tail = Reader::new(contents.get(tail_at..).unwrap_or_default());
        let restart_count = usize::try_from(tail.u32()?).unwrap_or(usize::MAX);
        let bucket_count = tail.u16()?;
        let values_end = restart_count
            .checked_mul(RESTART_BYTES)
            .and_then(|restarts| tail_at.checked_sub(restarts))
            .and_then(|left| left.checked_sub(usize::from(bucket_count)))
            .ok_or(no_room)?;
        let mut header = Reader::new(contents.get(..values_end).unwrap_or_default());
        let flags = header.u8()?;
        if flags & !(UNIFORM_SEQ | UNIFORM_KIND) != 0 {
            return Err(DecodeError { offset: 0, what: "unknown flags of a data block" });
        }
        let base_seq = header.varint()?;
        let uniform_kind = if flags & UNIFORM_KIND != 0 { Some(header.u8()?) } else { None };
        let mut layout = Layout {
            base_seq,
            uniform_seq: flags & UNIFORM_SEQ != 0,
            uniform_kind,
            entries_end: values_end,
            values_end,
            restart_count,
            bucket_count,
        };
        let first = DataBlock { contents, layout: &layout }.restart(0);
        layout.entries_end = match first {
            Some(first) if first.at == header.offset() && first.at < first.value_at && first.value_at <= values_end => {
                first.value_at
            }
            _ => return Err(DecodeError { offset: header.offset(), what: "first restart is not the first entry" }),
        };
        let block = DataBlock { contents, layout: &layout };
        let mut before = Place { at: 0, value_at: 0 };
        for i in 0..restart_count {
            let bad = DecodeError { offset: values_end, what: "restarts out of order or out of bounds" };
            let place = block.restart(i).ok_or(bad)?;
            let ascending = before.at < place.at && before.value_at <= place.value_at;
            if !ascending || place.at >= layout.entries_end || place.value_at > values_end {
                return Err(bad);
            }
            before = place;
        }
        Ok(layout)
    }
}

/// Where an entry begins, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: usize,
    pub(crate) value_at: usize,
}

/// An entry as it stands in its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Where it begins.
    pub(crate) at: usize,
    pub(crate) shared: usize,
    suffix_at: usize,
    suffix_end: usize,
    pub(crate) seq: u64,
    pub(crate) kind: u8,
    /// Where its value begins and ends.
    pub(crate) value_at: usize,
    pub(crate) value_end: usize,
    /// Where it ends.
    end: usize,
}

impl Entry {
    /// Where the next entry begins.
    pub(crate) fn next(&self) -> Place {
        Place { at: self.end, value_at: self.value_end }
    }
}

/// What an entry begins with.
struct Lengths {
    shared: usize,
    suffix_at: usize,
    suffix_end: usize,
    value_len: u64,
}

/// What the hash index says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    /// Nothing: bisect.
    Unknown,
    /// The key is not in this block.
    Absent,
    /// If the key is here, its first version is among the entries of this restart.
    Restart(usize),
}

/// Reads a data block.
#[derive(Clone, Copy)]
pub(crate) struct DataBlock<'a> {
    pub(crate) contents: &'a [u8],
    pub(crate) layout: &'a Layout,
}

impl<'a> DataBlock<'a> {
    /// Where the entries end.
    pub(crate) fn end(&self) -> usize {
        self.layout.entries_end
    }

    pub(crate) fn restart_count(&self) -> usize {
        self.layout.restart_count
    }

    pub(crate) fn bucket_count(&self) -> usize {
        usize::from(self.layout.bucket_count)
    }

    /// Where the values end.
    pub(crate) fn values_end(&self) -> usize {
        self.layout.values_end
    }

    /// The first entry.
    pub(crate) fn start(&self) -> Place {
        self.restart(0).unwrap_or(self.past_end())
    }

    /// Where an entry after the last would begin.
    fn past_end(&self) -> Place {
        Place { at: self.layout.entries_end, value_at: self.layout.values_end }
    }

    /// Where the entries of restart `i` begin.
    pub(crate) fn restart(&self, i: usize) -> Option<Place> {
        if i >= self.layout.restart_count {
            return None;
        }
        let bytes = self.contents.get(self.layout.values_end + i * RESTART_BYTES..)?.first_chunk::<RESTART_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *bytes;
        let at = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let value_at = usize::try_from(u32::from_le_bytes([e, f, g, h])).ok()?;
        Some(Place { at, value_at })
    }

    /// Where the entries of restart `i` end.
    pub(crate) fn restart_end(&self, i: usize) -> usize {
        self.restart(i + 1).map_or(self.layout.entries_end, |next| next.at)
    }

    /// The number of the last restart that begins before `at`.
    pub(crate) fn restart_under(&self, at: usize) -> Option<usize> {
        let (mut low, mut high) = (0, self.layout.restart_count);
        while low < high {
            let middle = low.midpoint(high);
            if self.restart(middle)?.at < at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    /// Decodes the lengths at which an entry begins, at a place before [`DataBlock::end`].
    #[inline]
    fn lengths(&self, at: usize) -> Result<Lengths, DecodeError> {
        let end = self.layout.entries_end;
        let entries = self.contents.get(..end).unwrap_or_default();
        let mut pos = at;
        // One byte each in most entries, so that case comes first.
        let (shared, suffix_len, value_len) = match entries.get(at..).and_then(|rest| rest.first_chunk::<3>()) {
            Some(&[a, b, c]) if (a | b | c) < 0x80 => {
                pos += 3;
                (u64::from(a), u64::from(b), u64::from(c))
            }
            _ => (varint(entries, &mut pos)?, varint(entries, &mut pos)?, varint(entries, &mut pos)?),
        };
        let suffix_end = advance(pos, suffix_len, end).ok_or(cut(at))?;
        let shared = usize::try_from(shared).unwrap_or(usize::MAX);
        Ok(Lengths { shared, suffix_at: pos, suffix_end, value_len })
    }

    /// Decodes the entry at a place before [`DataBlock::end`].
    #[inline]
    pub(crate) fn entry(&self, place: Place) -> Result<Entry, DecodeError> {
        let layout = self.layout;
        let Place { at, value_at } = place;
        let Lengths { shared, suffix_at, suffix_end, value_len } = self.lengths(at)?;
        let entries = self.contents.get(..layout.entries_end).unwrap_or_default();
        let mut pos = suffix_end;
        let seq_delta = if layout.uniform_seq { 0 } else { varint(entries, &mut pos)? };
        let seq = layout
            .base_seq
            .checked_add(seq_delta)
            .ok_or(DecodeError { offset: at, what: "sequence number over 64 bits" })?;
        let kind = match layout.uniform_kind {
            Some(kind) => kind,
            None => {
                let kind = *entries.get(pos).ok_or(cut(at))?;
                pos += 1;
                kind
            }
        };
        let value_end = advance(value_at, value_len, layout.values_end).ok_or(cut(at))?;
        Ok(Entry { at, shared, suffix_at, suffix_end, seq, kind, value_at, value_end, end: pos })
    }

    /// The place after an entry whose lengths are known, without decoding the rest of it.
    #[inline]
    fn after(&self, place: Place, lengths: &Lengths) -> Result<Place, DecodeError> {
        let layout = self.layout;
        let mut pos = lengths.suffix_end;
        if !layout.uniform_seq {
            let rest = self.contents.get(pos..layout.entries_end).unwrap_or_default();
            pos += 1 + rest.iter().position(|byte| *byte < 0x80).ok_or(cut(place.at))?;
        }
        pos += usize::from(layout.uniform_kind.is_none());
        let value_at = advance(place.value_at, lengths.value_len, layout.values_end).ok_or(cut(place.at))?;
        Ok(Place { at: pos, value_at })
    }

    /// The part of its key that an entry stores.
    pub(crate) fn suffix(&self, entry: &Entry) -> &'a [u8] {
        self.contents.get(entry.suffix_at..entry.suffix_end).unwrap_or_default()
    }

    pub(crate) fn value(&self, entry: &Entry) -> &'a [u8] {
        self.contents.get(entry.value_at..entry.value_end).unwrap_or_default()
    }

    /// Turns the key of the entry before into that of `entry`.
    pub(crate) fn step_key(&self, key: &mut Vec<u8>, entry: &Entry) -> Result<(), DecodeError> {
        if entry.shared > key.len() {
            return Err(DecodeError { offset: entry.at, what: "entry shares more than the key before it has" });
        }
        key.truncate(entry.shared);
        key.extend_from_slice(self.suffix(entry));
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(DecodeError { offset: entry.at, what: "a key of impossible length" });
        }
        Ok(())
    }

    /// What the hash index says of a key with this hash.
    pub(crate) fn bucket(&self, hash: u64) -> Result<Bucket, DecodeError> {
        let count = self.layout.bucket_count;
        if count == 0 {
            return Ok(Bucket::Unknown);
        }
        let buckets_at = self.layout.values_end + self.layout.restart_count * RESTART_BYTES;
        let at = buckets_at + slot(hash, u32::from(count));
        match self.contents.get(at) {
            Some(&BUCKET_NONE) => Ok(Bucket::Absent),
            Some(&BUCKET_MANY) => Ok(Bucket::Unknown),
            Some(&n) if usize::from(n) < self.layout.restart_count => Ok(Bucket::Restart(usize::from(n))),
            _ => Err(DecodeError { offset: at, what: "hash index names a restart that does not exist" }),
        }
    }

    /// The number of the last restart whose first entry sorts before `(key, seq)`, or 0.
    pub(crate) fn restart_before(&self, key: &[u8], seq: u64) -> Result<usize, DecodeError> {
        let (mut low, mut high) = (0, self.layout.restart_count);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(self.restart(middle).unwrap_or(self.past_end()))?;
            if entry.shared != 0 {
                return Err(DecodeError { offset: entry.at, what: "entry at a restart does not store its whole key" });
            }
            if compare(self.suffix(&entry), key).then(seq.cmp(&entry.seq)).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.saturating_sub(1))
    }

    /// The newest version of `key` in this block that is no newer than `max_seq`.
    ///
    /// Keys are compared as they stand, not rebuilt. While the entries passed are below the key,
    /// `matched` is how many bytes the last of them has in common with it. An entry that shares
    /// more than that with its predecessor differs from the key where the predecessor did, hence is
    /// below it too; for any other, all shared bytes equal the key's, and the suffix decides.
    pub(crate) fn find(&self, key: &[u8], hash: u64, max_seq: u64) -> Result<Option<Entry>, DecodeError> {
        let bucket = self.bucket(hash)?;
        let (restart, hashed) = match bucket {
            Bucket::Absent => return Ok(None),
            Bucket::Restart(restart) => (restart, true),
            Bucket::Unknown => (self.restart_before(key, max_seq)?, false),
        };
        let mut place = self.restart(restart).unwrap_or(self.past_end());
        // A bucket hit may be that of another key; then nothing beyond the restart matters.
        let mut end = if hashed { self.restart_end(restart) } else { self.layout.entries_end };
        let mut matched = 0;
        let mut key_len = 0;
        while place.at < end {
            let lengths = self.lengths(place.at)?;
            let Lengths { shared, suffix_at, suffix_end, .. } = lengths;
            let suffix = self.contents.get(suffix_at..suffix_end).unwrap_or_default();
            if shared > key_len {
                let what = "entry shares more than the key before it has";
                return Err(DecodeError { offset: place.at, what });
            }
            key_len = shared + suffix.len();
            if shared <= matched {
                let wanted = key.get(shared..).unwrap_or_default();
                let common = common_prefix(suffix, wanted);
                matched = shared + common;
                match (suffix.get(common), wanted.get(common)) {
                    (None, None) => {
                        let entry = self.entry(place)?;
                        if entry.seq <= max_seq {
                            return Ok(Some(entry));
                        }
                        // A version too new: older ones may fill several restarts.
                        end = self.layout.entries_end;
                    }
                    (None, Some(_)) => {}
                    (Some(ours), Some(theirs)) if ours < theirs => {}
                    _ => return Ok(None),
                }
            }
            place = self.after(place, &lengths)?;
        }
        Ok(None)
    }
}

/// One to three bytes in most cases, so those come first.
#[inline]
fn varint(entries: &[u8], pos: &mut usize) -> Result<u64, DecodeError> {
    let (value, len) = match entries.get(*pos..).unwrap_or_default() {
        [a @ ..0x80, ..] => (u64::from(*a), 1),
        [a, b @ 1..0x80, ..] => (u64::from(a & 0x7f) | u64::from(*b) << 7, 2),
        [a, b @ 0x80..=0xff, c @ 1..0x80, ..] => {
            (u64::from(a & 0x7f) | u64::from(b & 0x7f) << 7 | u64::from(*c) << 14, 3)
        }
        rest => {
            let mut reader = Reader::new(rest);
            let value = reader.varint().map_err(|e| DecodeError { offset: *pos, what: e.what })?;
            (value, reader.offset())
        }
    };
    *pos += len;
    Ok(value)
}

fn cut(at: usize) -> DecodeError {
    DecodeError { offset: at, what: "entry runs over the end of its block" }
}

fn advance(pos: usize, len: u64, end: usize) -> Option<usize> {
    pos.checked_add(usize::try_from(len).ok()?).filter(|pos| *pos <= end)
}

#[cfg(test)]
mod tests;
