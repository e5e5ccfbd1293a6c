//! Fault tests: one call to the disk fails, or all from one on; a sync loses what it should have
//! written; space runs out and comes back.
//!
//! Whatever fails: no panic, no hang (the simulated schedule reports one), no wrong read. A write is
//! acknowledged, refused, or its ticket says that it may or may not exist; after reopening, with
//! and without a power cut, exactly a prefix of what was not refused is there, and it covers what
//! was promised. A failure that leaves log or manifest in doubt closes the database to writes.
//!
//! `CAIRN_SEED=n` replays from a seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cairn::{Db, Durability, Env, ErrorKind, Keyspace, Options};
use cairn_env::{CrashPolicy, Fault, FaultKind, Op, SimDisk, Step};
use common::history::{Content, Op as Change, SPACES, apply};
use common::workload::DIR;
use common::{Random, Scene, base_seed, tiny};

/// A batch that was handed over and not refused.
struct Write {
    ops: Vec<Change>,
    /// Or nobody knows.
    acknowledged: bool,
}

/// One client on a disk that fails, and what it knows.
struct Client {
    env: Env,
    options: Options,
    random: Random,
    /// In the order of submission.
    writes: Vec<Write>,
    /// So many of them were promised to survive a power cut.
    durable: usize,
}

fn sleep(env: &Env, duration: Duration) {
    let mutex = env.mutex(());
    let mut guard = mutex.lock();
    let (condvar, end) = (env.condvar(), env.now() + duration);
    while env.now() < end {
        guard = condvar.wait_for(guard, duration).0;
    }
}

fn is_one_of(kind: ErrorKind, kinds: &[ErrorKind]) -> bool {
    kinds.contains(&kind)
}

impl Client {
    fn new(env: &Env, seed: u64) -> Client {
        Client { env: env.clone(), options: tiny(), random: Random::new(seed), writes: Vec::new(), durable: 0 }
    }

    /// The content after the first `count` writes.
    fn content(&self, count: usize) -> Content {
        let mut content = Content::default();
        self.writes[..count].iter().for_each(|write| apply(&mut content, &write.ops));
        content
    }

    /// So many were promised to survive the process: all up to the last that was acknowledged. One
    /// in doubt may stand before it, as a buffered write does not wait for the sync that failed.
    fn acknowledged(&self) -> usize {
        self.writes.iter().rposition(|write| write.acknowledged).map_or(0, |last| last + 1)
    }

    /// Opens, and gives up where the disk fails.
    fn open(&self) -> cairn::Result<(Db, [Keyspace; 2])> {
        let opened = Db::open_in(&self.env, DIR, self.options.clone()).and_then(|db| {
            let spaces = [db.keyspace(SPACES[0])?, db.keyspace(SPACES[1])?];
            Ok((db, spaces))
        });
        opened.inspect_err(|e| {
            assert!(is_one_of(e.kind(), &[ErrorKind::Io, ErrorKind::Full, ErrorKind::Closed]), "open: {e:?}");
        })
    }

    /// One to three batches, handed over together.
    fn write(&mut self, db: &Db, spaces: &[Keyspace; 2]) {
        let mut waiting = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let mut batch = db.batch();
            let mut ops = Vec::new();
            for _ in 0..1 + self.random.below(4) {
                let (space, key) = (self.random.below(2) as usize, self.random.key());
                let value = (!self.random.chance(3)).then(|| self.random.value());
                match &value {
                    Some(value) => batch.put(&spaces[space], &key, value),
                    None => batch.delete(&spaces[space], &key),
                }
                ops.push((space, key, value));
            }
            let durability = if self.random.chance(3) { Durability::Buffered } else { Durability::Commit };
            match db.submit(batch, durability) {
                Ok(ticket) => waiting.push((ops, durability, ticket)),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Closed, "submit: {e:?}"),
            }
        }
        for (ops, durability, ticket) in waiting {
            match ticket.wait() {
                Ok(_) => {
                    self.writes.push(Write { ops, acknowledged: true });
                    if durability == Durability::Commit {
                        self.durable = self.writes.len();
                    }
                }
                Err(e) if e.kind() == ErrorKind::Unknown => self.writes.push(Write { ops, acknowledged: false }),
                Err(e) => assert!(is_one_of(e.kind(), &[ErrorKind::Full, ErrorKind::Closed]), "write: {e:?}"),
            }
        }
    }

    /// What is read is right, or an error that says that the disk failed.
    fn read(&self, db: &Db, spaces: &[Keyspace; 2]) {
        let mut found = Content::default();
        for (space, found) in spaces.iter().zip(&mut found) {
            for entry in space.iter() {
                match entry {
                    Ok((key, value)) => found.insert(key, value),
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Io, "read: {e:?}");
                        return;
                    }
                };
            }
        }
        // Whether it is closed already decides what may be seen; it may close just now.
        let closed = !writable(db);
        let count = self.writes.len();
        let least = if closed { self.durable } else { count };
        let fits = (least..=count).rev().any(|count| self.content(count) == found);
        assert!(fits, "a read found something else than what was written; closed: {closed}");
    }

    /// Works until the end, or until the database is closed to writes.
    fn work(&mut self, db: &Db, spaces: &[Keyspace; 2], steps: u64) {
        for step in 0..steps {
            self.write(db, spaces);
            self.read(db, spaces);
            let maintained = match step % 8 {
                3 => db.flush(),
                7 => db.compact(),
                _ => Ok(()),
            };
            if let Err(e) = maintained {
                assert!(is_one_of(e.kind(), &[ErrorKind::Io, ErrorKind::Full, ErrorKind::Closed]), "flush: {e:?}");
            }
        }
    }

    /// After reopening: what was in doubt is there or not, and stays so. Whatever is there is durable.
    fn settle(&mut self, spaces: &[Keyspace; 2]) {
        let mut found = Content::default();
        for (space, found) in spaces.iter().zip(&mut found) {
            match space.iter().collect() {
                Ok(all) => *found = all,
                Err(e) => return assert_eq!(e.kind(), ErrorKind::Io, "read: {e:?}"),
            }
        }
        let fits = (self.durable..=self.writes.len()).rev().find(|&count| self.content(count) == found);
        let count = fits.expect("a prefix is there");
        self.writes.truncate(count);
        self.writes.iter_mut().for_each(|write| write.acknowledged = true);
        self.durable = count;
    }

    /// Reopened, the database holds a prefix of at least `least` writes. Says how many.
    fn check_reopened(&self, least: usize) -> usize {
        let (db, spaces) = self.open().unwrap();
        let mut found = Content::default();
        for (space, found) in spaces.iter().zip(&mut found) {
            *found = space.iter().map(Result::unwrap).collect();
        }
        let count = (least..=self.writes.len()).find(|&count| self.content(count) == found);
        let count = count.unwrap_or_else(|| {
            let earlier = (0..least).rev().find(|&count| self.content(count) == found);
            panic!("not a prefix of at least {least} of {} writes, but {earlier:?}", self.writes.len())
        });
        db.put(b"still", b"works").unwrap();
        db.compact().unwrap();
        assert_eq!(db.get(b"still").unwrap().as_deref(), Some(&b"works"[..]));
        db.close().unwrap();
        count
    }
}

fn writable(db: &Db) -> bool {
    let stats = db.stats();
    stats.health() == "open" || stats.health().starts_with("full")
}

#[derive(Default)]
struct Report {
    runs: u64,
    fired: u64,
    /// How runs ended: the health at the end by the operation that failed.
    ends: BTreeMap<(FaultKind, Op, &'static str), u64>,
}

/// How long the workload is; about a hundred and fifty calls for each ten.
const STEPS: u64 = 16;

/// Runs the workload with one planned fault, then repairs the disk and reopens in every way.
fn run_with(fault: Option<Fault>, seed: u64, report: &mut Report) {
    let disk = SimDisk::with_seed(seed);
    disk.start_trace();
    fault.into_iter().for_each(|fault| disk.inject(fault));
    let env = Env::simulated(seed, disk.clone());
    let mut client = Client::new(&env, seed);
    let run = env.run(|| {
        let mut health = "no open";
        if let Ok((db, spaces)) = client.open() {
            client.work(&db, &spaces, STEPS);
            if let Err(e) = db.close() {
                assert!(is_one_of(e.kind(), &[ErrorKind::Io, ErrorKind::Full, ErrorKind::Closed]), "close: {e:?}");
            }
            if let Ok((db, spaces)) = client.open() {
                client.settle(&spaces);
                client.work(&db, &spaces, STEPS / 4);
                // Space is back, if that was it.
                disk.clear_faults();
                sleep(&env, Duration::from_secs(3));
                health = if writable(&db) { "open" } else { "closed" };
                if health == "open" {
                    let before = client.writes.len();
                    client.write(&db, &spaces);
                    assert!(client.writes.len() > before, "writes resume: {}", db.stats().health());
                    assert_eq!(client.acknowledged(), client.writes.len());
                    client.read(&db, &spaces);
                }
            }
        }
        health
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    report.runs += 1;
    let fired: Vec<Step> = disk.trace().into_iter().filter(|step| step.fault.is_some()).collect();
    if let Some((first, kind)) = fired.first().and_then(|step| Some((step, step.fault?))) {
        report.fired += 1;
        *report.ends.entry((kind, first.op, run.value)).or_default() += 1;
    }

    let _scene = Scene::set(format!("fault at {:?}", fired.first().map(Step::to_string)));
    disk.clear_faults();
    let lost_by_sync = fired.iter().any(|step| {
        matches!(step.fault, Some(FaultKind::SyncDrops | FaultKind::SyncDropsEvicted | FaultKind::SyncLies))
    });
    let survives_process = if lost_by_sync { client.durable } else { client.acknowledged() };
    let images = [
        (disk.kill(), survives_process),
        (disk.crash(CrashPolicy::DropAll), client.durable),
        (disk.crash(CrashPolicy::Random(seed ^ report.runs)), client.durable),
    ];
    for (image, least) in images {
        let env = Env::simulated(seed, image);
        client.env = env.clone();
        let run = env.run(|| client.check_reopened(least));
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    }
}

/// Every call of one kind in the workload fails in one way, one run for each.
fn each_call(kind: FaultKind, ops: &[Op], forever: bool, stride: usize) {
    let seed = base_seed();
    let mut report = Report::default();
    for &op in ops {
        for k in (1..).step_by(stride) {
            let _scene = Scene::set(format!("CAIRN_SEED={seed}, {kind} at {op:?} number {k}, forever: {forever}"));
            let fault = Fault::new(kind).on(op).nth(k);
            let before = report.fired;
            run_with(Some(if forever { fault.forever() } else { fault }), seed, &mut report);
            if report.fired == before {
                // The workload has no more calls of this kind.
                break;
            }
        }
    }
    println!("{kind}, forever: {forever}: {} runs, {} with the fault", report.runs, report.fired);
    for ((kind, op, end), count) in &report.ends {
        println!("  {kind} at {op:?}: {end} {count}");
    }
    assert!(report.fired > 20);
}

/// The calls that fail when there is no space.
const NEED_SPACE: [Op; 7] = [Op::Create, Op::Write, Op::Sync, Op::SetLen, Op::Rename, Op::CreateDir, Op::SyncDir];

#[test]
fn an_io_error_at_any_call() {
    each_call(FaultKind::Eio, &Op::ALL, false, 1);
}

#[test]
fn io_errors_from_any_call_on() {
    each_call(FaultKind::Eio, &Op::ALL, true, 3);
}

#[test]
fn no_space_at_any_call() {
    each_call(FaultKind::Enospc, &NEED_SPACE, false, 1);
}

#[test]
fn no_space_from_any_call_on() {
    each_call(FaultKind::Enospc, &NEED_SPACE, true, 3);
}

#[test]
fn a_short_write_at_any_write() {
    each_call(FaultKind::ShortWrite, &[Op::Write], false, 3);
}

#[test]
fn a_short_read_at_any_read() {
    each_call(FaultKind::ShortRead, &[Op::Read], false, 3);
}

#[test]
fn a_failed_sync_that_forgets_what_it_should_have_written() {
    each_call(FaultKind::SyncDrops, &[Op::Sync, Op::SyncDir], false, 1);
    each_call(FaultKind::SyncDropsEvicted, &[Op::Sync, Op::SyncDir], false, 1);
}

/// The story of a disk that runs full: refused, still readable, made room on, and full no more.
#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_once_deletes_have_made_room() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk.clone());
    let key = |i: u32| format!("key-{i:06}").into_bytes();
    let run = env.run(|| {
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        disk.set_space_bytes(Some(4 << 20));
        // Values that do not compress.
        let mut random = Random::new(1);
        let mut value = |i: u32| -> Vec<u8> {
            let noise = (0..250).flat_map(|_| random.next().to_le_bytes());
            i.to_le_bytes().into_iter().chain(noise).collect()
        };
        let mut count = 0;
        let refused = loop {
            match db.put(&key(count), &value(count)) {
                Ok(_) => count += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::Full, "{refused:?}");
        assert!(count > 1000, "{count}");
        let check = |from: u32| {
            for i in 0..count {
                let found = db.get(&key(i)).unwrap();
                assert_eq!(found.as_ref().map(|value| &value[..4]), (i >= from).then_some(&i.to_le_bytes()[..]));
            }
        };
        check(0);

        // Somebody else took the rest. Deletes go on with the reserve, and with them comes the space.
        let reserve = |entry: &cairn_env::DirEntry| entry.name == "RESERVE";
        let held = env.list(Path::new(DIR)).unwrap().iter().find(|entry| reserve(entry)).map_or(0, |entry| entry.len);
        disk.set_space_bytes(Some(disk.used_bytes() - held + (1 << 20)));
        let gone = count * 3 / 4;
        for i in 0..gone {
            db.delete(&key(i)).unwrap_or_else(|e| panic!("delete {i} of {count}: {e:?}"));
        }
        check(gone);
        let mut waited = 0;
        while let Err(e) = db.put(b"more", b"value") {
            assert_eq!(e.kind(), ErrorKind::Full, "{e:?}");
            waited += 1;
            assert!(waited < 120, "no space after two minutes: {:?}, {} bytes used", db.stats(), disk.used_bytes());
            sleep(&env, Duration::from_secs(1));
        }
        assert_eq!(db.stats().health(), "open");
        check(gone);
        db.close().unwrap();
        (count, waited)
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    println!("{} values fit; after deleting three quarters writes resumed in {} s", run.value.0, run.value.1);
}

/// Level 0 is full and its compaction cannot succeed: whoever waited for it waited without end.
#[test]
fn writers_do_not_wait_for_a_compaction_that_cannot_succeed() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk.clone());
    let run = env.run(|| {
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        for i in 0..40u32 {
            db.put(&i.to_be_bytes(), &[1; 200]).unwrap();
        }
        db.flush().unwrap();
        db.close().unwrap();
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        // The one table there is; those to come can be read.
        disk.inject(Fault::new(FaultKind::Eio).on(Op::Read).file("0001.sst").forever());
        let mut random = Random::new(1);
        let refused = (0..100_000u32).find_map(|_| db.put(&random.next().to_be_bytes(), &[2; 200]).err());
        let refused = refused.expect("it can not go on for ever");
        assert_eq!(refused.kind(), ErrorKind::Closed, "{refused:?}");
        assert!(!writable(&db), "{}", db.stats().health());
        refused.to_string()
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    println!("{}", run.value);
}
