//! Data blocks: columns, the hash index, and contents that were forged.

use super::*;
use crate::testing::Rng;
use cairn_codec::hash64;

type Owned = (Vec<u8>, u64, u8, Vec<u8>);

fn encode(entries: &[Owned], restart_interval: usize, hash_index: bool) -> Vec<u8> {
    let mut builder = BlockBuilder::new(restart_interval, hash_index);
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
    let same: Vec<Owned> = (0..100).map(|i| (vec![i], 0, 1, vec![])).collect();
    // Three lengths and a byte of key each; header, 7 restarts, tail.
    assert_eq!(encode(&same, 16, false).len(), 100 * 4 + 3 + 7 * 8 + 6);
    let mut varied = same;
    varied[50].1 = 1;
    assert_eq!(encode(&varied, 16, false).len(), 100 * 5 + 3 + 7 * 8 + 6);
    varied[50].2 = 0;
    assert_eq!(encode(&varied, 16, false).len(), 100 * 6 + 2 + 7 * 8 + 6);
}

#[test]
fn the_hash_index_finds_every_key_and_denies_most_others() {
    let entries = numbered(200);
    let bytes = encode(&entries, 4, true);
    let layout = Layout::parse(&bytes).unwrap();
    let block = DataBlock { contents: &bytes, layout: &layout };
    assert_eq!(block.bucket_count(), 267);
    let bucket = |key: &[u8]| block.bucket(hash64(key, 1)).unwrap();
    let direct = entries.iter().enumerate().filter(|(i, (key, ..))| match bucket(key) {
        Bucket::Restart(restart) => restart == i / 4,
        Bucket::Unknown => false,
        Bucket::Absent => panic!("key {i} denied"),
    });
    let direct = direct.count();
    assert!(direct > 70, "{direct}");
    let denied = (0..1000).filter(|i| bucket(format!("other{i}").as_bytes()) == Bucket::Absent);
    let denied = denied.count();
    assert!(denied > 400, "{denied}");
}

#[test]
fn the_hash_index_is_left_out_where_it_cannot_work() {
    for (count, interval, expected) in [(3, 4, 0), (5, 4, 7), (253, 1, 338), (254, 1, 339), (255, 1, 0)] {
        let bytes = encode(&numbered(count), interval, true);
        let layout = Layout::parse(&bytes).unwrap();
        assert_eq!(layout.bucket_count, expected, "{count} entries");
        let block = DataBlock { contents: &bytes, layout: &layout };
        for (key, seq, ..) in numbered(count) {
            let found = block.find(&key, hash64(&key, 1), u64::MAX).unwrap().unwrap();
            assert_eq!(found.seq, seq);
        }
    }
}

/// Everything a reader may do with a block.
fn exercise(bytes: &[u8], keys: &[Owned]) -> Result<usize, DecodeError> {
    let layout = Layout::parse(bytes)?;
    let block = DataBlock { contents: bytes, layout: &layout };
    for (key, seq, ..) in keys {
        let _ = block.find(key, hash64(key, 1), *seq);
        let _ = block.restart_before(key, *seq);
        let _ = block.restart_under(key.len() * 7);
    }
    let (mut place, mut key, mut entries) = (block.start(), Vec::new(), 0);
    while place.at < block.end() {
        let entry = block.entry(place)?;
        assert!(entry.next().at > place.at && entry.next().at <= block.end());
        assert!(entry.value_end <= block.values_end());
        block.step_key(&mut key, &entry)?;
        place = entry.next();
        entries += 1;
    }
    Ok(entries)
}

/// A checksum guards against chance, not against whoever forges it too.
#[test]
fn forged_contents_are_refused_or_read_but_never_panic() {
    let entries = numbered(40);
    let good = encode(&entries, 4, true);
    assert_eq!(exercise(&good, &entries), Ok(40));
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut rng = Rng(seed);
        let mut bytes = good.clone();
        for _ in 0..1 + rng.below(3) {
            let at = if rng.below(2) == 0 { rng.below(bytes.len()) } else { bytes.len() - 1 - rng.below(60) };
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
