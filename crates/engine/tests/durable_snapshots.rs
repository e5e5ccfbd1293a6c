//! A snapshot of the durable sees its moment, whatever a flush does meanwhile.
//!
//! The story: a flush asked for the registered snapshots, then wrote its tables, then synced the
//! log. A snapshot of the durable that was taken in between had a number older than what the
//! memtable held, and the flush, which did not know of it, dropped the version that it needed.
//! `CAIRN_SEED=n` replays a schedule, `CAIRN_PROOF_SECONDS=n` takes further ones for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use cairn::{Db, Durability, Env, Options, Visibility};
use cairn_env::SimDisk;
use common::rounds;

fn put(db: &Db, value: &[u8], durability: Durability) {
    let mut batch = db.batch();
    batch.put(&db.default_keyspace(), b"k", value);
    db.write(batch, durability).unwrap();
}

/// The number of the snapshot, and what it sees before and after the flush.
fn race(seed: u64) -> (u64, [Option<Vec<u8>>; 2]) {
    let env = Env::simulated(seed, SimDisk::with_seed(seed));
    env.run(|| {
        let db = Db::open_in(&env, "db", Options::default()).unwrap();
        put(&db, b"1", Durability::Commit);
        put(&db, b"2", Durability::Buffered);
        let flush = {
            let db = db.clone();
            env.spawn("flush", move || db.flush().unwrap()).unwrap()
        };
        // Anywhere from before the flush to after it.
        for _ in 0..seed % 30 {
            env.list("db".as_ref()).unwrap();
        }
        let snapshot = db.snapshot_at(Visibility::Durable);
        let reader = db.default_keyspace().at(&snapshot).unwrap();
        let before = reader.get(b"k").unwrap();
        assert!(flush.join());
        let after = reader.get(b"k").unwrap();
        (snapshot.seq().0, [before, after])
    })
    .value
}

#[test]
fn a_snapshot_of_the_durable_keeps_its_version_through_a_flush() {
    let mut taken = [0, 0];
    for seed in rounds(600, 1) {
        let (seq, seen) = race(seed);
        let want = Some(seq.to_string().into_bytes());
        assert_eq!(seen, [want.clone(), want], "CAIRN_SEED={seed}: the snapshot has number {seq}");
        taken[usize::from(seq == 2)] += 1;
    }
    assert!(taken.iter().all(|&count| count > 0), "no race: {} before the sync, {} after it", taken[0], taken[1]);
    println!("proof: schedules of a snapshot and a flush = {}", taken[0] + taken[1]);
}
