//! RocksDB as its users tune it for point reads and scans of small values.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, CompactOptions, DB, DBCompressionType, Options, WaitForCompactOptions, WriteBatch,
    WriteOptions, properties,
};

use super::{Engine, Held, Kind, Result, Setup};
use crate::data::{Entries, Key};

pub(super) const KIND: Kind = Kind { name: "rocksdb", version: "11.12.0 (rust-rocksdb 0.54.0)", settings, open };

fn settings(setup: &Setup) -> String {
    format!(
        "HyperClockCache {} MiB, bloom 10 bits, 16 KiB blocks, index and filter in the cache, L0 pinned, format_version 6, \
         dynamic level bytes, write_buffer 64 MiB, max_background_jobs {}, bytes_per_sync 1 MiB, lz4, WAL on",
        setup.cache_bytes >> 20,
        jobs()
    )
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache(usize::try_from(setup.cache_bytes)?, 0));
    table.set_bloom_filter(10.0, false);
    table.set_block_size(16 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_write_buffer_size(64 << 20);
    options.set_max_background_jobs(i32::try_from(jobs())?);
    options.set_bytes_per_sync(1 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(Box::new(Rocks { db: DB::open(&options, dir)?, buffered: WriteOptions::default(), synced }))
}

struct Rocks {
    db: DB,
    buffered: WriteOptions,
    synced: WriteOptions,
}

impl Engine for Rocks {
    fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        Ok(self.db.put_opt(key, value, if sync { &self.synced } else { &self.buffered })?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.db.delete_opt(key, &self.buffered)?)
    }

    fn write_batch(&self, entries: &Entries) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in entries.iter() {
            batch.put(key, value);
        }
        Ok(self.db.write_opt(&batch, &self.buffered)?)
    }

    fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for key in keys {
            batch.delete(key);
        }
        Ok(self.db.write_opt(&batch, &self.buffered)?)
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let found = self.db.get_pinned(key)?;
        Ok(found.map(|value| visit(&value)).is_some())
    }

    fn multi_get(&self, keys: &[Key], visit: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        for (at, found) in self.db.batched_multi_get_pinned(keys, false).into_iter().enumerate() {
            visit(at, found?.as_deref());
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
        let mut iterator = self.db.raw_iterator();
        match (start, reverse) {
            (Some(key), false) => iterator.seek(key),
            (Some(key), true) => iterator.seek_for_prev(key),
            (None, false) => iterator.seek_to_first(),
            (None, true) => iterator.seek_to_last(),
        }
        let mut count = 0;
        while let Some((key, value)) = iterator.item() {
            visit(key, value);
            count += 1;
            if count == limit {
                break;
            }
            if reverse {
                iterator.prev()
            } else {
                iterator.next()
            };
        }
        iterator.status()?;
        Ok(count)
    }

    fn snapshot(&self) -> Result<Box<dyn Held + '_>> {
        Ok(Box::new(self.db.snapshot()))
    }

    fn flush(&self) -> Result<()> {
        self.db.flush()?;
        Ok(self.db.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn is_busy(&self) -> Result<bool> {
        for property in [
            properties::NUM_RUNNING_COMPACTIONS,
            properties::NUM_RUNNING_FLUSHES,
            properties::COMPACTION_PENDING,
            properties::MEM_TABLE_FLUSH_PENDING,
        ] {
            if self.db.property_int_value(property)?.is_some_and(|value| value > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn compact(&self) -> Result<()> {
        self.db.flush()?;
        self.db.compact_range_opt::<&[u8], &[u8]>(None, None, &CompactOptions::default());
        Ok(self.db.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
