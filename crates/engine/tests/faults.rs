//! Fault tests: one call to the disk fails, or all from one on; a sync loses what it should have
//! written; space runs out and comes back.
//!
//! Whatever fails: no panic, no hang (the simulated schedule reports one), no wrong read. A write is
//! acknowledged, refused, or its ticket says that it may or may not exist; after reopening, with
//! and without a power cut, exactly a prefix of what was not refused is there, and it covers what
//! was promised. A failure that leaves log or manifest in doubt closes the database to writes.
//!
//! Where a program calls the disk is a site: what it asks, of which kind of file, and in the midst of
//! what. Every site that a run without faults has meets every fault that applies to it, also those
//! of a disk that lies: a flipped bit, a stale or misdirected read, a write lost or misdirected, a
//! sync that does nothing. Of a disk that lies less can be asked: whatever a read returns was
//! written, and what is lost after reopening is the end of a prefix, or is found.
//!
//! `CAIRN_SEED=n` replays from a seed; a failure at some call prints the variables that replay just it,
//! in the shortest workload that shows it. With `CAIRN_PROOF_SECONDS` rounds with further seeds follow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use cairn::{Db, Durability, Env, Error, ErrorKind, Keyspace, Options};
use cairn_env::testing::set_stage;
use cairn_env::{Coverage, CrashPolicy, Fault, FaultKind, Op, SimDisk, Site, Step};
use common::history::{Content, Op as Change, SPACES, apply};
use common::workload::DIR;
use common::{Random, Scene, base_seed, number, shrinks, tiny, varied};

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
    /// The disk lies: damage may be found.
    lied_to: bool,
    /// Another handle closes the database at this step of the work.
    closed_at: Option<u64>,
    steps: u64,
}

/// What a call may fail with on a disk that fails.
const FAILURES: [ErrorKind; 3] = [ErrorKind::Io, ErrorKind::Full, ErrorKind::Closed];

fn sleep(env: &Env, duration: Duration) {
    let mutex = env.mutex(());
    let mut guard = mutex.lock();
    let (condvar, end) = (env.condvar(), env.now() + duration);
    while env.now() < end {
        guard = condvar.wait_for(guard, duration).0;
    }
}

impl Client {
    fn new(env: &Env, seed: u64) -> Client {
        Client {
            env: env.clone(),
            options: varied(tiny(), seed),
            random: Random::new(seed),
            writes: Vec::new(),
            durable: 0,
            lied_to: false,
            closed_at: None,
            steps: STEPS,
        }
    }

    fn expect(&self, what: &str, e: &Error, kinds: &[ErrorKind]) {
        assert!(kinds.contains(&e.kind()) || (self.lied_to && e.kind() == ErrorKind::Corrupt), "{what}: {e:?}");
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
        set_stage("open");
        let opened = Db::open_in(&self.env, DIR, self.options.clone()).and_then(|db| {
            let spaces = [db.keyspace(SPACES[0])?, db.keyspace(SPACES[1])?];
            Ok((db, spaces))
        });
        opened.inspect_err(|e| self.expect("open", e, &FAILURES))
    }

    /// One to three batches, handed over together.
    fn write(&mut self, db: &Db, spaces: &[Keyspace; 2]) {
        set_stage("write");
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
                Err(e) => self.expect("submit", &e, &[ErrorKind::Closed]),
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
                Err(e) => self.expect("write", &e, &[ErrorKind::Full, ErrorKind::Closed]),
            }
        }
    }

    /// What is read is right, or an error that says that the disk failed.
    fn read(&self, db: &Db, spaces: &[Keyspace; 2]) {
        set_stage("read");
        let mut found = Content::default();
        for (space, found) in spaces.iter().zip(&mut found) {
            for entry in space.iter() {
                match entry {
                    Ok((key, value)) => found.insert(key, value),
                    Err(e) => {
                        let closed = if self.closed_at.is_some() { ErrorKind::Closed } else { ErrorKind::Io };
                        return self.expect("read", &e, &[ErrorKind::Io, closed]);
                    }
                };
            }
        }
        // Whether it is closed already decides what may be seen; it may close just now.
        let closed = !writable(db);
        let count = self.writes.len();
        let least = if closed { self.durable } else { count };
        // One keyspace was read after the other: the failure may have come in between.
        let is_at = |space: usize, count: usize| self.content(count)[space] == found[space];
        let fits = (0..SPACES.len()).all(|space| (least..=count).rev().any(|count| is_at(space, count)));
        assert!(fits, "a read found something else than what was written; closed: {closed}");
    }

    /// Works until the end, or until the database is closed to writes.
    fn work(&mut self, db: &Db, spaces: &[Keyspace; 2], steps: u64) {
        let mut closing = None;
        for step in 0..steps {
            if self.closed_at == Some(step) {
                let (db, env, pause) = (db.clone(), self.env.clone(), Duration::from_micros(self.random.below(300)));
                let close = move || {
                    sleep(&env, pause);
                    // Refused or not: what it fails with, other tests look at.
                    let _ = db.close();
                };
                closing = self.env.spawn("closer", close).ok();
            }
            self.write(db, spaces);
            self.read(db, spaces);
            let maintained = match step % 8 {
                3 => {
                    set_stage("flush");
                    db.flush()
                }
                7 => {
                    set_stage("compact");
                    db.compact()
                }
                _ => Ok(()),
            };
            if let Err(e) = maintained {
                self.expect("maintenance", &e, &FAILURES);
            }
        }
        assert!(closing.is_none_or(|thread| thread.join()));
    }

    fn close(&self, db: Db) {
        set_stage("close");
        if let Err(e) = db.close() {
            self.expect("close", &e, &FAILURES);
        }
    }

    /// The check of the files, which tells damage from what it cannot read.
    fn check(&self) {
        set_stage("check");
        if let Err(e) = cairn::check(&self.env, Path::new(DIR), &mut |_| {}) {
            self.expect("check", &e, &[ErrorKind::Io, ErrorKind::NotFound]);
        }
    }

    /// After reopening: what was in doubt is there or not, and stays so. Whatever is there is durable.
    /// False if a read failed, so that nobody can tell.
    fn settle(&mut self, spaces: &[Keyspace; 2]) -> bool {
        set_stage("read");
        let mut found = Content::default();
        for (space, found) in spaces.iter().zip(&mut found) {
            match space.iter().collect() {
                Ok(all) => *found = all,
                Err(e) => {
                    self.expect("read", &e, &[ErrorKind::Io]);
                    return false;
                }
            }
        }
        let least = if self.lied_to { 0 } else { self.durable };
        let fits = (least..=self.writes.len()).rev().find(|&count| self.content(count) == found);
        let count = fits.expect("a prefix is there");
        self.writes.truncate(count);
        self.writes.iter_mut().for_each(|write| write.acknowledged = true);
        self.durable = count;
        true
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
        let report = cairn::check(&self.env, Path::new(DIR), &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{:?}", report.damages().collect::<Vec<_>>());
        count
    }

    /// After a disk has lied: damage is found, or there is a prefix. Says which.
    fn check_lied_to(&self) -> &'static str {
        let Ok((_db, spaces)) = self.open() else { return "found at the open" };
        let mut found = Content::default();
        for (space, found) in spaces.iter().zip(&mut found) {
            match space.iter().collect() {
                Ok(all) => *found = all,
                Err(e) => {
                    self.expect("read", &e, &[]);
                    return "found at a read";
                }
            }
        }
        let count = (0..=self.writes.len()).rev().find(|&count| self.content(count) == found);
        match count.expect("not a prefix, and no damage was found") {
            count if count >= self.acknowledged() => "all there",
            _ => "a prefix",
        }
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
    /// How runs ended, by the operation that failed.
    ends: BTreeMap<(FaultKind, Op, &'static str), u64>,
    coverage: Coverage,
}

/// How long the workload is; about a hundred and fifty calls for each ten.
const STEPS: u64 = 16;

/// How one thing goes wrong.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    kind: FaultKind,
    /// From then on, or once.
    forever: bool,
    /// Another handle closes the database meanwhile.
    closing: bool,
    steps: u64,
}

/// A plan that broke a promise, and the call at which.
struct Failure {
    plan: Plan,
    op: Op,
    nth: u64,
    why: String,
}

/// A workload that has come to its end.
struct Ended {
    client: Client,
    how: &'static str,
    /// Of all calls until the disk was repaired.
    coverage: Coverage,
}

/// Runs the workload with the planned faults.
fn work_with(disk: &SimDisk, faults: &[Fault], seed: u64, prepare: impl FnOnce(&mut Client)) -> Ended {
    disk.start_trace();
    faults.iter().for_each(|fault| disk.inject(fault.clone()));
    let env = Env::simulated(seed, disk.clone());
    let mut client = Client::new(&env, seed);
    prepare(&mut client);
    let mut coverage = None;
    let run = env.run(|| {
        let Ok((db, spaces)) = client.open() else { return "no open" };
        client.work(&db, &spaces, client.steps);
        client.close(db);
        client.closed_at = None;
        client.check();
        let Ok((db, spaces)) = client.open() else { return "no open" };
        if !client.settle(&spaces) {
            // What follows would be held against what may not be there.
            return "not settled";
        }
        client.work(&db, &spaces, client.steps.div_ceil(4));
        // Space is back, if that was it.
        coverage = Some(disk.coverage());
        disk.clear_faults();
        sleep(&env, Duration::from_secs(3));
        if disk.is_crashed() {
            return "without power";
        }
        if !writable(&db) {
            return "closed";
        }
        let before = client.writes.len();
        client.write(&db, &spaces);
        assert!(client.lied_to || client.writes.len() > before, "writes resume: {}", db.stats().health());
        assert!(client.lied_to || client.acknowledged() == client.writes.len());
        client.read(&db, &spaces);
        "open"
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
    Ended { client, how: run.value, coverage: coverage.unwrap_or_else(|| disk.coverage()) }
}

impl Report {
    /// Counts a run; returns the calls that went wrong.
    fn count(&mut self, disk: &SimDisk, ended: &Ended) -> Vec<Step> {
        self.runs += 1;
        self.coverage.add(&ended.coverage);
        let fired: Vec<Step> = disk.trace().into_iter().filter(|step| step.fault.is_some()).collect();
        if let Some((first, kind)) = fired.first().and_then(|step| Some((step, step.fault?))) {
            self.fired += 1;
            *self.ends.entry((kind, first.op, ended.how)).or_default() += 1;
        }
        fired
    }
}

/// Runs the workload with the planned faults, then repairs the disk and reopens in every way. Returns
/// what was called and what went wrong.
fn run_with(faults: &[Fault], seed: u64, prepare: impl FnOnce(&mut Client), report: &mut Report) -> Coverage {
    let disk = SimDisk::with_seed(seed);
    let ended = work_with(&disk, faults, seed, prepare);
    let fired = report.count(&disk, &ended);
    let mut client = ended.client;
    let _scene = Scene::set(format!("fault at {:?}", fired.first().map(Step::to_string)));
    disk.clear_faults();
    let lost_by_sync =
        fired.iter().any(|step| matches!(step.fault, Some(FaultKind::SyncDrops | FaultKind::SyncDropsEvicted)));
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
    ended.coverage
}

/// As [`run_with`], when one of the faults is a lie.
fn run_lied_to(faults: &[Fault], seed: u64, report: &mut Report) -> Coverage {
    let disk = SimDisk::with_seed(seed);
    let ended = work_with(&disk, faults, seed, |client| client.lied_to = true);
    let fired = report.count(&disk, &ended);
    let mut client = ended.client;
    let _scene = Scene::set(format!("fault at {:?}", fired.first().map(Step::to_string)));
    for image in [disk.kill(), disk.crash(CrashPolicy::DropAll)] {
        let env = Env::simulated(seed, image);
        client.env = env.clone();
        let run = env.run(|| client.check_lied_to());
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
        if let Some((first, kind)) = fired.first().and_then(|step| Some((step, step.fault?))) {
            *report.ends.entry((kind, first.op, run.value)).or_default() += 1;
        }
    }
    ended.coverage
}

/// Calls `round` with seed after seed: once, or for this test's share of the time there is.
fn rounds(mut round: impl FnMut(u64)) {
    let share = number("CAIRN_PROOF_SECONDS", 0) / 10;
    let clock = Env::real();
    for seed in base_seed().. {
        round(seed);
        if clock.now().as_secs() >= share {
            return;
        }
    }
}

impl Plan {
    /// One call goes wrong, and perhaps all later ones. Whether there was such a call.
    fn run(&self, op: Op, nth: u64, report: &mut Report) -> Result<bool, Failure> {
        let fault = Fault::new(self.kind).on(op).nth(nth);
        let fault = if self.forever { fault.forever() } else { fault };
        let before = report.fired;
        let prepare = |client: &mut Client| {
            client.steps = self.steps;
            client.closed_at = self.closing.then(|| Random::new(self.seed << 32 ^ nth).below(self.steps));
        };
        match catch_unwind(AssertUnwindSafe(|| run_with(&[fault], self.seed, prepare, report))) {
            Ok(_) => Ok(report.fired > before),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let why = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(Failure { plan: *self, op, nth, why: why.unwrap_or_default() })
            }
        }
    }

    /// Every call of this operation goes wrong, one run for each, until a run has no more of them. In the
    /// short test errors from then on begin at every third.
    fn run_all(&self, op: Op, report: &mut Report) -> Result<(), Failure> {
        let short = number("CAIRN_PROOF_SECONDS", 0) == 0;
        for nth in (1..).step_by(if short && self.forever { 3 } else { 1 }) {
            if !self.run(op, nth, report)? {
                break;
            }
        }
        Ok(())
    }
}

impl Failure {
    /// The shortest workload in which such a call breaks a promise.
    fn shrunk(self) -> Failure {
        let shorter = |steps| Plan { steps, ..self.plan }.run_all(self.op, &mut Report::default()).err();
        (1..self.plan.steps).find_map(shorter).unwrap_or(self)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { seed, kind, forever, closing, steps } = self.plan;
        writeln!(f, "{}\n{kind}, forever: {forever}, while another handle closes: {closing}", self.why)?;
        write!(f, "CAIRN_SEED={seed} CAIRN_STEPS={steps} CAIRN_OP={:?} CAIRN_CALL={}", self.op, self.nth)
    }
}

/// Every call in the workload fails in one way, one run for each; or only that which a failure named.
fn each_call(name: &str, kind: FaultKind, forever: bool, closing: bool) {
    let named = std::env::var("CAIRN_OP").ok();
    let steps = number("CAIRN_STEPS", STEPS);
    let mut report = Report::default();
    rounds(|seed| {
        let plan = Plan { seed, kind, forever, closing, steps };
        let wanted = |op: &Op| named.as_ref().is_none_or(|name| format!("{op:?}") == *name);
        for op in Op::ALL.into_iter().filter(|op| kind.applies_to(*op)).filter(wanted) {
            let done = match number("CAIRN_CALL", 0) {
                0 => plan.run_all(op, &mut report),
                nth => plan.run(op, nth, &mut report).map(drop),
            };
            if let Err(failure) = done {
                assert!(shrinks(), "{failure}");
                eprintln!("{failure}\nshrinking...");
                panic!("{}", failure.shrunk());
            }
        }
    });
    for ((kind, op, end), count) in &report.ends {
        println!("  {kind} at {op:?}: {end} {count}");
    }
    println!("proof: {name} runs = {}", report.runs);
    println!("proof: {name} injections = {}", report.coverage.injections());
    assert!(report.fired > 20 || named.is_some());
}

/// What these tests are worth: held to the promises of an honest disk, one that lies is found out, in the
/// shortest workload that shows it, and again where the failure says.
#[test]
fn a_lie_is_found_shrunk_and_replayed() {
    let plan = Plan { seed: base_seed(), kind: FaultKind::LoseWrite, forever: true, closing: false, steps: STEPS };
    let found = plan.run_all(Op::Write, &mut Report::default()).expect_err("lost writes are found").shrunk();
    println!("{found}");
    assert!(found.plan.steps < STEPS, "{found}");
    let again = found.plan.run(found.op, found.nth, &mut Report::default()).expect_err("it replays");
    assert_eq!(again.to_string(), found.to_string());
}

#[test]
fn an_io_error_at_any_call() {
    each_call("i/o error once", FaultKind::Eio, false, false);
}

#[test]
fn io_errors_from_any_call_on() {
    each_call("i/o error from then on", FaultKind::Eio, true, false);
}

#[test]
fn no_space_at_any_call() {
    each_call("no space once", FaultKind::Enospc, false, false);
}

#[test]
fn no_space_from_any_call_on() {
    each_call("no space from then on", FaultKind::Enospc, true, false);
}

#[test]
fn a_short_transfer_at_any_call() {
    each_call("short write once", FaultKind::ShortWrite, false, false);
    each_call("short writes from then on", FaultKind::ShortWrite, true, false);
    each_call("short read once", FaultKind::ShortRead, false, false);
    each_call("short reads from then on", FaultKind::ShortRead, true, false);
}

#[test]
fn a_failed_sync_that_forgets_what_it_should_have_written() {
    each_call("forgetful sync once", FaultKind::SyncDrops, false, false);
    each_call("forgetful syncs from then on", FaultKind::SyncDrops, true, false);
    each_call("evicting sync once", FaultKind::SyncDropsEvicted, false, false);
    each_call("evicting syncs from then on", FaultKind::SyncDropsEvicted, true, false);
}

#[test]
fn an_error_at_any_call_while_another_handle_closes() {
    each_call("i/o error during a close", FaultKind::Eio, false, true);
    each_call("forgetful sync during a close", FaultKind::SyncDrops, false, true);
}

/// The faults that the caller is not told of.
const LIES: [FaultKind; 6] = [
    FaultKind::SyncLies,
    FaultKind::FlipBit,
    FaultKind::Misdirect,
    FaultKind::Stale,
    FaultKind::LoseWrite,
    FaultKind::MisdirectWrite,
];

/// A site, and how to come by it.
struct Reached {
    site: Site,
    /// So many calls come from there.
    calls: u64,
    /// What must go wrong before: nothing, if a run without faults comes by.
    way: Vec<Fault>,
    /// Some of that is a lie.
    lied_to: bool,
}

/// Gives every site every fault that applies to it, for one seed. Sites that only a run with faults
/// comes by get theirs after those.
struct Tour<'a> {
    seed: u64,
    report: &'a mut Report,
    known: BTreeSet<Site>,
    ahead: Vec<Reached>,
    without_effect: BTreeSet<(FaultKind, Site)>,
}

impl Tour<'_> {
    fn go(&mut self) {
        let coverage = run_with(&[], self.seed, |_| {}, self.report);
        self.note(&coverage, &[], false);
        let mut random = Random::new(self.seed);
        while let Some(reached) = self.ahead.pop() {
            for kind in FaultKind::ALL.into_iter().filter(|kind| kind.applies_to(reached.site.op)) {
                let way = if reached.way.is_empty() { "" } else { " after others" };
                let _scene = Scene::set(format!("CAIRN_SEED={}, {kind} at {}{way}", self.seed, reached.site));
                let some = 1 + random.below(reached.calls);
                let fired = self.run(&reached, kind, 1, true) | self.run(&reached, kind, some, false);
                // Not every call can go wrong in this way: the only sector of a file is no other's.
                if !fired && !(1..=reached.calls).any(|nth| self.run(&reached, kind, nth, false)) {
                    self.without_effect.insert((kind, reached.site.clone()));
                }
            }
        }
    }

    /// Whether the fault was injected.
    fn run(&mut self, reached: &Reached, kind: FaultKind, nth: u64, forever: bool) -> bool {
        let fault = Fault::new(kind).at(&reached.site).nth(nth);
        let fault = if forever { fault.forever() } else { fault };
        // When several are due the first goes first: the way must not hide what it leads to.
        let faults = [&[fault], &reached.way[..]].concat();
        let lied_to = reached.lied_to || LIES.contains(&kind);
        let coverage = if lied_to {
            run_lied_to(&faults, self.seed, self.report)
        } else {
            run_with(&faults, self.seed, |_| {}, self.report)
        };
        self.note(&coverage, &faults, lied_to);
        coverage.count_at(kind, &reached.site) > 0
    }

    fn note(&mut self, coverage: &Coverage, faults: &[Fault], lied_to: bool) {
        for (site, calls) in coverage.sites() {
            if self.known.insert(site.clone()) {
                self.ahead.push(Reached { site: site.clone(), calls, way: faults.to_vec(), lied_to });
            }
        }
    }
}

#[test]
fn every_call_site_meets_every_fault_that_applies_to_it() {
    let mut report = Report::default();
    let mut all = BTreeSet::new();
    let mut without_effect = BTreeSet::new();
    rounds(|seed| {
        let (known, ahead) = (BTreeSet::new(), Vec::new());
        let mut tour = Tour { seed, report: &mut report, known, ahead, without_effect: BTreeSet::new() };
        tour.go();
        all.extend(tour.known);
        without_effect.extend(tour.without_effect);
    });
    print!("{}", report.coverage);
    for ((kind, op, end), count) in &report.ends {
        println!("  {kind} at {op:?}: {end} {count}");
    }
    for (kind, site) in &without_effect {
        println!("  without effect: {kind} at {site}");
    }
    let pairs = |kind| all.iter().filter(|site| FaultKind::applies_to(kind, site.op)).count();
    println!("proof: call sites = {}", all.len());
    println!("proof: fault kinds = {}", FaultKind::ALL.len());
    println!("proof: call sites by kinds = {}", FaultKind::ALL.into_iter().map(pairs).sum::<usize>());
    println!("proof: call sites by kinds without effect = {}", without_effect.len());
    println!("proof: call site runs = {}", report.runs);
    println!("proof: call site injections = {}", report.coverage.injections());
    for kind in FaultKind::ALL {
        let missed: Vec<_> = report.coverage.missed(kind).into_iter().filter(|site| all.contains(site)).collect();
        let excused = missed.iter().filter(|site| without_effect.contains(&(kind, (*site).clone()))).count();
        assert_eq!(missed.len(), excused, "{kind} was never injected at some of {missed:?}");
        if matches!(kind, FaultKind::Eio | FaultKind::Enospc | FaultKind::Crash) {
            assert_eq!(missed, [], "{kind} needs nothing to take effect");
        }
    }
    assert!(all.len() > 40, "{} sites", all.len());
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

/// A table that reads back damaged as soon as it is written was written again and again; whoever waited
/// for the flush waited without end.
#[test]
fn a_flush_whose_table_reads_back_damaged_ends() {
    let disk = SimDisk::new();
    let env = Env::simulated(base_seed(), disk.clone());
    let run = env.run(|| {
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        db.put(b"key", b"value").unwrap();
        disk.inject(Fault::new(FaultKind::FlipBit).on(Op::Read).file(".sst").forever());
        let refused = db.flush().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed, "{refused:?}");
        assert!(refused.to_string().contains("could not be written to a table"), "{refused}");
        assert_eq!(db.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
        disk.clear_faults();
        drop(db);
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        assert_eq!(db.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
        db.flush().unwrap();
    });
    assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
}
