//! Runs a script against a server and judges every answer.
//!
//! Owns the order of requests, the retries, and what counts as passed. Refuses to know the
//! protocol: `wire` sends one request and says what came back.
//!
//! Invariants
//! 1. Without barriers one request is in flight, in file order, the connections taking turns: what
//!    one connection wrote, the next one reads.
//! 2. With barriers every request of a block is answered before any of the next is sent.
//! 3. A request is sent again only if it was not carried out as far as anyone can know: not
//!    answered, or refused for the moment. Sent again a write has the effect it had, so the
//!    expectations hold.
//! 4. passed + failed = the requests of the script, also when the run stops early.

mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_env::Env;
use indicatif::ProgressBar;
use tokio::task::JoinSet;

use self::wire::{Lane, Lost, Reply};
use crate::failure::Failure;
use crate::script::{self, Answer, Request, Script};
use crate::target::ServerAddress;
use crate::text;

/// Mismatches kept to be shown, those with the lowest line numbers.
pub(crate) const MISMATCHES_SHOWN_MAX: usize = 20;
/// Connections opened unless told otherwise.
pub(crate) const CONNECTIONS_DEFAULT_MAX: usize = 512;
/// The pause before a request is sent again: the first, and the longest it grows to.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How much of an expected or given value is shown.
const SHOWN_BYTES_MAX: usize = 200;

/// How to run a script.
pub(crate) struct Plan {
    /// Where the server listens, and how to be let in.
    pub(crate) server: ServerAddress,
    /// Requests in flight at most, each on its own connection.
    pub(crate) connections: usize,
    /// How long to go on trying when nothing is answered; zero: not at all.
    pub(crate) retry: Duration,
}

/// What a run found.
pub(crate) struct Summary {
    /// Requests answered as the script expects.
    pub(crate) passed: usize,
    /// All others.
    pub(crate) failed: usize,
    /// The first of them, by line.
    pub(crate) mismatches: Vec<Mismatch>,
    /// The most requests that were in flight at one moment.
    pub(crate) peak_in_flight: usize,
    /// Requests sent again.
    pub(crate) resent: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Why the run ended before the script did, and how many requests it did not reach.
    pub(crate) stopped: Option<(String, usize)>,
}

/// A request that was not answered as the script expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Its line in the file.
    pub(crate) line: usize,
    /// The request, without its expectation.
    pub(crate) request: String,
    /// What should have come back.
    pub(crate) expected: String,
    /// What did.
    pub(crate) got: String,
}

/// What the lanes of a run share.
struct Run {
    env: Env,
    script: Script,
    retry: Duration,
    bar: ProgressBar,
    /// The next request of the block to be taken.
    next: AtomicUsize,
    in_flight: AtomicUsize,
    peak_in_flight: AtomicUsize,
    passed: AtomicUsize,
    failed: AtomicUsize,
    resent: AtomicU64,
    /// When the last answer came, in milliseconds of `env`'s clock.
    answered_ms: AtomicU64,
    stop: AtomicBool,
    /// Guards only itself; never held across a wait.
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    mismatches: BTreeMap<usize, Mismatch>,
    stop_reason: Option<String>,
}

/// Runs all of `script`.
pub(crate) async fn run(env: &Env, plan: &Plan, script: Script, bar: ProgressBar) -> Result<Summary, Failure> {
    let lanes = (0..plan.connections.max(1)).map(|_| Lane::new(&plan.server)).collect::<Result<Vec<_>, _>>()?;
    let total = script.requests.len();
    let started = env.now();
    let run = Arc::new(Run {
        env: env.clone(),
        script,
        retry: plan.retry,
        bar,
        next: AtomicUsize::new(0),
        in_flight: AtomicUsize::new(0),
        peak_in_flight: AtomicUsize::new(0),
        passed: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        resent: AtomicU64::new(0),
        answered_ms: AtomicU64::new(millis(started)),
        stop: AtomicBool::new(false),
        notes: Mutex::new(Notes::default()),
    });
    if run.script.has_barriers {
        run_blocks(&run, lanes).await;
    } else {
        run_in_order(&run, lanes).await;
    }
    let elapsed = env.now().saturating_sub(started);
    run.bar.finish_and_clear();

    let mut notes = run.notes.lock().unwrap_or_else(PoisonError::into_inner);
    let passed = run.passed.load(Ordering::Relaxed);
    let not_run = total - passed - run.failed.load(Ordering::Relaxed);
    Ok(Summary {
        passed,
        failed: total - passed,
        mismatches: std::mem::take(&mut notes.mismatches).into_values().collect(),
        peak_in_flight: run.peak_in_flight.load(Ordering::Relaxed),
        resent: run.resent.load(Ordering::Relaxed),
        elapsed,
        stopped: notes.stop_reason.take().map(|reason| (reason, not_run)),
    })
}

async fn run_in_order(run: &Run, mut lanes: Vec<Lane>) {
    let lane_count = lanes.len();
    for index in 0..run.script.requests.len() {
        if run.stop.load(Ordering::Relaxed) {
            break;
        }
        if let Some(lane) = lanes.get_mut(index % lane_count) {
            run.ask(lane, index).await;
        }
    }
}

/// Each block's requests are taken from one counter by as many tasks as there are lanes; a task
/// gives its lane back when the block has none left.
async fn run_blocks(run: &Arc<Run>, mut lanes: Vec<Lane>) {
    for block in run.script.blocks.clone() {
        run.next.store(block.start, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        let idle = lanes.split_off(lanes.len().min(block.len()));
        for mut lane in lanes.drain(..) {
            let run = Arc::clone(run);
            tasks.spawn(async move {
                loop {
                    let index = run.next.fetch_add(1, Ordering::Relaxed);
                    if index >= block.end || run.stop.load(Ordering::Relaxed) {
                        return lane;
                    }
                    run.ask(&mut lane, index).await;
                }
            });
        }
        lanes = tasks.join_all().await;
        lanes.extend(idle);
    }
}

impl Run {
    /// Sends one request until it is answered or given up, and judges the answer.
    async fn ask(&self, lane: &mut Lane, index: usize) {
        let Some(line) = self.script.requests.get(index) else { return };
        let mut pause = RETRY_PAUSE_MIN;
        let verdict = loop {
            let (got, unreachable) = match self.send(lane, &line.request).await {
                Ok(Reply::Refused { message, for_now: true }) => (message, false),
                Ok(reply) => {
                    self.answered_ms.fetch_max(millis(self.env.now()), Ordering::Relaxed);
                    break judge(&line.request, reply);
                }
                Err(Lost { message, unreachable }) => (message, unreachable),
            };
            let silent_since = Duration::from_millis(self.answered_ms.load(Ordering::Relaxed));
            if self.env.now().saturating_sub(silent_since) >= self.retry {
                if unreachable {
                    self.stop(&got);
                }
                break Err((expectation(&line.request), got));
            }
            self.bar.set_message("retrying");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
            self.resent.fetch_add(1, Ordering::Relaxed);
        };
        match verdict {
            Ok(()) => {
                self.passed.fetch_add(1, Ordering::Relaxed);
            }
            Err((expected, got)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let request = question(&line.request);
                self.note(Mismatch { line: line.number, request, expected, got });
            }
        }
        self.bar.inc(1);
    }

    async fn send(&self, lane: &mut Lane, request: &Request) -> Result<Reply, Lost> {
        lane.connect().await?;
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak_in_flight.fetch_max(now, Ordering::Relaxed);
        let reply = lane.send(request).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        reply
    }

    fn note(&self, mismatch: Mismatch) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.mismatches.insert(mismatch.line, mismatch);
        if notes.mismatches.len() > MISMATCHES_SHOWN_MAX {
            notes.mismatches.pop_last();
        }
    }

    /// Nobody is there: the requests that are left would each find the same.
    fn stop(&self, reason: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.stop_reason.get_or_insert_with(|| reason.to_owned());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the reply is right; if not, what was expected and what came.
fn judge(request: &Request, reply: Reply) -> Result<(), (String, String)> {
    let right = match (request, &reply) {
        (Request::Put { value, .. }, Reply::Value(echo)) => echo == value,
        (Request::Get { accepted, .. }, Reply::Value(value)) => {
            accepted.iter().any(|answer| matches!(answer, Answer::Value(accepted) if accepted == value))
        }
        (Request::Get { accepted, .. }, Reply::NotFound) => accepted.contains(&Answer::NotFound),
        (Request::Delete { .. }, Reply::Done) => true,
        (Request::Scan { keys, .. }, Reply::Keys(got)) => got == keys,
        _ => false,
    };
    if right { Ok(()) } else { Err((expectation(request), describe(&reply))) }
}

/// The request as a line, without what it expects.
fn question(request: &Request) -> String {
    let key = |key| text::shortened(key, SHOWN_BYTES_MAX);
    match request {
        Request::Put { key: k, value } => format!("PUT {} {}", key(k), text::shortened(value, SHOWN_BYTES_MAX)),
        Request::Get { key: k, .. } => format!("GET {}", key(k)),
        Request::Delete { key: k } => format!("DELETE {}", key(k)),
        Request::Scan { start, end, .. } => format!("SCAN {} {}", key(start), key(end)),
    }
}

fn expectation(request: &Request) -> String {
    match request {
        Request::Put { .. } => "200 and the value echoed".to_owned(),
        Request::Delete { .. } => "200".to_owned(),
        Request::Scan { keys, .. } => describe_keys(keys),
        Request::Get { accepted, .. } => {
            let shown = accepted.iter().map(|answer| match answer {
                Answer::NotFound => script::NOT_FOUND.to_owned(),
                Answer::Value(value) => text::shortened(value, SHOWN_BYTES_MAX).to_string(),
            });
            shown.collect::<Vec<_>>().join(" or ")
        }
    }
}

fn describe(reply: &Reply) -> String {
    match reply {
        Reply::Value(value) => text::shortened(value, SHOWN_BYTES_MAX).to_string(),
        Reply::NotFound => script::NOT_FOUND.to_owned(),
        Reply::Done => "200".to_owned(),
        Reply::Keys(keys) => describe_keys(keys),
        Reply::Refused { message, .. } => message.clone(),
    }
}

fn describe_keys(keys: &[Vec<u8>]) -> String {
    let list = script::join_keys(keys);
    format!("{} keys: {}", keys.len(), text::shortened(list.as_bytes(), SHOWN_BYTES_MAX))
}
