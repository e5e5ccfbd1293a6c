//! `POST /v1/batch`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn::{Durability, Keyspace, SeqNo, Ticket};
use cairn_api::{BatchRequest, BatchResponse, Condition, ErrorKind, Op, WriteDurability};
use cairn_service::Place;

use crate::body::Upload;
use crate::config::BATCH_COPIES;
use crate::dispatch::App;
use crate::reply::{Refusal, Reply};

pub(crate) async fn apply(app: &Arc<App>, upload: &mut Upload) -> Result<Reply, Refusal> {
    let mut body = upload.read(app.limits.body_bytes_max, &app.budget).await?;
    body.grow(body.bytes.len() * (BATCH_COPIES - 1))?;
    let submit = {
        let app = app.clone();
        move || {
            let request: BatchRequest = serde_json::from_slice(&body.bytes)
                .map_err(|e| Refusal::new(ErrorKind::Invalid, format!("the batch cannot be read: {e}")))?;
            submit(&app, request).map(|ticket| (ticket, body))
        }
    };
    // Off the runtime: parsing takes time, a new keyspace a sync, an absent key perhaps a file.
    let ((ticket, durability), _body) = app.blocking.run(submit).await??;
    let seq = ticket.await?.seq;
    if durability == Durability::Buffered {
        app.sync_soon();
    }
    Ok(Reply::json(&BatchResponse { seq: seq.0 })?.with_seq(seq))
}

fn submit(app: &App, request: BatchRequest) -> Result<(Ticket, Durability), Refusal> {
    let mut keyspaces = Keyspaces { app, named: BTreeMap::new() };
    let mut batch = app.db.batch();
    for op in request.ops {
        match op {
            Op::Put { keyspace, key, value } => batch.put(&keyspaces.get(keyspace)?, &key, &value),
            Op::Delete { keyspace, key } => batch.delete(&keyspaces.get(keyspace)?, &key),
        }
    }
    for condition in request.conditions {
        match condition {
            Condition::Absent { keyspace, key } => batch.require_absent(&keyspaces.get(keyspace)?, &key),
            Condition::Unchanged { keyspace, key, since } => {
                batch.require_unchanged(&keyspaces.get(keyspace)?, &key, SeqNo(since));
            }
            Condition::RangeUnchanged { keyspace, start, end, since } => {
                batch.require_range_unchanged(&keyspaces.get(keyspace)?, &start, end.as_deref(), SeqNo(since));
            }
        }
    }
    let durability = match request.durability {
        None => app.durability,
        Some(WriteDurability::Commit) => Durability::Commit,
        Some(WriteDurability::Buffered) => Durability::Buffered,
    };
    Ok((app.db.submit(batch, durability)?, durability))
}

/// How long a buffered batch may wait for a sync that covers it, and others with it.
const SYNC_DELAY: Duration = Duration::from_millis(20);

impl App {
    /// Where reads show only what is synced, a buffered batch is to be seen without waiting for
    /// somebody else's write: one sync, a moment later, covers all that came until then.
    fn sync_soon(self: &Arc<Self>) {
        if self.durability != Durability::Commit || self.syncs_soon.swap(true, Ordering::AcqRel) {
            return;
        }
        let app = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SYNC_DELAY).await;
            app.syncs_soon.store(false, Ordering::Release);
            let syncing = app.clone();
            // Whatever fails here has closed the database to writes and is shown by its health.
            let _ = app.blocking.run(move || syncing.db.sync()).await;
        });
    }
}

/// The keyspaces a batch has named, each looked up once.
struct Keyspaces<'a> {
    app: &'a App,
    named: BTreeMap<String, Keyspace>,
}

impl Keyspaces<'_> {
    fn get(&mut self, name: Option<String>) -> Result<Keyspace, Refusal> {
        let Some(name) = name else { return Ok(self.app.keyspace.clone()) };
        if let Some(keyspace) = self.named.get(&name) {
            return Ok(keyspace.clone());
        }
        let keyspace = self.app.db.keyspace(&name)?;
        self.named.insert(name, keyspace.clone());
        Ok(keyspace)
    }
}
