//! One request of a script over HTTP, on a connection of its own.

use cairn_client::{Client, Error, ErrorKind, ScanQuery};

use crate::script::Request;
use crate::target::ServerAddress;

/// One connection, and so one request at a time.
pub(super) struct Lane {
    client: Client,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The value of a GET, the echo of a PUT.
    Value(Vec<u8>),
    /// A GET's key does not exist.
    NotFound,
    /// A DELETE succeeded.
    Done,
    /// The keys of a SCAN.
    Keys(Vec<Vec<u8>>),
    /// An error, or an answer that cannot be read.
    Refused {
        message: String,
        /// Asked again later, the answer may be another.
        for_now: bool,
    },
}

/// No answer.
pub(super) struct Lost {
    pub(super) message: String,
    /// There was not even a connection.
    pub(super) unreachable: bool,
}

impl Lane {
    pub(super) fn new(server: &ServerAddress) -> Result<Lane, Error> {
        // A client's connections are its own: one client, one connection.
        Ok(Lane { client: Client::new(&server.url, server.token.as_deref())? })
    }

    /// Makes sure that there is a connection for the next request.
    pub(super) async fn connect(&mut self) -> Result<(), Lost> {
        self.client.connect().await.map_err(Lost::from)
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn send(&mut self, request: &Request) -> Result<Reply, Lost> {
        let reply = match request {
            Request::Put { key, value } => {
                self.client.put(key, value.clone()).await.map(|written| Reply::Value(written.echo))
            }
            Request::Get { key, .. } => {
                self.client.get(key).await.map(|read| read.value.map_or(Reply::NotFound, Reply::Value))
            }
            Request::Delete { key } => self.client.delete(key).await.map(|_| Reply::Done),
            Request::Scan { start, end, .. } => {
                let query = ScanQuery { start: Some(start.clone()), end: Some(end.clone()), limit: None };
                self.client.keys(&query).await.map(Reply::Keys)
            }
        };
        match reply {
            Ok(reply) => Ok(reply),
            Err(error) if error.is_unanswered() => Err(Lost::from(error)),
            Err(error) => {
                let for_now = error.kind().is_some_and(is_for_now);
                Ok(Reply::Refused { message: error.to_string(), for_now })
            }
        }
    }
}

/// Whether a refusal ends by itself: the server is at a bound or on its way down, or cannot tell
/// whether the write exists until it is opened again.
fn is_for_now(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Busy | ErrorKind::Closed | ErrorKind::Unknown)
}

impl From<Error> for Lost {
    fn from(error: Error) -> Lost {
        Lost { message: error.to_string(), unreachable: matches!(error, Error::Connect { .. }) }
    }
}
