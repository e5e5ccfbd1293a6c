//! What the tests of this crate share: a directory, a model, and a cache.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cairn_codec::hash64;
use cairn_env::Env;
use cairn_env::testing::TempDir;

use crate::{Block, BlockCache, Charge, Load, Lookup, Read, Table, TableBuilder, TableOptions, TableSummary, mix64};

pub(crate) const SEED: u64 = 0xca1e;
pub(crate) const OWNER: u64 = 5;

/// Entries as a table orders them.
pub(crate) type Model = BTreeMap<(Vec<u8>, Reverse<u64>), (u8, Vec<u8>)>;

/// A directory that goes with the test.
pub(crate) struct Dir(TempDir);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(TempDir::new())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the model as table `id`.
    pub(crate) fn build(&self, id: u64, options: &TableOptions, model: &Model) -> TableSummary {
        let env = Env::real();
        let path = self.path(&id.to_string());
        let _ = env.remove(&path);
        let options = TableOptions { hash_seed: SEED, ..options.clone() };
        let mut builder = TableBuilder::new(env.create(&path).unwrap(), id, OWNER, options).unwrap();
        for ((key, Reverse(seq)), (kind, value)) in model {
            builder.add(key, *seq, *kind, value).unwrap();
        }
        builder.finish().unwrap()
    }

    pub(crate) fn open(&self, id: u64, load: Load, cache: Option<Arc<dyn BlockCache>>) -> crate::Result<Arc<Table>> {
        let file = Env::real().open(&self.path(&id.to_string())).unwrap();
        let len = file.len().unwrap();
        Table::open(file, id, len, cache, SEED, load)
    }
}

/// Numbers from a seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(self.0)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A key from a small world, so that keys collide, nest and hold 0x00 and 0xff.
    pub(crate) fn key(&mut self) -> Vec<u8> {
        let stem: &[u8] = [&b""[..], b"user/", b"user/\x00", b"\xff\xff", b"user0000000"][self.below(5)];
        let mut key = stem.to_vec();
        for _ in 0..1 + self.below(4) {
            key.push([0x00, 0x01, b'a', b'b', b'm', b'z', 0xfe, 0xff][self.below(8)]);
        }
        key
    }

    pub(crate) fn model(&mut self, entries: usize) -> Model {
        let mut model = Model::new();
        let mut seq = 0;
        while model.len() < entries {
            seq += 1 + self.next() % 3;
            let key = self.key();
            for _ in 0..if self.below(20) == 0 { self.below(40) + 1 } else { 1 } {
                let kind = [0, 1, 1, 1, 9][self.below(5)];
                let len = if kind == 0 { 0 } else { self.below(60) };
                let value = format!("{seq:-<len$}").into_bytes();
                model.insert((key.clone(), Reverse(seq)), (kind, value));
                seq += 1;
            }
        }
        model
    }
}

/// A get, with the value copied.
pub(crate) fn get(table: &Table, key: &[u8], max_seq: u64) -> crate::Result<Option<(u64, u8, Vec<u8>)>> {
    match table.get(key, hash64(key, SEED), max_seq, Read::Any)? {
        Lookup::Found { seq, kind, value } => Ok(Some((seq, kind, value.to_vec()))),
        Lookup::Absent => Ok(None),
        Lookup::NotResident => panic!("not asked for"),
    }
}

/// What a get must answer.
pub(crate) fn expected(model: &Model, key: &[u8], max_seq: u64) -> Option<(u64, u8, Vec<u8>)> {
    let ((found, Reverse(seq)), (kind, value)) = model.range((key.to_vec(), Reverse(max_seq))..).next()?;
    (found == key).then(|| (*seq, *kind, value.clone()))
}

/// A cache that keeps everything until told otherwise, and counts what is alive.
#[derive(Default)]
pub(crate) struct MapCache {
    blocks: Mutex<BTreeMap<(u64, u64), Arc<Block>>>,
    pub(crate) alive_bytes: Arc<AtomicUsize>,
    pub(crate) loads: AtomicUsize,
}

struct Alive(Arc<AtomicUsize>, usize);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl MapCache {
    pub(crate) fn clear(&self) {
        self.blocks.lock().unwrap().clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.lock().unwrap().len()
    }
}

impl BlockCache for MapCache {
    fn get(&self, table: u64, offset: u64) -> Option<Arc<Block>> {
        self.blocks.lock().unwrap().get(&(table, offset)).cloned()
    }

    fn insert(&self, table: u64, offset: u64, block: Arc<Block>) {
        self.blocks.lock().unwrap().insert((table, offset), block);
    }

    fn charge(&self, bytes: usize) -> Charge {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.alive_bytes.fetch_add(bytes, Ordering::SeqCst);
        Charge::new(Alive(Arc::clone(&self.alive_bytes), bytes))
    }
}
