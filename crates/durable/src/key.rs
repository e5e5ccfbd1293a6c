//! The key map: where each record stands, and the order in which a scan meets them.
//!
//! ```text
//! in the space of the task's bucket
//!   's' task:16               its spec
//!   't' task:16               how far it is
//!   'o' task:16               what it returned
//!   'i' task:16               the key below of its idempotency key
//!   'r' task:16 n:u32         the n-th run that has ended
//!   'c' task:16 step id       a recorded step
//!   'w' task:16 step id       an open wait
//! in the space "tasks"
//!   'q' queue                 its settings
//!   'R' queue 0 name 0 priority:u32 due_ms:u64 task:16      ready from then on: of a lane the first is the next
//!   'L' task:16               a worker has it
//!   'T' due_ms:u64 task:16    the clock makes something of it then
//!   'E' queue 0 event         an event that was emitted
//!   'V' queue 0 event 0 task:16    who waits for an event
//!   'U' task:16 task:16       who waits for the end of a task: that task, then the waiting one
//!   'I' queue 0 key           the task that was spawned with this idempotency key
//!   'X' due_ms:u64 what       is removed then: 'e' queue 0 event, or 't' task:16 that has outlived its bucket
//!   'C' target                what has come of it, while not all who wait know: 'e' queue 0 event, or 't' task:16
//!   'A' task:16 target        what a task is to be told that waits and could not be read: of 'e' event, or 't' task:16
//!   'D' queue                 it is being deleted
//! ```
//! Numbers are big-endian, so that they sort; a priority is turned over, so that the largest comes first. Names
//! hold no zero byte. Rows in capitals are an index: they follow from the records ([`entries`]), are written in
//! the same batch, and hold nothing.

use std::collections::BTreeSet;

use crate::id::{Millis, TaskId};
use crate::machine::{self, Record};
use crate::step::StepId;
use crate::task::{Spec, Status};
use crate::wait::Target;

/// Where the rows of a task stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What was asked for.
    Spec,
    /// How far it is.
    Task,
    /// What it returned.
    Output,
    /// Where its idempotency key stands.
    Idempotency,
}

/// The key of one of a task's single rows.
pub fn of_task(part: Part, id: TaskId) -> Vec<u8> {
    let tag = match part {
        Part::Spec => b's',
        Part::Task => b't',
        Part::Output => b'o',
        Part::Idempotency => b'i',
    };
    tagged(tag, id)
}

/// The key of the `n`th ended run, from 1.
pub fn of_run(id: TaskId, n: u32) -> Vec<u8> {
    let mut key = tagged(b'r', id);
    key.extend_from_slice(&n.to_be_bytes());
    key
}

/// The key of a recorded step.
pub fn of_step(id: TaskId, step: &StepId) -> Vec<u8> {
    let mut key = tagged(b'c', id);
    key.extend_from_slice(step.as_str().as_bytes());
    key
}

/// The key of an open wait.
pub fn of_wait(id: TaskId, step: &StepId) -> Vec<u8> {
    let mut key = tagged(b'w', id);
    key.extend_from_slice(step.as_str().as_bytes());
    key
}

/// What the keys of a task's recorded steps begin with.
pub fn steps_of(id: TaskId) -> Vec<u8> {
    tagged(b'c', id)
}

/// What the keys of a task's open waits begin with.
pub fn waits_of(id: TaskId) -> Vec<u8> {
    tagged(b'w', id)
}

/// What the keys of a task's ended runs begin with.
pub fn runs_of(id: TaskId) -> Vec<u8> {
    tagged(b'r', id)
}

/// The step that the key of a step or a wait is of.
pub fn step_id(key: &[u8]) -> Option<StepId> {
    StepId::new(std::str::from_utf8(key.get(17..)?).ok()?).ok()
}

fn tagged(tag: u8, id: TaskId) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    key.push(tag);
    key.extend_from_slice(id.as_bytes());
    key
}

/// The tasks of a queue that one worker takes one after the other: those of one name and one priority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// The queue.
    pub queue: String,
    /// The name of the tasks.
    pub name: String,
    /// Their priority, turned over: the first lane has the largest.
    pub rank: u32,
}

impl Lane {
    /// The lane of a task.
    pub fn of(spec: &Spec) -> Lane {
        // The sign bit turned over sorts negative numbers first; all bits turned over, last.
        let rank = !(spec.priority as u32 ^ 0x8000_0000);
        Lane { queue: spec.queue.clone(), name: spec.name.clone(), rank }
    }

    /// What its keys begin with.
    pub fn prefix(&self) -> Vec<u8> {
        let mut key = named(b'R', &[&self.queue, &self.name, ""]);
        key.extend_from_slice(&self.rank.to_be_bytes());
        key
    }
}

/// Index entries. They sort as their keys do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// A worker has it.
    Live(TaskId),
    /// Ready from a moment on.
    Ready {
        /// Among which.
        lane: Lane,
        /// From when on.
        due_ms: Millis,
        /// The task.
        task: TaskId,
    },
    /// The clock makes something of it.
    Timer {
        /// When.
        due_ms: Millis,
        /// The task.
        task: TaskId,
    },
    /// It waits for the end of a task.
    ForTask {
        /// Of this one.
        target: TaskId,
        /// Who waits.
        task: TaskId,
    },
    /// It waits for an event.
    ForEvent {
        /// Of this queue.
        queue: String,
        /// Of this name.
        event: String,
        /// Who waits.
        task: TaskId,
    },
    /// Something is removed.
    Expiry {
        /// When.
        due_ms: Millis,
        /// What.
        of: Expiring,
    },
}

/// What has a time of its own to be removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiring {
    /// An event.
    Event {
        /// Of this queue.
        queue: String,
        /// Of this name.
        event: String,
    },
    /// A task that has ended after its bucket had gone.
    Task(TaskId),
}

impl Entry {
    /// The key that stands for it.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Entry::Ready { lane, due_ms, task } => {
                let mut key = lane.prefix();
                key.extend_from_slice(&due_ms.to_be_bytes());
                key.extend_from_slice(task.as_bytes());
                key
            }
            Entry::Live(task) => tagged(b'L', *task),
            Entry::Timer { due_ms, task } => {
                let mut key = vec![b'T'];
                key.extend_from_slice(&due_ms.to_be_bytes());
                key.extend_from_slice(task.as_bytes());
                key
            }
            Entry::ForEvent { queue, event, task } => {
                let mut key = waiters_for_event(queue, event);
                key.extend_from_slice(task.as_bytes());
                key
            }
            Entry::ForTask { target, task } => {
                let mut key = waiters_for_task(*target);
                key.extend_from_slice(task.as_bytes());
                key
            }
            Entry::Expiry { due_ms, of } => {
                let mut key = EXPIRIES.to_vec();
                key.extend_from_slice(&due_ms.to_be_bytes());
                key.extend_from_slice(&match of {
                    Expiring::Event { queue, event } => named(b'e', &[queue, event]),
                    Expiring::Task(task) => tagged(b't', *task),
                });
                key
            }
        }
    }

    /// What a key stands for, if it is of an index.
    pub fn parse(key: &[u8]) -> Option<Entry> {
        let (&tag, rest) = key.split_first()?;
        match tag {
            b'R' => {
                let mut names = rest.splitn(3, |byte| *byte == 0);
                let queue = text(names.next()?)?;
                let name = text(names.next()?)?;
                let (rank, rest) = names.next()?.split_first_chunk()?;
                let (due_ms, task) = rest.split_first_chunk()?;
                let lane = Lane { queue, name, rank: u32::from_be_bytes(*rank) };
                Some(Entry::Ready { lane, due_ms: u64::from_be_bytes(*due_ms), task: task_id(task)? })
            }
            b'L' => task_id(rest).map(Entry::Live),
            b'T' => {
                let (due_ms, task) = rest.split_first_chunk()?;
                Some(Entry::Timer { due_ms: u64::from_be_bytes(*due_ms), task: task_id(task)? })
            }
            b'V' => {
                let mut names = rest.splitn(3, |byte| *byte == 0);
                let (queue, event) = (text(names.next()?)?, text(names.next()?)?);
                Some(Entry::ForEvent { queue, event, task: task_id(names.next()?)? })
            }
            b'U' => {
                let (target, task) = rest.split_at_checked(16)?;
                Some(Entry::ForTask { target: task_id(target)?, task: task_id(task)? })
            }
            b'X' => {
                let (due_ms, what) = rest.split_first_chunk()?;
                let of = match what.split_first()? {
                    (b'e', names) => {
                        let mut names = names.splitn(2, |byte| *byte == 0);
                        Expiring::Event { queue: text(names.next()?)?, event: text(names.next()?)? }
                    }
                    (b't', task) => Expiring::Task(task_id(task)?),
                    _ => return None,
                };
                Some(Entry::Expiry { due_ms: u64::from_be_bytes(*due_ms), of })
            }
            _ => None,
        }
    }
}

/// A name.
fn text(bytes: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(bytes).ok()?;
    (!name.contains('\0')).then(|| name.to_owned())
}

fn task_id(bytes: &[u8]) -> Option<TaskId> {
    Some(TaskId::from_bytes(bytes.try_into().ok()?))
}

/// A tag, then names with a zero byte between them.
fn named(tag: u8, names: &[&str]) -> Vec<u8> {
    debug_assert!(names.iter().all(|name| !name.contains('\0')));
    let mut key = vec![tag];
    key.extend_from_slice(names.join("\0").as_bytes());
    key
}

/// The key of a queue's settings.
pub fn of_queue(queue: &str) -> Vec<u8> {
    named(b'q', &[queue])
}

/// The key of an event. With an empty name: what the keys of a queue's events begin with.
pub fn of_event(queue: &str, event: &str) -> Vec<u8> {
    named(b'E', &[queue, event])
}

/// The key of an idempotency key.
pub fn of_idempotency(queue: &str, key: &str) -> Vec<u8> {
    named(b'I', &[queue, key])
}

/// The mark that not all waiters for a task or an event have been told. Of a timer there is none.
pub fn of_unfinished(queue: &str, target: &Target) -> Option<Vec<u8>> {
    match target {
        Target::Timer(_) => None,
        Target::Event(event) => {
            let mut key = vec![b'C'];
            key.extend_from_slice(&named(b'e', &[queue, event]));
            Some(key)
        }
        Target::Task(task) => {
            let mut key = vec![b'C'];
            key.extend_from_slice(&tagged(b't', *task));
            Some(key)
        }
    }
}

/// The queue (of an event) and the target that a mark is about.
pub fn unfinished(key: &[u8]) -> Option<(String, Target)> {
    match key.strip_prefix(b"C")?.split_first()? {
        (b'e', names) => {
            let mut names = names.splitn(2, |byte| *byte == 0);
            Some((text(names.next()?)?, Target::Event(text(names.next()?)?)))
        }
        (b't', task) => Some((String::new(), Target::Task(task_id(task)?))),
        _ => None,
    }
}

/// What the keys of all such marks begin with.
pub const UNFINISHED: &[u8] = b"C";

/// Where stands what a waiting task is to be told of a target. Of a timer there is nothing to tell.
pub fn of_untold(task: TaskId, target: &Target) -> Option<Vec<u8>> {
    let mut key = tagged(b'A', task);
    key.extend_from_slice(&match target {
        Target::Timer(_) => return None,
        Target::Event(event) => named(b'e', &[event]),
        Target::Task(task) => tagged(b't', *task),
    });
    Some(key)
}

/// The waiting task and the target of such a key.
pub fn untold(key: &[u8]) -> Option<(TaskId, Target)> {
    let (task, target) = key.strip_prefix(UNTOLD)?.split_at_checked(16)?;
    let target = match target.split_first()? {
        (b'e', event) => Target::Event(text(event)?),
        (b't', task) => Target::Task(task_id(task)?),
        _ => return None,
    };
    Some((task_id(task)?, target))
}

/// What all such keys begin with.
pub const UNTOLD: &[u8] = b"A";

/// The mark that a queue is being deleted.
pub fn of_leaving(queue: &str) -> Vec<u8> {
    named(b'D', &[queue])
}

/// What the keys of all such marks begin with.
pub const LEAVING: &[u8] = b"D";
/// What the keys of all queues begin with.
pub const QUEUES: &[u8] = b"q";
/// What the keys of all lanes begin with.
pub const LANES: &[u8] = b"R";
/// What the keys of all tasks begin with that a worker has.
pub const LIVE: &[u8] = b"L";
/// What the keys of all timers begin with.
pub const TIMERS: &[u8] = b"T";
/// What the keys of all that expires begin with.
pub const EXPIRIES: &[u8] = b"X";

/// What the keys of a queue's lanes begin with.
pub fn lanes_of(queue: &str) -> Vec<u8> {
    named(b'R', &[queue, ""])
}

/// What the keys of a task's rows begin with, each kind for itself.
pub fn rows_of(id: TaskId) -> [Vec<u8>; 7] {
    [b's', b't', b'o', b'i', b'r', b'c', b'w'].map(|tag| tagged(tag, id))
}

/// What the keys of how far tasks are begin with, in a bucket.
pub const TASKS: &[u8] = b"t";
/// What the keys of the idempotency keys of tasks begin with, in a bucket.
pub const IDEMPOTENCY: &[u8] = b"i";

/// The task that a single row of it is of.
pub fn task_of(key: &[u8]) -> Option<TaskId> {
    task_id(key.get(1..)?)
}

/// What the keys of those begin with who wait for an event.
pub fn waiters_for_event(queue: &str, event: &str) -> Vec<u8> {
    named(b'V', &[queue, event, ""])
}

/// What the keys of those begin with who wait for the end of a task.
pub fn waiters_for_task(target: TaskId) -> Vec<u8> {
    tagged(b'U', target)
}

/// Every entry that a task has in an index, given how it is. Those of the old record and not of the new one are
/// deleted, the others the other way round; that is all the upkeep there is.
pub fn entries(id: TaskId, record: Record<'_>) -> BTreeSet<Entry> {
    let mut entries = BTreeSet::new();
    match record.task.status {
        Status::Queued { due_ms } => {
            entries.insert(Entry::Ready { lane: Lane::of(record.spec), due_ms, task: id });
        }
        Status::Running { .. } => {
            entries.insert(Entry::Live(id));
        }
        Status::Waiting { .. } | Status::Completed { .. } | Status::Failed { .. } | Status::Cancelled { .. } => {}
    }
    if let Some(due_ms) = machine::due_ms(record) {
        entries.insert(Entry::Timer { due_ms, task: id });
    }
    for wait in record.waits {
        match &wait.target {
            Target::Timer(_) => {}
            Target::Event(event) => {
                let (queue, event) = (record.spec.queue.clone(), event.clone());
                entries.insert(Entry::ForEvent { queue, event, task: id });
            }
            Target::Task(target) => {
                entries.insert(Entry::ForTask { target: *target, task: id });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> TaskId {
        TaskId::new(n, [9; 10])
    }

    fn ready(name: &str, priority: i32, due_ms: Millis, task: u64) -> Entry {
        let spec = crate::machine::tests::spec();
        let lane = Lane::of(&Spec { name: name.to_owned(), priority, ..spec });
        Entry::Ready { lane, due_ms, task: id(task) }
    }

    fn expiring(event: &str) -> Expiring {
        Expiring::Event { queue: "default".to_owned(), event: event.to_owned() }
    }

    /// What is claimed first stands first.
    #[test]
    fn entries_sort_as_their_keys_do() {
        let ordered = [
            Entry::Live(id(3)),
            ready("a", i32::MAX, 5, 1),
            ready("a", 1, 5, 1),
            ready("a", 0, 4, 2),
            ready("a", 0, 5, 1),
            ready("a", 0, 5, 2),
            ready("a", 0, 256, 1),
            ready("a", -1, 5, 1),
            ready("a", i32::MIN, 5, 1),
            ready("a b", 0, 5, 1),
            ready("b", 0, 5, 1),
            Entry::Timer { due_ms: 255, task: id(2) },
            Entry::Timer { due_ms: 256, task: id(1) },
            Entry::ForTask { target: id(1), task: id(2) },
            Entry::ForEvent { queue: "default".to_owned(), event: "packed:1".to_owned(), task: id(1) },
            Entry::Expiry { due_ms: 255, of: Expiring::Task(id(1)) },
            Entry::Expiry { due_ms: 256, of: expiring("packed:1") },
            Entry::Expiry { due_ms: 256, of: expiring("packed:12") },
            Entry::Expiry { due_ms: 256, of: Expiring::Task(id(1)) },
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0].key() < pair[1].key() && pair[0] < pair[1], "{pair:?}");
        }
        for entry in &ordered {
            assert_eq!(Entry::parse(&entry.key()).as_ref(), Some(entry));
            // But for names at the end, no part of a key is one.
            let cut = (0..entry.key().len()).find_map(|len| Entry::parse(&entry.key()[..len]));
            assert!(cut.is_none() || matches!(cut, Some(Entry::Expiry { of: Expiring::Event { .. }, .. })), "{cut:?}");
        }
    }

    #[test]
    fn the_rows_of_one_task_do_not_mix_with_those_of_another() {
        let step = StepId::new("ship/a%2Fb#2").unwrap();
        assert_eq!(step_id(&of_step(id(1), &step)), Some(step.clone()));
        assert_eq!(step_id(&of_wait(id(1), &step)), Some(step.clone()));
        assert!(of_step(id(1), &step).starts_with(&steps_of(id(1))));
        assert!(!of_step(id(2), &step).starts_with(&steps_of(id(1))));
        assert!(of_wait(id(1), &step).starts_with(&waits_of(id(1))));
        assert!(of_run(id(1), 2).starts_with(&runs_of(id(1))) && of_run(id(1), 255) < of_run(id(1), 256));
        let parts = [Part::Spec, Part::Task, Part::Output, Part::Idempotency].map(|part| of_task(part, id(1)));
        assert_eq!(parts.iter().collect::<BTreeSet<_>>().len(), 4);
        for target in [Target::Event("packed:1".to_owned()), Target::Task(id(7))] {
            let key = of_unfinished("q", &target).unwrap();
            assert_eq!(unfinished(&key).map(|(_, target)| target), Some(target.clone()));
            assert!(key.starts_with(UNFINISHED) && unfinished(&key[..2]).is_none());
            let key = of_untold(id(3), &target).unwrap();
            assert_eq!(untold(&key), Some((id(3), target)));
            assert!(key.starts_with(UNTOLD) && untold(&key[..17]).is_none());
        }
        // A name with a zero byte in it was once taken, and could not be written again.
        assert_eq!((unfinished(b"Ceq\0a\0b"), Entry::parse(b"X\0\0\0\0\0\0\0\x01eq\0a\0b")), (None, None));
        assert_eq!(untold(&[&tagged(b'A', id(3))[..], b"ea\0b"].concat()), None);
        assert!(of_event("q", "ab").starts_with(&of_event("q", "")));
        assert!(!of_event("qu", "ab").starts_with(&of_event("q", "")));
    }
}
