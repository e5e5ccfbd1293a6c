//! Puts that arrive together: one batch, and an answer of its own for each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use cairn::{Db, Durability, Env, Options, SeqNo};
use cairn_env::{CrashPolicy, Fault, FaultKind, Op as Call, SimDisk};
use cairn_server::Limits;
use common::{Answer, Raw, Running};

const TOGETHER: usize = 32;

fn counted(db: &Db, name: &str) -> u64 {
    db.stats().metrics().iter().find(|metric| metric.name == name).unwrap().value
}

/// Connections that the server has taken: what is sent on all of them next is there at once.
async fn connections(server: &Running) -> Vec<Raw> {
    let mut all = Vec::new();
    for _ in 0..TOGETHER {
        let mut raw = server.raw().await;
        raw.send("GET /none HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 404);
        all.push(raw);
    }
    all
}

fn put(number: usize, bytes: usize) -> String {
    let value = format!("{number:0bytes$}");
    format!("PUT /k{number} HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n{value}")
}

/// Sends a put on every connection before any answer is read.
async fn put_together(all: &mut [Raw], bytes: usize) -> Vec<Answer> {
    for (number, raw) in all.iter_mut().enumerate() {
        raw.send(put(number, bytes)).await;
    }
    let mut answers = Vec::new();
    for raw in all {
        answers.push(raw.answer().await);
    }
    answers
}

#[tokio::test]
async fn puts_that_arrive_together_share_batches_and_keep_their_own_numbers() {
    let server = Running::new().await;
    let mut all = connections(&server).await;
    // The larger ones do not fit in one batch.
    for bytes in [100, 16_000] {
        let (batches, puts) = (counted(&server.db, "batches_count"), counted(&server.db, "puts_count"));
        let answers = put_together(&mut all, bytes).await;
        assert_eq!(counted(&server.db, "puts_count") - puts, TOGETHER as u64);
        let batches = counted(&server.db, "batches_count") - batches;
        assert!(batches < TOGETHER as u64 / 2, "{TOGETHER} puts of {bytes} bytes went in {batches} batches");

        let mut numbers = Vec::new();
        for (number, answer) in answers.iter().enumerate() {
            let value = format!("{number:0bytes$}");
            assert_eq!((answer.status, answer.text()), (200, &value[..]));
            assert_eq!(server.db.get(format!("k{number}").as_bytes()).unwrap(), Some(value.into_bytes()));
            numbers.push(answer.header("cairn-seq").unwrap().parse::<u64>().unwrap());
        }
        for (number, seq) in numbers.iter().enumerate() {
            // Its own number is the least that a condition on the key holds for.
            let unchanged_since = |seq: u64| {
                let mut batch = server.db.batch();
                let keyspace = server.db.default_keyspace();
                batch.require_unchanged(&keyspace, format!("k{number}").as_bytes(), SeqNo(seq));
                server.db.write(batch, Durability::Buffered)
            };
            assert!(unchanged_since(*seq).is_ok());
            assert!(unchanged_since(*seq - 1).is_err());
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), TOGETHER);
    }
}

/// A group is submitted by a task of its own: whoever came first may be gone by then.
#[tokio::test]
async fn who_goes_away_takes_no_other_answer_along() {
    let server = Running::new().await;
    let mut all = connections(&server).await;
    for (number, raw) in all.iter_mut().enumerate() {
        raw.send(put(number, 100)).await;
    }
    let mut staying: Vec<(usize, Raw)> = all.into_iter().enumerate().filter(|(number, _)| number % 2 == 1).collect();
    for (number, raw) in &mut staying {
        assert_eq!(raw.answer().await.status, 200, "{number}");
        assert!(server.db.get(format!("k{number}").as_bytes()).unwrap().is_some());
    }
}

async fn server_on(disk: &SimDisk) -> Running {
    let db = Db::open_in(&Env::on_disk(disk.clone()), "db", Options::default()).unwrap();
    Running::over(db, Limits::default(), None).await
}

#[tokio::test]
async fn what_was_answered_together_survives_a_power_cut() {
    let disk = SimDisk::new();
    let server = server_on(&disk).await;
    let mut all = connections(&server).await;
    for bytes in [10, 100, 1_000] {
        for answer in put_together(&mut all, bytes).await {
            assert_eq!(answer.status, 200);
        }
        let db = Db::open_in(&Env::on_disk(disk.crash(CrashPolicy::DropAll)), "db", Options::default()).unwrap();
        for number in 0..TOGETHER {
            let found = db.get(format!("k{number}").as_bytes()).unwrap().unwrap();
            assert_eq!(found, format!("{number:0bytes$}").into_bytes());
        }
    }
}

#[tokio::test]
async fn a_sync_that_fails_is_told_to_all() {
    let disk = SimDisk::new();
    let server = server_on(&disk).await;
    let mut all = connections(&server).await;
    disk.inject(Fault::new(FaultKind::Eio).on(Call::Sync).file(".wal").forever());
    for answer in put_together(&mut all, 100).await {
        assert!(matches!(answer.kind().as_str(), "unknown" | "closed"), "{answer:?}");
    }
    for number in 0..TOGETHER {
        assert_eq!(server.ask_line(&format!("GET /k{number}")).await.status, 404);
    }
}
