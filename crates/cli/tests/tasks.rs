//! The commands about tasks: the real binary against a real server, with a worker that speaks the protocol by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::serving::Serving;
use common::{TempDir, cairn, run};
use serde_json::{Value, json};

/// A worker that takes tasks named `order`.
struct Worker<'a> {
    server: &'a Serving,
    session: Value,
}

impl Worker<'_> {
    fn hello(server: &Serving) -> Worker<'_> {
        let hello =
            json!({"name": "w1", "sdk": "hand", "tasks": [{"name": "order"}], "queues": ["default"], "slots": 4});
        let session = server.post("/v1/workers/hello", &hello)["session"].clone();
        Worker { server, session }
    }

    /// The next task.
    fn take(&self) -> Value {
        let poll = json!({"session": self.session, "free": 1, "wait_ms": 20_000});
        self.server.post("/v1/workers/poll", &poll)["work"][0].clone()
    }

    /// Says something of a task.
    fn op(&self, work: &Value, mut op: Value) {
        op["task"] = work["task"].clone();
        op["fence"] = work["fence"].clone();
        let answer = self.server.post("/v1/workers/ops", &json!({"session": self.session, "ops": [op]}));
        assert_eq!(answer["acks"][0]["ok"], true, "{answer}");
    }
}

fn spawn(server: &Serving, more: &[&str]) -> String {
    server.ok(&[&["task", "spawn"], more].concat()).trim().to_owned()
}

/// Columns without the spaces that align them.
fn squeezed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn tasks_are_listed_by_what_they_are() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    let empty = run(&["task", "list", "--url", &server.url]);
    assert_eq!((empty.code, empty.stdout.as_str(), empty.stderr.as_str()), (Some(0), "", "there is no such task\n"));

    server.ok(&["queue", "set", "mail"]);
    let letter = spawn(&server, &["letter", "--queue", "mail", "--delay", "2h", "--tag", "to=a=b"]);
    let failed = spawn(&server, &["order", "1", "--max-attempts", "1"]);
    let worker = Worker::hello(&server);
    let work = worker.take();
    assert_eq!(work["task"], json!(failed));
    worker.op(&work, json!({"op": "finish", "failure": {"kind": "Declined", "message": "no\u{1b}[2J money"}}));
    let waiting = spawn(&server, &["order", "2", "--tag", "customer=17"]);
    let work = worker.take();
    worker.op(&work, json!({"op": "suspend", "waits": [{"key": "packed", "kind": "event", "name": "packed:2"}]}));

    let all = squeezed(&server.ok(&["task", "list"]));
    assert_eq!(all[0], "ID STATUS MADE NAME QUEUE TRY WHY");
    let made = |row: &str| {
        let (front, back) = row.split_once(" ago ").unwrap_or_else(|| row.split_once(" now ").unwrap());
        format!("{} | {back}", front.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ' || c == 's'))
    };
    let rows: Vec<String> = all[1..].iter().map(|row| made(row)).collect();
    assert_eq!(
        rows,
        [
            format!("{waiting} waiting | order default 1/5 for the event packed:2"),
            format!("{failed} failed | order default 1/1 Declined: no\\u{{1b}}[2J money"),
            format!("{letter} queued | letter mail 0/5 for the time that it was spawned for, in 1 h"),
        ]
    );

    let ids = |filter: &[&str]| {
        let tasks = server.json(&[&["task", "list"], filter].concat());
        tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), [waiting.as_str(), &failed, &letter]);
    for (filter, expected) in [
        (&["--queue", "mail"][..], &[&letter][..]),
        (&["--name", "order"], &[&waiting, &failed]),
        (&["--status", "failed"], &[&failed]),
        (&["--status", "queued,waiting"], &[&waiting, &letter]),
        (&["--status", "running"], &[]),
        (&["--tag", "customer"], &[&waiting]),
        (&["--tag", "customer=17"], &[&waiting]),
        (&["--tag", "customer=1"], &[]),
        (&["--tag", "to=a=b"], &[&letter]),
        (&["--queue", "default", "--name", "order", "--status", "waiting", "--tag", "customer"], &[&waiting]),
        (&["--after", &waiting], &[&failed, &letter]),
    ] {
        assert_eq!(ids(filter).iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
    // A list that was cut says how to go on.
    let cut = run(&["task", "list", "--limit", "1", "--url", &server.url]);
    assert_eq!(cut.stderr, format!("there may be more: --after {waiting}\n"));

    for (arguments, says) in [
        (&["--queue", "nowhere"][..], "there is no queue \"nowhere\""),
        (&["--status", "done"], "\"done\" is no status of a task; there are queued, running"),
        (&["--after", "17"], "after: \"17\" is no cursor that a list of tasks gave"),
    ] {
        let said = server.refused(&[&["task", "list"], arguments].concat());
        assert!(said.contains(says), "{said}");
    }
    assert!(server.refused(&["task", "show", "17"]).contains("the task's id \"17\": not a UUID"));
    let none = "019aa9a0-0000-7000-8000-000000000000";
    assert!(server.refused(&["task", "show", none]).contains("there is no task 019aa9a0"));
    assert!(server.refused(&["task", "spawn", "t", "--tag", "a:b"]).contains("is not of the form NAME=VALUE"));
}

#[test]
fn a_page_goes_on_where_the_one_before_ended() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &["--durability", "os"]);
    let spawns: Vec<Value> = (0..1_200).map(|n| json!({"name": "many", "input": n})).collect();
    let spawned = server.post("/v1/tasks", &json!({ "tasks": spawns }));
    let mut ids: Vec<&str> =
        spawned["results"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let listed = |more: &[&str]| {
        let tasks = server.json(&[&["task", "list"], more].concat());
        tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ids[..20]);
    assert_eq!(listed(&["--limit", "1100"]), ids[..1_100], "more than a page of the server");
    assert_eq!(listed(&["--limit", "5000"]), ids);
    assert_eq!(listed(&["--limit", "7", "--after", ids[600]]), ids[601..608]);
}

#[test]
fn a_task_is_shown_with_all_that_happened() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    let id = spawn(&server, &["order", "{\"n\": 1}", "--tag", "customer=17"]);
    let queued = squeezed(&server.ok(&["task", "show", &id]));
    assert_eq!(
        queued[..3],
        [format!("task {id}"), "name order in queue default".into(), "status queued, attempt 0 of 5".into()]
    );
    assert!(queued.contains(&"tag customer=17".to_owned()) && queued.contains(&"input {\"n\": 1}".to_owned()));
    assert!(queued.contains(&"waits for a worker: none that is there takes order from queue default".to_owned()));
    server.ok(&["queue", "pause", "default"]);
    let paused = squeezed(&server.ok(&["task", "show", &id]));
    assert!(paused.contains(&"waits for queue default, which is paused: cairn queue resume default".to_owned()));
    server.ok(&["queue", "resume", "default"]);

    let worker = Worker::hello(&server);
    let work = worker.take();
    worker.op(&work, json!({"op": "step", "key": "charge", "value": {"ok": true}}));
    let running = squeezed(&server.ok(&["task", "show", &id]));
    assert!(running.iter().any(|line| line.starts_with("running on w1 (hand); it spoke of it ")), "{running:?}");
    assert!(running.contains(&"status running, attempt 1 of 5".to_owned()), "{running:?}");
    let held = json!({"task": id, "fence": work["fence"], "step": "pack", "progress": {"percent": 40}});
    server.post("/v1/workers/beat", &json!({"session": worker.session, "live": [held]}));
    let running = squeezed(&server.ok(&["task", "show", &id]));
    let at = "running on w1 (hand), at step \"pack\", 40 %; it spoke of it ";
    assert!(running.iter().any(|line| line.starts_with(at)), "{running:?}");
    worker.op(&work, json!({"op": "finish", "failure": {"kind": "Oops", "message": "it broke"}, "retry_at_ms": 1}));
    let work = worker.take();
    let other = spawn(&server, &["letter"]);
    let soon_ms = cairn_env::Env::real().unix_time_ms() + 500;
    let wait = json!({"key": "child", "kind": "task", "id": other, "timeout_at_ms": soon_ms});
    worker.op(&work, json!({"op": "suspend", "waits": [wait]}));
    let work = worker.take();
    assert_eq!(work["steps"][1]["outcome"], "timed_out", "{work}");
    worker.op(&work, json!({"op": "finish", "output": [1, 2]}));

    let shown = server.ok(&["task", "show", &id]);
    let lines = squeezed(&shown);
    assert!(lines.contains(&"output [1,2]".to_owned()) || lines.contains(&"output [1, 2]".to_owned()), "{shown}");
    let head = lines.iter().position(|line| line == "AT AFTER WHAT NAME TRY OUTCOME").unwrap();
    // What stands behind when, after how long, and the bar.
    let happened = |line: &String| line.split_once("#").unwrap().1.trim_start_matches(['.', ' ']).to_owned();
    let happened: Vec<String> = lines[head + 1..].iter().map(happened).collect();
    assert_eq!(
        happened,
        [
            "task spawned",
            "run 1 begun",
            "step charge 1 done {\"ok\":true}",
            "run 1 failed by w1; Oops: it broke",
            "run 2 begun",
            "task child 2 timed out",
            "run 2 done by w1",
        ],
        "{shown}"
    );
    let whole = &server.json(&["task", "show", &id])[0];
    assert_eq!(
        (whole["task"]["status"].as_str(), whole["steps"][0]["key"].as_str()),
        (Some("completed"), Some("charge"))
    );
    assert_eq!((whole["runs"].as_array().unwrap().len(), whole.get("worker")), (2, None));
}

#[test]
fn a_spawn_that_finds_its_task_says_so() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    let id = spawn(&server, &["order", "--key", "k1"]);
    let again = ["task", "spawn", "order", "--key", "k1", "--url", &server.url];
    let found = run(&again);
    let said = (found.code, found.stdout.as_str(), found.stderr.as_str());
    assert_eq!(said, (Some(0), format!("{id}\n").as_str(), "there was one before; that one stands\n"));
    let found = run(&[&again[..], &["--json"]].concat());
    assert_eq!(found.stderr, "");
    assert_eq!(serde_json::from_str::<Value>(&found.stdout).unwrap()["created"], false);
}

#[test]
fn the_result_of_a_cancelled_task_is_why() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    let result = |id: &str| {
        let result = run(&["task", "result", id, "--url", &server.url]);
        assert_eq!((result.code, result.stdout.as_str()), (Some(1), ""));
        result.stderr
    };
    let id = spawn(&server, &["order"]);
    assert_eq!(result(&id), "it is queued and has not ended\n");
    server.ok(&["task", "cancel", &id, "--reason", "no need"]);
    assert_eq!(result(&id), "cancelled: no need\n");
    let shown = squeezed(&server.ok(&["task", "show", &id]));
    assert!(shown.contains(&"status cancelled, attempt 0 of 5".to_owned()), "{shown:?}");
    assert!(shown.last().is_some_and(|line| line.ends_with("task cancelled")), "no attempt is told: {shown:?}");

    let failed = spawn(&server, &["order", "--max-attempts", "1"]);
    let worker = Worker::hello(&server);
    let message = format!("{}\u{1b}[2J", "long ".repeat(50));
    worker.op(&worker.take(), json!({"op": "finish", "failure": {"kind": "Oops", "message": message}}));
    assert_eq!(result(&failed), format!("failed: Oops: {}\\u{{1b}}[2J\n", "long ".repeat(50)));
}

#[test]
fn a_queue_that_is_not_there_is_told_in_one_way() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    for arguments in [
        &["task", "list"][..],
        &["task", "spawn", "order"],
        &["task", "tail"],
        &["event", "list"],
        &["event", "emit", "e"],
        &["event", "show", "e"],
    ] {
        let said = server.refused(&[arguments, &["--queue", "nowhere"]].concat());
        let told = said.starts_with("cairn: there is no queue \"nowhere\"") && said.ends_with(" (404 not_found)\n");
        assert!(told, "{arguments:?}: {said}");
    }
}

/// A `cairn task tail`, and its lines as they come.
struct Tail {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(server: &Serving, more: &[&str]) -> Tail {
        let arguments = [&["task", "tail", "--every", "50ms", "--url", &server.url], more].concat();
        let mut child = cairn(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Tail { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("a line, not the end").unwrap()
    }

    /// The rest, and the exit code, after a signal.
    fn end(mut self, signal: &str) -> (Vec<String>, Option<i32>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        let rest = self.lines.map(Result::unwrap).collect();
        (rest, self.child.wait().unwrap().code())
    }
}

#[test]
fn a_tail_follows_tasks_until_it_is_told_to_stop() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    server.ok(&["queue", "set", "mail"]);
    // By its id it is from long ago.
    let older = "019aa9a0-0000-7000-8000-000000000000";
    let tasks = json!([{"id": older, "name": "order", "input": 1}]);
    server.post("/v1/tasks", &json!({ "tasks": tasks }));
    let unseen = spawn(&server, &["order", "2"]);
    server.ok(&["task", "cancel", &unseen]);
    let first = spawn(&server, &["order", "3", "--queue", "mail"]);

    let mut tail = Tail::start(&server, &["--last", "1"]);
    let mut of_mail = Tail::start(&server, &["--last", "5", "--queue", "mail", "--json"]);
    assert!(of_mail.next().contains(&first));
    // The moment at which it was seen stands in front.
    let said = |line: String| line.split_once(' ').unwrap().1.to_owned();
    let no_worker = "queued: for a worker: none that is there takes order from queue";
    assert_eq!(said(tail.next()), format!("{first} order {no_worker} mail"));
    let second = spawn(&server, &["order", "4"]);
    assert_eq!(said(tail.next()), format!("{second} order {no_worker} default"));
    server.ok(&["task", "cancel", &second, "--reason", "enough"]);
    assert_eq!(said(tail.next()), format!("{second} order cancelled: enough"));
    // One that was there before and was not shown.
    let worker = Worker::hello(&server);
    let work = worker.take();
    assert_eq!(said(tail.next()), format!("{older} order running"));
    worker.op(&work, json!({"op": "finish", "output": 1}));
    let completed = said(tail.next());
    assert!(completed.starts_with(&format!("{older} order completed: took ")), "{completed}");

    server.ok(&["task", "cancel", &first]);
    let cancelled: Value = serde_json::from_str(&of_mail.next()).unwrap();
    assert_eq!((cancelled["id"].as_str(), cancelled["status"].as_str()), (Some(first.as_str()), Some("cancelled")));
    assert!(said(tail.next()).starts_with(&format!("{first} order cancelled")));
    assert_eq!(tail.end("INT"), (Vec::new(), Some(0)));
    assert_eq!(of_mail.end("TERM"), (Vec::new(), Some(0)));

    // Told to stop, or with nobody to read it any more, it ends well; without its server it says why.
    assert!(server.refused(&["task", "tail", "--queue", "nowhere"]).contains("there is no queue \"nowhere\""));
    assert!(server.refused(&["task", "tail", "--every", "0s"]).contains("give some time"));
    let mut orphan = Tail::start(&server, &["--last", "1"]);
    orphan.next();
    server.kill();
    assert_eq!((orphan.lines.next().map(Result::unwrap), orphan.child.wait().unwrap().code()), (None, Some(1)));
}

#[test]
fn queues_are_made_changed_shown_and_deleted() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    assert_eq!(
        squeezed(&server.ok(&["queue", "set", "mail", "--retention-days", "7", "--event-ttl", "48h"]))[1],
        "mail active 7 d 2 d any"
    );
    let set = &server.json(&["queue", "set", "mail", "--retention-days", "8"])[0];
    assert_eq!((&set["retention_days"], &set["event_ttl_ms"]), (&json!(8), &json!(172_800_000)), "the rest stays");
    let list = squeezed(&server.ok(&["queue", "list"]));
    assert_eq!(
        list,
        ["NAME STATUS KEEPS TASKS KEEPS EVENTS MAY QUEUE", "default active 30 d 30 d any", "mail active 8 d 2 d any"]
    );
    assert_eq!(server.json(&["queue", "pause", "mail"])[0]["status"], "paused");
    assert_eq!(squeezed(&server.ok(&["queue", "show", "mail"]))[1], "mail paused 8 d 2 d any");
    assert_eq!(squeezed(&server.ok(&["queue", "resume", "mail"]))[1], "mail active 8 d 2 d any");
    let names: Vec<Value> = server.json(&["queue", "list"]).iter().map(|queue| queue["name"].clone()).collect();
    assert_eq!(names, ["default", "mail"]);

    assert_eq!(squeezed(&server.ok(&["queue", "set", "mail", "--max-waiting", "1"]))[1], "mail active 8 d 2 d 1");
    let id = spawn(&server, &["letter", "--queue", "mail"]);
    assert!(
        server.refused(&["task", "spawn", "letter", "--queue", "mail"]).contains("has 1 tasks queued, and may have 1")
    );
    let held = server.refused(&["queue", "delete", "mail"]);
    assert!(held.contains("holds tasks that have not ended") && held.contains(&id), "{held}");
    server.ok(&["task", "cancel", &id]);
    assert_eq!(server.ok(&["queue", "delete", "mail"]), "deleted mail\n");
    assert_eq!(server.json(&["task", "show", &id])[0]["task"]["status"], "cancelled", "its tasks are kept");
    for command in ["show", "pause", "resume", "delete"] {
        let said = server.refused(&["queue", command, "mail"]);
        assert!(said.contains("there is no queue \"mail\""), "{command}: {said}");
    }
    assert!(server.refused(&["queue", "delete", "default"]).contains("is always there"));
    assert!(server.refused(&["queue", "set", "mail", "--retention-days", "0"]).contains("at least 1"));
    let long = "q".repeat(58);
    assert!(server.refused(&["queue", "set", &long]).contains("58 bytes; at most 57"));
}

#[test]
fn events_are_listed_and_shown() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    let none = run(&["event", "list", "--url", &server.url]);
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (Some(0), "", "there is no such event\n"));
    for (name, payload) in [("packed:2", "2"), ("packed:1", "{\"box\": 1}"), ("sent", "null")] {
        assert_eq!(server.ok(&["event", "emit", name, payload]), "emitted\n");
    }
    assert_eq!(server.ok(&["event", "emit", "sent", "1"]), "there was one before; that one stands\n");
    let list = squeezed(&server.ok(&["event", "list", "--queue", "default", "--prefix", "packed:"]));
    assert_eq!(list[0], "NAME EMITTED PAYLOAD");
    assert!(list.len() == 3 && list[1].starts_with("packed:1 ") && list[2].ends_with(" 2"), "{list:?}");
    let names = |more: &[&str]| {
        let events = server.json(&[&["event", "list"], more].concat());
        events.iter().map(|event| event["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[]), "packed:1 packed:2 sent");
    assert_eq!(names(&["--limit", "1"]), "packed:1");
    assert_eq!(names(&["--after", "packed:1"]), "packed:2 sent");
    let cut = run(&["event", "list", "--limit", "2", "--url", &server.url]);
    assert_eq!(cut.stderr, "there are more: --after 'packed:2'\n");
    assert_eq!(server.ok(&["event", "show", "packed:1"]), "{\"box\": 1}\n");
    assert!(server.refused(&["event", "list", "--queue", "nowhere"]).contains("there is no queue \"nowhere\""));
    assert!(server.refused(&["event", "list", "--prefix", "b", "--after", "a"]).contains("cannot go on behind \"a\""));
    assert!(server.refused(&["event", "show", "lost"]).contains("no event \"lost\" was emitted"));
    assert!(server.refused(&["event", "emit", "e", "{"]).contains("is not JSON"));
}

#[test]
fn workers_are_listed() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    let none = run(&["worker", "list", "--url", &server.url]);
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (Some(0), "", "no worker is there\n"));
    let id = spawn(&server, &["order"]);
    let worker = Worker::hello(&server);
    worker.take();
    let list = squeezed(&server.ok(&["worker", "list"]));
    assert_eq!(list[0], "NAME SDK SLOTS HEARD OF QUEUES TASKS");
    assert!(list[1].starts_with("w1 hand 1/4 ") && list[1].ends_with(" ago default order"), "{list:?}");
    assert_eq!(server.json(&["worker", "list"])[0]["held"], json!([id]));
}
