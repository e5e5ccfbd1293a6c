//! Deleting a queue: what it refuses, what goes, what stays.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use cairn_durable::call::{OpKind, Spawn};
use cairn_durable::queue::Queue;
use cairn_durable::task::{Failure, State};
use cairn_durable::worker::Hello;
use cairn_durable::{ErrorKind, Filter};
use common::*;

#[test]
fn a_queue_goes_with_its_events_once_all_its_tasks_have_ended() {
    for seed in 0..4 {
        let disk = world(seed, |env, disk| {
            let (db, tasks) = open(env);
            let delete = |name: &str| block_on(env, tasks.delete_queue(name));
            let mail = Queue { retention_days: 7, ..Queue::default() };
            for queue in ["mail", "mai"] {
                block_on(env, tasks.set_queue(queue, mail)).unwrap();
                for n in 0..2_500 {
                    drop(tasks.emit(queue, &format!("e:{n}"), b"1"));
                }
            }
            assert_eq!(delete("default").unwrap_err().kind(), ErrorKind::Invalid);
            assert_eq!(delete("nowhere").unwrap_err().kind(), ErrorKind::NotFound);

            // It is refused in every state that is not an end, and changes nothing then.
            let hello = Hello { tasks: names(&["t"]), queues: names(&["mail"]), slots: 4, ..Hello::default() };
            let session = block_on(env, tasks.hello(hello, &[])).unwrap().session;
            let key = Some("once".to_owned());
            let new = || Spawn { queue: "mail".to_owned(), idempotency_key: key.clone(), ..Spawn::new("t", b"1") };
            let id = spawn(env, &tasks, new());
            let refused = || {
                let e = delete("mail").unwrap_err();
                assert_eq!(e.kind(), ErrorKind::Conflict);
                assert!(e.to_string().contains(&id.to_string()), "{e}");
            };
            refused();
            let work = take(env, &tasks, session);
            refused();
            op(env, &tasks, session, &work, OpKind::Suspend(vec![wait("e", event("later"))])).unwrap();
            refused();
            assert!(block_on(env, tasks.event("mail", "e:0")).unwrap().is_some());
            block_on(env, tasks.emit("mail", "later", b"1")).unwrap();
            let work = take(env, &tasks, session);
            let failure = Failure { kind: "Oops".to_owned(), message: String::new(), detail: None, retryable: false };
            op(env, &tasks, session, &work, OpKind::Fail { failure, retry_at_ms: None }).unwrap();

            assert_eq!(delete("mail").unwrap(), mail);
            assert_eq!(delete("mail").unwrap_err().kind(), ErrorKind::NotFound);
            // What has ended is kept, and goes nowhere.
            assert_eq!(block_on(env, tasks.get(id)).unwrap().task.status.state(), State::Failed);
            assert_eq!(block_on(env, tasks.retry(id, 1)).unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(block_on(env, tasks.emit("mail", "e:1", b"2")).unwrap_err().kind(), ErrorKind::NotFound);
            let again = block_on(env, tasks.spawn(&[new()])).unwrap().remove(0);
            assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
            let image = disk.crash(cairn_env::CrashPolicy::DropAll);
            tasks.close();
            db.close().unwrap();
            image
        });
        let env = cairn::Env::simulated(seed, disk);
        let run = env.run(|| {
            let (db, tasks) = open(&env);
            let queues = block_on(&env, tasks.queues()).unwrap();
            assert_eq!(queues.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["default", "mai"]);
            // A queue made anew under the name begins with nothing.
            block_on(&env, tasks.set_queue("mail", Queue::default())).unwrap();
            assert_eq!(block_on(&env, tasks.events("mail", "", None, 10)).unwrap().items, []);
            assert_eq!(block_on(&env, tasks.events("mai", "", None, 9_000)).unwrap().items.len(), 2_500);
            let key = Some("once".to_owned());
            let new = Spawn { queue: "mail".to_owned(), idempotency_key: key, ..Spawn::new("t", b"1") };
            assert!(block_on(&env, tasks.spawn(&[new])).unwrap().remove(0).unwrap().created);
            let both = Filter { queue: Some("mail".to_owned()), ..Filter::default() };
            assert_eq!(block_on(&env, tasks.list(&both, None, 10)).unwrap().items.len(), 2);
            tasks.close();
            db.close().unwrap();
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    }
}

/// An entry by which an event expires stands by its time. Once the entries of a deleted queue stayed, and took away
/// events of the queue that was made anew under its name.
#[test]
fn events_of_a_queue_made_anew_have_their_own_time() {
    world(1, |env, _| {
        let (db, tasks) = open(env);
        let queue = |event_ttl_ms| Queue { event_ttl_ms, ..Queue::default() };
        block_on(env, tasks.set_queue("mail", queue(3_600_000))).unwrap();
        block_on(env, tasks.emit("mail", "e", b"1")).unwrap();
        block_on(env, tasks.delete_queue("mail")).unwrap();
        block_on(env, tasks.set_queue("mail", queue(30 * 3_600_000))).unwrap();
        for name in ["e", "f"] {
            assert!(block_on(env, tasks.emit("mail", name, b"2")).unwrap());
        }
        block_on(env, tasks.set_queue("other", queue(3_600_000))).unwrap();
        block_on(env, tasks.emit("other", "gone", b"1")).unwrap();
        tasks.advance_clock(2 * 3_600_000);
        let waiter = Waiter::new(env);
        while block_on(env, tasks.event("other", "gone")).unwrap().is_some() {
            waiter.wait(std::time::Duration::from_secs(1));
        }
        assert_eq!(&*block_on(env, tasks.event("mail", "e")).unwrap().unwrap().payload, b"2");
        tasks.close();
        db.close().unwrap();
    });
}
