//! The simulated schedule: real threads of which exactly one runs, and a seed that says which.
//!
//! Owns: the turn. Every call into a simulated [`Env`](crate::Env) and every lock, wait, wake,
//! start and join is a point; there the running thread draws who is next, hands over the turn, and
//! sleeps until it comes back. Time is simulated: a call takes a microsecond, and when everybody
//! waits, time jumps to the next timer. Conditions sometimes wake for no reason, as they may.
//!
//! Invariants
//! 1. Of the threads of a run, only `current` runs; all others sleep in [`Schedule::sleep`].
//! 2. A simulated lock is held by whom `locks` says; the real lock behind it is free or that
//!    thread's, so taking it never blocks.
//! 3. When nobody can run and no timer is set, the run is broken off with a report: all who wait
//!    unwind one after the other, so that what they hold is released, and `run` panics.
//! 4. Nothing panics out of here with the state locked.
//!
//! A thread that waits for another by other means than `env`'s stops the simulation for good; a
//! line on the standard error says so after a minute.

mod priorities;
mod state;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use state::{On, State, Status, TaskId};

/// After how long without a call into `env` a message says that the simulation stands still.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What happened at a point, for the trace.
const POINT: u64 = 1;
const LOCK: u64 = 2;
const UNLOCK: u64 = 3;
const WAIT: u64 = 4;
const NOTIFY: u64 = 5;
const SPAWN: u64 = 6;
const JOIN: u64 = 7;

/// The outcome of [`Env::run`](crate::Env::run).
#[derive(Clone, Debug)]
pub struct Run<R> {
    /// What the body returned.
    pub value: R,
    /// Equal for two runs in which every thread did the same in the same order.
    pub trace_hash: u64,
    /// Calls into the environment.
    pub points: u64,
    /// How often the turn went to another thread.
    pub switches: u64,
    /// Simulated time since the environment was made.
    pub now: Duration,
    /// The names of threads that panicked.
    pub panicked: Vec<String>,
    /// The names of threads that neither ended with the body nor soon after. They were unwound.
    pub unfinished: Vec<String>,
}

impl<R> Run<R> {
    /// The outcome where nothing is simulated.
    pub(crate) fn plain(value: R) -> Run<R> {
        let now = Duration::ZERO;
        Run { value, trace_hash: 0, points: 0, switches: 0, now, panicked: Vec::new(), unfinished: Vec::new() }
    }
}

/// The payload that unwinds a thread of a run that was broken off.
struct BrokenOff;

/// One seeded schedule.
pub(crate) struct Schedule {
    seed: u64,
    state: Mutex<State>,
}

thread_local! {
    /// The schedule this thread belongs to (its address) and its number there.
    static ME: Cell<Option<(usize, TaskId)>> = const { Cell::new(None) };
}

type Locked<'a> = MutexGuard<'a, State>;

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        Schedule { seed, state: Mutex::new(State::new(seed)) }
    }

    /// The same, but who is next is decided by priorities (see `priorities`).
    pub(crate) fn by_priorities(seed: u64) -> Schedule {
        let schedule = Schedule::new(seed);
        schedule.state().by_priorities();
        schedule
    }

    /// Has the `n`th wake that somebody waits for go to nobody.
    pub(crate) fn lose_wake(&self, n: u64) {
        self.state().lose_wake(n);
    }

    fn state(&self) -> Locked<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// This thread's number, if it belongs to a run of this schedule.
    fn me(&self) -> Option<TaskId> {
        // While a thread's locals are being destroyed it belongs to nothing any more.
        let (schedule, me) = ME.try_with(Cell::get).ok().flatten()?;
        (schedule == self.address()).then_some(me)
    }

    /// A number for a new lock or condition.
    pub(crate) fn new_object(&self, at: &'static Location<'static>) -> u64 {
        self.state().new_object(at)
    }

    pub(crate) fn now(&self) -> Duration {
        self.point();
        self.state().now
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.point();
        self.state().randoms.next_u64()
    }

    /// A point where another thread may go on.
    pub(crate) fn point(&self) {
        if let Some(me) = self.me() {
            drop(self.point_of(me, POINT));
        }
    }

    fn point_of(&self, me: TaskId, what: u64) -> Locked<'_> {
        let mut state = self.state();
        state.count_point(me, what);
        let state = self.hand_over(state, me);
        self.unwind_if_broken(state, me)
    }

    /// Gives the turn to whoever is next, and returns when it is ours again.
    fn hand_over<'a>(&'a self, mut state: Locked<'a>, me: TaskId) -> Locked<'a> {
        self.pass_on(&mut state);
        self.sleep(state, me)
    }

    fn pass_on(&self, state: &mut State) {
        let next = self.next(state);
        if next != state.current {
            state.switches += 1;
            state.fold(next as u64);
            state.current = next;
            if let Some(task) = state.task(next) {
                task.turn.notify_one();
            }
        }
    }

    fn next(&self, state: &mut State) -> TaskId {
        if state.is_hopeless() {
            give_up(state);
        }
        if let Some(next) = state.choose() {
            return next;
        }
        if state.broken.is_none() {
            state.break_off("deadlock, every thread waits");
            if let Some(next) = state.choose() {
                return next;
            }
        }
        // Left are threads that wait for each other while they unwind. If the body has ended they
        // are left where they are; else nobody could ever report.
        state.wake(On::Everyone);
        if state.main_is_ready() {
            return state.main;
        }
        give_up(state)
    }

    fn sleep<'a>(&'a self, mut state: Locked<'a>, me: TaskId) -> Locked<'a> {
        let Some(turn) = state.task(me).map(|task| task.turn.clone()) else { return state };
        while state.current != me {
            let before = state.points;
            let (woken, result) = turn.wait_timeout(state, STANDSTILL).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if result.timed_out() && state.points == before && state.stood_still_at != before {
                state.stood_still_at = before;
                let name = state.task(state.current).map_or("?", |task| &task.name);
                eprintln!("simulation of seed {}: {name} has made no call for {STANDSTILL:?}", self.seed);
            }
        }
        state
    }

    #[allow(clippy::panic)] // The simulation's verdict: there is nobody to return it to.
    fn unwind_if_broken<'a>(&'a self, state: Locked<'a>, me: TaskId) -> Locked<'a> {
        match &state.broken {
            Some(report) if !std::thread::panicking() => {
                let (report, main) = (report.clone(), state.main);
                drop(state);
                if me == main {
                    panic!("{report}");
                }
                resume_unwind(Box::new(BrokenOff));
            }
            _ => state,
        }
    }

    /// Waits, without the turn, until woken or timed out.
    fn block<'a>(
        &'a self,
        state: Locked<'a>,
        me: TaskId,
        on: On,
        until: Option<Duration>,
        at: &'static Location<'static>,
    ) -> Locked<'a> {
        let mut state = self.unwind_if_broken(state, me);
        state.block(me, on, until, at);
        let state = self.hand_over(state, me);
        self.unwind_if_broken(state, me)
    }

    fn take<'a>(&'a self, mut state: Locked<'a>, me: TaskId, lock: u64, at: &'static Location<'static>) {
        while state.locks.contains_key(&lock) {
            state = self.block(state, me, On::Lock(lock), None, at);
        }
        state.locks.insert(lock, me);
    }

    /// Takes a lock; does nothing outside a run, where the real lock behind it is enough.
    pub(crate) fn lock(&self, lock: u64, at: &'static Location<'static>) {
        if let Some(me) = self.me() {
            let state = self.point_of(me, LOCK | lock << 8);
            self.take(state, me, lock, at);
        }
    }

    /// Releases a lock that [`Schedule::lock`] took.
    pub(crate) fn unlock(&self, lock: u64) {
        let Some(me) = self.me() else { return };
        let mut state = self.state();
        if state.locks.get(&lock) == Some(&me) {
            state.locks.remove(&lock);
            state.wake(On::Lock(lock));
        }
        // Called from a drop: a run that was broken off lets the thread go on to its next call.
        if !std::thread::panicking() && state.broken.is_none() {
            state.count_point(me, UNLOCK | lock << 8);
            drop(self.hand_over(state, me));
        }
    }

    /// Releases the lock, waits for the condition or the timeout, and takes the lock again. Says
    /// whether time ran out.
    ///
    /// # Panics
    /// Outside a run without a timeout: nobody could end the wait.
    #[allow(clippy::panic)]
    pub(crate) fn wait(
        &self,
        condition: u64,
        lock: u64,
        timeout: Option<Duration>,
        at: &'static Location<'static>,
    ) -> bool {
        let Some(me) = self.me() else {
            let Some(timeout) = timeout else { panic!("a wait without end outside a run, at {at}") };
            self.state().now += timeout;
            return true;
        };
        // A point while the lock is held: whoever notifies without it may come between the caller's
        // look at its state and the wait. It does not unwind, for the lock is to be released.
        let mut state = self.state();
        state.count_point(me, WAIT | condition << 8);
        let mut state = self.hand_over(state, me);
        self.release(&mut state, lock);
        let until = timeout.map(|timeout| state.now.saturating_add(timeout));
        let state = self.block(state, me, On::Signal(condition), until, at);
        let timed_out = state.task(me).is_some_and(|task| task.timed_out);
        self.take(state, me, lock, at);
        timed_out
    }

    fn release(&self, state: &mut State, lock: u64) {
        state.locks.remove(&lock);
        state.wake(On::Lock(lock));
    }

    pub(crate) fn notify(&self, condition: u64, all: bool) {
        let mut state = self.state();
        if state.is_lost(condition) {
            // Nobody hears it.
        } else if all {
            state.wake(On::Signal(condition));
        } else {
            state.wake_one(On::Signal(condition));
        }
        drop(state);
        if let Some(me) = self.me()
            && !std::thread::panicking()
        {
            drop(self.point_of(me, NOTIFY | condition << 8));
        }
    }

    /// Starts a thread of this run.
    pub(crate) fn spawn(
        self: &Arc<Schedule>,
        name: &str,
        body: impl FnOnce() + Send + 'static,
        at: &'static Location<'static>,
    ) -> io::Result<(std::thread::JoinHandle<()>, SimThread)> {
        let Some(me) = self.me() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "simulated threads start only inside Env::run"));
        };
        let id = self.point_of(me, SPAWN).add_task(name, at);
        let schedule = self.clone();
        let start = move || schedule.thread(id, body);
        match std::thread::Builder::new().name(name.to_owned()).spawn(start) {
            Ok(handle) => {
                drop(self.point_of(me, SPAWN));
                Ok((handle, SimThread { schedule: self.clone(), id }))
            }
            Err(e) => {
                self.state().end(id, false);
                Err(e)
            }
        }
    }

    /// The life of a started thread.
    fn thread(&self, me: TaskId, body: impl FnOnce()) {
        ME.set(Some((self.address(), me)));
        let broken = self.sleep(self.state(), me).broken.is_some();
        let ended = catch_unwind(AssertUnwindSafe(|| if broken { drop(body) } else { body() }));
        ME.set(None);
        let mut state = self.state();
        state.end(me, ended.as_ref().is_err_and(|payload| !payload.is::<BrokenOff>()));
        self.pass_on(&mut state);
        drop(state);
        if let Err(payload) = ended {
            // For the real handle; the panic was reported when it arose.
            resume_unwind(payload);
        }
    }

    /// Waits until a thread has ended; false if it never will.
    fn join(&self, id: TaskId, at: &'static Location<'static>) -> bool {
        let mut state = match self.me() {
            Some(me) => self.point_of(me, JOIN | (id as u64) << 8),
            None => self.state(),
        };
        loop {
            match (state.task(id).map(|task| task.status), self.me()) {
                (Some(Status::Ended), _) => return true,
                (Some(Status::Abandoned) | None, _) | (_, None) => return false,
                (Some(Status::Ready | Status::Blocked { .. }), Some(me)) => {
                    state = self.block(state, me, On::Thread(id), None, at);
                }
            }
        }
    }

    /// Runs `body` as the first thread and then all threads it started to their end.
    pub(crate) fn run<R>(&self, body: impl FnOnce() -> R, at: &'static Location<'static>) -> Run<R> {
        let (me, outer) = self.enter(at);
        let ended = catch_unwind(AssertUnwindSafe(body));
        let mut state = self.state();
        state.wait_for_everyone(at);
        let mut state = self.hand_over(state, me);
        let (panicked, unfinished) = state.finish();
        ME.set(outer);
        let (trace_hash, points, switches, now) = (state.hash, state.points, state.switches, state.now);
        drop(state);
        match ended {
            Ok(value) => Run { value, trace_hash, points, switches, now, panicked, unfinished },
            Err(payload) => {
                eprintln!("simulation of seed {} failed", self.seed);
                resume_unwind(payload)
            }
        }
    }

    /// Makes this thread the first of a run; returns its number and what it was before.
    #[allow(clippy::panic)]
    fn enter(&self, at: &'static Location<'static>) -> (TaskId, Option<(usize, TaskId)>) {
        let mut state = self.state();
        if state.running {
            drop(state);
            panic!("a simulated environment has one run at a time");
        }
        let me = state.start(at);
        (me, ME.replace(Some((self.address(), me))))
    }
}

/// Nobody is left who could report.
fn give_up(state: &State) -> ! {
    eprintln!("{}\nand its threads do not unwind", state.broken.as_deref().unwrap_or_default());
    std::process::abort()
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Schedule({})", self.seed)
    }
}

/// A simulated thread, for joining.
#[derive(Debug)]
pub(crate) struct SimThread {
    schedule: Arc<Schedule>,
    id: TaskId,
}

impl SimThread {
    /// Waits until the thread has ended; false if it never will.
    pub(crate) fn join(&self, at: &'static Location<'static>) -> bool {
        self.schedule.join(self.id, at)
    }
}
