//! The memtable against a model, against the named cases of a radix trie, and under threads.

mod concurrent;
mod model;
mod shape;

use std::sync::Arc;

use super::*;

const PUT: u8 = 1;
const DELETE: u8 = 0;
const ANY: u64 = u64::MAX;

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

fn small_chunks() -> MemtableOptions {
    MemtableOptions { chunk_bytes_first: 64, ..MemtableOptions::default() }
}

fn table_of(keys: &[&[u8]]) -> Arc<Memtable> {
    let (table, mut writer) = Memtable::new(small_chunks());
    for (key, seq) in keys.iter().zip(1..) {
        writer.insert(key, seq, PUT, key).unwrap();
    }
    table
}

fn forwards(table: &Arc<Memtable>) -> Vec<(Vec<u8>, u64)> {
    let mut cursor = MemtableCursor::new(Arc::clone(table));
    let mut all = Vec::new();
    cursor.seek_to_first();
    while cursor.valid() {
        all.push((cursor.key().to_vec(), cursor.seq()));
        cursor.next();
    }
    all
}

fn backwards(table: &Arc<Memtable>) -> Vec<(Vec<u8>, u64)> {
    let mut cursor = MemtableCursor::new(Arc::clone(table));
    let mut all = Vec::new();
    cursor.seek_to_last();
    while cursor.valid() {
        all.push((cursor.key().to_vec(), cursor.seq()));
        cursor.prev();
    }
    all
}

#[test]
fn an_empty_memtable_holds_nothing_and_takes_no_chunk() {
    let (table, _writer) = Memtable::new(MemtableOptions::default());
    assert_eq!(table.get(b"k", ANY), None);
    assert_eq!(table.latest_seq(b"k"), None);
    assert_eq!(table.max_seq_in_range(b"", None), None);
    assert_eq!((table.entries(), table.versions(), table.bytes(), table.garbage_bytes()), (0, 0, 0, 0));
    assert_eq!((table.smallest_seq(), table.largest_seq()), (None, None));
    assert_eq!(forwards(&table), []);
    assert_eq!(backwards(&table), []);
    let mut cursor = MemtableCursor::new(table);
    cursor.seek(b"k", ANY);
    assert!(!cursor.valid());
    cursor.seek_for_prev(b"k");
    assert!(!cursor.valid());
    cursor.next();
    cursor.prev();
    cursor.next_key();
    assert_eq!(
        (cursor.valid(), cursor.key(), cursor.seq(), cursor.kind(), cursor.value()),
        (false, &b""[..], 0, 0, &b""[..])
    );
}

#[test]
fn a_lookup_answers_the_newest_version_that_may_be_seen() {
    let (table, mut writer) = Memtable::new(MemtableOptions::default());
    writer.insert(b"k", 3, PUT, b"three").unwrap();
    writer.insert(b"k", 7, DELETE, b"").unwrap();
    writer.insert(b"k", 9, 200, b"nine").unwrap();
    let seen = |seq_max| table.get(b"k", seq_max).map(|v| (v.seq, v.kind, v.value));
    assert_eq!(seen(2), None);
    assert_eq!(seen(3), Some((3, PUT, &b"three"[..])));
    assert_eq!(seen(8), Some((7, DELETE, &b""[..])));
    assert_eq!(seen(ANY), Some((9, 200, &b"nine"[..])));
    assert_eq!(table.latest_seq(b"k"), Some(9));
    assert_eq!((table.entries(), table.versions()), (1, 3));
    assert_eq!((table.smallest_seq(), table.largest_seq()), (Some(3), Some(9)));
}

#[test]
fn a_refused_insertion_changes_nothing() {
    let (table, mut writer) = Memtable::new(MemtableOptions::default());
    writer.insert(b"k", 5, PUT, b"v").unwrap();
    let before = (table.entries(), table.versions(), table.bytes(), table.largest_seq());
    let long = vec![b'x'; KEY_BYTES_MAX + 1];
    assert_eq!(writer.insert(b"", 6, PUT, b""), Err(InsertError::KeyLength { found: 0 }));
    assert_eq!(writer.insert(&long, 6, PUT, b""), Err(InsertError::KeyLength { found: 65_536 }));
    assert_eq!(writer.insert(b"k", 5, PUT, b"w"), Err(InsertError::SequenceOrder { last: 5, found: 5 }));
    assert_eq!(writer.insert(b"a", 4, PUT, b"w"), Err(InsertError::SequenceOrder { last: 5, found: 4 }));
    if !cfg!(miri) {
        let large = vec![0; VALUE_BYTES_MAX + 1];
        let found = large.len();
        assert_eq!(writer.insert(b"k", 6, PUT, &large), Err(InsertError::ValueLength { found }));
    }
    assert_eq!((table.entries(), table.versions(), table.bytes(), table.largest_seq()), before);
    assert_eq!(forwards(&table), [(b"k".to_vec(), 5)]);
}

#[test]
fn a_full_memtable_refuses_and_keeps_what_it_has() {
    let options = MemtableOptions { chunk_bytes_first: 64, chunk_bytes_max: 64 };
    let (table, mut writer) = Memtable::new(options);
    let mut inserted = Vec::new();
    let refused = loop {
        let seq = u64::try_from(inserted.len()).unwrap() + 1;
        let key = (seq * 0x9e37_79b9).to_be_bytes();
        match writer.insert(&key, seq, PUT, &key) {
            Ok(()) => inserted.push((key.to_vec(), seq)),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, InsertError::Full);
    assert!(inserted.len() > 100, "{} fitted into 512 chunks", inserted.len());
    inserted.sort();
    assert_eq!(forwards(&table), inserted);
    assert_eq!(table.entries(), u64::try_from(inserted.len()).unwrap());
}

#[test]
fn a_value_of_any_size_comes_back() {
    let (table, mut writer) = Memtable::new(MemtableOptions::default());
    let largest = if cfg!(miri) { 10_000 } else { VALUE_BYTES_MAX };
    let sizes = [0, 1, 6, 7, 8, 9, 100, 1_000, 4_096, 65_536, largest, 3];
    for (size, seq) in sizes.iter().zip(1..) {
        let value: Vec<u8> = (0..=255).cycle().take(*size).collect();
        writer.insert(format!("{size}").as_bytes(), seq, PUT, &value).unwrap();
    }
    for (size, seq) in sizes.iter().zip(1..) {
        let found = table.get(format!("{size}").as_bytes(), ANY).unwrap();
        assert_eq!((found.seq, found.value.len()), (seq, *size));
        assert!(found.value.iter().zip((0..=255).cycle()).all(|(found, put)| *found == put));
    }
    let payload: usize = sizes.iter().sum();
    assert!(table.bytes() < u64::try_from(payload).unwrap() + 16_384, "{} bytes for {payload}", table.bytes());
}

#[test]
fn bytes_are_those_of_the_chunks() {
    let (table, mut writer) = Memtable::new(MemtableOptions { chunk_bytes_first: 4096, chunk_bytes_max: 4096 });
    writer.insert(b"a", 1, PUT, b"").unwrap();
    assert_eq!(table.bytes(), 4096);
    // More than half a chunk: a chunk of its own, of a length word, the 17 bytes before the value and the value.
    writer.insert(b"a", 2, PUT, &[7; 5000]).unwrap();
    assert_eq!(table.bytes(), 4096 + 8 + 5024);
    writer.insert(b"a", 3, PUT, b"").unwrap();
    assert_eq!((table.bytes(), table.garbage_bytes()), (4096 + 8 + 5024, 0));
}

#[test]
fn the_largest_number_in_a_range_is_found() {
    let table = table_of(&[b"b", b"d", b"ba", b"f", b"bb"]);
    type Case = (&'static [u8], Option<&'static [u8]>, Option<u64>);
    let cases: [Case; 10] = [
        (b"", None, Some(5)),
        (b"a", Some(b"b"), None),
        (b"a", Some(b"b\0"), Some(1)),
        (b"b", Some(b"bb"), Some(3)),
        (b"b", Some(b"d"), Some(5)),
        (b"c", Some(b"e"), Some(2)),
        (b"d", Some(b"d"), None),
        (b"f", Some(b"b"), None),
        (b"f", None, Some(4)),
        (b"g", None, None),
    ];
    for (start, end, largest) in cases {
        assert_eq!(table.max_seq_in_range(start, end), largest, "{start:?}..{end:?}");
    }
}
