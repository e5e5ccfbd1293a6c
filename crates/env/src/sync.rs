//! Locks, conditions and threads that the simulated schedule can see.
//!
//! Whatever is held across I/O, and whatever a thread waits for, is one of these. A lock that is
//! never held across a call into `Env` may be std's: in simulation nobody else runs meanwhile.
//! A panic while a lock is held does not poison it; who panics in the middle of a change closes
//! the database instead.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError};
use std::time::Duration;

use crate::Env;
use crate::error::{Error, Op, Result};

/// A lock that may be held across I/O. Made by [`Env::mutex`].
#[derive(Debug)]
pub struct Mutex<T> {
    inner: sync::Mutex<T>,
}

/// Access to what a [`Mutex`] guards; unlocks on drop.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    inner: sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner) }
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

/// A condition to wait for. Made by [`Env::condvar`]. Wakes may be spurious: wait in a loop.
#[derive(Debug)]
pub struct Condvar {
    inner: sync::Condvar,
}

impl Condvar {
    /// Releases the lock, waits for a notification, and takes the lock again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let inner = self.inner.wait(guard.inner).unwrap_or_else(PoisonError::into_inner);
        MutexGuard { inner }
    }

    /// Like [`Condvar::wait`], for at most `timeout`; says whether time ran out.
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> (MutexGuard<'a, T>, bool) {
        let (inner, result) = self.inner.wait_timeout(guard.inner, timeout).unwrap_or_else(PoisonError::into_inner);
        (MutexGuard { inner }, result.timed_out())
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

/// A started thread. Dropping it lets the thread run on; [`Thread::join`] waits for its end.
#[derive(Debug)]
pub struct Thread {
    handle: std::thread::JoinHandle<()>,
}

impl Thread {
    /// Waits for the thread's end; false if it panicked.
    pub fn join(self) -> bool {
        self.handle.join().is_ok()
    }
}

/// Locks and threads.
impl Env {
    /// A lock that may be held across I/O and waits.
    pub fn mutex<T>(&self, value: T) -> Mutex<T> {
        Mutex { inner: sync::Mutex::new(value) }
    }

    /// A condition for use with this environment's locks.
    pub fn condvar(&self) -> Condvar {
        Condvar { inner: sync::Condvar::new() }
    }

    /// Starts a thread.
    pub fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<Thread> {
        self.point();
        let handle = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|e| Error::new(Op::Spawn, name.as_ref(), e))?;
        Ok(Thread { handle })
    }
}
