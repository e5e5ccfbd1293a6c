//! Real threads on everything that they share: memtable, cache, catalog, commit, flush, compaction,
//! iterators, snapshots, removal of files.
//!
//! A plain run says little: the machine's own order hides what is missing, and few interleavings
//! come up. Under ThreadSanitizer (`cargo xtask prove --only 'thread sanitizer'`) every access that
//! nothing orders is reported, whether it did harm or not. `CAIRN_PROOF_SECONDS=n` goes on for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cairn::{Db, Durability, Env, ErrorKind, Options, Visibility};
use common::{Random, rounds, tiny};

const WRITERS: u64 = 2;
const READERS: u64 = 2;
const WRITES: u64 = 1_500;
const KEYS: u64 = 150;

/// A writer's own keys: `writer, key`; the value says which write it was.
fn key(writer: u64, key: u64) -> [u8; 3] {
    [writer as u8, (key >> 4) as u8, key as u8]
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.first_chunk::<8>().copied().unwrap())
}

#[derive(Default)]
struct Counts {
    writes: AtomicU64,
    reads: AtomicU64,
    entries: AtomicU64,
}

fn write(db: &Db, writer: u64, seed: u64, counts: &Counts) {
    let mut random = Random::new(seed ^ writer);
    let keyspace = db.default_keyspace();
    let mut step = 1;
    while step <= WRITES {
        let durability = if step % 16 == 0 { Durability::Commit } else { Durability::Buffered };
        let mut batch = db.batch();
        // Two keys of one batch always show the same number.
        let at = random.below(KEYS / 2) * 2;
        for key in [key(writer, at), key(writer, at + 1)] {
            let mut value = step.to_le_bytes().to_vec();
            value.resize(8 + random.below(120) as usize, 7);
            batch.put(&keyspace, &key, &value);
        }
        match db.write(batch, durability) {
            Ok(_) => {
                step += 1;
                counts.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) if e.kind() == ErrorKind::Busy => {}
            Err(e) => panic!("{e}"),
        }
    }
}

fn read(db: &Db, reader: u64, seed: u64, stop: &AtomicBool, counts: &Counts) {
    let mut random = Random::new(seed ^ reader << 32);
    let keyspace = db.default_keyspace();
    let mut newest = vec![0; (WRITERS * KEYS) as usize];
    while !stop.load(Ordering::Relaxed) {
        let (writer, at) = (random.below(WRITERS), random.below(KEYS));
        match random.below(8) {
            0 => {
                let snapshot = db.snapshot();
                let reader = keyspace.at(&snapshot).unwrap();
                let pair = [at & !1, at | 1].map(|at| reader.get_with(&key(writer, at), number).unwrap());
                assert_eq!(pair[0], pair[1], "a batch is seen whole");
            }
            1 => {
                let mut last = None;
                for entry in keyspace.range(key(writer, 0)..key(writer, KEYS)) {
                    let (key, value) = entry.unwrap();
                    assert!(last.is_none_or(|last| last < key) && number(&value) <= WRITES);
                    last = Some(key);
                    counts.entries.fetch_add(1, Ordering::Relaxed);
                }
            }
            2 => {
                let pinned = keyspace.get_pinned(&key(writer, at)).unwrap();
                db.stats();
                assert!(pinned.is_none_or(|value| number(&value) <= WRITES));
            }
            _ => {
                let visibility = if random.chance(2) { Visibility::Applied } else { Visibility::Durable };
                let found = keyspace.latest(visibility).get_with(&key(writer, at), number).unwrap().unwrap_or(0);
                if visibility == Visibility::Applied {
                    let seen = &mut newest[(writer * KEYS + at) as usize];
                    assert!(found >= *seen, "a read goes back from {seen} to {found}");
                    *seen = found;
                }
            }
        }
        counts.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one thread does.
type Work = Box<dyn FnOnce(&Db, &AtomicBool, &Counts) + Send>;

/// Writers, readers, and one that flushes, compacts and opens keyspaces between them.
fn round(seed: u64, counts: &Arc<Counts>) {
    let env = Env::memory();
    let options = Options { memtable_bytes_max: 32 << 10, log_bytes_max: 256 << 10, ..tiny() };
    let db = Db::open_in(&env, "db", options).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let spawn = |name: &str, body: Work| {
        let (db, stop, counts) = (db.clone(), stop.clone(), counts.clone());
        env.spawn(name, move || body(&db, &stop, &counts)).unwrap()
    };
    let writers: Vec<_> =
        (0..WRITERS).map(|i| spawn("writer", Box::new(move |db, _, counts| write(db, i, seed, counts)))).collect();
    let mut others: Vec<_> = (0..READERS)
        .map(|i| spawn("reader", Box::new(move |db, stop, counts| read(db, i, seed, stop, counts))))
        .collect();
    others.push(spawn(
        "maintainer",
        Box::new(move |db, stop, _| {
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                db.flush().unwrap();
                let keyspace = db.keyspace(&format!("k{}", i % 70)).unwrap();
                let put = keyspace.put(b"k", b"v");
                assert!(put.is_ok() || put.is_err_and(|e| e.kind() == ErrorKind::Busy));
                if i % 4 == 0 {
                    db.compact().unwrap();
                }
            }
        }),
    ));
    assert!(writers.into_iter().all(cairn_env::sync::Thread::join), "a writer panicked");
    stop.store(true, Ordering::Relaxed);
    assert!(others.into_iter().all(cairn_env::sync::Thread::join), "another thread panicked");
    // A ticket that nobody waits for, then the end.
    let mut batch = db.batch();
    batch.delete(&db.default_keyspace(), &key(0, 0));
    let ticket = db.submit(batch, Durability::Commit).unwrap();
    db.close().unwrap();
    drop(ticket);
}

#[test]
fn threads_on_everything_that_they_share() {
    let counts = Arc::new(Counts::default());
    let mut count = 0;
    for seed in rounds(2, 1) {
        round(seed, &counts);
        count += 1;
    }
    println!("proof: rounds of real threads = {count}");
    println!(
        "proof: batches, reads, entries of iterators = {} {} {}",
        counts.writes.load(Ordering::Relaxed),
        counts.reads.load(Ordering::Relaxed),
        counts.entries.load(Ordering::Relaxed)
    );
}
