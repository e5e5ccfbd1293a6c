//! The known traps of storage engines of this shape, each as a test that fails when its guard is
//! taken away. The first line of each says which guard that is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn::{CompactionStyle, Db, Durability, Env, ErrorKind, Options, SeqNo, Visibility};
use cairn_env::{Fault, FaultKind, Op, SimDisk};
use common::{Random, tiny};

fn open(env: &Env, options: Options) -> Db {
    Db::open_in(env, "db", options).unwrap()
}

fn count(db: &Db, name: &str) -> u64 {
    db.stats().get(name).unwrap()
}

fn key(i: u64) -> Vec<u8> {
    format!("key{i:06}").into_bytes()
}

/// Options under which nothing is compacted unless asked for.
fn no_compaction() -> Options {
    Options { compaction: CompactionStyle::EveryUpdates(u64::MAX), ..tiny() }
}

/// Guard: a lookup stops at a tombstone in the memtable instead of going on to the tables.
#[test]
fn a_tombstone_in_the_memtable_hides_the_value_on_disk() {
    let db = open(&Env::memory(), no_compaction());
    db.put(b"k", b"v").unwrap();
    db.flush().unwrap();
    db.delete(b"k").unwrap();
    assert_eq!(db.get(b"k").unwrap(), None);
    assert_eq!(db.iter().count(), 0);
    assert_eq!(db.iter().rev().count(), 0);
}

/// Guard: flush writes tombstones, and the filter holds their keys.
#[test]
fn a_flushed_tombstone_hides_the_value_in_an_older_table() {
    let db = open(&Env::memory(), no_compaction());
    db.put(b"k", b"v").unwrap();
    db.flush().unwrap();
    db.delete(b"k").unwrap();
    db.flush().unwrap();
    assert_eq!(db.get(b"k").unwrap(), None);
    db.put(b"k", b"again").unwrap();
    assert_eq!(db.get(b"k").unwrap().as_deref(), Some(&b"again"[..]));
}

/// Guards: tables of level 0 change their level unread only where no key may stand in two of them, and where they
/// are not so small that there would be ever more of them.
#[test]
fn tables_that_share_no_key_are_moved_and_others_are_merged() {
    let db = open(&Env::memory(), Options { memtable_bytes_max: 64 << 10, ..tiny() });
    let flush = |from: u64, to: u64, value: &[u8]| {
        for i in from..to {
            db.put(&key(i), value).unwrap();
        }
        db.flush().unwrap();
    };
    let mut random = Random::new(1);
    let noise: Vec<u8> = (0..50).flat_map(|_| random.next().to_le_bytes()).collect();
    (0..6).for_each(|table| flush(table * 10, table * 10 + 10, &noise));
    db.compact().unwrap();
    assert_eq!((count(&db, "compaction_write_bytes"), count(&db, "compaction_moves_count")), (0, 6));
    // Each shares its last key with the next one's first.
    (6..9).for_each(|table| flush(table * 10, table * 10 + 11, &[&noise, &[table as u8][..]].concat()));
    db.compact().unwrap();
    let written = count(&db, "compaction_write_bytes");
    assert!(written > 0);
    assert_eq!(db.get(&key(70)).unwrap().and_then(|value| value.last().copied()), Some(7));
    assert_eq!(db.iter().count(), 91);
    (10..16).for_each(|table| flush(table * 10, table * 10 + 10, b"small"));
    db.compact().unwrap();
    assert!(count(&db, "compaction_write_bytes") > written);
    let tables: u64 = db.stats().levels().iter().map(|level| level.tables).sum();
    assert!(tables < 16, "{tables}");
    assert_eq!((count(&db, "compaction_moves_count"), db.iter().count()), (6, 151));
}

/// Guard: `may_lie_below` in compaction. The series' own counter-example: a value deep down, a
/// tombstone merged above it.
#[test]
fn a_tombstone_is_kept_while_an_older_value_lies_below() {
    let env = Env::memory();
    let db = open(&env, Options { memtable_bytes_max: 4 << 10, ..tiny() });
    // The value goes to the bottom of several levels.
    let mut random = Random::new(1);
    for i in 0..4_000 {
        db.put(&key(i), &random.value()).unwrap();
    }
    db.compact().unwrap();
    for i in (0..4_000).step_by(2) {
        db.delete(&key(i)).unwrap();
        if i % 100 == 0 {
            db.flush().unwrap();
        }
    }
    for i in 0..4_000 {
        assert_eq!(db.get(&key(i)).unwrap().is_some(), i % 2 == 1, "key {i}");
    }
    db.compact().unwrap();
    let live: Vec<_> = db.iter().map(|entry| entry.unwrap().0).collect();
    assert_eq!(live, (1..4_000).step_by(2).map(key).collect::<Vec<_>>());
}

/// Guard: the catalog lists sealed memtables until their tables are in it.
#[test]
fn between_seal_and_flush_every_write_stays_readable() {
    let db = open(&Env::memory(), Options { durability: Durability::Buffered, ..tiny() });
    let mut random = Random::new(2);
    for i in 0..3_000 {
        db.put(&key(i), &random.value()).unwrap();
        // The one just written and one that may be anywhere on its way to disk.
        assert!(db.get(&key(i)).unwrap().is_some());
        let back = random.below(i + 1);
        assert!(db.get(&key(back)).unwrap().is_some(), "key {back} after {i}");
    }
    assert!(count(&db, "flushes_count") > 10);
}

/// Guard: a table's file goes with the last catalog that holds it, not with the latest that lacks it.
#[test]
fn an_iterator_reads_on_while_compaction_replaces_every_table_it_pins() {
    let db = open(&Env::memory(), tiny());
    let mut random = Random::new(3);
    for i in 0..500 {
        db.put(&key(i), &random.value()).unwrap();
    }
    db.flush().unwrap();
    let mut first = db.iter();
    assert_eq!(first.next().unwrap().unwrap().0, key(0));
    for round in 0..3 {
        for i in 0..500 {
            db.put(&key(i), format!("round {round}").as_bytes()).unwrap();
        }
        db.compact().unwrap();
    }
    let rest: Vec<_> = first.map(|entry| entry.unwrap().0).collect();
    assert_eq!(rest, (1..500).map(key).collect::<Vec<_>>());
}

/// Guard: an obsolete table's file is queued for removal by the drop of its last reference. Here a
/// removed file could still be read; where a system refuses to remove or to read it, it must not go.
#[test]
fn the_file_that_an_iterator_pins_goes_after_the_iterator() {
    let env = Env::memory();
    let db = open(&env, no_compaction());
    let fill = |value: &[u8]| {
        for i in 0..50 {
            db.put(&key(i), value).unwrap();
        }
    };
    let tables = || -> Vec<String> {
        let names = env.list("db".as_ref()).unwrap().into_iter().map(|entry| entry.name);
        names.filter(|name| name.ends_with(".sst")).collect()
    };
    fill(b"old");
    db.flush().unwrap();
    let pinned = tables();
    let iterator = db.iter();
    fill(b"new");
    db.compact().unwrap();
    let now = tables();
    assert!(!pinned.is_empty() && pinned.iter().all(|name| now.contains(name)), "{pinned:?} of {now:?}");
    drop(iterator);
    for _ in 0..3 {
        fill(b"newer");
        db.compact().unwrap();
    }
    let now = tables();
    assert!(pinned.iter().all(|name| !now.contains(name)), "{pinned:?} of {now:?}");
}

/// Guard: a block is charged until its last holder lets go, not until the cache does.
#[test]
fn what_readers_pin_leaves_less_room_for_writes_until_they_let_go() {
    let options = Options { durability: Durability::Buffered, memtable_bytes_max: 256 << 10, ..Options::default() };
    let db = open(&Env::memory(), Options { memory_budget_bytes: 4 << 20, ..options });
    let value = vec![7; 10_000];
    for i in 0..600 {
        db.put(&key(i), &value).unwrap();
    }
    db.flush().unwrap();
    let space = db.default_keyspace();
    let pinned: Vec<_> = (0..600).map(|i| space.get_pinned(&key(i)).unwrap().unwrap()).collect();
    assert_eq!(db.put(b"k", b"v").unwrap_err().kind(), ErrorKind::Busy);
    assert!(pinned.iter().all(|pinned| **pinned == *value));
    drop(pinned);
    db.put(b"k", b"v").unwrap();
}

/// Guard: who reads loads the catalog first and the number second, and a memtable leaves the catalog in
/// the swap in which its tables enter.
#[test]
fn a_read_that_meets_a_flush_finds_what_is_there() {
    let first = common::base_seed();
    for seed in first..first + 300 {
        let env = Env::simulated(seed, SimDisk::with_seed(seed));
        let run = env.run(|| {
            let db = open(&env, no_compaction());
            db.put(b"k", b"0").unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let reader = {
                let (world, db, stop) = (env.clone(), db.clone(), stop.clone());
                let read = move || {
                    while !stop.load(Ordering::Relaxed) {
                        assert!(db.get(b"k").unwrap().is_some());
                        assert_eq!(db.iter().count(), 1);
                        // Somebody else's turn.
                        drop(world.list("db".as_ref()).unwrap());
                    }
                };
                env.spawn("reader", read).unwrap()
            };
            for value in [b"1", b"2"] {
                db.put(b"k", value).unwrap();
                db.flush().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(reader.join(), "CAIRN_SEED={seed}");
            db.close().unwrap();
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    }
}

/// Guard: the removal of obsolete files, once nobody pins them.
#[test]
fn files_that_nobody_needs_are_removed() {
    let env = Env::memory();
    let db = open(&env, tiny());
    let mut random = Random::new(4);
    for i in 0..2_000 {
        db.put(&key(i), &random.value()).unwrap();
    }
    db.compact().unwrap();
    let tables = || env.list("db".as_ref()).unwrap().iter().filter(|e| e.name.ends_with(".sst")).count() as u64;
    assert_eq!(tables(), count(&db, "tables_count"));
    for i in 0..2_000 {
        db.delete(&key(i)).unwrap();
    }
    db.compact().unwrap();
    assert_eq!((tables(), count(&db, "tables_count")), (0, 0));
}

/// Guard: flush and compaction each change the catalog and the manifest of that moment.
#[test]
fn flush_and_compaction_at_once_undo_nothing() {
    let env = Env::memory();
    let mut random = Random::new(5);
    let mut written = std::collections::BTreeMap::new();
    for reopen in 0..3 {
        let db = open(&env, Options { durability: Durability::Buffered, ..tiny() });
        for _ in 0..4_000 {
            let (k, v) = (key(random.below(2_000)), random.value());
            db.put(&k, &v).unwrap();
            written.insert(k, v);
        }
        let all: Vec<_> = db.iter().map(Result::unwrap).collect();
        assert_eq!(all, written.clone().into_iter().collect::<Vec<_>>(), "before reopen {reopen}");
        assert!(count(&db, "compactions_count") > 0 && count(&db, "flushes_count") > 10);
        db.close().unwrap();
    }
}

/// Guard: the end of a table's range is inclusive.
#[test]
fn the_last_key_of_every_table_is_found() {
    let db = open(&Env::memory(), Options { table_entries_max: Some(3), ..tiny() });
    for i in 0..300 {
        db.put(&key(i), b"v").unwrap();
    }
    db.compact().unwrap();
    assert!(count(&db, "tables_count") >= 100);
    for i in 0..300 {
        assert!(db.get(&key(i)).unwrap().is_some(), "key {i}");
    }
}

/// Guard: a scan that passes a run of tombstones together with what they hide looks at number, key and bound of each,
/// in as many sources as hold it.
#[test]
fn runs_of_tombstones_hide_what_is_older_and_nothing_else() {
    // Keys that differ early, only behind their first sixteen bytes, and only in zeros at their ends.
    let forms: [fn(u64) -> Vec<u8>; 3] = [
        |i| i.to_be_bytes().to_vec(),
        |i| format!("one and the same beginning {i:04}").into_bytes(),
        |i| [&(i / 20).to_be_bytes()[..], &vec![0; usize::try_from(i % 20).unwrap()]].concat(),
    ];
    for (form, seed) in forms.into_iter().zip(1..) {
        let mut random = Random::new(seed);
        let db = open(&Env::memory(), Options { memtable_bytes_max: 1 << 20, ..no_compaction() });
        let keyspace = db.default_keyspace();
        let mut live: BTreeMap<_, _> = (0..460).map(|i| (form(i), b"first".to_vec())).collect();
        for (key, value) in &live {
            db.put(key, value).unwrap();
        }
        let mut moments = Vec::new();
        for layer in 0..8_u64 {
            for run in 0..6 {
                let first = random.below(400);
                for i in first..first + random.below(60) {
                    // Runs of tombstones, and fewer of values.
                    if run % 3 == 2 {
                        let value = format!("{layer} {run}").into_bytes();
                        db.put(&form(i), &value).unwrap();
                        live.insert(form(i), value);
                    } else {
                        db.delete(&form(i)).unwrap();
                        live.remove(&form(i));
                    }
                }
                if run == 3 {
                    moments.push((db.snapshot(), live.clone()));
                }
            }
            let all: Vec<_> = live.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let forward: Vec<_> = keyspace.iter().map(Result::unwrap).collect();
            let mut backward: Vec<_> = keyspace.iter().rev().map(Result::unwrap).collect();
            backward.reverse();
            assert!(forward == all && backward == all, "form {seed}, layer {layer}");
            match layer {
                0 | 2 | 3 | 5 => db.flush().unwrap(),
                4 => db.compact().unwrap(),
                _ => {}
            }
        }
        moments.push((db.snapshot(), live));
        for (at, (snapshot, live)) in moments.iter().enumerate() {
            let reader = keyspace.at(snapshot).unwrap();
            for _ in 0..40 {
                let (a, b) = (form(random.below(460)), form(random.below(460)));
                let range = a.clone().min(b.clone())..a.max(b);
                let expected: Vec<_> = live.range(range.clone()).map(|(k, v)| (k.clone(), v.clone())).collect();
                let forward: Vec<_> = reader.range(range.clone()).map(Result::unwrap).collect();
                let mut backward: Vec<_> = reader.range(range.clone()).rev().map(Result::unwrap).collect();
                backward.reverse();
                assert_eq!(forward, expected, "form {seed}, moment {at}, {range:?}");
                assert_eq!(backward, expected, "form {seed}, moment {at}, {range:?}, backwards");
            }
        }
    }
}

/// Guard: replay skips what is flushed, keyspace by keyspace, and goes on from the last number.
#[test]
fn numbers_go_on_after_reopening_even_if_everything_was_deleted() {
    let env = Env::memory();
    let mut last = SeqNo(0);
    for round in 0..4 {
        let db = open(&env, tiny());
        let first = db.put(b"k", b"v").unwrap().seq;
        assert!(first > last, "round {round}: {first} after {last}");
        last = db.delete(b"k").unwrap().seq;
        db.compact().unwrap();
        assert_eq!(count(&db, "tables_count"), 0);
        db.close().unwrap();
        // What is flushed is not written anew: from the second open on the log holds no number.
        for _ in 0..round {
            open(&env, tiny()).close().unwrap();
        }
    }
}

/// Guard: open removes tables that the manifest does not list, and nothing else.
#[test]
fn orphans_go_at_open_and_foreign_files_stay() {
    let env = Env::memory();
    let db = open(&env, tiny());
    db.put(b"k", b"v").unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    for name in ["table-0000099999.sst", "CURRENT.tmp", "manifest-0000000000.log", "notes.txt"] {
        env.create(&std::path::Path::new("db").join(name)).unwrap();
    }
    let db = open(&env, tiny());
    assert_eq!(db.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    let names: Vec<_> = env.list("db".as_ref()).unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.contains(&"notes.txt".to_owned()), "{names:?}");
    assert!(
        !names.iter().any(|n| n.contains("99999") || n.ends_with(".tmp") || n == "manifest-0000000000.log"),
        "{names:?}"
    );
}

/// Guard: the number of a table is never given out twice.
#[test]
fn table_numbers_are_not_reused_after_a_reopen() {
    let env = Env::memory();
    let names = || -> Vec<String> {
        env.list("db".as_ref()).unwrap().into_iter().map(|e| e.name).filter(|n| n.ends_with(".sst")).collect()
    };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let db = open(&env, tiny());
        db.put(b"k", b"v").unwrap();
        db.flush().unwrap();
        for name in names() {
            assert!(seen.insert(name.clone()), "{name} again");
        }
        db.delete(b"k").unwrap();
        db.compact().unwrap();
        assert_eq!(names(), Vec::<String>::new());
        db.close().unwrap();
    }
}

/// Guard: one writer waits on a condition when sealed memtables pile up; the queue is bounded.
#[test]
fn writers_that_outrun_the_flush_are_held_back_and_memory_stays_bounded() {
    let options = Options { durability: Durability::Buffered, memtable_bytes_max: 64 << 10, ..tiny() };
    let budget = options.memory_budget_bytes;
    let db = open(&Env::memory(), options);
    let value = vec![7; 4_000];
    for i in 0..5_000 {
        db.put(&key(i), &value).unwrap();
        if i % 64 == 0 {
            assert!(count(&db, "sealed_memtables_count") <= 9);
            assert!(count(&db, "memory_memtables_bytes") <= budget);
        }
    }
}

/// Guard: a threshold is crossed once, however many writers cross it together.
#[test]
fn many_writers_cross_a_threshold_once() {
    let env = Env::memory();
    let db = open(&env, Options { memtable_entries_max: Some(100), memtable_bytes_max: 512 << 10, ..no_compaction() });
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let db = db.clone();
            env.spawn(&format!("writer {t}"), move || {
                for i in 0..250 {
                    db.put(&key(t * 1000 + i), b"v").unwrap();
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        assert!(thread.join());
    }
    db.flush().unwrap();
    let flushes = count(&db, "flushes_count");
    // 2,000 distinct keys; a group may overshoot by as many writers as there are.
    assert!((18..=21).contains(&flushes), "{flushes} flushes");
    assert_eq!(db.iter().count(), 2_000);
}

/// Guard: an iterator and a snapshot read at one number, while writes go on in the memtable they pin.
#[test]
fn a_snapshot_and_an_iterator_do_not_move() {
    let db = open(&Env::memory(), no_compaction());
    let space = db.default_keyspace();
    for i in 0..100 {
        db.put(&key(i), b"old").unwrap();
    }
    let snapshot = db.snapshot();
    let mut iter = db.iter();
    assert!(iter.next().is_some());
    for i in 0..200 {
        if i % 3 == 0 {
            db.delete(&key(i)).unwrap();
        } else {
            db.put(&key(i), b"new").unwrap();
        }
    }
    assert_eq!(iter.map(Result::unwrap).filter(|(_, v)| v == b"old").count(), 99);
    db.flush().unwrap();
    db.compact().unwrap();
    let then: Vec<_> = space.at(&snapshot).unwrap().iter().map(Result::unwrap).collect();
    assert_eq!(then.len(), 100);
    assert!(then.iter().all(|(_, v)| v == b"old"));
    drop(snapshot);
    // What only the snapshot needed goes now that it is gone.
    db.compact().unwrap();
    let entries: u64 = db.stats().levels().iter().map(|l| l.entries).sum();
    assert_eq!(entries, db.iter().count() as u64);
}

/// Guard: a snapshot's going makes its tables candidates, without anybody asking.
#[test]
fn garbage_goes_by_itself_once_its_snapshot_is_gone() {
    let db = open(&Env::memory(), tiny());
    for i in 0..200 {
        db.put(&key(i), b"old").unwrap();
    }
    let snapshot = db.snapshot();
    for i in 0..200 {
        db.delete(&key(i)).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    assert!(count(&db, "tables_count") > 0);
    drop(snapshot);
    for _ in 0..500 {
        if count(&db, "tables_count") == 0 {
            return;
        }
        // Waiting for a background job, which nothing announces to a test.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still {} tables", count(&db, "tables_count"));
}

/// Guard: a condition is decided on what was written before it, in queue order, in its group too.
#[test]
fn of_four_writers_with_the_same_condition_one_wins() {
    let first = common::base_seed();
    for seed in first..first + 100 {
        let env = Env::simulated(seed, SimDisk::with_seed(seed));
        let run = env.run(|| {
            let db = open(&env, tiny());
            let writers: Vec<_> = (0..4u8)
                .map(|writer| {
                    let db = db.clone();
                    let (send, receive) = std::sync::mpsc::channel();
                    let write = move || {
                        let mut batch = db.batch();
                        batch.require_absent(&db.default_keyspace(), b"k");
                        batch.put(&db.default_keyspace(), b"k", &[writer]);
                        send.send(db.write(batch, Durability::Commit)).unwrap();
                    };
                    (env.spawn("writer", write).unwrap(), receive)
                })
                .collect();
            let mut winner = None;
            for (number, (thread, receive)) in (0..).zip(writers) {
                assert!(thread.join());
                match receive.recv().unwrap() {
                    Ok(_) => assert_eq!(winner.replace(number), None, "CAIRN_SEED={seed}: two winners"),
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Conflict);
                        assert_eq!(e.conflicting_key(), Some(&b"k"[..]));
                    }
                }
            }
            assert!(winner.is_some(), "CAIRN_SEED={seed}: nobody won");
            assert_eq!(db.get(b"k").unwrap(), winner.map(|number| vec![number]));
            // Each once, whether the key was found when the batch was made or when it was its turn.
            assert_eq!(count(&db, "conflicts_count"), 3);
            db.close().unwrap();
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    }
}

/// Guard: the history's floor. A moment too long ago is a conflict, never a guess.
#[test]
fn a_condition_about_a_moment_too_long_ago_is_a_conflict() {
    let env = Env::memory();
    let db = open(&env, tiny());
    let space = db.default_keyspace();
    let long_ago = db.put(b"k", b"1").unwrap().seq;
    db.put(b"k", b"2").unwrap();
    db.close().unwrap();
    let db = open(&env, tiny());
    let space_again = db.default_keyspace();
    drop(space);
    for i in 0..2_000 {
        db.put(&key(i), &[7; 100]).unwrap();
    }
    db.flush().unwrap();
    let write = |since| {
        let mut batch = db.batch();
        batch.require_unchanged(&space_again, b"k", since);
        batch.put(&space_again, b"k", b"3");
        db.write(batch, Durability::Commit)
    };
    assert_eq!(write(long_ago).unwrap_err().kind(), ErrorKind::Conflict);
    let now = space_again.latest(Visibility::Applied).seq();
    write(now).unwrap();
}

/// Guards: in a quiet time memtables of tombstones are flushed, and level 0 is merged if that costs little, or no more
/// than what was read meanwhile.
#[test]
fn a_quiet_time_is_used_to_tidy() {
    let env = Env::simulated(common::base_seed(), SimDisk::new());
    let run = env.run(|| {
        let db = open(&env, Options { memtable_bytes_max: 512 << 10, log_bytes_max: 1 << 20, ..tiny() });
        let wait = |seconds| drop(env.condvar().wait_for(env.mutex(()).lock(), Duration::from_secs(seconds)));
        let tables_of = |level| db.stats().levels().iter().filter(|l| l.level == level).map(|l| l.tables).sum::<u64>();
        let put = |keys: std::ops::Range<u64>| {
            for i in keys {
                db.put(&key(i), &[7; 100]).unwrap();
            }
            db.flush().unwrap();
        };
        put(0..1_200);
        assert_eq!((tables_of(0), tables_of(1)), (1, 0));
        wait(5);
        assert_eq!((tables_of(0), tables_of(1) > 0), (0, true), "nothing below: it costs little");
        put(0..120);
        wait(5);
        assert_eq!(tables_of(0), 1, "ten bytes written for each, and nobody reads");
        for i in 0..1_200 {
            db.get(&key(i)).unwrap();
        }
        wait(5);
        assert_eq!(tables_of(0), 0, "as much was read as that writes");
        for i in 0..1_200 {
            db.delete(&key(i)).unwrap();
        }
        wait(5);
        assert_eq!((db.stats().get("flushes_count"), tables_of(0) + tables_of(1)), (Some(3), 0), "all is gone");
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

/// Guard: an idle keyspace's small memtable is flushed when it holds the oldest log.
#[test]
fn an_idle_keyspace_does_not_pin_the_log() {
    let env = Env::memory();
    let db = open(&env, Options { memtable_bytes_max: 32 << 10, ..tiny() });
    let idle = db.keyspace("idle").unwrap();
    idle.put(b"k", b"v").unwrap();
    let value = vec![7; 1000];
    for i in 0..3_000 {
        db.put(&key(i % 50), &value).unwrap();
    }
    db.flush().unwrap();
    let live = count(&db, "log_live_bytes");
    assert!(live <= 3 * (64 << 10), "{live} bytes of log live");
    assert_eq!(idle.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
}

/// Guard: values over a segment of the log get one of their own.
#[test]
fn values_larger_than_memtable_segment_and_block_come_back_whole() {
    let env = Env::memory();
    let db = open(&env, tiny());
    let mut random = Random::new(6);
    let values: Vec<Vec<u8>> =
        [100 << 10, 700 << 10, 1 << 20].iter().map(|&len| (0..len).map(|_| random.next() as u8).collect()).collect();
    for (i, value) in values.iter().enumerate() {
        db.put(&key(i as u64), value).unwrap();
    }
    drop(db);
    let db = open(&env, tiny());
    db.compact().unwrap();
    for (i, value) in values.iter().enumerate() {
        assert_eq!(db.get(&key(i as u64)).unwrap().as_ref(), Some(value));
    }
    let too_large = vec![0; (1 << 20) + 1];
    assert_eq!(db.put(b"k", &too_large).unwrap_err().kind(), ErrorKind::Invalid);
}

/// Guard: the lock file.
#[test]
fn a_second_open_is_refused_with_a_message_that_says_why() {
    let env = Env::memory();
    let db = open(&env, tiny());
    let error = Db::open_in(&env, "db", tiny()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("in use"), "{error}");
    db.close().unwrap();
    open(&env, tiny());
}

/// Guard: the check of what stands in a directory before anything is created in it.
#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let env = Env::memory();
    env.create_dir_all("db".as_ref()).unwrap();
    env.create("db/precious.doc".as_ref()).unwrap();
    let error = Db::open_in(&env, "db", tiny()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("precious.doc"), "{error}");
    assert_eq!(env.list("db".as_ref()).unwrap().len(), 1);

    let missing = Db::open_in(&env, "none", Options { create_if_missing: false, ..tiny() }).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// Guard: without CURRENT, a directory with data is damaged, not new.
#[test]
fn a_lost_current_is_damage_and_not_a_new_database() {
    for flushed in [false, true] {
        let env = Env::memory();
        let db = open(&env, tiny());
        db.put(b"k", b"v").unwrap();
        if flushed {
            db.flush().unwrap();
        }
        db.close().unwrap();
        env.remove("db/CURRENT".as_ref()).unwrap();
        let error = Db::open_in(&env, "db", tiny()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("CURRENT"), "{error}");
    }
}

/// Guard: limits on keys, and errors of a batch surface when it is written.
#[test]
fn keys_of_every_allowed_length_and_no_other() {
    let db = open(&Env::memory(), tiny());
    for len in [1, 2, 255, 256, 4096, 65_534, 65_535] {
        db.put(&vec![b'k'; len], b"v").unwrap();
    }
    db.compact().unwrap();
    assert_eq!(db.iter().count(), 7);
    for len in [0, 65_536] {
        let key = vec![b'k'; len];
        assert_eq!(db.put(&key, b"v").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(db.get(&key).unwrap_err().kind(), ErrorKind::Invalid);
        let mut batch = db.batch();
        batch.put(&db.default_keyspace(), b"good", b"v");
        batch.delete(&db.default_keyspace(), &key);
        assert_eq!(db.write(batch, Durability::Commit).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(db.get(b"good").unwrap(), None);
}

/// Guard: `submit` is bounded, and its tickets are as good as `write`.
#[test]
fn submitted_batches_are_written_in_order_without_anybody_waiting() {
    let env = Env::memory();
    let db = open(&env, tiny());
    let mut tickets = Vec::new();
    for i in 0..500 {
        loop {
            let mut batch = db.batch();
            batch.put(&db.default_keyspace(), b"k", format!("{i}").as_bytes());
            match db.submit(batch, Durability::Commit) {
                Ok(ticket) => break tickets.push(ticket),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Busy),
            }
        }
    }
    let seqs: Vec<SeqNo> = tickets.into_iter().map(|t| t.wait().unwrap().seq).collect();
    assert!(seqs.is_sorted() && seqs.len() == 500);
    assert_eq!(db.get(b"k").unwrap().as_deref(), Some(&b"499"[..]));
    let mut batch = db.batch();
    batch.put(&db.default_keyspace(), b"last", b"v");
    drop(db.submit(batch, Durability::Commit).unwrap());
    db.close().unwrap();
    assert!(open(&env, tiny()).get(b"last").unwrap().is_some(), "close writes what was submitted");
}

/// Guard: a handle that outlives a close gets Closed, not stale data and not a hang.
#[test]
fn after_close_every_call_says_so() {
    let db = open(&Env::memory(), tiny());
    let space = db.keyspace("s").unwrap();
    db.put(b"k", b"v").unwrap();
    db.clone().close().unwrap();
    assert_eq!(db.get(b"k").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.put(b"k", b"v").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(space.iter().next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.flush().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.compact().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.keyspace("t").unwrap_err().kind(), ErrorKind::Closed);
    db.close().unwrap();
}

/// Guard: a sync asks whether the database still takes writes. After a failed one there is nothing
/// left to sync, because what is applied went back to what is durable.
#[test]
fn a_sync_after_a_failed_one_does_not_say_ok() {
    let disk = SimDisk::new();
    let db = open(&Env::on_disk(disk.clone()), tiny());
    let mut batch = db.batch();
    batch.put(&db.default_keyspace(), b"k", b"v");
    db.write(batch, Durability::Buffered).unwrap();
    disk.inject(Fault::new(FaultKind::Eio).on(Op::Sync));
    assert_eq!(db.sync().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.sync().unwrap_err().kind(), ErrorKind::Closed);
}

/// Guard: after a failed sync every read shows only what is durable, also through a snapshot or a
/// pinned reader that was taken before and had seen more.
#[test]
fn after_a_failed_sync_no_read_shows_what_may_be_lost() {
    let disk = SimDisk::new();
    let db = open(&Env::on_disk(disk.clone()), tiny());
    let space = db.default_keyspace();
    db.put(b"k", b"durable").unwrap();
    let mut batch = db.batch();
    batch.put(&space, b"k", b"applied");
    db.write(batch, Durability::Buffered).unwrap();
    let snapshot = db.snapshot();
    let readers =
        [space.latest(Visibility::Applied), space.at(&snapshot).unwrap(), space.latest(Visibility::Applied).pinned()];
    for reader in &readers {
        assert_eq!(reader.get(b"k").unwrap().as_deref(), Some(&b"applied"[..]));
    }
    disk.inject(Fault::new(FaultKind::Eio).on(Op::Sync));
    assert_eq!(db.sync().unwrap_err().kind(), ErrorKind::Closed);
    for reader in &readers {
        assert_eq!(reader.get(b"k").unwrap().as_deref(), Some(&b"durable"[..]));
        let entries: Vec<_> = reader.iter().map(|entry| entry.unwrap().1).collect();
        assert_eq!(entries, [b"durable"]);
    }
}

/// Guard: a segment of the log starts small, however far the one before had zeros written ahead.
#[test]
fn a_database_that_was_emptied_and_compacted_is_small_on_disk() {
    let env = Env::memory();
    let db = open(&env, Options::default());
    let bytes = || env.list("db".as_ref()).unwrap().iter().map(|entry| entry.len).sum::<u64>();
    for i in 0..20_000 {
        db.put(&key(i), &[7; 500]).unwrap();
    }
    assert!(bytes() > 10 << 20);
    for i in 0..20_000 {
        db.delete(&key(i)).unwrap();
    }
    db.compact().unwrap();
    assert!(bytes() < 2 << 20, "{} bytes while it is open", bytes());
    db.close().unwrap();
    assert!(bytes() < 2 << 20, "{} bytes once it is closed", bytes());
    let db = open(&env, Options::default());
    assert_eq!(db.iter().count(), 0);
}
