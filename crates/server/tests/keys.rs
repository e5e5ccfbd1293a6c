//! Single keys: any bytes, from the raw target; every status.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use cairn_api::target::key_target;
use common::Running;

#[tokio::test]
async fn a_value_is_put_read_and_deleted() {
    let server = Running::new().await;
    let put = server.ask("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!((put.status, put.text()), (200, "hello"));
    let written: u64 = put.header("cairn-seq").unwrap().parse().unwrap();

    let get = server.ask_line("GET /k").await;
    assert_eq!((get.status, get.text()), (200, "hello"));
    assert_eq!(get.header("content-type"), Some("application/octet-stream"));
    assert_eq!(get.header("cache-control"), Some("no-store"));
    assert!(get.header("cairn-seq").unwrap().parse::<u64>().unwrap() >= written);

    let mut raw = server.raw().await;
    raw.send("HEAD /k HTTP/1.1\r\nhost: x\r\n\r\nGET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    assert_eq!(raw.answer().await.text(), "hello", "a HEAD has no body, also when pipelined");

    for _ in 0..2 {
        let delete = server.ask_line("DELETE /k").await;
        assert_eq!((delete.status, delete.text()), (200, ""), "whether it exists or not");
        assert!(delete.header("cairn-seq").unwrap().parse::<u64>().unwrap() > written);
    }
    let gone = server.ask_line("GET /k").await;
    assert_eq!((gone.status, gone.kind().as_str()), (404, "not_found"));
    assert!(gone.header("cairn-seq").is_some(), "absence is an answer that a condition can rest on");
    let mut raw = server.raw().await;
    raw.send("HEAD /k HTTP/1.0\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 404);
    raw.assert_closed().await;
}

#[tokio::test]
async fn values_are_any_bytes_and_may_be_empty() {
    let server = Running::new().await;
    let every_byte: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    for value in [&b""[..], b"\0", b"\r\n\r\n", &every_byte[..10_000], &every_byte] {
        let mut put = format!("PUT /v HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", value.len()).into_bytes();
        put.extend_from_slice(value);
        let answer = server.ask(put).await;
        assert_eq!((answer.status, &answer.body[..]), (200, value));
        let answer = server.ask_line("GET /v").await;
        assert_eq!((answer.status, &answer.body[..]), (200, value));
    }
    let chunked = "PUT /v HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(server.ask(chunked).await.text(), "abcde");
    assert_eq!(server.ask_line("GET /v").await.text(), "abcde");
    assert_eq!(server.ask_line("PUT /v").await.text(), "", "no body at all is an empty value");
    assert_eq!(server.ask_line("GET /v").await.text(), "");
}

#[tokio::test]
async fn keys_are_taken_from_the_raw_target() {
    let server = Running::new().await;
    // Each target's value is its index; a second spelling of the same key finds it.
    let spellings: &[&[&str]] = &[
        &["/.", "/%2e", "/%2E"],
        &["/..", "/%2e%2e", "/.%2E"],
        &["/%2F"],
        &["/a%2Fb", "/a%2fb", "/%61%2Fb"],
        &["/a%2F..%2Fb"],
        &["/%00"],
        &["/%FF%FE", "/%ff%fe"],
        &["/scan", "/scan?", "/%73can"],
        &["/v1", "/%761"],
        &["/v1%2Fstats", "/v1%2fstats"],
        &["/a+b", "/a%2Bb"],
        &["/a%20b"],
        &["/a,b", "/a%2Cb"],
        &["/%25", "/%25?"],
        &["/%2525"],
        &["/a;b=c&d", "/a%3Bb%3Dc%26d"],
        &["/A"],
    ];
    for (i, targets) in spellings.iter().enumerate() {
        let value = i.to_string();
        let request =
            format!("PUT {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{value}", targets[0], value.len());
        assert_eq!(server.ask(request).await.status, 200, "{}", targets[0]);
    }
    for (i, targets) in spellings.iter().enumerate() {
        for target in *targets {
            let answer = server.ask_line(&format!("GET {target}")).await;
            assert_eq!((answer.status, answer.text()), (200, &*i.to_string()), "{target}");
        }
    }
    assert_eq!(server.ask_line("GET /a").await.status, 404, "A is another key");
    let absolute = server.ask("GET http://any.host/a%2Fb HTTP/1.1\r\nhost: any.host\r\n\r\n").await;
    assert_eq!((absolute.status, absolute.text()), (200, "3"));
}

#[tokio::test]
async fn the_client_writes_any_key() {
    let server = Running::new().await;
    let client = server.client();
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    for key in [&every_byte[..], b".", b"..", b"/", b"//", b"scan", b"scan?start=a", b"v1/batch", b"\0", b"\xff", b"%"]
    {
        assert_eq!(client.get(key).await.unwrap().value, None);
        let written = client.put(key, key.to_vec()).await.unwrap();
        assert_eq!(written.echo, key);
        let read = client.get(key).await.unwrap();
        assert_eq!(read.value.as_deref(), Some(key));
        assert!(read.seq.unwrap() >= written.seq.unwrap());
        assert!(client.delete(key).await.unwrap() > written.seq);
        assert_eq!(client.get(key).await.unwrap().value, None);
    }
}

/// A missing key's answer has a body too; a client that leaves it unread must open a new connection
/// after each miss, and did.
#[tokio::test]
async fn a_client_that_asks_one_thing_after_another_needs_one_connection() {
    let server = Running::new().await;
    let client = server.client();
    for i in 0..100u8 {
        let key = [b'k', i];
        assert_eq!(client.get(&key).await.unwrap().value, None);
        client.put(&key, vec![i; usize::from(i) * 1000]).await.unwrap();
        assert_eq!(client.get(&key).await.unwrap().value.unwrap().len(), usize::from(i) * 1000);
        client.delete(&key).await.unwrap();
        client.keys(&cairn_client::ScanQuery::prefix(&key)).await.unwrap();
        assert_eq!(client.put(b"", vec![i]).await.unwrap_err().kind(), Some(cairn_client::ErrorKind::Invalid));
        client.health().await.unwrap();
    }
    assert_eq!(client.stats().await.unwrap().server["server_connections_accepted_count"], 1);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let server = Running::new().await;
    for (line, status, kind) in [
        ("GET /", 400, "invalid"),
        ("PUT /", 400, "invalid"),
        ("GET /a/b", 400, "invalid"),
        ("PUT /a/b", 400, "invalid"),
        ("GET //", 400, "invalid"),
        ("GET /../a", 400, "invalid"),
        ("GET /%", 400, "invalid"),
        ("GET /%zz", 400, "invalid"),
        ("PUT /a?b=c", 400, "invalid"),
        ("OPTIONS *", 400, "invalid"),
        ("GET /v1/nothing", 404, "not_found"),
        ("PUT /v1/batch", 405, "method_not_allowed"),
        ("GET /v1/compact", 405, "method_not_allowed"),
        ("POST /v1/stats", 405, "method_not_allowed"),
        ("POST /k", 405, "method_not_allowed"),
        ("PATCH /k", 405, "method_not_allowed"),
        ("OPTIONS /k", 405, "method_not_allowed"),
        ("PUT /scan?start=a", 405, "method_not_allowed"),
        ("BREW /k", 405, "method_not_allowed"),
    ] {
        let answer = server.ask_line(line).await;
        assert_eq!((answer.status, &*answer.kind()), (status, kind), "{line}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{line}");
    }
}

#[tokio::test]
async fn targets_up_to_the_limit_are_keys_and_beyond_it_414() {
    let server = Running::with_limits(|_| {}).await;
    let longest = cairn_api::target::TARGET_BYTES_MAX;
    let key = vec![b'k'; longest - 1];
    assert_eq!(key_target(&key).len(), longest);
    let client = server.client();
    assert_eq!(client.put(&key, b"long".to_vec()).await.unwrap().echo, b"long");
    assert_eq!(client.get(&key).await.unwrap().value.unwrap(), b"long");
    for length in [longest + 1, 100_000] {
        let answer = server.ask_line(&format!("GET /{}", "k".repeat(length - 1))).await;
        assert_eq!(answer.status, 414, "{length}");
    }
    // Beyond the bound on heads as a whole, there is no telling what is too long about it, unless all of it
    // came in one piece.
    let status = server.ask_line(&format!("GET /{}", "k".repeat(200_000))).await.status;
    assert!([414, 431].contains(&status), "{status}");
    assert_eq!(server.ask(format!("GET /k HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000))).await.status, 431);
    assert_eq!(server.ask(format!("GET /k HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200))).await.status, 431);
    assert_eq!(server.ask("nonsense\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn values_that_are_not_in_memory_are_found_too() {
    let server = Running::new().await;
    let client = server.client();
    for i in 0..500 {
        let key = format!("disk-{i}");
        client.put(key.as_bytes(), vec![b'v'; i]).await.unwrap();
    }
    client.flush().await.unwrap();
    client.delete(b"disk-7").await.unwrap();
    for i in 0..500 {
        let read = client.get(format!("disk-{i}").as_bytes()).await.unwrap();
        assert_eq!(read.value.map(|value| value.len()), (i != 7).then_some(i), "{i}");
    }
    assert_eq!(client.get(b"disk-missing").await.unwrap().value, None);
}
