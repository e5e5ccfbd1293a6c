//! Locks, conditions and threads that the simulated schedule can see.
//!
//! Whatever is held across I/O, and whatever a thread waits for, is one of these. A lock that is
//! never held across a call into `Env` may be std's: in simulation nobody else runs meanwhile.
//! A panic while a lock is held does not poison it; who panics in the middle of a change closes
//! the database instead.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use crate::Env;
use crate::error::{Error, Op, Result};
use crate::schedule::{Schedule, SimThread};

/// What a lock or a condition of a simulated environment is to its schedule.
#[derive(Debug)]
struct Simulated {
    schedule: Arc<Schedule>,
    id: u64,
}

/// A lock that may be held across I/O. Made by [`Env::mutex`].
#[derive(Debug)]
pub struct Mutex<T> {
    inner: sync::Mutex<T>,
    simulated: Option<Simulated>,
}

/// Access to what a [`Mutex`] guards; unlocks on drop.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    // The order matters: the real lock is free before the schedule lets another thread have it.
    inner: sync::MutexGuard<'a, T>,
    held: Held<'a, T>,
}

/// Tells the schedule when the lock is released.
#[derive(Debug)]
struct Held<'a, T>(&'a Mutex<T>);

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        if let Some(simulated) = &self.0.simulated {
            simulated.schedule.unlock(simulated.id);
        }
    }
}

impl<T> Mutex<T> {
    /// Waits for the lock.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(simulated) = &self.simulated {
            simulated.schedule.lock(simulated.id, Location::caller());
        }
        self.locked()
    }

    fn locked(&self) -> MutexGuard<'_, T> {
        MutexGuard { inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner), held: Held(self) }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition to wait for, with locks of the same environment. Made by [`Env::condvar`]. Wakes
/// may be spurious: wait in a loop. To notify when nobody waits costs one load, no system call.
#[derive(Debug)]
pub struct Condvar {
    inner: sync::Condvar,
    /// Who waits counts itself while it still holds the lock. So whoever changed under the lock what is
    /// waited for, and finds nobody here, changed it before the other looked.
    waiting: AtomicUsize,
    simulated: Option<Simulated>,
}

impl Condvar {
    /// Releases the lock, waits for a notification, and takes the lock again.
    ///
    /// # Panics
    /// Only in a simulated environment: when its run is broken off because nobody can run, and
    /// outside [`Env::run`], where nobody could end the wait.
    #[track_caller]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        if let Some(simulated) = &self.simulated {
            return simulated.wait(guard, None, Location::caller()).0;
        }
        let MutexGuard { inner, held } = guard;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.wait(inner).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        MutexGuard { inner, held }
    }

    /// Like [`Condvar::wait`], for at most `timeout`; says whether time ran out.
    #[track_caller]
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> (MutexGuard<'a, T>, bool) {
        if let Some(simulated) = &self.simulated {
            return simulated.wait(guard, Some(timeout), Location::caller());
        }
        let MutexGuard { inner, held } = guard;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let (inner, result) = self.inner.wait_timeout(inner, timeout).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        (MutexGuard { inner, held }, result.timed_out())
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        match &self.simulated {
            Some(simulated) => simulated.schedule.notify(simulated.id, false),
            None if self.waiting.load(Ordering::Relaxed) == 0 => {}
            None => self.inner.notify_one(),
        }
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        match &self.simulated {
            Some(simulated) => simulated.schedule.notify(simulated.id, true),
            None if self.waiting.load(Ordering::Relaxed) == 0 => {}
            None => self.inner.notify_all(),
        }
    }
}

impl Simulated {
    fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Option<Duration>,
        at: &'static Location<'static>,
    ) -> (MutexGuard<'a, T>, bool) {
        let MutexGuard { inner, held } = guard;
        let mutex = held.0;
        drop(inner);
        // From here on the schedule knows when the lock is ours, also if it unwinds.
        mem::forget(held);
        let lock = mutex.simulated.as_ref().map_or(0, |simulated| simulated.id);
        let timed_out = self.schedule.wait(self.id, lock, timeout, at);
        (mutex.locked(), timed_out)
    }
}

/// A started thread. Dropping it lets the thread run on; [`Thread::join`] waits for its end.
#[derive(Debug)]
pub struct Thread {
    handle: std::thread::JoinHandle<()>,
    simulated: Option<SimThread>,
}

impl Thread {
    /// Waits for the thread's end; false if it panicked.
    #[track_caller]
    pub fn join(self) -> bool {
        if let Some(simulated) = &self.simulated
            && !simulated.join(Location::caller())
        {
            return false;
        }
        self.handle.join().is_ok()
    }
}

/// Locks and threads.
impl Env {
    #[track_caller]
    fn simulated_object(&self) -> Option<Simulated> {
        let schedule = self.schedule()?;
        Some(Simulated { schedule: schedule.clone(), id: schedule.new_object(Location::caller()) })
    }

    /// A lock that may be held across I/O and waits.
    #[track_caller]
    pub fn mutex<T>(&self, value: T) -> Mutex<T> {
        Mutex { inner: sync::Mutex::new(value), simulated: self.simulated_object() }
    }

    /// A condition for use with this environment's locks.
    #[track_caller]
    pub fn condvar(&self) -> Condvar {
        Condvar { inner: sync::Condvar::new(), waiting: AtomicUsize::new(0), simulated: self.simulated_object() }
    }

    /// Starts a thread. In simulation only inside [`Env::run`].
    #[track_caller]
    pub fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<Thread> {
        let fail = |e| Error::new(Op::Spawn, name.as_ref(), e);
        let stage = name.to_owned();
        let body = move || {
            crate::sim_disk::set_stage(&stage);
            body();
        };
        if let Some(schedule) = self.schedule() {
            let (handle, thread) = schedule.spawn(name, body, Location::caller()).map_err(fail)?;
            return Ok(Thread { handle, simulated: Some(thread) });
        }
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(fail)?;
        Ok(Thread { handle, simulated: None })
    }
}
