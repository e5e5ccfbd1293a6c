//! The envelope of every block: its compression, and a checksum bound to its place.
//!
//! ```text
//! block   := payload trailer
//! trailer := compression u8, checksum u64 LE                     (9 bytes)
//! payload := contents                                            (compression 0)
//!          | contents_length u32 LE, one LZ4 block               (compression 1)
//! ```
//!
//! The checksum is `checksum64(payload compression)` xor `place`, where `place` mixes the
//! database's hash seed, the table's id and the block's offset in the file. A whole and valid
//! block from elsewhere therefore fails like a damaged one.
//! `contents_length` is at most 255 times the LZ4 block, which is the most LZ4 can express, so
//! that what is allocated before decompressing is warranted by what was read.

use std::borrow::Cow;

use cairn_codec::{DecodeError, Reader, Write, checksum64};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress, get_maximum_output_size};

use crate::{Compression, mix64};

/// Bytes of a block after its payload.
pub(crate) const TRAILER_BYTES: usize = 9;

const RAW: u8 = 0;
const LZ4: u8 = 1;
const LZ4_HEADER_BYTES: usize = 4;
const LZ4_RATIO_MAX: usize = 255;

/// Room for compression that is kept between blocks; a large entry needs more, once.
const PACKED_BYTES_KEPT: usize = 2 << 20;

/// Binds the checksums of one table to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    table: u64,
}

impl Seal {
    pub(crate) fn new(table_id: u64, hash_seed: u64) -> Seal {
        Seal { table: mix64(mix64(hash_seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ table_id) }
    }

    /// What a checksum at `offset` is xored with.
    pub(crate) fn place(self, offset: u64) -> u64 {
        if cairn_env::mutant("block-not-bound-to-its-place") {
            return 0;
        }
        mix64(self.table.wrapping_add(offset))
    }

    /// Checks a block as it was read, and returns its contents.
    pub(crate) fn open<'a>(self, block: impl Into<Cow<'a, [u8]>>, offset: u64) -> Result<Vec<u8>, DecodeError> {
        let block = block.into();
        let damaged = |offset, what| DecodeError { offset, what };
        let Some(payload_len) = block.len().checked_sub(TRAILER_BYTES) else {
            return Err(damaged(0, "block shorter than its trailer"));
        };
        let (body, stored) = block.split_at(payload_len + 1);
        let stored = Reader::new(stored).u64()?;
        let matches = stored == checksum64(body) ^ self.place(offset);
        if !matches && !cairn_env::mutant("table-checksum-skipped") {
            return Err(damaged(0, "block checksum does not match"));
        }
        match body.last() {
            Some(&RAW) => Ok(match block {
                Cow::Borrowed(block) => block.get(..payload_len).unwrap_or_default().to_vec(),
                Cow::Owned(mut contents) => {
                    contents.truncate(payload_len);
                    contents
                }
            }),
            Some(&LZ4) => {
                let mut reader = Reader::new(body);
                let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
                let packed = reader.bytes(payload_len.saturating_sub(LZ4_HEADER_BYTES))?;
                if len > packed.len().saturating_mul(LZ4_RATIO_MAX) {
                    return Err(damaged(0, "compressed block claims an impossible length"));
                }
                match decompress(packed, len) {
                    Ok(contents) if contents.len() == len => Ok(contents),
                    _ => Err(damaged(LZ4_HEADER_BYTES, "compressed block does not decompress to its length")),
                }
            }
            _ => Err(damaged(payload_len, "unknown compression of a block")),
        }
    }
}

/// Writes blocks, reusing what compression needs between them.
pub(crate) struct Sealer {
    seal: Seal,
    table: CompressTable,
    packed: Vec<u8>,
}

impl Sealer {
    pub(crate) fn new(seal: Seal) -> Sealer {
        Sealer { seal, table: CompressTable::small(), packed: Vec::new() }
    }

    /// Appends the block with `contents` to `out`, whose end is at `offset` of the file; returns
    /// the length of its payload.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, offset: u64, contents: &[u8], how: Compression) -> usize {
        let start = out.len();
        let packed = match how {
            Compression::None => None,
            Compression::Lz4 => self.pack(contents),
        };
        match packed {
            Some((len, packed)) => {
                out.put_u32(len);
                out.extend_from_slice(packed);
                out.put_u8(LZ4);
            }
            None => {
                out.extend_from_slice(contents);
                out.put_u8(RAW);
            }
        }
        let payload_len = out.len() - start - 1;
        let checksum = checksum64(out.get(start..).unwrap_or_default()) ^ self.seal.place(offset);
        out.put_u64(checksum);
        if self.packed.len() > PACKED_BYTES_KEPT {
            self.packed = Vec::new();
        }
        payload_len
    }

    /// The compressed form, if it saves at least an eighth.
    fn pack(&mut self, contents: &[u8]) -> Option<(u32, &[u8])> {
        let len = u32::try_from(contents.len()).ok()?;
        let bound = get_maximum_output_size(contents.len());
        if self.packed.len() < bound {
            self.packed.resize(bound, 0);
        }
        let written = compress_into_with_table(contents, &mut self.packed, &mut self.table).ok()?;
        if written + LZ4_HEADER_BYTES > contents.len() - contents.len() / 8 {
            return None;
        }
        Some((len, self.packed.get(..written)?))
    }

    /// Memory held between blocks.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.packed.capacity() + (8 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(contents: &[u8], how: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        Sealer::new(Seal::new(7, 9)).append(&mut out, 100, contents, how);
        out
    }

    #[test]
    fn a_block_opens_only_at_its_place_and_whole() {
        for (contents, how) in [(&b"abc"[..], Compression::None), (&[7; 900][..], Compression::Lz4)] {
            let block = sealed(contents, how);
            assert_eq!(Seal::new(7, 9).open(block.clone(), 100).unwrap(), contents);
            for elsewhere in [Seal::new(8, 9).open(block.clone(), 100), Seal::new(7, 8).open(block.clone(), 100)] {
                assert_eq!(elsewhere.unwrap_err().what, "block checksum does not match");
            }
            assert!(Seal::new(7, 9).open(block.clone(), 101).is_err());
            for cut in 0..block.len() {
                assert!(Seal::new(7, 9).open(block[..cut].to_vec(), 100).is_err());
            }
        }
    }

    #[test]
    fn compression_is_kept_only_where_it_pays() {
        let noise: Vec<u8> = (0..400u64).map(|i| mix64(i) as u8).collect();
        assert_eq!(sealed(&noise, Compression::Lz4), sealed(&noise, Compression::None));
        assert!(sealed(&[1; 400], Compression::Lz4).len() < 100);
    }

    /// Whatever a later compressor writes, blocks compressed once must open.
    #[test]
    fn golden_compressed_block() {
        // Literals "ab", then 30 bytes from 2 back, then literals "cabca".
        let mut block = vec![37, 0, 0, 0, 0x2f, b'a', b'b', 2, 0, 11, 0x50, b'c', b'a', b'b', b'c', b'a', LZ4];
        block.put_u64(0xf1c5_a7d6_77b6_284f);
        let opened = Seal::new(7, 9).open(block, 100).unwrap();
        assert_eq!(opened.escape_ascii().to_string(), "ab".repeat(16) + "cabca");
    }

    #[test]
    fn an_impossible_length_is_refused_before_allocating() {
        let seal = Seal::new(7, 9);
        let mut block = u32::MAX.to_le_bytes().to_vec();
        block.extend_from_slice(&[0x10, 0xaa, LZ4]);
        let checksum = checksum64(&block) ^ seal.place(0);
        block.put_u64(checksum);
        assert_eq!(seal.open(block, 0).unwrap_err().what, "compressed block claims an impossible length");
    }
}
