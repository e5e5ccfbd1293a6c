//! fjall with its defaults.

use std::ops::Bound;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Engine, Held, Kind, Result, Setup};
use crate::data::{Entries, Key};

pub(super) const KIND: Kind = Kind { name: "fjall", version: "3.1.13", settings, open };

fn settings(setup: &Setup) -> String {
    format!("defaults, cache_size {} MiB; sync is persist(SyncData) after each write", setup.cache_bytes >> 20)
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let db = Database::builder(dir).cache_size(setup.cache_bytes).open()?;
    let keyspace = db.keyspace("default", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { db, keyspace }))
}

struct Fjall {
    db: Database,
    keyspace: Keyspace,
}

/// Lends what an iterator of fjall gives.
fn lend(entries: impl Iterator<Item = fjall::Guard>, limit: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
    let mut count = 0;
    for entry in entries {
        let (key, value) = entry.into_inner()?;
        visit(&key, &value);
        count += 1;
        if count == limit {
            break;
        }
    }
    Ok(count)
}

impl Engine for Fjall {
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        self.keyspace.insert(key, value)?;
        if sync {
            self.db.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.keyspace.remove(key)?)
    }

    fn write_batch(&self, entries: &Entries) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in entries.iter() {
            batch.insert(&self.keyspace, key, value);
        }
        Ok(batch.commit()?)
    }

    fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        let mut batch = self.db.batch();
        for key in keys {
            batch.remove(&self.keyspace, key.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let found = self.keyspace.get(key)?;
        Ok(found.map(|value| visit(&value)).is_some())
    }

    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            visit(at, self.keyspace.get(key)?.as_deref());
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
        if reverse {
            lend(self.keyspace.range::<&[u8], _>((Bound::Unbounded, bound)).rev(), limit, visit)
        } else {
            lend(self.keyspace.range::<&[u8], _>((bound, Bound::Unbounded)), limit, visit)
        }
    }

    fn snapshot(&self) -> Result<Box<dyn Held + '_>> {
        Ok(Box::new(self.db.snapshot()))
    }

    fn flush(&self) -> Result<()> {
        Ok(self.keyspace.rotate_memtable_and_wait()?)
    }

    fn is_busy(&self) -> Result<bool> {
        Ok(self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0)
    }

    fn compact(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        Ok(self.keyspace.major_compact()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.db.persist(PersistMode::SyncAll)?;
        Ok(())
    }
}
