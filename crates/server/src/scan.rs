//! `GET /scan`: a range of keys, read as the client takes it.
//!
//! Each chunk is one job on a blocking thread, asked for when the one before has gone to the socket.
//! Between chunks the scan holds its cursor and no thread, so that a slow client costs what its
//! iterator pins and nothing else. Tried against: a thread per scan feeding a bounded channel, where
//! as many slow clients as there are threads stop everyone's cache misses.
//!
//! The first chunk is read before the status is sent: a scan that fits into it has a length, and one
//! that fails at once is a proper error. A scan that fails later cannot take its 200 back; the
//! connection is broken off without the closing chunk, which every HTTP client reports.

use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cairn_api::target::encode;
use cairn_api::{ErrorKind, NDJSON, ScanLine, ScanQuery};
use cairn_service::Place;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderMap};
use tokio::sync::OwnedSemaphorePermit;

use crate::dispatch::App;
use crate::reply::{Content, Refusal, Reply};

/// A chunk ends with the entry that takes it to this many bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Media type of the plain answer: one line of encoded keys.
const KEY_LINE: &str = "text/plain; charset=utf-8";

pub(crate) async fn scan(app: &Arc<App>, query: ScanQuery, headers: &HeaderMap) -> Result<Reply, Refusal> {
    let permit = app.scans.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::new(ErrorKind::Busy, "as many scans as may be are under way"))?;
    let form = Form::asked_for(headers);
    let reader = app.keyspace.latest(app.visibility);
    let seq = reader.seq();
    let reply = |content| Reply::new(form.content_type(), content).with_seq(seq);

    let is_empty = matches!((&query.start, &query.end), (Some(start), Some(end)) if start >= end);
    if is_empty || query.limit == Some(0) {
        return Ok(reply(Content::Whole(Bytes::new())));
    }
    let start = query.start.map_or(Bound::Unbounded, Bound::Included);
    let end = query.end.map_or(Bound::Unbounded, Bound::Excluded);
    let first = app.blocking.run(move || {
        let mut cursor = reader.cursor_range::<Vec<u8>>((start, end))?;
        cursor.seek_to_first()?;
        Scan { cursor, form, left: query.limit.unwrap_or(u64::MAX), is_first: true, _permit: permit }.chunk()
    });
    Ok(reply(match first.await?? {
        (chunk, None) => Content::Whole(chunk),
        (chunk, Some(rest)) => {
            let body = ScanBody { app: app.clone(), ready: Some(chunk), step: Step::Paused(Box::new(rest)) };
            Content::Scan(Box::new(body))
        }
    }))
}

/// How entries are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    KeyLine,
    Lines,
}

impl Form {
    fn asked_for(headers: &HeaderMap) -> Form {
        let asks = headers.get_all(ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|accept| {
                accept.split(',').any(|range| range.split(';').next().is_some_and(|kind| kind.trim() == NDJSON))
            })
        });
        if asks { Form::Lines } else { Form::KeyLine }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::KeyLine => KEY_LINE,
            Form::Lines => NDJSON,
        }
    }
}

/// What was read, and the scan unless that was its end.
type Chunk = Result<(Bytes, Option<Scan>), Refusal>;

/// A scan between two chunks.
struct Scan {
    cursor: cairn::Cursor,
    form: Form,
    left: u64,
    is_first: bool,
    _permit: OwnedSemaphorePermit,
}

impl Scan {
    /// Reads the next chunk. May read files.
    fn chunk(mut self) -> Chunk {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES {
            let Some((key, value)) = self.cursor.entry().filter(|_| self.left > 0) else {
                return Ok((chunk.into(), None));
            };
            match self.form {
                Form::KeyLine => {
                    if !std::mem::take(&mut self.is_first) {
                        chunk.push(b',');
                    }
                    chunk.extend_from_slice(encode(key).as_bytes());
                }
                Form::Lines => {
                    let line = ScanLine { key: key.to_vec(), value: value.to_vec() };
                    let failed = |e: serde_json::Error| Refusal::new(ErrorKind::Internal, e.to_string());
                    line.append_to(&mut chunk).map_err(failed)?;
                }
            }
            self.left -= 1;
            self.cursor.next()?;
        }
        Ok((chunk.into(), Some(self)))
    }
}

/// The body of a scan that did not fit into its first chunk.
pub(crate) struct ScanBody {
    app: Arc<App>,
    ready: Option<Bytes>,
    step: Step,
}

enum Step {
    /// The last chunk was taken; the next is not being read.
    Paused(Box<Scan>),
    /// A blocking thread reads the next, or waits to.
    Reading(Pin<Box<dyn Future<Output = Chunk> + Send>>),
    Done,
}

/// A scan that failed after its answer had begun.
#[derive(Debug)]
pub(crate) struct ScanBroken;

impl std::fmt::Display for ScanBroken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the scan failed under way")
    }
}

impl std::error::Error for ScanBroken {}

impl ScanBody {
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ScanBroken>>> {
        loop {
            if let Some(chunk) = self.ready.take() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            match std::mem::replace(&mut self.step, Step::Done) {
                Step::Done => return Poll::Ready(None),
                Step::Paused(scan) => {
                    let blocking = self.app.blocking.clone();
                    self.step = Step::Reading(Box::pin(async move { blocking.run(|| scan.chunk()).await? }));
                }
                Step::Reading(mut reading) => {
                    let Poll::Ready(read) = reading.as_mut().poll(cx) else {
                        self.step = Step::Reading(reading);
                        return Poll::Pending;
                    };
                    match read {
                        Ok((chunk, rest)) => {
                            self.ready = Some(chunk).filter(|chunk| !chunk.is_empty());
                            self.step = rest.map_or(Step::Done, |rest| Step::Paused(Box::new(rest)));
                        }
                        Err(_) => {
                            self.app.metrics.scan_broke();
                            return Poll::Ready(Some(Err(ScanBroken)));
                        }
                    }
                }
            }
        }
    }
}
