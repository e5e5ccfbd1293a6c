//! The stored form: what is written reads back, nothing else is taken, and the bytes of a version stay.

use cairn_env::testing::Rng;

use super::*;

fn text(random: &mut Rng) -> String {
    (0..random.below(6)).map(|_| ['a', 'ö', '/', '\u{1F5FF}'][random.index(4)]).collect()
}

fn json(random: &mut Rng) -> Json {
    text(random).into_bytes().into()
}

fn ms(random: &mut Rng) -> Millis {
    random.next_u64() >> random.below(64)
}

fn opt<T>(random: &mut Rng, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    random.one_in(2).then(|| make(random))
}

fn id(random: &mut Rng) -> [u8; 16] {
    std::array::from_fn(|_| random.below(256) as u8)
}

fn small(random: &mut Rng) -> u32 {
    (random.next_u64() >> (32 + random.below(32))) as u32
}

fn fence(random: &mut Rng) -> Fence {
    Fence { instance: random.next_u64(), count: ms(random) }
}

fn failure(random: &mut Rng) -> Failure {
    Failure { kind: text(random), message: text(random), detail: opt(random, json), retryable: random.one_in(2) }
}

fn run(random: &mut Rng) -> Run {
    Run { id: RunId::from_bytes(id(random)), attempt: small(random), started_ms: opt(random, ms) }
}

fn retry(random: &mut Rng) -> Retry {
    let (base_ms, max_ms) = (ms(random), ms(random));
    let (factor, jitter) = (random.below(9) as f64 / 2.0, random.below(9) as f64 / 8.0);
    match random.below(3) {
        0 => Retry::None,
        1 => Retry::Fixed { base_ms, jitter },
        _ => Retry::Exponential { base_ms, factor, max_ms, jitter },
    }
}

fn spec(random: &mut Rng) -> Spec {
    Spec {
        queue: text(random),
        name: text(random),
        input: json(random),
        headers: json(random),
        tags: (0..random.below(3)).map(|_| (text(random), text(random))).collect(),
        priority: small(random) as i32,
        retry: retry(random),
        max_lost: small(random),
        cancellation: Cancellation { max_delay_ms: opt(random, ms), max_duration_ms: opt(random, ms) },
        created_ms: ms(random),
        parent: opt(random, id).map(TaskId::from_bytes),
    }
}

fn task(random: &mut Rng) -> Task {
    let at_ms = ms(random);
    let status = match random.below(6) {
        0 => Status::Queued { due_ms: at_ms },
        1 => Status::Running { fence: fence(random) },
        2 => Status::Waiting { since_ms: at_ms },
        3 => Status::Completed { ended_ms: at_ms },
        4 => Status::Failed { ended_ms: at_ms, failure: failure(random) },
        _ => Status::Cancelled { ended_ms: at_ms, reason: text(random) },
    };
    let endings =
        [Ending::Completed, Ending::Failed, Ending::Suspended, Ending::Released, Ending::Lost, Ending::Cancelled];
    Task {
        status,
        run: run(random),
        max_attempts: small(random),
        lost: small(random),
        runs_ended: small(random),
        steps: small(random),
        first_started_ms: opt(random, ms),
        handed_back: opt(random, |random| HandedBack { fence: fence(random), by: endings[random.index(6)] }),
        version: opt(random, text),
    }
}

fn ended_run(random: &mut Rng) -> EndedRun {
    let status = match random.below(4) {
        0 => RunStatus::Done,
        1 => RunStatus::Failed(failure(random)),
        2 => RunStatus::Lost,
        _ => RunStatus::Cancelled,
    };
    EndedRun { run: run(random), ended_ms: ms(random), worker: text(random), status }
}

fn step(random: &mut Rng) -> Step {
    let outcome = match random.below(4) {
        0 => Outcome::Value(json(random)),
        1 => Outcome::Failed { failure: failure(random), retry_at_ms: opt(random, ms) },
        2 => Outcome::Cancelled,
        _ => Outcome::TimedOut,
    };
    let kinds = [StepKind::Step, StepKind::Spawn, StepKind::Emit, StepKind::Timer, StepKind::Event, StepKind::Task];
    Step { kind: kinds[random.index(6)], seq: small(random), attempt: small(random), at_ms: ms(random), outcome }
}

fn wait(random: &mut Rng) -> Wait {
    let target = match random.below(3) {
        0 => Target::Timer(ms(random)),
        1 => Target::Event(text(random)),
        _ => Target::Task(TaskId::from_bytes(id(random))),
    };
    let id = StepId::new("s").unwrap();
    Wait { id, group: opt(random, text), target, timeout_at_ms: opt(random, ms) }
}

/// What was written reads back as it was; what reads at all is written so and no other way; and no bytes make
/// a decoder panic.
fn holds<T: PartialEq + std::fmt::Debug>(
    random: &mut Rng,
    record: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    let row = encode(record);
    assert_eq!(decode(&row).as_ref(), Ok(record));
    for len in 0..row.len() {
        assert!(decode(&row[..len]).is_err(), "{len} bytes of {row:?}");
    }
    let mut longer = row.clone();
    longer.push(0);
    assert!(decode(&longer).is_err());
    for _ in 0..20 {
        let mut broken = row.clone();
        let at = random.index(broken.len());
        broken[at] ^= 1 << random.below(8);
        if let Ok(other) = decode(&broken) {
            assert_eq!(encode(&other), broken);
        }
    }
}

#[test]
fn every_record_reads_back_and_no_bytes_panic() {
    for seed in 0..3_000 {
        let random = &mut Rng::new(seed);
        let record = spec(random);
        holds(random, &record, Row::encode, Row::decode);
        let record = task(random);
        holds(random, &record, Row::encode, Row::decode);
        let record = ended_run(random);
        holds(random, &record, Row::encode, Row::decode);
        let record = step(random);
        holds(random, &record, Row::encode, Row::decode);
        let record = wait(random);
        holds(random, &record, encode_wait, |row| decode_wait(StepId::new("s").unwrap(), row));
    }
}

/// The bytes of a version never change.
#[test]
fn rows_have_these_bytes() {
    let hex = |row: Vec<u8>| row.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let run = Run { id: RunId::from_bytes([0xab; 16]), attempt: 2, started_ms: Some(300) };
    let fence = Fence { instance: 0x0102_0304_0506_0708, count: 9 };
    let task = Task {
        status: Status::Running { fence },
        run,
        max_attempts: 5,
        lost: 1,
        runs_ended: 2,
        steps: 3,
        first_started_ms: None,
        handed_back: Some(HandedBack { fence, by: Ending::Suspended }),
        version: Some("v2".to_owned()),
    };
    assert_eq!(
        hex(task.encode()),
        "00\
         01080706050403020109\
         abababababababababababababababab0201ac02\
         05010203\
         00\
         03080706050403020109\
         01027632"
    );
    // A task without a version pays a byte for it.
    let without = Task { version: None, ..task.clone() };
    assert_eq!(hex(without.encode()), hex(task.encode()).strip_suffix("01027632").unwrap().to_owned() + "00");
    let step =
        Step { seq: 1, kind: StepKind::Event, attempt: 2, at_ms: 300, outcome: Outcome::Value(Box::from(*b"{}")) };
    assert_eq!(hex(step.encode()), "00040102ac0200027b7d");
    let wait = Wait {
        id: StepId::new("s").unwrap(),
        group: Some("g".to_owned()),
        target: Target::Event("e".to_owned()),
        timeout_at_ms: Some(300),
    };
    assert_eq!(hex(encode_wait(&wait)), "00010167".to_owned() + "01ac02" + "010165");
}
