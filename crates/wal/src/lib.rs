//! A log of checksummed groups in segments; write-ahead log and manifest are both one.
//!
//! Owns: the bytes of a log (their grammar stands at the head of `format.rs`), appending
//! to it ([`LogWriter`]), making it durable ([`LogSyncer`]), reading it back ([`replay`]) and
//! looking into a single file of it ([`Scan`]).
//! Refuses: to know what a body means, to decide which segments are still needed (the caller
//! removes files), to repair anything.
//!
//! Invariants
//! 1. One append is one group is one positional write; a group is replayed whole or not at all,
//!    and never before the group that was appended before it.
//! 2. A log is a chain: every segment names the one before it and where that one ended. A chain
//!    begins anew with each [`LogWriter::create`]; nothing is ever appended to a replayed segment.
//! 3. A segment's header, and its name in the directory, are durable before its first group.
//! 4. A group says how far the log was known durable when it was written. Whatever is unreadable
//!    before such a point is corruption; whatever is unreadable after it is cut.
//! 5. The bytes of a recycled segment never parse as current: the checksums of every group are
//!    bound to its segment, its offset and the salt drawn when the segment began.
//! 6. After a failed sync neither half of the log ever says Ok again.
//!
//! ```
//! # use std::path::Path;
//! use cairn_wal::{Body, LogOptions, LogWriter, Naming, replay};
//! # let (env, dir) = (cairn_env::Env::memory(), Path::new("/db"));
//! # env.create_dir_all(dir)?;
//! let naming = Naming { prefix: "log-", suffix: ".wal" };
//! let id = naming.next_id(&env, dir)?;
//! let options = LogOptions { segment_bytes: 64 << 20, allocate: true };
//! let (mut writer, syncer) = LogWriter::create(&env, dir, naming, id, options)?;
//! let end = writer.append(1, 100, &[Body::new(b"first"), Body::new(b"second")])?;
//! assert_eq!(syncer.sync()?, end);
//!
//! let mut bodies = Vec::new();
//! let done = replay(&env, dir, naming, id, |group| {
//!     bodies.extend(group.bodies().map(<[u8]>::to_vec));
//!     Ok::<(), cairn_wal::Error>(())
//! })?;
//! assert_eq!(bodies, [&b"first"[..], b"second"]);
//! assert_eq!((done.end, done.last_seq, done.cut), (end, Some(100), None));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Locking: the writer is used by one thread at a time (`&mut self`); the syncer by any. See
//! `syncer.rs` for the two locks between them.

mod error;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod naming;
mod replay;
mod scan;
mod segment;
mod syncer;
#[cfg(test)]
mod testing;
mod writer;

pub use error::{Claim, Error, ReplayError, Result};
pub use format::{
    BODY_BYTES_MAX, Bodies, Body, Damage, EncodedBody, FORMAT_VERSION, GROUP_BYTES_MAX, Group, KIND_CLOSING,
    SEGMENT_HEADER_BYTES, SegmentHeader,
};
pub use naming::Naming;
pub use replay::{Cut, Replay, replay};
pub use scan::{Item, Scan};
pub use syncer::LogSyncer;
pub use writer::{LogOptions, LogWriter};

use std::fmt;

/// A place in a log: a byte offset within a segment. Positions of one log are ordered as its
/// groups are; as an end it is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's id.
    pub segment: u64,
    /// Bytes from the start of the segment's file.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// One segment of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id.
    pub id: u64,
    /// How far it holds header and groups; the file may be longer.
    pub bytes: u64,
    /// The first sequence number of its first group; none while it holds no group.
    pub first_seq: Option<u64>,
}
