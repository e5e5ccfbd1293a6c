//! One connection to a server: requests written and answers read by hand, so that what is
//! sent and seen does not pass through the client that the project ships.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any answer takes on however slow a machine.
const ANSWERS: Duration = Duration::from_secs(60);

/// A connection that is kept open.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The `cairn-seq` of a read or write.
    pub(crate) seq: Option<u64>,
    pub(crate) body: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The connection ended: the server did, or is about to.
    Ended,
    /// The server is there and says nothing, or nonsense.
    Wrong(String),
}

impl From<std::io::Error> for NoAnswer {
    fn from(error: std::io::Error) -> NoAnswer {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        match error.kind() {
            TimedOut | WouldBlock => NoAnswer::Wrong(format!("no answer within {ANSWERS:?}")),
            _ => NoAnswer::Ended,
        }
    }
}

impl Connection {
    pub(crate) fn open(address: &str) -> Result<Connection, NoAnswer> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWERS))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    pub(crate) fn ask(&mut self, method: &str, target: &str, body: &str) -> Result<Answer, NoAnswer> {
        let head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        self.stream.get_mut().write_all((head + body).as_bytes())?;
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| NoAnswer::Wrong(format!("the answer begins with {line:?}")))?;
        let (mut seq, mut length) = (None, 0);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "cairn-seq" => seq = value.trim().parse().ok(),
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "transfer-encoding" => return Err(NoAnswer::Wrong(format!("{line:?} has no length"))),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, seq, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn line(&mut self) -> Result<String, NoAnswer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(NoAnswer::Ended);
        }
        Ok(line.trim_end().to_owned())
    }
}
