//! Cairn for async Rust programs: durable tasks ([`App`]), and the HTTP client of a server ([`Client`]).
//!
//! [`App`] is the place to start for tasks: in the process itself or by a server, with the same code. Its own head
//! ([`app`]) says what it owns. The rest of this page is about [`Client`].
//!
//! Owns: turning calls into requests and answers into values or typed errors; a small pool of
//! kept-alive connections per [`Client`].
//! Refuses: to retry. A request that may have reached the server is sent once; whether to send it
//! again is the caller's to decide, and [`Error::is_unanswered`] tells "no answer" (the write may or
//! may not exist) from "answered with an error".
//!
//! Invariants
//! 1. A request is repeated on another connection only if the first certainly sent no byte of it.
//! 2. Every wait has a timeout ([`Timeouts`]), except for work that is asked to be long
//!    ([`Client::compact`], [`Client::flush`]).
//! 3. A connection goes back to the pool only after its answer was read to the end.
//!
//! ```no_run
//! # async fn example() -> Result<(), cairn_client::Error> {
//! let client = cairn_client::Client::new("http://127.0.0.1:8080", None)?;
//! client.put(b"greeting", b"hello".to_vec()).await?;
//! assert_eq!(client.get(b"greeting").await?.value.as_deref(), Some(&b"hello"[..]));
//! # Ok(())
//! # }
//! ```

/// The programs of the README compile.
#[cfg(all(doctest, feature = "embedded"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod app;
mod connection;
mod entries;
mod error;
mod tasks;

pub use app::{App, AppError, Ctx, Handle, Options, Retry, TaskError};
pub use cairn_api::{BatchRequest, BatchResponse, Condition, ErrorKind, Level, Op, ScanLine, ScanQuery, Stats};
pub use cairn_api::{EventListing, Listing, Maintained, Paging, WriteDurability, tasks as wire};
pub use connection::Timeouts;
pub use entries::Entries;
pub use error::{Error, Result};

use std::sync::Arc;

use cairn_api::{Health, NDJSON, V1, target};
use connection::{Answer, Origin, Wait};
use hyper::Method;
use hyper::body::Bytes;

/// A client of one server. Cheap to clone; clones share connections. As many requests may be in
/// flight as there are callers; each has a connection of its own while it lasts.
#[derive(Clone, Debug)]
pub struct Client {
    origin: Arc<Origin>,
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The value, or `None` if the key does not exist.
    pub value: Option<Vec<u8>>,
    /// The sequence number the read saw: `since` of a condition.
    pub seq: Option<u64>,
}

/// The answer to a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The value as the server echoes it.
    pub echo: Vec<u8>,
    /// The sequence number of the write.
    pub seq: Option<u64>,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:8080`. Connects on first use.
    ///
    /// # Errors
    /// [`Error::Url`] if it is not of the form `http://HOST[:PORT]`, or the token cannot be sent.
    pub fn new(url: &str, token: Option<&str>) -> Result<Client> {
        Client::with_timeouts(url, token, Timeouts::default())
    }

    /// [`Client::new`] with other timeouts.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_timeouts(url: &str, token: Option<&str>, timeouts: Timeouts) -> Result<Client> {
        Ok(Client { origin: Arc::new(Origin::parse(url, token, timeouts)?) })
    }

    /// A client of the same server that shares no connection with this one: for another runtime, which has to
    /// drive its connections itself.
    pub(crate) fn apart(&self, timeouts: Timeouts) -> Client {
        Client { origin: Arc::new(self.origin.apart(timeouts)) }
    }

    /// `HOST:PORT`, for messages.
    pub fn address(&self) -> &str {
        self.origin.address()
    }

    /// Opens a connection ahead if none is free, so that the next request need not wait for one.
    ///
    /// # Errors
    /// [`Error::Connect`], or [`Error::Unanswered`] if it broke at once.
    pub async fn connect(&self) -> Result<()> {
        self.origin.ensure_idle().await
    }

    /// Reads a key.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; a key that does not exist is no error.
    pub async fn get(&self, key: &[u8]) -> Result<Read> {
        let request = self.origin.request(Method::GET, &target::key_target(key), None, Bytes::new())?;
        let answer = self.origin.send(request, Wait::Timeout).await?;
        // Of all requests only this one takes a 404 for an answer.
        let answer = if answer.is_missing_key() { answer } else { answer.checked().await? };
        let (seq, found) = (answer.seq(), !answer.is_missing_key());
        // The body of a 404 is read as well: a connection whose answer was not read to its end is lost.
        let body = answer.bytes().await?;
        Ok(Read { value: found.then_some(body), seq })
    }

    /// Sets a key's value; done when the server's durability says so.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn put(&self, key: &[u8], value: impl Into<Vec<u8>>) -> Result<Written> {
        let answer = self.send(Method::PUT, &target::key_target(key), value.into().into()).await?;
        let seq = answer.seq();
        Ok(Written { echo: answer.bytes().await?, seq })
    }

    /// Removes a key, whether it exists or not. Returns the sequence number of the write.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn delete(&self, key: &[u8]) -> Result<Option<u64>> {
        let answer = self.send(Method::DELETE, &target::key_target(key), Bytes::new()).await?;
        let seq = answer.seq();
        answer.bytes().await?;
        Ok(seq)
    }

    /// The keys of a range, ascending. Holds them all: give a limit, or use [`Client::entries`].
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn keys(&self, query: &ScanQuery) -> Result<Vec<Vec<u8>>> {
        let line = self.send(Method::GET, &query.target(), Bytes::new()).await?.bytes().await?;
        let line = std::str::from_utf8(&line).map_err(|e| Error::answer("the scan's line", e))?;
        if line.is_empty() {
            return Ok(Vec::new());
        }
        let keys = line.split(',').map(|key| target::decode(key).map_err(|e| Error::answer("a key of the scan", e)));
        keys.collect()
    }

    /// The entries of a range, ascending, as a stream: the server reads on as this end does.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn entries(&self, query: &ScanQuery) -> Result<Entries> {
        let request = self.origin.request(Method::GET, &query.target(), Some(NDJSON), Bytes::new())?;
        Ok(Entries::new(self.origin.send(request, Wait::Timeout).await?.checked().await?))
    }

    /// Applies a batch: all of it, or nothing.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; a condition that does not hold is [`ErrorKind::Conflict`].
    pub async fn batch(&self, request: &BatchRequest) -> Result<BatchResponse> {
        let body = serde_json::to_vec(request).map_err(|e| Error::Request { message: e.to_string() })?;
        self.json(Method::POST, V1::Batch, body, Wait::Timeout).await
    }

    /// Counters, gauges and levels.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn stats(&self) -> Result<Stats> {
        self.json(Method::GET, V1::Stats, Vec::new(), Wait::Timeout).await
    }

    /// The same as text for Prometheus.
    ///
    /// # Errors
    /// Any but [`Error::Url`].
    pub async fn metrics(&self) -> Result<String> {
        let text = self.send(Method::GET, V1::Metrics.target(), Bytes::new()).await?.bytes().await?;
        String::from_utf8(text).map_err(|e| Error::answer("the metrics", e))
    }

    /// "ok" if the server serves reads and writes, or what it no longer does.
    ///
    /// # Errors
    /// Any but [`Error::Url`]; a server that answers but is not well is no error.
    pub async fn health(&self) -> Result<String> {
        let request = self.origin.request(Method::GET, V1::Healthz.target(), None, Bytes::new())?;
        let answer = self.origin.send(request, Wait::Timeout).await?;
        let body = answer.bytes().await?;
        let health: Health = serde_json::from_slice(&body).map_err(|e| Error::answer("the health", e))?;
        Ok(health.status)
    }

    /// Compacts everything; returns when done, however long it takes.
    ///
    /// # Errors
    /// Any but [`Error::Url`] and [`Error::Timeout`].
    pub async fn compact(&self) -> Result<Maintained> {
        self.json(Method::POST, V1::Compact, Vec::new(), Wait::Forever).await
    }

    /// Writes the memtables to tables; returns when done, however long it takes.
    ///
    /// # Errors
    /// Any but [`Error::Url`] and [`Error::Timeout`].
    pub async fn flush(&self) -> Result<Maintained> {
        self.json(Method::POST, V1::Flush, Vec::new(), Wait::Forever).await
    }

    /// Sends, and refuses every answer but a success.
    async fn send(&self, method: Method, target: &str, body: Bytes) -> Result<Answer> {
        let request = self.origin.request(method, target, None, body)?;
        self.origin.send(request, Wait::Timeout).await?.checked().await
    }

    async fn json<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        route: V1,
        body: Vec<u8>,
        wait: Wait,
    ) -> Result<T> {
        let request = self.origin.request(method, route.target(), None, body.into())?;
        let body = self.origin.send(request, wait).await?.checked().await?.bytes().await?;
        serde_json::from_slice(&body).map_err(|e| Error::answer(route.target(), e))
    }
}
