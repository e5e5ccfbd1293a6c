//! Workers are heard whatever else the server is busy with.
#![allow(clippy::unwrap_used, reason = "a test: what is not as expected shows where")]

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use cairn::{Db, Env, Options};
use cairn_api::tasks as wire;
use cairn_durable::Tasks;
use cairn_service::{Place, Refused, Service};

/// Where a call runs at once, or waits for ever, as behind others that take long.
enum Where {
    Free,
    Busy,
}

impl Place for Where {
    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        match self {
            Where::Free => Ok(job()),
            Where::Busy => pending().await,
        }
    }
}

/// Beats waited behind lists and scans; after half a minute of that, workers that were well had lost their tasks.
#[tokio::test]
async fn a_worker_is_heard_beside_calls_that_take_long() {
    let env = Env::memory();
    let db = Db::open_in(&env, "db", Options::default()).unwrap();
    let tasks = Tasks::open(&env, db.clone()).unwrap();
    let service = Service::new(tasks.clone(), Where::Busy, Where::Free, false);
    {
        let mut queues = pin!(service.queues());
        let waits = poll_fn(|context| Poll::Ready(queues.as_mut().poll(context).is_pending())).await;
        assert!(waits, "the other calls do not get their turn");
        let (name, sdk) = ("w".to_owned(), "test".to_owned());
        let (tasks, queues, live) = (Vec::new(), vec!["default".to_owned()], Vec::new());
        let hello = wire::Hello { name, sdk, tasks, queues, slots: 1, live };
        let session = service.hello(hello).await.unwrap().session;
        service.beat(wire::Beat { session: session.clone(), live: Vec::new() }).await.unwrap();
        service.bye(wire::Bye { session }).await.unwrap();
    }
    tasks.close();
    db.close().unwrap();
}
