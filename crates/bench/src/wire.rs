//! One connection of the load over HTTP: requests written and answers read by hand.
//!
//! Owns the bytes of a PUT and a GET there and back. Refuses everything that the client is for: reuse, retries,
//! typed errors, answers without a length. On a machine that load and server share, what the load costs is taken
//! from the server: this takes one write and one read an operation, and little else.
//! It sets no timers; who runs it bounds how long it may wait.

use cairn_client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Error, Result};

/// What an answer's head may have: more headers, or more bytes, than the server ever sends.
const HEADERS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The largest value; an error's text is shorter.
const ANSWER_BYTES_MAX: usize = cairn::VALUE_BYTES_MAX;

/// A connection that is kept open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: String,
    /// The headers of every request.
    headers: String,
    request: Vec<u8>,
    /// Its capacity is kept; its length is what has been read of the answer under way.
    answer: Vec<u8>,
}

/// An answer's status and body.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// The part of an answer's head that says where it ends.
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
}

impl Connection {
    /// Connects to the server of `client`.
    pub(crate) async fn open(client: &Client, token: Option<&str>) -> Result<Connection> {
        let address = client.address().to_owned();
        let broken = |e| Error::Connection(format!("cannot connect to {address}: {e}"));
        let stream = TcpStream::connect(&address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let mut headers = format!(" HTTP/1.1\r\nhost: {address}\r\n");
        if let Some(token) = token {
            headers.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        Ok(Connection { stream, address, headers, request: Vec::new(), answer: Vec::with_capacity(HEAD_BYTES_MAX) })
    }

    /// Asks for a key's value.
    pub(crate) async fn get(&mut self, key: &str) -> Result<Answer<'_>> {
        self.begin("GET ", key);
        self.request.extend_from_slice(b"\r\n");
        self.exchange().await
    }

    /// Sets a key's value.
    pub(crate) async fn put(&mut self, key: &str, value: &[u8]) -> Result<Answer<'_>> {
        self.begin("PUT ", key);
        self.request.extend_from_slice(format!("content-length: {}\r\n\r\n", value.len()).as_bytes());
        self.request.extend_from_slice(value);
        self.exchange().await
    }

    fn begin(&mut self, method: &str, key: &str) {
        self.request.clear();
        self.request.extend_from_slice(method.as_bytes());
        // The keys of the load are letters, digits and dashes: they stand in a target as they are.
        self.request.push(b'/');
        self.request.extend_from_slice(key.as_bytes());
        self.request.extend_from_slice(self.headers.as_bytes());
    }

    async fn exchange(&mut self) -> Result<Answer<'_>> {
        self.answer.clear();
        let broken = |e: std::io::Error| Error::Connection(format!("the connection to {} broke: {e}", self.address));
        let wrong = |what: &str| Error::WrongAnswer(format!("{} answered {what}", self.address));
        self.stream.write_all(&self.request).await.map_err(broken)?;
        let mut head = None;
        let head = loop {
            if let Some(Head { bytes, body_bytes, .. }) = &head {
                match self.answer.len().cmp(&(bytes + body_bytes)) {
                    std::cmp::Ordering::Less => self.answer.reserve(bytes + body_bytes - self.answer.len()),
                    std::cmp::Ordering::Equal => break head,
                    std::cmp::Ordering::Greater => return Err(wrong("more than it was asked for")),
                }
            }
            if self.stream.read_buf(&mut self.answer).await.map_err(broken)? == 0 {
                return Err(Error::Connection(format!("{} closed the connection", self.address)));
            }
            if head.is_none() {
                head = parse(&self.answer).map_err(|what| wrong(&what))?;
                if head.is_none() && self.answer.len() >= HEAD_BYTES_MAX {
                    return Err(wrong("with a head without end"));
                }
            }
        };
        let Head { status, bytes, .. } = head.ok_or_else(|| wrong("without a head"))?;
        Ok(Answer { status, body: self.answer.get(bytes..).unwrap_or_default() })
    }
}

/// The head at the beginning of `bytes`, if all of it is there.
fn parse(bytes: &[u8]) -> std::result::Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|e| format!("with a head that is none: {e}"))?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    match (response.code, length) {
        (Some(status), Some(body_bytes)) if body_bytes <= ANSWER_BYTES_MAX => {
            Ok(Some(Head { status, bytes: head_bytes, body_bytes }))
        }
        _ => Err("without a length, or with one beyond the largest value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<Option<(u16, usize, usize)>, String> {
        Ok(parse(text.as_bytes())?.map(|head| (head.status, head.bytes, head.body_bytes)))
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\ncairn-seq: 7\r\n\r\n";
        assert_eq!(parsed(head), Ok(Some((200, head.len(), 12))));
        assert_eq!(parsed(&format!("{head}body")), Ok(Some((200, head.len(), 12))));
        assert_eq!(parsed(head.trim_end()), Ok(None));
        assert_eq!(parsed("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), Ok(Some((404, 45, 0))));
    }

    #[test]
    fn an_answer_whose_end_is_not_clear_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 67108865\r\n\r\n",
            "+PONG\r\n\r\n",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
