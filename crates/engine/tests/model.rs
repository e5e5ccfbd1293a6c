//! The model test: random operations on a database and on an ordered map must agree, and databases
//! with different options must answer the same operations with the same bytes.
//!
//! Every kind of operation takes part: puts, deletes, batches over two keyspaces, conditions,
//! snapshots and iterators held from one to the next, scans both ways, flush, compaction, a keyspace
//! dropped and made again, close and reopen. What is drawn depends on the seed and the map alone, so that one seed is one list of
//! operations under every set of options. A failure prints its seed; `CAIRN_SEED=n` replays it,
//! `CAIRN_STEPS=n` makes the list longer, `CAIRN_PROOF_SECONDS=n` takes further seeds for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::time::Duration;

use cairn::{CompactionStyle, Compression, Db, Durability, Env, ErrorKind, Iter, Keyspace, Options, SeqNo, Snapshot};
use common::{Random, Scene, base_seed, number, tiny, visibility};

type Map = BTreeMap<Vec<u8>, (Vec<u8>, SeqNo)>;

/// What a keyspace should hold, and when each key was last changed.
#[derive(Clone, Default)]
struct Model {
    live: Map,
    changed: BTreeMap<Vec<u8>, SeqNo>,
}

/// A put (with a value) or delete, and the index of its keyspace.
type Op = (usize, Vec<u8>, Option<Vec<u8>>);

/// What must hold for a batch to be written; the numbers are those of the map.
#[derive(Clone, Debug)]
enum Required {
    Absent { space: usize, key: Vec<u8> },
    Unchanged { space: usize, key: Vec<u8>, since: SeqNo },
    RangeUnchanged { space: usize, start: Vec<u8>, end: Vec<u8>, since: SeqNo },
}

/// An iterator that is held, and what is still to come.
struct Held {
    iter: Iter,
    want: VecDeque<(Vec<u8>, Vec<u8>)>,
}

/// A fingerprint of all that a database has answered, after each step.
#[derive(Default)]
struct Answers {
    all: DefaultHasher,
    after_step: Vec<u64>,
}

impl Answers {
    fn add(&mut self, answer: impl Hash) {
        answer.hash(&mut self.all);
    }

    fn end_step(&mut self) {
        self.after_step.push(self.all.finish());
    }
}

struct Test {
    env: Env,
    setup: Setup,
    openings: usize,
    db: Db,
    spaces: [Keyspace; 2],
    models: [Model; 2],
    snapshots: Vec<(Snapshot, [Map; 2])>,
    iterators: Vec<Held>,
    random: Random,
    /// Numbers given before the first of the map's.
    base: u64,
    last: SeqNo,
    answers: Answers,
}

const NAMES: [&str; 2] = ["default", "other"];

/// Entries of the ballast, each as large as a block of it: together twice the budget of its set.
const BALLAST_ENTRIES: u64 = 2048;

impl Test {
    fn new(seed: u64, setup: Setup) -> Test {
        let env = Env::memory();
        let (db, spaces) = setup.open(&env, 0);
        let base = if setup.ballast { fill_ballast(&db) } else { 0 };
        Test {
            env,
            setup,
            openings: 1,
            db,
            spaces,
            models: Default::default(),
            snapshots: Vec::new(),
            iterators: Vec::new(),
            random: Random::new(seed),
            base,
            last: SeqNo(0),
            answers: Answers::default(),
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
        let mut ops = Vec::new();
        for _ in 0..count {
            let space = self.random.below(2) as usize;
            let key = self.random.key();
            let value = (!self.random.chance(3)).then(|| self.random.value());
            ops.push((space, key, value));
        }
        let required = if self.random.chance(4) { Some(self.required()) } else { None };
        let durability = self.durability();
        let seq = match (required, &ops[..]) {
            (Some(required), _) => self.write_if(&ops, required, durability),
            // As durable as the options say.
            (None, [(space, key, Some(value))]) if durability == Durability::Commit => {
                Some(self.spaces[*space].put(key, value).unwrap().seq)
            }
            (None, [(space, key, None)]) if durability == Durability::Commit => {
                Some(self.spaces[*space].delete(key).unwrap().seq)
            }
            (None, _) => Some(self.db.write(self.batch(&ops, None), durability).unwrap().seq),
        };
        self.answers.add(seq.map(|seq| seq.0 - self.base));
        let Some(seq) = seq else { return };
        let first = self.last.0 + 1;
        self.last = SeqNo(seq.0 - self.base);
        assert_eq!(self.last.0 + 1, first + count, "numbers without gaps");
        for (i, (space, key, value)) in ops.into_iter().enumerate() {
            self.record(space, key, value, SeqNo(first + i as u64));
        }
    }

    fn batch(&self, ops: &[Op], required: Option<&Required>) -> cairn::Batch {
        let mut batch = self.db.batch();
        for (space, key, value) in ops {
            match value {
                Some(value) => batch.put(&self.spaces[*space], key, value),
                None => batch.delete(&self.spaces[*space], key),
            }
        }
        let at = |since: &SeqNo| SeqNo(since.0 + self.base);
        match required {
            None => {}
            Some(Required::Absent { space, key }) => batch.require_absent(&self.spaces[*space], key),
            Some(Required::Unchanged { space, key, since }) => {
                batch.require_unchanged(&self.spaces[*space], key, at(since));
            }
            Some(Required::RangeUnchanged { space, start, end, since }) => {
                batch.require_range_unchanged(&self.spaces[*space], start, Some(end), at(since));
            }
        }
        batch
    }

    /// Writes if the condition holds. How long ago a moment may lie differs between options: what is
    /// refused although it holds is decided on as of now, and then it must be taken.
    fn write_if(&self, ops: &[Op], mut required: Required, durability: Durability) -> Option<SeqNo> {
        loop {
            let holds = self.holds(&required);
            match (self.db.write(self.batch(ops, Some(&required)), durability), &mut required) {
                (Ok(commit), _) if holds => return Some(commit.seq),
                (Err(e), _) if !holds && e.kind() == ErrorKind::Conflict => return None,
                (Err(e), Required::Unchanged { since, .. } | Required::RangeUnchanged { since, .. })
                    if e.kind() == ErrorKind::Conflict && *since < self.last =>
                {
                    *since = self.last;
                }
                (result, required) => panic!("{required:?}, which holds: {holds}, gave {result:?}"),
            }
        }
    }

    fn required(&mut self) -> Required {
        let space = self.random.below(2) as usize;
        let key = self.random.key();
        let recent = self.random.chance(2);
        let since = if recent { self.last } else { SeqNo(self.random.below(self.last.0 + 1)) };
        match self.random.below(3) {
            0 => Required::Absent { space, key },
            1 => Required::Unchanged { space, key, since },
            _ => {
                let end = self.random.key();
                let (start, end) = if key <= end { (key, end) } else { (end, key) };
                Required::RangeUnchanged { space, start, end, since }
            }
        }
    }

    fn holds(&self, required: &Required) -> bool {
        match required {
            Required::Absent { space, key } => !self.models[*space].live.contains_key(key),
            Required::Unchanged { space, key, since } => {
                self.models[*space].changed.get(key).is_none_or(|seq| seq <= since)
            }
            Required::RangeUnchanged { space, start, end, since } => {
                self.models[*space].changed.range::<Vec<u8>, _>(start..end).all(|(_, seq)| seq <= since)
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
        let value = reader.get(&key).unwrap();
        assert_eq!(value, expected, "get {key:?}");
        self.answers.add(value);
        match self.random.below(6) {
            0 => {
                let all: Vec<_> = reader.iter().map(Result::unwrap).collect();
                let want: Vec<_> = map.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
                assert_eq!(all, want, "iter");
                self.answers.add(all);
            }
            1 => {
                let prefix = &key[..key.len().min(2)];
                let all: Vec<_> = reader.prefix(prefix).rev().map(Result::unwrap).collect();
                let want = map.iter().rev().filter(|(k, _)| k.starts_with(prefix));
                let want: Vec<_> = want.map(|(k, (v, _))| (k.clone(), v.clone())).collect();
                assert_eq!(all, want, "prefix {prefix:?} backward");
                self.answers.add(all);
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
                    self.answers.add(&next);
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
                    self.answers.add(value.as_deref());
                }
            }
            _ => {
                let pinned = reader.get_pinned(&key).unwrap();
                assert_eq!(pinned.as_deref(), expected.as_deref(), "get_pinned {key:?}");
                self.answers.add(pinned.as_deref());
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
            self.answers.add(cursor.entry());
        }
    }

    /// Begins an iterator that is held, or takes some from one: it shows its moment, whatever happens between.
    fn iterate(&mut self) {
        if self.iterators.len() < 4 && self.random.chance(4) {
            let space = self.random.below(2) as usize;
            let start = self.random.key();
            let want = self.models[space].live.range(start.clone()..);
            let want = want.map(|(k, (v, _))| (k.clone(), v.clone())).collect();
            self.iterators.push(Held { iter: self.spaces[space].range(start..), want });
        } else if !self.iterators.is_empty() {
            let at = self.random.below(self.iterators.len() as u64) as usize;
            let held = &mut self.iterators[at];
            for _ in 0..1 + self.random.below(40) {
                let back = self.random.chance(2);
                let next = if back { held.iter.next_back() } else { held.iter.next() };
                let next = next.map(Result::unwrap);
                assert_eq!(next, if back { held.want.pop_back() } else { held.want.pop_front() }, "held iterator");
                let ended = next.is_none();
                self.answers.add(next);
                if ended {
                    self.iterators.swap_remove(at);
                    break;
                }
            }
        }
    }

    /// The second keyspace goes, and another of its name comes; iterators that are held go on.
    fn drop_and_make_again(&mut self) {
        assert!(self.db.drop_keyspace(NAMES[1]).unwrap());
        let (old, ops) = (&self.spaces[1], [(0, self.random.key(), Some(b"v".to_vec())), (1, self.random.key(), None)]);
        let refused = [
            old.get(&ops[1].1).unwrap_err(),
            old.iter().next().unwrap().unwrap_err(),
            self.db.write(self.batch(&ops, None), Durability::Buffered).unwrap_err(),
        ];
        assert!(refused.iter().all(|e| e.kind() == ErrorKind::NotFound), "{refused:?}");
        if let Some((snapshot, _)) = self.snapshots.last() {
            assert_eq!(old.at(snapshot).unwrap().get(&ops[1].1).unwrap_err().kind(), ErrorKind::NotFound);
        }
        self.spaces[1] = self.db.keyspace(NAMES[1]).unwrap();
        self.models[1] = Model::default();
        self.snapshots.iter_mut().for_each(|(_, maps)| maps[1].clear());
    }

    fn reopen(self) -> Test {
        let Test { db, spaces, env, setup, openings, models, random, base, last, answers, .. } = self;
        drop(spaces);
        db.close().unwrap();
        let (db, spaces) = setup.open(&env, openings);
        let (snapshots, iterators, openings) = (Vec::new(), Vec::new(), openings + 1);
        Test { env, setup, openings, db, spaces, models, snapshots, iterators, random, base, last, answers }
    }

    fn step(mut self) -> Test {
        match self.random.below(1000) {
            0..597 => self.write(),
            597..600 => self.drop_and_make_again(),
            600..910 => self.read(),
            910..960 => self.iterate(),
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
            _ => self = self.reopen(),
        }
        self.answers.end_step();
        if self.setup.ballast {
            // Pushes others out of the cache.
            let entry = (self.answers.after_step.len() as u64).wrapping_mul(0x9e37_79b9) % BALLAST_ENTRIES;
            let ballast = self.db.keyspace(BALLAST).unwrap();
            assert_eq!(ballast.get(&entry.to_be_bytes()).unwrap(), Some(ballast_value(entry)));
        }
        self
    }

    /// All that is there in the end, compared and answered.
    fn end(&mut self) {
        for (space, model) in self.spaces.iter().zip(&self.models) {
            let all: Vec<_> = space.iter().map(Result::unwrap).collect();
            let want: Vec<_> = model.live.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
            assert_eq!(all, want);
            self.answers.add(all);
        }
        self.answers.end_step();
    }
}

const BALLAST: &str = "ballast";

/// Bytes that do not compress.
fn ballast_value(entry: u64) -> Vec<u8> {
    let mut random = Random::new(entry);
    (0..512).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Writes more than the cache can hold, and returns the last number.
fn fill_ballast(db: &Db) -> u64 {
    let ballast = db.keyspace(BALLAST).unwrap();
    let put = |entry: u64| {
        let mut batch = db.batch();
        batch.put(&ballast, &entry.to_be_bytes(), &ballast_value(entry));
        db.write(batch, Durability::Buffered).unwrap().seq.0
    };
    (0..BALLAST_ENTRIES).fold(0, |_, entry| put(entry))
}

/// One way to run the operations.
#[derive(Clone)]
struct Setup {
    name: &'static str,
    /// The n-th opening takes the n-th of these, and begins again behind the last.
    options: Vec<Options>,
    /// A third keyspace, larger than the cache, is read in between.
    ballast: bool,
}

impl Setup {
    fn open(&self, env: &Env, opening: usize) -> (Db, [Keyspace; 2]) {
        let options = &self.options[opening % self.options.len()];
        let db = Db::open_in(env, "db", options.clone()).unwrap();
        let spaces = NAMES.map(|name| db.keyspace(name).unwrap());
        (db, spaces)
    }
}

fn setups() -> Vec<Setup> {
    let series = CompactionStyle::EveryUpdates(500);
    let buffered = Durability::Buffered;
    let interval = Some(Duration::from_millis(1));
    let all = [
        ("tiny", tiny()),
        ("smallest memtables, blocks and log", {
            Options { memtable_bytes_max: 4 << 10, block_bytes: 64, log_bytes_max: 16 << 10, ..tiny() }
        }),
        ("no compression, large blocks", Options { compression: Compression::None, block_bytes: 16 << 10, ..tiny() }),
        ("few entries in a table", Options { table_entries_max: Some(7), memtable_entries_max: Some(20), ..tiny() }),
        ("no filter", Options { filter_bits_per_key: 0, ..tiny() }),
        ("a filter that is mostly wrong", Options { filter_bits_per_key: 1, filter_probes: Some(1), ..tiny() }),
        ("series in small", Options { memtable_entries_max: Some(50), compaction: series, ..tiny() }),
        ("series", Options::series()),
        ("buffered, synced by interval", Options { durability: buffered, sync_interval: interval, ..tiny() }),
        ("production sizes", Options::default()),
    ];
    let changing = all.iter().map(|(_, options)| options.clone()).collect();
    let crowded = Options { memtable_bytes_max: 64 << 10, table_bytes_max: 1 << 20, block_bytes: 4096, ..tiny() };
    let one = |(name, options)| Setup { name, options: vec![options], ballast: false };
    let more = [
        Setup { name: "others at each opening", options: changing, ballast: false },
        Setup { name: "a cache that is too small", options: vec![crowded], ballast: true },
    ];
    all.into_iter().map(one).chain(more).collect()
}

/// Runs the operations of a seed, and returns the fingerprint of the answers after each.
fn answers(setup: &Setup, seed: u64, steps: u64) -> Vec<u64> {
    let name = setup.name;
    let _scene = Scene::set(format!("{name}: CAIRN_SEED={seed}, {steps} operations"));
    let mut test = Test::new(seed, setup.clone());
    for _ in 0..steps {
        test = test.step();
    }
    test.end();
    let stats = test.db.stats();
    let count = |name: &str| stats.get(name).unwrap();
    println!(
        "{name}: {} openings; since the last {} flushes, {} compactions, {} dropped entries",
        test.openings,
        count("flushes_count"),
        count("compactions_count"),
        count("compaction_dropped_entries"),
    );
    assert_eq!(stats.health(), "open", "{:?}", stats.last_background_error());
    test.answers.after_step
}

#[test]
fn databases_of_any_options_agree_with_an_ordered_map_and_with_each_other() {
    let (first, steps) = (base_seed(), number("CAIRN_STEPS", 10_000));
    let env = Env::real();
    let until = env.now() + Duration::from_secs(number("CAIRN_PROOF_SECONDS", 0));
    let setups = setups();
    let mut operations = 0;
    for seed in first.. {
        if seed > first && env.now() >= until {
            break;
        }
        println!("CAIRN_SEED={seed}, {steps} operations");
        let mut reference: Option<Vec<u64>> = None;
        for setup in &setups {
            let ours = answers(setup, seed, steps);
            operations += steps;
            let reference = reference.get_or_insert_with(|| ours.clone());
            let differs = ours.iter().zip(reference.iter()).position(|(one, other)| one != other);
            let (name, other) = (setup.name, setups[0].name);
            assert_eq!(differs, None, "CAIRN_SEED={seed}: the step at which {name} answers differently than {other}");
        }
    }
    println!("proof: option sets = {}", setups.len());
    println!("proof: model operations = {operations}");
}
