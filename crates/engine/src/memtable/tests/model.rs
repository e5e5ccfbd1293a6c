//! Random operations against an ordered map.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::*;

type Model = BTreeMap<(Vec<u8>, Reverse<u64>), (u8, Vec<u8>)>;

/// A family of keys that is hard in its own way.
struct Family {
    name: &'static str,
    key: fn(&mut Rng) -> Vec<u8>,
}

const FAMILIES: [Family; 8] = [
    Family { name: "two letters, prefixes of one another", key: |rng| bytes_of(rng, b"ab", 1, 12) },
    Family { name: "zero and ff", key: |rng| bytes_of(rng, b"\0\xff", 1, 9) },
    Family { name: "one or two random bytes", key: |rng| bytes(rng, 1, 2) },
    Family { name: "sixteen random bytes", key: |rng| bytes(rng, 16, 16) },
    Family { name: "long shared prefix", key: |rng| under_prefix(rng, 300) },
    Family { name: "prefix just around what a node holds", key: |rng| under_prefix(rng, 9) },
    Family { name: "numbers in text", key: |rng| format!("user:{:06}/name", rng.below(3_000)).into_bytes() },
    Family { name: "up to the longest", key: longest },
];

fn bytes(rng: &mut Rng, min: usize, max: usize) -> Vec<u8> {
    let len = min + rng.below(max - min + 1);
    (0..len).map(|_| rng.byte()).collect()
}

fn bytes_of(rng: &mut Rng, letters: &[u8], min: usize, max: usize) -> Vec<u8> {
    let len = min + rng.below(max - min + 1);
    (0..len).map(|_| letters[rng.below(letters.len())]).collect()
}

/// A prefix of `len` bytes, or a part of it, then a little.
fn under_prefix(rng: &mut Rng, len: usize) -> Vec<u8> {
    let cut = if rng.below(3) == 0 { rng.below(len) } else { len };
    let mut key: Vec<u8> = (0..cut).map(|i| u8::try_from(i % 7).unwrap()).collect();
    key.extend(bytes_of(rng, b"\0\x01\x06xy", 1, 3));
    key
}

fn longest(rng: &mut Rng) -> Vec<u8> {
    let lengths = if cfg!(miri) { [1, 2, 16, 255, 256, 1_000] } else { [1, 255, 256, 4_000, 65_534, 65_535] };
    let len = lengths[rng.below(6)];
    let mut key = vec![b'k'; len];
    let at = [0, len / 2, len - 1][rng.below(3)];
    key[at] = rng.byte();
    key
}

struct Pair {
    table: Arc<Memtable>,
    writer: MemtableWriter,
    model: Model,
    rng: Rng,
    family: &'static Family,
}

impl Pair {
    fn insert(&mut self, seq: u64) {
        let key = self.some_key();
        let kind = self.rng.byte();
        let value = bytes(&mut self.rng, 0, 40);
        self.writer.insert(&key, seq, kind, &value).unwrap();
        self.model.insert((key, Reverse(seq)), (kind, value));
    }

    /// A key of the family, half of the time one that is there.
    fn some_key(&mut self) -> Vec<u8> {
        if self.rng.below(2) == 0 && !self.model.is_empty() {
            let near = ((self.family.key)(&mut self.rng), Reverse(0));
            let there = self.model.range(near..).next().or_else(|| self.model.iter().next());
            return there.map(|((key, _), _)| key.clone()).unwrap();
        }
        (self.family.key)(&mut self.rng)
    }

    fn look_up(&mut self, last_seq: u64) {
        let key = self.some_key();
        let seq_max = self.rng.next() % (last_seq + 2);
        let expected = self.model.range((key.clone(), Reverse(seq_max))..).next().filter(|((k, _), _)| *k == key);
        let expected = expected.map(|((_, Reverse(seq)), (kind, value))| Version { seq: *seq, kind: *kind, value });
        assert_eq!(self.table.get(&key, seq_max), expected);

        let versions: Vec<u64> = self
            .model
            .range((key.clone(), Reverse(ANY))..=(key.clone(), Reverse(0)))
            .map(|((_, Reverse(seq)), _)| *seq)
            .collect();
        assert_eq!(self.table.latest_seq(&key), versions.first().copied());
        let mut seq_max = Some(ANY);
        let older = || {
            let version = self.table.get(&key, seq_max?)?;
            seq_max = version.seq.checked_sub(1);
            Some(version.seq)
        };
        assert_eq!(std::iter::from_fn(older).collect::<Vec<_>>(), versions);
    }

    fn largest_in_range(&mut self) {
        let (start, end) = (self.some_key(), self.some_key());
        let end = Some(end).filter(|_| self.rng.below(4) > 0);
        let from_start = self.model.range((start.clone(), Reverse(ANY))..);
        let expected = from_start
            .take_while(|((key, _), _)| end.as_ref().is_none_or(|end| key < end))
            .map(|((_, seq), _)| seq.0)
            .max();
        assert_eq!(self.table.max_seq_in_range(&start, end.as_deref()), expected);
    }

    /// A seek of any kind, then steps with random changes of direction.
    fn walk(&mut self, last_seq: u64) {
        let mut cursor = MemtableCursor::new(Arc::clone(&self.table));
        let key = self.some_key();
        let mut at = match self.rng.below(5) {
            0 => {
                cursor.seek_to_first();
                self.model.first_key_value()
            }
            1 => {
                cursor.seek_to_last();
                self.model.last_key_value()
            }
            2 => {
                cursor.seek_for_prev(&key);
                self.model.range(..(key, Reverse(ANY))).next_back()
            }
            _ => {
                let seq_max = self.rng.next() % (last_seq + 2);
                cursor.seek(&key, seq_max);
                self.model.range((key, Reverse(seq_max))..).next()
            }
        };
        let mut backward = self.rng.below(2) == 0;
        for _ in 0..self.rng.below(60) {
            let Some(((key, Reverse(seq)), (kind, value))) = at else { break };
            assert!(cursor.valid());
            assert_eq!(
                (cursor.key(), cursor.seq(), cursor.kind(), cursor.value()),
                (&key[..], *seq, *kind, &value[..])
            );
            let here = (key.clone(), Reverse(*seq));
            if self.rng.below(6) == 0 {
                backward = !backward;
            }
            if backward {
                cursor.prev();
                at = self.model.range(..here).next_back();
            } else if self.rng.below(5) == 0 {
                cursor.next_key();
                at = self.model.range((here.0, Reverse(0))..).find(|((k, _), _)| k != key);
            } else {
                cursor.next();
                at = self.model.range(here..).nth(1);
            }
        }
        assert_eq!(cursor.valid(), at.is_some());
    }

    fn compare_all(&self) {
        let all: Vec<(Vec<u8>, u64)> = self.model.keys().map(|(key, Reverse(seq))| (key.clone(), *seq)).collect();
        assert_eq!(forwards(&self.table), all);
        assert_eq!(backwards(&self.table), all.into_iter().rev().collect::<Vec<_>>());
        let mut keys: Vec<&[u8]> = self.model.keys().map(|(key, _)| key.as_slice()).collect();
        keys.dedup();
        assert_eq!(self.table.entries(), u64::try_from(keys.len()).unwrap());
        assert_eq!(self.table.versions(), u64::try_from(self.model.len()).unwrap());
        assert_eq!(self.table.smallest_seq(), self.model.keys().map(|(_, Reverse(seq))| *seq).min());
        assert_eq!(self.table.largest_seq(), self.model.keys().map(|(_, Reverse(seq))| *seq).max());
        assert!(self.table.garbage_bytes() < self.table.bytes());
    }
}

#[test]
fn random_operations_agree_with_an_ordered_map() {
    let (seeds, inserts) = if cfg!(miri) { (1, 25) } else { (6, 2_500) };
    for family in &FAMILIES {
        let inserts = if family.name == "up to the longest" { inserts / 10 + 1 } else { inserts };
        for seed in 1..=seeds {
            println!("{}, seed {seed}", family.name);
            let options = if seed % 2 == 0 { MemtableOptions::default() } else { small_chunks() };
            let (table, writer) = Memtable::new(options);
            let mut pair = Pair { table, writer, model: Model::new(), rng: Rng(seed), family };
            let mut seq = 0;
            for _ in 0..inserts {
                seq += 1 + pair.rng.next() % 3;
                pair.insert(seq);
                match pair.rng.below(8) {
                    0..=2 => pair.look_up(seq),
                    3 => pair.walk(seq),
                    4 if seq % 16 == 0 => pair.largest_in_range(),
                    _ => {}
                }
            }
            pair.compare_all();
        }
    }
}
