//! Dropping keyspaces: what goes, what stays, and who is told.
//!
//! Crashes in the midst of a drop are in `crash.rs` and `crash_enumerated.rs`, drops among all other
//! operations in `model.rs`, failing calls in `faults.rs`. `CAIRN_SEED=n` replays a schedule from a seed,
//! `CAIRN_PROOF_SECONDS=n` takes further ones for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn::{CompactionStyle, Db, Durability, Env, ErrorKind, Keyspace, Options, SeqNo, Visibility, check, repair};
use cairn_env::{CrashPolicy, Fault, FaultKind, Op, SimDisk};
use common::{base_seed, rounds, tiny};

const DIR: &str = "db";

fn open(env: &Env, options: Options) -> Db {
    Db::open_in(env, DIR, options).unwrap()
}

/// Options under which nothing is compacted unless asked for.
fn no_compaction() -> Options {
    Options { compaction: CompactionStyle::EveryUpdates(u64::MAX), ..tiny() }
}

fn key(i: u64) -> Vec<u8> {
    format!("key{i:06}").into_bytes()
}

fn stat(db: &Db, name: &str) -> u64 {
    db.stats().get(name).unwrap()
}

/// The names of files that begin with `prefix`.
fn files(env: &Env, prefix: &str) -> Vec<String> {
    let names = env.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name);
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Waits until something that happens in the background has happened.
fn wait_until(env: &Env, what: &str, mut done: impl FnMut() -> bool) {
    let (mutex, condvar) = (env.mutex(()), env.condvar());
    for _ in 0..200 {
        if done() {
            return;
        }
        drop(condvar.wait_for(mutex.lock(), Duration::from_millis(50)));
    }
    panic!("{what}: not within ten seconds");
}

/// The keyspace is refused by name, whatever one asks of it.
fn assert_dropped(db: &Db, space: &Keyspace) {
    let name = format!("\"{}\"", space.name());
    let snapshot = db.snapshot();
    let at = space.at(&snapshot).unwrap();
    let mut both = db.batch();
    both.put(&db.default_keyspace(), b"neighbour", b"v");
    both.delete(space, b"k");
    let mut condition = db.batch();
    condition.put(&db.default_keyspace(), b"neighbour", b"v");
    condition.require_unchanged(space, b"k", snapshot.seq());
    let mut absent = db.batch();
    absent.require_absent(space, b"k");
    let refused = [
        space.get(b"k").unwrap_err(),
        space.latest(Visibility::Durable).get_resident(b"k").unwrap_err(),
        space.latest(Visibility::Applied).pinned().get(b"k").unwrap_err(),
        space.multi_get(&[b"k"]).unwrap_err(),
        space.iter().next().unwrap().unwrap_err(),
        space.prefix(b"k").next_back().unwrap().unwrap_err(),
        at.get(b"k").unwrap_err(),
        at.cursor().unwrap_err(),
        space.put(b"k", b"v").unwrap_err(),
        space.delete(b"k").unwrap_err(),
        db.write(both, Durability::Commit).unwrap_err(),
        db.write(condition, Durability::Commit).unwrap_err(),
        db.write(absent, Durability::Commit).unwrap_err(),
    ];
    for e in refused {
        assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains(&name), "{e:?}");
    }
    assert_eq!(db.get(b"neighbour").unwrap(), None, "a batch is refused whole");
}

#[test]
fn a_dropped_keyspace_is_gone_and_its_name_is_free() {
    let env = Env::memory();
    let db = open(&env, tiny());
    assert!(!db.drop_keyspace("day").unwrap());
    assert!(!db.drop_keyspace("").unwrap());
    let refused = db.drop_keyspace("default").unwrap_err();
    assert!(refused.kind() == ErrorKind::Invalid && refused.to_string().contains("\"default\""), "{refused:?}");

    let first = db.keyspace("day").unwrap();
    first.put(b"k", b"first").unwrap();
    db.flush().unwrap();
    first.put(b"k2", b"in memory").unwrap();
    assert!(db.drop_keyspace("day").unwrap());
    assert_eq!(db.keyspaces(), ["default"]);
    assert_dropped(&db, &first);

    let second = db.keyspace("day").unwrap();
    assert_eq!(second.iter().count(), 0);
    second.put(b"k", b"second").unwrap();
    assert_dropped(&db, &first);
    db.close().unwrap();

    // Twice: what the first open has read is then only in what it wrote.
    for _ in 0..2 {
        let db = open(&env, tiny());
        let day = db.keyspace("day").unwrap();
        assert_eq!(day.iter().map(Result::unwrap).collect::<Vec<_>>(), [(b"k".to_vec(), b"second".to_vec())]);
        db.close().unwrap();
    }
    assert!(check(&env, Path::new(DIR), &mut |_| ()).unwrap().is_sound());
}

/// The bug that this keeps away: the newest keyspace is dropped, the next id is forgotten at a reopen, and
/// the log's old writes fall to the keyspace that gets the id again.
#[test]
fn the_id_of_the_newest_keyspace_is_not_used_again() {
    let env = Env::memory();
    let db = open(&env, tiny());
    let mut batch = db.batch();
    // The log keeps the group for the sake of the other keyspace.
    batch.put(&db.default_keyspace(), b"k", b"v");
    batch.put(&db.keyspace("day").unwrap(), b"k", b"of the dropped one");
    db.write(batch, Durability::Commit).unwrap();
    assert!(db.drop_keyspace("day").unwrap());
    db.close().unwrap();
    for round in 0..3 {
        let report = check(&env, Path::new(DIR), &mut |_| ()).unwrap();
        assert!(report.is_sound() && report.keyspaces == 1, "{:?}", report.findings);
        let db = open(&env, tiny());
        let name = format!("day {round}");
        assert_eq!(db.keyspace(&name).unwrap().iter().count(), 0);
        assert_eq!(db.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert!(db.drop_keyspace(&name).unwrap());
        db.close().unwrap();
    }
    // A new file of the manifest begins with a snapshot, too.
    let db = open(&env, Options { log_bytes_max: 16 << 10, ..tiny() });
    let before = files(&env, "manifest-");
    while files(&env, "manifest-") == before {
        db.put(b"k", b"v").unwrap();
        db.flush().unwrap();
    }
    db.close().unwrap();
    let db = open(&env, tiny());
    assert_eq!(db.keyspace("day").unwrap().iter().count(), 0);
}

/// Neither a table nor the log holds the last number any more, only the edit that dropped it.
#[test]
fn numbers_go_on_after_the_keyspace_that_had_the_last_of_them() {
    for flushed in [true, false] {
        let env = Env::memory();
        let mut last = SeqNo(0);
        for round in 0..4 {
            let db = open(&env, tiny());
            let day = db.keyspace("day").unwrap();
            let first = day.put(b"k", b"v").unwrap().seq;
            assert!(first > last, "round {round}: {first} after {last}");
            last = day.put(b"k", b"w").unwrap().seq;
            if flushed {
                db.flush().unwrap();
            }
            assert!(db.drop_keyspace("day").unwrap());
            db.close().unwrap();
            for _ in 0..round {
                open(&env, tiny()).close().unwrap();
            }
        }
    }
}

/// A crash leaves a prefix: not the drop without what was written before it.
#[test]
fn what_was_written_before_a_drop_is_as_durable_as_the_drop() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk.clone());
    let run = env.run(|| {
        let db = open(&env, tiny());
        let mut batch = db.batch();
        batch.put(&db.default_keyspace(), b"k", b"v");
        batch.put(&db.keyspace("day").unwrap(), b"k", b"v");
        db.write(batch, Durability::Buffered).unwrap();
        assert!(db.drop_keyspace("day").unwrap());
        let cut = disk.crash(CrashPolicy::DropAll);
        db.close().unwrap();
        let db = open(&Env::on_disk(cut), tiny());
        assert_eq!((db.iter().count(), db.keyspaces().len()), (1, 1));
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

#[test]
fn readers_that_were_there_before_go_on_and_the_files_go_after_them() {
    let env = Env::memory();
    let db = open(&env, no_compaction());
    let day = db.keyspace("day").unwrap();
    for i in 0..300 {
        day.put(&key(i), &[1; 100]).unwrap();
    }
    db.flush().unwrap();
    for i in 300..320 {
        day.put(&key(i), &[1; 100]).unwrap();
    }
    let snapshot = db.snapshot();
    let before = day.at(&snapshot).unwrap();
    let pinned = day.latest(Visibility::Applied).pinned();
    let mut cursor = day.latest(Visibility::Applied).cursor().unwrap();
    let iter = before.iter();
    let value = day.get_pinned(&key(7)).unwrap().unwrap();
    let tables = files(&env, "table-");
    assert!(!tables.is_empty());

    assert!(db.drop_keyspace("day").unwrap());
    assert_eq!(before.get(&key(7)).unwrap_err().kind(), ErrorKind::NotFound, "a snapshot pins no keyspace");
    assert_eq!(iter.map(Result::unwrap).count(), 320);
    assert_eq!(pinned.get(&key(310)).unwrap().unwrap(), [1; 100]);
    cursor.seek(&key(319)).unwrap();
    assert_eq!(cursor.key(), Some(&key(319)[..]));
    assert_eq!(*value, [1; 100]);
    for _ in 0..3 {
        db.put(b"k", b"v").unwrap();
        db.compact().unwrap();
    }
    let there = files(&env, "table-");
    assert!(tables.iter().all(|table| there.contains(table)), "pinned by a reader and a cursor");

    let held = stat(&db, "memory_memtables_bytes");
    drop((pinned, cursor));
    wait_until(&env, "removal", || !files(&env, "table-").iter().any(|table| tables.contains(table)));
    assert!(stat(&db, "memory_memtables_bytes") < held, "the memtable is freed");
}

/// What the calls of a drop are, and of the work in the background behind it, however much there is to drop.
#[test]
fn a_drop_costs_the_same_whatever_it_drops_and_gives_all_of_it_back() {
    let options = || Options { durability: Durability::Buffered, ..Options::default() };
    let cost = |entries: u64| {
        let disk = SimDisk::new();
        let env = Env::simulated(base_seed(), disk.clone());
        let run = env.run(|| {
            let db = open(&env, Options { memtable_bytes_max: 1 << 20, table_bytes_max: 256 << 10, ..options() });
            db.put(b"other", b"v").unwrap();
            let day = db.keyspace("day").unwrap();
            for first in (0..entries).step_by(1000) {
                let mut batch = db.batch();
                (first..entries.min(first + 1000)).for_each(|i| batch.put(&day, &key(i), &[i as u8; 50]));
                db.write(batch, Durability::Buffered).unwrap();
            }
            db.compact().unwrap();
            // The last of it is only in memory and in the log.
            day.put(b"last", b"v").unwrap();
            let tables = files(&env, "table-").len() as u64;
            let before = stat(&db, "disk_bytes");
            disk.start_trace();
            assert!(db.drop_keyspace("day").unwrap());
            let calls = disk.trace();
            wait_until(&env, "removal", || stat(&db, "disk_bytes") < (3 << 20));
            wait_until(&env, "removal", || files(&env, "table-").len() <= 1);
            // Removing is no part of the drop; it may have begun meanwhile.
            let calls = calls.iter().filter(|step| step.op != Op::Remove).count();
            println!("{entries} entries in {tables} tables, {before} bytes on disk: {calls} calls");
            db.close().unwrap();
            let db = open(&env, options());
            assert_eq!((db.iter().count(), db.keyspaces().len()), (1, 1));
            (calls, tables)
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
        run.value
    };
    let (few, _) = cost(1);
    let (many, tables) = cost(100_000);
    assert!(tables >= 5, "{tables} tables");
    assert!(many <= few + 2 && many <= 8, "{many} calls for many entries, {few} for one");
    println!("proof: calls of a drop of 100,000 entries = {many}");
}

#[test]
fn the_log_lets_go_of_what_only_the_dropped_keyspace_needed() {
    let env = Env::memory();
    let options = Options { memtable_bytes_max: 1 << 20, log_bytes_max: 1 << 20, ..tiny() };
    let db = open(&env, options);
    let day = db.keyspace("day").unwrap();
    while files(&env, "log-").len() < 4 {
        day.put(b"k", &[7; 5000]).unwrap();
    }
    let live = stat(&db, "log_live_bytes");
    assert!(db.drop_keyspace("day").unwrap());
    assert_eq!(files(&env, "log-").len(), 1);
    assert!(stat(&db, "log_live_bytes") < live / 2);
    db.put(b"k", b"v").unwrap();
    db.close().unwrap();
    assert!(check(&env, Path::new(DIR), &mut |_| ()).unwrap().is_sound());
}

/// A batch stands wholly before the drop, or is refused whole; what is acknowledged of its neighbours stays.
#[test]
fn batches_among_which_a_keyspace_is_dropped_are_whole_or_refused_whole() {
    let (mut taken, mut refused) = (0, 0);
    let mut schedules = 0;
    for seed in rounds(150, 4) {
        schedules += 1;
        let disk = SimDisk::with_seed(seed);
        let env = Env::simulated(seed, disk);
        let run = env.run(|| {
            let db = open(&env, tiny());
            let day = db.keyspace("day").unwrap();
            let writers: Vec<_> = (0..3u8)
                .map(|writer| {
                    let (db, day) = (db.clone(), day.clone());
                    let outcomes = Arc::new(std::sync::Mutex::new(Vec::new()));
                    let noted = outcomes.clone();
                    let write = move || {
                        for i in 0..6u8 {
                            let mut alone = db.batch();
                            alone.put(&db.default_keyspace(), &[writer, i, 0], b"v");
                            let mut both = db.batch();
                            both.put(&db.default_keyspace(), &[writer, i, 1], b"v");
                            both.put(&day, &[writer, i], b"v");
                            let durability = if i % 2 == 0 { Durability::Commit } else { Durability::Buffered };
                            let tickets = [alone, both].map(|batch| db.submit(batch, durability).unwrap());
                            let [alone, both] = tickets.map(cairn::Ticket::wait);
                            alone.unwrap();
                            noted.lock().unwrap().push(both);
                        }
                    };
                    (env.spawn("writer", write).unwrap(), outcomes)
                })
                .collect();
            for _ in 0..seed % 8 {
                env.list(DIR.as_ref()).unwrap();
            }
            assert!(db.drop_keyspace("day").unwrap());
            let at = db.snapshot().seq();
            let (mut taken, mut refused) = (0, 0);
            for (writer, (thread, outcomes)) in writers.into_iter().enumerate() {
                assert!(thread.join());
                for (i, outcome) in outcomes.lock().unwrap().iter().enumerate() {
                    let there = |which: u8| db.get(&[writer as u8, i as u8, which]).unwrap().is_some();
                    assert!(there(0));
                    match outcome {
                        Ok(commit) => {
                            assert!(there(1) && commit.seq <= at, "acknowledged after the drop");
                            taken += 1;
                        }
                        Err(e) => {
                            assert!(e.kind() == ErrorKind::NotFound && !there(1), "{e:?}");
                            refused += 1;
                        }
                    }
                }
            }
            assert_eq!(db.iter().count(), 18 + taken);
            assert_dropped(&db, &day);
            db.close().unwrap();
            let db = open(&env, tiny());
            assert_eq!((db.iter().count(), db.keyspaces().len()), (18 + taken, 1));
            db.close().unwrap();
            (taken, refused)
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
        taken += run.value.0;
        refused += run.value.1;
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
    println!("proof: schedules of writers and a drop = {schedules}");
    println!("proof: batches before the drop, and refused = {taken} {refused}");
}

/// Flush and compaction that are under way end without their tables, and hold nobody up.
#[test]
fn a_flush_or_compaction_that_meets_a_drop_brings_nothing_back() {
    let mut schedules = 0;
    let mut met = 0;
    for seed in rounds(150, 4) {
        schedules += 1;
        let disk = SimDisk::with_seed(seed);
        let env = Env::simulated(seed, disk.clone());
        let run = env.run(|| {
            let db = open(&env, tiny());
            let (day, other) = (db.keyspace("day").unwrap(), db.keyspace("other").unwrap());
            for i in 0..60 {
                day.put(&key(i), &[i as u8; 100]).unwrap();
                other.put(&key(i), &[i as u8; 100]).unwrap();
            }
            let work = {
                let db = db.clone();
                let work = move || if seed % 2 == 0 { db.flush().unwrap() } else { db.compact().unwrap() };
                env.spawn("work", work).unwrap()
            };
            for _ in 0..seed % 40 {
                env.list(DIR.as_ref()).unwrap();
            }
            let installed = files(&env, "table-").len();
            assert!(db.drop_keyspace("day").unwrap());
            assert!(work.join());
            db.flush().unwrap();
            assert_eq!(db.keyspaces(), ["default", "other"]);
            assert_dropped(&db, &day);
            assert_eq!(other.iter().count(), 60);
            let stats = db.stats();
            assert_eq!((stats.health(), stats.last_background_error()), ("open", None));
            assert!(stats.levels().iter().all(|level| level.keyspace == "other"), "{:?}", stats.levels());
            wait_until(&env, "removal", || files(&env, "table-").len() as u64 == stat(&db, "tables_count"));
            db.close().unwrap();
            let report = check(&env, Path::new(DIR), &mut |_| ()).unwrap();
            assert_eq!(report.findings, [], "sound, and no file too many");
            let db = open(&env, tiny());
            assert_eq!(db.keyspace("other").unwrap().iter().count(), 60);
            assert_eq!(db.keyspace("day").unwrap().iter().count(), 0);
            db.close().unwrap();
            installed
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
        met += u64::from(run.value > 0);
    }
    assert!(met > 20, "{met} of {schedules} drops met tables");
    println!("proof: schedules of a flush or compaction and a drop = {schedules}");
}

/// Writers that wait for the keyspace's flush go on when it is dropped; to them, and to those of others.
#[test]
fn writers_that_are_held_back_by_a_keyspace_go_on_when_it_is_dropped() {
    let mut stalls = 0;
    for seed in rounds(40, 4) {
        let env = Env::simulated(seed, SimDisk::with_seed(seed));
        let run = env.run(|| {
            let small = Options { durability: Durability::Buffered, memtable_entries_max: Some(2), ..tiny() };
            let db = open(&env, small);
            let day = db.keyspace("day").unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let of_day = {
                let day = day.clone();
                let write = move || {
                    let refused = (0..).find_map(|i| day.put(&key(i), &[1; 50]).err()).unwrap();
                    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:?}");
                };
                env.spawn("of the day", write).unwrap()
            };
            let of_other = {
                let (db, stop) = (db.clone(), stop.clone());
                let write = move || {
                    let going_on = (0..).take_while(|_| !stop.load(Ordering::Relaxed));
                    going_on.for_each(|i| assert!(db.put(&key(i), b"v").is_ok()));
                };
                env.spawn("of another", write).unwrap()
            };
            wait_until(&env, "a stall", || stat(&db, "stalls_count") > seed % 3);
            let began = env.now();
            assert!(db.drop_keyspace("day").unwrap());
            let took = env.now() - began;
            assert!(of_day.join());
            stop.store(true, Ordering::Relaxed);
            assert!(of_other.join());
            let stalls = stat(&db, "stalls_count");
            db.close().unwrap();
            assert!(took < Duration::from_secs(1), "{took:?}");
            stalls
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
        stalls += run.value;
    }
    assert!(stalls > 0);
}

/// Level 0 of the keyspace is full, and compaction is long busy with another: its writers wait, and with
/// them all others. A drop does not; when it has come, nobody does.
#[test]
fn a_drop_does_not_wait_for_what_its_writers_wait_for() {
    let (mut schedules, mut first) = (0, 0);
    for seed in rounds(10, 4) {
        schedules += 1;
        let disk = SimDisk::with_seed(seed);
        let env = Env::simulated(seed, disk.clone());
        let run = env.run(|| {
            let db = open(&env, Options { memtable_bytes_max: 128 << 10, log_bytes_max: 1 << 20, ..tiny() });
            // Each over the whole range: none can change its level unread.
            for first in 0..10 {
                let mut batch = db.batch();
                (first..1000).step_by(10).for_each(|i| batch.put(&db.default_keyspace(), &key(i), &noise(i)));
                db.write(batch, Durability::Buffered).unwrap();
            }
            db.close().unwrap();
            let options = Options { memtable_entries_max: Some(2), log_bytes_max: 4 << 20, ..tiny() };
            let db = open(&env, Options { durability: Durability::Buffered, ..options });
            let day = db.keyspace("day").unwrap();
            let compaction = {
                let db = db.clone();
                env.spawn("compaction", move || db.compact().unwrap()).unwrap()
            };
            let writer = {
                let day = day.clone();
                let write = move || drop((0..).find_map(|i| day.put(&key(i), b"v").err()).unwrap());
                env.spawn("writer", write).unwrap()
            };
            let level0 = |reason: &str| reason.starts_with("20 tables in level 0 of keyspace \"day\"");
            let stalled = (0..2000).any(|_| db.stats().stall_reason().is_some_and(level0));
            let compacted = stat(&db, "compactions_count");
            assert!(db.drop_keyspace("day").unwrap());
            assert!(writer.join());
            let is_first = stalled && stat(&db, "compactions_count") == compacted;
            assert!(compaction.join());
            db.close().unwrap();
            is_first
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
        first += u64::from(run.value);
    }
    // In the other schedules the compaction was about to end, or the writers did not come to wait.
    assert!(first * 3 > schedules, "{first} of {schedules} drops came before the end of the compaction");
    println!("proof: drops before the compaction that writers waited for = {first} of {schedules}");
}

/// A drop gives space back, so it must not need any.
#[test]
fn a_keyspace_can_be_dropped_on_a_full_disk() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk.clone());
    let run = env.run(|| {
        let db = open(&env, tiny());
        let day = db.keyspace("day").unwrap();
        disk.set_space_bytes(Some(3 << 20));
        let refused = (0..).find_map(|i| day.put(&key(i), &noise(i)).err()).unwrap();
        assert_eq!(refused.kind(), ErrorKind::Full, "{refused:?}");
        assert!(db.drop_keyspace("day").unwrap());
        assert_eq!(day.get(&key(0)).unwrap_err().kind(), ErrorKind::NotFound);
        wait_until(&env, "space", || db.put(b"k", b"v").is_ok());
        db.close().unwrap();
        assert!(check(&env, Path::new(DIR), &mut |_| ()).unwrap().is_sound());
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

/// Bytes that do not compress.
fn noise(seed: u64) -> Vec<u8> {
    let mut random = common::Random::new(seed);
    (0..125).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// The edit finds no space, the reserve is given back, and the edit is written after all.
#[test]
fn a_drop_whose_edit_finds_no_space_takes_the_reserve() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk.clone());
    let run = env.run(|| {
        let db = open(&env, tiny());
        let day = db.keyspace("day").unwrap();
        day.put(b"k", b"v").unwrap();
        disk.inject(Fault::new(FaultKind::Enospc).on(Op::Write).file("manifest-"));
        assert!(db.drop_keyspace("day").unwrap());
        assert_dropped(&db, &day);
        let day = db.keyspace("day").unwrap();
        disk.inject(Fault::new(FaultKind::Enospc).on(Op::Write).file("manifest-").forever());
        assert_eq!(db.drop_keyspace("day").unwrap_err().kind(), ErrorKind::Full);
        disk.clear_faults();
        wait_until(&env, "space", || day.put(b"k", b"still there").is_ok());
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

/// One database with a dropped keyspace of which tables, and operations in the log, are left. The manifest
/// still holds the edit that dropped it, or has begun anew since.
fn with_remains(rolled: bool) -> (Env, u64) {
    let env = Env::memory();
    let log_bytes_max = if rolled { 16 << 10 } else { 8 << 20 };
    let options = Options { log_bytes_max, memory_budget_bytes: 32 << 20, ..tiny() };
    let db = open(&env, Options { compaction: no_compaction().compaction, ..options });
    let day = db.keyspace("day").unwrap();
    day.put(b"flushed", b"v").unwrap();
    db.flush().unwrap();
    let mut batch = db.batch();
    batch.put(&db.default_keyspace(), b"k", b"v");
    batch.put(&day, b"logged", b"v");
    db.write(batch, Durability::Commit).unwrap();
    // What a crash leaves behind a drop: nobody has removed the files yet.
    let left: Vec<_> = files(&env, "table-").into_iter().map(|name| Path::new(DIR).join(name)).collect();
    let left: Vec<_> = left.into_iter().map(|path| (path.clone(), env.read_file(&path, 1 << 20).unwrap())).collect();
    assert!(db.drop_keyspace("day").unwrap());
    let before = files(&env, "manifest-");
    for i in 0..100 {
        if rolled && files(&env, "manifest-") == before {
            assert!(db.keyspace(&format!("{i}")).is_ok() && db.drop_keyspace(&format!("{i}")).unwrap());
        }
    }
    assert_eq!(rolled, files(&env, "manifest-") != before);
    let again = db.keyspace("day").unwrap();
    again.put(b"of the second", b"v").unwrap();
    wait_until(&env, "removal", || files(&env, "table-").is_empty());
    db.close().unwrap();
    for (path, bytes) in &left {
        env.create(path).unwrap().write_all_at(bytes, 0).unwrap();
    }
    (env, left.len() as u64)
}

fn content(env: &Env, dir: &str) -> Vec<(String, Vec<String>)> {
    let db = Db::open_in(env, dir, tiny()).unwrap();
    let keys = |name: &String| {
        let all = db.keyspace(name).unwrap().iter().map(|entry| String::from_utf8(entry.unwrap().0).unwrap());
        all.collect()
    };
    let mut all: Vec<_> = db.keyspaces().iter().map(|name| (name.clone(), keys(name))).collect();
    all.sort();
    db.close().unwrap();
    all
}

fn owned(all: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    all.iter().map(|(name, keys)| ((*name).to_owned(), keys.iter().map(|key| (*key).to_owned()).collect())).collect()
}

/// With a sound manifest what is left of a dropped keyspace is no loss and comes back nowhere; without
/// CURRENT the edit that dropped it is still believed; without any manifest it may come back, and is told.
#[test]
fn a_repair_leaves_out_a_dropped_keyspace_as_long_as_anything_says_that_it_was() {
    for rolled in [false, true] {
        leaves_out_what_was_dropped(rolled);
    }
}

fn leaves_out_what_was_dropped(rolled: bool) {
    let want = owned(&[("day", &["of the second"]), ("default", &["k"])]);
    let (env, tables) = with_remains(rolled);
    assert!(tables > 0);
    let report = check(&env, Path::new(DIR), &mut |_| ()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    let repaired = repair(&env, Path::new(DIR), Path::new("believed"), &mut |_| ()).unwrap();
    assert!(repaired.lost.is_empty() && repaired.tables == 0, "{repaired:?}");
    assert_eq!(content(&env, "believed"), want);

    env.remove(&Path::new(DIR).join("CURRENT")).unwrap();
    let repaired = repair(&env, Path::new(DIR), Path::new("read"), &mut |_| ()).unwrap();
    assert!(repaired.lost.iter().all(|lost| lost.path.ends_with("CURRENT")), "{repaired:?}");
    assert_eq!(content(&env, "read"), want);

    for name in files(&env, "manifest-") {
        env.remove(&Path::new(DIR).join(name)).unwrap();
    }
    let repaired = repair(&env, Path::new(DIR), Path::new("guessed"), &mut |_| ()).unwrap();
    let told = repaired.lost[0].to_string();
    assert!(
        told.contains("any keys of any keyspace may be missing, older than they were, or back after a delete"),
        "{told}"
    );
    let back: Vec<Vec<String>> = content(&env, "guessed").into_iter().map(|(_, keys)| keys).collect();
    assert_eq!(back, [&["k"][..], &["flushed", "logged"], &["of the second"]]);
}
