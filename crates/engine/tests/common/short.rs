//! Workloads of a few operations, small enough to try all of them.

use std::fmt;
use std::path::Path;

use cairn::{Db, Durability, Env, Keyspace, Options, SeqNo};
use cairn_env::SimDisk;

use super::history::{Op, Recorder, SPACES};
use super::workload::DIR;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Put,
    Delete,
    /// Over two keyspaces; the first makes the second.
    Batch,
    Conditional,
    Buffered,
    Sync,
    Flush,
    Compact,
    /// Puts and flushes until a new manifest is in force.
    RollManifest,
    Reopen,
    /// Of the second keyspace, if there is one.
    Drop,
}

impl Act {
    pub const ALL: [Act; 11] = [
        Act::Put,
        Act::Delete,
        Act::Batch,
        Act::Conditional,
        Act::Buffered,
        Act::Sync,
        Act::Flush,
        Act::Compact,
        Act::RollManifest,
        Act::Reopen,
        Act::Drop,
    ];

    fn named(name: &str) -> Act {
        let found = Act::ALL.into_iter().find(|act| format!("{act:?}") == name);
        found.unwrap_or_else(|| panic!("no operation is called {name}; there are {:?}", Act::ALL))
    }
}

/// A workload; shown and read as names with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload(pub Vec<Act>);

impl Workload {
    /// All of up to `len` operations.
    pub fn all(len: usize) -> Vec<Workload> {
        let mut all = vec![Workload(Vec::new())];
        let mut longest = all.clone();
        for _ in 0..len {
            let longer = |workload: &Workload| Act::ALL.map(|act| Workload([&workload.0[..], &[act]].concat()));
            longest = longest.iter().flat_map(longer).collect();
            all.extend_from_slice(&longest);
        }
        all
    }

    pub fn parse(text: &str) -> Workload {
        Workload(text.split(',').filter(|name| !name.is_empty()).map(Act::named).collect())
    }

    /// Without the operation at `index`.
    pub fn without(&self, index: usize) -> Workload {
        Workload(self.0.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, act)| *act).collect())
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|act| format!("{act:?}")).collect();
        f.write_str(&names.join(","))
    }
}

/// Sizes at which the manifest is soon rolled over.
pub fn options(seed: u64) -> Options {
    Options { log_bytes_max: 16 << 10, ..super::varied(super::tiny(), seed) }
}

struct Client<'a> {
    env: &'a Env,
    options: &'a Options,
    disk: &'a SimDisk,
    recorder: &'a Recorder,
    db: Db,
    /// So many batches were written: no two values are the same.
    count: u8,
}

/// Runs a workload on a new database. The disk remembers what it held from the beginning of operation
/// `from` on (of the last part of it, if that is long); its log of steps begins there too. Returns the
/// number of calls when the last operation had ended; then the database is closed.
pub fn run(
    env: &Env,
    options: &Options,
    disk: &SimDisk,
    recorder: &Recorder,
    workload: &Workload,
    from: Option<usize>,
) -> u64 {
    let remember = || {
        disk.start_history();
        disk.start_trace();
    };
    // What a workload has before its last operation, a shorter one has too.
    if from.is_none() {
        remember();
    }
    let db = Db::open_in(env, DIR, options.clone()).unwrap();
    let mut client = Client { env, options, disk, recorder, db, count: 0 };
    for (index, act) in workload.0.iter().enumerate() {
        if from == Some(index) {
            remember();
        }
        client.act(*act, || {
            if from == Some(index) {
                remember()
            }
        });
    }
    disk.steps()
}

impl Client<'_> {
    fn act(&mut self, act: Act, last_part: impl Fn()) {
        match act {
            Act::Put => self.put(b"a", Durability::Commit),
            Act::Buffered => self.put(b"b", Durability::Buffered),
            Act::Delete => self.write(vec![(0, b"a".to_vec(), None)], Durability::Commit, |_, _| {}),
            Act::Batch => {
                let seq = self.db.snapshot().seq();
                self.recorder.second_keyspace(true, seq, || self.db.keyspace(SPACES[1]).unwrap());
                let value = self.value();
                let ops = vec![(0, b"a".to_vec(), Some(value.clone())), (1, b"c".to_vec(), Some(value))];
                self.write(ops, Durability::Commit, |_, _| {});
            }
            Act::Conditional => {
                let seq: SeqNo = self.db.snapshot().seq();
                let ops = vec![(0, b"a".to_vec(), Some(self.value())), (0, b"b".to_vec(), None)];
                self.write(ops, Durability::Commit, |batch, space| batch.require_unchanged(space, b"a", seq));
            }
            Act::Sync => {
                let seq = self.db.snapshot().seq();
                self.db.sync().unwrap();
                self.recorder.shown_durable(seq);
            }
            Act::Flush => self.db.flush().unwrap(),
            Act::Compact => self.db.compact().unwrap(),
            Act::RollManifest => {
                let before = self.manifest();
                while self.manifest() == before {
                    self.put(b"d", Durability::Commit);
                    assert!(self.count < 100, "the manifest does not roll over");
                    last_part();
                    self.db.flush().unwrap();
                }
            }
            Act::Reopen => {
                self.db.clone().close().unwrap();
                self.db = Db::open_in(self.env, DIR, self.options.clone()).unwrap();
            }
            Act::Drop => {
                let seq = self.db.snapshot().seq();
                self.recorder.second_keyspace(false, seq, || self.db.drop_keyspace(SPACES[1]).unwrap());
            }
        }
    }

    fn value(&mut self) -> Vec<u8> {
        self.count += 1;
        vec![self.count; 20]
    }

    fn put(&mut self, key: &[u8], durability: Durability) {
        let value = self.value();
        self.write(vec![(0, key.to_vec(), Some(value))], durability, |_, _| {});
    }

    fn write(&mut self, ops: Vec<Op>, durability: Durability, condition: impl FnOnce(&mut cairn::Batch, &Keyspace)) {
        let mut batch = self.db.batch();
        condition(&mut batch, &self.db.default_keyspace());
        for (space, key, value) in &ops {
            let space = self.db.keyspace(SPACES[*space]).unwrap();
            match value {
                Some(value) => batch.put(&space, key, value),
                None => batch.delete(&space, key),
            }
        }
        let commit = self.db.write(batch, durability).unwrap();
        self.recorder.written(ops, commit.seq, durability);
    }

    /// The names of the manifests there are.
    fn manifest(&self) -> Vec<String> {
        // Looked at without a call to the disk of the workload.
        let entries = Env::on_disk(self.disk.kill()).list(Path::new(DIR)).unwrap();
        let names = entries.into_iter().map(|entry| entry.name);
        names.filter(|name| name.starts_with("manifest-")).collect()
    }
}
