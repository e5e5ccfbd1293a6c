//! Data blocks: columns, the hash index, and contents that were forged.

use super::*;
use crate::testing::Rng;
use cairn_codec::hash64;

type Owned = (Vec<u8>, u64, u8, Vec<u8>);

fn encode(entries: &[Owned], hash_index: bool) -> Vec<u8> {
    let mut builder = BlockBuilder::new(hash_index);
    for (key, seq, kind, value) in entries {
        builder.add(key, hash64(key, 1), *seq, *kind, value);
    }
    builder.encode().to_vec()
}

fn numbered(count: u64) -> Vec<Owned> {
    (0..count).map(|i| (format!("key{i:05}").into_bytes(), 100 + i % 7, 1, vec![b'v'; 3])).collect()
}

#[test]
fn columns_that_never_change_cost_nothing() {
    let same: Vec<Owned> = (0..100).map(|i| (vec![i], 5, 1, vec![])).collect();
    // The header, and a byte of key each.
    assert_eq!(encode(&same, false).len(), 8 + 100);
    let mut varied = same.clone();
    varied[50].1 = 300;
    assert_eq!(encode(&varied, false).len(), 8 + 100 * 3, "sequence numbers");
    varied[50].2 = 0;
    assert_eq!(encode(&varied, false).len(), 7 + 100 * 4, "kinds");
    varied[50].3 = vec![7; 9];
    assert_eq!(encode(&varied, false).len(), 6 + 100 * 6 + 9, "where values end");
    varied[50].0 = vec![50, 50];
    assert_eq!(encode(&varied, false).len(), 5 + 100 * 8 + 9 + 1, "where suffixes end");
    let prefixed: Vec<Owned> = (0..100).map(|i| (vec![b'p', i], 5, 1, vec![])).collect();
    assert_eq!(encode(&prefixed, false).len(), 8 + 1 + 100, "the prefix stands once");
}

#[test]
fn the_hash_index_finds_most_keys_and_denies_many_others() {
    let entries = numbered(200);
    let bytes = encode(&entries, true);
    let layout = Layout::parse(&bytes).unwrap();
    let block = DataBlock { contents: &bytes, layout: &layout };
    assert_eq!(block.bucket_count(), 267);
    let bucket = |key: &[u8]| block.bucket(hash64(key, 1));
    let direct = entries.iter().enumerate().filter(|(i, (key, ..))| bucket(key) == Bucket::Entry(*i)).count();
    assert!(direct > 120, "{direct}");
    assert!(entries.iter().all(|(key, ..)| bucket(key) != Bucket::Absent));
    let denied = (0..1000).filter(|i| bucket(format!("other{i}").as_bytes()) == Bucket::Absent).count();
    assert!(denied > 400, "{denied}");
}

#[test]
fn the_hash_index_is_left_out_where_it_cannot_work() {
    for (count, expected) in [(1, 0), (5, 7), (254, 339), (255, 0)] {
        let bytes = encode(&numbered(count), true);
        let layout = Layout::parse(&bytes).unwrap();
        assert_eq!(layout.bucket_count, expected, "{count} entries");
        let block = DataBlock { contents: &bytes, layout: &layout };
        for (key, seq, ..) in numbered(count) {
            let found = block.find(&key, hash64(&key, 1), u64::MAX).unwrap();
            assert_eq!(found.seq, seq);
        }
    }
}

#[test]
fn long_columns_have_wide_ends() {
    let entries: Vec<Owned> = (0..5u8).map(|i| (vec![i], 9, 1, vec![i; 20_000 + usize::from(i)])).collect();
    for count in [3, 4] {
        let bytes = encode(&entries[..count], true);
        assert_eq!(bytes[0] & WIDE != 0, count == 4);
        let layout = Layout::parse(&bytes).unwrap();
        let block = DataBlock { contents: &bytes, layout: &layout };
        for (number, (key, _, _, value)) in entries[..count].iter().enumerate() {
            let found = block.find(key, hash64(key, 1), 9).unwrap();
            assert_eq!((found.number, block.value(found.number)), (number, &value[..]));
        }
    }
}

/// Everything a reader may do with a block.
fn exercise(bytes: &[u8], keys: &[Owned]) -> Result<usize, DecodeError> {
    let layout = Layout::parse(bytes)?;
    let block = DataBlock { contents: bytes, layout: &layout };
    for (key, seq, ..) in keys {
        let _ = block.find(key, hash64(key, 1), *seq);
        assert!(block.at_or_after(key, *seq) <= block.count());
    }
    let mut key = Vec::new();
    for number in 0..block.count() {
        let entry = block.entry(number).unwrap();
        assert!(entry.value_at <= entry.value_end && entry.value_end <= bytes.len());
        block.set_key(&mut key, number);
        assert!((1..=KEY_BYTES_MAX).contains(&key.len()));
    }
    assert_eq!(block.entry(block.count()), None);
    Ok(block.count())
}

/// A checksum guards against chance, not against whoever forges it too.
#[test]
fn forged_contents_are_refused_or_read_but_never_panic() {
    let mut entries = numbered(40);
    entries[7].3 = vec![1; 30];
    entries[9].0.push(b'x');
    entries[11].2 = 0;
    let good = encode(&entries, true);
    assert_eq!(exercise(&good, &entries), Ok(40));
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut rng = Rng(seed);
        let mut bytes = good.clone();
        for _ in 0..1 + rng.below(3) {
            let at = if rng.below(2) == 0 { rng.below(bytes.len()) } else { rng.below(20) };
            bytes[at] = [rng.next() as u8, 0, 0x7f, 0x80, 0xff][rng.below(5)];
        }
        if rng.below(4) == 0 {
            bytes.truncate(rng.below(bytes.len()));
        }
        refused += usize::from(exercise(&bytes, &entries).is_err());
    }
    assert!(refused > 10_000, "{refused}");
    for len in 0..good.len() {
        let _ = exercise(&good[..len], &entries);
    }
}
