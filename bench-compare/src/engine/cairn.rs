//! Cairn, by its documented interface.

use std::ops::Bound;
use std::path::Path;

use cairn::{Db, Durability, Keyspace, Options, Visibility};

use super::{Engine, Held, Kind, Result, Setup};
use crate::data::{Entries, Key};

pub(super) const KIND: Kind = Kind { name: "cairn", version: "0.1.0", settings, open };

const BUDGET_BYTES: u64 = 512 << 20;
const MEMTABLE_BYTES: u64 = 64 << 20;

fn settings(setup: &Setup) -> String {
    format!(
        "memory_budget_bytes {} MiB, memtable_bytes_max {} MiB (at most an eighth of the budget), cache_bytes_max {} MiB, Buffered, or Commit for sync",
        budget(setup) >> 20,
        MEMTABLE_BYTES >> 20,
        setup.cache_bytes >> 20
    )
}

/// Two thirds of a process that may have no more: the rest is for the allocator, the program and the log on its way to the disk.
fn budget(setup: &Setup) -> u64 {
    setup.memory_bytes_max.map_or(BUDGET_BYTES.max(setup.cache_bytes * 2), |max| max / 3 * 2)
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let options = Options {
        durability: Durability::Buffered,
        memory_budget_bytes: budget(setup),
        cache_bytes_max: Some(setup.cache_bytes),
        memtable_bytes_max: MEMTABLE_BYTES,
        ..Options::default()
    };
    let db = Db::open(dir, options)?;
    let keyspace = db.default_keyspace();
    Ok(Box::new(Cairn { db, keyspace }))
}

struct Cairn {
    db: Db,
    keyspace: Keyspace,
}

impl Engine for Cairn {
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        if !sync {
            self.keyspace.put(key, value)?;
            return Ok(());
        }
        let mut batch = self.db.batch();
        batch.put(&self.keyspace, key, value);
        self.db.write(batch, Durability::Commit)?;
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.keyspace.delete(key)?;
        Ok(())
    }

    fn write_batch(&self, entries: &Entries) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in entries.iter() {
            batch.put(&self.keyspace, key, value);
        }
        self.db.write(batch, Durability::Buffered)?;
        Ok(())
    }

    fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        let mut batch = self.db.batch();
        for key in keys {
            batch.delete(&self.keyspace, key);
        }
        self.db.write(batch, Durability::Buffered)?;
        Ok(())
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        Ok(self.keyspace.get_with(key, visit)?.is_some())
    }

    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        for (at, value) in self.keyspace.multi_get(keys)?.iter().enumerate() {
            visit(at, value.as_deref());
        }
        Ok(())
    }

    fn scan(
        &self,
        start: Option<&[u8]>,
        limit: u64,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64> {
        let bound = start.map_or(Bound::Unbounded, Bound::Included);
        let range = if reverse { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
        let mut cursor = self.keyspace.latest(Visibility::Applied).cursor_range::<&[u8]>(range)?;
        if reverse {
            cursor.seek_to_last()?
        } else {
            cursor.seek_to_first()?
        };
        let mut count = 0;
        while let Some((key, value)) = cursor.entry() {
            visit(key, value);
            count += 1;
            if count == limit {
                break;
            }
            if reverse {
                cursor.prev()?
            } else {
                cursor.next()?
            };
        }
        Ok(count)
    }

    fn snapshot(&self) -> Result<Box<dyn Held + '_>> {
        Ok(Box::new(self.db.snapshot()))
    }

    fn flush(&self) -> Result<()> {
        Ok(self.db.flush()?)
    }

    fn is_busy(&self) -> Result<bool> {
        let stats = self.db.stats();
        let above_zero = |name: &str| stats.get(name).is_some_and(|value| value > 0);
        Ok(above_zero("compaction_debt_bytes") || above_zero("sealed_memtables_count"))
    }

    fn compact(&self) -> Result<()> {
        Ok(self.db.compact()?)
    }

    fn figures(&self) -> Vec<(String, f64)> {
        let stats = self.db.stats();
        ["stall_micros", "flush_bytes", "compaction_write_bytes", "memory_tables_bytes", "memory_cache_bytes"]
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), stats.get(name)? as f64)))
            .collect()
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Cairn { db, keyspace } = *self;
        drop(keyspace);
        Ok(db.close()?)
    }
}
