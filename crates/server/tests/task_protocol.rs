//! The worker protocol over HTTP, and what it refuses: each with a kind, and nothing else disturbed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use common::{Answer, Running};
use serde_json::{Value, json};

const ID: &str = "0199b9a0-0000-7000-8000-000000000000";

async fn send(server: &Running, method: &str, target: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    server
        .ask(format!("{method} {target} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}"))
        .await
}

async fn get(server: &Running, target: &str) -> Value {
    let answer = send(server, "GET", target, "", "").await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn post(server: &Running, target: &str, body: Value) -> Value {
    let answer = send(server, "POST", target, "cairn-protocol: 1\r\n", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn hello(server: &Running) -> String {
    let hello = json!({"name": "w", "sdk": "test", "tasks": [{"name": "t"}], "queues": ["default"], "slots": 9});
    post(server, "/v1/workers/hello", hello).await["session"].as_str().unwrap().to_owned()
}

/// One task in the hands of a new session: session, task, fence.
async fn handed(server: &Running) -> (String, String, String) {
    let spawned = post(server, "/v1/tasks", json!({"tasks": [{"name": "t", "input": 1}]})).await;
    let session = hello(server).await;
    let polled = post(server, "/v1/workers/poll", json!({"session": session, "free": 1, "wait_ms": 1_000})).await;
    let work = &polled["work"][0];
    assert_eq!(work["task"], spawned["results"][0]["id"]);
    (session, work["task"].as_str().unwrap().to_owned(), work["fence"].as_str().unwrap().to_owned())
}

async fn op(server: &Running, session: &str, op: Value) -> Value {
    post(server, "/v1/workers/ops", json!({"session": session, "ops": [op]})).await["acks"][0].take()
}

#[tokio::test]
async fn a_task_goes_through_the_protocol() {
    let server = Running::new().await;
    let (session, task, fence) = handed(&server).await;
    let step = json!({"op": "step", "task": task, "fence": fence, "key": "a", "value": {"n": 1.50}});
    let suspend =
        json!({"op": "suspend", "task": task, "fence": fence, "waits": [{"key": "e", "kind": "event", "name": "go"}]});
    let acks = post(&server, "/v1/workers/ops", json!({"session": session, "ops": [step, suspend]})).await;
    assert_eq!(acks["acks"][0], json!({"ok": true}));
    assert_eq!(get(&server, &format!("/v1/tasks/{task}")).await["waiting"][0]["kind"], "event");
    let emitted = json!({"events": [{"name": "go", "payload": true}, {"name": "go", "payload": false}]});
    let emitted = post(&server, "/v1/queues/default/events", emitted).await;
    assert_eq!(emitted["results"], json!([{"created": true}, {"created": false}]));
    let polled = post(&server, "/v1/workers/poll", json!({"session": session, "free": 1, "wait_ms": 1_000})).await;
    let work = &polled["work"][0];
    assert_eq!((&work["steps"][0]["key"], &work["steps"][1]["value"]), (&json!("a"), &json!(true)));
    let finish = json!({"op": "finish", "task": task, "fence": work["fence"], "output": [1]});
    assert_eq!(op(&server, &session, finish.clone()).await, json!({"ok": true}));
    // A worker that answers twice gets the same answer.
    assert_eq!(op(&server, &session, finish).await, json!({"ok": true}));
    let result = get(&server, &format!("/v1/tasks/{task}/result?wait_ms=1000")).await;
    assert_eq!(result, json!({"status": "completed", "output": [1]}));
    // Payloads are kept as they came.
    let steps = send(&server, "GET", &format!("/v1/tasks/{task}/steps"), "", "").await;
    assert!(steps.text().contains("1.5"), "{}", steps.text());
    post(&server, "/v1/workers/bye", json!({"session": session})).await;
    server.stopped().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_disturbs_nobody() {
    let server = Running::new().await;
    let (session, task, fence) = handed(&server).await;
    let at = |op: Value| json!({"session": session, "ops": [op]}).to_string();
    let large = "x".repeat((1 << 20) + 1);
    let spawn = |spawn: Value| json!({"tasks": [spawn], "atomic": true}).to_string();
    let cases = [
        ("POST", "/v1/tasks".to_owned(), "{".to_owned(), 400, "invalid"),
        ("POST", "/v1/tasks".to_owned(), r#"{"tasks":[],"colour":1}"#.to_owned(), 400, "invalid"),
        ("POST", "/v1/tasks".to_owned(), spawn(json!({"name": "t", "input": 1, "colour": 1})), 400, "invalid"),
        ("POST", "/v1/tasks".to_owned(), spawn(json!({"name": "", "input": 1})), 400, "invalid"),
        ("POST", "/v1/tasks".to_owned(), spawn(json!({"name": "t", "input": 1, "queue": "none"})), 404, "not_found"),
        ("POST", "/v1/tasks".to_owned(), spawn(json!({"name": "t", "input": large})), 413, "too_large"),
        ("POST", "/v1/tasks".to_owned(), spawn(json!({"name": "t", "input": 1, "id": "x"})), 400, "invalid"),
        ("POST", "/v1/tasks".to_owned(), spawn(json!({"name": "t", "input": 1, "limit_key": "k"})), 501, "not_built"),
        ("GET", "/v1/tasks/x".to_owned(), String::new(), 400, "invalid"),
        ("GET", format!("/v1/tasks/{ID}"), String::new(), 404, "not_found"),
        ("POST", format!("/v1/tasks/{ID}/cancel"), String::new(), 404, "not_found"),
        ("POST", format!("/v1/tasks/{task}/retry"), r#"{"mode":"in_place"}"#.to_owned(), 409, "conflict"),
        ("POST", format!("/v1/tasks/{task}/retry"), r#"{"mode":"sideways"}"#.to_owned(), 400, "invalid"),
        ("DELETE", format!("/v1/tasks/{task}"), String::new(), 405, "method_not_allowed"),
        ("GET", "/v1/queues/none".to_owned(), String::new(), 404, "not_found"),
        ("PUT", "/v1/queues/q".to_owned(), r#"{"retention_days":0}"#.to_owned(), 400, "invalid"),
        ("PUT", "/v1/queues/q".to_owned(), r#"{"limit":1}"#.to_owned(), 501, "not_built"),
        ("POST", "/v1/queues/none/events".to_owned(), r#"{"events":[{"name":"e"}]}"#.to_owned(), 400, "invalid"),
        ("GET", "/v1/schedules/x".to_owned(), String::new(), 501, "not_built"),
        ("GET", format!("/v1/tasks/{task}/watch"), String::new(), 501, "not_built"),
        ("POST", "/v1/workers/poll".to_owned(), r#"{"session":"0","free":1,"wait_ms":0}"#.to_owned(), 410, "gone"),
        ("POST", "/v1/workers/poll".to_owned(), r#"{"session":"0","free":0,"wait_ms":0}"#.to_owned(), 400, "invalid"),
        ("POST", "/v1/workers/beat".to_owned(), r#"{"session":"zz","live":[]}"#.to_owned(), 410, "gone"),
        ("POST", "/v1/workers/ops".to_owned(), at(json!({"op": "fly", "task": task, "fence": fence})), 400, "invalid"),
        ("POST", "/v1/workers/ops".to_owned(), at(json!({"op": "finish", "task": task})), 400, "invalid"),
        ("POST", "/v1/test/clock".to_owned(), r#"{"advance_ms":1}"#.to_owned(), 404, "not_found"),
    ];
    for (method, target, body, status, kind) in cases {
        let answer = send(&server, method, &target, "", &body).await;
        let shown = &body[..body.len().min(100)];
        assert_eq!((answer.status, answer.kind().as_str()), (status, kind), "{method} {target} {shown}");
    }
    let other = send(&server, "GET", "/v1/queues", "cairn-protocol: 2\r\n", "").await;
    assert_eq!((other.status, other.kind().as_str()), (400, "unsupported_protocol"));

    // Refused one by one: what is wrong with a call about a task, while its neighbours go on.
    let stale = json!({"op": "step", "task": task, "fence": "0-1", "key": "a", "value": 1});
    let behind = json!({"op": "step", "task": task, "fence": fence, "key": "b", "value": 1});
    let unknown = json!({"op": "step", "task": ID, "fence": fence, "key": "a", "value": 1});
    let ops = json!({"session": session, "ops": [stale, behind, unknown]});
    let acks = post(&server, "/v1/workers/ops", ops).await["acks"].take();
    let kinds: Vec<_> = acks.as_array().unwrap().iter().map(|ack| ack["error"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stale_fence", "conflict", "not_found"]);
    let key = "k".repeat(513);
    for (wrong, kind) in [
        (json!({"op": "step", "task": task, "fence": fence, "key": "a", "value": large}), "too_large"),
        (json!({"op": "suspend", "task": task, "fence": fence, "waits": []}), "invalid"),
        (json!({"op": "emit", "task": task, "fence": fence, "key": "e", "name": "", "payload": 1}), "invalid"),
    ] {
        assert_eq!(op(&server, &session, wrong).await["error"]["kind"], kind);
    }
    // One that cannot be read takes those of its task along, and nobody else's.
    let long = json!({"op": "step", "task": task, "fence": fence, "key": key, "value": 1});
    let behind = json!({"op": "step", "task": task, "fence": fence, "key": "b", "value": 1});
    let other = json!({"op": "promise", "task": ID, "fence": fence, "key": "p"});
    let acks = post(&server, "/v1/workers/ops", json!({"session": session, "ops": [long, behind, other]})).await;
    let kinds: Vec<_> = acks["acks"].as_array().unwrap().iter().map(|ack| &ack["error"]["kind"]).collect();
    assert_eq!(kinds, ["invalid", "conflict", "not_built"]);
    // The task is where it was.
    let step = json!({"op": "step", "task": task, "fence": fence, "key": "a", "value": 1});
    assert_eq!(op(&server, &session, step).await, json!({"ok": true}));
    let other = json!({"op": "step", "task": task, "fence": fence, "key": "a", "value": 2});
    assert_eq!(op(&server, &session, other).await["error"]["kind"], "conflict");
    server.stopped().await;
}

#[tokio::test]
async fn a_task_has_the_version_that_its_worker_said() {
    let server = Running::new().await;
    let task = post(&server, "/v1/tasks", json!({"tasks": [{"name": "t", "input": 1}]})).await["results"][0].take();
    let of_task = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let hello = |version: &str| {
        let offer = json!({"name": "t", "version": version});
        json!({"name": "w", "sdk": "test", "tasks": [offer], "queues": ["default"], "slots": 9})
    };
    let long = send(&server, "POST", "/v1/workers/hello", "", &hello(&"x".repeat(129)).to_string()).await;
    assert_eq!((long.status, long.kind().as_str()), (400, "invalid"), "{}", long.text());
    let session = post(&server, "/v1/workers/hello", hello("2.1")).await["session"].take();
    assert_eq!(get(&server, &of_task).await["version"], Value::Null);
    let polled = post(&server, "/v1/workers/poll", json!({"session": session, "free": 1, "wait_ms": 1_000})).await;
    assert_eq!(polled["work"][0]["version"], "2.1");
    assert_eq!(get(&server, &of_task).await["version"], "2.1");
    server.stopped().await;
}

#[tokio::test]
async fn a_running_task_shows_what_its_worker_says_of_it() {
    let server = Running::new().await;
    let (session, task, fence) = handed(&server).await;
    let beat = |held: Value| json!({"session": session, "live": [held]});
    let live = async || {
        let mut live = get(&server, &format!("/v1/tasks/{task}")).await["live"].take();
        (live.as_object_mut().and_then(|live| live.remove("beat_ms_ago")).is_some_and(|ago| ago.is_u64()), live)
    };
    assert_eq!(live().await, (false, json!({"worker": "w"})));
    let held = json!({"task": task, "fence": fence, "step": "charge", "progress": {"percent": 40}});
    post(&server, "/v1/workers/beat", beat(held)).await;
    let charging = json!({"worker": "w", "step": "charge", "progress": {"percent": 40}});
    assert_eq!(live().await, (true, charging));
    for (held, status, kind) in [
        (json!({"task": task, "fence": fence, "progress": "x".repeat(65_535)}), 413, "too_large"),
        (json!({"task": task, "fence": fence, "step": ""}), 400, "invalid"),
    ] {
        let answer = send(&server, "POST", "/v1/workers/beat", "", &beat(held).to_string()).await;
        assert_eq!((answer.status, answer.kind().as_str()), (status, kind));
    }
    post(&server, "/v1/workers/beat", beat(json!({"task": task, "fence": fence, "progress": null}))).await;
    assert_eq!(live().await, (true, json!({"worker": "w", "progress": null})));
    assert_eq!(get(&server, "/v1/tasks").await["items"][0]["live"], Value::Null, "not in a list");
    op(&server, &session, json!({"op": "finish", "task": task, "fence": fence, "output": 1})).await;
    assert_eq!(live().await, (false, Value::Null));
    server.stopped().await;
}

#[tokio::test]
async fn an_error_names_the_field_that_is_at_fault() {
    let server = Running::new().await;
    let (session, task, fence) = handed(&server).await;
    let (large, long) = ("x".repeat((1 << 20) + 1), "x".repeat(513));
    let good = json!({"name": "t", "input": {"a": [1]}});
    let spawn = |more: Value| {
        let mut wrong = good.clone();
        wrong.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        wrong
    };
    let tags: serde_json::Map<_, _> = (0..65).map(|n| (n.to_string(), json!(""))).collect();
    // What the second of two tasks is refused for: on its own, and by a request for all or none.
    for (more, kind, field) in [
        (json!({"name": ""}), "invalid", "name"),
        (json!({"name": long}), "invalid", "name"),
        (json!({"queue": "none"}), "not_found", "queue"),
        (json!({"input": large}), "too_large", "input"),
        (json!({"headers": [1]}), "invalid", "headers"),
        (json!({"tags": tags}), "invalid", "tags"),
        (json!({"tags": {"": "x"}}), "invalid", "tags"),
        (json!({"idempotency_key": long}), "invalid", "idempotency_key"),
        (json!({"retry": {"kind": "fixed", "jitter": 2}}), "invalid", "retry.jitter"),
        (json!({"retry": {"kind": "exponential", "factor": 0.5}}), "invalid", "retry.factor"),
        (json!({"max_attempts": 0}), "invalid", "max_attempts"),
        (json!({"id": "x"}), "invalid", "id"),
        (json!({"limit_key": "k"}), "not_built", "limit_key"),
    ] {
        let field = format!("tasks[1].{field}");
        let body = json!({"tasks": [good, spawn(more.clone())]});
        let error = post(&server, "/v1/tasks", body.clone()).await["results"][1]["error"].take();
        assert_eq!((&error["kind"], &error["field"]), (&json!(kind), &json!(field)), "{error}");
        let atomic = json!({"tasks": body["tasks"], "atomic": true});
        let answer = send(&server, "POST", "/v1/tasks", "", &atomic.to_string()).await;
        let error = answer.error();
        assert_eq!((&error["kind"], &error["field"]), (&json!(kind), &json!(field)), "{error}");
    }
    for (more, kind, field) in [
        (json!({"op": "step", "value": 1}), "invalid", "key"),
        (json!({"op": "step", "key": "", "value": 1}), "invalid", "key"),
        (json!({"op": "step", "key": "a", "value": large}), "too_large", "value"),
        (json!({"op": "finish", "output": large}), "too_large", "output"),
        (json!({"op": "finish", "failure": {"kind": "k", "message": large}}), "too_large", "failure"),
        (json!({"op": "emit", "key": "e", "name": "", "payload": 1}), "invalid", "name"),
        (json!({"op": "emit", "key": "e", "name": "e"}), "invalid", "payload"),
        (json!({"op": "spawn", "key": "s", "spawn": spawn(json!({"queue": "none"}))}), "not_found", "spawn.queue"),
        (json!({"op": "spawn", "key": "s", "spawn": spawn(json!({"id": "x"}))}), "invalid", "spawn.id"),
        (json!({"op": "suspend", "waits": [{"key": "w", "kind": "moon"}]}), "invalid", "waits[0].kind"),
        (json!({"op": "suspend", "waits": [{"key": "w", "kind": "timer"}]}), "invalid", "waits[0].until_ms"),
        (json!({"op": "suspend", "waits": [{"key": "w", "kind": "event", "name": ""}]}), "invalid", "waits[0].name"),
        (json!({"op": "step", "fence": "x", "key": "a", "value": 1}), "invalid", "fence"),
        (json!({"op": "step", "task": "x", "key": "a", "value": 1}), "invalid", "task"),
    ] {
        let mut wrong = json!({"task": task, "fence": fence});
        wrong.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = op(&server, &session, wrong).await["error"].take();
        assert_eq!((&error["kind"], &error["field"]), (&json!(kind), &json!(format!("ops[0].{field}"))), "{error}");
    }
    let hello = |more: Value| {
        let mut hello = json!({"name": "w", "sdk": "x", "tasks": [{"name": "t"}], "queues": ["default"], "slots": 1});
        hello.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hello
    };
    let beat = |held: Value| json!({"session": session, "live": [held]});
    let progress = json!({"task": task, "fence": fence, "progress": "x".repeat(65_535)});
    for (target, body, kind, field) in [
        // What does not read as a request: where, and its neighbours' payloads are none of it.
        ("POST /v1/tasks", json!({"tasks": [], "colour": 1}), "invalid", Some("colour")),
        ("POST /v1/tasks", json!({"tasks": [good, spawn(json!({"colour": 1}))]}), "invalid", Some("tasks[1].colour")),
        ("POST /v1/tasks", json!({"tasks": [good, {"name": "t"}]}), "invalid", Some("tasks[1].input")),
        ("POST /v1/tasks", json!({"tasks": [spawn(json!({"tags": {"a": 1}}))]}), "invalid", Some("tasks[0].tags.a")),
        (
            "POST /v1/tasks",
            json!({"tasks": [spawn(json!({"priority": "high"}))]}),
            "invalid",
            Some("tasks[0].priority"),
        ),
        (
            "POST /v1/tasks",
            json!({"tasks": [spawn(json!({"retry": {"kind": "sometimes"}}))]}),
            "invalid",
            Some("tasks[0].retry.kind"),
        ),
        ("POST /v1/tasks", json!({}), "invalid", Some("tasks")),
        ("POST /v1/tasks", json!([1]), "invalid", Some("[0]")),
        ("POST /v1/queues/q/events", json!({"events": [{"name": "e"}]}), "invalid", Some("events[0].payload")),
        ("PUT /v1/queues/q", json!({"retention_days": 0}), "invalid", Some("retention_days")),
        ("PUT /v1/queues/q", json!({"rate": {"n": 1}}), "not_built", Some("rate")),
        ("POST /v1/workers/hello", hello(json!({"queues": ["none"]})), "not_found", Some("queues")),
        ("POST /v1/workers/hello", hello(json!({"name": long})), "invalid", Some("name")),
        ("POST /v1/workers/hello", hello(json!({"tasks": [{"name": "t", "version": ""}]})), "invalid", Some("tasks")),
        ("POST /v1/workers/beat", beat(json!({"task": "x", "fence": fence})), "invalid", Some("live[0].task")),
        (
            "POST /v1/workers/beat",
            beat(json!({"task": task, "fence": fence, "step": ""})),
            "invalid",
            Some("live[0].step"),
        ),
        ("POST /v1/workers/beat", beat(progress), "too_large", Some("live[0].progress")),
        ("GET /v1/tasks/x", json!({}), "invalid", Some("id")),
        ("GET /v1/tasks?status=done", json!({}), "invalid", Some("status")),
        ("GET /v1/tasks?after=17", json!({}), "invalid", Some("after")),
        // Where it is no field, or more than one, none is named.
        ("POST /v1/workers/poll", json!({"session": "0", "free": 1}), "gone", None),
        (
            "POST /v1/tasks",
            json!({"atomic": true, "tasks": [spawn(json!({"due_at_ms": 1, "delay_ms": 1}))]}),
            "invalid",
            None,
        ),
    ] {
        let (method, path) = target.split_once(' ').unwrap();
        let error = send(&server, method, path, "", &body.to_string()).await.error();
        assert_eq!((&error["kind"], error["field"].as_str()), (&json!(kind), field), "{target}: {error}");
    }
    let endless = json!({"x".repeat(600): 1}).to_string();
    let endless = send(&server, "POST", "/v1/tasks", "", &endless).await.error();
    assert_eq!((&endless["kind"], &endless["field"]), (&json!("invalid"), &Value::Null));
    let broken = send(&server, "POST", "/v1/tasks", "", r#"{"tasks":["#).await.error();
    assert_eq!((&broken["kind"], &broken["field"]), (&json!("invalid"), &Value::Null));
    // Each of them was refused alone.
    let step = json!({"op": "step", "task": task, "fence": fence, "key": "a", "value": 1});
    assert_eq!(op(&server, &session, step).await, json!({"ok": true}));
    server.stopped().await;
}

#[tokio::test]
async fn spawns_are_all_there_or_none_if_that_is_asked() {
    let server = Running::new().await;
    let spawns = |atomic: bool| {
        let keyed = |key: &str, queue: &str| json!({"name": "t", "input": 1, "idempotency_key": key, "queue": queue});
        json!({"tasks": [keyed("a", "default"), keyed("b", "none")], "atomic": atomic})
    };
    let refused = send(&server, "POST", "/v1/tasks", "", &spawns(true).to_string()).await;
    assert_eq!((refused.status, refused.kind().as_str()), (404, "not_found"));
    let each = post(&server, "/v1/tasks", spawns(false)).await["results"].take();
    assert_eq!((&each[0]["created"], &each[1]["error"]["kind"]), (&json!(true), &json!("not_found")));
    let again = post(&server, "/v1/tasks", json!({"atomic": true, "tasks": [spawns(true)["tasks"][0]]})).await;
    assert_eq!((&again["results"][0]["created"], &again["results"][0]["id"]), (&json!(false), &each[0]["id"]));
    server.stopped().await;
}

#[tokio::test]
async fn a_queue_keeps_what_is_not_said_of_it() {
    let server = Running::new().await;
    let put = async |body: Value| {
        let answer = send(&server, "PUT", "/v1/queues/q", "", &body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    put(json!({"max_waiting": 3, "retention_days": 2})).await;
    post(&server, "/v1/queues/q/pause", json!({})).await;
    let queue = put(json!({"event_ttl_ms": 5})).await;
    assert_eq!(
        (&queue["max_waiting"], &queue["retention_days"], &queue["status"]),
        (&json!(3), &json!(2), &json!("paused"))
    );
    assert_eq!(put(json!({"max_waiting": null})).await["max_waiting"], Value::Null);
    let unknown = send(&server, "POST", "/v1/queues/none/pause", "", "").await;
    assert_eq!((unknown.status, unknown.kind().as_str()), (404, "not_found"));
    server.stopped().await;
}

#[tokio::test]
async fn runs_come_in_pages() {
    let server = Running::new().await;
    let (session, task, mut fence) = handed(&server).await;
    for attempt in 1..=3 {
        let failure = json!({"kind": "Oops", "message": "it broke", "retryable": true});
        let fail = json!({"op": "finish", "task": task, "fence": fence, "failure": failure, "retry_at_ms": 0});
        let told = json!({"session": session, "ops": [fail], "claim": 1});
        let told = post(&server, "/v1/workers/ops", told).await;
        assert_eq!(told["acks"][0]["ok"], true, "{attempt}");
        fence = told["work"][0]["fence"].as_str().unwrap().to_owned();
    }
    let attempts = |page: &Value| {
        let runs = page["items"].as_array().unwrap().iter();
        runs.map(|run| run["attempt"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let first = get(&server, &format!("/v1/tasks/{task}/runs?limit=2")).await;
    assert_eq!(attempts(&first), [1, 2]);
    let next = first["next"].as_str().unwrap();
    let rest = get(&server, &format!("/v1/tasks/{task}/runs?limit=2&after={next}")).await;
    assert_eq!((attempts(&rest), rest.get("next")), (vec![3], None));
    let refused = send(&server, "GET", &format!("/v1/tasks/{task}/runs?after=x"), "", "").await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    server.stopped().await;
}

#[tokio::test]
async fn a_parked_poll_ends_with_the_server() {
    let mut server = Running::new().await;
    let session = hello(&server).await;
    let body = json!({"session": session, "free": 1, "wait_ms": 25_000}).to_string();
    let mut raw = server.raw().await;
    raw.send(format!("POST /v1/workers/poll HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    server.begin_stop();
    let answer = raw.answer().await;
    assert_eq!(answer.status, 200);
    let polled: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(polled["work"], json!([]));
}
