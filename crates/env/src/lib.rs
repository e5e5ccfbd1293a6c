//! The only door to the world: files, clock, randomness, threads and every wait.
//!
//! Owns: [`Env`], a cheap handle through which the rest of Cairn opens files, reads the clock,
//! draws random numbers, starts threads, and takes every lock that is held across I/O.
//! Refuses: to interpret what it stores; no format and no policy lives here.
//! Also here, below everything that may be wrong: [`mutant`], which marks the defects that a build with
//! `--cfg mutants` plants for the tests to catch.
//!
//! Invariants
//! 1. Nothing outside this crate, the tools and tokio's runtime calls `std::fs`,
//!    `std::thread`, the clocks or a random source; `clippy.toml` holds the list.
//! 2. An error names the operation and the path ([`Error`]).
//! 3. A simulated environment is deterministic: one seed, one schedule, one outcome. Exactly one
//!    of its threads runs at a time, and every call into `Env` is a point where the seed may
//!    choose another.
//!
//! There are four worlds: [`Env::real`]; [`Env::memory`] (files in memory, real threads and clock);
//! [`Env::on_disk`] (a [`SimDisk`] that loses power and fails on command, real threads); and
//! [`Env::simulated`] (that disk, simulated time, and a seeded schedule).

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is the door that the lint sends everyone to"
)]

mod error;
mod file;
mod image;
mod memory;
mod mutants;
mod real;
mod rng;
mod schedule;
mod sim_disk;
pub mod sync;
#[doc(hidden)]
pub mod testing;

pub use error::{Error, Op, Result};
pub use file::{DirEntry, File, FileLock, RawFile, RawFileSystem};
pub use mutants::mutant;
pub use schedule::Run;
pub use sim_disk::{Coverage, CrashPolicy, Fault, FaultKind, SimDisk, Site, Step};

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use schedule::Schedule;

/// A handle to one world; clones share it.
#[derive(Clone)]
pub struct Env {
    inner: Arc<World>,
}

struct World {
    files: Box<dyn RawFileSystem>,
    source: Source,
}

/// Where time, random numbers and the order of threads come from.
enum Source {
    /// The system; the instant is when this world was made.
    System(Instant),
    /// The system, but the wall clock and the random numbers count their calls: one thread that
    /// does the same gets the same.
    Counted(Instant, AtomicU64),
    /// A seeded schedule over this disk.
    Simulated(Arc<Schedule>, SimDisk),
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
        Env { inner: Arc::new(World { files, source }) }
    }

    /// The operating system.
    pub fn real() -> Env {
        Env::new(Box::new(real::RealFiles), Source::System(Instant::now()))
    }

    /// Files in memory, gone with the last handle; real threads, clock and randomness.
    pub fn memory() -> Env {
        Env::new(Box::<memory::MemoryFiles>::default(), Source::System(Instant::now()))
    }

    /// A simulated disk under real threads. The wall clock and the random numbers only count their
    /// calls, so that a workload of one thread does the same each time.
    pub fn on_disk(disk: SimDisk) -> Env {
        Env::new(Box::new(disk), Source::Counted(Instant::now(), AtomicU64::new(0)))
    }

    /// A simulated disk, clock and schedule. Files and time work anywhere; threads start only
    /// inside [`Env::run`].
    ///
    /// A lock that is not made by this environment must not be held across a call into it: the
    /// other threads stand still meanwhile, also the one that holds the lock.
    ///
    /// ```
    /// use cairn_env::{Env, SimDisk};
    ///
    /// let outcome = |seed| {
    ///     let env = Env::simulated(seed, SimDisk::new());
    ///     let order = std::sync::Arc::new(env.mutex(Vec::new()));
    ///     let run = env.run(|| {
    ///         let threads: Vec<_> = (0..3)
    ///             .map(|i| {
    ///                 let order = order.clone();
    ///                 env.spawn("worker", move || order.lock().push(i)).unwrap()
    ///             })
    ///             .collect();
    ///         threads.into_iter().for_each(|thread| assert!(thread.join()));
    ///         order.lock().clone()
    ///     });
    ///     (run.value, run.trace_hash)
    /// };
    /// assert_eq!(outcome(7), outcome(7));
    /// assert!((0..50).any(|seed| outcome(seed).0 == [2, 0, 1]));
    /// ```
    pub fn simulated(seed: u64, disk: SimDisk) -> Env {
        let schedule = Arc::new(Schedule::new(seed));
        Env::new(Box::new(disk.clone()), Source::Simulated(schedule, disk))
    }

    /// The same, with another way to choose who runs: each thread has a priority, the highest runs as
    /// long as it can, and a few times the running one falls below all others. Finds what needs one
    /// thread to be far ahead of another, which drawing at every call seldom brings about.
    pub fn simulated_by_priorities(seed: u64, disk: SimDisk) -> Env {
        let schedule = Arc::new(Schedule::by_priorities(seed));
        Env::new(Box::new(disk.clone()), Source::Simulated(schedule, disk))
    }

    /// Plants a mistake: of the wakes of a condition that somebody waits for, the `n`th (from 1) is lost.
    /// For tests of tests, which must notice it; does nothing outside simulation.
    #[doc(hidden)]
    pub fn lose_wake(&self, n: u64) {
        if let Some(schedule) = self.schedule() {
            schedule.lose_wake(n);
        }
    }

    /// Runs `body` under the simulated schedule, as the first of its threads, and then the threads
    /// it started until they end. In other worlds it only calls `body`.
    ///
    /// # Panics
    /// If `body` panics; if every thread waits for another (the message names the seed, and who
    /// waits where); if the threads have not ended after 20 million calls; if a run is going on.
    #[track_caller]
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> Run<R> {
        match &self.inner.source {
            Source::Simulated(schedule, disk) => {
                let run = schedule.run(body, Location::caller());
                Run { trace_hash: rng::mix(run.trace_hash ^ rng::mix(disk.trace_hash())), ..run }
            }
            Source::System(_) | Source::Counted(..) => Run::plain(body()),
        }
    }

    fn fs(&self) -> &dyn RawFileSystem {
        &*self.inner.files
    }

    fn schedule(&self) -> Option<&Arc<Schedule>> {
        match &self.inner.source {
            Source::Simulated(schedule, _) => Some(schedule),
            Source::System(_) | Source::Counted(..) => None,
        }
    }

    /// A point where a simulated schedule may switch to another thread.
    fn point(&self) {
        if let Some(schedule) = self.schedule() {
            schedule.point();
        }
    }

    /// Lets other threads run that could.
    pub fn yield_now(&self) {
        match self.schedule() {
            Some(schedule) => schedule.point(),
            None => std::thread::yield_now(),
        }
    }

    /// Time since this environment was made; never goes back.
    pub fn now(&self) -> Duration {
        match &self.inner.source {
            Source::System(started) | Source::Counted(started, _) => started.elapsed(),
            Source::Simulated(schedule, _) => schedule.now(),
        }
    }

    /// Milliseconds since 1970 by the wall clock, which may jump.
    pub fn unix_time_ms(&self) -> u64 {
        let ms = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        match &self.inner.source {
            Source::System(_) => ms(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
            Source::Counted(_, count) => SIMULATED_EPOCH_MS + count.fetch_add(1, Ordering::Relaxed),
            Source::Simulated(schedule, _) => SIMULATED_EPOCH_MS.saturating_add(ms(schedule.now())),
        }
    }

    /// A random number from the system (from the seed, in simulation).
    pub fn random_u64(&self) -> u64 {
        match &self.inner.source {
            Source::System(_) => std::hash::RandomState::new().build_hasher().finish(),
            Source::Counted(_, count) => rng::mix(count.fetch_add(1, Ordering::Relaxed)),
            Source::Simulated(schedule, _) => schedule.random_u64(),
        }
    }
}
