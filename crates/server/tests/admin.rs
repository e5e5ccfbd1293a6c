//! Health, statistics, metrics, maintenance, the token, and starting at all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use cairn::{Db, Options};
use cairn_client::{Client, ErrorKind};
use cairn_env::testing::TempDir;
use cairn_server::{Limits, Server, ServerConfig};
use common::Running;

#[tokio::test]
async fn health_statistics_and_maintenance() {
    let server = Running::new().await;
    let client = server.client();
    assert_eq!(server.ask_line("GET /v1/healthz").await.text(), r#"{"status":"ok"}"#);
    assert_eq!(client.health().await.unwrap(), "ok");
    client.put(b"a", b"1".to_vec()).await.unwrap();
    client.get(b"nothing").await.unwrap();
    client.flush().await.unwrap();
    client.compact().await.unwrap();

    let stats = client.stats().await.unwrap();
    assert_eq!((stats.health.as_str(), stats.stall_reason), ("open", None));
    assert!(stats.engine.contains_key("flushes_count"), "{stats:?}", stats = stats.engine);
    assert!(stats.levels.iter().all(|level| level.keyspace == "default"));
    assert_eq!(stats.server["server_requests_in_flight_count"], 1, "this one");
    assert!(stats.server["server_connections_open_peak_count"] >= 1);

    let text = client.metrics().await.unwrap();
    for line in [
        "# TYPE cairn_flushes_count counter",
        "# TYPE cairn_server_requests_count counter",
        r#"cairn_server_requests_count{method="PUT",status="200",kind="ok"} 1"#,
        r#"cairn_server_requests_count{method="GET",status="404",kind="not_found"} 1"#,
        r#"cairn_server_requests_count{method="POST",status="200",kind="ok"} 2"#,
        "cairn_server_requests_in_flight_count 1",
        "cairn_server_scans_open_count 0",
        "cairn_server_in_flight_bytes 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("cairn_") && value.parse::<u64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn a_closed_database_says_so() {
    let server = Running::new().await;
    let client = server.client();
    client.put(b"a", b"1".to_vec()).await.unwrap();
    server.db.clone().close().unwrap();
    let refused = client.put(b"a", b"2".to_vec()).await.unwrap_err();
    assert_eq!(refused.kind(), Some(ErrorKind::Closed), "{refused}");
    assert!(!refused.is_unanswered());
    let health = server.ask_line("GET /v1/healthz").await;
    assert_eq!(health.status, 503, "{health:?}");
    assert_ne!(client.health().await.unwrap(), "ok");
}

#[tokio::test]
async fn a_token_guards_everything_but_health() {
    let server = Running::with(Limits::default(), Some("s3cret")).await;
    for line in
        ["GET /k", "PUT /k", "DELETE /k", "GET /scan?start=", "GET /v1/stats", "GET /v1/metrics", "POST /v1/batch"]
            .into_iter()
            .chain(["POST /v1/compact", "POST /v1/flush", "GET /v1/nothing", "GET /", "GET /a/b"])
    {
        for header in ["", "authorization: Bearer wrong\r\n", "authorization: Basic s3cret\r\n"] {
            let answer = server.ask(format!("{line} HTTP/1.1\r\nhost: x\r\n{header}\r\n")).await;
            assert_eq!((answer.status, &*answer.kind()), (401, "unauthorized"), "{line} {header}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    assert_eq!(server.ask_line("GET /v1/healthz").await.status, 200);
    let client = |token| Client::new(&server.url(), token).unwrap();
    let known = client(Some("s3cret"));
    known.put(b"k", b"v".to_vec()).await.unwrap();
    assert_eq!(known.get(b"k").await.unwrap().value.unwrap(), b"v");
    for stranger in [client(None), client(Some("s3cre")), client(Some("s3cret1"))] {
        assert_eq!(stranger.get(b"k").await.unwrap_err().kind(), Some(ErrorKind::Unauthorized));
        assert_eq!(stranger.put(b"k", vec![0; 1 << 20]).await.unwrap_err().kind(), Some(ErrorKind::Unauthorized));
    }
    assert_eq!(known.get(b"k").await.unwrap().value.unwrap(), b"v", "nothing was written");
}

#[tokio::test]
async fn pages_of_other_origins_may_not_write_to_a_local_server() {
    let server = Running::new().await;
    let ask = |origin: String| {
        let server = &server;
        async move {
            let host = &server.address;
            server.ask(format!("DELETE /k HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\n\r\n")).await
        }
    };
    assert_eq!(ask(server.url()).await.status, 200);
    let foreign = ask("http://example.org".into()).await;
    assert_eq!((foreign.status, &*foreign.kind()), (403, "forbidden"));
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let directory = TempDir::new();
    let db = Db::open(directory.path(), Options::default()).unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).unwrap();
    let local = || ServerConfig { http: "127.0.0.1:0".into(), ..ServerConfig::default() };
    let limits = |change: fn(&mut Limits)| {
        let mut config = local();
        change(&mut config.limits);
        config
    };
    for (config, part) in [
        (ServerConfig { http: taken.1.clone(), ..local() }, "another process"),
        (ServerConfig { http: "0.0.0.0:0".into(), ..local() }, "without a token"),
        (ServerConfig { http: "[::]:0".into(), ..local() }, "without a token"),
        (ServerConfig { http: "localhost".into(), ..local() }, "write it as HOST:PORT"),
        (ServerConfig { http: "203.0.113.7:0".into(), token: Some("t".into()), ..local() }, "no such address"),
        (ServerConfig { token: Some(String::new()), ..local() }, "not empty"),
        (ServerConfig { token: Some("a b".into()), ..local() }, "without spaces"),
        (limits(|limits| limits.connections_max = 0), "may be 0"),
        (limits(|limits| limits.body_bytes_max = (64 << 20) + 1), "64 MiB"),
        (limits(|limits| limits.bytes_in_flight_max = 64 << 20), "three times"),
    ] {
        let error = Server::bind(config, db.clone()).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let open = ServerConfig { http: "0.0.0.0:0".into(), token: Some("s3cret".into()), ..local() };
    let server = Server::bind(open, db.clone()).await.unwrap();
    assert!(!format!("{server:?}").contains("s3cret"));
}
