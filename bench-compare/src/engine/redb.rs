//! redb: copy-on-write B-trees in one file.

use std::ops::Bound;
use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Engine, Held, Kind, Result, Setup};
use crate::data::{Entries, Key};

pub(super) const KIND: Kind = Kind { name: "redb", version: "4.5.0", settings, open };

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("default");

fn settings(setup: &Setup) -> String {
    format!(
        "cache_size {} MiB, Durability::None, or Immediate for sync, per commit; no compression exists",
        setup.cache_bytes >> 20
    )
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let db = Database::builder().set_cache_size(usize::try_from(setup.cache_bytes)?).create(dir.join("redb"))?;
    let engine = Redb { db };
    if engine.db.begin_read()?.open_table(TABLE).is_err() {
        engine.write(true, |_| Ok(()))?;
    }
    Ok(Box::new(engine))
}

struct Redb {
    db: Database,
}

type Table<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

impl Redb {
    fn write(&self, sync: bool, change: impl FnOnce(&mut Table<'_>) -> Result<()>) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        change(&mut transaction.open_table(TABLE)?)?;
        Ok(transaction.commit()?)
    }
}

impl Engine for Redb {
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        self.write(sync, |table| {
            table.insert(key, value)?;
            Ok(())
        })
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.write(false, |table| {
            table.remove(key)?;
            Ok(())
        })
    }

    fn write_batch(&self, entries: &Entries) -> Result<()> {
        self.write(false, |table| {
            for (key, value) in entries.iter() {
                table.insert(key, value)?;
            }
            Ok(())
        })
    }

    fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        self.write(false, |table| {
            for key in keys {
                table.remove(key.as_slice())?;
            }
            Ok(())
        })
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        let found = table.get(key)?;
        Ok(found.map(|value| visit(value.value())).is_some())
    }

    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        for (at, key) in keys.iter().enumerate() {
            visit(at, table.get(key.as_slice())?.as_ref().map(|value| value.value()));
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
        let table = self.db.begin_read()?.open_table(TABLE)?;
        let bound = start.map_or(Bound::Unbounded, Bound::Included);
        let range = if reverse { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
        let mut entries = table.range::<&[u8]>(range)?;
        let mut count = 0;
        while count < limit {
            let Some(entry) = (if reverse { entries.next_back() } else { entries.next() }) else { break };
            let (key, value) = entry?;
            visit(key.value(), value.value());
            count += 1;
        }
        Ok(count)
    }

    fn snapshot(&self) -> Result<Box<dyn Held + '_>> {
        Ok(Box::new(self.db.begin_read()?))
    }

    /// A durable commit makes those before it durable.
    fn flush(&self) -> Result<()> {
        self.write(true, |_| Ok(()))
    }

    fn is_busy(&self) -> Result<bool> {
        Ok(false)
    }

    /// Compaction needs the database for itself (`&mut`), which nobody who shares it has: freed pages are used again.
    fn compact(&self) -> Result<()> {
        self.flush()
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.db.close()?)
    }
}
