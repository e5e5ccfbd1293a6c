//! What every engine must do, and the list of those built in.
//!
//! Owns the trait that the workloads speak and nothing of how it is done: a file per engine in `engine/`.
//! Every call is one virtual call, for every engine, and answers are lent to a closure, so that nobody
//! pays for a copy that another need not make. An engine that knows only transactions begins one for each call.

#[cfg(feature = "cairn")]
mod cairn;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "surrealkv")]
mod surrealkv;

use std::path::Path;

use crate::data::{Entries, Key};

/// Any failure, with its own text: a failed run says it and goes on with the next engine.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How a database is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Memory for blocks, filters and indexes.
    pub cache_bytes: u64,
    /// Whether the scenario is about durable writes: LMDB decides that when it is opened.
    pub durable: bool,
    /// All the memory that the process may have, if that is bounded; for engines that can be told.
    pub memory_bytes_max: Option<u64>,
}

/// Something held until it is dropped.
pub trait Held {}
impl<T> Held for T {}

/// A database, shared by threads.
pub trait Engine: Send + Sync {
    /// Sets one key; `sync`: returns only when it is on the device.
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()>;

    /// Removes one key, not synced.
    fn delete(&self, key: &[u8]) -> Result<()>;

    /// Writes all entries at once, not synced.
    fn write_batch(&self, entries: &Entries) -> Result<()>;

    /// Removes all keys at once, not synced.
    fn delete_batch(&self, keys: &[Key]) -> Result<()>;

    /// Lends the value of a key to `visit`; false if there is none.
    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool>;

    /// Lends the values of many keys, each with its place in `keys`.
    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()>;

    /// Lends up to `limit` entries from `start` on (from either end without one), it included, upward
    /// or, if `reverse`, downward. Returns how many.
    fn scan(&self, start: Option<&[u8]>, limit: u64, reverse: bool, visit: &mut dyn FnMut(&[u8], &[u8]))
    -> Result<u64>;

    /// A view of this moment, held.
    fn snapshot(&self) -> Result<Box<dyn Held + '_>>;

    /// Writes what is in memory to where it stays.
    fn flush(&self) -> Result<()>;

    /// Whether the engine says that background work is due or under way. An engine that cannot
    /// tell says no; who waits looks at the process too.
    fn is_busy(&self) -> Result<bool>;

    /// Compacts everything, and waits.
    fn compact(&self) -> Result<()>;

    /// Figures of its own that explain a result.
    fn figures(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Closes it in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// An engine that is built in.
pub struct Kind {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// The version of what is measured.
    pub version: &'static str,
    /// Every setting that is not the engine's default, in a line.
    pub settings: fn(&Setup) -> String,
    /// Opens or creates a database in a directory that exists.
    pub open: fn(&Path, &Setup) -> Result<Box<dyn Engine>>,
}

/// All of them; the first is ours.
pub const KINDS: &[Kind] = &[
    #[cfg(feature = "cairn")]
    cairn::KIND,
    #[cfg(feature = "rocksdb")]
    rocksdb::KIND,
    #[cfg(feature = "fjall")]
    fjall::KIND,
    #[cfg(feature = "lmdb")]
    lmdb::KIND,
    #[cfg(feature = "redb")]
    redb::KIND,
    #[cfg(feature = "surrealkv")]
    surrealkv::KIND,
];

/// The engine of a name.
pub fn kind(name: &str) -> Result<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        format!("no engine is called {name}; built in are: {}", names.join(", ")).into()
    })
}

#[cfg(test)]
mod tests;
