//! The SDK of tasks, by scenario: each runs in the process and against a server, with the same code.
//!
//! Time is the test clock's; nothing here sleeps for longer than a turn of its worker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "scenarios: what is not as expected shows where"
)]

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use cairn::Db;
use cairn_client::app::{Begun, Embedded, Worker};
use cairn_client::{App, AppError, Ctx, ErrorKind, Handle, Options, Retry, TaskError};
use cairn_env::testing::TempDir;
use cairn_server::{Server, ServerConfig};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Nothing here should take this long; a test that hangs says where.
const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// An app over tasks of its own, on a clock of its own.
struct World {
    app: App,
    server: Option<Running>,
    directory: TempDir,
}

impl World {
    async fn embedded() -> World {
        let directory = TempDir::new();
        let app = Embedded::new().test_clock().open(directory.path()).await.unwrap();
        World { app, server: None, directory }
    }

    async fn remote() -> World {
        let directory = TempDir::new();
        let server = Running::start("127.0.0.1:0", &directory).await;
        let app = App::connect(&format!("http://{}", server.address), None).unwrap();
        World { app, server: Some(server), directory }
    }

    /// Registers one task, "t", and starts a worker for it.
    async fn worker<I, O, F, Fut>(&self, code: F) -> Worker
    where
        F: Fn(Ctx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, TaskError>> + Send + 'static,
        I: serde::de::DeserializeOwned + 'static,
        O: serde::Serialize + 'static,
    {
        self.app.task("t", code).unwrap();
        self.app.worker().start().await.unwrap()
    }

    async fn spawn(&self, input: impl serde::Serialize) -> Handle {
        self.app.spawn("t", &input).send().await.unwrap()
    }
}

/// A server.
struct Running {
    address: String,
    stop: oneshot::Sender<()>,
    done: JoinHandle<cairn_server::Result<()>>,
}

impl Running {
    async fn start(address: &str, directory: &TempDir) -> Running {
        let db = Db::open(directory.path(), cairn::Options::default()).unwrap();
        let config = ServerConfig { http: address.to_owned(), test_clock: true, ..ServerConfig::default() };
        let server = Server::bind(config, db).await.unwrap();
        let address = server.local_addr().to_string();
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Running { address, stop, done }
    }

    async fn stop(self) -> String {
        let Running { address, stop, done } = self;
        stop.send(()).unwrap();
        timeout(PATIENCE, done).await.expect("the server stops").unwrap().unwrap();
        address
    }
}

/// Waits until a task stands so.
async fn reaches(handle: &Handle, status: &str) {
    let waiting = async {
        while handle.status().await.unwrap() != status {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("{:?} does not become {status}", handle.info().await);
    }
}

/// Waits until a task waits under this step id.
async fn waits_at(handle: &Handle, key: &str) {
    let waiting = async {
        while handle.info().await.unwrap().waiting.iter().all(|wait| wait.key.as_deref() != Some(key)) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("{:?} does not wait at {key}", handle.info().await);
    }
}

async fn result(handle: &Handle) -> Value {
    handle.result(PATIENCE).await.unwrap()
}

/// A count that a task's code leaves behind.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn up(&self) -> usize {
        self.0.fetch_add(1, SeqCst) + 1
    }

    fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

// Groups 1 and 2: spawn, claim, complete; the lifecycle.

async fn a_task_runs_and_its_result_is_kept(world: World) {
    let worker = world.worker(async |_: Ctx, input: u64| Ok(input + 1)).await;
    let handle = world.spawn(41).await;
    assert_eq!(handle.created(), Some(true));
    assert_eq!(handle.result::<u64>(PATIENCE).await.unwrap(), 42);
    let info = world.app.handle(handle.id()).info().await.unwrap();
    assert_eq!((info.status.as_str(), info.attempt, info.input.get()), ("completed", 1, "41"));
    assert!(matches!(handle.result::<String>(PATIENCE).await, Err(AppError::Value { .. })));
    worker.stop().await.unwrap();
}

async fn the_lifecycle_shows(world: World) {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes_on) = (begun.clone(), go_on.clone());
    let code = move |ctx: Ctx, (): ()| {
        let (begins, goes_on) = (begins.clone(), goes_on.clone());
        async move {
            begins.notify_one();
            goes_on.notified().await;
            let _: Value = ctx.event("go").await?;
            Ok(())
        }
    };
    let handle = world.spawn(()).await;
    assert_eq!(handle.status().await.unwrap(), "queued");
    let worker = world.worker(code).await;
    begun.notified().await;
    assert_eq!(handle.status().await.unwrap(), "running");
    let early = handle.result::<()>(Duration::from_millis(20)).await;
    assert!(matches!(early, Err(AppError::TimedOut { .. })), "{early:?}");
    go_on.notify_one();
    reaches(&handle, "waiting").await;
    go_on.notify_one();
    world.app.emit("go", &1).await.unwrap();
    handle.result::<()>(PATIENCE).await.unwrap();
    assert_eq!(handle.status().await.unwrap(), "completed");
    let unknown = world.app.handle("0199b9a0-0000-7000-8000-000000000000");
    assert_eq!(unknown.status().await.unwrap_err().kind(), Some(ErrorKind::NotFound));
    worker.stop().await.unwrap();
}

// Group 3: idempotency.

async fn an_idempotency_key_makes_one_task(world: World) {
    let runs = Count::default();
    let counted = runs.clone();
    let worker = world.worker(move |_: Ctx, (): ()| {
        counted.up();
        async { Ok(()) }
    });
    let worker = worker.await;
    let spawn = |key: &str| world.app.spawn("t", &()).idempotency_key(key).send();
    let (first, again, other) = (spawn("a").await.unwrap(), spawn("a").await.unwrap(), spawn("b").await.unwrap());
    assert_eq!((first.id(), again.created()), (again.id(), Some(false)));
    assert_ne!(first.id(), other.id());
    first.result::<()>(PATIENCE).await.unwrap();
    other.result::<()>(PATIENCE).await.unwrap();
    assert_eq!(spawn("a").await.unwrap().id(), first.id(), "after it has ended, too");
    let by_id = world.app.spawn("t", &()).id(first.id()).send().await.unwrap();
    assert_eq!(by_id.created(), Some(false));
    world.app.make_queue("other").await.unwrap();
    let elsewhere = world.app.spawn("t", &()).idempotency_key("a").queue("other").send().await.unwrap();
    assert_ne!(elsewhere.id(), first.id(), "a key belongs to its queue");
    assert_eq!(runs.get(), 2);
    worker.stop().await.unwrap();
}

// Group 7: retries of a task.

async fn a_failed_attempt_is_tried_again_when_the_policy_says(world: World) {
    let runs = Count::default();
    let counted = runs.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        counted.up();
        async move { Err::<(), _>(TaskError::new("flaky", format!("attempt {}", ctx.attempt()))) }
    });
    let worker = worker.await;
    let retry = Retry::fixed(10 * MINUTE);
    let handle = world.app.spawn("t", &()).retry(retry).max_attempts(2).send().await.unwrap();
    let failed_once = async {
        while handle.info().await.unwrap().attempt < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, failed_once).await.unwrap();
    world.app.clock().advance(9 * MINUTE).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(runs.get(), 1, "not before its time");
    world.app.clock().advance(MINUTE).await.unwrap();
    match handle.result::<()>(PATIENCE).await {
        Err(AppError::TaskFailed { failure, .. }) => {
            assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("flaky", "attempt 2"));
        }
        other => panic!("{other:?}"),
    }
    worker.stop().await.unwrap();
}

async fn a_spawn_overrides_what_the_registration_says(world: World) {
    let runs = Count::default();
    let counted = runs.clone();
    let code = move |_: Ctx, (): ()| {
        counted.up();
        async { Err::<(), _>(TaskError::new("always", "no")) }
    };
    let defaults = Options::new().max_attempts(3).retry(Retry::none()).tag("from", "registration");
    world.app.task_with("t", defaults, code).unwrap();
    assert!(world.app.task("t", async |_: Ctx, (): ()| Ok(())).is_err(), "one name, one task");
    let worker = world.app.worker().start().await.unwrap();
    let by_default = world.spawn(()).await;
    assert!(by_default.result::<()>(PATIENCE).await.is_err());
    assert_eq!(runs.get(), 3);
    assert_eq!(by_default.info().await.unwrap().tags["from"], "registration");
    let overridden = world.app.spawn("t", &()).max_attempts(1).send().await.unwrap();
    assert!(overridden.result::<()>(PATIENCE).await.is_err());
    assert_eq!(runs.get(), 4);
    worker.stop().await.unwrap();
}

async fn what_cannot_be_helped_is_not_tried_again(world: World) {
    let runs = Count::default();
    let counted = runs.clone();
    let worker = world.worker(move |_: Ctx, how: String| {
        counted.up();
        async move {
            match how.as_str() {
                "fatal" => Err(TaskError::fatal("never")),
                "panic" => panic!("as {how}"),
                _ => Ok(u8::try_from(300)?),
            }
        }
    });
    let worker = worker.await;
    for (how, kind, tries) in [("fatal", "fatal", 1), ("panic", "panic", 2), ("error", "TryFromIntError", 2)] {
        let before = runs.get();
        let handle = world.app.spawn("t", how).retry(Retry::none()).max_attempts(2).send().await.unwrap();
        match handle.result::<u8>(PATIENCE).await {
            Err(AppError::TaskFailed { failure, .. }) => assert_eq!(failure.kind, kind),
            other => panic!("{other:?}"),
        }
        assert_eq!(runs.get() - before, tries, "{how}");
    }
    worker.stop().await.unwrap();
}

// Group 8: checkpoints.

async fn a_finished_step_is_not_run_again(world: World) {
    let (first, second) = (Count::default(), Count::default());
    let counts = (first.clone(), second.clone());
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let (first, second) = counts.clone();
        async move {
            let a: usize = ctx.step("a", async || Ok(first.up())).await?;
            let fails = async || if second.up() < 3 { Err(TaskError::new("not yet", "")) } else { Ok("b".to_owned()) };
            let b = ctx.step("b", fails).await?;
            let again: usize = ctx.step("a", async || Ok(10)).await?;
            Ok((a, b, again, ctx.attempt()))
        }
    });
    let worker = worker.await;
    let handle = world.app.spawn("t", &()).retry(Retry::none()).send().await.unwrap();
    assert_eq!(result(&handle).await, json!([1, "b", 10, 3]));
    assert_eq!((first.get(), second.get()), (1, 3));
    worker.stop().await.unwrap();
}

async fn a_step_in_two_halves_is_a_step(world: World) {
    let bodies = Count::default();
    let counted = bodies.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let counted = counted.clone();
        async move {
            let value = match ctx.begin_step::<usize>("half").await? {
                Begun::Done(value) => value,
                Begun::Open(step) => step.complete(&counted.up()).await?,
            };
            ctx.sleep("z", MINUTE).await?;
            Ok(value)
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    reaches(&handle, "waiting").await;
    world.app.clock().advance(MINUTE).await.unwrap();
    assert_eq!(result(&handle).await, json!(1));
    assert_eq!(bodies.get(), 1);
    worker.stop().await.unwrap();
}

/// Its value is there for the next attempt, after a suspension, after the end and after an orderly stop, whatever took
/// it along. Until then it is not recorded: only a crash in between makes it run again.
async fn a_step_that_may_rerun_goes_with_the_next_call(world: World) {
    let bodies = Count::default();
    let (counted, stuck) = (bodies.clone(), Arc::new(Notify::new()));
    let (sticks, stuck_once) = (stuck.clone(), Arc::new(AtomicBool::new(false)));
    let code = move |ctx: Ctx, next: String| {
        let (counted, sticks, stuck_once) = (counted.clone(), sticks.clone(), stuck_once.clone());
        async move {
            let value: usize = ctx.step("a", async || Ok(counted.up())).may_rerun().await?;
            match next.as_str() {
                "fail" if ctx.attempt() == 1 => return Err(TaskError::new("not yet", "")),
                "sleep" => ctx.sleep("z", MINUTE).await?,
                "step" => ctx.step("b", async || Ok(())).await?,
                "half" => match ctx.begin_step::<usize>("half").await? {
                    Begun::Done(_) => {}
                    Begun::Open(step) => drop(step.may_rerun().complete(&1).await?),
                },
                "stick" if !stuck_once.swap(true, SeqCst) => {
                    sticks.notify_one();
                    std::future::pending::<()>().await;
                }
                _ => {}
            }
            if next == "step" && ctx.attempt() == 1 {
                return Err(TaskError::new("not yet", ""));
            }
            Ok(value)
        }
    };
    world.app.task("t", code).unwrap();
    let worker = world.app.worker().start().await.unwrap();
    for next in ["end", "fail", "step", "half", "sleep"] {
        let before = bodies.get();
        let once = Retry::fixed(Duration::ZERO);
        let handle = world.app.spawn("t", &next).retry(once).send().await.unwrap();
        if next == "sleep" {
            reaches(&handle, "waiting").await;
            world.app.clock().advance(MINUTE).await.unwrap();
        }
        assert_eq!(result(&handle).await, json!(before + 1), "{next}");
        assert_eq!(bodies.get(), before + 1, "{next}");
    }
    let before = bodies.get();
    let handle = world.spawn("stick").await;
    stuck.notified().await;
    if let Some(server) = &world.server {
        let client = cairn_client::Client::new(&format!("http://{}", server.address), None).unwrap();
        assert_eq!(client.task_steps(handle.id(), None).await.unwrap().items.len(), 0);
    }
    drop(worker);
    let worker = world.app.worker().start().await.unwrap();
    assert_eq!(result(&handle).await, json!(before + 1));
    assert_eq!(bodies.get(), before + 1);
    worker.stop().await.unwrap();
}

async fn many_steps_that_may_rerun_are_all_recorded(world: World) {
    let worker = world.worker(|ctx: Ctx, (): ()| async move {
        let mut sum = 0;
        for number in 0..100 {
            let kilobytes = if number % 10 == 0 { 600 } else { 1 };
            let value = ctx.step("n", async || Ok("x".repeat(kilobytes << 10))).may_rerun().await?;
            sum += value.len() >> 10;
        }
        if ctx.attempt() == 1 { Err(TaskError::new("once more", "")) } else { Ok(sum) }
    });
    let worker = worker.await;
    let handle = world.app.spawn("t", &()).retry(Retry::fixed(Duration::ZERO)).send().await.unwrap();
    assert_eq!(result(&handle).await, json!(6_090));
    worker.stop().await.unwrap();
}

async fn a_step_with_a_policy_tries_again_by_itself(world: World) {
    let tries = Count::default();
    let counted = tries.clone();
    let worker = world.worker(move |ctx: Ctx, fails: usize| {
        let counted = counted.clone();
        async move {
            let body = async || if counted.up() <= fails { Err(TaskError::new("flaky", "no")) } else { Ok(7) };
            let in_place = Retry::fixed(Duration::from_millis(1));
            let value: u32 = ctx.step("s", body).retry(in_place).max_attempts(3).await?;
            Ok((value, ctx.attempt()))
        }
    });
    let worker = worker.await;
    let handle = world.spawn(2).await;
    assert_eq!(result(&handle).await, json!([7, 1]), "in the first attempt of the task");
    assert_eq!(tries.get(), 3);

    // The failure of its last attempt is recorded; the task ends with it, and is not tried again.
    let tried_before = tries.get();
    let handle = world.spawn(usize::MAX).await;
    match handle.result::<Value>(PATIENCE).await {
        Err(AppError::TaskFailed { failure, .. }) => assert_eq!(failure.kind, "flaky"),
        other => panic!("{other:?}"),
    }
    assert_eq!((tries.get() - tried_before, handle.info().await.unwrap().attempt), (3, 1));
    worker.stop().await.unwrap();
}

async fn a_long_pause_between_attempts_of_a_step_suspends(world: World) {
    let tries = Count::default();
    let counted = tries.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let counted = counted.clone();
        async move {
            let body = async || if counted.up() < 3 { Err(TaskError::new("flaky", "no")) } else { Ok(()) };
            ctx.step("s", body).retry(Retry::fixed(DAY)).await?;
            Ok(())
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    for tried in 1..3 {
        waits_at(&handle, &format!("s/retry:1.{tried}")).await;
        assert_eq!(tries.get(), tried);
        world.app.clock().advance(DAY).await.unwrap();
    }
    handle.result::<()>(PATIENCE).await.unwrap();
    assert_eq!(tries.get(), 3);
    worker.stop().await.unwrap();
}

/// What an earlier attempt had recorded of it counted: its pauses as tries, and, where it came by a later page of the
/// steps, its failure.
async fn a_step_that_failed_for_good_is_tried_anew_by_the_next_attempt(world: World) {
    let tries = Count::default();
    let counted = tries.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let counted = counted.clone();
        async move {
            for _ in 0..3 {
                let _: String = ctx.step("large", async || Ok("x".repeat(600 << 10))).await?;
            }
            let body = async || if counted.up() < 4 { Err(TaskError::new("flaky", "no")) } else { Ok(7) };
            let value: u32 = ctx.step("s", body).retry(Retry::fixed(DAY)).max_attempts(2).await?;
            Ok(value)
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    waits_at(&handle, "s/retry:1.1").await;
    world.app.clock().advance(DAY).await.unwrap();
    match handle.result::<Value>(PATIENCE).await {
        Err(AppError::TaskFailed { failure, .. }) => assert_eq!(failure.kind, "flaky"),
        other => panic!("{other:?}"),
    }
    handle.retry(1).await.unwrap();
    waits_at(&handle, "s/retry:2.1").await;
    assert_eq!(tries.get(), 3);
    world.app.clock().advance(DAY).await.unwrap();
    assert_eq!(result(&handle).await, json!(7));
    assert_eq!(tries.get(), 4);
    worker.stop().await.unwrap();
}

async fn a_step_that_takes_too_long_has_failed(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| {
        let forever = async || {
            std::future::pending::<()>().await;
            Ok(())
        };
        match ctx.step("s", forever).timeout(Duration::from_millis(10)).max_attempts(2).await {
            Err(AppError::StepFailed { failure, .. }) => Ok(failure.kind),
            other => Err(TaskError::fatal(format!("{other:?}"))),
        }
    });
    let worker = worker.await;
    assert_eq!(result(&world.spawn(()).await).await, json!("timed_out"));
    worker.stop().await.unwrap();
}

async fn names_are_ids(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| {
        let body = async || Ok(ctx.key("a")?);
        let (one, two) = (ctx.step("a", body).await?, ctx.step("a", body).await?);
        let inside = ctx.scope("50% of a/b")?;
        let three = inside.step("a", async || Ok(inside.key("a")?)).await?;
        Ok([one, two, three].map(|key| key.split_once('/').unwrap().1.to_owned()))
    });
    let worker = worker.await;
    assert_eq!(result(&world.spawn(()).await).await, json!(["a", "a#2", "50%25 of a%2Fb/a"]));
    worker.stop().await.unwrap();
}

async fn calls_that_would_depend_on_chance_are_refused(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| {
        let one = ctx.step("same", async || Ok(1));
        let two = ctx.step("same", async || Ok(2));
        let (one, two): (Result<i32, _>, Result<i32, _>) = tokio::join!(one.into_future(), two.into_future());
        assert!(one.is_ok() && matches!(two, Err(AppError::AmbiguousStep { .. })));
        let inner = ctx.clone();
        let nested = ctx.step("outer", || inner_step(inner.clone())).await;
        let Err(AppError::StepFailed { failure, .. }) = nested else { panic!("{nested:?}") };
        assert!(failure.message.contains("inside the step"), "{failure:?}");
        Ok(())
    });
    async fn inner_step(ctx: Ctx) -> Result<(), TaskError> {
        Ok(ctx.step("inner", async || Ok(())).await?)
    }
    let worker = worker.await;
    world.spawn(()).await.result::<()>(PATIENCE).await.unwrap();
    worker.stop().await.unwrap();
}

// Group 9: sleep.

async fn a_sleep_ends_at_its_time_and_is_not_slept_again(world: World) {
    let runs = Count::default();
    let counted = runs.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let run = counted.up();
        async move {
            ctx.sleep("one", DAY).await?;
            ctx.sleep("two", DAY).await?;
            Ok(run)
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    reaches(&handle, "waiting").await;
    world.app.clock().advance(DAY - MINUTE).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!((handle.status().await.unwrap().as_str(), runs.get()), ("waiting", 1), "not before");
    world.app.clock().advance(MINUTE).await.unwrap();
    waits_at(&handle, "two").await;
    world.app.clock().advance(DAY).await.unwrap();
    assert_eq!(result(&handle).await, json!(3), "the code ran once for each time it was woken");
    assert_eq!(handle.info().await.unwrap().attempt, 1);
    worker.stop().await.unwrap();
}

async fn who_sleeps_holds_no_slot(world: World) {
    world.app.task("sleeper", async |ctx: Ctx, (): ()| Ok(ctx.sleep("z", DAY).await?)).unwrap();
    world.app.task("quick", async |_: Ctx, (): ()| Ok(())).unwrap();
    let worker = world.app.worker().slots(1).start().await.unwrap();
    let sleeper = world.app.spawn("sleeper", &()).send().await.unwrap();
    reaches(&sleeper, "waiting").await;
    world.app.spawn("quick", &()).send().await.unwrap().result::<()>(PATIENCE).await.unwrap();
    worker.stop().await.unwrap();
}

// Group 10: events.

async fn an_event_reaches_who_waits_and_who_will(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| Ok(ctx.event::<Value>("e").await?)).await;
    let early = world.spawn(()).await;
    let early_too = world.spawn(()).await;
    reaches(&early, "waiting").await;
    reaches(&early_too, "waiting").await;
    assert!(world.app.emit("e", &json!({"n": 1})).await.unwrap());
    assert!(!world.app.emit("e", &2).await.unwrap(), "the first stands");
    let late = world.spawn(()).await;
    for handle in [early, early_too, late] {
        assert_eq!(result(&handle).await, json!({"n": 1}));
    }
    worker.stop().await.unwrap();
}

async fn a_timeout_is_recorded(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| {
        let late = ctx.event::<Value>("late").timeout(MINUTE).await;
        assert!(matches!(late, Err(AppError::TimedOut { .. })), "{late:?}");
        let go: u32 = ctx.event("go").await?;
        Ok(go)
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    reaches(&handle, "waiting").await;
    world.app.clock().advance(MINUTE).await.unwrap();
    waits_at(&handle, "event:go").await;
    // The event comes after all: the replay must not see it.
    world.app.emit("late", &1).await.unwrap();
    world.app.emit("go", &2).await.unwrap();
    assert_eq!(result(&handle).await, json!(2));
    worker.stop().await.unwrap();
}

async fn a_task_emits_once(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| {
        ctx.emit("from the task", &ctx.attempt()).await?;
        if ctx.attempt() == 1 {
            return Err(TaskError::new("once more", ""));
        }
        Ok(ctx.event::<u32>("from the task").await?)
    });
    let worker = worker.await;
    let handle = world.app.spawn("t", &()).retry(Retry::none()).send().await.unwrap();
    assert_eq!(result(&handle).await, json!(1));
    worker.stop().await.unwrap();
}

// Group 11: cancellation.

async fn a_cancelled_task_stops(world: World) {
    /// Says when it is dropped.
    struct Held(Arc<Notify>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, drops) = (begun.clone(), dropped.clone());
    let worker = world.worker(move |ctx: Ctx, sleeps: bool| {
        let (begins, held) = (begins.clone(), Held(drops.clone()));
        async move {
            if sleeps {
                ctx.sleep("z", DAY).await?;
            }
            begins.notify_one();
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        }
    });
    let queued = world.app.spawn("t", &false).delay(DAY).send().await.unwrap();
    let worker = worker.await;
    let running = world.spawn(false).await;
    begun.notified().await;
    running.cancel(Some("enough")).await.unwrap();
    timeout(PATIENCE, dropped.notified()).await.expect("its code is dropped where it waits");
    let sleeping = world.spawn(true).await;
    reaches(&sleeping, "waiting").await;
    for handle in [&queued, &sleeping, &running] {
        handle.cancel(None).await.unwrap();
        let result = handle.result::<()>(PATIENCE).await;
        assert!(matches!(result, Err(AppError::TaskCancelled { .. })), "{result:?}");
    }
    assert_eq!(running.info().await.unwrap().failure.unwrap().message, "enough", "the first one stands");
    worker.stop().await.unwrap();
}

async fn a_task_has_its_time(world: World) {
    let worker = world.worker(async |ctx: Ctx, (): ()| Ok(ctx.sleep("z", 2 * DAY).await?)).await;
    let handle = world.app.spawn("t", &()).max_duration(DAY).send().await.unwrap();
    reaches(&handle, "waiting").await;
    world.app.clock().advance(DAY + MINUTE).await.unwrap();
    let result = handle.result::<()>(PATIENCE).await;
    assert!(matches!(result, Err(AppError::TaskCancelled { .. })), "{result:?}");
    worker.stop().await.unwrap();
}

async fn a_context_that_got_out_errs_for_ever(world: World) {
    let out = Arc::new(Mutex::new(None));
    let leak = out.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        leak.lock().unwrap().get_or_insert(ctx.clone());
        async move { Ok(ctx.sleep("z", DAY).await?) }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    reaches(&handle, "waiting").await;
    let ctx = out.lock().unwrap().clone().unwrap();
    for _ in 0..2 {
        let step = ctx.step("s", async || Ok(1)).await;
        assert!(matches!(step, Err(AppError::Over { .. })), "{step:?}");
        assert!(matches!(ctx.emit("e", &1).await, Err(AppError::Over { .. })));
        assert!(matches!(ctx.heartbeat().await, Err(AppError::Over { .. })));
    }
    worker.stop().await.unwrap();
}

// Group 13: retrying a task by hand.

async fn a_failed_task_can_be_retried(world: World) {
    let (steps, helped) = (Count::default(), Arc::new(AtomicUsize::new(0)));
    let state = (steps.clone(), helped.clone());
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let (steps, helped) = state.clone();
        async move {
            let a: usize = ctx.step("a", async || Ok(steps.up())).await?;
            let unless_helped = async || match helped.load(SeqCst) {
                0 => Err(TaskError::new("helpless", "")),
                _ => Ok("b".to_owned()),
            };
            let b = ctx.step("b", unless_helped).max_attempts(1).await?;
            Ok((a, b))
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    assert!(handle.result::<Value>(PATIENCE).await.is_err());
    helped.store(1, SeqCst);
    let new = handle.retry_as_new().await.unwrap();
    assert_eq!(result(&new).await, json!([2, "b"]), "a new one begins from nothing");
    handle.retry(1).await.unwrap();
    assert_eq!(result(&handle).await, json!([1, "b"]), "in place what is done stays");
    assert_eq!(handle.retry(1).await.unwrap_err().kind(), Some(ErrorKind::Conflict), "it has not failed");
    worker.stop().await.unwrap();
}

// Group 15: workers, children, branches, hooks.

async fn slots_bound_what_runs_at_a_time(world: World) {
    let (now, most) = (Count::default(), Arc::new(AtomicUsize::new(0)));
    let state = (now, most.clone());
    let code = move |_: Ctx, (): ()| {
        let (now, most) = state.clone();
        async move {
            most.fetch_max(now.up(), SeqCst);
            sleep(Duration::from_millis(5)).await;
            now.0.fetch_sub(1, SeqCst);
            Ok(())
        }
    };
    world.app.task("t", code).unwrap();
    let worker = world.app.worker().slots(3).start().await.unwrap();
    let mut handles = Vec::new();
    for _ in 0..20 {
        handles.push(world.spawn(()).await);
    }
    for handle in handles {
        handle.result::<()>(PATIENCE).await.unwrap();
    }
    assert!((1..=3).contains(&most.load(SeqCst)), "{most:?}");
    let all_free = async {
        while worker.running() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, all_free).await.unwrap();
    worker.stop().await.unwrap();
}

async fn a_worker_drains_and_gives_back_the_rest_at_no_cost(world: World) {
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let code = move |_: Ctx, span_ms: u64| {
        begins.notify_one();
        async move {
            sleep(Duration::from_millis(span_ms)).await;
            Ok(())
        }
    };
    world.app.task("t", code).unwrap();
    let worker = world.app.worker().slots(2).drain(Duration::from_millis(500)).start().await.unwrap();
    let short = world.spawn(50).await;
    begun.notified().await;
    let long = world.spawn(3_600_000).await;
    begun.notified().await;
    worker.stop().await.unwrap();
    assert_eq!(short.status().await.unwrap(), "completed");
    reaches(&long, "queued").await;
    assert_eq!((long.info().await.unwrap().attempt, long.info().await.unwrap().lost), (1, 0));
}

async fn a_child_is_awaited_without_a_slot(world: World) {
    world
        .app
        .task("child", async |ctx: Ctx, n: u32| {
            ctx.sleep("z", MINUTE).await?;
            if n == 0 { Err(TaskError::fatal("zero")) } else { Ok(n * 2) }
        })
        .unwrap();
    world
        .app
        .task("t", async |ctx: Ctx, n: u32| {
            let child = ctx.spawn("child", &n).send().await?;
            match child.result::<u32>().await {
                Ok(doubled) => Ok(json!([doubled, child.id()])),
                Err(AppError::TaskFailed { failure, .. }) => Ok(json!(failure.message)),
                Err(other) => Err(other.into()),
            }
        })
        .unwrap();
    let worker = world.app.worker().slots(1).start().await.unwrap();
    let (good, bad) = (world.spawn(21).await, world.spawn(0).await);
    for handle in [&good, &bad] {
        waits_at(handle, "spawn:child/result").await;
    }
    let waits = good.info().await.unwrap().waiting;
    let child = world.app.handle(waits[0].name.clone().unwrap());
    reaches(&child, "waiting").await;
    assert_eq!(child.info().await.unwrap().parent.as_deref(), Some(good.id()));
    world.app.clock().advance(MINUTE).await.unwrap();
    // The other one may have begun its sleep only now.
    let finishing = async {
        loop {
            world.app.clock().advance(MINUTE).await.unwrap();
            if bad.status().await.unwrap() == "completed" {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(result(&good).await, json!([42, child.id()]));
    timeout(PATIENCE, finishing).await.unwrap();
    assert_eq!(result(&bad).await, json!("zero"));
    worker.stop().await.unwrap();
}

async fn branches_wait_together(world: World) {
    let bodies = Count::default();
    let counted = bodies.clone();
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let counted = counted.clone();
        async move {
            let branch = |name: &'static str| {
                let (ctx, counted) = (ctx.scope(name), counted.clone());
                async move {
                    let ctx = ctx?;
                    let value: usize = ctx.step("s", async || Ok(counted.up())).await?;
                    let event: u32 = ctx.event(name).await?;
                    Ok::<_, TaskError>((value, event))
                }
            };
            let (left, right) = tokio::try_join!(branch("left"), branch("right"))?;
            Ok([left.1, right.1])
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    reaches(&handle, "waiting").await;
    let mut keys: Vec<_> = handle.info().await.unwrap().waiting.into_iter().map(|wait| wait.key.unwrap()).collect();
    keys.sort();
    assert_eq!(keys, ["left/event:left", "right/event:right"], "both waits are told at once");
    world.app.emit("right", &2).await.unwrap();
    world.app.emit("left", &1).await.unwrap();
    assert_eq!(result(&handle).await, json!([1, 2]));
    assert_eq!(bodies.get(), 2);
    worker.stop().await.unwrap();
}

async fn a_map_keeps_the_order_of_its_items(world: World) {
    let bodies = Count::default();
    let counted = bodies.clone();
    let worker = world.worker(move |ctx: Ctx, items: Vec<u32>| {
        let counted = counted.clone();
        async move {
            let each = |ctx: Ctx, n: u32| {
                let counted = counted.clone();
                async move {
                    let count = async || {
                        counted.up();
                        Ok(n)
                    };
                    let first: u32 = ctx.step("s", count).await?;
                    ctx.sleep("z", MINUTE * n).await?;
                    Ok(ctx.step("s", async || Ok(first * 10)).await?)
                }
            };
            ctx.map("m", items, |n| *n, each).await
        }
    });
    let worker = worker.await;
    let handle = world.spawn([3, 1, 2]).await;
    for key in ["m/1/z", "m/2/z", "m/3/z"] {
        waits_at(&handle, key).await;
    }
    for next in ["m/2/z", "m/3/z", ""] {
        world.app.clock().advance(MINUTE).await.unwrap();
        let left = async {
            loop {
                let waiting = handle.info().await.unwrap().waiting;
                if waiting.first().and_then(|wait| wait.key.as_deref()).unwrap_or_default() == next {
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, left).await.unwrap_or_else(|_| panic!("{next} is not next"));
    }
    assert_eq!(result(&handle).await, json!([30, 10, 20]));
    assert_eq!(bodies.get(), 3);
    let twice = world.app.spawn("t", &[1, 1]).max_attempts(1).send().await.unwrap();
    assert!(matches!(twice.result::<Value>(PATIENCE).await, Err(AppError::TaskFailed { .. })));
    worker.stop().await.unwrap();
}

/// What has come already is more than the server answers with at once: the rest is asked for again.
async fn a_parent_gets_all_of_many_large_outputs(world: World) {
    let ended = Count::default();
    let counted = ended.clone();
    let child = move |_: Ctx, n: usize| {
        counted.up();
        async move { Ok("x".repeat(1_000_000 + n)) }
    };
    world.app.task("child", child).unwrap();
    let parent = |ctx: Ctx, items: Vec<usize>| async move {
        let each = |ctx: Ctx, n: usize| async move {
            let child = ctx.spawn("child", &n).send().await?;
            let _: u32 = ctx.event("go").await?;
            let output: String = child.result().await?;
            Ok(output.len() - 1_000_000)
        };
        ctx.map("m", items, |n| *n, each).await
    };
    let worker = world.worker(parent).await;
    let handle = world.spawn([1, 2, 3, 4, 5, 6, 7]).await;
    waits_at(&handle, "m/7/event:go").await;
    while ended.get() < 7 {
        sleep(Duration::from_millis(5)).await;
    }
    // Their ends are on the way.
    sleep(Duration::from_millis(200)).await;
    world.app.emit("go", &1).await.unwrap();
    assert_eq!(result(&handle).await, json!([1, 2, 3, 4, 5, 6, 7]));
    worker.stop().await.unwrap();
}

async fn hooks_carry_a_context_along(world: World) {
    tokio::task_local! {
        static TRACE: String;
    }
    world.app.before_spawn(|options| match options.get_header("trace") {
        Some(_) => options,
        None => {
            let trace = TRACE.try_with(String::clone).unwrap_or_else(|_| "none".to_owned());
            options.header("trace", trace)
        }
    });
    world.app.wrap_task(|ctx, run| {
        let trace = ctx.headers().get("trace").and_then(Value::as_str).unwrap_or_default().to_owned();
        TRACE.scope(trace, run)
    });
    world.app.task("child", async |_: Ctx, (): ()| Ok(TRACE.get())).unwrap();
    world
        .app
        .task("t", async |ctx: Ctx, (): ()| {
            let child = ctx.spawn("child", &()).send().await?;
            let seen: String = child.result().await?;
            Ok([TRACE.get(), seen])
        })
        .unwrap();
    let worker = world.app.worker().start().await.unwrap();
    let (one, two) = (
        TRACE.scope("one".to_owned(), world.spawn(())).await,
        world.app.spawn("t", &()).header("trace", "two").send().await.unwrap(),
    );
    assert_eq!(result(&one).await, json!(["one", "one"]));
    assert_eq!(result(&two).await, json!(["two", "two"]));
    worker.stop().await.unwrap();
}

/// A panic outside of the future's own code killed the worker's task without a word: the hand-out was held no more, and
/// the task stayed as running until its worker ended.
async fn a_panic_anywhere_is_a_failed_attempt(world: World) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("as it is dropped");
        }
    }
    world.app.wrap_task(|ctx, run| {
        assert!(ctx.task_name() != "hook", "in the hook");
        run
    });
    let code = |how: &'static str| {
        move |_: Ctx, (): ()| {
            assert!(how != "before", "before its future");
            let bomb = (how == "after").then(|| Bomb);
            // Its own drop, not the end of its code, ends the bomb.
            poll_fn(move |_| {
                let _ = &bomb;
                Poll::Ready(Ok::<_, TaskError>(()))
            })
        }
    };
    for name in ["before", "hook", "after", "well"] {
        world.app.task(name, code(name)).unwrap();
    }
    let worker = world.app.worker().slots(1).start().await.unwrap();
    let wanted = [("before", "before its future"), ("hook", "in the hook"), ("after", "as it is dropped")];
    for (name, message) in wanted {
        let handle = world.app.spawn(name, &()).retry(Retry::none()).max_attempts(2).send().await.unwrap();
        match handle.result::<()>(PATIENCE).await {
            Err(AppError::TaskFailed { failure, .. }) => {
                assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("panic", message));
            }
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(handle.info().await.unwrap().attempt, 2, "{name}");
    }
    world.app.spawn("well", &()).send().await.unwrap().result::<()>(PATIENCE).await.unwrap();
    worker.stop().await.unwrap();
}

/// The finish of a task with a huge failure was refused, and the refusal swallowed: the task stayed as running.
async fn a_failure_of_any_size_is_told(world: World) {
    let worker = world.worker(async |ctx: Ctx, in_step: bool| {
        let huge = async || {
            Err::<(), _>(TaskError::new("k".repeat(2 << 20), "é".repeat(2 << 20)).detail(&"d".repeat(2 << 20)))
        };
        if in_step { Ok(ctx.step("s", huge).max_attempts(1).await?) } else { huge().await }
    });
    let worker = worker.await;
    for in_step in [false, true] {
        let handle = world.app.spawn("t", &in_step).max_attempts(1).send().await.unwrap();
        match handle.result::<()>(PATIENCE).await {
            Err(AppError::TaskFailed { failure, .. }) => {
                assert!(failure.kind.starts_with("kkk") && failure.message.contains("ééé"));
            }
            other => panic!("{other:?}"),
        }
    }
    worker.stop().await.unwrap();
}

async fn what_does_not_fit_is_told(world: World) {
    let worker = world.worker(async |ctx: Ctx, n: usize| {
        let big = "x".repeat(n);
        let step: Result<String, _> = ctx.step("big", async || Ok(big.clone())).await;
        match step {
            Err(error) if error.kind() == Some(ErrorKind::TooLarge) => Ok("refused".to_owned()),
            Err(error) => Err(error.into()),
            Ok(value) => Ok(value),
        }
    });
    let worker = worker.await;
    assert_eq!(result(&world.spawn(2 << 20).await).await, json!("refused"));
    // An input that is no number fails the task, in words.
    let handle = world.app.spawn("t", "no number").max_attempts(1).send().await.unwrap();
    match handle.result::<Value>(PATIENCE).await {
        Err(AppError::TaskFailed { failure, .. }) => {
            assert!(failure.message.contains("the input of task \"t\""), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    // So does an output, or progress, that is too large.
    world.app.task("output", async |_: Ctx, (): ()| Ok("x".repeat(2 << 20))).unwrap();
    world
        .app
        .task("progress", async |ctx: Ctx, (): ()| {
            ctx.progress(&"x".repeat(60 << 10)).await?;
            Ok(ctx.progress(&"x".repeat(64 << 10)).await?)
        })
        .unwrap();
    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }
    world.app.task("deep output", async |_: Ctx, (): ()| Ok(nested(101))).unwrap();
    let fails = async |_: Ctx, (): ()| Err::<(), _>(TaskError::new("deep", "").detail(&nested(101)));
    world.app.task("deep detail", fails).unwrap();
    let other = world.app.worker().start().await.unwrap();
    let too_large = [
        ("output", "the output of task \"output\" has 2097154 bytes as JSON; the limit is 1048576"),
        ("progress", "progress has 65538 bytes as JSON; the limit is 65536"),
    ];
    for (name, message) in too_large {
        let handle = world.app.spawn(name, &()).max_attempts(1).send().await.unwrap();
        match handle.result::<Value>(PATIENCE).await {
            Err(AppError::TaskFailed { failure, .. }) => {
                assert_eq!((failure.kind.as_str(), failure.message), ("too_large", format!("{message} (too_large)")));
            }
            other => panic!("{other:?}"),
        }
    }
    let input = world.app.spawn("t", &"x".repeat(2 << 20)).send().await;
    assert_eq!(input.unwrap_err().kind(), Some(ErrorKind::TooLarge));
    // What is nested too deep neither; of a failure it is left out.
    for (name, kind) in [("deep output", "invalid"), ("deep detail", "deep")] {
        let handle = world.app.spawn(name, &()).max_attempts(1).send().await.unwrap();
        match handle.result::<Value>(PATIENCE).await {
            Err(AppError::TaskFailed { failure, .. }) => {
                assert_eq!((failure.kind.as_str(), failure.detail.is_none()), (kind, true));
            }
            other => panic!("{other:?}"),
        }
    }
    other.stop().await.unwrap();
    let unknown = world.app.spawn("t", &1).queue("no such").send().await;
    assert_eq!(unknown.unwrap_err().kind(), Some(ErrorKind::NotFound));
    worker.stop().await.unwrap();
}

async fn a_task_knows_the_version_of_its_code(world: World) {
    let version = async |ctx: Ctx, (): ()| Ok(ctx.version().map(str::to_owned));
    world.app.task("none", version).unwrap();
    world.app.task_with("two", Options::new().version("2"), version).unwrap();
    let worker = world.app.worker().start().await.unwrap();
    for (name, version) in [("none", None), ("two", Some("2"))] {
        let handle = world.app.spawn(name, &()).send().await.unwrap();
        assert_eq!(result(&handle).await, json!(version), "as the task sees it");
        assert_eq!(handle.info().await.unwrap().version.as_deref(), version, "as it is shown");
    }
    worker.stop().await.unwrap();
    world.app.task_with("long", Options::new().version("x".repeat(129)), version).unwrap();
    assert_eq!(world.app.worker().start().await.unwrap_err().kind(), Some(ErrorKind::Invalid));
}

async fn a_running_task_shows_where_it_is(world: World) {
    let (shown, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let in_task = (shown.clone(), go_on.clone());
    let code = move |ctx: Ctx, (): ()| {
        let (shown, go_on) = in_task.clone();
        async move {
            let inner = ctx.clone();
            ctx.step("charge", async || {
                inner.progress(&json!({"percent": 40})).await?;
                shown.notify_one();
                go_on.notified().await;
                Ok(())
            })
            .await?;
            Ok(())
        }
    };
    let worker = world.worker(code).await;
    let handle = world.spawn(()).await;
    shown.notified().await;
    let live = async {
        loop {
            match handle.info().await.unwrap().live {
                Some(live) if live.progress.is_some() && live.step.is_some() => return live,
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let live = timeout(PATIENCE, live).await.expect("it is shown");
    assert_eq!((live.step.as_deref(), live.progress.unwrap().get()), (Some("charge"), r#"{"percent":40}"#));
    assert!(live.worker.starts_with("worker-") && live.beat_ms_ago.is_some(), "{}", live.worker);
    go_on.notify_one();
    assert_eq!(result(&handle).await, Value::Null);
    assert!(handle.info().await.unwrap().live.is_none());
    worker.stop().await.unwrap();
}

macro_rules! in_both_worlds {
    ($($scenario:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                super::$scenario(super::World::embedded().await).await;
            })*
        }
        mod remote {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                super::$scenario(super::World::remote().await).await;
            })*
        }
    };
}

in_both_worlds! {
    a_task_runs_and_its_result_is_kept
    the_lifecycle_shows
    an_idempotency_key_makes_one_task
    a_failed_attempt_is_tried_again_when_the_policy_says
    a_spawn_overrides_what_the_registration_says
    what_cannot_be_helped_is_not_tried_again
    a_finished_step_is_not_run_again
    a_step_in_two_halves_is_a_step
    a_step_that_may_rerun_goes_with_the_next_call
    many_steps_that_may_rerun_are_all_recorded
    a_step_with_a_policy_tries_again_by_itself
    a_long_pause_between_attempts_of_a_step_suspends
    a_step_that_failed_for_good_is_tried_anew_by_the_next_attempt
    a_step_that_takes_too_long_has_failed
    names_are_ids
    calls_that_would_depend_on_chance_are_refused
    a_sleep_ends_at_its_time_and_is_not_slept_again
    who_sleeps_holds_no_slot
    an_event_reaches_who_waits_and_who_will
    a_timeout_is_recorded
    a_task_emits_once
    a_cancelled_task_stops
    a_task_has_its_time
    a_context_that_got_out_errs_for_ever
    a_failed_task_can_be_retried
    slots_bound_what_runs_at_a_time
    a_worker_drains_and_gives_back_the_rest_at_no_cost
    a_child_is_awaited_without_a_slot
    branches_wait_together
    a_map_keeps_the_order_of_its_items
    a_parent_gets_all_of_many_large_outputs
    hooks_carry_a_context_along
    a_panic_anywhere_is_a_failed_attempt
    a_failure_of_any_size_is_told
    what_does_not_fit_is_told
    a_running_task_shows_where_it_is
    a_task_knows_the_version_of_its_code
    the_quickstart_runs
}

/// The process ends while a task sleeps; the next one finds it, and what it had done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_outlives_its_process() {
    async fn code(ctx: Ctx, (): ()) -> Result<String, TaskError> {
        let done = ctx.step("s", async || Ok("before".to_owned())).await?;
        ctx.sleep("z", Duration::from_millis(300)).await?;
        Ok(done)
    }
    let world = World::embedded().await;
    let worker = world.worker(code).await;
    let id = {
        let handle = world.spawn(()).await;
        reaches(&handle, "waiting").await;
        handle.id().to_owned()
    };
    worker.stop().await.unwrap();
    let World { app, directory, .. } = world;
    app.close().await.unwrap();

    let app = App::open(directory.path()).await.unwrap();
    app.task("t", code).unwrap();
    let worker = app.worker().start().await.unwrap();
    assert_eq!(result(&app.handle(id)).await, json!("before"));
    assert_eq!(app.clock().advance(DAY).await.unwrap_err().kind(), Some(ErrorKind::NotFound), "no test clock");
    worker.stop().await.unwrap();
    app.close().await.unwrap();
}

/// The server restarts while a step runs: the worker says hello with what it holds, and the step is recorded by the
/// next server, in the same attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_after_a_restart_of_its_server() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let state = (begun.clone(), go_on.clone());
    let mut world = World::remote().await;
    let worker = world.worker(move |ctx: Ctx, (): ()| {
        let (begun, go_on) = state.clone();
        async move {
            let step = async || {
                begun.notify_one();
                go_on.notified().await;
                Ok("done".to_owned())
            };
            let done = ctx.step("s", step).await?;
            Ok((done, ctx.attempt()))
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    begun.notified().await;
    let address = world.server.take().unwrap().stop().await;
    let server = Running::start(&address, &world.directory).await;
    go_on.notify_one();
    assert_eq!(result(&handle).await, json!(["done", 1]));
    assert_eq!(handle.info().await.unwrap().lost, 0);
    worker.stop().await.unwrap();
    server.stop().await;
}

/// A task that blocks the only thread of its runtime for longer than a lease. The heartbeat has a thread of its own.
#[allow(clippy::disallowed_methods, reason = "a test of user code that blocks its thread")]
#[tokio::test]
async fn blocking_code_does_not_lose_its_task() {
    let world = World::embedded().await;
    let runs = Count::default();
    let counted = runs.clone();
    let worker = world.worker(move |_: Ctx, (): ()| {
        let run = counted.up();
        async move {
            if run == 1 {
                std::thread::sleep(cairn_durable::worker::LEASE + Duration::from_secs(4));
            }
            Ok(run)
        }
    });
    let worker = worker.await;
    let handle = world.spawn(()).await;
    assert_eq!(result(&handle).await, json!(1));
    assert_eq!((handle.info().await.unwrap().lost, runs.get()), (0, 1));
    worker.stop().await.unwrap();
}

#[allow(dead_code, reason = "its main belongs to who runs it as an example")]
#[path = "../examples/quickstart.rs"]
mod quickstart;

async fn the_quickstart_runs(world: World) {
    let receipt = quickstart::order(&world.app).await.unwrap();
    assert!(receipt.starts_with("paid 30 (repeats of ") && receipt.ends_with("sent to Stockholm"), "{receipt}");
}

/// Tasks beside a program's own data, in one database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_share_a_database() {
    let directory = TempDir::new();
    let db = Db::open(directory.path(), cairn::Options::default()).unwrap();
    db.put(b"mine", b"1").unwrap();
    let app = App::on(&db).await.unwrap();
    app.task("t", async |_: Ctx, n: u32| Ok(n)).unwrap();
    let worker = app.worker().start().await.unwrap();
    assert_eq!(result(&app.spawn("t", &7).send().await.unwrap()).await, json!(7));
    // With writes of the program's own in one batch, or neither.
    let mut batch = db.batch();
    batch.put(&db.default_keyspace(), b"paid", b"9");
    let handles = app.spawn_with(batch, [app.spawn("t", &8), app.spawn("t", &9)]).await.unwrap();
    assert_eq!((result(&handles[0]).await, result(&handles[1]).await), (json!(8), json!(9)));
    let mut batch = db.batch();
    batch.put(&db.default_keyspace(), b"refused", b"1");
    batch.require_absent(&db.default_keyspace(), b"paid");
    let refused = app.spawn_with(batch, [app.spawn("t", &10).id(handles[0].id())]).await.unwrap_err();
    assert_eq!(refused.kind(), Some(ErrorKind::Conflict));
    let mut batch = db.batch();
    batch.delete(&db.default_keyspace(), b"paid");
    let refused = app.spawn_with(batch, [app.spawn("t", &10).queue("none")]).await.unwrap_err();
    assert_eq!(refused.kind(), Some(ErrorKind::NotFound));
    assert_eq!(db.get(b"paid").unwrap().as_deref(), Some(&b"9"[..]));
    db.delete(b"paid").unwrap();
    worker.stop().await.unwrap();
    app.close().await.unwrap();
    assert_eq!(db.iter().map(|entry| entry.unwrap().0).collect::<Vec<_>>(), [b"mine"]);
    db.close().unwrap();
}

/// A task waits for the disk once for its spawn, each of its steps and its end; an end that takes the last step along
/// spares one.
#[tokio::test]
async fn what_a_task_waits_for() {
    const TASKS: u64 = 20;
    let directory = TempDir::new();
    let db = Db::open(directory.path(), cairn::Options::default()).unwrap();
    let app = App::on(&db).await.unwrap();
    let code = async |ctx: Ctx, may_rerun: bool| {
        ctx.step("a", async || Ok(1)).await?;
        ctx.step("b", async || Ok(2)).await?;
        let last = ctx.step("c", async || Ok(3));
        Ok(if may_rerun { last.may_rerun().await? } else { last.await? })
    };
    app.task("t", code).unwrap();
    let worker = app.worker().start().await.unwrap();
    for (may_rerun, waits) in [(false, 5), (true, 4)] {
        let before = db.stats().get("log_syncs_count").unwrap();
        for _ in 0..TASKS {
            assert_eq!(result(&app.spawn("t", &may_rerun).send().await.unwrap()).await, json!(3));
        }
        let syncs = db.stats().get("log_syncs_count").unwrap() - before;
        // What the engine syncs of its own accord is counted, too.
        assert!(syncs <= waits * TASKS + 2, "{syncs} syncs of {TASKS} tasks that wait {waits} times");
    }
    worker.stop().await.unwrap();
    app.close().await.unwrap();
    db.close().unwrap();
}

/// Who gives up while a worker starts leaves none behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_given_up_leaves_no_worker() {
    let world = World::remote().await;
    let url = format!("http://{}", world.server.as_ref().unwrap().address);
    let client = cairn_client::Client::new(&url, None).unwrap();
    world.app.task("t", async |_: Ctx, (): ()| Ok(())).unwrap();
    let given_up = timeout(Duration::ZERO, world.app.worker().start()).await;
    assert!(given_up.is_err(), "it cannot have started yet");
    // It had the time to say hello, if it still would.
    sleep(Duration::from_millis(500)).await;
    let gone = async {
        while !client.workers().await.unwrap().is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("it says goodbye");
}

/// A server that is not there is told apart from one that refuses.
#[tokio::test]
async fn nobody_there() {
    let app = App::connect("http://127.0.0.1:9", None).unwrap();
    assert!(matches!(app.handle("x").status().await, Err(AppError::Unreachable { .. })));
    let started = timeout(PATIENCE, app.worker().start()).await.expect("a worker does not wait for ever to begin");
    assert!(matches!(started, Err(AppError::Unreachable { message }) if message.contains("127.0.0.1:9")));
    assert_eq!(App::connect("localhost", None).unwrap_err().kind(), Some(ErrorKind::Invalid));
}
