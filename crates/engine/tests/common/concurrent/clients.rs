//! Clients that make histories: a few threads on a few hot keys of two keyspaces, and a database that is
//! closed, killed or loses its power under them and opens again.
//!
//! Plain cells are put, deleted, batched and written under conditions at random; the cells of the
//! group are only ever written all together; counters are only ever raised by compare and set.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn::{CompactionStyle, Db, Durability, Env, ErrorKind, Keyspace, Options, SeqNo, Snapshot, Visibility};
use cairn_env::{CrashPolicy, SimDisk};

use super::{Action, Call, Cell, Content, End, Era, History, NEVER, Outcome, Read, Slot, Time, Value, Write, number};
use crate::common::{Random, tiny};

const DIR: &str = "db";
const SPACES: [&str; 2] = ["default", "other"];

/// How many cells of which use each of the two keyspaces has.
#[derive(Clone, Copy, Debug)]
struct Layout {
    plain: usize,
    group: usize,
    counters: usize,
}

impl Layout {
    fn random(random: &mut Random) -> Layout {
        let mut upto = |most: u64| random.below(most + 1) as usize;
        Layout { plain: 1 + upto(3), group: upto(2), counters: upto(1) }
    }

    /// The cells of one keyspace.
    fn half(self) -> usize {
        self.plain + self.group + self.counters
    }

    /// The same cells of both keyspaces.
    fn both(self, cells: Range<usize>) -> Vec<Cell> {
        cells.clone().chain(cells.start + self.half()..cells.end + self.half()).collect()
    }

    fn plain_cells(self) -> Vec<Cell> {
        self.both(0..self.plain)
    }

    fn group_cells(self) -> Vec<Cell> {
        self.both(self.plain..self.plain + self.group)
    }

    fn counter_cells(self) -> Vec<Cell> {
        self.both(self.plain + self.group..self.half())
    }
}

/// A cell's key within its keyspace. The keys of neighbours are neighbours.
fn key(layout: Layout, cell: Cell) -> [u8; 2] {
    [b'k', (cell % layout.half()) as u8]
}

fn decode(bytes: &[u8]) -> Value {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// Takes notes for all clients.
#[derive(Debug, Default)]
struct Recorder {
    clock: AtomicU64,
    values: AtomicU64,
    snapshots: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    fn tick(&self) -> Time {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn note(&self, invoked: Time, returned: Time, action: Action) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Call { invoked, returned, action });
    }

    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The disk failed, as planned: the client has no more to do.
struct Stopped;

/// A snapshot that is held, and when it was taken.
struct Held {
    id: u64,
    taken: Range<Time>,
    visibility: Visibility,
    snapshot: Snapshot,
}

/// One thread's view of an open database.
struct Client {
    env: Env,
    disk: SimDisk,
    db: Db,
    spaces: [Keyspace; 2],
    layout: Layout,
    flushing: bool,
    recorder: Arc<Recorder>,
    random: Random,
    held: Vec<Held>,
}

impl Client {
    fn open(env: &Env, disk: &SimDisk, plan: &Plan, recorder: &Arc<Recorder>) -> cairn::Result<Client> {
        let db = Db::open_in(env, DIR, plan.options.clone())?;
        Ok(Client {
            env: env.clone(),
            disk: disk.clone(),
            spaces: [db.keyspace(SPACES[0])?, db.keyspace(SPACES[1])?],
            db,
            layout: plan.layout,
            flushing: plan.flushing,
            recorder: recorder.clone(),
            random: Random::new(0),
            held: Vec::new(),
        })
    }

    /// Another thread on the same database.
    fn another(&self, seed: u64) -> Client {
        Client {
            env: self.env.clone(),
            disk: self.disk.clone(),
            db: self.db.clone(),
            spaces: self.spaces.clone(),
            layout: self.layout,
            flushing: self.flushing,
            recorder: self.recorder.clone(),
            random: Random::new(seed),
            held: Vec::new(),
        }
    }

    /// The moment before a call. Others may come in between.
    fn invoke(&self) -> Time {
        let time = self.recorder.tick();
        self.env.now();
        time
    }

    /// The moment after a call.
    fn returned(&self) -> Time {
        self.env.now();
        self.recorder.tick()
    }

    fn ok<T>(&self, result: cairn::Result<T>) -> Result<T, Stopped> {
        match result {
            Ok(value) => Ok(value),
            Err(_) if self.disk.is_crashed() => Err(Stopped),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn space(&self, cell: Cell) -> &Keyspace {
        &self.spaces[cell / self.layout.half()]
    }

    fn pick(&mut self, cells: &[Cell]) -> Cell {
        cells[self.random.below(cells.len() as u64) as usize]
    }

    fn visibility(&mut self) -> Visibility {
        if self.random.chance(2) { Visibility::Durable } else { Visibility::Applied }
    }

    fn durability(&mut self) -> Durability {
        if self.random.chance(3) { Durability::Buffered } else { Durability::Commit }
    }

    /// A value that nobody else writes.
    fn value(&self, number: u64) -> Value {
        number << 32 | (self.recorder.values.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// One to four plain cells, put or deleted.
    fn ops(&mut self) -> Vec<(Cell, Slot)> {
        let mut cells = self.layout.plain_cells();
        let count = if self.random.chance(2) { 1 } else { 1 + self.random.below(4) as usize };
        while cells.len() > count {
            let at = self.random.below(cells.len() as u64) as usize;
            cells.swap_remove(at);
        }
        let value = self.value(0);
        cells.into_iter().map(|cell| (cell, (!self.random.chance(3)).then_some(value))).collect()
    }

    fn batch(&mut self, ops: &[(Cell, Slot)], required: &[(Range<Cell>, u64)]) -> cairn::Batch {
        let mut batch = self.db.batch();
        for (cell, slot) in ops {
            let key = key(self.layout, *cell);
            match slot {
                Some(value) => {
                    let mut bytes = value.to_le_bytes().to_vec();
                    bytes.resize(8 + self.random.below(400) as usize, *value as u8);
                    batch.put(self.space(*cell), &key, &bytes);
                }
                None => batch.delete(self.space(*cell), &key),
            }
        }
        for (cells, since) in required {
            let (space, first) = (self.space(cells.start), key(self.layout, cells.start));
            if cells.len() == 1 {
                batch.require_unchanged(space, &first, SeqNo(*since));
            } else {
                let end = key(self.layout, cells.end - 1);
                let end = [end[0], end[1] + 1];
                batch.require_range_unchanged(space, &first, Some(&end), SeqNo(*since));
            }
        }
        batch
    }

    fn write(
        &mut self,
        ops: Vec<(Cell, Slot)>,
        required: Vec<(Range<Cell>, u64)>,
        durability: Durability,
    ) -> Result<(), Stopped> {
        let batch = self.batch(&ops, &required);
        let invoked = self.invoke();
        let result = self.db.write(batch, durability);
        self.told(invoked, Write { ops, required, durability, outcome: Outcome::Unknown }, result)
    }

    /// Notes a write and its outcome.
    fn told(&self, invoked: Time, write: Write, result: cairn::Result<cairn::Commit>) -> Result<(), Stopped> {
        let outcome = match &result {
            Ok(commit) => Outcome::Committed(commit.seq.0),
            Err(e) if e.kind() == ErrorKind::Conflict => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        let returned = if outcome == Outcome::Unknown { NEVER } else { self.returned() };
        self.recorder.note(invoked, returned, Action::Write(Write { outcome, ..write }));
        match outcome {
            Outcome::Unknown => self.ok(result).map(drop),
            Outcome::Committed(_) | Outcome::Refused => Ok(()),
        }
    }

    /// Hands several batches over before it waits for the first.
    fn pipeline(&mut self) -> Result<(), Stopped> {
        let mut waiting = Vec::new();
        for _ in 0..2 + self.random.below(3) {
            let ops = self.ops();
            let durability = self.durability();
            let batch = self.batch(&ops, &[]);
            let invoked = self.invoke();
            let write = Write { ops, required: Vec::new(), durability, outcome: Outcome::Unknown };
            waiting.push((invoked, write, self.db.submit(batch, durability)));
        }
        let mut end = Ok(());
        for (invoked, write, ticket) in waiting {
            let result = ticket.and_then(cairn::Ticket::wait);
            end = end.and(self.told(invoked, write, result));
        }
        end
    }

    /// Notes a read. After a failure reads go back to what is durable: those of the applied say nothing then.
    fn saw(&self, times: Range<Time>, read: Read) {
        if read.visibility == Visibility::Durable || !self.disk.is_crashed() {
            self.recorder.note(times.start, times.end, Action::Read(read));
        }
    }

    /// One key, or several of one keyspace as of one moment.
    fn read(&mut self) -> Result<(), Stopped> {
        let visibility = self.visibility();
        let space = self.random.below(2) as usize;
        let first = space * self.layout.half();
        let cells: Vec<Cell> = match self.random.chance(2) {
            true => vec![first + self.random.below(self.layout.half() as u64) as usize],
            false => (first..first + self.layout.half()).collect(),
        };
        let keys: Vec<_> = cells.iter().map(|cell| key(self.layout, *cell)).collect();
        let invoked = self.invoke();
        let reader = self.spaces[space].latest(visibility);
        let (reader, seq) = match self.random.below(2) {
            0 => {
                let pinned = reader.pinned();
                let seq = pinned.seq().0;
                (pinned, Some(seq))
            }
            _ => (reader, None),
        };
        let taken = seq.map(|_| self.returned());
        let values: Vec<Slot> = match &keys[..] {
            [key] => vec![self.ok(reader.get(key))?.map(|value| decode(&value))],
            _ => self.ok(reader.multi_get(&keys))?.iter().map(|value| value.as_deref().map(decode)).collect(),
        };
        let times = invoked..taken.unwrap_or_else(|| self.returned());
        self.saw(times, Read { visibility, seen: cells.into_iter().zip(values).collect(), seq, snapshot: None });
        Ok(())
    }

    /// All of a keyspace, slowly, in either direction: what changes meanwhile does not show.
    fn iterate(&mut self) -> Result<(), Stopped> {
        let visibility = self.visibility();
        let space = self.random.below(2) as usize;
        let invoked = self.invoke();
        let mut iter = self.spaces[space].latest(visibility).iter();
        let taken = self.returned();
        let backward = self.random.chance(2);
        let mut seen = self.nothing(space);
        loop {
            self.env.now();
            let next = if backward { iter.next_back() } else { iter.next() };
            let Some(entry) = next else { break };
            self.put_seen(&mut seen, space, self.ok(entry)?);
        }
        self.saw(invoked..taken, Read { visibility, seen, seq: None, snapshot: None });
        Ok(())
    }

    /// Every cell of a keyspace, absent.
    fn nothing(&self, space: usize) -> Content {
        let first = space * self.layout.half();
        (first..first + self.layout.half()).map(|cell| (cell, None)).collect()
    }

    fn put_seen(&self, seen: &mut Content, space: usize, (key, value): (Vec<u8>, Vec<u8>)) {
        assert!(key.len() == 2 && key[0] == b'k', "a key that nobody wrote: {key:?}");
        let cell = space * self.layout.half() + usize::from(key[1]);
        seen.insert(cell, Some(decode(&value)));
    }

    fn take_snapshot(&mut self) -> Held {
        let visibility = self.visibility();
        let id = self.recorder.snapshots.fetch_add(1, Ordering::Relaxed) + 1;
        let invoked = self.invoke();
        let snapshot = self.db.snapshot_at(visibility);
        Held { id, taken: invoked..self.returned(), visibility, snapshot }
    }

    /// Reads everything through a snapshot.
    fn all(&self, snapshot: &Snapshot) -> Result<Content, Stopped> {
        let mut seen = Content::new();
        for space in 0..2 {
            let reader = self.ok(self.spaces[space].at(snapshot))?;
            seen.append(&mut self.nothing(space));
            for entry in reader.iter() {
                self.env.now();
                self.put_seen(&mut seen, space, self.ok(entry)?);
            }
        }
        Ok(seen)
    }

    /// Notes everything that a snapshot shows, as of when it was taken.
    fn look(&self, held: &Held) -> Result<(), Stopped> {
        let seen = self.all(&held.snapshot)?;
        let seq = Some(held.snapshot.seq().0);
        self.saw(held.taken.clone(), Read { visibility: held.visibility, seen, seq, snapshot: Some(held.id) });
        Ok(())
    }

    /// Looks through a new or a held snapshot, or lets one go.
    fn snapshots(&mut self) -> Result<(), Stopped> {
        if self.held.len() < 3 && self.random.chance(2) {
            let held = self.take_snapshot();
            self.look(&held)?;
            self.held.push(held);
        } else if !self.held.is_empty() {
            let at = self.random.below(self.held.len() as u64) as usize;
            let held = self.held.swap_remove(at);
            self.look(&held)?;
            if !self.random.chance(4) {
                self.held.push(held);
            }
        }
        Ok(())
    }

    /// Writes plain cells if others are unchanged since a snapshot, new or held: cells that are written too,
    /// cells that are not, or all the plain ones of a keyspace.
    fn conditional(&mut self) -> Result<(), Stopped> {
        let since = match self.held.last() {
            Some(held) if self.random.chance(4) => held.snapshot.seq().0,
            _ => self.db.snapshot().seq().0,
        };
        let ops = self.ops();
        let first = self.random.below(2) as usize * self.layout.half();
        let required = match self.random.below(3) {
            0 => ops.iter().map(|(cell, _)| (*cell..cell + 1, since)).collect(),
            1 => {
                let cell = self.pick(&self.layout.plain_cells());
                vec![(cell..cell + 1, since)]
            }
            _ => vec![(first..first + self.layout.plain, since)],
        };
        let durability = self.durability();
        self.write(ops, required, durability)
    }

    fn raise_counter(&mut self) -> Result<(), Stopped> {
        let cells = self.layout.counter_cells();
        if cells.is_empty() {
            return Ok(());
        }
        let cell = self.pick(&cells);
        let reader = self.space(cell).latest(Visibility::Applied).pinned();
        let since = reader.seq().0;
        let count = self.ok(reader.get(&key(self.layout, cell)))?.map_or(0, |bytes| number(decode(&bytes)));
        let value = self.value(count + 1);
        self.write(vec![(cell, Some(value))], vec![(cell..cell + 1, since)], Durability::Commit)
    }

    fn write_group(&mut self) -> Result<(), Stopped> {
        let cells = self.layout.group_cells();
        if cells.is_empty() {
            return Ok(());
        }
        let value = self.value(0);
        let durability = self.durability();
        self.write(cells.into_iter().map(|cell| (cell, Some(value))).collect(), Vec::new(), durability)
    }

    fn sync(&mut self) -> Result<(), Stopped> {
        let invoked = self.invoke();
        self.ok(self.db.sync())?;
        self.recorder.note(invoked, self.returned(), Action::Sync);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Stopped> {
        let way = match self.random.below(100) {
            // Of the ways below only single puts, reads and flushes.
            way if self.flushing => [0, 58, 97][way as usize % 3],
            way => way,
        };
        match way {
            0..22 => {
                let (ops, durability) = (self.ops(), self.durability());
                self.write(ops, Vec::new(), durability)
            }
            22..32 => self.write_group(),
            32..44 => self.conditional(),
            44..54 => self.raise_counter(),
            54..58 => self.pipeline(),
            58..78 => self.read(),
            78..86 => self.iterate(),
            86..95 => self.snapshots(),
            95..97 => self.sync(),
            97..99 => self.ok(self.db.flush()),
            _ => self.ok(self.db.compact()),
        }
    }

    /// Works until the disk fails. What is shown as durable afterwards must be found again, too.
    fn run(mut self, steps: u64) {
        let ended = (0..steps).try_for_each(|_| self.step());
        if let Err(Stopped) = ended {
            let invoked = self.invoke();
            let found = self.found();
            let times = invoked..self.returned();
            // A table may not be readable any more.
            if let Ok((seq, seen)) = found {
                self.saw(times, Read { visibility: Visibility::Durable, seen, seq: Some(seq), snapshot: None });
            }
        }
    }

    /// What all cells hold, as durable, and the number of that.
    fn found(&self) -> Result<(u64, Content), Stopped> {
        let snapshot = self.db.snapshot_at(Visibility::Durable);
        Ok((snapshot.seq().0, self.all(&snapshot)?))
    }
}

/// What a history is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Threads of the system instead of a seeded schedule: does not replay.
    pub real_threads: bool,
    layout: Layout,
    /// Two keys are written, read and flushed, and nothing else: readers and flushes meet all the time.
    flushing: bool,
    clients: u64,
    /// What each client does in an era.
    steps: u64,
    eras: usize,
    options: Options,
}

impl Plan {
    pub fn new(seed: u64, real_threads: bool) -> Plan {
        let mut random = Random::new(seed);
        let options = Options {
            memtable_bytes_max: 4 << 10 << random.below(3),
            block_bytes: 64 << random.below(4),
            compaction: if random.chance(4) { CompactionStyle::EveryUpdates(40) } else { CompactionStyle::Leveled },
            sync_interval: random.chance(3).then(|| Duration::from_millis(1 + random.below(20))),
            ..tiny()
        };
        let clients = 2 + random.below(5);
        let eras = 1 + random.below(4) as usize;
        // Together with pipelines, well below what a checker searches.
        let steps = (10 + random.below(60)).min(1_000 / clients / eras as u64);
        let flushing = random.chance(4);
        let two_keys = Layout { plain: 1, group: 0, counters: 0 };
        let layout = if flushing { two_keys } else { Layout::random(&mut random) };
        Plan { seed, real_threads, layout, flushing, clients, steps, eras, options }
    }
}

/// A history, and how often the disk failed or lost its power while it was made.
#[derive(Debug)]
pub struct Made {
    pub history: History,
    pub crashes: u64,
}

/// What is left of one era.
struct Left {
    /// None if opening failed, as planned.
    era: Option<Era>,
    disk: SimDisk,
}

/// Lets the clients of a plan work, and notes what they see.
pub fn make(plan: &Plan) -> Made {
    let mut random = Random::new(plan.seed ^ 0x0e4a);
    let recorder = Arc::new(Recorder::default());
    let mut disk = SimDisk::with_seed(plan.seed);
    let mut made = Made { history: History { eras: Vec::new(), counters: plan.layout.counter_cells() }, crashes: 0 };
    let mut openings = 0;
    while made.history.eras.len() <= plan.eras {
        openings += 1;
        let env = match plan.real_threads {
            true => Env::on_disk(disk.clone()),
            false => Env::simulated(plan.seed << 8 ^ openings, disk.clone()),
        };
        let is_last = made.history.eras.len() == plan.eras;
        let run = env.run(|| live(&env, &disk, plan, &recorder, &mut random, is_last));
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
        let Left { era, disk: next } = run.value;
        disk = next;
        match era {
            Some(era) => {
                made.crashes += u64::from(era.end != End::Closed);
                made.history.eras.push(era);
            }
            None => {
                made.crashes += 1;
                // What was only handed to the system has survived the process, but not this.
                if let Some(before) = made.history.eras.last_mut().filter(|before| before.end == End::Killed) {
                    before.end = End::PowerCut;
                }
            }
        }
    }
    made
}

fn policy(random: &mut Random) -> CrashPolicy {
    match random.below(4) {
        0 => CrashPolicy::DropAll,
        1 => CrashPolicy::KeepAll,
        2 => CrashPolicy::Random(random.next()),
        _ => CrashPolicy::Garbage(random.next()),
    }
}

/// One era: opens, lets all clients work, ends in some way.
fn live(env: &Env, disk: &SimDisk, plan: &Plan, recorder: &Arc<Recorder>, random: &mut Random, is_last: bool) -> Left {
    // Sometimes the power goes while it opens.
    if !is_last && random.chance(4) {
        disk.crash_at(disk.steps() + 1 + random.below(60));
    }
    let start = recorder.tick();
    let opened = Client::open(env, disk, plan, recorder).map_err(|e| assert!(disk.is_crashed(), "{e:?}"));
    let found = opened.and_then(|client| client.found().map(|found| (client, found)).map_err(|Stopped| ()));
    disk.clear_faults();
    let Some((client, (base, found))) = found.ok().filter(|_| !disk.is_crashed()) else {
        return Left { era: None, disk: disk.crash(policy(random)) };
    };
    let opened = start..recorder.tick();
    if !is_last {
        if random.chance(2) {
            disk.crash_at(disk.steps() + 1 + random.below(plan.clients * plan.steps * 3));
        }
        let threads: Vec<_> = (0..plan.clients)
            .map(|_| {
                let (other, steps) = (client.another(random.next()), plan.steps);
                env.spawn("client", move || other.run(steps)).unwrap()
            })
            .collect();
        // All of them, also after one that failed: its story is told by those that go on.
        let ended: Vec<bool> = threads.into_iter().map(cairn_env::sync::Thread::join).collect();
        assert!(ended.into_iter().all(|well| well), "a client panicked");
    }
    disk.clear_faults();
    let (crashed, calls) = (disk.is_crashed(), recorder.take());
    let ended = recorder.tick();
    let (end, disk) = match random.below(3) {
        way if is_last || (way == 0 && !crashed) => {
            drop(client.spaces);
            client.db.close().unwrap();
            (End::Closed, disk.clone())
        }
        1 => (End::Killed, disk.kill()),
        _ => (End::PowerCut, disk.crash(policy(random))),
    };
    Left { era: Some(Era { base, found, opened, calls, ended, end }), disk }
}
