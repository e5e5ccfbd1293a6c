//! Cairn, the storage engine: an embeddable LSM-tree key-value store.
//!
//! Owns one directory: a write-ahead log, tables in levels, and the manifest that lists them.
//! Refuses to know of networks, async runtimes or what values mean.
//!
//! ```
//! # fn main() -> cairn::Result<()> {
//! # let env = cairn::Env::memory();
//! // In a program: cairn::Db::open("data", cairn::Options::default())?
//! let db = cairn::Db::open_in(&env, "data", cairn::Options::default())?;
//! let users = db.keyspace("users")?;
//! let mut batch = db.batch();
//! batch.put(&users, b"u1", b"ada");
//! batch.put(&users, b"u2", b"grace");
//! db.write(batch, cairn::Durability::Commit)?;
//! let names: Vec<_> = users.range(b"a".as_slice()..).rev().map(|entry| entry.map(|(_, name)| name)).collect();
//! assert_eq!(names.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! The walk of a write: [`Batch`] encodes it, the commit pipeline (`commit`) writes the log and
//! the memtable, `flush` makes tables of full memtables, `compaction` merges them, the manifest
//! (`manifest`, `edit`) records what is in force. The walk of a read: `catalog`, then `read` for
//! one key or `cursor` and `merge` for many. `recovery` opens. ARCHITECTURE.md draws both. Beside them
//! stand [`check()`], [`inspect()`] and [`repair()`], for files at rest.

mod batch;
mod cache;
mod catalog;
mod check;
mod commit;
mod compaction;
mod condition;
mod core;
mod cursor;
mod db;
mod edit;
mod error;
mod files;
mod flush;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod jobs;
mod keyspaces;
mod levels;
mod log_space;
#[cfg(all(test, loom))]
mod loom_model;
mod manifest;
mod memory;
mod memtable;
mod merge;
mod options;
mod output;
mod picker;
mod read;
mod recovery;
mod repair;
mod retain;
mod room;
mod snapshot;
mod stats;
mod ticket;
mod types;

pub use batch::Batch;
pub use cairn_env::Env;
#[doc(hidden)]
pub use cairn_env::mutant;
pub use check::{Finding, Progress, Report, Severity, check};
pub use cursor::{Cursor, Iter, KeyValue};
pub use db::{Db, Keyspace};
pub use error::{Error, ErrorKind, Result};
pub use inspect::inspect;
pub use options::{CompactionStyle, Compression, Options};
pub use read::{Pinned, Reader, Resident};
pub use repair::{Lost, Repaired, repair};
pub use snapshot::Snapshot;
pub use stats::{LevelStats, Metric, MetricKind, Stats};
pub use ticket::{Commit, Ticket};
pub use types::{
    BATCH_BYTES_MAX, Durability, KEY_BYTES_MAX, KEYSPACE_NAME_BYTES_MAX, SeqNo, VALUE_BYTES_MAX, Visibility,
};
