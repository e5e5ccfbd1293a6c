//! The HTTP surface as data: targets, JSON bodies, percent-encoding.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use cairn_api::target::{decode, encode, key_target};
use cairn_api::tasks;
use cairn_api::{BatchRequest, ErrorBody, Route, ScanLine, ScanQuery, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A request's target, a query, and any bytes as a key.
pub(crate) fn target(input: &[u8]) {
    assert_eq!(decode(&encode(input)).as_deref(), Ok(input));
    if !input.is_empty() {
        assert_eq!(Target::parse(&key_target(input), None), Ok(Target::Key(input.to_vec())));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    match Target::parse(path, query) {
        Ok(Target::Key(key)) => assert_eq!(Target::parse(&key_target(&key), None), Ok(Target::Key(key))),
        Ok(Target::Scan(scan)) => {
            let again = scan.target();
            let (_, query) = again.split_once('?').expect("a scan has parameters");
            let start = Some(scan.start.clone().unwrap_or_default());
            assert_eq!(ScanQuery::parse(query), Ok(ScanQuery { start, ..scan }));
        }
        Ok(Target::Tasks(Route::Tasks(listing))) => {
            let again = listing.query();
            let again = Target::parse("/v1/tasks", again.strip_prefix('?'));
            assert_eq!(again, Ok(Target::Tasks(Route::Tasks(listing))));
        }
        Ok(Target::Tasks(Route::Events(queue, listing))) => {
            let (path, query) = (format!("/v1/queues/{}/events", encode(queue.as_bytes())), listing.query());
            let again = Target::parse(&path, query.strip_prefix('?'));
            assert_eq!(again, Ok(Target::Tasks(Route::Events(queue, listing))));
        }
        Ok(Target::V1(route)) => assert_eq!((route.target(), query.unwrap_or("")), (path, "")),
        Ok(Target::Tasks(_)) => assert!(path.starts_with("/v1/")),
        Err(error) => assert!(!error.message.is_empty()),
    }
}

/// What is accepted is written as something that reads as the same.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(input) {
        let text = serde_json::to_vec(&value).expect("these types serialise");
        assert_eq!(serde_json::from_slice::<T>(&text).expect("just written"), value);
    }
}

/// The body of `POST /v1/batch`.
pub(crate) fn batch(input: &[u8]) {
    survives::<BatchRequest>(input);
}

/// A line of a scan, and the body of an error.
pub(crate) fn lines(input: &[u8]) {
    survives::<ScanLine>(input);
    if let Ok(error) = serde_json::from_slice::<ErrorBody>(input) {
        let _ = (error.kind(), error.key());
        assert!(error.message().len() <= input.len() * 3);
    }
}

/// The same of types that keep parts of what they read as text, and cannot be compared but by what they write.
fn rewrites<T: Serialize + DeserializeOwned>(input: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(input) {
        let text = serde_json::to_string(&value).expect("these types serialise");
        let again: T = serde_json::from_str(&text).expect("just written");
        assert_eq!(serde_json::to_string(&again).expect("once more"), text);
    }
}

/// Bodies about tasks: the first byte says which.
pub(crate) fn tasks(input: &[u8]) {
    let Some((which, body)) = input.split_first() else { return };
    match which % 18 {
        0 => rewrites::<tasks::SpawnRequest>(body),
        1 => rewrites::<tasks::OpsRequest>(body),
        2 => rewrites::<tasks::Hello>(body),
        3 => rewrites::<tasks::Poll>(body),
        4 => rewrites::<tasks::Beat>(body),
        5 => rewrites::<tasks::Bye>(body),
        6 => rewrites::<tasks::CancelRequest>(body),
        7 => rewrites::<tasks::RetryRequest>(body),
        8 => rewrites::<tasks::QueueRequest>(body),
        9 => rewrites::<tasks::EmitRequest>(body),
        10 => rewrites::<tasks::Page<tasks::Task>>(body),
        11 => rewrites::<tasks::Page<tasks::Step>>(body),
        12 => rewrites::<tasks::Page<tasks::Run>>(body),
        13 => rewrites::<tasks::TaskResult>(body),
        14 => rewrites::<tasks::Results<tasks::Spawned>>(body),
        15 => rewrites::<tasks::Polled>(body),
        16 => rewrites::<tasks::OpsResponse>(body),
        _ => rewrites::<tasks::Page<tasks::Event>>(body),
    }
}

pub(crate) fn tasks_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        (
            0,
            r#"{"tasks":[{"id":"019aa9a0-0000-7000-8000-000000000000","queue":"q","name":"t","input":{"b":1,  "a":[1e400]},"headers":{},"tags":{"a":"b"},"idempotency_key":"k","delay_ms":5,"priority":-1,"retry":{"kind":"exponential","base_ms":1,"factor":1.5,"max_ms":9,"jitter":0.1},"max_attempts":3,"cancel":{"max_delay_ms":1,"max_duration_ms":2}}]}"#,
        ),
        (
            1,
            r#"{"session":"s","ops":[{"op":"step","task":"t","fence":"1-1","key":"k","value":[1, 2]},{"op":"suspend","task":"t","fence":"f","waits":[{"key":"k","kind":"event","name":"e","group":"g","timeout_at_ms":9},{"key":"l","kind":"timer","until_ms":5}]},{"op":"finish","task":"t","fence":"f","failure":{"kind":"k","message":"m","detail":null}},{"op":"release","task":"t","fence":"f","due_at_ms":1},{"op":"emit","task":"t","fence":"f","key":"e","name":"n","payload":null},{"op":"spawn","task":"t","fence":"f","key":"s","spawn":{"name":"n","input":0}}],"claim":1}"#,
        ),
        (
            2,
            r#"{"name":"w","sdk":"s","tasks":[{"name":"t","version":"1"}],"queues":["default"],"slots":4,"live":[{"task":"t","fence":"f","step":"s","progress":{"at":1}}]}"#,
        ),
        (3, r#"{"session":"s","free":1,"wait_ms":25000}"#),
        (4, r#"{"session":"s","live":[{"task":"t","fence":"f"}]}"#),
        (5, r#"{"session":"s"}"#),
        (6, r#"{"reason":"énough"}"#),
        (7, r#"{"mode":"new","extra_attempts":2}"#),
        (8, r#"{"retention_days":1,"event_ttl_ms":18446744073709551615,"max_waiting":5}"#),
        (9, r#"{"events":[{"name":"e","payload":{"a":  1}}]}"#),
        (
            10,
            r#"{"items":[{"id":"i","queue":"q","name":"t","status":"waiting","run_id":"r","attempt":1,"max_attempts":5,"lost":0,"input":1,"headers":{},"tags":{},"created_at_ms":1,"waiting":[{"kind":"event","key":"k","name":"e","until_ms":9}]}],"next":"i","more":[]}"#,
        ),
        (
            11,
            r#"{"items":[{"key":"k","seq":1,"kind":"step","status":"failed","outcome":"failed","failure":{"kind":"k","message":"m"},"retry_at_ms":5,"attempt":1,"at_ms":1}]}"#,
        ),
        (12, r#"{"items":[{"run_id":"r","attempt":1,"status":"lost","ended_at_ms":1}],"next":null}"#),
        (13, r#"{"status":"completed","output":null}"#),
        (
            14,
            r#"{"results":[{"id":"i","run_id":"r","created":true,"status":"queued"},{"error":{"kind":"invalid","message":"m"}}]}"#,
        ),
        (
            15,
            r#"{"work":[{"task":"t","run_id":"r","attempt":1,"fence":"f","name":"n","queue":"q","input":1,"headers":{},"steps":[],"steps_next":"s","lease_ms":1}],"signals":[{"task":"t","fence":"f","kind":"lost"}],"now_ms":1}"#,
        ),
        (
            16,
            r#"{"acks":[{"ok":true,"resumed":[]},{"ok":false,"error":{"kind":"conflict","message":"m"}}],"work":[],"signals":[],"now_ms":1}"#,
        ),
        (17, r#"{"items":[{"name":"e","payload":{"a":1},"at_ms":1}],"next":"e"}"#),
    ];
    bodies.iter().map(|(which, body)| [&[*which][..], body.as_bytes()].concat()).collect()
}

pub(crate) fn target_seeds() -> Vec<Vec<u8>> {
    let targets = [
        "/scan?start=a&end=b%2F&limit=10",
        "/scan?limit=18446744073709551615",
        "/v1/batch",
        "/v1/tasks?queue=a&status=queued,failed&tag=k%3Dv&after=x&limit=3",
        "/v1/queues/a%2Fb/events?prefix=packed%3A&limit=1",
        "/v1/queues/q/events/packed%3A1",
        "/v1/tasks/019aa9a0-0000-7000-8000-000000000000/result?wait_ms=5",
        "/%00%ff",
        "/a%2Fb",
        "/v1/nothing",
    ];
    targets.iter().map(|target| target.as_bytes().to_vec()).collect()
}

pub(crate) fn batch_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        r#"{"ops":[{"put":{"key":"a","value":"1"}},{"put":{"key_base64":"/w==","value_base64":"AAE=","keyspace":"j"}},{"delete":{"key":"b"}}]}"#,
        r#"{"ops":[],"conditions":[{"absent":{"key":"a"}},{"unchanged":{"key":"b","since":17}},{"range_unchanged":{"start":"c","end":"d","since":17}}],"durability":"commit"}"#,
    ];
    bodies.iter().map(|body| body.as_bytes().to_vec()).collect()
}

pub(crate) fn lines_seeds() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"key":"a","value_base64":"AAE="}"#,
        r#"{"key_base64":"/w==","value":"\u00e9\n"}"#,
        r#"{"error":{"kind":"conflict","message":"it exists","key_base64":"/w=="}}"#,
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}
