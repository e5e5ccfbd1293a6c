//! The manifest: the durable list of tables, keyspaces and the log's start, as a log of edits.
//!
//! Owns the state that the edits build and the file they stand in. Its groups are those of the
//! write-ahead log ([`cairn_wal`]); each holds one edit ([`crate::edit`]) and is synced before the
//! next is written, so a later group proves that an earlier one was durable.
//!
//! Invariants
//! 1. What an edit names is durable before the edit: tables synced, their names in the directory
//!    too, the log synced through what they hold.
//! 2. The state in memory is what the file says. After a failed write or sync of the file the
//!    database is closed to writes: nobody knows what it says then.
//! 3. A manifest file is begun with a snapshot of the state and never continued by another
//!    process: an open begins a new one. `CURRENT` names it only when it is durable.

use std::path::{Path, PathBuf};

use cairn_env::{Env, Op};
use cairn_wal::{Body, LogOptions, LogSyncer, LogWriter, Replay, replay};

use crate::edit::{self, Change, State};
use crate::error::{Error, Result};
use crate::files::{self, MANIFEST};
use crate::recovery::log_error;

/// The kind of the manifest's groups.
pub(crate) const EDIT_KIND: u8 = 1;

/// A manifest longer than the option says, and than this many times its snapshot, is begun anew.
const GROWTH: u64 = 4;

/// Why an edit is not in force.
#[derive(Debug)]
pub(crate) enum EditError {
    /// Nothing of it is left; what was in force still is.
    Refused(Error),
    /// The next open may find it or not: nobody may act on either.
    InDoubt(Error),
}

impl EditError {
    /// The failure itself.
    pub(crate) fn into_error(self) -> Error {
        match self {
            EditError::Refused(e) | EditError::InDoubt(e) => e,
        }
    }
}

/// The manifest in force.
#[derive(Debug)]
pub(crate) struct Manifest {
    env: Env,
    dir: PathBuf,
    state: State,
    log: LogWriter,
    syncer: LogSyncer,
    id: u64,
    edits: u64,
    snapshot_bytes: u64,
    roll_bytes_min: u64,
}

/// What a manifest file says.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The state that its edits build.
    pub(crate) state: State,
    pub(crate) edits: u64,
    /// How it ended.
    pub(crate) replayed: Replay,
}

/// Reads the manifest `id` and builds its state.
pub(crate) fn read(env: &Env, dir: &Path, id: u64) -> Result<Contents> {
    let path = MANIFEST.path(dir, id);
    let mut state = State::default();
    let mut edits = 0;
    let replayed = replay(env, dir, MANIFEST, id, |group| {
        if group.kind != EDIT_KIND {
            let what = format!("a group of kind {} that this build does not know (use a newer cairn)", group.kind);
            return Err(Error::corrupt(&path, Some(group.position.offset), what));
        }
        edits += 1;
        for body in group.bodies() {
            let changes = edit::decode(body).map_err(|e| {
                Error::corrupt(&path, Some(group.position.offset), format!("an edit does not decode: {e}"))
            })?;
            state.apply(&changes).map_err(|what| Error::corrupt(&path, Some(group.position.offset), what))?;
        }
        Ok(())
    })
    .map_err(log_error)?;
    if edits == 0 {
        // CURRENT named it after its snapshot was synced.
        return Err(Error::corrupt(path, Some(0), "it holds no state"));
    }
    state.check().map_err(|what| Error::corrupt(path, None, what))?;
    Ok(Contents { state, edits, replayed })
}

impl Manifest {
    /// Begins manifest `id` with `state` and puts it in force; durable when it returns.
    pub(crate) fn begin(
        env: &Env,
        dir: &Path,
        id: u64,
        state: State,
        roll_bytes_min: u64,
    ) -> std::result::Result<Manifest, EditError> {
        // Until CURRENT names it nobody will read it.
        let refused = |e| EditError::Refused(wal_error(e));
        let options = LogOptions { segment_bytes: u64::MAX, allocate: false };
        let (mut log, syncer) = LogWriter::create(env, dir, MANIFEST, id, options).map_err(refused)?;
        let snapshot = edit::encode(&state.snapshot());
        log.append(EDIT_KIND, 1, &[Body::new(&snapshot)]).map_err(refused)?;
        syncer.sync().map_err(refused)?;
        files::write_current(env, dir, id).map_err(|e| match e.op {
            // CURRENT may have changed, and may change back in a power cut.
            Op::Rename | Op::SyncDir => EditError::InDoubt(e.into()),
            _ => EditError::Refused(e.into()),
        })?;
        Ok(Manifest {
            env: env.clone(),
            dir: dir.to_path_buf(),
            state,
            log,
            syncer,
            id,
            edits: 1,
            snapshot_bytes: snapshot.len() as u64,
            roll_bytes_min,
        })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What it says now.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Writes an edit; durable when it returns. After [`EditError::InDoubt`] the caller closes the
    /// database to writes.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> std::result::Result<(), EditError> {
        let mut state = self.state.clone();
        state
            .apply(changes)
            .map_err(|what| EditError::Refused(Error::invalid(format!("an edit contradicts the manifest: {what}"))))?;
        let body = edit::encode(changes);
        self.log.append(EDIT_KIND, self.edits + 1, &[Body::new(&body)]).map_err(|e| match e {
            // Every other failure may leave the edit in the file; a full disk at the sync too.
            cairn_wal::Error::NoSpace(_) => EditError::Refused(wal_error(e)),
            e => EditError::InDoubt(wal_error(e)),
        })?;
        if !cairn_env::mutant("manifest-not-synced") {
            self.syncer.sync().map_err(|e| match e {
                cairn_wal::Error::Io(ref io) if io.is_no_space() && cairn_env::mutant("doubtful-edit-refused") => {
                    EditError::Refused(wal_error(e))
                }
                e => EditError::InDoubt(wal_error(e)),
            })?;
        }
        self.edits += 1;
        self.state = state;
        Ok(())
    }

    /// Begins a new file when this one has grown far beyond its state; returns the number of the
    /// old one, which may then be removed. When it is refused the old file goes on.
    pub(crate) fn roll_if_grown(&mut self) -> std::result::Result<Option<u64>, EditError> {
        let bytes = self.log.position().offset;
        if bytes < self.roll_bytes_min || bytes < self.snapshot_bytes.saturating_mul(GROWTH) {
            return Ok(None);
        }
        let old = self.id;
        // A refused attempt may have left a file with the next number.
        let next = MANIFEST.next_id(&self.env, &self.dir).map_err(|e| EditError::Refused(wal_error(e)))?;
        match Manifest::begin(&self.env, &self.dir, next, self.state.clone(), self.roll_bytes_min) {
            Ok(new) => *self = new,
            Err(e) => {
                if let EditError::Refused(_) = e {
                    // What stays is an orphan, which the next open removes.
                    let _ = self.env.remove(&MANIFEST.path(&self.dir, next));
                }
                return Err(e);
            }
        }
        Ok(Some(old))
    }

    /// Ends the file, so that damage to its last edit shows at the next open.
    pub(crate) fn close(self) -> Result<()> {
        self.log.close().map_err(wal_error)
    }
}

/// A failure of a log, as the engine reports it.
pub(crate) fn wal_error(e: cairn_wal::Error) -> Error {
    match e {
        cairn_wal::Error::Io(e) | cairn_wal::Error::NoSpace(e) => e.into(),
        cairn_wal::Error::Corrupt { ref path, offset, .. } => Error::corrupt(path, Some(offset), corrupt_text(&e)),
        cairn_wal::Error::Newer { ref path, .. } => {
            Error::newer(path, "it was written by a newer version: use a newer cairn")
        }
        cairn_wal::Error::Missing { ref path } => {
            Error::corrupt(path, None, "it is missing, and the manifest needs it")
        }
        cairn_wal::Error::Poisoned { .. } => Error::closed(e.to_string()),
        cairn_wal::Error::TooLarge { .. } | cairn_wal::Error::Invalid(_) => Error::invalid(e.to_string()),
    }
}

fn corrupt_text(e: &cairn_wal::Error) -> String {
    match e {
        cairn_wal::Error::Corrupt { what, claim: Some(claim), .. } => {
            format!("{what}; the group at {} says that the log was durable up to {}", claim.by, claim.synced)
        }
        cairn_wal::Error::Corrupt { what, .. } => what.to_string(),
        e => e.to_string(),
    }
}
