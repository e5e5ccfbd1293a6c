//! What a server that commits has answered or shown is on the disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use cairn::{Db, Env, Options};
use cairn_api::{BatchRequest, Op, WriteDurability};
use cairn_env::{CrashPolicy, Fault, FaultKind, Op as Call, SimDisk};
use cairn_server::Limits;
use common::Running;

async fn server_on(disk: &SimDisk) -> Running {
    let db = Db::open_in(&Env::on_disk(disk.clone()), "db", Options::default()).unwrap();
    Running::over(db, Limits::default(), None).await
}

#[tokio::test]
async fn what_was_answered_survives_a_power_cut() {
    let disk = SimDisk::new();
    let server = server_on(&disk).await;
    let client = server.client();
    let mut expected = Vec::new();
    for i in 0..20u8 {
        client.put(&[b'k', i], vec![i; 100]).await.unwrap();
        expected.push((vec![b'k', i], vec![i; 100]));
        if i % 5 == 4 {
            client.delete(&[b'k', i]).await.unwrap();
            expected.pop();
        }
        let image = disk.crash(CrashPolicy::DropAll);
        let db = Db::open_in(&Env::on_disk(image), "db", Options::default()).unwrap();
        let found: Vec<_> = db.iter().map(Result::unwrap).collect();
        assert_eq!(found, expected, "after write {i}");
    }
}

/// A buffered batch that no sync covers, because none succeeds any more.
#[tokio::test]
async fn what_may_be_lost_is_not_shown() {
    for _ in 0..5 {
        let disk = SimDisk::new();
        let server = server_on(&disk).await;
        let client = server.client();
        client.put(b"durable", b"1".to_vec()).await.unwrap();
        disk.inject(Fault::new(FaultKind::Eio).on(Call::Sync).file(".wal").forever());
        let ops = vec![Op::Put { keyspace: None, key: b"buffered".to_vec(), value: b"2".to_vec() }];
        let durability = Some(WriteDurability::Buffered);
        client.batch(&BatchRequest { ops, durability, ..BatchRequest::default() }).await.unwrap();
        for _ in 0..3 {
            assert_eq!(client.get(b"buffered").await.unwrap().value, None);
            assert_eq!(client.keys(&Default::default()).await.unwrap(), [b"durable"]);
        }
    }
}
