//! The write batch: puts and deletes that happen all or not at all, and the conditions on them.
//!
//! A batch is encoded as it is built, by the caller, outside any lock; its bytes are the body that
//! the log stores. Conditions are decided before the log is written and are not stored.
//!
//! ```text
//! body  := op*                            at least one
//! op    := kind:u8  keyspace:varint  key  [value]
//! key   := length:varint  bytes           1 to 65,535 bytes
//! value := length:varint  bytes           only if kind = 1 (put); kind 0 is a delete
//! ```
//! The i-th op (from 0) of the bodies of a group has sequence number `first + i`; numbers are not
//! in the body because the leader gives them later. How many there are the body's end tells, which the
//! log keeps under its checksum. Unknown kinds do not decode.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_codec::{DecodeError, Reader, Write};

use crate::db::Keyspace;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::types::{BATCH_BYTES_MAX, KEY_BYTES_MAX, KeyspaceId, SeqNo, VALUE_BYTES_MAX, kind};

/// Of an operation, its kind, keyspace and two lengths.
const OP_OVERHEAD_BYTES_MAX: usize = 1 + 5 + 3 + 5;

/// Puts, deletes and conditions that are written together with [`crate::Db::write`] or
/// [`crate::Db::submit`]. Errors in what is added (an empty key, say) surface there.
#[derive(Debug)]
pub struct Batch {
    database: u64,
    body: Vec<u8>,
    count: u32,
    only_deletes: bool,
    conditions: Vec<Condition>,
    keyspaces: Named,
    problem: Option<Error>,
    key_and_value_bytes_max: usize,
    value_bytes_max: usize,
}

/// What must hold for a batch to be written.
#[derive(Debug)]
pub(crate) enum Condition {
    /// Nothing newer than `since` stands under `key`.
    Unchanged { keyspace: KeyspaceId, key: Vec<u8>, since: SeqNo },
    /// Nothing newer than `since` stands in `[start, end)`; no `end`: to the last key.
    RangeUnchanged { keyspace: KeyspaceId, start: Vec<u8>, end: Option<Vec<u8>>, since: SeqNo },
}

/// One put (`value` is there) or delete, as decoded from a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op<'a> {
    pub(crate) kind: u8,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl Batch {
    pub(crate) fn new(database: u64, options: &Options) -> Batch {
        Batch {
            database,
            body: Vec::new(),
            count: 0,
            only_deletes: true,
            conditions: Vec::new(),
            keyspaces: Named::default(),
            problem: None,
            key_and_value_bytes_max: options.write_bytes_max(BATCH_BYTES_MAX),
            value_bytes_max: options.write_bytes_max(VALUE_BYTES_MAX),
        }
    }

    /// Sets `key` to `value`. Later operations of a batch win over earlier ones.
    pub fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        if value.len() > self.value_bytes_max {
            let text = format!("the value has {} bytes; at most {} are allowed", value.len(), self.value_bytes_max);
            self.problem.get_or_insert(Error::invalid(text));
        }
        self.push(kind::PUT, keyspace, key, value);
    }

    /// Removes `key`, whether it exists or not.
    pub fn delete(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.push(kind::DELETE, keyspace, key, &[]);
    }

    fn push(&mut self, kind: u8, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        self.check(keyspace, key);
        // The largest value alone always fits, whatever its key.
        let full = self.count > 0 && self.bytes() + key.len() + value.len() > self.key_and_value_bytes_max;
        if full {
            let text = format!("the batch is over {} bytes; split it", self.key_and_value_bytes_max);
            self.problem.get_or_insert(Error::invalid(text));
        }
        if self.problem.is_some() {
            return;
        }
        // Room for all of it at once: a batch of one operation, which most are, then allocates once.
        self.body.reserve(OP_OVERHEAD_BYTES_MAX + key.len() + value.len());
        self.body.put_u8(kind);
        self.body.put_varint(u64::from(keyspace.id()));
        self.body.put_prefixed(key);
        if kind == kind::PUT {
            self.body.put_prefixed(value);
            self.only_deletes = false;
        }
        self.count += 1;
    }

    fn check(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.check_keyspace(keyspace);
        if let Err(e) = check_key(key) {
            self.problem.get_or_insert(e);
        }
    }

    fn check_keyspace(&mut self, keyspace: &Keyspace) {
        if keyspace.database() != self.database {
            let text = format!("keyspace \"{}\" belongs to another database than the batch", keyspace.name());
            self.problem.get_or_insert(Error::invalid(text));
        }
        self.keyspaces.insert(keyspace);
    }

    /// Writes the batch only if nothing newer than `since` stands under `key`: no put, no delete.
    /// `since` is usually [`crate::Reader::seq`] of an earlier read.
    pub fn require_unchanged(&mut self, keyspace: &Keyspace, key: &[u8], since: SeqNo) {
        self.check(keyspace, key);
        self.conditions.push(Condition::Unchanged { keyspace: keyspace.id(), key: key.to_vec(), since });
    }

    /// Writes the batch only if nothing newer than `since` stands in `start <= key < end`
    /// (`None`: to the last key).
    pub fn require_range_unchanged(&mut self, keyspace: &Keyspace, start: &[u8], end: Option<&[u8]>, since: SeqNo) {
        self.check_keyspace(keyspace);
        self.conditions.push(Condition::RangeUnchanged {
            keyspace: keyspace.id(),
            start: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            since,
        });
    }

    /// Writes the batch only if `key` does not exist when it is written. Looks the key up now,
    /// which may read files; found now is a conflict already.
    pub fn require_absent(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.check(keyspace, key);
        if self.problem.is_some() {
            return;
        }
        let reader = keyspace.latest(crate::Visibility::Applied).pinned();
        match reader.get_with(key, |_| ()) {
            Ok(None) => self.require_unchanged(keyspace, key, reader.seq()),
            Ok(Some(())) => self.problem = Some(Error::conflict(key, "it exists")),
            Err(e) => self.problem = Some(e),
        }
    }

    /// The number of puts and deletes.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it holds no put and no delete. Such a batch only decides its conditions.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded size in bytes.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The batch as the commit pipeline takes it, or what is wrong with it.
    pub(crate) fn finish(self, database: u64) -> Result<EncodedBatch> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if self.database != database {
            return Err(Error::invalid("the batch belongs to another database"));
        }
        Ok(EncodedBatch {
            body: cairn_wal::EncodedBody::new(self.body),
            count: self.count,
            only_deletes: self.only_deletes,
            conditions: self.conditions,
            keyspaces: self.keyspaces,
        })
    }
}

/// Whether a key may be stored.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::invalid(format!("the key is empty; a key has 1 to {KEY_BYTES_MAX} bytes"))),
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!("the key has {len} bytes; at most {KEY_BYTES_MAX} are allowed"))),
    }
}

/// A finished batch: the body for the log, and what the leader must know.
#[derive(Debug)]
pub(crate) struct EncodedBatch {
    pub(crate) body: cairn_wal::EncodedBody,
    pub(crate) count: u32,
    pub(crate) only_deletes: bool,
    pub(crate) conditions: Vec<Condition>,
    /// All that it names, in operations and conditions.
    pub(crate) keyspaces: Named,
}

impl EncodedBatch {
    /// What it counts as in the queue: a batch of conditions alone takes room there too.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.body.bytes().len() + 4
    }
}

/// The keyspaces that a batch names: in most only one, which takes no allocation.
#[derive(Debug, Default)]
pub(crate) struct Named {
    first: Option<(KeyspaceId, Arc<str>)>,
    others: BTreeMap<KeyspaceId, Arc<str>>,
}

impl Named {
    fn insert(&mut self, keyspace: &Keyspace) {
        let id = keyspace.id();
        match &self.first {
            Some((first, _)) if *first == id => {}
            Some(_) => {
                self.others.entry(id).or_insert_with(|| keyspace.shared_name());
            }
            None => self.first = Some((id, keyspace.shared_name())),
        }
    }

    /// Each with its name, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (KeyspaceId, &Arc<str>)> {
        let first = self.first.as_ref().map(|(id, name)| (*id, name));
        first.into_iter().chain(self.others.iter().map(|(id, name)| (*id, name)))
    }
}

/// Decodes a body, op by op.
#[derive(Debug)]
pub(crate) struct Ops<'a> {
    reader: Reader<'a>,
}

impl<'a> Ops<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Ops<'a> {
        Ops { reader: Reader::new(body) }
    }

    /// The next op; `None` after the last.
    pub(crate) fn next(&mut self) -> std::result::Result<Option<Op<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let kind = self.reader.u8()?;
        if !kind::is_known(kind) {
            return Err(self.reader.error("an operation of a kind that this build does not know (use a newer cairn)"));
        }
        let keyspace = self.reader.varint()?;
        let keyspace = u32::try_from(keyspace).map_err(|_| self.reader.error("keyspace beyond 32 bits"))?;
        let key = self.reader.prefixed()?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(self.reader.error("key of a length that is not allowed"));
        }
        let value = if kind == kind::PUT { self.reader.prefixed()? } else { &[] };
        Ok(Some(Op { kind, keyspace, key, value }))
    }
}
