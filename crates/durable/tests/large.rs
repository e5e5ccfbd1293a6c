//! What one call reads, takes and answers has bounds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use cairn::{Db, Env, Options};
use cairn_durable::call::{Ack, Op, OpKind, Spawn, VALUE_BYTES_MAX};
use cairn_durable::id::TaskId;
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::task::{Failure, Fence, State};
use cairn_durable::wait::{Target, WAITS_MAX};
use cairn_durable::{ErrorKind, Filter};
use common::*;

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
