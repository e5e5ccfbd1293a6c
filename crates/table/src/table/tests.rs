//! Tables written and read: golden bytes, lookups against a map, limits, memory.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use cairn_codec::hash64;
use cairn_env::{Env, Fault, FaultKind, Op, SimDisk};

use super::*;
use crate::testing::{Dir, MapCache, Model, OWNER, Rng, SEED, expected, get};
use crate::{Compression, TableBuilder};

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    bytes.chunks(32).map(|chunk| line(chunk) + "\n").collect()
}

/// Every part of the format: shared prefixes, hash index, versions, kinds, separators, two partitions, a filter.
pub(crate) fn golden() -> (TableOptions, Model) {
    let options = TableOptions {
        block_bytes: 64,
        compression: Compression::None,
        filter_bits_per_key: 64,
        filter_hashes: Some(6),
        ..TableOptions::default()
    };
    let entries: [(&[u8], u64, u8, &[u8]); 11] = [
        (b"cairn/a", 300, 1, b"one"),
        (b"cairn/a", 9, 0, b""),
        (b"cairn/ab", 8, 1, b"two"),
        (b"cairn/b\x00", 7, 1, b"three"),
        (b"cairn/stone/which/no/wave/has/moved", 5, 1, b"a value with thirty-two bytes ..."),
        (b"cairn/stone/which/no/wave/has/moved", 4, 1, b"older"),
        (b"cairn/water/from/the/hills/runs/under/it", 3, 1, b"cold and clear, and nobody knows"),
        (b"cairn/way", 4, 1, b"\xff\x00"),
        (b"cairn/wbx", 2, 1, b"b1"),
        (b"cairn/wby", 1, 1, b"b2"),
        (b"cairn/wbz", 2, 1, b"b3"),
    ];
    let entry =
        |(key, seq, kind, value): (&[u8], u64, u8, &[u8])| ((key.to_vec(), Reverse(seq)), (kind, value.to_vec()));
    (options, entries.map(entry).into())
}

const GOLDEN: &str = include_str!("golden.hex");

/// The bytes of a file are a promise to every build to come. While the format version is 0 this
/// file may change with the format; afterwards a change here is a new version.
#[test]
fn golden_bytes() {
    let dir = Dir::new();
    let (options, model) = golden();
    dir.build(7, &options, &model);
    let written = hex(&Env::real().read_file(&dir.path("7"), 1 << 20).unwrap());
    assert_eq!(written, GOLDEN, "written:\n{written}");
}

/// A file written by an earlier build reads as it did then.
#[test]
fn golden_bytes_are_read() {
    let dir = Dir::new();
    let bytes: Vec<u8> = GOLDEN.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Env::real().create(&dir.path("7")).unwrap().write_all_at(&bytes, 0).unwrap();
    let table = dir.open(7, Load::Resident, None).unwrap();
    all_agree(&table, &golden().1, 1);
    table.verify(&mut |_| {}).unwrap();
    let text = table.describe().unwrap();
    assert_eq!(text, include_str!("golden.txt"), "described:\n{text}");
}

fn all_agree(table: &Table, model: &Model, seed: u64) {
    let mut rng = Rng(seed);
    let seqs = model.keys().map(|(_, Reverse(seq))| *seq);
    let around = |seq: u64| [seq.saturating_sub(1), seq, seq + 1];
    for (key, Reverse(seq)) in model.keys() {
        for max_seq in around(*seq).into_iter().chain([0, u64::MAX]) {
            assert_eq!(get(table, key, max_seq).unwrap(), expected(model, key, max_seq), "{key:?} at {max_seq}");
        }
    }
    let newest = seqs.max().unwrap();
    for _ in 0..500 {
        let (key, max_seq) = (rng.key(), rng.next() % (newest + 2));
        assert_eq!(get(table, &key, max_seq).unwrap(), expected(model, &key, max_seq), "{key:?} at {max_seq}");
    }
}

#[test]
fn lookups_agree_with_a_map_at_every_sequence_number() {
    let dir = Dir::new();
    let mut id = 0;
    for seed in 1..=3 {
        let model = Rng(seed).model(900);
        for block_bytes in [64, 500, 4096, 65_536] {
            for hash_index in [true, false] {
                for compression in [Compression::None, Compression::Lz4] {
                    id += 1;
                    let filter_bits_per_key = [0, 10, 3][id as usize % 3];
                    let options = TableOptions {
                        block_bytes,
                        compression,
                        hash_index,
                        filter_bits_per_key,
                        ..TableOptions::default()
                    };
                    println!("seed {seed}, {options:?}");
                    let summary = dir.build(id, &options, &model);
                    let load = if id % 2 == 0 { Load::Resident } else { Load::OnDemand };
                    let table = dir.open(id, load, Some(Arc::new(MapCache::default()))).unwrap();
                    assert_eq!(*table.summary(), summary);
                    all_agree(&table, &model, seed);
                    table.verify(&mut |_| {}).unwrap();
                    assert_eq!(
                        table.describe().unwrap().lines().count() as u64,
                        8 + table.index().block_count() as u64 + summary.data_blocks
                    );
                }
            }
        }
    }
}

#[test]
fn the_summary_counts_what_was_added() {
    let dir = Dir::new();
    let (options, model) = golden();
    let summary = dir.build(7, &options, &model);
    let expected = TableSummary {
        id: 7,
        owner: OWNER,
        file_bytes: Env::real().open(&dir.path("7")).unwrap().len().unwrap(),
        entries: 11,
        keys: 9,
        tombstones: 1,
        data_bytes: model.iter().map(|((key, _), (_, value))| (key.len() + value.len()) as u64).sum(),
        data_blocks: 5,
        smallest_seq: 1,
        largest_seq: 300,
        largest_kind: 1,
        smallest_key: b"cairn/a".to_vec(),
        largest_key: b"cairn/wbz".to_vec(),
    };
    assert_eq!(summary, expected);
    let identity = Table::identify(&Env::real().open(&dir.path("7")).unwrap()).unwrap();
    assert_eq!(identity, Identity { id: 7, hash_seed: SEED, file_bytes: summary.file_bytes });
}

#[test]
fn a_resident_only_lookup_reads_nothing() {
    let dir = Dir::new();
    let model = Rng(5).model(300);
    dir.build(1, &TableOptions { block_bytes: 256, ..TableOptions::default() }, &model);
    for load in [Load::Resident, Load::OnDemand] {
        let cache = Arc::new(MapCache::default());
        let table = dir.open(1, load, Some(Arc::clone(&cache) as Arc<dyn BlockCache>)).unwrap();
        for (key, _) in model.keys() {
            let resident = |what| table.get(key, hash64(key, SEED), u64::MAX, what).unwrap();
            cache.clear();
            let loads = cache.loads.load(Ordering::SeqCst);
            assert!(matches!(resident(Read::ResidentOnly), Lookup::NotResident));
            assert_eq!(cache.loads.load(Ordering::SeqCst), loads);
            assert!(matches!(resident(Read::Any), Lookup::Found { .. }));
            assert!(matches!(resident(Read::ResidentOnly), Lookup::Found { .. }));
        }
        let without_cache = dir.open(1, load, None).unwrap();
        let (key, _) = model.keys().next().unwrap();
        let answer = without_cache.get(key, hash64(key, SEED), u64::MAX, Read::ResidentOnly).unwrap();
        assert!(matches!(answer, Lookup::NotResident));
        assert!(get(&without_cache, key, u64::MAX).unwrap().is_some());
    }
}

#[test]
fn memory_is_charged_until_the_last_holder_is_gone() {
    let dir = Dir::new();
    let model = Rng(6).model(300);
    dir.build(1, &TableOptions::default(), &model);
    let cache = Arc::new(MapCache::default());
    let table = dir.open(1, Load::Resident, Some(Arc::clone(&cache) as Arc<dyn BlockCache>)).unwrap();
    let alive = || cache.alive_bytes.load(Ordering::SeqCst);
    assert_eq!(alive(), 0, "what the table owns is not charged to the cache");
    assert!(table.memory_bytes() > 300 * 10 / 8);
    let ((key, _), (_, value)) = model.iter().find(|(_, (kind, _))| *kind == 1).unwrap();
    let Lookup::Found { value: pinned, .. } = table.get(key, hash64(key, SEED), u64::MAX, Read::Any).unwrap() else {
        panic!("the key is there");
    };
    cache.clear();
    assert_eq!(alive(), pinned.pinned_bytes());
    assert!(pinned.pinned_bytes() > value.len());
    drop(table);
    drop(pinned);
    assert_eq!(alive(), 0);
}

#[test]
fn a_filter_spares_reads_of_absent_keys() {
    let dir = Dir::new();
    let key = |i: u32| i.to_be_bytes().to_vec();
    let model: Model = (0..2000).map(|i| ((key(i * 2), Reverse(1)), (1, vec![7; 20]))).collect();
    for (bits, reads_max) in [(10, 40), (0, 1999)] {
        dir.build(1, &TableOptions { filter_bits_per_key: bits, ..TableOptions::default() }, &model);
        let cache = Arc::new(MapCache::default());
        let table = dir.open(1, Load::Resident, Some(Arc::clone(&cache) as Arc<dyn BlockCache>)).unwrap();
        for i in 0..1999 {
            cache.clear();
            assert_eq!(get(&table, &key(i * 2 + 1), 9).unwrap(), None);
        }
        let reads = cache.loads.load(Ordering::SeqCst);
        assert!(reads <= reads_max && (bits > 0 || reads == reads_max), "{bits} bits: {reads} reads");
    }
}

#[test]
fn a_filter_on_demand_costs_one_read_of_a_piece() {
    let dir = Dir::new();
    let key = |i: u32| i.to_be_bytes().to_vec();
    let model: Model = (0..9000).map(|i| ((key(i * 2), Reverse(1)), (1, vec![7; 20]))).collect();
    let blocks = dir.build(1, &TableOptions::default(), &model).data_blocks;
    let cache = Arc::new(MapCache::default());
    let table = dir.open(1, Load::OnDemand, Some(Arc::clone(&cache) as Arc<dyn BlockCache>)).unwrap();
    assert_eq!(table.footer().filter.piece_count(), 3);
    assert!(blocks > 64 && table.index().block_count() as u64 == blocks.div_ceil(64), "{blocks} blocks");
    let loads = |key: &[u8], found: bool| {
        let before = cache.loads.load(Ordering::SeqCst);
        assert_eq!(get(&table, key, 9).unwrap().is_some(), found);
        cache.loads.load(Ordering::SeqCst) - before
    };
    assert_eq!(loads(&key(8000), true), 3, "a piece, a partition, a block");
    assert_eq!(loads(&key(8000), true), 0);
    cache.clear();
    let absent: usize = (0..8999).map(|i| loads(&key(i * 2 + 1), false)).sum();
    assert!((3..3 + 9000 * 2 / 50).contains(&absent), "{absent}: three pieces, and what false positives lead to");
    assert_eq!(loads(&key(20_000), false), 0, "beyond the last key nothing is asked");
}

#[test]
fn the_largest_keys_and_values_fit_and_larger_ones_are_refused() {
    let dir = Dir::new();
    let mut model = Model::new();
    let mut put = |key: Vec<u8>, seq, value| model.insert((key, Reverse(seq)), (1, value));
    put(vec![0], 1, vec![]);
    put(vec![0; 65_535], 2, vec![1; 100]);
    put(b"m".to_vec(), 3, b"cairn".repeat((64 << 20) / 5));
    put(b"n".to_vec(), 4, (0..300_000u32).flat_map(|i| mix(i).to_le_bytes()).collect());
    put(b"o".to_vec(), 5, b"small".to_vec());
    put(vec![0xff; 65_535], 6, vec![2; 100]);
    put([vec![0xff; 65_534], vec![0]].concat(), 7, vec![3; 100]);
    let summary = dir.build(1, &TableOptions::default(), &model);
    assert!(summary.data_blocks >= 5, "{summary:?}");
    let table = dir.open(1, Load::Resident, None).unwrap();
    for (key, Reverse(seq)) in model.keys() {
        assert!(get(&table, key, u64::MAX).unwrap() == expected(&model, key, u64::MAX), "{seq}");
        assert_eq!(get(&table, &[key.as_slice(), &[0]].concat(), u64::MAX).unwrap(), None);
    }
    table.verify(&mut |_| {}).unwrap();

    let file = Env::real().create(&dir.path("refused")).unwrap();
    let mut builder = TableBuilder::new(file, 2, 0, TableOptions::default()).unwrap();
    for (key, value) in [(&[][..], &[][..]), (&[1; 65_536], &[]), (&[1], &vec![0; (64 << 20) + 1])] {
        assert!(matches!(builder.add(key, 1, 1, value), Err(Error::Invalid { .. })));
    }
    assert!(matches!(builder.finish(), Err(Error::Invalid { .. })));
}

fn mix(i: u32) -> u64 {
    crate::mix64(i.into())
}

#[test]
fn an_entry_out_of_order_is_refused_and_harms_nothing() {
    let dir = Dir::new();
    let file = Env::real().create(&dir.path("1")).unwrap();
    let options = TableOptions { hash_seed: SEED, ..TableOptions::default() };
    let mut builder = TableBuilder::new(file, 1, 0, options).unwrap();
    builder.add(b"b", 5, 1, b"five").unwrap();
    for (key, seq) in [(&b"a"[..], 9), (b"b", 5), (b"b", 6), (b"\x00", 1)] {
        assert!(matches!(builder.add(key, seq, 1, b""), Err(Error::Order { .. })), "{key:?} {seq}");
    }
    builder.add(b"b", 4, 1, b"four").unwrap();
    assert_eq!(builder.entries(), 2);
    builder.finish().unwrap();
    let table = dir.open(1, Load::Resident, None).unwrap();
    assert_eq!(get(&table, b"b", 9).unwrap(), Some((5, 1, b"five".to_vec())));
    assert_eq!(get(&table, b"b", 4).unwrap(), Some((4, 1, b"four".to_vec())));
}

#[test]
fn options_out_of_bounds_are_refused() {
    let dir = Dir::new();
    let file = Env::real().create(&dir.path("1")).unwrap();
    let default = TableOptions::default;
    for bad in [
        TableOptions { block_bytes: 63, ..default() },
        TableOptions { block_bytes: (1 << 20) + 1, ..default() },
        TableOptions { filter_bits_per_key: 65, ..default() },
        TableOptions { filter_hashes: Some(0), ..default() },
        TableOptions { filter_hashes: Some(17), ..default() },
    ] {
        assert!(matches!(TableBuilder::new(file.clone(), 1, 0, bad), Err(Error::Invalid { .. })));
    }
}

#[test]
fn the_estimate_of_the_size_is_close() {
    let dir = Dir::new();
    let file = Env::real().create(&dir.path("1")).unwrap();
    let options = TableOptions { compression: Compression::None, ..TableOptions::default() };
    let mut builder = TableBuilder::new(file, 1, 0, options).unwrap();
    for i in 0..20_000u32 {
        builder.add(format!("key{i:08}").as_bytes(), i.into(), 1, &[b'v'; 50]).unwrap();
    }
    let (estimate, memory) = (builder.bytes_so_far(), builder.memory_bytes());
    let real = builder.finish().unwrap().file_bytes;
    assert!(estimate.abs_diff(real) < real / 20, "estimated {estimate}, was {real}");
    assert!((256 << 10..2 << 20).contains(&memory), "{memory}");
}

#[test]
fn another_table_in_its_place_is_refused() {
    let dir = Dir::new();
    let (options, model) = golden();
    let len = dir.build(7, &options, &model).file_bytes;
    let open = |id, len, seed| {
        let file = Env::real().open(&dir.path("7")).unwrap();
        Table::open(file, id, len, None, seed, Load::Resident)
    };
    assert!(open(7, len, SEED).is_ok());
    for result in [open(8, len, SEED), open(7, len + 1, SEED), open(7, len - 1, SEED), open(7, len, SEED + 1)] {
        assert!(matches!(result, Err(Error::Corrupt { .. })));
    }
}

/// What a crash between them leaves is an unfinished file, as before any sync; what matters is that none is passed over.
#[test]
fn a_large_table_is_synced_in_parts_and_each_can_fail_it() {
    let disk = SimDisk::new();
    let env = Env::simulated(1, disk.clone());
    env.create_dir_all("db".as_ref()).unwrap();
    let build = |name: &str| {
        let options = TableOptions { compression: Compression::None, ..TableOptions::default() };
        let mut builder = TableBuilder::new(env.create(name.as_ref()).unwrap(), 1, OWNER, options).unwrap();
        let added = (0..160u32).try_for_each(|i| builder.add(&i.to_be_bytes(), 1, 1, &[7; 64 << 10]));
        (added, builder)
    };
    let (added, builder) = build("db/sound");
    added.unwrap();
    assert_eq!(builder.finish().unwrap().entries, 160);
    for nth in 1..=2 {
        disk.inject(Fault::new(FaultKind::Eio).on(Op::Sync).file("broken").nth(nth));
        let (added, _) = build(&format!("db/broken{nth}"));
        assert!(matches!(added, Err(Error::Io(_))), "part {nth}: {added:?}");
    }
}
