//! The release binary behind HTTP, killed (SIGKILL) again and again
//! while connections write and read, and while it starts.
//!
//! What a client was answered is noted by its connection's thread the moment the answer is whole.
//! After each restart every key is read through HTTP, one by one and by scans, and judged.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Kills;
use crate::http::{Answer, Connection, NoAnswer};
use crate::prove::ledger::{End, Ledger, pause_ms};
use crate::prove::random::Random;
use crate::prove::stage::{Context, Scene, Stop};
use crate::prove::writer::{self, Content, Step, Writer};
use crate::server::Server;

const WRITERS: usize = 6;
const READERS: u64 = 2;
/// Kills of one directory.
const KILLS_OF_ONE: u64 = 15;
/// Then `cairn check` looks at what was left.
const CHECK_EVERY: u64 = 5;

/// What `serve` is started with, a set for each directory in turn. A small budget makes small
/// memtables, the series' profile compacts all the time.
const FLAGS: [[&str; 6]; 4] = [
    ["--profile", "series", "--memory", "4MiB", "--durability", "commit"],
    ["--profile", "series", "--memory", "8MiB", "--durability", "os"],
    ["--profile", "default", "--memory", "4MiB", "--durability", "commit"],
    ["--profile", "series", "--memory", "4MiB", "--durability", "interval:20ms"],
];

/// Kills until the time is over, and at least `least` times.
pub(crate) fn served(context: &Context<'_>, stop: &Stop, least: u64) -> Result<Kills, String> {
    let mut kills = Kills::default();
    for round in 0.. {
        if kills.kills >= least && stop.is_over() {
            break;
        }
        let seed = Random::of(&[context.seed, 3, round]).next() >> 16;
        let flags = FLAGS.get(usize::try_from(round).unwrap_or_default() % FLAGS.len()).unwrap_or(&FLAGS[0]);
        let ledger = Mutex::new(Ledger::new(WRITERS, End::Process));
        let mut round_of = Round { context, seed, flags, ledger: &ledger, random: Random::of(&[seed, 4]) };
        let lived = round_of.run(stop, least, &mut kills);
        kills.counts.add(&lock(&ledger).counts);
        lived.map_err(|e| format!("round {round} of the server ({}): {e}", flags.join(" ")))?;
    }
    Ok(kills)
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One directory.
struct Round<'a> {
    context: &'a Context<'a>,
    seed: u64,
    flags: &'a [&'a str; 6],
    ledger: &'a Mutex<Ledger>,
    random: Random,
}

impl Round<'_> {
    fn run(&mut self, stop: &Stop, least: u64, kills: &mut Kills) -> Result<(), String> {
        let dir = self.context.fresh("served")?;
        let binary = self.context.binary;
        for life in 1..=KILLS_OF_ONE {
            if kills.kills >= least && stop.is_over() {
                break;
            }
            let scene = Scene(format!("life {life} of {}", dir.display()));
            if self.random.chance(4) {
                let starting = Server::spawn(binary, &dir, "127.0.0.1:0", self.flags)?;
                thread::sleep(Duration::from_millis(pause_ms(&mut self.random, 30)));
                starting.kill().map_err(scene.at())?;
                kills.while_opening += 1;
                kills.kills += 1;
            }
            let server = Server::start(binary, &dir, "127.0.0.1:0", self.flags).map_err(scene.at())?;
            let writers = self.verify(&server.address()).map_err(scene.at())?;
            self.live(server, writers).map_err(scene.at())?;
            kills.kills += 1;
            if life % CHECK_EVERY == 0 {
                self.context.check(&dir).map_err(scene.at())?;
                kills.checks += 1;
            }
        }
        let server = Server::start(binary, &dir, "127.0.0.1:0", self.flags)?;
        self.verify(&server.address())?;
        server.stop()
    }

    /// Reads everything and has it judged. Returns the writers as they were found.
    fn verify(&self, address: &str) -> Result<Vec<Writer>, String> {
        let mut reading = Reading { connection: Connection::open(address).map_err(unanswered)?, seq: 0 };
        let (floors, ceilings) = {
            let ledger = lock(self.ledger);
            (ledger.floors().to_vec(), ledger.ceilings())
        };
        let mut writers = Vec::new();
        for (name, (floor, ceiling)) in (0u64..).zip(floors.iter().zip(&ceilings)) {
            let content = reading.content(name)?;
            writers.push(Writer::find(self.seed, name, *floor, *ceiling, &content).map_err(|e| format!("LOST: {e}"))?);
        }
        let steps: Vec<u64> = writers.iter().map(Writer::count).collect();
        lock(self.ledger).found(reading.seq, &steps)?;
        Ok(writers)
    }

    /// Writes and reads from all sides until the server is killed under it.
    fn live(&mut self, server: Server, writers: Vec<Writer>) -> Result<(), String> {
        let address = server.address();
        let pause = Duration::from_millis(pause_ms(&mut self.random, 600));
        let killed = AtomicBool::new(false);
        let (ledger, killed, address) = (self.ledger, &killed, &address);
        let seed = self.random.next();
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for writer in writers {
                clients.push(scope.spawn(move || Client { ledger, killed, writer }.write(address)));
            }
            for reader in 0..READERS {
                let random = Random::of(&[seed, reader]);
                clients.push(scope.spawn(move || read(ledger, killed, random, address)));
            }
            thread::sleep(pause);
            killed.store(true, Ordering::SeqCst);
            let done = server.kill();
            let clients: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
            // What the server says of its end explains what its clients saw.
            done?;
            clients.into_iter().try_for_each(|client| client.map_err(|_| "a client panicked".to_owned())?)
        })
    }
}

fn unanswered(error: NoAnswer) -> String {
    match error {
        NoAnswer::Ended => "the server ended the connection".to_owned(),
        NoAnswer::Wrong(text) => text,
    }
}

/// The connection that verifies.
struct Reading {
    connection: Connection,
    /// The number that the database was read at.
    seq: u64,
}

impl Reading {
    fn get(&mut self, target: &str) -> Result<Answer, String> {
        let answer = self.connection.ask("GET", target, "").map_err(unanswered)?;
        self.seq = self.seq.max(answer.seq.unwrap_or_default());
        match answer.status {
            200 | 404 => Ok(answer),
            status => Err(format!("GET {target} was answered {status}: {}", answer.body)),
        }
    }

    fn content(&mut self, writer: u64) -> Result<Content, String> {
        let mut content = Content::new();
        for index in 0..writer::KEYS {
            let key = writer::key(writer, index);
            let answer = self.get(&format!("/{key}"))?;
            if answer.status == 200 {
                content.insert(key, answer.body);
            }
        }
        let (start, end) = (writer::key(writer, 0), writer::key(writer, writer::KEYS));
        let scanned = self.get(&format!("/scan?start={start}&end={end}"))?.body;
        let got = content.keys().cloned().collect::<Vec<_>>().join(",");
        if scanned.trim_end() == got {
            Ok(content)
        } else {
            Err(format!("LOST: one by one there are {got}, in a scan {scanned}"))
        }
    }
}

/// The thread of a writing connection.
struct Client<'a> {
    ledger: &'a Mutex<Ledger>,
    killed: &'a AtomicBool,
    writer: Writer,
}

impl Client<'_> {
    /// Writes until the connection ends, which only the kill may bring about.
    fn write(mut self, address: &str) -> Result<(), String> {
        match self.write_on(address) {
            Err(NoAnswer::Ended) if self.killed.load(Ordering::SeqCst) => Ok(()),
            Err(error) => Err(unanswered(error)),
            Ok(()) => Ok(()),
        }
    }

    fn write_on(&mut self, address: &str) -> Result<(), NoAnswer> {
        let mut connection = Connection::open(address)?;
        loop {
            let step = self.writer.next();
            match (step.draw >> 8) % 1024 {
                0 if self.writer.name() == 0 => self.maintain(&mut connection, "/v1/compact")?,
                1..3 if self.writer.name() == 0 => self.maintain(&mut connection, "/v1/flush")?,
                3..50 => self.be_refused(&mut connection)?,
                _ => {}
            }
            let seq = self.send(&mut connection, &step)?;
            let writer = usize::try_from(self.writer.name()).unwrap_or(usize::MAX);
            let noted = lock(self.ledger).acknowledged(writer, step.number, seq, true);
            noted.map_err(NoAnswer::Wrong)?;
            self.writer.apply(&step);
        }
    }

    fn maintain(&self, connection: &mut Connection, target: &str) -> Result<(), NoAnswer> {
        let answer = connection.ask("POST", target, "")?;
        if answer.status < 300 { Ok(()) } else { Err(wrong(target, &answer)) }
    }

    /// Sends a step until it is written; its sequence number.
    fn send(&self, connection: &mut Connection, step: &Step) -> Result<u64, NoAnswer> {
        let mut conditions = true;
        loop {
            let answer = match step.single() {
                Some((index, true)) => {
                    let value = self.writer.value(index, step.number);
                    connection.ask("PUT", &format!("/{}", self.writer.key(index)), &value)?
                }
                Some((index, false)) => connection.ask("DELETE", &format!("/{}", self.writer.key(index)), "")?,
                None => connection.ask("POST", "/v1/batch", &self.batch(step, conditions))?,
            };
            match answer.status {
                200 => {
                    let body = answer.body.trim_matches(['{', '}', '\n']).strip_prefix("\"seq\":");
                    let seq = answer.seq.or_else(|| body.and_then(|seq| seq.trim().parse().ok()));
                    return seq.ok_or_else(|| wrong("a write", &answer));
                }
                // The condition holds, but what would tell is no longer in memory.
                409 if conditions && step.absent.is_some() => conditions = false,
                429 => thread::sleep(Duration::from_millis(2)),
                _ => return Err(wrong("a write", &answer)),
            }
        }
    }

    fn batch(&self, step: &Step, conditions: bool) -> String {
        let put = |index: &u64| {
            let (key, value) = (self.writer.key(*index), self.writer.value(*index, step.number));
            format!("{{\"put\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}")
        };
        let delete = |index: &u64| format!("{{\"delete\":{{\"key\":\"{}\"}}}}", self.writer.key(*index));
        let ops: Vec<String> = step.puts.iter().map(put).chain(step.deletes.iter().map(delete)).collect();
        let absent = step.absent.filter(|_| conditions);
        let absent = absent.map(|index| format!("{{\"absent\":{{\"key\":\"{}\"}}}}", self.writer.key(index)));
        let buffered = if step.draw.is_multiple_of(5) { ",\"durability\":\"buffered\"" } else { "" };
        format!("{{\"ops\":[{}],\"conditions\":[{}]{buffered}}}", ops.join(","), absent.unwrap_or_default())
    }

    /// A batch whose condition does not hold: it must be refused, and none of it may ever be seen.
    fn be_refused(&self, connection: &mut Connection) -> Result<(), NoAnswer> {
        let Some(index) = self.writer.existing() else { return Ok(()) };
        let key = self.writer.key(index);
        let put = |index| format!("{{\"put\":{{\"key\":\"{}\",\"value\":\"0:refused\"}}}}", self.writer.key(index));
        let ops: Vec<String> = (0..4).map(put).collect();
        let condition = if index.is_multiple_of(2) {
            format!("{{\"absent\":{{\"key\":\"{key}\"}}}}")
        } else {
            format!("{{\"unchanged\":{{\"key\":\"{key}\",\"since\":0}}}}")
        };
        let body = format!("{{\"ops\":[{}],\"conditions\":[{condition}]}}", ops.join(","));
        let answer = connection.ask("POST", "/v1/batch", &body)?;
        match answer.status {
            409 => {
                lock(self.ledger).counts.refused += 1;
                Ok(())
            }
            429 => Ok(()),
            _ => Err(wrong("a batch that must be refused", &answer)),
        }
    }
}

fn wrong(what: &str, answer: &Answer) -> NoAnswer {
    NoAnswer::Wrong(format!("{what} was answered {}: {}", answer.status, answer.body))
}

/// The thread of a reading connection: what a read over the network ever showed is never lost.
fn read(ledger: &Mutex<Ledger>, killed: &AtomicBool, mut random: Random, address: &str) -> Result<(), String> {
    let mut connection = match Connection::open(address) {
        Err(NoAnswer::Ended) if killed.load(Ordering::SeqCst) => return Ok(()),
        opened => opened.map_err(unanswered)?,
    };
    loop {
        let owner = random.below(WRITERS as u64);
        let key = writer::key(owner, random.below(writer::KEYS));
        let answer = match connection.ask("GET", &format!("/{key}"), "") {
            Err(NoAnswer::Ended) if killed.load(Ordering::SeqCst) => return Ok(()),
            answer => answer.map_err(unanswered)?,
        };
        let seq = answer.seq.unwrap_or_default();
        let shown = match (answer.status, writer::number(&answer.body)) {
            (404, _) => None,
            (200, Some(step)) if step > 0 => Some((usize::try_from(owner).unwrap_or(usize::MAX), step)),
            _ => return Err(format!("GET /{key} was answered {}: {}", answer.status, answer.body)),
        };
        lock(ledger).shown(shown, seq, true)?;
    }
}
