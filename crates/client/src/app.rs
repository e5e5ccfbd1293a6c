//! Durable tasks: async functions cut into steps that survive crashes, deploys and long sleeps.
//!
//! A finished step is recorded. After a crash the function runs again, and finished steps return what was recorded.
//! Sleeping, waiting for an event or for another task holds no worker, for days if need be.
//!
//! ```no_run
//! use std::time::Duration;
//! use cairn_client::{App, Ctx, TaskError};
//!
//! async fn fulfil(ctx: Ctx, order: u64) -> Result<String, TaskError> {
//!     let key = ctx.key("charge")?;
//!     let payment: String = ctx.step("charge", || async { Ok(format!("paid {order}, once: {key}")) }).await?;
//!     ctx.sleep("let them change their mind", Duration::from_secs(3600)).await?;
//!     let address: String = ctx.event(&format!("packed:{order}")).timeout(Duration::from_secs(86_400)).await?;
//!     Ok(format!("{payment}, to {address}"))
//! }
//!
//! # async fn example() -> Result<(), cairn_client::AppError> {
//! let app = App::connect("http://127.0.0.1:8080", None)?;   // or App::open("./data").await?: no server at all
//! app.task("fulfil", fulfil)?;
//! let worker = app.worker().slots(50).start().await?;
//! let handle = app.spawn("fulfil", &7).idempotency_key("order:7").send().await?;
//! app.emit("packed:7", "Stockholm").await?;
//! let receipt: String = handle.result(None).await?;
//! worker.stop().await
//! # }
//! ```
//!
//! Where to look: this file starts tasks and asks for results, `ctx.rs` is what a task holds, `run.rs` how a task
//! replays and suspends, `worker.rs` the loop around it with its `lane.rs` and `pulse.rs`, `link.rs` the two ways to
//! whoever decides, `ids.rs`, `policy.rs`, `spawn.rs` and `error.rs` the words that all of them use.
//!
//! **What runs again.** Everything outside of steps, after every suspension and every crash. Clocks, random numbers and
//! calls to other systems belong in steps. A step may run more than once if the worker dies before it is recorded; it is
//! recorded once.
//!
//! **Branches.** With `join!` and the like a task suspends once no durable call of any branch is under way. Plain awaits
//! are not waited for: what must be done while another branch sleeps belongs in a step.
//!
//! **Cancelling and suspending** drop the future of the task. It cannot be caught; every later call on a context that
//! got out of it errs with [`AppError::Over`]. Blocking code is not interrupted: it belongs in
//! `tokio::task::spawn_blocking`.

mod ctx;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
mod ids;
mod lane;
mod link;
mod policy;
mod pulse;
mod run;
mod spawn;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_api::ErrorKind;
use cairn_api::tasks::{ClockRequest, Each, Emit, Json, QueueRequest, RetryMode, Spawn, Spawned, Task, WAIT_MS_MAX};
use cairn_env::Env;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Client;

pub use cairn_api::tasks::Failure;
pub use ctx::{Begun, Child, Ctx, OpenStep, Parent, StepCall, Waiting};
#[cfg(feature = "embedded")]
pub use embedded::Embedded;
pub use error::{AppError, Result, TaskError};
pub use policy::Retry;
pub use spawn::{Options, Spawning};
pub use worker::{Worker, WorkerOptions};

use error::{read, unsaid, write};
use link::{Link, ServerClock};
use policy::Backoff;
use spawn::TaskIds;

/// The queue that is there from the beginning.
pub(crate) const DEFAULT_QUEUE: &str = "default";

/// Where there was no answer, or none that decides, a call that may be done twice is tried so often.
const TRIES_MAX: usize = 5;

/// The code of a task under way: what it returns, as JSON.
pub type Body = Pin<Box<dyn Future<Output = Result<Json, TaskError>> + Send>>;

type BeforeSpawn = dyn Fn(Options) -> Options + Send + Sync;
type WrapTask = dyn Fn(Ctx, Body) -> Body + Send + Sync;

/// A task that is registered.
pub(crate) struct Registered {
    pub(crate) run: Box<dyn Fn(Ctx, Json) -> Body + Send + Sync>,
    pub(crate) defaults: Options,
}

/// Durable tasks: in this process, or by a server; the tasks registered here; and their workers. Cheap to clone; all
/// clones are one.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    clock: ServerClock,
    ids: TaskIds,
    /// Held for look-ups and changes only.
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    tasks: BTreeMap<String, Arc<Registered>>,
    before_spawn: Vec<Arc<BeforeSpawn>>,
    wrap_task: Vec<Arc<WrapTask>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("link", &self.inner.link).finish_non_exhaustive()
    }
}

impl App {
    /// Tasks by a server, as at `http://127.0.0.1:8080`. Connects on first use.
    ///
    /// # Errors
    /// [`AppError::Refused`] if the URL is not of the form `http://HOST[:PORT]`, or the token cannot be sent.
    pub fn connect(url: &str, token: Option<&str>) -> Result<App> {
        Ok(App::new(Link::Http(Client::new(url, token)?)))
    }

    pub(crate) fn new(link: Link) -> App {
        let clock = ServerClock::new(Env::real());
        App { inner: Arc::new(Inner { link, clock, ids: TaskIds::default(), registry: Mutex::default() }) }
    }

    /// Ends it. In the process, the tasks stop, and the database is closed if it was opened here; workers should have
    /// been stopped before. Of a server nothing happens.
    ///
    /// # Errors
    /// [`AppError::Refused`] if the database does not close cleanly.
    pub async fn close(self) -> Result<()> {
        match &self.inner.link {
            Link::Http(_) => Ok(()),
            #[cfg(feature = "embedded")]
            Link::Embedded(local) => local.close().await,
        }
    }

    // Registering.

    /// Registers the code of a task under a name, for the workers that are started from then on.
    ///
    /// # Errors
    /// [`AppError::Refused`] if the name is registered already.
    pub fn task<I, O, F, Fut>(&self, name: &str, code: F) -> Result<()>
    where
        F: Fn(Ctx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, TaskError>> + Send + 'static,
        I: DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        self.task_with(name, Options::new(), code)
    }

    /// The same, with what its spawns are like unless they say otherwise.
    ///
    /// # Errors
    /// As [`App::task`].
    pub fn task_with<I, O, F, Fut>(&self, name: &str, defaults: Options, code: F) -> Result<()>
    where
        F: Fn(Ctx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, TaskError>> + Send + 'static,
        I: DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        let run = {
            let name: Arc<str> = name.into();
            move |ctx, input: Json| -> Body {
                let body = read(Some(&input), || format!("the input of task \"{name}\"")).map(|input| code(ctx, input));
                let name = name.clone();
                Box::pin(async move {
                    let output = body?.await?;
                    Ok(write(&output, || format!("the output of task \"{name}\""))?)
                })
            }
        };
        let mut registry = self.registry();
        if registry.tasks.contains_key(name) {
            return Err(AppError::invalid(format!("a task \"{name}\" is registered already")));
        }
        registry.tasks.insert(name.to_owned(), Arc::new(Registered { run: Box::new(run), defaults }));
        Ok(())
    }

    /// Has every spawn of this app pass `hook`, inside tasks as well: it returns what is to be said of the task.
    pub fn before_spawn(&self, hook: impl Fn(Options) -> Options + Send + Sync + 'static) {
        self.registry().before_spawn.push(Arc::new(hook));
    }

    /// Puts `hook` around every run of a task: it is given the context and the code, and awaits that within whatever
    /// it sets up. The first registered is the outermost.
    pub fn wrap_task<Fut>(&self, hook: impl Fn(Ctx, Body) -> Fut + Send + Sync + 'static)
    where
        Fut: Future<Output = Result<Json, TaskError>> + Send + 'static,
    {
        self.registry().wrap_task.push(Arc::new(move |ctx, body| Box::pin(hook(ctx, body))));
    }

    // Starting and looking.

    /// A task to be, spawned by [`Spawning::send`]. When that returns it will run, whatever crashes.
    pub fn spawn(&self, name: &str, input: &(impl Serialize + ?Sized)) -> Spawning<App> {
        Spawning::of(self.clone(), name, input)
    }

    /// A task by its id.
    pub fn handle(&self, id: impl Into<String>) -> Handle {
        Handle { app: self.clone(), id: id.into(), created: None }
    }

    /// Emits an event in the queue "default", once for all: who waits there and who will is given this payload. False
    /// if one of this name was there before; that one stands.
    ///
    /// # Errors
    /// [`AppError::Value`] if the payload is not JSON; [`AppError::Refused`]; [`AppError::Unreachable`].
    pub async fn emit(&self, name: &str, payload: &(impl Serialize + Sync + ?Sized)) -> Result<bool> {
        self.emit_in(DEFAULT_QUEUE, name, payload).await
    }

    /// The same in another queue.
    ///
    /// # Errors
    /// As [`App::emit`].
    pub async fn emit_in(&self, queue: &str, name: &str, payload: &(impl Serialize + Sync + ?Sized)) -> Result<bool> {
        let payload = write(&payload, || format!("the payload of event \"{name}\""))?;
        let emit = || async {
            let event = Emit { name: name.to_owned(), payload: payload.clone() };
            decided(self.link().emit(queue, event).await?)
        };
        Ok(self.persist(emit).await?.created)
    }

    /// Makes a queue if there is none. Only "default" is there from the beginning.
    ///
    /// # Errors
    /// [`AppError::Refused`], as for a name that is too long; [`AppError::Unreachable`].
    pub async fn make_queue(&self, name: &str) -> Result<()> {
        let request = QueueRequest::default();
        self.persist(|| self.link().set_queue(name, &request)).await?;
        Ok(())
    }

    /// A worker to be, for the tasks that are registered when it starts.
    pub fn worker(&self) -> WorkerOptions {
        WorkerOptions::new(self.clone())
    }

    /// The clock of the tasks, for tests: of a server under `--test-clock`, or of tasks that were opened with a test
    /// clock.
    pub fn clock(&self) -> TestClock {
        TestClock { app: self.clone() }
    }

    // For the parts of this module.

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self) -> &Link {
        &self.inner.link
    }

    pub(crate) fn clock_of_server(&self) -> &ServerClock {
        &self.inner.clock
    }

    pub(crate) fn registered(&self) -> BTreeMap<String, Arc<Registered>> {
        self.registry().tasks.clone()
    }

    /// A run of a task inside its hooks.
    pub(crate) fn wrapped(&self, ctx: Ctx, body: Body) -> Body {
        let hooks = self.registry().wrap_task.clone();
        hooks.iter().rev().fold(body, |body, hook| hook(ctx.clone(), body))
    }

    /// What is sent for a spawn, with the id that the task will have unless its key finds another.
    pub(crate) fn outgoing(&self, options: Options) -> Result<(String, Spawn)> {
        let (registered, hooks) = {
            let registry = self.registry();
            (registry.tasks.get(options.name()).cloned(), registry.before_spawn.clone())
        };
        let options = match registered {
            Some(registered) => options.or(&registered.defaults),
            None => options,
        };
        hooks.iter().fold(options, |options, hook| hook(options)).into_wire(&self.inner.ids, &self.inner.clock)
    }

    /// For calls that may be done twice: a few more tries where there was no answer, or none that decides.
    async fn persist<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let mut backoff = Backoff::new();
        for _ in 1..TRIES_MAX {
            match call().await {
                Err(error) if error.is_transient() => tokio::time::sleep(backoff.next(self.inner.clock.env())).await,
                decided => return decided,
            }
        }
        call().await
    }
}

fn decided<T>(each: Each<T>) -> Result<T> {
    match each {
        Each::Done(done) => Ok(done),
        Each::Refused(body) => Err(AppError::Refused {
            kind: body.kind().unwrap_or(ErrorKind::Invalid),
            message: body.message().to_owned(),
        }),
    }
}

impl Spawning<App> {
    /// Spawns it. Sent again after a lost answer, it still starts once.
    ///
    /// # Errors
    /// [`AppError::Value`] if the input is not JSON; [`AppError::Refused`], as for a queue that does not exist;
    /// [`AppError::Unreachable`].
    pub async fn send(self) -> Result<Handle> {
        let (app, options) = self.split();
        let (_, spawn) = app.outgoing(options)?;
        let send = || async {
            let mut results = app.link().spawn(vec![spawn.clone()]).await?;
            let result = results
                .pop()
                .ok_or_else(|| AppError::Unreachable { message: "there is no result for the spawn".to_owned() });
            decided(result?)
        };
        let spawned = app.persist(send).await?;
        Ok(Handle::spawned(&app, spawned))
    }
}

/// A task by its id.
#[derive(Clone, Debug)]
pub struct Handle {
    app: App,
    id: String,
    created: Option<bool>,
}

impl Handle {
    fn spawned(app: &App, spawned: Spawned) -> Handle {
        Handle { app: app.clone(), id: spawned.id, created: Some(spawned.created) }
    }

    /// The task.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether this spawn has made it; nothing where there was no spawn.
    pub fn created(&self) -> Option<bool> {
        self.created
    }

    /// Its output, once it is there. Inside a task await a child's result instead: that holds no slot.
    ///
    /// # Errors
    /// [`AppError::TaskFailed`], [`AppError::TaskCancelled`]; [`AppError::TimedOut`], which says nothing about the
    /// task; [`AppError::Value`] if the output is no `T`; [`AppError::Refused`] if there is no such task.
    pub async fn result<T: DeserializeOwned>(&self, timeout: impl Into<Option<Duration>>) -> Result<T> {
        let what = || format!("the result of task {}", self.id);
        let waiting = async {
            let mut backoff = Backoff::new();
            loop {
                match self.app.link().result(&self.id, Duration::from_millis(WAIT_MS_MAX)).await {
                    Ok(result) => match result.status.as_str() {
                        "completed" => return read(result.output.as_deref(), what),
                        "failed" => {
                            let failure = result.failure.unwrap_or_else(unsaid);
                            return Err(AppError::TaskFailed { task: self.id.clone(), failure });
                        }
                        "cancelled" => return Err(AppError::TaskCancelled { task: self.id.clone() }),
                        _ => backoff.reset(),
                    },
                    Err(error) if error.is_transient() => {
                        tokio::time::sleep(backoff.next(self.app.inner.clock.env())).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        match timeout.into() {
            None => waiting.await,
            Some(span) => {
                let waited = tokio::time::timeout(span, waiting).await;
                waited.unwrap_or_else(|_| Err(AppError::TimedOut { what: what() }))
            }
        }
    }

    /// queued, running, waiting, completed, failed or cancelled.
    ///
    /// # Errors
    /// As [`Handle::info`].
    pub async fn status(&self) -> Result<String> {
        Ok(self.info().await?.status)
    }

    /// All that is said of it.
    ///
    /// # Errors
    /// [`AppError::Refused`] if there is no such task; [`AppError::Unreachable`].
    pub async fn info(&self) -> Result<Task> {
        self.app.persist(|| self.app.link().task(&self.id)).await
    }

    /// Ends it for good, unless it has ended; its code notices at its next await.
    ///
    /// # Errors
    /// As [`Handle::info`].
    pub async fn cancel(&self, reason: Option<&str>) -> Result<()> {
        self.app.persist(|| self.app.link().cancel(&self.id, reason)).await?;
        Ok(())
    }

    /// Runs a failed task again, with what it has recorded, and `extra_attempts` more than it had.
    ///
    /// # Errors
    /// [`AppError::Refused`] of kind `Conflict` if it has not failed; as [`Handle::info`].
    pub async fn retry(&self, extra_attempts: u32) -> Result<()> {
        // Sent once: a second one would find the task queued, and err.
        self.app.link().retry(&self.id, RetryMode::InPlace, extra_attempts).await?;
        Ok(())
    }

    /// Runs a failed task again from its beginning, as a new task with the same input.
    ///
    /// # Errors
    /// As [`Handle::retry`].
    pub async fn retry_as_new(&self) -> Result<Handle> {
        let task = self.app.link().retry(&self.id, RetryMode::New, 1).await?;
        Ok(Handle { app: self.app.clone(), id: task.id, created: Some(true) })
    }
}

/// The clock that the waits of tasks go by, for tests of those who use them.
#[derive(Clone, Debug)]
pub struct TestClock {
    app: App,
}

impl TestClock {
    /// Moves it forward; what is due then is due now. Returns its time, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`AppError::Refused`] of kind `NotFound` where the clock cannot be set; [`AppError::Unreachable`].
    pub async fn advance(&self, span: Duration) -> Result<u64> {
        // Sent once: advanced twice is not advanced once.
        let request = ClockRequest { advance_ms: Some(policy::millis(span)), set_ms: None };
        let now_ms = self.app.link().clock(request).await?.now_ms;
        self.app.inner.clock.set(now_ms);
        Ok(now_ms)
    }
}
