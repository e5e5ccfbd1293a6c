//! Bytes to a server's socket: heads, bodies, anything.
//!
//! The server is the product's, over a database in memory. Behind the input goes one more request
//! that asks for the connection's end, so that a run never waits for a timeout unless the input
//! promised a body that it does not have.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cairn::{Db, Durability, Env, Options};
use cairn_server::{Limits, Server, ServerConfig};
use tokio::runtime::Runtime;

const LAST: &[u8] = b"\r\n\r\nGET /v1/healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
/// A server is begun anew after so many runs, so that what was put does not add up.
const RUNS_OF_ONE: u32 = 20_000;
const HEALTH_EVERY: u32 = 256;
const ANSWER_BYTES_MAX: u64 = 1 << 20;

struct Running {
    address: SocketAddr,
    runs: u32,
    _runtime: Runtime,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn start() -> Running {
    let options = Options { memory_budget_bytes: 16 << 20, durability: Durability::Buffered, ..Options::default() };
    let db = Db::open_in(&Env::memory(), "/db", options).expect("memory");
    let timeout = Duration::from_millis(50);
    let limits = Limits {
        body_bytes_max: 1 << 16,
        bytes_in_flight_max: 1 << 20,
        head_timeout: timeout,
        body_timeout: timeout,
        idle_timeout: Duration::from_secs(5),
        ..Limits::default()
    };
    let config = ServerConfig {
        http: "127.0.0.1:0".to_owned(),
        durability: Durability::Buffered,
        limits,
        ..ServerConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let server = runtime.block_on(Server::bind(config, db)).expect("a free port");
    let address = server.local_addr();
    runtime.spawn(server.run(std::future::pending()));
    Running { address, runs: 0, _runtime: runtime }
}

/// One connection.
pub(crate) fn request(input: &[u8]) {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if running.as_ref().is_some_and(|running| running.runs >= RUNS_OF_ONE) {
        *running = None;
    }
    let running = running.get_or_insert_with(start);
    running.runs += 1;
    let answers = ask(running.address, input);
    if let Some(answer) = answers.first_chunk::<13>() {
        let status = std::str::from_utf8(answer).ok().and_then(|line| line.strip_prefix("HTTP/1."));
        let status = status.and_then(|line| line.get(2..5)).and_then(|status| status.parse::<u16>().ok());
        assert!(
            status.is_some_and(|status| (100..500).contains(&status) || status == 503),
            "{}",
            answer.escape_ascii()
        );
    }
    if running.runs.is_multiple_of(HEALTH_EVERY) {
        let answer = ask(running.address, b"");
        assert!(answer.starts_with(b"HTTP/1.1 400") || answer.starts_with(b"HTTP/1.1 200"), "the server is gone");
    }
}

/// What it answers until it closes the connection.
fn ask(address: SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    // It may have answered and closed before the end of the input.
    let _ = stream.write_all(&[input, LAST].concat());
    let mut answers = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answers) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "no answer and no end: {error}"),
        Ok(_) => assert!(!answers.is_empty(), "closed without a word"),
    }
    answers
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let requests = [
        "GET /key HTTP/1.1\r\nhost: x\r\n\r\n",
        "PUT /key HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nvalue",
        "PUT /key HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n",
        "DELETE /%00 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\n\r\n",
        "GET /scan?start=a&limit=3 HTTP/1.1\r\nhost: x\r\naccept: application/x-ndjson\r\n\r\n",
        "POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-length: 45\r\n\r\n{\"ops\":[{\"put\":{\"key\":\"a\",\"value\":\"1\"}}]}    ",
        "PUT /k HTTP/1.1\r\nhost: x\r\norigin: http://y\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n1",
        "HEAD /v1/metrics HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    ];
    requests.iter().map(|request| request.as_bytes().to_vec()).collect()
}
