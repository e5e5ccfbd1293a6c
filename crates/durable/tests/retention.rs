//! What ends with its time, and what does not, in a simulated world.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::time::Duration;

use cairn::{Db, Env};
use cairn_durable::ErrorKind;
use cairn_durable::call::{OpKind, Spawn};
use cairn_durable::id::TaskId;
use cairn_durable::queue::Queue;
use cairn_durable::task::{Failure, State};
use cairn_durable::wait::Target;
use cairn_env::{CrashPolicy, SimDisk};
use common::*;

const DAY_MS: u64 = 86_400_000;

/// Waits until it is so.
fn until(env: &Env, what: &str, mut is_so: impl FnMut() -> bool) {
    let waiter = Waiter::new(env);
    for _ in 0..100 {
        if is_so() {
            return;
        }
        waiter.wait(Duration::from_secs(1));
    }
    panic!("in vain: {what}");
}

fn is_gone(env: &Env, tasks: &EngineTasks, id: TaskId) -> bool {
    match block_on(env, tasks.get(id)) {
        Ok(_) => false,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::NotFound);
            true
        }
    }
}

fn buckets(db: &Db) -> Vec<String> {
    let mut names = db.keyspaces();
    names.retain(|name| name.starts_with("tasks-"));
    names
}

fn keep_for(env: &Env, tasks: &EngineTasks, queue: Queue) {
    block_on(env, tasks.set_queue("default", queue)).unwrap();
}

fn with_key(name: &str, key: &str) -> Spawn {
    Spawn { idempotency_key: Some(key.to_owned()), ..Spawn::new(name, b"1") }
}

/// One has ended, one waits for an event, one is delayed, one sleeps, one runs. Two days later only the first is gone;
/// the others go on as if nothing had been, and go a day after their end.
#[test]
fn what_has_ended_goes_and_what_has_not_stays() {
    for seed in 0..8 {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            keep_for(env, &tasks, Queue { retention_days: 1, ..Queue::default() });
            let session = hello(env, &tasks, &["t"]);
            let ended = spawn(env, &tasks, with_key("t", "ended"));
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, step("s", "1")).unwrap();
            op(env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
            let failed = spawn(env, &tasks, Spawn { max_attempts: 1, ..Spawn::new("t", b"1") });
            let work = take(env, &tasks, session);
            let failure = Failure { kind: "K".to_owned(), message: String::new(), detail: None, retryable: false };
            op(env, &tasks, session, &work, OpKind::Fail { failure, retry_at_ms: None }).unwrap();

            let waits = spawn(env, &tasks, with_key("t", "waits"));
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, step("s", "17")).unwrap();
            op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("e", event("go"))])).unwrap();
            let sleeps = spawn(env, &tasks, Spawn::new("t", b"1"));
            let work = take(env, &tasks, session);
            let timer = Target::Timer(tasks.now_ms() + 3 * DAY_MS);
            op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("nap", timer)])).unwrap();
            let runs = spawn(env, &tasks, Spawn::new("t", b"1"));
            let running = take(env, &tasks, session);
            op(env, &tasks, session, &running, step("a", "1")).unwrap();
            let due_ms = Some(tasks.now_ms() + 10 * DAY_MS);
            let delayed = spawn(env, &tasks, Spawn { due_ms, ..with_key("t", "delayed") });
            assert_eq!(buckets(&db).len(), 1);

            tasks.advance_clock(2 * DAY_MS);
            until(env, "the ended one goes", || is_gone(env, &tasks, ended));
            assert!(is_gone(env, &tasks, failed));
            assert_eq!(block_on(env, tasks.retry(failed, 1)).unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(buckets(&db), ["tasks-kept-1"]);
            // Its key is free, that of another is not.
            let again = block_on(env, tasks.spawn(&[with_key("t", "delayed")])).unwrap().remove(0).unwrap();
            assert_eq!((again.created, again.id), (false, delayed));
            let queue = Queue { retention_days: 1, max_waiting: Some(1), ..Queue::default() };
            keep_for(env, &tasks, queue);
            let refused = block_on(env, tasks.spawn(&[with_key("t", "ended")])).unwrap().remove(0);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy, "it is not there, but the queue is full");

            // The one that runs and the one that waits go on with what they had.
            op(env, &tasks, session, &running, step("b", "2")).unwrap();
            op(env, &tasks, session, &running, OpKind::Finish(b"1".as_slice().into())).unwrap();
            assert_eq!(block_on(env, tasks.steps(runs, None, 9)).unwrap().0.len(), 2);
            block_on(env, tasks.emit("default", "go", b"true")).unwrap();
            let work = take(env, &tasks, session);
            let steps: Vec<_> = work.steps.iter().map(|(id, step)| (id.as_str(), step.outcome.clone())).collect();
            assert_eq!((work.id, steps), (waits, vec![("e", value("true")), ("s", value("17"))]));
            op(env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();

            // A day later these two are gone as well.
            tasks.advance_clock(DAY_MS);
            until(env, "those that were kept go", || is_gone(env, &tasks, waits) && is_gone(env, &tasks, runs));
            let view = block_on(env, tasks.get(sleeps)).unwrap();
            assert_eq!(view.task.status.state(), State::Queued, "its sleep is over");
            assert_eq!(block_on(env, tasks.get(delayed)).unwrap().task.status.state(), State::Queued);
            tasks.close();
            db.close().unwrap();
        });
    }
}

/// The power goes at each call of the disk while a bucket goes; afterwards what had not ended is whole.
#[test]
fn a_power_cut_while_a_bucket_goes_loses_nothing() {
    let prepare = |env: &Env, disk: &SimDisk| {
        let (db, tasks) = open(env);
        keep_for(env, &tasks, Queue { retention_days: 1, ..Queue::default() });
        let session = hello(env, &tasks, &["t"]);
        let mut waiting = Vec::new();
        for n in 0..6 {
            let id = spawn(env, &tasks, with_key("t", &n.to_string()));
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, step("s", &n.to_string())).unwrap();
            if n % 2 == 0 {
                op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("e", event("go"))])).unwrap();
                waiting.push(id);
            } else {
                op(env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
            }
        }
        (db, tasks, waiting, disk.steps())
    };
    let mut cuts = 0;
    for at in 0.. {
        let (image, waiting, advanced_ms) = world(7, |env, disk| {
            let (db, tasks, waiting, steps) = prepare(env, disk);
            disk.crash_at(steps + 1 + at);
            let now_ms = tasks.advance_clock(2 * DAY_MS);
            let waiter = Waiter::new(env);
            for _ in 0..20 {
                if disk.is_crashed() || buckets(&db).len() == 1 && buckets(&db)[0].contains("kept") {
                    break;
                }
                waiter.wait(Duration::from_secs(1));
            }
            tasks.close();
            drop(tasks);
            let _ = db.close();
            let image = disk.is_crashed().then(|| disk.crash(CrashPolicy::Random(at)));
            (image, waiting, now_ms)
        });
        let Some(image) = image else { break };
        cuts += 1;
        let env = Env::simulated(at, image);
        let run = env.run(|| {
            let (db, tasks) = open(&env);
            tasks.advance_clock(advanced_ms.saturating_sub(tasks.now_ms()) + DAY_MS);
            until(&env, "the bucket goes", || buckets(&db) == ["tasks-kept-1"]);
            let session = hello(&env, &tasks, &["t"]);
            block_on(&env, tasks.emit("default", "go", b"true")).unwrap();
            for _ in &waiting {
                let work = take(&env, &tasks, session);
                assert!(waiting.contains(&work.id) && work.steps.len() == 2, "cut at {at}: {:?}", work.steps);
                op(&env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
            }
            tasks.close();
            db.close().unwrap();
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "cut at {at}");
    }
    assert!(cuts > 10, "{cuts}");
    println!("proof: power cuts while a bucket goes = {cuts}");
}

#[test]
fn while_a_bucket_goes_nothing_comes_into_it() {
    for seed in 0..40 {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            keep_for(env, &tasks, Queue { retention_days: 1, ..Queue::default() });
            let session = hello(env, &tasks, &["t"]);
            let made_ms = tasks.now_ms();
            let failed: Vec<TaskId> = (0..4)
                .map(|_| {
                    let id = spawn(env, &tasks, Spawn { max_attempts: 1, ..Spawn::new("t", b"1") });
                    let work = take(env, &tasks, session);
                    let failure =
                        Failure { kind: "K".to_owned(), message: String::new(), detail: None, retryable: true };
                    op(env, &tasks, session, &work, OpKind::Fail { failure, retry_at_ms: None }).unwrap();
                    id
                })
                .collect();
            tasks.advance_clock(2 * DAY_MS);
            // Retried, or spawned with ids of that day, at the moment at which their bucket goes.
            let (mut open, old) = (Vec::new(), (1..=4).map(|n| TaskId::new(made_ms, [n; 10])));
            for (id, old) in failed.into_iter().zip(old) {
                match block_on(env, tasks.retry(id, 1)) {
                    Ok(_) => open.push(id),
                    Err(e) => assert!(matches!(e.kind(), ErrorKind::Gone | ErrorKind::NotFound), "{e}"),
                }
                open.push(spawn(env, &tasks, Spawn { id: Some(old), ..Spawn::new("t", b"1") }));
            }
            until(env, "the bucket goes", || buckets(&db) == ["tasks-kept-1"]);
            for id in open {
                let view = block_on(env, tasks.get(id)).unwrap_or_else(|e| panic!("CAIRN_SEED={seed}: {e}"));
                assert_eq!(view.task.status.state(), State::Queued);
            }
            tasks.close();
            db.close().unwrap();
        });
    }
}

#[test]
fn an_event_goes_after_its_time_and_may_be_emitted_again() {
    world(3, |env, _| {
        let (db, tasks) = open(env);
        keep_for(env, &tasks, Queue { event_ttl_ms: 60_000, ..Queue::default() });
        assert!(block_on(env, tasks.emit("default", "e", b"1")).unwrap());
        assert!(!block_on(env, tasks.emit("default", "e", b"2")).unwrap());
        tasks.advance_clock(30_000);
        assert!(block_on(env, tasks.emit("default", "f", b"1")).unwrap());
        let there = |name: &str| block_on(env, tasks.event("default", name)).unwrap().is_some();
        tasks.advance_clock(31_000);
        until(env, "the first goes", || !there("e"));
        assert!(there("f"));
        assert!(block_on(env, tasks.emit("default", "e", b"2")).unwrap());
        tasks.advance_clock(30_000);
        until(env, "the second goes", || !there("f"));
        assert!(there("e"));
        tasks.close();
        drop(tasks);
        // Also after a restart, before which the clock had been set.
        let tasks = EngineTasks::open(env, db.clone()).unwrap();
        tasks.advance_clock(91_000 + 61_000);
        until(env, "the third goes", || block_on(env, tasks.event("default", "e")).unwrap().is_none());
        tasks.close();
        db.close().unwrap();
    });
}

/// More wait for a task than are told at once. The server stops before all are, and when it is back the task itself
/// has gone with its day.
#[test]
fn who_was_not_told_in_time_is_told_of_what_has_gone() {
    for seed in 0..6 {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            keep_for(env, &tasks, Queue { retention_days: 1, ..Queue::default() });
            let session = hello(env, &tasks, &["child", "parent"]);
            let child = spawn(env, &tasks, Spawn::new("child", b"1"));
            let held = take(env, &tasks, session);
            let parents: Vec<TaskId> = (0..700)
                .map(|_| {
                    let id = spawn(env, &tasks, Spawn::new("parent", b"1"));
                    let work = take(env, &tasks, session);
                    op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("end", Target::Task(child))])).unwrap();
                    id
                })
                .collect();
            op(env, &tasks, session, &held, OpKind::Finish(b"17".as_slice().into())).unwrap();
            tasks.close();
            drop(tasks);
            let tasks = EngineTasks::open(env, db.clone()).unwrap();
            tasks.advance_clock(3 * DAY_MS);
            until(env, "the child goes", || is_gone(env, &tasks, child));
            let queued = |id: &TaskId| block_on(env, tasks.get(*id)).unwrap().task.status.state() == State::Queued;
            until(env, "all are told", || parents.iter().all(queued));
            let (steps, _) = block_on(env, tasks.steps(parents[699], None, 9)).unwrap();
            assert_eq!(steps[0].1.outcome, value("17"));
            tasks.close();
            db.close().unwrap();
        });
    }
}

#[test]
fn an_event_that_goes_at_once_is_told_to_all_who_wait() {
    world(5, |env, _| {
        let (db, tasks) = open(env);
        keep_for(env, &tasks, Queue { event_ttl_ms: 1, ..Queue::default() });
        let session = hello(env, &tasks, &["t"]);
        let waiting: Vec<TaskId> = (0..600)
            .map(|_| {
                let id = spawn(env, &tasks, Spawn::new("t", b"1"));
                let work = take(env, &tasks, session);
                op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("e", event("go"))])).unwrap();
                id
            })
            .collect();
        assert!(block_on(env, tasks.emit("default", "go", b"1")).unwrap());
        let queued = |id: &TaskId| block_on(env, tasks.get(*id)).unwrap().task.status.state() == State::Queued;
        until(env, "all are told", || waiting.iter().all(queued));
        tasks.close();
        db.close().unwrap();
    });
}
