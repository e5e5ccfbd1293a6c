//! Point reads: the path from a key to its value.
//!
//! Memtables newest first, level 0 newest first, then one table per deeper level; the first version
//! found decides, a tombstone too. The key is hashed once, and only if a table must be asked. The
//! engine takes no lock (the block cache has one in each shard) and, up to the caller's choice of
//! form, copies and allocates nothing for blocks that are in memory.

use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};
use std::sync::Arc;

use cairn_table::{BlockSlice, Lookup, Read};

use crate::batch::check_key;
use crate::catalog::Tree;
use crate::core::Core;
use crate::cursor::{Cursor, Iter, KeyRange};
use crate::db::Keyspace;
use crate::error::{Error, Result};
use crate::output::table_error;
use crate::snapshot::Snapshot;
use crate::types::{SeqNo, Visibility, kind};

/// What a lookup found, before it takes the form that the caller wants.
enum Found<'a> {
    Memtable(&'a [u8]),
    Table(BlockSlice),
    Absent,
    NotResident,
}

/// A value that needs no copy: it pins the block it stands in, which counts against the memory
/// budget. Values from memtables are small copies.
#[derive(Clone)]
pub struct Pinned {
    bytes: PinnedBytes,
}

#[derive(Clone)]
enum PinnedBytes {
    Copied(Arc<[u8]>),
    Block(BlockSlice),
}

impl Deref for Pinned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            PinnedBytes::Copied(bytes) => bytes,
            PinnedBytes::Block(slice) => slice,
        }
    }
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

/// The answer of a lookup that does not touch files.
#[derive(Clone, Debug)]
pub enum Resident {
    /// The value.
    Found(Pinned),
    /// The key does not exist.
    Absent,
    /// A block is needed that is not in memory: look it up where waiting is allowed.
    NotResident,
}

fn lookup<'a>(core: &Core, tree: &'a Tree, key: &[u8], seq: SeqNo, mode: Read) -> Result<Found<'a>> {
    for buffer in tree.buffers() {
        if let Some(version) = buffer.memtable.get(key, seq.0) {
            return Ok(if version.kind == kind::PUT { Found::Memtable(version.value) } else { Found::Absent });
        }
    }
    if tree.levels.is_empty() {
        return Ok(Found::Absent);
    }
    let hash = core.hash(key);
    for table in tree.levels.asked_for(key) {
        match table.table.get(key, hash, seq.0, mode).map_err(table_error)? {
            Lookup::Found { kind: kind::PUT, value, .. } => return Ok(Found::Table(value)),
            Lookup::Found { .. } => return Ok(Found::Absent),
            Lookup::NotResident => return Ok(Found::NotResident),
            Lookup::Absent => {}
        }
    }
    Ok(Found::Absent)
}

/// Reads of one keyspace as of one moment: the latest at each call, a snapshot, or what
/// [`Reader::pinned`] has pinned.
#[derive(Clone, Debug)]
pub struct Reader {
    keyspace: Keyspace,
    moment: Moment,
}

#[derive(Clone, Debug)]
enum Moment {
    Latest(Visibility),
    Snapshot(Snapshot),
    Pinned { tree: Arc<Tree>, seq: SeqNo },
}

/// What a [`Reader`] is made of, borrowed: a single read counts no references.
#[derive(Clone, Copy)]
struct View<'a> {
    keyspace: &'a Keyspace,
    moment: &'a Moment,
}

impl View<'_> {
    fn seq(self) -> SeqNo {
        let core = self.keyspace.core();
        match self.moment {
            Moment::Latest(visibility) => core.seq_at(*visibility),
            // What is visible goes back only when a sync fails: nobody reads on beyond it then.
            Moment::Snapshot(snapshot) => snapshot.seq().min(core.seq_at(Visibility::Applied)),
            Moment::Pinned { seq, .. } => (*seq).min(core.seq_at(Visibility::Applied)),
        }
    }

    /// The tree first, the number second: see the catalog's invariant 4.
    fn tree(self) -> Result<(Arc<Tree>, SeqNo)> {
        let core = self.keyspace.core();
        core.check_open()?;
        match self.moment {
            Moment::Pinned { tree, .. } => Ok((tree.clone(), self.seq())),
            Moment::Latest(_) | Moment::Snapshot(_) => {
                let early = self.number_before_catalog();
                let tree = core.catalog.tree(self.keyspace.id()).ok_or_else(|| self.dropped())?;
                Ok((tree, early.unwrap_or_else(|| self.seq())))
            }
        }
    }

    fn dropped(self) -> Error {
        Error::no_keyspace(self.keyspace.name())
    }

    /// The planted defect of taking the number before the catalog; in between others get a turn.
    fn number_before_catalog(self) -> Option<SeqNo> {
        cairn_env::mutant("number-before-catalog").then(|| {
            let seq = self.seq();
            drop(self.keyspace.core().jobs.lock());
            seq
        })
    }

    fn read<R>(self, key: &[u8], mode: Read, form: impl FnOnce(Found<'_>) -> R) -> Result<R> {
        check_key(key)?;
        let core = self.keyspace.core();
        core.check_open()?;
        match self.moment {
            Moment::Pinned { tree, .. } => Ok(form(lookup(core, tree, key, self.seq(), mode)?)),
            Moment::Latest(_) | Moment::Snapshot(_) => {
                let early = self.number_before_catalog();
                let catalog = core.catalog.load();
                let tree = catalog.tree(self.keyspace.id()).ok_or_else(|| self.dropped())?;
                Ok(form(lookup(core, tree, key, early.unwrap_or_else(|| self.seq()), mode)?))
            }
        }
    }

    fn get_with<R>(self, key: &[u8], form: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.read(key, Read::Any, |found| match found {
            Found::Memtable(value) => Some(form(value)),
            Found::Table(value) => Some(form(&value)),
            Found::Absent | Found::NotResident => None,
        })
    }

    fn get_pinned(self, key: &[u8]) -> Result<Option<Pinned>> {
        self.read(key, Read::Any, |found| match pin(found) {
            Resident::Found(value) => Some(value),
            Resident::Absent | Resident::NotResident => None,
        })
    }
}

/// Single reads of the latest that is applied, without the [`Reader`] that [`Keyspace::latest`] makes.
impl Keyspace {
    /// [`Reader::get`] of the latest.
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get_with(key, <[u8]>::to_vec)
    }

    /// [`Reader::get_pinned`] of the latest.
    ///
    /// # Errors
    /// As there.
    pub fn get_pinned(&self, key: &[u8]) -> Result<Option<Pinned>> {
        View { keyspace: self, moment: &Moment::Latest(Visibility::Applied) }.get_pinned(key)
    }

    /// [`Reader::get_with`] of the latest.
    ///
    /// # Errors
    /// As there.
    pub fn get_with<R>(&self, key: &[u8], form: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        View { keyspace: self, moment: &Moment::Latest(Visibility::Applied) }.get_with(key, form)
    }
}

impl Reader {
    pub(crate) fn latest(keyspace: Keyspace, visibility: Visibility) -> Reader {
        Reader { keyspace, moment: Moment::Latest(visibility) }
    }

    pub(crate) fn snapshot(keyspace: Keyspace, snapshot: Snapshot) -> Reader {
        Reader { keyspace, moment: Moment::Snapshot(snapshot) }
    }

    fn view(&self) -> View<'_> {
        View { keyspace: &self.keyspace, moment: &self.moment }
    }

    /// The same reads, all as of now: pins memtables and tables of this moment until it is
    /// dropped. For a few reads that belong together; a [`Snapshot`] pins less and lasts longer.
    pub fn pinned(&self) -> Reader {
        let moment = match self.view().tree() {
            Ok((tree, seq)) => Moment::Pinned { tree, seq },
            Err(_) => self.moment.clone(),
        };
        Reader { keyspace: self.keyspace.clone(), moment }
    }

    /// The number of the last write that a read sees now. What is read afterwards is at least as
    /// new; with [`Reader::pinned`] or a snapshot, exactly as new. After a failed sync it is never
    /// beyond what is durable.
    pub fn seq(&self) -> SeqNo {
        self.view().seq()
    }

    /// The value of a key, copied.
    ///
    /// # Errors
    /// `Invalid` for an empty or oversized key, `NotFound` if the keyspace was dropped ([`crate::Db::drop_keyspace`]),
    /// `Corrupt` or `Io` if a table cannot be read, `Closed`. A missing key is `None`, not an error.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get_with(key, <[u8]>::to_vec)
    }

    /// Calls `form` with the value of a key, in place: nothing is copied or allocated.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn get_with<R>(&self, key: &[u8], form: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.view().get_with(key, form)
    }

    /// The value of a key, pinning the block it stands in.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn get_pinned(&self, key: &[u8]) -> Result<Option<Pinned>> {
        self.view().get_pinned(key)
    }

    /// The value of a key if that can be told without touching a file; never waits.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn get_resident(&self, key: &[u8]) -> Result<Resident> {
        self.view().read(key, Read::ResidentOnly, pin)
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get_with(key, |_| ())?.is_some())
    }

    /// The values of many keys, all as of one moment, in the order asked for.
    ///
    /// # Errors
    /// As [`Reader::get`], for the first key that fails.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Pinned>>> {
        let moment = self.pinned();
        keys.iter().map(|key| moment.get_pinned(key.as_ref())).collect()
    }

    /// All keys and values, in order.
    pub fn iter(&self) -> Iter {
        self.iter_range(KeyRange::default())
    }

    /// The keys and values in a range of keys, in order: `range(b"a"..b"f")`. None if it ends before it
    /// starts.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Iter {
        self.iter_range(KeyRange::new(bytes_of(range.start_bound()), bytes_of(range.end_bound())))
    }

    /// The keys that begin with `prefix` and their values, in order.
    pub fn prefix(&self, prefix: &[u8]) -> Iter {
        self.iter_range(KeyRange::prefix(prefix))
    }

    fn iter_range(&self, range: KeyRange) -> Iter {
        match self.view().tree() {
            Ok((tree, seq)) => Iter::new(tree, seq, range),
            Err(e) => Iter::failed(e),
        }
    }

    /// A cursor over all keys, for reading without copies.
    ///
    /// # Errors
    /// `NotFound` if the keyspace was dropped, `Closed`.
    pub fn cursor(&self) -> Result<Cursor> {
        let (tree, seq) = self.view().tree()?;
        Ok(Cursor::new(tree, seq, KeyRange::default()))
    }

    /// A cursor over a range of keys.
    ///
    /// # Errors
    /// As [`Reader::cursor`].
    pub fn cursor_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Cursor> {
        let (tree, seq) = self.view().tree()?;
        Ok(Cursor::new(tree, seq, KeyRange::new(bytes_of(range.start_bound()), bytes_of(range.end_bound()))))
    }
}

fn pin(found: Found<'_>) -> Resident {
    match found {
        Found::Memtable(value) => Resident::Found(Pinned { bytes: PinnedBytes::Copied(value.into()) }),
        Found::Table(value) => Resident::Found(Pinned { bytes: PinnedBytes::Block(value) }),
        Found::Absent => Resident::Absent,
        Found::NotResident => Resident::NotResident,
    }
}

fn bytes_of<K: AsRef<[u8]>>(bound: Bound<&K>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_ref()),
        Bound::Excluded(key) => Bound::Excluded(key.as_ref()),
        Bound::Unbounded => Bound::Unbounded,
    }
}
