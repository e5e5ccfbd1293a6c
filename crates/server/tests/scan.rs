//! Scans: the line of keys, the lines of JSON, and their bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use cairn_client::{BatchRequest, Op, ScanQuery};
use common::Running;

async fn fill(server: &Running, entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
    let ops = entries.into_iter().map(|(key, value)| Op::Put { keyspace: None, key, value }).collect();
    server.client().batch(&BatchRequest { ops, ..BatchRequest::default() }).await.unwrap();
}

#[tokio::test]
async fn the_line_of_keys() {
    let server = Running::new().await;
    let keys = [&b"a"[..], b"a,b", b"a/b", b"b", b"b\0", b"ba", b"c", b"\xff"];
    fill(&server, keys.map(|key| (key.to_vec(), b"v".to_vec()))).await;
    for (target, line) in [
        ("/scan?start=", "a,a%2Cb,a%2Fb,b,b%00,ba,c,%FF"),
        ("/scan?limit=3", "a,a%2Cb,a%2Fb"),
        ("/scan?limit=0", ""),
        ("/scan?start=a&end=b", "a,a%2Cb,a%2Fb"),
        ("/scan?start=a&end=b%00", "a,a%2Cb,a%2Fb,b"),
        ("/scan?start=b", "b,b%00,ba,c,%FF"),
        ("/scan?end=b", "a,a%2Cb,a%2Fb"),
        ("/scan?end=b&limit=1", "a"),
        ("/scan?limit=1&start=b%00", "b%00"),
        ("/scan?start=%ff", "%FF"),
        ("/scan?start=b&end=b", ""),
        ("/scan?start=c&end=a", ""),
        ("/scan?start=d&end=e", ""),
    ] {
        let answer = server.ask_line(&format!("GET {target}")).await;
        assert_eq!((answer.status, answer.text()), (200, line), "{target}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(answer.header("cairn-seq").is_some());
    }
    server.client().delete(b"b").await.unwrap();
    assert_eq!(server.ask_line("GET /scan?start=b&end=c").await.text(), "b%00,ba");
}

#[tokio::test]
async fn bad_scans_are_refused() {
    let server = Running::new().await;
    for target in [
        "/scan?x=1",
        "/scan?start",
        "/scan?start=a&start=b",
        "/scan?limit=-1",
        "/scan?limit=1e3",
        "/scan?limit=",
        "/scan?start=%",
        "/scan?start=a+b",
        "/scan?end=",
        "/scan?start=a&&end=b",
        "/scan/?start=a",
    ] {
        let answer = server.ask_line(&format!("GET {target}")).await;
        assert_eq!((answer.status, &*answer.kind()), (400, "invalid"), "{target}");
    }
}

#[tokio::test]
async fn lines_of_json() {
    let server = Running::new().await;
    fill(&server, [(b"a".to_vec(), b"1\n\"".to_vec()), (b"\xff".to_vec(), b"\x80".to_vec())]).await;
    let ask = |accept: &'static str| {
        let server = &server;
        async move { server.ask(format!("GET /scan?start= HTTP/1.1\r\nhost: x\r\n{accept}\r\n\r\n")).await }
    };
    let lines = "{\"key\":\"a\",\"value\":\"1\\n\\\"\"}\n{\"key_base64\":\"/w==\",\"value_base64\":\"gA==\"}\n";
    for accept in ["accept: application/x-ndjson", "Accept: text/plain;q=0.1, application/x-ndjson;q=0.9"] {
        let answer = ask(accept).await;
        assert_eq!((answer.text(), answer.header("content-type")), (lines, Some("application/x-ndjson")));
    }
    for accept in ["accept: */*", "accept: application/json", "x: y"] {
        assert_eq!(ask(accept).await.text(), "a,%FF");
    }
}

#[tokio::test]
async fn a_large_scan_streams_and_is_complete() {
    let server = Running::new().await;
    let key = |i: usize| format!("key-{i:06}").into_bytes();
    let value = |i: usize| vec![(i % 251) as u8; i % 200];
    for part in 0..4 {
        fill(&server, (part * 10_000..(part + 1) * 10_000).map(|i| (key(i), value(i)))).await;
    }
    let client = server.client();
    let all = ScanQuery::prefix(b"key-");
    assert_eq!(client.keys(&all).await.unwrap(), (0..40_000).map(key).collect::<Vec<_>>());
    assert_eq!(client.keys(&all.clone().limit(25_000)).await.unwrap().len(), 25_000);

    let mut entries = client.entries(&all).await.unwrap();
    assert!(entries.seq().is_some());
    // A scan sees one moment: what is written while it runs, it does not show.
    client.delete(&key(39_999)).await.unwrap();
    client.put(b"key-zzz", b"new".to_vec()).await.unwrap();
    let mut count = 0;
    while let Some(entry) = entries.next().await.unwrap() {
        assert_eq!((entry.key, entry.value), (key(count), value(count)));
        count += 1;
    }
    assert_eq!(count, 40_000);
    assert_eq!(client.stats().await.unwrap().server["server_scans_open_count"], 0);

    let raw = server.ask_line("GET /scan?start=key-").await;
    assert_eq!(raw.header("transfer-encoding"), Some("chunked"), "it is not collected first");
    assert_eq!(raw.text().split(',').count(), 40_000);
    assert!(!raw.text().contains(['\n', ' ']));
}

#[tokio::test]
async fn scans_are_bounded_and_a_slow_reader_holds_no_thread() {
    let server = Running::with_limits(|limits| {
        limits.scans_max = 4;
        limits.blocking_jobs_max = 2;
    })
    .await;
    for i in 0..60 {
        fill(&server, [(format!("key-{i:02}").into_bytes(), vec![b'v'; 1 << 20])]).await;
    }
    let client = server.client();
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut raw = server.raw().await;
        raw.send("GET /scan?start= HTTP/1.1\r\nhost: x\r\naccept: application/x-ndjson\r\n\r\n").await;
        assert_eq!(raw.head().await.status, 200);
        slow.push(raw);
    }
    let over = server.ask_line("GET /scan?start=").await;
    assert_eq!((over.status, &*over.kind(), over.header("retry-after")), (429, "busy", Some("1")));
    // Two blocking threads, four scans that wait for their readers: others still get their turn.
    for _ in 0..20 {
        assert!(client.get(b"disk-missing").await.unwrap().value.is_none());
        client.stats().await.unwrap();
    }
    drop(slow);
    // The places come free once the server has seen the connections end.
    let mut scan = server.ask_line("GET /scan?start=").await;
    for _ in 0..100 {
        if scan.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        scan = server.ask_line("GET /scan?start=").await;
    }
    assert_eq!(scan.text().split(',').count(), 60);
}
