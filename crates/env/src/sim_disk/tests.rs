//! The simulated disk: what survives which crash, what each fault does, and that a seed repeats.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;
use crate::{Env, File};

/// A disk with a durable, empty directory `/d`.
fn with_dir() -> (SimDisk, Env) {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    env.create_dir_all(Path::new("/d")).unwrap();
    disk.settle();
    (disk, env)
}

fn at(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

/// A file whose content and name are durable.
fn durable_file(env: &Env, name: &str, content: &[u8]) -> File {
    let file = env.create(&at(name)).unwrap();
    file.write_all_at(content, 0).unwrap();
    file.sync_all().unwrap();
    env.sync_dir(Path::new("/d")).unwrap();
    file
}

/// All files of `/d` with their content.
fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let env = Env::on_disk(disk.clone());
    let entries = match env.list(Path::new("/d")) {
        Ok(entries) => entries,
        Err(e) if e.is_not_found() => return BTreeMap::new(),
        Err(e) => panic!("{e}"),
    };
    let read = |name: &str| env.read_file(&at(name), 1 << 20).unwrap();
    entries.into_iter().filter(|e| !e.is_dir).map(|e| (e.name.clone(), read(&e.name))).collect()
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    files(disk).remove(name)
}

fn names(disk: &SimDisk) -> String {
    files(disk).into_keys().collect::<Vec<_>>().join(" ")
}

/// What crashes by these seeds leave of `/d`.
fn outcomes<T: Ord>(disk: &SimDisk, seeds: std::ops::Range<u64>, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    println!("seeds {seeds:?}");
    seeds.map(|seed| look(&disk.crash(CrashPolicy::Random(seed)))).collect()
}

#[test]
fn what_was_synced_survives_and_nothing_else_under_drop_all() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"one");
    file.write_all_at(b"two", 3).unwrap();
    env.create(&at("b")).unwrap();
    let after = disk.crash(CrashPolicy::DropAll);
    assert_eq!(files(&after), BTreeMap::from([("a".into(), b"one".to_vec())]));
    let kept = disk.crash(CrashPolicy::KeepAll);
    assert_eq!(files(&kept), BTreeMap::from([("a".into(), b"onetwo".to_vec()), ("b".into(), vec![])]));
    // The original goes on as if nothing had happened, and the copies are their own disks.
    assert_eq!(content(&disk, "a").unwrap(), b"onetwo");
    Env::on_disk(after.clone()).remove(&at("a")).unwrap();
    assert_eq!(names(&after), "");
    assert_eq!(names(&disk), "a b");
}

#[test]
fn each_sync_makes_its_own_file_durable_and_no_other() {
    let (disk, env) = with_dir();
    let (a, b) = (durable_file(&env, "a", b"a"), durable_file(&env, "b", b"b"));
    a.write_all_at(b"A", 0).unwrap();
    b.write_all_at(b"B", 0).unwrap();
    b.sync_data().unwrap();
    let after = disk.crash(CrashPolicy::DropAll);
    assert_eq!((content(&after, "a").unwrap(), content(&after, "b").unwrap()), (b"a".to_vec(), b"B".to_vec()));
}

#[test]
fn a_synced_file_in_an_unsynced_directory_may_vanish() {
    let (disk, env) = with_dir();
    let file = env.create(&at("a")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(names(&disk.crash(CrashPolicy::DropAll)), "");
    assert_eq!(outcomes(&disk, 0..50, names), BTreeSet::from(["".into(), "a".into()]));
    env.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&disk, 0..50, names), BTreeSet::from(["a".into()]));
}

#[test]
fn a_directory_needs_its_parent_synced() {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    env.create_dir_all(Path::new("/d/e")).unwrap();
    env.sync_dir(Path::new("/d")).unwrap();
    let found = |disk: &SimDisk| Env::on_disk(disk.clone()).list(Path::new("/d/e")).is_ok();
    assert!(!found(&disk.crash(CrashPolicy::DropAll)));
    env.sync_dir(Path::new("/")).unwrap();
    assert!(found(&disk.crash(CrashPolicy::DropAll)));
}

#[test]
fn an_unsynced_rename_is_whole_or_lost() {
    let (disk, env) = with_dir();
    durable_file(&env, "old", b"old");
    durable_file(&env, "new", b"new");
    env.rename(&at("new"), &at("old")).unwrap();
    let before = BTreeMap::from([("new".into(), b"new".to_vec()), ("old".into(), b"old".to_vec())]);
    let after = BTreeMap::from([("old".into(), b"new".to_vec())]);
    assert_eq!(files(&disk.crash(CrashPolicy::DropAll)), before);
    assert_eq!(files(&disk.crash(CrashPolicy::KeepAll)), after);
    assert_eq!(outcomes(&disk, 0..50, files), BTreeSet::from([before, after]));
}

/// The classic of ext4 and XFS: replace a file by rename without syncing the new one first, and
/// find it empty after the crash, the old content gone.
#[test]
fn a_rename_may_survive_without_the_data_of_its_file() {
    let (disk, env) = with_dir();
    durable_file(&env, "f", b"old");
    let new = env.create(&at("f.tmp")).unwrap();
    new.write_all_at(b"new", 0).unwrap();
    env.rename(&at("f.tmp"), &at("f")).unwrap();
    env.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(content(&disk.crash(CrashPolicy::DropAll), "f").unwrap(), b"");
    let seen = outcomes(&disk, 0..200, |disk| content(disk, "f").unwrap());
    assert_eq!(seen, BTreeSet::from([b"".to_vec(), b"\0\0\0".to_vec(), b"new".to_vec()]));
}

#[test]
fn a_rename_across_directories_may_be_seen_half() {
    let (disk, env) = with_dir();
    env.create_dir_all(Path::new("/e")).unwrap();
    durable_file(&env, "a", b"x");
    disk.settle();
    env.rename(&at("a"), Path::new("/e/a")).unwrap();
    let places = |disk: &SimDisk| {
        let env = Env::on_disk(disk.clone());
        (env.open(&at("a")).is_ok(), env.open(Path::new("/e/a")).is_ok())
    };
    let all = BTreeSet::from([(false, false), (false, true), (true, false), (true, true)]);
    assert_eq!(outcomes(&disk, 0..100, places), all);
}

#[test]
fn a_removed_file_may_reappear_until_the_directory_is_synced() {
    let (disk, env) = with_dir();
    drop(durable_file(&env, "a", b"x"));
    env.remove(&at("a")).unwrap();
    assert_eq!(files(&disk.crash(CrashPolicy::DropAll)), BTreeMap::from([("a".into(), b"x".to_vec())]));
    assert_eq!(outcomes(&disk, 0..50, names), BTreeSet::from(["".into(), "a".into()]));
    env.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&disk, 0..50, names), BTreeSet::from(["".into()]));
    assert_eq!(disk.state().tree.nodes.len(), 2, "only the two directories are remembered");
}

#[test]
fn directory_changes_are_kept_from_the_first_on() {
    let (disk, env) = with_dir();
    for name in ["a", "b", "c"] {
        env.create(&at(name)).unwrap();
    }
    let all = BTreeSet::from(["".into(), "a".into(), "a b".into(), "a b c".into()]);
    assert_eq!(outcomes(&disk, 0..100, names), all);
}

#[test]
fn an_append_may_grow_with_zeros_tear_or_be_lost() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", &[1; 600]);
    file.write_all_at(&[2; 1024], 600).unwrap();
    let seen = outcomes(&disk, 0..400, |disk| content(disk, "a").unwrap());
    for bytes in &seen {
        assert!(bytes.starts_with(&[1; 600]), "what was durable is not harmed");
        for sector in bytes[600..].chunk_by(|a, b| a == b) {
            assert!(sector[0] == 0 || sector[0] == 2);
        }
    }
    let whole = [vec![1; 600], vec![2; 1024]].concat();
    let zeros = [vec![1; 600], vec![0; 1024]].concat();
    let torn_at_the_border = [vec![1; 600], vec![2; 424]].concat();
    let hole_first = [vec![1; 600], vec![0; 424], vec![2; 600]].concat();
    for wanted in [vec![1; 600], whole, zeros, torn_at_the_border, hole_first] {
        assert!(seen.contains(&wanted), "never saw {} bytes", wanted.len());
    }
}

#[test]
fn an_overwrite_mixes_old_and_new_sectors_and_garbage_only_on_request() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", &[1; 1024]);
    file.write_all_at(&[2; 1024], 0).unwrap();
    let sectors = |disk: &SimDisk| {
        let bytes = content(disk, "a").unwrap();
        assert_eq!(bytes.len(), 1024);
        let kind = |sector: &[u8]| {
            if sector.iter().all(|b| *b == sector[0]) { sector[0] } else { 99 }
        };
        (kind(&bytes[..512]), kind(&bytes[512..]))
    };
    assert_eq!(outcomes(&disk, 0..200, sectors), BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
    let garbage: BTreeSet<_> = (0..200).map(|seed| sectors(&disk.crash(CrashPolicy::Garbage(seed)))).collect();
    assert!(garbage.contains(&(99, 2)) && garbage.contains(&(1, 99)), "{garbage:?}");
    let torn = |seed| {
        let bytes = content(&disk.crash(CrashPolicy::Garbage(seed)), "a").unwrap();
        let new = bytes.iter().take_while(|byte| **byte == 2).count();
        new % 512 != 0 && bytes[new..new.next_multiple_of(512)].iter().all(|byte| *byte == 1)
    };
    assert!((0..200).any(torn), "never new at the beginning of a sector and old at its end");
}

#[test]
fn seeded_crashes_lose_any_of_several_writes() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"...");
    for (i, byte) in [b"x", b"y", b"z"].iter().enumerate() {
        file.write_all_at(*byte, i as u64).unwrap();
    }
    let seen = outcomes(&disk, 0..300, |disk| String::from_utf8(content(disk, "a").unwrap()).unwrap());
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn the_same_seed_leaves_the_same_disk() {
    let (disk, env) = with_dir();
    for name in ["a", "b", "c"] {
        env.create(&at(name)).unwrap().write_all_at(&[7; 3000], 0).unwrap();
    }
    for seed in 0..40 {
        let once = files(&disk.crash(CrashPolicy::Garbage(seed)));
        assert_eq!(once, files(&disk.crash(CrashPolicy::Garbage(seed))), "seed {seed}");
    }
}

#[test]
fn one_change_is_dropped_or_kept_by_its_number() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"....");
    file.write_all_at(b"1", 0).unwrap();
    env.create(&at("b")).unwrap();
    file.write_all_at(b"2", 2).unwrap();
    file.set_len(3).unwrap();
    assert_eq!(disk.pending_count(), 4);
    let listed = disk.pending();
    let ends: Vec<_> = listed.iter().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(ends[0], "write 0+1");
    assert!(ends[1].starts_with("b is "), "{listed:?}");
    assert_eq!(ends[2..], ["write 2+1", "resize to 3"]);

    let look = |policy| {
        let after = disk.crash(policy);
        (String::from_utf8(content(&after, "a").unwrap()).unwrap(), content(&after, "b").is_some())
    };
    let dropped: Vec<_> = (0..4).map(|i| look(CrashPolicy::DropOne(i))).collect();
    assert_eq!(
        dropped,
        [("..2".into(), true), ("1.2".into(), false), ("1..".into(), true), ("1.2.".into(), true)],
        "drop one"
    );
    let kept: Vec<_> = (0..5).map(|i| look(CrashPolicy::KeepOne(i))).collect();
    assert_eq!(
        kept,
        [
            ("1...".into(), false),
            ("....".into(), true),
            ("..2.".into(), false),
            ("...".into(), false),
            ("....".into(), false)
        ],
        "keep one; a number beyond the last keeps none"
    );
}

#[test]
fn a_removal_kept_without_the_rename_before_it_removes_nothing_else() {
    let (disk, env) = with_dir();
    durable_file(&env, "a", b"old");
    durable_file(&env, "b", b"new");
    env.rename(&at("b"), &at("a")).unwrap();
    env.remove(&at("a")).unwrap();
    assert_eq!(disk.pending_count(), 2);
    let before = BTreeMap::from([("a".into(), b"old".to_vec()), ("b".into(), b"new".to_vec())]);
    assert_eq!(files(&disk.crash(CrashPolicy::DropOne(0))), before);
    assert_eq!(files(&disk.crash(CrashPolicy::KeepAll)), BTreeMap::new());
}

#[test]
fn after_a_crash_only_what_has_a_name_takes_room() {
    let (disk, env) = with_dir();
    durable_file(&env, "a", b"12345");
    let lost = env.create(&at("b")).unwrap();
    lost.write_all_at(b"123", 0).unwrap();
    lost.sync_all().unwrap();
    assert_eq!(disk.used_bytes(), 8);
    let after = disk.crash(CrashPolicy::DropAll);
    assert_eq!(after.used_bytes(), 5);
    let env = Env::on_disk(after.clone());
    env.create(&at("c")).unwrap();
    env.remove(&at("c")).unwrap();
    assert_eq!((after.used_bytes(), content(&after, "a").unwrap().len()), (5, 5));
}

#[test]
fn a_killed_process_loses_nothing_and_the_machine_still_may() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"1");
    file.write_all_at(b"2", 1).unwrap();
    let _held = env.lock(&at("LOCK")).unwrap();
    let next = disk.kill();
    assert_eq!(content(&next, "a").unwrap(), b"12");
    Env::on_disk(next.clone()).lock(&at("LOCK")).unwrap();
    assert_eq!(content(&next.crash(CrashPolicy::DropAll), "a").unwrap(), b"1");
}

#[test]
fn an_error_hits_the_call_it_was_planned_for() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"");
    disk.inject(Fault::new(FaultKind::Eio).on(Op::Write).nth(2));
    file.write_all_at(b"1", 0).unwrap();
    let error = file.write_all_at(b"2", 1).unwrap_err();
    assert_eq!((error.op, error.path.as_path(), error.source.raw_os_error()), (Op::Write, at("a").as_path(), Some(5)));
    assert_eq!(file.len().unwrap(), 1, "a failed write stores nothing");
    file.write_all_at(b"3", 1).unwrap();

    disk.inject(Fault::new(FaultKind::Enospc).file("b").forever());
    assert!(env.create(&at("b1")).unwrap_err().is_no_space());
    assert!(env.create(&at("b2")).unwrap_err().is_no_space());
    let c = env.create(&at("c")).unwrap();
    disk.clear_faults();
    env.create(&at("b1")).unwrap();

    // Counted over all calls: the third is the read.
    disk.inject(Fault::new(FaultKind::Eio).nth(3));
    c.len().unwrap();
    c.sync_data().unwrap();
    assert_eq!(c.read_at(&mut [0; 1], 0).unwrap_err().op, Op::Read);
    c.read_at(&mut [0; 1], 0).unwrap();
}

#[test]
fn an_error_can_hit_every_operation() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"x");
    let mut hit = Vec::new();
    for op in Op::ALL {
        disk.inject(Fault::new(FaultKind::Eio).on(op));
        let result = match op {
            Op::Create => env.create(&at("b")).map(drop),
            Op::Open => env.open(&at("a")).map(drop),
            Op::Read => file.read_at(&mut [0; 1], 0).map(drop),
            Op::Write => file.write_all_at(b"y", 0),
            Op::Sync => file.sync_data(),
            Op::SetLen => file.set_len(0),
            Op::Stat => file.len().map(drop),
            Op::Rename => env.rename(&at("a"), &at("b")),
            Op::Remove => env.remove(&at("a")),
            Op::CreateDir => env.create_dir_all(&at("b")),
            Op::List => env.list(Path::new("/d")).map(drop),
            Op::SyncDir => env.sync_dir(Path::new("/d")),
            Op::Lock => env.lock(&at("b")).map(drop),
            Op::Spawn => continue, // No call to the disk.
        };
        assert_eq!(result.unwrap_err().op, op);
        assert_eq!(disk.coverage().count(FaultKind::Eio, op), 1);
        hit.push(op);
    }
    assert_eq!(hit.len(), Op::ALL.len() - 1);
    assert_eq!(files(&disk), BTreeMap::from([("a".into(), b"x".to_vec())]), "a failed call changes nothing");
}

#[test]
fn short_transfers_are_completed_by_the_caller() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"");
    disk.inject(Fault::new(FaultKind::ShortWrite).forever());
    disk.inject(Fault::new(FaultKind::ShortRead).forever());
    let data: Vec<u8> = (0..200).collect();
    file.write_all_at(&data, 0).unwrap();
    let mut back = vec![0; 200];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, data);
    assert!(disk.coverage().count(FaultKind::ShortWrite, Op::Write) > 1);
    assert!(disk.coverage().count(FaultKind::ShortRead, Op::Read) > 1);
}

#[test]
fn a_write_cut_short_and_then_failing_leaves_a_part() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"");
    disk.inject(Fault::new(FaultKind::ShortWrite));
    disk.inject(Fault::new(FaultKind::Eio).on(Op::Write).nth(2));
    file.write_all_at(&[7; 100], 0).unwrap_err();
    let len = file.len().unwrap();
    assert!(0 < len && len < 100, "{len}");
}

#[test]
fn space_runs_out_and_comes_back() {
    let (disk, env) = with_dir();
    disk.set_space_bytes(Some(10));
    let a = durable_file(&env, "a", b"123456");
    let b = env.create(&at("b")).unwrap();
    assert!(b.write_all_at(b"12345678", 0).unwrap_err().is_no_space());
    assert_eq!(b.len().unwrap(), 4, "what fitted was stored");
    assert_eq!(disk.used_bytes(), 10);
    a.write_all_at(b"abcdef", 0).unwrap();
    assert!(a.set_len(7).unwrap_err().is_no_space());
    b.set_len(1).unwrap();
    a.set_len(9).unwrap();
    a.write_all_at(b"x", 9).unwrap_err();
    env.remove(&at("a")).unwrap();
    b.write_all_at(b"1", 1).unwrap_err();
    drop(a);
    b.write_all_at(b"123456789", 1).unwrap();
    disk.set_space_bytes(None);
    b.write_all_at(b"more", 10).unwrap();
}

/// What PostgreSQL found in 2018: the kernel reports a failed sync once, marks the pages clean,
/// and the next sync succeeds although the data never reached the disk.
#[test]
fn after_a_failed_sync_the_next_one_succeeds_and_proves_nothing() {
    for (kind, seen) in [(FaultKind::SyncDrops, b"new"), (FaultKind::SyncDropsEvicted, b"old")] {
        let (disk, env) = with_dir();
        let file = durable_file(&env, "a", b"old");
        file.write_all_at(b"new", 0).unwrap();
        disk.inject(Fault::new(kind).on(Op::Sync));
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(content(&disk, "a").unwrap(), seen);
        assert_eq!(content(&disk.kill(), "a").unwrap(), seen, "the cache belongs to the kernel");
        assert_eq!(content(&disk.crash(CrashPolicy::KeepAll), "a").unwrap(), b"old");
        // What is written after the failure is durable again, alone.
        file.write_all_at(b"!", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&disk.crash(CrashPolicy::DropAll), "a").unwrap(), b"old!");
        disk.drop_caches();
        assert_eq!(content(&disk, "a").unwrap(), b"old!");
    }
}

#[test]
fn a_failed_directory_sync_may_lose_the_names() {
    let (disk, env) = with_dir();
    env.create(&at("a")).unwrap();
    disk.inject(Fault::new(FaultKind::SyncDrops));
    env.sync_dir(Path::new("/d")).unwrap_err();
    assert_eq!((names(&disk), names(&disk.crash(CrashPolicy::KeepAll))), ("a".into(), "".into()));
    env.sync_dir(Path::new("/d")).unwrap();
    env.create(&at("b")).unwrap();
    env.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(names(&disk), "a b");
    assert_eq!(names(&disk.crash(CrashPolicy::KeepAll)), "b");
}

#[test]
fn a_lying_sync_makes_nothing_durable() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"old");
    disk.inject(Fault::new(FaultKind::SyncLies).nth(1));
    disk.inject(Fault::new(FaultKind::SyncLies).on(Op::SyncDir));
    file.write_all_at(b"new", 0).unwrap();
    env.create(&at("b")).unwrap();
    file.sync_data().unwrap();
    env.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(files(&disk.crash(CrashPolicy::DropAll)), BTreeMap::from([("a".into(), b"old".to_vec())]));
}

#[test]
fn reads_can_lie() {
    let (disk, env) = with_dir();
    let plain: Vec<u8> = (0..=255).collect();
    let file = durable_file(&env, "a", &plain);
    let read = |kind| {
        disk.inject(Fault::new(kind));
        let (mut wrong, mut right) = (vec![0; 100], vec![0; 100]);
        file.read_exact_at(&mut wrong, 10).unwrap();
        file.read_exact_at(&mut right, 10).unwrap();
        assert_eq!(right, plain[10..110], "only one read is wrong");
        wrong
    };
    let flipped = read(FaultKind::FlipBit);
    let bits: u32 = flipped.iter().zip(&plain[10..]).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(bits, 1);

    let elsewhere = read(FaultKind::Misdirect);
    assert_ne!(elsewhere, plain[10..110]);
    let start = usize::from(elsewhere[0]);
    let len = elsewhere.len().min(plain.len() - start);
    assert_eq!(elsewhere[..len], plain[start..start + len]);

    assert_eq!(read(FaultKind::Stale), vec![0; 100], "before the first sync there was nothing");
    file.write_all_at(&[9; 100], 10).unwrap();
    let mut seen = vec![0; 100];
    disk.inject(Fault::new(FaultKind::Stale));
    file.read_exact_at(&mut seen, 10).unwrap();
    assert_eq!(seen, plain[10..110], "what the disk holds, before the sync");
    file.sync_data().unwrap();
    disk.inject(Fault::new(FaultKind::Stale));
    file.read_exact_at(&mut seen, 10).unwrap();
    assert_eq!(seen, plain[10..110], "what it held, after the sync");
    assert_eq!(disk.coverage().count(FaultKind::Stale, Op::Read), 3);
}

#[test]
fn writes_can_lie() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", &[1; 2000]);
    let write = |kind, data: &[u8], offset| {
        disk.inject(Fault::new(kind));
        file.write_all_at(data, offset).unwrap();
        let got = content(&disk, "a").unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&disk.crash(CrashPolicy::DropAll), "a").unwrap(), got, "it stays so");
        got
    };
    assert_eq!(write(FaultKind::LoseWrite, &[2; 100], 1950), [vec![1; 2000], vec![0; 50]].concat());

    // A file of one sector has no other.
    let small = durable_file(&env, "b", &[1; 100]);
    disk.inject(Fault::new(FaultKind::MisdirectWrite));
    small.write_all_at(&[3; 4], 0).unwrap();
    assert_eq!(disk.coverage().count(FaultKind::MisdirectWrite, Op::Write), 0);
    assert_eq!(content(&disk, "b").unwrap()[..4], [3; 4]);

    file.write_all_at(&[1; 2050], 0).unwrap();
    let got = write(FaultKind::MisdirectWrite, &[4; 10], 2048);
    let hit = got.iter().position(|byte| *byte == 4).unwrap();
    assert!(hit < 2048 && hit % 512 == 0, "another sector is hit, from its beginning");
    assert_eq!((got.len(), got[hit..].iter().filter(|byte| **byte == 4).count()), (2058, 10));
    assert_eq!(got[2048..], [1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "the right one is not");
    assert_eq!(disk.coverage().count(FaultKind::LoseWrite, Op::Write), 1);
}

#[test]
fn a_digest_tells_what_disks_show() {
    let (disk, env) = with_dir();
    let empty = disk.digest();
    let file = durable_file(&env, "a", b"1");
    let one = disk.digest();
    file.write_all_at(b"2", 0).unwrap();
    let two = disk.digest();
    assert!(empty != one && one != two);
    assert_eq!((disk.crash(CrashPolicy::DropAll).digest(), disk.crash(CrashPolicy::KeepAll).digest()), (one, two));
    env.rename(&at("a"), &at("b")).unwrap();
    assert_ne!(disk.digest(), two, "names count");
    env.rename(&at("b"), &at("a")).unwrap();
    assert_eq!((disk.digest(), disk.kill().digest()), (two, two), "how it came to be does not");
}

#[test]
fn a_fault_without_effect_is_not_counted() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"");
    for kind in [FaultKind::FlipBit, FaultKind::Misdirect, FaultKind::Stale, FaultKind::ShortRead] {
        disk.inject(Fault::new(kind));
        assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 0);
        assert_eq!(disk.coverage().count(kind, Op::Read), 0, "{kind}");
    }
}

#[test]
fn after_a_crash_every_call_fails_and_nothing_changes() {
    let (disk, env) = with_dir();
    let file = durable_file(&env, "a", b"1");
    let held = env.lock(&at("LOCK")).unwrap();
    disk.crash_at(disk.steps() + 2);
    file.write_all_at(b"2", 1).unwrap();
    assert!(!disk.is_crashed());
    let error = file.write_all_at(b"3", 2).unwrap_err();
    assert_eq!(error.to_string(), "cannot write /d/a: simulated crash");
    assert!(disk.is_crashed());
    let steps = disk.steps();
    disk.clear_faults();
    file.sync_data().unwrap_err();
    env.create(&at("b")).unwrap_err();
    env.open(&at("a")).unwrap_err();
    env.lock(&at("LOCK")).unwrap_err();
    drop((held, file));
    assert_eq!(disk.steps(), steps);

    assert_eq!(content(&disk.crash(CrashPolicy::DropAll), "a").unwrap(), b"1");
    assert_eq!(content(&disk.crash(CrashPolicy::KeepAll), "a").unwrap(), b"12");
    let next = disk.kill();
    assert_eq!(content(&next, "a").unwrap(), b"12");
    assert!(!next.is_crashed());
}

#[test]
fn a_crash_can_be_tied_to_a_file_and_call() {
    let (disk, env) = with_dir();
    disk.inject(Fault::new(FaultKind::Crash).on(Op::Sync).file("MANIFEST").nth(2));
    let (manifest, log) = (env.create(&at("MANIFEST-1")).unwrap(), env.create(&at("1.wal")).unwrap());
    log.sync_data().unwrap();
    manifest.sync_data().unwrap();
    log.sync_data().unwrap();
    manifest.sync_data().unwrap_err();
    log.sync_data().unwrap_err();
}

#[test]
fn the_trace_and_its_hash_tell_runs_apart() {
    let run = |data: &[u8]| {
        let (disk, env) = with_dir();
        disk.start_trace();
        let file = env.create(&at("a")).unwrap();
        disk.inject(Fault::new(FaultKind::Eio).on(Op::Sync));
        file.write_all_at(data, 5).unwrap();
        file.set_len(3).unwrap();
        file.sync_data().unwrap_err();
        env.open(&at("b")).unwrap_err();
        let lines: Vec<String> = disk.trace().iter().map(Step::to_string).collect();
        (disk.trace_hash(), lines)
    };
    let (hash, lines) = run(b"xy");
    let eio = io::Error::from_raw_os_error(5).kind();
    assert_eq!(
        lines,
        [
            "2 Create /d/a".to_owned(),
            "3 Write /d/a 5+2".to_owned(),
            "4 SetLen /d/a to 3".to_owned(),
            format!("5 Sync /d/a [eio] -> {eio}"),
            format!("6 Open /d/b -> {}", io::ErrorKind::NotFound),
        ]
    );
    assert_eq!(run(b"xy").0, hash);
    assert_ne!(run(b"xz").0, hash);
}

#[test]
fn coverage_says_what_was_never_hit() {
    let (disk, env) = with_dir();
    disk.inject(Fault::new(FaultKind::Eio).on(Op::Create).file("wal"));
    crate::testing::set_stage("making");
    env.create(&at("000001.wal")).unwrap_err();
    env.create(&at("000001.wal")).unwrap();
    env.create(&at("MANIFEST-000001")).unwrap();
    crate::testing::set_stage("");
    let builder = env.clone();
    let built = env.spawn("builder", move || drop(builder.create(&at("000002.sst")).unwrap())).unwrap();
    assert!(built.join());
    disk.crash(CrashPolicy::DropAll).crash_at(1);
    let coverage = disk.coverage();
    let missed: Vec<_> = coverage.missed(FaultKind::Eio).iter().map(|site| site.to_string()).collect();
    let [manifest, table, dir] = missed.as_slice() else { panic!("{missed:?}") };
    assert_eq!(manifest, "Create     MANIFEST     making        ");
    assert_eq!(table, "Create     sst          builder       ");
    assert_eq!(dir.trim_end(), "CreateDir  /");
    assert_eq!(coverage.missed(FaultKind::ShortWrite), []);
    assert_eq!((coverage.sites().count(), coverage.injections()), (4, 1));
    let (site, _) = coverage.sites().find(|(site, _)| site.file == "wal").unwrap();
    disk.inject(Fault::new(FaultKind::Eio).at(site).forever());
    env.create(&at("000003.wal")).unwrap();
    crate::testing::set_stage("making");
    env.create(&at("000004.sst")).unwrap();
    env.create(&at("000004.wal")).unwrap_err();
    crate::testing::set_stage("");
    assert_eq!((coverage.count_at(FaultKind::Eio, site), disk.coverage().count_at(FaultKind::Eio, site)), (1, 2));
    disk.clear_faults();
    let text = coverage.to_string();
    assert!(text.contains("Create     wal          making                  2 calls  eio 1\n"), "{text}");
    assert!(text.contains("Create     sst          builder                 1 calls\n"), "{text}");

    // A copy counts into the same table.
    let copy = disk.crash(CrashPolicy::DropAll);
    copy.crash_at(1);
    Env::on_disk(copy).list(Path::new("/d")).unwrap_err();
    assert_eq!(disk.coverage().count(FaultKind::Crash, Op::List), 1);

    let mut sum = coverage.clone();
    sum.add(&coverage);
    assert_eq!(sum.count(FaultKind::Eio, Op::Create), 2);
}

/// The protocol that the rest of Cairn relies on, at every step and in every way.
#[test]
fn replace_file_is_atomic_at_every_crash() {
    let path = at("CURRENT");
    let prepared = || {
        let (disk, env) = with_dir();
        env.replace_file(&path, b"first").unwrap();
        (disk, env)
    };
    let (disk, env) = prepared();
    let start = disk.steps();
    env.replace_file(&path, b"second").unwrap();
    let end = disk.steps();
    let mut images = 0;
    for k in start + 1..=end + 1 {
        let (disk, env) = prepared();
        disk.crash_at(k);
        let acknowledged = env.replace_file(&path, b"second").is_ok();
        assert_eq!(acknowledged, k == end + 1);
        let one = (0..disk.pending_count()).flat_map(|i| [CrashPolicy::DropOne(i), CrashPolicy::KeepOne(i)]);
        let seeded = (0..20).flat_map(|seed| [CrashPolicy::Random(seed), CrashPolicy::Garbage(seed)]);
        for policy in [CrashPolicy::DropAll, CrashPolicy::KeepAll].into_iter().chain(one).chain(seeded) {
            let found = content(&disk.crash(policy), "CURRENT").unwrap();
            let fine = found == b"second" || (!acknowledged && found == b"first");
            assert!(fine, "step {k} {policy:?}: {found:?}");
            images += 1;
        }
    }
    println!("{images} images");
    assert!(images > 300);
}

#[test]
fn a_history_gives_what_crashes_at_each_step_give() {
    let prepared = || {
        let (disk, env) = with_dir();
        env.replace_file(&at("CURRENT"), b"first").unwrap();
        (disk, env)
    };
    let (whole, env) = prepared();
    assert!(whole.before_step(1).is_none());
    whole.start_history();
    let start = whole.steps();
    env.replace_file(&at("CURRENT"), b"second").unwrap();
    let end = whole.steps();
    for k in start + 1..=end + 1 {
        let (disk, env) = prepared();
        disk.crash_at(k);
        let _ = env.replace_file(&at("CURRENT"), b"second");
        let then = whole.before_step(k).unwrap();
        assert_eq!(then.pending(), disk.pending(), "step {k}");
        let random = (0..10).map(CrashPolicy::Random);
        for policy in [CrashPolicy::DropAll, CrashPolicy::KeepAll].into_iter().chain(random) {
            assert_eq!(files(&then.crash(policy)), files(&disk.crash(policy)), "step {k} {policy:?}");
        }
    }
    assert!(whole.before_step(start).is_none() && whole.before_step(end + 2).is_none());
}

/// The same loop must find what is wrong with the protocol when its first sync is left out.
#[test]
fn the_crash_loop_catches_a_missing_sync() {
    let (disk, env) = with_dir();
    durable_file(&env, "CURRENT", b"first");
    disk.crash_at(disk.steps() + 4);
    let replace = || -> crate::Result<()> {
        let file = env.create(&at("CURRENT.tmp"))?;
        file.write_all_at(b"second", 0)?;
        env.rename(&at("CURRENT.tmp"), &at("CURRENT"))?;
        env.sync_dir(Path::new("/d"))
    };
    replace().unwrap_err();
    let seen = outcomes(&disk, 0..100, |disk| content(disk, "CURRENT").unwrap());
    assert!(seen.contains(b"".as_slice()), "{seen:?}");
}
