//! The filter of a table: says for most absent keys that they are absent, from one cache line that the
//! key's hash alone names.
//!
//! A Bloom filter blocked by cache line (Putze, Sanders, Singler: "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007): the key's hash picks one line of 512 bits, and all its
//! probes fall into that line. Every distinct user key of the table is in it, tombstones included,
//! or a deleted key would show its older value from a level below.
//!
//! ```text
//! filter := piece block*          piece := line+          line := 64 bytes, bit n is bit n%8 of byte n/8
//! ```
//!
//! The lines of a table are one array. In the file it is cut into pieces of 64 lines, the last one
//! of what is left, each a block with its own checksum; they lie end to end, and the footer says where
//! the first begins and how many lines there are. So the hash tells the piece too, and a filter that is
//! not in memory costs a read of one piece. How many probes a key takes stands in the properties.
//!
//! The hash of a key is mixed with the table's id first, so that the false positives of one table
//! do not repeat in the next. Then the upper 32 bits pick the line; the lower 32 are multiplied by
//! an odd constant before each probe, and their top 9 bits are the probe.
//!
//! All probes are taken before the one branch on what they say: it goes the same way for nearly every
//! table, so that the processor is at the next table's line before this one's has come from memory.

use cairn_codec::DecodeError;

use crate::footer::Handle;
use crate::seal::TRAILER_BYTES;
use crate::{mix64, slot};

/// Most probes a filter may use.
pub(crate) const HASHES_MAX: u32 = 16;

const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;

/// Lines of a piece: about as long as a data block.
const PIECE_LINES: usize = 64;
const PIECE_BYTES: usize = PIECE_LINES * LINE_BYTES;

/// Where the filter of a table lies in its file. No lines: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Where the first piece begins.
    pub(crate) offset: u64,
    pub(crate) lines: u32,
}

impl Shape {
    /// Where the last piece ends.
    pub(crate) fn end(self) -> Option<u64> {
        let trailers = (self.piece_count() as u64).checked_mul(TRAILER_BYTES as u64)?;
        let lines = u64::from(self.lines) * LINE_BYTES as u64;
        self.offset.checked_add(lines)?.checked_add(trailers)
    }

    pub(crate) fn piece_count(self) -> usize {
        (self.lines as usize).div_ceil(PIECE_LINES)
    }

    /// Where the pieces lie.
    pub(crate) fn pieces(self) -> impl Iterator<Item = Handle> {
        (0..self.piece_count()).map(move |number| self.piece(number))
    }

    /// Where this piece lies; it must be there.
    fn piece(self, number: usize) -> Handle {
        let before = number * PIECE_LINES;
        let lines = (self.lines as usize).saturating_sub(before).min(PIECE_LINES);
        let stored_before = (number * (PIECE_BYTES + TRAILER_BYTES)) as u64;
        Handle { offset: self.offset.saturating_add(stored_before), len: lines * LINE_BYTES }
    }
}

/// A key's hash, mixed for one table.
#[derive(Clone, Copy)]
struct Mixed(u64);

impl Mixed {
    #[inline]
    fn new(hash: u64, salt: u64) -> Mixed {
        Mixed(mix64(hash ^ salt))
    }

    #[inline]
    fn line(self, lines: u32) -> usize {
        slot(self.0, lines)
    }

    /// The bits of the line, each below 512.
    #[inline]
    fn bits(self, probes: u32) -> impl Iterator<Item = u32> {
        let mut h = (self.0 & 0xffff_ffff) as u32;
        (0..probes).map(move |_| {
            h = h.wrapping_mul(0x9e37_79b9);
            h >> 23
        })
    }

    /// Whether the line has all its bits.
    #[inline]
    fn is_in(self, line: &[u8; LINE_BYTES], probes: u32) -> bool {
        let words = line.as_chunks::<8>().0;
        let word = |bit: u32| words.get((bit >> 6) as usize).map_or(0, |word| u64::from_le_bytes(*word));
        self.bits(probes).fold(1, |all, bit| all & (word(bit) >> (bit & 63))) != 0
    }
}

/// The probes that suit so many bits a key: 0.6 a bit, a little under the ln 2 of an unblocked filter,
/// because lines fill unevenly.
pub(crate) fn probes_for(bits_per_key: u32) -> u32 {
    (bits_per_key * 6).div_ceil(10).clamp(1, HASHES_MAX)
}

/// Hashes that are kept together: one array for a whole table would grow by doubling, to many mebibytes
/// that leave holes in the heap.
const CHUNK_HASHES: usize = 8192;

/// Collects the keys of a table while it is written.
pub(crate) struct FilterBuilder {
    salt: u64,
    bits_per_key: u32,
    probes: u32,
    /// The hash of each distinct user key, [`CHUNK_HASHES`] in each but the last.
    hashes: Vec<Vec<u64>>,
    count: u64,
}

impl FilterBuilder {
    /// A filter of `bits_per_key`, none if they are 0, that takes `probes` a key.
    pub(crate) fn new(table_id: u64, bits_per_key: u32, probes: u32) -> FilterBuilder {
        FilterBuilder { salt: mix64(table_id), bits_per_key, probes, hashes: Vec::new(), count: 0 }
    }

    /// Adds a key that has not been added.
    pub(crate) fn add(&mut self, hash: u64) {
        if self.bits_per_key == 0 {
            return;
        }
        self.count += 1;
        match self.hashes.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_HASHES => chunk.push(hash),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_HASHES);
                chunk.push(hash);
                self.hashes.push(chunk);
            }
        }
    }

    fn lines(&self) -> u32 {
        let bits = self.count.saturating_mul(u64::from(self.bits_per_key));
        let lines = u32::try_from(bits.div_ceil(LINE_BITS)).unwrap_or(u32::MAX);
        lines.max(u32::from(self.bits_per_key > 0))
    }

    /// How long the lines would be if they were built now.
    pub(crate) fn estimated_bytes(&self) -> usize {
        self.lines() as usize * LINE_BYTES
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.hashes.len() * CHUNK_HASHES * size_of::<u64>()
    }

    /// The filter of what was added, to lie at `offset`: its shape, and its lines.
    pub(crate) fn build(&self, offset: u64) -> (Shape, Vec<u8>) {
        let lines = self.lines();
        let mut bytes = vec![0; lines as usize * LINE_BYTES];
        let (array, _) = bytes.as_chunks_mut::<LINE_BYTES>();
        for hash in self.hashes.iter().flatten() {
            let mixed = Mixed::new(*hash, self.salt);
            let Some(line) = array.get_mut(mixed.line(lines)) else { continue };
            for bit in mixed.bits(self.probes) {
                if let Some(byte) = line.get_mut((bit >> 3) as usize) {
                    *byte |= 1 << (bit & 7);
                }
            }
        }
        (Shape { offset, lines }, bytes)
    }
}

/// The contents of the pieces that lines are cut into.
pub(crate) fn cut(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.chunks(PIECE_BYTES)
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; LINE_BYTES]);

/// A whole filter in memory: one array, a line of it in one cache line.
pub(crate) struct Filter {
    lines: Vec<Line>,
    probes: u32,
    salt: u64,
}

impl Filter {
    /// Gathers the lines of all pieces, which `load` returns in turn; `None` for a table without a filter.
    pub(crate) fn gather<E>(
        shape: Shape,
        table_id: u64,
        probes: u32,
        mut load: impl FnMut(Handle) -> Result<Piece, E>,
    ) -> Result<Option<Filter>, E> {
        if shape.lines == 0 {
            return Ok(None);
        }
        let mut lines = Vec::with_capacity(shape.lines as usize);
        for handle in shape.pieces() {
            lines.extend(load(handle)?.0.as_chunks().0.iter().map(|line| Line(*line)));
        }
        Ok(Some(Filter { lines, probes, salt: mix64(table_id) }))
    }

    /// False only if no key with this hash was added.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        let mixed = Mixed::new(hash, self.salt);
        let count = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        let Some(line) = self.lines.get(mixed.line(count)) else { return true };
        mixed.is_in(&line.0, self.probes)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.lines.capacity() * LINE_BYTES
    }
}

/// A piece of a filter in memory.
pub(crate) struct Piece(Vec<u8>);

impl Piece {
    /// Decodes the piece at `handle`.
    pub(crate) fn decode(contents: Vec<u8>, handle: Handle) -> Result<Piece, DecodeError> {
        if contents.len() != handle.len {
            return Err(DecodeError { offset: 0, what: "piece of a filter of another length" });
        }
        Ok(Piece(contents))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.capacity()
    }
}

/// What to ask the pieces of a filter for a key.
pub(crate) struct Question {
    mixed: Mixed,
    line: usize,
    probes: u32,
    /// Where the piece lies that knows.
    pub(crate) piece: Handle,
}

impl Question {
    /// `None` for a table without a filter.
    pub(crate) fn new(shape: Shape, table_id: u64, probes: u32, hash: u64) -> Option<Question> {
        if shape.lines == 0 {
            return None;
        }
        let mixed = Mixed::new(hash, mix64(table_id));
        let line = mixed.line(shape.lines);
        let piece = shape.piece(line / PIECE_LINES);
        Some(Question { mixed, line: line % PIECE_LINES, probes, piece })
    }

    /// As [`Filter::may_contain`]; `piece` is that at [`Question::piece`].
    pub(crate) fn ask(&self, piece: &Piece) -> bool {
        let (lines, _) = piece.0.as_chunks();
        lines.get(self.line).is_none_or(|line| self.mixed.is_in(line, self.probes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_codec::hash64;

    fn hashes(range: std::ops::Range<u64>) -> Vec<u64> {
        range.map(|i| hash64(&i.to_le_bytes(), 1)).collect()
    }

    /// The filter as it lies in a file, and in memory.
    fn filter(keys: &[u64], bits: u32, probes: u32, table: u64) -> (Shape, Vec<u8>, Filter) {
        let mut builder = FilterBuilder::new(table, bits, probes);
        keys.iter().for_each(|key| builder.add(*key));
        assert_eq!(builder.estimated_bytes(), (keys.len() * bits as usize).div_ceil(512) * 64);
        let (shape, lines) = builder.build(1000);
        let mut pieces = cut(&lines);
        let load = |at| Piece::decode(pieces.next().unwrap().to_vec(), at);
        let gathered = Filter::gather(shape, table, probes, load).unwrap().unwrap();
        assert!(pieces.next().is_none());
        (shape, lines.clone(), gathered)
    }

    #[test]
    fn every_key_passes_and_few_others_do() {
        for (bits, k, percent_max) in [(10, 6, 1.3), (10, 5, 1.5), (16, 10, 0.2), (1, 1, 80.0)] {
            assert!(probes_for(bits) == k || k == 5);
            let keys = hashes(0..20_000);
            let (_, _, filter) = filter(&keys, bits, k, 42);
            assert!(keys.iter().all(|key| filter.may_contain(*key)));
            let false_positives = hashes(20_000..120_000).iter().filter(|key| filter.may_contain(**key)).count();
            let percent = false_positives as f64 / 1000.0;
            assert!(percent < percent_max, "{bits} bits, {k} probes: {percent} %");
        }
    }

    #[test]
    fn false_positives_do_not_repeat_in_another_table() {
        let keys = hashes(0..10_000);
        let [a, b] = [1, 2].map(|table| filter(&keys, 6, 4, table).2);
        let others = hashes(10_000..110_000);
        let in_a = others.iter().filter(|key| a.may_contain(**key)).count();
        let in_both = others.iter().filter(|key| a.may_contain(**key) && b.may_contain(**key)).count();
        assert!(in_a > 1000 && in_both < in_a / 8, "{in_both} of {in_a}");
    }

    #[test]
    fn a_piece_alone_says_what_the_whole_filter_says() {
        for count in [1, 51, 3276, 3277, 10_000] {
            let keys = hashes(0..count);
            let (shape, lines, filter) = filter(&keys, 10, 6, 3);
            let pieces: Vec<&[u8]> = cut(&lines).collect();
            let handles: Vec<Handle> = shape.pieces().collect();
            assert_eq!((handles.len(), handles[0].offset), (pieces.len(), shape.offset));
            assert!(handles.windows(2).all(|pair| pair[0].end() == Some(pair[1].offset)), "end to end");
            assert_eq!(handles.last().unwrap().end(), shape.end());
            for hash in hashes(0..count * 3) {
                let question = Question::new(shape, 3, 6, hash).unwrap();
                let number = handles.iter().position(|handle| *handle == question.piece).unwrap();
                let piece = Piece::decode(pieces[number].to_vec(), question.piece).unwrap();
                assert_eq!(question.ask(&piece), filter.may_contain(hash));
            }
        }
    }

    #[test]
    fn another_length_is_refused() {
        let good = Shape { offset: 9, lines: 65 };
        assert_eq!(good.end(), Some(9 + 65 * 64 + 2 * 9));
        assert_eq!(Shape { offset: u64::MAX - 4000, ..good }.end(), None);
        let handle = good.pieces().last().unwrap();
        for len in [0, 63, 65, 128] {
            assert!(Piece::decode(vec![0; len], handle).is_err(), "{len} bytes");
        }
        assert!(Piece::decode(vec![0; 64], handle).is_ok());
    }
}
