//! Generated files: the same for a seed, of exactly the size asked, right by a model, and as hard as promised.
//!
//! The interpreter here reads the text on its own and shares no code with the generator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{TempDir, generate, run};

const KINDS: [&str; 4] = ["put", "put-delete", "put-delete-scan", "concurrency"];

/// How often each promised thing happened.
#[derive(Debug, Default)]
struct Counts {
    puts: usize,
    gets: usize,
    deletes: usize,
    scans: usize,
    missing: usize,
    missing_after_delete: usize,
    deletes_of_absent: usize,
    puts_after_delete: usize,
    reads_after_put_after_delete: usize,
    reads_of_prefixes_or_extensions: usize,
    empty_scans: usize,
    scans_over_tombstones: usize,
    only_tombstones: usize,
    end_is_key: usize,
    long_values: usize,
    short_values: usize,
    value_lengths: usize,
}

/// Runs a serial file against a map, checks every expectation, and counts.
fn interpret(text: &str) -> Counts {
    let mut counts = Counts::default();
    let mut model: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let mut reborn: BTreeSet<&str> = BTreeSet::new();
    let (mut values, mut lengths) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields.as_slice() {
            ["PUT", key, value] => {
                counts.puts += 1;
                counts.long_values += usize::from(value.len() > 1_000);
                counts.short_values += usize::from(value.len() < 8);
                lengths.insert(value.len());
                assert!(values.insert(*value), "a value was written twice: {value}");
                if model.insert(key, Some(value)) == Some(None) {
                    counts.puts_after_delete += 1;
                    reborn.insert(key);
                }
            }
            ["DELETE", key] => {
                counts.deletes += 1;
                counts.deletes_of_absent += usize::from(!matches!(model.get(key), Some(Some(_))));
                model.insert(key, None);
                reborn.remove(key);
            }
            ["GET", key, expected] => {
                counts.gets += 1;
                let found = model.get(key).copied();
                assert_eq!(found.flatten().unwrap_or("NOT_FOUND"), *expected, "{line}");
                counts.missing += usize::from(*expected == "NOT_FOUND");
                counts.missing_after_delete += usize::from(found == Some(None));
                counts.reads_after_put_after_delete += usize::from(reborn.contains(key));
                let live = |other: &str| matches!(model.get(other), Some(Some(_)));
                let longer = model.range(*key..).nth(usize::from(found.is_some()));
                let extends = (1..key.len()).any(|length| live(&key[..length]));
                let is_extended = longer.is_some_and(|(other, value)| other.starts_with(key) && value.is_some());
                counts.reads_of_prefixes_or_extensions += usize::from(extends || is_extended);
            }
            ["SCAN", start, end, list] => {
                counts.scans += 1;
                let inside: Vec<_> = model.iter().filter(|(key, _)| *start <= **key && **key < *end).collect();
                let live: Vec<&str> =
                    inside.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| **key).collect();
                assert_eq!(live.join(","), *list, "{line}");
                let dead = inside.len() - live.len();
                counts.empty_scans += usize::from(live.is_empty());
                counts.scans_over_tombstones += usize::from(dead > 0);
                counts.only_tombstones += usize::from(dead > 0 && live.is_empty());
                counts.end_is_key += usize::from(model.contains_key(end));
            }
            _ => panic!("not of the grammar: {line}"),
        }
        let key = fields[1];
        assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)), "{line}");
        assert!(!key.is_empty());
    }
    counts.value_lengths = lengths.len();
    counts
}

#[test]
fn a_seed_is_one_file() {
    for kind in KINDS {
        let text = generate(kind, 42, 2_000);
        assert_eq!(generate(kind, 42, 2_000), text, "{kind}");
        assert_ne!(generate(kind, 43, 2_000), text, "{kind}");
    }
}

/// Files that others hold must come out the same in every release: the first bytes of each kind.
#[test]
fn the_file_of_a_seed_is_pinned() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/generate.txt");
    let mut now = String::new();
    for kind in KINDS {
        now.push_str(&format!("== {kind}\n{}", generate(kind, 1, 60)));
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    let differs = now.lines().zip(golden.lines()).find(|(now, golden)| now != golden);
    assert_eq!(differs, None, "if this is meant, say so in the change log and run with UPDATE=1");
    assert_eq!(now.len(), golden.len());
}

#[test]
fn every_number_of_lines_is_exact() {
    for kind in KINDS {
        for lines in (1..120).chain([1_000, 4_097]) {
            let text = generate(kind, lines, lines);
            assert_eq!(text.lines().count() as u64, lines, "{kind}");
            assert!(text.ends_with('\n') && !text.ends_with("BARRIER\n"), "{kind} {lines}");
        }
    }
}

#[test]
fn serial_files_are_right_by_a_model() {
    for kind in &KINDS[..3] {
        for seed in 1..=5 {
            for lines in [50, 5_000] {
                interpret(&generate(kind, seed, lines));
            }
        }
    }
}

#[test]
fn put_files_hold_what_is_promised() {
    let counts = interpret(&generate("put", 7, 20_000));
    assert_eq!((counts.deletes, counts.scans), (0, 0));
    assert!(counts.puts > 10_000 && counts.gets > 3_000 && counts.missing > 400, "{counts:?}");
    assert!(counts.reads_of_prefixes_or_extensions > 1_000, "{counts:?}");
    assert!(counts.long_values > 50 && counts.short_values > 2_000 && counts.value_lengths > 500, "{counts:?}");
}

#[test]
fn put_delete_files_hold_what_is_promised() {
    let counts = interpret(&generate("put-delete", 7, 20_000));
    assert_eq!(counts.scans, 0);
    assert!(counts.deletes > 1_500 && counts.deletes_of_absent > 100, "{counts:?}");
    assert!(counts.missing_after_delete > 1_000, "{counts:?}");
    assert!(counts.puts_after_delete > 500 && counts.reads_after_put_after_delete > 500, "{counts:?}");
    assert!(counts.reads_of_prefixes_or_extensions > 1_000, "{counts:?}");
}

#[test]
fn put_delete_scan_files_hold_what_is_promised() {
    let counts = interpret(&generate("put-delete-scan", 7, 20_000));
    assert!(counts.scans > 500 && counts.empty_scans > 50, "{counts:?}");
    assert!(counts.scans_over_tombstones > 300 && counts.only_tombstones > 30, "{counts:?}");
    assert!(counts.end_is_key > 50 && counts.end_is_key < counts.scans, "{counts:?}");
    assert!(counts.missing_after_delete > 1_000 && counts.puts_after_delete > 500, "{counts:?}");
}

/// A hundred lines are enough for each promise to be kept once.
#[test]
fn short_files_hold_everything_once() {
    for seed in 1..=20 {
        let counts = interpret(&generate("put-delete-scan", seed, 100));
        assert!(counts.missing_after_delete > 0 && counts.reads_after_put_after_delete > 0, "{seed}: {counts:?}");
        assert!(counts.deletes_of_absent > 0 && counts.reads_of_prefixes_or_extensions > 0, "{seed}: {counts:?}");
        assert!(counts.only_tombstones > 0 && counts.empty_scans > 0, "{seed}: {counts:?}");
    }
}

/// What a read of a key accepts is what the last block that touched it wrote, all of it and no more.
#[test]
fn concurrent_files_are_right_by_a_model_and_hold_what_is_promised() {
    for seed in 1..=5 {
        let text = generate("concurrency", seed, 20_000);
        let mut accepted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let (mut largest, mut several, mut maybe_deleted, mut parallel_delete, mut missing) = (0, 0, 0, 0, 0);
        let mut only_deleted = 0;
        for (index, block) in text.split("BARRIER\n").enumerate() {
            let mut written: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            let mut lines = 0;
            for line in block.lines() {
                lines += 1;
                match line.splitn(3, ' ').collect::<Vec<_>>().as_slice() {
                    ["PUT", key, value] if index % 2 == 0 => assert!(written.entry(key).or_default().insert(value)),
                    ["DELETE", key] if index % 2 == 0 => {
                        written.entry(key).or_default().insert("NOT_FOUND");
                    }
                    ["GET", key, list] if index % 2 == 1 => {
                        let list = list.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
                        let list: Vec<&str> = list.split(' ').collect();
                        assert!(list.is_sorted(), "{line}");
                        let got: BTreeSet<&str> = list.iter().copied().collect();
                        assert_eq!(got.len(), list.len(), "{line}");
                        assert_eq!(accepted.get(key).cloned().unwrap_or_else(|| ["NOT_FOUND"].into()), got, "{line}");
                        several += usize::from(got.len() > 1);
                        maybe_deleted += usize::from(got.len() > 1 && got.contains("NOT_FOUND"));
                        only_deleted += usize::from(accepted.contains_key(key) && *list == ["NOT_FOUND"]);
                        missing += usize::from(!accepted.contains_key(key));
                    }
                    _ => panic!("seed {seed}, block {index}: {line}"),
                }
            }
            assert!(lines > 0, "seed {seed}: block {index} is empty");
            largest = largest.max(lines);
            parallel_delete += written.values().filter(|set| set.len() > 1 && set.contains("NOT_FOUND")).count();
            accepted.extend(written);
        }
        assert!(largest > 400, "seed {seed}: the largest block has {largest}");
        assert!(several > 1_000 && maybe_deleted > 300 && missing > 10, "{several} {maybe_deleted} {missing}");
        assert!(parallel_delete > 100 && only_deleted > 300, "{parallel_delete} {only_deleted}");
    }
}

#[test]
fn a_file_replaces_what_stands_there() {
    let dir = TempDir::new();
    let path = dir.file("out.txt", "old");
    for (seed, path) in [(1, path.as_str()), (2, path.as_str())] {
        let finished = run(&["generate", "put", "--seed", &seed.to_string(), "--lines", "500", "--out", path]);
        assert_eq!((finished.code, finished.stdout.as_str(), finished.stderr.as_str()), (Some(0), "", ""));
        assert_eq!(std::fs::read_to_string(path).unwrap(), generate("put", seed, 500));
    }
    // A bare name stands in the current directory.
    let status =
        common::cairn(&["generate", "put", "--lines", "5", "--out", "bare.txt"]).current_dir(dir.path()).status();
    assert!(status.unwrap().success());
    assert_eq!(std::fs::read_to_string(dir.join("bare.txt")).unwrap(), generate("put", 1, 5));
}

#[test]
fn arguments_out_of_bounds_are_refused() {
    for arguments in [
        &["generate"][..],
        &["generate", "nothing"],
        &["generate", "put", "--lines", "0"],
        &["generate", "put", "--lines", "10000001"],
        &["generate", "put", "--seed", "-1"],
    ] {
        let finished = run(arguments);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    }
    let finished = run(&["generate", "put", "--lines", "5", "--out", "/no/such/directory/file"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("/no/such/directory"), "{}", finished.stderr);
}
