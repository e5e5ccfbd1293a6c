//! Parts of the index that cannot be read, as a damaged block of a table leaves them: what stands before them, and on
//! other lists, goes on, and what stands behind them once they can be read.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn::{Db, Env, Keyspace, Options};
use cairn_durable::call::Spawn;
use cairn_durable::id::TaskId;
use cairn_durable::key::{self, Lane};
use cairn_durable::queue::Queue;
use cairn_durable::task::State;
use cairn_durable::wait::Target;
use cairn_durable::{ErrorKind, Tasks};
use cairn_store::{Result, Store, Version};
use common::*;

/// A database in whose space "tasks" no scan passes a key that begins like this.
#[derive(Clone, Debug)]
struct Holed {
    db: Db,
    hole: Arc<Mutex<Option<Vec<u8>>>>,
    /// What a scan says then.
    damage: cairn::Error,
}

impl Store for Holed {
    type Space = Keyspace;
    type Batch = <Db as Store>::Batch;
    type Durable = <Db as Store>::Durable;

    fn space(&self, name: &str) -> Result<Keyspace> {
        self.db.space(name)
    }

    fn spaces(&self) -> Vec<String> {
        self.db.spaces()
    }

    fn drop_space(&self, name: &str) -> Result<bool> {
        self.db.drop_space(name)
    }

    fn get<R>(&self, space: &Keyspace, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        Store::get(&self.db, space, key, look)
    }

    fn scan(
        &self,
        space: &Keyspace,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let hole = self.hole.lock().unwrap().clone().filter(|_| space.name() == "tasks");
        let mut met = false;
        self.db.scan(space, start, end, |key, row| {
            met = hole.as_ref().is_some_and(|hole| key.starts_with(hole));
            if met { ControlFlow::Break(()) } else { visit(key, row) }
        })?;
        if met { Err(self.damage.clone()) } else { Ok(()) }
    }

    fn scan_back(
        &self,
        space: &Keyspace,
        start: &[u8],
        end: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.db.scan_back(space, start, end, visit)
    }

    fn batch(&self) -> Self::Batch {
        Store::batch(&self.db)
    }

    fn write(&self, batch: Self::Batch) -> Result<Version> {
        Store::write(&self.db, batch)
    }

    fn durable(&self, version: Version) -> Result<Self::Durable> {
        Store::durable(&self.db, version)
    }

    fn help(durable: &Self::Durable) {
        Db::help(durable);
    }

    fn version(&self) -> Version {
        self.db.version()
    }
}

fn holed(env: &Env) -> Holed {
    let options = || Options { memory_budget_bytes: 8 << 20, memtable_bytes_max: 64 << 10, ..Options::default() };
    Db::open_in(env, "damaged", options()).unwrap().close().unwrap();
    env.replace_file(Path::new("damaged/CURRENT"), b"nonsense").unwrap();
    let damage = Db::open_in(env, "damaged", options()).unwrap_err();
    assert_eq!(damage.kind(), cairn::ErrorKind::Corrupt);
    Holed { db: Db::open_in(env, "db", options()).unwrap(), hole: Arc::default(), damage }
}

#[test]
fn an_event_is_emitted_though_not_all_who_wait_can_be_listed() {
    for first_is_met in [true, false] {
        world(1, |env, _| {
            let store = holed(env);
            let tasks = Tasks::open(env, store.clone()).unwrap();
            let session = hello(env, &tasks, &["t"]);
            let waiting: Vec<TaskId> = (0..600).map(|_| suspended(env, &tasks, session, &event("go"))).collect();
            let other = suspended(env, &tasks, session, &event("other"));
            let mut hole = key::waiters_for_event("default", "go");
            let met = if first_is_met { 0 } else { 300 };
            hole.extend_from_slice(waiting[met].as_bytes());
            *store.hole.lock().unwrap() = Some(hole);
            assert!(block_on(env, tasks.emit("default", "go", b"1")).unwrap());
            assert!(block_on(env, tasks.emit("default", "other", b"1")).unwrap());
            sleep(env, 5);
            let told = |id: &&TaskId| state(env, &tasks, **id) == State::Queued;
            assert_eq!(waiting.iter().filter(told).count(), met);
            assert_eq!(state(env, &tasks, other), State::Queued);
            let before = store.version();
            sleep(env, 60);
            assert_eq!(store.version(), before, "nothing is done again and again");
            *store.hole.lock().unwrap() = None;
            sleep(env, 15 * 60);
            assert!(waiting.iter().all(|id| told(&id)));
            tasks.close();
            store.db.close().unwrap();
        });
    }
}

#[test]
fn a_lane_that_cannot_be_listed_holds_up_no_other() {
    world(2, |env, _| {
        let store = holed(env);
        let tasks = Tasks::open(env, store.clone()).unwrap();
        let lost = spawn(env, &tasks, Spawn::new("lost", b"1"));
        tasks.close();
        drop(tasks);
        let tasks = Tasks::open(env, store.clone()).unwrap();
        let lane = Lane { queue: "default".to_owned(), name: "lost".to_owned(), rank: 0x7fff_ffff };
        let [session, both] = [hello(env, &tasks, &["t"]), hello(env, &tasks, &["lost", "t"])];
        *store.hole.lock().unwrap() = Some([lane.prefix(), vec![0]].concat());
        let due_ms = Some(tasks.now_ms() + 3_000);
        let ids = [(); 2].map(|()| spawn(env, &tasks, Spawn { due_ms, ..Spawn::new("t", b"1") }));
        let waiter = Waiter::new(env);
        let (work, _) = block_on(env, tasks.take_or_park(session, 1, Some(&waiter.waker()))).unwrap();
        assert!(work.is_empty());
        assert!(waiter.wait(Duration::from_millis(3_500)), "the clock wakes it");
        let (work, _) = block_on(env, tasks.take(both, 1)).unwrap();
        assert!(ids.contains(&work[0].id));
        assert!(ids.contains(&take(env, &tasks, session).id));
        assert_eq!(block_on(env, tasks.take(both, 1)).unwrap_err().kind(), ErrorKind::Corrupt, "it is told of");
        *store.hole.lock().unwrap() = None;
        assert_eq!(take(env, &tasks, both).id, lost);
        tasks.close();
        store.db.close().unwrap();
    });
}

#[test]
fn a_timer_before_damage_fires() {
    world(3, |env, _| {
        let store = holed(env);
        let tasks = Tasks::open(env, store.clone()).unwrap();
        let session = hello(env, &tasks, &["t"]);
        let begun_ms = tasks.now_ms();
        let [early, late] = [60_000, 120_000].map(|ms| suspended(env, &tasks, session, &Target::Timer(begun_ms + ms)));
        tasks.close();
        drop(tasks);
        *store.hole.lock().unwrap() = Some([key::TIMERS, &(begun_ms + 120_000).to_be_bytes()].concat());
        let tasks = Tasks::open(env, store.clone()).unwrap();
        sleep(env, 70);
        assert_eq!(state(env, &tasks, early), State::Queued);
        *store.hole.lock().unwrap() = None;
        sleep(env, 60);
        assert_eq!(state(env, &tasks, late), State::Queued);
        tasks.close();
        store.db.close().unwrap();
    });
}

#[test]
fn what_expires_before_damage_goes() {
    world(4, |env, _| {
        let store = holed(env);
        let tasks = Tasks::open(env, store.clone()).unwrap();
        block_on(env, tasks.set_queue("default", Queue { event_ttl_ms: 60_000, ..Queue::default() })).unwrap();
        let event = |name: &str| block_on(env, tasks.event("default", name)).unwrap();
        for name in ["early", "late"] {
            assert!(block_on(env, tasks.emit("default", name, b"1")).unwrap());
            sleep(env, 1);
        }
        let late_ms = event("late").unwrap().at_ms + 60_000;
        *store.hole.lock().unwrap() = Some([key::EXPIRIES, &late_ms.to_be_bytes()].concat());
        tasks.advance_clock(65_000);
        sleep(env, 5);
        assert!(event("early").is_none() && event("late").is_some());
        *store.hole.lock().unwrap() = None;
        sleep(env, 5);
        assert!(event("late").is_none());
        tasks.close();
        store.db.close().unwrap();
    });
}
