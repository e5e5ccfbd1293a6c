//! The session of a worker, and its heartbeat: one thread with a runtime of its own, which no task can block.
//!
//! It says hello, beats, says hello again when the session is not known any more (with what is still held, so that a
//! restart of the server costs no task), and says bye. What the thread must know stands under one lock, which is never
//! held while something is sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_api::tasks::{Beat, Bye, Held, Hello, Json, Offer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{AppError, Result};
use super::policy::Backoff;
use super::worker::Shared;

/// However often a task shows its progress, a beat is not sent sooner after another.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A worker that nobody has answered for so long since its start gives up. Once it was answered it outlasts any outage.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// How the library names itself to the server.
const SDK: &str = concat!("rust/", env!("CARGO_PKG_VERSION"));

#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// By task.
    live: Mutex<State>,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<String, Live>,
    stopping: bool,
}

/// A hand-out that is held.
#[derive(Clone, Debug)]
struct Live {
    fence: String,
    step: Option<String>,
    progress: Option<Json>,
}

impl Pulse {
    fn state(&self) -> MutexGuard<'_, State> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hold(&self, task: &str, fence: &str) {
        let live = Live { fence: fence.to_owned(), step: None, progress: None };
        self.state().live.insert(task.to_owned(), live);
    }

    pub(crate) fn let_go(&self, task: &str, fence: &str) {
        let mut state = self.state();
        if state.live.get(task).is_some_and(|live| live.fence == fence) {
            state.live.remove(task);
        }
    }

    fn change(&self, task: &str, fence: &str, change: impl FnOnce(&mut Live)) {
        if let Some(live) = self.state().live.get_mut(task).filter(|live| live.fence == fence) {
            change(live);
        }
    }

    /// The step that the next beats name.
    pub(crate) fn note(&self, task: &str, fence: &str, step: &str) {
        self.change(task, fence, |live| live.step = Some(step.to_owned()));
    }

    /// Has a beat sent now, and this with it and the later ones.
    pub(crate) fn progress(&self, task: &str, fence: &str, progress: Option<Json>) {
        if progress.is_some() {
            self.change(task, fence, |live| live.progress = progress);
        }
        self.hurry.notify_one();
    }

    /// A beat, or a hello, is due now.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Says bye, and ends.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.hurry.notify_one();
    }

    fn held(&self) -> Vec<Held> {
        let state = self.state();
        let held = state.live.iter().map(|(task, live)| Held {
            task: task.clone(),
            fence: live.fence.clone(),
            step: live.step.clone(),
            progress: live.progress.clone(),
        });
        held.collect()
    }

    fn is_stopping(&self) -> bool {
        self.state().stopping
    }
}

/// The thread: beats for a worker until it is told to stop.
///
/// # Errors
/// What a hello is refused with that no later one would be answered otherwise; why there was no answer at all.
pub(crate) fn beat_until_stopped(worker: &Arc<Shared>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| AppError::Unreachable { message: format!("no runtime for heartbeats: {e}") })?;
    runtime.block_on(beat(worker))
}

async fn beat(worker: &Arc<Shared>) -> Result<()> {
    let (link, pulse, env) = (worker.app.link().apart(), &worker.pulse, worker.app.clock_of_server().env());
    let mut backoff = Backoff::up_to(Duration::from_secs(2));
    let (begun, mut attached) = (Instant::now(), false);
    while !pulse.is_stopping() {
        let session = worker.session();
        let said = match &session {
            None => link.hello(hello(worker)).await.map(|welcome| {
                let beat = Duration::from_millis(welcome.beat_ms);
                worker.attached(welcome);
                beat
            }),
            Some(session) => {
                let live = pulse.held();
                link.beat(Beat { session: session.id.clone(), live }).await.map(|beaten| {
                    worker.hear(beaten.now_ms, &beaten.signals);
                    session.beat
                })
            }
        };
        let pause = match said {
            Ok(beat) => {
                attached = true;
                backoff.reset();
                beat
            }
            Err(error) => {
                match &session {
                    None if !error.is_transient() => return Err(error),
                    None if !attached && begun.elapsed() >= ATTACH_TIMEOUT => return Err(error),
                    Some(session) if error.ends_session() => worker.session_is_over(&session.id),
                    None | Some(_) => {}
                }
                backoff.next(env)
            }
        };
        let _ = tokio::time::timeout(pause, pulse.hurry.notified()).await;
        if !pulse.is_stopping() {
            tokio::time::sleep(PAUSE_MIN).await;
        }
    }
    if let Some(session) = worker.session() {
        // If it does not arrive, the lease ends by itself.
        let _ = link.bye(Bye { session: session.id.clone() }).await;
    }
    Ok(())
}

fn hello(worker: &Shared) -> Hello {
    let live = worker.pulse.held().into_iter().map(|held| Held { step: None, progress: None, ..held }).collect();
    Hello {
        name: worker.name.clone(),
        sdk: SDK.to_owned(),
        tasks: worker.tasks.keys().map(|name| Offer { name: name.clone(), version: None }).collect(),
        queues: worker.queues.clone(),
        slots: u32::try_from(worker.slots).unwrap_or(u32::MAX),
        live,
    }
}
