//! Tasks in this process, without a server: what one task costs when it is alone.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use cairn::{Db, Env, Options};
use cairn_durable::Tasks;
use cairn_durable::call::{Op, OpKind, Spawn, Work};
use cairn_durable::step::{Outcome, StepId};
use cairn_durable::worker::{Hello, SessionId};

use super::client::{NAME, VALUE};
use super::disk::Disk;
use super::figure::{Figure, quantile};
use super::{Bench, Result};

const WORKLOAD: &str = "embedded";
const BEGUN: usize = 20;

/// A database and its tasks.
pub(crate) struct Embedded {
    pub(crate) db: Db,
    pub(crate) tasks: Tasks<Db>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Embedded {
    pub(crate) fn open(dir: &Path) -> Result<Embedded> {
        let env = Env::real();
        let db = Db::open_in(&env, dir, Options::default()).map_err(told)?;
        let tasks = Tasks::open(&env, db.clone()).map_err(told)?;
        Ok(Embedded { db, tasks })
    }

    pub(crate) fn close(self) -> Result<()> {
        self.tasks.close();
        self.db.close().map_err(told)
    }

    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.db.stats().get(name).unwrap_or_default()
    }

    pub(crate) fn hello(&self) -> Result<SessionId> {
        let only = |name: &str| BTreeSet::from([name.to_owned()]);
        let hello = Hello { tasks: only(NAME), queues: only("default"), slots: 1, ..Hello::default() };
        Ok(block_on(self.tasks.hello(hello, &[])).map_err(told)?.session)
    }

    pub(crate) fn spawn(&self, spawns: &[Spawn]) -> Result<()> {
        let spawned = block_on(self.tasks.spawn(spawns).help()).map_err(told)?;
        spawned.into_iter().try_for_each(|spawned| spawned.map(drop).map_err(told))
    }

    pub(crate) fn take(&self, session: SessionId) -> Result<Work> {
        let (mut work, _) = block_on(self.tasks.take(session, 1).help()).map_err(told)?;
        work.pop().ok_or_else(|| "there is no work".to_owned())
    }

    fn ops(&self, session: SessionId, work: &Work, what: Vec<OpKind>) -> Result<()> {
        let ops = what.into_iter().map(|what| Op { task: work.id, fence: work.fence, what }).collect();
        let answer = block_on(self.tasks.ops(session, ops, 0).help()).map_err(told)?;
        answer.acks.into_iter().try_for_each(|ack| ack.map(drop).map_err(told))
    }

    /// A task from its spawn to its end, each call waited for; with `may_rerun` its last step goes with its end.
    fn whole(&self, session: SessionId, steps: u32, may_rerun: bool) -> Result<()> {
        self.spawn(&[spawn()])?;
        let work = self.take(session)?;
        let mut what = Vec::new();
        for number in 1..=steps {
            let id = StepId::new(&format!("step{number}")).map_err(told)?;
            what.push(OpKind::Step { id, outcome: Outcome::Value(VALUE.as_bytes().into()) });
            if number < steps || !may_rerun {
                self.ops(session, &work, std::mem::take(&mut what))?;
            }
        }
        what.push(OpKind::Finish(VALUE.as_bytes().into()));
        self.ops(session, &work, what)
    }
}

pub(crate) fn spawn() -> Spawn {
    Spawn::new(NAME, VALUE.as_bytes())
}

pub(crate) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let dir = bench.fresh("embedded")?;
    let embedded = Embedded::open(&dir)?;
    let session = embedded.hello()?;
    let mut figures = Vec::new();
    for (steps, may_rerun) in [(3u32, false), (3, true), (10, false), (10, true)] {
        for _ in 0..BEGUN {
            embedded.whole(session, steps, may_rerun)?;
        }
        let (syncs, log_bytes) = (embedded.stat("log_syncs_count"), embedded.stat("log_bytes"));
        let mut disk = Disk::new(bench.scratch)?;
        let (mut took, mut disk_took) = (Vec::new(), Vec::new());
        let waits = if may_rerun { steps + 1 } else { steps + 2 };
        let until = Instant::now() + bench.time / 2;
        while Instant::now() < until || took.is_empty() {
            let began = Instant::now();
            embedded.whole(session, steps, may_rerun)?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            let alone: f64 = (0..waits).map(|_| disk.ask()).sum::<Result<f64>>()?;
            disk_took.push(alone);
        }
        let count = took.len() as f64;
        let syncs = (embedded.stat("log_syncs_count") - syncs) as f64 / count;
        let log_bytes = (embedded.stat("log_bytes") - log_bytes) as f64 / count;
        let settings = format!(
            "{steps} steps one after the other, values {VALUE}, {} times, F50 {:.2} ms",
            took.len(),
            disk.p50()
        );
        let task = format!("{steps}-step task{}", if may_rerun { " (last step may rerun)" } else { "" });
        let figure =
            |name: &str, value: f64, unit| Figure::new(WORKLOAD, &settings, &format!("{task}, {name}"), value, unit);
        let p50 = figure("spawn to end, p50", quantile(&mut took, 0.5), "ms");
        let alone = figure("the disk alone, as many writes, p50", quantile(&mut disk_took, 0.5), "ms");
        let waits = f64::from(waits);
        figures.push(alone);
        figures.push(if steps == 3 && !may_rerun { p50.at_most(waits * disk.p50() + 0.2) } else { p50 });
        // What the engine syncs of its own accord is counted too: a hundredth may be that.
        figures.push(figure("syncs", syncs, "").at_most(waits * 1.01));
        let log = figure("log", log_bytes, "B");
        figures.push(if steps == 10 { log.at_most(2_000.0) } else { log });
    }
    embedded.close()?;
    Ok(figures)
}
