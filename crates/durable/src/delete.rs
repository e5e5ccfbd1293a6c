//! Deleting a queue, which takes several turns under the lock.
//!
//! ```text
//! mark it as leaving: from now on no task and no event enters it, and none of its failed tasks is retried
//! look for a task in it that has not ended; if there is one, refuse
//! delete its events, the entries by which they expire, and its idempotency keys, so many at a time
//! delete what is set of it
//! take the mark away
//! ```
//! The mark is in memory. Refuses to touch tasks: what has ended is kept as it would have been.

use std::ops::ControlFlow;

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

impl<S: Store> Tasks<S> {
    pub(crate) fn delete(&self, name: &str) -> Result<Queue> {
        let queue = self.locked(|owner| owner.leave(name))?;
        let deleted = self.delete_leaving(name);
        self.locked(|owner| {
            owner.leaving.remove(name);
            Ok(())
        })?;
        deleted.map(|()| queue)
    }

    fn delete_leaving(&self, name: &str) -> Result<()> {
        if let Some(id) = self.open_in(name)? {
            return Err(Error::conflict(format!(
                "queue \"{}\" holds tasks that have not ended, such as {id}; cancel them, or let them end, first",
                name.escape_debug()
            )));
        }
        for prefix in [key::of_event(name, ""), key::of_idempotency(name, "")] {
            while self.locked(|owner| owner.delete_rows(&prefix, self.now_ms()))? {}
        }
        self.delete_expiries(name)?;
        self.locked(|owner| {
            let mut turn = owner.turn(self.now_ms());
            turn.batch.delete(&owner.shelf.index, &key::of_queue(name));
            owner.commit(turn)?;
            owner.queues.remove(name);
            owner.uncount_queued(name);
            Ok(())
        })
    }

    /// Deletes the entries by which events of a queue expire: they stand by their time, those of all queues together.
    /// Left there, they would remove events of a queue that is made anew under its name.
    fn delete_expiries(&self, name: &str) -> Result<()> {
        let (store, index) = self.locked(|owner| Ok((owner.shelf.store.clone(), owner.shelf.index.clone())))?;
        let mut after = Vec::new();
        loop {
            let mut keys = Vec::new();
            Shelf::visit_in(&store, &index, key::EXPIRIES, &after, |key, _| {
                let entry = crate::owner::parse(key)?;
                if matches!(entry, Entry::Expiry { of: Expiring::Event { queue, .. }, .. } if queue == name) {
                    keys.push(key.to_vec());
                }
                Ok(if keys.len() == ROWS_AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            let Some(last) = keys.last() else { return Ok(()) };
            after.clone_from(last);
            self.locked(|owner| {
                let mut turn = owner.turn(self.now_ms());
                keys.iter().for_each(|key| turn.batch.delete(&owner.shelf.index, key));
                owner.commit(turn).map(drop)
            })?;
        }
    }
}

impl<S: Store> Owner<S> {
    /// Nothing is done to a queue that is being deleted.
    pub(crate) fn not_leaving(&self, name: &str) -> Result<()> {
        if self.leaving.contains(name) {
            return Err(Error::conflict(format!("queue \"{}\" is being deleted", name.escape_debug())));
        }
        Ok(())
    }

    fn leave(&mut self, name: &str) -> Result<Queue> {
        if name == DEFAULT_QUEUE {
            return Err(Error::invalid("the queue \"default\" is always there"));
        }
        self.not_leaving(name)?;
        let none = || Error::new(ErrorKind::NotFound, format!("there is no queue \"{}\"", name.escape_debug()));
        let queue = *self.queues.get(name).ok_or_else(none)?;
        self.leaving.insert(name.to_owned());
        Ok(queue)
    }

    /// Deletes the first rows of a prefix; says whether there may be more.
    fn delete_rows(&mut self, prefix: &[u8], now_ms: Millis) -> Result<bool> {
        let mut turn = self.turn(now_ms);
        let mut count = 0;
        self.shelf.visit(&self.shelf.index, prefix, &[], |key, _| {
            turn.batch.delete(&self.shelf.index, key);
            count += 1;
            Ok(if count == ROWS_AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if count > 0 {
            self.commit(turn)?;
        }
        Ok(count == ROWS_AT_ONCE)
    }
}
