//! The model test: random operations on a database and on an ordered map must agree.
//!
//! Every kind of operation takes part: puts, deletes, batches over two keyspaces, conditions,
//! snapshots, scans both ways, flush, compaction, close and reopen. A failure prints its seed;
//! `CAIRN_SEED=n` replays it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;

use cairn::{CompactionStyle, Compression, Db, Durability, Env, ErrorKind, Keyspace, Options, SeqNo, Snapshot};
use common::{Random, tiny, visibility};

type Map = BTreeMap<Vec<u8>, (Vec<u8>, SeqNo)>;

/// What a keyspace should hold, and when each key was last changed.
#[derive(Clone, Default)]
struct Model {
    live: Map,
    changed: BTreeMap<Vec<u8>, SeqNo>,
}

struct Test {
    env: Env,
    options: Options,
    db: Db,
    spaces: [Keyspace; 2],
    models: [Model; 2],
    snapshots: Vec<(Snapshot, [Map; 2])>,
    random: Random,
    last: SeqNo,
}

const NAMES: [&str; 2] = ["default", "other"];

fn open(env: &Env, options: &Options) -> (Db, [Keyspace; 2]) {
    let db = Db::open_in(env, "db", options.clone()).unwrap();
    let spaces = NAMES.map(|name| db.keyspace(name).unwrap());
    (db, spaces)
}

impl Test {
    fn new(seed: u64, options: Options) -> Test {
        let env = Env::memory();
        let (db, spaces) = open(&env, &options);
        Test {
            env,
            options,
            db,
            spaces,
            models: Default::default(),
            snapshots: Vec::new(),
            random: Random::new(seed),
            last: SeqNo(0),
        }
    }

    fn durability(&mut self) -> Durability {
        if self.random.chance(3) { Durability::Buffered } else { Durability::Commit }
    }

    fn record(&mut self, space: usize, key: Vec<u8>, value: Option<Vec<u8>>, seq: SeqNo) {
        let model = &mut self.models[space];
        model.changed.insert(key.clone(), seq);
        match value {
            Some(value) => model.live.insert(key, (value, seq)),
            None => model.live.remove(&key),
        };
    }

    /// One to many puts and deletes over both keyspaces, sometimes with conditions.
    fn write(&mut self) {
        let count = if self.random.chance(4) { 1 + self.random.below(20) } else { 1 };
        let mut batch = self.db.batch();
        let mut ops = Vec::new();
        for _ in 0..count {
            let space = self.random.below(2) as usize;
            let key = self.random.key();
            let value = (!self.random.chance(3)).then(|| self.random.value());
            match &value {
                Some(value) => batch.put(&self.spaces[space], &key, value),
                None => batch.delete(&self.spaces[space], &key),
            }
            ops.push((space, key, value));
        }
        let holds = if self.random.chance(4) { Some(self.condition(&mut batch)) } else { None };
        let durability = self.durability();
        match (self.db.write(batch, durability), holds) {
            (Ok(commit), None | Some(Some(true) | None)) => {
                assert_eq!(commit.seq.0, self.last.0 + count, "numbers without gaps");
                let first = self.last.0 + 1;
                for (i, (space, key, value)) in ops.into_iter().enumerate() {
                    self.record(space, key, value, SeqNo(first + i as u64));
                }
                self.last = commit.seq;
            }
            (Err(e), Some(Some(false) | None)) if e.kind() == ErrorKind::Conflict => {}
            (result, holds) => panic!("a write with a condition that holds: {holds:?} gave {result:?}"),
        }
    }

    /// Adds a condition; says whether it holds, if that can be said: one that is met may still be
    /// refused when the moment it names is too long ago.
    fn condition(&mut self, batch: &mut cairn::Batch) -> Option<bool> {
        let space = self.random.below(2) as usize;
        let key = self.random.key();
        let model = &self.models[space];
        let recent = self.random.chance(2);
        let since = if recent { self.last } else { SeqNo(self.random.below(self.last.0 + 1)) };
        let unsure_if_old = |holds: bool| if holds && !recent { None } else { Some(holds) };
        match self.random.below(3) {
            0 => {
                batch.require_absent(&self.spaces[space], &key);
                Some(!model.live.contains_key(&key))
            }
            1 => {
                batch.require_unchanged(&self.spaces[space], &key, since);
                unsure_if_old(model.changed.get(&key).is_none_or(|&seq| seq <= since))
            }
            _ => {
                let end = self.random.key();
                let (start, end) = if key <= end { (key, end) } else { (end, key) };
                batch.require_range_unchanged(&self.spaces[space], &start, Some(&end), since);
                let changed = model.changed.range::<Vec<u8>, _>(&start..&end).any(|(_, &seq)| seq > since);
                unsure_if_old(!changed)
            }
        }
    }

    fn read(&mut self) {
        let space = self.random.below(2) as usize;
        let key = self.random.key();
        let (reader, map) = match self.random.below(self.snapshots.len() as u64 + 2) {
            n if (n as usize) < self.snapshots.len() => {
                let (snapshot, maps) = &self.snapshots[n as usize];
                (self.spaces[space].at(snapshot).unwrap(), &maps[space])
            }
            _ => (self.spaces[space].latest(cairn::Visibility::Applied), &self.models[space].live),
        };
        let expected = map.get(&key).map(|(value, _)| value.clone());
        assert_eq!(reader.get(&key).unwrap(), expected, "get {key:?}");
        match self.random.below(6) {
            0 => {
                let all: Vec<_> = reader.iter().map(Result::unwrap).collect();
                let want: Vec<_> = map.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
                assert_eq!(all, want, "iter");
            }
            1 => {
                let prefix = &key[..key.len().min(2)];
                let all: Vec<_> = reader.prefix(prefix).rev().map(Result::unwrap).collect();
                let want = map.iter().rev().filter(|(k, _)| k.starts_with(prefix));
                let want: Vec<_> = want.map(|(k, (v, _))| (k.clone(), v.clone())).collect();
                assert_eq!(all, want, "prefix {prefix:?} backward");
            }
            2 => {
                // From both ends at once.
                let mut other = self.random.key();
                let mut key = key;
                if other < key {
                    let reversed = || reader.range(key.as_slice()..other.as_slice());
                    assert!(reversed().next().is_none() && reversed().next_back().is_none());
                    std::mem::swap(&mut other, &mut key);
                }
                let bound = |random: &mut Random, key: &Vec<u8>| match random.below(5) {
                    0 => Bound::Unbounded,
                    1 | 2 => Bound::Included(key.clone()),
                    _ => Bound::Excluded(key.clone()),
                };
                let range = (bound(&mut self.random, &key), bound(&mut self.random, &other));
                if let (Bound::Excluded(a), Bound::Excluded(b)) = &range
                    && a == b
                {
                    // BTreeMap panics on this one; here it is empty.
                    assert!(reader.range::<Vec<u8>>(range).next().is_none());
                    return;
                }
                let mut ours = reader.range::<Vec<u8>>(range.clone());
                let mut want = map.range::<Vec<u8>, _>(range);
                loop {
                    let back = self.random.chance(2);
                    let next = if back { ours.next_back() } else { ours.next() };
                    let next = next.map(Result::unwrap);
                    let expect = if back { want.next_back() } else { want.next() };
                    assert_eq!(next, expect.map(|(k, (v, _))| (k.clone(), v.clone())), "range from both ends");
                    if next.is_none() {
                        break;
                    }
                }
            }
            3 => self.walk(space),
            4 => {
                let keys: Vec<_> = (0..5).map(|_| self.random.key()).collect();
                let values = reader.multi_get(&keys).unwrap();
                for (key, value) in keys.iter().zip(values) {
                    assert_eq!(value.as_deref(), map.get(key).map(|(v, _)| v.as_slice()), "multi_get {key:?}");
                }
            }
            _ => {
                let pinned = reader.get_pinned(&key).unwrap();
                assert_eq!(pinned.as_deref(), expected.as_deref(), "get_pinned {key:?}");
                match reader.get_resident(&key).unwrap() {
                    cairn::Resident::Found(value) => assert_eq!(Some(&*value), expected.as_deref()),
                    cairn::Resident::Absent => assert_eq!(expected, None),
                    cairn::Resident::NotResident => {}
                }
            }
        }
    }

    /// A cursor moved at random.
    fn walk(&mut self, space: usize) {
        let vis = visibility(&mut self.random);
        if vis == cairn::Visibility::Durable {
            self.db.sync().unwrap();
        }
        let mut cursor = self.spaces[space].latest(vis).cursor().unwrap();
        let map = &self.models[space].live;
        let mut at: Option<Vec<u8>> = None;
        for _ in 0..20 {
            let key = self.random.key();
            match self.random.below(8) {
                0 => {
                    cursor.seek_to_first().unwrap();
                    at = map.keys().next().cloned();
                }
                1 => {
                    cursor.seek_to_last().unwrap();
                    at = map.keys().next_back().cloned();
                }
                2 => {
                    cursor.seek(&key).unwrap();
                    at = map.range(key..).next().map(|(k, _)| k.clone());
                }
                3 => {
                    cursor.seek_before(&key).unwrap();
                    at = map.range(..key).next_back().map(|(k, _)| k.clone());
                }
                4 | 5 => {
                    cursor.next().unwrap();
                    at = at
                        .and_then(|k| map.range((Bound::Excluded(k), Bound::Unbounded)).next())
                        .map(|(k, _)| k.clone());
                }
                _ => {
                    cursor.prev().unwrap();
                    at = at.and_then(|k| map.range(..k).next_back()).map(|(k, _)| k.clone());
                }
            }
            let want = at.as_ref().map(|k| (k.as_slice(), map[k].0.as_slice()));
            assert_eq!(cursor.entry(), want, "cursor");
        }
    }

    fn step(&mut self) {
        match self.random.below(1000) {
            0..600 => self.write(),
            600..960 => self.read(),
            960..975 => {
                let maps = [self.models[0].live.clone(), self.models[1].live.clone()];
                self.snapshots.push((self.db.snapshot(), maps));
            }
            975..990 => {
                if !self.snapshots.is_empty() {
                    let at = self.random.below(self.snapshots.len() as u64) as usize;
                    self.snapshots.swap_remove(at);
                }
            }
            990..995 => self.db.flush().unwrap(),
            995..997 => self.db.compact().unwrap(),
            _ => {
                self.snapshots.clear();
                let env = self.env.clone();
                let closed = std::mem::replace(self, Test::new(0, self.options.clone()));
                let Test { db, spaces, models, random, last, options, .. } = closed;
                drop(spaces);
                db.close().unwrap();
                let (db, spaces) = open(&env, &options);
                *self = Test { env, options, db, spaces, models, snapshots: Vec::new(), random, last };
            }
        }
    }

    fn check_all(&self) {
        for (space, model) in self.spaces.iter().zip(&self.models) {
            let all: Vec<_> = space.iter().map(Result::unwrap).collect();
            let want: Vec<_> = model.live.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
            assert_eq!(all, want);
        }
    }
}

fn option_sets() -> Vec<(&'static str, Options)> {
    vec![
        ("tiny", tiny()),
        ("no compression, large blocks", Options { compression: Compression::None, block_bytes: 16 << 10, ..tiny() }),
        ("few entries in a table", Options { table_entries_max: Some(7), memtable_entries_max: Some(20), ..tiny() }),
        ("no filter", Options { filter_bits_per_key: 0, ..tiny() }),
        (
            "series",
            Options { memtable_entries_max: Some(50), compaction: CompactionStyle::EveryUpdates(500), ..tiny() },
        ),
        ("production sizes", Options::default()),
    ]
}

#[test]
fn random_operations_agree_with_an_ordered_map() {
    let base: u64 = std::env::var("CAIRN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let steps: u64 = std::env::var("CAIRN_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(20_000);
    for (i, (name, options)) in option_sets().into_iter().enumerate() {
        let seed = base + i as u64;
        println!("{name}: CAIRN_SEED={seed}, {steps} operations");
        let mut test = Test::new(seed, options);
        for _ in 0..steps {
            test.step();
        }
        test.check_all();
        let stats = test.db.stats();
        let count = |name: &str| stats.get(name).unwrap();
        println!(
            "  {} flushes, {} compactions, {} moves, {} dropped entries since the last open",
            count("flushes_count"),
            count("compactions_count"),
            count("compaction_moves_count"),
            count("compaction_dropped_entries"),
        );
        assert_eq!(stats.health(), "open", "{:?}", stats.last_background_error());
    }
}
