//! A worker and a client, as lean as they can be: the protocol of tasks on one kept-alive connection.

use cairn_api::tasks::{
    Ack, Emit, EmitRequest, Hello, Json, Offer, Op, OpKind, OpsRequest, OpsResponse, Poll, Polled, Spawn, SpawnRequest,
    Wait, Welcome, Work,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::http::Connection;

/// The name of every task.
pub(crate) const NAME: &str = "bench";
/// What every task is called with, every step and every task returns.
pub(crate) const VALUE: &str = r#"{"ok":true}"#;
/// The server answers a poll at once, or holds it back so long.
const WAIT_MS: u64 = 25_000;

pub(crate) fn value() -> Json {
    RawValue::from_string(VALUE.to_owned()).unwrap_or_default()
}

/// A connection, and the session of a worker if it said hello.
pub(crate) struct Client {
    connection: Connection,
    session: String,
}

impl Client {
    pub(crate) fn open(address: &str) -> Result<Client, String> {
        let connection = Connection::open(address).map_err(|e| format!("{address}: {e:?}"))?;
        Ok(Client { connection, session: String::new() })
    }

    /// A worker on the default queue.
    pub(crate) fn worker(address: &str, slots: u32) -> Result<Client, String> {
        let mut client = Client::open(address)?;
        let hello = Hello {
            name: "bench".to_owned(),
            sdk: "xtask".to_owned(),
            tasks: vec![Offer { name: NAME.to_owned(), version: None }],
            queues: vec!["default".to_owned()],
            slots,
            live: Vec::new(),
        };
        let welcome: Welcome = client.ask("POST", "/v1/workers/hello", &hello)?;
        client.session = welcome.session;
        Ok(client)
    }

    fn ask<A: DeserializeOwned>(&mut self, method: &str, target: &str, request: &impl Serialize) -> Result<A, String> {
        let request = serde_json::to_string(request).map_err(|e| e.to_string())?;
        let answer = self.connection.ask(method, target, &request).map_err(|e| format!("{method} {target}: {e:?}"))?;
        let told = |e: &dyn std::fmt::Display| format!("{method} {target}: {}: {}: {e}", answer.status, answer.body);
        if answer.status != 200 {
            return Err(told(&"refused"));
        }
        serde_json::from_str(&answer.body).map_err(|e| told(&e))
    }

    /// Spawns so many tasks by one call.
    pub(crate) fn spawn(&mut self, count: usize) -> Result<(), String> {
        let spawn = || Spawn {
            id: None,
            queue: None,
            name: NAME.to_owned(),
            input: value(),
            headers: None,
            tags: Default::default(),
            idempotency_key: None,
            due_at_ms: None,
            delay_ms: None,
            priority: None,
            limit_key: None,
            retry: None,
            max_attempts: None,
            max_lost: None,
            cancel: None,
            pin: None,
        };
        let request = SpawnRequest { tasks: (0..count).map(|_| spawn()).collect(), atomic: false };
        let answer: Value = self.ask("POST", "/v1/tasks", &request)?;
        let created = |result: &&Value| result["created"] == Value::Bool(true);
        match answer["results"].as_array() {
            Some(results) if results.iter().filter(created).count() == count => Ok(()),
            _ => Err(format!("not all of {count} tasks were spawned: {answer}")),
        }
    }

    pub(crate) fn emit(&mut self, name: &str) -> Result<(), String> {
        let request = EmitRequest { events: vec![Emit { name: name.to_owned(), payload: value() }] };
        self.ask::<Value>("POST", "/v1/queues/default/events", &request).map(drop)
    }

    /// Waits for work.
    pub(crate) fn poll(&mut self, free: u32) -> Result<Vec<Work>, String> {
        let request = Poll { session: self.session.clone(), free, wait_ms: WAIT_MS };
        let polled: Polled = self.ask("POST", "/v1/workers/poll", &request)?;
        if polled.signals.is_empty() { Ok(polled.work) } else { Err(format!("told to stop: {:?}", polled.signals)) }
    }

    /// Tells what became of tasks, all of which must be taken as told, and takes others.
    pub(crate) fn ops(&mut self, ops: Vec<Op>, claim: u32) -> Result<Vec<Work>, String> {
        let request = OpsRequest { session: self.session.clone(), ops, claim };
        let answer: OpsResponse = self.ask("POST", "/v1/workers/ops", &request)?;
        match answer.acks.iter().find(|ack| !ack.ok) {
            Some(Ack { error, .. }) => Err(format!("an op was refused: {error:?}")),
            None => Ok(answer.work),
        }
    }

    /// A figure of the engine.
    pub(crate) fn stat(&mut self, name: &str) -> Result<u64, String> {
        let answer = self.connection.ask("GET", "/v1/stats", "").map_err(|e| format!("GET /v1/stats: {e:?}"))?;
        let stats: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
        stats["engine"][name].as_u64().ok_or_else(|| format!("the statistics have no {name}"))
    }
}

fn op(work: &Work, op: OpKind) -> Op {
    Op { op, task: work.task.clone(), fence: work.fence.clone(), ..Op::default() }
}

pub(crate) fn finish(work: &Work) -> Op {
    Op { output: Some(value()), ..op(work, OpKind::Finish) }
}

pub(crate) fn release(work: &Work) -> Op {
    op(work, OpKind::Release)
}

pub(crate) fn step(work: &Work, number: u32) -> Op {
    Op { key: Some(format!("step{number}")), value: Some(value()), ..op(work, OpKind::Step) }
}

pub(crate) fn wait_for_event(work: &Work, event: &str) -> Op {
    let wait = Wait {
        key: format!("event:{event}"),
        group: None,
        kind: "event".to_owned(),
        name: Some(event.to_owned()),
        id: None,
        until_ms: None,
        timeout_at_ms: None,
    };
    Op { waits: Some(vec![wait]), ..op(work, OpKind::Suspend) }
}
