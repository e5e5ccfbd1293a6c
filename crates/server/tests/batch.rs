//! Batches: all or nothing, and conditions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use cairn_client::{BatchRequest, Condition, Error, ErrorKind, Op, ScanQuery, WriteDurability};
use common::Running;

fn put(key: &[u8], value: &[u8]) -> Op {
    Op::Put { keyspace: None, key: key.to_vec(), value: value.to_vec() }
}

fn conflict_key(result: Result<impl std::fmt::Debug, Error>) -> Vec<u8> {
    match result {
        Err(Error::Http { status: 409, kind: ErrorKind::Conflict, key: Some(key), .. }) => key,
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test]
async fn a_batch_is_applied_whole() {
    let server = Running::new().await;
    let client = server.client();
    client.put(b"old", b"x".to_vec()).await.unwrap();
    let ops = vec![
        put(b"a", b"1"),
        put(b"a", b"2"),
        put(b"\xff\0/", b"\x80"),
        Op::Delete { keyspace: None, key: b"old".to_vec() },
    ];
    let request = BatchRequest { ops, durability: Some(WriteDurability::Commit), ..BatchRequest::default() };
    let seq = client.batch(&request).await.unwrap().seq;
    let read = client.get(b"a").await.unwrap();
    assert_eq!(read.value.unwrap(), b"2", "the later op wins");
    assert!(read.seq.unwrap() >= seq);
    assert_eq!(client.get(b"\xff\0/").await.unwrap().value.unwrap(), b"\x80");
    assert_eq!(client.get(b"old").await.unwrap().value, None);
}

/// Reads of a server that commits show only what is synced. A buffered batch was acknowledged and
/// then not to be seen until somebody else's write was synced, which on a quiet server is never.
#[tokio::test]
async fn a_buffered_batch_is_seen_soon_though_nobody_else_writes() {
    let server = Running::new().await;
    let client = server.client();
    for round in 0..3u8 {
        let request = BatchRequest {
            ops: vec![put(b"k", &[round])],
            durability: Some(WriteDurability::Buffered),
            ..BatchRequest::default()
        };
        client.batch(&request).await.unwrap();
        let seen = async {
            while client.get(b"k").await.unwrap().value != Some(vec![round]) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(common::PATIENCE, seen).await.expect("never seen");
    }
}

#[tokio::test]
async fn conditions_hold_or_nothing_is_written() {
    let server = Running::new().await;
    let client = server.client();
    let batch = |condition: Condition| {
        let request =
            BatchRequest { ops: vec![put(b"written", b"1")], conditions: vec![condition], ..BatchRequest::default() };
        let client = &client;
        async move { client.batch(&request).await }
    };
    let before = client.get(b"k").await.unwrap().seq.unwrap();
    let absent = Condition::Absent { keyspace: None, key: b"k".to_vec() };
    let unchanged = |since| Condition::Unchanged { keyspace: None, key: b"k".to_vec(), since };
    let range =
        |since| Condition::RangeUnchanged { keyspace: None, start: b"j".to_vec(), end: Some(b"l".to_vec()), since };

    client.put(b"k", b"1".to_vec()).await.unwrap();
    for (condition, named) in [(absent.clone(), b"k"), (unchanged(before), b"k"), (range(before), b"j")] {
        assert_eq!(conflict_key(batch(condition.clone()).await), named, "{condition:?}");
        assert_eq!(client.get(b"written").await.unwrap().value, None);
    }
    let now = client.get(b"k").await.unwrap().seq.unwrap();
    for condition in [unchanged(now), range(now)] {
        batch(condition).await.unwrap();
        assert_eq!(client.get(b"written").await.unwrap().value.unwrap(), b"1");
        client.delete(b"written").await.unwrap();
    }
    client.delete(b"k").await.unwrap();
    batch(absent).await.unwrap();
    assert_eq!(conflict_key(batch(unchanged(now)).await), b"k", "a delete is a change");
    assert_eq!(
        client.stats().await.unwrap().engine["conflicts_count"],
        4,
        "each of the refused, whatever the condition"
    );
}

#[tokio::test]
async fn of_many_that_read_the_same_only_one_wins() {
    let server = Running::new().await;
    let clients: Vec<_> = (0..16)
        .map(|i| {
            let client = server.client();
            tokio::spawn(async move {
                let condition = Condition::Absent { keyspace: None, key: b"lock".to_vec() };
                let ops = vec![put(b"lock", &[i])];
                client.batch(&BatchRequest { ops, conditions: vec![condition], durability: None }).await
            })
        })
        .collect();
    let mut winners = 0;
    for client in clients {
        match client.await.unwrap() {
            Ok(_) => winners += 1,
            lost => assert_eq!(conflict_key(lost), b"lock"),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn keyspaces_are_apart() {
    let server = Running::new().await;
    let client = server.client();
    let jobs = Op::Put { keyspace: Some("jobs".into()), key: b"k".to_vec(), value: b"1".to_vec() };
    client.batch(&BatchRequest { ops: vec![jobs.clone()], ..BatchRequest::default() }).await.unwrap();
    assert_eq!(client.get(b"k").await.unwrap().value, None);
    assert_eq!(client.keys(&ScanQuery::default()).await.unwrap(), Vec::<Vec<u8>>::new());
    let there = Condition::Absent { keyspace: Some("jobs".into()), key: b"k".to_vec() };
    let again = BatchRequest { ops: vec![jobs], conditions: vec![there], durability: None };
    assert_eq!(conflict_key(client.batch(&again).await), b"k");
}

#[tokio::test]
async fn bad_batches_are_refused_with_their_reason() {
    let server = Running::new().await;
    for (body, part) in [
        ("", "EOF"),
        ("{}", "missing field `ops`"),
        ("[", "cannot be read"),
        (r#"{"ops":[{"put":{"key":"a"}}]}"#, "`value`"),
        (r#"{"ops":[{"put":{"key":"a","value":"","ttl":1}}]}"#, "unknown field `ttl`"),
        (r#"{"ops":[{"put":{"key":"","value":""}}]}"#, "key"),
        (r#"{"ops":[{"delete":{"key":"a","keyspace":""}}]}"#, "keyspace"),
        (r#"{"ops":[],"conditions":[{"unchanged":{"key":"a"}}]}"#, "`since`"),
    ] {
        let answer = server
            .ask(format!("POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
            .await;
        assert_eq!((answer.status, &*answer.kind()), (400, "invalid"), "{body}");
        assert!(answer.text().contains(part), "{body}: {}", answer.text());
    }
    let client = server.client();
    let key = |length| vec![b'k'; length];
    let batch = |length| BatchRequest { ops: vec![put(&key(length), b"v")], ..BatchRequest::default() };
    client.batch(&batch(cairn::KEY_BYTES_MAX)).await.unwrap();
    let longest = client.keys(&ScanQuery::prefix(b"kk")).await.unwrap();
    assert_eq!(longest, [key(cairn::KEY_BYTES_MAX)], "keys too long for a target go by a batch");
    assert_eq!(client.batch(&batch(cairn::KEY_BYTES_MAX + 1)).await.unwrap_err().kind(), Some(ErrorKind::Invalid));
}
