//! The records in a store: reading a task whole, and writing what a decision makes of it.
//!
//! A task's rows stand in the bucket of the day on which its id was made and of the days that its queue keeps
//! what has ended; a bucket is a space of its own, so that it can be dropped whole. Tasks that outlive their
//! bucket stand in one without a day ([`crate::retention`]). Everything else stands in the space "tasks".

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use cairn_codec::DecodeError;
use cairn_store::{Batch, Store};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Millis, TaskId};
use crate::key::{self, Entry, Expiring, Part};
use crate::machine::{Decision, Record};
use crate::rows::{self, Row};
use crate::step::{Step, StepId};
use crate::task::{EndedRun, Json, Spec, State, Task};
use crate::wait::Wait;

const INDEX: &str = "tasks";
const DAY_MS: Millis = 86_400_000;

/// Which bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BucketId {
    /// Days since 1970, or [`KEPT`].
    day: u64,
    /// How long what has ended is kept.
    retention_days: u32,
}

/// In place of a day: what outlives the bucket of its day.
const KEPT: u64 = u64::MAX;

impl BucketId {
    pub(crate) fn of(id: TaskId, retention_days: u32) -> BucketId {
        BucketId { day: id.made_ms() / DAY_MS, retention_days }
    }

    /// The day of its tasks, since 1970; none if they have outlived theirs.
    pub(crate) fn day(self) -> Option<u64> {
        (self.day != KEPT).then_some(self.day)
    }

    /// The least id that a day can have.
    pub(crate) fn first_of(day: u64) -> TaskId {
        TaskId::first(day.saturating_mul(DAY_MS))
    }

    /// Where tasks of this bucket go that outlive it.
    pub(crate) fn kept(self) -> BucketId {
        BucketId { day: KEPT, ..self }
    }

    /// When nothing in it is to be kept any more, but what has not ended. Never, for one without a day.
    pub(crate) fn ends_ms(self) -> Millis {
        let days = self.day.saturating_add(1).saturating_add(u64::from(self.retention_days));
        days.saturating_mul(DAY_MS)
    }

    pub(crate) fn name(self) -> String {
        match self.day {
            KEPT => format!("tasks-kept-{}", self.retention_days),
            day => format!("tasks-{day}-{}", self.retention_days),
        }
    }

    fn parse(name: &str) -> Option<BucketId> {
        let (day, retention_days) = name.strip_prefix("tasks-")?.split_once('-')?;
        let day = if day == "kept" { KEPT } else { day.parse().ok()? };
        let id = BucketId { day, retention_days: retention_days.parse().ok()? };
        (id.name() == name).then_some(id)
    }
}

/// A task as it is read.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: TaskId,
    pub(crate) bucket: BucketId,
    pub(crate) spec: Arc<Spec>,
    pub(crate) task: Task,
    pub(crate) waits: Vec<Wait>,
}

impl Stored {
    pub(crate) fn record(&self) -> Record<'_> {
        Record { spec: &self.spec, task: &self.task, waits: &self.waits }
    }

    /// Its entries in the index. One that has outlived its bucket expires by itself.
    pub(crate) fn entries(&self) -> BTreeSet<Entry> {
        let mut entries = key::entries(self.id, self.record());
        if self.bucket == self.bucket.kept()
            && let Some(ended_ms) = self.task.status.ended_ms()
        {
            let due_ms = ended_ms.saturating_add(u64::from(self.bucket.retention_days) * DAY_MS);
            entries.insert(Entry::Expiry { due_ms, of: Expiring::Task(self.id) });
        }
        entries
    }
}

/// The records of a store.
#[derive(Debug)]
pub(crate) struct Shelf<S: Store> {
    pub(crate) store: S,
    pub(crate) index: S::Space,
    buckets: BTreeMap<BucketId, S::Space>,
    /// Those that are being emptied and dropped: nothing is put into them any more.
    closing: BTreeSet<BucketId>,
}

impl<S: Store> Shelf<S> {
    /// The records that a store holds.
    pub(crate) fn open(store: S) -> Result<Shelf<S>> {
        let index = store.space(INDEX)?;
        let mut buckets = BTreeMap::new();
        for name in store.spaces() {
            if let Some(id) = BucketId::parse(&name) {
                buckets.insert(id, store.space(&name)?);
            }
        }
        Ok(Shelf { store, index, buckets, closing: BTreeSet::new() })
    }

    /// Opens a bucket, making it if there is none.
    pub(crate) fn make_bucket(&mut self, id: BucketId) -> Result<S::Space> {
        if let Some(space) = self.buckets.get(&id) {
            return Ok(space.clone());
        }
        let space = self.store.space(&id.name())?;
        self.buckets.insert(id, space.clone());
        Ok(space)
    }

    /// The bucket for a new task, or the one that outlives it.
    pub(crate) fn bucket_for(&self, id: TaskId, retention_days: u32, now_ms: Millis) -> BucketId {
        let bucket = BucketId::of(id, retention_days);
        if bucket.ends_ms() <= now_ms || self.closing.contains(&bucket) { bucket.kept() } else { bucket }
    }

    /// The first bucket whose time is over, and when that of the next will be.
    pub(crate) fn past(&self, now_ms: Millis) -> (Option<BucketId>, Millis) {
        let open = self.buckets.keys().filter(|id| !self.closing.contains(id));
        match open.min_by_key(|id| id.ends_ms()) {
            Some(first) if first.ends_ms() <= now_ms => (Some(*first), now_ms),
            Some(first) => (None, first.ends_ms()),
            None => (None, Millis::MAX),
        }
    }

    /// Lets nothing new into a bucket.
    pub(crate) fn close_bucket(&mut self, id: BucketId) -> Option<S::Space> {
        self.closing.insert(id);
        self.buckets.get(&id).cloned()
    }

    /// Whether a bucket is being emptied.
    pub(crate) fn is_closing(&self, id: BucketId) -> bool {
        self.closing.contains(&id)
    }

    /// Takes a closing bucket away, before it is dropped.
    pub(crate) fn take_bucket(&mut self, id: BucketId) {
        self.buckets.remove(&id);
    }

    /// Puts back one that could not be dropped. It stays closing.
    pub(crate) fn put_back(&mut self, id: BucketId, space: &S::Space) {
        self.buckets.insert(id, space.clone());
    }

    /// A bucket is dropped: one of its name would be another.
    pub(crate) fn end_closing(&mut self, id: BucketId) {
        self.closing.remove(&id);
    }

    pub(crate) fn bucket(&self, id: BucketId) -> Result<&S::Space> {
        self.buckets.get(&id).ok_or_else(|| Error::new(ErrorKind::Gone, format!("{} is not kept any more", id.name())))
    }

    /// All buckets, the oldest day first.
    pub(crate) fn buckets(&self) -> Vec<(BucketId, S::Space)> {
        self.buckets.iter().map(|(id, space)| (*id, space.clone())).collect()
    }

    /// The buckets that a task may be in.
    fn candidates(&self, id: TaskId) -> impl Iterator<Item = (BucketId, &S::Space)> {
        let (first, last) = (BucketId::of(id, 0), BucketId::of(id, u32::MAX));
        let of_its_day = self.buckets.range(first..=last);
        let kept = self.buckets.range(first.kept()..);
        of_its_day.chain(kept).map(|(id, space)| (*id, space))
    }

    /// Reads a task whole.
    pub(crate) fn load(&self, id: TaskId) -> Result<Option<Stored>> {
        let Some((bucket, task)) = self.task(id)? else { return Ok(None) };
        let space = self.bucket(bucket)?;
        let spec = self.store.get(space, &key::of_task(Part::Spec, id), Spec::decode)?;
        let spec = spec.ok_or_else(|| missing("spec", id))?.map_err(|e| damaged("spec", id, &e))?;
        let may_wait = task.was_begun() && !task.status.state().has_ended();
        let waits = if may_wait { self.waits(space, id)? } else { Vec::new() };
        Ok(Some(Stored { id, bucket, spec: Arc::new(spec), task, waits }))
    }

    /// Reads how far a task is, and no more.
    pub(crate) fn task(&self, id: TaskId) -> Result<Option<(BucketId, Task)>> {
        let key = key::of_task(Part::Task, id);
        for (bucket, space) in self.candidates(id) {
            if let Some(task) = self.store.get(space, &key, Task::decode)? {
                return Ok(Some((bucket, task.map_err(|e| damaged("task", id, &e))?)));
            }
        }
        Ok(None)
    }

    fn waits(&self, space: &S::Space, id: TaskId) -> Result<Vec<Wait>> {
        let mut waits = Vec::new();
        self.visit(space, &key::waits_of(id), &[], |key, row| {
            let step = key::step_id(key).ok_or_else(|| missing("id of a wait", id))?;
            waits.push(rows::decode_wait(step, row).map_err(|e| damaged("wait", id, &e))?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(waits)
    }

    /// Visits the rows whose keys begin with `prefix`, behind `after` if that is one of them.
    pub(crate) fn visit(
        &self,
        space: &S::Space,
        prefix: &[u8],
        after: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        Shelf::visit_in(&self.store, space, prefix, after, visit)
    }

    /// The same, of a store.
    pub(crate) fn visit_in(
        store: &S,
        space: &S::Space,
        prefix: &[u8],
        after: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut start = prefix.to_vec();
        if after > prefix {
            start.clear();
            start.extend_from_slice(after);
            start.push(0);
        }
        let mut end = prefix.to_vec();
        while end.pop_if(|last| *last == u8::MAX).is_some() {}
        let bounded = end.last_mut().map(|last| *last += 1).is_some();
        let mut failed = None;
        store.scan(space, &start, bounded.then_some(end.as_slice()), |key, row| match visit(key, row) {
            Ok(flow) => flow,
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// A recorded step.
    pub(crate) fn step(&self, stored: &Stored, step: &StepId) -> Result<Option<Step>> {
        let space = self.bucket(stored.bucket)?;
        let row = self.store.get(space, &key::of_step(stored.id, step), Step::decode)?;
        row.transpose().map_err(|e| damaged("step", stored.id, &e))
    }

    /// Recorded steps in the order of their ids, behind `after`, as long as their values have `bytes_max` bytes
    /// together (one at least), and whether there are more.
    pub(crate) fn steps(
        &self,
        stored: &Stored,
        after: Option<&StepId>,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<(StepId, Step)>, bool)> {
        let space = self.bucket(stored.bucket)?;
        let after = after.map_or_else(Vec::new, |step| key::of_step(stored.id, step));
        let (mut steps, mut bytes, mut more) = (Vec::new(), 0, false);
        self.visit(space, &key::steps_of(stored.id), &after, |key, row| {
            if !steps.is_empty() && (steps.len() >= count_max || bytes + row.len() > bytes_max) {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            bytes += row.len();
            let id = key::step_id(key).ok_or_else(|| missing("id of a step", stored.id))?;
            steps.push((id, Step::decode(row).map_err(|e| damaged("step", stored.id, &e))?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((steps, more))
    }

    /// The largest number of a recorded step.
    pub(crate) fn last_seq(&self, stored: &Stored) -> Result<u32> {
        let (steps, _) = self.steps(stored, None, usize::MAX, usize::MAX)?;
        Ok(steps.iter().map(|(_, step)| step.seq).max().unwrap_or(0))
    }

    /// The runs of a task that have ended, in order, behind the `after`th, as long as they have `bytes_max` bytes
    /// together (one at least), and whether there are more.
    pub(crate) fn runs(
        &self,
        stored: &Stored,
        after: u32,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<EndedRun>, bool)> {
        let space = self.bucket(stored.bucket)?;
        let (mut runs, mut bytes, mut more) = (Vec::new(), 0, false);
        self.visit(space, &key::runs_of(stored.id), &key::of_run(stored.id, after), |_, row| {
            bytes += row.len();
            if !runs.is_empty() && (runs.len() >= count_max || bytes > bytes_max) {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            runs.push(EndedRun::decode(row).map_err(|e| damaged("run", stored.id, &e))?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((runs, more))
    }

    /// What a task returned.
    pub(crate) fn output(&self, bucket: BucketId, id: TaskId) -> Result<Option<Json>> {
        let space = self.bucket(bucket)?;
        Ok(self.store.get(space, &key::of_task(Part::Output, id), |output| output.into())?)
    }

    /// Adds a new task to a batch.
    pub(crate) fn insert(&mut self, batch: &mut S::Batch, stored: &Stored) -> Result<Change> {
        let space = self.make_bucket(stored.bucket)?;
        batch.put(&space, &key::of_task(Part::Spec, stored.id), &stored.spec.encode());
        batch.put(&space, &key::of_task(Part::Task, stored.id), &stored.task.encode());
        let added = Vec::from_iter(stored.entries());
        for entry in &added {
            batch.put(&self.index, &entry.key(), &[]);
        }
        Ok(Change { removed: Vec::new(), added })
    }

    /// Adds to a batch what a decision makes of a task, and leaves the task as it then is.
    pub(crate) fn apply(&self, batch: &mut S::Batch, stored: &mut Stored, decision: &Decision) -> Result<Change> {
        let space = self.bucket(stored.bucket)?;
        let id = stored.id;
        let before = stored.entries();
        let (was, is) = (by_id(&stored.waits), by_id(&decision.waits));
        for step in was.keys().filter(|step| !is.contains_key(*step)) {
            batch.delete(space, &key::of_wait(id, step));
        }
        for (step, wait) in is.iter().filter(|(step, wait)| was.get(*step) != Some(*wait)) {
            batch.put(space, &key::of_wait(id, step), &rows::encode_wait(wait));
        }
        for (step, recorded) in &decision.steps {
            batch.put(space, &key::of_step(id, step), &recorded.encode());
        }
        if let Some(run) = &decision.ended_run {
            batch.put(space, &key::of_run(id, decision.task.runs_ended), &run.encode());
        }
        if let Some(output) = &decision.output {
            batch.put(space, &key::of_task(Part::Output, id), output);
        }
        // How many steps a running task has recorded is known to who handed it out; the row need not follow.
        let row = |task: &Task| match task.status.state() {
            State::Running => Task { steps: 0, ..task.clone() },
            _ => task.clone(),
        };
        if row(&stored.task) != row(&decision.task) {
            batch.put(space, &key::of_task(Part::Task, id), &decision.task.encode());
        }
        stored.task = decision.task.clone();
        stored.waits = decision.waits.clone();
        let after = stored.entries();
        let change = Change {
            removed: before.difference(&after).cloned().collect(),
            added: after.difference(&before).cloned().collect(),
        };
        for entry in change.removed.iter().filter(|_| !cairn_env::mutant("index-entry-stays")) {
            batch.delete(&self.index, &entry.key());
        }
        for entry in &change.added {
            batch.put(&self.index, &entry.key(), &[]);
        }
        Ok(change)
    }
}

/// How the index has changed.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) removed: Vec<key::Entry>,
    pub(crate) added: Vec<key::Entry>,
}

fn by_id(waits: &[Wait]) -> BTreeMap<&StepId, &Wait> {
    waits.iter().map(|wait| (&wait.id, wait)).collect()
}

pub(crate) fn damaged(what: &str, id: TaskId, e: &DecodeError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the {what} of task {id} is damaged: {e}"))
}

fn missing(what: &str, id: TaskId) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the {what} of task {id} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_buckets_are_taken_for_one() {
        let id = BucketId { day: 20_415, retention_days: 30 };
        assert_eq!(BucketId::parse(&id.name()), Some(id));
        assert_eq!(BucketId::parse("tasks-kept-30"), Some(id.kept()));
        assert_eq!((id.ends_ms() / DAY_MS, id.kept().ends_ms()), (20_446, u64::MAX));
        for name in [
            "tasks",
            "tasks-",
            "tasks-kept",
            "tasks-18446744073709551615-3",
            "tasks-1",
            "tasks-01-30",
            "tasks-1-+3",
            "tasks-1-2-3",
            "users",
        ] {
            assert_eq!(BucketId::parse(name), None, "{name}");
        }
        let (early, late) = (TaskId::new(DAY_MS - 1, [0; 10]), TaskId::new(DAY_MS, [0; 10]));
        assert!(BucketId::of(early, u32::MAX) < BucketId::of(late, 0));
    }
}
