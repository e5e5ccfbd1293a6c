//! Crash tests: the power goes, or the process dies, before every call to the disk.
//!
//! A workload runs once on a simulated disk that remembers what it held before each call. From each
//! of those moments the machine comes up again: with everything not yet durable lost, all of it
//! kept, one change lost or kept alone, any seeded mixture with torn sectors, or only the process
//! gone. Whatever comes up must open, hold a prefix of the writes in their order that covers all
//! that was promised, and work on. For a sample the power goes again at every step of the recovery.
//!
//! `CAIRN_SEED=n` replays from a seed, `CAIRN_CRASH_SEEDS=n` takes so many seeds, `CAIRN_STEPS=n`
//! makes the workload longer. With `CAIRN_PROOF_SECONDS` there are twenty seeds, or as many as fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cairn::{Db, Durability, Env, Options};
use cairn_env::{CrashPolicy, SimDisk};
use common::history::{self, Content, History, Recorder, SPACES, apply};
use common::workload::{self, DIR};
use common::{Random, Scene, base_seed, moments, number, shrinks, tiny};

/// What an image holds, and what it must hold.
struct Crash<'a> {
    history: &'a History,
    /// The call that never came.
    k: u64,
    /// Only the process died: what the system was handed is there.
    powered: bool,
    seed: u64,
}

/// Counts for the report.
#[derive(Default)]
struct Report {
    calls: u64,
    moments: u64,
    images: u64,
    second_images: u64,
    prefixes: BTreeSet<(u64, u64)>,
    digests: BTreeSet<u64>,
}

impl Report {
    fn count(&mut self, crash: &Crash<'_>, digest: u64, seq: u64) {
        self.prefixes.insert((crash.seed, seq));
        self.digests.insert(digest);
    }
}

impl Crash<'_> {
    /// Brings the database up from an image and checks all that must hold of it. Returns its last number.
    fn recover(&self, image: &SimDisk, options: &Options, works_on: bool) -> u64 {
        if !works_on {
            // Opening takes one thread: no schedule, no difference, and a fraction of the time.
            let env = Env::on_disk(image.clone());
            return self.open(&env, image, options).1;
        }
        let env = Env::simulated(self.seed ^ self.k, image.clone());
        let run = env.run(|| {
            let (db, seq, content, _) = self.open(&env, image, options);
            let content = work_on(&db, content, self.k);
            db.close().unwrap();
            let db = Db::open_in(&env, DIR, options.clone()).unwrap();
            self.history.check_content(&db, &content);
            db.close().unwrap();
            seq
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
        run.value
    }

    /// Opens, and checks that exactly a prefix is there that covers what was promised. Returns the
    /// database, its last number and content, and the calls that opening it took.
    fn open(&self, env: &Env, image: &SimDisk, options: &Options) -> (Db, u64, Content, u64) {
        let db = Db::open_in(env, DIR, options.clone()).unwrap();
        let open_steps = image.steps();
        let seq = db.stats().get("applied_seq").unwrap();
        let promised = self.history.promised(self.k, self.powered);
        assert!(seq >= promised, "everything up to {promised} was promised, and the database ends at {seq}");
        assert_eq!(db.stats().get("durable_seq"), Some(seq));
        let (shown, possible) = (history::shown(&db), self.history.possible(seq, self.k));
        assert!(!possible.is_empty(), "the database ends at {seq}, within a batch");
        assert!(possible.contains(&shown), "at {seq} it shows {shown:?}, and that is none of {possible:?}");
        self.history.check_content(&db, &shown.content);
        (db, seq, shown.content, open_steps)
    }

    /// Lets the power go again before every call of the recovery, and brings it up once more.
    fn crash_again(&self, image: &SimDisk, options: &Options, report: &mut Report) {
        image.start_history();
        image.start_trace();
        let env = Env::simulated(self.seed ^ self.k, image.clone());
        let (seq, open_steps) = env
            .run(|| {
                let (db, seq, _, open_steps) = self.open(&env, image, options);
                db.flush().unwrap();
                db.close().unwrap();
                (seq, open_steps)
            })
            .value;
        for j in moments(image) {
            let policy = policy(j, self.seed);
            let _scene = Scene::set(format!("second crash before call {j} of the recovery, {policy:?}"));
            let second = image.before_step(j).unwrap().crash(policy);
            // What was only buffered has survived the process, and need not survive the machine.
            let digest = second.digest();
            let found = Crash { powered: false, ..*self }.recover(&second, options, false);
            // What an open database has shown as durable stays.
            assert!(j <= open_steps || found == seq, "it was open with {seq}, and now ends at {found}");
            report.second_images += 1;
            report.count(self, digest, found);
        }
    }
}

/// Some policy for the n-th image.
fn policy(n: u64, seed: u64) -> CrashPolicy {
    let seed = Random::new(n ^ seed << 32).next();
    match n % 4 {
        0 => CrashPolicy::DropAll,
        1 => CrashPolicy::KeepAll,
        2 => CrashPolicy::Random(seed),
        _ => CrashPolicy::Garbage(seed),
    }
}

/// A recovered database takes everything a new one takes. Returns what it holds then.
fn work_on(db: &Db, mut content: Content, k: u64) -> Content {
    let spaces = SPACES.map(|name| db.keyspace(name).unwrap());
    let mut random = Random::new(k);
    for round in 0..3 {
        let mut batch = db.batch();
        let mut ops = Vec::new();
        for (space, keyspace) in spaces.iter().enumerate() {
            let (key, value) = (random.key(), random.value());
            batch.put(keyspace, &key, &value);
            ops.push((space, key, Some(value)));
        }
        if let Some(key) = content[0].keys().next().cloned() {
            batch.delete(&spaces[0], &key);
            ops.push((0, key, None));
        }
        db.write(batch, Durability::Commit).unwrap();
        apply(&mut content, &ops);
        match round {
            0 => db.flush().unwrap(),
            1 => db.compact().unwrap(),
            _ => {}
        }
    }
    content
}

#[test]
fn a_crash_at_any_call_loses_nothing_that_was_promised() {
    let (base, clock) = (base_seed(), Env::real());
    let seconds = number("CAIRN_PROOF_SECONDS", 0);
    let count = number("CAIRN_CRASH_SEEDS", if seconds > 0 { 20 } else { 2 });
    let options = tiny();
    let mut report = Report::default();
    let mut done = 0;
    while done < count && (seconds == 0 || clock.now().as_secs() < seconds) {
        crash_everywhere_or_shrink(base + done, &options, &mut report);
        done += 1;
    }
    println!("proof: long workloads = {done} of {count}");
    println!("proof: long i/o calls = {}", report.calls);
    println!("proof: long moments = {}", report.moments);
    println!("proof: long crash images = {}", report.images + report.second_images);
    println!("proof: long second crashes = {}", report.second_images);
    println!("proof: long distinct prefixes = {}", report.prefixes.len());
    println!("proof: long distinct images = {}", report.digests.len());
}

/// On a failure, also looks for the shortest workload of this seed that fails.
fn crash_everywhere_or_shrink(seed: u64, options: &Options, report: &mut Report) {
    let steps = number("CAIRN_STEPS", 20);
    let fails = |steps, report: &mut Report| {
        catch_unwind(AssertUnwindSafe(|| crash_everywhere(seed, steps, options, report))).err()
    };
    if let Some(panic) = fails(steps, report) {
        if !shrinks() {
            resume_unwind(panic);
        }
        let shortest = (1..steps).find(|fewer| fails(*fewer, &mut Report::default()).is_some()).unwrap_or(steps);
        eprintln!("the shortest that fails: CAIRN_SEED={seed} CAIRN_CRASH_SEEDS=1 CAIRN_STEPS={shortest}");
        resume_unwind(panic);
    }
}

fn crash_everywhere(seed: u64, steps: u64, options: &Options, report: &mut Report) {
    let disk = SimDisk::with_seed(seed);
    disk.start_history();
    disk.start_trace();
    let env = Env::simulated(seed, disk.clone());
    let recorder = Recorder::new(&disk);
    let run = env.run(|| workload::run(&env, options, &recorder, seed, steps));
    run.value.unwrap();
    let history = recorder.finish();
    println!(
        "CAIRN_SEED={seed}: {} writes, {} calls, trace {:016x}",
        history.writes().len(),
        disk.steps(),
        run.trace_hash
    );
    report.calls += disk.steps();
    for k in moments(&disk) {
        report.moments += 1;
        let killed = disk.before_step(k).unwrap();
        let pending = killed.pending_count() as u64;
        let mut random = Random::new(seed << 32 | k);
        let mut policies = Vec::new();
        if pending > 0 {
            let some = |random: &mut Random| random.below(pending) as usize;
            policies = vec![
                CrashPolicy::DropAll,
                CrashPolicy::KeepAll,
                CrashPolicy::DropOne(some(&mut random)),
                CrashPolicy::KeepOne(some(&mut random)),
                CrashPolicy::Random(random.next()),
                CrashPolicy::Random(random.next()),
                CrashPolicy::Garbage(random.next()),
            ];
        }
        let images = policies.into_iter().map(|policy| (Some(policy), killed.crash(policy)));
        let images: Vec<_> = images.chain([(None, killed.clone())]).collect();
        for (policy, image) in images {
            let _scene = Scene::set(format!("CAIRN_SEED={seed}, crash before call {k}, {policy:?}"));
            let crash = Crash { history: &history, k, powered: policy.is_none(), seed };
            report.images += 1;
            let works_on = random.chance(4);
            if random.chance(300) {
                crash.crash_again(&image, options, report);
            } else {
                let digest = image.digest();
                let found = crash.recover(&image, options, works_on);
                report.count(&crash, digest, found);
            }
        }
    }
}

/// A flush gives up segments of the log; until its edit is durable the manifest still names them. The crashes above meet
/// that only where their short logs have come to a second segment.
#[test]
fn a_crash_within_a_flush_finds_the_log_that_the_manifest_names() {
    let options = Options { memtable_bytes_max: 1 << 20, log_bytes_max: 128 << 10, ..tiny() };
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    let db = Db::open_in(&env, DIR, options.clone()).unwrap();
    let keys: Vec<[u8; 4]> = (0..60u32).map(u32::to_be_bytes).collect();
    for key in &keys {
        db.put(key, &[7; 1000]).unwrap();
    }
    let segments = env.list(DIR.as_ref()).unwrap().iter().filter(|entry| entry.name.starts_with("log-")).count();
    assert!(segments > 2, "{segments} segments of log are too few to tell");
    disk.start_history();
    disk.start_trace();
    db.flush().unwrap();
    db.close().unwrap();
    let mut images = 0;
    for k in moments(&disk) {
        for policy in [CrashPolicy::DropAll, CrashPolicy::KeepAll] {
            let _scene = Scene::set(format!("crash before call {k}, {policy:?}"));
            let image = disk.before_step(k).unwrap().crash(policy);
            let db = Db::open_in(&Env::on_disk(image), DIR, options.clone()).unwrap();
            assert!(keys.iter().all(|key| db.get(key).unwrap().is_some_and(|value| value == [7; 1000])));
            db.close().unwrap();
            images += 1;
        }
    }
    assert!(images > 20, "{images}");
}
