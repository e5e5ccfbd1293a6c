//! What is not kept for ever: tasks that have ended, with their idempotency keys, and events.
//!
//! Tasks go by the bucket. When the time of one is over, whatever in it has not ended is moved to the bucket
//! without a day, and the rest is dropped whole: that costs a look at each of its tasks, without the lock, and nothing
//! for each of their rows. What was moved goes by itself, so long after its end; so do events.
//!
//! Owns the end of records. Refuses to end a task that has not ended.
//!
//! Invariant: nothing comes into a bucket that is closing. New tasks of its day go to the one without a day, and
//! what has ended in it cannot be retried any more; so whoever has looked at all of it has seen all that is to be kept.

use std::ops::ControlFlow;

use cairn_env::sync::Mutex;
use cairn_store::{Batch, Store};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Millis, TaskId};
use crate::key::{self, Entry, Expiring, Part};
use crate::owner::{Owner, Turn};
use crate::rows::Row;
use crate::shelf::{BucketId, Shelf};
use crate::task::Task;

/// So many tasks are moved, or keys forgotten, before other calls get their turn.
const AT_ONCE: usize = 64;
/// So many tasks are looked at.
const ROWS_AT_ONCE: usize = 4_096;
/// The rows of a task that is moved are written in batches of about so many bytes.
const BATCH_BYTES: usize = 4 << 20;

/// What is known of the things that expire by themselves.
#[derive(Debug)]
pub(crate) struct Expiries {
    /// Nothing expires before.
    pub(crate) next_ms: Millis,
    /// Up to here all have been removed, or passed over.
    after: Vec<u8>,
}

impl Expiries {
    /// Before anything was looked at.
    pub(crate) fn new() -> Expiries {
        Expiries { next_ms: 0, after: Vec::new() }
    }

    /// Notes what was added.
    pub(crate) fn note(&mut self, due_ms: Millis, entry: &Entry) {
        self.next_ms = self.next_ms.min(due_ms);
        if entry.key() <= self.after {
            self.after.clear();
        }
    }
}

/// A bucket on its way out.
#[derive(Debug)]
pub(crate) struct Going<S: Store> {
    bucket: BucketId,
    space: S::Space,
    left: Left,
}

/// What is left to be done, from behind a task on.
#[derive(Debug)]
enum Left {
    /// Looking for what has not ended.
    Tasks(Option<TaskId>),
    /// Forgetting idempotency keys.
    Keys(Option<TaskId>),
    /// Dropping it.
    Drop,
}

impl<S: Store> Going<S> {
    /// Does a part of it, mostly without the lock. Says whether it is gone. What has failed is tried again.
    pub(crate) fn part(&mut self, store: &S, owner: &Mutex<Owner<S>>, now_ms: Millis) -> Result<bool> {
        match self.left {
            Left::Tasks(after) => {
                let (open, last) = open_in(store, &self.space, after)?;
                if !open.is_empty() {
                    owner.lock().keep(self.bucket, &open)?;
                }
                self.left = last.map_or(Left::Keys(None), |last| Left::Tasks(Some(last)));
            }
            Left::Keys(after) => {
                let keys = keys_in(store, &self.space, after)?;
                if !keys.is_empty() {
                    owner.lock().forget_keys(&keys, now_ms)?;
                }
                self.left = keys.last().map_or(Left::Drop, |(last, _)| Left::Keys(Some(*last)));
            }
            Left::Drop => {
                owner.lock().shelf.take_bucket(self.bucket);
                if let Err(e) = store.drop_space(&self.bucket.name()) {
                    owner.lock().shelf.put_back(self.bucket, &self.space);
                    return Err(e.into());
                }
                owner.lock().shelf.end_closing(self.bucket);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The next tasks in a bucket that have not ended, and behind which task to go on, if there may be more.
fn open_in<S: Store>(store: &S, bucket: &S::Space, after: Option<TaskId>) -> Result<(Vec<TaskId>, Option<TaskId>)> {
    let after = after.map_or_else(Vec::new, |id| key::of_task(Part::Task, id));
    let (mut open, mut rows, mut last) = (Vec::new(), 0, None);
    Shelf::visit_in(store, bucket, key::TASKS, &after, |key, row| {
        let task = Task::decode(row).map_err(|e| Error::new(ErrorKind::Corrupt, format!("a task is damaged: {e}")))?;
        rows += 1;
        if !task.status.state().has_ended() {
            open.extend(key::task_of(key));
        }
        if open.len() == AT_ONCE || rows == ROWS_AT_ONCE {
            last = key::task_of(key);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((open, last))
}

/// The tasks in a bucket that have an idempotency key, and where that stands: the first behind one of them.
fn keys_in<S: Store>(store: &S, bucket: &S::Space, after: Option<TaskId>) -> Result<Vec<(TaskId, Vec<u8>)>> {
    let after = after.map_or_else(Vec::new, |id| key::of_task(Part::Idempotency, id));
    let mut keys = Vec::new();
    Shelf::visit_in(store, bucket, key::IDEMPOTENCY, &after, |key, row| {
        keys.extend(key::task_of(key).map(|task| (task, row.to_vec())));
        Ok(if keys.len() == AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(keys)
}

impl<S: Store> Owner<S> {
    /// Closes a bucket whose time is over, if there is one.
    pub(crate) fn close_past(&mut self, now_ms: Millis) -> Option<Going<S>> {
        let bucket = self.shelf.past(now_ms).0?;
        self.shelf.close_bucket(bucket).map(|space| Going { bucket, space, left: Left::Tasks(None) })
    }

    /// When something next comes to its end here.
    pub(crate) fn next_end_ms(&self, now_ms: Millis) -> Millis {
        self.shelf.past(now_ms).1.min(self.expiries.next_ms)
    }

    /// Moves tasks of a closing bucket that have not ended to the one without a day.
    pub(crate) fn keep(&mut self, bucket: BucketId, ids: &[TaskId]) -> Result<()> {
        if cairn_env::mutant("survivors-dropped") {
            return Ok(());
        }
        let (from, to) = (self.shelf.bucket(bucket)?.clone(), self.shelf.make_bucket(bucket.kept())?);
        for id in ids {
            let stored = self.find(*id)?;
            let still_there = stored.is_some_and(|s| s.bucket == bucket && s.task.status.ended_ms().is_none());
            if still_there {
                self.move_rows(*id, &from, &to)?;
                if let Some(live) = self.live.get_mut(id) {
                    live.stored.bucket = bucket.kept();
                }
            }
        }
        Ok(())
    }

    /// Moves the rows of a task. It is in the old place until the last batch, and then in the new one.
    fn move_rows(&self, id: TaskId, from: &S::Space, to: &S::Space) -> Result<()> {
        let store = &self.shelf.store;
        let (mut batch, mut bytes) = (store.batch(), 0);
        // A move that a crash cut short may have left waits that are over by now.
        self.shelf.visit(to, &key::waits_of(id), &[], |key, _| {
            batch.delete(to, key);
            Ok(ControlFlow::Continue(()))
        })?;
        let last = [key::of_task(Part::Task, id), key::of_task(Part::Idempotency, id)];
        for rows in key::rows_of(id) {
            let (mut after, mut more) = (Vec::new(), true);
            while std::mem::take(&mut more) {
                self.shelf.visit(from, &rows, &after.clone(), |key, row| {
                    if bytes >= BATCH_BYTES {
                        more = true;
                        return Ok(ControlFlow::Break(()));
                    }
                    if !last.iter().any(|last| last == key) {
                        batch.put(to, key, row);
                    }
                    bytes += key.len() + row.len();
                    after = key.to_vec();
                    Ok(ControlFlow::Continue(()))
                })?;
                if more {
                    store.write(std::mem::replace(&mut batch, store.batch()))?;
                    bytes = 0;
                }
            }
        }
        for key in &last {
            store.get(from, key, |row| batch.put(to, key, row))?;
            batch.delete(from, key);
        }
        store.write(batch)?;
        Ok(())
    }

    /// Forgets idempotency keys that still stand for these tasks.
    pub(crate) fn forget_keys(&mut self, keys: &[(TaskId, Vec<u8>)], now_ms: Millis) -> Result<()> {
        let mut turn = self.turn(now_ms);
        for (task, key) in keys {
            self.forget_key(&mut turn, *task, key)?;
        }
        self.commit(turn).map(drop)
    }

    fn forget_key(&self, turn: &mut Turn<S>, task: TaskId, key: &[u8]) -> Result<()> {
        let Shelf { store, index, .. } = &self.shelf;
        if store.get(index, key, |id| id == task.as_bytes())? == Some(true) {
            turn.batch.delete(index, key);
        }
        Ok(())
    }

    /// Removes what has expired by itself, at most so much; says whether there is more.
    pub(crate) fn expire(&mut self, now_ms: Millis, at_most: usize) -> Result<bool> {
        if now_ms < self.expiries.next_ms {
            return Ok(false);
        }
        let (mut due, mut next_ms, mut more) = (Vec::new(), Millis::MAX, false);
        let listed = self.shelf.visit(&self.shelf.index, key::EXPIRIES, &self.expiries.after, |key, _| {
            if let Some(Entry::Expiry { due_ms, of }) = Entry::parse(key) {
                if due_ms > now_ms || due.len() == at_most {
                    more = due_ms <= now_ms;
                    next_ms = due_ms;
                    return Ok(ControlFlow::Break(()));
                }
                due.push((key.to_vec(), due_ms, of));
            }
            Ok(ControlFlow::Continue(()))
        });
        for (key, due_ms, of) in due {
            match self.expire_one(&key, due_ms, of, now_ms) {
                // One that cannot be read keeps no other from its end.
                Err(e) if e.is_unreadable() => self.aside.passed_over(),
                gone => gone?,
            }
            self.expiries.after = key;
        }
        // What stands before damage goes before it is told of.
        listed?;
        self.expiries.next_ms = next_ms;
        Ok(more)
    }

    fn expire_one(&mut self, key: &[u8], due_ms: Millis, of: Expiring, now_ms: Millis) -> Result<()> {
        let mut turn = self.turn(now_ms);
        match of {
            Expiring::Event { queue, event } => {
                turn.batch.delete(&self.shelf.index, &key::of_event(&queue, &event));
            }
            Expiring::Task(id) => self.remove(&mut turn, id, due_ms)?,
        }
        turn.batch.delete(&self.shelf.index, key);
        self.commit(turn).map(drop)
    }

    /// Removes a task that has outlived its bucket and then ended, if it is still so.
    fn remove(&mut self, turn: &mut Turn<S>, id: TaskId, due_ms: Millis) -> Result<()> {
        let Some(stored) = self.find(id)? else { return Ok(()) };
        if !stored.entries().contains(&Entry::Expiry { due_ms, of: Expiring::Task(id) }) {
            return Ok(());
        }
        let space = self.shelf.bucket(stored.bucket)?;
        if let Some(key) = self.shelf.store.get(space, &key::of_task(Part::Idempotency, id), <[u8]>::to_vec)? {
            self.forget_key(turn, id, &key)?;
        }
        for rows in key::rows_of(id) {
            self.shelf.visit(space, &rows, &[], |key, _| {
                turn.batch.delete(space, key);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    }

    /// Refuses to begin anew what has ended in a bucket that is going.
    pub(crate) fn check_kept(&self, id: TaskId) -> Result<()> {
        let going = self.find(id)?.is_some_and(|stored| self.shelf.is_closing(stored.bucket));
        if going && !cairn_env::mutant("retried-in-a-closing-bucket") {
            return Err(Error::new(ErrorKind::Gone, format!("task {id} is not kept any longer; spawn it anew")));
        }
        Ok(())
    }
}
