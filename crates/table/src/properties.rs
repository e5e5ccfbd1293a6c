//! The properties: what a table holds and how it was written, so that a check can compare and a
//! repair can rebuild the manifest's entry from the file alone.
//!
//! ```text
//! properties := id owner entries keys tombstones data_bytes data_blocks smallest_seq largest_seq
//!               largest_kind:u8 smallest_key:prefixed largest_key:prefixed
//!               block_bytes compression:u8 filter_bits_per_key filter_hashes hash_index:u8
//! ```
//!
//! Everything without a type is a varint; `prefixed` is a varint length and the bytes; compression
//! is 0 (none) or 1 (LZ4); `filter_hashes` is 0 if, and only if, `filter_bits_per_key` is, for a table
//! without a filter; `owner` is the caller's.

use cairn_codec::{DecodeError, Reader, Write};

use crate::{Compression, KEY_BYTES_MAX, TableOptions};

/// What a table holds. Stored in the table, and returned to who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    /// The id the table was given.
    pub id: u64,
    /// To what the table belongs, as its writer said.
    pub owner: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Entries, all versions and tombstones counted.
    pub entries: u64,
    /// Distinct user keys.
    pub keys: u64,
    /// Entries of kind 0.
    pub tombstones: u64,
    /// User keys and values of all entries, as they were added.
    pub data_bytes: u64,
    /// Data blocks.
    pub data_blocks: u64,
    /// Smallest sequence number of any entry.
    pub smallest_seq: u64,
    /// Largest sequence number of any entry.
    pub largest_seq: u64,
    /// Largest kind of any entry.
    pub largest_kind: u8,
    /// The first user key.
    pub smallest_key: Vec<u8>,
    /// The last user key.
    pub largest_key: Vec<u8>,
}

impl TableSummary {
    pub(crate) fn new(id: u64, owner: u64) -> TableSummary {
        TableSummary {
            id,
            owner,
            file_bytes: 0,
            entries: 0,
            keys: 0,
            tombstones: 0,
            data_bytes: 0,
            data_blocks: 0,
            smallest_seq: u64::MAX,
            largest_seq: 0,
            largest_kind: 0,
            smallest_key: Vec::new(),
            largest_key: Vec::new(),
        }
    }

    /// Counts one entry; `new_key` if no version of its key came before. Keys are left to the caller.
    pub(crate) fn count(&mut self, new_key: bool, key_len: usize, seq: u64, kind: u8, value_len: usize) {
        self.entries += 1;
        self.keys += u64::from(new_key);
        self.tombstones += u64::from(kind == crate::KIND_TOMBSTONE);
        self.data_bytes += key_len as u64 + value_len as u64;
        self.smallest_seq = self.smallest_seq.min(seq);
        self.largest_seq = self.largest_seq.max(seq);
        self.largest_kind = self.largest_kind.max(kind);
    }
}

/// A summary and the options the table was written with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) summary: TableSummary,
    pub(crate) options: TableOptions,
}

impl Properties {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Properties { summary: s, options: o } = self;
        let mut out = Vec::new();
        let numbers = [
            s.id,
            s.owner,
            s.entries,
            s.keys,
            s.tombstones,
            s.data_bytes,
            s.data_blocks,
            s.smallest_seq,
            s.largest_seq,
        ];
        for n in numbers {
            out.put_varint(n);
        }
        out.put_u8(s.largest_kind);
        out.put_prefixed(&s.smallest_key);
        out.put_prefixed(&s.largest_key);
        out.put_varint(o.block_bytes as u64);
        out.put_u8(match o.compression {
            Compression::None => 0,
            Compression::Lz4 => 1,
        });
        out.put_varint(o.filter_bits_per_key.into());
        out.put_varint(o.filter_hashes.unwrap_or(0).into());
        out.put_u8(o.hash_index.into());
        out
    }

    /// Decodes the properties of a file of `file_bytes` whose footer names `hash_seed`.
    pub(crate) fn decode(bytes: &[u8], file_bytes: u64, hash_seed: u64) -> Result<Properties, DecodeError> {
        let mut r = Reader::new(bytes);
        let summary = TableSummary {
            file_bytes,
            id: r.varint()?,
            owner: r.varint()?,
            entries: r.varint()?,
            keys: r.varint()?,
            tombstones: r.varint()?,
            data_bytes: r.varint()?,
            data_blocks: r.varint()?,
            smallest_seq: r.varint()?,
            largest_seq: r.varint()?,
            largest_kind: r.u8()?,
            smallest_key: r.prefixed()?.to_vec(),
            largest_key: r.prefixed()?.to_vec(),
        };
        let key_len = 1..=KEY_BYTES_MAX;
        let sane = (1..=summary.entries).contains(&summary.keys)
            && summary.tombstones <= summary.entries
            && summary.smallest_seq <= summary.largest_seq
            && key_len.contains(&summary.smallest_key.len())
            && key_len.contains(&summary.largest_key.len())
            && summary.smallest_key <= summary.largest_key;
        if !sane {
            return Err(r.error("properties contradict each other"));
        }
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let options = TableOptions {
            hash_seed,
            block_bytes: size(r.varint()?),
            compression: match r.u8()? {
                0 => Compression::None,
                1 => Compression::Lz4,
                _ => return Err(r.error("unknown compression in the properties")),
            },
            filter_bits_per_key: number(r.varint()?),
            filter_hashes: Some(number(r.varint()?)).filter(|k| *k > 0),
            hash_index: match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(r.error("a hash index that is neither there nor not")),
            },
        };
        if (options.filter_bits_per_key > 0) != options.filter_hashes.is_some() {
            return Err(r.error("a filter without probes in the properties, or probes without a filter"));
        }
        if options.check().is_err() {
            return Err(r.error("options in the properties are out of bounds"));
        }
        r.finish()?;
        Ok(Properties { summary, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties() -> Properties {
        let mut summary = TableSummary::new(300, 6);
        summary.file_bytes = 1000;
        summary.smallest_key = b"a".to_vec();
        summary.largest_key = b"b".to_vec();
        summary.count(true, 1, 70, 0, 0);
        summary.count(true, 1, 5, 1, 300);
        let options = TableOptions { filter_hashes: Some(5), hash_seed: 77, ..TableOptions::default() };
        Properties { summary, options }
    }

    #[test]
    fn they_round_trip_whole_and_no_part_of_them_decodes() {
        let good = properties();
        let bytes = good.encode();
        assert_eq!(Properties::decode(&bytes, 1000, 77), Ok(good));
        for cut in 0..bytes.len() {
            assert!(Properties::decode(&bytes[..cut], 1000, 77).is_err());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        type Spoil = fn(&mut Properties);
        let spoils: [Spoil; 9] = [
            |p| p.summary.keys = 3,
            |p| p.summary.tombstones = 3,
            |p| p.summary.smallest_seq = 71,
            |p| p.summary.smallest_key = b"c".to_vec(),
            |p| p.summary.largest_key = vec![b'z'; 65_536],
            |p| p.options.block_bytes = 63,
            |p| p.options.filter_hashes = Some(17),
            |p| p.options.filter_hashes = None,
            |p| p.options.filter_bits_per_key = 0,
        ];
        for spoil in spoils {
            let mut bad = properties();
            spoil(&mut bad);
            assert!(Properties::decode(&bad.encode(), 1000, 77).is_err(), "{bad:?}");
        }
    }
}
