//! The state machine of a task: one pure function from what is there and a command to what shall be.
//!
//! ```text
//!            claim              finish
//!  Queued ----------> Running ----------> Completed
//!    ^ ^               | | |    fail, lose (nothing left to try)
//!    | |   fail, lose, | | +------------> Failed --- retry ---> Queued
//!    | +--- release ---+ |
//!    |                   | suspend
//!    +---- resolve, ---- Waiting
//!          tick                     and from Queued, Running, Waiting: cancel, tick -> Cancelled
//! ```
//! [`TRANSITIONS`] is the same as data; a test drives [`decide`] through all of it and compares.
//!
//! Owns every decision about a task: who may speak for it, what a failure leads to, which wait wins.
//! Refuses I/O, clocks and randomness: whoever calls it has read what is needed, and brings `now` and what
//! is to be drawn ([`Fresh`]). What else must happen is returned as an [`Effect`].
//!
//! Invariants
//! 1. Only who shows the fence of a running task changes it in the name of a worker.
//! 2. A recorded step stays what it is, but for a failure that is tried again.
//! 3. A task that has ended has no open wait, and changes only by `retry` of a failed one.
//! 4. What is told twice by the same hand-out changes nothing the second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Millis, RunId};
use crate::step::{Again, Outcome, Step, StepId, StepKind};
use crate::task::{EndedRun, Ending, Failure, Fence, HandedBack, Json, Run, RunStatus, Spec, State, Status, Task};
use crate::wait::{Target, WAITS_MAX, WAITS_OF_ONE_MAX, Wait};

/// A task as it is read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What was asked for.
    pub spec: &'a Spec,
    /// How far it is.
    pub task: &'a Task,
    /// Its open waits.
    pub waits: &'a [Wait],
}

/// What is drawn for a decision, whether or not it is used.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// The id of the next run, if there is one.
    pub run: RunId,
    /// For the jitter of a delay.
    pub random: u64,
}

/// What is to happen to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A worker takes it.
    Claim {
        /// The fence of this hand-out, never used before.
        fence: Fence,
        /// The version of the worker's code, if it says one.
        version: Option<String>,
    },
    /// The worker tells what a step came to.
    Step {
        /// The hand-out.
        fence: Fence,
        /// Which step.
        id: StepId,
        /// Which call it was.
        kind: StepKind,
        /// What it came to.
        outcome: Outcome,
        /// The row under this id.
        recorded: Option<Step>,
    },
    /// The worker has nothing more to do until something happens.
    Suspend {
        /// The hand-out.
        fence: Fence,
        /// Any of them will do.
        waits: Vec<Wait>,
        /// What is recorded under the ids of the first of them: of all, unless that is more than goes into one answer.
        recorded: Vec<Option<Step>>,
        /// The same of what has come of their targets; none where another has won already. A wait that nothing was read
        /// of is not opened.
        come: Vec<Option<Outcome>>,
    },
    /// The function returned.
    Finish {
        /// The hand-out.
        fence: Fence,
        /// What it returned.
        output: Json,
    },
    /// The function failed.
    Fail {
        /// The hand-out.
        fence: Fence,
        /// How.
        failure: Failure,
        /// When to try again, instead of what the retry strategy says.
        retry_at_ms: Option<Millis>,
    },
    /// The worker gives it back unfinished; that costs nothing.
    Release {
        /// The hand-out.
        fence: Fence,
        /// Not before.
        due_ms: Option<Millis>,
        /// By the worker. If not, it is taken back, since it seems never to have arrived: if it does, the worker is
        /// told that it is lost.
        asked: bool,
    },
    /// The worker of this hand-out has vanished.
    Lose {
        /// The hand-out.
        fence: Fence,
    },
    /// What some wait may be for has come.
    Resolve {
        /// An event or a task.
        target: Target,
        /// What the wait becomes.
        outcome: Outcome,
    },
    /// Time has passed.
    Tick,
    /// Somebody gives it up.
    Cancel {
        /// For people.
        reason: String,
    },
    /// A failed task is tried again, with the steps it has.
    Retry {
        /// Attempts from now on, at least 1.
        extra_attempts: u32,
    },
}

/// The kinds of [`Command`], without what they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandKind {
    /// [`Command::Claim`].
    Claim,
    /// [`Command::Step`].
    Step,
    /// [`Command::Suspend`].
    Suspend,
    /// [`Command::Finish`].
    Finish,
    /// [`Command::Fail`].
    Fail,
    /// [`Command::Release`].
    Release,
    /// [`Command::Lose`].
    Lose,
    /// [`Command::Resolve`].
    Resolve,
    /// [`Command::Tick`].
    Tick,
    /// [`Command::Cancel`].
    Cancel,
    /// [`Command::Retry`].
    Retry,
}

impl Command {
    /// Which of them it is.
    pub fn kind(&self) -> CommandKind {
        match self {
            Command::Claim { .. } => CommandKind::Claim,
            Command::Step { .. } => CommandKind::Step,
            Command::Suspend { .. } => CommandKind::Suspend,
            Command::Finish { .. } => CommandKind::Finish,
            Command::Fail { .. } => CommandKind::Fail,
            Command::Release { .. } => CommandKind::Release,
            Command::Lose { .. } => CommandKind::Lose,
            Command::Resolve { .. } => CommandKind::Resolve,
            Command::Tick => CommandKind::Tick,
            Command::Cancel { .. } => CommandKind::Cancel,
            Command::Retry { .. } => CommandKind::Retry,
        }
    }
}

/// Every transition there is: from, by, and to which states it may lead. What is not here is refused, or, for
/// `resolve`, `tick` and `cancel`, changes nothing. (A step, or a suspension of which something has come
/// already, leaves a task running; a resolution of another wait leaves it where it is.)
pub const TRANSITIONS: &[(State, CommandKind, &[State])] = &[
    (State::Queued, CommandKind::Claim, &[State::Running, State::Cancelled]),
    (State::Queued, CommandKind::Resolve, &[State::Queued]),
    (State::Queued, CommandKind::Tick, &[State::Queued, State::Cancelled]),
    (State::Queued, CommandKind::Cancel, &[State::Cancelled]),
    (State::Running, CommandKind::Step, &[State::Running]),
    (State::Running, CommandKind::Suspend, &[State::Running, State::Waiting]),
    (State::Running, CommandKind::Finish, &[State::Completed]),
    (State::Running, CommandKind::Fail, &[State::Queued, State::Failed, State::Cancelled]),
    (State::Running, CommandKind::Release, &[State::Queued]),
    (State::Running, CommandKind::Lose, &[State::Queued, State::Failed]),
    (State::Running, CommandKind::Resolve, &[State::Running]),
    (State::Running, CommandKind::Tick, &[State::Running, State::Cancelled]),
    (State::Running, CommandKind::Cancel, &[State::Cancelled]),
    (State::Waiting, CommandKind::Resolve, &[State::Queued]),
    (State::Waiting, CommandKind::Tick, &[State::Queued, State::Cancelled]),
    (State::Waiting, CommandKind::Cancel, &[State::Cancelled]),
    (State::Failed, CommandKind::Retry, &[State::Queued]),
];

/// What shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The task as it is from now on.
    pub task: Task,
    /// All its open waits from now on.
    pub waits: Vec<Wait>,
    /// Steps to record.
    pub steps: Vec<(StepId, Step)>,
    /// Of a suspension: what has come already, recorded now or before. The worker goes on with it.
    pub resumed: Vec<(StepId, Step)>,
    /// A run that has ended with this. Whose it was is known to who hands out.
    pub ended_run: Option<EndedRun>,
    /// What the task returned.
    pub output: Option<Json>,
    /// What else must happen.
    pub effects: Vec<Effect>,
}

/// What a decision about one task means for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The task has ended: resolve the waits for it.
    Ended,
    /// Tell the worker that holds it to stop.
    Stop {
        /// The hand-out.
        fence: Fence,
        /// Why.
        by: Ending,
    },
}

/// Why a command was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The hand-out is over, or never was.
    StaleFence,
    /// The hand-out ended because the task was cancelled.
    Cancelled,
    /// It contradicts what is recorded, or the state of the task.
    Conflict(&'static str),
    /// The command itself is wrong.
    Invalid(&'static str),
}

/// Decides a command.
///
/// # Errors
/// Why it is refused.
pub fn decide(record: Record<'_>, command: Command, now_ms: Millis, fresh: Fresh) -> Result<Decision, Refusal> {
    let turn = Turn { spec: record.spec, now_ms, fresh, decision: Decision::unchanged(record.task, record.waits) };
    match command {
        Command::Claim { fence, version } => turn.claim(fence, version),
        Command::Step { fence, id, kind, outcome, recorded } => turn.step(fence, id, kind, outcome, recorded),
        Command::Suspend { fence, waits, recorded, come } => turn.suspend(fence, waits, recorded, come),
        Command::Finish { fence, output } => turn.finish(fence, output),
        Command::Fail { fence, failure, retry_at_ms } => turn.fail(fence, failure, retry_at_ms),
        Command::Release { fence, due_ms, asked } => turn.release(fence, due_ms, asked),
        Command::Lose { fence } => turn.lose(fence),
        Command::Resolve { target, outcome } => Ok(turn.resolve(&target, &outcome)),
        Command::Tick => Ok(turn.tick()),
        Command::Cancel { reason } => Ok(turn.cancel(reason)),
        Command::Retry { extra_attempts } => turn.retry(extra_attempts),
    }
}

/// Checks a suspension before anything is read for it. False: it repeats the one that ended this hand-out, and nothing
/// need be read.
///
/// # Errors
/// Why it is refused.
pub fn may_suspend(task: &Task, fence: Fence, waits: &[Wait]) -> Result<bool, Refusal> {
    if !holds(task, fence, Some(Ending::Suspended))? {
        return Ok(false);
    }
    if waits.is_empty() {
        return Err(Refusal::Invalid("a suspension without anything to wait for"));
    }
    check_count(waits)?;
    let ids: BTreeSet<&StepId> = waits.iter().map(|wait| &wait.id).collect();
    if ids.len() < waits.len() {
        return Err(Refusal::Invalid("two waits of one suspension have the same step id"));
    }
    Ok(true)
}

/// How a hand-out of a task ended, if it is one of the past that is remembered.
fn over(task: &Task, fence: Fence) -> Option<Ending> {
    task.handed_back.filter(|over| over.fence == fence).map(|over| over.by)
}

/// Whether a hand-out has the task. If it is over, and ended by the very call that is made now, the call is answered
/// as before. (A step ends none.)
fn holds(task: &Task, fence: Fence, call: Option<Ending>) -> Result<bool, Refusal> {
    if task.status == (Status::Running { fence }) {
        return Ok(true);
    }
    if cairn_env::mutant("stale-fence-taken") && task.status.state() == State::Running {
        return Ok(true);
    }
    match over(task, fence) {
        Some(by) if Some(by) == call => Ok(false),
        Some(Ending::Cancelled) => Err(Refusal::Cancelled),
        _ => Err(Refusal::StaleFence),
    }
}

/// Which waits of a suspension something has come of: those, and the others of their groups.
#[derive(Debug, Default)]
pub(crate) struct Won<'a> {
    ids: BTreeSet<&'a StepId>,
    groups: BTreeSet<&'a str>,
}

impl<'a> Won<'a> {
    /// Something has come of this one.
    pub(crate) fn by(&mut self, wait: &'a Wait) {
        self.ids.insert(&wait.id);
        self.groups.extend(wait.group.as_deref());
    }

    /// Whether something has come of it, or of another of its group.
    pub(crate) fn takes(&self, wait: &Wait) -> bool {
        self.ids.contains(&wait.id) || wait.group.as_deref().is_some_and(|group| self.groups.contains(group))
    }
}

const _: () = assert!(WAITS_MAX == 1_000 && WAITS_OF_ONE_MAX == 50); // its texts say so

/// Whether a task may have all these open.
fn check_count(waits: &[Wait]) -> Result<(), Refusal> {
    if waits.len() > WAITS_MAX {
        return Err(Refusal::Invalid("more than 1,000 open waits"));
    }
    let mut of_one: BTreeMap<&Target, usize> = BTreeMap::new();
    for wait in waits.iter().filter(|wait| !matches!(wait.target, Target::Timer(_))) {
        let count = of_one.entry(&wait.target).or_default();
        *count += 1;
        if *count > WAITS_OF_ONE_MAX {
            return Err(Refusal::Invalid("more than 50 open waits for one event or one task"));
        }
    }
    Ok(())
}

/// When the clock next makes something of a task, so that [`Command::Tick`] is due.
pub fn due_ms(record: Record<'_>) -> Option<Millis> {
    if record.task.status.state().has_ended() {
        return None;
    }
    let waits = record.waits.iter().filter_map(Wait::due_ms);
    waits.chain(give_up_ms(record.spec, record.task)).min()
}

/// When the policy of a task gives it up.
fn give_up_ms(spec: &Spec, task: &Task) -> Option<Millis> {
    let policy = &spec.cancellation;
    match task.first_started_ms {
        Some(started_ms) => policy.max_duration_ms.map(|span| started_ms.saturating_add(span)),
        None if task.run.attempt == 1 => policy.max_delay_ms.map(|span| spec.created_ms.saturating_add(span)),
        None => None,
    }
}

impl Decision {
    fn unchanged(task: &Task, waits: &[Wait]) -> Decision {
        Decision {
            task: task.clone(),
            waits: waits.to_vec(),
            steps: Vec::new(),
            resumed: Vec::new(),
            ended_run: None,
            output: None,
            effects: Vec::new(),
        }
    }
}

/// One decision on its way.
struct Turn<'a> {
    spec: &'a Spec,
    now_ms: Millis,
    fresh: Fresh,
    decision: Decision,
}

impl Turn<'_> {
    fn task(&mut self) -> &mut Task {
        &mut self.decision.task
    }

    fn holds(&self, fence: Fence, call: Option<Ending>) -> Result<bool, Refusal> {
        holds(&self.decision.task, fence, call)
    }

    fn claim(mut self, fence: Fence, version: Option<String>) -> Result<Decision, Refusal> {
        let now_ms = self.now_ms;
        match self.decision.task.status {
            Status::Queued { due_ms } if due_ms <= now_ms => {}
            Status::Queued { .. } => return Err(Refusal::Conflict("the task is not due yet")),
            _ => return Err(Refusal::Conflict("the task is not queued")),
        }
        if self.is_given_up() {
            return Ok(self.give_up());
        }
        let task = self.task();
        task.run.started_ms.get_or_insert(now_ms);
        task.first_started_ms.get_or_insert(now_ms);
        task.status = Status::Running { fence };
        task.version = version;
        Ok(self.decision)
    }

    fn step(
        mut self,
        fence: Fence,
        id: StepId,
        kind: StepKind,
        outcome: Outcome,
        recorded: Option<Step>,
    ) -> Result<Decision, Refusal> {
        let attempt = self.decision.task.run.attempt;
        let again = recorded.as_ref().map(|step| step.again(kind, attempt, &outcome));
        if over(&self.decision.task, fence).is_none() || again != Some(Again::Same) {
            self.holds(fence, None)?;
        }
        match again {
            Some(Again::Same) => return Ok(self.decision),
            Some(Again::Conflict(what)) => return Err(Refusal::Conflict(what)),
            Some(Again::Record) | None => {}
        }
        let seq = match recorded {
            Some(step) => step.seq,
            None => self.next_seq(),
        };
        let step = Step { seq, kind, attempt, at_ms: self.now_ms, outcome };
        self.decision.steps.push((id, step));
        Ok(self.decision)
    }

    fn suspend(
        mut self,
        fence: Fence,
        waits: Vec<Wait>,
        recorded: Vec<Option<Step>>,
        come: Vec<Option<Outcome>>,
    ) -> Result<Decision, Refusal> {
        if !may_suspend(&self.decision.task, fence, &waits)? {
            return Ok(self.decision);
        }
        let mut won = Won::default();
        let all_read = recorded.len() == waits.len() && come.len() == waits.len();
        for (wait, step) in waits.iter().zip(recorded) {
            if let Some(step) = step {
                if step.kind != wait.target.kind() {
                    return Err(Refusal::Conflict("another kind of call is recorded under this step id"));
                }
                won.by(wait);
                self.decision.resumed.push((wait.id.clone(), step));
            }
        }
        let before: BTreeSet<StepId> = self.decision.waits.iter().map(|wait| wait.id.clone()).collect();
        for (wait, come) in waits.iter().zip(come) {
            if !won.takes(wait) && self.open(wait, come, &before)? {
                won.by(wait);
            }
        }
        check_count(&self.decision.waits)?;
        if !all_read && self.decision.resumed.is_empty() {
            return Err(Refusal::Invalid("a suspension of which nothing was read"));
        }
        if self.decision.resumed.is_empty() {
            let since_ms = self.now_ms;
            self.hand_back(fence, Ending::Suspended);
            self.task().status = Status::Waiting { since_ms };
        }
        Ok(self.decision)
    }

    /// Opens one wait of a suspension, unless it was `before`, and records what has come of it already; says whether
    /// something has.
    fn open(&mut self, wait: &Wait, come: Option<Outcome>, before: &BTreeSet<StepId>) -> Result<bool, Refusal> {
        let open = |waits: &[Wait]| waits.iter().position(|open| open.id == wait.id);
        let at = match before.get(&wait.id).and_then(|_| open(&self.decision.waits)) {
            Some(at) if self.decision.waits[at].target.kind() != wait.target.kind() => {
                return Err(Refusal::Conflict("another kind of wait is open under this step id"));
            }
            Some(at) => {
                if cairn_env::mutant("deadline-moved-by-a-replay") {
                    self.decision.waits[at] = wait.clone();
                }
                at
            }
            None => {
                self.decision.waits.push(wait.clone());
                self.decision.waits.len() - 1
            }
        };
        let Some(outcome) = self.decision.waits[at].due(self.now_ms).or(come) else { return Ok(false) };
        let resumed = self.record(at, outcome);
        self.decision.resumed.push(resumed);
        Ok(true)
    }

    fn finish(mut self, fence: Fence, output: Json) -> Result<Decision, Refusal> {
        if !self.holds(fence, Some(Ending::Completed))? {
            return Ok(self.decision);
        }
        self.decision.output = Some(output);
        self.hand_back(fence, Ending::Completed);
        let ended_ms = self.now_ms;
        Ok(self.end(Status::Completed { ended_ms }, RunStatus::Done))
    }

    fn fail(mut self, fence: Fence, failure: Failure, retry_at_ms: Option<Millis>) -> Result<Decision, Refusal> {
        if !self.holds(fence, Some(Ending::Failed))? {
            return Ok(self.decision);
        }
        self.hand_back(fence, Ending::Failed);
        let now_ms = self.now_ms;
        let Run { attempt, .. } = self.decision.task.run;
        if !failure.retryable || attempt >= self.decision.task.max_attempts {
            return Ok(
                self.end(Status::Failed { ended_ms: now_ms, failure: failure.clone() }, RunStatus::Failed(failure))
            );
        }
        let delay_ms = self.spec.retry.delay_ms(attempt, self.fresh.random);
        let due_ms = retry_at_ms.unwrap_or(now_ms.saturating_add(delay_ms)).max(now_ms);
        if give_up_ms(self.spec, &self.decision.task).is_some_and(|at| at <= due_ms) {
            let reason = "its max_duration_ms would be over before the next attempt".to_owned();
            return Ok(self.end(Status::Cancelled { ended_ms: now_ms, reason }, RunStatus::Failed(failure)));
        }
        self.end_run(RunStatus::Failed(failure));
        Ok(self.queue_again(attempt + 1, due_ms))
    }

    fn release(mut self, fence: Fence, due_ms: Option<Millis>, asked: bool) -> Result<Decision, Refusal> {
        let by = if asked { Ending::Released } else { Ending::Lost };
        if !self.holds(fence, Some(by))? {
            return Ok(self.decision);
        }
        self.hand_back(fence, by);
        if !asked {
            self.decision.effects.push(Effect::Stop { fence, by });
        }
        let due_ms = due_ms.unwrap_or(self.now_ms).max(self.now_ms);
        self.task().status = Status::Queued { due_ms };
        Ok(self.decision)
    }

    fn lose(mut self, fence: Fence) -> Result<Decision, Refusal> {
        if !self.holds(fence, Some(Ending::Lost))? {
            return Ok(self.decision);
        }
        self.hand_back(fence, Ending::Lost);
        self.decision.effects.push(Effect::Stop { fence, by: Ending::Lost });
        let now_ms = self.now_ms;
        let task = self.task();
        task.lost = task.lost.saturating_add(1);
        let (lost, attempt) = (task.lost, task.run.attempt);
        if lost > self.spec.max_lost {
            let failure = Failure {
                kind: "lost".to_owned(),
                message: format!("{lost} workers vanished with it; at most {} may", self.spec.max_lost),
                detail: None,
                retryable: true,
            };
            return Ok(self.end(Status::Failed { ended_ms: now_ms, failure }, RunStatus::Lost));
        }
        self.end_run(RunStatus::Lost);
        let attempt = attempt + u32::from(cairn_env::mutant("lost-run-costs-an-attempt"));
        Ok(self.queue_again(attempt, now_ms))
    }

    fn resolve(mut self, target: &Target, outcome: &Outcome) -> Decision {
        let now_ms = self.now_ms;
        // The clock comes first: what came after its time has come too late.
        self.record_each(|wait| {
            let due = wait.due(now_ms).filter(|_| !cairn_env::mutant("late-event-beats-its-timeout"));
            due.or_else(|| (wait.target == *target).then(|| outcome.clone()))
        });
        self.wake()
    }

    fn tick(mut self) -> Decision {
        if self.decision.task.status.state().has_ended() {
            return self.decision;
        }
        if self.is_given_up() {
            return self.give_up();
        }
        let now_ms = self.now_ms;
        self.record_each(|wait| wait.due(now_ms));
        self.wake()
    }

    fn cancel(mut self, reason: String) -> Decision {
        let fence = match self.decision.task.status {
            Status::Running { fence } => Some(fence),
            Status::Queued { .. } | Status::Waiting { .. } => None,
            Status::Completed { .. } | Status::Failed { .. } | Status::Cancelled { .. } => return self.decision,
        };
        if let Some(fence) = fence {
            self.hand_back(fence, Ending::Cancelled);
            self.decision.effects.push(Effect::Stop { fence, by: Ending::Cancelled });
        }
        let ended_ms = self.now_ms;
        self.end(Status::Cancelled { ended_ms, reason }, RunStatus::Cancelled)
    }

    fn retry(mut self, extra_attempts: u32) -> Result<Decision, Refusal> {
        if self.decision.task.status.state() != State::Failed {
            return Err(Refusal::Conflict("only a failed task can be retried in place"));
        }
        if extra_attempts == 0 {
            return Err(Refusal::Invalid("extra_attempts must be at least 1"));
        }
        let now_ms = self.now_ms;
        let task = self.task();
        let attempt = task.run.attempt.saturating_add(1);
        task.max_attempts = task.run.attempt.saturating_add(extra_attempts);
        // Who retries it gives it its time and its workers anew.
        task.lost = 0;
        task.first_started_ms = None;
        Ok(self.queue_again(attempt, now_ms))
    }

    fn is_given_up(&self) -> bool {
        give_up_ms(self.spec, &self.decision.task).is_some_and(|at| at <= self.now_ms)
    }

    /// Cancels the task as its policy says.
    fn give_up(self) -> Decision {
        let policy = match self.decision.task.first_started_ms {
            Some(_) => "max_duration_ms",
            None => "max_delay_ms",
        };
        self.cancel(format!("its {policy} is over"))
    }

    fn hand_back(&mut self, fence: Fence, by: Ending) {
        self.task().handed_back = Some(HandedBack { fence, by });
    }

    fn next_seq(&mut self) -> u32 {
        let task = self.task();
        task.steps = task.steps.saturating_add(1);
        task.steps
    }

    /// Records what each open wait has come to. The others of its group go with it.
    fn record_each(&mut self, come: impl Fn(&Wait) -> Option<Outcome>) {
        while let Some((at, outcome)) =
            self.decision.waits.iter().enumerate().find_map(|(at, wait)| Some((at, come(wait)?)))
        {
            self.record(at, outcome);
        }
    }

    fn record(&mut self, at: usize, outcome: Outcome) -> (StepId, Step) {
        let wait = self.decision.waits.remove(at);
        if wait.group.is_some() && !cairn_env::mutant("losers-of-a-group-stay") {
            self.decision.waits.retain(|other| other.group != wait.group);
        }
        let (seq, attempt) = (self.next_seq(), self.decision.task.run.attempt);
        let resolved = (wait.id.clone(), wait.step(seq, attempt, self.now_ms, outcome));
        self.decision.steps.push(resolved.clone());
        resolved
    }

    /// A waiting task of which something has come is queued.
    fn wake(mut self) -> Decision {
        let due_ms = self.now_ms;
        if !self.decision.steps.is_empty() && self.decision.task.status.state() == State::Waiting {
            self.task().status = Status::Queued { due_ms };
        }
        self.decision
    }

    fn end_run(&mut self, status: RunStatus) {
        let ended_ms = self.now_ms;
        let task = self.task();
        if task.run.started_ms.is_some() {
            task.runs_ended = task.runs_ended.saturating_add(1);
            let run = task.run;
            self.decision.ended_run = Some(EndedRun { run, ended_ms, worker: String::new(), status });
        }
    }

    fn queue_again(mut self, attempt: u32, due_ms: Millis) -> Decision {
        let id = self.fresh.run;
        let task = self.task();
        task.run = Run { id, attempt, started_ms: None };
        task.status = Status::Queued { due_ms };
        self.decision
    }

    fn end(mut self, status: Status, run: RunStatus) -> Decision {
        self.end_run(run);
        self.task().status = status;
        self.decision.waits.clear();
        self.decision.effects.push(Effect::Ended);
        self.decision
    }
}

#[cfg(test)]
pub(crate) mod tests;
