//! Keys, values, and whether an answer is right.
//!
//! A key is 16 bytes that spread evenly over all there are, like those of random ids, yet ascend with
//! the key's number, so that sorted loads and scans need no list. A value follows from the key's
//! number and a generation, which stand in its first bytes: every answer can be checked without
//! remembering what was written. Half of a value is random, half repeats.
//!
//! Invariants
//! 1. The same numbers give the same bytes in every process.
//! 2. Keys below [`Data::keys`] ascend with their number; later ones fall anywhere between.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A key.
pub type Key = [u8; 16];

/// The first bytes of a value: number and generation.
const HEADER_BYTES: usize = 12;
/// The least length of a value.
pub const VALUE_BYTES_MIN: usize = 2 * HEADER_BYTES;
/// One in so many answers is compared byte by byte.
const COMPARE_EACH: u64 = 64;
/// What the second half of every value repeats.
const REPEATED: &[u8] = b"cairn bench ";

/// A number that depends on every bit of `x`, another for each: the finalizer of splitmix64.
pub fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Entries to be written together.
pub struct Entries {
    keys: Vec<Key>,
    values: Vec<u8>,
    value_bytes: usize,
}

impl Entries {
    /// Keys and values in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.keys.iter().map(Key::as_slice).zip(self.values.chunks_exact(self.value_bytes))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
    }
}

/// The keys and values of one database, and how far they have been changed.
#[derive(Debug)]
pub struct Data {
    /// Keys that a load writes.
    pub keys: u64,
    /// The length of every value.
    pub value_bytes: usize,
    /// The distance of the regions in which successive keys lie.
    step: u64,
    /// Keys inserted after the load.
    inserted: AtomicU64,
    /// The newest generation that anybody may have written.
    generation: AtomicU32,
}

impl Data {
    /// The data of so many keys and such values.
    pub fn new(keys: u64, value_bytes: usize) -> Data {
        let step = u64::MAX / keys.max(1);
        Data { keys, value_bytes, step, inserted: AtomicU64::new(0), generation: AtomicU32::new(0) }
    }

    /// The key of a number.
    pub fn key(&self, number: u64) -> Key {
        let random = mix(number);
        let head = if number < self.keys {
            number * self.step + ((u128::from(random) * u128::from(self.step)) >> 64) as u64
        } else {
            mix(random)
        };
        let mut key = [0; 16];
        key[..8].copy_from_slice(&head.to_be_bytes());
        key[8..].copy_from_slice(&(random | 1).to_be_bytes());
        key
    }

    /// A key that never exists, next to that of a number.
    pub fn missing_key(&self, number: u64) -> Key {
        let mut key = self.key(number);
        key[15] ^= 1;
        key
    }

    /// Writes the value of a number and a generation into `value`.
    pub fn value(&self, number: u64, generation: u32, value: &mut Vec<u8>) {
        value.clear();
        self.append_value(number, generation, value);
    }

    fn append_value(&self, number: u64, generation: u32, value: &mut Vec<u8>) {
        let end = value.len() + self.value_bytes;
        let random_end = value.len() + self.value_bytes / 2;
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&generation.to_le_bytes());
        let mut state = number ^ (u64::from(generation) << 40);
        while value.len() < random_end {
            state = mix(state);
            let missing = (random_end - value.len()).min(8);
            value.extend_from_slice(&state.to_le_bytes()[..missing]);
        }
        while value.len() < end {
            let missing = (end - value.len()).min(REPEATED.len());
            value.extend_from_slice(&REPEATED[..missing]);
        }
    }

    /// Empty entries with room for `count`.
    pub fn entries(&self, count: usize) -> Entries {
        Entries {
            keys: Vec::with_capacity(count),
            values: Vec::with_capacity(count * self.value_bytes),
            value_bytes: self.value_bytes,
        }
    }

    /// Adds the entry of a number and a generation.
    pub fn add(&self, entries: &mut Entries, number: u64, generation: u32) {
        entries.keys.push(self.key(number));
        self.append_value(number, generation, &mut entries.values);
    }

    /// Bytes that a user counts for `count` entries.
    pub fn user_bytes(&self, count: u64) -> f64 {
        count as f64 * (size_of::<Key>() + self.value_bytes) as f64
    }

    /// Keys that exist now.
    pub fn count(&self) -> u64 {
        self.keys + self.inserted.load(Ordering::Acquire)
    }

    /// Numbers a new key; nobody is told of it before [`Data::count`] says so, which `inserted` does.
    pub fn next_number(&self) -> u64 {
        self.count()
    }

    /// One more key exists: the one that [`Data::next_number`] gave its only caller.
    pub fn inserted(&self) {
        self.inserted.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether all keys are those of the load.
    pub fn is_as_loaded(&self) -> bool {
        self.inserted.load(Ordering::Acquire) == 0
    }

    /// Begins a new generation of values.
    pub fn begin_generation(&self) -> u32 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// What `one` keeps beside a directory to go on with it.
    pub fn state(&self) -> (u64, u32) {
        (self.inserted.load(Ordering::Acquire), self.generation.load(Ordering::Acquire))
    }

    /// Goes on from [`Data::state`].
    pub fn restore(&self, (inserted, generation): (u64, u32)) {
        self.inserted.store(inserted, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
    }
}

/// Checks the answers of one caller and counts the wrong ones.
pub struct Checker<'a> {
    data: &'a Data,
    seen: u64,
    expected: Vec<u8>,
    /// Answers that were wrong.
    pub bad: u64,
}

impl<'a> Checker<'a> {
    /// Nothing checked yet.
    pub fn new(data: &'a Data) -> Checker<'a> {
        Checker { data, seen: 0, expected: Vec::new(), bad: 0 }
    }

    /// Counts a wrong answer if `right` is false.
    pub fn expect(&mut self, right: bool) {
        self.bad += u64::from(!right);
    }

    /// The number and generation that a value says it has.
    pub fn says(value: &[u8]) -> Option<(u64, u32)> {
        let number = value.get(..8)?.try_into().ok()?;
        let generation = value.get(8..HEADER_BYTES)?.try_into().ok()?;
        Some((u64::from_le_bytes(number), u32::from_le_bytes(generation)))
    }

    /// Checks a value of a key's number.
    pub fn value(&mut self, number: u64, value: &[u8]) {
        let right = match Self::says(value) {
            Some((says, generation)) => says == number && self.is_value(number, generation, value),
            None => false,
        };
        self.expect(right);
    }

    /// Checks an entry whose number is not known, and returns what it says it is.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> u64 {
        let Some((number, generation)) = Self::says(value) else {
            self.bad += 1;
            return u64::MAX;
        };
        let right = key.len() == size_of::<Key>()
            && (!self.is_turn() || key == self.data.key(number))
            && self.is_value(number, generation, value);
        self.expect(right);
        number
    }

    fn is_turn(&self) -> bool {
        self.seen.is_multiple_of(COMPARE_EACH)
    }

    fn is_value(&mut self, number: u64, generation: u32, value: &[u8]) -> bool {
        let is_turn = self.is_turn();
        self.seen += 1;
        if value.len() != self.data.value_bytes || generation > self.data.generation.load(Ordering::Relaxed) {
            return false;
        }
        if is_turn {
            self.data.value(number, generation, &mut self.expected);
            return self.expected == value;
        }
        true
    }
}

/// Numbers below a bound in an order that looks random, without a list: a Feistel network over the
/// next even number of bits, walked until it falls below the bound.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    bound: u64,
    half_bits: u32,
}

impl Shuffle {
    /// All numbers below `bound`.
    pub fn new(bound: u64) -> Shuffle {
        let bits = u64::BITS - bound.saturating_sub(1).leading_zeros();
        Shuffle { bound, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The number at a place below the bound; another for each place.
    pub fn at(&self, place: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let mut number = place;
        loop {
            let (mut left, mut right) = (number >> self.half_bits, number & mask);
            for round in 0..4 {
                (left, right) = (right, left ^ (mix(right ^ (round << 56)) & mask));
            }
            number = left << self.half_bits | right;
            if number < self.bound {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ascend_and_missing_ones_are_not_among_them() {
        let data = Data::new(10_000, 100);
        let keys: Vec<Key> = (0..10_000).map(|number| data.key(number)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        assert!((0..10_000).all(|number| keys.binary_search(&data.missing_key(number)).is_err()));
        assert!((10_000..20_000).all(|number| keys.binary_search(&data.key(number)).is_err()));
    }

    #[test]
    fn a_shuffle_has_every_number_once_and_not_in_order() {
        for bound in [1, 2, 3, 100, 1 << 10, 12_345] {
            let shuffle = Shuffle::new(bound);
            let mut numbers: Vec<u64> = (0..bound).map(|place| shuffle.at(place)).collect();
            assert!(bound < 100 || numbers.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() < 5);
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..bound), "{bound}");
        }
    }

    #[test]
    fn every_kind_of_wrong_answer_is_counted() {
        let data = Data::new(1_000, 100);
        let generation = data.begin_generation();
        let mut value = Vec::new();
        data.value(7, generation, &mut value);
        assert_eq!(value.len(), 100);
        let check = |number: u64, value: &[u8]| {
            let mut checker = Checker::new(&data);
            checker.value(number, value);
            checker.bad
        };
        assert_eq!(check(7, &value), 0);
        assert_eq!(check(8, &value), 1, "another key's");
        assert_eq!(check(7, &value[..99]), 1, "too short");
        assert_eq!(check(7, &[]), 1, "empty");
        let mut damaged = value.clone();
        damaged[99] ^= 1;
        assert_eq!(check(7, &damaged), 1, "damaged, in an answer that is compared");
        data.value(7, generation + 1, &mut value);
        assert_eq!(check(7, &value), 1, "never written");

        let mut checker = Checker::new(&data);
        data.value(9, 0, &mut value);
        assert_eq!((checker.entry(&data.key(9), &value), checker.bad), (9, 0));
        let mut checker = Checker::new(&data);
        assert_eq!((checker.entry(&data.key(8), &value), checker.bad), (9, 1));
    }

    #[test]
    fn half_of_a_value_repeats() {
        let data = Data::new(1_000, 1_000);
        let mut value = Vec::new();
        data.value(1, 0, &mut value);
        assert_eq!(value[500..512], value[512..524]);
        assert_ne!(value[100..112], value[112..124]);
    }
}
