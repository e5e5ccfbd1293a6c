//! An open table: lookups, and the way from a handle to a block in memory.
//!
//! Owns: the file, its summary, and (loaded resident) its index and filter. Data blocks, and index
//! and filter loaded on demand, come through the engine's [`BlockCache`].
//! Locks: none. A lookup that finds its blocks at hand allocates nothing and copies no value.
//!
//! The life of a read: key and sequence range, filter, index, one data block, its hash index.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use cairn_env::File;

use crate::cache::Part;
use crate::footer::{FOOTER_BYTES, Footer, Handle, Refused};
use crate::properties::Properties;
use crate::seal::{Seal, TRAILER_BYTES};
use crate::{Block, BlockCache, BlockSlice, Charge, Error, Result, TableCursor, TableOptions, TableSummary};

/// Where the index and the filter of an open table live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// In the table's own memory, from open to drop.
    Resident,
    /// In the cache, fetched when a lookup needs them.
    OnDemand,
}

/// How far a lookup may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// To the file if need be.
    Any,
    /// Only to what is in memory: it never waits.
    ResidentOnly,
}

/// The answer to a lookup.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The newest version that the caller may see.
    Found {
        /// Its sequence number.
        seq: u64,
        /// Its kind.
        kind: u8,
        /// Its value.
        value: BlockSlice,
    },
    /// The table holds no such version.
    Absent,
    /// Only for [`Read::ResidentOnly`]: the answer needs a block that is not in memory.
    NotResident,
}

/// What a table file says of itself, for tools that have no manifest at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The table's id.
    pub id: u64,
    /// The hash seed of its database.
    pub hash_seed: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

/// An open table; immutable, shared between threads.
pub struct Table {
    file: File,
    footer: Footer,
    seal: Seal,
    summary: TableSummary,
    options: TableOptions,
    cache: Option<Arc<dyn BlockCache>>,
    index: Option<Arc<Block>>,
    filter: Option<Arc<Block>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({}, {} entries)", self.path().display(), self.summary.entries)
    }
}

impl Table {
    /// What the table in `file` says of itself.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Newer`], [`Error::Io`].
    pub fn identify(file: &File) -> Result<Identity> {
        let file_bytes = file.len()?;
        let footer = read_footer(file, file_bytes)?;
        Ok(Identity { id: footer.table_id, hash_seed: footer.hash_seed, file_bytes })
    }

    /// Opens table `id`, which the caller knows to be `file_bytes` long and of the database with
    /// `hash_seed`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file is not that table, or damaged in what is read now: footer,
    /// properties and, loaded resident, index and filter. [`Error::Newer`], [`Error::Io`].
    pub fn open(
        file: File,
        id: u64,
        file_bytes: u64,
        cache: Option<Arc<dyn BlockCache>>,
        hash_seed: u64,
        load: Load,
    ) -> Result<Arc<Table>> {
        let len = file.len()?;
        if len != file_bytes {
            let what = format!("the file has {len} bytes instead of {file_bytes}");
            return Err(Error::corrupt(file.path(), len.min(file_bytes), what));
        }
        let footer = read_footer(&file, len)?;
        let footer_at = len.saturating_sub(FOOTER_BYTES as u64);
        if footer.table_id != id {
            let what = format!("the file is table {}, not {id}", footer.table_id);
            return Err(Error::corrupt(file.path(), footer_at, what));
        }
        if footer.hash_seed != hash_seed {
            return Err(Error::corrupt(file.path(), footer_at, "the file belongs to another database"));
        }
        let seal = Seal::new(id, hash_seed);
        let Properties { summary, options } = read_properties(&file, &footer, seal, len)?;
        let mut table = Table { file, footer, seal, summary, options, cache, index: None, filter: None };
        if load == Load::Resident {
            let index = table.load(footer.index, table.index_part())?;
            table.filter = match footer.filter {
                Some(handle) => Some(Arc::new(table.load(handle, table.filter_part())?)),
                None => None,
            };
            table.index = Some(Arc::new(index));
        }
        Ok(Arc::new(table))
    }

    /// The id it was opened under.
    pub fn id(&self) -> u64 {
        self.summary.id
    }

    /// The path its file was opened under.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What it holds.
    pub fn summary(&self) -> &TableSummary {
        &self.summary
    }

    /// How it was written.
    pub fn options(&self) -> &TableOptions {
        &self.options
    }

    /// Memory the table itself holds, blocks in the cache not counted.
    pub fn memory_bytes(&self) -> usize {
        let part = |block: &Option<Arc<Block>>| block.as_ref().map_or(0, |block| block.memory_bytes());
        let keys = self.summary.smallest_key.capacity() + self.summary.largest_key.capacity();
        size_of::<Table>() + keys + part(&self.index) + part(&self.filter)
    }

    /// The newest version of `key` with a sequence number of at most `max_seq`.
    ///
    /// `hash` is `hash64(key, hash_seed)`, computed once for all tables. Reads at most one data
    /// block; a block read is offered to the cache.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a block needed for the answer is damaged; [`Error::Io`].
    pub fn get(&self, key: &[u8], hash: u64, max_seq: u64, read: Read) -> Result<Lookup> {
        let summary = &self.summary;
        let outside = max_seq < summary.smallest_seq
            || key < summary.smallest_key.as_slice()
            || key > summary.largest_key.as_slice();
        if outside || !self.filter_passes(hash, read)? {
            return Ok(Lookup::Absent);
        }
        let fetched;
        let index = match &self.index {
            Some(index) => index,
            None => match self.fetch_if(read, self.footer.index, self.index_part())? {
                Some(block) => {
                    fetched = block;
                    &fetched
                }
                None => return Ok(Lookup::NotResident),
            },
        };
        let index = index.index().map_err(self.damaged(self.footer.index))?;
        let Some(handle) = index.find(key, max_seq).and_then(|n| index.handle(n)) else {
            return Ok(Lookup::Absent);
        };
        let Some(block) = self.fetch_if(read, handle, Part::Data)? else {
            return Ok(Lookup::NotResident);
        };
        let found = block.data().and_then(|data| data.find(key, hash, max_seq)).map_err(self.damaged(handle))?;
        Ok(match found {
            Some(entry) => {
                let value = BlockSlice::new(block, entry.value_at..entry.value_end);
                Lookup::Found { seq: entry.seq, kind: entry.kind, value }
            }
            None => Lookup::Absent,
        })
    }

    /// False only if the key with this hash is not in the table.
    fn filter_passes(&self, hash: u64, read: Read) -> Result<bool> {
        let Some(handle) = self.footer.filter else { return Ok(true) };
        let fetched;
        let filter = match &self.filter {
            Some(filter) => filter,
            None => match self.fetch_if(read, handle, self.filter_part())? {
                Some(block) => {
                    fetched = block;
                    &fetched
                }
                // The blocks behind it may be at hand nevertheless.
                None => return Ok(true),
            },
        };
        Ok(filter.filter().map_err(self.damaged(handle))?.may_contain(hash))
    }

    /// A cursor over all entries, not yet positioned.
    ///
    /// `fill_cache` says whether blocks it reads are offered to the cache (a scan of everything had
    /// better not). When it moves on from block to block it reads ahead, more each time up to
    /// `readahead_bytes_max`; 0 for never.
    pub fn cursor(self: &Arc<Table>, fill_cache: bool, readahead_bytes_max: usize) -> TableCursor {
        TableCursor::new(Arc::clone(self), fill_cache, readahead_bytes_max)
    }

    /// The index, from wherever it lives.
    pub(crate) fn index_block(&self) -> Result<Arc<Block>> {
        match &self.index {
            Some(index) => Ok(Arc::clone(index)),
            None => self.fetch(self.footer.index, self.index_part()),
        }
    }

    /// A block from the cache or, if `read` allows, from the file.
    fn fetch_if(&self, read: Read, handle: Handle, part: Part) -> Result<Option<Arc<Block>>> {
        match read {
            Read::Any => self.fetch(handle, part).map(Some),
            Read::ResidentOnly => Ok(self.cached(handle)),
        }
    }

    fn fetch(&self, handle: Handle, part: Part) -> Result<Arc<Block>> {
        match self.cached(handle) {
            Some(block) => Ok(block),
            None => Ok(self.share(handle, self.load(handle, part)?, true)),
        }
    }

    pub(crate) fn cached(&self, handle: Handle) -> Option<Arc<Block>> {
        self.cache.as_ref()?.get(self.summary.id, handle.offset)
    }

    /// Has the cache charge for a block that was loaded, and offers it for keeping.
    pub(crate) fn share(&self, handle: Handle, block: Block, keep: bool) -> Arc<Block> {
        let charge = self.charge(block.memory_bytes());
        let block = Arc::new(block.charged(charge));
        if let Some(cache) = self.cache.as_ref().filter(|_| keep) {
            cache.insert(self.summary.id, handle.offset, Arc::clone(&block));
        }
        block
    }

    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.cache.as_ref().map_or_else(Charge::none, |cache| cache.charge(bytes))
    }

    /// Reads a block, past the cache.
    pub(crate) fn load(&self, handle: Handle, part: Part) -> Result<Block> {
        let stored = read_stored(&self.file, handle.offset, handle.len + TRAILER_BYTES)?;
        self.parse(stored, handle, part)
    }

    /// Checks and decodes a block as it was read.
    pub(crate) fn parse(&self, stored: Vec<u8>, handle: Handle, part: Part) -> Result<Block> {
        let contents = self.seal.open(stored, handle.offset).map_err(self.damaged(handle))?;
        Block::parse(part, contents).map_err(self.damaged(handle))
    }

    /// Turns what decoding the block at `handle` complains of into an error that names the place.
    pub(crate) fn damaged(&self, handle: Handle) -> impl FnOnce(cairn_codec::DecodeError) -> Error + '_ {
        move |error| Error::decode(self.path(), handle.offset, error)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(crate) fn seal(&self) -> Seal {
        self.seal
    }

    pub(crate) fn index_part(&self) -> Part {
        Part::Index { data_end: self.footer.index.offset }
    }

    pub(crate) fn filter_part(&self) -> Part {
        Part::Filter { table_id: self.summary.id }
    }
}

/// Reads `len` bytes, which the footer says are there.
pub(crate) fn read_stored(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|error| match error.source.kind() {
        ErrorKind::UnexpectedEof => Error::corrupt(file.path(), offset, "the file ends within a block"),
        _ => Error::Io(error),
    })?;
    Ok(bytes)
}

pub(crate) fn read_footer(file: &File, file_bytes: u64) -> Result<Footer> {
    let Some(at) = file_bytes.checked_sub(FOOTER_BYTES as u64) else {
        return Err(Error::corrupt(file.path(), 0, "the file is shorter than a footer"));
    };
    let bytes = read_stored(file, at, FOOTER_BYTES)?;
    Footer::decode(&bytes, file_bytes).map_err(|refused| match refused {
        Refused::Damaged(error) => Error::decode(file.path(), at, error),
        Refused::Newer(version) => Error::Newer { path: file.path().to_path_buf(), version },
    })
}

pub(crate) fn read_properties(file: &File, footer: &Footer, seal: Seal, file_bytes: u64) -> Result<Properties> {
    let handle = footer.properties;
    let stored = read_stored(file, handle.offset, handle.len + TRAILER_BYTES)?;
    let properties = seal
        .open(stored, handle.offset)
        .and_then(|contents| Properties::decode(&contents, file_bytes, footer.hash_seed))
        .map_err(|error| Error::decode(file.path(), handle.offset, error))?;
    if properties.summary.id != footer.table_id {
        return Err(Error::corrupt(file.path(), handle.offset, "properties of another table"));
    }
    Ok(properties)
}

#[cfg(test)]
pub(crate) mod tests;
