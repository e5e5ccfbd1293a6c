//! The database as its users hold it: [`Db`] and [`Keyspace`].

use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use cairn_env::Env;
use cairn_env::sync::Thread;

use crate::batch::Batch;
use crate::core::{Core, Health, PanicGuard};
use crate::cursor::Iter;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::read::{Pinned, Reader};
use crate::recovery;
use crate::snapshot::{ReleaseHook, Snapshot};
use crate::stats::Stats;
use crate::ticket::{Commit, Ticket};
use crate::types::{DEFAULT_KEYSPACE, DEFAULT_KEYSPACE_ID, Durability, KeyspaceId, SeqNo, Visibility};

/// An open database. Clones share it; when the last handle goes (keyspaces count), it is closed.
///
/// ```
/// # fn main() -> cairn::Result<()> {
/// # let env = cairn::Env::memory();
/// let db = cairn::Db::open_in(&env, "data", cairn::Options::default())?;
/// db.put(b"k", b"v")?;
/// assert_eq!(db.get(b"k")?.as_deref(), Some(&b"v"[..]));
/// db.delete(b"k")?;
/// assert_eq!(db.get(b"k")?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Db {
    default: Keyspace,
}

/// The user's side of an open database: closes it when the last clone of any handle goes.
#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    threads: std::sync::Mutex<Vec<(Stage, Thread)>>,
}

/// What a background thread does until it is told to end.
type Body = fn(&Core);

/// Which threads a close stops first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Commit,
    Jobs,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody is left to be told; what was acknowledged is durable without it.
        let _ = self.close();
    }
}

impl Handle {
    fn close(&self) -> Result<()> {
        {
            let mut state = self.core.commit.lock();
            if state.closing {
                return Ok(());
            }
            state.closing = true;
        }
        self.core.append_wanted.notify_all();
        self.core.sync_wanted.notify_all();
        self.core.commit_changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let (commit, jobs): (Vec<_>, Vec<_>) = threads.into_iter().partition(|(stage, _)| *stage == Stage::Commit);
        // What was submitted is written first; it may need a flush to make room.
        for (_, thread) in commit {
            thread.join();
        }
        self.core.stop_jobs();
        for (_, thread) in jobs {
            thread.join();
        }
        let writable = self.core.check_writable().is_ok();
        let result = if writable { self.core.close_files() } else { Ok(()) };
        *self.core.health.lock().unwrap_or_else(PoisonError::into_inner) = Health::Closed;
        self.core.remove_obsolete();
        self.core.lock_file.lock().unwrap_or_else(PoisonError::into_inner).take();
        result
    }
}

/// A keyspace: keys and values of their own under a name. All keyspaces share one log, and a
/// batch may span them. A cheap handle; clones share it.
#[derive(Clone, Debug)]
pub struct Keyspace {
    handle: Arc<Handle>,
    id: KeyspaceId,
    name: Arc<str>,
}

#[derive(Debug)]
struct Release(std::sync::Weak<Core>);

impl ReleaseHook for Release {
    fn released(&self) {
        if let Some(core) = self.0.upgrade() {
            core.snapshot_released();
        }
    }
}

impl Db {
    /// Opens the database in a directory of the file system, creating it if it is missing or
    /// empty. Replays the log; the time grows with what was not flushed, up to
    /// [`Options::log_bytes_max`].
    ///
    /// # Errors
    /// `Busy` if it is open already, here or in another process; `Invalid` for a bad option or a
    /// directory that holds something else; `NotFound` if there is none and
    /// [`Options::create_if_missing`] is false; `Corrupt` for a damaged or missing file; `Full`, `Io`.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Db> {
        Db::open_in(&Env::real(), path, options)
    }

    /// Opens a database in any environment: in memory, or simulated.
    ///
    /// # Errors
    /// As [`Db::open`].
    pub fn open_in(env: &Env, path: impl AsRef<Path>, options: Options) -> Result<Db> {
        let core = Arc::new(recovery::open(env, path.as_ref(), options)?);
        let handle = Arc::new(Handle { core: core.clone(), threads: std::sync::Mutex::new(Vec::new()) });
        let bodies: [(&str, Stage, Body); 4] = [
            ("cairn-append", Stage::Commit, Core::run_append_thread),
            ("cairn-sync", Stage::Commit, Core::run_sync_thread),
            ("cairn-flush", Stage::Jobs, Core::run_flush_thread),
            ("cairn-compact", Stage::Jobs, Core::run_compaction_thread),
        ];
        for (name, stage, body) in bodies {
            let core = core.clone();
            let thread = env.spawn(name, move || {
                let guard = PanicGuard { core: &core, what: name };
                body(&core);
                std::mem::forget(guard);
            })?;
            handle.threads.lock().unwrap_or_else(PoisonError::into_inner).push((stage, thread));
        }
        Ok(Db { default: Keyspace { handle, id: DEFAULT_KEYSPACE_ID, name: Arc::from(DEFAULT_KEYSPACE) } })
    }

    fn core(&self) -> &Arc<Core> {
        &self.default.handle.core
    }

    /// The keyspace "default".
    pub fn default_keyspace(&self) -> Keyspace {
        self.default.clone()
    }

    /// A keyspace by name, created if it does not exist; durable when this returns. A database gives out
    /// 16,777,216 keyspaces over its life, those counted that were dropped.
    ///
    /// # Errors
    /// `Invalid` for a name that is empty or over 255 bytes, or when all are given out; `Closed`, `Full`, `Io`.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let id = self.core().keyspace_id(name)?;
        Ok(Keyspace { handle: self.default.handle.clone(), id, name: Arc::from(name) })
    }

    /// Drops a keyspace with all that it holds; durable when this returns. False if there is none of
    /// this name. A keyspace of the same name that is made later is another one, and empty; conditions
    /// on it know nothing of the earlier one.
    ///
    /// It takes place between two groups of writes, before those that are still queued, and all that was
    /// written before is then as durable. What was acknowledged before is gone with it; of a batch over
    /// several keyspaces the rest stays. What comes after is refused with a `NotFound` that names the
    /// keyspace: reads and writes through a [`Keyspace`] of it, and as a whole each batch that names it in
    /// an operation or a condition. So are reads at a [`Snapshot`], also at one that was taken before: a
    /// snapshot keeps versions from compaction, not keyspaces. Iterators, cursors, pinned values and
    /// [`Reader::pinned`] readers that were there before go on.
    ///
    /// The cost does not depend on what the keyspace holds: a sync of the log, if something is not synced
    /// yet, and an edit of the manifest; writes wait for both. The table files are then removed in the
    /// background, and the memtables freed, when the last of their readers has gone; the log lets go of
    /// what only the keyspace needed. On a full disk it works as deletes do, and gives space back.
    ///
    /// ```
    /// # let env = cairn::Env::memory();
    /// # let db = cairn::Db::open_in(&env, "data", cairn::Options::default())?;
    /// let monday = db.keyspace("2026-11-23")?;
    /// monday.put(b"k", b"v")?;
    /// assert!(db.drop_keyspace("2026-11-23")?);
    /// assert_eq!(monday.get(b"k").unwrap_err().kind(), cairn::ErrorKind::NotFound);
    /// assert!(!db.drop_keyspace("2026-11-23")?);
    /// # Ok::<(), cairn::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` for the keyspace "default", which every database has. `Full`, and nothing has changed.
    /// `Closed`, or `Io`: then the keyspace is whole or gone after the database is reopened.
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        self.core().drop_keyspace(name)
    }

    /// The names of all keyspaces, in the order of their creation.
    pub fn keyspaces(&self) -> Vec<String> {
        self.core().catalog.load().trees().map(|tree| tree.name.to_string()).collect()
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch::new(self.core().instance, &self.core().options)
    }

    /// Writes a batch, all or nothing, and waits until it is as durable as asked for.
    ///
    /// # Errors
    /// What was wrong in the batch: `Invalid`, or what [`Batch::require_absent`] met. `Busy` if readers
    /// pin so much that the memory budget has no room for it. Else as [`Ticket::wait`].
    pub fn write(&self, batch: Batch, durability: Durability) -> Result<Commit> {
        let core = self.core();
        core.write(core.finish(batch)?, durability)
    }

    /// Hands a batch over and never waits; the [`Ticket`] tells the outcome.
    ///
    /// # Errors
    /// What was wrong in the batch, as [`Db::write`]. `Busy` if too much is waiting already, or pinned
    /// by readers: back off. `Closed`.
    pub fn submit(&self, batch: Batch, durability: Durability) -> Result<Ticket> {
        let core = self.core();
        let cell = core.submit(core.finish(batch)?, durability)?;
        Ok(Ticket { core: core.clone(), cell, durability })
    }

    /// A ticket for what is applied already: it resolves when everything up to `seq` is durable. So a
    /// batch can be written as `Buffered`, read by who writes next, and acknowledged to others
    /// only when it is synced; all that wait meanwhile share one sync.
    ///
    /// # Errors
    /// `Invalid` if `seq` was not given yet, `Closed` if the database is closed to writes.
    pub fn durable(&self, seq: SeqNo) -> Result<Ticket> {
        let core = self.core();
        let cell = core.ticket_for(seq)?;
        Ok(Ticket { core: core.clone(), cell, durability: Durability::Commit })
    }

    /// A view of everything as of now, kept until it is dropped.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(Visibility::Applied)
    }

    /// A view of everything that is applied, or only of what is durable.
    pub fn snapshot_at(&self, visibility: Visibility) -> Snapshot {
        let core = self.core();
        let hook = Box::new(Release(Arc::downgrade(core)));
        core.snapshots.register(core.instance, core.env.now(), hook, || core.seq_at(visibility))
    }

    /// Waits until everything applied is synced.
    ///
    /// # Errors
    /// `Closed` if the database is closed to writes.
    pub fn sync(&self) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        core.sync_through(core.seq_at(Visibility::Applied))?;
        // Afterwards: a failure takes what is applied back to what is durable, and that needs no sync.
        core.check_writable()
    }

    /// Writes every memtable to tables and waits for it. Never needed for durability.
    ///
    /// # Errors
    /// `Full`, `Closed`.
    pub fn flush(&self) -> Result<()> {
        self.core().flush_all()
    }

    /// Compacts everything written until now to its smallest form, and waits. Garbage that a
    /// snapshot still needs stays.
    ///
    /// # Errors
    /// `Full`, `Corrupt`, `Io`, `Closed`.
    pub fn compact(&self) -> Result<()> {
        self.core().compact_all()
    }

    /// What the database is doing and has done. Lists its directory; `disk_bytes` is 0 if that fails.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Closes the database: waits for what was submitted, stops the background threads and marks
    /// the log as ended. Memtables stay in the log and are replayed at the next open. Other
    /// handles get `Closed` from then on.
    ///
    /// # Errors
    /// `Io` if the log's end could not be written; everything acknowledged is durable all the same.
    pub fn close(self) -> Result<()> {
        self.default.handle.close()
    }

    /// [`Keyspace::put`] in the keyspace "default".
    ///
    /// # Errors
    /// As there.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Commit> {
        self.default.put(key, value)
    }

    /// [`Keyspace::delete`] in the keyspace "default".
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, key: &[u8]) -> Result<Commit> {
        self.default.delete(key)
    }

    /// [`Reader::get`] in the keyspace "default".
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.default.get(key)
    }

    /// [`Reader::iter`] in the keyspace "default".
    pub fn iter(&self) -> Iter {
        self.default.iter()
    }

    /// [`Reader::range`] in the keyspace "default".
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Iter {
        self.default.range(range)
    }

    /// [`Reader::prefix`] in the keyspace "default".
    pub fn prefix(&self, prefix: &[u8]) -> Iter {
        self.default.prefix(prefix)
    }
}

impl Keyspace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> KeyspaceId {
        self.id
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Tells open databases apart.
    pub(crate) fn database(&self) -> u64 {
        self.handle.core.instance
    }

    fn write(&self, fill: impl FnOnce(&mut Batch)) -> Result<Commit> {
        let core = self.core();
        let mut batch = Batch::new(core.instance, &core.options);
        fill(&mut batch);
        core.write(core.finish(batch)?, core.options.durability)
    }

    /// Sets a key to a value, with the durability of the options.
    ///
    /// # Errors
    /// `Invalid` for a key that is empty or over 65,535 bytes or a value over the limit; else as
    /// [`Db::write`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Commit> {
        self.write(|batch| batch.put(self, key, value))
    }

    /// Removes a key, whether it exists or not, with the durability of the options.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: &[u8]) -> Result<Commit> {
        self.write(|batch| batch.delete(self, key))
    }

    /// Reads of the latest that is applied, or only of what is durable.
    pub fn latest(&self, visibility: Visibility) -> Reader {
        Reader::latest(self.clone(), visibility)
    }

    /// Reads as of a snapshot of the same database; `NotFound` from each read if the keyspace was dropped,
    /// before or after the snapshot was taken.
    ///
    /// # Errors
    /// `Invalid` if the snapshot belongs to another database.
    pub fn at(&self, snapshot: &Snapshot) -> Result<Reader> {
        if snapshot.database() != self.database() {
            return Err(Error::invalid("the snapshot belongs to another database"));
        }
        Ok(Reader::snapshot(self.clone(), snapshot.clone()))
    }

    fn now(&self) -> Reader {
        self.latest(Visibility::Applied)
    }

    /// [`Reader::multi_get`] of the latest.
    ///
    /// # Errors
    /// As there.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Pinned>>> {
        self.now().multi_get(keys)
    }

    /// [`Reader::iter`] of the latest.
    pub fn iter(&self) -> Iter {
        self.now().iter()
    }

    /// [`Reader::range`] of the latest.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Iter {
        self.now().range(range)
    }

    /// [`Reader::prefix`] of the latest.
    pub fn prefix(&self, prefix: &[u8]) -> Iter {
        self.now().prefix(prefix)
    }
}

impl Core {
    /// Ends log and manifest, so that the next open knows they were ended. The manifest only after
    /// the log: its end then tells that the log has one.
    fn close_files(&self) -> Result<()> {
        let manifest = self.manifest.lock().take();
        self.lead.lock().close()?;
        manifest.map_or(Ok(()), crate::manifest::Manifest::close)
    }
}
