//! Lives of tasks, through the calls of clients and workers, in a simulated world.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::time::Duration;

use cairn_durable::call::{Ack, OpKind, Spawn};
use cairn_durable::id::TaskId;
use cairn_durable::key::{Entry, Lane};
use cairn_durable::queue::{Queue, QueueStatus};
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::task::{Cancellation, Ending, Failure, Fence, State, Status};
use cairn_durable::wait::{Target, Wait};
use cairn_durable::worker::{BEAT, Hello, LEASE, PROGRESS_BYTES_MAX, Sign, VERSION_BYTES_MAX};
use cairn_durable::{ErrorKind, Tasks};
use common::*;

const SEEDS: std::ops::Range<u64> = 0..8;

fn failure(retryable: bool) -> Failure {
    Failure { kind: "Oops".to_owned(), message: "it broke".to_owned(), detail: None, retryable }
}

#[test]
fn a_task_waits_for_an_event_across_a_crash() {
    for seed in SEEDS {
        let (disk, id) = world(seed, |env, disk| {
            let (_db, tasks) = open(env);
            let session = hello(env, &tasks, &["order"]);
            let id = spawn(env, &tasks, Spawn::new("order", b"{\"n\":1}"));
            let work = take(env, &tasks, session);
            assert_eq!((work.id, &*work.spec.input, work.steps.len()), (id, &b"{\"n\":1}"[..], 0));
            assert_eq!(op(env, &tasks, session, &work, step("charge", "17")).unwrap(), Ack::Done);
            let suspend = OpKind::Suspend(vec![wait("packed", event("packed:1"))]);
            assert_eq!(op(env, &tasks, session, &work, suspend).unwrap(), Ack::Suspended(vec![]));
            assert!(block_on(env, tasks.emit("default", "packed:1", b"\"yes\"")).unwrap());
            // What was answered survives the power cut.
            let image = disk.crash(cairn_env::CrashPolicy::DropAll);
            tasks.close();
            (image, id)
        });
        let env = cairn::Env::simulated(seed, disk);
        let run = env.run(|| {
            let (db, tasks) = open(&env);
            let session = hello(&env, &tasks, &["order"]);
            let work = take(&env, &tasks, session);
            let steps: Vec<_> = work.steps.iter().map(|(id, step)| (id.as_str(), step.outcome.clone())).collect();
            assert_eq!(steps, [("charge", value("17")), ("packed", value("\"yes\""))]);
            assert_eq!(work.attempt, 1);
            op(&env, &tasks, session, &work, OpKind::Finish(b"true".as_slice().into())).unwrap();
            let view = block_on(&env, tasks.ended(id)).unwrap();
            assert_eq!((view.task.status.state(), view.output.as_deref()), (State::Completed, Some(&b"true"[..])));
            assert_eq!(block_on(&env, tasks.runs(id, 0, 9)).unwrap().items.len(), 1);
            // The first event of a name stays.
            assert!(!block_on(&env, tasks.emit("default", "packed:1", b"\"no\"")).unwrap());
            assert_eq!(&*block_on(&env, tasks.event("default", "packed:1")).unwrap().unwrap().payload, b"\"yes\"");
            tasks.close();
            db.close().unwrap();
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    }
}

#[test]
fn sleeps_end_in_time_and_hold_no_slot() {
    for seed in SEEDS {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            let session = hello(env, &tasks, &["nap"]);
            spawn(env, &tasks, Spawn::new("nap", b"null"));
            let work = take(env, &tasks, session);
            let until_ms = tasks.now_ms() + 20_000;
            let suspend = OpKind::Suspend(vec![wait("nap", Target::Timer(until_ms))]);
            op(env, &tasks, session, &work, suspend).unwrap();
            assert_eq!(tasks.workers()[0].held, []);
            let again = take(env, &tasks, session);
            assert!(tasks.now_ms() >= until_ms && tasks.now_ms() < until_ms + 5_000, "{}", tasks.now_ms() - until_ms);
            assert_eq!((again.steps.len(), again.run, again.attempt), (1, work.run, 1));
            tasks.close();
            db.close().unwrap();
        });
    }
}

#[test]
fn a_timeout_is_recorded_and_a_late_event_changes_nothing() {
    world(1, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let id = spawn(env, &tasks, Spawn::new("t", b"null"));
        let work = take(env, &tasks, session);
        let packed = Wait { timeout_at_ms: Some(tasks.now_ms() + 1_000), ..wait("packed", event("packed")) };
        op(env, &tasks, session, &work, OpKind::Suspend(vec![packed.clone()])).unwrap();
        let work = take(env, &tasks, session);
        assert_eq!(work.steps[0].1.outcome, Outcome::TimedOut);
        assert!(block_on(env, tasks.emit("default", "packed", b"1")).unwrap());
        let again = op(env, &tasks, session, &work, OpKind::Suspend(vec![packed])).unwrap();
        let Ack::Suspended(resumed) = again else { panic!("{again:?}") };
        assert_eq!(resumed[0].1.outcome, Outcome::TimedOut);
        // Under another name of the step the event is there.
        let again = op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("packed#2", event("packed"))])).unwrap();
        let Ack::Suspended(resumed) = again else { panic!("{again:?}") };
        assert_eq!(resumed[0].1.outcome, value("1"));
        assert_eq!(block_on(env, tasks.steps(id, None, 10)).unwrap().0.len(), 2);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_vanished_worker_loses_its_task_and_cannot_come_back_to_it() {
    for seed in SEEDS {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            let (gone, there) = (hello(env, &tasks, &["t"]), hello(env, &tasks, &["other"]));
            let id = spawn(env, &tasks, Spawn::new("t", b"null"));
            let work = take(env, &tasks, gone);
            let second = hello(env, &tasks, &["t"]);
            let waiter = Waiter::new(env);
            for _ in 0..4 {
                waiter.wait(LEASE / 3);
                block_on(env, tasks.beat(there, &[])).unwrap();
                block_on(env, tasks.beat(second, &[])).unwrap();
            }
            assert_eq!(block_on(env, tasks.beat(gone, &[])).unwrap_err().kind(), ErrorKind::Gone);
            let again = take(env, &tasks, second);
            assert_eq!((again.id, again.attempt), (id, 1), "a lost run costs no attempt");
            assert_ne!(again.run, work.run);
            let late = op(env, &tasks, second, &work, step("s", "1"));
            assert_eq!(late.unwrap_err().kind(), ErrorKind::StaleFence);
            op(env, &tasks, second, &again, step("s", "2")).unwrap();
            let view = block_on(env, tasks.get(id)).unwrap();
            assert_eq!((view.task.lost, view.task.runs_ended), (1, 1));
            tasks.close();
            db.close().unwrap();
        });
    }
}

#[test]
fn after_a_restart_a_worker_goes_on_with_what_it_holds() {
    for seed in SEEDS {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            let session = hello(env, &tasks, &["t"]);
            let (kept, lost) = (Spawn::new("t", b"1"), Spawn::new("t", b"2"));
            let ids = [spawn(env, &tasks, kept), spawn(env, &tasks, lost)];
            let works = [take(env, &tasks, session), take(env, &tasks, session)];
            op(env, &tasks, session, &works[0], step("a", "1")).unwrap();
            tasks.close();
            drop(tasks);
            db.close().unwrap();

            let (db, tasks) = open(env);
            let offer = || cairn_durable::worker::Hello {
                tasks: names(&["t"]),
                queues: names(&["default"]),
                slots: 2,
                ..Default::default()
            };
            let made_up = cairn_durable::task::Fence { instance: 1, count: 1 };
            let held = [(works[0].id, works[0].fence), (works[1].id, made_up)];
            let welcome = block_on(env, tasks.hello(offer(), &held)).unwrap();
            assert_eq!((&welcome.kept[..], &welcome.stop[..]), (&[works[0].id][..], &[works[1].id][..]));
            let session = welcome.session;
            op(env, &tasks, session, &works[0], step("b", "2")).unwrap();
            let (steps, more) = block_on(env, tasks.steps(works[0].id, None, 9)).unwrap();
            assert_eq!(steps.iter().map(|(_, step)| step.seq).collect::<Vec<_>>(), [1, 2]);
            assert!(!more);
            // What nobody has said hello for goes to another after a lease.
            let waiter = Waiter::new(env);
            let held = [(works[0].id, works[0].fence)];
            for _ in 0..4 {
                waiter.wait(LEASE / 3);
                block_on(env, tasks.beat(session, &held)).unwrap();
            }
            let again = take(env, &tasks, session);
            assert_eq!(again.id, works[1].id);
            assert!(ids.contains(&again.id));
            op(env, &tasks, session, &works[0], OpKind::Finish(b"1".as_slice().into())).unwrap();
            tasks.close();
            db.close().unwrap();
        });
    }
}

#[test]
fn a_parent_waits_for_its_child_in_the_same_queue() {
    for seed in SEEDS {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            let session = hello(env, &tasks, &["parent", "child"]);
            spawn(env, &tasks, Spawn::new("parent", b"null"));
            let parent = take(env, &tasks, session);
            let id = cairn_durable::step::StepId::new("spawn:child").unwrap();
            let child = || OpKind::Spawn { id: id.clone(), spawn: Box::new(Spawn::new("child", b"7")) };
            let Ack::Spawned(first) = op(env, &tasks, session, &parent, child()).unwrap() else { panic!() };
            let Ack::Spawned(again) = op(env, &tasks, session, &parent, child()).unwrap() else { panic!() };
            assert!(first.created && !again.created && first.id == again.id);
            let suspend = || OpKind::Suspend(vec![wait("child", Target::Task(first.id))]);
            op(env, &tasks, session, &parent, suspend()).unwrap();
            let work = take(env, &tasks, session);
            assert_eq!((work.id, work.spec.parent), (first.id, Some(parent.id)));
            op(env, &tasks, session, &work, OpKind::Fail { failure: failure(false), retry_at_ms: None }).unwrap();
            let parent = take(env, &tasks, session);
            let told = parent.steps.iter().find(|(id, _)| id.as_str() == "child").unwrap();
            assert_eq!(told.1.outcome, Outcome::Failed { failure: failure(false), retry_at_ms: None });
            // It is recorded, also for a wait that comes later.
            let late = OpKind::Suspend(vec![wait("child#2", Target::Task(first.id))]);
            let Ack::Suspended(resumed) = op(env, &tasks, session, &parent, late).unwrap() else { panic!() };
            assert_eq!(resumed.len(), 1);
            let own = OpKind::Suspend(vec![wait("me", Target::Task(parent.id))]);
            assert_eq!(op(env, &tasks, session, &parent, own).unwrap_err().kind(), ErrorKind::Invalid);
            tasks.close();
            db.close().unwrap();
        });
    }
}

#[test]
fn more_waiters_than_one_batch_tells_are_all_told() {
    world(3, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        for _ in 0..600 {
            spawn(env, &tasks, Spawn::new("t", b"null"));
        }
        for _ in 0..600 {
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("go", event("go"))])).unwrap();
        }
        assert!(block_on(env, tasks.emit("default", "go", b"1")).unwrap());
        for _ in 0..600 {
            let work = take(env, &tasks, session);
            assert_eq!(work.steps[0].1.outcome, value("1"));
            op(env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
        }
        tasks.close();
        db.close().unwrap();
    });
}

/// The server goes when the first of many have been told of an event: the others are told by the next one.
#[test]
fn who_was_not_told_before_a_crash_is_told_after_it() {
    let disk = world(7, |env, disk| {
        let (_db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        for _ in 0..300 {
            spawn(env, &tasks, Spawn::new("t", b"null"));
        }
        for _ in 0..300 {
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("go", event("go"))])).unwrap();
        }
        // Without a thread that would go on telling.
        tasks.close();
        assert!(block_on(env, tasks.emit("default", "go", b"1")).unwrap());
        disk.crash(cairn_env::CrashPolicy::DropAll)
    });
    let env = cairn::Env::simulated(7, disk);
    let run = env.run(|| {
        let (db, tasks) = open(&env);
        let session = hello(&env, &tasks, &["t"]);
        for _ in 0..300 {
            let work = take(&env, &tasks, session);
            op(&env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
        }
        tasks.close();
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

#[test]
fn order_priority_pause_and_delay_are_kept() {
    world(4, |env, _| {
        let (db, tasks) = open(env);
        let named = |input: &str, priority: i32, due_ms: Option<u64>| {
            spawn(env, &tasks, Spawn { priority, due_ms, ..Spawn::new("t", input.as_bytes()) })
        };
        let later_ms = tasks.now_ms() + 3_000;
        for (input, priority, due_ms) in [("1", 0, None), ("4", -1, None), ("0", 5, None), ("2", 0, None)] {
            named(input, priority, due_ms);
        }
        named("5", 9, Some(later_ms));
        spawn(env, &tasks, Spawn::new("unknown", b"null"));
        let session = hello(env, &tasks, &["t"]);
        let pause = |status| block_on(env, tasks.set_queue("default", Queue { status, ..Queue::default() })).unwrap();
        pause(QueueStatus::Paused);
        assert!(block_on(env, tasks.take(session, 9)).unwrap().0.is_empty());
        pause(QueueStatus::Active);
        let mut inputs = Vec::new();
        for _ in 0..5 {
            inputs.push(String::from_utf8(take(env, &tasks, session).spec.input.to_vec()).unwrap());
        }
        assert_eq!(inputs, ["0", "1", "2", "4", "5"]);
        assert!(tasks.now_ms() >= later_ms);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn the_same_id_or_key_is_the_same_task() {
    world(5, |env, _| {
        let (db, tasks) = open(env);
        let id = cairn_durable::id::TaskId::new(tasks.now_ms(), [3; 10]);
        let by_id = || Spawn { id: Some(id), ..Spawn::new("t", b"1") };
        let by_key = |name: &str| Spawn { idempotency_key: Some("order:1".to_owned()), ..Spawn::new(name, b"1") };
        let spawned = block_on(env, tasks.spawn(&[by_id(), by_id(), by_key("t"), by_key("u")])).unwrap();
        let spawned: Vec<_> = spawned.into_iter().map(Result::unwrap).collect();
        assert_eq!(spawned.iter().map(|s| s.created).collect::<Vec<_>>(), [true, false, true, false]);
        assert!(spawned[0].id == id && spawned[1].id == id && spawned[2].id == spawned[3].id);
        let unknown = Spawn { queue: "nowhere".to_owned(), ..Spawn::new("t", b"1") };
        let future = cairn_durable::id::TaskId::new(tasks.now_ms() + 2 * 86_400_000, [3; 10]);
        let bad = [
            (unknown, ErrorKind::NotFound),
            (Spawn::new("", b"1"), ErrorKind::Invalid),
            (Spawn::new("t", &vec![b'1'; (1 << 20) + 1]), ErrorKind::TooLarge),
            (Spawn { max_attempts: 0, ..Spawn::new("t", b"1") }, ErrorKind::Invalid),
            (Spawn { id: Some(future), ..Spawn::new("t", b"1") }, ErrorKind::Invalid),
        ];
        let (spawns, kinds): (Vec<_>, Vec<_>) = bad.into_iter().unzip();
        let refused = block_on(env, tasks.spawn(&spawns)).unwrap();
        assert_eq!(refused.into_iter().map(|r| r.unwrap_err().kind()).collect::<Vec<_>>(), kinds);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_cancelled_task_tells_its_worker_and_a_failed_one_can_be_retried() {
    world(6, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        let work = take(env, &tasks, session);
        let view = block_on(env, tasks.cancel(id, "enough")).unwrap();
        assert_eq!(view.task.status.state(), State::Cancelled);
        let signals = block_on(env, tasks.beat(session, &[(id, work.fence)])).unwrap();
        assert_eq!(signals.iter().map(|signal| signal.fence).collect::<Vec<_>>(), [work.fence]);
        assert_eq!(op(env, &tasks, session, &work, step("s", "1")).unwrap_err().kind(), ErrorKind::Cancelled);

        let id = spawn(env, &tasks, Spawn { max_attempts: 1, ..Spawn::new("t", b"1") });
        let work = take(env, &tasks, session);
        op(env, &tasks, session, &work, step("s", "1")).unwrap();
        op(env, &tasks, session, &work, OpKind::Fail { failure: failure(true), retry_at_ms: None }).unwrap();
        let ended = block_on(env, tasks.ended(id)).unwrap();
        assert!(matches!(ended.task.status, Status::Failed { .. }));
        block_on(env, tasks.retry(id, 1)).unwrap();
        let work = take(env, &tasks, session);
        assert_eq!((work.attempt, work.steps.len()), (2, 1));
        let waiter = Waiter::new(env);
        waiter.wait(Duration::from_millis(10));
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn spawns_that_belong_together_are_there_together_or_not_at_all() {
    let image = world(8, |env, disk| {
        let (db, tasks) = open(env);
        let users = db.keyspace("users").unwrap();
        let keyed = |key: &str| Spawn { idempotency_key: Some(key.to_owned()), ..Spawn::new("t", b"1") };
        // With the caller's own write.
        let mut batch = db.batch();
        batch.put(&users, b"order:1", b"paid");
        let spawned = block_on(env, tasks.spawn_with(batch, &[keyed("a"), keyed("b"), keyed("a")])).unwrap();
        assert_eq!(spawned.iter().map(|spawned| spawned.created).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(spawned[0].id, spawned[2].id);
        // A refused task takes the write with it, and a refused write the tasks.
        let mut batch = db.batch();
        batch.put(&users, b"order:2", b"paid");
        let wrong = Spawn { queue: "none".to_owned(), ..Spawn::new("t", b"1") };
        let refused = block_on(env, tasks.spawn_with(batch, &[keyed("c"), wrong])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        let mut batch = db.batch();
        batch.require_absent(&users, b"order:1");
        let refused = block_on(env, tasks.spawn_with(batch, &[keyed("c")])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert_eq!(users.get(b"order:2").unwrap(), None);
        let session = hello(env, &tasks, &["t"]);
        let handed: Vec<_> = (0..2).map(|_| take(env, &tasks, session).id).collect();
        assert_eq!(handed, [spawned[0].id, spawned[1].id]);
        assert_eq!(block_on(env, tasks.take(session, 1)).unwrap().0.len(), 0);
        // What was answered survives a power cut, both halves.
        let image = disk.crash(cairn_env::CrashPolicy::DropAll);
        tasks.close();
        db.close().unwrap();
        image
    });
    let env = cairn::Env::simulated(9, image);
    let run = env.run(|| {
        let (db, tasks) = open(&env);
        let users = db.keyspace("users").unwrap();
        assert_eq!(users.get(b"order:1").unwrap().as_deref(), Some(&b"paid"[..]));
        let again = Spawn { idempotency_key: Some("a".to_owned()), ..Spawn::new("t", b"1") };
        assert!(!block_on(&env, tasks.spawn(&[again])).unwrap().remove(0).unwrap().created);
        tasks.close();
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

/// A claim gives up a task whose time is over, and the same call hands out who waited for it.
#[test]
fn what_a_given_up_task_leads_to_is_shown_when_that_is_durable() {
    let (disk, child) = world(36, |env, disk| {
        let (_db, tasks) = open(env);
        let session = hello(env, &tasks, &["parent"]);
        spawn(env, &tasks, Spawn::new("parent", b"1"));
        let parent = take(env, &tasks, session);
        let given_up = Spawn {
            cancellation: Cancellation { max_delay_ms: Some(1_000), ..Cancellation::default() },
            priority: 1,
            ..Spawn::new("child", b"1")
        };
        let spawned = OpKind::Spawn { id: StepId::new("child").unwrap(), spawn: Box::new(given_up) };
        let Ack::Spawned(child) = op(env, &tasks, session, &parent, spawned).unwrap() else { panic!() };
        op(env, &tasks, session, &parent, OpKind::Suspend(vec![wait("end", Target::Task(child.id))])).unwrap();
        let both = hello(env, &tasks, &["parent", "child"]);
        // Without the thread that would give it up in time.
        tasks.close();
        tasks.advance_clock(5_000);
        let (work, _) = block_on(env, tasks.take(both, 2)).unwrap();
        assert_eq!(work.iter().map(|work| work.id).collect::<Vec<_>>(), [parent.id]);
        assert_eq!(work[0].steps[1].1.outcome, Outcome::Cancelled);
        (disk.crash(cairn_env::CrashPolicy::DropAll), child.id)
    });
    let env = cairn::Env::simulated(36, disk);
    let run = env.run(|| {
        let (db, tasks) = open(&env);
        assert_eq!(block_on(&env, tasks.get(child)).unwrap().task.status.state(), State::Cancelled);
        tasks.close();
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

#[test]
fn what_was_spawned_first_is_handed_out_first() {
    world(11, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let spawns = vec![Spawn::new("t", b"1"); 300];
        let spawned = block_on(env, tasks.spawn(&spawns)).unwrap();
        let spawned: Vec<_> = spawned.into_iter().map(|one| one.unwrap().id).collect();
        let mut handed = Vec::new();
        for _ in 0..2 {
            let (work, _) = block_on(env, tasks.take(session, 1_000)).unwrap();
            handed.extend(work.iter().map(|work| work.id));
        }
        assert_eq!(handed, spawned);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_full_queue_refuses_further_tasks_until_one_is_taken() {
    world(9, |env, _| {
        let (db, tasks) = open(env);
        let limited = Queue { max_waiting: Some(2), ..Queue::default() };
        spawn(env, &tasks, Spawn::new("t", b"1"));
        block_on(env, tasks.set_queue("default", limited)).unwrap();
        let three = [Spawn::new("t", b"1"), Spawn::new("u", b"2"), Spawn::new("t", b"3")];
        let kinds = |tasks: &EngineTasks| {
            let spawned = block_on(env, tasks.spawn(&three)).unwrap();
            spawned.into_iter().map(|one| one.map_err(|e| e.kind()).map(|one| one.created)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&tasks), [Ok(true), Err(ErrorKind::Busy), Err(ErrorKind::Busy)]);
        tasks.close();
        drop(tasks);
        let tasks = EngineTasks::open(env, db.clone()).unwrap();
        assert_eq!(kinds(&tasks), [Err(ErrorKind::Busy); 3]);
        let session = hello(env, &tasks, &["t"]);
        let work = take(env, &tasks, session);
        assert_eq!(kinds(&tasks), [Ok(true), Err(ErrorKind::Busy), Err(ErrorKind::Busy)]);
        // What runs may always go back.
        op(env, &tasks, session, &work, OpKind::Release { due_ms: None }).unwrap();
        assert_eq!(kinds(&tasks), [Err(ErrorKind::Busy); 3]);
        let none = block_on(env, tasks.set_queue("default", Queue::default()));
        none.unwrap();
        assert_eq!(kinds(&tasks), [Ok(true); 3]);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_hand_out_that_never_arrived_goes_back_at_no_cost() {
    world(10, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let ids = [spawn(env, &tasks, Spawn::new("t", b"1")), spawn(env, &tasks, Spawn::new("t", b"2"))];
        let (arrived, lost) = (take(env, &tasks, session), take(env, &tasks, session));
        let live = [(arrived.id, arrived.fence)];
        assert_eq!(ids, [arrived.id, lost.id]);
        let waiter = Waiter::new(env);
        block_on(env, tasks.beat(session, &live)).unwrap();
        assert_eq!(block_on(env, tasks.take(session, 1)).unwrap().0.len(), 0, "it may be on its way");
        let until = env.now() + 3 * BEAT;
        while env.now() < until {
            waiter.wait(BEAT / 2);
            block_on(env, tasks.beat(session, &live)).unwrap();
        }
        let again = take(env, &tasks, session);
        let view = block_on(env, tasks.get(lost.id)).unwrap();
        assert_eq!((again.id, again.attempt, view.task.lost), (lost.id, 1, 0));
        assert_eq!(op(env, &tasks, session, &lost, step("s", "1")).unwrap_err().kind(), ErrorKind::StaleFence);
        op(env, &tasks, session, &arrived, step("s", "1")).unwrap();
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_task_says_which_version_of_its_code_had_it() {
    let (disk, id) = world(15, |env, disk| {
        let (_db, tasks) = open(env);
        let versions = [("t".to_owned(), "2.1".to_owned())].into();
        let offer =
            |versions| Hello { tasks: names(&["t"]), queues: names(&["default"]), versions, ..Hello::default() };
        let session = block_on(env, tasks.hello(offer(versions), &[])).unwrap().session;
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        assert_eq!(block_on(env, tasks.get(id)).unwrap().task.version, None);
        let work = take(env, &tasks, session);
        assert_eq!(work.version.as_deref(), Some("2.1"));
        op(env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
        for wrong in [String::new(), "x".repeat(VERSION_BYTES_MAX + 1)] {
            let refused = block_on(env, tasks.hello(offer([("t".to_owned(), wrong)].into()), &[])).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        }
        let image = disk.crash(cairn_env::CrashPolicy::DropAll);
        tasks.close();
        (image, id)
    });
    let env = cairn::Env::simulated(15, disk);
    let run = env.run(|| {
        let (db, tasks) = open(&env);
        assert_eq!(block_on(&env, tasks.get(id)).unwrap().task.version.as_deref(), Some("2.1"));
        tasks.close();
        db.close().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}

#[test]
fn what_a_worker_shows_of_a_task_is_seen_while_it_has_it() {
    world(14, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        let shown = || {
            let view = block_on(env, tasks.get(id)).unwrap();
            view.shown.map(|shown| {
                let progress = shown.progress.map(|progress| String::from_utf8(progress.into_vec()).unwrap());
                let step = shown.step.map(|step| step.as_str().to_owned());
                (shown.worker, step, progress, shown.spoken.map(|ago| ago.as_secs()))
            })
        };
        let says = |step: Option<&str>, progress: Option<&str>, spoken| {
            Some(("w1".to_owned(), step.map(str::to_owned), progress.map(str::to_owned), spoken))
        };
        assert_eq!(shown(), None, "it is queued");
        let work = take(env, &tasks, session);
        assert_eq!(shown(), says(None, None, None), "it has not been spoken of");
        let show = |fence, step: Option<&str>, progress: Option<&str>| {
            let step = step.map(|step| StepId::new(step).unwrap());
            let sign = Sign::new(id, fence, step, progress.map(|progress| progress.as_bytes().into()));
            tasks.show(session, vec![sign.unwrap()]);
            block_on(env, tasks.beat(session, &[(id, work.fence)])).unwrap();
        };
        show(work.fence, Some("charge"), Some("40"));
        Waiter::new(env).wait(BEAT / 2);
        assert_eq!(shown(), says(Some("charge"), Some("40"), Some(BEAT.as_secs() / 2)));
        // A beat without progress leaves it as it was; a step is where the task is now.
        show(work.fence, None, None);
        assert_eq!(shown(), says(None, Some("40"), Some(0)));
        let other = Fence { count: work.fence.count + 1, ..work.fence };
        show(other, Some("late"), Some("0"));
        assert_eq!(shown(), says(None, Some("40"), Some(0)));
        // All that is kept for a session has a bound.
        let large = "1".repeat(PROGRESS_BYTES_MAX);
        assert_eq!(Sign::new(id, other, None, Some((large.clone() + "1").into_bytes().into())).unwrap_err().kind(), {
            ErrorKind::TooLarge
        });
        for n in 0..256_u32 {
            spawn(env, &tasks, Spawn::new("t", b"1"));
            let more = take(env, &tasks, session);
            let sign = Sign::new(more.id, more.fence, None, Some(large.as_bytes().into())).unwrap();
            tasks.show(session, vec![sign]);
            let kept = block_on(env, tasks.get(more.id)).unwrap().shown.unwrap().progress;
            assert_eq!(kept.is_some(), n < 255, "{n}");
        }
        // It goes with the hand-out.
        op(env, &tasks, session, &work, OpKind::Release { due_ms: None }).unwrap();
        assert_eq!(shown(), None);
        let again = take(env, &tasks, session);
        assert_eq!((again.id, shown()), (id, says(None, None, None)));
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn what_a_worker_has_forgotten_is_lost_and_what_it_holds_no_longer_it_is_told() {
    world(12, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        let work = take(env, &tasks, session);
        let live = [(work.id, work.fence)];
        op(env, &tasks, session, &work, step("s", "1")).unwrap();
        assert_eq!(block_on(env, tasks.beat(session, &live)).unwrap(), []);
        // Its code is gone, by a defect: it beats on without it.
        let waiter = Waiter::new(env);
        let until = env.now() + 3 * BEAT;
        while env.now() < until {
            waiter.wait(BEAT / 2);
            block_on(env, tasks.beat(session, &[])).unwrap();
        }
        let again = take(env, &tasks, session);
        let view = block_on(env, tasks.get(id)).unwrap();
        assert_eq!((again.id, again.steps.len(), view.task.lost), (id, 1, 1));
        let runs = block_on(env, tasks.runs(id, 0, 9)).unwrap().items;
        assert_eq!((runs.len(), runs[0].worker.as_str()), (1, "w1"));
        // Whoever still lists the old hand-out is told, as often as it lists it.
        let fences = |live: &[_]| {
            let signals = block_on(env, tasks.beat(session, live)).unwrap();
            signals.into_iter().map(|signal| (signal.fence, signal.by)).collect::<Vec<_>>()
        };
        let held = (again.id, again.fence);
        for _ in 0..2 {
            assert_eq!(fences(&[live[0], held]), [(work.fence, Ending::Lost)]);
        }
        block_on(env, tasks.cancel(id, "enough")).unwrap();
        for _ in 0..2 {
            assert_eq!(fences(&[held]), [(again.fence, Ending::Cancelled)]);
        }
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_worker_is_told_of_a_hand_out_that_was_taken_back_whenever_it_names_it() {
    world(35, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        // The answer is on its way for a very long time.
        let late = take(env, &tasks, session);
        let waiter = Waiter::new(env);
        let until = env.now() + 3 * BEAT;
        while env.now() < until {
            waiter.wait(BEAT / 2);
            block_on(env, tasks.beat(session, &[])).unwrap();
        }
        let again = take(env, &tasks, session);
        assert_eq!((again.id, again.attempt, block_on(env, tasks.get(id)).unwrap().task.lost), (id, 1, 0));
        for _ in 0..2 {
            let live = [(late.id, late.fence), (again.id, again.fence)];
            let signals = block_on(env, tasks.beat(session, &live)).unwrap();
            let told: Vec<_> = signals.into_iter().map(|signal| (signal.fence, signal.by)).collect();
            assert_eq!(told, [(late.fence, Ending::Lost)]);
        }
        tasks.close();
        db.close().unwrap();
    });
}

/// A hello whose answer was lost has moved what is held to a session that nobody has.
#[test]
fn a_beat_that_names_a_hand_out_keeps_it() {
    world(15, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        spawn(env, &tasks, Spawn::new("t", b"1"));
        let work = take(env, &tasks, session);
        let held = [(work.id, work.fence)];
        let again = Hello { tasks: names(&["t"]), queues: names(&["default"]), slots: 1, ..Hello::default() };
        assert_eq!(block_on(env, tasks.hello(again, &held)).unwrap().kept, [work.id]);
        let waiter = Waiter::new(env);
        for _ in 0..9 {
            waiter.wait(LEASE / 3);
            assert_eq!(block_on(env, tasks.beat(session, &held)).unwrap().len(), 0);
        }
        op(env, &tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
        tasks.close();
        db.close().unwrap();
    });
}

/// What one task is told under many ids counts as often; it went into one batch, which was too large for ever.
#[test]
fn a_large_event_reaches_tasks_that_wait_for_it_many_times() {
    const WAITS: usize = 50;
    world(16, |env, _| {
        // A batch may have 64 MiB, as with the default options.
        let options = cairn::Options { memory_budget_bytes: 256 << 20, ..cairn::Options::default() };
        let db = cairn::Db::open_in(env, "db", options).unwrap();
        let tasks = Tasks::open(env, db.clone()).unwrap();
        let session = hello(env, &tasks, &["t"]);
        let ids: Vec<_> = (0..3).map(|_| spawn(env, &tasks, Spawn::new("t", b"1"))).collect();
        for _ in &ids {
            let work = take(env, &tasks, session);
            let waits = (0..WAITS).map(|n| wait(&format!("w{n}"), event("go"))).collect();
            op(env, &tasks, session, &work, OpKind::Suspend(waits)).unwrap();
        }
        let payload = format!("\"{}\"", "x".repeat(500 << 10));
        assert!(block_on(env, tasks.emit("default", "go", payload.as_bytes())).unwrap());
        for id in ids {
            let waiter = Waiter::new(env);
            while block_on(env, tasks.get(id)).unwrap().task.status.state() == State::Waiting {
                waiter.wait(Duration::from_millis(10));
            }
            let mut after = None;
            let mut count = 0;
            loop {
                let (steps, more) = block_on(env, tasks.steps(id, after.as_ref(), WAITS)).unwrap();
                count += steps.len();
                after = steps.last().map(|(id, _)| id.clone());
                if !more {
                    break;
                }
            }
            assert_eq!(count, WAITS);
        }
        tasks.close();
        db.close().unwrap();
    });
}

/// Where workers live in the process that has died, nobody waits a lease for them.
#[test]
fn orphans_can_be_released_at_once() {
    world(14, |env, _| {
        let (db, tasks) = open(env);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        take(env, &tasks, hello(env, &tasks, &["t"]));
        tasks.close();
        let tasks = Tasks::open(env, db.clone()).unwrap();
        let session = hello(env, &tasks, &["t"]);
        assert_eq!(block_on(env, tasks.take(session, 1)).unwrap().0.len(), 0, "its worker may come back");
        block_on(env, tasks.release_orphans()).unwrap();
        let taken = block_on(env, tasks.take(session, 1)).unwrap().0;
        assert_eq!(taken.iter().map(|work| work.id).collect::<Vec<_>>(), [id]);
        let task = block_on(env, tasks.get(id)).unwrap().task;
        assert_eq!((task.lost, task.status.state()), (1, State::Running));
        tasks.close();
        // Lost again, it waits for the lease: a program that dies again and again does not use its tasks up.
        let tasks = Tasks::open(env, db.clone()).unwrap();
        let session = hello(env, &tasks, &["t"]);
        block_on(env, tasks.release_orphans()).unwrap();
        assert_eq!(block_on(env, tasks.take(session, 1)).unwrap().0.len(), 0);
        assert_eq!(block_on(env, tasks.get(id)).unwrap().task.lost, 1);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn tasks_of_a_paused_queue_wake_nobody() {
    world(13, |env, _| {
        let (db, tasks) = open(env);
        let pause = |status| block_on(env, tasks.set_queue("default", Queue { status, ..Queue::default() })).unwrap();
        pause(QueueStatus::Paused);
        for _ in 0..10 {
            spawn(env, &tasks, Spawn::new("t", b"1"));
        }
        let workers: Vec<_> = (0..8).map(|_| (hello(env, &tasks, &["t"]), Waiter::new(env))).collect();
        for (session, waiter) in &workers {
            let taken = block_on(env, tasks.take_or_park(*session, 1, Some(&waiter.waker()))).unwrap();
            assert_eq!(taken.0.len(), 0);
        }
        spawn(env, &tasks, Spawn::new("t", b"1"));
        assert!(workers.iter().all(|(_, waiter)| !waiter.wait(std::time::Duration::from_secs(3))));
        pause(QueueStatus::Active);
        assert!(workers.iter().all(|(_, waiter)| waiter.wait(std::time::Duration::from_secs(3))));
        tasks.close();
        db.close().unwrap();
    });
}

/// An entry that the owner did not write shows whether it looks at all of them.
#[test]
fn a_pause_does_not_count_a_queue_anew() {
    world(39, |env, _| {
        let (db, tasks) = open(env);
        let queue = Queue { max_waiting: Some(2), ..Queue::default() };
        let set = |queue: Queue| block_on(env, tasks.set_queue("default", queue)).unwrap();
        set(queue);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        let view = block_on(env, tasks.get(id)).unwrap();
        let made_up = TaskId::new(1, [7; 10]);
        let entry = Entry::Ready { lane: Lane::of(&view.spec), due_ms: u64::MAX, task: made_up };
        db.keyspace("tasks").unwrap().put(&entry.key(), &[]).unwrap();
        set(Queue { status: QueueStatus::Paused, ..queue });
        set(queue);
        spawn(env, &tasks, Spawn::new("t", b"1"));
        // What is set for the first time is counted.
        set(Queue { max_waiting: None, ..queue });
        set(Queue { max_waiting: Some(4), ..queue });
        spawn(env, &tasks, Spawn::new("t", b"1"));
        let refused = block_on(env, tasks.spawn(&[Spawn::new("t", b"1")])).unwrap().remove(0).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        tasks.close();
        db.close().unwrap();
    });
}
