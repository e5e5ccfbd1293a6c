//! The power goes at each call of the disk while what takes several batches is under way, and once more while the next
//! server goes on with it: deleting a queue, and telling an event and the end of a task to more than are told at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeSet;

use cairn::{Db, Env, Options};
use cairn_durable::ErrorKind;
use cairn_durable::call::{OpKind, Spawn, Work};
use cairn_durable::id::TaskId;
use cairn_durable::queue::Queue;
use cairn_durable::wait::Target;
use cairn_durable::worker::{Hello, SessionId};
use cairn_env::testing::Rng;
use cairn_env::{CrashPolicy, SimDisk};
use common::*;

const HOUR_MS: u64 = 3_600_000;

/// A server on a disk. `None` if the power goes before it is open.
fn life<R>(seed: u64, disk: &SimDisk, body: impl FnOnce(&Env, &EngineTasks) -> R) -> Option<R> {
    let env = Env::simulated(seed, disk.clone());
    let run = env.run(|| {
        let options = Options { memory_budget_bytes: 8 << 20, memtable_bytes_max: 1 << 20, ..Options::default() };
        let opened = Db::open_in(&env, "db", options).ok();
        let opened = opened.and_then(|db| EngineTasks::open(&env, db.clone()).ok().map(|tasks| (db, tasks)));
        let Some((db, tasks)) = opened else {
            assert!(disk.is_crashed());
            return None;
        };
        let value = body(&env, &tasks);
        tasks.close();
        drop(tasks);
        let _ = db.close();
        Some(value)
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "seed {seed}");
    run.value
}

/// Does `work` on a disk as prepared, and cuts the power at its first call, at its second, and so on, until one comes
/// to its end. What each cut may leave goes through another, while a server only goes on with what it finds, and is
/// then checked with what `work` said.
fn cut_everywhere<R: Copy>(
    name: &str,
    prepared: &SimDisk,
    work: impl Fn(&Env, &EngineTasks) -> R,
    check: impl Fn(&Env, &EngineTasks, R, &str),
) {
    let (mut cuts, mut second_cuts) = (0, 0);
    for at in 1.. {
        let disk = prepared.crash(CrashPolicy::KeepAll);
        let said = life(at, &disk, |env, tasks| {
            disk.crash_at(disk.steps() + at);
            work(env, tasks)
        });
        let said = said.expect("no cut while it is opened");
        for (n, policy) in [CrashPolicy::DropAll, CrashPolicy::KeepAll, CrashPolicy::Random(at)].into_iter().enumerate()
        {
            let left = disk.crash(policy);
            let again = Rng::new(at << 2 | n as u64).below(40);
            left.crash_at(left.steps() + 1 + again);
            life(at, &left, |env, _| sleep(env, 5));
            second_cuts += u64::from(left.is_crashed());
            let left = left.crash(CrashPolicy::Random(again));
            let what = format!("cut at call {at} ({policy:?}), then at {again}");
            life(at, &left, |env, tasks| check(env, tasks, said, &what)).expect("no cut any more");
        }
        if !disk.is_crashed() {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 3 && second_cuts > 3, "{cuts} {second_cuts}");
    println!("proof: power cuts while {name} = {cuts}");
    println!("proof: second power cuts while {name} = {second_cuts}");
}

const EVENTS: usize = 1_200;

fn events(env: &Env, tasks: &EngineTasks, queue: &str) -> Result<usize, ErrorKind> {
    let page = block_on(env, tasks.events(queue, "", None, 9_000));
    page.map(|page| page.items.len()).map_err(|e| e.kind())
}

/// Whether the idempotency key of a queue stands for a task.
fn has_key(env: &Env, tasks: &EngineTasks, queue: &str) -> bool {
    let idempotency_key = Some("once".to_owned());
    let again = Spawn { queue: queue.to_owned(), idempotency_key, ..Spawn::new("t", b"1") };
    !block_on(env, tasks.spawn(&[again])).unwrap().remove(0).unwrap().created
}

/// Once it stood half deleted after a crash, without some of its events, until somebody deleted it again.
#[test]
fn a_queue_is_deleted_whole_or_not_at_all() {
    let prepared = SimDisk::with_seed(1);
    life(1, &prepared, |env, tasks| {
        for queue in ["mail", "mai"] {
            let short = Queue { event_ttl_ms: HOUR_MS, ..Queue::default() };
            block_on(env, tasks.set_queue(queue, short)).unwrap();
            for n in 0..EVENTS {
                drop(tasks.emit(queue, &format!("e:{n}"), b"1"));
            }
            assert!(!has_key(env, tasks, queue));
        }
        let all = Hello { tasks: names(&["t"]), queues: names(&["mail", "mai"]), slots: 4, ..Hello::default() };
        let session = block_on(env, tasks.hello(all, &[])).unwrap().session;
        for _ in 0..2 {
            let work = take(env, tasks, session);
            op(env, tasks, session, &work, OpKind::Finish(b"1".as_slice().into())).unwrap();
        }
    });
    let work = |env: &Env, tasks: &EngineTasks| block_on(env, tasks.delete_queue("mail")).is_ok();
    let check = |env: &Env, tasks: &EngineTasks, deleted: bool, what: &str| {
        let whole = loop {
            match events(env, tasks, "mail") {
                Ok(count) => {
                    assert_eq!((count, deleted), (EVENTS, false), "{what}");
                    assert!(has_key(env, tasks, "mail"), "{what}");
                    break true;
                }
                Err(ErrorKind::Conflict) => sleep(env, 1),
                Err(ErrorKind::NotFound) => break false,
                Err(other) => panic!("{what}: {other:?}"),
            }
        };
        assert_eq!(events(env, tasks, "mai"), Ok(EVENTS), "{what}");
        assert!(has_key(env, tasks, "mai"), "{what}");
        if whole {
            block_on(env, tasks.delete_queue("mail")).unwrap();
        }
        // A queue made anew begins with nothing, and nothing takes away what it then has.
        let long = Queue { event_ttl_ms: 10 * HOUR_MS, ..Queue::default() };
        block_on(env, tasks.set_queue("mail", long)).unwrap();
        assert_eq!(events(env, tasks, "mail"), Ok(0), "{what}");
        assert!(!has_key(env, tasks, "mail"), "{what}");
        for n in 0..EVENTS {
            drop(tasks.emit("mail", &format!("e:{n}"), b"2"));
        }
        tasks.advance_clock(2 * HOUR_MS);
        sleep(env, 5);
        assert_eq!((events(env, tasks, "mai"), events(env, tasks, "mail")), (Ok(0), Ok(EVENTS)), "{what}");
    };
    cut_everywhere("a queue is deleted", &prepared, work, check);
}

/// Three batches tell them all.
const WAITING: usize = 520;

#[test]
fn everybody_who_waits_is_told_once() {
    let prepared = SimDisk::with_seed(2);
    let made = life(2, &prepared, |env, tasks| {
        let session = hello(env, tasks, &["child", "parent"]);
        spawn(env, tasks, Spawn::new("child", b"1"));
        let child = take(env, tasks, session);
        let of = |n: usize| if n.is_multiple_of(2) { event("go") } else { Target::Task(child.id) };
        let waiting: BTreeSet<TaskId> = (0..2 * WAITING)
            .map(|n| {
                let id = spawn(env, tasks, Spawn::new("parent", b"1"));
                let work = take(env, tasks, session);
                op(env, tasks, session, &work, OpKind::Suspend(vec![wait("w", of(n))])).unwrap();
                id
            })
            .collect();
        (child, waiting)
    });
    let (child, waiting): (Work, BTreeSet<TaskId>) = made.unwrap();
    let emit = |env: &Env, tasks: &EngineTasks| block_on(env, tasks.emit("default", "go", b"17")).is_ok();
    let back = |env: &Env, tasks: &EngineTasks| -> Option<SessionId> {
        let offers = Hello { tasks: names(&["parent"]), queues: names(&["default"]), slots: 4, ..Hello::default() };
        block_on(env, tasks.hello(offers, &[(child.id, child.fence)])).ok().map(|welcome| welcome.session)
    };
    let finish = |env: &Env, tasks: &EngineTasks, session: SessionId| {
        let op = cairn_durable::call::Op {
            task: child.id,
            fence: child.fence,
            what: OpKind::Finish(b"17".as_slice().into()),
        };
        block_on(env, tasks.ops(session, vec![op], 0)).is_ok_and(|mut told| told.acks.remove(0).is_ok())
    };
    let work = |env: &Env, tasks: &EngineTasks| {
        let emitted = emit(env, tasks);
        let finished = back(env, tasks).is_some_and(|session| finish(env, tasks, session));
        sleep(env, 1);
        (emitted, finished)
    };
    let check = |env: &Env, tasks: &EngineTasks, (emitted, finished): (bool, bool), what: &str| {
        let session = back(env, tasks).unwrap();
        // What was answered needs no repeating.
        assert!(emitted || emit(env, tasks), "{what}");
        assert!(finished || finish(env, tasks, session), "{what}");
        sleep(env, 5);
        let mut works = Vec::new();
        loop {
            let (more, _) = block_on(env, tasks.take(session, 2 * waiting.len())).unwrap();
            if more.is_empty() {
                break;
            }
            works.extend(more);
        }
        let woken: BTreeSet<TaskId> = works.iter().map(|work| work.id).collect();
        assert!((works.len(), &woken) == (waiting.len(), &waiting), "{what}: {} of {}", works.len(), waiting.len());
        for work in works {
            let told: Vec<_> = work.steps.iter().map(|(_, step)| &step.outcome).collect();
            assert_eq!(told, [&value("17")], "{what}");
            assert!(block_on(env, tasks.get(work.id)).unwrap().waits.is_empty(), "{what}");
        }
        sleep(env, 5);
        assert!(block_on(env, tasks.take(session, 9)).unwrap().0.is_empty(), "{what}");
    };
    cut_everywhere("all who wait are told", &prepared, work, check);
}
