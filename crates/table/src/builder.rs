//! Writes a table: entries in order go in, a durable file comes out.
//!
//! Owns: the cutting of entries into blocks, and the order of the parts in the file. Entries of a
//! block are kept back until it is full, because its header depends on all of them. Output is
//! gathered and written in large pieces.
//! Refuses: entries out of order, and the file's name, which the caller makes durable. After an
//! error of the system the caller drops the builder and removes the file.

use cairn_codec::{compare, hash64};
use cairn_env::File;

use crate::block::BlockBuilder;
use crate::filter::{FilterBuilder, cut, probes_for};
use crate::footer::{FOOTER_BYTES, Footer, Handle};
use crate::partition::PartitionsBuilder;
use crate::properties::Properties;
use crate::seal::{Seal, Sealer};
use crate::{Compression, Error, KEY_BYTES_MAX, KIND_TOMBSTONE, Result, TableOptions, TableSummary, VALUE_BYTES_MAX};

/// Output is written when this much has gathered.
const WRITE_BYTES: usize = 256 << 10;
/// So much is synced at a time: the sync of a log on the same device waits for this, not for all of the table.
const SYNC_BYTES: u64 = 4 << 20;

/// Writes one table.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cairn_codec::hash64;
/// use cairn_table::{Load, Lookup, Read, Table, TableBuilder, TableOptions};
/// # let dir = std::env::temp_dir().join(format!("cairn-table-doc-{}", std::process::id()));
/// # let env = cairn_env::Env::real();
/// # env.create_dir_all(&dir)?;
/// # let path = dir.join("000001.sst");
/// # let _ = env.remove(&path);
/// let mut builder = TableBuilder::new(env.create(&path)?, 1, 0, TableOptions::default())?;
/// builder.add(b"ada", 7, 1, b"countess")?;
/// builder.add(b"grace", 9, 1, b"admiral")?;
/// let summary = builder.finish()?;
///
/// let table = Table::open(env.open(&path)?, 1, summary.file_bytes, None, 0, Load::Resident)?;
/// match table.get(b"grace", hash64(b"grace", 0), 100, Read::Any)? {
///     Lookup::Found { seq, value, .. } => assert_eq!((seq, &value[..]), (9, &b"admiral"[..])),
///     other => panic!("{other:?}"),
/// }
/// # env.remove(&path)?;
/// # Ok(())
/// # }
/// ```
pub struct TableBuilder {
    file: File,
    options: TableOptions,
    sealer: Sealer,
    block: BlockBuilder,
    partitions: PartitionsBuilder,
    filter: FilterBuilder,
    last_hash: u64,
    summary: TableSummary,
    /// What is not yet written, and where it goes.
    out: Vec<u8>,
    written: u64,
    /// Of those, how many were synced.
    synced: u64,
}

impl std::fmt::Debug for TableBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TableBuilder({}, {} entries)", self.file.path().display(), self.summary.entries)
    }
}

impl TableBuilder {
    /// Starts table `id` in `file`, which must be empty. `owner` is told to who opens the table, for
    /// whom the file may be all there is.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is out of bounds.
    pub fn new(file: File, id: u64, owner: u64, mut options: TableOptions) -> Result<TableBuilder> {
        options.check()?;
        let bits = options.filter_bits_per_key;
        options.filter_hashes = (bits > 0).then(|| options.filter_hashes.unwrap_or_else(|| probes_for(bits)));
        Ok(TableBuilder {
            sealer: Sealer::new(Seal::new(id, options.hash_seed)),
            block: BlockBuilder::new(options.hash_index),
            partitions: PartitionsBuilder::new(&options),
            filter: FilterBuilder::new(id, options.filter_bits_per_key, options.filter_hashes.unwrap_or_default()),
            last_hash: 0,
            summary: TableSummary::new(id, owner),
            out: Vec::new(),
            written: 0,
            synced: 0,
            file,
            options,
        })
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key or value beyond the limits, [`Error::Order`] for an entry that
    /// does not sort after the last: neither adds anything, and the builder stays good. [`Error::Io`].
    pub fn add(&mut self, key: &[u8], seq: u64, kind: u8, value: &[u8]) -> Result<()> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::Invalid { what: "a key must have 1 to 65535 bytes" });
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::Invalid { what: "a value must have at most 64 MiB" });
        }
        let mut new_key = true;
        if self.summary.entries > 0 {
            let order = compare(key, self.block.last_key());
            new_key = order.is_gt();
            if order.is_lt() || (order.is_eq() && seq >= self.block.last_seq()) {
                let path = self.file.path().to_path_buf();
                return Err(Error::Order { path, seq, previous_seq: self.block.last_seq() });
            }
        }
        let grown = self.block.estimated_bytes() + self.block.estimated_entry_bytes(key, value);
        if !self.block.is_empty() && grown > self.options.block_bytes {
            self.end_block(Some(key))?;
        }
        if new_key {
            self.last_hash = hash64(key, self.options.hash_seed);
            if kind != KIND_TOMBSTONE || !cairn_env::mutant("filter-without-tombstones") {
                self.filter.add(self.last_hash);
            }
        }
        if self.summary.entries == 0 {
            self.summary.smallest_key = key.to_vec();
        }
        self.summary.count(new_key, key.len(), seq, kind, value.len());
        self.block.add(key, self.last_hash, seq, kind, value);
        Ok(())
    }

    /// Entries added.
    pub fn entries(&self) -> u64 {
        self.summary.entries
    }

    /// About how long the file would be if it were finished now.
    pub fn bytes_so_far(&self) -> u64 {
        let index = self.partitions.estimated_bytes() + self.filter.estimated_bytes();
        let rest = self.out.len() + self.block.estimated_bytes() + index + FOOTER_BYTES;
        self.written + rest as u64
    }

    /// Memory it holds: for the filter, 8 bytes a key until the end.
    pub fn memory_bytes(&self) -> usize {
        let index = self.partitions.memory_bytes() + self.filter.memory_bytes();
        self.out.capacity() + self.block.memory_bytes() + index + self.sealer.memory_bytes()
    }

    /// Writes what is left and makes the content durable.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no entry was added; [`Error::Io`]. After an error the file is of no use.
    pub fn finish(mut self) -> Result<TableSummary> {
        if self.summary.entries == 0 {
            return Err(Error::Invalid { what: "a table needs at least one entry" });
        }
        self.end_block(None)?;
        self.summary.largest_key = self.block.last_key().to_vec();
        self.summary.data_blocks = self.partitions.data_blocks();

        let data_end = self.end();
        let (partitions, index) = self.partitions.finish();
        let mut rest = partitions.as_slice();
        for len in index.payload_lens() {
            let (partition, others) = rest.split_at(len);
            self.append(partition)?;
            rest = others;
        }
        let (filter, lines) = self.filter.build(self.end());
        for piece in cut(&lines) {
            self.append(piece)?;
        }
        let mut encoded = Vec::with_capacity(index.estimated_bytes() + 16);
        index.encode(&mut encoded);
        let index = self.append(&encoded)?;
        let (table_id, hash_seed) = (self.summary.id, self.options.hash_seed);
        let described = Properties { summary: self.summary.clone(), options: self.options.clone() };
        let properties = self.append(&described.encode())?;
        self.out.extend_from_slice(&Footer { table_id, hash_seed, data_end, filter, index, properties }.encode());
        self.write_out()?;
        if !cairn_env::mutant("table-not-synced") {
            self.file.sync_all()?;
        }
        Ok(TableSummary { file_bytes: self.written, ..described.summary })
    }

    /// Ends the data block; `next_key` begins the next one.
    fn end_block(&mut self, next_key: Option<&[u8]>) -> Result<()> {
        self.write_out_if_full()?;
        let offset = self.end();
        let contents = self.block.encode();
        let payload_len = self.sealer.append(&mut self.out, offset, contents, self.options.compression);
        let end = self.end();
        let last = (self.block.last_key(), self.block.last_seq());
        self.partitions.add_block(last, next_key, payload_len, end);
        self.block.shrink_to(WRITE_BYTES);
        Ok(())
    }

    /// Appends an uncompressed block.
    fn append(&mut self, contents: &[u8]) -> Result<Handle> {
        self.write_out_if_full()?;
        let offset = self.end();
        let len = self.sealer.append(&mut self.out, offset, contents, Compression::None);
        Ok(Handle { offset, len })
    }

    /// Where what comes next will lie.
    fn end(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    fn write_out_if_full(&mut self) -> Result<()> {
        if self.out.len() < WRITE_BYTES { Ok(()) } else { self.write_out() }
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_all_at(&self.out, self.written)?;
        self.written += self.out.len() as u64;
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        self.out.clear();
        self.out.shrink_to(WRITE_BYTES * 2);
        Ok(())
    }
}
