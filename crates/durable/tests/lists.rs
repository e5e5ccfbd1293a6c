//! Lists of tasks and of events: what they show, in which order, and page after page.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeSet;

use cairn::Env;
use cairn_durable::call::{OpKind, Spawn};
use cairn_durable::id::TaskId;
use cairn_durable::queue::{Queue, QueueStatus};
use cairn_durable::task::{Failure, State};
use cairn_durable::wait::Target;
use cairn_durable::{ErrorKind, Filter};
use common::*;

const DAY_MS: u64 = 86_400_000;

/// All pages of a list, and how many there were.
fn pages(env: &Env, tasks: &EngineTasks, filter: &Filter, limit: usize) -> (Vec<TaskId>, usize) {
    let (mut ids, mut after, mut count) = (Vec::new(), None, 0);
    loop {
        let page = block_on(env, tasks.list(filter, after, limit)).unwrap();
        assert!(page.items.len() <= limit, "{} of {limit}", page.items.len());
        ids.extend(page.items.iter().map(|view| view.id));
        count += 1;
        let Some(next) = page.next else { return (ids, count) };
        assert!(after.is_none_or(|after| next < after), "a cursor goes on");
        after = Some(next);
    }
}

fn in_states<const N: usize>(states: [State; N]) -> Filter {
    Filter { states: states.into(), ..Filter::default() }
}

/// An id made so many milliseconds after 1970.
fn id(made_ms: u64, n: u64) -> TaskId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    TaskId::new(made_ms, random)
}

#[test]
fn tasks_of_many_days_and_buckets_come_newest_first_and_once() {
    world(1, |env, _| {
        let (db, tasks) = open(env);
        // Tasks of both queues are made at the same times and stand in different buckets.
        let short = Queue { retention_days: 1, ..Queue::default() };
        block_on(env, tasks.set_queue("short", short)).unwrap();
        let now_ms = tasks.now_ms();
        let mut expected = BTreeSet::new();
        // Today as many as the walk reads at once and more, of one queue many more than of the other.
        for (days, count) in [(0, 1_400), (1, 3), (5, 40)] {
            let spawns: Vec<Spawn> = (0..count)
                .map(|n| {
                    let queue = if n % 13 == 0 { "short" } else { "default" };
                    let id = id(now_ms - days * DAY_MS + n / 7, n * 7919 % 1000);
                    Spawn { id: Some(id), queue: queue.to_owned(), ..Spawn::new("t", b"1") }
                })
                .collect();
            let spawned = block_on(env, tasks.spawn(&spawns)).unwrap();
            expected.extend(spawned.into_iter().map(|spawned| spawned.unwrap().id));
        }
        assert_eq!(expected.len(), 1_443);
        let newest_first: Vec<TaskId> = expected.iter().rev().copied().collect();
        for limit in [7, 100, 1_000] {
            let (ids, count) = pages(env, &tasks, &Filter::default(), limit);
            assert!(ids == newest_first, "pages of {limit}: {} of {}", ids.len(), newest_first.len());
            assert!(count >= 1_443 / limit);
        }
        let of_short = Filter { queue: Some("short".to_owned()), ..Filter::default() };
        let (ids, _) = pages(env, &tasks, &of_short, 10);
        assert!(ids.is_sorted_by(|a, b| a > b) && ids.len() == 1_400usize.div_ceil(13) + 1 + 4, "{}", ids.len());
        // From anywhere, also from between two tasks and from a day of which there is none.
        for after in [newest_first[700], id(now_ms - DAY_MS + 1, u64::MAX), id(now_ms - 3 * DAY_MS, 0)] {
            let page = block_on(env, tasks.list(&Filter::default(), Some(after), 5)).unwrap();
            let behind: Vec<TaskId> = newest_first.iter().copied().filter(|id| *id < after).take(5).collect();
            assert_eq!(page.items.iter().map(|view| view.id).collect::<Vec<_>>(), behind);
        }
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_filter_tells_the_truth_about_every_state() {
    world(2, |env, _| {
        let (db, tasks) = open(env);
        let session = hello(env, &tasks, &["work"]);
        let failure = Failure { kind: "Oops".to_owned(), message: String::new(), detail: None, retryable: false };
        let mut expected = Vec::new();
        for state in State::ALL {
            let name = if state == State::Queued { "idle" } else { "work" };
            let tags = vec![("state".to_owned(), state.name().to_owned()), ("a=b".to_owned(), "c".to_owned())];
            let id = spawn(env, &tasks, Spawn { tags, ..Spawn::new(name, b"1") });
            let end = match state {
                State::Queued | State::Running => None,
                State::Waiting => Some(OpKind::Suspend(vec![wait("nap", Target::Timer(tasks.now_ms() + DAY_MS))])),
                State::Completed => Some(OpKind::Finish(b"7".as_slice().into())),
                State::Failed => Some(OpKind::Fail { failure: failure.clone(), retry_at_ms: None }),
                State::Cancelled => {
                    block_on(env, tasks.cancel(id, "enough")).unwrap();
                    None
                }
            };
            if !matches!(state, State::Queued | State::Cancelled) {
                let work = take(env, &tasks, session);
                assert_eq!(work.id, id);
                end.map(|end| op(env, &tasks, session, &work, end).unwrap());
            }
            expected.push((id, state));
        }
        let list = |filter: &Filter| {
            let page = block_on(env, tasks.list(filter, None, 100)).unwrap();
            assert_eq!(page.next, None);
            page.items.iter().map(|view| (view.id, view.task.status.state())).collect::<Vec<_>>()
        };
        // Of ids that were made in one millisecond chance decides.
        let mut all = expected.clone();
        all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        assert_eq!(list(&Filter::default()), all);
        for one in &expected {
            let tag = Some(format!("state={}", one.1.name()));
            assert_eq!(list(&in_states([one.1])), [*one]);
            assert_eq!(list(&Filter { tag, ..Filter::default() }), [*one]);
        }
        let mut ended = all.clone();
        ended.retain(|(_, state)| state.has_ended());
        assert_eq!(list(&in_states([State::Failed, State::Completed, State::Cancelled])), ended);
        let tagged = |tag: &str| list(&Filter { tag: Some(tag.to_owned()), ..Filter::default() }).len();
        assert_eq!(["state", "a=b", "a=b=c"].map(tagged), [6, 6, 6]);
        assert_eq!(["stat", "state=", "state=run", "a", "a=b=", "a=b=cc", ""].map(tagged), [0; 7]);
        let named = Filter { name: Some("idle".to_owned()), ..Filter::default() };
        assert_eq!(list(&named), [expected[0]]);
        assert_eq!(list(&Filter { states: [State::Running].into(), ..named }), []);
        let unknown = Filter { queue: Some("nowhere".to_owned()), ..Filter::default() };
        assert_eq!(block_on(env, tasks.list(&unknown, None, 1)).unwrap_err().kind(), ErrorKind::NotFound);
        // A change shows at once.
        block_on(env, tasks.cancel(expected[0].0, "enough")).unwrap();
        assert_eq!(list(&in_states([State::Queued])), []);
        tasks.close();
        db.close().unwrap();
    });
}

#[test]
fn a_page_has_a_bound_of_work_and_of_bytes() {
    world(3, |env, _| {
        let (db, tasks) = open(env);
        let rare = spawn(env, &tasks, Spawn { id: Some(id(1_000, 1)), ..Spawn::new("rare", b"1") });
        for first in (0..10_000).step_by(500) {
            let spawns: Vec<Spawn> = (first..first + 500)
                .map(|n| Spawn { id: Some(id(2_000, n)), ..Spawn::new("frequent", b"1") })
                .collect();
            block_on(env, tasks.spawn(&spawns)).unwrap();
        }
        let filter = Filter { name: Some("rare".to_owned()), ..Filter::default() };
        let first = block_on(env, tasks.list(&filter, None, 10)).unwrap();
        assert_eq!((first.items.len(), first.next), (0, Some(id(2_000, 0))));
        let second = block_on(env, tasks.list(&filter, first.next, 10)).unwrap();
        assert_eq!((second.items[0].id, second.next), (rare, None));
        let megabyte = [b"\"".to_vec(), vec![b'x'; (1 << 20) - 2], b"\"".to_vec()].concat();
        for n in 0..6 {
            spawn(env, &tasks, Spawn { id: Some(id(3_000, n)), ..Spawn::new("large", &megabyte) });
        }
        let filter = Filter { name: Some("large".to_owned()), ..Filter::default() };
        let page = block_on(env, tasks.list(&filter, None, 100)).unwrap();
        assert_eq!((page.items.len(), page.next), (3, Some(id(3_000, 3))));
        tasks.close();
        db.close().unwrap();
    });
}

/// What has outlived its day is moved while lists are read: no page misses a task or shows it twice.
#[test]
fn lists_do_not_mind_that_buckets_go() {
    let mut moved = 0;
    for seed in 0..6 {
        world(seed, |env, _| {
            let (db, tasks) = open(env);
            let short = Queue { retention_days: 1, ..Queue::default() };
            block_on(env, tasks.set_queue("default", short)).unwrap();
            let spawns: Vec<Spawn> = (0..400).map(|_| Spawn::new("t", b"1")).collect();
            let spawned = block_on(env, tasks.spawn(&spawns)).unwrap();
            let mut open: Vec<TaskId> = spawned.into_iter().map(|spawned| spawned.unwrap().id).collect();
            open.sort_unstable();
            for id in open.extract_if(.., |id| id.as_bytes()[15] % 4 == 0) {
                block_on(env, tasks.cancel(id, "enough")).unwrap();
            }
            open.reverse();
            let filter = Filter { name: Some("t".to_owned()), ..in_states([State::Queued]) };
            let has_moved = || db.keyspaces().contains(&"tasks-kept-1".to_owned());
            let is_done = || !db.keyspaces().iter().any(|name| name.starts_with("tasks-2"));
            tasks.advance_clock(3 * DAY_MS);
            let mut lists = 0;
            while !is_done() {
                let (ids, _) = pages(env, &tasks, &filter, 90);
                assert!(ids == open, "list {lists}: {} of {}", ids.len(), open.len());
                moved += usize::from(has_moved());
                lists += 1;
                assert!(lists < 10_000, "the bucket does not go");
            }
            let (ids, _) = pages(env, &tasks, &Filter::default(), 1_000);
            assert!(ids == open, "only what has not ended is left");
            tasks.close();
            db.close().unwrap();
        });
    }
    assert!(moved > 0, "no list was read while tasks were moved");
}

#[test]
fn events_are_listed_by_prefix_in_pages() {
    world(4, |env, _| {
        let (db, tasks) = open(env);
        let other = Queue { status: QueueStatus::Paused, ..Queue::default() };
        block_on(env, tasks.set_queue("defaul", other)).unwrap();
        for name in ["packed:1", "packed:10", "packed:2", "packet", "sent:1", "\u{10ffff}"] {
            assert!(block_on(env, tasks.emit("default", name, name.len().to_string().as_bytes())).unwrap());
        }
        block_on(env, tasks.emit("defaul", "t", b"0")).unwrap();
        let list = |queue: &str, prefix: &str, after: Option<&str>, limit| {
            let page = block_on(env, tasks.events(queue, prefix, after, limit))?;
            let named = page.items.into_iter().map(|(name, event)| {
                assert_eq!(&*event.payload, name.len().to_string().as_bytes());
                name
            });
            Ok::<_, cairn_durable::Error>((named.collect::<Vec<_>>().join(" "), page.next))
        };
        let all = "packed:1 packed:10 packed:2 packet sent:1 \u{10ffff}";
        assert_eq!(list("default", "", None, 100).unwrap(), (all.to_owned(), None));
        assert_eq!(list("default", "packed:", None, 100).unwrap(), ("packed:1 packed:10 packed:2".to_owned(), None));
        let page = list("default", "packed:", None, 2).unwrap();
        assert_eq!(page, ("packed:1 packed:10".to_owned(), Some("packed:10".to_owned())));
        assert_eq!(list("default", "packed:", page.1.as_deref(), 2).unwrap(), ("packed:2".to_owned(), None));
        assert_eq!(list("default", "\u{10ffff}", None, 2).unwrap().0, "\u{10ffff}");
        assert_eq!(list("default", "nothing", None, 2).unwrap(), (String::new(), None));
        assert_eq!(list("default", "sent", Some("packed:1"), 2).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(list("nowhere", "", None, 2).unwrap_err().kind(), ErrorKind::NotFound);
        let large = vec![b'1'; 1 << 20];
        for n in 0..5 {
            block_on(env, tasks.emit("default", &format!("large:{n}"), &large)).unwrap();
        }
        let page = block_on(env, tasks.events("default", "large:", None, 100)).unwrap();
        assert_eq!((page.items.len(), page.next.as_deref()), (3, Some("large:2")));
        tasks.close();
        db.close().unwrap();
    });
}
