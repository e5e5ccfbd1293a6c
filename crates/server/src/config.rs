//! What a server is told at start: address, token, durability and limits.

use std::time::Duration;

use cairn::Durability;

/// How to serve. Plain values; `ServerConfig::default()` is a local server without a token.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where to listen, as `HOST:PORT`; port 0 takes a free one. `127.0.0.1:8080` by default.
    pub http: String,
    /// What clients must send as `Authorization: Bearer`. Required beyond loopback.
    pub token: Option<String>,
    /// When a write is answered: `Commit` by default, from stable storage on; `Buffered` where the
    /// database syncs at intervals or leaves it to the system. Reads follow: see [`cairn::Visibility`].
    pub durability: Durability,
    /// Whether clients may set the clock of the tasks forward: for tests, never by default.
    pub test_clock: bool,
    /// The bounds.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            http: "127.0.0.1:8080".to_owned(),
            token: None,
            durability: Durability::Commit,
            test_clock: false,
            limits: Limits::default(),
        }
    }
}

/// The most of everything a client can ask for. The defaults serve; tests and small machines lower them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections, 4,096 by default; those beyond are answered 503 and closed.
    pub connections_max: usize,
    /// Bytes of a request's body, 64 MiB (the largest value) by default and at most; 413 beyond.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies and large values being received, worked on or sent, 256 MiB by
    /// default; 429 beyond. At least three times `body_bytes_max`: a batch is held as text, parsed and encoded.
    pub bytes_in_flight_max: usize,
    /// Threads that may be in the engine's blocking calls at once, 32 by default; more jobs wait, at
    /// most one per connection.
    pub blocking_jobs_max: usize,
    /// Scans under way, 128 by default, each holding a cursor and up to 64 KiB or one entry; 429 beyond.
    pub scans_max: usize,
    /// For a request's head, from its first byte, 10 seconds by default; then the connection is closed.
    pub head_timeout: Duration,
    /// For a request's first byte, 120 seconds by default; then the connection is closed.
    pub idle_timeout: Duration,
    /// For a request's body, 120 seconds by default; 408 beyond.
    pub body_timeout: Duration,
    /// For the client to take any of the bytes sent to it, 30 seconds by default; then the connection is closed.
    pub write_timeout: Duration,
    /// For requests in flight at shutdown, 10 seconds by default; then they are dropped.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4_096,
            body_bytes_max: cairn::VALUE_BYTES_MAX,
            bytes_in_flight_max: 256 << 20,
            blocking_jobs_max: 32,
            scans_max: 128,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// How many copies of a batch's body may exist at once: as text, parsed, and encoded.
pub(crate) const BATCH_COPIES: usize = 3;

/// Bytes of a request's head, target included; 431 beyond. It must leave room for the longest
/// target, and is what a connection may make the server hold before it has said anything.
pub(crate) const HEAD_BYTES_MAX: usize = 128 << 10;

const _: () = assert!(HEAD_BYTES_MAX > cairn_api::target::TARGET_BYTES_MAX);

impl Limits {
    /// What is wrong with these limits, if anything.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let counts = [self.connections_max, self.body_bytes_max, self.blocking_jobs_max, self.scans_max];
        if counts.contains(&0) {
            return Err("no limit may be 0");
        }
        if self.connections_max > 1 << 20 {
            return Err("connections_max may be at most 1,048,576");
        }
        if self.body_bytes_max > cairn::VALUE_BYTES_MAX {
            return Err("body_bytes_max may be at most 64 MiB, the largest value");
        }
        if self.bytes_in_flight_max / BATCH_COPIES < self.body_bytes_max {
            return Err("bytes_in_flight_max must be at least three times body_bytes_max");
        }
        Ok(())
    }
}
