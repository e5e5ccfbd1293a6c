//! The file as a whole, and the footer that leads to its parts.
//!
//! ```text
//! table  := data block+, partition block+, filter, index block, properties block, footer
//! footer := (96 bytes, integers little-endian)
//!   offset width
//!        0     8  table id
//!        8     8  hash seed of the database
//!       16     8  offset of the first partition, which is also the end of the data blocks
//!       24     8  offset of the filter's first piece, which is also the end of the partitions
//!       32     8  lines of the filter; 0: there is none
//!       40     8  offset of the index block, which is also the end of the filter
//!       48     8  length of its payload
//!       56     8  offset of the properties block
//!       64     8  length of its payload
//!       72     4  zero
//!       76     4  format version
//!       80     8  checksum64 of bytes 0..80, xor the place of offset 0 (see `seal`)
//!       88     8  magic, "CAIRNSST"
//! ```
//!
//! The parts touch: each begins where the one before ends, so no byte escapes the checksums.
//! In every version the footer keeps its length and the places of version, checksum and magic:
//! an older build can tell a sound newer file from a damaged one.

use cairn_codec::{DecodeError, Reader, Write, checksum64};

use crate::filter::Shape;
use crate::seal::{Seal, TRAILER_BYTES};

/// The newest format version this build reads, and the one it writes. 0: not yet frozen.
pub const FORMAT_VERSION: u32 = 0;

pub(crate) const FOOTER_BYTES: usize = 96;

const CHECKED_BYTES: usize = 80;
const MAGIC: [u8; 8] = *b"CAIRNSST";

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    /// Length of the payload, without the trailer.
    pub(crate) len: usize,
}

impl Handle {
    /// The first byte after the block's trailer.
    pub(crate) fn end(self) -> Option<u64> {
        let stored = u64::try_from(self.len.checked_add(TRAILER_BYTES)?).ok()?;
        self.offset.checked_add(stored)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) table_id: u64,
    pub(crate) hash_seed: u64,
    /// Where the data blocks end and the partitions begin.
    pub(crate) data_end: u64,
    pub(crate) filter: Shape,
    pub(crate) index: Handle,
    pub(crate) properties: Handle,
}

/// Why a footer was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Damaged(DecodeError),
    Newer(u32),
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Refused {
        Refused::Damaged(error)
    }
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.put_u64(self.table_id);
        out.put_u64(self.hash_seed);
        out.put_u64(self.data_end);
        out.put_u64(self.filter.offset);
        out.put_u64(self.filter.lines.into());
        for handle in [self.index, self.properties] {
            out.put_u64(handle.offset);
            out.put_u64(handle.len as u64);
        }
        out.resize(CHECKED_BYTES - 4, 0);
        out.put_u32(FORMAT_VERSION);
        let checksum = checksum64(&out) ^ Seal::new(self.table_id, self.hash_seed).place(0);
        out.put_u64(checksum);
        out.extend_from_slice(&MAGIC);
        out
    }

    /// Decodes the last [`FOOTER_BYTES`] of a file of `file_bytes`; what it returns tiles the file.
    pub(crate) fn decode(bytes: &[u8], file_bytes: u64) -> Result<Footer, Refused> {
        let mut reader = Reader::new(bytes);
        let checked = Reader::new(bytes).bytes(CHECKED_BYTES)?;
        let table_id = reader.u64()?;
        let hash_seed = reader.u64()?;
        let data_end = reader.u64()?;
        let offset = reader.u64()?;
        let error = reader.error("a filter of over 4294967295 lines");
        let filter = Shape { offset, lines: u32::try_from(reader.u64()?).map_err(|_| error)? };
        let mut handles = [Handle { offset: 0, len: 0 }; 2];
        for handle in &mut handles {
            handle.offset = reader.u64()?;
            let error = reader.error("length in the footer beyond the file");
            let len = reader.u64()?;
            handle.len = usize::try_from(len).ok().filter(|_| len <= file_bytes).ok_or(error)?;
        }
        let zero = reader.u32()?;
        let version = reader.u32()?;
        let checksum = reader.u64()?;
        let error = reader.error("no table: the magic number is missing");
        if reader.bytes(8)? != MAGIC {
            return Err(error.into());
        }
        reader.finish()?;
        if checksum != checksum64(checked) ^ Seal::new(table_id, hash_seed).place(0) {
            return Err(DecodeError { offset: 0, what: "footer checksum does not match" }.into());
        }
        if version > FORMAT_VERSION {
            return Err(Refused::Newer(version));
        }
        let untiled = DecodeError { offset: 16, what: "the parts of the file do not touch" };
        let [index, properties] = handles;
        let tiled = zero == 0
            && data_end > 0
            && data_end < filter.offset
            && filter.end() == Some(index.offset)
            && index.end() == Some(properties.offset)
            && properties.end().and_then(|end| end.checked_add(FOOTER_BYTES as u64)) == Some(file_bytes);
        if !tiled {
            return Err(untiled.into());
        }
        Ok(Footer { table_id, hash_seed, data_end, filter, index, properties })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> (Footer, u64) {
        let properties = Handle { offset: 295, len: 20 };
        let index = Handle { offset: 246, len: 40 };
        let filter = Shape { offset: 109, lines: 2 };
        let footer = Footer { table_id: 3, hash_seed: 4, data_end: 60, filter, index, properties };
        (footer, properties.offset + 29 + 96)
    }

    #[test]
    fn a_footer_decodes_only_for_a_file_it_tiles() {
        let (footer, len) = footer();
        let bytes = footer.encode();
        assert_eq!(bytes.len(), FOOTER_BYTES);
        assert_eq!(Footer::decode(&bytes, len), Ok(footer));
        assert!(Footer::decode(&bytes, len + 1).is_err());
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(matches!(Footer::decode(&bad, len), Err(Refused::Damaged(_))), "byte {i}");
            assert!(Footer::decode(&bytes[..i], len).is_err());
        }
        for data_end in [0, 109, 110] {
            let bytes = Footer { data_end, ..footer }.encode();
            assert!(matches!(Footer::decode(&bytes, len), Err(Refused::Damaged(_))), "data ends at {data_end}");
        }
        for (offset, lines) in [(109, 1), (109, 3), (108, 2), (109, 0), (246, u32::MAX)] {
            let bytes = Footer { filter: Shape { offset, lines }, ..footer }.encode();
            assert!(matches!(Footer::decode(&bytes, len), Err(Refused::Damaged(_))), "{lines} lines at {offset}");
        }
        let without = Footer { filter: Shape { offset: 246, lines: 0 }, ..footer };
        assert_eq!(Footer::decode(&without.encode(), len), Ok(without));
    }

    #[test]
    fn a_sound_footer_of_a_newer_format_is_told_from_damage() {
        let (footer, len) = footer();
        let mut bytes = footer.encode();
        bytes[76..80].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        let checksum = checksum64(&bytes[..80]) ^ Seal::new(3, 4).place(0);
        bytes[80..88].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Footer::decode(&bytes, len), Err(Refused::Newer(FORMAT_VERSION + 1)));
    }
}
