//! Concurrent histories: what several clients asked and were answered, judged after the fact.
//!
//! Clients on a few hot keys run under a seeded schedule, which replays, and under threads of the
//! system, on a disk that loses power under them. Four checkers (in `common/concurrent`) must explain
//! all that was seen; they are themselves fed histories that cannot have happened, and must refuse
//! each by its name.
//!
//! `CAIRN_SEED=n` replays from a seed; `CAIRN_PROOF_SECONDS=n` goes on for so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use cairn::Env;
use common::concurrent::clients::{Made, Plan, make};
use common::concurrent::{Action, Anomaly, CHECKERS, End, History, Outcome, check, text};
use common::{Scene, base_seed, number};

/// A checker by name, what it must say, and a history.
type Known = (&'static str, Anomaly, &'static str);

const KNOWN_BAD: &[Known] = &[
    ("linear", Anomaly::NeverWritten, "1-2 put #1 a=1\n 3-4 get a=2"),
    ("linear", Anomaly::NeverWritten, "1-2 put #1 a=1\n 3-4 get durable a=2"),
    ("linear", Anomaly::StaleRead, "1-2 put #1 a=1\n 3-4 put #2 a=2\n 5-6 get a=1"),
    ("linear", Anomaly::StaleRead, "1-2 put #1 a=1\n 3-4 put #2 a=2\n 5-6 get durable a=1"),
    ("linear", Anomaly::StaleRead, "1-2 put buffered #1 a=1\n 3-4 sync\n 5-6 put #2 a=2\n 7-8 get durable a=1"),
    ("linear", Anomaly::ResurrectedDelete, "1-2 put #1 a=1\n 3-4 put #2 a=-\n 5-6 get a=1"),
    ("linear", Anomaly::ResurrectedDelete, "1-2 put #1 a=1\n 3-4 put #2 a=-\n 5 cut\n 6-7 found #2 a=1"),
    ("linear", Anomaly::TimeTravel, "1-2 get a=1\n 3-4 put #1 a=1"),
    ("linear", Anomaly::LostWrite, "1-2 put #1 a=1\n 3-4 get a=-"),
    ("linear", Anomaly::LostWrite, "1-2 put #1 a=1\n 3 cut\n 4-5 found #0 a=-"),
    // Seen as durable, though never acknowledged: it is there for ever.
    ("linear", Anomaly::NotLinearizable, "1-2 put? a=1\n 3-4 get durable a=1\n 5 cut\n 6-7 found #0 a=-"),
    // The process died; the machine went on.
    ("linear", Anomaly::LostWrite, "1-2 put buffered #1 a=1\n 3 kill\n 4-5 found #0 a=-"),
    // One recovery has shown that it is not there, the next that it is.
    ("linear", Anomaly::NotLinearizable, "1-2 put? a=1\n 3 cut\n 4-5 found #0 a=-\n 6 cut\n 7-8 found #1 a=1"),
    // Two writes overlap, and the reads see them in both orders.
    ("linear", Anomaly::NotLinearizable, "1-9 put #1 a=1\n 1-9 put #2 a=2\n 2-3 get a=1\n 4-5 get a=2\n 6-7 get a=1"),
    ("conditions", Anomaly::LostUpdate, "1-2 put #1 a=1\n 3-6 put #2 a=2 if a<1\n 4-7 put #3 a=3 if a<1"),
    (
        "conditions",
        Anomaly::LostUpdate,
        "1-4 put #1 a=1:1\n 2-5 put #2 a=2:1\n 6 close\n 7-8 found #2 a=2:1\n counter a",
    ),
    ("conditions", Anomaly::NeverWritten, "1-2 put #1 a=1:1\n 3 close\n 4-5 found #1 a=1:2\n counter a"),
    // Each decided on what the other wrote.
    ("conditions", Anomaly::WriteSkew, "1-2 put #2 a=1 b=1\n 3-6 put #3 a=- if b<2\n 4-7 put #4 b=- if a<2"),
    ("moments", Anomaly::TornBatch, "1-2 put #2 a=1 b=1\n 3-4 put #4 a=2 b=2\n 5-6 get a=2 b=1"),
    ("moments", Anomaly::TornBatch, "1-2 put #2 a=1 b=1\n 3-4 get a=- b=1"),
    ("moments", Anomaly::TornBatch, "1-2 put? a=1 b=1\n 3 cut\n 4-5 found #1 a=1 b=-"),
    ("moments", Anomaly::ChangedSnapshot, "1-2 put #1 a=1\n 3-4 get s1 a=1\n 5-6 put #2 a=2\n 3-4 get s1 a=2"),
    ("replay", Anomaly::SharedNumber, "1-2 put #1 a=1\n 3-4 put #1 b=2"),
    ("replay", Anomaly::TimeTravel, "1-2 put #2 a=1\n 3-4 put #1 a=2"),
    ("replay", Anomaly::TimeTravel, "1-2 put #1 a=1\n 1-3 put #2 a=2\n 4-5 get #2 a=2\n 6-7 get #1 a=1"),
    ("replay", Anomaly::TimeTravel, "1-9 put #1 a=1\n 1-9 put #2 a=2\n 3-4 get #1 a=2"),
    ("replay", Anomaly::TornBatch, "1-9 put #2 a=1 b=1\n 3-4 get #1 a=1"),
    ("replay", Anomaly::StaleRead, "1-2 put #1 a=1\n 3-4 get #0 a=-"),
    ("replay", Anomaly::StaleRead, "1-2 put #1 a=1\n 3-4 put #2 a=2\n 5-6 get #2 a=1"),
    ("replay", Anomaly::ResurrectedDelete, "1-2 put #1 a=1\n 3-4 put #2 a=-\n 5-6 get #2 a=1"),
    ("replay", Anomaly::NeverWritten, "1-2 put #1 a=1\n 5-6 get #1 a=2"),
    ("replay", Anomaly::LostWrite, "1-2 put #1 a=1\n 3 cut\n 4-5 found #0 a=-"),
    ("replay", Anomaly::LostWrite, "1-2 put buffered #1 a=1\n 3-4 get durable #1 a=1\n 5 cut\n 6-7 found #0 a=-"),
    // A hole: what came later is there.
    ("replay", Anomaly::LostWrite, "1-2 put buffered #1 a=1\n 3-4 put buffered #2 b=2\n 5 cut\n 6-7 found #2 a=- b=2"),
];

const KNOWN_GOOD: &[&str] = &[
    "1-2 put #1 a=1\n 3-4 get a=1\n 5-6 put #2 a=-\n 7-8 get #2 a=-",
    // A write takes its place between call and return, wherever the reads want it.
    "1-9 put #1 a=1\n 2-3 get a=-\n 4-5 get a=1\n 6-7 get durable a=-",
    "1-9 put #1 a=1\n 1-9 put #2 a=2\n 2-3 get a=1\n 4-5 get a=2\n 6-7 get durable a=1",
    // In flight at the cut: there or not, and then for ever.
    "1-2 put? a=1\n 3 cut\n 4-5 found #1 a=1\n 6 cut\n 7-8 found #1 a=1",
    "1-2 put? a=1\n 3 cut\n 4-5 found #0 a=-\n 6 cut\n 7-8 found #0 a=-",
    // Acknowledged before it was durable, seen as applied, lost with the power; its number is given again.
    "1-2 put buffered #1 a=1\n 3-4 get a=1\n 5-6 get durable a=-\n 7 cut\n 8-9 found #0 a=-\n 10-11 put #1 a=2",
    "1-2 put buffered #1 a=1\n 3 kill\n 4-5 found #1 a=1",
    "1-2 put #1 a=1:1\n 3-6 put #2 a=2:2 if a<1\n 4-7 put? a=3:2\n 8 cut\n 9-10 found #2 a=2:2\n counter a",
    "1-2 put #2 a=1 b=1\n 3-6 put #3 a=- if b<2\n 7-8 put #4 b=- if a<3",
    "1-2 put #2 a=1 b=1\n 3-4 put #3 b=2\n 5-6 get a=1 b=2\n 5-6 get s1 #3 a=1 b=2\n 5-6 get s1 #3 a=1 b=2",
    // A batch of unknown outcome in the only place that its numbers leave.
    "1-2 put #1 a=1\n 3-9 put? a=2 b=2\n 4-8 put #4 c=3\n 10-11 get #4 a=2 b=2 c=3",
];

#[test]
fn each_checker_refuses_known_bad_histories_by_name() {
    for (name, anomaly, lines) in KNOWN_BAD {
        let checker = CHECKERS.iter().find(|(known, _)| known == name).unwrap().1;
        let verdict = checker(&text::parse(lines)).map_err(|finding| finding.anomaly);
        assert_eq!(verdict, Err(*anomaly), "{name}:\n{lines}");
    }
    let names: BTreeMap<Anomaly, usize> = KNOWN_BAD.iter().fold(BTreeMap::new(), |mut names, (_, anomaly, _)| {
        *names.entry(*anomaly).or_default() += 1;
        names
    });
    println!("proof: known-bad histories rejected = {0} of {0}, by {1} names", KNOWN_BAD.len(), names.len());
}

#[test]
fn every_checker_accepts_known_good_histories() {
    for lines in KNOWN_GOOD {
        check(&text::parse(lines)).unwrap_or_else(|finding| panic!("{finding:?} in\n{lines}"));
    }
    println!("proof: known-good histories accepted = {0} of {0}", KNOWN_GOOD.len());
}

/// What was checked so far.
#[derive(Debug, Default)]
struct Report {
    histories: u64,
    threaded: u64,
    crashes: u64,
    operations: u64,
    refused: u64,
    unknown: u64,
    looks: u64,
    ends: [u64; 3],
}

impl Report {
    fn count(&mut self, plan: &Plan, made: &Made) {
        self.histories += 1;
        self.threaded += u64::from(plan.real_threads);
        self.crashes += made.crashes;
        for era in &made.history.eras {
            self.operations += era.calls.len() as u64;
            self.ends[match era.end {
                End::Closed => 0,
                End::Killed => 1,
                End::PowerCut => 2,
            }] += 1;
            for call in &era.calls {
                match &call.action {
                    Action::Write(write) => {
                        self.refused += u64::from(write.outcome == Outcome::Refused);
                        self.unknown += u64::from(write.outcome == Outcome::Unknown);
                    }
                    Action::Read(read) => self.looks += u64::from(read.snapshot.is_some()),
                    Action::Sync => {}
                }
            }
        }
    }
}

fn judge(plan: &Plan, history: &History) {
    if let Err(finding) = check(history) {
        // What does not replay must be told whole.
        let whole = if plan.real_threads { format!("{history:?}") } else { String::new() };
        panic!("{:?}: {}\nof {plan:?}\n{whole}", finding.anomaly, finding.text);
    }
}

#[test]
fn concurrent_histories_are_explained() {
    let first = base_seed();
    let env = Env::real();
    let until = env.now() + Duration::from_secs(number("CAIRN_PROOF_SECONDS", 0));
    let mut report = Report::default();
    for round in 0.. {
        if round >= 400 && env.now() >= until {
            break;
        }
        // Every fourth under threads of the system.
        let seed = first + round;
        let plan = Plan::new(seed, seed % 4 == 3);
        let _scene = Scene::set(format!("CAIRN_SEED={}, round {round}, {plan:?}", plan.seed));
        let made = make(&plan);
        judge(&plan, &made.history);
        report.count(&plan, &made);
    }
    println!("CAIRN_SEED={first}: {report:?}");
    assert!(report.refused > 0 && report.unknown > 0 && report.looks > 0 && report.ends.iter().all(|&n| n > 0));
    println!("proof: histories checked = {}", report.histories);
    println!("proof: histories under threads of the system = {}", report.threaded);
    println!("proof: operations in histories = {}", report.operations);
    println!("proof: crashes in histories = {}", report.crashes);
    println!("proof: refused conditions in histories = {}", report.refused);
}

#[test]
fn a_seeded_history_replays() {
    for seed in base_seed()..base_seed() + 5 {
        let plan = Plan::new(seed, false);
        let [one, other] = [make(&plan), make(&plan)].map(|made| format!("{made:?}"));
        assert!(one == other, "CAIRN_SEED={seed}: two runs of one seed differ");
    }
}
