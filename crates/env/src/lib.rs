//! The only door to the world: files, clock, randomness, threads and every wait.
//!
//! Owns: [`Env`], a cheap handle through which the rest of Cairn opens files, reads the clock,
//! draws random numbers, starts threads, and takes every lock that is held across I/O.
//! Refuses: to interpret what it stores; no format and no policy lives here.
//!
//! Invariants
//! 1. Nothing outside this crate, the tools and the server's runtime calls `std::fs`,
//!    `std::thread`, the clocks or a random source; `clippy.toml` holds the list.
//! 2. An error names the operation and the path ([`Error`]).
//! 3. A simulated environment is deterministic: one seed, one schedule, one outcome. Exactly one
//!    of its threads runs at a time, and every call into `Env` is a point where the seed may
//!    choose another.
//!
//! There are three worlds: [`Env::real`], [`Env::memory`] (files in memory, real threads and
//! clock) and [`Env::simulated`] (simulated disk, time and schedule).

mod error;
mod file;
mod image;
mod memory;
mod real;
mod rng;
mod sim_disk;
pub mod sync;
#[doc(hidden)]
pub mod testing;

pub use error::{Error, Op, Result};
pub use file::{DirEntry, File, FileLock, RawFile, RawFileSystem};
pub use sim_disk::{Coverage, CrashPolicy, Fault, FaultKind, SimDisk, Step};

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A handle to one world; clones share it.
#[derive(Clone)]
pub struct Env {
    inner: Arc<World>,
}

struct World {
    files: Box<dyn RawFileSystem>,
    /// When this world was made.
    started: Instant,
    source: Source,
}

/// Where wall-clock time and random numbers come from.
enum Source {
    System,
    /// A count: the same calls give the same answers, so that runs can be compared.
    Count(AtomicU64),
}

/// 2026-01-01, where simulated wall clocks start.
const SIMULATED_EPOCH_MS: u64 = 1_767_225_600_000;

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

impl Env {
    fn new(files: Box<dyn RawFileSystem>, source: Source) -> Env {
        Env { inner: Arc::new(World { files, started: Instant::now(), source }) }
    }

    /// The operating system.
    pub fn real() -> Env {
        Env::new(Box::new(real::RealFiles), Source::System)
    }

    /// Files in memory, gone with the last handle; real threads, clock and randomness.
    pub fn memory() -> Env {
        Env::new(Box::<memory::MemoryFiles>::default(), Source::System)
    }

    /// A simulated disk under real threads. The wall clock and the random numbers only count their
    /// calls, so that a workload of one thread does the same each time.
    pub fn on_disk(disk: SimDisk) -> Env {
        Env::new(Box::new(disk), Source::Count(AtomicU64::new(0)))
    }

    fn fs(&self) -> &dyn RawFileSystem {
        &*self.inner.files
    }

    /// A point where a simulated schedule may switch to another thread.
    fn point(&self) {}

    /// Time since this environment was made; never goes back.
    pub fn now(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// Milliseconds since 1970 by the wall clock, which may jump.
    pub fn unix_time_ms(&self) -> u64 {
        match &self.inner.source {
            Source::System => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Source::Count(count) => SIMULATED_EPOCH_MS + count.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A random number from the system (from the seed, in simulation).
    pub fn random_u64(&self) -> u64 {
        match &self.inner.source {
            Source::System => std::hash::RandomState::new().build_hasher().finish(),
            Source::Count(count) => rng::mix(count.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
