//! The named cases: every way in which an edge splits and a node grows, and what must not change.

use super::*;

/// The longest key here: Miri runs the same cases in small.
const LONGEST: usize = if cfg!(miri) { 1_000 } else { KEY_BYTES_MAX };

/// Inserts the keys in the given order and looks at them in every way.
fn check(keys: &[&[u8]]) -> Arc<Memtable> {
    let table = table_of(keys);
    let mut sorted: Vec<(Vec<u8>, u64)> = keys.iter().map(|key| key.to_vec()).zip(1..).collect();
    sorted.sort();
    assert_eq!(forwards(&table), sorted);
    sorted.reverse();
    assert_eq!(backwards(&table), sorted);
    for (key, seq) in keys.iter().zip(1..) {
        assert_eq!(table.get(key, ANY), Some(Version { seq, kind: PUT, value: key }), "{key:?}");
    }
    assert_eq!(table.entries(), u64::try_from(keys.len()).unwrap(), "a split is not an entry");
    table
}

#[test]
fn a_leaf_in_the_way_makes_a_fork() {
    check(&[b"team", b"test"]);
    check(&[b"test", b"team", b"foo"]);
}

#[test]
fn a_key_that_is_a_prefix_of_a_leaf_ends_at_the_fork() {
    check(&[b"testing", b"test"]);
}

#[test]
fn a_leaf_that_is_a_prefix_of_the_key_ends_at_the_fork() {
    check(&[b"test", b"testing"]);
}

#[test]
fn a_key_that_leaves_within_an_edge_splits_it_in_two() {
    check(&[b"romane", b"romanus", b"rubens"]);
    check(&[b"abcdef1", b"abcdef2", b"abxyz"]);
}

/// One new node, not two: the common part has the old rest as its only child.
#[test]
fn a_key_that_ends_within_an_edge_ends_at_the_split() {
    let table = check(&[b"abcdef1", b"abcdef2", b"abc"]);
    assert_eq!(table.get(b"ab", ANY), None);
    assert_eq!(table.get(b"abcd", ANY), None);
}

#[test]
fn a_split_on_the_first_byte_of_an_edge_leaves_an_empty_edge_above() {
    check(&[b"abc1", b"abc2", b"x"]);
    check(&[b"abc1", b"abc2", b"a"]);
}

#[test]
fn a_split_on_the_last_byte_of_an_edge_leaves_an_empty_edge_below() {
    check(&[b"abc1", b"abc2", b"abx"]);
    check(&[b"abc1", b"abc2", b"ab"]);
}

#[test]
fn a_key_that_ends_at_a_node_takes_the_nodes_own_slot() {
    check(&[b"abc1", b"abc2", b"abc"]);
}

#[test]
fn a_path_that_only_leads_on_is_no_entry() {
    let table = check(&[b"abc1", b"abc2"]);
    for absent in [&b""[..], b"a", b"abc", b"abc3", b"abc11", b"b"] {
        assert_eq!(table.get(absent, ANY), None, "{absent:?}");
        assert_eq!(table.latest_seq(absent), None, "{absent:?}");
    }
}

#[test]
fn edges_longer_than_a_node_holds_split_anywhere() {
    let long = b"0123456789abcdefghijklmnopqrstuvwxyz";
    for cut in (0..long.len()).step_by(if cfg!(miri) { 9 } else { 1 }) {
        let (mut first, mut second, mut third) = (long.to_vec(), long.to_vec(), long[..cut].to_vec());
        first.push(b'1');
        second.push(b'2');
        third.push(b'!');
        check(&[&first, &second, &third]);
        if cut > 0 {
            check(&[&first, &second, &long[..cut]]);
            check(&[&first, &second, &third, &long[..cut]]);
        }
    }
}

#[test]
fn nodes_grow_through_all_sizes_in_any_order_of_arrival() {
    for step in if cfg!(miri) { &[101_usize][..] } else { &[1, 101, 255] } {
        for ends_here in [false, true] {
            let mut keys: Vec<Vec<u8>> = Vec::new();
            if ends_here {
                keys.push(b"edge".to_vec());
            }
            for i in 0..256 {
                let mut key = b"edge".to_vec();
                key.push(u8::try_from(i * step % 256).unwrap());
                keys.push(key);
                // Around each growth, and in between.
                if !cfg!(miri) && [2, 4, 5, 16, 17, 48, 49, 100, 255].contains(&i) {
                    check(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
                }
            }
            check(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_split_above_a_node_of_any_size_keeps_its_children() {
    for children in if cfg!(miri) { &[4_u8, 17][..] } else { &[2, 4, 16, 48, 255] } {
        let mut keys: Vec<Vec<u8>> = (0..*children).map(|byte| vec![b'l', b'o', b'n', b'g', byte]).collect();
        keys.push(b"long".to_vec());
        keys.push(b"lo".to_vec());
        keys.push(b"la".to_vec());
        check(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
}

#[test]
fn zero_bytes_are_bytes_like_others() {
    check(&[b"\0", b"\0\0", b"\0\0\0", b"\xff", b"\xff\xff", b"\xff\0", b"\0\xff"]);
    check(&[b"a\x01", b"a\x02", b"a\0", b"a"]);
    let table = check(&[b"a\x01", b"a\x02"]);
    assert_eq!(table.get(b"a\0", ANY), None);
}

#[test]
fn overwriting_and_deleting_do_not_count_twice() {
    let (table, mut writer) = Memtable::new(MemtableOptions::default());
    writer.insert(b"k", 1, PUT, b"1").unwrap();
    writer.insert(b"k", 2, PUT, b"2").unwrap();
    writer.insert(b"k", 3, DELETE, b"").unwrap();
    // A tombstone for a key that is not there needs its path all the same.
    writer.insert(b"kk", 4, DELETE, b"").unwrap();
    writer.insert(b"k", 5, PUT, b"5").unwrap();
    assert_eq!((table.entries(), table.versions()), (2, 5));
    assert_eq!(table.get(b"kk", ANY).map(|v| v.kind), Some(DELETE));
    let entries = [(b"k".to_vec(), 5), (b"k".to_vec(), 3), (b"k".to_vec(), 2), (b"k".to_vec(), 1), (b"kk".to_vec(), 4)];
    assert_eq!(forwards(&table), entries);
}

#[test]
fn the_longest_keys_nest_without_recursion() {
    let count = if cfg!(miri) { 40 } else { 400 };
    // Each a prefix of the next, up to the longest; inserted from both ends towards the middle.
    let longest: Vec<u8> = (0..LONGEST).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let step = LONGEST / count;
    let mut lengths: Vec<usize> = (0..count).map(|i| LONGEST - i * step).collect();
    let back: Vec<usize> = lengths.split_off(count / 2).into_iter().rev().collect();
    let keys: Vec<&[u8]> = lengths.iter().zip(&back).flat_map(|(a, b)| [&longest[..*a], &longest[..*b]]).collect();
    let table = check(&keys);
    let payload: usize = keys.iter().map(|key| 2 * key.len()).sum();
    let overhead = table.bytes() - table.garbage_bytes() - u64::try_from(payload).unwrap();
    assert!(overhead < u64::try_from(payload / 4).unwrap(), "{overhead} bytes beyond {payload}");
}

/// Nodes under a long edge do not carry it, so that a short key which splits one costs little.
#[test]
fn splitting_a_long_edge_costs_a_node_not_its_length() {
    let (table, mut writer) = Memtable::new(MemtableOptions::default());
    let mut long = vec![b'a'; LONGEST];
    writer.insert(&long, 1, PUT, b"").unwrap();
    long[LONGEST - 1] = b'b';
    writer.insert(&long, 2, PUT, b"").unwrap();
    let before = table.bytes();
    for (len, seq) in (1..200).rev().zip(3..) {
        writer.insert(&long[..len], seq, PUT, b"").unwrap();
    }
    assert!(table.bytes() - before < 64 * 1024, "{} bytes", table.bytes() - before);
    assert_eq!(table.entries(), 201);
}

/// One node for every byte of the key, walked both ways.
#[test]
fn the_deepest_path_is_walked_both_ways() {
    let depth = if cfg!(miri) { 60 } else { 3_000 };
    let key = vec![b'x'; depth];
    let keys: Vec<&[u8]> = (1..=depth).map(|len| &key[..len]).collect();
    check(&keys);
    let reversed: Vec<&[u8]> = keys.into_iter().rev().collect();
    check(&reversed);
}
