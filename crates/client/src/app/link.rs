//! The calls of the task protocol, and the two ways to make them: over HTTP, and within the process.
//!
//! Everything above speaks to a [`Link`] and does not know which it is. Nothing is sent twice here.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cairn_api::tasks::{
    Beat, Beaten, Bye, ClockNow, ClockRequest, Each, Emit, Emitted, Hello, OpsRequest, OpsResponse, Page, Poll, Polled,
    Queue, QueueRequest, RetryMode, Spawn, Spawned, Step, Task, TaskResult, Welcome,
};
use cairn_env::Env;

#[cfg(feature = "embedded")]
use super::embedded::Local;
use super::error::Result;
use crate::{Client, Timeouts};

/// A heartbeat is given up well within a lease, so that a lost one can be made up for.
const BEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who answers.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// A server.
    Http(Client),
    /// The tasks of this process.
    #[cfg(feature = "embedded")]
    Embedded(std::sync::Arc<Local>),
}

impl Link {
    /// The same for another runtime.
    pub(crate) fn apart(&self) -> Link {
        match self {
            Link::Http(client) => Link::Http(client.apart(Timeouts { connect: BEAT_TIMEOUT, answer: BEAT_TIMEOUT })),
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => Link::Embedded(local.clone()),
        }
    }

    pub(crate) async fn spawn(&self, tasks: Vec<Spawn>) -> Result<Vec<Each<Spawned>>> {
        Ok(match self {
            Link::Http(client) => client.spawn(tasks).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.spawn(tasks).await?,
        })
    }

    pub(crate) async fn task(&self, id: &str) -> Result<Task> {
        Ok(match self {
            Link::Http(client) => client.task(id).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.task(id).await?,
        })
    }

    pub(crate) async fn result(&self, id: &str, wait: Duration) -> Result<TaskResult> {
        Ok(match self {
            Link::Http(client) => client.task_result(id, super::policy::millis(wait)).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.result(id, tokio::time::sleep(wait)).await?,
        })
    }

    pub(crate) async fn steps(&self, id: &str, after: &str) -> Result<Page<Step>> {
        Ok(match self {
            Link::Http(client) => client.task_steps(id, Some(after)).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.steps(id, after).await?,
        })
    }

    pub(crate) async fn cancel(&self, id: &str, reason: Option<&str>) -> Result<Task> {
        Ok(match self {
            Link::Http(client) => client.cancel_task(id, reason).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.cancel(id, reason).await?,
        })
    }

    pub(crate) async fn retry(&self, id: &str, mode: RetryMode, extra_attempts: u32) -> Result<Task> {
        Ok(match self {
            Link::Http(client) => client.retry_task(id, mode, extra_attempts).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.retry(id, mode, extra_attempts).await?,
        })
    }

    pub(crate) async fn set_queue(&self, name: &str, request: &QueueRequest) -> Result<Queue> {
        Ok(match self {
            Link::Http(client) => client.set_queue(name, request).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.set_queue(name, request.clone()).await?,
        })
    }

    pub(crate) async fn emit(&self, queue: &str, event: Emit) -> Result<Each<Emitted>> {
        Ok(match self {
            Link::Http(client) => client.emit(queue, event).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.emit(queue, event).await?,
        })
    }

    pub(crate) async fn clock(&self, request: ClockRequest) -> Result<ClockNow> {
        Ok(match self {
            Link::Http(client) => client.set_clock(request).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.clock(request).await?,
        })
    }

    pub(crate) async fn hello(&self, hello: Hello) -> Result<Welcome> {
        Ok(match self {
            Link::Http(client) => client.worker_hello(&hello).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.hello(hello).await?,
        })
    }

    pub(crate) async fn poll(&self, poll: Poll) -> Result<Polled> {
        Ok(match self {
            Link::Http(client) => client.worker_poll(&poll).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => {
                let until = tokio::time::sleep(Duration::from_millis(poll.wait_ms));
                local.service.poll(poll, until).await?
            }
        })
    }

    pub(crate) async fn beat(&self, beat: Beat) -> Result<Beaten> {
        Ok(match self {
            Link::Http(client) => client.worker_beat(&beat).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.beat(beat).await?,
        })
    }

    pub(crate) async fn ops(&self, ops: OpsRequest) -> Result<OpsResponse> {
        Ok(match self {
            Link::Http(client) => client.worker_ops(&ops).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.ops(ops).await?,
        })
    }

    pub(crate) async fn bye(&self, bye: Bye) -> Result<()> {
        match self {
            Link::Http(client) => client.worker_bye(&bye).await?,
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.service.bye(bye).await?,
        }
        Ok(())
    }
}

/// Set back by less than this, the clock stands; the answer was only longer on its way.
const SET_BACK_MIN_MS: i64 = 5_000;
/// Nothing was heard yet.
const UNHEARD: i64 = i64::MIN;

/// The clock of the tasks, which waits go by. An answer is late by its time on the way, so the largest that was told
/// counts: else a sleep would end early.
#[derive(Debug)]
pub(crate) struct ServerClock {
    env: Env,
    ahead_ms: AtomicI64,
    /// Where this program has set it. An answer that says less was on its way before.
    set_ms: AtomicU64,
}

impl ServerClock {
    pub(crate) fn new(env: Env) -> ServerClock {
        ServerClock { env, ahead_ms: AtomicI64::new(UNHEARD), set_ms: AtomicU64::new(0) }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let ahead_ms = Some(self.ahead_ms.load(Ordering::Relaxed)).filter(|ahead_ms| *ahead_ms != UNHEARD);
        self.env.unix_time_ms().saturating_add_signed(ahead_ms.unwrap_or(0))
    }

    /// Takes over what an answer says.
    pub(crate) fn hear(&self, now_ms: u64) {
        if now_ms < self.set_ms.load(Ordering::Relaxed) {
            return;
        }
        let told_ms = now_ms.wrapping_sub(self.env.unix_time_ms()).cast_signed();
        let counts = |ahead_ms: i64| told_ms > ahead_ms || ahead_ms.saturating_sub(told_ms) > SET_BACK_MIN_MS;
        let take = |ahead_ms| counts(ahead_ms).then_some(told_ms);
        let _ = self.ahead_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }

    /// This program has set it.
    pub(crate) fn set(&self, now_ms: u64) {
        self.set_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.hear(now_ms);
    }

    /// The moment after a span.
    pub(crate) fn after(&self, span: Duration) -> u64 {
        self.now_ms().saturating_add(super::policy::millis(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A poll that was answered before the clock was advanced, and heard after it, took a test's sleeps back by a day.
    #[test]
    fn an_answer_from_before_does_not_set_the_clock_back() {
        let clock = ServerClock::new(Env::memory());
        let before = clock.now_ms();
        clock.hear(before + 1_000);
        assert!(clock.now_ms() >= before + 1_000);
        clock.set(before + 86_400_000);
        clock.hear(before + 2_000);
        assert!(clock.now_ms() >= before + 86_400_000);
        clock.hear(before + 2 * 86_400_000);
        assert!(clock.now_ms() >= before + 2 * 86_400_000);
    }

    /// An answer that was long on its way made a sleep end that much early. A clock that is really set back is followed.
    #[test]
    fn an_answer_that_was_long_on_its_way_does_not_set_the_clock_back() {
        let clock = ServerClock::new(Env::memory());
        let here = clock.now_ms();
        clock.hear(here - 60_000);
        assert!(clock.now_ms() < here - 50_000, "the server's clock counts, not this machine's");
        clock.hear(here + 60_000);
        clock.hear(here + 58_000);
        assert!(clock.now_ms() >= here + 60_000);
        clock.hear(here + 50_000);
        assert!(clock.now_ms() < here + 58_000);
    }
}
