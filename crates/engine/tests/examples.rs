//! The examples run, and leave behind what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

#[allow(dead_code)] // Its `main`.
#[path = "../examples/batch.rs"]
mod batch;
#[allow(dead_code)]
#[path = "../examples/embed.rs"]
mod embed;
#[allow(dead_code)]
#[path = "../examples/snapshot.rs"]
mod snapshot;

use cairn::{Db, Env, Options};

fn open() -> Db {
    Db::open_in(&Env::memory(), "data", Options::default()).unwrap()
}

fn value(db: &Db, keyspace: &str, key: &[u8]) -> Option<String> {
    db.keyspace(keyspace).unwrap().get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn embed_leaves_two_of_three_cairns() {
    let db = open();
    embed::run(&db).unwrap();
    let names: Vec<Vec<u8>> = db.prefix(b"cairn/").map(|entry| entry.unwrap().0).collect();
    assert_eq!(names, [b"cairn/ben-nevis".to_vec(), b"cairn/snowdon".to_vec()]);
    assert_eq!(value(&db, "users", b"u1").as_deref(), Some("ada"));
}

#[test]
fn snapshot_leaves_one_version_of_each_account() {
    let db = open();
    snapshot::run(&db).unwrap();
    assert_eq!(value(&db, "accounts", b"alice").as_deref(), Some("70"));
    assert_eq!(value(&db, "accounts", b"bob").as_deref(), Some("50"));
    assert_eq!(db.stats().levels().iter().map(|level| level.entries).sum::<u64>(), 2);
    assert_eq!(db.stats().get("snapshots_count"), Some(0));
}

#[test]
fn batch_loses_no_transfer() {
    let db = open();
    batch::run(&Env::real(), &db).unwrap();
    assert_eq!(value(&db, "accounts", b"alice").as_deref(), Some("800"));
    assert_eq!(value(&db, "accounts", b"bob").as_deref(), Some("200"));
    assert_eq!(value(&db, "log", b"opened").as_deref(), Some("two accounts"));
}
