//! From a request to whoever answers it: token, target, method.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cairn::{Db, Durability, Keyspace, Reader, Visibility};
use cairn_api::{Target, V1};
use cairn_service::Service;
use hyper::body::Incoming;
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use tokio::sync::{Semaphore, watch};

use crate::blocking::Blocking;
use crate::body::{Budget, Upload};
use crate::config::Limits;
use crate::connection::InFlight;
use crate::gather::Gather;
use crate::metrics::Metrics;
use crate::reply::{Refusal, Reply, ReplyBody};
use crate::{admin, auth, batch, keys, scan, tasks};

/// What all requests share.
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) keyspace: Keyspace,
    pub(crate) durability: Durability,
    pub(crate) visibility: Visibility,
    /// Of the default keyspace, what `visibility` allows.
    pub(crate) reader: Reader,
    pub(crate) token: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) blocking: Blocking,
    pub(crate) budget: Budget,
    pub(crate) gather: Gather,
    pub(crate) scans: Arc<Semaphore>,
    /// One compaction or flush on request at a time.
    pub(crate) maintenance: Arc<Semaphore>,
    /// A sync for buffered batches is about to begin.
    pub(crate) syncs_soon: AtomicBool,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Service<Db, Blocking>,
    /// The server stops: nobody waits any longer.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Answers a request, whatever it is.
pub(crate) async fn answer(app: &Arc<App>, request: Request<Incoming>, in_flight: InFlight) -> Response<ReplyBody> {
    let (Parts { method, uri, headers, .. }, body) = request.into_parts();
    let mut upload = Upload::new(body, headers.contains_key(EXPECT), app.limits.body_timeout);
    let target = Target::parse(uri.path(), uri.query());
    // Load balancers ask for health without being told the token.
    let is_open = target == Ok(Target::V1(V1::Healthz));
    let allowed = if is_open { Ok(()) } else { auth::check(&headers, app.token.as_deref()) };
    let result = match allowed {
        Ok(()) => match target {
            Ok(target) => route(app, &method, target, &headers, &mut upload).await,
            Err(error) => Err(error.into()),
        },
        Err(refusal) => Err(refusal),
    };
    upload.discard().await;
    app.metrics.answered(&method, result.as_ref().err().map(Refusal::kind));
    result.unwrap_or_else(Refusal::into_reply).into_response(in_flight)
}

async fn route(
    app: &Arc<App>,
    method: &Method,
    target: Target,
    headers: &hyper::HeaderMap,
    upload: &mut Upload,
) -> Result<Reply, Refusal> {
    let (reads, posts) = (matches!(*method, Method::GET | Method::HEAD), *method == Method::POST);
    match target {
        Target::Key(key) if reads => keys::get(app, key).await,
        Target::Key(key) if *method == Method::PUT => keys::put(app, key, upload).await,
        Target::Key(key) if *method == Method::DELETE => keys::delete(app, &key).await,
        Target::Key(_) => Err(Refusal::method("GET, HEAD, PUT, DELETE")),
        Target::Tasks(route) => tasks::route(app, method, headers, route, upload).await,
        Target::Scan(query) if reads => scan::scan(app, query, headers).await,
        Target::V1(V1::Healthz) if reads => admin::health(app).await,
        Target::V1(V1::Stats) if reads => admin::stats(app).await,
        Target::V1(V1::Metrics) if reads => admin::prometheus(app).await,
        Target::Scan(_) | Target::V1(V1::Healthz | V1::Stats | V1::Metrics) => Err(Refusal::method("GET, HEAD")),
        Target::V1(V1::Batch) if posts => batch::apply(app, upload).await,
        Target::V1(V1::Compact) if posts => admin::compact(app).await,
        Target::V1(V1::Flush) if posts => admin::flush(app).await,
        Target::V1(V1::Batch | V1::Compact | V1::Flush) => Err(Refusal::method("POST")),
    }
}
