//! Who can run, who waits for what, and who is next: the part of the schedule that is pure state.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::Location;
use std::sync::{Arc, Condvar};
use std::time::Duration;

use super::priorities::Priorities;
use crate::rng::{Rng, mix};

/// A task's number, never used again.
pub(super) type TaskId = usize;

/// What each call costs in simulated time.
const POINT_COST: Duration = Duration::from_micros(1);
/// A run this long does not end by itself.
const POINTS_MAX: u64 = 20_000_000;
/// How long threads may go on after the body returned. Those that only wait for their next timer
/// would never end.
const POINTS_AFTER_BODY_MAX: u64 = 50_000;
/// How long threads may take to unwind after a run was broken off.
const POINTS_UNWINDING_MAX: u64 = 100_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Lock(u64),
    Signal(u64),
    Thread(TaskId),
    /// The thread that called `run`, after its body: the end of all others.
    Everyone,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ready,
    Blocked {
        on: On,
        until: Option<Duration>,
    },
    Ended,
    /// The run ended without it; it never gets a turn again.
    Abandoned,
}

pub(super) struct Task {
    pub(super) name: String,
    pub(super) status: Status,
    /// Told when the turn may be this task's.
    pub(super) turn: Arc<Condvar>,
    /// Where it blocked.
    pub(super) at: &'static Location<'static>,
    /// Whether its last wait ended by its timer.
    pub(super) timed_out: bool,
    pub(super) panicked: bool,
}

pub(super) struct State {
    seed: u64,
    pub(super) running: bool,
    /// The tasks of all runs.
    tasks: Vec<Task>,
    /// The thread that called `run`; the tasks from it on are those of this run.
    pub(super) main: TaskId,
    pub(super) current: TaskId,
    /// Held locks and their holders.
    pub(super) locks: BTreeMap<u64, TaskId>,
    /// Where each lock and condition was made; their numbers count from 1.
    objects: Vec<&'static Location<'static>>,
    /// The number of points at which a standstill was last reported.
    pub(super) stood_still_at: u64,
    pub(super) now: Duration,
    choices: Rng,
    pub(super) randoms: Rng,
    /// The turn is drawn anew at one in so many points, so that some seeds switch at every call
    /// and others let a thread run far ahead.
    stride: u64,
    /// Decide instead, if they are there.
    priorities: Option<Priorities>,
    /// Of the wakes that somebody waits for, this one is lost, counted down to 1; 0 for none.
    lost_wake: u64,
    pub(super) hash: u64,
    pub(super) points: u64,
    pub(super) switches: u64,
    /// The number of points at which patience ends.
    deadline: u64,
    /// Why the run was broken off; from then on whoever is not unwinding already unwinds.
    pub(super) broken: Option<String>,
    /// Who had not ended when the body had, and could not or would not.
    pub(super) unfinished: Vec<String>,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        let mut choices = Rng::new(seed);
        let randoms = Rng::new(choices.next_u64());
        let stride = 1 << (2 * choices.below(4));
        State {
            seed,
            running: false,
            tasks: Vec::new(),
            main: 0,
            current: 0,
            locks: BTreeMap::new(),
            objects: Vec::new(),
            stood_still_at: 0,
            now: Duration::ZERO,
            choices,
            randoms,
            stride,
            priorities: None,
            lost_wake: 0,
            hash: mix(seed),
            points: 0,
            switches: 0,
            deadline: POINTS_MAX,
            broken: None,
            unfinished: Vec::new(),
        }
    }

    pub(super) fn by_priorities(&mut self) {
        self.priorities = Some(Priorities::new(mix(self.seed)));
    }

    /// Has the `n`th wake that somebody waits for go to nobody.
    pub(super) fn lose_wake(&mut self, n: u64) {
        self.lost_wake = n;
    }

    /// Whether this wake of a condition is the one to be lost.
    pub(super) fn is_lost(&mut self, condition: u64) -> bool {
        if self.lost_wake == 0 || self.waiters(|waits| waits == On::Signal(condition)).is_empty() {
            return false;
        }
        self.lost_wake -= 1;
        self.lost_wake == 0
    }

    /// Begins a run; returns the number of its first thread.
    pub(super) fn start(&mut self, at: &'static Location<'static>) -> TaskId {
        self.running = true;
        self.locks.clear();
        self.deadline = self.points + POINTS_MAX;
        self.broken = None;
        self.unfinished.clear();
        self.main = self.add_task("main", at);
        self.current = self.main;
        self.main
    }

    /// Ends a run; returns who panicked and who had not finished.
    pub(super) fn finish(&mut self) -> (Vec<String>, Vec<String>) {
        self.running = false;
        let main = self.main;
        for task in self.tasks.iter_mut().skip(main + 1).filter(|task| task.status != Status::Ended) {
            task.status = Status::Abandoned;
        }
        if let Some(task) = self.tasks.get_mut(main) {
            task.status = Status::Ended;
        }
        let panicked = self.tasks.iter().skip(main).filter(|task| task.panicked);
        (panicked.map(|task| task.name.clone()).collect(), std::mem::take(&mut self.unfinished))
    }

    pub(super) fn new_object(&mut self, at: &'static Location<'static>) -> u64 {
        self.objects.push(at);
        self.objects.len() as u64
    }

    /// A lock or condition by its number and the place where it was made.
    fn object(&self, id: u64) -> String {
        let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        match index.and_then(|index| self.objects.get(index)) {
            Some(at) => format!("{id} (made at {at})"),
            None => id.to_string(),
        }
    }

    pub(super) fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id)
    }

    fn others(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().skip(self.main + 1)
    }

    pub(super) fn main_is_ready(&self) -> bool {
        self.task(self.main).is_some_and(|main| main.status == Status::Ready)
    }

    /// Threads go on and on although the run was broken off.
    pub(super) fn is_hopeless(&self) -> bool {
        self.broken.is_some() && self.points > self.deadline + POINTS_UNWINDING_MAX
    }

    pub(super) fn add_task(&mut self, name: &str, at: &'static Location<'static>) -> TaskId {
        self.tasks.push(Task {
            name: name.to_owned(),
            status: Status::Ready,
            turn: Arc::new(Condvar::new()),
            at,
            timed_out: false,
            panicked: false,
        });
        self.tasks.len() - 1
    }

    pub(super) fn fold(&mut self, value: u64) {
        self.hash = mix(self.hash ^ value).wrapping_add(1);
    }

    /// One call: time goes on, and the trace takes note.
    pub(super) fn count_point(&mut self, me: TaskId, what: u64) {
        self.points += 1;
        self.now += POINT_COST;
        // Now and then a thread is held up, so that timers fire while others still work.
        if self.choices.one_in(500) {
            self.now += Duration::from_micros(self.choices.below(5_000));
        }
        self.fold(me as u64);
        self.fold(what);
        if self.points > self.deadline && self.broken.is_none() {
            self.break_off(&format!("no end after {} calls", self.points));
        }
    }

    pub(super) fn wait_for_everyone(&mut self, at: &'static Location<'static>) {
        self.deadline = self.points + POINTS_AFTER_BODY_MAX;
        self.block(self.main, On::Everyone, None, at);
        self.everyone_ended();
    }

    pub(super) fn block(&mut self, me: TaskId, on: On, until: Option<Duration>, at: &'static Location<'static>) {
        if let Some(task) = self.tasks.get_mut(me) {
            task.status = Status::Blocked { on, until };
            task.at = at;
            task.timed_out = false;
        }
    }

    /// Makes all who wait for this ready.
    pub(super) fn wake(&mut self, on: On) {
        for task in &mut self.tasks {
            if matches!(task.status, Status::Blocked { on: waits, .. } if waits == on) {
                task.status = Status::Ready;
            }
        }
    }

    fn waiters(&self, of: impl Fn(On) -> bool) -> Vec<TaskId> {
        let waits = |task: &Task| matches!(task.status, Status::Blocked { on, .. } if of(on));
        (0..).zip(&self.tasks).filter(|(_, task)| waits(task)).map(|(id, _)| id).collect()
    }

    fn pick(&mut self, from: &[TaskId]) -> Option<TaskId> {
        from.get(self.choices.index(from.len())).copied()
    }

    fn make_ready(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.status = Status::Ready;
        }
    }

    /// Wakes one who waits for this.
    pub(super) fn wake_one(&mut self, on: On) {
        let waiting = self.waiters(|waits| waits == on);
        if let Some(id) = self.pick(&waiting) {
            self.make_ready(id);
        }
    }

    pub(super) fn end(&mut self, me: TaskId, panicked: bool) {
        if let Some(task) = self.tasks.get_mut(me) {
            task.status = Status::Ended;
            task.panicked = panicked;
        }
        self.fold(me as u64 | 1 << 32);
        self.wake(On::Thread(me));
        self.everyone_ended();
    }

    /// Wakes the main thread from its last wait if it is the only one left.
    fn everyone_ended(&mut self) {
        if self.others().all(|task| task.status == Status::Ended) {
            self.wake(On::Everyone);
        }
    }

    /// Who is next. `None` if nobody can run and no timer will change that.
    pub(super) fn choose(&mut self) -> Option<TaskId> {
        if self.broken.is_some() && self.points > self.deadline {
            // Some thread catches its unwinding and goes on; leave it where it is.
            self.wake(On::Everyone);
            if self.main_is_ready() {
                return Some(self.main);
            }
        }
        if self.choices.one_in(1_000) {
            // Conditions may wake for no reason.
            let waiting = self.waiters(|on| matches!(on, On::Signal(_)));
            if let Some(id) = self.pick(&waiting) {
                self.make_ready(id);
            }
        }
        self.fire_timers();
        let me = self.current;
        let i_am_ready = self.tasks.get(me).is_some_and(|task| task.status == Status::Ready);
        if self.priorities.is_none() && i_am_ready && !self.choices.one_in(self.stride) {
            return Some(me);
        }
        let mut ready = self.ready();
        if ready.is_empty() {
            self.now = self.next_timer()?.max(self.now);
            self.fire_timers();
            ready = self.ready();
        }
        match &mut self.priorities {
            Some(priorities) => priorities.pick(&ready, self.points),
            None => self.pick(&ready),
        }
    }

    fn ready(&self) -> Vec<TaskId> {
        (0..).zip(&self.tasks).filter(|(_, task)| task.status == Status::Ready).map(|(id, _)| id).collect()
    }

    fn next_timer(&self) -> Option<Duration> {
        let timer = |task: &Task| match task.status {
            Status::Blocked { until, .. } => until,
            Status::Ready | Status::Ended | Status::Abandoned => None,
        };
        self.tasks.iter().filter_map(timer).min()
    }

    fn fire_timers(&mut self) {
        let now = self.now;
        for task in &mut self.tasks {
            if matches!(task.status, Status::Blocked { until: Some(until), .. } if until <= now) {
                task.status = Status::Ready;
                task.timed_out = true;
            }
        }
    }

    /// Ends the run early: all who wait become ready, and unwind. Those who are unwinding already look
    /// again and wait on, as after any wake without a reason.
    pub(super) fn break_off(&mut self, why: &str) {
        self.broken = Some(self.report(why));
        self.deadline = self.points + POINTS_UNWINDING_MAX;
        let body_ended =
            matches!(self.task(self.main), Some(Task { status: Status::Blocked { on: On::Everyone, .. }, .. }));
        if body_ended {
            let left = self.others().filter(|task| task.status != Status::Ended);
            self.unfinished = left.map(|task| task.name.clone()).collect();
        }
        for task in &mut self.tasks {
            match task.status {
                Status::Blocked { on: On::Everyone, .. } | Status::Ready => {}
                Status::Ended | Status::Abandoned => {}
                Status::Blocked { .. } => task.status = Status::Ready,
            }
        }
    }

    fn name(&self, id: TaskId) -> &str {
        self.tasks.get(id).map_or("a thread outside the run", |task| &task.name)
    }

    /// The seed, and what each thread that has not ended is doing.
    fn report(&self, why: &str) -> String {
        let mut text = format!("simulation of seed {}: {why}", self.seed);
        for (id, task) in self.tasks.iter().enumerate().skip(self.main) {
            // Writing to a string cannot fail.
            let _ = match task.status {
                Status::Ended | Status::Abandoned => continue,
                Status::Ready => write!(text, "\n  {id} {} can run", task.name),
                Status::Blocked { on, .. } => {
                    let what = match on {
                        On::Lock(lock) => match self.locks.get(&lock) {
                            Some(holder) => {
                                format!("lock {}, held by {holder} {}", self.object(lock), self.name(*holder))
                            }
                            None => format!("lock {}", self.object(lock)),
                        },
                        On::Signal(condition) => format!("condition {}", self.object(condition)),
                        On::Thread(other) => format!("the end of {other} {}", self.name(other)),
                        On::Everyone => "the end of all others".to_owned(),
                    };
                    write!(text, "\n  {id} {} waits at {} for {what}", task.name, task.at)
                }
            };
        }
        text
    }
}
