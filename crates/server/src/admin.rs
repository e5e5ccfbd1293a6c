//! What operators ask: health, statistics, metrics; and maintenance on request.

use std::sync::Arc;

use cairn_api::{ErrorKind, Health, Level, Maintained, Stats};
use cairn_service::Place;
use hyper::StatusCode;
use tokio::time::Instant;

use crate::dispatch::App;
use crate::metrics::{self, Server};
use crate::reply::{Content, Refusal, Reply};

/// What the engine says of a database that takes reads and writes.
const HEALTHY: &str = "open";

pub(crate) async fn health(app: &Arc<App>) -> Result<Reply, Refusal> {
    let health = engine_stats(app).await?.health().to_owned();
    if health == HEALTHY {
        Reply::json(&Health { status: "ok".to_owned() })
    } else {
        Ok(Reply::json(&Health { status: health })?.with_status(StatusCode::SERVICE_UNAVAILABLE))
    }
}

pub(crate) async fn stats(app: &Arc<App>) -> Result<Reply, Refusal> {
    let engine = engine_stats(app).await?;
    let levels = engine.levels().iter().map(|level| Level {
        keyspace: level.keyspace.clone(),
        level: count(level.level),
        tables: level.tables,
        bytes: level.bytes,
        entries: level.entries,
    });
    Reply::json(&Stats {
        health: engine.health().to_owned(),
        stall_reason: engine.stall_reason().map(str::to_owned),
        last_background_error: engine.last_background_error().map(str::to_owned),
        engine: engine.metrics().iter().map(|metric| (metric.name.to_owned(), metric.value)).collect(),
        server: server_metrics(app).into_iter().map(|metric| (metric.name.to_owned(), metric.value)).collect(),
        levels: levels.collect(),
    })
}

pub(crate) async fn prometheus(app: &Arc<App>) -> Result<Reply, Refusal> {
    let engine = engine_stats(app).await?;
    let mut text = String::new();
    metrics::write_engine(&mut text, &engine);
    metrics::write_server(&mut text, &server_metrics(app));
    app.metrics.write_requests(&mut text);
    Ok(Reply::new(metrics::PROMETHEUS, Content::Whole(text.into())))
}

/// Compacts everything, one at a time.
pub(crate) async fn compact(app: &Arc<App>) -> Result<Reply, Refusal> {
    maintain(app, cairn::Db::compact).await
}

/// Writes the memtables to tables.
pub(crate) async fn flush(app: &Arc<App>) -> Result<Reply, Refusal> {
    maintain(app, cairn::Db::flush).await
}

async fn maintain(app: &Arc<App>, work: fn(&cairn::Db) -> cairn::Result<()>) -> Result<Reply, Refusal> {
    let permit = app.maintenance.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::new(ErrorKind::Busy, "a compaction or flush is already under way"))?;
    let started = Instant::now();
    let db = app.db.clone();
    let job = move || {
        let result = work(&db);
        drop(permit);
        result
    };
    app.blocking.run(job).await??;
    Reply::json(&Maintained { elapsed_ms: count(started.elapsed().as_millis()) })
}

async fn engine_stats(app: &Arc<App>) -> Result<cairn::Stats, Refusal> {
    let db = app.db.clone();
    Ok(app.blocking.run(move || db.stats()).await?)
}

fn server_metrics(app: &App) -> Vec<Server> {
    let mut list = app.metrics.list();
    list.push(Server::gauge(
        "server_in_flight_bytes",
        "Bytes of request bodies and large values in memory.",
        count(app.budget.used()),
    ));
    let scans = app.limits.scans_max.saturating_sub(app.scans.available_permits());
    list.push(Server::gauge("server_scans_open_count", "Scans under way.", count(scans)));
    list
}

fn count(n: impl TryInto<u64>) -> u64 {
    n.try_into().unwrap_or(u64::MAX)
}
