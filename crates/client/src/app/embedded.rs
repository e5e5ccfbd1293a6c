//! The engine and the tasks in this process.

use std::fmt;
use std::path::PathBuf;

use cairn::{Db, Options};
use cairn_api::tasks::{CancelRequest, Each, Emit, EmitRequest, Emitted, Page, RetryMode, RetryRequest};
use cairn_api::tasks::{Spawn, SpawnRequest, Spawned, Step, Task};
use cairn_api::{ErrorKind, Paging};
use cairn_durable::Tasks;
use cairn_env::Env;
use cairn_service::{Place, Refused, Service};

use super::error::{AppError, Result};
use super::link::Link;
use super::{App, Handle, Spawning};

/// How tasks are opened in this process.
///
/// ```no_run
/// # async fn example() -> Result<(), cairn_client::AppError> {
/// let app = cairn_client::app::Embedded::new().test_clock().open("./data").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    options: Options,
    test_clock: bool,
}

impl Embedded {
    /// As [`App::open`] does it.
    pub fn new() -> Embedded {
        Embedded::default()
    }

    /// The engine's options.
    #[must_use]
    pub fn options(mut self, options: Options) -> Embedded {
        self.options = options;
        self
    }

    /// Lets [`App::clock`] set the clock of the tasks forward. For tests.
    #[must_use]
    pub fn test_clock(mut self) -> Embedded {
        self.test_clock = true;
        self
    }

    /// The tasks of the database in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`AppError::Refused`] with what the engine says: the directory is in use, damaged, or cannot be written.
    pub async fn open(self, directory: impl Into<PathBuf>) -> Result<App> {
        let (directory, options) = (directory.into(), self.options.clone());
        let opened = Threads.run(move || Db::open(directory, options)).await?;
        let db = opened.map_err(refused)?;
        self.start(db, true).await
    }

    /// The tasks of a database that is open already, beside whatever else is in it. Its owner closes it, after
    /// [`App::close`].
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn on(self, db: &Db) -> Result<App> {
        self.start(db.clone(), false).await
    }

    async fn start(self, db: Db, owned: bool) -> Result<App> {
        let on = db.clone();
        let open = move || {
            let tasks = Tasks::open(&Env::real(), on)?;
            // Whoever held a task was in the process that had this database before. What fails here the lease does.
            drop(tasks.release_orphans());
            Ok(tasks)
        };
        let tasks = Threads.run(open).await?.map_err(|e: cairn_durable::Error| Refused::from(e))?;
        let service = Service::new(tasks, Threads, Threads, self.test_clock);
        let local = Local { service, db: owned.then_some(db) };
        Ok(App::new(Link::Embedded(std::sync::Arc::new(local))))
    }
}

impl App {
    /// Tasks in this process, on the database in `directory`, which is made if it is not there. Nothing else may have
    /// it open.
    ///
    /// # Errors
    /// [`AppError::Refused`] with what the engine says: the directory is in use, damaged, or cannot be written.
    pub async fn open(directory: impl Into<PathBuf>) -> Result<App> {
        Embedded::new().open(directory).await
    }

    /// Tasks in this process, in a database that the program has open for other things as well. There may be one app on a
    /// database at a time: two would each decide from what they remember. [`App::close`] it before the next is opened.
    ///
    /// # Errors
    /// As [`App::open`].
    pub async fn on(db: &Db) -> Result<App> {
        Embedded::new().on(db).await
    }
}

impl App {
    /// Writes a batch of the program's own, with its conditions, and spawns tasks, in one: all of it is there, durable,
    /// when this returns, or nothing of it. Only for tasks in this process, in the database of the batch.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let db = cairn::Db::open("./data", cairn::Options::default())?;
    /// let app = cairn_client::App::on(&db).await?;
    /// let orders = db.keyspace("orders")?;
    /// let mut batch = db.batch();
    /// batch.put(&orders, b"7", b"paid");
    /// let handles = app.spawn_with(batch, [app.spawn("fulfil", &7)]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AppError::Value`] if an input is not JSON; [`AppError::Refused`] with what refuses a task or the batch
    /// (`Conflict` names the key of a condition): then nothing is written; with `Unknown` perhaps all of it is.
    pub async fn spawn_with(
        &self,
        batch: cairn::Batch,
        tasks: impl IntoIterator<Item = Spawning<App>>,
    ) -> Result<Vec<Handle>> {
        let Link::Embedded(local) = self.link() else {
            return Err(AppError::invalid("a batch of one's own goes only with tasks in this process".to_owned()));
        };
        let spawns = tasks.into_iter().map(|task| Ok(self.outgoing(task.split().1)?.1));
        let spawned = local.service.spawn_with(batch, spawns.collect::<Result<_>>()?).await?;
        Ok(spawned.into_iter().map(|spawned| Handle::spawned(self, spawned)).collect())
    }
}

/// What the engine says, in the words of the protocol.
fn refused(error: cairn::Error) -> Refused {
    cairn_durable::Error::from(error).into()
}

/// The runtime's threads for blocking work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads;

impl Place for Threads {
    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        let defect = |_| Refused::new(ErrorKind::Internal, "a call ended by a defect, or with its runtime");
        tokio::task::spawn_blocking(job).await.map_err(defect)
    }
}

/// The protocol, answered here.
pub(crate) struct Local {
    pub(crate) service: Service<Db, Threads>,
    /// To be closed with the tasks, unless somebody else does.
    db: Option<Db>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl Drop for Local {
    /// The thread of the tasks would outlive them.
    fn drop(&mut self) {
        self.service.tasks().close();
    }
}

impl Local {
    pub(crate) async fn spawn(&self, tasks: Vec<Spawn>) -> Result<Vec<Each<Spawned>>, Refused> {
        Ok(self.service.spawn(SpawnRequest { tasks, atomic: false }).await?.results)
    }

    pub(crate) async fn steps(&self, id: &str, after: &str) -> Result<Page<Step>, Refused> {
        self.service.steps(id, Paging { after: Some(after.to_owned()), limit: None }).await
    }

    pub(crate) async fn cancel(&self, id: &str, reason: Option<&str>) -> Result<Task, Refused> {
        self.service.cancel(id, CancelRequest { reason: reason.map(str::to_owned) }).await
    }

    pub(crate) async fn retry(&self, id: &str, mode: RetryMode, extra_attempts: u32) -> Result<Task, Refused> {
        self.service.retry(id, RetryRequest { mode, extra_attempts }).await
    }

    pub(crate) async fn emit(&self, queue: &str, event: Emit) -> Result<Each<Emitted>, Refused> {
        let mut results = self.service.emit(queue, EmitRequest { events: vec![event] }).await?.results;
        results.pop().ok_or_else(|| Refused::new(ErrorKind::Internal, "there is no result for the event"))
    }

    pub(crate) async fn close(&self) -> Result<()> {
        let (tasks, db) = (self.service.tasks().clone(), self.db.clone());
        let closing = Threads.run(move || {
            tasks.close();
            db.map_or(Ok(()), Db::close)
        });
        Ok(closing.await?.map_err(refused)?)
    }
}
