//! A filter: says for most absent keys that they are absent, from one cache line.
//!
//! A Bloom filter blocked by cache line (Putze, Sanders, Singler: "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007): the key's hash picks one line of 512 bits, and all its
//! probes fall into that line. Every distinct user key of the partition is in it, tombstones included,
//! or a deleted key would show its older value from a level below.
//!
//! ```text
//! filter := line+, probes u8           line := 64 bytes, bit n is bit n%8 of byte n/8
//! ```
//!
//! The hash of a key is mixed with the table's id first, so that the false positives of one table
//! do not repeat in the next. Then the upper 32 bits pick the line; the lower 32 are multiplied by
//! an odd constant before each probe, and their top 9 bits are the probe.

use cairn_codec::DecodeError;

use crate::{mix64, slot};

/// Most probes a filter may use.
pub(crate) const HASHES_MAX: u32 = 16;

const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

pub(crate) struct Filter {
    lines: Vec<Line>,
    hashes: u32,
    salt: u64,
}

/// The line and the word and bit of each probe of a mixed hash.
fn probes(hash: u64, hashes: u32) -> impl Iterator<Item = (usize, u64)> {
    let mut h = (hash & 0xffff_ffff) as u32;
    (0..hashes).map(move |_| {
        h = h.wrapping_mul(0x9e37_79b9);
        let bit = h >> 23;
        ((bit >> 6) as usize, 1 << (bit & 63))
    })
}

impl Filter {
    /// A filter over distinct keys given by their hashes. `hashes` of `None` takes 0.6 probes a
    /// bit: a little under the ln 2 of an unblocked filter, because lines fill unevenly.
    pub(crate) fn build(keys: &[u64], bits_per_key: u32, hashes: Option<u32>, table_id: u64) -> Filter {
        let bits = (keys.len() as u64).saturating_mul(u64::from(bits_per_key));
        let count = u32::try_from(bits.div_ceil(LINE_BITS)).unwrap_or(u32::MAX).max(1);
        let hashes = hashes.unwrap_or((bits_per_key * 6).div_ceil(10)).clamp(1, HASHES_MAX);
        let salt = mix64(table_id);
        let mut lines = vec![Line([0; 8]); count as usize];
        for key in keys {
            let hash = mix64(key ^ salt);
            let Some(line) = lines.get_mut(slot(hash, count)) else { continue };
            for (word, bit) in probes(hash, hashes) {
                if let Some(word) = line.0.get_mut(word) {
                    *word |= bit;
                }
            }
        }
        Filter { lines, hashes, salt }
    }

    /// Appends the encoding to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for word in self.lines.iter().flat_map(|line| line.0) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.push(self.hashes as u8);
    }

    pub(crate) fn decode(bytes: &[u8], table_id: u64) -> Result<Filter, DecodeError> {
        let error = |what| Err(DecodeError { offset: 0, what });
        let Some((hashes, bytes)) = bytes.split_last() else { return error("empty filter") };
        let (lines, rest) = bytes.as_chunks::<LINE_BYTES>();
        if lines.is_empty() || !rest.is_empty() || u32::try_from(lines.len()).is_err() {
            return error("filter of no whole number of lines");
        }
        let hashes = u32::from(*hashes);
        if !(1..=HASHES_MAX).contains(&hashes) {
            return error("filter with an impossible number of probes");
        }
        let word = |line: &[u8; LINE_BYTES], i: usize| {
            line.as_chunks::<8>().0.get(i).map_or(0, |word| u64::from_le_bytes(*word))
        };
        let lines = lines.iter().map(|line| Line(std::array::from_fn(|i| word(line, i)))).collect();
        Ok(Filter { lines, hashes, salt: mix64(table_id) })
    }

    /// False only if no key with this hash was added.
    pub(crate) fn may_contain(&self, key: u64) -> bool {
        let hash = mix64(key ^ self.salt);
        let count = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        let Some(line) = self.lines.get(slot(hash, count)) else { return true };
        probes(hash, self.hashes).all(|(word, bit)| line.0.get(word).is_none_or(|word| word & bit != 0))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.lines.capacity() * LINE_BYTES
    }

    /// Number of cache lines and of probes.
    pub(crate) fn shape(&self) -> (usize, u32) {
        (self.lines.len(), self.hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_codec::hash64;

    fn encoded(filter: &Filter) -> Vec<u8> {
        let mut bytes = Vec::new();
        filter.encode(&mut bytes);
        bytes
    }

    fn hashes(range: std::ops::Range<u64>) -> Vec<u64> {
        range.map(|i| hash64(&i.to_le_bytes(), 1)).collect()
    }

    #[test]
    fn every_key_passes_and_few_others_do() {
        for (bits, k, percent_max) in [(10, None, 1.3), (10, Some(5), 1.5), (16, None, 0.2), (1, None, 80.0)] {
            let keys = hashes(0..20_000);
            let built = Filter::build(&keys, bits, k, 42);
            let filter = Filter::decode(&encoded(&built), 42).unwrap();
            assert!(keys.iter().all(|key| filter.may_contain(*key)));
            let false_positives = hashes(20_000..120_000).iter().filter(|key| filter.may_contain(**key)).count();
            let percent = false_positives as f64 / 1000.0;
            assert!(percent < percent_max, "{bits} bits, {k:?} probes: {percent} %");
        }
    }

    #[test]
    fn false_positives_do_not_repeat_in_another_table() {
        let keys = hashes(0..10_000);
        let [a, b] = [1, 2].map(|table| Filter::build(&keys, 6, None, table));
        let others = hashes(10_000..110_000);
        let in_a = others.iter().filter(|key| a.may_contain(**key)).count();
        let in_both = others.iter().filter(|key| a.may_contain(**key) && b.may_contain(**key)).count();
        assert!(in_a > 1000 && in_both < in_a / 8, "{in_both} of {in_a}");
    }

    #[test]
    fn other_shapes_are_refused() {
        let good = encoded(&Filter::build(&[1, 2], 10, None, 1));
        assert_eq!(good.len(), 65);
        for bad in [&[][..], &good[1..], &good[64..], &[&good[..64], &[0]].concat(), &[&good[..64], &[17]].concat()] {
            assert!(Filter::decode(bad, 1).is_err(), "{} bytes", bad.len());
        }
    }
}
