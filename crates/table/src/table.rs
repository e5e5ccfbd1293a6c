//! An open table: lookups, and the way from a handle to a block in memory.
//!
//! Owns: the file, its summary, the index over its partitions and (loaded resident) these and the filter.
//! Data blocks, and partitions and pieces of the filter loaded on demand, come through the engine's [`BlockCache`].
//! Locks: none. A lookup that finds its blocks at hand allocates nothing and copies no value.
//!
//! The life of a read: sequence range, filter, index, a partition, one data block, its hash
//! index. A filter in memory comes before all that the key must be compared with: its one line depends
//! on the hash alone, so that the misses of the lines of several tables overlap. A filter that may have
//! to be read comes after the key range.
//!
//! Each thread keeps up to 64 KiB to read data blocks into; no budget counts them.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use cairn_codec::{DecodeError, Reader, compare};
use cairn_env::File;

use crate::filter::{Filter, Piece, Question};
use crate::footer::{FOOTER_BYTES, Footer, Handle, Refused};
use crate::index::Index;
use crate::partition;
use crate::properties::Properties;
use crate::seal::{Seal, TRAILER_BYTES};
use crate::{Block, BlockCache, BlockSlice, Charge, Error, Result, TableCursor, TableOptions, TableSummary};

/// Most memory that a thread keeps from one read of a data block to the next, and the longest block that is read into it.
const STORED_BYTES_KEPT: usize = 64 << 10;

/// Where the partitions and the filter of an open table live.
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
    index: Index,
    /// If there is one, and it does not come from the cache.
    filter: Option<Filter>,
    /// All of them, or none if they come from the cache.
    partitions: Vec<Index>,
}

/// A partition, from wherever it lives.
pub(crate) enum Held {
    Resident(usize),
    Fetched(Arc<Block>),
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
    /// properties, index and, loaded resident, partitions and filter. [`Error::Newer`], [`Error::Io`].
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
        let index = read_index(&file, &footer, seal)?;
        let (filter, partitions) = (None, Vec::new());
        let mut table = Table { file, footer, seal, summary, options, cache, index, filter, partitions };
        if load == Load::Resident {
            table.filter = table.load_filter()?;
            table.partitions = table.index.handles().map(|at| table.load_partition(at)).collect::<Result<_>>()?;
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
        let keys = self.summary.smallest_key.capacity() + self.summary.largest_key.capacity();
        let partitions = self.partitions.iter().map(|p| size_of::<Index>() + p.memory_bytes()).sum::<usize>();
        let filter = self.filter.as_ref().map_or(0, Filter::memory_bytes);
        size_of::<Table>() + keys + self.index.memory_bytes() + partitions + filter
    }

    /// The newest version of `key` with a sequence number of at most `max_seq`.
    ///
    /// `hash` is `hash64(key, hash_seed)`, computed once for all tables. Reads at most one data
    /// block and, loaded on demand, a piece of the filter and a partition; a block read is offered to
    /// the cache.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a block needed for the answer is damaged; [`Error::Io`].
    #[inline]
    pub fn get(&self, key: &[u8], hash: u64, max_seq: u64, read: Read) -> Result<Lookup> {
        let denied =
            max_seq < self.summary.smallest_seq || self.filter.as_ref().is_some_and(|filter| !filter.may_contain(hash));
        if denied { Ok(Lookup::Absent) } else { self.get_past_filter(key, hash, max_seq, read) }
    }

    /// As [`Table::get`] for a key that passes the filter, if that is in memory.
    fn get_past_filter(&self, key: &[u8], hash: u64, max_seq: u64, read: Read) -> Result<Lookup> {
        // A filter in memory lets few keys beyond the first and the last pass, and the block says it of those.
        if self.filter.is_none() && !self.spans(key) {
            return Ok(Lookup::Absent);
        }
        match self.ask_on_demand(hash, read)? {
            Some(true) => {}
            Some(false) => return Ok(Lookup::Absent),
            None => return Ok(Lookup::NotResident),
        }
        let Some(number) = self.index.find(key, max_seq) else { return Ok(Lookup::Absent) };
        let held;
        let index = match self.partitions.get(number) {
            Some(index) => index,
            None => {
                held = match read {
                    Read::Any => self.partition(number)?,
                    Read::ResidentOnly => match self.partition_at_hand(number)? {
                        Some(held) => held,
                        None => return Ok(Lookup::NotResident),
                    },
                };
                self.held(&held)?
            }
        };
        let Some(handle) = index.find(key, max_seq).and_then(|n| index.handle(n)) else {
            return Ok(Lookup::Absent);
        };
        let block = match read {
            Read::Any => Some(self.fetch(handle, Table::load_data)?),
            Read::ResidentOnly => self.cached(handle),
        };
        let Some(block) = block else { return Ok(Lookup::NotResident) };
        let found = block.data().map_err(self.damaged(handle))?.find(key, hash, max_seq);
        Ok(match found {
            Some(entry) => {
                let value = BlockSlice::new(block, entry.value_at..entry.value_end);
                Lookup::Found { seq: entry.seq, kind: entry.kind, value }
            }
            None => Lookup::Absent,
        })
    }

    /// Whether `key` lies between the first and the last.
    fn spans(&self, key: &[u8]) -> bool {
        compare(key, &self.summary.smallest_key).is_ge() && compare(key, &self.summary.largest_key).is_le()
    }

    /// What a filter says that is not in the table's memory; true without a filter, `None` if it must be
    /// read first and may not.
    pub(crate) fn ask_on_demand(&self, hash: u64, read: Read) -> Result<Option<bool>> {
        if self.filter.is_some() {
            return Ok(Some(true));
        }
        let Some(question) = Question::new(self.footer.filter, self.summary.id, self.probes(), hash) else {
            return Ok(Some(true));
        };
        let load = |table: &Table, at| table.load_piece(at).map(Block::of_filter);
        let block = match read {
            Read::Any => Some(self.fetch(question.piece, load)?),
            Read::ResidentOnly => self.cached(question.piece),
        };
        let Some(block) = block else { return Ok(None) };
        let piece = block.filter().map_err(self.damaged(question.piece))?;
        Ok(Some(question.ask(piece)))
    }

    /// A cursor over all entries, not yet positioned.
    ///
    /// `fill_cache` says whether blocks it reads are offered to the cache (a scan of everything had
    /// better not). When it moves on from block to block it reads ahead, more each time up to
    /// `readahead_bytes_max`; 0 for never.
    pub fn cursor(self: &Arc<Table>, fill_cache: bool, readahead_bytes_max: usize) -> TableCursor {
        TableCursor::new(Arc::clone(self), fill_cache, readahead_bytes_max)
    }

    /// The index over the partitions.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// The partition with this number, which the index must have.
    pub(crate) fn partition(&self, number: usize) -> Result<Held> {
        match self.partitions.get(number) {
            Some(_) => Ok(Held::Resident(number)),
            None => {
                let load = |table: &Table, at| table.load_partition(at).map(Block::of_partition);
                self.fetch(self.partition_handle(number)?, load).map(Held::Fetched)
            }
        }
    }

    /// The partition if it is in memory.
    fn partition_at_hand(&self, number: usize) -> Result<Option<Held>> {
        match self.partitions.get(number) {
            Some(_) => Ok(Some(Held::Resident(number))),
            None => Ok(self.cached(self.partition_handle(number)?).map(Held::Fetched)),
        }
    }

    /// What `held` leads to.
    pub(crate) fn held<'a>(&'a self, held: &'a Held) -> Result<&'a Index> {
        let gone = DecodeError { offset: 0, what: "no such partition" };
        match held {
            Held::Resident(number) => self.partitions.get(*number).ok_or(gone),
            Held::Fetched(block) => block.partition(),
        }
        .map_err(self.damaged(self.footer.index))
    }

    fn partition_handle(&self, number: usize) -> Result<Handle> {
        let gone = DecodeError { offset: 0, what: "no such partition" };
        self.index.handle(number).ok_or(gone).map_err(self.damaged(self.footer.index))
    }

    /// A block from the cache, or else from the file with `load`.
    fn fetch(&self, handle: Handle, load: fn(&Table, Handle) -> Result<Block>) -> Result<Arc<Block>> {
        match self.cached(handle) {
            Some(block) => Ok(block),
            None => Ok(self.share(handle, load(self, handle)?, true)),
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

    /// Reads a data block, past the cache.
    pub(crate) fn load_data(&self, handle: Handle) -> Result<Block> {
        thread_local! {
            /// Read into again and again: memory that is in the processor's cache, and need not be cleared.
            static STORED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let len = handle.len + TRAILER_BYTES;
        if len > STORED_BYTES_KEPT {
            // Stored raw, what was read becomes the block.
            return self.decode_data(read_stored(&self.file, handle.offset, len)?, handle);
        }
        // A thread that is ending, whose destructors read, has none any more.
        let mut stored = STORED.try_with(Cell::take).unwrap_or_default();
        let read = read_stored_into(&mut stored, &self.file, handle.offset, len);
        let block = read.and_then(|()| self.decode_data(stored.as_slice(), handle));
        if stored.capacity() <= STORED_BYTES_KEPT {
            let _ = STORED.try_with(|kept| kept.set(stored));
        }
        block
    }

    /// Checks and decodes a data block as it was read.
    pub(crate) fn decode_data<'a>(&self, stored: impl Into<Cow<'a, [u8]>>, handle: Handle) -> Result<Block> {
        self.seal.open(stored, handle.offset).and_then(Block::of_data).map_err(self.damaged(handle))
    }

    /// Reads a partition, past the cache.
    pub(crate) fn load_partition(&self, handle: Handle) -> Result<Index> {
        let stored = read_stored(&self.file, handle.offset, handle.len + TRAILER_BYTES)?;
        self.seal
            .open(stored, handle.offset)
            .and_then(|contents| partition::decode(&contents, self.footer.data_end))
            .map_err(self.damaged(handle))
    }

    /// Reads a piece of the filter, past the cache.
    fn load_piece(&self, handle: Handle) -> Result<Piece> {
        let stored = read_stored(&self.file, handle.offset, handle.len + TRAILER_BYTES)?;
        self.seal
            .open(stored, handle.offset)
            .and_then(|contents| Piece::decode(contents, handle))
            .map_err(self.damaged(handle))
    }

    /// Reads the whole filter, past the cache; `None` if the table has none.
    pub(crate) fn load_filter(&self) -> Result<Option<Filter>> {
        Filter::gather(self.footer.filter, self.summary.id, self.probes(), |handle| self.load_piece(handle))
    }

    /// Turns what decoding the block at `handle` complains of into an error that names the place.
    pub(crate) fn damaged(&self, handle: Handle) -> impl FnOnce(DecodeError) -> Error + '_ {
        move |error| Error::decode(self.path(), handle.offset, error)
    }

    /// Of the filter; with none, all keys pass.
    fn probes(&self) -> u32 {
        self.options.filter_hashes.unwrap_or_default()
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
}

/// Reads `len` bytes, which the footer says are there.
pub(crate) fn read_stored(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_stored_into(&mut bytes, file, offset, len)?;
    Ok(bytes)
}

/// As [`read_stored`], into memory that is used again; after an error it is empty.
pub(crate) fn read_stored_into(bytes: &mut Vec<u8>, file: &File, offset: u64, len: usize) -> Result<()> {
    bytes.resize(len, 0);
    file.read_exact_at(bytes, offset).map_err(|error| {
        bytes.clear();
        match error.source.kind() {
            ErrorKind::UnexpectedEof => Error::corrupt(file.path(), offset, "the file ends within a block"),
            _ => Error::Io(error),
        }
    })
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
    if (properties.options.filter_bits_per_key > 0) != (footer.filter.lines > 0) {
        return Err(Error::corrupt(file.path(), handle.offset, "properties and footer disagree about a filter"));
    }
    Ok(properties)
}

pub(crate) fn read_index(file: &File, footer: &Footer, seal: Seal) -> Result<Index> {
    let handle = footer.index;
    let decode = |contents: Vec<u8>| {
        let mut reader = Reader::new(&contents);
        let index = Index::decode(&mut reader, footer.data_end)?;
        if index.end() != footer.filter.offset {
            return Err(reader.error("partitions of the index do not add up to where the filter begins"));
        }
        reader.finish()?;
        Ok(index)
    };
    let stored = read_stored(file, handle.offset, handle.len + TRAILER_BYTES)?;
    seal.open(stored, handle.offset).and_then(decode).map_err(|error| Error::decode(file.path(), handle.offset, error))
}

#[cfg(test)]
pub(crate) mod tests;
