//! SurrealKV: an LSM tree behind optimistic transactions, whose commits are futures.

use std::path::Path;

use surrealkv::{
    CompactRangeOptions, CompressionType, Durability, Error, LSMIterator, Mode, Options, Transaction, Tree, TreeBuilder,
};
use tokio::runtime::Runtime;

use super::{Engine, Held, Kind, Result, Setup};
use crate::data::{Entries, Key};

pub(super) const KIND: Kind = Kind { name: "surrealkv", version: "1.2.0", settings, open };

/// Threads of the runtime.
const WORKERS: usize = 2;

fn settings(setup: &Setup) -> String {
    format!(
        "defaults (64 KiB blocks, 100 MiB memtable), block cache {} MiB, snappy, WAL preallocation {}, \
         Durability::Eventual, or Immediate for sync; {WORKERS} tokio workers",
        setup.cache_bytes >> 20,
        if setup.durable { "on" } else { "off" }
    )
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    let options = Options::new()
        .with_path(dir.to_owned())
        .with_block_cache_capacity(setup.cache_bytes)
        .with_compression_per_level(vec![CompressionType::SnappyCompression])
        .with_wal_preallocation(setup.durable);
    let tree = {
        let _entered = runtime.enter();
        TreeBuilder::with_options(options).build()?
    };
    Ok(Box::new(Surreal { tree, runtime }))
}

struct Surreal {
    tree: Tree,
    runtime: Runtime,
}

impl Surreal {
    /// Two transactions that write the same key at once conflict: the loser tries again, as an application would.
    fn write(&self, sync: bool, mut fill: impl FnMut(&mut Transaction) -> surrealkv::Result<()>) -> Result<()> {
        loop {
            let mut transaction = self.tree.begin_with_mode(Mode::WriteOnly)?;
            transaction.set_durability(if sync { Durability::Immediate } else { Durability::Eventual });
            fill(&mut transaction)?;
            match self.runtime.block_on(transaction.commit()) {
                Ok(()) => return Ok(()),
                Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read(&self) -> Result<Transaction> {
        Ok(self.tree.begin_with_mode(Mode::ReadOnly)?)
    }
}

impl Engine for Surreal {
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        self.write(sync, |transaction| transaction.set(key, value))
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.write(false, |transaction| transaction.delete(key))
    }

    fn write_batch(&self, entries: &Entries) -> Result<()> {
        self.write(false, |transaction| entries.iter().try_for_each(|(key, value)| transaction.set(key, value)))
    }

    fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        self.write(false, |transaction| keys.iter().try_for_each(|key| transaction.delete(key.as_slice())))
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let found = self.read()?.get(key)?;
        Ok(found.map(|value| visit(&value)).is_some())
    }

    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        let transaction = self.read()?;
        for (at, key) in keys.iter().enumerate() {
            visit(at, transaction.get(key.as_slice())?.as_deref());
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
        let transaction = self.read()?;
        let mut count = 0;
        let mut walk = |entries: &mut dyn LSMIterator| -> Result<()> {
            let mut valid = if reverse { entries.seek_last()? } else { entries.seek_first()? };
            while valid && count < limit {
                visit(entries.key().user_key(), &entries.value_ref()?);
                count += 1;
                if count < limit {
                    valid = if reverse { entries.prev()? } else { entries.next()? };
                }
            }
            Ok(())
        };
        match (start, reverse) {
            (None, _) => walk(&mut transaction.scan(..)?)?,
            (Some(key), false) => walk(&mut transaction.scan(key..)?)?,
            (Some(key), true) => walk(&mut transaction.scan(..=key)?)?,
        }
        Ok(count)
    }

    fn snapshot(&self) -> Result<Box<dyn Held + '_>> {
        Ok(Box::new(self.read()?))
    }

    /// A compaction down to level 0 is a flush.
    fn flush(&self) -> Result<()> {
        let options = CompactRangeOptions { flush_memtable: true, target_level: Some(0), rewrite_bottommost: false };
        Ok(self.tree.compact_range(None, None, &options)?)
    }

    fn is_busy(&self) -> Result<bool> {
        Ok(false)
    }

    fn compact(&self) -> Result<()> {
        Ok(self.tree.compact_range(None, None, &CompactRangeOptions::default())?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.runtime.block_on(self.tree.close())?)
    }
}
