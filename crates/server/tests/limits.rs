//! Every limit, at it and over it; slow, idle and many clients; shutdown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use std::time::Duration;

use cairn_client::{BatchRequest, Error, ErrorKind, Op};
use common::{PATIENCE, Running};
use tokio::time::{Instant, sleep, timeout};

fn put_head(length: usize) -> String {
    format!("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn bodies_up_to_the_limit_and_no_further() {
    let server = Running::with_limits(|limits| limits.body_bytes_max = 1_000_000).await;
    let client = server.client();
    assert_eq!(client.put(b"k", vec![7; 1_000_000]).await.unwrap().echo.len(), 1_000_000);
    let over = server.ask([put_head(1_000_001).as_bytes(), &vec![8; 1_000_001]].concat()).await;
    assert_eq!((over.status, &*over.kind()), (413, "too_large"));
    let chunk = format!("{:x}\r\n{}\r\n", 500_001, "y".repeat(500_001));
    let chunked = format!("PUT /k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    assert_eq!(server.ask(&chunked).await.kind(), "too_large");
    // One that asks first is told at once and sends nothing.
    let mut raw = server.raw().await;
    raw.send("PUT /k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000001\r\n\r\n").await;
    assert_eq!(raw.answer().await.kind(), "too_large");
    // As is one whose body is too much even to read past.
    assert_eq!(server.ask(put_head(10 << 30)).await.kind(), "too_large");

    let batch = |length| {
        let op = Op::Put { keyspace: None, key: b"b".to_vec(), value: vec![b'v'; length] };
        BatchRequest { ops: vec![op], ..BatchRequest::default() }
    };
    let overhead = serde_json::to_vec(&batch(0)).unwrap().len();
    client.batch(&batch(1_000_000 - overhead)).await.unwrap();
    assert_eq!(client.batch(&batch(1_000_001 - overhead)).await.unwrap_err().kind(), Some(ErrorKind::TooLarge));
    assert_eq!(client.get(b"k").await.unwrap().value.unwrap(), vec![7; 1_000_000], "refused writes wrote nothing");
    assert_eq!(client.stats().await.unwrap().server["server_in_flight_bytes"], 0);
}

#[tokio::test]
async fn a_continue_is_sent_when_the_body_is_wanted() {
    let server = Running::new().await;
    let mut raw = server.raw().await;
    raw.send("PUT /k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 100);
    raw.send("ok").await;
    assert_eq!(raw.answer().await.text(), "ok");
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let server = Running::with_limits(|limits| {
        limits.body_bytes_max = 1 << 20;
        limits.bytes_in_flight_max = 3 << 20;
    })
    .await;
    let client = server.client();
    client.put(b"small", b"s".to_vec()).await.unwrap();
    client.put(b"large", vec![1; 1 << 20]).await.unwrap();
    // Uploads that send all but their last byte hold everything there is.
    let mut uploads = Vec::new();
    for _ in 0..3 {
        let mut raw = server.raw().await;
        raw.send([put_head(1 << 20).as_bytes(), &vec![0; (1 << 20) - 1]].concat()).await;
        uploads.push(raw);
    }
    let in_flight = || async { client.stats().await.unwrap().server["server_in_flight_bytes"] };
    let started = Instant::now();
    while in_flight().await < 3 * ((1 << 20) - 1) {
        assert!(started.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    let busy = |result: Result<_, Error>| match result {
        Err(Error::Http { status: 429, kind: ErrorKind::Busy, retry_after: Some(_), .. }) => {}
        other => panic!("not busy: {other:?}"),
    };
    busy(client.put(b"other", vec![0; 1000]).await.map(drop));
    busy(client.get(b"large").await.map(drop));
    assert_eq!(client.get(b"small").await.unwrap().value.unwrap(), b"s", "small reads need none of it");
    for mut raw in uploads {
        raw.send("!").await;
        assert_eq!(raw.answer().await.body.len(), 1 << 20);
    }
    client.put(b"other", vec![0; 1000]).await.unwrap();
    assert_eq!(client.get(b"large").await.unwrap().value.unwrap().len(), 1 << 20);
    assert_eq!(in_flight().await, 0);
}

#[tokio::test]
async fn connections_up_to_the_limit_and_no_further() {
    let server = Running::with_limits(|limits| limits.connections_max = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut raw = server.raw().await;
        raw.send("GET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 404);
        open.push(raw);
    }
    let mut over = server.raw().await;
    let answer = over.answer().await;
    assert_eq!((answer.status, &*answer.kind()), (503, "closed"));
    over.assert_closed().await;
    // Those that are in do not notice.
    open[0].send("GET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(open[0].answer().await.status, 404);
    drop(open.pop());
    let started = Instant::now();
    while server.ask_line("GET /v1/healthz").await.status != 200 {
        assert!(started.elapsed() < PATIENCE, "a place that comes free is given to the next");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn idle_slow_and_stuck_clients_are_cut_off() {
    let server = Running::with_limits(|limits| {
        limits.idle_timeout = Duration::from_millis(600);
        limits.head_timeout = Duration::from_millis(200);
        limits.body_timeout = Duration::from_millis(200);
        limits.write_timeout = Duration::from_millis(200);
    })
    .await;
    let mut batch = server.db.batch();
    batch.put(&server.db.default_keyspace(), b"large", &vec![1; 32 << 20]);
    server.db.submit(batch, cairn::Durability::Commit).unwrap().await.unwrap();

    let closes_after = |mut raw: common::Raw, least: u64| async move {
        let started = Instant::now();
        raw.assert_closed().await;
        let after = started.elapsed();
        assert!(after >= Duration::from_millis(least) && after < Duration::from_secs(5), "{after:?}");
    };
    // Says nothing.
    let silent = server.raw().await;
    closes_after(silent, 500).await;
    // Says nothing more: still answered in between, each time anew.
    let mut kept = server.raw().await;
    for _ in 0..4 {
        sleep(Duration::from_millis(300)).await;
        kept.send("GET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(kept.answer().await.status, 404);
    }
    closes_after(kept, 500).await;
    // A head that does not end, however steadily it drips.
    let mut dripping = server.raw().await;
    dripping.send("GET /k HTTP/1.1\r\n").await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        use tokio::io::AsyncWriteExt;
        if dripping.stream.write_all(b"x: y\r\n").await.is_err() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(4), "the head's deadline is not moved by more bytes");
    // A body that does not end.
    let mut half = server.raw().await;
    half.send(put_head(10) + "half").await;
    let answer = half.answer().await;
    assert_eq!((answer.status, &*answer.kind()), (408, "timeout"));
    half.assert_closed().await;
    // An answer that is not taken.
    let mut stuck = server.raw().await;
    stuck.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let started = Instant::now();
    loop {
        let stats = server.client().stats().await.unwrap().server;
        if stats["server_in_flight_bytes"] == 0
            && stats["server_requests_in_flight_count"] == 1
            && started.elapsed() > Duration::from_millis(200)
        {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{stats:?}");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(server.client().stats().await.unwrap().server["server_connections_timed_out_count"] >= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_and_64_busy_connections_do_not_block_one_another() {
    let server = Running::new().await;
    let mut idle = Vec::new();
    for i in 0..1_000 {
        let mut raw = server.raw().await;
        // Half of them have asked before, half are silent; some hang in the middle of a head or body.
        match i % 4 {
            0 | 1 => {
                raw.send("GET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
                assert_eq!(raw.answer().await.status, 404);
            }
            2 => raw.send(if i % 8 == 2 { "GET /k HTTP/1.1\r\nhost".to_owned() } else { put_head(9) + "half" }).await,
            _ => {}
        }
        idle.push(raw);
    }
    let busy = (0..64).map(|task: usize| {
        let client = server.client();
        tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for i in 0..40 {
                let started = Instant::now();
                let key = format!("busy-{task}-{i}");
                assert_eq!(client.put(key.as_bytes(), key.clone()).await.unwrap().echo, key.as_bytes());
                assert_eq!(client.get(key.as_bytes()).await.unwrap().value.unwrap(), key.as_bytes());
                slowest = slowest.max(started.elapsed());
            }
            slowest
        })
    });
    let busy: Vec<_> = busy.collect();
    let mut slowest = Duration::ZERO;
    for task in busy {
        slowest = slowest.max(timeout(PATIENCE, task).await.expect("the busy get through").unwrap());
    }
    println!("slowest put and get of 64 tasks beside 1,000 idle connections: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    for raw in idle.iter_mut().step_by(100) {
        raw.send("GET /busy-0-0 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(raw.answer().await.text(), "busy-0-0", "the idle are still welcome");
    }
    let stats = server.client().stats().await.unwrap().server;
    assert!(stats["server_connections_open_count"] >= 1_000, "{stats:?}");
    assert!(stats["server_requests_in_flight_peak_count"] <= 64 + 125 + 10, "{stats:?}");
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight() {
    let mut server = Running::new().await;
    let mut idle = server.raw().await;
    idle.send("GET /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    let mut silent = server.raw().await;
    let mut half_head = server.raw().await;
    half_head.send("GET /k HT").await;
    let mut uploading = server.raw().await;
    uploading.send(put_head(10) + "half").await;
    // Until the server has all of them.
    let started = Instant::now();
    while server.client().stats().await.unwrap().server["server_requests_in_flight_count"] < 2 {
        assert!(started.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    server.begin_stop();
    idle.assert_closed().await;
    silent.assert_closed().await;
    half_head.assert_closed().await;
    let refused = server.client().get(b"k").await.unwrap_err();
    assert!(matches!(refused, Error::Connect { .. }) && refused.is_unanswered(), "{refused}");
    uploading.send(" done!").await;
    let answer = uploading.answer().await;
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "half done!", Some("close")));
    server.stopped().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let mut server = Running::with_limits(|limits| limits.shutdown_timeout = Duration::from_millis(200)).await;
    let mut uploading = server.raw().await;
    uploading.send(put_head(10) + "half").await;
    while server.client().stats().await.unwrap().server["server_requests_in_flight_count"] < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    let started = Instant::now();
    server.begin_stop();
    uploading.assert_closed().await;
    server.stopped().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_tells_unanswered_from_refused() {
    let server = Running::new().await;
    let client = server.client();
    client.put(b"k", b"v".to_vec()).await.unwrap();
    server.stopped().await;
    let gone = client.get(b"k").await.unwrap_err();
    assert!(gone.is_unanswered() && gone.kind().is_none(), "{gone}");
    assert!(gone.to_string().contains(client.address()), "{gone}");

    // A listener that takes the request and says nothing.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    let timeouts = cairn_client::Timeouts { answer: Duration::from_millis(100), ..Default::default() };
    let client = cairn_client::Client::with_timeouts(&url, None, timeouts).unwrap();
    let error = client.get(b"k").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.is_unanswered(), "{error}");
}
