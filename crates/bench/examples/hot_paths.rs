//! The hot paths of the engine, each alone, for tools that count or attribute instructions.
//!
//! ```sh
//! cargo xtask counts                                                # all of them, against what is committed
//! cargo build --release --package cairn-bench --example hot_paths
//! target/release/examples/hot_paths                                 # their names
//! valgrind --tool=callgrind --toggle-collect=hot_paths::counted target/release/examples/hot_paths get-table
//! ```
//!
//! Owns what each path asks of the engine, and of what database. A path is run twice: the first time warms
//! caches and buffers, the second is inside [`counted`], which contains nothing else. Refuses to count itself,
//! and any run in which an answer was wrong, a file was read, or flush or compaction had done anything.
//!
//! What is counted follows from the code alone: keys, values and the order of access from one seed, the seed of
//! the engine's hashes from a simulated disk (for writes, where nothing is hashed, the disk is a real one).

use std::error::Error;
use std::hint::black_box;

use cairn::{CompactionStyle, Cursor, Db, Durability, Keyspace, Options, Visibility};
use cairn_bench::random::Random;
use cairn_env::testing::TempDir;
use cairn_env::{Env, SimDisk};

/// Keys in the database before a path begins.
const KEYS: usize = 100_000;
const VALUE_BYTES: usize = 100;
/// Batches in which they are loaded.
const LOAD_BATCH: usize = 1_000;
const SEED: u64 = 1;

type Key = [u8; 16];
type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// Does all operations of a path once; the number of entries that were read or written.
type Run = Box<dyn FnMut() -> cairn::Result<usize>>;

struct Path {
    name: &'static str,
    operations: usize,
    /// Entries that each operation must have read or written.
    entries_each: usize,
    database: fn() -> Result<Database>,
    prepare: fn(&mut Database, usize) -> Result<Run>,
}

const PATHS: [Path; 10] = [
    path("get-memtable", 20_000, 1, in_memtable, get),
    path("get-table", 20_000, 1, in_one_run, get),
    path("get-absent", 20_000, 0, in_one_run, get_absent),
    path("put", 10_000, 1, in_memtable, put),
    path("batch-100", 100, 100, in_memtable, batch),
    path("next-one-run", KEYS, 1, in_one_run, next),
    path("next-merge", KEYS, 1, in_four_runs_and_memtable, next),
    path("prev-one-run", KEYS, 1, in_one_run, prev),
    path("seek-10-merge", 2_000, 10, in_four_runs_and_memtable, seek),
    path("multi-get-100", 200, 100, in_one_run, multi_get),
];

const fn path(
    name: &'static str,
    operations: usize,
    entries_each: usize,
    database: fn() -> Result<Database>,
    prepare: fn(&mut Database, usize) -> Result<Run>,
) -> Path {
    Path { name, operations, entries_each, database, prepare }
}

fn main() -> Result<()> {
    let Some(name) = std::env::args().nth(1) else {
        PATHS.iter().for_each(|path| println!("path {} {}", path.name, path.operations));
        println!("processor {}", processor());
        return Ok(());
    };
    let path = PATHS.iter().find(|path| path.name == name).ok_or_else(|| format!("there is no path {name}"))?;
    let mut database = (path.database)()?;
    let mut run = (path.prepare)(&mut database, path.operations)?;
    let warm = run()?;
    let before = database.work_beside();
    let entries = counted(&mut run)?;
    let after = database.work_beside();
    let expected = path.operations * path.entries_each;
    if (warm, entries) != (expected, expected) {
        return Err(format!("{name}: {warm}, then {entries} entries instead of {expected}").into());
    }
    if before != after {
        return Err(format!("{name}: flushes, compactions, reads of files: {before:?} before, {after:?} after").into());
    }
    Ok(())
}

/// The part that tools look at. Its name is part of their command lines.
#[inline(never)]
fn counted(run: &mut Run) -> cairn::Result<usize> {
    // Not the last call: it would be compiled to a jump, and its end be nobody's.
    black_box(run())
}

/// How many processors there are, what the code was compiled for, and what it finds when it runs: libraries choose by
/// that.
fn processor() -> String {
    macro_rules! features {
        ($($name:tt)*) => {{
            #[cfg(target_arch = "x86_64")]
            let found: &[(&str, bool)] = &[$(($name, std::arch::is_x86_feature_detected!($name)),)*];
            #[cfg(not(target_arch = "x86_64"))]
            let found: &[(&str, bool)] = &[];
            (vec![$(($name, cfg!(target_feature = $name)),)*], found.to_vec())
        }};
    }
    let (compiled, found) = features!("sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "pclmulqdq" "avx" "avx2" "bmi1" "bmi2" "lzcnt" "fma" "avx512f");
    let names = |features: Vec<(&'static str, bool)>| {
        features.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // The block cache allocates by their number; what the allocator then does for a large batch differs by 7 %.
    format!("{processors} {}: compiled for {}; finds {}", std::env::consts::ARCH, names(compiled), names(found))
}

struct Database {
    db: Db,
    keyspace: Keyspace,
    /// What it holds, in the order of writing.
    keys: Vec<Key>,
    random: Random,
    _dir: Option<TempDir>,
}

impl Database {
    /// Empty, and left alone by flush and compaction unless they are asked for.
    fn open(env: &Env, dir: Option<TempDir>) -> Result<Database> {
        let options = Options {
            durability: Durability::Buffered,
            memory_budget_bytes: 1 << 30,
            compaction: CompactionStyle::EveryUpdates(u64::MAX),
            ..Options::default()
        };
        let path = dir.as_ref().map_or("data".as_ref(), TempDir::path);
        let db = Db::open_in(env, path, options)?;
        let keyspace = db.default_keyspace();
        Ok(Database { db, keyspace, keys: Vec::new(), random: Random::new(SEED), _dir: dir })
    }

    fn simulated() -> Result<Database> {
        Database::open(&Env::on_disk(SimDisk::new()), None)
    }

    /// A key that it does not hold.
    fn new_key(&mut self) -> Key {
        let (a, b) = (self.random.next_u64(), self.random.next_u64());
        ((u128::from(a) << 64) | u128::from(b)).to_be_bytes()
    }

    fn new_keys(&mut self, count: usize) -> Vec<Key> {
        (0..count).map(|_| self.new_key()).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        (0..VALUE_BYTES).map(|_| self.random.below(256) as u8).collect()
    }

    fn load(&mut self, count: usize) -> Result<()> {
        let keys = self.new_keys(count);
        for keys in keys.chunks(LOAD_BATCH) {
            let mut batch = self.db.batch();
            for key in keys {
                let value = self.value();
                batch.put(&self.keyspace, key, &value);
            }
            self.db.write(batch, Durability::Buffered)?;
        }
        self.keys.extend(keys);
        Ok(())
    }

    /// Keys that it holds, in random order.
    fn some_keys(&mut self, count: usize) -> Vec<Key> {
        (0..count).filter_map(|_| self.random.pick(&self.keys).copied()).collect()
    }

    fn cursor(&self) -> Result<Cursor> {
        Ok(self.keyspace.latest(Visibility::Applied).cursor()?)
    }

    /// Flushes, compactions, and blocks read from files until now.
    fn work_beside(&self) -> [Option<u64>; 3] {
        let stats = self.db.stats();
        ["flushes_count", "compactions_count", "cache_misses_count"].map(|name| stats.get(name))
    }
}

fn in_memtable() -> Result<Database> {
    let mut database = Database::open(&Env::real(), Some(TempDir::new()))?;
    database.load(KEYS)?;
    Ok(database)
}

fn in_one_run() -> Result<Database> {
    let mut database = Database::simulated()?;
    database.load(KEYS)?;
    database.db.compact()?;
    Ok(database)
}

/// One run below, three flushed ones above it, a memtable: every key in one of them, all over each other.
fn in_four_runs_and_memtable() -> Result<Database> {
    let mut database = Database::simulated()?;
    database.load(KEYS / 5)?;
    database.db.compact()?;
    for _ in 0..3 {
        database.load(KEYS / 5)?;
        database.db.flush()?;
    }
    database.load(KEYS / 5)?;
    Ok(database)
}

fn get_each(keyspace: Keyspace, keys: Vec<Key>) -> Run {
    Box::new(move || keys.iter().try_fold(0, |found, key| Ok(found + usize::from(keyspace.get(key)?.is_some()))))
}

fn get(database: &mut Database, operations: usize) -> Result<Run> {
    let keys = database.some_keys(operations);
    Ok(get_each(database.keyspace.clone(), keys))
}

fn get_absent(database: &mut Database, operations: usize) -> Result<Run> {
    let keys = database.new_keys(operations);
    Ok(get_each(database.keyspace.clone(), keys))
}

fn multi_get(database: &mut Database, operations: usize) -> Result<Run> {
    let keys = database.some_keys(operations * 100);
    let keyspace = database.keyspace.clone();
    Ok(Box::new(move || {
        keys.chunks(100).try_fold(0, |found, keys| Ok(found + keyspace.multi_get(keys)?.iter().flatten().count()))
    }))
}

/// New keys for both runs, and a value.
fn writes(database: &mut Database, each: usize) -> (std::vec::IntoIter<Key>, Vec<u8>) {
    (database.new_keys(2 * each).into_iter(), database.value())
}

fn put(database: &mut Database, operations: usize) -> Result<Run> {
    let (mut keys, value) = writes(database, operations);
    let keyspace = database.keyspace.clone();
    Ok(Box::new(move || {
        keys.by_ref().take(operations).try_fold(0, |written, key| keyspace.put(&key, &value).map(|_| written + 1))
    }))
}

fn batch(database: &mut Database, operations: usize) -> Result<Run> {
    let (mut keys, value) = writes(database, operations * 100);
    let (db, keyspace) = (database.db.clone(), database.keyspace.clone());
    Ok(Box::new(move || {
        (0..operations).try_fold(0, |written, _| {
            let mut batch = db.batch();
            keys.by_ref().take(100).for_each(|key| batch.put(&keyspace, &key, &value));
            db.write(batch, Durability::Buffered)?;
            Ok(written + 100)
        })
    }))
}

/// Goes over everything, from a seek to one end of it.
fn walk(
    database: &Database,
    begin: fn(&mut Cursor) -> cairn::Result<()>,
    step: fn(&mut Cursor) -> cairn::Result<()>,
) -> Result<Run> {
    let mut cursor = database.cursor()?;
    Ok(Box::new(move || {
        let mut seen = 0;
        begin(&mut cursor)?;
        while let Some(entry) = cursor.entry() {
            black_box(entry);
            seen += 1;
            step(&mut cursor)?;
        }
        Ok(seen)
    }))
}

fn next(database: &mut Database, _: usize) -> Result<Run> {
    walk(database, Cursor::seek_to_first, Cursor::next)
}

fn prev(database: &mut Database, _: usize) -> Result<Run> {
    walk(database, Cursor::seek_to_last, Cursor::prev)
}

fn seek(database: &mut Database, operations: usize) -> Result<Run> {
    // Ten entries follow each.
    let mut sorted = database.keys.clone();
    sorted.sort_unstable();
    let early = sorted.get(..KEYS - 10).unwrap_or_default();
    let keys: Vec<Key> = (0..operations).filter_map(|_| database.random.pick(early).copied()).collect();
    let mut cursor = database.cursor()?;
    Ok(Box::new(move || {
        let mut seen = 0;
        for key in &keys {
            cursor.seek(key)?;
            for read in 0..10 {
                if read > 0 {
                    cursor.next()?;
                }
                seen += usize::from(black_box(cursor.entry()).is_some());
            }
        }
        Ok(seen)
    }))
}
