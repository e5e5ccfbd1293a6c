//! A worker in a process of its own, which is killed: it speaks the protocol as its page says, through no library, and
//! tells on its output what the server has acknowledged or shown.
//!
//! ```text
//! step TASK KEY VALUE      a step that was acknowledged, or was recorded when the task was handed out
//! wrong WHAT               an answer that cannot be
//! ```
//! It finds the server through a file, since every server listens elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write, stdout};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::program::{self, Call};
use crate::http::{Connection, NoAnswer};
use crate::prove::random::Random;

/// Why it does not go on.
enum Stop {
    /// The server is gone, or will be; say hello to the next.
    Hello,
    /// It answers what cannot be.
    Wrong(String),
}

impl From<NoAnswer> for Stop {
    fn from(error: NoAnswer) -> Stop {
        match error {
            NoAnswer::Ended => Stop::Hello,
            NoAnswer::Wrong(text) => Stop::Wrong(text),
        }
    }
}

/// A task in hand.
struct Held {
    task: String,
    fence: String,
    seed: u64,
    /// What is recorded, by key.
    known: BTreeMap<String, Value>,
    /// What was sent and not answered; it is sent again as it was.
    asked: Option<Value>,
}

/// Works until it is killed.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let [address, seed] = arguments else { return Err("a worker is given a file and a seed".to_owned()) };
    let seed = seed.parse().map_err(|_| "the seed is no number".to_owned())?;
    let (mut random, mut held) = (Random::of(&[seed, 11]), None);
    loop {
        match live(Path::new(address), &mut random, &mut held) {
            Stop::Hello => thread::sleep(Duration::from_millis(10)),
            Stop::Wrong(what) => {
                say(&format!("wrong {}", what.replace('\n', " ")));
                return Ok(());
            }
        }
    }
}

fn say(line: &str) {
    // Whoever listens has gone: so shall this.
    if writeln!(stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// One session.
fn live(address: &Path, random: &mut Random, held: &mut Option<Held>) -> Stop {
    let mut session = match Session::begin(address, held) {
        Ok(session) => session,
        Err(stop) => return stop,
    };
    loop {
        let done = match held {
            Some(task) => session.run(task, random),
            None => session.poll().map(|work| {
                *held = work;
                false
            }),
        };
        match done {
            Ok(true) => *held = None,
            Ok(false) => {}
            Err(stop) => return stop,
        }
    }
}

struct Session {
    connection: Connection,
    id: Value,
    now_ms: u64,
}

impl Session {
    fn begin(address: &Path, held: &mut Option<Held>) -> Result<Session, Stop> {
        let address = fs::read_to_string(address).map_err(|_| Stop::Hello)?;
        let mut session = Session { connection: Connection::open(&address)?, id: Value::Null, now_ms: 0 };
        let live: Vec<Value> = held.iter().map(|held| json!({"task": held.task, "fence": held.fence})).collect();
        let hello = json!({
            "name": "victim", "sdk": "xtask", "tasks": [{"name": "job"}], "queues": ["default"], "slots": 1, "live": live
        });
        let welcome = session.ask("/v1/workers/hello", &hello)?;
        session.id = welcome["session"].clone();
        if let Some(task) = held
            && !contains(&welcome["kept"], &task.task)
        {
            *held = None;
        }
        Ok(session)
    }

    /// An answer that is one; a server that is busy or goes is asked again.
    fn ask(&mut self, target: &str, body: &Value) -> Result<Value, Stop> {
        loop {
            let answer = self.connection.ask("POST", target, &body.to_string())?;
            match answer.status {
                200 => {
                    let value: Value = serde_json::from_str(&answer.body).map_err(|e| Stop::Wrong(e.to_string()))?;
                    self.now_ms = value["now_ms"].as_u64().unwrap_or(self.now_ms);
                    return Ok(value);
                }
                429 => thread::sleep(Duration::from_millis(5)),
                // The session is over, or the server stops.
                410 | 503 => return Err(Stop::Hello),
                status => return Err(Stop::Wrong(format!("{target} was answered {status}: {}", answer.body))),
            }
        }
    }

    fn poll(&mut self) -> Result<Option<Held>, Stop> {
        let body = json!({"session": self.id, "free": 1, "wait_ms": 500});
        let polled = self.ask("/v1/workers/poll", &body)?;
        let Some(work) = polled["work"].get(0) else { return Ok(None) };
        let text = |name: &str| work[name].as_str().unwrap_or_default().to_owned();
        let mut known = BTreeMap::new();
        for step in work["steps"].as_array().into_iter().flatten() {
            let key = step["key"].as_str().unwrap_or_default();
            say(&format!("step {} {key} {}", text("task"), step["value"]));
            known.insert(key.to_owned(), step["value"].clone());
        }
        let seed = work["input"].as_u64().ok_or_else(|| Stop::Wrong(format!("an input that is none: {work}")))?;
        Ok(Some(Held { task: text("task"), fence: text("fence"), seed, known, asked: None }))
    }

    /// Does the next call of a task. Says whether the task is out of its hands.
    fn run(&mut self, held: &mut Held, random: &mut Random) -> Result<bool, Stop> {
        let (key, call) = match &held.asked {
            Some(call) => (call["key"].as_str().unwrap_or_default().to_owned(), call.clone()),
            None => next(held, self.now_ms, random),
        };
        let mut op = call.clone();
        if let Some(fields) = op.as_object_mut() {
            fields.insert("task".to_owned(), json!(held.task));
            fields.insert("fence".to_owned(), json!(held.fence));
            if matches!(op_of(&call), "suspend" | "finish") {
                // The key is for us: these have none.
                if let Some(fields) = op.as_object_mut() {
                    fields.remove("key");
                }
            }
        }
        held.asked = Some(call.clone());
        // Sometimes twice: a repeated call is answered as the first was.
        let ops = if random.chance(16) { vec![op.clone(), op] } else { vec![op] };
        let told = self.ask("/v1/workers/ops", &json!({"session": self.id, "ops": ops}))?;
        held.asked = None;
        let Some(ack) = told["acks"].get(0) else { return Err(Stop::Wrong(format!("no acknowledgement: {told}"))) };
        if ack["ok"] != true {
            return match ack["error"]["kind"].as_str() {
                // It was taken away meanwhile.
                Some("stale_fence") => Ok(true),
                _ => Err(Stop::Wrong(format!("{call} was refused: {ack}"))),
            };
        }
        match op_of(&call) {
            "finish" => Ok(true),
            "suspend" => {
                // What has come already, or else it is given away.
                let resumed = ack["resumed"].as_array().filter(|resumed| !resumed.is_empty());
                let Some(step) = resumed.and_then(|resumed| resumed.first()) else { return Ok(true) };
                say(&format!("step {} {key} {}", held.task, step["value"]));
                held.known.insert(key, step["value"].clone());
                Ok(false)
            }
            _ => {
                let value = if op_of(&call) == "spawn" { ack["id"].clone() } else { call["value"].clone() };
                say(&format!("step {} {key} {value}", held.task));
                held.known.insert(key, value);
                Ok(false)
            }
        }
    }
}

fn op_of(call: &Value) -> &str {
    call["op"].as_str().unwrap_or_default()
}

fn contains(list: &Value, text: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|one| one == text))
}

/// The first call of the task that is not recorded, under its key.
fn next(held: &Held, now_ms: u64, random: &mut Random) -> (String, Value) {
    for (place, call) in program::calls(held.seed).into_iter().enumerate() {
        let key = format!("c{place}");
        let wait = |key: &str, wait: Value| {
            let mut wait = wait;
            wait["key"] = json!(key);
            json!({"op": "suspend", "key": key, "waits": [wait]})
        };
        if let Some(known) = held.known.get(&key) {
            let end = format!("{key}.end");
            if matches!(call, Call::Child) && !held.known.contains_key(&end) {
                return (end.clone(), wait(&end, json!({"kind": "task", "id": known})));
            }
            continue;
        }
        let call = match call {
            Call::Step => json!({"op": "step", "key": key, "value": random.next() >> 12}),
            Call::Sleep(ms) => wait(&key, json!({"kind": "timer", "until_ms": now_ms + ms})),
            Call::Event => wait(&key, json!({"kind": "event", "name": program::event(held.seed)})),
            Call::Child => {
                let input = program::child(held.seed, place);
                json!({"op": "spawn", "key": key, "spawn": {"name": "job", "input": input, "max_lost": 1_000_000}})
            }
        };
        return (key, call);
    }
    (String::new(), json!({"op": "finish", "key": "", "output": held.seed}))
}
