//! Opening: from files to a running database.
//!
//! 1. Take the lock; tell a database from a foreign directory; read `CURRENT` and the manifest.
//! 2. Open the tables that the manifest lists.
//! 3. Replay the log from its start. What the manifest says is flushed or dropped is skipped; the rest
//!    goes into memtables and is written anew into a log that nobody has seen yet.
//! 4. Sync the new log, begin a new manifest that starts there, switch `CURRENT`.
//! 5. Remove what nothing names any more.
//!
//! Until step 4 switches `CURRENT`, nothing that stands on disk is changed: a crash in between
//! leaves files that the next open removes. Nothing is appended to a file of an earlier process,
//! and what was read of one is written anew before it is relied on, because a page cache may hold
//! what a failed sync never brought to the disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use cairn_env::{DirEntry, Env, FileLock};
use cairn_table::{BlockCache, Load, Table};
use cairn_wal::{LogOptions, LogWriter, ReplayError, replay};

use crate::batch::{Op, Ops};
use crate::cache::Cache;
use crate::catalog::{Catalog, CatalogCell, Tree};
use crate::commit::{CommitState, GROUP_KIND, Lead};
use crate::core::{Core, Health};
use crate::edit::{Change, State};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{self, FileKind, LOCK, LOG, MANIFEST, classify, table_path};
use crate::jobs::Jobs;
use crate::levels::{Levels, RemovalQueue, TableHandle, TableMeta, TableRef};
use crate::log_space::LogSpace;
use crate::manifest::{self, EditError, Manifest, wal_error};
use crate::memory::{Memory, Use};
use crate::options::Options;
use crate::output::table_error;
use crate::snapshot::Snapshots;
use crate::stats::Counters;
use crate::types::{DEFAULT_KEYSPACE, DEFAULT_KEYSPACE_ID, KeyspaceId, NUMBER_MAX, SeqNo};

/// A manifest that has grown beyond this share of the log's bound is begun anew: 1 MiB for 256 MiB.
/// In proportion, so that small databases come by it too.
const MANIFEST_SHARE: u64 = 256;

/// Segments of the log end at this size, or at an eighth of the log's bound if that is less.
const SEGMENT_BYTES_MAX: u64 = 32 << 20;

/// What is wrong with a log without its end, if the manifest has one.
pub(crate) const LOST_END: &str =
    "the log ends here without its closing record, though the database was closed: what followed is lost";

/// What is wrong with a database without one of its tables.
pub(crate) const TABLE_MISSING: &str = "the table is missing, and the manifest lists it";

/// Opens the database in `dir`, creating it if allowed. No thread runs yet.
pub(crate) fn open(env: &Env, dir: &Path, options: Options) -> Result<Core> {
    let options = options.settle()?;
    let entries = look(env, dir, &options)?;
    let lock_file = lock(env, dir)?;
    // Again, now that nobody else changes it.
    let entries = if entries.is_empty() { entries } else { env.list(dir)? };

    let current = files::read_current(env, dir)?;
    let (state, manifest_id, old_log) = match current {
        Some(id) => {
            let manifest::Contents { state, replayed, .. } = manifest::read(env, dir, id)?;
            (state, replayed.next_id, Some(OldLog { closed: replayed.closing_groups > 0 }))
        }
        None => {
            check_half_created(dir, &entries)?;
            (new_state(env), MANIFEST.next_id(env, dir).map_err(wal_error)?, None)
        }
    };

    let counters = Arc::new(Counters::default());
    let memory = Memory::new(options.memory_budget_bytes, options.cache_bytes_max);
    let cache = Arc::new(Cache::new(memory.clone(), counters.clone()));
    let removals = Arc::new(RemovalQueue::default());
    let mut catalog = Catalog::default();
    for (&id, keyspace) in &state.keyspaces {
        let mut tables = Vec::new();
        for (level, meta) in keyspace.tables.values() {
            let table = open_table(env, dir, id, meta.clone(), state.hash_seed, &cache, removals.clone())?;
            tables.push((*level, table));
        }
        let name = Arc::from(keyspace.name.as_str());
        catalog.set(Tree::new(id, name, Levels::from_tables(tables), keyspace.flushed));
    }

    let log_options =
        LogOptions { segment_bytes: SEGMENT_BYTES_MAX.min(options.log_bytes_max / 8).max(16 << 10), allocate: true };
    let next_segment = LOG.next_id(env, dir).map_err(wal_error)?.max(state.log_start + 1);
    let (log, syncer) = LogWriter::create(env, dir, LOG, next_segment, log_options).map_err(wal_error)?;

    let core = Core {
        env: env.clone(),
        dir: dir.to_path_buf(),
        instance: env.random_u64(),
        hash_seed: state.hash_seed,
        catalog: CatalogCell::new(catalog),
        snapshots: Arc::new(Snapshots::default()),
        memory,
        cache,
        counters,
        removals,
        visible: AtomicU64::new(0),
        durable: AtomicU64::new(0),
        next_table: AtomicU64::new(if cairn_env::mutant("table-number-reused") { 1 } else { state.next_table }),
        log_space: LogSpace::default(),
        conditions_seen: AtomicBool::new(false),
        lead: env.mutex(Lead::new(log)),
        syncer,
        commit: env.mutex(CommitState::new()),
        commit_changed: env.condvar(),
        append_wanted: env.condvar(),
        sync_wanted: env.condvar(),
        manifest: env.mutex(None),
        jobs: env.mutex(Jobs::default()),
        flush_wanted: env.condvar(),
        compaction_wanted: env.condvar(),
        jobs_changed: env.condvar(),
        closing: AtomicBool::new(false),
        health: Mutex::new(Health::Open),
        lock_file: Mutex::new(Some(lock_file)),
        options,
    };

    let replayed = match old_log {
        Some(old_log) => core.replay_log(&state, &old_log),
        None => Ok(SeqNo(0)),
    };
    let last = replayed
        .and_then(|last| {
            if cairn_env::mutant("replayed-log-not-synced") {
                return Ok(last);
            }
            core.syncer.sync().map(|_| last).map_err(wal_error)
        })
        .inspect_err(|_| core.remove_new_log(next_segment))?;
    let mut state = state;
    let position = core.lead.lock().log()?.position();
    core.log_space.appended(position.segment, 0);
    state.log_start = next_segment;
    let roll_bytes_min = core.options.log_bytes_max / MANIFEST_SHARE;
    let manifest = Manifest::begin(env, dir, manifest_id, state, roll_bytes_min).map_err(|e| {
        if let EditError::Refused(_) = e {
            let _ = env.remove(&MANIFEST.path(dir, manifest_id));
            core.remove_new_log(next_segment);
        }
        e.into_error()
    })?;
    core.remove_orphans(&manifest, next_segment)?;
    *core.manifest.lock() = Some(manifest);
    core.start_from(last);
    if core.make_reserve().is_err() {
        core.set_full("there is no space for the reserve that deletes and compaction need");
    }
    Ok(core)
}

/// What the manifest tells of a log that is there.
struct OldLog {
    /// It was closed: the manifest is only ever closed after it.
    closed: bool,
}

/// Takes the lock of a database directory.
pub(crate) fn lock(env: &Env, dir: &Path) -> Result<FileLock> {
    env.lock(&dir.join(LOCK)).map_err(|e| {
        if e.is_locked() {
            Error::busy(format!(
                "{} is in use by another process, or by another open in this one; close that first",
                dir.display()
            ))
        } else {
            e.into()
        }
    })
}

/// The directory of a database that nobody has open while this lives.
pub(crate) struct AtRest {
    /// What the directory holds.
    pub(crate) entries: Vec<DirEntry>,
    /// The lock, or why it could not be taken though nobody is known to hold it. None where there is
    /// no file of it: taking it would create one, and nobody ever opened this copy.
    pub(crate) lock: Option<Result<FileLock>>,
}

/// Takes hold of a database without opening it: `Busy` if somebody has it open, `NotFound` if there
/// is none. Changes nothing.
pub(crate) fn at_rest(env: &Env, dir: &Path) -> Result<AtRest> {
    let entries = env.list(dir)?;
    // What only a database has.
    let is_data = |entry: &DirEntry| match classify(&entry.name) {
        FileKind::Current | FileKind::Manifest(_) | FileKind::Log(_) | FileKind::Table(_) => !entry.is_dir,
        FileKind::Lock | FileKind::Reserve | FileKind::LogSpare | FileKind::Temporary | FileKind::Foreign => false,
    };
    if !entries.iter().any(is_data) {
        return Err(Error::not_found(format!("{} holds no cairn database", dir.display())));
    }
    let lock = entries.iter().any(|entry| entry.name == LOCK).then(|| lock(env, dir));
    if let Some(Err(e)) = &lock
        && e.kind() == ErrorKind::Busy
    {
        return Err(e.clone());
    }
    // Again, now that nobody changes it.
    Ok(AtRest { entries: env.list(dir)?, lock })
}

/// Lists the directory, making it if it may be made.
fn look(env: &Env, dir: &Path, options: &Options) -> Result<Vec<DirEntry>> {
    let entries = match env.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.is_not_found() => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    let ours = entries.iter().any(|entry| classify(&entry.name) == FileKind::Current);
    if ours {
        return Ok(entries);
    }
    if let Some(foreign) = entries.iter().find(|entry| entry.is_dir || classify(&entry.name) == FileKind::Foreign) {
        return Err(Error::invalid(format!(
            "{} is not a cairn database: it holds \"{}\" and no CURRENT; name an empty or a new directory",
            dir.display(),
            foreign.name
        )));
    }
    if !options.create_if_missing {
        check_half_created(dir, &entries)?;
        return Err(Error::not_found(format!("{} holds no cairn database", dir.display())));
    }
    create_dir(env, dir)?;
    Ok(entries)
}

/// Makes the directory and makes its name durable, and the names above it: they may be as new, or
/// left by an opening that was interrupted before it could make them durable.
fn create_dir(env: &Env, dir: &Path) -> Result<()> {
    env.create_dir_all(dir)?;
    if cairn_env::mutant("new-directory-not-synced") {
        return Ok(());
    }
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match env.sync_dir(parent) {
            Ok(()) => {}
            // Where we may not even look we have made nothing.
            Err(e) if e.is_permission_denied() => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Without `CURRENT`: a creation that a crash interrupted leaves a manifest and an empty log, never
/// a table and never a group in the log.
pub(crate) fn check_half_created(dir: &Path, entries: &[DirEntry]) -> Result<()> {
    let holds_data = |entry: &&DirEntry| match classify(&entry.name) {
        FileKind::Table(_) => true,
        FileKind::Log(_) => entry.len > cairn_wal::SEGMENT_HEADER_BYTES,
        _ => false,
    };
    match entries.iter().find(holds_data) {
        Some(data) => Err(Error::corrupt(
            dir.join(files::CURRENT),
            None,
            format!("it is missing, yet there is {}: restore CURRENT or the whole directory", data.name),
        )),
        None => Ok(()),
    }
}

fn new_state(env: &Env) -> State {
    let mut state = State { next_table: 1, ..State::default() };
    let created = [
        Change::Database { id: env.random_u64(), hash_seed: env.random_u64() },
        Change::Keyspace { id: DEFAULT_KEYSPACE_ID, name: DEFAULT_KEYSPACE.to_owned() },
    ];
    let applied = state.apply(&created);
    debug_assert!(applied.is_ok());
    state
}

/// Opens a table that the manifest lists and checks it against what the manifest says.
pub(crate) fn open_table(
    env: &Env,
    dir: &Path,
    keyspace: KeyspaceId,
    meta: TableMeta,
    hash_seed: u64,
    cache: &Arc<Cache>,
    removals: Arc<RemovalQueue>,
) -> Result<TableRef> {
    let memory = cache.memory();
    let path = table_path(dir, meta.id);
    let file = env
        .open(&path)
        .map_err(|e| if e.is_not_found() { Error::corrupt(&path, None, TABLE_MISSING) } else { e.into() })?;
    let share_used = memory.used(Use::Tables) >= memory.tables_bytes_max();
    let load = if share_used { Load::OnDemand } else { Load::Resident };
    let blocks: Arc<dyn BlockCache> = cache.clone();
    let table = Table::open(file, meta.id, meta.file_bytes, Some(blocks), hash_seed, load).map_err(table_error)?;
    if let Some(what) = meta.disagreement(keyspace, table.summary()) {
        return Err(Error::corrupt(path, None, what));
    }
    let charge = memory.charge(Use::Tables, table.memory_bytes() as u64);
    Ok(TableHandle::new(meta, table, path, removals, charge))
}

/// A group of the new log in the making. Small groups of the old log whose numbers follow on one another become one:
/// it is all there or not at all before `CURRENT` leads to it, and a write for each would take most of the opening.
#[derive(Debug, Default)]
struct Anew {
    first_seq: u64,
    /// The number after its last.
    next_seq: u64,
    /// The bodies, one after the other.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

/// A group in the making is appended from this size on.
const ANEW_BYTES: usize = 1 << 20;

impl Anew {
    /// Whether a group that begins with `first_seq` can go on it.
    fn takes(&self, first_seq: u64) -> bool {
        self.ends.is_empty() || (first_seq == self.next_seq && self.bytes.len() < ANEW_BYTES)
    }

    fn add<'a>(&mut self, first_seq: u64, next_seq: u64, bodies: impl Iterator<Item = &'a [u8]>) {
        if self.ends.is_empty() {
            self.first_seq = first_seq;
        }
        self.next_seq = next_seq;
        for body in bodies {
            self.bytes.extend_from_slice(body);
            self.ends.push(self.bytes.len());
        }
    }
}

/// A failure of a replay, as the engine reports it.
pub(crate) fn log_error(e: ReplayError<Error>) -> Error {
    match e {
        ReplayError::Log(e) => wal_error(e),
        ReplayError::Visit(e) => e,
    }
}

impl Core {
    /// Reads the old log into memtables and the new log; returns the last number there is.
    fn replay_log(&self, state: &State, old_log: &OldLog) -> Result<SeqNo> {
        let mut last = if cairn_env::mutant("flushed-numbers-forgotten") { SeqNo(0) } else { state.last_seq() };
        let mut lead = self.lead.lock();
        let mut anew = Anew::default();
        let replayed = replay(&self.env, &self.dir, LOG, state.log_start, |group| {
            let path = LOG.path(&self.dir, group.position.segment);
            let damaged = |what: String| Error::corrupt(&path, Some(group.position.offset), what);
            if group.kind != GROUP_KIND {
                return Err(damaged(format!("a group of kind {} that this build does not know", group.kind)));
            }
            let mut seq = group.first_seq;
            if seq > NUMBER_MAX {
                return Err(damaged(format!("sequence number {seq} leaves no room for others")));
            }
            let mut live = false;
            let mut inserts: Vec<(u64, Op<'_>)> = Vec::new();
            for body in group.bodies() {
                let mut ops = Ops::new(body);
                while let Some(op) = ops.next().map_err(|e| damaged(format!("a batch does not decode: {e}")))? {
                    let keyspace = state.keyspace_of(op.keyspace, seq).map_err(damaged)?;
                    if keyspace.is_some_and(|keyspace| SeqNo(seq) > keyspace.flushed) {
                        live = true;
                        let mixed_up = cairn_env::mutant("keyspace-mixed-up-at-replay");
                        let op = if mixed_up { Op { keyspace: DEFAULT_KEYSPACE_ID, ..op } } else { op };
                        inserts.push((seq, op));
                    }
                    seq += 1;
                }
            }
            last = last.max(SeqNo(seq.saturating_sub(1)));
            if !live {
                return Ok(());
            }
            if !anew.takes(group.first_seq) {
                self.append_anew(&mut lead, &mut anew)?;
            }
            anew.add(group.first_seq, seq, group.bodies());
            // Where the log stands now: what is to be appended will lie there or later.
            let segment = lead.log()?.position().segment;
            let mut touched: Vec<KeyspaceId> = inserts.iter().map(|(_, op)| op.keyspace).collect();
            touched.sort_unstable();
            touched.dedup();
            for (seq, op) in inserts {
                self.insert(&mut lead, segment, seq, &op)
                    .map_err(|e| damaged(format!("an entry cannot be taken: {e}")))?;
            }
            self.settle(&mut lead, &touched);
            // Sealed now, flushed once the threads run; until then memory may hold what the log's
            // bound allows, which is half the budget.
            while let Some(id) = lead.full.first().copied() {
                self.seal(&mut lead, id);
            }
            Ok(())
        })
        .map_err(log_error)?;
        self.append_anew(&mut lead, &mut anew)?;
        if old_log.closed && replayed.closing_groups == 0 && !cairn_env::mutant("lost-end-of-log-accepted") {
            let path = LOG.path(&self.dir, replayed.end.segment);
            return Err(Error::corrupt(path, Some(replayed.end.offset), LOST_END));
        }
        if let Some(cut) = &replayed.cut {
            self.jobs.lock().last_error = Some(format!(
                "the log ended in an unfinished write, which was never acknowledged: {} bytes cut at {}",
                cut.bytes_cut, cut.position
            ));
        }
        Ok(last)
    }

    /// Appends what was gathered to the new log.
    fn append_anew(&self, lead: &mut Lead, anew: &mut Anew) -> Result<()> {
        if anew.ends.is_empty() {
            return Ok(());
        }
        let starts = std::iter::once(0).chain(anew.ends.iter().copied());
        let bodies: Vec<cairn_wal::Body<'_>> = starts
            .zip(&anew.ends)
            .map(|(start, &end)| cairn_wal::Body::new(anew.bytes.get(start..end).unwrap_or_default()))
            .collect();
        let end = lead.log()?.append(GROUP_KIND, anew.first_seq, &bodies).map_err(wal_error)?;
        self.log_space.appended(end.segment, anew.bytes.len() as u64);
        anew.bytes.clear();
        anew.ends.clear();
        Ok(())
    }

    /// Removes what a failed opening has written of the log, from segment `first` on; `CURRENT` does
    /// not lead there. An opening that is tried again and again would fill the disk with copies.
    fn remove_new_log(&self, first: u64) {
        // What stays is an orphan, which an opening that succeeds removes.
        for entry in self.env.list(&self.dir).unwrap_or_default() {
            if let FileKind::Log(id) = classify(&entry.name)
                && id >= first
            {
                let _ = self.env.remove(&self.dir.join(&entry.name));
            }
        }
    }

    /// Makes everything up to `last` the state to go on from: it is applied and synced.
    fn start_from(&self, last: SeqNo) {
        let mut lead = self.lead.lock();
        lead.next_seq = last.0 + u64::from(!cairn_env::mutant("number-reused-after-reopen"));
        self.visible.store(last.0, std::sync::atomic::Ordering::Release);
        self.durable.store(last.0, std::sync::atomic::Ordering::Release);
    }

    /// Removes files that neither the manifest nor the new log needs.
    fn remove_orphans(&self, manifest: &Manifest, log_start: u64) -> Result<()> {
        let listed: BTreeSet<u64> =
            manifest.state().keyspaces.values().flat_map(|keyspace| keyspace.tables.keys().copied()).collect();
        for entry in self.env.list(&self.dir)? {
            let orphan = match classify(&entry.name) {
                FileKind::Table(id) => !listed.contains(&id),
                FileKind::Manifest(id) => id != manifest.id(),
                FileKind::Log(id) => id < log_start,
                FileKind::LogSpare | FileKind::Temporary => true,
                FileKind::Current | FileKind::Lock | FileKind::Reserve | FileKind::Foreign => false,
            };
            if orphan && !entry.is_dir {
                self.env.remove(&self.dir.join(&entry.name))?;
            }
        }
        Ok(())
    }
}
