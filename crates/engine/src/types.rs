//! The small types and limits that everything else shares.

use std::fmt;

/// The longest key, in bytes. The shortest is one byte.
pub const KEY_BYTES_MAX: usize = 65_535;

/// The largest value, in bytes; a quarter of the memory budget if that is less.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The largest batch, in bytes of keys and values; a quarter of the memory budget if that is less.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

// What may be written must fit a table.
const _: () = assert!(KEY_BYTES_MAX == cairn_table::KEY_BYTES_MAX && VALUE_BYTES_MAX == cairn_table::VALUE_BYTES_MAX);
const _: () = assert!(kind::DELETE == cairn_table::KIND_TOMBSTONE);

/// The longest name of a keyspace, in bytes.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 255;

/// A sequence number: the place of one put or delete in the order of all of them. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqNo(pub u64);

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No database comes near this sequence number, table or segment. One above it that is read from a
/// file is damage; refusing it keeps the arithmetic with all the others from overflowing.
pub(crate) const NUMBER_MAX: u64 = u64::MAX >> 8;

/// When a write counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Synced to the disk: it survives a power cut. Concurrent writers share syncs.
    #[default]
    Commit,
    /// Handed to the operating system: it survives the process, not the machine.
    Buffered,
}

/// Which writes a read sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Everything applied, synced or not. Once a sync has failed, the same as `Durable`.
    #[default]
    Applied,
    /// Only what is known to be synced: what was seen once is never lost again.
    Durable,
}

/// The identity of a keyspace; never used twice in one database.
pub(crate) type KeyspaceId = u32;

/// Ids of keyspaces are below this. The catalog takes memory in proportion to the largest, and a
/// forged one must not make it large.
pub(crate) const KEYSPACE_IDS_MAX: KeyspaceId = 1 << 24;

/// The identity of a table file; never used twice in one database.
pub(crate) type TableId = u64;

/// The keyspace that every database has.
pub(crate) const DEFAULT_KEYSPACE: &str = "default";
/// Its identity.
pub(crate) const DEFAULT_KEYSPACE_ID: KeyspaceId = 0;

/// How much of a key is shown.
const KEY_BYTES_SHOWN: usize = 64;

/// A key for people: quoted, escaped, and cut if it is long.
pub(crate) fn shown(key: &[u8]) -> String {
    match key.get(..KEY_BYTES_SHOWN) {
        Some(start) if key.len() > KEY_BYTES_SHOWN => {
            format!("\"{}\"... ({} bytes)", start.escape_ascii(), key.len())
        }
        _ => format!("\"{}\"", key.escape_ascii()),
    }
}

/// The kinds of an entry. A byte on disk; an unknown one refuses to open.
pub(crate) mod kind {
    /// A tombstone: the key is gone, whatever lies below.
    pub(crate) const DELETE: u8 = 0;
    /// A value.
    pub(crate) const PUT: u8 = 1;

    /// Whether this build knows the kind.
    pub(crate) fn is_known(kind: u8) -> bool {
        matches!(kind, DELETE | PUT)
    }
}
