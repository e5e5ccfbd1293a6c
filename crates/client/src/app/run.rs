//! One hand-out of a task: what is recorded, what is under way, and how it lets go.
//!
//! Invariants
//! 1. An id that is recorded is never run again and never sent again.
//! 2. A run suspends only when nothing durable is under way in it and no branch has had anything to do for a few turns
//!    of the runtime; then all its open waits go in one operation, and the first that ends wakes the task.
//! 3. Once the run is over it stays so. The future of the task is dropped, where it cannot swallow anything; on a
//!    context that got out of it every call errs again.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_api::ErrorKind;
use cairn_api::tasks::{Ack, Json, Op, OpKind, Step, Wait, Work};
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::yield_now;

use super::error::{AppError, Result};
use super::ids::Scope;
use super::lane::size;
use super::worker::Shared;

/// How many turns of the runtime without a durable call make a run quiet: enough for what a finished wait sets off in
/// other branches.
const QUIET_TURNS: usize = 10;
/// So many operations, of so many bytes, are held for the next one; it and they always fit in a request.
const HELD_MAX: usize = 16;
const HELD_BYTES_MAX: usize = 1 << 20;

tokio::task_local! {
    /// Set while the body of a step runs: what is recorded as one value cannot have durable calls inside.
    static IN_STEP: String;
}

/// Polls the body of a step.
pub(crate) async fn in_step<F: Future>(id: &str, body: F) -> F::Output {
    IN_STEP.scope(id.to_owned(), body).await
}

/// Whether the calls of a run go on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Going,
    /// A suspension is on its way; who comes meanwhile waits for what becomes of it.
    Suspending,
    Over(Arc<str>),
}

/// A hand-out of a task.
pub(crate) struct Run {
    pub(crate) task: String,
    pub(crate) name: String,
    pub(crate) queue: String,
    pub(crate) fence: String,
    pub(crate) attempt: u32,
    pub(crate) headers: Map<String, Value>,
    pub(crate) worker: Arc<Shared>,
    pub(crate) root: Arc<Scope>,
    /// Held for look-ups and changes only; nothing waits while it is held.
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    /// Something changed that may make the run quiet. Only the driver of the run waits for it.
    changed: Notify,
}

#[derive(Default)]
struct State {
    recorded: BTreeMap<String, Arc<Step>>,
    waits: BTreeMap<String, Open>,
    /// What goes with the next operation, and need not be durable before.
    held: Vec<Op>,
    under_way: usize,
    /// Counts calls, so that a turn without any can be told.
    calls: u64,
}

/// A wait that is not over.
struct Open {
    wait: Wait,
    tell: oneshot::Sender<Result<Arc<Step>>>,
}

/// While it is there the run does not suspend.
pub(crate) struct Working<'a>(&'a Run);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        state.calls += 1;
        drop(state);
        self.0.changed.notify_one();
    }
}

/// Takes a wait back whose caller has gone.
struct Waiting<'a>(&'a Run, &'a str);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waits.remove(self.1);
    }
}

impl Run {
    /// The run of what was handed out, the input of its task, and where the rest of what is recorded begins.
    pub(crate) fn new(worker: Arc<Shared>, work: Work) -> (Run, Json, Option<String>) {
        let recorded = work.steps.into_iter().map(|step| (step.key.clone(), Arc::new(step))).collect();
        let run = Run {
            task: work.task,
            name: work.name,
            queue: work.queue,
            fence: work.fence,
            attempt: work.attempt,
            // The server lets only objects in.
            headers: serde_json::from_str(work.headers.get()).unwrap_or_default(),
            worker,
            root: Scope::new(String::new()),
            state: Mutex::new(State { recorded, ..State::default() }),
            phase: watch::Sender::new(Phase::Going),
            changed: Notify::new(),
        };
        (run, work.input, work.steps_next)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation on this hand-out.
    pub(crate) fn op(&self, op: OpKind, key: Option<String>) -> Op {
        Op { op, task: self.task.clone(), fence: self.fence.clone(), key, ..Op::default() }
    }

    /// More of what is recorded. Steps that have failed in earlier attempts are left out, as they are of a hand-out: this
    /// attempt tries them anew.
    pub(crate) fn learn(&self, steps: Vec<Step>) {
        let own = |step: &Step| step.status != "failed" || step.kind != "step" || step.attempt == self.attempt;
        let steps = steps.into_iter().filter(own);
        self.state().recorded.extend(steps.map(|step| (step.key.clone(), Arc::new(step))));
    }

    /// From here on nothing that the task does counts.
    pub(crate) fn end(&self, why: &str) {
        self.phase.send_if_modified(|phase| {
            let goes_on = !matches!(phase, Phase::Over(_));
            if goes_on {
                *phase = Phase::Over(why.into());
            }
            goes_on
        });
        let waits = std::mem::take(&mut self.state().waits);
        for open in waits.into_values() {
            let _ = open.tell.send(Err(AppError::Over { why: why.to_owned() }));
        }
    }

    /// Resolves when the run is over.
    pub(crate) async fn over(&self) {
        // The sender is in `self`: it does not go away.
        let _ = self.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Over(_))).await;
    }

    /// # Errors
    /// [`AppError::Over`] if it is.
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.phase.borrow() {
            Phase::Over(why) => Err(AppError::Over { why: why.to_string() }),
            Phase::Going | Phase::Suspending => Ok(()),
        }
    }

    /// Every durable call begins with this.
    pub(crate) async fn enter(&self) -> Result<()> {
        if let Ok(step) = IN_STEP.try_with(String::clone) {
            let text = format!("a durable call inside the step \"{step}\": what a step does is recorded as one value");
            return Err(AppError::invalid(text));
        }
        self.state().calls += 1;
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Suspending).await;
        self.check()
    }

    /// What is recorded under an id.
    pub(crate) fn recall(&self, key: &str, kind: &str) -> Result<Option<Arc<Step>>> {
        match self.state().recorded.get(key) {
            Some(found) if found.kind != kind => {
                let message = format!(
                    "\"{key}\" is recorded as {} and called as {kind}: has the task changed since it began?",
                    found.kind
                );
                Err(AppError::Refused { kind: ErrorKind::Conflict, message })
            }
            found => Ok(found.cloned()),
        }
    }

    /// The last pause between attempts of a step that was a durable wait, by its number.
    pub(crate) fn last_pause(&self, key: &str) -> u32 {
        let prefix = format!("{key}/retry:{}.", self.attempt);
        let state = self.state();
        let pauses = state.recorded.range(prefix.clone()..).map_while(|(key, _)| key.strip_prefix(&prefix));
        pauses.filter_map(|number| number.parse().ok()).max().unwrap_or(0)
    }

    /// The run does not suspend while this is there.
    pub(crate) fn working(&self) -> Working<'_> {
        self.state().under_way += 1;
        Working(self)
    }

    /// Keeps an operation for the next one that is sent, in the same request. What is too much to be kept is sent now.
    pub(crate) async fn record_with_next(&self, op: Op) -> Result<()> {
        {
            let mut state = self.state();
            let bytes: usize = state.held.iter().chain([&op]).map(size).sum();
            if state.held.len() < HELD_MAX && bytes <= HELD_BYTES_MAX {
                state.held.push(op);
                return Ok(());
            }
        }
        self.record(op).await.map(drop)
    }

    /// What was kept for the next operation, for who sends it.
    pub(crate) fn held(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().held)
    }

    /// Sends an operation after what was kept for it.
    ///
    /// # Errors
    /// What is refused, it or what was kept; then that is not kept any more.
    pub(crate) async fn send(&self, op: Op) -> Result<Ack> {
        self.worker.lane.send(self.held(), op).await
    }

    /// Sends an operation. When this returns it is durable.
    pub(crate) async fn record(&self, op: Op) -> Result<Ack> {
        let _working = self.working();
        let acked = self.send(op).await;
        if let Err(error) = &acked
            && error.ends_run()
        {
            self.end(&format!("lost: {error}"));
        }
        self.check()?;
        acked
    }

    /// How a wait ends. Unless that is recorded the task is suspended, and this does not return.
    pub(crate) async fn wait(&self, kind: &str, wait: Wait) -> Result<Arc<Step>> {
        if let Some(found) = self.recall(&wait.key, kind)? {
            return Ok(found);
        }
        self.check()?;
        let key = wait.key.clone();
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.state();
            if state.waits.contains_key(&key) {
                return Err(AppError::AmbiguousStep { step: key });
            }
            state.waits.insert(key.clone(), Open { wait, tell });
        }
        self.changed.notify_one();
        let _waiting = Waiting(self, &key);
        told.await.unwrap_or_else(|_| Err(AppError::Over { why: "the worker has stopped".to_owned() }))
    }

    /// Something waits, and nothing durable is under way.
    fn idle_since(&self) -> Option<u64> {
        let state = self.state();
        (!state.waits.is_empty() && state.under_way == 0).then_some(state.calls)
    }

    /// Resolves when the task has nothing to do but to wait. To be polled together with it.
    pub(crate) async fn quiet(&self) {
        loop {
            let Some(calls) = self.idle_since() else {
                self.changed.notified().await;
                continue;
            };
            let mut turns = 0;
            while turns < QUIET_TURNS && self.idle_since() == Some(calls) {
                yield_now().await;
                turns += 1;
            }
            if self.idle_since() == Some(calls) {
                return;
            }
        }
    }

    /// Gives the task back until one of its waits is over. It goes on at once if one already is.
    pub(crate) async fn suspend(&self) {
        self.phase.send_if_modified(|phase| {
            let goes_on = *phase == Phase::Going;
            if goes_on {
                *phase = Phase::Suspending;
            }
            goes_on
        });
        let waits = self.state().waits.values().map(|open| open.wait.clone()).collect();
        let acked = self.send(Op { waits: Some(waits), ..self.op(OpKind::Suspend, None) }).await;
        match acked.map(|ack| ack.resumed.unwrap_or_default()) {
            Ok(resumed) if resumed.is_empty() => self.end("suspended"),
            Ok(resumed) => {
                let mut state = self.state();
                for step in resumed.into_iter().map(Arc::new) {
                    state.recorded.insert(step.key.clone(), step.clone());
                    if let Some(open) = state.waits.remove(&step.key) {
                        let _ = open.tell.send(Ok(step));
                    }
                }
                // The task gets its turns before the others are sent again.
                state.calls += 1;
            }
            Err(error) if error.ends_run() => self.end(&format!("lost: {error}")),
            Err(error) => {
                let waits = std::mem::take(&mut self.state().waits);
                waits.into_values().for_each(|open| drop(open.tell.send(Err(error.clone()))));
            }
        }
        self.phase.send_if_modified(|phase| {
            let suspending = *phase == Phase::Suspending;
            if suspending {
                *phase = Phase::Going;
            }
            suspending
        });
    }
}
