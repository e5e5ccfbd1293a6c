//! The durable half of a log: how far it is appended, how far it is durable, and the sync between.
//!
//! Two locks. `state` guards the numbers and the list of files; it is held for a few
//! instructions, never across I/O. `syncing` is held across the syncs, so that there is one at a
//! time; whoever waited for it often finds the work done. Order: `syncing`, then `state`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_env::{Env, File};

use crate::Position;
use crate::error::{Error, Result};

/// Makes a log durable while another thread appends to it. Clones share one log.
#[derive(Clone, Debug)]
pub struct LogSyncer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    syncing: cairn_env::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Up to here groups are appended.
    end: Position,
    /// Up to here they are durable; never beyond `end`.
    synced: Position,
    /// The segments with something between the two, oldest first; the last is the one in use,
    /// whether or not it has.
    files: VecDeque<Unsynced>,
    /// How often something new became durable.
    sync_count: u64,
    /// A sync failed: nothing is known any more of what the disk holds.
    failed: bool,
}

#[derive(Clone, Debug)]
struct Unsynced {
    file: File,
    end: Position,
}

impl LogSyncer {
    /// A log whose only segment is durable up to `synced`.
    pub(crate) fn new(env: &Env, dir: &Path, file: File, synced: Position) -> LogSyncer {
        let files = VecDeque::from([Unsynced { file, end: synced }]);
        let state = State { end: synced, synced, files, sync_count: 0, failed: false };
        let shared = Shared { dir: dir.to_path_buf(), syncing: env.mutex(()), state: Mutex::new(state) };
        LogSyncer { shared: Arc::new(shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poisoned(&self) -> Error {
        Error::Poisoned { dir: self.shared.dir.clone() }
    }

    /// Makes everything appended before this call durable and says up to where the log now is.
    /// Returns at once if nothing is missing; waits while another thread syncs.
    ///
    /// # Errors
    /// [`Error::Io`] if a sync fails. From then on both halves of the log answer
    /// [`Error::Poisoned`]: what reached the disk is unknown until the log is replayed.
    pub fn sync(&self) -> Result<Position> {
        let _one_at_a_time = self.shared.syncing.lock();
        let (target, files) = {
            let state = self.state();
            if state.failed {
                return Err(self.poisoned());
            }
            if state.synced >= state.end {
                return Ok(state.synced);
            }
            let missing = state.files.iter().filter(|one| one.end > state.synced);
            (state.end, missing.map(|one| one.file.clone()).collect::<Vec<_>>())
        };
        for file in files {
            if let Err(e) = file.sync_data() {
                if !cairn_env::mutant("failed-sync-tried-again") {
                    self.poison();
                }
                return Err(Error::Io(e));
            }
        }
        let mut state = self.state();
        // The writer may have failed a sync of its own meanwhile.
        if state.failed {
            return Err(self.poisoned());
        }
        state.synced = state.synced.max(target);
        state.sync_count += 1;
        state.drop_durable();
        Ok(target)
    }

    /// Up to where the log is known durable. After a failed sync: the last point that was known.
    pub fn synced(&self) -> Position {
        self.state().synced
    }

    /// Up to where groups are appended.
    pub fn appended(&self) -> Position {
        self.state().end
    }

    /// [`Error::Poisoned`] after a failed sync; otherwise the durable point and how often it moved.
    pub(crate) fn check(&self) -> Result<(Position, u64)> {
        let state = self.state();
        if state.failed { Err(self.poisoned()) } else { Ok((state.synced, state.sync_count)) }
    }

    /// Says that nothing is known any more of what the disk holds.
    pub(crate) fn poison(&self) {
        self.state().failed = true;
    }

    /// A group was written that ends at `end`.
    pub(crate) fn advance(&self, end: Position) {
        let mut state = self.state();
        state.end = end;
        if let Some(last) = state.files.back_mut() {
            last.end = end;
        }
    }

    /// The log goes on in a new segment, whose header is durable.
    pub(crate) fn roll(&self, file: File, start: Position) {
        let mut state = self.state();
        // Nothing missing so far, and the new header is durable: then the log is durable up to it.
        if state.synced >= state.end {
            state.synced = start;
        }
        state.end = start;
        state.files.push_back(Unsynced { file, end: start });
        state.drop_durable();
    }

    /// Whether segment `id` has something to sync, or is the one in use.
    pub(crate) fn needs(&self, id: u64) -> bool {
        self.state().files.iter().any(|one| one.end.segment == id)
    }
}

impl State {
    fn drop_durable(&mut self) {
        while self.files.len() > 1 && self.files.front().is_some_and(|one| one.end <= self.synced) {
            self.files.pop_front();
        }
    }
}
