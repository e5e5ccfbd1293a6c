//! How many things one request may have: each bound holds, its text says it, and docs/tasks.md says the same.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that reads a file of the repository, whose helpers can do nothing better than panic"
)]

#[path = "../../durable/tests/common/mod.rs"]
mod common;

use cairn_api::{ErrorKind, tasks as wire};
use cairn_service::{Place, Refused, Service};
use common::{block_on, open, world};

/// Runs jobs at once.
struct Here;

impl Place for Here {
    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        Ok(job())
    }
}

const ID: &str = "0199b9a0-0000-7000-8000-000000000000";

fn spawns(count: usize) -> wire::SpawnRequest {
    let spawn = r#"{"name":"t","input":1,"queue":"none"}"#;
    let spawn: wire::Spawn = serde_json::from_str(spawn).unwrap();
    wire::SpawnRequest { tasks: vec![spawn; count], atomic: false }
}

fn events(count: usize) -> wire::EmitRequest {
    let events = vec![r#"{"name":"e","payload":1}"#; count].join(",");
    serde_json::from_str(&format!(r#"{{"events":[{events}]}}"#)).unwrap()
}

fn live(count: usize) -> Vec<wire::Held> {
    let held = || wire::Held { task: ID.to_owned(), fence: "1-1".to_owned(), step: None, progress: None };
    (0..count).map(|_| held()).collect()
}

fn ops(count: usize) -> wire::OpsRequest {
    let op = wire::Op { op: wire::OpKind::Release, task: ID.to_owned(), fence: "1-1".to_owned(), ..Default::default() };
    wire::OpsRequest { session: "0".repeat(32), ops: vec![op; count], claim: 0 }
}

#[test]
fn a_request_has_so_many_of_anything_at_most() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tasks.md")).unwrap();
    world(41, |env, _| {
        let (db, tasks) = open(env);
        let service = Service::new(tasks.clone(), Here, Here, false);
        let beat = |count| wire::Beat { session: "0".repeat(32), live: live(count) };
        let hello = |slots: usize, count| wire::Hello {
            name: "w".to_owned(),
            sdk: "test".to_owned(),
            tasks: Vec::new(),
            queues: Vec::new(),
            slots: u32::try_from(slots).unwrap(),
            live: live(count),
        };
        let asked = |what: &str, count: usize| -> Result<(), Refused> {
            match what {
                "tasks spawned, or events emitted, by a request" => {
                    let emitted = block_on(env, service.emit("none", events(count))).map(drop);
                    let spawned = block_on(env, service.spawn(spawns(count))).map(drop);
                    assert_eq!(emitted.is_ok(), spawned.is_ok());
                    spawned
                }
                "hand-outs that it names in a hello or a beat" => {
                    block_on(env, service.hello(hello(1, count))).map(drop)?;
                    block_on(env, service.beat(beat(count))).map(drop)
                }
                "slots of a worker" => block_on(env, service.hello(hello(count, 0))).map(drop),
                _ => block_on(env, service.ops(ops(count))).map(drop),
            }
        };
        for (what, max, shown) in [
            ("tasks spawned, or events emitted, by a request", wire::SPAWNS_MAX, "10,000"),
            ("hand-outs that it names in a hello or a beat", wire::LIVE_MAX, "10,000"),
            ("slots of a worker", wire::SLOTS_MAX, "8,000"),
            ("operations of a worker in a request", wire::OPS_MAX, "1,000"),
        ] {
            // So many are read: the session is none, which is found out only then.
            let many = asked(what, max).map_err(|refused| refused.kind);
            assert!(matches!(many, Ok(()) | Err(ErrorKind::Gone)), "{what}: {many:?}");
            let refused = asked(what, max + 1).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Invalid, "{what}");
            assert!(refused.message.contains(&format!("at most {max} are allowed")), "{}", refused.message);
            assert_eq!(max.to_string(), shown.replace(',', ""));
            assert!(docs.contains(&format!("| {what} | {shown} |")), "docs/tasks.md does not say it: {what}");
        }
        tasks.close();
        db.close().unwrap();
    });
}
