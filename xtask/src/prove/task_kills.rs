//! The stage `task kills`: a server and its workers, each a process of its own, are killed (SIGKILL) again and again
//! while tasks step, sleep, wait for events and for children. What was acknowledged or shown is noted outside.
//!
//! In the end, when nothing is killed any more, every task ends; each has the steps of its program, recorded once, with
//! the value that was acknowledged and shown.

mod program;
mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::random::Random;
use super::stage::{Context, Figure, Scene, Stop};
use crate::http::{Connection, NoAnswer};
use crate::server::Server;
pub(crate) use worker::run as run_worker;

const WORKERS: usize = 4;
/// What a killed worker held is given to others after half a minute; and some of that is lost again.
const ENDS: Duration = Duration::from_secs(150);
const CHECK_EVERY: u64 = 8;
/// More are not under way at a time: those whose worker was killed wait for its lease to end.
const OPEN_MAX: usize = 400;

/// What was acknowledged or shown, to anybody.
#[derive(Debug, Default)]
struct Witness {
    steps: BTreeMap<(String, String), String>,
    noted: u64,
    wrong: Option<String>,
}

impl Witness {
    fn note(&mut self, line: &str) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("step"), Some(task), Some(key), Some(value)) => {
                self.noted += 1;
                let at = (task.to_owned(), key.to_owned());
                let before = self.steps.insert(at, value.to_owned());
                if let Some(before) = before.filter(|before| before != value) {
                    let text = format!("step {key} of task {task} was told as {before}, then as {value}");
                    self.wrong.get_or_insert(text);
                }
            }
            _ => drop(self.wrong.get_or_insert_with(|| format!("a worker said: {line}"))),
        }
    }
}

fn lock(witness: &Mutex<Witness>) -> std::sync::MutexGuard<'_, Witness> {
    witness.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's process. Killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(address: &Path, seed: u64, witness: &Arc<Mutex<Witness>>) -> Result<Worker, String> {
        let this = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
        let mut child = Command::new(this)
            .arg("task-worker")
            .arg(address)
            .arg(seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start a worker: {e}"))?;
        let stdout = child.stdout.take().ok_or("a worker without output")?;
        let witness = witness.clone();
        thread::spawn(move || {
            // A line that a kill cut short was not said.
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
                lock(&witness).note(line.trim_end());
                line.clear();
            }
        });
        Ok(Worker(child))
    }

    fn kill(mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            ended => Err(format!("a worker ended by itself: {ended:?}")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A task that the witness has spawned.
struct Spawned {
    id: String,
    seed: u64,
    /// Its event was emitted.
    told: bool,
}

struct Run<'a> {
    context: &'a Context<'a>,
    random: Random,
    witness: Arc<Mutex<Witness>>,
    spawned: Vec<Spawned>,
    /// Of the spawned, how many from the front have ended.
    ended: usize,
    seeds: u64,
    figures: Counts,
}

#[derive(Default)]
struct Counts {
    server: u64,
    workers: u64,
    steps: u64,
    tasks: u64,
    checks: u64,
}

/// Kills until the time is over, and at least so many of each kind.
pub(crate) fn run(context: &Context<'_>, stop: &Stop, least: u64) -> Result<Vec<Figure>, String> {
    let mut run = Run {
        context,
        random: Random::of(&[context.seed, 10]),
        witness: Arc::default(),
        spawned: Vec::new(),
        ended: 0,
        seeds: 0,
        figures: Counts::default(),
    };
    run.live(stop, least)?;
    let Counts { server, workers, steps, tasks, checks } = run.figures;
    let noted = lock(&run.witness).noted;
    Ok(vec![
        Figure::new("kills of the server", server),
        Figure::new("kills of workers", workers),
        Figure::new("tasks ended", tasks),
        Figure::new("steps recorded once", steps),
        Figure::new("steps acknowledged or shown", noted),
        Figure::new("checks of all files", checks),
    ])
}

impl Run<'_> {
    fn live(&mut self, stop: &Stop, least: u64) -> Result<(), String> {
        let dir = self.context.fresh("tasks")?;
        let address = self.context.fresh("address")?;
        let flags = ["--profile", "series", "--memory", "16MiB"];
        let start = || -> Result<Server, String> {
            let server = Server::start(self.context.binary, &dir, "127.0.0.1:0", &flags)?;
            // Put there whole, since workers read it at any time.
            let beside = address.with_extension("new");
            let put = fs::write(&beside, server.address()).and_then(|()| fs::rename(&beside, &address));
            put.map_err(|e| format!("{}: {e}", address.display()))?;
            Ok(server)
        };
        let mut server = start()?;
        let mut seeds = 0u64;
        let mut new_worker = |witness: &Arc<Mutex<Witness>>| {
            seeds += 1;
            Worker::start(&address, self.context.seed ^ seeds << 32, witness)
        };
        let mut workers = (0..WORKERS).map(|_| new_worker(&self.witness)).collect::<Result<Vec<_>, _>>()?;
        for round in 1.. {
            if stop.is_over() && self.figures.server >= least && self.figures.workers >= least {
                break;
            }
            let scene = Scene(format!("round {round} in {}", dir.display()));
            self.spawn_and_emit(&server.address()).map_err(scene.at())?;
            thread::sleep(Duration::from_millis(self.random.below(250)));
            if self.random.chance(2) {
                server.kill().map_err(scene.at())?;
                self.figures.server += 1;
                if self.figures.server.is_multiple_of(CHECK_EVERY) {
                    self.context.check(&dir).map_err(scene.at())?;
                    self.figures.checks += 1;
                }
                server = start().map_err(scene.at())?;
            }
            if self.random.chance(2) {
                let one = usize::try_from(self.random.below(WORKERS as u64)).unwrap_or_default();
                workers.swap_remove(one).kill().map_err(scene.at())?;
                self.figures.workers += 1;
                workers.push(new_worker(&self.witness).map_err(scene.at())?);
            }
            self.unharmed()?;
        }
        self.end(&server)?;
        workers.into_iter().try_for_each(Worker::kill)?;
        server.stop()?;
        self.context.check(&dir)
    }

    fn unharmed(&self) -> Result<(), String> {
        lock(&self.witness).wrong.clone().map_or(Ok(()), Err)
    }

    /// Spawns some tasks, and emits the events of some; what was not answered is asked again.
    fn spawn_and_emit(&mut self, address: &str) -> Result<(), String> {
        let mut connection = Connection::open(address).map_err(unanswered)?;
        let open = self.spawned.len() - self.ended;
        let count = if open < OPEN_MAX { self.random.below(6) } else { 0 };
        let seeds: Vec<u64> = (0..count).map(|n| self.context.seed % 1_000 * 10_000_000 + self.seeds + n).collect();
        self.seeds += count;
        let spawn = |seed: &u64| json!({"name": "job", "input": seed, "idempotency_key": format!("job:{seed}"), "max_lost": 1_000_000});
        let body = json!({"tasks": seeds.iter().map(spawn).collect::<Vec<_>>(), "atomic": self.random.chance(2)});
        let results = ask(&mut connection, "POST", "/v1/tasks", &body)?;
        // Spawned again, they are the same.
        let again = ask(&mut connection, "POST", "/v1/tasks", &body)?;
        for (place, seed) in seeds.into_iter().enumerate() {
            let (id, same) = (&results["results"][place]["id"], &again["results"][place]);
            match id.as_str() {
                Some(id) if same["id"] == id && same["created"] == false => {
                    self.spawned.push(Spawned { id: id.to_owned(), seed, told: false });
                }
                _ => return Err(format!("task {seed} was spawned as {id}, then as {same}")),
            }
        }
        for spawned in self.spawned.iter_mut().filter(|spawned| !spawned.told) {
            if self.random.chance(3) {
                emit(&mut connection, spawned)?;
            }
        }
        // Those that have ended need not be asked again and again.
        while let Some(first) = self.spawned.get(self.ended) {
            let target = format!("/v1/tasks/{}/result", first.id);
            match ask(&mut connection, "GET", &target, &Value::Null)?["status"].as_str() {
                Some("completed") => self.ended += 1,
                _ => break,
            }
        }
        Ok(())
    }

    /// Waits until all have ended, and holds what is there against what was told.
    fn end(&mut self, server: &Server) -> Result<(), String> {
        let mut connection = Connection::open(&server.address()).map_err(unanswered)?;
        for spawned in self.spawned.iter_mut().filter(|spawned| !spawned.told) {
            emit(&mut connection, spawned)?;
        }
        let until = Instant::now() + ENDS;
        let mut all: Vec<(String, u64)> =
            self.spawned.iter().map(|spawned| (spawned.id.clone(), spawned.seed)).collect();
        let mut place = 0;
        while let Some((id, seed)) = all.get(place).cloned() {
            let result = loop {
                self.unharmed()?;
                let target = format!("/v1/tasks/{id}/result?wait_ms=1000");
                let result = ask(&mut connection, "GET", &target, &Value::Null)?;
                match result["status"].as_str() {
                    Some("completed") => break result,
                    Some("queued" | "running" | "waiting") if Instant::now() < until => {}
                    _ => {
                        let task = ask(&mut connection, "GET", &format!("/v1/tasks/{id}"), &Value::Null)?;
                        return Err(format!("LOST: after {ENDS:?} task {id} has not ended: {task}"));
                    }
                }
            };
            if result["output"] != seed {
                return Err(format!("task {id} of seed {seed} returned {}", result["output"]));
            }
            let steps = ask(&mut connection, "GET", &format!("/v1/tasks/{id}/steps?limit=1000"), &Value::Null)?;
            let steps = steps["items"].as_array().cloned().unwrap_or_default();
            self.judge(&id, seed, &steps)?;
            for step in steps.iter().filter(|step| step["kind"] == "spawn") {
                let child = step["value"].as_str().unwrap_or_default().to_owned();
                let at = step["key"].as_str().and_then(|key| key.trim_start_matches('c').parse().ok());
                all.push((child, program::child(seed, at.unwrap_or_default())));
            }
            place += 1;
        }
        self.figures.tasks = all.len() as u64;
        let witness = lock(&self.witness);
        let known: std::collections::BTreeSet<&String> = all.iter().map(|(id, _)| id).collect();
        match witness.steps.keys().find(|(task, _)| !known.contains(task)) {
            Some((task, _)) => Err(format!("LOST: task {task} was worked on, and nobody knows of it")),
            None => Ok(()),
        }
    }

    /// The recorded steps of a task are those of its program, each with the value that was told.
    fn judge(&mut self, id: &str, seed: u64, steps: &[Value]) -> Result<(), String> {
        if steps.len() != program::steps(seed) {
            return Err(format!("task {id} has {} steps; its program {}", steps.len(), program::steps(seed)));
        }
        for step in steps {
            let at = (id.to_owned(), step["key"].as_str().unwrap_or_default().to_owned());
            // Who ended the task had said all of them before; what it said may still be on its way.
            let mut told = None;
            for _ in 0..1_000 {
                told = lock(&self.witness).steps.get(&at).cloned();
                if told.is_some() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            if told.as_ref() != Some(&step["value"].to_string()) {
                return Err(format!("LOST: step {} of task {id} was told as {told:?} and is {}", at.1, step["value"]));
            }
        }
        self.figures.steps += steps.len() as u64;
        Ok(())
    }
}

fn unanswered(error: NoAnswer) -> String {
    match error {
        NoAnswer::Ended => "the server ended the connection".to_owned(),
        NoAnswer::Wrong(text) => text,
    }
}

/// Nothing kills the server while the witness asks.
fn ask(connection: &mut Connection, method: &str, target: &str, body: &Value) -> Result<Value, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = connection.ask(method, target, &body).map_err(unanswered)?;
    match answer.status {
        200 => serde_json::from_str(&answer.body).map_err(|e| format!("{target}: {e}")),
        status => Err(format!("{method} {target} was answered {status}: {}", answer.body)),
    }
}

fn emit(connection: &mut Connection, spawned: &mut Spawned) -> Result<(), String> {
    let body = json!({"events": [{"name": program::event(spawned.seed), "payload": spawned.seed}]});
    let emitted = ask(connection, "POST", "/v1/queues/default/events", &body)?;
    match &emitted["results"][0]["created"] {
        Value::Bool(true) => {
            spawned.told = true;
            Ok(())
        }
        other => Err(format!("an event that was never emitted was: {other}")),
    }
}
