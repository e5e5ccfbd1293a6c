//! The state machine: lives of tasks as cases, random ones against the table, and what must hold at every turn.

use std::collections::{BTreeMap, BTreeSet};

use cairn_env::testing::Rng;

use super::*;
use crate::id::TaskId;
use crate::retry::Retry;
use crate::task::Cancellation;

const START_MS: Millis = 1_000_000;

pub(crate) fn spec() -> Spec {
    Spec {
        queue: "default".to_owned(),
        name: "job".to_owned(),
        input: Box::from(*b"{}"),
        headers: Box::from(*b"{}"),
        tags: Vec::new(),
        priority: 0,
        retry: Retry::Fixed { base_ms: 1_000, jitter: 0.0 },
        max_lost: 1,
        cancellation: Cancellation::default(),
        created_ms: START_MS,
        parent: None,
    }
}

fn run(n: u64) -> RunId {
    let [a, b, c, d, e, f, g, h] = n.to_be_bytes();
    RunId::new(START_MS, [0, 0, a, b, c, d, e, f, g, h])
}

fn fence(count: u64) -> Fence {
    Fence { instance: 7, count }
}

fn id(text: &str) -> StepId {
    StepId::new(text).unwrap()
}

fn json(text: &str) -> Json {
    text.as_bytes().into()
}

fn failure(retryable: bool) -> Failure {
    Failure { kind: "Oops".to_owned(), message: "it broke".to_owned(), detail: None, retryable }
}

/// A task as a store would keep it, with everything that was ever recorded.
#[derive(Clone)]
struct Kept {
    spec: Spec,
    task: Task,
    waits: Vec<Wait>,
    steps: BTreeMap<StepId, Step>,
    runs: Vec<EndedRun>,
    output: Option<Json>,
    now_ms: Millis,
    drawn: u64,
}

impl Kept {
    fn new(spec: Spec) -> Kept {
        let task = Task {
            status: Status::Queued { due_ms: spec.created_ms },
            run: Run { id: run(0), attempt: 1, started_ms: None },
            max_attempts: 2,
            lost: 0,
            runs_ended: 0,
            steps: 0,
            first_started_ms: None,
            handed_back: None,
            version: None,
        };
        Kept {
            now_ms: spec.created_ms,
            spec,
            task,
            waits: Vec::new(),
            steps: BTreeMap::new(),
            runs: Vec::new(),
            output: None,
            drawn: 0,
        }
    }

    fn record(&self) -> Record<'_> {
        Record { spec: &self.spec, task: &self.task, waits: &self.waits }
    }

    fn decide(&mut self, command: Command) -> Result<Decision, Refusal> {
        self.drawn += 1;
        let fresh = Fresh { run: run(self.drawn), random: self.drawn };
        decide(self.record(), command, self.now_ms, fresh)
    }

    /// Decides, and keeps what came of it.
    fn apply(&mut self, command: Command) -> Result<Decision, Refusal> {
        let decision = self.decide(command)?;
        self.task = decision.task.clone();
        self.waits = decision.waits.clone();
        self.steps.extend(decision.steps.iter().cloned());
        self.runs.extend(decision.ended_run.clone());
        self.output = decision.output.clone().or(self.output.take());
        Ok(decision)
    }

    fn step(&self, count: u64, step: &str, outcome: Outcome) -> Command {
        let id = id(step);
        let recorded = self.steps.get(&id).cloned();
        Command::Step { fence: fence(count), id, kind: StepKind::Step, outcome, recorded }
    }

    fn suspend(&self, count: u64, waits: Vec<Wait>, come: Vec<Option<Outcome>>) -> Command {
        let recorded = waits.iter().map(|wait| self.steps.get(&wait.id).cloned()).collect();
        Command::Suspend { fence: fence(count), waits, recorded, come }
    }

    fn state(&self) -> State {
        self.task.status.state()
    }
}

fn wait(step: &str, target: Target) -> Wait {
    Wait { id: id(step), group: None, target, timeout_at_ms: None }
}

fn event(name: &str) -> Target {
    Target::Event(name.to_owned())
}

fn value(text: &str) -> Outcome {
    Outcome::Value(json(text))
}

#[test]
fn a_task_has_the_version_of_the_code_that_had_it_last() {
    let mut kept = Kept::new(spec());
    let version = |version: &str| Some(version.to_owned());
    kept.apply(Command::Claim { fence: fence(1), version: version("1") }).unwrap();
    assert_eq!(kept.task.version, version("1"));
    kept.apply(Command::Release { fence: fence(1), due_ms: None, asked: true }).unwrap();
    assert_eq!(kept.task.version, version("1"));
    kept.apply(Command::Claim { fence: fence(2), version: version("2") }).unwrap();
    let failed = Command::Fail { fence: fence(2), failure: failure(true), retry_at_ms: Some(0) };
    kept.apply(failed).unwrap();
    assert_eq!((kept.state(), &kept.task.version), (State::Queued, &version("2")));
    // Who says none is told from who said one.
    kept.apply(Command::Claim { fence: fence(3), version: None }).unwrap();
    kept.apply(Command::Finish { fence: fence(3), output: json("1") }).unwrap();
    assert_eq!((kept.state(), &kept.task.version), (State::Completed, &None));
}

#[test]
fn a_task_runs_sleeps_and_returns_in_one_run() {
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    kept.apply(kept.step(1, "charge", value("1"))).unwrap();
    let until_ms = kept.now_ms + 500;
    let decision = kept.apply(kept.suspend(1, vec![wait("nap", Target::Timer(until_ms))], vec![None])).unwrap();
    assert_eq!((kept.state(), decision.resumed), (State::Waiting, vec![]));
    assert_eq!(due_ms(kept.record()), Some(until_ms));
    kept.now_ms = until_ms - 1;
    assert_eq!(kept.apply(Command::Tick).unwrap().steps, []);
    kept.now_ms = until_ms;
    kept.apply(Command::Tick).unwrap();
    assert_eq!((kept.state(), due_ms(kept.record())), (State::Queued, None));
    kept.apply(Command::Claim { fence: fence(2), version: None }).unwrap();
    // The replay: what is recorded is there, and the same sleep is over.
    let again = kept.apply(kept.suspend(2, vec![wait("nap", Target::Timer(until_ms + 400))], vec![None])).unwrap();
    assert_eq!((kept.state(), again.resumed.len()), (State::Running, 1));
    kept.apply(Command::Finish { fence: fence(2), output: json("9") }).unwrap();
    assert_eq!((kept.state(), kept.output.as_deref()), (State::Completed, Some(&b"9"[..])));
    let [ended] = kept.runs.as_slice() else { panic!("{:?}", kept.runs) };
    assert_eq!((ended.run.id, ended.run.attempt, &ended.status), (run(0), 1, &RunStatus::Done));
    assert_eq!(kept.steps.values().map(|step| step.seq).collect::<Vec<_>>(), [1, 2]);
}

/// A replay computes another deadline; the first one holds.
#[test]
fn a_wait_that_is_told_again_keeps_its_deadline() {
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    let first = Wait { timeout_at_ms: Some(START_MS + 50), ..wait("packed", event("packed")) };
    kept.apply(kept.suspend(1, vec![first.clone(), wait("x", event("x"))], vec![None, None])).unwrap();
    kept.apply(Command::Resolve { target: event("x"), outcome: value("1") }).unwrap();
    kept.now_ms += 10;
    kept.apply(Command::Claim { fence: fence(2), version: None }).unwrap();
    let later = Wait { timeout_at_ms: Some(START_MS + 60), ..first.clone() };
    kept.apply(kept.suspend(2, vec![later], vec![None])).unwrap();
    assert_eq!(kept.waits, [first]);
    // What comes after the deadline comes too late, whoever looks first.
    kept.now_ms = START_MS + 50;
    kept.apply(Command::Resolve { target: event("packed"), outcome: value("1") }).unwrap();
    assert_eq!(kept.steps[&id("packed")].outcome, Outcome::TimedOut);
    assert_eq!(kept.state(), State::Queued);
}

#[test]
fn the_first_of_a_group_takes_the_others_with_it() {
    let group = |step: &str| Wait { group: Some("any".to_owned()), ..wait(step, event(step)) };
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    let waits = || vec![group("a"), group("b"), group("c"), wait("d", event("d"))];
    kept.apply(kept.suspend(1, waits(), vec![None; 4])).unwrap();
    kept.apply(Command::Resolve { target: event("b"), outcome: value("1") }).unwrap();
    assert_eq!(kept.waits, [wait("d", event("d"))]);
    kept.apply(Command::Resolve { target: event("a"), outcome: value("2") }).unwrap();
    kept.apply(Command::Claim { fence: fence(2), version: None }).unwrap();
    // Told again in a replay, with events that have come since: the winner stays the winner.
    let again = kept.apply(kept.suspend(2, waits(), vec![Some(value("2")), None, None, None])).unwrap();
    assert_eq!(again.resumed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!((kept.waits.len(), kept.steps.len()), (1, 1));
    // Of several that have come the lowest wins.
    let tie = vec![
        Wait { group: Some("2".to_owned()), ..wait("e", event("e")) },
        Wait { group: Some("2".to_owned()), ..wait("f", event("f")) },
    ];
    let told = kept.apply(kept.suspend(2, tie, vec![Some(value("3")), Some(value("4"))])).unwrap();
    assert_eq!(told.resumed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["e"]);
}

/// Of many waits of which much has come only the first are read: the others are as if they had not been told yet.
#[test]
fn waits_that_nothing_was_read_of_are_not_opened() {
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    let waits = || {
        let of_group = |step: &str| Wait { group: Some("g".to_owned()), ..wait(step, event(step)) };
        vec![of_group("a"), wait("b", event("b")), of_group("c"), wait("d", event("d"))]
    };
    let suspend = |recorded: Vec<Option<Step>>, come: Vec<Option<Outcome>>| Command::Suspend {
        fence: fence(1),
        waits: waits(),
        recorded,
        come,
    };
    let first = kept.apply(suspend(vec![None; 4], vec![None, Some(value("1"))])).unwrap();
    assert_eq!(first.resumed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(first.waits.iter().map(|wait| wait.id.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(kept.state(), State::Running);
    // Whether c has won its group is not known: nothing comes of a, though it has come.
    let b = kept.steps.get(&id("b")).cloned();
    let second = kept.apply(suspend(vec![None, b.clone()], Vec::new())).unwrap();
    assert_eq!((second.resumed.len(), second.steps.len(), second.waits.len()), (1, 0, 1));
    let third = kept.apply(suspend(vec![None, b, None, None], vec![None, None, Some(value("2")), None])).unwrap();
    assert_eq!(third.resumed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(third.waits.iter().map(|wait| wait.id.as_str()).collect::<Vec<_>>(), ["d"]);
    let many = (0..=WAITS_MAX).map(|n| wait(&format!("{n}"), event("e"))).collect::<Vec<_>>();
    assert_eq!(may_suspend(&kept.task, fence(2), &many), Err(Refusal::StaleFence));
    assert_eq!(may_suspend(&kept.task, fence(1), &many), Err(Refusal::Invalid(TOO_MANY_WAITS)));
}

#[test]
fn a_late_worker_changes_nothing() {
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    kept.apply(Command::Lose { fence: fence(1) }).unwrap();
    kept.apply(Command::Claim { fence: fence(2), version: None }).unwrap();
    let late = [
        kept.step(1, "s", value("1")),
        kept.suspend(1, vec![wait("e", event("e"))], vec![None]),
        Command::Finish { fence: fence(1), output: json("1") },
        Command::Fail { fence: fence(1), failure: failure(true), retry_at_ms: None },
        Command::Release { fence: fence(1), due_ms: None, asked: true },
    ];
    for command in late {
        assert_eq!(kept.apply(command), Err(Refusal::StaleFence));
    }
    assert_eq!(kept.task.status, Status::Running { fence: fence(2) });
    kept.apply(Command::Cancel { reason: "enough".to_owned() }).unwrap();
    assert_eq!(kept.apply(kept.step(2, "s", value("1"))), Err(Refusal::Cancelled));
    assert_eq!(kept.apply(kept.step(1, "s", value("1"))), Err(Refusal::StaleFence));
}

#[test]
fn a_lost_run_costs_no_attempt_and_has_its_own_bound() {
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    kept.apply(Command::Lose { fence: fence(1) }).unwrap();
    assert_eq!((kept.state(), kept.task.run.attempt), (State::Queued, 1));
    kept.apply(Command::Claim { fence: fence(2), version: None }).unwrap();
    kept.apply(Command::Lose { fence: fence(2) }).unwrap();
    let Status::Failed { failure, .. } = &kept.task.status else { panic!("{:?}", kept.task) };
    assert_eq!((failure.kind.as_str(), kept.runs.len()), ("lost", 2));
    kept.apply(Command::Retry { extra_attempts: 1 }).unwrap();
    assert_eq!((kept.state(), kept.task.run.attempt, kept.task.lost), (State::Queued, 2, 0));
}

/// What failed in an attempt fails again when that attempt is replayed, and is tried again by the next one.
#[test]
fn a_failed_step_is_replayed_within_its_attempt_only() {
    let mut kept = Kept::new(spec());
    kept.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    let failed = Outcome::Failed { failure: failure(true), retry_at_ms: None };
    kept.apply(kept.step(1, "s", failed.clone())).unwrap();
    assert!(kept.steps[&id("s")].replays_in(1) && !kept.steps[&id("s")].replays_in(2));
    assert!(matches!(kept.apply(kept.step(1, "s", value("1"))), Err(Refusal::Conflict(_))));
    kept.apply(Command::Fail { fence: fence(1), failure: failure(true), retry_at_ms: None }).unwrap();
    assert_eq!(kept.task.status, Status::Queued { due_ms: START_MS + 1_000 });
    kept.now_ms += 1_000;
    kept.apply(Command::Claim { fence: fence(2), version: None }).unwrap();
    kept.apply(kept.step(2, "s", value("1"))).unwrap();
    assert_eq!((kept.steps[&id("s")].seq, &kept.steps[&id("s")].outcome), (1, &value("1")));
    // The next failure is the last.
    kept.apply(Command::Fail { fence: fence(2), failure: failure(true), retry_at_ms: None }).unwrap();
    assert_eq!(kept.state(), State::Failed);
}

#[test]
fn policies_give_a_task_up() {
    let cancellation = Cancellation { max_delay_ms: Some(100), max_duration_ms: Some(1_000) };
    let mut never_begun = Kept::new(Spec { cancellation, ..spec() });
    let mut begun = never_begun.clone();
    assert_eq!(due_ms(never_begun.record()), Some(START_MS + 100));
    never_begun.now_ms += 100;
    never_begun.apply(Command::Tick).unwrap();
    assert_eq!(never_begun.state(), State::Cancelled);
    assert_eq!(never_begun.runs, []);

    begun.apply(Command::Claim { fence: fence(1), version: None }).unwrap();
    assert_eq!(due_ms(begun.record()), Some(START_MS + 1_000));
    // The next attempt would begin when the time is over.
    let decision = begun.apply(Command::Fail { fence: fence(1), failure: failure(true), retry_at_ms: None }).unwrap();
    assert_eq!((begun.state(), decision.effects), (State::Cancelled, vec![Effect::Ended]));
}

fn random_command(kept: &Kept, random: &mut Rng) -> Command {
    let count = if random.one_in(8) { random.below(4) } else { kept.drawn_fence() };
    let names = ["a", "b", "c", "d"];
    let name = |random: &mut Rng| names[random.index(names.len())];
    let outcome = |random: &mut Rng| match random.below(4) {
        0 => Outcome::Failed { failure: failure(true), retry_at_ms: random.one_in(2).then_some(5) },
        n => value(&n.to_string()),
    };
    match random.below(13) {
        0..=2 => Command::Claim { fence: fence(kept.drawn + 10), version: None },
        3 | 4 => kept.step(count, name(random), outcome(random)),
        5 | 6 => {
            let mut waits = Vec::new();
            for step in ["w", "x", "y", "z"] {
                if random.one_in(2) {
                    let target = match random.below(3) {
                        0 => Target::Timer(kept.now_ms + random.below(50)),
                        1 => Target::Task(TaskId::new(1, [1; 10])),
                        _ => event(name(random)),
                    };
                    let timeout_at_ms = random.one_in(2).then(|| kept.now_ms + random.below(50));
                    let group = random.one_in(2).then(|| "g".to_owned());
                    let id = id(&format!("{step}{}", random.below(50)));
                    waits.push(Wait { id, group, target, timeout_at_ms });
                }
            }
            let come = waits.iter().map(|_| random.one_in(6).then(|| value("7"))).collect();
            kept.suspend(count, waits, come)
        }
        7 if random.one_in(2) => Command::Finish { fence: fence(count), output: json("1") },
        7 => Command::Fail { fence: fence(count), failure: failure(!random.one_in(4)), retry_at_ms: None },
        8 => {
            let due_ms = random.one_in(2).then(|| kept.now_ms + 5);
            Command::Release { fence: fence(count), due_ms, asked: random.one_in(2) }
        }
        9 if random.one_in(3) => Command::Lose { fence: fence(count) },
        10 if random.one_in(6) => Command::Cancel { reason: "enough".to_owned() },
        11 => Command::Resolve {
            target: if random.one_in(3) { Target::Task(TaskId::new(1, [1; 10])) } else { event(name(random)) },
            outcome: if random.one_in(5) { Outcome::Cancelled } else { value("8") },
        },
        12 if random.one_in(3) => Command::Retry { extra_attempts: random.below(3) as u32 },
        _ => Command::Tick,
    }
}

impl Kept {
    /// The count of the hand-out that has the task, or had it last.
    fn drawn_fence(&self) -> u64 {
        match (&self.task.status, self.task.handed_back) {
            (Status::Running { fence }, _) => fence.count,
            (_, Some(over)) => over.fence.count,
            _ => 0,
        }
    }
}

/// Random lives of tasks: the invariants hold at every turn, and what happens is what the table says, no more
/// and no less.
#[test]
fn the_table_is_what_happens() {
    let listed: BTreeSet<(State, CommandKind, State)> =
        TRANSITIONS.iter().flat_map(|(from, by, to)| to.iter().map(move |to| (*from, *by, *to))).collect();
    let mut seen = BTreeSet::new();
    for seed in 0..20_000 {
        let mut random = Rng::new(seed);
        let mut limit = |of: u64| random.one_in(4).then(|| 1 + random.below(of));
        let cancellation = Cancellation { max_delay_ms: limit(50), max_duration_ms: limit(3_000) };
        let mut kept = Kept::new(Spec { cancellation, ..spec() });
        for _ in 0..40 {
            kept.now_ms += [0, 1, 20, 1_000][random.index(4)];
            let command = random_command(&kept, &mut random);
            let before = kept.clone();
            let result = kept.apply(command.clone());
            let scene = format!("seed {seed}: {command:?} at {}: {:?}, then {result:?}", kept.now_ms, before.task);
            let Ok(decision) = result else { continue };
            let changed = decision
                != Decision { resumed: decision.resumed.clone(), ..Decision::unchanged(&before.task, &before.waits) };
            if changed || !decision.resumed.is_empty() {
                seen.insert((before.state(), command.kind(), kept.state()));
            }
            check(&before, &kept, &command, &decision, &scene);
        }
    }
    assert_eq!(seen.difference(&listed).collect::<Vec<_>>(), Vec::<&_>::new(), "not in the table");
    assert_eq!(listed.difference(&seen).collect::<Vec<_>>(), Vec::<&_>::new(), "in the table only");
}

fn check(before: &Kept, kept: &Kept, command: &Command, decision: &Decision, scene: &str) {
    // What is recorded stays, but for failures that are tried again.
    for (id, step) in &decision.steps {
        if let Some(was) = before.steps.get(id) {
            assert!(matches!(was.outcome, Outcome::Failed { .. }) && was.seq == step.seq, "{scene}");
        }
    }
    let seqs: BTreeSet<u32> = kept.steps.values().map(|step| step.seq).collect();
    assert!(seqs.len() == kept.steps.len() && seqs.iter().all(|seq| *seq <= kept.task.steps), "{scene}");
    // A step is recorded or waited for, not both; what has ended waits for nothing.
    assert!(kept.waits.iter().all(|wait| !kept.steps.contains_key(&wait.id)), "{scene}");
    assert!(!kept.state().has_ended() || kept.waits.is_empty(), "{scene}");
    assert!(kept.state() != State::Waiting || !kept.waits.is_empty(), "{scene}");
    let told = decision.effects.contains(&Effect::Ended);
    assert_eq!(told, kept.state().has_ended() && !before.state().has_ended(), "{scene}");
    assert!(kept.task.run.attempt <= kept.task.max_attempts && kept.task.lost <= kept.spec.max_lost + 1, "{scene}");
    assert_eq!(kept.task.runs_ended as usize, kept.runs.len(), "{scene}");
    // Who held it and does not any more is told, unless it said so itself.
    if let (Status::Running { fence }, false) = (&before.task.status, kept.state() == State::Running) {
        assert_eq!(kept.task.handed_back.unwrap().fence, *fence, "{scene}");
        let stopped = decision.effects.iter().any(|effect| matches!(effect, Effect::Stop { .. }));
        let by_others = matches!(command.kind(), CommandKind::Cancel | CommandKind::Tick | CommandKind::Lose)
            || matches!(command, Command::Release { asked: false, .. });
        assert_eq!(stopped, by_others, "{scene}");
    }
    // A tick leaves nothing that is due: a timer fires once.
    if *command == Command::Tick {
        assert!(due_ms(kept.record()).is_none_or(|due_ms| due_ms > kept.now_ms), "{scene}");
    }
    // Told twice, it changes nothing.
    let repeated = match command.clone() {
        Command::Step { fence, id, kind, outcome, .. } => {
            let recorded = kept.steps.get(&id).cloned();
            Some(Command::Step { fence, id, kind, outcome, recorded })
        }
        Command::Suspend { fence, waits, come, .. } => {
            let Fence { count, .. } = fence;
            Some(kept.suspend(count, waits, come))
        }
        command @ (Command::Finish { .. } | Command::Fail { .. } | Command::Release { .. } | Command::Lose { .. }) => {
            Some(command)
        }
        command @ (Command::Resolve { .. } | Command::Tick | Command::Cancel { .. }) => Some(command),
        Command::Claim { .. } | Command::Retry { .. } => None,
    };
    if let Some(command) = repeated {
        let again = kept.clone().decide(command).unwrap_or_else(|e| panic!("{scene}: told twice: {e:?}"));
        assert_eq!(again.task, kept.task, "{scene}");
        assert_eq!((&again.waits, &again.steps, &again.effects), (&kept.waits, &vec![], &vec![]), "{scene}");
    }
}
