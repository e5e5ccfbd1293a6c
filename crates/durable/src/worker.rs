//! Workers: who is there, what they offer, what they hold, and what they must be told.
//!
//! A session is in memory only. Its lease is renewed by every call that it makes; a session that is silent for a
//! lease is gone, and every task that it held is lost. A server that was killed knows of no session: its
//! workers say hello again, with the hand-outs that they hold, within one lease.
//!
//! What a worker shows of a task (its step, its progress) is kept with the hand-out, for people, and goes with it.
//!
//! Leases go by the monotonic clock, which no test and no operator sets.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::TaskId;
use crate::key::Lane;
use crate::step::StepId;
use crate::task::{Ending, Fence, Json};

/// A worker that is silent for so long is gone.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often a worker should make itself heard.
pub const BEAT: Duration = Duration::from_secs(10);

/// The progress of one task has at most so many bytes.
pub const PROGRESS_BYTES_MAX: usize = 64 << 10;
/// That of all tasks of one session. Beyond it no more is kept.
const SESSION_PROGRESS_BYTES_MAX: usize = 16 << 20;

/// The version of the code of a task has at most so many bytes: enough for the hash of a commit, a name and a date.
/// Every row of the task has it.
pub const VERSION_BYTES_MAX: usize = 128;

/// A session of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u128);

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// For people.
    pub name: String,
    /// Which library, for people.
    pub sdk: String,
    /// The names of the tasks that it knows.
    pub tasks: BTreeSet<String>,
    /// The versions of their code, of those that have one. Recorded in each task that is handed out; nothing is chosen
    /// by it.
    pub versions: BTreeMap<String, String>,
    /// The queues that it takes them from.
    pub queues: BTreeSet<String>,
    /// How many it takes at once.
    pub slots: u32,
}

/// What a worker must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The task.
    pub task: TaskId,
    /// The hand-out that is over.
    pub fence: Fence,
    /// Why.
    pub by: Ending,
}

/// What a worker shows of a task that it has.
#[derive(Clone, Debug)]
pub struct Sign {
    task: TaskId,
    fence: Fence,
    step: Option<StepId>,
    progress: Option<Json>,
}

impl Sign {
    /// The step that it is at, and how far it is, if it says so.
    ///
    /// # Errors
    /// `TooLarge` if the progress has more than [`PROGRESS_BYTES_MAX`].
    pub fn new(task: TaskId, fence: Fence, step: Option<StepId>, progress: Option<Json>) -> Result<Sign> {
        let bytes = progress.as_ref().map_or(0, |progress| progress.len());
        if bytes > PROGRESS_BYTES_MAX {
            let text = format!("the progress has {bytes} bytes; at most {PROGRESS_BYTES_MAX} are allowed");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(Sign { task, fence, step, progress })
    }
}

/// Who has a task, and what it has shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The name of the worker.
    pub worker: String,
    /// The step that its last beat named.
    pub step: Option<StepId>,
    /// The last progress that it showed in this hand-out.
    pub progress: Option<Json>,
    /// How long ago it last spoke of the task, if it ever has.
    pub spoken: Option<Duration>,
}

#[derive(Debug)]
struct Session {
    hello: Hello,
    heard: Duration,
    held: BTreeMap<TaskId, Held>,
    signals: Vec<Signal>,
    /// Of a call that waits for work or a signal.
    parked: Option<Waker>,
}

/// A task in the hands of a session.
#[derive(Clone, Debug)]
struct Held {
    fence: Fence,
    /// When the worker last spoke of it, or it was handed out.
    spoken: Duration,
    /// Beats since that did not name it though they should.
    missed: u32,
    /// The worker has spoken of it: the hand-out has arrived.
    known: bool,
    step: Option<StepId>,
    progress: Option<Json>,
}

impl Held {
    fn progress_bytes(&self) -> usize {
        self.progress.as_ref().map_or(0, |progress| progress.len())
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    /// Until then the workers of an earlier life of the store may come back for what they hold.
    orphans_until: Option<Duration>,
}

/// A worker, for people.
#[derive(Clone, Debug)]
pub struct WorkerInfo {
    /// What it says of itself.
    pub hello: Hello,
    /// The tasks that it has.
    pub held: Vec<TaskId>,
    /// How long ago it was heard of.
    pub silent: Duration,
}

impl Sessions {
    /// Begins a session.
    pub(crate) fn begin(&mut self, id: SessionId, hello: Hello, now: Duration) {
        let session = Session { hello, heard: now, held: BTreeMap::new(), signals: Vec::new(), parked: None };
        self.sessions.insert(id, session);
    }

    /// Notes that a session was heard of. False if there is none.
    pub(crate) fn hear(&mut self, id: SessionId, now: Duration) -> bool {
        match self.sessions.get_mut(&id) {
            Some(session) => {
                session.heard = session.heard.max(now);
                true
            }
            None => false,
        }
    }

    /// Ends a session. Who waits there is to be woken.
    pub(crate) fn end(&mut self, id: SessionId) -> Option<Waker> {
        self.sessions.remove(&id)?.parked
    }

    /// What a session holds.
    pub(crate) fn held(&self, id: SessionId) -> Vec<(TaskId, Fence)> {
        let held = self.sessions.get(&id).into_iter().flat_map(|session| &session.held);
        held.map(|(task, held)| (*task, held.fence)).collect()
    }

    /// The sessions that have been silent for a lease.
    pub(crate) fn silent(&self, now: Duration) -> Vec<SessionId> {
        let silent = self.sessions.iter().filter(|(_, session)| session.heard + LEASE <= now);
        silent.map(|(id, _)| *id).collect()
    }

    /// What a session offers.
    pub(crate) fn hello(&self, id: SessionId) -> Option<&Hello> {
        self.sessions.get(&id).map(|session| &session.hello)
    }

    /// Gives a session a task to hold.
    pub(crate) fn give(&mut self, id: SessionId, task: TaskId, fence: Fence, now: Duration) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let held = Held { fence, spoken: now, missed: 0, known: false, step: None, progress: None };
            session.held.insert(task, held);
        }
    }

    /// Notes that a worker has spoken of a hand-out.
    pub(crate) fn spoken_of(&mut self, id: SessionId, task: TaskId, fence: Fence, now: Duration) {
        let held = self.sessions.get_mut(&id).and_then(|session| session.held.get_mut(&task));
        if let Some(held) = held.filter(|held| held.fence == fence) {
            (held.known, held.spoken, held.missed) = (true, held.spoken.max(now), 0);
        }
    }

    /// To be asked at a beat, after what that names was noted: what a session has not spoken of for two beats' time,
    /// nor in this beat and the one before, and whether it ever has.
    pub(crate) fn forgotten(&mut self, id: SessionId, now: Duration) -> Vec<(TaskId, Fence, bool)> {
        let held = self.sessions.get_mut(&id).into_iter().flat_map(|session| &mut session.held);
        let mut forgotten = Vec::new();
        for (task, held) in held.filter(|(_, held)| held.spoken + 2 * BEAT <= now) {
            held.missed += 1;
            if held.missed > 1 && !cairn_env::mutant("lost-hand-out-kept") {
                forgotten.push((*task, held.fence, held.known));
            }
        }
        forgotten
    }

    /// Keeps what a worker shows of its hand-outs: the step as it is said now, the progress until another is said.
    pub(crate) fn show(&mut self, id: SessionId, signs: Vec<Sign>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut bytes: usize = session.held.values().map(Held::progress_bytes).sum();
        for Sign { task, fence, step, progress } in signs {
            let Some(held) = session.held.get_mut(&task).filter(|held| held.fence == fence) else { continue };
            held.step = step;
            if let Some(progress) = progress {
                bytes -= held.progress_bytes();
                held.progress = Some(progress).filter(|progress| bytes + progress.len() <= SESSION_PROGRESS_BYTES_MAX);
                bytes += held.progress_bytes();
            }
        }
    }

    /// Who has a task under this fence, and what it has shown of it.
    pub(crate) fn shown(&self, task: TaskId, fence: Fence, now: Duration) -> Option<Shown> {
        self.sessions.values().find_map(|session| {
            let held = session.held.get(&task).filter(|held| held.fence == fence)?;
            Some(Shown {
                worker: session.hello.name.clone(),
                step: held.step.clone(),
                progress: held.progress.clone(),
                spoken: held.known.then(|| now.saturating_sub(held.spoken)),
            })
        })
    }

    /// Takes a task from a session.
    pub(crate) fn drop_task(&mut self, id: SessionId, task: TaskId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.held.remove(&task);
        }
    }

    /// Leaves a signal for who holds a fence; returns whom to wake.
    pub(crate) fn signal(&mut self, fence: Fence, by: Ending) -> Option<Waker> {
        self.sessions.values_mut().find_map(|session| {
            let (task, _) = session.held.iter().find(|(_, held)| held.fence == fence)?;
            session.signals.push(Signal { task: *task, fence, by });
            session.parked.take()
        })
    }

    /// Takes what a session must be told.
    pub(crate) fn take_signals(&mut self, id: SessionId) -> Vec<Signal> {
        self.sessions.get_mut(&id).map_or_else(Vec::new, |session| std::mem::take(&mut session.signals))
    }

    /// Leaves a waker to be woken when there is work or a signal for a session. The one before is returned.
    pub(crate) fn park(&mut self, id: SessionId, waker: &Waker) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.parked = Some(waker.clone());
        }
    }

    /// Whether any session waits for work or a signal.
    pub(crate) fn any_waits(&self) -> bool {
        self.sessions.values().any(|session| session.parked.is_some())
    }

    /// Nobody waits there with this waker any more.
    pub(crate) fn unpark(&mut self, id: SessionId, waker: &Waker) -> Option<Waker> {
        self.sessions.get_mut(&id)?.parked.take_if(|parked| parked.will_wake(waker))
    }

    /// There are tasks in the hands of workers that have not said hello: they have until then, or longer if they had.
    pub(crate) fn expect_orphans(&mut self, until: Duration) {
        self.orphans_until = self.orphans_until.max(Some(until));
    }

    /// Whether what nobody has come back for is lost now. True once.
    pub(crate) fn orphans_are_lost(&mut self, now: Duration) -> bool {
        self.orphans_until.take_if(|until| *until <= now).is_some()
    }

    /// Counts no silence during which nobody was listened to.
    pub(crate) fn forgive(&mut self, gap: Duration, now: Duration) {
        if gap > Duration::ZERO {
            self.orphans_until = self.orphans_until.map(|until| until + gap);
            for session in self.sessions.values_mut() {
                session.heard = (session.heard + gap).min(now).max(session.heard);
            }
        }
    }

    /// A parked session that takes tasks of this lane.
    pub(crate) fn waiting_for(&mut self, lane: &Lane) -> Option<Waker> {
        let takes = |session: &&mut Session| {
            session.parked.is_some()
                && session.hello.queues.contains(&lane.queue)
                && session.hello.tasks.contains(&lane.name)
        };
        self.sessions.values_mut().find(takes)?.parked.take()
    }

    /// All parked sessions that take tasks from this queue.
    pub(crate) fn waiting_in(&mut self, queue: &str) -> Vec<Waker> {
        let takes = self.sessions.values_mut().filter(|session| session.hello.queues.contains(queue));
        takes.filter_map(|session| session.parked.take()).collect()
    }

    /// Whether some session takes tasks of this name from this queue.
    pub(crate) fn offers(&self, queue: &str, name: &str) -> bool {
        let offers = |session: &Session| session.hello.queues.contains(queue) && session.hello.tasks.contains(name);
        self.sessions.values().any(offers)
    }

    /// All of them, for people.
    pub(crate) fn list(&self, now: Duration) -> Vec<WorkerInfo> {
        let info = |session: &Session| WorkerInfo {
            hello: session.hello.clone(),
            held: session.held.keys().copied().collect(),
            silent: now.saturating_sub(session.heard),
        };
        self.sessions.values().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_could_not_be_heard_was_not_silent() {
        let mut sessions = Sessions::default();
        sessions.begin(SessionId(1), Hello::default(), Duration::ZERO);
        sessions.expect_orphans(LEASE);
        // Nobody was listened to for a minute.
        let minute = Duration::from_secs(60);
        sessions.forgive(minute - BEAT, minute);
        assert_eq!(sessions.silent(minute), []);
        assert!(!sessions.orphans_are_lost(minute), "they have had no time to say hello");
        let later = LEASE + minute;
        assert_eq!(sessions.silent(later), [SessionId(1)]);
        assert!(sessions.orphans_are_lost(later) && !sessions.orphans_are_lost(later));
    }
}
