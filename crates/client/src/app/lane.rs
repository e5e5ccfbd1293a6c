//! The operations of all tasks of a worker, on their way to who answers them.
//!
//! One request is under way at a time; what comes meanwhile goes together in the next, and so shares its sync. What is
//! sent as one goes in one request. The order of a task's operations is kept, but for what has to be tried again. What
//! got no answer is sent again, the same bytes: that is safe by the protocol. The queue is bounded by the durable calls
//! that are awaited at a time.

use std::collections::BTreeSet;
use std::future::Future;

use cairn_api::tasks::{Ack, Failure, Op, Wait};
use cairn_env::Env;
use tokio::sync::{mpsc, oneshot};

use super::error::{AppError, Result};
use super::policy::Backoff;

/// A request is closed at so many operations, and beyond so many bytes: a body may have 16 MiB, and what one call sends
/// always fits beside them.
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

/// What one call sends: operations of one task, of which the last is its own. It is done if all are.
#[derive(Debug)]
struct Sent {
    ops: Vec<Op>,
    tell: oneshot::Sender<Result<Ack>>,
    backoff: Backoff,
}

impl Lane {
    pub(crate) fn new() -> (Lane, Pump) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let again = sender.downgrade();
        (Lane { queue: sender }, Pump { queue: receiver, again })
    }

    /// Sends an operation, in one request with what of the same task goes before it, however long the server is away.
    ///
    /// # Errors
    /// What the first that is refused is refused with; [`AppError::Over`] if the worker stops first.
    pub(crate) async fn send(&self, before: Vec<Op>, op: Op) -> Result<Ack> {
        let over = || AppError::Over { why: "the worker has stopped".to_owned() };
        let (tell, told) = oneshot::channel();
        let mut ops = before;
        ops.push(op);
        self.queue.send(Sent { ops, tell, backoff: Backoff::new() }).map_err(|_| over())?;
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
            let (mut ops, mut bytes) = (first.ops.len(), first.bytes());
            let mut batch = vec![first];
            while ops < OPS_MAX
                && bytes < OPS_BYTES_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                (ops, bytes) = (ops + next.ops.len(), bytes + next.bytes());
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
            let ops: Vec<Op> = batch.iter().flat_map(|sent| &sent.ops).cloned().collect();
            let asked = ops.len();
            match post(ops).await {
                Err(error) if error.is_transient() => tokio::time::sleep(backoff.next(env)).await,
                Ok(acks) if acks.len() != asked => {
                    let text = format!("{asked} operations were answered by {} acks", acks.len());
                    return Err(AppError::Refused { kind: cairn_api::ErrorKind::Internal, message: text });
                }
                decided => return decided,
            }
        }
    }

    fn answered(&self, batch: Vec<Sent>, acks: Vec<Ack>, env: &Env) {
        let (mut refused, mut acks) = (BTreeSet::new(), acks.into_iter());
        for mut sent in batch {
            let mut acks: Vec<Ack> = acks.by_ref().take(sent.ops.len()).collect();
            let Some(error) = acks.iter().find_map(AppError::of_ack) else {
                let _ = sent.tell.send(Ok(acks.pop().unwrap_or_default()));
                continue;
            };
            if !refused.insert(sent.task().to_owned()) {
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

impl Sent {
    fn task(&self) -> &str {
        self.ops.last().map_or("", |own| &own.task)
    }

    fn bytes(&self) -> usize {
        self.ops.iter().map(size).sum()
    }
}

/// About as many bytes as an operation has in a request.
pub(crate) fn size(op: &Op) -> usize {
    let json = [&op.value, &op.output, &op.payload];
    let spawn = op.spawn.as_ref().map_or(0, |spawn| spawn.input.get().len());
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let wait = |wait: &Wait| wait.key.len() + text(&wait.name) + text(&wait.id) + 128;
    let waits: usize = op.waits.iter().flatten().map(wait).sum();
    let failure =
        |failure: &Failure| failure.message.len() + failure.detail.as_ref().map_or(0, |json| json.get().len());
    let failure = op.failure.as_ref().map_or(0, failure);
    json.into_iter().flatten().map(|json| json.get().len()).sum::<usize>() + spawn + waits + failure + 512
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use cairn_api::ErrorKind;
    use serde_json::json;

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
                tokio::spawn(async move { lane.send(Vec::new(), op).await })
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

    /// A call of task a that takes an operation along, beside one of task b, with the acks of a turn as shown: "." is done,
    /// else the kind of the refusal. What the first call is told, and what is posted.
    async fn posted_as_one(acks: &'static [&'static str]) -> (Option<ErrorKind>, Vec<String>) {
        let (lane, pump) = Lane::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let running = tokio::spawn(pump.run(Env::memory(), move |ops: Vec<Op>| {
            let mut seen = noted.lock().unwrap();
            let shown = ops.iter().map(|op| op.key.as_deref().unwrap_or_default()).collect::<Vec<_>>().join(" ");
            let acks = acks[seen.len()].split(' ').map(|ack| match ack {
                "." => done(),
                kind => serde_json::from_value(json!({"ok": false, "error": {"kind": kind, "message": ""}})).unwrap(),
            });
            seen.push(shown);
            std::future::ready(Ok(acks.collect()))
        }));
        let keyed = |task: &str, key: &str| Op { key: Some(key.to_owned()), ..op(task) };
        let (told, other) = tokio::join!(
            lane.send(vec![keyed("a", "kept")], keyed("a", "own")),
            lane.send(Vec::new(), keyed("b", "other")),
        );
        other.unwrap();
        running.abort();
        let seen = seen.lock().unwrap().clone();
        (told.err().and_then(|error| error.kind()), seen)
    }

    #[tokio::test]
    async fn what_is_sent_as_one_is_done_if_all_of_it_is() {
        let all = "kept own other".to_owned();
        assert_eq!(posted_as_one(&[". . ."]).await, (None, vec![all.clone()]));
        assert_eq!(posted_as_one(&["conflict gone ."]).await, (Some(ErrorKind::Conflict), vec![all.clone()]));
        assert_eq!(posted_as_one(&[". conflict ."]).await, (Some(ErrorKind::Conflict), vec![all.clone()]));
        // A refusal that passes: all of it once more.
        assert_eq!(posted_as_one(&["full gone .", ". ."]).await, (None, vec![all, "kept own".to_owned()]));
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
