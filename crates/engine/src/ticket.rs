//! The ticket of a submitted batch: a place to wait for its outcome, by blocking or as a `Future`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cairn_env::Env;
use cairn_env::sync::{Condvar, Mutex};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::types::{Durability, SeqNo};

/// What a written batch got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The number of its last put or delete; of the last write before it if it held none.
    pub seq: SeqNo,
}

/// A batch on its way. The batch is written whether or not anybody waits; dropping the ticket
/// only forgets the outcome.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) core: Arc<Core>,
    pub(crate) cell: Arc<TicketCell>,
    pub(crate) durability: Durability,
}

impl Ticket {
    /// Waits, blocking the thread, until the batch is as durable as was asked for.
    ///
    /// # Errors
    /// `Conflict` if a condition did not hold, `NotFound` if a keyspace that it names was dropped, `Full` if the disk is full, `Closed` if the
    /// database is closed to writes, `Unknown` if a write or sync failed on the way: then the
    /// batch may or may not exist after reopening.
    pub fn wait(self) -> Result<Commit> {
        self.core.wait_for(&self.cell, self.durability)
    }

    /// Syncs on this thread, if that is all that the ticket waits for and no other thread is at it. For who may
    /// block and then awaits the ticket elsewhere: a lone write is not handed from thread to thread.
    pub fn help(&self) {
        self.core.help(&self.cell);
    }
}

impl Future for Ticket {
    type Output = Result<Commit>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Commit>> {
        let mut slot = self.cell.slot();
        match &slot.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    slot.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// Where the outcome is put, and where its one waiter waits: for the outcome, or for a call to do what all wait for.
/// So a group or a sync wakes only those who have something of it. The lock is a leaf.
#[derive(Debug)]
pub(crate) struct TicketCell {
    slot: Mutex<Slot>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    outcome: Option<Result<Commit>>,
    /// The waiter was called, and has not looked since.
    called: bool,
    waker: Option<Waker>,
}

impl TicketCell {
    pub(crate) fn new(env: &Env) -> TicketCell {
        TicketCell { slot: env.mutex(Slot::default()), news: env.condvar() }
    }

    fn slot(&self) -> cairn_env::sync::MutexGuard<'_, Slot> {
        self.slot.lock()
    }

    /// The outcome, if it is there.
    pub(crate) fn outcome(&self) -> Option<Result<Commit>> {
        self.slot().outcome.clone()
    }

    /// Calls the waiter to look whether it must lead.
    pub(crate) fn call(&self) {
        self.slot().called = true;
        self.news.notify_one();
    }

    /// Waits for the outcome, or without one for a call.
    pub(crate) fn wait(&self) -> Option<Result<Commit>> {
        let mut slot = self.slot();
        while slot.outcome.is_none() && !slot.called {
            slot = self.news.wait(slot);
        }
        slot.called = false;
        slot.outcome.clone()
    }

    /// Puts the outcome and wakes who waits or polls. The first one stays.
    pub(crate) fn resolve(&self, outcome: Result<Commit>) {
        let waker = {
            let mut slot = self.slot();
            if slot.outcome.is_some() {
                return;
            }
            slot.outcome = Some(outcome);
            slot.waker.take()
        };
        self.news.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The duty to resolve a ticket, until it is done. Dropped before, which takes a panic, it says
/// `Unknown`: nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Promise(Option<Arc<TicketCell>>);

impl Promise {
    pub(crate) fn new(cell: Arc<TicketCell>) -> Promise {
        Promise(Some(cell))
    }

    /// Puts the outcome and wakes who waits or polls.
    pub(crate) fn resolve(&mut self, outcome: Result<Commit>) {
        if let Some(cell) = self.0.take() {
            cell.resolve(outcome);
        }
    }

    /// As [`TicketCell::call`].
    pub(crate) fn call(&self) {
        if let Some(cell) = &self.0 {
            cell.call();
        }
    }

    /// Whether it is about this ticket.
    pub(crate) fn is_of(&self, ticket: &TicketCell) -> bool {
        self.0.as_deref().is_some_and(|cell| std::ptr::eq(cell, ticket))
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.0.is_some() {
            let why = "the write was given up midway; it may or may not exist after the database is reopened";
            self.resolve(Err(Error::unknown(why)));
        }
    }
}
