//! Small puts of many connections, submitted as one batch.
//!
//! A runtime thread that finds many requests ready answers them one after the other. Submitted one by one, each would
//! wake the engine's thread for a group of its own, and each would be woken from there. Instead the first opens a
//! [`Group`], the next add to it, and it is submitted when the thread has seen to all that was ready: one write of the log,
//! one change of thread there and one back, for all of them. Nothing is delayed for it: who is alone goes at once.
//!
//! Owns which puts are gathered, and telling each its own outcome. Refuses: deletes, which go on when the disk is full;
//! and puts that could be refused for themselves, since a refusal (busy, full, closed) is told to the whole group.
//!
//! Invariants
//! 1. A put is in exactly one group, and its answer is that group's, with its own sequence number.
//! 2. Wherever a group is open, a task is about to take it.
//!
//! Lock: `open`, a leaf, held while one put is encoded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn::{Batch, KEY_BYTES_MAX, SeqNo};
use cairn_api::ErrorKind;
use tokio::sync::oneshot;

use crate::dispatch::App;
use crate::reply::Refusal;

/// Key and value of a gathered put, together. Larger ones go alone: submitting is a small part of what they cost.
const PUT_BYTES_MAX: usize = 16 << 10;
/// Keys and values of a group. A runtime thread encodes and checksums it.
const GROUP_BYTES_MAX: usize = 64 << 10;

// With the least memory that the engine takes, 4 MiB, a sixteenth of that may wait to be written.
const _: () = assert!(PUT_BYTES_MAX <= GROUP_BYTES_MAX && GROUP_BYTES_MAX <= 128 << 10);

/// Where puts gather.
#[derive(Default)]
pub(crate) struct Gather {
    open: Mutex<Option<Group>>,
    /// Puts under way.
    puts: AtomicUsize,
}

/// A put under way, from its head to its answer.
pub(crate) struct Putting<'a>(&'a Gather);

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.0.puts.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Putting<'_> {
    /// Whether the put is one of those that are gathered: there are others, and it could be refused for nothing but
    /// what holds for all.
    pub(crate) fn is_gathered(&self, key: &[u8], value: &[u8]) -> bool {
        self.0.puts.load(Ordering::Relaxed) > 1
            && !key.is_empty()
            && key.len() <= KEY_BYTES_MAX
            && key.len() + value.len() <= PUT_BYTES_MAX
    }
}

/// Puts that will be submitted together, and who asked for each, in the same order.
struct Group {
    batch: Batch,
    bytes: usize,
    waiting: Vec<oneshot::Sender<Result<SeqNo, cairn::Error>>>,
}

impl Gather {
    /// Counts a put until its end.
    pub(crate) fn enter(&self) -> Putting<'_> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        Putting(self)
    }

    fn open(&self) -> MutexGuard<'_, Option<Group>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Puts a key's value together with what else is ready; done when it is as durable as this server's writes are.
    /// Only for what [`Putting::is_gathered`] takes.
    pub(crate) async fn put_gathered(self: &Arc<App>, key: &[u8], value: &[u8]) -> Result<SeqNo, Refusal> {
        let (teller, told) = oneshot::channel();
        let (is_first, full) = {
            let mut open = self.gather.open();
            let bytes = key.len() + value.len();
            let full = open.take_if(|group| group.bytes + bytes > GROUP_BYTES_MAX);
            let is_first = open.is_none() && full.is_none();
            let group = open.get_or_insert_with(|| Group { batch: self.db.batch(), bytes: 0, waiting: Vec::new() });
            group.batch.put(&self.keyspace, key, value);
            group.bytes += bytes;
            group.waiting.push(teller);
            (is_first, full)
        };
        if let Some(full) = full {
            // The task that was to take this one takes the next, which this put has opened.
            tokio::spawn(self.clone().write(full));
        }
        if is_first {
            let app = self.clone();
            tokio::spawn(async move {
                // Comes back when this thread has seen to all that was ready.
                tokio::task::yield_now().await;
                let group = app.gather.open().take();
                if let Some(group) = group {
                    app.write(group).await;
                }
            });
        }
        match told.await {
            Ok(outcome) => Ok(outcome?),
            // The task has ended without a word, which takes a panic.
            Err(_) => Err(Refusal::new(ErrorKind::Unknown, "the write was given up midway; it may or may not exist")),
        }
    }

    /// Submits a group and tells everybody what became of it. Nobody has to listen: the group is written whether or not
    /// one of its connections is still there.
    async fn write(self: Arc<App>, group: Group) {
        let outcome = match self.submit(group.batch) {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        let count = group.waiting.len() as u64;
        for (before, waiting) in (1..=count).zip(group.waiting) {
            // The batch has the numbers up to the last put's, one each.
            let after = if cairn::mutant("gathered-puts-share-a-number") { 0 } else { count - before };
            let seq = outcome.as_ref().map(|commit| SeqNo(commit.seq.0 - after));
            let _ = waiting.send(seq.map_err(Clone::clone));
        }
    }
}
