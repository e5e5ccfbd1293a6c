//! Nobody waits for ever, and nobody is refused for ever.
//!
//! Each test is an interleaving or a load after which a caller once had no way on. Simulated
//! schedules report who still waits at the end. `CAIRN_SEED=n` replays from a seed,
//! `CAIRN_PROOF_SECONDS=n` takes further ones for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use cairn::{Db, Durability, Env, ErrorKind, Options, SeqNo, Visibility};
use cairn_env::{CrashPolicy, Fault, FaultKind, Op, SimDisk};
use common::{base_seed, rounds, tiny};

const DIR: &str = "db";

/// Waits until a write is taken, for at most a minute.
fn put_in_time(env: &Env, db: &Db) -> cairn::Result<()> {
    let (mutex, condvar) = (env.mutex(()), env.condvar());
    for _ in 0..600 {
        match db.put(b"after", b"it") {
            Err(e) if e.kind() == ErrorKind::Busy => drop(condvar.wait_for(mutex.lock(), Duration::from_millis(100))),
            result => return result.map(drop),
        }
    }
    db.put(b"after", b"it").map(drop)
}

#[test]
fn a_batch_that_outgrows_the_budget_in_memory_is_flushed() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk);
    let run = env.run(|| {
        let options = Options { memory_budget_bytes: 4 << 20, ..Options::default() };
        let db = Db::open_in(&env, DIR, options).unwrap();
        let mut batch = db.batch();
        for i in 0..100_000u32 {
            batch.put(&db.default_keyspace(), &i.wrapping_mul(0x9e37_79b1).to_be_bytes(), b"");
        }
        db.write(batch, Durability::Commit).unwrap();
        let held = db.stats().get("memory_memtables_bytes").unwrap();
        assert!(held > 4 << 20, "{held} bytes fit into the budget");
        put_in_time(&env, &db).unwrap();
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

#[test]
fn a_batch_over_many_keyspaces_is_flushed() {
    let env = Env::simulated(base_seed(), SimDisk::new());
    let run = env.run(|| {
        let options = Options { memory_budget_bytes: 4 << 20, ..Options::default() };
        let db = Db::open_in(&env, DIR, options).unwrap();
        let mut batch = db.batch();
        for i in 0..1_200 {
            batch.put(&db.keyspace(&format!("k{i}")).unwrap(), b"key", b"value");
        }
        db.write(batch, Durability::Commit).unwrap();
        let held = db.stats().get("memory_memtables_bytes").unwrap();
        assert!(held > 4 << 20, "{held} bytes fit into the budget");
        put_in_time(&env, &db).unwrap();
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

/// How many syncs of the log one call of `sync` took while another thread wrote.
fn syncs_of_one_call(seed: u64) -> u64 {
    let env = Env::simulated(seed, SimDisk::with_seed(seed));
    let run = env.run(|| {
        let options = Options { durability: Durability::Buffered, ..Options::default() };
        let db = Db::open_in(&env, DIR, options).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (db, stop) = (db.clone(), stop.clone());
            env.spawn("writer", move || {
                while !stop.load(Ordering::Relaxed) {
                    db.put(b"k", b"v").unwrap();
                }
            })
            .unwrap()
        };
        db.put(b"mine", b"v").unwrap();
        let before = db.stats().get("log_syncs_count").unwrap();
        db.sync().unwrap();
        let syncs = db.stats().get("log_syncs_count").unwrap() - before;
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join());
        db.close().unwrap();
        syncs
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    run.value
}

#[test]
fn one_sync_covers_what_was_written_before_it_however_much_follows() {
    let mut schedules = 0;
    for seed in rounds(100, 5) {
        schedules += 1;
        let syncs = syncs_of_one_call(seed);
        assert!(syncs <= 1, "CAIRN_SEED={seed}: {syncs} syncs");
    }
    println!("proof: schedules of a sync among writers = {schedules}");
}

#[test]
fn a_write_whose_sync_fails_while_another_handle_closes_ends() {
    let mut schedules = 0;
    let mut told = 0;
    for seed in rounds(150, 5) {
        schedules += 1;
        let disk = SimDisk::with_seed(seed);
        let env = Env::simulated(seed, disk.clone());
        let run = env.run(|| {
            let db = Db::open_in(&env, DIR, Options::default()).unwrap();
            disk.inject(Fault::new(FaultKind::Eio).on(Op::Sync).file(".wal").forever());
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    let db = db.clone();
                    env.spawn("writer", move || drop(db.put(b"k", b"v").unwrap_err())).unwrap()
                })
                .collect();
            for _ in 0..seed % 4 {
                env.list(DIR.as_ref()).unwrap();
            }
            let closed = db.close();
            assert!(writers.into_iter().all(cairn_env::sync::Thread::join));
            closed.is_err()
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
        told += u64::from(run.value);
    }
    assert!(told > 0, "no close met the failure");
    println!("proof: schedules of a failed sync and a close = {schedules}");
}

/// Runs `work` on a database in a seeded schedule and says how long it took there. Whoever still waits
/// after a minute is ended by a close, which wakes everybody.
fn time_of(seed: u64, work: impl FnOnce(&Env, &Db)) -> Duration {
    time_on(seed, SimDisk::with_seed(seed), work)
}

/// The same, on a disk.
fn time_on(seed: u64, disk: SimDisk, work: impl FnOnce(&Env, &Db)) -> Duration {
    let env = Env::simulated(seed, disk);
    let run = env.run(|| {
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        let ended = Arc::new((env.mutex(false), env.condvar()));
        let watcher = {
            let (db, ended) = (db.clone(), ended.clone());
            env.spawn("watcher", move || {
                let mut done = ended.0.lock();
                while !*done {
                    let (again, timed_out) = ended.1.wait_for(done, Duration::from_secs(60));
                    done = again;
                    if timed_out {
                        break;
                    }
                }
                drop(done);
                // After a failure on purpose it has one to tell.
                let _ = db.close();
            })
            .unwrap()
        };
        let began = env.now();
        work(&env, &db);
        let took = env.now() - began;
        *ended.0.lock() = true;
        ended.1.notify_all();
        assert!(watcher.join());
        took
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    run.value
}

/// Whoever waits while another leads or syncs for him is told when that is over.
#[test]
fn writers_that_others_lead_or_sync_for_do_not_oversleep() {
    let first = base_seed();
    for seed in first..first + 40 {
        let took = time_of(seed, |env, db| {
            let writers: Vec<_> = (0..5u8)
                .map(|writer| {
                    let db = db.clone();
                    let durability = if seed % 2 == 0 { Durability::Buffered } else { Durability::Commit };
                    let write = move || {
                        for _ in 0..3 {
                            let mut batch = db.batch();
                            batch.put(&db.default_keyspace(), &[writer], b"v");
                            db.write(batch, durability).unwrap();
                        }
                    };
                    env.spawn("writer", write).unwrap()
                })
                .collect();
            assert!(writers.into_iter().all(cairn_env::sync::Thread::join));
        });
        assert!(took < Duration::from_secs(1), "CAIRN_SEED={seed}: it took {took:?}");
    }
}

#[test]
fn a_submitted_batch_is_written_though_nobody_waits_for_it() {
    let first = base_seed();
    for seed in first..first + 20 {
        let took = time_of(seed, |env, db| {
            let mut batch = db.batch();
            batch.put(&db.default_keyspace(), b"k", b"v");
            drop(db.submit(batch, Durability::Commit).unwrap());
            let (mutex, condvar) = (env.mutex(()), env.condvar());
            while db.stats().get("durable_seq") != Some(1) {
                drop(condvar.wait_for(mutex.lock(), Duration::from_millis(10)));
                assert!(env.now() < Duration::from_secs(50), "CAIRN_SEED={seed}: never written");
            }
        });
        assert!(took < Duration::from_secs(1), "CAIRN_SEED={seed}: it took {took:?}");
    }
}

#[test]
fn who_waits_for_a_flush_is_told_of_its_end() {
    let first = base_seed();
    for seed in first..first + 20 {
        let took = time_of(seed, |_, db| {
            db.put(b"k", b"v").unwrap();
            db.flush().unwrap();
        });
        assert!(took < Duration::from_secs(1), "CAIRN_SEED={seed}: it took {took:?}");
    }
}

/// Wakes who waits on a condition of the environment.
struct Bell {
    rung: cairn_env::sync::Mutex<bool>,
    changed: cairn_env::sync::Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }
}

/// Polls a future to its end, as an executor does that has nothing else to do.
fn block_on<F: Future>(env: &Env, future: F) -> F::Output {
    let bell = Arc::new(Bell { rung: env.mutex(false), changed: env.condvar() });
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rung = bell.rung.lock();
        while !std::mem::take(&mut *rung) {
            rung = bell.changed.wait(rung);
        }
    }
}

/// A batch is written without waiting for its sync; its ticket, taken afterwards, resolves when a power cut
/// cannot take it any more, whether somebody waits for it, polls it, or helps before.
#[test]
fn what_is_applied_has_a_ticket_that_resolves_once_it_is_durable() {
    let mut schedules = 0;
    for seed in rounds(100, 5) {
        schedules += 1;
        let disk = SimDisk::with_seed(seed);
        let env = Env::simulated(seed, disk.clone());
        let run = env.run(|| {
            let db = Db::open_in(&env, DIR, tiny()).unwrap();
            let writer = |name: u8| {
                let (env, db, disk) = (env.clone(), db.clone(), disk.clone());
                move || {
                    let mut images = Vec::new();
                    for round in 0..4 {
                        let mut batch = db.batch();
                        batch.put(&db.default_keyspace(), &[name, round], b"v");
                        let seq = db.write(batch, Durability::Buffered).unwrap().seq;
                        let ticket = db.durable(seq).unwrap();
                        if name == 1 {
                            ticket.help();
                        }
                        let commit = if name == 0 { ticket.wait() } else { block_on(&env, ticket) };
                        assert_eq!(commit.unwrap().seq, seq);
                        assert!(db.snapshot_at(Visibility::Durable).seq() >= seq);
                        images.push(([name, round], disk.crash(CrashPolicy::DropAll)));
                    }
                    images
                }
            };
            let told = Arc::new(env.mutex(Vec::new()));
            let threads: Vec<_> = (0..3)
                .map(|name| {
                    let (work, told) = (writer(name), told.clone());
                    env.spawn("writer", move || {
                        let images = work();
                        told.lock().extend(images);
                    })
                    .unwrap()
                })
                .collect();
            assert!(threads.into_iter().all(cairn_env::sync::Thread::join));
            let error = db.durable(SeqNo(1_000)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            db.clone().close().unwrap();
            assert_eq!(db.durable(SeqNo(1)).unwrap_err().kind(), ErrorKind::Closed);
            std::mem::take(&mut *told.lock())
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
        for (key, image) in run.value {
            let db = Db::open_in(&Env::on_disk(image), DIR, tiny()).unwrap();
            assert!(db.get(&key).unwrap().is_some(), "CAIRN_SEED={seed}: {key:?} is gone");
        }
    }
    println!("proof: schedules of tickets for what is applied = {schedules}");
}

/// The compaction of one keyspace failed again and again (a table of its could not be read). It had most tables
/// in level 0, so it was always tried first, and nothing else was ever compacted: a writer of
/// another keyspace waited for its turn without end.
#[test]
fn a_keyspace_whose_compaction_fails_does_not_hold_up_the_others() {
    for seed in base_seed()..base_seed() + 10 {
        let disk = SimDisk::with_seed(seed);
        let took = time_on(seed, disk.clone(), |_, db| {
            let (broken, sound) = (db.keyspace("broken").unwrap(), db.keyspace("sound").unwrap());
            broken.put(b"key", &[1; 1000]).unwrap();
            db.flush().unwrap();
            let files = Env::on_disk(disk.kill()).list(DIR.as_ref()).unwrap();
            let table = files.iter().find(|file| file.name.ends_with(".sst")).unwrap();
            disk.inject(Fault::new(FaultKind::Eio).on(Op::Read).file(&table.name).forever());
            for _ in 0..40 {
                broken.put(b"key", &[1; 1000]).unwrap();
                db.flush().unwrap();
            }
            for i in 0..30_u32 {
                sound.put(&i.to_be_bytes(), &[2; 1000]).unwrap();
                db.flush().unwrap();
            }
            for i in 0..100_u32 {
                sound.put(&i.to_be_bytes(), &[3; 1000]).unwrap();
            }
            // Who must wait for the broken one itself does not wait without end either.
            let refused = (0..100_u32).find_map(|i| broken.put(&i.to_be_bytes(), &[4; 1000]).err());
            assert_eq!(refused.map(|e| e.kind()), Some(ErrorKind::Closed), "CAIRN_SEED={seed}");
        });
        assert!(took < Duration::from_secs(30), "CAIRN_SEED={seed}: it took {took:?}");
    }
}

struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[test]
fn a_leader_that_panics_does_not_keep_the_database_from_closing() {
    let mut schedules = 0;
    let mut panicked = 0;
    for seed in rounds(50, 5) {
        schedules += 1;
        let env = Env::simulated(seed, SimDisk::with_seed(seed));
        let run = env.run(|| {
            let db = Db::open_in(&env, DIR, tiny()).unwrap();
            db.put(b"k", b"v").unwrap();
            let mut batch = db.batch();
            batch.require_unchanged(&db.default_keyspace(), b"k", SeqNo(0));
            let ticket = db.submit(batch, Durability::Commit).unwrap();
            let waker = Waker::from(Arc::new(PanickingWaker));
            {
                let mut ticket = pin!(ticket);
                if let Poll::Ready(outcome) = ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
                    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Conflict);
                }
            }
            drop(db);
        });
        assert_eq!(run.unfinished, Vec::<String>::new(), "CAIRN_SEED={seed}");
        panicked += run.panicked.len();
    }
    assert!(panicked > 0, "no leader woke the waker");
    println!("proof: schedules of a leader that panics = {schedules}");
}

#[test]
fn options_with_which_a_background_thread_could_not_go_on_are_refused() {
    let env = Env::memory();
    let all = [
        Options { filter_probes: Some(0), ..Options::default() },
        Options { filter_probes: Some(17), ..Options::default() },
        Options { sync_interval: Some(Duration::ZERO), ..Options::default() },
        Options { sync_interval: Some(Duration::MAX), ..Options::default() },
    ];
    for options in all {
        let opened = Db::open_in(&env, DIR, options.clone());
        assert_eq!(opened.map_err(|e| e.kind()).err(), Some(ErrorKind::Invalid), "{options:?}");
    }
}

/// A flush or a compaction that a close interrupts gives up, and the thread ends then and there.
///
/// The story: it took the interruption for a failure to try again, and slept for a second although
/// the call to end had come and gone.
#[test]
fn a_close_does_not_wait_out_the_job_it_interrupts() {
    let mut schedules = 0;
    for seed in rounds(60, 5) {
        schedules += 1;
        let env = Env::simulated(seed, SimDisk::with_seed(seed));
        let took = env
            .run(|| {
                let db = Db::open_in(&env, "db", tiny()).unwrap();
                for i in 0..200_u32 {
                    let mut batch = db.batch();
                    batch.put(&db.default_keyspace(), &i.to_be_bytes(), &[7; 300]);
                    db.write(batch, Durability::Buffered).unwrap();
                }
                let began = env.now();
                db.close().unwrap();
                env.now() - began
            })
            .value;
        assert!(took < Duration::from_millis(900), "CAIRN_SEED={seed}: the close took {took:?}");
    }
    println!("proof: schedules of a close amid a flush = {schedules}");
}
