//! A server of one's own, and a socket to say anything to it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test can do nothing better")]

use std::time::Duration;

use cairn::{Db, Options};
use cairn_client::Client;
use cairn_env::testing::TempDir;
use cairn_server::{Limits, Server, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here should take this long; a test that hangs says where.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running server on a free port, over a database of its own.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) db: Db,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<cairn_server::Result<()>>,
    _directory: Option<TempDir>,
}

impl Running {
    pub(crate) async fn new() -> Running {
        Running::with(Limits::default(), None).await
    }

    pub(crate) async fn with_limits(change: impl FnOnce(&mut Limits)) -> Running {
        let mut limits = Limits::default();
        change(&mut limits);
        Running::with(limits, None).await
    }

    pub(crate) async fn with(limits: Limits, token: Option<&str>) -> Running {
        let directory = TempDir::new();
        let db = Db::open(directory.path(), Options::default()).unwrap();
        Running { _directory: Some(directory), ..Running::over(db, limits, token).await }
    }

    /// A server over this database, wherever its files are.
    pub(crate) async fn over(db: Db, limits: Limits, token: Option<&str>) -> Running {
        let config = ServerConfig {
            http: "127.0.0.1:0".into(),
            token: token.map(str::to_owned),
            limits,
            ..ServerConfig::default()
        };
        let server = Server::bind(config, db.clone()).await.unwrap();
        let address = server.local_addr().to_string();
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Running { address, db, stop: Some(stop), done, _directory: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url(), None).unwrap()
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw { stream: TcpStream::connect(&self.address).await.unwrap(), received: Vec::new() }
    }

    /// One request on a connection of its own, as written.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut raw = self.raw().await;
        raw.send(request).await;
        raw.answer().await
    }

    /// `METHOD TARGET` without a body.
    pub(crate) async fn ask_line(&self, line: &str) -> Answer {
        self.ask(format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    /// Starts the shutdown, without waiting for its end.
    pub(crate) fn begin_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the end of a shutdown.
    pub(crate) async fn stopped(self) {
        drop(self.stop);
        timeout(PATIENCE, self.done).await.expect("the server stops").unwrap().unwrap();
    }
}

/// A socket.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// What a JSON error says.
    pub(crate) fn error(&self) -> serde_json::Value {
        let mut body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["error"]["kind"], self.kind(), "{}", self.text());
        body["error"].take()
    }

    /// The kind of a JSON error; its message must not be empty.
    pub(crate) fn kind(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let body: cairn_api::ErrorBody = serde_json::from_slice(&self.body).unwrap();
        assert!(!body.message().is_empty());
        let kind = body.kind().unwrap();
        assert_eq!(kind.status(), self.status);
        kind.name().to_owned()
    }
}

impl Raw {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the server reads").unwrap();
    }

    /// More bytes, or none at the end of the connection.
    async fn receive(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("the server writes").unwrap_or(0)
    }

    async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            assert!(self.receive().await > 0, "the connection ends inside an answer: {:?}", self.received);
        }
        self.received.drain(..count).collect()
    }

    async fn take_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                return self.received.drain(..at + end.len()).collect();
            }
            assert!(self.receive().await > 0, "the connection ends inside an answer: {:?}", self.received);
        }
    }

    /// The head of the next answer.
    pub(crate) async fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.take_through(b"\r\n\r\n").await).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    /// The next answer, of a request that was not HEAD.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.take(length).await;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = String::from_utf8(self.take_through(b"\r\n").await).unwrap();
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                let chunk = self.take(size + 2).await;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        }
        answer
    }

    /// The server ends the connection without another byte.
    pub(crate) async fn assert_closed(&mut self) {
        assert_eq!(self.receive().await, 0, "{:?}", String::from_utf8_lossy(&self.received));
    }
}
