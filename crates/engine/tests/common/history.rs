//! What a workload wrote, in the order of its numbers, and what it was promised on the way.
//!
//! A recovered database must hold exactly the writes up to some point of that order (a prefix, with
//! batches whole), and that point must not lie before anything that was promised. The second keyspace
//! is made and dropped in between: whether the last of that has happened must fit the point, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cairn::{Db, Durability, Keyspace, SeqNo, Visibility};
use cairn_env::SimDisk;

/// The keyspaces that the workloads use.
pub const SPACES: [&str; 2] = ["default", "other"];

/// One put (with a value) or delete, and the index of its keyspace.
pub type Op = (usize, Vec<u8>, Option<Vec<u8>>);

/// A batch that was written.
#[derive(Clone, Debug)]
pub struct Write {
    pub ops: Vec<Op>,
    /// The number of its last operation.
    pub last: u64,
}

/// From this step of the disk on, everything up to `seq` was promised to be found again.
#[derive(Clone, Copy, Debug)]
struct Promise {
    step: u64,
    seq: u64,
}

#[derive(Debug, Default)]
struct Record {
    writes: Vec<Write>,
    /// By acknowledgement as durable, or shown by a durable read: survives a power cut.
    durable: Vec<Promise>,
    /// By acknowledgement as buffered: survives the process.
    buffered: Vec<Promise>,
    /// In their order; every other one drops it.
    events: Vec<Event>,
}

/// The second keyspace is made or dropped, at a moment without other writers.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// It may have happened after this step of the disk, and had after that.
    begin: u64,
    end: u64,
    /// The number of the last write before it.
    seq: u64,
    /// What it leaves.
    exists: bool,
}

/// Takes notes while a workload runs; clones share them.
#[derive(Clone, Debug)]
pub struct Recorder {
    disk: SimDisk,
    record: Arc<Mutex<Record>>,
}

impl Recorder {
    pub fn new(disk: &SimDisk) -> Recorder {
        Recorder { disk: disk.clone(), record: Arc::default() }
    }

    fn note(&self, note: impl FnOnce(&mut Record, u64)) {
        let step = self.disk.steps();
        note(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner), step);
    }

    /// The second keyspace was made or dropped by `act`, if it did not or did exist; `seq` is the last write before.
    pub fn second_keyspace<R>(&self, exists: bool, seq: SeqNo, act: impl FnOnce() -> R) -> R {
        let begin = self.disk.steps();
        let result = act();
        self.note(|record, end| {
            if record.events.last().is_some_and(|last| last.exists) != exists {
                record.events.push(Event { begin, end, seq: seq.0, exists });
            }
        });
        result
    }

    /// A batch was acknowledged.
    pub fn written(&self, ops: Vec<Op>, seq: SeqNo, durability: Durability) {
        self.note(|record, step| {
            record.writes.push(Write { ops, last: seq.0 });
            let promises = match durability {
                Durability::Commit => &mut record.durable,
                Durability::Buffered => &mut record.buffered,
            };
            promises.push(Promise { step, seq: seq.0 });
        });
    }

    /// A read showed everything up to here as durable.
    pub fn shown_durable(&self, seq: SeqNo) {
        self.note(|record, step| record.durable.push(Promise { step, seq: seq.0 }));
    }

    pub fn finish(self) -> History {
        let mut record = std::mem::take(&mut *self.record.lock().unwrap_or_else(PoisonError::into_inner));
        record.writes.sort_by_key(|write| write.last);
        let mut next = 1;
        for write in &record.writes {
            assert_eq!(next + write.ops.len() as u64, write.last + 1, "numbers without gaps");
            next = write.last + 1;
        }
        let keys = record.writes.iter().flat_map(|write| &write.ops).map(|(space, key, _)| (*space, key.clone()));
        History { keys: keys.collect(), record }
    }
}

/// The notes of a run that went to its end.
#[derive(Debug)]
pub struct History {
    record: Record,
    keys: BTreeSet<(usize, Vec<u8>)>,
}

/// What a database holds, and whether it has the second keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shown {
    pub content: Content,
    pub second_keyspace: bool,
}

/// What both keyspaces hold.
pub type Content = [BTreeMap<Vec<u8>, Vec<u8>>; 2];

pub fn apply(content: &mut Content, ops: &[Op]) {
    for (space, key, value) in ops {
        match value {
            Some(value) => content[*space].insert(key.clone(), value.clone()),
            None => content[*space].remove(key),
        };
    }
}

impl History {
    pub fn writes(&self) -> &[Write] {
        &self.record.writes
    }

    /// The content after all writes up to `seq`, and all that was done to the second keyspace; none if
    /// `seq` lies within a batch.
    pub fn content_at(&self, seq: u64) -> Option<Content> {
        self.shown_after(seq, self.record.events.len()).map(|shown| shown.content)
    }

    /// What is there after all writes up to `seq` and so many of the events.
    fn shown_after(&self, seq: u64, events: usize) -> Option<Shown> {
        let count = match seq {
            0 => 0,
            _ => 1 + self.record.writes.binary_search_by_key(&seq, |write| write.last).ok()?,
        };
        let mut content = Content::default();
        let mut drops = self.record.events[..events].iter().filter(|event| !event.exists).peekable();
        for write in &self.record.writes[..count] {
            while drops.next_if(|drop| drop.seq < write.last).is_some() {
                content[1].clear();
            }
            apply(&mut content, &write.ops);
        }
        if drops.peek().is_some() {
            content[1].clear();
        }
        let second_keyspace = self.record.events[..events].last().is_some_and(|event| event.exists);
        Some(Shown { content, second_keyspace })
    }

    /// All that may be there after a crash before step `k` that left the writes up to `seq`; none if that
    /// lies within a batch.
    pub fn possible(&self, seq: u64, k: u64) -> Vec<Shown> {
        // What was done had to be durable before any later write. A drop has everything before it synced.
        let done = |event: &Event| event.end < k || event.seq < seq;
        let least = self.record.events.iter().rposition(done).map_or(0, |last| last + 1);
        let may = |event: &&Event| event.begin < k && (event.exists || event.seq <= seq);
        let most = self.record.events.iter().take_while(may).count();
        (least..=most).filter_map(|events| self.shown_after(seq, events)).collect()
    }

    /// What a crash before step `k` must leave at least; `powered` if only the process died.
    pub fn promised(&self, k: u64, powered: bool) -> u64 {
        let before = |promise: &&Promise| promise.step < k;
        let durable = self.record.durable.iter().filter(before);
        let buffered = self.record.buffered.iter().filter(|_| powered).filter(before);
        durable.chain(buffered).map(|promise| promise.seq).max().unwrap_or(0)
    }

    /// Every key that was ever written in a keyspace.
    pub fn keys(&self, space: usize) -> impl Iterator<Item = &Vec<u8>> {
        self.keys.iter().filter(move |(s, _)| *s == space).map(|(_, key)| key)
    }

    /// Checks that the database holds what it should, by every way of reading.
    pub fn check_content(&self, db: &Db, want: &Content) {
        for (index, name) in SPACES.iter().enumerate() {
            let Some(space) = existing(db, name) else {
                assert!(want[index].is_empty(), "keyspace {name} is missing");
                continue;
            };
            check_space(&space, &want[index], self.keys(index));
        }
    }
}

/// What a database holds by one way of reading.
pub fn shown(db: &Db) -> Shown {
    let content = SPACES.map(|name| {
        let space = existing(db, name);
        space.map(|space| space.iter().map(Result::unwrap).collect()).unwrap_or_default()
    });
    Shown { content, second_keyspace: existing(db, SPACES[1]).is_some() }
}

/// A keyspace that is not created by being asked for.
pub fn existing(db: &Db, name: &str) -> Option<Keyspace> {
    db.keyspaces().iter().any(|known| known == name).then(|| db.keyspace(name).unwrap())
}

/// Compares a keyspace with what it should hold: each key by itself, and all of it both ways.
pub fn check_space<'a>(space: &Keyspace, want: &BTreeMap<Vec<u8>, Vec<u8>>, keys: impl Iterator<Item = &'a Vec<u8>>) {
    let reader = space.latest(Visibility::Durable).pinned();
    let name = space.name();
    for key in keys {
        assert_eq!(reader.get(key).unwrap().as_ref(), want.get(key), "{name}: get {key:?}");
    }
    let forward: Vec<_> = reader.iter().map(Result::unwrap).collect();
    let backward: Vec<_> = reader.iter().rev().map(Result::unwrap).collect();
    assert!(forward.iter().map(|(key, value)| (key, value)).eq(want), "{name}: iteration");
    assert!(backward.iter().rev().eq(&forward), "{name}: iteration backward");
}
