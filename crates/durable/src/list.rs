//! Lists: tasks with the newest first, and the events of a queue.
//!
//! A list of tasks walks the buckets from the newest day on, and in each the ids from behind. The walk reads the
//! store without the owner's lock and looks at so many rows at most; so a list over millions of tasks holds up
//! nobody, and comes in pages. What the walk finds is then read whole under the lock, a few tasks at a time,
//! and asked again: what is shown is as the filter says at the moment at which it is shown.
//!
//! Tasks that have outlived their day stand in buckets without one, which are walked beside each day's. A move
//! there may happen during the walk; so of a stretch of ids these are read last, and what was met twice is one.
//!
//! Guarantees, page after page: no task twice, the newer id first, and every task that was there all the time and
//! was as the filter says all the time. Refuses an order of its own: ids alone decide, by the time in them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use cairn_store::Store;

use crate::error::{Error, ErrorKind, Result};
use crate::id::TaskId;
use crate::key::{self, Part};
use crate::queue::Event;
use crate::rows::Row;
use crate::shelf::{BucketId, damaged};
use crate::task::{Spec, State, Status, Task};
use crate::tasks::{Answer, Tasks, View};
use crate::wait::Target;

/// One page looks at so many tasks at most, however few of them are as asked for.
const LOOKED_AT_MAX: usize = 10_000;
/// And at specs of so many bytes together.
const LOOKED_AT_BYTES_MAX: usize = 32 << 20;
/// The walk reads so many rows at once.
const ROWS_AT_ONCE: usize = 512;
/// So many tasks are read under the lock before others get their turn.
const VIEWS_AT_ONCE: usize = 32;
/// What the tasks or events of a page carry has so many bytes together, or it has one entry.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Which tasks are listed: those that are as every part says that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// In one of these states now; in any if there are none.
    pub states: BTreeSet<State>,
    /// With this tag, whatever its value; or with `tag=value`.
    pub tag: Option<String>,
}

impl Filter {
    fn takes_spec(&self, spec: &Spec) -> bool {
        let tagged = |wanted: &String| {
            spec.tags.iter().any(|(tag, value)| {
                let rest = wanted.strip_prefix(tag.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('=') == Some(value))
            })
        };
        self.queue.as_ref().is_none_or(|queue| *queue == spec.queue)
            && self.name.as_ref().is_none_or(|name| *name == spec.name)
            && self.tag.as_ref().is_none_or(tagged)
    }

    fn takes_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether the spec must be read to tell.
    fn asks_spec(&self) -> bool {
        self.queue.is_some() || self.name.is_some() || self.tag.is_some()
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, Cursor> {
    /// In order.
    pub items: Vec<T>,
    /// Where the next page begins. A page may have few items, or none, and there may be more behind it.
    pub next: Option<Cursor>,
}

impl<S: Store> Tasks<S> {
    /// Tasks, the newest first, from behind `after` on and at most `limit` of them.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; `Corrupt`, `Io`, `Closed`.
    pub fn list(&self, filter: &Filter, after: Option<TaskId>, limit: usize) -> Answer<S, Page<View, TaskId>> {
        self.reveal(self.page_of_tasks(filter, after, limit.max(1)))
    }

    fn page_of_tasks(&self, filter: &Filter, after: Option<TaskId>, limit: usize) -> Result<Page<View, TaskId>> {
        self.locked(|owner| filter.queue.as_deref().map_or(Ok(()), |queue| owner.queue(queue).map(drop)))?;
        let (found, next) = self.walk(filter, after, limit)?;
        let mut page = Page { items: Vec::<View>::new(), next };
        let mut bytes = 0;
        for ids in found.chunks(VIEWS_AT_ONCE) {
            let full = self.locked(|owner| {
                for id in ids {
                    let Some(stored) = owner.find(*id)? else { continue };
                    if !filter.takes_state(stored.task.status.state()) {
                        continue;
                    }
                    let view = owner.view(stored)?;
                    bytes += bytes_of(&view);
                    if bytes > PAGE_BYTES_MAX
                        && let Some(last) = page.items.last()
                    {
                        page.next = Some(last.id);
                        return Ok(true);
                    }
                    page.items.push(view);
                }
                Ok(false)
            })?;
            if full {
                break;
            }
        }
        Ok(page)
    }

    /// The events of a queue whose names begin with `prefix`, in the order of their names, from behind `after` on and
    /// at most `limit` of them.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; `Invalid` if `after` does not begin with the prefix; `Corrupt`, `Io`,
    /// `Closed`.
    pub fn events(
        &self,
        queue: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<S, Page<(String, Event), String>> {
        self.reveal(self.page_of_events(queue, prefix, after, limit.max(1)))
    }

    fn page_of_events(
        &self,
        queue: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(String, Event), String>> {
        if let Some(after) = after.filter(|after| !after.starts_with(prefix)) {
            return Err(Error::invalid(format!(
                "the list of events that begin with \"{}\" cannot go on behind \"{}\"",
                prefix.escape_debug(),
                after.escape_debug()
            )));
        }
        let all = key::of_event(queue, "");
        let after = after.map_or_else(Vec::new, |after| key::of_event(queue, after));
        let mut page = Page { items: Vec::<(String, Event)>::new(), next: None };
        let mut bytes = 0;
        self.locked(|owner| {
            owner.queue(queue)?;
            owner.shelf.visit(&owner.shelf.index, &key::of_event(queue, prefix), &after, |key, row| {
                bytes += row.len();
                if !page.items.is_empty() && (page.items.len() >= limit || bytes > PAGE_BYTES_MAX) {
                    page.next = page.items.last().map(|(name, _)| name.clone());
                    return Ok(ControlFlow::Break(()));
                }
                let name = String::from_utf8_lossy(key.get(all.len()..).unwrap_or_default()).into_owned();
                let damaged = |e| {
                    Error::new(ErrorKind::Corrupt, format!("event \"{name}\" of queue \"{queue}\" is damaged: {e}"))
                };
                let event = Event::decode(row).map_err(damaged)?;
                page.items.push((name, event));
                Ok(ControlFlow::Continue(()))
            })
        })?;
        Ok(page)
    }
}

impl<S: Store> Tasks<S> {
    /// A task of a queue that has not ended, if there is one. Each task is looked at once.
    pub(crate) fn open_in(&self, queue: &str) -> Result<Option<TaskId>> {
        let states = State::ALL.into_iter().filter(|state| !state.has_ended()).collect();
        let filter = Filter { queue: Some(queue.to_owned()), states, ..Filter::default() };
        let mut after = None;
        loop {
            let (found, next) = self.walk(&filter, after, 1)?;
            after = next;
            if after.is_none() || !found.is_empty() {
                return Ok(found.first().copied());
            }
        }
    }

    /// Finds at most `limit` tasks behind `after`. If the walk ends before the oldest task, says at which one.
    fn walk(&self, filter: &Filter, after: Option<TaskId>, limit: usize) -> Result<(Vec<TaskId>, Option<TaskId>)> {
        let buckets = || self.locked(|owner| Ok((owner.shelf.store.clone(), owner.shelf.buckets())));
        let without_day = |buckets: &[(BucketId, S::Space)]| {
            buckets.iter().map(|(bucket, _)| *bucket).filter(|bucket| bucket.day().is_none()).collect::<Vec<_>>()
        };
        let (store, mut known) = buckets()?;
        loop {
            let mut walk = Walk { store: &store, filter, found: Vec::new(), limit, looked_at: 0, bytes: 0 };
            let next = walk.buckets(&known, after)?;
            // Tasks may have moved to a bucket that there was none of before.
            let (_, now) = buckets()?;
            if without_day(&now) == without_day(&known) {
                return Ok((walk.found, next));
            }
            known = now;
        }
    }
}

/// A walk over tasks from the newest on.
struct Walk<'a, S: Store> {
    store: &'a S,
    filter: &'a Filter,
    found: Vec<TaskId>,
    limit: usize,
    looked_at: usize,
    bytes: usize,
}

impl<S: Store> Walk<'_, S> {
    /// Walks on from behind `after`. If it ends before the oldest task, says at which one.
    fn buckets(&mut self, buckets: &[(BucketId, S::Space)], after: Option<TaskId>) -> Result<Option<TaskId>> {
        let spaces = |day: Option<u64>| {
            buckets.iter().filter(move |(bucket, _)| bucket.day() == day).map(|(_, space)| space.clone())
        };
        let mut days: Vec<u64> = buckets.iter().filter_map(|(bucket, _)| bucket.day()).collect();
        days.dedup();
        let mut before = after;
        for day in days.into_iter().rev() {
            let down_to = BucketId::first_of(day);
            if before.is_some_and(|before| before <= down_to) {
                continue;
            }
            let of_day: Vec<S::Space> = spaces(Some(day)).chain(spaces(None)).collect();
            if let Some(at) = self.stretch(&of_day, before, down_to)? {
                return Ok(Some(at));
            }
            before = Some(down_to);
        }
        let rest: Vec<S::Space> = spaces(None).collect();
        self.stretch(&rest, before, TaskId::from_bytes([0; 16]))
    }

    /// Walks some buckets as if they were one, from behind `after` down to an id. What stands in several is taken from
    /// the first.
    fn stretch(&mut self, spaces: &[S::Space], after: Option<TaskId>, down_to: TaskId) -> Result<Option<TaskId>> {
        let mut before = after;
        loop {
            let mut met: Vec<(TaskId, bool)> = Vec::new();
            // To here every bucket has been read.
            let mut read_to = None;
            for space in spaces {
                let count = self.rows(space, before, down_to, |id, takes| met.push((id, takes)))?;
                if count == ROWS_AT_ONCE {
                    read_to = read_to.max(met.last().map(|(id, _)| *id));
                }
            }
            met.retain(|(id, _)| read_to.is_none_or(|read_to| *id >= read_to));
            // Of a task that was met twice, before and after a move, the one that is as asked for stands first.
            met.sort_unstable_by(|a, b| b.cmp(a));
            met.dedup_by_key(|(id, _)| *id);
            for (id, takes) in met {
                if takes && self.takes_spec(spaces, id)? {
                    self.found.push(id);
                }
                self.looked_at += 1;
                if self.found.len() == self.limit
                    || self.looked_at == LOOKED_AT_MAX
                    || self.bytes >= LOOKED_AT_BYTES_MAX
                {
                    return Ok(Some(id));
                }
            }
            if read_to.is_none() {
                return Ok(None);
            }
            before = read_to;
        }
    }

    /// Reads the next rows of a bucket; says how many.
    fn rows(
        &self,
        space: &S::Space,
        before: Option<TaskId>,
        down_to: TaskId,
        mut met: impl FnMut(TaskId, bool),
    ) -> Result<usize> {
        let start = key::of_task(Part::Task, down_to);
        let behind = || vec![start.first().copied().unwrap_or_default() + 1];
        let end = before.map_or_else(behind, |id| key::of_task(Part::Task, id));
        let (mut count, mut failed) = (0, None);
        let scanned = self.store.scan_back(space, &start, Some(&end), |key, row| {
            match key::task_of(key).ok_or_else(|| none_of_a_task(key)).and_then(|id| Ok((id, state_in(id, row)?))) {
                Ok((id, state)) => met(id, self.filter.takes_state(state)),
                Err(e) => failed = Some(e),
            }
            count += 1;
            if count == ROWS_AT_ONCE || failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        gone_is_empty(scanned.map_err(Error::from))?;
        failed.map_or(Ok(count), Err)
    }

    fn takes_spec(&mut self, spaces: &[S::Space], id: TaskId) -> Result<bool> {
        if !self.filter.asks_spec() {
            return Ok(true);
        }
        let filter = self.filter;
        let look = |row: &[u8]| (row.len(), Spec::decode(row).map(|spec| filter.takes_spec(&spec)));
        for space in spaces {
            let looked = self.store.get(space, &key::of_task(Part::Spec, id), look).map_err(Error::from);
            if let Some((bytes, takes)) = gone_is_empty(looked)?.flatten() {
                self.bytes += bytes;
                return takes.map_err(|e| damaged("spec", id, &e));
            }
        }
        Ok(false)
    }
}

/// How large a task is as it is shown, about.
fn bytes_of(view: &View) -> usize {
    let View { spec, task, waits, output, .. } = view;
    let end = match &task.status {
        Status::Failed { failure, .. } => failure.bytes(),
        Status::Cancelled { reason, .. } => reason.len(),
        Status::Queued { .. } | Status::Running { .. } | Status::Waiting { .. } | Status::Completed { .. } => 0,
    };
    let tags = spec.tags.iter().map(|(tag, value)| tag.len() + value.len());
    let waits = waits.iter().map(|wait| {
        wait.id.as_str().len()
            + match &wait.target {
                Target::Event(name) => name.len(),
                Target::Timer(_) | Target::Task(_) => size_of::<TaskId>(),
            }
    });
    let payloads = spec.input.len() + spec.headers.len() + output.as_ref().map_or(0, |output| output.len());
    payloads + end + tags.sum::<usize>() + waits.sum::<usize>()
}

/// What is not kept any more is not listed: a bucket may be dropped during the walk.
fn gone_is_empty<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn state_in(id: TaskId, row: &[u8]) -> Result<State> {
    Ok(Task::decode(row).map_err(|e| damaged("task", id, &e))?.status.state())
}

fn none_of_a_task(key: &[u8]) -> Error {
    Error::new(ErrorKind::Corrupt, format!("among the tasks stands what is none: {key:02x?}"))
}
