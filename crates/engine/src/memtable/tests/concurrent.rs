//! One writer and three readers at once: what was published is found, whole and in order.

use std::sync::atomic::{AtomicU64, Ordering};

use cairn_env::Env;

use super::*;

/// Lookups between two scans.
const LOOKUPS: u64 = if cfg!(miri) { 3 } else { 50 };

/// Key, kind and value follow from the sequence number, so that any reader can check any entry.
fn entry(seq: u64) -> (Vec<u8>, u8, Vec<u8>) {
    let mut rng = Rng(seq);
    let key: Vec<u8> = match rng.below(4) {
        // Few keys with many versions and every length; children of one node; deep splits; sparse.
        0 => (0..=rng.below(6)).map(|_| b"ab"[rng.below(2)]).collect(),
        1 => vec![b'n', rng.byte()],
        2 => {
            let mut key = vec![b's'; 1 + rng.below(40)];
            key.push(rng.byte());
            key
        }
        _ => (0..8).map(|_| rng.byte()).collect(),
    };
    let value = (0..rng.below(50)).map(|_| rng.byte()).collect();
    (key, rng.byte(), value)
}

fn check_entry(cursor: &MemtableCursor) {
    let (key, kind, value) = entry(cursor.seq());
    assert_eq!((cursor.key(), cursor.kind(), cursor.value()), (&key[..], kind, &value[..]), "{}", cursor.seq());
}

/// Walks everything in one direction and counts what had been published.
fn scan(table: &Arc<Memtable>, published: u64, backward: bool) {
    let mut cursor = MemtableCursor::new(Arc::clone(table));
    let (mut count, mut last) = (0, None);
    if backward {
        cursor.seek_to_last()
    } else {
        cursor.seek_to_first()
    }
    while cursor.valid() {
        check_entry(&cursor);
        let here = (cursor.key().to_vec(), std::cmp::Reverse(cursor.seq()));
        if let Some(last) = &last {
            assert!(if backward { here < *last } else { here > *last }, "{here:?} after {last:?}");
        }
        last = Some(here);
        count += u64::from(cursor.seq() <= published);
        if backward { cursor.prev() } else { cursor.next() }
    }
    assert_eq!(count, published);
}

fn read(table: &Arc<Memtable>, published: &AtomicU64, last_seq: u64, seed: u64) {
    let mut rng = Rng(seed);
    let mut cursor = MemtableCursor::new(Arc::clone(table));
    loop {
        let now = published.load(Ordering::Acquire);
        if now > 0 {
            for _ in 0..LOOKUPS {
                let seq = 1 + rng.next() % now;
                let (key, kind, value) = entry(seq);
                assert_eq!(table.get(&key, seq), Some(Version { seq, kind, value: &value }));
                assert!(table.latest_seq(&key) >= Some(seq));
                cursor.seek(&key, seq);
                assert!(cursor.valid());
                assert_eq!(cursor.seq(), seq);
                check_entry(&cursor);
                // There and back, past whatever comes in between.
                cursor.prev();
                while cursor.valid()
                    && (cursor.key(), std::cmp::Reverse(cursor.seq())) < (&key[..], std::cmp::Reverse(seq))
                {
                    cursor.next();
                }
                assert!(!cursor.valid() || cursor.seq() == seq);
            }
            scan(table, now, rng.below(2) == 0);
            assert!(table.max_seq_in_range(b"", None) >= Some(now));
        }
        if now == last_seq {
            return;
        }
    }
}

#[test]
fn readers_find_whatever_was_published() {
    let (rounds, last_seq) = if cfg!(miri) { (1, 40) } else { (40, 5_000) };
    let env = Env::real();
    for round in 0..rounds {
        let options = if round % 2 == 0 { small_chunks() } else { MemtableOptions::default() };
        let (table, mut writer) = Memtable::new(options);
        let published = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (table, published) = (Arc::clone(&table), Arc::clone(&published));
                let seed = round * 3 + reader;
                env.spawn("reader", move || read(&table, &published, last_seq, seed)).unwrap()
            })
            .collect();
        let publish = Arc::clone(&published);
        let writer = env
            .spawn("writer", move || {
                for seq in 1..=last_seq {
                    let (key, kind, value) = entry(seq);
                    writer.insert(&key, seq, kind, &value).unwrap();
                    publish.store(seq, Ordering::Release);
                }
            })
            .unwrap();
        assert!(writer.join(), "writer of round {round}");
        for (reader, number) in readers.into_iter().zip(0..) {
            assert!(reader.join(), "reader {number} of round {round}");
        }
        assert_eq!(table.versions(), last_seq);
        scan(&table, last_seq, false);
        scan(&table, last_seq, true);
    }
}

/// Iterators are moved between threads, tables are shared, the writer goes where commits go.
#[test]
fn the_sides_may_cross_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<MemtableCursor>();
    send::<MemtableWriter>();
    send::<Memtable>();
    sync::<Memtable>();
}
