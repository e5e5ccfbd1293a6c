//! What can be said about a task when it is spawned: by a program, by another task, or by whom it is registered, for
//! every spawn of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cairn_api::tasks::{Cancel, Spawn};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Builder;

use super::error::{AppError, Result, write};
use super::link::ServerClock;
use super::policy::{Retry, millis};

/// A task to be, with `By` who spawns it. What is not said is as registered with the task, or else as by default.
#[derive(Clone, Debug)]
#[must_use = "a task is spawned by send()"]
pub struct Spawning<By> {
    pub(crate) by: By,
    spawn: Spawn,
    headers: Map<String, Value>,
    /// Of what is registered; a spawn has none.
    version: Option<String>,
    problem: Option<AppError>,
}

/// What is said about a task, without anybody who spawns it: the defaults of a registered task, and what a hook
/// before a spawn changes.
pub type Options = Spawning<()>;

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    /// Nothing said yet.
    pub fn new() -> Options {
        Spawning::of((), "", &())
    }

    /// The name of the task; empty where they are defaults.
    pub fn name(&self) -> &str {
        &self.spawn.name
    }

    /// Where a task is registered: the version of its code, as a number of a release or the hash of a commit, of 1 to 128
    /// bytes. It is recorded in each task that this code is handed and shown with it; nothing is chosen by it. Workers
    /// say none unless this does. Of a spawn it says nothing.
    pub fn version(mut self, version: impl Into<String>) -> Options {
        self.version = Some(version.into());
        self
    }

    pub(crate) fn get_version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// A header that was set.
    pub fn get_header(&self, name: &str) -> Option<&Value> {
        self.headers.get(name)
    }
}

impl<By> Spawning<By> {
    pub(crate) fn of(by: By, name: &str, input: &(impl Serialize + ?Sized)) -> Spawning<By> {
        let (input, problem) = match write(&input, || format!("the input of task \"{name}\"")) {
            Ok(input) => (input, None),
            Err(problem) => (Default::default(), Some(problem)),
        };
        let spawn = Spawn {
            id: None,
            queue: None,
            name: name.to_owned(),
            input,
            headers: None,
            tags: BTreeMap::new(),
            idempotency_key: None,
            due_at_ms: None,
            delay_ms: None,
            priority: None,
            limit_key: None,
            retry: None,
            max_attempts: None,
            max_lost: None,
            cancel: None,
            pin: None,
        };
        Spawning { by, spawn, headers: Map::new(), version: None, problem }
    }

    /// The id that it will have, a UUIDv7. Made here if it is not given; whatever is sent twice happens once.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.spawn.id = Some(id.into());
        self
    }

    /// The queue; "default" if nobody says otherwise.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.spawn.queue = Some(queue.into());
        self
    }

    /// Of two spawns in a queue with the same key the second is the first, also after that has ended.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.spawn.idempotency_key = Some(key.into());
        self
    }

    /// Not before so long from now.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.spawn.delay_ms = Some(millis(delay));
        self
    }

    /// Not before this moment, in milliseconds since 1970.
    pub fn due_at_ms(mut self, due_at_ms: u64) -> Self {
        self.spawn.due_at_ms = Some(due_at_ms);
        self
    }

    /// Of two ready tasks the one with the larger number goes first; 0 if nobody says otherwise.
    pub fn priority(mut self, priority: i32) -> Self {
        self.spawn.priority = Some(priority);
        self
    }

    /// When to try again after a failure.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.spawn.retry = Some(retry.0);
        self
    }

    /// How often, from 1; 5 if nobody says otherwise.
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.spawn.max_attempts = Some(max_attempts);
        self
    }

    /// How many runs may be lost to workers that vanished; 3 if nobody says otherwise. They cost no attempt.
    pub fn max_lost(mut self, max_lost: u32) -> Self {
        self.spawn.max_lost = Some(max_lost);
        self
    }

    /// Cancelled if no worker has begun it so long after the spawn.
    pub fn max_delay(mut self, max_delay: Duration) -> Self {
        self.cancel().max_delay_ms = Some(millis(max_delay));
        self
    }

    /// Cancelled if it has not ended so long after a worker first began it: attempts, sleeps and waits together.
    pub fn max_duration(mut self, max_duration: Duration) -> Self {
        self.cancel().max_duration_ms = Some(millis(max_duration));
        self
    }

    fn cancel(&mut self) -> &mut Cancel {
        self.spawn.cancel.get_or_insert_default()
    }

    /// Something that goes along with the task, for its hooks.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Something to find it by.
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spawn.tags.insert(name.into(), value.into());
        self
    }

    /// Who spawns it, and what is said.
    pub(crate) fn split(self) -> (By, Options) {
        let Spawning { by, spawn, headers, version, problem } = self;
        (by, Spawning { by: (), spawn, headers, version, problem })
    }
}

impl Options {
    /// What is not said here is as there.
    pub(crate) fn or(mut self, defaults: &Options) -> Options {
        let (own, other) = (&mut self.spawn, defaults.spawn.clone());
        own.queue = own.queue.take().or(other.queue);
        own.idempotency_key = own.idempotency_key.take().or(other.idempotency_key);
        if own.due_at_ms.is_none() && own.delay_ms.is_none() {
            (own.due_at_ms, own.delay_ms) = (other.due_at_ms, other.delay_ms);
        }
        own.priority = own.priority.or(other.priority);
        own.retry = own.retry.or(other.retry);
        own.max_attempts = own.max_attempts.or(other.max_attempts);
        own.max_lost = own.max_lost.or(other.max_lost);
        own.cancel = own.cancel.or(other.cancel);
        for (name, value) in other.tags {
            own.tags.entry(name).or_insert(value);
        }
        for (name, value) in &defaults.headers {
            self.headers.entry(name).or_insert_with(|| value.clone());
        }
        self
    }

    /// As it is sent, with the id that it will have.
    pub(crate) fn into_wire(self, ids: &TaskIds, clock: &ServerClock) -> Result<(String, Spawn)> {
        let Spawning { mut spawn, headers, problem, .. } = self;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if !headers.is_empty() {
            spawn.headers = Some(write(&headers, || "the headers of a task".to_owned())?);
        }
        let id = spawn.id.take().unwrap_or_else(|| ids.next(clock));
        spawn.id = Some(id.clone());
        Ok((id, spawn))
    }

    pub(crate) fn queue_name(&self) -> Option<&str> {
        self.spawn.queue.as_deref()
    }
}

/// Makes the ids of tasks, UUIDv7. Those of one millisecond sort in the order in which they were made, and with them the
/// tasks in their queue.
#[derive(Debug, Default)]
pub(crate) struct TaskIds {
    /// When the last id was made, and its count within that millisecond. Held for this alone.
    last: Mutex<(u64, u32)>,
}

impl TaskIds {
    pub(crate) fn next(&self, clock: &ServerClock) -> String {
        self.made(clock.now_ms(), clock.env().random_u64(), clock.env().random_u64())
    }

    fn made(&self, now_ms: u64, start: u64, random: u64) -> String {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // 26 bits behind the time; drawn from the lower half, so that there is room to count.
        let count = match *last {
            (last_ms, count) if last_ms == now_ms => count.wrapping_add(1),
            _ => (start >> 39) as u32,
        };
        *last = (now_ms, count);
        drop(last);
        let [a, b, c, d, e, f, ..] = random.to_be_bytes();
        // Where a UUID has its version and variant the bytes give four and six bits.
        let [w, x, y, z] = [count >> 22, count >> 14, count >> 8 & 0x3f, count].map(|bits| bits as u8);
        Builder::from_unix_timestamp_millis(now_ms, &[w, x, y, z, a, b, c, d, e, f])
            .into_uuid()
            .hyphenated()
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn ids_of_one_millisecond_sort_as_they_were_made() {
        for start in [0, 1 << 45, u64::MAX] {
            let ids = TaskIds::default();
            let made: Vec<String> =
                (0..20_000).map(|n: u64| ids.made(7, start, n.wrapping_mul(u64::MAX / 5))).collect();
            assert!(made.is_sorted_by(|before, after| before < after), "from {start}");
            for id in &made {
                let uuid: Uuid = id.parse().unwrap();
                assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
                assert!(id.starts_with("00000000-0007-7"), "{id}");
            }
            assert!(made.last() < Some(&ids.made(8, 0, 0)));
        }
    }
}
