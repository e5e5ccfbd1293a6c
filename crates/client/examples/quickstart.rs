//! Durable tasks in one file: the database, the worker and the caller in this process.
//!
//! `cargo run -p cairn-client --example quickstart [DIRECTORY | http://HOST:PORT]`

use std::process::ExitCode;
use std::time::Duration;

use cairn_client::{App, AppError, Ctx, Retry, TaskError};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    amount: u32,
}

async fn fulfil(ctx: Ctx, order: Order) -> Result<String, TaskError> {
    let key = ctx.key("charge")?;
    let charge = || async { Ok(format!("paid {} (repeats of {key} are dropped)", order.amount)) };
    let payment: String = ctx.step("charge", charge).retry(Retry::default()).timeout(Duration::from_secs(30)).await?;
    ctx.sleep("let them change their mind", Duration::from_secs(1)).await?;
    let address: String = ctx.event(&format!("packed:{}", order.id)).timeout(Duration::from_secs(86_400)).await?;
    Ok(format!("{payment}, sent to {address}"))
}

/// A worker and a caller in one program.
pub(crate) async fn order(app: &App) -> Result<String, AppError> {
    app.task("fulfil in rust", fulfil)?;
    let worker = app.worker().slots(50).start().await?;

    // The same key again, as when this program is run twice: the same task, and the result that it has.
    let order = app.spawn("fulfil in rust", &Order { id: 8, amount: 30 }).idempotency_key("order:8");
    let handle = order.send().await?;
    app.emit("packed:8", "Stockholm").await?;
    let receipt: String = handle.result(Duration::from_secs(60)).await?;

    worker.stop().await?;
    Ok(receipt)
}

async fn run() -> Result<(), AppError> {
    let place = std::env::args().nth(1).unwrap_or_else(|| "./cairn-data".to_owned());
    let app = if place.starts_with("http") { App::connect(&place, None)? } else { App::open(place).await? };
    println!("{}", order(&app).await?);
    app.close().await
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
