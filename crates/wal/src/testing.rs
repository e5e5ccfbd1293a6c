//! What the tests of this crate share: a place for a log, and logs as plain values.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use cairn_env::Env;

use crate::{Body, Error, LogOptions, LogSyncer, LogWriter, Naming, Position, Replay, ReplayError, replay};

pub(crate) const NAMING: Naming = Naming { prefix: "log-", suffix: ".wal" };

/// A group as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) position: Position,
    pub(crate) end: Position,
    pub(crate) kind: u8,
    pub(crate) first_seq: u64,
    pub(crate) synced: Position,
    pub(crate) bodies: Vec<Vec<u8>>,
}

/// A directory, and a log in it.
pub(crate) struct Log {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
}

impl Log {
    pub(crate) fn new(env: Env, dir: &Path) -> Log {
        env.create_dir_all(dir).unwrap();
        Log { env, dir: dir.to_path_buf() }
    }

    pub(crate) fn in_memory() -> Log {
        Log::new(Env::memory(), Path::new("/log"))
    }

    pub(crate) fn create(&self, id: u64, segment_bytes: u64) -> (LogWriter, LogSyncer) {
        self.create_with(id, LogOptions { segment_bytes, allocate: false }).unwrap()
    }

    pub(crate) fn create_with(&self, id: u64, options: LogOptions) -> Result<(LogWriter, LogSyncer), Error> {
        LogWriter::create(&self.env, &self.dir, NAMING, id, options)
    }

    pub(crate) fn replay(&self, start: u64) -> Result<(Vec<Owned>, Replay), Error> {
        let mut groups = Vec::new();
        let done = replay::<Infallible>(&self.env, &self.dir, NAMING, start, |group| {
            groups.push(Owned {
                position: group.position,
                end: group.end,
                kind: group.kind,
                first_seq: group.first_seq,
                synced: group.synced,
                bodies: group.bodies().map(<[u8]>::to_vec).collect(),
            });
            Ok(())
        });
        match done {
            Ok(done) => Ok((groups, done)),
            Err(ReplayError::Log(e)) => Err(e),
        }
    }

    pub(crate) fn path(&self, id: u64) -> PathBuf {
        NAMING.path(&self.dir, id)
    }

    pub(crate) fn read(&self, id: u64) -> Vec<u8> {
        self.env.read_file(&self.path(id), u64::MAX).unwrap()
    }

    /// Puts `bytes` in the place of segment `id`.
    pub(crate) fn write(&self, id: u64, bytes: &[u8]) {
        self.remove(id);
        self.env.create(&self.path(id)).unwrap().write_all_at(bytes, 0).unwrap();
    }

    pub(crate) fn remove(&self, id: u64) {
        match self.env.remove(&self.path(id)) {
            Err(e) if !e.is_not_found() => panic!("{e}"),
            _ => {}
        }
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Vec<String> {
        self.env.list(&self.dir).unwrap().into_iter().map(|entry| entry.name).collect()
    }
}

/// Appends a group of one body.
pub(crate) fn append(writer: &mut LogWriter, seq: u64, body: &[u8]) -> Position {
    writer.append(1, seq, &[Body::new(body)]).unwrap()
}
