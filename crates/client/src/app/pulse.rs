//! The session of a worker, and its heartbeat: one thread with a runtime of its own, which no task can block.
//!
//! It says hello, beats, says hello again when the session is not known any more (with what is still held, so that a
//! restart of the server costs no task), and says bye. What the thread must know stands under one lock, which is never
//! held while something is sent.
//!
//! Every beat names all that is held. The progress of a task goes with one beat of a session, and again when it has
//! changed; the server keeps it. However much there is, a beat carries so little of it that it always goes through.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_api::tasks::{Beat, Bye, Held, Hello, Json, Offer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Registered;
use super::error::{AppError, Result};
use super::policy::Backoff;
use super::worker::Shared;

/// However often a task shows its progress, a beat is not sent sooner after another.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A beat carries about so much of steps and progress; what progress is left goes with the next, at once. Far below the
/// 16 MiB of a request, so that a slow way to the server costs no lease.
const SHOWN_BYTES_MAX: usize = 256 << 10;

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
    /// How many times progress was shown, and up to which of these the session knows it.
    shown: u64,
    told: u64,
}

/// What a beat says.
struct Saying {
    held: Vec<Held>,
    /// The progress in it: task, fence, and which of the task it is.
    progress: Vec<(String, String, u64)>,
    /// Some had to be left out.
    more: bool,
}

impl Live {
    /// Without what is shown of it.
    fn held(&self, task: &str) -> Held {
        Held { task: task.to_owned(), fence: self.fence.clone(), step: None, progress: None }
    }
}

impl Pulse {
    fn state(&self) -> MutexGuard<'_, State> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hold(&self, task: &str, fence: &str) {
        let live = Live { fence: fence.to_owned(), step: None, progress: None, shown: 0, told: 0 };
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

    /// Has a beat sent now, and this with it.
    pub(crate) fn progress(&self, task: &str, fence: &str, progress: Option<Json>) {
        if progress.is_some() {
            self.change(task, fence, |live| (live.progress, live.shown) = (progress, live.shown + 1));
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

    /// What is held, for a hello: whom it is said to knows no progress yet.
    fn held(&self) -> Vec<Held> {
        let mut state = self.state();
        state.live.values_mut().for_each(|live| live.told = 0);
        state.live.iter().map(|(task, live)| live.held(task)).collect()
    }

    /// What the next beat says.
    fn saying(&self) -> Saying {
        let state = self.state();
        let (mut said, mut bytes) = (Saying { held: Vec::new(), progress: Vec::new(), more: false }, 0);
        for (task, live) in &state.live {
            let mut held = live.held(task);
            // In JSON a byte may take six.
            bytes += live.step.as_ref().map_or(0, |step| 6 * step.len());
            held.step = live.step.clone().filter(|_| bytes <= SHOWN_BYTES_MAX);
            if let Some(progress) = live.progress.as_ref().filter(|_| live.told < live.shown) {
                if bytes + progress.get().len() <= SHOWN_BYTES_MAX || said.progress.is_empty() {
                    bytes += progress.get().len();
                    held.progress = Some(progress.clone());
                    said.progress.push((task.clone(), live.fence.clone(), live.shown));
                } else {
                    said.more = true;
                }
            }
            said.held.push(held);
        }
        said
    }

    /// The server knows this progress, or will have none of it.
    fn told(&self, progress: Vec<(String, String, u64)>) {
        for (task, fence, shown) in progress {
            self.change(&task, &fence, |live| live.told = live.told.max(shown));
        }
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
                let Saying { held, progress, more } = pulse.saying();
                let beaten = link.beat(Beat { session: session.id.clone(), live: held }).await;
                // What a beat is refused for the next one does not say again.
                if beaten.as_ref().err().is_none_or(|error| !error.is_transient()) {
                    pulse.told(progress);
                }
                beaten.map(|beaten| {
                    worker.hear(beaten.now_ms, &beaten.signals);
                    if more { Duration::ZERO } else { session.beat }
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

fn offer((name, task): (&String, &Arc<Registered>)) -> Offer {
    Offer { name: name.clone(), version: task.defaults.get_version().map(str::to_owned) }
}

fn hello(worker: &Shared) -> Hello {
    Hello {
        name: worker.name.clone(),
        sdk: SDK.to_owned(),
        tasks: worker.tasks.iter().map(offer).collect(),
        queues: worker.queues.clone(),
        slots: u32::try_from(worker.slots).unwrap_or(u32::MAX),
        live: worker.pulse.held(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 tasks times 64 KiB do not go in a request: what is held would have been lost by showing how far it is.
    #[test]
    fn a_beat_names_all_that_is_held_and_carries_a_part_of_the_progress() {
        let pulse = Pulse::default();
        let progress = |text: &str| serde_json::value::to_raw_value(&text.repeat(60 << 10)).ok();
        for n in 0..256 {
            let task = format!("task-{n}");
            pulse.hold(&task, "f");
            pulse.note(&task, "f", "charge");
            pulse.progress(&task, "f", progress("x"));
        }
        let (mut beats, mut shown) = (0, Vec::new());
        loop {
            let Saying { held, progress, more } = pulse.saying();
            assert_eq!(held.len(), 256);
            assert!(held.iter().all(|held| held.step.as_deref() == Some("charge")));
            assert!(serde_json::to_vec(&held).unwrap().len() < 1 << 20);
            assert_eq!(held.iter().filter(|held| held.progress.is_some()).count(), progress.len());
            shown.extend(progress.iter().map(|(task, ..)| task.clone()));
            pulse.told(progress);
            beats += 1;
            if !more {
                break;
            }
        }
        shown.sort();
        shown.dedup();
        assert_eq!(shown.len(), 256, "in {beats} beats");
        // What is known is not said again, until it changes or nobody knows it.
        assert!(pulse.saying().progress.is_empty());
        let before = {
            pulse.progress("task-7", "f", progress("y"));
            pulse.saying().progress
        };
        pulse.progress("task-7", "f", progress("z"));
        pulse.told(before);
        assert_eq!(pulse.saying().progress.len(), 1, "what was shown meanwhile is not known yet");
        let hello = pulse.held();
        assert!(hello.len() == 256 && hello.iter().all(|held| held.step.is_none() && held.progress.is_none()));
        assert!(pulse.saying().more);
    }
}
