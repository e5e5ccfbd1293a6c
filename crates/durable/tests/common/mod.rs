//! A database in a simulated world, and how to wait in it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests can do nothing better")]

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use cairn::{Db, Env, Options};
use cairn_durable::call::{Op, OpKind, Spawn, Work};
use cairn_durable::id::TaskId;
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::task::State;
use cairn_durable::wait::{Target, Wait};
use cairn_durable::worker::{Hello, SessionId};
use cairn_durable::{Result, Tasks};
use cairn_env::SimDisk;
use cairn_store::Store;

pub type EngineTasks = Tasks<Db>;

/// Runs `body` in a simulated world. Whoever still waits at its end is reported.
pub fn world<R>(seed: u64, body: impl FnOnce(&Env, &SimDisk) -> R) -> R {
    let disk = SimDisk::with_seed(seed);
    let env = Env::simulated(seed, disk.clone());
    let run = env.run(|| body(&env, &disk));
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    run.value
}

pub fn open(env: &Env) -> (Db, EngineTasks) {
    let options = Options { memory_budget_bytes: 8 << 20, memtable_bytes_max: 64 << 10, ..Options::default() };
    let db = Db::open_in(env, "db", options).unwrap();
    let tasks = Tasks::open(env, db.clone()).unwrap();
    (db, tasks)
}

struct Bell {
    rung: cairn_env::sync::Mutex<bool>,
    changed: cairn_env::sync::Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }
}

/// A waker, and a way to wait until it was woken.
pub struct Waiter(Arc<Bell>);

impl Waiter {
    pub fn new(env: &Env) -> Waiter {
        Waiter(Arc::new(Bell { rung: env.mutex(false), changed: env.condvar() }))
    }

    pub fn waker(&self) -> Waker {
        Waker::from(self.0.clone())
    }

    /// False if nothing woke it for so long.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut rung = self.0.rung.lock();
        loop {
            if std::mem::take(&mut *rung) {
                return true;
            }
            let (again, timed_out) = self.0.changed.wait_for(rung, at_most);
            rung = again;
            if timed_out && !*rung {
                return false;
            }
        }
    }
}

/// Polls a future to its end.
pub fn block_on<F: Future>(env: &Env, future: F) -> F::Output {
    let waiter = Waiter::new(env);
    let waker = waiter.waker();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        waiter.wait(Duration::from_secs(3_600));
    }
}

/// Lets so many seconds pass.
pub fn sleep(env: &Env, seconds: u64) {
    Waiter::new(env).wait(Duration::from_secs(seconds));
}

pub fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A worker that takes tasks of these names from the default queue.
pub fn hello<S: Store>(env: &Env, tasks: &Tasks<S>, offers: &[&str]) -> SessionId {
    let name = "w1".to_owned();
    let hello = Hello { name, tasks: names(offers), queues: names(&["default"]), slots: 4, ..Hello::default() };
    block_on(env, tasks.hello(hello, &[])).unwrap().session
}

pub fn spawn<S: Store>(env: &Env, tasks: &Tasks<S>, spawn: Spawn) -> TaskId {
    let mut spawned = block_on(env, tasks.spawn(&[spawn])).unwrap();
    spawned.remove(0).unwrap().id
}

/// The next task for a worker; waits for it.
pub fn take<S: Store>(env: &Env, tasks: &Tasks<S>, session: SessionId) -> Work {
    let waiter = Waiter::new(env);
    for _ in 0..1_000 {
        let answer = tasks.take_or_park(session, 1, Some(&waiter.waker()));
        let (mut work, _) = block_on(env, answer).unwrap();
        if let Some(work) = work.pop() {
            return work;
        }
        waiter.wait(Duration::from_secs(5));
    }
    panic!("there is no work");
}

pub fn op<S: Store>(
    env: &Env,
    tasks: &Tasks<S>,
    session: SessionId,
    work: &Work,
    what: OpKind,
) -> Result<cairn_durable::call::Ack> {
    let op = Op { task: work.id, fence: work.fence, what };
    block_on(env, tasks.ops(session, vec![op], 0)).unwrap().acks.remove(0)
}

pub fn value(text: &str) -> Outcome {
    Outcome::Value(text.as_bytes().into())
}

pub fn step(name: &str, text: &str) -> OpKind {
    OpKind::Step { id: StepId::new(name).unwrap(), outcome: value(text) }
}

pub fn wait(name: &str, target: Target) -> Wait {
    Wait { id: StepId::new(name).unwrap(), group: None, target, timeout_at_ms: None }
}

pub fn event(name: &str) -> Target {
    Target::Event(name.to_owned())
}

/// A new task that waits for `on`; it is the next that the worker is handed.
pub fn suspended<S: Store>(env: &Env, tasks: &Tasks<S>, session: SessionId, on: &Target) -> TaskId {
    let id = spawn(env, tasks, Spawn::new("t", b"1"));
    let work = take(env, tasks, session);
    op(env, tasks, session, &work, OpKind::Suspend(vec![wait("w", on.clone())])).unwrap();
    id
}

pub fn state<S: Store>(env: &Env, tasks: &Tasks<S>, id: TaskId) -> State {
    block_on(env, tasks.get(id)).unwrap().task.status.state()
}
