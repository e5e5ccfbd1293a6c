//! The stage `syscalls`: the real process on the real file system, with its system calls failing or
//! killing it one by one (strace, which injects both).
//!
//! For each of [`POINTS`] a victim runs with the n-th such call of some thread injected, n drawn from as
//! far as such calls were seen to reach; then it is opened again untouched. An injected error may end writers, the
//! opening and the closing; it may not make anybody wait for ever, panic, or lose what was acknowledged.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::ledger::{End, Ledger};
use super::life::{Ended, Life};
use super::random::Random;
use super::stage::{Context, Figure, Outcome, Scene, Stop};
use super::victim::{DURABILITIES, Orders, SIZES};

pub(crate) const NEEDS: &str = "strace, with leave to trace";

const WRITERS: usize = 4;
/// Steps of each writer of an injected life: some flushes and a compaction.
const STEPS: u64 = 60;
/// Injected lives of one directory: the first makes it, the others open what the one before left.
const LIVES_OF_ONE: u64 = 6;
/// The first guess of how many calls of a kind a thread makes in a life.
const REACH_FIRST: u64 = 16;

const KILLED: &str = "signal=KILL";

/// The calls, and what is done to one of them.
const POINTS: [(&str, &str); 18] = [
    ("fdatasync", "error=EIO"),
    ("fsync", "error=EIO"),
    ("pwrite64", "error=EIO"),
    ("pwrite64", "error=ENOSPC"),
    ("pread64", "error=EIO"),
    ("openat", "error=EIO"),
    ("openat", "error=ENOSPC"),
    ("openat", "error=EMFILE"),
    ("rename", "error=EIO"),
    ("fdatasync", "error=ENOSPC"),
    ("ftruncate", "error=EIO"),
    ("unlink", "error=EIO"),
    ("pwrite64", KILLED),
    ("fdatasync", KILLED),
    ("fsync", KILLED),
    ("openat", KILLED),
    ("rename", KILLED),
    ("unlink", KILLED),
];

/// What happened.
#[derive(Clone, Copy, Debug)]
struct Tally {
    runs: u64,
    errors: u64,
    kills: u64,
    untouched: u64,
    /// Injected before the program had begun, in the loader.
    unborn: u64,
    /// How far each point's calls were seen to reach, about.
    reach: [u64; POINTS.len()],
}

impl Tally {
    fn is_enough(&self, stop: &Stop) -> bool {
        self.runs >= POINTS.len() as u64 && stop.is_over()
    }

    fn reach(&mut self, point: usize) -> &mut u64 {
        // The index is always less than the length; the last stands for what cannot be.
        let last = POINTS.len() - 1;
        &mut self.reach[point.min(last)]
    }
}

/// Runs until the time is over, and at least once through all points.
pub(crate) fn run(context: &Context<'_>, stop: &Stop) -> Outcome {
    let probe =
        Command::new("strace").args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=openat", "true"]).status();
    match probe {
        Ok(status) if status.success() => {}
        Ok(status) => return Outcome::Skipped(format!("strace may not trace here ({status})")),
        Err(e) => return Outcome::Skipped(format!("no strace: {e}")),
    }
    let mut tally = Tally { runs: 0, errors: 0, kills: 0, untouched: 0, unborn: 0, reach: [REACH_FIRST; POINTS.len()] };
    let mut acknowledged = 0;
    for round in 0.. {
        if tally.is_enough(stop) {
            break;
        }
        let mut ledger = Ledger::new(WRITERS, End::Process);
        let done = one_directory(context, round, stop, &mut ledger, &mut tally);
        acknowledged += ledger.counts.checked;
        if let Err(e) = done {
            return Outcome::Failed { figures: figures(&tally, acknowledged), what: e, replay: None };
        }
    }
    if tally.errors == 0 || tally.kills == 0 {
        let what = format!("strace injected nothing: {tally:?}");
        return Outcome::Failed { figures: Vec::new(), what, replay: None };
    }
    Outcome::Passed(figures(&tally, acknowledged))
}

fn figures(tally: &Tally, acknowledged: u64) -> Vec<Figure> {
    vec![
        Figure::new("kinds of injection", POINTS.len()),
        Figure::new("runs", tally.runs),
        Figure::new("of them untouched: fewer such calls than that", tally.untouched + tally.unborn),
        Figure::new("calls that failed", tally.errors),
        Figure::new("calls that killed", tally.kills),
        Figure::new("acknowledged writes checked", acknowledged),
    ]
}

fn one_directory(
    context: &Context<'_>,
    round: u64,
    stop: &Stop,
    ledger: &mut Ledger,
    tally: &mut Tally,
) -> Result<(), String> {
    let seed = Random::of(&[context.seed, 5, round]).next() >> 16;
    let mut random = Random::of(&[seed, 6]);
    let dir = context.fresh("traced")?;
    let log = context.scratch.join("strace.log");
    for life in 0..LIVES_OF_ONE {
        if life > 0 && tally.is_enough(stop) {
            break;
        }
        let turn = usize::try_from(round * LIVES_OF_ONE + life).unwrap_or_default();
        let point = turn % POINTS.len();
        let (calls, injection) = POINTS[point];
        let nth = 1 + random.below(*tally.reach(point));
        let scene = Scene(format!("directory {round}, life {life}, {calls}:{injection}:when={nth}"));
        let mut wrapper = vec!["strace".to_owned(), "-f".to_owned()];
        // Stops for no other call, which is much quicker. But strace 6.1 then injects a signal at the first
        // call or never: it counts the calls only where it stops at their end too.
        if injection != KILLED {
            wrapper.push("--seccomp-bpf".to_owned());
        }
        wrapper.extend(["-o".to_owned(), log.display().to_string()]);
        wrapper.extend(["-e".to_owned(), format!("trace={calls}")]);
        wrapper.extend(["-e".to_owned(), format!("inject={calls}:{injection}:when={nth}")]);
        let orders = orders(seed, &dir, round, ledger);
        let ended = Life::start(&wrapper, &orders, context.scratch)?.finish(ledger).map_err(scene.at())?;
        tally.runs += 1;
        let injected = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).contains("(INJECTED)");
        let untouched = ended == Ended::ByItself && !injected;
        let reach = tally.reach(point);
        *reach = if untouched { nth.max(2) } else { (*reach).max(nth * 2) };
        match ended {
            Ended::Killed if injection == KILLED => tally.kills += 1,
            Ended::Killed => return Err(format!("{scene}: it was killed, and not by the tracer")),
            Ended::Unborn => tally.unborn += 1,
            Ended::ByItself if !untouched => tally.errors += 1,
            Ended::ByItself => {
                tally.untouched += 1;
                if let Some(error) = ledger.last_error() {
                    return Err(format!("{scene}: an error though no call failed: {error}"));
                }
            }
        }
        let again = Orders { steps: Some(3), ..orders_again(&orders, ledger) };
        Life::start(&[], &again, context.scratch)?.look(ledger).map_err(scene.at())?;
    }
    context.check(&dir)
}

fn orders(seed: u64, dir: &Path, round: u64, ledger: &Ledger) -> Orders {
    let turn = usize::try_from(round).unwrap_or_default();
    let orders = Orders {
        dir: dir.to_path_buf(),
        seed,
        sizes: SIZES.get(turn % SIZES.len()).copied().unwrap_or("tiny").to_owned(),
        durability: DURABILITIES.get(turn % DURABILITIES.len()).copied().unwrap_or("commit").to_owned(),
        steps: Some(STEPS),
        ..Orders::default()
    };
    orders_again(&orders, ledger)
}

/// The same orders for whoever comes after.
fn orders_again(orders: &Orders, ledger: &Ledger) -> Orders {
    Orders { floors: ledger.floors().to_vec(), ceilings: ledger.ceilings(), ..orders.clone() }
}
