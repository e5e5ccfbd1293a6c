//! Random programs of many tasks, run by workers that vanish, repeat themselves and come late, on a server whose
//! power goes at any call of the disk; a witness outside notes what was answered.
//!
//! What must hold: a step that was acknowledged keeps its value, for ever and in every replay; what was handed
//! out or shown is never taken back; a stale fence writes nothing; what has ended stays as it is; and in the
//! end, when nothing fails any more, every task ends, each timer having fired and no wake-up lost.
//!
//! `CAIRN_SEED=n` replays from a seed; `CAIRN_PROOF_SECONDS=n` takes further ones for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn::{Db, Env};
use cairn_durable::call::{Ack, Op, OpKind, Spawn, Work};
use cairn_durable::id::TaskId;
use cairn_durable::key;
use cairn_durable::queue::Queue;
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::task::{Failure, State};
use cairn_durable::wait::{Target, Wait};
use cairn_durable::worker::{Hello, LEASE, SessionId};
use cairn_durable::{Error, ErrorKind, Tasks};
use cairn_env::testing::Rng;
use cairn_env::{CrashPolicy, SimDisk};
use common::{Waiter, block_on, event, names, value, wait};

const WORKERS: u64 = 3;
const EVENTS: u64 = 5;

/// What a program does, one after the other.
#[derive(Clone, Copy, Debug)]
enum Action {
    Step,
    Sleep(u64),
    /// Waits for an event, for so long at most.
    Event(u64, u64),
    Emit(u64),
    /// Spawns a child and waits for it.
    Child,
    /// Fails in its first attempt.
    FailOnce,
}

/// The program of a seed: a task's input is its seed.
fn program(seed: u64) -> Vec<Action> {
    let random = &mut Rng::new(seed);
    let depth = seed >> 60;
    (0..2 + random.below(5))
        .map(|_| match random.below(9) {
            0 => Action::Sleep(random.below(60_000)),
            1 => Action::Event(random.below(EVENTS), 1_000 + random.below(60_000)),
            2 => Action::Emit(random.below(EVENTS)),
            3 if depth < 2 => Action::Child,
            4 => Action::FailOnce,
            _ => Action::Step,
        })
        .collect()
}

/// What was answered, noted outside.
#[derive(Debug, Default)]
struct Witness {
    spawned: Vec<TaskId>,
    /// What each step was acknowledged or shown as.
    steps: BTreeMap<(TaskId, StepId), Outcome>,
    ended: BTreeMap<TaskId, State>,
    /// The latest time of a server. With the next the clock goes back by what it was set forward.
    latest_ms: u64,
    figures: Figures,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    tasks: u64,
    steps: u64,
    hand_outs: u64,
    crashes: u64,
    stale: u64,
    repeated: u64,
    vanished: u64,
    /// Times that the clock was set forward, by less than a day and by more.
    jumps: u64,
    days: u64,
}

impl Witness {
    /// A step was acknowledged, or shown in a hand-out.
    fn saw(&mut self, task: TaskId, id: &StepId, outcome: &Outcome, seed: u64) {
        let before = self.steps.insert((task, id.clone()), outcome.clone());
        if let Some(before) = before {
            assert_eq!(before, *outcome, "CAIRN_SEED={seed}: step {} of {task} changed", id.as_str());
        }
    }
}

/// A task that has ended may have gone with its day, where days were skipped.
fn may_be_gone(e: &Error, witness: &Witness) -> bool {
    e.kind() == ErrorKind::NotFound && witness.figures.days > 0
}

/// The server is gone: so the worker stops.
struct Gone;

/// One worker, in one life of the server.
struct Worker<'a> {
    env: &'a Env,
    tasks: &'a Tasks<Db>,
    witness: &'a Arc<Mutex<Witness>>,
    session: SessionId,
    /// Handed out with the answer to a call, and not begun yet.
    next: Vec<Work>,
    random: Rng,
    seed: u64,
    faults: bool,
}

/// (A database that is opened while the power goes may find no room for its reserve.)
fn is_gone(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Closed | ErrorKind::Unknown | ErrorKind::Io | ErrorKind::Full)
}

fn failure(kind: &str, retryable: bool) -> Failure {
    Failure { kind: kind.to_owned(), message: String::new(), detail: None, retryable }
}

fn offer() -> Hello {
    Hello { tasks: names(&["job"]), queues: names(&["default"]), slots: 1, ..Hello::default() }
}

impl Worker<'_> {
    fn seen(&self) -> std::sync::MutexGuard<'_, Witness> {
        self.witness.lock().unwrap()
    }

    fn hello(&mut self) -> Result<(), Gone> {
        match block_on(self.env, self.tasks.hello(offer(), &[])) {
            Ok(welcome) => {
                self.session = welcome.session;
                Ok(())
            }
            Err(e) => {
                assert!(is_gone(&e), "{e:?}");
                Err(Gone)
            }
        }
    }

    /// Works until nothing was there for a while, or the server is gone.
    fn work(mut self) -> Result<(), Gone> {
        self.hello()?;
        let waiter = Waiter::new(self.env);
        let mut idle = 0;
        while idle < 30 {
            if let Some(work) = self.next.pop() {
                self.run(&work)?;
                continue;
            }
            let answer = self.tasks.take_or_park(self.session, 1, Some(&waiter.waker()));
            match block_on(self.env, answer) {
                Ok((work, _)) if work.is_empty() => {
                    let woken = waiter.wait(Duration::from_secs(5));
                    idle += u32::from(!woken);
                }
                Ok((work, _)) => {
                    idle = 0;
                    for work in work {
                        self.run(&work)?;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Gone => self.hello()?,
                Err(e) => {
                    assert!(is_gone(&e), "{e:?}");
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    /// Makes a call about a task: sometimes twice, sometimes after the lease is over. `None`: the hand-out is over.
    fn call(&mut self, work: &Work, what: OpKind) -> Result<Option<Ack>, Gone> {
        if self.faults && self.random.one_in(40) {
            // It stands still for longer than its lease.
            self.seen().figures.vanished += 1;
            Waiter::new(self.env).wait(LEASE + Duration::from_secs(self.random.below(20)));
        }
        if self.faults && self.random.one_in(60) {
            self.tasks.advance_clock(1 + self.random.below(3_600_000));
            self.seen().figures.jumps += 1;
        }
        if self.faults && self.seed.is_multiple_of(3) && self.random.one_in(60) {
            // Before: what it brings about may be seen by others at once.
            self.seen().figures.days += 1;
            self.tasks.advance_clock(2 * 86_400_000);
        }
        let twice = self.faults && self.random.one_in(8);
        let op = || Op { task: work.id, fence: work.fence, what: what.clone() };
        let mut first = None;
        for _ in 0..=u64::from(twice) {
            let free = self.random.index(2);
            let answer = self.tasks.ops(self.session, vec![op()], free);
            let answer = if self.random.one_in(2) { answer.help() } else { answer };
            let ack = match block_on(self.env, answer) {
                Ok(mut told) => {
                    self.next.append(&mut told.work);
                    told.acks.remove(0)
                }
                Err(e) if e.kind() == ErrorKind::Gone => {
                    // What the session held is lost.
                    self.next.clear();
                    self.hello()?;
                    // With another session and the old fence.
                    match block_on(self.env, self.tasks.ops(self.session, vec![op()], 0)) {
                        Ok(mut told) => told.acks.remove(0),
                        Err(e) => Err(e),
                    }
                }
                Err(e) => Err(e),
            };
            match ack {
                Ok(ack) => {
                    if let Some(first) = &first {
                        let Ack::Suspended(before) = first else { continue };
                        // A repeated suspension may meet a hand-out that it has ended itself.
                        assert!(
                            matches!(&ack, Ack::Suspended(now) if now.len() >= before.len()),
                            "{first:?}, then {ack:?}"
                        );
                        self.seen().figures.repeated += 1;
                    }
                    first.get_or_insert(ack);
                }
                Err(e) if matches!(e.kind(), ErrorKind::StaleFence | ErrorKind::Cancelled) => {
                    self.seen().figures.stale += 1;
                    return Ok(first.filter(|_| false));
                }
                // The task itself, after its end, or the child: without its result the program cannot go on.
                Err(e) if may_be_gone(&e, &self.seen()) => {
                    if !matches!(what, OpKind::Fail { .. }) {
                        self.call(work, OpKind::Fail { failure: failure("Gone", false), retry_at_ms: None })?;
                    }
                    return Ok(None);
                }
                Err(e) => {
                    assert!(is_gone(&e), "CAIRN_SEED={}: {e:?} at {what:?}", self.seed);
                    return Err(Gone);
                }
            }
        }
        Ok(first)
    }

    /// Runs the program of a task as far as it comes.
    fn run(&mut self, work: &Work) -> Result<(), Gone> {
        {
            let mut witness = self.witness.lock().unwrap();
            witness.figures.hand_outs += 1;
            assert!(!witness.ended.contains_key(&work.id), "CAIRN_SEED={}: {} had ended", self.seed, work.id);
            for (id, step) in &work.steps {
                witness.saw(work.id, id, &step.outcome, self.seed);
            }
        }
        let recorded: BTreeMap<&StepId, &Outcome> = work.steps.iter().map(|(id, step)| (id, &step.outcome)).collect();
        let seed: u64 = std::str::from_utf8(&work.spec.input).unwrap().parse().unwrap();
        for (at, action) in program(seed).into_iter().enumerate() {
            let id = StepId::new(&format!("a{at}")).unwrap();
            let known = recorded.get(&id).copied();
            match action {
                Action::Step => {
                    if known.is_none() {
                        let outcome = value(&self.random.next_u64().to_string());
                        let what = OpKind::Step { id: id.clone(), outcome: outcome.clone() };
                        let Some(_) = self.call(work, what)? else { return Ok(()) };
                        self.seen().saw(work.id, &id, &outcome, self.seed);
                        self.seen().figures.steps += 1;
                    }
                }
                Action::FailOnce if work.attempt == 1 => {
                    self.call(work, OpKind::Fail { failure: failure("Once", true), retry_at_ms: None })?;
                    return Ok(());
                }
                Action::FailOnce => {}
                Action::Emit(n) => {
                    if known.is_none() {
                        let what = OpKind::Emit { id: id.clone(), name: format!("e{n}"), payload: Box::from(*b"1") };
                        let Some(_) = self.call(work, what)? else { return Ok(()) };
                    }
                }
                Action::Sleep(ms) => {
                    let until = Target::Timer(self.tasks.now_ms() + ms);
                    if known.is_none() && !self.pass(work, wait(id.as_str(), until))? {
                        return Ok(());
                    }
                }
                Action::Event(n, timeout_ms) => {
                    let timeout_at_ms = Some(self.tasks.now_ms() + timeout_ms);
                    let wait = Wait { timeout_at_ms, ..wait(id.as_str(), event(&format!("e{n}"))) };
                    if known.is_none() && !self.pass(work, wait)? {
                        return Ok(());
                    }
                }
                Action::Child => {
                    let child = match known {
                        Some(Outcome::Value(id)) => std::str::from_utf8(id).unwrap().trim_matches('"').parse().unwrap(),
                        Some(other) => panic!("{other:?}"),
                        None => {
                            let depth = ((seed >> 60) + 1) << 60;
                            let input = (depth | (self.random.next_u64() >> 8)).to_string();
                            let spawn = Box::new(Spawn::new("job", input.as_bytes()));
                            match self.call(work, OpKind::Spawn { id: id.clone(), spawn })? {
                                Some(Ack::Spawned(spawned)) => {
                                    let mut witness = self.seen();
                                    witness.saw(work.id, &id, &value(&format!("\"{}\"", spawned.id)), self.seed);
                                    witness.spawned.push(spawned.id);
                                    spawned.id
                                }
                                Some(other) => panic!("{other:?}"),
                                None => return Ok(()),
                            }
                        }
                    };
                    let end = wait(&format!("a{at}.end"), Target::Task(child));
                    if !recorded.contains_key(&end.id) && !self.pass(work, end)? {
                        return Ok(());
                    }
                }
            }
        }
        if self.call(work, OpKind::Finish(Box::from(*b"1")))?.is_some() {
            self.seen().ended.insert(work.id, State::Completed);
        }
        Ok(())
    }

    /// Waits; true if what was waited for has come already.
    fn pass(&mut self, work: &Work, wait: Wait) -> Result<bool, Gone> {
        match self.call(work, OpKind::Suspend(vec![wait]))? {
            Some(Ack::Suspended(resumed)) => {
                for (id, step) in &resumed {
                    self.seen().saw(work.id, id, &step.outcome, self.seed);
                }
                Ok(!resumed.is_empty())
            }
            Some(other) => panic!("{other:?}"),
            None => Ok(false),
        }
    }
}

/// One life of the server. Returns the disk as the next one finds it.
fn live(seed: u64, era: u64, disk: &SimDisk, witness: &Arc<Mutex<Witness>>, last: bool) -> SimDisk {
    let env = Env::simulated(seed << 8 ^ era, disk.clone());
    let random = &mut Rng::new(seed << 8 ^ era ^ 0x51);
    let run = env.run(|| {
        if !last && !random.one_in(4) {
            disk.crash_at(disk.steps() + 20 + random.below(600));
        }
        let options =
            cairn::Options { memory_budget_bytes: 8 << 20, memtable_bytes_max: 32 << 10, ..Default::default() };
        let Ok(db) = Db::open_in(&env, "db", options) else {
            assert!(disk.is_crashed());
            return;
        };
        let tasks = match Tasks::open(&env, db.clone()) {
            Ok(tasks) => tasks,
            Err(e) => {
                assert!(is_gone(&e) && disk.is_crashed(), "{e:?}");
                return;
            }
        };
        if last {
            tasks.advance_clock(witness.lock().unwrap().latest_ms.saturating_sub(tasks.now_ms()));
        }
        let keep = Queue { retention_days: 1, ..Queue::default() };
        if let Err(e) = block_on(&env, tasks.set_queue("default", keep)) {
            assert!(is_gone(&e), "{e:?}");
        }
        let spawned = (!last).then(|| {
            let spawns: Vec<Spawn> = (0..2 + random.below(6))
                .map(|_| Spawn::new("job", (random.next_u64() >> 8).to_string().as_bytes()))
                .collect();
            block_on(&env, tasks.spawn(&spawns))
        });
        match spawned {
            Some(Ok(spawned)) => {
                let ids = spawned.into_iter().filter_map(|spawned| spawned.ok().map(|spawned| spawned.id));
                witness.lock().unwrap().spawned.extend(ids);
            }
            Some(Err(e)) => assert!(is_gone(&e), "{e:?}"),
            None => {}
        }
        let threads: Vec<_> = (0..WORKERS)
            .map(|n| {
                let (env, tasks, witness) = (env.clone(), tasks.clone(), witness.clone());
                let name = "worker";
                let random = Rng::new(seed << 16 ^ era << 8 ^ n);
                env.clone()
                    .spawn(name, move || {
                        let session = SessionId(0);
                        let worker = Worker {
                            env: &env,
                            tasks: &tasks,
                            witness: &witness,
                            next: Vec::new(),
                            session,
                            random,
                            seed,
                            faults: !last,
                        };
                        let _ = worker.work();
                    })
                    .unwrap()
            })
            .collect();
        assert!(threads.into_iter().all(cairn_env::sync::Thread::join), "CAIRN_SEED={seed}: a worker panicked");
        {
            let mut witness = witness.lock().unwrap();
            witness.latest_ms = witness.latest_ms.max(tasks.now_ms());
        }
        if last {
            check(&env, &tasks, &witness.lock().unwrap(), seed);
            check_index(&db, seed);
        }
        tasks.close();
        drop(tasks);
        let _ = db.close();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()), "CAIRN_SEED={seed}");
    let policy = match random.below(3) {
        0 => CrashPolicy::DropAll,
        1 => CrashPolicy::KeepAll,
        _ => CrashPolicy::Random(random.next_u64()),
    };
    witness.lock().unwrap().figures.crashes += u64::from(disk.is_crashed());
    if last { disk.clone() } else { disk.crash(policy) }
}

/// At the end everything has ended, and is as it was told.
fn check(env: &Env, tasks: &Tasks<Db>, witness: &Witness, seed: u64) {
    for id in &witness.spawned {
        let view = match block_on(env, tasks.get(*id)) {
            Ok(view) => view,
            Err(e) if may_be_gone(&e, witness) => continue,
            Err(e) => panic!("CAIRN_SEED={seed}: {id}: {e}"),
        };
        let state = view.task.status.state();
        assert!(state.has_ended(), "CAIRN_SEED={seed}: {id} is {state:?}, waits {:?}", view.waits);
        if let Some(told) = witness.ended.get(id) {
            assert_eq!(state, *told, "CAIRN_SEED={seed}: {id}");
        }
        let (steps, more) = block_on(env, tasks.steps(*id, None, 1_000)).unwrap();
        assert!(!more);
        let steps: BTreeMap<StepId, Outcome> = steps.into_iter().map(|(id, step)| (id, step.outcome)).collect();
        let of_it = witness.steps.iter().filter(|((task, _), _)| task == id);
        for ((_, step), outcome) in of_it {
            assert_eq!(steps.get(step), Some(outcome), "CAIRN_SEED={seed}: step {} of {id}", step.as_str());
        }
    }
}

/// What has ended has no entry in any index but that by which it expires.
fn check_index(db: &Db, seed: u64) {
    let index = db.keyspace("tasks").unwrap();
    for tag in [key::LANES, key::LIVE, key::TIMERS, key::UNFINISHED, key::UNTOLD, b"V", b"U"] {
        let left = index.prefix(tag).next();
        assert!(left.is_none(), "CAIRN_SEED={seed}: {left:?}");
    }
}

fn simulate(seed: u64) -> Figures {
    let witness = Arc::new(Mutex::new(Witness::default()));
    let mut disk = SimDisk::with_seed(seed);
    let eras = 1 + Rng::new(seed).below(4);
    for era in 0..eras {
        disk = live(seed, era, &disk, &witness, false);
        disk.clear_faults();
    }
    live(seed, eras, &disk, &witness, true);
    let witness = witness.lock().unwrap();
    Figures { tasks: witness.spawned.len() as u64, ..witness.figures }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_fails_what_was_answered_holds_and_everything_ends() {
    let (first, seconds) = (number("CAIRN_SEED", 1), number("CAIRN_PROOF_SECONDS", 0));
    let clock = Env::real();
    let began = clock.now();
    let mut all = Figures::default();
    let mut lives = 0;
    for seed in first.. {
        if lives >= 60 && clock.now() - began >= Duration::from_secs(seconds) {
            break;
        }
        lives += 1;
        let figures = simulate(seed);
        all.tasks += figures.tasks;
        all.steps += figures.steps;
        all.hand_outs += figures.hand_outs;
        all.crashes += figures.crashes;
        all.stale += figures.stale;
        all.repeated += figures.repeated;
        all.vanished += figures.vanished;
        all.jumps += figures.jumps;
        all.days += figures.days;
    }
    println!("{all:?}");
    let happened = [all.crashes, all.stale, all.repeated, all.vanished, all.jumps, all.days];
    assert!(!happened.contains(&0), "nothing failed: {all:?}");
    println!("proof: simulated worlds of tasks = {lives}");
    println!("proof: simulated tasks = {}", all.tasks);
    println!("proof: simulated steps = {}", all.steps);
    println!("proof: crashes in simulated worlds = {}", all.crashes);
    println!("proof: clock jumps in simulated worlds = {}", all.jumps + all.days);
}
