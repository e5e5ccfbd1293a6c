//! The cursor against a map, in both directions, and what it pins.

use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::testing::{Dir, MapCache, Model, Rng};
use crate::{BlockCache, Compression, Load, TableCursor, TableOptions};

type Seen = Option<(Vec<u8>, u64, u8, Vec<u8>)>;

fn seen(cursor: &TableCursor) -> Seen {
    assert_eq!(cursor.value_pinned().as_deref(), cursor.valid().then(|| cursor.value()));
    cursor.valid().then(|| (cursor.key().to_vec(), cursor.seq(), cursor.kind(), cursor.value().to_vec()))
}

type InModel<'a> = Option<(&'a (Vec<u8>, Reverse<u64>), &'a (u8, Vec<u8>))>;

fn entry(found: InModel<'_>) -> Seen {
    found.map(|((key, Reverse(seq)), (kind, value))| (key.clone(), *seq, *kind, value.clone()))
}

fn tables(dir: &Dir, model: &Model) -> Vec<TableOptions> {
    let mut all = Vec::new();
    for block_bytes in [64, 65, 700, 4096, 65_536] {
        let compression = if block_bytes == 700 { Compression::Lz4 } else { Compression::None };
        let options = TableOptions { block_bytes, compression, ..TableOptions::default() };
        dir.build(all.len() as u64, &options, model);
        all.push(options);
    }
    all
}

#[test]
fn it_walks_all_entries_in_both_directions() {
    let dir = Dir::new();
    let model = Rng(11).model(2000);
    for (id, options) in tables(&dir, &model).iter().enumerate() {
        println!("{options:?}");
        let table = dir.open(id as u64, Load::Resident, None).unwrap();
        for readahead in [0, 1000, 40_000] {
            let mut cursor = table.cursor(false, readahead);
            assert_eq!((cursor.valid(), cursor.key(), cursor.value()), (false, &[][..], &[][..]));
            cursor.seek_to_first().unwrap();
            for found in &model {
                assert_eq!(seen(&cursor), entry(Some(found)));
                cursor.next().unwrap();
            }
            assert!(!cursor.valid());
            cursor.next().unwrap();
            cursor.prev().unwrap();
            assert!(!cursor.valid());
            cursor.seek_to_last().unwrap();
            for found in model.iter().rev() {
                assert_eq!(seen(&cursor), entry(Some(found)));
                cursor.prev().unwrap();
            }
            assert!(!cursor.valid());
        }
    }
}

#[test]
fn seeks_and_steps_agree_with_a_map() {
    let dir = Dir::new();
    for seed in 1..=3 {
        let mut rng = Rng(seed);
        let model = rng.model(700);
        let newest = model.keys().map(|(_, Reverse(seq))| *seq).max().unwrap();
        for (id, options) in tables(&dir, &model).iter().enumerate() {
            println!("seed {seed}, {options:?}");
            let table = dir.open(id as u64, Load::OnDemand, Some(Arc::new(MapCache::default()))).unwrap();
            let mut cursor = table.cursor(true, 1 << 16);
            for _ in 0..1500 {
                let (key, max_seq) = (rng.key(), rng.next() % (newest + 2));
                let mut here = if rng.below(3) == 0 {
                    cursor.seek_for_prev(&key).unwrap();
                    model.range(..(key.clone(), Reverse(u64::MAX))).next_back()
                } else {
                    cursor.seek(&key, max_seq).unwrap();
                    model.range((key.clone(), Reverse(max_seq))..).next()
                };
                assert_eq!(seen(&cursor), entry(here), "{key:?} {max_seq}");
                for _ in 0..rng.below(30) {
                    let Some((at, _)) = here else { break };
                    if rng.below(2) == 0 {
                        cursor.next().unwrap();
                        here = model.range((Bound::Excluded(at.clone()), Bound::Unbounded)).next();
                    } else {
                        cursor.prev().unwrap();
                        here = model.range(..at.clone()).next_back();
                    }
                    assert_eq!(seen(&cursor), entry(here), "after {at:?}");
                }
            }
        }
    }
}

#[test]
fn a_scan_fills_the_cache_only_if_asked() {
    let dir = Dir::new();
    let model = Rng(3).model(500);
    let options = TableOptions { block_bytes: 512, ..TableOptions::default() };
    let blocks = dir.build(1, &options, &model).data_blocks as usize;
    for fill in [false, true] {
        let cache = Arc::new(MapCache::default());
        let table = dir.open(1, Load::Resident, Some(Arc::clone(&cache) as Arc<dyn BlockCache>)).unwrap();
        let mut cursor = table.cursor(fill, 0);
        cursor.seek_to_first().unwrap();
        while cursor.valid() {
            cursor.next().unwrap();
        }
        assert_eq!(cache.len(), if fill { blocks } else { 0 });
    }
}

#[test]
fn it_may_move_to_another_thread() {
    fn movable<T: Send + 'static>() {}
    movable::<TableCursor>();
}

#[test]
fn what_it_holds_is_charged_and_given_back() {
    let dir = Dir::new();
    let model = Rng(4).model(3000);
    dir.build(1, &TableOptions { compression: Compression::None, ..TableOptions::default() }, &model);
    let cache = Arc::new(MapCache::default());
    let table = dir.open(1, Load::Resident, Some(Arc::clone(&cache) as Arc<dyn BlockCache>)).unwrap();
    let mut cursor = table.cursor(false, 1 << 20);
    cursor.seek_to_first().unwrap();
    let mut most = 0;
    while cursor.valid() {
        most = most.max(cache.alive_bytes.load(Ordering::SeqCst));
        cursor.next().unwrap();
    }
    assert!((20_000..200_000).contains(&most), "{most} bytes at most");
    drop(cursor);
    assert_eq!(cache.alive_bytes.load(Ordering::SeqCst), 0);
}
