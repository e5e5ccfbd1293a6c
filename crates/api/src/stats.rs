//! What the server says about itself: `/v1/stats`, `/v1/healthz`, `/v1/compact` and `/v1/flush`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The body of `GET /v1/stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// "open", or what the database no longer does and why.
    pub health: String,
    /// Why writes wait, while they do.
    pub stall_reason: Option<String>,
    /// The last failure of background work, if there was one.
    pub last_background_error: Option<String>,
    /// Counters and gauges of the engine, by name; the unit is the name's last word.
    pub engine: BTreeMap<String, u64>,
    /// Counters and gauges of the server, by name.
    pub server: BTreeMap<String, u64>,
    /// What each level of each keyspace holds.
    pub levels: Vec<Level>,
}

/// One level of a keyspace's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// The keyspace.
    pub keyspace: String,
    /// 0 is the newest.
    pub level: u64,
    /// Number of tables.
    pub tables: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Entries in them, tombstones and old versions included.
    pub entries: u64,
}

/// The body of `GET /v1/healthz`: 200 while reads and writes work, 503 otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// "ok", or what no longer works and why.
    pub status: String,
}

/// The body of `POST /v1/compact` and `POST /v1/flush`, once done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintained {
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}
