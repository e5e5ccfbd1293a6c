//! Bytes in memory: a bounds-checked reader, writers, varints, checksums, and the comparing of keys.
//!
//! Owns the primitive encodings that every format of Cairn is made of; each format itself stands
//! at the head of the file that writes it. Refuses files and I/O of any kind.
//!
//! Invariants
//! 1. Integers are little-endian; varints are LEB128 of at most 10 bytes, and only the shortest
//!    form of a number decodes.
//! 2. A decoder never panics and never allocates: it lends slices of its input.

mod checksum;
mod compare;
mod reader;
mod writer;

pub use checksum::{checksum64, hash64};
pub use compare::{common_prefix, compare, head, same};
pub use reader::{DecodeError, Reader};
pub use writer::Write;
