//! The operations of all tasks of a worker, on their way to who answers them.
//!
//! One request is under way at a time; what comes meanwhile goes together in the next, and so shares its sync. The
//! order of a task's operations is kept. What got no answer is sent again, the same bytes: that is safe by the protocol.
//! The queue is bounded by the durable calls that are awaited at a time.

use std::collections::BTreeSet;
use std::future::Future;

use cairn_api::tasks::{Ack, Op};
use cairn_env::Env;
use tokio::sync::{mpsc, oneshot};

use super::error::{AppError, Result};
use super::policy::Backoff;

/// A request has at most so many operations, and is closed beyond so many bytes: a body may have 16 MiB, and one value
/// more always fits.
const OPS_MAX: usize = 256;
const OPS_BYTES_MAX: usize = 8 << 20;

/// The way in.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: mpsc::UnboundedSender<Sent>,
}

/// The other end, for who pumps.
#[derive(Debug)]
pub(crate) struct Pump {
    queue: mpsc::UnboundedReceiver<Sent>,
    again: mpsc::WeakUnboundedSender<Sent>,
}

#[derive(Debug)]
struct Sent {
    op: Op,
    tell: oneshot::Sender<Result<Ack>>,
    backoff: Backoff,
}

impl Lane {
    pub(crate) fn new() -> (Lane, Pump) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let again = sender.downgrade();
        (Lane { queue: sender }, Pump { queue: receiver, again })
    }

    /// Sends an operation, however long the server is away.
    ///
    /// # Errors
    /// What it is refused with; [`AppError::Over`] if the worker stops first.
    pub(crate) async fn send(&self, op: Op) -> Result<Ack> {
        let over = || AppError::Over { why: "the worker has stopped".to_owned() };
        let (tell, told) = oneshot::channel();
        self.queue.send(Sent { op, tell, backoff: Backoff::new() }).map_err(|_| over())?;
        told.await.unwrap_or_else(|_| Err(over()))
    }
}

impl Pump {
    /// Sends what comes. `post` sends one request, finds a session where it needs one, and errs with what it is
    /// answered with.
    pub(crate) async fn run<F: Future<Output = Result<Vec<Ack>>>>(mut self, env: Env, post: impl Fn(Vec<Op>) -> F) {
        while let Some(first) = self.queue.recv().await {
            // One turn of the runtime, so that branches that come together go together.
            tokio::task::yield_now().await;
            let mut bytes = size(&first.op);
            let mut batch = vec![first];
            while batch.len() < OPS_MAX
                && bytes < OPS_BYTES_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                bytes += size(&next.op);
                batch.push(next);
            }
            self.send(batch, &env, &post).await;
        }
    }

    async fn send<F: Future<Output = Result<Vec<Ack>>>>(
        &self,
        batch: Vec<Sent>,
        env: &Env,
        post: &impl Fn(Vec<Op>) -> F,
    ) {
        match self.post(&batch, env, post).await {
            Ok(acks) => self.answered(batch, acks, env),
            // The request as a whole: who is to blame finds out alone, and the others are not harmed.
            Err(_) if batch.len() > 1 => {
                for sent in batch {
                    let alone = [sent];
                    let posted = self.post(&alone, env, post).await;
                    let [sent] = alone;
                    match posted {
                        Ok(acks) => self.answered(vec![sent], acks, env),
                        Err(error) => drop(sent.tell.send(Err(error))),
                    }
                }
            }
            Err(error) => batch.into_iter().for_each(|sent| drop(sent.tell.send(Err(error.clone())))),
        }
    }

    /// Posts until there is an answer that decides.
    async fn post<F: Future<Output = Result<Vec<Ack>>>>(
        &self,
        batch: &[Sent],
        env: &Env,
        post: &impl Fn(Vec<Op>) -> F,
    ) -> Result<Vec<Ack>> {
        let mut backoff = Backoff::new();
        loop {
            match post(batch.iter().map(|sent| sent.op.clone()).collect()).await {
                Err(error) if error.is_transient() => tokio::time::sleep(backoff.next(env)).await,
                Ok(acks) if acks.len() != batch.len() => {
                    let text = format!("{} operations were answered by {} acks", batch.len(), acks.len());
                    return Err(AppError::Refused { kind: cairn_api::ErrorKind::Internal, message: text });
                }
                decided => return decided,
            }
        }
    }

    fn answered(&self, batch: Vec<Sent>, acks: Vec<Ack>, env: &Env) {
        let mut refused = BTreeSet::new();
        for (mut sent, ack) in batch.into_iter().zip(acks) {
            let Some(error) = AppError::of_ack(&ack) else {
                let _ = sent.tell.send(Ok(ack));
                continue;
            };
            if !refused.insert(sent.op.task.clone()) {
                // Only because an earlier one was: it has a verdict of its own to get.
                self.push(sent);
            } else if error.is_transient() {
                let (pause, again) = (sent.backoff.next(env), self.again.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    if let Some(queue) = again.upgrade() {
                        let _ = queue.send(sent);
                    }
                });
            } else {
                let _ = sent.tell.send(Err(error));
            }
        }
    }

    fn push(&self, sent: Sent) {
        if let Some(queue) = self.again.upgrade() {
            let _ = queue.send(sent);
        }
    }
}

fn size(op: &Op) -> usize {
    let json = [&op.value, &op.output, &op.payload];
    let spawn = op.spawn.as_ref().map_or(0, |spawn| spawn.input.get().len());
    json.into_iter().flatten().map(|json| json.get().len()).sum::<usize>() + spawn + 512
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn op(task: &str) -> Op {
        Op { task: task.to_owned(), ..Op::default() }
    }

    /// What is posted is shown as its tasks; the answer is as the rule says of each.
    async fn posted(ops: &[&str], rule: fn(&str, usize) -> Result<Ack>) -> (Vec<Result<Ack>>, Vec<String>) {
        let (lane, pump) = Lane::new();
        let lane = Arc::new(lane);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let running = tokio::spawn(pump.run(Env::memory(), move |ops: Vec<Op>| {
            let shown = ops.iter().map(|op| op.task.as_str()).collect::<Vec<_>>().join(" ");
            let mut seen = noted.lock().unwrap();
            seen.push(shown);
            let turn = seen.len();
            std::future::ready(ops.iter().map(|op| rule(&op.task, turn)).collect())
        }));
        let mut told = Vec::new();
        let sent: Vec<_> = ops
            .iter()
            .map(|task| {
                let (lane, op) = (lane.clone(), op(task));
                tokio::spawn(async move { lane.send(op).await })
            })
            .collect();
        for sent in sent {
            told.push(sent.await.unwrap());
        }
        running.abort();
        let seen = seen.lock().unwrap().clone();
        (told, seen)
    }

    fn done() -> Ack {
        Ack { ok: true, ..Ack::default() }
    }

    #[tokio::test]
    async fn what_is_ready_at_the_same_time_goes_in_one_request() {
        let (told, seen) = posted(&["a", "b", "c"], |_, _| Ok(done())).await;
        assert!(told.iter().all(Result::is_ok));
        assert_eq!(seen, ["a b c"]);
    }

    #[tokio::test]
    async fn a_request_without_an_answer_is_sent_again_as_it_was() {
        let rule = |_: &str, turn| match turn {
            1 => Err(AppError::Unreachable { message: "away".to_owned() }),
            _ => Ok(done()),
        };
        let (told, seen) = posted(&["a", "b"], rule).await;
        assert!(told.iter().all(Result::is_ok));
        assert_eq!(seen, ["a b", "a b"]);
    }

    #[tokio::test]
    async fn a_request_that_is_refused_whole_harms_only_who_is_to_blame() {
        let rule = |task: &str, _| match task {
            "bad" => Err(AppError::invalid("too large")),
            _ => Ok(done()),
        };
        let (told, seen) = posted(&["a", "bad", "b"], rule).await;
        assert!(told[0].is_ok() && told[1].is_err() && told[2].is_ok());
        assert_eq!(seen, ["a bad b", "a", "bad", "b"]);
    }
}
