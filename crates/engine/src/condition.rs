//! Deciding the conditions of a batch, by the leader, in queue order, without reading files.
//!
//! What was written lately is in the memtables, active and sealed, and in those flushed last, which
//! are kept for this. A moment before all of them cannot be decided: that is a conflict too, and
//! whoever reads again and retries gets a moment that can.

use std::sync::Arc;

use crate::batch::Condition;
use crate::catalog::Buffer;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::types::SeqNo;

impl Core {
    /// Decides one condition on what is applied.
    pub(crate) fn check_condition(&self, condition: &Condition) -> Result<()> {
        let (id, key, since) = match condition {
            Condition::Unchanged { keyspace, key, since } => (*keyspace, key, *since),
            Condition::RangeUnchanged { keyspace, start, since, .. } => (*keyspace, start, *since),
        };
        let newest_in = |buffer: &Buffer| match condition {
            Condition::Unchanged { key, .. } => buffer.memtable.latest_seq(key),
            Condition::RangeUnchanged { start, end, .. } => buffer.memtable.max_seq_in_range(start, end.as_deref()),
        };
        let catalog = self.catalog.load();
        let Some(tree) = catalog.tree(id) else {
            return Err(Error::not_found("a condition is about a keyspace that does not exist"));
        };
        let changed = |buffer: &Arc<Buffer>| {
            let missed = u64::from(cairn_env::mutant("condition-off-by-one"));
            newest_in(buffer).is_some_and(|seq| SeqNo(seq) > SeqNo(since.0 + missed))
        };
        if tree.buffers().any(changed) || tree.history.iter().any(changed) {
            return Err(Error::conflict(key, "it was changed since it was read"));
        }
        if since < tree.history_floor && !cairn_env::mutant("condition-guessed") {
            return Err(Error::conflict(key, "it was read too long ago to tell whether it was changed; read it again"));
        }
        Ok(())
    }
}
