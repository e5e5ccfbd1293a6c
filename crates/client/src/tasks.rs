//! Tasks: spawning them, looking at them, acting on them.

use cairn_api::target::encode;
use cairn_api::tasks::{
    Beat, Beaten, Bye, CancelRequest, ClockNow, ClockRequest, Each, Emit, EmitRequest, Emitted, Event, Hello,
    OpsRequest, OpsResponse, PROTOCOL, PROTOCOL_HEADER, Page, Poll, Polled, Queue, QueueRequest, Results, RetryMode,
    RetryRequest, Run, Spawn, SpawnRequest, Spawned, Step, Task, TaskResult, Welcome, Worker,
};
use cairn_api::{EventListing, Listing};
use hyper::Method;
use hyper::header::HeaderValue;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::connection::Wait;
use crate::{Client, Error, Result};

impl Client {
    /// Spawns tasks, each for itself: what came of each stands in its place.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn spawn(&self, tasks: Vec<Spawn>) -> Result<Vec<Each<Spawned>>> {
        let results: Results<Spawned> =
            self.call(Method::POST, "/v1/tasks", Some(&SpawnRequest { tasks, atomic: false })).await?;
        Ok(results.results)
    }

    /// A task as it is.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn task(&self, id: &str) -> Result<Task> {
        self.call(Method::GET, &of_task(id, ""), NOTHING).await
    }

    /// A page of tasks, the newest first. It may be short, or empty, and have a `next` all the same.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn tasks(&self, which: &Listing) -> Result<Page<Task>> {
        self.call(Method::GET, &format!("/v1/tasks{}", which.query()), NOTHING).await
    }

    /// Where a task stands, and what it returned or why it failed; waits for its end, for `wait_ms` at most.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; a task that has not ended is no error.
    pub async fn task_result(&self, id: &str, wait_ms: u64) -> Result<TaskResult> {
        self.call(Method::GET, &of_task(id, &format!("/result?wait_ms={wait_ms}")), NOTHING).await
    }

    /// A page of the recorded steps of a task, in the order of their ids.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn task_steps(&self, id: &str, after: Option<&str>) -> Result<Page<Step>> {
        let after = after.map_or_else(String::new, |after| format!("?after={}", encode(after.as_bytes())));
        self.call(Method::GET, &of_task(id, &format!("/steps{after}")), NOTHING).await
    }

    /// The runs of a task that have ended, in order.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn task_runs(&self, id: &str) -> Result<Vec<Run>> {
        let (mut runs, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<Run> = self.call(Method::GET, &of_task(id, &format!("/runs{after}")), NOTHING).await?;
            runs.extend(page.items);
            let Some(next) = page.next else { return Ok(runs) };
            after = format!("?after={}", encode(next.as_bytes()));
        }
    }

    /// Cancels a task; one that has ended stays as it is.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn cancel_task(&self, id: &str, reason: Option<&str>) -> Result<Task> {
        let request = CancelRequest { reason: reason.map(str::to_owned) };
        self.call(Method::POST, &of_task(id, "/cancel"), Some(&request)).await
    }

    /// Tries a failed task again.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; a task that has not failed is [`cairn_api::ErrorKind::Conflict`].
    pub async fn retry_task(&self, id: &str, mode: RetryMode, extra_attempts: u32) -> Result<Task> {
        self.call(Method::POST, &of_task(id, "/retry"), Some(&RetryRequest { mode, extra_attempts })).await
    }

    /// All queues.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn queues(&self) -> Result<Vec<Queue>> {
        let page: Page<Queue> = self.call(Method::GET, "/v1/queues", NOTHING).await?;
        Ok(page.items)
    }

    /// A queue.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn queue(&self, name: &str) -> Result<Queue> {
        self.call(Method::GET, &of_queue(name, ""), NOTHING).await
    }

    /// Deletes a queue and its events; returns it as it was.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; [`cairn_api::ErrorKind::Conflict`] while it holds tasks that have not ended.
    pub async fn delete_queue(&self, name: &str) -> Result<Queue> {
        self.call(Method::DELETE, &of_queue(name, ""), NOTHING).await
    }

    /// Sets what is set of a queue, making it if there is none.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn set_queue(&self, name: &str, request: &QueueRequest) -> Result<Queue> {
        self.call(Method::PUT, &of_queue(name, ""), Some(request)).await
    }

    /// Hands out no more tasks of a queue, or does so again.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn pause_queue(&self, name: &str, paused: bool) -> Result<Queue> {
        self.call(Method::POST, &of_queue(name, if paused { "/pause" } else { "/resume" }), NOTHING).await
    }

    /// Emits an event. Says whether it is the first of its name.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn emit(&self, queue: &str, event: Emit) -> Result<Each<Emitted>> {
        let request = EmitRequest { events: vec![event] };
        let results: Results<Emitted> = self.call(Method::POST, &of_queue(queue, "/events"), Some(&request)).await?;
        let mut results = results.results;
        results.pop().ok_or_else(|| Error::answer("the event", "there is no result for it"))
    }

    /// An event that was emitted.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn event(&self, queue: &str, name: &str) -> Result<Event> {
        self.call(Method::GET, &of_queue(queue, &format!("/events/{}", encode(name.as_bytes()))), NOTHING).await
    }

    /// A page of the events of a queue, in the order of their names.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn events(&self, queue: &str, which: &EventListing) -> Result<Page<Event>> {
        self.call(Method::GET, &of_queue(queue, &format!("/events{}", which.query())), NOTHING).await
    }

    /// The workers that are there.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn workers(&self) -> Result<Vec<Worker>> {
        let page: Page<Worker> = self.call(Method::GET, "/v1/workers", NOTHING).await?;
        Ok(page.items)
    }

    /// Begins a session of a worker.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn worker_hello(&self, hello: &Hello) -> Result<Welcome> {
        self.call(Method::POST, "/v1/workers/hello", Some(hello)).await
    }

    /// Work and signals for a worker, as soon as there are any, or none after the time that it says.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; a session that is not known is [`cairn_api::ErrorKind::Gone`].
    pub async fn worker_poll(&self, poll: &Poll) -> Result<Polled> {
        self.call(Method::POST, "/v1/workers/poll", Some(poll)).await
    }

    /// Makes a worker heard of.
    ///
    /// # Errors
    /// As [`Client::worker_poll`].
    pub async fn worker_beat(&self, beat: &Beat) -> Result<Beaten> {
        self.call(Method::POST, "/v1/workers/beat", Some(beat)).await
    }

    /// What a worker says of its tasks, in one commit.
    ///
    /// # Errors
    /// As [`Client::worker_poll`]; what is refused of a single task stands in its place.
    pub async fn worker_ops(&self, ops: &OpsRequest) -> Result<OpsResponse> {
        self.call(Method::POST, "/v1/workers/ops", Some(ops)).await
    }

    /// Ends a session; what it held goes back at no cost.
    ///
    /// # Errors
    /// As [`Client::worker_poll`].
    pub async fn worker_bye(&self, bye: &Bye) -> Result<()> {
        let _: IgnoredAny = self.call(Method::POST, "/v1/workers/bye", Some(bye)).await?;
        Ok(())
    }

    /// Sets the clock of a server forward that runs under `--test-clock`.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; of other servers [`cairn_api::ErrorKind::NotFound`].
    pub async fn set_clock(&self, clock: ClockRequest) -> Result<ClockNow> {
        self.call(Method::POST, "/v1/test/clock", Some(&clock)).await
    }

    /// One call of the task protocol.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let body = body.map_or_else(|| Ok(Vec::new()), serde_json::to_vec);
        let body = body.map_err(|e| Error::Request { message: e.to_string() })?;
        let mut request = self.origin.request(method, target, None, body.into())?;
        request.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
        let body = self.origin.send(request, Wait::Timeout).await?.checked().await?.bytes().await?;
        serde_json::from_slice(&body).map_err(|e| Error::answer(target, e))
    }
}

const NOTHING: Option<&()> = None;

fn of_task(id: &str, rest: &str) -> String {
    format!("/v1/tasks/{}{rest}", encode(id.as_bytes()))
}

fn of_queue(name: &str, rest: &str) -> String {
    format!("/v1/queues/{}{rest}", encode(name.as_bytes()))
}
