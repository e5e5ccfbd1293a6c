//! A worker: it takes tasks while slots are free, runs their code, and tells what came of it.
//!
//! Three things go on beside each other: one poll that is parked while slots are free, the operations of all tasks
//! ([`super::lane`]), whose answers may hand out the next task, and the heartbeat ([`super::pulse`]). What is handed
//! out beyond the slots waits here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll as Polled;
use std::time::Duration;

use cairn_api::ErrorKind;
use cairn_api::tasks::{Ack, Failure, Json, Op, OpKind, OpsRequest, Poll, Signal, WAIT_MS_MAX, Welcome, Work};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ctx::Ctx;
use super::error::{AppError, Result, TaskError};
use super::lane::Lane;
use super::policy::Backoff;
use super::pulse::{Pulse, beat_until_stopped};
use super::run::Run;
use super::{App, Body, Registered};

/// A task that cannot be run here, as one whose name this worker does not know, is given back for so long, so that
/// another worker may take it.
const GIVEN_BACK_DELAY: Duration = Duration::from_secs(15);
/// Of the message of a failure that was refused.
const BRIEF_CHARS: usize = 1_000;
/// For the goodbye of a worker.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker to be, from [`App::worker`].
#[derive(Clone, Debug)]
#[must_use = "a worker works once it is started or run"]
pub struct WorkerOptions {
    app: App,
    slots: usize,
    queues: Option<Vec<String>>,
    name: Option<String>,
    drain: Duration,
}

impl WorkerOptions {
    pub(crate) fn new(app: App) -> WorkerOptions {
        WorkerOptions { app, slots: 10, queues: None, name: None, drain: Duration::from_secs(30) }
    }

    /// So many tasks run at a time; 10 unless said otherwise. One that waits takes no slot.
    pub fn slots(mut self, slots: usize) -> WorkerOptions {
        self.slots = slots;
        self
    }

    /// Where it takes tasks from: unless said otherwise, "default" and the queues that its tasks are registered with.
    pub fn queues<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> WorkerOptions {
        self.queues = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// For people who look at the list of workers.
    pub fn name(mut self, name: impl Into<String>) -> WorkerOptions {
        self.name = Some(name.into());
        self
    }

    /// How long tasks go on once it is told to stop, before they are given back; 30 seconds unless said otherwise.
    pub fn drain(mut self, drain: Duration) -> WorkerOptions {
        self.drain = drain;
        self
    }

    /// Starts it in the background, with the tasks that are registered by now. Returns when it is attached. From then on
    /// it outlasts whatever happens to the server.
    ///
    /// # Errors
    /// What its hello is refused with, as a queue that does not exist; [`AppError::Refused`] for no slots at all;
    /// [`AppError::Unreachable`] if there was no answer for some ten seconds.
    pub async fn start(self) -> Result<Worker> {
        if self.slots == 0 {
            return Err(AppError::invalid("a worker has at least one slot"));
        }
        let tasks = self.app.registered();
        let env = self.app.clock_of_server().env().clone();
        let own_queues = || {
            let queues = tasks.values().map(|task| task.defaults.queue_name().unwrap_or(super::DEFAULT_QUEUE));
            queues.chain([super::DEFAULT_QUEUE]).map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let (lane, pump) = Lane::new();
        let shared = Arc::new(Shared {
            slots: self.slots,
            queues: self.queues.unwrap_or_else(own_queues),
            name: self.name.unwrap_or_else(|| format!("worker-{:08x}", env.random_u64() >> 32)),
            app: self.app,
            tasks,
            lane,
            pulse: Pulse::default(),
            runtime: Runtime::current(),
            session: watch::Sender::new(None),
            stage: watch::Sender::new(Stage::Working),
            desk: Mutex::default(),
            freed: Notify::new(),
        });
        let posting = shared.clone();
        let pumping = Pumping(tokio::spawn(pump.run(env.clone(), move |ops| {
            let shared = posting.clone();
            async move { shared.post(ops).await }
        })));
        let (ended, mut over) = oneshot::channel();
        let beats = shared.clone();
        env.spawn("cairn-heartbeat", move || drop(ended.send(beat_until_stopped(&beats))))
            .map_err(|e| AppError::Unreachable { message: format!("no thread for heartbeats: {e}") })?;
        let beating = Beating(shared.clone());
        let mut session = shared.session.subscribe();
        tokio::select! {
            _ = session.wait_for(Option::is_some) => {}
            ended = &mut over => return Err(ended.unwrap_or(Ok(())).err().unwrap_or_else(stopped)),
        }
        let working = tokio::spawn(work(shared.clone(), over, beating, pumping, self.drain));
        Ok(Worker { shared, working })
    }

    /// Works until the program is told to stop, by SIGTERM or Ctrl-C: then tasks go on for the time of
    /// [`WorkerOptions::drain`], and what is left goes back to its queue, at no cost. A second signal gives it back at
    /// once.
    ///
    /// # Errors
    /// As [`WorkerOptions::start`].
    pub async fn run(self) -> Result<()> {
        let worker = self.start().await?;
        worker.work_until(told_to_stop(), told_to_stop()).await
    }
}

fn stopped() -> AppError {
    AppError::Over { why: "the worker has stopped".to_owned() }
}

fn defect() -> AppError {
    AppError::Refused { kind: ErrorKind::Internal, message: "the worker ended by a defect".to_owned() }
}

async fn told_to_stop() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending::<()>().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

/// A worker that works in the background. Dropped, it gives back at once what it has.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    working: JoinHandle<Result<()>>,
}

impl Worker {
    /// Takes no more tasks, lets those that run go on for the time of [`WorkerOptions::drain`], and gives back what is
    /// left.
    ///
    /// # Errors
    /// Why it had stopped by itself, if it had.
    pub async fn stop(self) -> Result<()> {
        self.work_until(std::future::ready(()), std::future::pending()).await
    }

    /// Works until `stop`, drains until `enough`. Dropped meanwhile, this ends the worker as its own drop does.
    async fn work_until(mut self, stop: impl Future<Output = ()>, enough: impl Future<Output = ()>) -> Result<()> {
        let shared = self.shared.clone();
        let stopping = async {
            stop.await;
            shared.stage(Stage::Draining);
            enough.await;
            shared.stage(Stage::Ending);
            std::future::pending().await
        };
        tokio::select! {
            ended = &mut self.working => ended.unwrap_or_else(|_| Err(defect())),
            never = stopping => never,
        }
    }

    /// How many tasks run in it now.
    pub fn running(&self) -> usize {
        self.shared.desk().runs.len()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stage(Stage::Ending);
    }
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Working,
    /// No more tasks are taken.
    Draining,
    /// What is left is given back.
    Ending,
}

/// A session, as it was told.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    /// How often to be heard.
    pub(crate) beat: Duration,
}

/// What all parts of a worker share.
pub(crate) struct Shared {
    pub(crate) app: App,
    pub(crate) tasks: BTreeMap<String, Arc<Registered>>,
    pub(crate) slots: usize,
    pub(crate) queues: Vec<String>,
    pub(crate) name: String,
    pub(crate) lane: Lane,
    pub(crate) pulse: Pulse,
    /// Where tasks run, also when the heartbeat's thread hears of them.
    runtime: Runtime,
    session: watch::Sender<Option<Session>>,
    stage: watch::Sender<Stage>,
    /// Held for look-ups and changes only; nothing waits while it is held.
    desk: Mutex<Desk>,
    /// A slot is free, or a run has ended.
    freed: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Desk {
    /// By fence.
    runs: BTreeMap<String, Arc<Run>>,
    handed_out: VecDeque<Work>,
}

/// A slot that is taken. Dropped, however its task ended, it takes the next task. A hand-out of whose end nobody was
/// told is given back.
struct Slot {
    run: Arc<Run>,
    /// Who handed it out knows that it is over.
    told: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (run, worker) = (&self.run, &self.run.worker);
        run.end("its hand-out is over");
        if self.told {
            worker.pulse.let_go(&run.task, &run.fence);
        } else {
            let due_at_ms = worker.app.clock_of_server().after(GIVEN_BACK_DELAY);
            let run = run.clone();
            worker.runtime.spawn(async move {
                run.worker.give_back(run.held(), &run.task, &run.fence, Some(due_at_ms)).await;
            });
        }
        worker.desk().runs.remove(&run.fence);
        worker.fill();
        worker.freed.notify_one();
    }
}

/// Ends the heartbeat with its worker, also when the runtime ends before it.
struct Beating(Arc<Shared>);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.pulse.stop();
    }
}

/// Ends the sending of operations with its worker.
struct Pumping(JoinHandle<()>);

impl Drop for Pumping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The life of a worker, once it is attached.
async fn work(
    shared: Arc<Shared>,
    mut over: oneshot::Receiver<Result<()>>,
    beating: Beating,
    pumping: Pumping,
    drain: Duration,
) -> Result<()> {
    let mut stage = shared.stage.subscribe();
    let outcome = tokio::select! {
        _ = stage.wait_for(|stage| *stage > Stage::Working) => Ok(()),
        refused = shared.poll() => Err(refused),
        ended = &mut over => ended.unwrap_or_else(|_| Err(defect())),
    };
    shared.stage(Stage::Draining);
    let handed_out = std::mem::take(&mut shared.desk().handed_out);
    let releasing = async {
        for work in handed_out {
            shared.give_back(Vec::new(), &work.task, &work.fence, None).await;
        }
    };
    // What does not arrive is given back by the goodbye.
    let _ = timeout(END_TIMEOUT, releasing).await;
    let drained = async {
        while !shared.desk().runs.is_empty() {
            shared.freed.notified().await;
        }
    };
    tokio::select! {
        _ = timeout(drain, drained) => {}
        _ = stage.wait_for(|stage| *stage == Stage::Ending) => {}
    }
    shared.stage(Stage::Ending);
    let runs: Vec<_> = shared.desk().runs.values().cloned().collect();
    runs.iter().for_each(|run| run.end("the worker has stopped"));
    shared.record_held(runs).await;
    drop(beating);
    if outcome.is_ok() {
        let _ = timeout(END_TIMEOUT, over).await;
    }
    drop(pumping);
    outcome
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let further = *stage < to;
            *stage = (*stage).max(to);
            further
        });
    }

    // The session.

    pub(crate) fn session(&self) -> Option<Session> {
        self.session.borrow().clone()
    }

    async fn attached_session(&self) -> Session {
        let mut session = self.session.subscribe();
        loop {
            if let Some(session) = &*session.borrow_and_update() {
                return session.clone();
            }
            // The sender is in `self`: it does not go away.
            let _ = session.changed().await;
        }
    }

    /// A hello was answered.
    pub(crate) fn attached(&self, welcome: Welcome) {
        self.app.clock_of_server().hear(welcome.now_ms);
        let stop: BTreeSet<_> = welcome.stop.iter().collect();
        let mut desk = self.desk();
        desk.runs.values().filter(|run| stop.contains(&run.task)).for_each(|run| run.end("lost"));
        let handed_out = std::mem::take(&mut desk.handed_out).into_iter();
        let (lost, kept): (VecDeque<_>, _) = handed_out.partition(|work| stop.contains(&work.task));
        desk.handed_out = kept;
        drop(desk);
        lost.iter().for_each(|work| self.pulse.let_go(&work.task, &work.fence));
        let session = Session { id: welcome.session, beat: Duration::from_millis(welcome.beat_ms) };
        self.session.send_replace(Some(session));
    }

    /// A session is not known any more.
    pub(crate) fn session_is_over(&self, id: &str) {
        let over = self.session.send_if_modified(|session| {
            let over = session.as_ref().is_some_and(|session| session.id == id);
            if over {
                *session = None;
            }
            over
        });
        if over {
            self.pulse.hurry();
        }
    }

    /// What an answer says besides.
    pub(crate) fn hear(&self, now_ms: u64, signals: &[Signal]) {
        self.app.clock_of_server().hear(now_ms);
        for signal in signals {
            let mut desk = self.desk();
            desk.handed_out.retain(|work| work.fence != signal.fence);
            let run = desk.runs.get(&signal.fence).cloned();
            drop(desk);
            self.pulse.let_go(&signal.task, &signal.fence);
            if let Some(run) = run {
                run.end(if signal.kind == "cancel" { "the task was cancelled" } else { "lost" });
            }
        }
    }

    // Work.

    /// Takes tasks while slots are free. Returns with what no later poll would be answered otherwise.
    async fn poll(self: &Arc<Self>) -> AppError {
        let mut backoff = Backoff::new();
        loop {
            let free = {
                let desk = self.desk();
                self.slots.saturating_sub(desk.runs.len() + desk.handed_out.len())
            };
            let Some(free) = u32::try_from(free).ok().filter(|free| *free > 0) else {
                self.freed.notified().await;
                continue;
            };
            let session = self.attached_session().await;
            let poll = Poll { session: session.id.clone(), free, wait_ms: WAIT_MS_MAX };
            match self.app.link().poll(poll).await {
                Ok(polled) => {
                    backoff.reset();
                    self.hear(polled.now_ms, &polled.signals);
                    self.take(polled.work);
                }
                Err(error) => {
                    // What is damaged there may be one queue's; the others go on once they have work.
                    let passes = error.is_transient() || error.kind() == Some(ErrorKind::Corrupt);
                    if error.ends_session() {
                        self.session_is_over(&session.id);
                    } else if !passes {
                        return error;
                    }
                    sleep(backoff.next(self.app.clock_of_server().env())).await;
                }
            }
        }
    }

    /// Sends operations in one request, in a session that is known.
    async fn post(self: &Arc<Self>, ops: Vec<Op>) -> Result<Vec<Ack>> {
        loop {
            let session = self.attached_session().await;
            let ends = |op: &&Op| matches!(op.op, OpKind::Finish | OpKind::Release);
            let claim = match *self.stage.borrow() {
                Stage::Working => ops.iter().filter(ends).count(),
                Stage::Draining | Stage::Ending => 0,
            };
            let claim = u32::try_from(claim).unwrap_or(u32::MAX);
            let request = OpsRequest { session: session.id.clone(), ops: ops.clone(), claim };
            match self.app.link().ops(request).await {
                Ok(answer) => {
                    self.hear(answer.now_ms, &answer.signals);
                    self.take(answer.work);
                    return Ok(answer.acks);
                }
                Err(error) if error.ends_session() => self.session_is_over(&session.id),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(self: &Arc<Self>, work: Vec<Work>) {
        for work in work {
            self.pulse.hold(&work.task, &work.fence);
            let mut desk = self.desk();
            if *self.stage.borrow() == Stage::Working {
                desk.handed_out.push_back(work);
            } else {
                let shared = self.clone();
                let back = async move { shared.give_back(Vec::new(), &work.task, &work.fence, None).await };
                self.runtime.spawn(back);
            }
        }
        self.fill();
    }

    /// Gives a task back. Until that is acknowledged it is held: a beat that did not name it would lose it.
    async fn give_back(&self, before: Vec<Op>, task: &str, fence: &str, due_at_ms: Option<u64>) {
        let (given, under) = (task.to_owned(), fence.to_owned());
        let op = Op { op: OpKind::Release, task: given, fence: under, due_at_ms, ..Op::default() };
        // Refused it is not ours any more.
        let _ = self.lane.send(before, op).await;
        self.pulse.let_go(task, fence);
    }

    /// Of runs that are cut short, records what they kept for their next operation, and gives their tasks back.
    async fn record_held(self: &Arc<Self>, runs: Vec<Arc<Run>>) {
        let giving = runs.into_iter().map(|run| (run.held(), run)).filter(|(held, _)| !held.is_empty());
        let giving = giving.map(|(held, run)| {
            let shared = self.clone();
            tokio::spawn(async move { shared.give_back(held, &run.task, &run.fence, None).await })
        });
        let given = async {
            for giving in giving.collect::<Vec<_>>() {
                let _ = giving.await;
            }
        };
        // What does not arrive is run again, as it may be.
        let _ = timeout(END_TIMEOUT, given).await;
    }

    /// Begins what was handed out, as slots allow.
    fn fill(self: &Arc<Self>) {
        loop {
            let mut desk = self.desk();
            if desk.runs.len() >= self.slots || *self.stage.borrow() > Stage::Working {
                return;
            }
            let Some(work) = desk.handed_out.pop_front() else { return };
            let (run, input, steps_next) = Run::new(self.clone(), work);
            let run = Arc::new(run);
            desk.runs.insert(run.fence.clone(), run.clone());
            drop(desk);
            self.runtime.spawn(async move {
                let mut slot = Slot { run, told: false };
                slot.told = execute(&slot.run, input, steps_next).await;
            });
        }
    }
}

/// The hand-out of a task, from its beginning to its end. Whether who handed it out knows that it is over.
async fn execute(run: &Arc<Run>, input: Json, steps_next: Option<String>) -> bool {
    let worker = &run.worker;
    let Some(registered) = worker.tasks.get(&run.name) else { return false };
    if let Some(after) = steps_next
        && load_rest(run, after).await.is_err()
    {
        return run.check().is_err();
    }
    let ctx = Ctx::new(run.clone());
    let begin = || worker.app.wrapped(ctx.clone(), (registered.run)(ctx, input));
    let Some(ended) = attempt(run, begin).await else { return true };
    // The run is over for whoever still has a context of it, but not for this last word.
    run.end("the task has ended");
    let finish = async |output, failure| {
        let acked = run.send(Op { output, failure, ..run.op(OpKind::Finish, None) }).await;
        acked.map(drop).or_else(|refused| if refused.ends_run() { Ok(()) } else { Err(refused) })
    };
    let error = match ended {
        Ok(output) => match finish(Some(output), None).await {
            Ok(()) => return true,
            Err(refused) => TaskError::from(refused),
        },
        Err(error) => error,
    };
    let failure = error.into_failure();
    // However it is refused, an attempt that failed has failed: without its detail, if need be.
    let brief =
        Failure { message: failure.message.chars().take(BRIEF_CHARS).collect(), detail: None, ..failure.clone() };
    finish(None, Some(failure)).await.is_ok() || finish(None, Some(brief)).await.is_ok()
}

/// Runs the code of a task until it has ended, or the run is over: then it is dropped, and there is nothing to tell.
async fn attempt(run: &Run, begin: impl FnOnce() -> Body) -> Option<Result<Json, TaskError>> {
    let mut body = match caught(begin) {
        Ok(body) => body,
        Err(panicked) => return Some(Err(panicked)),
    };
    let ended = loop {
        let polling = poll_fn(|context| {
            let polled = caught(|| body.as_mut().poll(context));
            polled.unwrap_or_else(|panicked| Polled::Ready(Err(panicked)))
        });
        tokio::select! {
            biased;
            () = run.over() => break None,
            ended = polling => break Some(ended),
            () = run.quiet() => run.suspend().await,
        }
    };
    // The destructors of what it holds are the task's code, too.
    let dropped = caught(|| drop(body));
    ended.map(|ended| ended.and_then(|output| dropped.map(|()| output)))
}

/// A panic in the code of a task is a failure of it, not of its worker.
fn caught<T>(code: impl FnOnce() -> T) -> Result<T, TaskError> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        TaskError::new("panic", text.unwrap_or_else(|| "without a message".to_owned()))
    })
}

/// The rest of what is recorded of a task, beyond what came with it.
async fn load_rest(run: &Run, after: String) -> Result<()> {
    let (app, mut backoff) = (&run.worker.app, Backoff::new());
    let mut next = Some(after);
    while let Some(after) = next.clone() {
        run.check()?;
        match app.link().steps(&run.task, &after).await {
            Ok(page) => {
                run.learn(page.items);
                next = page.next;
            }
            Err(error) if error.is_transient() => sleep(backoff.next(app.clock_of_server().env())).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
