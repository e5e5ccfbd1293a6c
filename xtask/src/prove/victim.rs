//! `xtask victim`: a process that opens a database, says what it found, and writes until it dies.
//!
//! Started by the stages that end processes, never by people. It verifies what it finds against the
//! writers' floors and ceilings (`--floors`, `--ceilings`), then goes on from there with as many writers,
//! each a thread, and two readers. Everything that was promised to somebody is printed the moment it
//! was, one line in one write, so that it is with the parent before the process can die of what comes next:
//!
//! ```text
//! found SEQ STEPS...                 opened: the database's number, and each writer's steps
//! ack WRITER STEP SEQ durable|buffered
//! read [WRITER STEP] SEQ durable|applied     the step whose value was read, the number read at
//! refused                            a batch whose condition did not hold was refused, as it must be
//! error WHERE TEXT                   a writer ends here, or the opening or closing failed
//! closed                             the end, without `error` before it a clean one
//! lost ...                           what must not be: the run has failed
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cairn::{CompactionStyle, Compression, Db, Durability, ErrorKind, Keyspace, Options, SeqNo, Ticket, Visibility};

use super::random::Random;
use super::writer::{self, Content, Step, WINDOW, Writer};

/// Even key indexes go to the first, odd ones to the second, so that batches cross them.
const SPACES: [&str; 2] = ["default", "other"];

/// What to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    /// One of [`SIZES`].
    pub(crate) sizes: String,
    /// One of [`DURABILITIES`].
    pub(crate) durability: String,
    pub(crate) floors: Vec<u64>,
    pub(crate) ceilings: Vec<u64>,
    /// Steps of each writer after which to close; without end if `None`.
    pub(crate) steps: Option<u64>,
}

/// Small sizes, so that flushes and compactions are under way all the time.
pub(crate) const SIZES: [&str; 4] = ["tiny", "plain", "series", "small"];

/// What writers wait for.
pub(crate) const DURABILITIES: [&str; 3] = ["commit", "mixed", "buffered"];

fn options(sizes: &str) -> Options {
    let tiny = Options {
        memory_budget_bytes: 4 << 20,
        memtable_bytes_max: 16 << 10,
        table_bytes_max: 8 << 10,
        block_bytes: 512,
        log_bytes_max: 64 << 10,
        ..Options::default()
    };
    match sizes {
        "tiny" => tiny,
        "plain" => Options { compression: Compression::None, filter_bits_per_key: 0, block_bytes: 4096, ..tiny },
        "series" => Options {
            memtable_entries_max: Some(50),
            table_entries_max: Some(40),
            compaction: CompactionStyle::EveryUpdates(500),
            sync_interval: Some(Duration::from_millis(5)),
            ..tiny
        },
        _ => Options { memtable_bytes_max: 256 << 10, table_bytes_max: 64 << 10, log_bytes_max: 1 << 20, ..tiny },
    }
}

impl Orders {
    /// As the arguments after the command's name.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let mut arguments: Vec<String> = vec!["victim".to_owned()];
        let mut pair = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        pair("--dir", self.dir.display().to_string());
        pair("--seed", self.seed.to_string());
        pair("--sizes", self.sizes.clone());
        pair("--durability", self.durability.clone());
        pair("--floors", list(&self.floors));
        pair("--ceilings", list(&self.ceilings));
        if let Some(steps) = self.steps {
            pair("--steps", steps.to_string());
        }
        arguments
    }

    /// Reads what [`Orders::arguments`] wrote, without the command's name.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Orders, String> {
        let mut orders = Orders::default();
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { return Err(format!("victim: {pair:?}")) };
            let number = |text: &str| text.parse::<u64>().map_err(|e| format!("victim: {name} {text}: {e}"));
            let list = || value.split(',').map(number).collect::<Result<Vec<u64>, String>>();
            match *name {
                "--dir" => orders.dir = value.into(),
                "--seed" => orders.seed = number(value)?,
                "--sizes" => orders.sizes = (*value).to_owned(),
                "--durability" => orders.durability = (*value).to_owned(),
                "--floors" => orders.floors = list()?,
                "--ceilings" => orders.ceilings = list()?,
                "--steps" => orders.steps = Some(number(value)?),
                _ => return Err(format!("victim: {name} is unknown")),
            }
        }
        Ok(orders)
    }
}

fn say(line: &str) {
    // The parent is gone if this fails, and then nobody listens.
    let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

/// What `lost` and `error` lines say.
enum Trouble {
    Lost(String),
    Error(String),
}

impl From<cairn::Error> for Trouble {
    fn from(error: cairn::Error) -> Trouble {
        Trouble::Error(error.to_string())
    }
}

impl Trouble {
    fn say(&self, place: &str) {
        match self {
            Trouble::Lost(text) => say(&format!("lost {place}: {text}")),
            Trouble::Error(text) => say(&format!("error {place}: {text}")),
        }
    }
}

/// Lives. An error that the engine reported is no failure of the victim: the parent judges it.
pub(crate) fn run(orders: &Orders) {
    let db = match Db::open(&orders.dir, options(&orders.sizes)) {
        Ok(db) => db,
        Err(e) => return Trouble::from(e).say("open"),
    };
    match live(orders, &db) {
        Ok(()) => {}
        Err(trouble) => trouble.say("opened"),
    }
    match db.close() {
        Ok(()) => {}
        Err(e) => Trouble::from(e).say("close"),
    }
    say("closed");
}

fn live(orders: &Orders, db: &Db) -> Result<(), Trouble> {
    let spaces = [db.keyspace(SPACES[0])?, db.keyspace(SPACES[1])?];
    let mut contents = contents(&spaces, orders.floors.len())?;
    let mut writers = Vec::new();
    for (name, (floor, ceiling)) in (0u64..).zip(orders.floors.iter().zip(&orders.ceilings)) {
        let content = contents.remove(&name).unwrap_or_default();
        writers.push(Writer::find(orders.seed, name, *floor, *ceiling, &content).map_err(Trouble::Lost)?);
    }
    let seq = db.stats().get("applied_seq").unwrap_or_default();
    let steps: Vec<String> = writers.iter().map(|writer| writer.count().to_string()).collect();
    say(&format!("found {seq} {}", steps.join(" ")));

    let over = Arc::new(AtomicBool::new(false));
    let writing: Vec<_> = writers
        .into_iter()
        .map(|writer| {
            let end = orders.steps.map(|steps| writer.count() + steps);
            let mut client = Client {
                place: format!("writer {}", writer.name()),
                db: db.clone(),
                spaces: spaces.clone(),
                durability: orders.durability.clone(),
                writer,
            };
            thread::spawn(move || {
                if let Err(trouble) = client.write_until(end) {
                    trouble.say(&client.place);
                }
            })
        })
        .collect();
    let reading: Vec<_> = (0..2)
        .map(|reader| {
            let (spaces, over, writers) = (spaces.clone(), over.clone(), orders.floors.len() as u64);
            let random = Random::of(&[orders.seed, seq, reader]);
            thread::spawn(move || {
                if let Err(trouble) = read(&spaces, writers, random, &over) {
                    trouble.say("reader");
                }
            })
        })
        .collect();
    let mut whole = true;
    for thread in writing {
        whole &= thread.join().is_ok();
    }
    over.store(true, Ordering::Relaxed);
    for thread in reading {
        whole &= thread.join().is_ok();
    }
    if whole { Ok(()) } else { Err(Trouble::Lost("a thread panicked".to_owned())) }
}

/// All that the database holds, by writer; read twice, in both directions.
fn contents(spaces: &[Keyspace; 2], writers: usize) -> Result<BTreeMap<u64, Content>, Trouble> {
    let mut contents: BTreeMap<u64, Content> = BTreeMap::new();
    for (parity, space) in (0u64..).zip(spaces) {
        let reader = space.latest(Visibility::Durable).pinned();
        let forward: Vec<_> = reader.iter().collect::<Result<_, _>>()?;
        let mut backward: Vec<_> = reader.iter().rev().collect::<Result<_, _>>()?;
        backward.reverse();
        if forward != backward {
            return Err(Trouble::Lost(format!("keyspace {} is another one backward", space.name())));
        }
        for (key, value) in forward {
            if reader.get(&key)?.as_ref() != Some(&value) {
                return Err(Trouble::Lost(format!("get and scan disagree on {}", String::from_utf8_lossy(&key))));
            }
            let (key, value) =
                (String::from_utf8_lossy(&key).into_owned(), String::from_utf8_lossy(&value).into_owned());
            let owner = (0..writers as u64).find(|writer| {
                (0..writer::KEYS).any(|index| index % 2 == parity && writer::key(*writer, index) == key)
            });
            let Some(owner) = owner else {
                return Err(Trouble::Lost(format!(
                    "key {key} is in keyspace {} and nobody put it there",
                    space.name()
                )));
            };
            contents.entry(owner).or_default().insert(key, value);
        }
    }
    Ok(contents)
}

/// One writer's thread.
struct Client {
    place: String,
    db: Db,
    spaces: [Keyspace; 2],
    durability: String,
    writer: Writer,
}

impl Client {
    fn space(&self, index: u64) -> &Keyspace {
        let [even, odd] = &self.spaces;
        if index.is_multiple_of(2) { even } else { odd }
    }

    fn durability(&self, step: &Step) -> Durability {
        match self.durability.as_str() {
            "buffered" => Durability::Buffered,
            "mixed" if step.draw % 16 < 11 => Durability::Buffered,
            _ => Durability::Commit,
        }
    }

    fn batch(&self, step: &Step, conditions: bool) -> cairn::Batch {
        let mut batch = self.db.batch();
        for index in &step.puts {
            let value = self.writer.value(*index, step.number);
            batch.put(self.space(*index), self.writer.key(*index).as_bytes(), value.as_bytes());
        }
        for index in &step.deletes {
            batch.delete(self.space(*index), self.writer.key(*index).as_bytes());
        }
        if let Some(index) = step.absent.filter(|_| conditions) {
            batch.require_absent(self.space(index), self.writer.key(index).as_bytes());
        }
        batch
    }

    fn acknowledge(&mut self, step: &Step, seq: SeqNo, durability: Durability) {
        let how = if durability == Durability::Commit { "durable" } else { "buffered" };
        say(&format!("ack {} {} {} {how}", self.writer.name(), step.number, seq.0));
    }

    fn write_until(&mut self, end: Option<u64>) -> Result<(), Trouble> {
        while end.is_none_or(|end| self.writer.count() < end) {
            let draw = self.writer.next().draw >> 8;
            match draw % 512 {
                0 if self.writer.name() == 0 => self.db.compact()?,
                1..4 => self.db.flush()?,
                4..24 => self.be_refused(draw)?,
                24..90 if end.is_none() => self.write_ahead()?,
                _ => self.write()?,
            }
            // These two made no step, and the draw is the step's.
            if draw % 512 < 24 {
                self.write()?;
            }
        }
        Ok(())
    }

    /// One step, waited for.
    fn write(&mut self) -> Result<(), Trouble> {
        let step = self.writer.next();
        let durability = self.durability(&step);
        let mut conditions = true;
        let commit = loop {
            match self.db.write(self.batch(&step, conditions), durability) {
                Ok(commit) => break commit,
                // The condition holds, but what would tell is no longer in memory.
                Err(e) if e.kind() == ErrorKind::Conflict && step.absent.is_some() && conditions => conditions = false,
                Err(e) if e.kind() == ErrorKind::Busy => thread::sleep(Duration::from_millis(1)),
                Err(e) => return Err(e.into()),
            }
        };
        self.acknowledge(&step, commit.seq, durability);
        self.writer.apply(&step);
        Ok(())
    }

    /// Several steps in flight together. None with a condition, and none where calls fail: if one were
    /// refused, those after it would be steps of another list. (A full disk refuses puts, and takes
    /// the deletes behind them.)
    fn write_ahead(&mut self) -> Result<(), Trouble> {
        let mut waiting: Vec<(Step, Durability, Ticket)> = Vec::new();
        for _ in 0..WINDOW {
            let step = self.writer.next();
            let durability = self.durability(&step);
            match self.db.submit(self.batch(&step, false), durability) {
                Ok(ticket) => {
                    self.writer.apply(&step);
                    waiting.push((step, durability, ticket));
                }
                Err(e) if e.kind() == ErrorKind::Busy => break,
                Err(e) => return Err(e.into()),
            }
        }
        for (step, durability, ticket) in waiting {
            let commit = ticket.wait()?;
            self.acknowledge(&step, commit.seq, durability);
        }
        Ok(())
    }

    /// A batch whose condition does not hold: it must be refused, and none of it may ever be seen.
    fn be_refused(&self, draw: u64) -> Result<(), Trouble> {
        let Some(index) = self.writer.existing() else { return Ok(()) };
        let key = self.writer.key(index);
        let mut batch = self.db.batch();
        for index in 0..4 {
            batch.put(self.space(index), self.writer.key(index).as_bytes(), b"0:refused");
        }
        if draw.is_multiple_of(3) {
            batch.require_absent(self.space(index), key.as_bytes());
        } else {
            batch.require_unchanged(self.space(index), key.as_bytes(), SeqNo(0));
        }
        match self.db.write(batch, Durability::Commit) {
            Ok(_) => Err(Trouble::Lost(format!("{key} exists, and a batch that wants it absent was written"))),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                say("refused");
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::Busy => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Reads single keys and says what it saw: what was shown may not be gone later.
fn read(spaces: &[Keyspace; 2], writers: u64, mut random: Random, over: &AtomicBool) -> Result<(), Trouble> {
    while !over.load(Ordering::Relaxed) {
        let (visibility, how) =
            if random.chance(3) { (Visibility::Applied, "applied") } else { (Visibility::Durable, "durable") };
        let (owner, index) = (random.below(writers), random.below(writer::KEYS));
        let [even, odd] = spaces;
        let reader = if index.is_multiple_of(2) { even } else { odd }.latest(visibility).pinned();
        let key = writer::key(owner, index);
        match reader.get(key.as_bytes())? {
            None => say(&format!("read {} {how}", reader.seq().0)),
            Some(value) => match writer::number(&String::from_utf8_lossy(&value)) {
                Some(step) if step > 0 => say(&format!("read {owner} {step} {} {how}", reader.seq().0)),
                _ => return Err(Trouble::Lost(format!("{key} holds what nobody wrote"))),
            },
        }
        thread::sleep(Duration::from_micros(300));
    }
    Ok(())
}
