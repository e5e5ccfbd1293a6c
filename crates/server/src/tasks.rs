//! The routes of tasks: methods, headers and bodies; what they mean is [`cairn_service`]'s.
//!
//! Every call that touches the store runs on a blocking thread; waiting for the disk, for work and for ends is
//! done on the runtime. A call that waits is answered early when the server stops.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::tasks as wire;
use cairn_api::{ErrorKind, Route};
use cairn_service::{Refused, not_built};
use hyper::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::time::sleep;

use crate::body::Upload;
use crate::dispatch::App;
use crate::reply::{Refusal, Reply};

/// A body has at most so many bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A field that is named in an error has at most so many bytes: the names in it are the client's.
const FIELD_BYTES_MAX: usize = 512;

/// Answers a request about tasks.
pub(crate) async fn route(
    app: &Arc<App>,
    method: &Method,
    headers: &HeaderMap,
    route: Route,
    upload: &mut Upload,
) -> Result<Reply, Refusal> {
    if let Some(version) = headers.get(wire::PROTOCOL_HEADER)
        && version != wire::PROTOCOL
    {
        let text = format!("this server speaks protocol {}, not {version:?}", wire::PROTOCOL);
        return Err(Refusal::new(ErrorKind::UnsupportedProtocol, text));
    }
    let tasks = &app.tasks;
    let (gets, puts, posts) = (*method == Method::GET, *method == Method::PUT, *method == Method::POST);
    match route {
        Route::Tasks(_) if posts => json(tasks.spawn(body(app, upload).await?).await),
        Route::Tasks(listing) if gets => json(tasks.list(listing).await),
        Route::Tasks(_) => Err(Refusal::method("GET, POST")),
        Route::Task(id) if gets => json(tasks.task(&id).await),
        Route::Result(id, wait_ms) if gets => json(tasks.result(&id, patience(app, wait_ms)).await),
        Route::Steps(id, paging) if gets => json(tasks.steps(&id, paging).await),
        Route::Runs(id, paging) if gets => json(tasks.runs(&id, paging).await),
        Route::Queues if gets => json(tasks.queues().await),
        Route::Queue(name) if gets => json(tasks.queue(&name).await),
        Route::Queue(name) if puts => json(tasks.set_queue(&name, body(app, upload).await?).await),
        Route::Queue(name) if *method == Method::DELETE => json(tasks.delete_queue(&name).await),
        Route::Queue(_) => Err(Refusal::method("GET, PUT, DELETE")),
        Route::Events(queue, listing) if gets => json(tasks.events(&queue, listing).await),
        Route::Events(queue, _) if posts => json(tasks.emit(&queue, body(app, upload).await?).await),
        Route::Events(..) => Err(Refusal::method("GET, POST")),
        Route::Event(queue, name) if gets => json(tasks.event(&queue, &name).await),
        Route::Workers if gets => json(tasks.workers().await),
        Route::Task(_)
        | Route::Result(..)
        | Route::Steps(..)
        | Route::Runs(..)
        | Route::Queues
        | Route::Event(..)
        | Route::Workers => Err(Refusal::method("GET")),
        Route::NotBuilt(what) => Err(not_built(what).into()),
        Route::Cancel(_)
        | Route::Retry(_)
        | Route::Pause(_)
        | Route::Resume(_)
        | Route::Hello
        | Route::Poll
        | Route::Beat
        | Route::Ops
        | Route::Bye
        | Route::Clock
            if !posts =>
        {
            Err(Refusal::method("POST"))
        }
        Route::Cancel(id) => json(tasks.cancel(&id, body(app, upload).await?).await),
        Route::Retry(id) => json(tasks.retry(&id, body(app, upload).await?).await),
        Route::Pause(name) => json(tasks.pause(&name, true).await),
        Route::Resume(name) => json(tasks.pause(&name, false).await),
        Route::Hello => json(tasks.hello(body(app, upload).await?).await),
        Route::Poll => {
            let request: wire::Poll = body(app, upload).await?;
            let until = patience(app, request.wait_ms);
            json(tasks.poll(request, until).await)
        }
        Route::Beat => json(tasks.beat(body(app, upload).await?).await),
        Route::Ops => json(tasks.ops(body(app, upload).await?).await),
        Route::Bye => {
            tasks.bye(body(app, upload).await?).await?;
            json(Ok(serde_json::json!({})))
        }
        Route::Clock => json(tasks.clock(body(app, upload).await?).await),
    }
}

fn json(answer: Result<impl serde::Serialize, Refused>) -> Result<Reply, Refusal> {
    Reply::json(&answer?)
}

/// A body of JSON; one that is empty is an empty object.
async fn body<T: DeserializeOwned>(app: &App, upload: &mut Upload) -> Result<T, Refusal> {
    let body = upload.read(BODY_BYTES_MAX.min(app.limits.body_bytes_max), &app.budget).await?;
    let bytes: &[u8] = if body.bytes.is_empty() { b"{}" } else { &body.bytes };
    serde_json::from_slice(bytes).map_err(|e| {
        let field = field_of::<T>(bytes, &e);
        Refusal::new(ErrorKind::Invalid, format!("the body cannot be read: {e}")).with_field(field)
    })
}

/// The field where a body that is JSON does not read as what it should be. Looked for only then, in a second reading.
fn field_of<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> Option<String> {
    if error.classify() != Category::Data {
        return None;
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let error = serde_path_to_error::deserialize::<_, T>(&mut json).err()?;
    let path = error.path().to_string();
    let path = Some(path).filter(|path| path != ".");
    // One that is missing stands in no path.
    let words = error.inner().to_string();
    let missing = words.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let field = match (path, missing) {
        (Some(path), Some(missing)) => Some(format!("{path}.{missing}")),
        (path, missing) => path.or_else(|| missing.map(str::to_owned)),
    };
    field.filter(|field| field.len() <= FIELD_BYTES_MAX)
}

/// How long a call may wait: as long as it says, but not beyond the bound of the protocol nor the server's end.
async fn patience(app: &App, wait_ms: u64) {
    let mut stopping = app.stopping.clone();
    tokio::select! {
        () = sleep(Duration::from_millis(wait_ms.min(wire::WAIT_MS_MAX))) => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}
