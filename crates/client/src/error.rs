//! What a call can end in, sorted by what is known about the request.

use std::fmt;
use std::io;
use std::time::Duration;

use cairn_api::ErrorKind;

/// The result of a call to a server.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call gave no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server's URL or the token makes no sense; nothing was sent.
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The request cannot be written, such as a key too long for a target; nothing was sent.
    Request {
        /// Why, and what to do.
        message: String,
    },
    /// No connection; nothing was sent.
    Connect {
        /// `HOST:PORT`.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke before the answer was complete: a write may or may not have happened.
    Unanswered {
        /// `HOST:PORT`.
        address: String,
        /// How it broke.
        source: hyper::Error,
    },
    /// No answer in time: a write may or may not have happened.
    Timeout {
        /// `HOST:PORT`.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server answered with an error.
    Http {
        /// The status.
        status: u16,
        /// What can be done.
        kind: ErrorKind,
        /// The server's words.
        message: String,
        /// The key of a conflict.
        key: Option<Vec<u8>>,
        /// The one field of the request that is at fault, where the server knows it, as `tasks[3].name`.
        field: Option<String>,
        /// After how long the server would try again.
        retry_after: Option<Duration>,
    },
    /// The server answered with something this client cannot read.
    Answer {
        /// Which part, and why.
        message: String,
    },
}

impl Error {
    /// No complete answer came. A read, a put or a delete may be sent again as it is; a batch with
    /// conditions should first read what it would change.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Unanswered { .. } | Error::Timeout { .. } => true,
            Error::Url { .. } | Error::Request { .. } | Error::Http { .. } | Error::Answer { .. } => false,
        }
    }

    /// The kind of an answered error.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Error::Http { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    pub(crate) fn answer(part: &str, source: impl fmt::Display) -> Error {
        Error::Answer { message: format!("cannot read {part}: {source}") }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Url { url, message } => write!(f, "bad server URL {url}: {message}"),
            Error::Request { message } | Error::Answer { message } => f.write_str(message),
            Error::Connect { address, source } => {
                write!(f, "cannot connect to {address}: {source}; is the server running there?")
            }
            Error::Unanswered { address, source } => write!(f, "{address} gave no answer: {source}"),
            Error::Timeout { address, after } => write!(f, "{address} gave no answer within {after:?}"),
            Error::Http { status, kind, message, .. } => write!(f, "{message} ({status} {})", kind.name()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect { source, .. } => Some(source),
            Error::Unanswered { source, .. } => Some(source),
            _ => None,
        }
    }
}
