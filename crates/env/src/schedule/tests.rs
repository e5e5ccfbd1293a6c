//! The seeded schedule: what it promises, and the reports of what goes wrong.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::sync::{Condvar, Mutex, Thread};
use crate::{CrashPolicy, Env, Run, SimDisk};

fn simulated(seed: u64) -> Env {
    Env::simulated(seed, SimDisk::new())
}

/// The message of the panic that ends this run.
fn failure(env: &Env, body: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(|| env.run(body))).err()?;
    Some(match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().expect("a text")).to_owned(),
    })
}

/// Starts threads of one body and joins them.
fn all(env: &Env, count: u64, body: impl Fn(u64) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let start = |i| {
        let body = body.clone();
        env.spawn(&format!("worker-{i}"), move || body(i)).unwrap()
    };
    let threads: Vec<Thread> = (0..count).map(start).collect();
    assert!(threads.into_iter().all(Thread::join));
}

/// A flag and its condition.
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn new(env: &Env) -> Arc<Gate> {
        Arc::new(Gate { open: env.mutex(false), changed: env.condvar() })
    }
    fn open(&self) {
        *self.open.lock() = true;
        self.changed.notify_all();
    }
    fn pass(&self) {
        let mut open = self.open.lock();
        while !*open {
            open = self.changed.wait(open);
        }
    }
}

/// Counts up in two steps with a call between them: exact only if nobody comes between.
fn count_up(env: &Env, counter: &AtomicU64) {
    let seen = counter.load(Ordering::Relaxed);
    env.now();
    counter.store(seen + 1, Ordering::Relaxed);
}

#[test]
fn a_lock_keeps_others_out_in_every_schedule() {
    for seed in 0..100 {
        let env = simulated(seed);
        let counter = Arc::new(AtomicU64::new(0));
        env.run(|| {
            let lock = env.mutex(());
            let (env_of_thread, counter) = (env.clone(), counter.clone());
            all(&env, 3, move |_| {
                for _ in 0..5 {
                    let _guard = lock.lock();
                    count_up(&env_of_thread, &counter);
                }
            });
        });
        assert_eq!(counter.load(Ordering::Relaxed), 15, "seed {seed}");
    }
}

#[test]
fn without_the_lock_some_schedules_lose_updates() {
    let counts = (0..100).map(|seed| {
        let env = simulated(seed);
        let counter = Arc::new(AtomicU64::new(0));
        env.run(|| {
            let (env_of_thread, counter) = (env.clone(), counter.clone());
            all(&env, 3, move |_| count_up(&env_of_thread, &counter));
        });
        counter.load(Ordering::Relaxed)
    });
    assert_eq!(counts.collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
}

/// Threads, locks, conditions, timers, files, random numbers: a bit of everything.
fn busy(seed: u64) -> Run<Vec<u64>> {
    let env = simulated(seed);
    env.run(|| {
        let order = Arc::new(env.mutex(Vec::new()));
        let gate = Gate::new(&env);
        let (e, o, g) = (env.clone(), order.clone(), gate.clone());
        let opener = env.spawn("opener", move || g.open()).unwrap();
        all(&env, 3, move |i| {
            let file = e.create(Path::new(&format!("/{i}"))).unwrap();
            file.write_all_at(&e.random_u64().to_le_bytes(), 0).unwrap();
            gate.pass();
            let guard = o.lock();
            let (mut guard, _) = e.condvar().wait_for(guard, Duration::from_micros(i * 3));
            guard.push(i);
        });
        assert!(opener.join());
        order.lock().clone()
    })
}

#[test]
fn one_seed_is_one_trace() {
    let mut hashes = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for seed in 0..150 {
        let (once, again) = (busy(seed), busy(seed));
        assert_eq!(once.value, again.value, "seed {seed}");
        assert_eq!(once.trace_hash, again.trace_hash, "seed {seed}");
        assert_eq!((once.points, once.switches, once.now), (again.points, again.switches, again.now));
        hashes.insert(once.trace_hash);
        orders.insert(once.value);
    }
    assert_eq!(hashes.len(), 150);
    assert_eq!(orders.len(), 6, "all orders of three threads are seen");
}

#[test]
fn timers_run_in_simulated_time() {
    let env = simulated(3);
    let started = std::time::Instant::now();
    let run = env.run(|| {
        let order = Arc::new(env.mutex(Vec::new()));
        let (e, o) = (env.clone(), order.clone());
        all(&env, 3, move |i| {
            let (lock, signal) = (e.mutex(()), e.condvar());
            let deadline = e.now() + Duration::from_secs(3600 * (3 - i));
            let mut guard = lock.lock();
            while e.now() < deadline {
                guard = signal.wait_for(guard, deadline.saturating_sub(e.now())).0;
            }
            o.lock().push(i);
        });
        order.lock().clone()
    });
    assert_eq!(run.value, [2, 1, 0]);
    assert!(run.now >= Duration::from_secs(3 * 3600) && run.now < Duration::from_secs(3 * 3600 + 60));
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(env.unix_time_ms() - crate::SIMULATED_EPOCH_MS, u64::try_from(env.now().as_millis()).unwrap());
}

#[test]
fn a_timed_wait_says_whether_time_ran_out() {
    for seed in 0..50 {
        let env = simulated(seed);
        env.run(|| {
            let (lock, signal) = (env.mutex(()), env.condvar());
            let (_guard, timed_out) = signal.wait_for(lock.lock(), Duration::from_millis(1));
            assert!(timed_out || env.now() < Duration::from_millis(1), "woken for no reason, before its time");

            let gate = Gate::new(&env);
            let g = gate.clone();
            let thread = env.spawn("opener", move || g.open()).unwrap();
            let mut open = gate.open.lock();
            while !*open {
                let timed_out;
                (open, timed_out) = gate.changed.wait_for(open, Duration::from_secs(3600));
                assert!(!timed_out, "seed {seed}");
            }
            drop(open);
            assert!(thread.join());
        });
    }
}

#[test]
fn notify_one_wakes_no_more_than_needed_and_no_fewer() {
    for seed in 0..50 {
        let env = simulated(seed);
        env.run(|| {
            let shared = Arc::new((env.mutex(0u32), env.condvar()));
            let s = shared.clone();
            let taker = move |_| {
                let mut tokens = s.0.lock();
                while *tokens == 0 {
                    tokens = s.1.wait(tokens);
                }
                *tokens -= 1;
            };
            let give = shared.clone();
            let giver = env.spawn("giver", move || {
                for _ in 0..4 {
                    *give.0.lock() += 1;
                    give.1.notify_one();
                }
            });
            all(&env, 4, taker);
            assert!(giver.unwrap().join());
            assert_eq!(*shared.0.lock(), 0);
        });
    }
}

/// Two locks taken in two orders.
fn crossed(env: &Env, dropped: &Arc<AtomicU64>) {
    struct Noted(Arc<AtomicU64>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (a, b) = (Arc::new(env.mutex(())), Arc::new(env.mutex(())));
    let (a2, b2, dropped2) = (a.clone(), b.clone(), dropped.clone());
    let thread = env
        .spawn("crossing", move || {
            let _noted = Noted(dropped2);
            let _b = b2.lock();
            let _a = a2.lock();
        })
        .unwrap();
    let _noted = Noted(dropped.clone());
    let a = a.lock();
    let b = b.lock();
    drop((a, b));
    assert!(thread.join());
}

/// A line of a report with its numbers and paths left out.
fn shape(line: &str) -> String {
    let mut shape = line.replace(file!(), "FILE").replace(|c: char| c.is_ascii_digit(), "#");
    while shape.contains("##") {
        shape = shape.replace("##", "#");
    }
    shape
}

#[test]
fn crossed_locks_deadlock_in_some_schedules_and_the_report_says_where() {
    let mut reports = Vec::new();
    for seed in 0..60 {
        let env = simulated(seed);
        let dropped = Arc::new(AtomicU64::new(0));
        reports.extend(failure(&env, || crossed(&env, &dropped)).map(|text| (seed, text)));
        assert_eq!(dropped.load(Ordering::Relaxed), 2, "seed {seed}: both threads were unwound");
        // The environment is usable after that.
        assert_eq!(env.run(|| *env.mutex(1).lock()).value, 1);
    }
    println!("{} of 60", reports.len());
    assert!(!reports.is_empty() && reports.len() < 60);
    let (seed, text) = &reports[0];
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0], format!("simulation of seed {seed}: deadlock, every thread waits"));
    // With the places, so that a reader finds the two lines in question.
    let expected =
        |name, other| format!("  # {name} waits at FILE:#:# for lock # (made at FILE:#:#), held by # {other}");
    assert_eq!(shape(lines[1]), expected("main", "crossing"), "{text}");
    assert_eq!(shape(lines[2]), expected("crossing", "main"), "{text}");
    assert!(lines[1].contains("for lock 2 ") && lines[2].contains("for lock 1 "), "{text}");
    let again = simulated(*seed);
    assert_eq!(failure(&again, || crossed(&again, &Arc::default())).as_ref(), Some(text), "it replays");
}

#[test]
fn a_lock_taken_twice_is_a_deadlock() {
    let env = simulated(1);
    let text = failure(&env, || {
        let lock = env.mutex(());
        let _once = lock.lock();
        let _twice = lock.lock();
    });
    assert!(text.unwrap().contains("held by 0 main"));
}

/// The flag is set without the lock, so that the wake may come between the look and the wait.
fn lose_a_wake(env: &Env) -> Option<String> {
    failure(env, || {
        let shared = Arc::new((env.mutex(()), env.condvar(), AtomicBool::new(false)));
        let s = shared.clone();
        let thread = env.spawn("setter", move || {
            s.2.store(true, Ordering::Relaxed);
            s.1.notify_all();
        });
        let mut guard = shared.0.lock();
        while !shared.2.load(Ordering::Relaxed) {
            guard = shared.1.wait(guard);
        }
        drop(guard);
        assert!(thread.unwrap().join());
    })
}

#[test]
fn a_lost_wake_is_found() {
    let lost = |seed| lose_a_wake(&simulated(seed));
    let found: Vec<u64> = (0..200).filter(|seed| lost(*seed).is_some()).collect();
    println!("seeds {found:?}");
    assert!(!found.is_empty() && found.len() < 100);
    assert!(lost(found[0]).unwrap().contains("for condition 2 (made at "));
}

#[test]
fn a_lost_wake_is_found_by_priorities_too_and_one_seed_is_one_trace() {
    let lost = |seed| lose_a_wake(&Env::simulated_by_priorities(seed, SimDisk::new()));
    let found: Vec<u64> = (0..2_000).filter(|seed| lost(*seed).is_some()).collect();
    println!("seeds {found:?}");
    assert!(!found.is_empty() && found.len() < 1_000);
    assert_eq!(lost(found[0]), lost(found[0]));
    let traces: BTreeSet<u64> = (0..50)
        .map(|seed| {
            let trace = || {
                let env = Env::simulated_by_priorities(seed, SimDisk::new());
                let counter = Arc::new(AtomicU64::new(0));
                let run = env.run(|| {
                    let (env_of_all, counter) = (env.clone(), counter.clone());
                    all(&env, 3, move |_| (0..5).for_each(|_| count_up(&env_of_all, &counter)));
                });
                run.trace_hash
            };
            assert_eq!(trace(), trace(), "seed {seed}");
            trace()
        })
        .collect();
    assert!(traces.len() > 25, "{} traces", traces.len());
}

/// A thread that polls what another is to do gets the turn only so often.
#[test]
fn one_that_polls_does_not_keep_the_others_from_running() {
    for seed in 0..50 {
        let env = Env::simulated_by_priorities(seed, SimDisk::new());
        let done = Arc::new(AtomicBool::new(false));
        let run = env.run(|| {
            let done_there = done.clone();
            let thread = env.spawn("setter", move || done_there.store(true, Ordering::Relaxed)).unwrap();
            while !done.load(Ordering::Relaxed) {
                env.now();
            }
            assert!(thread.join());
        });
        assert!(run.points < 10_000, "seed {seed}: {} calls", run.points);
    }
}

#[test]
fn a_panic_ends_its_thread_alone_and_frees_its_lock() {
    let env = simulated(5);
    let run = env.run(|| {
        let lock = Arc::new(env.mutex(0));
        let l = lock.clone();
        let bad = env.spawn("bad", move || {
            let mut value = l.lock();
            *value = 1;
            panic!("on purpose");
        });
        let l = lock.clone();
        let good = env.spawn("good", move || *l.lock() += 10);
        assert!(!bad.unwrap().join());
        assert!(good.unwrap().join());
        *lock.lock()
    });
    assert_eq!((run.value, run.panicked.as_slice()), (11, &["bad".to_owned()][..]));
    assert!(run.unfinished.is_empty());
}

/// What a database does: a thread works in the background until it is told to stop and joined.
struct Worker {
    stop: Arc<Gate>,
    thread: Option<Thread>,
}

impl Worker {
    fn start(env: &Env) -> Worker {
        let stop = Gate::new(env);
        let gate = stop.clone();
        Worker { stop, thread: Some(env.spawn("background", move || gate.pass()).unwrap()) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.open();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

#[test]
fn a_panic_of_the_body_still_stops_and_joins_what_it_started() {
    for seed in 0..20 {
        let env = simulated(seed);
        let text = failure(&env, || {
            let _worker = Worker::start(&env);
            panic!("on purpose {seed}");
        });
        assert_eq!(text, Some(format!("on purpose {seed}")));
        assert_eq!(env.run(|| drop(Worker::start(&env))).unfinished, [""; 0]);
    }
}

#[test]
fn a_deadlock_with_a_thread_in_its_destructor_is_reported_not_hung() {
    for seed in 0..20 {
        let env = simulated(seed);
        let text = failure(&env, || {
            // Dropped last, while the stuck thread still waits.
            let never = Gate::new(&env);
            let n = never.clone();
            let _stuck = env.spawn("stuck", move || n.pass()).unwrap();
            let _worker = Worker::start(&env);
            never.pass();
        });
        let text = text.unwrap();
        assert!(text.contains("deadlock") && text.contains("1 stuck waits at "), "{text}");
    }
}

#[test]
fn threads_that_outlive_the_run_are_named_and_unwound() {
    for seed in 0..10 {
        let env = simulated(seed);
        let noted = Arc::new(AtomicU64::new(0));
        let run = env.run(|| {
            let (gate, n) = (Gate::new(&env), noted.clone());
            env.spawn("waits", move || {
                let _note = Note(n);
                gate.pass();
            })
            .unwrap();
            let (e, n) = (env.clone(), noted.clone());
            env.spawn("ticks", move || {
                let _note = Note(n);
                let (lock, signal) = (e.mutex(()), e.condvar());
                loop {
                    drop(signal.wait_for(lock.lock(), Duration::from_secs(1)));
                }
            })
            .unwrap();
            let e = env.clone();
            env.spawn("ends", move || assert!(e.now() > Duration::ZERO)).unwrap();
        });
        assert_eq!(run.unfinished, ["waits", "ticks"], "seed {seed}");
        assert_eq!(run.panicked, [""; 0]);
        assert_eq!(noted.load(Ordering::Relaxed), 2, "they unwound before the run returned");
    }
}

struct Note(Arc<AtomicU64>);

impl Drop for Note {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_thread_that_catches_its_unwinding_is_left_behind() {
    let env = simulated(2);
    let e = env.clone();
    let run = env.run(|| {
        env.spawn("stubborn", move || {
            loop {
                let _ = catch_unwind(AssertUnwindSafe(|| e.now()));
            }
        })
        .unwrap()
    });
    assert_eq!(run.unfinished, ["stubborn"]);
    assert!(!run.value.join(), "it never ends");
    assert_eq!(env.run(|| 1).value, 1);
}

/// A crash under load: writers and a syncer see errors and wind down, and the same seed leaves
/// the same disk.
fn crash_under_load(seed: u64, k: u64) -> (u64, bool, Vec<(String, Vec<u8>)>) {
    let disk = SimDisk::with_seed(seed);
    let env = Env::simulated(seed, disk.clone());
    disk.crash_at(k);
    let run = env.run(|| {
        let queue = Arc::new((env.mutex(0u32), env.condvar()));
        let (e, q) = (env.clone(), queue.clone());
        let syncer = env.spawn("syncer", move || -> () {
            let Ok(file) = e.create(Path::new("/log")) else { return q.1.notify_all() };
            let mut done = 0;
            loop {
                let mut wanted = q.0.lock();
                while *wanted == done {
                    wanted = q.1.wait(wanted);
                }
                done = *wanted;
                drop(wanted);
                if done == u32::MAX || file.write_all_at(&[1; 600], u64::from(done) * 600).is_err() {
                    return;
                }
                if file.sync_data().is_err() || e.sync_dir(Path::new("/")).is_err() {
                    return;
                }
            }
        });
        let (e, q) = (env.clone(), queue.clone());
        all(&env, 2, move |i| {
            let Ok(file) = e.create(Path::new(&format!("/{i}"))) else { return };
            for n in 0..4 {
                if file.write_all_at(&[9; 700], n * 700).is_err() {
                    return;
                }
                *q.0.lock() += 1;
                q.1.notify_one();
            }
        });
        *queue.0.lock() = u32::MAX;
        queue.1.notify_all();
        assert!(syncer.unwrap().join());
    });
    assert!(run.unfinished.is_empty() && run.panicked.is_empty());
    let after = Env::on_disk(disk.crash(CrashPolicy::Random(seed)));
    let read = |name: String| {
        let bytes = after.read_file(&Path::new("/").join(&name), 1 << 20).unwrap();
        (name, bytes)
    };
    let files = after.list(Path::new("/")).unwrap().into_iter().map(|entry| read(entry.name)).collect();
    (run.trace_hash, disk.is_crashed(), files)
}

#[test]
fn a_crash_at_any_step_winds_down_and_replays() {
    let mut crashes = 0;
    for seed in 0..8 {
        for k in 1..40 {
            let once = crash_under_load(seed, k);
            assert_eq!(once, crash_under_load(seed, k), "seed {seed} step {k}");
            crashes += u32::from(once.1);
        }
    }
    println!("{crashes} crashes");
    assert!(crashes > 100);
}

#[test]
fn outside_a_run_files_locks_and_time_work_and_threads_do_not() {
    let env = simulated(9);
    env.replace_file(Path::new("/a"), b"x").unwrap();
    assert_eq!(env.read_file(Path::new("/a"), 10).unwrap(), b"x");
    let (lock, signal) = (env.mutex(1), env.condvar());
    *lock.lock() += 1;
    let (guard, timed_out) = signal.wait_for(lock.lock(), Duration::from_secs(5));
    assert!(timed_out && *guard == 2);
    drop(guard);
    assert!(env.now() >= Duration::from_secs(5));
    signal.notify_one();
    let error = env.spawn("early", || ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot start thread early: simulated threads start only inside Env::run");
    // What was made outside works inside.
    env.run(|| {
        *lock.lock() += 1;
        assert!(env.spawn("now", || ()).unwrap().join());
    });
    assert_eq!(*lock.lock(), 3);
}

#[test]
fn random_numbers_come_from_the_seed() {
    let draw = |seed| {
        let env = simulated(seed);
        env.run(|| (0..4).map(|_| env.random_u64()).collect::<Vec<_>>()).value
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    assert_eq!(draw(1).into_iter().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn a_run_inside_a_run_of_another_environment_is_its_own() {
    let (outer, inner) = (simulated(1), simulated(2));
    let value = outer.run(|| {
        let lock = outer.mutex(1);
        let _held = lock.lock();
        inner.run(|| inner.spawn("deep", || ()).unwrap().join()).value
    });
    assert!(value.value);
    let text = failure(&outer, || drop(outer.run(|| ())));
    assert_eq!(text.unwrap(), "a simulated environment has one run at a time");
}

#[test]
fn real_threads_lock_wait_wake_and_join() {
    for env in [Env::real(), Env::memory(), Env::on_disk(SimDisk::new())] {
        let run = env.run(|| {
            let gate = Gate::new(&env);
            let g = gate.clone();
            let waiter = env.spawn("waiter", move || g.pass()).unwrap();
            gate.open();
            assert!(waiter.join());
            assert!(!env.spawn("bad", || panic!("on purpose")).unwrap().join());
            let before = env.now();
            let (lock, signal) = (env.mutex(()), env.condvar());
            let mut guard = lock.lock();
            loop {
                let timed_out;
                (guard, timed_out) = signal.wait_for(guard, Duration::from_millis(20));
                if timed_out {
                    break;
                }
            }
            assert!(env.now() - before >= Duration::from_millis(20));
            7
        });
        assert_eq!((run.value, run.points), (7, 0));
        assert_ne!(env.random_u64(), env.random_u64());
        assert!(env.unix_time_ms() >= crate::SIMULATED_EPOCH_MS);
    }
}
