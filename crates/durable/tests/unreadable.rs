//! Records that cannot be read, and entries that follow from no record: what is damaged, written by a newer build, or
//! back after a repair harms only itself. What could not be read is tried again, and goes on once it can be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use cairn::{Db, Durability, Visibility};
use cairn_durable::ErrorKind;
use cairn_durable::call::{Ack, Op, OpKind, Spawn};
use cairn_durable::id::TaskId;
use cairn_durable::key::{self, Entry, Lane, Part};
use cairn_durable::queue::Queue;
use cairn_durable::step::StepId;
use cairn_durable::task::State;
use cairn_durable::wait::Target;
use cairn_durable::worker::BEAT;
use common::*;

const DAY_MS: u64 = 86_400_000;
/// What could not be read has been tried again by then.
const TRIED_AGAIN_SECONDS: u64 = 15 * 60;

/// Makes a row of a task one that no build has written, and gives back how it was.
fn damage(db: &Db, key: &[u8]) -> Vec<u8> {
    let row = read(db, key).unwrap();
    write(db, key, &[0xff, 1, 2, 3]);
    row
}

/// The bucket in which a row stands.
fn bucket_of(db: &Db, key: &[u8]) -> Option<cairn::Keyspace> {
    let buckets = db.keyspaces().into_iter().filter(|name| name.starts_with("tasks-"));
    buckets.map(|name| db.keyspace(&name).unwrap()).find(|space| space.get(key).unwrap().is_some())
}

fn read(db: &Db, key: &[u8]) -> Option<Vec<u8>> {
    bucket_of(db, key).and_then(|space| space.get(key).unwrap())
}

fn write(db: &Db, key: &[u8], row: &[u8]) {
    let mut batch = db.batch();
    batch.put(&bucket_of(db, key).unwrap(), key, row);
    db.write(batch, Durability::Commit).unwrap();
}

fn how_far(id: TaskId) -> Vec<u8> {
    key::of_task(Part::Task, id)
}

fn finish() -> OpKind {
    OpKind::Finish(b"1".as_slice().into())
}

/// Once an emit was refused for ever while one of those who wait for it could not be read; and if that one was met
/// later than at once, the others were never told.
#[test]
fn who_cannot_be_read_keeps_no_other_from_being_told() {
    for restart in [false, true] {
        world(1, |env, _| {
            let (db, mut tasks) = open(env);
            block_on(env, tasks.set_queue("default", Queue { event_ttl_ms: 60_000, ..Queue::default() })).unwrap();
            let session = hello(env, &tasks, &["t"]);
            let waiting: Vec<TaskId> = (0..600).map(|_| suspended(env, &tasks, session, &event("go"))).collect();
            let damaged = [waiting[0], waiting[300], waiting[599]];
            let rows = damaged.map(|id| damage(&db, &how_far(id)));
            assert!(block_on(env, tasks.emit("default", "go", b"17")).unwrap());
            sleep(env, 5);
            let others = || waiting.iter().filter(|id| !damaged.contains(id));
            for id in others() {
                assert_eq!(state(env, &tasks, *id), State::Queued);
            }
            for id in damaged {
                assert_eq!(block_on(env, tasks.get(id)).unwrap_err().kind(), ErrorKind::Corrupt);
            }
            // What they are told stays, also when the event has gone and another has come under its name.
            tasks.advance_clock(120_000);
            sleep(env, 5);
            assert!(block_on(env, tasks.emit("default", "go", b"18")).unwrap());
            damaged.iter().zip(rows).for_each(|(id, row)| write(&db, &how_far(*id), &row));
            if restart {
                tasks.close();
                drop(tasks);
                tasks = EngineTasks::open(env, db.clone()).unwrap();
                sleep(env, 5);
            } else {
                sleep(env, TRIED_AGAIN_SECONDS);
            }
            for id in damaged {
                assert_eq!(state(env, &tasks, id), State::Queued);
                let (steps, _) = block_on(env, tasks.steps(id, None, 9)).unwrap();
                assert_eq!((steps.len(), &steps[0].1.outcome), (1, &value("17")));
            }
            tasks.close();
            db.close().unwrap();
        });
    }
}

/// The end of a child is told to its parent in the same batch; so it could not end.
#[test]
fn a_child_ends_though_its_parent_cannot_be_read() {
    world(2, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let child = spawn(env, &tasks, Spawn::new("t", b"1"));
        let held = take(env, &tasks, session);
        let parent = suspended(env, &tasks, session, &Target::Task(child));
        let row = damage(&db, &how_far(parent));
        op(env, &tasks, session, &held, finish()).unwrap();
        assert_eq!(state(env, &tasks, child), State::Completed);
        write(&db, &how_far(parent), &row);
        sleep(env, TRIED_AGAIN_SECONDS);
        assert_eq!(state(env, &tasks, parent), State::Queued);
        tasks.close();
        db.close().unwrap();
    });
}

/// The first of a lane could not be read: so nothing behind it was handed out, and every call for work failed.
#[test]
fn what_cannot_be_read_is_not_handed_out_and_the_rest_is() {
    world(3, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let first = spawn(env, &tasks, Spawn::new("t", b"1"));
        let begun = spawn(env, &tasks, Spawn::new("t", b"1"));
        let works = [take(env, &tasks, session), take(env, &tasks, session)];
        op(env, &tasks, session, &works[1], step("s", "1")).unwrap();
        for work in &works {
            op(env, &tasks, session, work, OpKind::Release { due_ms: None }).unwrap();
        }
        let last = spawn(env, &tasks, Spawn::new("t", b"1"));
        let broken = [how_far(first), key::of_step(begun, &StepId::new("s").unwrap())];
        let rows = broken.clone().map(|key| damage(&db, &key));
        assert_eq!(take(env, &tasks, session).id, last);
        let (work, _) = block_on(env, tasks.take(session, 9)).unwrap();
        assert!(work.is_empty());
        broken.iter().zip(&rows).for_each(|(key, row)| write(&db, key, row));
        sleep(env, TRIED_AGAIN_SECONDS);
        let session = hello(env, &tasks, &["t"]);
        let mut again = [take(env, &tasks, session).id, take(env, &tasks, session).id];
        again.sort();
        assert_eq!(again, [first, begun]);
        tasks.close();
        db.close().unwrap();
    });
}

/// What was applied must be answered: a worker that is not told makes its calls again.
#[test]
fn calls_are_answered_whatever_the_next_task_is() {
    world(33, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let ids: Vec<TaskId> = (0..3).map(|_| spawn(env, &tasks, Spawn::new("t", b"1"))).collect();
        let work = take(env, &tasks, session);
        damage(&db, &how_far(ids[1]));
        let ops = vec![Op { task: work.id, fence: work.fence, what: step("s", "1") }];
        let told = block_on(env, tasks.ops(session, ops, 9)).unwrap();
        assert_eq!(told.acks, [Ok(Ack::Done)]);
        assert_eq!(told.work.iter().map(|work| work.id).collect::<Vec<_>>(), [ids[2]]);
        // Also if there is no other.
        let ops = vec![Op { task: work.id, fence: work.fence, what: step("s", "1") }];
        let told = block_on(env, tasks.ops(session, ops, 9)).unwrap();
        assert_eq!((told.acks, told.work.len()), (vec![Ok(Ack::Done)], 0));
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
        damage(&db, &how_far(parent));
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

/// A task in a worker's hands that could not be read kept the server from starting.
#[test]
fn a_running_task_that_cannot_be_read_does_not_keep_the_others_closed() {
    world(4, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let ids = [spawn(env, &tasks, Spawn::new("t", b"1")), spawn(env, &tasks, Spawn::new("t", b"1"))];
        let works = [take(env, &tasks, session), take(env, &tasks, session)];
        op(env, &tasks, session, &works[0], step("s", "1")).unwrap();
        tasks.close();
        drop(tasks);
        let row = damage(&db, &how_far(ids[0]));
        let tasks = EngineTasks::open(env, db.clone()).unwrap();
        let session = hello(env, &tasks, &["t"]);
        assert_eq!(take(env, &tasks, session).id, ids[1], "its worker is gone");
        write(&db, &how_far(ids[0]), &row);
        sleep(env, TRIED_AGAIN_SECONDS);
        let session = hello(env, &tasks, &["t"]);
        let mut found = Vec::new();
        while !found.contains(&ids[0]) {
            let work = take(env, &tasks, session);
            if work.id == ids[0] {
                assert_eq!(work.steps.len(), 1);
            }
            found.push(work.id);
        }
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_timer_fires_once_its_task_can_be_read() {
    world(5, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let until = |after_ms| Target::Timer(tasks.now_ms() + after_ms);
        let early = suspended(env, &tasks, session, &until(60_000));
        let late = suspended(env, &tasks, session, &until(61_000));
        let row = damage(&db, &how_far(early));
        sleep(env, 70);
        assert_eq!(state(env, &tasks, late), State::Queued);
        write(&db, &how_far(early), &row);
        sleep(env, TRIED_AGAIN_SECONDS);
        assert_eq!(state(env, &tasks, early), State::Queued);
        tasks.close();
        db.close().unwrap();
    });
}

/// Tasks that have outlived their day go one after the other; behind one that could not be read nothing went.
#[test]
fn what_expires_behind_a_damaged_task_goes() {
    world(6, |env, _| {
        let (db, tasks) = open(env);
        let keep = Queue { retention_days: 1, event_ttl_ms: 4 * DAY_MS, ..Queue::default() };
        block_on(env, tasks.set_queue("default", keep)).unwrap();
        let session = hello(env, &tasks, &["t"]);
        let ids: Vec<TaskId> = (0..3).map(|_| suspended(env, &tasks, session, &event("go"))).collect();
        tasks.advance_clock(3 * DAY_MS);
        sleep(env, 5);
        block_on(env, tasks.emit("default", "go", b"1")).unwrap();
        for _ in &ids {
            let work = take(env, &tasks, session);
            op(env, &tasks, session, &work, finish()).unwrap();
            sleep(env, 1);
        }
        let row = damage(&db, &how_far(ids[0]));
        block_on(env, tasks.emit("default", "later", b"1")).unwrap();
        tasks.advance_clock(5 * DAY_MS);
        sleep(env, 5);
        for id in &ids[1..] {
            assert_eq!(block_on(env, tasks.get(*id)).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert!(block_on(env, tasks.event("default", "later")).unwrap().is_none());
        assert_eq!(block_on(env, tasks.get(ids[0])).unwrap_err().kind(), ErrorKind::Corrupt);
        write(&db, &how_far(ids[0]), &row);
        sleep(env, TRIED_AGAIN_SECONDS);
        assert_eq!(block_on(env, tasks.get(ids[0])).unwrap_err().kind(), ErrorKind::NotFound);
        tasks.close();
        db.close().unwrap();
    });
}

/// An entry by which nothing known expires, and a mark of which nobody can say what is to be told.
#[test]
fn what_is_no_entry_keeps_no_other_from_its_time() {
    world(7, |env, _| {
        let (db, tasks) = open(env);
        block_on(env, tasks.set_queue("default", Queue { event_ttl_ms: 60_000, ..Queue::default() })).unwrap();
        block_on(env, tasks.emit("default", "e", b"1")).unwrap();
        tasks.close();
        drop(tasks);
        let index = db.keyspace("tasks").unwrap();
        let mark = key::of_unfinished("default", &event("e")).unwrap();
        for key in [b"X\0\0\0\0\0\0\0\0z".as_slice(), mark.as_slice()] {
            let mut batch = db.batch();
            batch.put(&index, key, &[0xff]);
            db.write(batch, Durability::Commit).unwrap();
        }
        let tasks = EngineTasks::open(env, db.clone()).unwrap();
        let session = hello(env, &tasks, &["t"]);
        let waiting: Vec<TaskId> = (0..300).map(|_| suspended(env, &tasks, session, &event("go"))).collect();
        block_on(env, tasks.emit("default", "go", b"1")).unwrap();
        sleep(env, 70);
        assert!(waiting.iter().all(|id| state(env, &tasks, *id) == State::Queued));
        assert!(block_on(env, tasks.event("default", "e")).unwrap().is_none());
        assert_eq!(index.get(&mark).unwrap().as_deref(), Some([0xff].as_slice()));
        tasks.close();
        db.close().unwrap();
    });
}

/// A repair may bring back rows that were deleted. An entry of a task that it does not follow from held up its lane for
/// ever, kept the clock busy without end, or hid how the task really was.
#[test]
fn an_entry_that_follows_from_no_record_does_nothing() {
    world(8, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["t"]);
        let done: Vec<TaskId> = (0..300)
            .map(|_| {
                let id = spawn(env, &tasks, Spawn::new("t", b"1"));
                let work = take(env, &tasks, session);
                op(env, &tasks, session, &work, finish()).unwrap();
                id
            })
            .collect();
        let queued = [spawn(env, &tasks, Spawn::new("t", b"1")), spawn(env, &tasks, Spawn::new("t", b"1"))];
        tasks.close();
        drop(tasks);
        let index = db.keyspace("tasks").unwrap();
        let lane = Lane { queue: "default".to_owned(), name: "t".to_owned(), rank: 0x7fff_ffff };
        let mut stale = vec![
            Entry::Ready { lane: lane.clone(), due_ms: 0, task: done[0] },
            Entry::Ready { lane, due_ms: 0, task: queued[0] },
            Entry::Timer { due_ms: 0, task: done[0] },
            Entry::Live(queued[0]),
        ];
        let waits = |task| Entry::ForEvent { queue: "default".to_owned(), event: "go".to_owned(), task };
        stale.extend(done.iter().copied().map(waits));
        let mut batch = db.batch();
        stale.iter().for_each(|entry| batch.put(&index, &entry.key(), &[]));
        db.write(batch, Durability::Commit).unwrap();

        let tasks = EngineTasks::open(env, db.clone()).unwrap();
        assert!(block_on(env, tasks.emit("default", "go", b"1")).unwrap());
        let session = hello(env, &tasks, &["t"]);
        assert_eq!(block_on(env, tasks.cancel(queued[0], "")).unwrap().task.status.state(), State::Cancelled);
        assert_eq!(state(env, &tasks, queued[0]), State::Cancelled);
        let work = take(env, &tasks, session);
        assert_eq!(work.id, queued[1]);
        op(env, &tasks, session, &work, finish()).unwrap();
        assert!(block_on(env, tasks.take(session, 9)).unwrap().0.is_empty());
        sleep(env, 5);
        let written = || db.default_keyspace().latest(Visibility::Applied).seq();
        let before = written();
        sleep(env, 5);
        assert_eq!(written(), before, "nothing is done again and again");
        for entry in &stale {
            let is_there = index.get(&entry.key()).unwrap().is_some();
            assert!(!is_there || matches!(entry, Entry::Live(_)), "{entry:?}");
        }
        tasks.close();
        db.close().unwrap();
    });
}
