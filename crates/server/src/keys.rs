//! One key: `GET`, `HEAD`, `PUT`, `DELETE`.

use std::sync::Arc;

use cairn::{Batch, Resident, Ticket};
use cairn_api::ErrorKind;
use cairn_service::Place;
use hyper::body::Bytes;

use crate::body::{Held, Upload};
use crate::dispatch::App;
use crate::reply::{Refusal, Reply};

/// Values up to this are copied out; larger ones are sent from where they are and count against the
/// budget. A copy of this size costs less than keeping a block of the cache for a slow reader.
const COPY_BYTES_MAX: usize = 16 << 10;

/// Batches up to this are submitted on the runtime: encoding and checksumming them takes less than
/// handing them to another thread.
const SUBMIT_BYTES_MAX: usize = 256 << 10;

pub(crate) async fn get(app: &App, key: Vec<u8>) -> Result<Reply, Refusal> {
    let seq = app.reader.seq();
    let found = match app.reader.get_resident(&key)? {
        Resident::Found(value) => Some(value),
        Resident::Absent => None,
        Resident::NotResident => {
            let reader = app.reader.clone();
            app.blocking.run(move || reader.get_pinned(&key)).await??
        }
    };
    let Some(value) = found else {
        return Err(Refusal::new(ErrorKind::NotFound, "no such key").with_seq(seq));
    };
    let value = if value.len() <= COPY_BYTES_MAX {
        Bytes::copy_from_slice(&value)
    } else {
        let reservation = app.budget.reserve(value.len())?;
        Held::new(value, reservation).into_bytes()
    };
    Ok(Reply::value(value).with_seq(seq))
}

pub(crate) async fn put(app: &Arc<App>, key: Vec<u8>, upload: &mut Upload) -> Result<Reply, Refusal> {
    let putting = app.gather.enter();
    let value = upload.read(app.limits.body_bytes_max, &app.budget).await?;
    if putting.is_gathered(&key, &value.bytes) {
        let seq = app.put_gathered(&key, &value.bytes).await?;
        return Ok(Reply::value(value.into_bytes()).with_seq(seq));
    }
    let is_small = value.bytes.len() <= SUBMIT_BYTES_MAX;
    let submit = {
        let app = app.clone();
        move || {
            let mut batch = app.db.batch();
            batch.put(&app.keyspace, &key, &value.bytes);
            app.submit(batch).map(|ticket| (ticket, value))
        }
    };
    let (ticket, value) = if is_small { submit()? } else { app.blocking.run(submit).await?? };
    let commit = ticket.await?;
    Ok(Reply::value(value.into_bytes()).with_seq(commit.seq))
}

pub(crate) async fn delete(app: &App, key: &[u8]) -> Result<Reply, Refusal> {
    let mut batch = app.db.batch();
    batch.delete(&app.keyspace, key);
    let commit = app.submit(batch)?.await?;
    Ok(Reply::value(Bytes::new()).with_seq(commit.seq))
}

impl App {
    pub(crate) fn submit(&self, batch: Batch) -> Result<Ticket, cairn::Error> {
        let early = cairn::mutant("server-answers-before-durable");
        self.db.submit(batch, if early { cairn::Durability::Buffered } else { self.durability })
    }
}
