//! LMDB: one file, mapped; the page cache is its only cache.

use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use super::{Engine, Held, Kind, Result, Setup};
use crate::data::{Entries, Key};

pub(super) const KIND: Kind = Kind { name: "lmdb", version: "0.9.70 (heed 0.23.1)", settings, open };

/// Address space, not disk: the file grows as it is written.
const MAP_BYTES: usize = 64 << 30;

fn settings(setup: &Setup) -> String {
    let sync = if setup.durable { "every commit syncs" } else { "MDB_NOSYNC, sync is mdb_env_sync after the commit" };
    format!("page cache only, MDB_NORDAHEAD, {sync}, no MDB_WRITEMAP; no compression exists")
}

#[allow(unsafe_code, reason = "a map of a file is as sound as nobody else changes the file, which heed cannot know")]
fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_readers(126);
    let mut flags = EnvFlags::NO_READ_AHEAD;
    if !setup.durable {
        flags |= EnvFlags::NO_SYNC;
    }
    // SAFETY: the directory belongs to this process alone, so nobody changes the file under the map; what
    // NO_SYNC can lose in a power cut is never read again.
    let env = unsafe {
        options.flags(flags);
        options.open(dir)?
    };
    let database = env
        .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
            opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
        })?
        .unwrap_commit();
    Ok(Box::new(Lmdb { env, database, durable: setup.durable }))
}

struct Lmdb {
    env: Env,
    database: Database<'static, Bytes, Bytes>,
    durable: bool,
}

/// A read transaction belongs to its thread, which may have but one: a snapshot gets a thread of its own.
struct Snapshot {
    release: Option<mpsc::Sender<()>>,
    holder: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}

impl Engine for Lmdb {
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        self.database.put(&mut transaction, key, value)?;
        transaction.commit()?;
        if sync && !self.durable {
            self.env.force_sync()?;
        }
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        self.database.delete(&mut transaction, key)?;
        Ok(transaction.commit()?)
    }

    fn write_batch(&self, entries: &Entries) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in entries.iter() {
            self.database.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for key in keys {
            self.database.delete(&mut transaction, key)?;
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let transaction = self.env.read_txn()?;
        let found = self.database.get(&transaction, key)?;
        Ok(found.map(visit).is_some())
    }

    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        let transaction = self.env.read_txn()?;
        for (at, key) in keys.iter().enumerate() {
            visit(at, self.database.get(&transaction, key)?);
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
        let transaction = self.env.read_txn()?;
        let bound = start.map_or(Bound::Unbounded, Bound::Included);
        let mut count = 0;
        if reverse {
            for entry in self.database.rev_range(&transaction, &(Bound::Unbounded, bound))? {
                let (key, value) = entry?;
                visit(key, value);
                count += 1;
                if count == limit {
                    break;
                }
            }
        } else {
            for entry in self.database.range(&transaction, &(bound, Bound::Unbounded))? {
                let (key, value) = entry?;
                visit(key, value);
                count += 1;
                if count == limit {
                    break;
                }
            }
        }
        Ok(count)
    }

    fn snapshot(&self) -> Result<Box<dyn Held + '_>> {
        let (release, released) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        let env = self.env.clone();
        let holder = std::thread::spawn(move || {
            let transaction = env.read_txn();
            let _ = begun.send(transaction.as_ref().err().map(ToString::to_string));
            // Ends when the sender is dropped.
            let _ = released.recv();
            drop(transaction);
        });
        match has_begun.recv()? {
            Some(problem) => Err(problem.into()),
            None => Ok(Box::new(Snapshot { release: Some(release), holder: Some(holder) })),
        }
    }

    fn flush(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn is_busy(&self) -> Result<bool> {
        Ok(false)
    }

    /// There is none in place: freed pages are used again.
    fn compact(&self) -> Result<()> {
        self.flush()
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Lmdb { env, .. } = *self;
        env.force_sync()?;
        env.prepare_for_closing().wait();
        Ok(())
    }
}
