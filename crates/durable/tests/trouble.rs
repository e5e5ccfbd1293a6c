//! Damaged records, large values and calls that ask for too much: the trouble of one task is not that of others, and no call
//! takes or answers without bound.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use cairn::{Db, Env, Options};
use cairn_durable::call::{Ack, Op, OpKind, Spawn, VALUE_BYTES_MAX};
use cairn_durable::id::TaskId;
use cairn_durable::key::{self, Entry, Lane, Part};
use cairn_durable::queue::{Queue, QueueStatus};
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::task::{Cancellation, Ending, Failure, Fence, State};
use cairn_durable::wait::{Target, WAITS_MAX};
use cairn_durable::worker::BEAT;
use cairn_durable::{ErrorKind, Filter};
use common::*;

/// Makes a row of a task unreadable.
fn damage(db: &Db, id: TaskId, key: &[u8]) {
    let bucket = db.keyspace(&format!("tasks-{}-30", id.made_ms() / 86_400_000)).unwrap();
    assert!(bucket.get(key).unwrap().is_some(), "there is no such row");
    bucket.put(key, &[0xff]).unwrap();
}

/// A database with room for large values.
fn open_roomy(env: &Env) -> (Db, EngineTasks) {
    let options = Options { memory_budget_bytes: 128 << 20, ..Options::default() };
    let db = Db::open_in(env, "db", options).unwrap();
    let tasks = EngineTasks::open(env, db.clone()).unwrap();
    (db, tasks)
}

fn large() -> Vec<u8> {
    let mut json = vec![b'1'; VALUE_BYTES_MAX];
    json[0] = b'2';
    json
}

fn failure(bytes: usize) -> Failure {
    Failure { kind: "Oops".to_owned(), message: "m".repeat(bytes), detail: None, retryable: true }
}

#[test]
fn a_parent_goes_on_with_as_many_large_outputs_as_go_into_one_answer() {
    world(31, |env, _| {
        let (db, tasks) = open_roomy(env);
        let session = hello(env, &tasks, &["child", "parent"]);
        let children: Vec<TaskId> = (0..12).map(|_| spawn(env, &tasks, Spawn::new("child", b"1"))).collect();
        for _ in &children {
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, OpKind::Finish(large().into())).unwrap();
        }
        spawn(env, &tasks, Spawn::new("parent", b"1"));
        let parent = take(env, &tasks, session);
        let mut waits: Vec<_> =
            children.iter().enumerate().map(|(n, id)| wait(&format!("child#{n}"), Target::Task(*id))).collect();
        waits.push(wait("event", event("e")));
        // A fence that is none is refused before anything is read, and so are too many waits.
        let stale = Op {
            task: parent.id,
            fence: Fence { instance: 1, count: 1 },
            what: OpKind::Suspend(vec![wait("none", Target::Task(TaskId::new(1, [7; 10])))]),
        };
        let told = block_on(env, tasks.ops(session, vec![stale], 0)).unwrap();
        assert_eq!(told.acks[0].as_ref().unwrap_err().kind(), ErrorKind::StaleFence);
        let many = (0..=WAITS_MAX).map(|n| wait(&format!("{n}"), Target::Task(children[0]))).collect();
        let refused = op(env, &tasks, session, &parent, OpKind::Suspend(many)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        // As a worker does it: what is resumed goes on, the others are told again.
        let mut calls = 0;
        loop {
            calls += 1;
            let again = op(env, &tasks, session, &parent, OpKind::Suspend(waits.clone())).unwrap();
            let Ack::Suspended(resumed) = again else { panic!("{again:?}") };
            let bytes: usize = resumed.iter().map(|(_, step)| step.outcome.bytes()).sum();
            assert!(bytes <= 5 << 20, "{bytes}");
            waits.retain(|wait| resumed.iter().all(|(id, _)| *id != wait.id));
            if resumed.is_empty() {
                break;
            }
        }
        assert_eq!((waits.len(), calls), (1, 4));
        assert_eq!(block_on(env, tasks.get(parent.id)).unwrap().task.status.state(), State::Waiting);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn failures_of_an_earlier_attempt_do_not_hide_the_steps_behind_them() {
    world(32, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let id = spawn(env, &tasks, Spawn::new("t", b"1"));
        let work = take(env, &tasks, session);
        for name in ["a", "b", "c"] {
            let outcome = Outcome::Failed { failure: failure(600 << 10), retry_at_ms: None };
            op(env, &tasks, session, &work, OpKind::Step { id: StepId::new(name).unwrap(), outcome }).unwrap();
        }
        op(env, &tasks, session, &work, step("z", "1")).unwrap();
        op(env, &tasks, session, &work, OpKind::Fail { failure: failure(1), retry_at_ms: None }).unwrap();
        let work = take(env, &tasks, session);
        assert_eq!((work.attempt, work.steps.len()), (2, 0));
        let mut next = work.steps_next;
        let mut names = Vec::new();
        while let Some(after) = next {
            let (steps, more) = block_on(env, tasks.steps(id, Some(&after), 10)).unwrap();
            names.extend(steps.iter().map(|(id, _)| id.as_str().to_owned()));
            next = steps.last().filter(|_| more).map(|(id, _)| id.clone());
        }
        assert_eq!(names.last().map(String::as_str), Some("z"), "what is recorded is run again");
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_damaged_task_at_the_head_of_a_queue_keeps_no_other_from_being_handed_out() {
    world(33, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        // One that was begun, with a damaged step; one with a damaged record; a sound one.
        let begun = spawn(env, &tasks, Spawn::new("t", b"1"));
        let work = take(env, &tasks, session);
        op(env, &tasks, session, &work, step("s", "1")).unwrap();
        op(env, &tasks, session, &work, OpKind::Release { due_ms: None }).unwrap();
        let ids: Vec<_> = (0..4).map(|_| spawn(env, &tasks, Spawn::new("t", b"1"))).collect();
        damage(&db, begun, &key::of_step(begun, &StepId::new("s").unwrap()));
        damage(&db, ids[0], &key::of_task(Part::Task, ids[0]));
        let (handed, _) = block_on(env, tasks.take(session, 1)).unwrap();
        assert_eq!(handed.iter().map(|work| work.id).collect::<Vec<_>>(), [ids[1]]);
        // What was applied is answered, whatever the next task is.
        damage(&db, ids[2], &key::of_task(Part::Task, ids[2]));
        let ops = vec![Op { task: handed[0].id, fence: handed[0].fence, what: step("s", "1") }];
        let told = block_on(env, tasks.ops(session, ops, 9)).unwrap();
        assert_eq!(told.acks, [Ok(Ack::Done)]);
        assert_eq!(told.work.iter().map(|work| work.id).collect::<Vec<_>>(), [ids[3]]);
        assert!(block_on(env, tasks.take(session, 9)).unwrap().0.is_empty());
        // So does a damaged one that a worker has: the server starts without it.
        damage(&db, ids[3], &key::of_task(Part::Spec, ids[3]));
        tasks.close();
        drop(tasks);
        let tasks = EngineTasks::open(env, db.clone()).unwrap();
        let fresh = spawn(env, &tasks, Spawn::new("t", b"1"));
        let session = hello(env, &tasks, &["t"]);
        assert_eq!(take(env, &tasks, session).id, fresh);
        assert_eq!(block_on(env, tasks.get(ids[3])).unwrap_err().kind(), ErrorKind::Corrupt);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_beat_goes_on_past_what_cannot_be_taken_back() {
    world(34, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["child", "parent", "other"]);
        let parent = spawn(env, &tasks, Spawn::new("parent", b"1"));
        let work = take(env, &tasks, session);
        let spawned = OpKind::Spawn {
            id: StepId::new("child").unwrap(),
            spawn: Box::new(Spawn { max_lost: 0, ..Spawn::new("child", b"1") }),
        };
        let Ack::Spawned(child) = op(env, &tasks, session, &work, spawned).unwrap() else { panic!() };
        op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("end", Target::Task(child.id))])).unwrap();
        let forgotten = take(env, &tasks, session);
        assert_eq!(forgotten.id, child.id);
        let other = spawn(env, &tasks, Spawn::new("other", b"1"));
        let also_forgotten = take(env, &tasks, session);
        for work in [&forgotten, &also_forgotten] {
            op(env, &tasks, session, work, step("s", "1")).unwrap();
        }
        // That the child is lost for good cannot be told to its parent.
        damage(&db, parent, &key::of_task(Part::Task, parent));
        let waiter = Waiter::new(env);
        let until = env.now() + 4 * BEAT;
        let mut told = Vec::new();
        while env.now() < until {
            waiter.wait(BEAT / 2);
            let signals = block_on(env, tasks.beat(session, &[])).unwrap();
            told.extend(signals.into_iter().map(|signal| signal.fence));
        }
        assert!(told.contains(&also_forgotten.fence));
        assert_eq!(take(env, &tasks, session).id, other);
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
fn one_answer_hands_out_so_many_tasks_and_bytes_at_most() {
    world(37, |env, _| {
        let (db, tasks) = open_roomy(env);
        let session = hello(env, &tasks, &["small", "large"]);
        block_on(env, tasks.spawn(&vec![Spawn::new("small", b"1"); 300])).unwrap();
        let count = || block_on(env, tasks.take(session, 1_000)).unwrap().0.len();
        assert_eq!([count(), count(), count()], [256, 44, 0]);
        for _ in 0..12 {
            spawn(env, &tasks, Spawn::new("large", &large()));
        }
        assert_eq!([count(), count(), count()], [8, 4, 0]);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn large_failures_come_in_pages() {
    world(38, |env, _| {
        let (db, tasks) = open_roomy(env);
        let session = hello(env, &tasks, &["t"]);
        let fail = |retryable: bool| {
            let failure = Failure { retryable, ..failure((1 << 20) - 10) };
            OpKind::Fail { failure, retry_at_ms: Some(0) }
        };
        let id = spawn(env, &tasks, Spawn { max_attempts: 9, ..Spawn::new("t", b"1") });
        for _ in 0..6 {
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, fail(true)).unwrap();
        }
        let (mut attempts, mut after) = (Vec::new(), 0);
        loop {
            let page = block_on(env, tasks.runs(id, after, 100)).unwrap();
            assert!(page.items.len() <= 1, "a page has so many bytes");
            attempts.extend(page.items.iter().map(|run| run.run.attempt));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);
        // In pages of so many entries, too.
        let page = block_on(env, tasks.runs(id, 4, 1)).unwrap();
        assert_eq!((page.items[0].run.attempt, page.next), (5, Some(5)));
        assert_eq!(block_on(env, tasks.runs(id, 6, 1)).unwrap().items, []);
        op(env, &tasks, session, &take(env, &tasks, session), fail(false)).unwrap();
        for _ in 0..8 {
            spawn(env, &tasks, Spawn::new("t", b"1"));
            op(env, &tasks, session, &take(env, &tasks, session), fail(false)).unwrap();
        }
        let first = block_on(env, tasks.list(&Filter::default(), None, 100)).unwrap();
        assert!(first.items.len() <= 4 && first.next.is_some(), "{}", first.items.len());
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
