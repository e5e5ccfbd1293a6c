//! Deleting a queue, which takes several turns under the lock.
//!
//! ```text
//! keep everything new out of it, for now (busy): no task, no event, no retry of one of its failed tasks
//! look for a task in it that has not ended; if there is one, refuse, and let it be as before
//! mark it in the store: from now on it goes, whatever happens (conflict)
//! delete its events, each with the entry by which it expires, and its idempotency keys, so many at a time
//! delete what is set of it, and the mark
//! ```
//! What a crash or a full disk cuts short behind the mark is taken up again by the thread of the clock. Refuses to
//! touch tasks: what has ended is kept as it would have been.

use std::ops::ControlFlow;

use cairn_env::sync::Mutex;
use cairn_store::{Batch, Store};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Millis;
use crate::key::{self, Entry, Expiring};
use crate::owner::Owner;
use crate::queue::{DEFAULT_QUEUE, Queue};
use crate::shelf::Shelf;
use crate::tasks::Tasks;

/// So many rows are deleted before others get their turn.
const ROWS_AT_ONCE: usize = 1_000;
/// So many entries by which events of all queues expire are looked at.
const LOOKED_AT_ONCE: usize = 10_000;

/// How far the deletion of a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Nothing new enters it while its tasks are looked at; if one has not ended it stays.
    Asked,
    /// It goes, whatever happens.
    Marked,
}

/// A queue that is marked, on its way out.
#[derive(Debug)]
pub(crate) struct Leaving {
    queue: String,
    left: Left,
}

/// What is left to be done.
#[derive(Debug)]
enum Left {
    /// Deleting events by the entries by which they expire, from behind a key on.
    Expiring(Vec<u8>),
    /// Deleting idempotency keys, and events without such an entry: a repair may have lost it.
    Rows,
}

impl Leaving {
    /// From the beginning. What is deleted already is not met again.
    pub(crate) fn new(queue: String) -> Leaving {
        Leaving { queue, left: Left::Expiring(Vec::new()) }
    }

    /// Does a part of it. Says whether the queue is gone. What has failed is tried again.
    pub(crate) fn part<S: Store>(&mut self, store: &S, owner: &Mutex<Owner<S>>, now_ms: Millis) -> Result<bool> {
        match &mut self.left {
            Left::Expiring(after) => {
                let index = owner.lock().shelf.index.clone();
                let Events { keys, last } = expiring_in(store, &index, &self.queue, after)?;
                if !keys.is_empty() {
                    owner.lock().delete_keys(&keys, now_ms)?;
                }
                match last {
                    Some(last) => *after = last,
                    None => self.left = Left::Rows,
                }
            }
            Left::Rows => {
                let mut owner = owner.lock();
                for rows in [key::of_event(&self.queue, ""), key::of_idempotency(&self.queue, "")] {
                    if owner.delete_rows(&rows, now_ms)? {
                        return Ok(false);
                    }
                }
                owner.end_leaving(&self.queue, now_ms)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A part of the events of a queue.
struct Events {
    /// Their keys, each with that by which it expires.
    keys: Vec<Vec<u8>>,
    /// Behind which key to go on, if there may be more.
    last: Option<Vec<u8>>,
}

/// The next events of a queue. The entries by which they expire stand by their time, those of all queues together.
fn expiring_in<S: Store>(store: &S, index: &S::Space, queue: &str, after: &[u8]) -> Result<Events> {
    let (mut keys, mut looked_at, mut last) = (Vec::new(), 0, None);
    Shelf::visit_in(store, index, key::EXPIRIES, after, |key, _| {
        looked_at += 1;
        if let Some(Entry::Expiry { of: Expiring::Event { queue: of, event }, .. }) = Entry::parse(key)
            && of == queue
        {
            keys.extend([key.to_vec(), key::of_event(queue, &event)]);
        }
        if keys.len() >= ROWS_AT_ONCE || looked_at == LOOKED_AT_ONCE {
            last = Some(key.to_vec());
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Events { keys, last })
}

impl<S: Store> Tasks<S> {
    pub(crate) fn delete(&self, name: &str) -> Result<Queue> {
        let queue = self.locked(|owner| owner.leave(name))?;
        let marked = self.check_ended(name).and_then(|()| self.locked(|owner| owner.mark_leaving(name, self.now_ms())));
        if let Err(e) = marked {
            self.in_parts(|_, owner| owner.lock().leaving.remove(name));
            return Err(e);
        }
        let mut leaving = Leaving::new(name.to_owned());
        loop {
            match self.in_parts(|store, owner| leaving.part(store, owner, self.now_ms())) {
                Ok(true) => return Ok(queue),
                Ok(false) => {}
                Err(e) => {
                    self.in_parts(|_, owner| owner.lock().cut_short.push(name.to_owned()));
                    return Err(e);
                }
            }
        }
    }

    fn check_ended(&self, name: &str) -> Result<()> {
        match self.open_in(name)? {
            None => Ok(()),
            Some(id) => Err(Error::conflict(format!(
                "queue \"{}\" holds tasks that have not ended, such as {id}; cancel them, or let them end, first",
                name.escape_debug()
            ))),
        }
    }
}

impl<S: Store> Owner<S> {
    /// Nothing is done to a queue that is being deleted.
    pub(crate) fn not_leaving(&self, name: &str) -> Result<()> {
        let name_shown = name.escape_debug();
        match self.leaving.get(name) {
            None => Ok(()),
            // It may stay: who is told so tries again.
            Some(Leave::Asked) => {
                let text = format!("whether queue \"{name_shown}\" can be deleted is being looked at; try again");
                Err(Error::new(ErrorKind::Busy, text))
            }
            Some(Leave::Marked) => Err(Error::conflict(format!("queue \"{name_shown}\" is being deleted"))),
        }
    }

    fn leave(&mut self, name: &str) -> Result<Queue> {
        if name == DEFAULT_QUEUE {
            return Err(Error::invalid("the queue \"default\" is always there"));
        }
        self.not_leaving(name)?;
        let none = || Error::new(ErrorKind::NotFound, format!("there is no queue \"{}\"", name.escape_debug()));
        let queue = *self.queues.get(name).ok_or_else(none)?;
        self.leaving.insert(name.to_owned(), Leave::Asked);
        Ok(queue)
    }

    fn mark_leaving(&mut self, name: &str, now_ms: Millis) -> Result<()> {
        if cairn_env::mutant("deletion-not-marked") {
            return Ok(());
        }
        let mut turn = self.turn(now_ms);
        turn.batch.put(&self.shelf.index, &key::of_leaving(name), &[]);
        self.commit(turn)?;
        self.leaving.insert(name.to_owned(), Leave::Marked);
        Ok(())
    }

    fn end_leaving(&mut self, name: &str, now_ms: Millis) -> Result<()> {
        self.delete_keys(&[key::of_queue(name), key::of_leaving(name)], now_ms)?;
        self.queues.remove(name);
        self.leaving.remove(name);
        self.uncount_queued(name);
        Ok(())
    }

    fn delete_keys(&mut self, keys: &[Vec<u8>], now_ms: Millis) -> Result<()> {
        let mut turn = self.turn(now_ms);
        keys.iter().for_each(|key| turn.batch.delete(&self.shelf.index, key));
        self.commit(turn).map(drop)
    }

    /// Deletes the first rows of a prefix; says whether there may be more.
    fn delete_rows(&mut self, prefix: &[u8], now_ms: Millis) -> Result<bool> {
        let mut keys = Vec::new();
        self.shelf.visit(&self.shelf.index, prefix, &[], |key, _| {
            keys.push(key.to_vec());
            Ok(if keys.len() == ROWS_AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if !keys.is_empty() {
            self.delete_keys(&keys, now_ms)?;
        }
        Ok(keys.len() == ROWS_AT_ONCE)
    }
}
