//! Commit, flush, stall and shutdown under two kinds of schedules: drawn at every call, and by
//! priorities that change a few times.
//!
//! A schedule that leaves somebody waiting for ever ends as a report of who waits for what; one that
//! loses something shows after the reopening. That the tests would notice a mistake in the waits is
//! shown by planting one: of the engine's own wakes one is lost, each in its turn.
//! `CAIRN_SEED=n` replays from a seed, `CAIRN_PROOF_SECONDS=n` takes further ones for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use cairn::{CompactionStyle, Db, Durability, Env, ErrorKind, Options};
use cairn_env::sync::Thread;
use cairn_env::{Run, SimDisk};
use common::{Random, rounds, tiny};

const DIR: &str = "db";

/// How a schedule chooses.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Drawn,
    Priorities,
}

impl Kind {
    fn env(self, seed: u64) -> Env {
        let disk = SimDisk::with_seed(seed);
        match self {
            Kind::Drawn => Env::simulated(seed, disk),
            Kind::Priorities => Env::simulated_by_priorities(seed, disk),
        }
    }
}

/// Keys that were acknowledged; each is written once.
type Acknowledged = Arc<Mutex<Vec<Vec<u8>>>>;

/// Writes keys of its own, in three ways, until done or closed.
fn writer(env: &Env, db: &Db, seed: u64, number: u8, writes: u8, value: usize, acknowledged: &Acknowledged) -> Thread {
    let (db, acknowledged) = (db.clone(), acknowledged.clone());
    let mut random = Random::new(seed ^ u64::from(number) << 32);
    let body = move || {
        for i in 0..writes {
            let key = vec![number, i];
            let durability = if random.chance(3) { Durability::Buffered } else { Durability::Commit };
            let mut batch = db.batch();
            batch.put(&db.default_keyspace(), &key, &vec![i; value]);
            let outcome = if random.chance(3) {
                db.submit(batch, durability).and_then(cairn::Ticket::wait)
            } else {
                db.write(batch, durability)
            };
            match outcome {
                Ok(_) => acknowledged.lock().unwrap().push(key),
                Err(e) if matches!(e.kind(), ErrorKind::Busy) => {}
                Err(e) if matches!(e.kind(), ErrorKind::Closed | ErrorKind::Unknown) => return,
                Err(e) => panic!("{e}"),
            }
        }
    };
    env.spawn("writer", body).unwrap()
}

/// A scene: what threads do with a database, of which the caller keeps the last handle.
type Scene = fn(&Env, &Db, u64, &Acknowledged);

fn commit(env: &Env, db: &Db, seed: u64, acknowledged: &Acknowledged) {
    let writers: Vec<_> = (0..3).map(|i| writer(env, db, seed, i, 6, 20, acknowledged)).collect();
    let syncer = {
        let db = db.clone();
        env.spawn("syncer", move || db.sync().unwrap()).unwrap()
    };
    assert!(writers.into_iter().chain([syncer]).all(Thread::join));
}

fn flush(env: &Env, db: &Db, seed: u64, acknowledged: &Acknowledged) {
    let writers: Vec<_> = (0..2).map(|i| writer(env, db, seed, i, 12, 900, acknowledged)).collect();
    let others: Vec<_> = (0..2)
        .map(|i| {
            let db = db.clone();
            let body = move || {
                let iter = db.iter();
                db.flush().unwrap();
                if i == 0 {
                    db.compact().unwrap();
                }
                let keys: Vec<Vec<u8>> = iter.map(|entry| entry.unwrap().0).collect();
                assert!(keys.is_sorted());
            };
            env.spawn("flusher", body).unwrap()
        })
        .collect();
    assert!(writers.into_iter().chain(others).all(Thread::join));
}

fn stall(env: &Env, db: &Db, seed: u64, acknowledged: &Acknowledged) {
    let writers: Vec<_> = (0..2).map(|i| writer(env, db, seed, i, 40, 2_000, acknowledged)).collect();
    assert!(writers.into_iter().all(Thread::join));
}

fn shutdown(env: &Env, db: &Db, seed: u64, acknowledged: &Acknowledged) {
    let writers: Vec<_> = (0..2).map(|i| writer(env, db, seed, i, 20, 700, acknowledged)).collect();
    for _ in 0..seed % 50 {
        env.now();
    }
    let _ = db.clone().close();
    assert!(writers.into_iter().all(Thread::join));
}

const SCENES: [(&str, Scene); 4] = [("commit", commit), ("flush", flush), ("stall", stall), ("shutdown", shutdown)];

fn options(seed: u64) -> Options {
    let small = Options { log_bytes_max: 32 << 10, memtable_bytes_max: 4 << 10, ..tiny() };
    if seed % 2 == 0 { small } else { Options { compaction: CompactionStyle::EveryUpdates(10), ..small } }
}

/// Plays a scene, closes, opens again, and looks for everything that was acknowledged.
fn play(env: &Env, scene: Scene, seed: u64) -> Run<u64> {
    let acknowledged = Acknowledged::default();
    env.run(|| {
        let db = Db::open_in(env, DIR, options(seed)).unwrap();
        scene(env, &db, seed, &acknowledged);
        match db.close() {
            Err(e) if e.kind() != ErrorKind::Closed => panic!("{e}"),
            _ => {}
        }
        let db = Db::open_in(env, DIR, options(seed)).unwrap();
        let acknowledged = acknowledged.lock().unwrap().clone();
        for key in &acknowledged {
            assert!(db.get(key).unwrap().is_some(), "{key:?} was acknowledged and is gone");
        }
        db.close().unwrap();
        acknowledged.len() as u64
    })
}

#[test]
fn every_scene_ends_and_keeps_what_it_acknowledged() {
    for (name, scene) in SCENES {
        let (mut schedules, mut traces, mut acknowledged) = (0, std::collections::BTreeSet::new(), 0);
        for seed in rounds(40, 5) {
            for kind in [Kind::Drawn, Kind::Priorities] {
                let here = common::Scene::set(format!("CAIRN_SEED={seed}, {name}, {kind:?}"));
                let run = play(&kind.env(seed), scene, seed);
                assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
                schedules += 1;
                traces.insert(run.trace_hash);
                acknowledged += run.value;
                drop(here);
            }
        }
        assert!(acknowledged > 0);
        println!("proof: schedules of {name}, drawn and by priorities = {schedules}");
        println!("proof: different ones of {name} = {}", traces.len());
    }
}

/// The engine's own wakes, one lost in each run. Not each loss matters: others may wake the same
/// thread, and a condition may wake without a reason. Of those that do, the report says who waits.
#[test]
fn a_lost_wake_of_the_engine_is_found() {
    let (mut planted, mut found) = (0_u64, 0_u64);
    for seed in rounds(50, 5) {
        for kind in [Kind::Drawn, Kind::Priorities] {
            for (_, scene) in SCENES {
                let env = kind.env(seed);
                env.lose_wake(1 + Random::new(seed).below(40));
                let outcome = catch_unwind(AssertUnwindSafe(|| play(&env, scene, seed)));
                planted += 1;
                found += u64::from(match outcome {
                    Ok(run) => !run.unfinished.is_empty(),
                    Err(payload) => {
                        payload.downcast_ref::<String>().is_some_and(|text| text.contains("every thread waits"))
                    }
                });
            }
        }
    }
    assert!(found > 0, "none of {planted} planted losses was found");
    println!("proof: lost wakes planted in the engine = {planted}");
    println!("proof: of these found as threads that wait for ever = {found}");
}
