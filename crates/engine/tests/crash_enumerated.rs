//! Crash tests by enumeration: all workloads of up to four operations, the power cut before every
//! call to the disk, and every single change that was not yet durable lost or kept alone.
//!
//! What happens before the last operation of a workload happens in a shorter workload too, so each is cut
//! in its last operation only. From each such moment the machine comes up with nothing that was not
//! durable, all of it, all but one change, one alone, seeded mixtures with torn sectors, and with only
//! the process gone. Each image must open and hold a prefix that covers what was promised. During a
//! sample of the recoveries the power goes again, before each of their calls. Equal images are
//! recovered once: what an open finds depends on nothing else. What a second cut finds depends on what
//! was not durable when the recovery began, too.
//!
//! The seed decides who syncs the log, and how memtables fill and compaction comes. The workloads
//! come in its order, for `CAIRN_PROOF_SECONDS` (without it, a few); whoever has time left begins
//! another round with another seed. `CAIRN_SEED=n` begins with that seed. A failure is shrunk to the
//! fewest operations and printed with the variables that replay it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cairn::{Db, Env, Options};
use cairn_env::{CrashPolicy, Fault, FaultKind, Op, SimDisk};
use common::history::{self, History, Recorder, Shown};
use common::short::{self, Act, Workload};
use common::workload::DIR;
use common::{Random, base_seed, moments, number};

/// The longest workloads.
const ACTS_MAX: usize = 4;
/// So many workloads are taken however little time there is.
const WORKLOADS_MIN: u64 = 20;
/// During the recovery of one image in so many the power goes again.
const AGAIN_ONE_IN: u64 = 20;

/// A moment, and what the machine finds after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// The call that never came.
    call: u64,
    /// `None` if only the process died.
    image: Option<CrashPolicy>,
}

/// What broke a promise.
#[derive(Debug)]
struct Failure {
    workload: Workload,
    cut: Cut,
    /// The power went again before this call of the recovery.
    again: Option<Cut>,
    why: String,
    /// The last calls before the cut, and what was not durable.
    trace: Vec<String>,
}

/// What came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    seq: u64,
    shown: u64,
}

/// An image that was opened with a memory of each moment.
struct Recovered {
    disk: SimDisk,
    outcome: Outcome,
    /// The calls that the open took.
    open_steps: u64,
}

#[derive(Default)]
struct Report {
    calls: u64,
    images: u64,
    second_images: u64,
    recoveries: u64,
}

struct Enumeration {
    seed: u64,
    options: Options,
    /// The syncs of the open log do nothing: what is found then shows that something would be found.
    lying: bool,
    again_one_in: u64,
    outcomes: BTreeMap<u64, Outcome>,
    /// Images whose recovery was cut short already, by their [`state`].
    cut_again: BTreeSet<(u64, u64)>,
    report: Report,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = |image: Option<CrashPolicy>| image.map_or("Killed".to_owned(), |policy| format!("{policy:?}"));
        writeln!(f, "{}", self.why)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "CAIRN_WORKLOAD='{}' ", self.workload)?;
        write!(f, "CAIRN_CALL={} CAIRN_IMAGE='{}'", self.cut.call, image(self.cut.image))?;
        if let Some(again) = self.again {
            write!(f, " CAIRN_CALL_AGAIN={} CAIRN_IMAGE_AGAIN='{}'", again.call, image(again.image))?;
        }
        Ok(())
    }
}

fn parse_image(text: &str) -> Option<CrashPolicy> {
    let (name, argument) = text.trim_end_matches(')').split_once('(').unwrap_or((text, "0"));
    let number: u64 = argument.parse().unwrap();
    Some(match name {
        "Killed" => return None,
        "DropAll" => CrashPolicy::DropAll,
        "KeepAll" => CrashPolicy::KeepAll,
        "DropOne" => CrashPolicy::DropOne(number as usize),
        "KeepOne" => CrashPolicy::KeepOne(number as usize),
        "Random" => CrashPolicy::Random(number),
        "Garbage" => CrashPolicy::Garbage(number),
        _ => panic!("no image is called {text}"),
    })
}

fn digest(shown: &Shown) -> u64 {
    let mut hasher = DefaultHasher::new();
    shown.hash(&mut hasher);
    hasher.finish()
}

/// What a disk shows, and what it would show had the power gone now: they differ where only a process died.
fn state(disk: &SimDisk) -> (u64, u64) {
    (disk.digest(), disk.crash(CrashPolicy::DropAll).digest())
}

fn take(killed: &SimDisk, image: Option<CrashPolicy>) -> SimDisk {
    image.map_or_else(|| killed.clone(), |policy| killed.crash(policy))
}

/// All images worth looking at of a moment.
fn images(killed: &SimDisk, random: &mut Random) -> Vec<Option<CrashPolicy>> {
    let pending = killed.pending_count();
    let mut images = vec![None];
    if pending > 0 {
        images.extend([Some(CrashPolicy::DropAll), Some(CrashPolicy::KeepAll)]);
        let seeds = [random.next(), random.next()];
        images.extend(seeds.map(|seed| Some(CrashPolicy::Random(seed))));
        images.push(Some(CrashPolicy::Garbage(random.next())));
    }
    // Of one change, none and all is everything.
    if pending > 1 {
        images.extend((0..pending).flat_map(|i| [Some(CrashPolicy::DropOne(i)), Some(CrashPolicy::KeepOne(i))]));
    }
    images
}

/// A test's part of the disk's life: what was written, and what of it may be looked for.
struct Story<'a> {
    workload: &'a Workload,
    disk: &'a SimDisk,
    history: &'a History,
}

impl Enumeration {
    fn new(seed: u64) -> Enumeration {
        let (outcomes, cut_again) = (BTreeMap::new(), BTreeSet::new());
        Enumeration {
            seed,
            options: short::options(seed),
            lying: false,
            again_one_in: AGAIN_ONE_IN,
            outcomes,
            cut_again,
            report: Report::default(),
        }
    }

    /// Cuts a workload everywhere from operation `from` on, or from its very beginning.
    fn explore(&mut self, workload: &Workload, from: Option<usize>) -> Result<(), Failure> {
        self.told(workload, from, |this, story, end| {
            let calls = moments(story.disk).into_iter().filter(|call| *call <= end);
            for call in calls.chain([end + 1]) {
                let killed = story.disk.before_step(call).unwrap();
                let mut random = Random::new(this.seed << 32 ^ call);
                for image in images(&killed, &mut random) {
                    let cut = Cut { call, image };
                    let disk = take(&killed, image);
                    this.report.images += 1;
                    this.check(story, cut, None, &disk)?;
                    if random.chance(this.again_one_in) {
                        let disk = take(&killed, image);
                        if this.cut_again.insert(state(&disk)) {
                            this.explore_again(story, cut, &disk)?;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Cuts a workload, and its recovery, where a failure says.
    fn replay(&mut self, workload: &Workload, cut: Cut, again: Option<Cut>) -> Result<(), Failure> {
        self.told(workload, None, |this, story, _| {
            let killed = story.disk.before_step(cut.call).expect("the workload makes that call");
            let disk = take(&killed, cut.image);
            match again {
                None => this.check(story, cut, None, &disk).map(drop),
                Some(again) => {
                    let recovered = this.recover_remembering(story, cut, &disk)?;
                    this.check_again(story, cut, again, &recovered)
                }
            }
        })
    }

    /// Runs a workload and hands over what is known of it, and the number of its calls.
    fn told<R>(
        &mut self,
        workload: &Workload,
        from: Option<usize>,
        body: impl FnOnce(&mut Enumeration, &Story<'_>, u64) -> R,
    ) -> R {
        let disk = SimDisk::with_seed(self.seed);
        if self.lying {
            // The first makes the log itself durable.
            disk.inject(Fault::new(FaultKind::SyncLies).on(Op::Sync).file(".wal").nth(2).forever());
        }
        let env = Env::simulated(self.seed, disk.clone());
        let recorder = Recorder::new(&disk);
        let run = env.run(|| short::run(&env, &self.options, &disk, &recorder, workload, from));
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
        self.report.calls += disk.steps();
        let history = recorder.finish();
        body(self, &Story { workload, disk: &disk, history: &history }, run.value)
    }

    /// Lets the power go again before every call of the recovery.
    fn explore_again(&mut self, story: &Story<'_>, cut: Cut, disk: &SimDisk) -> Result<(), Failure> {
        let recovered = self.recover_remembering(story, cut, disk)?;
        let calls = moments(disk).into_iter().filter(|call| *call <= recovered.open_steps);
        for call in calls.chain([recovered.open_steps + 1]) {
            let random = CrashPolicy::Random(Random::new(self.seed << 32 ^ call).next());
            for image in [CrashPolicy::DropAll, CrashPolicy::KeepAll, random] {
                self.report.second_images += 1;
                self.check_again(story, cut, Cut { call, image: Some(image) }, &recovered)?;
            }
        }
        Ok(())
    }

    /// Brings an image up and remembers each moment of that.
    fn recover_remembering(&mut self, story: &Story<'_>, cut: Cut, disk: &SimDisk) -> Result<Recovered, Failure> {
        disk.start_history();
        disk.start_trace();
        let recovered = catch_unwind(AssertUnwindSafe(|| recover(story.history, &self.options, disk)));
        self.report.calls += disk.steps();
        let (outcome, open_steps) = recovered.map_err(|panic| failure(story, cut, None, &*panic))?;
        Ok(Recovered { disk: disk.clone(), outcome, open_steps })
    }

    fn check_again(&mut self, story: &Story<'_>, cut: Cut, again: Cut, recovered: &Recovered) -> Result<(), Failure> {
        let killed = recovered.disk.before_step(again.call).expect("the recovery makes that call");
        let found = self.check(story, cut, Some(again), &take(&killed, again.image))?;
        // What an open database has shown as durable stays.
        if again.call > recovered.open_steps && found != recovered.outcome {
            let why = format!("it was open with {:?}, and another crash made that {found:?}", recovered.outcome);
            return Err(failure(story, cut, Some(again), &why));
        }
        Ok(())
    }

    /// Checks what an image comes up with against the promises.
    fn check(&mut self, story: &Story<'_>, cut: Cut, again: Option<Cut>, disk: &SimDisk) -> Result<Outcome, Failure> {
        let key = disk.digest();
        let checked = catch_unwind(AssertUnwindSafe(|| {
            let outcome = match self.outcomes.get(&key) {
                Some(outcome) => *outcome,
                None => {
                    let (outcome, _) = recover(story.history, &self.options, disk);
                    self.report.recoveries += 1;
                    self.report.calls += disk.steps();
                    self.outcomes.insert(key, outcome);
                    outcome
                }
            };
            let powered = cut.image.is_none() && again.is_none();
            let promised = story.history.promised(cut.call, powered);
            assert!(outcome.seq >= promised, "up to {promised} was promised, and it ends at {}", outcome.seq);
            let possible = story.history.possible(outcome.seq, cut.call);
            assert!(!possible.is_empty(), "it ends at {}, within a batch", outcome.seq);
            let fits = possible.iter().any(|shown| digest(shown) == outcome.shown);
            assert!(fits, "what is there at {} is none of {possible:?}", outcome.seq);
            outcome
        }));
        checked.map_err(|panic| failure(story, cut, again, &*panic))
    }
}

/// Opens an image, and checks that every way of reading shows the same. Returns what it is, and how
/// many calls the open took: they come from one thread, so they are the same each time.
fn recover(history: &History, options: &Options, disk: &SimDisk) -> (Outcome, u64) {
    let db = Db::open_in(&Env::on_disk(disk.clone()), DIR, options.clone()).unwrap();
    let open_steps = disk.steps();
    let seq = db.snapshot().seq().0;
    let shown = history::shown(&db);
    history.check_content(&db, &shown.content);
    (Outcome { seq, shown: digest(&shown) }, open_steps)
}

fn failure(story: &Story<'_>, cut: Cut, again: Option<Cut>, why: &(dyn std::any::Any + 'static)) -> Failure {
    let text = why.downcast_ref::<String>().cloned();
    let why = text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    let calls = story.disk.trace().into_iter().filter(|step| step.number < cut.call).map(|step| step.to_string());
    let mut trace: Vec<_> = calls.collect();
    trace.drain(..trace.len().saturating_sub(20));
    let killed = story.disk.before_step(cut.call);
    trace.extend(killed.iter().flat_map(SimDisk::pending).map(|change| format!("not durable: {change}")));
    Failure { workload: story.workload.clone(), cut, again, why, trace }
}

/// Leaves out operations for as long as something fails.
fn shrink(seed: u64, lying: bool, first: Failure) -> Failure {
    let mut least = first;
    'again: loop {
        for index in 0..least.workload.0.len() {
            let mut enumeration = Enumeration { lying, again_one_in: 1, ..Enumeration::new(seed) };
            if let Err(smaller) = enumeration.explore(&least.workload.without(index), None) {
                least = smaller;
                continue 'again;
            }
        }
        return least;
    }
}

/// All workloads, in the order of the seed.
fn shuffled(seed: u64) -> Vec<Workload> {
    let mut all = Workload::all(ACTS_MAX);
    let mut random = Random::new(seed);
    for i in (1..all.len()).rev() {
        all.swap(i, random.below(i as u64 + 1) as usize);
    }
    all
}

#[test]
fn a_crash_anywhere_in_any_short_workload_loses_nothing_that_was_promised() {
    let clock = Env::real();
    let seconds = number("CAIRN_PROOF_SECONDS", 12);
    let over = || clock.now().as_secs() >= seconds;
    let mut report = Report::default();
    let (mut distinct, mut rounds) = (0, Vec::new());
    let mut seed = base_seed();
    if let Ok(workload) = std::env::var("CAIRN_WORKLOAD") {
        return replay_from_environment(seed, &Workload::parse(&workload));
    }
    while rounds.is_empty() || !over() {
        println!("CAIRN_SEED={seed}");
        let mut enumeration = Enumeration::new(seed);
        let all = shuffled(seed);
        let mut done = 0;
        for workload in &all {
            if over() && done >= WORKLOADS_MIN {
                break;
            }
            if let Err(failure) = enumeration.explore(workload, workload.0.len().checked_sub(1)) {
                eprintln!("{failure}\nshrinking...");
                let least = shrink(seed, false, failure);
                panic!("{least}\nCAIRN_SEED={seed}");
            }
            done += 1;
        }
        let Report { calls, images, second_images, recoveries } = enumeration.report;
        report.calls += calls;
        report.images += images;
        report.second_images += second_images;
        report.recoveries += recoveries;
        distinct += enumeration.outcomes.len();
        rounds.push(format!("{done} of {}", all.len()));
        seed += 1;
    }
    assert!(report.images > 500, "{} images in {seconds} s", report.images);
    let took = clock.now().as_secs_f64();
    let all = report.images + report.second_images;
    println!("proof: enumerated workloads = {}", rounds.join(", then "));
    println!("proof: enumerated i/o calls = {}", report.calls);
    println!("proof: enumerated crash images = {all}");
    println!("proof: enumerated second crashes = {}", report.second_images);
    println!("proof: enumerated distinct images = {distinct}");
    println!("proof: enumerated images per second = {:.0}", all as f64 / took);
}

fn replay_from_environment(seed: u64, workload: &Workload) {
    let cut = |call: &str, image: &str| {
        let (call, image) = (std::env::var(call).ok()?, std::env::var(image).ok()?);
        Some(Cut { call: call.parse().unwrap(), image: parse_image(&image) })
    };
    let mut enumeration = Enumeration { again_one_in: 1, ..Enumeration::new(seed) };
    let done = match cut("CAIRN_CALL", "CAIRN_IMAGE") {
        Some(first) => enumeration.replay(workload, first, cut("CAIRN_CALL_AGAIN", "CAIRN_IMAGE_AGAIN")),
        None => enumeration.explore(workload, None),
    };
    if let Err(failure) = done {
        panic!("{failure}\nCAIRN_SEED={seed}");
    }
}

/// What the enumeration is worth: with a disk whose syncs of the log do nothing it finds the loss,
/// leaves out what does not matter, and finds it again where it says.
#[test]
fn a_lost_write_is_found_shrunk_and_replayed() {
    let seed = base_seed();
    println!("CAIRN_SEED={seed}");
    let workload = Workload(vec![Act::Sync, Act::Flush, Act::Put, Act::Sync]);
    let lying = || Enumeration { lying: true, ..Enumeration::new(seed) };
    let found = lying().explore(&workload, None).unwrap_err();
    let least = shrink(seed, true, found);
    assert_eq!(least.workload, Workload(vec![Act::Put]), "{least}");
    let text = least.to_string();
    assert!(text.contains("CAIRN_WORKLOAD='Put' CAIRN_CALL="), "{text}");
    let (_, image) = text.split_once("CAIRN_IMAGE='").unwrap();
    assert_eq!(parse_image(image.split_once('\'').unwrap().0), least.cut.image);
    let again = lying().replay(&least.workload, least.cut, least.again).unwrap_err();
    assert_eq!(again.to_string(), text);
    Enumeration::new(seed).replay(&least.workload, least.cut, least.again).unwrap();
}

/// The two show the same, but from one of them a second cut takes what the process had not synced. They were
/// once counted as one image, so that of most moments only the first to come had its recovery cut.
#[test]
fn a_killed_process_leaves_another_image_than_a_cut_that_keeps_all() {
    let seed = base_seed();
    println!("CAIRN_SEED={seed}");
    let mut enumeration = Enumeration { again_one_in: 1, ..Enumeration::new(seed) };
    enumeration.explore(&Workload(vec![Act::Put]), None).unwrap();
    let seen: BTreeSet<u64> = enumeration.cut_again.iter().map(|(shown, _)| *shown).collect();
    assert!(enumeration.cut_again.len() > seen.len(), "{} recoveries were cut", seen.len());
}
