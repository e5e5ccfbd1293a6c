//! The database: memtable, commit, catalog, manifest, flush, compaction, snapshot, recovery, cache.

pub mod memtable;
